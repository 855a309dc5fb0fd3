/* JSON that is read back: values, text, what is refused, what is shown and written again, and no memory. */
#include <math.h>
#include <string.h>

#include "io/json_read.h"
#include "io/metrics.h"
#include "tests/lh_test.h"

static lh_json_item *read_text(const char *text)
{
    lh_json_item *o = NULL;
    lh_assert_ok(lh_json_read(text, strlen(text), &o));
    return o;
}

static void test_values(void **state)
{
    (void)state;
    lh_json_item *o =
        read_text(" {\"a\": 1.5e3, \"b\":7, \"c\":{\"d\":true},\"e\":null,\"f\":-0.25,"
                  "\"b\":[1,[2,{}],\"x\"]} \n");
    assert_int_equal(lh_json_item_kind(o), LH_JSON_OBJECT);
    assert_int_equal(lh_json_count(o), 5);
    assert_true(lh_json_number(o, "a") == 1500.0 && lh_json_number(o, "f") == -0.25);
    const lh_json_item *b = lh_json_find(o, "b"); /* the last one counts */
    assert_int_equal(lh_json_item_kind(b), LH_JSON_LIST);
    assert_int_equal(lh_json_count(b), 3);
    assert_true(lh_json_item_number(lh_json_at(b, 0)) == 1.0);
    assert_int_equal(lh_json_item_kind(lh_json_at(lh_json_at(b, 1), 1)), LH_JSON_OBJECT);
    assert_string_equal(lh_json_item_word(lh_json_at(b, 2)), "x");
    assert_null(lh_json_at(b, 3));
    assert_null(lh_json_at(b, -1));
    assert_true(lh_json_number(lh_json_find(o, "c"), "d") == 1.0);
    assert_int_equal(lh_json_item_kind(lh_json_find(o, "e")), LH_JSON_NULL);
    assert_true(isnan(lh_json_number(o, "e")) && isnan(lh_json_number(o, "none")));
    assert_null(lh_json_word(o, "a"));
    assert_null(lh_json_find(b, "a"));
    lh_json_release(&o);
    assert_null(o);
}

/* Every function takes what is not there. */
static void test_nothing(void **state)
{
    lh_json_member m = {0};
    char text[8];
    int64_t x = 1;
    (void)state;
    assert_null(lh_json_find(NULL, "a"));
    assert_null(lh_json_at(NULL, 0));
    assert_null(lh_json_word(NULL, "a"));
    assert_true(isnan(lh_json_number(NULL, "a")) && lh_json_count(NULL) == 0);
    assert_false(lh_json_integer(NULL, "a", &x));
    assert_false(lh_json_next(NULL, &m));
    assert_int_equal(lh_json_item_kind(NULL), LH_JSON_NULL);
    assert_string_equal(lh_json_show_members(NULL, NULL, text, sizeof text), "");
}

/* Counters of 64 bits keep all their digits; what no such number holds is refused as a whole. */
static void test_integers(void **state)
{
    int64_t x = 0;
    (void)state;
    lh_json_item *o = read_text("{\"most\":9223372036854775807,\"least\":-9223372036854775808,"
                                "\"odd\":9007199254740993,\"real\":1.0,\"word\":\"1\"}");
    assert_true(lh_json_integer(o, "most", &x) && x == INT64_MAX);
    assert_true(lh_json_integer(o, "least", &x) && x == INT64_MIN);
    assert_true(lh_json_integer(o, "odd", &x) && x == 9007199254740993);
    assert_true(lh_json_number(o, "odd") == 9007199254740992.0);
    assert_false(lh_json_integer(o, "real", &x));
    assert_false(lh_json_integer(o, "word", &x));
    lh_json_release(&o);
}

static void test_text(void **state)
{
    (void)state;
    lh_json_item *o =
        read_text("[\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\", \"\\u00e9\\u20AC\\ud83d\\ude00\", \"\"]");
    assert_string_equal(lh_json_item_word(lh_json_at(o, 0)), "a\"\\/\b\f\n\r\t");
    assert_string_equal(lh_json_item_word(lh_json_at(o, 1)),
                        "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
    assert_string_equal(lh_json_item_word(lh_json_at(o, 2)), "");
    lh_json_release(&o);
}

/* What the writer makes is what is read; what was read is written again as it was. */
static void test_round(void **state)
{
    lh_json j = {0};
    const char *text = NULL;
    static const char value[] = "{\"lr\":0.001,\"n\":64,\"most\":9223372036854775807,\"eps\":1e-07,"
                                "\"x\":[true,null,[4,\"a\\nb\"]],\"none\":{}}";
    char expected[256];
    (void)state;
    lh_json_begin(&j);
    lh_json_string(&j, "name", "<\"\n\x01\xC3\xA9");
    lh_json_real(&j, "x", 0.1);
    lh_json_real(&j, "none", (double)NAN);
    lh_assert_ok(lh_json_text(&j, &text));
    lh_json_item *o = read_text(text);
    assert_string_equal(lh_json_word(o, "name"), "<\"\n\x01\xC3\xA9");
    assert_true(fabs(lh_json_number(o, "x") - 0.1) < 1e-9);
    assert_int_equal(lh_json_item_kind(lh_json_find(o, "none")), LH_JSON_NULL);
    lh_json_release(&o);

    o = read_text(value);
    lh_json_begin(&j);
    lh_json_copy(&j, "again", o);
    lh_assert_ok(lh_json_text(&j, &text));
    (void)snprintf(expected, sizeof expected, "{\"again\":%s}", value);
    assert_string_equal(text, expected);
    lh_json_item *again = read_text(text);
    assert_true(lh_json_same(o, lh_json_find(again, "again")));
    assert_false(lh_json_same(o, again));
    lh_json_release(&again);
    lh_json_release(&o);

    o = read_text("[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]");
    lh_json_begin(&j);
    lh_json_copy(&j, "deep", o);
    lh_assert_error(lh_json_text(&j, &text), LH_ERR_FORMAT, "deeper than");
    lh_json_release(&o);
    lh_json_free(&j);
}

static void test_show(void **state)
{
    char text[64];
    (void)state;
    lh_json_item *o =
        read_text("{\"lr\":1.0e-3,\"mix\":{\"a\":[1,\"x\",null],\"b\":false},\"w\":\"a\\u001bb\"}");
    assert_string_equal(lh_json_show(o, text, sizeof text),
                        "{lr: 0.001, mix: {a: [1, x, null], b: false}, w: a?b}");
    assert_string_equal(lh_json_show_members(o, "mix", text, sizeof text), "lr: 0.001, w: a?b");
    assert_string_equal(lh_json_show(lh_json_find(o, "lr"), text, sizeof text), "0.001");
    for (size_t bytes = 8; bytes < 54; bytes++) { /* whatever the room, its end is seen */
        size_t n = strlen(lh_json_show(o, text, bytes));
        assert_true(n < bytes && n + 4 >= bytes);
        assert_string_equal(text + n - 3, "...");
    }
    lh_json_release(&o);
    o = read_text("[\"\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\"]");
    assert_string_equal(lh_json_show(o, text, 9), "[\xC3\xA9\xC3\xA9..."); /* no half of an é */
    assert_string_equal(lh_json_show(o, text, 8), "[\xC3\xA9...");
    lh_json_release(&o);
}

static void test_refused(void **state)
{
    static const char *const bad[] = {"",
                                      " ",
                                      "{",
                                      "[",
                                      "{\"a\"",
                                      "{\"a\":}",
                                      "{\"a\":1,}",
                                      "[1,]",
                                      "[1 2]",
                                      "{a:1}",
                                      "[nul]",
                                      "[0x10]",
                                      "[1.]",
                                      "[.5]",
                                      "[01]",
                                      "[1e]",
                                      "[+1]",
                                      "[inf]",
                                      "[NaN]",
                                      "[-]",
                                      "[\"a",
                                      "[\"\\x\"]",
                                      "[\"\\u12\"]",
                                      "[\"a\nb\"]",
                                      "[1]]",
                                      "{}{}",
                                      "1",
                                      "{\"a\":1",
                                      "[\"\\\"]",
                                      "[1e999]",
                                      "[9223372036854775808]",
                                      "[\"\\u0000\"]",
                                      "{\"a\\u0000\":1}",
                                      "[\"\\ud83d \"]",
                                      "[\"\xC3(\"]",
                                      "{\"a\" 1}"};
    char deep[5000];
    lh_json_item *o = NULL;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        lh_assert_error(lh_json_read(bad[i], strlen(bad[i]), &o), LH_ERR_FORMAT, "byte ");
        assert_null(o);
    }
    memset(deep, '[', sizeof deep);
    lh_assert_error(lh_json_read(deep, sizeof deep, &o), LH_ERR_FORMAT, "byte ");
    memset(deep + 2500, ']', 2500); /* whole, and deeper than anybody means */
    lh_assert_error(lh_json_read(deep, sizeof deep, &o), LH_ERR_FORMAT, "byte ");
    lh_assert_error(lh_json_read("[1\0]", 4, &o), LH_ERR_FORMAT,
                    "byte "); /* a zero byte is no end */
}

/* Every allocation that fails is said, and nothing is lost. */
static void test_memory(void **state)
{
    static const char text[] =
        "{\"a\":[1,2,3,4,5,6,7,8,9,10,11],\"longer\":\"a string\",\"x\":0.5,"
        "\"b\":{\"c\":1,\"d\":2,\"e\":3,\"f\":4,\"g\":5,\"h\":6,\"i\":7,\"j\":8,"
        "\"k\":9}}";
    (void)state;
    for (int64_t n = 1;; n++) {
        lh_json_item *o = NULL;
        lh_new_fail_at(n);
        lh_status st = lh_json_read(text, sizeof text - 1, &o);
        lh_new_fail_at(0);
        assert_true(st == LH_OK || st == LH_ERR_MEMORY);
        assert_true((o != NULL) == (st == LH_OK));
        lh_json_release(&o);
        if (st == LH_OK) {
            assert_true(n > 40);
            break;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),   cmocka_unit_test(test_nothing),
        cmocka_unit_test(test_integers), cmocka_unit_test(test_text),
        cmocka_unit_test(test_round),    cmocka_unit_test(test_show),
        cmocka_unit_test(test_refused),  cmocka_unit_test(test_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
