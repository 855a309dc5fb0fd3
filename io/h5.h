#pragma once
/* HDF5 files: thin helpers over the library, which stays inside io/.
 *
 * A file is opened by one process (comm NULL) or by all ranks of comm together through MPI-IO. HDF5
 * asks that what changes the structure (create, close, define, attributes) is called by all ranks
 * in the same order with the same arguments; reading and writing elements is each rank's own affair
 * here. So the caller runs a phase, then agrees. HDF5's own messages are not printed; their text
 * becomes part of ours. */
#include "core/tensor.h"
#include "parallel/comm.h"

typedef enum lh_h5_kind {
    LH_H5_F32,
    LH_H5_F64,
    LH_H5_INT32,
    LH_H5_INT64,
    LH_H5_UINT8,
    LH_H5_UINT16,
    LH_H5_TEXT,  /* one string of fixed length */
    LH_H5_OTHER, /* anything else: can be listed, not read */
    LH_H5_KINDS
} lh_h5_kind;

/* What lh_real is in this build. */
#ifdef LH_PRECISION_DOUBLE
#define LH_H5_REAL LH_H5_F64
#else
#define LH_H5_REAL LH_H5_F32
#endif

typedef struct lh_h5 lh_h5;

/* An open dataset. */
typedef struct lh_h5_data {
    int64_t id;      /* -1: not open */
    lh_h5_kind kind; /* in the file */
    int ndim;        /* 0: one element */
    int64_t dim[LH_MAX_DIMS];
    size_t text_bytes; /* LH_H5_TEXT: with the closing NUL */
    const char *path;  /* of the file, for messages; borrowed */
    char name[128];
} lh_h5_data;

/* Part of a dataset: for each dimension `count` indices from `start` in steps of `stride`. */
typedef struct lh_h5_slab {
    int64_t start[LH_MAX_DIMS], stride[LH_MAX_DIMS], count[LH_MAX_DIMS];
} lh_h5_slab;

/* lh_h5_kind_bytes - bytes of one element in memory (0 for text and other). Local. */
size_t lh_h5_kind_bytes(lh_h5_kind kind);

/* lh_h5_create - a new file in the place of an old one; user_bytes (0, or a power of two from 512)
 * stay free at its beginning. Collective on comm (NULL: this process alone). The caller closes
 * *out. Errors: agreed LH_ERR_IO, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_h5_create(lh_comm *comm, const char *path, int64_t user_bytes,
                                    lh_h5 **out);

/* lh_h5_open - an existing file, for reading. Collective on comm (NULL: this process alone). The
 * caller closes *out. Errors: agreed LH_ERR_IO (cannot be read), LH_ERR_FORMAT (no HDF5 file),
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_h5_open(lh_comm *comm, const char *path, lh_h5 **out);

/* lh_h5_close - everything reaches the file; accepts NULL content and nulls it. Collective on the
 * comm of the file. Errors: agreed LH_ERR_IO. */
LH_NODISCARD lh_status lh_h5_close(lh_h5 **file);

/* lhi_h5_give_up - ends the job with the error at hand, once the file that is being made is removed.
 * For a file that some ranks write and some cannot: closing it, and the end of MPI, which closes it too,
 * would wait for ever or crash in the library. Collective on comm. Does not return. */
_Noreturn void lhi_h5_give_up(lh_comm *comm, const char *path);

/* lh_h5_flush - what was written so far leaves the library. Collective on the comm of the file.
 * Errors: agreed LH_ERR_IO. */
LH_NODISCARD lh_status lh_h5_flush(lh_h5 *file);

/* lh_h5_group - a group, its parents must exist. Called by all ranks alike. Errors, local:
 * LH_ERR_IO. */
LH_NODISCARD lh_status lh_h5_group(lh_h5 *file, const char *name);

/* lh_h5_define - a dataset of dim [ndim], in an existing group; open until lh_h5_release. Called by
 * all ranks alike. text_bytes: LH_H5_TEXT only, with the closing NUL. Errors, local: LH_ERR_IO,
 * LH_ERR_BUG. */
LH_NODISCARD lh_status lh_h5_define(lh_h5 *file, const char *name, lh_h5_kind kind, int ndim,
                                    const int64_t *dim, size_t text_bytes, lh_h5_data *data);

/* lh_h5_find - open a dataset. Local. Errors: LH_ERR_FORMAT (no such dataset, more than 6
 * dimensions, more elements than the file can hold). */
LH_NODISCARD lh_status lh_h5_find(lh_h5 *file, const char *name, lh_h5_data *data);

/* lh_h5_has - is there a dataset, group (name) or attribute of the file (name with a leading '@')?
 * Local. */
bool lh_h5_has(lh_h5 *file, const char *name);

/* lh_h5_release - close a dataset. Local; called by all ranks alike when the file is being written. */
void lh_h5_release(lh_h5_data *data);

/* lh_h5_write, lh_h5_read - the elements of slab (NULL: all), row-major in memory, of the given
 * kind there; HDF5 converts between numbers. Each rank for itself. Text: the whole string, memory
 * of text_bytes. Errors, local: LH_ERR_IO; LH_ERR_FORMAT (text against numbers, several texts);
 * LH_ERR_BUG (slab outside the dataset). */
LH_NODISCARD lh_status lh_h5_write(const lh_h5_data *data, lh_h5_kind kind, const lh_h5_slab *slab,
                                   const void *memory);
LH_NODISCARD lh_status lh_h5_read(const lh_h5_data *data, lh_h5_kind kind, const lh_h5_slab *slab,
                                  void *memory);

/* lh_h5_read_all - find, read whole, release: count elements of the kind into memory. Local.
 * Errors: LH_ERR_FORMAT (no such dataset, another number of elements), LH_ERR_IO. */
LH_NODISCARD lh_status lh_h5_read_all(lh_h5 *file, const char *name, lh_h5_kind kind, int64_t count,
                                      void *memory);

/* lh_h5_offset - where in the file the elements lie, one after the other, from its first byte on; -1
 * where they do not lie so, or nothing was written yet. Local. */
int64_t lh_h5_offset(const lh_h5_data *data);

/* lh_h5_list - the names in a group, sorted, each closed by a NUL. Local. The caller releases
 * *names with lh_free. Errors: LH_ERR_FORMAT (no such group), LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_h5_list(lh_h5 *file, const char *group, char **names, int64_t *count);

/* lh_h5_put_int, lh_h5_put_text - an attribute of object (a dataset or group; "/" is the file).
 * Called by all ranks alike with the same value. Errors, local: LH_ERR_IO. */
LH_NODISCARD lh_status lh_h5_put_int(lh_h5 *file, const char *object, const char *name,
                                     int64_t value);
LH_NODISCARD lh_status lh_h5_put_text(lh_h5 *file, const char *object, const char *name,
                                      const char *value);

/* lh_h5_has_attribute - is there such an attribute? Local. */
bool lh_h5_has_attribute(lh_h5 *file, const char *object, const char *name);

/* lh_h5_get_int, lh_h5_get_text - read one. Local. *value of text: NUL-terminated, the caller
 * releases it with lh_free. Errors: LH_ERR_FORMAT (missing, or of another kind), LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_h5_get_int(lh_h5 *file, const char *object, const char *name,
                                     int64_t *value);
LH_NODISCARD lh_status lh_h5_get_text(lh_h5 *file, const char *object, const char *name,
                                      char **value);

/* lh_h5_copy_text - a text attribute of the file into out [room], cut where it is longer; "" on error.
 * Local. Errors: as lh_h5_get_text. */
LH_NODISCARD lh_status lh_h5_copy_text(lh_h5 *file, const char *name, char *out, size_t room);

/* lh_h5_put_string - a dataset of one string. Called by all ranks alike, of which one `writes`.
 * Errors, local: LH_ERR_IO. */
LH_NODISCARD lh_status lh_h5_put_string(lh_h5 *file, const char *name, const char *text,
                                        bool writes);
