#pragma once
/* The transformer block: attention and MLP, each with its norm and residual sum. */
#include "core/ops.h"
#include "core/random.h"
#include "models/model.h"

typedef struct lhi_linear {
    lh_param *weight, *bias; /* bias NULL: none */
} lhi_linear;

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
} lhi_pass;

/* lhi_block_declare - parameters of block `layer`. lhi_block_find - look them up again. Local. */
lh_status lhi_block_declare(const lh_model_desc *desc, int layer, lh_params *params);
lh_status lhi_block_find(const lh_model_desc *desc, int layer, const lh_params *params,
                         lhi_block *block);

/* lhi_block_forward - y = block(x). Collective along the sequence. */
lh_status lhi_block_forward(lhi_pass *pass, const lhi_block *block, int layer, lh_var x, lh_var *y);

/* lhi_norm_declare, lhi_norm_forward - a norm of the model's kind with parameters PREFIX.weight
 * and, if it has one, PREFIX.bias. */
lh_status lhi_norm_declare(const lh_model_desc *desc, const char *prefix, lh_params *params);
lh_status lhi_linear_find(const lh_params *params, const char *prefix, lhi_linear *out);
lh_status lhi_norm_forward(lhi_pass *pass, const lhi_linear *norm, lh_var x, lh_var *y);

/* lhi_drop - dropout number `use` of the model. */
lh_status lhi_drop(lhi_pass *pass, int use, lh_var x, lh_var *y);

/* The smallest variance that norms allow. */
#define LHI_NORM_EPS 1e-5
