/* The harness itself: this program must fail (exit code 1), else no test means anything. */
#include "tests/lh_test.h"

static void test_that_fails(void **state)
{
    (void)state;
    lh_assert_close(1.0, 2.0, 1e-6, 0.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_that_fails)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
