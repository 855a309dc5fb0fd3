/* Single attention layers against published implementations: files made by tests/golden/make_*.py
 * (cases.py says what they hold). Output and gradients of every input and parameter must agree, on
 * any number of ranks, for even and uneven shards. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "experiments/config.h"
#include "io/h5.h"
#include "parallel/reduce.h"
#include "tests/lh_gradcheck.h"
#include "tests/lh_test_mpi.h"
#include "tests/tol.h"

enum { QUERY, KEY, VALUE, BLOCK, BIAS_U, BIAS_V, WEIGHT, INPUTS };
enum { SEND = 512 }; /* elements of gradients reduced at a time: smaller than some parameters */

static const char *const input_names[INPUTS] = {
    "q", "k", "v", "x", "relative_u", "relative_v", "relative_weight"};

/* How the sequence lies. */
typedef struct variant {
    int64_t chunk;
    bool unaligned, zigzag, poison;
} variant;

static const variant variants[] = {
    {.chunk = 16},
    {.chunk = 5, .poison = true},
    {.chunk = 4, .unaligned = true},
    {.chunk = 3, .zigzag = true},
};

typedef struct layer {
    lh_h5 *file; /* borrowed */
    const char *name;
    const variant *how;
    lh_mesh *mesh, *counting; /* mesh: borrowed */
    lh_device *device, *count;
    lh_config *config; /* owns the settings */
    lh_layout *layout, *longer;
    const lh_attn_ops *ops;
    lh_attn_desc desc;
    lh_params *params;
    void *state;
    lh_plan_cache *plans;
    lh_gradcheck g;
    lh_gradcheck_run run;
    int input[INPUTS];            /* which of the file's inputs the tape's are */
    lh_real *data[INPUTS], *seed; /* host, local */
    int64_t *valid;               /* [B] or NULL */
    void *send;
    double all; /* norm of all gradients of the file */
} layer;

/* --- the file ----------------------------------------------------------------------------------- */

static void path_of(const layer *a, const char *folder, const char *name, char path[256])
{
    (void)snprintf(path, 256, "%s/%s%s%s", a->name, folder, folder[0] != '\0' ? "/" : "", name);
}

/* The whole dataset, which must have as many elements as the shape. */
static lh_status whole(const layer *a, const char *folder, const char *name, const lh_shape *shape,
                       double **values)
{
    lh_status st = LH_OK;
    char path[256];
    int64_t n = lh_shape_count(shape);
    path_of(a, folder, name, path);
    LH_TRY(lh_new((size_t)n * sizeof **values, values));
    LH_TRY(lh_h5_read_all(a->file, path, LH_H5_F64, n, *values));
done:
    return st;
}

static lh_shape whole_shape(const lh_shape *mine, const lh_place *place)
{
    const lh_place_word *w = &place->axis[LH_AXIS_SEQ];
    lh_shape shape = *mine;
    if (w->kind == LH_SHARD) shape.dim[w->dim] = w->layout->n;
    return shape;
}

/* Index in the whole value of element i of this rank's part. */
static int64_t whole_index(const layer *a, const lh_shape *mine, const lh_place *place, int64_t i)
{
    const lh_place_word *w = &place->axis[LH_AXIS_SEQ];
    int64_t inner = 1;
    if (w->kind != LH_SHARD) return i;
    for (int d = w->dim + 1; d < mine->ndim; d++) inner *= mine->dim[d];
    int64_t rows = mine->dim[w->dim];
    int64_t position = lh_layout_position(w->layout, a->mesh->coord[LH_AXIS_SEQ], i / inner % rows);
    return (i / inner / rows * w->layout->n + position) * inner + i % inner;
}

/* This rank's part of a dataset. */
static lh_status mine_of(const layer *a, const char *folder, const char *name, const lh_shape *mine,
                         const lh_place *place, lh_real **values)
{
    lh_status st = LH_OK;
    double *all = NULL;
    lh_shape shape = whole_shape(mine, place);
    LH_TRY(whole(a, folder, name, &shape, &all));
    LH_TRY(lh_new((size_t)lh_shape_count(mine) * sizeof **values, values));
    for (int64_t i = 0; i < lh_shape_count(mine); i++)
        (*values)[i] = (lh_real)all[whole_index(a, mine, place, i)];
done:
    lh_free(&all);
    return st;
}

static bool has(const layer *a, const char *folder, const char *name)
{
    char path[256];
    path_of(a, folder, name, path);
    return lh_h5_has(a->file, path);
}

/* --- the layer ---------------------------------------------------------------------------------- */

static lh_status layer_layout(const layer *a, int64_t n, lh_layout **out)
{
    int ranks = a->mesh->size[LH_AXIS_SEQ];
    if (a->how->zigzag) return lh_layout_zigzag(n, ranks, a->how->chunk, true, out);
    return lh_layout_contiguous(n, ranks, a->how->chunk, !a->how->unaligned, out);
}

static lh_status layer_describe(layer *a)
{
    lh_status st = LH_OK;
    char *text = NULL;
    LH_TRY(lh_h5_get_text(a->file, a->name, "config", &text));
    LH_TRY(lh_config_parse(text, strlen(text), a->name, LH_CONFIG_PARTIAL, &a->config));
    const lh_model_desc *m = &a->config->model;
    int64_t n = a->config->data.length;
    int64_t max_length = m->max_length > n ? m->max_length : n;
    a->ops = m->attention[0].ops;
    LH_TRY(layer_layout(a, n, &a->layout));
    if (max_length > n) LH_TRY(layer_layout(a, max_length, &a->longer));
    a->desc = (lh_attn_desc){.width = m->width,
                             .heads = m->heads,
                             .kv_heads = m->kv_heads,
                             .head_width = m->head_width,
                             .causal = m->kind == LH_MODEL_DECODER,
                             .bias = m->bias,
                             .batch = a->config->data.batch,
                             .length = n,
                             .layout = a->layout,
                             .max_length = max_length,
                             .table = max_length > n ? a->longer : a->layout,
                             .relative = m->position == LH_POSITION_RELATIVE,
                             .settings = m->attention[0].settings,
                             .seed = 1};
    if (has(a, "in", "valid")) {
        char path[256];
        path_of(a, "in", "valid", path);
        LH_TRY(lh_new((size_t)a->desc.batch * sizeof *a->valid, &a->valid));
        LH_TRY(lh_h5_read_all(a->file, path, LH_H5_INT64, a->desc.batch, a->valid));
    }
done:
    lh_free(&text);
    return st;
}

/* The mechanism's parameters are those of the file, by name. */
static lh_status layer_parameters(layer *a)
{
    lh_status st = LH_OK;
    char path[256];
    char *names = NULL;
    int64_t count = 0;
    lh_real *values = NULL;
    LH_TRY(lh_attn_check(a->ops, &a->desc));
    LH_TRY(lh_params_create(a->device, a->mesh->coord, &a->params));
    LH_TRY(a->ops->parameters(&a->desc, a->params));
    LH_TRY(lh_params_allocate(a->params, true));
    LH_TRY(lh_params_initialise(a->params, 1));
    path_of(a, "", "parameters", path);
    LH_TRY(lh_h5_list(a->file, path, &names, &count));
    LH_CHECK(count == a->params->count, LH_ERR_BUG, "%lld parameters, the file has %lld",
             (long long)a->params->count, (long long)count);
    for (int64_t i = 0; i < count; i++) {
        const lh_param *p = a->params->item[i];
        LH_TRY(mine_of(a, "parameters", p->name, &p->shape, &p->place, &values));
        lh_copy_in(a->device, p->value, values, (size_t)lh_shape_count(&p->shape) * sizeof *values);
        lh_free(&values);
    }
    a->desc.params = a->params;
    LH_TRY(a->ops->create(&a->desc, &a->state));
done:
    lh_free(&values);
    lh_free(&names);
    return st;
}

static lh_shape input_shape(const layer *a, int k)
{
    const lh_attn_desc *d = &a->desc;
    int64_t rows = a->layout->rows[a->mesh->coord[LH_AXIS_SEQ]];
    int64_t all = d->heads * d->head_width;
    switch (k) {
    case BLOCK:
        return lh_shape_3(LH_REAL, d->batch, rows, d->width);
    case BIAS_U:
    case BIAS_V:
        return lh_shape_1(LH_REAL, all);
    case WEIGHT:
        return lh_shape_2(LH_REAL, all, d->width);
    default:
        return lh_shape_4(LH_REAL, d->batch, rows, k == QUERY ? d->heads : d->kv_heads,
                          d->head_width);
    }
}

static lh_place input_place(const layer *a, int k)
{
    return k < BIAS_U ? lh_place_tokens(a->layout) : lh_place_replicated();
}

static lh_status layer_inputs(layer *a)
{
    lh_status st = LH_OK;
    lh_shape out = input_shape(a, QUERY);
    lh_place tokens = lh_place_tokens(a->layout);
    for (int k = 0; k < INPUTS; k++) {
        if (!has(a, "in", input_names[k])) continue;
        lh_shape shape = input_shape(a, k);
        lh_place place = input_place(a, k);
        int i = a->g.n_in++;
        a->input[i] = k;
        LH_TRY(mine_of(a, "in", input_names[k], &shape, &place, &a->data[i]));
        a->g.in[i] = (lh_gradcheck_input){shape, place, a->data[i], true};
    }
    LH_TRY(mine_of(a, "in", "seed", &out, &tokens, &a->seed));
    a->g.seed[0] = a->seed;
done:
    return st;
}

static lh_status layer_record(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    layer *a = user;
    lh_var v[INPUTS] = {{0}};
    for (int i = 0; i < a->g.n_in; i++) v[a->input[i]] = in[i];
    const lh_qkv qkv = {.x = v[BLOCK],
                        .q = v[QUERY],
                        .k = v[KEY],
                        .v = v[VALUE],
                        .relative_u = v[BIAS_U],
                        .relative_v = v[BIAS_V],
                        .relative_weight = v[WEIGHT],
                        .valid = a->valid,
                        .mesh = lh_tape_device(t)->counting ? a->counting : a->mesh,
                        .plans = a->plans};
    *n_out = 1;
    lh_plan_cache_step(a->plans);
    return a->ops->forward(a->state, t, &qkv, out);
}

static lh_status layer_open(layer *a, lh_h5 *file, const char *name, const variant *how,
                            lh_mesh *mesh)
{
    lh_status st = LH_OK;
    *a = (layer){.file = file, .name = name, .how = how, .mesh = mesh};
    if (how->poison)
        LH_TRY(lh_device_create_poison(lh_test_isa(), 1, &a->device));
    else
        LH_TRY(lh_device_create_cpu(lh_test_isa(), 1, &a->device));
    LH_TRY(lh_device_create_count(lh_test_isa(), 1, &a->count));
    LH_TRY(lh_mesh_create_counting(1, mesh->size[LH_AXIS_SEQ], mesh->coord[LH_AXIS_SEQ],
                                   &a->counting));
    LH_TRY(lh_plan_cache_create(&a->plans));
    LH_TRY(lh_host_alloc(SEND * sizeof(lh_real), &a->send));
    a->g =
        (lh_gradcheck){.device = a->device, .count = a->count, .record = layer_record, .user = a};
    for (int i = 0; i < LH_AXES; i++) {
        a->g.size[i] = mesh->size[i];
        a->g.coord[i] = mesh->coord[i];
    }
    LH_TRY(layer_describe(a));
    LH_TRY(layer_parameters(a));
    LH_TRY(layer_inputs(a));
    LH_TRY(lh_gradcheck_open(&a->g, &a->run));
done:
    return st;
}

static void layer_close(layer *a)
{
    if (a->run.g != NULL) lh_gradcheck_close(&a->run);
    for (int i = 0; i < INPUTS; i++) lh_free(&a->data[i]);
    lh_free(&a->seed);
    lh_free(&a->valid);
    lh_host_release(&a->send);
    lh_plan_cache_destroy(&a->plans);
    if (a->state != NULL) a->ops->destroy(&a->state);
    lh_params_destroy(&a->params);
    lh_layout_destroy(&a->longer);
    lh_layout_destroy(&a->layout);
    lh_config_destroy(&a->config);
    lh_mesh_destroy(&a->counting);
    lh_device_destroy(&a->count);
    lh_device_destroy(&a->device);
}

/* --- comparison --------------------------------------------------------------------------------- */

/* Squares of the error and of the wanted values over all ranks; rows of padding are left out of the
 * output. A replicated value counts once, on the first rank. Collective. */
static lh_status distance(const layer *a, const char *folder, const char *name,
                          const lh_shape *mine, const lh_place *place, const lh_real *got,
                          double sum[2])
{
    lh_status st = LH_OK;
    double *want = NULL;
    lh_shape shape = whole_shape(mine, place);
    bool out = folder[0] == '\0';
    bool counts = place->axis[LH_AXIS_SEQ].kind == LH_SHARD || a->mesh->coord[LH_AXIS_SEQ] == 0;
    sum[0] = sum[1] = 0.0;
    LH_TRY(whole(a, folder, name, &shape, &want));
    for (int64_t i = 0; counts && i < lh_shape_count(mine); i++) {
        int64_t at = whole_index(a, mine, place, i);
        if (out && a->valid != NULL) {
            int64_t row = at / (shape.dim[2] * shape.dim[3]);
            if (row % shape.dim[1] >= a->valid[row / shape.dim[1]]) continue;
        }
        sum[0] += ((double)got[i] - want[at]) * ((double)got[i] - want[at]);
        sum[1] += want[at] * want[at];
    }
done:
    lh_sum_f64(a->mesh->world, sum, 2, LH_SEND_OTHER);
    lh_free(&want);
    return st;
}

/* Is the value right? *all grows by the square of a gradient's norm. */
static bool agrees(layer *a, const char *folder, const char *name, const lh_shape *mine,
                   const lh_place *place, const lh_real *got)
{
    double sum[2];
    lh_status st = distance(a, folder, name, mine, place, got, sum);
    double error = sqrt(sum[0]);
    double size = sqrt(sum[1]);
    double allowed = LH_TOL_GRAD * size + (folder[0] == '\0' ? 0.0 : LH_TOL_GRAD_ALL * a->all);
    if (a->mesh->coord[LH_AXIS_SEQ] == 0)
        lh_test_report("parity %s%s/%s %s%s %.3g %g", a->ops->name,
                       a->desc.relative ? ",relative" : "", a->name, folder[0] != '\0' ? "d" : "",
                       name, error / allowed * LH_TOL_GRAD, LH_TOL_GRAD);
    if (st == LH_OK && size > 0.0 && error <= allowed) return true;
    print_error("%s of %s (%s): off by %.3g, allowed %.3g (norm %.3g) %s\n", name, a->name,
                a->layout->name, error, allowed, size, st != LH_OK ? lh_error_text() : "");
    return false;
}

/* Norm of all gradients of the file. */
static lh_status all_gradients(layer *a)
{
    lh_status st = LH_OK;
    char path[256];
    double sum = 0.0;
    char *names = NULL;
    double *values = NULL;
    int64_t count = 0;
    path_of(a, "", "gradients", path);
    LH_TRY(lh_h5_list(a->file, path, &names, &count));
    const char *name = names;
    for (int64_t i = 0; i < count; i++, name += strlen(name) + 1) {
        lh_h5_data data;
        path_of(a, "gradients", name, path);
        LH_TRY(lh_h5_find(a->file, path, &data));
        lh_shape shape = {.dtype = LH_REAL, .ndim = data.ndim};
        memcpy(shape.dim, data.dim, sizeof shape.dim);
        lh_h5_release(&data);
        LH_TRY(whole(a, "gradients", name, &shape, &values));
        for (int64_t k = 0; k < lh_shape_count(&shape); k++) sum += values[k] * values[k];
        lh_free(&values);
    }
    a->all = sqrt(sum);
done:
    lh_free(&values);
    lh_free(&names);
    return st;
}

/* Gradients of replicated inputs are PARTIAL: their sum. */
static lh_status sum_over_ranks(const layer *a, lh_real *x, int64_t n)
{
    lh_status st = LH_OK;
    double *sum = NULL;
    LH_TRY(lh_new((size_t)n * sizeof *sum, &sum));
    for (int64_t i = 0; i < n; i++) sum[i] = (double)x[i];
    lh_sum_f64(a->mesh->world, sum, n, LH_SEND_OTHER);
    for (int64_t i = 0; i < n; i++) x[i] = (lh_real)sum[i];
done:
    lh_free(&sum);
    return st;
}

static bool inputs_agree(lh_comm *c, layer *a)
{
    bool same = true;
    for (int i = 0; i < a->g.n_in; i++) {
        const lh_gradcheck_input *x = &a->g.in[i];
        if (a->input[i] >= BIAS_U)
            lh_assert_all_ok(c, sum_over_ranks(a, a->run.grad[i], lh_shape_count(&x->shape)));
        same = agrees(a, "gradients", input_names[a->input[i]], &x->shape, &x->place,
                      a->run.grad[i]) &&
               same;
    }
    return same;
}

static bool parameters_agree(lh_comm *c, layer *a)
{
    bool same = true;
    for (int64_t i = 0; i < a->params->count; i++) {
        const lh_param *p = a->params->item[i];
        size_t bytes = (size_t)lh_shape_count(&p->shape) * sizeof(lh_real);
        lh_real *grad = NULL;
        if (p->frozen) continue;
        lh_assert_all_ok(c, lh_new(bytes, &grad));
        lh_copy_out(a->device, grad, p->grad, bytes);
        same = agrees(a, "gradients", p->name, &p->shape, &p->place, grad) && same;
        lh_free(&grad);
    }
    return same;
}

static void check_case(lh_comm *c, lh_h5 *file, const char *name, const variant *how, lh_mesh *mesh)
{
    layer a;
    lh_place tokens;
    lh_status st = layer_open(&a, file, name, how, mesh);
    if (st != LH_OK) print_error("case %s:\n", name);
    lh_assert_all_ok(c, st);
    tokens = lh_place_tokens(a.layout);
    lh_assert_all_ok(c, all_gradients(&a));
    lh_params_zero_grad(a.params);
    lh_assert_all_ok(c, lh_gradcheck_step(&a.run));
    lh_assert_all_ok(c, lh_grads_reduce(mesh, a.params, a.send, SEND));
    bool same = agrees(&a, "", "out", &a.run.out_shape[0], &tokens, a.run.out[0]);
    same = inputs_agree(c, &a) && same;
    same = parameters_agree(c, &a) && same;
    lh_assert_all(c, same);
    layer_close(&a);
}

/* Does the mechanism of the case take sequences that lie in this way? */
static lh_status takes(lh_h5 *file, const char *name, const variant *how, bool *yes)
{
    lh_status st = LH_OK;
    layer a = {.file = file, .name = name, .how = how};
    char *text = NULL;
    *yes = true;
    if (!how->zigzag) goto done;
    LH_TRY(lh_h5_get_text(file, name, "config", &text));
    LH_TRY(lh_config_parse(text, strlen(text), name, LH_CONFIG_PARTIAL, &a.config));
    *yes = (a.config->model.attention[0].ops->caps & LH_ATTN_LAYOUTS) != 0;
done:
    lh_config_destroy(&a.config);
    lh_free(&text);
    return st;
}

/* Every case of a file, every way in which its sequence may lie. */
static void check_file(lh_comm *c, const char *name, int64_t cases)
{
    char path[1024];
    char *names = NULL;
    int64_t count = 0;
    lh_h5 *file = NULL;
    lh_mesh *mesh = NULL;
    (void)snprintf(path, sizeof path, "%s/%s.h5", LH_GOLDEN, name);
    lh_assert_all_ok(c, lh_mesh_create(1, &mesh));
    lh_assert_all_ok(c, lh_h5_open(NULL, path, &file));
    lh_assert_all_ok(c, lh_h5_list(file, "/", &names, &count));
    lh_assert_all(c, count == cases);
    const char *one = names;
    for (int64_t i = 0; i < count; i++, one += strlen(one) + 1) {
        for (size_t k = 0; k < sizeof variants / sizeof variants[0]; k++) {
            bool yes = false;
            lh_assert_all_ok(c, takes(file, one, &variants[k], &yes));
            if (yes) check_case(c, file, one, &variants[k], mesh);
        }
    }
    lh_free(&names);
    lh_assert_all_ok(c, lh_h5_close(&file));
    lh_mesh_destroy(&mesh);
}

static void test_windows(void **state)
{
    check_file(*state, "windows", 8);
}

static void test_relative(void **state)
{
    check_file(*state, "relative", 6);
}

static void test_performer(void **state)
{
    check_file(*state, "performer", 19);
}

static void test_linformer(void **state)
{
    check_file(*state, "linformer", 13);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_relative),
        cmocka_unit_test(test_performer),
        cmocka_unit_test(test_linformer),
    };
    return lh_test_mpi_main(argc, argv, "golden_attention", tests, sizeof tests / sizeof tests[0]);
}
