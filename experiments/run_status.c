/* status: a run as its folder tells. */
#include "experiments/run_status.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/options.h"
#include "experiments/run_judge.h"
#include "experiments/sweep_status.h"
#include "experiments/units.h"
#include "io/checkpoint.h"
#include "io/files.h"
#include "io/metrics.h"

enum {
    STATUS_TAIL = 8 << 20, /* bytes of metrics that are looked at */
    STATUS_LOOK = 1000     /* names in a folder that are looked at */
};

typedef struct status_options {
    const char *folder;
    bool json;
} status_options;

static const lh_option status_table[] = {
    {.name = "--json", .kind = LH_OPTION_FLAG, .offset = offsetof(status_options, json)},
    {.name = NULL}};

void lh_run_status_help(FILE *out)
{
    (void)fprintf(
        out,
        "longhaul status RUN_DIR|SWEEP_DIR [--json]\n\n"
        "Says what a run is doing, from what it has written so far; the run may be going on.\n"
        "  state    finished; stopped (on request, with a checkpoint: --resume goes on); failed;\n"
        "           running; silent: nothing was written for ten times the usual interval between\n"
        "           lines (and two minutes), so it may be dead; new: no step was logged yet\n"
        "--json: one object with state, step, steps, loss, grad_norm, lr, tokens_per_s, step_s,\n"
        "comm_wait_s, left_s, written_s (seconds since the last line), peak_bytes, "
        "rss_peak_bytes,\n"
        "eval_step, eval_loss, bits_per_byte, perplexity, accuracy, checkpoint (path), and null "
        "for\n"
        "what is not known.\n"
        "Of the folder of a sweep (it has sweep.json) a line for each point; waiting: not begun.\n"
        "--json: one object with sweep, count, finished, and points, each with point, dir, "
        "values,\n"
        "seed and what a run has.\n");
}

/* A whole line, if it is of this event. One that is no JSON (a crash tears lines) is passed over. */
static lh_status status_line(const char *line, size_t length, const char *event, lh_json_item **out)
{
    lh_status st = lh_json_read(line, length, out);
    const char *word = lh_json_word(*out, "event");
    if (word == NULL || strcmp(word, event) != 0) lh_json_release(out);
    if (st != LH_ERR_FORMAT) return st;
    lh_error_clear();
    return LH_OK;
}

lh_status lh_run_last_line(const char *text, const char *event, lh_json_item **out)
{
    lh_status st = LH_OK;
    char word[64];
    *out = NULL;
    (void)snprintf(word, sizeof word, "{\"event\":\"%s\"", event);
    const size_t n = strlen(word);
    const char *end = text + strlen(text);
    while (end > text && *out == NULL) {
        const char *begin = end - 1; /* the newline */
        while (begin > text && begin[-1] != '\n') begin--;
        if (strncmp(begin, word, n) == 0)
            LH_TRY(status_line(begin, (size_t)(end - begin - 1), event, out));
        end = begin;
    }
done:
    return st;
}

lh_status lh_run_state_read(const char *folder, lh_run_state *r)
{
    lh_status st = LH_OK;
    char path[LH_PATH_MAX];
    char *metrics = NULL, *log = NULL;
    double age = 0.0;
    bool found = false;
    *r = (lh_run_state){.state = "new", .age_s = -1.0};
    LH_TRY(lhi_path(path, folder, "config.yaml"));
    LH_CHECK(lh_file_exists(NULL, path), LH_ERR_USAGE,
             "'%s' is no run folder: it has no config.yaml; give the folder that longhaul train "
             "made (run.output/run.name)",
             folder);
    const lh_config_source source = {.read = lh_read_small, .path = path, .flags = LH_CONFIG_PLAN};
    LH_TRY(lh_config_load(&source, &r->config));
    r->steps = r->config->schedule.steps;
    r->log_every = r->config->train.log_every;
    (void)snprintf(r->folder, sizeof r->folder, "%s", folder);
    LH_TRY(lh_run_tail(folder, "metrics.jsonl", STATUS_TAIL, &metrics, &r->age_s));
    LH_TRY(lh_run_tail(folder, "log.txt", STATUS_TAIL, &log, &age));
    LH_TRY(lh_run_last_line(metrics, "train", &r->train));
    LH_TRY(lh_run_last_line(metrics, "eval", &r->eval));
    r->state =
        lh_run_judge(log, lh_json_number(r->train, "step_s") * (double)r->log_every, r->age_s);
    LH_TRY(lhi_path(path, folder, "checkpoints"));
    LH_TRY(lh_checkpoint_newest(NULL, path, 0, r->checkpoint, sizeof r->checkpoint, &found));
done:
    lh_free(&metrics);
    lh_free(&log);
    return st;
}

void lh_run_state_free(lh_run_state *r)
{
    lh_json_release(&r->train);
    lh_json_release(&r->eval);
    lh_config_destroy(&r->config);
}

lh_status lh_run_inside(lh_comm *comm, const char *folder, char name[LH_PATH_MAX])
{
    lh_status st = LH_OK;
    char *names = NULL;
    char path[LH_PATH_MAX];
    int64_t count = 0;
    name[0] = '\0';
    LH_TRY(lh_folder_list(comm, folder, &names, &count));
    const char *next = names;
    for (int64_t i = 0; i < count && i < STATUS_LOOK && name[0] == '\0'; i++) {
        if (snprintf(path, sizeof path, "%s/%s/config.yaml", folder, next) < (int)sizeof path &&
            lh_file_exists(comm, path))
            (void)snprintf(name, LH_PATH_MAX, "%s", next);
        next += strlen(next) + 1;
    }
done:
    lh_free(&names);
    return st;
}

/* Seconds to the last step at the rate of the last one; NaN when that is not known, or over. */
double lh_run_left(const lh_run_state *r)
{
    double left = (double)r->steps - lh_json_number(r->train, "step");
    if (strcmp(r->state, "finished") == 0) return (double)NAN;
    return left * lh_json_number(r->train, "step_s");
}

/* --- saying it --- */

static void status_json_real(lh_json *j, const char *key, const lh_json_item *line,
                             const char *name)
{
    lh_json_real(j, key, lh_json_number(line, name));
}

void lh_run_state_json(const lh_run_state *r, lh_json *j)
{
    static const char *const numbers[] = {"loss",   "grad_norm",   "lr",         "tokens_per_s",
                                          "step_s", "comm_wait_s", "peak_bytes", "rss_peak_bytes"};
    static const char *const evals[] = {"bits_per_byte", "perplexity", "accuracy"};
    lh_json_string(j, "state", r->state);
    status_json_real(j, "step", r->train, "step");
    lh_json_int(j, "steps", r->steps);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        status_json_real(j, numbers[i], r->train, numbers[i]);
    lh_json_real(j, "left_s", lh_run_left(r));
    lh_json_real(j, "written_s", r->age_s >= 0.0 ? r->age_s : (double)NAN);
    status_json_real(j, "eval_step", r->eval, "step");
    status_json_real(j, "eval_loss", r->eval, "loss");
    for (size_t i = 0; i < sizeof evals / sizeof evals[0]; i++)
        status_json_real(j, evals[i], r->eval, evals[i]);
    if (r->checkpoint[0] != '\0')
        lh_json_string(j, "checkpoint", r->checkpoint);
    else
        lh_json_real(j, "checkpoint", (double)NAN); /* null */
}

static lh_status status_json(const lh_run_state *r)
{
    lh_status st = LH_OK;
    lh_json j = {0};
    lh_json_begin(&j);
    lh_json_string(&j, "run", r->folder);
    lh_run_state_json(r, &j);
    LH_TRY(lh_json_print(&j, stdout));
done:
    lh_json_free(&j);
    return st;
}

/* A loss with the unit that its line has. */
static void status_print_loss(const lh_json_item *line)
{
    double bits = lh_json_number(line, "bits_per_byte"),
           perplexity = lh_json_number(line, "perplexity");
    (void)printf("loss %.5f", lh_json_number(line, "loss"));
    if (isfinite(bits)) (void)printf(", bits per byte %.5f", bits);
    if (isfinite(perplexity)) (void)printf(", perplexity %.5g", perplexity);
}

static void status_print(const lh_run_state *r)
{
    char text[LH_UNITS_TEXT];
    double step = lh_json_number(r->train, "step"), left = lh_run_left(r);
    (void)printf("run         %s\nstate       %s\n", r->folder, r->state);
    if (r->train != NULL) {
        (void)printf("step        %.0f of %" PRId64 " (%.1f %%), last line %.0f s ago\n", step,
                     r->steps, 100.0 * step / (double)r->steps, r->age_s);
        (void)printf("training    ");
        status_print_loss(r->train);
        (void)printf(", gradient norm %.3g, lr %.3g\n", lh_json_number(r->train, "grad_norm"),
                     lh_json_number(r->train, "lr"));
        (void)printf("speed       %.0f tokens/s, step %.4g s, of which %.1f %% waiting\n",
                     lh_json_number(r->train, "tokens_per_s"), lh_json_number(r->train, "step_s"),
                     100.0 * lh_json_number(r->train, "comm_wait_s") /
                         lh_json_number(r->train, "step_s"));
        (void)printf("memory      %s a step on the rank that needs most\n",
                     lh_units_bytes(lh_json_number(r->train, "peak_bytes"), text));
    }
    if (isfinite(left)) (void)printf("left        about %.0f s\n", left);
    if (r->eval != NULL) {
        (void)printf("evaluation  step %.0f: ", lh_json_number(r->eval, "step"));
        status_print_loss(r->eval);
        (void)printf(", accuracy %.4f\n", lh_json_number(r->eval, "accuracy"));
    }
    (void)printf("checkpoint  %s\n", r->checkpoint[0] != '\0' ? r->checkpoint : "none");
}

lh_status lh_run_status_main(lh_comm *none, int argc, char **argv)
{
    lh_status st = LH_OK;
    status_options o = {0};
    lh_run_state r = {0};
    char path[LH_PATH_MAX];
    lh_options options = {.command = "longhaul status",
                          .table = status_table,
                          .into = &o,
                          .name = &o.folder,
                          .max_names = 1};
    (void)none;
    LH_TRY(lh_options_read(&options, argc, argv));
    LH_CHECK(o.folder != NULL, LH_ERR_USAGE,
             "'longhaul status' wants a run folder: longhaul status RUN_DIR");
    LH_TRY(lhi_path(path, o.folder, "sweep.json"));
    if (lh_file_exists(NULL, path)) return lh_sweep_status(o.folder, o.json);
    LH_TRY(lh_run_state_read(o.folder, &r));
    if (o.json)
        LH_TRY(status_json(&r));
    else
        status_print(&r);
done:
    lh_run_state_free(&r);
    return st;
}
