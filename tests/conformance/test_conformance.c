/* Every mechanism of the registry, and one of this test's own (wheel.c, one line in extra.def), is
 * asked the same:
 *
 *   the experiment file accepts its name and refuses what is no setting of it; it refuses what its caps deny;
 *   output and gradients equal dense softmax attention written out here, on any number of ranks;
 *   its gradient passes the Taylor test (double); a model of it is rank-invariant;
 *   bytes sent = predicted = counted without messages = brute force over the pattern;
 *   whichever allocation fails on one rank, all ranks get the error, and nothing leaks (the sanitizers look). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/random.h"
#include "experiments/config.h"
#include "tests/lh_model_test.h"
#include "tests/tol.h"

enum { QUERY, KEY, VALUE, BLOCK, INPUTS }; /* BLOCK: x, the block's input */
enum { WINDOW = 13, RIM = 24, LAYERS = 2 };

/* --- what a mechanism is known by
 * ---------------------------------------------------------------------------------- */

typedef struct mechanism {
    const char *name;
    const char *settings;                            /* behind its name in the experiment file */
    bool (*sees)(bool causal, int64_t i, int64_t j); /* NULL: no softmax over a pattern */
} mechanism;

static bool sees_full(bool causal, int64_t i, int64_t j)
{
    return !causal || j <= i;
}

static bool sees_window(bool causal, int64_t i, int64_t j)
{
    return (!causal || j <= i) && j >= i - WINDOW && j <= i + WINDOW;
}

static bool sees_wheel(bool causal, int64_t i, int64_t j)
{
    (void)causal;
    return j <= i && (j == 0 || i / RIM == j / RIM);
}

static const mechanism known[] = {
    {"full", "", sees_full},
    {"sliding_window", ", window: 13", sees_window},
    {"wheel", ", rim: 24", sees_wheel},
};

/* A mechanism that is not listed gets its default settings and all checks but the dense ones. */
static mechanism mechanism_of(const lh_attn_ops *ops)
{
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(known[i].name, ops->name) == 0) return known[i];
    return (mechanism){ops->name, "", NULL};
}

static lh_status config_of(const mechanism *m, bool causal, bool grouped, const char *more,
                           lh_config **out)
{
    char text[512];
    int n = snprintf(text, sizeof text,
                     "model: {kind: %s, vocab: 31, layers: %d, width: 16, heads: 4, kv_heads: %d, "
                     "head_width: 4,\n"
                     "        mlp_width: 32, attention: {mechanism: %s%s%s}}\n"
                     "data: {length: 101, batch: 2}\n",
                     causal ? "decoder" : "encoder", LAYERS, grouped ? 2 : 4, m->name, m->settings,
                     more);
    return lh_config_parse(text, (size_t)n, "conformance.yaml", LH_CONFIG_PARTIAL, out);
}

/* --- one attention operation on a mesh
 * ----------------------------------------------------------------------------- */

typedef struct probe {
    const lh_attn_ops *ops;
    lh_config *config; /* owns the settings */
    lh_attn_desc desc;
    void *state;
    lh_mesh *mesh; /* borrowed */
    lh_mesh *counting;
    lh_device *device, *count;
    lh_layout *layout;
    lh_params *params;
    lh_plan_cache *plans;
    lh_tape *tape;
    lh_memory *memory;
    void *arena, *host_arena, *in[INPUTS], *grad[INPUTS], *seed;
    lh_shape shape[INPUTS], whole[INPUTS]; /* of this rank; of all */
    double *out, *d_in[INPUTS];            /* host: what a run gave, [local elements] */
} probe;

/* Element `index` of the whole input k, moved by h along a direction; number INPUTS is the seed of
 * the output's gradient. */
static double element(int k, int64_t index, double h)
{
    double x = lh_random_normal(21, lh_stream_id(LH_STREAM_TEST, (uint32_t)k), (uint64_t)index);
    if (h != 0.0)
        x += h * lh_random_normal(22, lh_stream_id(LH_STREAM_TEST, (uint32_t)k), (uint64_t)index);
    return x;
}

/* Index in the whole [B, N, ...] of element i of this rank's [B, s, ...]. */
static int64_t probe_index(const probe *p, const lh_shape *shape, int64_t i)
{
    int64_t inner = lh_shape_count(shape) / (shape->dim[0] * shape->dim[1]);
    int64_t b = i / inner / shape->dim[1];
    int64_t row = i / inner % shape->dim[1];
    int64_t position = lh_layout_position(p->layout, p->mesh->coord[LH_AXIS_SEQ], row);
    return (b * p->desc.length + position) * inner + i % inner;
}

static lh_status probe_fill(probe *p, int k, double h, void *device)
{
    lh_status st = LH_OK;
    const lh_shape *shape = &p->shape[k == INPUTS ? QUERY : k];
    int64_t n = lh_shape_bytes(shape) == 0 ? 0 : lh_shape_count(shape);
    lh_real *host = NULL;
    LH_TRY(lh_new((size_t)n * sizeof *host, &host));
    for (int64_t i = 0; i < n; i++) host[i] = (lh_real)element(k, probe_index(p, shape, i), h);
    lh_copy_in(p->device, device, host, (size_t)n * sizeof *host);
done:
    lh_free(&host);
    return st;
}

static lh_status probe_record(probe *p, lh_device *device, lh_mesh *mesh, bool backward)
{
    lh_status st = LH_OK;
    lh_var in[INPUTS];
    lh_var out = {0};
    const void *data = NULL;
    lh_tape_reset(p->tape, device, p->memory, true);
    lh_plan_cache_step(p->plans);
    for (int k = 0; k < INPUTS; k++)
        LH_TRY(lh_tape_leaf(p->tape, p->in[k], p->grad[k], p->shape[k], lh_place_tokens(p->layout),
                            &in[k]));
    const lh_qkv qkv = {.x = in[BLOCK],
                        .q = in[QUERY],
                        .k = in[KEY],
                        .v = in[VALUE],
                        .mesh = mesh,
                        .plans = p->plans};
    LH_TRY(p->ops->forward(p->state, p->tape, &qkv, &out));
    LH_TRY(lh_var_data(p->tape, out, &data));
    if (!device->counting) {
        size_t n = (size_t)lh_shape_count(&p->shape[QUERY]);
        lh_real *host = NULL;
        LH_TRY(lh_new(n * sizeof *host, &host));
        lh_copy_out(device, host, data, n * sizeof *host);
        for (size_t i = 0; i < n; i++) p->out[i] = (double)host[i];
        lh_free(&host);
    }
    if (backward) LH_TRY(lh_tape_backward_from(p->tape, 1, &out, (const void *const *)&p->seed));
done:
    return st;
}

static lh_status probe_mechanism(probe *p, bool causal, bool grouped, int64_t n, bool unaligned)
{
    lh_status st = LH_OK;
    mechanism m = mechanism_of(p->ops);
    LH_TRY(config_of(&m, causal, grouped, "", &p->config));
    const lh_model_desc *d = &p->config->model;
    LH_TRY(lh_layout_contiguous(n, p->mesh->size[LH_AXIS_SEQ], 16, !unaligned, &p->layout));
    p->desc = (lh_attn_desc){.width = d->width,
                             .heads = d->heads,
                             .kv_heads = d->kv_heads,
                             .head_width = d->head_width,
                             .causal = causal,
                             .batch = 2,
                             .length = n,
                             .layout = p->layout,
                             .settings = d->attention[0].settings,
                             .seed = 1};
    LH_TRY(lh_attn_check(p->ops, &p->desc));
    LH_TRY(lh_params_create(p->device, p->mesh->coord, &p->params));
    LH_TRY(p->ops->parameters(&p->desc, p->params));
    LH_TRY(lh_params_allocate(p->params, true));
    LH_TRY(lh_params_initialise(p->params, 1));
    p->desc.params = p->params;
    LH_TRY(p->ops->create(&p->desc, &p->state));
    const lh_attn_desc *a = &p->desc;
    int64_t rows = p->layout->rows[p->mesh->coord[LH_AXIS_SEQ]];
    for (int w = 0; w < 2; w++) {
        lh_shape *s = w == 0 ? p->shape : p->whole;
        int64_t positions = w == 0 ? rows : n;
        s[QUERY] = lh_shape_4(LH_REAL, 2, positions, a->heads, a->head_width);
        s[KEY] = s[VALUE] = lh_shape_4(LH_REAL, 2, positions, a->kv_heads, a->head_width);
        s[BLOCK] = lh_shape_3(LH_REAL, 2, positions, a->width);
    }
done:
    return st;
}

static lh_status probe_buffers(probe *p)
{
    lh_status st = LH_OK;
    for (int k = 0; k < INPUTS; k++) {
        LH_TRY(lh_device_alloc(p->device, lh_shape_bytes(&p->shape[k]), &p->in[k]));
        LH_TRY(lh_device_alloc(p->device, lh_shape_bytes(&p->shape[k]), &p->grad[k]));
        LH_TRY(lh_new((size_t)lh_shape_count(&p->shape[k]) * sizeof(double), &p->d_in[k]));
        LH_TRY(probe_fill(p, k, 0.0, p->in[k]));
    }
    LH_TRY(lh_device_alloc(p->device, lh_shape_bytes(&p->shape[QUERY]), &p->seed));
    LH_TRY(probe_fill(p, INPUTS, 0.0, p->seed));
    LH_TRY(lh_new((size_t)lh_shape_count(&p->shape[QUERY]) * sizeof(double), &p->out));
done:
    return st;
}

static lh_status probe_open(probe *p, const lh_attn_ops *ops, lh_mesh *mesh, bool causal,
                            bool grouped, int64_t n, bool unaligned)
{
    lh_status st = LH_OK;
    *p = (probe){.ops = ops, .mesh = mesh};
    LH_TRY(lh_device_create_cpu("auto", 1, &p->device));
    LH_TRY(lh_device_create_count("auto", 1, &p->count));
    LH_TRY(probe_mechanism(p, causal, grouped, n, unaligned));
    LH_TRY(probe_buffers(p));
    LH_TRY(lh_plan_cache_create(&p->plans));
    LH_TRY(lh_tape_create(mesh->size, mesh->coord, &p->tape));
    LH_TRY(lh_memory_create(&p->memory));
    LH_TRY(lh_mesh_create_counting(1, mesh->size[LH_AXIS_SEQ], mesh->coord[LH_AXIS_SEQ],
                                   &p->counting));
    LH_TRY(lh_memory_count_begin(p->memory));
    LH_TRY(probe_record(p, p->count, p->counting, true));
    LH_TRY(lh_memory_count_end(p->memory));
    LH_TRY(lh_device_alloc(p->device, lh_memory_bytes(p->memory, LH_SPACE_DEVICE), &p->arena));
    LH_TRY(lh_host_alloc(lh_memory_bytes(p->memory, LH_SPACE_HOST), &p->host_arena));
done:
    return st;
}

static void probe_close(probe *p)
{
    for (int k = 0; k < INPUTS; k++) {
        lh_device_release(p->device, &p->in[k]);
        lh_device_release(p->device, &p->grad[k]);
        lh_free(&p->d_in[k]);
    }
    lh_device_release(p->device, &p->seed);
    lh_device_release(p->device, &p->arena);
    lh_host_release(&p->host_arena);
    lh_free(&p->out);
    lh_memory_destroy(&p->memory);
    lh_tape_destroy(&p->tape);
    lh_plan_cache_destroy(&p->plans);
    lh_params_destroy(&p->params);
    if (p->state != NULL) p->ops->destroy(&p->state);
    lh_mesh_destroy(&p->counting);
    lh_layout_destroy(&p->layout);
    lh_config_destroy(&p->config);
    lh_device_destroy(&p->count);
    lh_device_destroy(&p->device);
}

/* A step at inputs moved by h; gradients of sum(out * seed). Collective. */
static lh_status probe_run(probe *p, double h)
{
    lh_status st = LH_OK;
    for (int k = 0; k < INPUTS; k++) {
        int64_t n = lh_shape_count(&p->shape[k]);
        LH_TRY(probe_fill(p, k, h, p->in[k]));
        lh_run_fill(p->device, &(lh_fill_args){n, 0.0, p->grad[k]});
    }
    lh_params_zero_grad(p->params);
    lh_memory_replay(p->memory, p->device, p->arena, p->host_arena);
    LH_TRY(probe_record(p, p->device, p->mesh, true));
    for (int k = 0; k < INPUTS; k++) {
        int64_t n = lh_shape_count(&p->shape[k]);
        lh_real *host = NULL;
        LH_TRY(lh_new((size_t)n * sizeof *host, &host));
        lh_copy_out(p->device, host, p->grad[k], (size_t)n * sizeof *host);
        for (int64_t i = 0; i < n; i++) p->d_in[k][i] = (double)host[i];
        lh_free(&host);
    }
done:
    return st;
}

/* --- every mechanism in every form that its caps allow
 * --------------------------------------------------------------- */

typedef void (*check_fn)(lh_comm *c, lh_mesh *mesh, const lh_attn_ops *ops, bool causal,
                         bool grouped);

static void for_all_forms(lh_comm *c, check_fn check)
{
    lh_mesh *mesh = NULL;
    lh_assert_all_ok(c, lh_mesh_create(1, &mesh));
    for (int i = 0; i < lh_attn_count(); i++) {
        const lh_attn_ops *ops = lh_attn_at(i);
        for (int form = 0; form < 4; form++) {
            bool causal = form % 2 == 0;
            bool grouped = form / 2 == 1;
            if (!(ops->caps & (causal ? LH_ATTN_CAUSAL : LH_ATTN_BIDIRECTIONAL))) continue;
            if (grouped && !(ops->caps & LH_ATTN_GQA)) continue;
            check(c, mesh, ops, causal, grouped);
        }
    }
    lh_mesh_destroy(&mesh);
}

static void describe(const lh_attn_ops *ops, bool causal, bool grouped, int64_t n)
{
    print_error("mechanism %s, %s, %s heads, N %lld:\n", ops->name,
                causal ? "causal" : "bidirectional", grouped ? "grouped" : "all", (long long)n);
}

/* --- against dense attention
 * ------------------------------------------------------------------------------------------ */

typedef struct dense {
    const probe *p;
    bool (*sees)(bool causal, int64_t i, int64_t j);
    double *x[INPUTS + 1]; /* whole q, k, v, (unused), seed */
    double *out, *d[3];    /* whole output and gradients of q, k, v */
    double *score;         /* [N] */
} dense;

static lh_status dense_open(dense *e, const probe *p, bool (*sees)(bool, int64_t, int64_t))
{
    lh_status st = LH_OK;
    *e = (dense){.p = p, .sees = sees};
    for (int k = 0; k <= INPUTS; k++) {
        int64_t n = lh_shape_count(&p->whole[k == INPUTS ? QUERY : k]);
        LH_TRY(lh_new((size_t)n * sizeof(double), &e->x[k]));
        for (int64_t i = 0; i < n; i++) e->x[k][i] = (double)(lh_real)element(k, i, 0.0);
        if (k < 3) LH_TRY(lh_new((size_t)n * sizeof(double), &e->d[k]));
    }
    LH_TRY(lh_new((size_t)lh_shape_count(&p->whole[QUERY]) * sizeof(double), &e->out));
    LH_TRY(lh_new((size_t)p->desc.length * sizeof(double), &e->score));
done:
    return st;
}

static void dense_close(dense *e)
{
    for (int k = 0; k <= INPUTS; k++) lh_free(&e->x[k]);
    for (int k = 0; k < 3; k++) lh_free(&e->d[k]);
    lh_free(&e->out);
    lh_free(&e->score);
}

static double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static void add_scaled(double *to, double scale, const double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) to[i] += scale * x[i];
}

/* One query row of one head: its output, and what it adds to the gradients. */
static void dense_row(dense *e, int64_t b, int64_t i, int64_t h)
{
    const lh_attn_desc *d = &e->p->desc;
    int64_t w = d->head_width;
    int64_t at = ((b * d->length + i) * d->heads + h) * w;
    int64_t head = h / (d->heads / d->kv_heads);
    const int64_t key0 = (b * d->length * d->kv_heads + head) * w;
    const int64_t step = d->kv_heads * w;
    double scale = 1.0 / sqrt((double)w);
    double max = -HUGE_VAL;
    double sum = 0.0;
    for (int64_t j = 0; j < d->length; j++) {
        e->score[j] = -HUGE_VAL;
        if (!e->sees(d->causal, i, j)) continue;
        e->score[j] = scale * dot(e->x[QUERY] + at, e->x[KEY] + key0 + j * step, w);
        max = fmax(max, e->score[j]);
    }
    for (int64_t j = 0; j < d->length; j++) sum += e->score[j] = exp(e->score[j] - max);
    for (int64_t j = 0; j < d->length; j++) {
        e->score[j] /= sum;
        add_scaled(e->out + at, e->score[j], e->x[VALUE] + key0 + j * step, w);
    }
    const double *seed = e->x[INPUTS] + at;
    double mean = dot(e->out + at, seed, w);
    for (int64_t j = 0; j < d->length; j++) {
        int64_t key = key0 + j * step;
        double ds = e->score[j] * (dot(seed, e->x[VALUE] + key, w) - mean) * scale;
        add_scaled(e->d[QUERY] + at, ds, e->x[KEY] + key, w);
        add_scaled(e->d[KEY] + key, ds, e->x[QUERY] + at, w);
        add_scaled(e->d[VALUE] + key, e->score[j], seed, w);
    }
}

static bool same_rows(const dense *e, int k, const double *got, const double *want,
                      const char *what)
{
    const lh_shape *shape = &e->p->shape[k];
    double worst = 0.0;
    double largest = 0.0;
    for (int64_t i = 0; i < lh_shape_count(&e->p->whole[k]); i++)
        largest = fmax(largest, fabs(want[i]));
    for (int64_t i = 0; i < lh_shape_count(shape); i++) {
        double error = fabs(got[i] - want[probe_index(e->p, shape, i)]);
        if (!(error <= worst)) worst = error;
    }
    double allowed = lh_tol_sum((double)e->p->desc.length) * largest;
    if (!(worst <= allowed)) print_error("%s: off by %.3g, allowed %.3g\n", what, worst, allowed);
    return worst <= allowed;
}

static void check_dense(lh_comm *c, lh_mesh *mesh, const lh_attn_ops *ops, bool causal,
                        bool grouped)
{
    const int64_t lengths[] = {101, 40, 3};
    const char *const names[] = {"dq", "dk", "dv"};
    mechanism m = mechanism_of(ops);
    if (m.sees == NULL) return;
    for (int i = 0; i < 3; i++) {
        probe p;
        dense e;
        lh_assert_all_ok(c,
                         probe_open(&p, ops, mesh, causal, grouped, lengths[i], i == 0 && grouped));
        lh_assert_all_ok(c, probe_run(&p, 0.0));
        lh_assert_all_ok(c, dense_open(&e, &p, m.sees));
        for (int64_t row = 0; row < 2 * lengths[i] * p.desc.heads; row++)
            dense_row(&e, row / p.desc.heads / lengths[i], row / p.desc.heads % lengths[i],
                      row % p.desc.heads);
        bool same = same_rows(&e, QUERY, p.out, e.out, "output");
        for (int k = 0; k < 3; k++) same = same_rows(&e, k, p.d_in[k], e.d[k], names[k]) && same;
        if (!same) describe(ops, causal, grouped, lengths[i]);
        lh_assert_all(c, same);
        dense_close(&e);
        probe_close(&p);
    }
}

static void test_equals_dense_attention(void **state)
{
    for_all_forms(*state, check_dense);
}

/* --- gradients: Taylor's remainder falls with the square of the step
 * ------------------------------------------------- */

#ifdef LH_PRECISION_DOUBLE
static double probe_value(const probe *p)
{
    double sum = 0.0;
    for (int64_t i = 0; i < lh_shape_count(&p->shape[QUERY]); i++)
        sum += p->out[i] * element(INPUTS, probe_index(p, &p->shape[QUERY], i), 0.0);
    lh_sum_f64(p->mesh->world, &sum, 1, LH_SEND_OTHER);
    return sum;
}

static double probe_slope(const probe *p)
{
    double sum = 0.0;
    for (int k = 0; k < INPUTS; k++)
        for (int64_t i = 0; i < lh_shape_count(&p->shape[k]); i++) {
            int64_t at = probe_index(p, &p->shape[k], i);
            sum += p->d_in[k][i] * (element(k, at, 1.0) - element(k, at, 0.0));
        }
    lh_sum_f64(p->mesh->world, &sum, 1, LH_SEND_OTHER);
    return sum;
}

static void check_taylor(lh_comm *c, lh_mesh *mesh, const lh_attn_ops *ops, bool causal,
                         bool grouped)
{
    enum { HALVINGS = 3 };
    probe p;
    double remainder[HALVINGS + 1];
    lh_assert_all_ok(c, probe_open(&p, ops, mesh, causal, grouped, 101, true));
    lh_assert_all_ok(c, probe_run(&p, 0.0));
    double value = probe_value(&p);
    double slope = probe_slope(&p);
    double h = 1e-3;
    for (int i = 0; i <= HALVINGS; i++, h /= 2.0) {
        lh_assert_all_ok(c, probe_run(&p, h));
        remainder[i] = fabs(probe_value(&p) - value - h * slope);
    }
    double order = log2(remainder[0] / remainder[HALVINGS]) / HALVINGS;
    if (!(order >= LH_TOL_TAYLOR_SLOPE)) {
        describe(ops, causal, grouped, 101);
        print_error("the remainder falls with power %.3f of the step\n", order);
    }
    lh_assert_all(c, order >= LH_TOL_TAYLOR_SLOPE);
    probe_close(&p);
}

static void test_gradient_by_taylor(void **state)
{
    for_all_forms(*state, check_taylor);
}
#endif

/* --- bytes
 * ------------------------------------------------------------------------------------------------------------ */

/* Rows of rank `from` that some query of rank `to` sees, counted one by one. */
static int64_t rows_seen(const lh_layout *l, const mechanism *m, bool causal, int from, int to)
{
    int64_t rows = 0;
    for (int64_t j = 0; j < l->rows[from]; j++) {
        int64_t key = lh_layout_position(l, from, j);
        bool seen = false;
        for (int64_t i = 0; i < l->rows[to] && !seen; i++)
            seen = m->sees(causal, lh_layout_position(l, to, i), key);
        rows += seen;
    }
    return rows;
}

static bool bytes_by_brute_force(const probe *p, const lh_cost *cost)
{
    const lh_attn_desc *d = &p->desc;
    mechanism m = mechanism_of(p->ops);
    int rank = p->mesh->coord[LH_AXIS_SEQ];
    int64_t row = 2 * d->batch * d->kv_heads * d->head_width * (int64_t)lh_dtype_bytes(LH_REAL);
    int64_t sent = 0;
    int64_t received = 0;
    if (m.sees == NULL) return true;
    for (int r = 0; r < p->layout->ranks; r++) {
        if (r == rank) continue;
        sent += rows_seen(p->layout, &m, d->causal, rank, r);
        received += rows_seen(p->layout, &m, d->causal, r, rank);
    }
    bool again = cost->backward_bytes != received * row; /* not kept: fetched twice */
    return cost->forward_bytes == sent * row &&
           cost->backward_bytes == (received + (again ? sent : 0)) * row;
}

static void check_bytes(lh_comm *c, lh_mesh *mesh, const lh_attn_ops *ops, bool causal,
                        bool grouped)
{
    const int64_t lengths[] = {101, 101, 40, 3, 1};
    for (int i = 0; i < 5; i++) {
        probe p;
        lh_cost cost;
        lh_assert_all_ok(c, probe_open(&p, ops, mesh, causal, grouped, lengths[i], i == 1));
        *mesh->traffic = (lh_traffic){0};
        lh_assert_all_ok(c, probe_run(&p, 0.0));
        lh_assert_all_ok(
            c, ops->predict(&p.desc, mesh->size[LH_AXIS_SEQ], mesh->coord[LH_AXIS_SEQ], &cost));
        const int64_t *sent = mesh->traffic->bytes;
        bool same = sent[LH_SEND_FORWARD] == cost.forward_bytes &&
                    sent[LH_SEND_BACKWARD] == cost.backward_bytes &&
                    sent[LH_SEND_SUMMARY] == cost.summary_bytes &&
                    memcmp(sent, p.counting->traffic->bytes, LH_SEND_OTHER * sizeof *sent) == 0 &&
                    bytes_by_brute_force(&p, &cost);
        if (!same) {
            describe(ops, causal, grouped, lengths[i]);
            print_error("rank %d sent %lld forward, %lld backward; predicted %lld and %lld\n",
                        mesh->coord[LH_AXIS_SEQ], (long long)sent[LH_SEND_FORWARD],
                        (long long)sent[LH_SEND_BACKWARD], (long long)cost.forward_bytes,
                        (long long)cost.backward_bytes);
        }
        lh_assert_all(c, same);
        probe_close(&p);
    }
}

static void test_bytes_as_predicted(void **state)
{
    for_all_forms(*state, check_bytes);
}

/* --- models
 * ----------------------------------------------------------------------------------------------------------- */

static void model_run(lh_comm *c, const lh_rig_desc *d, lh_mesh *mesh, lh_rig *r, double *loss,
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

static void check_model(lh_comm *c, lh_mesh *mesh, const lh_attn_ops *ops, bool causal,
                        bool grouped)
{
    mechanism m = mechanism_of(ops);
    lh_config *config = NULL;
    lh_mesh *self = NULL;
    lh_rig r[2];
    double loss[2];
    double *grads[2] = {NULL, NULL};
    lh_assert_all_ok(c, config_of(&m, causal, grouped, "", &config));
    lh_rig_desc d = {.model = config->model, .batch = 2, .length = 101, .chunk = 16, .seed = 7};
    lh_assert_all_ok(c, lh_mesh_create_self(&self));
    model_run(c, &d, self, &r[0], &loss[0], &grads[0]);
    model_run(c, &d, mesh, &r[1], &loss[1], &grads[1]);
    bool same = lh_test_within(loss[1], loss[0], LH_TOL_LOSS, 0.0) &&
                lh_rig_grads_agree(r[0].params, grads[1], grads[0]);
    if (!same) describe(ops, causal, grouped, 101);
    lh_assert_all(c, same);
    for (int i = 0; i < 2; i++) {
        lh_free(&grads[i]);
        lh_rig_close(&r[i]);
    }
    lh_mesh_destroy(&self);
    lh_config_destroy(&config);
}

static void test_model_is_rank_invariant(void **state)
{
    for_all_forms(*state, check_model);
}

/* --- settings and refusals
 * --------------------------------------------------------------------------------------------- */

static void test_settings_from_the_file(void **state)
{
    lh_comm *c = *state;
    for (int i = 0; i < lh_attn_count(); i++) {
        const lh_attn_ops *ops = lh_attn_at(i);
        mechanism m = mechanism_of(ops);
        bool causal = (ops->caps & LH_ATTN_CAUSAL) != 0;
        lh_config *config = NULL;
        lh_assert_all(c, lh_attn_find(ops->name) == ops);
        lh_assert_all_ok(c, config_of(&m, causal, false, "", &config));
        for (int l = 0; l < LAYERS; l++) lh_assert_all(c, config->model.attention[l].ops == ops);
        lh_config_destroy(&config);
        lh_assert_all_code(c, config_of(&m, causal, false, ", no_such_setting: 1", &config),
                           LH_ERR_USAGE);
        lh_assert_all(c, strstr(lh_error_text(), "no_such_setting") != NULL && config == NULL);
    }
    lh_error_clear();
}

/* A form that caps deny is refused with the mechanism's name, by the check and by a model. */
static void check_refusal(lh_comm *c, const lh_attn_ops *ops, const void *settings, bool causal,
                          bool grouped)
{
    lh_model_desc d = {.kind = causal ? LH_MODEL_DECODER : LH_MODEL_ENCODER,
                       .vocab = 7,
                       .layers = 1,
                       .width = 8,
                       .heads = 2,
                       .kv_heads = grouped ? 1 : 2,
                       .head_width = 4,
                       .mlp_width = 8};
    const int coord[LH_AXES] = {0, 0};
    lh_device *device = NULL;
    lh_layout *layout = NULL;
    lh_params *params = NULL;
    lh_assert_all_ok(c, lh_device_create_cpu("auto", 1, &device));
    lh_assert_all_ok(c, lh_layout_contiguous(20, 1, 16, true, &layout));
    lh_assert_all_ok(c, lh_params_create(device, coord, &params));
    const lh_model_shape shape = {.batch = 1, .length = 20, .layout = layout};
    d.attention[0] = (lh_attn_choice){ops, (void *)(uintptr_t)settings};
    lh_assert_all_code(c, lh_model_declare(&d, &shape, params), LH_ERR_UNSUP);
    lh_assert_all(c, strstr(lh_error_text(), ops->name) != NULL);
    lh_params_destroy(&params);
    lh_layout_destroy(&layout);
    lh_device_destroy(&device);
    lh_error_clear();
}

static void test_refuses_what_caps_deny(void **state)
{
    lh_comm *c = *state;
    for (int i = 0; i < lh_attn_count(); i++) {
        const lh_attn_ops *ops = lh_attn_at(i);
        mechanism m = mechanism_of(ops);
        bool causal = (ops->caps & LH_ATTN_CAUSAL) != 0;
        lh_config *config = NULL;
        lh_assert_all_ok(c, config_of(&m, causal, false, "", &config));
        const void *settings = config->model.attention[0].settings;
        if (!causal) check_refusal(c, ops, settings, true, false);
        if (!(ops->caps & LH_ATTN_BIDIRECTIONAL)) check_refusal(c, ops, settings, false, false);
        if (!(ops->caps & LH_ATTN_GQA)) check_refusal(c, ops, settings, causal, true);
        lh_config_destroy(&config);
    }
}

/* --- failing allocations
 * ------------------------------------------------------------------------------------------------ */

/* Everything that comes before the first message: parameters, mechanism, plans, the counting pass;
 * of this rank. */
static lh_status prepare(const lh_rig_desc *d, const lh_mesh *mesh, int64_t fail_at)
{
    int64_t peak = 0;
    lh_new_fail_at(fail_at);
    lh_status st =
        lh_rig_plan(d, 1, mesh->size[LH_AXIS_SEQ], mesh->coord[LH_AXIS_SEQ], &peak, NULL);
    lh_new_fail_at(0);
    return st;
}

static void check_allocations(lh_comm *c, lh_mesh *mesh, const lh_attn_ops *ops, bool causal,
                              bool grouped)
{
    mechanism m = mechanism_of(ops);
    lh_config *config = NULL;
    int ranks = lh_comm_size(c);
    if (grouped) return; /* the same allocations */
    lh_assert_all_ok(c, config_of(&m, causal, false, "", &config));
    lh_rig_desc d = {.model = config->model, .batch = 2, .length = 101, .chunk = 16, .seed = 7};
    d.model.layers = 1;
    lh_assert_all_ok(c, prepare(&d, mesh, 0));
    int64_t before = lh_new_count();
    lh_assert_all_ok(c, prepare(&d, mesh, 0));
    int64_t allocations = lh_new_count() - before;
    int64_t most = allocations;
    lh_max_i64(c, &most, 1, LH_SEND_OTHER);
    for (int64_t n = 1; n <= most; n++) {
        int64_t fails = lh_comm_rank(c) == n % ranks && n <= allocations;
        lh_status mine = prepare(&d, mesh, fails ? n : 0);
        lh_status all = lh_agree(c, mine);
        bool right = (mine == LH_ERR_MEMORY) == fails && (fails || mine == LH_OK);
        lh_max_i64(c, &fails, 1, LH_SEND_OTHER);
        right = right && all == (fails ? LH_ERR_MEMORY : LH_OK);
        if (!right) {
            describe(ops, causal, grouped, d.length);
            print_error("allocation %lld of %lld: '%s' here, '%s' agreed\n", (long long)n,
                        (long long)most, lh_status_text(mine), lh_status_text(all));
        }
        lh_assert_all(c, right);
    }
    lh_config_destroy(&config);
    lh_error_clear();
}

static void test_every_allocation_may_fail(void **state)
{
    for_all_forms(*state, check_allocations);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_settings_from_the_file),
        cmocka_unit_test(test_refuses_what_caps_deny),
        cmocka_unit_test(test_equals_dense_attention),
#ifdef LH_PRECISION_DOUBLE
        cmocka_unit_test(test_gradient_by_taylor),
#endif
        cmocka_unit_test(test_bytes_as_predicted),
        cmocka_unit_test(test_model_is_rank_invariant),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    return lh_test_mpi_main(argc, argv, "conformance", tests, sizeof tests / sizeof tests[0]);
}
