#pragma once
/* What the files of the step plan share. Not public. */
#include "attention/attend.h"
#include "experiments/step_plan.h"

/* lhi_step_plan_tiles - add what rank `rank` computes, whose counting session is s, to the plan's
 * tiles. Local. Errors: LH_ERR_MEMORY; LH_ERR_BUG (plans and counted kernels differ). */
LH_NODISCARD lh_status lhi_step_plan_tiles(lh_step_plan *p, const lh_session *s, int rank);
