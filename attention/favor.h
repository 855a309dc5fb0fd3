#pragma once
/* Linear attention by feature maps as operations of the tape: FAVOR+ (Choromanski et al. 2021,
 * "Rethinking Attention with Performers", sections 2.2 - 2.4 and algorithm 1).
 *
 *   o_i = phi(q_i)^T S_i / phi(q_i)^T z_i,   [S_i | z_i] = sum of phi(k_j) [v_j | 1] over j
 *
 * over all valid j, or causally over j <= i. What travels between ranks is the summary [S | z] and,
 * for the stabilised maps, one maximum per key head; both are independent of the length. Features
 * are computed block by block, forward and again backward, so that nothing of s x M exists. Blocks
 * are cut at global positions: what a row gets does not depend on the number of ranks, but for the
 * order in which ranks add up.
 *
 * The stabiliser of keys is the maximum over all valid rows of the sequence and all features, for
 * each batch row and key head; no gradient passes it (nor the queries' own maxima). It cancels in
 * o but for eps; so in causal attention later keys weigh eps, and nothing else. */
#include "attention/attention.h"

enum { LH_FAVOR_BLOCK = 128 }; /* rows whose features exist at a time */

/* What is added to z in causal attention, as performer-pytorch does; bidirectional has no guard. */
#define LH_FAVOR_GUARD 1e-6

typedef struct lh_favor {
    lh_feature_kind kind;
    int64_t features; /* M: rows of w */
    double epsilon;
    bool causal;
    const lh_layout *layout; /* of q, k, v */
    /* host [B], borrowed until the tape is reset: rows at positions >= valid[b] have phi(k) = 0, in
     * S and in z; NULL: all are valid */
    const int64_t *valid;
    lh_var q, k, v; /* [B, s, H, D], [B, s, G, D] twice, H a multiple of G */
    lh_var w;       /* [M, D], replicated; none: W is the identity and M is D */
} lh_favor;

/* lh_favor_max - c [B, G]: the largest exponent among this rank's keys, -inf without any; a maximum
 * over ranks makes the stabiliser. Stabilised kinds only. Local. Errors: LH_ERR_BUG. */
LH_NODISCARD lh_status lh_favor_max(lh_tape *t, const lh_favor *f, lh_var *c);

/* lh_favor_sum - s [R, B, G, M', D + 1]: this rank's [S | z], M' = lh_feature_width. Bidirectional:
 * R = 1, PARTIAL along the sequence, for lh_all_reduce; causal: one for each run of the rank's rows,
 * as lh_scan takes them. c [B, G], replicated along the sequence; none for kinds without. Local. */
LH_NODISCARD lh_status lh_favor_sum(lh_tape *t, const lh_favor *f, lh_var c, lh_var *s);

/* lh_favor_out - o [B, s, H, D] from s, the sum over all rows (replicated) or, causal, the sum over
 * the rows before each run. Local. */
LH_NODISCARD lh_status lh_favor_out(lh_tape *t, const lh_favor *f, lh_var c, lh_var s, lh_var *o);

/* lh_favor_attend - all of it: o [B, s, H, D]. Collective along the sequence. Sends, as
 * LH_SEND_SUMMARY, B G numbers (stabilised kinds) and B G M' (D + 1), or as lh_scan_sends says,
 * forward; the latter again backward. Errors: LH_ERR_UNSUP for a layout that lh_scan refuses. */
LH_NODISCARD lh_status lh_favor_attend(lh_tape *t, lh_mesh *mesh, const lh_favor *f, lh_var *o);

/* lh_favor_squares - sum of count^2 over the blocks into which a rank's rows are cut: what products
 * within blocks cost. Local, pure. */
int64_t lh_favor_squares(const lh_layout *l, int rank);
