/* Layer norm and RMS norm, alone or of a residual sum. */
#include "core/ops_internal.h"

typedef struct norm_attrs {
    double eps;
    bool rms;
} norm_attrs;

/* Inputs: x, w, b, and for add_norm h; outputs: y, statistics, and for add_norm x + h. */
enum { NORM_X, NORM_W, NORM_B, NORM_H };
enum { NORM_Y, NORM_STATS, NORM_SUM };

/* y and statistics of a.x, or of a.x + a.h, which goes to a.sum then. */
static lh_status norm_run(lh_call *c, lh_norm_args a)
{
    lh_status st = LH_OK;
    const norm_attrs *at = lh_call_attrs(c);
    const lh_shape *s = lh_call_in_shape(c, NORM_X);
    a.width = lhi_last(s);
    a.rows = lh_shape_count(s) / a.width;
    a.eps = at->eps;
    a.rms = at->rms;
    LH_TRY(lh_in(c, NORM_W, &a.w));
    if (lh_call_has_in(c, NORM_B)) LH_TRY(lh_in(c, NORM_B, &a.b));
    LH_TRY(lh_out(c, NORM_Y, &a.y));
    LH_TRY(lh_out(c, NORM_STATS, &a.stats));
    lh_run_norm(lh_call_device(c), &a);
done:
    return st;
}

/* The adjoint at x: adds to w's and b's gradients, and gives or adds dx; NULL: not wanted. */
static lh_status norm_adjoint(lh_call *c, const void *x, void *dx, bool accumulate)
{
    lh_status st = LH_OK;
    const void *dy = NULL;
    void *stats = NULL;
    int64_t width = lhi_last(lh_call_in_shape(c, NORM_X));
    lh_norm_grad_args a = {.width = width,
                           .rms = ((const norm_attrs *)lh_call_attrs(c))->rms,
                           .accumulate = accumulate};
    LH_TRY(lh_in(c, NORM_W, &a.w));
    LH_TRY(lh_out(c, NORM_STATS, &stats));
    LH_TRY(lh_out_grad(c, NORM_Y, &dy));
    LH_TRY(lh_in_grad_zeroed(c, NORM_W, &a.dw));
    if (lh_call_has_in(c, NORM_B)) LH_TRY(lh_in_grad_zeroed(c, NORM_B, &a.db));
    for (lhi_blocks it = lhi_blocks_of(c, NORM_X); lhi_block_next(&it);) {
        a.rows = it.count;
        a.x = lhi_at(x, it.at * width);
        a.stats = lhi_at(stats, it.at * 2);
        a.dy = lhi_at(dy, it.at * width);
        a.dx = dx == NULL ? NULL : lhi_at_mut(dx, it.at * width);
        lh_run_norm_grad(lh_call_device(c), &a);
    }
done:
    return st;
}

/* --- of one value --- */

static lh_status norm_forward(lh_call *c)
{
    lh_norm_args a = {0};
    lh_status st = lh_in(c, NORM_X, &a.x);
    return st == LH_OK ? norm_run(c, a) : st;
}

static lh_status norm_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    const void *x = NULL;
    void *dx = NULL;
    bool accumulate = false;
    LH_TRY(lh_in(c, NORM_X, &x));
    LH_TRY(lh_in_grad(c, NORM_X, &dx, &accumulate));
    LH_TRY(norm_adjoint(c, x, dx, accumulate));
done:
    return st;
}

/* y is not kept: whoever reads it in the backward pass gets it from x anew, by the forward kernel, which
 * writes the same statistics once more. */
static const lh_op norm_op = {.name = "norm",
                              .reads = LH_READS_IN(NORM_X) | LH_READS_IN(NORM_W) |
                                       LH_READS_IN(NORM_B) | LH_READS_OUT(NORM_STATS),
                              .exact = LH_READS_OUT(NORM_STATS),
                              .place = lhi_place_tokens,
                              .forward = norm_forward,
                              .vjp = norm_vjp,
                              .drops = LH_READS_OUT(NORM_Y),
                              .remake = norm_forward};

static lh_status norm_check(lh_tape *t, lh_var x, lh_var w, lh_var b)
{
    const lh_shape *s = lh_var_shape(t, x);
    if (s->ndim != 3 || lh_shape_count(lh_var_shape(t, w)) != s->dim[2] ||
        (b.id > 0 && lh_shape_count(lh_var_shape(t, b)) != s->dim[2]))
        return LH_RAISE(LH_ERR_BUG, "norm wants x [B, s, E] and weights [E]");
    return LH_OK;
}

static lh_status norm_record(lh_tape *t, lh_var x, lh_var w, lh_var b, norm_attrs attrs, lh_var *y)
{
    lh_status st = LH_OK;
    lh_var outs[2];
    lh_shape shapes[2] = {*lh_var_shape(t, x)};
    y->id = 0;
    LH_TRY(norm_check(t, x, w, b));
    shapes[NORM_STATS] = lh_shape_3(LH_REAL, shapes[0].dim[0], shapes[0].dim[1], 2);
    LH_TRY(lh_record(t, &norm_op, &attrs, sizeof attrs, 3, (lh_var[]){x, w, b}, 2, shapes, outs));
    *y = outs[NORM_Y];
done:
    return st;
}

lh_status lh_layer_norm(lh_tape *t, lh_var x, lh_var w, lh_var b, double eps, lh_var *y)
{
    return norm_record(t, x, w, b, (norm_attrs){eps, false}, y);
}

lh_status lh_rms_norm(lh_tape *t, lh_var x, lh_var w, double eps, lh_var *y)
{
    return norm_record(t, x, w, (lh_var){0}, (norm_attrs){eps, true}, y);
}

/* --- of a sum --- */

static lh_status add_norm_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    const lh_place rest[] = {in[NORM_X], in[NORM_W], in[NORM_B], lh_place_replicated()};
    char x[128];
    char h[128];
    if (!lh_place_equal(&in[NORM_X], &in[NORM_H]))
        return LH_RAISE(LH_ERR_BUG, "summands lie differently: %s and %s",
                        lh_place_text(&in[NORM_X], x, sizeof x),
                        lh_place_text(&in[NORM_H], h, sizeof h));
    return lhi_place_tokens(c, rest, out);
}

static lh_status add_norm_forward(lh_call *c)
{
    lh_status st = LH_OK;
    lh_norm_args a = {0};
    LH_TRY(lh_in(c, NORM_X, &a.x));
    LH_TRY(lh_in(c, NORM_H, &a.h));
    LH_TRY(lh_out(c, NORM_SUM, &a.sum));
    LH_TRY(norm_run(c, a));
done:
    return st;
}

static lh_status add_norm_remake(lh_call *c)
{
    void *sum = NULL;
    lh_status st = lh_out(c, NORM_SUM, &sum);
    return st == LH_OK ? norm_run(c, (lh_norm_args){.x = sum}) : st;
}

/* The norm's adjoint is added to what reached the sum, in the sum's own buffer, which then is the
 * gradient of both summands. */
static lh_status add_norm_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    const bool wanted = lh_wants_grad(c, NORM_X) || lh_wants_grad(c, NORM_H);
    const void *dy = NULL;
    void *sum = NULL;
    void *dsum = NULL;
    bool accumulate = false;
    LH_TRY(lh_out_grad(c, NORM_Y, &dy));
    LH_TRY(lh_out(c, NORM_SUM, &sum));
    if (dy != NULL) {
        if (wanted) LH_TRY(lh_out_grad_add(c, NORM_SUM, &dsum, &accumulate));
        LH_TRY(norm_adjoint(c, sum, dsum, accumulate));
    }
    if (!wanted) goto done;
    LH_TRY(lh_pass_grad(c, NORM_X, NORM_SUM));
    LH_TRY(lh_pass_grad(c, NORM_H, NORM_SUM));
done:
    return st;
}

static const lh_op add_norm_op = {.name = "add_norm",
                                  .reads = LH_READS_IN(NORM_W) | LH_READS_IN(NORM_B) |
                                           LH_READS_OUT(NORM_STATS) | LH_READS_OUT(NORM_SUM),
                                  .exact = LH_READS_OUT(NORM_STATS),
                                  .place = add_norm_place,
                                  .forward = add_norm_forward,
                                  .vjp = add_norm_vjp,
                                  .drops = LH_READS_OUT(NORM_Y),
                                  .remake = add_norm_remake};

lh_status lh_add_norm(lh_tape *t, const lh_add_norm_in *in, lh_var *sum, lh_var *y)
{
    lh_status st = LH_OK;
    const norm_attrs attrs = {in->eps, in->rms};
    const lh_shape s = *lh_var_shape(t, in->x);
    lh_var outs[3];
    sum->id = y->id = 0;
    LH_TRY(norm_check(t, in->x, in->w, in->b));
    LH_CHECK(lh_shape_equal(&s, lh_var_shape(t, in->h)), LH_ERR_BUG, "add: the shapes differ");
    const lh_shape shapes[] = {s, lh_shape_3(LH_REAL, s.dim[0], s.dim[1], 2), s};
    LH_TRY(lh_record(t, &add_norm_op, &attrs, sizeof attrs, 4,
                     (lh_var[]){in->x, in->w, in->b, in->h}, 3, shapes, outs));
    *sum = outs[NORM_SUM];
    *y = outs[NORM_Y];
done:
    return st;
}
