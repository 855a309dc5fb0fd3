#define _POSIX_C_SOURCE 200809L /* getrusage's struct */
#include "experiments/train.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "core/pulse.h"
#include "experiments/convert.h"
#include "experiments/environment.h"
#include "experiments/run_status.h"
#include "experiments/step_means.h"
#include "experiments/train_internal.h"
#include "experiments/train_resume.h"

enum { TRAIN_TAIL = 1 << 20 }; /* bytes of metrics, in which the last evaluation is looked for */

/* --- metrics --- */

static lh_status train_metrics(train_run *r, const lh_step_result *result, double lr, double step_s,
                               const lh_traffic *before)
{
    const lh_session *s = r->session;
    struct rusage usage = {0};
    int64_t peaks[2] = {lh_session_peak(s), 0};
    lh_step_means mean;
    if (getrusage(RUSAGE_SELF, &usage) == 0) peaks[1] = (int64_t)usage.ru_maxrss * 1024;
    lh_max_i64(r->world, peaks, 2, LH_SEND_OTHER);
    lh_step_means_of(r->world, &r->profile, before, s->mesh->traffic, &mean);
    lh_json *j = &r->json;
    lh_json_begin(j);
    lh_json_string(j, "event", "train");
    lh_json_int(j, "step", r->step);
    lh_json_real(j, "loss", result->loss);
    lh_json_real(j, "grad_norm", result->grad_norm);
    lh_json_real(j, "lr", lr);
    lh_json_int(j, "tokens", result->labels);
    if (result->skipped) lh_json_bool(j, "skipped", true);
    lh_json_ints(j, "samples", r->sample_ids, r->config->data.batch);
    lh_json_real(j, "tokens_per_s", (double)result->labels / step_s);
    lh_json_real(j, "step_s", step_s);
    lh_json_real(j, "comm_wait_s", mean.wait_s);
    lh_json_real(j, "data_s", mean.data_s);
    lh_json_real(j, "optimizer_s", mean.optimizer_s);
    lh_json_real(j, "checkpoint_s", r->checkpoint_s);
    lh_json_real(j, "sent_bytes", mean.sent);
    lh_json_reals(j, "sent_by_purpose", mean.purpose, LH_SEND_OTHER);
    lh_json_int(j, "peak_bytes", peaks[0]);
    lh_json_int(j, "rss_peak_bytes", peaks[1]);
    r->checkpoint_s = 0.0;
    return lh_metrics_write(r->metrics, j);
}

static void train_eval_json(lh_json *j, int64_t step, const char *part, const lh_eval_result *e)
{
    lh_json_begin(j);
    lh_json_string(j, "event", "eval");
    lh_json_int(j, "step", step);
    if (part != NULL) lh_json_string(j, "part", part);
    lh_json_real(j, "loss", e->loss);
    if (e->unit == LH_UNIT_BYTE) lh_json_real(j, "bits_per_byte", e->bits_per_byte);
    if (e->unit == LH_UNIT_TOKEN) lh_json_real(j, "perplexity", e->perplexity);
    lh_json_real(j, "accuracy", e->accuracy);
    for (int i = 0; i < e->baselines; i++)
        lh_json_real(j, e->baseline[i].name, e->baseline[i].accuracy);
    lh_json_int(j, "tokens", e->tokens);
}

/* Evaluates the validation part, if there is one, and records it, unless the metrics have it: known. */
static lh_status train_eval(train_run *r, bool known, lh_eval_result *out)
{
    lh_status st = LH_OK;
    lh_eval_result e = {0};
    char text[256], unit[LHI_TRAIN_UNIT];
    double begin = lh_wall();
    *out = e;
    if (lh_task_windows(r->session->task, LH_SPLIT_VALID) == 0) goto done;
    LH_TRY(lh_session_evaluate(r->session, LH_SPLIT_VALID, r->config->train.eval_tokens, &r->stop,
                               &e));
    out->stopped = e.stopped;
    if (e.stopped) goto done; /* half an evaluation is none */
    *out = e;
    if (known) goto done;
    train_eval_json(&r->json, r->step, NULL, &e);
    lh_json_real(&r->json, "eval_s", lh_wall() - begin);
    LH_TRY(lh_agree(r->world, lh_metrics_write(r->metrics, &r->json)));
    if (isfinite(e.loss))
        (void)snprintf(text, sizeof text,
                       "step %" PRId64 ": validation loss %.5f%s, accuracy %.4f over %" PRId64
                       " tokens",
                       r->step, e.loss,
                       lhi_train_unit(r->session, e.loss, ", bits per byte", ", perplexity", unit),
                       e.accuracy, e.tokens);
    else
        (void)snprintf(text, sizeof text, "step %" PRId64 ": validation loss not finite", r->step);
    lhi_train_say(r, text);
done:
    return st;
}

/* --- folders and checkpoints --- */

static lh_status train_checkpoint(train_run *r)
{
    lh_status st = LH_OK;
    double begin = lh_wall();
    lh_checkpoint_info info = {.step = r->step,
                               .tokens = r->tokens,
                               .samples = r->samples,
                               .data_bytes = lh_task_bytes(r->session->task),
                               .skips = r->session->skips,
                               .seed = (uint64_t)r->config->run.seed,
                               .program = LH_VERSION,
                               .config = r->yaml};
    (void)snprintf(info.layout, sizeof info.layout, "%s", r->session->layout->name);
    lh_pulse_phase(r->session->pulse, "writing a checkpoint", LH_PULSE_TOGETHER | LH_PULSE_PATIENT);
    LH_TRY(lh_agree(r->world, lh_metrics_sync(r->metrics)));
    LH_TRY(lh_checkpoint_write(r->session->mesh, r->checkpoints, &info, r->session->params,
                               r->config->checkpoint.keep));
    /* Where the run's folder was taken away, the checkpoint has made it again: this state is safe. */
    LH_TRY(lh_agree(r->world, lh_metrics_look(r->metrics)));
    lh_stop_longest(&r->stop.checkpoint_s, begin);
    r->checkpoint_s += lh_wall() - begin;
done:
    return st;
}

/* May this run go into its folder? *exists: there are checkpoints. */
static lh_status train_look(const train_run *r, bool resume, bool *exists)
{
    lh_status st = LH_OK;
    char path[LH_PATH_MAX];
    st = lh_checkpoint_newest(r->world, r->checkpoints, 0, path, sizeof path, exists);
    LH_TRY(lh_error_context(st, "key 'run.output'"));
    LH_CHECK(
        resume || !*exists, LH_ERR_USAGE,
        "'%s' has checkpoints: give --resume to go on from the newest one, or another run.name "
        "(--set run.name=...)",
        r->folder);
done:
    return st;
}

/* Names of the output folder and of its checkpoints' folder; may this run go there? */
static lh_status train_folder(train_run *r, bool resume)
{
    lh_status st = LH_OK;
    bool exists = false;
    st = lhi_path(r->folder, r->config->run.output, r->config->run.name);
    LH_TRY(lh_error_context(st, "key 'run.output'"));
    LH_TRY(lhi_path(r->checkpoints, r->folder, "checkpoints"));
    LH_TRY(train_look(r, resume, &exists));
    if (exists || r->config->run.init[0] == '\0') goto done; /* what run.init gave is in them */
    LH_CHECK(lh_file_exists(r->world, r->config->run.init), LH_ERR_USAGE,
             "key 'run.init': there is no checkpoint '%s': name a file RUN_DIR/checkpoints/"
             "step-NNNNNNNN.h5 (relative paths start at the working directory)",
             r->config->run.init);
done:
    return st;
}

/* From here on the folder is this launch's; all ranks will write checkpoints there. */
static lh_status train_hold(train_run *r, bool resume)
{
    lh_status st = LH_OK;
    bool exists = false;
    LH_TRY(lh_error_context(lh_folder_make(r->world, r->checkpoints), "key 'run.output'"));
    LH_TRY(lh_error_context(lh_claim_take(r->world, r->folder, &r->claim), "key 'run.output'"));
    LH_TRY(
        train_look(r, resume, &exists)); /* a launch that has ended meanwhile may have made some */
    LH_TRY(lh_error_context(lh_claim_shared(r->world, r->checkpoints), "key 'run.output'"));
done:
    return st;
}

/* Takes up where the newest good checkpoint ends; *from: its step, -1 for a new run; *noted: settings that
 * differ from there on. */
static lh_status train_resume(train_run *r, bool resume, int64_t *from, lh_change_list *noted)
{
    lh_status st = LH_OK;
    lh_checkpoint_info info = {0};
    bool found = false;
    *from = -1;
    if (resume) LH_TRY(lhi_resume_newest(r->session, r->checkpoints, noted, &info, &found));
    if (found) {
        *from = r->step = info.step;
        r->samples = info.samples;
        r->session->skips = info.skips;
        r->tokens = info.tokens;
    } else if (r->config->run.init[0] != '\0') {
        st = lh_checkpoint_read(r->session->mesh, r->config->run.init, LH_CHECKPOINT_WEIGHTS,
                                r->session->params, NULL);
        st = lh_convert_hint(r->world, r->config->run.init, r->config, st);
        /* A file that is no checkpoint is a mistake in the experiment file, which names it. */
        if (st == LH_ERR_IO || st == LH_ERR_FORMAT) st = LH_ERR_USAGE;
        LH_TRY(lh_error_context(st, "key 'run.init'"));
    }
done:
    lh_checkpoint_info_free(&info);
    return st;
}

/* The time limit counts from the start of the program, where main says when that was. */
static void train_limit(train_run *r)
{
    const lh_session *s = r->session;
    double numbers = 3.0 * (double)lh_params_held(s->params); /* with both moments */
    lh_stop_begin(&r->stop, r->world, r->config->train.time_limit_s,
                  s->pulse != NULL ? s->pulse->began : r->started,
                  numbers * (double)lh_dtype_bytes(LH_REAL));
}

static lh_status train_open(train_run *r, bool resume)
{
    lh_status st = LH_OK;
    char path[LH_PATH_MAX];
    int64_t from = -1;
    lh_change_list noted = {0};
    r->lead = lh_comm_rank(r->world) == 0;
    r->terminal = r->lead && lhi_train_terminal();
    LH_TRY(train_folder(r, resume));
    LH_TRY(lh_session_open(r->world, r->config, true, &r->session));
    lh_pulse_phase(r->session->pulse, "opening the run's files",
                   LH_PULSE_TOGETHER | LH_PULSE_PATIENT);
    LH_TRY(train_hold(r, resume));
    st = lh_new((size_t)r->config->data.batch * sizeof *r->sample_ids, &r->sample_ids);
    if (st == LH_OK) st = lh_config_emit(r->config, &r->yaml);
    LH_TRY(lh_agree(r->world, st));
    LH_TRY(train_resume(r, resume, &from, &noted));
    /* only now: what is refused leaves the log of the run as it is, and so its state */
    LH_TRY(lh_log_open(r->world, r->folder, &r->log));
    lhi_train_say_start(r);
    if (resume) lhi_train_say_resumed(r, from, &noted);
    LH_TRY(lh_metrics_open(r->world, r->folder, from, &r->metrics));
    LH_TRY(lhi_path(path, r->folder, "config.yaml"));
    /* of the last start that trained */
    if (r->step < r->config->schedule.steps || !lh_file_exists(r->world, path))
        LH_TRY(lh_write_small(r->world, path, r->yaml, strlen(r->yaml)));
    if (r->step < r->config->schedule.steps)
        LH_TRY(lh_environment_write(r->world, r->session, r->folder, r->step));
    lh_session_profile_step(r->session, &r->profile);
    r->started = lh_wall();
    r->started_at = r->step;
    train_limit(r);
done:
    return st;
}

static void train_close(train_run *r)
{
    lh_session_close(&r->session);
    lh_metrics_close(&r->metrics);
    lh_log_close(&r->log);
    lh_claim_drop(&r->claim);
    lh_json_free(&r->json);
    lh_free(&r->yaml);
    lh_free(&r->sample_ids);
}

/* --- the loop --- */

static bool train_due(int64_t every, int64_t step)
{
    return every > 0 && step % every == 0;
}

static bool train_eval_due(const train_run *r)
{
    const lh_config *c = r->config;
    return c->train.eval_every > 0 &&
           (r->step == c->schedule.steps || train_due(c->train.eval_every, r->step));
}

static lh_status train_step(train_run *r, lh_step_result *result)
{
    lh_status st = LH_OK;
    double begin = lh_wall();
    lh_traffic before = *r->session->mesh->traffic;
    double lr = lh_learning_rate(r->config, r->step + 1);
    bool stop =
        lh_stop_now(&r->stop, 2.0); /* this step is done, and before the next one it is late */
    lh_profile_clear(&r->profile);
    LH_TRY(lh_session_step(r->session, r->samples, r->step + 1, lr, stop, result));
    double step_s = lh_wall() - begin;
    for (int64_t i = 0; i < r->config->data.batch; i++)
        r->sample_ids[i] = lh_task_order(r->session->task, r->samples + i);
    r->step++;
    r->samples += r->config->data.batch;
    r->tokens += result->labels;
    bool last = r->step == r->config->schedule.steps || result->stop || result->skipped;
    lh_pulse_phase(r->session->pulse, "writing metrics", 0);
    if (result->skipped) lhi_train_say_skipped(r, result);
    if (train_due(r->config->train.log_every, r->step) || r->step == r->started_at + 1 || last) {
        r->rate = (double)result->labels / step_s;
        LH_TRY(lh_agree(r->world, train_metrics(r, result, lr, step_s, &before)));
        if (!result->skipped) lhi_train_progress(r, result, lr);
    }
    lh_stop_longest(&r->stop.step_s, begin);
done:
    return st;
}

void lh_train_print(const lh_comm *world, const lh_train_result *result)
{
    const char *text = NULL;
    lh_json json = {0};
    if (lh_comm_rank(world) > 0 || result->eval.tokens == 0) return;
    train_eval_json(&json, result->step, NULL, &result->eval);
    if (lh_json_text(&json, &text) == LH_OK) (void)printf("%s\n", text);
    lh_json_free(&json);
}

/* Do the metrics tell of the evaluation of this step? It would be the last one. Collective; agreed errors. */
static lh_status train_eval_known(const train_run *r, bool *known)
{
    lh_status st = LH_OK;
    char *text = NULL;
    double age = 0.0;
    lh_json_item *line = NULL;
    uint8_t found = 0;
    if (r->lead) {
        st = lh_run_tail(r->folder, "metrics.jsonl", TRAIN_TAIL, &text, &age);
        if (st == LH_OK) st = lh_run_last_line(text, "eval", &line);
        found = lh_json_number(line, "step") == (double)r->step;
    }
    LH_TRY(lh_agree(r->world, st));
    lh_broadcast(r->world, &found, 1, LH_SEND_OTHER);
    *known = found != 0;
done:
    lh_json_release(&line);
    lh_free(&text);
    return st;
}

/* What a launch begins with: the evaluation of the step that it goes on from, if the launch before was
 * stopped in it; a run that has ended says again how. *stopped: and that is all. */
static lh_status train_make_up(train_run *r, bool *stopped, lh_eval_result *e)
{
    lh_status st = LH_OK;
    const bool over = r->step >= r->config->schedule.steps, timed = r->stop.timed;
    bool known = true;
    if (r->step > 0 && train_eval_due(r)) LH_TRY(train_eval_known(r, &known));
    r->ended = over && known;
    if (known && !over) goto done;
    /* Time that is over before anything has begun cannot be kept. As every launch does a step, it does this
     * evaluation, or all launches would give it up. */
    int64_t late = timed && lh_stop_now(&r->stop, 0.0);
    lh_max_i64(r->world, &late, 1, LH_SEND_OTHER);
    r->stop.timed = timed && late == 0;
    LH_TRY(train_eval(r, known, e));
    r->stop.timed = timed;
    int64_t asked = r->stop.asked != NULL && *r->stop.asked != 0;
    lh_max_i64(r->world, &asked, 1, LH_SEND_OTHER);
    *stopped = e->stopped && (over || asked != 0);
    if (e->stopped && !*stopped) {
        /* The next launch would have no more time for it, and never come to a step. */
        lhi_train_say(r,
                      "the evaluation takes longer than train.time_limit leaves: it is left out");
        e->stopped = false;
    }
done:
    return st;
}

static lh_status train_loop(train_run *r, bool *stopped, lh_eval_result *out)
{
    lh_status st = LH_OK;
    const lh_config *c = r->config;
    lh_eval_result e = {0};
    lh_step_result result = {0};
    *stopped = false;
    LH_TRY(train_make_up(r, stopped, &e));
    while (r->step < c->schedule.steps && !*stopped) {
        LH_TRY(train_step(r, &result));
        bool last = r->step == c->schedule.steps;
        *stopped = result.stop && !last;
        /* whoever asks to stop may not wait long: the checkpoint is all that is done then */
        if (!*stopped && train_eval_due(r)) LH_TRY(train_eval(r, false, &e));
        *stopped = *stopped || e.stopped;
        /* A run that goes on from a checkpoint ends with one, or --resume would always train again from there. */
        if (train_due(c->checkpoint.every, r->step) || *stopped ||
            (last && (c->checkpoint.every > 0 || r->started_at > 0)))
            LH_TRY(train_checkpoint(r));
    }
    if (!*stopped) *out = e;
done:
    return st;
}

lh_status lh_train(lh_comm *world, lh_config *config, bool resume,
                   const volatile sig_atomic_t *stop, lh_train_result *out)
{
    lh_status st = LH_OK;
    train_run r = {.world = world, .config = config, .stop = {.asked = stop}};
    char text[LH_PATH_MAX + 64];
    *out = (lh_train_result){0};
    LH_TRY(train_open(&r, resume));
    LH_TRY(train_loop(&r, &out->stopped, &out->eval));
    out->late = lh_stop_now(&r.stop, 2.0);
    out->step = r.step;
    memcpy(out->folder, r.folder, sizeof out->folder);
    (void)snprintf(text, sizeof text,
                   out->stopped && r.ended ? "finished at step %" PRId64
                                             " before; its evaluation was given up: %s"
                   : out->stopped && r.stop.late ? "train.time_limit: stopped after step %" PRId64
                                                   ": %s"
                   : out->stopped ? "stopped on request after step %" PRId64 ": %s"
                                  : "finished at step %" PRId64 ": %s",
                   r.step, r.folder);
    lhi_train_say(&r, text);
done:
    if (st != LH_OK && r.terminal) (void)fputc('\n', stderr);
    if (st != LH_OK)
        lh_log_line(r.log, "failed: %.*s", (int)strcspn(lh_error_text(), "\n"), lh_error_text());
    train_close(&r);
    return st;
}

lh_status lh_evaluate(lh_comm *world, lh_config *config, const lh_config_source *source,
                      const char *folder)
{
    static const char *const part[LH_SPLITS] = {"train", "valid", "test"};
    lh_status st = LH_OK;
    lh_session *s = NULL;
    lh_json json = {0};
    lh_checkpoint_info info = {0};
    bool found = false;
    char checkpoints[LH_PATH_MAX];
    LH_TRY(lhi_path(checkpoints, folder, "checkpoints"));
    if (lh_comm_size(world) % config->mesh.data != 0) {
        if (lh_comm_rank(world) == 0)
            (void)fprintf(stderr,
                          "longhaul: mesh.data %" PRId64 " does not divide %d ranks: using 1\n",
                          config->mesh.data, lh_comm_size(world));
        config->mesh.data = 1;
    }
    LH_TRY(lh_session_open(world, config, false, &s));
    LH_TRY(lhi_resume_weights(s, checkpoints, source, &info, &found));
    LH_CHECK(found, LH_ERR_USAGE, "'%s' has no checkpoint: train it first", folder);
    for (int i = LH_SPLIT_VALID; i < LH_SPLITS; i++) {
        lh_eval_result e = {0};
        const char *text = NULL;
        if (lh_task_windows(s->task, (lh_split)i) == 0) continue;
        LH_TRY(lh_session_evaluate(s, (lh_split)i, config->train.eval_tokens, NULL, &e));
        if (lh_comm_rank(world) > 0) continue;
        train_eval_json(&json, info.step, part[i], &e);
        if (lh_json_text(&json, &text) == LH_OK) (void)printf("%s\n", text);
    }
done:
    lh_json_free(&json);
    lh_checkpoint_info_free(&info);
    lh_session_close(&s);
    return st;
}
