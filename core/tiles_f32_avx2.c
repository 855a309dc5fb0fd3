/* Attention tiles, float, AVX2. Compiled with -mavx2 -mfma -ffp-contract=fast. */
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#include <stdint.h>

#define TILE_SLOT(slot) lhi_##slot##_f32_avx2
#define LANES 8
#define SCORE_ROWS 6
#define SCORE_VECS 2
#define OUT_ROWS 6
#define OUT_VECS 2
#define TILE_OWN_BASICS
#define GEMM_ELSE lhi_gemm_f32
#define EXP2_SHIFT 23
#define EXP2_LOWEST (-126.0F)
#define EXP2_COEFFICIENTS                                                                          \
    1.0F, 6.9314720573719576e-1F, 2.4022646890645521e-1F, 5.5503287771053248e-2F,                  \
        9.6184889563311816e-3F, 1.3399931177239738e-3F, 1.5345812161311616e-4F

typedef float real;
typedef __m256 vec;
typedef int32_t ivec __attribute__((vector_size(32), may_alias));

static inline vec vec_splat(real x)
{
    return _mm256_set1_ps(x);
}

/* The larger one; b where a is not a number. */
static inline vec vec_max(vec a, vec b)
{
    return _mm256_max_ps(a, b);
}

/* dst = transposed src, 8 x 8; src at any address. */
static inline void vec_transpose(const real *src, int64_t src_stride, real *dst, int64_t dst_stride)
{
    __m256 a[8], b[8];
    for (int r = 0; r < 8; r += 2) {
        __m256 x = _mm256_loadu_ps(src + r * src_stride),
               y = _mm256_loadu_ps(src + (r + 1) * src_stride);
        a[r] = _mm256_unpacklo_ps(x, y);
        a[r + 1] = _mm256_unpackhi_ps(x, y);
    }
    /* b[4 g + c], half l: column 4 l + c of rows 4 g .. 4 g + 3 */
    for (int r = 0; r < 8; r += 4)
        for (int c = 0; c < 2; c++) {
            __m256d x = _mm256_castps_pd(a[r + c]), y = _mm256_castps_pd(a[r + c + 2]);
            b[r + 2 * c] = _mm256_castpd_ps(_mm256_unpacklo_pd(x, y));
            b[r + 2 * c + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(x, y));
        }
    for (int c = 0; c < 4; c++) {
        _mm256_store_ps(dst + c * dst_stride, _mm256_permute2f128_ps(b[c], b[4 + c], 0x20));
        _mm256_store_ps(dst + (4 + c) * dst_stride, _mm256_permute2f128_ps(b[c], b[4 + c], 0x31));
    }
}

#include "core/tile_body.h"
#else
typedef int lhi_tiles_f32_avx2_absent;
#endif
