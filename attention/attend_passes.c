/* Attention over the segments of a call: forward and backward. */
#include <math.h>

#include "attention/attend_internal.h"
#include "core/integer.h"
#include "core/pulse.h"

enum { ATTEND_POKES = 16 }; /* of messages, while the tiles of one step are computed */

/* One running forward or backward, and the scratch that its segments use one after the other. */
typedef struct attend_run {
    lh_call *call;
    lh_device *device;
    const lhi_attend_attrs *attrs;
    int64_t batch, heads, width, rows;
    int64_t most_keys;  /* of any segment's plan */
    lh_dtype wire;      /* of rows on their way */
    lh_attend_args fwd; /* q, o, max, sum, scratch; keys and tiles per call */
    lh_attend_grad_args bwd;
    void *block[2], *d_block[2];
    void *send[2], *recv[2]; /* host: of rows that are fetched, and of gradients that go home */
    const void *in[LHI_ATTEND_INPUTS];
    void *d_in[LHI_ATTEND_INPUTS]; /* NULL: not wanted */
    /* relative term: weight [H D, E]; sinusoids [T, E], their projection and its gradient [T, H, D] of
     * a part's distances */
    int64_t embed;
    void *sinusoids, *table, *d_table;
    int64_t blocks,
        every; /* blocks of queries computed in this step; messages are poked after so many */
} attend_run;

/* One segment of it. */
typedef struct attend_keys {
    const lhi_attend_part *part;
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
        const lhi_attend_part *p = &r->attrs->part[i];
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
    const lhi_attend_part *p = &r->attrs->part[i];
    const lh_shape *shape = lh_call_in_shape(r->call, p->in[0]);
    int64_t block = r->batch * p->plan->block_rows * p->kv_heads * r->width;
    void *kept = NULL;
    *k = (attend_keys){.part = p, .plan = p->plan, .x = p->plan->exchange};
    k->home_rows = shape->dim[1];
    k->home_heads = shape->dim[2];
    if (k->x->keep) LH_TRY(lh_out(r->call, LHI_ATTEND_KEPT, &kept));
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
    const lhi_attend_part *s = k->part;
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

lh_status lhi_attend_forward(lh_call *c)
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
    LH_TRY(lh_out(c, LHI_ATTEND_O, &r.fwd.o));
    LH_TRY(lh_out(c, LHI_ATTEND_LSE, &r.fwd.max)); /* becomes lse in attend_finish */
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
    const lhi_attend_part *s = k->part;
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
    LH_TRY(lh_out_grad(r->call, LHI_ATTEND_O, d_o));
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

lh_status lhi_attend_vjp(lh_call *c)
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
    LH_TRY(lh_out(c, LHI_ATTEND_O, &o));
    LH_TRY(lh_out(c, LHI_ATTEND_LSE, &lse));
    LH_TRY(attend_out_grad(&r, &r.bwd.d_o));
    LH_TRY(lh_out_grad(c, LHI_ATTEND_LSE, &dlse));
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
