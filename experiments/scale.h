#pragma once
/* longhaul scale: training steps of one experiment on several numbers of ranks, in one launch. */
#include "parallel/comm.h"

#include <stdio.h>

/* lh_scale_main - measure what the command line asks for (lh_scale_help): one JSON object per point on
 * standard output of rank 0. Collective on world (all processes of the job), of which each point takes
 * the first ranks while the others sleep. Same arguments on all ranks. Errors: agreed. LH_ERR_USAGE for
 * arguments and the experiment file, LH_ERR_UNSUP for what a mechanism refuses, LH_ERR_MEMORY,
 * LH_ERR_IO when standard output takes no more. */
LH_NODISCARD lh_status lh_scale_main(lh_comm *world, int argc, char **argv);

/* lh_scale_help - options and the fields of the output. Local. */
void lh_scale_help(FILE *out);
