/* What may change when a run is resumed: every key has its class, and every contradiction is named. */
#include "experiments/config_change.h"
#include "experiments/config_internal.h"
#include "tests/lh_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SMALL                                                                                      \
    "data: {path: book.txt}\n"                                                                     \
    "model: {layers: 4, width: 48, heads: 4, attention: {mechanism: sliding_window, window: 8}}\n"

static lh_status read_text(void *user, const char *path, char **bytes, size_t *count)
{
    const char *text = user;
    (void)path;
    *count = strlen(text);
    lh_status st = lh_new(*count + 1, bytes);
    if (st == LH_OK) memcpy(*bytes, text, *count);
    return st;
}

static lh_config *load(const char *const *set, int n)
{
    char text[] = SMALL;
    lh_config *c = NULL;
    lh_config_source source = {.read = read_text,
                               .user = text,
                               .path = "a.yaml",
                               .overrides = set,
                               .n_overrides = n,
                               .directory = "/home/me"};
    lh_assert_ok(lh_config_load(&source, &c));
    return c;
}

typedef struct outcome {
    lh_change_list broken, noted;
} outcome;

/* The differences between SMALL with these keys set and SMALL with those. */
static outcome compare_sets(const char *const *was, int n_was, const char *const *is, int n_is)
{
    outcome o = {0};
    lh_config *a = load(was, n_was), *b = load(is, n_is);
    lh_config_changes(a, b, &o.broken, &o.noted);
    lh_config_destroy(&a);
    lh_config_destroy(&b);
    return o;
}

static outcome compare(const char *is)
{
    return compare_sets(NULL, 0, &is, 1);
}

/* What an evaluation depends on. */
static void test_other_model(void **state)
{
    (void)state;
    static const char *const is[] = {"run.seed=9",
                                     "run.name=other",
                                     "data.path=other.txt",
                                     "data.batch=2",
                                     "model.dropout=0.5",
                                     "optimizer.betas=[0.5, 0.6]",
                                     "model.attention.window=4"};
    lh_change_list list = {0};
    lh_config *a = load(NULL, 0), *b = load(is, 7);
    lh_config_other_model(a, b, &list);
    assert_true(list.count == 4);
    assert_true(strstr(list.text, "run.seed was 1, is 9") != NULL);
    assert_true(strstr(list.text, "data.path was /home/me/book.txt, is /home/me/other.txt") !=
                NULL);
    assert_true(strstr(list.text, "model.dropout was 0.0, is 0.5") != NULL);
    assert_true(strstr(list.text, "model.attention.window was 8, is 4") != NULL);
    list = (lh_change_list){0};
    lh_config_other_model(a, a, &list);
    assert_true(list.count == 0);
    lh_config_destroy(&a);
    lh_config_destroy(&b);
}

/* A key of the tables that is in no class was forgotten: decide what it means for a run that goes on, and
 * put it into the table of config_change.c. */
static void test_every_key(void **state)
{
    (void)state;
    int keys = 0, forgotten = 0;
    char key[128];
    for (const lhi_config_section *s = lhi_config_sections(); s->name != NULL; s++) {
        for (const lh_field *f = s->fields; f->name != NULL; f++, keys++) {
            (void)snprintf(key, sizeof key, "%s.%s", s->name, f->name);
            if (lh_key_rule_of(key) != LH_KEY_UNKNOWN) continue;
            (void)fprintf(stderr, "%s is in no class of config_change.c\n", key);
            forgotten++;
        }
    }
    assert_int_equal(forgotten, 0);
    /* the table names no key twice, and none that is gone */
    assert_int_equal(lh_key_rule_count(), keys);
    assert_int_equal(lh_key_rule_of("data.lengths"), LH_KEY_UNKNOWN);
    assert_int_equal(lh_key_rule_of("data"), LH_KEY_UNKNOWN);
    assert_int_equal(lh_key_rule_of("model.attention.window"), LH_KEY_FIXED);
}

static void test_same(void **state)
{
    (void)state;
    outcome o = compare_sets(NULL, 0, NULL, 0);
    assert_true(o.broken.count == 0 && o.noted.count == 0);
    assert_string_equal(o.broken.text, "");
}

/* One key each of what may change, what is said, and what may not. */
static void test_rules(void **state)
{
    (void)state;
    static const char *const quiet[] = {
        "run.name=other",    "mesh.layout=zigzag",   "mesh.chunk=64",      "train.log_every=1",
        "checkpoint.keep=7", "data.path=b.txt",      "train.accumulate=1", "device.threads=2",
        "run.output=o",      "train.recompute=block"};
    for (size_t i = 0; i < sizeof quiet / sizeof quiet[0]; i++) {
        outcome o = compare(quiet[i]);
        assert_true(o.broken.count == 0 && o.noted.count == 0);
    }
    outcome o = compare("schedule.steps=900");
    assert_true(o.broken.count == 0 && o.noted.count == 1);
    assert_string_equal(o.noted.text, "\n  schedule.steps was 600, is 900");
    o = compare("optimizer.lr=0.5");
    assert_string_equal(o.noted.text, "\n  optimizer.lr was 0.001, is 0.5");
    o = compare("run.seed=4");
    assert_true(o.broken.count == 1 && o.noted.count == 0);
    assert_string_equal(o.broken.text, "\n  run.seed was 1, is 4");
    o = compare("optimizer.betas=[0.9, 0.99]");
    assert_string_equal(o.broken.text, "\n  optimizer.betas was [0.9, 0.95], is [0.9, 0.99]");
    o = compare("data.documents=10");
    assert_string_equal(o.broken.text, "\n  data.documents was none, is 10");
}

/* All at once, in the order of the tables; what follows from a key differs as well. */
static void test_all(void **state)
{
    (void)state;
    static const char *const set[] = {"run.seed=2",          "data.length=64",
                                      "model.norm_kind=rms", "optimizer.eps=1e-6",
                                      "optimizer.lr=1e-4",   "mesh.chunk=8"};
    outcome o = compare_sets(NULL, 0, set, 6);
    assert_int_equal(o.broken.count, 5);
    assert_string_equal(o.broken.text,
                        "\n  run.seed was 1, is 2\n  data.length was 8192, is 64"
                        "\n  model.norm_kind was layer, is rms\n  model.max_length was 8192, is 64"
                        "\n  optimizer.eps was 1.0e-08, is 1.0e-06");
    assert_int_equal(o.noted.count, 1);
}

/* A validation file may be another one, but with one more windows are trained on than without. */
static void test_given(void **state)
{
    (void)state;
    static const char *const one[] = {"data.valid_path=/v.txt"}, *const other[] = {
                                                                     "data.valid_path=/w.txt"};
    assert_int_equal(compare_sets(one, 1, other, 1).broken.count, 0);
    assert_string_equal(compare_sets(NULL, 0, one, 1).broken.text,
                        "\n  data.valid_path was none, is /v.txt");
    assert_string_equal(compare_sets(one, 1, NULL, 0).broken.text,
                        "\n  data.valid_path was /v.txt, is none");
}

/* Settings of mechanisms, layer by layer. */
static void test_layers(void **state)
{
    (void)state;
    assert_string_equal(compare("model.attention.window=9").broken.text,
                        "\n  model.attention.window was 8, is 9");
    assert_string_equal(compare("model.attention.window=[8, 8, 9, 8]").broken.text,
                        "\n  model.attention.2.window was 8, is 9");
    assert_string_equal(compare("model.attention.window=[9, 9, 8, 7]").broken.text,
                        "\n  model.attention.0-1.window was 8, is 9"
                        "\n  model.attention.3.window was 8, is 7");
    assert_string_equal(compare("model.attention.dilation=[[1, 1, 2, 4], 1, 1, 1]").broken.text,
                        "\n  model.attention.0.dilation was [1], is [1, 1, 2, 4]");
    assert_string_equal(compare("model.attention={mechanism: full}").broken.text,
                        "\n  model.attention.mechanism was sliding_window, is full");
    assert_string_equal(compare("model.layers=3").broken.text, "\n  model.layers was 4, is 3");
}

/* More than fits: as many as fit, and all are counted. */
static void test_room(void **state)
{
    (void)state;
    lh_change_list list = {0};
    char key[64];
    for (int i = 0; i < 1000; i++) {
        (void)snprintf(key, sizeof key, "section.key_number_%d", i);
        lh_change_add(&list, key, "one value", "another value");
    }
    assert_int_equal(list.count, 1000);
    assert_true(list.cut && strlen(list.text) < sizeof list.text);
    assert_string_equal(list.text + strlen(list.text) - 6, "\n  ...");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_key), cmocka_unit_test(test_same),
        cmocka_unit_test(test_rules),     cmocka_unit_test(test_all),
        cmocka_unit_test(test_given),     cmocka_unit_test(test_layers),
        cmocka_unit_test(test_room),      cmocka_unit_test(test_other_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
