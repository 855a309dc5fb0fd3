#pragma once
/* Tasks: what a model learns from, as windows of tokens and labels.
 *
 *   text         next byte: tokens are bytes (256); a window is `length` inputs plus one label
 *   masked_text  hidden bytes (Devlin et al. 2018, section 3.1): `mask` of the positions are chosen; of these 80 % become
 *                the mask token 256, 10 % a random byte, 10 % stay; only they have labels
 *
 * The training part is cut into windows that do not overlap; the last one may be shorter. Each
 * epoch takes them in the order of a permutation that depends on the seed alone. Each rank reads
 * only its own rows. */
#include "core/layout.h"
#include "experiments/config.h"
#include "parallel/comm.h"

typedef enum lh_split { LH_SPLIT_TRAIN, LH_SPLIT_VALID, LH_SPLIT_TEST, LH_SPLITS } lh_split;

typedef struct lh_task lh_task;

/* lh_task_vocab - number of tokens of a task. Local. */
int64_t lh_task_vocab(const lh_config *config);

/* lh_task_open - open the files that the configuration names.
 * Collective on comm. Borrows config. The caller destroys *out (local).
 * Errors: agreed LH_ERR_USAGE (missing, a folder, not readable, too short: with the key and what to
 * do), LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_task_open(lh_comm *comm, const lh_config *config, lh_task **out);
/* lh_task_close - release it and null the handle. Local. */
void lh_task_close(lh_task **task);

/* lh_task_windows - windows of a split (0: there is no such split); lh_task_tokens - its predicted
 * tokens or, masked, its bytes. Local. */
int64_t lh_task_windows(const lh_task *t, lh_split split);
int64_t lh_task_tokens(const lh_task *t, lh_split split);

/* lh_task_bytes - size of the training file. Local. */
int64_t lh_task_bytes(const lh_task *t);

/* lh_task_order - the window that is sample number `sample` (counted from the start of the run) of
 * training. Local, pure. */
int64_t lh_task_order(const lh_task *t, int64_t sample);

/* One sequence as one rank holds it. */
typedef struct lh_rows {
    int32_t *tokens, *labels; /* [rows of the rank]; out */
    int64_t valid;            /* positions of the window that exist; out, the same on all ranks */
    int64_t counted;          /* labels among this rank's rows; out */
} lh_rows;

/* lh_task_read - the rows of `rank` of a window. draw: number that decides what is masked: the
 * sample number in training, the window in evaluation. window -1: no sequence at all (nothing
 * valid, nothing counted). Local. Errors: LH_ERR_IO, local: rows are then filled as for window -1. */
LH_NODISCARD lh_status lh_task_read(const lh_task *t, lh_split split, int64_t window, int64_t draw,
                                    const lh_layout *layout, int rank, lh_rows *out);
