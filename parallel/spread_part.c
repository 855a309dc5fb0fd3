/* A rank's part of a replicated value: see lh_own_part in spread.h. */
#include "parallel/spread.h"

/* x seen as [outer, dim, inner]. */
typedef struct part_view {
    int64_t outer, size, inner;
} part_view;

static part_view part_of(const lh_shape *s, int dim)
{
    part_view v = {1, s->dim[dim], 1};
    for (int i = 0; i < dim; i++) v.outer *= s->dim[i];
    for (int i = dim + 1; i < s->ndim; i++) v.inner *= s->dim[i];
    return v;
}

/* to[outer, :, inner] (+)= from, `count` indices; rows of a matrix that is a part of another one. */
static void part_copy(lh_device *d, const part_view *v, const lh_part_desc *p, const void *x,
                      void *y, bool back)
{
    int64_t row = p->count * v->inner;
    for (int64_t o = 0; o < v->outer && row > 0 && !d->counting; o++) {
        lh_real *whole = (lh_real *)(uintptr_t)x + (o * v->size + p->first) * v->inner;
        lh_real *part = (lh_real *)y + o * row;
        lh_run_axpy(d, &(lh_axpy_args){row, 1.0, back ? part : whole, back ? whole : part, back});
    }
}

static lh_status part_forward(lh_call *c)
{
    lh_status st = LH_OK;
    const lh_part_desc *p = lh_call_attrs(c);
    const part_view v = part_of(lh_call_in_shape(c, 0), p->dim);
    const void *x = NULL;
    void *y = NULL;
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_out(c, 0, &y));
    part_copy(lh_call_device(c), &v, p, x, y, false);
done:
    return st;
}

static lh_status part_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    const lh_part_desc *p = lh_call_attrs(c);
    const part_view v = part_of(lh_call_in_shape(c, 0), p->dim);
    const void *dy = NULL;
    void *dx = NULL;
    LH_TRY(lh_out_grad(c, 0, &dy));
    LH_TRY(lh_in_grad_zeroed(c, 0, &dx));
    if (dx != NULL && dy != NULL)
        part_copy(lh_call_device(c), &v, p, dx, (void *)(uintptr_t)dy, true);
done:
    return st;
}

static lh_status part_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    const lh_part_desc *p = lh_call_attrs(c);
    char text[128];
    if (in[0].axis[LH_AXIS_SEQ].kind != LH_REPLICATE)
        return LH_RAISE(LH_ERR_BUG, "the value is %s; a rank takes its part of a replicated one",
                        lh_place_text(&in[0], text, sizeof text));
    out[0] = in[0];
    out[0].axis[LH_AXIS_SEQ] =
        (lh_place_word){LH_HEADS, p->layout != NULL ? p->dim - 1 : p->dim, p->layout};
    return LH_OK;
}

static const lh_op part_op = {
    .name = "own_part", .place = part_place, .forward = part_forward, .vjp = part_vjp};

lh_status lh_own_part(lh_tape *t, const lh_part_desc *p, lh_var x, lh_var *y)
{
    lh_shape shape = *lh_var_shape(t, x);
    if (shape.dtype != LH_REAL || p->dim >= shape.ndim || p->first < 0 || p->count < 0 ||
        p->first + p->count > shape.dim[p->dim])
        return LH_RAISE(LH_ERR_BUG, "indices %lld .. %lld of dimension %d do not exist",
                        (long long)p->first, (long long)(p->first + p->count - 1), p->dim);
    shape.dim[p->dim] = p->count;
    return lh_record(t, &part_op, p, sizeof *p, 1, &x, 1, &shape, y);
}
