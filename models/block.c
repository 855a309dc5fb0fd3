#include "models/block.h"

#include <math.h>
#include <stdio.h>

enum { BLOCK_NAME = 96, BLOCK_PREFIX = 64 };
#define BLOCK_NORM_EPS 1e-5 /* unless the model says otherwise */

lh_status lhi_linear_declare(const lh_model_desc *desc, const char *prefix, int64_t out, int64_t in,
                             double gain, lh_params *params)
{
    lh_status st = LH_OK;
    char name[BLOCK_NAME];
    (void)snprintf(name, sizeof name, "%.64s.weight", prefix);
    LH_TRY(lh_params_add(params, name, lh_shape_2(LH_REAL, out, in), lh_place_replicated(),
                         LH_INIT_NORMAL, gain / sqrt((double)in), NULL));
    if (!desc->bias) goto done;
    (void)snprintf(name, sizeof name, "%.64s.bias", prefix);
    LH_TRY(lh_params_add(params, name, lh_shape_1(LH_REAL, out), lh_place_replicated(),
                         LH_INIT_ZERO, 0.0, NULL));
done:
    return st;
}

lh_status lhi_norm_declare(const lh_model_desc *desc, const char *prefix, lh_params *params)
{
    lh_status st = LH_OK;
    char name[BLOCK_NAME];
    (void)snprintf(name, sizeof name, "%.64s.weight", prefix);
    LH_TRY(lh_params_add(params, name, lh_shape_1(LH_REAL, desc->width), lh_place_replicated(),
                         LH_INIT_ONE, 0.0, NULL));
    if (!desc->bias || desc->norm_kind == LH_NORM_RMS) goto done;
    (void)snprintf(name, sizeof name, "%.64s.bias", prefix);
    LH_TRY(lh_params_add(params, name, lh_shape_1(LH_REAL, desc->width), lh_place_replicated(),
                         LH_INIT_ZERO, 0.0, NULL));
done:
    return st;
}

lh_status lhi_linear_find(const lh_params *params, const char *prefix, lhi_linear *out)
{
    char name[BLOCK_NAME];
    (void)snprintf(name, sizeof name, "%.64s.weight", prefix);
    out->weight = lh_params_find(params, name);
    if (out->weight == NULL) return LH_RAISE(LH_ERR_BUG, "parameter '%s' was not declared", name);
    (void)snprintf(name, sizeof name, "%.64s.bias", prefix);
    out->bias = lh_params_find(params, name);
    return LH_OK;
}

/* "layer.L.part" */
static const char *block_name(char *buf, int layer, const char *part)
{
    (void)snprintf(buf, BLOCK_PREFIX, "layer.%d.%s", layer, part);
    return buf;
}

/* Relative positions (Dai et al. 2019, section 3.3): the projection of the sinusoids, and the biases
 * u (content) and v (position), of each layer's own. */
static lh_status block_relative_declare(const lh_model_desc *d, int layer, lh_params *p)
{
    lh_status st = LH_OK;
    char n[BLOCK_PREFIX];
    int64_t q = d->heads * d->head_width;
    const lh_place everywhere = lh_place_replicated();
    LH_TRY(lh_params_add(p, block_name(n, layer, "attention.relative.weight"),
                         lh_shape_2(LH_REAL, q, d->width), everywhere, LH_INIT_NORMAL,
                         1.0 / sqrt((double)d->width), NULL));
    LH_TRY(lh_params_add(p, block_name(n, layer, "attention.relative.content_bias"),
                         lh_shape_1(LH_REAL, q), everywhere, LH_INIT_NORMAL, 0.02, NULL));
    LH_TRY(lh_params_add(p, block_name(n, layer, "attention.relative.position_bias"),
                         lh_shape_1(LH_REAL, q), everywhere, LH_INIT_NORMAL, 0.02, NULL));
done:
    return st;
}

lh_status lhi_block_declare(const lh_model_desc *d, int layer, lh_params *p)
{
    lh_status st = LH_OK;
    char n[BLOCK_PREFIX];
    double residual =
        1.0 / sqrt(2.0 * (double)d->layers); /* as GPT-2: the residual sum keeps its size */
    int64_t q = d->heads * d->head_width;
    int64_t kv = d->kv_heads * d->head_width;
    int64_t e = d->width;
    LH_TRY(lhi_norm_declare(d, block_name(n, layer, "attention.norm"), p));
    LH_TRY(lhi_linear_declare(d, block_name(n, layer, "attention.query"), q, e, 1.0, p));
    LH_TRY(lhi_linear_declare(d, block_name(n, layer, "attention.key"), kv, e, 1.0, p));
    LH_TRY(lhi_linear_declare(d, block_name(n, layer, "attention.value"), kv, e, 1.0, p));
    LH_TRY(lhi_linear_declare(d, block_name(n, layer, "attention.output"), e, q, residual, p));
    if (d->position == LH_POSITION_RELATIVE) LH_TRY(block_relative_declare(d, layer, p));
    LH_TRY(lhi_norm_declare(d, block_name(n, layer, "mlp.norm"), p));
    LH_TRY(lhi_linear_declare(d, block_name(n, layer, "mlp.up"), d->mlp_width, e, 1.0, p));
    if (d->mlp == LH_ACT_SWIGLU)
        LH_TRY(lhi_linear_declare(d, block_name(n, layer, "mlp.gate"), d->mlp_width, e, 1.0, p));
    LH_TRY(lhi_linear_declare(d, block_name(n, layer, "mlp.down"), e, d->mlp_width, residual, p));
done:
    return st;
}

static lh_status block_relative_find(const lh_params *p, int layer, lhi_block *b)
{
    char n[BLOCK_PREFIX];
    b->relative_weight = lh_params_find(p, block_name(n, layer, "attention.relative.weight"));
    b->relative_u = lh_params_find(p, block_name(n, layer, "attention.relative.content_bias"));
    b->relative_v = lh_params_find(p, block_name(n, layer, "attention.relative.position_bias"));
    if (b->relative_weight == NULL || b->relative_u == NULL || b->relative_v == NULL)
        return LH_RAISE(LH_ERR_BUG, "relative positions of layer %d were not declared", layer);
    return LH_OK;
}

lh_status lhi_block_find(const lh_model_desc *d, int layer, const lh_params *p, lhi_block *b)
{
    lh_status st = LH_OK;
    char n[BLOCK_PREFIX];
    LH_TRY(lhi_linear_find(p, block_name(n, layer, "attention.norm"), &b->attention_norm));
    LH_TRY(lhi_linear_find(p, block_name(n, layer, "attention.query"), &b->query));
    LH_TRY(lhi_linear_find(p, block_name(n, layer, "attention.key"), &b->key));
    LH_TRY(lhi_linear_find(p, block_name(n, layer, "attention.value"), &b->value));
    LH_TRY(lhi_linear_find(p, block_name(n, layer, "attention.output"), &b->output));
    LH_TRY(lhi_linear_find(p, block_name(n, layer, "mlp.norm"), &b->mlp_norm));
    LH_TRY(lhi_linear_find(p, block_name(n, layer, "mlp.up"), &b->up));
    if (d->mlp == LH_ACT_SWIGLU)
        LH_TRY(lhi_linear_find(p, block_name(n, layer, "mlp.gate"), &b->gate));
    if (d->position == LH_POSITION_RELATIVE) LH_TRY(block_relative_find(p, layer, b));
    LH_TRY(lhi_linear_find(p, block_name(n, layer, "mlp.down"), &b->down));
done:
    return st;
}

lh_status lhi_linear_vars(lh_tape *t, const lhi_linear *l, lh_var *weight, lh_var *bias)
{
    lh_status st = LH_OK;
    *weight = *bias = (lh_var){0};
    if (l->weight != NULL) LH_TRY(lh_tape_param(t, l->weight, weight));
    if (l->bias != NULL) LH_TRY(lh_tape_param(t, l->bias, bias));
done:
    return st;
}

static double block_norm_eps(const lh_model_desc *d)
{
    return d->norm_eps > 0.0 ? d->norm_eps : BLOCK_NORM_EPS;
}

lh_status lhi_norm_forward(lhi_pass *pass, const lhi_linear *norm, lh_var x, lh_var *y)
{
    lh_status st = LH_OK;
    lh_var w = {0};
    lh_var b = {0};
    double eps = block_norm_eps(pass->desc);
    LH_TRY(lhi_linear_vars(pass->tape, norm, &w, &b));
    if (pass->desc->norm_kind == LH_NORM_RMS)
        LH_TRY(lh_rms_norm(pass->tape, x, w, eps, y));
    else
        LH_TRY(lh_layer_norm(pass->tape, x, w, b, eps, y));
done:
    return st;
}

/* sum = x + h, y = its norm. */
static lh_status block_add_norm(lhi_pass *pass, const lhi_linear *norm, lh_var x, lh_var h,
                                lh_var *sum, lh_var *y)
{
    lh_status st = LH_OK;
    lh_add_norm_in in = {.x = x,
                         .h = h,
                         .eps = block_norm_eps(pass->desc),
                         .rms = pass->desc->norm_kind == LH_NORM_RMS};
    LH_TRY(lhi_linear_vars(pass->tape, norm, &in.w, &in.b));
    LH_TRY(lh_add_norm(pass->tape, &in, sum, y));
done:
    return st;
}

lh_status lhi_drop(lhi_pass *pass, int use, lh_var x, lh_var *y)
{
    pass->dropout.stream = lh_stream_id(LH_STREAM_DROPOUT, (uint32_t)use);
    return lh_dropout(pass->tape, x, &pass->dropout, y);
}

lh_status lhi_linear_forward(lhi_pass *pass, const lhi_linear *l, lh_var x, lh_var *y)
{
    lh_status st = LH_OK;
    lh_var w = {0};
    lh_var b = {0};
    LH_TRY(lhi_linear_vars(pass->tape, l, &w, &b));
    LH_TRY(lh_linear(pass->tape, x, w, b, y));
done:
    return st;
}

/* Heads of a projection: [B, s, heads D] -> [B, s, heads, D], rotated if positions are rotary. */
static lh_status block_heads(lhi_pass *pass, const lhi_linear *l, lh_var x, int64_t heads,
                             bool rotate, lh_var *y)
{
    lh_status st = LH_OK;
    lh_var flat = {0};
    const lh_shape *s = lh_var_shape(pass->tape, x);
    lh_shape shape = lh_shape_4(LH_REAL, s->dim[0], s->dim[1], heads, pass->desc->head_width);
    LH_TRY(lhi_linear_forward(pass, l, x, &flat));
    LH_TRY(lh_reshape(pass->tape, flat, shape, y));
    if (rotate && pass->angles.id > 0) LH_TRY(lh_rotary(pass->tape, *y, pass->angles, y));
    LH_TRY(lh_store_round(pass->tape, *y, y));
done:
    return st;
}

/* attention(x) of the block: projections, the mechanism, output projection. */
static lh_status block_attention(lhi_pass *pass, const lhi_block *b, int layer, lh_var x, lh_var *y)
{
    lh_status st = LH_OK;
    const lh_model_desc *d = pass->desc;
    lh_var o = {0};
    const lh_shape *s = lh_var_shape(pass->tape, x);
    lh_shape flat = lh_shape_3(LH_REAL, s->dim[0], s->dim[1], d->heads * d->head_width);
    pass->qkv.x = x;
    if (pass->light) LH_TRY(lh_tape_segment_begin_light(pass->tape));
    LH_TRY(block_heads(pass, &b->query, x, d->heads, true, &pass->qkv.q));
    LH_TRY(block_heads(pass, &b->key, x, d->kv_heads, true, &pass->qkv.k));
    LH_TRY(block_heads(pass, &b->value, x, d->kv_heads, false, &pass->qkv.v));
    if (b->relative_weight != NULL) {
        LH_TRY(lh_tape_param(pass->tape, b->relative_weight, &pass->qkv.relative_weight));
        LH_TRY(lh_tape_param(pass->tape, b->relative_u, &pass->qkv.relative_u));
        LH_TRY(lh_tape_param(pass->tape, b->relative_v, &pass->qkv.relative_v));
    }
    LH_TRY(d->attention[layer].ops->forward(b->attention, pass->tape, &pass->qkv, &o));
    if (pass->light) LH_TRY(lh_tape_segment_end(pass->tape));
    LH_TRY(lh_reshape(pass->tape, o, flat, &o));
    LH_TRY(lhi_linear_forward(pass, &b->output, o, y));
    LH_TRY(lhi_drop(pass, 2 * layer + 1, *y, y));
done:
    return st;
}

static lh_status block_mlp(lhi_pass *pass, const lhi_block *b, int layer, lh_var x, lh_var *y)
{
    lh_status st = LH_OK;
    lh_mlp_weights w;
    LH_TRY(lhi_linear_vars(pass->tape, &b->up, &w.up, &w.up_bias));
    LH_TRY(lhi_linear_vars(pass->tape, &b->gate, &w.gate, &w.gate_bias));
    LH_TRY(lhi_linear_vars(pass->tape, &b->down, &w.down, &w.down_bias));
    LH_TRY(lh_mlp(pass->tape, x, &w, (lh_act_kind)pass->desc->mlp, y));
    LH_TRY(lhi_drop(pass, 2 * layer + 2, *y, y));
done:
    return st;
}

lh_status lhi_block_forward(lhi_pass *pass, const lhi_block *b, int layer, lh_var x, lh_var *y)
{
    lh_status st = LH_OK;
    lh_var h = {0};
    if (pass->desc->norm == LH_NORM_PRE) {
        LH_TRY(lhi_norm_forward(pass, &b->attention_norm, x, &h));
        LH_TRY(block_attention(pass, b, layer, h, &h));
        LH_TRY(block_add_norm(pass, &b->mlp_norm, x, h, &x, &h));
        LH_TRY(block_mlp(pass, b, layer, h, &h));
        LH_TRY(lh_add(pass->tape, x, h, y));
    } else {
        LH_TRY(block_attention(pass, b, layer, x, &h));
        LH_TRY(block_add_norm(pass, &b->attention_norm, x, h, &h, &x));
        LH_TRY(block_mlp(pass, b, layer, x, &h));
        LH_TRY(lh_add(pass->tape, x, h, &h)); /* not fused: a step's memory peaks here */
        LH_TRY(lhi_norm_forward(pass, &b->mlp_norm, h, y));
    }
done:
    return st;
}
