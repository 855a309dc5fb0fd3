#pragma once
/* How a sequence of n positions lies over ranks: for each rank an ordered list of runs (start,
 * count, stride) of global positions. Local row r of a rank is the r-th position of its runs. Any n
 * >= 0, any number of ranks, empty shards.
 *
 * Positions are also cut into chunks at multiples of `chunk` in global position: products over
 * tokens run piece by piece, a piece being what one chunk and one run have in common, so that local
 * results do not depend on the number of ranks as long as shards are cut at chunk edges
 * (align_chunk). */
#include "core/kernels.h"

typedef struct lh_run {
    int64_t start, count, stride;
} lh_run;

/* An owned, growing list of runs in ascending order of position. */
typedef struct lh_runs {
    int64_t count, capacity;
    lh_run *run;
} lh_runs;

typedef struct lh_layout {
    int64_t n, chunk;
    int ranks;
    char name[16];   /* "contiguous", "zigzag", "everywhere", "runs" */
    bool everywhere; /* every rank holds all positions: keys that were gathered or summed */
    int64_t *first;  /* [ranks + 1]: runs of rank r are run[first[r]] .. run[first[r + 1] - 1] */
    lh_run *run;
    int64_t *rows;    /* [ranks]: local rows */
    int64_t max_rows; /* largest shard */
    uint64_t hash;    /* of n, chunk and runs: layouts with equal content make equal plans */
} lh_layout;

/* lh_layout_contiguous - rank r holds one run. align_chunk: whole chunks, spread as evenly as
 * possible (the first ranks get one more); otherwise positions are spread as evenly as possible.
 * Local, pure. n >= 0, ranks >= 1, chunk >= 1. The caller destroys *out. Errors: LH_ERR_MEMORY,
 * LH_ERR_BUG. */
LH_NODISCARD lh_status lh_layout_contiguous(int64_t n, int ranks, int64_t chunk, bool align_chunk,
                                            lh_layout **out);

/* lh_layout_zigzag - positions are cut into 2 ranks blocks; rank r holds block r and block 2 ranks -
 * 1 - r, so that causal attention is the same work on every rank (Zhu 2024, "ring flash attention").
 * align_chunk: blocks are whole chunks, as even as possible; otherwise as even as possible. Where they
 * cannot be equal, the early blocks of the first ranks get one chunk more, then their late ones: the
 * busiest rank has at most one chunk's share more rows, and work, than the mean. Runs of a rank: at
 * most two, ascending; empty blocks make none. Local, pure. */
LH_NODISCARD lh_status lh_layout_zigzag(int64_t n, int ranks, int64_t chunk, bool align_chunk,
                                        lh_layout **out);

/* lh_layout_everywhere - every rank holds positions 0 .. n - 1 (layout->everywhere): of keys that
 * are replicated along the sequence, for lh_attend. Not a placement. Local, pure. */
LH_NODISCARD lh_status lh_layout_everywhere(int64_t n, int ranks, int64_t chunk, lh_layout **out);

/* lh_layout_row - local row of a position on `rank`, -1 when it lies elsewhere. Local.
 * O(runs of the rank). */
int64_t lh_layout_row(const lh_layout *l, int rank, int64_t position);

/* lh_layout_moved - rows of `rank` in `from` that another rank holds in `to`, and rows of it in `to`
 * that another holds in `from`; positions that `to` does not have stay out. Counted one by one: the
 * formula for tables that are laid out anew. Local, pure. */
void lh_layout_moved(const lh_layout *from, const lh_layout *to, int rank, int64_t *leaving,
                     int64_t *arriving);

/* lh_layout_from_sizes - contiguous with given shard sizes [ranks]; their sum is n. Local, pure. */
LH_NODISCARD lh_status lh_layout_from_sizes(const int64_t *sizes, int ranks, int64_t chunk,
                                            lh_layout **out);

/* lh_layout_from_runs - any assignment: first [ranks + 1], run as above (copied). Every position
 * must occur once. Local, pure. Errors: LH_ERR_BUG when a position is missing or double. */
LH_NODISCARD lh_status lh_layout_from_runs(int64_t n, int ranks, int64_t chunk,
                                           const int64_t *first, const lh_run *run,
                                           lh_layout **out);

/* lh_layout_destroy - release it and null the handle. Local. */
void lh_layout_destroy(lh_layout **layout);

/* lh_layout_runs - the runs of a rank (borrowed) and how many. Local. */
const lh_run *lh_layout_runs(const lh_layout *l, int rank, int64_t *count);

/* lh_layout_position - global position of a local row. Local. */
int64_t lh_layout_position(const lh_layout *l, int rank, int64_t row);

/* A piece: local rows row .. row + count - 1 at positions position, position + stride, ... within
 * one chunk. */
typedef struct lh_piece {
    int64_t row, count, position, stride;
} lh_piece;

/* Iteration over the pieces of a rank in row order: lh_pieces it = lh_pieces_of(l, r); while
 * (lh_piece_next(&it, &p)) ... */
typedef struct lh_pieces {
    const lh_layout *layout;
    int rank;
    int64_t run, done, row;
} lh_pieces;
lh_pieces lh_pieces_of(const lh_layout *l, int rank);
bool lh_piece_next(lh_pieces *it, lh_piece *out);

/* lh_layout_intersect - local rows of `rank` whose positions lie in `needs` (starts ascending, stride
 * >= 1), as spans appended to *spans (lh_grow; caller frees with lh_free). *rows: how many. positions
 * may be NULL or receives the runs of global positions in the same order. Runs of needs may
 * interleave (several residue classes) but not share positions. Order: by run of the rank, then by
 * run of needs: the order of rows where runs of needs lie apart, each behind the one before.
 * Local, pure. O(log needs + runs that meet) per run of the rank for runs that lie apart, else
 * O(needs) and O(k^2) for k runs that interleave. Errors: LH_ERR_MEMORY; LH_ERR_BUG for needs that do
 * not ascend or share positions. */
LH_NODISCARD lh_status lh_layout_intersect(const lh_layout *l, int rank, const lh_runs *needs,
                                           lh_span **spans, int64_t *n_spans, int64_t *capacity,
                                           int64_t *rows, lh_runs *positions);

/* lh_runs_add - append a run; a run that continues the last one (same stride) is merged. Local. */
LH_NODISCARD lh_status lh_runs_add(lh_runs *runs, int64_t start, int64_t count, int64_t stride);

/* lh_runs_normalise - sort stride-1 runs and merge overlaps. Local. Errors: LH_ERR_BUG for another
 * stride. */
LH_NODISCARD lh_status lh_runs_normalise(lh_runs *runs);

/* lh_runs_total - number of positions. Local. */
int64_t lh_runs_total(const lh_runs *runs);

void lh_runs_clear(lh_runs *runs); /* keeps capacity */
void lh_runs_free(lh_runs *runs);
