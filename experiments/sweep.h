#pragma once
/* A sweep: one experiment file that describes many runs.
 *
 *     sweep:
 *       grid: {optimizer.lr: [1.0e-3, 2.0e-3], model.attention.window: [64, [64, 128]]}
 *       list: [{model.width: 64, model.heads: 2}, {model.width: 128, model.heads: 4}]
 *       seeds: 3            # run.seed, run.seed + 1, run.seed + 2; or a list of seeds
 *
 * Points are all combinations: seeds change slowest, then entries of the list, then the grid's keys as
 * they are written, the last one fastest. So more seeds are points at the end. A point's values are put
 * where its keys say, as --set does, over what the file says, and the result is checked as any
 * configuration.
 *
 * The folder run.output of a sweep holds sweep.json (lh_sweep.json) and one run for each point, named by
 * its number. */
#include "experiments/config.h"
#include "io/json_read.h"

enum {
    LH_SWEEP_MAX = 1000,    /* points */
    LH_SWEEP_DIR = 8,       /* bytes of a folder's name: "0001" */
    LH_SWEEP_TEXT = 400,    /* bytes for lh_sweep_text */
    LH_SWEEP_JSON = 1 << 20 /* bytes of sweep.json */
};

typedef struct lh_sweep_point {
    int64_t number; /* from 1 */
    char dir[LH_SWEEP_DIR];
    const lh_json_item *values; /* what is swept but run.seed, by dotted key; NULL: nothing */
    int64_t seed;
    char *yaml; /* the resolved configuration, but for the run's name; NULL: not known */
} lh_sweep_point;

/* One point that is no sweep where the file has none: then dir is "", values NULL, json NULL. */
typedef struct lh_sweep {
    bool swept;
    int64_t count;
    lh_sweep_point *point; /* [count]; NULL on ranks other than 0 */
    char *json;            /* what sweep.json says, without a newline */
    char *output;          /* on rank 0: run.output, the folder of all points */
    char *path;            /* how messages call the file */
    unsigned flags;        /* of the source */
    lh_json_item *told;    /* json as it is read; owns values */
} lh_sweep;

/* lh_sweep_load - read an experiment file as lh_config_load does, and resolve and check all its points
 * (source->point 0), or see that there is this one. Local but for source->read. The caller destroys *out.
 * Errors: as lh_config_load; what is wrong with a point alone begins with its number and values. */
LH_NODISCARD lh_status lh_sweep_load(const lh_config_source *source, lh_sweep **out);

/* lh_sweep_load_all - the same on rank 0 for all ranks, which get number and kind of the points.
 * Collective on comm; source on rank 0, its path and flags on all. The caller destroys *out. Errors:
 * agreed. */
LH_NODISCARD lh_status lh_sweep_load_all(lh_comm *comm, const lh_config_source *source,
                                         lh_sweep **out);

/* lh_sweep_config - the configuration of point `index` (from 0), its run named by the point. lh_sweep_config_all -
 * on all ranks; collective on comm. The caller destroys *out. Errors: LH_ERR_USAGE, LH_ERR_MEMORY; agreed. */
LH_NODISCARD lh_status lh_sweep_config(const lh_sweep *sweep, int64_t index, lh_config **out);
LH_NODISCARD lh_status lh_sweep_config_all(lh_comm *comm, const lh_sweep *sweep, int64_t index,
                                           lh_config **out);

/* lh_sweep_parse - points as a sweep.json [count bytes] tells them. Local, pure. name: how messages call it.
 * The caller destroys *out. Errors: LH_ERR_USAGE (it is none), LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_sweep_parse(const char *bytes, size_t count, const char *name,
                                      lh_sweep **out);

void lh_sweep_destroy(lh_sweep **sweep);

/* lh_sweep_same - have two points the same place, values and seed? Local, pure. */
bool lh_sweep_same(const lh_sweep_point *a, const lh_sweep_point *b);

/* lh_sweep_text - "optimizer.lr: 0.001, seed 2" into buf (LH_SWEEP_TEXT bytes), shortened; returns buf. Local. */
const char *lh_sweep_text(const lh_sweep_point *point, char *buf);
