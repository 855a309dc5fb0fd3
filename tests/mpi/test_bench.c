/* longhaul bench and scale: they run on any number of ranks, print one line per case with every field, and refuse what they should. Speed is never asserted: tests run on busy machines. */
#include "experiments/bench.h"
#include "experiments/scale.h"
#include "tests/lh_test_mpi.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { OUTPUT = 32768, ARGUMENTS = 40, WORDS = 512 };

static const char *const fields[] = {"mechanism",
                                     "n",
                                     "ranks",
                                     "threads",
                                     "batch",
                                     "heads",
                                     "kv_heads",
                                     "head_dim",
                                     "causal",
                                     "window",
                                     "forward_s",
                                     "backward_s",
                                     "gflops_forward",
                                     "gflops_backward",
                                     "gemm_gflops",
                                     "ratio_forward",
                                     "ratio_backward",
                                     "peak_bytes",
                                     "sent_bytes",
                                     "predicted_sent_bytes",
                                     "isa",
                                     "layout",
                                     "ulysses",
                                     "relative",
                                     "precision",
                                     "ratio",
                                     "comm_wait_s"};

/* A command with what it prints in text (rank 0; empty elsewhere). words: arguments separated by
 * blanks. */
static lh_status run_command(lh_comm *c, lh_status (*command)(lh_comm *, int, char **),
                             const char *words, char text[OUTPUT])
{
    char copy[WORDS];
    char *argv[ARGUMENTS];
    int argc = 0;
    (void)snprintf(copy, sizeof copy, "%s", words);
    for (char *w = strtok(copy, " "); w != NULL && argc < ARGUMENTS; w = strtok(NULL, " "))
        argv[argc++] = w;
    text[0] = '\0';
    (void)fflush(stdout);
    FILE *file = tmpfile();
    int terminal = dup(STDOUT_FILENO);
    bool ready = file != NULL && terminal >= 0 && dup2(fileno(file), STDOUT_FILENO) >= 0;
    lh_status st = command(c, argc, argv);
    (void)fflush(stdout);
    ready = ready && dup2(terminal, STDOUT_FILENO) >= 0;
    if (terminal >= 0) (void)close(terminal);
    if (ready) {
        rewind(file);
        text[fread(text, 1, OUTPUT - 1, file)] = '\0';
    }
    if (file != NULL) (void)fclose(file);
    lh_assert_all(c, ready);
    return st;
}

static lh_status run_bench(lh_comm *c, const char *words, char text[OUTPUT])
{
    return run_command(c, lh_bench_main, words, text);
}

/* The text after "name": of a line; "" when the field is missing. */
static const char *field(const char *line, const char *name)
{
    char key[64];
    (void)snprintf(key, sizeof key, "\"%s\":", name);
    const char *at = strstr(line, key);
    return at != NULL ? at + strlen(key) : "";
}

static bool field_is(const char *line, const char *name, const char *value)
{
    const char *at = field(line, name);
    size_t n = strlen(value);
    return strncmp(at, value, n) == 0 && (at[n] == ',' || at[n] == '}');
}

static double number(const char *line, const char *name)
{
    double value = -1.0;
    return sscanf(field(line, name), "%lf", &value) == 1 ? value : -1.0;
}

/* One line with all fields, its numbers positive, and as many bytes sent as predicted. */
static bool line_holds(const char *line, int ranks)
{
    static const char *const positive[] = {"forward_s",      "backward_s",    "gflops_forward",
                                           "gemm_gflops",    "ratio_forward", "gflops_backward",
                                           "ratio_backward", "peak_bytes"};
    bool ok = line[0] == '{' && strchr(line, '\n') != NULL && strchr(line, '\n')[1] == '\0';
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        bool there = field(line, fields[i])[0] != '\0';
        if (!there) print_error("field %s is missing\n", fields[i]);
        ok = ok && there;
    }
    for (size_t i = 0; i < sizeof positive / sizeof positive[0]; i++)
        ok = ok && number(line, positive[i]) > 0.0;
    ok = ok && number(line, "ranks") == ranks;
    ok = ok && number(line, "sent_bytes") == number(line, "predicted_sent_bytes");
    return ok && (number(line, "sent_bytes") == 0.0) == (ranks == 1);
}

static void test_bench_full(void **state)
{
    lh_comm *c = *state;
    char text[OUTPUT];
    bool first = lh_comm_rank(c) == 0;
    lh_assert_all_ok(c, run_bench(c, "attention --mechanism full --n 1100 --repeats 1", text));
    lh_assert_all(c, first ? line_holds(text, lh_comm_size(c)) : text[0] == '\0');
    lh_assert_all(c, !first || (field_is(text, "window", "null") && field_is(text, "n", "1100") &&
                                field_is(text, "causal", "false")));
}

/* By heads: 3 query heads on any number of ranks. */
static void test_bench_by_heads(void **state)
{
    lh_comm *c = *state;
    char text[OUTPUT];
    bool first = lh_comm_rank(c) == 0;
    const char *words = "attention --n 1100 --heads 3 --kv-heads 1 --head-dim 16 --repeats 1 "
                        "--ulysses 0";
    lh_assert_all_ok(c, run_bench(c, words, text));
    lh_assert_all(c, first ? line_holds(text, lh_comm_size(c)) : text[0] == '\0');
    lh_assert_all(c, !first || number(text, "ulysses") == lh_comm_size(c));
    lh_assert_all_code(c, run_bench(c, "attention --mechanism performer --ulysses 2", text),
                       LH_ERR_USAGE);
    lh_assert_all_code(c, run_bench(c, "attention --ulysses 99", text), LH_ERR_USAGE);
    lh_error_clear();
}

static void test_bench_window(void **state)
{
    lh_comm *c = *state;
    char text[OUTPUT];
    bool first = lh_comm_rank(c) == 0;
    const char *words = "attention --window=96 --causal --n 1100 --heads 4 --kv-heads 2 --batch 2 "
                        "--head-dim 16 --threads 2 --repeats 2 --isa portable --relative";
    /* of the pattern alone: 2 sequences, 4 heads, 4 x 16 flops a score */
    const double scores = 97.0 * 1100.0 - 96.0 * 97.0 / 2.0;
    const double pattern = 2.0 * 4.0 * 4.0 * 16.0 * scores;
    lh_assert_all_ok(c, run_bench(c, words, text));
    lh_assert_all(c, first ? line_holds(text, lh_comm_size(c)) : text[0] == '\0');
    lh_assert_all(c, !first ||
                         (field_is(text, "mechanism", "\"sliding_window\"") &&
                          field_is(text, "window", "96") && field_is(text, "causal", "true") &&
                          field_is(text, "heads", "4") && field_is(text, "kv_heads", "2") &&
                          field_is(text, "batch", "2") && field_is(text, "head_dim", "16") &&
                          field_is(text, "threads", "2") && field_is(text, "isa", "\"portable\"")));
    /* relative positions make half as much work again, and have a table to project */
    double work = 1e9 * number(text, "gflops_forward") * number(text, "forward_s");
    lh_assert_all(c, !first || (work > 1.5 * pattern && work < 3.0 * pattern));
}

/* --- training steps --- */

static const char *const step_fields[] = {"kind",
                                          "layers",
                                          "width",
                                          "heads",
                                          "n",
                                          "batch",
                                          "parameters",
                                          "ranks",
                                          "threads",
                                          "isa",
                                          "precision",
                                          "recompute",
                                          "repeats",
                                          "step_s",
                                          "step_s_least",
                                          "step_s_mean",
                                          "tokens_per_s",
                                          "model_flops",
                                          "step_flops",
                                          "predicted_flops",
                                          "gflops",
                                          "gemm_gflops",
                                          "ratio",
                                          "comm_wait_s",
                                          "comm_wait_max_s",
                                          "comm_wait_share",
                                          "peak_bytes",
                                          "predicted_peak_bytes",
                                          "rss_peak_bytes",
                                          "sent_bytes",
                                          "predicted_sent_bytes",
                                          "operations",
                                          "parameter_bytes",
                                          "rss_start_bytes"};

/* What an operation of a step's line says, from its name on; "" when it is not there. */
static const char *operation(const char *line, const char *name, const char *direction)
{
    char wanted[96];
    (void)snprintf(wanted, sizeof wanted, "\"name\":\"%s\",\"direction\":\"%s\"", name, direction);
    const char *at = strstr(line, wanted);
    if (at == NULL) print_error("operation %s, %s is missing\n", name, direction);
    return at != NULL ? at : "";
}

/* The shares of all operations together. */
static double shares(const char *line)
{
    double sum = 0.0;
    for (const char *at = strstr(line, "\"share\":"); at != NULL; at = strstr(at + 1, "\"share\":"))
        sum += number(at, "share");
    return sum;
}

static bool step_holds(const char *line, int ranks, bool again)
{
    static const char *const besides[] = {"data",          "zero_gradients", "gradient_reduction",
                                          "gradient_norm", "optimizer",      "messages",
                                          "other"};
    bool ok = line[0] == '{' && strchr(line, '\n') != NULL && strchr(line, '\n')[1] == '\0';
    for (size_t i = 0; i < sizeof step_fields / sizeof step_fields[0]; i++) {
        bool there = field(line, step_fields[i])[0] != '\0';
        if (!there) print_error("field %s is missing\n", step_fields[i]);
        ok = ok && there;
    }
    for (size_t i = 0; i < sizeof besides / sizeof besides[0]; i++)
        ok = ok && operation(line, besides[i], "step")[0] != '\0';
    ok = ok && number(operation(line, "mlp", "forward"), "gflops") > 0.0;
    ok = ok && number(operation(line, "attend", "backward"), "seconds") > 0.0;
    /* what norms make is made again in any case */
    ok = ok && (strstr(line, "\"name\":\"linear\",\"direction\":\"recompute\"") != NULL) == again;
    ok = ok && number(line, "ratio") > 0.0 && number(line, "rss_peak_bytes") > 0.0;
    ok = ok && number(line, "ranks") == ranks && fabs(shares(line) - 1.0) < 1e-6;
    ok = ok && number(line, "sent_bytes") == number(line, "predicted_sent_bytes");
    ok = ok && (number(line, "sent_bytes") == 0.0) == (ranks == 1);
    ok = ok && number(line, "peak_bytes") == number(line, "predicted_peak_bytes");
    ok = ok && number(line, "step_flops") == number(line, "predicted_flops");
    return ok && (number(line, "model_flops") < number(line, "step_flops")) == again;
}

#define STEP_SMALL                                                                                 \
    "--repeats 1 --warmup 0 --products 1 --set model.layers=2 --set model.width=32 --set "         \
    "model.heads=2 "                                                                               \
    "--set data.length=300 --set mesh.chunk=64 "

static void test_bench_step(void **state)
{
    static const struct {
        const char *words;
        bool again;
    } steps[] = {
        {"step " STEP_SMALL "--set train.recompute=block --set mesh.layout=zigzag "
         "--set data.documents=10 --set data.batch=2 --set train.accumulate=2",
         true},
        {"step " STEP_SMALL "--set data.task=masked_tokens --set model.kind=encoder "
         "--set model.vocab=300 --set data.path=nowhere.h5",
         false},
    };
    lh_comm *c = *state;
    char text[OUTPUT];
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        lh_assert_all_ok(c, run_bench(c, steps[i].words, text));
        bool ok = lh_comm_rank(c) == 0 ? step_holds(text, lh_comm_size(c), steps[i].again)
                                       : text[0] == '\0';
        if (!ok) print_error("%s\n", text);
        lh_assert_all(c, ok);
    }
}

/* --- exchanges --- */

static const char *const exchange_fields[] = {"mechanism",  "n",           "ranks",
                                              "threads",    "batch",       "heads",
                                              "kv_heads",   "head_dim",    "causal",
                                              "layout",     "ulysses",     "window",
                                              "isa",        "precision",   "forward_s",
                                              "backward_s", "comm_wait_s", "sent_bytes",
                                              "messages",   "mb_per_s",    "predicted_sent_bytes"};

/* All that one line of bench exchange promises; moves: bytes travel in it. */
static bool exchange_holds(const char *line, int ranks)
{
    bool sizes = field_is(line, "case", "\"message\"") || field_is(line, "case", "\"all_reduce\"");
    bool ok = field(line, "case")[0] != '\0' && number(line, "ranks") == ranks;
    for (size_t i = 0; i < sizeof exchange_fields / sizeof exchange_fields[0] && !sizes; i++)
        ok = ok && field(line, exchange_fields[i])[0] != '\0';
    if (sizes) ok = ok && number(line, "seconds") > 0.0 && number(line, "bytes") >= 8.0;
    if (ranks > 1) ok = ok && number(line, "mb_per_s") > 0.0 && number(line, "messages") > 0.0;
    ok = ok && number(line, "sent_bytes") == number(line, "predicted_sent_bytes");
    return ok && (number(line, "sent_bytes") == 0.0) == (ranks == 1);
}

static void test_bench_exchange(void **state)
{
    lh_comm *c = *state;
    char text[OUTPUT];
    int lines = 0;
    bool ok = true;
    lh_assert_all_ok(c, run_bench(c,
                                  "exchange --n 1200 --window 40 --heads 4 --kv-heads 4 "
                                  "--head-dim 8 --bytes 4096 --repeats 1",
                                  text));
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        bool holds = exchange_holds(line, lh_comm_size(c));
        if (!holds) print_error("%s\n", line);
        ok = ok && holds;
        lines++;
    }
    /* 14 of mechanisms; 8, 128, 2048 bytes as messages and sums */
    lh_assert_all(c, ok);
    lh_assert_all(c, lines == (lh_comm_rank(c) > 0 ? 0 : lh_comm_size(c) == 1 ? 14 : 20));
}

/* --- random features --- */

/* The line after the one in which `arm` or `kernel` is this; "" when there is none. */
static const char *features_line(const char *text, const char *name, const char *value)
{
    char wanted[96];
    (void)snprintf(wanted, sizeof wanted, "\"%s\":\"%s\"", name, value);
    const char *at = strstr(text, wanted);
    return at != NULL ? at : "";
}

/* Six estimators and four kernels; errors that the theory gives, within the noise of few draws. */
static void test_bench_features(void **state)
{
    lh_comm *c = *state;
    char text[OUTPUT];
    lh_assert_all_ok(
        c, run_bench(c, "features --n 48 --features 32 --draws 20 --kernel-draws 16384", text));
    double trig = number(features_line(text, "arm", "trig iid"), "mse");
    double positive = number(features_line(text, "arm", "positive iid"), "mse");
    double regularised = number(features_line(text, "arm", "regularised orthogonal"), "mse");
    const char *kernel = features_line(text, "kernel", "hyperbolic iid");
    double formula = number(kernel, "formula");
    bool first = lh_comm_rank(c) == 0;
    lh_assert_all(c, !first || (trig > 0.0 && trig > positive && positive > regularised &&
                                regularised > 0.0));
    lh_assert_all(c, !first || fabs(number(kernel, "mse") - formula) < 0.2 * formula);
    lh_assert_all(c, first || text[0] == '\0');
    lh_assert_all_code(c, lh_bench_main(c, 3, (char *[]){"features", "--features", "3"}),
                       LH_ERR_USAGE);
    lh_error_clear();
}

/* --- scaling --- */

static const char scale_file[] = "run: {name: scale}\n"
                                 "mesh: {chunk: 16}\n"
                                 "data: {task: text, path: nowhere.txt, length: 96}\n"
                                 "model: {layers: 1, width: 16, heads: 2, attention: {mechanism: "
                                 "sliding_window, window: 20}}\n"
                                 "device: {threads: 1}\n";

/* Rank 0 writes the experiment file; its name, or NULL. Nobody goes on before it is there. */
static const char *scale_write(lh_comm *c, char name[64])
{
    bool ok = true;
    (void)snprintf(name, 64, "scale-np%d.yaml", lh_comm_size(c));
    if (lh_comm_rank(c) == 0) {
        FILE *file = fopen(name, "w");
        ok = file != NULL && fputs(scale_file, file) >= 0;
        ok = file != NULL && fclose(file) == 0 && ok;
    }
    lh_barrier(c);
    return ok ? name : NULL;
}

/* A point: everything that is promised for it. */
static bool point_holds(const char *line, int ranks, const char *mode, double n)
{
    static const char *const positive[] = {"step_s",     "step_s_least", "step_s_mean",
                                           "efficiency", "tokens_per_s", "peak_bytes",
                                           "parameters", "model_flops",  "parameter_bytes"};
    bool ok = number(line, "ranks") == ranks && field_is(line, "mode", mode);
    for (size_t i = 0; i < sizeof positive / sizeof positive[0]; i++)
        ok = ok && number(line, positive[i]) > 0.0;
    ok = ok && number(line, "n") == n && number(line, "repeats") == 2;
    ok = ok && number(line, "step_s_least") <= number(line, "step_s");
    ok = ok && number(line, "comm_wait_s") >= 0.0 && field(line, "seconds")[0] == '[';
    ok = ok && number(line, "sent_bytes") == number(line, "predicted_sent_bytes");
    ok = ok && (number(line, "sent_bytes") == 0.0) == (ranks == 1);
    return ok && number(line, "peak_bytes") == number(line, "predicted_peak_bytes");
}

/* Strong and weak on 1 .. P ranks at two lengths, and the fits: what must come, line by line. */
static bool study_holds(const char *text, int ranks)
{
    const char *line = text;
    bool ok = true;
    for (int l = 1; l <= 2; l++)
        for (int weak = 0; weak < 2; weak++)
            for (int p = 1; p <= ranks && ok; p++) {
                const double n = 96.0 * l * (weak ? p : 1);
                ok = point_holds(line, p, weak ? "\"weak\"" : "\"strong\"", n);
                ok = ok && (p > 1 || number(line, "efficiency") == 1.0);
                ok = ok && field_is(line, "mechanism", "\"full\"") &&
                     field_is(line, "attention", "\"full\"");
                line = strchr(line, '\n');
                ok = ok && line != NULL;
                if (ok) line++;
            }
    for (int p = 1; p <= ranks && ok; p++) {
        ok = field(line, "fit")[0] != '\0' && number(line, "ranks") == p &&
             number(line, "samples") == 4 && number(line, "lengths") == 2;
        ok = ok && number(line, "low") <= number(line, "exponent") &&
             number(line, "exponent") <= number(line, "high");
        line = strchr(line, '\n');
        ok = ok && line != NULL;
        if (ok) line++;
    }
    return ok && *line == '\0';
}

/* The text of a field, up to the next comma. */
static bool field_same(const char *a, const char *b, const char *name)
{
    size_t n = strcspn(field(a, name), ",}");
    return n > 0 && strncmp(field(a, name), field(b, name), n + 1) == 0;
}

/* The same study twice: the same losses, bytes and memory. A study without labels: forward passes alone. */
static void test_scale_again(void **state)
{
    static const char *const list[] = {"1", "2", "3"};
    static const char *const kept[] = {"loss", "sent_bytes", "peak_bytes", "model_flops"};
    lh_comm *c = *state;
    char text[2][OUTPUT], words[WORDS], name[64];
    int ranks = lh_comm_size(c);
    bool ok = true;
    lh_assert_all(c, ranks <= 3 && scale_write(c, name) != NULL);
    for (int i = 0; i < 3; i++) {
        const char *more = i < 2 ? ""
                                 : " --set model.head=none --set data.batch=2 --set "
                                   "train.accumulate=2";
        (void)snprintf(words, sizeof words, "%s --ranks %s --mode strong --repeats 2%s", name,
                       list[ranks - 1], more);
        lh_assert_all_ok(c, run_command(c, lh_scale_main, words, text[i > 0]));
        if (lh_comm_rank(c) > 0 || i == 0) continue;
        ok = ok && point_holds(text[1], ranks, "\"strong\"", 96.0);
        for (size_t k = 0; k < sizeof kept / sizeof kept[0] && i == 1; k++)
            ok = ok && field_same(text[0], text[1], kept[k]);
        ok = ok && (number(text[1], "loss") > 0.0) == (i == 1) && number(text[1], "batch") == 1.0;
        ok = ok && field_is(text[1], "pass", i == 1 ? "\"step\"" : "\"forward\"");
        /* neither gradients nor moments, less than a third of the work */
        ok = ok && (i == 1 ||
                    4.0 * number(text[1], "parameter_bytes") == number(text[0], "parameter_bytes"));
        ok =
            ok && (i == 1 || number(text[1], "model_flops") < number(text[0], "model_flops") / 3.0);
    }
    if (!ok) print_error("%s%s\n", text[0], text[1]);
    lh_assert_all(c, ok);
    if (lh_comm_rank(c) == 0) (void)remove(name);
}

static void test_scale(void **state)
{
    lh_comm *c = *state;
    char text[OUTPUT], words[WORDS], name[64];
    static const char *const list[] = {"1", "1,2", "1,2,3"};
    int ranks = lh_comm_size(c);
    lh_assert_all(c, ranks <= 3 && scale_write(c, name) != NULL);
    (void)snprintf(words, sizeof words,
                   "%s --ranks %s --lengths 96,192 --attention full --repeats 2 --warmup 0", name,
                   list[ranks - 1]);
    lh_assert_all_ok(c, run_command(c, lh_scale_main, words, text));
    bool ok = lh_comm_rank(c) == 0 ? study_holds(text, ranks) : text[0] == '\0';
    if (!ok) print_error("%s\n", text);
    lh_assert_all(c, ok);
    /* the file's own mechanism and length, fewer ranks than there are */
    (void)snprintf(words, sizeof words, "%s --ranks 1 --mode strong --repeats 2", name);
    lh_assert_all_ok(c, run_command(c, lh_scale_main, words, text));
    ok = lh_comm_rank(c) > 0 ||
         (point_holds(text, 1, "\"strong\"", 96.0) &&
          field_is(text, "mechanism", "\"sliding_window\"") && field_is(text, "attention", "null"));
    lh_assert_all(c, ok);
    if (lh_comm_rank(c) == 0) (void)remove(name);
}

static void test_scale_refuses(void **state)
{
    static const struct {
        const char *words, *says;
    } wrong[] = {
        {"", "wants an experiment file"},
        {"--ranks 1", "wants an experiment file"},
        {"nowhere.yaml --ranks 1", "cannot read 'nowhere.yaml'"},
        {"F --ranks 1,x", "--ranks '1,x'"},
        {"F --ranks 1,1", "must ascend"},
        {"F --ranks 0", "from 1 to"},
        {"F --ranks 64", "start it with mpirun -n 64"},
        {"F --ranks 1 --lengths 4g", "--lengths '4g'"},
        {"F --ranks 1 --lengths 99999999999m", "--lengths"},
        {"F --ranks 1 --mode strange", "expected strong, weak or both"},
        {"F --ranks 1 --attention fulll", "did you mean 'full'"},
        {"F --ranks 1 --set model.widht=3", "did you mean 'width'"},
        {"F --ranks 1 --range 1", "unknown option '--range'"},
    };
    lh_comm *c = *state;
    char text[OUTPUT], words[WORDS], name[64];
    lh_assert_all(c, scale_write(c, name) != NULL);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        bool file = wrong[i].words[0] == 'F';
        (void)snprintf(words, sizeof words, "%s%s", file ? name : "", wrong[i].words + file);
        lh_assert_all_code(c, run_command(c, lh_scale_main, words, text), LH_ERR_USAGE);
        bool says = strstr(lh_error_text(), wrong[i].says) != NULL;
        if (!says) print_error("'%s': %s\n", wrong[i].words, lh_error_text());
        lh_assert_all(c, says && text[0] == '\0');
    }
    lh_error_clear();
    if (lh_comm_rank(c) == 0) (void)remove(name);
}

static void test_bench_refuses(void **state)
{
    static const struct {
        const char *words, *says;
    } wrong[] = {
        {"", "attention"},
        {"stepp", "did you mean 'step'"},
        {"step a.yaml b.yaml", "takes one name"},
        {"step nowhere.yaml", "cannot read 'nowhere.yaml'"},
        {"step --set data.task=tokens", "key 'model.vocab' is missing"},
        {"step --set model.layer=3", "did you mean 'layers'"},
        {"exchange --heads 3 --kv-heads 2", "does not divide"},
        {"exchange --bytes 7", "--bytes: expected an integer from 8"},
        {"attention --lenght 3", "unknown option '--lenght'"},
        {"attention --n", "--n: expected an integer from 1 to 1099511627776, got nothing"},
        {"attention --n 0", "'0'"},
        {"attention --n 12x", "'12x'"},
        {"attention --causal=2", "0 or 1"},
        {"attention --layout zigzig", "contiguous or zigzag"},
        {"attention --mechanism fool", "did you mean 'full'"},
        {"attention --mechanism full --window 3", "has no setting 'window'"},
        {"attention --mechanism sliding_window --set windo=3", "did you mean 'window'"},
        {"attention --heads 3 --kv-heads 2", "does not divide"},
        {"attention --n 1099511627776 --batch 1000000", "too many"},
    };
    lh_comm *c = *state;
    char text[OUTPUT];
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        lh_status st = run_bench(c, wrong[i].words, text);
        lh_assert_all_code(c, st, LH_ERR_USAGE);
        bool says = strstr(lh_error_text(), wrong[i].says) != NULL;
        if (!says) print_error("'%s': %s\n", wrong[i].words, lh_error_text());
        lh_assert_all(c, says && text[0] == '\0');
    }
    lh_assert_all_code(c, run_bench(c, "attention --n 8 --isa z80", text), LH_ERR_UNSUP);
    lh_error_clear();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bench_full),     cmocka_unit_test(test_bench_window),
        cmocka_unit_test(test_bench_by_heads), cmocka_unit_test(test_bench_features),
        cmocka_unit_test(test_bench_step),     cmocka_unit_test(test_bench_exchange),
        cmocka_unit_test(test_bench_refuses),  cmocka_unit_test(test_scale),
        cmocka_unit_test(test_scale_again),    cmocka_unit_test(test_scale_refuses),
    };
    return lh_test_mpi_main(argc, argv, "bench", tests, sizeof tests / sizeof tests[0]);
}
