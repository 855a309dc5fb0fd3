/* Kernels for float, portable, and the choice among the vector tables.
 * Flags: -O3 -fopenmp -ffp-contract=fast -fno-math-errno -fno-trapping-math. */
#define KB_REAL float
#define KB_FLOAT 1
#define KB_ISA "portable"
#define KB_SYMBOL(name) lhi_##name##_f32
#define KB_SQRT sqrtf
#define KB_GEMM lhi_gemm_f32
#define KB_TABLE lh_kernels_f32
#include "core/kernels_body.h"

const lh_kernels *lh_kernels_f32_avx2(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return lhi_kernels_f32_avx2_table();
#endif
    return NULL;
}

const lh_kernels *lh_kernels_f32_avx512(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return lhi_kernels_f32_avx512_table();
#endif
    return NULL;
}
