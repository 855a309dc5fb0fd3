/* Part of core/tile_body.h: vectors, and products in blocks of registers. */

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
