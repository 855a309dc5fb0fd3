/* Exclusive scan in position order of one summary per run, and its adjoint: the same in reverse
 * order. Sums are made by adding alone, in an order that depends only on the number of ranks; nothing
 * is ever subtracted. */
#include <string.h>

#include "parallel/collectives.h"
#include "parallel/exchange.h"

typedef struct scan_attrs {
    lh_comm *comm;
    int64_t runs;
} scan_attrs;

int64_t lh_scan_runs(const lh_layout *layout)
{
    int64_t runs = strcmp(layout->name, "zigzag") == 0 ? 2 : 1;
    int64_t up = -1;          /* the last position of first runs so far */
    int64_t down = layout->n; /* where second runs begin so far */
    if (layout->everywhere) return 0;
    for (int r = 0; r < layout->ranks; r++) {
        int64_t count = 0;
        const lh_run *run = lh_layout_runs(layout, r, &count);
        if (count > 2) return 0;
        if (count > 0) {
            if (run[0].start <= up) return 0;
            up = run[0].start + (run[0].count - 1) * run[0].stride;
        }
        if (count > 1) {
            runs = 2;
            if (run[1].start + (run[1].count - 1) * run[1].stride >= down) return 0;
            down = run[1].start;
        }
    }
    return up < down ? runs : 0;
}

/* The largest power of two up to ranks, and its logarithm. */
static int scan_power(int ranks, int *log2)
{
    int power = 1;
    for (*log2 = 0; 2 * power <= ranks; power *= 2) ++*log2;
    return power;
}

int64_t lh_scan_sends(int64_t runs, int ranks, int rank, bool backward)
{
    int levels = 0;
    int64_t messages = 0;
    if (runs == 1) { /* one to each rank at distance 1, 2, 4, ... ahead */
        int ahead = backward ? rank : ranks - 1 - rank;
        for (int64_t far = 1; far <= ahead; far *= 2) messages++;
        return messages;
    }
    int pairs = ranks - scan_power(ranks, &levels);
    messages = levels;
    if (rank < 2 * pairs) messages = rank % 2 == 0 ? levels + 1 : 1; /* unfolds; folds */
    return 2 * messages;
}

/* --- one scan, on the host --- */

typedef struct scan_run {
    lh_comm *comm;
    bool counting; /* no data: messages are counted, nothing is added */
    int rank, ranks;
    int64_t runs, n; /* summaries; elements of one */
    /* Host memory, one or two summaries each: what this rank gives, what it gets, the sums that
     * travel, and what arrives. */
    lh_real *own, *result, *total, *in;
} scan_run;

/* to += from, one summary. */
static void scan_add(const scan_run *s, const lh_real *from, lh_real *to)
{
    for (int64_t i = 0; i < s->n && !s->counting; i++) to[i] += from[i];
}

static void scan_copy(const scan_run *s, const lh_real *from, lh_real *to, int64_t summaries)
{
    if (!s->counting && s->n > 0) memcpy(to, from, (size_t)(summaries * s->n) * sizeof *to);
}

/* Summaries `out` go to rank `to`, as many come from rank `from` into `in`; -1: none. */
static void scan_exchange(const scan_run *s, const lh_real *out, int64_t summaries, int to,
                          int from)
{
    lh_request sending = {0};
    lh_request receiving = {0};
    int64_t bytes = summaries * s->n * (int64_t)sizeof *out;
    if (from >= 0) lh_recv_start(s->comm, s->in, bytes, from, LH_TAG_SCAN, &receiving);
    if (to >= 0) lh_send_start(s->comm, out, bytes, to, LH_TAG_SCAN, LH_SEND_SUMMARY, &sending);
    lh_wait(s->comm, &receiving);
    lh_wait(s->comm, &sending);
}

/* One run per rank, upwards or downwards (Hillis and Steele 1986; Kogge and Stone 1973): before the
 * step at distance d, total is the sum of the d ranks up to this one, result that without this one. */
static void scan_contiguous(const scan_run *s, bool backward)
{
    int place = backward ? s->ranks - 1 - s->rank : s->rank; /* in the order of the scan */
    int sign = backward ? -1 : 1;
    scan_copy(s, s->own, s->total, 1);
    for (int far = 1; far < s->ranks; far *= 2) {
        int to = place + far < s->ranks ? s->rank + sign * far : -1;
        int from = place >= far ? s->rank - sign * far : -1;
        scan_exchange(s, s->total, 1, to, from);
        if (from < 0) continue;
        scan_add(s, s->in, s->total);
        scan_add(s, s->in, s->result);
    }
}

/* Groups of 1, 2, 4, ... virtual ranks exchange their sums: total = {early, late} of the group,
 * result = {early sums of lower ranks, late sums of higher ranks} within it. */
static void scan_butterfly(const scan_run *s, int power, int pairs)
{
    int mine = s->rank < 2 * pairs ? s->rank / 2 : s->rank - pairs; /* virtual rank */
    for (int far = 1; far < power; far *= 2) {
        int other = mine ^ far;
        int peer = other < pairs ? 2 * other : other + pairs;
        scan_exchange(s, s->total, 2, peer, peer);
        if (other < mine)
            scan_add(s, s->in, s->result);
        else
            scan_add(s, s->in + s->n, s->result + s->n);
        scan_add(s, s->in, s->total);
        scan_add(s, s->in + s->n, s->total + s->n);
    }
}

/* An early run per rank, ascending, and a late one, descending. result early = sum of the early runs
 * of lower ranks; late = sum of all early runs and of the late runs of higher ranks. Where the number
 * of ranks is no power of two, the first ranks fold into adjacent pairs, of which the even one works
 * for both; so nobody sends more than ceil(log2 ranks) messages. */
static void scan_zigzag(const scan_run *s)
{
    int levels = 0;
    int power = scan_power(s->ranks, &levels);
    int pairs = s->ranks - power;
    bool paired = s->rank < 2 * pairs;
    scan_copy(s, s->own, s->total, 2);
    if (paired && s->rank % 2 == 1) {
        scan_exchange(s, s->total, 2, s->rank - 1, -1);
        scan_exchange(s, s->total, 2, -1, s->rank - 1);
        scan_copy(s, s->in, s->result, 2);
        return;
    }
    if (paired) {
        scan_exchange(s, s->total, 2, -1, s->rank + 1);
        scan_copy(s, s->in + s->n, s->own + s->n, 1); /* the partner's late run, for the end */
        scan_add(s, s->in, s->total);
        scan_add(s, s->in + s->n, s->total + s->n);
    }
    scan_butterfly(s, power, pairs);
    scan_add(s, s->total, s->result + s->n);
    if (!paired) return;
    /* the partner: behind this rank's early run; this rank: behind the partner's late run */
    scan_copy(s, s->result, s->total, 2);
    scan_add(s, s->own, s->total);
    scan_exchange(s, s->total, 2, s->rank + 1, -1);
    scan_add(s, s->own + s->n, s->result + s->n);
}

/* --- the operation --- */

/* Summaries between device and host; a backward scan of two runs swaps them, since late runs
 * come first then, and ascend in rank. */
static void scan_load(const scan_run *s, lh_device *d, const void *x, bool swap)
{
    size_t bytes = (size_t)s->n * sizeof *s->own;
    for (int64_t i = 0; i < s->runs && !s->counting; i++)
        lh_copy_out(d, s->own + i * s->n, (const char *)x + (size_t)(swap ? 1 - i : i) * bytes,
                    bytes);
}

static void scan_store(const scan_run *s, lh_device *d, void *y, bool swap)
{
    size_t bytes = (size_t)s->n * sizeof *s->own;
    for (int64_t i = 0; i < s->runs && !s->counting; i++)
        lh_copy_in(d, (char *)y + (size_t)(swap ? 1 - i : i) * bytes, s->result + i * s->n, bytes);
}

/* y (+)= the scan of x. */
static lh_status scan_apply(lh_call *c, const void *x, void *y, bool backward, bool accumulate)
{
    lh_status st = LH_OK;
    const scan_attrs *a = lh_call_attrs(c);
    lh_device *d = lh_call_device(c);
    int64_t count = lh_shape_count(lh_call_in_shape(c, 0));
    size_t bytes = (size_t)count * lh_dtype_bytes(LH_REAL);
    void *host[4] = {NULL};
    void *sum = y;
    for (int i = 0; i < 4; i++) LH_TRY(lh_host_scratch(c, bytes, &host[i]));
    if (accumulate) LH_TRY(lh_scratch(c, bytes, &sum));
    scan_run s = {.comm = a->comm,
                  .counting = d->counting,
                  .rank = lh_comm_rank(a->comm),
                  .ranks = lh_comm_size(a->comm),
                  .runs = a->runs,
                  .n = count / a->runs,
                  .own = host[0],
                  .result = host[1],
                  .total = host[2],
                  .in = host[3]};
    bool swap = backward && a->runs == 2;
    if (!d->counting && bytes > 0) memset(s.result, 0, bytes);
    scan_load(&s, d, x, swap);
    if (a->runs == 1)
        scan_contiguous(&s, backward);
    else
        scan_zigzag(&s);
    scan_store(&s, d, sum, swap);
    if (accumulate) lh_run_axpy(d, &(lh_axpy_args){count, 1.0, sum, y, true});
done:
    return st;
}

static lh_status scan_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    (void)c;
    const lh_place_word *w = &in[0].axis[LH_AXIS_SEQ];
    char text[128];
    if (w->kind != LH_SHARD || w->dim != 0 || w->layout != NULL)
        return LH_RAISE(LH_ERR_BUG, "summaries are %s; they must be sharded by run (dimension 0)",
                        lh_place_text(&in[0], text, sizeof text));
    out[0] = in[0];
    return LH_OK;
}

static lh_status scan_forward(lh_call *c)
{
    lh_status st = LH_OK;
    const void *x = NULL;
    void *y = NULL;
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_out(c, 0, &y));
    LH_TRY(scan_apply(c, x, y, false, false));
done:
    return st;
}

static lh_status scan_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    const void *dy = NULL;
    void *dx = NULL;
    bool accumulate = false;
    LH_TRY(lh_out_grad(c, 0, &dy));
    LH_TRY(lh_in_grad(c, 0, &dx, &accumulate));
    if (dx != NULL) LH_TRY(scan_apply(c, dy, dx, true, accumulate));
done:
    return st;
}

static const lh_op scan_op = {
    .name = "scan", .costly = true, .place = scan_place, .forward = scan_forward, .vjp = scan_vjp};

lh_status lh_scan(lh_tape *t, lh_mesh *mesh, const lh_layout *layout, lh_var x, lh_var *y)
{
    lh_status st = LH_OK;
    const lh_shape shape = *lh_var_shape(t, x);
    scan_attrs attrs = {mesh->axis[LH_AXIS_SEQ], lh_scan_runs(layout)};
    LH_CHECK(attrs.runs > 0, LH_ERR_UNSUP,
             "a scan wants at most one ascending and one descending run of positions per rank; "
             "layout %s has others (use contiguous or zigzag)",
             layout->name);
    LH_CHECK(layout->ranks == mesh->size[LH_AXIS_SEQ], LH_ERR_BUG,
             "a layout over %d ranks on a mesh of %d", layout->ranks, mesh->size[LH_AXIS_SEQ]);
    LH_CHECK(shape.dtype == LH_REAL && shape.ndim >= 1 && shape.dim[0] == attrs.runs, LH_ERR_BUG,
             "scan wants real summaries [%lld, ...], one per run", (long long)attrs.runs);
    LH_TRY(lh_record(t, &scan_op, &attrs, sizeof attrs, 1, &x, 1, &shape, y));
done:
    return st;
}
