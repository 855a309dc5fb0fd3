/* bench step: training steps of an experiment on random tokens, where their time goes, and matrix
 * products beside them. */
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/bench_internal.h"
#include "experiments/config_internal.h"
#include "experiments/options.h"
#include "experiments/step_times.h"
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
static const lh_option step_table[] = {STEP_INT("--repeats", repeats, 1, LH_STEP_REPEATS),
                                       STEP_INT("--warmup", warmup, 0, 10000),
                                       STEP_INT("--products", products, 1, 100),
                                       {.name = "--set",
                                        .kind = LH_OPTION_WORDS,
                                        .offset = offsetof(step_options, overrides),
                                        .expected = "KEY=VALUE, such as --set data.length=4096"},
                                       {.name = NULL}};

enum { STEP_WORD = 32 };

void lhi_bench_step_help(FILE *out)
{
    (void)fprintf(
        out,
        "\nlonghaul bench step [FILE.yaml] [--set KEY=VALUE]... [--repeats 7] [--warmup 1]\n"
        "                    [--products 3]\n\n"
        "Runs training steps of an experiment on random tokens; no data file is opened. Without a\n"
        "file: a decoder of 12 layers, width 512, 8 heads, window 512, data.length 8192, one "
        "thread.\n"
        "Where model.head has no loss (none, pooler) a step is one forward pass.\n"
        "Before each step come --products products of two 2048 x 2048 matrices, and before the\n"
        "first --warmup steps that are not measured. One object:\n"
        "  pass                    step or forward\n"
        "  mechanism, kind, layers, width, heads, n, batch, parameters\n"
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
        "                          gflops (null where none are counted), ratio (to gemm_gflops),\n"
        "                          flops and bytes (of all ranks: kernels' operands, each once).\n"
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

static lh_status step_config(lh_comm *world, const step_options *o, lh_config **out)
{
    bool builtin = o->file == NULL;
    const lh_config_source source = {.read = builtin ? step_builtin : lh_read_small,
                                     .path = builtin ? "the built-in model" : o->file,
                                     .overrides = o->overrides.word,
                                     .n_overrides = o->overrides.count,
                                     .flags = LH_CONFIG_PLAN};
    return lh_step_times_config(world, &source, out);
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

static void step_json_items(const lh_step_times *r, lh_json *j)
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
        lh_json_real(j, "flops", item->flops);
        lh_json_real(j, "bytes", item->bytes);
        lh_json_close(j);
    }
    lh_json_close(j);
}

static void step_json_model(const lh_config *c, const lh_step_times *r, int ranks, int repeats,
                            lh_json *j)
{
    char buf[STEP_WORD], mechanism[LH_STEP_NAME];
    lh_step_mechanism(c, mechanism);
    lh_json_string(j, "mechanism", mechanism);
    lh_json_string(j, "pass", r->forward_only ? "forward" : "step");
    lh_json_string(j, "kind", c->model.kind == LH_MODEL_DECODER ? "decoder" : "encoder");
    lh_json_int(j, "layers", c->model.layers);
    lh_json_int(j, "width", c->model.width);
    lh_json_int(j, "heads", c->model.heads);
    lh_json_int(j, "n", c->data.length);
    lh_json_int(j, "batch", r->sequences);
    lh_json_int(j, "parameters", r->parameters);
    lh_json_int(j, "ranks", ranks);
    lh_json_int(j, "threads", r->threads);
    lh_json_string(j, "isa", r->isa);
    lh_json_string(j, "precision", LH_REAL_NAME);
    lh_json_string(j, "recompute", step_recompute(c, buf));
    lh_json_int(j, "repeats", repeats);
}

static void step_json(const lh_config *c, const lh_step_times *r, int ranks, int repeats,
                      lh_json *j)
{
    double rate = r->model_flops / r->step_s;
    lh_json_begin(j);
    step_json_model(c, r, ranks, repeats, j);
    lh_json_real(j, "step_s", r->step_s);
    lh_json_real(j, "step_s_least", r->least_s);
    lh_json_real(j, "step_s_mean", r->mean_s);
    lh_json_real(j, "tokens_per_s", (double)(r->sequences * c->data.length) / r->step_s);
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
    lhi_bench_json_mean(j, "sent_bytes", r->sent / repeats, ranks);
    lh_json_real(j, "predicted_sent_bytes", r->predicted_sent);
    step_json_items(r, j);
}

static void step_table_print(const lh_step_times *r, int repeats)
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
                  r->step_s, repeats, lh_units_flops(r->model_flops, unit),
                  r->model_flops / r->step_s * 1e-9, r->model_flops / r->step_s / r->gemm_rate,
                  r->gemm_rate * 1e-9, 100.0 * r->wait_s / r->mean_s);
}

static lh_status step_report(const lh_config *c, const lh_step_times *r, int ranks, int repeats)
{
    lh_status st = LH_OK;
    lh_json json = {0};
    step_table_print(r, repeats);
    step_json(c, r, ranks, repeats, &json);
    LH_TRY(lh_json_print(&json, stdout));
done:
    lh_json_free(&json);
    return st;
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
    lh_config *config = NULL;
    lh_step_times r = {0};
    LH_TRY(lh_agree(world, lh_options_read(&options, argc, argv)));
    const lh_step_wish wish = {(int)o.repeats, (int)o.warmup, (int)o.products};
    LH_TRY(step_config(world, &o, &config));
    LH_TRY(lh_step_times_measure(world, config, &wish, &r));
    st = lh_comm_rank(world) > 0 ? LH_OK
                                 : step_report(config, &r, lh_comm_size(world), wish.repeats);
    LH_TRY(lh_agree(world, st));
done:
    lh_step_times_free(&r);
    lh_config_destroy(&config);
    return st;
}
