/* Token files and FASTA files: what is written is read, damage shows, residues are found by their
 * place, and what longhaul prepare makes of a text. One process, without MPI. */
#include "experiments/listops.h"
#include "experiments/prepare.h"
#include "io/fasta.h"
#include "io/files.h"
#include "io/h5.h"
#include "io/seal.h"
#include "io/tokens.h"
#include "tests/lh_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char file[] = "scratch_tokens.h5", text[] = "scratch_tokens.fa";

static void write_file(const char *path, const char *bytes, size_t count)
{
    lh_assert_ok(lh_write_small(NULL, path, bytes, count));
}

/* --- token files --- */

static int32_t token_of(int64_t i, int64_t vocab)
{
    return (int32_t)((i * 48271 + i / 7) % vocab);
}

static lh_status make(const char *path, int64_t vocab, int64_t count, int64_t announced,
                      const char *names)
{
    lh_status st = LH_OK;
    lh_tokens_writer *w = NULL;
    lh_tokens_info info = {.kind = names != NULL ? LH_TOKENS_WORDS : LH_TOKENS_BYTES,
                           .vocab = vocab,
                           .count = announced,
                           .source_bytes = 12,
                           .source = "a text",
                           .program = "1.2"};
    LH_TRY(lh_tokens_create(path, &info, names, &w));
    for (int64_t i = 0; i < count; i++) LH_TRY(lh_tokens_put(w, token_of(i, vocab)));
done:
    return lh_tokens_finish(&w, NULL, NULL, st);
}

static void check_range(const lh_tokens *t, int64_t vocab, int64_t first, int64_t count)
{
    int32_t *out = NULL;
    lh_assert_ok(lh_new((size_t)(count + 2) * sizeof *out, &out));
    out[0] = out[count + 1] = -7;
    lh_assert_ok(lh_tokens_read(t, first, count, out + 1));
    for (int64_t i = 0; i < count; i++) assert_int_equal(out[1 + i], token_of(first + i, vocab));
    assert_int_equal(out[0], -7);
    assert_int_equal(out[count + 1], -7);
    lh_free(&out);
}

static void test_round_trip(void **state)
{
    (void)state;
    const int64_t vocab[] = {3, 256, 257, 65536, 65537}, count = 140000;
    const int width[] = {1, 1, 2, 2, 4};
    for (int k = 0; k < 5; k++) {
        lh_tokens *t = NULL;
        int32_t none = 0;
        const char *names = k == 0 ? "a\nlonger\nw\xc3\xb6rd" : NULL;
        lh_assert_ok(make(file, vocab[k], count, count, names));
        assert_false(lh_file_exists(NULL, "scratch_tokens.h5.tmp"));
        lh_assert_ok(lh_tokens_open(NULL, file, &t));
        const lh_tokens_info *info = lh_tokens_about(t);
        assert_true(info->vocab == vocab[k] && info->count == count && info->width == width[k]);
        assert_true(info->source_bytes == 12 && info->examples == 0);
        assert_string_equal(info->source, "a text");
        assert_string_equal(info->program, "1.2");
        assert_true(info->vocabulary == (names != NULL ? lh_tokens_digest(names) : 0));
        check_range(t, vocab[k], 0, count);
        check_range(t, vocab[k], 65530, 20);
        check_range(t, vocab[k], count - 1, 1);
        check_range(t, vocab[k], count, 0);
        lh_assert_code(lh_tokens_read(t, count, 1, &none), LH_ERR_RANGE);
        lh_assert_code(lh_tokens_read(t, -1, 1, &none), LH_ERR_RANGE);
        lh_tokens_close(&t);
    }
}

static void test_names(void **state)
{
    (void)state;
    char *names = NULL;
    lh_tokens_info info;
    lh_assert_ok(make(file, 3, 9, 9, "x\ny\nz"));
    lh_assert_ok(lh_tokens_names(file, &names, &info));
    assert_string_equal(names, "x\ny\nz");
    assert_true(info.vocab == 3);
    lh_free(&names);
    lh_assert_ok(make(file, 256, 9, 9, NULL));
    lh_assert_error(lh_tokens_names(file, &names, &info), LH_ERR_FORMAT, "no vocabulary");
    assert_true(lh_tokens_digest("a\nb") != lh_tokens_digest("b\na"));
}

static void test_examples(void **state)
{
    (void)state;
    const int64_t starts[] = {0, 4, 5, 9};
    const int32_t labels[] = {7, 0, 9};
    lh_tokens_info info = {
        .kind = LH_TOKENS_LISTOPS, .vocab = 18, .count = 9, .examples = 3, .longest = 4};
    lh_tokens_writer *w = NULL;
    lh_tokens *t = NULL;
    int64_t span[2];
    int32_t label = 0;
    lh_assert_ok(lh_tokens_create(file, &info, "names", &w));
    for (int i = 0; i < 9; i++) lh_assert_ok(lh_tokens_put(w, i));
    lh_assert_ok(lh_tokens_finish(&w, starts, labels, LH_OK));
    lh_assert_ok(lh_tokens_open(NULL, file, &t));
    for (int i = 0; i < 3; i++) {
        lh_assert_ok(lh_tokens_example(t, i, span, &label));
        assert_true(span[0] == starts[i] && span[1] == starts[i + 1] && label == labels[i]);
    }
    lh_assert_code(lh_tokens_example(t, 3, span, &label), LH_ERR_RANGE);
    lh_tokens_close(&t);
}

/* A failure leaves the old file, and nothing beside it. */
static void test_writing_fails(void **state)
{
    (void)state;
    char *before = NULL, *after = NULL;
    size_t bytes = 0, again = 0;
    lh_assert_ok(make(file, 256, 50, 50, NULL));
    lh_assert_ok(lh_read_small(NULL, file, &before, &bytes));
    lh_assert_error(make(file, 256, 51, 50, NULL), LH_ERR_IO, "do not change it");
    lh_assert_error(make(file, 256, 49, 50, NULL), LH_ERR_IO, "do not change it");
    lh_assert_code(make("no-such-folder/a.h5", 256, 5, 5, NULL), LH_ERR_IO);
    for (int64_t n = 1; n < 4; n++) {
        lh_new_fail_at(n);
        lh_status st = make(file, 256, 50, 50, NULL);
        lh_new_fail_at(0);
        assert_true(st == LH_OK || st == LH_ERR_MEMORY);
    }
    assert_false(lh_file_exists(NULL, "scratch_tokens.h5.tmp"));
    lh_assert_ok(lh_read_small(NULL, file, &after, &again));
    assert_true(bytes == again && memcmp(before, after, bytes) == 0);
    lh_free(&before);
    lh_free(&after);
}

static void refused(const char *what)
{
    lh_tokens *t = NULL;
    lh_status st = lh_tokens_open(NULL, file, &t);
    if (st != LH_ERR_FORMAT) (void)fprintf(stderr, "%s: %s\n", what, lh_status_text(st));
    assert_int_equal(st, LH_ERR_FORMAT);
    assert_non_null(strstr(lh_error_text(), file));
    assert_null(t);
}

static void test_damaged(void **state)
{
    (void)state;
    char *bytes = NULL, what[80];
    size_t count = 0;
    lh_tokens *t = NULL;
    lh_assert_ok(make(file, 300, 4000, 4000, "many"));
    lh_assert_ok(lh_read_small(NULL, file, &bytes, &count));
    for (size_t i = 0; i < 60; i++) {
        size_t at = i < 20 ? i * 27 : count * i / 60;
        (void)snprintf(what, sizeof what, "byte %zu of %zu changed", at, count);
        bytes[at] = (char)(bytes[at] ^ (i % 2 == 0 ? 1 : 0x80));
        write_file(file, bytes, count);
        refused(what);
        bytes[at] = (char)(bytes[at] ^ (i % 2 == 0 ? 1 : 0x80));
        (void)snprintf(what, sizeof what, "cut after %zu of %zu", at, count);
        write_file(file, bytes, at);
        refused(what);
    }
    write_file(file, "a text, no token file\n", 22);
    refused("text");
    lh_assert_ok(lh_tokens_open_bytes(NULL, file, &t));
    assert_true(lh_tokens_about(t)->count == 22);
    lh_tokens_close(&t);
    write_file(file, bytes, count);
    lh_assert_error(lh_tokens_open_bytes(NULL, file, &t), LH_ERR_FORMAT, "data.task tokens");
    lh_assert_error(lh_tokens_open_fasta(NULL, file, &t), LH_ERR_FORMAT, "not FASTA records");
    lh_assert_code(lh_tokens_open(NULL, "scratch_none.h5", &t), LH_ERR_IO);
    lh_free(&bytes);
}

/* HDF5 files of others, and sealed ones that hold something else. */
static void test_foreign(void **state)
{
    (void)state;
    static const lhi_seal_kind other = {"longhaul checkpoint ", 1, "is another"},
                               newer = {"longhaul tokens ", 2, ""},
                               same = {"longhaul tokens ", 1, ""};
    lh_h5 *h = NULL;
    const lhi_seal_kind *kinds[] = {NULL, &other, &newer, &same};
    const char *says[] = {"is not a token file", "is not a token file", "format version 2",
                          "no attribute 'complete'"};
    for (int k = 0; k < 4; k++) {
        lh_tokens *t = NULL;
        lh_assert_ok(lh_h5_create(NULL, file, k == 0 ? 0 : 512, &h));
        lh_assert_ok(lh_h5_put_int(h, "/", "count", 3));
        lh_assert_ok(lh_h5_close(&h));
        if (k > 0) lh_assert_ok(lhi_seal_close(NULL, file, kinds[k]));
        lh_assert_error(lh_tokens_open(NULL, file, &t), LH_ERR_FORMAT, says[k]);
    }
}

/* --- FASTA --- */

enum { MOST = 4096 };

typedef struct walked {
    int32_t token[MOST];
    int64_t count;
} walked;

static lh_status collect(void *user, int32_t token, int64_t offset, int64_t line)
{
    walked *w = user;
    (void)offset, (void)line;
    if (w->count == MOST) return LH_RAISE(LH_ERR_BUG, "too many");
    w->token[w->count++] = token;
    return LH_OK;
}

/* The tokens of a text as letters, '|' for the end of a record. */
static const char *letters(const walked *w)
{
    static const char names[] = "|ABCDEFGHIJKLMNOPQRSTUVWXYZ*-";
    static char out[MOST + 1];
    for (int64_t i = 0; i < w->count; i++) out[i] = names[w->token[i]];
    out[w->count] = '\0';
    return out;
}

static void walk(const char *content, const char *expected)
{
    walked w = {.count = 0};
    write_file(text, content, strlen(content));
    lh_assert_ok(lhi_fasta_walk(text, collect, &w));
    assert_string_equal(letters(&w), expected);
}

/* Every range of the file, read by its place, is what the walk met. */
static void check_index(const char *content)
{
    walked w = {.count = 0};
    lh_tokens *t = NULL;
    write_file(text, content, strlen(content));
    lh_assert_ok(lhi_fasta_walk(text, collect, &w));
    lh_assert_ok(lh_tokens_open_fasta(NULL, text, &t));
    assert_true(lh_tokens_about(t)->count == w.count);
    for (int64_t first = 0; first < w.count; first++)
        for (int64_t n = 0; n <= w.count - first; n += n < 9 ? 1 : 13) {
            int32_t out[MOST];
            lh_assert_ok(lh_tokens_read(t, first, n, out));
            assert_memory_equal(out, w.token + first, (size_t)n * sizeof(int32_t));
        }
    lh_tokens_close(&t);
}

static void test_fasta(void **state)
{
    (void)state;
    walk(">a b\nMK-\nL*\n", "MK-L*|");
    walk(">a\nmkl", "MKL|");
    walk("; a comment\r\n\r\n>a\r\nMK\r\nL\r\n\r\n>b\r\n;c\r\nX\r\n", "MKL|X|");
    walk(">a\n>b\nA\n>c", "|A||");
    check_index(">a\nMKLAAVLTRE\n>b\nMK\n");
    check_index(">a\nMKLA\nAVLT\nRE\n>b\r\nM\r\nK\r\nL\r\n\r\n>none\n>c\n\n;c\nABCDEF\n>"
                "d\nA\nB\nC\nD\nE\n>e\n");
    /* generated, lines of each length */
    char many[MOST] = "";
    size_t used = 0;
    for (int r = 0; r < 24; r++) {
        used += (size_t)snprintf(many + used, sizeof many - used, ">%d%s\n", r, r % 3 ? "" : "\r");
        for (int i = 1; i <= r * 5 % 37; i++) {
            many[used++] = (char)('a' + (r + 3 * i) % 26);
            if (i % (r / 2 + 1) == 0 && r % 3 == 0) many[used++] = '\r';
            if (i % (r / 2 + 1) == 0) many[used++] = '\n';
        }
        if (many[used - 1] != '\n') many[used++] = '\n';
    }
    many[used] = '\0';
    check_index(many);
}

static void test_fasta_refuses(void **state)
{
    (void)state;
    static const struct {
        const char *content, *says;
        bool walks; /* prepare takes it, only the index does not */
    } bad[] = {
        {"MKL\n", ":1: expected a header line", false},
        {"\n\nMKL\n", ":3: expected a header line", false},
        {">a\nMK1L\n", ":2: '1' is no residue", false},
        {">a\nMK\n>b\nM K\n", ":4: ' ' is no residue", false},
        {">a\nMK>L\n", ":2: '>' is no residue", false},
        {">a\nM\xc3\xa4\n", ":2: byte 0xc3 is no residue", false},
        {"", "is empty", false},
        {";only\n", "is empty", false},
        {">a\nMKL\nMK\nMKL\n", ":4: the lines of this record differ", true},
        {">a\nMK\nMKL\n", ":3: the lines of this record differ", true},
        {">a\nMKL\n\nMKL\nMKL\n", ":5: the lines of this record differ", true},
        {">a\nMKL\n;x\nMKL\n", ":4: the lines of this record differ", true},
        {">a\nMKL\nMKL\r\nMKL\n", ":4: the lines of this record differ", true},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        walked w = {.count = 0};
        lh_tokens *t = NULL;
        write_file(text, bad[i].content, strlen(bad[i].content));
        lh_assert_error(lh_tokens_open_fasta(NULL, text, &t), LH_ERR_FORMAT, bad[i].says);
        assert_null(t);
        lh_assert_code(lhi_fasta_walk(text, collect, &w), bad[i].walks ? LH_OK : LH_ERR_FORMAT);
    }
}

/* A file that changes under an open index is noticed, and nothing beyond the memory is touched. */
static void test_fasta_changed(void **state)
{
    (void)state;
    static const char was[] = ">a\nMKLA\nAVLT\n";
    int32_t out[9];
    lh_tokens *t = NULL;
    write_file(text, was, strlen(was));
    lh_assert_ok(lh_tokens_open_fasta(NULL, text, &t));
    FILE *f = fopen(text, "r+");
    assert_non_null(f);
    assert_true(fseek(f, 3, SEEK_SET) == 0 && fwrite("\n\n\n\n\n\n\n\n\n\n", 1, 10, f) == 10);
    assert_int_equal(fclose(f), 0);
    lh_assert_error(lh_tokens_read(t, 0, 9, out), LH_ERR_FORMAT, "was changed");
    lh_tokens_close(&t);
}

/* --- what longhaul prepare makes --- */

/* prepare scratch_tokens.fa with these options; the file holds these numbers. */
static void prepare(const char *content, char *option, char *value, const int32_t *expected,
                    int64_t count)
{
    char *argv[] = {(char *)text, "--out", (char *)file, "--force", option, value};
    lh_tokens *t = NULL;
    int32_t out[MOST];
    write_file(text, content, strlen(content));
    lh_assert_ok(lh_prepare_main(NULL, value != NULL ? 6 : 5, argv));
    lh_assert_ok(lh_tokens_open(NULL, file, &t));
    assert_int_equal(lh_tokens_about(t)->count, count);
    lh_assert_ok(lh_tokens_read(t, 0, count, out));
    assert_memory_equal(out, expected, (size_t)count * sizeof *out);
    lh_tokens_close(&t);
}

static void test_prepare_words(void **state)
{
    (void)state;
    static const int32_t few[] = {1, 2, 3, 0, 0, 3, 1, 0};
    prepare("the cat saw\n\n saw\tthe", "--words", NULL, few, 8);
    static const int32_t literal[] = {1, 0, 0, 1, 0};
    prepare("a <eos>\n a\n", "--words", NULL, literal, 5);
    /* many words: the table grows, and the block of the reader ends inside a word */
    enum { WORDS = 60000 };
    char *many = NULL;
    size_t used = 0;
    lh_tokens *t = NULL;
    char *argv[] = {(char *)text, "--words", "--force", "--out", (char *)file};
    lh_assert_ok(lh_new((size_t)2 * WORDS * 16, &many));
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < WORDS; i++)
            used += (size_t)snprintf(many + used, 16, "word-%d%c", i * 7919 % WORDS,
                                     i == WORDS - 1 ? '\n' : ' ');
    write_file(text, many, used);
    lh_free(&many);
    lh_assert_ok(lh_prepare_main(NULL, 5, argv));
    lh_assert_ok(lh_tokens_open(NULL, file, &t));
    assert_true(lh_tokens_about(t)->vocab == WORDS + 1 &&
                lh_tokens_about(t)->count == 2 * (WORDS + 1));
    for (int64_t i = 0; i < 2 * (WORDS + 1); i++) {
        int32_t token = 0;
        lh_assert_ok(lh_tokens_read(t, i, 1, &token));
        assert_int_equal(token, (i + 1) % (WORDS + 1));
    }
    lh_tokens_close(&t);
}

static void test_prepare_others(void **state)
{
    (void)state;
    static const int32_t bytes[] = {'a', 0xff, '\n'};
    prepare("a\xff\n", "--task", "text", bytes, 3);
    static const int32_t residues[] = {13, 11, 0, 1, 27, 0};
    prepare(">a\nM\nk\n>b\nA*", "--task", "fasta", residues, 6);
    static const int32_t lists[] = {
        LH_LISTOPS_CLS,       LH_LISTOPS_MAX,       LH_LISTOPS_DIGIT + 2, LH_LISTOPS_MIN,
        LH_LISTOPS_DIGIT + 8, LH_LISTOPS_CLOSE,     LH_LISTOPS_CLOSE,     LH_LISTOPS_CLS,
        LH_LISTOPS_SM,        LH_LISTOPS_DIGIT + 9, LH_LISTOPS_CLOSE};
    static const char *const written[] = {
        "8\t[MAX 2 [MIN 8 ] ]\n3\t[SM 9 ]\n",
        "8\t( ( ( [MAX 2 ) ( ( [MIN 8 ) ] ) ) ] )\r\n\n3\t( ( [SM 9 ) ] )",
        "[MAX 2 [MIN 8 X X\t8\n[SM 9 ]\t3\n",
        "Source\tTarget\n(([MAX 2)([MIN 8) ]) ] \t8\n[SM 9 ]\t 3\n",
        "Label\tExpression\n8\t[MAX 2 [MIN 8 ] ]\n3\t[SM 9 ]\n"};
    for (size_t i = 0; i < sizeof written / sizeof written[0]; i++) {
        lh_tokens *t = NULL;
        int64_t span[2];
        int32_t label[2] = {0, 0};
        prepare(written[i], "--task", "listops", lists, 11);
        lh_assert_ok(lh_tokens_open(NULL, file, &t));
        assert_true(lh_tokens_about(t)->examples == 2 && lh_tokens_about(t)->longest == 7);
        for (int k = 0; k < 2; k++) lh_assert_ok(lh_tokens_example(t, k, span, &label[k]));
        assert_true(label[0] == 8 && label[1] == 3 && span[0] == 7 && span[1] == 11);
        lh_tokens_close(&t);
    }
}

/* No file: all of a vocabulary, in any pieces the same, another seed another sequence. */
static void test_random(void **state)
{
    (void)state;
    enum { VOCAB = 37, COUNT = 3700 };
    int32_t all[COUNT], piece[COUNT], seen[VOCAB] = {0};
    int64_t same = 0;
    for (uint64_t seed = 1; seed <= 2; seed++) {
        lh_tokens *t = NULL;
        lh_assert_ok(lh_tokens_open_random(LH_TOKENS_WORDS, VOCAB, COUNT, seed, &t));
        lh_assert_ok(lh_tokens_read(t, 0, COUNT, piece));
        for (int64_t i = 0; i < COUNT; i++) same += seed == 2 && piece[i] == all[i];
        memcpy(all, piece, sizeof all);
        lh_assert_ok(lh_tokens_read(t, 1001, COUNT - 1001, piece));
        assert_memory_equal(piece, all + 1001, (COUNT - 1001) * sizeof *all);
        assert_int_equal(lh_tokens_read(t, COUNT - 1, 2, piece), LH_ERR_RANGE);
        assert_string_equal(lh_tokens_path(t), "random tokens");
        lh_tokens_close(&t);
    }
    for (int64_t i = 0; i < COUNT; i++) {
        assert_in_range(all[i], 0, VOCAB - 1);
        seen[all[i]]++;
    }
    for (int i = 0; i < VOCAB; i++) assert_in_range(seen[i], 50, 150); /* 100 +- 5 deviations */
    assert_in_range(same, 50, 150);
    lh_error_clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_names),
        cmocka_unit_test(test_examples),       cmocka_unit_test(test_writing_fails),
        cmocka_unit_test(test_damaged),        cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_fasta),          cmocka_unit_test(test_fasta_refuses),
        cmocka_unit_test(test_fasta_changed),  cmocka_unit_test(test_prepare_words),
        cmocka_unit_test(test_prepare_others), cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests_name("tokens", tests, NULL, NULL);
}
