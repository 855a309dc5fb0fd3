#pragma once
/* longhaul convert: the weights of a checkpoint with fewer key/value heads (Ainslie et al. 2023). */
#include "experiments/config.h"
#include "parallel/comm.h"

/* lh_convert_main - the command with its arguments behind the word `convert`. Local, without MPI (none:
 * NULL).
 * Errors: LH_ERR_USAGE with what to do; LH_ERR_UNSUP (no mechanism of the model can do with so few
 * heads); LH_ERR_IO, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_convert_main(lh_comm *none, int argc, char **argv);

/* lh_convert_help - the command's options and what the new file says. Local. */
void lh_convert_help(FILE *out);

/* lh_convert_hint - st, an error of reading the weights of checkpoint `path` for config; where these
 * have another number of key/value heads, the error says so and what to do. Collective on comm. */
lh_status lh_convert_hint(lh_comm *comm, const char *path, const lh_config *config, lh_status st);
