#pragma once
/* Tolerances of the tests, by name. Relative unless the name says otherwise. A looser value needs
 * its reason in the commit message.
 *
 * Rank invariance (invariant 1): a gradient g of one parameter on P ranks against g' on one rank,
 *     |g - g'| <= LH_TOL_GRAD |g'| + LH_TOL_GRAD_ALL |all gradients|   (2-norms)
 * and the first step's loss within LH_TOL_LOSS. */
#include "core/tensor.h"

#include <float.h>
#include <math.h>

#ifdef LH_PRECISION_DOUBLE
#define LH_TOL_EPS DBL_EPSILON
#define LH_TOL_GRAD 1e-8
#define LH_TOL_GRAD_ALL 1e-12
#define LH_TOL_LOSS 1e-12
#define LH_TOL_GOLDEN_LOSS 1e-10 /* an independent implementation, first loss */
#define LH_TOL_GOLDEN_STEPS 1e-9 /* the same, losses of 10 AdamW steps */
#define LH_TOL_ATTEND 1e-13      /* attention against plain softmax, of the largest entry */
#else
#define LH_TOL_EPS ((double)FLT_EPSILON)
#define LH_TOL_GRAD 1e-4
#define LH_TOL_GRAD_ALL 1e-7
#define LH_TOL_LOSS 1e-6
#define LH_TOL_GOLDEN_LOSS 1e-6
#define LH_TOL_GOLDEN_STEPS 1e-4
#define LH_TOL_ATTEND 1e-5
#endif

/* device.store: bfloat16, whose numbers have 8 bits; 2-norms of all gradients together. On P ranks against
 * one rank gradients of rows are rounded on their way home, the loss is as invariant as in real; where
 * attention goes by heads, so are outputs and all gradients of it. Against a model that stores real
 * numbers: what bfloat16 changes. */
#define LH_TOL_STORE_GRAD 3e-3
#define LH_TOL_STORE_HEADS_LOSS 2e-5
#define LH_TOL_STORE_HEADS_GRAD 1e-2
#define LH_TOL_STORE_REAL_LOSS 1e-4
#define LH_TOL_STORE_REAL_GRAD 2e-2

/* Derivatives, checked in double only: central differences with step cbrt(eps) max(1, |x|), of the
 * largest entry; the Taylor remainder falls with the square of the step (slope 2), a wrong
 * gradient's with its first power. */
#define LH_TOL_DIFFERENCE 1e-7
#define LH_TOL_TAYLOR_SLOPE 1.9

/* lh_tol_sum - single operations that sum n terms: 8 sqrt(n) eps of the build's real. Local. */
static inline double lh_tol_sum(double n)
{
    return 8.0 * sqrt(n > 1.0 ? n : 1.0) * LH_TOL_EPS;
}

/* lh_tol_sum_float - the same for float kernels, whatever the build. Local. */
static inline double lh_tol_sum_float(double n)
{
    return 8.0 * sqrt(n > 1.0 ? n : 1.0) * (double)FLT_EPSILON;
}
