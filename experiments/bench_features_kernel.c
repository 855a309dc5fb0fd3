/* bench features: the error of the estimated kernel beside its formulas (Choromanski et al. 2021, lemma 2
 * and theorem 2). */
#include <math.h>
#include <string.h>

#include "core/integer.h"
#include "core/random.h"
#include "experiments/bench_features_internal.h"

enum {
    FEATURES_KERNEL_ROWS = 1 << 20, /* rows of one projection, at most */
    FEATURES_KERNEL_DRAWS = 4       /* such projections, each of many independent draws */
};

/* Unbiased estimators. */
static const lhi_features_arm kernel_arms[] = {
    {"trig iid", {"estimator=trig", "orthogonal=false"}, 2, false, LH_FEATURE_TRIG},
    {"positive iid", {"orthogonal=false"}, 1, false, LH_FEATURE_POSITIVE},
    {"hyperbolic iid",
     {"estimator=hyperbolic", "orthogonal=false"},
     2,
     false,
     LH_FEATURE_HYPERBOLIC},
    {"positive orthogonal", {NULL}, 1, true, LH_FEATURE_POSITIVE},
};
enum { KERNEL_ARMS = sizeof kernel_arms / sizeof kernel_arms[0] };

/* Groups of head_width rows of a large projection are independent estimates of exp(x~.y~) for one
 * pair (x, y). */
typedef struct features_kernel {
    lhi_features_run run;
    int64_t groups, numbers; /* numbers of a group's features */
    void *x, *u, *c, *phi[2];
    lh_real *host[2];
    double a, b, sum; /* |x~ + y~|^2, |x~ - y~|^2, x~.y~ */
} features_kernel;

static lh_status kernel_open(features_kernel *k)
{
    lh_status st = LH_OK;
    int64_t d = k->run.o->head_width;
    int64_t wanted = (k->run.o->kernel_draws + FEATURES_KERNEL_DRAWS - 1) / FEATURES_KERNEL_DRAWS;
    k->groups = lhi_min(wanted, FEATURES_KERNEL_ROWS / d);
    k->numbers = d * k->run.arm->numbers;
    LH_TRY(lhi_features_mechanism(&k->run, k->groups * d));
    lh_device *device = k->run.device;
    size_t bytes = (size_t)(k->groups * d) * lh_dtype_bytes(LH_REAL);
    LH_TRY(lh_device_alloc(device, bytes, &k->x));
    LH_TRY(lh_device_alloc(device, bytes, &k->u));
    LH_TRY(lh_device_alloc(device, lh_dtype_bytes(LH_REAL), &k->c));
    for (int i = 0; i < 2; i++) {
        LH_TRY(lh_device_alloc(device, bytes * (size_t)k->run.arm->numbers, &k->phi[i]));
        LH_TRY(lh_new(bytes * (size_t)k->run.arm->numbers, &k->host[i]));
    }
    lh_run_fill(device, &(lh_fill_args){1, 0.0, k->c});
done:
    return st;
}

static void kernel_close(features_kernel *k)
{
    lh_device *d = k->run.device;
    for (int i = 0; i < 2; i++) {
        if (d != NULL) lh_device_release(d, &k->phi[i]);
        lh_free(&k->host[i]);
    }
    if (d != NULL) {
        lh_device_release(d, &k->x);
        lh_device_release(d, &k->u);
        lh_device_release(d, &k->c);
    }
    lhi_features_close(&k->run);
}

static double kernel_input(const features_kernel *k, int side, int64_t e)
{
    return k->run.o->scale * lh_random_normal((uint64_t)k->run.o->seed,
                                              lh_stream_id(LH_STREAM_TEST, (uint32_t)(10 + side)),
                                              (uint64_t)e);
}

/* Features of x (side 0) or y (side 1) of every group, without stabiliser (c = 0). */
static void kernel_features(features_kernel *k, int side, lh_real *rows)
{
    int64_t d = k->run.o->head_width;
    double scale = 1.0 / sqrt(sqrt((double)d));
    lh_device *device = k->run.device;
    for (int64_t i = 0; i < k->groups * d; i++) rows[i] = (lh_real)kernel_input(k, side, i % d);
    lh_copy_in(device, k->x, rows, (size_t)(k->groups * d) * sizeof *rows);
    lh_run_gemm(device, &(lh_gemm_args){k->groups * d, 1, d, scale, k->run.projection->value, d, 1,
                                        k->x, 1, 1, k->u, 1, 1, false});
    lh_run_feature(device, &(lh_feature_args){.kind = k->run.arm->kind,
                                              .rows = k->groups,
                                              .live = k->groups,
                                              .heads = 1,
                                              .width = d,
                                              .features = d,
                                              .scale = scale,
                                              .x = k->x,
                                              .u = k->u,
                                              .c = k->c,
                                              .phi = k->phi[side]});
    lh_copy_out(device, k->host[side], k->phi[side],
                (size_t)(k->groups * k->numbers) * lh_dtype_bytes(LH_REAL));
}

/* Mean square error of the estimates over all groups of all projections. */
static lh_status kernel_error(features_kernel *k, double truth, double *mse)
{
    lh_status st = LH_OK;
    lh_real *rows = NULL;
    const lh_param *w = k->run.projection;
    LH_TRY(lh_new((size_t)(k->groups * k->run.o->head_width) * sizeof *rows, &rows));
    *mse = 0.0;
    for (int draw = 0; draw < FEATURES_KERNEL_DRAWS; draw++) {
        LH_TRY(lh_params_draw(k->run.params, k->run.projection, (uint64_t)k->run.o->seed,
                              (uint64_t)draw << 32 | lh_name_number(w->name)));
        for (int side = 0; side < 2; side++) kernel_features(k, side, rows);
        for (int64_t g = 0; g < k->groups; g++) {
            double estimate = 0.0;
            for (int64_t i = g * k->numbers; i < (g + 1) * k->numbers; i++)
                estimate += (double)k->host[0][i] * (double)k->host[1][i];
            *mse += (estimate - truth) * (estimate - truth) /
                    (double)(k->groups * FEATURES_KERNEL_DRAWS);
        }
    }
done:
    lh_free(&rows);
    return st;
}

/* The formulas for independent rows, z = x~ + y~: lemma 2; orthogonal: the bound of theorem 2. */
static double kernel_formula(const features_kernel *k)
{
    double m = (double)k->run.o->head_width;
    double z = k->a;
    double sm = exp(2.0 * k->sum);
    double positive = exp(z) * sm * (1.0 - exp(-z)) / m;
    if (k->run.arm->kind == LH_FEATURE_TRIG)
        return exp(z) / sm * pow(1.0 - exp(-k->b), 2.0) / (2.0 * m);
    if (k->run.arm->kind == LH_FEATURE_HYPERBOLIC) return 0.5 * (1.0 - exp(-z)) * positive;
    if (!k->run.arm->orthogonal) return positive;
    double gain = exp(k->sum) - exp(-0.25 * (k->a + k->b)); /* (a + b) / 2 = |x~|^2 + |y~|^2 */
    return positive - (1.0 - 1.0 / m) * 2.0 / (m + 2.0) * gain * gain;
}

static lh_status features_kernel_case(const lhi_features_options *o, const lhi_features_arm *arm)
{
    lh_status st = LH_OK;
    features_kernel k = {.run = {.o = o, .arm = arm}};
    lh_json j = {0};
    double mse = 0.0;
    for (int64_t e = 0; e < o->head_width; e++) {
        double x = kernel_input(&k, 0, e) / sqrt(sqrt((double)o->head_width));
        double y = kernel_input(&k, 1, e) / sqrt(sqrt((double)o->head_width));
        k.a += (x + y) * (x + y);
        k.b += (x - y) * (x - y);
        k.sum += x * y;
    }
    LH_TRY(kernel_open(&k));
    LH_TRY(kernel_error(&k, exp(k.sum), &mse));
    lh_json_begin(&j);
    lh_json_string(&j, "kernel", arm->name);
    lh_json_int(&j, "rows", o->head_width);
    lh_json_real(&j, "scale", o->scale);
    lh_json_int(&j, "draws", k.groups * FEATURES_KERNEL_DRAWS);
    lh_json_real(&j, "truth", exp(k.sum));
    lh_json_real(&j, "mse", mse);
    lh_json_real(&j, arm->orthogonal ? "bound" : "formula", kernel_formula(&k));
    LH_TRY(lh_json_print(&j, stdout));
done:
    lh_json_free(&j);
    kernel_close(&k);
    return st;
}

lh_status lhi_features_kernels(const lhi_features_options *o)
{
    lh_status st = LH_OK;
    for (int a = 0; a < KERNEL_ARMS; a++) LH_TRY(features_kernel_case(o, &kernel_arms[a]));
done:
    return st;
}
