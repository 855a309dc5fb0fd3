/* What an operation sees of the tape while it runs. */
#include "core/tape_internal.h"

lh_tape *lh_call_tape(const lh_call *c)
{
    return c->tape;
}

lh_device *lh_call_device(const lh_call *c)
{
    return c->tape->device;
}

const void *lh_call_attrs(const lh_call *c)
{
    return c->tape->attrs + c->node->attrs;
}

const lh_shape *lh_call_in_shape(const lh_call *c, int i)
{
    return &c->tape->value[c->node->in[i]].shape;
}

const lh_shape *lh_call_out_shape(const lh_call *c, int i)
{
    return &c->tape->value[c->node->out + i].shape;
}

const lh_place *lh_call_in_place(const lh_call *c, int i)
{
    return &c->tape->value[c->node->in[i]].place;
}

int lh_call_inputs(const lh_call *c)
{
    return c->node->n_in;
}

bool lh_call_has_in(const lh_call *c, int i)
{
    return i < c->node->n_in && c->node->in[i] > 0;
}

lh_status lh_in(lh_call *c, int i, const void **data)
{
    lh_status st = LH_OK;
    void *p = NULL;
    *data = NULL;
    LH_CHECK(i >= 0 && i < c->node->n_in && c->node->in[i] > 0, LH_ERR_BUG, "no input %d", i);
    LH_CHECK((!c->vjp && !c->remake) || (c->node->op->reads & LH_READS_IN(i)), LH_ERR_BUG,
             "the gradient reads input %d, which `reads` does not declare", i);
    LH_TRY(lhi_call_data(c, c->node->in[i], &p));
    *data = p;
done:
    return st;
}

lh_status lh_out(lh_call *c, int i, void **data)
{
    lh_status st = LH_OK;
    *data = NULL;
    LH_CHECK(i >= 0 && i < c->node->n_out, LH_ERR_BUG, "no output %d", i);
    LH_CHECK((!c->vjp && !c->remake) || (c->node->op->reads & LH_READS_OUT(i)) ||
                 (c->remake && (c->node->op->drops & LH_READS_OUT(i))),
             LH_ERR_BUG, "the gradient reads output %d, which `reads` does not declare", i);
    LH_TRY(lhi_call_data(c, c->node->out + i, data));
done:
    return st;
}

lh_status lh_out_grad(lh_call *c, int i, const void **data)
{
    lh_status st = LH_OK;
    *data = NULL;
    LH_CHECK(c->vjp && i >= 0 && i < c->node->n_out, LH_ERR_BUG, "no output gradient %d", i);
    const tape_value *v = &c->tape->value[c->node->out + i];
    if (v->has_grad) LH_TRY(lhi_tape_grad_read(c->tape, v->own_grad, data));
done:
    return st;
}

lh_status lh_out_grad_add(lh_call *c, int i, void **data, bool *accumulate)
{
    *data = NULL;
    *accumulate = false;
    if (!c->vjp || i < 0 || i >= c->node->n_out)
        return LH_RAISE(LH_ERR_BUG, "no output gradient %d", i);
    return lhi_tape_grad_target(c->tape, c->node->out + i, data, accumulate);
}

bool lh_wants_grad(const lh_call *c, int i)
{
    return lh_call_has_in(c, i) && c->tape->value[c->node->in[i]].needs_grad;
}

lh_status lh_in_grad(lh_call *c, int i, void **data, bool *accumulate)
{
    *data = NULL;
    *accumulate = false;
    if (!c->vjp) return LH_RAISE(LH_ERR_BUG, "gradients exist in the backward pass only");
    if (!lh_wants_grad(c, i)) return LH_OK;
    const lh_param *p = c->tape->value[c->tape->value[c->node->in[i]].root].param;
    if (p != NULL && p->grad_final)
        return LH_RAISE(LH_ERR_BUG, "the gradient of %s was called final too early", p->name);
    return lhi_tape_grad_target(c->tape, c->node->in[i], data, accumulate);
}

lh_status lh_in_grad_zeroed(lh_call *c, int i, void **data)
{
    bool accumulate = false;
    lh_status st = lh_in_grad(c, i, data, &accumulate);
    if (st != LH_OK || *data == NULL || accumulate) return st;
    lh_run_fill(c->tape->device,
                &(lh_fill_args){lh_shape_count(lh_call_in_shape(c, i)), 0.0, *data});
    return LH_OK;
}

lh_status lh_pass_grad(lh_call *c, int i, int j)
{
    lh_status st = LH_OK;
    const void *dy = NULL;
    void *dx = NULL;
    bool accumulate = false;
    LH_TRY(lh_out_grad(c, j, &dy));
    LH_CHECK(dy != NULL, LH_ERR_BUG, "output %d has no gradient to pass on", j);
    if (!lh_wants_grad(c, i)) goto done;
    if (lhi_tape_grad_share(c->tape, c->node->in[i], c->node->out + j)) goto done;
    LH_TRY(lh_in_grad(c, i, &dx, &accumulate));
    lh_run_axpy(c->tape->device,
                &(lh_axpy_args){lh_shape_count(lh_call_in_shape(c, i)), 1.0, dy, dx, accumulate});
done:
    return st;
}

lh_status lh_scratch(lh_call *c, size_t bytes, void **data)
{
    return lh_memory_scratch(c->tape->memory, LH_SPACE_DEVICE, bytes, data);
}

lh_status lh_host_scratch(lh_call *c, size_t bytes, void **data)
{
    return lh_memory_scratch(c->tape->memory, LH_SPACE_HOST, bytes, data);
}

const lh_layout *lh_call_layout(const lh_call *c, int i)
{
    const lh_place_word *w = &lh_call_in_place(c, i)->axis[LH_AXIS_SEQ];
    return w->kind == LH_SHARD ? w->layout : NULL;
}
