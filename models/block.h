#pragma once
/* The transformer block: attention and MLP, each with its norm and residual sum. */
#include "core/ops.h"
#include "core/random.h"
#include "models/model.h"

/* Standard deviation of embeddings at first, as GPT-2. */
#define LHI_TABLE_STD 0.02

typedef struct lhi_linear {
    lh_param *weight, *bias; /* bias NULL: none */
} lhi_linear;

/* What follows the last norm; NULL: the head has no such part. */
typedef struct lhi_head {
    lhi_linear pooler, classifier; /* of the sequence */
    lhi_linear transform, norm;    /* of each position */
    lhi_linear logits;             /* weight: the token embedding, or its own */
    int64_t *first;                /* [2, batch]: one row each, at position 0 */
    lh_row_list first_rows;        /* these, as a list */
} lhi_head;

typedef struct lhi_block {
    lhi_linear attention_norm, query, key, value, output;
    lhi_linear mlp_norm, up, gate, down;
    lh_param *relative_u, *relative_v, *relative_weight; /* relative positions; else NULL */
    void *attention;                                     /* the mechanism's state */
} lhi_block;

/* What blocks share during one forward pass. */
typedef struct lhi_pass {
    const lh_model_desc *desc;
    lh_tape *tape;
    lh_qkv qkv;              /* mesh, plans, valid; x, q, k, v per block */
    lh_var angles;           /* rotary; null variable: none */
    lh_dropout_desc dropout; /* rate 0: none; stream per use */
    bool light;              /* q, k, v of each layer are computed again */
} lhi_pass;

/* lhi_block_declare - parameters of block `layer`. lhi_block_find - look them up again. Local. */
lh_status lhi_block_declare(const lh_model_desc *desc, int layer, lh_params *params);
lh_status lhi_block_find(const lh_model_desc *desc, int layer, const lh_params *params,
                         lhi_block *block);

/* lhi_block_forward - y = block(x). Collective along the sequence. */
lh_status lhi_block_forward(lhi_pass *pass, const lhi_block *block, int layer, lh_var x, lh_var *y);

/* lhi_head_declare - parameters of the head. lhi_head_find - look them up again, for sequences of
 * `batch`; the caller releases head->first. Local. */
lh_status lhi_head_declare(const lh_model_desc *desc, lh_params *params);
lh_status lhi_head_find(const lh_model_desc *desc, const lh_params *params, int64_t batch,
                        lhi_head *head);

/* lhi_head_output, lhi_head_loss - as lh_model_output and lh_model_loss, from the hidden states x.
 * Collective along the sequence. */
lh_status lhi_head_output(lhi_pass *pass, const lhi_head *head, lh_var x, lh_var *y);
lh_status lhi_head_loss(lhi_pass *pass, const lhi_head *head, const lh_batch *batch, lh_var x,
                        lh_var *loss, lh_var *correct);

/* lhi_head_pools - does it make one row of each sequence? Local, pure. */
bool lhi_head_pools(const lh_model_desc *desc);

/* lhi_norm_declare, lhi_norm_forward - a norm of the model's kind with parameters PREFIX.weight
 * and, if it has one, PREFIX.bias. */
lh_status lhi_norm_declare(const lh_model_desc *desc, const char *prefix, lh_params *params);
lh_status lhi_linear_find(const lh_params *params, const char *prefix, lhi_linear *out);

/* lhi_linear_declare - PREFIX.weight [out, in], initially normal with standard deviation gain /
 * sqrt(in), and PREFIX.bias if the model has biases. lhi_linear_vars - its two variables; the null
 * variable where it has none. lhi_linear_forward - y = W x + b. */
lh_status lhi_linear_declare(const lh_model_desc *desc, const char *prefix, int64_t out, int64_t in,
                             double gain, lh_params *params);
lh_status lhi_linear_vars(lh_tape *t, const lhi_linear *l, lh_var *weight, lh_var *bias);
lh_status lhi_linear_forward(lhi_pass *pass, const lhi_linear *l, lh_var x, lh_var *y);
lh_status lhi_norm_forward(lhi_pass *pass, const lhi_linear *norm, lh_var x, lh_var *y);

/* lhi_drop - dropout number `use` of the model. */
lh_status lhi_drop(lhi_pass *pass, int use, lh_var x, lh_var *y);
