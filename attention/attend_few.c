/* Few queries against keys that are sharded by position: see lh_attend_few in attend.h. */
#include "attention/attend.h"

#include <math.h>

enum { FEW_O, FEW_LSE, FEW_OUTPUTS };

typedef struct few_attrs {
    lh_comm *comm;
    double scale;
    const lh_plan *plan;
    lh_sight sight;
    int64_t batch, heads; /* batch to keys: for lhi_attend_few_seen */
    const lh_layout *queries, *keys;
} few_attrs;

/* What forward and backward share. */
typedef struct few_run {
    lh_call *call;
    lh_device *device;
    const few_attrs *attrs;
    int64_t batch, queries, heads, width, rows, kv_heads;
    int64_t stats, elements; /* of lse and of o */
    void *scratch;
} few_run;

static lh_status few_open(lh_call *c, bool backward, few_run *r)
{
    const lh_shape *q = lh_call_in_shape(c, 0);
    const lh_shape *k = lh_call_in_shape(c, 1);
    *r = (few_run){.call = c, .device = lh_call_device(c), .attrs = lh_call_attrs(c)};
    r->batch = q->dim[0];
    r->queries = q->dim[1];
    r->heads = q->dim[2];
    r->width = q->dim[3];
    r->rows = k->dim[1];
    r->kv_heads = k->dim[2];
    r->stats = r->batch * r->heads * r->queries;
    r->elements = r->stats * r->width;
    const lh_attend_room room = {.width = r->width, .k_rows = r->rows, .backward = backward};
    return lh_scratch(c, lh_attend_scratch(r->device, &room), &r->scratch);
}

/* x [n] of the device = its sum, or maximum, over the ranks of the sequence. host: room for it. */
static void few_reduce(const few_run *r, void *x, int64_t n, bool sum, void *host)
{
    size_t bytes = (size_t)n * lh_dtype_bytes(LH_REAL);
    if (!r->device->counting) lh_copy_out(r->device, host, x, bytes);
    if (sum)
        lh_sum_real(r->attrs->comm, host, n, LH_SEND_SUMMARY);
    else
        lh_max_real(r->attrs->comm, host, n, LH_SEND_SUMMARY);
    lh_copy_in(r->device, x, host, bytes);
}

/* Results of the ranks: a common maximum first, then one sum of outputs and normalisers. */
static lh_status few_merge(const few_run *r, void *o, void *max, void *sum)
{
    lh_status st = LH_OK;
    const size_t real = lh_dtype_bytes(LH_REAL);
    void *host = NULL;
    void *top = NULL;
    LH_TRY(lh_host_scratch(r->call, (size_t)(r->elements + r->stats) * real, &host));
    LH_TRY(lh_scratch(r->call, (size_t)r->stats * real, &top));
    lh_run_axpy(r->device, &(lh_axpy_args){r->stats, 1.0, max, top, false});
    few_reduce(r, top, r->stats, false, host);
    lh_run_attend_rescale(r->device, &(lh_attend_rescale_args){r->batch, r->heads, r->width,
                                                               r->queries, o, sum, max, top});
    if (!r->device->counting) {
        lh_copy_out(r->device, host, o, (size_t)r->elements * real);
        lh_copy_out(r->device, (lh_real *)host + r->elements, sum, (size_t)r->stats * real);
    }
    lh_sum_real(r->attrs->comm, host, r->elements + r->stats, LH_SEND_SUMMARY);
    lh_copy_in(r->device, o, host, (size_t)r->elements * real);
    if (!r->device->counting)
        lh_copy_in(r->device, sum, (lh_real *)host + r->elements, (size_t)r->stats * real);
    lh_run_attend_finish(r->device, &(lh_attend_finish_args){r->batch, r->heads, r->width,
                                                             r->queries, o, top, sum, max});
done:
    return st;
}

static lh_status few_forward(lh_call *c)
{
    lh_status st = LH_OK;
    few_run r;
    LH_TRY(few_open(c, false, &r));
    lh_attend_args a = {.batch = r.batch,
                        .heads = r.heads,
                        .kv_heads = r.kv_heads,
                        .width = r.width,
                        .q_rows = r.queries,
                        .k_rows = r.rows,
                        .n_heads = r.heads,
                        .scale = r.attrs->scale,
                        .tiles = r.attrs->plan->tile,
                        .n_tiles = r.attrs->plan->n_tiles,
                        .sight = r.attrs->sight,
                        .scratch = r.scratch};
    LH_TRY(lh_in(c, 0, &a.q));
    LH_TRY(lh_in(c, 1, &a.k));
    LH_TRY(lh_in(c, 2, &a.v));
    LH_TRY(lh_out(c, FEW_O, &a.o));
    LH_TRY(lh_out(c, FEW_LSE, &a.max));
    LH_TRY(lh_scratch(c, (size_t)r.stats * lh_dtype_bytes(LH_REAL), &a.sum));
    lh_run_fill(r.device, &(lh_fill_args){r.elements, 0.0, a.o});
    lh_run_fill(r.device, &(lh_fill_args){r.stats, 0.0, a.sum});
    lh_run_fill(r.device, &(lh_fill_args){r.stats, -HUGE_VAL, a.max});
    if (a.n_tiles > 0) lh_run_attend(r.device, &a);
    LH_TRY(few_merge(&r, a.o, a.max, a.sum));
done:
    return st;
}

/* The whole gradient of o: ranks hold parts of it, since o is replicated. */
static lh_status few_out_grad(const few_run *r, void **d_o)
{
    lh_status st = LH_OK;
    const void *part = NULL;
    void *host = NULL;
    size_t bytes = (size_t)r->elements * lh_dtype_bytes(LH_REAL);
    LH_TRY(lh_out_grad(r->call, FEW_O, &part));
    LH_TRY(lh_scratch(r->call, bytes, d_o));
    LH_TRY(lh_host_scratch(r->call, bytes, &host));
    lh_run_axpy(r->device, &(lh_axpy_args){r->elements, 1.0, part, *d_o, false});
    few_reduce(r, *d_o, r->elements, true, host);
done:
    return st;
}

/* A gradient that is not wanted goes to scratch memory. */
static lh_status few_grad(lh_call *c, int i, void **d)
{
    lh_status st = lh_in_grad_zeroed(c, i, d);
    if (st == LH_OK && *d == NULL) st = lh_scratch(c, lh_shape_bytes(lh_call_in_shape(c, i)), d);
    return st;
}

static lh_status few_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    few_run r;
    void *o = NULL;
    void *lse = NULL;
    void *d_o = NULL;
    void *delta = NULL;
    LH_TRY(few_open(c, true, &r));
    lh_attend_grad_args a = {.batch = r.batch,
                             .heads = r.heads,
                             .kv_heads = r.kv_heads,
                             .width = r.width,
                             .q_rows = r.queries,
                             .k_rows = r.rows,
                             .n_heads = r.heads,
                             .scale = r.attrs->scale,
                             .tiles = r.attrs->plan->tile,
                             .n_tiles = r.attrs->plan->n_tiles,
                             .sight = r.attrs->sight,
                             .scratch = r.scratch};
    LH_TRY(lh_in(c, 0, &a.q));
    LH_TRY(lh_in(c, 1, &a.k));
    LH_TRY(lh_in(c, 2, &a.v));
    LH_TRY(lh_out(c, FEW_O, &o));
    LH_TRY(lh_out(c, FEW_LSE, &lse));
    LH_TRY(few_out_grad(&r, &d_o));
    LH_TRY(lh_scratch(c, (size_t)r.stats * lh_dtype_bytes(LH_REAL), &delta));
    LH_TRY(few_grad(c, 0, &a.dq)); /* of own keys alone: PARTIAL, as the dual of replicated is */
    LH_TRY(few_grad(c, 1, &a.dk));
    LH_TRY(few_grad(c, 2, &a.dv));
    a.d_o = d_o;
    a.lse = lse;
    a.delta = delta;
    lh_run_attend_delta(r.device, &(lh_attend_delta_args){r.batch, r.heads, r.width, r.queries, o,
                                                          d_o, NULL, delta});
    if (a.n_tiles > 0) lh_run_attend_grad(r.device, &a);
done:
    return st;
}

static lh_status few_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    lh_status st = LH_OK;
    (void)c;
    LH_CHECK(in[0].axis[LH_AXIS_SEQ].kind == LH_REPLICATE, LH_ERR_BUG,
             "few queries must be replicated along the sequence");
    for (int i = 1; i < 3; i++) {
        const lh_place_word *w = &in[i].axis[LH_AXIS_SEQ];
        LH_CHECK(w->kind == LH_SHARD && w->dim == 1 && w->layout != NULL, LH_ERR_BUG,
                 "input %d must be sharded by position", i);
        LH_CHECK(in[i].axis[LH_AXIS_DATA].kind == in[0].axis[LH_AXIS_DATA].kind, LH_ERR_BUG,
                 "input %d lies differently along the data axis", i);
    }
    out[FEW_O] = out[FEW_LSE] = in[0];
done:
    return st;
}

static const lh_op few_op = {.name = "attend_few",
                             .reads = UINT64_MAX, /* q, k, v; o, lse */
                             .costly = true,
                             .exact = LH_READS_OUT(FEW_LSE),
                             .place = few_place,
                             .forward = few_forward,
                             .vjp = few_vjp};

lh_status lh_attend_few(lh_tape *t, const lh_attend_few_desc *d, lh_var *o)
{
    lh_status st = LH_OK;
    int rank = lh_tape_coord(t, LH_AXIS_SEQ);
    const lh_shape *q = lh_var_shape(t, d->q);
    const lh_shape *k = lh_var_shape(t, d->k);
    const lh_pattern all = lh_pattern_band(-LH_FAR, LH_FAR);
    few_attrs attrs = {.comm = d->sequence, .scale = d->scale, .sight = d->sight};
    lh_var outs[FEW_OUTPUTS] = {{0}};
    lh_var in[] = {d->q, d->k, d->v};
    LH_CHECK(q->ndim == 4 && k->ndim == 4 && lh_shape_equal(k, lh_var_shape(t, d->v)) &&
                 k->dim[0] == q->dim[0] && k->dim[3] == q->dim[3] && q->dim[1] == d->queries->n &&
                 k->dim[1] == d->layout->rows[rank],
             LH_ERR_BUG, "few queries [B, g, H, D] and keys [B, s, G, D] do not fit");
    LH_CHECK(k->dim[2] > 0 && q->dim[2] % k->dim[2] == 0, LH_ERR_BUG,
             "%lld query heads are no multiple of %lld key heads", (long long)q->dim[2],
             (long long)k->dim[2]);
    LH_TRY(lh_plan_get(d->plans, &all, d->queries, d->layout, rank, &attrs.plan));
    attrs.batch = q->dim[0];
    attrs.heads = q->dim[2];
    attrs.queries = d->queries;
    attrs.keys = d->layout;
    const lh_shape shapes[FEW_OUTPUTS] = {*q, lh_shape_3(LH_REAL, q->dim[0], q->dim[2], q->dim[1])};
    for (int i = 0; i < 3; i++) LH_TRY(lh_store_round(t, in[i], &in[i])); /* as in lh_attend */
    LH_TRY(lh_record(t, &few_op, &attrs, sizeof attrs, 3, in, FEW_OUTPUTS, shapes, outs));
done:
    *o = outs[FEW_O];
    return st;
}

bool lhi_attend_few_seen(const lh_tape_item *item, lh_attend_seen *out)
{
    const few_attrs *a = item->attrs;
    if (item->op != &few_op) return false;
    *out = (lh_attend_seen){.part = item->part,
                            .batch = a->batch,
                            .n_heads = a->heads,
                            .queries = a->queries,
                            .keys = a->keys,
                            .plan = a->plan};
    return true;
}
