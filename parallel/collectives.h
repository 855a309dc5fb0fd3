#pragma once
/* Collectives as operations of the tape, each with its adjoint. A library collective counts its
 * payload once. */
#include "core/tape.h"
#include "parallel/comm.h"

/* lh_all_reduce - y = sum of x over a mesh axis: PARTIAL -> REPLICATE. Adjoint: the same sum, since
 * the gradient of a replicated value is partial. For small summaries: real, any shape.
 * Collective along the axis. Sends count(x) elements forward and as many backward, as
 * LH_SEND_SUMMARY. */
LH_NODISCARD lh_status lh_all_reduce(lh_tape *t, lh_mesh *mesh, int axis, lh_var x, lh_var *y);

/* lh_gather - for short sequences: y [B, N, W], replicated along the sequence, of x [B, s, W]
 * sharded by position. Adjoint: reduce-scatter. Collective along the sequence. Sends count(x)
 * elements forward and count(y) backward, as LH_SEND_SUMMARY. */
LH_NODISCARD lh_status lh_gather(lh_tape *t, lh_mesh *mesh, lh_var x, lh_var *y);

/* lh_reduce_scatter - for short sequences: y [B, s, W], sharded by position, of the sum over ranks
 * of x [B, N, W], which is PARTIAL along the sequence. Adjoint: gather. layout: borrowed until the
 * tape is reset. Collective along the sequence. Sends count(x) elements forward and count(y)
 * backward, as LH_SEND_SUMMARY. */
LH_NODISCARD lh_status lh_reduce_scatter(lh_tape *t, lh_mesh *mesh, const lh_layout *layout,
                                         lh_var x, lh_var *y);
