#include "attention/favor.h"

#include "attention/favor_internal.h"
#include "parallel/collectives.h"

/* --- placements --- */

/* k, v, q by position; w everywhere; c by sequence, everywhere along it. */
static lh_status favor_check_places(const lh_call *c, const lh_place *in)
{
    lh_status st = LH_OK;
    const lhi_favor_attrs *a = lh_call_attrs(c);
    static const int tokens[] = {LHI_FAVOR_K, LHI_FAVOR_V, LHI_FAVOR_Q};
    for (int i = 0; i < 3; i++) {
        if (!lh_call_has_in(c, tokens[i])) continue;
        const lh_place_word *w = &in[tokens[i]].axis[LH_AXIS_SEQ];
        LH_CHECK(w->kind == LH_SHARD && w->dim == 1 && w->layout == a->layout, LH_ERR_BUG,
                 "input %d must be sharded by position, by the layout that is given", tokens[i]);
        LH_CHECK(in[tokens[i]].axis[LH_AXIS_DATA].kind == in[LHI_FAVOR_K].axis[LH_AXIS_DATA].kind,
                 LH_ERR_BUG, "input %d lies differently along the data axis", tokens[i]);
    }
    LH_CHECK(!lh_call_has_in(c, LHI_FAVOR_W) ||
                 (in[LHI_FAVOR_W].axis[LH_AXIS_SEQ].kind == LH_REPLICATE &&
                  in[LHI_FAVOR_W].axis[LH_AXIS_DATA].kind == LH_REPLICATE),
             LH_ERR_BUG, "the projection must be replicated");
    LH_CHECK(!lh_call_has_in(c, LHI_FAVOR_C) ||
                 in[LHI_FAVOR_C].axis[LH_AXIS_SEQ].kind == LH_REPLICATE,
             LH_ERR_BUG, "the stabiliser must be the same on all ranks of a sequence");
done:
    return st;
}

static lh_status favor_max_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    lh_status st = favor_check_places(c, in);
    out[0] = in[LHI_FAVOR_K];
    out[0].axis[LH_AXIS_SEQ] = (lh_place_word){LH_PARTIAL, 0, NULL};
    return st;
}

static lh_place favor_sum_placed(const lhi_favor_attrs *a, const lh_place *k)
{
    lh_place p = *k;
    if (p.axis[LH_AXIS_DATA].kind == LH_SHARD) p.axis[LH_AXIS_DATA].dim = 1;
    p.axis[LH_AXIS_SEQ] = (lh_place_word){a->causal ? LH_SHARD : LH_PARTIAL, 0, NULL};
    return p;
}

static lh_status favor_sum_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    lh_status st = favor_check_places(c, in);
    out[0] = favor_sum_placed(lh_call_attrs(c), &in[LHI_FAVOR_K]);
    return st;
}

static lh_status favor_out_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    lh_status st = LH_OK;
    const lhi_favor_attrs *a = lh_call_attrs(c);
    const lh_place_word *s = &in[LHI_FAVOR_S].axis[LH_AXIS_SEQ];
    LH_TRY(favor_check_places(c, in));
    LH_CHECK(s->kind == (a->causal ? LH_SHARD : LH_REPLICATE) && (!a->causal || s->dim == 0),
             LH_ERR_BUG, "the summary must have been %s over ranks",
             a->causal ? "scanned" : "summed");
    out[LHI_FAVOR_O] = out[LHI_FAVOR_DEN] = in[LHI_FAVOR_Q];
done:
    return st;
}

/* --- recording --- */

static const lh_op favor_max_op = {.name = "favor_max",
                                   .exact = LH_READS_OUT(0), /* no keys: -infinity */
                                   .costly = true,
                                   .place = favor_max_place,
                                   .forward = lhi_favor_max_forward};
static const lh_op favor_sum_op = {.name = "favor_sum",
                                   .reads = LH_READS_IN(LHI_FAVOR_K) | LH_READS_IN(LHI_FAVOR_V) |
                                            LH_READS_IN(LHI_FAVOR_W) | LH_READS_IN(LHI_FAVOR_C),
                                   .costly = true,
                                   .place = favor_sum_place,
                                   .forward = lhi_favor_sum_forward,
                                   .vjp = lhi_favor_sum_vjp};
static const lh_op favor_out_op = {.name = "favor_out",
                                   .reads = UINT64_MAX,
                                   .costly = true,
                                   .exact = LH_READS_OUT(LHI_FAVOR_DEN),
                                   .place = favor_out_place,
                                   .forward = lhi_favor_out_forward,
                                   .vjp = lhi_favor_out_vjp};

static lh_status favor_check(const lh_tape *t, const lh_favor *f)
{
    lh_status st = LH_OK;
    const lh_shape *k = lh_var_shape(t, f->k);
    LH_CHECK(k->ndim == 4 && lh_shape_equal(k, lh_var_shape(t, f->v)), LH_ERR_BUG,
             "keys and values must be [B, s, G, D]");
    const lh_shape *q = lh_var_shape(t, f->q);
    LH_CHECK(q->ndim == 4 && q->dim[0] == k->dim[0] && q->dim[1] == k->dim[1] &&
                 q->dim[3] == k->dim[3] && k->dim[2] > 0 && q->dim[2] % k->dim[2] == 0,
             LH_ERR_BUG, "queries must be [B, s, H, D], H a multiple of the keys' G");
    const lh_shape *w = f->w.id > 0 ? lh_var_shape(t, f->w) : NULL;
    LH_CHECK(w == NULL ? f->features == k->dim[3]
                       : w->ndim == 2 && w->dim[0] == f->features && w->dim[1] == k->dim[3],
             LH_ERR_BUG, "the projection must be [M, D]; without it M is D");
done:
    return st;
}

static lhi_favor_attrs favor_attrs_of(const lh_favor *f)
{
    return (lhi_favor_attrs){f->kind, f->features, f->epsilon, f->causal, f->layout, f->valid};
}

lh_status lh_favor_max(lh_tape *t, const lh_favor *f, lh_var *c)
{
    lh_status st = LH_OK;
    lhi_favor_attrs attrs = favor_attrs_of(f);
    lh_var k = {0};
    LH_TRY(favor_check(t, f));
    LH_CHECK(lh_feature_stabilised(f->kind), LH_ERR_BUG, "feature map %d has no stabiliser",
             (int)f->kind);
    LH_TRY(lh_stop_gradient(t, f->k, &k));
    const lh_shape *ks = lh_var_shape(t, k);
    lh_shape shape = lh_shape_2(LH_REAL, ks->dim[0], ks->dim[2]);
    LH_TRY(lh_record(t, &favor_max_op, &attrs, sizeof attrs, 3, (lh_var[]){k, {0}, f->w}, 1, &shape,
                     c));
done:
    return st;
}

lh_status lh_favor_sum(lh_tape *t, const lh_favor *f, lh_var c, lh_var *s)
{
    lh_status st = LH_OK;
    lhi_favor_attrs attrs = favor_attrs_of(f);
    LH_TRY(favor_check(t, f));
    int64_t runs = f->causal ? lh_scan_runs(f->layout) : 1;
    LH_CHECK(runs > 0, LH_ERR_UNSUP,
             "causal linear attention sums over ranks in the order of positions; layout '%s' has "
             "no such order",
             f->layout->name);
    const lh_shape *k = lh_var_shape(t, f->k);
    lh_shape shape = {
        LH_REAL,
        5,
        {runs, k->dim[0], k->dim[2], lh_feature_width(f->kind, f->features), k->dim[3] + 1}};
    LH_TRY(lh_record(t, &favor_sum_op, &attrs, sizeof attrs, 4, (lh_var[]){f->k, f->v, f->w, c}, 1,
                     &shape, s));
done:
    return st;
}

lh_status lh_favor_out(lh_tape *t, const lh_favor *f, lh_var c, lh_var s, lh_var *o)
{
    lh_status st = LH_OK;
    lhi_favor_attrs attrs = favor_attrs_of(f);
    lh_var outs[2] = {{0}};
    LH_TRY(favor_check(t, f));
    const lh_shape *q = lh_var_shape(t, f->q);
    lh_shape shapes[2] = {*q, lh_shape_3(LH_REAL, q->dim[0], q->dim[1], q->dim[2])};
    lh_var k = f->k;
    /* bidirectional output has all of the keys in s: no second way for gradients */
    if (!f->causal) LH_TRY(lh_stop_gradient(t, f->k, &k));
    LH_TRY(lh_record(t, &favor_out_op, &attrs, sizeof attrs, LHI_FAVOR_INPUTS,
                     (lh_var[]){k, f->causal ? f->v : (lh_var){0}, f->w, c, f->q, s}, 2, shapes,
                     outs));
    *o = outs[LHI_FAVOR_O];
done:
    return st;
}

lh_status lh_favor_attend(lh_tape *t, lh_mesh *mesh, const lh_favor *f, lh_var *o)
{
    lh_status st = LH_OK;
    lh_var c = {0};
    lh_var s = {0};
    if (lh_feature_stabilised(f->kind)) {
        LH_TRY(lh_favor_max(t, f, &c));
        LH_TRY(lh_max_reduce(t, mesh, c, &c));
    }
    LH_TRY(lh_favor_sum(t, f, c, &s));
    if (f->causal)
        LH_TRY(lh_scan(t, mesh, f->layout, s, &s));
    else
        LH_TRY(lh_all_reduce(t, mesh, LH_AXIS_SEQ, s, &s));
    LH_TRY(lh_favor_out(t, f, c, s, o));
done:
    return st;
}
