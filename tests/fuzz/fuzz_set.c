/* A command line of `longhaul plan` whose words the input holds, one a line: the options are read,
 * and the overrides are applied to an experiment, which may thereby get a sweep. */
#include "experiments/config.h"
#include "experiments/options.h"
#include "experiments/sweep.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

enum { SET_ARGUMENTS = 300 };

/* What the option table fills: one member of every kind. */
typedef struct set_options {
    lh_option_words overrides;
    const char *target, *draw;
    int64_t ranks, on;
    double real;
    bool json;
} set_options;

static const lh_option set_table[] = {
    {.name = "--set",
     .kind = LH_OPTION_WORDS,
     .offset = offsetof(set_options, overrides),
     .expected = "KEY=VALUE"},
    {.name = "--draw",
     .kind = LH_OPTION_WORD,
     .offset = offsetof(set_options, draw),
     .expected = "a name"},
    {.name = "--ranks",
     .kind = LH_OPTION_INT,
     .offset = offsetof(set_options, ranks),
     .min = 1,
     .max = 1 << 20},
    {.name = "--real",
     .kind = LH_OPTION_REAL,
     .offset = offsetof(set_options, real),
     .min = 0,
     .max = 9},
    {.name = "--on", .kind = LH_OPTION_SWITCH, .offset = offsetof(set_options, on)},
    {.name = "--json", .kind = LH_OPTION_FLAG, .offset = offsetof(set_options, json)},
    {.name = NULL}};

static const char set_file[] =
    "data: {path: book.txt}\n"
    "model:\n"
    "  layers: 2\n"
    "  width: 32\n"
    "  heads: 2\n"
    "  attention: [{mechanism: sliding_window, window: 24}, {mechanism: full}]\n";

static lh_status set_read(void *user, const char *path, char **bytes, size_t *count)
{
    (void)user, (void)path;
    *count = sizeof set_file - 1;
    lh_status st = lh_new(sizeof set_file, bytes);
    if (st == LH_OK) memcpy(*bytes, set_file, sizeof set_file);
    return st;
}

/* The words of the input, each with its closing zero. */
static int set_split(char *text, char *argv[SET_ARGUMENTS])
{
    int argc = 0;
    for (char *word = text; argc < SET_ARGUMENTS; argc++) {
        char *end = strchr(word, '\n');
        argv[argc] = word;
        if (end == NULL) return argc + 1;
        *end = '\0';
        word = end + 1;
    }
    return argc;
}

static void set_check(int argc, char **argv)
{
    set_options o = {.ranks = 1, .real = 1.0};
    lh_config *config = NULL;
    lh_options options = {
        .command = "fuzz", .table = set_table, .into = &o, .name = &o.target, .max_names = 1};
    if (fuzz_status(lh_options_read(&options, argc, argv)) != LH_OK) return;
    fuzz_expect(o.ranks >= 1 && o.ranks <= 1 << 20 && o.real >= 0.0 && o.real <= 9.0 &&
                    (o.on == 0 || o.on == 1) && o.overrides.count <= LH_OPTION_MANY,
                "options are within their bounds");
    lh_config_source source = {.read = set_read,
                               .path = "set.yaml",
                               .overrides = o.overrides.word,
                               .n_overrides = o.overrides.count,
                               .directory = "/home/me"};
    lh_status st = fuzz_status(lh_config_load(&source, &config));
    fuzz_expect((st == LH_OK) == (config != NULL), "a configuration, or an error");
    lh_config_destroy(&config);
    lh_sweep *sweep = NULL;
    st = fuzz_status(lh_sweep_load(&source, &sweep));
    fuzz_expect((st == LH_OK) == (sweep != NULL), "points, or an error");
    lh_sweep_destroy(&sweep);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = NULL, *argv[SET_ARGUMENTS];
    if (lh_new(size + 1, &text) != LH_OK) return 0;
    if (size > 0) memcpy(text, data, size);
    set_check(set_split(text, argv), argv);
    lh_free(&text);
    return 0;
}
