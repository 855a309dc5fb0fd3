/* Any bytes as a FASTA file, as its index and its readings, and as a text of words or ListOps
 * examples that `longhaul prepare` makes a token file of. The first byte chooses. */
#include "experiments/prepare_internal.h"
#include "io/fasta.h"
#include "io/tokens.h"
#include "tests/fuzz/fuzz.h"

#include <unistd.h>

enum { TEXT_BLOCK = 7 };

/* What the walk sees one by one must be what the index finds by place. */
typedef struct text_walk {
    const lh_tokens *tokens;
    int64_t count;
} text_walk;

static lh_status text_visit(void *user, int32_t token, int64_t offset, int64_t line)
{
    text_walk *w = user;
    int32_t found = -1;
    (void)offset, (void)line;
    fuzz_expect(lh_tokens_read(w->tokens, w->count, 1, &found) == LH_OK && found == token,
                "the index finds what the walk sees");
    w->count++;
    return LH_OK;
}

static void check_fasta(const char *path)
{
    text_walk walk = {.count = 0};
    lh_tokens *t = NULL;
    int32_t out[TEXT_BLOCK];
    if (fuzz_status(lh_tokens_open_fasta(NULL, path, &t)) != LH_OK) return;
    const lh_tokens_info *info = lh_tokens_about(t);
    walk.tokens = t;
    fuzz_expect(lhi_fasta_walk(path, text_visit, &walk) == LH_OK && walk.count == info->count,
                "as many tokens as were announced");
    for (int64_t i = 0; i < info->count; i++) {
        int64_t n = info->count - i < TEXT_BLOCK ? info->count - i : TEXT_BLOCK;
        fuzz_expect(lh_tokens_read(t, i, n, out) == LH_OK, "every stretch can be read");
        for (int64_t k = 0; k < n; k++)
            fuzz_expect(out[k] >= 0 && out[k] < info->vocab, "residues are of the vocabulary");
    }
    lh_tokens_close(&t);
}

/* The token file that is made must be whole. */
static void check_prepared(const char *path)
{
    lh_tokens *t = NULL;
    int32_t block[TEXT_BLOCK];
    fuzz_expect(lh_tokens_open(NULL, path, &t) == LH_OK, "a prepared file can be opened");
    const lh_tokens_info *info = lh_tokens_about(t);
    for (int64_t i = 0; i < info->count; i += TEXT_BLOCK) {
        int64_t n = info->count - i < TEXT_BLOCK ? info->count - i : TEXT_BLOCK;
        fuzz_expect(lh_tokens_read(t, i, n, block) == LH_OK, "and all of it read");
    }
    for (int64_t i = 0; i < info->examples; i++) {
        int64_t span[2];
        int32_t label = 0;
        fuzz_expect(lh_tokens_example(t, i, span, &label) == LH_OK, "every example too");
    }
    lh_tokens_close(&t);
}

static void check_prepare(const char *path, bool words, int64_t min_count)
{
    static const char out[] = "fuzz-prepared.h5";
    lhi_prepare p = {.source = path, .out = out, .min_count = min_count, .words = words};
    lh_status st = fuzz_status(words ? lhi_prepare_words(&p) : lhi_prepare_listops(&p));
    fuzz_expect(access(out, F_OK) == (st == LH_OK ? 0 : -1), "a file after success alone");
    if (st == LH_OK) check_prepared(out);
    (void)unlink(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_bytes b = {data, size};
    uint8_t how = fuzz_byte(&b);
    const char *path = fuzz_file_put(b.at, b.left);
    if (how % 4 == 0)
        check_fasta(path);
    else
        check_prepare(path, how % 4 < 3, how % 4);
    return 0;
}
