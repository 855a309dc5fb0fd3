#pragma once
/* Models: a description from the experiment file, declared as parameters and recorded on the tape.
 *
 *   decoder  causal language model (GPT-like, Radford et al. 2019; RMS norm, SwiGLU and rotary as in Llama and Mistral)
 *   encoder  bidirectional (BERT-like, Devlin et al. 2018)
 *
 * A block, norm: pre:   x = x + attention(norm(x));  x = x + mlp(norm(x));   final.norm before the
 * head
 *          norm: post:  x = norm(x + attention(x));  x = norm(x + mlp(x));   embedding.norm after
 * the embeddings
 *
 * The head, with x what follows the last block and norm:
 *
 *   lm      logits of each position: W x; transform: W norm(gelu(T x)) + b (BERT, RoBERTa). W is the
 *           token embedding unless untied
 *   class   p = the first position, or the mean of the valid ones; pooler: p = tanh(P p); logits of
 *           the sequence: C p + c
 *   pooler  tanh(P p), no loss (what BERT calls its pooled output)
 *   none    x itself, no loss
 */
#include "attention/attention.h"

typedef enum lh_model_kind { LH_MODEL_DECODER, LH_MODEL_ENCODER } lh_model_kind;
typedef enum lh_head_kind { LH_HEAD_LM, LH_HEAD_CLASS, LH_HEAD_POOLER, LH_HEAD_NONE } lh_head_kind;
typedef enum lh_pool_kind { LH_POOL_FIRST, LH_POOL_MEAN } lh_pool_kind;
typedef enum lh_norm_order { LH_NORM_PRE, LH_NORM_POST } lh_norm_order;
typedef enum lh_norm_kind { LH_NORM_LAYER, LH_NORM_RMS } lh_norm_kind;
typedef enum lh_position_kind {
    LH_POSITION_NONE,
    LH_POSITION_LEARNED,
    LH_POSITION_SINUSOIDAL,
    LH_POSITION_ROTARY,
    LH_POSITION_RELATIVE /* Dai et al. 2019: a term of the scores */
} lh_position_kind;
/* What the backward pass computes again instead of keeping it. What a norm makes is never kept, nor are
 * scores, nor features of Performer.
 *   attention  each layer's q, k, v and what is projected beside them, from the norm's input: the three
 *              projections and rotary positions. What takes long or sends messages is kept: the attention's output and
 *              log-sum-exp, received rows, summaries, landmarks. With exchange: ulysses q, k and v travel
 *              to their heads again.
 *   block      whole layers, from their inputs: attention with its messages, and the MLP */
typedef enum lh_recompute_kind {
    LH_RECOMPUTE_NONE,
    LH_RECOMPUTE_ATTENTION,
    LH_RECOMPUTE_BLOCK
} lh_recompute_kind;

/* One layer's mechanism and its settings struct (as declared by the mechanism's table; owned by the
 * description). */
typedef struct lh_attn_choice {
    const lh_attn_ops *ops;
    void *settings;
} lh_attn_choice;

enum { LH_MAX_LAYERS = 512 };

typedef struct lh_model_desc {
    int kind, head;  /* lh_model_kind, lh_head_kind: int because CHOICE fields are int */
    int64_t vocab;   /* LH_AUTO: from the task */
    int pool;        /* lh_pool_kind, of heads class and pooler */
    int64_t classes; /* head class; LH_AUTO: from the task */
    bool pooler, head_transform;
    int64_t layers, width, heads;
    int64_t kv_heads;   /* LH_AUTO: heads */
    int64_t head_width; /* LH_AUTO: width / heads */
    int mlp;            /* lh_act_kind */
    int64_t mlp_width;  /* LH_AUTO: 4 width */
    int norm, norm_kind, position;
    bool tie_embeddings, bias;
    int64_t max_length; /* positions that tables by position are made for; LH_AUTO: data.length */
    int64_t position_offset; /* unused rows in front of learned positions (RoBERTa: 2) */
    int64_t token_types;     /* rows of a table whose row 0 is added to all tokens; 0: none */
    double norm_eps;         /* 0: 1e-5 */
    double rotary_base;      /* 0: 10000 */
    double dropout;
    lh_attn_choice attention[LH_MAX_LAYERS]; /* [layers] */
} lh_model_desc;

/* The shape in which a model runs. */
typedef struct lh_model_shape {
    int64_t batch;           /* sequences per data rank and forward pass */
    int64_t length;          /* positions */
    const lh_layout *layout; /* of the sequence; borrowed as long as the model lives */
    /* of desc->max_length positions; NULL or layout when the length is that */
    const lh_layout *table;
    /* attention by heads, of layout; NULL: as it lies. Borrowed likewise */
    const lh_spread *spread;
    bool documents;     /* sequences are packed documents */
    int64_t max_global; /* global tokens of a sequence that the task may name */
    lh_dtype store;     /* of the tape that records it: LH_REAL, LH_BF16 (lh_tape_store) */
} lh_model_shape;

/* One batch: device memory [B, s] of int32, borrowed until the tape is reset. */
typedef struct lh_batch {
    const void *tokens, *labels; /* labels: -1 is not counted */
    const void *sequence_labels; /* head class: device [B] of int32, instead of labels */
    const int64_t *valid;        /* host [B]: positions that exist in each sequence; NULL: all */
    /* host [B, s, 2]: first position and end of the document of each own row; NULL: none */
    const int32_t *documents;
    /* the same for the rows of shape.spread->to, if there is one */
    const int32_t *spread_documents;
    const lh_row_list *global; /* global tokens named by the task; NULL: none */
    double loss_scale;         /* 1 / number of counted labels over all ranks */
    int64_t first_sequence;    /* running number of the first sequence, for dropout */
    bool training;             /* dropout acts */
} lh_batch;

typedef struct lh_model lh_model;

/* lh_model_resolve - fill what was left to be derived (kv_heads, head_width, mlp_width) and check
 * it. vocab, classes: of the task (classes 0: its labels are by position). Local. Errors:
 * LH_ERR_USAGE with what to change. */
LH_NODISCARD lh_status lh_model_resolve(lh_model_desc *desc, int64_t vocab, int64_t classes);

/* lh_model_has_loss - does its head have one, so that it can be trained? Local, pure. */
bool lh_model_has_loss(const lh_model_desc *desc);

/* lh_model_declare - declare the model's parameters for sequences lying by shape->layout. Local,
 * once per parameter set. Errors: LH_ERR_UNSUP (a mechanism refuses), LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_model_declare(const lh_model_desc *desc, const lh_model_shape *shape,
                                        lh_params *params);

/* lh_model_create - a model over declared parameters in one shape; several shapes may share
 * parameters. Local. Borrows desc, shape->layout and params. recompute: lh_recompute_kind. The
 * caller destroys *out. */
LH_NODISCARD lh_status lh_model_create(const lh_model_desc *desc, const lh_model_shape *shape,
                                       lh_params *params, uint64_t seed, int recompute,
                                       lh_model **out);
/* lh_model_destroy - release it (not its parameters) and null the handle. Local. */
void lh_model_destroy(lh_model **model);

/* lh_model_shape_of - the shape that a model was created with. Local. Borrowed. */
const lh_model_shape *lh_model_shape_of(const lh_model *m);

/* lh_model_hidden - record the model up to its last norm: y [B, s, E]. Layer l is part 1 + l of the
 * tape, the rest is part 0.
 * lh_model_output - and what the head says without labels: class: logits [B, 1, classes]; pooler: [B,
 * 1, E], both replicated along the sequence; lm, none: the hidden states.
 * lh_model_loss - or the loss: mean cross-entropy as this rank's part of it (PARTIAL), and the
 * number of right answers. mesh: real or counting, of the shape that the layout has. Collective
 * along the sequence. */
LH_NODISCARD lh_status lh_model_hidden(lh_model *m, lh_tape *t, lh_mesh *mesh,
                                       const lh_batch *batch, lh_var *y);
LH_NODISCARD lh_status lh_model_output(lh_model *m, lh_tape *t, lh_mesh *mesh,
                                       const lh_batch *batch, lh_var *y);
LH_NODISCARD lh_status lh_model_loss(lh_model *m, lh_tape *t, lh_mesh *mesh, const lh_batch *batch,
                                     lh_var *loss, lh_var *correct);

/* lh_model_begin_step - optimiser step `step` (0, 1, ...) of training begins: what is drawn again
 * every so many steps is drawn. Local. */
LH_NODISCARD lh_status lh_model_begin_step(lh_model *m, int64_t step);

/* lh_model_draw - add the pictures of one layer's head groups. t: holds the model, recorded without an
 * exchange of heads, which ways ranks at a time have all the same where the mechanism can; 1: none.
 * label: mechanism and settings. Local. Errors: LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_model_draw(const lh_model *m, const lh_tape *t, int layer, int ways,
                                     const char *label, lh_picture *p);

/* lh_model_predict_rest - bytes of what belongs to no layer, by formula: learned positions that are
 * laid out anew because the sequence is shorter than max_length (forward_bytes, backward_bytes), and
 * what heads class and pooler know of a sequence (summary_bytes). Local. */
lh_cost lh_model_predict_rest(const lh_model_desc *desc, const lh_model_shape *shape, int ranks,
                              int rank);

/* lh_model_predict - layer [layers] out: cost of one forward and backward pass of each layer'
 * attention for one rank, by formula. Local. */
LH_NODISCARD lh_status lh_model_predict(const lh_model_desc *desc, const lh_model_shape *shape,
                                        int ranks, int rank, lh_cost *layer);
