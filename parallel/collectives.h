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

/* lh_all_reduce_all - as lh_all_reduce for n <= 8 values in one message; backward, those that a
 * gradient reached, in one message. x, y [n]; y may be x. */
LH_NODISCARD lh_status lh_all_reduce_all(lh_tape *t, lh_mesh *mesh, int axis, int n,
                                         const lh_var *x, lh_var *y);

/* lh_max_reduce - y = elementwise maximum over the sequence axis of what the ranks hold, all of
 * one shape: any placement there, but by position (LH_ERR_BUG) -> REPLICATE. No gradient passes.
 * Collective along the sequence. Sends count(x) elements, as LH_SEND_SUMMARY. */
LH_NODISCARD lh_status lh_max_reduce(lh_tape *t, lh_mesh *mesh, lh_var x, lh_var *y);

/* lh_scan - exclusive scan in position order: x [R, ...] holds one summary for each run of this
 * rank's rows in layout, in the order of lh_layout_runs (R = lh_scan_runs(layout); a rank with fewer
 * runs gives zeros for the rest); y of the same shape = the
 * sum of the summaries of all runs at smaller positions, exactly 0 for the first. Both lie as SHARD
 * of dimension 0 without layout along the sequence. Adjoint: the exclusive scan in reverse order. For
 * layouts with one ascending run per rank (contiguous: Hillis and Steele 1986) and with one ascending
 * and one descending run (zigzag: recursive doubling); others: LH_ERR_UNSUP with the reason. Sums are
 * added up in a fixed order, never subtracted. Collective along the sequence; a rank sends at most
 * ceil(log2 P) messages, lh_scan_sends summaries in all, as LH_SEND_SUMMARY. */
LH_NODISCARD lh_status lh_scan(lh_tape *t, lh_mesh *mesh, const lh_layout *layout, lh_var x,
                               lh_var *y);

/* lh_scan_runs - R of lh_scan: 1, or 2 (zigzag, also where no rank has two runs); 0: the layout is
 * refused. Local, pure. */
int64_t lh_scan_runs(const lh_layout *layout);

/* lh_scan_sends - summaries of one run that `rank` of `ranks` sends in one forward, or one backward,
 * scan, by formula. Local, pure. */
int64_t lh_scan_sends(int64_t runs, int ranks, int rank, bool backward);

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
