#include "experiments/report_run.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "experiments/bench_internal.h"
#include "experiments/run_judge.h"
#include "io/files.h"

enum {
    RUN_METRICS = 1 << 30, /* bytes of metrics.jsonl that are read, from the end */
    RUN_LOG = 1 << 16,
    RUN_RANKS = 1024, /* along the sequence: more take long to plan */
    RUN_TEXT = 64
};

/* What went wrong becomes a remark; only a lack of memory ends the report. */
static lh_status run_remark(lh_status st, char **remark)
{
    if (st == LH_OK || st == LH_ERR_MEMORY) return st;
    char text[LH_ERROR_TEXT_MAX];
    (void)snprintf(text, sizeof text, "%s", lh_error_text());
    lh_error_clear();
    lh_free(remark);
    return lh_new_text(text, remark);
}

/* --- metrics.jsonl --- */

static lh_status run_train_line(lh_report_run *run, const lh_json_item *o)
{
    lh_status st = LH_OK;
    LH_TRY(lh_grow(&run->train, &run->train_room, run->n_train + 1, sizeof *run->train));
    lh_train_line *l = &run->train[run->n_train];
    const lh_json_item *purpose = lh_json_find(o, "sent_by_purpose");
    *l = (lh_train_line){.step = lh_json_number(o, "step"),
                         .loss = lh_json_number(o, "loss"),
                         .grad_norm = lh_json_number(o, "grad_norm"),
                         .lr = lh_json_number(o, "lr"),
                         .tokens = lh_json_number(o, "tokens"),
                         .tokens_per_s = lh_json_number(o, "tokens_per_s"),
                         .step_s = lh_json_number(o, "step_s"),
                         .wait_s = lh_json_number(o, "comm_wait_s"),
                         .data_s = lh_json_number(o, "data_s"),
                         .optimizer_s = lh_json_number(o, "optimizer_s"),
                         .checkpoint_s = lh_json_number(o, "checkpoint_s"),
                         .sent = lh_json_number(o, "sent_bytes"),
                         .peak = lh_json_number(o, "peak_bytes"),
                         .rss = lh_json_number(o, "rss_peak_bytes"),
                         .skipped = lh_json_number(o, "skipped") == 1.0};
    for (int k = 0; k < LH_SEND_OTHER; k++)
        l->purpose[k] = lh_json_item_number(lh_json_at(purpose, k));
    if (isfinite(l->step)) run->n_train++; /* else it is no line of ours */
done:
    return st;
}

static lh_status run_eval_line(lh_report_run *run, const lh_json_item *o)
{
    lh_status st = LH_OK;
    LH_TRY(lh_grow(&run->eval, &run->eval_room, run->n_eval + 1, sizeof *run->eval));
    lh_eval_line *l = &run->eval[run->n_eval];
    *l = (lh_eval_line){lh_json_number(o, "step"),          lh_json_number(o, "loss"),
                        lh_json_number(o, "bits_per_byte"), lh_json_number(o, "perplexity"),
                        lh_json_number(o, "accuracy"),      lh_json_number(o, "eval_s")};
    if (isfinite(l->step)) run->n_eval++;
done:
    return st;
}

/* The file while the run goes on: whole lines alone; lines that a crash has torn are counted. */
static lh_status run_metrics(lh_report_run *run)
{
    lh_status st = LH_OK;
    char *text = NULL;
    lh_json_item *o = NULL;
    LH_TRY(lh_run_tail(run->folder, "metrics.jsonl", RUN_METRICS, &text, &run->age_s));
    for (const char *line = text, *end = NULL; *line != '\0'; line = end + 1) {
        end = strchr(line, '\n');
        if (end == NULL) break;
        lh_json_release(&o);
        st = lh_json_read(line, (size_t)(end - line), &o);
        if (st == LH_ERR_FORMAT) {
            lh_error_clear();
            run->torn += end > line;
            continue;
        }
        LH_TRY(st);
        const char *event = lh_json_word(o, "event");
        if (event != NULL && strcmp(event, "train") == 0) LH_TRY(run_train_line(run, o));
        if (event != NULL && strcmp(event, "eval") == 0) LH_TRY(run_eval_line(run, o));
    }
    st = LH_OK;
done:
    lh_json_release(&o);
    lh_free(&text);
    return st;
}

/* --- the other files --- */

/* The state, and the last line of the log without its time. */
static lh_status run_log(lh_report_run *run)
{
    lh_status st = LH_OK;
    char *text = NULL;
    double age = 0.0, interval = (double)NAN;
    LH_TRY(lh_run_tail(run->folder, "log.txt", RUN_LOG, &text, &age));
    if (run->n_train > 0)
        interval = run->train[run->n_train - 1].step_s *
                   (double)(run->config != NULL ? run->config->train.log_every : 1);
    run->state = lh_run_judge(text, interval, run->age_s);
    size_t n = strlen(text);
    if (n > 0 && text[n - 1] == '\n') text[n - 1] = '\0';
    const char *last = strrchr(text, '\n');
    LH_TRY(lh_new_text(last != NULL ? last + 1 : text, &run->said));
done:
    lh_free(&text);
    return st;
}

static lh_status run_environment(lh_report_run *run)
{
    static const lh_unit units[] = {LH_UNIT_BYTE, LH_UNIT_TOKEN, LH_UNIT_ANSWER};
    lh_status st = LH_OK;
    char path[LH_PATH_MAX];
    char *text = NULL;
    size_t count = 0;
    LH_TRY(lhi_path(path, run->folder, "environment.json"));
    if (!lh_file_exists(NULL, path)) goto done; /* a run of an earlier version */
    LH_TRY(lh_read_small(NULL, path, &text, &count));
    st = lh_json_read(text, count, &run->environment);
    if (st != LH_OK) st = lh_error_context(st, "%s", path);
    LH_TRY(st);
    const char *unit = lh_json_word(run->environment, "unit");
    for (size_t i = 0; unit != NULL && i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(unit, lh_unit_name(units[i])) != 0) continue;
        run->unit = units[i];
        run->unit_known = true;
    }
done:
    lh_free(&text);
    return st;
}

/* Where no environment.json says the unit: what evaluations have, then what the task's name says. */
static void run_unit(lh_report_run *run)
{
    const lh_eval_line *e = lh_report_last_eval(run);
    if (run->unit_known) return;
    run->unit = LH_UNIT_ANSWER;
    if (e != NULL && isfinite(e->bits)) run->unit = LH_UNIT_BYTE;
    if (e != NULL && isfinite(e->perplexity)) run->unit = LH_UNIT_TOKEN;
    if (e == NULL && run->config != NULL &&
        (run->config->data.task == LH_TASK_TEXT || run->config->data.task == LH_TASK_MASKED_TEXT))
        run->unit = LH_UNIT_BYTE;
}

/* The step as the run does it: its ranks, threads and kernels, which its memory depends on. */
static lh_status run_plan(lh_report_run *run, const char *path)
{
    lh_status st = LH_OK;
    char threads[RUN_TEXT], isa[RUN_TEXT];
    const char *overrides[] = {threads, isa};
    const char *kernels = lh_json_word(run->environment, "isa");
    double ranks = lh_report_environment(run, "ranks");
    double count = lh_report_environment(run, "threads");
    if (!(ranks >= 1.0) || !(count >= 1.0) || kernels == NULL)
        return lh_new_text("the folder has no environment.json that tells its ranks",
                           &run->unplanned);
    if (ranks / (double)run->config->mesh.data > RUN_RANKS)
        return lh_new_text("so many ranks take long to plan: see longhaul plan", &run->unplanned);
    (void)snprintf(threads, sizeof threads, "device.threads=%.0f", count);
    (void)snprintf(isa, sizeof isa, "device.isa=%.32s", kernels);
    const lh_config_source source = {.read = lh_read_small,
                                     .path = path,
                                     .overrides = overrides,
                                     .n_overrides = 2,
                                     .flags = LH_CONFIG_PLAN};
    LH_TRY(lh_config_load(&source, &run->plan_config));
    LH_TRY(lh_step_plan_create(run->plan_config, (int)ranks, &run->plan));
done:
    return st;
}

lh_status lh_report_run_read(const char *folder, bool planned, lh_report_run *run)
{
    lh_status st = LH_OK;
    char path[LH_PATH_MAX];
    size_t count = 0;
    *run = (lh_report_run){.state = "new", .age_s = -1.0, .sweep = -1, .group = -1};
    LH_TRY(lh_new_text(folder, &run->folder));
    LH_TRY(lhi_path(path, folder, "config.yaml"));
    LH_CHECK(lh_file_exists(NULL, path), LH_ERR_USAGE,
             "'%s' is no run folder: it has no config.yaml; give folders that longhaul train made "
             "(run.output/run.name, or a sweep's run.output), and files of lines of longhaul scale",
             folder);
    const lh_config_source source = {.read = lh_read_small, .path = path, .flags = LH_CONFIG_PLAN};
    LH_TRY(run_remark(lh_config_load(&source, &run->config), &run->trouble));
    if (lh_read_small(NULL, path, &run->yaml, &count) != LH_OK) lh_error_clear();
    LH_TRY(lh_new_text(run->config != NULL ? run->config->run.name : folder, &run->label));
    LH_TRY(run_remark(run_metrics(run), &run->trouble));
    LH_TRY(run_remark(run_environment(run), &run->trouble));
    LH_TRY(run_remark(run_log(run), &run->trouble));
    run_unit(run);
    if (planned && run->config != NULL) LH_TRY(run_remark(run_plan(run, path), &run->unplanned));
done:
    return st;
}

void lh_report_run_free(lh_report_run *run)
{
    lh_step_plan_destroy(&run->plan);
    lh_config_destroy(&run->plan_config);
    lh_config_destroy(&run->config);
    lh_json_release(&run->environment);
    lh_free(&run->folder);
    lh_free(&run->label);
    lh_free(&run->yaml);
    lh_free(&run->trouble);
    lh_free(&run->unplanned);
    lh_free(&run->said);
    lh_free(&run->train);
    lh_free(&run->eval);
}

/* --- questions --- */

const lh_train_line *lh_report_last(const lh_report_run *run)
{
    return run->n_train > 0 ? &run->train[run->n_train - 1] : NULL;
}

const lh_eval_line *lh_report_last_eval(const lh_report_run *run)
{
    return run->n_eval > 0 ? &run->eval[run->n_eval - 1] : NULL;
}

double lh_report_environment(const lh_report_run *run, const char *key)
{
    return lh_json_number(run->environment, key);
}

double lh_report_measure(const lh_report_run *run)
{
    const lh_eval_line *e = lh_report_last_eval(run);
    if (e == NULL) return (double)NAN;
    return run->unit == LH_UNIT_BYTE    ? e->bits
           : run->unit == LH_UNIT_TOKEN ? e->perplexity
                                        : e->accuracy;
}

const char *lh_report_measure_name(lh_unit unit)
{
    return unit == LH_UNIT_BYTE    ? "bits per byte"
           : unit == LH_UNIT_TOKEN ? "perplexity"
                                   : "accuracy";
}

double lh_report_median(const lh_report_run *run, size_t offset)
{
    double *value = NULL;
    double median = (double)NAN;
    int64_t n = 0;
    if (lh_new((size_t)run->n_train * sizeof *value, &value) != LH_OK) return median;
    for (int64_t i = run->n_train > 1 ? 1 : 0; i < run->n_train; i++) {
        double x = *(const double *)((const char *)&run->train[i] + offset);
        if (isfinite(x)) value[n++] = x;
    }
    if (n > 0) median = lhi_bench_median(value, (int)n);
    lh_free(&value);
    return median;
}
