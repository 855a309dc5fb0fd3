#include "tests/lh_test.h"

#include <math.h>
#include <string.h>

static lh_status fails(int depth)
{
    lh_status st = LH_OK;
    LH_CHECK(depth > 0, LH_ERR_RANGE, "depth %d, expected at least 1", depth);
    st = lh_error_context(fails(depth - 1), "level %d", depth);
done:
    return st;
}

static void test_raise_and_context(void **state)
{
    (void)state;
    assert_int_equal(fails(2), LH_ERR_RANGE);
    assert_string_equal(lh_error_text(), "level 2: level 1: depth 0, expected at least 1");
    assert_non_null(strstr(lh_error_where(), "test_status.c:"));
    assert_non_null(strstr(lh_error_where(), "fails"));
    lh_error_clear();
    assert_string_equal(lh_error_text(), "");
    assert_string_equal(lh_error_where(), "");
}

static void test_context_of_success_keeps_the_record(void **state)
{
    (void)state;
    lh_error_clear();
    assert_int_equal(lh_error_context(LH_OK, "never seen"), LH_OK);
    assert_string_equal(lh_error_text(), "");
}

static void test_long_texts_are_cut(void **state)
{
    char text[2 * LH_ERROR_TEXT_MAX];
    (void)state;
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    assert_int_equal(LH_RAISE(LH_ERR_IO, "%s", text), LH_ERR_IO);
    assert_int_equal(strlen(lh_error_text()), LH_ERROR_TEXT_MAX - 1);
    assert_int_equal(lh_error_context(LH_ERR_IO, "%s", text), LH_ERR_IO);
    assert_int_equal(strlen(lh_error_text()), LH_ERROR_TEXT_MAX - 1);
    assert_int_equal(lh_error_context(LH_ERR_IO, "head"), LH_ERR_IO);
    assert_memory_equal(lh_error_text(), "head: xxx", 9);
    lh_error_clear();
}

static void test_record_of_another_rank(void **state)
{
    (void)state;
    assert_int_equal(lh_error_set(LH_ERR_IO, "there.c:7 read", "rank 3: no such file"), LH_ERR_IO);
    assert_string_equal(lh_error_where(), "there.c:7 read");
    assert_string_equal(lh_error_text(), "rank 3: no such file");
    lh_error_clear();
}

static void test_every_code_has_a_text(void **state)
{
    (void)state;
    for (int i = 0; i < LH_STATUS_COUNT; i++) {
        const char *text = lh_status_text((lh_status)i);
        assert_true(strlen(text) > 0);
        for (int j = 0; j < i; j++) assert_string_not_equal(text, lh_status_text((lh_status)j));
    }
    assert_string_equal(lh_status_text((lh_status)LH_STATUS_COUNT), "unknown status");
}

static void test_new_is_zeroed_and_counted(void **state)
{
    unsigned char *p = NULL;
    (void)state;
    int64_t before = lh_new_count();
    lh_assert_ok(lh_new(64, &p));
    for (int i = 0; i < 64; i++) assert_int_equal(p[i], 0);
    lh_free(&p);
    assert_null(p);
    lh_free(&p);
    lh_assert_ok(lh_new(0, &p));
    assert_non_null(p);
    lh_free(&p);
    assert_int_equal(lh_new_count() - before, 2);
}

static void test_the_chosen_allocation_fails(void **state)
{
    void *p = NULL;
    (void)state;
    lh_new_fail_at(2);
    lh_assert_ok(lh_new(8, &p));
    lh_free(&p);
    lh_assert_error(lh_new(8, &p), LH_ERR_MEMORY, "8 bytes");
    assert_null(p);
    lh_assert_ok(lh_new(8, &p)); /* only that one */
    lh_free(&p);
    lh_error_clear();
}

static void test_grow(void **state)
{
    int64_t *a = NULL;
    int64_t capacity = 0;
    (void)state;
    lh_assert_ok(lh_grow(&a, &capacity, 3, sizeof *a));
    assert_true(capacity >= 3);
    for (int64_t i = 0; i < capacity; i++) a[i] = i + 1;
    int64_t old = capacity;
    lh_assert_ok(lh_grow(&a, &capacity, old, sizeof *a));
    assert_int_equal(capacity, old);
    lh_assert_ok(lh_grow(&a, &capacity, 10 * old, sizeof *a));
    assert_true(capacity >= 10 * old);
    for (int64_t i = 0; i < capacity; i++) assert_int_equal(a[i], i < old ? i + 1 : 0);
    int64_t *same = a;
    int64_t held = capacity;
    lh_new_fail_at(1);
    lh_assert_code(lh_grow(&a, &capacity, 2 * held, sizeof *a), LH_ERR_MEMORY);
    assert_ptr_equal(a, same);
    assert_int_equal(capacity, held);
    lh_free(&a);
    lh_error_clear();
}

static void test_within(void **state)
{
    (void)state;
    assert_true(lh_test_within(1.0, 1.0, 0.0, 0.0));
    assert_true(lh_test_within(-1.01, -1.0, 0.02, 0.0));
    assert_false(lh_test_within(1.03, 1.0, 0.02, 0.0));
    assert_true(lh_test_within(1e-9, 0.0, 0.0, 1e-8));
    assert_false(lh_test_within((double)NAN, 0.0, 1.0, 1.0));
    assert_false(lh_test_within((double)INFINITY, (double)INFINITY, 1.0, 1.0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_raise_and_context),
        cmocka_unit_test(test_context_of_success_keeps_the_record),
        cmocka_unit_test(test_long_texts_are_cut),
        cmocka_unit_test(test_record_of_another_rank),
        cmocka_unit_test(test_every_code_has_a_text),
        cmocka_unit_test(test_new_is_zeroed_and_counted),
        cmocka_unit_test(test_the_chosen_allocation_fails),
        cmocka_unit_test(test_grow),
        cmocka_unit_test(test_within),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
