/* Tiles of a step plan: from the plans that the counted step recorded. */
#include "experiments/step_plan_internal.h"

#include <inttypes.h>
#include <string.h>

static void tiles_add(lh_tile_count *sum, const lh_tile_count *x, int64_t times)
{
    sum->empty += times * x->empty;
    sum->mixed += times * x->mixed;
    sum->full += times * x->full;
}

static void tiles_range(lh_head_tiles *h, const lh_tile_count *x)
{
    const int64_t from[] = {x->empty, x->mixed, x->full};
    int64_t *least[] = {&h->least.empty, &h->least.mixed, &h->least.full};
    int64_t *most[] = {&h->most.empty, &h->most.mixed, &h->most.full};
    for (int i = 0; i < 3; i++) {
        if (h->ranks == 0 || from[i] < *least[i]) *least[i] = from[i];
        if (h->ranks == 0 || from[i] > *most[i]) *most[i] = from[i];
    }
}

/* head [layers, heads]: this rank's blocks of one sequence; some: does it compute scores of that head? */
static lh_status tiles_collect(const lh_step_plan *p, const lh_session *s, lh_tile_count *head,
                               bool *some)
{
    lh_status st = LH_OK;
    int64_t heads = p->config->model.heads;
    lh_attend_seen seen;
    for (int64_t at = 0; lh_attend_next(s->tape, &at, &seen);) {
        lh_tile_count one;
        int64_t layer = seen.part - 1;
        int64_t end = seen.head + seen.n_heads;
        LH_CHECK(layer >= 0 && layer < p->layers && end <= heads, LH_ERR_BUG,
                 "attention of heads %" PRId64 " .. %" PRId64 " is in no layer", seen.head,
                 end - 1);
        LH_TRY(lh_plan_tiles(seen.plan, &one));
        for (int64_t h = layer * heads + seen.head; h < layer * heads + end; h++) {
            tiles_add(&head[h], &one, 1);
            some[h] = true;
        }
    }
done:
    return st;
}

/* What the kernels were given must be what the plans hold. */
static lh_status tiles_compare(const lh_step_plan *p, const lh_session *s,
                               const lh_tile_count *pass, int rank)
{
    lh_status st = LH_OK;
    bool again = !p->forward_only && s->config->train.recompute == LH_RECOMPUTE_BLOCK;
    int64_t times = again ? 2 : 1;
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
    int64_t heads = p->config->model.heads;
    int64_t all = p->layers * heads;
    int64_t passes = p->forward_only ? 1 : s->passes;
    lh_tile_count *head = NULL;
    bool *some = NULL;
    lh_tile_count pass = {0};
    LH_TRY(lh_new((size_t)all * sizeof *head, &head));
    LH_TRY(lh_new((size_t)all * sizeof *some, &some));
    LH_TRY(tiles_collect(p, s, head, some));
    for (int64_t h = 0; h < all; h++) {
        int64_t times = s->batch * passes * p->data;
        if (!some[h]) continue;
        tiles_add(&pass, &head[h], s->batch);
        tiles_add(&p->layer[h / heads].tiles, &head[h], times);
        tiles_add(&p->tiles, &head[h], times);
        tiles_add(&p->head[h].sum, &head[h], 1);
        tiles_range(&p->head[h], &head[h]);
        p->head[h].ranks++;
    }
    LH_TRY(tiles_compare(p, s, &pass, rank));
    tiles_add(&p->rank[rank].tiles, &pass, passes);
done:
    lh_free(&head);
    lh_free(&some);
    return st;
}

bool lh_step_plan_group(const lh_step_plan *p, int layer, int64_t *head, lh_group_plan *group)
{
    int64_t heads = p->config->model.heads;
    const lh_head_tiles *h = &p->head[layer * heads];
    while (*head < heads && h[*head].ranks == 0) ++*head;
    if (*head == heads) return false;
    *group = (lh_group_plan){.head = *head, .n_heads = 1, .tiles = h[*head]};
    while (*head + group->n_heads < heads &&
           memcmp(&h[*head], &h[*head + group->n_heads], sizeof *h) == 0)
        group->n_heads++;
    *head += group->n_heads;
    return true;
}
