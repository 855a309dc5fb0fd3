#pragma once
/* Attention by heads: what `mesh.exchange: ulysses` does to an lh_attend (parallel/spread.h).
 *
 *   q, k, v by position -> all-to-all -> positions of the group, own heads -> lh_attend over the ring of
 *   groups -> all-to-all -> outputs by position
 *
 * Where the last or first group of query heads of a rank is cut, its key/value head is on several
 * ranks. Relative positions: the second query, with its own bias, travels as well; each rank takes its
 * heads of the weight. */
#include "attention/attend.h"
#include "attention/band_cost.h"

/* lh_attend_over - lh_attend for self-attention as the mechanism's description says: by heads if it has
 * a spread, else as it is. a: made for all heads and the layout d->layout; its segments share one pair
 * of keys and values that lie by that layout, others lie everywhere. sight.limits: of the rows that
 * lh_attend_rows says. out [B, s, H, D] by position. Collective along the sequence. Sends what
 * lh_to_heads, lh_attend and lh_to_positions send. Errors: as lh_attend. */
LH_NODISCARD lh_status lh_attend_over(lh_tape *t, const lh_attn_desc *d, const lh_qkv *in,
                                      const lh_attend_desc *a, lh_var *out);

/* lh_attend_rows - layout of the rows whose queries this rank computes, and its rank in it.
 * lh_attend_documents - limits of their documents; NULL: none. Local. */
const lh_layout *lh_attend_rows(const lh_attn_desc *d, int sequence_rank, int *rank);
const int32_t *lh_attend_documents(const lh_attn_desc *d, const lh_qkv *in);

/* lh_heads_cost - adds to *c what query heads head .. head + n_heads - 1 with one pattern cost this
 * rank (lh_comb_cost), whatever the exchange: by heads, only those that it holds, over the ring.
 * band->heads and kv_heads are set here. Local, pure. Errors: as lh_comb_cost.
 * lh_spread_cost - and what the all-to-all sends, if there is one. With s own rows, S rows of the
 * group, h and g own query and key/value heads, g(u) those of rank u of the group, x = 1, with relative
 * positions 2:
 *   in = x (H - h) + 2 (sum over u of g(u) - g);  out = x h + 2 g
 *   forward  = B D (s in + (S - s) h);  backward = B D (s (H - h) + (S - s) out)   elements
 * Local, pure. */
LH_NODISCARD lh_status lh_heads_cost(const lh_attn_desc *d, lh_band band, int64_t head,
                                     int64_t n_heads, int ranks, int rank, lh_cost *c);
void lh_spread_cost(const lh_attn_desc *d, int rank, lh_cost *c);
