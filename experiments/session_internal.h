#pragma once
/* What the session*.c files share. */
#include "experiments/session.h"

enum { LHI_SESSION_LANES = 3 /* of a step's second small reduction */ };

/* lhi_session_batch - the batch of a pass, whose data the host buffers hold. Local. */
lh_batch lhi_session_batch(lh_session *s, int64_t pass, double scale, int64_t sequence,
                           bool training);

/* lhi_session_sum_labels, lhi_session_sum_lanes - the small reductions of a step: counted labels before
 * it; loss, squared gradient norm and trouble before the update. Of the mesh, whose traffic is the
 * step's. Collective on it. */
void lhi_session_sum_labels(lh_session *s, int64_t *labels);
void lhi_session_sum_lanes(lh_session *s, double lanes[LHI_SESSION_LANES]);
