#pragma once
/* Patterns and layouts that no mechanism has (yet), for tests of plans and of attention. */
#include "attention/pattern.h"

/* lh_test_same - i and j leave the same remainder. cover says MIXED to everything, needs are all
 * keys: both are allowed. */
lh_pattern lh_test_same(int64_t modulus);

/* lh_test_blocks - i and j lie in the same block; cover and needs are exact. */
lh_pattern lh_test_blocks(int64_t block);

/* lh_test_columns - everybody sees the first `count` positions; cover and needs are exact. */
lh_pattern lh_test_columns(int64_t count);

typedef enum lh_test_layout_kind {
    LH_TEST_ALIGNED,        /* contiguous, cut at chunk edges */
    LH_TEST_EVEN,           /* contiguous, cut anywhere */
    LH_TEST_UNEVEN,         /* contiguous; the second rank has nothing, the last one most */
    LH_TEST_ZIGZAG,         /* one early and one late stretch, cut anywhere */
    LH_TEST_CYCLIC,         /* every ranks-th position */
    LH_TEST_ZIGZAG_ALIGNED, /* zigzag, cut at chunk edges */
    LH_TEST_LAYOUTS
} lh_test_layout_kind;

/* lh_test_layout - the caller destroys *out. */
LH_NODISCARD lh_status lh_test_layout(lh_test_layout_kind kind, int64_t n, int ranks, int64_t chunk,
                                      lh_layout **out);
