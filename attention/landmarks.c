#include "attention/landmarks.h"

#include "core/integer.h"

/* One running forward or backward: x [B, s, G, D], y [B, k, heads, D]. Pointers that are NULL are
 * not wanted. */
typedef struct landmarks_run {
    lh_device *device;
    const lh_landmarks_desc *d;
    const lh_layout *layout;
    int rank;
    int64_t batch, rows, width;  /* B, s, D */
    int64_t x_row, y_row, w_row; /* elements of a row */
    const lh_real *x, *w, *dy;
    lh_real *y, *dx, *dw;
    void *ones; /* mean: as many ones as the longest piece has rows */
} landmarks_run;

/* Neighbouring rows of sequence b, at positions position, position + stride, ... */
typedef struct landmarks_rows {
    int64_t b, row, count, position, stride;
} landmarks_rows;

typedef void (*landmarks_fn)(const landmarks_run *r, const landmarks_rows *at);

/* First position of a block. */
static int64_t landmarks_start(const lh_landmarks_desc *d, int64_t block)
{
    return block * d->length / d->blocks;
}

/* The block of a position: the largest b with floor(b length / blocks) <= position. */
static int64_t landmarks_block(int64_t blocks, int64_t length, int64_t position)
{
    return ((position + 1) * blocks - 1) / length;
}

int64_t lh_landmarks_reached(int64_t blocks, int64_t length, int64_t n)
{
    return n > 0 ? landmarks_block(blocks, length, n - 1) + 1 : 0;
}

/* Rows begin, begin + stride, ... below end. */
static int64_t landmarks_below(int64_t begin, int64_t stride, int64_t end)
{
    return end > begin ? (end - begin + stride - 1) / stride : 0;
}

/* Addresses: head `h` of the group in row `row` of sequence b. */
static int64_t landmarks_x_at(const landmarks_run *r, int64_t b, int64_t row, int64_t h)
{
    return (b * r->rows + row) * r->x_row + (r->d->head + h) * r->width;
}

static int64_t landmarks_y_at(const landmarks_run *r, int64_t b, int64_t k, int64_t h)
{
    return (b * r->d->k + k) * r->y_row + h * r->width;
}

/* --- learned: heads that share E are one wide product --- */

static void landmarks_learned(const landmarks_run *r, const landmarks_rows *at)
{
    const lh_landmarks_desc *d = r->d;
    int64_t products = d->step == 0 ? 1 : d->heads;
    int64_t n = d->heads / products * r->width;
    for (int64_t h = 0; h < products; h++) {
        const lh_real *e = r->w + at->row * r->w_row + d->start + h * d->step;
        const lh_real *x = r->x + landmarks_x_at(r, at->b, at->row, h);
        lh_real *y = r->y + landmarks_y_at(r, at->b, 0, h);
        lh_run_gemm(r->device, &(lh_gemm_args){d->k, n, at->count, 1.0, e, 1, r->w_row, x, r->x_row,
                                               1, y, r->y_row, 1, true});
    }
}

/* dx = E dy, dE = x dy^T: of this rank's rows, so no sum over ranks is due. */
static void landmarks_learned_grad(const landmarks_run *r, const landmarks_rows *at)
{
    const lh_landmarks_desc *d = r->d;
    int64_t products = d->step == 0 ? 1 : d->heads;
    int64_t n = d->heads / products * r->width;
    for (int64_t h = 0; h < products; h++) {
        int64_t e = at->row * r->w_row + d->start + h * d->step;
        int64_t x = landmarks_x_at(r, at->b, at->row, h);
        const lh_real *dy = r->dy + landmarks_y_at(r, at->b, 0, h);
        if (r->dx != NULL)
            lh_run_gemm(r->device, &(lh_gemm_args){at->count, n, d->k, 1.0, r->w + e, r->w_row, 1,
                                                   dy, r->y_row, 1, r->dx + x, r->x_row, 1, true});
        if (r->dw != NULL)
            lh_run_gemm(r->device, &(lh_gemm_args){at->count, d->k, n, 1.0, r->x + x, r->x_row, 1,
                                                   dy, 1, r->y_row, r->dw + e, r->w_row, 1, true});
    }
}

/* --- mean: a product with ones per block --- */

/* Takes from *left the rows of the first block that they meet: *part, its number and 1 / size. */
static bool landmarks_next_block(const landmarks_run *r, landmarks_rows *left, landmarks_rows *part,
                                 int64_t *block, double *weight)
{
    const lh_landmarks_desc *d = r->d;
    if (left->count == 0) return false;
    *block = landmarks_block(d->blocks, d->length, left->position);
    /* a block that the sequence cuts is the mean of the positions that there are */
    int64_t end = lhi_min(landmarks_start(d, *block + 1), r->layout->n);
    *weight = 1.0 / (double)(end - landmarks_start(d, *block));
    *part = *left;
    part->count = lhi_min(left->count, landmarks_below(left->position, left->stride, end));
    left->count -= part->count;
    left->row += part->count;
    left->position += part->count * left->stride;
    return true;
}

static void landmarks_mean(const landmarks_run *r, const landmarks_rows *at)
{
    landmarks_rows left = *at;
    landmarks_rows part;
    int64_t block = 0;
    double weight = 0.0;
    while (landmarks_next_block(r, &left, &part, &block, &weight))
        lh_run_gemm(r->device,
                    &(lh_gemm_args){1, r->y_row, part.count, weight, r->ones, part.count, 1,
                                    r->x + landmarks_x_at(r, at->b, part.row, 0), r->x_row, 1,
                                    r->y + landmarks_y_at(r, at->b, block, 0), r->y_row, 1, true});
}

static void landmarks_mean_grad(const landmarks_run *r, const landmarks_rows *at)
{
    landmarks_rows left = *at;
    landmarks_rows part;
    int64_t block = 0;
    double weight = 0.0;
    while (landmarks_next_block(r, &left, &part, &block, &weight))
        lh_run_gemm(r->device, &(lh_gemm_args){part.count, r->y_row, 1, weight, r->ones, 1, 1,
                                               r->dy + landmarks_y_at(r, at->b, block, 0), r->y_row,
                                               1, r->dx + landmarks_x_at(r, at->b, part.row, 0),
                                               r->x_row, 1, true});
}

/* --- convolution: rows at the same place of their blocks share a matrix of the kernel --- */

/* Rows row, row + row_step, ... (count of them) lie at place `tap` of blocks block, block +
 * block_step, ... */
typedef struct landmarks_tap {
    int64_t row, row_step, count, tap, block, block_step;
} landmarks_tap;

static landmarks_tap landmarks_tap_of(const landmarks_run *r, const landmarks_rows *at, int64_t i)
{
    int64_t kernel = r->d->length / r->d->blocks;
    int64_t common = lhi_gcd(kernel, at->stride);
    int64_t position = at->position + i * at->stride;
    int64_t row_step = kernel / common;
    return (landmarks_tap){.row = at->row + i,
                           .row_step = row_step,
                           .count = landmarks_below(i, row_step, at->count),
                           .tap = position % kernel,
                           .block = position / kernel,
                           .block_step = at->stride / common};
}

/* Taps of the rows: the first so many rows begin one each. */
static int64_t landmarks_taps(const landmarks_run *r, const landmarks_rows *at)
{
    int64_t kernel = r->d->length / r->d->blocks;
    return lhi_min(at->count, kernel / lhi_gcd(kernel, at->stride));
}

static void landmarks_conv(const landmarks_run *r, const landmarks_rows *at)
{
    int64_t kernel = r->d->length / r->d->blocks;
    int64_t out = r->width * kernel; /* elements of W per channel of y */
    for (int64_t i = 0; i < landmarks_taps(r, at); i++) {
        landmarks_tap p = landmarks_tap_of(r, at, i);
        for (int64_t h = 0; h < r->d->heads; h++)
            lh_run_gemm(r->device,
                        &(lh_gemm_args){p.count, r->width, r->width, 1.0,
                                        r->x + landmarks_x_at(r, at->b, p.row, h),
                                        p.row_step * r->x_row, 1,
                                        r->w + (r->d->start + h * r->d->step) * out + p.tap, kernel,
                                        out, r->y + landmarks_y_at(r, at->b, p.block, h),
                                        p.block_step * r->y_row, 1, true});
    }
}

static void landmarks_conv_grad(const landmarks_run *r, const landmarks_rows *at)
{
    int64_t kernel = r->d->length / r->d->blocks;
    int64_t out = r->width * kernel;
    for (int64_t i = 0; i < landmarks_taps(r, at); i++) {
        landmarks_tap p = landmarks_tap_of(r, at, i);
        int64_t x_step = p.row_step * r->x_row;
        int64_t y_step = p.block_step * r->y_row;
        for (int64_t h = 0; h < r->d->heads; h++) {
            int64_t w = (r->d->start + h * r->d->step) * out + p.tap;
            int64_t x = landmarks_x_at(r, at->b, p.row, h);
            const lh_real *dy = r->dy + landmarks_y_at(r, at->b, p.block, h);
            if (r->dx != NULL)
                lh_run_gemm(r->device,
                            &(lh_gemm_args){p.count, r->width, r->width, 1.0, dy, y_step, 1,
                                            r->w + w, out, kernel, r->dx + x, x_step, 1, true});
            if (r->dw != NULL)
                lh_run_gemm(r->device,
                            &(lh_gemm_args){r->width, r->width, p.count, 1.0, dy, 1, y_step,
                                            r->x + x, x_step, 1, r->dw + w, out, kernel, true});
        }
    }
}

/* --- the operation: inputs x, w --- */

static landmarks_run landmarks_open(lh_call *c)
{
    const lh_shape *x = lh_call_in_shape(c, 0);
    landmarks_run r = {.device = lh_call_device(c),
                       .d = lh_call_attrs(c),
                       .layout = lh_call_layout(c, 0),
                       .rank = lh_tape_coord(lh_call_tape(c), LH_AXIS_SEQ),
                       .batch = x->dim[0],
                       .rows = x->dim[1],
                       .width = x->dim[3],
                       .x_row = x->dim[2] * x->dim[3]};
    r.y_row = r.d->heads * r.width;
    if (lh_call_has_in(c, 1)) r.w_row = lh_call_in_shape(c, 1)->dim[1];
    return r;
}

/* Calls f for the valid rows of every piece of every sequence, in order. */
static void landmarks_pieces(const landmarks_run *r, landmarks_fn f)
{
    /* on the device count there is no data, and the work must not depend on it */
    const int64_t *valid = r->device->counting ? NULL : r->d->valid;
    for (int64_t b = 0; b < r->batch; b++) {
        lh_pieces it = lh_pieces_of(r->layout, r->rank);
        lh_piece p;
        while (lh_piece_next(&it, &p)) {
            landmarks_rows at = {b, p.row, p.count, p.position, p.stride};
            if (valid != NULL)
                at.count = lhi_min(p.count, landmarks_below(p.position, p.stride, valid[b]));
            if (at.count > 0) f(r, &at);
        }
    }
}

static lh_status landmarks_ones(lh_call *c, landmarks_run *r)
{
    lh_status st = LH_OK;
    int64_t n = lhi_min(r->rows, r->layout->chunk);
    LH_TRY(lh_scratch(c, (size_t)n * lh_dtype_bytes(LH_REAL), &r->ones));
    lh_run_fill(r->device, &(lh_fill_args){n, 1.0, r->ones});
done:
    return st;
}

static lh_status landmarks_forward(lh_call *c)
{
    lh_status st = LH_OK;
    landmarks_run r = landmarks_open(c);
    const void *x = NULL;
    const void *w = NULL;
    void *y = NULL;
    static const landmarks_fn forward[] = {landmarks_learned, landmarks_mean, landmarks_conv};
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_out(c, 0, &y));
    if (r.d->kind == LH_LANDMARK_MEAN)
        LH_TRY(landmarks_ones(c, &r));
    else
        LH_TRY(lh_in(c, 1, &w));
    r.x = x;
    r.w = w;
    r.y = y;
    lh_run_fill(r.device, &(lh_fill_args){r.batch * r.d->k * r.y_row, 0.0, y});
    landmarks_pieces(&r, forward[r.d->kind]);
done:
    return st;
}

static lh_status landmarks_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    landmarks_run r = landmarks_open(c);
    const void *x = NULL;
    const void *w = NULL;
    const void *dy = NULL;
    void *dx = NULL;
    void *dw = NULL;
    static const landmarks_fn grad[] = {landmarks_learned_grad, landmarks_mean_grad,
                                        landmarks_conv_grad};
    LH_TRY(lh_out_grad(c, 0, &dy));
    LH_TRY(lh_in_grad_zeroed(c, 0, &dx));
    if (r.d->kind == LH_LANDMARK_MEAN) {
        LH_TRY(landmarks_ones(c, &r));
    } else {
        LH_TRY(lh_in(c, 0, &x));
        LH_TRY(lh_in(c, 1, &w));
        LH_TRY(lh_in_grad_zeroed(c, 1, &dw));
    }
    r.x = x;
    r.w = w;
    r.dy = dy;
    r.dx = dx;
    r.dw = dw;
    landmarks_pieces(&r, grad[r.d->kind]);
done:
    return st;
}

/* Each rank has the sum over its own positions: what was sharded becomes PARTIAL. E lies as the
 * positions do, so its gradient is whole where E is; W's is a sum over ranks. */
static lh_status landmarks_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    lh_status st = LH_OK;
    const lh_landmarks_desc *d = lh_call_attrs(c);
    const lh_place_word *x = &in[0].axis[LH_AXIS_SEQ];
    LH_CHECK(x->kind == LH_SHARD && x->dim == 1 && x->layout != NULL &&
                 in[0].axis[LH_AXIS_DATA].kind != LH_PARTIAL,
             LH_ERR_BUG, "what is projected must be sharded by position");
    lh_place want = lh_place_replicated();
    if (d->kind == LH_LANDMARK_LEARNED) want = lh_place_rows(x->layout);
    LH_CHECK(d->kind == LH_LANDMARK_MEAN || lh_place_equal(&in[1], &want), LH_ERR_BUG,
             "a learned projection must be sharded by the layout of what it projects, a "
             "convolution's weights replicated");
    out[0] = in[0];
    out[0].axis[LH_AXIS_SEQ] = (lh_place_word){LH_PARTIAL, 0, NULL};
done:
    return st;
}

static const lh_op landmarks_op = {.name = "landmarks",
                                   .reads = LH_READS_IN(0) | LH_READS_IN(1),
                                   .costly = true,
                                   .place = landmarks_place,
                                   .forward = landmarks_forward,
                                   .vjp = landmarks_vjp};

/* The same, but it needs no values for its gradient. */
static const lh_op landmarks_mean_op = {.name = "landmarks_mean",
                                        .costly = true,
                                        .place = landmarks_place,
                                        .forward = landmarks_forward,
                                        .vjp = landmarks_vjp};

static bool landmarks_fits_blocks(const lh_landmarks_desc *d, const lh_layout *layout)
{
    if (d->kind == LH_LANDMARK_LEARNED) return true;
    return d->blocks >= 1 && d->blocks <= d->length && layout->n <= d->length &&
           d->k == lh_landmarks_reached(d->blocks, d->length, layout->n) &&
           (d->kind != LH_LANDMARK_CONV || d->length % d->blocks == 0);
}

static bool landmarks_fits_weights(const lh_landmarks_desc *d, const lh_shape *x, const lh_shape *w)
{
    int64_t last = d->start + (d->heads - 1) * d->step; /* where the last head's weights begin */
    if (d->kind == LH_LANDMARK_MEAN) return w == NULL;
    if (w == NULL || d->start < 0 || d->step < 0) return false;
    if (d->kind == LH_LANDMARK_LEARNED)
        return w->ndim == 2 && w->dim[0] == x->dim[1] && last + d->k <= w->dim[1];
    return w->ndim == 3 && w->dim[1] == x->dim[3] && w->dim[2] == d->length / d->blocks &&
           last + x->dim[3] <= w->dim[0];
}

lh_status lh_landmarks(lh_tape *t, const lh_landmarks_desc *d, lh_var x, lh_var w, lh_var *y)
{
    lh_status st = LH_OK;
    const lh_shape *xs = lh_var_shape(t, x);
    const lh_layout *layout = lh_var_place(t, x)->axis[LH_AXIS_SEQ].layout;
    const lh_shape *ws = w.id > 0 ? lh_var_shape(t, w) : NULL;
    const lh_op *op = d->kind == LH_LANDMARK_MEAN ? &landmarks_mean_op : &landmarks_op;
    *y = (lh_var){0};
    LH_CHECK(xs->ndim == 4 && layout != NULL && d->head >= 0 && d->heads >= 1 &&
                 d->head + d->heads <= xs->dim[2],
             LH_ERR_BUG, "landmarks want x [B, s, G, D] sharded by position and some of its heads");
    LH_CHECK(landmarks_fits_blocks(d, layout), LH_ERR_BUG,
             "%lld landmarks of %lld blocks in %lld positions do not fit %lld positions",
             (long long)d->k, (long long)d->blocks, (long long)d->length, (long long)layout->n);
    LH_CHECK(landmarks_fits_weights(d, xs, ws), LH_ERR_BUG,
             "weights do not fit the landmarks: expected [s, columns], or [rows, D, kernel]");
    lh_shape shape = lh_shape_4(LH_REAL, xs->dim[0], d->k, d->heads, xs->dim[3]);
    LH_TRY(lh_record(t, op, d, sizeof *d, 2, (lh_var[]){x, w}, 1, &shape, y));
done:
    return st;
}
