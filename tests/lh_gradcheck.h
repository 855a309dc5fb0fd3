#pragma once
/* Operations under test: run what a function records on a tape, and check its gradients.
 *
 * The function's inputs x and outputs y = f(x) become one number, <seed, y> (or the loss itself),
 * whose gradient is what the tape gives; so three checks apply, all of them also over several
 * ranks:
 *   Taylor      f(x + h u) - f(x) - h <gradient, u> falls as h^2 (a wrong gradient: as h)
 *   difference  (f(x + h e) - f(x - h e)) / 2 h for single entries
 *   adjoint     <A x, y> = <x, A' y> for linear operations
 * A step is run as the program runs it: counting pass, arenas, replay. Checks by differences make
 * sense in double only. */
#include "core/tape.h"

enum { LH_GRADCHECK_INPUTS = 12, LH_GRADCHECK_OUTPUTS = 4 };

typedef struct lh_gradcheck_input {
    lh_shape shape; /* of this rank */
    lh_place place;
    const void *data; /* host, elements of the shape's dtype; read by lh_gradcheck_open */
    bool gradient;    /* real, and its gradient is wanted */
} lh_gradcheck_input;

typedef struct lh_gradcheck {
    lh_device *device, *count; /* borrowed; count: counts with the same kernels */
    int size[LH_AXES], coord[LH_AXES];
    lh_dtype store; /* as lh_tape_store */
    int n_in;
    lh_gradcheck_input in[LH_GRADCHECK_INPUTS];
    /* Records operations: in[n_in], out[*n_out]. One output of type f64: it is the loss, and
     * backward starts from it. */
    lh_status (*record)(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out);
    double (*total)(void *user, double mine); /* sum over ranks; NULL: one rank */
    void *user;
    const lh_real *seed[LH_GRADCHECK_OUTPUTS]; /* host; NULL: random numbers of this rank */
    unsigned no_seed;                          /* bit i: no gradient reaches output i */
} lh_gradcheck;

/* One function made ready, and what its last step gave, in host memory. */
typedef struct lh_gradcheck_run {
    const lh_gradcheck *g;
    lh_tape *tape;
    lh_memory *memory;
    void *arena[LH_SPACES];
    void *value_device[LH_GRADCHECK_INPUTS], *grad_device[LH_GRADCHECK_INPUTS];
    void *seed_device[LH_GRADCHECK_OUTPUTS];
    void *value[LH_GRADCHECK_INPUTS];   /* copies: change them before a step */
    lh_real *grad[LH_GRADCHECK_INPUTS]; /* NULL where none is wanted */
    lh_real *seed[LH_GRADCHECK_OUTPUTS];
    void *out[LH_GRADCHECK_OUTPUTS];
    lh_shape out_shape[LH_GRADCHECK_OUTPUTS];
    int n_out;
    int64_t allocations; /* made by the tape in the last step */
} lh_gradcheck_run;

/* lh_gradcheck_open - the counting pass, arenas and buffers. Local. g is borrowed until
 * lh_gradcheck_close. Errors: what the function gives on the device count. */
LH_NODISCARD lh_status lh_gradcheck_open(const lh_gradcheck *g, lh_gradcheck_run *run);
void lh_gradcheck_close(lh_gradcheck_run *run);

/* lh_gradcheck_step - forward and backward from the values as they are. As collective as the
 * operations are. */
LH_NODISCARD lh_status lh_gradcheck_step(lh_gradcheck_run *run);

/* lh_gradcheck_taylor - the smallest slope of the Taylor remainder over three halvings from h along
 * a random direction; HUGE_VAL when the remainder is nothing but rounding (a linear function).
 * *moved: |h <gradient, u>| relative to the function's terms: 0 means that the check saw nothing.
 * Replicated inputs must hold the same on all ranks. */
LH_NODISCARD lh_status lh_gradcheck_taylor(lh_gradcheck_run *run, double h, double *slope,
                                           double *moved);

/* lh_gradcheck_difference - the largest error of central differences over about `entries` entries
 * of every input, of the largest entry of the input's gradient. One rank only. */
LH_NODISCARD lh_status lh_gradcheck_difference(lh_gradcheck_run *run, int64_t entries,
                                               double *worst);

/* lh_gradcheck_adjoint - of the last step: |<A x, y> - <x, A' y>| over the sum of the terms' sizes. */
double lh_gradcheck_adjoint(const lh_gradcheck_run *run);

/* lh_gradcheck_objective - of the last step: sum over outputs of <seed, output>, or the loss; over
 * all ranks. */
double lh_gradcheck_objective(const lh_gradcheck_run *run);

/* lh_gradcheck_all - one rank: opens, asserts that two steps give the same bits and the second
 * allocates nothing, and in double that Taylor slopes and central differences are right. Skips the
 * latter in float, and says so once. */
void lh_gradcheck_all(const lh_gradcheck *g, const char *name);
