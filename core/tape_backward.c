/* The backward pass and recomputation. */
#include "core/tape_internal.h"

#include <string.h>

bool lhi_tape_drops(const lh_tape *t, int32_t id)
{
    const tape_value *v = &t->value[id];
    if (v->maker < 0) return false;
    const tape_node *m = &t->node[v->maker];
    return (m->op->drops & LH_READS_OUT(id - m->out)) != 0;
}

/* What node n reads is made again: the values that a vjp (all_inputs: a forward run) is about to
 * read. Those that were made again already are here. */
static lh_status tape_remake_inputs(lh_tape *t, const tape_node *n, bool all_inputs)
{
    lh_status st = LH_OK;
    for (int i = 0; i < n->n_in; i++) {
        int32_t id = n->in[i] > 0 ? t->value[n->in[i]].root : 0;
        if (id == 0 || !(all_inputs || (n->op->reads & LH_READS_IN(i))) || !lhi_tape_drops(t, id))
            continue;
        tape_node *m = &t->node[t->value[id].maker];
        if (m->here) continue;
        LH_TRY(tape_remake_inputs(t, m, false));
        LH_TRY(lh_memory_tick(t->memory));
        t->calls++;
        lh_call call = {.tape = t, .node = m, .remake = true};
        lh_profile_mark begin = lhi_tape_enter(t, m, LH_DIRECTION_RECOMPUTE);
        for (int k = 0; k < m->n_out; k++)
            if (m->op->drops & LH_READS_OUT(k)) LH_TRY(lhi_tape_new_output(t, m, k));
        m->here = true;
        st = m->op->remake(&call);
        lhi_tape_leave(t, m, begin, LH_DIRECTION_RECOMPUTE);
        if (st != LH_OK) return lh_error_context(st, "again %s", m->op->name);
    }
done:
    return st;
}

/* A vjp will read value id: it must be made in the recomputation, or what it is made again from. */
static void tape_want(lh_tape *t, int32_t id)
{
    if (!lhi_tape_drops(t, id)) {
        t->wanted[id] = true;
        return;
    }
    const tape_node *m = &t->node[t->value[id].maker];
    for (int i = 0; i < m->n_in; i++)
        if (m->in[i] > 0 && (m->op->reads & LH_READS_IN(i))) tape_want(t, t->value[m->in[i]].root);
    for (int i = 0; i < m->n_out; i++)
        if (m->op->reads & LH_READS_OUT(i)) t->wanted[m->out + i] = true;
}

/* Which operations of a segment must run again: those that make what a vjp of the segment reads,
 * directly or not; in a light segment, but for the costly ones. */
static lh_status tape_plan_recompute(lh_tape *t, const tape_segment *s)
{
    lh_status st = lh_grow(&t->wanted, &t->wanted_capacity, t->n_values, sizeof *t->wanted);
    if (st != LH_OK) return st;
    memset(t->wanted, 0, (size_t)t->n_values * sizeof *t->wanted);
    for (int64_t k = s->begin; k < s->end; k++) {
        const tape_node *n = &t->node[k];
        if (!n->needs_grad) continue;
        for (int i = 0; i < n->n_in; i++)
            if (n->in[i] > 0 && (n->op->reads & LH_READS_IN(i)))
                tape_want(t, t->value[n->in[i]].root);
        for (int i = 0; i < n->n_out; i++)
            if (n->op->reads & LH_READS_OUT(i)) t->wanted[n->out + i] = true;
    }
    for (int64_t k = s->end - 1; k >= s->begin; k--) {
        tape_node *n = &t->node[k];
        n->again = false;
        for (int i = 0; i < n->n_out; i++) n->again = n->again || t->wanted[n->out + i];
        n->again = n->again && !(s->light && n->op->costly);
        if (!n->again) continue;
        for (int i = 0; i < n->n_in; i++)
            if (n->in[i] > 0) t->wanted[t->value[n->in[i]].root] = true;
    }
    return LH_OK;
}

/* Outputs that a node of the segment drops are here while it runs again, and dropped once more. */
static lh_status tape_recompute(lh_tape *t, const tape_segment *s)
{
    lh_status st = LH_OK;
    LH_TRY(tape_plan_recompute(t, s));
    t->recomputing = true;
    t->again_from = s->first;
    for (int64_t k = s->begin; k < s->end; k++) {
        if (!t->node[k].again) {
            LH_TRY(lhi_tape_keep(t, k));
            continue;
        }
        LH_TRY(tape_remake_inputs(t, &t->node[k], true));
        LH_TRY(lhi_tape_forward(t, k));
        t->node[k].here = true;
    }
    for (int64_t k = s->begin; k < s->end; k++) t->node[k].here = false;
done:
    t->recomputing = false;
    return st;
}

/* The gradients of its outputs have been read for the last time. */
static void tape_release_grads(lh_tape *t, const tape_node *n)
{
    for (int i = 0; i < n->n_out; i++) {
        const tape_value *v = &t->value[n->out + i];
        if (v->has_grad) t->grad[v->own_grad].owners--;
    }
}

static bool tape_has_out_grad(const lh_tape *t, const tape_node *n)
{
    for (int i = 0; i < n->n_out; i++)
        if (t->value[n->out + i].has_grad) return true;
    return false;
}

/* The parameter to whose gradient input i of a node adds; NULL: none. */
static tape_value *tape_trained(lh_tape *t, const tape_node *n, int i)
{
    if (!n->needs_grad || n->in[i] == 0 || !t->value[n->in[i]].needs_grad) return NULL;
    tape_value *v = &t->value[t->value[n->in[i]].root];
    return v->param != NULL ? v : NULL;
}

/* Backward order is that of recording reversed, so the first operation that takes a parameter is the
 * last to add to its gradient. */
static void tape_find_first_uses(lh_tape *t)
{
    for (int64_t k = t->n_nodes - 1; k >= 0; k--) {
        const tape_node *n = &t->node[k];
        for (int i = 0; i < n->n_in; i++) {
            tape_value *v = tape_trained(t, n, i);
            if (v == NULL) continue;
            v->first_use = k;
            v->param->grad_final = false;
        }
    }
}

/* Operation k is done, or passed over, in the backward pass. */
static void tape_passed(lh_tape *t, int64_t k)
{
    const tape_node *n = &t->node[k];
    for (int i = 0; i < n->n_in; i++) {
        tape_value *v = tape_trained(t, n, i);
        if (v != NULL && v->first_use == k) v->param->grad_final = true;
    }
    if (t->between != NULL) t->between(t->between_user);
}

static lh_status tape_run_vjp(lh_tape *t, const tape_node *n)
{
    lh_status st = LH_OK;
    lh_call call = {.tape = t, .node = n, .vjp = true};
    LH_TRY(tape_remake_inputs(t, n, false));
    LH_TRY(lh_memory_tick(t->memory));
    t->calls++;
    lh_profile_mark begin = lhi_tape_enter(t, n, LH_DIRECTION_BACKWARD);
    st = n->op->vjp(&call);
    lhi_tape_leave(t, n, begin, LH_DIRECTION_BACKWARD);
    if (st == LH_OK) tape_release_grads(t, n);
done:
    return lh_error_context(st, "gradient of %s", n->op->name);
}

static lh_status tape_run_backward(lh_tape *t)
{
    lh_status st = LH_OK;
    int64_t segment = t->n_segments - 1;
    tape_find_first_uses(t);
    for (int64_t k = t->n_nodes - 1; k >= 0; k--) {
        while (segment >= 0 && t->segment[segment].end == k + 1) {
            if (t->segment[segment].end > t->segment[segment].begin)
                LH_TRY(tape_recompute(t, &t->segment[segment]));
            segment--;
        }
        const tape_node *n = &t->node[k];
        if (n->needs_grad && tape_has_out_grad(t, n)) LH_TRY(tape_run_vjp(t, n));
        tape_passed(t, k);
    }
done:
    return st;
}

lh_status lhi_tape_grad_read(lh_tape *t, int64_t number, const void **data)
{
    lh_status st = LH_OK;
    const tape_grad *g = &t->grad[number];
    void *p = NULL;
    if (g->seed == NULL) LH_TRY(lh_memory_use(t->memory, g->slot, &p));
    *data = g->seed != NULL ? g->seed : p;
done:
    return st;
}

/* The gradient of v is g. */
static lh_status tape_give_grad(lh_tape *t, tape_value *v, tape_grad g)
{
    lh_status st = LH_OK;
    LH_TRY(lh_grow(&t->grad, &t->grads_capacity, t->n_grads + 1, sizeof *t->grad));
    v->own_grad = t->n_grads++;
    t->grad[v->own_grad] = g;
done:
    return st;
}

/* A buffer for the gradient of v, which nobody shares. */
static lh_status tape_new_grad(lh_tape *t, tape_value *v)
{
    lh_status st = LH_OK;
    tape_grad g = {.owners = 1};
    LH_TRY(lh_memory_new(t->memory, LH_SPACE_DEVICE, lh_shape_bytes(&v->shape), &g.slot));
    LH_TRY(tape_give_grad(t, v, g));
done:
    return st;
}

/* Before something is added to a gradient that others have too. */
static lh_status tape_unshare_grad(lh_tape *t, tape_value *v)
{
    lh_status st = LH_OK;
    const void *from = NULL;
    void *to = NULL;
    int64_t shared = v->own_grad;
    if (t->grad[shared].owners == 1) return LH_OK;
    LH_TRY(tape_new_grad(t, v));
    t->grad[shared].owners--;
    LH_TRY(lhi_tape_grad_read(t, shared, &from));
    LH_TRY(lh_memory_use(t->memory, t->grad[v->own_grad].slot, &to));
    lh_run_axpy(t->device, &(lh_axpy_args){lh_shape_count(&v->shape), 1.0, from, to, false});
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
        if (v->has_grad)
            LH_TRY(tape_unshare_grad(t, v));
        else
            LH_TRY(tape_new_grad(t, v));
        LH_TRY(lh_memory_use(t->memory, t->grad[v->own_grad].slot, data));
    }
    v->has_grad = true;
done:
    return st;
}

bool lhi_tape_grad_share(lh_tape *t, int32_t id, int32_t of)
{
    tape_value *v = &t->value[t->value[id].root];
    const tape_value *from = &t->value[of];
    if (v->grad != NULL || v->has_grad || v->maker < 0 || !from->has_grad || from->grad != NULL ||
        lh_shape_count(&v->shape) != lh_shape_count(&from->shape))
        return false;
    v->own_grad = from->own_grad;
    v->has_grad = true;
    t->grad[v->own_grad].owners++;
    return true;
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
        tape_value *v = &t->value[t->value[vars[i].id].root];
        const lh_shape *shape = &v->shape;
        LH_CHECK(shape->dtype == LH_REAL, LH_ERR_BUG, "seeds are of type real");
        const void *seed =
            t->device->counting ? (const void *)t : seeds[i]; /* read there by nobody */
        LH_CHECK(seed != NULL, LH_ERR_BUG, "output %d has no seed", i);
        if (v->grad == NULL && !v->has_grad) {
            LH_TRY(tape_give_grad(t, v, (tape_grad){.seed = seed, .owners = 2}));
            v->has_grad = true;
            continue;
        }
        LH_TRY(lhi_tape_grad_target(t, vars[i].id, &grad, &accumulate));
        lh_run_axpy(t->device,
                    &(lh_axpy_args){lh_shape_count(shape), 1.0, seeds[i], grad, accumulate});
    }
    LH_TRY(tape_run_backward(t));
done:
    return st;
}
