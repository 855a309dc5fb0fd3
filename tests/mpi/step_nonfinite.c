#include "tests/mpi/step_nonfinite.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "experiments/nonfinite.h"
#include "tests/lh_test_mpi.h"

enum { TEXT = 2000 };

static const char *const models[] = {
    "  attention: {mechanism: full}\n",
    "  attention: {mechanism: sliding_window, window: [5, 40]}\n  kv_heads: 1\n  norm: post\n",
    "  attention: [{mechanism: sliding_window, window: 3, global: first}, {mechanism: full}]\n",
    "  attention: {mechanism: performer, features: 9, redraw: 1}\n",
    "  attention: {mechanism: linformer, k: 7, sharing: layerwise}\n  max_length: 90\n",
    "  attention: {mechanism: full}\n  position: relative\n",
};
enum { MODELS = sizeof models / sizeof models[0], LINFORMER = 4 };

typedef struct scene {
    const char *model;  /* its attention, and what else is not as usual */
    const char *device; /* NULL: cpu */
    int64_t length;     /* 0: 77 */
    const char *train;  /* settings; NULL: none */
    bool encoder;
    double norm_eps; /* 0: the usual; a file may name none that is so small */
} scene;

static lh_session *open_session(lh_comm *c, const scene *k, lh_config **config)
{
    char text[TEXT];
    lh_session *s = NULL;
    (void)snprintf(text, sizeof text,
                   "run: {name: nonfinite}\n"
                   "mesh: {chunk: 16}\n"
                   "data: {task: %s, length: %d, batch: 2}\n"
                   "model:\n  kind: %s\n  layers: 2\n  width: 32\n  heads: 2\n%s"
                   "device: {kind: %s}\n"
                   "train: {%s}\n",
                   k->encoder ? "markers" : "lag", k->length > 0 ? (int)k->length : 77,
                   k->encoder ? "encoder" : "decoder", k->model,
                   k->device != NULL ? k->device : "cpu", k->train != NULL ? k->train : "");
    lh_assert_all_ok(c, lh_config_parse(text, strlen(text), "scene", 0, config));
    if (k->norm_eps > 0.0) (*config)->model.norm_eps = k->norm_eps;
    lh_assert_all_ok(c, lh_session_open(c, *config, true, &s));
    return s;
}

static void close_session(lh_session **s, lh_config **config)
{
    lh_session_close(s);
    lh_config_destroy(config);
}

static bool says(const char *text)
{
    if (strstr(lh_error_text(), text) != NULL) return true;
    print_error("not in '%s': %s\n", lh_error_text(), text);
    return false;
}

/* A sum over all bits that are learned, and over those of the moments, so that any change shows. */
static uint64_t state_of(lh_comm *c, const lh_session *s)
{
    uint64_t sum = 0;
    uint8_t *copy = NULL;
    lh_assert_all_ok(c, lh_new(lh_params_bytes(s->params), &copy)); /* more than any of them */
    for (int64_t i = 0; i < s->params->count; i++) {
        const lh_param *p = s->params->item[i];
        const void *kinds[] = {p->value, p->m, p->v};
        size_t bytes = lh_shape_bytes(&p->shape);
        for (int k = 0; k < (p->frozen ? 1 : 3); k++) {
            lh_copy_out(s->device, copy, kinds[k], bytes);
            for (size_t e = 0; e < bytes; e++) sum = sum * 6364136223846793005u + copy[e] + 1;
        }
    }
    lh_free(&copy);
    return sum;
}

/* The first `count` numbers of a parameter of this rank. */
static void set_param(const lh_session *s, const char *name, int64_t count, lh_real x)
{
    const lh_param *p = lh_params_find(s->params, name);
    int64_t all = p != NULL ? lh_shape_count(&p->shape) : 0;
    for (int64_t e = 0; e < count && e < all; e++)
        lh_copy_in(s->device, (lh_real *)p->value + e, &x, sizeof x);
}

/* A sound step has nothing to show, whatever the mechanism: no mask, no row without keys and no memory that nobody
 * reads is taken for a mistake. Of 20 positions some ranks have none. */
void test_finite_steps(void **state)
{
    lh_comm *c = *state;
    for (int i = 0; i < MODELS; i++) {
        lh_config *config = NULL;
        lh_step_result r;
        lh_session *s =
            open_session(c,
                         &(scene){.model = models[i],
                                  .device = lh_comm_size(c) == 2 && i % 2 == 0 ? "poison" : NULL,
                                  .length = (i + lh_comm_size(c)) % 2 == 0 ? 20 : 77,
                                  .train = i % 3 == 0 ? "recompute: block" : NULL,
                                  .encoder = i == LINFORMER},
                         &config);
        lh_assert_all_ok(c, lh_session_step(s, 0, 1, 1e-3, false, &r));
        lh_assert_all(c, !r.skipped && isfinite(r.loss) && r.grad_norm > 0.0);
        lh_assert_all_code(c, lh_nonfinite_report(s, 0, 1, &r), LH_ERR_NONFINITE);
        lh_assert_all(c, says("first seen in the sum over ranks"));
        lh_error_clear();
        close_session(&s, &config);
    }
}

/* A number that is none on one rank alone: all ranks name that rank, and nothing has changed. */
void test_broken_parameter(void **state)
{
    lh_comm *c = *state;
    int last = lh_comm_size(c) - 1;
    lh_config *config = NULL;
    lh_step_result r;
    char where[64] = "";
    lh_session *s = open_session(c, &(scene){.model = models[1]}, &config);
    lh_assert_all_ok(c, lh_session_step(s, 0, 1, 1e-3, false, &r));
    if (lh_comm_rank(c) == last) set_param(s, "layer.1.mlp.up.weight", 1, (lh_real)NAN);
    uint64_t before = state_of(c, s);
    lh_assert_all_code(c, lh_session_step(s, 2, 2, 1e-3, false, &r), LH_ERR_NONFINITE);
    if (last > 0) (void)snprintf(where, sizeof where, "rank %d: step 2: ", last);
    lh_assert_all(c, says(where));
    lh_assert_all(c, says("step 2: the loss is not a number, the gradient norm not a number"));
    lh_assert_all(c,
                  says("first seen in parameter 'layer.1.mlp.up.weight' (1 of 4096 numbers), then "
                       "in layer 1, forward of '"));
    uint64_t after = state_of(c, s);
    lh_assert_all(c, after == before);
    lh_error_clear();
    close_session(&s, &config);
}

/* Finite parameters, whose product is not; of all ranks' places the first one counts, and its lowest rank. */
void test_overflow(void **state)
{
    lh_comm *c = *state;
    lh_config *config = NULL;
    lh_step_result r;
    lh_session *s =
        open_session(c, &(scene){.model = models[0], .train = "accumulate: 2"}, &config);
    set_param(s, "layer.1.attention.value.weight", 1024,
              sizeof(lh_real) == sizeof(float) ? (lh_real)FLT_MAX : (lh_real)DBL_MAX);
    lh_assert_all_code(c, lh_session_step(s, 0, 1, 1e-3, false, &r), LH_ERR_NONFINITE);
    lh_assert_all(c, lh_comm_size(c) == 1 || says("rank 0: step 1: "));
    lh_assert_all(c, says("first seen in layer 1, forward of 'linear'"));
    lh_assert_all(c, says("or set train.on_nonfinite: skip"));
    lh_error_clear();
    close_session(&s, &config);
}

/* The loss is finite and a gradient is not: norms of rows without variance, to which next to nothing is added. */
void test_broken_gradient(void **state)
{
    lh_comm *c = *state;
    lh_config *config = NULL;
    lh_step_result r;
    lh_session *s =
        open_session(c,
                     &(scene){.model = "  attention: {mechanism: full}\n  tie_embeddings: false\n",
                              .norm_eps = sizeof(lh_real) == sizeof(float) ? 1e-30 : 1e-290},
                     &config);
    set_param(s, "embedding.token.weight", INT64_MAX, 1);
    lh_assert_all_code(c, lh_session_step(s, 0, 1, 1e-3, false, &r), LH_ERR_NONFINITE);
    lh_assert_all(c, isfinite(r.loss) && says("step 1: the loss is 2.7"));
    lh_assert_all(c, says("first seen in layer 1, backward of '"));
    lh_error_clear();
    close_session(&s, &config);
}

/* Updates are left out on all ranks, until one is sound or there have been too many. */
void test_skip(void **state)
{
    lh_comm *c = *state;
    lh_config *config = NULL;
    lh_step_result r;
    int last = lh_comm_size(c) - 1;
    lh_session *s =
        open_session(c, &(scene){.model = models[0], .train = "on_nonfinite: skip"}, &config);
    lh_assert_all_ok(c, lh_session_step(s, 0, 1, 1e-3, false, &r));
    uint64_t before = state_of(c, s);
    lh_real sound = 0;
    lh_param *bias = lh_params_find(s->params, "layer.0.mlp.down.bias");
    lh_copy_out(s->device, &sound, bias->value, sizeof sound);
    s->skips = LH_NONFINITE_SKIPS - 3; /* as from a checkpoint */
    for (int64_t t = 2; t < 5; t++) {
        if (lh_comm_rank(c) == last) set_param(s, bias->name, 1, (lh_real)NAN);
        lh_status st = lh_session_step(s, 2 * t, t, 1e-3, t == 3, &r);
        if (lh_comm_rank(c) == last) set_param(s, bias->name, 1, sound);
        uint64_t after = state_of(c, s);
        lh_assert_all(c, after == before && r.skipped && r.stop == (t == 3));
        lh_assert_all(c, st == (t < 4 ? LH_OK : LH_ERR_NONFINITE));
        lh_assert_all(c, s->skips == LH_NONFINITE_SKIPS - 4 + t);
    }
    lh_assert_all(c, says("(20 steps in a row)") && says("parameter 'layer.0.mlp.down.bias'"));
    lh_error_clear();
    lh_assert_all_ok(c, lh_session_step(s, 0, 30, 1e-3, false, &r));
    uint64_t after = state_of(c, s);
    lh_assert_all(c, s->skips == 0 && !r.skipped && after != before);
    close_session(&s, &config);
}
