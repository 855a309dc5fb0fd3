/* Part of kernels_body.h: kernels over the rows of a matrix: bias, normalisation, cross-entropy,
 * packing. */

/* --- bias
 * --------------------------------------------------------------------------------------------------------- */

static void bias_range(const void *args, int64_t begin, int64_t end)
{
    const lh_bias_args *a = args;
    const real *restrict bias = a->bias;
    for (int64_t r = begin; r < end; r++) {
        real *restrict y = (real *)a->y + r * a->width;
#pragma omp simd
        for (int64_t i = 0; i < a->width; i++) y[i] += bias[i];
    }
}

static void k_bias(const lh_bias_args *a, int threads)
{
    split_rows(bias_range, a, a->rows, a->width, threads);
}

/* Columns begin .. end - 1, row after row. */
static void bias_grad_range(const void *args, int64_t begin, int64_t end)
{
    const lh_bias_grad_args *a = args;
    real *restrict dbias = a->dbias;
    for (int64_t r = 0; r < a->rows; r++) {
        const real *restrict dy = (const real *)a->dy + r * a->width;
#pragma omp simd
        for (int64_t i = begin; i < end; i++) dbias[i] += dy[i];
    }
}

static void k_bias_grad(const lh_bias_grad_args *a, int threads)
{
    split_columns(bias_grad_range, a, a->rows, a->width, threads);
}

/* --- layer norm and rms norm
 * -------------------------------------------------------------------------------------- */

/* sum = x + h of one row; returns sum. */
static const real *row_add(const real *restrict x, const real *restrict h, real *restrict sum,
                           int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) sum[i] = x[i] + h[i];
    return sum;
}

/* y may be x. */
static void norm_range(const void *args, int64_t begin, int64_t end)
{
    const lh_norm_args *a = args;
    const int64_t n = a->width;
    const real *w = a->w, *b = a->b;
    for (int64_t r = begin; r < end; r++) {
        const real *x = (const real *)a->x + r * n;
        real *y = (real *)a->y + r * n;
        if (a->h != NULL) x = row_add(x, (const real *)a->h + r * n, (real *)a->sum + r * n, n);
        const double mean = a->rms ? 0.0 : row_sum(x, n) / (double)n;
        const double var = row_square_sum(x, n, mean) / (double)n;
        const real m = (real)mean, rstd = (real)(1.0 / sqrt(var + a->eps));
        ((real *)a->stats)[2 * r] = m;
        ((real *)a->stats)[2 * r + 1] = rstd;
        /* NOLINTNEXTLINE(bugprone-branch-clone): it does not look into loops under a pragma */
        if (b != NULL) {
#pragma omp simd
            for (int64_t i = 0; i < n; i++) y[i] = (x[i] - m) * rstd * w[i] + b[i];
        } else {
#pragma omp simd
            for (int64_t i = 0; i < n; i++) y[i] = (x[i] - m) * rstd * w[i];
        }
    }
}

static void k_norm(const lh_norm_args *a, int threads)
{
    split_rows(norm_range, a, a->rows, a->width, threads);
}

/* With h = (x - mean) rstd and g = dy w: dx = rstd (g - mean(g) - h mean(g h)); rms has no mean(g). */
static void norm_dx_range(const void *args, int64_t begin, int64_t end)
{
    const lh_norm_grad_args *a = args;
    const int64_t n = a->width;
    const real *w = a->w;
    for (int64_t r = begin; r < end; r++) {
        const real *x = (const real *)a->x + r * n, *dy = (const real *)a->dy + r * n;
        const real m = ((const real *)a->stats)[2 * r], rstd = ((const real *)a->stats)[2 * r + 1];
        real *dx = (real *)a->dx + r * n;
        double sum_g = 0.0, sum_gh = 0.0;
#pragma omp simd reduction(+ : sum_g, sum_gh)
        for (int64_t i = 0; i < n; i++) {
            const double g = (double)dy[i] * (double)w[i];
            sum_g += g;
            sum_gh += g * (double)((x[i] - m) * rstd);
        }
        const real c1 = a->rms ? (real)0 : (real)(sum_g / (double)n);
        const real c2 = (real)(sum_gh / (double)n);
        /* NOLINTNEXTLINE(bugprone-branch-clone): it does not look into loops under a pragma */
        if (a->accumulate) {
#pragma omp simd
            for (int64_t i = 0; i < n; i++)
                dx[i] += rstd * (dy[i] * w[i] - c1 - (x[i] - m) * rstd * c2);
        } else {
#pragma omp simd
            for (int64_t i = 0; i < n; i++)
                dx[i] = rstd * (dy[i] * w[i] - c1 - (x[i] - m) * rstd * c2);
        }
    }
}

/* Columns begin .. end - 1, row after row. */
static void norm_dw_range(const void *args, int64_t begin, int64_t end)
{
    const lh_norm_grad_args *a = args;
    real *restrict dw = a->dw, *restrict db = a->db;
    for (int64_t r = 0; r < a->rows; r++) {
        const real *restrict x = (const real *)a->x + r * a->width;
        const real *restrict dy = (const real *)a->dy + r * a->width;
        const real m = ((const real *)a->stats)[2 * r], rstd = ((const real *)a->stats)[2 * r + 1];
        if (dw != NULL) {
#pragma omp simd
            for (int64_t i = begin; i < end; i++) dw[i] += dy[i] * ((x[i] - m) * rstd);
        }
        if (db != NULL) {
#pragma omp simd
            for (int64_t i = begin; i < end; i++) db[i] += dy[i];
        }
    }
}

/* dw and db first: dx may be dy. */
static void k_norm_grad(const lh_norm_grad_args *a, int threads)
{
    if (a->dw != NULL || a->db != NULL) split_columns(norm_dw_range, a, a->rows, a->width, threads);
    if (a->dx != NULL) split_rows(norm_dx_range, a, a->rows, a->width, threads);
}

/* --- cross-entropy
 * ------------------------------------------------------------------------------------------------ */

/* Largest element, in LINE lanes: a plain maximum loop is not vectorised while NaN counts. */
static real row_max(const real *restrict x, int64_t n)
{
    real lane[LINE], best = x[0];
    int64_t i = 0;
    if (n >= LINE) {
        memcpy(lane, x, sizeof lane);
        for (i = LINE; i + LINE <= n; i += LINE) {
#pragma omp simd
            for (int64_t j = 0; j < LINE; j++) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
        }
        for (int64_t j = 0; j < LINE; j++) best = lane[j] > best ? lane[j] : best;
    }
    for (; i < n; i++) best = x[i] > best ? x[i] : best;
    return best;
}

static double row_exp_sum(const real *restrict x, int64_t n, real max)
{
    double s = 0.0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++) s += (double)k_exp(x[i] - max);
    return s;
}

/* Is x[label], known to equal the maximum, the first that does? */
static bool first_maximum(const real *x, int64_t label)
{
    for (int64_t i = 0; i < label; i++)
        if (x[i] == x[label]) return false;
    return true;
}

typedef struct entropy_work {
    const lh_cross_entropy_args *a;
    int64_t first;   /* first row of the group */
    double *loss;    /* [GROUP] */
    double *correct; /* [GROUP]: 0 or 1 */
} entropy_work;

static void entropy_range(const void *args, int64_t begin, int64_t end)
{
    const entropy_work *w = args;
    const lh_cross_entropy_args *a = w->a;
    for (int64_t g = begin; g < end; g++) {
        const int64_t r = w->first + g, label = a->labels[r];
        const real *x = (const real *)a->logits + r * a->vocab;
        const real max = row_max(x, a->vocab);
        const double lse = (double)max + log(row_exp_sum(x, a->vocab, max));
        ((real *)a->lse)[r] = (real)lse;
        w->loss[g] = label >= 0 ? lse - (double)x[label] : 0.0;
        w->correct[g] = (label >= 0 && x[label] == max && first_maximum(x, label)) ? 1.0 : 0.0;
    }
}

static void k_cross_entropy(const lh_cross_entropy_args *a, int threads)
{
    double loss[GROUP], correct[GROUP];
    for (int64_t first = 0; first < a->rows; first += GROUP) {
        const int64_t count = a->rows - first < GROUP ? a->rows - first : GROUP;
        const entropy_work w = {a, first, loss, correct};
        split_rows(entropy_range, &w, count, a->vocab, threads);
        for (int64_t g = 0; g < count; g++) {
            a->sums[0] += loss[g];
            a->sums[1] += correct[g];
        }
    }
}

static void entropy_grad_range(const void *args, int64_t begin, int64_t end)
{
    const lh_cross_entropy_grad_args *a = args;
    const double scale = a->scale_host * *a->scale_device;
    const real s = (real)scale;
    for (int64_t r = begin; r < end; r++) {
        const int64_t label = a->labels[r];
        const real lse = ((const real *)a->lse)[r];
        real *x = (real *)a->logits + r * a->vocab;
        if (label < 0) {
            memset(x, 0, (size_t)a->vocab * sizeof *x);
            continue;
        }
        /* expm1: p - 1 without cancellation where p is near 1 */
        const real at_label = (real)(scale * expm1((double)x[label] - (double)lse));
#pragma omp simd
        for (int64_t i = 0; i < a->vocab; i++) x[i] = s * k_exp(x[i] - lse);
        x[label] = at_label;
    }
}

static void k_cross_entropy_grad(const lh_cross_entropy_grad_args *a, int threads)
{
    split_rows(entropy_grad_range, a, a->rows, a->vocab, threads);
}

/* --- rows between tensors and packed host buffers
 * ----------------------------------------------------------------- */

/* bytes: of the tensor. */
typedef void (*move_fn)(void *tensor, void *host, size_t bytes);

static void rows_walk(const lh_rows_args *a, move_fn move)
{
    const size_t row_bytes = (size_t)a->width * a->element_bytes;
    const size_t pitch = a->row_width > 0 ? (size_t)a->row_width * a->element_bytes : row_bytes;
    const size_t column = (size_t)a->column * a->element_bytes;
    const size_t wide =
        a->wire == LH_BF16 ? sizeof(real) / sizeof(uint16_t) : 1; /* per host byte */
    char *host = a->host;
    for (int64_t b = 0; b < a->batch; b++) {
        for (int64_t s = 0; s < a->n_spans; s++) {
            const lh_span *p = &a->spans[s];
            const bool dense = p->stride == 1 && pitch == row_bytes;
            const size_t bytes = dense ? (size_t)p->count * row_bytes : row_bytes;
            for (int64_t i = 0; i < (dense ? p->count > 0 : p->count); i++, host += bytes / wide) {
                const int64_t row = b * a->tensor_rows + p->row + i * p->stride;
                move((char *)a->tensor + (size_t)row * pitch + column, host, bytes);
            }
        }
    }
}

static void move_out(void *tensor, void *host, size_t bytes)
{
    memcpy(host, tensor, bytes);
}

static void move_in(void *tensor, void *host, size_t bytes)
{
    memcpy(tensor, host, bytes);
}

static void move_add(void *tensor, void *host, size_t bytes)
{
    real *restrict y = tensor;
    const real *restrict x = host;
    const int64_t n = (int64_t)(bytes / sizeof *y);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

static void move_out_bf16(void *tensor, void *host, size_t bytes)
{
    to_bf16(tensor, host, (int64_t)(bytes / sizeof(real)));
}

static void move_in_bf16(void *tensor, void *host, size_t bytes)
{
    from_bf16(host, tensor, (int64_t)(bytes / sizeof(real)));
}

static void move_add_bf16(void *tensor, void *host, size_t bytes)
{
    real *restrict y = tensor;
    const uint16_t *restrict x = host;
    const int64_t n = (int64_t)(bytes / sizeof *y);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] += bf16_value(x[i]);
}

/* Copies are bound by memory, and run beside messages: one thread. */
static void k_pack_rows(const lh_rows_args *a, int threads)
{
    (void)threads;
    rows_walk(a, a->wire == LH_BF16 ? move_out_bf16 : move_out);
}

static void k_unpack_rows(const lh_rows_args *a, int threads)
{
    (void)threads;
    rows_walk(a, a->wire == LH_BF16 ? move_in_bf16 : move_in);
}

static void k_add_rows(const lh_rows_args *a, int threads)
{
    (void)threads;
    rows_walk(a, a->wire == LH_BF16 ? move_add_bf16 : move_add);
}

/* --- attention, brought to a common maximum: few rows
 * ------------------------------------------------------------------ */

static void k_attend_rescale(const lh_attend_rescale_args *a, int threads)
{
    (void)threads;
    const real *max = a->max, *top = a->top;
    real *o = a->o, *sum = a->sum;
    for (int64_t b = 0; b < a->batch; b++)
        for (int64_t h = 0; h < a->heads; h++)
            for (int64_t i = 0; i < a->q_rows; i++) {
                const int64_t at = (b * a->heads + h) * a->q_rows + i;
                const double gap = (double)max[at] - (double)top[at];
                const real factor = max[at] > (real)-HUGE_VAL ? (real)exp(gap) : 0;
                real *row = o + ((b * a->q_rows + i) * a->heads + h) * a->width;
                sum[at] *= factor;
                for (int64_t d = 0; d < a->width; d++) row[d] *= factor;
            }
}
