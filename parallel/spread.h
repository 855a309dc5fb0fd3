#pragma once
/* Attention's heads spread over ranks (Jacobs et al. 2023, DeepSpeed-Ulysses), and with the ring
 * (Fang and Zhao 2024, USP): `ways` neighbouring ranks of the sequence form a group. An all-to-all
 * within it turns values that lie by position into values that lie by heads: each rank then has the
 * positions of its whole group, for some of the heads. Attention runs on these; the ranks with the
 * same number in their groups exchange keys and values (the mesh's `ring`; none with ways = all
 * ranks). A second all-to-all brings the outputs back.
 *
 * Rank u of a group has the query heads floor(u H / ways) .. floor((u + 1) H / ways) - 1 of H, perhaps
 * none, and the key/value heads that these use: a key/value head may be on several ranks, and its
 * gradient is then the sum over them. So neither H nor G needs to be a multiple of anything. */
#include "core/tape.h"
#include "parallel/comm.h"

typedef struct lh_spread {
    int ways;              /* ranks of a group: U */
    const lh_layout *from; /* by position, over all ranks of the sequence; borrowed */
    lh_layout *to; /* the positions of the groups, ascending, over ranks / ways "ranks"; owned */
} lh_spread;

/* lh_spread_create - Local, pure. ways >= 2 divides from->ranks; from: runs of stride 1, as contiguous
 * and zigzag have. Borrows from. The caller destroys *out. Errors: LH_ERR_UNSUP (another layout),
 * LH_ERR_BUG, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_spread_create(const lh_layout *from, int ways, lh_spread **out);
/* lh_spread_destroy - release it and null the handle. Local. */
void lh_spread_destroy(lh_spread **spread);

/* The query heads of a rank, and the key/value heads that they use. */
typedef struct lh_head_range {
    int64_t head, n_heads, kv_first, kv_heads;
} lh_head_range;

/* lh_spread_heads - those of rank `member` of a group of `ways`. Local, pure. kv_heads divides heads. */
lh_head_range lh_spread_heads(int64_t heads, int64_t kv_heads, int ways, int member);

/* Values that travel together. */
enum { LH_SPREAD_VALUES = 4 };
typedef struct lh_spread_desc {
    lh_mesh *mesh; /* split by spread->ways */
    const lh_spread *spread;
    int64_t heads, kv_heads; /* H, G of all ranks */
} lh_spread_desc;

/* lh_to_heads - y[i] [B, s of the group, heads of this rank, D] of x[i] [B, s, H, D] (or, kv[i], G
 * key/value heads), which lies by spread->from: it then lies as HEADS by spread->to. n <=
 * LH_SPREAD_VALUES in one message per pair of ranks. Collective on the group. Sends, in elements per
 * sequence: forward s D times the heads that other ranks of the group get (a key/value head once for
 * each); backward (s of the others) D (own heads). Adjoint: row gradients go home and are added in the
 * order of distance.
 * lh_to_positions - y [B, s, H, D] by position of x [B, s of the group, own query heads, D]: the
 * inverse for query heads, and its adjoint. Sends what that one sends, the other way round.
 * desc: its mesh and spread are borrowed until the tape is reset. Errors: LH_ERR_BUG, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_to_heads(lh_tape *t, const lh_spread_desc *desc, int n, const lh_var *x,
                                   const bool *kv, lh_var *y);
LH_NODISCARD lh_status lh_to_positions(lh_tape *t, const lh_spread_desc *desc, lh_var x, lh_var *y);

/* lh_own_part - of a value that is replicated along the sequence, indices first .. first + count - 1 of
 * dimension dim: this rank's heads of it, by any rule. It lies as HEADS, with `layout` (NULL: dimension
 * dim is the heads; else dim - 1 is positions, lh_layout_everywhere). Adjoint: adds into that part;
 * ranks' sums are the gradient. Local. */
typedef struct lh_part_desc {
    int dim;
    int64_t first, count;
    const lh_layout *layout;
} lh_part_desc;
LH_NODISCARD lh_status lh_own_part(lh_tape *t, const lh_part_desc *part, lh_var x, lh_var *y);
