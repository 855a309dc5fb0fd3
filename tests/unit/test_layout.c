/* Layouts, pieces, intersections and placements, against brute force over single positions. */
#include "tests/lh_test.h"

#include "core/place.h"

static const int64_t lengths[] = {0, 1, 3, 1009, 8192};
static const int rank_counts[] = {1, 2, 3, 4, 5, 1024};
static const int64_t chunks[] = {1, 7, 16, 512};

/* Every position once; rows agree with positions; pieces cover the rows in order and stay inside
 * one chunk. */
static void check_layout(const lh_layout *l)
{
    unsigned char *seen = NULL;
    int64_t total = 0;
    int64_t largest = 0;
    lh_assert_ok(lh_new((size_t)l->n, &seen));
    for (int r = 0; r < l->ranks; r++) {
        lh_pieces it = lh_pieces_of(l, r);
        lh_piece p;
        int64_t row = 0;
        while (lh_piece_next(&it, &p)) {
            assert_true(p.row == row && p.count >= 1 && p.stride >= 1);
            assert_true(p.position / l->chunk ==
                        (p.position + (p.count - 1) * p.stride) / l->chunk);
            for (int64_t k = 0; k < p.count; k++) {
                int64_t position = p.position + k * p.stride;
                assert_true(position >= 0 && position < l->n && !seen[position]);
                seen[position] = 1;
            }
            assert_true(lh_layout_position(l, r, row) == p.position);
            row += p.count;
            assert_true(lh_layout_position(l, r, row - 1) == p.position + (p.count - 1) * p.stride);
            assert_true(lh_layout_row(l, r, p.position) == p.row);
        }
        assert_true(row == l->rows[r]);
        total += row;
        if (row > largest) largest = row;
    }
    assert_true(total == l->n && largest == l->max_rows); /* with `seen`: every position once */
    lh_free(&seen);
}

static void check_contiguous(int64_t n, int ranks, int64_t chunk, bool align)
{
    lh_layout *l = NULL;
    lh_assert_ok(lh_layout_contiguous(n, ranks, chunk, align, &l));
    check_layout(l);
    int64_t unit = align ? chunk : 1;
    int64_t units = (n + unit - 1) / unit;
    int64_t start = 0;
    for (int r = 0; r < ranks; r++) {
        int64_t count = 0;
        const lh_run *run = lh_layout_runs(l, r, &count);
        int64_t mine = units / ranks + (r < units % ranks);
        assert_true((l->rows[r] + unit - 1) / unit == mine);
        assert_true(count == (mine > 0 ? 1 : 0));
        if (count == 0) continue;
        assert_true(run->start == start && run->count == l->rows[r] && run->stride == 1);
        assert_true(!align || start % chunk == 0);
        start += run->count;
    }
    assert_string_equal(l->name, "contiguous");
    lh_layout_destroy(&l);
    assert_null(l);
}

static void test_contiguous(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (size_t r = 0; r < sizeof rank_counts / sizeof *rank_counts; r++)
            for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
                check_contiguous(lengths[i], rank_counts[r], chunks[c], true);
                check_contiguous(lengths[i], rank_counts[r], chunks[c], false);
            }
}

/* --- zigzag: block r and block 2 ranks - 1 - r --- */

/* First position of a block when `units` units are spread over 2 ranks blocks: of those that get one
 * more, at most `ranks` are the first ones, the others the last ones. */
static int64_t block_begin(int64_t n, int64_t unit, int64_t ranks, int64_t b)
{
    int64_t units = (n + unit - 1) / unit;
    int64_t more = units % (2 * ranks);
    int64_t first = more < ranks ? more : ranks;
    int64_t others = 2 * ranks - (more - first); /* blocks before the last ones with one more */
    int64_t before =
        units / (2 * ranks) * b + (b < first ? b : first) + (b > others ? b - others : 0);
    return before * unit < n ? before * unit : n;
}

/* Causal work of a rank, in scores. */
static double causal_work(const lh_layout *l, int rank)
{
    double work = 0.0;
    for (int64_t i = 0; i < l->rows[rank]; i++)
        work += (double)(lh_layout_position(l, rank, i) + 1);
    return work;
}

/* Causal attention on any number of ranks: no rank has more than a chunk's share above the mean. */
static void test_zigzag_is_balanced(void **state)
{
    (void)state;
    enum { CHUNK = 8 };
    for (int ranks = 2; ranks <= 8; ranks++)
        for (int64_t count = ranks; count < 16 * ranks; count++) {
            lh_layout *l = NULL;
            double n = (double)(count * CHUNK);
            double mean = n * (n + 1.0) / 2.0 / ranks;
            lh_assert_ok(lh_layout_zigzag(count * CHUNK, ranks, CHUNK, true, &l));
            for (int r = 0; r < ranks; r++)
                assert_true(causal_work(l, r) <= mean * (1.0 + (double)ranks / (double)count));
            lh_layout_destroy(&l);
        }
}

static void check_zigzag(int64_t n, int ranks, int64_t chunk, bool align)
{
    lh_layout *l = NULL;
    int64_t unit = align ? chunk : 1;
    int64_t blocks = 2 * (int64_t)ranks;
    lh_assert_ok(lh_layout_zigzag(n, ranks, chunk, align, &l));
    check_layout(l);
    for (int r = 0; r < ranks; r++) {
        int64_t count = 0;
        int64_t used = 0;
        const lh_run *run = lh_layout_runs(l, r, &count);
        for (int k = 0; k < 2; k++) {
            int64_t b = k == 0 ? r : blocks - 1 - r;
            int64_t begin = block_begin(n, unit, ranks, b);
            int64_t end = block_begin(n, unit, ranks, b + 1);
            if (begin == end) continue;
            assert_true(used < count && run[used].start == begin && run[used].stride == 1);
            assert_true(run[used].count == end - begin);
            used++;
        }
        assert_true(used == count);
        assert_true(l->max_rows - l->rows[r] <= unit + (align ? chunk - 1 : 0)); /* as even */
    }
    assert_string_equal(l->name, "zigzag");
    assert_false(l->everywhere);
    lh_layout_destroy(&l);
}

static void test_zigzag(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (size_t r = 0; r < sizeof rank_counts / sizeof *rank_counts; r++)
            for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
                check_zigzag(lengths[i], rank_counts[r], chunks[c], true);
                check_zigzag(lengths[i], rank_counts[r], chunks[c], false);
            }
    lh_layout *l = NULL;
    lh_assert_code(lh_layout_zigzag(-1, 2, 7, true, &l), LH_ERR_BUG);
    assert_null(l);
    lh_error_clear();
}

/* --- everywhere: all positions on every rank --- */

static void test_everywhere(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (int ranks = 1; ranks <= 5; ranks++) {
            lh_layout *l = NULL;
            lh_layout *other = NULL;
            int64_t n = lengths[i];
            lh_assert_ok(lh_layout_everywhere(n, ranks, 7, &l));
            assert_true(l->everywhere && l->max_rows == n && l->ranks == ranks);
            assert_string_equal(l->name, "everywhere");
            for (int r = 0; r < ranks; r++) {
                int64_t count = 0;
                const lh_run *run = lh_layout_runs(l, r, &count);
                assert_true(l->rows[r] == n && count == (n > 0));
                assert_true(count == 0 || (run->start == 0 && run->count == n && run->stride == 1));
                assert_true(lh_layout_row(l, r, n) == -1);
                if (n > 0) assert_true(lh_layout_row(l, r, n - 1) == n - 1);
            }
            lh_assert_ok(lh_layout_contiguous(n, ranks, 7, true, &other));
            assert_true(other->hash != l->hash);
            lh_layout_destroy(&other);
            lh_assert_ok(lh_layout_zigzag(n, ranks, 7, true, &other));
            assert_true(other->hash != l->hash);
            lh_layout_destroy(&other);
            lh_layout_destroy(&l);
        }
    lh_layout *l = NULL;
    lh_assert_code(lh_layout_everywhere(5, 0, 7, &l), LH_ERR_BUG);
    assert_null(l);
    lh_error_clear();
}

/* --- the row of a position --- */

static void check_rows(lh_layout *l)
{
    for (int r = 0; r < l->ranks; r++) {
        int64_t held = 0;
        for (int64_t p = -2; p < l->n + 3; p++) {
            int64_t row = lh_layout_row(l, r, p);
            if (row < 0) continue;
            assert_true(row < l->rows[r] && lh_layout_position(l, r, row) == p);
            held++;
        }
        assert_true(held == l->rows[r]);
    }
    lh_layout_destroy(&l);
}

static void make_cyclic(int64_t n, int ranks, int64_t chunk, lh_layout **out);

static void test_rows(void **state)
{
    (void)state;
    const int64_t sizes[] = {0, 5, 0, 1, 30, 0};
    lh_layout *l = NULL;
    for (int64_t n = 0; n < 70; n += 23)
        for (int ranks = 1; ranks <= 5; ranks++) {
            lh_assert_ok(lh_layout_contiguous(n, ranks, 7, true, &l));
            check_rows(l);
            lh_assert_ok(lh_layout_zigzag(n, ranks, 7, true, &l));
            check_rows(l);
            make_cyclic(n, ranks, 7, &l);
            check_rows(l);
        }
    lh_assert_ok(lh_layout_from_sizes(sizes, 6, 7, &l));
    check_rows(l);
}

static void test_from_sizes(void **state)
{
    (void)state;
    const int64_t sizes[] = {0, 5, 0, 1, 30, 0};
    lh_layout *l = NULL;
    lh_assert_ok(lh_layout_from_sizes(sizes, 6, 7, &l));
    assert_int_equal(l->n, 36);
    assert_int_equal(lh_layout_position(l, 3, 0), 5);
    assert_int_equal(lh_layout_position(l, 4, 29), 35);
    check_layout(l);
    lh_layout_destroy(&l);
    lh_assert_error(lh_layout_from_sizes((int64_t[]){3, -1}, 2, 7, &l), LH_ERR_BUG, "rank 1");
    assert_null(l);
    lh_assert_code(lh_layout_contiguous(-1, 2, 7, true, &l), LH_ERR_BUG);
    lh_assert_code(lh_layout_contiguous(5, 0, 7, true, &l), LH_ERR_BUG);
    lh_assert_code(lh_layout_contiguous(5, 2, 0, true, &l), LH_ERR_BUG);
    lh_error_clear();
}

/* Rank r holds positions r, r + ranks, ... */
static void make_cyclic(int64_t n, int ranks, int64_t chunk, lh_layout **out)
{
    int64_t first[65];
    lh_run run[64];
    int64_t used = 0;
    for (int r = 0; r < ranks; r++) {
        first[r] = used;
        if (r < n) run[used++] = (lh_run){r, (n - 1 - r) / ranks + 1, ranks};
    }
    first[ranks] = used;
    lh_assert_ok(lh_layout_from_runs(n, ranks, chunk, first, run, out));
}

static void test_from_runs(void **state)
{
    (void)state;
    lh_layout *l = NULL;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (int ranks = 1; ranks <= 5; ranks++)
            for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
                make_cyclic(lengths[i], ranks, chunks[c], &l);
                check_layout(l);
                lh_layout_destroy(&l);
            }
}

static void test_from_runs_refuses(void **state)
{
    (void)state;
    const int64_t first[] = {0, 1, 2};
    const lh_run twice[] = {{0, 3, 1}, {2, 3, 1}};
    const lh_run twice_strided[] = {{0, 3, 2}, {1, 2, 3}};
    const lh_run missing[] = {{0, 2, 1}, {3, 2, 1}};
    const lh_run outside[] = {{0, 3, 2}, {1, 2, 4}};
    const lh_run hole[] = {{0, 3, 1}, {4, 2, 1}};
    const lh_run good[] = {{0, 3, 2}, {1, 2, 2}};
    lh_layout *l = NULL;
    lh_assert_error(lh_layout_from_runs(6, 2, 4, first, twice, &l), LH_ERR_BUG, "twice");
    lh_assert_error(lh_layout_from_runs(5, 2, 4, first, twice_strided, &l), LH_ERR_BUG, "twice");
    lh_assert_error(lh_layout_from_runs(5, 2, 4, first, missing, &l), LH_ERR_BUG, "4 rows");
    lh_assert_error(lh_layout_from_runs(5, 2, 4, first, outside, &l), LH_ERR_BUG, "does not fit");
    lh_assert_error(lh_layout_from_runs(5, 2, 4, first, hole, &l), LH_ERR_BUG, "does not fit");
    assert_null(l);
    lh_assert_ok(lh_layout_from_runs(5, 2, 4, first, good, &l));
    check_layout(l);
    lh_layout_destroy(&l);
    lh_error_clear();
}

/* --- runs --- */

static void test_runs(void **state)
{
    (void)state;
    lh_runs runs = {0};
    lh_assert_ok(lh_runs_add(&runs, 10, 5, 1));
    lh_assert_ok(lh_runs_add(&runs, 15, 2, 1)); /* continues */
    lh_assert_ok(lh_runs_add(&runs, 3, 0, 1));  /* nothing */
    lh_assert_ok(lh_runs_add(&runs, 17, 2, 2)); /* another stride */
    lh_assert_ok(lh_runs_add(&runs, 21, 3, 2));
    assert_int_equal(runs.count, 2);
    assert_int_equal(lh_runs_total(&runs), 12);
    lh_assert_error(lh_runs_normalise(&runs), LH_ERR_BUG, "stride 2");
    lh_assert_code(lh_runs_add(&runs, 0, 1, 0), LH_ERR_BUG);
    lh_runs_clear(&runs);
    assert_int_equal(runs.count, 0);
    const lh_run mixed[] = {{40, 3, 1}, {7, 1, 9},  {0, 5, 1}, {3, 4, 1},
                            {41, 1, 1}, {60, 2, 1}, {8, 1, 1}};
    for (size_t i = 0; i < sizeof mixed / sizeof *mixed; i++)
        lh_assert_ok(lh_runs_add(&runs, mixed[i].start, mixed[i].count, mixed[i].stride));
    lh_assert_ok(lh_runs_normalise(&runs));
    assert_int_equal(runs.count, 3);
    assert_true(runs.run[0].start == 0 && runs.run[0].count == 9);
    assert_true(runs.run[1].start == 40 && runs.run[1].count == 3);
    assert_true(runs.run[2].start == 60 && runs.run[2].count == 2);
    lh_runs_free(&runs);
    assert_null(runs.run);
    lh_error_clear();
}

/* --- intersection --- */

static void check_intersect(const lh_layout *l, int rank, const lh_runs *needs)
{
    unsigned char *needed = NULL;
    lh_span *spans = NULL;
    lh_runs positions = {0};
    int64_t n_spans = 0;
    int64_t capacity = 0;
    int64_t rows = -1;
    int64_t span = 0;
    int64_t in_span = 0;
    int64_t run = 0;
    int64_t in_run = 0;
    int64_t found = 0;
    lh_assert_ok(lh_new((size_t)l->n + 1, &needed));
    for (int64_t i = 0; i < needs->count; i++)
        for (int64_t k = 0; k < needs->run[i].count; k++)
            if (needs->run[i].start + k * needs->run[i].stride < l->n)
                needed[needs->run[i].start + k * needs->run[i].stride] = 1;
    lh_assert_ok(
        lh_layout_intersect(l, rank, needs, &spans, &n_spans, &capacity, &rows, &positions));
    for (int64_t row = 0; row < l->rows[rank]; row++) {
        int64_t p = lh_layout_position(l, rank, row);
        if (!needed[p]) continue;
        assert_true(span < n_spans && run < positions.count);
        assert_true(spans[span].row + in_span * spans[span].stride == row);
        assert_true(positions.run[run].start + in_run * positions.run[run].stride == p);
        found++;
        if (++in_span == spans[span].count) span++, in_span = 0;
        if (++in_run == positions.run[run].count) run++, in_run = 0;
    }
    assert_true(span == n_spans && run == positions.count && rows == found);
    assert_true(lh_runs_total(&positions) == rows);
    lh_free(&needed);
    lh_free(&spans);
    lh_runs_free(&positions);
}

/* A small generator of its own: the tests of random.c are elsewhere. */
static int64_t draw(uint64_t *seed, int64_t n)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)((*seed >> 33) % (uint64_t)n);
}

static void draw_needs(uint64_t *seed, int64_t n, bool strided, lh_runs *needs)
{
    lh_runs_clear(needs);
    int64_t at = draw(seed, n / 3 + 1);
    while (at < n + 5) { /* may lie beyond the end: then nobody holds it */
        int64_t stride = strided ? 1 + draw(seed, 9) : 1;
        int64_t count = 1 + draw(seed, 12);
        lh_assert_ok(lh_runs_add(needs, at, count, stride));
        at += (count - 1) * stride + 1 + draw(seed, 20);
    }
}

static void check_all_ranks(lh_layout *l, uint64_t *seed)
{
    lh_runs needs = {0};
    for (int k = 0; k < 6; k++) {
        draw_needs(seed, l->n, k % 2 == 1, &needs);
        for (int r = 0; r < l->ranks; r++) check_intersect(l, r, &needs);
    }
    lh_runs_clear(&needs);
    for (int r = 0; r < l->ranks; r++) check_intersect(l, r, &needs);
    lh_runs_free(&needs);
    lh_layout_destroy(&l);
}

static void test_intersect(void **state)
{
    (void)state;
    uint64_t seed = 5;
    const int64_t sizes[] = {0, 1, 3, 64, 257, 1009};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int ranks = 1; ranks <= 6; ranks++) {
            lh_layout *l = NULL;
            lh_assert_ok(lh_layout_contiguous(sizes[i], ranks, 16, true, &l));
            check_all_ranks(l, &seed);
            lh_assert_ok(lh_layout_zigzag(sizes[i], ranks, 16, ranks % 2 == 0, &l));
            check_all_ranks(l, &seed);
            make_cyclic(sizes[i], ranks, 16, &l);
            check_all_ranks(l, &seed);
        }
}

static void test_intersect_appends_and_merges(void **state)
{
    (void)state;
    lh_layout *l = NULL;
    lh_runs needs = {0};
    lh_span *spans = NULL;
    int64_t n = 0;
    int64_t capacity = 0;
    int64_t rows = 0;
    lh_assert_ok(lh_layout_zigzag(16, 2, 4, true, &l)); /* rank 0: 0..3, 12..15 */
    lh_assert_ok(lh_runs_add(&needs, 2, 12, 1));
    lh_assert_ok(lh_layout_intersect(l, 0, &needs, &spans, &n, &capacity, &rows, NULL));
    assert_true(n == 1 && rows == 4 && spans[0].row == 2 && spans[0].count == 4 &&
                spans[0].stride == 1);
    lh_assert_ok(lh_layout_intersect(l, 0, &needs, &spans, &n, &capacity, &rows, NULL));
    assert_true(n == 2 && rows == 4 && spans[1].row == 2);
    lh_assert_ok(lh_runs_add(&needs, 3, 2, 1)); /* within the one before */
    lh_assert_error(lh_layout_intersect(l, 0, &needs, &spans, &n, &capacity, &rows, NULL),
                    LH_ERR_BUG, "share");
    needs.run[1].start = 0; /* steps back */
    lh_assert_error(lh_layout_intersect(l, 0, &needs, &spans, &n, &capacity, &rows, NULL),
                    LH_ERR_BUG, "ascend");
    lh_free(&spans);
    lh_runs_free(&needs);
    lh_layout_destroy(&l);
    lh_error_clear();
}

/* Residue classes side by side: each needed row once, its position at the same place. */
static void check_interleaved(lh_layout *l, const lh_runs *needs)
{
    for (int r = 0; r < l->ranks; r++) {
        lh_span *spans = NULL;
        lh_runs positions = {0};
        int64_t n = 0;
        int64_t capacity = 0;
        int64_t rows = 0;
        int64_t run = 0;
        int64_t in_run = 0;
        int64_t want = 0;
        unsigned char *seen = NULL;
        lh_assert_ok(lh_new((size_t)l->n + 1, &seen));
        lh_assert_ok(lh_layout_intersect(l, r, needs, &spans, &n, &capacity, &rows, &positions));
        for (int64_t i = 0; i < n; i++)
            for (int64_t k = 0; k < spans[i].count; k++) {
                int64_t row = spans[i].row + k * spans[i].stride;
                int64_t p = positions.run[run].start + in_run * positions.run[run].stride;
                assert_true(row >= 0 && row < l->rows[r] && lh_layout_position(l, r, row) == p);
                assert_true(!seen[row]++);
                if (++in_run == positions.run[run].count) run++, in_run = 0;
            }
        assert_int_equal(run, positions.count);
        for (int64_t i = 0; i < needs->count; i++)
            for (int64_t k = 0; k < needs->run[i].count; k++) {
                int64_t row = lh_layout_row(l, r, needs->run[i].start + k * needs->run[i].stride);
                if (row < 0) continue;
                assert_true(seen[row]);
                want++;
            }
        assert_int_equal(want, rows);
        lh_free(&seen);
        lh_free(&spans);
        lh_runs_free(&positions);
    }
    lh_layout_destroy(&l);
}

static void test_intersect_interleaves(void **state)
{
    (void)state;
    lh_layout *l = NULL;
    lh_runs needs = {0};
    const lh_run classes[] = {{1, 30, 4},   {3, 20, 4},   {4, 10, 4},  {130, 5, 1},
                              {140, 30, 3}, {141, 2, 90}, {145, 9, 3}, {300, 4, 1}};
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        lh_assert_ok(lh_runs_add(&needs, classes[i].start, classes[i].count, classes[i].stride));
    for (int64_t n = 0; n < 400; n += 97)
        for (int ranks = 1; ranks <= 5; ranks++) {
            lh_assert_ok(lh_layout_contiguous(n, ranks, 16, true, &l));
            check_interleaved(l, &needs);
            lh_assert_ok(lh_layout_zigzag(n, ranks, 16, false, &l));
            check_interleaved(l, &needs);
            make_cyclic(n, ranks, 16, &l);
            check_interleaved(l, &needs);
        }
    lh_span *spans = NULL;
    int64_t count = 0;
    int64_t capacity = 0;
    int64_t rows = 0;
    lh_assert_ok(lh_layout_contiguous(400, 2, 16, true, &l));
    lh_assert_ok(lh_runs_add(&needs, 301, 3, 5)); /* 301 is there already */
    lh_assert_error(lh_layout_intersect(l, 0, &needs, &spans, &count, &capacity, &rows, NULL),
                    LH_ERR_BUG, "share");
    lh_layout_destroy(&l);
    lh_runs_free(&needs);
    lh_error_clear();
}

/* Many runs on both sides: the work must grow with the runs, not with their product or their
 * positions. */
static void test_intersect_is_linear(void **state)
{
    (void)state;
    enum { RUNS = 200000 };
    lh_layout *l = NULL;
    lh_runs needs = {0};
    lh_span *spans = NULL;
    int64_t n = 0;
    int64_t capacity = 0;
    int64_t rows = 0;
    lh_assert_ok(lh_layout_contiguous((int64_t)RUNS * 10000, 2, 512, true, &l));
    for (int64_t i = 0; i < RUNS; i++) lh_assert_ok(lh_runs_add(&needs, i * 10000, 5000, 1));
    lh_assert_ok(lh_layout_intersect(l, 1, &needs, &spans, &n, &capacity, &rows, NULL));
    assert_int_equal(n, RUNS / 2);
    assert_int_equal(rows, (int64_t)RUNS / 2 * 5000);
    lh_free(&spans);
    lh_runs_free(&needs);
    lh_layout_destroy(&l);
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    const int64_t first[] = {0, 1, 2};
    const lh_run run[] = {{0, 3, 1}, {3, 2, 1}};
    lh_layout *l = NULL;
    int failed = 0;
    for (int n = 0; n < 48; n++) {
        lh_new_fail_at(n / 4 + 1);
        lh_status st = LH_OK;
        if (n % 4 == 0) st = lh_layout_contiguous(9, 2, 2, true, &l);
        if (n % 4 == 1) st = lh_layout_from_runs(5, 2, 4, first, run, &l);
        if (n % 4 == 2) st = lh_layout_zigzag(9, 2, 2, true, &l);
        if (n % 4 == 3) st = lh_layout_everywhere(9, 2, 2, &l);
        lh_new_fail_at(0);
        assert_true(st == LH_OK || (st == LH_ERR_MEMORY && l == NULL));
        failed += st != LH_OK;
        lh_layout_destroy(&l);
    }
    assert_true(failed >= 18 && failed < 44);
    lh_error_clear();
}

/* --- placements --- */

static void test_duals(void **state)
{
    (void)state;
    char text[128];
    lh_layout *l = NULL;
    lh_layout *other = NULL;
    lh_assert_ok(lh_layout_contiguous(8, 2, 2, true, &l));
    lh_assert_ok(lh_layout_contiguous(8, 2, 2, true, &other));
    lh_place replicated = lh_place_replicated();
    lh_place partial = lh_place_partial();
    lh_place tokens = lh_place_tokens(l);
    lh_place rows = lh_place_rows(l);
    lh_place d = lh_place_dual(&replicated);
    assert_true(lh_place_equal(&d, &partial));
    d = lh_place_dual(&partial);
    assert_true(lh_place_equal(&d, &replicated));
    d = lh_place_dual(&tokens);
    assert_true(lh_place_equal(&d, &tokens));
    d = lh_place_dual(&rows);
    assert_true(d.axis[LH_AXIS_DATA].kind == LH_PARTIAL && d.axis[LH_AXIS_SEQ].kind == LH_SHARD);
    assert_false(lh_place_equal(&d, &rows));
    d = lh_place_dual(&d);
    assert_true(lh_place_equal(&d, &rows));
    lh_place elsewhere = lh_place_rows(other);
    assert_false(lh_place_equal(&rows, &elsewhere)); /* the same object, not the same content */
    assert_string_equal(lh_place_text(&partial, text, sizeof text),
                        "[data: partial, sequence: partial]");
    assert_string_equal(lh_place_text(&tokens, text, sizeof text),
                        "[data: shard 0, sequence: shard 1 contiguous]");
    lh_layout_destroy(&l);
    lh_layout_destroy(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contiguous),
        cmocka_unit_test(test_zigzag),
        cmocka_unit_test(test_zigzag_is_balanced),
        cmocka_unit_test(test_everywhere),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_from_sizes),
        cmocka_unit_test(test_from_runs),
        cmocka_unit_test(test_from_runs_refuses),
        cmocka_unit_test(test_runs),
        cmocka_unit_test(test_intersect),
        cmocka_unit_test(test_intersect_appends_and_merges),
        cmocka_unit_test(test_intersect_interleaves),
        cmocka_unit_test(test_intersect_is_linear),
        cmocka_unit_test(test_every_allocation_may_fail),
        cmocka_unit_test(test_duals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
