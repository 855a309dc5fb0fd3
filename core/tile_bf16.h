/* Part of core/tile_body.h: operands that are pairs of bfloat16 numbers, for AVX512_BF16.
 *
 * The instruction takes two words and adds the products of both their halves to a float. Numbers are
 * rounded to nearest, ties to even, when they are packed. The instruction takes subnormal bfloat16
 * numbers for zero, makes subnormal sums zero, and rounds after each of the two products. What lies
 * between the products (softmax, masks, sums over keys, log-sum-exp, delta) stays float.
 *
 * A pair at the edge of what a query sees may hold a row that it does not see: there its probability
 * is 0, and so is the gradient of its score. */

enum { PAIR = 2 };

/* acc + the products of the pairs of a and b, lane by lane. */
static ALWAYS_INLINE vec vec_multiply_add(vec a, vec b, vec acc)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b);
}

/* p x, for a probability p; 0 where p is 0, whatever x is. */
static ALWAYS_INLINE vec vec_weigh(vec p, vec x)
{
    return _mm512_maskz_mul_ps(_mm512_cmp_ps_mask(p, _mm512_setzero_ps(), _CMP_NEQ_UQ), p, x);
}

/* Words (rows[0][l], rows[1][l]). */
static ALWAYS_INLINE vec stacked_words(const vec rows[PAIR])
{
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (vec)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(rows[1], rows[0]));
}

/* LANES numbers of a row as words: half a vector. */
static ALWAYS_INLINE void store_flat(real *words, vec x)
{
    _mm256_store_si256((__m256i *)words, (__m256i)_mm512_cvtneps_pbh(x));
}

/* And back. */
static ALWAYS_INLINE vec load_flat(const real *words)
{
    __m512i x = _mm512_cvtepu16_epi32(_mm256_load_si256((const __m256i *)words));
    return (vec)_mm512_slli_epi32(x, 16);
}

/* dst[i, :] = scale * src[i, :] as flat operands, padded with 0 to `words`. */
static void pack_flat(real *dst, int64_t words, const real *src, int64_t src_stride, int64_t rows,
                      int64_t width, real scale)
{
    const vec factor = vec_splat(scale);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t p = 0; p < width; p += PAIR * LANES) {
            const real *x = src + i * src_stride + p;
            const uint32_t there =
                width - p >= PAIR * LANES ? UINT32_MAX : ((uint32_t)1 << (width - p)) - 1;
            vec low = _mm512_maskz_loadu_ps((__mmask16)there, x);
            vec high = _mm512_maskz_loadu_ps((__mmask16)(there >> LANES), x + LANES);
            store(dst + i * words + p / PAIR,
                  (vec)_mm512_cvtne2ps_pbh(high * factor, low * factor));
        }
}

/* to [rows / 2, stride] = the stacked form of flat rows, with 0 below the last one. Returns to. */
static const real *stack_rows(real *to, int64_t stride, const real *flat, int64_t words,
                              int64_t rows)
{
    const __m512i left =
        _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                         37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i right = _mm512_add_epi16(left, _mm512_set1_epi16(LANES));
    for (int64_t r = 0; r < rows; r += PAIR)
        for (int64_t p = 0; p < words; p += LANES) {
            const real *upper = flat + r * words + p;
            real *x = to + r / PAIR * stride + p * PAIR;
            __m512i a = (__m512i)load(upper), b = _mm512_setzero_si512();
            if (r + 1 < rows) b = (__m512i)load(upper + words);
            store(x, (vec)_mm512_permutex2var_epi16(a, left, b));
            if (p * PAIR + LANES < stride)
                store(x + LANES, (vec)_mm512_permutex2var_epi16(a, right, b));
        }
    return to;
}
