#pragma once
/* Plans: pattern x query layout x key layout x rank -> the exchange and the tiles of each of its
 * steps.
 *
 * A plan is local and pure: made without messages, for any rank of any number of ranks, and cached
 * by its key. Query blocks are cut at chunk edges, stretches of keys at their first one (patterns
 * that are no band: at every one). Queries and keys that are spaced alike make band tiles under a
 * band or a comb, one for each residue class (q_stride and k_stride are then the comb's step);
 * everything else makes FULL tiles and tiles of bits, over the keys that the query block needs.
 * Tiles of one part ascend by q_row, and those of a query block are neighbours.
 *
 * Where keys or queries lie everywhere nothing travels (an exchange of no steps that keeps nothing):
 * all tiles are of part 0, this rank's queries against this rank's keys; partial results of queries
 * that lie everywhere are the caller's to merge.
 *
 * The blocks of a query are still merged in ring order, so outputs on different numbers of ranks
 * are equal to rounding, not bit by bit. */
#include "attention/pattern.h"
#include "parallel/exchange.h"

typedef struct lh_plan {
    lh_exchange *exchange;
    lh_tile *tile;
    int64_t n_tiles;
    /* [n_steps + 2]: tiles first[0] .. first[1] - 1 are of own keys; first[i + 1] .. first[i + 2] -
     * 1 of step i */
    int64_t *first;
    uint64_t *bits; /* one bit per score, for tiles that are no band */
    /* Distances (query position - key position) that the tiles of each part span, for score terms:
     * part p's table has the rows of runs distance[first_distance[p]] .. distance[first_distance[p +
     * 1] - 1] in order, distance_rows[p] in all; tiles' r_row and r_step point into it. Parts: own
     * keys, then each step. A run's stride is that of its tiles' positions (1, a comb's step, ...).
     * A part between two stretches of a and b rows has less than a + b rows; under a band of w
     * distances at most w + 2 LH_TILE_Q. */
    lh_run *distance;
    int64_t *first_distance; /* [n_steps + 2] */
    int64_t *distance_rows;  /* [n_steps + 1] */
    int64_t max_distance_rows;
    /* rows of the block that holds received keys: all of them if kept, else the largest step */
    int64_t block_rows;
    int64_t most_keys;    /* in the tiles of a query block, of one part */
    double scores;        /* visible scores of this rank's queries, of one head and sequence */
    int64_t query_blocks; /* blocks that this rank's queries are cut into */
    int64_t faced_keys;   /* that they could see: all, or, where queries lie everywhere, own ones */
} lh_plan;

/* lh_plan_create - Local, pure. The caller destroys *out. Errors: LH_ERR_MEMORY, LH_ERR_UNSUP. */
LH_NODISCARD lh_status lh_plan_create(const lh_pattern *pattern, const lh_layout *queries,
                                      const lh_layout *keys, int rank, lh_plan **out);
/* lh_plan_destroy - release it and null the handle. Local. */
void lh_plan_destroy(lh_plan **plan);

/* lh_plan_tiles - the blocks of LH_TILE_Q queries by LH_TILE_K keys of one head and sequence: mixed
 * and full ones are those of the tiles; empty: for each block of queries, the blocks that the keys
 * would make which its tiles leave out, rounded up. Local. O(tiles + rows). Errors: LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_plan_tiles(const lh_plan *plan, lh_tile_count *out);

/* The cache of a model: least recently used, LH_PLAN_CACHE entries, more only while one step needs
 * them. */
enum { LH_PLAN_CACHE = 64 };
typedef struct lh_plan_cache lh_plan_cache;
/* lh_plan_cache_create, lh_plan_cache_destroy - an empty cache; the caller destroys it. Local. */
LH_NODISCARD lh_status lh_plan_cache_create(lh_plan_cache **out);
void lh_plan_cache_destroy(lh_plan_cache **cache);

/* lh_plan_cache_step - a new step begins: what the last one borrowed may now be dropped. Local. */
void lh_plan_cache_step(lh_plan_cache *cache);

/* lh_plan_get - the plan, made if it is not there; borrowed until the step after the next
 * lh_plan_cache_step. Local. */
LH_NODISCARD lh_status lh_plan_get(lh_plan_cache *cache, const lh_pattern *pattern,
                                   const lh_layout *queries, const lh_layout *keys, int rank,
                                   const lh_plan **out);
