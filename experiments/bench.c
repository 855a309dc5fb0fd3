/* The command line of longhaul bench: which cases are measured. */
#include "experiments/bench_internal.h"
#include "experiments/options.h"
#include "io/settings_fill.h"
#include "parallel/host.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

enum { BENCH_ASSIGNMENT = 128, BENCH_WINDOW = 256 };

#define BENCH_ELEMENTS 1e15 /* of one input */

/* What the command line says; LH_AUTO and NULL: nothing. */
typedef struct bench_options {
    const char *mechanism, *isa, *layout;
    int64_t n, window, head_width, heads, kv_heads, batch, threads, repeats, seed, causal, ulysses;
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
    BENCH_WORD("--isa", isa, "auto, avx512, avx2 or portable"),
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
    {.name = "--set",
     .kind = LH_OPTION_WORDS,
     .offset = offsetof(bench_options, settings),
     .expected = "KEY=VALUE, such as --set dilation=2"},
    {.name = NULL}};

/* What is measured without --mechanism, --n, --window, --causal and --set. window 0: not a setting. */
typedef struct bench_default {
    const char *mechanism;
    int64_t n, window;
    bool causal;
} bench_default;

static const bench_default bench_defaults[] = {
    {"full", 8192, 0, false},
    {"full", 8192, 0, true},
    {"sliding_window", 32768, 256, false},
    {"sliding_window", 32768, 256, true},
    {"sliding_window", 32768, 512, false},
    {"sliding_window", 32768, 512, true},
};
enum { BENCH_DEFAULTS = sizeof bench_defaults / sizeof bench_defaults[0] };

static void bench_help_features(FILE *out)
{
    (void)fprintf(
        out,
        "\nlonghaul bench features [--n 256] [--head-dim 16] [--features 16,32,128] [--scale 0.6]\n"
        "                        [--draws 60] [--kernel-draws 262144] [--seed 1]\n\n"
        "Measures how well random features (mechanism performer) estimate softmax attention, for\n"
        "queries and keys with entries scale N(0, 1). One object per estimator and number of\n"
        "features: arm, features, n, head_dim, scale, draws, mse (of the output, mean over draws "
        "of\n"
        "inputs and projections), output_variance. Then the error of the estimated kernel for one\n"
        "fixed pair and head_dim rows: kernel, rows, scale, draws, truth, mse, and its formula, "
        "or\n"
        "bound for orthogonal rows.\n");
}

void lh_bench_help(FILE *out)
{
    (void)fprintf(
        out,
        "longhaul bench attention [options]\n\n"
        "Measures attention, forward and backward, and prints one JSON object per case on "
        "standard\n"
        "output. Under mpirun -n P the sequence is spread over all ranks.\n\n"
        "Without --mechanism, --n, --window, --causal and --set, six cases are measured: full "
        "(causal\n"
        "and not, n 8192) and sliding_window (causal and not, window 256 and 512, n 32768). With "
        "any\n"
        "of them, exactly one:\n"
        "  --mechanism NAME  the mechanism (full; with --window: sliding_window)\n"
        "  --n N             positions of a sequence (8192; with a window: 32768)\n"
        "  --window H        the mechanism's setting `window` (256)\n"
        "  --causal [0|1]    --causal and --causal 1: yes; --causal 0 or nothing: no\n"
        "  --set KEY=VALUE   any other setting of the mechanism; may be repeated\n"
        "These hold for every case:\n"
        "  --head-dim D      size of a head (64)\n"
        "  --heads H         query heads (2)\n"
        "  --kv-heads G      key/value heads, a divisor of --heads (as --heads)\n"
        "  --batch B         sequences (1)\n"
        "  --threads T       threads of each rank (1)\n"
        "  --repeats R       measured repeats after one warm-up (7)\n"
        "  --isa NAME        auto, avx512, avx2 or portable (auto)\n"
        "  --seed S          of the random inputs (1)\n"
        "  --layout L        contiguous, or zigzag: balanced causal attention (contiguous)\n"
        "  --ulysses U       exchange by heads in groups of U ranks; 0: all ranks; 1: ring (1)\n\n"
        "Mechanisms:");
    for (int i = 0; i < lh_attn_count(); i++) (void)fprintf(out, " %s", lh_attn_at(i)->name);
    (void)fprintf(
        out,
        "\n\nFields:\n"
        "  mechanism, n, ranks, threads (of each rank), batch, heads, kv_heads, head_dim, causal\n"
        "  layout, window          window null: no such setting\n"
        "  ulysses                 ranks of a group\n"
        "  isa, precision          what ran\n"
        "  forward_s, backward_s   the slowest rank of each repeat, then the median of the "
        "repeats\n"
        "  gflops_forward, gflops_backward\n"
        "                          useful work of the pattern, of all ranks; 2 flops per "
        "multiply-add,\n"
        "                          backward = 2.5 x forward\n"
        "  gemm_gflops             BLIS, 2048-cubed on every rank at once, one product before "
        "each\n"
        "                          repeat, the median\n"
        "  ratio_forward, ratio_backward\n"
        "                          of gflops_... to gemm_gflops\n"
        "  peak_bytes              step memory (outputs, exchange, scratch; not the inputs and "
        "their\n"
        "                          gradients), the largest over ranks\n"
        "  sent_bytes              of one forward and backward, the mean over ranks\n"
        "  predicted_sent_bytes    the same by formula\n"
        "  comm_wait_s             of one forward and backward, spent waiting for messages, the\n"
        "                          largest over ranks\n");
    bench_help_features(out);
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
                         .kv_heads = LH_AUTO,
                         .head_width = 64,
                         .heads = 2,
                         .batch = 1,
                         .threads = 1,
                         .repeats = 7,
                         .seed = 1};
    LH_CHECK(argc > 0, LH_ERR_USAGE,
             "bench wants to know what to measure: longhaul bench attention [options], or longhaul "
             "bench features [options]");
    LH_CHECK(strcmp(argv[0], "attention") == 0, LH_ERR_USAGE,
             "bench: '%s' cannot be measured; this build measures: attention, features (see "
             "longhaul bench --help)",
             argv[0]);
    LH_TRY(lh_options_read(&options, argc - 1, argv + 1));
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

/* The mechanism's settings from its own field table, as an experiment file would fill them.
 * *settings is allocated. */
static lh_status bench_settings(const bench_options *o, const lh_attn_ops *ops, int64_t window,
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
    for (int i = 0; i < o->settings.count; i++)
        LH_TRY(lh_yaml_override(yaml, map, o->settings.word[i]));
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
    *c = (lhi_bench_case){.batch = o->batch,
                          .heads = o->heads,
                          .kv_heads = o->kv_heads,
                          .head_width = o->head_width,
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
    LH_TRY(bench_settings(o, c->ops, window, settings));
    c->settings = *settings;
    c->n = def != NULL ? def->n : o->n != LH_AUTO ? o->n : field != NULL ? 32768 : 8192;
    /* a mechanism that is causal only needs no --causal */
    c->causal = def != NULL            ? def->causal
                : o->causal != LH_AUTO ? o->causal == 1
                                       : !(c->ops->caps & LH_ATTN_BIDIRECTIONAL);
done:
    return st;
}

static lh_status bench_one(lh_comm *world, const bench_options *o, const bench_default *def)
{
    lh_status st = LH_OK;
    lhi_bench_case c = {0};
    void *settings = NULL;
    LH_TRY(lh_agree(world, bench_case(o, def, lh_comm_size(world), &c, &settings)));
    LH_TRY(lhi_bench_attention(world, &c));
done:
    if (settings != NULL) lh_settings_free(c.ops->settings, settings);
    lh_free(&settings);
    return st;
}

/* Figures of threads that wait for one another's processor mean nothing: say so. Collective on
 * world. */
static void bench_warn(lh_comm *world, const bench_options *o)
{
    lh_host host = lh_host_of(world);
    char text[256];
    if (lh_comm_rank(world) == 0 && lh_host_short(&host, (int)o->threads, text, sizeof text))
        (void)fprintf(stderr, "longhaul bench: %s\n", text);
}

lh_status lh_bench_main(lh_comm *world, int argc, char **argv)
{
    lh_status st = LH_OK;
    bench_options o;
    if (argc > 0 && strcmp(argv[0], "features") == 0)
        return lhi_bench_features(world, argc - 1, argv + 1);
    LH_TRY(lh_agree(world, bench_parse(&o, argc, argv)));
    bench_warn(world, &o);
    bool chosen = o.mechanism != NULL || o.n != LH_AUTO || o.window != LH_AUTO ||
                  o.causal != LH_AUTO || o.settings.count > 0;
    if (chosen) LH_TRY(bench_one(world, &o, NULL));
    for (int i = 0; i < BENCH_DEFAULTS && !chosen; i++)
        LH_TRY(bench_one(world, &o, &bench_defaults[i]));
done:
    return st;
}
