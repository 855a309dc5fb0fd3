#pragma once
/* Training and evaluation of a run folder. */
#include <signal.h>

#include "experiments/session.h"
#include "io/files.h"

/* How a run ended. */
typedef struct lh_train_result {
    char folder[LH_PATH_MAX];
    int64_t step;
    bool stopped;        /* on request, with a checkpoint written */
    bool late;           /* this rank would stop now if there were more steps to do */
    lh_eval_result eval; /* of the last step; no tokens: there was none */
} lh_train_result;

/* lh_learning_rate - rate of step t = 1, 2, ...: linear warm-up over schedule.warmup steps, then
 * constant, linear or cosine down to final_lr at the last step, or peak sqrt(max(warmup, 1) / t)
 * (Vaswani et al. 2017, eq. 3). Local, pure. */
double lh_learning_rate(const lh_config *config, int64_t t);

/* lh_train - run config until its last step. resume: go on from the newest good checkpoint of the
 * folder. stop: set by a signal handler; the run then ends after the step with a checkpoint.
 * Collective on world. Progress goes to standard error of rank 0; the result is the caller's to print.
 * Errors: agreed; LH_ERR_USAGE when the folder has checkpoints and resume is false. */
LH_NODISCARD lh_status lh_train(lh_comm *world, lh_config *config, bool resume,
                                const volatile sig_atomic_t *stop, lh_train_result *out);

/* lh_train_print - the evaluation of the last step on standard output of rank 0; nothing if there was none.
 * Local. */
void lh_train_print(const lh_comm *world, const lh_train_result *result);

/* lh_evaluate - the newest good checkpoint of a run folder on the validation part (and the test
 * part, if there is one); one JSON object per part on standard output. config was loaded from `source`: a note
 * names keys of model and data with which the checkpoint was not trained, unless an override gives them.
 * Collective on world. Errors: agreed. */
LH_NODISCARD lh_status lh_evaluate(lh_comm *world, lh_config *config,
                                   const lh_config_source *source, const char *folder);
