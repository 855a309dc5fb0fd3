/* Part of kernels_body.h: feature maps of linear attention (Choromanski et al. 2021), their adjoint,
 * and what else linear attention needs row by row. */

/* The rows of one call, head by head; begin .. end - 1 of a range are such rows. */
typedef struct feature_row {
    const real *x, *u;
    double half; /* |x~|^2 / 2 */
    real norm;   /* the factor before the brackets */
    bool live;
} feature_row;

static feature_row feature_at(const lh_feature_args *a, int64_t r)
{
    const int64_t wide = lh_feature_width(a->kind, a->features);
    const bool half = lh_feature_stabilised(a->kind);
    feature_row f = {.x = (const real *)a->x + r * a->width,
                     .u = (const real *)a->u + r * a->features,
                     .live = r / a->heads < a->live};
    if (half) f.half = 0.5 * a->scale * a->scale * row_square_sum(f.x, a->width, 0.0);
    f.norm = (real)1;
    if (half) f.norm = (real)(1.0 / sqrt((double)(a->kind == LH_FEATURE_TRIG ? wide / 2 : wide)));
    return f;
}

/* The largest u, or |u|. */
static real feature_largest(const real *u, int64_t n, bool both)
{
    real most = (real)-HUGE_VAL;
    /* NOLINTNEXTLINE(bugprone-branch-clone): it does not look into loops under a pragma */
    if (both) {
#pragma omp simd reduction(max : most)
        for (int64_t i = 0; i < n; i++) {
            const real size = u[i] < (real)0 ? -u[i] : u[i];
            most = size > most ? size : most;
        }
    } else {
#pragma omp simd reduction(max : most)
        for (int64_t i = 0; i < n; i++) most = u[i] > most ? u[i] : most;
    }
    return most;
}

/* What is subtracted from the exponent u of row r (TRIG: added to nothing, exp(-shift) is the
 * factor). */
static real feature_shift(const lh_feature_args *a, const feature_row *f, int64_t r)
{
    const bool trig = a->kind == LH_FEATURE_TRIG;
    if (!lh_feature_stabilised(a->kind)) return (real)0;
    if (a->c == NULL && trig) return (real)0;
    const real c = a->c != NULL
                       ? ((const real *)a->c)[r % a->heads]
                       : feature_largest(f->u, a->features, a->kind == LH_FEATURE_HYPERBOLIC);
    return trig ? c - (real)f->half : c + (real)f->half;
}

/* --- the maps without stabiliser: f and its derivative at x = u[i]
 * ---------------------------------------------------------------------------------------------- */

typedef void (*feature_fn)(const real *u, int64_t n, real eps, real *phi);
typedef void (*feature_grad_fn)(const real *u, int64_t n, const real *dphi, real *du);

#define FEATURE_MAP(name, value, slope)                                                            \
    static void feature_##name(const real *u, int64_t n, real eps, real *phi)                      \
    {                                                                                              \
        _Pragma("omp simd") for (int64_t i = 0; i < n; i++)                                        \
        {                                                                                          \
            const real x = u[i];                                                                   \
            phi[i] = (value) + eps;                                                                \
        }                                                                                          \
    }                                                                                              \
    static void feature_##name##_grad(const real *u, int64_t n, const real *dphi, real *du)        \
    {                                                                                              \
        _Pragma("omp simd") for (int64_t i = 0; i < n; i++)                                        \
        {                                                                                          \
            const real x = u[i];                                                                   \
            (void)x; /* the identity's slope is constant */                                        \
            du[i] = dphi[i] * (slope);                                                             \
        }                                                                                          \
    }

static inline real feature_tanh_slope(real x)
{
    const real y = (real)tanh((double)x);
    return (real)1 - y * y;
}

static inline real feature_sigmoid_slope(real x)
{
    const real y = k_sigmoid(x);
    return y * ((real)1 - y);
}

/* e^x where x is negative: the other branch of ELU must not overflow. */
static inline real feature_elu(real x)
{
    const real e = k_exp(x < (real)0 ? x : (real)0);
    return x < (real)0 ? e : x + (real)1;
}

static inline real feature_elu_slope(real x)
{
    return k_exp(x < (real)0 ? x : (real)0);
}

/* Written so that NaN stays NaN. */
FEATURE_MAP(relu, x<(real)0 ? (real)0 : x, x>(real) 0 ? (real)1 : (real)0)
FEATURE_MAP(exp, k_exp(x), k_exp(x))
FEATURE_MAP(elu_plus, feature_elu(x), feature_elu_slope(x))
FEATURE_MAP(square, x<(real)0 ? (real)0 : x * x, x>(real) 0 ? (real)2 * x : (real)0)
FEATURE_MAP(tanh, (real)tanh((double)x), feature_tanh_slope(x))
FEATURE_MAP(sigmoid, k_sigmoid(x), feature_sigmoid_slope(x))
FEATURE_MAP(cos, (real)cos((double)x), -(real)sin((double)x))
FEATURE_MAP(identity, x, (real)1)
#undef FEATURE_MAP

static const feature_fn feature_maps[LH_FEATURE_KINDS] = {
    [LH_FEATURE_RELU] = feature_relu,    [LH_FEATURE_EXP] = feature_exp,
    [LH_FEATURE_ELU] = feature_elu_plus, [LH_FEATURE_SQUARE] = feature_square,
    [LH_FEATURE_TANH] = feature_tanh,    [LH_FEATURE_SIGMOID] = feature_sigmoid,
    [LH_FEATURE_COS] = feature_cos,      [LH_FEATURE_IDENTITY] = feature_identity,
};
static const feature_grad_fn feature_map_grads[LH_FEATURE_KINDS] = {
    [LH_FEATURE_RELU] = feature_relu_grad,    [LH_FEATURE_EXP] = feature_exp_grad,
    [LH_FEATURE_ELU] = feature_elu_plus_grad, [LH_FEATURE_SQUARE] = feature_square_grad,
    [LH_FEATURE_TANH] = feature_tanh_grad,    [LH_FEATURE_SIGMOID] = feature_sigmoid_grad,
    [LH_FEATURE_COS] = feature_cos_grad,      [LH_FEATURE_IDENTITY] = feature_identity_grad,
};

/* --- phi
 * ---------------------------------------------------------------------------------------------- */

/* norm (exp(sign u - shift) + eps) */
static void feature_exponentials(const feature_row *f, int64_t n, real sign, real shift, real eps,
                                 real *phi)
{
    const real *u = f->u;
    const real norm = f->norm;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) phi[i] = norm * (k_exp(sign * u[i] - shift) + eps);
}

static void feature_waves(const feature_row *f, int64_t n, real factor, real eps, real *phi)
{
    for (int64_t i = 0; i < n; i++) {
        phi[i] = f->norm * (factor * (real)cos((double)f->u[i]) + eps);
        phi[n + i] = f->norm * (factor * (real)sin((double)f->u[i]) + eps);
    }
}

static void feature_range(const void *args, int64_t begin, int64_t end)
{
    const lh_feature_args *a = args;
    const int64_t n = a->features;
    const int64_t wide = lh_feature_width(a->kind, n);
    const real eps = (real)a->epsilon;
    for (int64_t r = begin; r < end; r++) {
        real *phi = (real *)a->phi + r * wide;
        const feature_row f = feature_at(a, r);
        if (!f.live) {
            memset(phi, 0, (size_t)wide * sizeof *phi);
            continue;
        }
        const real shift = feature_shift(a, &f, r);
        if (!lh_feature_stabilised(a->kind))
            feature_maps[a->kind](f.u, n, eps, phi);
        else if (a->kind == LH_FEATURE_TRIG)
            feature_waves(&f, n, k_exp(-shift), eps, phi);
        else
            feature_exponentials(&f, n, (real)1, shift, eps, phi);
        if (a->kind == LH_FEATURE_HYPERBOLIC)
            feature_exponentials(&f, n, (real)-1, shift, eps, phi + n);
    }
}

/* The factor 4 in the work: exponentials are dear. */
static void k_feature(const lh_feature_args *a, int threads)
{
    split_rows(feature_range, a, a->rows * a->heads, 4 * a->features, threads);
}

static void feature_max_range(const void *args, int64_t begin, int64_t end)
{
    const lh_feature_max_args *a = args;
    real *c = a->c;
    for (int64_t i = 0; i < a->live; i++) {
        for (int64_t h = begin; h < end; h++) {
            const int64_t r = i * a->heads + h;
            const real *x = (const real *)a->x + r * a->width;
            const real *u = (const real *)a->u + r * a->features;
            const real most =
                a->kind == LH_FEATURE_TRIG
                    ? (real)(0.5 * a->scale * a->scale * row_square_sum(x, a->width, 0.0))
                    : feature_largest(u, a->features, a->kind == LH_FEATURE_HYPERBOLIC);
            c[h] = most > c[h] ? most : c[h];
        }
    }
}

/* Heads, not rows, are spread over threads: two rows write to the same maximum. */
static void k_feature_max(const lh_feature_max_args *a, int threads)
{
    split(feature_max_range, a, a->heads, 1, a->rows * a->heads * a->features, threads);
}

/* --- the adjoint. du may be u: element i is read before it is written. The value is the sum that
 * the part through h needs.
 * ---------------------------------------------------------------------------------------------- */

static real feature_positive_grad(const feature_row *f, int64_t n, real shift, const real *dphi,
                                  real *du)
{
    const real *u = f->u;
    const real norm = f->norm;
    real sum = (real)0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        const real d = dphi[i] * norm * k_exp(u[i] - shift);
        du[i] = d;
        sum += d;
    }
    return sum;
}

static real feature_hyperbolic_grad(const feature_row *f, int64_t n, real shift, const real *dphi,
                                    real *du)
{
    const real *u = f->u;
    const real norm = f->norm;
    real sum = (real)0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        const real up = dphi[i] * norm * k_exp(u[i] - shift);
        const real down = dphi[n + i] * norm * k_exp(-u[i] - shift);
        du[i] = up - down;
        sum += up + down;
    }
    return sum;
}

/* h stands in the numerator here, so the sum's sign is the other one. */
static real feature_trig_grad(const feature_row *f, int64_t n, real shift, const real *dphi,
                              real *du)
{
    const real factor = f->norm * k_exp(-shift);
    real sum = (real)0;
    for (int64_t i = 0; i < n; i++) {
        const real c = factor * (real)cos((double)f->u[i]);
        const real s = factor * (real)sin((double)f->u[i]);
        du[i] = dphi[n + i] * c - dphi[i] * s;
        sum -= dphi[i] * c + dphi[n + i] * s;
    }
    return sum;
}

static real feature_grad_row(const lh_feature_grad_args *g, const feature_row *f, int64_t r)
{
    const lh_feature_args *a = &g->phi;
    const int64_t n = a->features;
    const real *dphi = (const real *)g->dphi + r * lh_feature_width(a->kind, n);
    real *du = (real *)g->du + r * n;
    const real shift = f->live ? feature_shift(a, f, r) : (real)0;
    if (!f->live)
        memset(du, 0, (size_t)n * sizeof *du);
    else if (a->kind == LH_FEATURE_POSITIVE)
        return feature_positive_grad(f, n, shift, dphi, du);
    else if (a->kind == LH_FEATURE_HYPERBOLIC)
        return feature_hyperbolic_grad(f, n, shift, dphi, du);
    else if (a->kind == LH_FEATURE_TRIG)
        return feature_trig_grad(f, n, shift, dphi, du);
    else
        feature_map_grads[a->kind](f->u, n, dphi, du);
    return (real)0;
}

static void feature_grad_range(const void *args, int64_t begin, int64_t end)
{
    const lh_feature_grad_args *g = args;
    const lh_feature_args *a = &g->phi;
    for (int64_t r = begin; r < end; r++) {
        const feature_row f = feature_at(a, r);
        const real along = (real)(-a->scale * a->scale) * feature_grad_row(g, &f, r);
        const real *x = f.x;
        real *dx = (real *)g->dx + r * a->width;
        /* NOLINTNEXTLINE(bugprone-branch-clone): it does not look into loops under a pragma */
        if (g->accumulate) {
#pragma omp simd
            for (int64_t i = 0; i < a->width; i++) dx[i] += along * x[i];
        } else {
#pragma omp simd
            for (int64_t i = 0; i < a->width; i++) dx[i] = along * x[i];
        }
    }
}

static void k_feature_grad(const lh_feature_grad_args *g, int threads)
{
    split_rows(feature_grad_range, g, g->phi.rows * g->phi.heads, 4 * g->phi.features, threads);
}

/* --- rows of values, numerators and denominators
 * ---------------------------------------------------------------------------------------------- */

static void extend_range(const void *args, int64_t begin, int64_t end)
{
    const lh_extend_args *a = args;
    for (int64_t r = begin; r < end; r++) {
        real *y = (real *)a->y + r * (a->width + 1);
        memcpy(y, (const real *)a->x + r * a->width, (size_t)a->width * sizeof *y);
        y[a->width] = (real)1;
    }
}

static void k_extend(const lh_extend_args *a, int threads)
{
    split_rows(extend_range, a, a->rows, a->width, threads);
}

static void divide_range(const void *args, int64_t begin, int64_t end)
{
    const lh_divide_args *a = args;
    for (int64_t r = begin; r < end; r++) {
        const real *n = (const real *)a->n + r * (a->width + 1);
        real *o = (real *)a->o + r * a->width;
        const real den = n[a->width];
        ((real *)a->den)[r] = den;
#pragma omp simd
        for (int64_t i = 0; i < a->width; i++) o[i] = n[i] / den;
    }
}

static void k_divide(const lh_divide_args *a, int threads)
{
    split_rows(divide_range, a, a->rows, a->width, threads);
}

static void divide_grad_range(const void *args, int64_t begin, int64_t end)
{
    const lh_divide_grad_args *a = args;
    for (int64_t r = begin; r < end; r++) {
        const real *o = (const real *)a->o + r * a->width;
        const real *d_o = (const real *)a->d_o + r * a->width;
        const real den = ((const real *)a->den)[r];
        real *dn = (real *)a->dn + r * (a->width + 1);
        real along = (real)0;
#pragma omp simd reduction(+ : along)
        for (int64_t i = 0; i < a->width; i++) {
            dn[i] = d_o[i] / den;
            along += d_o[i] * o[i];
        }
        dn[a->width] = -along / den;
    }
}

static void k_divide_grad(const lh_divide_grad_args *a, int threads)
{
    split_rows(divide_grad_range, a, a->rows, a->width, threads);
}

static void tril_range(const void *args, int64_t begin, int64_t end)
{
    const lh_tril_args *a = args;
    for (int64_t i = begin; i < end; i++)
        memset((real *)a->x + i * a->n + i + 1, 0, (size_t)(a->n - i - 1) * sizeof(real));
}

static void k_tril(const lh_tril_args *a, int threads)
{
    split_rows(tril_range, a, a->n, a->n / 2, threads);
}
