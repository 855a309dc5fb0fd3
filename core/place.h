#pragma once
/* Placement: how a value lies over the mesh, one word per mesh axis.
 *
 *   REPLICATE  every rank holds the same value
 *   PARTIAL    the value is the sum over ranks of what they hold
 *   SHARD      dimension `dim` is split over the axis; along the sequence axis by `layout`
 *   HEADS      along the sequence axis: groups of ranks hold positions of `layout`, dimension `dim`, and
 *              the ranks of a group some of the heads, the dimension behind it (parallel/spread.h); with
 *              layout NULL dimension `dim` is the heads themselves. Only operations that say so take it
 *
 * The gradient of a value has the dual placement: SHARD -> SHARD, HEADS -> HEADS, REPLICATE -> PARTIAL,
 * PARTIAL -> REPLICATE. */
#include "core/layout.h"

enum { LH_AXIS_DATA = 0, LH_AXIS_SEQ = 1, LH_AXES = 2 };

typedef enum lh_place_kind { LH_REPLICATE, LH_PARTIAL, LH_SHARD, LH_HEADS } lh_place_kind;

typedef struct lh_place_word {
    lh_place_kind kind;
    int dim; /* SHARD, HEADS */
    /* SHARD, HEADS along the sequence axis; NULL along the data axis (even split) */
    const lh_layout *layout;
} lh_place_word;

typedef struct lh_place {
    lh_place_word axis[LH_AXES];
} lh_place;

/* lh_place_dual - placement of the gradient. Local. */
lh_place lh_place_dual(const lh_place *p);

/* lh_place_equal - same words; shards must share the layout object. Local. */
bool lh_place_equal(const lh_place *a, const lh_place *b);

/* lh_place_replicated, lh_place_tokens - {REPLICATE, REPLICATE}; {SHARD(0), SHARD(1, layout)}:
 * activations [B, s, ...]. Local. */
lh_place lh_place_replicated(void);
lh_place lh_place_tokens(const lh_layout *layout);

/* lh_place_rows - {REPLICATE, SHARD(0, layout)}: a parameter with one row per position. Local. */
lh_place lh_place_rows(const lh_layout *layout);

/* lh_place_partial - {PARTIAL, PARTIAL}: the loss before its reduction. Local. */
lh_place lh_place_partial(void);

/* lh_place_text - "[data: shard 0, sequence: partial]" into buf; returns buf. Local. */
const char *lh_place_text(const lh_place *p, char *buf, size_t bytes);
