#pragma once
/* Where and how a run was started: RUN/environment.json, one JSON object, written anew by each start
 * that has steps to train. */
#include "experiments/session.h"

/* lh_environment_write - version, precision, ranks, threads, kernels, MPI, nodes, rank 0's host and
 * processor, when it started and after which step; the unit of the loss; by rank: rows, bytes of step
 * memory and of parameters with gradients and moments. Collective on world. Errors: agreed LH_ERR_IO,
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_environment_write(lh_comm *world, const lh_session *s, const char *folder,
                                            int64_t from_step);
