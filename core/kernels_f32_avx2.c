/* Kernels for float with avx2.
 * Flags: -O3 -fopenmp -ffp-contract=fast -fno-math-errno
 *        -mavx2 -mfma
 * Compiled without the -m flags (another processor) the table is NULL. */
#include "core/kernels_internal.h"

#if defined(__AVX2__) && defined(__FMA__)
#define KB_REAL float
#define KB_FLOAT 1
#define KB_ISA "avx2"
#define KB_SYMBOL(name) lhi_##name##_f32_avx2
#define KB_SQRT sqrtf
#define KB_GEMM lhi_gemm_f32_avx2
#define KB_TABLE lhi_kernels_f32_avx2_table
#include "core/kernels_body.h"
#else
const lh_kernels *lhi_kernels_f32_avx2_table(void)
{
    return NULL;
}
#endif
