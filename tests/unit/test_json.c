/* JSON that is read back: values, text, what is refused, and no memory. */
#include <math.h>
#include <string.h>

#include "io/json_read.h"
#include "io/metrics.h"
#include "tests/lh_test.h"

static lh_status read_text(lh_json_tree *t, const char *text)
{
    return lh_json_read(t, text, strlen(text));
}

static void test_values(void **state)
{
    lh_json_tree t = {0};
    (void)state;
    assert_int_equal(read_text(&t, " {\"a\": 1.5e3, \"b\":[1,[2,{}],\"x\"], \"c\":{\"d\":true},"
                                   "\"e\":null,\"f\":-0.25,\"b\":7} \n"),
                     LH_OK);
    const lh_json_item *o = t.item;
    assert_int_equal(o->kind, LH_JSON_OBJECT);
    assert_int_equal(o->count, 6);
    assert_int_equal(o->items, t.count);
    assert_true(lh_json_number(o, "a") == 1500.0 && lh_json_number(o, "f") == -0.25);
    assert_string_equal(lh_json_find(o, "a")->text, "1.5e3");
    const lh_json_item *b = lh_json_find(o, "b"); /* the first one counts */
    assert_int_equal(b->count, 3);
    assert_true(lh_json_at(b, 0)->number == 1.0);
    assert_int_equal(lh_json_at(lh_json_at(b, 1), 1)->kind, LH_JSON_OBJECT);
    assert_string_equal(lh_json_at(b, 2)->text, "x");
    assert_null(lh_json_at(b, 3));
    assert_null(lh_json_at(b, -1));
    assert_true(lh_json_number(lh_json_find(o, "c"), "d") == 1.0);
    assert_true(isnan(lh_json_number(o, "e")) && isnan(lh_json_number(o, "none")));
    assert_null(lh_json_word(o, "a"));
    assert_null(lh_json_find(NULL, "a"));
    assert_null(lh_json_find(b, "a"));
    lh_json_tree_free(&t);
}

static void test_text(void **state)
{
    lh_json_tree t = {0};
    (void)state;
    assert_int_equal(read_text(&t,
                               "[\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\", \"\\u00e9\\u20AC\\ud83d\\ude00\","
                               " \"\\ud83d \\u0000\", \"\"]"),
                     LH_OK);
    assert_string_equal(lh_json_at(t.item, 0)->text, "a\"\\/\b\f\n\r\t");
    assert_string_equal(lh_json_at(t.item, 1)->text, "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
    assert_string_equal(lh_json_at(t.item, 2)->text, "\xEF\xBF\xBD \xEF\xBF\xBD");
    assert_string_equal(lh_json_at(t.item, 3)->text, "");
    lh_json_tree_free(&t);
}

/* What the writer makes is what is read. */
static void test_round(void **state)
{
    lh_json j = {0};
    lh_json_tree t = {0};
    const char *text = NULL;
    (void)state;
    lh_json_begin(&j);
    lh_json_string(&j, "name", "<\"\n\x01\xC3\xA9");
    lh_json_real(&j, "x", 0.1);
    lh_json_real(&j, "none", (double)NAN);
    assert_int_equal(lh_json_text(&j, &text), LH_OK);
    assert_int_equal(read_text(&t, text), LH_OK);
    assert_string_equal(lh_json_word(t.item, "name"), "<\"\n\x01\xC3\xA9");
    assert_true(fabs(lh_json_number(t.item, "x") - 0.1) < 1e-9);
    assert_int_equal(lh_json_find(t.item, "none")->kind, LH_JSON_NULL);
    lh_json_tree_free(&t);
    lh_json_free(&j);
}

static void test_refused(void **state)
{
    static const char *const bad[] = {
        "",      " ",     "{",   "[",        "{\"a\"",   "{\"a\":}", "{\"a\":1,}", "[1,]",
        "[1 2]", "{a:1}", "nul", "0x10",     "1.",       ".5",       "01",         "1e",
        "+1",    "inf",   "nan", "-",        "\"a",      "\"\\x\"",  "\"\\u12\"",  "\"a\nb\"",
        "[1]]",  "{}{}",  "1 2", "{\"a\":1", "[\"\\\"]", "\"\\",     "truefalse",  "{\"a\" 1}"};
    lh_json_tree t = {0};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(read_text(&t, bad[i]), LH_ERR_FORMAT);
        assert_int_equal(t.count, 0);
        assert_non_null(strstr(lh_error_text(), "byte "));
    }
    char deep[80];
    memset(deep, '[', sizeof deep);
    assert_int_equal(lh_json_read(&t, deep, sizeof deep), LH_ERR_FORMAT);
    assert_int_equal(lh_json_read(&t, "[1\0]", 4), LH_ERR_FORMAT); /* a zero byte is no end */
    lh_json_tree_free(&t);
}

/* Every allocation that fails is said, and nothing is lost. */
static void test_memory(void **state)
{
    (void)state;
    for (int64_t n = 1;; n++) {
        lh_json_tree t = {0};
        lh_new_fail_at(n);
        lh_status st = read_text(&t, "{\"a\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}");
        lh_new_fail_at(0);
        assert_true(st == LH_OK || st == LH_ERR_MEMORY);
        lh_json_tree_free(&t);
        if (st == LH_OK) {
            assert_true(n > 3);
            break;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_values), cmocka_unit_test(test_text),
                                       cmocka_unit_test(test_round), cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
