#include "attention/pattern.h"
#include "core/integer.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* --- band --- */

static bool band_sees(const lh_pattern *p, int64_t i, int64_t j)
{
    return p->arg[0] <= j - i && j - i <= p->arg[1];
}

static lh_cover band_cover(const lh_pattern *p, lh_range q, lh_range k)
{
    int64_t nearest = k.begin - (q.end - 1); /* smallest and largest j - i */
    int64_t farthest = k.end - 1 - q.begin;
    if (q.begin >= q.end || k.begin >= k.end || p->arg[0] > p->arg[1]) return LH_EMPTY;
    if (farthest < p->arg[0] || nearest > p->arg[1]) return LH_EMPTY;
    return nearest >= p->arg[0] && farthest <= p->arg[1] ? LH_FULL : LH_MIXED;
}

static lh_status band_needs(const lh_pattern *p, lh_range q, int64_t n, lh_runs *out)
{
    int64_t begin = lhi_max(0, q.begin + p->arg[0]);
    int64_t end = lhi_min(n, q.end + p->arg[1]);
    if (q.begin >= q.end || begin >= end || p->arg[0] > p->arg[1]) return LH_OK;
    return lh_runs_add(out, begin, end - begin, 1);
}

static bool band_comb(const lh_pattern *p, int64_t *lo, int64_t *hi, int64_t *step)
{
    *lo = p->arg[0];
    *hi = p->arg[1];
    *step = 1;
    return true;
}

static const lh_pattern_ops band_ops = {
    .name = "band", .sees = band_sees, .cover = band_cover, .needs = band_needs, .comb = band_comb};

lh_pattern lh_pattern_band(int64_t lo, int64_t hi)
{
    return (lh_pattern){.ops = &band_ops, .arg = {lhi_max(lo, -LH_FAR), lhi_min(hi, LH_FAR)}};
}

/* --- and, or --- */

static bool and_sees(const lh_pattern *p, int64_t i, int64_t j)
{
    return lh_pattern_sees(p->left, i, j) && lh_pattern_sees(p->right, i, j);
}

static lh_cover and_cover(const lh_pattern *p, lh_range q, lh_range k)
{
    lh_cover a = lh_pattern_cover(p->left, q, k);
    lh_cover b = lh_pattern_cover(p->right, q, k);
    if (a == LH_EMPTY || b == LH_EMPTY) return LH_EMPTY;
    return a == LH_FULL ? b : b == LH_FULL ? a : LH_MIXED;
}

/* Positions that both lists have; both ascending with stride 1. */
static lh_status and_needs(const lh_pattern *p, lh_range q, int64_t n, lh_runs *out)
{
    lh_status st = LH_OK;
    lh_runs a = {0};
    lh_runs b = {0};
    LH_TRY(lh_pattern_needs(p->left, q, n, &a));
    LH_TRY(lh_pattern_needs(p->right, q, n, &b));
    LH_TRY(lh_runs_normalise(&a));
    LH_TRY(lh_runs_normalise(&b));
    for (int64_t i = 0, j = 0; i < a.count && j < b.count;) {
        int64_t a_end = a.run[i].start + a.run[i].count;
        int64_t b_end = b.run[j].start + b.run[j].count;
        int64_t begin = lhi_max(a.run[i].start, b.run[j].start);
        int64_t end = lhi_min(a_end, b_end);
        if (begin < end) LH_TRY(lh_runs_add(out, begin, end - begin, 1));
        if (a_end < b_end)
            i++;
        else
            j++;
    }
done:
    lh_runs_free(&a);
    lh_runs_free(&b);
    return st;
}

static const lh_pattern_ops and_ops = {
    .name = "and", .sees = and_sees, .cover = and_cover, .needs = and_needs};

lh_pattern lh_pattern_and(const lh_pattern *a, const lh_pattern *b)
{
    int64_t lo[2];
    int64_t hi[2];
    if (lh_pattern_is_band(a, &lo[0], &hi[0]) && lh_pattern_is_band(b, &lo[1], &hi[1]))
        return lh_pattern_band(lhi_max(lo[0], lo[1]), lhi_min(hi[0], hi[1]));
    return (lh_pattern){.ops = &and_ops, .left = a, .right = b};
}

static bool or_sees(const lh_pattern *p, int64_t i, int64_t j)
{
    return lh_pattern_sees(p->left, i, j) || lh_pattern_sees(p->right, i, j);
}

static lh_cover or_cover(const lh_pattern *p, lh_range q, lh_range k)
{
    lh_cover a = lh_pattern_cover(p->left, q, k);
    lh_cover b = lh_pattern_cover(p->right, q, k);
    if (a == LH_FULL || b == LH_FULL) return LH_FULL;
    return a == LH_EMPTY && b == LH_EMPTY ? LH_EMPTY : LH_MIXED;
}

static lh_status or_needs(const lh_pattern *p, lh_range q, int64_t n, lh_runs *out)
{
    lh_status st = LH_OK;
    lh_runs all = {0};
    LH_TRY(lh_pattern_needs(p->left, q, n, &all));
    LH_TRY(lh_pattern_needs(p->right, q, n, &all));
    LH_TRY(lh_runs_normalise(&all));
    for (int64_t i = 0; i < all.count; i++)
        LH_TRY(lh_runs_add(out, all.run[i].start, all.run[i].count, 1));
done:
    lh_runs_free(&all);
    return st;
}

static const lh_pattern_ops or_ops = {
    .name = "or", .sees = or_sees, .cover = or_cover, .needs = or_needs};

lh_pattern lh_pattern_or(const lh_pattern *a, const lh_pattern *b)
{
    return (lh_pattern){.ops = &or_ops, .left = a, .right = b};
}

/* --- queries --- */

bool lh_pattern_sees(const lh_pattern *p, int64_t i, int64_t j)
{
    return p->ops->sees(p, i, j);
}

lh_cover lh_pattern_cover(const lh_pattern *p, lh_range q, lh_range k)
{
    return p->ops->cover(p, q, k);
}

lh_status lh_pattern_needs(const lh_pattern *p, lh_range q, int64_t n, lh_runs *out)
{
    return p->ops->needs(p, q, n, out);
}

bool lh_pattern_is_band(const lh_pattern *p, int64_t *lo, int64_t *hi)
{
    int64_t step = 0;
    return lh_pattern_is_comb(p, lo, hi, &step) && step == 1;
}

bool lh_pattern_is_comb(const lh_pattern *p, int64_t *lo, int64_t *hi, int64_t *step)
{
    return p->ops->comb != NULL && p->ops->comb(p, lo, hi, step);
}

lh_status lh_pattern_key(const lh_pattern *p, char *buf, size_t bytes)
{
    size_t used = strlen(buf);
    int n =
        snprintf(buf + used, bytes - used, "%s(%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ")",
                 p->ops->name, p->arg[0], p->arg[1], p->arg[2], p->arg[3]);
    if (n < 0 || (size_t)n >= bytes - used)
        return LH_RAISE(LH_ERR_BUG, "pattern key longer than %zu bytes", bytes);
    lh_status st = LH_OK;
    if (p->left != NULL) st = lh_pattern_key(p->left, buf, bytes);
    if (st == LH_OK && p->right != NULL) st = lh_pattern_key(p->right, buf, bytes);
    return st;
}
