#pragma once
/* Training the points of a sweep, or the one run of a file without. */
#include <signal.h>

#include "experiments/sweep.h"

typedef struct lh_sweep_wish {
    int64_t point; /* this one alone; 0: all, one after the other */
    bool resume;   /* finished points are left alone, others go on from their checkpoints */
    const volatile sig_atomic_t *stop; /* set by a signal handler */
} lh_sweep_wish;

/* lh_sweep_train - train. Before the first step of a sweep all its points' folders are looked at, and
 * sweep.json is written where it is not there yet; one that tells of other points is an error, one that lacks
 * the last ones is replaced. A point that fails is said and passed over; the error at the end names all
 * that have.
 * Collective on world; sweep as lh_sweep_load_all gives it. On standard output of rank 0 one JSON object
 * for each point that has ended; on its standard error progress, and a table of a sweep.
 * Errors: agreed; LH_ERR_STOPPED: on request or at train.time_limit, with a checkpoint, and there is more to
 * do. */
LH_NODISCARD lh_status lh_sweep_train(lh_comm *world, const lh_sweep *sweep,
                                      const lh_sweep_wish *wish);
