/* Embeddings, positions, sums and dropout. */
#include "core/ops_internal.h"

lhi_blocks lhi_blocks_of(const lh_call *c, int i)
{
    const lh_shape *s = lh_call_in_shape(c, i);
    lhi_blocks it = {.batch = s->dim[0], .rows = s->ndim > 1 ? s->dim[1] : 1, .b = -1};
    it.layout = lh_call_layout(c, i);
    it.rank = lh_tape_coord(lh_call_tape(c), LH_AXIS_SEQ);
    return it;
}

bool lhi_block_next(lhi_blocks *it)
{
    for (;;) {
        if (it->b >= 0 && it->layout != NULL && lh_piece_next(&it->pieces, &it->piece)) break;
        if (++it->b >= it->batch) return false;
        if (it->layout != NULL) {
            it->pieces = lh_pieces_of(it->layout, it->rank);
            continue;
        }
        it->piece = (lh_piece){0, it->rows, 0, 1};
        break;
    }
    it->at = it->b * it->rows + it->piece.row;
    it->count = it->piece.count;
    return true;
}

int64_t lhi_block_max(const lhi_blocks *it)
{
    if (it->layout == NULL || it->layout->chunk > it->rows) return it->rows;
    return it->layout->chunk;
}

lh_status lhi_place_tokens(const lh_call *c, const lh_place *in, lh_place *out)
{
    lh_status st = LH_OK;
    char text[128];
    for (int a = 0; a < LH_AXES; a++) {
        LH_CHECK(in[0].axis[a].kind != LH_PARTIAL, LH_ERR_BUG,
                 "input 0 is %s: reduce it before an operation that is not linear in it",
                 lh_place_text(&in[0], text, sizeof text));
        for (int i = 1; i < lh_call_inputs(c); i++)
            LH_CHECK(in[i].axis[a].kind == LH_REPLICATE, LH_ERR_BUG,
                     "input %d is %s but must be replicated", i,
                     lh_place_text(&in[i], text, sizeof text));
    }
    for (int i = 0; i < LH_OP_OUTPUTS; i++) out[i] = in[0];
done:
    return st;
}

lh_status lhi_place_equal(const lh_call *c, const lh_place *in, lh_place *out)
{
    lh_status st = LH_OK;
    char a[128];
    char b[128];
    for (int i = 1; i < lh_call_inputs(c); i++)
        LH_CHECK(lh_place_equal(&in[0], &in[i]), LH_ERR_BUG, "inputs lie differently: %s and %s",
                 lh_place_text(&in[0], a, sizeof a), lh_place_text(&in[i], b, sizeof b));
    out[0] = in[0];
done:
    return st;
}

/* --- embedding --- */

static lh_status embedding_forward(lh_call *c)
{
    lh_status st = LH_OK;
    const void *ids = NULL;
    const void *table = NULL;
    void *y = NULL;
    const lh_shape *t = lh_call_in_shape(c, 1);
    LH_TRY(lh_in(c, 0, &ids));
    LH_TRY(lh_in(c, 1, &table));
    LH_TRY(lh_out(c, 0, &y));
    lh_run_embed(lh_call_device(c), &(lh_embed_args){lh_shape_count(lh_call_in_shape(c, 0)),
                                                     t->dim[1], t->dim[0], ids, table, y});
done:
    return st;
}

static lh_status embedding_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    const void *ids = NULL;
    const void *dy = NULL;
    void *dtable = NULL;
    const lh_shape *t = lh_call_in_shape(c, 1);
    LH_TRY(lh_in(c, 0, &ids));
    LH_TRY(lh_out_grad(c, 0, &dy));
    LH_TRY(lh_in_grad_zeroed(c, 1, &dtable));
    if (dtable != NULL)
        lh_run_embed_grad(lh_call_device(c),
                          &(lh_embed_grad_args){lh_shape_count(lh_call_in_shape(c, 0)), t->dim[1],
                                                t->dim[0], ids, dy, dtable});
done:
    return st;
}

static const lh_op embedding_op = {.name = "embedding",
                                   .reads = LH_READS_IN(0),
                                   .place = lhi_place_tokens,
                                   .forward = embedding_forward,
                                   .vjp = embedding_vjp};

lh_status lh_embedding(lh_tape *t, lh_var ids, lh_var table, lh_var *y)
{
    const lh_shape *i = lh_var_shape(t, ids);
    const lh_shape *w = lh_var_shape(t, table);
    lh_shape shape = lh_shape_3(LH_REAL, i->dim[0], i->dim[1], w->dim[1]);
    if (i->dtype != LH_INT32 || i->ndim != 2 || w->ndim != 2)
        return LH_RAISE(LH_ERR_BUG, "embedding wants ids int32 [B, s] and a table [V, E]");
    return lh_record(t, &embedding_op, NULL, 0, 2, (lh_var[]){ids, table}, 1, &shape, y);
}

/* --- learned positions --- */

static lh_status position_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    (void)c;
    const lh_place_word *x = &in[0].axis[LH_AXIS_SEQ];
    const lh_place_word *w = &in[1].axis[LH_AXIS_SEQ];
    bool fits =
        (x->kind == LH_SHARD && w->kind == LH_SHARD && x->layout == w->layout && w->dim == 0) ||
        (x->kind == LH_REPLICATE && w->kind == LH_REPLICATE);
    if (!fits || in[1].axis[LH_AXIS_DATA].kind != LH_REPLICATE)
        return LH_RAISE(LH_ERR_BUG,
                        "the table must be sharded by position with the tokens' layout");
    out[0] = in[0];
    return LH_OK;
}

static lh_status position_forward(lh_call *c)
{
    lh_status st = LH_OK;
    const void *x = NULL;
    const void *table = NULL;
    void *y = NULL;
    const lh_shape *s = lh_call_in_shape(c, 0);
    int64_t n = s->dim[1] * s->dim[2];
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_in(c, 1, &table));
    LH_TRY(lh_out(c, 0, &y));
    for (int64_t b = 0; b < s->dim[0]; b++)
        lh_run_add(lh_call_device(c),
                   &(lh_add_args){n, lhi_at(x, b * n), table, lhi_at_mut(y, b * n)});
done:
    return st;
}

static lh_status position_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    const void *dy = NULL;
    void *dtable = NULL;
    const lh_shape *s = lh_call_in_shape(c, 0);
    int64_t n = s->dim[1] * s->dim[2];
    LH_TRY(lh_out_grad(c, 0, &dy));
    LH_TRY(lh_pass_grad(c, 0, 0));
    LH_TRY(lh_in_grad_zeroed(c, 1, &dtable));
    for (int64_t b = 0; dtable != NULL && b < s->dim[0]; b++)
        lh_run_axpy(lh_call_device(c), &(lh_axpy_args){n, 1.0, lhi_at(dy, b * n), dtable, true});
done:
    return st;
}

static const lh_op position_op = {.name = "position_add",
                                  .place = position_place,
                                  .forward = position_forward,
                                  .vjp = position_vjp};

lh_status lh_position_add(lh_tape *t, lh_var x, lh_var table, lh_var *y)
{
    const lh_shape shape = *lh_var_shape(t, x);
    const lh_shape *w = lh_var_shape(t, table);
    if (shape.ndim != 3 || w->ndim != 2 || w->dim[0] != shape.dim[1] || w->dim[1] != shape.dim[2])
        return LH_RAISE(LH_ERR_BUG, "positions want x [B, s, E] and a table [s, E]");
    return lh_record(t, &position_op, NULL, 0, 2, (lh_var[]){x, table}, 1, &shape, y);
}

/* --- sinusoidal positions --- */

typedef struct sinusoid_attrs {
    const int32_t *documents; /* NULL: none */
} sinusoid_attrs;

/* Rows from `row` on, at most `left`, that lie in one document; *begin: its first position. */
static int64_t sinusoid_stretch(const int32_t *documents, int64_t row, int64_t left, int64_t *begin)
{
    int64_t n = 1;
    *begin = 0;
    if (documents == NULL) return left;
    *begin = documents[2 * row];
    while (n < left && documents[2 * (row + n)] == *begin) n++;
    return n;
}

static lh_status sinusoid_forward(lh_call *c)
{
    lh_status st = LH_OK;
    const int32_t *documents = ((const sinusoid_attrs *)lh_call_attrs(c))->documents;
    const void *x = NULL;
    void *y = NULL;
    const lh_shape *s = lh_call_in_shape(c, 0);
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_out(c, 0, &y));
    lh_run_axpy(lh_call_device(c), &(lh_axpy_args){lh_shape_count(s), 1.0, x, y, false});
    for (lhi_blocks it = lhi_blocks_of(c, 0); lhi_block_next(&it);) {
        for (int64_t r = 0, n = 0; r < it.count; r += n) {
            int64_t begin = 0;
            n = sinusoid_stretch(documents, it.at + r, it.count - r, &begin);
            int64_t position = it.piece.position + r * it.piece.stride - begin;
            lh_run_sinusoid(lh_call_device(c),
                            &(lh_sinusoid_args){n, s->dim[2], position, it.piece.stride,
                                                lhi_at_mut(y, (it.at + r) * s->dim[2])});
        }
    }
done:
    return st;
}

/* dx = dy for whatever adds a constant. */
static lh_status pass_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    for (int i = 0; i < lh_call_inputs(c); i++) LH_TRY(lh_pass_grad(c, i, 0));
done:
    return st;
}

static const lh_op sinusoid_op = {.name = "sinusoid_add",
                                  .place = lhi_place_tokens,
                                  .forward = sinusoid_forward,
                                  .vjp = pass_vjp};

lh_status lh_sinusoid_add(lh_tape *t, lh_var x, const int32_t *documents, lh_var *y)
{
    const sinusoid_attrs attrs = {documents};
    const lh_shape shape = *lh_var_shape(t, x);
    if (shape.ndim != 3) return LH_RAISE(LH_ERR_BUG, "sinusoids are added to x [B, s, E]");
    return lh_record(t, &sinusoid_op, &attrs, sizeof attrs, 1, &x, 1, &shape, y);
}

/* --- rotary --- */

typedef struct angles_attrs {
    double base;
} angles_attrs;

/* The table has one row per local position: what is sharded by dimension 1 of the tokens is
 * dimension 0 here. */
static lh_status angles_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    (void)c;
    out[0] = lh_place_replicated();
    if (in[0].axis[LH_AXIS_SEQ].kind == LH_SHARD)
        out[0] = lh_place_rows(in[0].axis[LH_AXIS_SEQ].layout);
    return LH_OK;
}

static lh_status angles_forward(lh_call *c)
{
    lh_status st = LH_OK;
    void *table = NULL;
    const lh_shape *s = lh_call_out_shape(c, 0);
    double base = ((const angles_attrs *)lh_call_attrs(c))->base;
    LH_TRY(lh_out(c, 0, &table));
    for (lhi_blocks it = lhi_blocks_of(c, 0); lhi_block_next(&it) && it.b == 0;)
        lh_run_rotary_table(
            lh_call_device(c),
            &(lh_rotary_table_args){it.count, 2 * s->dim[1], it.piece.position, it.piece.stride,
                                    base, lhi_at_mut(table, it.piece.row * 2 * s->dim[1])});
done:
    return st;
}

static const lh_op angles_op = {
    .name = "rotary_angles", .place = angles_place, .forward = angles_forward, .vjp = NULL};

lh_status lh_rotary_angles(lh_tape *t, lh_var like, int64_t width, double base, lh_var *table)
{
    lh_shape shape = lh_shape_3(LH_REAL, lh_var_shape(t, like)->dim[1], width / 2, 2);
    angles_attrs attrs = {base};
    if (width % 2 != 0) return LH_RAISE(LH_ERR_BUG, "rotary positions want an even head width");
    lh_status st = lh_stop_gradient(t, like, &like); /* its layout matters, not its value */
    if (st != LH_OK) return st;
    return lh_record(t, &angles_op, &attrs, sizeof attrs, 1, &like, 1, &shape, table);
}

static lh_status rotary_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    (void)c;
    const lh_place_word *x = &in[0].axis[LH_AXIS_SEQ];
    const lh_place_word *w = &in[1].axis[LH_AXIS_SEQ];
    if (x->kind == LH_PARTIAL || w->kind != x->kind || w->layout != x->layout)
        return LH_RAISE(LH_ERR_BUG, "the angles must lie along the sequence as the tokens do");
    out[0] = in[0];
    return LH_OK;
}

static void rotary_run(lh_call *c, const void *x, const void *table, void *y, bool inverse,
                       bool accumulate)
{
    const lh_shape *s = lh_call_in_shape(c, 0);
    int64_t n = s->dim[1] * s->dim[2] * s->dim[3];
    for (int64_t b = 0; b < s->dim[0]; b++)
        lh_run_rotary(lh_call_device(c),
                      &(lh_rotary_args){s->dim[1], s->dim[2], s->dim[3], lhi_at(x, b * n), table,
                                        lhi_at_mut(y, b * n), inverse, accumulate});
}

static lh_status rotary_forward(lh_call *c)
{
    lh_status st = LH_OK;
    const void *x = NULL;
    const void *table = NULL;
    void *y = NULL;
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_in(c, 1, &table));
    LH_TRY(lh_out(c, 0, &y));
    rotary_run(c, x, table, y, false, false);
done:
    return st;
}

static lh_status rotary_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    const void *dy = NULL;
    const void *table = NULL;
    void *dx = NULL;
    bool accumulate = false;
    LH_TRY(lh_in(c, 1, &table));
    LH_TRY(lh_out_grad(c, 0, &dy));
    LH_TRY(lh_in_grad(c, 0, &dx, &accumulate));
    if (dx != NULL) rotary_run(c, dy, table, dx, true, accumulate);
done:
    return st;
}

static const lh_op rotary_op = {.name = "rotary",
                                .reads = LH_READS_IN(1),
                                .place = rotary_place,
                                .forward = rotary_forward,
                                .vjp = rotary_vjp};

lh_status lh_rotary(lh_tape *t, lh_var x, lh_var table, lh_var *y)
{
    const lh_shape shape = *lh_var_shape(t, x);
    const lh_shape *w = lh_var_shape(t, table);
    if (shape.ndim != 4 || w->dim[0] != shape.dim[1] || 2 * w->dim[1] != shape.dim[3])
        return LH_RAISE(LH_ERR_BUG, "rotary wants x [B, s, H, D] and a table [s, D/2, 2]");
    return lh_record(t, &rotary_op, NULL, 0, 2, (lh_var[]){x, table}, 1, &shape, y);
}

/* --- sum --- */

static lh_status add_forward(lh_call *c)
{
    lh_status st = LH_OK;
    const void *a = NULL;
    const void *b = NULL;
    void *y = NULL;
    LH_TRY(lh_in(c, 0, &a));
    LH_TRY(lh_in(c, 1, &b));
    LH_TRY(lh_out(c, 0, &y));
    lh_run_add(lh_call_device(c), &(lh_add_args){lh_shape_count(lh_call_in_shape(c, 0)), a, b, y});
done:
    return st;
}

static const lh_op add_op = {
    .name = "add", .place = lhi_place_equal, .forward = add_forward, .vjp = pass_vjp};

lh_status lh_add(lh_tape *t, lh_var a, lh_var b, lh_var *y)
{
    const lh_shape shape = *lh_var_shape(t, a);
    if (!lh_shape_equal(&shape, lh_var_shape(t, b)))
        return LH_RAISE(LH_ERR_BUG, "add: the shapes differ");
    return lh_record(t, &add_op, NULL, 0, 2, (lh_var[]){a, b}, 1, &shape, y);
}

/* --- dropout --- */

static void dropout_run(lh_call *c, const void *x, void *y, bool accumulate)
{
    const lh_dropout_desc *d = lh_call_attrs(c);
    const lh_shape *s = lh_call_in_shape(c, 0);
    int64_t width = lhi_last(s);
    const lh_layout *layout = lh_call_layout(c, 0);
    int64_t n = layout != NULL ? layout->n : s->dim[1];
    for (lhi_blocks it = lhi_blocks_of(c, 0); lhi_block_next(&it);) {
        int64_t step = it.piece.stride == 1 ? it.count : 1; /* one call per stretch of positions */
        for (int64_t r = 0; r < it.count; r += step) {
            int64_t position = it.piece.position + r * it.piece.stride;
            int64_t at = (it.at + r) * width;
            lh_run_dropout(lh_call_device(c),
                           &(lh_dropout_args){step * width, d->rate, d->seed, d->stream,
                                              ((d->first_sequence + it.b) * n + position) * width,
                                              lhi_at(x, at), lhi_at_mut(y, at), accumulate});
        }
    }
}

static lh_status dropout_forward(lh_call *c)
{
    lh_status st = LH_OK;
    const void *x = NULL;
    void *y = NULL;
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_out(c, 0, &y));
    dropout_run(c, x, y, false);
done:
    return st;
}

static lh_status dropout_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    const void *dy = NULL;
    void *dx = NULL;
    bool accumulate = false;
    LH_TRY(lh_out_grad(c, 0, &dy));
    LH_TRY(lh_in_grad(c, 0, &dx, &accumulate));
    if (dx != NULL) dropout_run(c, dy, dx, accumulate);
done:
    return st;
}

static const lh_op dropout_op = {
    .name = "dropout", .place = lhi_place_tokens, .forward = dropout_forward, .vjp = dropout_vjp};

lh_status lh_dropout(lh_tape *t, lh_var x, const lh_dropout_desc *d, lh_var *y)
{
    const lh_shape shape = *lh_var_shape(t, x);
    *y = x;
    if (shape.ndim != 3) return LH_RAISE(LH_ERR_BUG, "dropout wants x [B, s, E]");
    if (d->rate <= 0.0) return LH_OK;
    return lh_record(t, &dropout_op, d, sizeof *d, 1, &x, 1, &shape, y);
}
