#include "tests/lh_gradcheck.h"

#include "core/random.h"
#include "tests/lh_test.h"
#include "tests/tol.h"

#include <math.h>
#include <string.h>

enum { SEED = 77, STREAM_SEED = 900, STREAM_DIRECTION = 901 };

static bool has_seed(const lh_gradcheck_run *run, int i)
{
    return run->out_shape[i].dtype == LH_REAL && !(run->g->no_seed >> i & 1u);
}

static lh_status record_inputs(lh_gradcheck_run *run, lh_var *in)
{
    lh_status st = LH_OK;
    const lh_gradcheck *g = run->g;
    for (int i = 0; i < g->n_in; i++) {
        const lh_gradcheck_input *x = &g->in[i];
        LH_TRY(lh_tape_leaf(run->tape, run->value_device[i], run->grad_device[i], x->shape,
                            x->place, &in[i]));
    }
done:
    return st;
}

static lh_status record_backward(lh_gradcheck_run *run, const lh_var *out)
{
    lh_var vars[LH_GRADCHECK_OUTPUTS];
    const void *seeds[LH_GRADCHECK_OUTPUTS];
    int n = 0;
    if (run->out_shape[0].dtype == LH_F64) return lh_tape_backward(run->tape, out[0]);
    for (int i = 0; i < run->n_out; i++) {
        if (!has_seed(run, i)) continue;
        vars[n] = out[i];
        seeds[n++] = run->seed_device[i];
    }
    return lh_tape_backward_from(run->tape, n, vars, seeds);
}

/* Forward, outputs, backward; on the device count or on the real one. */
static lh_status record_step(lh_gradcheck_run *run, lh_device *device)
{
    lh_status st = LH_OK;
    lh_var in[LH_GRADCHECK_INPUTS];
    lh_var out[LH_GRADCHECK_OUTPUTS];
    lh_tape_reset(run->tape, device, run->memory, true);
    LH_TRY(record_inputs(run, in));
    LH_TRY(run->g->record(run->g->user, run->tape, in, out, &run->n_out));
    for (int i = 0; i < run->n_out; i++) {
        const void *y = NULL;
        run->out_shape[i] = *lh_var_shape(run->tape, out[i]);
        LH_TRY(lh_var_data(run->tape, out[i], &y));
        if (!device->counting)
            lh_copy_out(device, run->out[i], y, lh_shape_bytes(&run->out_shape[i]));
    }
    LH_TRY(record_backward(run, out));
done:
    return st;
}

static lh_status open_inputs(lh_gradcheck_run *run)
{
    lh_status st = LH_OK;
    const lh_gradcheck *g = run->g;
    for (int i = 0; i < g->n_in; i++) {
        size_t bytes = lh_shape_bytes(&g->in[i].shape);
        LH_TRY(lh_new(bytes, &run->value[i]));
        if (bytes > 0) memcpy(run->value[i], g->in[i].data, bytes);
        LH_TRY(lh_device_alloc(g->device, bytes, &run->value_device[i]));
        if (!g->in[i].gradient) continue;
        LH_TRY(lh_new(bytes, &run->grad[i]));
        LH_TRY(lh_device_alloc(g->device, bytes, &run->grad_device[i]));
    }
done:
    return st;
}

static lh_status open_outputs(lh_gradcheck_run *run)
{
    lh_status st = LH_OK;
    const lh_gradcheck *g = run->g;
    uint64_t rank = (uint64_t)g->coord[0] * (uint64_t)g->size[1] + (uint64_t)g->coord[1];
    for (int i = 0; i < run->n_out; i++) {
        size_t bytes = lh_shape_bytes(&run->out_shape[i]);
        int64_t n = lh_shape_count(&run->out_shape[i]);
        LH_TRY(lh_new(bytes, &run->out[i]));
        if (!has_seed(run, i)) continue;
        LH_TRY(lh_new(bytes, &run->seed[i]));
        LH_TRY(lh_device_alloc(g->device, bytes, &run->seed_device[i]));
        for (int64_t k = 0; k < n; k++)
            run->seed[i][k] = g->seed[i] != NULL
                                  ? g->seed[i][k]
                                  : (lh_real)lh_random_normal(
                                        SEED + rank, STREAM_SEED + (uint64_t)i, (uint64_t)k);
        lh_copy_in(g->device, run->seed_device[i], run->seed[i], bytes);
    }
done:
    return st;
}

lh_status lh_gradcheck_open(const lh_gradcheck *g, lh_gradcheck_run *run)
{
    lh_status st = LH_OK;
    *run = (lh_gradcheck_run){.g = g};
    LH_TRY(open_inputs(run));
    LH_TRY(lh_tape_create(g->size, g->coord, &run->tape));
    lh_tape_store(run->tape, g->store);
    LH_TRY(lh_memory_create(&run->memory));
    LH_TRY(lh_memory_count_begin(run->memory));
    LH_TRY(record_step(run, g->count));
    LH_TRY(lh_memory_count_end(run->memory));
    LH_TRY(open_outputs(run));
    LH_TRY(lh_device_alloc(g->device, lh_memory_bytes(run->memory, LH_SPACE_DEVICE),
                           &run->arena[LH_SPACE_DEVICE]));
    LH_TRY(lh_host_alloc(lh_memory_bytes(run->memory, LH_SPACE_HOST), &run->arena[LH_SPACE_HOST]));
done:
    if (st != LH_OK) lh_gradcheck_close(run);
    return st;
}

void lh_gradcheck_close(lh_gradcheck_run *run)
{
    lh_device *d = run->g->device;
    for (int i = 0; i < LH_GRADCHECK_INPUTS; i++) {
        lh_device_release(d, &run->value_device[i]);
        lh_device_release(d, &run->grad_device[i]);
        lh_free(&run->value[i]);
        lh_free(&run->grad[i]);
    }
    for (int i = 0; i < LH_GRADCHECK_OUTPUTS; i++) {
        lh_device_release(d, &run->seed_device[i]);
        lh_free(&run->seed[i]);
        lh_free(&run->out[i]);
    }
    lh_device_release(d, &run->arena[LH_SPACE_DEVICE]);
    lh_host_release(&run->arena[LH_SPACE_HOST]);
    lh_tape_destroy(&run->tape);
    lh_memory_destroy(&run->memory);
}

lh_status lh_gradcheck_step(lh_gradcheck_run *run)
{
    lh_status st = LH_OK;
    const lh_gradcheck *g = run->g;
    for (int i = 0; i < g->n_in; i++) {
        lh_copy_in(g->device, run->value_device[i], run->value[i], lh_shape_bytes(&g->in[i].shape));
        if (run->grad[i] == NULL) continue;
        lh_run_fill(g->device,
                    &(lh_fill_args){lh_shape_count(&g->in[i].shape), 0.0, run->grad_device[i]});
    }
    lh_memory_replay(run->memory, g->device, run->arena[LH_SPACE_DEVICE],
                     run->arena[LH_SPACE_HOST]);
    int64_t before = lh_new_count();
    LH_TRY(record_step(run, g->device));
    run->allocations = lh_new_count() - before;
    for (int i = 0; i < g->n_in; i++)
        if (run->grad[i] != NULL)
            lh_copy_out(g->device, run->grad[i], run->grad_device[i],
                        lh_shape_bytes(&g->in[i].shape));
done:
    return st;
}

static double over_ranks(const lh_gradcheck_run *run, double mine)
{
    return run->g->total != NULL ? run->g->total(run->g->user, mine) : mine;
}

/* sum of seed * output and of its terms' sizes, of this rank. */
static double objective_mine(const lh_gradcheck_run *run, double *size)
{
    double sum = 0.0;
    *size = 0.0;
    for (int i = 0; i < run->n_out; i++) {
        if (run->out_shape[i].dtype == LH_F64 && i == 0) {
            sum += *(const double *)run->out[i];
            *size += fabs(*(const double *)run->out[i]);
        }
        if (!has_seed(run, i)) continue;
        const lh_real *y = run->out[i];
        for (int64_t k = 0; k < lh_shape_count(&run->out_shape[i]); k++) {
            sum += (double)run->seed[i][k] * (double)y[k];
            *size += fabs((double)run->seed[i][k] * (double)y[k]);
        }
    }
    return sum;
}

double lh_gradcheck_objective(const lh_gradcheck_run *run)
{
    double size = 0.0;
    return over_ranks(run, objective_mine(run, &size));
}

double lh_gradcheck_adjoint(const lh_gradcheck_run *run)
{
    double size = 0.0;
    double left = over_ranks(run, objective_mine(run, &size));
    double right = 0.0;
    for (int i = 0; i < run->g->n_in; i++) {
        if (run->grad[i] == NULL) continue;
        const lh_real *x = run->value[i];
        for (int64_t k = 0; k < lh_shape_count(&run->g->in[i].shape); k++) {
            right += (double)run->grad[i][k] * (double)x[k];
            size += fabs((double)run->grad[i][k] * (double)x[k]);
        }
    }
    right = over_ranks(run, right);
    size = over_ranks(run, size);
    return size > 0.0 ? fabs(left - right) / size : 0.0;
}

/* Direction of entry k of input i: the same on all ranks for what they all hold. */
static double direction(const lh_gradcheck_run *run, int i, int64_t k)
{
    const lh_gradcheck *g = run->g;
    uint64_t rank = 0;
    for (int a = 0; a < LH_AXES; a++)
        if (g->in[i].place.axis[a].kind != LH_REPLICATE)
            rank = rank * 64 + (uint64_t)g->coord[a] + 1;
    return lh_random_normal(SEED + rank, STREAM_DIRECTION + (uint64_t)i, (uint64_t)k);
}

/* value = base + h * direction, and the objective there. */
static lh_status step_along(lh_gradcheck_run *run, double h, double *f)
{
    for (int i = 0; i < run->g->n_in; i++) {
        if (run->grad[i] == NULL) continue;
        const lh_real *base = run->g->in[i].data;
        lh_real *x = run->value[i];
        for (int64_t k = 0; k < lh_shape_count(&run->g->in[i].shape); k++)
            x[k] = (lh_real)((double)base[k] + h * direction(run, i, k));
    }
    lh_status st = lh_gradcheck_step(run);
    *f = st == LH_OK ? lh_gradcheck_objective(run) : 0.0;
    return st;
}

lh_status lh_gradcheck_taylor(lh_gradcheck_run *run, double h, double *slope, double *moved)
{
    lh_status st = LH_OK;
    double f = 0.0;
    double f0 = 0.0;
    double size = 0.0;
    double along = 0.0;
    double rest[4] = {0};
    *slope = HUGE_VAL;
    LH_TRY(step_along(run, 0.0, &f0));
    (void)objective_mine(run, &size);
    for (int i = 0; i < run->g->n_in; i++)
        for (int64_t k = 0; run->grad[i] != NULL && k < lh_shape_count(&run->g->in[i].shape); k++)
            along += (double)run->grad[i][k] * direction(run, i, k);
    along = over_ranks(run, along);
    size = over_ranks(run, size) + fabs(along);
    *moved = size > 0.0 ? fabs(h * along) / size : 0.0;
    for (int i = 0; i < 4; i++, h /= 2) {
        LH_TRY(step_along(run, h, &f));
        rest[i] = fabs(f - f0 - h * along);
    }
    for (int i = 0; i < 3 && rest[0] > 1e3 * LH_TOL_EPS * size; i++)
        *slope = fmin(*slope, log2(rest[i] / rest[i + 1]));
    LH_TRY(step_along(run, 0.0, &f));
done:
    return st;
}

static lh_status difference_entry(lh_gradcheck_run *run, int i, int64_t k, double *slope)
{
    lh_status st = LH_OK;
    lh_real *x = (lh_real *)run->value[i] + k;
    double at = (double)*x;
    double h = cbrt(LH_TOL_EPS) * fmax(1.0, fabs(at));
    *x = (lh_real)(at + h);
    LH_TRY(lh_gradcheck_step(run));
    double above = lh_gradcheck_objective(run);
    *x = (lh_real)(at - h);
    LH_TRY(lh_gradcheck_step(run));
    *slope = (above - lh_gradcheck_objective(run)) / (2.0 * h);
done:
    *x = (lh_real)at;
    return st;
}

lh_status lh_gradcheck_difference(lh_gradcheck_run *run, int64_t entries, double *worst)
{
    lh_status st = LH_OK;
    lh_real *grad = NULL;
    *worst = 0.0;
    for (int i = 0; i < run->g->n_in; i++) {
        int64_t n = lh_shape_count(&run->g->in[i].shape);
        double largest = 0.0;
        if (run->grad[i] == NULL || n == 0) continue;
        LH_TRY(lh_gradcheck_step(run));
        LH_TRY(lh_new((size_t)n * sizeof *grad, &grad));
        memcpy(grad, run->grad[i], (size_t)n * sizeof *grad);
        for (int64_t k = 0; k < n; k++) largest = fmax(largest, fabs((double)grad[k]));
        int64_t stride = n > entries ? n / entries : 1;
        for (int64_t k = 0; k < n; k += stride) {
            double slope = 0.0;
            LH_TRY(difference_entry(run, i, k, &slope));
            *worst = fmax(*worst, fabs(slope - (double)grad[k]) / fmax(largest, 1e-3));
        }
        lh_free(&grad);
    }
done:
    lh_free(&grad);
    return st;
}

static void assert_repeats(lh_gradcheck_run *run)
{
    lh_real *first[LH_GRADCHECK_INPUTS] = {NULL};
    lh_assert_ok(lh_gradcheck_step(run));
    for (int i = 0; i < run->g->n_in; i++) {
        size_t bytes = lh_shape_bytes(&run->g->in[i].shape);
        if (run->grad[i] == NULL) continue;
        lh_assert_ok(lh_new(bytes, &first[i]));
        memcpy(first[i], run->grad[i], bytes);
    }
    lh_assert_ok(lh_gradcheck_step(run));
    for (int i = 0; i < run->g->n_in; i++) {
        if (run->grad[i] == NULL) continue;
        assert_memory_equal(first[i], run->grad[i], lh_shape_bytes(&run->g->in[i].shape));
        lh_free(&first[i]);
    }
    assert_int_equal(run->allocations, 0);
}

void lh_gradcheck_all(const lh_gradcheck *g, const char *name)
{
    lh_gradcheck_run run;
    double slope = 0.0;
    double moved = 0.0;
    double worst = 0.0;
    lh_assert_ok(lh_gradcheck_open(g, &run));
    assert_repeats(&run);
    if (sizeof(lh_real) == sizeof(double)) {
        lh_assert_ok(lh_gradcheck_taylor(&run, 1e-4, &slope, &moved));
        lh_assert_ok(lh_gradcheck_difference(&run, 60, &worst));
        if (slope < LH_TOL_TAYLOR_SLOPE || worst > LH_TOL_DIFFERENCE || moved <= 0.0)
            fail_msg("%s: Taylor slope %.3f, differences off by %.3g, moved %.3g", name, slope,
                     worst, moved);
    } else {
        print_message("[  SKIPPED ] %s: differences are checked in double\n", name);
    }
    lh_gradcheck_close(&run);
}
