#pragma once
/* Assertions that all ranks make together, and the main of a program that runs on several ranks.
 *
 * A lone assertion jumps out of one rank and leaves the others waiting in the next message; so the
 * condition is reduced first, and all ranks fail at the same place. */
#include "parallel/comm.h"
#include "tests/lh_test.h"

/* lh_assert_all - the condition holds on every rank. Collective on comm: never under a
 * rank-dependent branch. The ranks where it does not hold print it. Traffic: as lh_max_i64 of one
 * number, LH_SEND_OTHER. */
#define lh_assert_all(comm, cond) lh_test_all((comm), (cond), #cond, __FILE__, __LINE__)

/* lh_assert_all_ok - the call returns LH_OK on every rank; the errors' texts are printed.
 * Collective on comm. */
#define lh_assert_all_ok(comm, call)                                                               \
    lh_test_all_status((comm), (call), LH_OK, #call, __FILE__, __LINE__)

/* lh_assert_all_code - the call returns this code on every rank. Collective on comm. */
#define lh_assert_all_code(comm, call, code)                                                       \
    lh_test_all_status((comm), (call), (code), #call, __FILE__, __LINE__)

/* lh_assert_all_close - lh_assert_close on every rank. Collective on comm. */
#define lh_assert_all_close(comm, actual, expected, relative, absolute)                            \
    lh_test_all_close((comm), (actual), (expected), (relative), (absolute), #actual, __FILE__,     \
                      __LINE__)

/* lh_test_mpi_main - start MPI, run the tests, each with *state = a communicator of all ranks
 * (lh_comm *, borrowed), end MPI. Collective on all processes. Returns what main returns: 0, or 1
 * on every rank if a test failed on any. */
int lh_test_mpi_main(int argc, char **argv, const char *name, const struct CMUnitTest *tests,
                     size_t n);

/* What the macros above call. Collective on comm. */
void lh_test_all(lh_comm *comm, bool ok, const char *what, const char *file, int line);
void lh_test_all_status(lh_comm *comm, lh_status got, lh_status want, const char *call,
                        const char *file, int line);
void lh_test_all_close(lh_comm *comm, double actual, double expected, double relative,
                       double absolute, const char *what, const char *file, int line);
