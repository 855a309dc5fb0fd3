/* Linformer on several ranks against projections and softmax written down plainly, in double, from
 * the global tensors: output and gradients of q, k, v and of every parameter. */
#include "attention/landmarks.h"
#include "core/random.h"
#include "experiments/config.h"
#include "tests/lh_gradcheck.h"
#include "tests/lh_test_mpi.h"
#include "tests/lh_test_scenes.h"
#include "tests/tol.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_BATCH = 3, MAX_HEADS = 8, MAX_PARAMS = 4, SEED = 11 };
enum { Q, K, V, PARAM, TENSORS = PARAM + MAX_PARAMS }; /* inputs */
enum { STREAM_OUT = 40, STREAM_PARAM = 50 };

typedef enum sharing { NONE, HEADWISE, KV, LAYERWISE } sharing;
typedef enum projection { LEARNED, MEAN, CONV } projection;

static const char *const sharing_name[] = {"none", "headwise", "kv", "layerwise"};
static const char *const projection_name[] = {"learned", "mean", "conv"};

typedef struct scene {
    const char *name;
    int64_t batch, n, chunk;
    int64_t heads, kv_heads, width;
    lh_test_layout_kind layout;
    sharing sharing;
    projection projection;
    int64_t k[MAX_HEADS]; /* of each key/value head; one number: of all */
    int64_t made;         /* positions that the projections are made for; 0: n */
    bool has_valid;
    int64_t valid[MAX_BATCH];
    bool segment; /* recomputed */
    int data;     /* data ranks, if they divide the ranks; else 1 */
} scene;

#define SIZES(b, s, c, h, g, d, l)                                                                 \
    .batch = (b), .n = (s), .chunk = (c), .heads = (h), .kv_heads = (g), .width = (d), .layout = (l)

static const scene scenes[] = {
    {.name = "headwise", SIZES(1, 101, 16, 2, 2, 8, LH_TEST_EVEN), .sharing = HEADWISE, .k = {12}},
    {.name = "none", SIZES(2, 101, 16, 2, 2, 8, LH_TEST_ALIGNED), .sharing = NONE, .k = {12}},
    {.name = "kv", SIZES(2, 101, 16, 2, 2, 8, LH_TEST_EVEN), .sharing = KV, .k = {7}},
    {.name = "layerwise",
     SIZES(2, 101, 7, 2, 2, 8, LH_TEST_ALIGNED),
     .sharing = LAYERWISE,
     .k = {7}},
    {.name = "grouped heads", SIZES(2, 101, 16, 4, 2, 8, LH_TEST_EVEN), .sharing = NONE, .k = {9}},
    {.name = "one key head",
     SIZES(2, 61, 16, 4, 1, 8, LH_TEST_EVEN),
     .sharing = HEADWISE,
     .k = {9}},
    {.name = "k per head",
     SIZES(2, 101, 16, 8, 4, 8, LH_TEST_EVEN),
     .sharing = NONE,
     .k = {12, 12, 5, 8}},
    {.name = "more different k than one message holds",
     SIZES(1, 61, 16, 6, 6, 8, LH_TEST_EVEN),
     .sharing = NONE,
     .k = {3, 4, 5, 6, 7, 8}},
    {.name = "more landmarks than positions",
     SIZES(2, 11, 4, 2, 2, 8, LH_TEST_ALIGNED),
     .sharing = HEADWISE,
     .k = {40}},
    {.name = "more ranks than positions",
     SIZES(2, 3, 1, 2, 2, 8, LH_TEST_ALIGNED),
     .sharing = NONE,
     .k = {2}},
    {.name = "one position", SIZES(1, 1, 1, 1, 1, 8, LH_TEST_ALIGNED), .sharing = KV, .k = {2}},
    {.name = "uneven, a rank without tokens",
     SIZES(2, 90, 8, 2, 1, 8, LH_TEST_UNEVEN),
     .sharing = HEADWISE,
     .k = {6}},
    {.name = "zigzag", SIZES(2, 101, 8, 2, 2, 8, LH_TEST_ZIGZAG), .sharing = NONE, .k = {6}},
    {.name = "cyclic", SIZES(2, 101, 8, 2, 2, 8, LH_TEST_CYCLIC), .sharing = HEADWISE, .k = {6}},
    {.name = "head width 24", SIZES(1, 70, 16, 2, 1, 24, LH_TEST_EVEN), .sharing = NONE, .k = {5}},
    {.name = "valid lengths",
     SIZES(3, 101, 16, 2, 2, 8, LH_TEST_EVEN),
     .sharing = HEADWISE,
     .k = {6},
     .has_valid = true,
     .valid = {101, 37, 0}},
    {.name = "valid lengths, cyclic",
     SIZES(3, 61, 16, 4, 2, 8, LH_TEST_CYCLIC),
     .sharing = NONE,
     .k = {6, 3},
     .has_valid = true,
     .valid = {60, 1, 33}},
    {.name = "mean", SIZES(2, 101, 16, 2, 2, 8, LH_TEST_EVEN), .projection = MEAN, .k = {12}},
    {.name = "mean, k per head, grouped",
     SIZES(2, 101, 16, 6, 3, 8, LH_TEST_ALIGNED),
     .projection = MEAN,
     .sharing = HEADWISE,
     .k = {12, 101, 1}},
    {.name = "mean, cyclic, valid lengths",
     SIZES(3, 61, 16, 2, 1, 8, LH_TEST_CYCLIC),
     .projection = MEAN,
     .k = {7},
     .has_valid = true,
     .valid = {61, 0, 20}},
    {.name = "mean, shorter",
     SIZES(2, 61, 16, 2, 2, 8, LH_TEST_ZIGZAG),
     .projection = MEAN,
     .k = {7, 9},
     .made = 90},
    {.name = "convolution",
     SIZES(2, 96, 16, 2, 2, 8, LH_TEST_EVEN),
     .projection = CONV,
     .sharing = HEADWISE,
     .k = {12}},
    {.name = "convolution of each head, grouped",
     SIZES(2, 99, 16, 4, 2, 8, LH_TEST_ALIGNED),
     .projection = CONV,
     .sharing = NONE,
     .k = {9}},
    {.name = "convolution, kv, zigzag",
     SIZES(2, 96, 8, 2, 2, 8, LH_TEST_ZIGZAG),
     .projection = CONV,
     .sharing = KV,
     .k = {6}},
    {.name = "convolution, layerwise, cyclic, valid lengths",
     SIZES(3, 60, 16, 2, 2, 8, LH_TEST_CYCLIC),
     .projection = CONV,
     .sharing = LAYERWISE,
     .k = {10},
     .has_valid = true,
     .valid = {60, 7, 0}},
    {.name = "convolution, shorter",
     SIZES(2, 61, 16, 2, 1, 8, LH_TEST_EVEN),
     .projection = CONV,
     .sharing = HEADWISE,
     .k = {9},
     .made = 90},
    {.name = "recomputed",
     SIZES(2, 101, 16, 2, 1, 8, LH_TEST_EVEN),
     .sharing = HEADWISE,
     .k = {9},
     .segment = true},
    {.name = "two data ranks", SIZES(2, 61, 8, 2, 1, 8, LH_TEST_EVEN), .k = {5}, .data = 2},
    {.name = "two data ranks, convolution",
     SIZES(2, 60, 8, 2, 1, 8, LH_TEST_EVEN),
     .projection = CONV,
     .k = {5},
     .data = 2},
    {.name = "shorter than made for",
     SIZES(2, 61, 16, 2, 2, 8, LH_TEST_EVEN),
     .sharing = HEADWISE,
     .k = {6},
     .made = 101},
    {.name = "shorter, k per head, zigzag",
     SIZES(2, 53, 8, 4, 2, 8, LH_TEST_ZIGZAG),
     .sharing = NONE,
     .k = {6, 4},
     .made = 90},
    {.name = "shorter, recomputed",
     SIZES(1, 61, 8, 2, 1, 8, LH_TEST_EVEN),
     .sharing = NONE,
     .k = {6},
     .made = 80,
     .segment = true},
    {.name = "shorter, kv",
     SIZES(1, 2, 8, 2, 1, 8, LH_TEST_ALIGNED),
     .sharing = KV,
     .k = {6},
     .made = 40},
};

/* --- one scene on this rank --- */

typedef struct stage {
    const scene *s;
    lh_comm *comm;
    lh_mesh *mesh, *counting;
    lh_device *device, *count;
    lh_plan_cache *plans;
    lh_layout *layout, *table; /* table: another one only if the projections are made for more */
    lh_config *config;         /* owns the settings */
    const lh_attn_ops *ops;
    lh_attn_desc desc;
    lh_params *params; /* never allocated: their memory is the gradient check's */
    void *state;
    lh_gradcheck g;
    lh_gradcheck_run run;
    void *data[TENSORS];         /* host, local */
    lh_real *seed;               /* host, local */
    double *whole[TENSORS];      /* all positions of all data ranks' sequences */
    double *grad[TENSORS];       /* reference */
    double *d_out, *out;         /* o [B, N, H, D] */
    double *mark[2], *d_mark[2]; /* reference: landmarks of K, V [B, G, most, D] */
    double *p;                   /* probabilities of one query */
} stage;

static int64_t made_for(const scene *s)
{
    return s->made > 0 ? s->made : s->n;
}

static int k_count(const scene *s)
{
    int n = 0;
    while (n < MAX_HEADS && s->k[n] > 0) n++;
    return n;
}

static int64_t k_of(const scene *s, int64_t g)
{
    return s->k[k_count(s) == 1 ? 0 : g];
}

static int64_t k_most(const scene *s)
{
    int64_t most = 0;
    for (int64_t g = 0; g < s->kv_heads; g++) most = k_of(s, g) > most ? k_of(s, g) : most;
    return most;
}

static int64_t batch_all(const stage *a)
{
    return a->s->batch * a->mesh->size[LH_AXIS_DATA];
}

static int64_t first_sequence(const stage *a)
{
    return a->s->batch * a->mesh->coord[LH_AXIS_DATA];
}

static int64_t tensor_width(const stage *a, int t)
{
    return (t == Q ? a->s->heads : a->s->kv_heads) * a->s->width;
}

static lh_real drawn(uint32_t stream, int64_t index)
{
    return (lh_real)lh_random_normal(SEED, lh_stream_id(LH_STREAM_TEST, stream), (uint64_t)index);
}

/* Copies this rank's rows [B, s, width] of what is whole [all B, N, width]. */
static void own_rows(const stage *a, int64_t width, const double *whole, lh_real *mine)
{
    int rank = a->mesh->coord[LH_AXIS_SEQ];
    int64_t rows = a->layout->rows[rank];
    for (int64_t b = 0; b < a->s->batch; b++)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < width; i++) {
                int64_t position = lh_layout_position(a->layout, rank, r);
                mine[(b * rows + r) * width + i] =
                    (lh_real)whole[((first_sequence(a) + b) * a->s->n + position) * width + i];
            }
}

static lh_status stage_tensor(stage *a, int t)
{
    lh_status st = LH_OK;
    const scene *s = a->s;
    int64_t width = tensor_width(a, t);
    int64_t all = batch_all(a) * s->n * width;
    int64_t rows = a->layout->rows[a->mesh->coord[LH_AXIS_SEQ]];
    LH_TRY(lh_new((size_t)all * sizeof(double), &a->whole[t]));
    LH_TRY(lh_new((size_t)all * sizeof(double), &a->grad[t]));
    LH_TRY(lh_new((size_t)(s->batch * rows * width) * sizeof(lh_real), &a->data[t]));
    for (int64_t i = 0; i < all; i++) a->whole[t][i] = (double)drawn((uint32_t)t, i);
    own_rows(a, width, a->whole[t], a->data[t]);
    a->g.in[t] =
        (lh_gradcheck_input){lh_shape_4(LH_REAL, s->batch, rows, width / s->width, s->width),
                             lh_place_tokens(a->layout), a->data[t], true};
done:
    return st;
}

/* Index in the whole parameter of element e of this rank's part. */
static int64_t param_index(const stage *a, const lh_param *p, int64_t e)
{
    const lh_place_word *w = &p->place.axis[LH_AXIS_SEQ];
    if (w->kind != LH_SHARD) return e;
    int64_t columns = p->shape.dim[1];
    return lh_layout_position(w->layout, a->mesh->coord[LH_AXIS_SEQ], e / columns) * columns +
           e % columns;
}

static lh_status stage_param(stage *a, int i)
{
    lh_status st = LH_OK;
    const lh_param *p = a->params->item[i];
    int t = PARAM + i;
    int64_t all = lh_shape_count(&p->whole);
    LH_TRY(lh_new((size_t)all * sizeof(double), &a->whole[t]));
    LH_TRY(lh_new((size_t)all * sizeof(double), &a->grad[t]));
    LH_TRY(lh_new(lh_shape_bytes(&p->shape), &a->data[t]));
    for (int64_t e = 0; e < all; e++)
        a->whole[t][e] = (double)(lh_real)(0.3 * (double)drawn((uint32_t)(STREAM_PARAM + i), e));
    for (int64_t e = 0; e < lh_shape_count(&p->shape); e++)
        ((lh_real *)a->data[t])[e] = (lh_real)a->whole[t][param_index(a, p, e)];
    a->g.in[t] = (lh_gradcheck_input){p->shape, p->place, a->data[t], true};
done:
    return st;
}

static lh_status stage_out(stage *a)
{
    lh_status st = LH_OK;
    const scene *s = a->s;
    int64_t width = tensor_width(a, Q);
    int64_t all = batch_all(a) * s->n * width;
    size_t marks = (size_t)(batch_all(a) * s->kv_heads * k_most(s) * s->width);
    int64_t rows = a->layout->rows[a->mesh->coord[LH_AXIS_SEQ]];
    LH_TRY(lh_new((size_t)all * sizeof(double), &a->d_out));
    LH_TRY(lh_new((size_t)all * sizeof(double), &a->out));
    LH_TRY(lh_new((size_t)(s->batch * rows * width) * sizeof(lh_real), &a->seed));
    LH_TRY(lh_new((size_t)k_most(s) * sizeof(double), &a->p));
    for (int64_t i = 0; i < all; i++) a->d_out[i] = (double)drawn(STREAM_OUT, i);
    own_rows(a, width, a->d_out, a->seed);
    a->g.seed[0] = a->seed;
    for (int i = 0; i < 2; i++) {
        LH_TRY(lh_new(marks * sizeof(double), &a->mark[i]));
        LH_TRY(lh_new(marks * sizeof(double), &a->d_mark[i]));
    }
done:
    return st;
}

/* A model of `layers` such layers as the experiment file says it; k: what stands behind `k:`. */
static lh_status config_of(const scene *s, int layers, const char *k, const char *more,
                           lh_config **out)
{
    const long long width = s->heads * s->width;
    char text[512];
    int n =
        snprintf(text, sizeof text,
                 "model: {kind: encoder, vocab: 31, layers: %d, width: %lld, heads: %lld,\n"
                 "  kv_heads: %lld, head_width: %lld, attention: {mechanism: linformer,\n"
                 "  k: %s, sharing: %s, projection: %s%s}}\n",
                 layers, width, (long long)s->heads, (long long)s->kv_heads, (long long)s->width, k,
                 sharing_name[s->sharing], projection_name[s->projection], more);
    return lh_config_parse(text, (size_t)n, "linformer.yaml", LH_CONFIG_PARTIAL, out);
}

static const char *k_text(const scene *s, char *buf, size_t bytes)
{
    int at = snprintf(buf, bytes, "[[");
    for (int i = 0; i < k_count(s); i++)
        at +=
            snprintf(buf + at, bytes - (size_t)at, "%s%lld", i > 0 ? ", " : "", (long long)s->k[i]);
    (void)snprintf(buf + at, bytes - (size_t)at, "]]");
    return buf;
}

/* The attention of layer 0 of a configuration. */
static lh_attn_desc describe(const scene *s, const lh_config *c, const lh_layout *layout,
                             const lh_layout *table)
{
    return (lh_attn_desc){.width = s->heads * s->width,
                          .heads = s->heads,
                          .kv_heads = s->kv_heads,
                          .head_width = s->width,
                          .batch = s->batch,
                          .length = layout->n,
                          .layout = layout,
                          .max_length = table->n,
                          .table = table,
                          .settings = c->model.attention[0].settings,
                          .seed = 1};
}

static lh_status linformer_record(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    stage *a = user;
    bool counting = lh_tape_device(t)->counting;
    const lh_qkv qkv = {.x = in[Q],
                        .q = in[Q],
                        .k = in[K],
                        .v = in[V],
                        .valid = a->s->has_valid && !counting ? a->s->valid : NULL,
                        .mesh = counting ? a->counting : a->mesh,
                        .plans = a->plans};
    for (int64_t i = 0; i < a->params->count; i++) {
        a->params->item[i]->value = a->run.value_device[PARAM + i];
        a->params->item[i]->grad = a->run.grad_device[PARAM + i];
    }
    *n_out = 1;
    lh_plan_cache_step(a->plans);
    if (a->s->segment) LH_TRY(lh_tape_segment_begin(t));
    LH_TRY(a->ops->forward(a->state, t, &qkv, &out[0]));
    if (a->s->segment) LH_TRY(lh_tape_segment_end(t));
    const lh_place_word *o = &lh_var_place(t, out[0])->axis[LH_AXIS_SEQ];
    LH_CHECK(o->kind == LH_SHARD && o->dim == 1 && o->layout == a->layout, LH_ERR_BUG,
             "the output must lie as the queries");
done:
    return st;
}

static double total(void *user, double mine)
{
    stage *a = user;
    lh_sum_f64(a->comm, &mine, 1, LH_SEND_OTHER);
    return mine;
}

static lh_status stage_mechanism(stage *a)
{
    lh_status st = LH_OK;
    char k[128];
    LH_TRY(config_of(a->s, 1, k_text(a->s, k, sizeof k), "", &a->config));
    a->ops = a->config->model.attention[0].ops;
    a->desc = describe(a->s, a->config, a->layout, a->table != NULL ? a->table : a->layout);
    LH_TRY(lh_attn_check(a->ops, &a->desc));
    LH_TRY(lh_params_create(a->device, a->mesh->coord, &a->params));
    LH_TRY(a->ops->parameters(&a->desc, a->params));
    a->desc.params = a->params;
    LH_TRY(a->ops->create(&a->desc, &a->state));
    LH_CHECK(a->params->count <= MAX_PARAMS, LH_ERR_BUG, "%lld parameters",
             (long long)a->params->count);
done:
    return st;
}

static lh_status stage_open(lh_comm *c, const scene *s, stage *a)
{
    lh_status st = LH_OK;
    int ranks = lh_comm_size(c);
    int data = s->data > 1 && ranks % s->data == 0 ? s->data : 1;
    *a = (stage){.s = s, .comm = c};
    LH_TRY(lh_mesh_create(data, &a->mesh));
    LH_TRY(lh_mesh_create_counting(data, ranks / data, lh_comm_rank(c), &a->counting));
    LH_TRY(lh_device_create_poison(lh_test_isa(), 1, &a->device));
    LH_TRY(lh_device_create_count(lh_test_isa(), 1, &a->count));
    LH_TRY(lh_plan_cache_create(&a->plans));
    LH_TRY(lh_test_layout(s->layout, s->n, ranks / data, s->chunk, &a->layout));
    if (s->made > 0) LH_TRY(lh_test_layout(s->layout, s->made, ranks / data, s->chunk, &a->table));
    LH_TRY(stage_mechanism(a));
    a->g = (lh_gradcheck){.device = a->device,
                          .count = a->count,
                          .record = linformer_record,
                          .total = total,
                          .user = a,
                          .n_in = PARAM + (int)a->params->count};
    for (int i = 0; i < LH_AXES; i++) {
        a->g.size[i] = a->mesh->size[i];
        a->g.coord[i] = a->mesh->coord[i];
    }
    for (int t = 0; t < PARAM; t++) LH_TRY(stage_tensor(a, t));
    for (int i = 0; i < a->params->count; i++) LH_TRY(stage_param(a, i));
    LH_TRY(stage_out(a));
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
        lh_free(&a->mark[i]);
        lh_free(&a->d_mark[i]);
    }
    lh_free(&a->seed);
    lh_free(&a->d_out);
    lh_free(&a->out);
    lh_free(&a->p);
    if (a->state != NULL) a->ops->destroy(&a->state);
    lh_params_destroy(&a->params);
    lh_config_destroy(&a->config);
    lh_layout_destroy(&a->table);
    lh_layout_destroy(&a->layout);
    lh_plan_cache_destroy(&a->plans);
    lh_device_destroy(&a->count);
    lh_device_destroy(&a->device);
    lh_mesh_destroy(&a->counting);
    lh_mesh_destroy(&a->mesh);
}

/* --- the reference --- */

static double *row_of(double *x, const stage *a, int t, int64_t b, int64_t position, int64_t h)
{
    return x + (b * a->s->n + position) * tensor_width(a, t) + h * a->s->width;
}

static double *mark_of(double *x, const stage *a, int64_t b, int64_t g, int64_t r)
{
    return x + ((b * a->s->kv_heads + g) * k_most(a->s) + r) * a->s->width;
}

/* First position of block r of head g. */
static int64_t block_start(const scene *s, int64_t g, int64_t r)
{
    return r * made_for(s) / k_of(s, g);
}

/* Landmarks of head g at this length. */
static int64_t used(const scene *s, int64_t g)
{
    int64_t n = 0;
    if (s->projection == LEARNED) return k_of(s, g);
    while (n < k_of(s, g) && block_start(s, g, n) < s->n) n++;
    return n;
}

/* The parameter that projects K (0) or V (1), as an input's number; a bias follows its weight. */
static int weight_of(const stage *a, int which)
{
    int one = a->s->projection == CONV ? 2 : 1;
    return PARAM + (a->params->count == one ? 0 : one * which);
}

/* Index of E[p, column of (g, r)]. */
static int64_t learned_at(const stage *a, int64_t g, int64_t r, int64_t p)
{
    const scene *s = a->s;
    int64_t columns = a->params->item[0]->whole.dim[1];
    int64_t column = r;
    for (int64_t i = 0; i < g && s->sharing == NONE; i++) column += k_of(s, i);
    return p * columns + column;
}

/* Index of W[channel o of head g, channel i, p - start of r]. */
static int64_t conv_at(const stage *a, int64_t g, int64_t r, const int64_t poi[3])
{
    int64_t kernel = made_for(a->s) / k_of(a->s, g);
    int64_t o = poi[1] + (a->s->sharing == NONE ? g * a->s->width : 0);
    return (o * a->s->width + poi[2]) * kernel + poi[0] - r * kernel;
}

/* One position's part of landmark r of head g; backward: of the gradients. */
static void dense_position(stage *a, int which, bool backward, const int64_t bgrp[4])
{
    const scene *s = a->s;
    int64_t b = bgrp[0];
    int64_t g = bgrp[1];
    int64_t r = bgrp[2];
    int64_t p = bgrp[3];
    int t = weight_of(a, which);
    const double *x = row_of(a->whole[K + which], a, K, b, p, g);
    double *dx = row_of(a->grad[K + which], a, K, b, p, g);
    double *y = mark_of(a->mark[which], a, b, g, r);
    const double *dy = mark_of(a->d_mark[which], a, b, g, r);
    int64_t end = block_start(s, g, r + 1) < s->n ? block_start(s, g, r + 1) : s->n;
    double mean = 1.0 / (double)(end - block_start(s, g, r));
    for (int64_t o = 0; o < s->width; o++) {
        bool conv = s->projection == CONV;
        for (int64_t i = conv ? 0 : o; i < (conv ? s->width : o + 1); i++) {
            int64_t at = conv ? conv_at(a, g, r, (int64_t[]){p, o, i}) : 0;
            if (s->projection == LEARNED) at = learned_at(a, g, r, p);
            double w = s->projection == MEAN ? mean : a->whole[t][at];
            if (!backward) {
                y[o] += w * x[i];
                continue;
            }
            dx[i] += w * dy[o];
            if (s->projection != MEAN) a->grad[t][at] += x[i] * dy[o];
        }
    }
}

static void dense_bias(stage *a, int which, bool backward, const int64_t bgr[3])
{
    const scene *s = a->s;
    int t = weight_of(a, which) + 1;
    int64_t start = s->sharing == NONE ? bgr[1] * s->width : 0;
    for (int64_t o = 0; o < s->width; o++)
        if (backward)
            a->grad[t][start + o] += mark_of(a->d_mark[which], a, bgr[0], bgr[1], bgr[2])[o];
        else
            mark_of(a->mark[which], a, bgr[0], bgr[1], bgr[2])[o] += a->whole[t][start + o];
}

static void dense_project(stage *a, int which, bool backward)
{
    const scene *s = a->s;
    bool blocks = s->projection != LEARNED;
    for (int64_t b = 0; b < batch_all(a); b++) {
        int64_t valid = s->has_valid ? s->valid[b % s->batch] : s->n;
        for (int64_t g = 0; g < s->kv_heads; g++)
            for (int64_t r = 0; r < used(s, g); r++) {
                int64_t end = blocks ? block_start(s, g, r + 1) : s->n;
                for (int64_t p = blocks ? block_start(s, g, r) : 0; p < end && p < valid; p++)
                    dense_position(a, which, backward, (int64_t[]){b, g, r, p});
                if (s->projection == CONV) dense_bias(a, which, backward, (int64_t[]){b, g, r});
            }
    }
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

/* One query: output, and what it adds to the gradients of q and of the landmarks. */
static void dense_query(stage *a, int64_t b, int64_t i, int64_t h)
{
    const scene *s = a->s;
    int64_t g = h / (s->heads / s->kv_heads);
    double scale = 1.0 / sqrt((double)s->width);
    double most = -HUGE_VAL;
    double sum = 0.0;
    const double *q = row_of(a->whole[Q], a, Q, b, i, h);
    const double *d_o = row_of(a->d_out, a, Q, b, i, h);
    double *o = row_of(a->out, a, Q, b, i, h);
    for (int64_t r = 0; r < used(s, g); r++) {
        a->p[r] = scale * dot(q, mark_of(a->mark[0], a, b, g, r), s->width);
        most = fmax(most, a->p[r]);
    }
    for (int64_t r = 0; r < used(s, g); r++) sum += a->p[r] = exp(a->p[r] - most);
    for (int64_t r = 0; r < used(s, g); r++) {
        a->p[r] /= sum;
        add(o, a->p[r], mark_of(a->mark[1], a, b, g, r), s->width);
    }
    double delta = dot(d_o, o, s->width);
    for (int64_t r = 0; r < used(s, g); r++) {
        double ds = scale * a->p[r] * (dot(d_o, mark_of(a->mark[1], a, b, g, r), s->width) - delta);
        add(mark_of(a->d_mark[1], a, b, g, r), a->p[r], d_o, s->width);
        add(mark_of(a->d_mark[0], a, b, g, r), ds, q, s->width);
        add(row_of(a->grad[Q], a, Q, b, i, h), ds, mark_of(a->mark[0], a, b, g, r), s->width);
    }
}

static void dense(stage *a)
{
    for (int which = 0; which < 2; which++) dense_project(a, which, false);
    for (int64_t b = 0; b < batch_all(a); b++)
        for (int64_t i = 0; i < a->s->n; i++)
            for (int64_t h = 0; h < a->s->heads; h++) dense_query(a, b, i, h);
    for (int which = 0; which < 2; which++) dense_project(a, which, true);
}

/* --- comparisons --- */

static double largest(const double *x, int64_t n)
{
    double most = 1e-3;
    for (int64_t i = 0; i < n; i++) most = fmax(most, fabs(x[i]));
    return most;
}

/* Largest error of local rows [B, s, width], of the largest entry of the whole. */
static double rows_error(const stage *a, int64_t width, const lh_real *mine, const double *whole)
{
    int rank = a->mesh->coord[LH_AXIS_SEQ];
    int64_t rows = a->layout->rows[rank];
    double error = 0.0;
    for (int64_t b = 0; b < a->s->batch; b++)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < width; i++) {
                int64_t position = lh_layout_position(a->layout, rank, r);
                double want = whole[((first_sequence(a) + b) * a->s->n + position) * width + i];
                double off = fabs((double)mine[(b * rows + r) * width + i] - want);
                error = off <= error ? error : off; /* NaN stays */
            }
    return error / largest(whole, batch_all(a) * a->s->n * width);
}

/* A parameter's gradient, summed over the axes along which it is replicated and over no other, is
 * the whole one: of E and F, which are sharded along the sequence, each rank has its own rows.
 * Collective. */
static lh_status param_error(const stage *a, int i, double *error)
{
    lh_status st = LH_OK;
    const lh_param *p = a->params->item[i];
    int t = PARAM + i;
    int64_t n = lh_shape_count(&p->shape);
    double *sum = NULL;
    *error = 0.0;
    LH_TRY(lh_new((size_t)n * sizeof *sum, &sum));
    for (int64_t e = 0; e < n; e++) sum[e] = (double)a->run.grad[t][e];
    for (int axis = 0; axis < LH_AXES; axis++)
        if (p->place.axis[axis].kind == LH_REPLICATE)
            lh_sum_f64(a->mesh->axis[axis], sum, n, LH_SEND_OTHER);
    for (int64_t e = 0; e < n; e++) {
        double off = fabs(sum[e] - a->grad[t][param_index(a, p, e)]);
        *error = off <= *error ? *error : off;
    }
    double most = largest(a->grad[t], lh_shape_count(&p->whole));
    /* a bias that all keys of a head get alike does not change the softmax: its gradient is 0 */
    if (p->whole.ndim == 1)
        most = fmax(most, largest(a->grad[t - 1], lh_shape_count(&a->params->item[i - 1]->whole)));
    *error /= most;
done:
    lh_free(&sum);
    return st;
}

static bool close_enough(const stage *a, const char *what, double error)
{
    /* projections sum over all positions before the softmax */
    double allowed = LH_TOL_ATTEND + lh_tol_sum((double)a->s->n);
    bool ok = error <= allowed;
    if (!ok)
        print_error("%s: %s is off by %.3g of the largest, allowed %.3g\n", a->s->name, what, error,
                    allowed);
    return ok;
}

static bool values_right(stage *a)
{
    static const char *const names[] = {"dq", "dk", "dv"};
    bool ok = close_enough(a, "o", rows_error(a, tensor_width(a, Q), a->run.out[0], a->out));
    for (int t = 0; t < PARAM; t++)
        ok = close_enough(a, names[t],
                          rows_error(a, tensor_width(a, t), a->run.grad[t], a->grad[t])) &&
             ok;
    for (int i = 0; i < a->params->count; i++) {
        double error = 0.0;
        ok = param_error(a, i, &error) == LH_OK && ok;
        ok = close_enough(a, a->params->item[i]->name, error) && ok;
    }
    return ok;
}

/* Payload of `steps` steps as predicted. A recomputed forward pass sums its landmarks again. */
static bool bytes_right(const stage *a, const lh_traffic *t, int64_t steps)
{
    lh_cost c = {0};
    if (a->ops->predict(&a->desc, a->mesh->size[LH_AXIS_SEQ], a->mesh->coord[LH_AXIS_SEQ], &c) !=
        LH_OK)
        return false;
    int64_t summary = c.summary_bytes + (a->s->segment ? c.again_bytes : 0);
    int64_t again = a->s->segment ? c.forward_bytes : 0;
    bool ok = t->bytes[LH_SEND_FORWARD] == steps * c.forward_bytes &&
              t->bytes[LH_SEND_BACKWARD] == steps * c.backward_bytes &&
              t->bytes[LH_SEND_SUMMARY] == steps * summary &&
              t->bytes[LH_SEND_RECOMPUTE] == steps * again &&
              lh_traffic_step(t) == steps * (c.forward_bytes + c.backward_bytes + summary + again);
    if (!ok)
        print_error("%s: sent %lld, %lld, %lld; expected %lld times %lld, %lld, %lld\n", a->s->name,
                    (long long)t->bytes[LH_SEND_FORWARD], (long long)t->bytes[LH_SEND_BACKWARD],
                    (long long)t->bytes[LH_SEND_SUMMARY], (long long)steps,
                    (long long)c.forward_bytes, (long long)c.backward_bytes, (long long)summary);
    return ok;
}

/* Rows of E that change ranks, by brute force over the positions; summaries by definition. */
static bool predicted_right(const stage *a)
{
    lh_cost c = {0};
    const scene *s = a->s;
    int rank = a->mesh->coord[LH_AXIS_SEQ];
    int64_t sent = 0;
    int64_t received = 0;
    int64_t marks = 0;
    if (a->ops->predict(&a->desc, a->mesh->size[LH_AXIS_SEQ], rank, &c) != LH_OK) return false;
    for (int64_t p = 0; p < s->n && a->table != NULL && s->projection == LEARNED; p++) {
        bool had = lh_layout_row(a->table, rank, p) >= 0;
        bool has = lh_layout_row(a->layout, rank, p) >= 0;
        sent += had && !has;
        received += has && !had;
    }
    int64_t row = 0;
    for (int i = 0; i < a->params->count && s->projection == LEARNED; i++)
        row += a->params->item[i]->whole.dim[1];
    for (int64_t g = 0; g < s->kv_heads; g++) marks += used(s, g);
    int64_t real = (int64_t)sizeof(lh_real);
    int64_t summary = a->mesh->size[LH_AXIS_SEQ] > 1 ? 4 * s->batch * marks * s->width * real : 0;
    double flops = c.forward_flops + c.backward_flops;
    return c.forward_bytes == sent * row * real && c.backward_bytes == received * row * real &&
           c.summary_bytes == summary && c.again_bytes == summary / 2 &&
           (s->segment || a->count->flops == flops);
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
    lh_assert_all(c, predicted_right(&a));
    lh_assert_all(c, s->has_valid || a.device->flops == 2.0 * a.count->flops);
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

static void gradients_by_differences(void **state)
{
    lh_comm *c = *state;
    if (sizeof(lh_real) != sizeof(double)) {
        if (lh_comm_rank(c) == 0) print_message("[  SKIPPED ] differences are checked in double\n");
        return;
    }
    for (size_t i = 0; i < sizeof scenes / sizeof scenes[0]; i++) {
        stage a;
        double slope = 0.0;
        double moved = 0.0;
        if (scenes[i].n > 70) continue; /* the others are of the same kinds */
        lh_assert_all_ok(c, stage_open(c, &scenes[i], &a));
        lh_assert_all_ok(c, lh_gradcheck_taylor(&a.run, 1e-3, &slope, &moved));
        if (lh_comm_rank(c) == 0) print_message("  %s: slope %.3f\n", scenes[i].name, slope);
        lh_assert_all(c, slope >= LH_TOL_TAYLOR_SLOPE && moved > 0.0);
        stage_close(&a);
    }
}

/* Counted bytes of one step at a length. */
static void sent_at(lh_comm *c, int64_t n, projection how, int64_t *bytes)
{
    stage a;
    scene s = {.name = "length",
               SIZES(2, n, 16, 4, 2, 8, LH_TEST_ALIGNED),
               .projection = how,
               .sharing = HEADWISE,
               .k = {16}};
    lh_assert_all_ok(c, stage_open(c, &s, &a));
    lh_assert_all_ok(c, lh_gradcheck_step(&a.run));
    *bytes = lh_traffic_step(a.mesh->traffic);
    stage_close(&a);
}

/* What the mechanism is for: the same bytes at any length, and no rank holds all of E. */
static void bytes_do_not_grow(void **state)
{
    lh_comm *c = *state;
    for (int i = LEARNED; i <= CONV; i++) {
        projection p = (projection)i;
        int64_t at[3] = {0};
        sent_at(c, 64, p, &at[0]);
        sent_at(c, 128, p, &at[1]);
        sent_at(c, 384, p, &at[2]);
        int64_t want = 2 * 2 * 2 * 16 * 2 * 8 * (int64_t)sizeof(lh_real);
        lh_assert_all(c, at[0] == (lh_comm_size(c) > 1 ? want : 0));
        lh_assert_all(c, at[1] == at[0] && at[2] == at[0]);
    }
}

/* --- memory: counted for one rank of many, without them --- */

typedef struct measured {
    int64_t step, params; /* bytes of the middle rank */
    int64_t scratch;      /* of the tile kernels, the same on any rank; part of step */
} measured;

static lh_status memory_record(const stage *a, lh_tape *t)
{
    lh_status st = LH_OK;
    static const char data = 0; /* stands for addresses that the device count never reads */
    const scene *s = a->s;
    int64_t rows = a->layout->rows[a->mesh->coord[LH_AXIS_SEQ]];
    lh_var in[PARAM];
    lh_var out;
    const void *seed = &data;
    for (int i = 0; i < PARAM; i++)
        LH_TRY(lh_tape_leaf(
            t, &data, (void *)(uintptr_t)&data,
            lh_shape_4(LH_REAL, s->batch, rows, i == Q ? s->heads : s->kv_heads, s->width),
            lh_place_tokens(a->layout), &in[i]));
    const lh_qkv qkv = {
        .x = in[Q], .q = in[Q], .k = in[K], .v = in[V], .mesh = a->mesh, .plans = a->plans};
    LH_TRY(a->ops->forward(a->state, t, &qkv, &out));
    LH_TRY(lh_tape_backward_from(t, 1, &out, &seed));
done:
    return st;
}

static lh_status memory_measure(const scene *s, int ranks, measured *out)
{
    lh_status st = LH_OK;
    lh_tape *tape = NULL;
    lh_memory *memory = NULL;
    stage a = {.s = s};
    LH_TRY(lh_mesh_create_counting(1, ranks, ranks / 2, &a.mesh));
    LH_TRY(lh_device_create_count(lh_test_isa(), 1, &a.device));
    LH_TRY(lh_plan_cache_create(&a.plans));
    LH_TRY(lh_test_layout(s->layout, s->n, ranks, s->chunk, &a.layout));
    LH_TRY(stage_mechanism(&a));
    LH_TRY(lh_params_allocate(a.params, true));
    LH_TRY(lh_tape_create(a.mesh->size, a.mesh->coord, &tape));
    LH_TRY(lh_memory_create(&memory));
    LH_TRY(lh_memory_count_begin(memory));
    lh_tape_reset(tape, a.device, memory, true);
    LH_TRY(memory_record(&a, tape));
    LH_TRY(lh_memory_count_end(memory));
    out->step = lh_memory_peak(memory);
    out->params = (int64_t)lh_params_bytes(a.params);
    const lh_attend_room room = {.width = s->width, .k_rows = k_most(s), .backward = true};
    out->scratch = (int64_t)lh_attend_scratch(a.device, &room);
done:
    lh_memory_destroy(&memory);
    lh_tape_destroy(&tape);
    if (a.state != NULL) a.ops->destroy(&a.state);
    lh_params_destroy(&a.params);
    lh_config_destroy(&a.config);
    lh_layout_destroy(&a.layout);
    lh_plan_cache_destroy(&a.plans);
    lh_device_destroy(&a.device);
    lh_mesh_destroy(&a.mesh);
    return st;
}

/* The same shard of a four times longer sequence on four times the ranks needs no more, of the step
 * and of E and F; the same sequence on four times the ranks a quarter, but for the landmarks. */
static void memory_follows_the_shard(void **state)
{
    lh_comm *c = *state;
    for (int i = LEARNED; i <= MEAN; i++) {
        measured one = {0};
        measured more = {0};
        scene s = {.name = "memory",
                   SIZES(2, 1024, 16, 4, 2, 16, LH_TEST_ALIGNED),
                   .projection = (projection)i,
                   .sharing = HEADWISE,
                   .k = {8}};
        lh_assert_all_ok(c, memory_measure(&s, 4, &one));
        s.n *= 4;
        lh_assert_all_ok(c, memory_measure(&s, 16, &more));
        lh_assert_all(c, more.step <= one.step && more.params == one.params);
        s.n /= 4;
        lh_assert_all_ok(c, memory_measure(&s, 16, &more));
        int64_t marks = 2 * s.batch * s.kv_heads * 8 * s.width * (int64_t)sizeof(lh_real);
        lh_assert_all(c, 4 * (more.step - more.scratch) <=
                             one.step - one.scratch + 3 * 8 * marks + 4096);
        lh_assert_all(c, 4 * more.params <= one.params + 1024);
    }
}

/* --- settings, parameters and what is refused --- */

typedef struct wrong {
    scene s;
    const char *k;
    lh_status code;
    const char *text; /* part of the message */
} wrong;

static const wrong wrongs[] = {
    {{SIZES(1, 60, 8, 4, 4, 8, LH_TEST_EVEN), .sharing = NONE},
     "[[4, 5, 6]]",
     LH_ERR_USAGE,
     "4 key/value heads"},
    {{SIZES(1, 60, 8, 2, 2, 8, LH_TEST_EVEN), .sharing = HEADWISE},
     "[[4, 5]]",
     LH_ERR_USAGE,
     "sharing: none"},
    {{SIZES(1, 60, 8, 2, 2, 8, LH_TEST_EVEN), .sharing = LAYERWISE},
     "[[4, 5]]",
     LH_ERR_USAGE,
     "sharing: none"},
    {{SIZES(1, 60, 8, 2, 2, 8, LH_TEST_EVEN), .projection = CONV},
     "7",
     LH_ERR_USAGE,
     "must divide"},
    {{SIZES(1, 60, 8, 2, 2, 8, LH_TEST_EVEN), .projection = CONV},
     "[[6, 10]]",
     LH_ERR_USAGE,
     "one kernel"},
    {{SIZES(1, 60, 8, 2, 2, 8, LH_TEST_EVEN), .projection = MEAN},
     "61",
     LH_ERR_USAGE,
     "make k smaller"},
    {{SIZES(1, 60, 8, 2, 2, 8, LH_TEST_EVEN), .made = 50},
     "4",
     LH_ERR_USAGE,
     "raise model.max_length"},
    {{SIZES(1, 60, 8, 14, 14, 8, LH_TEST_EVEN), .sharing = NONE},
     "[[1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2]]",
     LH_ERR_UNSUP,
     "side by side"},
};

static void refuses_settings(void **state)
{
    lh_comm *c = *state;
    for (size_t i = 0; i < sizeof wrongs / sizeof wrongs[0]; i++) {
        const scene *s = &wrongs[i].s;
        lh_config *config = NULL;
        lh_layout *layout = NULL;
        lh_layout *table = NULL;
        lh_device *device = NULL;
        lh_params *params = NULL;
        lh_cost cost;
        void *made = NULL;
        lh_assert_all_ok(c, config_of(s, 1, wrongs[i].k, "", &config));
        lh_assert_all_ok(c, lh_test_layout(s->layout, s->n, 1, s->chunk, &layout));
        lh_assert_all_ok(c, lh_test_layout(s->layout, made_for(s), 1, s->chunk, &table));
        lh_assert_all_ok(c, lh_device_create_cpu(lh_test_isa(), 1, &device));
        lh_assert_all_ok(c, lh_params_create(device, (int[]){0, 0}, &params));
        lh_attn_desc d = describe(s, config, layout, table);
        const lh_attn_ops *ops = config->model.attention[0].ops;
        d.params = params;
        lh_assert_all_code(c, ops->parameters(&d, params), wrongs[i].code);
        lh_assert_all(c, strstr(lh_error_text(), wrongs[i].text) != NULL);
        lh_assert_all(c, ops->create(&d, &made) != LH_OK && made == NULL);
        lh_assert_all(c, ops->predict(&d, 1, 0, &cost) != LH_OK);
        lh_params_destroy(&params);
        lh_device_destroy(&device);
        lh_layout_destroy(&table);
        lh_layout_destroy(&layout);
        lh_config_destroy(&config);
    }
}

static void refuses_forms(void **state)
{
    lh_comm *c = *state;
    const lh_attn_ops *ops = lh_attn_find("linformer");
    lh_attn_desc d = {.heads = 2, .kv_heads = 2, .head_width = 8};
    lh_config *config = NULL;
    lh_assert_all(c, ops != NULL);
    if (ops == NULL) return;
    d.causal = true;
    lh_assert_all_code(c, lh_attn_check(ops, &d), LH_ERR_UNSUP);
    lh_assert_all(c, strstr(lh_error_text(), "see the future") != NULL);
    d.causal = false;
    lh_assert_all_ok(c, lh_attn_check(ops, &d));
    d.relative = true;
    lh_assert_all_code(c, lh_attn_check(ops, &d), LH_ERR_UNSUP);
    lh_assert_all(c, strstr(lh_error_text(), "no distance to a landmark") != NULL);
    d.relative = false;
    d.documents = true;
    lh_assert_all_code(c, lh_attn_check(ops, &d), LH_ERR_UNSUP);
    lh_assert_all(c, strstr(lh_error_text(), "see each other") != NULL);
    const scene s = {SIZES(1, 60, 8, 2, 2, 8, LH_TEST_EVEN), .sharing = HEADWISE};
    lh_assert_all_code(c, config_of(&s, 1, "0", "", &config), LH_ERR_USAGE);
    lh_assert_all_code(c, config_of(&s, 1, "8", ", window: 3", &config), LH_ERR_USAGE);
}

/* Declares `layers` layers; *count parameters and *elements of them result. */
static lh_status declared(const scene *s, int layers, const char *k, int64_t *count,
                          int64_t *elements)
{
    lh_status st = LH_OK;
    lh_config *config = NULL;
    lh_layout *layout = NULL;
    lh_device *device = NULL;
    lh_params *params = NULL;
    LH_TRY(config_of(s, layers, k, "", &config));
    LH_TRY(lh_test_layout(s->layout, s->n, 1, s->chunk, &layout));
    LH_TRY(lh_device_create_cpu(lh_test_isa(), 1, &device));
    LH_TRY(lh_params_create(device, (int[]){0, 0}, &params));
    for (int i = 0; i < layers; i++) {
        lh_attn_desc d = describe(s, config, layout, layout);
        d.layer = i;
        d.settings = config->model.attention[i].settings;
        LH_TRY(config->model.attention[i].ops->parameters(&d, params));
    }
    *count = params->count;
    *elements = lh_params_total(params);
done:
    lh_params_destroy(&params);
    lh_device_destroy(&device);
    lh_layout_destroy(&layout);
    lh_config_destroy(&config);
    return st;
}

/* The paper's table of sharing: numbers of matrices and of elements. */
static void parameters_follow_the_sharing(void **state)
{
    lh_comm *c = *state;
    scene s = {SIZES(1, 60, 8, 4, 4, 8, LH_TEST_EVEN)};
    static const int64_t counts[] = {6, 6, 3, 1};
    static const int64_t sizes[] = {2 * 4 * 3 * 60 * 10, 2 * 3 * 60 * 10, 3 * 60 * 10, 60 * 10};
    int64_t count = 0;
    int64_t elements = 0;
    for (int i = NONE; i <= LAYERWISE; i++) {
        s.sharing = (sharing)i;
        lh_assert_all_ok(c, declared(&s, 3, "10", &count, &elements));
        lh_assert_all(c, count == counts[i] && elements == sizes[i]);
    }
    lh_assert_all_code(c, declared(&s, 3, "[10, 10, 5]", &count, &elements), LH_ERR_USAGE);
    lh_assert_all(c, strstr(lh_error_text(), "sharing: headwise") != NULL);
    s.sharing = HEADWISE; /* k may fall with the layer */
    lh_assert_all_ok(c, declared(&s, 3, "[10, 10, 5]", &count, &elements));
    lh_assert_all(c, elements == 2 * 60 * 25);
    s.projection = CONV;
    s.sharing = LAYERWISE;
    lh_assert_all_ok(c, declared(&s, 3, "10", &count, &elements));
    lh_assert_all(c, count == 2 && elements == 8 * 8 * 6 + 8);
    s.projection = MEAN;
    lh_assert_all_ok(c, declared(&s, 3, "10", &count, &elements));
    lh_assert_all(c, count == 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_dense),
        cmocka_unit_test(gradients_by_differences),
        cmocka_unit_test(bytes_do_not_grow),
        cmocka_unit_test(memory_follows_the_shard),
        cmocka_unit_test(refuses_settings),
        cmocka_unit_test(refuses_forms),
        cmocka_unit_test(parameters_follow_the_sharing),
    };
    return lh_test_mpi_main(argc, argv, "linformer", tests, sizeof tests / sizeof tests[0]);
}
