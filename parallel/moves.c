/* Rows from one layout to another: an exchange for the rows of other ranks, a copy for the own. */
#include <stdlib.h>

#include "parallel/exchange.h"

typedef struct moves_rows {
    lh_span *span;
    int64_t count, capacity;
} moves_rows;

struct lh_moves {
    const lh_layout *from, *to;
    lh_exchange *x;
    moves_rows *put; /* [steps]: rows of y that a step brings, in the order of the message */
    int64_t own_rows;
    moves_rows own_from, own_to; /* rows of x and of y that stay on this rank, in the same order */
};

/* --- the plan --- */

static int moves_compare(const void *a, const void *b)
{
    const lh_run *x = a;
    const lh_run *y = b;
    return (x->start > y->start) - (x->start < y->start);
}

/* A rank needs its positions of `to`; its runs may lie in any order. */
static lh_status moves_needs(const void *user, int rank, lh_runs *out)
{
    lh_status st = LH_OK;
    const lh_moves *m = user;
    int64_t count = 0;
    const lh_run *run = lh_layout_runs(m->to, rank, &count);
    lh_runs sorted = {0};
    for (int64_t i = 0; i < count; i++)
        LH_TRY(lh_runs_add(&sorted, run[i].start, run[i].count, run[i].stride));
    if (sorted.count > 1)
        qsort(sorted.run, (size_t)sorted.count, sizeof *sorted.run, moves_compare);
    for (int64_t i = 0; i < sorted.count; i++)
        LH_TRY(lh_runs_add(out, sorted.run[i].start, sorted.run[i].count, sorted.run[i].stride));
done:
    lh_runs_free(&sorted);
    return st;
}

/* Append one row; equal distances make one span. */
static lh_status moves_add(moves_rows *rows, int64_t row)
{
    lh_status st = LH_OK;
    lh_span *last = rows->count > 0 ? &rows->span[rows->count - 1] : NULL;
    if (last != NULL && last->count == 1 && row > last->row) last->stride = row - last->row;
    if (last != NULL && row == last->row + last->count * last->stride) {
        last->count++;
        return LH_OK;
    }
    LH_TRY(lh_grow(&rows->span, &rows->capacity, rows->count + 1, sizeof *rows->span));
    rows->span[rows->count++] = (lh_span){row, 1, 1};
done:
    return st;
}

static lh_status moves_place_run(const lh_moves *m, const lh_run *r, moves_rows *rows)
{
    lh_status st = LH_OK;
    for (int64_t k = 0; k < r->count; k++) {
        int64_t position = r->start + k * r->stride;
        int64_t row = lh_layout_row(m->to, m->x->rank, position);
        LH_CHECK(row >= 0, LH_ERR_BUG, "position %lld came to rank %d, which does not hold it",
                 (long long)position, m->x->rank);
        LH_TRY(moves_add(rows, row));
    }
done:
    return st;
}

/* Rows of y at these positions, as spans in the same order. */
static lh_status moves_place(const lh_moves *m, const lh_runs *positions, moves_rows *rows)
{
    lh_status st = LH_OK;
    for (int64_t i = 0; i < positions->count; i++)
        LH_TRY(moves_place_run(m, &positions->run[i], rows));
done:
    return st;
}

static lh_status moves_own(lh_moves *m, int rank)
{
    lh_status st = LH_OK;
    lh_runs needs = {0};
    lh_runs positions = {0};
    LH_TRY(moves_needs(m, rank, &needs));
    LH_TRY(lh_layout_intersect(m->from, rank, &needs, &m->own_from.span, &m->own_from.count,
                               &m->own_from.capacity, &m->own_rows, &positions));
    LH_TRY(moves_place(m, &positions, &m->own_to));
done:
    lh_runs_free(&needs);
    lh_runs_free(&positions);
    return st;
}

lh_status lh_moves_create(const lh_layout *from, const lh_layout *to, int rank, lh_moves **out)
{
    lh_status st = LH_OK;
    lh_moves *m = NULL;
    *out = NULL;
    LH_CHECK(from->ranks == to->ranks && to->n <= from->n && !from->everywhere && !to->everywhere,
             LH_ERR_BUG, "no rows of %lld positions over %d ranks fit %lld positions over %d",
             (long long)from->n, from->ranks, (long long)to->n, to->ranks);
    LH_TRY(lh_new(sizeof *m, &m));
    m->from = from;
    m->to = to;
    LH_TRY(lh_exchange_create(from, rank, &(lh_needs){moves_needs, m, true}, &m->x));
    LH_TRY(lh_new((size_t)m->x->n_steps * sizeof *m->put, &m->put));
    for (int i = 0; i < m->x->n_steps; i++)
        LH_TRY(moves_place(m, &m->x->step[i].positions, &m->put[i]));
    LH_TRY(moves_own(m, rank));
    *out = m;
    m = NULL;
done:
    lh_moves_destroy(&m);
    return st;
}

void lh_moves_destroy(lh_moves **moves)
{
    lh_moves *m = *moves;
    if (m == NULL) return;
    for (int i = 0; m->put != NULL && i < m->x->n_steps; i++) lh_free(&m->put[i].span);
    lh_free(&m->put);
    lh_exchange_destroy(&m->x);
    lh_free(&m->own_from.span);
    lh_free(&m->own_to.span);
    lh_free(moves);
}

void lh_moves_rows(const lh_moves *moves, int64_t *sent, int64_t *received)
{
    *sent = moves->x->total_send;
    *received = moves->x->total_recv;
}

/* --- the operation --- */

typedef struct moves_attrs {
    lh_comm *comm;
    const lh_moves *moves;
} moves_attrs;

static lh_transfer moves_transfer(lh_call *c, lh_purpose purpose)
{
    const moves_attrs *a = lh_call_attrs(c);
    const lh_shape *s = lh_call_in_shape(c, 0);
    return (lh_transfer){.comm = a->comm,
                         .device = lh_call_device(c),
                         .exchange = a->moves->x,
                         .n = 1,
                         .batch = 1,
                         .width = s->dim[1],
                         .rows = s->dim[0],
                         .block_rows = lh_call_out_shape(c, 0)->dim[0],
                         .purpose = purpose};
}

/* Rows of a tensor against a host buffer. */
static lh_rows_args moves_args(const lh_transfer *f, const moves_rows *rows, int64_t tensor_rows,
                               const void *tensor, void *host)
{
    return (lh_rows_args){.batch = 1,
                          .tensor_rows = tensor_rows,
                          .width = f->width,
                          .n_spans = rows->count,
                          .spans = rows->span,
                          .element_bytes = lh_dtype_bytes(LH_REAL),
                          .tensor = (void *)(uintptr_t)tensor,
                          .host = host};
}

static lh_status moves_forward(lh_call *c)
{
    lh_status st = LH_OK;
    const lh_moves *m = ((const moves_attrs *)lh_call_attrs(c))->moves;
    const void *x = NULL;
    void *y = NULL;
    void *own = NULL;
    lh_transfer f = moves_transfer(c, lh_tape_recomputing(lh_call_tape(c)) ? LH_SEND_RECOMPUTE
                                                                           : LH_SEND_FORWARD);
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_out(c, 0, &y));
    LH_TRY(lh_host_scratch(c, lh_transfer_bytes(&f, m->x->max_send), &f.send));
    LH_TRY(lh_host_scratch(c, lh_transfer_bytes(&f, m->x->max_recv), &f.recv));
    LH_TRY(lh_host_scratch(c, lh_transfer_bytes(&f, m->own_rows), &own));
    lh_rows_args stay = moves_args(&f, &m->own_from, f.rows, x, own);
    lh_run_pack_rows(f.device, &stay);
    stay = moves_args(&f, &m->own_to, f.block_rows, y, own);
    lh_run_unpack_rows(f.device, &stay);
    for (int i = 0; i < m->x->n_steps; i++) {
        lh_rows_args a = moves_args(&f, &m->put[i], f.block_rows, y, f.recv);
        lh_fetch_start(&f, i, &x);
        lh_wait(f.comm, &f.receiving);
        lh_run_unpack_rows(f.device, &a);
        lh_wait(f.comm, &f.sending);
    }
done:
    return st;
}

static lh_status moves_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    const lh_moves *m = ((const moves_attrs *)lh_call_attrs(c))->moves;
    const void *dy = NULL;
    void *dx = NULL;
    void *own = NULL;
    lh_transfer f = moves_transfer(c, LH_SEND_BACKWARD);
    LH_TRY(lh_out_grad(c, 0, &dy));
    LH_TRY(lh_in_grad_zeroed(c, 0, &dx));
    LH_TRY(lh_host_scratch(c, lh_transfer_bytes(&f, m->x->max_recv), &f.send));
    LH_TRY(lh_host_scratch(c, lh_transfer_bytes(&f, m->x->max_send), &f.recv));
    LH_TRY(lh_host_scratch(c, lh_transfer_bytes(&f, m->own_rows), &own));
    lh_rows_args stay = moves_args(&f, &m->own_to, f.block_rows, dy, own);
    lh_run_pack_rows(f.device, &stay);
    stay = moves_args(&f, &m->own_from, f.rows, dx, own);
    lh_run_add_rows(f.device, &stay);
    for (int i = 0; i < m->x->n_steps; i++) {
        const lh_exchange_step *s = &m->x->step[i];
        lh_rows_args a = moves_args(&f, &m->put[i], f.block_rows, dy, f.send);
        lh_run_pack_rows(f.device, &a);
        lh_recv_start(f.comm, f.recv, (int64_t)lh_transfer_bytes(&f, s->send_rows), s->to,
                      LH_TAG_RETURN, &f.receiving);
        lh_send_start(f.comm, f.send, (int64_t)lh_transfer_bytes(&f, s->recv_rows), s->from,
                      LH_TAG_RETURN, f.purpose, &f.sending);
        lh_return_finish(&f, i, &dx);
    }
done:
    return st;
}

static lh_status moves_at(const lh_call *c, const lh_place *in, lh_place *out)
{
    const lh_moves *m = ((const moves_attrs *)lh_call_attrs(c))->moves;
    const lh_place_word *w = &in[0].axis[LH_AXIS_SEQ];
    char text[128];
    if (w->kind != LH_SHARD || w->dim != 0 || w->layout != m->from)
        return LH_RAISE(LH_ERR_BUG, "the rows are %s, not by the layout that they leave",
                        lh_place_text(&in[0], text, sizeof text));
    out[0] = in[0];
    out[0].axis[LH_AXIS_SEQ].layout = m->to;
    return LH_OK;
}

/* Rows of parameters, as a parameter's they stay exact, here and on their way. */
static const lh_op moves_op = {.name = "move_rows",
                               .costly = true,
                               .exact = LH_READS_OUT(0),
                               .place = moves_at,
                               .forward = moves_forward,
                               .vjp = moves_vjp};

lh_status lh_move_rows(lh_tape *t, lh_comm *sequence, const lh_moves *moves, lh_var x, lh_var *y)
{
    const lh_shape *s = lh_var_shape(t, x);
    moves_attrs attrs = {sequence, moves};
    if (s->ndim != 2 || s->dtype != LH_REAL || s->dim[0] != moves->from->rows[moves->x->rank])
        return LH_RAISE(LH_ERR_BUG,
                        "rows are moved out of [s, W], s rows of the layout they leave");
    lh_shape shape = lh_shape_2(LH_REAL, moves->to->rows[moves->x->rank], s->dim[1]);
    return lh_record(t, &moves_op, &attrs, sizeof attrs, 1, &x, 1, &shape, y);
}
