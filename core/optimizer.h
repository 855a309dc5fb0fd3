#pragma once
/* The optimiser: AdamW (Loshchilov and Hutter 2019, algorithm 2) over the parameters of this rank.
 *
 * With g the reduced gradient times grad_scale, and t = 1, 2, ... the step:
 *   m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
 *   x = x - lr decay x - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps).
 * Decay applies to parameters of two or more dimensions. Every rank updates what it holds;
 * replicated parameters stay equal, because their reduced gradients are. */
#include "core/params.h"

typedef struct lh_optimizer {
    double lr; /* of this step: the caller sets it from the schedule */
    double beta1, beta2, eps, weight_decay;
    double clip; /* largest norm of the whole gradient; 0: no clipping */
} lh_optimizer;

/* lh_optimizer_grad_scale - factor that brings a gradient of this norm down to the clip: min(1,
 * clip / norm) (Pascanu, Mikolov, Bengio 2013, algorithm 1). Local. 1 for a norm that is not
 * finite: the caller skips that step. */
double lh_optimizer_grad_scale(const lh_optimizer *o, double grad_norm);

/* lh_optimizer_step - one update of value, m and v of all parameters; t >= 1 counts updates. Local.
 * Errors: LH_ERR_BUG, before anything is changed, when a gradient is not reduced (its placement is
 * not the parameter's; the text names the parameter), when there are no gradients, or when t < 1. */
LH_NODISCARD lh_status lh_optimizer_step(const lh_optimizer *o, lh_params *p, int64_t t,
                                         double grad_scale);
