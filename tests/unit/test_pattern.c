/* Patterns: cover and needs against sees, by brute force over all pairs of ranges of a short
 * sequence. */
#include "attention/pattern.h"
#include "tests/lh_test.h"
#include "tests/lh_test_scenes.h"

#include <string.h>

enum { N = 13, FAR_AWAY = 99 };

static int64_t seen_pairs(const lh_pattern *p, lh_range q, lh_range k)
{
    int64_t seen = 0;
    for (int64_t i = q.begin; i < q.end; i++)
        for (int64_t j = k.begin; j < k.end; j++) seen += lh_pattern_sees(p, i, j);
    return seen;
}

/* exact: EMPTY and FULL are said whenever they hold. */
static void check_cover(const lh_pattern *p, bool exact)
{
    for (int64_t a = 0; a < N; a++)
        for (int64_t b = a + 1; b <= N; b++)
            for (int64_t c = 0; c < N; c++)
                for (int64_t d = c + 1; d <= N; d++) {
                    lh_range q = {a, b};
                    lh_range k = {c, d};
                    int64_t seen = seen_pairs(p, q, k);
                    lh_cover cover = lh_pattern_cover(p, q, k);
                    if (cover == LH_EMPTY) assert_int_equal(seen, 0);
                    if (cover == LH_FULL) assert_int_equal(seen, (b - a) * (d - c));
                    if (exact && seen == 0) assert_int_equal(cover, LH_EMPTY);
                    if (exact && seen == (b - a) * (d - c)) assert_int_equal(cover, LH_FULL);
                }
}

static void check_needs_of(const lh_pattern *p, lh_range q, bool exact)
{
    lh_runs runs = {0};
    bool needed[N] = {false};
    int64_t last = -1;
    lh_assert_ok(lh_pattern_needs(p, q, N, &runs));
    for (int64_t r = 0; r < runs.count; r++)
        for (int64_t i = 0; i < runs.run[r].count; i++) {
            int64_t j = runs.run[r].start + i * runs.run[r].stride;
            assert_true(j > last && j < N); /* ascending, within the sequence, none twice */
            needed[j] = true;
            last = j;
        }
    for (int64_t j = 0; j < N; j++) {
        bool seen = seen_pairs(p, q, (lh_range){j, j + 1}) > 0;
        assert_true(needed[j] || !seen);
        if (exact) assert_true(needed[j] == seen);
    }
    lh_runs_free(&runs);
}

static void check_needs(const lh_pattern *p, bool exact)
{
    for (int64_t a = 0; a < N; a++)
        for (int64_t b = a; b <= N; b++) check_needs_of(p, (lh_range){a, b}, exact);
}

static void bands(void **state)
{
    static const int64_t edge[] = {-LH_FAR, -FAR_AWAY, -7, -1, 0, 1, 3, FAR_AWAY, LH_FAR};
    enum { EDGES = sizeof edge / sizeof edge[0] };
    (void)state;
    for (int a = 0; a < EDGES; a++)
        for (int b = 0; b < EDGES; b++) {
            int64_t lo = 1;
            int64_t hi = 0;
            lh_pattern p = lh_pattern_band(edge[a], edge[b]);
            assert_true(lh_pattern_is_band(&p, &lo, &hi));
            for (int64_t i = 0; i < N; i++)
                for (int64_t j = 0; j < N; j++)
                    assert_true(lh_pattern_sees(&p, i, j) ==
                                (edge[a] <= j - i && j - i <= edge[b]));
            check_cover(&p, true);
            check_needs(&p, true);
        }
}

static void bands_beyond_far(void **state)
{
    (void)state;
    int64_t lo = 0;
    int64_t hi = 0;
    lh_pattern p = lh_pattern_band(INT64_MIN, INT64_MAX);
    assert_true(lh_pattern_is_band(&p, &lo, &hi));
    assert_true(lo == -LH_FAR && hi == LH_FAR);
    check_cover(&p, true);
    check_needs(&p, true);
}

static void and_of_bands_is_a_band(void **state)
{
    (void)state;
    lh_pattern window = lh_pattern_band(-5, 5);
    lh_pattern causal = lh_pattern_band(-LH_FAR, 0);
    lh_pattern apart = lh_pattern_band(2, 3);
    lh_pattern both = lh_pattern_and(&window, &causal);
    lh_pattern none = lh_pattern_and(&apart, &causal);
    int64_t lo = 0;
    int64_t hi = 0;
    assert_true(lh_pattern_is_band(&both, &lo, &hi));
    assert_true(lo == -5 && hi == 0);
    assert_true(lh_pattern_is_band(&none, &lo, &hi));
    check_cover(&none, true);
    check_needs(&none, true);
    assert_int_equal(seen_pairs(&none, (lh_range){0, N}, (lh_range){0, N}), 0);
}

/* Dilated bands, against their definition; cover and needs are exact. */
static void combs(void **state)
{
    static const int64_t edge[] = {INT64_MIN, -LH_FAR, -3, -1, 0, 2, LH_FAR, INT64_MAX};
    static const int64_t steps[] = {1, 2, 3, 5, 12, 40, LH_FAR, INT64_MAX};
    enum { EDGES = 8 };
    (void)state;
    for (int s = 0; s < EDGES; s++)
        for (int a = 0; a < EDGES; a++)
            for (int b = 0; b < EDGES; b++) {
                int64_t lo = 1;
                int64_t hi = 0;
                int64_t step = 0;
                lh_pattern p = lh_pattern_dilated(edge[a], edge[b], steps[s]);
                assert_true(lh_pattern_is_comb(&p, &lo, &hi, &step));
                assert_true(step == (steps[s] > LH_FAR ? LH_FAR : steps[s]));
                assert_true(lh_pattern_is_band(&p, &lo, &hi) == (steps[s] == 1));
                for (int64_t i = 0; i < N; i++)
                    for (int64_t j = 0; j < N; j++)
                        assert_true(lh_pattern_sees(&p, i, j) ==
                                    ((j - i) % steps[s] == 0 && edge[a] <= (j - i) / steps[s] &&
                                     (j - i) / steps[s] <= edge[b]));
                check_cover(&p, true);
                check_needs(&p, true);
            }
}

static void and_of_combs_is_a_comb(void **state)
{
    (void)state;
    const lh_pattern part[] = {lh_pattern_band(-LH_FAR, 0), lh_pattern_band(-7, 5),
                               lh_pattern_dilated(-2, 2, 3), lh_pattern_dilated(-LH_FAR, 1, 2),
                               lh_pattern_dilated(-9, LH_FAR, 4)};
    enum { PARTS = sizeof part / sizeof part[0] };
    int64_t lo = 0;
    int64_t hi = 0;
    int64_t step = 0;
    for (int a = 0; a < PARTS; a++)
        for (int b = 0; b < PARTS; b++) {
            lh_pattern both = lh_pattern_and(&part[a], &part[b]);
            assert_true(lh_pattern_is_comb(&both, &lo, &hi, &step));
            for (int64_t i = 0; i < 3 * N; i++)
                for (int64_t j = 0; j < 3 * N; j++)
                    assert_true(lh_pattern_sees(&both, i, j) == (lh_pattern_sees(&part[a], i, j) &&
                                                                 lh_pattern_sees(&part[b], i, j)));
            check_cover(&both, true);
            check_needs(&both, true);
        }
    lh_pattern far = lh_pattern_and(&part[0], &part[3]); /* no limit stays no limit */
    assert_true(lh_pattern_is_comb(&far, &lo, &hi, &step) && lo == -LH_FAR && hi == 0 && step == 2);
    lh_pattern huge[] = {lh_pattern_dilated(-1, 1, LH_FAR - 1), lh_pattern_dilated(-1, 1, LH_FAR)};
    lh_pattern generic = lh_pattern_and(&huge[0], &huge[1]); /* their multiple is no number */
    assert_false(lh_pattern_is_comb(&generic, &lo, &hi, &step));
    check_cover(&generic, false);
    check_needs(&generic, false);
}

/* Lists: every subset of the positions of a short sequence, and positions beyond it. */
static void lists(void **state)
{
    (void)state;
    for (unsigned subset = 0; subset < 1u << 7; subset += 3) {
        int64_t position[9];
        int64_t n = 0;
        for (int64_t i = 0; i < 7; i++)
            if (subset >> i & 1) position[n++] = 2 * i; /* 12 is the last one */
        position[n++] = N + 4;
        lh_pattern columns = lh_pattern_columns(position, n);
        lh_pattern rows = lh_pattern_rows(position, n);
        for (int64_t i = 0; i < N; i++)
            for (int64_t j = 0; j < N; j++) {
                assert_true(lh_pattern_sees(&columns, i, j) == (j % 2 == 0 && subset >> j / 2 & 1));
                assert_true(lh_pattern_sees(&rows, i, j) == (i % 2 == 0 && subset >> i / 2 & 1));
            }
        check_cover(&columns, true);
        check_cover(&rows, true);
        check_needs(&columns, true);
        check_needs(&rows, true);
    }
    lh_pattern none = lh_pattern_columns(NULL, 0);
    check_cover(&none, true);
    check_needs(&none, true);
}

static void documents(void **state)
{
    (void)state;
    static const int64_t begin[] = {0, 1, 5, 6, 11, 30};
    for (int64_t n = 0; n <= 6; n++) {
        lh_pattern p = lh_pattern_documents(begin, n);
        for (int64_t i = 0; i < N; i++)
            for (int64_t j = 0; j < N; j++) {
                bool same = true; /* no document begins between the two */
                for (int64_t d = 0; d < n; d++) same = same && (i < begin[d]) == (j < begin[d]);
                assert_true(lh_pattern_sees(&p, i, j) == same);
            }
        check_cover(&p, true);
        check_needs(&p, true);
    }
}

static void composed(void **state)
{
    (void)state;
    static const int64_t list[] = {2, 3, 9};
    const lh_pattern part[] = {lh_pattern_band(-4, 0),
                               lh_pattern_band(2, 5),
                               lh_test_same(3),
                               lh_test_blocks(4),
                               lh_pattern_columns(list, 3),
                               lh_pattern_band(-LH_FAR, LH_FAR),
                               lh_pattern_dilated(-1, 2, 3),
                               lh_pattern_rows(list, 3)};
    enum { PARTS = sizeof part / sizeof part[0] };
    for (int a = 0; a < PARTS; a++) {
        check_cover(&part[a], false);
        check_needs(&part[a], part[a].ops->cover != part[2].ops->cover);
        for (int b = 0; b < PARTS; b++) {
            lh_pattern both = lh_pattern_and(&part[a], &part[b]);
            lh_pattern any = lh_pattern_or(&part[a], &part[b]);
            lh_pattern nested = lh_pattern_and(&any, &part[(a + b) % PARTS]);
            for (int64_t i = 0; i < N; i++)
                for (int64_t j = 0; j < N; j++) {
                    bool x = lh_pattern_sees(&part[a], i, j);
                    bool y = lh_pattern_sees(&part[b], i, j);
                    assert_true(lh_pattern_sees(&both, i, j) == (x && y));
                    assert_true(lh_pattern_sees(&any, i, j) == (x || y));
                    assert_true(lh_pattern_sees(&nested, i, j) ==
                                ((x || y) && lh_pattern_sees(&part[(a + b) % PARTS], i, j)));
                }
            check_cover(&both, false);
            check_cover(&any, false);
            check_cover(&nested, false);
            check_needs(&both, false);
            check_needs(&any, part[a].ops != part[2].ops && part[b].ops != part[2].ops);
            check_needs(&nested, false);
        }
    }
}

static void key(const lh_pattern *p, char *out, size_t bytes)
{
    out[0] = 0;
    lh_assert_ok(lh_pattern_key(p, out, bytes));
}

static void keys_tell_patterns_apart(void **state)
{
    (void)state;
    enum { PATTERNS = 16, BYTES = 512 };
    static const int64_t list[][3] = {{0, 4, 9}, {0, 4, 10}, {0, 4, 9}};
    uint64_t digest[PATTERNS + 1][2];
    static char text[PATTERNS][BYTES];
    lh_pattern a = lh_pattern_band(-4, 0);
    lh_pattern b = lh_pattern_band(-4, 1);
    lh_pattern c = lh_test_blocks(4);
    lh_pattern d = lh_test_columns(4);
    lh_pattern a_or_c = lh_pattern_or(&a, &c);
    lh_pattern c_or_d = lh_pattern_or(&c, &d);
    const lh_pattern all[PATTERNS] = {
        a,
        b,
        c,
        d,
        a_or_c,
        lh_pattern_or(&a_or_c, &d), /* not the same text as (a, (c, d)) */
        lh_pattern_or(&a, &c_or_d),
        lh_pattern_and(&a, &c),
        lh_pattern_or(&c, &a),
        lh_pattern_dilated(-4, 0, 2),
        lh_pattern_columns(list[0], 3),
        lh_pattern_columns(list[1], 3),
        lh_pattern_columns(list[0], 2),
        lh_pattern_rows(list[0], 3),
        lh_pattern_documents(list[0], 3),
        lh_pattern_columns(NULL, 0)};
    lh_pattern copy = lh_pattern_columns(list[2], 3);
    for (int i = 0; i < PATTERNS; i++) {
        char again[BYTES];
        key(&all[i], text[i], BYTES);
        key(&all[i], again, BYTES);
        assert_string_equal(text[i], again);
        assert_int_equal(lh_pattern_digest(&all[i], digest[i]), strlen(text[i]));
        for (int j = 0; j < i; j++) {
            assert_string_not_equal(text[i], text[j]);
            assert_true(digest[i][0] != digest[j][0] && digest[i][1] != digest[j][1]);
        }
    }
    char again[BYTES];
    key(&copy, again, BYTES);
    assert_string_equal(again, text[10]); /* the content of a list counts, not its address */
    (void)lh_pattern_digest(&copy, digest[PATTERNS]);
    assert_memory_equal(digest[PATTERNS], digest[10], sizeof digest[10]);
    /* appended to what is there; too short a buffer is an error and no overflow */
    char room[BYTES] = "front ";
    lh_assert_ok(lh_pattern_key(&a, room, BYTES));
    assert_memory_equal(room, "front ", 6);
    assert_string_equal(room + 6, text[0]);
    for (size_t bytes = 1; bytes <= strlen(text[5]); bytes++) {
        char small[BYTES] = "";
        lh_assert_code(lh_pattern_key(&all[5], small, bytes), LH_ERR_BUG);
        assert_true(strlen(small) < bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bands),
        cmocka_unit_test(bands_beyond_far),
        cmocka_unit_test(and_of_bands_is_a_band),
        cmocka_unit_test(combs),
        cmocka_unit_test(and_of_combs_is_a_comb),
        cmocka_unit_test(lists),
        cmocka_unit_test(documents),
        cmocka_unit_test(composed),
        cmocka_unit_test(keys_tell_patterns_apart),
    };
    return cmocka_run_group_tests_name("pattern", tests, NULL, NULL);
}
