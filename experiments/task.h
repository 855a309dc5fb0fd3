#pragma once
/* Tasks: what a model learns from, as windows of tokens and labels. Labels that are not counted are
 * -1. From files:
 *
 *   text         next byte: tokens are bytes (256); a window is `length` inputs plus one label
 *   masked_text  hidden bytes (Devlin et al. 2018, section 3.1): `mask` of the positions are chosen; of these 80 % become
 *                the mask token 256, 10 % a random byte, 10 % stay; only they have labels
 *
 *   tokens, masked_tokens   the same with the tokens of a token file (longhaul prepare; io/tokens.h), V of them: the mask is V
 *   fasta        next residue: records of a FASTA file, each a document that ends with token 0 (io/fasta.h)
 *
 * Without data.path, which only a configuration of LH_CONFIG_PLAN can lack, the tokens of such a task
 * are random: for measurements.
 *
 * The training part is cut into windows that do not overlap; the last one may be shorter. Each
 * epoch takes them in the order of a permutation that depends on the seed alone. Each rank reads
 * only its own rows.
 *
 * With data.documents a byte (a token) ends its document, to which it belongs. What follows it is not
 * predicted from it. Each row is told where its document begins and ends within the window; a rank
 * finds that by reading around its own rows, without a message, in any layout. Rotary and relative
 * positions see differences of positions only, so they need not begin anew; sinusoidal ones do.
 *
 * Made by the program, for studies; n is data.length, V data.vocab, symbols are 0 .. V - 1, all
 * draws are uniform and independent unless said otherwise, and every training sample is a new one:
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
 * Published ones, for a decoder or an encoder; only what is asked for has a label:
 *
 *   mqar           multi-query associative recall (Arora et al. 2023, zoology's generator), V tokens: D = data.pairs
 *                  different keys of 1 .. V/2 - 1, each followed by its value, different ones of V/2 .. V - 1; then each key
 *                  once more, at position 2 D + 2 (g - 1), with its value as label: places g = 1, 2, ... drawn without repetition in
 *                  proportion to g^(a - 1), a = 0.01. What is left holds any of the V tokens (data.filler random), or 0
 *   selective_copy (Gu and Dao 2023), V + 2 tokens: m = data.items symbols at random places among blanks V in the first n - m
 *                  positions; the last m hold V + 1, and ask for the symbols in order
 *   induction      induction heads (Olsson et al. 2022), V + 1 tokens: symbols, but V at a place s uniform in 0 .. n - 3 and at
 *                  the end, where the token at s + 1 is asked for
 *   needle         2 V + 1 tokens: as induction with the marker 2 V, but the token at s + 1 is one of V .. 2 V - 1, which occur
 *                  nowhere else. data.place: s is so many per cent of n - 3, to measure accuracy by depth
 *
 * And one with a class for each sequence (encoder with head class, 18 tokens, 10 classes):
 *
 *   listops        (Nangia and Bowman 2018; Long Range Arena's generator: listops.h): position 0 holds CLS, the sequence's
 *                  global token; then the tokens of a tree of data.tree_depth, data.tree_args, longer than data.longer_than, shorter
 *                  than data.shorter_than; what follows is padding. With data.path the examples of a token file instead, which hold CLS
 *
 * A token is a function of (seed, split, sample, position), so each rank makes only its own rows. Trees and draws without
 * repetition are made whole by every rank, once for a sample, in O(n) bytes. */
#include "core/layout.h"
#include "experiments/config.h"
#include "parallel/comm.h"

typedef enum lh_split { LH_SPLIT_TRAIN, LH_SPLIT_VALID, LH_SPLIT_TEST, LH_SPLITS } lh_split;

typedef struct lh_task lh_task;

/* lh_task_vocab - number of tokens of a task; 0: its file says it. lh_task_classes - number of classes of a task with one
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

/* lh_task_vocab_read - lh_task_vocab, also where the file says it. Local. */
int64_t lh_task_vocab_read(const lh_task *t, const lh_config *config);

/* What a loss is a mean over, and so how it is reported beside. */
typedef enum lh_unit {
    LH_UNIT_ANSWER, /* accuracy alone */
    LH_UNIT_BYTE,   /* bits per byte */
    LH_UNIT_TOKEN   /* perplexity: per word, per residue */
} lh_unit;

/* lh_task_unit - of the task's labels. Local. lh_unit_name - "answer", "byte", "token": static. */
lh_unit lh_task_unit(const lh_task *t);
const char *lh_unit_name(lh_unit unit);

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

/* What answers that need no model reach on a split: a result means something beside it. */
enum { LH_TASK_BASELINES = 4 };
typedef struct lh_task_baseline {
    const char *name; /* as metrics have it; static */
    double accuracy;
} lh_task_baseline;

/* lh_task_baselines - of a split; *n of them, 0 where a task has none. ListOps: the most frequent class;
 * the most frequent one of the first operator; one and two levels of the tree evaluated. Frequencies
 * are the split's own. Local: makes all the split's samples. Errors: LH_ERR_RANGE, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_task_baselines(const lh_task *t, lh_split split,
                                         lh_task_baseline out[LH_TASK_BASELINES], int *n);
