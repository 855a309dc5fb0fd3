#include "attention/pattern.h"
#include "core/integer.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Farther is as good as far; and sums with positions do not overflow. */
static int64_t pattern_limit(int64_t distance)
{
    return lhi_max(-LH_FAR, lhi_min(LH_FAR, distance));
}

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
    return (lh_pattern){.ops = &band_ops, .arg = {pattern_limit(lo), pattern_limit(hi)}};
}

/* --- comb: a band of every step-th distance --- */

/* The distance of o steps, no farther than LH_FAR. */
static int64_t comb_reach(int64_t o, int64_t step)
{
    return o <= -LH_FAR / step ? -LH_FAR : o >= LH_FAR / step ? LH_FAR : o * step;
}

static bool comb_sees(const lh_pattern *p, int64_t i, int64_t j)
{
    int64_t o = (j - i) / p->arg[2];
    return (j - i) % p->arg[2] == 0 && p->arg[0] <= o && o <= p->arg[1];
}

static lh_cover comb_cover(const lh_pattern *p, lh_range q, lh_range k)
{
    if (q.begin >= q.end || k.begin >= k.end) return LH_EMPTY;
    int64_t nearest = k.begin - (q.end - 1); /* every j - i from here to farthest occurs */
    int64_t farthest = k.end - 1 - q.begin;
    int64_t first = lhi_max(p->arg[0], lhi_ceil_div(nearest, p->arg[2]));
    int64_t last = lhi_min(p->arg[1], lhi_floor_div(farthest, p->arg[2]));
    if (first > last) return LH_EMPTY;
    return nearest == farthest ? LH_FULL : LH_MIXED;
}

/* Few queries meet only their own residue classes: as many stretches as there are steps. */
static lh_status comb_needs(const lh_pattern *p, lh_range q, int64_t n, lh_runs *out)
{
    lh_status st = LH_OK;
    int64_t step = p->arg[2];
    if (q.begin >= q.end || n <= 0 || p->arg[0] > p->arg[1]) return LH_OK;
    if (q.end - q.begin >= step) {
        int64_t begin = lhi_max(0, q.begin + comb_reach(p->arg[0], step));
        int64_t end = lhi_min(n, q.end + comb_reach(p->arg[1], step));
        if (begin < end) LH_TRY(lh_runs_add(out, begin, end - begin, 1));
        goto done;
    }
    int64_t first = lhi_max(p->arg[0], lhi_ceil_div(-(q.end - 1), step));
    int64_t last = lhi_min(p->arg[1], lhi_floor_div(n - 1 - q.begin, step));
    for (int64_t o = first; o <= last; o++) {
        int64_t begin = lhi_max(0, q.begin + o * step);
        int64_t end = lhi_min(n, q.end + o * step);
        if (begin < end) LH_TRY(lh_runs_add(out, begin, end - begin, 1));
    }
done:
    return st;
}

static bool comb_comb(const lh_pattern *p, int64_t *lo, int64_t *hi, int64_t *step)
{
    *lo = p->arg[0];
    *hi = p->arg[1];
    *step = p->arg[2];
    return true;
}

static const lh_pattern_ops comb_ops = {
    .name = "comb", .sees = comb_sees, .cover = comb_cover, .needs = comb_needs, .comb = comb_comb};

lh_pattern lh_pattern_dilated(int64_t lo, int64_t hi, int64_t step)
{
    if (step <= 1) return lh_pattern_band(lo, hi);
    return (lh_pattern){.ops = &comb_ops,
                        .arg = {pattern_limit(lo), pattern_limit(hi), lhi_min(step, LH_FAR)}};
}

/* --- lists of positions --- */

/* Number of listed positions below x. */
static int64_t list_below(const lh_pattern *p, int64_t x)
{
    int64_t low = 0;
    int64_t high = p->n_list;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (p->list[middle] < x)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* How much of a range is listed, where the other range is not empty. */
static lh_cover list_cover(const lh_pattern *p, lh_range range, lh_range other)
{
    if (range.begin >= range.end || other.begin >= other.end) return LH_EMPTY;
    int64_t listed = list_below(p, range.end) - list_below(p, range.begin);
    if (listed == 0) return LH_EMPTY;
    return listed == range.end - range.begin ? LH_FULL : LH_MIXED;
}

static bool columns_sees(const lh_pattern *p, int64_t i, int64_t j)
{
    (void)i;
    return list_below(p, j + 1) > list_below(p, j);
}

static lh_cover columns_cover(const lh_pattern *p, lh_range q, lh_range k)
{
    return list_cover(p, k, q);
}

static lh_status columns_needs(const lh_pattern *p, lh_range q, int64_t n, lh_runs *out)
{
    lh_status st = LH_OK;
    int64_t end = list_below(p, n);
    if (q.begin >= q.end) return LH_OK;
    for (int64_t i = list_below(p, 0); i < end; i++) LH_TRY(lh_runs_add(out, p->list[i], 1, 1));
done:
    return st;
}

static const lh_pattern_ops columns_ops = {
    .name = "columns", .sees = columns_sees, .cover = columns_cover, .needs = columns_needs};

lh_pattern lh_pattern_columns(const int64_t *position, int64_t n)
{
    return (lh_pattern){.ops = &columns_ops, .list = position, .n_list = n};
}

static bool rows_sees(const lh_pattern *p, int64_t i, int64_t j)
{
    return columns_sees(p, j, i);
}

static lh_cover rows_cover(const lh_pattern *p, lh_range q, lh_range k)
{
    return list_cover(p, q, k);
}

static lh_status rows_needs(const lh_pattern *p, lh_range q, int64_t n, lh_runs *out)
{
    if (n <= 0 || list_cover(p, q, (lh_range){0, n}) == LH_EMPTY) return LH_OK;
    return lh_runs_add(out, 0, n, 1);
}

static const lh_pattern_ops rows_ops = {
    .name = "rows", .sees = rows_sees, .cover = rows_cover, .needs = rows_needs};

lh_pattern lh_pattern_rows(const int64_t *position, int64_t n)
{
    return (lh_pattern){.ops = &rows_ops, .list = position, .n_list = n};
}

/* --- documents --- */

/* The document of a position: the last one that begins at or before it. */
static int64_t documents_at(const lh_pattern *p, int64_t i)
{
    return list_below(p, i + 1) - 1;
}

static bool documents_sees(const lh_pattern *p, int64_t i, int64_t j)
{
    return documents_at(p, i) == documents_at(p, j);
}

static lh_cover documents_cover(const lh_pattern *p, lh_range q, lh_range k)
{
    if (q.begin >= q.end || k.begin >= k.end) return LH_EMPTY;
    lh_range a = {documents_at(p, q.begin), documents_at(p, q.end - 1)};
    lh_range b = {documents_at(p, k.begin), documents_at(p, k.end - 1)};
    if (a.end < b.begin || b.end < a.begin) return LH_EMPTY;
    return a.begin == a.end && b.begin == b.end ? LH_FULL : LH_MIXED;
}

static lh_status documents_needs(const lh_pattern *p, lh_range q, int64_t n, lh_runs *out)
{
    if (q.begin >= q.end) return LH_OK;
    int64_t first = documents_at(p, q.begin);
    int64_t next = documents_at(p, q.end - 1) + 1;
    int64_t begin = first < 0 ? 0 : p->list[first];
    int64_t end = next < p->n_list ? lhi_min(n, p->list[next]) : n;
    return begin < end ? lh_runs_add(out, begin, end - begin, 1) : LH_OK;
}

static const lh_pattern_ops documents_ops = {.name = "documents",
                                             .sees = documents_sees,
                                             .cover = documents_cover,
                                             .needs = documents_needs};

lh_pattern lh_pattern_documents(const int64_t *begin, int64_t n)
{
    return (lh_pattern){.ops = &documents_ops, .list = begin, .n_list = n};
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

/* Distances that both combs have are a comb again, of their least common multiple. */
static bool and_combs(const lh_pattern *a, const lh_pattern *b, lh_pattern *out)
{
    int64_t lo[2];
    int64_t hi[2];
    int64_t step[2];
    if (!lh_pattern_is_comb(a, &lo[0], &hi[0], &step[0])) return false;
    if (!lh_pattern_is_comb(b, &lo[1], &hi[1], &step[1])) return false;
    int64_t x = lhi_gcd(step[0], step[1]);
    /* NOLINTNEXTLINE(clang-analyzer-core.DivideZero): x divides the steps, which are at least 1 */
    if (step[0] / x > LH_FAR / step[1]) return false;
    int64_t both = step[0] / x * step[1];
    int64_t low = lhi_max(comb_reach(lo[0], step[0]), comb_reach(lo[1], step[1]));
    int64_t high = lhi_min(comb_reach(hi[0], step[0]), comb_reach(hi[1], step[1]));
    *out = lh_pattern_dilated(low <= -LH_FAR ? -LH_FAR : lhi_ceil_div(low, both),
                              high >= LH_FAR ? LH_FAR : lhi_floor_div(high, both), both);
    return true;
}

lh_pattern lh_pattern_and(const lh_pattern *a, const lh_pattern *b)
{
    lh_pattern both;
    if (and_combs(a, b, &both)) return both;
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

/* --- keys --- */

/* The text of a pattern, as far as it fits, and its digest. */
typedef struct key_text {
    char *buf;
    size_t bytes, used, length; /* length: of the whole text */
    bool full;
    uint64_t digest[2];
} key_text;

static uint64_t key_fnv(uint64_t h, const void *data, size_t bytes)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < bytes; i++) h = (h ^ p[i]) * UINT64_C(1099511628211);
    return h;
}

/* The second digest takes whole mixed words, so that it does not collide where FNV-1a does. */
static uint64_t key_mix(uint64_t h, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        h = (h + (unsigned char)text[i] + 1) * UINT64_C(0x9E3779B97F4A7C15);
        h ^= h >> 29;
    }
    return h;
}

static void key_put(key_text *t, const lh_pattern *p)
{
    char node[192];
    int n = snprintf(node, sizeof node, "%.40s(%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ")",
                     p->ops->name, p->arg[0], p->arg[1], p->arg[2], p->arg[3]);
    if (p->n_list > 0)
        n += snprintf(
            node + n, sizeof node - (size_t)n, "[%" PRId64 ":%" PRIx64 "]", p->n_list,
            key_fnv(UINT64_C(14695981039346656037), p->list, (size_t)p->n_list * sizeof *p->list));
    size_t bytes = (size_t)n;
    t->digest[0] = key_fnv(t->digest[0], node, bytes);
    t->digest[1] = key_mix(t->digest[1], node, bytes);
    t->length += bytes;
    t->full = t->full || bytes >= t->bytes - t->used;
    if (!t->full) {
        memcpy(t->buf + t->used, node, bytes + 1);
        t->used += bytes;
    }
    if (p->left != NULL) key_put(t, p->left);
    if (p->right != NULL) key_put(t, p->right);
}

lh_status lh_pattern_key(const lh_pattern *p, char *buf, size_t bytes)
{
    key_text t = {.buf = buf, .bytes = bytes, .used = strlen(buf)};
    key_put(&t, p);
    if (t.full) return LH_RAISE(LH_ERR_BUG, "pattern key longer than %zu bytes", bytes);
    return LH_OK;
}

size_t lh_pattern_digest(const lh_pattern *p, uint64_t digest[2])
{
    key_text t = {.full = true, .digest = {UINT64_C(14695981039346656037), 1}};
    key_put(&t, p);
    digest[0] = t.digest[0];
    digest[1] = t.digest[1];
    return t.length;
}
