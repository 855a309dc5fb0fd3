/* Attention over 4,096 positions: the tiles of every instruction set against those of double, which
 * test_tiles compares with plain loops. What is computed is a part of the whole that keeps its sums
 * as long: some queries see all keys, so outputs and their gradients sum 4,096 terms, and all
 * queries see some keys, whose gradients do. */
#include "tests/lh_test.h"

#include "core/kernels.h"
#include "core/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One line for each path: its table (NULL where the processor lacks it), and what outputs and
 * gradients may differ by, of the largest entry. */
static const struct path {
    const char *name;
    const lh_kernels *(*table)(void);
    double output, gradient;
} paths[] = {
    {"portable", lh_kernels_f32, 5e-6, 2e-5},
    {"avx2", lh_kernels_f32_avx2, 5e-6, 2e-5},
    {"avx512", lh_kernels_f32_avx512, 5e-6, 2e-5},
};
enum { PATHS = sizeof paths / sizeof paths[0] };

/* q_rows queries from position q_first on, k_rows keys from k_first on, of N positions. A query sees
 * `before` positions before it and `after` after it. */
typedef struct part {
    const char *name;
    int64_t width, q_first, q_rows, k_first, k_rows, before, after;
} part;

enum { N = 4096, HEADS = 2, MAX_TILES = N / LH_TILE_Q + 1 };
enum { Q, K, V, DO, INPUTS, O = INPUTS, LSE, DQ, DK, DV, ARRAYS };

typedef struct arrays {
    int64_t n[ARRAYS];
    double *d[ARRAYS];
    float *f[ARRAYS];
} arrays;

static void *fresh(int64_t n, size_t bytes)
{
    void *p = aligned_alloc(64, ((size_t)n * bytes + 127) / 64 * 64);
    assert_non_null(p);
    memset(p, 0, ((size_t)n * bytes + 127) / 64 * 64);
    return p;
}

static arrays arrays_new(const part *p)
{
    arrays a;
    const int64_t queries = p->q_rows * HEADS, keys = p->k_rows * HEADS;
    for (int i = 0; i < ARRAYS; i++) {
        const bool of_keys = i == K || i == V || i == DK || i == DV;
        a.n[i] = of_keys ? keys * p->width : i == LSE ? queries : queries * p->width;
        a.d[i] = fresh(a.n[i], sizeof(double));
        a.f[i] = fresh(a.n[i], sizeof(float));
        for (int64_t j = 0; i < INPUTS && j < a.n[i]; j++) {
            a.f[i][j] =
                (float)lh_random_normal(9, lh_stream_id(LH_STREAM_TEST, (uint32_t)i), (uint64_t)j);
            a.d[i][j] = (double)a.f[i][j];
        }
    }
    return a;
}

static void arrays_free(arrays *a)
{
    for (int i = 0; i < ARRAYS; i++) {
        free(a->d[i]);
        free(a->f[i]);
    }
}

static int64_t tiles_of(const part *p, lh_tile tiles[MAX_TILES])
{
    int64_t n = 0;
    for (int64_t row = 0; row < p->q_rows; row += LH_TILE_Q, n++) {
        const int64_t shift = p->q_first + row - p->k_first;
        const int64_t left = p->q_rows - row;
        tiles[n] = (lh_tile){.q_row = (int32_t)row,
                             .nq = (int32_t)(left < LH_TILE_Q ? left : LH_TILE_Q),
                             .q_stride = 1,
                             .nk = (int32_t)p->k_rows,
                             .k_stride = 1,
                             .lo = (int32_t)(shift - p->before),
                             .hi = (int32_t)(shift + p->after),
                             .bits = -1,
                             .k_step = 1};
    }
    return n;
}

/* Forward and backward of a table in its own element type. */
static void attend(const part *p, const lh_kernels *k, arrays *a, bool single)
{
    lh_tile tiles[MAX_TILES];
    const int64_t n_tiles = tiles_of(p, tiles), stats = a->n[LSE];
    const size_t bytes = single ? sizeof(float) : sizeof(double);
    void *x[ARRAYS], *sum = fresh(stats, bytes), *delta = fresh(stats, bytes);
    const lh_attend_room room = {.width = p->width, .k_rows = p->k_rows, .backward = true};
    void *scratch = fresh(1, k->attend_scratch(&room, 1));
    for (int i = 0; i < ARRAYS; i++) x[i] = single ? (void *)a->f[i] : (void *)a->d[i];
    for (int i = O; i < ARRAYS; i++) memset(x[i], 0, (size_t)a->n[i] * bytes);
    k->fill(&(lh_fill_args){stats, -(double)INFINITY, x[LSE]}, 1);
    lh_attend_args f = {.batch = 1,
                        .heads = HEADS,
                        .kv_heads = HEADS,
                        .width = p->width,
                        .q_rows = p->q_rows,
                        .k_rows = p->k_rows,
                        .n_heads = HEADS,
                        .scale = 1.0 / sqrt((double)p->width),
                        .q = x[Q],
                        .k = x[K],
                        .v = x[V],
                        .o = x[O],
                        .max = x[LSE],
                        .sum = sum,
                        .tiles = tiles,
                        .n_tiles = n_tiles,
                        .scratch = scratch};
    k->attend(&f, 1);
    k->attend_finish(
        &(lh_attend_finish_args){1, HEADS, p->width, p->q_rows, x[O], x[LSE], sum, x[LSE]}, 1);
    k->attend_delta(
        &(lh_attend_delta_args){1, HEADS, p->width, p->q_rows, x[O], x[DO], NULL, delta}, 1);
    lh_attend_grad_args g = {.batch = 1,
                             .heads = HEADS,
                             .kv_heads = HEADS,
                             .width = p->width,
                             .q_rows = p->q_rows,
                             .k_rows = p->k_rows,
                             .n_heads = HEADS,
                             .scale = f.scale,
                             .q = x[Q],
                             .k = x[K],
                             .v = x[V],
                             .d_o = x[DO],
                             .lse = x[LSE],
                             .delta = delta,
                             .dq = x[DQ],
                             .dk = x[DK],
                             .dv = x[DV],
                             .tiles = tiles,
                             .n_tiles = n_tiles,
                             .scratch = scratch};
    k->attend_grad(&g, 1);
    free(scratch);
    free(sum);
    free(delta);
}

/* The largest differences seen on each path. */
static double seen_output[PATHS], seen_gradient[PATHS];

static void compare(const part *p, int which, const arrays *a, int i)
{
    const struct path *path = &paths[which];
    double *seen = i <= LSE ? &seen_output[which] : &seen_gradient[which];
    static const char *const label[] = {"q", "k", "v", "do", "o", "lse", "dq", "dk", "dv"};
    double largest = 0, error = 0;
    for (int64_t j = 0; j < a->n[i]; j++) {
        const double want = a->d[i][j], off = fabs((double)a->f[i][j] - want);
        if (isinf(want) && (double)a->f[i][j] == want)
            continue; /* lse of a query that sees nothing */
        largest = fmax(largest, fabs(want));
        if (!(off <= error)) error = isnan(off) ? INFINITY : off;
    }
    *seen = fmax(*seen, error / largest);
    const double allowed = i <= LSE ? path->output : path->gradient;
    if (!(largest > 0) || !(error <= allowed * largest))
        fail_msg("%s, head size %lld, %s: %s differs by %.3g of the largest, allowed %.3g", p->name,
                 (long long)p->width, path->name, label[i], error / largest, allowed);
}

static void check(const part *p)
{
    arrays a = arrays_new(p);
    attend(p, lh_kernels_f64(), &a, false);
    for (int i = 0; i < PATHS; i++) {
        const lh_kernels *k = paths[i].table();
        if (k == NULL) {
            print_message("[  NOTE    ] this processor has no %s: not compared\n", paths[i].name);
            continue;
        }
        attend(p, k, &a, true);
        for (int j = O; j < ARRAYS; j++) compare(p, i, &a, j);
    }
    arrays_free(&a);
}

/* Some queries in the middle and at the end against all keys, then all queries against some keys. */
static void check_pattern(const char *name, int64_t width, int64_t before, int64_t after)
{
    const part parts[] = {{name, width, N / 2 - 40, 32, 0, N, before, after},
                          {name, width, N - 20, 20, 0, N, before, after},
                          {name, width, 0, N, 37, 40, before, after}};
    for (int i = 0; i < 3; i++) check(&parts[i]);
}

static void test_head_sizes(void **state)
{
    static const int64_t widths[] = {32, 64, 128};
    (void)state;
    for (int i = 0; i < 3; i++) {
        check_pattern("full", widths[i], N, N);
        check_pattern("causal", widths[i], N, 0);
        check_pattern("window 256", widths[i], 256, 256);
        check_pattern("causal window 256", widths[i], 256, 0);
    }
    for (int i = 0; i < PATHS; i++)
        print_message("[  NOTE    ] %s: outputs within %.2g, gradients within %.2g\n",
                      paths[i].name, seen_output[i], seen_gradient[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_head_sizes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
