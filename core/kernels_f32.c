/* Kernels for float, portable, and the choice among the vector tables.
 * Flags: -O3 -fopenmp -ffp-contract=fast -fno-math-errno. */
#define KB_REAL float
#define KB_FLOAT 1
#define KB_ISA "portable"
#define KB_SYMBOL(name) lhi_##name##_f32
#define KB_SQRT sqrtf
#define KB_GEMM lhi_gemm_f32
#define KB_TABLE lh_kernels_f32
#include "core/kernels_body.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

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

const lh_kernels *lh_kernels_f32_avx512_bf16(void)
{
#if defined(__x86_64__)
    /* asked of the processor itself: not every compiler that we build with knows the name */
    enum { FEATURES = 7, MORE = 1, AVX512_BF16 = 1 << 5 };
    unsigned int a = 0, b = 0, c = 0, d = 0;
    if (lh_kernels_f32_avx512() != NULL && __get_cpuid_count(FEATURES, MORE, &a, &b, &c, &d) != 0 &&
        (a & AVX512_BF16) != 0)
        return lhi_kernels_f32_avx512_bf16_table();
#endif
    return NULL;
}
