#pragma once
/* longhaul bench: how fast and how big, one JSON object per measured case on standard output of
 * rank 0.
 *
 *   attention  one attention mechanism, forward and backward, against the machine's own matrix products
 *   step       training steps on random tokens: operation by operation, against the same
 *   exchange   messages alone: those of mechanisms and layouts, and of sizes
 *   features   how well random features estimate softmax attention */
#include "parallel/comm.h"

#include <stdio.h>

/* lh_bench_main - measure what the command line asks for. argv[0]: one of these words; then its
 * options (lh_bench_help). Collective on world (all processes of the job); the sequence is spread over all
 * of them. Same arguments on all ranks. Errors: agreed. LH_ERR_USAGE for arguments, LH_ERR_UNSUP
 * for an instruction set or a mechanism's refusal, LH_ERR_MEMORY, LH_ERR_IO when standard output
 * takes no more. */
LH_NODISCARD lh_status lh_bench_main(lh_comm *world, int argc, char **argv);

/* lh_bench_help - options, defaults and the fields of the output. Local. */
void lh_bench_help(FILE *out);
