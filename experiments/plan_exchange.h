#pragma once
/* What each exchange of rows would send: ring, Ulysses over all ranks, and groups of ranks with a ring.
 * Which sends fewer bytes depends on heads, window, length and ranks; a plan shows it. */
#include "experiments/step_plan.h"
#include "io/metrics.h"

#include <stdio.h>

/* lh_plan_exchanges - fills p->exchange by the mechanisms' formulas, for all ranks; s: the session of
 * one of them. One rank, or no layer with a choice: nothing. Local. Errors: LH_ERR_MEMORY,
 * LH_ERR_UNSUP. */
LH_NODISCARD lh_status lh_plan_exchanges(lh_step_plan *p, const lh_session *s);

/* lh_plan_exchange_json - the array "exchanges", by layer; empty where there is no choice.
 * lh_plan_exchange_table - for people. Local. */
void lh_plan_exchange_json(lh_json *j, const lh_step_plan *p);
void lh_plan_exchange_table(const lh_step_plan *p, FILE *out);
