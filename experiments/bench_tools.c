/* What the benchmarks have in common. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "experiments/bench_internal.h"
#include "parallel/host.h"

enum { TOOLS_GEMM = 2048 };

static int tools_compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

double lhi_bench_median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, tools_compare);
    return n % 2 == 1 ? x[n / 2] : 0.5 * (x[n / 2 - 1] + x[n / 2]);
}

void lhi_bench_warn(lh_comm *world, int64_t threads)
{
    lh_host host = lh_host_of(world);
    char text[256];
    if (lh_comm_rank(world) == 0 && lh_host_short(&host, (int)threads, text, sizeof text))
        (void)fprintf(stderr, "longhaul: %s\n", text);
}

/* Small numbers, so that repeated products stay finite. */
lh_status lhi_bench_gemm_create(lh_device *d, lhi_bench_gemm *g)
{
    lh_status st = LH_OK;
    void *host = NULL;
    size_t bytes = (size_t)TOOLS_GEMM * TOOLS_GEMM * lh_dtype_bytes(LH_REAL);
    LH_TRY(lh_host_alloc(bytes, &host));
    for (int i = 0; i < 3; i++) {
        for (int64_t e = 0; e < (int64_t)TOOLS_GEMM * TOOLS_GEMM; e++)
            ((lh_real *)host)[e] = (lh_real)((double)((e * 2654435761 + i) % 1009) / 1009.0 - 0.5);
        LH_TRY(lh_device_alloc(d, bytes, &g->operand[i]));
        lh_copy_in(d, g->operand[i], host, bytes);
    }
done:
    lh_host_release(&host);
    return st;
}

void lhi_bench_gemm_destroy(lh_device *d, lhi_bench_gemm *g)
{
    for (int i = 0; i < 3; i++) lh_device_release(d, &g->operand[i]);
}

double lhi_bench_gemm_run(lh_comm *world, lh_device *d, const lhi_bench_gemm *g)
{
    lh_gemm_args a = {.m = TOOLS_GEMM,
                      .n = TOOLS_GEMM,
                      .k = TOOLS_GEMM,
                      .alpha = 1.0,
                      .a = g->operand[0],
                      .a_rs = TOOLS_GEMM,
                      .a_cs = 1,
                      .b = g->operand[1],
                      .b_rs = TOOLS_GEMM,
                      .b_cs = 1,
                      .c = g->operand[2],
                      .c_rs = TOOLS_GEMM,
                      .c_cs = 1};
    lh_barrier(world);
    double start = lh_wall();
    lh_run_gemm(d, &a);
    return lh_wall() - start;
}

lh_status lhi_bench_flush_create(void **memory, size_t *bytes)
{
    const size_t least = (size_t)32 << 20;
    const size_t most = (size_t)512 << 20;
    long cache = 0;
#ifdef _SC_LEVEL3_CACHE_SIZE
    cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    size_t one = cache > 0 && (size_t)cache > least ? (size_t)cache : least;
    *bytes = 2 * (one < most ? one : most);
    return lh_host_alloc(*bytes, memory);
}

void lhi_bench_flush(void *memory, size_t bytes)
{
    if (bytes > 0) memset(memory, 1, bytes);
}

void lhi_bench_json_case(lh_json *j, const lhi_bench_case *c, int ranks)
{
    int64_t window = 0;
    lh_json_string(j, "mechanism", c->ops->name);
    lh_json_int(j, "n", c->n);
    lh_json_int(j, "ranks", ranks);
    lh_json_int(j, "threads", c->threads);
    lh_json_int(j, "batch", c->batch);
    lh_json_int(j, "heads", c->heads);
    lh_json_int(j, "kv_heads", c->kv_heads);
    lh_json_int(j, "head_dim", c->head_width);
    lh_json_bool(j, "causal", c->causal);
    lh_json_string(j, "layout", c->zigzag ? "zigzag" : "contiguous");
    lh_json_int(j, "ulysses", c->ways);
    if (lhi_bench_window(c, &window))
        lh_json_int(j, "window", window);
    else
        lh_json_real(j, "window", (double)NAN); /* null */
}

void lhi_bench_json_mean(lh_json *j, const char *key, int64_t sum, int ranks)
{
    if (sum % ranks == 0)
        lh_json_int(j, key, sum / ranks);
    else
        lh_json_real(j, key, (double)sum / ranks);
}
