/* bench features: how well random features estimate softmax attention (Choromanski et al. 2021,
 * section 4.2 and figure 4), by the mechanism performer itself, and the error of the estimated
 * kernel beside its formulas (their lemma 2 and theorem 2). One process works, the others wait. */
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/integer.h"
#include "core/random.h"
#include "experiments/bench_internal.h"
#include "experiments/options.h"
#include "io/metrics.h"
#include "io/settings_fill.h"

enum {
    FEATURES_LIST = 16,
    FEATURES_KERNEL_ROWS = 1 << 20, /* rows of one projection for the kernel's error, at most */
    FEATURES_KERNEL_DRAWS = 4       /* such projections, each of many independent draws */
};
enum { FEATURES_Q, FEATURES_K, FEATURES_V, FEATURES_INPUTS };

/* An estimator. numbers: how many of the feature numbers one row of the projection makes. */
typedef struct features_arm {
    const char *name, *settings[4];
    int numbers;
    bool orthogonal;
    lh_feature_kind kind;
} features_arm;

static const features_arm features_arms[] = {
    {"trig iid", {"estimator=trig", "orthogonal=false"}, 2, false, LH_FEATURE_TRIG},
    {"trig orthogonal", {"estimator=trig"}, 2, true, LH_FEATURE_TRIG},
    {"positive iid", {"orthogonal=false"}, 1, false, LH_FEATURE_POSITIVE},
    {"positive orthogonal", {NULL}, 1, true, LH_FEATURE_POSITIVE},
    {"hyperbolic orthogonal", {"estimator=hyperbolic"}, 2, true, LH_FEATURE_HYPERBOLIC},
    {"regularised orthogonal", {"row_norm=sqrt"}, 1, true, LH_FEATURE_POSITIVE},
};
enum { FEATURES_ARMS = sizeof features_arms / sizeof features_arms[0] };

/* Arms of the kernel's error: unbiased ones. */
static const features_arm features_kernels[] = {
    {"trig iid", {"estimator=trig", "orthogonal=false"}, 2, false, LH_FEATURE_TRIG},
    {"positive iid", {"orthogonal=false"}, 1, false, LH_FEATURE_POSITIVE},
    {"hyperbolic iid",
     {"estimator=hyperbolic", "orthogonal=false"},
     2,
     false,
     LH_FEATURE_HYPERBOLIC},
    {"positive orthogonal", {NULL}, 1, true, LH_FEATURE_POSITIVE},
};
enum { FEATURES_KERNELS = sizeof features_kernels / sizeof features_kernels[0] };

typedef struct features_options {
    int64_t n, head_width, draws, seed, kernel_draws;
    double scale;
    const char *list; /* "16,32,128" */
    int count;
    int64_t features[FEATURES_LIST]; /* what list says */
} features_options;

#define FEATURES_INT(text, member, most)                                                           \
    {                                                                                              \
        .name = text, .kind = LH_OPTION_INT, .offset = offsetof(features_options, member),         \
        .min = 1, .max = most                                                                      \
    }

/* Inputs of one draw, and softmax attention of them. */
typedef struct features_truth {
    lh_real *host[FEATURES_INPUTS]; /* [n, head_width] */
    double *exact;                  /* [n, head_width] */
    double variance;                /* of exact, sum over draws */
} features_truth;

/* One arm made ready. */
typedef struct features_run {
    const features_options *o;
    const features_arm *arm;
    int64_t features;
    const lh_attn_ops *ops;
    void *settings, *state;
    lh_attn_desc desc;
    lh_mesh *mesh;
    lh_device *device, *counting;
    lh_layout *layout;
    lh_params *params;
    lh_param *projection;
    lh_tape *tape;
    lh_memory *memory;
    void *arena[LH_SPACES], *value[FEATURES_INPUTS];
    lh_real *out; /* [n, head_width] */
    double *mse;  /* [draws] */
} features_run;

/* --- the command line --- */

static lh_status features_list(features_options *o, const char *text)
{
    lh_status st = LH_OK;
    const char *at = text;
    for (o->count = 0; at != NULL && o->count < FEATURES_LIST; o->count++) {
        char *end = NULL;
        long long value = strtoll(at, &end, 10);
        LH_CHECK(end != at && (*end == ',' || *end == '\0') && value >= 2 && value % 2 == 0 &&
                     value <= 1 << 16,
                 LH_ERR_USAGE,
                 "bench: --features: expected even numbers from 2 to 65536 with commas between "
                 "them, got '%s'",
                 text);
        o->features[o->count] = value;
        at = *end == ',' ? end + 1 : NULL;
    }
    LH_CHECK(o->count > 0 && at == NULL, LH_ERR_USAGE,
             "bench: --features: expected 1 to %d numbers", (int)FEATURES_LIST);
done:
    return st;
}

static const lh_option features_table[] = {
    FEATURES_INT("--n", n, 1 << 16),
    FEATURES_INT("--head-dim", head_width, 1024),
    FEATURES_INT("--draws", draws, 1 << 20),
    FEATURES_INT("--kernel-draws", kernel_draws, 1 << 24),
    FEATURES_INT("--seed", seed, INT64_MAX),
    {.name = "--scale",
     .kind = LH_OPTION_REAL,
     .offset = offsetof(features_options, scale),
     .max = 100},
    {.name = "--features",
     .kind = LH_OPTION_WORD,
     .offset = offsetof(features_options, list),
     .expected = "even numbers with commas between them, such as --features 16,32"},
    {.name = NULL}};

static lh_status features_parse(features_options *o, int argc, char **argv)
{
    lh_status st = LH_OK;
    lh_options options = {.command = "longhaul bench", .table = features_table, .into = o};
    *o = (features_options){.n = 256,
                            .head_width = 16,
                            .draws = 60,
                            .seed = 1,
                            .kernel_draws = 1 << 18,
                            .scale = 0.6,
                            .list = "16,32,128"};
    LH_TRY(lh_options_read(&options, argc, argv));
    LH_TRY(features_list(o, o->list));
done:
    return st;
}

/* --- one arm --- */

/* The mechanism's settings, as an experiment file would fill them. eps is 0: this is about the
 * estimators. */
static lh_status features_settings(features_run *r, int64_t rows)
{
    char text[64];
    lh_option_words words = {.word = {text, "epsilon=0"}, .count = 2};
    (void)snprintf(text, sizeof text, "features=%" PRId64, rows);
    for (int i = 0; i < 4 && r->arm->settings[i] != NULL; i++)
        words.word[words.count++] = r->arm->settings[i];
    return lhi_bench_settings(r->ops, LH_AUTO, &words, &r->settings);
}

static lh_status features_forward(features_run *r, lh_device *device, lh_var *out)
{
    lh_status st = LH_OK;
    lh_var in[FEATURES_INPUTS] = {{0}};
    lh_shape shape = lh_shape_4(LH_REAL, 1, r->o->n, 1, r->o->head_width);
    lh_tape_reset(r->tape, device, r->memory, false);
    for (int i = 0; i < FEATURES_INPUTS; i++)
        LH_TRY(lh_tape_input(r->tape, r->value[i], shape, lh_place_tokens(r->layout), &in[i]));
    lh_qkv qkv = {.q = in[FEATURES_Q], .k = in[FEATURES_K], .v = in[FEATURES_V], .mesh = r->mesh};
    LH_TRY(r->ops->forward(r->state, r->tape, &qkv, out));
done:
    return st;
}

static lh_status features_mechanism(features_run *r, int64_t rows)
{
    lh_status st = LH_OK;
    const features_options *o = r->o;
    r->ops = lh_attn_find("performer");
    LH_CHECK(r->ops != NULL, LH_ERR_UNSUP, "bench features: this build has no mechanism performer");
    LH_TRY(features_settings(r, rows));
    LH_TRY(lh_mesh_create_self(&r->mesh));
    LH_TRY(lh_device_create_cpu("auto", 1, &r->device));
    LH_TRY(lh_device_create_count("auto", 1, &r->counting));
    LH_TRY(lh_layout_contiguous(o->n, 1, 512, true, &r->layout));
    r->desc = (lh_attn_desc){.width = o->head_width,
                             .heads = 1,
                             .kv_heads = 1,
                             .head_width = o->head_width,
                             .batch = 1,
                             .length = o->n,
                             .layout = r->layout,
                             .settings = r->settings,
                             .seed = (uint64_t)o->seed};
    LH_TRY(lh_attn_check(r->ops, &r->desc));
    LH_TRY(lh_params_create(r->device, r->mesh->coord, &r->params));
    LH_TRY(r->ops->parameters(&r->desc, r->params));
    LH_TRY(lh_params_allocate(r->params, false));
    r->projection = lh_params_find(r->params, "layer.0.attention.projection");
    LH_CHECK(r->projection != NULL, LH_ERR_BUG, "performer has no projection");
    r->desc.params = r->params;
    LH_TRY(r->ops->create(&r->desc, &r->state));
done:
    return st;
}

static lh_status features_open(features_run *r)
{
    lh_status st = LH_OK;
    lh_var out = {0};
    size_t bytes = (size_t)(r->o->n * r->o->head_width) * lh_dtype_bytes(LH_REAL);
    LH_TRY(features_mechanism(r, r->features / r->arm->numbers));
    LH_TRY(lh_tape_create(r->mesh->size, r->mesh->coord, &r->tape));
    LH_TRY(lh_memory_create(&r->memory));
    for (int i = 0; i < FEATURES_INPUTS; i++)
        LH_TRY(lh_device_alloc(r->device, bytes, &r->value[i]));
    LH_TRY(lh_new(bytes, &r->out));
    LH_TRY(lh_new((size_t)r->o->draws * sizeof *r->mse, &r->mse));
    LH_TRY(lh_memory_count_begin(r->memory));
    LH_TRY(features_forward(r, r->counting, &out));
    const void *data = NULL;
    LH_TRY(lh_var_data(r->tape, out, &data)); /* it must live until it is read */
    LH_TRY(lh_memory_count_end(r->memory));
    LH_TRY(lh_device_alloc(r->device, lh_memory_bytes(r->memory, LH_SPACE_DEVICE),
                           &r->arena[LH_SPACE_DEVICE]));
    LH_TRY(lh_host_alloc(lh_memory_bytes(r->memory, LH_SPACE_HOST), &r->arena[LH_SPACE_HOST]));
done:
    return st;
}

static void features_close(features_run *r)
{
    for (int i = 0; i < FEATURES_INPUTS && r->device != NULL; i++)
        lh_device_release(r->device, &r->value[i]);
    if (r->device != NULL) lh_device_release(r->device, &r->arena[LH_SPACE_DEVICE]);
    lh_host_release(&r->arena[LH_SPACE_HOST]);
    lh_free(&r->out);
    lh_free(&r->mse);
    if (r->state != NULL) r->ops->destroy(&r->state);
    lh_params_destroy(&r->params);
    if (r->settings != NULL) lh_settings_free(r->ops->settings, r->settings);
    lh_free(&r->settings);
    lh_memory_destroy(&r->memory);
    lh_tape_destroy(&r->tape);
    lh_layout_destroy(&r->layout);
    lh_device_destroy(&r->counting);
    lh_device_destroy(&r->device);
    lh_mesh_destroy(&r->mesh);
}

/* Softmax attention of query i, in double. */
static void truth_row(const features_options *o, features_truth *truth, int64_t i)
{
    int64_t d = o->head_width;
    const lh_real *q = truth->host[FEATURES_Q] + i * d;
    double *exact = truth->exact + i * d;
    double sum = 0.0;
    memset(exact, 0, (size_t)d * sizeof *exact);
    for (int64_t j = 0; j < o->n; j++) {
        double score = 0.0;
        for (int64_t e = 0; e < d; e++)
            score += (double)q[e] * (double)truth->host[FEATURES_K][j * d + e];
        double p = exp(score / sqrt((double)d));
        sum += p;
        for (int64_t e = 0; e < d; e++) exact[e] += p * (double)truth->host[FEATURES_V][j * d + e];
    }
    for (int64_t e = 0; e < d; e++) exact[e] /= sum;
}

/* Draw number `draw`: all arms estimate the same. */
static void truth_draw(const features_options *o, features_truth *truth, int64_t draw)
{
    int64_t count = o->n * o->head_width;
    for (int i = 0; i < FEATURES_INPUTS; i++) {
        double scale = i == FEATURES_V ? 1.0 : o->scale;
        for (int64_t e = 0; e < count; e++)
            truth->host[i][e] =
                (lh_real)(scale * lh_random_normal((uint64_t)o->seed,
                                                   lh_stream_id(LH_STREAM_TEST, (uint32_t)i),
                                                   (uint64_t)(draw * count + e)));
    }
    for (int64_t i = 0; i < o->n; i++) truth_row(o, truth, i);
    for (int64_t e = 0; e < count; e++)
        truth->variance += truth->exact[e] * truth->exact[e] / (double)count;
}

/* The mean square of the error of one draw, with projection number `draw`. */
static lh_status features_measure(features_run *r, const features_truth *truth, int64_t draw)
{
    lh_status st = LH_OK;
    lh_var out = {0};
    const void *data = NULL;
    int64_t count = r->o->n * r->o->head_width;
    size_t bytes = (size_t)count * sizeof *r->out;
    uint64_t number = (uint64_t)draw << 32 | lh_name_number(r->projection->name);
    LH_TRY(lh_params_draw(r->params, r->projection, (uint64_t)r->o->seed, number));
    for (int i = 0; i < FEATURES_INPUTS; i++)
        lh_copy_in(r->device, r->value[i], truth->host[i], bytes);
    lh_memory_replay(r->memory, r->device, r->arena[LH_SPACE_DEVICE], r->arena[LH_SPACE_HOST]);
    LH_TRY(features_forward(r, r->device, &out));
    LH_TRY(lh_var_data(r->tape, out, &data));
    lh_copy_out(r->device, r->out, data, bytes);
    r->mse[draw] = 0.0;
    for (int64_t e = 0; e < count; e++) {
        double off = (double)r->out[e] - truth->exact[e];
        r->mse[draw] += off * off / (double)count;
    }
done:
    return st;
}

static lh_status features_print(features_run *r, const features_truth *truth)
{
    lh_status st = LH_OK;
    lh_json j = {0};
    const features_options *o = r->o;
    int draws = (int)o->draws;
    double mean = 0.0, squares = 0.0;
    for (int i = 0; i < draws; i++) mean += r->mse[i] / draws;
    for (int i = 0; i < draws; i++) squares += (r->mse[i] - mean) * (r->mse[i] - mean);
    lh_json_begin(&j);
    lh_json_string(&j, "arm", r->arm->name);
    lh_json_int(&j, "features", r->features);
    lh_json_int(&j, "n", o->n);
    lh_json_int(&j, "head_dim", o->head_width);
    lh_json_real(&j, "scale", o->scale);
    lh_json_int(&j, "draws", draws);
    lh_json_real(&j, "mse", mean);
    lh_json_real(&j, "mse_sd", sqrt(squares / (draws - 1))); /* of one draw: null */
    lh_json_real(&j, "mse_median", lhi_bench_median(r->mse, draws));
    lh_json_real(&j, "output_variance", truth->variance / draws);
    LH_TRY(lh_json_print(&j, stdout));
done:
    lh_json_free(&j);
    return st;
}

/* All arms with all numbers of features, draw by draw: exact attention, which costs most, once for each. */
static lh_status features_arms_all(const features_options *o)
{
    lh_status st = LH_OK;
    features_truth truth = {.variance = 0.0};
    features_run *run = NULL;
    size_t count = (size_t)(o->n * o->head_width);
    const int runs = o->count * FEATURES_ARMS;
    LH_TRY(lh_new((size_t)runs * sizeof *run, &run));
    for (int i = 0; i < FEATURES_INPUTS; i++)
        LH_TRY(lh_new(count * sizeof *truth.host[i], &truth.host[i]));
    LH_TRY(lh_new(count * sizeof *truth.exact, &truth.exact));
    for (int i = 0; i < runs; i++) {
        run[i] = (features_run){.o = o,
                                .arm = &features_arms[i % FEATURES_ARMS],
                                .features = o->features[i / FEATURES_ARMS]};
        LH_TRY(features_open(&run[i]));
    }
    for (int64_t draw = 0; draw < o->draws; draw++) {
        truth_draw(o, &truth, draw);
        for (int i = 0; i < runs; i++) LH_TRY(features_measure(&run[i], &truth, draw));
    }
    for (int i = 0; i < runs; i++) LH_TRY(features_print(&run[i], &truth));
done:
    for (int i = 0; run != NULL && i < runs; i++) features_close(&run[i]);
    lh_free(&run);
    for (int i = 0; i < FEATURES_INPUTS; i++) lh_free(&truth.host[i]);
    lh_free(&truth.exact);
    return st;
}

/* --- the kernel's error --- */

/* Groups of head_width rows of a large projection are independent estimates of exp(x~.y~) for one
 * pair (x, y). */
typedef struct features_kernel {
    features_run run;
    int64_t groups, numbers; /* numbers of a group's features */
    void *x, *u, *c, *phi[2];
    lh_real *host[2];
    double a, b, sum; /* |x~ + y~|^2, |x~ - y~|^2, x~.y~ */
} features_kernel;

static lh_status kernel_open(features_kernel *k)
{
    lh_status st = LH_OK;
    int64_t d = k->run.o->head_width;
    int64_t wanted = (k->run.o->kernel_draws + FEATURES_KERNEL_DRAWS - 1) / FEATURES_KERNEL_DRAWS;
    k->groups = lhi_min(wanted, FEATURES_KERNEL_ROWS / d);
    k->numbers = d * k->run.arm->numbers;
    LH_TRY(features_mechanism(&k->run, k->groups * d));
    lh_device *device = k->run.device;
    size_t bytes = (size_t)(k->groups * d) * lh_dtype_bytes(LH_REAL);
    LH_TRY(lh_device_alloc(device, bytes, &k->x));
    LH_TRY(lh_device_alloc(device, bytes, &k->u));
    LH_TRY(lh_device_alloc(device, lh_dtype_bytes(LH_REAL), &k->c));
    for (int i = 0; i < 2; i++) {
        LH_TRY(lh_device_alloc(device, bytes * (size_t)k->run.arm->numbers, &k->phi[i]));
        LH_TRY(lh_new(bytes * (size_t)k->run.arm->numbers, &k->host[i]));
    }
    lh_run_fill(device, &(lh_fill_args){1, 0.0, k->c});
done:
    return st;
}

static void kernel_close(features_kernel *k)
{
    lh_device *d = k->run.device;
    for (int i = 0; i < 2; i++) {
        if (d != NULL) lh_device_release(d, &k->phi[i]);
        lh_free(&k->host[i]);
    }
    if (d != NULL) {
        lh_device_release(d, &k->x);
        lh_device_release(d, &k->u);
        lh_device_release(d, &k->c);
    }
    features_close(&k->run);
}

static double kernel_input(const features_kernel *k, int side, int64_t e)
{
    return k->run.o->scale * lh_random_normal((uint64_t)k->run.o->seed,
                                              lh_stream_id(LH_STREAM_TEST, (uint32_t)(10 + side)),
                                              (uint64_t)e);
}

/* Features of x (side 0) or y (side 1) of every group, without stabiliser (c = 0). */
static void kernel_features(features_kernel *k, int side, lh_real *rows)
{
    int64_t d = k->run.o->head_width;
    double scale = 1.0 / sqrt(sqrt((double)d));
    lh_device *device = k->run.device;
    for (int64_t i = 0; i < k->groups * d; i++) rows[i] = (lh_real)kernel_input(k, side, i % d);
    lh_copy_in(device, k->x, rows, (size_t)(k->groups * d) * sizeof *rows);
    lh_run_gemm(device, &(lh_gemm_args){k->groups * d, 1, d, scale, k->run.projection->value, d, 1,
                                        k->x, 1, 1, k->u, 1, 1, false});
    lh_run_feature(device, &(lh_feature_args){.kind = k->run.arm->kind,
                                              .rows = k->groups,
                                              .live = k->groups,
                                              .heads = 1,
                                              .width = d,
                                              .features = d,
                                              .scale = scale,
                                              .x = k->x,
                                              .u = k->u,
                                              .c = k->c,
                                              .phi = k->phi[side]});
    lh_copy_out(device, k->host[side], k->phi[side],
                (size_t)(k->groups * k->numbers) * lh_dtype_bytes(LH_REAL));
}

/* Mean square error of the estimates over all groups of all projections. */
static lh_status kernel_error(features_kernel *k, double truth, double *mse)
{
    lh_status st = LH_OK;
    lh_real *rows = NULL;
    const lh_param *w = k->run.projection;
    LH_TRY(lh_new((size_t)(k->groups * k->run.o->head_width) * sizeof *rows, &rows));
    *mse = 0.0;
    for (int draw = 0; draw < FEATURES_KERNEL_DRAWS; draw++) {
        LH_TRY(lh_params_draw(k->run.params, k->run.projection, (uint64_t)k->run.o->seed,
                              (uint64_t)draw << 32 | lh_name_number(w->name)));
        for (int side = 0; side < 2; side++) kernel_features(k, side, rows);
        for (int64_t g = 0; g < k->groups; g++) {
            double estimate = 0.0;
            for (int64_t i = g * k->numbers; i < (g + 1) * k->numbers; i++)
                estimate += (double)k->host[0][i] * (double)k->host[1][i];
            *mse += (estimate - truth) * (estimate - truth) /
                    (double)(k->groups * FEATURES_KERNEL_DRAWS);
        }
    }
done:
    lh_free(&rows);
    return st;
}

/* The formulas for independent rows, z = x~ + y~: lemma 2; orthogonal: the bound of theorem 2. */
static double kernel_formula(const features_kernel *k)
{
    double m = (double)k->run.o->head_width;
    double z = k->a;
    double sm = exp(2.0 * k->sum);
    double positive = exp(z) * sm * (1.0 - exp(-z)) / m;
    if (k->run.arm->kind == LH_FEATURE_TRIG)
        return exp(z) / sm * pow(1.0 - exp(-k->b), 2.0) / (2.0 * m);
    if (k->run.arm->kind == LH_FEATURE_HYPERBOLIC) return 0.5 * (1.0 - exp(-z)) * positive;
    if (!k->run.arm->orthogonal) return positive;
    double gain = exp(k->sum) - exp(-0.25 * (k->a + k->b)); /* (a + b) / 2 = |x~|^2 + |y~|^2 */
    return positive - (1.0 - 1.0 / m) * 2.0 / (m + 2.0) * gain * gain;
}

static lh_status features_kernel_case(const features_options *o, const features_arm *arm)
{
    lh_status st = LH_OK;
    features_kernel k = {.run = {.o = o, .arm = arm}};
    lh_json j = {0};
    double mse = 0.0;
    for (int64_t e = 0; e < o->head_width; e++) {
        double x = kernel_input(&k, 0, e) / sqrt(sqrt((double)o->head_width));
        double y = kernel_input(&k, 1, e) / sqrt(sqrt((double)o->head_width));
        k.a += (x + y) * (x + y);
        k.b += (x - y) * (x - y);
        k.sum += x * y;
    }
    LH_TRY(kernel_open(&k));
    LH_TRY(kernel_error(&k, exp(k.sum), &mse));
    lh_json_begin(&j);
    lh_json_string(&j, "kernel", arm->name);
    lh_json_int(&j, "rows", o->head_width);
    lh_json_real(&j, "scale", o->scale);
    lh_json_int(&j, "draws", k.groups * FEATURES_KERNEL_DRAWS);
    lh_json_real(&j, "truth", exp(k.sum));
    lh_json_real(&j, "mse", mse);
    lh_json_real(&j, arm->orthogonal ? "bound" : "formula", kernel_formula(&k));
    LH_TRY(lh_json_print(&j, stdout));
done:
    lh_json_free(&j);
    kernel_close(&k);
    return st;
}

static lh_status features_all(const features_options *o)
{
    lh_status st = LH_OK;
    LH_TRY(features_arms_all(o));
    for (int a = 0; a < FEATURES_KERNELS; a++)
        LH_TRY(features_kernel_case(o, &features_kernels[a]));
done:
    return st;
}

lh_status lhi_bench_features(lh_comm *world, int argc, char **argv)
{
    lh_status st = LH_OK;
    features_options o;
    LH_TRY(lh_agree(world, features_parse(&o, argc, argv)));
    LH_TRY(lh_agree(world, lh_comm_rank(world) == 0 ? features_all(&o) : LH_OK));
done:
    return st;
}

void lhi_bench_features_help(FILE *out)
{
    (void)fprintf(
        out,
        "\nlonghaul bench features [--n 256] [--head-dim 16] [--features 16,32,128] [--scale 0.6]\n"
        "                        [--draws 60] [--kernel-draws 262144] [--seed 1]\n\n"
        "Measures how well random features (mechanism performer) estimate softmax attention, for\n"
        "queries and keys with entries scale N(0, 1). One object per estimator and number of\n"
        "features: arm, features, n, head_dim, scale, draws, mse (of the output, mean over draws "
        "of\n"
        "inputs and projections), mse_sd and mse_median (over draws: of one draw, its sample "
        "standard\n"
        "deviation), output_variance. Then the error of the estimated kernel for one\n"
        "fixed pair and head_dim rows: kernel, rows, scale, draws, truth, mse, and its formula, "
        "or\n"
        "bound for orthogonal rows.\n");
}
