#include "tests/lh_test_scenes.h"

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static bool same_sees(const lh_pattern *p, int64_t i, int64_t j)
{
    return i % p->arg[0] == j % p->arg[0];
}

static lh_cover same_cover(const lh_pattern *p, lh_range q, lh_range k)
{
    (void)p, (void)q, (void)k;
    return LH_MIXED;
}

static lh_status same_needs(const lh_pattern *p, lh_range q, int64_t n, lh_runs *out)
{
    (void)p, (void)q;
    return lh_runs_add(out, 0, n, 1);
}

static const lh_pattern_ops same_ops = {
    .name = "same", .sees = same_sees, .cover = same_cover, .needs = same_needs};

lh_pattern lh_test_same(int64_t modulus)
{
    return (lh_pattern){.ops = &same_ops, .arg = {modulus}};
}

static bool blocks_sees(const lh_pattern *p, int64_t i, int64_t j)
{
    return i / p->arg[0] == j / p->arg[0];
}

static lh_cover blocks_cover(const lh_pattern *p, lh_range q, lh_range k)
{
    int64_t q0 = q.begin / p->arg[0];
    int64_t q1 = (q.end - 1) / p->arg[0];
    int64_t k0 = k.begin / p->arg[0];
    int64_t k1 = (k.end - 1) / p->arg[0];
    if (q.begin >= q.end || k.begin >= k.end || q1 < k0 || k1 < q0) return LH_EMPTY;
    return q0 == q1 && k0 == k1 && q0 == k0 ? LH_FULL : LH_MIXED;
}

static lh_status blocks_needs(const lh_pattern *p, lh_range q, int64_t n, lh_runs *out)
{
    int64_t begin = q.begin / p->arg[0] * p->arg[0];
    int64_t end = least(n, ((q.end - 1) / p->arg[0] + 1) * p->arg[0]);
    if (q.begin >= q.end || begin >= end) return LH_OK;
    return lh_runs_add(out, begin, end - begin, 1);
}

static const lh_pattern_ops blocks_ops = {
    .name = "blocks", .sees = blocks_sees, .cover = blocks_cover, .needs = blocks_needs};

lh_pattern lh_test_blocks(int64_t block)
{
    return (lh_pattern){.ops = &blocks_ops, .arg = {block}};
}

static bool columns_sees(const lh_pattern *p, int64_t i, int64_t j)
{
    (void)i;
    return j < p->arg[0];
}

static lh_cover columns_cover(const lh_pattern *p, lh_range q, lh_range k)
{
    if (q.begin >= q.end || k.begin >= k.end || k.begin >= p->arg[0]) return LH_EMPTY;
    return k.end <= p->arg[0] ? LH_FULL : LH_MIXED;
}

static lh_status columns_needs(const lh_pattern *p, lh_range q, int64_t n, lh_runs *out)
{
    int64_t count = least(n, p->arg[0]);
    if (q.begin >= q.end || count <= 0) return LH_OK;
    return lh_runs_add(out, 0, count, 1);
}

static const lh_pattern_ops columns_ops = {
    .name = "columns", .sees = columns_sees, .cover = columns_cover, .needs = columns_needs};

lh_pattern lh_test_columns(int64_t count)
{
    return (lh_pattern){.ops = &columns_ops, .arg = {count}};
}

static lh_status uneven(int64_t n, int ranks, int64_t chunk, lh_layout **out)
{
    int64_t sizes[64] = {0};
    int64_t left = n;
    if (ranks > 64) return LH_RAISE(LH_ERR_BUG, "%d ranks", ranks);
    for (int r = 0; r < ranks - 1; r++) {
        sizes[r] = r == 1 ? 0 : least(left, n / (2 * ranks) + r);
        left -= sizes[r];
    }
    sizes[ranks - 1] = left;
    return lh_layout_from_sizes(sizes, ranks, chunk, out);
}

static lh_status cyclic(int64_t n, int ranks, int64_t chunk, lh_layout **out)
{
    int64_t first[65] = {0};
    lh_run run[64];
    int64_t used = 0;
    if (ranks > 64) return LH_RAISE(LH_ERR_BUG, "%d ranks", ranks);
    for (int r = 0; r < ranks; r++) {
        if (r < n) run[used++] = (lh_run){r, (n - 1 - r) / ranks + 1, ranks};
        first[r + 1] = used;
    }
    return lh_layout_from_runs(n, ranks, chunk, first, run, out);
}

lh_status lh_test_layout(lh_test_layout_kind kind, int64_t n, int ranks, int64_t chunk,
                         lh_layout **out)
{
    if (kind == LH_TEST_UNEVEN) return uneven(n, ranks, chunk, out);
    if (kind == LH_TEST_ZIGZAG) return lh_layout_zigzag(n, ranks, chunk, false, out);
    if (kind == LH_TEST_ZIGZAG_ALIGNED) return lh_layout_zigzag(n, ranks, chunk, true, out);
    if (kind == LH_TEST_CYCLIC) return cyclic(n, ranks, chunk, out);
    return lh_layout_contiguous(n, ranks, chunk, kind == LH_TEST_ALIGNED, out);
}
