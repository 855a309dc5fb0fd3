#pragma once
/* longhaul status: what a run is doing, read from its folder while it goes on. */
#include "parallel/comm.h"

#include <stdio.h>

/* lh_run_status_main - argv: a run folder and options (lh_run_status_help). Local, without MPI; nothing
 * in the folder is changed. Errors: LH_ERR_USAGE (no run folder, ...), LH_ERR_IO, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_run_status_main(lh_comm *none, int argc, char **argv);

/* lh_run_status_help - options and members of the JSON object. Local. */
void lh_run_status_help(FILE *out);
