/* Values that wait for the backward pass in bfloat16: lh_tape_store. */
#include "core/tape_internal.h"

void lh_tape_store(lh_tape *t, lh_dtype store)
{
    t->store = store;
}

lh_dtype lh_tape_stored(const lh_tape *t)
{
    return t->store;
}

/* Real, and by position: what grows with the sequence. */
static bool store_fits(const lh_tape *t, const tape_value *v)
{
    const lh_place_word *w = &v->place.axis[LH_AXIS_SEQ];
    return t->store == LH_BF16 && v->shape.dtype == LH_REAL && w->layout != NULL &&
           (w->kind == LH_SHARD || w->kind == LH_HEADS);
}

static lh_status store_value(lh_tape *t, int32_t id)
{
    lh_status st = LH_OK;
    void *x = NULL;
    void *y = NULL;
    int32_t root = t->value[id].root;
    tape_value *v = &t->value[root];
    bool made = v->slot >= 0 && v->needs_grad; /* nor is it a constant, such as a table of angles */
    if (!made || v->half >= 0 || v->exact || !store_fits(t, v)) return LH_OK;
    if (lhi_tape_drops(t, root)) return LH_OK; /* it is made again, of what its maker keeps */
    int64_t n = lh_shape_count(&v->shape);
    LH_TRY(lh_memory_use(t->memory, v->slot, &x));
    LH_TRY(
        lh_memory_new(t->memory, LH_SPACE_DEVICE, (size_t)n * lh_dtype_bytes(LH_BF16), &v->half));
    LH_TRY(lh_memory_use(t->memory, v->half, &y));
    lh_run_to_bf16(t->device, &(lh_bf16_args){n, x, y});
done:
    return st;
}

/* In the first run of the segment at hand: will its recomputation find the value, not make it? */
static bool store_stays(const lh_tape *t, int32_t root)
{
    const tape_segment *s = &t->segment[t->n_segments];
    int64_t maker = t->value[root].maker;
    return root < s->first || (s->light && maker >= 0 && t->node[maker].op->costly);
}

/* In a segment's first run, that is what its recomputation begins with; what it makes, it makes again,
 * and keeps then. */
lh_status lhi_tape_keep(lh_tape *t, int64_t k)
{
    lh_status st = LH_OK;
    const tape_node *n = &t->node[k];
    bool first_run = t->in_segment && !t->recomputing;
    if (t->store == LH_REAL || !t->gradients) return LH_OK;
    for (int i = 0; i < n->n_in; i++) {
        if (n->in[i] == 0) continue;
        bool wanted = first_run ? store_stays(t, t->value[n->in[i]].root)
                                : n->needs_grad && (n->op->reads & LH_READS_IN(i)) != 0;
        if (wanted) LH_TRY(store_value(t, n->in[i]));
    }
    for (int i = 0; i < n->n_out && n->needs_grad; i++)
        if ((n->op->reads & LH_READS_OUT(i)) != 0 && (!first_run || store_stays(t, n->out + i)))
            LH_TRY(store_value(t, n->out + i));
done:
    return st;
}

/* While a segment is recomputed: is the value one that it found, not one that it made anew? */
static bool store_found(const lh_tape *t, int32_t root)
{
    return root < t->again_from || !t->node[t->value[root].maker].again;
}

lh_status lhi_call_data(const lh_call *c, int32_t id, void **data)
{
    lh_status st = LH_OK;
    lh_tape *t = c->tape;
    void *half = NULL;
    int32_t root = t->value[id].root;
    tape_value *v = &t->value[root];
    if (v->half < 0 || !(c->vjp || c->remake || (t->recomputing && store_found(t, root))))
        return lhi_tape_data(t, id, data);
    if (v->wide_call != t->calls) {
        int64_t n = lh_shape_count(&v->shape);
        LH_TRY(lh_memory_use(t->memory, v->half, &half));
        LH_TRY(lh_memory_scratch(t->memory, LH_SPACE_DEVICE, lh_shape_bytes(&v->shape), &v->wide));
        lh_run_from_bf16(t->device, &(lh_bf16_args){n, half, v->wide});
        v->wide_call = t->calls;
    }
    *data = v->wide;
done:
    return st;
}

/* --- rounding --- */

static lh_status round_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    (void)c;
    out[0] = in[0];
    return LH_OK;
}

static lh_status round_forward(lh_call *c)
{
    lh_status st = LH_OK;
    const void *x = NULL;
    void *y = NULL;
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_out(c, 0, &y));
    lh_run_round_bf16(lh_call_device(c),
                      &(lh_bf16_args){lh_shape_count(lh_call_in_shape(c, 0)), x, y});
done:
    return st;
}

static lh_status round_vjp(lh_call *c)
{
    return lh_pass_grad(c, 0, 0);
}

static const lh_op round_op = {.name = "store_round",
                               .by_heads = true,
                               .place = round_place,
                               .forward = round_forward,
                               .vjp = round_vjp};

lh_status lh_store_round(lh_tape *t, lh_var x, lh_var *y)
{
    lh_status st = lhi_tape_check(t, x);
    if (st != LH_OK) return st;
    const tape_value *v = &t->value[t->value[x.id].root];
    const lh_shape shape = t->value[x.id].shape;
    *y = x;
    if (v->rounded || !store_fits(t, v)) return LH_OK;
    st = lh_record(t, &round_op, NULL, 0, 1, &x, 1, &shape, y);
    if (st == LH_OK) lh_store_rounded(t, *y);
    return st;
}

void lh_store_rounded(lh_tape *t, lh_var v)
{
    t->value[t->value[v.id].root].rounded = true;
}
