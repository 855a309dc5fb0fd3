#pragma once
/* Patterns: may position i (a query) see position j (a key)?
 *
 * A pattern answers for two positions, for two ranges of positions (EMPTY, MIXED or FULL), and
 * gives for a range of queries the runs of keys that they may see. Patterns compose by AND and OR.
 * They are pure values, whose operands and lists are borrowed from whoever declares them. */
#include "core/layout.h"

typedef enum lh_cover { LH_EMPTY, LH_MIXED, LH_FULL } lh_cover;

typedef struct lh_range {
    int64_t begin, end; /* positions begin .. end - 1 */
} lh_range;

typedef struct lh_pattern lh_pattern;

typedef struct lh_pattern_ops {
    const char *name;                                        /* part of the plan's key */
    bool (*sees)(const lh_pattern *p, int64_t i, int64_t j); /* required */
    lh_cover (*cover)(const lh_pattern *p, lh_range q,
                      lh_range k); /* required; MIXED is always allowed */
    lh_status (*needs)(const lh_pattern *p, lh_range q, int64_t n,
                       lh_runs *out); /* required: ascending, within 0 .. n-1; may be
                                                                                     more than is seen, never less */
    /* optional: sees(i, j) is exactly: j - i = o step with lo <= o <= hi (a band: step 1) */
    bool (*comb)(const lh_pattern *p, int64_t *lo, int64_t *hi, int64_t *step);
} lh_pattern_ops;

/* Distances as far as any sequence: "no limit". */
#define LH_FAR (INT64_MAX / 4)

struct lh_pattern {
    const lh_pattern_ops *ops;
    int64_t arg[4];                 /* the pattern's numbers: a band's lo and hi, a comb's step */
    const lh_pattern *left, *right; /* operands of AND and OR; borrowed */
    const int64_t *list;            /* positions [n_list], ascending; borrowed */
    int64_t n_list;
};

/* lh_pattern_band - lo <= j - i <= hi. All: (-LH_FAR, LH_FAR). Causal: (-LH_FAR, 0). Window h: (-h,
 * 0) or (-h, h). Local. */
lh_pattern lh_pattern_band(int64_t lo, int64_t hi);

/* lh_pattern_dilated - j - i = o step, lo <= o <= hi (Beltagy et al. 2020, section 3.1: dilation step
 * - 1 gaps). step 1 is the band. step >= 1. Local. */
lh_pattern lh_pattern_dilated(int64_t lo, int64_t hi, int64_t step);

/* lh_pattern_columns, lh_pattern_rows - keys, or queries, at the listed positions (ascending,
 * borrowed): global tokens. lh_pattern_documents - both positions in the same document; begin:
 * first positions of the documents, ascending, the first is 0. Local. */
lh_pattern lh_pattern_columns(const int64_t *position, int64_t n);
lh_pattern lh_pattern_rows(const int64_t *position, int64_t n);
lh_pattern lh_pattern_documents(const int64_t *begin, int64_t n);

/* lh_pattern_and, lh_pattern_or - composition; operands are borrowed. The AND of two bands is a
 * band, of two combs a comb. Local. */
lh_pattern lh_pattern_and(const lh_pattern *a, const lh_pattern *b);
lh_pattern lh_pattern_or(const lh_pattern *a, const lh_pattern *b);

/* Queries: forward to the table. Local. */
bool lh_pattern_sees(const lh_pattern *p, int64_t i, int64_t j);
lh_cover lh_pattern_cover(const lh_pattern *p, lh_range q, lh_range k);
LH_NODISCARD lh_status lh_pattern_needs(const lh_pattern *p, lh_range q, int64_t n, lh_runs *out);
bool lh_pattern_is_band(const lh_pattern *p, int64_t *lo, int64_t *hi);
bool lh_pattern_is_comb(const lh_pattern *p, int64_t *lo, int64_t *hi, int64_t *step);

/* lh_pattern_key - a text that is equal exactly for equal patterns (lists by a 64-bit digest of their
 * content), appended to buf of `bytes`. Local. Errors: LH_ERR_BUG when it does not fit. */
LH_NODISCARD lh_status lh_pattern_key(const lh_pattern *p, char *buf, size_t bytes);

/* lh_pattern_digest - 128 bits of that text, however long it is; returns its length. Local. */
size_t lh_pattern_digest(const lh_pattern *p, uint64_t digest[2]);
