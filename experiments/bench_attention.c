/* bench attention: which cases are measured, and what is said of them. */
#include "experiments/bench_internal.h"
#include "io/settings_fill.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

enum { BENCH_ASSIGNMENT = 128, BENCH_WINDOW = 256 };

#define BENCH_ELEMENTS 1e15 /* of one input */

/* What the command line says; LH_AUTO and NULL: nothing. */
typedef struct bench_options {
    const char *mechanism, *isa, *layout;
    int64_t n, window, head_width, heads, kv_heads, batch, threads, repeats, seed, causal, relative,
        ulysses;
    lh_option_words settings; /* "KEY=VALUE" */
} bench_options;

#define BENCH_WORD(text, member, what)                                                             \
    {                                                                                              \
        .name = text, .kind = LH_OPTION_WORD, .offset = offsetof(bench_options, member),           \
        .expected = what                                                                           \
    }
#define BENCH_INT(text, member, least, most)                                                       \
    {                                                                                              \
        .name = text, .kind = LH_OPTION_INT, .offset = offsetof(bench_options, member),            \
        .min = least, .max = most                                                                  \
    }
static const lh_option bench_table[] = {
    BENCH_WORD("--mechanism", mechanism, "a mechanism's name"),
    BENCH_WORD("--isa", isa, "auto, avx512, avx512_bf16, avx2 or portable"),
    BENCH_WORD("--layout", layout, "contiguous or zigzag"),
    BENCH_INT("--n", n, 1, (int64_t)1 << 40),
    BENCH_INT("--window", window, 0, (int64_t)1 << 40),
    BENCH_INT("--head-dim", head_width, 1, 4096),
    BENCH_INT("--heads", heads, 1, 4096),
    BENCH_INT("--kv-heads", kv_heads, 1, 4096),
    BENCH_INT("--batch", batch, 1, 1 << 20),
    BENCH_INT("--threads", threads, 1, LH_MAX_THREADS),
    BENCH_INT("--repeats", repeats, 1, 10000),
    BENCH_INT("--seed", seed, 0, INT64_MAX),
    BENCH_INT("--ulysses", ulysses, 0, 1 << 20),
    {.name = "--causal", .kind = LH_OPTION_SWITCH, .offset = offsetof(bench_options, causal)},
    {.name = "--relative", .kind = LH_OPTION_SWITCH, .offset = offsetof(bench_options, relative)},
    {.name = "--set",
     .kind = LH_OPTION_WORDS,
     .offset = offsetof(bench_options, settings),
     .expected = "KEY=VALUE, such as --set dilation=2"},
    {.name = NULL}};

/* What is measured without --mechanism, --n, --window, --causal, --relative and --set: a table whose
 * first six rows are the design's, and whose others change one thing each. 0: not a setting; heads and
 * sizes as the options say. */
typedef struct bench_default {
    const char *mechanism;
    int64_t n, window;
    bool causal, relative;
    int64_t heads, kv_heads, head_width;
} bench_default;

static const bench_default bench_defaults[] = {
    {.mechanism = "full", .n = 8192},
    {.mechanism = "full", .n = 8192, .causal = true},
    {.mechanism = "sliding_window", .n = 32768, .window = 256},
    {.mechanism = "sliding_window", .n = 32768, .window = 256, .causal = true},
    {.mechanism = "sliding_window", .n = 32768, .window = 512},
    {.mechanism = "sliding_window", .n = 32768, .window = 512, .causal = true},
    {.mechanism = "full", .n = 8192, .head_width = 32},
    {.mechanism = "full", .n = 8192, .causal = true, .head_width = 32},
    {.mechanism = "full", .n = 8192, .head_width = 128},
    {.mechanism = "full", .n = 8192, .causal = true, .head_width = 128},
    {.mechanism = "full", .n = 4096, .heads = 8, .kv_heads = 1},
    {.mechanism = "full", .n = 4096, .causal = true, .heads = 8, .kv_heads = 1},
    {.mechanism = "full", .n = 8192, .relative = true},
    {.mechanism = "full", .n = 8192, .causal = true, .relative = true},
    {.mechanism = "performer", .n = 32768},
    {.mechanism = "performer", .n = 32768, .causal = true},
    {.mechanism = "linformer", .n = 32768},
};
enum { BENCH_DEFAULTS = sizeof bench_defaults / sizeof bench_defaults[0] };

static void attention_help_fields(FILE *out)
{
    (void)fprintf(
        out,
        "\n\nFields:\n"
        "  mechanism, n, ranks, threads (of each rank), batch, heads, kv_heads, head_dim, causal\n"
        "  layout, window          window null: no such setting\n"
        "  ulysses, relative       ranks of a group; relative positions?\n"
        "  isa, precision          what ran\n"
        "  forward_s, backward_s   the slowest rank of each repeat, then the median of the "
        "repeats\n"
        "  gflops_forward, gflops_backward\n"
        "                          useful work of the pattern, of all ranks; 2 flops per "
        "multiply-add,\n"
        "                          backward = 2.5 x forward; relative positions, features and\n"
        "                          landmarks: their products too\n"
        "  gemm_gflops             BLIS, 2048-cubed on every rank at once, one product before "
        "each\n"
        "                          repeat, the median\n"
        "  ratio_forward, ratio_backward\n"
        "                          of gflops_... to gemm_gflops\n"
        "  ratio                   of both passes together\n"
        "  peak_bytes              step memory (outputs, exchange, scratch; not the inputs and "
        "their\n"
        "                          gradients), the largest over ranks\n"
        "  sent_bytes              of one forward and backward, the mean over ranks\n"
        "  predicted_sent_bytes    the same by formula\n"
        "  comm_wait_s             of one forward and backward, waiting for messages and in\n"
        "                          collectives, the largest over ranks\n"
        "Before each pass every rank writes a buffer of twice its last cache (at least 64 MiB), "
        "so\n"
        "that inputs come from memory.\n");
}

void lhi_bench_attention_help(FILE *out)
{
    (void)fprintf(
        out,
        "\nlonghaul bench attention [options]\n\n"
        "Measures attention, forward and backward, and prints one JSON object per case on "
        "standard\n"
        "output. Under mpirun -n P the sequence is spread over all ranks.\n\n"
        "Without --mechanism, --n, --window, --causal, --relative and --set: full (causal and not, "
        "n\n"
        "8192) and sliding_window (causal and not, window 256 and 512, n 32768); then full with "
        "heads\n"
        "of 32 and 128, with 8 query heads for one key/value head (n 4096), with relative "
        "positions;\n"
        "then performer (256 features, causal and not) and linformer (k 256), n 32768. With any "
        "of\n"
        "them, exactly one:\n"
        "  --mechanism NAME  the mechanism (full; with --window: sliding_window)\n"
        "  --n N             positions of a sequence (8192; with a window: 32768)\n"
        "  --window H        the mechanism's setting `window` (256)\n"
        "  --causal [0|1]    --causal and --causal 1: yes; --causal 0 or nothing: no\n"
        "  --relative [0|1]  relative positions; their work is counted with the pattern's\n"
        "  --set KEY=VALUE   any other setting of the mechanism; may be repeated\n"
        "These hold for every case:\n"
        "  --head-dim D      size of a head (64)\n"
        "  --heads H         query heads (2)\n"
        "  --kv-heads G      key/value heads, a divisor of --heads (as --heads)\n"
        "  --batch B         sequences (1)\n"
        "  --threads T       threads of each rank (1)\n"
        "  --repeats R       measured repeats after one warm-up (7)\n"
        "  --isa NAME        auto, avx512, avx2, portable, or avx512_bf16: AVX-512 with operands "
        "of\n"
        "                    the products rounded to bfloat16 (auto)\n"
        "  --seed S          of the random inputs (1)\n"
        "  --layout L        contiguous, or zigzag: balanced causal attention (contiguous)\n"
        "  --ulysses U       exchange by heads in groups of U ranks; 0: all ranks; 1: ring (1)\n\n"
        "Mechanisms:");
    for (int i = 0; i < lh_attn_count(); i++) (void)fprintf(out, " %s", lh_attn_at(i)->name);
    attention_help_fields(out);
}

static lh_status bench_parse(bench_options *o, int argc, char **argv)
{
    lh_status st = LH_OK;
    lh_options options = {.command = "longhaul bench", .table = bench_table, .into = o};
    *o = (bench_options){.isa = "auto",
                         .layout = "contiguous",
                         .ulysses = 1,
                         .n = LH_AUTO,
                         .window = LH_AUTO,
                         .causal = LH_AUTO,
                         .relative = LH_AUTO,
                         .kv_heads = LH_AUTO,
                         .head_width = 64,
                         .heads = 2,
                         .batch = 1,
                         .threads = 1,
                         .repeats = 7,
                         .seed = 1};
    LH_TRY(lh_options_read(&options, argc, argv));
    if (o->kv_heads == LH_AUTO) o->kv_heads = o->heads;
    LH_CHECK(o->heads % o->kv_heads == 0, LH_ERR_USAGE,
             "bench: --kv-heads %" PRId64 " does not divide --heads %" PRId64, o->kv_heads,
             o->heads);
    /* no byte count may overflow; memory ends long before */
    double elements = (double)o->batch * (double)(o->heads * o->head_width) *
                      (o->n != LH_AUTO ? (double)o->n : 32768.0);
    LH_CHECK(elements < BENCH_ELEMENTS, LH_ERR_USAGE,
             "bench: --batch, --n, --heads and --head-dim together ask for %g numbers: too many",
             elements);
done:
    return st;
}

static lh_status bench_mechanism(const char *name, const lh_attn_ops **out)
{
    char hint[LH_WORDS_TEXT];
    lh_words words = {.wrong = name};
    *out = lh_attn_find(name);
    if (*out != NULL) return LH_OK;
    for (int i = 0; i < lh_attn_count(); i++) lh_words_add(&words, lh_attn_at(i)->name);
    return LH_RAISE(LH_ERR_USAGE, "bench: --mechanism: unknown mechanism '%s': %s", name,
                    lh_words_hint(&words, "mechanisms", hint, sizeof hint));
}

static const lh_field *bench_window_field(const lh_attn_ops *ops)
{
    const lh_field *field = lh_field_find(ops->settings, "window");
    return field != NULL && field->type == LH_FIELD_INT ? field : NULL;
}

bool lhi_bench_window(const lhi_bench_case *c, int64_t *window)
{
    const lh_field *field = bench_window_field(c->ops);
    if (field != NULL) *window = *(const int64_t *)((const char *)c->settings + field->offset);
    return field != NULL;
}

lh_status lhi_bench_settings(const lh_attn_ops *ops, int64_t window, const lh_option_words *words,
                             void **settings)
{
    lh_status st = LH_OK;
    lh_yaml *yaml = NULL;
    lh_node *map = NULL;
    char text[BENCH_ASSIGNMENT];
    LH_TRY(lh_yaml_create(&yaml));
    LH_TRY(lh_yaml_map(yaml, &map));
    if (window != LH_AUTO) {
        (void)snprintf(text, sizeof text, "window=%" PRId64, window);
        LH_TRY(lh_yaml_override(yaml, map, text));
    }
    for (int i = 0; i < words->count; i++) LH_TRY(lh_yaml_override(yaml, map, words->word[i]));
    LH_TRY(lh_new(ops->settings_bytes, settings));
    lh_fill fill = {.map = map, .prefix = "", .owner = ops->name, .directory = "/"};
    LH_TRY(lh_settings_fill(&fill, ops->settings, *settings));
done:
    lh_yaml_destroy(&yaml);
    return st == LH_OK ? st : lh_error_context(st, "bench: mechanism '%s'", ops->name);
}

/* One case. def: the row of the table, or NULL for the one that the command line describes. */
static lh_status bench_case(const bench_options *o, const bench_default *def, int ranks,
                            lhi_bench_case *c, void **settings)
{
    lh_status st = LH_OK;
    const char *name = o->mechanism != NULL   ? o->mechanism
                       : o->window != LH_AUTO ? "sliding_window"
                                              : "full";
    int64_t window = o->window;
    if (def != NULL) {
        name = def->mechanism;
        window = def->window > 0 ? def->window : LH_AUTO;
    }
    bool heads = def != NULL && def->heads > 0;
    *c = (lhi_bench_case){.batch = o->batch,
                          .heads = heads ? def->heads : o->heads,
                          .kv_heads = heads ? def->kv_heads : o->kv_heads,
                          .head_width =
                              def != NULL && def->head_width > 0 ? def->head_width : o->head_width,
                          .relative = def != NULL ? def->relative : o->relative == 1,
                          .threads = (int)o->threads,
                          .repeats = (int)o->repeats,
                          .isa = o->isa,
                          .seed = (uint64_t)o->seed};
    c->zigzag = strcmp(o->layout, "zigzag") == 0;
    LH_CHECK(c->zigzag || strcmp(o->layout, "contiguous") == 0, LH_ERR_USAGE,
             "bench: --layout: expected contiguous or zigzag, got '%s'", o->layout);
    LH_TRY(bench_mechanism(name, &c->ops));
    c->ways = o->ulysses == 0 ? ranks : (int)o->ulysses;
    LH_CHECK(ranks % c->ways == 0, LH_ERR_USAGE, "bench: --ulysses: %d does not divide %d ranks",
             c->ways, ranks);
    LH_CHECK(c->ways == 1 || (c->ops->caps & LH_ATTN_SPREAD) != 0, LH_ERR_USAGE,
             "bench: --ulysses: mechanism '%s' has an exchange of its own: leave it out", name);
    const lh_field *field = bench_window_field(c->ops);
    bool given = false;
    for (int i = 0; i < o->settings.count; i++)
        given = given || !strncmp(o->settings.word[i], "window=", 7);
    LH_CHECK(o->window == LH_AUTO || field != NULL, LH_ERR_USAGE,
             "bench: --window: mechanism '%s' has no setting 'window'", name);
    if (window == LH_AUTO && field != NULL && field->fallback == NULL && !given)
        window = BENCH_WINDOW;
    LH_TRY(lhi_bench_settings(c->ops, window, &o->settings, settings));
    c->settings = *settings;
    c->n = def != NULL ? def->n : o->n != LH_AUTO ? o->n : field != NULL ? 32768 : 8192;
    /* a mechanism that is causal only needs no --causal */
    c->causal = def != NULL            ? def->causal
                : o->causal != LH_AUTO ? o->causal == 1
                                       : !(c->ops->caps & LH_ATTN_BIDIRECTIONAL);
done:
    return st;
}

static lh_status bench_report(const lhi_bench_case *c, const lhi_bench_result *r, int ranks)
{
    lh_status st = LH_OK;
    lh_json json = {0};
    lh_json *j = &json;
    double gemm = r->rate[LHI_BENCH_PRODUCT];
    lh_json_begin(j);
    lhi_bench_json_case(j, c, ranks);
    lh_json_bool(j, "relative", c->relative);
    lh_json_string(j, "isa", r->isa);
    lh_json_string(j, "precision", LH_REAL_NAME);
    lh_json_real(j, "forward_s", r->seconds[LHI_BENCH_FORWARD]);
    lh_json_real(j, "backward_s", r->seconds[LHI_BENCH_BACKWARD]);
    lh_json_real(j, "gflops_forward", r->rate[LHI_BENCH_FORWARD] * 1e-9);
    lh_json_real(j, "gflops_backward", r->rate[LHI_BENCH_BACKWARD] * 1e-9);
    lh_json_real(j, "gemm_gflops", gemm * 1e-9);
    lh_json_real(j, "ratio_forward", r->rate[LHI_BENCH_FORWARD] / gemm);
    lh_json_real(j, "ratio_backward", r->rate[LHI_BENCH_BACKWARD] / gemm);
    lh_json_real(j, "ratio", r->rate_both / gemm);
    lh_json_int(j, "peak_bytes", r->peak);
    lhi_bench_json_mean(j, "sent_bytes", r->sent, ranks);
    lhi_bench_json_mean(j, "predicted_sent_bytes", r->predicted, ranks);
    lh_json_real(j, "comm_wait_s", r->wait_s);
    LH_TRY(lh_json_print(j, stdout));
done:
    lh_json_free(&json);
    return st;
}

static lh_status bench_one(lh_comm *world, const bench_options *o, const bench_default *def)
{
    lh_status st = LH_OK;
    lhi_bench_case c = {0};
    lhi_bench_result r;
    void *settings = NULL;
    LH_TRY(lh_agree(world, bench_case(o, def, lh_comm_size(world), &c, &settings)));
    LH_TRY(lhi_bench_run(world, &c, &r));
    if (lh_comm_rank(world) == 0) st = bench_report(&c, &r, lh_comm_size(world));
    LH_TRY(lh_agree(world, st));
done:
    if (settings != NULL) lh_settings_free(c.ops->settings, settings);
    lh_free(&settings);
    return st;
}

lh_status lhi_bench_attention(lh_comm *world, int argc, char **argv)
{
    lh_status st = LH_OK;
    bench_options o;
    LH_TRY(lh_agree(world, bench_parse(&o, argc, argv)));
    lhi_bench_warn(world, o.threads);
    bool chosen = o.mechanism != NULL || o.n != LH_AUTO || o.window != LH_AUTO ||
                  o.causal != LH_AUTO || o.relative != LH_AUTO || o.settings.count > 0;
    if (chosen) LH_TRY(bench_one(world, &o, NULL));
    for (int i = 0; i < BENCH_DEFAULTS && !chosen; i++)
        LH_TRY(bench_one(world, &o, &bench_defaults[i]));
done:
    return st;
}
