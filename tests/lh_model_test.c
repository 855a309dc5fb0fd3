#include "tests/lh_model_test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/random.h"
#include "tests/tol.h"

enum {
    RIG_SEND = 4096, /* elements reduced at a time: smaller than the parameters */
    RIG_BUCKETS = 3,
    RIG_LABEL_STREAM = 1
};

/* One step on whatever device and mesh: a real one, or the counting pass. */
static lh_status rig_run(lh_rig *r, lh_device *device, lh_mesh *mesh, lh_var *loss)
{
    lh_status st = LH_OK;
    lh_var correct = {0};
    lh_tape_reset(r->tape, device, r->memory, !r->desc->forward);
    if (r->desc->output_seed != NULL)
        LH_TRY(lh_model_output(r->model, r->tape, mesh, &r->in, loss));
    else
        LH_TRY(lh_model_loss(r->model, r->tape, mesh, &r->in, loss, &correct));
done:
    return st;
}

static lh_status rig_backward(lh_rig *r, lh_var loss)
{
    if (r->desc->forward) return LH_OK;
    if (r->desc->output_seed == NULL) return lh_tape_backward(r->tape, loss);
    return lh_tape_backward_from(r->tape, 1, &loss, (const void *const *)&r->seed_device);
}

/* Does the batch have these lists? On the device `count` they are without arrays. */
static void rig_lists(lh_rig *r, bool counting)
{
    const lh_row_list *all = r->desc->global;
    if (all == NULL) return;
    r->global = (lh_row_list){.max = all->max};
    if (!counting) {
        r->global.count = all->count + r->in.first_sequence;
        r->global.position = all->position + r->in.first_sequence * all->max;
    }
    r->in.global = &r->global;
}

static lh_status rig_count(lh_rig *r)
{
    lh_status st = LH_OK;
    lh_var loss = {0};
    const void *data = NULL;
    rig_lists(r, true);
    LH_TRY(lh_memory_count_begin(r->memory));
    LH_TRY(rig_run(r, r->count, r->counting, &loss));
    LH_TRY(lh_var_data(r->tape, loss, &data)); /* read after the forward pass */
    LH_TRY(rig_backward(r, loss));
    LH_TRY(lh_memory_count_end(r->memory));
    if (r->desc->forward) goto done;
    LH_TRY(lh_grads_reduce(r->counting, r->params, NULL, RIG_SEND));
    lh_params_zero_grad(r->params);
done:
    rig_lists(r, false);
    return st;
}

int lh_rig_ways(int ways, int ranks)
{
    if (ways == LH_RIG_ALL) return ranks;
    return ways > 1 && ranks % ways == 0 ? ways : 1;
}

/* Attention by heads, as the real mesh is split. */
static lh_status rig_spread(lh_rig *r, int sequence)
{
    lh_status st = LH_OK;
    int ways = lh_rig_ways(r->desc->ways, sequence);
    if (ways == 1) return LH_OK;
    LH_TRY(lh_mesh_split(r->counting, ways));
    LH_TRY(lh_spread_create(r->layout, ways, &r->spread));
    r->shape.spread = r->spread;
done:
    return st;
}

static lh_status rig_model(lh_rig *r, const int size[LH_AXES], const int coord[LH_AXES])
{
    lh_status st = LH_OK;
    const lh_rig_desc *d = r->desc;
    int rank = coord[LH_AXIS_DATA] * size[LH_AXIS_SEQ] + coord[LH_AXIS_SEQ];
    LH_CHECK(d->batch % size[LH_AXIS_DATA] == 0, LH_ERR_BUG, "%lld sequences on %d data ranks",
             (long long)d->batch, size[LH_AXIS_DATA]);
    LH_TRY(lh_device_create_count(lh_test_isa(), 1, &r->count));
    LH_TRY(lh_layout_contiguous(d->length, size[LH_AXIS_SEQ], d->chunk, !d->unaligned, &r->layout));
    LH_TRY(lh_mesh_create_counting(size[LH_AXIS_DATA], size[LH_AXIS_SEQ], rank, &r->counting));
    r->shape = (lh_model_shape){
        .batch = d->batch / size[LH_AXIS_DATA], .length = d->length, .layout = r->layout};
    r->shape.store = d->store;
    LH_TRY(rig_spread(r, size[LH_AXIS_SEQ]));
    r->shape.max_global = d->global != NULL ? d->global->max : 0;
    r->rows = r->layout->rows[coord[LH_AXIS_SEQ]];
    LH_TRY(lh_params_create(r->device != NULL ? r->device : r->count, coord, &r->params));
    LH_TRY(lh_model_declare(&d->model, &r->shape, r->params));
    LH_TRY(lh_params_allocate(r->params, !d->forward));
    LH_TRY(lh_params_initialise(r->params, d->seed));
    LH_TRY(lh_model_create(&d->model, &r->shape, r->params, d->seed, d->recompute, &r->model));
    LH_TRY(lh_tape_create(size, coord, &r->tape));
    lh_tape_store(r->tape, d->store);
    LH_TRY(lh_memory_create(&r->memory));
    r->in = (lh_batch){.loss_scale = 1.0,
                       .training = d->training,
                       .first_sequence = coord[LH_AXIS_DATA] * r->shape.batch};
    if (d->valid != NULL) r->in.valid = d->valid + r->in.first_sequence;
done:
    return st;
}

/* Does the head make one row of each sequence? Every rank of the sequence has it. */
static bool rig_pools(const lh_rig *r)
{
    return r->desc->model.head == LH_HEAD_CLASS || r->desc->model.head == LH_HEAD_POOLER;
}

/* Index in the whole output of element i of this rank's. */
static int64_t rig_output_index(const lh_rig *r, int64_t i)
{
    int64_t e = r->out_width;
    int64_t b = r->in.first_sequence + i / e / r->out_rows;
    int64_t row = i / e % r->out_rows;
    if (rig_pools(r)) return b * e + i % e;
    int64_t position = lh_layout_position(r->layout, r->mesh->coord[LH_AXIS_SEQ], row);
    return (b * r->desc->length + position) * e + i % e;
}

static lh_status rig_seed(lh_rig *r)
{
    lh_status st = LH_OK;
    const lh_model_desc *m = &r->desc->model;
    r->out_rows = rig_pools(r) ? 1 : r->rows;
    r->out_width = m->head == LH_HEAD_CLASS ? m->classes : m->width;
    int64_t n = r->shape.batch * r->out_rows * r->out_width;
    size_t bytes = (size_t)n * sizeof(lh_real);
    if (r->desc->output_seed == NULL) goto done;
    LH_TRY(lh_device_alloc(r->device, bytes, &r->seed_device));
    LH_TRY(lh_new(bytes, &r->seed_host));
    LH_TRY(lh_new(bytes, &r->output));
    bool counts = !rig_pools(r) || r->mesh->coord[LH_AXIS_SEQ] == 0;
    for (int64_t i = 0; i < n && counts; i++)
        r->seed_host[i] = (lh_real)r->desc->output_seed[rig_output_index(r, i)];
    lh_copy_in(r->device, r->seed_device, r->seed_host, bytes);
done:
    return st;
}

lh_status lh_rig_open(lh_rig *r, const lh_rig_desc *desc, lh_mesh *mesh)
{
    lh_status st = LH_OK;
    *r = (lh_rig){.desc = desc, .mesh = mesh};
    if (desc->poison)
        LH_TRY(lh_device_create_poison(lh_test_isa(), 1, &r->device));
    else
        LH_TRY(lh_device_create_cpu(lh_test_isa(), 1, &r->device));
    LH_TRY(rig_model(r, mesh->size, mesh->coord));
    size_t bytes = (size_t)(r->shape.batch * r->rows) * sizeof *r->ids;
    LH_TRY(lh_device_alloc(r->device, bytes, &r->tokens));
    LH_TRY(lh_device_alloc(r->device, bytes, &r->labels));
    LH_TRY(
        lh_device_alloc(r->device, (size_t)r->shape.batch * sizeof *r->ids, &r->sequence_labels));
    LH_TRY(lh_device_alloc(r->device, 2 * sizeof(double), &r->scratch));
    LH_TRY(lh_new(bytes + (size_t)r->shape.batch * sizeof *r->ids, &r->ids));
    LH_TRY(lh_host_alloc(RIG_BUCKETS * RIG_SEND * sizeof(lh_real), &r->send));
    r->in.tokens = r->tokens;
    r->in.labels = r->labels;
    r->in.sequence_labels = r->sequence_labels;
    LH_TRY(rig_seed(r));
    LH_TRY(rig_count(r));
    LH_TRY(lh_device_alloc(r->device, lh_memory_bytes(r->memory, LH_SPACE_DEVICE), &r->arena));
    LH_TRY(lh_host_alloc(lh_memory_bytes(r->memory, LH_SPACE_HOST), &r->host_arena));
done:
    return st;
}

void lh_rig_close(lh_rig *r)
{
    lh_memory_destroy(&r->memory);
    lh_tape_destroy(&r->tape);
    lh_model_destroy(&r->model);
    if (r->params != NULL) lh_params_destroy(&r->params);
    lh_spread_destroy(&r->spread);
    lh_layout_destroy(&r->layout);
    if (r->device != NULL) {
        lh_device_release(r->device, &r->tokens);
        lh_device_release(r->device, &r->labels);
        lh_device_release(r->device, &r->sequence_labels);
        lh_device_release(r->device, &r->scratch);
        lh_device_release(r->device, &r->arena);
        lh_device_release(r->device, &r->seed_device);
    }
    lh_free(&r->seed_host);
    lh_free(&r->output);
    lh_host_release(&r->host_arena);
    lh_host_release(&r->send);
    lh_free(&r->ids);
    lh_mesh_destroy(&r->counting);
    lh_device_destroy(&r->count);
    lh_device_destroy(&r->device);
}

lh_status lh_rig_plan(const lh_rig_desc *desc, int data, int seq, int rank, int64_t *peak,
                      lh_traffic *traffic)
{
    lh_status st = LH_OK;
    lh_rig r = {.desc = desc};
    const int size[LH_AXES] = {data, seq};
    const int coord[LH_AXES] = {rank / seq, rank % seq};
    LH_TRY(rig_model(&r, size, coord));
    LH_TRY(rig_count(&r));
    *peak = lh_memory_peak(r.memory);
    if (traffic != NULL && r.counting != NULL) *traffic = *r.counting->traffic;
done:
    lh_rig_close(&r);
    return st;
}

static int32_t rig_token(const lh_rig_desc *d, uint64_t seed, int64_t b, int64_t position)
{
    uint64_t index = (uint64_t)(b * (d->length + 1) + position);
    uint64_t stream = lh_stream_id(LH_STREAM_TEST, 0);
    return (int32_t)(lh_random_u32(seed, stream, index) % (uint32_t)d->model.vocab);
}

lh_status lh_rig_text(const lh_rig_desc *d, uint64_t seed, int32_t **tokens, int32_t **labels)
{
    lh_status st = LH_OK;
    int64_t to = d->labels_to > 0 ? d->labels_to : d->length;
    size_t bytes = (size_t)(d->batch * d->length) * sizeof **tokens;
    uint64_t stream = lh_stream_id(LH_STREAM_TEST, RIG_LABEL_STREAM);
    *labels = NULL;
    LH_TRY(lh_new(bytes, tokens));
    LH_TRY(lh_new(bytes, labels));
    for (int64_t b = 0; b < d->batch; b++) {
        for (int64_t i = 0; i < d->length; i++) {
            int64_t at = b * d->length + i;
            bool masked = lh_random_u32(seed, stream, (uint64_t)at) % 6 == 0 || i == d->labels_from;
            bool causal = d->model.kind == LH_MODEL_DECODER;
            (*tokens)[at] = !causal && masked ? 0 : rig_token(d, seed, b, i);
            (*labels)[at] = causal   ? rig_token(d, seed, b, i + 1)
                            : masked ? rig_token(d, seed, b, i)
                                     : -1;
            if (d->model.head == LH_HEAD_CLASS)
                (*labels)[at] =
                    i == 0 ? rig_token(d, seed, b, d->length) % (int32_t)d->model.classes : -1;
            if (i < d->labels_from || i >= to) (*labels)[at] = -1;
            if (d->valid != NULL && i >= d->valid[b]) (*labels)[at] = -1;
        }
    }
done:
    if (st != LH_OK) lh_free(tokens);
    return st;
}

static void rig_cut(const lh_rig *r, const int32_t *whole, void *device)
{
    const lh_rig_desc *d = r->desc;
    for (int64_t b = 0; b < r->shape.batch; b++)
        for (int64_t i = 0; i < r->rows; i++)
            r->ids[b * r->rows + i] =
                whole[(r->in.first_sequence + b) * d->length +
                      lh_layout_position(r->layout, r->mesh->coord[LH_AXIS_SEQ], i)];
    lh_copy_in(r->device, device, r->ids, (size_t)(r->shape.batch * r->rows) * sizeof *r->ids);
}

void lh_rig_load(lh_rig *r, const int32_t *tokens, const int32_t *labels)
{
    int64_t counted = 0;
    for (int64_t i = 0; i < r->desc->batch * r->desc->length; i++) counted += labels[i] >= 0;
    rig_cut(r, tokens, r->tokens);
    rig_cut(r, labels, r->labels);
    for (int64_t b = 0; b < r->shape.batch; b++)
        r->ids[b] = labels[(r->in.first_sequence + b) * r->desc->length];
    lh_copy_in(r->device, r->sequence_labels, r->ids, (size_t)r->shape.batch * sizeof *r->ids);
    r->in.loss_scale = counted > 0 ? 1.0 / (double)counted : 0.0;
}

/* Keeps the output; its sum times the seed, of this rank. */
static double rig_objective(lh_rig *r, const void *data)
{
    double sum = 0.0;
    int64_t n = r->shape.batch * r->out_rows * r->out_width;
    lh_copy_out(r->device, r->output, data, (size_t)n * sizeof *r->output);
    for (int64_t i = 0; i < n; i++) sum += (double)r->output[i] * (double)r->seed_host[i];
    return sum;
}

void lh_rig_output(lh_rig *r, double *whole)
{
    int64_t n = r->desc->batch * (rig_pools(r) ? 1 : r->desc->length) * r->out_width;
    bool mine = !rig_pools(r) || r->mesh->coord[LH_AXIS_SEQ] == 0;
    memset(whole, 0, (size_t)n * sizeof *whole);
    for (int64_t i = 0; i < r->shape.batch * r->out_rows * r->out_width && mine; i++)
        whole[rig_output_index(r, i)] = (double)r->output[i];
    lh_sum_f64(r->mesh->world, whole, n, LH_SEND_OTHER);
}

/* The backward pass and the reduction of what it gives. */
static lh_status rig_gradients(lh_rig *r, lh_var var)
{
    lh_status st = LH_OK;
    int64_t elements = r->desc->bucket > 0 ? r->desc->bucket : RIG_SEND;
    if (r->desc->forward) return LH_OK;
    LH_TRY(lh_reducer_begin(&r->reducer, r->mesh, r->params, r->send, elements, RIG_BUCKETS));
    if (!r->desc->after) lh_tape_between(r->tape, lh_reducer_advance, &r->reducer);
    LH_TRY(rig_backward(r, var));
    lh_reducer_finish(&r->reducer);
done:
    return st;
}

lh_status lh_rig_step(lh_rig *r, double *loss)
{
    lh_status st = LH_OK;
    lh_var var = {0};
    const void *data = NULL;
    *loss = 0.0;
    lh_params_zero_grad(r->params);
    lh_memory_replay(r->memory, r->device, r->arena, r->host_arena);
    LH_TRY(rig_run(r, r->device, r->mesh, &var));
    LH_TRY(lh_var_data(r->tape, var, &data));
    *loss = r->desc->output_seed != NULL ? rig_objective(r, data)
                                         : lh_read_scalar(r->device, data, LH_F64);
    LH_TRY(rig_gradients(r, var));
    lh_sum_f64(r->mesh->world, loss, 1, LH_SEND_OTHER);
done:
    return st;
}

lh_status lh_rig_update(lh_rig *r, const lh_optimizer *o, int64_t t, double *norm)
{
    lh_status st = LH_OK;
    double whole = 0.0;
    double sharded = 0.0;
    *norm = 0.0;
    LH_TRY(lh_grads_norm(r->params, r->scratch, &whole, &sharded));
    lh_sum_f64(r->mesh->world, &sharded, 1, LH_SEND_OTHER);
    *norm = sqrt(whole + sharded);
    LH_TRY(lh_optimizer_step(o, r->params, t, lh_optimizer_grad_scale(o, *norm)));
done:
    return st;
}

/* Index in the whole parameter of element i of this rank's part; parameters are sharded in
 * dimension 0 only. */
static int64_t rig_index(const lh_rig *r, const lh_param *p, int64_t i)
{
    if (p->place.axis[LH_AXIS_SEQ].kind != LH_SHARD) return i;
    int64_t inner = lh_shape_count(&p->whole) / p->whole.dim[0];
    return lh_layout_position(r->layout, r->mesh->coord[LH_AXIS_SEQ], i / inner) * inner +
           i % inner;
}

lh_status lh_rig_set(lh_rig *r, lh_rig_kind kind, const lh_param *p, const double *whole)
{
    lh_status st = LH_OK;
    lh_real *host = NULL;
    int64_t n = lh_shape_count(&p->shape);
    LH_TRY(lh_new((size_t)n * sizeof *host, &host));
    for (int64_t i = 0; i < n; i++) host[i] = (lh_real)whole[rig_index(r, p, i)];
    lh_copy_in(r->device, kind == LH_RIG_VALUE ? p->value : p->grad, host,
               (size_t)n * sizeof *host);
done:
    lh_free(&host);
    return st;
}

lh_status lh_rig_get(lh_rig *r, lh_rig_kind kind, const lh_param *p, double *whole)
{
    lh_status st = LH_OK;
    lh_real *host = NULL;
    int64_t n = lh_shape_count(&p->shape);
    int64_t all = lh_shape_count(&p->whole);
    LH_TRY(lh_new((size_t)n * sizeof *host, &host));
    lh_copy_out(r->device, host, kind == LH_RIG_VALUE ? p->value : p->grad,
                (size_t)n * sizeof *host);
    memset(whole, 0, (size_t)all * sizeof *whole);
    for (int64_t i = 0; i < n; i++) whole[rig_index(r, p, i)] = (double)host[i];
    if (p->place.axis[LH_AXIS_SEQ].kind == LH_SHARD)
        lh_sum_f64(r->mesh->axis[LH_AXIS_SEQ], whole, all, LH_SEND_OTHER);
done:
    lh_free(&host);
    return st;
}

lh_status lh_rig_get_all(lh_rig *r, lh_rig_kind kind, double *all)
{
    lh_status st = LH_OK;
    for (int64_t i = 0; i < r->params->count; i++) {
        if (r->params->item[i]->frozen) continue;
        LH_TRY(lh_rig_get(r, kind, r->params->item[i], all));
        all += lh_shape_count(&r->params->item[i]->whole);
    }
done:
    return st;
}

static double rig_norm(const double *x, const double *y, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        double e = x[i] - (y != NULL ? y[i] : 0.0);
        sum += e * e;
    }
    return sqrt(sum);
}

bool lh_rig_grads_agree(const lh_params *params, const double *got, const double *want)
{
    bool ok = true;
    double all = rig_norm(want, NULL, lh_params_total(params));
    for (int64_t i = 0; i < params->count; i++) {
        const lh_param *p = params->item[i];
        if (p->frozen) continue;
        int64_t n = lh_shape_count(&p->whole);
        double error = rig_norm(got, want, n);
        double size = rig_norm(want, NULL, n);
        double allowed = LH_TOL_GRAD * size + LH_TOL_GRAD_ALL * all;
        if (!(error <= allowed)) { /* NaN too */
            print_error("gradient of %s: off by %.3g, allowed %.3g (norm %.3g, of all %.3g)\n",
                        p->name, error, allowed, size, all);
            ok = false;
        }
        got += n;
        want += n;
    }
    return ok;
}

void lh_rig_report_grads(const lh_rig *r, const char *name, const double *got, const double *want)
{
    double all = 0.0;
    double worst = 0.0;
    if (!lh_test_reports() || lh_comm_rank(r->mesh->world) != 0) return;
    for (int64_t i = 0; i < lh_params_total(r->params); i++) all += want[i] * want[i];
    for (int64_t i = 0; i < r->params->count; i++) {
        const lh_param *p = r->params->item[i];
        double sum[2] = {0.0, 0.0};
        if (p->frozen) continue;
        for (int64_t n = lh_shape_count(&p->whole); n > 0; n--, got++, want++) {
            sum[0] += (*got - *want) * (*got - *want);
            sum[1] += *want * *want;
        }
        double allowed = LH_TOL_GRAD * sqrt(sum[1]) + LH_TOL_GRAD_ALL * sqrt(all);
        double error = sqrt(sum[0]) / allowed * LH_TOL_GRAD;
        if (!(error <= worst)) worst = error; /* NaN too */
    }
    lh_test_report("parity %s gradients %.3g %g", name, worst, LH_TOL_GRAD);
}
