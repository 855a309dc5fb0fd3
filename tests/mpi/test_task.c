/* Tasks against brute force: where documents begin and end in any layout, and what the tasks that
 * the program makes are defined to be. Each rank reads its own rows; positions are compared, so
 * ranks need no messages. */
#include "experiments/task.h"
#include "tests/lh_test_mpi.h"

#include <stdio.h>
#include <string.h>

enum { TEXT = 150000, NL = 10 };

static uint8_t text[TEXT];
static int64_t begins[TEXT], ends[TEXT]; /* of each byte's document in the whole text */

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
    for (int64_t i = 0; i < TEXT; i++)
        begins[i] = i == 0 ? 0 : text[i - 1] == NL ? i : begins[i - 1];
    for (int64_t i = TEXT - 1; i >= 0; i--)
        ends[i] = text[i] == NL || i == TEXT - 1 ? i + 1 : ends[i + 1];
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
        bool in = p < valid, last = in && text[first + p] == NL;
        int32_t token = in ? text[first + p] : 0, label = in && !last ? text[first + p + 1] : -1;
        if (w->rows.tokens[i] != token || w->rows.labels[i] != label) return false;
        if (!document_is(w->rows.documents + 2 * i, first, valid, w->layout->n, p)) return false;
        counted += label >= 0;
    }
    return w->rows.counted == counted && w->rows.valid == valid;
}

static void test_documents(void **state)
{
    lh_comm *c = *state;
    char path[64], data[200];
    write_text_file(c, path, sizeof path);
    const int64_t length[] = {140000, 997, 3};
    for (int k = 0; k < 3; k++) {
        lh_task *t = NULL;
        (void)snprintf(data, sizeof data, "path: %s, length: %lld, documents: 10, valid_path: %s",
                       path, (long long)length[k], path);
        lh_config *config = config_of(c, data, "decoder");
        lh_assert_all_ok(c, lh_task_open(c, config, &t));
        int64_t windows = lh_task_windows(t, LH_SPLIT_TRAIN);
        for (int kind = 0; kind < LAYOUTS; kind++) {
            window w = open_window(c, length[k], kind);
            bool good = true;
            /* every window of the long ones, among them the shorter last one */
            for (int64_t i = 0; i < windows; i += k == 2 ? 999 : 1) {
                int64_t first = i * length[k], valid = TEXT - 1 - first;
                if (valid > length[k]) valid = length[k];
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

static bool made_is(int task, const lh_rows *r, int64_t n)
{
    if (task == LH_TASK_LAG) return lag_is(r, n, 5);
    return task == LH_TASK_MARKERS ? markers_is(r, n, 9) : recall_is(r, n, 3);
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
        lh_assert_all(c, made_is(config->data.task, &whole, n) &&
                             made_is(config->data.task, &valid, n));
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

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_documents),
        cmocka_unit_test(test_made),
        cmocka_unit_test(test_classes),
    };
    return lh_test_mpi_main(argc, argv, "task", tests, sizeof tests / sizeof tests[0]);
}
