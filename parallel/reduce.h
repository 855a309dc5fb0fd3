#pragma once
/* Gradients of parameters over the mesh: their reduction and their norm. Both obey the placements:
 * a gradient that is PARTIAL where its parameter is REPLICATE is summed over that axis, once; a
 * shard is counted once. */
#include "core/params.h"
#include "parallel/comm.h"

/* lh_grads_reduce - sum every gradient over the axes where it is PARTIAL; then its placement is the
 * parameter's. Collective on the mesh: all ranks must declare the same parameters and pass the same
 * `elements`. host [elements] real: what is sent at a time; may be NULL on one rank. Counting mesh:
 * never touched. Parameters with the same placement travel together, without the gaps between them.
 * Cost: one all-reduce per `elements` elements, LH_SEND_PARAMETER: the bytes of the gradients,
 * once. Errors: LH_ERR_BUG before any message, the same on all ranks: a placement that no sum can
 * repair, or no buffer. */
LH_NODISCARD lh_status lh_grads_reduce(const lh_mesh *mesh, lh_params *params, lh_real *host,
                                       int64_t elements);

/* lh_grads_bytes - what lh_grads_reduce sends from this rank on a mesh of that size, by formula:
 * every gradient whose parameter is replicated along an axis of more than one rank, once. Local,
 * pure. */
int64_t lh_grads_bytes(const lh_params *params, const int size[LH_AXES]);

/* lh_grads_norm - squared norm of the reduced gradients, in two parts.
 * Local. scratch: device memory of two f64. On the device count both are 0. *replicated: of the
 * parameters that every rank holds, the same number on all ranks. *sharded: of the shards that this
 * rank answers for: sum it over the *world*, and each shard is counted once (ranks that hold a copy
 * of another rank's shard give 0). Squared norm = replicated + that sum. Errors: LH_ERR_BUG for a
 * gradient that is not reduced, or when there are no gradients. */
LH_NODISCARD lh_status lh_grads_norm(const lh_params *params, double *scratch, double *replicated,
                                     double *sharded);
