#pragma once
/* What a training step took and sent, in the mean over ranks: of metrics.jsonl. */
#include "core/profile.h"
#include "parallel/comm.h"

/* Seconds without waiting, but for wait_s; bytes. */
typedef struct lh_step_means {
    double wait_s;
    double data_s;      /* reading the batch */
    double optimizer_s; /* the update, with the gradient norm and setting gradients to 0 */
    double sent;        /* of all purposes that belong to a step */
    double purpose[LH_SEND_OTHER];
} lh_step_means;

/* lh_step_means_of - p: of this rank's step (lh_session_profile_step); before, after: traffic when it
 * began, and when it had ended. Collective on world. */
void lh_step_means_of(lh_comm *world, const lh_profile *p, const lh_traffic *before,
                      const lh_traffic *after, lh_step_means *out);
