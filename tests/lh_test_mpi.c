#include "tests/lh_test_mpi.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* All ranks fail or none; the text was printed by the ranks where it happened. */
static void test_mpi_join(lh_comm *comm, bool ok, const char *file, int line)
{
    int64_t failed = !ok;
    lh_max_i64(comm, &failed, 1, LH_SEND_OTHER);
    if (failed) _fail(file, line);
}

void lh_test_all(lh_comm *comm, bool ok, const char *what, const char *file, int line)
{
    if (!ok) print_error("rank %d: %s is false\n", lh_comm_rank(comm), what);
    test_mpi_join(comm, ok, file, line);
}

void lh_test_all_status(lh_comm *comm, lh_status got, lh_status want, const char *call,
                        const char *file, int line)
{
    if (got != want)
        print_error("rank %d: %s: '%s', expected '%s'\n", lh_comm_rank(comm), call,
                    lh_status_text(got), lh_status_text(want));
    if (got != want && got != LH_OK) print_error("  %s (%s)\n", lh_error_text(), lh_error_where());
    test_mpi_join(comm, got == want, file, line);
}

void lh_test_all_close(lh_comm *comm, double actual, double expected, double relative,
                       double absolute, const char *what, const char *file, int line)
{
    bool ok = lh_test_within(actual, expected, relative, absolute);
    if (!ok)
        print_error("rank %d: %s: %.17g, expected %.17g; difference %.3g, allowed %.3g\n",
                    lh_comm_rank(comm), what, actual, expected, fabs(actual - expected),
                    relative * fabs(expected) + absolute);
    test_mpi_join(comm, ok, file, line);
}

int lh_test_mpi_main(int argc, char **argv, const char *name, const struct CMUnitTest *tests,
                     size_t n)
{
    lh_comm *comm = NULL;
    struct CMUnitTest *mine = NULL;
    int64_t failed = 1;
    lh_status st = lh_init(&argc, &argv);
    if (st == LH_OK) st = lh_comm_world(&comm);
    if (st == LH_OK) st = lh_agree(comm, lh_new(n * sizeof *mine, &mine));
    if (st == LH_OK) {
        memcpy(mine, tests, n * sizeof *mine);
        for (size_t i = 0; i < n; i++) mine[i].initial_state = comm;
        /* one rank reports what all ranks share; the others print what fails on them */
        if (lh_comm_rank(comm) != 0 && freopen("/dev/null", "w", stdout) == NULL)
            print_error("rank %d: standard output stays open\n", lh_comm_rank(comm));
        failed = _cmocka_run_group_tests(name, mine, n, NULL, NULL);
        lh_max_i64(comm, &failed, 1, LH_SEND_OTHER);
    } else {
        (void)fprintf(stderr, "%s: %s (%s)\n", name, lh_error_text(), lh_error_where());
    }
    lh_free(&mine);
    lh_comm_destroy(&comm);
    lh_finalize();
    return failed != 0;
}
