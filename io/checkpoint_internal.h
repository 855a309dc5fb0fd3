#pragma once
/* Shared by checkpoint.c (the protocol), checkpoint_folder.c (the names), checkpoint_data.c (the tensors)
 * and checkpoint_convert.c. */
#include "io/checkpoint.h"
#include "io/files.h"
#include "io/h5.h"

enum { LHI_CHECKPOINT_SETS = 3 }; /* value, m, v */

/* Elements of a tensor that are staged at once: 4 MiB of doubles. */
enum { LHI_CHECKPOINT_STAGE = 1 << 19 };

/* What a pass over all tensors does with them. */
typedef enum lhi_checkpoint_pass {
    LHI_CHECKPOINT_STORE,  /* device to file */
    LHI_CHECKPOINT_VERIFY, /* file against its checksums */
    LHI_CHECKPOINT_LOAD    /* file to device, and against its checksums */
} lhi_checkpoint_pass;

/* lhi_checkpoint_path - folder/step-NNNNNNNN and `tail`, which is ".h5" or longer. Local. Errors:
 * LH_ERR_USAGE when it is too long. */
LH_NODISCARD lh_status lhi_checkpoint_path(char path[LH_PATH_MAX], const char *folder, int64_t step,
                                           const char *tail);

/* lhi_checkpoint_sweep - removes half checkpoints that killed runs have left. Local. Errors: LH_ERR_IO,
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_checkpoint_sweep(const char *folder);

/* lhi_checkpoint_written - this step is the run's own from now on: see lh_checkpoint_leave. Local.
 * Errors: LH_ERR_IO. */
LH_NODISCARD lh_status lhi_checkpoint_written(const char *folder, int64_t step);

/* lhi_checkpoint_prune - removes what is older than the `keep` newest whole files up to `step`, of which
 * the one of `step` is one, also under the names of lh_checkpoint_leave. Collective on world. Errors: agreed LH_ERR_IO, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_checkpoint_prune(lh_comm *world, const char *folder, int64_t step,
                                            int64_t keep);

/* lhi_checkpoint_group - the group of a set: parameters, optimizer/m, optimizer/v. Local. */
const char *lhi_checkpoint_group(int set);

/* lhi_checkpoint_placed - can these parameters be written and read? Local. Errors: LH_ERR_BUG. */
LH_NODISCARD lh_status lhi_checkpoint_placed(const lh_mesh *mesh, const lh_params *params);

/* lhi_checkpoint_define - the datasets of `sets` sets. Called by all ranks alike. Errors, local: as
 * lh_h5_define. */
LH_NODISCARD lh_status lhi_checkpoint_define(lh_h5 *file, const lh_params *params, int sets);

/* lhi_checkpoint_match - do names and shapes of the file and of params agree? Local.
 * Errors: LH_ERR_USAGE listing all that differ; LH_ERR_FORMAT. */
LH_NODISCARD lh_status lhi_checkpoint_match(lh_h5 *file, const char *path, const lh_params *params,
                                            int sets);

/* lhi_checkpoint_run - one pass over all tensors. Storing returns the checksums, agreed and added
 * up, in sums [sets x params]; the other passes compare with the file's. Collective on the mesh.
 * Errors: agreed LH_ERR_IO, LH_ERR_FORMAT, LH_ERR_RANGE, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_checkpoint_run(lhi_checkpoint_pass pass, lh_mesh *mesh, lh_h5 *file,
                                          const lh_params *params, int sets, uint64_t *sums);

/* lhi_checkpoint_sign - write the checksums as attributes. Called by all ranks alike. Errors,
 * local: LH_ERR_IO. */
LH_NODISCARD lh_status lhi_checkpoint_sign(lh_h5 *file, const lh_params *params, int sets,
                                           const uint64_t *sums);

/* lhi_checkpoint_hash - the part of a tensor's checksum that `count` neighbouring elements give, of
 * which the first has the index `first` in the whole tensor. kind: float or double. Local, pure. */
uint64_t lhi_checkpoint_hash(lh_h5_kind kind, const void *elements, int64_t count, int64_t first);

/* lhi_checkpoint_copy - read every element of a dataset, in slices, and write it to another one of the
 * same shape, unless `to` is NULL; *sum: its checksum. Local. Memory: LHI_CHECKPOINT_STAGE elements, or
 * one row. Errors: LH_ERR_IO, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_checkpoint_copy(const lh_h5_data *from, const lh_h5_data *to,
                                           uint64_t *sum);

/* lhi_checkpoint_open - a whole file, open, with its description; its digest is checked. Collective on
 * comm (NULL: one process). The caller closes it (lhi_seal_end) and frees *info. Errors: agreed, as
 * lh_checkpoint_read. */
LH_NODISCARD lh_status lhi_checkpoint_open(lh_comm *comm, const char *path, lh_h5 **file,
                                           lh_checkpoint_info *info);

/* lhi_checkpoint_describe - attributes and configuration, all members of info as they are. Called by
 * all ranks alike, of which one `writes`. Errors, local: LH_ERR_IO. */
LH_NODISCARD lh_status lhi_checkpoint_describe(lh_h5 *file, const lh_checkpoint_info *info,
                                               bool writes);

/* lhi_checkpoint_seal - what HDF5 has written to a closed file reaches the disk, then its head.
 * Collective on comm (NULL: one process). Errors: agreed LH_ERR_IO, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_checkpoint_seal(lh_comm *comm, const char *path);
