/* Checkpoints that experiments/import/huggingface.py has made: read as the program reads them, on any
 * number of ranks, they give the package's outputs, losses and gradients. Files and what is in them:
 * tests/golden/make_import.py. */
#include <stdio.h>
#include <string.h>

#include "experiments/config.h"
#include "io/checkpoint.h"
#include "io/h5.h"
#include "tests/lh_model_test.h"
#include "tests/tol.h"

enum { CHUNK = 16 };

typedef struct import {
    const char *name;
    char path[1024]; /* of the checkpoint */
    lh_checkpoint_info info;
    lh_config *config;
    lh_h5 *file; /* what the package computed */
    lh_rig_desc desc;
    bool sums; /* the case has a seed, not a loss */
    int64_t outputs, batch;
    int32_t *tokens, *labels; /* [B, N] */
    int64_t *valid;
    double *seed, *output, loss;
} import;

/* n elements of the case's dataset. */
static lh_status import_get(const import *m, const char *what, lh_h5_kind kind, int64_t n,
                            void *memory)
{
    char name[192];
    (void)snprintf(name, sizeof name, "%s/%s", m->name, what);
    return lh_h5_read_all(m->file, name, kind, n, memory);
}

/* Labels by position, or of the sequence: then at position 0. */
static lh_status import_labels(import *m, int64_t length)
{
    lh_status st = LH_OK;
    int64_t each = m->desc.model.head == LH_HEAD_CLASS ? 1 : length;
    LH_TRY(import_get(m, "labels", LH_H5_INT32, m->batch * each, m->labels));
    LH_TRY(import_get(m, "loss", LH_H5_F64, 1, &m->loss));
    if (each == length) goto done;
    for (int64_t b = m->batch - 1; b >= 0; b--)
        for (int64_t i = length - 1; i >= 0; i--)
            m->labels[b * length + i] = i == 0 ? m->labels[b] : -1;
done:
    return st;
}

static lh_status import_results(import *m)
{
    lh_status st = LH_OK;
    char name[160];
    lh_h5_data data;
    (void)snprintf(name, sizeof name, "%s/seed", m->name);
    m->sums = lh_h5_has(m->file, name);
    if (!m->sums) return import_labels(m, m->config->data.length);
    LH_TRY(lh_h5_find(m->file, name, &data));
    m->outputs = data.dim[0] * data.dim[1] * data.dim[2];
    lh_h5_release(&data);
    LH_TRY(lh_new((size_t)m->outputs * sizeof *m->seed, &m->seed));
    LH_TRY(lh_new((size_t)m->outputs * sizeof *m->output, &m->output));
    LH_TRY(import_get(m, "seed", LH_H5_F64, m->outputs, m->seed));
    LH_TRY(import_get(m, "output", LH_H5_F64, m->outputs, m->output));
    m->desc.output_seed = m->seed;
done:
    return st;
}

static lh_status import_open(import *m, const char *name)
{
    lh_status st = LH_OK;
    const int64_t batch = 2;
    *m = (import){.name = name, .batch = batch};
    (void)snprintf(m->path, sizeof m->path, "%s/import_%s.h5", LH_GOLDEN, name);
    LH_TRY(lh_checkpoint_info_read(NULL, m->path, &m->info));
    LH_TRY(lh_config_parse(m->info.config, strlen(m->info.config), name, LH_CONFIG_PARTIAL,
                           &m->config));
    LH_TRY(lh_h5_open(NULL, LH_GOLDEN "/import.h5", &m->file));
    int64_t n = m->config->data.length;
    m->desc = (lh_rig_desc){
        .model = m->config->model, .batch = batch, .length = n, .chunk = CHUNK, .seed = 1};
    LH_TRY(lh_new((size_t)(batch * n) * sizeof *m->tokens, &m->tokens));
    LH_TRY(lh_new((size_t)(batch * n) * sizeof *m->labels, &m->labels));
    LH_TRY(lh_new((size_t)batch * sizeof *m->valid, &m->valid));
    LH_TRY(import_get(m, "tokens", LH_H5_INT32, batch * n, m->tokens));
    LH_TRY(import_get(m, "valid", LH_H5_INT64, batch, m->valid));
    LH_TRY(import_results(m));
    m->desc.valid = m->valid;
done:
    return st;
}

static void import_close(import *m)
{
    if (m->file != NULL) lh_assert_ok(lh_h5_close(&m->file));
    lh_config_destroy(&m->config);
    lh_checkpoint_info_free(&m->info);
    lh_free(&m->tokens);
    lh_free(&m->labels);
    lh_free(&m->valid);
    lh_free(&m->seed);
    lh_free(&m->output);
}

/* The package's gradients, in order of declaration. */
static lh_status import_gradients(const import *m, const lh_rig *r, double *all)
{
    lh_status st = LH_OK;
    char name[128];
    for (int64_t i = 0; i < r->params->count; i++) {
        const lh_param *p = r->params->item[i];
        (void)snprintf(name, sizeof name, "gradients/%s", p->name);
        LH_TRY(import_get(m, name, LH_H5_F64, lh_shape_count(&p->whole), all));
        all += lh_shape_count(&p->whole);
    }
done:
    return st;
}

static bool close_outputs(const import *m, const double *got)
{
    double sum[2] = {0.0, 0.0};
    for (int64_t i = 0; i < m->outputs; i++) {
        if (m->seed[i] == 0.0) continue;
        sum[0] += (got[i] - m->output[i]) * (got[i] - m->output[i]);
        sum[1] += m->output[i] * m->output[i];
    }
    lh_test_report("parity import/%s output %.3g %g", m->name, sqrt(sum[0] / sum[1]), LH_TOL_GRAD);
    bool same = sum[1] > 0.0 && sqrt(sum[0]) <= LH_TOL_GRAD * sqrt(sum[1]);
    if (!same)
        print_error("output of '%s': off by %.3g of %.3g\n", m->name, sqrt(sum[0]), sqrt(sum[1]));
    return same;
}

static void check_results(lh_comm *c, const import *m, lh_rig *r)
{
    char name[64];
    double loss = 0.0;
    double *want = NULL;
    double *got = NULL;
    int64_t n = lh_params_total(r->params);
    if (m->outputs > n) n = m->outputs;
    lh_assert_all_ok(c, lh_new((size_t)n * sizeof *want, &want));
    lh_assert_all_ok(c, lh_new((size_t)n * sizeof *got, &got));
    lh_rig_load(r, m->tokens, m->labels);
    lh_assert_all_ok(c, lh_rig_step(r, &loss));
    if (m->sums) {
        lh_rig_output(r, got);
        lh_assert_all(c, close_outputs(m, got));
    } else {
        lh_test_report("parity import/%s loss %.3g %g", m->name, fabs(loss - m->loss) / m->loss,
                       LH_TOL_GOLDEN_LOSS);
        lh_assert_all_close(c, loss, m->loss, LH_TOL_GOLDEN_LOSS, 0.0);
    }
    lh_assert_all_ok(c, import_gradients(m, r, want));
    lh_assert_all_ok(c, lh_rig_get_all(r, LH_RIG_GRAD, got));
    (void)snprintf(name, sizeof name, "import/%s", m->name);
    lh_rig_report_grads(r, name, got, want);
    lh_assert_all(c, lh_rig_grads_agree(r->params, got, want));
    lh_free(&want);
    lh_free(&got);
}

static void check(lh_comm *c, const char *name, int data, bool unaligned)
{
import m;
    lh_rig r;
    lh_mesh *mesh = NULL;
    lh_assert_all_ok(c, import_open(&m, name));
    m.desc.unaligned = unaligned;
    m.desc.recompute = unaligned ? LH_RECOMPUTE_BLOCK : LH_RECOMPUTE_NONE;
    m.desc.poison = !unaligned;
    lh_assert_all_ok(c, lh_mesh_create(data, &mesh));
    lh_assert_all_ok(c, lh_rig_open(&r, &m.desc, mesh));
    lh_assert_all_ok(c, lh_checkpoint_read(mesh, m.path, LH_CHECKPOINT_WEIGHTS, r.params, NULL));
    check_results(c, &m, &r);
    lh_rig_close(&r);
    lh_mesh_destroy(&mesh);
    import_close(&m);
}

static void check_meshes(lh_comm *c, const char *name)
{
    check(c, name, 1, false);
    check(c, name, 1, true);
    if (lh_comm_size(c) % 2 == 0) check(c, name, 2, false);
}

/* Token types, unused positions, global tokens; the pooled row. */
static void test_longformer(void **state)
{
    check_meshes(*state, "longformer");
}

/* Dense layer, norm and bias before the tied logits. */
static void test_masked_words(void **state)
{
    check_meshes(*state, "masked");
    check_meshes(*state, "roberta");
}

static void test_classes(void **state)
{
    check_meshes(*state, "classes");
}

/* RMS norm, SwiGLU, rotary halves, fewer key/value heads, a causal window, no tied logits. */
static void test_mistral(void **state)
{
    check_meshes(*state, "mistral");
    check_meshes(*state, "mistral_lm");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_longformer),
        cmocka_unit_test(test_masked_words),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_mistral),
    };
    return lh_test_mpi_main(argc, argv, "import", tests, sizeof tests / sizeof tests[0]);
}
