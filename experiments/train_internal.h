#pragma once
/* A training run while it goes on: shared by train.c and train_say.c alone. */
#include "experiments/config_change.h"
#include "experiments/session.h"
#include "io/claim.h"
#include "io/files.h"
#include "io/metrics.h"

typedef struct train_run {
    lh_comm *world;
    lh_config *config;
    lh_session *session;
    lh_claim *claim; /* on the folder */
    lh_metrics *metrics;
    lh_log *log;
    lh_json json;
    lh_stop stop;
    char *yaml; /* the resolved configuration */
    char folder[LH_PATH_MAX], checkpoints[LH_PATH_MAX];
    int64_t step, samples, tokens; /* done so far */
    int64_t *sample_ids;           /* [data.batch]: of the last step */
    double rate; /* tokens per second of the last logged steps, for the progress line */
    double started;
    int64_t started_at;  /* step */
    lh_profile profile;  /* of the last step: what it does besides operations */
    double checkpoint_s; /* seconds spent on checkpoints since the last line of metrics */
    bool lead, terminal;
    bool ended; /* before this launch, with its evaluation */
} train_run;

/* lhi_train_say - a line for people: standard error and the log. On a terminal it replaces the progress
 * line. Local, as all here; rank 0 speaks. */
void lhi_train_say(train_run *r, const char *text);

/* lhi_train_say_start - what runs, and where it wastes the machine. lhi_train_say_resumed - from which step
 * (-1: none), and what differs from there on. lhi_train_say_skipped - that a step's update was left out. */
void lhi_train_say_start(train_run *r);
void lhi_train_say_resumed(train_run *r, int64_t from, const lh_change_list *noted);
void lhi_train_say_skipped(train_run *r, const lh_step_result *result);

/* lhi_train_progress - the line of a step. lhi_train_terminal - one line that is written over, or a line each
 * time? */
void lhi_train_progress(const train_run *r, const lh_step_result *result, double lr);
bool lhi_train_terminal(void);

/* lhi_train_unit - the loss in the unit of the task's labels, behind its name; "" where it has none. Returns
 * buf. */
enum { LHI_TRAIN_UNIT = 48 };
const char *lhi_train_unit(const lh_session *s, double loss, const char *bits,
                           const char *perplexity, char buf[LHI_TRAIN_UNIT]);
