/* Configurations in which anything may be. */
#include "tests/lh_random_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static void loose_int(lh_random *r, const lh_field *f, char *value)
{
    const double pool[] = {f->min,
                           f->max,
                           f->min - 1,
                           f->max + 1,
                           0,
                           1,
                           2,
                           3,
                           5,
                           7,
                           10,
                           13,
                           16,
                           17,
                           64,
                           100,
                           -1,
                           2147483647.0,
                           4294967296.0,
                           1e12,
                           1e15,
                           1000,
                           65536};
    double x = pool[lhi_random_below(r, sizeof pool / sizeof pool[0])];
    if (f->automatic != NULL && lhi_random_often(r, 6))
        (void)snprintf(value, LH_RANDOM_VALUE, "%s", f->automatic);
    else
        (void)snprintf(value, LH_RANDOM_VALUE, "%.0f", fabs(x) < 1e18 ? x : 9e18);
}

static void loose_real(lh_random *r, const lh_field *f, char *value)
{
    const double pool[] = {f->min, f->max, 0, 1, -1, 0.5, 1e-30, 1e-37, 1e30, 1e37, 0.999999, 2};
    (void)snprintf(value, LH_RANDOM_VALUE, "%.17g",
                   pool[lhi_random_below(r, sizeof pool / sizeof pool[0])]);
}

/* A list of a few integers, or a word, or one integer. */
static void loose_ints(lh_random *r, const lh_field *f, char *value)
{
    char one[LH_RANDOM_VALUE];
    size_t used = (size_t)snprintf(value, LH_RANDOM_VALUE, "[");
    for (int64_t n = lhi_random_below(r, 5); n > 0 && used < LH_RANDOM_VALUE / 2; n--) {
        loose_int(r, f, one);
        used +=
            (size_t)snprintf(value + used, LH_RANDOM_VALUE - used, "%s%s", one, n > 1 ? ", " : "");
    }
    (void)snprintf(value + used, LH_RANDOM_VALUE - used, "]");
    if (lhi_random_often(r, 4)) loose_int(r, f, value);
}

static void loose_value(lh_random *r, const lh_field *f, char *value)
{
    static const char *const paths[] = {"", "nothing.there", ".", "/", "/dev/null"};
    int64_t skip = 0;
    switch (f->type) {
    case LH_FIELD_INT:
        loose_int(r, f, value);
        return;
    case LH_FIELD_REAL:
        loose_real(r, f, value);
        return;
    case LH_FIELD_BOOL:
        (void)snprintf(value, LH_RANDOM_VALUE, "%s", lhi_random_often(r, 2) ? "true" : "false");
        return;
    case LH_FIELD_CHOICE: {
        const char *at = f->choices;
        for (skip = lhi_random_below(r, 16); skip > 0 && strchr(at, '|') != NULL; skip--)
            at = strchr(at, '|') + 1;
        (void)snprintf(value, LH_RANDOM_VALUE, "%.*s", (int)strcspn(at, "|"), at);
        return;
    }
    case LH_FIELD_REALS:
        (void)snprintf(value, LH_RANDOM_VALUE, "%s",
                       lhi_random_often(r, 2) ? "[0, 0]" : "[0.99, 0.9, 0.5]");
        return;
    case LH_FIELD_INTS:
        loose_ints(r, f, value);
        return;
    default:
        (void)snprintf(value, LH_RANDOM_VALUE, "%s", paths[lhi_random_below(r, 5)]);
        return;
    }
}

/* Where results go stays as it is, and how long the run is. */
static bool loose_is_fixed(const lhi_random_field *f)
{
    static const char *const steps[] = {"stall_seconds", "time_limit", "steps"};
    if (strcmp(f->key.section, "run") == 0 && strcmp(f->field->name, "seed") != 0) return true;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++)
        if (strcmp(f->field->name, steps[i]) == 0) return true;
    return false;
}

void lhi_random_loosen(lh_random *r)
{
    char value[LH_RANDOM_VALUE];
    for (int64_t n = lhi_random_between(r, 1, 6); n > 0; n--) {
        lhi_random_field f = lhi_random_any(r);
        if (loose_is_fixed(&f)) continue;
        loose_value(r, f.field, value);
        lhi_random_set(r, f.key, "%s", value);
    }
}
