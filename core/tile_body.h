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
    SPAN_BYTES =
        512 *
        1024, /* of packed keys, values and gradients that should stay in a core's own cache */
    PACK_ROWS = 22 * TILE_KEYS, /* of keys that are packed at one time, at most */
    UNIT_QUERIES = 1024,        /* at least, of a unit made of queries */
    UNITS = 1024                /* of one item, at most */
};
_Static_assert(LH_TILE_Q % GROUP == 0 && LH_TILE_Q % OUT_ROWS == 0,
               "register blocks divide a query block");
_Static_assert(OUT_ROWS <= ROW_PAD && SCORE_ROWS <= ROW_PAD, "padding covers a register block");

/* ---- Vectors ---- */

/* A vector at any element address. */
typedef real vec_any __attribute__((vector_size(LANES * sizeof(real)), aligned(sizeof(real))));

static ALWAYS_INLINE vec load(const real *x)
{
    return *(const vec *)x;
}

static ALWAYS_INLINE void store(real *x, vec value)
{
    *(vec *)x = value;
}

/* mask ? a : b, lane by lane. */
static ALWAYS_INLINE vec choose(ivec mask, vec a, vec b)
{
    return (vec)(((ivec)a & mask) | ((ivec)b & ~mask));
}

#ifndef TILE_OWN_BASICS
static ALWAYS_INLINE vec vec_splat(real x)
{
    vec y;
    UNROLL for (int l = 0; l < LANES; l++) y[l] = x;
    return y;
}

/* The larger one; b where a is not a number. */
static ALWAYS_INLINE vec vec_max(vec a, vec b)
{
    return choose((ivec)(a > b), a, b);
}

/* dst = transposed src, LANES x LANES. */
static ALWAYS_INLINE void vec_transpose(const real *src, int64_t src_stride, real *dst,
                                        int64_t dst_stride)
{
    for (int r = 0; r < LANES; r++)
        for (int l = 0; l < LANES; l++) dst[l * dst_stride + r] = src[r * src_stride + l];
}
#endif

#ifdef TILE_BF16
#include "core/tile_bf16.h"
#else
enum { PAIR = 1 };

static ALWAYS_INLINE vec vec_multiply_add(vec a, vec b, vec acc)
{
    return acc + a * b;
}

/* p x, for a probability p. */
static ALWAYS_INLINE vec vec_weigh(vec p, vec x)
{
    return p * x;
}

static ALWAYS_INLINE vec stacked_words(const vec rows[PAIR])
{
    return rows[0];
}

static ALWAYS_INLINE void store_flat(real *words, vec x)
{
    store(words, x);
}

static ALWAYS_INLINE vec load_flat(const real *words)
{
    return load(words);
}
#endif

#ifndef TILE_OWN_EXP2
/* 2^x: x = n + f, |f| <= 1/2, found by adding 1.5 * 2^EXP2_SHIFT, which also leaves n in the low
 * bits; a polynomial for 2^f (Remez, relative error); n goes into the exponent. Below the normal
 * numbers, and at -inf: 0. NaN stays. */
static ALWAYS_INLINE vec vec_exp2(vec x)
{
    static const real coefficient[] = {EXP2_COEFFICIENTS};
    const int degree = (int)(sizeof coefficient / sizeof coefficient[0]) - 1;
    const vec shifter = vec_splat((real)1.5 * (real)((int64_t)1 << EXP2_SHIFT));
    const vec lowest = vec_splat(EXP2_LOWEST), highest = vec_splat(-EXP2_LOWEST);
    ivec under = (ivec)(x < lowest);
    vec y = choose(under, lowest, x);
    y = choose((ivec)(y > highest), highest, y);
    vec whole = y + shifter;
    vec f = y - (whole - shifter);
    vec p = vec_splat(coefficient[degree]);
    UNROLL for (int i = degree - 1; i >= 0; i--) p = p * f + vec_splat(coefficient[i]);
    return (vec)(((ivec)p + ((ivec)whole << EXP2_SHIFT)) & ~under);
}
#endif

static ALWAYS_INLINE int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static ALWAYS_INLINE int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---- Register blocks ---- */

/* acc[r][v] += sum over p of a[r * a_row + p * a_step] * b[p * b_step + v]. */
#define PRODUCT(name, rows, vecs)                                                                  \
    static ALWAYS_INLINE void name(int64_t depth, const real *a, int64_t a_row, int64_t a_step,    \
                                   const real *b, int64_t b_step, vec acc[rows][vecs])             \
    {                                                                                              \
        for (int64_t p = 0; p < depth; p++) {                                                      \
            vec right[vecs];                                                                       \
            UNROLL for (int v = 0; v < (vecs); v++) right[v] = load(b + p * b_step + v * LANES);   \
            UNROLL for (int r = 0; r < (rows); r++)                                                \
            {                                                                                      \
                vec left = vec_splat(a[r * a_row + p * a_step]);                                   \
                UNROLL for (int v = 0; v < (vecs); v++) acc[r][v] =                                \
                    vec_multiply_add(left, right[v], acc[r][v]);                                   \
            }                                                                                      \
        }                                                                                          \
    }

/* SCORE_ROWS keys against some vectors of queries. c, p, stacked: rows of LH_TILE_Q; flat: of
 * LH_TILE_Q / PAIR. */
typedef struct score_block {
    int64_t depth;    /* words of a key */
    const real *keys; /* K or V, row by row */
    int64_t stride;
    const real *queries; /* Q^T or dO^T */
    real *c;
    const real *p, *delta;
    real *flat, *stacked;
} score_block;

static ALWAYS_INLINE void put_slopes(const score_block *s, int64_t r, int64_t i, const vec ds[PAIR])
{
    store(s->stacked + r / PAIR * LH_TILE_Q + i, stacked_words(ds));
    UNROLL for (int x = 0; PAIR > 1 && x < PAIR; x++)
        store_flat(s->flat + ((r + x) * LH_TILE_Q + i) / PAIR, ds[x]);
}

/* score_N: c = keys queries. slope_N: p (keys queries - delta), the gradient of the scores, as
 * operands of products (PAIR 1: stacked alone). */
#define SCORE_BLOCK(vecs)                                                                          \
    PRODUCT(score_product_##vecs, SCORE_ROWS, vecs)                                                \
    static void score_##vecs(const score_block *s)                                                 \
    {                                                                                              \
        vec acc[SCORE_ROWS][vecs] = {{{0}}};                                                       \
        score_product_##vecs(s->depth, s->keys, s->stride, 1, s->queries, LH_TILE_Q, acc);         \
        real *c = s->c;                                                                            \
        UNROLL for (int r = 0; r < SCORE_ROWS; r++) UNROLL for (int v = 0; v < (vecs); v++)        \
            store(c + r * LH_TILE_Q + v * LANES, acc[r][v]);                                       \
    }                                                                                              \
    static void slope_##vecs(const score_block *s)                                                 \
    {                                                                                              \
        vec acc[SCORE_ROWS][vecs] = {{{0}}};                                                       \
        score_product_##vecs(s->depth, s->keys, s->stride, 1, s->queries, LH_TILE_Q, acc);         \
        const real *p = s->p, *delta = s->delta;                                                   \
        UNROLL for (int v = 0; v < (vecs); v++)                                                    \
        {                                                                                          \
            vec d = load(delta + v * LANES);                                                       \
            UNROLL for (int r = 0; r < SCORE_ROWS; r += PAIR)                                      \
            {                                                                                      \
                vec ds[PAIR];                                                                      \
                UNROLL for (int x = 0; x < PAIR; x++) ds[x] =                                      \
                    vec_weigh(load(p + (r + x) * LH_TILE_Q + v * LANES), acc[r + x][v] - d);       \
                put_slopes(s, r, v *LANES, ds);                                                    \
            }                                                                                      \
        }                                                                                          \
    }

SCORE_BLOCK(1)
SCORE_BLOCK(2)
#if SCORE_VECS == 3
SCORE_BLOCK(3)
#endif

static void score_block_run(const score_block *s, int64_t vecs, bool slope)
{
#if SCORE_VECS == 3
    if (vecs == 3) {
        slope ? slope_3(s) : score_3(s);
        return;
    }
#endif
    if (vecs == 2)
        slope ? slope_2(s) : score_2(s);
    else if (vecs == 1)
        slope ? slope_1(s) : score_1(s);
}

/* c[r] = c[r] * row_scale[r] + sum over p of a[r * a_row + p * a_step] b[p * stride ...], r < rows. */
typedef struct out_block {
    int64_t rows, depth; /* depth: words */
    const real *a;
    const real *b;
    real *c;
    int64_t stride;        /* of b and c */
    const real *row_scale; /* NULL: 1 */
} out_block;

/* add_byrow_N reads flat A row by row, add_bycol_N stacked A column by column. */
#define OUT_BLOCK(name, vecs, a_row, a_step)                                                       \
    PRODUCT(name##_product_##vecs, OUT_ROWS, vecs)                                                 \
    static void name##_##vecs(const out_block *s)                                                  \
    {                                                                                              \
        vec acc[OUT_ROWS][vecs] = {{{0}}};                                                         \
        const int64_t stride = s->stride, rows = s->rows;                                          \
        const real *row_scale = s->row_scale;                                                      \
        real *c = s->c;                                                                            \
        UNROLL for (int r = 0; r < OUT_ROWS; r++) if (r < rows)                                    \
        {                                                                                          \
            UNROLL for (int v = 0; v < (vecs); v++) acc[r][v] = load(c + r * stride + v * LANES);  \
        }                                                                                          \
        if (row_scale != NULL) {                                                                   \
            UNROLL for (int r = 0; r < OUT_ROWS; r++)                                              \
            {                                                                                      \
                vec scale = vec_splat(row_scale[r]);                                               \
                UNROLL for (int v = 0; v < (vecs); v++) acc[r][v] *= scale;                        \
            }                                                                                      \
        }                                                                                          \
        name##_product_##vecs(s->depth, s->a, a_row, a_step, s->b, stride, acc);                   \
        UNROLL for (int r = 0; r < OUT_ROWS; r++) if (r < rows)                                    \
        {                                                                                          \
            UNROLL for (int v = 0; v < (vecs); v++) store(c + r * stride + v * LANES, acc[r][v]);  \
        }                                                                                          \
    }

OUT_BLOCK(add_byrow, 1, LH_TILE_Q / PAIR, 1)
OUT_BLOCK(add_byrow, 2, LH_TILE_Q / PAIR, 1)
OUT_BLOCK(add_bycol, 1, 1, LH_TILE_Q)
OUT_BLOCK(add_bycol, 2, 1, LH_TILE_Q)

/* ---- One call: what forward and backward share ---- */

typedef struct job {
    bool backward;
    int64_t batch, heads, kv_heads, width, q_rows, k_rows, head, n_heads;
    int64_t group, skew; /* query head h uses key/value head (h + skew) / group */
    int64_t stride;      /* width rounded up to whole vectors */
    int64_t words;       /* of a flat row, in whole vectors */
    real scale;
    const real *q, *k, *v;
    real *o, *max, *sum;           /* forward */
    const real *d_o, *lse, *delta; /* backward */
    real *dq, *dk, *dv;
    const lh_tile *tiles;
    int64_t n_tiles;
    const uint64_t *bits;
    lh_sight sight;
    int64_t kv_first, kv_held; /* heads in a row of k, v, dk, dv */
    const real *qr, *r;        /* NULL: no relative term */
    real *dqr, *dr;
    real *scratch;
    void (*between)(void *user);
    void *user;
} job;

/* The pieces of one thread's scratch. Where PAIR is 1 the last ones, operands made of other pieces,
 * are those pieces themselves. */
enum piece {
    PIECE_K, /* packed rows [min(k_rows, PACK_ROWS), words], flat */
    PIECE_V,
    PIECE_DK, /* as many rows of stride */
    PIECE_DV,
    PIECE_K_BLOCK, /* [TILE_KEYS, ..]: rows of a tile with k_stride != 1 */
    PIECE_V_BLOCK,
    PIECE_DK_BLOCK,
    PIECE_DV_BLOCK,
    PIECE_Q,   /* [LH_TILE_Q / PAIR, stride], stacked, times scale log2(e) */
    PIECE_DO,  /* [LH_TILE_Q / PAIR, stride], stacked */
    PIECE_OUT, /* [LH_TILE_Q, stride]: O or dQ */
    PIECE_QT,  /* [words, LH_TILE_Q]: flat rows, transposed */
    PIECE_DOT,
    PIECE_P, /* [TILE_KEYS, LH_TILE_Q] */
    PIECE_DS,
    PIECE_MAX,        /* [LH_TILE_Q]; backward: lse log2(e) */
    PIECE_SUM,        /* [LH_TILE_Q]; backward: delta */
    PIECE_SHRINK,     /* [LH_TILE_Q]: factor by which a new maximum shrinks O and sum */
    PIECE_FROM,       /* [LH_TILE_Q]: first row of the key block that a query sees by its limits */
    PIECE_TO,         /* [LH_TILE_Q]: and the row behind the last */
    PIECE_QR,         /* [LH_TILE_Q / PAIR, stride]: of the relative term, as PIECE_Q */
    PIECE_OUTR,       /* [LH_TILE_Q, stride]: dQr */
    PIECE_QRT,        /* [words, LH_TILE_Q] */
    PIECE_R,          /* [OFFSETS, words]: table rows of a key block, by offset, flat */
    PIECE_DR,         /* [OFFSETS, stride] */
    PIECE_X,          /* [OFFSETS, LH_TILE_Q]: R Qr^T, or its gradient */
    PIECE_FLAT,       /* [LH_TILE_Q, words]: of queries, on their way */
    PIECE_STACKED,    /* [TILE_KEYS / PAIR, stride]: of a key block's V; backward: of its K */
    PIECE_P_WORDS,    /* P: stacked; backward: flat */
    PIECE_DS_FLAT,    /* [TILE_KEYS, LH_TILE_Q / PAIR] */
    PIECE_DS_STACKED, /* [TILE_KEYS / PAIR, LH_TILE_Q] */
    PIECE_R_STACKED,  /* [OFFSETS / PAIR, stride] */
    PIECE_X_FLAT,     /* [OFFSETS, LH_TILE_Q / PAIR] */
    PIECE_X_STACKED,  /* [OFFSETS / PAIR, LH_TILE_Q] */
    PIECE_COUNT
};

typedef struct work {
    real *piece[PIECE_COUNT];
    int64_t base; /* row of the key block that is packed first */
    /* The thread's share of an item's query blocks: of those of tiles [begin, end) every parts-th, from
     * number `part` of a unit on. */
    int64_t begin, end, part, parts;
    bool calls; /* the calling thread's: it calls job.between */
} work;

static int64_t round_up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Words that hold n numbers. */
static ALWAYS_INLINE int64_t depth_words(int64_t n)
{
    return (n + PAIR - 1) / PAIR;
}

/* Words of a flat row: whole vectors. */
static int64_t flat_words(int64_t width)
{
    return round_up(width, LANES * PAIR) / PAIR;
}

/* Elements of a piece; k_rows: of the key block. */
static int64_t piece_elements(enum piece i, int64_t width, int64_t k_rows)
{
    const int64_t words = flat_words(width), stride = round_up(width, LANES);
    if (i <= PIECE_DV)
        return (min_of(k_rows, PACK_ROWS) + ROW_PAD) * (i <= PIECE_V ? words : stride);
    if (i <= PIECE_DV_BLOCK) return (TILE_KEYS + ROW_PAD) * (i <= PIECE_V_BLOCK ? words : stride);
    if (i <= PIECE_DO || i == PIECE_QR) return LH_TILE_Q / PAIR * stride;
    if (i == PIECE_OUT || i == PIECE_OUTR) return LH_TILE_Q * stride;
    if (i <= PIECE_DOT || i == PIECE_QRT) return LH_TILE_Q * words;
    if (i == PIECE_P || (i == PIECE_DS && PAIR == 1)) return (TILE_KEYS + ROW_PAD) * LH_TILE_Q;
    if (i == PIECE_DS) return 0;
    if (i <= PIECE_TO) return LH_TILE_Q;
    if (i == PIECE_X) return (OFFSETS + ROW_PAD) * LH_TILE_Q;
    if (i <= PIECE_DR) return (OFFSETS + ROW_PAD) * (i == PIECE_R ? words : stride);
    if (PAIR == 1) return 0;
    if (i == PIECE_FLAT) return LH_TILE_Q * words;
    if (i == PIECE_STACKED) return TILE_KEYS / PAIR * stride;
    if (i <= PIECE_DS_STACKED) return (TILE_KEYS + ROW_PAD) / PAIR * LH_TILE_Q;
    return (OFFSETS + ROW_PAD) / PAIR * (i == PIECE_R_STACKED ? stride : LH_TILE_Q);
}

/* Elements of one thread's scratch; offset[] of each piece. Every piece starts on a cache line. */
static int64_t work_layout(int64_t width, int64_t k_rows, int64_t offset[PIECE_COUNT])
{
    int64_t at = 0;
    for (int i = 0; i < PIECE_COUNT; i++) {
        offset[i] = at;
        at += round_up(piece_elements((enum piece)i, width, k_rows), 16);
    }
    return at;
}

static void work_place(const job *s, int thread, work *w)
{
    int64_t offset[PIECE_COUNT];
    int64_t size = work_layout(s->width, s->k_rows, offset);
    for (int i = 0; i < PIECE_COUNT; i++) w->piece[i] = s->scratch + thread * size + offset[i];
    w->calls = thread == 0 && s->between != NULL;
    w->begin = w->part = 0;
    w->end = s->n_tiles;
    w->parts = 1;
    if (PAIR > 1) return;
    w->piece[PIECE_P_WORDS] = w->piece[PIECE_P];
    w->piece[PIECE_DS_FLAT] = w->piece[PIECE_DS_STACKED] = w->piece[PIECE_DS];
}

size_t TILE_SLOT(attend_scratch)(int64_t heads, int64_t kv_heads, int64_t width, int64_t k_rows,
                                 int threads)
{
    (void)heads;
    (void)kv_heads;
    int64_t offset[PIECE_COUNT];
    int64_t size = work_layout(width, k_rows, offset);
    return (size_t)size * sizeof(real) * (size_t)max_of(threads, 1);
}

/* What the limits of a query block's rows leave of one tile. */
typedef struct tile_limits {
    bool some;                              /* false: they leave the whole tile to every query */
    int32_t from[LH_TILE_Q], to[LH_TILE_Q]; /* keys [from, to) of the tile; equal: none */
} tile_limits;

typedef struct query_block {
    const job *s;
    const work *w;
    int64_t b, h;
    int64_t from, to;     /* rows of the key block that are looked at */
    int64_t row, n, step; /* rows row, row + step, ... of the queries */
    int64_t padded;       /* n rounded up to whole groups of columns */
    tile_limits *limits;  /* of the tile at hand; NULL: none */
    int64_t number;       /* of the block among those of all tiles */
    struct turn *turn;    /* for which dq waits; NULL: none */
    bool waited;          /* for the turn of this block */
} query_block;

typedef struct key_block {
    const lh_tile *tile;
    int64_t first, n; /* keys first .. first + n - 1 of the tile */
    const real *k, *v;
    const real *stacked; /* v; backward: k */
    real *dk, *dv;
    const real *from, *to; /* [LH_TILE_Q]: rows that a query sees by its limits; NULL: all */
    int n_hidden;
    uint8_t hidden[TILE_KEYS];  /* rows that nobody sees */
    const struct offsets *term; /* NULL: no relative term */
} key_block;

#include "core/tile_sight.h"

/* ---- Packing ---- */

/* dst[i, :] = scale * src[i, :], padded with 0 to whole vectors. */
static void pack_rows(real *dst, int64_t stride, const real *src, int64_t src_stride, int64_t rows,
                      int64_t width, real scale)
{
    vec factor = vec_splat(scale);
    for (int64_t i = 0; i < rows; i++) {
        const real *x = src + i * src_stride;
        real *y = dst + i * stride;
        int64_t p = 0;
        for (; p + LANES <= width; p += LANES) store(y + p, *(const vec_any *)(x + p) * factor);
        for (; p < width; p++) y[p] = x[p] * scale;
        for (; p < stride; p++) y[p] = 0;
    }
}

#ifndef TILE_BF16
/* dst[i, :] = scale * src[i, :] as flat operands, padded with 0 to `words`. */
static void pack_flat(real *dst, int64_t words, const real *src, int64_t src_stride, int64_t rows,
                      int64_t width, real scale)
{
    pack_rows(dst, words, src, src_stride, rows, width, scale);
}

/* The stacked form of flat rows: in `to`, or where they are. */
static const real *stack_rows(real *to, int64_t stride, const real *flat, int64_t words,
                              int64_t rows)
{
    (void)to;
    (void)stride;
    (void)words;
    (void)rows;
    return flat;
}
#endif

/* dst[i, :] += scale * src[i, :], for the width without padding. */
static void unpack_add(real *dst, int64_t dst_stride, const real *src, int64_t stride, int64_t rows,
                       int64_t width, real scale)
{
    vec factor = vec_splat(scale);
    for (int64_t i = 0; i < rows; i++) {
        const real *x = src + i * stride;
        real *y = dst + i * dst_stride;
        int64_t p = 0;
        for (; p + LANES <= width; p += LANES) *(vec_any *)(y + p) += load(x + p) * factor;
        for (; p < width; p++) y[p] += x[p] * scale;
    }
}

/* Address of row `row` of head h in a tensor [batch, rows, heads, width]. */
static ALWAYS_INLINE int64_t row_at(int64_t b, int64_t rows, int64_t row, int64_t heads, int64_t h,
                                    int64_t width)
{
    return ((b * rows + row) * heads + h) * width;
}

/* A part of an item that is worked through in one go: tiles [begin, end), and of the rows of the key
 * block [from, to). */
typedef struct unit {
    int64_t begin, end, from, to;
} unit;

static unit whole_item(const job *s)
{
    return (unit){0, s->n_tiles, 0, INT32_MAX};
}

/* Must the tile's rows be packed? A forward pass takes those of a strided tile from where they are. */
static bool takes_packed(const job *s, const lh_tile *t)
{
    return s->backward || t->k_stride == 1;
}

/* Rows [range[0], range[1]) of the key block that tiles of the unit touch for batch row b: all tiles,
 * or those alone that must be packed. */
static void rows_touched(const job *s, int64_t b, const unit *u, bool all, int64_t range[2])
{
    range[0] = s->k_rows;
    range[1] = 0;
    for (int64_t i = u->begin; i < u->end; i++) {
        const lh_tile *t = s->tiles + i;
        int64_t keys[2];
        key_range(s, t, b, 0, t->nq, keys);
        if (keys[1] <= keys[0] || !(all || takes_packed(s, t))) continue;
        int64_t first = t->k_row + keys[0] * t->k_stride;
        int64_t last = t->k_row + (keys[1] - 1) * t->k_stride;
        int64_t from = max_of(u->from, min_of(first, last));
        int64_t to = min_of(u->to, max_of(first, last) + 1);
        if (to <= from) continue;
        range[0] = min_of(range[0], from);
        range[1] = max_of(range[1], to);
    }
}

/* Rows range[], at most PACK_ROWS: keys and values in, their gradients to 0. */
static void pack_keys(const job *s, int64_t b, int64_t kv, work *w, const int64_t range[2])
{
    const int64_t n = range[1] - range[0];
    if (n <= 0) return;
    int64_t from = row_at(b, s->k_rows, range[0], s->kv_held, kv - s->kv_first, s->width);
    int64_t row = s->kv_held * s->width;
    w->base = range[0];
    pack_flat(w->piece[PIECE_K], s->words, s->k + from, row, n, s->width, 1);
    pack_flat(w->piece[PIECE_V], s->words, s->v + from, row, n, s->width, 1);
    if (s->backward) {
        size_t bytes = (size_t)(n * s->stride) * sizeof(real);
        memset(w->piece[PIECE_DK], 0, bytes);
        memset(w->piece[PIECE_DV], 0, bytes);
    }
    /* register blocks read past the last row; what they make of it is dropped */
    size_t pad = (size_t)(ROW_PAD * s->words) * sizeof(real);
    memset(w->piece[PIECE_K] + n * s->words, 0, pad);
    memset(w->piece[PIECE_V] + n * s->words, 0, pad);
}

/* Adds what was summed for rows range[], the packed ones. */
static void add_key_gradients(const job *s, int64_t b, int64_t kv, const work *w,
                              const int64_t range[2])
{
    const int64_t n = range[1] - range[0];
    int64_t to = row_at(b, s->k_rows, range[0], s->kv_held, kv - s->kv_first, s->width);
    int64_t row = s->kv_held * s->width;
    /* the packed queries carried scale log2(e) */
    unpack_add(s->dk + to, row, w->piece[PIECE_DK], s->stride, n, s->width, LN_2);
    unpack_add(s->dv + to, row, w->piece[PIECE_DV], s->stride, n, s->width, 1);
}

/* dst [words, LH_TILE_Q] = transposed src [rows, words]; the rows are zero up to whole vectors. */
static void transpose_block(real *dst, const real *src, int64_t words, int64_t rows)
{
    for (int64_t i = 0; i < rows; i += LANES)
        for (int64_t p = 0; p < words; p += LANES)
            vec_transpose(src + i * words + p, words, dst + p * LH_TILE_Q + i, LH_TILE_Q);
}

/* ---- One query block of one head ---- */

static void pack_queries(const query_block *q, enum piece rows, enum piece columns, const real *src,
                         real scale)
{
    const job *s = q->s;
    real *flat = q->w->piece[PAIR == 1 ? rows : PIECE_FLAT];
    const real *from = src + row_at(q->b, s->q_rows, q->row, s->heads, q->h, s->width);
    pack_flat(flat, s->words, from, q->step * s->heads * s->width, q->n, s->width, scale);
    int64_t rest = q->padded - q->n;
    memset(flat + q->n * s->words, 0, (size_t)(rest * s->words) * sizeof(real));
    transpose_block(q->w->piece[columns], flat, s->words, q->padded);
    if (s->backward) (void)stack_rows(q->w->piece[rows], s->stride, flat, s->words, q->padded);
}

/* x[i] = row statistics of the block's queries, `rest` in the padding. src [batch, heads, q_rows]. */
static void load_stats(const query_block *q, enum piece to, const real *src, real rest)
{
    const real *from = src + (q->b * q->s->heads + q->h) * q->s->q_rows + q->row;
    real *x = q->w->piece[to];
    for (int64_t i = 0; i < q->n; i++) x[i] = from[i * q->step];
    for (int64_t i = q->n; i < LH_TILE_Q; i++) x[i] = rest;
}

static void store_stats(const query_block *q, enum piece from, real *dst)
{
    real *to = dst + (q->b * q->s->heads + q->h) * q->s->q_rows + q->row;
    const real *x = q->w->piece[from];
    for (int64_t i = 0; i < q->n; i++) to[i * q->step] = x[i];
}

static void begin_queries(const query_block *q)
{
    const job *s = q->s;
    const work *w = q->w;
    pack_queries(q, PIECE_Q, PIECE_QT, s->q, s->scale * LOG2_E);
    if (s->qr != NULL) pack_queries(q, PIECE_QR, PIECE_QRT, s->qr, s->scale * LOG2_E);
    real *out = w->piece[PIECE_OUT];
    if (!s->backward) {
        const real *from = s->o + row_at(q->b, s->q_rows, q->row, s->heads, q->h, s->width);
        pack_rows(out, s->stride, from, q->step * s->heads * s->width, q->n, s->width, 1);
        memset(out + q->n * s->stride, 0, (size_t)((LH_TILE_Q - q->n) * s->stride) * sizeof(real));
        load_stats(q, PIECE_MAX, s->max, MINUS_INF);
        load_stats(q, PIECE_SUM, s->sum, 0);
        return;
    }
    pack_queries(q, PIECE_DO, PIECE_DOT, s->d_o, 1);
    memset(out, 0, (size_t)(LH_TILE_Q * s->stride) * sizeof(real));
    if (s->qr != NULL)
        memset(w->piece[PIECE_OUTR], 0, (size_t)(LH_TILE_Q * s->stride) * sizeof(real));
    load_stats(q, PIECE_MAX, s->lse, MINUS_INF);
    load_stats(q, PIECE_SUM, s->delta, 0);
    real *lse = w->piece[PIECE_MAX];
    /* a query that saw nothing has P = 0 */
    for (int i = 0; i < LH_TILE_Q; i++) lse[i] = lse[i] == MINUS_INF ? -MINUS_INF : lse[i] * LOG2_E;
}

static void end_queries(const query_block *q)
{
    const job *s = q->s;
    const real *out = q->w->piece[PIECE_OUT];
    int64_t at = row_at(q->b, s->q_rows, q->row, s->heads, q->h, s->width);
    int64_t row = q->step * s->heads * s->width;
    if (s->backward) {
        unpack_add(s->dq + at, row, out, s->stride, q->n, s->width, s->scale);
        if (s->qr != NULL)
            unpack_add(s->dqr + at, row, q->w->piece[PIECE_OUTR], s->stride, q->n, s->width,
                       s->scale);
        return;
    }
    for (int64_t i = 0; i < q->n; i++)
        memcpy(s->o + at + i * row, out + i * s->stride, (size_t)s->width * sizeof(real));
    store_stats(q, PIECE_MAX, s->max);
    store_stats(q, PIECE_SUM, s->sum);
}

/* ---- One block of keys against a query block ---- */

/* Rows of P^T [from, to) that queries [i0, i1) may see, as rows of the key block. */
static void visible_keys(const key_block *kb, int64_t i0, int64_t i1, int64_t range[2])
{
    range[0] = min_of(kb->n, max_of(0, i0 + kb->tile->lo - kb->first));
    range[1] = max_of(range[0], min_of(kb->n, i1 + kb->tile->hi - kb->first));
    if (kb->from != NULL) limited_rows(kb, i0, i1, range);
}

/* Vectors [vecs[0], vecs[1]) of group i0 in which a key of rows [r, r + rows) is visible; true:
 * everything is. */
static bool visible_vecs(const query_block *q, const key_block *kb, int64_t i0, int64_t r,
                         int64_t rows, int64_t vecs[2])
{
    const lh_tile *t = kb->tile;
    int64_t j = kb->first + r, last = j + rows - 1;
    vecs[0] = SCORE_VECS;
    vecs[1] = 0;
    for (int64_t v = 0; v < SCORE_VECS; v++) {
        int64_t i = i0 + v * LANES;
        bool some = i < q->n && j - (i + LANES - 1) <= t->hi && last - i >= t->lo;
        if (some) vecs[0] = min_of(vecs[0], v);
        if (some) vecs[1] = v + 1;
    }
    vecs[0] = min_of(vecs[0], vecs[1]);
    return vecs[0] == 0 && vecs[1] == SCORE_VECS && t->bits < 0 && last - i0 <= t->hi &&
           j - (i0 + GROUP - 1) >= t->lo;
}

/* Lanes of the vector at query i that see key j by the band. */
static ALWAYS_INLINE ivec band_lanes(const lh_tile *t, int64_t i, int64_t j)
{
    vec lane;
    UNROLL for (int l = 0; l < LANES; l++) lane[l] = (real)l;
    int64_t from = max_of(-1, min_of(LANES, j - t->hi - i)),
            to = max_of(-1, min_of(LANES, j - t->lo - i));
    return (ivec)((lane >= vec_splat((real)from)) & (lane <= vec_splat((real)to)));
}

/* What is not visible in score rows [r, r + SCORE_ROWS) of group i0 becomes -inf. */
static void mask_scores(const query_block *q, const key_block *kb, int64_t i0, int64_t r,
                        int64_t rows)
{
    const lh_tile *t = kb->tile;
    real *p = q->w->piece[PIECE_P] + r * LH_TILE_Q + i0;
    vec nothing = vec_splat(MINUS_INF);
    for (int64_t x = 0; x < rows; x++)
        for (int64_t v = 0; v < SCORE_VECS; v++) {
            real *at = p + x * LH_TILE_Q + v * LANES;
            int64_t i = i0 + v * LANES;
            store(at, i < q->n ? choose(band_lanes(t, i, kb->first + r + x), load(at), nothing)
                               : nothing);
        }
    if (kb->from != NULL) mask_limits(kb, p, i0, r, rows);
    if (t->bits < 0) return;
    for (int64_t i = i0; i < min_of(i0 + GROUP, q->n); i++) {
        int64_t bit = t->bits + i * t->nk + kb->first + r;
        for (int64_t x = 0; x < rows; x++, bit++)
            if (!(q->s->bits[bit / 64] >> (bit % 64) & 1)) p[x * LH_TILE_Q + i - i0] = MINUS_INF;
    }
}

#include "core/tile_relative.h"

/* Scores (times log2 e, masked) of the block's rows range[] against the queries of group i0, into
 * P^T. */
static void score_group(const query_block *q, const key_block *kb, int64_t i0,
                        const int64_t range[2])
{
    const job *s = q->s;
    score_block block = {.depth = depth_words(s->width), .stride = s->words};
    int64_t whole[2] = {0, kb->n};
    if (kb->from != NULL) unlimited_rows(kb, i0, min_of(i0 + GROUP, q->n), whole);
    if (kb->term != NULL) relative_group(q, kb, i0, range);
    for (int64_t r = range[0]; r < range[1]; r += SCORE_ROWS) {
        int64_t rows = min_of(SCORE_ROWS, range[1] - r), vecs[2];
        bool full = visible_vecs(q, kb, i0, r, rows, vecs);
        int64_t column = i0 + vecs[0] * LANES;
        block.keys = kb->k + r * s->words;
        block.queries = q->w->piece[PIECE_QT] + column;
        block.c = q->w->piece[PIECE_P] + r * LH_TILE_Q + column;
        score_block_run(&block, vecs[1] - vecs[0], false);
        if (kb->term != NULL) add_relative(q, kb, r, rows, column, i0 + vecs[1] * LANES);
        if (!full || r < whole[0] || r + rows > whole[1]) mask_scores(q, kb, i0, r, rows);
    }
    hide_rows(q, kb, i0, range);
}

/* dS = P (dO.v - delta) for the same rows and queries. P is 0 wherever it was masked. */
static void slope_group(const query_block *q, const key_block *kb, int64_t i0,
                        const int64_t range[2])
{
    const job *s = q->s;
    const work *w = q->w;
    score_block block = {.depth = depth_words(s->width), .stride = s->words};
    const vec none[PAIR] = {{0}};
    for (int64_t r = range[0] / PAIR * PAIR; r < range[1]; r += SCORE_ROWS) {
        int64_t rows = min_of(SCORE_ROWS, range[1] - r), vecs[2];
        (void)visible_vecs(q, kb, i0, r, rows, vecs);
        int64_t column = i0 + vecs[0] * LANES, at = r * LH_TILE_Q + column;
        block.keys = kb->v + r * s->words;
        block.queries = w->piece[PIECE_DOT] + column;
        block.p = w->piece[PIECE_P] + at;
        block.delta = w->piece[PIECE_SUM] + column;
        block.flat = w->piece[PIECE_DS_FLAT] + at / PAIR;
        block.stacked = w->piece[PIECE_DS_STACKED] + r / PAIR * LH_TILE_Q + column;
        score_block_run(&block, vecs[1] - vecs[0], true);
        for (int64_t v = 0; v < SCORE_VECS; v++)
            for (int64_t x = 0; (v < vecs[0] || v >= vecs[1]) && x < SCORE_ROWS; x += PAIR)
                put_slopes(&block, x, (v - vecs[0]) * LANES, none);
    }
}

/* Zeros in the rows of P^T (or dS^T) that the group's queries cannot see: neighbours' register
 * blocks read them. */
static void clear_stacked(real *p, const key_block *kb, int64_t i0, const int64_t range[2])
{
    const int64_t n = depth_words(kb->n);
    for (int64_t r = 0; r < n; r++) {
        if (r == range[0] / PAIR) r = depth_words(range[1]);
        for (int64_t v = 0; r < n && v < SCORE_VECS; v++)
            store(p + r * LH_TILE_Q + i0 + v * LANES, vec_splat(0));
    }
}

static void clear_flat(real *p, const key_block *kb, int64_t i0, const int64_t range[2])
{
    for (int64_t r = 0; r < kb->n; r++) {
        if (r == range[0]) r = range[1];
        for (int64_t v = 0; r < kb->n && v < SCORE_VECS; v++)
            store_flat(p + (r * LH_TILE_Q + i0 + v * LANES) / PAIR, vec_splat(0));
    }
}

/* Where rows range[] of P^T (at the group's first query) begin or end within a pair, the other row
 * becomes -inf: its probability is 0. Returns the first row of the first pair. */
static int64_t complete_pairs(real *p, const int64_t range[2])
{
    for (int x = 0; PAIR > 1 && x < 2; x++)
        for (int64_t v = 0; range[x] % PAIR != 0 && v < SCORE_VECS; v++)
            store(p + (range[x] - 1 + x) * LH_TILE_Q + v * LANES, vec_splat(MINUS_INF));
    return range[0] / PAIR * PAIR;
}

/* Online softmax of one group: P^T = exp2(S - max) as an operand; running max and sum, and the
 * factor for O. */
static void softmax_group(const work *w, int64_t i0, const int64_t range[2])
{
    real *p = w->piece[PIECE_P] + i0, *max = w->piece[PIECE_MAX] + i0,
         *sum = w->piece[PIECE_SUM] + i0, *operand = w->piece[PIECE_P_WORDS] + i0;
    vec top[SCORE_VECS], total[SCORE_VECS], reference[SCORE_VECS];
    UNROLL for (int v = 0; v < SCORE_VECS; v++) top[v] = vec_splat(MINUS_INF);
    for (int64_t r = range[0]; r < range[1]; r++)
        UNROLL for (int v = 0; v < SCORE_VECS; v++) top[v] =
            vec_max(load(p + r * LH_TILE_Q + v * LANES), top[v]);
    UNROLL for (int v = 0; v < SCORE_VECS; v++)
    {
        vec old = load(max + v * LANES), now = vec_max(top[v] * LN_2, old);
        /* while nothing was seen the reference is 0, so that exp2(-inf - reference) is 0 and not
         * NaN */
        reference[v] = choose((ivec)(now == vec_splat(MINUS_INF)), vec_splat(0), now * LOG2_E);
        vec shrink = vec_exp2(old * LOG2_E - reference[v]);
        shrink = choose((ivec)(now == old), vec_splat(1), shrink);
        store(max + v * LANES, now);
        store(w->piece[PIECE_SHRINK] + i0 + v * LANES, shrink);
        total[v] = load(sum + v * LANES) * shrink;
    }
    for (int64_t r = complete_pairs(p, range); r < range[1]; r += PAIR)
        UNROLL for (int v = 0; v < SCORE_VECS; v++)
        {
            vec e[PAIR];
            UNROLL for (int x = 0; x < PAIR; x++)
            {
                e[x] = vec_exp2(load(p + (r + x) * LH_TILE_Q + v * LANES) - reference[v]);
                total[v] += e[x];
            }
            store(operand + r / PAIR * LH_TILE_Q + v * LANES, stacked_words(e));
        }
    UNROLL for (int v = 0; v < SCORE_VECS; v++) store(sum + v * LANES, total[v]);
}

/* P^T = exp2(S - lse) in place and as an operand, for the backward. */
static void probability_group(const work *w, int64_t i0, const int64_t range[2])
{
    real *p = w->piece[PIECE_P] + i0;
    const real *lse = w->piece[PIECE_MAX] + i0;
    const int64_t end = depth_words(range[1]) * PAIR;
    for (int64_t r = complete_pairs(p, range); r < end; r++)
        UNROLL for (int v = 0; v < SCORE_VECS; v++)
        {
            real *at = p + r * LH_TILE_Q + v * LANES;
            vec e = vec_exp2(load(at) - load(lse + v * LANES));
            store(at, e);
            if (PAIR == 1) continue;
            store_flat(w->piece[PIECE_P_WORDS] + (r * LH_TILE_Q + i0 + v * LANES) / PAIR, e);
        }
}

/* Did any query's maximum move? */
static bool any_shrink(const real *shrink)
{
    bool any = false;
    for (int i = 0; i < LH_TILE_Q; i++) any |= shrink[i] != 1;
    return any;
}

/* out[i, :] = out[i, :] * shrink[i] + sum over keys of p[key][i] rows[key, :]: O += P V, or dQ +=
 * dS K. p, rows: stacked. out: the piece PIECE_OUT or PIECE_OUTR. */
static void add_to_queries(const query_block *q, const key_block *kb, const real *p,
                           const real *rows, const real *shrink, enum piece out)
{
    const int64_t stride = q->s->stride;
    for (int64_t d = 0; d < stride; d += OUT_VECS * LANES)
        for (int64_t i = 0; i < q->n; i += OUT_ROWS) {
            int64_t range[2];
            visible_keys(kb, i, i + OUT_ROWS, range);
            if (shrink == NULL && range[0] >= range[1]) continue;
            const int64_t first = range[0] / PAIR, depth = depth_words(range[1]) - first;
            out_block block = {.rows = OUT_ROWS, .depth = depth, .stride = stride};
            block.a = p + first * LH_TILE_Q + i;
            block.b = rows + first * stride + d;
            block.c = q->w->piece[out] + i * stride + d;
            block.row_scale = shrink == NULL ? NULL : shrink + i;
            d + LANES < stride ? add_bycol_2(&block) : add_bycol_1(&block);
        }
}

/* out[key, :] += sum over queries of p[key][i] rows[i, :]: dV += P^T dO, or dK += dS^T Q. p: flat,
 * rows: stacked. */
static void add_to_keys(const query_block *q, const key_block *kb, const real *p, const real *rows,
                        real *out)
{
    const int64_t stride = q->s->stride;
    const lh_tile *t = kb->tile;
    for (int64_t d = 0; d < stride; d += OUT_VECS * LANES)
        for (int64_t r = 0; r < kb->n; r += OUT_ROWS) {
            int64_t n = min_of(OUT_ROWS, kb->n - r), j = kb->first + r;
            int64_t from = max_of(0, j - t->hi), to = min_of(q->n, j + n - t->lo);
            if (to <= from) continue;
            const int64_t first = from / PAIR, depth = depth_words(to) - first;
            out_block block = {.rows = n, .depth = depth, .stride = stride};
            block.a = p + r * (LH_TILE_Q / PAIR) + first;
            block.b = rows + first * stride + d;
            block.c = out + r * stride + d;
            d + LANES < stride ? add_byrow_2(&block) : add_byrow_1(&block);
        }
}

static void forward_block(const query_block *q, const key_block *kb)
{
    real *p = q->w->piece[PIECE_P_WORDS], *shrink = q->w->piece[PIECE_SHRINK];
    for (int64_t i0 = 0; i0 < LH_TILE_Q; i0 += GROUP) {
        int64_t range[2] = {0, 0};
        if (i0 < q->n) visible_keys(kb, i0, min_of(i0 + GROUP, q->n), range);
        if (i0 < q->n) score_group(q, kb, i0, range);
        softmax_group(q->w, i0, range);
        if (i0 < q->padded) clear_stacked(p, kb, i0, range);
    }
    add_to_queries(q, kb, p, kb->stacked, any_shrink(shrink) ? shrink : NULL, PIECE_OUT);
}

/* dQr += dX^T R and dR += dX Qr, where X are the products of the relative term. */
static void add_term_gradients(const query_block *q, const key_block *kb)
{
    const job *s = q->s;
    const work *w = q->w;
    const lh_tile *t = kb->tile;
    const key_block *rows = &kb->term->rows;
    const int64_t n = min_of(rows->n, kb->n + q->n - 1 - rows->first); /* rows of the table */
    const real *x = w->piece[PIECE_X] + rows->first * LH_TILE_Q;
    const real *flat = PAIR == 1 ? x : w->piece[PIECE_X_FLAT];
    const int64_t row = t->r_row + (rows->first - (kb->first + kb->n - 1)) * t->r_step;
    relative_slope(q, kb);
    if (PAIR > 1) {
        const int64_t words = LH_TILE_Q / PAIR;
        pack_flat(w->piece[PIECE_X_FLAT], words, x, LH_TILE_Q, rows->n, LH_TILE_Q, 1);
        x = stack_rows(w->piece[PIECE_X_STACKED], LH_TILE_Q, flat, words, rows->n);
    }
    add_to_queries(q, rows, x, rows->stacked, NULL, PIECE_OUTR);
    memset(rows->dk, 0, (size_t)(rows->n * s->stride) * sizeof(real));
    add_to_keys(q, rows, flat, w->piece[PIECE_QR], rows->dk);
    unpack_add(s->dr + row_at(0, 0, row, s->heads, q->h, s->width), t->r_step * s->heads * s->width,
               rows->dk, s->stride, n, s->width, LN_2); /* the packed queries carried log2(e) */
}

static void backward_block(const query_block *q, const key_block *kb)
{
    const work *w = q->w;
    real *p = w->piece[PIECE_P_WORDS], *ds = w->piece[PIECE_DS_FLAT],
         *stacked = w->piece[PIECE_DS_STACKED];
    for (int64_t i0 = 0; i0 < q->padded; i0 += GROUP) {
        int64_t range[2];
        visible_keys(kb, i0, min_of(i0 + GROUP, q->n), range);
        score_group(q, kb, i0, range);
        probability_group(w, i0, range);
        clear_flat(p, kb, i0, range);
        slope_group(q, kb, i0, range);
        clear_stacked(stacked, kb, i0, range);
        if (PAIR > 1) clear_flat(ds, kb, i0, range);
    }
    add_to_keys(q, kb, p, w->piece[PIECE_DO], kb->dv);
    add_to_keys(q, kb, ds, w->piece[PIECE_Q], kb->dk);
    add_to_queries(q, kb, stacked, kb->stacked, NULL, PIECE_OUT);
    if (kb->term != NULL) add_term_gradients(q, kb);
}

/* Rows of a strided tile between their packed places and a block of their own. */
static void move_rows(const query_block *q, const key_block *kb, enum piece whole, enum piece block,
                      bool in)
{
    const int64_t stride = whole <= PIECE_V ? q->s->words : q->s->stride;
    const int64_t first = kb->tile->k_row + kb->first * kb->tile->k_stride - q->w->base;
    for (int64_t r = 0; r < kb->n; r++) {
        real *there = q->w->piece[whole] + (first + r * kb->tile->k_stride) * stride;
        real *here = q->w->piece[block] + r * stride;
        memcpy(in ? here : there, in ? there : here, (size_t)stride * sizeof(real));
    }
}

/* Rows of a strided tile from the key block into a block of their own. */
static void gather_rows(const query_block *q, const key_block *kb)
{
    const job *s = q->s;
    const int64_t row = kb->tile->k_row + kb->first * kb->tile->k_stride;
    const int64_t kv = (q->h + s->skew) / s->group - s->kv_first;
    const int64_t from = row_at(q->b, s->k_rows, row, s->kv_held, kv, s->width);
    const int64_t stride = kb->tile->k_stride * s->kv_held * s->width;
    pack_flat(q->w->piece[PIECE_K_BLOCK], s->words, s->k + from, stride, kb->n, s->width, 1);
    pack_flat(q->w->piece[PIECE_V_BLOCK], s->words, s->v + from, stride, kb->n, s->width, 1);
}

static void run_block(const query_block *q, key_block *kb)
{
    const job *s = q->s;
    const work *w = q->w;
    bool strided = kb->tile->k_stride != 1;
    offsets term;
    if (s->qr != NULL) pack_offsets(q, kb, &term);
    if (s->qr != NULL) kb->term = &term;
    if (!strided) {
        int64_t row = kb->tile->k_row + kb->first - w->base;
        kb->k = w->piece[PIECE_K] + row * s->words;
        kb->v = w->piece[PIECE_V] + row * s->words;
        kb->dk = w->piece[PIECE_DK] + row * s->stride;
        kb->dv = w->piece[PIECE_DV] + row * s->stride;
    } else {
        kb->k = w->piece[PIECE_K_BLOCK];
        kb->v = w->piece[PIECE_V_BLOCK];
        kb->dk = w->piece[PIECE_DK_BLOCK];
        kb->dv = w->piece[PIECE_DV_BLOCK];
        if (!s->backward) gather_rows(q, kb);
        for (int i = 0; s->backward && i < 4; i++)
            move_rows(q, kb, (enum piece)(PIECE_K + i), (enum piece)(PIECE_K_BLOCK + i), true);
    }
    kb->stacked = stack_rows(w->piece[PIECE_STACKED], s->stride, s->backward ? kb->k : kb->v,
                             s->words, kb->n);
    s->backward ? backward_block(q, kb) : forward_block(q, kb);
    for (int i = 2; strided && s->backward && i < 4; i++)
        move_rows(q, kb, (enum piece)(PIECE_K + i), (enum piece)(PIECE_K_BLOCK + i), false);
}

/* ---- The order of additions ---- */

/* How far the units of an item have come. What two of them add to is added in their order, whoever
 * works on them: a unit's turn is over for query block i when its entry is above i. Units are taken
 * in ascending order, so whoever waits waits for a unit that somebody works on. */
typedef struct turn {
#ifdef _OPENMP
    atomic_llong *before, *own; /* NULL: nobody comes before, or after */
#else
    char none;
#endif
} turn;

/* Waits until the unit before is through with block `number`. */
static void turn_wait(const turn *t, int64_t number)
{
#ifdef _OPENMP
    if (t == NULL || t->before == NULL) return;
    while (atomic_load_explicit(t->before, memory_order_acquire) <= number) (void)sched_yield();
#else
    (void)t, (void)number;
#endif
}

static void turn_pass(const turn *t, int64_t number)
{
#ifdef _OPENMP
    if (t != NULL && t->own != NULL)
        atomic_store_explicit(t->own, number + 1, memory_order_release);
#else
    (void)t, (void)number;
#endif
}

/* ---- Work items ---- */

static bool same_queries(const lh_tile *a, const lh_tile *b)
{
    return a->q_row == b->q_row && a->nq == b->nq && a->q_stride == b->q_stride;
}

/* First tile after `begin` that has other queries. */
static int64_t group_end(const job *s, int64_t begin)
{
    int64_t end = begin + 1;
    while (end < s->n_tiles && same_queries(s->tiles + begin, s->tiles + end)) end++;
    return end;
}

/* Long rows of keys are worked through in spans that fit a core's own cache, all query blocks for
 * one span before the next. Returns the rows of a span: whole tiles where they are short, whole key
 * blocks where they are long, and everything where no query block sees much more than a span. */
static int64_t span_rows(const job *s, int64_t b)
{
    int64_t elements = 2 * (s->words + (s->backward ? s->stride : 0)); /* of a row */
    int64_t target = SPAN_BYTES / (elements * (int64_t)sizeof(real));
    int64_t longest = 1, most = 0;
    target = min_of(max_of(target / TILE_KEYS, 2) * TILE_KEYS, PACK_ROWS);
    for (int64_t begin = 0, end; begin < s->n_tiles; begin = end) {
        int64_t seen = 0;
        end = group_end(s, begin);
        for (int64_t i = begin; i < end; i++) {
            const lh_tile *t = s->tiles + i;
            int64_t range[2];
            if (t->k_stride < 1) return INT32_MAX;
            key_range(s, t, b, 0, t->nq, range);
            seen += max_of(0, range[1] - range[0]);
            longest = max_of(longest, t->nk);
        }
        most = max_of(most, seen);
    }
    if (most <= 2 * target) return INT32_MAX;
    return longest > target ? target : target / longest * longest;
}

/* Keys of the tile that the query block may see in its rows of the key block. */
static void span_range(const query_block *q, const lh_tile *t, int64_t range[2])
{
    const int64_t step = t->k_stride < 0 ? -t->k_stride : t->k_stride;
    /* rows [from, to) of the tile, in the direction of its keys */
    const int64_t from = t->k_stride < 0 ? t->k_row - q->to + 1 : q->from - t->k_row;
    const int64_t to = t->k_stride < 0 ? t->k_row - q->from + 1 : q->to - t->k_row;
    key_range(q->s, t, q->b, 0, t->nq, range);
    if (step == 0) { /* all keys are one row */
        if (from > 0 || to <= 0) range[1] = range[0];
        return;
    }
    if (from > 0) range[0] = max_of(range[0], (from - 1) / step + 1);
    range[1] = min_of(range[1], to > 0 ? (to - 1) / step + 1 : 0);
}

/* Tiles [begin, end) share their queries: one query block stays in scratch for all of them. */
static void run_queries(query_block *q, int64_t begin, int64_t end)
{
    const lh_tile *t = q->s->tiles + begin;
    bool begun = false;
    q->row = t->q_row;
    q->n = t->nq;
    q->step = t->q_stride;
    q->padded = round_up(q->n, GROUP);
    for (int64_t i = begin; i < end; i++) {
        t = q->s->tiles + i;
        int64_t range[2];
        span_range(q, t, range);
        if (q->limits != NULL && range[0] < range[1]) limit_tile(q, t, range);
        for (int64_t j = range[0]; j < range[1] && q->n > 0; j += TILE_KEYS) {
            key_block kb = {.tile = t, .first = j, .n = min_of(TILE_KEYS, range[1] - j)};
            if (q->limits != NULL && !limit_block(q, &kb)) continue;
            if (q->s->sight.hidden != NULL) hide_keys(q, &kb);
            if (!begun) begin_queries(q);
            begun = true;
            run_block(q, &kb);
        }
    }
    if (begun) {
        turn_wait(q->turn, q->number);
        q->waited = true;
        end_queries(q);
    }
    if (q->w->calls) q->s->between(q->s->user);
}

/* Query heads [first, last) of key head kv. */
static void query_heads(const job *s, int64_t kv, int64_t *first, int64_t *last)
{
    *first = max_of(s->head, kv * s->group - s->skew);
    *last = min_of(s->head + s->n_heads, (kv + 1) * s->group - s->skew);
}

/* ---- Units ----
 * An item is cut into units that depend on its shape alone, so that several threads can share an
 * item and the bits are those of one thread. Where keys are worked through in spans a unit is a span:
 * backward, it has its rows of dK and dV to itself, and adds to a block's dQ after the span before
 * it. Where one span has all keys that a query block sees, a unit is a run of query blocks: it has
 * its rows of dQ to itself, and adds its part of dK and dV after the unit before it.
 * Backward, threads share units; forward, the query blocks of each. */

/* The query blocks behind tile `begin` that make a unit of at least `queries` rows. */
static int64_t queries_end(const job *s, int64_t begin, int64_t queries)
{
    int64_t end = begin, rows = 0;
    while (end < s->n_tiles && rows < queries) {
        rows += s->tiles[end].nq;
        end = group_end(s, end);
    }
    return end;
}

/* Rows of queries of a unit: UNIT_QUERIES, more where UNITS of them would not do. */
static int64_t unit_queries(const job *s)
{
    int64_t rows = 0;
    for (int64_t i = 0; i < s->n_tiles; i = group_end(s, i)) rows += s->tiles[i].nq;
    return max_of(UNIT_QUERIES, rows / UNITS + 1);
}

/* The units of batch row b, into list [UNITS]; their number. */
static int64_t list_units(const job *s, int64_t b, unit list[UNITS])
{
    const unit all = whole_item(s);
    int64_t rows[2], n = 0;
    const int64_t span = span_rows(s, b), queries = unit_queries(s);
    rows_touched(s, b, &all, true, rows);
    if (rows[1] - rows[0] > UNITS * span) {
        list[0] = all; /* then one thread takes the spans in their order, as several would */
        return 1;
    }
    for (int64_t from = rows[0]; span < INT32_MAX && from < rows[1]; from += span)
        list[n++] = (unit){0, s->n_tiles, from, min_of(from + span, rows[1])};
    for (int64_t i = 0, end; span == INT32_MAX && i < s->n_tiles; i = end) {
        end = queries_end(s, i, queries);
        list[n++] = (unit){i, end, 0, INT32_MAX};
    }
    return n;
}

/* The thread's query blocks of a unit against its rows [u->from, u->to), with those packed that must
 * be. t: as run_unit. of_keys: no other unit has these rows. */
static void run_rows(const job *s, work *w, int64_t b, int64_t kv, const unit *u, turn *t,
                     bool of_keys)
{
    query_block q = {.s = s, .w = w, .b = b, .from = u->from, .to = u->to};
    unit own = *u;
    tile_limits limits;
    int64_t rows[2], first, last;
    if (of_keys) q.turn = t;
    if (s->sight.limits != NULL) q.limits = &limits;
    query_heads(s, kv, &first, &last);
    own.begin = max_of(u->begin, w->begin);
    own.end = min_of(u->end, w->end);
    rows_touched(s, b, &own, false, rows);
    pack_keys(s, b, kv, w, rows);
    for (int64_t begin = own.begin, end; begin < own.end; begin = end, q.number++) {
        end = group_end(s, begin);
        if (q.number % w->parts != w->part) continue;
        q.waited = false;
        for (q.h = first; q.h < last; q.h++) run_queries(&q, begin, end);
        if (q.waited) turn_pass(q.turn, q.number);
    }
    if (!s->backward || rows[1] <= rows[0]) return;
    if (!of_keys) turn_wait(t, rows[1] - 1); /* the unit before is through with these rows */
    add_key_gradients(s, b, kv, w, rows);
    if (!of_keys) turn_pass(t, rows[1] - 1);
}

/* Rows of the parts in which rows range[] of a unit are packed: its spans, or equal ones. */
static int64_t rows_packed(const job *s, int64_t b, const int64_t range[2])
{
    const int64_t span = span_rows(s, b), n = max_of(range[1] - range[0], 1);
    const int64_t parts = (n + PACK_ROWS - 1) / PACK_ROWS;
    return min_of(span, round_up((n + parts - 1) / parts, TILE_KEYS));
}

/* Unit u of an item. t: its turn; NULL: nobody else works on the item, or nothing depends on the
 * order. */
static void run_unit(const job *s, work *w, int64_t b, int64_t kv, const unit *u, turn *t)
{
    const bool of_keys = u->to < INT32_MAX;
    int64_t rows[2];
    unit cut = *u;
    rows_touched(s, b, u, false, rows);
    const int64_t most = rows_packed(s, b, rows);
    /* a unit of keys has no more rows than these; the first and the last part have all others, too */
    for (; !of_keys && rows[0] + most < rows[1]; rows[0] += most) {
        cut.to = rows[0] + most;
        run_rows(s, w, b, kv, &cut, t, of_keys);
        cut.from = cut.to;
    }
    cut.to = u->to;
    run_rows(s, w, b, kv, &cut, t, of_keys);
    turn_wait(t, INT32_MAX - 1);
    turn_pass(t, INT32_MAX - 1);
}

static void run_units(const job *s, work *w, int64_t b, int64_t kv)
{
    unit list[UNITS];
    const int64_t n = list_units(s, b, list);
    for (int64_t u = 0; u < n; u++) run_unit(s, w, b, kv, list + u, NULL);
}

static void run_one(const job *s, int thread, int64_t b, int64_t kv)
{
    work w;
    work_place(s, thread, &w);
    run_units(s, &w, b, kv);
}

/* The batch rows of a head add into the same dr: then one item is all of them, in their order. */
static bool items_are_heads(const job *s)
{
    return s->backward && s->qr != NULL;
}

/* Item `item` of heads first .. first + n_kv - 1. */
static void run_item(const job *s, int thread, int64_t item, int64_t first, int64_t n_kv)
{
    if (!items_are_heads(s)) {
        run_one(s, thread, item / n_kv, first + item % n_kv);
        return;
    }
    for (int64_t b = 0; b < s->batch; b++) run_one(s, thread, b, first + item);
}

#ifdef _OPENMP
/* May two blocks of queries hold the same row? a does not begin behind b. Blocks of one dilation do
 * not, where their residue classes differ. */
static bool blocks_meet(const lh_tile *a, const lh_tile *b)
{
    int64_t stride = a->nq > 1 ? a->q_stride : b->q_stride;
    if (stride < 1 || (a->nq > 1 && b->nq > 1 && b->q_stride != stride)) return true;
    int64_t apart = b->q_row - a->q_row;
    return apart <= (a->nq - 1) * stride && apart % stride == 0;
}

/* May threads share one item's query blocks? Not if two blocks might hold the same row. */
static bool blocks_disjoint(const job *s)
{
    int64_t reach = 0; /* from a block's first row to its last, at most */
    for (int64_t i = 0; i < s->n_tiles; i++) {
        const lh_tile *t = s->tiles + i;
        if (i > 0 && same_queries(t, t - 1)) continue;
        if (i > 0 && t->q_row < (t - 1)->q_row) return false;
        for (int64_t j = i - 1; j >= 0 && t->q_row - s->tiles[j].q_row <= reach; j--)
            if (blocks_meet(s->tiles + j, t)) return false;
        reach = max_of(reach, (int64_t)(t->nq - 1) * t->q_stride);
    }
    return true;
}

/* Keys that any query of the block of tiles [begin, end) sees. */
static int64_t keys_seen(const job *s, int64_t b, int64_t begin, int64_t end)
{
    int64_t n = 0;
    for (int64_t i = begin; i < end; i++) {
        int64_t range[2];
        key_range(s, s->tiles + i, b, 0, s->tiles[i].nq, range);
        n += max_of(0, range[1] - range[0]);
    }
    return n;
}

/* The thread's share of an item of units made of queries: neighbouring blocks, so that few rows are
 * packed by two threads, as many as see its part of all keys seen. */
static void take_neighbours(const job *s, work *w, int64_t b, int64_t part, int64_t parts)
{
    int64_t total = 0, before = 0;
    for (int64_t i = 0, end; i < s->n_tiles; i = end) {
        end = group_end(s, i);
        total += keys_seen(s, b, i, end);
    }
    w->begin = w->end = 0;
    for (int64_t i = 0, end; i < s->n_tiles && total > 0; i = end) {
        end = group_end(s, i);
        const int64_t seen = keys_seen(s, b, i, end);
        const int64_t owner = (before + seen / 2) * parts / total;
        before += seen;
        if (owner < part) w->begin = end;
        if (owner <= part) w->end = end;
    }
}

/* Forward of one item by all threads of the team, each with its share of the query blocks, and keys
 * of its own: blocks in turn where every share needs most keys anyway. */
static void run_item_shared(const job *s, int thread, int threads, int64_t b, int64_t kv)
{
    work w;
    const unit all = whole_item(s);
    int64_t rows[2];
    work_place(s, thread, &w);
    rows_touched(s, b, &all, true, rows);
    if (span_rows(s, b) < INT32_MAX || rows[1] - rows[0] <= PACK_ROWS) {
        w.part = thread;
        w.parts = threads;
    } else {
        take_neighbours(s, &w, b, thread, threads);
    }
    run_units(s, &w, b, kv);
}

/* Backward of items that several threads share: units are taken in the order of items and units. */
typedef struct pool {
    const job *s;
    int64_t first, n_kv, item, items; /* item: the first of this round */
    int64_t most;                     /* units of an item */
    atomic_llong next, done[UNITS];
} pool;

static void pool_run(pool *p, int thread)
{
    work w;
    unit list[UNITS];
    work_place(p->s, thread, &w);
    for (;;) {
        const int64_t i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        const int64_t item = p->item + i / p->most, u = i % p->most;
        if (i >= p->items * p->most) break;
        const int64_t b = item / p->n_kv, kv = p->first + item % p->n_kv;
        turn t = {u > 0 ? &p->done[i - 1] : NULL, &p->done[i]};
        if (u < list_units(p->s, b, list)) run_unit(p->s, &w, b, kv, list + u, &t);
    }
}

static void run_pool(const job *s, int threads, int64_t first, int64_t n_kv, int64_t most)
{
    const int64_t items = s->batch * n_kv, together = UNITS / most;
    for (int64_t item = 0; item < items; item += together) {
        pool p = {.s = s, .first = first, .n_kv = n_kv, .item = item, .most = most};
        p.items = min_of(together, items - item);
#pragma omp parallel num_threads(threads)
        pool_run(&p, omp_get_thread_num());
    }
}

/* Units of an item, at most. */
static int64_t most_units(const job *s)
{
    unit list[UNITS];
    int64_t most = 1;
    for (int64_t b = 0; b < s->batch; b++) most = max_of(most, list_units(s, b, list));
    return most;
}

static void run_team(const job *s, int threads, int64_t first, int64_t n_kv)
{
    int64_t items = items_are_heads(s) ? n_kv : s->batch * n_kv;
    bool even = items % threads == 0; /* then each thread has as many as the others */
    bool shared = !s->backward && !even && blocks_disjoint(s);
    if (s->backward && !even && !items_are_heads(s) && blocks_disjoint(s)) {
        run_pool(s, threads, first, n_kv, most_units(s));
        return;
    }
    if (shared) {
#pragma omp parallel num_threads(threads)
        for (int64_t i = 0; i < items; i++)
            run_item_shared(s, omp_get_thread_num(), omp_get_num_threads(), i / n_kv,
                            first + i % n_kv);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t i = 0; i < items; i++) run_item(s, omp_get_thread_num(), i, first, n_kv);
}
#endif

static void run(const job *s, int threads)
{
    if (s->n_tiles <= 0 || s->n_heads <= 0 || s->batch <= 0) return;
    int64_t first = (s->head + s->skew) / s->group,
            n_kv = (s->head + s->n_heads - 1 + s->skew) / s->group - first + 1;
#ifdef _OPENMP
    if (threads > 1) {
        run_team(s, threads, first, n_kv);
        return;
    }
#endif
    (void)threads;
    int64_t items = items_are_heads(s) ? n_kv : s->batch * n_kv;
    for (int64_t i = 0; i < items; i++) run_item(s, 0, i, first, n_kv);
}

/* ---- Slots ---- */

/* What the two records of arguments have in common. */
#define JOB(a, is_backward)                                                                        \
    {                                                                                              \
        .backward = is_backward, .batch = (a)->batch, .heads = (a)->heads,                         \
        .kv_heads = (a)->kv_heads, .width = (a)->width, .q_rows = (a)->q_rows,                     \
        .k_rows = (a)->k_rows, .head = (a)->head, .n_heads = (a)->n_heads,                         \
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
