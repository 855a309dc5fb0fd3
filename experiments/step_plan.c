#include "experiments/step_plan_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "experiments/plan_exchange.h"
#include "parallel/reduce.h"

/* Numbers of eight bytes in a step's two small reductions: counted labels; loss, squared gradient norm
 * and trouble. */
enum { STEP_PLAN_CONTROL = (1 + 3) * 8 };

/* What one rank sends by formula: sums over its layers are the rank's traffic. */
typedef struct step_plan_formula {
    int64_t bytes[LH_PURPOSES];
} step_plan_formula;

/* A layer's messages in a whole step of one rank. When a block is recomputed, its forward rows are
 * fetched again, and those of its summaries that its mechanism names; when its attention is, what moves
 * q, k and v to their heads. */
static void plan_layer_bytes(const lh_config *c, const lh_cost *cost, step_plan_formula *f)
{
    int64_t passes = c->train.accumulate;
    bool again = c->train.recompute == LH_RECOMPUTE_BLOCK;
    int64_t rows = again                                          ? cost->forward_bytes
                   : c->train.recompute == LH_RECOMPUTE_ATTENTION ? cost->heads_bytes
                                                                  : 0;
    *f = (step_plan_formula){{0}};
    if (!lh_model_has_loss(&c->model)) { /* one forward pass */
        f->bytes[LH_SEND_FORWARD] = cost->forward_bytes;
        f->bytes[LH_SEND_SUMMARY] = cost->again_bytes;
        return;
    }
    f->bytes[LH_SEND_FORWARD] = passes * cost->forward_bytes;
    f->bytes[LH_SEND_BACKWARD] = passes * cost->backward_bytes;
    f->bytes[LH_SEND_SUMMARY] = passes * (cost->summary_bytes + (again ? cost->again_bytes : 0));
    f->bytes[LH_SEND_RECOMPUTE] = passes * rows;
}

/* What belongs to no layer, and is not recomputed. */
static void plan_rest_bytes(lh_step_plan *p, const lh_session *s, step_plan_formula *all)
{
    const lh_cost rest = lh_model_predict_rest(&s->config->model, lh_model_shape_of(s->model),
                                               p->sequence, s->mesh->coord[LH_AXIS_SEQ]);
    int64_t passes = p->forward_only ? 1 : s->passes;
    int64_t forward = passes * rest.forward_bytes;
    int64_t backward = p->forward_only ? 0 : passes * rest.backward_bytes;
    int64_t summary = p->forward_only ? rest.again_bytes : passes * rest.summary_bytes;
    p->rest.forward_bytes += (double)forward;
    p->rest.backward_bytes += (double)backward;
    p->rest.summary_bytes += (double)summary;
    all->bytes[LH_SEND_FORWARD] += forward;
    all->bytes[LH_SEND_BACKWARD] += backward;
    all->bytes[LH_SEND_SUMMARY] += summary;
}

int64_t lh_step_plan_sent(const lh_config *c, const lh_cost *cost)
{
    step_plan_formula f;
    int64_t sum = 0;
    plan_layer_bytes(c, cost, &f);
    for (int i = 0; i < LH_PURPOSES; i++) sum += f.bytes[i];
    return sum;
}

/* Adds one rank's layers to the plan's sums, and all that it sends by formula to *all. */
static lh_status plan_formula(lh_step_plan *p, const lh_session *s, lh_cost *cost,
                              step_plan_formula *all)
{
    lh_status st = LH_OK;
    *all = (step_plan_formula){{0}};
    LH_TRY(lh_model_predict(&s->config->model, lh_model_shape_of(s->model), p->sequence,
                            s->mesh->coord[LH_AXIS_SEQ], cost));
    for (int l = 0; l < p->layers; l++) {
        step_plan_formula f;
        plan_layer_bytes(s->config, &cost[l], &f);
        for (int i = 0; i < LH_PURPOSES; i++) all->bytes[i] += f.bytes[i];
        p->layer[l].forward_bytes += (double)f.bytes[LH_SEND_FORWARD];
        p->layer[l].backward_bytes += (double)f.bytes[LH_SEND_BACKWARD];
        p->layer[l].summary_bytes += (double)f.bytes[LH_SEND_SUMMARY];
        p->layer[l].recompute_bytes += (double)f.bytes[LH_SEND_RECOMPUTE];
    }
    plan_rest_bytes(p, s, all);
    if (p->forward_only) goto done;
    all->bytes[LH_SEND_PARAMETER] = lh_grads_bytes(s->params, s->mesh->size);
    all->bytes[LH_SEND_CONTROL] = p->ranks > 1 ? STEP_PLAN_CONTROL : 0;
done:
    return st;
}

/* Two numbers that know nothing of each other must be the same. */
static lh_status plan_compare(const lh_traffic *counted, const step_plan_formula *f, int rank)
{
    lh_status st = LH_OK;
    for (int i = 0; i < LH_PURPOSES; i++)
        LH_CHECK(i == LH_SEND_OTHER || counted->bytes[i] == f->bytes[i], LH_ERR_BUG,
                 "rank %d sends %" PRId64 " bytes of %s in a step as counted, %" PRId64
                 " by formula: please report this with the experiment file",
                 rank, counted->bytes[i], lh_purpose_name((lh_purpose)i), f->bytes[i]);
done:
    return st;
}

/* Flops and memory by part of the model: part 1 + l is layer l. */
static lh_status plan_parts(lh_step_plan *p, const lh_session *s)
{
    lh_status st = LH_OK;
    double passes = p->forward_only ? 1.0 : (double)s->passes;
    for (int part = 0; part <= p->layers; part++) {
        lh_layer_plan *l = part == 0 ? &p->rest : &p->layer[part - 1];
        int64_t peak = 0;
        LH_TRY(lh_memory_part_peak(s->memory[!p->forward_only], part, &peak));
        l->flops += passes * lh_tape_part_flops(s->tape, part);
        if (peak > l->peak_bytes) l->peak_bytes = peak;
    }
done:
    return st;
}

/* Learned elements by layer: parameters of layer l are named layer.l.something. */
static void plan_parameters(lh_step_plan *p, const lh_params *params)
{
    p->parameters = lh_params_total(params);
    p->rest.parameters = p->parameters;
    for (int64_t i = 0; i < params->count; i++) {
        const lh_param *q = params->item[i];
        int l = 0;
        if (q->frozen || sscanf(q->name, "layer.%d.", &l) != 1 || l < 0 || l >= p->layers) continue;
        p->layer[l].parameters += lh_shape_count(&q->whole);
        p->rest.parameters -= lh_shape_count(&q->whole);
    }
}

static lh_status plan_rank(lh_step_plan *p, lh_config *config, int rank, lh_cost *cost)
{
    lh_status st = LH_OK;
    lh_session *s = NULL;
    step_plan_formula formula;
    lh_rank_plan *r = &p->rank[rank];
    LH_TRY(lh_session_open_counting(config, p->ranks, rank, &s));
    LH_TRY(plan_formula(p, s, cost, &formula));
    LH_TRY(plan_compare(s->mesh->traffic, &formula, rank));
    LH_TRY(plan_parts(p, s));
    LH_TRY(lhi_step_plan_tiles(p, s, rank));
    if (rank == 0) {
        plan_parameters(p, s->params);
        LH_TRY(lh_plan_exchanges(p, s));
        p->threads = s->device->threads;
        p->isa = s->device->kernels->isa;
    }
    r->rows = s->rows;
    r->peak_bytes = lh_session_peak(s);
    r->parameter_bytes = (int64_t)lh_params_bytes(s->params);
    r->traffic = *s->mesh->traffic;
    r->sent_bytes = lh_traffic_step(&r->traffic);
    r->flops = p->forward_only ? s->flops[0] : (double)s->passes * s->flops[1];
done:
    lh_session_close(&s);
    return st;
}

/* Sums over ranks along the sequence become the job's totals and means. */
static void plan_finish(lh_step_plan *p)
{
    double sequence = (double)p->sequence;
    for (int i = 0; i < p->sequence; i++) {
        const lh_rank_plan *r = &p->rank[i];
        p->flops += (double)p->data * r->flops;
        p->sent_bytes += (double)r->sent_bytes;
        for (int k = 0; k < LH_PURPOSES; k++)
            if (k != LH_SEND_OTHER) p->purpose[k] += (double)r->traffic.bytes[k];
        if (r->peak_bytes > p->peak_bytes) p->peak_bytes = r->peak_bytes;
        if (r->parameter_bytes > p->parameter_bytes) p->parameter_bytes = r->parameter_bytes;
    }
    p->sent_bytes /= sequence;
    for (int k = 0; k < LH_PURPOSES; k++) p->purpose[k] /= sequence;
    p->rest.flops *= (double)p->data;
    p->rest.forward_bytes /= sequence;
    p->rest.backward_bytes /= sequence;
    p->rest.summary_bytes /= sequence;
    p->rest.sent_bytes = p->rest.forward_bytes + p->rest.backward_bytes + p->rest.summary_bytes +
                         p->purpose[LH_SEND_PARAMETER] + p->purpose[LH_SEND_CONTROL];
    for (int i = 0; i < p->layers; i++) {
        lh_layer_plan *l = &p->layer[i];
        l->flops *= (double)p->data;
        l->forward_bytes /= sequence;
        l->backward_bytes /= sequence;
        l->summary_bytes /= sequence;
        l->recompute_bytes /= sequence;
        l->sent_bytes =
            l->forward_bytes + l->backward_bytes + l->summary_bytes + l->recompute_bytes;
    }
}

lh_status lh_step_plan_create(lh_config *config, int ranks, lh_step_plan **out)
{
    lh_status st = LH_OK;
    lh_step_plan *p = NULL;
    lh_cost *cost = NULL;
    *out = NULL;
    LH_CHECK(ranks >= 1 && ranks % config->mesh.data == 0, LH_ERR_USAGE,
             "mesh.data %" PRId64 " does not divide %d ranks: give another --ranks, or change "
             "mesh.data",
             config->mesh.data, ranks);
    LH_TRY(lh_new(sizeof *p, &p));
    p->config = config;
    p->ranks = ranks;
    p->data = (int)config->mesh.data;
    p->sequence = ranks / p->data;
    p->layers = (int)config->model.layers;
    p->forward_only = !lh_model_has_loss(&config->model);
    LH_TRY(lh_new((size_t)p->layers * sizeof *p->layer, &p->layer));
    LH_TRY(lh_new((size_t)p->layers * sizeof *cost, &cost));
    LH_TRY(
        lh_new((size_t)(config->model.layers * config->model.heads) * sizeof *p->head, &p->head));
    LH_TRY(lh_new((size_t)p->sequence * sizeof *p->rank, &p->rank));
    for (int l = 0; l < p->layers; l++)
        p->layer[l].mechanism = config->model.attention[l].ops->name;
    for (int r = 0; r < p->sequence; r++) LH_TRY(plan_rank(p, config, r, cost));
    plan_finish(p);
    *out = p;
    p = NULL;
done:
    lh_free(&cost);
    lh_step_plan_destroy(&p);
    return st;
}

void lh_step_plan_destroy(lh_step_plan **plan)
{
    if (*plan == NULL) return;
    lh_free(&(*plan)->layer);
    lh_free(&(*plan)->exchange);
    lh_free(&(*plan)->rank);
    lh_free(&(*plan)->head);
    lh_free(plan);
}
