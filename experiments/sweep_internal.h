#pragma once
/* Shared by sweep.c and sweep_axes.c. */
#include "experiments/sweep.h"
#include "io/yaml.h"

/* What varies together. An axis of the grid, or a list of seeds: its key takes these values. The list:
 * key is NULL, values are maps from keys to values. A number of seeds: values is NULL. */
typedef struct lhi_sweep_axis {
    const lh_node *key, *values;
    int64_t count;
} lhi_sweep_axis;

enum { LHI_SWEEP_AXES = 64 };
typedef struct lhi_sweep_axes {
    int count;
    lhi_sweep_axis axis[LHI_SWEEP_AXES]; /* the slowest first */
    int64_t points;
    lh_node seed; /* the key run.seed, where `seeds` is written */
} lhi_sweep_axes;

/* lhi_sweep_axes_read - of the `sweep` of a tree, checked but for the values themselves. Local, pure.
 * axes: borrows nodes of the tree and must not move. Errors: LH_ERR_USAGE with the place. */
LH_NODISCARD lh_status lhi_sweep_axes_read(const lh_node *root, lhi_sweep_axes *axes);

/* lhi_sweep_values - what point `index` (from 0) sets: a map from dotted keys, whose nodes have their places,
 * to values, run.seed too where seeds are listed. *shift: what a number of seeds adds to run.seed. Local.
 * *out is of y. Errors: LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_sweep_values(const lhi_sweep_axes *axes, int64_t index, lh_yaml *y,
                                        lh_node **out, int64_t *shift);
