#include "parallel/reduce.h"

/* Axes of a gradient that need a sum, as bits. */
enum {
    REDUCE_DATA = 1 << LH_AXIS_DATA,
    REDUCE_SEQ = 1 << LH_AXIS_SEQ,
    REDUCE_ALL = REDUCE_DATA | REDUCE_SEQ
};

/* Where packing stands: parameter number, and its elements that are already packed. */
typedef struct reduce_cursor {
    int64_t item, done;
} reduce_cursor;

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

/* Copy gradients with these axes between the device and host [room], from the cursor on; returns
 * the elements. */
static int64_t reduce_move(const lh_params *p, unsigned axes, reduce_cursor *at, lh_real *host,
                           int64_t room, bool pack)
{
    int64_t used = 0;
    for (; at->item < p->count; at->item++, at->done = 0) {
        const lh_param *q = p->item[at->item];
        if (reduce_axes(q) != axes) continue;
        int64_t left = lh_shape_count(&q->shape) - at->done;
        int64_t piece = left < room - used ? left : room - used;
        lh_real *grad = (lh_real *)q->grad + at->done;
        size_t bytes = (size_t)piece * sizeof *host;
        if (host != NULL && pack) lh_copy_out(p->device, host + used, grad, bytes);
        if (host != NULL && !pack) lh_copy_in(p->device, grad, host + used, bytes);
        used += piece;
        at->done += piece;
        if (piece < left) break; /* the buffer is full */
    }
    return used;
}

static void reduce_group(lh_comm *c, const lh_params *p, unsigned axes, lh_real *host,
                         int64_t elements)
{
    reduce_cursor at = {0, 0};
    if (lh_comm_size(c) == 1) return;
    while (at.item < p->count) {
        reduce_cursor back = at;
        int64_t n = reduce_move(p, axes, &at, host, elements, true);
        lh_sum_real(c, host, n, LH_SEND_PARAMETER);
        (void)reduce_move(p, axes, &back, host, n, false);
    }
}

lh_status lh_grads_reduce(const lh_mesh *mesh, lh_params *params, lh_real *host, int64_t elements)
{
    lh_status st = LH_OK;
    const unsigned groups[] = {REDUCE_ALL, REDUCE_DATA, REDUCE_SEQ};
    LH_TRY(reduce_check(mesh, params, host, elements));
    if (mesh->counting) host = NULL; /* may be an address without memory behind it */
    for (int g = 0; g < 3; g++)
        reduce_group(reduce_comm(mesh, groups[g]), params, groups[g], host, elements);
    for (int64_t i = 0; i < params->count; i++)
        params->item[i]->grad_place = params->item[i]->place;
done:
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
