#pragma once
/* Landmarks: a sequence of keys (or values) is projected to k rows (Wang et al. 2020, section 4).
 *
 *   learned   y[r] = sum over positions p of E[p, r] x[p]                 (eq. 7; E sharded as x)
 *   mean      y[r] = mean of x over block r                              (section 4, pooling)
 *   conv      y[r] = sum over p of block r of W[:, :, p - start of r] x[p]   (kernel = stride)
 *
 * Every rank adds up its own positions, so y is PARTIAL along the sequence: an all-reduce makes it
 * whole. Its size does not depend on the length. Blocks are cut in the length for which the
 * projection was made: a shorter sequence fills the first of them. */
#include "core/tape.h"

typedef enum lh_landmark_kind {
    LH_LANDMARK_LEARNED,
    LH_LANDMARK_MEAN,
    LH_LANDMARK_CONV
} lh_landmark_kind;

typedef struct lh_landmarks_desc {
    lh_landmark_kind kind;
    int64_t head, heads; /* heads head .. head + heads - 1 of x are projected */
    int64_t k;           /* rows of y */
    /* mean, conv: `blocks` blocks of as equal size as possible (conv: of equal size) cut `length`
     * positions; k of them are made, those that begin within the sequence */
    int64_t blocks, length;
    /* w of the first head begins at column (learned) or row (conv) `start`, of each next one `step`
     * further; step 0: all heads share it */
    int64_t start, step;
    /* host [B]: x is taken as 0 at positions >= valid[b]; NULL: all are valid. Borrowed until the
     * tape is reset; not read on the device count. */
    const int64_t *valid;
} lh_landmarks_desc;

/* lh_landmarks - y [B, k, heads, D] of x [B, s, G, D], which is sharded by position. w: learned [s,
 * columns], sharded by the same layout (dimension 0); conv [rows, D, length / blocks], replicated,
 * as Conv1d stores it; mean: the null variable. Landmarks whose block holds no position are 0.
 * Products run chunk by chunk, in order. Local. Errors: LH_ERR_BUG for shapes, ranges or placements
 * that do not fit. */
LH_NODISCARD lh_status lh_landmarks(lh_tape *t, const lh_landmarks_desc *d, lh_var x, lh_var w,
                                    lh_var *y);

/* lh_landmarks_reached - of `blocks` blocks that cut `length` positions, those that begin before
 * position n <= length. Local, pure. */
int64_t lh_landmarks_reached(int64_t blocks, int64_t length, int64_t n);
