#include "core/random.h"

#include <math.h>

/* Round constants of Philox4x32 (Salmon et al. 2011, table 2 and section 3.3). */
#define PHILOX_M0 UINT64_C(0xD2511F53)
#define PHILOX_M1 UINT64_C(0xCD9E8D57)
#define PHILOX_W0 UINT32_C(0x9E3779B9)
#define PHILOX_W1 UINT32_C(0xBB67AE85)
enum { PHILOX_ROUNDS = 10, FEISTEL_ROUNDS = 4 };

uint32_t lh_name_number(const char *name)
{
    uint32_t h = 2166136261u;
    for (const char *c = name; *c != '\0'; c++) h = (h ^ (unsigned char)*c) * 16777619u;
    return h;
}

void lh_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        uint64_t p0 = PHILOX_M0 * c0, p1 = PHILOX_M1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += PHILOX_W0;
        k1 += PHILOX_W1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

void lh_random_block(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4])
{
    const uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream,
                                 (uint32_t)(stream >> 32)};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    lh_philox(counter, key, out);
}

uint32_t lh_random_u32(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t w[4];
    lh_random_block(seed, stream, index / 4, w);
    return w[index % 4];
}

/* Odd multiples of 2^-53: all are exact, symmetric about 1/2, and neither 0 nor 1 occurs. */
static double random_unit(uint32_t low, uint32_t high)
{
    uint64_t bits = (uint64_t)high << 32 | low;
    return (double)(bits >> 11 | 1) * 0x1p-53;
}

double lh_random_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t w[4];
    lh_random_block(seed, stream, index / 2, w);
    return index % 2 == 0 ? random_unit(w[0], w[1]) : random_unit(w[2], w[3]);
}

double lh_random_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
    const double two_pi = 6.283185307179586476925286766559;
    uint32_t w[4];
    lh_random_block(seed, stream, index / 2, w);
    double radius = sqrt(-2.0 * log(random_unit(w[0], w[1])));
    double angle = two_pi * random_unit(w[2], w[3]);
    return radius * (index % 2 == 0 ? cos(angle) : sin(angle));
}

/* Round function: 32 bits of Philox. The high counter word keeps these blocks apart from those of
 * lh_random_block with an index below 2^63. */
static uint64_t feistel_round(uint64_t seed, uint64_t stream, uint64_t half, uint32_t round)
{
    uint32_t w[4];
    lh_random_block(seed, stream, (UINT64_C(0x80000000) | round) << 32 | half, w);
    return w[0];
}

int64_t lh_random_permute(uint64_t seed, uint64_t stream, int64_t n, int64_t index)
{
    unsigned half = 1;
    while (half < 32 && (UINT64_C(1) << (2 * half)) < (uint64_t)n) half++;
    const uint64_t mask = (UINT64_C(1) << half) - 1;
    uint64_t x = (uint64_t)index;
    /* The network permutes 0..4^half - 1; walking its cycle until it comes back below n permutes
     * 0..n - 1. */
    do {
        uint64_t left = x >> half, right = x & mask;
        for (uint32_t round = 0; round < FEISTEL_ROUNDS; round++) {
            uint64_t mixed = (left ^ feistel_round(seed, stream, right, round)) & mask;
            left = right;
            right = mixed;
        }
        x = left << half | right;
    } while (x >= (uint64_t)n);
    return (int64_t)x;
}
