/* Elementary functions of kernels_body.h in element type `real`: k_exp, k_normal, k_sigmoid.
 *
 * float: branch-free, so that loops over them become vector code. double: the C library, accurate
 * to its last bits, because gradients are checked against finite differences there. */
#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float k_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t k_to_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

#if KB_FLOAT

/* e^x within 2 units in the last place; 0 below -104, inf above 88.8, NaN for NaN. x = n ln 2 + r
 * with |r| <= ln 2 / 2; the polynomial is the one of Cephes (Moshier 1989). 2^n comes as two
 * factors, so that results below the normal range are rounded once and n = 128 overflows to inf. */
static inline float k_exp(float x)
{
    const float round =
        12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer, which sits in the low bits */
    float c = x < -104.0f ? -104.0f : x;
    c = c > 89.0f ? 89.0f : c;
    const float shifted = c * 1.44269504088896341f + round;
    const float n = shifted - round;
    float r = c - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const int32_t e = (int32_t)(k_to_bits(shifted) - k_to_bits(round));
    const int32_t half = e >> 1;
    return p * k_from_bits((uint32_t)(half + 127) << 23) *
           k_from_bits((uint32_t)(e - half + 127) << 23);
}

/* Phi(x), the normal distribution function, and pdf = its density. For a = |x| the tail is pdf-like
 * factor times a polynomial, Q(a) = exp(-a^2 / 2) t P(t), t = 1 / (1 + 0.35 a), with P fitted to
 * minimise the relative error on 0 <= a <= 14 (3e-8 before rounding); so small tails keep their
 * relative accuracy. */
static inline float k_normal(float x, float *pdf)
{
    const float a = x < 0.0f ? -x : x;
    const float t = 1.0f / (1.0f + 0.35f * a);
    const float e = k_exp(-0.5f * a * a);
    float p = -0.029146134853363037f;
    p = p * t + 0.14397267997264862f;
    p = p * t - 0.2557162642478943f;
    p = p * t + 0.15917643904685974f;
    p = p * t - 0.0231113750487566f;
    p = p * t + 0.10550864785909653f;
    p = p * t + 0.11983270943164825f;
    p = p * t + 0.13986189663410187f;
    p = p * t + 0.13962140679359436f;
    const float tail = e * (p * t);
    *pdf = 0.3989422804014327f * e;
    return x < 0.0f ? tail : 1.0f - tail;
}

#else

static inline double k_exp(double x)
{
    return exp(x);
}

static inline double k_normal(double x, double *pdf)
{
    *pdf = 0.3989422804014326779 * exp(-0.5 * x * x);
    return 0.5 * erfc(-0.7071067811865475244 * x);
}

#endif

static inline real k_sigmoid(real x)
{
    return (real)1 / ((real)1 + k_exp(-x));
}
