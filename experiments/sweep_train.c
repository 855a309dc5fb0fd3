#define _POSIX_C_SOURCE 200809L /* gethostname */
#include "experiments/sweep_train.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "experiments/config_change.h"
#include "experiments/sweep_status.h"
#include "experiments/train.h"
#include "experiments/watchdog.h"
#include "io/claim.h"

enum { TRAIN_NAMES = 512, TRAIN_HOST = 64 };

typedef struct sweep_train {
    lh_comm *world;
    const lh_sweep *sweep;
    const lh_sweep_wish *wish;
    lh_claim *claim; /* on the sweep's folder, on rank 0 */
    bool lead;
    int64_t first, end; /* points from, and before */
    bool *finished;     /* [count], on rank 0: before this launch */
    int64_t failures;
    lh_status failed; /* of the first that is no bad usage, else of the first */
    char names[TRAIN_NAMES];
} sweep_train;

/* --- before the first step: on rank 0 alone --- */

/* What the saved configuration knows of the data, an experiment file does not say. */
static void train_known(const lh_config *was, lh_config *is)
{
    if (is->model.vocab == LH_AUTO) is->model.vocab = was->model.vocab;
    if (is->model.classes == LH_AUTO) is->model.classes = was->model.classes;
}

/* Is what a point's folder holds of this sweep, and is it done? */
static lh_status train_look_run(sweep_train *t, int64_t index, const lh_run_state *run,
                                lh_config *config)
{
    lh_status st = LH_OK;
    lh_change_list broken = {0}, noted = {0};
    const double step = lh_json_number(run->train, "step");
    bool over = strcmp(run->state, "finished") == 0;
    if (!over && run->checkpoint[0] == '\0') return LH_OK; /* it starts anew */
    LH_CHECK(
        t->wish->resume, LH_ERR_USAGE,
        "'%s' has been trained%s: give --resume to go on with the sweep, or another run.output",
        run->folder, over ? "" : " in part");
    train_known(run->config, config);
    lh_config_changes(run->config, config, &broken, &noted);
    /* what would only be other steps to come is too late for a run that has none */
    if (over && step >= (double)config->schedule.steps && broken.count == 0) broken = noted;
    LH_CHECK(broken.count == 0, LH_ERR_USAGE,
             "--resume: the sweep contradicts '%s' in %" PRId64
             " key%s:%s\nchange %s back, or give another run.output",
             run->folder, broken.count, broken.count == 1 ? "" : "s", broken.text,
             broken.count == 1 ? "it" : "them");
    /* a log may be older than the steps beside it: the run itself finds out then */
    t->finished[index] = over && noted.count == 0 && step >= (double)config->schedule.steps;
    /* all points of a launch go on together; of one alone nobody knows about the others */
    if (over && noted.count > 0 && t->wish->point > 0)
        (void)fprintf(
            stderr,
            "note: point %" PRId64 " was finished and goes on with other settings:%s\n"
            "do the same in all points of the sweep, which otherwise cannot be compared\n",
            index + 1, noted.text);
done:
    return st;
}

static lh_status train_look(sweep_train *t, int64_t index)
{
    lh_status st = LH_OK;
    lh_config *config = NULL;
    lh_run_state run = {0};
    char text[LH_SWEEP_TEXT];
    LH_TRY(lh_sweep_config(t->sweep, index, &config));
    st = lh_session_check_ranks(config, lh_comm_size(t->world));
    LH_TRY(lh_error_context(st, "point %" PRId64 " of the sweep (%s)", index + 1,
                            lh_sweep_text(&t->sweep->point[index], text)));
    LH_TRY(lh_sweep_point_state(t->sweep->output, &t->sweep->point[index], &run));
    if (run.config != NULL) LH_TRY(train_look_run(t, index, &run, config));
done:
    lh_run_state_free(&run);
    lh_config_destroy(&config);
    return st;
}

/* Several tasks of a job array may do this at once: each writes a file of its own, and they rename the
 * same bytes. */
static lh_status train_write(const sweep_train *t, const char *path)
{
    lh_status st = LH_OK;
    char beside[LH_PATH_MAX], name[TRAIN_HOST + 64], host[TRAIN_HOST] = "";
    char *text = NULL;
    size_t count = strlen(t->sweep->json);
    if (gethostname(host, sizeof host - 1) != 0) host[0] = '\0';
    (void)snprintf(name, sizeof name, ".sweep.json.%s.%ld", host, (long)getpid());
    LH_TRY(lhi_path(beside, t->sweep->output, name));
    LH_TRY(lh_new(count + 2, &text));
    memcpy(text, t->sweep->json, count);
    text[count] = '\n';
    LH_TRY(lh_write_small(NULL, beside, text, count + 1));
    LH_TRY(lh_file_rename(NULL, beside, path));
done:
    lh_free(&text);
    return lh_error_context(st, "key 'run.output'");
}

static lh_status train_same(const sweep_train *t, const lh_sweep *old, const char *path)
{
    lh_status st = LH_OK;
    char was[LH_SWEEP_TEXT], is[LH_SWEEP_TEXT];
    LH_CHECK(old->count <= t->sweep->count, LH_ERR_USAGE,
             "the sweep has %" PRId64 " points, and '%s' tells of %" PRId64
             ": give another run.output, or change it back (points may be added at the end: seeds "
             "change slowest)",
             t->sweep->count, path, old->count);
    for (int64_t i = 0; i < old->count; i++) {
        LH_CHECK(lh_sweep_same(&old->point[i], &t->sweep->point[i]), LH_ERR_USAGE,
                 "the sweep differs from '%s': point %" PRId64
                 " was (%s), is (%s): give another run.output, or change it back (points may be "
                 "added at the end: seeds change slowest)",
                 path, i + 1, lh_sweep_text(&old->point[i], was),
                 lh_sweep_text(&t->sweep->point[i], is));
    }
done:
    return st;
}

/* A launch of all points keeps others of that kind away. Those of one point, as in a job array, go side by side:
 * each holds its run. */
static lh_status train_claim(sweep_train *t)
{
    if (t->wish->point > 0 || t->claim != NULL) return LH_OK;
    return lh_error_context(lh_claim_take(NULL, t->sweep->output, &t->claim), "key 'run.output'");
}

/* sweep.json is there and tells of the same points, or is written when all folders have been seen. */
static lh_status train_prepare(sweep_train *t)
{
    lh_status st = LH_OK;
    char path[LH_PATH_MAX];
    lh_sweep *old = NULL;
    LH_TRY(lh_new((size_t)t->sweep->count * sizeof *t->finished, &t->finished));
    LH_TRY(lhi_path(path, t->sweep->output, "sweep.json"));
    if (lh_file_exists(NULL, t->sweep->output)) LH_TRY(train_claim(t));
    if (lh_file_exists(NULL, path)) {
        LH_TRY(lh_sweep_read(t->sweep->output, &old));
        LH_TRY(train_same(t, old, path));
    }
    for (int64_t i = t->first; i < t->end; i++) LH_TRY(train_look(t, i));
    LH_TRY(lh_error_context(lh_folder_make(NULL, t->sweep->output), "key 'run.output'"));
    LH_TRY(train_claim(t));
    if (old == NULL || old->count < t->sweep->count) LH_TRY(train_write(t, path));
done:
    lh_sweep_destroy(&old);
    return st;
}

/* --- the points --- */

/* What a clock says is no result: the same sweep prints the same lines. */
static bool train_is_time(const char *key)
{
    size_t n = strlen(key);
    return n > 2 && strcmp(key + n - 2, "_s") == 0;
}

/* The result of a point on standard output: its last evaluation, else its last step, as metrics.jsonl has it,
 * and which point it is. On rank 0. */
static lh_status train_result(const sweep_train *t, int64_t index)
{
    lh_status st = LH_OK;
    lh_json j = {0};
    lh_run_state run = {0};
    const lh_sweep_point *point = &t->sweep->point[index];
    LH_TRY(lh_sweep_point_state(t->sweep->output, point, &run));
    lh_json_begin(&j);
    for (lh_json_member m = {0}; lh_json_next(run.eval, &m);)
        if (!train_is_time(m.key)) lh_json_copy(&j, m.key, m.item);
    if (run.eval == NULL) {
        lh_json_string(&j, "event", "train");
        lh_json_real(&j, "step", lh_json_number(run.train, "step"));
        lh_json_real(&j, "loss", lh_json_number(run.train, "loss"));
    }
    lh_sweep_point_json(point, &j);
    LH_TRY(lh_json_print(&j, stdout));
done:
    lh_json_free(&j);
    lh_run_state_free(&run);
    return st;
}

static void train_say_point(const sweep_train *t, int64_t index, const char *what)
{
    char text[LH_SWEEP_TEXT];
    if (t->lead)
        (void)fprintf(stderr, "point %" PRId64 " of %" PRId64 "%s: %s\n", index + 1,
                      t->sweep->count, what, lh_sweep_text(&t->sweep->point[index], text));
}

/* A run from its configuration to its end. Collective. */
static lh_status train_run(sweep_train *t, int64_t index, lh_train_result *result)
{
    lh_status st = LH_OK;
    lh_config *config = NULL;
    lh_watchdog *watchdog = NULL;
    LH_TRY(lh_sweep_config_all(t->world, t->sweep, index, &config));
    LH_TRY(lh_agree(t->world, lh_watchdog_start(t->world, config->train.stall_seconds, &watchdog)));
    LH_TRY(lh_train(t->world, config, t->wish->resume, t->wish->stop, result));
done:
    lh_watchdog_stop(&watchdog);
    lh_config_destroy(&config);
    return st;
}

/* A point that has failed is passed over. What is broken in ourselves ends all. */
static lh_status train_pass_over(sweep_train *t, int64_t index, lh_status st)
{
    size_t used = strlen(t->names);
    bool usage = st == LH_ERR_USAGE || st == LH_ERR_UNSUP;
    if (st == LH_OK || st == LH_ERR_STOPPED || st == LH_ERR_BUG) return st;
    if (t->lead)
        (void)fprintf(stderr, "longhaul: point %" PRId64 " failed: %s\n", index + 1,
                      lh_error_text());
    if (t->failures == 0 || ((t->failed == LH_ERR_USAGE || t->failed == LH_ERR_UNSUP) && !usage))
        t->failed = st;
    (void)snprintf(t->names + used, sizeof t->names - used, "%s%" PRId64, used > 0 ? ", " : "",
                   index + 1);
    t->failures++;
    lh_error_clear();
    return LH_OK;
}

/* Trains a point, or finds that it is done; *over: do not begin another one. */
static lh_status train_point(sweep_train *t, int64_t index, bool *over)
{
    lh_status st = LH_OK;
    lh_train_result result = {0};
    int64_t look[2] = {t->lead && t->finished[index], *t->wish->stop != 0};
    lh_max_i64(t->world, look, 2, LH_SEND_OTHER);
    if (look[0] != 0) {
        train_say_point(t, index, ", finished before");
    } else {
        *over = *over || look[1] != 0;
        LH_CHECK(!*over, LH_ERR_STOPPED, "stopped before point %" PRId64, index + 1);
        train_say_point(t, index, "");
        LH_TRY(train_run(t, index, &result));
        LH_CHECK(!result.stopped, LH_ERR_STOPPED, "stopped in point %" PRId64, index + 1);
        look[0] = result.late;
        lh_max_i64(t->world, look, 1, LH_SEND_OTHER);
        *over = look[0] != 0;
    }
    LH_TRY(lh_agree(t->world, t->lead ? train_result(t, index) : LH_OK));
done:
    return st;
}

/* How all has ended. st: of the last point. */
static lh_status train_end(const sweep_train *t, lh_status st)
{
    if (t->lead && t->wish->point == 0) {
        if (st == LH_ERR_STOPPED) (void)fprintf(stderr, "the sweep %s\n", lh_error_text());
        if (lh_sweep_table(stderr, t->sweep->output, t->sweep) != LH_OK)
            (void)fprintf(stderr, "longhaul: no table: %s\n", lh_error_text());
    }
    if (st != LH_OK || t->failures == 0) return st;
    return LH_RAISE(t->failed,
                    "%" PRId64 " of %" PRId64 " points failed: %s (the others are done; --resume "
                    "tries these again)",
                    t->failures, t->sweep->count, t->names);
}

static lh_status train_alone(sweep_train *t)
{
    lh_status st = LH_OK;
    lh_train_result result = {0};
    LH_TRY(train_run(t, 0, &result));
    lh_train_print(t->world, &result);
    if (result.stopped) st = LH_ERR_STOPPED;
done:
    return st;
}

lh_status lh_sweep_train(lh_comm *world, const lh_sweep *sweep, const lh_sweep_wish *wish)
{
    lh_status st = LH_OK;
    sweep_train t = {.world = world,
                     .sweep = sweep,
                     .wish = wish,
                     .lead = lh_comm_rank(world) == 0,
                     .first = wish->point > 0 ? wish->point - 1 : 0,
                     .end = wish->point > 0 ? wish->point : sweep->count,
                     .failed = LH_OK};
    bool over = false;
    if (!sweep->swept) return train_alone(&t);
    LH_TRY(lh_agree(world, t.lead ? train_prepare(&t) : LH_OK));
    for (int64_t i = t.first; i < t.end && st == LH_OK; i++) {
        st = train_point(&t, i, &over);
        if (wish->point == 0) st = train_pass_over(&t, i, st);
    }
    LH_TRY(train_end(&t, st));
done:
    lh_claim_drop(&t.claim);
    lh_free(&t.finished);
    return st;
}
