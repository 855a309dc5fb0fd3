/* The single-stack transformers: decoder (causal) and encoder (bidirectional). They differ in who
 * sees whom. */
#include "attention/attend.h"
#include "models/block.h"

enum {
    TRANSFORMER_DROP_EMBEDDING = 0
};                                      /* dropout number of the embeddings; blocks use 1, 2, ... */
#define TRANSFORMER_ROTARY_BASE 10000.0 /* unless the model says otherwise */

struct lh_model {
    const lh_model_desc *desc;
    lh_model_shape shape;
    lh_params *params;
    lh_plan_cache *plans;
    uint64_t seed;
    int recompute;
    lh_param *tokens, *positions, *types;
    lhi_head head;
    lh_moves *moves; /* of positions, when the sequence is shorter than their table; else NULL */
    lhi_linear embedding_norm, final_norm;
    lhi_block *block; /* [layers] */
};

bool lh_model_has_loss(const lh_model_desc *d)
{
    return d->head == LH_HEAD_LM || d->head == LH_HEAD_CLASS;
}

/* Classes of the head and of the task. */
static lh_status transformer_classes(lh_model_desc *d, int64_t classes)
{
    lh_status st = LH_OK;
    if (d->head != LH_HEAD_CLASS) goto done;
    if (d->classes == LH_AUTO) d->classes = classes;
    LH_CHECK(d->classes > 0, LH_ERR_USAGE,
             "model.head class: the task has no classes; give model.classes, or another data.task");
    LH_CHECK(d->classes >= classes, LH_ERR_USAGE,
             "model.classes is %lld but the task has %lld: leave model.classes out, or raise it",
             (long long)d->classes, (long long)classes);
done:
    return st;
}

lh_status lh_model_resolve(lh_model_desc *d, int64_t vocab, int64_t classes)
{
    lh_status st = LH_OK;
    LH_TRY(transformer_classes(d, classes));
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

/* Can the layer's attention run by heads? Else it keeps its own exchange. */
static bool transformer_spreads(const lh_model_desc *d, int layer)
{
    return (d->attention[layer].ops->caps & LH_ATTN_SPREAD) != 0;
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
                          .spread = transformer_spreads(d, layer) ? shape->spread : NULL,
                          .relative = d->position == LH_POSITION_RELATIVE,
                          .documents = shape->documents,
                          .max_global = shape->max_global,
                          .wire = shape->store,
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

/* A table of rows as wide as the model. */
static lh_status transformer_declare_table(const lh_model_desc *d, const char *name, int64_t rows,
                                           lh_place place, lh_params *params)
{
    return lh_params_add(params, name, lh_shape_2(LH_REAL, rows, d->width), place, LH_INIT_NORMAL,
                         LHI_TABLE_STD, NULL);
}

static lh_status transformer_declare_embeddings(const lh_model_desc *d, const lh_model_shape *shape,
                                                lh_params *p)
{
    lh_status st = LH_OK;
    const lh_layout *table = transformer_table(shape);
    const lh_place everywhere = lh_place_replicated();
    bool learned = d->position == LH_POSITION_LEARNED;
    LH_TRY(transformer_declare_table(d, "embedding.token.weight", d->vocab, everywhere, p));
    if (learned)
        LH_TRY(transformer_declare_table(d, "embedding.position.weight", table->n,
                                         lh_place_rows(table), p));
    if (learned && d->position_offset > 0)
        LH_TRY(transformer_declare_table(d, "embedding.unused_position.weight", d->position_offset,
                                         everywhere, p));
    if (d->token_types > 0)
        LH_TRY(transformer_declare_table(d, "embedding.token_type.weight", d->token_types,
                                         everywhere, p));
    if (d->norm == LH_NORM_POST) LH_TRY(lhi_norm_declare(d, "embedding.norm", p));
done:
    return st;
}

lh_status lh_model_declare(const lh_model_desc *d, const lh_model_shape *shape, lh_params *params)
{
    lh_status st = LH_OK;
    LH_TRY(transformer_declare_embeddings(d, shape, params));
    for (int l = 0; l < d->layers; l++) {
        LH_TRY(lhi_block_declare(d, l, params));
        LH_TRY(transformer_declare_attention(d, shape, l, params));
    }
    if (d->norm == LH_NORM_PRE) LH_TRY(lhi_norm_declare(d, "final.norm", params));
    LH_TRY(lhi_head_declare(d, params));
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
    m->types = lh_params_find(m->params, "embedding.token_type.weight");
    LH_TRY(lhi_head_find(d, m->params, m->shape.batch, &m->head));
    LH_CHECK(m->tokens != NULL && (m->positions != NULL || d->position != LH_POSITION_LEARNED) &&
                 (m->types != NULL || d->token_types == 0),
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
    lh_free(&m->head.first);
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
        double base = m->desc->rotary_base > 0.0 ? m->desc->rotary_base : TRANSFORMER_ROTARY_BASE;
        LH_TRY(lh_rotary_angles(t, *x, m->desc->head_width, base, &pass->angles));
    }
    if (m->types != NULL) {
        LH_TRY(lh_tape_param(t, m->types, &table));
        LH_TRY(lh_add_row(t, *x, table, 0, x));
    }
    if (m->desc->norm == LH_NORM_POST) LH_TRY(lhi_norm_forward(pass, &m->embedding_norm, *x, x));
    LH_TRY(lhi_drop(pass, TRANSFORMER_DROP_EMBEDDING, *x, x));
done:
    return st;
}

/* What one forward pass shares. */
static lhi_pass transformer_pass(lh_model *m, lh_tape *t, lh_mesh *mesh, const lh_batch *batch)
{
    lhi_pass pass = {.desc = m->desc, .tape = t, .light = m->recompute == LH_RECOMPUTE_ATTENTION};
    pass.qkv = (lh_qkv){.valid = batch->valid,
                        .documents = batch->documents,
                        .spread_documents = batch->spread_documents,
                        .global = batch->global,
                        .mesh = mesh,
                        .plans = m->plans};
    pass.dropout = (lh_dropout_desc){.rate = batch->training ? m->desc->dropout : 0.0,
                                     .seed = m->seed,
                                     .first_sequence = batch->first_sequence};
    return pass;
}

static lh_status transformer_hidden(lh_model *m, lhi_pass *pass, const lh_batch *batch, lh_var *y)
{
    lh_status st = LH_OK;
    lh_var x = {0};
    lh_tape *t = pass->tape;
    lh_plan_cache_step(m->plans);
    LH_TRY(transformer_embed(m, pass, batch, &x));
    for (int l = 0; l < m->desc->layers; l++) {
        lh_tape_part(t, 1 + l);
        if (m->recompute == LH_RECOMPUTE_BLOCK) LH_TRY(lh_tape_segment_begin(t));
        LH_TRY(lhi_block_forward(pass, &m->block[l], l, x, &x));
        if (m->recompute == LH_RECOMPUTE_BLOCK) LH_TRY(lh_tape_segment_end(t));
    }
    lh_tape_part(t, 0);
    if (m->desc->norm == LH_NORM_PRE) LH_TRY(lhi_norm_forward(pass, &m->final_norm, x, &x));
    *y = x;
done:
    return st;
}

lh_status lh_model_hidden(lh_model *m, lh_tape *t, lh_mesh *mesh, const lh_batch *batch, lh_var *y)
{
    lhi_pass pass = transformer_pass(m, t, mesh, batch);
    return transformer_hidden(m, &pass, batch, y);
}

lh_status lh_model_output(lh_model *m, lh_tape *t, lh_mesh *mesh, const lh_batch *batch, lh_var *y)
{
    lh_status st = LH_OK;
    lh_var x = {0};
    lhi_pass pass = transformer_pass(m, t, mesh, batch);
    LH_TRY(transformer_hidden(m, &pass, batch, &x));
    LH_TRY(lhi_head_output(&pass, &m->head, x, y));
done:
    return st;
}

lh_status lh_model_loss(lh_model *m, lh_tape *t, lh_mesh *mesh, const lh_batch *batch, lh_var *loss,
                        lh_var *correct)
{
    lh_status st = LH_OK;
    lh_var x = {0};
    lhi_pass pass = transformer_pass(m, t, mesh, batch);
    LH_CHECK(lh_model_has_loss(m->desc), LH_ERR_USAGE,
             "a model with head: pooler or none has no loss: set model.head: lm or class");
    LH_TRY(transformer_hidden(m, &pass, batch, &x));
    LH_TRY(lhi_head_loss(&pass, &m->head, batch, x, loss, correct));
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

lh_cost lh_model_predict_rest(const lh_model_desc *d, const lh_model_shape *shape, int ranks,
                              int rank)
{
    const int64_t row = d->width * (int64_t)lh_dtype_bytes(LH_REAL);
    int64_t sent = 0;
    int64_t received = 0;
    if (transformer_moves(d, shape))
        lh_layout_moved(transformer_table(shape), shape->layout, rank, &sent, &received);
    /* one row of each sequence is summed over ranks, and so is its gradient */
    int64_t pooled = lhi_head_pools(d) && ranks > 1 ? shape->batch * row : 0;
    return (lh_cost){.forward_bytes = sent * row,
                     .backward_bytes = received * row,
                     .summary_bytes = 2 * pooled,
                     .again_bytes = pooled};
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

lh_status lh_model_draw(const lh_model *m, const lh_tape *t, int layer, int ways, const char *label,
                        lh_picture *p)
{
    const lh_attn_ops *ops = m->desc->attention[layer].ops;
    const lh_attn_desc a = transformer_attn(m->desc, &m->shape, layer);
    lh_picture_layer(p, layer, transformer_spreads(m->desc, layer) ? ways : 1, label);
    if (ops->draw == NULL) return lh_picture_recorded(p, t, 1 + layer);
    return ops->draw(&a, m->shape.layout->ranks, p);
}
