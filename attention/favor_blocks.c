/* FAVOR+ by blocks of rows: their features, and products with them. */
#include <math.h>

#include "attention/favor_internal.h"
#include "core/integer.h"

/* --- blocks --- */

/* The edge after position p: of a block within its chunk. */
static int64_t favor_edge(const lh_layout *l, int64_t p)
{
    int64_t chunk = p - p % l->chunk;
    return lhi_min(chunk + l->chunk, chunk + ((p - chunk) / LH_FAVOR_BLOCK + 1) * LH_FAVOR_BLOCK);
}

/* Rows of the block that begins at row `first` of a run. */
static int64_t favor_count(const lh_layout *l, const lh_run *run, int64_t first)
{
    int64_t p = run->start + first * run->stride;
    return lhi_min(run->count - first, (favor_edge(l, p) - p - 1) / run->stride + 1);
}

/* First row of the block that ends before row `end` of a run. */
static int64_t favor_first(const lh_layout *l, const lh_run *run, int64_t end)
{
    int64_t p = run->start + (end - 1) * run->stride;
    int64_t chunk = p - p % l->chunk;
    int64_t edge = chunk + (p - chunk) / LH_FAVOR_BLOCK * LH_FAVOR_BLOCK;
    return edge <= run->start ? 0 : (edge - run->start + run->stride - 1) / run->stride;
}

int64_t lh_favor_squares(const lh_layout *l, int rank)
{
    int64_t n_runs = 0;
    int64_t squares = 0;
    const lh_run *run = lh_layout_runs(l, rank, &n_runs);
    for (int64_t i = 0; i < n_runs; i++) {
        for (int64_t at = 0; at < run[i].count;) {
            int64_t count = favor_count(l, &run[i], at);
            squares += count * count;
            at += count;
        }
    }
    return squares;
}

/* Rows first .. first + count - 1 of a run whose first row is local row `base`. */
static lhi_favor_block favor_block_at(const lhi_favor_run *r, const lh_run *run, int64_t b,
                                      int64_t base, lh_span rows)
{
    lhi_favor_block k = {b, base + rows.row, rows.count, rows.count};
    if (r->a->valid == NULL || r->device->counting) return k;
    int64_t p = run->start + rows.row * run->stride;
    int64_t left = r->a->valid[b] - p;
    k.live = left <= 0 ? 0 : lhi_min(k.count, (left - 1) / run->stride + 1);
    return k;
}

/* --- products --- */

void lhi_favor_mul(const lhi_favor_run *r, const int64_t mnk[3], lhi_favor_in a, lhi_favor_in b,
                   void *c, int64_t rs, bool add)
{
    lh_run_gemm(r->device, &(lh_gemm_args){.m = mnk[0],
                                           .n = mnk[1],
                                           .k = mnk[2],
                                           .alpha = 1.0,
                                           .a = a.p,
                                           .a_rs = a.rs,
                                           .a_cs = a.cs,
                                           .b = b.p,
                                           .b_rs = b.rs,
                                           .b_cs = b.cs,
                                           .c = c,
                                           .c_rs = rs,
                                           .c_cs = 1,
                                           .accumulate = add});
}

lhi_favor_in lhi_favor_turned(lhi_favor_in a)
{
    return (lhi_favor_in){a.p, a.cs, a.rs};
}

lhi_favor_in lhi_favor_head(const void *p, int64_t h, int64_t heads, int64_t width)
{
    return (lhi_favor_in){lhi_at(p, h * width), heads * width, 1};
}
lhi_favor_in lhi_favor_phi_of(const lhi_favor_run *r, const lhi_favor_side *s, int64_t h)
{
    return lhi_favor_head(s->phi, h, s->heads, r->wide);
}
lhi_favor_in lhi_favor_sum_of(const lhi_favor_run *r, const void *sum, int64_t g)
{
    return (lhi_favor_in){lhi_at(sum, g * r->wide * (r->width + 1)), r->width + 1, 1};
}

/* --- features of a block --- */

lh_feature_args lhi_favor_feature(const lhi_favor_run *r, const lhi_favor_side *s,
                                  const lhi_favor_block *k)
{
    const void *c = r->c == NULL || !s->key ? NULL : lhi_at(r->c, k->b * s->heads);
    return (lh_feature_args){.kind = r->a->kind,
                             .rows = k->count,
                             .live = s->key ? k->live : k->count,
                             .heads = s->heads,
                             .width = r->width,
                             .features = r->a->features,
                             .scale = r->scale,
                             .epsilon = r->a->epsilon,
                             .x = lhi_at(s->x, (k->b * r->rows + k->row) * s->heads * r->width),
                             .u = s->u,
                             .c = c,
                             .phi = s->phi};
}

void lhi_favor_project(const lhi_favor_run *r, const lhi_favor_side *s, const lhi_favor_block *k)
{
    int64_t d = r->width;
    int64_t rows = k->count * s->heads;
    const void *x = lhi_at(s->x, (k->b * r->rows + k->row) * s->heads * d);
    if (r->w == NULL)
        lh_run_axpy(r->device, &(lh_axpy_args){rows * d, r->scale, x, s->u, false});
    else
        lh_run_gemm(r->device, &(lh_gemm_args){rows, r->a->features, d, r->scale, x, d, 1, r->w, 1,
                                               d, s->u, r->a->features, 1, false});
}

void lhi_favor_features(const lhi_favor_run *r, const lhi_favor_side *s, const lhi_favor_block *k)
{
    lhi_favor_project(r, s, k);
    lh_feature_args f = lhi_favor_feature(r, s, k);
    lh_run_feature(r->device, &f);
}

void lhi_favor_features_grad(const lhi_favor_run *r, const lhi_favor_side *s,
                             const lhi_favor_block *k)
{
    int64_t d = r->width;
    int64_t rows = k->count * s->heads;
    if (s->dx == NULL) return;
    void *dx = lhi_at_mut(s->dx, (k->b * r->rows + k->row) * s->heads * d);
    lh_run_feature_grad(
        r->device, &(lh_feature_grad_args){lhi_favor_feature(r, s, k), s->dphi, s->u, dx, s->add});
    if (r->w == NULL)
        lh_run_axpy(r->device, &(lh_axpy_args){rows * d, r->scale, s->u, dx, true});
    else
        lh_run_gemm(r->device, &(lh_gemm_args){rows, d, r->a->features, r->scale, s->u,
                                               r->a->features, 1, r->w, d, 1, dx, d, 1, true});
}

void lhi_favor_extend(const lhi_favor_run *r, const lhi_favor_block *k)
{
    int64_t row = r->k.heads * r->width;
    lh_run_extend(r->device,
                  &(lh_extend_args){k->count * r->k.heads, r->width,
                                    lhi_at(r->v, (k->b * r->rows + k->row) * row), r->vx});
}

void lhi_favor_add_keys(const lhi_favor_run *r, const lhi_favor_block *k, void *sum)
{
    int64_t e = r->width + 1;
    for (int64_t g = 0; g < r->k.heads; g++)
        lhi_favor_mul(
            r, LHI_FAVOR_MNK(r->wide, e, k->count), lhi_favor_turned(lhi_favor_phi_of(r, &r->k, g)),
            lhi_favor_head(r->vx, g, r->k.heads, e), lhi_at_mut(sum, g * r->wide * e), e, true);
}

/* --- opening a call --- */

static lh_status favor_optional(lh_call *c, int i, const void **data)
{
    *data = NULL;
    return lh_call_has_in(c, i) ? lh_in(c, i, data) : LH_OK;
}

lh_status lhi_favor_open(lh_call *c, lhi_favor_run *r)
{
    lh_status st = LH_OK;
    const lh_shape *k = lh_call_in_shape(c, LHI_FAVOR_K);
    *r = (lhi_favor_run){.call = c, .device = lh_call_device(c), .a = lh_call_attrs(c)};
    const lh_layout *l = r->a->layout;
    r->rank = lh_tape_coord(lh_call_tape(c), LH_AXIS_SEQ);
    r->batch = k->dim[0];
    r->rows = k->dim[1];
    r->k.heads = k->dim[2];
    r->k.key = true;
    r->width = k->dim[3];
    r->wide = lh_feature_width(r->a->kind, r->a->features);
    r->most = lhi_min(r->rows, lhi_min(l->chunk, LH_FAVOR_BLOCK));
    r->scale = 1.0 / sqrt(sqrt((double)r->width));
    LH_TRY(lh_in(c, LHI_FAVOR_K, &r->k.x));
    LH_TRY(favor_optional(c, LHI_FAVOR_V, &r->v));
    LH_TRY(favor_optional(c, LHI_FAVOR_W, &r->w));
    LH_TRY(favor_optional(c, LHI_FAVOR_C, &r->c));
    if (lh_call_inputs(c) <= LHI_FAVOR_Q) goto done;
    r->q.heads = lh_call_in_shape(c, LHI_FAVOR_Q)->dim[2];
    LH_TRY(lh_in(c, LHI_FAVOR_Q, &r->q.x));
done:
    return st;
}

lh_status lhi_favor_scratch(const lhi_favor_run *r, int64_t elements, void **out)
{
    return lh_scratch(r->call, (size_t)elements * lh_dtype_bytes(LH_REAL), out);
}

lh_status lhi_favor_open_side(const lhi_favor_run *r, lhi_favor_side *s, bool backward)
{
    lh_status st = LH_OK;
    int64_t rows = r->most * s->heads;
    LH_TRY(lhi_favor_scratch(r, rows * r->a->features, &s->u));
    LH_TRY(lhi_favor_scratch(r, rows * r->wide, &s->phi));
    if (backward) LH_TRY(lhi_favor_scratch(r, rows * r->wide, &s->dphi));
done:
    return st;
}

lh_status lhi_favor_open_keys(lhi_favor_run *r, bool backward)
{
    lh_status st = LH_OK;
    LH_TRY(lhi_favor_open_side(r, &r->k, backward));
    LH_TRY(lhi_favor_scratch(r, r->most * r->k.heads * (r->width + 1), &r->vx));
done:
    return st;
}

int64_t lhi_favor_size(const lhi_favor_run *r)
{
    return r->k.heads * r->wide * (r->width + 1);
}

void lhi_favor_each_run(lhi_favor_run *r, lhi_favor_run_fn fn)
{
    int64_t n_runs = 0;
    const lh_run *run = lh_layout_runs(r->a->layout, r->rank, &n_runs);
    for (int64_t b = 0; b < r->batch; b++) {
        int64_t base = 0;
        for (int64_t i = 0; i < n_runs; base += run[i].count, i++) fn(r, &run[i], b, i, base);
    }
}

bool lhi_favor_next(const lhi_favor_run *r, const lh_run *run, int64_t b, int64_t base, int64_t *at,
                    lhi_favor_block *k)
{
    if (*at >= run->count) return false;
    int64_t count = favor_count(r->a->layout, run, *at);
    *k = favor_block_at(r, run, b, base, (lh_span){*at, count, 1});
    *at += count;
    return true;
}

bool lhi_favor_last(const lhi_favor_run *r, const lh_run *run, int64_t b, int64_t base, int64_t *at,
                    lhi_favor_block *k)
{
    if (*at <= 0) return false;
    int64_t first = favor_first(r->a->layout, run, *at);
    *k = favor_block_at(r, run, b, base, (lh_span){first, *at - first, 1});
    *at = first;
    return true;
}
