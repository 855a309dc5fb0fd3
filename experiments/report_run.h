#pragma once
/* What longhaul report knows of one run: all that its folder tells, while it may be going on. */
#include "experiments/config.h"
#include "experiments/step_plan.h"
#include "io/json_read.h"
#include "io/metrics.h"

/* A line of metrics.jsonl; NaN: it does not say. */
typedef struct lh_train_line {
    double step, loss, grad_norm, lr, tokens, tokens_per_s;
    double step_s, wait_s, data_s, optimizer_s, checkpoint_s;
    double sent, purpose[LH_SEND_OTHER];
    double peak, rss;
    bool skipped;
} lh_train_line;

typedef struct lh_eval_line {
    double step, loss, bits, perplexity, accuracy, seconds;
} lh_eval_line;

typedef struct lh_report_run {
    char *folder;      /* as given; owned */
    char *label;       /* run.name, or the folder where two have the same; owned */
    lh_config *config; /* NULL: config.yaml cannot be read; `trouble` says why */
    char *yaml;        /* config.yaml as it lies there */
    char *trouble;     /* what is wrong with the folder; NULL: nothing. Owned */
    const char *state; /* as lh_run_judge */
    double age_s;      /* since the last line of metrics; -1: there is none */
    lh_train_line *train;
    lh_eval_line *eval;
    int64_t n_train, train_room, n_eval, eval_room, torn; /* torn: lines that are none */
    char *said;                                           /* the last line of log.txt; owned */
    lh_json_item *environment;                            /* NULL: there is none */
    lh_step_plan *plan;                                   /* NULL: `unplanned` says why */
    lh_config *plan_config;                               /* with the run's threads and kernels */
    char *unplanned;
    lh_unit unit;
    bool unit_known;
    int sweep, group; /* of a sweep's point: which sweep, and which values; -1: of none */
} lh_report_run;

/* lh_report_run_read - read the folder. planned: also plan its step as it was run, to compare with. Local.
 * The caller frees *run (lh_report_run_free), also after an error. What is missing or damaged in the folder of
 * a run is said in the run's members; errors: LH_ERR_USAGE when it is no run's folder, LH_ERR_IO,
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_report_run_read(const char *folder, bool planned, lh_report_run *run);
void lh_report_run_free(lh_report_run *run);

/* lh_report_last - the last step's line, the last evaluation; NULL: none. lh_report_median - the median
 * over the lines of training but the first, which warms up, of the member at `offset`; NaN: there are none.
 * Local. */
const lh_train_line *lh_report_last(const lh_report_run *run);
const lh_eval_line *lh_report_last_eval(const lh_report_run *run);
double lh_report_median(const lh_report_run *run, size_t offset);

/* lh_report_measure - what the last evaluation says in the run's unit, NaN: there was none;
 * lh_report_measure_name - "bits per byte", "perplexity", "accuracy": static. Local. */
double lh_report_measure(const lh_report_run *run);
const char *lh_report_measure_name(lh_unit unit);

/* lh_report_environment - a number of environment.json; NaN where there is none. Local. */
double lh_report_environment(const lh_report_run *run, const char *key);
