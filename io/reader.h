#pragma once
/* A text read from its beginning to its end by one process, character by character, in one block of
 * memory whatever its size. */
#include "io/bytes.h"

enum { LHI_READER_BLOCK = 1 << 18 };

typedef struct lhi_reader {
    lh_bytes *file;
    uint8_t *block;
    int64_t at, have; /* next character in the block, characters in it */
    int64_t offset;   /* of the block in the file */
    int64_t line;     /* of the next character, from 1 */
    lh_status st;     /* why the text ended early */
} lhi_reader;

/* lhi_reader_open - start with {0}; lhi_reader_close also after an error. Local. Errors: as
 * lh_bytes_open, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_reader_open(const char *path, lhi_reader *r);
void lhi_reader_close(lhi_reader *r);

/* lhi_reader_fill - the next block; false at the end, or after an error, which r->st tells. Local. */
bool lhi_reader_fill(lhi_reader *r);

/* lhi_reader_next - the next character, or -1 where the text ends. Local. */
static inline int lhi_reader_next(lhi_reader *r)
{
    if (r->at == r->have && !lhi_reader_fill(r)) return -1;
    int c = r->block[r->at++];
    r->line += c == '\n';
    return c;
}
