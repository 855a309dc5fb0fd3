/* What an open session does: training steps, and evaluations. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/pulse.h"
#include "experiments/nonfinite.h"
#include "experiments/session_internal.h"

enum { SESSION_STOP = 8 /* passes of an evaluation between two looks at the stop request */ };

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

/* The batch of pass number `pass` lies on the device, and the tape is empty. */
static void session_feed(lh_session *s, int64_t pass, bool gradients)
{
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
}

/* Runs pass number `pass` of the host buffers; a failure in here is our own bug and cannot be
 * agreed on. Gradients that are final in the last pass of a step are reduced behind it. */
static void session_pass(lh_session *s, int64_t pass, bool gradients, lh_batch batch, double *loss,
                         double *correct)
{
    lh_status st = LH_OK;
    lh_var vars[2] = {{0}};
    const void *data[2] = {NULL};
    session_feed(s, pass, gradients);
    LH_TRY(lh_model_loss(s->model, s->tape, s->mesh, &batch, &vars[0], &vars[1]));
    for (int i = 0; i < 2; i++) LH_TRY(lh_var_data(s->tape, vars[i], &data[i]));
    *loss += lh_read_scalar(s->device, data[0], LH_F64);
    *correct += lh_read_scalar(s->device, data[1], LH_F64);
    if (gradients && pass == s->passes - 1 && !s->again)
        lh_tape_between(s->tape, session_between, s);
    if (gradients) LH_TRY(lh_tape_backward(s->tape, vars[0]));
done:
    if (st != LH_OK) lh_fatal(s->world, "%s (%s)", lh_error_text(), lh_error_where());
}

void lh_session_profile(lh_session *s, lh_profile *p)
{
    lh_tape_profile(s->tape, p);
    lh_session_profile_step(s, p);
}

void lh_session_profile_step(lh_session *s, lh_profile *p)
{
    s->profile = p;
    if (p == NULL) return;
    p->clock = lh_wall;
    p->waited = &s->mesh->traffic->wait_s;
}

/* Forward and backward of all passes of a step. Returns this rank's part of the loss. */
static double session_passes(lh_session *s, int64_t first_sample, int64_t labels)
{
    const lh_mesh *m = s->mesh;
    double loss = 0.0;
    double correct = 0.0;
    double scale = labels > 0 ? 1.0 / (double)labels : 0.0;
    for (int64_t pass = 0; pass < s->passes; pass++) {
        int64_t sample =
            first_sample + (pass * m->size[LH_AXIS_DATA] + m->coord[LH_AXIS_DATA]) * s->batch;
        s->pass = pass;
        session_pass(s, pass, true, lhi_session_batch(s, pass, scale, sample, true), &loss,
                     &correct);
    }
    return loss;
}

void lh_session_again(lh_session *s, int64_t first_sample, int64_t labels, lh_inspector *inspector)
{
    s->again = true;
    lh_tape_inspect(s->tape, inspector);
    lh_params_zero_grad(s->params);
    (void)session_passes(s, first_sample, labels);
    lh_tape_inspect(s->tape, NULL);
    s->again = false;
}

/* The batch, forward and backward, and the reduction. Returns this rank's part of the loss. */
static double session_gradients(lh_session *s, int64_t first_sample, int64_t *labels)
{
    const lh_mesh *m = s->mesh;
    double loss = 0.0;
    lh_profile_mark at = lh_profile_begin(s->profile, s->device);
    *labels = 0;
    lh_pulse_phase(s->pulse, "reading data", 0);
    for (int64_t pass = 0; pass < s->passes; pass++) {
        int64_t sample =
            first_sample + (pass * m->size[LH_AXIS_DATA] + m->coord[LH_AXIS_DATA]) * s->batch;
        for (int64_t b = 0; b < s->batch; b++)
            session_read(s, pass * s->batch + b, LH_SPLIT_TRAIN, lh_task_order(s->task, sample + b),
                         sample + b, labels);
    }
    lhi_session_sum_labels(s, labels);
    session_mark(s, &at, "data");
    lh_pulse_phase(s->pulse, "forward and backward pass", 0);
    lh_params_zero_grad(s->params);
    lh_status st = lh_reducer_begin(&s->reducer, s->mesh, s->params, s->reduce, s->reduce_elements,
                                    s->reduce_buckets);
    if (st != LH_OK) lh_fatal(s->world, "%s (%s)", lh_error_text(), lh_error_where());
    session_mark(s, &at, "zero_gradients");
    loss = session_passes(s, first_sample, *labels);
    at = lh_profile_begin(s->profile, s->device);
    lh_pulse_phase(s->pulse, "gradient reduction", 0);
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
    double lanes[LHI_SESSION_LANES] = {0.0};
    lh_pulse_step(s->pulse, t);
    s->trouble = lh_model_begin_step(s->model, t - 1);
    lanes[0] = session_gradients(s, first_sample, &out->labels);
    lh_profile_mark at = lh_profile_begin(s->profile, s->device);
    lh_pulse_phase(s->pulse, "gradient norm", 0);
    st = lh_grads_norm(s->params, s->norm_scratch, &replicated, &lanes[1]);
    if (st != LH_OK) lh_fatal(s->world, "%s (%s)", lh_error_text(), lh_error_where());
    /* every rank has the replicated part; one says it, so that all decide on the same number */
    if (lh_comm_rank(s->world) == 0) lanes[1] += replicated;
    lanes[2] = (s->trouble != LH_OK ? 1.0 : 0.0) + (stop ? 65536.0 : 0.0);
    lhi_session_sum_lanes(s, lanes);
    session_mark(s, &at, "gradient_norm");
    out->loss = lanes[0];
    out->grad_norm = sqrt(lanes[1]);
    out->stop = lanes[2] >= 65536.0;
    if (fmod(lanes[2], 65536.0) > 0.0) LH_TRY(lh_agree(s->world, s->trouble));
    out->skipped = !isfinite(out->loss) || !isfinite(out->grad_norm);
    s->skips = out->skipped ? s->skips + 1 : 0;
    if (out->skipped && s->config->train.on_nonfinite == LH_NONFINITE_SKIP &&
        s->skips < LH_NONFINITE_SKIPS)
        goto done;
    if (out->skipped) LH_TRY(lh_nonfinite_report(s, first_sample, t, out));
    lh_pulse_phase(s->pulse, "optimizer", 0);
    lh_optimizer optimizer = {lr,     o->betas.item[0], o->betas.item[1],
                              o->eps, o->weight_decay,  o->clip};
    st = lh_optimizer_step(&optimizer, s->params, t,
                           lh_optimizer_grad_scale(&optimizer, out->grad_norm));
    session_mark(s, &at, "optimizer");
    if (st != LH_OK) lh_fatal(s->world, "%s (%s)", lh_error_text(), lh_error_where());
done:
    return st;
}

lh_status lh_session_forward(lh_session *s, int64_t first_sample)
{
    lh_var out = {0};
    int64_t counted = 0; /* labels, for which nobody asks */
    int64_t sample = first_sample + s->mesh->coord[LH_AXIS_DATA] * s->batch;
    lh_profile_mark at = lh_profile_begin(s->profile, s->device);
    s->trouble = LH_OK;
    lh_pulse_phase(s->pulse, "forward pass", 0);
    for (int64_t b = 0; b < s->batch; b++)
        session_read(s, b, LH_SPLIT_TRAIN, lh_task_order(s->task, sample + b), sample + b,
                     &counted);
    session_mark(s, &at, "data");
    lh_batch batch = lhi_session_batch(s, 0, 1.0, sample, false);
    session_feed(s, 0, false);
    lh_status st = lh_model_output(s->model, s->tape, s->mesh, &batch, &out);
    if (st != LH_OK) lh_fatal(s->world, "%s (%s)", lh_error_text(), lh_error_where());
    return lh_agree(s->world, s->trouble);
}

/* Was any rank asked to stop? Collective on world. */
static bool session_asked_to_stop(lh_session *s, lh_stop *stop)
{
    int64_t asked = lh_stop_now(stop, 1.0); /* a pass is shorter than a step */
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

lh_status lh_session_evaluate(lh_session *s, lh_split split, int64_t max_tokens, lh_stop *stop,
                              lh_eval_result *out)
{
    lh_status st = LH_OK;
    const lh_mesh *m = s->mesh;
    /* passes between two looks: only the signal may wait for some */
    int64_t looks = stop != NULL && stop->timed ? 1 : SESSION_STOP;
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
    lh_pulse_phase(s->pulse, "evaluation", 0);
    for (int64_t first = 0; first < windows && !out->stopped; first += stride) {
        int64_t mine = first + m->coord[LH_AXIS_DATA] * s->batch;
        for (int64_t b = 0; b < s->batch; b++)
            session_read(s, b, split, mine + b < windows ? mine + b : -1, mine + b, &labels);
        session_pass(s, 0, false, lhi_session_batch(s, 0, 1.0, 0, false), &sums[0], &sums[1]);
        if (stop != NULL && first / stride % looks == looks - 1)
            out->stopped = session_asked_to_stop(s, stop);
    }
    sums[2] = (double)labels;
    *m->traffic = before; /* evaluation is not part of a step's traffic */
    lh_sum_f64(s->world, sums, 3, LH_SEND_OTHER);
    lh_pulse_phase(s->pulse, "baselines of the evaluation", LH_PULSE_PATIENT);
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
