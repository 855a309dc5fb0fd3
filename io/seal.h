#pragma once
/* Sealed HDF5 files: 512 bytes before HDF5's own (its smallest user block) say in text what the file
 * is, how large, and the digest of the rest. It is checked before HDF5 looks into a file, since the
 * library is not safe against damaged ones. Checkpoints and token files are such files. */
#include "io/h5.h"

enum { LHI_SEAL_BYTES = 512 };

typedef struct lhi_seal_kind {
    const char *magic; /* the file begins with it, then comes the version */
    int version;
    const char *foreign; /* "is not a ...": of a file that begins otherwise */
} lhi_seal_kind;

/* lhi_seal_check - is the file of this kind and whole, byte by byte? Every rank reads its share.
 * Collective on comm (NULL: one process). Errors: agreed LH_ERR_IO, LH_ERR_FORMAT, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_seal_check(lh_comm *comm, const char *path, const lhi_seal_kind *kind);

/* lhi_seal_close - what HDF5 has written reaches the disk, then the seal. Collective on comm (NULL:
 * one process). Errors: agreed LH_ERR_IO, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_seal_close(lh_comm *comm, const char *path, const lhi_seal_kind *kind);

/* lhi_seal_is - does the file begin as this kind does? false too where it cannot be read. Local. */
bool lhi_seal_is(const char *path, const lhi_seal_kind *kind);

/* lhi_seal_end - close an HDF5 file without losing the error that is on its way up. Collective on
 * the file's comm. */
LH_NODISCARD lh_status lhi_seal_end(lh_h5 **file, lh_status st);
