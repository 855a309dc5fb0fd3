#pragma once
/* Any file as bytes, read where it is needed: each rank reads only its part, never the whole file
 * in memory. */
#include "parallel/comm.h"

typedef struct lh_bytes lh_bytes;

/* lh_bytes_open - open a file for reading at any offset. All ranks must see the same file.
 * Collective on comm (NULL: one process). Ownership: the caller closes *out. Errors: agreed
 * LH_ERR_IO (missing, a folder or device, not readable, another size on another rank),
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_bytes_open(lh_comm *comm, const char *path, lh_bytes **out);

/* lh_bytes_close - accepts NULL content and nulls it. Local. */
void lh_bytes_close(lh_bytes **file);

/* lh_bytes_size - bytes of the file when it was opened; lh_bytes_path - its name, borrowed. Local. */
int64_t lh_bytes_size(const lh_bytes *file);
const char *lh_bytes_path(const lh_bytes *file);

/* lh_bytes_read - out [count] = bytes offset .. offset + count - 1. Local. Errors, local:
 * LH_ERR_RANGE (reaches beyond the end), LH_ERR_IO (the file has shrunk, the disk failed). */
LH_NODISCARD lh_status lh_bytes_read(const lh_bytes *file, int64_t offset, int64_t count,
                                     uint8_t *out);
