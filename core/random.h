#pragma once
/* Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random
 * numbers: as easy as 1, 2, 3", SC11). A number is a function of (seed, stream, index): the same on
 * 1 rank and on 1,000.
 *
 * Counter words: {index low, index high, stream low, stream high}; key words: {seed low, seed
 * high}. */
#include "core/status.h"

/* Streams: the high 32 bits name the purpose, the low 32 bits its instance (parameter number,
 * layer, ...). */
typedef enum lh_stream {
    LH_STREAM_PARAMETER = 1,
    LH_STREAM_DROPOUT = 2,
    LH_STREAM_ORDER = 3,
    LH_STREAM_MASK = 4,
    LH_STREAM_TEST = 5,
    LH_STREAM_TASK = 16, /* samples that the program makes */
    LH_STREAM_TREE = 17  /* trees of ListOps: experiments/listops.h */
} lh_stream;

static inline uint64_t lh_stream_id(lh_stream purpose, uint32_t instance)
{
    return (uint64_t)purpose << 32 | instance;
}

/* lh_name_number - the instance of a name: 32-bit FNV-1a. So a parameter starts the same whatever
 * else is declared. Local. */
uint32_t lh_name_number(const char *name);

/* lh_philox - one block: 4 words from counter and key. Local. out[4] must not overlap counter. */
void lh_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* lh_random_block - the 4 words number index of (seed, stream). Local. */
void lh_random_block(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]);

/* lh_random_u32 - word index of (seed, stream): word index % 4 of block index / 4. Local. */
uint32_t lh_random_u32(uint64_t seed, uint64_t stream, uint64_t index);

/* lh_random_uniform - number index of (seed, stream) in (0, 1), 53 bits from 2 words. Local. */
double lh_random_uniform(uint64_t seed, uint64_t stream, uint64_t index);

/* lh_random_normal - standard normal number index of (seed, stream), Box-Muller in double. Local. */
double lh_random_normal(uint64_t seed, uint64_t stream, uint64_t index);

/* lh_random_permute - position of index in a permutation of 0..n-1 chosen by (seed, stream): a
 * 4-round Feistel network with cycle walking, so that no table of n entries exists. Local. 0 <=
 * index < n. */
int64_t lh_random_permute(uint64_t seed, uint64_t stream, int64_t n, int64_t index);
