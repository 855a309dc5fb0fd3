/* lh_attend on several ranks against softmax written down plainly, in double, from the global
 * tensors. */
#include "attention/attend.h"
#include "core/random.h"
#include "tests/lh_gradcheck.h"
#include "tests/lh_test_mpi.h"
#include "tests/lh_test_scenes.h"
#include "tests/tol.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_BATCH = 3, SEED = 5 };
enum { Q, K, V, K2, V2, TENSORS }; /* inputs */

typedef enum pattern_kind { BAND, SAME, BLOCKS, BAND_OR_COLUMNS, BAND_AND_SAME } pattern_kind;

typedef struct keys_scene {
    int64_t n;
    lh_test_layout_kind layout;
    pattern_kind pattern;
    int64_t lo, hi, number; /* band; modulus, block or columns */
} keys_scene;

typedef struct scene {
    const char *name;
    int64_t batch, n, chunk;
    int64_t heads, kv_heads, width;
    lh_test_layout_kind layout;
    int n_segments;
    keys_scene keys[2]; /* the first one: n and layout are the queries' */
    bool has_valid;
    int64_t valid[MAX_BATCH];
    unsigned no_seed; /* bit 0: no gradient reaches o; bit 1: lse */
    bool segment;     /* recomputed */
    bool memory;      /* no gradient passes to the second list of keys */
    int data;         /* data ranks, if they divide the ranks; else 1 */
} scene;

#define FAR LH_FAR
#define SIZES(b, s, c, h, g, d, l)                                                                 \
    .batch = (b), .n = (s), .chunk = (c), .heads = (h), .kv_heads = (g), .width = (d), .layout = (l)

static const scene scenes[] = {
    {.name = "full",
     SIZES(1, 1009, 16, 2, 2, 8, LH_TEST_EVEN),
     .n_segments = 1,
     .keys = {{.lo = -FAR, .hi = FAR}}},
    {.name = "causal",
     SIZES(1, 1009, 16, 2, 1, 8, LH_TEST_EVEN),
     .n_segments = 1,
     .keys = {{.lo = -FAR, .hi = 0}}},
    {.name = "window",
     SIZES(1, 1009, 16, 2, 2, 16, LH_TEST_EVEN),
     .n_segments = 1,
     .keys = {{.lo = -40, .hi = 40}}},
    {.name = "causal window",
     SIZES(2, 1009, 16, 4, 2, 8, LH_TEST_EVEN),
     .n_segments = 1,
     .keys = {{.lo = -40, .hi = 0}}},
    {.name = "small full",
     SIZES(2, 101, 16, 4, 2, 8, LH_TEST_ALIGNED),
     .n_segments = 1,
     .keys = {{.lo = -FAR, .hi = FAR}}},
    {.name = "small causal",
     SIZES(2, 101, 7, 4, 1, 8, LH_TEST_ALIGNED),
     .n_segments = 1,
     .keys = {{.lo = -FAR, .hi = 0}}},
    {.name = "window wider than a shard",
     SIZES(2, 101, 7, 2, 2, 8, LH_TEST_EVEN),
     .n_segments = 1,
     .keys = {{.lo = -60, .hi = 60}}},
    {.name = "window wider than all",
     SIZES(2, 101, 16, 2, 1, 8, LH_TEST_EVEN),
     .n_segments = 1,
     .keys = {{.lo = -500, .hi = 0}}},
    {.name = "window of nothing",
     SIZES(1, 50, 16, 2, 1, 8, LH_TEST_EVEN),
     .n_segments = 1,
     .keys = {{.lo = 0, .hi = 0}}},
    {.name = "kept rows",
     SIZES(2, 101, 5, 3, 1, 8, LH_TEST_EVEN),
     .n_segments = 1,
     .keys = {{.lo = -4, .hi = 3}}},
    {.name = "more ranks than tokens",
     SIZES(2, 3, 1, 2, 2, 8, LH_TEST_ALIGNED),
     .n_segments = 1,
     .keys = {{.lo = -FAR, .hi = 0}}},
    {.name = "one token",
     SIZES(1, 1, 1, 1, 1, 8, LH_TEST_ALIGNED),
     .n_segments = 1,
     .keys = {{.lo = -5, .hi = 5}}},
    {.name = "one chunk",
     SIZES(1, 40, 512, 2, 1, 8, LH_TEST_ALIGNED),
     .n_segments = 1,
     .keys = {{.lo = -5, .hi = 0}}},
    {.name = "uneven, a rank without tokens",
     SIZES(2, 90, 8, 2, 1, 8, LH_TEST_UNEVEN),
     .n_segments = 1,
     .keys = {{.lo = -9, .hi = 2}}},
    {.name = "head width 24",
     SIZES(1, 70, 16, 2, 2, 24, LH_TEST_EVEN),
     .n_segments = 1,
     .keys = {{.lo = -30, .hi = 0}}},
    {.name = "zigzag causal",
     SIZES(1, 101, 8, 2, 1, 8, LH_TEST_ZIGZAG),
     .n_segments = 1,
     .keys = {{.lo = -FAR, .hi = 0}}},
    {.name = "zigzag window",
     SIZES(2, 101, 8, 2, 2, 8, LH_TEST_ZIGZAG),
     .n_segments = 1,
     .keys = {{.lo = -20, .hi = 20}}},
    {.name = "cyclic causal",
     SIZES(1, 101, 8, 2, 1, 8, LH_TEST_CYCLIC),
     .n_segments = 1,
     .keys = {{.lo = -FAR, .hi = 0}}},
    {.name = "same remainder",
     SIZES(2, 101, 16, 2, 1, 8, LH_TEST_EVEN),
     .n_segments = 1,
     .keys = {{.pattern = SAME, .number = 3}}},
    {.name = "blocks",
     SIZES(1, 101, 16, 2, 1, 8, LH_TEST_EVEN),
     .n_segments = 1,
     .keys = {{.pattern = BLOCKS, .number = 10}}},
    {.name = "band or columns",
     SIZES(2, 101, 16, 2, 1, 8, LH_TEST_EVEN),
     .n_segments = 1,
     .keys = {{.pattern = BAND_OR_COLUMNS, .lo = -7, .hi = 0, .number = 3}}},
    {.name = "band and same",
     SIZES(1, 101, 16, 2, 1, 8, LH_TEST_CYCLIC),
     .n_segments = 1,
     .keys = {{.pattern = BAND_AND_SAME, .lo = -50, .hi = 0, .number = 2}}},
    {.name = "valid lengths",
     SIZES(3, 101, 16, 2, 1, 8, LH_TEST_EVEN),
     .n_segments = 1,
     .keys = {{.lo = -FAR, .hi = FAR}},
     .has_valid = true,
     .valid = {101, 37, 0}},
    {.name = "valid lengths in a window",
     SIZES(3, 101, 16, 2, 2, 8, LH_TEST_ALIGNED),
     .n_segments = 1,
     .keys = {{.lo = -6, .hi = 6}},
     .has_valid = true,
     .valid = {64, 1, 100}},
    {.name = "gradient through lse alone",
     SIZES(2, 60, 16, 2, 1, 8, LH_TEST_EVEN),
     .n_segments = 1,
     .keys = {{.lo = -20, .hi = 0}},
     .no_seed = 1u},
    {.name = "gradient through o alone",
     SIZES(2, 60, 16, 2, 1, 8, LH_TEST_EVEN),
     .n_segments = 1,
     .keys = {{.lo = -20, .hi = 0}},
     .no_seed = 2u},
    {.name = "two segments",
     SIZES(2, 83, 16, 4, 2, 8, LH_TEST_EVEN),
     .n_segments = 2,
     .keys = {{.lo = -FAR, .hi = 0}, {40, LH_TEST_ALIGNED, BAND, -FAR, FAR, 0}}},
    {.name = "two segments, window and columns",
     SIZES(2, 83, 16, 2, 1, 8, LH_TEST_EVEN),
     .n_segments = 2,
     .keys = {{.lo = -9, .hi = 0}, {30, LH_TEST_CYCLIC, BAND_OR_COLUMNS, -3, 0, 4}}},
    {.name = "two segments, few memories",
     SIZES(1, 20, 4, 2, 1, 8, LH_TEST_ALIGNED),
     .n_segments = 2,
     .keys = {{.lo = -3, .hi = 3}, {2, LH_TEST_EVEN, SAME, 0, 0, 2}},
     .has_valid = true,
     .valid = {15}},
    {.name = "a memory behind stop_gradient",
     SIZES(2, 83, 16, 4, 2, 8, LH_TEST_EVEN),
     .n_segments = 2,
     .keys = {{.lo = -FAR, .hi = 0}, {40, LH_TEST_ALIGNED, BAND, -FAR, FAR, 0}},
     .memory = true},
    {.name = "a memory behind stop_gradient, kept rows",
     SIZES(2, 83, 16, 2, 1, 8, LH_TEST_EVEN),
     .n_segments = 2,
     .keys = {{.lo = -9, .hi = 0}, {60, LH_TEST_EVEN, BAND, -7, 0, 0}},
     .memory = true},
    {.name = "recomputed",
     SIZES(2, 101, 16, 2, 1, 8, LH_TEST_EVEN),
     .n_segments = 1,
     .keys = {{.lo = -FAR, .hi = 0}},
     .segment = true},
    {.name = "recomputed window",
     SIZES(2, 101, 16, 2, 1, 8, LH_TEST_EVEN),
     .n_segments = 1,
     .keys = {{.lo = -5, .hi = 5}},
     .segment = true},
    {.name = "two data ranks",
     SIZES(2, 61, 8, 2, 1, 8, LH_TEST_EVEN),
     .n_segments = 1,
     .keys = {{.lo = -25, .hi = 0}},
     .data = 2},
};

/* --- one scene on this rank --- */

typedef struct stage {
    const scene *s;
    lh_comm *comm;
    lh_mesh *mesh, *counting;
    lh_device *device, *count;
    lh_plan_cache *plans;
    lh_layout *layout[2]; /* of the queries and first keys; of the second keys */
    lh_pattern pattern[2], part[2][2];
    lh_gradcheck g;
    lh_gradcheck_run run;
    void *data[TENSORS];       /* host, local */
    lh_real *seed[2];          /* host, local: of o and lse */
    double *whole[TENSORS];    /* all positions */
    double *grad[TENSORS];     /* reference */
    double *d_out[2], *out[2]; /* o [B, N, H, D], lse [B, H, N] */
    double *row, *d_row;       /* scores of one query */
} stage;

static int64_t segment_n(const scene *s, int i)
{
    return i == 0 ? s->n : s->keys[i].n;
}

static void stage_pattern(stage *a, int i)
{
    const keys_scene *k = &a->s->keys[i];
    lh_pattern band = lh_pattern_band(k->lo, k->hi);
    a->part[i][0] = band;
    if (k->pattern == BAND) a->pattern[i] = band;
    if (k->pattern == SAME) a->pattern[i] = lh_test_same(k->number);
    if (k->pattern == BLOCKS) a->pattern[i] = lh_test_blocks(k->number);
    if (k->pattern == BAND_OR_COLUMNS) {
        a->part[i][1] = lh_test_columns(k->number);
        a->pattern[i] = lh_pattern_or(&a->part[i][0], &a->part[i][1]);
    }
    if (k->pattern == BAND_AND_SAME) {
        a->part[i][1] = lh_test_same(k->number);
        a->pattern[i] = lh_pattern_and(&a->part[i][0], &a->part[i][1]);
    }
}

static const lh_layout *tensor_layout(const stage *a, int t)
{
    return a->layout[t == K2 || t == V2];
}

static int64_t tensor_heads(const stage *a, int t)
{
    return t == Q ? a->s->heads : a->s->kv_heads;
}

/* Element of a tensor of the whole sequence; the batch is this data rank's. */
static lh_real element(const stage *a, int t, int64_t b, int64_t position, int64_t inner,
                       int64_t width)
{
    int64_t first = (int64_t)a->mesh->coord[LH_AXIS_DATA] * a->s->batch;
    int64_t n = tensor_layout(a, t)->n;
    return (lh_real)lh_random_normal(SEED, lh_stream_id(LH_STREAM_TEST, (uint32_t)t),
                                     (uint64_t)(((first + b) * n + position) * width + inner));
}

/* Tensor t: whole in double, and this rank's rows. */
static lh_status stage_tensor(stage *a, int t)
{
    lh_status st = LH_OK;
    const lh_layout *l = tensor_layout(a, t);
    int rank = a->mesh->coord[LH_AXIS_SEQ];
    int64_t width = tensor_heads(a, t) * a->s->width;
    int64_t rows = l->rows[rank];
    lh_real *mine = NULL;
    LH_TRY(lh_new((size_t)(a->s->batch * l->n * width) * sizeof(double), &a->whole[t]));
    LH_TRY(lh_new((size_t)(a->s->batch * l->n * width) * sizeof(double), &a->grad[t]));
    LH_TRY(lh_new((size_t)(a->s->batch * rows * width) * sizeof(lh_real), &a->data[t]));
    mine = a->data[t];
    for (int64_t b = 0; b < a->s->batch; b++) {
        for (int64_t i = 0; i < l->n * width; i++)
            a->whole[t][b * l->n * width + i] =
                (double)element(a, t, b, i / width, i % width, width);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < width; i++)
                mine[(b * rows + r) * width + i] =
                    element(a, t, b, lh_layout_position(l, rank, r), i, width);
    }
    a->g.in[t] = (lh_gradcheck_input){
        lh_shape_4(LH_REAL, a->s->batch, rows, tensor_heads(a, t), a->s->width), lh_place_tokens(l),
        a->data[t], true};
done:
    return st;
}

/* Index of (b, position, h) in lse [B, H, N] and in the local [B, H, s]. */
static int64_t lse_index(const scene *s, int64_t b, int64_t h, int64_t n, int64_t i)
{
    return (b * s->heads + h) * n + i;
}

static lh_status stage_seeds(stage *a)
{
    lh_status st = LH_OK;
    const scene *s = a->s;
    const lh_layout *l = a->layout[0];
    int rank = a->mesh->coord[LH_AXIS_SEQ];
    int64_t rows = l->rows[rank];
    int64_t width = s->heads * s->width;
    for (int i = 0; i < 2; i++) {
        int64_t per_row = i == 0 ? width : s->heads;
        LH_TRY(lh_new((size_t)(s->batch * rows * per_row) * sizeof(lh_real), &a->seed[i]));
        LH_TRY(lh_new((size_t)(s->batch * s->n * per_row) * sizeof(double), &a->d_out[i]));
        LH_TRY(lh_new((size_t)(s->batch * s->n * per_row) * sizeof(double), &a->out[i]));
        a->g.seed[i] = a->seed[i];
    }
    for (int64_t b = 0; b < s->batch; b++) {
        for (int64_t p = 0; p < s->n; p++) {
            for (int64_t i = 0; i < width && !(s->no_seed & 1u); i++)
                a->d_out[0][(b * s->n + p) * width + i] = (double)element(a, 10, b, p, i, width);
            for (int64_t h = 0; h < s->heads && !(s->no_seed & 2u); h++)
                a->d_out[1][lse_index(s, b, h, s->n, p)] =
                    (double)element(a, 11, b, p, h, s->heads);
        }
        for (int64_t r = 0; r < rows; r++) {
            int64_t p = lh_layout_position(l, rank, r);
            for (int64_t i = 0; i < width; i++)
                a->seed[0][(b * rows + r) * width + i] = element(a, 10, b, p, i, width);
            for (int64_t h = 0; h < s->heads; h++)
                a->seed[1][lse_index(s, b, h, rows, r)] = element(a, 11, b, p, h, s->heads);
        }
    }
done:
    return st;
}

static lh_status attend_record(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    stage *a = user;
    lh_mesh *mesh = lh_tape_device(t)->counting ? a->counting : a->mesh;
    lh_attend_desc d = {.sequence = mesh->axis[LH_AXIS_SEQ],
                        .plans = a->plans,
                        .q = in[Q],
                        .layout = a->layout[0],
                        .scale = 1.0 / sqrt((double)a->s->width),
                        .n_segments = a->s->n_segments};
    for (int i = 0; i < d.n_segments; i++) {
        d.segment[i] = (lh_segment){.k = in[K + 2 * i],
                                    .v = in[V + 2 * i],
                                    .layout = a->layout[i],
                                    .pattern = &a->pattern[i],
                                    .sight.valid = a->s->has_valid ? a->s->valid : NULL};
        if (i == 0 || !a->s->memory) continue;
        LH_TRY(lh_stop_gradient(t, d.segment[i].k, &d.segment[i].k));
        LH_TRY(lh_stop_gradient(t, d.segment[i].v, &d.segment[i].v));
    }
    *n_out = 2;
    lh_plan_cache_step(a->plans);
    if (a->s->segment) LH_TRY(lh_tape_segment_begin(t));
    LH_TRY(lh_attend(t, &d, &out[0], &out[1]));
    if (a->s->segment) LH_TRY(lh_tape_segment_end(t));
    const lh_place_word *o = &lh_var_place(t, out[0])->axis[LH_AXIS_SEQ];
    const lh_place_word *lse = &lh_var_place(t, out[1])->axis[LH_AXIS_SEQ];
    LH_CHECK(o->kind == LH_SHARD && o->dim == 1 && o->layout == a->layout[0] &&
                 lse->kind == LH_SHARD && lse->dim == 2 && lse->layout == a->layout[0],
             LH_ERR_BUG, "outputs must lie as the queries: o [B, s, H, D], lse [B, H, s]");
done:
    return st;
}

static lh_status stage_open(lh_comm *c, const scene *s, stage *a)
{
    lh_status st = LH_OK;
    int ranks = lh_comm_size(c);
    int data = s->data > 1 && ranks % s->data == 0 ? s->data : 1;
    int rank = lh_comm_rank(c);
    *a = (stage){.s = s, .comm = c};
    LH_TRY(lh_mesh_create(data, &a->mesh));
    LH_TRY(lh_mesh_create_counting(data, ranks / data, rank, &a->counting));
    LH_TRY(lh_device_create_poison(lh_test_isa(), 1, &a->device));
    LH_TRY(lh_device_create_count(lh_test_isa(), 1, &a->count));
    LH_TRY(lh_plan_cache_create(&a->plans));
    LH_TRY(lh_test_layout(s->layout, s->n, ranks / data, s->chunk, &a->layout[0]));
    if (s->n_segments > 1)
        LH_TRY(
            lh_test_layout(s->keys[1].layout, s->keys[1].n, ranks / data, s->chunk, &a->layout[1]));
    a->g = (lh_gradcheck){.device = a->device,
                          .count = a->count,
                          .record = attend_record,
                          .user = a,
                          .n_in = 1 + 2 * s->n_segments,
                          .no_seed = s->no_seed};
    for (int i = 0; i < LH_AXES; i++) {
        a->g.size[i] = a->mesh->size[i];
        a->g.coord[i] = a->mesh->coord[i];
    }
    for (int i = 0; i < s->n_segments; i++) stage_pattern(a, i);
    for (int t = 0; t < a->g.n_in; t++) LH_TRY(stage_tensor(a, t));
    LH_TRY(stage_seeds(a));
    LH_TRY(lh_new((size_t)(2 * (s->n + s->keys[1].n)) * sizeof *a->row, &a->row));
    a->d_row = a->row + s->n + s->keys[1].n;
    LH_TRY(lh_gradcheck_open(&a->g, &a->run));
done:
    return st;
}

static void stage_close(stage *a)
{
    lh_gradcheck_close(&a->run);
    for (int t = 0; t < TENSORS; t++) {
        lh_free(&a->data[t]);
        lh_free(&a->whole[t]);
        lh_free(&a->grad[t]);
    }
    for (int i = 0; i < 2; i++) {
        lh_free(&a->seed[i]);
        lh_free(&a->d_out[i]);
        lh_free(&a->out[i]);
        lh_layout_destroy(&a->layout[i]);
    }
    lh_free(&a->row);
    lh_plan_cache_destroy(&a->plans);
    lh_device_destroy(&a->count);
    lh_device_destroy(&a->device);
    lh_mesh_destroy(&a->counting);
    lh_mesh_destroy(&a->mesh);
}

/* --- the reference --- */

static double *at(double *x, const stage *a, int t, int64_t b, int64_t position, int64_t h)
{
    return x + ((b * tensor_layout(a, t)->n + position) * tensor_heads(a, t) + h) * a->s->width;
}

static double dot(const double *x, const double *y, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

static void add(double *y, double factor, const double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] += factor * x[i];
}

static bool visible(const stage *a, int segment, int64_t b, int64_t i, int64_t j)
{
    if (a->s->has_valid && j >= a->s->valid[b]) return false;
    return lh_pattern_sees(&a->pattern[segment], i, j);
}

/* Probabilities of query i of head h into a->row (-1: not visible); output and lse. */
static void dense_forward(stage *a, int64_t b, int64_t h, int64_t i)
{
    const scene *s = a->s;
    int64_t g = h / (s->heads / s->kv_heads);
    double scale = 1.0 / sqrt((double)s->width);
    double most = -HUGE_VAL;
    double sum = 0.0;
    double *o = at(a->out[0], a, Q, b, i, h);
    double *p = a->row;
    for (int n = 0; n < s->n_segments; p += segment_n(s, n), n++) {
        for (int64_t j = 0; j < segment_n(s, n); j++) {
            p[j] = -HUGE_VAL;
            if (!visible(a, n, b, i, j)) continue;
            p[j] = scale * dot(at(a->whole[Q], a, Q, b, i, h),
                               at(a->whole[K + 2 * n], a, K + 2 * n, b, j, g), s->width);
            most = fmax(most, p[j]);
        }
    }
    int64_t keys = p - a->row;
    for (int64_t j = 0; j < keys; j++) {
        a->row[j] = a->row[j] > -HUGE_VAL ? exp(a->row[j] - most) : -1.0;
        if (a->row[j] > 0.0) sum += a->row[j];
    }
    a->out[1][lse_index(s, b, h, s->n, i)] = sum > 0.0 ? most + log(sum) : -HUGE_VAL;
    p = a->row;
    for (int n = 0; n < s->n_segments; p += segment_n(s, n), n++) {
        for (int64_t j = 0; j < segment_n(s, n); j++) {
            if (p[j] < 0.0) continue;
            p[j] /= sum;
            add(o, p[j], at(a->whole[V + 2 * n], a, V + 2 * n, b, j, g), s->width);
        }
    }
}

static void dense_backward(stage *a, int64_t b, int64_t h, int64_t i)
{
    const scene *s = a->s;
    int64_t g = h / (s->heads / s->kv_heads);
    double scale = 1.0 / sqrt((double)s->width);
    const double *q = at(a->whole[Q], a, Q, b, i, h);
    const double *d_o = at(a->d_out[0], a, Q, b, i, h);
    double delta =
        dot(d_o, at(a->out[0], a, Q, b, i, h), s->width) - a->d_out[1][lse_index(s, b, h, s->n, i)];
    const double *p = a->row;
    for (int n = 0; n < s->n_segments; p += segment_n(s, n), n++) {
        int k = K + 2 * n;
        for (int64_t j = 0; j < segment_n(s, n); j++) {
            if (p[j] < 0.0) continue;
            double ds =
                scale * p[j] * (dot(d_o, at(a->whole[k + 1], a, k, b, j, g), s->width) - delta);
            add(at(a->grad[k + 1], a, k, b, j, g), p[j], d_o, s->width);
            add(at(a->grad[k], a, k, b, j, g), ds, q, s->width);
            add(at(a->grad[Q], a, Q, b, i, h), ds, at(a->whole[k], a, k, b, j, g), s->width);
        }
    }
}

static void dense(stage *a)
{
    for (int64_t b = 0; b < a->s->batch; b++)
        for (int64_t h = 0; h < a->s->heads; h++)
            for (int64_t i = 0; i < a->s->n; i++) {
                dense_forward(a, b, h, i);
                dense_backward(a, b, h, i);
            }
}

/* --- comparisons --- */

static double largest(const double *x, int64_t n)
{
    double most = 1e-3;
    for (int64_t i = 0; i < n; i++)
        if (isfinite(x[i])) most = fmax(most, fabs(x[i]));
    return most;
}

/* Largest error of local rows [B, s, width], of the largest entry of the whole [B, N, width]. */
static double rows_error(const stage *a, const lh_layout *l, int64_t width, const lh_real *mine,
                         const double *whole)
{
    int rank = a->mesh->coord[LH_AXIS_SEQ];
    int64_t rows = l->rows[rank];
    double error = 0.0;
    for (int64_t b = 0; b < a->s->batch; b++)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < width; i++) {
                double want = whole[(b * l->n + lh_layout_position(l, rank, r)) * width + i];
                double off = fabs((double)mine[(b * rows + r) * width + i] - want);
                error = off <= error ? error : off; /* NaN stays */
            }
    return error / largest(whole, a->s->batch * l->n * width);
}

static double lse_error(const stage *a)
{
    const scene *s = a->s;
    int rank = a->mesh->coord[LH_AXIS_SEQ];
    const lh_layout *l = a->layout[0];
    const lh_real *mine = a->run.out[1];
    double error = 0.0;
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t h = 0; h < s->heads; h++)
            for (int64_t r = 0; r < l->rows[rank]; r++) {
                double want = a->out[1][lse_index(s, b, h, s->n, lh_layout_position(l, rank, r))];
                double got = (double)mine[lse_index(s, b, h, l->rows[rank], r)];
                double off = want == got ? 0.0 : fabs(got - want); /* both may be -inf */
                error = off <= error ? error : off;
            }
    return error / largest(a->out[1], s->batch * s->heads * s->n);
}

/* Payload by the plans: the sums of the contract of lh_attend. */
static void want_bytes(const stage *a, int64_t *forward, int64_t *backward)
{
    *forward = *backward = 0;
    int rank = a->mesh->coord[LH_AXIS_SEQ];
    for (int i = 0; i < a->s->n_segments; i++) {
        const lh_plan *p = NULL;
        if (lh_plan_get(a->plans, &a->pattern[i], a->layout[0], a->layout[i], rank, &p) != LH_OK) {
            *forward = -1;
            return;
        }
        int64_t row = 2 * a->s->batch * a->s->kv_heads * a->s->width * (int64_t)sizeof(lh_real);
        *forward += row * p->exchange->total_send;
        if (i == 0 || !a->s->memory) *backward += row * p->exchange->total_recv;
        if (!p->exchange->keep) *backward += row * p->exchange->total_send;
    }
}

static bool bytes_right(const stage *a, const lh_traffic *t, int64_t steps)
{
    int64_t forward = 0;
    int64_t backward = 0;
    want_bytes(a, &forward, &backward);
    bool ok = t->bytes[LH_SEND_FORWARD] == steps * forward &&
              t->bytes[LH_SEND_BACKWARD] == steps * backward &&
              t->bytes[LH_SEND_RECOMPUTE] == (a->s->segment ? steps * forward : 0) &&
              lh_traffic_step(t) == t->bytes[LH_SEND_FORWARD] + t->bytes[LH_SEND_BACKWARD] +
                                        t->bytes[LH_SEND_RECOMPUTE];
    if (!ok)
        print_error("sent %lld, %lld, again %lld; expected %lld times %lld, %lld\n",
                    (long long)t->bytes[LH_SEND_FORWARD], (long long)t->bytes[LH_SEND_BACKWARD],
                    (long long)t->bytes[LH_SEND_RECOMPUTE], (long long)steps, (long long)forward,
                    (long long)backward);
    return ok;
}

static bool close_enough(const stage *a, const char *what, double error)
{
    bool ok = error <= LH_TOL_ATTEND;
    if (!ok)
        print_error("%s: %s is off by %.3g of the largest, allowed %.3g\n", a->s->name, what, error,
                    LH_TOL_ATTEND);
    return ok;
}

static bool values_right(stage *a)
{
    static const char *const names[TENSORS] = {"dq", "dk", "dv", "dk of segment 1",
                                               "dv of segment 1"};
    int64_t heads = a->s->heads * a->s->width;
    bool ok = close_enough(a, "o", rows_error(a, a->layout[0], heads, a->run.out[0], a->out[0]));
    ok = close_enough(a, "lse", lse_error(a)) && ok;
    int tensors = a->s->memory ? V + 1 : a->g.n_in;
    for (int t = 0; t < tensors; t++)
        ok = close_enough(a, names[t],
                          rows_error(a, tensor_layout(a, t), tensor_heads(a, t) * a->s->width,
                                     a->run.grad[t], a->grad[t])) &&
             ok;
    return ok;
}

static void run_scene(lh_comm *c, const scene *s)
{
    stage a;
    lh_real *first = NULL;
    lh_assert_all_ok(c, stage_open(c, s, &a));
    dense(&a);
    lh_assert_all_ok(c, lh_gradcheck_step(&a.run));
    lh_assert_all(c, values_right(&a));
    /* the same again: the same bits, without an allocation */
    size_t bytes = lh_shape_bytes(&a.g.in[K].shape);
    lh_assert_all_ok(c, lh_new(bytes, &first));
    if (bytes > 0) memcpy(first, a.run.grad[K], bytes);
    lh_assert_all_ok(c, lh_gradcheck_step(&a.run));
    lh_assert_all(c, bytes == 0 || memcmp(first, a.run.grad[K], bytes) == 0);
    lh_assert_all(c, a.run.allocations == 0);
    lh_assert_all(c, bytes_right(&a, a.counting->traffic, 1));
    lh_assert_all(c, bytes_right(&a, a.mesh->traffic, 2));
    lh_assert_all(c, a.device->flops == 2.0 * a.count->flops);
    lh_free(&first);
    stage_close(&a);
}

static void equals_dense(void **state)
{
    for (size_t i = 0; i < sizeof scenes / sizeof scenes[0]; i++) {
        if (lh_comm_rank(*state) == 0) print_message("  %s\n", scenes[i].name);
        run_scene(*state, &scenes[i]);
    }
}

/* --- memory: counted for one rank of many, without them --- */

enum { MEM_HEADS = 4, MEM_KV = 2, MEM_WIDTH = 16, MEM_BATCH = 2 };

typedef struct measured {
    int64_t device, host, scratch; /* arena bytes; scratch: of the kernels, part of device */
    int64_t rows;                  /* of the largest shard */
} measured;

typedef struct memory_case {
    int64_t n, lo, hi;
    int ranks;
    bool gradients;
} memory_case;

typedef struct memory_stage {
    lh_mesh *mesh;
    lh_device *count;
    lh_layout *layout;
    lh_plan_cache *plans;
    lh_tape *tape;
    lh_memory *memory;
} memory_stage;

static lh_status memory_record(memory_stage *m, const memory_case *c)
{
    lh_status st = LH_OK;
    static const char data = 0; /* stands for addresses that the device count never reads */
    int rank = m->mesh->coord[LH_AXIS_SEQ];
    lh_pattern pattern = lh_pattern_band(c->lo, c->hi);
    lh_attend_desc d = {.sequence = m->mesh->axis[LH_AXIS_SEQ],
                        .plans = m->plans,
                        .layout = m->layout,
                        .scale = 0.25,
                        .n_segments = 1};
    lh_var in[3];
    lh_var o;
    const void *seed = &data;
    for (int i = 0; i < 3; i++)
        LH_TRY(lh_tape_leaf(m->tape, &data, c->gradients ? (void *)(uintptr_t)&data : NULL,
                            lh_shape_4(LH_REAL, MEM_BATCH, m->layout->rows[rank],
                                       i == 0 ? MEM_HEADS : MEM_KV, MEM_WIDTH),
                            lh_place_tokens(m->layout), &in[i]));
    d.q = in[0];
    d.segment[0] = (lh_segment){.k = in[1], .v = in[2], .layout = m->layout, .pattern = &pattern};
    LH_TRY(lh_attend(m->tape, &d, &o, NULL));
    if (c->gradients) LH_TRY(lh_tape_backward_from(m->tape, 1, &o, &seed));
done:
    return st;
}

static lh_status memory_measure(const memory_case *c, measured *out)
{
    lh_status st = LH_OK;
    memory_stage m = {0};
    LH_TRY(lh_mesh_create_counting(1, c->ranks, c->ranks / 2, &m.mesh));
    LH_TRY(lh_device_create_count(lh_test_isa(), 1, &m.count));
    LH_TRY(lh_layout_contiguous(c->n, c->ranks, 16, true, &m.layout));
    LH_TRY(lh_plan_cache_create(&m.plans));
    LH_TRY(lh_tape_create(m.mesh->size, m.mesh->coord, &m.tape));
    LH_TRY(lh_memory_create(&m.memory));
    LH_TRY(lh_memory_count_begin(m.memory));
    lh_tape_reset(m.tape, m.count, m.memory, c->gradients);
    LH_TRY(memory_record(&m, c));
    LH_TRY(lh_memory_count_end(m.memory));
    out->device = (int64_t)lh_memory_bytes(m.memory, LH_SPACE_DEVICE);
    out->host = (int64_t)lh_memory_bytes(m.memory, LH_SPACE_HOST);
    out->rows = m.layout->max_rows;
    const lh_attend_room room = {
        .width = MEM_WIDTH, .k_rows = m.layout->max_rows, .backward = c->gradients};
    out->scratch = (int64_t)lh_attend_scratch(m.count, &room);
done:
    lh_memory_destroy(&m.memory);
    lh_tape_destroy(&m.tape);
    lh_plan_cache_destroy(&m.plans);
    lh_layout_destroy(&m.layout);
    lh_device_destroy(&m.count);
    lh_mesh_destroy(&m.mesh);
    return st;
}

/* full: what a rank holds besides queries and outputs is one block in use and one message in flight
 * each way (which is packed from own rows); in the backward also the block's gradient and its
 * message. */
static void two_travelling_shards(void **state)
{
    lh_comm *comm = *state;
    for (int ranks = 2; ranks <= 16; ranks++) {
        for (int gradients = 0; gradients < 2; gradients++) {
            measured m = {0};
            memory_case c = {1600, -FAR, FAR, ranks, gradients > 0};
            lh_assert_all_ok(comm, memory_measure(&c, &m));
            int64_t real = (int64_t)sizeof(lh_real);
            int64_t shard = 2 * MEM_BATCH * m.rows * MEM_KV * MEM_WIDTH * real;
            int64_t tokens = MEM_BATCH * m.rows * MEM_HEADS * MEM_WIDTH * real;
            int64_t stats = MEM_BATCH * m.rows * MEM_HEADS * real;
            int64_t slack = 16 * 64;
            /* o, lse, sum or delta; backward: the gradient of o, one more block of gradients */
            int64_t want = (1 + gradients) * (tokens + shard) + 2 * stats + m.scratch + slack;
            lh_assert_all(comm, m.device <= want);
            lh_assert_all(comm, m.host <= 2 * (1 + gradients) * shard + slack);
        }
    }
}

static void memory_follows_the_shard(void **state)
{
    lh_comm *comm = *state;
    static const int64_t bands[3][2] = {{-LH_FAR, LH_FAR}, {-LH_FAR, 0}, {-30, 30}};
    for (int k = 0; k < 3; k++) {
        measured one = {0};
        measured more = {0};
        memory_case c = {1024, bands[k][0], bands[k][1], 4, true};
        lh_assert_all_ok(comm, memory_measure(&c, &one));
        /* the same shard of a four times longer sequence on four times the ranks */
        c.n *= 4;
        c.ranks *= 4;
        lh_assert_all_ok(comm, memory_measure(&c, &more));
        lh_assert_all(comm, more.rows == one.rows);
        lh_assert_all(comm, more.device <= one.device && more.host <= one.host);
        /* the same sequence on four times the ranks: a quarter, but for the 60 rows of the window's
         * halo and their gradients */
        c.n = 1024;
        lh_assert_all_ok(comm, memory_measure(&c, &more));
        int64_t halo =
            k == 2 ? 2 * 60 * MEM_BATCH * MEM_KV * MEM_WIDTH * (int64_t)sizeof(lh_real) : 0;
        lh_assert_all(comm, 4 * (more.device - more.scratch) <=
                                one.device - one.scratch + 3 * 2 * halo + 4096);
        lh_assert_all(comm, 4 * more.host <= one.host + 3 * halo + 4096);
    }
}

/* --- what is refused --- */

static void refuses(void **state)
{
    lh_comm *comm = *state;
    static const char data = 0;
    memory_stage m = {0};
    lh_var q;
    lh_var k;
    lh_var odd;
    lh_var whole;
    lh_var o;
    lh_pattern pattern = lh_pattern_band(-3, 3);
    lh_assert_all_ok(comm, lh_mesh_create_counting(1, 2, 0, &m.mesh));
    lh_assert_all_ok(comm, lh_device_create_count(lh_test_isa(), 1, &m.count));
    lh_assert_all_ok(comm, lh_layout_contiguous(20, 2, 4, true, &m.layout));
    lh_assert_all_ok(comm, lh_plan_cache_create(&m.plans));
    lh_assert_all_ok(comm, lh_tape_create(m.mesh->size, m.mesh->coord, &m.tape));
    lh_assert_all_ok(comm, lh_memory_create(&m.memory));
    lh_assert_all_ok(comm, lh_memory_count_begin(m.memory));
    lh_tape_reset(m.tape, m.count, m.memory, false);
    int64_t s = m.layout->rows[0];
    lh_place tokens = lh_place_tokens(m.layout);
    lh_assert_all_ok(comm,
                     lh_tape_input(m.tape, &data, lh_shape_4(LH_REAL, 1, s, 4, 8), tokens, &q));
    lh_assert_all_ok(comm,
                     lh_tape_input(m.tape, &data, lh_shape_4(LH_REAL, 1, s, 2, 8), tokens, &k));
    lh_assert_all_ok(comm,
                     lh_tape_input(m.tape, &data, lh_shape_4(LH_REAL, 1, s, 3, 8), tokens, &odd));
    lh_assert_all_ok(comm, lh_tape_input(m.tape, &data, lh_shape_4(LH_REAL, 1, s, 2, 8),
                                         lh_place_replicated(), &whole));
    lh_attend_desc d = {.sequence = m.mesh->axis[LH_AXIS_SEQ],
                        .plans = m.plans,
                        .q = q,
                        .layout = m.layout,
                        .scale = 1.0,
                        .n_segments = 1,
                        .segment = {{k, k, m.layout, &pattern}}};
    lh_assert_all_ok(comm, lh_attend(m.tape, &d, &o, NULL));
    d.segment[0].k = d.segment[0].v = odd; /* 4 query heads, 3 key heads */
    lh_assert_all_code(comm, lh_attend(m.tape, &d, &o, NULL), LH_ERR_BUG);
    d.segment[0].k = k; /* k and v differ */
    lh_assert_all_code(comm, lh_attend(m.tape, &d, &o, NULL), LH_ERR_BUG);
    d.segment[0].k = d.segment[0].v = whole; /* not sharded */
    lh_assert_all_code(comm, lh_attend(m.tape, &d, &o, NULL), LH_ERR_BUG);
    d.segment[0].k = d.segment[0].v = k;
    d.n_segments = 0;
    lh_assert_all_code(comm, lh_attend(m.tape, &d, &o, NULL), LH_ERR_BUG);
    lh_memory_destroy(&m.memory);
    lh_tape_destroy(&m.tape);
    lh_plan_cache_destroy(&m.plans);
    lh_layout_destroy(&m.layout);
    lh_device_destroy(&m.count);
    lh_mesh_destroy(&m.mesh);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_dense),
        cmocka_unit_test(two_travelling_shards),
        cmocka_unit_test(memory_follows_the_shard),
        cmocka_unit_test(refuses),
    };
    return lh_test_mpi_main(argc, argv, "attend", tests, sizeof tests / sizeof tests[0]);
}
