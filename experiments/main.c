/* longhaul: the program. Exit codes: 0 success, 1 the run failed, 2 bad usage or configuration, 75
 * stopped on request with a checkpoint written. Standard output carries results, standard error
 * progress and messages. */
#define _POSIX_C_SOURCE 200809L /* sigaction */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/bench.h"
#include "experiments/convert.h"
#include "experiments/plan_command.h"
#include "experiments/train.h"
#include "io/files.h"
#include "io/settings_fill.h"

enum { EXIT_RUN_FAILED = 1, EXIT_BAD_USAGE = 2, EXIT_STOPPED = 75, MAIN_OVERRIDES = 256 };
enum { MAIN_RANKS = 1 << 20 }; /* --ranks, at most */

/* The one mutable global: set by a signal, read between steps. */
static volatile sig_atomic_t main_stop;

static void main_on_signal(int signal)
{
    (void)signal;
    main_stop = 1;
}

static void main_catch_signals(void)
{
    const int signals[] = {SIGUSR1, SIGTERM, SIGINT};
    struct sigaction action = {.sa_handler = main_on_signal};
    (void)sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        /* asked a second time to terminate, the process does so at once */
        action.sa_flags = signals[i] == SIGUSR1 ? SA_RESTART : SA_RESTART | (int)SA_RESETHAND;
        (void)sigaction(signals[i], &action, NULL);
    }
    action.sa_flags = 0;
    /* a file-size limit becomes a write error with a message instead of a dead process */
    action.sa_handler = SIG_IGN;
    (void)sigaction(SIGXFSZ, &action, NULL);
}

typedef struct main_options {
    const char *target; /* FILE.yaml or RUN_DIR */
    const char *overrides[MAIN_OVERRIDES];
    int n_overrides;
    bool resume;
    int64_t ranks; /* of plan; 0: not given */
    bool json;
} main_options;

static void main_help(FILE *out)
{
    (void)fprintf(
        out,
        "longhaul %s: long-sequence transformers, their sequence sharded over MPI ranks\n\n"
        "  longhaul train FILE.yaml [--set KEY=VALUE]... [--resume]   train; --resume goes on from "
        "the\n"
        "                                                             newest good checkpoint\n"
        "  longhaul eval  RUN_DIR   [--set KEY=VALUE]...              loss, bits per byte, "
        "accuracy\n"
        "  longhaul bench attention|features [options]                one JSON object per measured "
        "case\n"
        "  longhaul plan  FILE.yaml [--ranks P] [--json]              what a step costs, without "
        "running it\n"
        "  longhaul convert CHECKPOINT --kv-heads G --out NEW.h5      a trained model with fewer "
        "key/value\n"
        "                                                             heads\n"
        "  longhaul COMMAND --help                                    more about a command\n"
        "  longhaul --version\n\n"
        "Start train, eval and bench under mpirun -n P or srun; the sequence is spread over all "
        "ranks.\n"
        "plan and convert run alone.\n"
        "Exit codes: 0 success, 1 the run failed, 2 bad usage or configuration, 75 stopped on "
        "request\n"
        "with a checkpoint written.\n",
        LH_VERSION);
}

static void main_command_help(const char *command)
{
    if (strcmp(command, "bench") == 0) {
        lh_bench_help(stdout);
        return;
    }
    if (strcmp(command, "plan") == 0) {
        lh_plan_help(stdout);
        return;
    }
    if (strcmp(command, "convert") == 0) {
        lh_convert_help(stdout);
        return;
    }
    if (strcmp(command, "eval") == 0) {
        (void)printf(
            "longhaul eval RUN_DIR [--set KEY=VALUE]...\n\n"
            "Evaluates the newest good checkpoint of a run on its validation part, and on\n"
            "data.test_path if that is given: one JSON object per part. train.eval_tokens=0\n"
            "means the whole part. --set changes any key of the saved configuration.\n");
        return;
    }
    if (strcmp(command, "train") != 0) {
        main_help(stdout);
        return;
    }
    (void)printf(
        "longhaul train FILE.yaml [--set KEY=VALUE]... [--resume]\n\n"
        "Trains what the file describes into the folder run.output/run.name: config.yaml,\n"
        "metrics.jsonl, checkpoints/, log.txt. SIGUSR1 (which mpirun passes on), SIGTERM or\n"
        "SIGINT to the ranks ends the run after the running step, with a checkpoint and\n"
        "exit code 75. The keys of the file:\n\n");
    lh_config_help(stdout);
}

/* --set KEY=VALUE or --set=KEY=VALUE at argument *i. */
static lh_status main_parse_set(int argc, char **argv, int *i, main_options *o)
{
    lh_status st = LH_OK;
    const char *value = argv[*i][5] == '=' ? argv[*i] + 6 : NULL;
    if (value == NULL && *i + 1 < argc) value = argv[++*i];
    LH_CHECK(value != NULL, LH_ERR_USAGE, "--set wants KEY=VALUE, such as --set train.log_every=1");
    LH_CHECK(o->n_overrides < MAIN_OVERRIDES, LH_ERR_USAGE, "more than %d --set", MAIN_OVERRIDES);
    o->overrides[o->n_overrides++] = value;
done:
    return st;
}

/* --ranks P or --ranks=P at argument *i. */
static lh_status main_parse_ranks(int argc, char **argv, int *i, main_options *o)
{
    lh_status st = LH_OK;
    const char *value = argv[*i][7] == '=' ? argv[*i] + 8 : NULL;
    char *end = NULL;
    if (value == NULL && *i + 1 < argc) value = argv[++*i];
    if (value != NULL) o->ranks = strtoll(value, &end, 10);
    LH_CHECK(value != NULL && end != value && *end == '\0' && o->ranks >= 1 &&
                 o->ranks <= MAIN_RANKS,
             LH_ERR_USAGE, "--ranks wants a number from 1 to %d, such as --ranks 64, not '%s'",
             MAIN_RANKS, value != NULL ? value : "");
done:
    return st;
}

static bool main_option(const char *word, const char *option)
{
    size_t n = strlen(option);
    return strncmp(word, option, n) == 0 && (word[n] == '=' || word[n] == '\0');
}

static lh_status main_parse_target(const char *command, const char *word, main_options *o)
{
    lh_status st = LH_OK;
    LH_CHECK(word[0] != '-', LH_ERR_USAGE,
             "unknown option '%s' of 'longhaul %s': see longhaul %s --help", word, command,
             command);
    LH_CHECK(o->target == NULL, LH_ERR_USAGE, "'longhaul %s' takes one name, but got '%s' and '%s'",
             command, o->target, word);
    o->target = word;
done:
    return st;
}

static lh_status main_parse(int argc, char **argv, main_options *o)
{
    lh_status st = LH_OK;
    const char *command = argv[1];
    bool plan = strcmp(command, "plan") == 0;
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--resume") == 0 && strcmp(command, "train") == 0)
            o->resume = true;
        else if (plan && strcmp(argv[i], "--json") == 0)
            o->json = true;
        else if (plan && main_option(argv[i], "--ranks"))
            LH_TRY(main_parse_ranks(argc, argv, &i, o));
        else if (main_option(argv[i], "--set"))
            LH_TRY(main_parse_set(argc, argv, &i, o));
        else
            LH_TRY(main_parse_target(command, argv[i], o));
    }
    LH_CHECK(o->target != NULL, LH_ERR_USAGE, "'longhaul %s' wants %s", command,
             strcmp(command, "train") == 0 ? "an experiment file: longhaul train FILE.yaml"
             : plan                        ? "an experiment file: longhaul plan FILE.yaml"
                                           : "a run folder: longhaul eval RUN_DIR");
done:
    return st;
}

/* Rank 0 loads the file and what it inherits from; all ranks then read the same resolved text. */
static lh_status main_config(lh_comm *world, const char *path, const main_options *o,
                             lh_config **out)
{
    lh_status st = LH_OK;
    lh_config *loaded = NULL;
    char *text = NULL;
    int64_t bytes = 0;
    lh_config_source source = {.read = lh_read_small,
                               .path = path,
                               .overrides = o->overrides,
                               .n_overrides = o->n_overrides};
    *out = NULL;
    if (lh_comm_rank(world) == 0) {
        st = lh_config_load(&source, &loaded);
        if (st == LH_OK) st = lh_config_emit(loaded, &text);
        if (st == LH_OK) bytes = (int64_t)strlen(text);
    }
    LH_TRY(lh_agree(world, st));
    lh_broadcast(world, &bytes, (int64_t)sizeof bytes, LH_SEND_OTHER);
    if (text == NULL) st = lh_new((size_t)bytes + 1, &text);
    LH_TRY(lh_agree(world, st));
    lh_broadcast(world, text, bytes, LH_SEND_OTHER);
    LH_TRY(lh_agree(world, lh_config_parse(text, (size_t)bytes, path, 0, out)));
done:
    lh_config_destroy(&loaded);
    lh_free(&text);
    return st;
}

static lh_status main_train(lh_comm *world, const main_options *o)
{
    lh_status st = LH_OK;
    lh_config *config = NULL;
    lh_train_result result;
    main_catch_signals();
    LH_TRY(main_config(world, o->target, o, &config));
    LH_TRY(lh_train(world, config, o->resume, &main_stop, &result));
    if (result.stopped) st = LH_ERR_STOPPED;
done:
    lh_config_destroy(&config);
    return st;
}

static lh_status main_eval(lh_comm *world, const main_options *o)
{
    lh_status st = LH_OK;
    lh_config *config = NULL;
    char path[LH_PATH_MAX];
    LH_TRY(lhi_path(path, o->target, "config.yaml"));
    LH_CHECK(lh_file_exists(world, path), LH_ERR_USAGE,
             "'%s' is no run folder: it has no config.yaml; give the folder that longhaul train "
             "made",
             o->target);
    LH_TRY(main_config(world, path, o, &config));
    LH_TRY(lh_evaluate(world, config, o->target));
done:
    lh_config_destroy(&config);
    return st;
}

/* Without MPI: one process plans for all ranks. */
static lh_status main_plan(const main_options *o)
{
    lh_status st = LH_OK;
    lh_config *config = NULL;
    lh_step_plan *plan = NULL;
    lh_config_source source = {.read = lh_read_small,
                               .path = o->target,
                               .overrides = o->overrides,
                               .n_overrides = o->n_overrides,
                               .flags = LH_CONFIG_PLAN};
    LH_TRY(lh_config_load(&source, &config));
    LH_TRY(
        lh_step_plan_create(config, o->ranks > 0 ? (int)o->ranks : (int)config->mesh.data, &plan));
    if (o->json)
        LH_TRY(lh_plan_json(plan, stdout));
    else
        lh_plan_table(plan, stdout);
done:
    lh_step_plan_destroy(&plan);
    lh_config_destroy(&config);
    return st;
}

static int main_exit_code(lh_status st)
{
    if (st == LH_OK) return EXIT_SUCCESS;
    if (st == LH_ERR_STOPPED) return EXIT_STOPPED;
    return st == LH_ERR_USAGE || st == LH_ERR_UNSUP ? EXIT_BAD_USAGE : EXIT_RUN_FAILED;
}

static void main_complain(lh_status st)
{
    if (st == LH_OK || st == LH_ERR_STOPPED) return;
    (void)fprintf(stderr, "longhaul: error: %s\n", lh_error_text());
    if (st == LH_ERR_BUG)
        (void)fprintf(stderr, "longhaul: internal error at %s\n", lh_error_where());
}

static lh_status main_unknown(const char *command)
{
    lh_words words = {.wrong = command};
    char hint[LH_WORDS_TEXT];
    lh_words_add(&words, "train|eval|bench|plan|convert");
    return LH_RAISE(LH_ERR_USAGE, "unknown command '%s': %s; see longhaul --help", command,
                    lh_words_hint(&words, "commands", hint, sizeof hint));
}

/* The arguments are the same on all ranks, and so is what they mean. */
static lh_status main_command(lh_comm *world, int argc, char **argv)
{
    main_options options = {0};
    lh_status st = LH_OK;
    if (strcmp(argv[1], "bench") == 0) return lh_bench_main(world, argc - 2, argv + 2);
    if (strcmp(argv[1], "train") != 0 && strcmp(argv[1], "eval") != 0) return main_unknown(argv[1]);
    LH_TRY(main_parse(argc, argv, &options));
    if (strcmp(argv[1], "train") == 0)
        LH_TRY(main_train(world, &options));
    else
        LH_TRY(main_eval(world, &options));
done:
    return st;
}

/* Results that did not reach standard output are an error, not a success. */
static lh_status main_flush(lh_status st)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return st;
    if (st != LH_OK && st != LH_ERR_STOPPED) return st;
    return LH_RAISE(LH_ERR_IO, "standard output cannot be written: is the disk full?");
}

static int main_run(int argc, char **argv)
{
    lh_comm *world = NULL;
    lh_status st = lh_init(&argc, &argv);
    if (st == LH_OK) st = lh_comm_world(&world);
    if (st == LH_OK) st = lh_agree(world, main_flush(main_command(world, argc, argv)));
    if (world == NULL || lh_comm_rank(world) == 0) main_complain(st);
    if (world != NULL) lh_comm_destroy(&world);
    lh_finalize();
    return main_exit_code(st);
}

/* Commands that run alone and never start MPI. */
static int main_run_alone(int argc, char **argv)
{
    main_options options = {0};
    lh_status st = LH_OK;
    if (strcmp(argv[1], "convert") == 0) {
        st = lh_convert_main(argc - 2, argv + 2);
    } else {
        st = main_parse(argc, argv, &options);
        if (st == LH_OK) st = main_plan(&options);
    }
    st = main_flush(st);
    main_complain(st);
    return main_exit_code(st);
}

static bool main_wants_help(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
    return false;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        main_help(stderr);
        return EXIT_BAD_USAGE;
    }
    if (argv[1][0] != '-' && main_wants_help(argc, argv)) {
        main_command_help(argv[1]);
        return EXIT_SUCCESS;
    }
    if (main_wants_help(argc, argv)) {
        main_help(stdout);
        return EXIT_SUCCESS;
    }
    if (strcmp(argv[1], "--version") == 0) {
        (void)printf("longhaul %s (%s)\n", LH_VERSION, LH_REAL_NAME);
        return EXIT_SUCCESS;
    }
    bool alone = strcmp(argv[1], "plan") == 0 || strcmp(argv[1], "convert") == 0;
    return alone ? main_run_alone(argc, argv) : main_run(argc, argv);
}
