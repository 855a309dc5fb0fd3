#pragma once
/* Gradients of parameters over the mesh: their reduction and their norm. Both obey the placements:
 * a gradient that is PARTIAL where its parameter is REPLICATE is summed over that axis, once; a
 * shard is counted once.
 *
 * The reduction can run behind the backward pass: gradients that are final (lh_param.grad_final) join
 * a bucket in a fixed order, the reverse of declaration; a full bucket's sum starts at once and is
 * waited for at the end, or when no empty bucket is left. */
#include "core/params.h"
#include "parallel/comm.h"

enum { LH_REDUCE_BUCKETS = 8, LH_REDUCE_GROUPS = 3 };

/* Where packing stands: parameter number, descending, and its elements that are already packed. */
typedef struct lh_reduce_cursor {
    int64_t item, done;
} lh_reduce_cursor;

/* Gradients that are summed over the same axes. */
typedef struct lh_reduce_group {
    unsigned axes;
    lh_comm *comm;
    lh_reduce_cursor at; /* the next gradient to pack */
    int open;            /* the bucket that is being filled; -1: none */
} lh_reduce_group;

typedef struct lh_reduce_bucket {
    int group;
    lh_reduce_cursor from;
    int64_t n;       /* elements packed; 0: the bucket is empty */
    int64_t started; /* its number in the order of starting; 0: not started */
    lh_request request;
} lh_reduce_bucket;

/* A reduction under way. The caller's, who looks at nothing inside. */
typedef struct lh_reducer {
    const lh_mesh *mesh;
    lh_params *params;
    lh_real *host;
    int64_t elements, started;
    int buckets;
    lh_reduce_group group[LH_REDUCE_GROUPS];
    lh_reduce_bucket bucket[LH_REDUCE_BUCKETS];
} lh_reducer;

/* lh_reducer_begin - prepare to sum every gradient over the axes where it is PARTIAL. Local. All ranks
 * must declare the same parameters and pass the same numbers. host [buckets, elements] real, borrowed
 * until lh_reducer_finish; may be NULL on one rank. Counting mesh: never touched. Gradients with the
 * same placement travel together, without the gaps between them. Errors: LH_ERR_BUG, the same on all
 * ranks: a placement that no sum can repair, or no buffer. */
LH_NODISCARD lh_status lh_reducer_begin(lh_reducer *r, const lh_mesh *mesh, lh_params *params,
                                        lh_real *host, int64_t elements, int buckets);

/* lh_reducer_advance - start sums of what is final by now, let those under way move on. reducer: an
 * lh_reducer (for lh_tape_between). Collective on the mesh, at the same points of the pass. */
void lh_reducer_advance(void *reducer);

/* lh_reducer_finish - sum what is left, wait for all; then the gradients' placements are the
 * parameters'. Collective on the mesh. Cost of all: one all-reduce per `elements` elements of a group,
 * LH_SEND_PARAMETER: the bytes of the gradients, once. */
void lh_reducer_finish(lh_reducer *r);

/* lh_grads_reduce - all of it at once, after the backward pass, in one bucket: host [elements]. */
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
