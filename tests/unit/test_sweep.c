/* The points of a sweep: which they are and in which order, what each one is resolved to, every refusal
 * with its place, and sweep.json. */
#include "experiments/sweep.h"
#include "tests/lh_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- a file system of three texts --- */

static const char base_text[] =
    "run: {seed: 5, output: out}\n"
    "data: {path: book.txt, length: 64}\n"
    "model: {layers: 2, width: 48, heads: 4, attention: {mechanism: sliding_window, window: 8}}\n";

static lh_status shelf_read(void *user, const char *path, char **bytes, size_t *count)
{
    const char *const files[][2] = {
        {"base.yaml", base_text}, {"swept.yaml", "sweep: {seeds: 2}\n"}, {"s.yaml", user}};
    const char *text = NULL;
    lh_status st = LH_OK;
    *bytes = NULL;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        if (strcmp(path, files[i][0]) == 0) text = files[i][1];
    LH_CHECK(text != NULL, LH_ERR_IO, "no '%s'", path);
    *count = strlen(text);
    LH_TRY(lh_new(*count + 1, bytes));
    memcpy(*bytes, text, *count);
done:
    return st;
}

static lh_config_source source_of(const char *text, const char *const *set, int64_t point)
{
    return (lh_config_source){.read = shelf_read,
                              .user = (void *)(uintptr_t)text,
                              .path = "s.yaml",
                              .overrides = set,
                              .n_overrides = set != NULL ? 1 : 0,
                              .directory = "/home/me",
                              .point = point};
}

static lh_status load(const char *text, lh_sweep **out)
{
    lh_config_source source = source_of(text, NULL, 0);
    return lh_sweep_load(&source, out);
}

static lh_status load_set(const char *text, const char *set, lh_sweep **out)
{
    lh_config_source source = source_of(text, &set, 0);
    return lh_sweep_load(&source, out);
}

/* --- what there is --- */

#define BASE "base: base.yaml\n"
#define FULL                                                                                       \
    BASE "sweep:\n"                                                                                \
         "  seeds: [7, 9]\n"                                                                       \
         "  list: [{optimizer.eps: 1.0e-7}, {optimizer.eps: 1.0e-6, model.mlp: relu}]\n"           \
         "  grid:\n"                                                                               \
         "    optimizer.lr: [1.0e-3, 2.0e-3]\n"                                                    \
         "    model.attention.window: [4, [4, 6], 16]\n"

/* Seeds are slowest, the grid's last key is fastest. */
static void test_order(void **state)
{
    (void)state;
    static const double lr[] = {1e-3, 2e-3}, eps[] = {1e-7, 1e-6};
    static const int64_t seeds[] = {7, 9}, windows[3][2] = {{4, 4}, {4, 6}, {16, 16}};
    lh_sweep *s = NULL;
    lh_assert_ok(load(FULL, &s));
    assert_true(s->swept && s->count == 24);
    for (int64_t i = 0; i < s->count; i++) {
        lh_config *c = NULL;
        char dir[16];
        (void)snprintf(dir, sizeof dir, "%04d", (int)i + 1);
        lh_assert_ok(lh_sweep_config(s, i, &c));
        assert_string_equal(s->point[i].dir, dir);
        assert_string_equal(c->run.name, dir);
        assert_string_equal(c->run.output, "/home/me/out");
        assert_true(s->point[i].number == i + 1 && c->run.seed == seeds[i / 12] &&
                    s->point[i].seed == c->run.seed);
        assert_true(c->optimizer.eps == eps[i / 6 % 2] && c->optimizer.lr == lr[i / 3 % 2]);
        assert_int_equal(c->model.mlp, i / 6 % 2 == 0 ? LH_ACT_GELU : LH_ACT_RELU);
        for (int layer = 0; layer < 2; layer++) {
            const int64_t *window = c->model.attention[layer].settings; /* its first member */
            assert_true(*window == windows[i % 3][layer]);
        }
        lh_config_destroy(&c);
    }
    lh_sweep_destroy(&s);
    assert_null(s);
}

/* sweep.json, word by word, and back. */
static void test_json(void **state)
{
    (void)state;
    static const char text[] = BASE
        "sweep: {grid: {optimizer.lr: [1.0e-3, 2e-3], run.seed: [4, 3], optimizer.clip: [0.50], "
        "schedule.kind: [linear], model.tie_embeddings: [true]}}\n";
    static const char *const lr[] = {"0.001", "0.002"};
    lh_sweep *s = NULL, *again = NULL;
    char expected[2048] = "{\"sweep\":1,\"points\":[", shown[LH_SWEEP_TEXT];
    lh_assert_ok(load(text, &s));
    for (int i = 0; i < 4; i++) {
        size_t n = strlen(expected);
        (void)snprintf(expected + n, sizeof expected - n,
                       "%s{\"point\":%d,\"dir\":\"000%d\",\"values\":{\"optimizer.lr\":%s,"
                       "\"optimizer.clip\":0.5,\"schedule.kind\":\"linear\","
                       "\"model.tie_embeddings\":true},\"seed\":%d}%s",
                       i > 0 ? "," : "", i + 1, i + 1, lr[i / 2], 4 - i % 2, i == 3 ? "]}" : "");
    }
    assert_string_equal(s->json, expected);
    assert_string_equal(lh_sweep_text(&s->point[3], shown),
                        "optimizer.lr: 0.002, optimizer.clip: 0.5, schedule.kind: linear, "
                        "model.tie_embeddings: true, seed 3");
    lh_assert_ok(lh_sweep_parse(s->json, strlen(s->json), "sweep.json", &again));
    assert_true(again->count == 4);
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 4; k++)
            assert_true(lh_sweep_same(&s->point[i], &again->point[k]) == (i == k));
    lh_sweep_destroy(&again);
    lh_sweep_destroy(&s);
}

/* A number of seeds begins with the file's, which --set may give; a point alone is the same. */
static void test_seeds(void **state)
{
    (void)state;
    const char *set = "run.seed=40";
    lh_sweep *s = NULL;
    lh_assert_ok(load_set(BASE "sweep: {seeds: 3}\n", set, &s));
    assert_true(s->count == 3);
    for (int64_t i = 0; i < 3; i++) {
        lh_config *c = NULL, *alone = NULL;
        char *one = NULL, *other = NULL;
        lh_config_source source = source_of(BASE "sweep: {seeds: 3}\n", &set, i + 1);
        lh_assert_ok(lh_sweep_config(s, i, &c));
        lh_assert_ok(lh_config_load(&source, &alone));
        assert_true(c->run.seed == 40 + i);
        lh_assert_ok(lh_config_emit(c, &one));
        lh_assert_ok(lh_config_emit(alone, &other));
        assert_string_equal(one, other);
        lh_free(&one);
        lh_free(&other);
        lh_config_destroy(&c);
        lh_config_destroy(&alone);
    }
    lh_sweep_destroy(&s);
}

/* Without a sweep the file is one run with its own name; --set takes a sweep away, or gives one. */
static void test_without(void **state)
{
    (void)state;
    lh_sweep *s = NULL;
    lh_config *c = NULL;
    lh_assert_ok(load(BASE, &s));
    assert_true(!s->swept && s->count == 1 && s->json == NULL);
    lh_assert_ok(lh_sweep_config(s, 0, &c));
    assert_string_equal(c->run.name, "quickstart");
    lh_config_destroy(&c);
    lh_sweep_destroy(&s);
    lh_assert_ok(load_set(FULL, "sweep=null", &s));
    assert_true(!s->swept && s->count == 1);
    lh_sweep_destroy(&s);
    lh_assert_ok(load_set(BASE, "sweep={grid: {optimizer.lr: [1, 2, 3]}}", &s));
    assert_true(s->swept && s->count == 3);
    lh_sweep_destroy(&s);
    lh_assert_ok(load_set(BASE "sweep: {grid: {optimizer.lr: [1, 2]}}\n", "sweep.seeds=2", &s));
    assert_true(s->count == 4);
    lh_sweep_destroy(&s);
}

/* --- refusals --- */

#define SWEEP(text) BASE "sweep: {" text "}\n"

static void test_refused(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {BASE "sweep: 3\n", "s.yaml:2:8: key 'sweep': expected a map of settings, got '3'"},
        {SWEEP("gird: {optimizer.lr: [1]}"),
         "s.yaml:2:9: key 'sweep.gird': unknown key; did you mean 'grid'?"},
        {SWEEP(""), "s.yaml:2:8: key 'sweep': nothing varies; expected grid, list or seeds"},
        {SWEEP("grid: {}"), "s.yaml:2:15: key 'sweep.grid': expected a map from keys to lists"},
        {SWEEP("grid: [1]"), "s.yaml:2:15: key 'sweep.grid': expected a map from keys to lists of "
                             "values, such as {optimizer.lr: [0.001, 0.002]}, got a list"},
        {SWEEP("grid: {optimizer.lr: 1}"),
         "s.yaml:2:30: key 'sweep.grid.optimizer.lr': expected a list of values, got '1'"},
        {SWEEP("grid: {optimizer.lr: []}"),
         "s.yaml:2:30: key 'sweep.grid.optimizer.lr': an empty list"},
        {SWEEP("grid: {optimizer: {lr: [1]}}"),
         "s.yaml:2:16: key 'sweep': expected a dotted name such as optimizer.lr, got 'optimizer'"},
        {SWEEP("grid: {optimizer.lr=1: [1]}"), "s.yaml:2:16: key 'sweep': expected a dotted name"},
        {SWEEP("grid: {optimizer..lr: [1]}"), "s.yaml:2:16: a key is empty; expected section.key"},
        {SWEEP("list: {optimizer.lr: 1}"),
         "s.yaml:2:15: key 'sweep.list': expected a list of values, got a map"},
        {SWEEP("list: [3]"), "s.yaml:2:16: key 'sweep.list': expected a map of keys and values"},
        {SWEEP("list: [{}]"), "s.yaml:2:16: key 'sweep.list': expected a map of keys and values"},
        {SWEEP("seeds: []"), "s.yaml:2:16: key 'sweep.seeds': an empty list"},
        {SWEEP("seeds: 0"), "s.yaml:2:16: key 'sweep.seeds': expected a number of seeds from 1 to"},
        {SWEEP("seeds: 1.5"), "s.yaml:2:16: key 'sweep.seeds': expected a number of seeds"},
        {SWEEP("seeds: {a: 1}"), "s.yaml:2:16: key 'sweep.seeds': expected a list of values"},
        {BASE "sweep:\n  seeds:\n", "s.yaml:3:9: key 'sweep.seeds': expected a number of seeds"},
        {SWEEP("grid: {run.output: [a]}"), "s.yaml:2:16: key 'run.output' cannot be swept"},
        {SWEEP("grid: {run.name: [a]}"), "s.yaml:2:16: key 'run.name' cannot be swept"},
        {SWEEP("grid: {base.x: [a]}"), "s.yaml:2:16: key 'base' cannot be swept"},
        {SWEEP("grid: {sweep.seeds: [1]}"), "s.yaml:2:16: key 'sweep' cannot be swept"},
        {SWEEP("grid: {optimizer.lr: [1], optimizer.lr: [2]}"), "occurs twice"},
        {SWEEP("grid: {optimizer.lr: [1]}, list: [{optimizer.eps: 1}, {optimizer.lr: 2}]"),
         "s.yaml:2:16: key 'optimizer.lr' is swept twice (first at s.yaml:2:64)"},
        {SWEEP("seeds: 2, grid: {run.seed: [1]}"),
         "s.yaml:2:26: key 'run.seed' is swept twice (first at s.yaml:2:9)"},
        {SWEEP("grid: {model.attention: [{mechanism: full}], model.attention.window: [3]}"),
         "s.yaml:2:54: key 'model.attention.window': 'model.attention' is swept too (s.yaml:2:16), "
         "and one lies in the other"},
        {SWEEP("list: [{model.attention.window: 3, model.attention: {mechanism: full}}]"),
         "key 'model.attention.window': 'model.attention' is swept too (s.yaml:2:44)"},
        {SWEEP("grid: {optimizer.lr: [1, 2]}, seeds: 501"),
         "s.yaml:2:16: key 'sweep': 501 x 2 points are too many (at most 1000)"},
        {SWEEP("seeds: 99999999999999"), "key 'sweep.seeds': expected a number of seeds"},
        {SWEEP("grid: {optimizer.lr: [0.1, 1.0e-1]}"),
         "s.yaml: key 'sweep': points 1 and 2 are the same run (optimizer.lr: 0.1, seed 5)"},
        {SWEEP("seeds: [3, 4, 3]"), "points 1 and 3 are the same run"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        lh_sweep *s = NULL;
        lh_assert_error(load(bad[i][0], &s), LH_ERR_USAGE, bad[i][1]);
        assert_null(s);
    }
}

/* What is wrong at one point says which, and where its value stands. */
static void test_refused_points(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {SWEEP("grid: {optimizer.lr: [1.0, oops, 2]}"),
         "point 2 of the sweep's 3 (optimizer.lr: oops): s.yaml:2:36: key 'optimizer.lr': expected "
         "a number"},
        {SWEEP("grid: {optimizer.rate: [1.0]}"),
         "point 1 of the sweep's 1 (optimizer.rate: 1.0): s.yaml:2:16: key 'optimizer.rate': "
         "unknown key"},
        {SWEEP("list: [{model.width: 64}, {optimiser.lr: 1}]"),
         "point 2 of the sweep's 2 (optimiser.lr: 1): s.yaml:2:36: key 'optimiser': unknown key; "
         "did you mean 'optimizer'?"},
        {SWEEP("grid: {model.width: [64, 50]}, seeds: 2"),
         "point 2 of the sweep's 4 (model.width: 50): base.yaml:3:38: key 'model.heads': 4 does "
         "not divide model.width = 50"},
        {SWEEP("grid: {model.attention.window: [[1, 2, 3]]}"),
         "point 1 of the sweep's 1 (model.attention.window: [1, 2, 3]): s.yaml:2:41: key "
         "'model.attention.window': a list with 3 values"},
        {SWEEP("grid: {optimizer.lr.x: [1]}"), "point 1 of the sweep's 1 (optimizer.lr.x: 1)"},
        {SWEEP("seeds: [3, -4]"), "point 2 of the sweep's 2 (run.seed: -4): s.yaml:2:20: key"},
        {SWEEP("seeds: 2") "run: {seed: 9223372036854775807}\n",
         "point 2 of the sweep's 2 (seeds): s.yaml:2:9: key 'sweep.seeds'"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        lh_sweep *s = NULL;
        lh_assert_error(load(bad[i][0], &s), LH_ERR_USAGE, bad[i][1]);
        assert_null(s);
    }
}

/* On the command line, in inherited files, for commands that want one run. */
static void test_refused_elsewhere(void **state)
{
    (void)state;
    lh_sweep *s = NULL;
    lh_config *c = NULL;
    const char *const text = SWEEP("grid: {optimizer.lr: [1, 2]}");
    lh_assert_error(load_set(text, "optimizer.lr=3", &s), LH_ERR_USAGE,
                    "--set optimizer.lr=3: key 'optimizer.lr' varies in the sweep (s.yaml:2:16)");
    lh_assert_error(load_set(text, "run.name=x", &s), LH_ERR_USAGE,
                    "--set run.name=x: key 'run.name': a sweep names its runs");
    lh_assert_error(load_set(text, "sweep.grid.optimizer.eps=[1]", &s), LH_ERR_USAGE,
                    "expected a dotted name such as optimizer.lr, got 'optimizer'");
    for (int64_t point = 0; point <= 3; point++) {
        lh_config_source source = source_of(text, NULL, point);
        if (point == 1 || point == 2) continue;
        lh_assert_error(lh_config_load(&source, &c), LH_ERR_USAGE,
                        point == 0 ? "s.yaml:2:8: key 'sweep': these are 2 runs, and one is wanted"
                                   : "there is no point 3, they go from 1 to 2");
        assert_null(c);
    }
    lh_config_source beyond = source_of(text, NULL, 3), none = source_of(BASE, NULL, 1);
    lh_assert_error(lh_sweep_load(&beyond, &s), LH_ERR_USAGE, "there is no point 3");
    lh_assert_error(lh_sweep_load(&none, &s), LH_ERR_USAGE, "s.yaml has no sweep");
    lh_assert_error(
        lh_config_parse(text + sizeof BASE - 1, strlen(text) - sizeof BASE + 1, "text", 0, &c),
        LH_ERR_USAGE, "text:1:8: key 'sweep': not supported in this text");
    lh_assert_error(load("base: swept.yaml\n", &s), LH_ERR_USAGE,
                    "swept.yaml:1:8: key 'sweep': a file that is inherited from (base:) cannot");
    static const char *const damaged[] = {
        "{",
        "[]",
        "{\"points\":[]}",
        "{\"points\":[{\"dir\":\"0001\"}]}",
        "{\"points\":[{\"dir\":\"../x\",\"values\":{},\"seed\":1}]}",
        "{\"points\":[{\"dir\":\"0001\",\"values\":{},\"seed\":\"x\"}]}",
        "{\"points\":[{\"dir\":\"0001\",\"values\":[],\"seed\":1}]}",
        "{\"points\":{\"dir\":\"0001\",\"values\":{},\"seed\":1}}"};
    for (size_t i = 0; i < sizeof damaged / sizeof damaged[0]; i++) {
        lh_assert_error(lh_sweep_parse(damaged[i], strlen(damaged[i]), "sweep.json", &s),
                        LH_ERR_USAGE, "sweep.json");
        assert_null(s);
    }
}

/* The largest sweep there may be, and one with values that are too long for sweep.json. */
static void test_large(void **state)
{
    (void)state;
    enum { ROOM = 1 << 20, WORD = 2000 };
    lh_sweep *s = NULL;
    char *text = NULL, word[WORD];
    lh_assert_ok(load(SWEEP("seeds: 1000"), &s));
    assert_true(s->count == 1000 && s->point[999].seed == 1004);
    assert_string_equal(s->point[999].dir, "1000");
    lh_sweep_destroy(&s);
    memset(word, 'a', sizeof word - 1);
    word[sizeof word - 1] = '\0';
    lh_assert_ok(lh_new(ROOM, &text));
    int n = snprintf(text, ROOM, SWEEP("seeds: 600, list: [{run.init: %s}]"), word);
    assert_true(n > 0 && n < ROOM);
    lh_assert_error(load(text, &s), LH_ERR_USAGE, "sweep.json would be too large");
    lh_free(&text);
}

static void test_no_memory(void **state)
{
    (void)state;
    for (int n = 1;; n++) {
        lh_sweep *s = NULL;
        lh_config *c = NULL;
        lh_new_fail_at(n);
        lh_status st = load(SWEEP("grid: {model.attention.window: [[3, 4], 5]}, seeds: [2]"), &s);
        if (st == LH_OK) st = lh_sweep_config(s, 0, &c);
        lh_new_fail_at(0);
        lh_config_destroy(&c);
        lh_sweep_destroy(&s);
        if (st == LH_OK) break;
        assert_int_equal(st, LH_ERR_MEMORY);
        assert_true(n < 20000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_without),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_refused_points),
        cmocka_unit_test(test_refused_elsewhere),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
