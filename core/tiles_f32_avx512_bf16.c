/* Attention tiles, float, AVX-512 with products of bfloat16 operands.
 * Compiled with the flags of core/tiles_f32_avx512.c and -mavx512bf16, if the compiler has it. */
#if defined(LH_AVX512_BF16)
#define TILE_SLOT(slot) lhi_##slot##_f32_avx512_bf16
#define TILE_BF16
#define SCORE_ROWS 8
#define SCORE_VECS 3
#define OUT_ROWS 12
#define OUT_VECS 2

#include "core/tile_avx512.h"
#include "core/tile_body.h"
#else
typedef int lhi_tiles_f32_avx512_bf16_absent;
#endif
