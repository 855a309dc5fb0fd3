/* Performer (Choromanski et al. 2021): attention whose softmax kernel is estimated, or replaced, by
 * products of random features, so that it is linear in the length. The random projection is a
 * frozen parameter: checkpoints hold it, and it is a function of the seed, the layer and the number
 * of the redraw, so the same on all ranks. Over ranks travel one maximum per key head and one
 * summary, whatever the length. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "attention/favor.h"
#include "core/integer.h"
#include "core/random.h"
#include "parallel/collectives.h"

enum { PERFORMER_SOFTMAX, PERFORMER_RELU }; /* kernel; the others follow in the order of kinds */
enum { PERFORMER_POSITIVE, PERFORMER_TRIG, PERFORMER_HYPERBOLIC }; /* estimator */
enum { PERFORMER_CHI, PERFORMER_SQRT };                            /* row_norm */

#define PERFORMER_KERNELS "softmax|relu|exp|elu|square|tanh|sigmoid|cos|identity"

typedef struct performer_settings {
    int64_t features, redraw;
    int kernel, estimator, row_norm;
    bool orthogonal;
    double epsilon;
} performer_settings;

typedef struct performer_state {
    lh_attn_desc desc;
    lh_feature_kind kind;
    lh_param *projection; /* NULL: without */
    lh_params *params;
} performer_state;

static const lh_field performer_fields[] = {
    {.name = "features",
     .type = LH_FIELD_INT,
     .offset = offsetof(performer_settings, features),
     .fallback = "256",
     .min = 0,
     .max = 1 << 20,
     .per_layer = true,
     .help = "random features; 0: the kernel's function of queries and keys themselves"},
    {.name = "kernel",
     .type = LH_FIELD_CHOICE,
     .offset = offsetof(performer_settings, kernel),
     .fallback = "softmax",
     .choices = PERFORMER_KERNELS,
     .per_layer = true,
     .help = "softmax is estimated; the others replace it (elu: elu + 1, square: max(x, 0)^2)"},
    {.name = "estimator",
     .type = LH_FIELD_CHOICE,
     .offset = offsetof(performer_settings, estimator),
     .fallback = "positive",
     .choices = "positive|trig|hyperbolic",
     .per_layer = true,
     .help = "of the kernel softmax; trig and hyperbolic make two numbers of each feature"},
    {.name = "orthogonal",
     .type = LH_FIELD_BOOL,
     .offset = offsetof(performer_settings, orthogonal),
     .fallback = "true",
     .per_layer = true,
     .help = "rows of the projection are orthogonal, head_width at a time"},
    {.name = "row_norm",
     .type = LH_FIELD_CHOICE,
     .offset = offsetof(performer_settings, row_norm),
     .fallback = "chi",
     .choices = "chi|sqrt",
     .per_layer = true,
     .help = "length of the projection's rows: as of Gaussian vectors, or sqrt(head_width)"},
    {.name = "redraw",
     .type = LH_FIELD_INT,
     .offset = offsetof(performer_settings, redraw),
     .fallback = "0",
     .min = 0,
     .max = 1099511627776.0,
     .per_layer = true,
     .help = "optimiser steps between two projections; 0: never"},
    {.name = "epsilon",
     .type = LH_FIELD_REAL,
     .offset = offsetof(performer_settings, epsilon),
     .fallback = "-1",
     .min = -1,
     .max = 1e3,
     .per_layer = true,
     .help = "added to every feature; negative: 1e-4 for softmax (trig: 0), 1e-3 otherwise"},
    {.name = NULL},
};

static lh_feature_kind performer_kind(const performer_settings *s)
{
    if (s->kernel != PERFORMER_SOFTMAX)
        return (lh_feature_kind)(LH_FEATURE_RELU + (s->kernel - PERFORMER_RELU));
    return (lh_feature_kind)(LH_FEATURE_POSITIVE + (s->estimator - PERFORMER_POSITIVE));
}

static double performer_epsilon(const performer_settings *s)
{
    if (s->epsilon >= 0.0) return s->epsilon;
    if (s->kernel != PERFORMER_SOFTMAX) return 1e-3;
    return s->estimator == PERFORMER_TRIG ? 0.0 : 1e-4;
}

/* M: the features asked for, or, without a projection, the width of a head. */
static int64_t performer_features(const lh_attn_desc *d)
{
    const performer_settings *s = d->settings;
    return s->features > 0 ? s->features : d->head_width;
}

/* --- the projection --- */

/* What the draw must know. */
typedef struct performer_draw {
    int64_t rows, width;
    bool orthogonal, unit; /* unit: rows have length sqrt(width) */
} performer_draw;

static double performer_length(const double *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    return sqrt(sum);
}

/* x -= 2 v (v.x) / (v.v) */
static void performer_reflect(const double *v, double *x, int64_t n, double v_v)
{
    double along = 0.0;
    for (int64_t i = 0; i < n; i++) along += v[i] * x[i];
    for (int64_t i = 0; i < n; i++) x[i] -= 2.0 * along / v_v * v[i];
}

/* QR of the d x d matrix whose columns are the rows of a, by Householder reflections; the columns of
 * Q, with the signs that make R's diagonal positive (so Q is uniform over rotations and reflections:
 * Mezzadri 2007), become the rows of q. a is written over: row j holds reflection j. */
static void performer_orthogonalise(double *a, double *q, int64_t d)
{
    for (int64_t j = 0; j < d; j++) {
        double *v = a + j * d + j; /* entries j .. d - 1; those before belong to R */
        double length = performer_length(v, d - j);
        double sign = v[0] < 0.0 ? -1.0 : 1.0; /* R's diagonal is -sign length */
        memset(q + j * d, 0, (size_t)d * sizeof *q);
        q[j * d + j] = -sign;
        v[0] += sign * length;
        double v_v = performer_length(v, d - j);
        v_v *= v_v;
        for (int64_t i = j + 1; i < d && v_v > 0.0; i++)
            performer_reflect(v, a + i * d + j, d - j, v_v);
    }
    for (int64_t i = 0; i < d; i++) { /* column i of H_0 H_1 ... H_{d-1}, times its sign */
        for (int64_t j = i; j >= 0; j--) {
            const double *v = a + j * d + j;
            double v_v = performer_length(v, d - j);
            if (v_v > 0.0) performer_reflect(v, q + i * d + j, d - j, v_v * v_v);
        }
    }
}

/* Row lengths: as of fresh Gaussian vectors, or all sqrt(width). norms: number of their first. */
static void performer_lengths(const performer_draw *d, uint64_t seed, uint64_t stream,
                              uint64_t norms, double *w)
{
    for (int64_t i = 0; i < d->rows; i++) {
        double *row = w + i * d->width;
        double want = sqrt((double)d->width);
        if (!d->unit) {
            double sum = 0.0;
            for (int64_t k = 0; k < d->width; k++) {
                double x = lh_random_normal(seed, stream, norms + (uint64_t)(i * d->width + k));
                sum += x * x;
            }
            want = sqrt(sum);
        }
        double factor = want / performer_length(row, d->width);
        for (int64_t k = 0; k < d->width; k++) row[k] *= factor;
    }
}

/* Draw W. number: the name's in the low half, the redraw's in the high half; each redraw has 2^40
 * random numbers for itself. */
static lh_status performer_values(const void *user, uint64_t seed, uint64_t number, double *work,
                                  double *w)
{
    const performer_draw d = *(const performer_draw *)user;
    double *q = work + d.width * d.width;
    uint64_t stream = lh_stream_id(LH_STREAM_PARAMETER, (uint32_t)number);
    uint64_t at = (number >> 32) << 40;
    int64_t step = d.orthogonal ? d.width : 1;
    for (int64_t i = 0; i < d.rows; i += step) {
        int64_t n = step * d.width;
        for (int64_t k = 0; k < n; k++) work[k] = lh_random_normal(seed, stream, at + (uint64_t)k);
        at += (uint64_t)n;
        if (d.orthogonal) performer_orthogonalise(work, q, d.width);
        memcpy(w + i * d.width, d.orthogonal ? q : work,
               (size_t)(lhi_min(step, d.rows - i) * d.width) * sizeof *w);
    }
    /* independent Gaussian rows have their lengths already */
    if (d.orthogonal || d.unit) performer_lengths(&d, seed, stream, at, w);
    return LH_OK;
}

static void performer_name(const lh_attn_desc *d, char *name, size_t bytes)
{
    (void)snprintf(name, bytes, "layer.%d.attention.projection", d->layer);
}

/* --- the table's entries --- */

static lh_status performer_check(const lh_attn_desc *d)
{
    lh_status st = LH_OK;
    const performer_settings *s = d->settings;
    LH_CHECK(s->features > 0 || s->kernel != PERFORMER_SOFTMAX, LH_ERR_USAGE,
             "performer: features 0 (no projection) needs a kernel other than softmax, whose "
             "estimate is an average over random features");
    LH_CHECK(s->kernel == PERFORMER_SOFTMAX || s->estimator == PERFORMER_POSITIVE, LH_ERR_USAGE,
             "performer: estimator belongs to kernel softmax: leave it out");
    LH_CHECK(s->redraw == 0 || s->features > 0, LH_ERR_USAGE,
             "performer: redraw needs a projection: leave it out with features 0");
    LH_CHECK(!d->causal || d->layout == NULL || lh_scan_runs(d->layout) > 0, LH_ERR_UNSUP,
             "performer: causal attention sums over ranks in the order of positions, which layout "
             "'%s' does not have: use contiguous or zigzag",
             d->layout->name);
done:
    return st;
}

static lh_status performer_create(const lh_attn_desc *d, void **state)
{
    lh_status st = LH_OK;
    performer_state *s = NULL;
    char name[64];
    const performer_settings *settings = d->settings;
    LH_TRY(performer_check(d));
    LH_TRY(lh_new(sizeof *s, &s));
    s->desc = *d;
    s->kind = performer_kind(settings);
    if (settings->features > 0) {
        performer_name(d, name, sizeof name);
        s->projection = d->params != NULL ? lh_params_find(d->params, name) : NULL;
        LH_CHECK(s->projection != NULL, LH_ERR_BUG, "performer: parameter %s was not declared",
                 name);
        s->params = (lh_params *)d->params;
    }
    *state = s;
    s = NULL;
done:
    lh_free(&s);
    return st;
}

static lh_status performer_parameters(const lh_attn_desc *d, lh_params *p)
{
    lh_status st = LH_OK;
    char name[64];
    const performer_settings *s = d->settings;
    lh_param *projection = NULL;
    performer_draw draw = {s->features, d->head_width, s->orthogonal,
                           s->row_norm == PERFORMER_SQRT};
    LH_TRY(performer_check(d));
    if (s->features == 0) goto done;
    performer_name(d, name, sizeof name);
    LH_TRY(lh_params_add_drawn(p, name, lh_shape_2(LH_REAL, s->features, d->head_width),
                               performer_values, &draw, sizeof draw, &projection));
    projection->draw_work = 2 * d->head_width * d->head_width;
done:
    return st;
}

/* The number of the redraw is a function of the step, so a resumed run draws what the other would
 * have drawn. */
static lh_status performer_begin_step(void *state, int64_t step)
{
    performer_state *s = state;
    int64_t redraw = ((const performer_settings *)s->desc.settings)->redraw;
    if (redraw == 0 || step == 0 || step % redraw != 0) return LH_OK;
    uint64_t number = (uint64_t)(step / redraw) << 32 | lh_name_number(s->projection->name);
    return lh_params_draw(s->params, s->projection, s->desc.seed, number);
}

static lh_status performer_forward(void *state, lh_tape *t, const lh_qkv *in, lh_var *out)
{
    lh_status st = LH_OK;
    const performer_state *s = state;
    lh_favor f = {.kind = s->kind,
                  .features = performer_features(&s->desc),
                  .epsilon = performer_epsilon(s->desc.settings),
                  .causal = s->desc.causal,
                  .layout = s->desc.layout,
                  .valid = in->valid,
                  .q = in->q,
                  .k = in->k,
                  .v = in->v};
    if (s->projection != NULL) LH_TRY(lh_tape_param(t, s->projection, &f.w));
    LH_TRY(lh_favor_attend(t, in->mesh, &f, out));
done:
    return st;
}

/* --- cost --- */

/* Multiply-adds of one sequence on this rank, by kind of product. */
typedef struct performer_work {
    double project_q, project_k; /* x W^T, or its adjoint */
    double sums_q, sums_k;       /* rows of features times summaries [M', D + 1] */
    double values_k;             /* rows of features times [M', D] */
    /* products within blocks of rows, per query head: [C, C] by M', D + 1 and D */
    double block_wide, block_sum, block_value;
} performer_work;

static performer_work performer_work_of(const lh_attn_desc *d, int rank)
{
    const performer_settings *s = d->settings;
    double m = (double)s->features; /* 0: nothing is projected */
    double wide = (double)lh_feature_width(performer_kind(s), performer_features(d));
    double width = (double)d->head_width;
    double rows = (double)d->layout->rows[rank];
    double heads = (double)d->heads;
    double squares = heads * (double)lh_favor_squares(d->layout, rank);
    double keys = rows * (double)d->kv_heads;
    return (performer_work){.project_q = rows * heads * m * width,
                            .project_k = keys * m * width,
                            .sums_q = rows * heads * wide * (width + 1.0),
                            .sums_k = keys * wide * (width + 1.0),
                            .values_k = keys * wide * width,
                            .block_wide = squares * wide,
                            .block_sum = squares * (width + 1.0),
                            .block_value = squares * width};
}

/* Bidirectional. Forward: maximum, sum, output. Backward: the output's adjoint, then the sum's;
 * features are made again. */
static void performer_flops(const lh_attn_desc *d, int rank, lh_cost *c)
{
    performer_work w = performer_work_of(d, rank);
    bool most = lh_feature_stabilised(performer_kind(d->settings));
    double forward = (most ? 2.0 : 1.0) * w.project_k + w.sums_k + w.project_q + w.sums_q;
    double backward = 2.0 * (w.project_q + w.sums_q) + 2.0 * w.project_k + w.sums_k + w.values_k;
    if (d->causal) {
        forward += w.project_k + w.sums_k + w.block_wide + w.block_sum;
        /* two passes, which both make all features: dq; dk and dv */
        backward += w.project_q + 3.0 * w.project_k + 2.0 * w.sums_k + w.values_k + w.block_sum +
                    w.block_wide + 2.0 * w.block_wide + w.block_sum + w.block_value;
    }
    c->forward_flops = 2.0 * (double)d->batch * forward;
    c->backward_flops = 2.0 * (double)d->batch * backward;
}

static lh_status performer_predict(const lh_attn_desc *d, int ranks, int rank, lh_cost *c)
{
    const performer_settings *s = d->settings;
    int64_t bytes = (int64_t)lh_dtype_bytes(LH_REAL);
    int64_t most = lh_feature_stabilised(performer_kind(s)) ? d->batch * d->kv_heads : 0;
    int64_t wide = lh_feature_width(performer_kind(s), performer_features(d));
    int64_t summary = d->batch * d->kv_heads * wide * (d->head_width + 1);
    int64_t runs = d->causal ? lh_scan_runs(d->layout) : 1;
    int64_t there = d->causal ? lh_scan_sends(runs, ranks, rank, false) : 1;
    int64_t back = d->causal ? lh_scan_sends(runs, ranks, rank, true) : 1;
    *c = (lh_cost){0};
    if (ranks > 1) {
        c->summary_bytes = bytes * (most + (there + back) * summary);
        c->again_bytes = bytes * (most + there * summary);
    }
    /* the summed summary, the denominators, the maximum */
    c->kept_bytes = bytes * (runs * summary + d->batch * d->layout->rows[rank] * d->heads + most);
    performer_flops(d, rank, c);
    return LH_OK;
}

/* Keys reach queries as sums only; between ranks, sums are what travels. */
static lh_status performer_picture(const lh_attn_desc *d, int ranks, lh_picture *p)
{
    const lh_pattern all = lh_pattern_band(-LH_FAR, d->causal ? 0 : LH_FAR);
    int64_t wide = lh_feature_width(performer_kind(d->settings), performer_features(d));
    int64_t columns = d->head_width + 1;
    char note[LH_PICTURE_TEXT];
    (void)snprintf(note, sizeof note,
                   "keys reach queries as sums of features, never as scores%s%lld x %lld numbers "
                   "per key head%s",
                   ranks > 1 ? "; between ranks travels one summary of " : ": ", (long long)wide,
                   (long long)columns,
                   ranks == 1  ? ""
                   : d->causal ? " (scan in order of position)"
                               : " (sum over all ranks)");
    return lh_picture_add(p, &(lh_picture_part){.n_heads = d->heads,
                                                .pattern = &all,
                                                .queries = d->layout,
                                                .keys = d->layout,
                                                .far = LH_KIND_SUMMARY,
                                                .note = note});
}

static void performer_destroy(void **state)
{
    lh_free(state);
}

const lh_attn_ops lh_attn_performer = {
    .name = "performer",
    .help = "softmax estimated by products of random features: linear in the length (sums over "
            "ranks)",
    .settings = performer_fields,
    .settings_bytes = sizeof(performer_settings),
    .caps = LH_ATTN_CAUSAL | LH_ATTN_BIDIRECTIONAL | LH_ATTN_GQA | LH_ATTN_LAYOUTS,
    .refuses = "it never sees a single score: its sums over all keys know neither documents nor "
               "relative positions",
    .create = performer_create,
    .parameters = performer_parameters,
    .forward = performer_forward,
    .predict = performer_predict,
    .begin_step = performer_begin_step,
    .destroy = performer_destroy,
    .draw = performer_picture,
};
