#include "attention/plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { PLAN_KEY = 512 };

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

/* What a plan follows from: the exact text of the pattern, or, where that is too long, its digest. */
static lh_status cache_key(const lh_pattern *pattern, const lh_layout *queries,
                           const lh_layout *keys, int rank, char key[PLAN_KEY])
{
    uint64_t digest[2];
    int n = snprintf(key, PLAN_KEY, "%d %" PRIx64 " %" PRIx64 " ", rank, queries->hash, keys->hash);
    if (lh_pattern_digest(pattern, digest) < (size_t)(PLAN_KEY - n))
        return lh_pattern_key(pattern, key, PLAN_KEY);
    (void)snprintf(key + n, (size_t)(PLAN_KEY - n), "#%016" PRIx64 "%016" PRIx64, digest[0],
                   digest[1]);
    return LH_OK;
}

lh_status lh_plan_get(lh_plan_cache *cache, const lh_pattern *pattern, const lh_layout *queries,
                      const lh_layout *keys, int rank, const lh_plan **out)
{
    lh_status st = LH_OK;
    char key[PLAN_KEY] = "";
    cache_entry *entry = NULL;
    lh_plan *plan = NULL;
    *out = NULL;
    LH_TRY(cache_key(pattern, queries, keys, rank, key));
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
