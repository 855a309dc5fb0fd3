/* The single-stack transformers: decoder (causal) and encoder (bidirectional). They differ in who
 * sees whom. */
#include "models/block.h"

enum {
    TRANSFORMER_DROP_EMBEDDING = 0
}; /* dropout number of the embeddings; blocks use 1, 2, ... */
#define TRANSFORMER_ROTARY_BASE 10000.0

struct lh_model {
    const lh_model_desc *desc;
    lh_model_shape shape;
    lh_params *params;
    lh_plan_cache *plans;
    uint64_t seed;
    int recompute;
    lh_param *tokens, *positions, *head;
    lh_moves *moves; /* of positions, when the sequence is shorter than their table; else NULL */
    lhi_linear embedding_norm, final_norm;
    lhi_block *block; /* [layers] */
};

lh_status lh_model_resolve(lh_model_desc *d, int64_t vocab)
{
    lh_status st = LH_OK;
    if (d->vocab == LH_AUTO) d->vocab = vocab;
    if (d->kv_heads == LH_AUTO) d->kv_heads = d->heads;
    LH_CHECK(d->head_width != LH_AUTO || d->width % d->heads == 0, LH_ERR_USAGE,
             "model.width %lld is no multiple of model.heads %lld: change one of them or give "
             "model.head_width",
             (long long)d->width, (long long)d->heads);
    if (d->head_width == LH_AUTO) d->head_width = d->width / d->heads;
    if (d->mlp_width == LH_AUTO) d->mlp_width = 4 * d->width;
    LH_CHECK(vocab <= d->vocab, LH_ERR_USAGE,
             "model.vocab is %lld but the task has %lld tokens: leave model.vocab out, or raise it",
             (long long)d->vocab, (long long)vocab);
    LH_CHECK(d->kv_heads > 0 && d->heads % d->kv_heads == 0, LH_ERR_USAGE,
             "model.heads %lld is no multiple of model.kv_heads %lld", (long long)d->heads,
             (long long)d->kv_heads);
    LH_CHECK(d->position != LH_POSITION_RELATIVE || d->width % 2 == 0, LH_ERR_USAGE,
             "relative positions are pairs of sines and cosines: model.width %lld must be even",
             (long long)d->width);
    LH_CHECK(d->position != LH_POSITION_ROTARY || d->head_width % 2 == 0, LH_ERR_USAGE,
             "rotary positions turn pairs: model.head_width %lld must be even",
             (long long)d->head_width);
done:
    return st;
}

/* How tables by position lie. */
static const lh_layout *transformer_table(const lh_model_shape *shape)
{
    return shape->table != NULL ? shape->table : shape->layout;
}

static lh_attn_desc transformer_attn(const lh_model_desc *d, const lh_model_shape *shape, int layer)
{
    return (lh_attn_desc){.layer = layer,
                          .width = d->width,
                          .heads = d->heads,
                          .kv_heads = d->kv_heads,
                          .head_width = d->head_width,
                          .causal = d->kind == LH_MODEL_DECODER,
                          .bias = d->bias,
                          .batch = shape->batch,
                          .length = shape->length,
                          .layout = shape->layout,
                          .max_length = transformer_table(shape)->n,
                          .table = transformer_table(shape),
                          .spread = shape->spread,
                          .relative = d->position == LH_POSITION_RELATIVE,
                          .documents = shape->documents,
                          .max_global = shape->max_global,
                          .settings = d->attention[layer].settings};
}

static lh_status transformer_declare_attention(const lh_model_desc *d, const lh_model_shape *shape,
                                               int layer, lh_params *params)
{
    const lh_attn_ops *ops = d->attention[layer].ops;
    lh_attn_desc a = transformer_attn(d, shape, layer);
    lh_status st = lh_attn_check(ops, &a);
    if (st == LH_OK) st = ops->parameters(&a, params);
    return lh_error_context(st, "layer %d", layer);
}

lh_status lh_model_declare(const lh_model_desc *d, const lh_model_shape *shape, lh_params *params)
{
    lh_status st = LH_OK;
    const lh_place everywhere = lh_place_replicated();
    const double std = 0.02; /* as GPT-2 */
    LH_TRY(lh_params_add(params, "embedding.token.weight", lh_shape_2(LH_REAL, d->vocab, d->width),
                         everywhere, LH_INIT_NORMAL, std, NULL));
    if (d->position == LH_POSITION_LEARNED)
        LH_TRY(lh_params_add(params, "embedding.position.weight",
                             lh_shape_2(LH_REAL, transformer_table(shape)->n, d->width),
                             lh_place_rows(transformer_table(shape)), LH_INIT_NORMAL, std, NULL));
    if (d->norm == LH_NORM_POST) LH_TRY(lhi_norm_declare(d, "embedding.norm", params));
    for (int l = 0; l < d->layers; l++) {
        LH_TRY(lhi_block_declare(d, l, params));
        LH_TRY(transformer_declare_attention(d, shape, l, params));
    }
    if (d->norm == LH_NORM_PRE) LH_TRY(lhi_norm_declare(d, "final.norm", params));
    if (d->head == LH_HEAD_LM && !d->tie_embeddings)
        LH_TRY(lh_params_add(params, "head.weight", lh_shape_2(LH_REAL, d->vocab, d->width),
                             everywhere, LH_INIT_NORMAL, std, NULL));
done:
    return st;
}

/* Do rows of tables by position belong elsewhere than where the table holds them? */
static bool transformer_moves(const lh_model_desc *d, const lh_model_shape *shape)
{
    return d->position == LH_POSITION_LEARNED && transformer_table(shape) != shape->layout;
}

static lh_status transformer_find(lh_model *m)
{
    lh_status st = LH_OK;
    const lh_model_desc *d = m->desc;
    m->tokens = lh_params_find(m->params, "embedding.token.weight");
    m->positions = lh_params_find(m->params, "embedding.position.weight");
    m->head = d->tie_embeddings ? m->tokens : lh_params_find(m->params, "head.weight");
    LH_CHECK(m->tokens != NULL && (m->positions != NULL || d->position != LH_POSITION_LEARNED),
             LH_ERR_BUG, "the model's parameters were not declared");
    LH_CHECK(m->positions == NULL || m->positions->whole.dim[0] >= m->shape.length, LH_ERR_USAGE,
             "learned positions exist for %lld positions; data.length is %lld: shorten it, or use "
             "rotary positions",
             (long long)m->positions->whole.dim[0], (long long)m->shape.length);
    if (d->norm == LH_NORM_POST)
        LH_TRY(lhi_linear_find(m->params, "embedding.norm", &m->embedding_norm));
    else
        LH_TRY(lhi_linear_find(m->params, "final.norm", &m->final_norm));
done:
    return st;
}

lh_status lh_model_create(const lh_model_desc *desc, const lh_model_shape *shape, lh_params *params,
                          uint64_t seed, int recompute, lh_model **out)
{
    lh_status st = LH_OK;
    lh_model *m = NULL;
    *out = NULL;
    LH_TRY(lh_new(sizeof *m, &m));
    m->desc = desc;
    m->shape = *shape;
    m->params = params;
    m->seed = seed;
    m->recompute = recompute;
    LH_TRY(lh_new((size_t)desc->layers * sizeof *m->block, &m->block));
    LH_TRY(lh_plan_cache_create(&m->plans));
    LH_TRY(transformer_find(m));
    if (transformer_moves(desc, shape))
        LH_TRY(lh_moves_create(shape->table, shape->layout, params->coord[LH_AXIS_SEQ], &m->moves));
    for (int l = 0; l < desc->layers; l++) {
        lh_attn_desc a = transformer_attn(desc, shape, l);
        a.seed = seed;
        a.params = params;
        LH_TRY(lhi_block_find(desc, l, params, &m->block[l]));
        LH_TRY(desc->attention[l].ops->create(&a, &m->block[l].attention));
    }
    *out = m;
    m = NULL;
done:
    lh_model_destroy(&m);
    return st;
}

void lh_model_destroy(lh_model **model)
{
    lh_model *m = *model;
    if (m == NULL) return;
    for (int l = 0; m->block != NULL && l < m->desc->layers; l++)
        if (m->block[l].attention != NULL)
            m->desc->attention[l].ops->destroy(&m->block[l].attention);
    lh_free(&m->block);
    lh_plan_cache_destroy(&m->plans);
    lh_moves_destroy(&m->moves);
    lh_free(model);
}

/* Token embeddings and positions. */
static lh_status transformer_embed(lh_model *m, lhi_pass *pass, const lh_batch *batch, lh_var *x)
{
    lh_status st = LH_OK;
    lh_tape *t = pass->tape;
    lh_var ids = {0};
    lh_var table = {0};
    int64_t rows = m->shape.layout->rows[lh_tape_coord(t, LH_AXIS_SEQ)];
    LH_TRY(lh_tape_input(t, batch->tokens, lh_shape_2(LH_INT32, m->shape.batch, rows),
                         lh_place_tokens(m->shape.layout), &ids));
    LH_TRY(lh_tape_param(t, m->tokens, &table));
    LH_TRY(lh_embedding(t, ids, table, x));
    if (m->desc->position == LH_POSITION_LEARNED) {
        LH_TRY(lh_tape_param(t, m->positions, &table));
        if (m->moves != NULL)
            LH_TRY(lh_move_rows(t, pass->qkv.mesh->axis[LH_AXIS_SEQ], m->moves, table, &table));
        LH_TRY(lh_position_add(t, *x, table, x));
    } else if (m->desc->position == LH_POSITION_SINUSOIDAL) {
        LH_TRY(lh_sinusoid_add(t, *x, batch->documents, x));
    } else if (m->desc->position == LH_POSITION_ROTARY) {
        LH_TRY(
            lh_rotary_angles(t, *x, m->desc->head_width, TRANSFORMER_ROTARY_BASE, &pass->angles));
    }
    if (m->desc->norm == LH_NORM_POST) LH_TRY(lhi_norm_forward(pass, &m->embedding_norm, *x, x));
    LH_TRY(lhi_drop(pass, TRANSFORMER_DROP_EMBEDDING, *x, x));
done:
    return st;
}

lh_status lh_model_hidden(lh_model *m, lh_tape *t, lh_mesh *mesh, const lh_batch *batch, lh_var *y)
{
    lh_status st = LH_OK;
    lh_var x = {0};
    lhi_pass pass = {.desc = m->desc, .tape = t};
    pass.qkv = (lh_qkv){.valid = batch->valid,
                        .documents = batch->documents,
                        .spread_documents = batch->spread_documents,
                        .global = batch->global,
                        .mesh = mesh,
                        .plans = m->plans};
    pass.dropout = (lh_dropout_desc){.rate = batch->training ? m->desc->dropout : 0.0,
                                     .seed = m->seed,
                                     .first_sequence = batch->first_sequence};
    lh_plan_cache_step(m->plans);
    LH_TRY(transformer_embed(m, &pass, batch, &x));
    for (int l = 0; l < m->desc->layers; l++) {
        lh_tape_part(t, 1 + l);
        if (m->recompute == LH_RECOMPUTE_BLOCK) LH_TRY(lh_tape_segment_begin(t));
        LH_TRY(lhi_block_forward(&pass, &m->block[l], l, x, &x));
        if (m->recompute == LH_RECOMPUTE_BLOCK) LH_TRY(lh_tape_segment_end(t));
    }
    lh_tape_part(t, 0);
    if (m->desc->norm == LH_NORM_PRE) LH_TRY(lhi_norm_forward(&pass, &m->final_norm, x, &x));
    *y = x;
done:
    return st;
}

lh_status lh_model_loss(lh_model *m, lh_tape *t, lh_mesh *mesh, const lh_batch *batch, lh_var *loss,
                        lh_var *correct)
{
    lh_status st = LH_OK;
    lh_var x = {0};
    lh_var head = {0};
    lh_var labels = {0};
    LH_CHECK(m->head != NULL, LH_ERR_USAGE,
             "a model with head: none has no loss: set model.head: lm");
    LH_TRY(lh_model_hidden(m, t, mesh, batch, &x));
    const lh_shape *s = lh_var_shape(t, x);
    LH_TRY(lh_tape_input(t, batch->labels, lh_shape_2(LH_INT32, s->dim[0], s->dim[1]),
                         *lh_var_place(t, x), &labels));
    LH_TRY(lh_tape_param(t, m->head, &head));
    LH_TRY(lh_lm_loss(t, x, head, labels, batch->loss_scale, loss, correct));
done:
    return st;
}

lh_status lh_model_begin_step(lh_model *m, int64_t step)
{
    lh_status st = LH_OK;
    for (int l = 0; l < m->desc->layers; l++) {
        const lh_attn_ops *ops = m->desc->attention[l].ops;
        if (ops->begin_step != NULL) LH_TRY(ops->begin_step(m->block[l].attention, step));
    }
done:
    return st;
}

const lh_model_shape *lh_model_shape_of(const lh_model *m)
{
    return &m->shape;
}

lh_cost lh_model_predict_tables(const lh_model_desc *d, const lh_model_shape *shape, int rank)
{
    const int64_t row = d->width * (int64_t)lh_dtype_bytes(LH_REAL);
    int64_t sent = 0;
    int64_t received = 0;
    if (transformer_moves(d, shape))
        lh_layout_moved(transformer_table(shape), shape->layout, rank, &sent, &received);
    return (lh_cost){.forward_bytes = sent * row, .backward_bytes = received * row};
}

lh_status lh_model_predict(const lh_model_desc *d, const lh_model_shape *shape, int ranks, int rank,
                           lh_cost *layer)
{
    lh_status st = LH_OK;
    for (int l = 0; l < d->layers; l++) {
        lh_attn_desc a = transformer_attn(d, shape, l);
        LH_TRY(d->attention[l].ops->predict(&a, ranks, rank, &layer[l]));
    }
done:
    return st;
}
