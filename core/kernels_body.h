/* The kernels of one (element type, instruction set), all but products and attention: the one
 * source of kernels_f64.c, kernels_f32.c, kernels_f32_avx2.c and kernels_f32_avx512.c, which define
 *
 *   KB_REAL, KB_FLOAT   element type, and 1 if it is float
 *   KB_ISA              "portable", "avx2" or "avx512"
 *   KB_SYMBOL(name)     lhi_NAME_variant, for the slots written elsewhere
 *   KB_GEMM, KB_TABLE   the product; the name of the exported function
 *   KB_TABLE_ONLY       if included once more, for a table of the same kernels with other tiles
 *
 * Flags: -O3 -fopenmp -ffp-contract=fast -fno-math-errno, and the -m flags named
 * in each file. Everything but KB_TABLE is static, and nothing runs before KB_TABLE is asked for
 * its kernels.
 *
 * Loops carry `omp simd` because the compiler cannot see that operands either do not overlap or are
 * the same. A kernel is a function over a range (of rows, columns or elements); `split` gives
 * ranges to threads. Only what does not depend on other ranges is split, so the number of threads
 * never changes a bit. */
#include "core/kernels_internal.h"

#ifndef KB_TABLE_ONLY
typedef KB_REAL real;

#include "core/kernels_math.h"

enum {
    LINE =
        64, /* elements: ranges begin at multiples, so that vector and remainder loops do not move */
    BLOCK = 4096,        /* elements per partial sum of sum_squares */
    GROUP = 64,          /* rows, or partial sums, between two serial additions */
    SPLIT_WORK = 1 << 15 /* elements below which a second thread costs more than it gives */
};

typedef void (*range_fn)(const void *args, int64_t begin, int64_t end);

/* fn over 0 .. n - 1 in ranges that begin at multiples of unit. work: elements touched in all. */
static void split(range_fn fn, const void *args, int64_t n, int64_t unit, int64_t work, int threads)
{
    const int64_t units = (n + unit - 1) / unit;
    if (threads <= 1 || units <= 1 || work < SPLIT_WORK) {
        if (n > 0) fn(args, 0, n);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        const int64_t begin = units * t / threads * unit;
        const int64_t end = units * (t + 1) / threads * unit;
        if (begin < n && begin < end) fn(args, begin, end < n ? end : n);
    }
}

static void split_elements(range_fn fn, const void *args, int64_t n, int threads)
{
    split(fn, args, n, LINE, n, threads);
}

static void split_rows(range_fn fn, const void *args, int64_t rows, int64_t width, int threads)
{
    split(fn, args, rows, 1, rows * width, threads);
}

static void split_columns(range_fn fn, const void *args, int64_t rows, int64_t width, int threads)
{
    split(fn, args, width, LINE, rows * width, threads);
}

/* --- sums in double: of x, and of (x - mean)^2
 * --------------------------------------------------------------------- */

static double row_sum(const real *restrict x, int64_t n)
{
    double s = 0.0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++) s += (double)x[i];
    return s;
}

static double row_square_sum(const real *restrict x, int64_t n, double mean)
{
    double s = 0.0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)x[i] - mean;
        s += d * d;
    }
    return s;
}

/* --- elementwise
 * -------------------------------------------------------------------------------------------------- */

static void fill_range(const void *args, int64_t begin, int64_t end)
{
    const lh_fill_args *a = args;
    const real value = (real)a->value;
    real *x = a->x;
#pragma omp simd
    for (int64_t i = begin; i < end; i++) x[i] = value;
}

static void k_fill(const lh_fill_args *a, int threads)
{
    split_elements(fill_range, a, a->n, threads);
}

static void axpy_range(const void *args, int64_t begin, int64_t end)
{
    const lh_axpy_args *a = args;
    const real alpha = (real)a->alpha;
    const real *x = a->x;
    real *y = a->y;
    /* NOLINTNEXTLINE(bugprone-branch-clone): it does not look into loops under a pragma */
    if (a->accumulate) {
#pragma omp simd
        for (int64_t i = begin; i < end; i++) y[i] += alpha * x[i];
    } else if (a->alpha == 1.0) {
        if (x != y) memcpy(y + begin, x + begin, (size_t)(end - begin) * sizeof *y);
    } else {
#pragma omp simd
        for (int64_t i = begin; i < end; i++) y[i] = alpha * x[i];
    }
}

static void k_axpy(const lh_axpy_args *a, int threads)
{
    split_elements(axpy_range, a, a->n, threads);
}

static void add_range(const void *args, int64_t begin, int64_t end)
{
    const lh_add_args *a = args;
    const real *p = a->a, *q = a->b;
    real *y = a->y;
#pragma omp simd
    for (int64_t i = begin; i < end; i++) y[i] = p[i] + q[i];
}

static void k_add(const lh_add_args *a, int threads)
{
    split_elements(add_range, a, a->n, threads);
}

static void gelu_range(const void *args, int64_t begin, int64_t end)
{
    const lh_act_args *a = args;
    const real *x = a->x;
    real *y = a->y;
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        real pdf;
        y[i] = x[i] * k_normal(x[i], &pdf);
    }
}

/* Written so that NaN stays NaN. */
static void relu_range(const void *args, int64_t begin, int64_t end)
{
    const lh_act_args *a = args;
    const real *x = a->x;
    real *y = a->y;
#pragma omp simd
    for (int64_t i = begin; i < end; i++) y[i] = x[i] < (real)0 ? (real)0 : x[i];
}

static void swiglu_range(const void *args, int64_t begin, int64_t end)
{
    const lh_act_args *a = args;
    const real *x = a->x, *gate = a->gate;
    real *y = a->y;
#pragma omp simd
    for (int64_t i = begin; i < end; i++) y[i] = x[i] * k_sigmoid(x[i]) * gate[i];
}

/* Of poolers, one row a sequence: need not be fast. */
static void tanh_range(const void *args, int64_t begin, int64_t end)
{
    const lh_act_args *a = args;
    const real *x = a->x;
    real *y = a->y;
    for (int64_t i = begin; i < end; i++) y[i] = (real)tanh((double)x[i]);
}

static void k_act(const lh_act_args *a, int threads)
{
    static const range_fn ranges[] = {[LH_ACT_GELU] = gelu_range,
                                      [LH_ACT_RELU] = relu_range,
                                      [LH_ACT_SWIGLU] = swiglu_range,
                                      [LH_ACT_TANH] = tanh_range};
    split_elements(ranges[a->kind], a, a->n, threads);
}

/* The adjoints: dx may be dy, so everything of element i is read before it is written. */
static void gelu_grad_range(const void *args, int64_t begin, int64_t end)
{
    const lh_act_grad_args *a = args;
    const real *x = a->x, *dy = a->dy;
    real *dx = a->dx;
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        real pdf;
        const real phi = k_normal(x[i], &pdf);
        dx[i] = dy[i] * (phi + x[i] * pdf);
    }
}

static void relu_grad_range(const void *args, int64_t begin, int64_t end)
{
    const lh_act_grad_args *a = args;
    const real *x = a->x, *dy = a->dy;
    real *dx = a->dx;
#pragma omp simd
    for (int64_t i = begin; i < end; i++) dx[i] = x[i] > (real)0 ? dy[i] : (real)0;
}

static void swiglu_grad_range(const void *args, int64_t begin, int64_t end)
{
    const lh_act_grad_args *a = args;
    const real *x = a->x, *gate = a->gate, *dy = a->dy;
    real *dx = a->dx, *dgate = a->dgate;
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        const real s = k_sigmoid(x[i]), d = dy[i], silu = x[i] * s;
        dx[i] = d * gate[i] * (s + silu * ((real)1 - s));
        dgate[i] = d * silu;
    }
}

static void tanh_grad_range(const void *args, int64_t begin, int64_t end)
{
    const lh_act_grad_args *a = args;
    const real *x = a->x, *dy = a->dy;
    real *dx = a->dx;
    for (int64_t i = begin; i < end; i++) {
        const double y = tanh((double)x[i]);
        dx[i] = dy[i] * (real)(1.0 - y * y);
    }
}

static void k_act_grad(const lh_act_grad_args *a, int threads)
{
    static const range_fn ranges[] = {[LH_ACT_GELU] = gelu_grad_range,
                                      [LH_ACT_RELU] = relu_grad_range,
                                      [LH_ACT_SWIGLU] = swiglu_grad_range,
                                      [LH_ACT_TANH] = tanh_grad_range};
    split_elements(ranges[a->kind], a, a->n, threads);
}

static void adamw_range(const void *args, int64_t begin, int64_t end)
{
    const lh_adamw_args *a = args;
    const real keep = (real)(1.0 - a->lr * a->decay), step = (real)(a->lr / a->c1);
    const real b1 = (real)a->beta1, b2 = (real)a->beta2, eps = (real)a->eps;
    const real d1 = (real)(1.0 - a->beta1), d2 = (real)(1.0 - a->beta2);
    const real root_c2 = (real)sqrt(a->c2), grad_scale = (real)a->grad_scale;
    const real *grad = a->grad;
    real *x = a->x, *m = a->m, *v = a->v;
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        const real g = grad[i] * grad_scale;
        const real mi = b1 * m[i] + d1 * g;
        const real vi = b2 * v[i] + d2 * g * g;
        m[i] = mi;
        v[i] = vi;
        x[i] = x[i] * keep - step * (mi / (KB_SQRT(vi) / root_c2 + eps));
    }
}

static void k_adamw(const lh_adamw_args *a, int threads)
{
    split_elements(adamw_range, a, a->n, threads);
}

typedef struct sum_squares_work {
    const real *x;
    int64_t n, first; /* first block of the group */
    double *partial;  /* [GROUP] */
} sum_squares_work;

static void sum_squares_range(const void *args, int64_t begin, int64_t end)
{
    const sum_squares_work *w = args;
    for (int64_t b = begin; b < end; b++) {
        const int64_t from = (w->first + b) * BLOCK;
        const int64_t to = from + BLOCK < w->n ? from + BLOCK : w->n;
        w->partial[b] = row_square_sum(w->x + from, to - from, 0.0);
    }
}

static void k_sum_squares(const lh_sum_squares_args *a, int threads)
{
    const int64_t blocks = (a->n + BLOCK - 1) / BLOCK;
    double partial[GROUP], sum = 0.0;
    for (int64_t first = 0; first < blocks; first += GROUP) {
        const int64_t count = blocks - first < GROUP ? blocks - first : GROUP;
        const sum_squares_work w = {a->x, a->n, first, partial};
        split(sum_squares_range, &w, count, 1, count * BLOCK, threads);
        for (int64_t b = 0; b < count; b++) sum += partial[b];
    }
    *a->sum += sum;
}

#include "core/kernels_store.h" /* first: kernels_rows.h uses it */

#include "core/kernels_features.h"
#include "core/kernels_rows.h"
#include "core/kernels_tokens.h"

#endif

static const lh_kernels KB_SYMBOL(table) = {
    .isa = KB_ISA,
    .gemm = KB_GEMM,
    .fill = k_fill,
    .axpy = k_axpy,
    .add = k_add,
    .bias = k_bias,
    .bias_grad = k_bias_grad,
    .norm = k_norm,
    .norm_grad = k_norm_grad,
    .act = k_act,
    .act_grad = k_act_grad,
    .embed = k_embed,
    .embed_grad = k_embed_grad,
    .rotary_table = k_rotary_table,
    .rotary = k_rotary,
    .sinusoid = k_sinusoid,
    .distance_table = k_distance_table,
    .dropout = k_dropout,
    .cross_entropy = k_cross_entropy,
    .cross_entropy_grad = k_cross_entropy_grad,
    .adamw = k_adamw,
    .sum_squares = k_sum_squares,
    .to_bf16 = k_to_bf16,
    .from_bf16 = k_from_bf16,
    .round_bf16 = k_round_bf16,
    .pack_rows = k_pack_rows,
    .unpack_rows = k_unpack_rows,
    .add_rows = k_add_rows,
    .attend = KB_SYMBOL(attend),
    .attend_rescale = k_attend_rescale,
    .attend_finish = KB_SYMBOL(attend_finish),
    .attend_delta = KB_SYMBOL(attend_delta),
    .attend_grad = KB_SYMBOL(attend_grad),
    .feature = k_feature,
    .feature_max = k_feature_max,
    .feature_grad = k_feature_grad,
    .extend = k_extend,
    .divide = k_divide,
    .divide_grad = k_divide_grad,
    .tril = k_tril,
    .attend_scratch = KB_SYMBOL(attend_scratch),
};

const lh_kernels *KB_TABLE(void)
{
    return &KB_SYMBOL(table);
}
