/* Linear attention by feature maps on several ranks against the same sums written down plainly, in
 * double, from the global tensors; its projection; the mechanism performer's bytes and flops. */
#include "attention/favor.h"
#include "core/random.h"
#include "experiments/config.h"
#include "parallel/collectives.h"
#include "tests/lh_gradcheck.h"
#include "tests/lh_test_mpi.h"
#include "tests/lh_test_scenes.h"
#include "tests/tol.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_BATCH = 3, SEED = 9, STREAM_W = 20, STREAM_OUT = 21 };
enum { Q, K, V, W, C, INPUTS };

typedef struct scene {
    const char *name;
    lh_feature_kind kind;
    int64_t batch, n, chunk, heads, kv_heads, width, features; /* features 0: no projection */
    lh_test_layout_kind layout;
    bool causal;
    double epsilon;
    double size;  /* of the inputs */
    double trend; /* keys grow with their position by this much, so that ranks differ */
    bool has_valid;
    int64_t valid[MAX_BATCH];
    bool fixed;   /* the stabiliser is an input: then the gradient is that of the function */
    bool segment; /* recomputed */
    bool plain;   /* on the plain device: for many steps of what others show not to need this one */
    int data;     /* data ranks, if they divide the ranks; else 1 */
    double loose; /* times the tolerance: features that eps makes alike, or rounded exponents */
} scene;

#define SIZES(b, s, c, h, g, d, m, l)                                                              \
    .batch = (b), .n = (s), .chunk = (c), .heads = (h), .kv_heads = (g), .width = (d),             \
    .features = (m), .layout = (l)
#define MAP(name, causal_, eps, size_)                                                             \
    .kind = LH_FEATURE_##name, .causal = (causal_), .epsilon = (eps), .size = (size_)

static const scene scenes[] = {
    {"positive", MAP(POSITIVE, false, 1e-4, 1), SIZES(1, 1009, 64, 2, 2, 8, 16, LH_TEST_EVEN)},
    {"positive causal", MAP(POSITIVE, true, 1e-4, 1),
     SIZES(1, 1009, 300, 2, 2, 8, 16, LH_TEST_EVEN)},
    {"positive, grouped", MAP(POSITIVE, false, 1e-4, 1),
     SIZES(2, 101, 16, 4, 2, 8, 20, LH_TEST_ALIGNED)},
    {"positive causal, grouped", MAP(POSITIVE, true, 1e-4, 1),
     SIZES(2, 101, 16, 4, 1, 8, 20, LH_TEST_ALIGNED)},
    {"hyperbolic", MAP(HYPERBOLIC, false, 1e-4, 1), SIZES(2, 101, 16, 2, 1, 8, 12, LH_TEST_EVEN)},
    {"hyperbolic causal", MAP(HYPERBOLIC, true, 1e-4, 1),
     SIZES(2, 101, 16, 2, 1, 8, 12, LH_TEST_EVEN)},
    {"trig", MAP(TRIG, false, 0, 0.3), SIZES(2, 101, 16, 2, 1, 8, 32, LH_TEST_EVEN)},
    {"trig causal", MAP(TRIG, true, 0, 0.3), SIZES(2, 101, 16, 2, 1, 8, 32, LH_TEST_EVEN)},
    {"relu", MAP(RELU, false, 1e-3, 1), SIZES(2, 101, 16, 4, 2, 8, 16, LH_TEST_EVEN)},
    {"relu causal", MAP(RELU, true, 1e-3, 1), SIZES(2, 101, 16, 4, 2, 8, 16, LH_TEST_EVEN)},
    {"exp", MAP(EXP, true, 1e-3, 0.5), SIZES(2, 60, 16, 2, 1, 8, 16, LH_TEST_EVEN)},
    {"elu", MAP(ELU, true, 1e-3, 1), SIZES(2, 60, 16, 2, 1, 8, 16, LH_TEST_EVEN)},
    {"square", MAP(SQUARE, false, 1e-3, 1), SIZES(2, 60, 16, 2, 1, 8, 16, LH_TEST_EVEN)},
    {"tanh", MAP(TANH, true, 1.1, 1), SIZES(2, 60, 16, 2, 1, 8, 16, LH_TEST_EVEN)},
    {"sigmoid", MAP(SIGMOID, false, 1e-3, 1), SIZES(2, 60, 16, 2, 1, 8, 16, LH_TEST_EVEN)},
    {"cos", MAP(COS, true, 1.5, 1), SIZES(2, 60, 16, 2, 1, 8, 16, LH_TEST_EVEN)},
    {"identity", MAP(IDENTITY, false, 6, 0.5), SIZES(2, 60, 16, 2, 1, 8, 16, LH_TEST_EVEN)},
    {"relu without projection", MAP(RELU, true, 1e-3, 1),
     SIZES(2, 60, 16, 2, 1, 8, 0, LH_TEST_EVEN)},
    {"elu without projection", MAP(ELU, false, 1e-3, 1),
     SIZES(2, 60, 16, 2, 2, 8, 0, LH_TEST_EVEN)},
    {"more ranks than tokens", MAP(POSITIVE, true, 1e-4, 1),
     SIZES(2, 3, 1, 2, 1, 8, 8, LH_TEST_ALIGNED)},
    {"more ranks than tokens, all", MAP(POSITIVE, false, 1e-4, 1),
     SIZES(2, 3, 1, 2, 1, 8, 8, LH_TEST_ALIGNED)},
    {"one token", MAP(POSITIVE, true, 1e-4, 1), SIZES(1, 1, 1, 1, 1, 8, 8, LH_TEST_ALIGNED)},
    {"uneven, a rank without tokens", MAP(POSITIVE, true, 1e-4, 1),
     SIZES(2, 90, 8, 2, 1, 8, 8, LH_TEST_UNEVEN)},
    {"uneven, all", MAP(HYPERBOLIC, false, 1e-4, 1), SIZES(2, 90, 8, 2, 1, 8, 8, LH_TEST_UNEVEN)},
    {"zigzag causal", MAP(POSITIVE, true, 1e-4, 1), SIZES(2, 101, 8, 2, 1, 8, 12, LH_TEST_ZIGZAG)},
    {"zigzag causal, tiny", MAP(RELU, true, 1e-3, 1), SIZES(1, 7, 1, 2, 1, 8, 12, LH_TEST_ZIGZAG)},
    {"zigzag, all", MAP(POSITIVE, false, 1e-4, 1), SIZES(1, 101, 8, 2, 1, 8, 12, LH_TEST_ZIGZAG)},
    {"cyclic, all", MAP(POSITIVE, false, 1e-4, 1), SIZES(2, 101, 8, 2, 1, 8, 12, LH_TEST_CYCLIC)},
    {"valid lengths", MAP(POSITIVE, false, 1e-2, 1), SIZES(3, 101, 16, 2, 1, 8, 12, LH_TEST_EVEN),
     .has_valid = true, .valid = {101, 37, 1}},
    {"valid lengths, causal", MAP(POSITIVE, true, 1e-2, 1),
     SIZES(3, 101, 16, 2, 1, 8, 12, LH_TEST_ALIGNED), .has_valid = true, .valid = {64, 1, 100}},
    {"valid lengths, cyclic", MAP(RELU, false, 1e-2, 1),
     SIZES(3, 101, 16, 2, 1, 8, 12, LH_TEST_CYCLIC), .has_valid = true, .valid = {64, 12, 100},
     .loose = 5},
    /* eps is as large as the features: a stabiliser that differs between ranks shows */
    {"large epsilon", MAP(POSITIVE, false, 0.1, 1), SIZES(2, 101, 16, 2, 1, 8, 16, LH_TEST_EVEN),
     .trend = 2, .loose = 30},
    {"large epsilon, causal", MAP(POSITIVE, true, 0.1, 1),
     SIZES(2, 101, 16, 2, 1, 8, 16, LH_TEST_EVEN), .trend = 2, .loose = 30},
    {"large numbers", MAP(POSITIVE, false, 1e-4, 1), SIZES(1, 101, 16, 2, 1, 8, 16, LH_TEST_EVEN),
     .trend = 20, .loose = 100},
    {"recomputed", MAP(POSITIVE, false, 1e-4, 1), SIZES(2, 60, 16, 2, 1, 8, 12, LH_TEST_EVEN),
     .segment = true},
    {"recomputed, causal", MAP(POSITIVE, true, 1e-4, 1),
     SIZES(2, 60, 16, 2, 1, 8, 12, LH_TEST_EVEN), .segment = true},
    {"two data ranks", MAP(POSITIVE, true, 1e-4, 1), SIZES(2, 61, 8, 2, 1, 8, 12, LH_TEST_EVEN),
     .data = 2},
    {"two data ranks, all", MAP(TRIG, false, 0, 0.3), SIZES(2, 61, 8, 2, 1, 8, 32, LH_TEST_EVEN),
     .data = 2},
    {"fixed stabiliser", MAP(POSITIVE, false, 1e-2, 1), SIZES(2, 60, 16, 2, 1, 8, 12, LH_TEST_EVEN),
     .fixed = true},
};

/* Where the stabilisers are inputs or do not matter, so that differences see the same function. */
static const scene smooth[] = {
    {"positive", MAP(POSITIVE, false, 0, 1), SIZES(2, 60, 16, 4, 2, 8, 12, LH_TEST_EVEN)},
    {"positive causal", MAP(POSITIVE, true, 0, 1), SIZES(2, 60, 16, 4, 2, 8, 12, LH_TEST_EVEN),
     .fixed = true},
    {"positive zigzag", MAP(POSITIVE, true, 0, 1), SIZES(2, 60, 4, 2, 1, 8, 12, LH_TEST_ZIGZAG),
     .fixed = true},
    {"trig", MAP(TRIG, false, 0, 0.3), SIZES(2, 60, 16, 2, 1, 8, 32, LH_TEST_EVEN)},
    {"trig causal", MAP(TRIG, true, 0, 0.3), SIZES(2, 60, 16, 2, 1, 8, 32, LH_TEST_EVEN),
     .fixed = true},
    {"hyperbolic causal", MAP(HYPERBOLIC, true, 0, 1), SIZES(2, 60, 16, 2, 1, 8, 12, LH_TEST_EVEN),
     .fixed = true},
    {"exp", MAP(EXP, true, 1e-3, 0.5), SIZES(2, 60, 16, 2, 1, 8, 12, LH_TEST_EVEN)},
    {"tanh", MAP(TANH, false, 1.1, 1), SIZES(2, 60, 16, 2, 1, 8, 12, LH_TEST_EVEN)},
    {"sigmoid", MAP(SIGMOID, true, 1e-3, 1), SIZES(2, 60, 16, 2, 1, 8, 12, LH_TEST_EVEN)},
    {"cos", MAP(COS, false, 1.5, 1), SIZES(2, 60, 16, 2, 1, 8, 12, LH_TEST_EVEN)},
    /* a larger eps would leave a gradient of q that is small beside the rounding of the output */
    {"identity", MAP(IDENTITY, true, 2, 0.5), SIZES(2, 60, 16, 2, 1, 8, 0, LH_TEST_EVEN)},
};

/* --- one scene on this rank --- */

typedef struct stage {
    const scene *s;
    lh_comm *comm;
    lh_mesh *mesh, *counting;
    lh_device *device, *count;
    lh_layout *layout;
    lh_gradcheck g;
    lh_gradcheck_run run;
    int64_t features, wide;
    void *data[INPUTS];  /* host, local */
    lh_real *seed;       /* host, local: of o */
    double *whole[3];    /* q, k, v of all positions */
    double *w;           /* [M, D] */
    double *phi[2];      /* of q and k: [B, N, heads, M'] */
    double *dphi[2];     /* their gradients */
    double *c;           /* [B, G] */
    double *grad[3];     /* reference */
    double *d_out, *out; /* o [B, N, H, D] */
} stage;

static int64_t heads_of(const stage *a, int t)
{
    return t == Q ? a->s->heads : a->s->kv_heads;
}

/* Element of a tensor of the whole sequence; the batch is this data rank's. */
static lh_real element(const stage *a, int t, int64_t b, int64_t position, int64_t i)
{
    int64_t width = heads_of(a, t == STREAM_OUT ? Q : t) * a->s->width;
    int64_t first = (int64_t)a->mesh->coord[LH_AXIS_DATA] * a->s->batch;
    double x = lh_random_normal(SEED, lh_stream_id(LH_STREAM_TEST, (uint32_t)t),
                                (uint64_t)(((first + b) * a->s->n + position) * width + i));
    if (t == STREAM_OUT || t == V) return (lh_real)x;
    double grown = t == K ? 1.0 + a->s->trend * (double)position / (double)a->s->n : 1.0;
    return (lh_real)(a->s->size * grown * x);
}

static lh_status stage_tensor(stage *a, int t)
{
    lh_status st = LH_OK;
    const scene *s = a->s;
    int rank = a->mesh->coord[LH_AXIS_SEQ];
    int64_t width = heads_of(a, t) * s->width;
    int64_t rows = a->layout->rows[rank];
    lh_real *mine = NULL;
    LH_TRY(lh_new((size_t)(s->batch * s->n * width) * sizeof(double), &a->whole[t]));
    LH_TRY(lh_new((size_t)(s->batch * s->n * width) * sizeof(double), &a->grad[t]));
    LH_TRY(lh_new((size_t)(s->batch * rows * width) * sizeof(lh_real), &a->data[t]));
    mine = a->data[t];
    for (int64_t b = 0; b < s->batch; b++) {
        for (int64_t i = 0; i < s->n * width; i++)
            a->whole[t][b * s->n * width + i] = (double)element(a, t, b, i / width, i % width);
        for (int64_t i = 0; i < rows * width; i++)
            mine[b * rows * width + i] =
                element(a, t, b, lh_layout_position(a->layout, rank, i / width), i % width);
    }
    a->g.in[t] = (lh_gradcheck_input){lh_shape_4(LH_REAL, s->batch, rows, heads_of(a, t), s->width),
                                      lh_place_tokens(a->layout), a->data[t], true};
done:
    return st;
}

static lh_status stage_features(stage *a)
{
    lh_status st = LH_OK;
    const scene *s = a->s;
    lh_real *w = NULL;
    int64_t n = a->features * s->width;
    LH_TRY(lh_new((size_t)n * sizeof *a->w, &a->w));
    LH_TRY(lh_new((size_t)n * sizeof *w, &a->data[W]));
    w = a->data[W];
    for (int64_t i = 0; i < n; i++) {
        w[i] = (lh_real)lh_random_normal(SEED, lh_stream_id(LH_STREAM_TEST, STREAM_W), (uint64_t)i);
        if (s->features == 0) w[i] = i / s->width == i % s->width ? 1 : 0;
        a->w[i] = (double)w[i];
    }
    a->g.in[W] = (lh_gradcheck_input){lh_shape_2(LH_REAL, a->features, s->width),
                                      lh_place_replicated(), a->data[W], false};
    for (int t = 0; t < 2; t++) {
        size_t bytes = (size_t)(s->batch * s->n * heads_of(a, t) * a->wide) * sizeof(double);
        LH_TRY(lh_new(bytes, &a->phi[t]));
        LH_TRY(lh_new(bytes, &a->dphi[t]));
    }
done:
    return st;
}

static lh_status stage_stabiliser(stage *a)
{
    lh_status st = LH_OK;
    const scene *s = a->s;
    int64_t n = s->batch * s->kv_heads;
    LH_TRY(lh_new((size_t)n * sizeof *a->c, &a->c));
    LH_TRY(lh_new((size_t)n * sizeof(lh_real), &a->data[C]));
    for (int64_t i = 0; i < n; i++) ((lh_real *)a->data[C])[i] = (lh_real)(0.5 + 0.1 * (double)i);
    lh_place place = lh_place_replicated();
    place.axis[LH_AXIS_DATA] = (lh_place_word){LH_SHARD, 0, NULL};
    a->g.in[C] =
        (lh_gradcheck_input){lh_shape_2(LH_REAL, s->batch, s->kv_heads), place, a->data[C], false};
done:
    return st;
}

static lh_status stage_seeds(stage *a)
{
    lh_status st = LH_OK;
    const scene *s = a->s;
    int rank = a->mesh->coord[LH_AXIS_SEQ];
    int64_t rows = a->layout->rows[rank];
    int64_t width = s->heads * s->width;
    LH_TRY(lh_new((size_t)(s->batch * rows * width) * sizeof *a->seed, &a->seed));
    LH_TRY(lh_new((size_t)(s->batch * s->n * width) * sizeof *a->d_out, &a->d_out));
    LH_TRY(lh_new((size_t)(s->batch * s->n * width) * sizeof *a->out, &a->out));
    a->g.seed[0] = a->seed;
    for (int64_t b = 0; b < s->batch; b++) {
        for (int64_t i = 0; i < s->n * width; i++)
            a->d_out[b * s->n * width + i] =
                (double)element(a, STREAM_OUT, b, i / width, i % width);
        for (int64_t i = 0; i < rows * width; i++)
            a->seed[b * rows * width + i] = element(
                a, STREAM_OUT, b, lh_layout_position(a->layout, rank, i / width), i % width);
    }
done:
    return st;
}

/* lh_favor_attend, or the same with the stabiliser that the scene gives. */
static lh_status favor_record(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    stage *a = user;
    const scene *s = a->s;
    lh_var sum = {0};
    lh_mesh *mesh = lh_tape_device(t)->counting ? a->counting : a->mesh;
    lh_favor f = {.kind = s->kind,
                  .features = a->features,
                  .epsilon = s->epsilon,
                  .causal = s->causal,
                  .layout = a->layout,
                  .valid = s->has_valid ? s->valid : NULL,
                  .q = in[Q],
                  .k = in[K],
                  .v = in[V]};
    if (s->features > 0) f.w = in[W];
    *n_out = 1;
    if (s->segment) LH_TRY(lh_tape_segment_begin(t));
    if (!s->fixed) {
        LH_TRY(lh_favor_attend(t, mesh, &f, &out[0]));
    } else {
        LH_TRY(lh_favor_sum(t, &f, in[C], &sum));
        if (s->causal)
            LH_TRY(lh_scan(t, mesh, a->layout, sum, &sum));
        else
            LH_TRY(lh_all_reduce(t, mesh, LH_AXIS_SEQ, sum, &sum));
        LH_TRY(lh_favor_out(t, &f, in[C], sum, &out[0]));
    }
    if (s->segment) LH_TRY(lh_tape_segment_end(t));
    const lh_place_word *o = &lh_var_place(t, out[0])->axis[LH_AXIS_SEQ];
    LH_CHECK(o->kind == LH_SHARD && o->dim == 1 && o->layout == a->layout, LH_ERR_BUG,
             "o must lie as the queries do");
done:
    return st;
}

static double total(void *user, double mine)
{
    lh_sum_f64(((stage *)user)->mesh->world, &mine, 1, LH_SEND_OTHER);
    return mine;
}

static lh_status stage_open(lh_comm *c, const scene *s, stage *a)
{
    lh_status st = LH_OK;
    int ranks = lh_comm_size(c);
    int data = s->data > 1 && ranks % s->data == 0 ? s->data : 1;
    *a = (stage){.s = s, .comm = c};
    a->features = s->features > 0 ? s->features : s->width;
    a->wide = lh_feature_width(s->kind, a->features);
    LH_TRY(lh_mesh_create(data, &a->mesh));
    LH_TRY(lh_mesh_create_counting(data, ranks / data, lh_comm_rank(c), &a->counting));
    LH_TRY(
        (s->plain ? lh_device_create_cpu : lh_device_create_poison)(lh_test_isa(), 1, &a->device));
    LH_TRY(lh_device_create_count(lh_test_isa(), 1, &a->count));
    LH_TRY(lh_test_layout(s->layout, s->n, ranks / data, s->chunk, &a->layout));
    a->g = (lh_gradcheck){.device = a->device,
                          .count = a->count,
                          .record = favor_record,
                          .total = total,
                          .user = a,
                          .n_in = INPUTS};
    for (int i = 0; i < LH_AXES; i++) {
        a->g.size[i] = a->mesh->size[i];
        a->g.coord[i] = a->mesh->coord[i];
    }
    for (int t = 0; t < 3; t++) LH_TRY(stage_tensor(a, t));
    LH_TRY(stage_features(a));
    LH_TRY(stage_stabiliser(a));
    LH_TRY(stage_seeds(a));
    LH_TRY(lh_gradcheck_open(&a->g, &a->run));
done:
    return st;
}

static void stage_close(stage *a)
{
    lh_gradcheck_close(&a->run);
    for (int t = 0; t < INPUTS; t++) lh_free(&a->data[t]);
    for (int t = 0; t < 3; t++) {
        lh_free(&a->whole[t]);
        lh_free(&a->grad[t]);
    }
    for (int t = 0; t < 2; t++) {
        lh_free(&a->phi[t]);
        lh_free(&a->dphi[t]);
    }
    lh_free(&a->w);
    lh_free(&a->c);
    lh_free(&a->seed);
    lh_free(&a->d_out);
    lh_free(&a->out);
    lh_layout_destroy(&a->layout);
    lh_device_destroy(&a->count);
    lh_device_destroy(&a->device);
    lh_mesh_destroy(&a->counting);
    lh_mesh_destroy(&a->mesh);
}

/* --- the reference --- */

static double dot(const double *x, const double *y, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

static void add(double *y, double factor, const double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] += factor * x[i];
}

static double *at(double *x, const stage *a, int t, int64_t b, int64_t i, int64_t h, int64_t width)
{
    return x + ((b * a->s->n + i) * heads_of(a, t) + h) * width;
}

static bool valid(const stage *a, int64_t b, int64_t j)
{
    return !a->s->has_valid || j < a->s->valid[b];
}

static bool stabilised(const stage *a)
{
    return a->s->kind == LH_FEATURE_POSITIVE || a->s->kind == LH_FEATURE_TRIG ||
           a->s->kind == LH_FEATURE_HYPERBOLIC;
}

/* x~ and |x~|^2 / 2 of a row; u_m = w_m.x~. */
static double scaled(const stage *a, const double *x, double *xs)
{
    for (int64_t i = 0; i < a->s->width; i++) xs[i] = x[i] / pow((double)a->s->width, 0.25);
    return 0.5 * dot(xs, xs, a->s->width);
}

/* What a row asks of a stabiliser: its largest exponent. */
static double row_most(const stage *a, const double *x)
{
    double xs[64];
    double half = scaled(a, x, xs);
    double most = a->s->kind == LH_FEATURE_TRIG ? half : -HUGE_VAL;
    for (int64_t m = 0; m < a->features && a->s->kind != LH_FEATURE_TRIG; m++) {
        double u = dot(a->w + m * a->s->width, xs, a->s->width);
        most = fmax(most, a->s->kind == LH_FEATURE_HYPERBOLIC ? fabs(u) : u);
    }
    return most;
}

/* f(u) and its slope for the maps without stabiliser. */
static double plain_map(lh_feature_kind kind, double u, double *slope)
{
    double s = 1.0 / (1.0 + exp(-u));
    switch (kind) {
    case LH_FEATURE_RELU:
        return *slope = u > 0, fmax(u, 0.0);
    case LH_FEATURE_EXP:
        return *slope = exp(u), exp(u);
    case LH_FEATURE_ELU:
        return *slope = u > 0 ? 1 : exp(u), u > 0 ? u + 1 : exp(u);
    case LH_FEATURE_SQUARE:
        return *slope = 2 * fmax(u, 0.0), fmax(u, 0.0) * fmax(u, 0.0);
    case LH_FEATURE_TANH:
        return *slope = 1 - tanh(u) * tanh(u), tanh(u);
    case LH_FEATURE_SIGMOID:
        return *slope = s * (1 - s), s;
    case LH_FEATURE_COS:
        return *slope = -sin(u), cos(u);
    default:
        return *slope = 1, u;
    }
}

/* Number j of M' of phi(x), stabiliser c; its derivatives by u (of feature j % M) and by h. */
static double map(const stage *a, int64_t j, double u, double half, double c, double d[2])
{
    double eps = a->s->epsilon;
    double norm = 1.0 / sqrt((double)a->features);
    double e = 0.0;
    bool second = j >= a->features;
    d[1] = 0.0;
    switch (a->s->kind) {
    case LH_FEATURE_POSITIVE:
        e = norm * exp(u - half - c);
        d[0] = e;
        d[1] = -e;
        return e + norm * eps;
    case LH_FEATURE_HYPERBOLIC:
        norm /= sqrt(2.0);
        e = norm * exp((second ? -u : u) - half - c);
        d[0] = second ? -e : e;
        d[1] = -e;
        return e + norm * eps;
    case LH_FEATURE_TRIG:
        e = norm * exp(half - c);
        d[0] = second ? e * cos(u) : -e * sin(u);
        d[1] = e * (second ? sin(u) : cos(u));
        return d[1] + norm * eps;
    default:
        return plain_map(a->s->kind, u, &d[0]) + eps;
    }
}

static double stabiliser(stage *a, int t, int64_t b, int64_t i, int64_t h)
{
    if (!stabilised(a)) return 0.0;
    if (t == K) return a->c[b * a->s->kv_heads + h];
    return row_most(a, at(a->whole[Q], a, Q, b, i, h, a->s->width));
}

static void dense_stabilisers(stage *a)
{
    for (int64_t b = 0; b < a->s->batch; b++)
        for (int64_t g = 0; g < a->s->kv_heads; g++) {
            double most = -HUGE_VAL;
            for (int64_t j = 0; j < a->s->n; j++)
                if (valid(a, b, j))
                    most = fmax(most, row_most(a, at(a->whole[K], a, K, b, j, g, a->s->width)));
            int64_t i = b * a->s->kv_heads + g;
            a->c[i] = a->s->fixed ? (double)((lh_real *)a->data[C])[i] : most;
        }
}

/* phi of row i of head h; or, backward, dx from dphi. */
static void dense_features(stage *a, int t, int64_t b, int64_t i, int64_t h, bool backward)
{
    int64_t width = a->s->width;
    double xs[64];
    double along = 0.0;
    double half = scaled(a, at(a->whole[t], a, t, b, i, h, width), xs);
    double c = stabiliser(a, t, b, i, h);
    double *phi = at(a->phi[t], a, t, b, i, h, a->wide);
    double *dphi = at(a->dphi[t], a, t, b, i, h, a->wide);
    double *dx = at(a->grad[t], a, t, b, i, h, width);
    double scale = 1.0 / pow((double)width, 0.25);
    if (t == K && !valid(a, b, i)) return;
    for (int64_t j = 0; j < a->wide; j++) {
        const double *w = a->w + j % a->features * width;
        double d[2];
        double value = map(a, j, dot(w, xs, width), half, c, d);
        if (!backward) phi[j] = value;
        if (!backward) continue;
        add(dx, scale * dphi[j] * d[0], w, width);
        along += dphi[j] * d[1];
    }
    if (backward) add(dx, scale * along, xs, width);
}

static void each_row(stage *a, bool backward)
{
    for (int t = 0; t < 2; t++)
        for (int64_t b = 0; b < a->s->batch; b++)
            for (int64_t i = 0; i < a->s->n; i++)
                for (int64_t h = 0; h < heads_of(a, t); h++)
                    dense_features(a, t, b, i, h, backward);
}

/* One query: its output, and what it adds to the gradients. */
static void dense_query(stage *a, int64_t b, int64_t i, int64_t h)
{
    const scene *s = a->s;
    int64_t g = h / (s->heads / s->kv_heads);
    int64_t last = s->causal ? i + 1 : s->n;
    const double *phi = at(a->phi[Q], a, Q, b, i, h, a->wide);
    double *dphi = at(a->dphi[Q], a, Q, b, i, h, a->wide);
    double *o = at(a->out, a, Q, b, i, h, s->width);
    const double *d_o = at(a->d_out, a, Q, b, i, h, s->width);
    double guard = s->causal ? 1e-6 : 0.0; /* on every entry of z */
    double den = 0.0;
    for (int64_t m = 0; m < a->wide; m++) den += guard * phi[m];
    for (int64_t j = 0; j < last; j++) {
        double p = dot(phi, at(a->phi[K], a, K, b, j, g, a->wide), a->wide);
        den += p;
        add(o, p, at(a->whole[V], a, V, b, j, g, s->width), s->width);
    }
    for (int64_t k = 0; k < s->width; k++) o[k] /= den;
    double delta = dot(d_o, o, s->width);
    for (int64_t m = 0; m < a->wide; m++) dphi[m] -= guard * delta / den;
    for (int64_t j = 0; j < last; j++) {
        const double *phi_k = at(a->phi[K], a, K, b, j, g, a->wide);
        const double *v = at(a->whole[V], a, V, b, j, g, s->width);
        double dp = (dot(d_o, v, s->width) - delta) / den;
        add(at(a->grad[V], a, V, b, j, g, s->width), dot(phi, phi_k, a->wide) / den, d_o, s->width);
        add(dphi, dp, phi_k, a->wide);
        add(at(a->dphi[K], a, K, b, j, g, a->wide), dp, phi, a->wide);
    }
}

static void dense(stage *a)
{
    dense_stabilisers(a);
    each_row(a, false);
    for (int64_t b = 0; b < a->s->batch; b++)
        for (int64_t h = 0; h < a->s->heads; h++)
            for (int64_t i = 0; i < a->s->n; i++) dense_query(a, b, i, h);
    each_row(a, true);
}

/* --- comparisons --- */

/* Largest error of local rows [B, s, width], of the largest entry of the whole [B, N, width]. */
static double rows_error(const stage *a, int64_t width, const lh_real *mine, const double *whole)
{
    int rank = a->mesh->coord[LH_AXIS_SEQ];
    int64_t n = a->s->n;
    int64_t rows = a->layout->rows[rank];
    double error = 0.0;
    double largest = n > 1 ? 1e-3 : 1.0; /* the gradients of one key's weight cancel to nothing */
    for (int64_t i = 0; i < a->s->batch * n * width; i++) largest = fmax(largest, fabs(whole[i]));
    for (int64_t b = 0; b < a->s->batch; b++)
        for (int64_t i = 0; i < rows * width; i++) {
            int64_t position = lh_layout_position(a->layout, rank, i / width);
            double want = whole[(b * n + position) * width + i % width];
            double off = fabs((double)mine[b * rows * width + i] - want);
            error = off <= error ? error : off; /* NaN stays */
        }
    return error / largest;
}

static bool close_enough(const stage *a, const char *what, double error)
{
    double allowed = LH_TOL_ATTEND * (a->s->loose > 0.0 ? a->s->loose : 1.0);
    bool ok = error <= allowed;
    if (!ok)
        print_error("%s: %s is off by %.3g of the largest, allowed %.3g\n", a->s->name, what, error,
                    allowed);
    return ok;
}

static bool values_right(const stage *a)
{
    static const char *const names[3] = {"dq", "dk", "dv"};
    bool ok = close_enough(a, "o", rows_error(a, a->s->heads * a->s->width, a->run.out[0], a->out));
    for (int t = 0; t < 3; t++)
        ok =
            close_enough(a, names[t],
                         rows_error(a, heads_of(a, t) * a->s->width, a->run.grad[t], a->grad[t])) &&
            ok;
    return ok;
}

/* Payload: the maximum, and the summary forward (again when recomputed) and backward. */
static bool bytes_right(const stage *a, const lh_traffic *t, int64_t steps)
{
    const scene *s = a->s;
    int ranks = a->mesh->size[LH_AXIS_SEQ];
    int rank = a->mesh->coord[LH_AXIS_SEQ];
    int64_t summary = s->batch * s->kv_heads * a->wide * (s->width + 1);
    int64_t runs = lh_scan_runs(a->layout);
    int64_t forward = s->causal ? summary * lh_scan_sends(runs, ranks, rank, false) : summary;
    int64_t backward = s->causal ? summary * lh_scan_sends(runs, ranks, rank, true) : summary;
    if (stabilised(a) && !s->fixed) forward += s->batch * s->kv_heads;
    if (s->segment) forward *= 2;
    int64_t want = ranks > 1 ? steps * (forward + backward) * (int64_t)sizeof(lh_real) : 0;
    bool ok = t->bytes[LH_SEND_SUMMARY] == want && lh_traffic_step(t) == want;
    if (!ok)
        print_error("%s: sent %lld and %lld in all, expected %lld\n", s->name,
                    (long long)t->bytes[LH_SEND_SUMMARY], (long long)lh_traffic_step(t),
                    (long long)want);
    return ok;
}

static void run_scene(lh_comm *c, const scene *s)
{
    stage a;
    lh_real *first = NULL;
    lh_assert_all_ok(c, stage_open(c, s, &a));
    dense(&a);
    lh_assert_all_ok(c, lh_gradcheck_step(&a.run));
    lh_assert_all(c, values_right(&a));
    /* the same again: the same bits, without an allocation */
    size_t bytes = lh_shape_bytes(&a.g.in[K].shape);
    lh_assert_all_ok(c, lh_new(bytes, &first));
    if (bytes > 0) memcpy(first, a.run.grad[K], bytes);
    lh_assert_all_ok(c, lh_gradcheck_step(&a.run));
    lh_assert_all(c, bytes == 0 || memcmp(first, a.run.grad[K], bytes) == 0);
    lh_assert_all(c, a.run.allocations == 0);
    lh_assert_all(c, bytes_right(&a, a.counting->traffic, 1));
    lh_assert_all(c, bytes_right(&a, a.mesh->traffic, 2));
    lh_assert_all(c, a.device->flops == 2.0 * a.count->flops);
    lh_free(&first);
    stage_close(&a);
}

static void equals_dense(void **state)
{
    for (size_t i = 0; i < sizeof scenes / sizeof scenes[0]; i++) run_scene(*state, &scenes[i]);
}

static void gradients_by_differences(void **state)
{
    if (sizeof(lh_real) != sizeof(double)) {
        print_message("[  SKIPPED ] differences are checked in double\n");
        return;
    }
    lh_comm *c = *state;
    for (size_t i = 0; i < sizeof smooth / sizeof smooth[0]; i++) {
        stage a;
        scene s = smooth[i];
        double slope = 0.0;
        double moved = 0.0;
        double worst = 0.0;
        s.plain = true;
        lh_assert_all_ok(c, stage_open(c, &s, &a));
        lh_assert_all_ok(c, lh_gradcheck_taylor(&a.run, 1e-4, &slope, &moved));
        if (lh_comm_size(c) == 1) lh_assert_all_ok(c, lh_gradcheck_difference(&a.run, 30, &worst));
        bool ok = slope >= LH_TOL_TAYLOR_SLOPE && moved > 0.0 && worst <= LH_TOL_DIFFERENCE;
        if (!ok)
            print_error("%s: Taylor slope %.3f, moved %.3g, differences off by %.3g\n", s.name,
                        slope, moved, worst);
        lh_assert_all(c, ok);
        stage_close(&a);
    }
}

/* --- the mechanism --- */

enum { MECH_N = 101, MECH_BATCH = 2 };

typedef struct mech {
    const lh_attn_ops *ops;
    lh_config *config; /* owns the settings */
    lh_attn_desc desc;
    void *state;
    lh_mesh *counting;
    lh_device *device, *count;
    lh_layout *layout;
    lh_params *params;
    lh_param *w; /* NULL: none */
    lh_tape *tape;
    lh_memory *memory;
} mech;

static void mech_close(mech *m)
{
    if (m->state != NULL) m->ops->destroy(&m->state);
    lh_params_destroy(&m->params);
    lh_tape_destroy(&m->tape);
    lh_memory_destroy(&m->memory);
    lh_layout_destroy(&m->layout);
    lh_mesh_destroy(&m->counting);
    lh_config_destroy(&m->config);
    lh_device_destroy(&m->count);
    lh_device_destroy(&m->device);
}

/* One rank of `ranks`, without messages. settings: behind the mechanism's name. */
static lh_status mech_open(mech *m, const char *settings, bool causal, lh_test_layout_kind layout,
                           lh_span ranks)
{
    lh_status st = LH_OK;
    char text[512];
    *m = (mech){.ops = lh_attn_find("performer")};
    int n = snprintf(text, sizeof text,
                     "model: {kind: %s, vocab: 31, layers: 1, width: 32, heads: 4, kv_heads: 2, "
                     "head_width: 8,\n"
                     "        mlp_width: 32, attention: {mechanism: performer%s}}\n"
                     "data: {length: 101, batch: 2}\n",
                     causal ? "decoder" : "encoder", settings);
    LH_TRY(lh_config_parse(text, (size_t)n, "favor.yaml", LH_CONFIG_PARTIAL, &m->config));
    LH_TRY(lh_device_create_cpu(lh_test_isa(), 1, &m->device));
    LH_TRY(lh_device_create_count(lh_test_isa(), 1, &m->count));
    LH_TRY(lh_mesh_create_counting(1, (int)ranks.count, (int)ranks.row, &m->counting));
    LH_TRY(lh_test_layout(layout, MECH_N, (int)ranks.count, 8, &m->layout));
    m->desc = (lh_attn_desc){.width = 32,
                             .heads = 4,
                             .kv_heads = 2,
                             .head_width = 8,
                             .causal = causal,
                             .batch = MECH_BATCH,
                             .length = MECH_N,
                             .layout = m->layout,
                             .settings = m->config->model.attention[0].settings,
                             .seed = 3};
    LH_TRY(lh_attn_check(m->ops, &m->desc));
    LH_TRY(lh_params_create(m->device, m->counting->coord, &m->params));
    LH_TRY(m->ops->parameters(&m->desc, m->params));
    LH_TRY(lh_params_allocate(m->params, true));
    LH_TRY(lh_params_initialise(m->params, 3));
    m->w = lh_params_find(m->params, "layer.0.attention.projection");
    m->desc.params = m->params;
    LH_TRY(m->ops->create(&m->desc, &m->state));
    LH_TRY(lh_tape_create(m->counting->size, m->counting->coord, &m->tape));
    LH_TRY(lh_memory_create(&m->memory));
done:
    return st;
}

/* Forward and backward on the device count. */
static lh_status mech_count(mech *m, double flops[2])
{
    lh_status st = LH_OK;
    static lh_real data[1];
    lh_var in[3];
    lh_var out = {0};
    const void *seed = data;
    int64_t rows = m->layout->rows[m->counting->coord[LH_AXIS_SEQ]];
    LH_TRY(lh_memory_count_begin(m->memory));
    lh_tape_reset(m->tape, m->count, m->memory, true);
    for (int i = 0; i < 3; i++)
        LH_TRY(lh_tape_leaf(m->tape, data, data,
                            lh_shape_4(LH_REAL, MECH_BATCH, rows, i == Q ? 4 : 2, 8),
                            lh_place_tokens(m->layout), &in[i]));
    const lh_qkv qkv = {.q = in[Q], .k = in[K], .v = in[V], .mesh = m->counting};
    LH_TRY(m->ops->forward(m->state, m->tape, &qkv, &out));
    flops[0] = m->count->flops;
    LH_TRY(lh_tape_backward_from(m->tape, 1, &out, &seed));
    flops[1] = m->count->flops - flops[0];
    LH_TRY(lh_memory_count_end(m->memory));
done:
    return st;
}

/* predict's formulas against the counting pass, for any rank of up to 6. */
static void predicts(void **state)
{
    lh_comm *c = *state;
    static const char *const settings[] = {
        ", features: 24", ", features: 12, estimator: hyperbolic",
        ", features: 12, estimator: trig", ", features: 12, kernel: relu",
        ", features: 0, kernel: elu"};
    static const lh_test_layout_kind layouts[] = {LH_TEST_EVEN, LH_TEST_ALIGNED, LH_TEST_ZIGZAG};
    for (int i = 0; i < 5 * 3 * 2; i++) {
        for (int64_t ranks = 1; ranks <= 6; ranks++) {
            for (int64_t rank = 0; rank < ranks; rank++) {
                mech m;
                lh_cost cost = {0};
                double flops[2];
                lh_assert_all_ok(c, mech_open(&m, settings[i % 5], i / 15 == 0, layouts[i / 5 % 3],
                                              (lh_span){rank, ranks, 1}));
                lh_assert_all_ok(c, mech_count(&m, flops));
                lh_assert_all_ok(c, m.ops->predict(&m.desc, (int)ranks, (int)rank, &cost));
                lh_assert_all(c, cost.forward_flops == flops[0] && cost.backward_flops == flops[1]);
                lh_assert_all(c, cost.forward_bytes == 0 && cost.backward_bytes == 0);
                lh_assert_all(c, cost.summary_bytes == lh_traffic_step(m.counting->traffic));
                lh_assert_all(c, (cost.summary_bytes > 0) == (ranks > 1));
                mech_close(&m);
            }
        }
    }
}

static lh_status mech_values(const mech *m, lh_real *w)
{
    lh_copy_out(m->device, w, m->w->value, lh_shape_bytes(&m->w->shape));
    return LH_OK;
}

/* Rows of W: the angle between rows of a block of 8, the lengths. */
static void projection(void **state)
{
    lh_comm *c = *state;
    enum { M = 1203, D = 8 };
    static lh_real w[M * D];
    for (int kind = 0; kind < 4; kind++) {
        bool orthogonal = kind % 2 == 0;
        bool unit = kind / 2 == 1;
        char settings[96];
        mech m;
        double squares = 0.0;
        double inner = 0.0;
        double spread = 0.0;
        (void)snprintf(settings, sizeof settings, ", features: %d, orthogonal: %s, row_norm: %s",
                       (int)M, orthogonal ? "true" : "false", unit ? "sqrt" : "chi");
        lh_assert_all_ok(c, mech_open(&m, settings, true, LH_TEST_EVEN, (lh_span){0, 1, 1}));
        lh_assert_all(c, m.w != NULL && m.w->frozen);
        lh_assert_all_ok(c, mech_values(&m, w));
        for (int64_t i = 0; i < M; i++) {
            double rows[2][D];
            for (int64_t k = 0; k < D; k++) {
                rows[0][k] = (double)w[i * D + k];
                rows[1][k] = i % D > 0 ? (double)w[(i - 1) * D + k] : 0.0;
            }
            double length = dot(rows[0], rows[0], D);
            squares += length / M;
            spread = fmax(spread, fabs(length - D));
            inner = fmax(inner, fabs(dot(rows[0], rows[1], D)) / length);
        }
        /* orthogonal to the last digits, or nothing like it */
        lh_assert_all(c, orthogonal ? inner < 100 * LH_TOL_EPS : inner > 0.1);
        /* all sqrt(D), or the mean square of Gaussian vectors: D, within 5 standard errors */
        lh_assert_all(c, unit ? spread < 100 * LH_TOL_EPS : spread > 1.0);
        lh_assert_all(c, fabs(squares - D) < 5.0 * sqrt(2.0 * D / M));
        mech_close(&m);
    }
}

enum { REDRAW_ROWS = 24, REDRAW_WIDTH = 8 };

static bool same_values(const lh_real *a, const lh_real *b)
{
    bool same = true;
    for (int i = 0; i < REDRAW_ROWS * REDRAW_WIDTH; i++) same = same && a[i] == b[i];
    return same;
}

/* redraw: 4 draws again before steps 4, 8, ..., and only then; the same on all ranks and in a run
 * that starts there. */
static void redraws(void **state)
{
    lh_comm *c = *state;
    enum { M = REDRAW_ROWS, D = REDRAW_WIDTH };
    lh_real w[3][M * D];
    mech m;
    mech later;
    lh_assert_all_ok(
        c, mech_open(&m, ", features: 24, redraw: 4", true, LH_TEST_EVEN, (lh_span){0, 1, 1}));
    lh_assert_all_ok(c, mech_values(&m, w[0]));
    for (int64_t step = 0; step < 13; step++) {
        lh_assert_all_ok(c, m.ops->begin_step(m.state, step));
        lh_assert_all_ok(c, mech_values(&m, w[1]));
        bool changed = !same_values(w[0], w[1]);
        lh_assert_all(c, changed == (step > 0 && step % 4 == 0));
        memcpy(w[0], w[1], sizeof w[0]);
        double sum[2] = {0.0, 0.0};
        for (int64_t i = 0; i < M * D; i++) sum[0] += (double)w[1][i] * (double)(i + 1);
        sum[1] = -sum[0];
        lh_max_f64(c, sum, 2, LH_SEND_OTHER);
        lh_assert_all(c, sum[0] == -sum[1]);
    }
    lh_assert_all_ok(
        c, mech_open(&later, ", features: 24, redraw: 4", true, LH_TEST_EVEN, (lh_span){0, 1, 1}));
    lh_assert_all_ok(c, later.ops->begin_step(later.state, 12));
    lh_assert_all_ok(c, mech_values(&later, w[2]));
    lh_assert_all(c, same_values(w[0], w[2]));
    mech_close(&later);
    mech_close(&m);
}

static void refuses(void **state)
{
    lh_comm *c = *state;
    mech m;
    lh_span one = {0, 1, 1};
    lh_span two = {0, 2, 1};
    lh_assert_all_code(c, mech_open(&m, ", features: 0", true, LH_TEST_EVEN, one), LH_ERR_USAGE);
    mech_close(&m);
    lh_assert_all_code(c, mech_open(&m, ", kernel: relu, estimator: trig", true, LH_TEST_EVEN, one),
                       LH_ERR_USAGE);
    mech_close(&m);
    lh_assert_all_code(
        c, mech_open(&m, ", features: 0, kernel: relu, redraw: 3", true, LH_TEST_EVEN, one),
        LH_ERR_USAGE);
    mech_close(&m);
    lh_assert_all_code(c, mech_open(&m, "", true, LH_TEST_CYCLIC, two), LH_ERR_UNSUP);
    mech_close(&m);
    lh_assert_all_ok(c, mech_open(&m, "", false, LH_TEST_CYCLIC, two));
    mech_close(&m);
}

/* Memory of a step grows with the rows of the rank, and by no more than its tensors: features of
 * one block exist at a time. */
static void memory_follows_the_shard(void **state)
{
    lh_comm *c = *state;
    for (int causal = 0; causal < 2; causal++) {
        double bytes[3]; /* of 1, 2 and 4 ranks */
        double flops[2];
        for (int i = 0; i < 3; i++) {
            mech m;
            lh_assert_all_ok(c, mech_open(&m, ", features: 64", causal == 1, LH_TEST_EVEN,
                                          (lh_span){0, (int64_t)1 << i, 1}));
            lh_assert_all_ok(c, mech_count(&m, flops));
            bytes[i] = (double)lh_memory_bytes(m.memory, LH_SPACE_DEVICE);
            mech_close(&m);
        }
        /* rows: 101, 51, 26; per row o and its own denominator, and their gradients' scratch */
        double row = MECH_BATCH * 4 * (8 + 1) * (double)sizeof(lh_real);
        lh_assert_all(c, bytes[0] - bytes[1] >= 50 * row && bytes[0] - bytes[1] <= 50 * 2 * row);
        lh_assert_all(c, bytes[1] - bytes[2] >= 25 * row && bytes[1] - bytes[2] <= 25 * 2 * row);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_dense),
        cmocka_unit_test(gradients_by_differences),
        cmocka_unit_test(predicts),
        cmocka_unit_test(projection),
        cmocka_unit_test(redraws),
        cmocka_unit_test(refuses),
        cmocka_unit_test(memory_follows_the_shard),
    };
    return lh_test_mpi_main(argc, argv, "favor", tests, sizeof tests / sizeof tests[0]);
}
