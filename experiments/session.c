#include "core/pulse.h"
#include "experiments/process.h"
#include "experiments/session_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    SESSION_REDUCE = 1 << 20, /* elements of a bucket of the gradient reduction, at most */
    SESSION_BUCKETS = 4       /* in flight, at most */
};

int lh_session_threads(const lh_config *config, const lh_host *host)
{
    const char *text = getenv("OMP_NUM_THREADS");
    char *end = NULL;
    long wish = text != NULL ? strtol(text, &end, 10) : 0;
    /* "4,2": of nested regions the outer one; what is no number counts as little as for OpenMP */
    if (end != NULL && end[strspn(end, " ")] != '\0' && end[strspn(end, " ")] != ',') wish = 0;
    if (config->device.threads != LH_AUTO) return (int)config->device.threads;
    if (wish > 0) return wish < LH_MAX_THREADS ? (int)wish : LH_MAX_THREADS;
    int share = host->mask / (host->sharing > 0 ? host->sharing : 1);
    return share > 0 ? share : 1;
}

/* The instruction set of all ranks: with `auto` the best that every node has, since replicated
 * parameters stay equal only if all ranks compute the same bits. Collective on world. */
static lh_status session_isa(lh_session *s, const char **isa)
{
    static const char *const level[] = {"portable", "avx2", "avx512"};
    int64_t missing = 0; /* levels below the best */
    lh_device *probe = NULL;
    *isa = lh_config_isa(s->config);
    lh_status st = lh_device_create_cpu(*isa, 1, &probe);
    st = lh_agree(s->world, st);
    if (st == LH_OK && s->config->device.isa == LH_ISA_AUTO) {
        while (missing < 2 && strcmp(probe->kernels->isa, level[2 - missing]) != 0) missing++;
        lh_max_i64(s->world, &missing, 1, LH_SEND_OTHER);
        *isa = level[2 - missing];
    }
    lh_device_destroy(&probe);
    return st;
}

static lh_status session_devices(lh_session *s, const char *isa)
{
    lh_status st = LH_OK;
    int threads = lh_session_threads(s->config, &s->host);
    if (s->mesh->counting) {
        LH_TRY(lh_device_create_count(isa, threads, &s->counting_device));
        s->device = s->counting_device;
        goto done;
    }
    LH_TRY(lh_process_threads(threads));
    if (s->config->device.simulated != NULL)
        LH_TRY(lh_device_create_simulate(isa, threads, s->config->device.simulated, &s->device));
    else if (s->config->device.kind == LH_DEVICE_POISON)
        LH_TRY(lh_device_create_poison(isa, threads, &s->device));
    else
        LH_TRY(lh_device_create_cpu(isa, threads, &s->device));
    LH_TRY(lh_device_create_count(isa, threads, &s->counting_device));
done:
    return st;
}

/* How n positions lie over the ranks. */
static lh_status session_layout(const lh_session *s, int64_t n, lh_layout **out)
{
    const lh_config_mesh *m = &s->config->mesh;
    bool align = m->align == LH_ALIGN_CHUNK;
    if (m->layout == LH_LAYOUT_ZIGZAG)
        return lh_layout_zigzag(n, s->mesh->size[LH_AXIS_SEQ], m->chunk, align, out);
    return lh_layout_contiguous(n, s->mesh->size[LH_AXIS_SEQ], m->chunk, align, out);
}

/* Ranks of a group that shares heads; 1: no groups. */
static int session_ways(const lh_config *config, int sequence)
{
    const lh_config_mesh *m = &config->mesh;
    if (m->exchange != LH_EXCHANGE_ULYSSES) return 1;
    return m->ulysses == LH_AUTO ? sequence : (int)m->ulysses;
}

static lh_status session_shape(lh_session *s, lh_config *config)
{
    lh_status st = LH_OK;
    s->passes = config->train.accumulate;
    s->batch = config->data.batch / (config->mesh.data * s->passes);
    LH_CHECK(s->batch * config->mesh.data * s->passes == config->data.batch, LH_ERR_USAGE,
             "data.batch %" PRId64 " is no multiple of mesh.data %" PRId64
             " times train.accumulate %" PRId64,
             config->data.batch, config->mesh.data, s->passes);
    LH_TRY(session_layout(s, config->data.length, &s->layout));
    if (config->model.max_length != config->data.length)
        LH_TRY(session_layout(s, config->model.max_length, &s->table));
    s->max_global = lh_task_globals(config);
    s->rows = s->layout->rows[s->mesh->coord[LH_AXIS_SEQ]];
    if (s->mesh->ways > 1) {
        LH_TRY(lh_spread_create(s->layout, s->mesh->ways, &s->spread));
        s->spread_rows = s->spread->to->rows[lh_comm_rank(s->mesh->ring)];
    }
done:
    return st;
}

static lh_model_shape session_model_shape(const lh_session *s, const lh_config *config)
{
    return (lh_model_shape){.batch = s->batch,
                            .length = config->data.length,
                            .layout = s->layout,
                            .table = s->table != NULL ? s->table : s->layout,
                            .spread = s->spread,
                            .documents = config->data.documents != LH_AUTO,
                            .max_global = s->max_global,
                            .store = lh_config_store(config)};
}

/* The names and sizes of the parameters. */
static lh_status session_parameters(lh_session *s, lh_config *config)
{
    lh_status st = LH_OK;
    lh_model_shape shape = session_model_shape(s, config);
    /* without files only the configuration can tell */
    int64_t vocab = s->task != NULL ? lh_task_vocab_read(s->task, config) : lh_task_vocab(config);
    LH_CHECK(vocab > 0 || config->model.vocab != LH_AUTO, LH_ERR_USAGE,
             "key 'model.vocab' is missing: the token file says it, but no data file is opened "
             "here: give the number that longhaul inspect '%s' prints (masked_tokens: one more)",
             config->data.path);
    LH_TRY(lh_model_resolve(&config->model, vocab, lh_task_classes(config)));
    LH_TRY(lh_params_create(s->device, s->mesh->coord, &s->params));
    LH_TRY(lh_model_declare(&config->model, &shape, s->params));
done:
    return st;
}

static lh_status session_model(lh_session *s, const lh_config *config, bool trainable)
{
    lh_status st = LH_OK;
    lh_model_shape shape = session_model_shape(s, config);
    uint64_t seed = (uint64_t)config->run.seed;
    LH_TRY(lh_params_allocate(s->params, trainable));
    LH_TRY(lh_params_initialise(s->params, seed));
    LH_TRY(lh_model_create(&config->model, &shape, s->params, seed, config->train.recompute,
                           &s->model));
    LH_TRY(lh_tape_create(s->mesh->size, s->mesh->coord, &s->tape));
    lh_tape_store(s->tape, shape.store);
done:
    return st;
}

/* What only some tasks say about their sequences. */
static lh_status session_side_buffers(lh_session *s)
{
    lh_status st = LH_OK;
    size_t sequences = (size_t)(s->passes * s->batch);
    if (s->config->data.documents != LH_AUTO)
        LH_TRY(lh_new(sequences * (size_t)s->rows * 2 * sizeof(int32_t), &s->documents));
    if (s->config->model.head == LH_HEAD_CLASS) {
        LH_TRY(lh_new(sequences * sizeof *s->sequence_labels, &s->sequence_labels));
        LH_TRY(lh_device_alloc(s->device, (size_t)s->batch * sizeof *s->sequence_labels,
                               &s->device_sequence_labels));
    }
    if (s->documents != NULL && s->spread != NULL) {
        size_t row = 2 * (size_t)s->spread_rows * sizeof(int32_t);
        LH_TRY(lh_new(sequences * row, &s->spread_documents));
        LH_TRY(lh_new(row, &s->spread_room));
    }
    if (s->max_global > 0) {
        LH_TRY(lh_new(sequences * sizeof(int64_t), &s->global_count));
        LH_TRY(lh_new(sequences * (size_t)s->max_global * sizeof(int64_t), &s->global_position));
    }
done:
    return st;
}

static int64_t session_reduce_bytes(const lh_session *s)
{
    return s->reduce_buckets * s->reduce_elements * (int64_t)lh_dtype_bytes(LH_REAL);
}

static lh_status session_buffers(lh_session *s)
{
    lh_status st = LH_OK;
    size_t one = (size_t)(s->batch * s->rows) * sizeof(int32_t);
    size_t sequences = (size_t)(s->passes * s->batch) * sizeof(int64_t);
    LH_TRY(lh_new((size_t)s->passes * one, &s->tokens));
    LH_TRY(lh_new((size_t)s->passes * one, &s->labels));
    LH_TRY(lh_new(sequences, &s->valid));
    LH_TRY(lh_new(sequences, &s->valid_all));
    LH_TRY(session_side_buffers(s));
    LH_TRY(lh_device_alloc(s->device, one, &s->device_tokens));
    LH_TRY(lh_device_alloc(s->device, one, &s->device_labels));
    if (!s->params->trainable) goto done;
    int64_t all = lh_params_total(s->params);
    int64_t part = (all + SESSION_BUCKETS - 1) / SESSION_BUCKETS; /* of a small model */
    s->reduce_elements = part < SESSION_REDUCE ? part : SESSION_REDUCE;
    s->reduce_buckets = SESSION_BUCKETS;
    if (lh_comm_size(s->world) > 1) LH_TRY(lh_new((size_t)session_reduce_bytes(s), &s->reduce));
    LH_TRY(lh_device_alloc(s->device, 2 * sizeof(double), (void **)&s->norm_scratch));
done:
    return st;
}

/* Records one pass of the model; with gradients also its backward. Without a loss: its output. */
static lh_status session_record(lh_session *s, lh_mesh *mesh, const lh_batch *batch, bool gradients,
                                lh_var *loss, lh_var *correct)
{
    lh_status st = LH_OK;
    if (lh_model_has_loss(&s->config->model))
        LH_TRY(lh_model_loss(s->model, s->tape, mesh, batch, loss, correct));
    else
        LH_TRY(lh_model_output(s->model, s->tape, mesh, batch, loss));
    if (gradients) LH_TRY(lh_tape_backward(s->tape, *loss));
done:
    return st;
}

lh_batch lhi_session_batch(lh_session *s, int64_t pass, double scale, int64_t sequence,
                           bool training)
{
    int64_t first = pass * s->batch;
    if (s->max_global > 0)
        s->global = (lh_row_list){.max = s->max_global,
                                  .count = s->global_count + first,
                                  .position = s->global_position + first * s->max_global};
    const int32_t *spread = s->spread_documents;
    return (lh_batch){.tokens = s->device_tokens,
                      .labels = s->device_labels,
                      .sequence_labels = s->device_sequence_labels,
                      .valid = s->config->model.kind == LH_MODEL_ENCODER ? s->valid : NULL,
                      .documents = s->documents == NULL ? NULL : s->documents + 2 * first * s->rows,
                      .spread_documents =
                          spread == NULL ? NULL : spread + 2 * first * s->spread_rows,
                      .global = s->max_global > 0 ? &s->global : NULL,
                      .loss_scale = scale,
                      .first_sequence = sequence,
                      .training = training};
}

/* The counting pass: the step once on the device `count`, with a mesh that only counts. */
static lh_status session_count(lh_session *s, bool gradients)
{
    lh_status st = LH_OK;
    lh_var loss = {0};
    lh_var correct = {0};
    lh_batch batch = lhi_session_batch(s, 0, 1.0, 0, gradients);
    lh_memory **memory = &s->memory[gradients];
    LH_TRY(lh_memory_create(memory));
    LH_TRY(lh_memory_count_begin(*memory));
    s->counting_device->flops = 0.0;
    s->counting_device->tiles = (lh_tile_count){0};
    lh_tape_reset(s->tape, s->counting_device, *memory, gradients);
    LH_TRY(session_record(s, s->counting_mesh, &batch, gradients, &loss, &correct));
    LH_TRY(lh_memory_count_end(*memory));
    s->flops[gradients] = s->counting_device->flops;
done:
    return st;
}

/* How large the arenas must be for every kind of pass. */
static lh_status session_count_arena(lh_session *s, size_t bytes[LH_SPACES])
{
    lh_status st = LH_OK;
    for (int g = 0; g < 2; g++) {
        if (g == 1 && !s->params->trainable) continue;
        LH_TRY(session_count(s, g == 1));
        for (int i = 0; i < LH_SPACES; i++)
            if (lh_memory_bytes(s->memory[g], (lh_space)i) > bytes[i])
                bytes[i] = lh_memory_bytes(s->memory[g], (lh_space)i);
    }
done:
    return st;
}

static lh_status session_arena(lh_session *s, const size_t bytes[LH_SPACES])
{
    lh_status st = LH_OK;
    LH_TRY(lh_device_alloc(s->device, bytes[LH_SPACE_DEVICE], &s->arena[LH_SPACE_DEVICE]));
    LH_TRY(lh_host_alloc(bytes[LH_SPACE_HOST], &s->arena[LH_SPACE_HOST]));
done:
    return st;
}

/* What needs no message and no memory to speak of. Local. */
static lh_status session_declare(lh_session *s, lh_config *config, const char *isa)
{
    lh_status st = LH_OK;
    LH_TRY(session_devices(s, isa));
    s->device->pulse = s->counting_device->pulse = s->pulse;
    LH_TRY(session_shape(s, config));
    LH_TRY(session_parameters(s, config));
done:
    return st;
}

/* The model in its shape, and the buffers of a step. Local. */
static lh_status session_build(lh_session *s, const lh_config *config, bool trainable)
{
    lh_status st = LH_OK;
    LH_TRY(session_model(s, config, trainable));
    LH_TRY(session_buffers(s));
done:
    return st;
}

/* Is there room for `bytes` of every rank, before they are touched? The system would hand out more
 * than it has, and then kill a process without a word. st: this rank's status. Agreed. */
static lh_status session_room(lh_session *s, lh_status st, const char *what, size_t bytes)
{
    int64_t node = lh_host_sum(s->world, st == LH_OK ? (int64_t)bytes : 0);
    if (st == LH_OK && node > s->host.memory)
        st = LH_RAISE(LH_ERR_MEMORY,
                      "the %d rank%s of this node need%s %.2f GiB for %s, and it has %.2f GiB: "
                      "take a smaller model, a shorter sequence, recomputation or more nodes "
                      "(longhaul plan FILE.yaml shows what a step needs)",
                      s->host.ranks, s->host.ranks == 1 ? "" : "s", s->host.ranks == 1 ? "s" : "",
                      (double)node / 1073741824.0, what, (double)s->host.memory / 1073741824.0);
    return lh_agree(s->world, st);
}

lh_status lh_session_check_ranks(const lh_config *config, int ranks)
{
    lh_status st = LH_OK;
    LH_CHECK(ranks % config->mesh.data == 0, LH_ERR_USAGE,
             "mesh.data %" PRId64 " does not divide %d ranks: start another number of ranks, or "
             "change mesh.data",
             config->mesh.data, ranks);
    int sequence = ranks / (int)config->mesh.data;
    LH_CHECK(
        sequence % session_ways(config, sequence) == 0, LH_ERR_USAGE,
        "mesh.ulysses %d does not divide the %d ranks along the sequence (%d ranks / mesh.data): "
        "change one of them, or set mesh.ulysses: auto, and all share heads",
        session_ways(config, sequence), sequence, ranks);
done:
    return st;
}

/* The mesh that counts beside the real one. Local. */
static lh_status session_counting_mesh(lh_session *s, int data, int sequence, int rank)
{
    lh_status st = lh_mesh_create_counting(data, sequence, rank, &s->counting_mesh);
    if (st != LH_OK) return st;
    return lh_mesh_split(s->counting_mesh, session_ways(s->config, sequence));
}

lh_status lh_session_open(lh_comm *world, lh_config *config, bool trainable, lh_session **out)
{
    lh_status st = LH_OK;
    lh_session *s = NULL;
    const char *isa = NULL;
    size_t arena[LH_SPACES] = {0};
    *out = NULL;
    st = lh_new(sizeof *s, &s);
    LH_TRY(lh_agree(world, st));
    s->config = config;
    s->world = world;
    s->pulse = lh_comm_traffic(world)->pulse;
    lh_pulse_phase(s->pulse, "opening", LH_PULSE_TOGETHER | LH_PULSE_PATIENT);
    s->host = lh_host_of(world);
    LH_TRY(lh_session_check_ranks(config, lh_comm_size(world)));
    LH_TRY(session_isa(s, &isa));
    LH_TRY(lh_mesh_create_of(world, (int)config->mesh.data, &s->mesh));
    LH_TRY(lh_mesh_split(s->mesh, session_ways(config, s->mesh->size[LH_AXIS_SEQ])));
    s->mesh->traffic->pulse = s->pulse;
    lh_pulse_phase(s->pulse, "opening the data", LH_PULSE_PATIENT);
    LH_TRY(lh_task_open(world, config, &s->task));
    lh_pulse_phase(s->pulse, "preparing the first step", LH_PULSE_PATIENT);
    /* what is local, and agreed on where memory is to be taken */
    st = session_counting_mesh(s, s->mesh->size[LH_AXIS_DATA], s->mesh->size[LH_AXIS_SEQ],
                               lh_comm_rank(world));
    if (st == LH_OK) st = session_declare(s, config, isa);
    size_t need = st == LH_OK ? lh_params_need(s->params, trainable) : 0;
    LH_TRY(session_room(s, st, "parameters, gradients and moments", need));
    st = session_build(s, config, trainable);
    if (st == LH_OK) st = session_count_arena(s, arena);
    need += arena[LH_SPACE_DEVICE] + arena[LH_SPACE_HOST];
    LH_TRY(session_room(s, st, "parameters and a step", need));
    LH_TRY(lh_agree(world, session_arena(s, arena)));
    *out = s;
    s = NULL;
done:
    lh_session_close(&s);
    return st;
}

void lhi_session_sum_labels(lh_session *s, int64_t *labels)
{
    lh_sum_i64(s->mesh->world, labels, 1, LH_SEND_CONTROL);
}

void lhi_session_sum_lanes(lh_session *s, double lanes[LHI_SESSION_LANES])
{
    lh_sum_f64(s->mesh->world, lanes, LHI_SESSION_LANES, LH_SEND_CONTROL);
}

/* A step's messages, all of whose passes are alike; of a model without a loss those of its forward pass. */
static lh_status session_count_step(lh_session *s)
{
    lh_status st = LH_OK;
    lh_traffic *t = s->mesh->traffic;
    int64_t labels = 0;
    double lanes[LHI_SESSION_LANES] = {0.0};
    LH_TRY(session_count(s, s->params->trainable));
    if (!s->params->trainable) goto done; /* one pass, forward, which is no step */
    for (int p = 0; p < LH_PURPOSES; p++) {
        t->bytes[p] *= s->passes;
        t->messages[p] *= s->passes;
    }
    lhi_session_sum_labels(s, &labels);
    lh_params_zero_grad(s->params);
    LH_TRY(lh_grads_reduce(s->mesh, s->params, s->reduce, s->reduce_elements));
    lhi_session_sum_lanes(s, lanes);
done:
    return st;
}

lh_status lh_session_open_counting(lh_config *config, int ranks, int rank, lh_session **out)
{
    lh_status st = LH_OK;
    lh_session *s = NULL;
    const char *isa = NULL;
    int data = (int)config->mesh.data;
    int mask = lh_host_processors();
    *out = NULL;
    LH_TRY(lh_session_check_ranks(config, ranks));
    LH_TRY(lh_new(sizeof *s, &s));
    s->config = config;
    s->host = (lh_host){.ranks = ranks, .sharing = ranks, .mask = mask, .online = mask};
    LH_TRY(session_counting_mesh(s, data, ranks / data, rank));
    s->mesh = s->counting_mesh;
    s->world = s->mesh->world;
    LH_TRY(session_isa(s, &isa));
    LH_TRY(session_declare(s, config, isa));
    LH_TRY(session_build(s, config, lh_model_has_loss(&config->model)));
    LH_TRY(session_count_step(s));
    *out = s;
    s = NULL;
done:
    lh_session_close(&s);
    return st;
}

void lh_session_close(lh_session **session)
{
    lh_session *s = *session;
    if (s == NULL) return;
    if (s->device != NULL) {
        lh_device_release(s->device, &s->arena[LH_SPACE_DEVICE]);
        lh_device_release(s->device, &s->device_tokens);
        lh_device_release(s->device, &s->device_labels);
        lh_device_release(s->device, &s->device_sequence_labels);
        lh_device_release(s->device, (void **)&s->norm_scratch);
    }
    lh_host_release(&s->arena[LH_SPACE_HOST]);
    lh_free(&s->tokens);
    lh_free(&s->labels);
    lh_free(&s->sequence_labels);
    lh_free(&s->valid);
    lh_free(&s->valid_all);
    lh_free(&s->documents);
    lh_free(&s->spread_documents);
    lh_free(&s->spread_room);
    lh_free(&s->global_count);
    lh_free(&s->global_position);
    lh_free(&s->reduce);
    lh_memory_destroy(&s->memory[0]);
    lh_memory_destroy(&s->memory[1]);
    lh_tape_destroy(&s->tape);
    lh_model_destroy(&s->model);
    lh_params_destroy(&s->params);
    lh_spread_destroy(&s->spread);
    lh_layout_destroy(&s->layout);
    lh_layout_destroy(&s->table);
    lh_task_close(&s->task);
    if (s->device == s->counting_device) s->device = NULL; /* a session that only counts */
    if (s->mesh == s->counting_mesh) s->mesh = NULL;
    lh_device_destroy(&s->device);
    lh_device_destroy(&s->counting_device);
    lh_mesh_destroy(&s->counting_mesh);
    lh_mesh_destroy(&s->mesh);
    lh_free(session);
}

int64_t lh_session_peak(const lh_session *s)
{
    int64_t batch = 2 * (s->passes + 1) * s->batch * s->rows * (int64_t)sizeof(int32_t);
    if (s->documents != NULL)
        batch += 2 * s->passes * s->batch * s->rows * (int64_t)sizeof(int32_t);
    if (s->sequence_labels != NULL) batch += (s->passes + 1) * s->batch * (int64_t)sizeof(int32_t);
    if (s->spread_documents != NULL)
        batch += 2 * (s->passes * s->batch + 1) * s->spread_rows * (int64_t)sizeof(int32_t);
    int64_t reduce = s->reduce != NULL ? session_reduce_bytes(s) : 0;
    return lh_memory_peak(s->memory[s->params->trainable]) + batch + reduce;
}
