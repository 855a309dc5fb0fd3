#include "experiments/nonfinite.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/pulse.h"

enum {
    NONFINITE_BLOCK = 1 << 16, /* bytes that are looked at at once */
    NONFINITE_TEXT = 320,
    NONFINITE_PASS = 40 /* an operation's place: pass << this | order on the tape */
};
#define NONFINITE_NOWHERE INT64_MAX

/* What a rank has found. */
typedef struct nonfinite_search {
    lh_inspector inspector; /* first: see is given this */
    lh_session *session;
    void *block;
    int64_t at; /* place of the first operation with such numbers; NONFINITE_NOWHERE: none */
    lh_tape_seen seen;
    int64_t bad; /* numbers of it that are not finite */
} nonfinite_search;

const char *lh_nonfinite_number(double x, char *text)
{
    if (isfinite(x))
        (void)snprintf(text, LH_NONFINITE_TEXT, "%.4g", x);
    else
        (void)snprintf(text, LH_NONFINITE_TEXT, "%s", isnan(x) ? "not a number" : "infinite");
    return text;
}

/* How many of a block's numbers are not finite. */
static int64_t nonfinite_block(const void *block, int64_t n, lh_dtype dtype, bool exact)
{
    int64_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        double x =
            dtype == LH_F64 ? ((const double *)block)[i] : (double)((const lh_real *)block)[i];
        bad += !isfinite(x) && !(exact && x < 0.0);
    }
    return bad;
}

/* The same of a tensor in device memory. */
static int64_t nonfinite_count(const nonfinite_search *f, const lh_shape *shape, const void *data,
                               bool exact)
{
    int64_t bad = 0;
    int64_t count = lh_shape_count(shape);
    int64_t bytes = (int64_t)lh_dtype_bytes(shape->dtype);
    if (shape->dtype != LH_REAL && shape->dtype != LH_F64) return 0;
    for (int64_t at = 0; at < count; at += NONFINITE_BLOCK / bytes) {
        int64_t n = count - at < NONFINITE_BLOCK / bytes ? count - at : NONFINITE_BLOCK / bytes;
        lh_copy_out(f->session->device, f->block, (const char *)data + at * bytes,
                    (size_t)(n * bytes));
        bad += nonfinite_block(f->block, n, shape->dtype, exact);
    }
    return bad;
}

static void nonfinite_see(lh_inspector *inspector, const lh_tape_seen *seen)
{
    nonfinite_search *f = (nonfinite_search *)inspector;
    if (f->at != NONFINITE_NOWHERE) return;
    f->bad = nonfinite_count(f, &seen->shape, seen->data, seen->exact);
    if (f->bad == 0) return;
    f->at = f->session->pass << NONFINITE_PASS | seen->order;
    f->seen = *seen;
}

/* The first parameter that has such numbers, into text; "": none has. gradient: or whose gradient, summed over
 * ranks. */
static void nonfinite_param(const nonfinite_search *f, bool gradient, char *text)
{
    const lh_params *params = f->session->params;
    text[0] = '\0';
    for (int64_t i = 0; i < params->count && text[0] == '\0'; i++) {
        const lh_param *p = params->item[i];
        const void *data = gradient ? p->grad : p->value;
        if (gradient && p->frozen) continue;
        int64_t bad = nonfinite_count(f, &p->shape, data, false);
        if (bad == 0) continue;
        (void)snprintf(text, NONFINITE_TEXT, "%s'%s' (%" PRId64 " of %" PRId64 " numbers)",
                       gradient ? "the gradient of " : "parameter ", p->name, bad,
                       lh_shape_count(&p->shape));
    }
}

static void nonfinite_operation(const nonfinite_search *f, char *text)
{
    char layer[32] = "outside the layers";
    text[0] = '\0';
    if (f->at == NONFINITE_NOWHERE) return;
    if (f->seen.part > 0) (void)snprintf(layer, sizeof layer, "in layer %d", f->seen.part - 1);
    (void)snprintf(text, NONFINITE_TEXT, "%s, %s of '%s' (%" PRId64 " of %" PRId64 " numbers)",
                   layer, lh_direction_name(f->seen.direction), f->seen.op, f->bad,
                   lh_shape_count(&f->seen.shape));
}

/* The rank that is to speak: the lowest of those that have found something in the earliest place. */
static bool nonfinite_speaks(const nonfinite_search *f, bool param)
{
    lh_comm *world = f->session->world;
    int64_t place = param ? -1 : f->at;
    int64_t first = -place;
    lh_max_i64(world, &first, 1, LH_SEND_OTHER);
    int64_t rank = place == -first ? -(int64_t)lh_comm_rank(world) : -(int64_t)lh_comm_size(world);
    lh_max_i64(world, &rank, 1, LH_SEND_OTHER);
    return rank == -(int64_t)lh_comm_rank(world);
}

static lh_status nonfinite_raise(const nonfinite_search *f, int64_t t, const lh_step_result *result,
                                 const char *param, const char *gradient)
{
    char operation[NONFINITE_TEXT], loss[LH_NONFINITE_TEXT], norm[LH_NONFINITE_TEXT];
    char streak[64] = "";
    nonfinite_operation(f, operation);
    if (f->session->config->train.on_nonfinite == LH_NONFINITE_SKIP)
        (void)snprintf(streak, sizeof streak, " (%" PRId64 " steps in a row)", f->session->skips);
    return LH_RAISE(LH_ERR_NONFINITE,
                    "step %" PRId64
                    ": the loss is %s, the gradient norm %s%s: first seen %s%s%s%s; nothing was "
                    "updated. Lower optimizer.lr, lengthen schedule.warmup, look at the data%s",
                    t, lh_nonfinite_number(result->loss, loss),
                    lh_nonfinite_number(result->grad_norm, norm), streak,
                    param[0] != '\0' ? "in " : "", param,
                    param[0] != '\0' && operation[0] != '\0' ? ", then " : "",
                    operation[0] != '\0'  ? operation
                    : param[0] != '\0'    ? ""
                    : gradient[0] != '\0' ? gradient
                                          : "in the sum over ranks",
                    streak[0] == '\0' ? ", or set train.on_nonfinite: skip" : "");
}

lh_status lh_nonfinite_report(lh_session *s, int64_t first_sample, int64_t t,
                              const lh_step_result *result)
{
    nonfinite_search f = {.inspector = {nonfinite_see}, .session = s, .at = NONFINITE_NOWHERE};
    char param[NONFINITE_TEXT], gradient[NONFINITE_TEXT];
    lh_status st = lh_agree(s->world, lh_new(NONFINITE_BLOCK, &f.block));
    if (st != LH_OK) return st;
    lh_pulse_phase(s->pulse, "looking for numbers that are not finite", 0);
    nonfinite_param(&f, false, param);
    nonfinite_param(&f, true, gradient);
    lh_session_again(s, first_sample, result->labels, &f.inspector);
    if (nonfinite_speaks(&f, param[0] != '\0'))
        st = nonfinite_raise(&f, t, result, param, gradient);
    lh_free(&f.block);
    return lh_agree(s->world, st);
}
