#include "tests/lh_test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void lh_test_status(lh_status got, lh_status want, const char *call, const char *file, int line)
{
    if (got == want) return;
    print_error("%s: '%s', expected '%s'\n", call, lh_status_text(got), lh_status_text(want));
    if (got != LH_OK) print_error("  %s (%s)\n", lh_error_text(), lh_error_where());
    _fail(file, line);
}

void lh_test_error(lh_status got, lh_status want, const char *text, const char *call,
                   const char *file, int line)
{
    lh_test_status(got, want, call, file, line);
    if (strstr(lh_error_text(), text) != NULL) return;
    print_error("%s: the message '%s' does not contain '%s'\n", call, lh_error_text(), text);
    _fail(file, line);
}

bool lh_test_within(double actual, double expected, double relative, double absolute)
{
    if (!isfinite(actual) || !isfinite(expected)) return false;
    return fabs(actual - expected) <= relative * fabs(expected) + absolute;
}

void lh_test_close(double actual, double expected, double relative, double absolute,
                   const char *what, const char *file, int line)
{
    if (lh_test_within(actual, expected, relative, absolute)) return;
    print_error("%s: %.17g, expected %.17g; difference %.3g, allowed %.3g\n", what, actual,
                expected, fabs(actual - expected), relative * fabs(expected) + absolute);
    _fail(file, line);
}

const char *lh_test_isa(void)
{
    const char *asked = getenv("LH_TEST_ISA");
    return asked != NULL && asked[0] != '\0' ? asked : "auto";
}

bool lh_test_reports(void)
{
    const char *asked = getenv("LH_TEST_REPORT");
    return asked != NULL && strcmp(asked, "1") == 0;
}

void lh_test_report(const char *format, ...)
{
    char line[512]; /* written at once: ranks share the stream */
    va_list args;
    if (!lh_test_reports()) return;
    va_start(args, format);
    (void)vsnprintf(line, sizeof line, format, args);
    va_end(args);
    (void)fprintf(stderr, "%s\n", line);
}
