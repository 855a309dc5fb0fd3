/* longhaul bench: what can be measured. */
#include "experiments/bench_internal.h"
#include "io/settings_fill.h"

#include <string.h>

static const struct bench_command {
    const char *name;
    lh_status (*run)(lh_comm *world, int argc, char **argv);
    void (*help)(FILE *out);
} bench_commands[] = {
    {"attention", lhi_bench_attention, lhi_bench_attention_help},
    {"step", lhi_bench_step, lhi_bench_step_help},
    {"exchange", lhi_bench_exchange, lhi_bench_exchange_help},
    {"features", lhi_bench_features, lhi_bench_features_help},
};
enum { BENCH_COMMANDS = sizeof bench_commands / sizeof bench_commands[0] };

void lh_bench_help(FILE *out)
{
    (void)fprintf(
        out,
        "longhaul bench attention|step|exchange|features [options]\n\n"
        "Measures, and prints one JSON object per case on standard output. attention: one layer's\n"
        "attention against the machine's own matrix products; step: a training step and where its\n"
        "time goes; exchange: messages alone; features: the error of random features.\n");
    for (int i = 0; i < BENCH_COMMANDS; i++) bench_commands[i].help(out);
}

lh_status lh_bench_main(lh_comm *world, int argc, char **argv)
{
    char hint[LH_WORDS_TEXT];
    lh_words words = {.wrong = argc > 0 ? argv[0] : ""};
    for (int i = 0; i < BENCH_COMMANDS && argc > 0; i++)
        if (strcmp(argv[0], bench_commands[i].name) == 0)
            return bench_commands[i].run(world, argc - 1, argv + 1);
    if (argc == 0)
        return LH_RAISE(LH_ERR_USAGE,
                        "bench wants to know what to measure: longhaul bench attention, step, "
                        "exchange or features (see longhaul bench --help)");
    for (int i = 0; i < BENCH_COMMANDS; i++) lh_words_add(&words, bench_commands[i].name);
    return LH_RAISE(LH_ERR_USAGE, "bench: '%s' cannot be measured: %s (see longhaul bench --help)",
                    argv[0], lh_words_hint(&words, "measurements", hint, sizeof hint));
}
