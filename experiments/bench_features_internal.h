#pragma once
/* What the bench_features*.c files share: the mechanism performer, made ready for one estimator. */
#include "experiments/bench_internal.h"

enum { LHI_FEATURES_LIST = 16 };
enum { LHI_FEATURES_Q, LHI_FEATURES_K, LHI_FEATURES_V, LHI_FEATURES_INPUTS };

/* An estimator. numbers: how many of the feature numbers one row of the projection makes. */
typedef struct lhi_features_arm {
    const char *name, *settings[4];
    int numbers;
    bool orthogonal;
    lh_feature_kind kind;
} lhi_features_arm;

typedef struct lhi_features_options {
    int64_t n, head_width, draws, seed, kernel_draws;
    double scale;
    const char *list; /* "16,32,128" */
    int count;
    int64_t features[LHI_FEATURES_LIST]; /* what list says */
} lhi_features_options;

/* One arm made ready. */
typedef struct lhi_features_run {
    const lhi_features_options *o;
    const lhi_features_arm *arm;
    int64_t features;
    const lh_attn_ops *ops;
    void *settings, *state;
    lh_attn_desc desc;
    lh_mesh *mesh;
    lh_device *device, *counting;
    lh_layout *layout;
    lh_params *params;
    lh_param *projection;
    lh_tape *tape;
    lh_memory *memory;
    void *arena[LH_SPACES], *value[LHI_FEATURES_INPUTS];
    lh_real *out; /* [n, head_width] */
    double *mse;  /* [draws] */
} lhi_features_run;

/* lhi_features_mechanism - the mechanism with `rows` rows of the projection: all of *r that needs no tape. Its o
 * and arm are set. Local. The caller closes r, also after an error. Errors: LH_ERR_UNSUP, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_features_mechanism(lhi_features_run *r, int64_t rows);

/* lhi_features_close - what of *r was made. Local. */
void lhi_features_close(lhi_features_run *r);

/* lhi_features_kernels - the error of the estimated kernel, one object an estimator, on standard output. Local.
 * Errors: as lhi_features_mechanism, LH_ERR_IO. */
LH_NODISCARD lh_status lhi_features_kernels(const lhi_features_options *o);
