#pragma once
/* longhaul inspect: what a checkpoint or a token file holds, and whether it is whole. */
#include "parallel/comm.h"

#include <stdio.h>

/* lh_inspect_main - the command, in one process without MPI (none: NULL). Local. Errors:
 * LH_ERR_USAGE (arguments, no such file), LH_ERR_FORMAT (foreign or damaged), LH_ERR_IO,
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_inspect_main(lh_comm *none, int argc, char **argv);

/* lh_inspect_help - its help text. Local. */
void lh_inspect_help(FILE *out);
