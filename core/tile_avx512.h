/* Part of the AVX-512 variants of core/tile_body.h: float vectors of 16 lanes, with instructions of
 * their own for what all of them do. */
#include <immintrin.h>
#include <stdint.h>

#define LANES 16
#define TILE_OWN_BASICS
#define TILE_OWN_EXP2

typedef float real;
typedef __m512 vec;
typedef int32_t ivec __attribute__((vector_size(64), may_alias));

static inline vec vec_splat(real x)
{
    return _mm512_set1_ps(x);
}

/* The larger one; b where a is not a number. */
static inline vec vec_max(vec a, vec b)
{
    return _mm512_max_ps(a, b);
}

/* 2^x = 2^floor(x) 2^f: a polynomial for 2^f on [0, 1) (Remez, relative error 2e-9), scaled by the
 * instruction that takes floor(x) itself. At -inf f is 0 by definition and the scaled 1 is 0. */
static inline vec vec_exp2(vec x)
{
    vec f = _mm512_reduce_ps(x, 0x01);
    vec p = _mm512_set1_ps(2.1702255684156885e-4F);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.2439687700471446e-3F));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.6788410183056488e-3F));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.5483341968287175e-2F));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4022983627902043e-1F));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9314698384012007e-1F));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0F));
    return _mm512_scalef_ps(p, x);
}

/* dst = transposed src, 16 x 16; src at any address. */
static inline void vec_transpose(const real *src, int64_t src_stride, real *dst, int64_t dst_stride)
{
    __m512 a[16], b[16];
    for (int r = 0; r < 16; r += 2) {
        __m512 x = _mm512_loadu_ps(src + r * src_stride),
               y = _mm512_loadu_ps(src + (r + 1) * src_stride);
        a[r] = _mm512_unpacklo_ps(x, y);
        a[r + 1] = _mm512_unpackhi_ps(x, y);
    }
    /* b[4 g + c], quarter l: column 4 l + c of rows 4 g .. 4 g + 3 */
    for (int r = 0; r < 16; r += 4)
        for (int c = 0; c < 2; c++) {
            __m512d x = _mm512_castps_pd(a[r + c]), y = _mm512_castps_pd(a[r + c + 2]);
            b[r + 2 * c] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
            b[r + 2 * c + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
        }
    for (int c = 0; c < 4; c++) {
        __m512 even0 = _mm512_shuffle_f32x4(b[c], b[4 + c], 0x88),
               odd0 = _mm512_shuffle_f32x4(b[c], b[4 + c], 0xdd);
        __m512 even1 = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0x88);
        __m512 odd1 = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0xdd);
        _mm512_store_ps(dst + c * dst_stride, _mm512_shuffle_f32x4(even0, even1, 0x88));
        _mm512_store_ps(dst + (4 + c) * dst_stride, _mm512_shuffle_f32x4(odd0, odd1, 0x88));
        _mm512_store_ps(dst + (8 + c) * dst_stride, _mm512_shuffle_f32x4(even0, even1, 0xdd));
        _mm512_store_ps(dst + (12 + c) * dst_stride, _mm512_shuffle_f32x4(odd0, odd1, 0xdd));
    }
}
