/* The cache of plans: what it keeps, drops and tells apart. */
#include "attention/plan.h"
#include "tests/lh_test.h"

#include <string.h>

static const lh_plan *get(lh_plan_cache *cache, const lh_layout *l, int64_t window)
{
    const lh_plan *p = NULL;
    lh_pattern band = lh_pattern_band(-window, 0);
    lh_assert_ok(lh_plan_get(cache, &band, l, l, 0, &p));
    assert_non_null(p);
    return p;
}

static void cache_keeps_what_is_used(void **state)
{
    (void)state;
    lh_plan_cache *cache = NULL;
    lh_layout *l = NULL;
    lh_layout *same = NULL;
    lh_layout *other = NULL;
    lh_assert_ok(lh_plan_cache_create(&cache));
    lh_assert_ok(lh_layout_contiguous(500, 2, 4, false, &l));
    lh_assert_ok(lh_layout_contiguous(500, 2, 4, false, &same));
    lh_assert_ok(lh_layout_contiguous(500, 2, 8, false, &other));
    const lh_plan *first = get(cache, l, 3);
    assert_ptr_equal(get(cache, l, 3), first);
    assert_ptr_equal(get(cache, same, 3), first); /* the content counts, not the object */
    assert_ptr_not_equal(get(cache, l, 4), first);
    assert_ptr_not_equal(get(cache, other, 3), first);
    /* one step that needs more than the cache holds: nothing that it borrowed goes away */
    lh_plan_cache_step(cache);
    const lh_plan *borrowed[3 * LH_PLAN_CACHE];
    for (int i = 0; i < 3 * LH_PLAN_CACHE; i++) borrowed[i] = get(cache, l, i);
    for (int i = 0; i < 3 * LH_PLAN_CACHE; i++) assert_ptr_equal(get(cache, l, i), borrowed[i]);
    for (int i = 1; i < 3 * LH_PLAN_CACHE;
         i++) /* read it: the address sanitizer knows if it lives */
        assert_true(borrowed[i]->scores > borrowed[i - 1]->scores);
    lh_plan_cache_destroy(&cache);
    lh_layout_destroy(&l);
    lh_layout_destroy(&same);
    lh_layout_destroy(&other);
}

static void cache_drops_the_least_recently_used(void **state)
{
    (void)state;
    lh_plan_cache *cache = NULL;
    lh_layout *l = NULL;
    lh_assert_ok(lh_plan_cache_create(&cache));
    lh_assert_ok(lh_layout_contiguous(300, 2, 4, true, &l));
    for (int i = 0; i < LH_PLAN_CACHE; i++) (void)get(cache, l, i);
    for (int step = 0; step < 3; step++) lh_plan_cache_step(cache);
    for (int i = 0; i < LH_PLAN_CACHE; i++)
        if (i != 7) (void)get(cache, l, i);
    for (int step = 0; step < 3; step++) lh_plan_cache_step(cache);
    (void)get(cache, l, 200); /* takes the place of 7 */
    int64_t before = lh_new_count();
    for (int i = 0; i < LH_PLAN_CACHE; i++)
        if (i != 7) (void)get(cache, l, i);
    (void)get(cache, l, 200);
    assert_int_equal(lh_new_count(), before); /* all there: nothing was made */
    (void)get(cache, l, 7);
    assert_true(lh_new_count() > before);
    lh_plan_cache_destroy(&cache);
    lh_layout_destroy(&l);
}

static void cache_survives_failures(void **state)
{
    (void)state;
    lh_plan_cache *cache = NULL;
    lh_layout *l = NULL;
    const lh_plan *p = NULL;
    lh_pattern band = lh_pattern_band(-7, 0);
    lh_assert_ok(lh_plan_cache_create(&cache));
    lh_assert_ok(lh_layout_contiguous(50, 3, 4, true, &l));
    for (int64_t n = 1; p == NULL; n++) {
        lh_new_fail_at(n);
        lh_status st = lh_plan_get(cache, &band, l, l, 1, &p);
        lh_new_fail_at(0);
        if (st == LH_OK) break;
        lh_assert_code(st, LH_ERR_MEMORY);
        assert_null(p);
    }
    assert_non_null(p);
    assert_true(p->n_tiles > 0);
    lh_plan_cache_destroy(&cache);
    lh_layout_destroy(&l);
}

/* Patterns of more text than any key holds: OR over OR, with a list at the bottom. */
enum { LINKS = 60 };

static const lh_plan *get_chain(lh_plan_cache *cache, const lh_layout *l, const int64_t *column,
                                int64_t last)
{
    lh_pattern band[LINKS];
    lh_pattern chain[LINKS];
    uint64_t digest[2];
    const lh_plan *p = NULL;
    chain[0] = lh_pattern_columns(column, 2);
    for (int i = 1; i < LINKS; i++) {
        band[i] = lh_pattern_band(i == LINKS - 1 ? last : -i, -i);
        chain[i] = lh_pattern_or(&chain[i - 1], &band[i]);
    }
    assert_true(lh_pattern_digest(&chain[LINKS - 1], digest) > 1000);
    lh_assert_ok(lh_plan_get(cache, &chain[LINKS - 1], l, l, 0, &p));
    assert_non_null(p);
    return p;
}

static void long_patterns_are_told_apart(void **state)
{
    (void)state;
    static const int64_t column[2] = {3, 250};
    static const int64_t same[2] = {3, 250};
    static const int64_t other[2] = {3, 251};
    lh_plan_cache *cache = NULL;
    lh_layout *l = NULL;
    lh_assert_ok(lh_plan_cache_create(&cache));
    lh_assert_ok(lh_layout_contiguous(300, 2, 4, true, &l));
    const lh_plan *p = get_chain(cache, l, column, -LINKS);
    assert_ptr_equal(get_chain(cache, l, same, -LINKS), p); /* the content of the list counts */
    assert_ptr_not_equal(get_chain(cache, l, other, -LINKS), p);
    assert_ptr_not_equal(get_chain(cache, l, column, -LINKS - 1), p);
    lh_plan_cache_destroy(&cache);
    lh_layout_destroy(&l);
}

/* On one rank the runs of both are the same. */
static void everywhere_is_told_apart(void **state)
{
    (void)state;
    lh_plan_cache *cache = NULL;
    lh_layout *l = NULL;
    lh_layout *all = NULL;
    const lh_plan *a = NULL;
    const lh_plan *b = NULL;
    lh_pattern p = lh_pattern_band(-3, 0);
    lh_assert_ok(lh_plan_cache_create(&cache));
    lh_assert_ok(lh_layout_contiguous(30, 1, 4, true, &l));
    lh_assert_ok(lh_layout_everywhere(30, 1, 4, &all));
    lh_assert_ok(lh_plan_get(cache, &p, l, l, 0, &a));
    lh_assert_ok(lh_plan_get(cache, &p, l, all, 0, &b));
    assert_ptr_not_equal(a, b);
    assert_true(a->exchange->keep && !b->exchange->keep);
    lh_plan_cache_destroy(&cache);
    lh_layout_destroy(&l);
    lh_layout_destroy(&all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cache_keeps_what_is_used),
        cmocka_unit_test(cache_drops_the_least_recently_used),
        cmocka_unit_test(cache_survives_failures),
        cmocka_unit_test(long_patterns_are_told_apart),
        cmocka_unit_test(everywhere_is_told_apart),
    };
    return cmocka_run_group_tests_name("plan_cache", tests, NULL, NULL);
}
