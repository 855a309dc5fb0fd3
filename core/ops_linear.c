/* Products over tokens: the linear map and the MLP, chunk by chunk. */
#include "core/ops_internal.h"

/* y [rows, out] = x [rows, in] w [out, in]^T, then + bias. */
static void linear_rows(lh_device *d, int64_t rows, const lh_shape *w_shape, const void *x,
                        const void *w, const void *bias, void *y)
{
    int64_t out = w_shape->dim[0];
    int64_t in = w_shape->dim[1];
    lh_run_gemm(d, &(lh_gemm_args){rows, out, in, 1.0, x, in, 1, w, 1, in, y, out, 1, false});
    if (bias != NULL) lh_run_bias(d, &(lh_bias_args){rows, out, bias, y});
}

/* dx [rows, in] (+)= dy [rows, out] w [out, in]. */
static void linear_rows_dx(lh_device *d, int64_t rows, const lh_shape *w_shape, const void *dy,
                           const void *w, void *dx, bool accumulate)
{
    int64_t out = w_shape->dim[0];
    int64_t in = w_shape->dim[1];
    lh_run_gemm(d,
                &(lh_gemm_args){rows, in, out, 1.0, dy, out, 1, w, in, 1, dx, in, 1, accumulate});
}

/* dw [out, in] += dy [rows, out]^T x [rows, in]; dbias [out] += sum of dy. */
static void linear_rows_dw(lh_device *d, int64_t rows, const lh_shape *w_shape, const void *dy,
                           const void *x, void *dw, void *dbias)
{
    int64_t out = w_shape->dim[0];
    int64_t in = w_shape->dim[1];
    if (dw != NULL)
        lh_run_gemm(d, &(lh_gemm_args){out, in, rows, 1.0, dy, 1, out, x, in, 1, dw, in, 1, true});
    if (dbias != NULL) lh_run_bias_grad(d, &(lh_bias_grad_args){rows, out, dy, dbias});
}

static lh_status optional_in(lh_call *c, int i, const void **data)
{
    *data = NULL;
    return lh_call_has_in(c, i) ? lh_in(c, i, data) : LH_OK;
}

static lh_status optional_grad(lh_call *c, int i, void **data)
{
    *data = NULL;
    return lh_call_has_in(c, i) ? lh_in_grad_zeroed(c, i, data) : LH_OK;
}

/* A bias [width], or none. */
static bool fits_bias(const lh_tape *t, lh_var b, int64_t width)
{
    return b.id <= 0 || lh_shape_count(lh_var_shape(t, b)) == width;
}

/* --- linear: inputs x, w, b --- */

static lh_status linear_forward(lh_call *c)
{
    lh_status st = LH_OK;
    const void *x = NULL;
    const void *w = NULL;
    const void *b = NULL;
    void *y = NULL;
    const lh_shape *ws = lh_call_in_shape(c, 1);
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_in(c, 1, &w));
    LH_TRY(optional_in(c, 2, &b));
    LH_TRY(lh_out(c, 0, &y));
    for (lhi_blocks it = lhi_blocks_of(c, 0); lhi_block_next(&it);)
        linear_rows(lh_call_device(c), it.count, ws, lhi_at(x, it.at * ws->dim[1]), w, b,
                    lhi_at_mut(y, it.at * ws->dim[0]));
done:
    return st;
}

static lh_status linear_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    const void *x = NULL;
    const void *w = NULL;
    const void *dy = NULL;
    void *dx = NULL;
    void *dw = NULL;
    void *db = NULL;
    bool accumulate = false;
    const lh_shape *ws = lh_call_in_shape(c, 1);
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_in(c, 1, &w));
    LH_TRY(lh_out_grad(c, 0, &dy));
    LH_TRY(lh_in_grad(c, 0, &dx, &accumulate));
    LH_TRY(lh_in_grad_zeroed(c, 1, &dw));
    LH_TRY(optional_grad(c, 2, &db));
    for (lhi_blocks it = lhi_blocks_of(c, 0); lhi_block_next(&it);) {
        const void *dy_at = lhi_at(dy, it.at * ws->dim[0]);
        if (dx != NULL)
            linear_rows_dx(lh_call_device(c), it.count, ws, dy_at, w,
                           lhi_at_mut(dx, it.at * ws->dim[1]), accumulate);
        linear_rows_dw(lh_call_device(c), it.count, ws, dy_at, lhi_at(x, it.at * ws->dim[1]), dw,
                       db);
    }
done:
    return st;
}

static const lh_op linear_op = {.name = "linear",
                                .reads = LH_READS_IN(0) | LH_READS_IN(1),
                                .place = lhi_place_tokens,
                                .forward = linear_forward,
                                .vjp = linear_vjp};

lh_status lh_linear(lh_tape *t, lh_var x, lh_var w, lh_var b, lh_var *y)
{
    const lh_shape *xs = lh_var_shape(t, x);
    const lh_shape *ws = lh_var_shape(t, w);
    lh_shape shape = lh_shape_3(LH_REAL, xs->dim[0], xs->dim[1], ws->dim[0]);
    if (xs->ndim != 3 || ws->ndim != 2 || xs->dim[2] != ws->dim[1] || !fits_bias(t, b, ws->dim[0]))
        return LH_RAISE(LH_ERR_BUG, "linear wants x [B, s, in], w [out, in] and b [out]");
    return lh_record(t, &linear_op, NULL, 0, 3, (lh_var[]){x, w, b}, 1, &shape, y);
}

/* --- MLP: inputs x, up, up_bias, gate, gate_bias, down, down_bias; outputs y, values of up, values
 * of gate. Where nothing is kept for the backward pass there are no outputs but y: the values of up
 * and gate exist for one block of rows at a time, and the vjp computes them again --- */

enum { MLP_X, MLP_UP, MLP_UP_B, MLP_GATE, MLP_GATE_B, MLP_DOWN, MLP_DOWN_B, MLP_INPUTS };

typedef struct mlp_attrs {
    lh_act_kind act;
    bool keeps; /* the values of up and gate are outputs */
} mlp_attrs;

typedef struct mlp_data {
    const void *in[MLP_INPUTS];
    void *d_in[MLP_INPUTS];
    void *h_up, *h_gate; /* [B, s, F]; not kept: of one block */
    lh_act_kind act;
    bool keeps, dx_accumulate;
    const lh_shape *up, *down;
    lh_device *device;
} mlp_data;

static lh_status mlp_open(lh_call *c, mlp_data *m, size_t block_bytes)
{
    lh_status st = LH_OK;
    const mlp_attrs *a = lh_call_attrs(c);
    *m = (mlp_data){.act = a->act, .keeps = a->keeps};
    m->up = lh_call_in_shape(c, MLP_UP);
    m->down = lh_call_in_shape(c, MLP_DOWN);
    m->device = lh_call_device(c);
    for (int i = 0; i < MLP_INPUTS; i++) LH_TRY(optional_in(c, i, &m->in[i]));
    if (m->keeps) {
        LH_TRY(lh_out(c, 1, &m->h_up));
        if (m->act == LH_ACT_SWIGLU) LH_TRY(lh_out(c, 2, &m->h_gate));
    } else {
        LH_TRY(lh_scratch(c, block_bytes, &m->h_up));
        if (m->act == LH_ACT_SWIGLU) LH_TRY(lh_scratch(c, block_bytes, &m->h_gate));
    }
done:
    return st;
}

/* Bytes of [rows of the largest block, F]. */
static size_t mlp_block_bytes(const lh_call *c, const lhi_blocks *it)
{
    int64_t width = lh_call_in_shape(c, MLP_UP)->dim[0];
    return (size_t)(lhi_block_max(it) * width) * lh_dtype_bytes(LH_REAL);
}

/* The values of up and gate of a block. */
static void mlp_block_values(const mlp_data *m, const lhi_blocks *it)
{
    int64_t at = m->keeps ? it->at * m->up->dim[0] : 0;
    const void *x = lhi_at(m->in[MLP_X], it->at * m->up->dim[1]);
    linear_rows(m->device, it->count, m->up, x, m->in[MLP_UP], m->in[MLP_UP_B],
                lhi_at_mut(m->h_up, at));
    if (m->act == LH_ACT_SWIGLU)
        linear_rows(m->device, it->count, m->up, x, m->in[MLP_GATE], m->in[MLP_GATE_B],
                    lhi_at_mut(m->h_gate, at));
}

/* The activation's arguments for a block: SwiGLU activates the gate's values and multiplies by up's. */
static lh_act_args mlp_act_args(const mlp_data *m, const lhi_blocks *it, void *y)
{
    int64_t width = m->up->dim[0];
    int64_t at = m->keeps ? it->at * width : 0;
    const void *up = lhi_at(m->h_up, at);
    if (m->act != LH_ACT_SWIGLU) return (lh_act_args){m->act, it->count * width, up, NULL, y};
    return (lh_act_args){m->act, it->count * width, lhi_at(m->h_gate, at), up, y};
}

static lh_status mlp_forward(lh_call *c)
{
    lh_status st = LH_OK;
    mlp_data m;
    void *y = NULL;
    void *a = NULL;
    lhi_blocks it = lhi_blocks_of(c, 0);
    size_t bytes = mlp_block_bytes(c, &it);
    LH_TRY(mlp_open(c, &m, bytes));
    LH_TRY(lh_out(c, 0, &y));
    LH_TRY(lh_scratch(c, bytes, &a));
    while (lhi_block_next(&it)) {
        mlp_block_values(&m, &it);
        lh_act_args act = mlp_act_args(&m, &it, a);
        lh_run_act(m.device, &act);
        linear_rows(m.device, it.count, m.down, a, m.in[MLP_DOWN], m.in[MLP_DOWN_B],
                    lhi_at_mut(y, it.at * m.up->dim[1]));
    }
done:
    return st;
}

/* Gradients of one block. da: scratch for d(activation), becomes d(values before it); a: the
 * activation again. */
static void mlp_block_vjp(const mlp_data *m, const lhi_blocks *it, const void *dy, void *a,
                          void *da, void *dgate)
{
    int64_t in = m->up->dim[1];
    const void *x = lhi_at(m->in[MLP_X], it->at * in);
    const void *dy_at = lhi_at(dy, it->at * in);
    if (!m->keeps) mlp_block_values(m, it);
    lh_act_args act = mlp_act_args(m, it, a);
    lh_run_act(m->device, &act);
    linear_rows_dw(m->device, it->count, m->down, dy_at, a, m->d_in[MLP_DOWN], m->d_in[MLP_DOWN_B]);
    linear_rows_dx(m->device, it->count, m->down, dy_at, m->in[MLP_DOWN], da, false);
    bool swiglu = m->act == LH_ACT_SWIGLU;
    /* the kernel's dx is for what is activated: the gate's values in SwiGLU, then dgate is for up's */
    lh_run_act_grad(m->device, &(lh_act_grad_args){m->act, act.n, act.x, act.gate, da, da, dgate});
    const void *d_up = swiglu ? dgate : da;
    linear_rows_dw(m->device, it->count, m->up, d_up, x, m->d_in[MLP_UP], m->d_in[MLP_UP_B]);
    if (swiglu)
        linear_rows_dw(m->device, it->count, m->up, da, x, m->d_in[MLP_GATE], m->d_in[MLP_GATE_B]);
    if (m->d_in[MLP_X] == NULL) return;
    void *dx = lhi_at_mut(m->d_in[MLP_X], it->at * in);
    linear_rows_dx(m->device, it->count, m->up, d_up, m->in[MLP_UP], dx, m->dx_accumulate);
    if (swiglu) linear_rows_dx(m->device, it->count, m->up, da, m->in[MLP_GATE], dx, true);
}

static lh_status mlp_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    mlp_data m;
    const void *dy = NULL;
    void *a = NULL;
    void *da = NULL;
    void *dgate = NULL;
    lhi_blocks it = lhi_blocks_of(c, 0);
    size_t bytes = mlp_block_bytes(c, &it);
    LH_TRY(mlp_open(c, &m, bytes));
    LH_TRY(lh_out_grad(c, 0, &dy));
    LH_TRY(lh_in_grad(c, MLP_X, &m.d_in[MLP_X], &m.dx_accumulate));
    for (int i = MLP_UP; i < MLP_INPUTS; i++) LH_TRY(optional_grad(c, i, &m.d_in[i]));
    LH_TRY(lh_scratch(c, bytes, &a));
    LH_TRY(lh_scratch(c, bytes, &da));
    if (m.act == LH_ACT_SWIGLU) LH_TRY(lh_scratch(c, bytes, &dgate));
    while (lhi_block_next(&it)) mlp_block_vjp(&m, &it, dy, a, da, dgate);
done:
    return st;
}

static const lh_op mlp_op = {.name = "mlp",
                             .reads = UINT64_MAX & ~LH_READS_OUT(0), /* y is not read */
                             .place = lhi_place_tokens,
                             .forward = mlp_forward,
                             .vjp = mlp_vjp};

lh_status lh_mlp(lh_tape *t, lh_var x, const lh_mlp_weights *w, lh_act_kind act, lh_var *y)
{
    const lh_shape *xs = lh_var_shape(t, x);
    const lh_shape *up = lh_var_shape(t, w->up);
    const lh_shape *down = lh_var_shape(t, w->down);
    lh_shape shapes[3] = {*xs, lh_shape_3(LH_REAL, xs->dim[0], xs->dim[1], up->dim[0])};
    lh_var outs[3];
    mlp_attrs attrs = {act, lh_tape_keeps(t)};
    bool swiglu = act == LH_ACT_SWIGLU;
    shapes[2] = shapes[1];
    if (xs->ndim != 3 || up->dim[1] != xs->dim[2] || down->dim[0] != xs->dim[2] ||
        down->dim[1] != up->dim[0] || swiglu != (w->gate.id > 0) ||
        (swiglu && !lh_shape_equal(up, lh_var_shape(t, w->gate))) ||
        !fits_bias(t, w->up_bias, up->dim[0]) || !fits_bias(t, w->gate_bias, up->dim[0]) ||
        !fits_bias(t, w->down_bias, down->dim[0]))
        return LH_RAISE(LH_ERR_BUG, "mlp wants x [B, s, E], up [F, E], down [E, F], for SwiGLU "
                                    "gate [F, E], and biases as wide as what they are added to");
    lh_status st =
        lh_record(t, &mlp_op, &attrs, sizeof attrs, MLP_INPUTS,
                  (lh_var[]){x, w->up, w->up_bias, w->gate, w->gate_bias, w->down, w->down_bias},
                  !attrs.keeps ? 1
                  : swiglu     ? 3
                               : 2,
                  shapes, outs);
    *y = outs[0];
    return st;
}

/* --- loss: inputs x, w, labels, b; outputs loss, correct, lse --- */

typedef struct loss_attrs {
    double scale;
} loss_attrs;

/* Each rank has the sum over the labels that it counts: PARTIAL, also where x is whole. */
static lh_status loss_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    lh_status st = LH_OK;
    (void)c;
    LH_CHECK(lh_place_equal(&in[0], &in[2]), LH_ERR_BUG, "labels must lie as the tokens do");
    for (int a = 0; a < LH_AXES; a++)
        LH_CHECK(in[0].axis[a].kind != LH_PARTIAL && in[1].axis[a].kind == LH_REPLICATE &&
                     in[3].axis[a].kind == LH_REPLICATE,
                 LH_ERR_BUG, "the loss wants whole tokens and replicated weights");
    out[0] = out[1] = lh_place_partial();
    out[2] = in[0];
done:
    return st;
}

/* Does this rank count its rows? Those that several ranks hold are counted by the first. */
static bool loss_counts(const lh_call *c)
{
    bool counts = true;
    for (int a = 0; a < LH_AXES; a++)
        counts = counts && (lh_call_in_place(c, 0)->axis[a].kind == LH_SHARD ||
                            lh_tape_coord(lh_call_tape(c), a) == 0);
    return counts;
}

typedef struct loss_data {
    const void *x, *w, *b;
    const int32_t *labels;
    const lh_shape *shape; /* of w */
    void *logits, *lse;
    double scale;
    lh_device *device;
} loss_data;

static lh_status loss_open(lh_call *c, loss_data *l, lhi_blocks *it)
{
    lh_status st = LH_OK;
    const void *labels = NULL;
    *l = (loss_data){.shape = lh_call_in_shape(c, 1), .device = lh_call_device(c)};
    l->scale = ((const loss_attrs *)lh_call_attrs(c))->scale;
    LH_TRY(lh_in(c, 0, &l->x));
    LH_TRY(lh_in(c, 1, &l->w));
    LH_TRY(lh_in(c, 2, &labels));
    LH_TRY(optional_in(c, 3, &l->b));
    LH_TRY(lh_out(c, 2, &l->lse));
    l->labels = labels;
    *it = lhi_blocks_of(c, 0);
    LH_TRY(lh_scratch(c, (size_t)(lhi_block_max(it) * l->shape->dim[0]) * lh_dtype_bytes(LH_REAL),
                      &l->logits));
    if (!loss_counts(c)) it->batch = 0;
done:
    return st;
}

static lh_status loss_forward(lh_call *c)
{
    lh_status st = LH_OK;
    loss_data l;
    lhi_blocks it;
    void *out[2] = {NULL};
    void *sums = NULL;
    const double zero[2] = {0.0, 0.0};
    LH_TRY(loss_open(c, &l, &it));
    for (int i = 0; i < 2; i++) LH_TRY(lh_out(c, i, &out[i]));
    LH_TRY(lh_scratch(c, sizeof zero, &sums));
    lh_copy_in(l.device, sums, zero, sizeof zero);
    while (lhi_block_next(&it)) {
        linear_rows(l.device, it.count, l.shape, lhi_at(l.x, it.at * l.shape->dim[1]), l.w, l.b,
                    l.logits);
        lh_run_cross_entropy(l.device, &(lh_cross_entropy_args){it.count, l.shape->dim[0], l.logits,
                                                                l.labels + it.at,
                                                                lhi_at_mut(l.lse, it.at), sums});
    }
    double loss = lh_read_scalar(l.device, sums, LH_F64) * l.scale;
    double correct = lh_read_scalar(l.device, (double *)sums + 1, LH_F64);
    lh_copy_in(l.device, out[0], &loss, sizeof loss);
    lh_copy_in(l.device, out[1], &correct, sizeof correct);
done:
    return st;
}

static lh_status loss_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    loss_data l;
    lhi_blocks it;
    const void *dloss = NULL;
    void *dx = NULL;
    void *dw = NULL;
    void *db = NULL;
    bool accumulate = false;
    LH_TRY(loss_open(c, &l, &it));
    LH_TRY(lh_out_grad(c, 0, &dloss));
    LH_CHECK(dloss != NULL, LH_ERR_BUG, "only the loss has a gradient");
    if (loss_counts(c)) {
        LH_TRY(lh_in_grad(c, 0, &dx, &accumulate));
    } else {
        LH_TRY(lh_in_grad_zeroed(c, 0, &dx));
    }
    LH_TRY(lh_in_grad_zeroed(c, 1, &dw));
    LH_TRY(optional_grad(c, 3, &db));
    while (lhi_block_next(&it)) {
        const void *x_at = lhi_at(l.x, it.at * l.shape->dim[1]);
        linear_rows(l.device, it.count, l.shape, x_at, l.w, l.b, l.logits);
        lh_run_cross_entropy_grad(
            l.device,
            &(lh_cross_entropy_grad_args){it.count, l.shape->dim[0], l.logits, l.labels + it.at,
                                          lhi_at(l.lse, it.at), l.scale, dloss});
        if (dx != NULL)
            linear_rows_dx(l.device, it.count, l.shape, l.logits, l.w,
                           lhi_at_mut(dx, it.at * l.shape->dim[1]), accumulate);
        linear_rows_dw(l.device, it.count, l.shape, l.logits, x_at, dw, db);
    }
done:
    return st;
}

static const lh_op loss_op = {.name = "lm_loss",
                              .reads = LH_READS_IN(0) | LH_READS_IN(1) | LH_READS_IN(2) |
                                       LH_READS_IN(3) | LH_READS_OUT(2),
                              .exact = LH_READS_OUT(2),
                              .place = loss_place,
                              .forward = loss_forward,
                              .vjp = loss_vjp};

lh_status lh_lm_loss(lh_tape *t, lh_var x, lh_var w, lh_var b, lh_var labels, double scale,
                     lh_var *loss, lh_var *correct)
{
    const lh_shape *xs = lh_var_shape(t, x);
    const lh_shape *ws = lh_var_shape(t, w);
    const lh_shape *ls = lh_var_shape(t, labels);
    lh_shape shapes[3] = {lh_shape_1(LH_F64, 1), lh_shape_1(LH_F64, 1),
                          lh_shape_2(LH_REAL, xs->dim[0], xs->dim[1])};
    lh_var outs[3];
    loss_attrs attrs = {scale};
    if (xs->ndim != 3 || ws->dim[1] != xs->dim[2] || ls->dtype != LH_INT32 || ls->ndim != 2 ||
        ls->dim[0] != xs->dim[0] || ls->dim[1] != xs->dim[1] || !fits_bias(t, b, ws->dim[0]))
        return LH_RAISE(LH_ERR_BUG,
                        "the loss wants x [B, s, E], w [V, E], b [V], labels int32 [B, s]");
    lh_status st = lh_record(t, &loss_op, &attrs, sizeof attrs, 4, (lh_var[]){x, w, labels, b}, 3,
                             shapes, outs);
    *loss = outs[0];
    *correct = outs[1];
    return st;
}
