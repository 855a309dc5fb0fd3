#include "experiments/units.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

const char *lh_units_length(double x, char *text)
{
    if (x >= 1048576.0 && fmod(x, 1048576.0) == 0.0)
        (void)snprintf(text, LH_UNITS_TEXT, "%gM", x / 1048576.0);
    else if (x >= 1024.0 && fmod(x, 1024.0) == 0.0)
        (void)snprintf(text, LH_UNITS_TEXT, "%gk", x / 1024.0);
    else if (fabs(x) < 1e15 && x == floor(x))
        (void)snprintf(text, LH_UNITS_TEXT, "%.0f", x);
    else
        (void)snprintf(text, LH_UNITS_TEXT, "%.4g", x);
    return text;
}

/* Digits only, so that neither signs nor hexadecimal numbers pass. Returns what follows; NULL: no number. */
static const char *units_number(const char *text, double *x)
{
    size_t digits = strspn(text, "0123456789.");
    char *end = NULL;
    if (digits == 0 || digits > 15) return NULL;
    *x = strtod(text, &end);
    return end == text + digits ? end : NULL;
}

/* MM:SS or HH:MM:SS; more than 59 only in front. */
static bool units_clock(const char *text, double *seconds)
{
    double x = 0.0;
    int parts = 0;
    const char *at = text;
    *seconds = 0.0;
    do {
        at = units_number(parts > 0 ? at + 1 : at, &x);
        if (at == NULL || x != floor(x) || (parts > 0 && x > 59.0)) return false;
        *seconds = *seconds * 60.0 + x;
        parts++;
    } while (*at == ':');
    return *at == '\0' && (parts == 2 || parts == 3);
}

bool lh_units_duration(const char *text, double *seconds)
{
    static const struct {
        const char *name;
        double seconds;
    } unit[] = {{"", 1.0}, {"s", 1.0}, {"m", 60.0}, {"h", 3600.0}, {"d", 86400.0}};
    double x = 0.0;
    const char *after = units_number(text, &x);
    *seconds = 0.0;
    if (after == NULL) return false;
    if (*after == ':') return units_clock(text, seconds) && *seconds > 0.0;
    if (*after == '-' && x == floor(x) && units_clock(after + 1, seconds)) {
        *seconds += 86400.0 * x;
        return *seconds > 0.0;
    }
    *seconds = 0.0;
    for (size_t i = 0; i < sizeof unit / sizeof unit[0]; i++)
        if (strcmp(after, unit[i].name) == 0) *seconds = x * unit[i].seconds;
    return *seconds > 0.0;
}
