/* The backward pass and recomputation. */
#include "core/tape_internal.h"

#include <string.h>

/* Which operations of a segment must run again: those that make what a vjp of the segment reads,
 * directly or not. */
static lh_status tape_plan_recompute(lh_tape *t, const tape_segment *s)
{
    lh_status st = lh_grow(&t->wanted, &t->wanted_capacity, t->n_values, sizeof *t->wanted);
    if (st != LH_OK) return st;
    memset(t->wanted, 0, (size_t)t->n_values * sizeof *t->wanted);
    for (int64_t k = s->begin; k < s->end; k++) {
        const tape_node *n = &t->node[k];
        if (!n->needs_grad) continue;
        for (int i = 0; i < n->n_in; i++)
            if (n->op->reads & LH_READS_IN(i)) t->wanted[t->value[n->in[i]].root] = true;
        for (int i = 0; i < n->n_out; i++)
            if (n->op->reads & LH_READS_OUT(i)) t->wanted[n->out + i] = true;
    }
    for (int64_t k = s->end - 1; k >= s->begin; k--) {
        tape_node *n = &t->node[k];
        n->again = false;
        for (int i = 0; i < n->n_out; i++) n->again = n->again || t->wanted[n->out + i];
        if (!n->again) continue;
        for (int i = 0; i < n->n_in; i++) t->wanted[t->value[n->in[i]].root] = true;
    }
    return LH_OK;
}

static lh_status tape_recompute(lh_tape *t, const tape_segment *s)
{
    lh_status st = LH_OK;
    LH_TRY(tape_plan_recompute(t, s));
    t->recomputing = true;
    t->again_from = s->first;
    for (int64_t k = s->begin; k < s->end; k++)
        LH_TRY(t->node[k].again ? lhi_tape_forward(t, k) : lhi_tape_keep(t, k));
done:
    t->recomputing = false;
    return st;
}

static bool tape_has_out_grad(const lh_tape *t, const tape_node *n)
{
    for (int i = 0; i < n->n_out; i++)
        if (t->value[n->out + i].has_grad) return true;
    return false;
}

static lh_status tape_run_backward(lh_tape *t)
{
    lh_status st = LH_OK;
    int64_t segment = t->n_segments - 1;
    for (int64_t k = t->n_nodes - 1; k >= 0; k--) {
        while (segment >= 0 && t->segment[segment].end == k + 1) {
            if (t->segment[segment].end > t->segment[segment].begin)
                LH_TRY(tape_recompute(t, &t->segment[segment]));
            segment--;
        }
        const tape_node *n = &t->node[k];
        if (!n->needs_grad || !tape_has_out_grad(t, n)) continue;
        LH_TRY(lh_memory_tick(t->memory));
        t->calls++;
        lh_call call = {t, n, true};
        double flops = lhi_tape_enter(t, n);
        st = n->op->vjp(&call);
        lhi_tape_leave(t, n, flops);
        if (st != LH_OK) return lh_error_context(st, "gradient of %s", n->op->name);
    }
done:
    return st;
}

lh_status lhi_tape_grad_target(lh_tape *t, int32_t id, void **data, bool *accumulate)
{
    lh_status st = LH_OK;
    tape_value *v = &t->value[t->value[id].root];
    *data = NULL;
    *accumulate = true;
    if (v->grad != NULL) {
        *data = v->grad;
    } else {
        *accumulate = v->has_grad;
        if (!v->has_grad)
            LH_TRY(lh_memory_new(t->memory, LH_SPACE_DEVICE, lh_shape_bytes(&v->shape),
                                 &v->grad_slot));
        LH_TRY(lh_memory_use(t->memory, v->grad_slot, data));
    }
    v->has_grad = true;
done:
    return st;
}

lh_status lh_tape_backward(lh_tape *t, lh_var loss)
{
    lh_status st = LH_OK;
    char text[96];
    void *grad = NULL;
    bool accumulate = false;
    LH_TRY(lhi_tape_check(t, loss));
    const tape_value *v = &t->value[loss.id];
    LH_CHECK(v->shape.dtype == LH_F64 && lh_shape_count(&v->shape) == 1, LH_ERR_BUG,
             "backward starts from one number of type f64, not from %s",
             lh_shape_text(&v->shape, text, sizeof text));
    for (int a = 0; a < LH_AXES; a++)
        LH_CHECK(t->size[a] == 1 || v->place.axis[a].kind == LH_PARTIAL, LH_ERR_BUG,
                 "backward starts from each rank's part of the loss, but the loss is %s: was it "
                 "reduced already?",
                 lh_place_text(&v->place, text, sizeof text));
    LH_CHECK(v->needs_grad, LH_ERR_BUG, "the loss does not depend on anything with a gradient");
    LH_TRY(lh_memory_tick(t->memory));
    LH_TRY(lhi_tape_grad_target(t, loss.id, &grad, &accumulate));
    double one = 1.0;
    lh_copy_in(t->device, grad, &one, sizeof one);
    LH_TRY(tape_run_backward(t));
done:
    return st;
}

lh_status lh_tape_backward_from(lh_tape *t, int n, const lh_var *vars, const void *const *seeds)
{
    lh_status st = LH_OK;
    LH_TRY(lh_memory_tick(t->memory));
    for (int i = 0; i < n; i++) {
        void *grad = NULL;
        bool accumulate = false;
        LH_TRY(lhi_tape_check(t, vars[i]));
        const lh_shape *shape = &t->value[vars[i].id].shape;
        LH_CHECK(shape->dtype == LH_REAL, LH_ERR_BUG, "seeds are of type real");
        LH_TRY(lhi_tape_grad_target(t, vars[i].id, &grad, &accumulate));
        lh_run_axpy(t->device,
                    &(lh_axpy_args){lh_shape_count(shape), 1.0, seeds[i], grad, accumulate});
    }
    LH_TRY(tape_run_backward(t));
done:
    return st;
}
