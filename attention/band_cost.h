#pragma once
/* Cost of a band or comb pattern by formula, from the borders of the shards alone: what full,
 * sliding-window and dilated attention predict with. */
#include "attention/attention.h"

/* A group of heads with one pattern: j - i = o step, lo <= o <= hi (lh_pattern_dilated). */
typedef struct lh_band {
    int64_t lo, hi, step; /* step 1: a band. Beyond LH_FAR: no limit on that side */
    int64_t kv_heads;     /* whose rows travel */
    double heads;         /* whose scores are computed */
} lh_band;

/* lh_comb_cost - adds to *c (zeroed by the caller) what rank `rank` of `ranks` sends, computes and
 * keeps for one group of heads. Layouts: every rank holds stretches (stride 1) in ascending order,
 * as contiguous and zigzag do. Local, pure. With need(q) = the union over the stretches [a, b) of q of
 * { [a + o step, b + o step) n [0, N), lo <= o <= hi }:
 *   sent(r)     = sum over q != r of |own(r) n need(q)|
 *   received(r) = |need(r)| - |own(r) n need(r)|
 *   forward = 2 B G D sent;  backward = 2 B G D received, + forward unless rows are kept: without limit on a
 *   side never, else if received(q) <= largest shard for every q
 * Errors: LH_ERR_UNSUP for other layouts; LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_comb_cost(const lh_attn_desc *d, const lh_band *band, int ranks, int rank,
                                    lh_cost *c);
