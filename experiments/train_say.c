#define _POSIX_C_SOURCE 200809L /* isatty */
/* What a run says while it goes on. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "experiments/nonfinite.h"
#include "experiments/train_internal.h"

void lhi_train_say(train_run *r, const char *text)
{
    lh_log_line(r->log, "%s", text);
    if (r->lead) (void)fprintf(stderr, "%s%s\n", r->terminal ? "\r\033[K" : "", text);
}

const char *lhi_train_unit(const lh_session *s, double loss, const char *bits,
                           const char *perplexity, char buf[LHI_TRAIN_UNIT])
{
    lh_unit unit = lh_task_unit(s->task);
    buf[0] = '\0';
    if (unit == LH_UNIT_BYTE) (void)snprintf(buf, LHI_TRAIN_UNIT, "%s %.5f", bits, loss / log(2.0));
    if (unit == LH_UNIT_TOKEN)
        (void)snprintf(buf, LHI_TRAIN_UNIT, "%s %.5g", perplexity, exp(loss));
    return buf;
}

void lhi_train_progress(const train_run *r, const lh_step_result *result, double lr)
{
    int64_t left = r->config->schedule.steps - r->step;
    double per_step = (lh_wall() - r->started) / (double)(r->step - r->started_at);
    char text[256], unit[LHI_TRAIN_UNIT];
    if (!r->lead) return;
    (void)snprintf(text, sizeof text,
                   "step %" PRId64 "/%" PRId64 "  loss %.4f%s  norm %.2f  lr %.2e  "
                   "%.0f tokens/s  %.0f s left",
                   r->step, r->config->schedule.steps, result->loss,
                   lhi_train_unit(r->session, result->loss, "  bits/byte", "  perplexity", unit),
                   result->grad_norm, lr, r->rate, per_step * (double)left);
    if (r->terminal)
        (void)fprintf(stderr, "\r\033[K%s", text);
    else
        (void)fprintf(stderr, "%s\n", text);
    (void)fflush(stderr);
}

/* Shards that are empty or uneven cost speed: say so, with what to do. */
static void train_say_shards(train_run *r)
{
    const lh_layout *l = r->session->layout;
    char text[512];
    int idle = 0;
    for (int i = 0; i < l->ranks; i++) idle += l->rows[i] == 0;
    if ((double)l->max_rows * l->ranks <= 1.1 * (double)l->n) return;
    (void)snprintf(
        text, sizeof text,
        "note: %d of %d ranks along the sequence have no tokens and the largest shard is "
        "%.1f times the mean: lower mesh.chunk (%" PRId64 ") or set mesh.align: none",
        idle, l->ranks, (double)l->max_rows * l->ranks / (double)l->n, l->chunk);
    lhi_train_say(r, text);
}

void lhi_train_say_start(train_run *r)
{
    const lh_session *s = r->session;
    char text[512], windows[64];
    if (lh_task_made(r->config))
        (void)snprintf(windows, sizeof windows, "new sequences of");
    else
        (void)snprintf(windows, sizeof windows, "%" PRId64 " training windows of",
                       lh_task_windows(s->task, LH_SPLIT_TRAIN));
    (void)snprintf(text, sizeof text,
                   "longhaul %s (%s): %" PRId64 " parameters, %d x %d ranks (data x sequence), %d "
                   "thread%s each, %s kernels, %s %" PRId64,
                   LH_VERSION, LH_REAL_NAME, lh_params_total(s->params),
                   s->mesh->size[LH_AXIS_DATA], s->mesh->size[LH_AXIS_SEQ], s->device->threads,
                   s->device->threads == 1 ? "" : "s", s->device->kernels->isa, windows,
                   r->config->data.length);
    lhi_train_say(r, text);
    if (lh_host_short(&s->host, s->device->threads, text, sizeof text)) lhi_train_say(r, text);
    if (s->host.ranks * s->device->threads < s->host.online) {
        (void)snprintf(
            text, sizeof text,
            "note: %d rank%s with %d thread%s use%s %d of this node's %d processors: start "
            "more ranks, or give mpirun --bind-to none and set device.threads",
            s->host.ranks, s->host.ranks == 1 ? "" : "s", s->device->threads,
            s->device->threads == 1 ? "" : "s", s->host.ranks == 1 ? "s" : "",
            s->host.ranks * s->device->threads, s->host.online);
        lhi_train_say(r, text);
    }
    train_say_shards(r);
}

void lhi_train_say_resumed(train_run *r, int64_t from, const lh_change_list *noted)
{
    char text[LH_PATH_MAX + LH_CHANGE_TEXT];
    (void)snprintf(text, sizeof text,
                   from >= 0 ? "resuming '%s' after step %" PRId64
                             : "nothing to resume in '%s': starting anew",
                   r->folder, from);
    lhi_train_say(r, text);
    (void)snprintf(text, sizeof text, "from here on with other settings:%s", noted->text);
    if (noted->count > 0) lhi_train_say(r, text);
}

/* Launchers put a pipe between a rank and the
 * terminal, so whoever starts one on a terminal may say so: LONGHAUL_PROGRESS=live. */
bool lhi_train_terminal(void)
{
    const char *wish = getenv("LONGHAUL_PROGRESS");
    if (wish != NULL) return strcmp(wish, "live") == 0;
    return isatty(STDERR_FILENO);
}

void lhi_train_say_skipped(train_run *r, const lh_step_result *result)
{
    char text[256], loss[LH_NONFINITE_TEXT], norm[LH_NONFINITE_TEXT];
    (void)snprintf(text, sizeof text,
                   "step %" PRId64 ": the loss is %s, the gradient norm %s: update left out "
                   "(train.on_nonfinite: skip), %" PRId64 " in a row, %d stop the run",
                   r->step, lh_nonfinite_number(result->loss, loss),
                   lh_nonfinite_number(result->grad_norm, norm), r->session->skips,
                   LH_NONFINITE_SKIPS);
    lhi_train_say(r, text);
}
