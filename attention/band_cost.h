#pragma once
/* Cost of a band pattern on a contiguous layout, by formula: what full and sliding-window attention
 * predict with. */
#include "attention/attention.h"

/* lh_band_cost - rows of rank r that others need, rows r receives, scores it computes, for lo <= j
 * - i <= hi, from the shards' borders alone. A band without limit on one side is always fetched
 * again for the backward. Local, pure.
 *   sent(r)     = sum over q != r with queries of |own(r) n [start_q + lo, end_q - 1 + hi]|
 *   received(r) = |[start_r + lo, end_r - 1 + hi] n [0, N)| - n_r     (0 without queries)
 *   forward = 2 B G D sent;  backward = 2 B G D received, + forward unless received(q) <= largest shard for every q */
LH_NODISCARD lh_status lh_band_cost(const lh_attn_desc *d, int64_t lo, int64_t hi, int ranks,
                                    int rank, lh_cost *c);
