#include "parallel/collectives.h"

#include "parallel/comm_internal.h"

typedef struct collective_attrs {
    lh_comm *comm;
    int axis;
    const lh_layout *layout; /* of the sequence, for gather and reduce-scatter */
} collective_attrs;

#ifdef LH_PRECISION_DOUBLE
#define COLLECTIVE_REAL MPI_DOUBLE
#else
#define COLLECTIVE_REAL MPI_FLOAT
#endif

/* --- all-reduce --- */

static lh_status all_reduce_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    const collective_attrs *a = lh_call_attrs(c);
    char text[128];
    for (int i = 0; i < lh_call_inputs(c); i++) {
        if (in[i].axis[a->axis].kind != LH_PARTIAL)
            return LH_RAISE(LH_ERR_BUG, "value %d is %s: only a partial one is summed", i,
                            lh_place_text(&in[i], text, sizeof text));
        out[i] = in[i];
        out[i].axis[a->axis] = (lh_place_word){LH_REPLICATE, 0, NULL};
    }
    return LH_OK;
}

/* to (+)= the sum over ranks of from. */
typedef struct reduce_item {
    int64_t n;
    const void *from;
    void *to;
    bool accumulate;
} reduce_item;

enum { REDUCE_ITEMS = 8 };

/* All items in one message, through a host buffer. */
static lh_status all_reduce_run(lh_call *c, int items, const reduce_item *item)
{
    lh_status st = LH_OK;
    const collective_attrs *a = lh_call_attrs(c);
    lh_device *d = lh_call_device(c);
    int64_t total = 0;
    int64_t added = 0; /* of the largest item that adds */
    void *host = NULL;
    void *sum = NULL;
    for (int i = 0; i < items; i++) {
        total += item[i].n;
        if (item[i].accumulate && item[i].n > added) added = item[i].n;
    }
    LH_TRY(lh_host_scratch(c, (size_t)total * lh_dtype_bytes(LH_REAL), &host));
    LH_TRY(lh_scratch(c, (size_t)added * lh_dtype_bytes(LH_REAL), &sum));
    lh_real *at = host;
    for (int i = 0; i < items && !d->counting; at += item[i++].n)
        lh_copy_out(d, at, item[i].from, (size_t)item[i].n * lh_dtype_bytes(LH_REAL));
    lh_sum_real(a->comm, host, total, LH_SEND_SUMMARY);
    at = host;
    for (int i = 0; i < items && !d->counting; at += item[i++].n) {
        void *to = item[i].accumulate ? sum : item[i].to;
        lh_copy_in(d, to, at, (size_t)item[i].n * lh_dtype_bytes(LH_REAL));
        if (item[i].accumulate)
            lh_run_axpy(d, &(lh_axpy_args){item[i].n, 1.0, sum, item[i].to, true});
    }
done:
    return st;
}

static lh_status all_reduce_forward(lh_call *c)
{
    lh_status st = LH_OK;
    reduce_item item[REDUCE_ITEMS];
    int n = lh_call_inputs(c);
    for (int i = 0; i < n; i++) {
        item[i] = (reduce_item){.n = lh_shape_count(lh_call_in_shape(c, i))};
        LH_TRY(lh_in(c, i, &item[i].from));
        LH_TRY(lh_out(c, i, &item[i].to));
    }
    LH_TRY(all_reduce_run(c, n, item));
done:
    return st;
}

/* Values that no gradient reached are left out, on all ranks alike. */
static lh_status all_reduce_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    reduce_item item[REDUCE_ITEMS];
    int n = 0;
    for (int i = 0; i < lh_call_inputs(c); i++) {
        reduce_item *r = &item[n];
        *r = (reduce_item){.n = lh_shape_count(lh_call_in_shape(c, i))};
        LH_TRY(lh_out_grad(c, i, &r->from));
        if (r->from == NULL) continue;
        LH_TRY(lh_in_grad(c, i, &r->to, &r->accumulate));
        n += r->to != NULL;
    }
    if (n > 0) LH_TRY(all_reduce_run(c, n, item));
done:
    return st;
}

static const lh_op all_reduce_op = {.name = "all_reduce",
                                    .costly = true,
                                    .place = all_reduce_place,
                                    .forward = all_reduce_forward,
                                    .vjp = all_reduce_vjp};

lh_status lh_all_reduce_all(lh_tape *t, lh_mesh *mesh, int axis, int n, const lh_var *x, lh_var *y)
{
    lh_status st = LH_OK;
    lh_shape shape[REDUCE_ITEMS];
    lh_var in[REDUCE_ITEMS]; /* y may be x */
    collective_attrs attrs = {mesh->axis[axis], axis, NULL};
    LH_CHECK(n >= 1 && n <= REDUCE_ITEMS, LH_ERR_BUG, "all_reduce of %d values; at most %d", n,
             REDUCE_ITEMS);
    for (int i = 0; i < n; i++) {
        in[i] = x[i];
        shape[i] = *lh_var_shape(t, x[i]);
        LH_CHECK(shape[i].dtype == LH_REAL, LH_ERR_BUG, "all_reduce sums real values");
    }
    LH_TRY(lh_record(t, &all_reduce_op, &attrs, sizeof attrs, n, in, n, shape, y));
done:
    return st;
}

lh_status lh_all_reduce(lh_tape *t, lh_mesh *mesh, int axis, lh_var x, lh_var *y)
{
    return lh_all_reduce_all(t, mesh, axis, 1, &x, y);
}

/* --- maximum over the sequence axis --- */

static lh_status max_reduce_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    (void)c;
    char text[128];
    if (in[0].axis[LH_AXIS_SEQ].kind == LH_SHARD && in[0].axis[LH_AXIS_SEQ].layout != NULL)
        return LH_RAISE(LH_ERR_BUG, "the value is %s: its shape differs from rank to rank",
                        lh_place_text(&in[0], text, sizeof text));
    out[0] = in[0];
    out[0].axis[LH_AXIS_SEQ] = (lh_place_word){LH_REPLICATE, 0, NULL};
    return LH_OK;
}

static lh_status max_reduce_forward(lh_call *c)
{
    lh_status st = LH_OK;
    const collective_attrs *a = lh_call_attrs(c);
    lh_device *d = lh_call_device(c);
    const void *x = NULL;
    void *y = NULL;
    void *host = NULL;
    int64_t n = lh_shape_count(lh_call_in_shape(c, 0));
    size_t bytes = (size_t)n * lh_dtype_bytes(LH_REAL);
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_out(c, 0, &y));
    LH_TRY(lh_host_scratch(c, bytes, &host));
    if (!d->counting) lh_copy_out(d, host, x, bytes);
    lh_max_real(a->comm, host, n, LH_SEND_SUMMARY);
    lh_copy_in(d, y, host, bytes);
done:
    return st;
}

static const lh_op max_reduce_op = {.name = "max_reduce",
                                    .costly = true,
                                    .place = max_reduce_place,
                                    .forward = max_reduce_forward,
                                    .vjp = NULL};

lh_status lh_max_reduce(lh_tape *t, lh_mesh *mesh, lh_var x, lh_var *y)
{
    lh_status st = LH_OK;
    const lh_shape shape = *lh_var_shape(t, x);
    collective_attrs attrs = {mesh->axis[LH_AXIS_SEQ], LH_AXIS_SEQ, NULL};
    LH_CHECK(shape.dtype == LH_REAL, LH_ERR_BUG, "max_reduce compares real values");
    LH_TRY(lh_stop_gradient(t, x, &x));
    LH_TRY(lh_record(t, &max_reduce_op, &attrs, sizeof attrs, 1, &x, 1, &shape, y));
done:
    return st;
}

/* --- gather and reduce-scatter: each is the other's adjoint --- */

typedef struct gather_run {
    lh_call *call;
    lh_comm *comm;
    lh_device *device;
    const lh_layout *layout;
    int64_t batch, width, mine, all; /* mine, all: elements of own rows and of all rows */
    int *counts, *offsets;           /* [ranks], in elements */
    lh_span *spans;                  /* of one rank at a time: rows of the whole are positions */
    void *part, *whole;              /* host: own rows; all rows, rank by rank */
} gather_run;

static lh_status gather_open(lh_call *c, gather_run *g)
{
    lh_status st = LH_OK;
    const collective_attrs *a = lh_call_attrs(c);
    const lh_shape *s = lh_call_in_shape(c, 0);
    void *counts = NULL;
    void *spans = NULL;
    int64_t runs = 0;
    int64_t rows = a->layout->rows[lh_tape_coord(lh_call_tape(c), LH_AXIS_SEQ)];
    *g = (gather_run){.call = c,
                      .comm = a->comm,
                      .device = lh_call_device(c),
                      .layout = a->layout,
                      .batch = s->dim[0],
                      .width = s->dim[2]};
    g->mine = g->batch * rows * g->width;
    g->all = g->batch * g->layout->n * g->width;
    int ranks = g->layout->ranks;
    for (int r = 0; r < ranks; r++)
        if (g->layout->first[r + 1] - g->layout->first[r] > runs)
            runs = g->layout->first[r + 1] - g->layout->first[r];
    LH_TRY(lh_host_scratch(c, 2 * (size_t)ranks * sizeof(int), &counts));
    LH_TRY(lh_host_scratch(c, (size_t)runs * sizeof(lh_span), &spans));
    LH_TRY(lh_host_scratch(c, (size_t)g->mine * lh_dtype_bytes(LH_REAL), &g->part));
    LH_TRY(lh_host_scratch(c, (size_t)g->all * lh_dtype_bytes(LH_REAL), &g->whole));
    if (g->device->counting) goto done;
    g->counts = counts;
    g->offsets = g->counts + ranks;
    g->spans = spans;
    int64_t at = 0;
    for (int r = 0; r < ranks; r++) {
        g->counts[r] = lhi_int(g->comm, g->batch * g->layout->rows[r] * g->width);
        g->offsets[r] = lhi_int(g->comm, at);
        at += g->counts[r];
    }
done:
    return st;
}

/* Rows of rank r between the whole tensor and its part of the host buffer. */
static lh_rows_args gather_rows(const gather_run *g, int r, void *tensor)
{
    int64_t count = 0;
    const lh_run *run = lh_layout_runs(g->layout, r, &count);
    for (int64_t i = 0; i < count; i++)
        g->spans[i] = (lh_span){run[i].start, run[i].count, run[i].stride};
    return (lh_rows_args){.batch = g->batch,
                          .tensor_rows = g->layout->n,
                          .width = g->width,
                          .n_spans = count,
                          .spans = g->spans,
                          .element_bytes = lh_dtype_bytes(LH_REAL),
                          .tensor = tensor,
                          .host = (lh_real *)g->whole + g->offsets[r]};
}

/* whole [B, N, W] (+)= the rows of all ranks; mine [B, s, W]. */
static void gather_all(const gather_run *g, const void *mine, void *whole, bool accumulate)
{
    size_t bytes = (size_t)g->mine * lh_dtype_bytes(LH_REAL);
    lhi_comm_count(g->comm, (int64_t)bytes, LH_SEND_SUMMARY);
    if (g->device->counting) return;
    lh_copy_out(g->device, g->part, mine, bytes);
    double start = lh_wall();
    LH_MPI(g->comm, MPI_Allgatherv(g->part, lhi_int(g->comm, g->mine), COLLECTIVE_REAL, g->whole,
                                   g->counts, g->offsets, COLLECTIVE_REAL, g->comm->mpi));
    g->comm->traffic->wait_s += lh_wall() - start;
    for (int r = 0; r < g->layout->ranks; r++) {
        lh_rows_args a = gather_rows(g, r, whole);
        if (g->counts[r] == 0) continue;
        if (accumulate)
            lh_run_add_rows(g->device, &a);
        else
            lh_run_unpack_rows(g->device, &a);
    }
}

/* mine [B, s, W] (+)= the sum over ranks of whole [B, N, W], own rows of it. */
static lh_status gather_sum(const gather_run *g, const void *whole, void *mine, bool accumulate)
{
    lh_status st = LH_OK;
    void *sum = NULL;
    size_t bytes = (size_t)g->mine * lh_dtype_bytes(LH_REAL);
    LH_TRY(lh_scratch(g->call, bytes, &sum));
    lhi_comm_count(g->comm, g->all * (int64_t)lh_dtype_bytes(LH_REAL), LH_SEND_SUMMARY);
    if (g->device->counting) goto done;
    for (int r = 0; r < g->layout->ranks; r++) {
        lh_rows_args a = gather_rows(g, r, (void *)(uintptr_t)whole);
        if (g->counts[r] > 0) lh_run_pack_rows(g->device, &a);
    }
    double start = lh_wall();
    LH_MPI(g->comm, MPI_Reduce_scatter(g->whole, g->part, g->counts, COLLECTIVE_REAL, MPI_SUM,
                                       g->comm->mpi));
    g->comm->traffic->wait_s += lh_wall() - start;
    lh_copy_in(g->device, sum, g->part, bytes);
    lh_run_axpy(g->device, &(lh_axpy_args){g->mine, 1.0, sum, mine, accumulate});
done:
    return st;
}

static lh_status gather_forward(lh_call *c)
{
    lh_status st = LH_OK;
    gather_run g;
    const void *x = NULL;
    void *y = NULL;
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_out(c, 0, &y));
    LH_TRY(gather_open(c, &g));
    gather_all(&g, x, y, false);
done:
    return st;
}

static lh_status scatter_forward(lh_call *c)
{
    lh_status st = LH_OK;
    gather_run g;
    const void *x = NULL;
    void *y = NULL;
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_out(c, 0, &y));
    LH_TRY(gather_open(c, &g));
    LH_TRY(gather_sum(&g, x, y, false));
done:
    return st;
}

/* What both backward passes begin with; *dx NULL: nothing to do. */
static lh_status gather_open_vjp(lh_call *c, gather_run *g, const void **dy, void **dx,
                                 bool *accumulate)
{
    lh_status st = LH_OK;
    LH_TRY(lh_out_grad(c, 0, dy));
    LH_TRY(lh_in_grad(c, 0, dx, accumulate));
    if (*dx != NULL) LH_TRY(gather_open(c, g));
done:
    return st;
}

static lh_status gather_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    gather_run g;
    const void *dy = NULL;
    void *dx = NULL;
    bool accumulate = false;
    LH_TRY(gather_open_vjp(c, &g, &dy, &dx, &accumulate));
    if (dx != NULL) LH_TRY(gather_sum(&g, dy, dx, accumulate));
done:
    return st;
}

static lh_status scatter_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    gather_run g;
    const void *dy = NULL;
    void *dx = NULL;
    bool accumulate = false;
    LH_TRY(gather_open_vjp(c, &g, &dy, &dx, &accumulate));
    if (dx != NULL) gather_all(&g, dy, dx, accumulate);
done:
    return st;
}

static lh_status gather_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    (void)c;
    const lh_place_word *w = &in[0].axis[LH_AXIS_SEQ];
    if (w->kind != LH_SHARD || w->dim != 1 || w->layout == NULL)
        return LH_RAISE(LH_ERR_BUG, "only a value sharded by position is gathered");
    out[0] = in[0];
    out[0].axis[LH_AXIS_SEQ] = (lh_place_word){LH_REPLICATE, 0, NULL};
    return LH_OK;
}

static lh_status scatter_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    const collective_attrs *a = lh_call_attrs(c);
    char text[128];
    if (in[0].axis[LH_AXIS_SEQ].kind != LH_PARTIAL)
        return LH_RAISE(LH_ERR_BUG, "the value is %s: only a partial one is summed and scattered",
                        lh_place_text(&in[0], text, sizeof text));
    out[0] = in[0];
    out[0].axis[LH_AXIS_SEQ] = (lh_place_word){LH_SHARD, 1, a->layout};
    return LH_OK;
}

static const lh_op gather_op = {.name = "gather",
                                .costly = true,
                                .place = gather_place,
                                .forward = gather_forward,
                                .vjp = gather_vjp};

static const lh_op scatter_op = {.name = "reduce_scatter",
                                 .costly = true,
                                 .place = scatter_place,
                                 .forward = scatter_forward,
                                 .vjp = scatter_vjp};

/* MPI counts in int. */
static lh_status gather_check(const lh_shape *whole)
{
    if (lh_shape_count(whole) <= INT32_MAX) return LH_OK;
    return LH_RAISE(LH_ERR_UNSUP, "gathering %lld elements on every rank: at most 2^31 - 1",
                    (long long)lh_shape_count(whole));
}

lh_status lh_gather(lh_tape *t, lh_mesh *mesh, lh_var x, lh_var *y)
{
    const lh_shape *s = lh_var_shape(t, x);
    const lh_layout *layout = lh_var_place(t, x)->axis[LH_AXIS_SEQ].layout;
    if (s->ndim != 3 || layout == NULL)
        return LH_RAISE(LH_ERR_BUG, "gather wants [B, s, W] sharded by position");
    lh_shape whole = lh_shape_3(LH_REAL, s->dim[0], layout->n, s->dim[2]);
    collective_attrs attrs = {mesh->axis[LH_AXIS_SEQ], LH_AXIS_SEQ, layout};
    lh_status st = gather_check(&whole);
    if (st != LH_OK) return st;
    return lh_record(t, &gather_op, &attrs, sizeof attrs, 1, &x, 1, &whole, y);
}

lh_status lh_reduce_scatter(lh_tape *t, lh_mesh *mesh, const lh_layout *layout, lh_var x, lh_var *y)
{
    const lh_shape *s = lh_var_shape(t, x);
    if (s->ndim != 3 || s->dtype != LH_REAL || s->dim[1] != layout->n)
        return LH_RAISE(LH_ERR_BUG, "reduce_scatter wants [B, N, W], N positions of the layout");
    lh_shape mine =
        lh_shape_3(LH_REAL, s->dim[0], layout->rows[lh_tape_coord(t, LH_AXIS_SEQ)], s->dim[2]);
    collective_attrs attrs = {mesh->axis[LH_AXIS_SEQ], LH_AXIS_SEQ, layout};
    lh_status st = gather_check(s);
    if (st != LH_OK) return st;
    return lh_record(t, &scatter_op, &attrs, sizeof attrs, 1, &x, 1, &mine, y);
}
