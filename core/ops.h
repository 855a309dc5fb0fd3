#pragma once
/* Operations of the tape that need no message. Values of tokens are [B, s, ...]: B sequences of
 * this data rank, s local positions; they run chunk by chunk (layout.h), and weight gradients are
 * summed chunk by chunk. Every function records one operation; Local; errors: LH_ERR_BUG for shapes
 * or placements that do not fit. */
#include "core/tape.h"

/* lh_embedding - y [B, s, E] = table [V, E] at ids [B, s] (int32). */
LH_NODISCARD lh_status lh_embedding(lh_tape *t, lh_var ids, lh_var table, lh_var *y);

/* lh_position_add - y = x [B, s, E] + table [s, E], a parameter sharded by position like x (learned
 * positions). */
LH_NODISCARD lh_status lh_position_add(lh_tape *t, lh_var x, lh_var table, lh_var *y);

/* lh_sinusoid_add - y = x [B, s, E] + sinusoids of the positions (Vaswani et al. 2017, section
 * 3.5). documents: host [B, s, 2], first position and end of each row's document, in which positions
 * begin anew; NULL: none. Borrowed until the tape is reset. */
LH_NODISCARD lh_status lh_sinusoid_add(lh_tape *t, lh_var x, const int32_t *documents, lh_var *y);

/* lh_rotary_angles - table [s, width / 2, 2] for the positions of layout; made once per step. like:
 * any value sharded by the layout. lh_rotary - y = x [B, s, H, D] rotated by its positions (Su et
 * al. 2021), pairs (i, i + D/2). */
LH_NODISCARD lh_status lh_rotary_angles(lh_tape *t, lh_var like, int64_t width, double base,
                                        lh_var *table);
LH_NODISCARD lh_status lh_rotary(lh_tape *t, lh_var x, lh_var table, lh_var *y);

/* lh_add - y = a + b, same shape and placement. */
LH_NODISCARD lh_status lh_add(lh_tape *t, lh_var a, lh_var b, lh_var *y);

/* lh_layer_norm, lh_rms_norm - over the last dimension; w, b [E]; b may be the null variable. */
LH_NODISCARD lh_status lh_layer_norm(lh_tape *t, lh_var x, lh_var w, lh_var b, double eps,
                                     lh_var *y);
LH_NODISCARD lh_status lh_rms_norm(lh_tape *t, lh_var x, lh_var w, double eps, lh_var *y);

/* lh_add_norm - sum = x + h, same shape and placement; y = its norm: the bits of lh_add and of
 * lh_layer_norm (rms: lh_rms_norm, b the null variable), but in one pass over memory. */
typedef struct lh_add_norm_in {
    lh_var x, h, w, b;
    double eps;
    bool rms;
} lh_add_norm_in;
LH_NODISCARD lh_status lh_add_norm(lh_tape *t, const lh_add_norm_in *in, lh_var *sum, lh_var *y);

/* lh_dropout - inverted dropout with the mask of (seed, stream, global element): element e of
 * position p of sequence b is number ((first_sequence + b) n + p) E + e, so it does not depend on
 * the ranks. rate 0 records nothing: *y = x. */
typedef struct lh_dropout_desc {
    double rate;
    uint64_t seed, stream;
    int64_t first_sequence; /* running number of the batch's first sequence on this data rank */
} lh_dropout_desc;
LH_NODISCARD lh_status lh_dropout(lh_tape *t, lh_var x, const lh_dropout_desc *d, lh_var *y);

/* lh_activation - y = act(x), element by element: GELU, RELU or TANH. */
LH_NODISCARD lh_status lh_activation(lh_tape *t, lh_var x, lh_act_kind act, lh_var *y);

/* lh_linear - y [B, s, out] = x [B, s, in] w^T + b; w [out, in], b [out] or the null variable. */
LH_NODISCARD lh_status lh_linear(lh_tape *t, lh_var x, lh_var w, lh_var b, lh_var *y);

/* lh_mlp - y = down(act(up(x))), or SwiGLU: down(silu(gate(x)) * up(x)) (Shazeer 2020). Weights
 * [out, in]; biases and, but for SwiGLU, gate may be null variables. The values before the
 * activation are kept, the activation is not; in a segment that is recomputed, and without gradients, neither is:
 * both exist for one block of rows, and the backward pass computes them again, but not y. */
typedef struct lh_mlp_weights {
    lh_var up, up_bias, gate, gate_bias, down, down_bias;
} lh_mlp_weights;
LH_NODISCARD lh_status lh_mlp(lh_tape *t, lh_var x, const lh_mlp_weights *w, lh_act_kind act,
                              lh_var *y);

/* Rows at listed positions, a list for each sequence of the batch: global tokens. Host memory,
 * borrowed until the tape is reset; NULL arrays on the device `count`. */
typedef struct lh_row_list {
    int64_t max;             /* entries per sequence that are reserved: g */
    const int64_t *count;    /* [B], <= max */
    const int64_t *position; /* [B, max], ascending, the first count[b] of each */
} lh_row_list;

/* lh_take_rows - y [B, g, ...] = the rows of x [B, s, ...] at the listed positions: this rank's rows,
 * zeros for rows of other ranks and unused entries, so PARTIAL along the sequence; an all-reduce
 * makes them whole. lh_put_rows - y = x with the listed rows (own ones) replaced by those of r [B,
 * g, ...], replicated along the sequence. x is sharded by position. */
LH_NODISCARD lh_status lh_take_rows(lh_tape *t, lh_var x, const lh_row_list *rows, lh_var *y);
LH_NODISCARD lh_status lh_put_rows(lh_tape *t, lh_var x, lh_var r, const lh_row_list *rows,
                                   lh_var *y);

/* lh_mean_rows - y [B, 1, ...] = the mean of the rows of x [B, s, ...] at positions before valid[b]
 * (host [B], borrowed until the tape is reset; NULL: all): this rank's part of it, so PARTIAL along
 * the sequence; an all-reduce makes it whole. 0 for a sequence without valid positions. x is sharded
 * by position. */
LH_NODISCARD lh_status lh_mean_rows(lh_tape *t, lh_var x, const int64_t *valid, lh_var *y);

/* lh_add_bias - y = x [..., W] + b [W]; the last dimensions of x may be split: b has as many elements
 * as some of them together. b is replicated. lh_add_row - b is row `row` of a table [rows, W]. */
LH_NODISCARD lh_status lh_add_bias(lh_tape *t, lh_var x, lh_var b, lh_var *y);
LH_NODISCARD lh_status lh_add_row(lh_tape *t, lh_var x, lh_var table, int64_t row, lh_var *y);

/* lh_lm_loss - softmax cross-entropy of logits x w^T + b against labels [B, s] (int32, -1: not
 * counted), chunk by chunk, so that logits for all tokens never exist. loss: f64, scale times the
 * sum over this rank's labels (scale: 1 / number of labels over all ranks), PARTIAL; correct: f64,
 * number of rows whose largest logit is the label, PARTIAL. w [V, E]; b [V] or the null variable.
 * Along an axis on which x is whole, such as summaries of sequences, the first rank alone counts it,
 * so that the sum over ranks has it once. */
LH_NODISCARD lh_status lh_lm_loss(lh_tape *t, lh_var x, lh_var w, lh_var b, lh_var labels,
                                  double scale, lh_var *loss, lh_var *correct);
