/* Plans of all ranks, made in one process: their tiles and their exchanges against the pattern
 * itself, by brute force, and the bytes of the mechanisms' formulas against both. */
#include "attention/attention.h"
#include "tests/lh_test.h"
#include "tests/lh_test_scenes.h"

#include <stdio.h>
#include <string.h>

enum { MAX_RANKS = 8, BATCH = 2, HEADS = 4, KV_HEADS = 2, WIDTH = 8 };

/* What a plan is made of, and what it must do. */
typedef struct world {
    const lh_pattern *pattern;
    const lh_layout *queries, *keys;
    bool exact; /* a band over queries in stretches: the exchange brings nothing that nobody sees */
    const uint8_t *visible; /* [queries.n, keys.n] */
    uint8_t *covered;       /* [queries.n, keys.n]: how often a tile computes it */
    uint8_t *needed;        /* [ranks, keys.n]: does a query of the rank see it? */
    int64_t *owner;         /* [keys.n]: rank that holds the key */
    int64_t *position;      /* [keys.n]: of the key rows of one part */
    int64_t scores[MAX_RANKS], sent[MAX_RANKS], received[MAX_RANKS]; /* by brute force */
    lh_plan *plan[MAX_RANKS];
} world;

#define EXPECT(cond)                                                                               \
    do {                                                                                           \
        if (!(cond)) return #cond;                                                                 \
    } while (0)

static void world_close(world *w)
{
    for (int r = 0; r < MAX_RANKS; r++) lh_plan_destroy(&w->plan[r]);
    lh_free(&w->covered);
    lh_free(&w->needed);
    lh_free(&w->owner);
    lh_free(&w->position);
}

static lh_status world_open(world *w)
{
    lh_status st = LH_OK;
    size_t keys = (size_t)w->keys->n;
    LH_TRY(lh_new((size_t)w->queries->n * keys, &w->covered));
    LH_TRY(lh_new((size_t)w->keys->ranks * keys, &w->needed));
    LH_TRY(lh_new(keys * sizeof *w->owner, &w->owner));
    LH_TRY(lh_new(keys * sizeof *w->position, &w->position));
    for (int r = 0; r < w->keys->ranks; r++) {
        LH_TRY(lh_plan_create(w->pattern, w->queries, w->keys, r, &w->plan[r]));
        for (int64_t i = 0; i < w->keys->rows[r]; i++)
            w->owner[lh_layout_position(w->keys, r, i)] = r;
    }
done:
    return st;
}

static void world_truth(world *w)
{
    int64_t n = w->keys->n;
    for (int r = 0; r < w->queries->ranks; r++) {
        uint8_t *needed = w->needed + r * n;
        for (int64_t i = 0; i < w->queries->rows[r]; i++) {
            const uint8_t *row = w->visible + lh_layout_position(w->queries, r, i) * n;
            for (int64_t j = 0; j < n; j++) {
                needed[j] |= row[j];
                w->scores[r] += row[j];
            }
        }
        for (int64_t j = 0; j < n; j++) {
            if (!needed[j] || w->owner[j] == r) continue;
            w->received[r]++;
            w->sent[w->owner[j]]++;
        }
    }
}

/* --- tiles --- */

/* Positions of the rows of a part: own keys, or what a step brought. Returns the number of rows. */
static int64_t part_positions(world *w, int rank, int part)
{
    int64_t n = 0;
    if (part == 0) {
        for (; n < w->keys->rows[rank]; n++) w->position[n] = lh_layout_position(w->keys, rank, n);
        return n;
    }
    const lh_runs *runs = &w->plan[rank]->exchange->step[part - 1].positions;
    for (int64_t r = 0; r < runs->count; r++)
        for (int64_t i = 0; i < runs->run[r].count && n < w->keys->n; i++)
            w->position[n++] = runs->run[r].start + i * runs->run[r].stride;
    return n;
}

static void mark_tile(world *w, int rank, const lh_tile *t, int64_t first_row)
{
    const uint64_t *bits = w->plan[rank]->bits;
    for (int64_t i = 0; i < t->nq; i++) {
        int64_t q = lh_layout_position(w->queries, rank, t->q_row + i * t->q_stride);
        for (int64_t j = 0; j < t->nk; j++) {
            int64_t bit = t->bits + i * t->nk + j;
            if (j - i < t->lo || j - i > t->hi) continue;
            if (t->bits >= 0 && !(bits[bit / 64] >> (bit % 64) & 1)) continue;
            int64_t k = w->position[t->k_row - first_row + j * t->k_stride];
            w->covered[q * w->keys->n + k]++;
        }
    }
}

/* Is [row, row + count) of the rank within one chunk of positions? */
static bool in_one_chunk(const lh_layout *l, int rank, int64_t row, int64_t count)
{
    int64_t chunk = lh_layout_position(l, rank, row) / l->chunk;
    for (int64_t i = 1; i < count; i++)
        if (lh_layout_position(l, rank, row + i) / l->chunk != chunk) return false;
    return true;
}

static const char *check_part(world *w, int rank, int part)
{
    const lh_plan *p = w->plan[rank];
    const lh_exchange *x = p->exchange;
    int64_t rows = part_positions(w, rank, part);
    int64_t first_row = part > 0 && x->keep ? x->step[part - 1].offset : 0;
    int64_t q_row = 0;
    if (part > 0) EXPECT(rows == x->step[part - 1].recv_rows);
    if (part > 0) EXPECT(first_row + rows <= p->block_rows);
    for (int64_t i = p->first[part]; i < p->first[part + 1]; i++) {
        const lh_tile *t = &p->tile[i];
        EXPECT(t->nq >= 1 && t->nq <= LH_TILE_Q && t->nk >= 1 && t->q_stride == 1);
        EXPECT(t->q_row >= q_row && t->q_row + t->nq <= w->queries->rows[rank]); /* in order */
        EXPECT(t->k_row >= first_row && t->k_row + (t->nk - 1) * t->k_stride < first_row + rows);
        EXPECT(in_one_chunk(w->queries, rank, t->q_row, t->nq));
        /* the kernel cuts a band's keys from where the tile begins: so that is a chunk edge, or all
         * is in one chunk */
        if (w->exact && t->k_step == 1 && t->k_position % w->keys->chunk != 0)
            EXPECT(t->k_position / w->keys->chunk == (t->k_position + t->nk - 1) / w->keys->chunk);
        for (int64_t j = 0; j < t->nk; j++)
            EXPECT(t->k_position + j * t->k_step ==
                   w->position[t->k_row - first_row + j * t->k_stride]);
        q_row = t->q_row;
        mark_tile(w, rank, t, first_row);
    }
    return NULL;
}

static const char *check_tiles(world *w)
{
    const char *bad = NULL;
    for (int r = 0; r < w->keys->ranks; r++) {
        const lh_plan *p = w->plan[r];
        EXPECT(p->first[0] == 0 && p->first[p->exchange->n_steps + 1] == p->n_tiles);
        EXPECT(p->scores == (double)w->scores[r]);
        EXPECT(p->block_rows ==
               (p->exchange->keep ? p->exchange->total_recv : p->exchange->max_recv));
        for (int part = 0; part <= p->exchange->n_steps && bad == NULL; part++)
            bad = check_part(w, r, part);
    }
    if (bad != NULL) return bad;
    size_t all = (size_t)(w->queries->n * w->keys->n);
    bool visible_once_and_nothing_else = all == 0 || memcmp(w->covered, w->visible, all) == 0;
    EXPECT(visible_once_and_nothing_else);
    return NULL;
}

/* --- exchanges --- */

static const lh_exchange_step *step_from(const lh_exchange *x, int from)
{
    for (int i = 0; i < x->n_steps; i++)
        if (x->step[i].from == from) return &x->step[i];
    return NULL;
}

/* What `rank` sends in a step is what the other one expects, row by row; marks what travels in
 * covered. */
static const char *check_step(world *w, int rank, const lh_exchange_step *s)
{
    const lh_exchange_step *other = step_from(w->plan[s->to]->exchange, rank);
    EXPECT(s->to != rank && s->from != rank);
    if (s->send_rows == 0)
        return other == NULL || other->recv_rows == 0 ? NULL : "waits for nothing";
    EXPECT(other != NULL && other->recv_rows == s->send_rows);
    int64_t run = 0;
    int64_t at = 0;
    int64_t rows = 0;
    for (int64_t i = 0; i < s->n_send; i++) {
        for (int64_t k = 0; k < s->send[i].count; k++, rows++) {
            int64_t row = s->send[i].row + k * s->send[i].stride;
            EXPECT(row >= 0 && row < w->keys->rows[rank] && run < other->positions.count);
            int64_t j = lh_layout_position(w->keys, rank, row);
            const lh_run *want = &other->positions.run[run];
            EXPECT(j == want->start + at * want->stride);
            if (w->exact) EXPECT(w->needed[s->to * w->keys->n + j]);
            w->needed[s->to * w->keys->n + j] = 2; /* has travelled */
            if (++at == want->count) {
                run++;
                at = 0;
            }
        }
    }
    EXPECT(rows == s->send_rows && run == other->positions.count);
    return NULL;
}

static const char *check_totals(const lh_exchange *x)
{
    int64_t send = 0;
    int64_t recv = 0;
    int64_t max_send = 0;
    int64_t max_recv = 0;
    int distance = 0;
    for (int i = 0; i < x->n_steps; i++) {
        const lh_exchange_step *s = &x->step[i];
        EXPECT(s->offset == recv && s->send_rows + s->recv_rows > 0);
        EXPECT((s->to - x->rank + x->ranks) % x->ranks > distance); /* ring order */
        distance = (s->to - x->rank + x->ranks) % x->ranks;
        EXPECT((x->rank - s->from + x->ranks) % x->ranks == distance);
        send += s->send_rows;
        recv += s->recv_rows;
        if (s->send_rows > max_send) max_send = s->send_rows;
        if (s->recv_rows > max_recv) max_recv = s->recv_rows;
    }
    EXPECT(x->total_send == send && x->total_recv == recv);
    EXPECT(x->max_send == max_send && x->max_recv == max_recv);
    return NULL;
}

static bool is_far(const lh_pattern *p)
{
    int64_t lo = 0;
    int64_t hi = 0;
    return lh_pattern_is_band(p, &lo, &hi) && (lo <= -LH_FAR || hi >= LH_FAR);
}

static const char *check_exchanges(world *w)
{
    const char *bad = NULL;
    int64_t n = w->keys->n;
    bool keep = !is_far(w->pattern);
    for (int r = 0; r < w->keys->ranks && bad == NULL; r++) {
        const lh_exchange *x = w->plan[r]->exchange;
        EXPECT(x->rank == r && x->ranks == w->keys->ranks);
        if (w->exact) EXPECT(x->total_send == w->sent[r] && x->total_recv == w->received[r]);
        keep = keep && x->total_recv <= w->keys->max_rows;
        bad = check_totals(x);
        for (int i = 0; i < x->n_steps && bad == NULL; i++) bad = check_step(w, r, &x->step[i]);
    }
    for (int r = 0; r < w->keys->ranks && bad == NULL; r++) {
        EXPECT(w->plan[r]->exchange->keep == keep);
        for (int64_t j = 0; j < n; j++)
            EXPECT(w->needed[r * n + j] != 1 || w->owner[j] == r); /* who needs it got it */
    }
    return bad;
}

/* --- bytes by formula --- */

static const char *check_predicted(const world *w, const char *mechanism, bool causal,
                                   int64_t window)
{
    const lh_attn_ops *ops = lh_attn_find(mechanism);
    lh_attn_desc d = {.width = HEADS * WIDTH,
                      .heads = HEADS,
                      .kv_heads = KV_HEADS,
                      .head_width = WIDTH,
                      .causal = causal,
                      .batch = BATCH,
                      .length = w->keys->n,
                      .layout = w->keys,
                      .settings = &window};
    int64_t row = 2 * BATCH * KV_HEADS * WIDTH * (int64_t)lh_dtype_bytes(LH_REAL);
    int64_t all_sent = 0;
    int64_t all_received = 0;
    for (int r = 0; r < w->keys->ranks; r++) {
        const lh_exchange *x = w->plan[r]->exchange;
        lh_cost c;
        if (ops->predict(&d, w->keys->ranks, r, &c) != LH_OK) return lh_error_text();
        int64_t again = x->keep ? 0 : row * w->sent[r];
        EXPECT(c.forward_bytes == row * w->sent[r] && c.forward_bytes == row * x->total_send);
        EXPECT(c.backward_bytes == row * w->received[r] + again);
        EXPECT(c.summary_bytes == 0);
        EXPECT(c.kept_bytes == (x->keep ? row * x->total_recv : 0));
        EXPECT(c.forward_flops == 4.0 * BATCH * HEADS * WIDTH * (double)w->scores[r]);
        EXPECT(c.backward_flops == 2.5 * c.forward_flops);
        all_sent += w->sent[r];
        all_received += w->received[r];
    }
    EXPECT(all_sent == all_received);
    return NULL;
}

/* --- the cases --- */

static uint8_t *visible_of(const lh_pattern *p, int64_t queries, int64_t keys)
{
    uint8_t *visible = NULL;
    lh_assert_ok(lh_new((size_t)(queries * keys), &visible));
    for (int64_t i = 0; i < queries; i++)
        for (int64_t j = 0; j < keys; j++) visible[i * keys + j] = lh_pattern_sees(p, i, j);
    return visible;
}

static void report(const world *w, const char *bad)
{
    char key[256] = "";
    if (lh_pattern_key(w->pattern, key, sizeof key) != LH_OK) key[0] = 0;
    fail_msg("pattern %s, %lld queries (%s), %lld keys (%s), chunk %lld, %d ranks: %s", key,
             (long long)w->queries->n, w->queries->name, (long long)w->keys->n, w->keys->name,
             (long long)w->keys->chunk, w->keys->ranks, bad);
}

/* mechanism: NULL, or whose formula must agree. */
static void check_world(world *w, const char *mechanism, bool causal, int64_t window)
{
    lh_assert_ok(world_open(w));
    world_truth(w);
    const char *bad = check_tiles(w);
    if (bad == NULL) bad = check_exchanges(w);
    if (bad == NULL && mechanism != NULL) bad = check_predicted(w, mechanism, causal, window);
    if (bad != NULL) report(w, bad);
    world_close(w);
}

static const int64_t chunks[] = {1, 7, 16, 512};
static const int rank_counts[] = {1, 2, 3, 4, 5, 7};
enum { CHUNKS = 4, RANK_COUNTS = 6, FULL = -1 };

static void check_band(int64_t n, int64_t window, bool causal)
{
    int64_t far = window == FULL ? LH_FAR : window;
    lh_pattern p = lh_pattern_band(-far, causal ? 0 : far);
    uint8_t *visible = visible_of(&p, n, n);
    for (int c = 0; c < CHUNKS; c++) {
        for (int r = 0; r < RANK_COUNTS; r++) {
            for (int kind = LH_TEST_ALIGNED; kind <= LH_TEST_UNEVEN; kind++) {
                lh_layout *l = NULL;
                lh_assert_ok(
                    lh_test_layout((lh_test_layout_kind)kind, n, rank_counts[r], chunks[c], &l));
                world w = {
                    .pattern = &p, .queries = l, .keys = l, .exact = true, .visible = visible};
                check_world(&w, window == FULL ? "full" : "sliding_window", causal, window);
                lh_layout_destroy(&l);
            }
        }
    }
    lh_free(&visible);
}

static void bands_of(int64_t n)
{
    static const int64_t windows[] = {0, 1, 5, 40, 200, 5000, FULL};
    for (size_t i = 0; i < sizeof windows / sizeof windows[0]; i++) {
        check_band(n, windows[i], true);
        check_band(n, windows[i], false);
    }
}

static void bands_short(void **state)
{
    (void)state;
    bands_of(1);
    bands_of(3);
    bands_of(10);
    bands_of(101);
}

static void bands_long(void **state)
{
    (void)state;
    bands_of(1009);
}

/* Every kind of pattern on every pair of layouts, queries and keys of different lengths too. */
static void check_pairs(const lh_pattern *p, int64_t queries, int64_t keys, int ranks,
                        int64_t chunk)
{
    uint8_t *visible = visible_of(p, queries, keys);
    int64_t lo = 0;
    int64_t hi = 0;
    bool band = lh_pattern_is_band(p, &lo, &hi);
    for (int a = 0; a < LH_TEST_LAYOUTS; a++) {
        for (int b = 0; b < LH_TEST_LAYOUTS; b++) {
            lh_layout *q = NULL;
            lh_layout *k = NULL;
            lh_assert_ok(lh_test_layout((lh_test_layout_kind)a, queries, ranks, chunk, &q));
            lh_assert_ok(lh_test_layout((lh_test_layout_kind)b, keys, ranks, chunk, &k));
            world w = {.pattern = p,
                       .queries = q,
                       .keys = k,
                       .exact = band && a != LH_TEST_CYCLIC,
                       .visible = visible};
            check_world(&w, NULL, false, 0);
            lh_layout_destroy(&q);
            lh_layout_destroy(&k);
        }
    }
    lh_free(&visible);
}

static void any_pattern_and_layout(void **state)
{
    (void)state;
    lh_pattern band = lh_pattern_band(-9, 2);
    lh_pattern same = lh_test_same(3);
    lh_pattern columns = lh_test_columns(4);
    const lh_pattern patterns[] = {lh_pattern_band(-LH_FAR, 0),
                                   lh_pattern_band(-LH_FAR, LH_FAR),
                                   lh_pattern_band(3, 20),
                                   band,
                                   same,
                                   columns,
                                   lh_test_blocks(8),
                                   lh_pattern_or(&band, &columns),
                                   lh_pattern_and(&band, &same)};
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++) {
        for (int r = 0; r < RANK_COUNTS; r++) {
            check_pairs(&patterns[i], 101, 101, rank_counts[r], 16);
            check_pairs(&patterns[i], 40, 61, rank_counts[r], 7);
            check_pairs(&patterns[i], 5, 2, rank_counts[r], 1);
            check_pairs(&patterns[i], 30, 0, rank_counts[r], 4);
        }
    }
}

/* A pattern of many keys per query, which is no band: more than one bit tile along the keys, and
 * FULL ones. */
static void bits_of_long_rows(void **state)
{
    (void)state;
    lh_pattern same = lh_test_same(5);
    lh_pattern blocks = lh_test_blocks(200);
    check_pairs(&same, 400, 700, 3, 512);
    check_pairs(&blocks, 700, 400, 2, 64);
}

static void different_ranks_are_refused(void **state)
{
    (void)state;
    lh_pattern p = lh_pattern_band(-1, 0);
    lh_layout *a = NULL;
    lh_layout *b = NULL;
    lh_plan *plan = NULL;
    lh_assert_ok(lh_layout_contiguous(10, 2, 4, true, &a));
    lh_assert_ok(lh_layout_contiguous(10, 3, 4, true, &b));
    lh_assert_code(lh_plan_create(&p, a, b, 0, &plan), LH_ERR_BUG);
    assert_null(plan);
    lh_layout_destroy(&a);
    lh_layout_destroy(&b);
}

/* Every allocation failed in turn: the error, no plan, and (address sanitizer) no leak. */
static void memory_runs_out(void **state)
{
    (void)state;
    lh_pattern band = lh_pattern_band(-9, 2);
    lh_pattern columns = lh_test_columns(4);
    lh_pattern any = lh_pattern_or(&band, &columns);
    lh_layout *l = NULL;
    lh_plan *plan = NULL;
    int64_t failures = 0;
    lh_assert_ok(lh_layout_contiguous(50, 3, 4, true, &l));
    for (int64_t n = 1; plan == NULL; n++) {
        lh_new_fail_at(n);
        lh_status st = lh_plan_create(&any, l, l, 1, &plan);
        lh_new_fail_at(0);
        if (plan != NULL) break;
        lh_assert_code(st, LH_ERR_MEMORY);
        failures = n;
    }
    assert_true(failures > 5);
    lh_plan_destroy(&plan);
    lh_layout_destroy(&l);
}

/* --- the cache --- */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bands_short),
        cmocka_unit_test(bands_long),
        cmocka_unit_test(any_pattern_and_layout),
        cmocka_unit_test(bits_of_long_rows),
        cmocka_unit_test(different_ranks_are_refused),
        cmocka_unit_test(memory_runs_out),
        cmocka_unit_test(cache_keeps_what_is_used),
        cmocka_unit_test(cache_drops_the_least_recently_used),
        cmocka_unit_test(cache_survives_failures),
    };
    return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}
