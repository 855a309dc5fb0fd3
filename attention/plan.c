#include "attention/plan.h"
#include "core/integer.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { PLAN_KEY = 512, PLAN_TILE_K = 128 };

typedef struct plan_make {
    const lh_pattern *pattern;
    const lh_layout *queries, *keys;
    lh_plan *plan;
    int64_t tiles_capacity, bits_capacity, n_bits; /* words; bits used */
} plan_make;

/* A stretch of keys with consecutive rows and evenly spaced positions. */
typedef struct plan_keys {
    int64_t row, count, position, stride;
} plan_keys;

static int32_t plan_clamp(int64_t x)
{
    return (int32_t)lhi_max(-LH_TILE_FAR, lhi_min(LH_TILE_FAR, x));
}

static lh_status plan_add(plan_make *m, lh_tile tile)
{
    lh_plan *p = m->plan;
    lh_status st = lh_grow(&p->tile, &m->tiles_capacity, p->n_tiles + 1, sizeof *p->tile);
    if (st == LH_OK) p->tile[p->n_tiles++] = tile;
    return st;
}

/* Visible scores of a band tile: |{(i, j): lo <= j - i <= hi}|. */
static double plan_band_scores(const lh_tile *t)
{
    double n = 0.0;
    for (int64_t i = 0; i < t->nq; i++) {
        int64_t begin = lhi_max(0, i + t->lo);
        int64_t end = lhi_min(t->nk, i + t->hi + 1);
        if (end > begin) n += (double)(end - begin);
    }
    return n;
}

/* A band over one stretch: at most two tiles, cut at the first chunk edge. */
static lh_status plan_band(plan_make *m, const lh_piece *q, const plan_keys *k, int64_t lo,
                           int64_t hi)
{
    lh_status st = LH_OK;
    int64_t begin = lhi_max(k->position, q->position + lo);
    int64_t end = lhi_min(k->position + k->count, q->position + q->count + hi);
    int64_t chunk = m->keys->chunk;
    while (begin < end) {
        int64_t edge = (begin / chunk + 1) * chunk;
        int64_t stop = begin % chunk != 0 && edge < end ? edge : end;
        int64_t shift = q->position - begin; /* j - i of positions = (j - i of rows) - shift */
        lh_tile t = {.q_row = (int32_t)q->row,
                     .nq = (int32_t)q->count,
                     .q_stride = 1,
                     .k_row = (int32_t)(k->row + begin - k->position),
                     .nk = (int32_t)(stop - begin),
                     .k_stride = 1,
                     .lo = plan_clamp(lo + shift),
                     .hi = plan_clamp(hi + shift),
                     .bits = -1,
                     .k_position = begin,
                     .k_step = 1};
        m->plan->scores += plan_band_scores(&t);
        LH_TRY(plan_add(m, t));
        begin = stop;
    }
done:
    return st;
}

/* One tile of a pattern that is no band: FULL, or one bit per score. */
static lh_status plan_bits(plan_make *m, const lh_piece *q, const plan_keys *k)
{
    lh_status st = LH_OK;
    lh_range qr = {q->position, q->position + (q->count - 1) * q->stride + 1};
    lh_range kr = {k->position, k->position + (k->count - 1) * k->stride + 1};
    lh_cover cover = lh_pattern_cover(m->pattern, qr, kr);
    lh_tile t = {.q_row = (int32_t)q->row,
                 .nq = (int32_t)q->count,
                 .q_stride = 1,
                 .k_row = (int32_t)k->row,
                 .nk = (int32_t)k->count,
                 .k_stride = 1,
                 .lo = -LH_TILE_FAR,
                 .hi = LH_TILE_FAR,
                 .bits = -1,
                 .k_position = k->position,
                 .k_step = k->stride};
    if (cover == LH_EMPTY) return LH_OK;
    if (cover == LH_MIXED) {
        int64_t words = (m->n_bits + q->count * k->count + 63) / 64;
        int64_t seen = 0;
        LH_TRY(lh_grow(&m->plan->bits, &m->bits_capacity, words, sizeof *m->plan->bits));
        t.bits = m->n_bits;
        for (int64_t i = 0; i < q->count; i++) {
            for (int64_t j = 0; j < k->count; j++, m->n_bits++) {
                if (!lh_pattern_sees(m->pattern, q->position + i * q->stride,
                                     k->position + j * k->stride))
                    continue;
                m->plan->bits[m->n_bits / 64] |= (uint64_t)1 << (m->n_bits % 64);
                seen++;
            }
        }
        m->plan->scores += (double)seen;
        if (seen == 0) return LH_OK;
    } else {
        m->plan->scores += (double)(q->count * k->count);
    }
    LH_TRY(plan_add(m, t));
done:
    return st;
}

static lh_status plan_stretch(plan_make *m, const lh_piece *q, const plan_keys *k)
{
    lh_status st = LH_OK;
    int64_t lo = 0;
    int64_t hi = 0;
    if (q->stride == 1 && k->stride == 1 && lh_pattern_is_band(m->pattern, &lo, &hi))
        return plan_band(m, q, k, lo, hi);
    for (int64_t j = 0; j < k->count;) {
        plan_keys part = {k->row + j, lhi_min(PLAN_TILE_K, k->count - j),
                          k->position + j * k->stride, k->stride};
        int64_t edge = m->keys->chunk - part.position % m->keys->chunk; /* positions to it */
        part.count = lhi_min(part.count, (edge + k->stride - 1) / k->stride);
        LH_TRY(plan_bits(m, q, &part));
        j += part.count;
    }
done:
    return st;
}

/* A block of keys: runs of positions in row order, from row `row` on. */
typedef struct plan_runs {
    const lh_run *run;
    int64_t count, row;
} plan_runs;

/* Tiles of one query block against a block of keys. */
static lh_status plan_query(plan_make *m, const lh_piece *q, const plan_runs *keys)
{
    lh_status st = LH_OK;
    int64_t at = keys->row;
    for (int64_t r = 0; r < keys->count; r++) {
        plan_keys k = {at, keys->run[r].count, keys->run[r].start, keys->run[r].stride};
        LH_TRY(plan_stretch(m, q, &k));
        at += k.count;
    }
done:
    return st;
}

/* Tiles of all query blocks of a rank against a block of keys. */
static lh_status plan_block(plan_make *m, int rank, const plan_runs *keys)
{
    lh_status st = LH_OK;
    lh_piece piece;
    for (lh_pieces it = lh_pieces_of(m->queries, rank); lh_piece_next(&it, &piece);) {
        for (int64_t i = 0; i < piece.count; i += LH_TILE_Q) {
            lh_piece q = {piece.row + i, lhi_min(LH_TILE_Q, piece.count - i),
                          piece.position + i * piece.stride, piece.stride};
            LH_TRY(plan_query(m, &q, keys));
        }
    }
done:
    return st;
}

/* What the queries of a rank may see: the needs of the exchange. */
static lh_status plan_needs(const void *user, int rank, lh_runs *out)
{
    lh_status st = LH_OK;
    const plan_make *m = user;
    lh_runs all = {0};
    int64_t count = 0;
    const lh_run *run = lh_layout_runs(m->queries, rank, &count);
    for (int64_t i = 0; i < count; i++) {
        lh_range q = {run[i].start, run[i].start + (run[i].count - 1) * run[i].stride + 1};
        if (run[i].count > 0) LH_TRY(lh_pattern_needs(m->pattern, q, m->keys->n, &all));
    }
    LH_TRY(lh_runs_normalise(&all));
    for (int64_t i = 0; i < all.count; i++)
        LH_TRY(lh_runs_add(out, all.run[i].start, all.run[i].count, all.run[i].stride));
done:
    lh_runs_free(&all);
    return st;
}

static lh_status plan_tiles(plan_make *m, int rank)
{
    lh_status st = LH_OK;
    lh_plan *p = m->plan;
    lh_exchange *x = p->exchange;
    int64_t count = 0;
    const lh_run *own = lh_layout_runs(m->keys, rank, &count);
    LH_TRY(lh_new((size_t)(x->n_steps + 2) * sizeof *p->first, &p->first));
    LH_TRY(plan_block(m, rank, &(plan_runs){own, count, 0}));
    p->first[1] = p->n_tiles;
    for (int i = 0; i < x->n_steps; i++) {
        const lh_exchange_step *s = &x->step[i];
        plan_runs keys = {s->positions.run, s->positions.count, x->keep ? s->offset : 0};
        LH_TRY(plan_block(m, rank, &keys));
        p->first[i + 2] = p->n_tiles;
    }
done:
    return st;
}

lh_status lh_plan_create(const lh_pattern *pattern, const lh_layout *queries, const lh_layout *keys,
                         int rank, lh_plan **out)
{
    lh_status st = LH_OK;
    plan_make m = {.pattern = pattern, .queries = queries, .keys = keys};
    int64_t lo = 0;
    int64_t hi = 0;
    bool far = lh_pattern_is_band(pattern, &lo, &hi) && (lo <= -LH_FAR || hi >= LH_FAR);
    lh_needs needs = {plan_needs, &m, far};
    *out = NULL;
    LH_CHECK(queries->ranks == keys->ranks, LH_ERR_BUG, "queries on %d ranks, keys on %d",
             queries->ranks, keys->ranks);
    LH_CHECK(queries->max_rows < INT32_MAX && keys->n < INT32_MAX, LH_ERR_UNSUP,
             "a sequence of %lld positions: at most 2^31 - 2", (long long)keys->n);
    LH_TRY(lh_new(sizeof *m.plan, &m.plan));
    LH_TRY(lh_exchange_create(keys, rank, &needs, &m.plan->exchange));
    m.plan->block_rows =
        m.plan->exchange->keep ? m.plan->exchange->total_recv : m.plan->exchange->max_recv;
    LH_TRY(plan_tiles(&m, rank));
    *out = m.plan;
    m.plan = NULL;
done:
    lh_plan_destroy(&m.plan);
    return st;
}

void lh_plan_destroy(lh_plan **plan)
{
    if (*plan == NULL) return;
    lh_exchange_destroy(&(*plan)->exchange);
    lh_free(&(*plan)->tile);
    lh_free(&(*plan)->first);
    lh_free(&(*plan)->bits);
    lh_free(plan);
}

/* --- cache --- */

typedef struct cache_entry {
    char key[PLAN_KEY];
    lh_plan *plan;
    int64_t used; /* step of the last use */
} cache_entry;

struct lh_plan_cache {
    cache_entry *entry;
    int64_t count, capacity, step;
};

lh_status lh_plan_cache_create(lh_plan_cache **out)
{
    return lh_new(sizeof **out, out);
}

void lh_plan_cache_destroy(lh_plan_cache **cache)
{
    if (*cache == NULL) return;
    for (int64_t i = 0; i < (*cache)->count; i++) lh_plan_destroy(&(*cache)->entry[i].plan);
    lh_free(&(*cache)->entry);
    lh_free(cache);
}

void lh_plan_cache_step(lh_plan_cache *cache)
{
    cache->step++;
}

/* A free entry, or the least recently used one that no running step has borrowed. */
static lh_status cache_slot(lh_plan_cache *cache, cache_entry **out)
{
    int64_t oldest = -1;
    for (int64_t i = 0; cache->count >= LH_PLAN_CACHE && i < cache->count; i++) {
        if (cache->entry[i].used >= cache->step - 1) continue;
        if (oldest < 0 || cache->entry[i].used < cache->entry[oldest].used) oldest = i;
    }
    if (oldest >= 0) {
        lh_plan_destroy(&cache->entry[oldest].plan);
        *out = &cache->entry[oldest];
        return LH_OK;
    }
    lh_status st = lh_grow(&cache->entry, &cache->capacity, cache->count + 1, sizeof *cache->entry);
    if (st == LH_OK) *out = &cache->entry[cache->count++];
    return st;
}

lh_status lh_plan_get(lh_plan_cache *cache, const lh_pattern *pattern, const lh_layout *queries,
                      const lh_layout *keys, int rank, const lh_plan **out)
{
    lh_status st = LH_OK;
    char key[PLAN_KEY] = "";
    cache_entry *entry = NULL;
    lh_plan *plan = NULL;
    *out = NULL;
    (void)snprintf(key, sizeof key, "%d %" PRIx64 " %" PRIx64 " ", rank, queries->hash, keys->hash);
    LH_TRY(lh_pattern_key(pattern, key, sizeof key));
    for (int64_t i = 0; i < cache->count && entry == NULL; i++)
        if (strcmp(cache->entry[i].key, key) == 0) entry = &cache->entry[i];
    if (entry == NULL) {
        LH_TRY(lh_plan_create(pattern, queries, keys, rank, &plan));
        LH_TRY(cache_slot(cache, &entry));
        entry->plan = plan;
        plan = NULL;
        memcpy(entry->key, key, sizeof key);
    }
    entry->used = cache->step;
    *out = entry->plan;
done:
    lh_plan_destroy(&plan);
    return st;
}
