#include "core/pulse.h"
#include "core/tape_internal.h"

#include <string.h>

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
    lh_free(&(*t)->grad);
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
    t->n_nodes = t->n_segments = t->n_grads = t->attrs_bytes = t->calls = 0;
    t->part = 0;
    t->between = NULL;
    memset(t->part_flops, 0, sizeof t->part_flops);
}

static lh_status tape_new_value(lh_tape *t, lh_shape shape, lh_place place, int32_t *id)
{
    lh_status st = lh_grow(&t->value, &t->values_capacity, t->n_values + 1, sizeof *t->value);
    if (st != LH_OK) return st;
    *id = (int32_t)t->n_values++;
    t->value[*id] = (tape_value){
        .shape = shape, .place = place, .root = *id, .slot = -1, .half = -1, .maker = -1};
    return LH_OK;
}

lh_status lhi_tape_check(const lh_tape *t, lh_var v)
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
    lh_status st = p->frozen ? lh_tape_input(t, p->value, p->shape, p->place, out)
                             : lh_tape_leaf(t, p->value, p->grad, p->shape, p->place, out);
    if (st == LH_OK) t->value[out->id].param = p;
    return st;
}

lh_status lhi_tape_data(lh_tape *t, int32_t id, void **data)
{
    const tape_value *v = &t->value[t->value[id].root];
    if (v->slot >= 0) return lh_memory_use(t->memory, v->slot, data);
    *data = (void *)(uintptr_t)v->data;
    return LH_OK;
}

lh_status lhi_tape_new_output(lh_tape *t, const tape_node *n, int i)
{
    tape_value *v = &t->value[n->out + i];
    v->half = -1;
    return lh_memory_new(t->memory, LH_SPACE_DEVICE, lh_shape_bytes(&v->shape), &v->slot);
}

void lh_tape_profile(lh_tape *t, lh_profile *p)
{
    t->profile = p;
}

lh_profile_mark lhi_tape_enter(lh_tape *t, const tape_node *n, lh_direction direction)
{
    lh_memory_part(t->memory, n->part);
    lh_pulse_op(t->device->pulse, n->op->name, direction, n->part);
    return lh_profile_begin(t->profile, t->device);
}

void lhi_tape_leave(lh_tape *t, const tape_node *n, lh_profile_mark begin, lh_direction direction)
{
    t->part_flops[n->part] += t->device->flops - begin.flops;
    lh_profile_end(t->profile, t->device, begin, n->op->name, direction);
    lh_pulse_op(t->device->pulse, NULL, direction, n->part);
    if (t->inspector != NULL) lhi_tape_inspect(t, n, direction);
}

lh_status lhi_tape_forward(lh_tape *t, int64_t k)
{
    lh_status st = LH_OK;
    lh_call call = {.tape = t, .node = &t->node[k]};
    lh_direction direction = t->recomputing ? LH_DIRECTION_RECOMPUTE : LH_DIRECTION_FORWARD;
    lh_profile_mark begin = lhi_tape_enter(t, call.node, direction);
    LH_TRY(lh_memory_tick(t->memory));
    t->calls++;
    for (int i = 0; i < call.node->n_out; i++) LH_TRY(lhi_tape_new_output(t, call.node, i));
    LH_TRY(call.node->op->forward(&call));
    LH_TRY(lhi_tape_keep(t, k));
    lhi_tape_leave(t, call.node, begin, direction);
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
    *n = (tape_node){.op = op, .attrs = t->attrs_bytes, .n_in = n_in, .part = t->part};
    if (attrs_bytes > 0) memcpy(t->attrs + t->attrs_bytes, attrs, attrs_bytes);
    for (int i = 0; i < n_in; i++) {
        n->in[i] = in[i].id;
        if (in[i].id == 0) continue; /* an optional input that was not given */
        LH_TRY(lhi_tape_check(t, in[i]));
        needs = needs || t->value[in[i].id].needs_grad;
    }
    LH_CHECK(!needs || op->vjp != NULL, LH_ERR_BUG, "no gradient is defined for this operation");
    n->needs_grad = needs;
    t->attrs_bytes += aligned;
done:
    return st;
}

/* Nine arguments, since every operation is recorded by one such call and a struct would say no more.
 * NOLINTNEXTLINE(readability-function-size) */
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
    for (int i = 0; i < n_in; i++) {
        in_place[i] = in[i].id > 0 ? t->value[in[i].id].place : lh_place_replicated();
        LH_CHECK(op->by_heads || in_place[i].axis[LH_AXIS_SEQ].kind != LH_HEADS, LH_ERR_BUG,
                 "input %d lies by heads: bring it back by positions first (lh_to_positions)", i);
    }
    for (int i = 0; i < n_out; i++) out_place[i] = lh_place_replicated();
    LH_TRY(op->place(&(lh_call){.tape = t, .node = n}, in_place, out_place));
    for (int i = 0; i < n_out; i++) {
        LH_TRY(tape_new_value(t, out_shapes[i], out_place[i], &outs[i].id));
        t->value[outs[i].id].needs_grad = n->needs_grad;
        t->value[outs[i].id].maker = t->n_nodes;
        t->value[outs[i].id].exact = (op->exact & LH_READS_OUT(i)) != 0;
    }
    n->out = outs[0].id;
    n->n_out = n_out;
    LH_TRY(lhi_tape_forward(t, t->n_nodes));
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
    LH_TRY(lhi_tape_check(t, x));
    const tape_value source = t->value[x.id];
    LH_CHECK(lh_shape_count(&shape) == lh_shape_count(&source.shape) &&
                 shape.dtype == source.shape.dtype,
             LH_ERR_BUG, "%s cannot be seen as %s", lh_shape_text(&source.shape, a, sizeof a),
             lh_shape_text(&shape, b, sizeof b));
    for (int axis = 0; axis < LH_AXES; axis++) {
        const lh_place_word *w = &source.place.axis[axis];
        LH_CHECK(w->kind != LH_HEADS || lh_shape_equal(&shape, &source.shape), LH_ERR_BUG,
                 "reshape of a value that lies by heads");
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
    lh_status st = lhi_tape_check(t, x);
    return st == LH_OK ? tape_alias(t, x, t->value[x.id].shape, false, out) : st;
}

lh_status lh_reshape(lh_tape *t, lh_var x, lh_shape shape, lh_var *out)
{
    return tape_alias(t, x, shape, true, out);
}

static lh_status tape_segment_begin(lh_tape *t, bool light)
{
    lh_status st = LH_OK;
    LH_CHECK(!t->in_segment, LH_ERR_BUG, "segments do not nest");
    LH_TRY(lh_grow(&t->segment, &t->segments_capacity, t->n_segments + 1, sizeof *t->segment));
    t->segment[t->n_segments] =
        (tape_segment){.begin = t->n_nodes, .first = (int32_t)t->n_values, .light = light};
    t->in_segment = true;
done:
    return st;
}

lh_status lh_tape_segment_begin(lh_tape *t)
{
    return tape_segment_begin(t, false);
}

lh_status lh_tape_segment_begin_light(lh_tape *t)
{
    return tape_segment_begin(t, true);
}

bool lh_tape_keeps(const lh_tape *t)
{
    return t->gradients && (!t->in_segment || t->segment[t->n_segments].light);
}

lh_status lh_tape_segment_end(lh_tape *t)
{
    if (!t->in_segment) return LH_RAISE(LH_ERR_BUG, "segment ended without a beginning");
    t->segment[t->n_segments++].end = t->n_nodes;
    t->in_segment = false;
    return LH_OK;
}

void lh_tape_between(lh_tape *t, void (*fn)(void *user), void *user)
{
    t->between = fn;
    t->between_user = user;
}

void lh_tape_part(lh_tape *t, int part)
{
    t->part = part >= 0 && part < LH_TAPE_PARTS ? part : 0;
}

bool lh_tape_recorded(const lh_tape *t, int64_t k, lh_tape_item *out)
{
    if (k < 0 || k >= t->n_nodes) return false;
    const tape_node *n = &t->node[k];
    *out = (lh_tape_item){n->op, t->attrs + n->attrs, n->part};
    return true;
}

double lh_tape_part_flops(const lh_tape *t, int part)
{
    return part >= 0 && part < LH_TAPE_PARTS ? t->part_flops[part] : 0.0;
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
    lh_status st = lhi_tape_check(t, v);
    if (st == LH_OK) st = lhi_tape_data(t, v.id, &p);
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
