#pragma once
/* Checkpoints: one HDF5 file with everything a run needs to go on, on any number of ranks. Random numbers
 * have no state: they are functions of the seed, the step and the sample.
 *
 * Layout of folder/step-NNNNNNNN.h5 (h5dump and h5py read it):
 *
 *     512 bytes before HDF5's own     text: "longhaul checkpoint 1", size and digest of the rest
 *     attributes of /                 format_version, program, step, tokens, samples, data_bytes, skips, seed, ranks, data, sequence, layout,
 *                                     precision, optimizer (are moments here?), complete (always 1)
 *     configuration                   the resolved experiment file, one string
 *     parameters/<name>               whole tensors, float or double as the build that wrote them; attribute checksum:
 *     optimizer/m/<name>, v/<name>    the sum over elements of a hash of (bits, index in the whole tensor), 16 hex digits
 *
 * Written to step-NNNNNNNN.h5.tmp, synced, read back against the checksums, then renamed: a file of
 * the final name is whole, and older ones survive every failure. The digest is checked before HDF5
 * looks into a file, since the library is not safe against damaged ones. */
#include "core/params.h"
#include "parallel/comm.h"

typedef struct lh_checkpoint_info {
    int64_t step, tokens,
        samples; /* steps done, tokens predicted, samples consumed (the position in the data order) */
    int64_t data_bytes; /* size of the training file */
    int64_t skips;      /* the last steps whose update was left out; 0 where a file does not say */
    uint64_t seed;
    char program[32]; /* version */
    char layout[16];
    char *config; /* writing: borrowed, NULL is empty; reading: owned, lh_checkpoint_info_free */
    /* filled by reading; ignored by writing */
    int64_t ranks, data, sequence; /* of the run that wrote it */
    char precision[8];             /* "float" or "double" */
    bool optimizer;                /* are there moments? */
} lh_checkpoint_info;

typedef enum lh_checkpoint_what { LH_CHECKPOINT_WEIGHTS, LH_CHECKPOINT_ALL } lh_checkpoint_what;

/* lh_checkpoint_write - write step info->step, verify it, name it, and remove what is older than the
 * `keep` newest whole ones of this step and before (keep < 1: remove none). A damaged file, one of
 * another step than its name says, and what is no file, does not count; before anything is removed, the digests of the keep - 1 others are checked.
 * Moments are written if params are trainable. The folder is made if need be. Collective on the mesh;
 * info the same on all ranks. Memory: 8 MiB for staging. Errors: agreed LH_ERR_IO, LH_ERR_MEMORY, LH_ERR_FORMAT (what was read
 * back differs), LH_ERR_BUG (info differs between ranks, placements that cannot be written); then
 * no temporary file is left and older checkpoints are as before. */
LH_NODISCARD lh_status lh_checkpoint_write(lh_mesh *mesh, const char *folder,
                                           const lh_checkpoint_info *info, lh_params *params,
                                           int64_t keep);

/* lh_checkpoint_read - values (and, LH_CHECKPOINT_ALL, moments) into params, which are allocated
 * and may be placed in another way, on other ranks and in the other precision than they were
 * written. A parameter that is not learned (frozen) has no moments, and keeps its value when the
 * file does not have it. Collective on the mesh. info may be NULL; else the caller frees it with
 * lh_checkpoint_info_free. Errors, agreed: LH_ERR_IO; LH_ERR_FORMAT (foreign, torn or damaged
 * file); LH_ERR_USAGE (names or shapes differ, all listed; no moments); LH_ERR_RANGE (a double that
 * no float holds); LH_ERR_MEMORY. params are undefined then, but untouched for LH_ERR_USAGE and for
 * files whose digest is wrong. */
LH_NODISCARD lh_status lh_checkpoint_read(lh_mesh *mesh, const char *path, lh_checkpoint_what what,
                                          lh_params *params, lh_checkpoint_info *info);

/* lh_checkpoint_read_if - as lh_checkpoint_read, after `accept`, called on every rank, has seen the
 * description: its error, agreed, is returned before anything else is compared or read. */
LH_NODISCARD lh_status lh_checkpoint_read_if(lh_mesh *mesh, const char *path,
                                             lh_checkpoint_what what, lh_params *params,
                                             lh_status (*accept)(void *user,
                                                                 const lh_checkpoint_info *info),
                                             void *user, lh_checkpoint_info *info);

/* lh_checkpoint_info_read - the description alone; the file's digest is checked. Collective on comm
 * (NULL: one process). The caller frees *info. Errors: agreed, as lh_checkpoint_read. */
LH_NODISCARD lh_status lh_checkpoint_info_read(lh_comm *comm, const char *path,
                                               lh_checkpoint_info *info);

/* lh_checkpoint_info_free - releases config. Local. */
void lh_checkpoint_info_free(lh_checkpoint_info *info);

/* lh_checkpoint_named - is a file that has the name of a checkpoint the one of that step? A copy under
 * another step's name would be the newest for ever. Other names may hold any step. Local, pure.
 * Errors: LH_ERR_FORMAT. */
LH_NODISCARD lh_status lh_checkpoint_named(const char *path, const lh_checkpoint_info *info);

/* lh_checkpoint_leave - a run goes on from `step`: what the folder has of later steps is of a history that
 * it leaves, and gets the name step-NNNNNNNN.h5.bad; *left: how many. A file of the old name that comes
 * back is known by the other one (lh_checkpoint_left), which goes when the run writes this step itself,
 * or is past it. Folders stay. Collective on comm. Errors: agreed LH_ERR_IO, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_checkpoint_leave(lh_comm *comm, const char *folder, int64_t step,
                                           int64_t *left);

/* lh_checkpoint_left - has the run left this checkpoint? Then it is not to be read. Collective on comm
 * (NULL: one process). Errors: agreed LH_ERR_FORMAT: it has. */
LH_NODISCARD lh_status lh_checkpoint_left(lh_comm *comm, const char *path);

/* lh_checkpoint_newest - path [bytes] of the newest but `index` checkpoint of a folder (0: the
 * newest, by step); whether it is whole shows when it is read. *found false: there are not so many
 * (or no folder). Collective on comm (NULL: one process). Errors: agreed LH_ERR_IO, LH_ERR_MEMORY,
 * LH_ERR_BUG (path too short). */
LH_NODISCARD lh_status lh_checkpoint_newest(lh_comm *comm, const char *folder, int64_t index,
                                            char *path, size_t bytes, bool *found);

/* Heads that become fewer: along dimension `dim` a parameter's rows are `from` heads of the same
 * size one after the other, of which each from / to neighbours become one, their mean. */
typedef struct lh_checkpoint_merge {
    char name[96];
    int dim;
    int64_t from, to; /* to divides from */
} lh_checkpoint_merge;

/* lh_checkpoint_convert - write the weights of checkpoint `from` to the new file `to` (not to be
 * there before), the parameters named by merge [merges] with fewer heads, every other one bit by
 * bit, in the precision of the file. Means are summed in double. Moments are left out, and config
 * takes the place of the configuration; step, seed and what else the description says stay.
 * Written beside, synced, read back against the checksums, then renamed. Local; without MPI. Memory:
 * a merged parameter before and after. Errors: LH_ERR_USAGE (`to` exists); LH_ERR_FORMAT (foreign,
 * torn or damaged, a parameter that cannot be merged so); LH_ERR_IO, LH_ERR_MEMORY; then there is no
 * new file. */
LH_NODISCARD lh_status lh_checkpoint_convert(const char *from, const char *to, const char *config,
                                             const lh_checkpoint_merge *merge, int64_t merges);

/* A dataset of a checkpoint. */
typedef struct lh_checkpoint_item {
    char name[256]; /* parameters/..., optimizer/m/..., optimizer/v/... */
    int ndim;
    int64_t dim[LH_MAX_DIMS];
    int64_t elements;
    const char *type; /* "float" or "double" */
    bool sound;       /* its content has the checksum that was written */
} lh_checkpoint_item;

/* lh_checkpoint_list - the description and every dataset in the order of their names, each read and
 * compared with its checksum. One process. Memory: 4 MiB, or one row of a dataset. The caller frees
 * *info. Errors: as lh_checkpoint_info_read; visit's. */
LH_NODISCARD lh_status lh_checkpoint_list(const char *path, lh_checkpoint_info *info,
                                          lh_status (*visit)(void *user,
                                                             const lh_checkpoint_item *item),
                                          void *user);

/* lh_checkpoint_is - does the file begin as checkpoints do? Local. */
bool lh_checkpoint_is(const char *path);
