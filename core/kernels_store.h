/* Part of kernels_body.h: real numbers kept, or sent, as bfloat16: the upper half of a float. */

/* To nearest, ties to even: half of the lowest kept bit, less one unless that bit is 1, carries into it.
 * A NaN gets a kept bit, lest it become infinite. */
static inline uint16_t bf16_round(real x)
{
    const uint32_t bits = k_to_bits((float)x);
    const uint32_t even = bits + 0x7FFFu + ((bits >> 16) & 1u);
    const uint32_t nan = bits | 0x400000u;
    return (uint16_t)(((bits & 0x7FFFFFFFu) > 0x7F800000u ? nan : even) >> 16);
}

static inline real bf16_value(uint16_t x)
{
    return (real)k_from_bits((uint32_t)x << 16);
}

static void to_bf16(const real *restrict x, uint16_t *restrict y, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = bf16_round(x[i]);
}

static void from_bf16(const uint16_t *restrict x, real *restrict y, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = bf16_value(x[i]);
}

static void to_bf16_range(const void *args, int64_t begin, int64_t end)
{
    const lh_bf16_args *a = args;
    to_bf16((const real *)a->x + begin, (uint16_t *)a->y + begin, end - begin);
}

static void k_to_bf16(const lh_bf16_args *a, int threads)
{
    split_elements(to_bf16_range, a, a->n, threads);
}

static void from_bf16_range(const void *args, int64_t begin, int64_t end)
{
    const lh_bf16_args *a = args;
    from_bf16((const uint16_t *)a->x + begin, (real *)a->y + begin, end - begin);
}

static void k_from_bf16(const lh_bf16_args *a, int threads)
{
    split_elements(from_bf16_range, a, a->n, threads);
}

static void round_bf16_range(const void *args, int64_t begin, int64_t end)
{
    const lh_bf16_args *a = args;
    const real *x = a->x;
    real *y = a->y;
#pragma omp simd
    for (int64_t i = begin; i < end; i++) y[i] = bf16_value(bf16_round(x[i]));
}

static void k_round_bf16(const lh_bf16_args *a, int threads)
{
    split_elements(round_bf16_range, a, a->n, threads);
}
