/* Rank invariance (README, invariant 1): the same model on these ranks and on one: the loss, and every
 * parameter's gradient. Each rank computes the reference by itself, on a mesh of one. */
#include <stdio.h>
#include <string.h>

#include "attention/window_settings.h"
#include "tests/lh_model_test.h"
#include "tests/tol.h"

/* One case; zeros mean the usual: batch 2, chunk 16, 2 layers of width 16 with 4 heads, layer norm
 * before, rotary. */
typedef struct invariance_case {
    const char *mechanism;
    int64_t window;
    int kind; /* lh_model_kind */
    int64_t n, chunk, batch, kv_heads;
    int heads; /* 0: 4 */
    int ways;  /* attention by heads, as lh_rig_ways */
    int data;  /* ranks along the data axis; left out where it does not divide the ranks */
    bool unaligned, post, swiglu, untied;
    int norm_kind, position, recompute;
    double dropout;
    int64_t labels_from, labels_to;
    const int64_t *valid;
    int head, pool; /* lh_head_kind, lh_pool_kind */
    bool pooler, transform,
        extras;       /* extras: token types, unused positions, another eps and base */
    const char *last; /* mechanism of the last layer; NULL: as the others */
} invariance_case;

static void case_desc(const invariance_case *v, lh_window_settings *settings, lh_rig_desc *d)
{
    *d = (lh_rig_desc){.batch = v->batch > 0 ? v->batch : 2,
                       .length = v->n,
                       .chunk = v->chunk > 0 ? v->chunk : 16,
                       .unaligned = v->unaligned,
                       .ways = v->ways,
                       .recompute = v->recompute,
                       .training = v->dropout > 0.0,
                       .seed = 7,
                       .labels_from = v->labels_from,
                       .labels_to = v->labels_to,
                       .valid = v->valid};
    d->model = (lh_model_desc){.kind = v->kind,
                               .head = v->head,
                               .pool = v->pool,
                               .classes = 5,
                               .pooler = v->pooler,
                               .head_transform = v->transform,
                               .vocab = 31,
                               .layers = 2,
                               .width = 16,
                               .heads = v->heads > 0 ? v->heads : 4,
                               .kv_heads = v->kv_heads > 0 ? v->kv_heads
                                           : v->heads > 0  ? v->heads
                                                           : 4,
                               .head_width = 4,
                               .mlp = v->swiglu ? LH_ACT_SWIGLU : LH_ACT_GELU,
                               .mlp_width = 32,
                               .norm = v->post ? LH_NORM_POST : LH_NORM_PRE,
                               .norm_kind = v->norm_kind,
                               .position = v->position,
                               .tie_embeddings = !v->untied,
                               .bias = v->norm_kind == LH_NORM_LAYER,
                               .dropout = v->dropout};
    *settings = lh_window_plain(v->window);
    for (int l = 0; l < d->model.layers; l++)
        d->model.attention[l] = (lh_attn_choice){lh_attn_find(v->mechanism), settings};
    if (v->last != NULL) d->model.attention[1].ops = lh_attn_find(v->last);
    if (!v->extras) return;
    d->model.token_types = 2;
    d->model.position_offset = 2;
    d->model.norm_eps = 1e-3;
    d->model.rotary_base = 500.0;
}

/* Loss and whole gradients of one step on a mesh; *grads is the caller's. */
static void run(lh_comm *c, const lh_rig_desc *d, lh_mesh *mesh, lh_rig *r, double *loss,
                double **grads)
{
    int32_t *tokens = NULL;
    int32_t *labels = NULL;
    lh_assert_all_ok(c, lh_rig_open(r, d, mesh));
    lh_assert_all_ok(c, lh_rig_text(d, 11, &tokens, &labels));
    lh_rig_load(r, tokens, labels);
    lh_assert_all_ok(c, lh_rig_step(r, loss));
    lh_assert_all_ok(c, lh_new((size_t)lh_params_total(r->params) * sizeof **grads, grads));
    lh_assert_all_ok(c, lh_rig_get_all(r, LH_RIG_GRAD, *grads));
    lh_free(&tokens);
    lh_free(&labels);
}

static void check(lh_comm *c, const invariance_case *v)
{
    lh_rig_desc d;
    lh_window_settings settings;
    lh_mesh *mesh[2] = {NULL, NULL};
    lh_rig r[2];
    double loss[2];
    double *grads[2] = {NULL, NULL};
    int data = v->data > 0 ? v->data : 1;
    if (lh_comm_size(c) % data != 0) return;
    case_desc(v, &settings, &d);
    lh_assert_all_ok(c, lh_mesh_create_self(&mesh[0]));
    lh_assert_all_ok(c, lh_mesh_create(data, &mesh[1]));
    lh_assert_all_ok(c, lh_mesh_split(mesh[1], lh_rig_ways(v->ways, lh_comm_size(c) / data)));
    for (int i = 0; i < 2; i++) run(c, &d, mesh[i], &r[i], &loss[i], &grads[i]);
    bool close = lh_test_within(loss[1], loss[0], LH_TOL_LOSS, 0.0) &&
                 lh_rig_grads_agree(r[0].params, grads[1], grads[0]);
    if (!close)
        print_error(
            "%s window %lld, %s, N %lld chunk %lld data %d ways %d: loss %.17g, on one rank "
            "%.17g\n",
            v->mechanism, (long long)v->window, v->kind == LH_MODEL_DECODER ? "decoder" : "encoder",
            (long long)v->n, (long long)d.chunk, data, v->ways, loss[1], loss[0]);
    lh_assert_all(c, close);
    for (int i = 0; i < 2; i++) {
        lh_free(&grads[i]);
        lh_rig_close(&r[i]);
        lh_mesh_destroy(&mesh[i]);
    }
}

/* For full attention, and for windows shorter than a shard, longer than a shard, longer than the
 * sequence. */
static void check_mechanisms(lh_comm *c, invariance_case v)
{
    const int64_t windows[] = {v.n / 25, v.n / 3 + 1, 2 * v.n};
    v.mechanism = "full";
    check(c, &v);
    v.mechanism = "sliding_window";
    for (size_t i = 0; i < sizeof windows / sizeof windows[0]; i++) {
        v.window = windows[i];
        check(c, &v);
    }
}

#define CASE(...)                                                                                  \
    (invariance_case)                                                                              \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }
#define ROTARY .position = LH_POSITION_ROTARY

static void test_length_1009_chunks(void **state)
{
    check_mechanisms(*state, CASE(ROTARY, .n = 1009, .kv_heads = 2));
    check_mechanisms(*state, CASE(ROTARY, .n = 1009, .batch = 1, .kind = LH_MODEL_ENCODER));
}

static void test_length_1009_unaligned(void **state)
{
    check_mechanisms(*state, CASE(ROTARY, .n = 1009, .batch = 1, .unaligned = true));
    check_mechanisms(*state, CASE(ROTARY, .n = 1009, .batch = 1, .unaligned = true,
                                  .kind = LH_MODEL_ENCODER, .kv_heads = 1));
}

/* Fewer tokens than ranks, ranks without tokens, one token. */
static void test_few_tokens(void **state)
{
    for (int kind = LH_MODEL_DECODER; kind <= LH_MODEL_ENCODER; kind++) {
        check_mechanisms(*state, CASE(ROTARY, .n = 3, .chunk = 1, .kind = kind));
        check_mechanisms(*state,
                         CASE(.n = 3, .chunk = 1, .kind = kind, .position = LH_POSITION_LEARNED));
        check_mechanisms(*state, CASE(ROTARY, .n = 1, .kind = kind));
        check_mechanisms(*state,
                         CASE(ROTARY, .n = 40, .kind = kind, .kv_heads = 2)); /* three chunks */
    }
}

static void test_labels_on_some_ranks(void **state)
{
    check_mechanisms(*state, CASE(ROTARY, .n = 101, .labels_to = 7));
    check_mechanisms(*state, CASE(ROTARY, .n = 101, .labels_from = 90, .kind = LH_MODEL_ENCODER));
}

static void test_data_axis(void **state)
{
    for (int data = 2; data <= 4; data += 2) {
        check_mechanisms(*state, CASE(ROTARY, .n = 101, .data = data, .batch = 4));
        check_mechanisms(*state, CASE(.n = 101, .data = data, .batch = 4, .dropout = 0.2,
                                      .kind = LH_MODEL_ENCODER, .position = LH_POSITION_LEARNED));
    }
}

/* A parameter sharded by position, dropout, sinusoids, none. */
static void test_positions_and_dropout(void **state)
{
    for (int position = LH_POSITION_NONE; position <= LH_POSITION_ROTARY; position++)
        check_mechanisms(*state, CASE(.n = 101, .position = position,
                                      .post = position == LH_POSITION_LEARNED, .dropout = 0.1));
}

static void test_recompute(void **state)
{
    check_mechanisms(*state, CASE(ROTARY, .n = 101, .recompute = LH_RECOMPUTE_BLOCK, .dropout = 0.1,
                                  .kv_heads = 2));
    check_mechanisms(*state, CASE(ROTARY, .n = 101, .recompute = LH_RECOMPUTE_ATTENTION,
                                  .kind = LH_MODEL_ENCODER, .post = true));
}

static void test_rms_swiglu(void **state)
{
    check_mechanisms(*state, CASE(ROTARY, .n = 101, .norm_kind = LH_NORM_RMS, .swiglu = true,
                                  .untied = true, .kv_heads = 1));
}

/* Sequences that end early: keys past the end are not seen. */
static void test_valid_positions(void **state)
{
    const int64_t valid[] = {101, 37};
    check_mechanisms(*state, CASE(ROTARY, .n = 101, .valid = valid, .kind = LH_MODEL_ENCODER));
    check_mechanisms(*state, CASE(ROTARY, .n = 101, .valid = valid));
}

/* One row for each sequence, summed over ranks; its loss is counted once. */
static void test_sequence_heads(void **state)
{
    const int64_t valid[] = {101, 37, 60, 1};
    for (int pool = LH_POOL_FIRST; pool <= LH_POOL_MEAN; pool++) {
        invariance_case v = CASE(ROTARY, .n = 101, .kind = LH_MODEL_ENCODER, .head = LH_HEAD_CLASS,
                                 .pool = pool, .pooler = pool == LH_POOL_FIRST);
        check_mechanisms(*state, v);
        v.valid = valid;
        v.batch = 4;
        v.mechanism = "full";
        for (v.data = 1; v.data <= 4; v.data *= 2) check(*state, &v);
        v = CASE(ROTARY, .n = 3, .chunk = 1, .kind = LH_MODEL_ENCODER, .head = LH_HEAD_CLASS,
                 .pool = pool, .pooler = true);
        check_mechanisms(*state, v); /* ranks without tokens */
    }
}

/* Layers of different mechanisms. */
static void test_mixed_mechanisms(void **state)
{
    invariance_case v = CASE(.mechanism = "sliding_window", .last = "full", .window = 9, .n = 101,
                             .kind = LH_MODEL_ENCODER, .position = LH_POSITION_LEARNED);
    check(*state, &v);
    v.head = LH_HEAD_CLASS;
    check(*state, &v);
    v.recompute = LH_RECOMPUTE_BLOCK;
    v.pool = LH_POOL_MEAN;
    check(*state, &v);
}

/* What published models have besides. */
static void test_extras(void **state)
{
    check_mechanisms(*state, CASE(.n = 101, .kind = LH_MODEL_ENCODER, .extras = true, .post = true,
                                  .position = LH_POSITION_LEARNED, .transform = true));
    check_mechanisms(*state, CASE(ROTARY, .n = 101, .extras = true, .norm_kind = LH_NORM_RMS));
}

/* Attention by heads, over all ranks or two at a time with a ring: as many heads as ranks, fewer, more;
 * key/value heads on several ranks; ranks without tokens and without heads; recomputed blocks; data. */
static void test_by_heads(void **state)
{
    const invariance_case cases[] = {
        CASE(ROTARY, .n = 211, .heads = 8, .kv_heads = 2),
        CASE(ROTARY, .n = 211, .heads = 3, .kv_heads = 1, .unaligned = true,
             .kind = LH_MODEL_ENCODER),
        CASE(.n = 3, .chunk = 1, .heads = 6, .kv_heads = 3, .position = LH_POSITION_RELATIVE),
        CASE(ROTARY, .n = 101, .batch = 4, .data = 2, .recompute = LH_RECOMPUTE_BLOCK,
             .dropout = 0.1),
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int k = 0; k < 4; k++) {
            invariance_case v = cases[i];
            v.ways = k / 2 == 0 ? LH_RIG_ALL : 2;
            v.mechanism = k % 2 == 0 ? "full" : "sliding_window";
            v.window = v.n / 5;
            check(*state, &v);
        }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_length_1009_chunks), cmocka_unit_test(test_length_1009_unaligned),
        cmocka_unit_test(test_few_tokens),         cmocka_unit_test(test_labels_on_some_ranks),
        cmocka_unit_test(test_data_axis),          cmocka_unit_test(test_positions_and_dropout),
        cmocka_unit_test(test_recompute),          cmocka_unit_test(test_rms_swiglu),
        cmocka_unit_test(test_valid_positions),    cmocka_unit_test(test_sequence_heads),
        cmocka_unit_test(test_mixed_mechanisms),   cmocka_unit_test(test_extras),
        cmocka_unit_test(test_by_heads),
    };
    return lh_test_mpi_main(argc, argv, "invariance", tests, sizeof tests / sizeof tests[0]);
}
