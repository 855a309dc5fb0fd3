#include "parallel/reduce.h"

/* Axes of a gradient that need a sum, as bits. */
enum {
    REDUCE_DATA = 1 << LH_AXIS_DATA,
    REDUCE_SEQ = 1 << LH_AXIS_SEQ,
    REDUCE_ALL = REDUCE_DATA | REDUCE_SEQ
};

static unsigned reduce_axes(const lh_param *q)
{
    unsigned axes = 0;
    for (int a = 0; a < LH_AXES; a++)
        if (q->grad_place.axis[a].kind == LH_PARTIAL && q->place.axis[a].kind == LH_REPLICATE)
            axes |= 1u << a;
    return axes;
}

static lh_comm *reduce_comm(const lh_mesh *mesh, unsigned axes)
{
    if (axes == REDUCE_ALL) return mesh->world; /* one sum instead of two */
    return mesh->axis[axes == REDUCE_DATA ? LH_AXIS_DATA : LH_AXIS_SEQ];
}

static lh_status reduce_check(const lh_mesh *mesh, const lh_params *p, const lh_real *host,
                              int64_t elements)
{
    lh_status st = LH_OK;
    LH_CHECK(p->trainable, LH_ERR_BUG, "there are no gradients to reduce");
    for (int64_t i = 0; i < p->count; i++) {
        const lh_param *q = p->item[i];
        lh_place summed = q->grad_place;
        char is[128];
        char want[128];
        unsigned axes = reduce_axes(q);
        for (int a = 0; a < LH_AXES; a++)
            if (axes >> a & 1) summed.axis[a] = q->place.axis[a];
        LH_CHECK(lh_place_equal(&summed, &q->place), LH_ERR_BUG,
                 "the gradient of %s is placed %s, which no sum turns into %s", q->name,
                 lh_place_text(&q->grad_place, is, sizeof is),
                 lh_place_text(&q->place, want, sizeof want));
        LH_CHECK(axes == 0 || lh_comm_size(reduce_comm(mesh, axes)) == 1 ||
                     (elements >= 1 && (host != NULL || mesh->counting)),
                 LH_ERR_BUG, "no buffer of %lld elements to reduce gradients in",
                 (long long)elements);
    }
done:
    return st;
}

/* Copy a gradient, or the part of it that fits, between the device and a bucket with `room` left.
 * Returns the elements. */
static int64_t reduce_move(const lh_reducer *r, lh_reduce_cursor *at, lh_real *host, int64_t room,
                           bool pack)
{
    const lh_param *q = r->params->item[at->item];
    int64_t left = lh_shape_count(&q->shape) - at->done;
    int64_t piece = left < room ? left : room;
    lh_real *grad = (lh_real *)q->grad + at->done;
    size_t bytes = (size_t)piece * sizeof *host;
    if (!r->mesh->counting && pack) lh_copy_out(r->params->device, host, grad, bytes);
    if (!r->mesh->counting && !pack) lh_copy_in(r->params->device, grad, host, bytes);
    at->done += piece;
    if (piece == left) *at = (lh_reduce_cursor){at->item - 1, 0};
    return piece;
}

/* Move on to the next gradient with these axes of which this rank holds something. */
static void reduce_seek(const lh_reducer *r, unsigned axes, lh_reduce_cursor *at)
{
    for (; at->item >= 0; *at = (lh_reduce_cursor){at->item - 1, 0}) {
        const lh_param *q = r->params->item[at->item];
        if (reduce_axes(q) == axes && lh_shape_count(&q->shape) > 0) return;
    }
}

/* Element i of a bucket; NULL where there is no data. */
static lh_real *reduce_host(const lh_reducer *r, int bucket, int64_t i)
{
    return r->mesh->counting ? NULL : r->host + bucket * r->elements + i;
}

static void reduce_start(lh_reducer *r, lh_reduce_group *g)
{
    int bucket = g->open;
    if (bucket < 0) return;
    lh_reduce_bucket *b = &r->bucket[bucket];
    lh_sum_real_start(g->comm, reduce_host(r, bucket, 0), b->n, LH_SEND_PARAMETER, &b->request);
    b->started = ++r->started;
    g->open = -1;
}

/* The sums of a bucket go home. */
static void reduce_unpack(lh_reducer *r, int bucket)
{
    lh_reduce_bucket *b = &r->bucket[bucket];
    const lh_reduce_group *g = &r->group[b->group];
    for (int64_t i = 0; i < b->n;) {
        reduce_seek(r, g->axes, &b->from);
        i += reduce_move(r, &b->from, reduce_host(r, bucket, i), b->n - i, false);
    }
    *b = (lh_reduce_bucket){0};
}

/* The bucket that was started first and is still under way; -1: none is. */
static int reduce_oldest(const lh_reducer *r)
{
    int oldest = -1;
    for (int i = 0; i < r->buckets; i++)
        if (r->bucket[i].started > 0 &&
            (oldest < 0 || r->bucket[i].started < r->bucket[oldest].started))
            oldest = i;
    return oldest;
}

static void reduce_wait(lh_reducer *r, int bucket)
{
    lh_wait(r->group[r->bucket[bucket].group].comm, &r->bucket[bucket].request);
    reduce_unpack(r, bucket);
}

/* An empty bucket for a group; the oldest one under way is waited for where there is none. false: all
 * are being filled. */
static bool reduce_take(lh_reducer *r, int group)
{
    int free = 0;
    while (free < r->buckets && (r->bucket[free].started > 0 || r->bucket[free].n > 0)) free++;
    if (free == r->buckets) {
        free = reduce_oldest(r);
        if (free < 0) return false;
        reduce_wait(r, free);
    }
    r->bucket[free].group = group;
    r->bucket[free].from = r->group[group].at;
    r->group[group].open = free;
    return true;
}

/* Gradients of a group join buckets in the reverse order of declaration, about that of the backward
 * pass: up to the first that is not final, or all. So what is in a bucket is the same on all ranks. */
static void reduce_fill(lh_reducer *r, int group, bool all)
{
    lh_reduce_group *g = &r->group[group];
    if (lh_comm_size(g->comm) == 1) return;
    for (;;) {
        reduce_seek(r, g->axes, &g->at);
        if (g->at.item < 0 || !(all || r->params->item[g->at.item]->grad_final)) return;
        if (g->open < 0 && !reduce_take(r, group)) return;
        lh_reduce_bucket *b = &r->bucket[g->open];
        b->n += reduce_move(r, &g->at, reduce_host(r, g->open, b->n), r->elements - b->n, true);
        if (b->n == r->elements) reduce_start(r, g);
    }
}

lh_status lh_reducer_begin(lh_reducer *r, const lh_mesh *mesh, lh_params *params, lh_real *host,
                           int64_t elements, int buckets)
{
    lh_status st = LH_OK;
    const unsigned groups[] = {REDUCE_ALL, REDUCE_DATA, REDUCE_SEQ};
    *r = (lh_reducer){
        .mesh = mesh, .params = params, .host = host, .elements = elements, .buckets = buckets};
    LH_CHECK(buckets >= 1 && buckets <= LH_REDUCE_BUCKETS, LH_ERR_BUG, "%d buckets", buckets);
    LH_TRY(reduce_check(mesh, params, host, elements));
    for (int g = 0; g < LH_REDUCE_GROUPS; g++)
        r->group[g] = (lh_reduce_group){.axes = groups[g],
                                        .comm = reduce_comm(mesh, groups[g]),
                                        .at = {params->count - 1, 0},
                                        .open = -1};
done:
    return st;
}

void lh_reducer_advance(void *reducer)
{
    lh_reducer *r = reducer;
    for (int oldest = reduce_oldest(r); oldest >= 0; oldest = reduce_oldest(r)) {
        const lh_reduce_bucket *b = &r->bucket[oldest];
        if (!lh_test(r->group[b->group].comm, &r->bucket[oldest].request)) break;
        reduce_unpack(r, oldest);
    }
    for (int g = 0; g < LH_REDUCE_GROUPS; g++) reduce_fill(r, g, false);
}

void lh_reducer_finish(lh_reducer *r)
{
    /* groups that hold a bucket first: the others may be waiting for it */
    for (int pass = 0; pass < 2; pass++)
        for (int g = 0; g < LH_REDUCE_GROUPS; g++) {
            if (pass == 0 && r->group[g].open < 0) continue;
            reduce_fill(r, g, true);
            reduce_start(r, &r->group[g]);
        }
    for (int oldest = reduce_oldest(r); oldest >= 0; oldest = reduce_oldest(r))
        reduce_wait(r, oldest);
    for (int64_t i = 0; i < r->params->count; i++)
        r->params->item[i]->grad_place = r->params->item[i]->place;
}

lh_status lh_grads_reduce(const lh_mesh *mesh, lh_params *params, lh_real *host, int64_t elements)
{
    lh_reducer r;
    lh_status st = lh_reducer_begin(&r, mesh, params, host, elements, 1);
    if (st == LH_OK) lh_reducer_finish(&r);
    return st;
}

int64_t lh_grads_bytes(const lh_params *params, const int size[LH_AXES])
{
    int64_t bytes = 0;
    for (int64_t i = 0; i < params->count; i++) {
        const lh_param *q = params->item[i];
        bool summed = false; /* over one axis or both, it travels once */
        for (int a = 0; a < LH_AXES; a++)
            summed = summed || (q->place.axis[a].kind == LH_REPLICATE && size[a] > 1);
        if (summed && !q->frozen)
            bytes += lh_shape_count(&q->shape) * (int64_t)lh_dtype_bytes(LH_REAL);
    }
    return bytes;
}

lh_status lh_grads_norm(const lh_params *params, double *scratch, double *replicated,
                        double *sharded)
{
    lh_status st = LH_OK;
    const double zero[2] = {0.0, 0.0};
    *replicated = *sharded = 0.0;
    LH_CHECK(params->trainable, LH_ERR_BUG, "there are no gradients to measure");
    lh_copy_in(params->device, scratch, zero, sizeof zero);
    for (int64_t i = 0; i < params->count; i++) {
        const lh_param *q = params->item[i];
        bool whole = true;
        bool copy = false; /* another rank of a replicated axis answers for it */
        for (int a = 0; a < LH_AXES; a++) {
            whole = whole && q->place.axis[a].kind == LH_REPLICATE;
            copy = copy || (q->place.axis[a].kind == LH_REPLICATE && params->coord[a] > 0);
        }
        LH_CHECK(lh_place_equal(&q->grad_place, &q->place), LH_ERR_BUG,
                 "the gradient of %s was not reduced", q->name);
        if (q->frozen || (!whole && copy)) continue;
        lh_run_sum_squares(params->device,
                           &(lh_sum_squares_args){.n = lh_shape_count(&q->shape),
                                                  .x = q->grad,
                                                  .sum = whole ? scratch : scratch + 1});
    }
    *replicated = lh_read_scalar(params->device, scratch, LH_F64);
    *sharded = lh_read_scalar(params->device, scratch + 1, LH_F64);
done:
    return st;
}
