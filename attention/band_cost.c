#include "attention/band_cost.h"
#include "core/integer.h"

#include <string.h>

/* The shard of a rank on a contiguous layout: chunks spread as evenly as possible is what the
 * layout says. */
static lh_range cost_shard(const lh_layout *l, int rank)
{
    int64_t start = 0;
    for (int r = 0; r < rank; r++) start += l->rows[r];
    return (lh_range){start, start + l->rows[rank]};
}

static int64_t cost_received(const lh_layout *l, lh_range own, int64_t lo, int64_t hi)
{
    if (own.begin == own.end) return 0;
    int64_t begin = lhi_max(0, own.begin + lo);
    int64_t end = lhi_min(l->n, own.end + hi);
    /* a one-sided band may end before its own rows do: count what lies outside them */
    int64_t before = lhi_max(0, lhi_min(end, own.begin) - begin);
    int64_t after = lhi_max(0, end - lhi_max(begin, own.end));
    return before + after;
}

lh_status lh_band_cost(const lh_attn_desc *d, int64_t lo, int64_t hi, int ranks, int rank,
                       lh_cost *c)
{
    lh_status st = LH_OK;
    const lh_layout *l = d->layout;
    *c = (lh_cost){0};
    LH_CHECK(l->ranks == ranks, LH_ERR_BUG, "a layout of %d ranks, not %d", l->ranks, ranks);
    LH_CHECK(strcmp(l->name, "contiguous") == 0, LH_ERR_UNSUP,
             "no cost formula for the layout '%s' yet: only for contiguous", l->name);
    lh_range own = cost_shard(l, rank);
    bool keep = lo > -LH_FAR && hi < LH_FAR;
    int64_t sent = 0;
    int64_t start = 0;
    for (int q = 0; q < ranks; q++) {
        lh_range shard = {start, start + l->rows[q]};
        start = shard.end;
        keep = keep && cost_received(l, shard, lo, hi) <= l->max_rows;
        if (q == rank || shard.begin == shard.end) continue;
        int64_t begin = lhi_max(own.begin, shard.begin + lo);
        int64_t end = lhi_min(own.end, shard.end + hi);
        sent += lhi_max(0, end - begin);
    }
    int64_t received = cost_received(l, own, lo, hi);
    int64_t row = 2 * d->batch * d->kv_heads * d->head_width * (int64_t)lh_dtype_bytes(LH_REAL);
    double scores = 0.0;
    for (int64_t i = own.begin; i < own.end; i++)
        scores += (double)lhi_max(0, lhi_min(l->n, i + hi + 1) - lhi_max(0, i + lo));
    c->forward_bytes = sent * row;
    c->backward_bytes = received * row + (keep ? 0 : sent * row);
    c->kept_bytes = keep ? received * row : 0;
    c->forward_flops = 4.0 * scores * (double)(d->batch * d->heads * d->head_width);
    c->backward_flops = 2.5 * c->forward_flops;
done:
    return st;
}
