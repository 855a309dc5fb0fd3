/* A token file whose content is not what it should be, under a right digest; or one byte of it is
 * changed under a digest that is no longer right. The first byte chooses what is read. Whatever is read lies within what was announced. */
#include "io/tokens.h"
#include "io/tokens_internal.h"
#include "tests/fuzz/shape.h"

enum { TOKENS_BLOCK = 16, TOKENS_MOST = 4096 };

static const uint8_t tokens_numbers[9] = {0, 1, 2, 3, 2, 1, 0, 3, 1};
static const int64_t tokens_starts[3] = {0, 4, 9};
static const int32_t tokens_labels[2] = {7, 0};

static const shape_item tokens_items[] = {
    SHAPE_INT("format_version", 1),
    SHAPE_TEXT("/", "program", "1.0"),
    SHAPE_TEXT("/", "kind", "listops"),
    SHAPE_INT("vocab", 4),
    SHAPE_INT("count", 9),
    SHAPE_INT("examples", 2),
    SHAPE_INT("longest", 5),
    SHAPE_TEXT("/", "source", "a.tsv"),
    SHAPE_INT("source_bytes", 12),
    SHAPE_INT("vocabulary_digest", 99),
    {.what = SHAPE_DATA, .name = "vocabulary", .kind = LH_H5_TEXT, .value = "a\nb\nc\nd"},
    {.what = SHAPE_DATA,
     .name = "tokens",
     .kind = LH_H5_UINT8,
     .ndim = 1,
     .dim = {9},
     .value = tokens_numbers},
    {.what = SHAPE_DATA,
     .name = "starts",
     .kind = LH_H5_INT64,
     .ndim = 1,
     .dim = {3},
     .value = tokens_starts},
    {.what = SHAPE_DATA,
     .name = "labels",
     .kind = LH_H5_INT32,
     .ndim = 1,
     .dim = {2},
     .value = tokens_labels},
    SHAPE_INT("complete", 1)};
enum { TOKENS_ITEMS = sizeof tokens_items / sizeof tokens_items[0] };

static bool check_tokens(const lh_tokens *t)
{
    int32_t out[TOKENS_BLOCK];
    const lh_tokens_info *info = lh_tokens_about(t);
    bool good = true;
    for (int64_t i = 0; i < info->count && i < TOKENS_MOST; i += TOKENS_BLOCK) {
        int64_t n = info->count - i < TOKENS_BLOCK ? info->count - i : TOKENS_BLOCK;
        if (fuzz_status(lh_tokens_read(t, i, n, out)) != LH_OK) {
            good = false;
            continue;
        }
        for (int64_t k = 0; k < n; k++)
            fuzz_expect(out[k] >= 0 && out[k] < info->vocab, "tokens are of the vocabulary");
    }
    return good;
}

static bool check_examples(const lh_tokens *t)
{
    const lh_tokens_info *info = lh_tokens_about(t);
    bool good = true;
    for (int64_t i = 0; i < info->examples && i < TOKENS_MOST; i++) {
        int64_t span[2] = {0, 0};
        int32_t label = 0;
        if (fuzz_status(lh_tokens_example(t, i, span, &label)) == LH_OK)
            fuzz_expect(span[0] >= 0 && span[0] < span[1] && span[1] <= info->count,
                        "examples lie within the tokens");
        else
            good = false;
    }
    return good;
}

/* Open it, as any token file or as one of FASTA records, and read all of it. */
static bool check_file(const char *path, bool fasta)
{
    lh_tokens *t = NULL;
    lh_status st = fasta ? lh_tokens_open_fasta(NULL, path, &t) : lh_tokens_open(NULL, path, &t);
    bool good = fuzz_status(st) == LH_OK;
    fuzz_expect(good == (t != NULL), "a token file, or an error");
    if (good) good = check_tokens(t) && check_examples(t);
    lh_tokens_close(&t);
    return good;
}

static bool check_names(const char *path)
{
    lh_tokens_info info;
    char *names = NULL;
    bool good = fuzz_status(lh_tokens_names(path, &names, &info)) == LH_OK;
    if (good) (void)lh_tokens_digest(names); /* reads all of them */
    lh_free(&names);
    return good;
}

static bool check_by(uint8_t how, const char *path)
{
    if (how % 4 == 2) return check_names(path);
    return check_file(path, how % 4 == 3);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char path[] = "fuzz-tokens.h5";
    fuzz_bytes b = {data, size};
    uint8_t how = fuzz_byte(&b);
    bool changed = shape_write(&b, tokens_items, TOKENS_ITEMS, LHI_SEAL_BYTES, path);
    fuzz_expect(lhi_seal_close(NULL, path, &lhi_tokens_seal) == LH_OK, "the file can be sealed");
    bool spoiled = how >= SHAPE_SPOILED && shape_spoil(&b, path);
    bool good = check_by(how, path);
    /* 3: the sound file is not one of FASTA records */
    fuzz_expect(good || changed || spoiled || how % 4 == 3, "a sound file is read");
    fuzz_expect(!good || !spoiled, "a changed byte is found");
    fuzz_expect(shape_closed(), "no handle of HDF5 is left open");
    return 0;
}
