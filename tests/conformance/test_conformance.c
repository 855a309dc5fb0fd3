/* Every mechanism of the registry, and one of this test's own (wheel.c, one line in extra.def), is
 * asked the same:
 *
 *   the experiment file accepts its name and refuses what is no setting of it; it refuses what its caps deny;
 *   output and gradients equal dense softmax attention written out here, on any number of ranks;
 *   its gradient passes the Taylor test (double; not where a maximum is detached); a model of it is rank-invariant;
 *   bytes sent = predicted = counted without messages = brute force over the pattern, as real numbers and as
 *   bfloat16; with device.store: bfloat16 the model is rank-invariant, and close to what it is without;
 *   whichever allocation fails on one rank, all ranks get the error, and nothing leaks (the sanitizers look). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/random.h"
#include "tests/conformance/probe.h"
#include "tests/tol.h"

enum { WINDOW = 13, RIM = 24, LAYERS = 2 };

/* --- what a mechanism is known by
 * ---------------------------------------------------------------------------------- */

static bool sees_full(bool causal, int64_t head, int64_t i, int64_t j)
{
    (void)head;
    return !causal || j <= i;
}

static bool sees_window(bool causal, int64_t head, int64_t i, int64_t j)
{
    (void)head;
    return (!causal || j <= i) && j >= i - WINDOW && j <= i + WINDOW;
}

/* dilation: [[1, 1, 3, 3], 2], window 4 */
static bool sees_dilated(bool causal, int64_t head, int64_t i, int64_t j)
{
    int64_t step = head < 2 ? 1 : 3;
    return (!causal || j <= i) && (j - i) % step == 0 && j >= i - 4 * step && j <= i + 4 * step;
}

static bool sees_wheel(bool causal, int64_t head, int64_t i, int64_t j)
{
    (void)causal, (void)head;
    return j <= i && (j == 0 || i / RIM == j / RIM);
}

#define DILATED ", window: 4, dilation: [[1, 1, 3, 3], 2]"

static const variant known[] = {
    {.mechanism = "full", .settings = "", .sees = sees_full},
    {.mechanism = "full", .settings = "", .sees = sees_full, .zigzag = true, .relative = true},
    {.mechanism = "full", .settings = "", .sees = sees_full, .documents = true, .valid = true},
    {.mechanism = "sliding_window", .settings = ", window: 13", .sees = sees_window},
    {.mechanism = "sliding_window", .settings = DILATED, .sees = sees_dilated},
    {.mechanism = "sliding_window", .settings = DILATED, .sees = sees_dilated, .zigzag = true},
    {.mechanism = "sliding_window", .settings = DILATED, .sees = sees_dilated, .relative = true},
    {.mechanism = "sliding_window",
     .settings = ", window: 13",
     .sees = sees_window,
     .documents = true,
     .relative = true},
    {.mechanism = "sliding_window",
     .settings = DILATED ", global: first",
     .sees = sees_dilated,
     .first = true},
    {.mechanism = "sliding_window",
     .settings = ", window: 13, global: task",
     .sees = sees_window,
     .task = true,
     .valid = true},
    {.mechanism = "sliding_window",
     .settings = DILATED ", global: task",
     .sees = sees_dilated,
     .task = true,
     .zigzag = true},
    {.mechanism = "performer", .settings = ", features: 16", .detached = true},
    {.mechanism = "performer", .settings = ", features: 16, kernel: relu", .valid = true},
    {.mechanism = "performer",
     .settings = ", features: 8, estimator: hyperbolic",
     .zigzag = true,
     .detached = true},
    {.mechanism = "linformer", .settings = ", k: 8"},
    {.mechanism = "linformer", .settings = ", k: 8, sharing: none", .valid = true},
    {.mechanism = "linformer", .settings = ", k: 1, projection: mean"},
    {.mechanism = "linformer", .settings = ", k: [6, 8], sharing: kv", .zigzag = true},
    {.mechanism = "wheel", .settings = ", rim: 24", .sees = sees_wheel},
    /* by heads: more and fewer than ranks, key/value heads on several ranks; groups of two with a ring */
    {.mechanism = "full", .settings = "", .sees = sees_full, .ways = LH_RIG_ALL, .heads = 8},
    {.mechanism = "full",
     .settings = "",
     .sees = sees_full,
     .ways = LH_RIG_ALL,
     .heads = 3,
     .kv_heads = 1,
     .zigzag = true,
     .relative = true},
    {.mechanism = "full",
     .settings = "",
     .sees = sees_full,
     .ways = 2,
     .heads = 6,
     .kv_heads = 2,
     .documents = true,
     .valid = true},
    {.mechanism = "sliding_window",
     .settings = ", window: 13",
     .sees = sees_window,
     .ways = LH_RIG_ALL,
     .heads = 6,
     .kv_heads = 3,
     .documents = true},
    {.mechanism = "sliding_window",
     .settings = DILATED ", global: task",
     .sees = sees_dilated,
     .ways = 2,
     .task = true,
     .zigzag = true},
    {.mechanism = "sliding_window",
     .settings = DILATED ", global: first",
     .sees = sees_dilated,
     .ways = LH_RIG_ALL,
     .first = true},
    {.mechanism = "sliding_window",
     .settings = DILATED,
     .sees = sees_dilated,
     .ways = 2,
     .relative = true},
    /* mechanisms that do not say they can keep their own exchange */
    {.mechanism = "performer", .settings = ", features: 8", .ways = LH_RIG_ALL, .detached = true},
    {.mechanism = "wheel", .settings = ", rim: 24", .sees = sees_wheel, .ways = 2},
};
enum { KNOWN = sizeof known / sizeof known[0] };

/* Variant number `number` of a mechanism, NULL: it has no more. A mechanism that is not listed gets
 * its default settings and all checks but the dense ones, alone and with padding. */
static const variant *variant_of(const lh_attn_ops *ops, int number, variant *room)
{
    int found = 0;
    for (int i = 0; i < KNOWN; i++)
        if (strcmp(known[i].mechanism, ops->name) == 0 && found++ == number) return &known[i];
    if (found > 0 || number > 1) return NULL;
    *room = (variant){.mechanism = ops->name, .settings = "", .valid = number == 1};
    return room;
}

static lh_status config_of(const variant *m, bool causal, bool grouped, const char *more,
                           lh_config **out)
{
    char text[512];
    int heads = m->heads > 0 ? m->heads : 4;
    int kv_heads = m->kv_heads > 0 ? m->kv_heads : 2;
    int n = snprintf(text, sizeof text,
                     "model: {kind: %s, vocab: 31, layers: %d, width: 16, heads: %d, kv_heads: %d, "
                     "head_width: 4,\n"
                     "        mlp_width: 32, position: %s, attention: {mechanism: %s%s%s}}\n"
                     "data: {length: 101, batch: 2}\n",
                     causal ? "decoder" : "encoder", LAYERS, heads, grouped ? kv_heads : heads,
                     m->relative ? "relative" : "rotary", m->mechanism, m->settings, more);
    return lh_config_parse(text, (size_t)n, "conformance.yaml", LH_CONFIG_PARTIAL, out);
}

/* A mechanism in one of its forms. */
typedef struct form {
    lh_comm *comm;
    lh_mesh *mesh;
    lh_mesh *split[3]; /* by ways: not at all, for all ranks, for two */
    const lh_attn_ops *ops;
    const variant *variant;
    bool causal, grouped;
    lh_dtype store; /* of the tape */
} form;

/* --- one attention operation on a mesh
 * ----------------------------------------------------------------------------- */

/* Element `index` of the whole input k, moved by h along a direction; number INPUTS is the seed of
 * the output's gradient. */
double element(int k, int64_t index, double h)
{
    double x = lh_random_normal(21, lh_stream_id(LH_STREAM_TEST, (uint32_t)k), (uint64_t)index);
    if (h != 0.0)
        x += h * lh_random_normal(22, lh_stream_id(LH_STREAM_TEST, (uint32_t)k), (uint64_t)index);
    return x;
}

int64_t probe_index(const probe *p, int k, int64_t i)
{
    const lh_shape *shape = &p->shape[k == INPUTS ? QUERY : k];
    if (k >= REL_U && k <= REL_W) return i;
    int64_t inner = lh_shape_count(shape) / (shape->dim[0] * shape->dim[1]);
    int64_t b = i / inner / shape->dim[1];
    int64_t row = i / inner % shape->dim[1];
    int64_t position = lh_layout_position(p->layout, p->mesh->coord[LH_AXIS_SEQ], row);
    return (b * p->desc.length + position) * inner + i % inner;
}

int64_t document_begin(const probe *p, int64_t b, int64_t i, int64_t *end)
{
    int64_t size = b == 0 ? 17 : 29;
    int64_t begin = i / size * size;
    *end = begin + size < p->desc.length ? begin + size : p->desc.length;
    return begin;
}

bool is_global(const probe *p, int64_t b, int64_t i)
{
    if (p->variant->first) return i == 0;
    for (int64_t k = 0; k < p->global_count[b]; k++)
        if (p->global[b * GLOBALS + k] == i) return !p->variant->valid || i < p->valid[b];
    return false;
}

static lh_status probe_fill(probe *p, int k, double h, void *device)
{
    lh_status st = LH_OK;
    int64_t n = lh_shape_count(&p->shape[k == INPUTS ? QUERY : k]);
    lh_real *host = NULL;
    LH_TRY(lh_new((size_t)n * sizeof *host, &host));
    for (int64_t i = 0; i < n; i++) host[i] = (lh_real)element(k, probe_index(p, k, i), h);
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
        LH_TRY(lh_tape_leaf(p->tape, p->in[k], p->grad[k], p->shape[k],
                            k < REL_U ? lh_place_tokens(p->layout) : lh_place_replicated(),
                            &in[k]));
    lh_qkv qkv = {.x = in[BLOCK],
                  .q = in[QUERY],
                  .k = in[KEY],
                  .v = in[VALUE],
                  .valid = p->variant->valid ? p->valid : NULL,
                  .documents = p->variant->documents ? p->documents : NULL,
                  .spread_documents = p->variant->documents ? p->spread_documents : NULL,
                  .global = p->variant->task ? &p->list : NULL,
                  .mesh = mesh,
                  .plans = p->plans};
    if (p->variant->relative) {
        qkv.relative_u = in[REL_U];
        qkv.relative_v = in[REL_V];
        qkv.relative_weight = in[REL_W];
    }
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
    LH_TRY(config_of(p->variant, causal, grouped, "", &p->config));
    const lh_model_desc *d = &p->config->model;
    if (p->variant->zigzag)
        LH_TRY(lh_layout_zigzag(n, p->mesh->size[LH_AXIS_SEQ], 16, !unaligned, &p->layout));
    else
        LH_TRY(lh_layout_contiguous(n, p->mesh->size[LH_AXIS_SEQ], 16, !unaligned, &p->layout));
    if (p->mesh->ways > 1 && (p->ops->caps & LH_ATTN_SPREAD) != 0)
        LH_TRY(lh_spread_create(p->layout, p->mesh->ways, &p->spread));
    p->desc = (lh_attn_desc){.width = d->width,
                             .heads = d->heads,
                             .kv_heads = d->kv_heads,
                             .head_width = d->head_width,
                             .causal = causal,
                             .bias = true,
                             .batch = BATCH,
                             .length = n,
                             .layout = p->layout,
                             .max_length = n,
                             .table = p->layout,
                             .spread = p->spread,
                             .relative = p->variant->relative,
                             .documents = p->variant->documents,
                             .max_global = p->variant->task ? GLOBALS : 0,
                             .wire = p->store,
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
        s[REL_U] = s[REL_V] = lh_shape_1(LH_REAL, a->heads * a->head_width);
        s[REL_W] = lh_shape_2(LH_REAL, a->heads * a->head_width, a->width);
    }
done:
    return st;
}

/* Limits of the documents of a rank's rows. */
static lh_status probe_documents(const probe *p, const lh_layout *l, int rank, int32_t **out)
{
    lh_status st = LH_OK;
    int64_t rows = l->rows[rank];
    LH_TRY(lh_new((size_t)(2 * BATCH * rows) * sizeof **out, out));
    for (int64_t i = 0; i < BATCH * rows; i++) {
        int64_t end = 0;
        int64_t at = lh_layout_position(l, rank, i % rows);
        (*out)[2 * i] = (int32_t)document_begin(p, i / rows, at, &end);
        (*out)[2 * i + 1] = (int32_t)end;
    }
done:
    return st;
}

/* Padding, documents and global tokens: others in each sequence. */
static lh_status probe_sight(probe *p)
{
    lh_status st = LH_OK;
    int64_t n = p->desc.length;
    int rank = p->mesh->coord[LH_AXIS_SEQ];
    const int64_t global[BATCH][GLOBALS] = {{0, n / 2, n - 1}, {n / 3, n, n}};
    LH_TRY(probe_documents(p, p->layout, rank, &p->documents));
    if (p->spread != NULL)
        LH_TRY(probe_documents(p, p->spread->to, rank / p->spread->ways, &p->spread_documents));
    for (int64_t b = 0; b < BATCH; b++) {
        p->valid[b] = b == 0 ? n : n * 2 / 3;
        for (int64_t k = 0; k < GLOBALS; k++) {
            if (global[b][k] >= n || (k > 0 && global[b][k] <= global[b][k - 1])) break;
            p->global[b * GLOBALS + p->global_count[b]++] = global[b][k];
        }
    }
    p->list = (lh_row_list){GLOBALS, p->global_count, p->global};
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

static lh_status probe_open(probe *p, const form *f, int64_t n, bool unaligned)
{
    lh_status st = LH_OK;
    lh_mesh *mesh = f->mesh;
    *p = (probe){.ops = f->ops, .variant = f->variant, .mesh = mesh, .store = f->store};
    LH_TRY(lh_device_create_cpu(lh_test_isa(), 1, &p->device));
    LH_TRY(lh_device_create_count(lh_test_isa(), 1, &p->count));
    LH_TRY(probe_mechanism(p, f->causal, f->grouped, n, unaligned));
    LH_TRY(probe_sight(p));
    LH_TRY(probe_buffers(p));
    LH_TRY(lh_plan_cache_create(&p->plans));
    LH_TRY(lh_tape_create(mesh->size, mesh->coord, &p->tape));
    lh_tape_store(p->tape, p->store);
    LH_TRY(lh_memory_create(&p->memory));
    LH_TRY(lh_mesh_create_counting(1, mesh->size[LH_AXIS_SEQ], mesh->coord[LH_AXIS_SEQ],
                                   &p->counting));
    LH_TRY(lh_mesh_split(p->counting, mesh->ways));
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
    lh_free(&p->documents);
    lh_free(&p->spread_documents);
    lh_memory_destroy(&p->memory);
    lh_tape_destroy(&p->tape);
    lh_plan_cache_destroy(&p->plans);
    lh_params_destroy(&p->params);
    if (p->state != NULL) p->ops->destroy(&p->state);
    lh_mesh_destroy(&p->counting);
    lh_spread_destroy(&p->spread);
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

typedef void (*check_fn)(const form *f);

static void for_all_variants(form *f, check_fn check)
{
    variant room;
    for (int i = 0; (f->variant = variant_of(f->ops, i, &room)) != NULL; i++) {
        if (f->variant->zigzag && !(f->ops->caps & LH_ATTN_LAYOUTS)) continue;
        f->mesh = f->split[f->variant->ways == LH_RIG_ALL ? 1 : f->variant->ways];
        if (f->variant->ways != 0 && f->mesh->ways == 1) continue; /* as without */
        check(f);
    }
}

static void for_all_forms(lh_comm *c, check_fn check)
{
    form f = {.comm = c};
    for (int i = 0; i < 3; i++) {
        int ways = lh_rig_ways(i == 1 ? LH_RIG_ALL : i, lh_comm_size(c));
        lh_assert_all_ok(c, lh_mesh_create(1, &f.split[i]));
        lh_assert_all_ok(c, lh_mesh_split(f.split[i], ways));
    }
    for (int i = 0; i < lh_attn_count(); i++) {
        f.ops = lh_attn_at(i);
        for (int kind = 0; kind < 4; kind++) {
            f.causal = kind % 2 == 0;
            f.grouped = kind / 2 == 1;
            if (!(f.ops->caps & (f.causal ? LH_ATTN_CAUSAL : LH_ATTN_BIDIRECTIONAL))) continue;
            if (f.grouped && !(f.ops->caps & LH_ATTN_GQA)) continue;
            for_all_variants(&f, check);
        }
    }
    for (int i = 0; i < 3; i++) lh_mesh_destroy(&f.split[i]);
}

static void describe(const form *f, int64_t n)
{
    const variant *v = f->variant;
    print_error("mechanism %s%s%s%s%s%s%s, %s, %s heads, N %lld:\n", v->mechanism, v->settings,
                v->ways == 0   ? ""
                : v->ways == 2 ? ", by heads over two"
                               : ", by heads",
                v->relative ? ", relative" : "", v->zigzag ? ", zigzag" : "",
                v->documents ? ", documents" : "", v->valid ? ", padding" : "",
                f->causal ? "causal" : "bidirectional", f->grouped ? "grouped" : "all",
                (long long)n);
}

void probe_name(const probe *p, char text[160])
{
    const variant *v = p->variant;
    char *to = text;
    (void)snprintf(text, 160, "%s%s%s%s%s%s%s/%s,%s", v->mechanism, v->settings,
                   v->ways == 0   ? ""
                   : v->ways == 2 ? ",ulysses:2"
                                  : ",ulysses",
                   v->relative ? ",relative" : "", v->zigzag ? ",zigzag" : "",
                   v->documents ? ",documents" : "", v->valid ? ",padding" : "",
                   p->desc.causal ? "causal" : "bidirectional",
                   p->desc.kv_heads < p->desc.heads ? "grouped" : "all");
    for (const char *from = text; *from != '\0'; from++)
        if (*from != ' ') *to++ = *from;
    *to = '\0';
}

/* --- against dense attention
 * ------------------------------------------------------------------------------------------ */

static void check_dense(const form *f)
{
    const int64_t lengths[] = {101, 40, 3};
    if (f->variant->sees == NULL) return;
    for (int i = 0; i < 3; i++) {
        probe p;
        bool same = false;
        lh_assert_all_ok(f->comm, probe_open(&p, f, lengths[i], i == 0 && f->grouped));
        lh_assert_all_ok(f->comm, probe_run(&p, 0.0));
        lh_assert_all_ok(f->comm, dense_agrees(&p, &same));
        if (!same) describe(f, lengths[i]);
        lh_assert_all(f->comm, same);
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
        sum += p->out[i] * element(INPUTS, probe_index(p, INPUTS, i), 0.0);
    lh_sum_f64(p->mesh->world, &sum, 1, LH_SEND_OTHER);
    return sum;
}

static double probe_slope(const probe *p)
{
    double sum = 0.0;
    for (int k = 0; k < INPUTS; k++)
        for (int64_t i = 0; i < lh_shape_count(&p->shape[k]); i++) {
            int64_t at = probe_index(p, k, i);
            sum += p->d_in[k][i] * (element(k, at, 1.0) - element(k, at, 0.0));
        }
    lh_sum_f64(p->mesh->world, &sum, 1, LH_SEND_OTHER);
    return sum;
}

static void check_taylor(const form *f)
{
    lh_comm *c = f->comm;
    enum { HALVINGS = 3 };
    probe p;
    double remainder[HALVINGS + 1];
    if (f->variant->detached) return;
    lh_assert_all_ok(c, probe_open(&p, f, 101, true));
    lh_assert_all_ok(c, probe_run(&p, 0.0));
    double value = probe_value(&p);
    double slope = probe_slope(&p);
    double h = 1e-3;
    for (int i = 0; i <= HALVINGS; i++, h /= 2.0) {
        lh_assert_all_ok(c, probe_run(&p, h));
        remainder[i] = fabs(probe_value(&p) - value - h * slope);
    }
    double order = log2(remainder[0] / remainder[HALVINGS]) / HALVINGS;
    /* where the output is linear (one landmark: a softmax of one) nothing remains but rounding */
    bool linear = remainder[0] <= 1e-12 * (fabs(value) + fabs(slope));
    bool right = linear || order >= LH_TOL_TAYLOR_SLOPE;
    if (!right) {
        describe(f, 101);
        print_error("the remainder falls with power %.3f of the step\n", order);
    }
    lh_assert_all(c, right);
    probe_close(&p);
}

static void test_gradient_by_taylor(void **state)
{
    for_all_forms(*state, check_taylor);
}
#endif

/* --- bytes
 * ------------------------------------------------------------------------------------------------------------ */

/* Rows are fetched twice unless they are kept, which each group of heads decides by itself. */
static bool bytes_by_brute_force(const probe *p, const lh_cost *cost)
{
    if (p->variant->sees == NULL) return true;
    const brute_bytes b = brute_force(p);
    int64_t again = cost->backward_bytes - b.backward;
    bool some = strstr(p->variant->settings, "dilation") != NULL;
    return cost->forward_bytes == b.forward && again >= 0 && again <= b.most &&
           (some || again == b.least);
}

/* "bytes VARIANT/FORM aligned|unaligned N RANKS RANK PURPOSE COUNTED PREDICTED BRUTE_FORCE" (-1: there
 * is none). By brute force rows are kept for the backward pass if no rank gets more of them than the
 * largest shard has; `full` always fetches them again. */
static void report_bytes(const probe *p, const lh_cost *cost, bool unaligned)
{
    const int64_t *sent = p->mesh->traffic->bytes;
    brute_bytes b = {0};
    char name[160];
    if (!lh_test_reports()) return;
    if (p->variant->sees != NULL) b = brute_force(p);
    probe_name(p, name);
    const char *shape = unaligned ? "unaligned" : "aligned";
    const int64_t figures[3][3] = {
        {sent[LH_SEND_FORWARD], cost->forward_bytes, p->variant->sees ? b.forward : -1},
        {sent[LH_SEND_BACKWARD], cost->backward_bytes,
         p->variant->sees ? b.backward + b.least : -1},
        {sent[LH_SEND_SUMMARY], cost->summary_bytes, -1},
    };
    static const char *const purpose[] = {"forward", "backward", "summary"};
    for (int k = 0; k < 3; k++)
        lh_test_report("bytes %s %s %lld %d %d %s %lld %lld %lld", name, shape,
                       (long long)p->desc.length, p->layout->ranks, p->mesh->coord[LH_AXIS_SEQ],
                       purpose[k], (long long)figures[k][0], (long long)figures[k][1],
                       (long long)figures[k][2]);
}

static void check_bytes(const form *f)
{
    lh_comm *c = f->comm;
    lh_mesh *mesh = f->mesh;
    const int64_t lengths[] = {101, 101, 40, 3, 1, 1009};
    for (int i = 0; i < (lh_test_reports() ? 6 : 5); i++) {
        probe p;
        lh_cost cost;
        form here = *f;
        if (i == 2 && f->variant->ways != 2) here.store = LH_BF16;
        lh_assert_all_ok(c, probe_open(&p, &here, lengths[i], i == 1));
        *mesh->traffic = (lh_traffic){0};
        lh_assert_all_ok(c, probe_run(&p, 0.0));
        lh_assert_all_ok(
            c, f->ops->predict(&p.desc, mesh->size[LH_AXIS_SEQ], mesh->coord[LH_AXIS_SEQ], &cost));
        report_bytes(&p, &cost, i == 1);
        const int64_t *sent = mesh->traffic->bytes;
        bool same = sent[LH_SEND_FORWARD] == cost.forward_bytes &&
                    sent[LH_SEND_BACKWARD] == cost.backward_bytes &&
                    sent[LH_SEND_SUMMARY] == cost.summary_bytes &&
                    memcmp(sent, p.counting->traffic->bytes, LH_SEND_OTHER * sizeof *sent) == 0 &&
                    bytes_by_brute_force(&p, &cost);
        if (!same) {
            describe(f, lengths[i]);
            print_error(
                "rank %d sent %lld forward, %lld backward, %lld summary; predicted %lld, %lld "
                "and %lld\n",
                mesh->coord[LH_AXIS_SEQ], (long long)sent[LH_SEND_FORWARD],
                (long long)sent[LH_SEND_BACKWARD], (long long)sent[LH_SEND_SUMMARY],
                (long long)cost.forward_bytes, (long long)cost.backward_bytes,
                (long long)cost.summary_bytes);
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

static void check_model(const form *f)
{
    lh_comm *c = f->comm;
    const int64_t valid[] = {101, 67};
    if (f->variant->task) return; /* the rig has no task that would name them */
    if (f->variant->ways != 0 && !f->variant->first) return; /* `invariance` has models of these */
    lh_config *config = NULL;
    lh_mesh *self = NULL;
    lh_rig r[2];
    double loss[2];
    double *grads[2] = {NULL, NULL};
    lh_assert_all_ok(c, config_of(f->variant, f->causal, f->grouped, "", &config));
    lh_rig_desc d = {.model = config->model,
                     .batch = 2,
                     .length = 101,
                     .chunk = 16,
                     .seed = 7,
                     .ways = f->variant->ways};
    lh_assert_all_ok(c, lh_mesh_create_self(&self));
    if (f->variant->valid && !f->causal) d.valid = valid;
    model_run(c, &d, self, &r[0], &loss[0], &grads[0]);
    model_run(c, &d, f->mesh, &r[1], &loss[1], &grads[1]);
    bool same = lh_test_within(loss[1], loss[0], LH_TOL_LOSS, 0.0) &&
                lh_rig_grads_agree(r[0].params, grads[1], grads[0]);
    if (!same) describe(f, 101);
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

/* --- kept and sent as bfloat16
 * ------------------------------------------------------------------------------------------------------------ */

/* Of whole gradients. */
static double distance(const double *a, const double *b, int64_t n)
{
    double sum = 0.0;
    double square = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += (a[i] - b[i]) * (a[i] - b[i]);
        square += b[i] * b[i];
    }
    return sqrt(sum / square);
}

/* On one rank as it is and in bfloat16, and on all ranks in bfloat16. Rows of keys and values are the
 * same everywhere; outputs that go back from their heads are rounded, so there the losses differ. */
static void check_store(const form *f)
{
    lh_comm *c = f->comm;
    const variant *v = f->variant;
    bool plain = !v->relative && !v->zigzag && !v->documents && !v->valid && !v->task;
    lh_config *config = NULL;
    lh_mesh *self = NULL;
    lh_rig r[3];
    double loss[3];
    double *grads[3] = {NULL, NULL, NULL};
    if (f->grouped || !plain || (f->causal != ((f->ops->caps & LH_ATTN_CAUSAL) != 0))) return;
    lh_assert_all_ok(c, config_of(v, f->causal, false, "", &config));
    lh_rig_desc d[3];
    for (int i = 0; i < 3; i++)
        d[i] = (lh_rig_desc){.model = config->model,
                             .batch = 2,
                             .length = 101,
                             .chunk = 16,
                             .seed = 7,
                             .recompute = v->first ? LH_RECOMPUTE_BLOCK : LH_RECOMPUTE_NONE,
                             .store = i > 0 ? LH_BF16 : LH_REAL,
                             .ways = v->ways};
    lh_assert_all_ok(c, lh_mesh_create_self(&self));
    for (int i = 0; i < 3; i++)
        model_run(c, &d[i], i < 2 ? self : f->mesh, &r[i], &loss[i], &grads[i]);
    int64_t n = lh_params_total(r[0].params);
    bool heads = f->mesh->ways > 1 && (f->ops->caps & LH_ATTN_SPREAD) != 0;
    double ranks = distance(grads[2], grads[1], n);
    double real = distance(grads[1], grads[0], n);
    bool close =
        lh_test_within(loss[2], loss[1], heads ? LH_TOL_STORE_HEADS_LOSS : LH_TOL_LOSS, 0.0) &&
        ranks <= (heads ? LH_TOL_STORE_HEADS_GRAD : LH_TOL_STORE_GRAD) &&
        lh_test_within(loss[1], loss[0], LH_TOL_STORE_REAL_LOSS, 0.0) && real > 0.0 &&
        real <= LH_TOL_STORE_REAL_GRAD;
    if (!close) {
        describe(f, 101);
        print_error(
            "bfloat16: loss %.9g, on one rank %.9g, real %.9g; gradients off by %.3g, %.3g\n",
            loss[2], loss[1], loss[0], ranks, real);
    }
    lh_assert_all(c, close);
    for (int i = 0; i < 3; i++) {
        lh_free(&grads[i]);
        lh_rig_close(&r[i]);
    }
    lh_mesh_destroy(&self);
    lh_config_destroy(&config);
}

static void test_store_bfloat16(void **state)
{
    for_all_forms(*state, check_store);
}

/* --- settings and refusals
 * --------------------------------------------------------------------------------------------- */

static void test_settings_from_the_file(void **state)
{
    lh_comm *c = *state;
    for (int i = 0; i < lh_attn_count(); i++) {
        const lh_attn_ops *ops = lh_attn_at(i);
        variant room;
        const variant *m = variant_of(ops, 0, &room);
        bool causal = (ops->caps & LH_ATTN_CAUSAL) != 0;
        lh_config *config = NULL;
        lh_assert_all(c, lh_attn_find(ops->name) == ops);
        lh_assert_all_ok(c, config_of(m, causal, false, "", &config));
        for (int l = 0; l < LAYERS; l++) lh_assert_all(c, config->model.attention[l].ops == ops);
        lh_config_destroy(&config);
        lh_assert_all_code(c, config_of(m, causal, false, ", no_such_setting: 1", &config),
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
    lh_assert_all_ok(c, lh_device_create_cpu(lh_test_isa(), 1, &device));
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
        variant room;
        const variant *m = variant_of(ops, 0, &room);
        bool causal = (ops->caps & LH_ATTN_CAUSAL) != 0;
        lh_config *config = NULL;
        lh_assert_all_ok(c, config_of(m, causal, false, "", &config));
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

static void check_allocations(const form *f)
{
    lh_comm *c = f->comm;
    lh_mesh *mesh = f->mesh;
    lh_config *config = NULL;
    int ranks = lh_comm_size(c);
    if (f->grouped || f->variant->task) return; /* the same allocations; no task in the rig */
    if (f->variant->ways != 0 && !(f->variant->heads == 8 && f->causal)) return; /* one will do */
    lh_assert_all_ok(c, config_of(f->variant, f->causal, false, "", &config));
    lh_rig_desc d = {.model = config->model,
                     .batch = 2,
                     .length = 101,
                     .chunk = 16,
                     .seed = 7,
                     .ways = f->variant->ways};
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
            describe(f, d.length);
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
        cmocka_unit_test(test_store_bfloat16),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    return lh_test_mpi_main(argc, argv, "conformance", tests, sizeof tests / sizeof tests[0]);
}
