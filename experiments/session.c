#include "experiments/session.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    SESSION_REDUCE = 1 << 20, /* elements of a bucket of the gradient reduction, at most */
    SESSION_BUCKETS = 4,      /* in flight, at most */
    SESSION_STOP = 8,         /* passes of an evaluation between two looks at the stop request */
    SESSION_LANES = 3         /* of a step's second small reduction */
};

/* Threads of this rank: what the file says, else OMP_NUM_THREADS, else its share of the processors
 * it may use. */
static int session_threads(const lh_session *s)
{
    const char *text = getenv("OMP_NUM_THREADS");
    long wish = text != NULL ? strtol(text, NULL, 10) : 0;
    if (s->config->device.threads != LH_AUTO) return (int)s->config->device.threads;
    if (wish > 0) return wish < LH_MAX_THREADS ? (int)wish : LH_MAX_THREADS;
    int share = s->host.mask / (s->host.sharing > 0 ? s->host.sharing : 1);
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
    int threads = session_threads(s);
    if (s->mesh->counting) {
        LH_TRY(lh_device_create_count(isa, threads, &s->counting_device));
        s->device = s->counting_device;
        goto done;
    }
    if (s->config->device.kind == LH_DEVICE_POISON)
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

static lh_status session_model(lh_session *s, lh_config *config, bool trainable)
{
    lh_status st = LH_OK;
    lh_model_shape shape = {.batch = s->batch,
                            .length = config->data.length,
                            .layout = s->layout,
                            .table = s->table != NULL ? s->table : s->layout,
                            .spread = s->spread,
                            .documents = config->data.documents != LH_AUTO,
                            .max_global = s->max_global,
                            .store = lh_config_store(config)};
    uint64_t seed = (uint64_t)config->run.seed;
    /* without files only the configuration can tell */
    int64_t vocab = s->task != NULL ? lh_task_vocab_read(s->task, config) : lh_task_vocab(config);
    LH_CHECK(vocab > 0 || config->model.vocab != LH_AUTO, LH_ERR_USAGE,
             "key 'model.vocab' is missing: the token file says it, but no data file is opened "
             "here: give the number that longhaul inspect '%s' prints (masked_tokens: one more)",
             config->data.path);
    LH_TRY(lh_model_resolve(&config->model, vocab, lh_task_classes(config)));
    LH_TRY(lh_params_create(s->device, s->mesh->coord, &s->params));
    LH_TRY(lh_model_declare(&config->model, &shape, s->params));
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

/* The batch of a pass, whose data the host buffers hold. */
static lh_batch session_batch(lh_session *s, int64_t pass, double scale, int64_t sequence,
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
    lh_batch batch = session_batch(s, 0, 1.0, 0, gradients);
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

static lh_status session_arena(lh_session *s)
{
    lh_status st = LH_OK;
    size_t bytes[LH_SPACES] = {0};
    for (int g = 0; g < 2; g++) {
        if (g == 1 && !s->params->trainable) continue;
        LH_TRY(session_count(s, g == 1));
        for (int i = 0; i < LH_SPACES; i++)
            if (lh_memory_bytes(s->memory[g], (lh_space)i) > bytes[i])
                bytes[i] = lh_memory_bytes(s->memory[g], (lh_space)i);
    }
    LH_TRY(lh_device_alloc(s->device, bytes[LH_SPACE_DEVICE], &s->arena[LH_SPACE_DEVICE]));
    LH_TRY(lh_host_alloc(bytes[LH_SPACE_HOST], &s->arena[LH_SPACE_HOST]));
done:
    return st;
}

/* What needs no message: the model in its shape, and the buffers of a step. Local. */
static lh_status session_build(lh_session *s, lh_config *config, const char *isa, bool trainable)
{
    lh_status st = LH_OK;
    LH_TRY(session_devices(s, isa));
    LH_TRY(session_shape(s, config));
    LH_TRY(session_model(s, config, trainable));
    LH_TRY(session_buffers(s));
done:
    return st;
}

static lh_status session_check_ranks(const lh_config *config, int ranks)
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
    *out = NULL;
    st = lh_new(sizeof *s, &s);
    LH_TRY(lh_agree(world, st));
    s->config = config;
    s->world = world;
    s->host = lh_host_of(world);
    LH_TRY(session_check_ranks(config, lh_comm_size(world)));
    LH_TRY(session_isa(s, &isa));
    LH_TRY(lh_comm_size(world) == 1 ? lh_mesh_create_self(&s->mesh)
                                    : lh_mesh_create((int)config->mesh.data, &s->mesh));
    LH_TRY(lh_mesh_split(s->mesh, session_ways(config, s->mesh->size[LH_AXIS_SEQ])));
    LH_TRY(lh_task_open(world, config, &s->task));
    /* local from here on, and agreed on once */
    st = session_counting_mesh(s, s->mesh->size[LH_AXIS_DATA], s->mesh->size[LH_AXIS_SEQ],
                               lh_comm_rank(world));
    if (st == LH_OK) st = session_build(s, config, isa, trainable);
    if (st == LH_OK) st = session_arena(s);
    LH_TRY(lh_agree(world, st));
    *out = s;
    s = NULL;
done:
    lh_session_close(&s);
    return st;
}

/* The small reductions of a step: counted labels before it; loss, squared gradient norm and trouble
 * before the update. Of the mesh, whose traffic is the step's. */
static void session_sum_labels(lh_session *s, int64_t *labels)
{
    lh_sum_i64(s->mesh->world, labels, 1, LH_SEND_CONTROL);
}

static void session_sum_lanes(lh_session *s, double lanes[SESSION_LANES])
{
    lh_sum_f64(s->mesh->world, lanes, SESSION_LANES, LH_SEND_CONTROL);
}

/* A step's messages, all of whose passes are alike; of a model without a loss those of its forward pass. */
static lh_status session_count_step(lh_session *s)
{
    lh_status st = LH_OK;
    lh_traffic *t = s->mesh->traffic;
    int64_t labels = 0;
    double lanes[SESSION_LANES] = {0.0};
    LH_TRY(session_count(s, s->params->trainable));
    if (!s->params->trainable) goto done; /* one pass, forward, which is no step */
    for (int p = 0; p < LH_PURPOSES; p++) {
        t->bytes[p] *= s->passes;
        t->messages[p] *= s->passes;
    }
    session_sum_labels(s, &labels);
    lh_params_zero_grad(s->params);
    LH_TRY(lh_grads_reduce(s->mesh, s->params, s->reduce, s->reduce_elements));
    session_sum_lanes(s, lanes);
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
    LH_TRY(session_check_ranks(config, ranks));
    LH_TRY(lh_new(sizeof *s, &s));
    s->config = config;
    s->host = (lh_host){.ranks = ranks, .sharing = ranks, .mask = mask, .online = mask};
    LH_TRY(session_counting_mesh(s, data, ranks / data, rank));
    s->mesh = s->counting_mesh;
    s->world = s->mesh->world;
    LH_TRY(session_isa(s, &isa));
    LH_TRY(session_build(s, config, isa, lh_model_has_loss(&config->model)));
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

/* Where the documents of the group's rows begin and end: read here, so that nothing is sent for it. */
static void session_read_spread(lh_session *s, int64_t slot, lh_split split, int64_t window,
                                int64_t draw)
{
    lh_rows rows = {.tokens = s->spread_room,
                    .labels = s->spread_room + s->spread_rows,
                    .documents = s->spread_documents + 2 * slot * s->spread_rows};
    lh_status st = lh_task_read(s->task, split, window, draw, s->spread->to,
                                lh_comm_rank(s->mesh->ring), &rows);
    if (st != LH_OK && s->trouble == LH_OK) s->trouble = st;
}

/* One sequence of a pass into the host buffers. A rank whose file fails goes on with an empty
 * sequence. */
static void session_read(lh_session *s, int64_t slot, lh_split split, int64_t window, int64_t draw,
                         int64_t *counted)
{
    lh_rows rows = {.tokens = s->tokens + slot * s->rows, .labels = s->labels + slot * s->rows};
    if (s->documents != NULL) rows.documents = s->documents + 2 * slot * s->rows;
    if (s->max_global > 0) rows.global = s->global_position + slot * s->max_global;
    lh_status st =
        lh_task_read(s->task, split, window, draw, s->layout, s->mesh->coord[LH_AXIS_SEQ], &rows);
    if (st != LH_OK && s->trouble == LH_OK) s->trouble = st;
    if (s->spread_documents != NULL) session_read_spread(s, slot, split, window, draw);
    s->valid_all[slot] = rows.valid;
    if (s->max_global > 0) s->global_count[slot] = rows.n_global;
    if (s->sequence_labels != NULL) s->sequence_labels[slot] = rows.sequence_label;
    *counted += rows.counted;
}

/* The part of a step that began at *at has ended; the next one begins. */
static void session_mark(lh_session *s, lh_profile_mark *at, const char *name)
{
    lh_profile_end(s->profile, s->device, *at, name, LH_DIRECTION_STEP);
    *at = lh_profile_begin(s->profile, s->device);
}

/* Between two operations of the last backward pass. */
static void session_between(void *session)
{
    lh_session *s = session;
    lh_profile_mark at = lh_profile_begin(s->profile, s->device);
    lh_reducer_advance(&s->reducer);
    session_mark(s, &at, "gradient_reduction");
}

/* Runs pass number `pass` of the host buffers; a failure in here is our own bug and cannot be
 * agreed on. Gradients that are final in the last pass of a step are reduced behind it. */
static void session_pass(lh_session *s, int64_t pass, bool gradients, lh_batch batch, double *loss,
                         double *correct)
{
    lh_status st = LH_OK;
    lh_var vars[2] = {{0}};
    const void *data[2] = {NULL};
    size_t bytes = (size_t)(s->batch * s->rows) * sizeof(int32_t);
    for (int64_t b = 0; b < s->batch; b++) s->valid[b] = s->valid_all[pass * s->batch + b];
    lh_copy_in(s->device, s->device_tokens, s->tokens + pass * s->batch * s->rows, bytes);
    lh_copy_in(s->device, s->device_labels, s->labels + pass * s->batch * s->rows, bytes);
    if (s->sequence_labels != NULL)
        lh_copy_in(s->device, s->device_sequence_labels, s->sequence_labels + pass * s->batch,
                   (size_t)s->batch * sizeof *s->sequence_labels);
    lh_memory_replay(s->memory[gradients], s->device, s->arena[LH_SPACE_DEVICE],
                     s->arena[LH_SPACE_HOST]);
    lh_tape_reset(s->tape, s->device, s->memory[gradients], gradients);
    LH_TRY(lh_model_loss(s->model, s->tape, s->mesh, &batch, &vars[0], &vars[1]));
    for (int i = 0; i < 2; i++) LH_TRY(lh_var_data(s->tape, vars[i], &data[i]));
    *loss += lh_read_scalar(s->device, data[0], LH_F64);
    *correct += lh_read_scalar(s->device, data[1], LH_F64);
    if (gradients && pass == s->passes - 1) lh_tape_between(s->tape, session_between, s);
    if (gradients) LH_TRY(lh_tape_backward(s->tape, vars[0]));
done:
    if (st != LH_OK) lh_fatal(s->world, "%s (%s)", lh_error_text(), lh_error_where());
}

void lh_session_profile(lh_session *s, lh_profile *p)
{
    s->profile = p;
    lh_tape_profile(s->tape, p);
    if (p == NULL) return;
    p->clock = lh_wall;
    p->waited = &s->mesh->traffic->wait_s;
}

/* Forward and backward of all passes of a step, and the reduction. Returns this rank's part of the loss. */
static double session_gradients(lh_session *s, int64_t first_sample, int64_t *labels)
{
    const lh_mesh *m = s->mesh;
    double loss = 0.0;
    double correct = 0.0;
    lh_profile_mark at = lh_profile_begin(s->profile, s->device);
    *labels = 0;
    for (int64_t pass = 0; pass < s->passes; pass++) {
        int64_t sample =
            first_sample + (pass * m->size[LH_AXIS_DATA] + m->coord[LH_AXIS_DATA]) * s->batch;
        for (int64_t b = 0; b < s->batch; b++)
            session_read(s, pass * s->batch + b, LH_SPLIT_TRAIN, lh_task_order(s->task, sample + b),
                         sample + b, labels);
    }
    session_sum_labels(s, labels);
    session_mark(s, &at, "data");
    double scale = *labels > 0 ? 1.0 / (double)*labels : 0.0;
    lh_params_zero_grad(s->params);
    lh_status st = lh_reducer_begin(&s->reducer, s->mesh, s->params, s->reduce, s->reduce_elements,
                                    s->reduce_buckets);
    if (st != LH_OK) lh_fatal(s->world, "%s (%s)", lh_error_text(), lh_error_where());
    session_mark(s, &at, "zero_gradients");
    for (int64_t pass = 0; pass < s->passes; pass++) {
        int64_t sample =
            first_sample + (pass * m->size[LH_AXIS_DATA] + m->coord[LH_AXIS_DATA]) * s->batch;
        session_pass(s, pass, true, session_batch(s, pass, scale, sample, true), &loss, &correct);
    }
    at = lh_profile_begin(s->profile, s->device);
    lh_reducer_finish(&s->reducer);
    session_mark(s, &at, "gradient_reduction");
    return loss;
}

lh_status lh_session_step(lh_session *s, int64_t first_sample, int64_t t, double lr, bool stop,
                          lh_step_result *out)
{
    lh_status st = LH_OK;
    const lh_config_optimizer *o = &s->config->optimizer;
    double replicated = 0.0;
    /* the second reduction: loss, squared gradient norm, ranks in trouble + 65536 times
     * ranks asked to stop */
    double lanes[SESSION_LANES] = {0.0};
    s->trouble = lh_model_begin_step(s->model, t - 1);
    lanes[0] = session_gradients(s, first_sample, &out->labels);
    lh_profile_mark at = lh_profile_begin(s->profile, s->device);
    st = lh_grads_norm(s->params, s->norm_scratch, &replicated, &lanes[1]);
    if (st != LH_OK) lh_fatal(s->world, "%s (%s)", lh_error_text(), lh_error_where());
    /* every rank has the replicated part; one says it, so that all decide on the same number */
    if (lh_comm_rank(s->world) == 0) lanes[1] += replicated;
    lanes[2] = (s->trouble != LH_OK ? 1.0 : 0.0) + (stop ? 65536.0 : 0.0);
    session_sum_lanes(s, lanes);
    session_mark(s, &at, "gradient_norm");
    out->loss = lanes[0];
    out->grad_norm = sqrt(lanes[1]);
    out->stop = lanes[2] >= 65536.0;
    if (fmod(lanes[2], 65536.0) > 0.0) LH_TRY(lh_agree(s->world, s->trouble));
    LH_CHECK(isfinite(out->loss) && isfinite(out->grad_norm), LH_ERR_NONFINITE,
             "step %" PRId64 ": loss %g, gradient norm %g: lower optimizer.lr, lengthen "
             "schedule.warmup, or look at the data",
             t, out->loss, out->grad_norm);
    lh_optimizer optimizer = {lr,     o->betas.item[0], o->betas.item[1],
                              o->eps, o->weight_decay,  o->clip};
    st = lh_optimizer_step(&optimizer, s->params, t,
                           lh_optimizer_grad_scale(&optimizer, out->grad_norm));
    session_mark(s, &at, "optimizer");
    if (st != LH_OK) lh_fatal(s->world, "%s (%s)", lh_error_text(), lh_error_where());
done:
    return st;
}

/* Was any rank asked to stop? Collective on world. */
static bool session_asked_to_stop(lh_session *s, const volatile sig_atomic_t *stop)
{
    int64_t asked = *stop != 0;
    lh_max_i64(s->world, &asked, 1, LH_SEND_OTHER);
    return asked != 0;
}

/* What answers without a model reach on the split: found out once. Local. */
static lh_status session_baselines(lh_session *s, lh_split split, lh_eval_result *out)
{
    lh_status st = LH_OK;
    if (!s->baseline[split].known)
        LH_TRY(
            lh_task_baselines(s->task, split, s->baseline[split].item, &s->baseline[split].count));
    s->baseline[split].known = true;
    out->baselines = s->baseline[split].count;
    memcpy(out->baseline, s->baseline[split].item, sizeof out->baseline);
done:
    return st;
}

lh_status lh_session_evaluate(lh_session *s, lh_split split, int64_t max_tokens,
                              const volatile sig_atomic_t *stop, lh_eval_result *out)
{
    lh_status st = LH_OK;
    const lh_mesh *m = s->mesh;
    int64_t windows = lh_task_windows(s->task, split);
    int64_t length = s->config->data.length;
    int64_t stride = m->size[LH_AXIS_DATA] * s->batch;
    int64_t labels = 0;
    double sums[3] = {0.0, 0.0, 0.0}; /* loss, right answers, labels */
    lh_traffic before = *m->traffic;
    *out = (lh_eval_result){0};
    LH_CHECK(windows > 0, LH_ERR_USAGE, "there is no such part of the data: give data.%s",
             split == LH_SPLIT_TEST ? "test_path" : "valid_path or data.valid_fraction");
    if (lh_task_made(s->config)) max_tokens = 0;
    if (max_tokens > 0 && windows > (max_tokens + length - 1) / length)
        windows = (max_tokens + length - 1) / length;
    s->trouble = LH_OK;
    for (int64_t first = 0; first < windows && !out->stopped; first += stride) {
        int64_t mine = first + m->coord[LH_AXIS_DATA] * s->batch;
        for (int64_t b = 0; b < s->batch; b++)
            session_read(s, b, split, mine + b < windows ? mine + b : -1, mine + b, &labels);
        session_pass(s, 0, false, session_batch(s, 0, 1.0, 0, false), &sums[0], &sums[1]);
        if (stop != NULL && first / stride % SESSION_STOP == SESSION_STOP - 1)
            out->stopped = session_asked_to_stop(s, stop);
    }
    sums[2] = (double)labels;
    *m->traffic = before; /* evaluation is not part of a step's traffic */
    lh_sum_f64(s->world, sums, 3, LH_SEND_OTHER);
    if (lh_comm_rank(s->world) == 0 && s->trouble == LH_OK && !out->stopped)
        s->trouble = session_baselines(s, split, out);
    LH_TRY(lh_agree(s->world, s->trouble));
    if (sums[2] > 0.0) {
        out->loss = sums[0] / sums[2];
        out->accuracy = sums[1] / sums[2];
        out->unit = lh_task_unit(s->task);
        if (out->unit == LH_UNIT_BYTE) out->bits_per_byte = out->loss / log(2.0);
        if (out->unit == LH_UNIT_TOKEN) out->perplexity = exp(out->loss);
    }
    out->tokens = (int64_t)sums[2];
done:
    return st;
}
