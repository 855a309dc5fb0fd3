#pragma once
/* Digests that ranks compute in parts and add up: sum over i of mix(word i, i) modulo 2^64, so that
 * neither the number of ranks nor the order matters, every place counts, and one changed word
 * always changes the sum (mix is a bijection of the word). Against accidents, not against
 * attackers. */
#include "io/bytes.h"

/* The finaliser of splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
 * generators", OOPSLA 2014). */
static inline uint64_t lhi_digest_word(uint64_t word, uint64_t index)
{
    uint64_t z = word * 0xD6E8FEB86659FD93u + (index + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* lhi_digest_sum - add the parts of all ranks, modulo 2^64, in place. Collective on comm (NULL:
 * nothing). */
void lhi_digest_sum(lh_comm *comm, uint64_t *parts, int64_t count);

/* lhi_digest_bytes - digest of bytes [count], as lhi_digest_file has it. Local. */
uint64_t lhi_digest_bytes(const void *bytes, int64_t count);

/* lhi_digest_file - digest of the file's bytes from offset `from` to its end, as 8-byte
 * little-endian words, the last one padded with zeros; *bytes: size of the whole file. Every rank
 * reads its share. Collective on comm (NULL: one process). Errors: agreed LH_ERR_IO, LH_ERR_FORMAT
 * (shorter than `from`), LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_digest_file(lh_comm *comm, const char *path, int64_t from,
                                       int64_t *bytes, uint64_t *digest);

/* lhi_digest_same - do all ranks see the content that rank 0 sees? Files of up to 256 KiB are compared whole, of
 * larger ones 64 pieces of 4 KiB at even distances, the beginning and the end among them: enough for copies of
 * another file or version, not for a byte that was changed in between. The digest that a sealed file begins
 * with is in the first piece. Collective on comm (NULL: nothing); the file has the same size on all
 * ranks. Errors: agreed LH_ERR_IO. */
LH_NODISCARD lh_status lhi_digest_same(lh_comm *comm, const lh_bytes *file);
