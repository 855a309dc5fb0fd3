/* What heads need besides products: means of sequences, activations. */
#include "core/ops_internal.h"

/* --- mean of the valid rows --- */

typedef struct mean_attrs {
    const int64_t *valid;
} mean_attrs;

/* Positions of sequence b that count. */
static int64_t mean_valid(const lh_call *c, int64_t b)
{
    const int64_t *valid = ((const mean_attrs *)lh_call_attrs(c))->valid;
    return valid != NULL ? valid[b] : lh_call_layout(c, 0)->n;
}

/* Rows of the running block at positions before `valid`; a block's positions ascend. */
static int64_t mean_rows(const lhi_blocks *it, int64_t valid)
{
    int64_t left = valid - it->piece.position;
    if (left <= 0) return 0;
    int64_t rows = (left + it->piece.stride - 1) / it->piece.stride;
    return rows < it->count ? rows : it->count;
}

/* Elements behind each position. */
static int64_t mean_width(const lh_call *c)
{
    const lh_shape *s = lh_call_out_shape(c, 0);
    return lh_shape_count(s) / s->dim[0];
}

static lh_status mean_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    (void)c;
    out[0] = in[0];
    out[0].axis[LH_AXIS_SEQ] = (lh_place_word){LH_PARTIAL, 0, NULL};
    return LH_OK;
}

static lh_status mean_forward(lh_call *c)
{
    lh_status st = LH_OK;
    const void *x = NULL;
    void *y = NULL;
    lh_device *d = lh_call_device(c);
    int64_t width = mean_width(c);
    int64_t batch = lh_call_out_shape(c, 0)->dim[0];
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_out(c, 0, &y));
    lh_run_fill(d, &(lh_fill_args){batch * width, 0.0, y});
    for (lhi_blocks it = lhi_blocks_of(c, 0); lhi_block_next(&it);)
        lh_run_bias_grad(d, &(lh_bias_grad_args){mean_rows(&it, mean_valid(c, it.b)), width,
                                                 lhi_at(x, it.at * width),
                                                 lhi_at_mut(y, it.b * width)});
    for (int64_t b = 0; b < batch; b++) {
        void *mean = lhi_at_mut(y, b * width);
        if (mean_valid(c, b) > 0)
            lh_run_axpy(d,
                        &(lh_axpy_args){width, 1.0 / (double)mean_valid(c, b), mean, mean, false});
    }
done:
    return st;
}

static lh_status mean_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    const void *dy = NULL;
    void *dx = NULL;
    void *share = NULL; /* of each row in the gradient */
    lh_device *d = lh_call_device(c);
    int64_t width = mean_width(c);
    LH_TRY(lh_out_grad(c, 0, &dy));
    LH_TRY(lh_in_grad_zeroed(c, 0, &dx));
    LH_TRY(lh_scratch(c, (size_t)width * lh_dtype_bytes(LH_REAL), &share));
    if (dx == NULL) goto done;
    for (lhi_blocks it = lhi_blocks_of(c, 0); lhi_block_next(&it);) {
        int64_t valid = mean_valid(c, it.b);
        int64_t rows = mean_rows(&it, valid);
        if (rows == 0) continue;
        lh_run_axpy(
            d, &(lh_axpy_args){width, 1.0 / (double)valid, lhi_at(dy, it.b * width), share, false});
        lh_run_bias(d, &(lh_bias_args){rows, width, share, lhi_at_mut(dx, it.at * width)});
    }
done:
    return st;
}

static const lh_op mean_op = {
    .name = "mean_rows", .place = mean_place, .forward = mean_forward, .vjp = mean_vjp};

lh_status lh_mean_rows(lh_tape *t, lh_var x, const int64_t *valid, lh_var *y)
{
    lh_status st = LH_OK;
    lh_shape shape = *lh_var_shape(t, x);
    const lh_place_word *w = &lh_var_place(t, x)->axis[LH_AXIS_SEQ];
    const mean_attrs attrs = {valid};
    LH_CHECK(shape.dtype == LH_REAL && shape.ndim >= 2 && w->kind == LH_SHARD && w->dim == 1 &&
                 w->layout != NULL,
             LH_ERR_BUG, "the mean is of the rows of x [B, s, ...], sharded by position");
    shape.dim[1] = 1;
    LH_TRY(lh_record(t, &mean_op, &attrs, sizeof attrs, 1, &x, 1, &shape, y));
done:
    return st;
}

/* --- activation --- */

static lh_status activation_forward(lh_call *c)
{
    lh_status st = LH_OK;
    const void *x = NULL;
    void *y = NULL;
    lh_act_kind act = *(const lh_act_kind *)lh_call_attrs(c);
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_out(c, 0, &y));
    lh_run_act(lh_call_device(c),
               &(lh_act_args){act, lh_shape_count(lh_call_in_shape(c, 0)), x, NULL, y});
done:
    return st;
}

static lh_status activation_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    const void *x = NULL;
    const void *dy = NULL;
    void *dx = NULL;
    void *own = NULL; /* this operation's gradient, where others came before */
    bool accumulate = false;
    lh_act_kind act = *(const lh_act_kind *)lh_call_attrs(c);
    int64_t n = lh_shape_count(lh_call_in_shape(c, 0));
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_out_grad(c, 0, &dy));
    LH_TRY(lh_in_grad(c, 0, &dx, &accumulate));
    if (dx == NULL) goto done;
    own = dx;
    if (accumulate) LH_TRY(lh_scratch(c, (size_t)n * lh_dtype_bytes(LH_REAL), &own));
    lh_run_act_grad(lh_call_device(c), &(lh_act_grad_args){act, n, x, NULL, dy, own, NULL});
    if (accumulate) lh_run_axpy(lh_call_device(c), &(lh_axpy_args){n, 1.0, own, dx, true});
done:
    return st;
}

static const lh_op activation_op = {.name = "activation",
                                    .reads = LH_READS_IN(0),
                                    .place = lhi_place_tokens,
                                    .forward = activation_forward,
                                    .vjp = activation_vjp};

lh_status lh_activation(lh_tape *t, lh_var x, lh_act_kind act, lh_var *y)
{
    const lh_shape shape = *lh_var_shape(t, x);
    if (shape.dtype != LH_REAL || act == LH_ACT_SWIGLU)
        return LH_RAISE(LH_ERR_BUG, "an activation of one input of real values, not of kind %d",
                        (int)act);
    return lh_record(t, &activation_op, &act, sizeof act, 1, &x, 1, &shape, y);
}
