#include "attention/plan.h"
#include "core/integer.h"

#include <stdlib.h>

enum { PLAN_TILE_K = 128 };

/* Distances of one stride: start, start + stride, ...; first table row of them once merged. */
typedef struct plan_span {
    int64_t start, count, stride, row;
} plan_span;

typedef struct plan_make {
    const lh_pattern *pattern;
    const lh_layout *queries, *keys;
    bool comb; /* then lo, hi, step, cut down to what the lengths allow */
    int64_t lo, hi, step;
    lh_plan *plan;
    int64_t tiles_capacity, bits_capacity, n_bits; /* words; bits used */
    lh_runs needs;                                 /* of one query block */
    plan_span *span;                               /* of the part that is being made */
    int64_t n_spans, spans_capacity, distances_capacity;
    int64_t query_blocks; /* of the part that is being made: the same in each */
} plan_make;

/* Evenly spaced rows with evenly spaced positions: a query block, or a stretch of keys. */
typedef struct plan_list {
    int64_t row, row_step, count, position, stride;
} plan_list;

/* Elements from, from + every, ...: count of them. */
static plan_list plan_part(const plan_list *l, int64_t from, int64_t every, int64_t count)
{
    return (plan_list){l->row + from * l->row_step, l->row_step * every, count,
                       l->position + from * l->stride, l->stride * every};
}

static int32_t plan_clamp(int64_t x)
{
    return (int32_t)lhi_max(-LH_TILE_FAR, lhi_min(LH_TILE_FAR, x));
}

/* --- distances --- */

static int64_t span_residue(const plan_span *s)
{
    return s->start - lhi_floor_div(s->start, s->stride) * s->stride;
}

/* By stride, residue class, start. */
static int span_compare(const void *a, const void *b)
{
    const plan_span *x = a;
    const plan_span *y = b;
    int64_t p = span_residue(x);
    int64_t q = span_residue(y);
    if (x->stride != y->stride) return x->stride < y->stride ? -1 : 1;
    if (p != q) return p < q ? -1 : 1;
    return (x->start > y->start) - (x->start < y->start);
}

/* Puts b into a where they touch; false: they do not. */
static bool span_merge(plan_span *a, const plan_span *b)
{
    if (a->stride != b->stride || (b->start - a->start) % a->stride != 0) return false;
    int64_t begin = lhi_min(a->start, b->start);
    int64_t end = lhi_max(a->start + a->count * a->stride, b->start + b->count * b->stride);
    int64_t count = (end - begin) / a->stride;
    if (count > a->count + b->count) return false;
    a->start = begin;
    a->count = count;
    return true;
}

/* Notes what a tile spans, and in the tile what plan_distances needs to know of it: the distance of
 * score (0, 0) and the stride. */
static lh_status plan_spans(plan_make *m, const plan_list *q, const plan_list *k, lh_tile *t)
{
    lh_status st = LH_OK;
    int64_t stride = q->count > 1 ? q->stride : k->stride;
    t->r_row = q->position - k->position;
    t->r_step = stride;
    plan_span s = {t->r_row - (k->count - 1) * stride, q->count + k->count - 1, stride, 0};
    if (m->n_spans > 0 && span_merge(&m->span[m->n_spans - 1], &s)) return LH_OK;
    LH_TRY(lh_grow(&m->span, &m->spans_capacity, m->n_spans + 1, sizeof s));
    m->span[m->n_spans++] = s;
done:
    return st;
}

static void plan_merge_spans(plan_make *m)
{
    int64_t kept = 0;
    int64_t row = 0;
    if (m->n_spans > 1) qsort(m->span, (size_t)m->n_spans, sizeof *m->span, span_compare);
    for (int64_t i = 0; i < m->n_spans; i++)
        if (kept == 0 || !span_merge(&m->span[kept - 1], &m->span[i])) m->span[kept++] = m->span[i];
    m->n_spans = kept;
    for (int64_t i = 0; i < kept; i++) {
        m->span[i].row = row;
        row += m->span[i].count;
    }
}

/* The last merged span that does not come after the distance. */
static const plan_span *plan_find_span(const plan_make *m, const plan_span *distance)
{
    int64_t low = 0;
    int64_t high = m->n_spans;
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (span_compare(&m->span[middle], distance) <= 0)
            low = middle;
        else
            high = middle;
    }
    return &m->span[low];
}

/* The table of a part, and where its tiles from `tile` on find their rows. */
static lh_status plan_distances(plan_make *m, int part, int64_t tile)
{
    lh_status st = LH_OK;
    lh_plan *p = m->plan;
    int64_t at = p->first_distance[part];
    plan_merge_spans(m);
    LH_TRY(lh_grow(&p->distance, &m->distances_capacity, at + m->n_spans, sizeof *p->distance));
    for (int64_t i = 0; i < m->n_spans; i++) {
        p->distance[at + i] = (lh_run){m->span[i].start, m->span[i].count, m->span[i].stride};
        p->distance_rows[part] += m->span[i].count;
    }
    for (; tile < p->n_tiles; tile++) {
        lh_tile *t = &p->tile[tile];
        const plan_span *s = plan_find_span(m, &(plan_span){t->r_row, 1, t->r_step, 0});
        t->r_row = s->row + (t->r_row - s->start) / s->stride;
        t->r_step = 1;
    }
    p->first_distance[part + 1] = at + m->n_spans;
    p->max_distance_rows = lhi_max(p->max_distance_rows, p->distance_rows[part]);
    m->n_spans = 0;
done:
    return st;
}

/* --- tiles --- */

static lh_tile plan_tile(const plan_list *q, const plan_list *k)
{
    return (lh_tile){.q_row = (int32_t)q->row,
                     .nq = (int32_t)q->count,
                     .q_stride = (int32_t)(q->count > 1 ? q->row_step : 1),
                     .k_row = (int32_t)k->row,
                     .nk = (int32_t)k->count,
                     .k_stride = (int32_t)(k->count > 1 ? k->row_step : 1),
                     .lo = -LH_TILE_FAR,
                     .hi = LH_TILE_FAR,
                     .bits = -1,
                     .k_position = k->position,
                     .k_step = k->stride};
}

static lh_status plan_add(plan_make *m, const plan_list *q, const plan_list *k, lh_tile tile)
{
    lh_plan *p = m->plan;
    lh_status st = LH_OK;
    LH_TRY(plan_spans(m, q, k, &tile));
    LH_TRY(lh_grow(&p->tile, &m->tiles_capacity, p->n_tiles + 1, sizeof *p->tile));
    p->tile[p->n_tiles++] = tile;
done:
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

/* Queries and keys of one residue class, with the same stride: a band. At most two tiles, cut at
 * the class's first key in a new chunk. */
static lh_status plan_band(plan_make *m, const plan_list *q, const plan_list *k)
{
    lh_status st = LH_OK;
    int64_t steps = k->stride / m->step;
    int64_t shift = (k->position - q->position) / m->step;
    int64_t lo = lhi_ceil_div(m->lo - shift, steps); /* of j - i */
    int64_t hi = lhi_floor_div(m->hi - shift, steps);
    int64_t begin = lhi_max(0, lo);
    int64_t end = lhi_min(k->count, q->count + hi);
    int64_t chunk = m->keys->chunk;
    while (lo <= hi && begin < end) {
        int64_t position = k->position + begin * k->stride;
        int64_t edge = position / chunk + 1; /* in chunks */
        bool first = position < k->stride || (position - k->stride) / chunk < position / chunk;
        int64_t next = lhi_ceil_div(edge * chunk - k->position, k->stride);
        int64_t stop = first ? end : lhi_min(end, next);
        plan_list part = plan_part(k, begin, 1, stop - begin);
        lh_tile t = plan_tile(q, &part);
        t.lo = plan_clamp(lo - begin);
        t.hi = plan_clamp(hi - begin);
        m->plan->scores += plan_band_scores(&t);
        LH_TRY(plan_add(m, q, &part, t));
        begin = stop;
    }
done:
    return st;
}

/* Marks the visible scores of a tile, one bit each; *seen: how many. */
static lh_status plan_mark(plan_make *m, const plan_list *q, const plan_list *k, int64_t *seen)
{
    lh_status st = LH_OK;
    int64_t words = (m->n_bits + q->count * k->count + 63) / 64;
    *seen = 0;
    LH_TRY(lh_grow(&m->plan->bits, &m->bits_capacity, words, sizeof *m->plan->bits));
    for (int64_t i = 0; i < q->count; i++) {
        for (int64_t j = 0; j < k->count; j++, m->n_bits++) {
            if (!lh_pattern_sees(m->pattern, q->position + i * q->stride,
                                 k->position + j * k->stride))
                continue;
            m->plan->bits[m->n_bits / 64] |= (uint64_t)1 << (m->n_bits % 64);
            ++*seen;
        }
    }
done:
    return st;
}

/* One tile of a pattern that is no band here: FULL, or one bit per score. */
static lh_status plan_bits(plan_make *m, const plan_list *q, const plan_list *k)
{
    lh_status st = LH_OK;
    lh_range qr = {q->position, q->position + (q->count - 1) * q->stride + 1};
    lh_range kr = {k->position, k->position + (k->count - 1) * k->stride + 1};
    lh_cover cover = lh_pattern_cover(m->pattern, qr, kr);
    lh_tile t = plan_tile(q, k);
    int64_t seen = q->count * k->count;
    if (cover == LH_EMPTY) return LH_OK;
    if (cover == LH_MIXED) {
        t.bits = m->n_bits;
        LH_TRY(plan_mark(m, q, k, &seen));
        if (seen == 0) { /* no bit was set: the place is free again */
            m->n_bits = t.bits;
            return LH_OK;
        }
    }
    m->plan->scores += (double)seen;
    LH_TRY(plan_add(m, q, k, t));
done:
    return st;
}

/* Keys of one stretch and one needed run, cut at chunk edges. Where queries and keys are spaced
 * differently, key by key: the distances of a tile must be evenly spaced. */
static lh_status plan_run_bits(plan_make *m, const plan_list *q, const plan_list *k)
{
    lh_status st = LH_OK;
    int64_t chunk = m->keys->chunk;
    for (int64_t j = 0; j < k->count;) {
        int64_t position = k->position + j * k->stride;
        int64_t room = chunk - position % chunk; /* positions to the edge */
        int64_t count = lhi_min(k->count - j, lhi_ceil_div(room, k->stride));
        count = lhi_min(count, PLAN_TILE_K);
        if (q->count > 1 && q->stride != k->stride) count = 1;
        plan_list part = plan_part(k, j, 1, count);
        LH_TRY(plan_bits(m, q, &part));
        j += count;
    }
done:
    return st;
}

/* What the pattern lets the query block see of a stretch of keys: only the block's needs are looked
 * at. */
static lh_status plan_stretch_bits(plan_make *m, const plan_list *q, const plan_list *k)
{
    lh_status st = LH_OK;
    int64_t low = 0;
    int64_t high = m->needs.count;
    while (low < high) { /* the first run that ends behind the stretch's begin */
        int64_t middle = low + (high - low) / 2;
        if (m->needs.run[middle].start + m->needs.run[middle].count <= k->position)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < m->needs.count; low++) {
        const lh_run *r = &m->needs.run[low];
        int64_t begin = lhi_max(0, lhi_ceil_div(r->start - k->position, k->stride));
        int64_t end = lhi_min(k->count, lhi_ceil_div(r->start + r->count - k->position, k->stride));
        if (begin >= k->count) break;
        plan_list part = plan_part(k, begin, 1, end - begin);
        if (begin < end) LH_TRY(plan_run_bits(m, q, &part));
    }
done:
    return st;
}

/* How many residue classes of the comb positions of this stride fall into: elements so far apart are
 * again whole steps apart. */
static int64_t plan_classes(const plan_make *m, int64_t stride)
{
    return m->step / lhi_gcd(m->step, stride);
}

/* The keys of a stretch that lie whole steps from the query block, spaced as it is. Returns false
 * where they are spaced otherwise. */
static bool plan_comb_keys(const plan_make *m, const plan_list *q, const plan_list *k,
                           plan_list *out)
{
    int64_t every = k->count > 1 ? plan_classes(m, k->stride) : 1;
    int64_t from = 0;
    if (q->count > 1 && k->count > 1 && q->stride != k->stride * every) return false;
    while (from < every && (k->position + from * k->stride - q->position) % m->step != 0) from++;
    bool none = from == every || from >= k->count;
    *out = plan_part(k, from, every, none ? 0 : (k->count - from - 1) / every + 1);
    if (k->count == 1) out->stride = q->count > 1 ? q->stride : m->step;
    return true;
}

/* A block of keys: runs of positions in row order, from row `row` on. */
typedef struct plan_runs {
    const lh_run *run;
    int64_t count, row;
} plan_runs;

/* Tiles of one query block against a block of keys. */
static lh_status plan_query(plan_make *m, const plan_list *q, const plan_runs *keys)
{
    lh_status st = LH_OK;
    int64_t at = keys->row;
    bool needed = false;
    for (int64_t r = 0; r < keys->count; r++) {
        plan_list k = {at, 1, keys->run[r].count, keys->run[r].start, keys->run[r].stride};
        plan_list mates = {0};
        at += k.count;
        if (m->comb && plan_comb_keys(m, q, &k, &mates)) {
            LH_TRY(plan_band(m, q, &mates));
            continue;
        }
        if (!needed) {
            lh_range all = {q->position, q->position + (q->count - 1) * q->stride + 1};
            lh_runs_clear(&m->needs);
            LH_TRY(lh_pattern_needs(m->pattern, all, m->keys->n, &m->needs));
            LH_TRY(lh_runs_normalise(&m->needs));
            needed = true;
        }
        LH_TRY(plan_stretch_bits(m, q, &k));
    }
done:
    return st;
}

/* Tiles of one piece of the queries: blocks in row order, within a block the residue classes. */
static lh_status plan_piece(plan_make *m, const lh_piece *piece, const plan_runs *keys)
{
    lh_status st = LH_OK;
    plan_list all = {piece->row, 1, piece->count, piece->position, piece->stride};
    int64_t classes = m->comb ? plan_classes(m, piece->stride) : 1;
    for (int64_t i = 0; i < piece->count; i += LH_TILE_Q * classes) {
        int64_t count = lhi_min(LH_TILE_Q * classes, piece->count - i);
        for (int64_t c = 0; c < lhi_min(classes, count); c++) {
            m->query_blocks++;
            plan_list q = plan_part(&all, i + c, classes, (count - c - 1) / classes + 1);
            LH_TRY(plan_query(m, &q, keys));
        }
    }
done:
    return st;
}

/* Tiles of all query blocks of a rank against a block of keys, which is part `part`. */
static lh_status plan_block(plan_make *m, int rank, int part, const plan_runs *keys)
{
    lh_status st = LH_OK;
    lh_piece piece;
    m->query_blocks = 0;
    for (lh_pieces it = lh_pieces_of(m->queries, rank); lh_piece_next(&it, &piece);)
        LH_TRY(plan_piece(m, &piece, keys));
    LH_TRY(plan_distances(m, part, m->plan->first[part]));
    m->plan->first[part + 1] = m->plan->n_tiles;
done:
    return st;
}

/* --- the plan --- */

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

/* Rows travel unless one side lies everywhere: then a rank's queries meet the keys that it has. */
static lh_status plan_exchange(plan_make *m, int rank)
{
    lh_status st = LH_OK;
    lh_plan *p = m->plan;
    int64_t lo = 0;
    int64_t hi = 0;
    int64_t step = 0;
    bool comb = lh_pattern_is_comb(m->pattern, &lo, &hi, &step);
    lh_needs needs = {plan_needs, m, comb && (lo <= -LH_FAR || hi >= LH_FAR)};
    if (m->keys->everywhere || m->queries->everywhere) {
        LH_TRY(lh_new(sizeof *p->exchange, &p->exchange));
        p->exchange->rank = rank;
        p->exchange->ranks = m->keys->ranks;
    } else {
        LH_TRY(lh_exchange_create(m->keys, rank, &needs, &p->exchange));
    }
    p->block_rows = p->exchange->keep ? p->exchange->total_recv : p->exchange->max_recv;
done:
    return st;
}

/* Tiles of a query block are neighbours. */
static int64_t plan_most_keys(const lh_plan *p, size_t parts)
{
    int64_t most = 0;
    for (size_t part = 0; part < parts; part++) {
        int64_t seen = 0;
        for (int64_t i = p->first[part]; i < p->first[part + 1]; i++) {
            const bool begins = i == p->first[part] || p->tile[i].q_row != p->tile[i - 1].q_row;
            seen = p->tile[i].nk + (begins ? 0 : seen);
            most = lhi_max(most, seen);
        }
    }
    return most;
}

static lh_status plan_tiles(plan_make *m, int rank)
{
    lh_status st = LH_OK;
    lh_plan *p = m->plan;
    lh_exchange *x = p->exchange;
    size_t parts = (size_t)x->n_steps + 1;
    int64_t count = 0;
    const lh_run *own = lh_layout_runs(m->keys, rank, &count);
    LH_TRY(lh_new((parts + 1) * sizeof *p->first, &p->first));
    LH_TRY(lh_new((parts + 1) * sizeof *p->first_distance, &p->first_distance));
    LH_TRY(lh_new(parts * sizeof *p->distance_rows, &p->distance_rows));
    LH_TRY(plan_block(m, rank, 0, &(plan_runs){own, count, 0}));
    for (int i = 0; i < x->n_steps; i++) {
        const lh_exchange_step *s = &x->step[i];
        plan_runs keys = {s->positions.run, s->positions.count, x->keep ? s->offset : 0};
        LH_TRY(plan_block(m, rank, i + 1, &keys));
    }
    p->most_keys = plan_most_keys(p, parts);
done:
    return st;
}

lh_status lh_plan_create(const lh_pattern *pattern, const lh_layout *queries, const lh_layout *keys,
                         int rank, lh_plan **out)
{
    lh_status st = LH_OK;
    plan_make m = {.pattern = pattern, .queries = queries, .keys = keys, .step = 1};
    *out = NULL;
    LH_CHECK(queries->ranks == keys->ranks, LH_ERR_BUG, "queries on %d ranks, keys on %d",
             queries->ranks, keys->ranks);
    LH_CHECK(queries->n < INT32_MAX && keys->n < INT32_MAX, LH_ERR_UNSUP,
             "a sequence of %lld positions: at most 2^31 - 2",
             (long long)lhi_max(queries->n, keys->n));
    m.comb = lh_pattern_is_comb(pattern, &m.lo, &m.hi, &m.step);
    /* no distance is longer: so nothing below overflows, and sees does not change */
    int64_t longest = lhi_max(queries->n, keys->n) + 1;
    m.lo = lhi_max(m.lo, -longest);
    m.hi = lhi_min(m.hi, longest);
    m.step = lhi_min(m.step, longest);
    LH_TRY(lh_new(sizeof *m.plan, &m.plan));
    LH_TRY(plan_exchange(&m, rank));
    LH_TRY(plan_tiles(&m, rank));
    m.plan->query_blocks = m.query_blocks;
    m.plan->faced_keys = queries->everywhere ? keys->rows[rank] : keys->n;
    *out = m.plan;
    m.plan = NULL;
done:
    lh_plan_destroy(&m.plan);
    lh_runs_free(&m.needs);
    lh_free(&m.span);
    return st;
}

void lh_plan_destroy(lh_plan **plan)
{
    if (*plan == NULL) return;
    lh_exchange_destroy(&(*plan)->exchange);
    lh_free(&(*plan)->tile);
    lh_free(&(*plan)->first);
    lh_free(&(*plan)->bits);
    lh_free(&(*plan)->distance);
    lh_free(&(*plan)->first_distance);
    lh_free(&(*plan)->distance_rows);
    lh_free(plan);
}
