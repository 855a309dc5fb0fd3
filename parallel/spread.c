#include "parallel/spread.h"

#include "core/integer.h"
#include "parallel/exchange.h"

#include <stdlib.h>

/* --- groups and heads --- */

static int spread_compare(const void *a, const void *b)
{
    const lh_run *x = a;
    const lh_run *y = b;
    return (x->start > y->start) - (x->start < y->start);
}

/* The positions of group g, ascending, appended to all. */
static lh_status spread_union(const lh_layout *from, int ways, int g, lh_runs *all)
{
    lh_status st = LH_OK;
    lh_runs group = {0};
    for (int64_t i = from->first[g * ways]; i < from->first[(g + 1) * ways]; i++) {
        const lh_run *r = &from->run[i];
        LH_CHECK(r->stride == 1 || r->count == 1, LH_ERR_UNSUP,
                 "heads are not spread over the ranks of a layout whose runs have gaps ('%s'): use "
                 "contiguous or zigzag, or exchange: ring",
                 from->name);
        LH_TRY(lh_grow(&group.run, &group.capacity, group.count + 1, sizeof *group.run));
        group.run[group.count++] = (lh_run){r->start, r->count, 1};
    }
    if (group.count > 1) qsort(group.run, (size_t)group.count, sizeof *group.run, spread_compare);
    int64_t first = all->count; /* runs of another group are not continued */
    for (int64_t i = 0; i < group.count; i++) {
        lh_run *last = all->count > first ? &all->run[all->count - 1] : NULL;
        if (last != NULL && last->start + last->count == group.run[i].start) {
            last->count += group.run[i].count;
            continue;
        }
        LH_TRY(lh_grow(&all->run, &all->capacity, all->count + 1, sizeof *all->run));
        all->run[all->count++] = group.run[i];
    }
done:
    lh_runs_free(&group);
    return st;
}

lh_status lh_spread_create(const lh_layout *from, int ways, lh_spread **out)
{
    lh_status st = LH_OK;
    lh_spread *s = NULL;
    lh_runs all = {0};
    int64_t *first = NULL;
    *out = NULL;
    LH_CHECK(ways >= 2 && from->ranks % ways == 0 && !from->everywhere, LH_ERR_BUG,
             "heads over groups of %d of %d ranks", ways, from->ranks);
    int groups = from->ranks / ways;
    LH_TRY(lh_new(sizeof *s, &s));
    LH_TRY(lh_new(((size_t)groups + 1) * sizeof *first, &first));
    for (int g = 0; g < groups; g++) {
        LH_TRY(spread_union(from, ways, g, &all));
        first[g + 1] = all.count;
    }
    s->ways = ways;
    s->from = from;
    LH_TRY(lh_layout_from_runs(from->n, groups, from->chunk, first, all.run, &s->to));
    *out = s;
    s = NULL;
done:
    lh_spread_destroy(&s);
    lh_free(&first);
    lh_runs_free(&all);
    return st;
}

void lh_spread_destroy(lh_spread **spread)
{
    if (*spread == NULL) return;
    lh_layout_destroy(&(*spread)->to);
    lh_free(spread);
}

lh_head_range lh_spread_heads(int64_t heads, int64_t kv_heads, int ways, int member)
{
    int64_t group = heads / kv_heads;
    int64_t first = member * heads / ways;
    int64_t end = (member + 1) * heads / ways;
    lh_head_range r = {.head = first, .n_heads = end - first, .kv_first = first / group};
    if (end > first) r.kv_heads = (end - 1) / group + 1 - r.kv_first;
    return r;
}

/* --- the all-to-all --- */

typedef struct spread_attrs {
    lh_comm *group;
    const lh_spread *spread;
    int ring; /* number of the group */
    int64_t heads, kv_heads;
    int n;
    bool kv[LH_SPREAD_VALUES];
} spread_attrs;

/* One of its runs. Values by position: rows of this rank, all heads; by heads: rows of the group, heads
 * of this rank. Not moved: nobody wants its gradient. */
typedef struct spread_run {
    lh_call *call;
    lh_device *device;
    const spread_attrs *a;
    int64_t batch, width;
    lh_dtype wire; /* what everything goes through, also what stays here */
    bool moved[LH_SPREAD_VALUES];
    void *position[LH_SPREAD_VALUES], *by_heads[LH_SPREAD_VALUES];
    lh_span *spans; /* where the rows of one rank lie in its group's */
    void *send, *recv;
    lh_purpose purpose;
    bool add; /* to what is there */
} spread_run;

static int spread_member(const spread_attrs *a)
{
    return lh_comm_rank(a->group);
}

static int64_t spread_rows(const spread_attrs *a, int member)
{
    return a->spread->from->rows[a->ring * a->spread->ways + member];
}

/* First head of `member` in value i, and how many. */
static int64_t spread_part(const spread_attrs *a, int i, int member, int64_t *first)
{
    lh_head_range r = lh_spread_heads(a->heads, a->kv_heads, a->spread->ways, member);
    *first = a->kv[i] ? r.kv_first : r.head;
    return a->kv[i] ? r.kv_heads : r.n_heads;
}

/* Elements of value i that lie by position on `owner` and by heads on `holder`. */
static int64_t spread_count(const spread_run *r, int i, int owner, int holder)
{
    int64_t first = 0;
    if (!r->moved[i]) return 0;
    return r->batch * spread_rows(r->a, owner) * spread_part(r->a, i, holder, &first) * r->width;
}

static int64_t spread_bytes(const spread_run *r, int owner, int holder)
{
    int64_t n = 0;
    for (int i = 0; i < r->a->n; i++) n += spread_count(r, i, owner, holder);
    return n * (int64_t)lh_dtype_bytes(r->wire);
}

/* Value i by position, columns of the heads of `holder`. */
static lh_rows_args spread_position(const spread_run *r, int i, int holder, lh_span *all)
{
    int64_t first = 0;
    int64_t rows = spread_rows(r->a, spread_member(r->a));
    int64_t width = spread_part(r->a, i, holder, &first) * r->width;
    *all = (lh_span){0, rows, 1};
    return (lh_rows_args){.batch = r->batch,
                          .tensor_rows = rows,
                          .width = width,
                          .n_spans = 1,
                          .spans = all,
                          .element_bytes = lh_dtype_bytes(LH_REAL),
                          .wire = r->wire,
                          .row_width = (r->a->kv[i] ? r->a->kv_heads : r->a->heads) * r->width,
                          .column = first * r->width,
                          .tensor = r->position[i]};
}

/* Value i by heads, the rows that `owner` has by position. */
static lh_rows_args spread_by_heads(const spread_run *r, int i, int owner, lh_span *all)
{
    const lh_spread *s = r->a->spread;
    int64_t first = 0;
    int64_t n = 0;
    const lh_run *run = lh_layout_runs(s->from, r->a->ring * s->ways + owner, &n);
    for (int64_t k = 0; k < n && !r->device->counting; k++)
        r->spans[k] = (lh_span){lh_layout_row(s->to, r->a->ring, run[k].start), run[k].count, 1};
    *all = (lh_span){0, spread_rows(r->a, owner), 1}; /* as many, where there is no data */
    return (lh_rows_args){.batch = r->batch,
                          .tensor_rows = s->to->rows[r->a->ring],
                          .width = spread_part(r->a, i, spread_member(r->a), &first) * r->width,
                          .n_spans = r->device->counting ? 1 : n,
                          .spans = r->device->counting ? all : r->spans,
                          .element_bytes = lh_dtype_bytes(LH_REAL),
                          .wire = r->wire,
                          .tensor = r->by_heads[i]};
}

/* What this rank and `peer` have to do with each other, out of or into the values: towards heads, rows
 * of this rank leave for the peer's heads and rows of the peer arrive; towards positions the other way
 * round. */
static void spread_pack(const spread_run *r, bool to_heads, int peer, char *host)
{
    int me = spread_member(r->a);
    for (int i = 0; i < r->a->n; i++) {
        lh_span all;
        int64_t n = to_heads ? spread_count(r, i, me, peer) : spread_count(r, i, peer, me);
        if (n == 0) continue;
        lh_rows_args a =
            to_heads ? spread_position(r, i, peer, &all) : spread_by_heads(r, i, peer, &all);
        a.host = host;
        if (!r->device->counting) host += n * (int64_t)lh_dtype_bytes(r->wire);
        lh_run_pack_rows(r->device, &a);
    }
}

static void spread_unpack(const spread_run *r, bool to_heads, int peer, char *host)
{
    int me = spread_member(r->a);
    for (int i = 0; i < r->a->n; i++) {
        lh_span all;
        int64_t n = to_heads ? spread_count(r, i, peer, me) : spread_count(r, i, me, peer);
        if (n == 0) continue;
        lh_rows_args a =
            to_heads ? spread_by_heads(r, i, peer, &all) : spread_position(r, i, peer, &all);
        a.host = host;
        if (!r->device->counting) host += n * (int64_t)lh_dtype_bytes(r->wire);
        if (r->add)
            lh_run_add_rows(r->device, &a);
        else
            lh_run_unpack_rows(r->device, &a);
    }
}

/* Buffers for the largest message, and for what stays here. */
static lh_status spread_buffers(spread_run *r, bool to_heads)
{
    lh_status st = LH_OK;
    const lh_layout *from = r->a->spread->from;
    int me = spread_member(r->a);
    int64_t runs = 0;
    int64_t out = 0;
    int64_t in = 0;
    void *spans = NULL;
    for (int m = 0; m < r->a->spread->ways; m++) {
        int rank = r->a->ring * r->a->spread->ways + m;
        int64_t there = spread_bytes(r, me, m);
        int64_t back = spread_bytes(r, m, me);
        runs = lhi_max(runs, from->first[rank + 1] - from->first[rank]);
        out = lhi_max(out, to_heads ? there : back);
        if (m != me) in = lhi_max(in, to_heads ? back : there);
    }
    LH_TRY(lh_host_scratch(r->call, (size_t)runs * sizeof(lh_span), &spans));
    LH_TRY(lh_host_scratch(r->call, (size_t)out, &r->send));
    LH_TRY(lh_host_scratch(r->call, (size_t)in, &r->recv));
    r->spans = spans;
done:
    return st;
}

/* All ranks of the group in the order of distance: first what stays here. */
static lh_status spread_move(spread_run *r, bool to_heads)
{
    lh_status st = LH_OK;
    const spread_attrs *a = r->a;
    int ways = a->spread->ways;
    int me = spread_member(a);
    LH_TRY(spread_buffers(r, to_heads));
    spread_pack(r, to_heads, me, r->send);
    spread_unpack(r, to_heads, me, r->send);
    for (int s = 1; s < ways; s++) {
        lh_request sending = {0};
        lh_request receiving = {0};
        int to = (me + s) % ways;
        int from = (me - s + ways) % ways;
        int64_t out = to_heads ? spread_bytes(r, me, to) : spread_bytes(r, to, me);
        int64_t in = to_heads ? spread_bytes(r, from, me) : spread_bytes(r, me, from);
        lh_recv_start(a->group, r->recv, in, from, LH_TAG_SPREAD, &receiving);
        spread_pack(r, to_heads, to, r->send);
        lh_send_start(a->group, r->send, out, to, LH_TAG_SPREAD, r->purpose, &sending);
        lh_wait(a->group, &receiving);
        spread_unpack(r, to_heads, from, r->recv);
        lh_wait(a->group, &sending);
    }
done:
    return st;
}

static void spread_open(lh_call *c, spread_run *r)
{
    const lh_shape *s = lh_call_in_shape(c, 0);
    *r = (spread_run){.call = c,
                      .device = lh_call_device(c),
                      .a = lh_call_attrs(c),
                      .wire = lh_tape_stored(lh_call_tape(c)),
                      .batch = s->dim[0],
                      .width = s->dim[3]};
}

/* `to_heads`: the direction of the operation, or of its adjoint. */
static lh_status spread_forward(lh_call *c, bool to_heads)
{
    lh_status st = LH_OK;
    spread_run r;
    spread_open(c, &r);
    r.purpose = lh_tape_recomputing(lh_call_tape(c)) ? LH_SEND_RECOMPUTE : LH_SEND_FORWARD;
    for (int i = 0; i < r.a->n; i++) {
        const void *x = NULL;
        void *y = NULL;
        LH_TRY(lh_in(c, i, &x));
        LH_TRY(lh_out(c, i, &y));
        r.moved[i] = true;
        r.position[i] = to_heads ? (void *)(uintptr_t)x : y;
        r.by_heads[i] = to_heads ? y : (void *)(uintptr_t)x;
    }
    LH_TRY(spread_move(&r, to_heads));
done:
    return st;
}

/* A gradient that did not reach this rank is zero: others may have one. */
static lh_status spread_out_grad(lh_call *c, int i, const void **d)
{
    lh_status st = LH_OK;
    void *zero = NULL;
    LH_TRY(lh_out_grad(c, i, d));
    if (*d != NULL) goto done;
    LH_TRY(lh_scratch(c, lh_shape_bytes(lh_call_out_shape(c, i)), &zero));
    lh_run_fill(lh_call_device(c),
                &(lh_fill_args){lh_shape_count(lh_call_out_shape(c, i)), 0.0, zero});
    *d = zero;
done:
    return st;
}

static lh_status spread_vjp(lh_call *c, bool to_heads)
{
    lh_status st = LH_OK;
    spread_run r;
    spread_open(c, &r);
    r.purpose = LH_SEND_BACKWARD;
    r.add = true;
    for (int i = 0; i < r.a->n; i++) {
        const void *dy = NULL;
        void *dx = NULL;
        r.moved[i] = lh_wants_grad(c, i); /* on all ranks alike */
        if (!r.moved[i]) continue;
        LH_TRY(lh_in_grad_zeroed(c, i, &dx));
        LH_TRY(spread_out_grad(c, i, &dy));
        r.position[i] = to_heads ? (void *)(uintptr_t)dy : dx;
        r.by_heads[i] = to_heads ? dx : (void *)(uintptr_t)dy;
    }
    LH_TRY(spread_move(&r, to_heads));
done:
    return st;
}

static lh_status to_heads_forward(lh_call *c)
{
    return spread_forward(c, true);
}

static lh_status to_heads_vjp(lh_call *c)
{
    return spread_vjp(c, false);
}

static lh_status to_positions_forward(lh_call *c)
{
    return spread_forward(c, false);
}

static lh_status to_positions_vjp(lh_call *c)
{
    return spread_vjp(c, true);
}

static lh_status spread_place(const lh_call *c, const lh_place *in, lh_place *out,
                              lh_place_kind kind)
{
    const lh_spread *s = ((const spread_attrs *)lh_call_attrs(c))->spread;
    bool by_heads = kind == LH_HEADS;
    const lh_layout *layout = by_heads ? s->to : s->from;
    char text[128];
    for (int i = 0; i < lh_call_inputs(c); i++) {
        const lh_place_word *w = &in[i].axis[LH_AXIS_SEQ];
        if (w->kind != kind || w->dim != 1 || w->layout != layout)
            return LH_RAISE(LH_ERR_BUG, "value %d is %s, not %s", i,
                            lh_place_text(&in[i], text, sizeof text),
                            by_heads ? "by these heads" : "by the layout whose heads are spread");
        out[i] = in[i];
        out[i].axis[LH_AXIS_SEQ] =
            (lh_place_word){by_heads ? LH_SHARD : LH_HEADS, 1, by_heads ? s->from : s->to};
    }
    return LH_OK;
}

static lh_status to_heads_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    return spread_place(c, in, out, LH_SHARD);
}

static lh_status to_positions_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    return spread_place(c, in, out, LH_HEADS);
}

/* Not costly: what it makes is as large as what a light segment drops. */
static const lh_op to_heads_op = {
    .name = "to_heads", .place = to_heads_place, .forward = to_heads_forward, .vjp = to_heads_vjp};

static const lh_op to_positions_op = {.name = "to_positions",
                                      .by_heads = true,
                                      .costly = true,
                                      .place = to_positions_place,
                                      .forward = to_positions_forward,
                                      .vjp = to_positions_vjp};

/* What both operations know. */
static lh_status spread_describe(const lh_tape *t, const lh_spread_desc *d, int n, spread_attrs *a)
{
    lh_status st = LH_OK;
    *a = (spread_attrs){.group = d->mesh->group,
                        .spread = d->spread,
                        .ring = lh_tape_coord(t, LH_AXIS_SEQ) / d->spread->ways,
                        .heads = d->heads,
                        .kv_heads = d->kv_heads,
                        .n = n};
    LH_CHECK(d->mesh->ways == d->spread->ways && n >= 1 && n <= LH_SPREAD_VALUES &&
                 d->kv_heads > 0 && d->heads % d->kv_heads == 0,
             LH_ERR_BUG, "%d values of %lld and %lld heads over groups of %d, the mesh has %d", n,
             (long long)d->heads, (long long)d->kv_heads, d->spread->ways, d->mesh->ways);
done:
    return st;
}

static lh_status spread_check(const lh_shape *s, const lh_shape *first, int64_t rows, int64_t heads)
{
    if (s->ndim == 4 && s->dtype == LH_REAL && s->dim[0] == first->dim[0] && s->dim[1] == rows &&
        s->dim[2] == heads && s->dim[3] == first->dim[3])
        return LH_OK;
    char text[96];
    return LH_RAISE(LH_ERR_BUG, "%s has not %lld rows of %lld heads",
                    lh_shape_text(s, text, sizeof text), (long long)rows, (long long)heads);
}

lh_status lh_to_heads(lh_tape *t, const lh_spread_desc *d, int n, const lh_var *x, const bool *kv,
                      lh_var *y)
{
    lh_status st = LH_OK;
    spread_attrs a;
    lh_shape shape[LH_SPREAD_VALUES];
    int64_t first = 0;
    LH_TRY(spread_describe(t, d, n, &a));
    int64_t rows = spread_rows(&a, spread_member(&a));
    for (int i = 0; i < n; i++) {
        a.kv[i] = kv[i];
        shape[i] = *lh_var_shape(t, x[i]);
        LH_TRY(spread_check(&shape[i], &shape[0], rows, kv[i] ? d->kv_heads : d->heads));
    }
    for (int i = 0; i < n; i++) {
        shape[i].dim[1] = d->spread->to->rows[a.ring];
        shape[i].dim[2] = spread_part(&a, i, spread_member(&a), &first);
    }
    LH_TRY(lh_record(t, &to_heads_op, &a, sizeof a, n, x, n, shape, y));
    for (int i = 0; i < n && lh_tape_stored(t) == LH_BF16; i++) lh_store_rounded(t, y[i]);
done:
    return st;
}

lh_status lh_to_positions(lh_tape *t, const lh_spread_desc *d, lh_var x, lh_var *y)
{
    lh_status st = LH_OK;
    spread_attrs a;
    int64_t first = 0;
    lh_shape shape = *lh_var_shape(t, x);
    LH_TRY(spread_describe(t, d, 1, &a));
    LH_TRY(spread_check(&shape, &shape, d->spread->to->rows[a.ring],
                        spread_part(&a, 0, spread_member(&a), &first)));
    shape.dim[1] = spread_rows(&a, spread_member(&a));
    shape.dim[2] = d->heads;
    LH_TRY(lh_record(t, &to_positions_op, &a, sizeof a, 1, &x, 1, &shape, y));
done:
    return st;
}
