#pragma once
/* longhaul status: what a run is doing, read from its folder while it goes on. */
#include "experiments/config.h"
#include "io/files.h"
#include "io/json_read.h"
#include "io/metrics.h"

#include <stdio.h>

/* A run as its folder tells. */
typedef struct lh_run_state {
    lh_config *config;          /* as it was saved */
    int64_t steps, log_every;   /* of it */
    lh_json_item *train, *eval; /* the last line of each in metrics.jsonl; NULL: none */
    const char *state; /* "finished", "stopped", "failed", "running", "silent", "new": static */
    double age_s;      /* since the last metrics line; -1: there is none */
    char folder[LH_PATH_MAX], checkpoint[LH_PATH_MAX]; /* the newest; "": none */
} lh_run_state;

/* lh_run_state_read - look at a run's folder. Local, without MPI; nothing is changed. The caller frees *out,
 * also after an error. Errors: LH_ERR_USAGE (no run folder, ...), LH_ERR_IO, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_run_state_read(const char *folder, lh_run_state *out);
void lh_run_state_free(lh_run_state *run);

/* lh_run_last_line - of the whole lines of metrics (lh_run_tail) the last one of an event; NULL: there is none.
 * The caller releases *out. Local. Errors: LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_run_last_line(const char *text, const char *event, lh_json_item **out);

/* lh_run_inside - name: the first folder in a folder that is a run, "": none (of many names not all are looked at).
 * Collective on comm; NULL: local. Errors: as of lh_folder_list. */
LH_NODISCARD lh_status lh_run_inside(lh_comm *comm, const char *folder, char name[LH_PATH_MAX]);

/* lh_run_left - seconds to the last step at the rate of the last one; NaN when that is not known, or over.
 * Local. */
double lh_run_left(const lh_run_state *run);

/* lh_run_state_json - its members, from "state" on, in an object that is open. Local. */
void lh_run_state_json(const lh_run_state *run, lh_json *j);

/* lh_run_status_main - argv: the folder of a run or a sweep, and options (lh_run_status_help). Local,
 * without MPI; nothing in the folder is changed. Errors: LH_ERR_USAGE (no run folder, ...), LH_ERR_IO,
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_run_status_main(lh_comm *none, int argc, char **argv);

/* lh_run_status_help - options and members of the JSON object. Local. */
void lh_run_status_help(FILE *out);
