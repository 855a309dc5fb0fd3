#include "attention/band_cost.h"
#include "core/integer.h"

typedef struct cost_make {
    const lh_layout *layout;
    int64_t lo, hi, step; /* in steps, no farther than the sequence is long */
    lh_runs need;         /* of one rank, merged */
} cost_make;

static lh_status cost_check(const lh_layout *l, int ranks)
{
    lh_status st = LH_OK;
    bool stretches = !l->everywhere;
    LH_CHECK(l->ranks == ranks, LH_ERR_BUG, "a layout of %d ranks, not %d", l->ranks, ranks);
    for (int r = 0; r < ranks; r++) {
        for (int64_t i = l->first[r]; i < l->first[r + 1]; i++) {
            const lh_run *a = &l->run[i];
            stretches = stretches && (a->stride == 1 || a->count == 1);
            if (i > l->first[r]) stretches = stretches && a->start > a[-1].start;
        }
    }
    LH_CHECK(stretches, LH_ERR_UNSUP,
             "no cost formula for the layout '%s': only where ranks hold ascending stretches",
             l->name);
done:
    return st;
}

/* Stretches that the queries [a, b) need: one where the steps' shifts of it touch each other, else
 * one per step. */
static lh_status cost_stretch(cost_make *m, int64_t a, int64_t b)
{
    lh_status st = LH_OK;
    int64_t n = m->layout->n;
    bool whole = b - a >= m->step;
    int64_t first = m->lo;
    int64_t last = m->hi;
    if (!whole) { /* shifts that leave nothing of [a, b) within the sequence */
        first = lhi_max(first, -((b - 1) / m->step));
        last = lhi_min(last, (n - 1 - a) / m->step);
    }
    for (int64_t o = first; o <= last; o++) {
        int64_t end = lhi_min(n, b + (whole ? last : o) * m->step);
        int64_t begin = lhi_max(0, a + o * m->step);
        if (begin < end) LH_TRY(lh_runs_add(&m->need, begin, end - begin, 1));
        if (whole) break;
    }
done:
    return st;
}

static lh_status cost_need(cost_make *m, int rank)
{
    lh_status st = LH_OK;
    const lh_layout *l = m->layout;
    lh_runs_clear(&m->need);
    for (int64_t i = l->first[rank]; i < l->first[rank + 1]; i++)
        LH_TRY(cost_stretch(m, l->run[i].start, l->run[i].start + l->run[i].count));
    LH_TRY(lh_runs_normalise(&m->need));
done:
    return st;
}

/* How many of the needed positions a rank has: both lists ascend. */
static int64_t cost_has(const cost_make *m, int rank)
{
    const lh_layout *l = m->layout;
    int64_t has = 0;
    int64_t k = 0;
    for (int64_t i = l->first[rank]; i < l->first[rank + 1]; i++) {
        int64_t end = l->run[i].start + l->run[i].count;
        for (; k < m->need.count; k++) {
            const lh_run *x = &m->need.run[k];
            int64_t stop = lhi_min(end, x->start + x->count);
            has += lhi_max(0, stop - lhi_max(l->run[i].start, x->start));
            if (x->start + x->count > end) break; /* the next own stretch may meet it too */
        }
    }
    return has;
}

/* Sum over t < x of min(most, t / step): how far positions see towards one end of the sequence. */
static double cost_reach(const cost_make *m, int64_t x, int64_t most)
{
    double step = (double)m->step;
    double q = (double)lhi_min(x / m->step, most);
    return step * q * (q - 1.0) / 2.0 + q * ((double)x - q * step);
}

/* Scores of the queries a .. b - 1, each of which sees itself. */
static double cost_seen(const cost_make *m, int64_t a, int64_t b)
{
    int64_t n = m->layout->n;
    return (double)(b - a) + cost_reach(m, n - a, m->hi) - cost_reach(m, n - b, m->hi) +
           cost_reach(m, b, -m->lo) - cost_reach(m, a, -m->lo);
}

/* Scores of the queries of a rank: for each, the steps that stay within the sequence. */
static double cost_scores(const cost_make *m, int rank)
{
    const lh_layout *l = m->layout;
    double scores = 0.0;
    for (int64_t i = l->first[rank]; i < l->first[rank + 1]; i++) {
        int64_t end = l->run[i].start + l->run[i].count;
        bool self = m->lo <= 0 && m->hi >= 0;
        if (self) scores += cost_seen(m, l->run[i].start, end);
        for (int64_t p = l->run[i].start; p < end && !self; p++) {
            int64_t first = lhi_max(m->lo, -(p / m->step));
            int64_t last = lhi_min(m->hi, (l->n - 1 - p) / m->step);
            scores += (double)lhi_max(0, last - first + 1);
        }
    }
    return scores;
}

lh_status lh_comb_cost(const lh_attn_desc *d, const lh_band *band, int ranks, int rank, lh_cost *c)
{
    lh_status st = LH_OK;
    const lh_layout *l = d->layout;
    int64_t longest = l->n + 1; /* cut down so that nothing overflows */
    cost_make m = {.layout = l,
                   .lo = lhi_max(band->lo, -longest),
                   .hi = lhi_min(band->hi, longest),
                   .step = lhi_min(lhi_max(band->step, 1), longest)};
    bool keep = band->lo > -LH_FAR && band->hi < LH_FAR;
    int64_t sent = 0;
    int64_t received = 0;
    LH_TRY(cost_check(l, ranks));
    for (int q = 0; q < ranks; q++) {
        LH_TRY(cost_need(&m, q));
        int64_t rows = lh_runs_total(&m.need) - cost_has(&m, q);
        keep = keep && rows <= l->max_rows;
        if (q == rank)
            received = rows;
        else
            sent += cost_has(&m, rank);
    }
    int64_t row = 2 * d->batch * band->kv_heads * d->head_width * (int64_t)lh_dtype_bytes(d->wire);
    double flops = 4.0 * cost_scores(&m, rank) * band->heads * (double)(d->batch * d->head_width);
    c->forward_bytes += sent * row;
    c->backward_bytes += received * row + (keep ? 0 : sent * row);
    c->kept_bytes += keep ? received * row : 0;
    c->forward_flops += flops;
    c->backward_flops += 2.5 * flops;
done:
    lh_runs_free(&m.need);
    return st;
}
