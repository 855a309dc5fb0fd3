/* Attention tiles: one source for every element type and vector width. Included once by each
 * tiles_*.c, which defines before:
 *   TILE_SLOT(slot)        the exported name of a slot
 *   real, vec, ivec, LANES element, vector of LANES elements, signed integer vector of the same shape
 *   SCORE_ROWS, SCORE_VECS register block of the score products: keys x vectors of queries (SCORE_VECS <= 3)
 *   OUT_ROWS, OUT_VECS     register block of the other products (OUT_VECS == 2)
 *   TILE_OWN_BASICS        if it brings vec_splat, vec_max and vec_transpose of its own, with its own instructions
 *   TILE_OWN_EXP2          if it brings vec_exp2 of its own; else
 *   EXP2_SHIFT, EXP2_LOWEST, EXP2_COEFFICIENTS   of the generic one
 *   TILE_BF16              if products take bfloat16 operands (core/tile_bf16.h)
 *   GEMM_ELSE              if it brings matrix products too (core/gemm_body.h): the slot for those it leaves
 * Needs -ffp-contract=fast: products and sums become fused multiply-adds.
 *
 * How it works. A work item is one (batch row, key/value head). It is cut into units, and these into
 * runs of at most PACK_ROWS rows of keys, whose keys and values are packed row by row with padded
 * width, and serve all query blocks of the unit and all query heads of the head group. A query block (<= 96 rows) is packed transposed, so that scores are made transposed,
 * P^T[key][query]: the query index is the vector lane, maxima and sums over keys need no shuffles,
 * and P^T is already the left operand that the product with V wants. With K, V, Q, dO kept row by
 * row and Q, dO also transposed, all seven products read contiguous memory. Key blocks of TILE_KEYS
 * rows are cut at fixed offsets from the first key that the tile's band leaves. Within one, score
 * blocks outside the band are skipped, inside it computed without any mask work, and only those on
 * its edges masked. What a batch row's data hides is in core/tile_sight.h, the relative term in
 * core/tile_relative.h.
 *
 * Operands of products are words of PAIR numbers that neighbour in the dimension that is summed over.
 * With PAIR 1 a word is a real, and a matrix is its own operand. With PAIR 2 a matrix has two forms:
 * flat, where a word is two neighbours in a row, and stacked, where it is one column of two rows; the
 * left operand of a row-by-row product and, transposed, the right one are flat, those of a product
 * that sums over rows are stacked.
 *
 * Scores carry the factor log2(e), so that exp is exp2; running maxima are kept in natural units. */
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#endif

#include "core/kernels_internal.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#define LOG2_E ((real)1.4426950408889634074)
#define LN_2 ((real)0.69314718055994530942)
#define MINUS_INF ((real)(-INFINITY))

enum {
    TILE_KEYS = LH_TILE_K,      /* keys per block */
    GROUP = SCORE_VECS * LANES, /* queries per column of score blocks */
    ROW_PAD = 16,               /* rows behind a buffer that a register block may read or write */
    OFFSETS = TILE_KEYS + LH_TILE_Q, /* at least the distances of a key block to a query block */
    /* of packed keys, values and gradients that should stay in a core's own cache */
    SPAN_BYTES = 512 * 1024,
    PACK_ROWS = 22 * TILE_KEYS, /* of keys that are packed at one time, at most */
    UNIT_QUERIES = 1024,        /* at least, of a unit made of queries */
    UNITS = 1024                /* of one item, at most */
};
_Static_assert(LH_TILE_Q % GROUP == 0 && LH_TILE_Q % OUT_ROWS == 0,
               "register blocks divide a query block");
_Static_assert(OUT_ROWS <= ROW_PAD && SCORE_ROWS <= ROW_PAD, "padding covers a register block");

/* Each needs the one before it. */
#include "core/tile_products.h"

#include "core/tile_pack.h"

#include "core/tile_blocks.h"

#include "core/tile_units.h"

/* ---- Slots ---- */

/* What the two records of arguments have in common. */
#define JOB(a, is_backward)                                                                        \
    {                                                                                              \
        .backward = is_backward, .batch = (a)->batch, .heads = (a)->heads,                         \
        .kv_heads = (a)->kv_heads, .width = (a)->width, .q_rows = (a)->q_rows,                     \
        .k_rows = (a)->k_rows, .head = (a)->head, .n_heads = (a)->n_heads,                         \
        .room = {(a)->width, (a)->k_rows, (a)->most_keys, (a)->qr != NULL, is_backward},           \
        .group = (a)->group > 0 ? (a)->group : (a)->heads / (a)->kv_heads, .skew = (a)->skew,      \
        .stride = round_up((a)->width, LANES), .words = flat_words((a)->width),                    \
        .scale = (real)(a)->scale, .q = (a)->q, .k = (a)->k, .v = (a)->v, .tiles = (a)->tiles,     \
        .n_tiles = (a)->n_tiles, .bits = (a)->bits, .sight = (a)->sight,                           \
        .kv_first = (a)->kv_first, .kv_held = (a)->kv_held > 0 ? (a)->kv_held : (a)->kv_heads,     \
        .qr = (a)->qr, .r = (a)->r, .scratch = (a)->scratch, .between = (a)->between,              \
        .user = (a)->user                                                                          \
    }

void TILE_SLOT(attend)(const lh_attend_args *a, int threads)
{
    job s = JOB(a, false);
    s.o = a->o;
    s.max = a->max;
    s.sum = a->sum;
    run(&s, threads);
}

void TILE_SLOT(attend_grad)(const lh_attend_grad_args *a, int threads)
{
    job s = JOB(a, true);
    s.d_o = a->d_o;
    s.lse = a->lse;
    s.delta = a->delta;
    s.dq = a->dq;
    s.dk = a->dk;
    s.dv = a->dv;
    s.dqr = a->dqr;
    s.dr = a->dr;
    run(&s, threads);
}

static void finish_row(const lh_attend_finish_args *a, int64_t row)
{
    real *o = a->o, *lse = a->lse;
    const real *max = a->max, *sum = a->sum;
    int64_t b = row / a->q_rows, i = row % a->q_rows;
    for (int64_t h = 0; h < a->heads; h++) {
        int64_t at = (b * a->heads + h) * a->q_rows + i;
        bool none = max[at] == MINUS_INF && sum[at] == 0; /* a sum that is not a number shows */
        real factor = none ? 0 : 1 / sum[at];
        real *x = o + (row * a->heads + h) * a->width;
        for (int64_t d = 0; d < a->width; d++) x[d] = none ? 0 : x[d] * factor;
        lse[at] = none ? MINUS_INF : (real)(max[at] + (real)log((double)sum[at]));
    }
}

void TILE_SLOT(attend_finish)(const lh_attend_finish_args *a, int threads)
{
    int64_t rows = a->batch * a->q_rows;
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t row = 0; row < rows; row++) finish_row(a, row);
        return;
    }
#endif
    (void)threads;
    for (int64_t row = 0; row < rows; row++) finish_row(a, row);
}

static void delta_row(const lh_attend_delta_args *a, int64_t row)
{
    const real *o = a->o, *d_o = a->d_o, *dlse = a->dlse;
    real *delta = a->delta;
    int64_t b = row / a->q_rows, i = row % a->q_rows;
    for (int64_t h = 0; h < a->heads; h++) {
        int64_t at = (b * a->heads + h) * a->q_rows + i, x = (row * a->heads + h) * a->width;
        real lanes[LANES] = {0};
        int64_t d = 0;
        for (; d + LANES <= a->width; d += LANES)
            for (int l = 0; l < LANES; l++) lanes[l] += o[x + d + l] * d_o[x + d + l];
        for (int l = 0; d < a->width; d++, l++) lanes[l] += o[x + d] * d_o[x + d];
        real total = 0;
        for (int l = 0; l < LANES; l++) total += lanes[l];
        delta[at] = dlse == NULL ? total : total - dlse[at];
    }
}

void TILE_SLOT(attend_delta)(const lh_attend_delta_args *a, int threads)
{
    int64_t rows = a->batch * a->q_rows;
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t row = 0; row < rows; row++) delta_row(a, row);
        return;
    }
#endif
    (void)threads;
    for (int64_t row = 0; row < rows; row++) delta_row(a, row);
}

#ifdef GEMM_ELSE
#include "core/gemm_body.h"
#endif
