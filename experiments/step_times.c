/* Steps that are timed: see step_times.h. */
#define _DEFAULT_SOURCE /* getrusage */
#include "experiments/step_times.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "experiments/bench_internal.h"
#include "experiments/session.h"
#include "experiments/step_plan.h"
#include "experiments/train.h"

/* What one measurement works with. */
typedef struct step_run {
    lh_comm *world;
    lh_config *config;
    lh_session *session;
    int repeats, products;
    bool forward_only;
    double loss; /* of the last step */
    lhi_bench_gemm gemm;
    double *seconds;      /* [repeats]; the slowest rank */
    double *gemm_seconds; /* [repeats, products] */
    lh_profile profile;   /* of this rank, all repeats */
    double wait_s;        /* of this rank, all repeats */
    int64_t sent;         /* of this rank, all repeats */
    int64_t rss_start;    /* of this rank, before the session */
} step_run;

/* --- setting up --- */

lh_status lh_step_times_config(lh_comm *comm, const lh_config_source *source, lh_config **out)
{
    lh_status st = LH_OK;
    LH_TRY(lh_config_load_all(comm, source, out));
    lh_config *c = *out;
    /* random tokens take the place of files */
    c->data.path[0] = c->data.valid_path[0] = c->data.test_path[0] = '\0';
done:
    return st;
}

/* Local, after the session is open. */
static lh_status step_buffers(step_run *b)
{
    lh_status st = LH_OK;
    LH_TRY(lh_new((size_t)b->repeats * sizeof(double), &b->seconds));
    if (b->products == 0) goto done;
    LH_TRY(lhi_bench_gemm_create(b->session->device, &b->gemm));
    LH_TRY(lh_new((size_t)(b->repeats * b->products) * sizeof(double), &b->gemm_seconds));
done:
    return st;
}

/* --- measuring --- */

/* Step number t, from 1. */
static lh_status step_once(step_run *b, int64_t t)
{
    const lh_config *c = b->config;
    lh_step_result result = {.loss = (double)NAN};
    int64_t sample = (t - 1) * c->data.batch;
    lh_status st = b->forward_only ? lh_session_forward(b->session, sample)
                                   : lh_session_step(b->session, sample, t, lh_learning_rate(c, t),
                                                     false, &result);
    b->loss = result.loss;
    return st;
}

/* Products and steps take turns: on a machine with other work both have the same luck. */
static lh_status step_measure(step_run *b, int warmup)
{
    lh_status st = LH_OK;
    lh_traffic before = *b->session->mesh->traffic;
    for (int i = -warmup; i < b->repeats; i++) {
        int64_t t = i + warmup + 1;
        for (int k = 0; k < b->products && (i >= 0 || k == 0); k++) {
            double gemm = lhi_bench_gemm_run(b->world, b->session->device, &b->gemm);
            if (i >= 0) b->gemm_seconds[i * b->products + k] = gemm;
        }
        if (i == 0) lh_session_profile(b->session, &b->profile);
        if (i == 0) before = *b->session->mesh->traffic;
        lh_barrier(b->world);
        double start = lh_wall();
        LH_TRY(step_once(b, t));
        if (i < 0) continue;
        b->seconds[i] = lh_wall() - start;
    }
    const lh_traffic *after = b->session->mesh->traffic;
    b->wait_s = after->wait_s - before.wait_s;
    b->sent = lh_traffic_step(after) - lh_traffic_step(&before);
done:
    return st;
}

static int step_longer(const void *a, const void *b)
{
    double x = ((const lh_profile_item *)a)->seconds;
    double y = ((const lh_profile_item *)b)->seconds;
    return (x < y) - (x > y);
}

/* Sums over ranks: every rank records the same operations, so its items come in the same order. */
static lh_status step_items(step_run *b, lh_step_times *r)
{
    lh_status st = LH_OK;
    double sum[4 * LH_PROFILE_ITEMS];
    double steps = (double)b->repeats;
    double all = (double)lh_comm_size(b->world) * steps; /* rank steps */
    double left = r->mean_s;
    int64_t count[2] = {b->profile.count, -b->profile.count};
    lh_max_i64(b->world, count, 2, LH_SEND_OTHER);
    LH_CHECK(count[0] == -count[1] && count[0] < LH_PROFILE_ITEMS, LH_ERR_BUG,
             "ranks recorded %" PRId64 " to %" PRId64 " operations", -count[1], count[0]);
    for (int i = 0; i < b->profile.count; i++) {
        const lh_profile_item *item = &b->profile.item[i];
        sum[4 * i] = item->seconds - item->waited;
        sum[4 * i + 1] = item->waited;
        sum[4 * i + 2] = item->flops;
        sum[4 * i + 3] = item->bytes;
    }
    lh_sum_f64(b->world, sum, 4 * (int64_t)b->profile.count, LH_SEND_OTHER);
    for (int i = 0; i < b->profile.count; i++) {
        lh_profile_item item = b->profile.item[i];
        item.calls /= b->repeats;
        item.seconds = sum[4 * i] / all;
        item.waited = sum[4 * i + 1] / all;
        item.flops = sum[4 * i + 2] / steps;
        item.bytes = sum[4 * i + 3] / steps;
        r->step_flops += item.flops;
        left -= item.seconds;
        r->item[r->count++] = item;
    }
    r->item[r->count++] =
        (lh_profile_item){.name = "messages", .direction = LH_DIRECTION_STEP, .seconds = r->wait_s};
    r->item[r->count++] = (lh_profile_item){
        .name = "other", .direction = LH_DIRECTION_STEP, .seconds = left - r->wait_s};
    qsort(r->item, (size_t)r->count, sizeof *r->item, step_longer);
done:
    return st;
}

/* Most memory that the process has had at one moment, as the system counts it. */
static int64_t step_rss(void)
{
    struct rusage usage = {0};
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (int64_t)usage.ru_maxrss * 1024 : 0;
}

static lh_status step_reduce(step_run *b, lh_step_times *r)
{
    int n = b->repeats;
    double ranks = (double)lh_comm_size(b->world);
    lh_max_f64(b->world, b->seconds, n, LH_SEND_OTHER);
    lh_max_f64(b->world, b->gemm_seconds, (int64_t)n * b->products, LH_SEND_OTHER);
    for (int i = 0; i < n; i++) r->mean_s += b->seconds[i] / n;
    r->step_s = lhi_bench_median(b->seconds, n);
    r->least_s = b->seconds[0];
    r->loss = b->loss;
    r->forward_only = b->forward_only;
    r->sequences = b->config->data.batch / (b->forward_only ? b->config->train.accumulate : 1);
    r->gemm_rate = (double)NAN;
    if (b->products > 0)
        r->gemm_rate =
            ranks * LHI_BENCH_GEMM_FLOPS / lhi_bench_median(b->gemm_seconds, n * b->products);
    r->wait_s = r->wait_max_s = b->wait_s / n;
    lh_sum_f64(b->world, &r->wait_s, 1, LH_SEND_OTHER);
    lh_max_f64(b->world, &r->wait_max_s, 1, LH_SEND_OTHER);
    r->wait_s /= ranks;
    r->sent = b->sent;
    lh_sum_i64(b->world, &r->sent, 1, LH_SEND_OTHER);
    r->peak = lh_session_peak(b->session);
    int64_t most[3] = {r->peak, step_rss(), b->rss_start};
    lh_max_i64(b->world, most, 3, LH_SEND_OTHER);
    r->peak = most[0];
    r->rss = most[1];
    r->rss_start = most[2];
    r->parameters = lh_params_total(b->session->params);
    r->threads = b->session->device->threads;
    r->isa = b->session->device->kernels->isa;
    return step_items(b, r);
}

/* The plan knows the same numbers without having run; also the work of the model, which is that of a
 * step without recomputation (an operation may compute again inside its gradient). Local. */
static lh_status step_plan(step_run *b, lh_step_times *r)
{
    lh_status st = LH_OK;
    lh_step_plan *plan = NULL;
    const int recompute = b->config->train.recompute;
    b->config->device.threads = b->session->device->threads; /* as this run has them */
    b->config->train.recompute = LH_RECOMPUTE_NONE;
    st = lh_step_plan_create(b->config, lh_comm_size(b->world), &plan);
    b->config->train.recompute = recompute;
    if (st != LH_OK) goto done;
    r->model_flops = plan->flops;
    for (int l = 0; l < plan->layers; l++) r->layers_flops += plan->layer[l].flops;
    lh_step_plan_destroy(&plan);
    LH_TRY(lh_step_plan_create(b->config, lh_comm_size(b->world), &plan));
    r->predicted_peak = plan->peak_bytes;
    r->parameter_bytes = plan->parameter_bytes;
    r->predicted_sent = plan->sent_bytes;
    r->predicted_flops = plan->flops;
done:
    lh_step_plan_destroy(&plan);
    return st;
}

/* --- saying it --- */

/* What was counted in the run must be what was planned. */
static void step_compare(const step_run *b, const lh_step_times *r)
{
    double sent = (double)r->sent / b->repeats / lh_comm_size(b->world);
    if (sent == r->predicted_sent && r->peak == r->predicted_peak &&
        fabs(r->step_flops - r->predicted_flops) <= 1e-9 * r->predicted_flops)
        return;
    (void)fprintf(stderr,
                  "longhaul: warning: counted and planned differ: %.15g and %.15g bytes sent, "
                  "%" PRId64 " and %" PRId64 " bytes of memory, %.15g and %.15g flops: a bug, "
                  "please report\n",
                  sent, r->predicted_sent, r->peak, r->predicted_peak, r->step_flops,
                  r->predicted_flops);
}

static void step_announce(const step_run *b)
{
    const lh_config *c = b->config;
    (void)fprintf(stderr,
                  "longhaul: %s of %" PRId64 " layers, width %" PRId64 ", n %" PRId64
                  ", %s, ranks %d x threads %d, repeats %d\n",
                  b->forward_only ? "forward pass" : "training step", c->model.layers,
                  c->model.width, c->data.length, b->session->device->kernels->isa,
                  lh_comm_size(b->world), b->session->device->threads, b->repeats);
}

/* --- the whole --- */

void lh_step_mechanism(const lh_config *config, char name[LH_STEP_NAME])
{
    name[0] = '\0';
    for (int64_t l = 0; l < config->model.layers; l++) {
        const char *word = config->model.attention[l].ops->name;
        size_t n = strlen(name);
        if (strstr(name, word) != NULL) continue;
        (void)snprintf(name + n, LH_STEP_NAME - n, "%s%s", n > 0 ? "+" : "", word);
    }
}

void lh_step_times_free(lh_step_times *r)
{
    lh_free(&r->seconds);
}

lh_status lh_step_times_measure(lh_comm *comm, lh_config *config, const lh_step_wish *wish,
                                lh_step_times *out)
{
    lh_status st = LH_OK;
    bool first = lh_comm_rank(comm) == 0;
    step_run b = {.world = comm,
                  .config = config,
                  .repeats = wish->repeats,
                  .forward_only = !lh_model_has_loss(&config->model),
                  .products = wish->products,
                  .rss_start = step_rss()};
    *out = (lh_step_times){0};
    LH_TRY(lh_session_open(comm, config, !b.forward_only, &b.session));
    LH_TRY(lh_agree(comm, step_buffers(&b)));
    lhi_bench_warn(comm, b.session->device->threads);
    if (first) step_announce(&b);
    LH_TRY(step_measure(&b, wish->warmup));
    LH_TRY(step_reduce(&b, out));
    LH_TRY(lh_agree(comm, first ? step_plan(&b, out) : LH_OK));
    if (first) step_compare(&b, out);
    out->steps = wish->warmup + wish->repeats;
    out->seconds = b.seconds;
    b.seconds = NULL;
done:
    if (b.session != NULL) lhi_bench_gemm_destroy(b.session->device, &b.gemm);
    lh_free(&b.seconds);
    lh_free(&b.gemm_seconds);
    lh_session_close(&b.session);
    return st;
}
