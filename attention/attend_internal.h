#pragma once
/* Shared by attend.c, which records, and attend_passes.c, what forward and backward do. */
#include "attention/attend.h"

/* Outputs: kept holds the received rows of all segments that keep them. */
enum { LHI_ATTEND_O, LHI_ATTEND_LSE, LHI_ATTEND_KEPT, LHI_ATTEND_OUTPUTS };
enum { LHI_ATTEND_INPUTS = 1 + 2 * LH_SEGMENTS + 2 };

/* One segment as it is recorded. Heads: of queries, and the key/value heads that they use. */
typedef struct lhi_attend_part {
    const lh_plan *plan;
    lh_sight sight;
    int in[2]; /* inputs that are k and v */
    int64_t head, n_heads, kv_first, kv_heads;
    int64_t own_first;         /* first key/value head that k and v hold */
    int64_t kept;              /* first element in the output `kept` */
    const lh_pattern *pattern; /* pattern, keys: for lhi_attend_seen */
    const lh_layout *keys;
} lhi_attend_part;

typedef struct lhi_attend_attrs {
    lh_comm *comm;
    double scale;
    int64_t kv_heads, group, skew;
    int relative_q, relative_weight; /* inputs; 0: no relative term */
    int n_segments;
    lhi_attend_part part[LH_SEGMENTS];
    int64_t batch; /* batch to queries: for lhi_attend_seen */
    int64_t first_head;
    const lh_layout *queries;
} lhi_attend_attrs;

/* lhi_attend_forward, lhi_attend_vjp - of the operation. Collective on its communicator. Errors: as lh_in and
 * lh_scratch. */
LH_NODISCARD lh_status lhi_attend_forward(lh_call *c);
LH_NODISCARD lh_status lhi_attend_vjp(lh_call *c);
