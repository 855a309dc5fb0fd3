/* Models against independent implementations, on any number of ranks. Weights and batches come from
 * the files of
 *   tests/golden/make_models.py      PyTorch, double: the loss, every gradient and ten AdamW steps
 *   tests/golden/make_longformer.py  Hugging Face's Longformer: last hidden states, every gradient */
#include <math.h>
#include <string.h>

#include "experiments/config.h"
#include "io/h5.h"
#include "tests/lh_model_test.h"
#include "tests/tol.h"

enum { STEPS = 10, CHUNK = 16 };

typedef struct golden {
    lh_h5 *file;
    lh_config *config;
    lh_rig_desc desc;
    int32_t *tokens, *labels; /* [STEPS, B, N] */
    double losses[STEPS], norms[STEPS];
} golden;

static lh_status golden_open(const char *name, golden *g)
{
    lh_status st = LH_OK;
    char path[1024];
    char *text = NULL;
    *g = (golden){0};
    (void)snprintf(path, sizeof path, "%s/%s.h5", LH_GOLDEN, name);
    LH_TRY(lh_h5_open(NULL, path, &g->file));
    LH_TRY(lh_h5_get_text(g->file, "/", "config", &text));
    LH_TRY(lh_config_parse(text, strlen(text), name, LH_CONFIG_PARTIAL, &g->config));
    g->desc = (lh_rig_desc){.model = g->config->model,
                            .batch = g->config->data.batch,
                            .length = g->config->data.length,
                            .chunk = CHUNK,
                            .seed = 1};
    int64_t n = STEPS * g->desc.batch * g->desc.length;
    LH_TRY(lh_new((size_t)n * sizeof *g->tokens, &g->tokens));
    LH_TRY(lh_new((size_t)n * sizeof *g->labels, &g->labels));
    LH_TRY(lh_h5_read_all(g->file, "tokens", LH_H5_INT32, n, g->tokens));
    LH_TRY(lh_h5_read_all(g->file, "labels", LH_H5_INT32, n, g->labels));
    LH_TRY(lh_h5_read_all(g->file, "losses", LH_H5_F64, STEPS, g->losses));
    LH_TRY(lh_h5_read_all(g->file, "grad_norm", LH_H5_F64, STEPS, g->norms));
done:
    lh_free(&text);
    return st;
}

static void golden_close(golden *g)
{
    if (g->file != NULL) lh_assert_ok(lh_h5_close(&g->file));
    lh_config_destroy(&g->config);
    lh_free(&g->tokens);
    lh_free(&g->labels);
}

/* All parameters of a group of the file, in order of declaration. */
static lh_status golden_read(const golden *g, const lh_rig *r, const char *group, double *all)
{
    lh_status st = LH_OK;
    char name[160];
    for (int64_t i = 0; i < r->params->count; i++) {
        const lh_param *p = r->params->item[i];
        int64_t n = lh_shape_count(&p->whole);
        (void)snprintf(name, sizeof name, "%s/%s", group, p->name);
        LH_TRY(lh_h5_read_all(g->file, name, LH_H5_F64, n, all));
        all += n;
    }
done:
    return st;
}

static lh_status golden_set(lh_rig *r, const double *all)
{
    lh_status st = LH_OK;
    for (int64_t i = 0; i < r->params->count; i++) {
        LH_TRY(lh_rig_set(r, LH_RIG_VALUE, r->params->item[i], all));
        all += lh_shape_count(&r->params->item[i]->whole);
    }
done:
    return st;
}

/* The model has the parameters that the file has, and no other. */
static lh_status golden_same_names(const golden *g, const lh_rig *r, const char *group)
{
    lh_status st = LH_OK;
    char *names = NULL;
    int64_t count = 0;
    LH_TRY(lh_h5_list(g->file, group, &names, &count));
    LH_CHECK(count == r->params->count, LH_ERR_BUG, "%lld parameters, the file has %lld",
             (long long)r->params->count, (long long)count);
done:
    lh_free(&names);
    return st;
}

static void report_loss(const lh_rig *r, const char *name, double got, double want, double allowed)
{
    if (lh_comm_rank(r->mesh->world) == 0)
        lh_test_report("parity %s loss %.3g %g", name, fabs(got - want) / fabs(want), allowed);
}

static void check_first(lh_comm *c, const char *name, golden *g, lh_rig *r, double *want,
                        double *got)
{
    double loss = 0.0;
    lh_assert_all_ok(c, golden_same_names(g, r, "parameters"));
    lh_assert_all_ok(c, golden_read(g, r, "parameters", want));
    lh_assert_all_ok(c, golden_set(r, want));
    lh_rig_load(r, g->tokens, g->labels);
    lh_assert_all_ok(c, lh_rig_step(r, &loss));
    report_loss(r, name, loss, g->losses[0], LH_TOL_GOLDEN_LOSS);
    lh_assert_all_close(c, loss, g->losses[0], LH_TOL_GOLDEN_LOSS, 0.0);
    lh_assert_all_ok(c, golden_read(g, r, "gradients", want));
    lh_assert_all_ok(c, lh_rig_get_all(r, LH_RIG_GRAD, got));
    lh_rig_report_grads(r, name, got, want);
    lh_assert_all(c, lh_rig_grads_agree(r->params, got, want));
}

static void check_steps(lh_comm *c, golden *g, lh_rig *r)
{
    const lh_config_optimizer *o = &g->config->optimizer;
    const lh_optimizer adamw = {.lr = o->lr,
                                .beta1 = o->betas.item[0],
                                .beta2 = o->betas.item[1],
                                .eps = o->eps,
                                .weight_decay = o->weight_decay,
                                .clip = o->clip};
    int64_t n = g->desc.batch * g->desc.length;
    for (int k = 0; k < STEPS; k++) {
        double loss = 0.0;
        double norm = 0.0;
        lh_rig_load(r, g->tokens + k * n, g->labels + k * n);
        lh_assert_all_ok(c, lh_rig_step(r, &loss));
        lh_assert_all_ok(c, lh_rig_update(r, &adamw, k + 1, &norm));
        lh_assert_all_close(c, loss, g->losses[k], LH_TOL_GOLDEN_STEPS, 0.0);
        /* a norm follows its gradients; after some steps those follow the weights' rounding */
        lh_assert_all_close(c, norm, g->norms[k], 10.0 * LH_TOL_GOLDEN_STEPS, 0.0);
    }
}

static void check(lh_comm *c, const char *name, int data, bool unaligned)
{
    golden g;
    lh_rig r;
    lh_mesh *mesh = NULL;
    double *want = NULL;
    double *got = NULL;
    lh_assert_all_ok(c, golden_open(name, &g));
    if (g.desc.batch % data == 0) {
        g.desc.unaligned = unaligned;
        lh_assert_all_ok(c, lh_mesh_create(data, &mesh));
        lh_assert_all_ok(c, lh_rig_open(&r, &g.desc, mesh));
        size_t bytes = (size_t)lh_params_total(r.params) * sizeof *want;
        lh_assert_all_ok(c, lh_new(bytes, &want));
        lh_assert_all_ok(c, lh_new(bytes, &got));
        check_first(c, name, &g, &r, want, got);
        check_steps(c, &g, &r);
        lh_rig_close(&r);
        lh_mesh_destroy(&mesh);
    }
    lh_free(&want);
    lh_free(&got);
    golden_close(&g);
}

static void check_meshes(void **state, const char *name)
{
    lh_comm *c = *state;
    check(c, name, 1, false);
    check(c, name, 1, true);
    if (lh_comm_size(c) % 2 == 0) check(c, name, 2, false);
}

static void test_decoder_window(void **state)
{
    check_meshes(state, "decoder_window");
}

static void test_decoder_full_gqa(void **state)
{
    check_meshes(state, "decoder_full_gqa");
}

static void test_decoder_window_post(void **state)
{
    check_meshes(state, "decoder_window_post");
}

static void test_encoder_window(void **state)
{
    check_meshes(state, "encoder_window");
}

static void test_encoder_full_post(void **state)
{
    check_meshes(state, "encoder_full_post");
}

/* --- hidden states: Longformer
 * ---------------------------------------------------------------------------------------- */

typedef struct states {
    golden g; /* file, description and tokens of the case */
    const char *name;
    int64_t *valid, *count, *position; /* [B], [B], [B, max] */
    lh_row_list global;
    double *seed, *hidden; /* [B, N, E] */
} states;

static lh_status states_read(const states *s, const char *name, lh_h5_kind kind, int64_t n,
                             void *memory)
{
    char path[160];
    (void)snprintf(path, sizeof path, "%s/%s", s->name, name);
    return lh_h5_read_all(s->g.file, path, kind, n, memory);
}

/* Global tokens that the task names, where the case has them. */
static lh_status states_global(states *s)
{
    lh_status st = LH_OK;
    char path[160];
    lh_h5_data data;
    int64_t batch = s->g.desc.batch;
    (void)snprintf(path, sizeof path, "%s/global_position", s->name);
    if (!lh_h5_has(s->g.file, path)) goto done;
    LH_TRY(lh_h5_find(s->g.file, path, &data));
    int64_t most = data.dim[1];
    lh_h5_release(&data);
    LH_TRY(lh_new((size_t)batch * sizeof *s->count, &s->count));
    LH_TRY(lh_new((size_t)(batch * most) * sizeof *s->position, &s->position));
    LH_TRY(states_read(s, "global_count", LH_H5_INT64, batch, s->count));
    LH_TRY(states_read(s, "global_position", LH_H5_INT64, batch * most, s->position));
    s->global = (lh_row_list){.max = most, .count = s->count, .position = s->position};
    s->g.desc.global = &s->global;
done:
    return st;
}

static lh_status states_open(const char *name, states *s)
{
    lh_status st = LH_OK;
    char *text = NULL;
    golden *g = &s->g;
    *s = (states){.name = name};
    LH_TRY(lh_h5_open(NULL, LH_GOLDEN "/longformer.h5", &g->file));
    LH_TRY(lh_h5_get_text(g->file, name, "config", &text));
    LH_TRY(lh_config_parse(text, strlen(text), name, LH_CONFIG_PARTIAL, &g->config));
    const lh_config *f = g->config;
    g->desc = (lh_rig_desc){.model = f->model,
                            .batch = f->data.batch,
                            .length = f->data.length,
                            .chunk = CHUNK,
                            .seed = 1};
    int64_t n = f->data.batch * f->data.length;
    int64_t e = f->model.width;
    LH_TRY(lh_new((size_t)n * sizeof *g->tokens, &g->tokens));
    LH_TRY(lh_new((size_t)n * sizeof *g->labels, &g->labels)); /* not used */
    LH_TRY(lh_new((size_t)f->data.batch * sizeof *s->valid, &s->valid));
    LH_TRY(lh_new((size_t)(n * e) * sizeof *s->seed, &s->seed));
    LH_TRY(lh_new((size_t)(n * e) * sizeof *s->hidden, &s->hidden));
    LH_TRY(states_read(s, "tokens", LH_H5_INT32, n, g->tokens));
    LH_TRY(states_read(s, "valid", LH_H5_INT64, f->data.batch, s->valid));
    LH_TRY(states_read(s, "seed", LH_H5_F64, n * e, s->seed));
    LH_TRY(states_read(s, "hidden", LH_H5_F64, n * e, s->hidden));
    LH_TRY(states_global(s));
    g->desc.valid = s->valid;
    g->desc.output_seed = s->seed;
done:
    lh_free(&text);
    return st;
}

static void states_close(states *s)
{
    lh_free(&s->valid);
    lh_free(&s->count);
    lh_free(&s->position);
    lh_free(&s->seed);
    lh_free(&s->hidden);
    golden_close(&s->g);
}

/* Rows of padding are left out: what stands there means nothing. */
static bool states_same(const states *s, const double *got)
{
    double sum[2] = {0.0, 0.0};
    int64_t n = s->g.desc.length;
    int64_t e = s->g.desc.model.width;
    for (int64_t row = 0; row < s->g.desc.batch * n; row++) {
        if (row % n >= s->valid[row / n]) continue;
        for (int64_t i = row * e; i < (row + 1) * e; i++) {
            sum[0] += (got[i] - s->hidden[i]) * (got[i] - s->hidden[i]);
            sum[1] += s->hidden[i] * s->hidden[i];
        }
    }
    lh_test_report("parity longformer/%s hidden %.3g %g", s->name, sqrt(sum[0] / sum[1]),
                   LH_TOL_GRAD);
    bool same = sum[1] > 0.0 && sqrt(sum[0]) <= LH_TOL_GRAD * sqrt(sum[1]);
    if (!same)
        print_error("hidden states of '%s': off by %.3g of %.3g\n", s->name, sqrt(sum[0]),
                    sqrt(sum[1]));
    return same;
}

static void check_states(lh_comm *c, const char *name, int data, const lh_rig_desc *how)
{
    states s;
    lh_rig r;
    lh_mesh *mesh = NULL;
    double *want = NULL;
    double *got = NULL;
    double *hidden = NULL;
    double loss = 0.0;
    lh_assert_all_ok(c, states_open(name, &s));
    s.g.desc.unaligned = how->unaligned;
    s.g.desc.poison = how->poison;
    s.g.desc.recompute = how->recompute;
    if (s.g.desc.batch % data == 0) {
        char group[64];
        int64_t all = s.g.desc.batch * s.g.desc.length * s.g.desc.model.width;
        lh_assert_all_ok(c, lh_mesh_create(data, &mesh));
        lh_assert_all_ok(c, lh_rig_open(&r, &s.g.desc, mesh));
        size_t bytes = (size_t)lh_params_total(r.params) * sizeof *want;
        lh_assert_all_ok(c, lh_new(bytes, &want));
        lh_assert_all_ok(c, lh_new(bytes, &got));
        lh_assert_all_ok(c, lh_new((size_t)all * sizeof *hidden, &hidden));
        (void)snprintf(group, sizeof group, "%s/gradients", name);
        lh_assert_all_ok(c, golden_same_names(&s.g, &r, group));
        lh_assert_all_ok(c, golden_read(&s.g, &r, "parameters", want));
        lh_assert_all_ok(c, golden_set(&r, want));
        lh_rig_load(&r, s.g.tokens, s.g.labels);
        lh_assert_all_ok(c, lh_rig_step(&r, &loss));
        lh_rig_output(&r, hidden);
        lh_assert_all(c, states_same(&s, hidden));
        lh_assert_all_ok(c, golden_read(&s.g, &r, group, want));
        lh_assert_all_ok(c, lh_rig_get_all(&r, LH_RIG_GRAD, got));
        (void)snprintf(group, sizeof group, "longformer/%s", name);
        lh_rig_report_grads(&r, group, got, want);
        lh_assert_all(c, lh_rig_grads_agree(r.params, got, want));
        lh_rig_close(&r);
        lh_mesh_destroy(&mesh);
    }
    lh_free(&want);
    lh_free(&got);
    lh_free(&hidden);
    states_close(&s);
}

static void check_states_meshes(void **state, const char *name)
{
    lh_comm *c = *state;
    check_states(c, name, 1, &(lh_rig_desc){.poison = true});
    check_states(c, name, 1, &(lh_rig_desc){.unaligned = true, .recompute = LH_RECOMPUTE_BLOCK});
    for (int data = 2; data <= 3; data++)
        if (lh_comm_size(c) % data == 0) check_states(c, name, data, &(lh_rig_desc){0});
}

static void test_longformer_local(void **state)
{
    check_states_meshes(state, "none");
}

static void test_longformer_listed(void **state)
{
    check_states_meshes(state, "same");
}

static void test_longformer_by_task(void **state)
{
    check_states_meshes(state, "task");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decoder_window),      cmocka_unit_test(test_decoder_full_gqa),
        cmocka_unit_test(test_decoder_window_post), cmocka_unit_test(test_encoder_window),
        cmocka_unit_test(test_encoder_full_post),   cmocka_unit_test(test_longformer_local),
        cmocka_unit_test(test_longformer_listed),   cmocka_unit_test(test_longformer_by_task),
    };
    return lh_test_mpi_main(argc, argv, "golden", tests, sizeof tests / sizeof tests[0]);
}
