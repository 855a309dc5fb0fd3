/* longhaul: the program. Exit codes: 0 success, 1 the run failed, 2 bad usage or configuration, 75
 * stopped on request with a checkpoint written. Standard output carries results, standard error
 * progress and messages. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/pulse.h"
#include "experiments/bench.h"
#include "experiments/convert.h"
#include "experiments/inspect.h"
#include "experiments/options.h"
#include "experiments/output.h"
#include "experiments/picture_svg.h"
#include "experiments/plan_command.h"
#include "experiments/plan_draw.h"
#include "experiments/prepare.h"
#include "experiments/process.h"
#include "experiments/report.h"
#include "experiments/run_status.h"
#include "experiments/scale.h"
#include "experiments/sweep_train.h"
#include "experiments/train.h"
#include "experiments/watchdog.h"
#include "io/files.h"
#include "io/settings_fill.h"

enum { EXIT_RUN_FAILED = 1, EXIT_BAD_USAGE = 2, EXIT_STOPPED = 75 };
enum { MAIN_MEMORY = 256 << 20 }; /* bytes that Open MPI maps on a node */

static void main_help(FILE *out)
{
    (void)fprintf(
        out,
        "longhaul %s: long-sequence transformers, their sequence sharded over MPI ranks\n\n"
        "  longhaul train FILE.yaml [--set KEY=VALUE]... [--resume]   train; --resume goes on from "
        "the\n"
        "                                                             newest good checkpoint\n"
        "  longhaul eval  RUN_DIR   [--set KEY=VALUE]...              loss, bits per byte "
        "or perplexity, accuracy\n"
        "  longhaul bench attention|step|exchange|features [options]  one JSON object per measured "
        "case\n"
        "  longhaul plan  FILE.yaml [--ranks P] [--json]              what a step costs, without "
        "running it\n"
        "                           [--draw OUT.svg]                  and a picture of its "
        "attention\n"
        "  longhaul scale FILE.yaml --ranks 1,2,4,8 [options]         strong and weak scaling in "
        "one "
        "launch\n"
        "  longhaul status RUN_DIR [--json]                           what a run, or a sweep, is "
        "doing\n"
        "  longhaul prepare TEXT --out DATA.h5 [--words] [--task T]   a token file of a text, a "
        "FASTA file,\n"
        "                                                             ListOps examples\n"
        "  longhaul inspect FILE.h5 [--json]                          lists and verifies a "
        "checkpoint or\n"
        "                                                             token file\n"
        "  longhaul report RUN_DIR... [--out page.html]               runs, sweeps and studies as "
        "one page\n"
        "  longhaul convert CHECKPOINT --kv-heads G --out NEW.h5      a trained model with fewer "
        "key/value\n"
        "                                                             heads\n"
        "  longhaul COMMAND --help                                    more about a command\n"
        "  longhaul --version\n\n"
        "Start train, eval, bench and scale under mpirun -n P or srun; the sequence is spread over "
        "all "
        "ranks.\n"
        "plan, status, report, prepare, inspect and convert run alone.\n"
        "Exit codes: 0 success, 1 the run failed, 2 bad usage or configuration, 75 stopped on "
        "request\n"
        "with a checkpoint written.\n",
        LH_VERSION);
}

static void main_help_train(FILE *out)
{
    (void)fprintf(
        out,
        "longhaul train FILE.yaml [--set KEY=VALUE]... [--resume] [--point K]\n\n"
        "Trains what the file describes into the folder run.output/run.name: config.yaml,\n"
        "metrics.jsonl, checkpoints/, log.txt. SIGUSR1 (which mpirun passes on), SIGTERM or\n"
        "SIGINT to the ranks, or train.time_limit, ends the run after the running step, with a\n"
        "checkpoint and exit code 75. --resume goes on from the newest checkpoint that is whole, "
        "on any ranks;\n"
        "keys that make another training of it (data, model, seed, ...) must be as they were,\n"
        "and those that are not are listed.\n\n"
        "A file with sweep: describes many runs, its points: all combinations of seeds, entries of "
        "the\n"
        "list and values of the grid, the last one fastest. They are checked before the first one "
        "starts,\n"
        "and run one after the other into run.output/0001, 0002, ...; sweep.json there says what "
        "they\n"
        "are. One JSON object on standard output for each point that has ended, a table on "
        "standard\n"
        "error at the end. --resume leaves finished points alone and goes on in the others; points "
        "may\n"
        "be added at the end. A point that fails is passed over, and named at the end (exit code "
        "1,\n"
        "or 2 where what failed is bad usage in each).\n"
        "  --point K   point K alone, from 1: one task of a job array; several may run at once\n\n"
        "The keys of the file:\n\n");
    lh_config_help(out);
}

static void main_help_eval(FILE *out)
{
    (void)fprintf(out,
                  "longhaul eval RUN_DIR [--set KEY=VALUE]...\n\n"
                  "Evaluates the newest good checkpoint of a run on its validation part, and on\n"
                  "data.test_path if that is given: one JSON object per part. train.eval_tokens=0\n"
                  "means the whole part. --set changes any key of the saved configuration; where\n"
                  "config.yaml itself has changed since, a note names keys of model and data.\n");
}

/* What train, eval and plan take. */
typedef struct main_options {
    const char *target; /* FILE.yaml or RUN_DIR */
    lh_option_words overrides;
    bool resume, json, points;
    int64_t point;    /* of a sweep; 0: not given */
    int64_t ranks;    /* of plan; 0: not given */
    const char *draw; /* of plan: the file that is drawn; NULL: none */
} main_options;

#define MAIN_OPTION_SET                                                                            \
    {                                                                                              \
        .name = "--set", .kind = LH_OPTION_WORDS, .offset = offsetof(main_options, overrides),     \
        .expected = "KEY=VALUE, such as --set train.log_every=1"                                   \
    }
#define MAIN_OPTION_POINT                                                                          \
    {                                                                                              \
        .name = "--point", .kind = LH_OPTION_INT, .offset = offsetof(main_options, point),         \
        .min = 1, .max = LH_SWEEP_MAX                                                              \
    }
static const lh_option main_options_train[] = {
    MAIN_OPTION_SET,
    MAIN_OPTION_POINT,
    {.name = "--resume", .kind = LH_OPTION_FLAG, .offset = offsetof(main_options, resume)},
    {.name = NULL}};
static const lh_option main_options_eval[] = {MAIN_OPTION_SET, {.name = NULL}};
static const lh_option main_options_plan[] = {
    MAIN_OPTION_SET,
    MAIN_OPTION_POINT,
    {.name = "--points", .kind = LH_OPTION_FLAG, .offset = offsetof(main_options, points)},
    {.name = "--draw",
     .kind = LH_OPTION_WORD,
     .offset = offsetof(main_options, draw),
     .expected = "the name of the picture, such as --draw plan.svg"},
    {.name = "--json", .kind = LH_OPTION_FLAG, .offset = offsetof(main_options, json)},
    {.name = "--ranks",
     .kind = LH_OPTION_INT,
     .offset = offsetof(main_options, ranks),
     .min = 1,
     .max = 1 << 20},
    {.name = NULL}};

/* Reads the arguments of a command that takes one name. what: what the name is. */
static lh_status main_parse(const char *command, const lh_option *table, const char *what, int argc,
                            char **argv, main_options *o)
{
    lh_status st = LH_OK;
    lh_options options = {
        .command = command, .table = table, .into = o, .name = &o->target, .max_names = 1};
    *o = (main_options){0};
    LH_TRY(lh_options_read(&options, argc, argv));
    LH_CHECK(o->target != NULL, LH_ERR_USAGE, "'%s' wants %s", command, what);
done:
    return st;
}

static lh_config_source main_source(const char *path, const main_options *o)
{
    return (lh_config_source){.read = lh_read_small,
                              .path = path,
                              .overrides = o->overrides.word,
                              .n_overrides = o->overrides.count,
                              .point = o->point};
}

static lh_status main_train(lh_comm *world, int argc, char **argv)
{
    lh_status st = LH_OK;
    lh_sweep *sweep = NULL;
    main_options o;
    LH_TRY(main_parse("longhaul train", main_options_train,
                      "an experiment file: longhaul train FILE.yaml", argc, argv, &o));
    lh_config_source source = main_source(o.target, &o);
    LH_TRY(lh_sweep_load_all(world, &source, &sweep));
    const lh_sweep_wish wish = {.point = o.point, .resume = o.resume, .stop = lh_process_stop()};
    LH_TRY(lh_sweep_train(world, sweep, &wish));
done:
    lh_sweep_destroy(&sweep);
    return st;
}

/* The error of a folder that is no run: it may hold some. Collective on world. */
static lh_status main_no_run(lh_comm *world, const char *folder)
{
    lh_status st = LH_OK;
    char run[LH_PATH_MAX];
    st = lh_run_inside(world, folder, run);
    if (st == LH_ERR_IO) st = LH_ERR_USAGE; /* a file, such as a checkpoint of the run */
    LH_TRY(lh_error_context(st, "longhaul eval wants the folder of a run (run.output/run.name)"));
    LH_CHECK(run[0] == '\0', LH_ERR_USAGE,
             "'%s' is no run folder, but holds some: give one of them, such as %s/%s", folder,
             folder, run);
    st = LH_RAISE(LH_ERR_USAGE,
                  "'%s' is no run folder: it has no config.yaml; give the folder that longhaul "
                  "train made (run.output/run.name)",
                  folder);
done:
    return st;
}

static lh_status main_eval(lh_comm *world, int argc, char **argv)
{
    lh_status st = LH_OK;
    lh_config *config = NULL;
    lh_watchdog *watchdog = NULL;
    main_options o;
    char path[LH_PATH_MAX];
    LH_TRY(main_parse("longhaul eval", main_options_eval, "a run folder: longhaul eval RUN_DIR",
                      argc, argv, &o));
    LH_TRY(lhi_path(path, o.target, "config.yaml"));
    if (!lh_file_exists(world, path)) return main_no_run(world, o.target);
    lh_config_source source = main_source(path, &o);
    LH_TRY(lh_config_load_all(world, &source, &config));
    LH_TRY(lh_agree(world, lh_watchdog_start(world, config->train.stall_seconds, &watchdog)));
    LH_TRY(lh_evaluate(world, config, &source, o.target));
done:
    lh_watchdog_stop(&watchdog);
    lh_config_destroy(&config);
    return st;
}

/* Points are listed, and nothing of them is planned. */
static lh_status main_points(const main_options *o)
{
    lh_status st = LH_OK;
    const char *other = o->point > 0      ? "--point"
                        : o->draw != NULL ? "--draw"
                        : o->ranks > 0    ? "--ranks"
                                          : NULL;
    LH_CHECK(!o->points || other == NULL, LH_ERR_USAGE,
             "longhaul plan: --points lists the points of a sweep and plans none: leave out %s, or "
             "plan one of them with --point K",
             other);
done:
    return st;
}

static const lh_output main_picture = {.command = "longhaul plan",
                                       .option = "--draw",
                                       .what = "an SVG picture",
                                       .ends = ".svg",
                                       .begins = LH_PICTURE_BEGIN};

/* One process plans for all ranks. */
static lh_status main_plan(lh_comm *none, int argc, char **argv)
{
    lh_status st = LH_OK;
    lh_config *config = NULL;
    lh_step_plan *plan = NULL;
    char *svg = NULL;
    main_options o;
    (void)none;
    LH_TRY(main_parse("longhaul plan", main_options_plan,
                      "an experiment file: longhaul plan FILE.yaml", argc, argv, &o));
    LH_TRY(main_points(&o));
    if (o.draw != NULL) LH_TRY(lh_output_check(&main_picture, o.draw));
    lh_config_source source = main_source(o.target, &o);
    source.flags = LH_CONFIG_PLAN;
    if (o.points) return lh_plan_points(&source, o.json, stdout);
    LH_TRY(lh_config_load(&source, &config));
    LH_TRY(lh_step_plan_create(config, o.ranks > 0 ? (int)o.ranks : (int)config->mesh.data, &plan));
    if (o.draw != NULL) {
        LH_TRY(lh_plan_draw(config, plan, &svg));
        LH_TRY(lh_write_small(NULL, o.draw, svg, strlen(svg)));
    }
    if (o.json)
        LH_TRY(lh_plan_json(plan, stdout));
    else
        lh_plan_table(plan, stdout);
done:
    lh_free(&svg);
    lh_step_plan_destroy(&plan);
    lh_config_destroy(&config);
    return st;
}

/* The commands. run: gets what follows the command's name, and the communicator of all processes, the
 * same arguments on each; alone: in one process that never starts MPI, without a communicator; stops: on
 * request, in good order. */
static const struct main_command {
    const char *name;
    lh_status (*run)(lh_comm *world, int argc, char **argv);
    void (*help)(FILE *out);
    bool alone, stops;
} main_commands[] = {
    {"train", main_train, main_help_train, false, true},
    {"eval", main_eval, main_help_eval, false, false},
    {"bench", lh_bench_main, lh_bench_help, false, false},
    {"scale", lh_scale_main, lh_scale_help, false, false},
    {"plan", main_plan, lh_plan_help, true, false},
    {"status", lh_run_status_main, lh_run_status_help, true, false},
    {"report", lh_report_main, lh_report_help, true, false},
    {"prepare", lh_prepare_main, lh_prepare_help, true, false},
    {"inspect", lh_inspect_main, lh_inspect_help, true, false},
    {"convert", lh_convert_main, lh_convert_help, true, false},
};
enum { MAIN_COMMANDS = sizeof main_commands / sizeof main_commands[0] };

static const struct main_command *main_find(const char *name)
{
    for (int i = 0; i < MAIN_COMMANDS; i++)
        if (strcmp(name, main_commands[i].name) == 0) return &main_commands[i];
    return NULL;
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
    for (int i = 0; i < MAIN_COMMANDS; i++) lh_words_add(&words, main_commands[i].name);
    lh_words_add(&words, "--help|--version");
    return LH_RAISE(LH_ERR_USAGE, "unknown command '%s': %s; see longhaul --help", command,
                    lh_words_hint(&words, "commands", hint, sizeof hint));
}

/* Results that did not reach standard output are an error, not a success. */
static lh_status main_flush(lh_status st)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return st;
    if (st != LH_OK && st != LH_ERR_STOPPED) return st;
    return LH_RAISE(LH_ERR_IO, "standard output cannot be written: is the disk full?");
}

/* Ranks that a wrapper script or a list of programs starts differently would train different models, or
 * wait for each other in different places. Collective on world. */
static lh_status main_same(lh_comm *world, int argc, char **argv)
{
    static const char *const program = "longhaul " LH_VERSION " (" LH_REAL_NAME ")";
    lh_status st = lh_agree_words(world, "the program", 1, &program);
    if (st != LH_OK) return st;
    return lh_agree_words(world, "the command line", argc - 1, (const char *const *)(argv + 1));
}

static bool main_wants_help(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
    return false;
}

/* Is it help or the version that is wanted? */
static bool main_asks(int argc, char **argv)
{
    return main_wants_help(argc, argv) || strcmp(argv[1], "--version") == 0;
}

static void main_answer(const struct main_command *command, int argc, char **argv)
{
    if (!main_wants_help(argc, argv))
        (void)printf("longhaul %s (%s)\n", LH_VERSION, LH_REAL_NAME);
    else if (command != NULL)
        command->help(stdout);
    else
        main_help(stdout);
}

/* What all processes do together. Collective on world. */
static lh_status main_together(lh_comm *world, const struct main_command *command, int argc,
                               char **argv)
{
    lh_status st = main_same(world, argc, argv);
    if (st != LH_OK) return st;
    if (main_asks(argc, argv)) {
        if (lh_comm_rank(world) == 0) main_answer(command, argc, argv);
        return main_flush(LH_OK);
    }
    if (command == NULL) return main_unknown(argv[1]);
    /* all would do the same, and write the same files */
    if (command->alone)
        return LH_RAISE(LH_ERR_USAGE,
                        "'longhaul %s' runs alone, and a launcher started it %d times: leave out "
                        "mpirun or srun",
                        command->name, lh_comm_size(world));
    return main_flush(command->run(world, argc - 2, argv + 2));
}

static int main_run(const struct main_command *command, int argc, char **argv)
{
    lh_comm *world = NULL;
    lh_pulse pulse = {.began = lh_wall()};
    /* MPI libraries crash where they get no memory to start with */
    lh_status st = lh_error_context(lh_new_probe(MAIN_MEMORY), "MPI cannot start on this rank");
    if (st != LH_OK) {
        /* the launcher ends the other ranks, since none leaves MPI's start without this one */
        main_complain(st);
        return main_exit_code(st);
    }
    /* before all else: a job may be asked to stop while it starts */
    if (command != NULL && command->stops) lh_process_catch();
    st = lh_init(&argc, &argv);
    if (st == LH_OK) st = lh_comm_world(&world);
    if (st == LH_OK) lh_comm_traffic(world)->pulse = &pulse;
    if (st == LH_OK) st = lh_agree(world, main_together(world, command, argc, argv));
    if (world == NULL || lh_comm_rank(world) == 0) main_complain(st);
    if (world != NULL) lh_comm_destroy(&world);
    lh_finalize();
    return main_exit_code(st);
}

/* How many processes the launcher has started, as Open MPI and those that speak PMI say before MPI is
 * initialised; 1 without one. */
static long main_launched(void)
{
    const char *size = getenv("OMPI_COMM_WORLD_SIZE");
    if (size == NULL) size = getenv("PMI_SIZE");
    return size != NULL ? strtol(size, NULL, 10) : 1;
}

static int main_run_alone(const struct main_command *command, int argc, char **argv)
{
    lh_status st = main_flush(command->run(NULL, argc - 2, argv + 2));
    main_complain(st);
    return main_exit_code(st);
}

int main(int argc, char **argv)
{
    lh_status st = lh_process_begin();
    if (st != LH_OK) {
        main_complain(st);
        return main_exit_code(st);
    }
    if (argc < 2) {
        main_help(stderr);
        return EXIT_BAD_USAGE;
    }
    const struct main_command *command = main_find(argv[1]);
    /* Of several processes none may leave before MPI starts: the others might wait for it, and the launcher
     * end rank 0 before it has said what is wrong. */
    if (main_launched() > 1) return main_run(command, argc, argv);
    if (main_asks(argc, argv)) {
        main_answer(command, argc, argv);
        return main_exit_code(main_flush(LH_OK));
    }
    return command != NULL && command->alone ? main_run_alone(command, argc, argv)
                                             : main_run(command, argc, argv);
}
