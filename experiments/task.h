#pragma once
/* Tasks: what a model learns from, as windows of tokens and labels. Labels that are not counted are
 * -1. From files:
 *
 *   text         next byte: tokens are bytes (256); a window is `length` inputs plus one label
 *   masked_text  hidden bytes (Devlin et al. 2018, section 3.1): `mask` of the positions are chosen; of these 80 % become
 *                the mask token 256, 10 % a random byte, 10 % stay; only they have labels
 *
 * The training part is cut into windows that do not overlap; the last one may be shorter. Each
 * epoch takes them in the order of a permutation that depends on the seed alone. Each rank reads
 * only its own rows.
 *
 * With data.documents a byte ends its document, to which it belongs. What follows it is not
 * predicted from it. Each row is told where its document begins and ends within the window; a rank
 * finds that by reading around its own rows, without a message, in any layout. Rotary and relative
 * positions see differences of positions only, so they need not begin anew; sinusoidal ones do.
 *
 * Made by the program, for studies; n is data.length, V data.vocab, symbols are 0 .. V - 1, all
 * draws are uniform and independent, and every training sample is a new one:
 *
 *   lag          (decoder, V tokens) symbols at all positions; the label of position i >= data.lag is the token at i -
 *                data.lag, earlier ones are not counted. A window of data.lag positions solves it, a smaller one cannot in
 *                one layer
 *   markers      (encoder, 6 tokens) position 0 holds the question 3, two of the other positions, p1 < p2 with p2 - p1 >=
 *                data.gap, each hold a marker of kind 1 or 2, the rest the filler 0. The one label, at position 0, is 4 when
 *                the markers are of different kinds, 5 when they are of the same. Position 0 is named as the sequence's
 *                global token (`global: task`). With the head class the answer is the sequence's label instead, 0 or 1
 *   recall       (encoder, V + K tokens, K = data.offsets) position 0 holds V + o, the rest symbols; with h = (n - 1) / 2
 *                rounded down, the label of each of the last h positions is the token (o + 1) (h / K) positions before it,
 *                h / K rounded down. Each answer is one of h symbols that nothing tells but the position itself: k < h
 *                summaries of the sequence cannot hold them
 *
 * A token is a function of (seed, split, sample, position), so each rank makes only its own rows. */
#include "core/layout.h"
#include "experiments/config.h"
#include "parallel/comm.h"

typedef enum lh_split { LH_SPLIT_TRAIN, LH_SPLIT_VALID, LH_SPLIT_TEST, LH_SPLITS } lh_split;

typedef struct lh_task lh_task;

/* lh_task_vocab - number of tokens of a task. lh_task_classes - number of classes of a task with one
 * label for each sequence, which needs the head class; 0: labels by position. lh_task_globals - global
 * tokens that it names in each sequence. lh_task_made - is it made by the program, without files?
 * Local. */
int64_t lh_task_vocab(const lh_config *config);
int64_t lh_task_classes(const lh_config *config);
int64_t lh_task_globals(const lh_config *config);
bool lh_task_made(const lh_config *config);

/* lh_task_open - open the files that the configuration names.
 * Collective on comm. Borrows config. The caller destroys *out (local).
 * Errors: agreed LH_ERR_USAGE (missing, a folder, not readable, too short: with the key and what to
 * do), LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_task_open(lh_comm *comm, const lh_config *config, lh_task **out);
/* lh_task_close - release it and null the handle. Local. */
void lh_task_close(lh_task **task);

/* lh_task_windows - windows of a split (0: there is no such split; INT64_MAX: without end).
 * Local. */
int64_t lh_task_windows(const lh_task *t, lh_split split);

/* lh_task_bytes - size of the training file; 0: there is none. Local. */
int64_t lh_task_bytes(const lh_task *t);

/* lh_task_order - the window that is sample number `sample` (counted from the start of the run) of
 * training. Local, pure. */
int64_t lh_task_order(const lh_task *t, int64_t sample);

/* One sequence as one rank holds it. */
typedef struct lh_rows {
    int32_t *tokens, *labels; /* [rows of the rank]; out */
    /* [rows, 2]: first position and end of the row's document in the window; out, or NULL. Positions
     * that do not exist are one document by themselves. */
    int32_t *documents;
    int64_t *global;  /* [lh_task_globals]: positions of global tokens, ascending; out, or NULL */
    int64_t n_global; /* out, the same on all ranks */
    int64_t valid;    /* positions of the window that exist; out, the same on all ranks */
    int64_t counted;  /* labels among this rank's rows; out */
    /* class of the whole sequence, -1: none; out, the same on all ranks of the sequence. It is counted on
     * rank 0 of the sequence alone */
    int32_t sequence_label;
} lh_rows;

/* lh_task_read - the rows of `rank` of a window. draw: number that decides what is masked: the
 * sample number in training, the window in evaluation. window -1: no sequence at all (nothing
 * valid, nothing counted). Local. Errors: LH_ERR_IO, local: rows are then filled as for window -1. */
LH_NODISCARD lh_status lh_task_read(const lh_task *t, lh_split split, int64_t window, int64_t draw,
                                    const lh_layout *layout, int rank, lh_rows *out);
