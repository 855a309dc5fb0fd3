/* Tiles of a step plan: from the plans that the counted step recorded. */
#include "experiments/step_plan_internal.h"

#include <inttypes.h>

/* One rank's blocks by layer and head, of one sequence. */
typedef struct tiles_run {
    lh_tile_count *head; /* [layers, heads] */
    bool *begins;        /* [layers, heads]: a segment begins or ends before this head */
    bool *some;          /* [layers]: the layer has segments */
} tiles_run;

static void tiles_free(tiles_run *t)
{
    lh_free(&t->head);
    lh_free(&t->begins);
    lh_free(&t->some);
}

static void tiles_add(lh_tile_count *sum, const lh_tile_count *x, int64_t times)
{
    sum->empty += times * x->empty;
    sum->mixed += times * x->mixed;
    sum->full += times * x->full;
}

static lh_status tiles_collect(const lh_step_plan *p, const lh_session *s, tiles_run *t)
{
    lh_status st = LH_OK;
    int64_t heads = p->config->model.heads;
    size_t all = (size_t)(p->layers * heads);
    lh_attend_seen seen;
    LH_TRY(lh_new(all * sizeof *t->head, &t->head));
    LH_TRY(lh_new(all * sizeof *t->begins, &t->begins));
    LH_TRY(lh_new((size_t)p->layers * sizeof *t->some, &t->some));
    for (int64_t at = 0; lh_attend_next(s->tape, &at, &seen);) {
        lh_tile_count one;
        int64_t layer = seen.part - 1;
        int64_t end = seen.head + seen.n_heads;
        if (layer < 0 || layer >= p->layers || end > heads) continue;
        LH_TRY(lh_plan_tiles(seen.plan, &one));
        t->some[layer] = true;
        t->begins[layer * heads + seen.head] = true;
        if (end < heads) t->begins[layer * heads + end] = true;
        for (int64_t h = seen.head; h < end; h++) tiles_add(&t->head[layer * heads + h], &one, 1);
    }
done:
    return st;
}

static void tiles_range(lh_group_plan *g, const lh_tile_count *x, bool first)
{
    const int64_t from[] = {x->empty, x->mixed, x->full};
    int64_t *least[] = {&g->least.empty, &g->least.mixed, &g->least.full};
    int64_t *most[] = {&g->most.empty, &g->most.mixed, &g->most.full};
    for (int i = 0; i < 3; i++) {
        if (first || from[i] < *least[i]) *least[i] = from[i];
        if (first || from[i] > *most[i]) *most[i] = from[i];
    }
}

/* Adds the rank's counts to its layer's groups; the groups are the same on every rank. */
static lh_status tiles_group(lh_step_plan *p, const tiles_run *t, int layer, int64_t *group)
{
    lh_status st = LH_OK;
    int64_t heads = p->config->model.heads;
    for (int64_t h = 0, end = 0; t->some[layer] && h < heads; h = end, ++*group) {
        const lh_tile_count *x = &t->head[layer * heads + h];
        bool first = *group == p->n_groups;
        for (end = h + 1; end < heads && !t->begins[layer * heads + end];) end++;
        if (first) {
            LH_TRY(lh_grow(&p->group, &p->groups_capacity, p->n_groups + 1, sizeof *p->group));
            p->group[p->n_groups++] =
                (lh_group_plan){.layer = layer, .head = h, .n_heads = end - h};
        }
        tiles_add(&p->group[*group].sum, x, 1);
        tiles_range(&p->group[*group], x, first);
    }
done:
    return st;
}

/* What the kernels were given must be what the plans hold. */
static lh_status tiles_compare(const lh_session *s, const lh_tile_count *pass, int rank)
{
    lh_status st = LH_OK;
    int64_t times = s->config->train.recompute == LH_RECOMPUTE_BLOCK ? 2 : 1;
    const lh_tile_count *counted = &s->device->tiles;
    LH_CHECK(counted->mixed == times * pass->mixed && counted->full == times * pass->full,
             LH_ERR_BUG,
             "rank %d computes %" PRId64 " mixed and %" PRId64
             " full tiles in a pass as counted, %d x (%" PRId64 " and %" PRId64
             ") by its plans: please report this with the experiment file",
             rank, counted->mixed, counted->full, (int)times, pass->mixed, pass->full);
done:
    return st;
}

lh_status lhi_step_plan_tiles(lh_step_plan *p, const lh_session *s, int rank)
{
    lh_status st = LH_OK;
    tiles_run t = {0};
    lh_tile_count pass = {0};
    int64_t heads = p->config->model.heads;
    int64_t group = 0;
    LH_TRY(tiles_collect(p, s, &t));
    for (int layer = 0; layer < p->layers; layer++) {
        lh_tile_count one = {0};
        for (int64_t h = 0; h < heads; h++) tiles_add(&one, &t.head[layer * heads + h], s->batch);
        tiles_add(&pass, &one, 1);
        tiles_add(&p->layer[layer].tiles, &one, s->passes * p->data);
        tiles_add(&p->tiles, &one, s->passes * p->data);
        LH_TRY(tiles_group(p, &t, layer, &group));
    }
    LH_TRY(tiles_compare(s, &pass, rank));
    tiles_add(&p->rank[rank].tiles, &pass, s->passes);
done:
    tiles_free(&t);
    return st;
}
