#include "parallel/exchange.h"

#include <string.h>

/* --- making one --- */

typedef struct exchange_make {
    const lh_layout *layout;
    const lh_needs *needs;
    lh_runs mine, theirs; /* needs of this rank and of another */
    lh_exchange *x;
    int64_t steps_capacity;
} exchange_make;

/* What step s sends to rank + s and receives from rank - s. */
static lh_status exchange_make_step(exchange_make *m, int s)
{
    lh_status st = LH_OK;
    lh_exchange *x = m->x;
    lh_span *spans = NULL;
    int64_t n_spans = 0;
    int64_t capacity = 0;
    lh_exchange_step step = {.to = (x->rank + s) % x->ranks,
                             .from = (x->rank - s + x->ranks) % x->ranks,
                             .offset = x->total_recv};
    lh_runs_clear(&m->theirs);
    LH_TRY(m->needs->runs(m->needs->user, step.to, &m->theirs));
    LH_TRY(lh_layout_intersect(m->layout, x->rank, &m->theirs, &step.send, &step.n_send,
                               &step.send_capacity, &step.send_rows, NULL));
    LH_TRY(lh_layout_intersect(m->layout, step.from, &m->mine, &spans, &n_spans, &capacity,
                               &step.recv_rows, &step.positions));
    if (step.send_rows + step.recv_rows > 0) {
        int64_t capacity_steps = m->steps_capacity;
        LH_TRY(lh_grow(&x->step, &capacity_steps, x->n_steps + 1, sizeof *x->step));
        m->steps_capacity = capacity_steps;
        x->step[x->n_steps++] = step;
        x->total_recv += step.recv_rows;
        x->total_send += step.send_rows;
        if (step.send_rows > x->max_send) x->max_send = step.send_rows;
        if (step.recv_rows > x->max_recv) x->max_recv = step.recv_rows;
        step.send = NULL;
        step.positions = (lh_runs){0};
    }
done:
    lh_free(&spans);
    lh_free(&step.send);
    lh_runs_free(&step.positions);
    return st;
}

/* Rows that a rank receives: what it needs and does not have. */
static lh_status exchange_received(exchange_make *m, int rank, int64_t *rows)
{
    lh_status st = LH_OK;
    lh_span *spans = NULL;
    int64_t n_spans = 0;
    int64_t capacity = 0;
    int64_t own = 0;
    lh_runs_clear(&m->theirs);
    LH_TRY(m->needs->runs(m->needs->user, rank, &m->theirs));
    LH_TRY(
        lh_layout_intersect(m->layout, rank, &m->theirs, &spans, &n_spans, &capacity, &own, NULL));
    *rows = lh_runs_total(&m->theirs) - own;
done:
    lh_free(&spans);
    return st;
}

lh_status lh_exchange_create(const lh_layout *layout, int rank, const lh_needs *needs,
                             lh_exchange **out)
{
    lh_status st = LH_OK;
    exchange_make m = {.layout = layout, .needs = needs};
    int64_t rows = 0;
    *out = NULL;
    LH_TRY(lh_new(sizeof *m.x, &m.x));
    m.x->rank = rank;
    m.x->ranks = layout->ranks;
    LH_TRY(needs->runs(needs->user, rank, &m.mine));
    for (int s = 1; s < layout->ranks; s++) LH_TRY(exchange_make_step(&m, s));
    m.x->keep = !needs->refetch;
    for (int r = 0; r < layout->ranks && m.x->keep; r++) {
        LH_TRY(exchange_received(&m, r, &rows));
        m.x->keep = rows <= layout->max_rows;
    }
    LH_TRY(exchange_received(&m, rank, &rows));
    LH_CHECK(rows == m.x->total_recv, LH_ERR_BUG,
             "rank %d needs %lld rows of others but %lld exist", rank, (long long)rows,
             (long long)m.x->total_recv);
    *out = m.x;
    m.x = NULL;
done:
    lh_exchange_destroy(&m.x);
    lh_runs_free(&m.mine);
    lh_runs_free(&m.theirs);
    return st;
}

void lh_exchange_destroy(lh_exchange **x)
{
    if (*x == NULL) return;
    for (int i = 0; i < (*x)->n_steps; i++) {
        lh_free(&(*x)->step[i].send);
        lh_runs_free(&(*x)->step[i].positions);
    }
    lh_free(&(*x)->step);
    lh_free(x);
}

/* --- rows on the way --- */

size_t lh_transfer_bytes(const lh_transfer *x, int64_t rows)
{
    return (size_t)(x->n * x->batch * rows * x->width) * lh_dtype_bytes(x->wire);
}

/* Between tensor k of a message and its host buffer. */
static lh_rows_args transfer_rows(const lh_transfer *x, int k, int64_t rows, void *tensor,
                                  int64_t tensor_rows, void *host)
{
    size_t part = (size_t)(x->batch * rows * x->width) * lh_dtype_bytes(x->wire);
    return (lh_rows_args){.batch = x->batch,
                          .tensor_rows = tensor_rows,
                          .width = x->width,
                          .element_bytes = lh_dtype_bytes(LH_REAL),
                          .wire = x->wire,
                          .tensor = tensor,
                          .host = (char *)host + (size_t)k * part};
}

static void transfer_start(lh_transfer *x, int to, int from, int64_t send_rows, int64_t recv_rows,
                           int tag)
{
    lh_recv_start(x->comm, x->recv, (int64_t)lh_transfer_bytes(x, recv_rows), from, tag,
                  &x->receiving);
    lh_send_start(x->comm, x->send, (int64_t)lh_transfer_bytes(x, send_rows), to, tag, x->purpose,
                  &x->sending);
}

/* The same for a home tensor, of whose rows some columns may travel. */
static lh_rows_args transfer_home(const lh_transfer *x, int k, int64_t rows, const void *tensor,
                                  void *host)
{
    lh_rows_args a = transfer_rows(x, k, rows, (void *)(uintptr_t)tensor, x->rows, host);
    a.row_width = x->row_width;
    a.column = x->column;
    return a;
}

void lh_fetch_start(lh_transfer *x, int i, const void *const *home)
{
    const lh_exchange_step *s = &x->exchange->step[i];
    for (int k = 0; k < x->n && s->send_rows > 0; k++) {
        lh_rows_args a = transfer_home(x, k, s->send_rows, home[k], x->send);
        a.spans = s->send;
        a.n_spans = s->n_send;
        lh_run_pack_rows(x->device, &a);
    }
    transfer_start(x, s->to, s->from, s->send_rows, s->recv_rows, LH_TAG_FETCH);
}

void lh_fetch_finish(lh_transfer *x, int i, void *const *block, int64_t offset)
{
    const lh_exchange_step *s = &x->exchange->step[i];
    const lh_span span = {offset, s->recv_rows, 1};
    lh_wait(x->comm, &x->receiving);
    for (int k = 0; k < x->n && s->recv_rows > 0; k++) {
        lh_rows_args a = transfer_rows(x, k, s->recv_rows, block[k], x->block_rows, x->recv);
        a.spans = &span;
        a.n_spans = 1;
        lh_run_unpack_rows(x->device, &a);
    }
    lh_wait(x->comm, &x->sending);
}

void lh_return_start(lh_transfer *x, int i, const void *const *block, int64_t offset)
{
    const lh_exchange_step *s = &x->exchange->step[i];
    const lh_span span = {offset, s->recv_rows, 1};
    for (int k = 0; k < x->n && s->recv_rows > 0; k++) {
        lh_rows_args a =
            transfer_rows(x, k, s->recv_rows, (void *)(uintptr_t)block[k], x->block_rows, x->send);
        a.spans = &span;
        a.n_spans = 1;
        lh_run_pack_rows(x->device, &a);
    }
    transfer_start(x, s->from, s->to, s->recv_rows, s->send_rows, LH_TAG_RETURN);
}

void lh_return_finish(lh_transfer *x, int i, void *const *home)
{
    const lh_exchange_step *s = &x->exchange->step[i];
    lh_wait(x->comm, &x->receiving);
    for (int k = 0; k < x->n && s->send_rows > 0; k++) {
        lh_rows_args a = transfer_home(x, k, s->send_rows, home[k], x->recv);
        a.spans = s->send;
        a.n_spans = s->n_send;
        lh_run_add_rows(x->device, &a);
    }
    lh_wait(x->comm, &x->sending);
}

/* --- tape operation --- */

typedef struct fetch_attrs {
    lh_comm *comm;
    const lh_exchange *exchange;
} fetch_attrs;

static lh_status fetch_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    (void)c;
    if (in[0].axis[LH_AXIS_SEQ].kind != LH_SHARD || in[0].axis[LH_AXIS_SEQ].dim != 1)
        return LH_RAISE(LH_ERR_BUG, "rows are fetched from a value sharded by position");
    out[0] = in[0];
    out[0].axis[LH_AXIS_SEQ].layout =
        NULL; /* rows as fetched: they fit nothing that lies by the layout */
    return LH_OK;
}

static lh_transfer fetch_transfer(lh_call *c)
{
    const fetch_attrs *a = lh_call_attrs(c);
    const lh_shape *s = lh_call_in_shape(c, 0);
    return (lh_transfer){.comm = a->comm,
                         .device = lh_call_device(c),
                         .exchange = a->exchange,
                         .n = 1,
                         .batch = s->dim[0],
                         .width = s->dim[2],
                         .rows = s->dim[1],
                         .block_rows = a->exchange->total_recv,
                         .wire = lh_tape_stored(lh_call_tape(c))};
}

static lh_status fetch_forward(lh_call *c)
{
    lh_status st = LH_OK;
    const void *x = NULL;
    void *y = NULL;
    lh_transfer f = fetch_transfer(c);
    f.purpose = lh_tape_recomputing(lh_call_tape(c)) ? LH_SEND_RECOMPUTE : LH_SEND_FORWARD;
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_out(c, 0, &y));
    LH_TRY(lh_host_scratch(c, lh_transfer_bytes(&f, f.exchange->max_send), &f.send));
    LH_TRY(lh_host_scratch(c, lh_transfer_bytes(&f, f.exchange->max_recv), &f.recv));
    for (int i = 0; i < f.exchange->n_steps; i++) {
        lh_fetch_start(&f, i, &x);
        lh_fetch_finish(&f, i, &y, f.exchange->step[i].offset);
    }
done:
    return st;
}

static lh_status fetch_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    const void *dy = NULL;
    void *dx = NULL;
    lh_transfer f = fetch_transfer(c);
    f.purpose = LH_SEND_BACKWARD;
    LH_TRY(lh_out_grad(c, 0, &dy));
    LH_TRY(lh_in_grad_zeroed(c, 0, &dx));
    LH_TRY(lh_host_scratch(c, lh_transfer_bytes(&f, f.exchange->max_recv), &f.send));
    LH_TRY(lh_host_scratch(c, lh_transfer_bytes(&f, f.exchange->max_send), &f.recv));
    for (int i = 0; i < f.exchange->n_steps; i++) {
        lh_return_start(&f, i, &dy, f.exchange->step[i].offset);
        lh_return_finish(&f, i, &dx);
    }
done:
    return st;
}

static const lh_op fetch_op = {.name = "fetch_rows",
                               .costly = true,
                               .place = fetch_place,
                               .forward = fetch_forward,
                               .vjp = fetch_vjp};

lh_status lh_fetch_rows(lh_tape *t, lh_comm *sequence, const lh_exchange *exchange, lh_var x,
                        lh_var *y)
{
    const lh_shape *s = lh_var_shape(t, x);
    lh_shape shape = lh_shape_3(LH_REAL, s->dim[0], exchange->total_recv, s->dim[2]);
    fetch_attrs attrs = {sequence, exchange};
    if (s->ndim != 3) return LH_RAISE(LH_ERR_BUG, "rows are fetched from [B, s, W]");
    return lh_record(t, &fetch_op, &attrs, sizeof attrs, 1, &x, 1, &shape, y);
}
