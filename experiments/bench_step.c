/* bench step: training steps of an experiment on random tokens, where their time goes, and matrix
 * products beside them. */
#define _DEFAULT_SOURCE /* getrusage */
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "experiments/bench_internal.h"
#include "experiments/config_internal.h"
#include "experiments/options.h"
#include "experiments/session.h"
#include "experiments/step_plan.h"
#include "experiments/train.h"
#include "experiments/units.h"
#include "io/files.h"

/* What is measured without a file. */
static const char step_model[] = "run: {name: bench}\n"
                                 "data: {task: text, length: 8192, batch: 1}\n"
                                 "model:\n"
                                 "  kind: decoder\n"
                                 "  layers: 12\n"
                                 "  width: 512\n"
                                 "  heads: 8\n"
                                 "  attention: {mechanism: sliding_window, window: 512}\n"
                                 "device: {threads: 1}\n";

typedef struct step_options {
    const char *file;
    lh_option_words overrides;
    int64_t repeats, warmup, products;
} step_options;

#define STEP_INT(text, member, least, most)                                                        \
    {                                                                                              \
        .name = text, .kind = LH_OPTION_INT, .offset = offsetof(step_options, member),             \
        .min = least, .max = most                                                                  \
    }
static const lh_option step_table[] = {STEP_INT("--repeats", repeats, 1, 10000),
                                       STEP_INT("--warmup", warmup, 0, 10000),
                                       STEP_INT("--products", products, 1, 100),
                                       {.name = "--set",
                                        .kind = LH_OPTION_WORDS,
                                        .offset = offsetof(step_options, overrides),
                                        .expected = "KEY=VALUE, such as --set data.length=4096"},
                                       {.name = NULL}};

enum { STEP_WORD = 32, STEP_ITEMS = LH_PROFILE_ITEMS + 2 };

typedef struct bench_step {
    lh_comm *world;
    lh_config *config;
    lh_session *session;
    int repeats, products;
    lhi_bench_gemm gemm;
    double *seconds;      /* [repeats]; the slowest rank */
    double *gemm_seconds; /* [repeats, products] */
    lh_profile profile;   /* of this rank, all repeats */
    double wait_s;        /* of this rank, all repeats */
    int64_t sent;         /* of this rank, all repeats */
    int64_t rss_start;    /* of this rank, before the session */
} bench_step;

/* Means of a step over repeats and ranks, but what is said otherwise. */
typedef struct step_result {
    double step_s, least_s, mean_s; /* of the slowest rank: median, least, mean of the repeats */
    double gemm_rate;               /* flops per second of all ranks */
    double model_flops, step_flops; /* of all ranks: without and with recomputation */
    double wait_s, wait_max_s;      /* max: of the rank that waits longest */
    int64_t peak, rss, rss_start;   /* largest over ranks */
    int64_t sent;                   /* of all ranks and repeats */
    int64_t predicted_peak, parameter_bytes; /* of the rank that needs most */
    double predicted_sent, predicted_flops;  /* sent: mean over ranks; flops: of all ranks */
    /* by time, the longest first; flops of all ranks; waiting is an item of its own */
    lh_profile_item item[STEP_ITEMS];
    int count;
} step_result;

void lhi_bench_step_help(FILE *out)
{
    (void)fprintf(
        out,
        "\nlonghaul bench step [FILE.yaml] [--set KEY=VALUE]... [--repeats 7] [--warmup 1]\n"
        "                    [--products 3]\n\n"
        "Runs training steps of an experiment on random tokens; no data file is opened. Without a\n"
        "file: a decoder of 12 layers, width 512, 8 heads, window 512, data.length 8192, one "
        "thread.\n"
        "Before each step come --products products of two 2048 x 2048 matrices, and before the\n"
        "first --warmup steps that are not measured. One object:\n"
        "  kind, layers, width, heads, n, batch, parameters\n"
        "                          the model, and sequences of n tokens in a step\n"
        "  ranks, threads (of each rank), isa, precision, recompute, repeats\n"
        "  step_s, step_s_least, step_s_mean\n"
        "                          the slowest rank of each step, then the median, least and mean\n"
        "  tokens_per_s            of all ranks, by step_s\n"
        "  model_flops             products and attention of a step, forward and backward, all\n"
        "                          ranks, nothing that is computed again; step_flops: with that\n"
        "  predicted_flops         step_flops as longhaul plan says\n"
        "  gflops                  model_flops in step_s\n"
        "  gemm_gflops, ratio      BLIS, 2048-cubed on every rank at once, the median; gflops to "
        "that\n"
        "  comm_wait_s, comm_wait_share, comm_wait_max_s\n"
        "                          of a step, waiting for messages and inside collectives, mean "
        "over\n"
        "                          ranks; its share of step_s_mean; of the rank that waits most\n"
        "  peak_bytes, predicted_peak_bytes\n"
        "                          step memory of the rank that needs most, and as planned\n"
        "  parameter_bytes         of parameters, gradients and moments, as planned\n"
        "  rss_peak_bytes, rss_start_bytes\n"
        "                          most memory of a process as the system counts it, and the same\n"
        "                          before anything is allocated\n"
        "  sent_bytes, predicted_sent_bytes\n"
        "                          of a step, mean over ranks\n"
        "  operations              array, the longest first. name, direction (forward, recompute,\n"
        "                          backward; step: what a step does besides), calls (of a rank "
        "and\n"
        "                          step), seconds (without waiting), wait_s, share (of "
        "step_s_mean),\n"
        "                          gflops (null where none are counted), ratio (to gemm_gflops).\n"
        "                          messages is all waiting, other what no operation has\n");
}

/* --- setting up --- */

/* The built-in model, as if it were a file. */
static lh_status step_builtin(void *user, const char *path, char **bytes, size_t *count)
{
    (void)user;
    (void)path;
    *count = sizeof step_model - 1;
    lh_status st = lh_new(sizeof step_model, bytes);
    if (st == LH_OK) memcpy(*bytes, step_model, *count);
    return st;
}

/* Random tokens take the place of files. */
static void step_without_files(lh_config *c)
{
    c->data.path[0] = c->data.valid_path[0] = c->data.test_path[0] = '\0';
}

static lh_status step_config(lh_comm *world, const step_options *o, lh_config **out)
{
    lh_status st = LH_OK;
    bool builtin = o->file == NULL;
    lh_config_source source = {.read = builtin ? step_builtin : lh_read_small,
                               .path = builtin ? "the built-in model" : o->file,
                               .overrides = o->overrides.word,
                               .n_overrides = o->overrides.count,
                               .flags = LH_CONFIG_PLAN};
    LH_TRY(lh_config_load_all(world, &source, out));
    LH_CHECK(lh_model_has_loss(&(*out)->model), LH_ERR_USAGE,
             "bench step: the model's head has no loss, so there are no training steps: set "
             "model.head to lm or class");
    step_without_files(*out);
done:
    return st;
}

/* Local, after the session is open. */
static lh_status step_buffers(bench_step *b)
{
    lh_status st = LH_OK;
    LH_TRY(lhi_bench_gemm_create(b->session->device, &b->gemm));
    LH_TRY(lh_new((size_t)b->repeats * sizeof(double), &b->seconds));
    LH_TRY(lh_new((size_t)(b->repeats * b->products) * sizeof(double), &b->gemm_seconds));
done:
    return st;
}

/* --- measuring --- */

/* Products and steps take turns: on a machine with other work both have the same luck. */
static lh_status step_measure(bench_step *b, int warmup)
{
    lh_status st = LH_OK;
    const lh_config *c = b->config;
    lh_step_result result = {0};
    lh_traffic before = *b->session->mesh->traffic;
    for (int i = -warmup; i < b->repeats; i++) {
        int64_t t = i + warmup + 1;
        for (int k = 0; k < b->products && (i >= 0 || k == 0); k++) {
            double gemm = lhi_bench_gemm_run(b->world, b->session->device, &b->gemm);
            if (i >= 0) b->gemm_seconds[i * b->products + k] = gemm;
        }
        if (i == 0) lh_session_profile(b->session, &b->profile);
        if (i == 0) before = *b->session->mesh->traffic;
        lh_barrier(b->world);
        double start = lh_wall();
        LH_TRY(lh_session_step(b->session, (t - 1) * c->data.batch, t, lh_learning_rate(c, t),
                               false, &result));
        if (i < 0) continue;
        b->seconds[i] = lh_wall() - start;
    }
    const lh_traffic *after = b->session->mesh->traffic;
    b->wait_s = after->wait_s - before.wait_s;
    b->sent = lh_traffic_step(after) - lh_traffic_step(&before);
done:
    return st;
}

static int step_longer(const void *a, const void *b)
{
    double x = ((const lh_profile_item *)a)->seconds;
    double y = ((const lh_profile_item *)b)->seconds;
    return (x < y) - (x > y);
}

/* Sums over ranks: every rank records the same operations, so its items come in the same order. */
static lh_status step_items(bench_step *b, step_result *r)
{
    lh_status st = LH_OK;
    double sum[3 * LH_PROFILE_ITEMS];
    double steps = (double)b->repeats;
    double all = (double)lh_comm_size(b->world) * steps; /* rank steps */
    double left = r->mean_s;
    int64_t count[2] = {b->profile.count, -b->profile.count};
    lh_max_i64(b->world, count, 2, LH_SEND_OTHER);
    LH_CHECK(count[0] == -count[1] && count[0] < LH_PROFILE_ITEMS, LH_ERR_BUG,
             "ranks recorded %" PRId64 " to %" PRId64 " operations", -count[1], count[0]);
    for (int i = 0; i < b->profile.count; i++) {
        const lh_profile_item *item = &b->profile.item[i];
        sum[3 * i] = item->seconds - item->waited;
        sum[3 * i + 1] = item->waited;
        sum[3 * i + 2] = item->flops;
    }
    lh_sum_f64(b->world, sum, 3 * (int64_t)b->profile.count, LH_SEND_OTHER);
    for (int i = 0; i < b->profile.count; i++) {
        lh_profile_item item = b->profile.item[i];
        item.calls /= b->repeats;
        item.seconds = sum[3 * i] / all;
        item.waited = sum[3 * i + 1] / all;
        item.flops = sum[3 * i + 2] / steps;
        r->step_flops += item.flops;
        left -= item.seconds;
        r->item[r->count++] = item;
    }
    r->item[r->count++] =
        (lh_profile_item){.name = "messages", .direction = LH_DIRECTION_STEP, .seconds = r->wait_s};
    r->item[r->count++] = (lh_profile_item){
        .name = "other", .direction = LH_DIRECTION_STEP, .seconds = left - r->wait_s};
    qsort(r->item, (size_t)r->count, sizeof *r->item, step_longer);
done:
    return st;
}

/* Most memory that the process has had at one moment, as the system counts it. */
static int64_t step_rss(void)
{
    struct rusage usage = {0};
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (int64_t)usage.ru_maxrss * 1024 : 0;
}

static lh_status step_reduce(bench_step *b, step_result *r)
{
    int n = b->repeats;
    double ranks = (double)lh_comm_size(b->world);
    *r = (step_result){0};
    lh_max_f64(b->world, b->seconds, n, LH_SEND_OTHER);
    lh_max_f64(b->world, b->gemm_seconds, (int64_t)n * b->products, LH_SEND_OTHER);
    for (int i = 0; i < n; i++) r->mean_s += b->seconds[i] / n;
    r->step_s = lhi_bench_median(b->seconds, n);
    r->least_s = b->seconds[0];
    r->gemm_rate =
        ranks * LHI_BENCH_GEMM_FLOPS / lhi_bench_median(b->gemm_seconds, n * b->products);
    r->wait_s = r->wait_max_s = b->wait_s / n;
    lh_sum_f64(b->world, &r->wait_s, 1, LH_SEND_OTHER);
    lh_max_f64(b->world, &r->wait_max_s, 1, LH_SEND_OTHER);
    r->wait_s /= ranks;
    r->sent = b->sent;
    lh_sum_i64(b->world, &r->sent, 1, LH_SEND_OTHER);
    r->peak = lh_session_peak(b->session);
    int64_t most[3] = {r->peak, step_rss(), b->rss_start};
    lh_max_i64(b->world, most, 3, LH_SEND_OTHER);
    r->peak = most[0];
    r->rss = most[1];
    r->rss_start = most[2];
    return step_items(b, r);
}

/* The plan knows the same numbers without having run; also the work of the model, which is that of a
 * step without recomputation (an operation may compute again inside its gradient). Local. */
static lh_status step_plan(bench_step *b, step_result *r)
{
    lh_status st = LH_OK;
    lh_step_plan *plan = NULL;
    const int recompute = b->config->train.recompute;
    b->config->device.threads = b->session->device->threads; /* as this run has them */
    b->config->train.recompute = LH_RECOMPUTE_NONE;
    st = lh_step_plan_create(b->config, lh_comm_size(b->world), &plan);
    b->config->train.recompute = recompute;
    if (st != LH_OK) goto done;
    r->model_flops = plan->flops;
    lh_step_plan_destroy(&plan);
    LH_TRY(lh_step_plan_create(b->config, lh_comm_size(b->world), &plan));
    r->predicted_peak = plan->peak_bytes;
    r->parameter_bytes = plan->parameter_bytes;
    r->predicted_sent = plan->sent_bytes;
    r->predicted_flops = plan->flops;
done:
    lh_step_plan_destroy(&plan);
    return st;
}

/* --- saying it --- */

/* The word of the file for train.recompute. */
static const char *step_recompute(const lh_config *c, char buf[STEP_WORD])
{
    const lhi_config_section *s = lhi_config_sections();
    while (strcmp(s->name, "train") != 0) s++;
    return lh_field_choice(lh_field_find(s->fields, "recompute"), c->train.recompute, buf,
                           STEP_WORD);
}

static void step_json_items(const step_result *r, lh_json *j)
{
    lh_json_array(j, "operations");
    for (int i = 0; i < r->count; i++) {
        const lh_profile_item *item = &r->item[i];
        double rate = item->flops > 0.0 ? item->flops / item->seconds : (double)NAN;
        lh_json_object(j, NULL);
        lh_json_string(j, "name", item->name);
        lh_json_string(j, "direction", lh_direction_name(item->direction));
        lh_json_int(j, "calls", item->calls);
        lh_json_real(j, "seconds", item->seconds);
        lh_json_real(j, "wait_s", item->waited);
        lh_json_real(j, "share", item->seconds / r->mean_s);
        lh_json_real(j, "gflops", rate * 1e-9);
        lh_json_real(j, "ratio", rate / r->gemm_rate);
        lh_json_close(j);
    }
    lh_json_close(j);
}

static void step_json_model(const bench_step *b, lh_json *j)
{
    const lh_config *c = b->config;
    char buf[STEP_WORD];
    lh_json_string(j, "kind", c->model.kind == LH_MODEL_DECODER ? "decoder" : "encoder");
    lh_json_int(j, "layers", c->model.layers);
    lh_json_int(j, "width", c->model.width);
    lh_json_int(j, "heads", c->model.heads);
    lh_json_int(j, "n", c->data.length);
    lh_json_int(j, "batch", c->data.batch);
    lh_json_int(j, "parameters", lh_params_total(b->session->params));
    lh_json_int(j, "ranks", lh_comm_size(b->world));
    lh_json_int(j, "threads", b->session->device->threads);
    lh_json_string(j, "isa", b->session->device->kernels->isa);
    lh_json_string(j, "precision", LH_REAL_NAME);
    lh_json_string(j, "recompute", step_recompute(c, buf));
    lh_json_int(j, "repeats", b->repeats);
}

static void step_json(const bench_step *b, const step_result *r, lh_json *j)
{
    const lh_config *c = b->config;
    double rate = r->model_flops / r->step_s;
    lh_json_begin(j);
    step_json_model(b, j);
    lh_json_real(j, "step_s", r->step_s);
    lh_json_real(j, "step_s_least", r->least_s);
    lh_json_real(j, "step_s_mean", r->mean_s);
    lh_json_real(j, "tokens_per_s", (double)(c->data.batch * c->data.length) / r->step_s);
    lh_json_real(j, "model_flops", r->model_flops);
    lh_json_real(j, "step_flops", r->step_flops);
    lh_json_real(j, "predicted_flops", r->predicted_flops);
    lh_json_real(j, "gflops", rate * 1e-9);
    lh_json_real(j, "gemm_gflops", r->gemm_rate * 1e-9);
    lh_json_real(j, "ratio", rate / r->gemm_rate);
    lh_json_real(j, "comm_wait_s", r->wait_s);
    lh_json_real(j, "comm_wait_share", r->wait_s / r->mean_s);
    lh_json_real(j, "comm_wait_max_s", r->wait_max_s);
    lh_json_int(j, "peak_bytes", r->peak);
    lh_json_int(j, "predicted_peak_bytes", r->predicted_peak);
    lh_json_int(j, "parameter_bytes", r->parameter_bytes);
    lh_json_int(j, "rss_peak_bytes", r->rss);
    lh_json_int(j, "rss_start_bytes", r->rss_start);
    lhi_bench_json_mean(j, "sent_bytes", r->sent / b->repeats, lh_comm_size(b->world));
    lh_json_real(j, "predicted_sent_bytes", r->predicted_sent);
    step_json_items(r, j);
}

static void step_table_print(const bench_step *b, const step_result *r)
{
    char unit[LH_UNITS_TEXT];
    (void)fprintf(stderr, "%-20s %-9s %6s %11s %7s %9s %6s\n", "operation", "direction", "calls",
                  "seconds", "share", "GFLOP/s", "ratio");
    for (int i = 0; i < r->count; i++) {
        const lh_profile_item *item = &r->item[i];
        (void)fprintf(stderr, "%-20s %-9s %6" PRId64 " %11.6f %6.2f%%", item->name,
                      lh_direction_name(item->direction), item->calls, item->seconds,
                      100.0 * item->seconds / r->mean_s);
        if (item->flops > 0.0)
            (void)fprintf(stderr, " %9.1f %6.3f", item->flops / item->seconds * 1e-9,
                          item->flops / item->seconds / r->gemm_rate);
        (void)fprintf(stderr, "\n");
    }
    (void)fprintf(stderr,
                  "step %.4f s (median of %d), %s of the model: %.1f GFLOP/s, %.3f of BLIS's %.1f; "
                  "waiting %.2f %%\n",
                  r->step_s, b->repeats, lh_units_flops(r->model_flops, unit),
                  r->model_flops / r->step_s * 1e-9, r->model_flops / r->step_s / r->gemm_rate,
                  r->gemm_rate * 1e-9, 100.0 * r->wait_s / r->mean_s);
}

/* What was counted in the run must be what was planned. */
static void step_compare(const bench_step *b, const step_result *r)
{
    double sent = (double)r->sent / b->repeats / lh_comm_size(b->world);
    if (sent == r->predicted_sent && r->peak == r->predicted_peak &&
        fabs(r->step_flops - r->predicted_flops) <= 1e-9 * r->predicted_flops)
        return;
    (void)fprintf(
        stderr,
        "longhaul bench: warning: counted and planned differ: %.15g and %.15g bytes sent, "
        "%" PRId64 " and %" PRId64 " bytes of memory, %.15g and %.15g flops: a bug, "
        "please report\n",
        sent, r->predicted_sent, r->peak, r->predicted_peak, r->step_flops, r->predicted_flops);
}

static lh_status step_report(const bench_step *b, const step_result *r)
{
    lh_status st = LH_OK;
    lh_json json = {0};
    step_table_print(b, r);
    step_compare(b, r);
    step_json(b, r, &json);
    LH_TRY(lhi_bench_print(&json));
done:
    lh_json_free(&json);
    return st;
}

static void step_announce(const bench_step *b)
{
    const lh_config *c = b->config;
    (void)fprintf(stderr,
                  "longhaul bench: training step of %" PRId64 " layers, width %" PRId64
                  ", n %" PRId64 ", %s, ranks %d x threads %d, repeats %d\n",
                  c->model.layers, c->model.width, c->data.length, b->session->device->kernels->isa,
                  lh_comm_size(b->world), b->session->device->threads, b->repeats);
}

lh_status lhi_bench_step(lh_comm *world, int argc, char **argv)
{
    lh_status st = LH_OK;
    step_options o = {.repeats = 7, .warmup = 1, .products = 3};
    lh_options options = {.command = "longhaul bench",
                          .table = step_table,
                          .into = &o,
                          .name = &o.file,
                          .max_names = 1};
    bench_step b = {.world = world};
    step_result r = {0};
    LH_TRY(lh_agree(world, lh_options_read(&options, argc, argv)));
    b.repeats = (int)o.repeats;
    b.products = (int)o.products;
    LH_TRY(step_config(world, &o, &b.config));
    b.rss_start = step_rss();
    LH_TRY(lh_session_open(world, b.config, true, &b.session));
    LH_TRY(lh_agree(world, step_buffers(&b)));
    lhi_bench_warn(world, b.session->device->threads);
    bool first = lh_comm_rank(world) == 0;
    if (first) step_announce(&b);
    LH_TRY(step_measure(&b, (int)o.warmup));
    LH_TRY(step_reduce(&b, &r));
    LH_TRY(lh_agree(world, first ? step_plan(&b, &r) : LH_OK));
    LH_TRY(lh_agree(world, first ? step_report(&b, &r) : LH_OK));
done:
    if (b.session != NULL) lhi_bench_gemm_destroy(b.session->device, &b.gemm);
    lh_free(&b.seconds);
    lh_free(&b.gemm_seconds);
    lh_session_close(&b.session);
    lh_config_destroy(&b.config);
    return st;
}
