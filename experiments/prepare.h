#pragma once
/* longhaul prepare: a text, a FASTA file or published ListOps examples as a token file (io/tokens.h). */
#include "parallel/comm.h"

#include <stdio.h>

/* lh_prepare_main - the command, in one process without MPI (none: NULL). The source is read twice,
 * never held; a vocabulary is. Local. Errors: LH_ERR_USAGE (arguments, and what is wrong with the
 * source: file:line), LH_ERR_IO, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_prepare_main(lh_comm *none, int argc, char **argv);

/* lh_prepare_help - its help text. Local. */
void lh_prepare_help(FILE *out);
