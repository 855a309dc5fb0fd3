/* Attention tiles, float, AVX-512.
 * Compiled with -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -ffp-contract=fast. */
#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define TILE_SLOT(slot) lhi_##slot##_f32_avx512
#define SCORE_ROWS 8
#define SCORE_VECS 3
#define OUT_ROWS 12
#define OUT_VECS 2
#define GEMM_ELSE lhi_gemm_f32

#include "core/tile_avx512.h"
#include "core/tile_body.h"
#else
typedef int lhi_tiles_f32_avx512_absent;
#endif
