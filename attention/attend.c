#include "attention/attend.h"

#include <math.h>

#include "attention/attend_internal.h"
#include "attention/by_heads.h"
#include "core/integer.h"

/* Queries are sharded by position; keys too, or replicated; weights are replicated. Or all by heads. */
static bool attend_placed(const lhi_attend_attrs *a, int i, const lh_place_word *w,
                          lh_place_kind kind)
{
    bool sharded = w->kind == kind && w->dim == 1 && w->layout != NULL;
    if (i == 0 || i == a->relative_q) return sharded;
    lh_place_kind whole = kind == LH_HEADS ? LH_HEADS : LH_REPLICATE;
    return w->kind == whole || (sharded && i != a->relative_weight);
}

static lh_status attend_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    lh_status st = LH_OK;
    const lhi_attend_attrs *a = lh_call_attrs(c);
    const lh_place_word data = in[0].axis[LH_AXIS_DATA];
    bool heads = in[0].axis[LH_AXIS_SEQ].kind == LH_HEADS;
    for (int i = 0; i < lh_call_inputs(c); i++) {
        bool weight = i > 0 && i == a->relative_weight;
        LH_CHECK(attend_placed(a, i, &in[i].axis[LH_AXIS_SEQ], heads ? LH_HEADS : LH_SHARD),
                 LH_ERR_BUG, "input %d must %s", i,
                 heads    ? "lie by heads, as the queries do"
                 : weight ? "be replicated"
                          : "be sharded by position");
        LH_CHECK(weight || in[i].axis[LH_AXIS_DATA].kind == data.kind, LH_ERR_BUG,
                 "input %d lies differently along the data axis", i);
    }
    for (int i = 0; i < LH_OP_OUTPUTS; i++) out[i] = in[0];
    out[LHI_ATTEND_LSE].axis[LH_AXIS_SEQ].dim = 2;
done:
    return st;
}

static const lh_op attend_op = {.name = "attend",
                                .reads = UINT64_MAX, /* q, every k and v; o, lse, kept rows */
                                .exact = LH_READS_OUT(LHI_ATTEND_LSE),
                                .by_heads = true,
                                .costly = true,
                                .place = attend_place,
                                .forward = lhi_attend_forward,
                                .vjp = lhi_attend_vjp};

/* Row counts alone would let a wrong layout mask the wrong scores. */
static bool attend_lies(const lh_tape *t, lh_var v, const lh_layout *layout)
{
    const lh_place_word *w = &lh_var_place(t, v)->axis[LH_AXIS_SEQ];
    if (layout->everywhere && w->kind == LH_REPLICATE) return true;
    bool split = w->kind == LH_HEADS || (w->kind == LH_SHARD && !layout->everywhere);
    return split && w->layout == layout;
}

static lh_status attend_check_segment(lh_tape *t, const lh_attend_desc *d,
                                      const lhi_attend_attrs *a, int i)
{
    lh_status st = LH_OK;
    int rank = lh_comm_rank(d->sequence);
    const lh_segment *s = &d->segment[i];
    const lhi_attend_part *p = &a->part[i];
    const lh_shape *q = lh_var_shape(t, d->q);
    const lh_shape *k = lh_var_shape(t, s->k);
    int64_t end = p->head + p->n_heads;
    LH_CHECK(lh_shape_equal(k, lh_var_shape(t, s->v)) && k->ndim == 4 && k->dim[0] == q->dim[0] &&
                 k->dim[1] == s->layout->rows[rank] && k->dim[3] == q->dim[3] &&
                 attend_lies(t, s->k, s->layout) && attend_lies(t, s->v, s->layout),
             LH_ERR_BUG, "keys and values must be [B, s, G, D] and lie by their segment's layout");
    LH_CHECK(k->dim[2] == a->kv_heads || k->dim[2] == p->kv_heads, LH_ERR_BUG,
             "segment %d has another number of key heads (%lld) than segment 0", i,
             (long long)k->dim[2]);
    LH_CHECK(p->head >= 0 && (p->n_heads > 0 || q->dim[2] == 0) && end <= q->dim[2] &&
                 (p->head == 0 || (p->head + a->skew) % a->group == 0) &&
                 (end == q->dim[2] || (end + a->skew) % a->group == 0),
             LH_ERR_BUG, "segment %d: heads %lld .. %lld are no whole groups of %lld", i,
             (long long)p->head, (long long)(end - 1), (long long)a->group);
    LH_CHECK(d->relative_weight.id == 0 || !s->layout->everywhere, LH_ERR_BUG,
             "segment %d: keys that lie everywhere have no positions for a relative term", i);
done:
    return st;
}

static lh_status attend_check(lh_tape *t, const lh_attend_desc *d, const lhi_attend_attrs *a)
{
    lh_status st = LH_OK;
    int rank = lh_comm_rank(d->sequence);
    const lh_shape *q = lh_var_shape(t, d->q);
    LH_CHECK(d->n_segments >= 1 && d->n_segments <= LH_SEGMENTS, LH_ERR_BUG, "%d segments",
             d->n_segments);
    LH_CHECK(q->ndim == 4 && q->dim[1] == d->layout->rows[rank] && attend_lies(t, d->q, d->layout),
             LH_ERR_BUG, "queries must be [B, s, H, D] and lie by the layout that is given");
    LH_CHECK(a->group > 0 && a->skew >= 0 && a->skew < a->group &&
                 lhi_floor_div(q->dim[2] + a->skew - 1, a->group) == a->kv_heads - 1 &&
                 (d->group > 0 || (a->kv_heads > 0 && q->dim[2] % a->kv_heads == 0)),
             LH_ERR_BUG, "%lld query heads are no multiple of %lld key heads", (long long)q->dim[2],
             (long long)a->kv_heads);
    if (d->relative_weight.id == 0) goto done;
    const lh_shape *w = lh_var_shape(t, d->relative_weight);
    LH_CHECK(lh_shape_equal(lh_var_shape(t, d->relative_q), q) && w->ndim == 2 &&
                 w->dim[0] == q->dim[2] * q->dim[3] && w->dim[1] % 2 == 0,
             LH_ERR_BUG,
             "a relative term wants queries [B, s, H, D] and a weight [H D, E], E even");
done:
    return st;
}

/* The number of input v, appended if it is new. */
static int attend_input(lh_var *in, int *n, lh_var v)
{
    for (int i = 1; i < *n; i++)
        if (in[i].id == v.id) return i;
    in[*n] = v;
    return (*n)++;
}

/* Segment i as it is recorded. *kept: elements of received rows so far. */
static lh_status attend_describe(lh_tape *t, const lh_attend_desc *d, lhi_attend_attrs *a, int i,
                                 int64_t *kept)
{
    lh_status st = LH_OK;
    const lh_segment *s = &d->segment[i];
    const lh_shape *q = lh_var_shape(t, d->q);
    const lh_shape *k = lh_var_shape(t, s->k);
    lhi_attend_part *p = &a->part[i];
    p->head = s->n_heads > 0 ? s->head : 0;
    p->n_heads = s->n_heads > 0 ? s->n_heads : q->dim[2];
    p->kv_first = (p->head + a->skew) / a->group;
    p->kv_heads = lhi_floor_div(p->head + p->n_heads - 1 + a->skew, a->group) - p->kv_first + 1;
    p->own_first = k->dim[2] == a->kv_heads ? 0 : p->kv_first;
    p->sight = s->sight;
    p->pattern = s->pattern;
    p->keys = s->layout;
    LH_TRY(attend_check_segment(t, d, a, i));
    LH_TRY(lh_plan_get(d->plans, s->pattern, d->layout, s->layout, lh_comm_rank(d->sequence),
                       &p->plan));
    p->kept = *kept;
    if (p->plan->exchange->keep)
        *kept += 2 * q->dim[0] * p->plan->block_rows * p->kv_heads * q->dim[3];
done:
    return st;
}

lh_status lh_attend(lh_tape *t, const lh_attend_desc *d, lh_var *o, lh_var *lse)
{
    lh_status st = LH_OK;
    lhi_attend_attrs a = {.comm = d->sequence, .scale = d->scale, .n_segments = d->n_segments};
    lh_var in[LHI_ATTEND_INPUTS] = {d->q};
    lh_var outs[LHI_ATTEND_OUTPUTS] = {{0}};
    lh_shape shapes[LHI_ATTEND_OUTPUTS];
    int64_t kept = 0;
    int n_in = 1;
    a.kv_heads = d->kv_heads > 0 ? d->kv_heads : lh_var_shape(t, d->segment[0].k)->dim[2];
    a.batch = lh_var_shape(t, d->q)->dim[0];
    a.first_head = d->first_head;
    a.queries = d->layout;
    a.group = lhi_max(d->group, 1);
    if (d->group == 0 && a.kv_heads > 0)
        a.group = lhi_max(lh_var_shape(t, d->q)->dim[2] / a.kv_heads, 1);
    a.skew = d->skew;
    LH_TRY(attend_check(t, d, &a));
    for (int i = 0; i < d->n_segments; i++) {
        LH_TRY(attend_describe(t, d, &a, i, &kept));
        a.part[i].in[0] = attend_input(in, &n_in, d->segment[i].k);
        a.part[i].in[1] = attend_input(in, &n_in, d->segment[i].v);
    }
    if (d->relative_weight.id > 0) {
        in[a.relative_q = n_in++] = d->relative_q;
        in[a.relative_weight = n_in++] = d->relative_weight;
    }
    /* the backward computes scores again, and other ranks get k and v: all from the same numbers */
    for (int i = 0; i < n_in; i++) LH_TRY(lh_store_round(t, in[i], &in[i]));
    const lh_shape *q = lh_var_shape(t, d->q);
    shapes[LHI_ATTEND_O] = *q;
    shapes[LHI_ATTEND_LSE] = lh_shape_3(LH_REAL, q->dim[0], q->dim[2], q->dim[1]);
    shapes[LHI_ATTEND_KEPT] = lh_shape_2(LH_REAL, 1, kept);
    LH_TRY(lh_record(t, &attend_op, &a, sizeof a, n_in, in, LHI_ATTEND_OUTPUTS, shapes, outs));
done:
    *o = outs[LHI_ATTEND_O];
    if (lse != NULL) *lse = outs[LHI_ATTEND_LSE];
    return st;
}

bool lhi_attend_seen(const lh_tape_item *item, int i, lh_attend_seen *out)
{
    const lhi_attend_attrs *a = item->attrs;
    if (item->op != &attend_op || i >= a->n_segments) return false;
    const lhi_attend_part *p = &a->part[i];
    *out = (lh_attend_seen){.part = item->part,
                            .batch = a->batch,
                            .head = a->first_head + p->head,
                            .n_heads = p->n_heads,
                            .pattern = p->pattern,
                            .queries = a->queries,
                            .keys = p->keys,
                            .plan = p->plan};
    return true;
}

lh_status lh_attend_self(lh_tape *t, const lh_attn_desc *d, const lh_qkv *in,
                         const lh_pattern *pattern, lh_var *out)
{
    lh_status st = LH_OK;
    lh_attend_desc a = {.sequence = in->mesh->axis[LH_AXIS_SEQ],
                        .plans = in->plans,
                        .q = in->q,
                        .layout = d->layout,
                        .kv_heads = d->kv_heads,
                        .scale = 1.0 / sqrt((double)d->head_width),
                        .n_segments = 1,
                        .segment = {{.k = in->k,
                                     .v = in->v,
                                     .layout = d->layout,
                                     .pattern = pattern,
                                     .sight = {in->valid, lh_attend_documents(d, in), NULL}}}};
    LH_TRY(lh_attend_relative(t, in, &a));
    LH_TRY(lh_attend_over(t, d, in, &a, out));
done:
    return st;
}

lh_status lh_attend_relative(lh_tape *t, const lh_qkv *in, lh_attend_desc *d)
{
    lh_status st = LH_OK;
    if (in->relative_weight.id == 0) return LH_OK;
    LH_TRY(lh_add_bias(t, d->q, in->relative_v, &d->relative_q));
    LH_TRY(lh_add_bias(t, d->q, in->relative_u, &d->q));
    d->relative_weight = in->relative_weight;
done:
    return st;
}
