#pragma once
/* Shared by the operation files: iteration over the blocks of token values, and placement rules. */
#include "core/ops.h"

/* Blocks of a value [B, s, ...]: for each sequence each piece of the layout, in order. at: flat row
 * b s + row. */
typedef struct lhi_blocks {
    int64_t batch, rows, b;
    const lh_layout *layout;
    int rank;
    lh_pieces pieces;
    lh_piece piece;
    int64_t at, count;
} lhi_blocks;

/* lhi_blocks_of - blocks of input i of the call, which is [B, s, ...]. */
lhi_blocks lhi_blocks_of(const lh_call *c, int i);
bool lhi_block_next(lhi_blocks *it);

/* lhi_block_max - rows of the largest block: the bound of scratch memory. */
int64_t lhi_block_max(const lhi_blocks *it);

/* The address of element `index` of type real. */
static inline const void *lhi_at(const void *p, int64_t index)
{
    return (const lh_real *)p + index;
}
static inline void *lhi_at_mut(void *p, int64_t index)
{
    return (lh_real *)p + index;
}

/* lhi_place_tokens - outputs lie as input 0, which must not be PARTIAL; other inputs are REPLICATE.
 * lhi_place_equal - all inputs and outputs lie the same. */
lh_status lhi_place_tokens(const lh_call *c, const lh_place *in, lh_place *out);
lh_status lhi_place_equal(const lh_call *c, const lh_place *in, lh_place *out);

/* lhi_last - size of the last dimension. */
static inline int64_t lhi_last(const lh_shape *s)
{
    return s->dim[s->ndim - 1];
}
