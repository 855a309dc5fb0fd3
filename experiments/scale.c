/* scale: points of a study, each on its own number of ranks. */
#include "experiments/scale.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/scale_internal.h"
#include "io/files.h"

#define SCALE_WORD(text, member, what)                                                             \
    {                                                                                              \
        .name = text, .kind = LH_OPTION_WORD, .offset = offsetof(lhi_scale_options, member),       \
        .expected = what                                                                           \
    }
#define SCALE_WORDS(text, member, what)                                                            \
    {                                                                                              \
        .name = text, .kind = LH_OPTION_WORDS, .offset = offsetof(lhi_scale_options, member),      \
        .expected = what                                                                           \
    }
#define SCALE_INT(text, member, least, most)                                                       \
    {                                                                                              \
        .name = text, .kind = LH_OPTION_INT, .offset = offsetof(lhi_scale_options, member),        \
        .min = least, .max = most                                                                  \
    }
static const lh_option scale_table[] = {
    SCALE_WORD("--ranks", ranks, "numbers of ranks, such as --ranks 1,2,4,8"),
    SCALE_WORD("--lengths", lengths, "sequence lengths, such as --lengths 4k,16k,64k"),
    SCALE_WORD("--mode", mode, "strong, weak or both"),
    SCALE_WORD("--out", out, "a file for the results, such as --out scale.jsonl"),
    SCALE_WORDS("--attention", attention,
                "a mechanism, such as --attention full or --attention '{mechanism: "
                "sliding_window, window: 256}'"),
    SCALE_WORDS("--set", overrides, "KEY=VALUE, such as --set model.layers=4"),
    SCALE_INT("--repeats", repeats, 1, LH_STEP_REPEATS),
    SCALE_INT("--warmup", warmup, 0, 10000),
    {.name = NULL}};

void lh_scale_help(FILE *out)
{
    (void)fprintf(
        out,
        "longhaul scale FILE.yaml --ranks 1,2,4,8 [--mode strong|weak|both] [--lengths 4k,16k]\n"
        "               [--attention MECHANISM]... [--set KEY=VALUE]... [--repeats 5] [--warmup "
        "2]\n"
        "               [--out scale.jsonl]\n\n"
        "Measures training steps of an experiment, on random tokens, on several numbers of ranks "
        "in\n"
        "one launch: under mpirun -n P (P: the largest of them) or srun each point takes the "
        "first\n"
        "ranks, and the others sleep.\n"
        "  --mode       strong: the same sequence on all ranks; weak: data.length grows with the\n"
        "               ranks, and is the file's on the fewest; both (default)\n"
        "  --lengths    in place of data.length (4k: 4096; 1m: 1048576); from two on the growth of "
        "a\n"
        "               step's time with the length is fitted for every number of ranks (strong)\n"
        "  --attention  in place of model.attention, may be repeated: a name, or {mechanism: ...}\n"
        "  --out        the results go there, and not to standard output, each as soon as it is "
        "known.\n"
        "               Given again, the study goes on: points that stand there are not measured "
        "again,\n"
        "               and a study with another configuration is refused\n"
        "Where model.head has no loss (--set model.head=none) a step is one forward pass.\n"
        "Standard output: one object a point.\n"
        "  ranks, n, mode, mechanism, attention (as given, or null)\n"
        "  step_s, step_s_least, step_s_mean, seconds\n"
        "                       the slowest rank of each step: median, least, mean; all of them\n"
        "  tokens_per_s         of all ranks, by step_s\n"
        "  efficiency           work of the model per second and rank, to that on the fewest "
        "ranks\n"
        "                       (strong: time x ranks on the fewest over time x ranks)\n"
        "  comm_wait_s          of a step, waiting for messages, mean over ranks\n"
        "  sent_bytes, predicted_sent_bytes\n"
        "                       of a step, mean over ranks\n"
        "  peak_bytes, predicted_peak_bytes, parameter_bytes\n"
        "                       of the rank that needs most\n"
        "  pass, loss           step or forward; of the last step, which every run repeats\n"
        "  model_flops, parameters, batch, threads, isa, precision, repeats\n"
        "  configuration        digest of all that the experiment file and the options say\n"
        "and with --lengths one a fit, step_s = c n^exponent by least squares over all repeats:\n"
        "  fit, ranks, mechanism, attention, exponent, low, high (95 %% confidence), lengths, "
        "samples\n");
}

/* --- lists of numbers --- */

/* One number at *text, which then stands behind it; k and m are 2^10 and 2^20. 0: none. */
static int64_t scale_number(const char **text)
{
    char *end = NULL;
    if (**text < '0' || **text > '9') return 0;
    long long value = strtoll(*text, &end, 10);
    int shift = *end == 'k' || *end == 'K' ? 10 : *end == 'm' || *end == 'M' ? 20 : 0;
    if (shift > 0) end++;
    *text = end;
    return value > 0 && value <= INT32_MAX ? (int64_t)value << shift : 0;
}

/* Ascending numbers with commas between. */
static lh_status scale_read_list(const char *command, const char *option, const char *text,
                                 int64_t most, lhi_scale_list *out)
{
    lh_status st = LH_OK;
    const char *at = text;
    do {
        if (out->count > 0) at++; /* the comma */
        int64_t value = scale_number(&at);
        LH_CHECK(value > 0 && value <= most && (*at == ',' || *at == '\0') &&
                     out->count < LHI_SCALE_LIST,
                 LH_ERR_USAGE,
                 "%s: %s '%s': expected at most %d whole numbers from 1 to %" PRId64
                 " with commas between, such as 1,2,4k",
                 command, option, text, (int)LHI_SCALE_LIST, most);
        LH_CHECK(out->count == 0 || value > out->item[out->count - 1], LH_ERR_USAGE,
                 "%s: %s '%s': numbers must ascend", command, option, text);
        out->item[out->count++] = value;
    } while (*at != '\0');
done:
    return st;
}

/* --- saying it --- */

/* One line of results, to the file or to standard output. *said: it did not stand there. Rank 0. */
static lh_status scale_line(lhi_scale_study *s, bool *said)
{
    *said = true;
    if (s->o->out != NULL) return lh_scale_file_add(&s->file, &s->json, said);
    return lh_json_print(&s->json, stdout);
}

/* Work of the model per second and rank. */
static double scale_rate(const lhi_scale_point *p)
{
    return lhi_scale_of(p, "model_flops") / lhi_scale_of(p, "step_s") / p->ranks;
}

/* Rank 0. first: the point of the series on the fewest ranks. */
static lh_status scale_print(lhi_scale_study *s, const char *mode, const lhi_scale_point *p,
                             const lhi_scale_point *first)
{
    const double efficiency = scale_rate(p) / scale_rate(first);
    bool said = false;
    lh_json *j = &s->json;
    lh_json_begin(j);
    for (lh_json_member m = {0}; lh_json_next(p->object, &m);)
        if (strcmp(m.key, "mode") == 0)
            lh_json_string(j, "mode", mode);
        else if (strcmp(m.key, "efficiency") == 0)
            lh_json_real(j, "efficiency", efficiency);
        else
            lh_json_copy(j, m.key, m.item);
    lh_status st = scale_line(s, &said);
    if (st == LH_ERR_FORMAT) /* of a point that the file had */
        st = lh_error_context(LH_ERR_USAGE, "'%s'", s->o->out);
    if (st == LH_OK && said)
        (void)fprintf(stderr,
                      "%s: %s, %s, ranks %d, n %" PRId64 ": step %.4f s, efficiency %.3f, "
                      "waiting %.1f %%\n",
                      s->kind->command, lh_json_word(p->object, "mechanism"), mode, p->ranks, p->n,
                      lhi_scale_of(p, "step_s"), efficiency,
                      100.0 * lhi_scale_of(p, "comm_wait_s") / lhi_scale_of(p, "step_s_mean"));
    return st;
}

/* --- growth with the length --- */

/* The 0.975 quantile of Student's t. */
static double scale_student(int64_t freedom)
{
    static const double t[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306,
                               2.262,  2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
                               2.110,  2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064,
                               2.060,  2.056, 2.052, 2.048, 2.045, 2.042};
    const int64_t known = (int64_t)(sizeof t / sizeof t[0]);
    if (freedom <= known) return t[freedom - 1];
    return 1.960 + 2.5 / (double)freedom; /* within 0.002 */
}

/* Least squares of log time on log length over all repeats of the points index [count]. Rank 0. */
static lh_status scale_fit(lhi_scale_study *s, const int64_t *index, int count)
{
    const lhi_scale_point *first = s->point + index[0];
    int repeats = (int)s->o->repeats;
    int64_t m = (int64_t)count * repeats;
    double x = 0.0, y = 0.0, xx = 0.0, xy = 0.0, left = 0.0;
    for (int pass = 0; pass < 3; pass++) { /* means, then the slope, then what it leaves */
        for (int i = 0; i < count * repeats; i++) {
            const lhi_scale_point *p = s->point + index[i / repeats];
            double a = log((double)p->n);
            double b = log(
                lh_json_item_number(lh_json_at(lh_json_find(p->object, "seconds"), i % repeats)));
            if (pass == 0) x += a / (double)m;
            if (pass == 0) y += b / (double)m;
            if (pass == 1) xx += (a - x) * (a - x);
            if (pass == 1) xy += (a - x) * (b - y);
            if (pass == 2) left += pow(b - y - xy / xx * (a - x), 2.0);
        }
    }
    double slope = xy / xx, margin = (double)NAN;
    if (m > 2) margin = scale_student(m - 2) * sqrt(left / (double)(m - 2) / xx);
    lh_json *j = &s->json;
    lh_json_begin(j);
    lh_json_string(j, "fit", "step_s = c n^exponent");
    lh_json_int(j, "ranks", first->ranks);
    lh_json_copy(j, "mechanism", lh_json_find(first->object, "mechanism"));
    lh_json_copy(j, "attention", lh_json_find(first->object, "attention"));
    lh_json_real(j, "exponent", slope);
    lh_json_real(j, "low", slope - margin);
    lh_json_real(j, "high", slope + margin);
    lh_json_int(j, "lengths", count);
    lh_json_int(j, "samples", m);
    bool said = false;
    lh_status st = scale_line(s, &said);
    if (st == LH_OK && said)
        (void)fprintf(stderr, "%s: %s, ranks %d: time grows as n^%.3f (%.3f to %.3f)\n",
                      s->kind->command, lh_json_word(first->object, "mechanism"), first->ranks,
                      slope, slope - margin, slope + margin);
    return st;
}

/* Every number of ranks at every length, in strong mode. */
static lh_status scale_fits(lhi_scale_study *s, int attention)
{
    lh_status st = LH_OK;
    for (int r = 0; r < s->ranks.count; r++) {
        int64_t index[LHI_SCALE_LIST] = {0};
        for (int l = 0; l < s->lengths.count; l++)
            LH_TRY(lhi_scale_get(s, attention, s->ranks.item[r], s->lengths.item[l], &index[l]));
        st = lh_comm_rank(s->world) == 0 ? scale_fit(s, index, s->lengths.count) : LH_OK;
        LH_TRY(lh_agree(s->world, st));
    }
done:
    return st;
}

/* --- the whole --- */

/* One mode at one length over all numbers of ranks. */
static lh_status scale_series(lhi_scale_study *s, int attention, int64_t n, bool weak)
{
    lh_status st = LH_OK;
    int64_t first = 0, index = 0;
    for (int r = 0; r < s->ranks.count; r++) {
        int64_t length = weak ? n * s->ranks.item[r] / s->ranks.item[0] : n;
        LH_TRY(lhi_scale_get(s, attention, s->ranks.item[r], length, &index));
        if (r == 0) first = index;
        if (lh_comm_rank(s->world) == 0)
            st = scale_print(s, weak ? "weak" : "strong", s->point + index, s->point + first);
        LH_TRY(lh_agree(s->world, st));
    }
done:
    return st;
}

/* The file's own length. Collective on the world. */
static lh_status scale_length(lhi_scale_study *s)
{
    lh_status st = LH_OK;
    lh_config *config = NULL;
    const lh_config_source source = {.read = lh_read_small,
                                     .path = s->o->file,
                                     .overrides = s->o->overrides.word,
                                     .n_overrides = s->o->overrides.count,
                                     .flags = LH_CONFIG_PLAN};
    LH_TRY(lh_step_times_config(s->world, &source, &config));
    s->lengths = (lhi_scale_list){.item = {config->data.length}, .count = 1};
done:
    lh_config_destroy(&config);
    return st;
}

static lh_status scale_run(lhi_scale_study *s)
{
    lh_status st = LH_OK;
    int attentions = s->o->attention.count > 0 ? s->o->attention.count : 1;
    if (s->lengths.count == 0) LH_TRY(scale_length(s));
    if (s->o->out != NULL) LH_TRY(lhi_scale_open(s));
    for (int a = 0; a < attentions; a++) {
        for (int l = 0; l < s->lengths.count; l++) {
            const int64_t n = s->lengths.item[l];
            if (s->strong) LH_TRY(scale_series(s, a, n, false));
            if (s->weak) LH_TRY(scale_series(s, a, n, true));
        }
        if (s->lengths.count > 1 && s->strong) LH_TRY(scale_fits(s, a));
    }
done:
    return st;
}

/* What is put into the experiment has room there; in a file a point stands once. */
static lh_status scale_check_words(const lhi_scale_study *s)
{
    lh_status st = LH_OK;
    const lh_option_words *a = &s->o->attention;
    LH_CHECK(s->o->overrides.count + 2 <= LH_OPTION_MANY, LH_ERR_USAGE, "%s: too many --set",
             s->kind->command);
    for (int i = 0; i < a->count; i++) {
        LH_CHECK(strlen(a->word[i]) < LHI_SCALE_WORD, LH_ERR_USAGE,
                 "%s: --attention '%.40s...' is too long", s->kind->command, a->word[i]);
        for (int k = 0; k < i && s->o->out != NULL; k++)
            LH_CHECK(strcmp(a->word[i], a->word[k]) != 0, LH_ERR_USAGE,
                     "%s: --attention '%s' is given twice, and with --out each is measured once",
                     s->kind->command, a->word[i]);
    }
done:
    return st;
}

static lh_status scale_read(lhi_scale_study *s, lhi_scale_options *o, int argc, char **argv)
{
    lh_status st = LH_OK;
    lh_options options = {.command = s->kind->command,
                          .table = scale_table,
                          .into = o,
                          .name = &o->file,
                          .max_names = 1};
    int world = lh_comm_size(s->world);
    LH_TRY(lh_options_read(&options, argc, argv));
    LH_CHECK(o->file != NULL && o->ranks != NULL, LH_ERR_USAGE,
             "'%s' wants an experiment file and numbers of ranks: %s FILE.yaml --ranks 1,2,4,8",
             s->kind->command, s->kind->example);
    s->strong = o->mode == NULL || strcmp(o->mode, "weak") != 0;
    s->weak = o->mode == NULL || strcmp(o->mode, "strong") != 0;
    LH_CHECK(!s->strong || !s->weak || o->mode == NULL || strcmp(o->mode, "both") == 0,
             LH_ERR_USAGE, "%s: --mode '%s': expected strong, weak or both", s->kind->command,
             o->mode);
    LH_TRY(scale_read_list(s->kind->command, "--ranks", o->ranks, INT32_MAX, &s->ranks));
    LH_CHECK(s->ranks.item[s->ranks.count - 1] <= world, LH_ERR_USAGE,
             "%s: --ranks %s, but the job has %d: start it with mpirun -n %" PRId64,
             s->kind->command, o->ranks, world, s->ranks.item[s->ranks.count - 1]);
    if (o->lengths != NULL)
        LH_TRY(
            scale_read_list(s->kind->command, "--lengths", o->lengths, INT32_MAX - 1, &s->lengths));
    LH_TRY(scale_check_words(s));
done:
    return st;
}

lh_status lh_scale_run(lh_comm *world, int argc, char **argv, const lh_scale_kind *kind)
{
    lh_status st = LH_OK;
    lhi_scale_options o = {.repeats = kind->repeats, .warmup = kind->warmup};
    lhi_scale_study s = {.world = world, .kind = kind, .o = &o};
    LH_TRY(lh_agree(world, scale_read(&s, &o, argc, argv)));
    LH_TRY(scale_run(&s));
done:
    for (int64_t i = 0; i < s.points; i++) lh_json_release(&s.point[i].own);
    lh_scale_file_close(&s.file);
    lh_free(&s.point);
    lh_json_free(&s.json);
    return st;
}

lh_status lh_scale_main(lh_comm *world, int argc, char **argv)
{
    const lh_scale_kind kind = {.command = "longhaul scale",
                                .example = "mpirun -n 8 longhaul scale",
                                .repeats = 5,
                                .warmup = 2};
    return lh_scale_run(world, argc, argv, &kind);
}
