/* A step plan, made by one process for all ranks, against the step that each rank then runs: traffic by
 * purpose, messages, flops and memory. No later step allocates, and recomputation changes no bit. */
#include "attention/attend.h"
#include "experiments/step_plan.h"
#include "io/files.h"
#include "tests/lh_test_mpi.h"
#include "tests/mpi/step_nonfinite.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { BYTES = 4000, TEXT = 2000, SEQUENCES = 12 /* 2, 3 and 4 divide it */ };

static const char *const kinds[] = {
    "  attention: {mechanism: full}\n",
    "  attention: {mechanism: sliding_window, window: [5, 40]}\n  kv_heads: 1\n",
    "  attention: [{mechanism: full}, {mechanism: sliding_window, window: 20}]\n"
    "  position: learned\n  norm: post\n  tie_embeddings: false\n",
    "  position: learned\n  max_length: 150\n"
    "  attention: {mechanism: sliding_window, window: 3, dilation: [[1, 4], 2], global: first}\n",
    "  attention: {mechanism: performer, features: 9, redraw: 1}\n",
    "  position: relative\n  attention: {mechanism: full}\n",
    "  attention: [{mechanism: full}, {mechanism: sliding_window, window: 9, global: first}]\n",
    "  attention: [{mechanism: performer, features: 9}, {mechanism: full}]\n",
    "  max_length: 90\n  attention: {mechanism: linformer, k: 7, sharing: layerwise}\n",
};
enum { KINDS = sizeof kinds / sizeof kinds[0], BY_HEADS = KINDS - 3 };

/* Two kinds exchange heads; of the second one a layer keeps its own exchange. */
static bool by_heads(int kind)
{
    return kind == BY_HEADS || kind == BY_HEADS + 1;
}

/* Encoders whose head knows a sequence by one row, with layers of different mechanisms. */
static const char *const pooled[] = {
    "  attention: [{mechanism: sliding_window, window: 9, global: first}, {mechanism: performer}]\n"
    "  pooler: true\n",
    "  attention: [{mechanism: full}, {mechanism: linformer, k: 7}]\n  pool: mean\n",
};

typedef struct scene {
    int64_t data, accumulate;
    int kind;
    int recompute; /* lh_recompute_kind */
    bool encoder, documents, spread;
    const char *head; /* NULL: lm; else the model is pooled[kind] */
    int64_t length;   /* 0: 77 */
    bool store;       /* bfloat16 */
} scene;

static const char *const recomputes[] = {"none", "attention", "block"};
enum { RECOMPUTES = sizeof recomputes / sizeof recomputes[0] };

static bool scene_by_heads(const scene *s)
{
    return s->spread || (s->head == NULL && by_heads(s->kind));
}

/* The file's name depends on the number of ranks: tests may run at the same time. */
static lh_status scene_config(lh_comm *c, const scene *s, lh_config **out)
{
    lh_status st = LH_OK;
    char path[64];
    char text[TEXT];
    char bytes[BYTES];
    (void)snprintf(path, sizeof path, "step_plan.np%d.txt", lh_comm_size(c));
    for (int i = 0; i < BYTES; i++) bytes[i] = (char)('a' + i * i % 23);
    LH_TRY(lh_write_small(c, path, bytes, sizeof bytes));
    (void)snprintf(text, sizeof text,
                   "run: {name: plan}\n"
                   "mesh: {chunk: 16, data: %d, exchange: %s}\n"
                   "data: {path: %s, length: %d, batch: %d, task: %s%s}\n"
                   "model:\n  kind: %s\n  head: %s\n  layers: 2\n  width: 32\n  heads: 2\n%s"
                   "train: {recompute: %s, accumulate: %d}\n"
                   "device: {store: %s}\n",
                   (int)s->data, scene_by_heads(s) ? "ulysses" : "ring", path,
                   s->length > 0 ? (int)s->length : 77, SEQUENCES,
                   s->head != NULL ? "markers"
                   : s->encoder    ? "masked_text"
                                   : "text",
                   s->documents ? ", documents: 99" : "", s->encoder ? "encoder" : "decoder",
                   s->head != NULL ? s->head : "lm",
                   s->head != NULL ? pooled[s->kind] : kinds[s->kind], recomputes[s->recompute],
                   (int)s->accumulate, s->store ? "bfloat16" : "real");
    LH_TRY(lh_config_parse(text, strlen(text), "scene", LH_CONFIG_PLAN, out));
done:
    return st;
}

/* What a rank has learned after some steps. */
typedef struct outcome {
    lh_real *weights;
    size_t bytes;
} outcome;

static bool same_step(const lh_rank_plan *r, const lh_traffic *t)
{
    bool same = true;
    for (int p = 0; p < LH_PURPOSES; p++) {
        if (p == LH_SEND_OTHER) continue;
        same = same && r->traffic.bytes[p] == t->bytes[p];
        same = same && r->traffic.messages[p] == t->messages[p];
    }
    return same && r->sent_bytes == lh_traffic_step(t);
}

/* Layers and rest make the whole. */
static bool parts_add_up(const lh_step_plan *p)
{
    double flops = p->rest.flops;
    double sent = p->rest.sent_bytes;
    int64_t parameters = p->rest.parameters;
    for (int l = 0; l < p->layers; l++) {
        flops += p->layer[l].flops;
        sent += p->layer[l].sent_bytes;
        parameters += p->layer[l].parameters;
        if (p->layer[l].peak_bytes > p->peak_bytes || p->layer[l].flops <= 0.0) return false;
    }
    return fabs(flops - p->flops) <= 1e-12 * p->flops && parameters == p->parameters &&
           fabs(sent - p->sent_bytes) <= 1e-12 * p->sent_bytes;
}

/* Blocks of the plans that this rank's step holds on its tape, of a pass. */
static lh_tile_count tiles_of_tape(const lh_session *s)
{
    lh_tile_count sum = {0};
    lh_tile_count one;
    lh_attend_seen seen;
    for (int64_t at = 0; lh_attend_next(s->tape, &at, &seen);) {
        int64_t times = seen.batch * seen.n_heads;
        if (lh_plan_tiles(seen.plan, &one) != LH_OK) return (lh_tile_count){-1, -1, -1};
        sum.empty += times * one.empty;
        sum.mixed += times * one.mixed;
        sum.full += times * one.full;
    }
    return sum;
}

/* Planned tiles, those that the kernels of the step got, and those of its plans. */
static bool same_tiles(const lh_step_plan *p, const lh_rank_plan *r, const lh_session *s)
{
    int64_t times = s->config->train.recompute == LH_RECOMPUTE_BLOCK ? 2 : 1;
    const lh_tile_count *ran = &s->device->tiles;
    const lh_tile_count tape = tiles_of_tape(s);
    bool scores = false; /* of some layer */
    for (int64_t h = 0; h < p->layers * p->config->model.heads; h++)
        scores = scores || p->head[h].ranks > 0;
    return ran->mixed == times * r->tiles.mixed && ran->full == times * r->tiles.full &&
           r->tiles.mixed == s->passes * tape.mixed && r->tiles.full == s->passes * tape.full &&
           r->tiles.empty == s->passes * tape.empty && (scores || r->tiles.empty == 0) &&
           (!scores || s->rows == 0 || p->ways > 1 || r->tiles.mixed + r->tiles.full > 0);
}

/* Groups make the layers, layers and ranks the whole. */
static bool tiles_add_up(const lh_step_plan *p, const lh_session *s)
{
    lh_tile_count all = p->tiles;
    lh_tile_count ranks = p->tiles;
    int64_t times = s->batch * s->passes * p->data;
    for (int l = 0; l < p->layers; l++) {
        lh_tile_count layer = p->layer[l].tiles;
        all.full -= layer.full;
        all.mixed -= layer.mixed;
        all.empty -= layer.empty;
        lh_group_plan g;
        for (int64_t head = 0; lh_step_plan_group(p, l, &head, &g);) {
            const lh_head_tiles *t = &g.tiles;
            layer.full -= times * g.n_heads * t->sum.full;
            layer.mixed -= times * g.n_heads * t->sum.mixed;
            layer.empty -= times * g.n_heads * t->sum.empty;
            if (t->ranks > p->sequence || (p->ways == 1 && t->ranks != p->sequence) ||
                t->least.full > t->most.full || t->most.full > t->sum.full ||
                t->most.empty * t->ranks < t->sum.empty)
                return false;
        }
        if (layer.full != 0 || layer.mixed != 0 || layer.empty != 0) return false;
    }
    for (int i = 0; i < p->sequence; i++) {
        ranks.full -= p->data * p->rank[i].tiles.full;
        ranks.mixed -= p->data * p->rank[i].tiles.mixed;
        ranks.empty -= p->data * p->rank[i].tiles.empty;
    }
    return all.full == 0 && all.mixed == 0 && all.empty == 0 && ranks.full == 0 &&
           ranks.mixed == 0 && ranks.empty == 0;
}

/* The exchange that runs is one of those that a plan compares, at the bytes of its layer. */
static bool exchanges_right(const lh_step_plan *p)
{
    for (int l = 0; l < p->layers && p->n_ways > 0; l++) {
        int used = 0;
        for (int w = 0; w < p->n_ways; w++) {
            const lh_exchange_plan *e = &p->exchange[l * p->n_ways + w];
            if (e->ways != p->ways) continue;
            used++;
            double error = fabs(e->sent_bytes - p->layer[l].sent_bytes);
            if (error > 1e-12 * e->sent_bytes || e->busiest < 1.0 - 1e-12) return false;
        }
        bool choice = strcmp(p->layer[l].mechanism, "full") == 0 ||
                      strcmp(p->layer[l].mechanism, "sliding_window") == 0;
        if (used != (choice ? 1 : 0)) return false;
    }
    return p->n_ways == 0 || p->sequence > 1;
}

/* Learned values of this rank, one after another; the caller releases *out with lh_free. */
static void weights_of(lh_comm *c, const lh_session *s, outcome *out)
{
    lh_real *at = NULL;
    out->bytes = lh_params_bytes(s->params);
    lh_assert_all_ok(c, lh_new(out->bytes, &out->weights));
    at = out->weights;
    for (int64_t i = 0; i < s->params->count; i++) {
        const lh_param *p = s->params->item[i];
        if (p->frozen) continue;
        lh_copy_out(s->device, at, p->value, lh_shape_bytes(&p->shape));
        at += lh_shape_count(&p->shape);
    }
}

/* A step more: it finds all that it needs, and what was learned is kept. */
static void later_step(lh_comm *c, lh_session *s, outcome *out)
{
    lh_step_result result;
    int64_t before = lh_new_count();
    lh_assert_all_ok(c, lh_session_step(s, SEQUENCES, 2, 1e-3, false, &result));
    int64_t made = lh_new_count() - before;
    if (made != 0) print_error("%lld allocations in step 2\n", (long long)made);
    lh_assert_all(c, made == 0);
    weights_of(c, s, out);
}

static void check_scene(lh_comm *c, const scene *k, outcome *out)
{
    lh_config *config = NULL;
    lh_step_plan *plan = NULL;
    lh_session *s = NULL;
    lh_step_result result;
    lh_assert_all_ok(c, scene_config(c, k, &config));
    lh_assert_all_ok(c, lh_step_plan_create(config, lh_comm_size(c), &plan));
    lh_assert_all_ok(c, lh_session_open(c, config, true, &s));
    *s->mesh->traffic = (lh_traffic){0};
    s->device->flops = 0.0;
    s->device->tiles = (lh_tile_count){0};
    lh_assert_all_ok(c, lh_session_step(s, 0, 1, 1e-3, false, &result));
    const lh_rank_plan *mine = &plan->rank[lh_comm_rank(c) % plan->sequence];
    lh_assert_all(c, mine->rows == s->rows);
    lh_assert_all(c, same_step(mine, s->mesh->traffic));
    lh_assert_all(c, mine->flops == s->device->flops);
    lh_assert_all(c,
                  mine->peak_bytes == lh_session_peak(s) && mine->peak_bytes <= plan->peak_bytes);
    lh_assert_all(c, mine->parameter_bytes == (int64_t)lh_params_bytes(s->params));
    lh_assert_all(c, plan->parameters == lh_params_total(s->params));
    lh_assert_all(c, parts_add_up(plan));
    lh_assert_all(c, same_tiles(plan, mine, s) && tiles_add_up(plan, s));
    lh_assert_all(c, exchanges_right(plan));
    lh_assert_all(c, plan->ways == (scene_by_heads(k) ? plan->sequence : 1));
    later_step(c, s, out);
    lh_session_close(&s);
    lh_step_plan_destroy(&plan);
    lh_config_destroy(&config);
}

static bool same_weights(const outcome *a, const outcome *b)
{
    /* the representation is what must be equal: NOLINTNEXTLINE(bugprone-suspicious-memory-comparison) */
    return a->bytes == b->bytes && memcmp(a->weights, b->weights, a->bytes) == 0;
}

/* The scene with `none` and with the other ways to recompute, of which a large number of ranks tries one:
 * the same bits, but where it begins with rounded numbers. On several data ranks, which learn the same,
 * with one way alone. */
static void check_recomputes(lh_comm *c, scene k)
{
    outcome none = {0};
    int one = 1 + (k.kind + lh_comm_size(c)) % (RECOMPUTES - 1);
    bool all = k.data == 1 && lh_comm_size(c) <= 3;
    if (k.data == 1) check_scene(c, &k, &none);
    for (k.recompute = 1; k.recompute < RECOMPUTES; k.recompute++) {
        outcome out = {0};
        if (!all && k.recompute != one) continue;
        check_scene(c, &k, &out);
        lh_assert_all(c, k.data > 1 || k.store || same_weights(&out, &none));
        lh_free(&out.weights);
    }
    lh_free(&none.weights);
}

static void test_plans_are_what_runs(void **state)
{
    lh_comm *c = *state;
    for (int64_t data = 1; data <= lh_comm_size(c); data++) {
        if (lh_comm_size(c) % data != 0 || SEQUENCES % (2 * data) != 0) continue;
        for (int i = 0; i < KINDS; i++) /* the last has no causal form */
            check_recomputes(c, (scene){.data = data,
                                        .accumulate = 1 + i % 2,
                                        .kind = i,
                                        .encoder = i == 1 || i == KINDS - 1 || i == 4});
    }
}

/* Packed documents, as they lie and by heads; and sequences so short that ranks have no tokens. */
static void test_other_sequences(void **state)
{
    lh_comm *c = *state;
    for (int i = 0; i < 3; i++)
        check_recomputes(c, (scene){.data = 1,
                                    .accumulate = 1 + i % 2,
                                    .kind = i % 2,
                                    .documents = i > 0,
                                    .spread = i == 2,
                                    .length = i == 0 ? 20 : 0});
}

/* Rings, rows of positions, and heads, however much is computed again. */
static void test_store_bfloat16(void **state)
{
    const int kind[] = {2, 3, BY_HEADS};
    for (int i = 0; i < 3; i++)
        check_recomputes(*state,
                         (scene){.data = 1, .accumulate = 1, .kind = kind[i], .store = true});
}

static void test_classes(void **state)
{
    lh_comm *c = *state;
    for (int64_t data = 1; data <= lh_comm_size(c); data++) {
        if (lh_comm_size(c) % data != 0 || SEQUENCES % (2 * data) != 0) continue;
        for (int i = 0; i < 2; i++)
            check_recomputes(c, (scene){.data = data,
                                        .accumulate = 2 - i % 2,
                                        .kind = i,
                                        .encoder = true,
                                        .head = "class"});
    }
}

/* A head without a loss: what one forward pass costs, which formula and count agree on. */
static void test_forward_only(void **state)
{
    lh_comm *c = *state;
    static const char *const heads[] = {"pooler", "none"};
    for (int i = 0; i < 4; i++) {
        lh_config *config = NULL;
        lh_step_plan *plan = NULL;
        lh_session *s = NULL;
        int ranks = lh_comm_size(c);
        lh_assert_all_ok(c, scene_config(c,
                                         &(scene){.data = 1,
                                                  .accumulate = 2,
                                                  .kind = i / 2,
                                                  .recompute = LH_RECOMPUTE_BLOCK,
                                                  .encoder = true,
                                                  .head = heads[i % 2]},
                                         &config));
        lh_assert_all_ok(c, lh_step_plan_create(config, ranks, &plan));
        lh_assert_all(c, plan->forward_only && parts_add_up(plan));
        lh_assert_all(c, (plan->purpose[LH_SEND_SUMMARY] > 0.0) == (ranks > 1));
        lh_assert_all(c, plan->purpose[LH_SEND_BACKWARD] == 0.0 &&
                             plan->purpose[LH_SEND_PARAMETER] == 0.0 &&
                             plan->purpose[LH_SEND_CONTROL] == 0.0);
        lh_assert_all_ok(c, lh_session_open(c, config, false, &s));
        const lh_rank_plan *mine = &plan->rank[lh_comm_rank(c)];
        lh_assert_all(c, mine->flops == s->flops[0] && mine->peak_bytes == lh_session_peak(s));
        lh_assert_all(c, mine->parameter_bytes == (int64_t)lh_params_bytes(s->params));
        lh_session_close(&s);
        lh_step_plan_destroy(&plan);
        lh_config_destroy(&config);
    }
}

/* Long sequences, planned alone. Less is kept, less memory is taken, and offsets waste next to nothing. */
static void test_memory(void **state)
{
    lh_comm *c = *state;
    if (lh_comm_size(c) > 1) return; /* the plan is the same */
    for (int kind = 0; kind < KINDS; kind++) {
        int64_t peak[RECOMPUTES] = {0};
        double flops[RECOMPUTES] = {0};
        for (int r = 0; r < RECOMPUTES; r++) {
            lh_config *config = NULL;
            lh_session *s = NULL;
            lh_assert_all_ok(c, scene_config(c,
                                             &(scene){.data = 1,
                                                      .accumulate = 1,
                                                      .kind = kind,
                                                      .recompute = r,
                                                      .encoder = kind == KINDS - 1,
                                                      .length = kind == 3   ? 150 /* max_length */
                                                                : kind == 8 ? 90
                                                                            : 1500},
                                             &config));
            lh_assert_all_ok(c, lh_session_open_counting(config, 3, 1, &s));
            const lh_memory *m = s->memory[1];
            lh_assert_all(c, (double)lh_memory_peak(m) <= 1.03 * (double)lh_memory_live(m));
            peak[r] = lh_memory_peak(m);
            flops[r] = s->flops[1];
            lh_session_close(&s);
            lh_config_destroy(&config);
        }
        lh_assert_all(c, peak[LH_RECOMPUTE_ATTENTION] < peak[LH_RECOMPUTE_NONE] &&
                             peak[LH_RECOMPUTE_BLOCK] < peak[LH_RECOMPUTE_ATTENTION]);
        lh_assert_all(c, flops[LH_RECOMPUTE_ATTENTION] > flops[LH_RECOMPUTE_NONE] &&
                             flops[LH_RECOMPUTE_BLOCK] > flops[LH_RECOMPUTE_ATTENTION]);
    }
}

static void test_refusals(void **state)
{
    lh_comm *c = *state;
    lh_config *config = NULL;
    lh_step_plan *plan = NULL;
    lh_assert_all_ok(c, scene_config(c, &(scene){.data = 2, .accumulate = 1}, &config));
    lh_status st = lh_step_plan_create(config, 3, &plan);
    lh_assert_all(c, st == LH_ERR_USAGE && plan == NULL);
    lh_assert_all(c, strstr(lh_error_text(), "mesh.data 2 does not divide 3 ranks") != NULL);
    lh_error_clear();
    lh_config_destroy(&config);
    lh_assert_all_ok(
        c, scene_config(c, &(scene){.data = 1, .accumulate = 1, .kind = BY_HEADS}, &config));
    config->mesh.ulysses = 2;
    st = lh_step_plan_create(config, 3, &plan);
    lh_assert_all(c, st == LH_ERR_USAGE && plan == NULL);
    lh_assert_all(c, strstr(lh_error_text(), "mesh.ulysses 2 does not divide the 3 ranks") != NULL);
    lh_error_clear();
    /* whichever allocation fails, nothing is left behind */
    int64_t before = lh_new_count();
    lh_assert_all_ok(c, lh_step_plan_create(config, 2, &plan));
    lh_step_plan_destroy(&plan);
    int64_t all = lh_new_count() - before;
    for (int64_t n = 1; n <= all; n += 1 + n / 20) {
        lh_new_fail_at(n);
        st = lh_step_plan_create(config, 2, &plan);
        lh_new_fail_at(0);
        lh_assert_all(c, st == LH_ERR_MEMORY && plan == NULL);
        lh_error_clear();
    }
    lh_config_destroy(&config);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plans_are_what_runs),
        cmocka_unit_test(test_other_sequences),
        cmocka_unit_test(test_store_bfloat16),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_forward_only),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_finite_steps),
        cmocka_unit_test(test_broken_parameter),
        cmocka_unit_test(test_overflow),
        cmocka_unit_test(test_broken_gradient),
        cmocka_unit_test(test_skip),
    };
    return lh_test_mpi_main(argc, argv, "step_plan", tests, sizeof tests / sizeof tests[0]);
}
