#include "attention/attend.h"
#include "attention/by_heads.h"
#include "core/integer.h"
#include "core/pulse.h"

#include <math.h>

/* Outputs: kept holds the received rows of all segments that keep them. */
enum { ATTEND_O, ATTEND_LSE, ATTEND_KEPT, ATTEND_OUTPUTS };
enum { ATTEND_INPUTS = 1 + 2 * LH_SEGMENTS + 2 };
enum { ATTEND_POKES = 16 }; /* of messages, while the tiles of one step are computed */

/* One segment as it is recorded. Heads: of queries, and the key/value heads that they use. */
typedef struct attend_part {
    const lh_plan *plan;
    lh_sight sight;
    int in[2]; /* inputs that are k and v */
    int64_t head, n_heads, kv_first, kv_heads;
    int64_t own_first;         /* first key/value head that k and v hold */
    int64_t kept;              /* first element in the output `kept` */
    const lh_pattern *pattern; /* pattern, keys: for lhi_attend_seen */
    const lh_layout *keys;
} attend_part;

typedef struct attend_attrs {
    lh_comm *comm;
    double scale;
    int64_t kv_heads, group, skew;
    int relative_q, relative_weight; /* inputs; 0: no relative term */
    int n_segments;
    attend_part part[LH_SEGMENTS];
    int64_t batch; /* batch to queries: for lhi_attend_seen */
    int64_t first_head;
    const lh_layout *queries;
} attend_attrs;

/* One running forward or backward, and the scratch that its segments use one after the other. */
typedef struct attend_run {
    lh_call *call;
    lh_device *device;
    const attend_attrs *attrs;
    int64_t batch, heads, width, rows;
    int64_t most_keys;  /* of any segment's plan */
    lh_dtype wire;      /* of rows on their way */
    lh_attend_args fwd; /* q, o, max, sum, scratch; keys and tiles per call */
    lh_attend_grad_args bwd;
    void *block[2], *d_block[2];
    void *send[2], *recv[2]; /* host: of rows that are fetched, and of gradients that go home */
    const void *in[ATTEND_INPUTS];
    void *d_in[ATTEND_INPUTS]; /* NULL: not wanted */
    /* relative term: weight [H D, E]; sinusoids [T, E], their projection and its gradient [T, H, D] of
     * a part's distances */
    int64_t embed;
    void *sinusoids, *table, *d_table;
    int64_t blocks,
        every; /* blocks of queries computed in this step; messages are poked after so many */
} attend_run;

/* One segment of it. */
typedef struct attend_keys {
    const attend_part *part;
    const lh_plan *plan;
    const lh_exchange *x;
    const void *home[2]; /* k, v of this rank */
    int64_t home_rows, home_heads;
    void *block[2]; /* received k, v */
    void *d_home[2], *d_block[2];
    bool wanted; /* gradients of these keys go home */
    lh_transfer fetch, give;
} attend_keys;

static lh_real *attend_at(void *p, int64_t element)
{
    return (lh_real *)p + element;
}

static lh_status attend_open(lh_call *c, attend_run *r)
{
    lh_status st = LH_OK;
    const lh_shape *q = lh_call_in_shape(c, 0);
    *r = (attend_run){.call = c, .device = lh_call_device(c), .attrs = lh_call_attrs(c)};
    r->wire = lh_tape_stored(lh_call_tape(c));
    r->batch = q->dim[0];
    r->rows = q->dim[1];
    r->heads = q->dim[2];
    r->width = q->dim[3];
    if (r->attrs->relative_weight > 0)
        r->embed = lh_call_in_shape(c, r->attrs->relative_weight)->dim[1];
    for (int i = 0; i < r->attrs->n_segments; i++)
        r->most_keys = lhi_max(r->most_keys, r->attrs->part[i].plan->most_keys);
    for (int i = 0; i < lh_call_inputs(c); i++) LH_TRY(lh_in(c, i, &r->in[i]));
done:
    return st;
}

/* The largest that any segment needs, in elements: blocks of received rows and of their gradients,
 * messages of a fetch and of a return; rows for the kernels' own scratch; rows of a table of
 * distances. */
typedef struct attend_need {
    int64_t block, d_block, fetch_send, fetch_recv, give_send, give_recv, k_rows, table;
} attend_need;

static attend_need attend_needs(const attend_run *r, bool backward)
{
    attend_need n = {0};
    for (int i = 0; i < r->attrs->n_segments; i++) {
        const attend_part *p = &r->attrs->part[i];
        const lh_exchange *x = p->plan->exchange;
        int64_t row = r->batch * p->kv_heads * r->width;
        int64_t home = lh_call_in_shape(r->call, p->in[0])->dim[1];
        if (!x->keep) n.block = lhi_max(n.block, row * p->plan->block_rows);
        if (!backward || !x->keep) {
            n.fetch_send = lhi_max(n.fetch_send, 2 * row * x->max_send);
            n.fetch_recv = lhi_max(n.fetch_recv, 2 * row * x->max_recv);
        }
        if (backward) {
            n.d_block = lhi_max(n.d_block, row * p->plan->block_rows);
            n.give_send = lhi_max(n.give_send, 2 * row * x->max_recv);
            n.give_recv = lhi_max(n.give_recv, 2 * row * x->max_send);
        }
        n.k_rows = lhi_max(n.k_rows, lhi_max(home, p->plan->block_rows));
        n.table = lhi_max(n.table, p->plan->max_distance_rows);
    }
    return n;
}

static lh_status attend_scratch(attend_run *r, bool backward, void **kernels)
{
    lh_status st = LH_OK;
    lh_call *c = r->call;
    const attend_need n = attend_needs(r, backward);
    const size_t real = lh_dtype_bytes(LH_REAL);
    const size_t wire = lh_dtype_bytes(r->wire);
    for (int i = 0; i < 2; i++) {
        LH_TRY(lh_scratch(c, (size_t)n.block * real, &r->block[i]));
        if (backward) LH_TRY(lh_scratch(c, (size_t)n.d_block * real, &r->d_block[i]));
    }
    LH_TRY(lh_host_scratch(c, (size_t)n.fetch_send * wire, &r->send[0]));
    LH_TRY(lh_host_scratch(c, (size_t)n.fetch_recv * wire, &r->recv[0]));
    LH_TRY(lh_host_scratch(c, (size_t)n.give_send * wire, &r->send[1]));
    LH_TRY(lh_host_scratch(c, (size_t)n.give_recv * wire, &r->recv[1]));
    if (r->embed > 0) {
        size_t table = (size_t)(n.table * r->heads * r->width) * real;
        LH_TRY(lh_scratch(c, (size_t)(n.table * r->embed) * real, &r->sinusoids));
        LH_TRY(lh_scratch(c, table, &r->table));
        if (backward) LH_TRY(lh_scratch(c, table, &r->d_table));
    }
    const lh_attend_room room = {.width = r->width,
                                 .k_rows = n.k_rows,
                                 .most_keys = r->most_keys,
                                 .relative = r->embed > 0,
                                 .backward = backward};
    LH_TRY(lh_scratch(c, lh_attend_scratch(r->device, &room), kernels));
done:
    return st;
}

/* way: 0 to fetch rows, 1 to return gradients. */
static lh_transfer attend_transfer(const attend_run *r, const attend_keys *k, int way,
                                   lh_purpose purpose)
{
    return (lh_transfer){.comm = r->attrs->comm,
                         .device = r->device,
                         .exchange = k->x,
                         .n = 2,
                         .batch = r->batch,
                         .width = k->part->kv_heads * r->width,
                         .rows = k->home_rows,
                         .row_width = k->home_heads * r->width,
                         .column = (k->part->kv_first - k->part->own_first) * r->width,
                         .block_rows = k->plan->block_rows,
                         .wire = r->wire,
                         .send = r->send[way],
                         .recv = r->recv[way],
                         .purpose = purpose};
}

/* Keys of segment i: what is here, and the block for what comes. */
static lh_status attend_open_keys(attend_run *r, int i, attend_keys *k)
{
    lh_status st = LH_OK;
    const attend_part *p = &r->attrs->part[i];
    const lh_shape *shape = lh_call_in_shape(r->call, p->in[0]);
    int64_t block = r->batch * p->plan->block_rows * p->kv_heads * r->width;
    void *kept = NULL;
    *k = (attend_keys){.part = p, .plan = p->plan, .x = p->plan->exchange};
    k->home_rows = shape->dim[1];
    k->home_heads = shape->dim[2];
    if (k->x->keep) LH_TRY(lh_out(r->call, ATTEND_KEPT, &kept));
    for (int n = 0; n < 2; n++) {
        k->home[n] = r->in[p->in[n]];
        k->block[n] = k->x->keep ? attend_at(kept, p->kept + n * block) : r->block[n];
    }
done:
    return st;
}

/* Sinusoids of a part's distances, and their projection for the segment's heads. */
static void attend_table(const attend_run *r, const attend_keys *k, int part)
{
    const lh_plan *p = k->plan;
    const attend_part *s = k->part;
    int64_t e = r->embed;
    int64_t row = r->heads * r->width;
    int64_t at = 0;
    for (int64_t i = p->first_distance[part]; i < p->first_distance[part + 1]; i++) {
        const lh_run *d = &p->distance[i];
        lh_run_distance_table(r->device,
                              &(lh_distance_table_args){d->count, e, d->start, d->stride,
                                                        attend_at(r->sinusoids, at * e)});
        at += d->count;
    }
    const lh_real *weight = r->in[r->attrs->relative_weight];
    lh_run_gemm(r->device, &(lh_gemm_args){.m = at,
                                           .n = s->n_heads * r->width,
                                           .k = e,
                                           .alpha = 1.0,
                                           .a = r->sinusoids,
                                           .a_rs = e,
                                           .a_cs = 1,
                                           .b = weight + s->head * r->width * e,
                                           .b_rs = 1,
                                           .b_cs = e,
                                           .c = attend_at(r->table, s->head * r->width),
                                           .c_rs = row,
                                           .c_cs = 1});
}

/* Between two blocks of queries: messages move on only inside MPI, and a watcher sees that we do. */
static void attend_between(void *user)
{
    attend_run *r = user;
    lh_pulse_beat(r->device->pulse);
    if (++r->blocks % r->every == 0) lh_progress(r->attrs->comm);
}

/* How often to poke while these tiles are computed: ATTEND_POKES times, evenly. */
static void attend_poke(attend_run *r, int64_t heads, const lh_tile *tiles, int64_t n_tiles)
{
    int64_t groups = 0; /* of tiles with the same queries */
    for (int64_t i = 0; i < n_tiles; i++) groups += i == 0 || tiles[i].q_row != tiles[i - 1].q_row;
    r->blocks = 0;
    r->every = 1 + r->batch * heads * groups / (ATTEND_POKES + 1);
}

/* Tiles of part 0 (own keys) or 1 + step. */
static void attend_tiles(attend_run *r, const attend_keys *k, int part)
{
    const lh_plan *p = k->plan;
    const void *const *keys = part == 0 ? k->home : (const void *const *)k->block;
    r->fwd.tiles = p->tile + p->first[part];
    r->fwd.n_tiles = p->first[part + 1] - p->first[part];
    if (r->fwd.n_tiles == 0) return;
    r->fwd.bits = p->bits;
    r->fwd.sight = k->part->sight;
    r->fwd.head = k->part->head;
    r->fwd.n_heads = k->part->n_heads;
    r->fwd.k = keys[0];
    r->fwd.v = keys[1];
    r->fwd.k_rows = part == 0 ? k->home_rows : p->block_rows;
    r->fwd.kv_first = part == 0 ? k->part->own_first : k->part->kv_first;
    r->fwd.kv_held = part == 0 ? k->home_heads : k->part->kv_heads;
    if (r->embed > 0) {
        attend_table(r, k, part);
        r->fwd.qr = r->in[r->attrs->relative_q];
        r->fwd.r = r->table;
        r->fwd.r_rows = p->distance_rows[part];
    }
    attend_poke(r, k->part->n_heads, r->fwd.tiles, r->fwd.n_tiles);
    lh_run_attend(r->device, &r->fwd);
}

static void attend_segment(attend_run *r, attend_keys *k)
{
    if (k->x->n_steps > 0) lh_fetch_start(&k->fetch, 0, k->home);
    attend_tiles(r, k, 0);
    for (int i = 0; i < k->x->n_steps; i++) {
        lh_fetch_finish(&k->fetch, i, k->block, k->x->keep ? k->x->step[i].offset : 0);
        if (i + 1 < k->x->n_steps) lh_fetch_start(&k->fetch, i + 1, k->home);
        attend_tiles(r, k, i + 1);
    }
}

static lh_status attend_forward(lh_call *c)
{
    lh_status st = LH_OK;
    attend_run r;
    bool again = lh_tape_recomputing(lh_call_tape(c));
    LH_TRY(attend_open(c, &r));
    int64_t stats = r.batch * r.heads * r.rows;
    r.fwd = (lh_attend_args){.batch = r.batch,
                             .heads = r.heads,
                             .kv_heads = r.attrs->kv_heads,
                             .group = r.attrs->group,
                             .skew = r.attrs->skew,
                             .width = r.width,
                             .q_rows = r.rows,
                             .most_keys = r.most_keys,
                             .scale = r.attrs->scale,
                             .q = r.in[0],
                             .between = attend_between,
                             .user = &r};
    LH_TRY(lh_out(c, ATTEND_O, &r.fwd.o));
    LH_TRY(lh_out(c, ATTEND_LSE, &r.fwd.max)); /* becomes lse in attend_finish */
    LH_TRY(lh_scratch(c, (size_t)stats * lh_dtype_bytes(LH_REAL), &r.fwd.sum));
    LH_TRY(attend_scratch(&r, false, &r.fwd.scratch));
    lh_run_fill(r.device, &(lh_fill_args){stats * r.width, 0.0, r.fwd.o});
    lh_run_fill(r.device, &(lh_fill_args){stats, 0.0, r.fwd.sum});
    lh_run_fill(r.device, &(lh_fill_args){stats, -HUGE_VAL, r.fwd.max});
    for (int i = 0; i < r.attrs->n_segments; i++) {
        attend_keys k;
        LH_TRY(attend_open_keys(&r, i, &k));
        k.fetch = attend_transfer(&r, &k, 0, again ? LH_SEND_RECOMPUTE : LH_SEND_FORWARD);
        attend_segment(&r, &k);
    }
    lh_run_attend_finish(r.device,
                         &(lh_attend_finish_args){r.batch, r.heads, r.width, r.rows, r.fwd.o,
                                                  r.fwd.max, r.fwd.sum, r.fwd.max});
done:
    return st;
}

/* weight += d table^T sinusoids, for the segment's heads. */
static void attend_table_grad(const attend_run *r, const attend_keys *k, int part)
{
    const attend_part *s = k->part;
    int64_t e = r->embed;
    int64_t row = r->heads * r->width;
    lh_real *d_weight = r->d_in[r->attrs->relative_weight];
    if (d_weight == NULL) return;
    lh_run_gemm(r->device, &(lh_gemm_args){.m = s->n_heads * r->width,
                                           .n = e,
                                           .k = k->plan->distance_rows[part],
                                           .alpha = 1.0,
                                           .a = attend_at(r->d_table, s->head * r->width),
                                           .a_rs = 1,
                                           .a_cs = row,
                                           .b = r->sinusoids,
                                           .b_rs = e,
                                           .b_cs = 1,
                                           .c = d_weight + s->head * r->width * e,
                                           .c_rs = e,
                                           .c_cs = 1,
                                           .accumulate = true});
}

static void attend_grad_tiles(attend_run *r, const attend_keys *k, int part)
{
    const lh_plan *p = k->plan;
    const void *const *keys = part == 0 ? k->home : (const void *const *)k->block;
    void *const *d_keys = part == 0 ? k->d_home : k->d_block;
    r->bwd.tiles = p->tile + p->first[part];
    r->bwd.n_tiles = p->first[part + 1] - p->first[part];
    if (r->bwd.n_tiles == 0) return;
    r->bwd.bits = p->bits;
    r->bwd.sight = k->part->sight;
    r->bwd.head = k->part->head;
    r->bwd.n_heads = k->part->n_heads;
    r->bwd.k = keys[0];
    r->bwd.v = keys[1];
    r->bwd.dk = d_keys[0];
    r->bwd.dv = d_keys[1];
    r->bwd.k_rows = part == 0 ? k->home_rows : p->block_rows;
    r->bwd.kv_first = part == 0 ? k->part->own_first : k->part->kv_first;
    r->bwd.kv_held = part == 0 ? k->home_heads : k->part->kv_heads;
    if (r->embed > 0) {
        int64_t n = p->distance_rows[part] * r->heads * r->width;
        attend_table(r, k, part);
        lh_run_fill(r->device, &(lh_fill_args){n, 0.0, r->d_table});
        r->bwd.qr = r->in[r->attrs->relative_q];
        r->bwd.r = r->table;
        r->bwd.dr = r->d_table;
        r->bwd.r_rows = p->distance_rows[part];
    }
    attend_poke(r, k->part->n_heads, r->bwd.tiles, r->bwd.n_tiles);
    lh_run_attend_grad(r->device, &r->bwd);
    if (r->embed > 0) attend_table_grad(r, k, part);
}

/* Remote steps first: their gradients fly home while the next step, and at last the own keys, are
 * computed. */
static void attend_segment_grad(attend_run *r, attend_keys *k)
{
    int steps = k->x->n_steps;
    bool keep = k->x->keep;
    int64_t block = r->batch * k->plan->block_rows * k->part->kv_heads * r->width;
    if (!keep && steps > 0) lh_fetch_start(&k->fetch, 0, k->home);
    for (int i = 0; i < steps; i++) {
        int64_t offset = keep ? k->x->step[i].offset : 0;
        if (!keep) {
            lh_fetch_finish(&k->fetch, i, k->block, 0);
            if (i + 1 < steps) lh_fetch_start(&k->fetch, i + 1, k->home);
        }
        for (int n = 0; n < 2 && (!keep || i == 0); n++)
            lh_run_fill(r->device, &(lh_fill_args){block, 0.0, k->d_block[n]});
        attend_grad_tiles(r, k, i + 1);
        if (!k->wanted) continue;
        if (i > 0) lh_return_finish(&k->give, i - 1, k->d_home);
        lh_return_start(&k->give, i, (const void *const *)k->d_block, offset);
    }
    attend_grad_tiles(r, k, 0);
    if (steps > 0 && k->wanted) lh_return_finish(&k->give, steps - 1, k->d_home);
}

/* The gradient of o; zeros if only lse has one. */
static lh_status attend_out_grad(const attend_run *r, const void **d_o)
{
    lh_status st = LH_OK;
    void *zero = NULL;
    int64_t n = r->batch * r->rows * r->heads * r->width;
    LH_TRY(lh_out_grad(r->call, ATTEND_O, d_o));
    if (*d_o != NULL) goto done;
    LH_TRY(lh_scratch(r->call, (size_t)n * lh_dtype_bytes(LH_REAL), &zero));
    lh_run_fill(r->device, &(lh_fill_args){n, 0.0, zero});
    *d_o = zero;
done:
    return st;
}

/* Gradients of all inputs: where they are wanted; of queries, in any case somewhere. */
static lh_status attend_open_grads(attend_run *r)
{
    lh_status st = LH_OK;
    lh_call *c = r->call;
    for (int i = 0; i < lh_call_inputs(c); i++) LH_TRY(lh_in_grad_zeroed(c, i, &r->d_in[i]));
    r->bwd.dq = r->d_in[0];
    if (r->bwd.dq == NULL)
        LH_TRY(lh_scratch(c, lh_shape_bytes(lh_call_in_shape(c, 0)), &r->bwd.dq));
    if (r->embed == 0) goto done;
    r->bwd.dqr = r->d_in[r->attrs->relative_q];
    if (r->bwd.dqr == NULL)
        LH_TRY(lh_scratch(c, lh_shape_bytes(lh_call_in_shape(c, 0)), &r->bwd.dqr));
done:
    return st;
}

static lh_status attend_open_keys_grad(attend_run *r, int i, attend_keys *k)
{
    lh_status st = LH_OK;
    LH_TRY(attend_open_keys(r, i, k));
    for (int n = 0; n < 2; n++) {
        k->d_block[n] = r->d_block[n];
        k->d_home[n] = r->d_in[k->part->in[n]];
        k->wanted = k->wanted || k->d_home[n] != NULL;
        if (k->d_home[n] == NULL) /* thrown away */
            LH_TRY(lh_scratch(r->call, lh_shape_bytes(lh_call_in_shape(r->call, k->part->in[n])),
                              &k->d_home[n]));
    }
    k->fetch = attend_transfer(r, k, 0, LH_SEND_BACKWARD);
    k->give = attend_transfer(r, k, 1, LH_SEND_BACKWARD);
done:
    return st;
}

static lh_status attend_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    attend_run r;
    void *o = NULL;
    void *lse = NULL;
    void *delta = NULL;
    const void *dlse = NULL;
    LH_TRY(attend_open(c, &r));
    r.bwd = (lh_attend_grad_args){.batch = r.batch,
                                  .heads = r.heads,
                                  .kv_heads = r.attrs->kv_heads,
                                  .group = r.attrs->group,
                                  .skew = r.attrs->skew,
                                  .width = r.width,
                                  .q_rows = r.rows,
                                  .most_keys = r.most_keys,
                                  .scale = r.attrs->scale,
                                  .q = r.in[0],
                                  .between = attend_between,
                                  .user = &r};
    LH_TRY(lh_out(c, ATTEND_O, &o));
    LH_TRY(lh_out(c, ATTEND_LSE, &lse));
    LH_TRY(attend_out_grad(&r, &r.bwd.d_o));
    LH_TRY(lh_out_grad(c, ATTEND_LSE, &dlse));
    LH_TRY(attend_open_grads(&r));
    LH_TRY(lh_scratch(c, (size_t)(r.batch * r.heads * r.rows) * lh_dtype_bytes(LH_REAL), &delta));
    LH_TRY(attend_scratch(&r, true, &r.bwd.scratch));
    r.bwd.lse = lse;
    r.bwd.delta = delta;
    lh_run_attend_delta(r.device, &(lh_attend_delta_args){r.batch, r.heads, r.width, r.rows, o,
                                                          r.bwd.d_o, dlse, delta});
    for (int i = 0; i < r.attrs->n_segments; i++) {
        attend_keys k;
        LH_TRY(attend_open_keys_grad(&r, i, &k));
        attend_segment_grad(&r, &k);
    }
done:
    return st;
}

/* Queries are sharded by position; keys too, or replicated; weights are replicated. Or all by heads. */
static bool attend_placed(const attend_attrs *a, int i, const lh_place_word *w, lh_place_kind kind)
{
    bool sharded = w->kind == kind && w->dim == 1 && w->layout != NULL;
    if (i == 0 || i == a->relative_q) return sharded;
    lh_place_kind whole = kind == LH_HEADS ? LH_HEADS : LH_REPLICATE;
    return w->kind == whole || (sharded && i != a->relative_weight);
}

static lh_status attend_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    lh_status st = LH_OK;
    const attend_attrs *a = lh_call_attrs(c);
    const lh_place_word data = in[0].axis[LH_AXIS_DATA];
    bool heads = in[0].axis[LH_AXIS_SEQ].kind == LH_HEADS;
    for (int i = 0; i < lh_call_inputs(c); i++) {
        bool weight = i > 0 && i == a->relative_weight;
        LH_CHECK(attend_placed(a, i, &in[i].axis[LH_AXIS_SEQ], heads ? LH_HEADS : LH_SHARD),
                 LH_ERR_BUG, "input %d must %s", i,
                 heads    ? "lie by heads, as the queries do"
                 : weight ? "be replicated"
                          : "be sharded by position");
        LH_CHECK(weight || in[i].axis[LH_AXIS_DATA].kind == data.kind, LH_ERR_BUG,
                 "input %d lies differently along the data axis", i);
    }
    for (int i = 0; i < LH_OP_OUTPUTS; i++) out[i] = in[0];
    out[ATTEND_LSE].axis[LH_AXIS_SEQ].dim = 2;
done:
    return st;
}

static const lh_op attend_op = {.name = "attend",
                                .reads = UINT64_MAX, /* q, every k and v; o, lse, kept rows */
                                .exact = LH_READS_OUT(ATTEND_LSE),
                                .by_heads = true,
                                .costly = true,
                                .place = attend_place,
                                .forward = attend_forward,
                                .vjp = attend_vjp};

/* Row counts alone would let a wrong layout mask the wrong scores. */
static bool attend_lies(const lh_tape *t, lh_var v, const lh_layout *layout)
{
    const lh_place_word *w = &lh_var_place(t, v)->axis[LH_AXIS_SEQ];
    if (layout->everywhere && w->kind == LH_REPLICATE) return true;
    bool split = w->kind == LH_HEADS || (w->kind == LH_SHARD && !layout->everywhere);
    return split && w->layout == layout;
}

static lh_status attend_check_segment(lh_tape *t, const lh_attend_desc *d, const attend_attrs *a,
                                      int i)
{
    lh_status st = LH_OK;
    int rank = lh_comm_rank(d->sequence);
    const lh_segment *s = &d->segment[i];
    const attend_part *p = &a->part[i];
    const lh_shape *q = lh_var_shape(t, d->q);
    const lh_shape *k = lh_var_shape(t, s->k);
    int64_t end = p->head + p->n_heads;
    LH_CHECK(lh_shape_equal(k, lh_var_shape(t, s->v)) && k->ndim == 4 && k->dim[0] == q->dim[0] &&
                 k->dim[1] == s->layout->rows[rank] && k->dim[3] == q->dim[3] &&
                 attend_lies(t, s->k, s->layout) && attend_lies(t, s->v, s->layout),
             LH_ERR_BUG, "keys and values must be [B, s, G, D] and lie by their segment's layout");
    LH_CHECK(k->dim[2] == a->kv_heads || k->dim[2] == p->kv_heads, LH_ERR_BUG,
             "segment %d has another number of key heads (%lld) than segment 0", i,
             (long long)k->dim[2]);
    LH_CHECK(p->head >= 0 && (p->n_heads > 0 || q->dim[2] == 0) && end <= q->dim[2] &&
                 (p->head == 0 || (p->head + a->skew) % a->group == 0) &&
                 (end == q->dim[2] || (end + a->skew) % a->group == 0),
             LH_ERR_BUG, "segment %d: heads %lld .. %lld are no whole groups of %lld", i,
             (long long)p->head, (long long)(end - 1), (long long)a->group);
    LH_CHECK(d->relative_weight.id == 0 || !s->layout->everywhere, LH_ERR_BUG,
             "segment %d: keys that lie everywhere have no positions for a relative term", i);
done:
    return st;
}

static lh_status attend_check(lh_tape *t, const lh_attend_desc *d, const attend_attrs *a)
{
    lh_status st = LH_OK;
    int rank = lh_comm_rank(d->sequence);
    const lh_shape *q = lh_var_shape(t, d->q);
    LH_CHECK(d->n_segments >= 1 && d->n_segments <= LH_SEGMENTS, LH_ERR_BUG, "%d segments",
             d->n_segments);
    LH_CHECK(q->ndim == 4 && q->dim[1] == d->layout->rows[rank] && attend_lies(t, d->q, d->layout),
             LH_ERR_BUG, "queries must be [B, s, H, D] and lie by the layout that is given");
    LH_CHECK(a->group > 0 && a->skew >= 0 && a->skew < a->group &&
                 lhi_floor_div(q->dim[2] + a->skew - 1, a->group) == a->kv_heads - 1 &&
                 (d->group > 0 || (a->kv_heads > 0 && q->dim[2] % a->kv_heads == 0)),
             LH_ERR_BUG, "%lld query heads are no multiple of %lld key heads", (long long)q->dim[2],
             (long long)a->kv_heads);
    if (d->relative_weight.id == 0) goto done;
    const lh_shape *w = lh_var_shape(t, d->relative_weight);
    LH_CHECK(lh_shape_equal(lh_var_shape(t, d->relative_q), q) && w->ndim == 2 &&
                 w->dim[0] == q->dim[2] * q->dim[3] && w->dim[1] % 2 == 0,
             LH_ERR_BUG,
             "a relative term wants queries [B, s, H, D] and a weight [H D, E], E even");
done:
    return st;
}

/* The number of input v, appended if it is new. */
static int attend_input(lh_var *in, int *n, lh_var v)
{
    for (int i = 1; i < *n; i++)
        if (in[i].id == v.id) return i;
    in[*n] = v;
    return (*n)++;
}

/* Segment i as it is recorded. *kept: elements of received rows so far. */
static lh_status attend_describe(lh_tape *t, const lh_attend_desc *d, attend_attrs *a, int i,
                                 int64_t *kept)
{
    lh_status st = LH_OK;
    const lh_segment *s = &d->segment[i];
    const lh_shape *q = lh_var_shape(t, d->q);
    const lh_shape *k = lh_var_shape(t, s->k);
    attend_part *p = &a->part[i];
    p->head = s->n_heads > 0 ? s->head : 0;
    p->n_heads = s->n_heads > 0 ? s->n_heads : q->dim[2];
    p->kv_first = (p->head + a->skew) / a->group;
    p->kv_heads = lhi_floor_div(p->head + p->n_heads - 1 + a->skew, a->group) - p->kv_first + 1;
    p->own_first = k->dim[2] == a->kv_heads ? 0 : p->kv_first;
    p->sight = s->sight;
    p->pattern = s->pattern;
    p->keys = s->layout;
    LH_TRY(attend_check_segment(t, d, a, i));
    LH_TRY(lh_plan_get(d->plans, s->pattern, d->layout, s->layout, lh_comm_rank(d->sequence),
                       &p->plan));
    p->kept = *kept;
    if (p->plan->exchange->keep)
        *kept += 2 * q->dim[0] * p->plan->block_rows * p->kv_heads * q->dim[3];
done:
    return st;
}

lh_status lh_attend(lh_tape *t, const lh_attend_desc *d, lh_var *o, lh_var *lse)
{
    lh_status st = LH_OK;
    attend_attrs a = {.comm = d->sequence, .scale = d->scale, .n_segments = d->n_segments};
    lh_var in[ATTEND_INPUTS] = {d->q};
    lh_var outs[ATTEND_OUTPUTS] = {{0}};
    lh_shape shapes[ATTEND_OUTPUTS];
    int64_t kept = 0;
    int n_in = 1;
    a.kv_heads = d->kv_heads > 0 ? d->kv_heads : lh_var_shape(t, d->segment[0].k)->dim[2];
    a.batch = lh_var_shape(t, d->q)->dim[0];
    a.first_head = d->first_head;
    a.queries = d->layout;
    a.group = lhi_max(d->group, 1);
    if (d->group == 0 && a.kv_heads > 0)
        a.group = lhi_max(lh_var_shape(t, d->q)->dim[2] / a.kv_heads, 1);
    a.skew = d->skew;
    LH_TRY(attend_check(t, d, &a));
    for (int i = 0; i < d->n_segments; i++) {
        LH_TRY(attend_describe(t, d, &a, i, &kept));
        a.part[i].in[0] = attend_input(in, &n_in, d->segment[i].k);
        a.part[i].in[1] = attend_input(in, &n_in, d->segment[i].v);
    }
    if (d->relative_weight.id > 0) {
        in[a.relative_q = n_in++] = d->relative_q;
        in[a.relative_weight = n_in++] = d->relative_weight;
    }
    /* the backward computes scores again, and other ranks get k and v: all from the same numbers */
    for (int i = 0; i < n_in; i++) LH_TRY(lh_store_round(t, in[i], &in[i]));
    const lh_shape *q = lh_var_shape(t, d->q);
    shapes[ATTEND_O] = *q;
    shapes[ATTEND_LSE] = lh_shape_3(LH_REAL, q->dim[0], q->dim[2], q->dim[1]);
    shapes[ATTEND_KEPT] = lh_shape_2(LH_REAL, 1, kept);
    LH_TRY(lh_record(t, &attend_op, &a, sizeof a, n_in, in, ATTEND_OUTPUTS, shapes, outs));
done:
    *o = outs[ATTEND_O];
    if (lse != NULL) *lse = outs[ATTEND_LSE];
    return st;
}

bool lhi_attend_seen(const lh_tape_item *item, int i, lh_attend_seen *out)
{
    const attend_attrs *a = item->attrs;
    if (item->op != &attend_op || i >= a->n_segments) return false;
    const attend_part *p = &a->part[i];
    *out = (lh_attend_seen){.part = item->part,
                            .batch = a->batch,
                            .head = a->first_head + p->head,
                            .n_heads = p->n_heads,
                            .pattern = p->pattern,
                            .queries = a->queries,
                            .keys = p->keys,
                            .plan = p->plan};
    return true;
}

lh_status lh_attend_self(lh_tape *t, const lh_attn_desc *d, const lh_qkv *in,
                         const lh_pattern *pattern, lh_var *out)
{
    lh_status st = LH_OK;
    lh_attend_desc a = {.sequence = in->mesh->axis[LH_AXIS_SEQ],
                        .plans = in->plans,
                        .q = in->q,
                        .layout = d->layout,
                        .kv_heads = d->kv_heads,
                        .scale = 1.0 / sqrt((double)d->head_width),
                        .n_segments = 1,
                        .segment = {{.k = in->k,
                                     .v = in->v,
                                     .layout = d->layout,
                                     .pattern = pattern,
                                     .sight = {in->valid, lh_attend_documents(d, in), NULL}}}};
    LH_TRY(lh_attend_relative(t, in, &a));
    LH_TRY(lh_attend_over(t, d, in, &a, out));
done:
    return st;
}

lh_status lh_attend_relative(lh_tape *t, const lh_qkv *in, lh_attend_desc *d)
{
    lh_status st = LH_OK;
    if (in->relative_weight.id == 0) return LH_OK;
    LH_TRY(lh_add_bias(t, d->q, in->relative_v, &d->relative_q));
    LH_TRY(lh_add_bias(t, d->q, in->relative_u, &d->q));
    d->relative_weight = in->relative_weight;
done:
    return st;
}
