#pragma once
/* When a run stops before its last step: a signal on any rank, or train.time_limit on rank 0. */
#include <signal.h>

#include "parallel/comm.h"

typedef struct lh_stop {
    const volatile sig_atomic_t *asked; /* set by a signal handler; NULL: there is none */
    bool timed;                         /* there is a time limit; the same on all ranks */
    bool lead;                          /* this rank's clock counts */
    double deadline;                    /* by lh_wall: the process should have ended */
    double step_s, checkpoint_s;        /* the longest so far; a checkpoint: at first a guess */
    bool late;                          /* it was the time limit that asked */
} lh_stop;

/* lh_stop_begin - a limit of limit_s seconds (0: none) since `began`. checkpoint_bytes: of the checkpoint
 * whose time is not known yet. Local. */
void lh_stop_begin(lh_stop *s, const lh_comm *comm, double limit_s, double began,
                   double checkpoint_bytes);

/* lh_stop_now - should this rank ask to stop? Yes if a signal came, or if the time that is left may not
 * do for `steps` steps and a checkpoint. Local. */
bool lh_stop_now(lh_stop *s, double steps);

/* lh_stop_longest - *longest is at least the time since `began`. Local. */
void lh_stop_longest(double *longest, double began);
