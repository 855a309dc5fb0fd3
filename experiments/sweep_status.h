#pragma once
/* What the points of a sweep are doing, from their folders. */
#include "experiments/run_status.h"
#include "experiments/sweep.h"

/* lh_sweep_point_state - look at a point's folder below `output`. Local. Its state is "waiting", and config
 * NULL, where there is no run yet. The caller frees *out, also after an error. Errors: as
 * lh_run_state_read. */
LH_NODISCARD lh_status lh_sweep_point_state(const char *output, const lh_sweep_point *point,
                                            lh_run_state *out);

/* lh_sweep_point_json - point, dir, values and seed as members of an object that is open. Local. */
void lh_sweep_point_json(const lh_sweep_point *point, lh_json *j);

/* lh_sweep_table - one line for each point: state, step, losses, values. Local. Errors: as
 * lh_run_state_read. */
LH_NODISCARD lh_status lh_sweep_table(FILE *out, const char *output, const lh_sweep *sweep);

/* lh_sweep_read - the sweep.json of a folder. Local. The caller destroys *out. Errors: LH_ERR_IO,
 * LH_ERR_USAGE, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_sweep_read(const char *output, lh_sweep **out);

/* lh_sweep_status - of a sweep's folder on standard output, for people or as one JSON object. Local. Errors: as
 * lh_sweep_read and lh_run_state_read. */
LH_NODISCARD lh_status lh_sweep_status(const char *output, bool json);
