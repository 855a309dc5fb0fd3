#include "io/digest.h"

#include "io/files.h"

enum { digest_block = 1 << 20, digest_pieces = 64, digest_piece = 4096 };

void lhi_digest_sum(lh_comm *comm, uint64_t *parts, int64_t count)
{
    if (comm == NULL) return;
    for (int64_t i = 0; i < count; i++) {
        /* In halves: a sum of signed numbers must not overflow, and these are to wrap. */
        int64_t half[2] = {(int64_t)(parts[i] & 0xFFFFFFFFu), (int64_t)(parts[i] >> 32)};
        lh_sum_i64(comm, half, 2, LH_SEND_OTHER);
        parts[i] = (uint64_t)half[0] + ((uint64_t)half[1] << 32);
    }
}

static uint64_t digest_bytes(const uint8_t *bytes, int64_t count, uint64_t index)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < count; i += 8) {
        uint64_t word = 0;
        int64_t n = count - i < 8 ? count - i : 8;
        for (int64_t j = 0; j < n; j++) word |= (uint64_t)bytes[i + j] << (8 * j);
        sum += lhi_digest_word(word, index++);
    }
    return sum;
}

uint64_t lhi_digest_bytes(const void *bytes, int64_t count)
{
    return digest_bytes(bytes, count, 0);
}

lh_status lhi_digest_file(lh_comm *comm, const char *path, int64_t from, int64_t *bytes,
                          uint64_t *digest)
{
    lh_bytes *file = NULL;
    uint8_t *block = NULL;
    int64_t ranks = comm != NULL ? lh_comm_size(comm) : 1;
    int64_t rank = comm != NULL ? lh_comm_rank(comm) : 0;
    *digest = 0;
    *bytes = 0;
    lh_status st = lh_bytes_open(comm, path, &file);
    if (st != LH_OK) return st;
    LH_TRY(lh_new(digest_block, &block));
    *bytes = lh_bytes_size(file);
    LH_CHECK(*bytes >= from, LH_ERR_FORMAT, "'%s' ends after %lld bytes", path, (long long)*bytes);
    for (int64_t at = from + rank * digest_block; at < *bytes; at += ranks * digest_block) {
        int64_t n = *bytes - at < digest_block ? *bytes - at : digest_block;
        LH_TRY(lh_bytes_read(file, at, n, block));
        *digest += digest_bytes(block, n, (uint64_t)(at - from) / 8);
    }
done:
    lh_free(&block);
    lh_bytes_close(&file);
    st = lh_files_agree(comm, st);
    if (st == LH_OK) lhi_digest_sum(comm, digest, 1);
    return st;
}

/* Of pieces at fixed places; those of a file that is small enough cover it all. */
static lh_status digest_sample(const lh_bytes *file, uint64_t *digest)
{
    lh_status st = LH_OK;
    uint8_t piece[digest_piece];
    const int64_t size = lh_bytes_size(file), all = (size + digest_piece - 1) / digest_piece;
    const int64_t n = size < digest_piece ? size : digest_piece;
    const int64_t count = all < digest_pieces ? all : digest_pieces;
    const int64_t gaps = count > 1 ? count - 1 : 1,
                  span = size - n; /* from the first to the last */
    *digest = 0;
    for (int64_t i = 0; i < count; i++) {
        LH_TRY(lh_bytes_read(file, i * (span / gaps) + i * (span % gaps) / gaps, n, piece));
        *digest += digest_bytes(piece, n, (uint64_t)(i * digest_piece));
    }
done:
    return st;
}

lh_status lhi_digest_same(lh_comm *comm, const lh_bytes *file)
{
    uint64_t mine = 0, first = 0;
    if (comm == NULL) return LH_OK;
    lh_status st = digest_sample(file, &mine);
    first = mine;
    lh_broadcast(comm, &first, (int64_t)sizeof first, LH_SEND_OTHER);
    if (st == LH_OK && mine != first)
        st = LH_RAISE(LH_ERR_IO,
                      "'%s' has the size that rank 0 sees, and other content; put it on a file "
                      "system that all nodes share, or make the copies equal",
                      lh_bytes_path(file));
    return lh_agree(comm, st);
}
