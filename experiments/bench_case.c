/* One mechanism on random inputs, as the tape runs it in a model, and matrix products beside it: bench
 * attention. Without what computes, only its exchange is left: bench exchange. */
#include "core/random.h"
#include "experiments/bench_internal.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { BENCH_X, BENCH_Q, BENCH_K, BENCH_V, BENCH_INPUTS, BENCH_SEED = BENCH_INPUTS };
enum { BENCH_CHUNK = 512 };
enum { BENCH_CONTENT, BENCH_POSITION, BENCH_WEIGHT, BENCH_RELATIVE };

typedef struct bench {
    const lhi_bench_case *c;
    lh_comm *world;
    lh_mesh *mesh, *counting_mesh;
    lh_device *device, *counting_device;
    lh_layout *layout;
    lh_spread *spread; /* NULL: ring */
    lh_attn_desc desc;
    void *state;
    lh_plan_cache *plans;
    lh_params *params;
    lh_tape *tape;
    lh_memory *memory;
    void *arena[LH_SPACES];
    lh_shape shape[BENCH_INPUTS + 1]; /* x, q, k, v; the gradient of the output */
    void *value[BENCH_INPUTS + 1];
    void *grad[BENCH_INPUTS];
    lh_param *relative[BENCH_RELATIVE]; /* NULL: no relative positions; borrowed from params */
    lhi_bench_gemm gemm;
    lh_kernels quiet; /* the device's table without what computes */
    void *flush;
    size_t flush_bytes;
    double *seconds[LHI_BENCH_TIMES]; /* [repeats] */
    double flops[2];                  /* of this rank's last passes, as the device counted them */
} bench;

/* Standard normal numbers by global element, so that the problem is the same on any number of
 * ranks. */
static void bench_random(const bench *b, int which, lh_real *host)
{
    const lh_shape *shape = &b->shape[which];
    int rank = b->mesh->coord[LH_AXIS_SEQ];
    int64_t rows = shape->dim[1];
    int64_t width = lh_shape_count(shape) / (shape->dim[0] * (rows > 0 ? rows : 1));
    uint64_t stream = lh_stream_id(LH_STREAM_TEST, (uint32_t)which);
    for (int64_t i = 0; i < shape->dim[0] * rows; i++) {
        int64_t sequence = i / rows;
        int64_t position = lh_layout_position(b->layout, rank, i % rows);
        uint64_t first = (uint64_t)((sequence * b->c->n + position) * width);
        for (int64_t e = 0; e < width; e++)
            host[i * width + e] =
                (lh_real)lh_random_normal(b->c->seed, stream, first + (uint64_t)e);
    }
}

static lh_status bench_inputs(bench *b)
{
    lh_status st = LH_OK;
    void *host = NULL;
    const lhi_bench_case *c = b->c;
    int64_t rows = b->desc.layout->rows[b->mesh->coord[LH_AXIS_SEQ]];
    b->shape[BENCH_X] = lh_shape_3(LH_REAL, c->batch, rows, b->desc.width);
    b->shape[BENCH_Q] = lh_shape_4(LH_REAL, c->batch, rows, c->heads, c->head_width);
    b->shape[BENCH_K] = lh_shape_4(LH_REAL, c->batch, rows, c->kv_heads, c->head_width);
    b->shape[BENCH_V] = b->shape[BENCH_K];
    b->shape[BENCH_SEED] = b->shape[BENCH_Q];
    LH_TRY(lh_host_alloc(lh_shape_bytes(&b->shape[BENCH_Q]), &host)); /* the largest of them */
    for (int i = 0; i <= BENCH_INPUTS; i++) {
        size_t bytes = lh_shape_bytes(&b->shape[i]);
        LH_TRY(lh_device_alloc(b->device, bytes, &b->value[i]));
        if (i < BENCH_INPUTS) LH_TRY(lh_device_alloc(b->device, bytes, &b->grad[i]));
        bench_random(b, i, host);
        lh_copy_in(b->device, b->value[i], host, bytes);
    }
done:
    lh_host_release(&host);
    return st;
}

/* What a model's block has for relative positions. */
static lh_status bench_relative(bench *b)
{
    lh_status st = LH_OK;
    static const char *const name[] = {"content_bias", "position_bias", "weight"};
    int64_t rows = b->c->heads * b->c->head_width;
    for (int i = 0; i < BENCH_RELATIVE; i++) {
        lh_shape shape = i == BENCH_WEIGHT ? lh_shape_2(LH_REAL, rows, b->desc.width)
                                           : lh_shape_1(LH_REAL, rows);
        LH_TRY(lh_params_add(b->params, name[i], shape, lh_place_replicated(), LH_INIT_NORMAL, 0.1,
                             &b->relative[i]));
    }
done:
    return st;
}

static lh_status bench_mechanism_create(bench *b)
{
    lh_status st = LH_OK;
    const lhi_bench_case *c = b->c;
    b->desc = (lh_attn_desc){.width = c->heads * c->head_width,
                             .heads = c->heads,
                             .kv_heads = c->kv_heads,
                             .head_width = c->head_width,
                             .causal = c->causal,
                             .batch = c->batch,
                             .length = c->n,
                             .layout = b->layout,
                             .max_length = c->n,
                             .table = b->layout,
                             .spread = b->spread,
                             .relative = c->relative,
                             .settings = c->settings,
                             .seed = c->seed};
    LH_TRY(lh_attn_check(c->ops, &b->desc));
    LH_TRY(lh_params_create(b->device, b->mesh->coord, &b->params));
    LH_TRY(c->ops->parameters(&b->desc, b->params));
    if (c->relative) LH_TRY(bench_relative(b));
    LH_TRY(lh_params_allocate(b->params, true));
    LH_TRY(lh_params_initialise(b->params, c->seed));
    b->desc.params = b->params;
    LH_TRY(c->ops->create(&b->desc, &b->state));
    LH_TRY(lh_plan_cache_create(&b->plans));
    LH_TRY(lh_tape_create(b->mesh->size, b->mesh->coord, &b->tape));
done:
    return st;
}

static lh_status bench_forward(bench *b, lh_mesh *mesh, lh_var *out)
{
    lh_status st = LH_OK;
    lh_var in[BENCH_INPUTS] = {{0}};
    lh_place place = lh_place_tokens(b->layout);
    for (int i = 0; i < BENCH_INPUTS; i++)
        LH_TRY(lh_tape_leaf(b->tape, b->value[i], b->grad[i], b->shape[i], place, &in[i]));
    lh_qkv qkv = {.x = in[BENCH_X],
                  .q = in[BENCH_Q],
                  .k = in[BENCH_K],
                  .v = in[BENCH_V],
                  .mesh = mesh,
                  .plans = b->plans};
    if (b->c->relative) {
        LH_TRY(lh_tape_param(b->tape, b->relative[BENCH_CONTENT], &qkv.relative_u));
        LH_TRY(lh_tape_param(b->tape, b->relative[BENCH_POSITION], &qkv.relative_v));
        LH_TRY(lh_tape_param(b->tape, b->relative[BENCH_WEIGHT], &qkv.relative_weight));
    }
    LH_TRY(b->c->ops->forward(b->state, b->tape, &qkv, out));
done:
    return st;
}

static lh_status bench_backward(bench *b, lh_var out)
{
    const void *seed = b->value[BENCH_SEED];
    return lh_tape_backward_from(b->tape, 1, &out, &seed);
}

/* The counting pass and its arena. */
static lh_status bench_arena(bench *b)
{
    lh_status st = LH_OK;
    lh_var out = {0};
    LH_TRY(lh_memory_create(&b->memory));
    LH_TRY(lh_memory_count_begin(b->memory));
    lh_tape_reset(b->tape, b->counting_device, b->memory, true);
    LH_TRY(bench_forward(b, b->counting_mesh, &out));
    LH_TRY(bench_backward(b, out));
    LH_TRY(lh_memory_count_end(b->memory));
    LH_TRY(lh_device_alloc(b->device, lh_memory_bytes(b->memory, LH_SPACE_DEVICE),
                           &b->arena[LH_SPACE_DEVICE]));
    LH_TRY(lh_host_alloc(lh_memory_bytes(b->memory, LH_SPACE_HOST), &b->arena[LH_SPACE_HOST]));
done:
    return st;
}

/* Kernels that compute do nothing; those that move rows, fill and add stay. */
#define BENCH_QUIET(name)                                                                          \
    static void quiet_##name(const lh_##name##_args *a, int threads)                               \
    {                                                                                              \
        (void)a;                                                                                   \
        (void)threads;                                                                             \
    }
LH_KERNEL_LIST(BENCH_QUIET)
#undef BENCH_QUIET

static void bench_quiet(bench *b)
{
    const lh_kernels *full = b->device->kernels;
    b->quiet = *full;
#define BENCH_QUIET(name) b->quiet.name = quiet_##name;
    LH_KERNEL_LIST(BENCH_QUIET)
#undef BENCH_QUIET
    b->quiet.fill = full->fill;
    b->quiet.axpy = full->axpy;
    b->quiet.pack_rows = full->pack_rows;
    b->quiet.unpack_rows = full->unpack_rows;
    b->quiet.add_rows = full->add_rows;
    b->device->kernels = &b->quiet;
}

/* Everything that is local. The mesh exists. */
static lh_status bench_create(bench *b)
{
    lh_status st = LH_OK;
    const lhi_bench_case *c = b->c;
    int ranks = b->mesh->size[LH_AXIS_SEQ];
    LH_TRY(lh_mesh_create_counting(1, ranks, lh_comm_rank(b->world), &b->counting_mesh));
    LH_TRY(lh_device_create_cpu(c->isa, c->threads, &b->device));
    LH_TRY(lh_device_create_count(c->isa, c->threads, &b->counting_device));
    if (c->zigzag)
        LH_TRY(lh_layout_zigzag(c->n, ranks, BENCH_CHUNK, true, &b->layout));
    else
        LH_TRY(lh_layout_contiguous(c->n, ranks, BENCH_CHUNK, true, &b->layout));
    LH_TRY(lh_mesh_split(b->counting_mesh, c->ways));
    if (c->ways > 1) LH_TRY(lh_spread_create(b->layout, c->ways, &b->spread));
    LH_TRY(bench_mechanism_create(b));
    if (!c->quiet) LH_TRY(lhi_bench_gemm_create(b->device, &b->gemm));
    LH_TRY(bench_inputs(b));
    if (!c->quiet) LH_TRY(lhi_bench_flush_create(&b->flush, &b->flush_bytes));
    for (int p = 0; p < LHI_BENCH_TIMES; p++)
        LH_TRY(lh_new((size_t)c->repeats * sizeof(double), &b->seconds[p]));
    LH_TRY(bench_arena(b));
    if (c->quiet) bench_quiet(b);
done:
    return st;
}

static void bench_destroy(bench *b)
{
    for (int i = 0; i <= BENCH_INPUTS && b->device != NULL; i++) {
        lh_device_release(b->device, &b->value[i]);
        if (i < BENCH_INPUTS) lh_device_release(b->device, &b->grad[i]);
    }
    if (b->device != NULL) lhi_bench_gemm_destroy(b->device, &b->gemm);
    if (b->device != NULL) lh_device_release(b->device, &b->arena[LH_SPACE_DEVICE]);
    lh_host_release(&b->arena[LH_SPACE_HOST]);
    lh_host_release(&b->flush);
    for (int p = 0; p < LHI_BENCH_TIMES; p++) lh_free(&b->seconds[p]);
    lh_memory_destroy(&b->memory);
    lh_tape_destroy(&b->tape);
    lh_plan_cache_destroy(&b->plans);
    lh_params_destroy(&b->params);
    if (b->state != NULL) b->c->ops->destroy(&b->state);
    lh_spread_destroy(&b->spread);
    lh_layout_destroy(&b->layout);
    lh_device_destroy(&b->device);
    lh_device_destroy(&b->counting_device);
    lh_mesh_destroy(&b->counting_mesh);
    lh_mesh_destroy(&b->mesh);
}

/* One forward and one backward; ranks start each together, and find their inputs in memory. Nobody may
 * leave: a failure in here is fatal. */
static void bench_step(bench *b, double seconds[LHI_BENCH_TIMES])
{
    lh_status st = LH_OK;
    lh_var out = {0};
    for (int i = 0; i < BENCH_INPUTS; i++)
        lh_run_fill(b->device, &(lh_fill_args){.n = lh_shape_count(&b->shape[i]), .x = b->grad[i]});
    lh_params_zero_grad(b->params);
    lh_plan_cache_step(b->plans);
    lh_memory_replay(b->memory, b->device, b->arena[LH_SPACE_DEVICE], b->arena[LH_SPACE_HOST]);
    lh_tape_reset(b->tape, b->device, b->memory, true);
    b->device->flops = 0.0;
    lhi_bench_flush(b->flush, b->flush_bytes);
    lh_barrier(b->world);
    double start = lh_wall();
    LH_TRY(bench_forward(b, b->mesh, &out));
    seconds[LHI_BENCH_FORWARD] = lh_wall() - start;
    b->flops[LHI_BENCH_FORWARD] = b->device->flops;
    lhi_bench_flush(b->flush, b->flush_bytes);
    lh_barrier(b->world);
    start = lh_wall();
    LH_TRY(bench_backward(b, out));
    seconds[LHI_BENCH_BACKWARD] = lh_wall() - start;
    b->flops[LHI_BENCH_BACKWARD] = b->device->flops - b->flops[LHI_BENCH_FORWARD];
done:
    if (st != LH_OK) lh_fatal(b->world, "%s (%s)", lh_error_text(), lh_error_where());
}

/* The work of all ranks by the medians of their slowest. Formulas leave out relative positions, whose
 * work is counted. */
static void bench_times(bench *b, const lh_cost *cost, lhi_bench_result *r)
{
    bool counted = b->c->relative;
    double flops[LHI_BENCH_TIMES] = {counted ? b->flops[LHI_BENCH_FORWARD] : cost->forward_flops,
                                     counted ? b->flops[LHI_BENCH_BACKWARD] : cost->backward_flops,
                                     LHI_BENCH_GEMM_FLOPS};
    lh_sum_f64(b->world, flops, LHI_BENCH_TIMES, LH_SEND_OTHER);
    for (int p = 0; p < LHI_BENCH_TIMES; p++) {
        lh_max_f64(b->world, b->seconds[p], b->c->repeats, LH_SEND_OTHER);
        r->seconds[p] = lhi_bench_median(b->seconds[p], b->c->repeats);
        r->rate[p] = flops[p] / r->seconds[p];
    }
    r->rate_both = (flops[LHI_BENCH_FORWARD] + flops[LHI_BENCH_BACKWARD]) /
                   (r->seconds[LHI_BENCH_FORWARD] + r->seconds[LHI_BENCH_BACKWARD]);
}

/* Passes and products take turns: on a machine with other work both have the same luck. */
static void bench_measure(bench *b, const lh_cost *cost, lhi_bench_result *r)
{
    int repeats = b->c->repeats > 1 ? b->c->repeats : 1;
    double seconds[LHI_BENCH_TIMES] = {0.0};
    lh_traffic before = *b->mesh->traffic;
    for (int i = -1; i < repeats; i++) { /* the first one warms up */
        if (i == 0) before = *b->mesh->traffic;
        if (!b->c->quiet && i >= 0)
            seconds[LHI_BENCH_PRODUCT] = lhi_bench_gemm_run(b->world, b->device, &b->gemm);
        bench_step(b, seconds);
        for (int p = 0; p < LHI_BENCH_TIMES && i >= 0; p++) b->seconds[p][i] = seconds[p];
    }
    lh_traffic after = *b->mesh->traffic;
    bench_times(b, cost, r);
    r->wait_s = (after.wait_s - before.wait_s) / repeats;
    r->peak = lh_memory_peak(b->memory);
    int64_t bytes[3] = {(lh_traffic_step(&after) - lh_traffic_step(&before)) / repeats,
                        cost->forward_bytes + cost->backward_bytes + cost->summary_bytes, 0};
    for (int p = 0; p < LH_PURPOSES; p++)
        if (p != LH_SEND_OTHER) bytes[2] += (after.messages[p] - before.messages[p]) / repeats;
    lh_max_f64(b->world, &r->wait_s, 1, LH_SEND_OTHER);
    lh_max_i64(b->world, &r->peak, 1, LH_SEND_OTHER);
    lh_sum_i64(b->world, bytes, 3, LH_SEND_OTHER);
    r->sent = bytes[0];
    r->predicted = bytes[1];
    r->messages = bytes[2];
}

static void bench_announce(const lhi_bench_case *c, const char *isa, int ranks)
{
    int64_t window = 0;
    char text[64] = "";
    if (lhi_bench_window(c, &window))
        (void)snprintf(text, sizeof text, ", window %" PRId64, window);
    (void)fprintf(stderr,
                  "longhaul bench: %s%s, %s%s%s, n %" PRId64 ", %" PRId64 " x %" PRId64 "/%" PRId64
                  " heads of %" PRId64 ", %s%s, ranks %d x threads %d, repeats %d\n",
                  c->ops->name, text, c->causal ? "causal" : "not causal",
                  c->relative ? ", relative positions" : "", c->zigzag ? ", zigzag" : "", c->n,
                  c->batch, c->heads, c->kv_heads, c->head_width, isa,
                  c->quiet ? ", exchange alone" : "", ranks, c->threads, c->repeats);
}

lh_status lhi_bench_run(lh_comm *world, const lhi_bench_case *c, lhi_bench_result *r)
{
    lh_status st = LH_OK;
    bench b = {.c = c, .world = world};
    lh_cost cost = {0};
    *r = (lhi_bench_result){0};
    LH_TRY(lh_mesh_create(1, &b.mesh));
    LH_TRY(lh_mesh_split(b.mesh, c->ways));
    /* local from here on, and agreed on once */
    st = bench_create(&b);
    if (st == LH_OK) st = c->ops->predict(&b.desc, lh_comm_size(world), lh_comm_rank(world), &cost);
    LH_TRY(lh_agree(world, st));
    bool first = lh_comm_rank(world) == 0;
    r->isa = b.device->kernels->isa;
    if (first) bench_announce(c, r->isa, lh_comm_size(world));
    bench_measure(&b, &cost, r);
    if (first && r->sent != r->predicted)
        (void)fprintf(stderr,
                      "longhaul bench: warning: %" PRId64 " bytes sent by all ranks, but "
                      "%" PRId64 " predicted: a bug, please report\n",
                      r->sent, r->predicted);
done:
    bench_destroy(&b);
    return st;
}
