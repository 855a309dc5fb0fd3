/* Tasks against brute force: where documents begin and end in any layout, and what the tasks that
 * the program makes are defined to be. Each rank reads its own rows; positions are compared, so
 * ranks need no messages. */
#include "experiments/task.h"
#include "io/fasta.h"
#include "io/tokens.h"
#include "tests/lh_test_mpi.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { TEXT = 150000, NL = 10 };

static uint8_t text[TEXT];               /* bytes, or tokens of a token file */
static uint8_t border = NL;              /* that ends a document */
static int64_t begins[TEXT], ends[TEXT]; /* of each byte's document in the whole text */

static void find_documents(void)
{
    for (int64_t i = 0; i < TEXT; i++)
        begins[i] = i == 0 ? 0 : text[i - 1] == border ? i : begins[i - 1];
    for (int64_t i = TEXT - 1; i >= 0; i--)
        ends[i] = text[i] == border || i == TEXT - 1 ? i + 1 : ends[i + 1];
}

/* Documents of very different lengths: empty ones, one longer than what is read at a time. */
static void write_text_file(lh_comm *c, char *path, size_t bytes)
{
    uint32_t r = 7;
    int64_t left = 100000;
    for (int i = 0; i < TEXT; i++) {
        r = r * 1664525u + 1013904223u;
        text[i] = (uint8_t)('a' + (r >> 27));
        if (left-- > 0) continue;
        text[i] = NL;
        left = (r >> 16) % 5 == 0 ? 0 : (int64_t)((r >> 16) % 40);
    }
    find_documents();
    (void)snprintf(path, bytes, "scratch_task.np%d", lh_comm_size(c));
    if (lh_comm_rank(c) == 0) {
        FILE *f = fopen(path, "wb");
        bool good = f != NULL && fwrite(text, 1, TEXT, f) == TEXT;
        if (f == NULL || fclose(f) != 0 || !good) lh_fatal(c, "%s cannot be written", path);
    }
    lh_barrier(c);
}

static lh_config *config_of(lh_comm *c, const char *data, const char *kind)
{
    char yaml[600];
    lh_config *config = NULL;
    (void)snprintf(yaml, sizeof yaml,
                   "data: {%s}\nmodel: {kind: %s, layers: 1, width: 8, heads: 1, attention: "
                   "{mechanism: full}}\n",
                   data, kind);
    lh_assert_all_ok(c, lh_config_parse(yaml, strlen(yaml), "test", 0, &config));
    return config;
}

/* One rank's rows of a window. */
typedef struct window {
    lh_layout *layout;
    int rank;
    lh_rows rows;
} window;

enum { LAYOUTS = 4 };

static window open_window(lh_comm *c, int64_t n, int kind)
{
    window w = {.rank = lh_comm_rank(c)};
    int ranks = lh_comm_size(c);
    if (kind < 2)
        lh_assert_all_ok(c, lh_layout_contiguous(n, ranks, 7, kind == 0, &w.layout));
    else
        lh_assert_all_ok(c, lh_layout_zigzag(n, ranks, 7, kind == 2, &w.layout));
    size_t rows = (size_t)w.layout->rows[w.rank];
    lh_assert_all_ok(c, lh_new((rows + 1) * sizeof(int32_t), &w.rows.tokens));
    lh_assert_all_ok(c, lh_new((rows + 1) * sizeof(int32_t), &w.rows.labels));
    lh_assert_all_ok(c, lh_new((rows + 1) * 2 * sizeof(int32_t), &w.rows.documents));
    lh_assert_all_ok(c, lh_new(4 * sizeof(int64_t), &w.rows.global));
    return w;
}

static void close_window(window *w)
{
    lh_free(&w->rows.tokens);
    lh_free(&w->rows.labels);
    lh_free(&w->rows.documents);
    lh_free(&w->rows.global);
    lh_layout_destroy(&w->layout);
}

/* Of position p in a window that starts at byte `first` and has `valid` inputs. */
static bool document_is(const int32_t *have, int64_t first, int64_t valid, int64_t n, int64_t p)
{
    if (p >= valid) return have[0] == valid && have[1] == n;
    int64_t begin = begins[first + p] - first, end = ends[first + p] - first;
    return have[0] == (begin > 0 ? begin : 0) && have[1] == (end < valid ? end : valid);
}

/* Tokens, labels and documents of every row of a text window. */
static bool text_is(const window *w, int64_t first, int64_t valid)
{
    int64_t counted = 0;
    for (int64_t i = 0; i < w->layout->rows[w->rank]; i++) {
        int64_t p = lh_layout_position(w->layout, w->rank, i);
        bool in = p < valid, last = in && text[first + p] == border;
        int32_t token = in ? text[first + p] : 0, label = in && !last ? text[first + p + 1] : -1;
        if (w->rows.tokens[i] != token || w->rows.labels[i] != label) return false;
        if (!document_is(w->rows.documents + 2 * i, first, valid, w->layout->n, p)) return false;
        counted += label >= 0;
    }
    return w->rows.counted == counted && w->rows.valid == valid;
}

/* Windows of a length, in every layout; every step-th window. */
static void check_windows(lh_comm *c, const char *data, int64_t length, int64_t step)
{
    lh_task *t = NULL;
    lh_config *config = config_of(c, data, "decoder");
    lh_assert_all_ok(c, lh_task_open(c, config, &t));
    int64_t windows = lh_task_windows(t, LH_SPLIT_TRAIN);
    for (int kind = 0; kind < LAYOUTS; kind++) {
        window w = open_window(c, length, kind);
        bool good = true;
        for (int64_t i = 0; i < windows; i += step) {
            int64_t first = i * length, valid = TEXT - 1 - first;
            if (valid > length) valid = length;
            lh_status st = lh_task_read(t, LH_SPLIT_TRAIN, i, i, w.layout, w.rank, &w.rows);
            good = good && st == LH_OK && text_is(&w, first, valid);
        }
        lh_assert_all(c, good);
        lh_assert_all_ok(c, lh_task_read(t, LH_SPLIT_TRAIN, -1, 0, w.layout, w.rank, &w.rows));
        lh_assert_all(c, text_is(&w, 0, 0));
        close_window(&w);
    }
    lh_task_close(&t);
    lh_config_destroy(&config);
}

static void test_documents(void **state)
{
    lh_comm *c = *state;
    char path[64], data[200];
    write_text_file(c, path, sizeof path);
    const int64_t length[] = {140000, 997, 3};
    for (int k = 0; k < 3; k++) {
        (void)snprintf(data, sizeof data, "path: %s, length: %lld, documents: 10, valid_path: %s",
                       path, (long long)length[k], path);
        /* every window of the long ones, among them the shorter last one */
        check_windows(c, data, length[k], k == 2 ? 999 : 1);
    }
}

/* A whole window of a made task, as one rank makes it. */
static void whole_window(lh_comm *c, const lh_task *t, int64_t n, int64_t number, lh_split split,
                         lh_rows *out)
{
    lh_layout *all = NULL;
    lh_assert_all_ok(c, lh_layout_contiguous(n, 1, 512, true, &all));
    lh_assert_all_ok(c, lh_new((size_t)n * sizeof(int32_t), &out->tokens));
    lh_assert_all_ok(c, lh_new((size_t)n * sizeof(int32_t), &out->labels));
    lh_assert_all_ok(c, lh_task_read(t, split, number, number, all, 0, out));
    lh_layout_destroy(&all);
}

static bool lag_is(const lh_rows *r, int64_t n, int64_t lag)
{
    for (int64_t i = 0; i < n; i++)
        if (r->tokens[i] < 0 || r->tokens[i] >= 16 ||
            r->labels[i] != (i < lag ? -1 : r->tokens[i - lag]))
            return false;
    return r->counted == n - lag;
}

static bool markers_is(const lh_rows *r, int64_t n, int64_t gap)
{
    int64_t place[2] = {0}, found = 0;
    for (int64_t i = 1; i < n; i++) {
        if (r->labels[i] != -1 || r->tokens[i] < 0 || r->tokens[i] > 2) return false;
        if (r->tokens[i] > 0 && found++ < 2) place[found - 1] = i;
    }
    bool same = r->tokens[place[0]] == r->tokens[place[1]];
    return found == 2 && place[1] - place[0] >= gap && r->tokens[0] == 3 &&
           r->labels[0] == (same ? 5 : 4) && r->counted == 1;
}

static bool recall_is(const lh_rows *r, int64_t n, int64_t offsets)
{
    int64_t half = (n - 1) / 2, offset = r->tokens[0] - 16;
    int64_t distance = (offset + 1) * (half / offsets);
    if (offset < 0 || offset >= offsets) return false;
    for (int64_t i = 1; i < n; i++)
        if (r->tokens[i] < 0 || r->tokens[i] >= 16 ||
            r->labels[i] != (i < n - half ? -1 : r->tokens[i - distance]))
            return false;
    return r->labels[0] == -1 && r->counted == half;
}

/* MQAR by a dictionary of the pairs: every key is asked for once, at an even distance behind them. */
static bool mqar_is(const lh_rows *r, int64_t n, int64_t pairs, bool zero)
{
    int32_t answer[64] = {0};
    int64_t asked = 0;
    bool used[64] = {false};
    for (int64_t i = 0; i < 2 * pairs; i += 2) {
        int32_t key = r->tokens[i], value = r->tokens[i + 1];
        if (key < 1 || key > 31 || value < 32 || value > 63 || answer[key] != 0 || used[value])
            return false;
        if (r->labels[i] != -1 || r->labels[i + 1] != -1) return false;
        answer[key] = value;
        used[value] = true;
    }
    for (int64_t i = 2 * pairs; i < n; i++) {
        int32_t token = r->tokens[i];
        if (token < 0 || token > 63 || (zero && r->labels[i] == -1 && token != 0)) return false;
        if (r->labels[i] == -1) continue;
        if (i % 2 == 1 || answer[token] == 0 || r->labels[i] != answer[token]) return false;
        answer[token] = 0; /* not twice */
        asked++;
    }
    return asked == pairs && r->counted == pairs;
}

/* Selective copy: what is no blank and no question, in order. */
static bool copy_is(const lh_rows *r, int64_t n, int64_t items)
{
    int64_t found = 0;
    for (int64_t i = 0; i < n; i++) {
        bool asks = i >= n - items;
        if (asks ? r->tokens[i] != 17 || r->labels[i] < 0 : r->labels[i] != -1) return false;
        if (asks || r->tokens[i] == 16) continue;
        if (r->tokens[i] < 0 || r->tokens[i] > 15 || found == items) return false;
        if (r->labels[n - items + found++] != r->tokens[i]) return false;
    }
    return found == items && r->counted == items;
}

/* Induction heads and needle: look for the marker. */
static bool marked_is(const lh_rows *r, int64_t n, bool needle)
{
    int32_t marker = needle ? 32 : 16;
    int64_t place = 0;
    while (r->tokens[place] != marker) place++;
    if (place > n - 3 || r->tokens[n - 1] != marker) return false;
    for (int64_t i = 0; i < n - 1; i++) {
        bool value = i == place + 1;
        if (r->labels[i] != -1) return false;
        if (i != place && (r->tokens[i] < (needle && value ? 16 : 0) ||
                           r->tokens[i] >= (needle && value ? 32 : 16)))
            return false;
    }
    return r->labels[n - 1] == r->tokens[place + 1] && r->counted == 1;
}

static bool made_is(const lh_config_data *d, const lh_rows *r)
{
    switch (d->task) {
    case LH_TASK_LAG:
        return lag_is(r, d->length, 5);
    case LH_TASK_MARKERS:
        return markers_is(r, d->length, 9);
    case LH_TASK_RECALL:
        return recall_is(r, d->length, 3);
    case LH_TASK_MQAR:
        return mqar_is(r, d->length, d->pairs, d->filler == LH_FILLER_ZERO);
    case LH_TASK_SELECTIVE_COPY:
        return copy_is(r, d->length, d->items);
    default:
        return marked_is(r, d->length, d->task == LH_TASK_NEEDLE);
    }
}

/* This rank's rows are those of the whole window. */
static bool part_is(const window *w, const lh_rows *whole)
{
    int64_t counted = 0;
    for (int64_t i = 0; i < w->layout->rows[w->rank]; i++) {
        int64_t p = lh_layout_position(w->layout, w->rank, i);
        if (w->rows.tokens[i] != whole->tokens[p] || w->rows.labels[i] != whole->labels[p])
            return false;
        counted += whole->labels[p] >= 0;
    }
    return w->rows.counted == counted && w->rows.valid == w->layout->n;
}

static void check_made(lh_comm *c, const char *data, const char *kind, int64_t n)
{
    lh_config *config = config_of(c, data, kind);
    lh_task *t = NULL;
    lh_assert_all_ok(c, lh_task_open(c, config, &t));
    int64_t answers[6] = {0}, differ = 0;
    for (int64_t k = 0; k < 200; k++) {
        lh_rows whole = {0}, valid = {0};
        whole_window(c, t, n, k, LH_SPLIT_TRAIN, &whole);
        whole_window(c, t, n, k, LH_SPLIT_VALID, &valid);
        lh_assert_all(c, made_is(&config->data, &whole) && made_is(&config->data, &valid));
        differ += memcmp(whole.tokens, valid.tokens, (size_t)n * sizeof(int32_t)) != 0;
        if (config->data.task == LH_TASK_MARKERS) answers[whole.labels[0]]++;
        for (int layout = 0; layout < LAYOUTS && k < 3; layout++) {
            window w = open_window(c, n, layout);
            lh_assert_all_ok(c, lh_task_read(t, LH_SPLIT_TRAIN, k, k, w.layout, w.rank, &w.rows));
            lh_assert_all(c, part_is(&w, &whole));
            lh_assert_all(c, w.rows.n_global == lh_task_globals(config) &&
                                 (w.rows.n_global == 0 || w.rows.global[0] == 0));
            close_window(&w);
        }
        lh_free(&whole.tokens);
        lh_free(&whole.labels);
        lh_free(&valid.tokens);
        lh_free(&valid.labels);
    }
    lh_assert_all(c, differ > 100); /* validation has its own samples */
    lh_assert_all(c, config->data.task != LH_TASK_MARKERS || (answers[4] > 70 && answers[5] > 70));
    lh_assert_all(c, lh_task_order(t, 1 << 30) == 1 << 30);
    lh_assert_all(c, lh_task_windows(t, LH_SPLIT_VALID) == 64 &&
                         lh_task_windows(t, LH_SPLIT_TEST) == 0 && lh_task_bytes(t) == 0);
    lh_task_close(&t);
    lh_config_destroy(&config);
}

static void test_made(void **state)
{
    lh_comm *c = *state;
    check_made(c, "task: lag, lag: 5, length: 33", "decoder", 33);
    check_made(c, "task: markers, gap: 9, length: 11", "encoder", 11);
    check_made(c, "task: markers, gap: 9, length: 40", "encoder", 40);
    check_made(c, "task: recall, offsets: 3, length: 32", "encoder", 32);
    check_made(c, "task: recall, offsets: 3, length: 7", "encoder", 7);
    check_made(c, "task: mqar, vocab: 64, length: 64", "decoder", 64);
    check_made(c, "task: mqar, vocab: 64, length: 33, pairs: 8, filler: zero", "encoder", 33);
    check_made(c, "task: selective_copy, length: 40", "encoder", 40);
    check_made(c, "task: selective_copy, length: 10, items: 5", "decoder", 10);
    check_made(c, "task: induction, length: 20", "decoder", 20);
    check_made(c, "task: needle, length: 30", "encoder", 30);
    check_made(c, "task: needle, length: 3", "decoder", 3);
}

/* Over 4,000 samples: how often each position but the last holds the marker, or has a label. */
static void count_places(lh_comm *c, const char *data, int64_t n, int32_t marker, bool labels,
                         int64_t *count)
{
    lh_config *config = config_of(c, data, "decoder");
    lh_task *t = NULL;
    lh_assert_all_ok(c, lh_task_open(c, config, &t));
    memset(count, 0, (size_t)n * sizeof *count);
    for (int64_t k = 0; k < 4000; k++) {
        lh_rows r = {0};
        whole_window(c, t, n, k, LH_SPLIT_TRAIN, &r);
        for (int64_t i = 0; i < n - 1; i++)
            count[i] += labels ? r.labels[i] >= 0 : r.tokens[i] == marker;
        lh_free(&r.tokens);
        lh_free(&r.labels);
    }
    lh_task_close(&t);
    lh_config_destroy(&config);
}

/* Places are where their laws want them: uniform, at a given depth, or denser in front. */
static void test_places(void **state)
{
    lh_comm *c = *state;
    int64_t count[40];
    count_places(c, "task: needle, length: 12", 12, 32, false, count);
    for (int64_t i = 0; i < 11; i++)
        lh_assert_all(c, i > 9 ? count[i] == 0 : count[i] > 310 && count[i] < 490);
    count_places(c, "task: needle, length: 12, place: 50", 12, 32, false, count);
    lh_assert_all(c, count[4] == 4000);
    count_places(c, "task: needle, length: 12, place: 100", 12, 32, false, count);
    lh_assert_all(c, count[9] == 4000);
    count_places(c, "task: induction, length: 12", 12, 16, false, count);
    for (int64_t i = 0; i < 11; i++)
        lh_assert_all(c, i > 9 ? count[i] == 0 : count[i] > 310 && count[i] < 490);
    /* one key of ten places: p(g) in proportion to g^-0.99, whose sum to 10 is 2.9561 */
    count_places(c, "task: mqar, vocab: 64, pairs: 1, length: 22", 22, 0, true, count);
    for (int64_t g = 1; g <= 10; g++) {
        double want = 4000.0 * pow((double)g, -0.99) / 2.9561, have = (double)count[2 * g];
        lh_assert_all(c, fabs(have - want) < 4.5 * sqrt(want) && count[2 * g - 1] == 0);
    }
}

/* --- token files and FASTA files --- */

enum { FILES = 3, WIDE = 300 };

/* Masked tokens: a rank's rows are those of the whole window, the mask is beyond the vocabulary, and what
 * is not chosen stays. */
static void check_masked(lh_comm *c, const char *path)
{
    enum { N = 4000 };
    char data[300];
    int64_t masks = 0;
    lh_task *t = NULL;
    lh_rows whole = {0};
    (void)snprintf(data, sizeof data, "task: masked_tokens, path: %s, length: %d", path, N);
    lh_config *config = config_of(c, data, "encoder");
    lh_assert_all_ok(c, lh_task_open(c, config, &t));
    lh_assert_all(c, lh_task_vocab(config) == 0 && lh_task_vocab_read(t, config) == WIDE + 1);
    whole_window(c, t, N, 2, LH_SPLIT_TRAIN, &whole);
    bool good = true;
    for (int i = 0; i < N; i++) {
        int32_t was = text[2 * N + i];
        masks += whole.tokens[i] == WIDE;
        good = good && (whole.labels[i] >= 0 ? whole.labels[i] == was : whole.tokens[i] == was) &&
               whole.tokens[i] <= WIDE;
    }
    lh_assert_all(c, good && masks > N / 20 && masks < N / 5);
    for (int kind = 0; kind < LAYOUTS; kind++) {
        window w = open_window(c, N, kind);
        lh_assert_all_ok(c, lh_task_read(t, LH_SPLIT_TRAIN, 2, 2, w.layout, w.rank, &w.rows));
        lh_assert_all(c, part_is(&w, &whole));
        close_window(&w);
    }
    lh_free(&whole.tokens);
    lh_free(&whole.labels);
    lh_task_close(&t);
    lh_config_destroy(&config);
}

/* One label for the sequence, known to all its ranks and counted by the first. */
static void test_classes(void **state)
{
    lh_comm *c = *state;
    lh_config *config = config_of(c, "task: markers, gap: 9, length: 40", "encoder, head: class");
    lh_task *t = NULL;
    int64_t seen[2] = {0};
    lh_assert_all(c, lh_task_classes(config) == 2);
    lh_assert_all_ok(c, lh_task_open(c, config, &t));
    for (int64_t k = 0; k < 200; k++) {
        lh_rows whole = {0};
        int32_t kind[2] = {0}, found = 0;
        whole_window(c, t, 40, k, LH_SPLIT_TRAIN, &whole);
        for (int64_t i = 0; i < 40; i++) {
            lh_assert_all(c, whole.labels[i] == -1);
            if (i > 0 && whole.tokens[i] > 0) kind[found++ % 2] = whole.tokens[i];
        }
        lh_assert_all(c, whole.sequence_label == (kind[0] == kind[1]) && whole.counted == 1);
        seen[whole.sequence_label]++;
        for (int layout = 0; layout < LAYOUTS && k < 3; layout++) {
            window w = open_window(c, 40, layout);
            lh_assert_all_ok(c, lh_task_read(t, LH_SPLIT_TRAIN, k, k, w.layout, w.rank, &w.rows));
            lh_assert_all(c, w.rows.sequence_label == whole.sequence_label &&
                                 w.rows.counted == (w.rank == 0));
            lh_assert_all_ok(c, lh_task_read(t, LH_SPLIT_TRAIN, -1, 0, w.layout, w.rank, &w.rows));
            lh_assert_all(c, w.rows.sequence_label == -1 && w.rows.counted == 0);
            close_window(&w);
        }
        lh_free(&whole.tokens);
        lh_free(&whole.labels);
    }
    lh_assert_all(c, seen[0] > 70 && seen[1] > 70);
    lh_task_close(&t);
    lh_config_destroy(&config);
}

/* Records like the documents of the text, in lines of 60 residues. One process. */
static lh_status write_records(const char *path)
{
    bool good = true;
    FILE *f = fopen(path, "w");
    if (f == NULL) return LH_RAISE(LH_ERR_IO, "cannot open %s", path);
    for (int64_t i = 0; i < TEXT; i++) {
        if (i == begins[i]) good = good && fprintf(f, ">record %lld\n", (long long)i) > 0;
        int64_t residue = i - begins[i];
        if (text[i] != 0) good = good && fputc('A' + text[i] - 1, f) != EOF;
        if (text[i] == 0 ? residue % 60 != 0 : residue % 60 == 59)
            good = good && fputc('\n', f) != EOF;
    }
    good = fclose(f) == 0 && good;
    return good ? LH_OK : LH_RAISE(LH_ERR_IO, "cannot write %s", path);
}

static lh_status write_tokens(const char *path, int kind, int64_t vocab)
{
    lh_status st = LH_OK;
    lh_tokens_writer *w = NULL;
    lh_tokens_info info = {.kind = kind, .vocab = vocab, .count = TEXT};
    LH_TRY(lh_tokens_create(path, &info, kind == LH_TOKENS_FASTA ? LH_FASTA_NAMES : "names", &w));
    for (int i = 0; i < TEXT; i++) LH_TRY(lh_tokens_put(w, text[i]));
done:
    return lh_tokens_finish(&w, NULL, NULL, st);
}

/* The same tokens as FASTA, as a token file of it, and as words of two bytes. */
static void write_token_files(lh_comm *c, char path[FILES][64])
{
    static const char *const ending[FILES] = {"fa", "fa.h5", "words.h5"};
    lh_status st = LH_OK;
    for (int i = 0; i < TEXT; i++) text[i] = text[i] == NL ? 0 : (uint8_t)(1 + text[i] % 26);
    text[TEXT - 1] = border = 0;
    find_documents();
    for (int k = 0; k < FILES; k++)
        (void)snprintf(path[k], 64, "scratch_task.np%d.%s", lh_comm_size(c), ending[k]);
    if (lh_comm_rank(c) == 0) {
        st = write_records(path[0]);
        if (st == LH_OK) st = write_tokens(path[1], LH_TOKENS_FASTA, LH_FASTA_VOCAB);
        if (st == LH_OK) st = write_tokens(path[2], LH_TOKENS_WORDS, WIDE);
    }
    lh_assert_all_ok(c, st);
    lh_barrier(c);
}

static void test_token_files(void **state)
{
    lh_comm *c = *state;
    char first[64], path[FILES][64], data[300];
    static const char *const task[FILES] = {"fasta", "fasta", "tokens, documents: 0"};
    const int64_t length[] = {140000, 997};
    write_text_file(c, first, sizeof first);
    write_token_files(c, path);
    for (int k = 0; k < FILES; k++)
        for (int i = 0; i < 2; i++) {
            /* FASTA text is validated by its token file: they number residues alike */
            (void)snprintf(data, sizeof data, "task: %s, path: %s, length: %lld, valid_path: %s",
                           task[k], path[k], (long long)length[i], path[k == 0 ? 1 : k]);
            check_windows(c, data, length[i], 1);
        }
    check_masked(c, path[2]);
    border = NL;
}

/* Examples of a file: token, label and length are functions of the number. One process. */
enum { EXAMPLES = 40, LONGEST = 23 };

static int64_t example_length(int64_t i)
{
    return 3 + i * 7 % (LONGEST - 2);
}

static int32_t example_token(int64_t i, int64_t p)
{
    return (int32_t)((5 * i + p) % 18);
}

static lh_status write_examples(const char *path)
{
    lh_status st = LH_OK;
    lh_tokens_writer *w = NULL;
    int64_t start[EXAMPLES + 1] = {0};
    int32_t label[EXAMPLES];
    for (int i = 0; i < EXAMPLES; i++) {
        start[i + 1] = start[i] + example_length(i);
        label[i] = i * 3 % 10;
    }
    lh_tokens_info info = {.kind = LH_TOKENS_LISTOPS,
                           .vocab = 18,
                           .count = start[EXAMPLES],
                           .examples = EXAMPLES,
                           .longest = LONGEST};
    LH_TRY(lh_tokens_create(path, &info, "names", &w));
    for (int64_t i = 0; i < EXAMPLES; i++)
        for (int64_t p = 0; p < example_length(i); p++)
            LH_TRY(lh_tokens_put(w, example_token(i, p)));
done:
    return lh_tokens_finish(&w, start, label, st);
}

static bool example_is(const window *w, int64_t i)
{
    bool good = w->rows.valid == example_length(i) && w->rows.sequence_label == i * 3 % 10 &&
                w->rows.counted == (w->rank == 0) && w->rows.n_global == 1 &&
                w->rows.global[0] == 0;
    for (int64_t k = 0; k < w->layout->rows[w->rank]; k++) {
        int64_t p = lh_layout_position(w->layout, w->rank, k);
        good = good && w->rows.labels[k] == -1 &&
               w->rows.tokens[k] == (p < example_length(i) ? example_token(i, p) : 0);
    }
    return good;
}

/* The last tenth is for validation. */
static void test_examples(void **state)
{
    lh_comm *c = *state;
    char path[64], data[200];
    lh_task *t = NULL;
    lh_status st = LH_OK;
    (void)snprintf(path, sizeof path, "scratch_task.np%d.listops.h5", lh_comm_size(c));
    if (lh_comm_rank(c) == 0) st = write_examples(path);
    lh_assert_all_ok(c, st);
    lh_barrier(c);
    (void)snprintf(data, sizeof data, "task: listops, path: %s, length: %d, valid_fraction: 0.1",
                   path, LONGEST + 2);
    lh_config *config = config_of(c, data, "encoder, head: class");
    lh_assert_all_ok(c, lh_task_open(c, config, &t));
    lh_assert_all(c, lh_task_windows(t, LH_SPLIT_TRAIN) == EXAMPLES - EXAMPLES / 10 &&
                         lh_task_windows(t, LH_SPLIT_VALID) == EXAMPLES / 10);
    for (int layout = 0; layout < LAYOUTS; layout++) {
        window w = open_window(c, LONGEST + 2, layout);
        bool good = true;
        for (int64_t i = 0; i < EXAMPLES; i++) {
            int64_t train = EXAMPLES - EXAMPLES / 10;
            lh_split split = i < train ? LH_SPLIT_TRAIN : LH_SPLIT_VALID;
            st = lh_task_read(t, split, i < train ? i : i - train, i, w.layout, w.rank, &w.rows);
            good = good && st == LH_OK && example_is(&w, i);
        }
        lh_assert_all(c, good);
        close_window(&w);
    }
    lh_task_close(&t);
    lh_config_destroy(&config);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_documents), cmocka_unit_test(test_token_files),
        cmocka_unit_test(test_examples),  cmocka_unit_test(test_made),
        cmocka_unit_test(test_places),    cmocka_unit_test(test_classes),
    };
    return lh_test_mpi_main(argc, argv, "task", tests, sizeof tests / sizeof tests[0]);
}
