#pragma once
/* longhaul plan: a step plan as a table for people or as one JSON object. */
#include "experiments/step_plan.h"
#include "experiments/sweep.h"

#include <stdio.h>

/* lh_plan_json - the plan as one line of JSON (lh_plan_help lists its members). Local. Errors:
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_plan_json(const lh_step_plan *plan, FILE *out);

/* lh_plan_table - the plan for people; neighbouring layers or ranks that do the same share a row.
 * Local. */
void lh_plan_table(const lh_step_plan *plan, FILE *out);

/* lh_plan_points - the points of a sweep, one a line: number and values; json: what sweep.json says. Local.
 * Errors: as lh_sweep_load; LH_ERR_USAGE: there is no sweep. */
LH_NODISCARD lh_status lh_plan_points(const lh_config_source *source, bool json, FILE *out);

/* lh_plan_help - the command's options and the members of its JSON. Local. */
void lh_plan_help(FILE *out);
