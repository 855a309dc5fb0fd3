#include "experiments/plan_exchange.h"

#include <string.h>

#include "experiments/units.h"

/* Has layer l a choice? */
static bool exchange_chosen(const lh_config *c, int l)
{
    return (c->model.attention[l].ops->caps & LH_ATTN_SPREAD) != 0;
}

/* All layers with groups of e->ways ranks, summed over ranks. cost: room, [layers]; work [layers]: all
 * scores, which are the same whoever computes them. */
static lh_status exchange_of(lh_step_plan *p, const lh_session *s, int way, lh_cost *cost,
                             double *work)
{
    lh_status st = LH_OK;
    lh_spread *spread = NULL;
    lh_model_shape shape = *lh_model_shape_of(s->model);
    int ways = p->exchange[way].ways;
    double sequence = (double)p->sequence;
    if (ways > 1) LH_TRY(lh_spread_create(s->layout, ways, &spread));
    shape.spread = spread;
    for (int r = 0; r < p->sequence; r++) {
        LH_TRY(lh_model_predict(&p->config->model, &shape, p->sequence, r, cost));
        for (int l = 0; l < p->layers; l++) {
            lh_exchange_plan *e = &p->exchange[l * p->n_ways + way];
            e->sent_bytes += (double)lh_step_plan_sent(p->config, &cost[l]) / sequence;
            if (cost[l].forward_flops > e->busiest) e->busiest = cost[l].forward_flops;
            if (ways == 1) work[l] += cost[l].forward_flops;
        }
    }
done:
    lh_spread_destroy(&spread);
    return st;
}

/* "busiest" becomes a share of the mean; of layers without a choice nothing is said. work: scores of all
 * ranks, by layer. */
static void exchange_finish(lh_step_plan *p, const double *work)
{
    for (int l = 0; l < p->layers; l++) {
        lh_exchange_plan *e = p->exchange + l * p->n_ways;
        double mean = work[l] > 0.0 ? work[l] / p->sequence : 1.0;
        for (int w = 0; w < p->n_ways; w++) e[w].busiest /= mean;
        if (!exchange_chosen(p->config, l)) memset(e, 0, (size_t)p->n_ways * sizeof *e);
    }
}

lh_status lh_plan_exchanges(lh_step_plan *p, const lh_session *s)
{
    lh_status st = LH_OK;
    lh_cost *cost = NULL;
    double *work = NULL;
    bool some = false;
    p->ways = s->mesh->ways;
    for (int l = 0; l < p->layers; l++) some = some || exchange_chosen(p->config, l);
    if (!some || p->sequence == 1) return LH_OK;
    for (int w = 1; w <= p->sequence; w++) p->n_ways += p->sequence % w == 0;
    LH_TRY(lh_new((size_t)(p->layers * p->n_ways) * sizeof *p->exchange, &p->exchange));
    LH_TRY(lh_new((size_t)p->layers * sizeof *cost, &cost));
    LH_TRY(lh_new((size_t)p->layers * sizeof *work, &work));
    int way = 0;
    for (int w = 1; w <= p->sequence; w++) {
        if (p->sequence % w != 0) continue;
        for (int l = 0; l < p->layers; l++) p->exchange[l * p->n_ways + way].ways = w;
        LH_TRY(exchange_of(p, s, way++, cost, work));
    }
    exchange_finish(p, work);
done:
    lh_free(&work);
    lh_free(&cost);
    return st;
}

/* The one that sends least; of equals the first. NULL: there is no choice. */
static const lh_exchange_plan *exchange_fewest(const lh_step_plan *p, int layer)
{
    const lh_exchange_plan *e = p->exchange + layer * p->n_ways;
    const lh_exchange_plan *best = e;
    if (p->n_ways == 0 || e->ways == 0) return NULL;
    for (int w = 1; w < p->n_ways; w++)
        if (e[w].sent_bytes < best->sent_bytes) best = &e[w];
    return best;
}

static void exchange_json_layer(lh_json *j, const lh_step_plan *p, int layer)
{
    const lh_exchange_plan *fewest = exchange_fewest(p, layer);
    for (int w = 0; fewest != NULL && w < p->n_ways; w++) {
        const lh_exchange_plan *e = &p->exchange[layer * p->n_ways + w];
        lh_json_object(j, NULL);
        lh_json_int(j, "layer", layer);
        lh_json_string(j, "exchange", e->ways == 1 ? "ring" : "ulysses");
        lh_json_int(j, "ulysses", e->ways);
        lh_json_real(j, "sent_bytes_step", e->sent_bytes);
        lh_json_real(j, "busiest", e->busiest);
        lh_json_bool(j, "fewest_bytes", e == fewest);
        lh_json_bool(j, "used", e->ways == p->ways);
        lh_json_close(j);
    }
}

void lh_plan_exchange_json(lh_json *j, const lh_step_plan *p)
{
    lh_json_array(j, "exchanges");
    for (int l = 0; l < p->layers; l++) exchange_json_layer(j, p, l);
    lh_json_close(j);
}

static bool exchange_same(const lh_step_plan *p, int a, int b)
{
    const lh_exchange_plan *x = p->exchange + a * p->n_ways;
    const lh_exchange_plan *y = p->exchange + b * p->n_ways;
    bool same = strcmp(p->layer[a].mechanism, p->layer[b].mechanism) == 0;
    for (int w = 0; w < p->n_ways; w++)
        same = same && x[w].sent_bytes == y[w].sent_bytes && x[w].busiest == y[w].busiest;
    return same;
}

static void exchange_row(const lh_step_plan *p, int first, int end, FILE *out)
{
    char name[LH_UNITS_TEXT];
    char text[LH_UNITS_TEXT];
    const lh_exchange_plan *fewest = exchange_fewest(p, first);
    (void)lh_units_range(first, end - 1, name);
    for (int w = 0; w < p->n_ways; w++) {
        const lh_exchange_plan *e = &p->exchange[first * p->n_ways + w];
        char how[LH_UNITS_TEXT] = "ring";
        if (e->ways > 1) (void)snprintf(how, sizeof how, "ulysses: %d", e->ways);
        (void)fprintf(out, "%-11s  %-16s %-14s %12s %8.2f%s%s\n", w == 0 ? name : "",
                      w == 0 ? p->layer[first].mechanism : "", how,
                      lh_units_bytes(e->sent_bytes, text), e->busiest,
                      e == fewest ? "  fewest bytes" : "", e->ways == p->ways ? "  (as set)" : "");
    }
}

void lh_plan_exchange_table(const lh_step_plan *p, FILE *out)
{
    if (p->n_ways == 0) return;
    (void)fprintf(out, "%-11s  %-16s %-14s %12s %8s\n", "layer", "mechanism", "exchange", "sent",
                  "busiest");
    for (int i = 0; i < p->layers;) {
        int end = i + 1;
        while (end < p->layers && exchange_same(p, i, end)) end++;
        if (exchange_fewest(p, i) != NULL) exchange_row(p, i, end, out);
        i = end;
    }
    (void)fprintf(out,
                  "what attention would send with each mesh.exchange and mesh.ulysses, mean over "
                  "ranks; busiest:\nscores of the rank that has most, of the mean\n\n");
}
