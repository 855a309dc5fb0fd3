#pragma once
/* What every test includes: cmocka and the assertions of one process.
 *
 * In a program that runs on several ranks assert only with lh_assert_all and its relatives of
 * lh_test_mpi.h, which all ranks make together: a lone assertion jumps out of one rank and leaves
 * the others waiting. */

/* cmocka before 1.1.6 needs these four before it, in no sorted order. */
/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "core/status.h"

/* lh_assert_ok - the call returns LH_OK; else the error's text and place are printed. Local. */
#define lh_assert_ok(call) lh_test_status((call), LH_OK, #call, __FILE__, __LINE__)

/* lh_assert_code - the call returns this code. Local. */
#define lh_assert_code(call, code) lh_test_status((call), (code), #call, __FILE__, __LINE__)

/* lh_assert_error - the call returns this code and its message contains text. Local. */
#define lh_assert_error(call, code, text)                                                          \
    lh_test_error((call), (code), (text), #call, __FILE__, __LINE__)

/* lh_assert_close - |actual - expected| <= relative * |expected| + absolute, and both finite.
 * Local. */
#define lh_assert_close(actual, expected, relative, absolute)                                      \
    lh_test_close((actual), (expected), (relative), (absolute), #actual, __FILE__, __LINE__)

/* lh_test_within - the comparison of lh_assert_close; false when a value is not finite. Local. */
bool lh_test_within(double actual, double expected, double relative, double absolute);

/* lh_test_isa - the instruction set of the tests' devices: LH_TEST_ISA, else "auto". Local. */
const char *lh_test_isa(void);

/* lh_test_reports - does the environment ask for figures (LH_TEST_REPORT=1)? Local. */
bool lh_test_reports(void);

/* lh_test_report - one line of figures on standard error, where they are asked for: "parity CASE
 * QUANTITY ERROR TOLERANCE" or "bytes ..."; the ranks print for themselves. Local. */
void lh_test_report(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* What the macros above call. Local. */
void lh_test_status(lh_status got, lh_status want, const char *call, const char *file, int line);
void lh_test_error(lh_status got, lh_status want, const char *text, const char *call,
                   const char *file, int line);
void lh_test_close(double actual, double expected, double relative, double absolute,
                   const char *what, const char *file, int line);
