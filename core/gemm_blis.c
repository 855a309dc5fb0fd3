/* Matrix products by the typed interface of BLIS (Van Zee and van de Geijn 2015), whose operands
 * have row and column strides of their own, so that transposed operands need no copy. The thread
 * count travels with the call. */
#define _DEFAULT_SOURCE /* setenv */
#include "core/kernels_internal.h"

#include <stdio.h>
#include <stdlib.h>

#include <blis.h>

/* A dimension of length 1 never uses its stride; BLIS nevertheless refuses combinations such as (1,
 * 1) or 0. */
typedef struct gemm_strides {
    inc_t rs, cs;
} gemm_strides;

static gemm_strides gemm_normal(int64_t rows, int64_t cols, int64_t rs, int64_t cs)
{
    gemm_strides s = {(inc_t)rs, (inc_t)cs};
    if (rows == 1 && cols == 1)
        s = (gemm_strides){1, 1};
    else if (rows == 1)
        s.rs = s.cs * (inc_t)cols;
    else if (cols == 1)
        s.cs = s.rs * (inc_t)rows;
    return s;
}

/* BLIS's kernels for small and skinny products (sup) give bits that depend on the number of
 * threads; they are switched off below, which costs up to a third at 64 cubed and a few per cent
 * from 512 x 128 x 128 on. */

/* k = 0 by hand: C := 0 or C; n and m may be 0. */
static bool gemm_trivial(const lh_gemm_args *a)
{
    return a->m <= 0 || a->n <= 0 || (a->k <= 0 && a->accumulate);
}

/* Threads for a product: each gets at least GEMM_SHARE multiply-adds, since waking one costs more
 * than that. The bits do not depend on it. */
enum { GEMM_SHARE = 262144 };
static int gemm_threads(const lh_gemm_args *a, int threads)
{
    double most = (double)a->m * (double)a->n * (double)a->k / GEMM_SHARE;
    if (most < 1.0) return 1;
    return most < (double)threads ? (int)most : threads;
}

#define GEMM_DEFINE(suffix, real, call)                                                            \
    void lhi_gemm_##suffix(const lh_gemm_args *g, int threads)                                     \
    {                                                                                              \
        rntm_t rntm = BLIS_RNTM_INITIALIZER;                                                       \
        real alpha = (real)g->alpha;                                                               \
        real beta = g->accumulate ? (real)1 : (real)0;                                             \
        real *c = g->c;                                                                            \
        if (gemm_trivial(g)) return;                                                               \
        if (g->k <= 0) {                                                                           \
            for (int64_t i = 0; i < g->m; i++)                                                     \
                for (int64_t j = 0; j < g->n; j++) c[i * g->c_rs + j * g->c_cs] = (real)0;         \
            return;                                                                                \
        }                                                                                          \
        gemm_strides sa = gemm_normal(g->m, g->k, g->a_rs, g->a_cs);                               \
        gemm_strides sb = gemm_normal(g->k, g->n, g->b_rs, g->b_cs);                               \
        gemm_strides sc = gemm_normal(g->m, g->n, g->c_rs, g->c_cs);                               \
        bli_rntm_disable_l3_sup(&rntm);                                                            \
        bli_rntm_set_num_threads(gemm_threads(g, threads), &rntm);                                 \
        /* BLIS's prototypes lack const; it only reads a and b. */                                 \
        call(BLIS_NO_TRANSPOSE, BLIS_NO_TRANSPOSE, (dim_t)g->m, (dim_t)g->n, (dim_t)g->k, &alpha,  \
             (real *)(uintptr_t)g->a, sa.rs, sa.cs, (real *)(uintptr_t)g->b, sb.rs, sb.cs, &beta,  \
             c, sc.rs, sc.cs, NULL, &rntm);                                                        \
    }

GEMM_DEFINE(f64, double, bli_dgemm_ex)
GEMM_DEFINE(f32, float, bli_sgemm_ex)

/* BLIS 0.9 knows AMD processors up to Zen 3 by family number and falls back to its plain C kernels
 * on newer ones: on a Zen 5 core 38 instead of 190 GFLOP/s. Its own switch, the environment
 * variable BLIS_ARCH_TYPE, is read once, at the first call, and a value set by the user stays. */
void lhi_gemm_prepare(void)
{
#if defined(__x86_64__) && defined(BLIS_CONFIG_SKX)
    char id[16];
    __builtin_cpu_init();
    if (!__builtin_cpu_is("amd") || !__builtin_cpu_supports("avx512f") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512cd"))
        return;
    (void)snprintf(id, sizeof id, "%d", (int)BLIS_ARCH_SKX);
    (void)setenv("BLIS_ARCH_TYPE", id, 0); /* failure only costs speed */
#endif
}
