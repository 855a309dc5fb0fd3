#pragma once
/* How long operations take: as longhaul bench step measured them. A file of rates is what it printed, one
 * object a line; each is the rates of its mechanism and kind of model. */
#include "core/profile.h"

enum { LH_RATES_NAME = 64 };

/* One operation in one direction, of one line. */
typedef struct lh_rate {
    char name[LH_RATES_NAME];
    lh_direction direction;
    double per_flop; /* seconds; 0: it has no flops, and takes its time by bytes */
    double per_byte; /* 0: it has none either */
} lh_rate;

/* A model that was measured. */
typedef struct lh_rate_set {
    char mechanism[LH_RATES_NAME * 2], kind[LH_RATES_NAME];
    lh_rate item[LH_PROFILE_ITEMS];
    int count;
    double memory; /* seconds per byte of rows that are moved */
    int64_t lines; /* whose mean this is */
} lh_rate_set;

typedef struct lh_rates {
    lh_rate_set *set; /* [count] */
    int64_t count, capacity;
} lh_rates;

/* lh_rates_read - read a file. Local. The caller frees *out, also after an error. Errors: LH_ERR_USAGE
 * with file and line, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_rates_read(const char *path, lh_rates *out);
void lh_rates_free(lh_rates *r);

/* lh_rates_of - those of a mechanism and kind of model; several lines of one are their mean. Local. *out is
 * borrowed from r. Errors: LH_ERR_USAGE: the file has none. */
LH_NODISCARD lh_status lh_rates_of(const lh_rates *r, const char *mechanism, const char *kind,
                                   const lh_rate_set **out);

/* lh_rate_find - an operation's; recompute: that of forward where it was not measured. NULL: none. Local. */
const lh_rate *lh_rate_find(const lh_rate_set *s, const char *name, lh_direction direction);
