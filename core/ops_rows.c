/* Rows at listed positions, taken out of sharded tokens and put back, and the plain bias. */
#include "core/ops_internal.h"

/* Iteration over the listed rows that this rank holds, in stretches: rows row .. row + count - 1 of
 * tokens [B s, width] are entries at .. at + count - 1 of [B g, width]. Nothing on the device
 * `count`, where nobody knows the list. */
typedef struct rows_walk {
    const lh_row_list *list;
    const lh_layout *layout;
    lh_device *device;
    int rank;
    int64_t batch, rows, width;
    int64_t b, entry;       /* where the walk stands */
    int64_t row, at, count; /* the stretch */
} rows_walk;

/* Elements of x [B, s, ...] behind each position. */
static int64_t rows_width(const lh_shape *s)
{
    int64_t width = 1;
    for (int i = 2; i < s->ndim; i++) width *= s->dim[i];
    return width;
}

static rows_walk rows_begin(const lh_call *c)
{
    const lh_shape *s = lh_call_in_shape(c, 0);
    return (rows_walk){.list = lh_call_attrs(c),
                       .layout = lh_call_layout(c, 0),
                       .device = lh_call_device(c),
                       .rank = lh_tape_coord(lh_call_tape(c), LH_AXIS_SEQ),
                       .batch = lh_call_device(c)->counting ? 0 : s->dim[0],
                       .rows = s->dim[1],
                       .width = rows_width(s)};
}

/* Local row of entry `entry` of sequence b; -1: there is none, or another rank's. */
static int64_t rows_own(const rows_walk *w, int64_t b, int64_t entry)
{
    if (entry >= w->list->count[b]) return -1;
    return lh_layout_row(w->layout, w->rank, w->list->position[b * w->list->max + entry]);
}

static bool rows_next(rows_walk *w)
{
    for (; w->b < w->batch; w->b++, w->entry = 0) {
        while (w->entry < w->list->count[w->b]) {
            int64_t first = rows_own(w, w->b, w->entry);
            w->at = w->b * w->list->max + w->entry++;
            if (first < 0) continue;
            w->row = w->b * w->rows + first;
            for (w->count = 1; rows_own(w, w->b, w->entry) == first + w->count; w->entry++)
                w->count++;
            return true;
        }
    }
    return false;
}

/* entries (+)= listed rows of tokens. */
static void rows_take(rows_walk w, const void *tokens, void *entries, bool accumulate)
{
    while (rows_next(&w))
        lh_run_axpy(w.device,
                    &(lh_axpy_args){w.count * w.width, 1.0, lhi_at(tokens, w.row * w.width),
                                    lhi_at_mut(entries, w.at * w.width), accumulate});
}

/* listed rows of tokens (+)= entries. */
static void rows_put(rows_walk w, const void *entries, void *tokens, bool accumulate)
{
    while (rows_next(&w))
        lh_run_axpy(w.device,
                    &(lh_axpy_args){w.count * w.width, 1.0, lhi_at(entries, w.at * w.width),
                                    lhi_at_mut(tokens, w.row * w.width), accumulate});
}

/* The list is host data that all ranks know: a wrong one fails on all of them. */
static lh_status rows_check(const lh_tape *t, lh_var x, const lh_row_list *list)
{
    lh_status st = LH_OK;
    const lh_shape *s = lh_var_shape(t, x);
    const lh_place_word *w = &lh_var_place(t, x)->axis[LH_AXIS_SEQ];
    LH_CHECK(s->dtype == LH_REAL && s->ndim >= 2 && w->kind == LH_SHARD && w->dim == 1 &&
                 w->layout != NULL,
             LH_ERR_BUG, "listed rows are those of x [B, s, ...], sharded by position");
    LH_CHECK(list->max >= 0, LH_ERR_BUG, "a list of %lld rows", (long long)list->max);
    for (int64_t b = 0; b < s->dim[0] && !lh_tape_device(t)->counting; b++) {
        const int64_t *position = list->position + b * list->max;
        LH_CHECK(list->count[b] >= 0 && list->count[b] <= list->max, LH_ERR_BUG,
                 "sequence %lld lists %lld rows; %lld are reserved", (long long)b,
                 (long long)list->count[b], (long long)list->max);
        for (int64_t i = 0; i < list->count[b]; i++)
            LH_CHECK(position[i] >= 0 && position[i] < w->layout->n &&
                         (i == 0 || position[i] > position[i - 1]),
                     LH_ERR_BUG,
                     "listed position %lld of sequence %lld is not ascending or not within %lld",
                     (long long)position[i], (long long)b, (long long)w->layout->n);
    }
done:
    return st;
}

/* --- take --- */

static lh_status take_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    (void)c;
    out[0] = in[0];
    out[0].axis[LH_AXIS_SEQ] = (lh_place_word){LH_PARTIAL, 0, NULL};
    return LH_OK;
}

static lh_status take_forward(lh_call *c)
{
    lh_status st = LH_OK;
    const void *x = NULL;
    void *y = NULL;
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_out(c, 0, &y));
    lh_run_fill(lh_call_device(c),
                &(lh_fill_args){lh_shape_count(lh_call_out_shape(c, 0)), 0.0, y});
    rows_take(rows_begin(c), x, y, false);
done:
    return st;
}

static lh_status take_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    const void *dy = NULL;
    void *dx = NULL;
    LH_TRY(lh_out_grad(c, 0, &dy));
    LH_TRY(lh_in_grad_zeroed(c, 0, &dx));
    if (dx != NULL) rows_put(rows_begin(c), dy, dx, true);
done:
    return st;
}

static const lh_op take_op = {
    .name = "take_rows", .place = take_place, .forward = take_forward, .vjp = take_vjp};

lh_status lh_take_rows(lh_tape *t, lh_var x, const lh_row_list *rows, lh_var *y)
{
    lh_status st = LH_OK;
    lh_shape shape = *lh_var_shape(t, x);
    LH_TRY(rows_check(t, x, rows));
    shape.dim[1] = rows->max;
    LH_TRY(lh_record(t, &take_op, rows, sizeof *rows, 1, &x, 1, &shape, y));
done:
    return st;
}

/* --- put --- */

static lh_status put_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    (void)c;
    char text[128];
    lh_place fits = in[0];
    fits.axis[LH_AXIS_SEQ] = (lh_place_word){LH_REPLICATE, 0, NULL};
    if (!lh_place_equal(&in[1], &fits))
        return LH_RAISE(LH_ERR_BUG,
                        "rows to put are %s; they must be replicated along the sequence",
                        lh_place_text(&in[1], text, sizeof text));
    out[0] = in[0];
    return LH_OK;
}

static lh_status put_forward(lh_call *c)
{
    lh_status st = LH_OK;
    const void *x = NULL;
    const void *r = NULL;
    void *y = NULL;
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_in(c, 1, &r));
    LH_TRY(lh_out(c, 0, &y));
    lh_run_axpy(lh_call_device(c),
                &(lh_axpy_args){lh_shape_count(lh_call_in_shape(c, 0)), 1.0, x, y, false});
    rows_put(rows_begin(c), r, y, false);
done:
    return st;
}

/* dx (+)= dy but for the listed rows, to which x gave nothing: they are kept aside and put back,
 * which is exact where adding and subtracting dy would not be. */
static lh_status put_grad_tokens(lh_call *c, const void *dy, void *dx, bool accumulate)
{
    lh_status st = LH_OK;
    void *kept = NULL;
    lh_device *d = lh_call_device(c);
    int64_t n = lh_shape_count(lh_call_in_shape(c, 1));
    LH_TRY(lh_scratch(c, (size_t)n * lh_dtype_bytes(LH_REAL), &kept));
    lh_run_fill(d, &(lh_fill_args){n, 0.0, kept});
    if (accumulate) rows_take(rows_begin(c), dx, kept, false);
    lh_run_axpy(d,
                &(lh_axpy_args){lh_shape_count(lh_call_in_shape(c, 0)), 1.0, dy, dx, accumulate});
    rows_put(rows_begin(c), kept, dx, false);
done:
    return st;
}

static lh_status put_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    const void *dy = NULL;
    void *dx = NULL;
    void *dr = NULL;
    bool accumulate = false;
    LH_TRY(lh_out_grad(c, 0, &dy));
    LH_TRY(lh_in_grad(c, 0, &dx, &accumulate));
    if (dx != NULL) LH_TRY(put_grad_tokens(c, dy, dx, accumulate));
    LH_TRY(lh_in_grad_zeroed(c, 1, &dr));
    if (dr != NULL) rows_take(rows_begin(c), dy, dr, true);
done:
    return st;
}

static const lh_op put_op = {
    .name = "put_rows", .place = put_place, .forward = put_forward, .vjp = put_vjp};

lh_status lh_put_rows(lh_tape *t, lh_var x, lh_var r, const lh_row_list *rows, lh_var *y)
{
    lh_status st = LH_OK;
    const lh_shape shape = *lh_var_shape(t, x);
    lh_shape want = shape;
    char text[96];
    LH_TRY(rows_check(t, x, rows));
    want.dim[1] = rows->max;
    LH_CHECK(lh_shape_equal(lh_var_shape(t, r), &want), LH_ERR_BUG, "rows to put must be %s",
             lh_shape_text(&want, text, sizeof text));
    LH_TRY(lh_record(t, &put_op, rows, sizeof *rows, 2, (lh_var[]){x, r}, 1, &shape, y));
done:
    return st;
}

/* --- bias: inputs x, b or a table of them --- */

typedef struct bias_attrs {
    int64_t width, row; /* of b; elements row width .. of the input are the bias */
} bias_attrs;

static lh_status bias_forward(lh_call *c)
{
    lh_status st = LH_OK;
    const void *x = NULL;
    const void *b = NULL;
    void *y = NULL;
    const bias_attrs *a = lh_call_attrs(c);
    int64_t n = lh_shape_count(lh_call_in_shape(c, 0));
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_in(c, 1, &b));
    LH_TRY(lh_out(c, 0, &y));
    lh_run_axpy(lh_call_device(c), &(lh_axpy_args){n, 1.0, x, y, false});
    lh_run_bias(lh_call_device(c),
                &(lh_bias_args){n / a->width, a->width, lhi_at(b, a->row * a->width), y});
done:
    return st;
}

/* db += the sum of dy, chunk by chunk where x is sharded by position. */
static void bias_grad(const lh_call *c, const void *dy, void *db)
{
    const lh_shape *s = lh_call_in_shape(c, 0);
    const lh_layout *layout = lh_call_layout(c, 0);
    int64_t width = ((const bias_attrs *)lh_call_attrs(c))->width;
    int64_t batch = 1;
    if (layout == NULL) {
        lh_run_bias_grad(lh_call_device(c),
                         &(lh_bias_grad_args){lh_shape_count(s) / width, width, dy, db});
        return;
    }
    int dim = lh_call_in_place(c, 0)->axis[LH_AXIS_SEQ].dim;
    for (int i = 0; i < dim; i++) batch *= s->dim[i];
    int64_t row = 1; /* elements behind each position */
    for (int i = dim + 1; i < s->ndim; i++) row *= s->dim[i];
    for (int64_t b = 0; b < batch; b++) {
        lh_pieces it = lh_pieces_of(layout, lh_tape_coord(lh_call_tape(c), LH_AXIS_SEQ));
        for (lh_piece p; lh_piece_next(&it, &p);)
            lh_run_bias_grad(lh_call_device(c),
                             &(lh_bias_grad_args){p.count * (row / width), width,
                                                  lhi_at(dy, (b * s->dim[dim] + p.row) * row), db});
    }
}

static lh_status bias_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    const void *dy = NULL;
    void *db = NULL;
    const bias_attrs *a = lh_call_attrs(c);
    LH_TRY(lh_out_grad(c, 0, &dy));
    LH_TRY(lh_pass_grad(c, 0, 0));
    LH_TRY(lh_in_grad_zeroed(c, 1, &db));
    if (db != NULL) bias_grad(c, dy, lhi_at_mut(db, a->row * a->width));
done:
    return st;
}

static const lh_op bias_op = {
    .name = "add_bias", .place = lhi_place_tokens, .forward = bias_forward, .vjp = bias_vjp};

static lh_status bias_record(lh_tape *t, lh_var x, lh_var b, bias_attrs a, lh_var *y)
{
    lh_status st = LH_OK;
    const lh_shape shape = *lh_var_shape(t, x);
    int64_t width = 1;
    int first = shape.ndim; /* the dimensions from here on are the bias's */
    while (first > 0 && width < a.width) width *= shape.dim[--first];
    LH_CHECK(shape.dtype == LH_REAL && lh_var_shape(t, b)->dtype == LH_REAL && a.width > 0 &&
                 width == a.width,
             LH_ERR_BUG, "a bias of %lld elements fits no last dimensions of x",
             (long long)a.width);
    for (int i = 0; i < LH_AXES; i++)
        LH_CHECK(lh_var_place(t, x)->axis[i].kind != LH_SHARD ||
                     lh_var_place(t, x)->axis[i].dim < first,
                 LH_ERR_BUG, "the bias covers dimension %d of x, which is sharded",
                 lh_var_place(t, x)->axis[i].dim);
    LH_TRY(lh_record(t, &bias_op, &a, sizeof a, 2, (lh_var[]){x, b}, 1, &shape, y));
done:
    return st;
}

lh_status lh_add_bias(lh_tape *t, lh_var x, lh_var b, lh_var *y)
{
    return bias_record(t, x, b, (bias_attrs){lh_shape_count(lh_var_shape(t, b)), 0}, y);
}

lh_status lh_add_row(lh_tape *t, lh_var x, lh_var table, int64_t row, lh_var *y)
{
    const lh_shape *s = lh_var_shape(t, table);
    if (s->ndim != 2 || row < 0 || row >= s->dim[0])
        return LH_RAISE(LH_ERR_BUG, "row %lld of a table that has no such row", (long long)row);
    return bias_record(t, x, table, (bias_attrs){s->dim[1], row}, y);
}
