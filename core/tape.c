#include "core/tape.h"

#include <stdio.h>
#include <string.h>

typedef struct tape_value {
    lh_shape shape;
    lh_place place;
    int32_t root; /* the value whose data this one shares; itself if none */
    bool needs_grad;
    bool has_grad;    /* something was added already */
    const void *data; /* from outside; NULL: slot */
    void *grad;       /* from outside; NULL: grad_slot */
    int64_t slot, grad_slot;
    const lh_param *param;
} tape_value;

typedef struct tape_node {
    const lh_op *op;
    int64_t attrs; /* offset */
    int n_in, n_out;
    int32_t in[LH_OP_INPUTS];
    int32_t out; /* first output; the others follow */
    bool needs_grad;
    bool again; /* recomputed before its vjp */
} tape_node;

typedef struct tape_segment {
    int64_t begin, end; /* nodes begin .. end - 1 */
} tape_segment;

struct lh_tape {
    int size[LH_AXES], coord[LH_AXES];
    lh_device *device;
    lh_memory *memory;
    bool gradients, recomputing, in_segment;
    tape_value *value; /* value[0] is unused: ids are 1-based */
    int64_t n_values, values_capacity;
    tape_node *node;
    int64_t n_nodes, nodes_capacity;
    tape_segment *segment;
    int64_t n_segments, segments_capacity;
    char *attrs;
    int64_t attrs_bytes, attrs_capacity;
    bool *wanted; /* per value: recomputation needs it */
    int64_t wanted_capacity;
};

struct lh_call {
    lh_tape *tape;
    const tape_node *node;
    bool vjp;
};

lh_status lh_tape_create(const int size[LH_AXES], const int coord[LH_AXES], lh_tape **out)
{
    lh_status st = lh_new(sizeof **out, out);
    if (st != LH_OK) return st;
    for (int a = 0; a < LH_AXES; a++) {
        (*out)->size[a] = size[a];
        (*out)->coord[a] = coord[a];
    }
    return LH_OK;
}

void lh_tape_destroy(lh_tape **t)
{
    if (*t == NULL) return;
    lh_free(&(*t)->value);
    lh_free(&(*t)->node);
    lh_free(&(*t)->segment);
    lh_free(&(*t)->attrs);
    lh_free(&(*t)->wanted);
    lh_free(t);
}

void lh_tape_reset(lh_tape *t, lh_device *device, lh_memory *memory, bool gradients)
{
    t->device = device;
    t->memory = memory;
    t->gradients = gradients;
    t->recomputing = t->in_segment = false;
    t->n_values = 1;
    t->n_nodes = t->n_segments = t->attrs_bytes = 0;
}

static lh_status tape_new_value(lh_tape *t, lh_shape shape, lh_place place, int32_t *id)
{
    lh_status st = lh_grow(&t->value, &t->values_capacity, t->n_values + 1, sizeof *t->value);
    if (st != LH_OK) return st;
    *id = (int32_t)t->n_values++;
    t->value[*id] =
        (tape_value){.shape = shape, .place = place, .root = *id, .slot = -1, .grad_slot = -1};
    return LH_OK;
}

static lh_status tape_check_var(const lh_tape *t, lh_var v)
{
    if (v.id > 0 && v.id < t->n_values) return LH_OK;
    return LH_RAISE(LH_ERR_BUG, "variable %d does not exist on this tape", (int)v.id);
}

lh_status lh_tape_input(lh_tape *t, const void *data, lh_shape shape, lh_place place, lh_var *out)
{
    return lh_tape_leaf(t, data, NULL, shape, place, out);
}

lh_status lh_tape_leaf(lh_tape *t, const void *data, void *grad, lh_shape shape, lh_place place,
                       lh_var *out)
{
    out->id = 0;
    lh_status st = tape_new_value(t, shape, place, &out->id);
    if (st != LH_OK) return st;
    tape_value *v = &t->value[out->id];
    v->data = data;
    v->grad = grad;
    v->needs_grad = t->gradients && grad != NULL;
    return LH_OK;
}

lh_status lh_tape_param(lh_tape *t, lh_param *p, lh_var *out)
{
    for (int64_t i = 1; i < t->n_values; i++) {
        if (t->value[i].param != p) continue;
        out->id = (int32_t)i;
        return LH_OK;
    }
    lh_status st = lh_tape_leaf(t, p->value, p->grad, p->shape, p->place, out);
    if (st == LH_OK) t->value[out->id].param = p;
    return st;
}

static lh_status tape_value_data(lh_tape *t, int32_t id, void **data)
{
    const tape_value *v = &t->value[t->value[id].root];
    if (v->slot >= 0) return lh_memory_use(t->memory, v->slot, data);
    *data = (void *)(uintptr_t)v->data;
    return LH_OK;
}

static lh_status tape_new_outputs(lh_tape *t, const tape_node *n)
{
    for (int i = 0; i < n->n_out; i++) {
        tape_value *v = &t->value[n->out + i];
        lh_status st =
            lh_memory_new(t->memory, LH_SPACE_DEVICE, lh_shape_bytes(&v->shape), &v->slot);
        if (st != LH_OK) return st;
    }
    return LH_OK;
}

static lh_status tape_forward(lh_tape *t, int64_t k)
{
    lh_status st = LH_OK;
    lh_call call = {t, &t->node[k], false};
    LH_TRY(lh_memory_tick(t->memory));
    LH_TRY(tape_new_outputs(t, call.node));
    LH_TRY(call.node->op->forward(&call));
done:
    return lh_error_context(st, "%s", t->node[k].op->name);
}

static lh_status tape_push(lh_tape *t, const lh_op *op, const void *attrs, size_t attrs_bytes,
                           int n_in, const lh_var *in)
{
    lh_status st = LH_OK;
    int64_t aligned = (int64_t)((attrs_bytes + 15) / 16 * 16);
    bool needs = false;
    LH_CHECK(n_in <= LH_OP_INPUTS, LH_ERR_BUG, "%d inputs; at most %d", n_in, LH_OP_INPUTS);
    LH_TRY(lh_grow(&t->node, &t->nodes_capacity, t->n_nodes + 1, sizeof *t->node));
    LH_TRY(lh_grow(&t->attrs, &t->attrs_capacity, t->attrs_bytes + aligned, 1));
    tape_node *n = &t->node[t->n_nodes];
    *n = (tape_node){.op = op, .attrs = t->attrs_bytes, .n_in = n_in};
    if (attrs_bytes > 0) memcpy(t->attrs + t->attrs_bytes, attrs, attrs_bytes);
    for (int i = 0; i < n_in; i++) {
        n->in[i] = in[i].id;
        if (in[i].id == 0) continue; /* an optional input that was not given */
        LH_TRY(tape_check_var(t, in[i]));
        needs = needs || t->value[in[i].id].needs_grad;
    }
    LH_CHECK(!needs || op->vjp != NULL, LH_ERR_BUG, "no gradient is defined for this operation");
    n->needs_grad = needs;
    t->attrs_bytes += aligned;
done:
    return st;
}

lh_status lh_record(lh_tape *t, const lh_op *op, const void *attrs, size_t attrs_bytes, int n_in,
                    const lh_var *in, int n_out, const lh_shape *out_shapes, lh_var *outs)
{
    lh_status st = LH_OK;
    lh_place in_place[LH_OP_INPUTS];
    lh_place out_place[LH_OP_OUTPUTS];
    for (int i = 0; i < n_out; i++) outs[i].id = 0;
    LH_CHECK(n_out >= 1 && n_out <= LH_OP_OUTPUTS, LH_ERR_BUG, "%d outputs", n_out);
    LH_TRY(tape_push(t, op, attrs, attrs_bytes, n_in, in));
    tape_node *n = &t->node[t->n_nodes];
    for (int i = 0; i < n_in; i++)
        in_place[i] = in[i].id > 0 ? t->value[in[i].id].place : lh_place_replicated();
    for (int i = 0; i < n_out; i++) out_place[i] = lh_place_replicated();
    LH_TRY(op->place(&(lh_call){t, n, false}, in_place, out_place));
    for (int i = 0; i < n_out; i++) {
        LH_TRY(tape_new_value(t, out_shapes[i], out_place[i], &outs[i].id));
        t->value[outs[i].id].needs_grad = n->needs_grad;
    }
    n->out = outs[0].id;
    n->n_out = n_out;
    LH_TRY(tape_forward(t, t->n_nodes));
    t->n_nodes++;
    return LH_OK;
done:
    return lh_error_context(st, "%s", op->name);
}

/* A value that shares another one's data: the shard dimensions must stay where they are. */
static lh_status tape_alias(lh_tape *t, lh_var x, lh_shape shape, bool gradient, lh_var *out)
{
    lh_status st = LH_OK;
    char a[96];
    char b[96];
    out->id = 0;
    LH_TRY(tape_check_var(t, x));
    const tape_value source = t->value[x.id];
    LH_CHECK(lh_shape_count(&shape) == lh_shape_count(&source.shape) &&
                 shape.dtype == source.shape.dtype,
             LH_ERR_BUG, "%s cannot be seen as %s", lh_shape_text(&source.shape, a, sizeof a),
             lh_shape_text(&shape, b, sizeof b));
    for (int axis = 0; axis < LH_AXES; axis++) {
        const lh_place_word *w = &source.place.axis[axis];
        if (w->kind != LH_SHARD) continue;
        for (int d = 0; d <= w->dim; d++)
            LH_CHECK(d < shape.ndim && shape.dim[d] == source.shape.dim[d], LH_ERR_BUG,
                     "reshape changes dimension %d, which is sharded or before one that is", d);
    }
    LH_TRY(tape_new_value(t, shape, source.place, &out->id));
    t->value[out->id].root = source.root;
    t->value[out->id].needs_grad = gradient && source.needs_grad;
done:
    return st;
}

lh_status lh_stop_gradient(lh_tape *t, lh_var x, lh_var *out)
{
    lh_status st = tape_check_var(t, x);
    return st == LH_OK ? tape_alias(t, x, t->value[x.id].shape, false, out) : st;
}

lh_status lh_reshape(lh_tape *t, lh_var x, lh_shape shape, lh_var *out)
{
    return tape_alias(t, x, shape, true, out);
}

lh_status lh_tape_segment_begin(lh_tape *t)
{
    lh_status st = LH_OK;
    LH_CHECK(!t->in_segment, LH_ERR_BUG, "segments do not nest");
    LH_TRY(lh_grow(&t->segment, &t->segments_capacity, t->n_segments + 1, sizeof *t->segment));
    t->segment[t->n_segments].begin = t->n_nodes;
    t->in_segment = true;
done:
    return st;
}

lh_status lh_tape_segment_end(lh_tape *t)
{
    if (!t->in_segment) return LH_RAISE(LH_ERR_BUG, "segment ended without a beginning");
    t->segment[t->n_segments++].end = t->n_nodes;
    t->in_segment = false;
    return LH_OK;
}

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
    for (int64_t k = s->begin; k < s->end; k++)
        if (t->node[k].again) LH_TRY(tape_forward(t, k));
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
        lh_call call = {t, n, true};
        st = n->op->vjp(&call);
        if (st != LH_OK) return lh_error_context(st, "gradient of %s", n->op->name);
    }
done:
    return st;
}

static lh_status tape_grad_target(lh_tape *t, int32_t id, void **data, bool *accumulate)
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
    LH_TRY(tape_check_var(t, loss));
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
    LH_TRY(tape_grad_target(t, loss.id, &grad, &accumulate));
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
        LH_TRY(tape_check_var(t, vars[i]));
        const lh_shape *shape = &t->value[vars[i].id].shape;
        LH_CHECK(shape->dtype == LH_REAL, LH_ERR_BUG, "seeds are of type real");
        LH_TRY(tape_grad_target(t, vars[i].id, &grad, &accumulate));
        lh_run_axpy(t->device,
                    &(lh_axpy_args){lh_shape_count(shape), 1.0, seeds[i], grad, accumulate});
    }
    LH_TRY(tape_run_backward(t));
done:
    return st;
}

const lh_shape *lh_var_shape(const lh_tape *t, lh_var v)
{
    return &t->value[v.id].shape;
}

const lh_place *lh_var_place(const lh_tape *t, lh_var v)
{
    return &t->value[v.id].place;
}

lh_status lh_var_data(lh_tape *t, lh_var v, const void **data)
{
    void *p = NULL;
    lh_status st = tape_check_var(t, v);
    if (st == LH_OK) st = tape_value_data(t, v.id, &p);
    *data = p;
    return st;
}

lh_device *lh_tape_device(const lh_tape *t)
{
    return t->device;
}

int lh_tape_coord(const lh_tape *t, int axis)
{
    return t->coord[axis];
}

int lh_tape_size(const lh_tape *t, int axis)
{
    return t->size[axis];
}

bool lh_tape_recomputing(const lh_tape *t)
{
    return t->recomputing;
}

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
    LH_CHECK(!c->vjp || (c->node->op->reads & LH_READS_IN(i)), LH_ERR_BUG,
             "the gradient reads input %d, which `reads` does not declare", i);
    LH_TRY(tape_value_data(c->tape, c->node->in[i], &p));
    *data = p;
done:
    return st;
}

lh_status lh_out(lh_call *c, int i, void **data)
{
    lh_status st = LH_OK;
    *data = NULL;
    LH_CHECK(i >= 0 && i < c->node->n_out, LH_ERR_BUG, "no output %d", i);
    LH_CHECK(!c->vjp || (c->node->op->reads & LH_READS_OUT(i)), LH_ERR_BUG,
             "the gradient reads output %d, which `reads` does not declare", i);
    LH_TRY(tape_value_data(c->tape, c->node->out + i, data));
done:
    return st;
}

lh_status lh_out_grad(lh_call *c, int i, const void **data)
{
    lh_status st = LH_OK;
    void *p = NULL;
    *data = NULL;
    LH_CHECK(c->vjp && i >= 0 && i < c->node->n_out, LH_ERR_BUG, "no output gradient %d", i);
    const tape_value *v = &c->tape->value[c->node->out + i];
    if (v->has_grad) LH_TRY(lh_memory_use(c->tape->memory, v->grad_slot, &p));
    *data = p;
done:
    return st;
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
    return tape_grad_target(c->tape, c->node->in[i], data, accumulate);
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
