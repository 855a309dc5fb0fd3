/* Kernels for float with avx512.
 * Flags: -O3 -fopenmp -ffp-contract=fast -fno-math-errno
 *        -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mprefer-vector-width=512
 * Compiled without the -m flags (another processor) the table is NULL. */
#include "core/kernels_internal.h"

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define KB_REAL float
#define KB_FLOAT 1
#define KB_ISA "avx512"
#define KB_SYMBOL(name) lhi_##name##_f32_avx512
#define KB_SQRT sqrtf
#define KB_GEMM lhi_gemm_f32_avx512
#define KB_TABLE lhi_kernels_f32_avx512_table
#include "core/kernels_body.h"

/* The same kernels with tiles of bfloat16 operands. */
#ifdef LH_AVX512_BF16
#undef KB_ISA
#undef KB_SYMBOL
#undef KB_TABLE
#define KB_ISA "avx512_bf16"
#define KB_SYMBOL(name) lhi_##name##_f32_avx512_bf16
#define KB_TABLE lhi_kernels_f32_avx512_bf16_table
#define KB_TABLE_ONLY
#include "core/kernels_body.h"
#endif
#else
const lh_kernels *lhi_kernels_f32_avx512_table(void)
{
    return NULL;
}
#endif

#if !defined(KB_TABLE_ONLY)
const lh_kernels *lhi_kernels_f32_avx512_bf16_table(void)
{
    return NULL;
}
#endif
