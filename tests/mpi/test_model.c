/* What a model's step promises besides its numbers: the same bits twice (README, invariant 2), gradients
 * by differences (4), bytes as predicted (5), memory that shrinks with the ranks (6), no allocation from the second step on. */
#include "attention/window_settings.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/random.h"
#include "tests/lh_model_test.h"
#include "tests/tol.h"

static lh_rig_desc small_model(int kind, const char *mechanism, lh_window_settings *settings)
{
    lh_rig_desc d = {.batch = 2, .length = 203, .chunk = 16, .seed = 3, .training = true};
    d.model = (lh_model_desc){.kind = kind,
                              .head = LH_HEAD_LM,
                              .vocab = 61,
                              .layers = 2,
                              .width = 24,
                              .heads = 4,
                              .kv_heads = 2,
                              .head_width = 6,
                              .mlp = LH_ACT_GELU,
                              .mlp_width = 48,
                              .position = LH_POSITION_LEARNED,
                              .tie_embeddings = true,
                              .bias = true,
                              .dropout = 0.1};
    for (int l = 0; l < d.model.layers; l++)
        d.model.attention[l] = (lh_attn_choice){lh_attn_find(mechanism), settings};
    return d;
}

/* --- repeatability --- */

enum { STEPS = 3 };

typedef struct outcome {
    double loss[STEPS], norm[STEPS];
    double *grads, *weights; /* of the first step; after the last */
    int64_t allocations;     /* in the steps after the first */
    size_t bytes;            /* of grads and of weights */
} outcome;

static void train(lh_comm *c, const lh_rig_desc *d, lh_mesh *mesh, outcome *out)
{
    const lh_optimizer adamw = {
        .lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1.0};
    int32_t *tokens = NULL;
    int32_t *labels = NULL;
    lh_rig r;
    int64_t before = 0;
    lh_assert_all_ok(c, lh_rig_open(&r, d, mesh));
    lh_assert_all_ok(c, lh_rig_text(d, 5, &tokens, &labels));
    lh_rig_load(&r, tokens, labels);
    out->bytes = (size_t)lh_params_total(r.params) * sizeof *out->grads;
    lh_assert_all_ok(c, lh_new(out->bytes, &out->grads));
    lh_assert_all_ok(c, lh_new(out->bytes, &out->weights));
    for (int t = 0; t < STEPS; t++) {
        lh_assert_all_ok(c, lh_rig_step(&r, &out->loss[t]));
        if (t == 0) lh_assert_all_ok(c, lh_rig_get_all(&r, LH_RIG_GRAD, out->grads));
        lh_assert_all_ok(c, lh_rig_update(&r, &adamw, t + 1, &out->norm[t]));
        if (t == 0) before = lh_new_count();
    }
    out->allocations = lh_new_count() - before;
    lh_assert_all_ok(c, lh_rig_get_all(&r, LH_RIG_VALUE, out->weights));
    lh_free(&tokens);
    lh_free(&labels);
    lh_rig_close(&r);
}

static bool same_bits(const outcome *a, const outcome *b)
{
    /* the representation is what must be equal: NOLINTBEGIN(bugprone-suspicious-memory-comparison) */
    return memcmp(a->loss, b->loss, sizeof a->loss) == 0 &&
           memcmp(a->norm, b->norm, sizeof a->norm) == 0 &&
           memcmp(a->grads, b->grads, a->bytes) == 0 &&
           memcmp(a->weights, b->weights, a->bytes) == 0;
    /* NOLINTEND(bugprone-suspicious-memory-comparison) */
}

/* Once, again, and on the device that finds missing copies: the same bits, no allocations. */
static void check_bits(lh_comm *c, lh_rig_desc *d, int data)
{
    lh_mesh *mesh = NULL;
    outcome out[3];
    lh_assert_all_ok(c, lh_mesh_create(data, &mesh));
    for (int i = 0; i < 3; i++) {
        d->poison = i == 2;
        train(c, d, mesh, &out[i]);
        lh_assert_all(c, out[i].allocations == 0);
    }
    for (int i = 1; i < 3; i++) lh_assert_all(c, same_bits(&out[i], &out[0]));
    lh_assert_all(c, out[0].loss[STEPS - 1] < out[0].loss[0]); /* it does learn */
    for (int i = 0; i < 3; i++) {
        lh_free(&out[i].grads);
        lh_free(&out[i].weights);
    }
    lh_mesh_destroy(&mesh);
}

static void test_same_bits_twice(void **state)
{
    lh_comm *c = *state;
    lh_window_settings w = lh_window_plain(70);
    for (int data = 1; data <= 2; data++) {
        if (lh_comm_size(c) % data != 0) continue;
        for (int kind = LH_MODEL_DECODER; kind <= LH_MODEL_ENCODER; kind++) {
            lh_rig_desc d =
                small_model(kind, kind == LH_MODEL_DECODER ? "sliding_window" : "full", &w);
            d.recompute = data == 2 ? LH_RECOMPUTE_BLOCK : LH_RECOMPUTE_NONE;
            check_bits(c, &d, data);
        }
        lh_rig_desc d = small_model(LH_MODEL_ENCODER, "full", &w);
        d.model.head = LH_HEAD_CLASS;
        d.model.classes = 3;
        d.model.pooler = true;
        d.model.pool = data == 1 ? LH_POOL_MEAN : LH_POOL_FIRST;
        check_bits(c, &d, data);
    }
}

/* --- the reduction behind the backward pass --- */

/* The reduced gradients of one step. */
static void reduced(lh_comm *c, const lh_rig_desc *d, lh_mesh *mesh, double **out, int64_t *n)
{
    int32_t *tokens = NULL;
    int32_t *labels = NULL;
    double loss = 0.0;
    lh_rig r;
    lh_assert_all_ok(c, lh_rig_open(&r, d, mesh));
    lh_assert_all_ok(c, lh_rig_text(d, 5, &tokens, &labels));
    lh_rig_load(&r, tokens, labels);
    *n = lh_params_total(r.params);
    lh_assert_all_ok(c, lh_new((size_t)*n * sizeof **out, out));
    lh_assert_all_ok(c, lh_rig_step(&r, &loss));
    lh_assert_all(c, mesh->traffic->open == 0);
    lh_assert_all_ok(c, lh_rig_get_all(&r, LH_RIG_GRAD, *out));
    lh_free(&tokens);
    lh_free(&labels);
    lh_rig_close(&r);
}

/* Behind the backward pass, in small buckets, as after it in large ones: the same bits on up to two
 * ranks, where a sum has one order only. */
static void check_behind(lh_comm *c, lh_rig_desc *d, int data)
{
    const int64_t buckets[] = {61, 1000};
    lh_mesh *mesh = NULL;
    double *want = NULL;
    int64_t n = 0;
    double largest = 0.0;
    lh_assert_all_ok(c, lh_mesh_create(data, &mesh));
    d->after = true;
    d->bucket = 0;
    reduced(c, d, mesh, &want, &n);
    d->after = false;
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs(want[i]));
    for (int b = 0; b < 2; b++) {
        double *got = NULL;
        double worst = 0.0;
        d->bucket = buckets[b];
        reduced(c, d, mesh, &got, &n);
        for (int64_t i = 0; i < n; i++) worst = fmax(worst, fabs(got[i] - want[i]));
        lh_assert_all(
            c, largest > 0.0 &&
                   worst <= (lh_comm_size(c) <= 2 ? 0.0 : lh_tol_sum(lh_comm_size(c)) * largest));
        lh_free(&got);
    }
    lh_free(&want);
    lh_mesh_destroy(&mesh);
}

/* Tied embeddings, which the first and the last operation use; learned positions, which are sharded;
 * recomputed blocks; a head that pools. */
static void test_reduced_behind_the_backward(void **state)
{
    lh_comm *c = *state;
    lh_window_settings w = lh_window_plain(70);
    for (int data = 1; data <= 2; data++) {
        if (lh_comm_size(c) % data != 0) continue;
        lh_rig_desc d = small_model(LH_MODEL_DECODER, "sliding_window", &w);
        d.recompute = data == 2 ? LH_RECOMPUTE_BLOCK : LH_RECOMPUTE_NONE;
        check_behind(c, &d, data);
        d = small_model(LH_MODEL_ENCODER, "full", &w);
        d.model.head = LH_HEAD_CLASS;
        d.model.classes = 3;
        d.model.pooler = true;
        d.model.pool = LH_POOL_MEAN;
        check_behind(c, &d, data);
    }
}

/* --- bytes --- */

/* Bytes of gradients by hand: replicated parameters over all ranks, shards over the data axis,
 * nothing on one rank. */
static int64_t gradient_bytes(const lh_rig *r)
{
    int64_t bytes = 0;
    for (int64_t i = 0; i < r->params->count; i++) {
        const lh_param *p = r->params->item[i];
        bool shard = p->place.axis[LH_AXIS_SEQ].kind == LH_SHARD;
        int ranks = r->mesh->size[LH_AXIS_DATA] * (shard ? 1 : r->mesh->size[LH_AXIS_SEQ]);
        if (ranks > 1) bytes += (int64_t)lh_shape_bytes(&p->shape);
    }
    return bytes;
}

static lh_status predicted(const lh_rig *r, lh_cost *sum)
{
    lh_status st = LH_OK;
    lh_cost layer[LH_MAX_LAYERS];
    const lh_model_desc *m = &r->desc->model;
    *sum = lh_model_predict_rest(m, &r->shape, r->mesh->size[LH_AXIS_SEQ],
                                 r->mesh->coord[LH_AXIS_SEQ]);
    LH_TRY(lh_model_predict(m, &r->shape, r->mesh->size[LH_AXIS_SEQ], r->mesh->coord[LH_AXIS_SEQ],
                            layer));
    for (int64_t l = 0; l < m->layers; l++) {
        sum->forward_bytes += layer[l].forward_bytes;
        sum->backward_bytes += layer[l].backward_bytes;
        sum->summary_bytes += layer[l].summary_bytes;
        sum->again_bytes += layer[l].again_bytes;
    }
done:
    return st;
}

/* Bytes by purpose of a step, or of a forward pass alone. Layers that are recomputed here have no
 * summaries. */
static void predicted_bytes(lh_comm *c, const lh_rig *r, int64_t *want)
{
    lh_cost cost;
    lh_assert_all_ok(c, predicted(r, &cost));
    want[LH_SEND_FORWARD] = cost.forward_bytes;
    want[LH_SEND_SUMMARY] = r->desc->forward ? cost.again_bytes : cost.summary_bytes;
    if (r->desc->forward) return;
    want[LH_SEND_BACKWARD] = cost.backward_bytes;
    want[LH_SEND_RECOMPUTE] = r->desc->recompute == LH_RECOMPUTE_BLOCK ? cost.forward_bytes : 0;
    want[LH_SEND_PARAMETER] = gradient_bytes(r);
}

static void check_bytes(lh_comm *c, const lh_rig_desc *d, int data)
{
    lh_mesh *mesh = NULL;
    lh_rig r;
    double loss = 0.0;
    int32_t *tokens = NULL;
    int32_t *labels = NULL;
    int64_t want[LH_PURPOSES] = {0};
    lh_assert_all_ok(c, lh_mesh_create(data, &mesh));
    lh_assert_all_ok(c, lh_rig_open(&r, d, mesh));
    lh_assert_all_ok(c, lh_rig_text(d, 5, &tokens, &labels));
    lh_rig_load(&r, tokens, labels);
    *mesh->traffic = (lh_traffic){0};
    lh_assert_all_ok(c, lh_rig_step(&r, &loss));
    predicted_bytes(c, &r, want);
    for (int p = 0; p < LH_SEND_OTHER; p++) {
        bool same = mesh->traffic->bytes[p] == want[p] &&
                    r.counting->traffic->bytes[p] == want[p] &&
                    mesh->traffic->messages[p] == r.counting->traffic->messages[p];
        if (!same)
            print_error("%s, data %d: %lld bytes sent, %lld counted, %lld predicted\n",
                        lh_purpose_name((lh_purpose)p), data, (long long)mesh->traffic->bytes[p],
                        (long long)r.counting->traffic->bytes[p], (long long)want[p]);
        lh_assert_all(c, same);
    }
    lh_free(&tokens);
    lh_free(&labels);
    lh_rig_close(&r);
    lh_mesh_destroy(&mesh);
}

static void check_bytes_meshes(lh_comm *c, lh_rig_desc *d)
{
    const int64_t lengths[] = {203, 3, 40};
    for (int i = 0; i < 3; i++) {
        d->length = lengths[i];
        for (int data = 1; data <= 2; data++)
            if (lh_comm_size(c) % data == 0) check_bytes(c, d, data);
    }
}

static void test_bytes_as_predicted(void **state)
{
    const int64_t windows[] = {0, 9, 45, 90, 500};
    lh_window_settings w = lh_window_plain(0);
    for (int kind = LH_MODEL_DECODER; kind <= LH_MODEL_ENCODER; kind++) {
        lh_rig_desc d = small_model(kind, "full", &w);
        d.recompute = kind == LH_MODEL_DECODER ? LH_RECOMPUTE_NONE : LH_RECOMPUTE_BLOCK;
        check_bytes_meshes(*state, &d);
        d = small_model(kind, "sliding_window", &w);
        for (size_t i = 0; i < sizeof windows / sizeof windows[0]; i++) {
            w.window = windows[i];
            d.unaligned = i % 2 == 1;
            d.recompute = i >= 3 ? LH_RECOMPUTE_BLOCK : LH_RECOMPUTE_NONE;
            check_bytes_meshes(*state, &d);
        }
    }
}

/* Heads that make one row of each sequence: a step, and the forward pass alone. */
static void test_bytes_of_heads(void **state)
{
    static double seed[2 * 24]; /* [batch, 1, E] */
    lh_window_settings w = lh_window_plain(9);
    for (int pool = LH_POOL_FIRST; pool <= LH_POOL_MEAN; pool++) {
        lh_rig_desc d = small_model(LH_MODEL_ENCODER, "sliding_window", &w);
        d.model.head = LH_HEAD_CLASS;
        d.model.classes = 3;
        d.model.pool = pool;
        d.recompute = pool == LH_POOL_FIRST ? LH_RECOMPUTE_BLOCK : LH_RECOMPUTE_NONE;
        check_bytes_meshes(*state, &d);
        d.model.head = LH_HEAD_POOLER;
        d.output_seed = seed;
        check_bytes_meshes(*state, &d);
        d.forward = true;
        check_bytes_meshes(*state, &d);
    }
}

/* --- gradients --- */

/* A direction of all parameters, as lh_rig_get_all orders them. */
static double direction(int64_t i)
{
    return lh_random_normal(17, lh_stream_id(LH_STREAM_TEST, 9), (uint64_t)i);
}

/* Loss where all parameters are moved by h along the direction; *slope: of the gradient along it. */
static void loss_at(lh_comm *c, const lh_rig_desc *d, lh_mesh *mesh, double h, double *loss,
                    double *slope)
{
    lh_rig r;
    int32_t *tokens = NULL;
    int32_t *labels = NULL;
    double *all = NULL;
    int64_t at = 0;
    lh_assert_all_ok(c, lh_rig_open(&r, d, mesh));
    lh_assert_all_ok(c, lh_rig_text(d, 5, &tokens, &labels));
    lh_rig_load(&r, tokens, labels);
    lh_assert_all_ok(c, lh_new((size_t)lh_params_total(r.params) * sizeof *all, &all));
    for (int64_t i = 0; i < r.params->count; i++) {
        const lh_param *p = r.params->item[i];
        lh_assert_all_ok(c, lh_rig_get(&r, LH_RIG_VALUE, p, all));
        for (int64_t k = 0; k < lh_shape_count(&p->whole); k++) all[k] += h * direction(at++);
        lh_assert_all_ok(c, lh_rig_set(&r, LH_RIG_VALUE, p, all));
    }
    lh_assert_all_ok(c, lh_rig_step(&r, loss));
    lh_assert_all_ok(c, lh_rig_get_all(&r, LH_RIG_GRAD, all));
    *slope = 0.0;
    for (int64_t i = 0; i < at; i++) *slope += all[i] * direction(i);
    lh_free(&all);
    lh_free(&tokens);
    lh_free(&labels);
    lh_rig_close(&r);
}

/* The loss of a class, on these ranks, by central differences. */
static void check_gradients_of_classes(lh_comm *c, lh_pool_kind pool)
{
    const double h = 1e-6;
    const int64_t valid[] = {203, 91};
    double loss[2];
    double slope = 0.0;
    double other = 0.0;
    lh_mesh *mesh = NULL;
    lh_window_settings w = lh_window_plain(40);
    lh_rig_desc d = small_model(LH_MODEL_ENCODER, "sliding_window", &w);
    d.training = false;
    d.valid = valid;
    d.model.attention[1].ops = lh_attn_find("full");
    d.model.head = LH_HEAD_CLASS;
    d.model.classes = 3;
    d.model.pool = (int)pool;
    d.model.pooler = true;
    d.model.token_types = 2;
    lh_assert_all_ok(c, lh_mesh_create(1, &mesh));
    loss_at(c, &d, mesh, 0.0, &loss[0], &slope);
    loss_at(c, &d, mesh, h, &loss[0], &other);
    loss_at(c, &d, mesh, -h, &loss[1], &other);
    lh_assert_all(c, fabs(slope) > 1e-3);
    lh_assert_all(c, lh_test_within((loss[0] - loss[1]) / (2.0 * h), slope, 1e-6, 0.0));
    lh_mesh_destroy(&mesh);
}

/* In float, rounding is more than the difference. */
static void test_gradients_of_classes(void **state)
{
    for (int pool = LH_POOL_FIRST; pool <= LH_POOL_MEAN && sizeof(lh_real) == sizeof(double);
         pool++)
        check_gradients_of_classes(*state, (lh_pool_kind)pool);
}

/* --- memory --- */

static void check_shrinks(lh_comm *c, const lh_rig_desc *d, int seq, double most)
{
    int64_t one = 0;
    lh_assert_all_ok(c, lh_rig_plan(d, 1, 1, 0, &one, NULL));
    for (int rank = 0; rank < seq; rank += seq / 2) {
        int64_t peak = 0;
        lh_assert_all_ok(c, lh_rig_plan(d, 1, seq, rank, &peak, NULL));
        double share = (double)peak / (double)one;
        if (!(share <= most) || (lh_comm_size(c) == 1 && rank == 0))
            print_message(
                "peak of rank %d of %d: %lld of %lld bytes on one rank: %.3f, allowed %.3f\n", rank,
                seq, (long long)peak, (long long)one, share, most);
        lh_assert_all(c, share <= most);
    }
}

/* By the counting pass alone: no data of this length exists. */
static void test_memory_shrinks_with_ranks(void **state)
{
    lh_window_settings w = lh_window_plain(256);
    lh_rig_desc d = small_model(LH_MODEL_DECODER, "sliding_window", &w);
    d.batch = 1;
    d.length = 65536;
    d.chunk = 512;
    d.model.width = 128;
    d.model.head_width = 32;
    d.model.kv_heads = 4;
    d.model.mlp_width = 512;
    d.model.vocab = 256;
    d.model.position = LH_POSITION_ROTARY;
    d.model.dropout = 0.0;
    check_shrinks(*state, &d, 2, 0.56);
    check_shrinks(*state, &d, 4, 0.30);
    d.recompute = LH_RECOMPUTE_BLOCK;
    check_shrinks(*state, &d, 2, 0.56);
    d.recompute = LH_RECOMPUTE_NONE;
    for (int l = 0; l < d.model.layers; l++) d.model.attention[l].ops = lh_attn_find("full");
    check_shrinks(*state, &d, 2, 0.65); /* two travelling shards on top */
    check_shrinks(*state, &d, 4, 0.40);
}

/* What was planned is what a step has. */
static void test_plan_is_what_runs(void **state)
{
    lh_comm *c = *state;
    lh_window_settings w = lh_window_plain(70);
    lh_rig_desc d = small_model(LH_MODEL_DECODER, "sliding_window", &w);
    lh_mesh *mesh = NULL;
    lh_rig r;
    int64_t peak = 0;
    lh_traffic traffic;
    lh_assert_all_ok(c, lh_mesh_create(1, &mesh));
    lh_assert_all_ok(c, lh_rig_open(&r, &d, mesh));
    lh_assert_all_ok(c, lh_rig_plan(&d, 1, lh_comm_size(c), lh_comm_rank(c), &peak, &traffic));
    lh_assert_all(c, peak == lh_memory_peak(r.memory));
    lh_assert_all(c, memcmp(traffic.bytes, r.counting->traffic->bytes, sizeof traffic.bytes) == 0);
    lh_rig_close(&r);
    lh_mesh_destroy(&mesh);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits_twice),
        cmocka_unit_test(test_reduced_behind_the_backward),
        cmocka_unit_test(test_bytes_as_predicted),
        cmocka_unit_test(test_bytes_of_heads),
        cmocka_unit_test(test_gradients_of_classes),
        cmocka_unit_test(test_memory_shrinks_with_ranks),
        cmocka_unit_test(test_plan_is_what_runs),
    };
    return lh_test_mpi_main(argc, argv, "model", tests, sizeof tests / sizeof tests[0]);
}
