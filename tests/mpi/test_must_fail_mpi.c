/* The harness itself: one rank fails, the program must end on all ranks with exit code 1. */
#include "tests/lh_test_mpi.h"

static void test_that_fails_on_the_last_rank(void **state)
{
    lh_comm *comm = *state;
    lh_assert_all(comm, lh_comm_rank(comm) != lh_comm_size(comm) - 1);
    lh_barrier(comm);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_that_fails_on_the_last_rank)};
    return lh_test_mpi_main(argc, argv, "must_fail_mpi", tests, sizeof tests / sizeof tests[0]);
}
