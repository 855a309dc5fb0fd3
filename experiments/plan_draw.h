#pragma once
/* longhaul plan --draw: the attention of a step plan as a picture. */
#include "experiments/step_plan.h"

/* lh_plan_draw - who sees whom, by layer and head group, as SVG (experiments/picture_svg.h), with the
 * plan's tiles and main numbers. config: the plan's. *svg: zero-terminated, the caller releases it
 * with lh_free. Local, no MPI, no data. Errors: as lh_step_plan_create. */
LH_NODISCARD lh_status lh_plan_draw(lh_config *config, const lh_step_plan *plan, char **svg);
