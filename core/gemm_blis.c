/* Matrix products by the typed interface of BLIS (Van Zee and van de Geijn 2015), whose operands
 * have row and column strides of their own, so that transposed operands need no copy. Threads each call
 * it for a part of their own. */
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

/* Parts for a product, one for each thread: each gets at least LHI_GEMM_SHARE multiply-adds, since waking
 * a thread costs more than that. The longer side of C is cut, at multiples of GEMM_UNIT (what register
 * blocks of every width divide). The bits do not depend on it. BLIS's own threads would meet at
 * barriers in which they spin: where processors are shared that takes a multiple of the product. */
enum { GEMM_UNIT = 96 };

static int gemm_parts(const lh_gemm_args *a, int threads)
{
    double most = (double)a->m * (double)a->n * (double)a->k / LHI_GEMM_SHARE;
    int64_t units = ((a->m > a->n ? a->m : a->n) + GEMM_UNIT - 1) / GEMM_UNIT;
    if (most < (double)threads) threads = (int)most;
    if (units < threads) threads = (int)units;
    return threads > 1 ? threads : 1;
}

/* Part i of `parts`: its rows or columns of C, and where its operands begin. */
static lh_gemm_args gemm_part(const lh_gemm_args *g, int64_t i, int64_t parts, size_t bytes)
{
    lh_gemm_args p = *g;
    const bool tall = g->m > g->n;
    const int64_t size = tall ? g->m : g->n, units = (size + GEMM_UNIT - 1) / GEMM_UNIT;
    const int64_t first = units * i / parts * GEMM_UNIT;
    int64_t end = units * (i + 1) / parts * GEMM_UNIT;
    if (end > size) end = size;
    if (tall) {
        p.m = end - first;
        p.a = (const char *)g->a + first * g->a_rs * (int64_t)bytes;
        p.c = (char *)g->c + first * g->c_rs * (int64_t)bytes;
    } else {
        p.n = end - first;
        p.b = (const char *)g->b + first * g->b_cs * (int64_t)bytes;
        p.c = (char *)g->c + first * g->c_cs * (int64_t)bytes;
    }
    return p;
}

#define GEMM_DEFINE(suffix, real, call)                                                            \
    static void gemm_one_##suffix(const lh_gemm_args *g)                                           \
    {                                                                                              \
        rntm_t rntm = BLIS_RNTM_INITIALIZER;                                                       \
        real alpha = (real)g->alpha;                                                               \
        real beta = g->accumulate ? (real)1 : (real)0;                                             \
        gemm_strides sa = gemm_normal(g->m, g->k, g->a_rs, g->a_cs);                               \
        gemm_strides sb = gemm_normal(g->k, g->n, g->b_rs, g->b_cs);                               \
        gemm_strides sc = gemm_normal(g->m, g->n, g->c_rs, g->c_cs);                               \
        bli_rntm_disable_l3_sup(&rntm);                                                            \
        bli_rntm_set_num_threads(1, &rntm);                                                        \
        /* BLIS's prototypes lack const; it only reads a and b. */                                 \
        call(BLIS_NO_TRANSPOSE, BLIS_NO_TRANSPOSE, (dim_t)g->m, (dim_t)g->n, (dim_t)g->k, &alpha,  \
             (real *)(uintptr_t)g->a, sa.rs, sa.cs, (real *)(uintptr_t)g->b, sb.rs, sb.cs, &beta,  \
             (real *)g->c, sc.rs, sc.cs, NULL, &rntm);                                             \
    }                                                                                              \
    void lhi_gemm_##suffix(const lh_gemm_args *g, int threads)                                     \
    {                                                                                              \
        real *c = g->c;                                                                            \
        if (gemm_trivial(g)) return;                                                               \
        for (int64_t i = 0; g->k <= 0 && i < g->m; i++)                                            \
            for (int64_t j = 0; j < g->n; j++) c[i * g->c_rs + j * g->c_cs] = (real)0;             \
        if (g->k <= 0) return;                                                                     \
        const int parts = gemm_parts(g, threads);                                                  \
        if (parts == 1) {                                                                          \
            gemm_one_##suffix(g);                                                                  \
            return;                                                                                \
        }                                                                                          \
        _Pragma("omp parallel for num_threads(parts) schedule(static, 1)") for (int i = 0;         \
                                                                                i < parts; i++)    \
        {                                                                                          \
            const lh_gemm_args part = gemm_part(g, i, parts, sizeof(real));                        \
            if (!gemm_trivial(&part)) gemm_one_##suffix(&part);                                    \
        }                                                                                          \
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
