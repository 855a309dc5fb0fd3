#include "experiments/units.h"

#include <inttypes.h>
#include <stdio.h>

static const char *units_scaled(double x, double step, const char *const unit[], char *text)
{
    int i = 0;
    while (x >= 999.5 && unit[i + 1] != NULL) {
        x /= step;
        i++;
    }
    int digits = i == 0 || x >= 99.95 ? 0 : x >= 9.995 ? 1 : 2;
    (void)snprintf(text, LH_UNITS_TEXT, "%.*f%s%s", digits, x, unit[i][0] == '\0' ? "" : " ",
                   unit[i]);
    return text;
}

const char *lh_units_bytes(double x, char *text)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", NULL};
    return units_scaled(x, 1024.0, unit, text);
}

const char *lh_units_flops(double x, char *text)
{
    static const char *const unit[] = {"FLOP",  "KFLOP", "MFLOP", "GFLOP",
                                       "TFLOP", "PFLOP", "EFLOP", NULL};
    return units_scaled(x, 1000.0, unit, text);
}

const char *lh_units_range(int64_t least, int64_t most, char *text)
{
    if (least == most)
        (void)snprintf(text, LH_UNITS_TEXT, "%" PRId64, least);
    else
        (void)snprintf(text, LH_UNITS_TEXT, "%" PRId64 "-%" PRId64, least, most);
    return text;
}

const char *lh_units_count(double x, char *text)
{
    static const char *const unit[] = {"", "K", "M", "G", "T", "P", NULL};
    if (x >= 100000.0) return units_scaled(x, 1000.0, unit, text);
    (void)snprintf(text, LH_UNITS_TEXT, "%.0f", x);
    return text;
}
