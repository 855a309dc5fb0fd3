/* Heads: what follows the last norm. */
#include "models/block.h"
#include "parallel/collectives.h"

bool lhi_head_pools(const lh_model_desc *d)
{
    return d->head == LH_HEAD_CLASS || d->head == LH_HEAD_POOLER;
}

/* Does it have the dense layer and tanh over the pooled row? */
static bool head_has_pooler(const lh_model_desc *d)
{
    return d->head == LH_HEAD_POOLER || (d->head == LH_HEAD_CLASS && d->pooler);
}

static bool head_has_transform(const lh_model_desc *d)
{
    return d->head == LH_HEAD_LM && d->head_transform;
}

static lh_status head_declare_lm(const lh_model_desc *d, lh_params *p)
{
    lh_status st = LH_OK;
    const lh_place everywhere = lh_place_replicated();
    if (d->head_transform) {
        LH_TRY(lhi_linear_declare(d, "head.transform", d->width, d->width, 1.0, p));
        LH_TRY(lhi_norm_declare(d, "head.norm", p));
        if (d->bias)
            LH_TRY(lh_params_add(p, "head.bias", lh_shape_1(LH_REAL, d->vocab), everywhere,
                                 LH_INIT_ZERO, 0.0, NULL));
    }
    if (!d->tie_embeddings)
        LH_TRY(lh_params_add(p, "head.weight", lh_shape_2(LH_REAL, d->vocab, d->width), everywhere,
                             LH_INIT_NORMAL, LHI_TABLE_STD, NULL));
done:
    return st;
}

lh_status lhi_head_declare(const lh_model_desc *d, lh_params *p)
{
    lh_status st = LH_OK;
    if (d->head == LH_HEAD_LM) LH_TRY(head_declare_lm(d, p));
    if (head_has_pooler(d))
        LH_TRY(lhi_linear_declare(d, "head.pooler", d->width, d->width, 1.0, p));
    if (d->head == LH_HEAD_CLASS)
        LH_TRY(lhi_linear_declare(d, "head.classifier", d->classes, d->width, 1.0, p));
done:
    return st;
}

/* The list of one row a sequence, at position 0. */
static lh_status head_find_first(int64_t batch, lhi_head *h)
{
    lh_status st = LH_OK;
    LH_TRY(lh_new((size_t)(2 * batch) * sizeof *h->first, &h->first));
    for (int64_t b = 0; b < batch; b++) h->first[b] = 1;
    h->first_rows = (lh_row_list){.max = 1, .count = h->first, .position = h->first + batch};
done:
    return st;
}

lh_status lhi_head_find(const lh_model_desc *d, const lh_params *p, int64_t batch, lhi_head *h)
{
    lh_status st = LH_OK;
    *h = (lhi_head){0};
    if (d->head == LH_HEAD_LM) {
        h->logits.weight =
            lh_params_find(p, d->tie_embeddings ? "embedding.token.weight" : "head.weight");
        h->logits.bias = lh_params_find(p, "head.bias");
        LH_CHECK(h->logits.weight != NULL, LH_ERR_BUG, "the head's weights were not declared");
    }
    if (head_has_transform(d)) {
        LH_TRY(lhi_linear_find(p, "head.transform", &h->transform));
        LH_TRY(lhi_linear_find(p, "head.norm", &h->norm));
    }
    if (head_has_pooler(d)) LH_TRY(lhi_linear_find(p, "head.pooler", &h->pooler));
    if (d->head == LH_HEAD_CLASS) LH_TRY(lhi_linear_find(p, "head.classifier", &h->classifier));
    if (lhi_head_pools(d)) LH_TRY(head_find_first(batch, h));
done:
    return st;
}

/* One row of each sequence, [B, 1, E], on every rank; then the pooler. */
static lh_status head_pool(lhi_pass *pass, const lhi_head *h, lh_var x, lh_var *y)
{
    lh_status st = LH_OK;
    lh_tape *t = pass->tape;
    if (pass->desc->pool == LH_POOL_MEAN)
        LH_TRY(lh_mean_rows(t, x, pass->qkv.valid, y));
    else
        LH_TRY(lh_take_rows(t, x, &h->first_rows, y));
    LH_TRY(lh_all_reduce(t, pass->qkv.mesh, LH_AXIS_SEQ, *y, y));
    if (h->pooler.weight == NULL) goto done;
    LH_TRY(lhi_linear_forward(pass, &h->pooler, *y, y));
    LH_TRY(lh_activation(t, *y, LH_ACT_TANH, y));
done:
    return st;
}

lh_status lhi_head_output(lhi_pass *pass, const lhi_head *h, lh_var x, lh_var *y)
{
    lh_status st = LH_OK;
    *y = x;
    if (lhi_head_pools(pass->desc)) LH_TRY(head_pool(pass, h, x, y));
    if (h->classifier.weight != NULL) LH_TRY(lhi_linear_forward(pass, &h->classifier, *y, y));
done:
    return st;
}

lh_status lhi_head_loss(lhi_pass *pass, const lhi_head *h, const lh_batch *batch, lh_var x,
                        lh_var *loss, lh_var *correct)
{
    lh_status st = LH_OK;
    lh_tape *t = pass->tape;
    lh_var w = {0};
    lh_var b = {0};
    lh_var labels = {0};
    bool one = pass->desc->head == LH_HEAD_CLASS; /* label for each sequence */
    if (one) LH_TRY(head_pool(pass, h, x, &x));
    if (h->transform.weight != NULL) {
        LH_TRY(lhi_linear_forward(pass, &h->transform, x, &x));
        LH_TRY(lh_activation(t, x, LH_ACT_GELU, &x));
        LH_TRY(lhi_norm_forward(pass, &h->norm, x, &x));
    }
    const lh_shape *s = lh_var_shape(t, x);
    LH_TRY(lh_tape_input(t, one ? batch->sequence_labels : batch->labels,
                         lh_shape_2(LH_INT32, s->dim[0], s->dim[1]), *lh_var_place(t, x), &labels));
    LH_TRY(lhi_linear_vars(t, one ? &h->classifier : &h->logits, &w, &b));
    LH_TRY(lh_lm_loss(t, x, w, b, labels, batch->loss_scale, loss, correct));
done:
    return st;
}
