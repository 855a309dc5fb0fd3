#include "attention/attend.h"

#include <math.h>

enum {
    ATTEND_O,
    ATTEND_LSE,
    ATTEND_KEPT
}; /* outputs; kept k, v of segment i: ATTEND_KEPT + 2 i, + 1 */

typedef struct attend_attrs {
    lh_comm *comm;
    double scale;
    int n_segments;
    lh_sight sight[LH_SEGMENTS];
    const lh_plan *plan[LH_SEGMENTS];
} attend_attrs;

/* One running forward or backward. */
typedef struct attend_run {
    lh_call *call;
    lh_device *device;
    const attend_attrs *attrs;
    int64_t batch, heads, kv_heads, width, rows;
    lh_attend_args fwd; /* q, o, max, sum, scratch; keys and tiles per call */
    lh_attend_grad_args bwd;
} attend_run;

/* One segment of it. */
typedef struct attend_keys {
    const lh_plan *plan;
    const lh_exchange *x;
    lh_sight sight;
    const void *home[2]; /* k, v of this rank */
    int64_t home_rows;
    void *block[2]; /* received k, v */
    void *d_home[2], *d_block[2];
    bool wanted; /* gradients of these keys go home */
    lh_transfer fetch, give;
} attend_keys;

static attend_run attend_open(lh_call *c)
{
    attend_run r = {.call = c, .device = lh_call_device(c), .attrs = lh_call_attrs(c)};
    const lh_shape *q = lh_call_in_shape(c, 0);
    r.batch = q->dim[0];
    r.rows = q->dim[1];
    r.heads = q->dim[2];
    r.width = q->dim[3];
    r.kv_heads = lh_call_in_shape(c, 1)->dim[2];
    return r;
}

/* Scratch for the kernels: enough for the largest block of keys of any segment. */
static lh_status attend_scratch(const attend_run *r, void **scratch)
{
    int64_t most = 0;
    for (int i = 0; i < r->attrs->n_segments; i++) {
        int64_t home = lh_call_in_shape(r->call, 1 + 2 * i)->dim[1];
        if (home > most) most = home;
        if (r->attrs->plan[i]->block_rows > most) most = r->attrs->plan[i]->block_rows;
    }
    return lh_scratch(r->call, lh_attend_scratch(r->device, r->heads, r->kv_heads, r->width, most),
                      scratch);
}

static lh_transfer attend_transfer(const attend_run *r, const attend_keys *k)
{
    return (lh_transfer){.comm = r->attrs->comm,
                         .device = r->device,
                         .exchange = k->x,
                         .n = 2,
                         .batch = r->batch,
                         .width = r->kv_heads * r->width,
                         .rows = k->home_rows,
                         .block_rows = k->plan->block_rows};
}

/* Keys of segment i: what is here, the block for what comes, and the buffers of the fetch. */
static lh_status attend_open_keys(const attend_run *r, int i, bool fetches, attend_keys *k)
{
    lh_status st = LH_OK;
    lh_call *c = r->call;
    *k = (attend_keys){
        .plan = r->attrs->plan[i], .x = r->attrs->plan[i]->exchange, .sight = r->attrs->sight[i]};
    k->home_rows = lh_call_in_shape(c, 1 + 2 * i)->dim[1];
    size_t bytes =
        (size_t)(r->batch * k->plan->block_rows * r->kv_heads * r->width) * lh_dtype_bytes(LH_REAL);
    for (int n = 0; n < 2; n++) {
        LH_TRY(lh_in(c, 1 + 2 * i + n, &k->home[n]));
        if (k->x->keep)
            LH_TRY(lh_out(c, ATTEND_KEPT + 2 * i + n, &k->block[n]));
        else
            LH_TRY(lh_scratch(c, bytes, &k->block[n]));
    }
    k->fetch = attend_transfer(r, k);
    if (!fetches) goto done;
    LH_TRY(lh_host_scratch(c, lh_transfer_bytes(&k->fetch, k->x->max_send), &k->fetch.send));
    LH_TRY(lh_host_scratch(c, lh_transfer_bytes(&k->fetch, k->x->max_recv), &k->fetch.recv));
done:
    return st;
}

/* Tiles of part 0 (own keys) or 1 + step. */
static void attend_tiles(attend_run *r, const attend_keys *k, int part)
{
    const lh_plan *p = k->plan;
    const void *const *keys = part == 0 ? k->home : (const void *const *)k->block;
    r->fwd.tiles = p->tile + p->first[part];
    r->fwd.n_tiles = p->first[part + 1] - p->first[part];
    r->fwd.bits = p->bits;
    r->fwd.sight = k->sight;
    r->fwd.k = keys[0];
    r->fwd.v = keys[1];
    r->fwd.k_rows = part == 0 ? k->home_rows : p->block_rows;
    if (r->fwd.n_tiles > 0) lh_run_attend(r->device, &r->fwd);
}

static void attend_segment(attend_run *r, attend_keys *k)
{
    if (k->x->n_steps > 0) lh_fetch_start(&k->fetch, 0, k->home);
    attend_tiles(r, k, 0);
    for (int i = 0; i < k->x->n_steps; i++) {
        lh_fetch_finish(&k->fetch, i, k->block, k->x->keep ? k->x->step[i].offset : 0);
        if (i + 1 < k->x->n_steps) lh_fetch_start(&k->fetch, i + 1, k->home);
        attend_tiles(r, k, i + 1);
    }
}

static lh_status attend_forward(lh_call *c)
{
    lh_status st = LH_OK;
    attend_run r = attend_open(c);
    int64_t stats = r.batch * r.heads * r.rows;
    bool again = lh_tape_recomputing(lh_call_tape(c));
    r.fwd = (lh_attend_args){.batch = r.batch,
                             .heads = r.heads,
                             .kv_heads = r.kv_heads,
                             .width = r.width,
                             .q_rows = r.rows,
                             .n_heads = r.heads,
                             .scale = r.attrs->scale};
    LH_TRY(lh_in(c, 0, &r.fwd.q));
    LH_TRY(lh_out(c, ATTEND_O, &r.fwd.o));
    LH_TRY(lh_out(c, ATTEND_LSE, &r.fwd.max)); /* becomes lse in attend_finish */
    LH_TRY(lh_scratch(c, (size_t)stats * lh_dtype_bytes(LH_REAL), &r.fwd.sum));
    LH_TRY(attend_scratch(&r, &r.fwd.scratch));
    lh_run_fill(r.device, &(lh_fill_args){stats * r.width, 0.0, r.fwd.o});
    lh_run_fill(r.device, &(lh_fill_args){stats, 0.0, r.fwd.sum});
    lh_run_fill(r.device, &(lh_fill_args){stats, -HUGE_VAL, r.fwd.max});
    for (int i = 0; i < r.attrs->n_segments; i++) {
        attend_keys k;
        LH_TRY(attend_open_keys(&r, i, true, &k));
        k.fetch.purpose = again ? LH_SEND_RECOMPUTE : LH_SEND_FORWARD;
        attend_segment(&r, &k);
    }
    lh_run_attend_finish(r.device,
                         &(lh_attend_finish_args){r.batch, r.heads, r.width, r.rows, r.fwd.o,
                                                  r.fwd.max, r.fwd.sum, r.fwd.max});
done:
    return st;
}

static void attend_grad_tiles(attend_run *r, const attend_keys *k, int part)
{
    const lh_plan *p = k->plan;
    const void *const *keys = part == 0 ? k->home : (const void *const *)k->block;
    void *const *d_keys = part == 0 ? k->d_home : k->d_block;
    r->bwd.tiles = p->tile + p->first[part];
    r->bwd.n_tiles = p->first[part + 1] - p->first[part];
    r->bwd.bits = p->bits;
    r->bwd.sight = k->sight;
    r->bwd.k = keys[0];
    r->bwd.v = keys[1];
    r->bwd.dk = d_keys[0];
    r->bwd.dv = d_keys[1];
    r->bwd.k_rows = part == 0 ? k->home_rows : p->block_rows;
    if (r->bwd.n_tiles > 0) lh_run_attend_grad(r->device, &r->bwd);
}

/* Remote steps first: their gradients fly home while the next step, and at last the own keys, are
 * computed. */
static void attend_segment_grad(attend_run *r, attend_keys *k)
{
    int steps = k->x->n_steps;
    bool keep = k->x->keep;
    int64_t block = r->batch * k->plan->block_rows * r->kv_heads * r->width;
    if (!keep && steps > 0) lh_fetch_start(&k->fetch, 0, k->home);
    for (int i = 0; i < steps; i++) {
        int64_t offset = keep ? k->x->step[i].offset : 0;
        if (!keep) {
            lh_fetch_finish(&k->fetch, i, k->block, 0);
            if (i + 1 < steps) lh_fetch_start(&k->fetch, i + 1, k->home);
        }
        for (int n = 0; n < 2 && (!keep || i == 0); n++)
            lh_run_fill(r->device, &(lh_fill_args){block, 0.0, k->d_block[n]});
        attend_grad_tiles(r, k, i + 1);
        if (!k->wanted) continue;
        if (i > 0) lh_return_finish(&k->give, i - 1, k->d_home);
        lh_return_start(&k->give, i, (const void *const *)k->d_block, offset);
    }
    attend_grad_tiles(r, k, 0);
    if (steps > 0 && k->wanted) lh_return_finish(&k->give, steps - 1, k->d_home);
}

static lh_status attend_open_keys_grad(const attend_run *r, int i, attend_keys *k)
{
    lh_status st = LH_OK;
    lh_call *c = r->call;
    LH_TRY(attend_open_keys(r, i, !r->attrs->plan[i]->exchange->keep, k));
    size_t row = (size_t)(r->batch * r->kv_heads * r->width) * lh_dtype_bytes(LH_REAL);
    size_t home = row * (size_t)k->home_rows;
    size_t bytes = row * (size_t)k->plan->block_rows;
    for (int n = 0; n < 2; n++) {
        LH_TRY(lh_in_grad_zeroed(c, 1 + 2 * i + n, &k->d_home[n]));
        k->wanted = k->wanted || k->d_home[n] != NULL;
        if (k->d_home[n] == NULL) LH_TRY(lh_scratch(c, home, &k->d_home[n])); /* thrown away */
        LH_TRY(lh_scratch(c, bytes, &k->d_block[n]));
    }
    k->fetch.purpose = LH_SEND_BACKWARD;
    k->give = attend_transfer(r, k);
    k->give.purpose = LH_SEND_BACKWARD;
    LH_TRY(lh_host_scratch(c, lh_transfer_bytes(&k->give, k->x->max_recv), &k->give.send));
    LH_TRY(lh_host_scratch(c, lh_transfer_bytes(&k->give, k->x->max_send), &k->give.recv));
done:
    return st;
}

/* The gradient of o; zeros if only lse has one. */
static lh_status attend_out_grad(const attend_run *r, const void **d_o)
{
    lh_status st = LH_OK;
    void *zero = NULL;
    int64_t n = r->batch * r->rows * r->heads * r->width;
    LH_TRY(lh_out_grad(r->call, ATTEND_O, d_o));
    if (*d_o != NULL) goto done;
    LH_TRY(lh_scratch(r->call, (size_t)n * lh_dtype_bytes(LH_REAL), &zero));
    lh_run_fill(r->device, &(lh_fill_args){n, 0.0, zero});
    *d_o = zero;
done:
    return st;
}

static lh_status attend_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    attend_run r = attend_open(c);
    void *o = NULL;
    void *lse = NULL;
    void *delta = NULL;
    const void *dlse = NULL;
    r.bwd = (lh_attend_grad_args){.batch = r.batch,
                                  .heads = r.heads,
                                  .kv_heads = r.kv_heads,
                                  .width = r.width,
                                  .q_rows = r.rows,
                                  .n_heads = r.heads,
                                  .scale = r.attrs->scale};
    LH_TRY(lh_in(c, 0, &r.bwd.q));
    LH_TRY(lh_out(c, ATTEND_O, &o));
    LH_TRY(lh_out(c, ATTEND_LSE, &lse));
    LH_TRY(attend_out_grad(&r, &r.bwd.d_o));
    LH_TRY(lh_out_grad(c, ATTEND_LSE, &dlse));
    LH_TRY(lh_in_grad_zeroed(c, 0, &r.bwd.dq));
    if (r.bwd.dq == NULL)
        LH_TRY(lh_scratch(c, lh_shape_bytes(lh_call_in_shape(c, 0)), &r.bwd.dq)); /* thrown away */
    LH_TRY(lh_scratch(c, (size_t)(r.batch * r.heads * r.rows) * lh_dtype_bytes(LH_REAL), &delta));
    LH_TRY(attend_scratch(&r, &r.bwd.scratch));
    r.bwd.lse = lse;
    r.bwd.delta = delta;
    lh_run_attend_delta(r.device, &(lh_attend_delta_args){r.batch, r.heads, r.width, r.rows, o,
                                                          r.bwd.d_o, dlse, delta});
    for (int i = 0; i < r.attrs->n_segments; i++) {
        attend_keys k;
        LH_TRY(attend_open_keys_grad(&r, i, &k));
        attend_segment_grad(&r, &k);
    }
done:
    return st;
}

static lh_status attend_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    lh_status st = LH_OK;
    const lh_place_word data = in[0].axis[LH_AXIS_DATA];
    for (int i = 0; i < lh_call_inputs(c); i++) {
        const lh_place_word *w = &in[i].axis[LH_AXIS_SEQ];
        LH_CHECK(w->kind == LH_SHARD && w->dim == 1 && w->layout != NULL, LH_ERR_BUG,
                 "input %d must be sharded by position", i);
        LH_CHECK(in[i].axis[LH_AXIS_DATA].kind == data.kind, LH_ERR_BUG,
                 "input %d lies differently along the data axis", i);
    }
    for (int i = 0; i < LH_OP_OUTPUTS; i++) out[i] = in[0];
    out[ATTEND_LSE].axis[LH_AXIS_SEQ].dim = 2;
done:
    return st;
}

static const lh_op attend_op = {.name = "attend",
                                .reads = UINT64_MAX, /* q, every k and v; o, lse, kept rows */
                                .place = attend_place,
                                .forward = attend_forward,
                                .vjp = attend_vjp};

/* Row counts alone would let a wrong layout mask the wrong scores. */
static bool attend_lies(const lh_tape *t, lh_var v, const lh_layout *layout)
{
    const lh_place_word *w = &lh_var_place(t, v)->axis[LH_AXIS_SEQ];
    return w->kind == LH_SHARD && w->layout == layout;
}

static lh_status attend_check(lh_tape *t, const lh_attend_desc *d)
{
    lh_status st = LH_OK;
    int rank = lh_tape_coord(t, LH_AXIS_SEQ);
    const lh_shape *q = lh_var_shape(t, d->q);
    LH_CHECK(d->n_segments >= 1 && d->n_segments <= LH_SEGMENTS, LH_ERR_BUG, "%d segments",
             d->n_segments);
    LH_CHECK(q->ndim == 4 && q->dim[1] == d->layout->rows[rank] && attend_lies(t, d->q, d->layout),
             LH_ERR_BUG, "queries must be [B, s, H, D] and lie by the layout that is given");
    for (int i = 0; i < d->n_segments; i++) {
        const lh_segment *s = &d->segment[i];
        const lh_shape *k = lh_var_shape(t, s->k);
        LH_CHECK(
            lh_shape_equal(k, lh_var_shape(t, s->v)) && k->ndim == 4 && k->dim[0] == q->dim[0] &&
                k->dim[1] == s->layout->rows[rank] && k->dim[3] == q->dim[3] &&
                attend_lies(t, s->k, s->layout) && attend_lies(t, s->v, s->layout),
            LH_ERR_BUG, "keys and values must be [B, s, G, D] and lie by their segment's layout");
        LH_CHECK(k->dim[2] == lh_var_shape(t, d->segment[0].k)->dim[2], LH_ERR_BUG,
                 "segment %d has another number of key heads than segment 0", i);
        LH_CHECK(k->dim[2] > 0 && q->dim[2] % k->dim[2] == 0, LH_ERR_BUG,
                 "%lld query heads are no multiple of %lld key heads", (long long)q->dim[2],
                 (long long)k->dim[2]);
    }
done:
    return st;
}

lh_status lh_attend(lh_tape *t, const lh_attend_desc *d, lh_var *o, lh_var *lse)
{
    lh_status st = LH_OK;
    attend_attrs attrs = {d->sequence, d->scale, d->n_segments, {{NULL}}, {NULL}};
    lh_var in[1 + 2 * LH_SEGMENTS] = {d->q};
    lh_var outs[ATTEND_KEPT + 2 * LH_SEGMENTS] = {{0}};
    lh_shape shapes[ATTEND_KEPT + 2 * LH_SEGMENTS];
    LH_TRY(attend_check(t, d));
    const lh_shape *q = lh_var_shape(t, d->q);
    shapes[ATTEND_O] = *q;
    shapes[ATTEND_LSE] = lh_shape_3(LH_REAL, q->dim[0], q->dim[2], q->dim[1]);
    for (int i = 0; i < d->n_segments; i++) {
        const lh_segment *s = &d->segment[i];
        LH_TRY(lh_plan_get(d->plans, s->pattern, d->layout, s->layout,
                           lh_tape_coord(t, LH_AXIS_SEQ), &attrs.plan[i]));
        attrs.sight[i] = s->sight;
        in[1 + 2 * i] = s->k;
        in[2 + 2 * i] = s->v;
        shapes[ATTEND_KEPT + 2 * i] = *lh_var_shape(t, s->k);
        shapes[ATTEND_KEPT + 2 * i].dim[1] =
            attrs.plan[i]->exchange->keep ? attrs.plan[i]->block_rows : 0;
        shapes[ATTEND_KEPT + 2 * i + 1] = shapes[ATTEND_KEPT + 2 * i];
    }
    LH_TRY(lh_record(t, &attend_op, &attrs, sizeof attrs, 1 + 2 * d->n_segments, in,
                     ATTEND_KEPT + 2 * d->n_segments, shapes, outs));
done:
    *o = outs[ATTEND_O];
    if (lse != NULL) *lse = outs[ATTEND_LSE];
    return st;
}

lh_status lh_attend_self(lh_tape *t, const lh_attn_desc *d, const lh_qkv *in,
                         const lh_pattern *pattern, lh_var *out)
{
    lh_attend_desc a = {.sequence = in->mesh->axis[LH_AXIS_SEQ],
                        .plans = in->plans,
                        .q = in->q,
                        .layout = d->layout,
                        .scale = 1.0 / sqrt((double)d->head_width),
                        .n_segments = 1,
                        .segment = {{.k = in->k,
                                     .v = in->v,
                                     .layout = d->layout,
                                     .pattern = pattern,
                                     .sight = {in->valid, in->documents, NULL}}}};
    return lh_attend(t, &a, out, NULL);
}
