/* bench attention: one mechanism on random inputs, as the tape runs it in a model, and matrix
 * products beside it. */
#include "core/random.h"
#include "experiments/bench_internal.h"
#include "io/metrics.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BENCH_X, BENCH_Q, BENCH_K, BENCH_V, BENCH_INPUTS, BENCH_SEED = BENCH_INPUTS };
enum { BENCH_CHUNK = 512, BENCH_GEMM = 2048 };
enum { BENCH_FORWARD, BENCH_BACKWARD, BENCH_PRODUCT, BENCH_TIMES };

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
    void *gemm[3];
    double *seconds[BENCH_TIMES]; /* [repeats] */
} bench;

typedef struct bench_result {
    double seconds[BENCH_TIMES], rate[BENCH_TIMES]; /* rate: flops per second of all ranks */
    double wait_s;
    int64_t sent, predicted; /* sums over ranks */
    int64_t peak;
} bench_result;

static int bench_compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double bench_median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, bench_compare);
    return n % 2 == 1 ? x[n / 2] : 0.5 * (x[n / 2 - 1] + x[n / 2]);
}

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

/* Operands of the matrix product: small numbers, so that repeated products stay finite. */
static lh_status bench_gemm_create(bench *b)
{
    lh_status st = LH_OK;
    void *host = NULL;
    size_t bytes = (size_t)BENCH_GEMM * BENCH_GEMM * lh_dtype_bytes(LH_REAL);
    LH_TRY(lh_host_alloc(bytes, &host));
    for (int i = 0; i < 3; i++) {
        for (int64_t e = 0; e < (int64_t)BENCH_GEMM * BENCH_GEMM; e++)
            ((lh_real *)host)[e] = (lh_real)((double)((e * 2654435761 + i) % 1009) / 1009.0 - 0.5);
        LH_TRY(lh_device_alloc(b->device, bytes, &b->gemm[i]));
        lh_copy_in(b->device, b->gemm[i], host, bytes);
    }
done:
    lh_host_release(&host);
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
                             .settings = c->settings,
                             .seed = c->seed};
    LH_TRY(lh_attn_check(c->ops, &b->desc));
    LH_TRY(lh_params_create(b->device, b->mesh->coord, &b->params));
    LH_TRY(c->ops->parameters(&b->desc, b->params));
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
    LH_TRY(bench_gemm_create(b));
    LH_TRY(bench_inputs(b));
    for (int p = 0; p < BENCH_TIMES; p++)
        LH_TRY(lh_new((size_t)c->repeats * sizeof(double), &b->seconds[p]));
    LH_TRY(bench_arena(b));
done:
    return st;
}

static void bench_destroy(bench *b)
{
    for (int i = 0; i <= BENCH_INPUTS && b->device != NULL; i++) {
        lh_device_release(b->device, &b->value[i]);
        if (i < BENCH_INPUTS) lh_device_release(b->device, &b->grad[i]);
        if (i < 3) lh_device_release(b->device, &b->gemm[i]);
    }
    if (b->device != NULL) lh_device_release(b->device, &b->arena[LH_SPACE_DEVICE]);
    lh_host_release(&b->arena[LH_SPACE_HOST]);
    for (int p = 0; p < BENCH_TIMES; p++) lh_free(&b->seconds[p]);
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

/* One forward and one backward; ranks start each together. Nobody may leave: a failure in here is
 * fatal. */
static void bench_step(bench *b, double seconds[BENCH_TIMES])
{
    lh_status st = LH_OK;
    lh_var out = {0};
    for (int i = 0; i < BENCH_INPUTS; i++)
        lh_run_fill(b->device, &(lh_fill_args){.n = lh_shape_count(&b->shape[i]), .x = b->grad[i]});
    lh_params_zero_grad(b->params);
    lh_plan_cache_step(b->plans);
    lh_memory_replay(b->memory, b->device, b->arena[LH_SPACE_DEVICE], b->arena[LH_SPACE_HOST]);
    lh_tape_reset(b->tape, b->device, b->memory, true);
    lh_barrier(b->world);
    double start = lh_wall();
    LH_TRY(bench_forward(b, b->mesh, &out));
    seconds[BENCH_FORWARD] = lh_wall() - start;
    lh_barrier(b->world);
    start = lh_wall();
    LH_TRY(bench_backward(b, out));
    seconds[BENCH_BACKWARD] = lh_wall() - start;
done:
    if (st != LH_OK) lh_fatal(b->world, "%s (%s)", lh_error_text(), lh_error_where());
}

/* One square product on all ranks at once: what this machine gives to as many threads at this
 * moment. */
static double bench_gemm(bench *b)
{
    lh_gemm_args g = {.m = BENCH_GEMM,
                      .n = BENCH_GEMM,
                      .k = BENCH_GEMM,
                      .alpha = 1.0,
                      .a = b->gemm[0],
                      .a_rs = BENCH_GEMM,
                      .a_cs = 1,
                      .b = b->gemm[1],
                      .b_rs = BENCH_GEMM,
                      .b_cs = 1,
                      .c = b->gemm[2],
                      .c_rs = BENCH_GEMM,
                      .c_cs = 1};
    lh_barrier(b->world);
    double start = lh_wall();
    lh_run_gemm(b->device, &g);
    return lh_wall() - start;
}

/* The work of all ranks by the medians of their slowest. */
static void bench_times(bench *b, const lh_cost *cost, bench_result *r)
{
    double gemm = 2.0 * BENCH_GEMM * BENCH_GEMM * BENCH_GEMM;
    double flops[BENCH_TIMES] = {cost->forward_flops, cost->backward_flops, gemm};
    lh_sum_f64(b->world, flops, BENCH_TIMES, LH_SEND_OTHER);
    for (int p = 0; p < BENCH_TIMES; p++) {
        lh_max_f64(b->world, b->seconds[p], b->c->repeats, LH_SEND_OTHER);
        r->seconds[p] = bench_median(b->seconds[p], b->c->repeats);
        r->rate[p] = flops[p] / r->seconds[p];
    }
}

/* Passes and products take turns: on a machine with other work both have the same luck. */
static void bench_measure(bench *b, const lh_cost *cost, bench_result *r)
{
    int repeats = b->c->repeats > 1 ? b->c->repeats : 1;
    double seconds[BENCH_TIMES] = {0.0};
    lh_traffic before = *b->mesh->traffic;
    for (int i = -1; i < repeats; i++) { /* the first one warms up */
        if (i == 0) before = *b->mesh->traffic;
        seconds[BENCH_PRODUCT] = bench_gemm(b);
        bench_step(b, seconds);
        for (int p = 0; p < BENCH_TIMES && i >= 0; p++) b->seconds[p][i] = seconds[p];
    }
    lh_traffic after = *b->mesh->traffic;
    bench_times(b, cost, r);
    r->wait_s = (after.wait_s - before.wait_s) / repeats;
    r->peak = lh_memory_peak(b->memory);
    int64_t bytes[2] = {(lh_traffic_step(&after) - lh_traffic_step(&before)) / repeats,
                        cost->forward_bytes + cost->backward_bytes + cost->summary_bytes};
    lh_max_f64(b->world, &r->wait_s, 1, LH_SEND_OTHER);
    lh_max_i64(b->world, &r->peak, 1, LH_SEND_OTHER);
    lh_sum_i64(b->world, bytes, 2, LH_SEND_OTHER);
    r->sent = bytes[0];
    r->predicted = bytes[1];
}

/* A mean over ranks: an integer where it is one, so that no digit of a large number is lost. */
static void bench_json_mean(lh_json *j, const char *key, int64_t sum, int ranks)
{
    if (sum % ranks == 0)
        lh_json_int(j, key, sum / ranks);
    else
        lh_json_real(j, key, (double)sum / ranks);
}

static void bench_json(const bench *b, const bench_result *r, lh_json *j)
{
    const lhi_bench_case *c = b->c;
    int ranks = lh_comm_size(b->world);
    int64_t window = 0;
    lh_json_begin(j);
    lh_json_string(j, "mechanism", c->ops->name);
    lh_json_int(j, "n", c->n);
    lh_json_int(j, "ranks", ranks);
    lh_json_int(j, "threads", c->threads);
    lh_json_int(j, "batch", c->batch);
    lh_json_int(j, "heads", c->heads);
    lh_json_int(j, "kv_heads", c->kv_heads);
    lh_json_int(j, "head_dim", c->head_width);
    lh_json_bool(j, "causal", c->causal);
    lh_json_string(j, "layout", b->layout->name);
    lh_json_int(j, "ulysses", c->ways);
    if (lhi_bench_window(c, &window))
        lh_json_int(j, "window", window);
    else
        lh_json_real(j, "window", NAN); /* null */
    lh_json_string(j, "isa", b->device->kernels->isa);
    lh_json_string(j, "precision", LH_REAL_NAME);
    lh_json_real(j, "forward_s", r->seconds[BENCH_FORWARD]);
    lh_json_real(j, "backward_s", r->seconds[BENCH_BACKWARD]);
    lh_json_real(j, "gflops_forward", r->rate[BENCH_FORWARD] * 1e-9);
    lh_json_real(j, "gflops_backward", r->rate[BENCH_BACKWARD] * 1e-9);
    lh_json_real(j, "gemm_gflops", r->rate[BENCH_PRODUCT] * 1e-9);
    lh_json_real(j, "ratio_forward", r->rate[BENCH_FORWARD] / r->rate[BENCH_PRODUCT]);
    lh_json_real(j, "ratio_backward", r->rate[BENCH_BACKWARD] / r->rate[BENCH_PRODUCT]);
    lh_json_int(j, "peak_bytes", r->peak);
    bench_json_mean(j, "sent_bytes", r->sent, ranks);
    bench_json_mean(j, "predicted_sent_bytes", r->predicted, ranks);
    lh_json_real(j, "comm_wait_s", r->wait_s);
}

static lh_status bench_print(const bench *b, const bench_result *r)
{
    lh_status st = LH_OK;
    lh_json j = {0};
    const char *text = NULL;
    bench_json(b, r, &j);
    LH_TRY(lh_json_text(&j, &text));
    LH_CHECK(printf("%s\n", text) > 0 && fflush(stdout) == 0, LH_ERR_IO,
             "bench: standard output takes no more");
done:
    lh_json_free(&j);
    return st;
}

static void bench_announce(const bench *b)
{
    const lhi_bench_case *c = b->c;
    int64_t window = 0;
    char text[64] = "";
    if (lhi_bench_window(c, &window))
        (void)snprintf(text, sizeof text, ", window %" PRId64, window);
    (void)fprintf(stderr,
                  "longhaul bench: %s%s, %s, n %" PRId64 ", %" PRId64 " x %" PRId64
                  " heads of %" PRId64 ", %s, ranks %d x threads %d, repeats %d\n",
                  c->ops->name, text, c->causal ? "causal" : "not causal", c->n, c->batch, c->heads,
                  c->head_width, b->device->kernels->isa, lh_comm_size(b->world), c->threads,
                  c->repeats);
}

lh_status lhi_bench_attention(lh_comm *world, const lhi_bench_case *c)
{
    lh_status st = LH_OK;
    bench b = {.c = c, .world = world};
    bench_result r = {0};
    lh_cost cost = {0};
    LH_TRY(lh_mesh_create(1, &b.mesh));
    LH_TRY(lh_mesh_split(b.mesh, c->ways));
    /* local from here on, and agreed on once */
    st = bench_create(&b);
    if (st == LH_OK) st = c->ops->predict(&b.desc, lh_comm_size(world), lh_comm_rank(world), &cost);
    LH_TRY(lh_agree(world, st));
    bool first = lh_comm_rank(world) == 0;
    if (first) bench_announce(&b);
    bench_measure(&b, &cost, &r);
    LH_TRY(lh_agree(world, first ? bench_print(&b, &r) : LH_OK));
    if (first && r.sent != r.predicted)
        (void)fprintf(stderr,
                      "longhaul bench: warning: %" PRId64 " bytes sent by all ranks, but "
                      "%" PRId64 " predicted: a bug, please report\n",
                      r.sent, r.predicted);
done:
    bench_destroy(&b);
    return st;
}
