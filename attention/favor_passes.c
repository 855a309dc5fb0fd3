/* FAVOR+: forward and backward of its three operations. */
#include <math.h>

#include "attention/favor_internal.h"

/* --- the largest exponent: inputs k, (v), w --- */

static void favor_max_run(lhi_favor_run *r, const lh_run *run, int64_t b, int64_t slot,
                          int64_t base)
{
    lhi_favor_block k;
    (void)slot;
    for (int64_t at = 0; lhi_favor_next(r, run, b, base, &at, &k);) {
        lhi_favor_project(r, &r->k, &k);
        lh_feature_args f = lhi_favor_feature(r, &r->k, &k);
        lh_run_feature_max(r->device, &(lh_feature_max_args){f.kind, f.rows, f.live, f.heads,
                                                             f.width, f.features, f.scale, f.x, f.u,
                                                             lhi_at_mut(r->s_out, b * f.heads)});
    }
}

lh_status lhi_favor_max_forward(lh_call *c)
{
    lh_status st = LH_OK;
    lhi_favor_run r;
    LH_TRY(lhi_favor_open(c, &r));
    LH_TRY(lhi_favor_scratch(&r, r.most * r.k.heads * r.a->features, &r.k.u));
    LH_TRY(lh_out(c, 0, &r.s_out));
    lh_run_fill(r.device, &(lh_fill_args){r.batch * r.k.heads, -HUGE_VAL, r.s_out});
    lhi_favor_each_run(&r, favor_max_run);
done:
    return st;
}

/* --- the summary: inputs k, v, w, c --- */

/* Where the summary of a run of sequence b begins. */
static int64_t favor_slot(const lhi_favor_run *r, int64_t slot, int64_t b)
{
    return ((r->a->causal ? slot : 0) * r->batch + b) * lhi_favor_size(r);
}

static void favor_sum_run(lhi_favor_run *r, const lh_run *run, int64_t b, int64_t slot,
                          int64_t base)
{
    lhi_favor_block k;
    for (int64_t at = 0; lhi_favor_next(r, run, b, base, &at, &k);) {
        lhi_favor_features(r, &r->k, &k);
        lhi_favor_extend(r, &k);
        lhi_favor_add_keys(r, &k, lhi_at_mut(r->s_out, favor_slot(r, slot, b)));
    }
}

lh_status lhi_favor_sum_forward(lh_call *c)
{
    lh_status st = LH_OK;
    lhi_favor_run r;
    LH_TRY(lhi_favor_open(c, &r));
    LH_TRY(lhi_favor_open_keys(&r, false));
    LH_TRY(lh_out(c, 0, &r.s_out));
    lh_run_fill(r.device, &(lh_fill_args){lh_shape_count(lh_call_out_shape(c, 0)), 0.0, r.s_out});
    lhi_favor_each_run(&r, favor_sum_run);
done:
    return st;
}

/* The part of dphi(k) and dv that goes through a sum over all rows of the block: dphi (+)= {v, 1}
 * ds^T, dv (+)= phi ds. */
static void favor_through_sum(const lhi_favor_run *r, const lhi_favor_block *k, const void *ds,
                              bool add)
{
    int64_t e = r->width + 1;
    int64_t row = r->k.heads * r->width;
    for (int64_t g = 0; g < r->k.heads; g++) {
        lhi_favor_in sum = lhi_favor_sum_of(r, ds, g);
        if (r->k.dx != NULL)
            lhi_favor_mul(r, LHI_FAVOR_MNK(k->count, r->wide, e),
                          lhi_favor_head(r->vx, g, r->k.heads, e), lhi_favor_turned(sum),
                          lhi_at_mut(r->k.dphi, g * r->wide), r->k.heads * r->wide, add);
        if (r->dv != NULL)
            lhi_favor_mul(r, LHI_FAVOR_MNK(k->count, r->width, r->wide),
                          lhi_favor_phi_of(r, &r->k, g), sum,
                          lhi_at_mut(r->dv, (k->b * r->rows + k->row) * row + g * r->width), row,
                          add || r->dv_add);
    }
}

static void favor_sum_run_grad(lhi_favor_run *r, const lh_run *run, int64_t b, int64_t slot,
                               int64_t base)
{
    lhi_favor_block k;
    for (int64_t at = 0; lhi_favor_next(r, run, b, base, &at, &k);) {
        lhi_favor_features(r, &r->k, &k);
        lhi_favor_extend(r, &k);
        favor_through_sum(r, &k, lhi_at(r->s_in, favor_slot(r, slot, b)), false);
        lhi_favor_features_grad(r, &r->k, &k);
    }
}

lh_status lhi_favor_sum_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    lhi_favor_run r;
    LH_TRY(lhi_favor_open(c, &r));
    LH_TRY(lhi_favor_open_keys(&r, true));
    LH_TRY(lh_out_grad(c, 0, &r.s_in));
    LH_TRY(lh_in_grad(c, LHI_FAVOR_K, &r.k.dx, &r.k.add));
    LH_TRY(lh_in_grad(c, LHI_FAVOR_V, &r.dv, &r.dv_add));
    lhi_favor_each_run(&r, favor_sum_run_grad);
done:
    return st;
}

/* --- the output: inputs k, v, w, c, q, s; bidirectional attention reads no v there --- */

/* The running sum of a causal run starts with the sum of the rows before it, and the guard in z. */
static void favor_start(const lhi_favor_run *r, const void *before)
{
    lh_run_axpy(r->device, &(lh_axpy_args){lhi_favor_size(r), 1.0, before, r->sum, false});
    lh_run_bias(r->device, &(lh_bias_args){r->k.heads * r->wide, r->width + 1, r->guard, r->sum});
}

/* square = tril(a b^T), a and b [count, width] */
static void favor_tril(const lhi_favor_run *r, int64_t count, int64_t width, lhi_favor_in a,
                       lhi_favor_in b)
{
    lhi_favor_mul(r, LHI_FAVOR_MNK(count, count, width), a, lhi_favor_turned(b), r->square, count,
                  false);
    lh_run_tril(r->device, &(lh_tril_args){count, r->square});
}

/* Numerators and denominators: phi(q) sum, and, causal, the keys of the block up to the own row. */
static void favor_numerators(const lhi_favor_run *r, const lhi_favor_block *k, const void *sum)
{
    int64_t e = r->width + 1;
    for (int64_t h = 0; h < r->q.heads; h++) {
        int64_t g = h / (r->q.heads / r->k.heads);
        void *n = lhi_at_mut(r->n, h * e);
        lhi_favor_mul(r, LHI_FAVOR_MNK(k->count, e, r->wide), lhi_favor_phi_of(r, &r->q, h),
                      lhi_favor_sum_of(r, sum, g), n, r->q.heads * e, false);
        if (!r->a->causal) continue;
        favor_tril(r, k->count, r->wide, lhi_favor_phi_of(r, &r->q, h),
                   lhi_favor_phi_of(r, &r->k, g));
        lhi_favor_mul(r, LHI_FAVOR_MNK(k->count, e, k->count),
                      (lhi_favor_in){r->square, k->count, 1},
                      lhi_favor_head(r->vx, g, r->k.heads, e), n, r->q.heads * e, true);
    }
}

static void favor_out_run(lhi_favor_run *r, const lh_run *run, int64_t b, int64_t slot,
                          int64_t base)
{
    lhi_favor_block k;
    const void *sum = lhi_at(r->s_in, favor_slot(r, slot, b));
    if (r->a->causal) {
        favor_start(r, sum);
        sum = r->sum;
    }
    for (int64_t at = 0; lhi_favor_next(r, run, b, base, &at, &k);) {
        int64_t row = (k.b * r->rows + k.row) * r->q.heads;
        lhi_favor_features(r, &r->q, &k);
        if (r->a->causal) {
            lhi_favor_features(r, &r->k, &k);
            lhi_favor_extend(r, &k);
        }
        favor_numerators(r, &k, sum);
        lh_run_divide(r->device,
                      &(lh_divide_args){k.count * r->q.heads, r->width, r->n,
                                        lhi_at_mut(r->o, row * r->width), lhi_at_mut(r->den, row)});
        if (r->a->causal) lhi_favor_add_keys(r, &k, r->sum);
    }
}

/* What forward and backward of the output have in common. */
static lh_status favor_open_out(lh_call *c, lhi_favor_run *r, bool backward)
{
    lh_status st = LH_OK;
    LH_TRY(lhi_favor_open(c, r));
    LH_TRY(lh_in(c, LHI_FAVOR_S, &r->s_in));
    LH_TRY(lh_out(c, LHI_FAVOR_O, &r->o));
    LH_TRY(lh_out(c, LHI_FAVOR_DEN, &r->den));
    LH_TRY(lhi_favor_open_side(r, &r->q, backward));
    LH_TRY(lhi_favor_scratch(r, r->most * r->q.heads * (r->width + 1), &r->n));
    r->dn = r->n; /* one or the other */
    if (!r->a->causal) goto done;
    LH_TRY(lhi_favor_open_keys(r, backward));
    LH_TRY(lhi_favor_scratch(r, r->most * r->most, &r->square));
    LH_TRY(lhi_favor_scratch(r, lhi_favor_size(r), &r->sum));
    LH_TRY(lhi_favor_scratch(r, r->width + 1, &r->guard));
    lh_run_fill(r->device, &(lh_fill_args){r->width, 0.0, r->guard});
    lh_run_fill(r->device, &(lh_fill_args){1, LH_FAVOR_GUARD, lhi_at_mut(r->guard, r->width)});
done:
    return st;
}

lh_status lhi_favor_out_forward(lh_call *c)
{
    lh_status st = LH_OK;
    lhi_favor_run r;
    LH_TRY(favor_open_out(c, &r, false));
    lhi_favor_each_run(&r, favor_out_run);
done:
    return st;
}

static void favor_divide_grad(const lhi_favor_run *r, const lhi_favor_block *k)
{
    int64_t row = (k->b * r->rows + k->row) * r->q.heads;
    int64_t d = r->width;
    lh_run_divide_grad(r->device,
                       &(lh_divide_grad_args){k->count * r->q.heads, d, lhi_at(r->o, row * d),
                                              lhi_at(r->den, row), lhi_at(r->d_o, row * d), r->dn});
}

/* sum[g] += phi(q)^T dn over the heads of g, in their order. */
static void favor_add_queries(const lhi_favor_run *r, const lhi_favor_block *k, void *sum)
{
    int64_t e = r->width + 1;
    for (int64_t h = 0; h < r->q.heads; h++)
        lhi_favor_mul(r, LHI_FAVOR_MNK(r->wide, e, k->count),
                      lhi_favor_turned(lhi_favor_phi_of(r, &r->q, h)),
                      lhi_favor_head(r->dn, h, r->q.heads, e),
                      lhi_at_mut(sum, h / (r->q.heads / r->k.heads) * r->wide * e), e, true);
}

/* dphi(q) = dn sum^T, and, causal, tril(dn {v, 1}^T) phi(k). */
static void favor_query_grad(const lhi_favor_run *r, const lhi_favor_block *k, const void *sum)
{
    int64_t e = r->width + 1;
    for (int64_t h = 0; h < r->q.heads; h++) {
        int64_t g = h / (r->q.heads / r->k.heads);
        lhi_favor_in dn = lhi_favor_head(r->dn, h, r->q.heads, e);
        void *dphi = lhi_at_mut(r->q.dphi, h * r->wide);
        lhi_favor_mul(r, LHI_FAVOR_MNK(k->count, r->wide, e), dn,
                      lhi_favor_turned(lhi_favor_sum_of(r, sum, g)), dphi, r->q.heads * r->wide,
                      false);
        if (!r->a->causal) continue;
        favor_tril(r, k->count, e, dn, lhi_favor_head(r->vx, g, r->k.heads, e));
        lhi_favor_mul(r, LHI_FAVOR_MNK(k->count, r->wide, k->count),
                      (lhi_favor_in){r->square, k->count, 1}, lhi_favor_phi_of(r, &r->k, g), dphi,
                      r->q.heads * r->wide, true);
    }
    lhi_favor_features_grad(r, &r->q, k);
}

/* Bidirectional: dq, and what this rank's queries add to ds. */
static void favor_out_run_grad(lhi_favor_run *r, const lh_run *run, int64_t b, int64_t slot,
                               int64_t base)
{
    lhi_favor_block k;
    for (int64_t at = 0; lhi_favor_next(r, run, b, base, &at, &k);) {
        lhi_favor_features(r, &r->q, &k);
        favor_divide_grad(r, &k);
        if (r->ds != NULL) favor_add_queries(r, &k, lhi_at_mut(r->ds, favor_slot(r, slot, b)));
        if (r->q.dx != NULL) favor_query_grad(r, &k, lhi_at(r->s_in, favor_slot(r, slot, b)));
    }
}

/* Causal, ascending: dq from the running sum of keys, as the forward had it. */
static void favor_ascend(lhi_favor_run *r, const lh_run *run, int64_t b, int64_t slot, int64_t base)
{
    lhi_favor_block k;
    favor_start(r, lhi_at(r->s_in, favor_slot(r, slot, b)));
    for (int64_t at = 0; lhi_favor_next(r, run, b, base, &at, &k);) {
        lhi_favor_features(r, &r->q, &k);
        lhi_favor_features(r, &r->k, &k);
        lhi_favor_extend(r, &k);
        favor_divide_grad(r, &k);
        favor_query_grad(r, &k, r->sum);
        lhi_favor_add_keys(r, &k, r->sum);
    }
}

/* dphi(k) and dv from the queries of the block at or after the own row; they add to what the
 * queries of later blocks gave. */
static void favor_key_grad(const lhi_favor_run *r, const lhi_favor_block *k)
{
    int64_t e = r->width + 1;
    int64_t row = r->k.heads * r->width;
    lhi_favor_in turned = {r->square, 1, k->count};
    for (int64_t h = 0; h < r->q.heads; h++) {
        int64_t g = h / (r->q.heads / r->k.heads);
        lhi_favor_in dn = lhi_favor_head(r->dn, h, r->q.heads, e);
        lhi_favor_in phi = lhi_favor_phi_of(r, &r->q, h);
        if (r->dv != NULL) {
            favor_tril(r, k->count, r->wide, phi, lhi_favor_phi_of(r, &r->k, g));
            lhi_favor_mul(r, LHI_FAVOR_MNK(k->count, r->width, k->count), turned, dn,
                          lhi_at_mut(r->dv, (k->b * r->rows + k->row) * row + g * r->width), row,
                          true);
        }
        if (r->k.dx == NULL) continue;
        favor_tril(r, k->count, e, dn, lhi_favor_head(r->vx, g, r->k.heads, e));
        lhi_favor_mul(r, LHI_FAVOR_MNK(k->count, r->wide, k->count), turned, phi,
                      lhi_at_mut(r->k.dphi, g * r->wide), r->k.heads * r->wide, true);
    }
    lhi_favor_features_grad(r, &r->k, k);
}

/* Causal, descending: dk, dv from the running sum of queries, whose total is ds. Rebuilding either
 * sum by subtraction would cancel, so there are two passes. */
static void favor_descend(lhi_favor_run *r, const lh_run *run, int64_t b, int64_t slot,
                          int64_t base)
{
    lhi_favor_block k;
    lh_run_fill(r->device, &(lh_fill_args){lhi_favor_size(r), 0.0, r->sum});
    for (int64_t at = run->count; lhi_favor_last(r, run, b, base, &at, &k);) {
        lhi_favor_features(r, &r->q, &k);
        lhi_favor_features(r, &r->k, &k);
        lhi_favor_extend(r, &k);
        favor_divide_grad(r, &k);
        favor_through_sum(r, &k, r->sum, false);
        favor_key_grad(r, &k);
        favor_add_queries(r, &k, r->sum);
    }
    if (r->ds != NULL)
        lh_run_axpy(r->device, &(lh_axpy_args){lhi_favor_size(r), 1.0, r->sum,
                                               lhi_at_mut(r->ds, favor_slot(r, slot, b)), true});
}

lh_status lhi_favor_out_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    lhi_favor_run r;
    LH_TRY(favor_open_out(c, &r, true));
    LH_TRY(lh_out_grad(c, LHI_FAVOR_O, &r.d_o));
    LH_CHECK(r.d_o != NULL, LH_ERR_BUG, "only o has a gradient");
    LH_TRY(lh_in_grad(c, LHI_FAVOR_Q, &r.q.dx, &r.q.add));
    LH_TRY(lh_in_grad_zeroed(c, LHI_FAVOR_S, &r.ds));
    if (!r.a->causal) {
        lhi_favor_each_run(&r, favor_out_run_grad);
        goto done;
    }
    LH_TRY(lh_in_grad(c, LHI_FAVOR_K, &r.k.dx, &r.k.add));
    LH_TRY(lh_in_grad(c, LHI_FAVOR_V, &r.dv, &r.dv_add));
    if (r.q.dx != NULL) lhi_favor_each_run(&r, favor_ascend);
    if (r.k.dx != NULL || r.dv != NULL || r.ds != NULL) lhi_favor_each_run(&r, favor_descend);
done:
    return st;
}
