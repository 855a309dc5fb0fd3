#include "attention/favor.h"

#include <math.h>

#include "core/integer.h"
#include "core/ops_internal.h"
#include "parallel/collectives.h"

enum { FAVOR_K, FAVOR_V, FAVOR_W, FAVOR_C, FAVOR_Q, FAVOR_S, FAVOR_INPUTS };
enum { FAVOR_O, FAVOR_DEN }; /* outputs of lh_favor_out */

typedef struct favor_attrs {
    lh_feature_kind kind;
    int64_t features;
    double epsilon;
    bool causal;
    const lh_layout *layout;
    const int64_t *valid;
} favor_attrs;

/* Rows count of sequence b from local row `row` on; the first `live` are valid. */
typedef struct favor_block {
    int64_t b, row, count, live;
} favor_block;

/* Queries or keys of the call, and one block of their features. */
typedef struct favor_side {
    int64_t heads;
    bool key;
    const void *x;        /* [B, s, heads, D] */
    void *u, *phi, *dphi; /* [count, heads, M], then M' */
    void *dx;             /* as x; NULL: not wanted */
    bool add;             /* dx accumulates */
} favor_side;

/* One running forward or backward. */
typedef struct favor_run {
    lh_call *call;
    lh_device *device;
    const favor_attrs *a;
    int rank;
    int64_t batch, rows, width, wide, most; /* D, M'; most: rows of the largest block */
    double scale;
    const void *w, *c, *v;
    void *dv;
    bool dv_add;
    favor_side q, k;
    void *vx;     /* [count, G, D + 1]: {v, 1} */
    void *n, *dn; /* [count, H, D + 1]: numerators and denominators; their gradient */
    void *square; /* [count, count] */
    void *sum;    /* [G, M', D + 1]: running sum of one sequence */
    void *guard;  /* [D + 1]: what is added to every row of it */
    const void *s_in;
    void *ds;        /* as s_in, adds; NULL: not wanted */
    void *s_out;     /* of favor_sum; of favor_max: c */
    void *o, *den;   /* [B, s, H, D], [B, s, H] */
    const void *d_o; /* as o */
} favor_run;

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
static favor_block favor_block_at(const favor_run *r, const lh_run *run, int64_t b, int64_t base,
                                  lh_span rows)
{
    favor_block k = {b, base + rows.row, rows.count, rows.count};
    if (r->a->valid == NULL || r->device->counting) return k;
    int64_t p = run->start + rows.row * run->stride;
    int64_t left = r->a->valid[b] - p;
    k.live = left <= 0 ? 0 : lhi_min(k.count, (left - 1) / run->stride + 1);
    return k;
}

/* --- products: rows of several heads lie side by side, so every operand has its row stride --- */

typedef struct favor_in {
    const void *p;
    int64_t rs, cs;
} favor_in;

/* c [m, n], rows rs apart, (+)= a [m, k] b [k, n] */
static void favor_mul(const favor_run *r, const int64_t mnk[3], favor_in a, favor_in b, void *c,
                      int64_t rs, bool add)
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
#define FAVOR_MNK(m, n, k) ((const int64_t[3]){(m), (n), (k)})

static favor_in favor_turned(favor_in a)
{
    return (favor_in){a.p, a.cs, a.rs};
}

/* Head h of a block [count, heads, width]; head g of a sum [G, M', D + 1]. */
static favor_in favor_head(const void *p, int64_t h, int64_t heads, int64_t width)
{
    return (favor_in){lhi_at(p, h * width), heads * width, 1};
}
static favor_in favor_phi_of(const favor_run *r, const favor_side *s, int64_t h)
{
    return favor_head(s->phi, h, s->heads, r->wide);
}
static favor_in favor_sum_of(const favor_run *r, const void *sum, int64_t g)
{
    return (favor_in){lhi_at(sum, g * r->wide * (r->width + 1)), r->width + 1, 1};
}

/* --- features of a block --- */

static lh_feature_args favor_feature(const favor_run *r, const favor_side *s, const favor_block *k)
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

/* u = scale x W^T, all heads at once. */
static void favor_project(const favor_run *r, const favor_side *s, const favor_block *k)
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

static void favor_features(const favor_run *r, const favor_side *s, const favor_block *k)
{
    favor_project(r, s, k);
    lh_feature_args f = favor_feature(r, s, k);
    lh_run_feature(r->device, &f);
}

/* dx of the block from dphi; u is written over. */
static void favor_features_grad(const favor_run *r, const favor_side *s, const favor_block *k)
{
    int64_t d = r->width;
    int64_t rows = k->count * s->heads;
    if (s->dx == NULL) return;
    void *dx = lhi_at_mut(s->dx, (k->b * r->rows + k->row) * s->heads * d);
    lh_run_feature_grad(r->device,
                        &(lh_feature_grad_args){favor_feature(r, s, k), s->dphi, s->u, dx, s->add});
    if (r->w == NULL)
        lh_run_axpy(r->device, &(lh_axpy_args){rows * d, r->scale, s->u, dx, true});
    else
        lh_run_gemm(r->device, &(lh_gemm_args){rows, d, r->a->features, r->scale, s->u,
                                               r->a->features, 1, r->w, d, 1, dx, d, 1, true});
}

static void favor_extend(const favor_run *r, const favor_block *k)
{
    int64_t row = r->k.heads * r->width;
    lh_run_extend(r->device,
                  &(lh_extend_args){k->count * r->k.heads, r->width,
                                    lhi_at(r->v, (k->b * r->rows + k->row) * row), r->vx});
}

/* sum[g] += phi(k)^T {v, 1} */
static void favor_add_keys(const favor_run *r, const favor_block *k, void *sum)
{
    int64_t e = r->width + 1;
    for (int64_t g = 0; g < r->k.heads; g++)
        favor_mul(r, FAVOR_MNK(r->wide, e, k->count), favor_turned(favor_phi_of(r, &r->k, g)),
                  favor_head(r->vx, g, r->k.heads, e), lhi_at_mut(sum, g * r->wide * e), e, true);
}

/* --- opening a call --- */

static lh_status favor_optional(lh_call *c, int i, const void **data)
{
    *data = NULL;
    return lh_call_has_in(c, i) ? lh_in(c, i, data) : LH_OK;
}

static lh_status favor_open(lh_call *c, favor_run *r)
{
    lh_status st = LH_OK;
    const lh_shape *k = lh_call_in_shape(c, FAVOR_K);
    *r = (favor_run){.call = c, .device = lh_call_device(c), .a = lh_call_attrs(c)};
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
    LH_TRY(lh_in(c, FAVOR_K, &r->k.x));
    LH_TRY(favor_optional(c, FAVOR_V, &r->v));
    LH_TRY(favor_optional(c, FAVOR_W, &r->w));
    LH_TRY(favor_optional(c, FAVOR_C, &r->c));
    if (lh_call_inputs(c) <= FAVOR_Q) goto done;
    r->q.heads = lh_call_in_shape(c, FAVOR_Q)->dim[2];
    LH_TRY(lh_in(c, FAVOR_Q, &r->q.x));
done:
    return st;
}

static lh_status favor_scratch(const favor_run *r, int64_t elements, void **out)
{
    return lh_scratch(r->call, (size_t)elements * lh_dtype_bytes(LH_REAL), out);
}

/* Scratch for a block's features; backward: and their gradient. */
static lh_status favor_open_side(const favor_run *r, favor_side *s, bool backward)
{
    lh_status st = LH_OK;
    int64_t rows = r->most * s->heads;
    LH_TRY(favor_scratch(r, rows * r->a->features, &s->u));
    LH_TRY(favor_scratch(r, rows * r->wide, &s->phi));
    if (backward) LH_TRY(favor_scratch(r, rows * r->wide, &s->dphi));
done:
    return st;
}

static lh_status favor_open_keys(favor_run *r, bool backward)
{
    lh_status st = LH_OK;
    LH_TRY(favor_open_side(r, &r->k, backward));
    LH_TRY(favor_scratch(r, r->most * r->k.heads * (r->width + 1), &r->vx));
done:
    return st;
}

/* Elements of a summary of one sequence. */
static int64_t favor_size(const favor_run *r)
{
    return r->k.heads * r->wide * (r->width + 1);
}

/* What is done with every run of every sequence. base: its first local row. */
typedef void (*favor_run_fn)(favor_run *r, const lh_run *run, int64_t b, int64_t slot,
                             int64_t base);

static void favor_each_run(favor_run *r, favor_run_fn fn)
{
    int64_t n_runs = 0;
    const lh_run *run = lh_layout_runs(r->a->layout, r->rank, &n_runs);
    for (int64_t b = 0; b < r->batch; b++) {
        int64_t base = 0;
        for (int64_t i = 0; i < n_runs; base += run[i].count, i++) fn(r, &run[i], b, i, base);
    }
}

/* Blocks of a run in ascending order: while (favor_next(r, run, b, base, &at, &k)) */
static bool favor_next(const favor_run *r, const lh_run *run, int64_t b, int64_t base, int64_t *at,
                       favor_block *k)
{
    if (*at >= run->count) return false;
    int64_t count = favor_count(r->a->layout, run, *at);
    *k = favor_block_at(r, run, b, base, (lh_span){*at, count, 1});
    *at += count;
    return true;
}

/* The same in descending order; *at starts with the run's count. */
static bool favor_last(const favor_run *r, const lh_run *run, int64_t b, int64_t base, int64_t *at,
                       favor_block *k)
{
    if (*at <= 0) return false;
    int64_t first = favor_first(r->a->layout, run, *at);
    *k = favor_block_at(r, run, b, base, (lh_span){first, *at - first, 1});
    *at = first;
    return true;
}

/* --- the largest exponent: inputs k, (v), w --- */

static void favor_max_run(favor_run *r, const lh_run *run, int64_t b, int64_t slot, int64_t base)
{
    favor_block k;
    (void)slot;
    for (int64_t at = 0; favor_next(r, run, b, base, &at, &k);) {
        favor_project(r, &r->k, &k);
        lh_feature_args f = favor_feature(r, &r->k, &k);
        lh_run_feature_max(r->device, &(lh_feature_max_args){f.kind, f.rows, f.live, f.heads,
                                                             f.width, f.features, f.scale, f.x, f.u,
                                                             lhi_at_mut(r->s_out, b * f.heads)});
    }
}

static lh_status favor_max_forward(lh_call *c)
{
    lh_status st = LH_OK;
    favor_run r;
    LH_TRY(favor_open(c, &r));
    LH_TRY(favor_scratch(&r, r.most * r.k.heads * r.a->features, &r.k.u));
    LH_TRY(lh_out(c, 0, &r.s_out));
    lh_run_fill(r.device, &(lh_fill_args){r.batch * r.k.heads, -HUGE_VAL, r.s_out});
    favor_each_run(&r, favor_max_run);
done:
    return st;
}

/* --- the summary: inputs k, v, w, c --- */

/* Where the summary of a run of sequence b begins. */
static int64_t favor_slot(const favor_run *r, int64_t slot, int64_t b)
{
    return ((r->a->causal ? slot : 0) * r->batch + b) * favor_size(r);
}

static void favor_sum_run(favor_run *r, const lh_run *run, int64_t b, int64_t slot, int64_t base)
{
    favor_block k;
    for (int64_t at = 0; favor_next(r, run, b, base, &at, &k);) {
        favor_features(r, &r->k, &k);
        favor_extend(r, &k);
        favor_add_keys(r, &k, lhi_at_mut(r->s_out, favor_slot(r, slot, b)));
    }
}

static lh_status favor_sum_forward(lh_call *c)
{
    lh_status st = LH_OK;
    favor_run r;
    LH_TRY(favor_open(c, &r));
    LH_TRY(favor_open_keys(&r, false));
    LH_TRY(lh_out(c, 0, &r.s_out));
    lh_run_fill(r.device, &(lh_fill_args){lh_shape_count(lh_call_out_shape(c, 0)), 0.0, r.s_out});
    favor_each_run(&r, favor_sum_run);
done:
    return st;
}

/* The part of dphi(k) and dv that goes through a sum over all rows of the block: dphi (+)= {v, 1}
 * ds^T, dv (+)= phi ds. */
static void favor_through_sum(const favor_run *r, const favor_block *k, const void *ds, bool add)
{
    int64_t e = r->width + 1;
    int64_t row = r->k.heads * r->width;
    for (int64_t g = 0; g < r->k.heads; g++) {
        favor_in sum = favor_sum_of(r, ds, g);
        if (r->k.dx != NULL)
            favor_mul(r, FAVOR_MNK(k->count, r->wide, e), favor_head(r->vx, g, r->k.heads, e),
                      favor_turned(sum), lhi_at_mut(r->k.dphi, g * r->wide), r->k.heads * r->wide,
                      add);
        if (r->dv != NULL)
            favor_mul(r, FAVOR_MNK(k->count, r->width, r->wide), favor_phi_of(r, &r->k, g), sum,
                      lhi_at_mut(r->dv, (k->b * r->rows + k->row) * row + g * r->width), row,
                      add || r->dv_add);
    }
}

static void favor_sum_run_grad(favor_run *r, const lh_run *run, int64_t b, int64_t slot,
                               int64_t base)
{
    favor_block k;
    for (int64_t at = 0; favor_next(r, run, b, base, &at, &k);) {
        favor_features(r, &r->k, &k);
        favor_extend(r, &k);
        favor_through_sum(r, &k, lhi_at(r->s_in, favor_slot(r, slot, b)), false);
        favor_features_grad(r, &r->k, &k);
    }
}

static lh_status favor_sum_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    favor_run r;
    LH_TRY(favor_open(c, &r));
    LH_TRY(favor_open_keys(&r, true));
    LH_TRY(lh_out_grad(c, 0, &r.s_in));
    LH_TRY(lh_in_grad(c, FAVOR_K, &r.k.dx, &r.k.add));
    LH_TRY(lh_in_grad(c, FAVOR_V, &r.dv, &r.dv_add));
    favor_each_run(&r, favor_sum_run_grad);
done:
    return st;
}

/* --- the output: inputs k, v, w, c, q, s; bidirectional attention reads no v there --- */

/* The running sum of a causal run starts with the sum of the rows before it, and the guard in z. */
static void favor_start(const favor_run *r, const void *before)
{
    lh_run_axpy(r->device, &(lh_axpy_args){favor_size(r), 1.0, before, r->sum, false});
    lh_run_bias(r->device, &(lh_bias_args){r->k.heads * r->wide, r->width + 1, r->guard, r->sum});
}

/* square = tril(a b^T), a and b [count, width] */
static void favor_tril(const favor_run *r, int64_t count, int64_t width, favor_in a, favor_in b)
{
    favor_mul(r, FAVOR_MNK(count, count, width), a, favor_turned(b), r->square, count, false);
    lh_run_tril(r->device, &(lh_tril_args){count, r->square});
}

/* Numerators and denominators: phi(q) sum, and, causal, the keys of the block up to the own row. */
static void favor_numerators(const favor_run *r, const favor_block *k, const void *sum)
{
    int64_t e = r->width + 1;
    for (int64_t h = 0; h < r->q.heads; h++) {
        int64_t g = h / (r->q.heads / r->k.heads);
        void *n = lhi_at_mut(r->n, h * e);
        favor_mul(r, FAVOR_MNK(k->count, e, r->wide), favor_phi_of(r, &r->q, h),
                  favor_sum_of(r, sum, g), n, r->q.heads * e, false);
        if (!r->a->causal) continue;
        favor_tril(r, k->count, r->wide, favor_phi_of(r, &r->q, h), favor_phi_of(r, &r->k, g));
        favor_mul(r, FAVOR_MNK(k->count, e, k->count), (favor_in){r->square, k->count, 1},
                  favor_head(r->vx, g, r->k.heads, e), n, r->q.heads * e, true);
    }
}

static void favor_out_run(favor_run *r, const lh_run *run, int64_t b, int64_t slot, int64_t base)
{
    favor_block k;
    const void *sum = lhi_at(r->s_in, favor_slot(r, slot, b));
    if (r->a->causal) {
        favor_start(r, sum);
        sum = r->sum;
    }
    for (int64_t at = 0; favor_next(r, run, b, base, &at, &k);) {
        int64_t row = (k.b * r->rows + k.row) * r->q.heads;
        favor_features(r, &r->q, &k);
        if (r->a->causal) {
            favor_features(r, &r->k, &k);
            favor_extend(r, &k);
        }
        favor_numerators(r, &k, sum);
        lh_run_divide(r->device,
                      &(lh_divide_args){k.count * r->q.heads, r->width, r->n,
                                        lhi_at_mut(r->o, row * r->width), lhi_at_mut(r->den, row)});
        if (r->a->causal) favor_add_keys(r, &k, r->sum);
    }
}

/* What forward and backward of the output have in common. */
static lh_status favor_open_out(lh_call *c, favor_run *r, bool backward)
{
    lh_status st = LH_OK;
    LH_TRY(favor_open(c, r));
    LH_TRY(lh_in(c, FAVOR_S, &r->s_in));
    LH_TRY(lh_out(c, FAVOR_O, &r->o));
    LH_TRY(lh_out(c, FAVOR_DEN, &r->den));
    LH_TRY(favor_open_side(r, &r->q, backward));
    LH_TRY(favor_scratch(r, r->most * r->q.heads * (r->width + 1), &r->n));
    r->dn = r->n; /* one or the other */
    if (!r->a->causal) goto done;
    LH_TRY(favor_open_keys(r, backward));
    LH_TRY(favor_scratch(r, r->most * r->most, &r->square));
    LH_TRY(favor_scratch(r, favor_size(r), &r->sum));
    LH_TRY(favor_scratch(r, r->width + 1, &r->guard));
    lh_run_fill(r->device, &(lh_fill_args){r->width, 0.0, r->guard});
    lh_run_fill(r->device, &(lh_fill_args){1, LH_FAVOR_GUARD, lhi_at_mut(r->guard, r->width)});
done:
    return st;
}

static lh_status favor_out_forward(lh_call *c)
{
    lh_status st = LH_OK;
    favor_run r;
    LH_TRY(favor_open_out(c, &r, false));
    favor_each_run(&r, favor_out_run);
done:
    return st;
}

static void favor_divide_grad(const favor_run *r, const favor_block *k)
{
    int64_t row = (k->b * r->rows + k->row) * r->q.heads;
    int64_t d = r->width;
    lh_run_divide_grad(r->device,
                       &(lh_divide_grad_args){k->count * r->q.heads, d, lhi_at(r->o, row * d),
                                              lhi_at(r->den, row), lhi_at(r->d_o, row * d), r->dn});
}

/* sum[g] += phi(q)^T dn over the heads of g, in their order. */
static void favor_add_queries(const favor_run *r, const favor_block *k, void *sum)
{
    int64_t e = r->width + 1;
    for (int64_t h = 0; h < r->q.heads; h++)
        favor_mul(r, FAVOR_MNK(r->wide, e, k->count), favor_turned(favor_phi_of(r, &r->q, h)),
                  favor_head(r->dn, h, r->q.heads, e),
                  lhi_at_mut(sum, h / (r->q.heads / r->k.heads) * r->wide * e), e, true);
}

/* dphi(q) = dn sum^T, and, causal, tril(dn {v, 1}^T) phi(k). */
static void favor_query_grad(const favor_run *r, const favor_block *k, const void *sum)
{
    int64_t e = r->width + 1;
    for (int64_t h = 0; h < r->q.heads; h++) {
        int64_t g = h / (r->q.heads / r->k.heads);
        favor_in dn = favor_head(r->dn, h, r->q.heads, e);
        void *dphi = lhi_at_mut(r->q.dphi, h * r->wide);
        favor_mul(r, FAVOR_MNK(k->count, r->wide, e), dn, favor_turned(favor_sum_of(r, sum, g)),
                  dphi, r->q.heads * r->wide, false);
        if (!r->a->causal) continue;
        favor_tril(r, k->count, e, dn, favor_head(r->vx, g, r->k.heads, e));
        favor_mul(r, FAVOR_MNK(k->count, r->wide, k->count), (favor_in){r->square, k->count, 1},
                  favor_phi_of(r, &r->k, g), dphi, r->q.heads * r->wide, true);
    }
    favor_features_grad(r, &r->q, k);
}

/* Bidirectional: dq, and what this rank's queries add to ds. */
static void favor_out_run_grad(favor_run *r, const lh_run *run, int64_t b, int64_t slot,
                               int64_t base)
{
    favor_block k;
    for (int64_t at = 0; favor_next(r, run, b, base, &at, &k);) {
        favor_features(r, &r->q, &k);
        favor_divide_grad(r, &k);
        if (r->ds != NULL) favor_add_queries(r, &k, lhi_at_mut(r->ds, favor_slot(r, slot, b)));
        if (r->q.dx != NULL) favor_query_grad(r, &k, lhi_at(r->s_in, favor_slot(r, slot, b)));
    }
}

/* Causal, ascending: dq from the running sum of keys, as the forward had it. */
static void favor_ascend(favor_run *r, const lh_run *run, int64_t b, int64_t slot, int64_t base)
{
    favor_block k;
    favor_start(r, lhi_at(r->s_in, favor_slot(r, slot, b)));
    for (int64_t at = 0; favor_next(r, run, b, base, &at, &k);) {
        favor_features(r, &r->q, &k);
        favor_features(r, &r->k, &k);
        favor_extend(r, &k);
        favor_divide_grad(r, &k);
        favor_query_grad(r, &k, r->sum);
        favor_add_keys(r, &k, r->sum);
    }
}

/* dphi(k) and dv from the queries of the block at or after the own row; they add to what the
 * queries of later blocks gave. */
static void favor_key_grad(const favor_run *r, const favor_block *k)
{
    int64_t e = r->width + 1;
    int64_t row = r->k.heads * r->width;
    favor_in turned = {r->square, 1, k->count};
    for (int64_t h = 0; h < r->q.heads; h++) {
        int64_t g = h / (r->q.heads / r->k.heads);
        favor_in dn = favor_head(r->dn, h, r->q.heads, e);
        favor_in phi = favor_phi_of(r, &r->q, h);
        if (r->dv != NULL) {
            favor_tril(r, k->count, r->wide, phi, favor_phi_of(r, &r->k, g));
            favor_mul(r, FAVOR_MNK(k->count, r->width, k->count), turned, dn,
                      lhi_at_mut(r->dv, (k->b * r->rows + k->row) * row + g * r->width), row, true);
        }
        if (r->k.dx == NULL) continue;
        favor_tril(r, k->count, e, dn, favor_head(r->vx, g, r->k.heads, e));
        favor_mul(r, FAVOR_MNK(k->count, r->wide, k->count), turned, phi,
                  lhi_at_mut(r->k.dphi, g * r->wide), r->k.heads * r->wide, true);
    }
    favor_features_grad(r, &r->k, k);
}

/* Causal, descending: dk, dv from the running sum of queries, whose total is ds. Rebuilding either
 * sum by subtraction would cancel, so there are two passes. */
static void favor_descend(favor_run *r, const lh_run *run, int64_t b, int64_t slot, int64_t base)
{
    favor_block k;
    lh_run_fill(r->device, &(lh_fill_args){favor_size(r), 0.0, r->sum});
    for (int64_t at = run->count; favor_last(r, run, b, base, &at, &k);) {
        favor_features(r, &r->q, &k);
        favor_features(r, &r->k, &k);
        favor_extend(r, &k);
        favor_divide_grad(r, &k);
        favor_through_sum(r, &k, r->sum, false);
        favor_key_grad(r, &k);
        favor_add_queries(r, &k, r->sum);
    }
    if (r->ds != NULL)
        lh_run_axpy(r->device, &(lh_axpy_args){favor_size(r), 1.0, r->sum,
                                               lhi_at_mut(r->ds, favor_slot(r, slot, b)), true});
}

static lh_status favor_out_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    favor_run r;
    LH_TRY(favor_open_out(c, &r, true));
    LH_TRY(lh_out_grad(c, FAVOR_O, &r.d_o));
    LH_CHECK(r.d_o != NULL, LH_ERR_BUG, "only o has a gradient");
    LH_TRY(lh_in_grad(c, FAVOR_Q, &r.q.dx, &r.q.add));
    LH_TRY(lh_in_grad_zeroed(c, FAVOR_S, &r.ds));
    if (!r.a->causal) {
        favor_each_run(&r, favor_out_run_grad);
        goto done;
    }
    LH_TRY(lh_in_grad(c, FAVOR_K, &r.k.dx, &r.k.add));
    LH_TRY(lh_in_grad(c, FAVOR_V, &r.dv, &r.dv_add));
    if (r.q.dx != NULL) favor_each_run(&r, favor_ascend);
    if (r.k.dx != NULL || r.dv != NULL || r.ds != NULL) favor_each_run(&r, favor_descend);
done:
    return st;
}

/* --- placements --- */

/* k, v, q by position; w everywhere; c by sequence, everywhere along it. */
static lh_status favor_check_places(const lh_call *c, const lh_place *in)
{
    lh_status st = LH_OK;
    const favor_attrs *a = lh_call_attrs(c);
    static const int tokens[] = {FAVOR_K, FAVOR_V, FAVOR_Q};
    for (int i = 0; i < 3; i++) {
        if (!lh_call_has_in(c, tokens[i])) continue;
        const lh_place_word *w = &in[tokens[i]].axis[LH_AXIS_SEQ];
        LH_CHECK(w->kind == LH_SHARD && w->dim == 1 && w->layout == a->layout, LH_ERR_BUG,
                 "input %d must be sharded by position, by the layout that is given", tokens[i]);
        LH_CHECK(in[tokens[i]].axis[LH_AXIS_DATA].kind == in[FAVOR_K].axis[LH_AXIS_DATA].kind,
                 LH_ERR_BUG, "input %d lies differently along the data axis", tokens[i]);
    }
    LH_CHECK(!lh_call_has_in(c, FAVOR_W) || (in[FAVOR_W].axis[LH_AXIS_SEQ].kind == LH_REPLICATE &&
                                             in[FAVOR_W].axis[LH_AXIS_DATA].kind == LH_REPLICATE),
             LH_ERR_BUG, "the projection must be replicated");
    LH_CHECK(!lh_call_has_in(c, FAVOR_C) || in[FAVOR_C].axis[LH_AXIS_SEQ].kind == LH_REPLICATE,
             LH_ERR_BUG, "the stabiliser must be the same on all ranks of a sequence");
done:
    return st;
}

static lh_status favor_max_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    lh_status st = favor_check_places(c, in);
    out[0] = in[FAVOR_K];
    out[0].axis[LH_AXIS_SEQ] = (lh_place_word){LH_PARTIAL, 0, NULL};
    return st;
}

static lh_place favor_sum_placed(const favor_attrs *a, const lh_place *k)
{
    lh_place p = *k;
    if (p.axis[LH_AXIS_DATA].kind == LH_SHARD) p.axis[LH_AXIS_DATA].dim = 1;
    p.axis[LH_AXIS_SEQ] = (lh_place_word){a->causal ? LH_SHARD : LH_PARTIAL, 0, NULL};
    return p;
}

static lh_status favor_sum_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    lh_status st = favor_check_places(c, in);
    out[0] = favor_sum_placed(lh_call_attrs(c), &in[FAVOR_K]);
    return st;
}

static lh_status favor_out_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    lh_status st = LH_OK;
    const favor_attrs *a = lh_call_attrs(c);
    const lh_place_word *s = &in[FAVOR_S].axis[LH_AXIS_SEQ];
    LH_TRY(favor_check_places(c, in));
    LH_CHECK(s->kind == (a->causal ? LH_SHARD : LH_REPLICATE) && (!a->causal || s->dim == 0),
             LH_ERR_BUG, "the summary must have been %s over ranks",
             a->causal ? "scanned" : "summed");
    out[FAVOR_O] = out[FAVOR_DEN] = in[FAVOR_Q];
done:
    return st;
}

/* --- recording --- */

static const lh_op favor_max_op = {.name = "favor_max",
                                   .exact = LH_READS_OUT(0), /* no keys: -infinity */
                                   .costly = true,
                                   .place = favor_max_place,
                                   .forward = favor_max_forward};
static const lh_op favor_sum_op = {.name = "favor_sum",
                                   .reads = LH_READS_IN(FAVOR_K) | LH_READS_IN(FAVOR_V) |
                                            LH_READS_IN(FAVOR_W) | LH_READS_IN(FAVOR_C),
                                   .costly = true,
                                   .place = favor_sum_place,
                                   .forward = favor_sum_forward,
                                   .vjp = favor_sum_vjp};
static const lh_op favor_out_op = {.name = "favor_out",
                                   .reads = UINT64_MAX,
                                   .costly = true,
                                   .exact = LH_READS_OUT(FAVOR_DEN),
                                   .place = favor_out_place,
                                   .forward = favor_out_forward,
                                   .vjp = favor_out_vjp};

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

static favor_attrs favor_attrs_of(const lh_favor *f)
{
    return (favor_attrs){f->kind, f->features, f->epsilon, f->causal, f->layout, f->valid};
}

lh_status lh_favor_max(lh_tape *t, const lh_favor *f, lh_var *c)
{
    lh_status st = LH_OK;
    favor_attrs attrs = favor_attrs_of(f);
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
    favor_attrs attrs = favor_attrs_of(f);
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
    favor_attrs attrs = favor_attrs_of(f);
    lh_var outs[2] = {{0}};
    LH_TRY(favor_check(t, f));
    const lh_shape *q = lh_var_shape(t, f->q);
    lh_shape shapes[2] = {*q, lh_shape_3(LH_REAL, q->dim[0], q->dim[1], q->dim[2])};
    lh_var k = f->k;
    /* bidirectional output has all of the keys in s: no second way for gradients */
    if (!f->causal) LH_TRY(lh_stop_gradient(t, f->k, &k));
    LH_TRY(lh_record(t, &favor_out_op, &attrs, sizeof attrs, FAVOR_INPUTS,
                     (lh_var[]){k, f->causal ? f->v : (lh_var){0}, f->w, c, f->q, s}, 2, shapes,
                     outs));
    *o = outs[FAVOR_O];
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
