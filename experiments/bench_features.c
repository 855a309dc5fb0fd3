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
#include "experiments/bench_features_internal.h"
#include "experiments/options.h"
#include "io/metrics.h"
#include "io/settings_fill.h"

static const lhi_features_arm features_arms[] = {
    {"trig iid", {"estimator=trig", "orthogonal=false"}, 2, false, LH_FEATURE_TRIG},
    {"trig orthogonal", {"estimator=trig"}, 2, true, LH_FEATURE_TRIG},
    {"positive iid", {"orthogonal=false"}, 1, false, LH_FEATURE_POSITIVE},
    {"positive orthogonal", {NULL}, 1, true, LH_FEATURE_POSITIVE},
    {"hyperbolic orthogonal", {"estimator=hyperbolic"}, 2, true, LH_FEATURE_HYPERBOLIC},
    {"regularised orthogonal", {"row_norm=sqrt"}, 1, true, LH_FEATURE_POSITIVE},
};
enum { FEATURES_ARMS = sizeof features_arms / sizeof features_arms[0] };

#define FEATURES_INT(text, member, most)                                                           \
    {                                                                                              \
        .name = text, .kind = LH_OPTION_INT, .offset = offsetof(lhi_features_options, member),     \
        .min = 1, .max = most                                                                      \
    }

/* Inputs of one draw, and softmax attention of them. */
typedef struct features_truth {
    lh_real *host[LHI_FEATURES_INPUTS]; /* [n, head_width] */
    double *exact;                      /* [n, head_width] */
    double variance;                    /* of exact, sum over draws */
} features_truth;

/* --- the command line --- */

static lh_status features_list(lhi_features_options *o, const char *text)
{
    lh_status st = LH_OK;
    const char *at = text;
    for (o->count = 0; at != NULL && o->count < LHI_FEATURES_LIST; o->count++) {
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
             "bench: --features: expected 1 to %d numbers", (int)LHI_FEATURES_LIST);
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
     .offset = offsetof(lhi_features_options, scale),
     .max = 100},
    {.name = "--features",
     .kind = LH_OPTION_WORD,
     .offset = offsetof(lhi_features_options, list),
     .expected = "even numbers with commas between them, such as --features 16,32"},
    {.name = NULL}};

static lh_status features_parse(lhi_features_options *o, int argc, char **argv)
{
    lh_status st = LH_OK;
    lh_options options = {.command = "longhaul bench", .table = features_table, .into = o};
    *o = (lhi_features_options){.n = 256,
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
static lh_status features_settings(lhi_features_run *r, int64_t rows)
{
    char text[64];
    lh_option_words words = {.word = {text, "epsilon=0"}, .count = 2};
    (void)snprintf(text, sizeof text, "features=%" PRId64, rows);
    for (int i = 0; i < 4 && r->arm->settings[i] != NULL; i++)
        words.word[words.count++] = r->arm->settings[i];
    return lhi_bench_settings(r->ops, LH_AUTO, &words, &r->settings);
}

static lh_status features_forward(lhi_features_run *r, lh_device *device, lh_var *out)
{
    lh_status st = LH_OK;
    lh_var in[LHI_FEATURES_INPUTS] = {{0}};
    lh_shape shape = lh_shape_4(LH_REAL, 1, r->o->n, 1, r->o->head_width);
    lh_tape_reset(r->tape, device, r->memory, false);
    for (int i = 0; i < LHI_FEATURES_INPUTS; i++)
        LH_TRY(lh_tape_input(r->tape, r->value[i], shape, lh_place_tokens(r->layout), &in[i]));
    lh_qkv qkv = {
        .q = in[LHI_FEATURES_Q], .k = in[LHI_FEATURES_K], .v = in[LHI_FEATURES_V], .mesh = r->mesh};
    LH_TRY(r->ops->forward(r->state, r->tape, &qkv, out));
done:
    return st;
}

lh_status lhi_features_mechanism(lhi_features_run *r, int64_t rows)
{
    lh_status st = LH_OK;
    const lhi_features_options *o = r->o;
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

static lh_status features_open(lhi_features_run *r)
{
    lh_status st = LH_OK;
    lh_var out = {0};
    size_t bytes = (size_t)(r->o->n * r->o->head_width) * lh_dtype_bytes(LH_REAL);
    LH_TRY(lhi_features_mechanism(r, r->features / r->arm->numbers));
    LH_TRY(lh_tape_create(r->mesh->size, r->mesh->coord, &r->tape));
    LH_TRY(lh_memory_create(&r->memory));
    for (int i = 0; i < LHI_FEATURES_INPUTS; i++)
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

void lhi_features_close(lhi_features_run *r)
{
    for (int i = 0; i < LHI_FEATURES_INPUTS && r->device != NULL; i++)
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
static void truth_row(const lhi_features_options *o, features_truth *truth, int64_t i)
{
    int64_t d = o->head_width;
    const lh_real *q = truth->host[LHI_FEATURES_Q] + i * d;
    double *exact = truth->exact + i * d;
    double sum = 0.0;
    memset(exact, 0, (size_t)d * sizeof *exact);
    for (int64_t j = 0; j < o->n; j++) {
        double score = 0.0;
        for (int64_t e = 0; e < d; e++)
            score += (double)q[e] * (double)truth->host[LHI_FEATURES_K][j * d + e];
        double p = exp(score / sqrt((double)d));
        sum += p;
        for (int64_t e = 0; e < d; e++)
            exact[e] += p * (double)truth->host[LHI_FEATURES_V][j * d + e];
    }
    for (int64_t e = 0; e < d; e++) exact[e] /= sum;
}

/* Draw number `draw`: all arms estimate the same. */
static void truth_draw(const lhi_features_options *o, features_truth *truth, int64_t draw)
{
    int64_t count = o->n * o->head_width;
    for (int i = 0; i < LHI_FEATURES_INPUTS; i++) {
        double scale = i == LHI_FEATURES_V ? 1.0 : o->scale;
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
static lh_status features_measure(lhi_features_run *r, const features_truth *truth, int64_t draw)
{
    lh_status st = LH_OK;
    lh_var out = {0};
    const void *data = NULL;
    int64_t count = r->o->n * r->o->head_width;
    size_t bytes = (size_t)count * sizeof *r->out;
    uint64_t number = (uint64_t)draw << 32 | lh_name_number(r->projection->name);
    LH_TRY(lh_params_draw(r->params, r->projection, (uint64_t)r->o->seed, number));
    for (int i = 0; i < LHI_FEATURES_INPUTS; i++)
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

static lh_status features_print(lhi_features_run *r, const features_truth *truth)
{
    lh_status st = LH_OK;
    lh_json j = {0};
    const lhi_features_options *o = r->o;
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
static lh_status features_arms_all(const lhi_features_options *o)
{
    lh_status st = LH_OK;
    features_truth truth = {.variance = 0.0};
    lhi_features_run *run = NULL;
    size_t count = (size_t)(o->n * o->head_width);
    const int runs = o->count * FEATURES_ARMS;
    LH_TRY(lh_new((size_t)runs * sizeof *run, &run));
    for (int i = 0; i < LHI_FEATURES_INPUTS; i++)
        LH_TRY(lh_new(count * sizeof *truth.host[i], &truth.host[i]));
    LH_TRY(lh_new(count * sizeof *truth.exact, &truth.exact));
    for (int i = 0; i < runs; i++) {
        run[i] = (lhi_features_run){.o = o,
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
    for (int i = 0; run != NULL && i < runs; i++) lhi_features_close(&run[i]);
    lh_free(&run);
    for (int i = 0; i < LHI_FEATURES_INPUTS; i++) lh_free(&truth.host[i]);
    lh_free(&truth.exact);
    return st;
}

static lh_status features_all(const lhi_features_options *o)
{
    lh_status st = LH_OK;
    LH_TRY(features_arms_all(o));
    LH_TRY(lhi_features_kernels(o));
done:
    return st;
}

lh_status lhi_bench_features(lh_comm *world, int argc, char **argv)
{
    lh_status st = LH_OK;
    lhi_features_options o;
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
