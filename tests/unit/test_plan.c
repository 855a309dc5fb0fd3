/* Plans of all ranks, made in one process: their tiles and their exchanges against the pattern
 * itself, by brute force, and the bytes of the mechanisms' formulas against both. */
#include "attention/attention.h"
#include "attention/band_cost.h"
#include "attention/window_settings.h"
#include "tests/lh_test.h"
#include "tests/lh_test_scenes.h"

#include <stdio.h>
#include <string.h>

enum { MAX_RANKS = 8, BATCH = 2, HEADS = 4, KV_HEADS = 2, WIDTH = 8 };

/* What a plan is made of, and what it must do. */
typedef struct world {
    const lh_pattern *pattern;
    const lh_layout *queries, *keys;
    bool
        exact; /* the exchange brings nothing that nobody sees: needs are exact, queries in stretches */
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
                if (!w->queries->everywhere || w->owner[j] == r) w->scores[r] += row[j];
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

/* Marks what the tile computes, and the rows of the table of distances that it uses. */
static const char *mark_tile(world *w, int rank, int part, const lh_tile *t, uint8_t *used)
{
    const lh_plan *p = w->plan[rank];
    const lh_exchange *x = p->exchange;
    int64_t first_row = part > 0 && x->keep ? x->step[part - 1].offset : 0;
    for (int64_t i = 0; i < t->nq; i++) {
        int64_t q = lh_layout_position(w->queries, rank, t->q_row + i * t->q_stride);
        for (int64_t j = 0; j < t->nk; j++) {
            int64_t bit = t->bits + i * t->nk + j;
            int64_t k = w->position[t->k_row - first_row + j * t->k_stride];
            int64_t row = t->r_row + (i - j) * t->r_step;
            EXPECT(row >= 0 && row < p->distance_rows[part]);
            used[row] = 1;
            int64_t run = p->first_distance[part];
            for (; row >= p->distance[run].count; run++) row -= p->distance[run].count;
            EXPECT(run < p->first_distance[part + 1]);
            EXPECT(p->distance[run].start + row * p->distance[run].stride == q - k);
            if (j - i < t->lo || j - i > t->hi) continue;
            if (t->bits >= 0 && !(p->bits[bit / 64] >> (bit % 64) & 1)) continue;
            w->covered[q * w->keys->n + k]++;
        }
    }
    return NULL;
}

/* Are the queries of the tile within one chunk of positions? */
static bool in_one_chunk(const lh_layout *l, int rank, const lh_tile *t)
{
    int64_t chunk = lh_layout_position(l, rank, t->q_row) / l->chunk;
    for (int64_t i = 1; i < t->nq; i++)
        if (lh_layout_position(l, rank, t->q_row + i * t->q_stride) / l->chunk != chunk)
            return false;
    return true;
}

/* The kernel cuts a tile's keys from where it begins: so that is its class's first key in a chunk,
 * or all is in one chunk. */
static bool keys_cut_at_edge(const lh_tile *t, int64_t chunk)
{
    int64_t first = t->k_position / chunk;
    return t->k_position < t->k_step || (t->k_position - t->k_step) / chunk < first ||
           (t->k_position + (t->nk - 1) * t->k_step) / chunk == first;
}

static const char *check_tile(world *w, int rank, int part, int64_t i, int64_t rows)
{
    const lh_plan *p = w->plan[rank];
    const lh_exchange *x = p->exchange;
    const lh_tile *t = &p->tile[i];
    int64_t first_row = part > 0 && x->keep ? x->step[part - 1].offset : 0;
    EXPECT(t->nq >= 1 && t->nq <= LH_TILE_Q && t->nk >= 1 && t->q_stride >= 1 && t->k_stride >= 1);
    EXPECT(t->q_row >= 0 && t->q_row + (t->nq - 1) * t->q_stride < w->queries->rows[rank]);
    EXPECT(t->k_row >= first_row && t->k_row + (t->nk - 1) * t->k_stride < first_row + rows);
    EXPECT(in_one_chunk(w->queries, rank, t) && keys_cut_at_edge(t, w->keys->chunk));
    if (i > p->first[part]) { /* in order, tiles of the same queries side by side */
        EXPECT(t->q_row >= t[-1].q_row);
        if (t->q_row == t[-1].q_row) EXPECT(t->nq == t[-1].nq && t->q_stride == t[-1].q_stride);
    }
    for (int64_t j = 0; j < t->nk; j++)
        EXPECT(t->k_position + j * t->k_step ==
               w->position[t->k_row - first_row + j * t->k_stride]);
    return NULL;
}

static const char *check_part(world *w, int rank, int part, uint8_t *used)
{
    const lh_plan *p = w->plan[rank];
    const lh_exchange *x = p->exchange;
    const char *bad = NULL;
    int64_t rows = part_positions(w, rank, part);
    if (part > 0) EXPECT(rows == x->step[part - 1].recv_rows);
    if (part > 0) EXPECT((x->keep ? x->step[part - 1].offset : 0) + rows <= p->block_rows);
    for (int64_t i = p->first[part]; i < p->first[part + 1] && bad == NULL; i++) {
        bad = check_tile(w, rank, part, i, rows);
        if (bad == NULL) bad = mark_tile(w, rank, part, &p->tile[i], used);
    }
    if (bad != NULL) return bad;
    for (int64_t i = 0; i < p->distance_rows[part]; i++) EXPECT(used[i] == 1);
    return NULL;
}

/* Tables of distances: as many rows as their runs, all of them used, none beyond the largest. */
static const char *check_parts(world *w, int rank)
{
    const lh_plan *p = w->plan[rank];
    const char *bad = NULL;
    int64_t most = 0;
    EXPECT(p->first_distance[0] == 0);
    for (int part = 0; part <= p->exchange->n_steps && bad == NULL; part++) {
        int64_t rows = 0;
        uint8_t *used = NULL;
        for (int64_t i = p->first_distance[part]; i < p->first_distance[part + 1]; i++)
            rows += p->distance[i].count;
        EXPECT(rows == p->distance_rows[part]);
        if (rows > most) most = rows;
        if (lh_new((size_t)rows, &used) != LH_OK) return "no memory";
        bad = check_part(w, rank, part, used);
        lh_free(&used);
    }
    if (bad == NULL) EXPECT(most == p->max_distance_rows);
    return bad;
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
        bad = check_parts(w, r);
        if (bad != NULL) return bad;
    }
    size_t all = (size_t)(w->queries->n * w->keys->n);
    bool visible_once_and_nothing_else = all == 0 || memcmp(w->covered, w->visible, all) == 0;
    EXPECT(visible_once_and_nothing_else);
    return NULL;
}

/* --- counts of tiles --- */

/* How many scores of keys j0 .. j1 - 1 of a tile are visible. */
static int64_t block_visible(const world *w, int rank, const lh_tile *t, int64_t j0, int64_t j1)
{
    int64_t n = 0;
    for (int64_t i = 0; i < t->nq; i++) {
        int64_t q = lh_layout_position(w->queries, rank, t->q_row + i * t->q_stride);
        const uint8_t *row = w->visible + q * w->keys->n + t->k_position;
        for (int64_t j = j0; j < j1; j++) n += row[j * t->k_step];
    }
    return n;
}

/* The blocks of a tile, pair by pair; a block of a band always has something to see. */
static const char *count_tile(const world *w, int rank, const lh_tile *t, lh_tile_count *n)
{
    for (int64_t j = 0; j < t->nk; j += LH_TILE_K) {
        int64_t end = j + LH_TILE_K < t->nk ? j + LH_TILE_K : t->nk;
        int64_t seen = block_visible(w, rank, t, j, end);
        bool full = seen == t->nq * (end - j) && t->bits < 0;
        if (t->bits < 0) EXPECT(seen > 0);
        n->full += full;
        n->mixed += !full;
    }
    return NULL;
}

/* The row with which the query block of row `row` begins: blocks are cut from pieces, LH_TILE_Q
 * queries of a residue class each. */
static int64_t block_leader(const world *w, int rank, int64_t row)
{
    int64_t lo = 0;
    int64_t hi = 0;
    int64_t step = 1;
    lh_piece p = {0};
    (void)lh_pattern_is_comb(w->pattern, &lo, &hi, &step);
    if (step > w->keys->n + 1) step = w->keys->n + 1;
    for (lh_pieces it = lh_pieces_of(w->queries, rank); lh_piece_next(&it, &p);)
        if (row < p.row + p.count) break;
    int64_t classes = 1; /* the fewest elements that are whole steps apart */
    while (classes * p.stride % step != 0) classes++;
    int64_t within = row - p.row;
    return p.row + within / (LH_TILE_Q * classes) * (LH_TILE_Q * classes) + within % classes;
}

static const char *check_counts(world *w)
{
    const char *bad = NULL;
    /* every rank where they are few */
    for (int r = 0; r < w->keys->ranks && bad == NULL; r += w->keys->ranks > 4 ? 3 : 1) {
        const lh_plan *p = w->plan[r];
        int64_t rows = w->queries->rows[r];
        int64_t faced = w->queries->everywhere ? w->keys->rows[r] : w->keys->n;
        lh_tile_count want = {0};
        lh_tile_count got = {0};
        int64_t *met = NULL; /* keys in the tiles of each row */
        if (lh_new((size_t)rows * sizeof *met, &met) != LH_OK) return "no memory";
        for (int64_t i = 0; i < p->n_tiles && bad == NULL; i++) {
            const lh_tile *t = &p->tile[i];
            bad = count_tile(w, r, t, &want);
            for (int64_t k = 0; k < t->nq; k++) met[t->q_row + k * t->q_stride] += t->nk;
        }
        for (int64_t i = 0; i < rows && bad == NULL; i++) {
            int64_t leader = block_leader(w, r, i);
            if (leader == i) want.empty += (faced - met[i] + LH_TILE_K - 1) / LH_TILE_K;
            if (met[leader] != met[i]) bad = "rows of a query block meet different keys";
        }
        lh_free(&met);
        if (bad != NULL) return bad;
        if (lh_plan_tiles(p, &got) != LH_OK) return lh_error_text();
        EXPECT(got.full == want.full && got.mixed == want.mixed && got.empty == want.empty);
    }
    return bad;
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
    int64_t step = 0;
    return lh_pattern_is_comb(p, &lo, &hi, &step) && (lo <= -LH_FAR || hi >= LH_FAR);
}

static const char *check_exchanges(world *w)
{
    const char *bad = NULL;
    int64_t n = w->keys->n;
    bool keep = !is_far(w->pattern);
    bool stays = w->keys->everywhere || w->queries->everywhere;
    for (int r = 0; r < w->keys->ranks && stays; r++) { /* nothing travels, nothing is kept */
        const lh_exchange *x = w->plan[r]->exchange;
        EXPECT(x->n_steps == 0 && !x->keep && x->total_recv == 0 && x->max_send == 0);
        EXPECT(x->rank == r && x->ranks == w->keys->ranks);
    }
    if (stays) return NULL;
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
    const lh_window_settings settings = lh_window_plain(window);
    lh_attn_desc d = {.width = HEADS * WIDTH,
                      .heads = HEADS,
                      .kv_heads = KV_HEADS,
                      .head_width = WIDTH,
                      .causal = causal,
                      .batch = BATCH,
                      .length = w->keys->n,
                      .layout = w->keys,
                      .settings = &settings};
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

/* A group of heads of its own, predicted twice into the same cost: it adds. */
static const char *check_comb_cost(const world *w, int64_t lo, int64_t hi, int64_t step)
{
    lh_attn_desc d = {.heads = HEADS,
                      .kv_heads = KV_HEADS,
                      .head_width = WIDTH,
                      .batch = BATCH,
                      .length = w->keys->n,
                      .layout = w->keys};
    lh_band band = {lo, hi, step, 1, 3.0};
    int64_t row = 2 * BATCH * WIDTH * (int64_t)lh_dtype_bytes(LH_REAL);
    for (int r = 0; r < w->keys->ranks; r++) {
        const lh_exchange *x = w->plan[r]->exchange;
        lh_cost c = {0};
        if (lh_comb_cost(&d, &band, w->keys->ranks, r, &c) != LH_OK) return lh_error_text();
        int64_t again = x->keep ? 0 : row * x->total_send;
        EXPECT(c.forward_bytes == row * x->total_send && x->total_send == w->sent[r]);
        EXPECT(c.backward_bytes == row * x->total_recv + again && x->total_recv == w->received[r]);
        EXPECT(c.kept_bytes == (x->keep ? row * x->total_recv : 0));
        EXPECT(c.forward_flops == 4.0 * BATCH * 3.0 * WIDTH * (double)w->scores[r]);
        EXPECT(c.backward_flops == 2.5 * c.forward_flops && w->plan[r]->scores == w->scores[r]);
        lh_cost once = c;
        if (lh_comb_cost(&d, &band, w->keys->ranks, r, &c) != LH_OK) return lh_error_text();
        EXPECT(c.forward_bytes == 2 * once.forward_bytes && c.summary_bytes == 0);
        EXPECT(c.backward_bytes == 2 * once.backward_bytes && c.kept_bytes == 2 * once.kept_bytes);
        EXPECT(c.forward_flops == 2 * once.forward_flops);
    }
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
    if (bad == NULL) bad = check_counts(w);
    if (bad == NULL) bad = check_exchanges(w);
    if (bad == NULL && mechanism != NULL) bad = check_predicted(w, mechanism, causal, window);
    int64_t lo = 0;
    int64_t hi = 0;
    int64_t step = 0;
    if (bad == NULL && w->exact && w->queries == w->keys &&
        lh_pattern_is_comb(w->pattern, &lo, &hi, &step))
        bad = check_comb_cost(w, lo, hi, step);
    if (bad != NULL) report(w, bad);
    world_close(w);
}

static const int64_t chunks[] = {1, 7, 16, 512};
static const int rank_counts[] = {1, 2, 3, 4, 5, 7};
enum { CHUNKS = 4, RANK_COUNTS = 6, FULL = -1 };

static void check_self(const lh_pattern *p, int64_t n, const char *mechanism, bool causal,
                       int64_t window)
{
    uint8_t *visible = visible_of(p, n, n);
    for (int c = 0; c < CHUNKS; c++) {
        for (int r = 0; r < RANK_COUNTS; r++) {
            for (int kind = LH_TEST_ALIGNED; kind <= LH_TEST_ZIGZAG; kind++) {
                lh_layout *l = NULL;
                lh_assert_ok(
                    lh_test_layout((lh_test_layout_kind)kind, n, rank_counts[r], chunks[c], &l));
                world w = {
                    .pattern = p, .queries = l, .keys = l, .exact = true, .visible = visible};
                check_world(&w, mechanism, causal, window);
                lh_layout_destroy(&l);
            }
        }
    }
    lh_free(&visible);
}

static void check_band(int64_t n, int64_t window, bool causal)
{
    int64_t far = window == FULL ? LH_FAR : window;
    lh_pattern p = lh_pattern_band(-far, causal ? 0 : far);
    check_self(&p, n, window == FULL ? "full" : "sliding_window", causal, window);
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
    bands_of(601);
}

/* Dilated bands, also with steps longer than a shard and than the sequence. */
static void combs_of(int64_t n)
{
    static const int64_t combs[][3] = {{-4, 0, 2},      {-3, 3, 3},      {-LH_FAR, 0, 4},
                                       {-20, 20, 5},    {1, 2, 7},       {-LH_FAR, LH_FAR, 3},
                                       {-2, 1, 40},     {0, LH_FAR, 25}, {-1, 1, 5000},
                                       {-9, 9, LH_FAR}, {3, 2, 2},       {-60, -50, 2}};
    for (size_t i = 0; i < sizeof combs / sizeof combs[0]; i++) {
        lh_pattern p = lh_pattern_dilated(combs[i][0], combs[i][1], combs[i][2]);
        check_self(&p, n, NULL, false, 0);
    }
}

static void combs(void **state)
{
    (void)state;
    combs_of(1);
    combs_of(10);
    combs_of(101);
    combs_of(307);
}

typedef enum exactness { ROUGH, EXACT } exactness;

static void make_layout(int kind, int64_t n, int ranks, int64_t chunk, lh_layout **out)
{
    if (kind == LH_TEST_LAYOUTS)
        lh_assert_ok(lh_layout_everywhere(n, ranks, chunk, out));
    else
        lh_assert_ok(lh_test_layout((lh_test_layout_kind)kind, n, ranks, chunk, out));
}

/* A pattern on every pair of layouts, queries and keys of different lengths too; the last kind of
 * layout lies everywhere. */
static void check_pairs(const lh_pattern *p, exactness needs, int64_t queries, int64_t keys,
                        int ranks, int64_t chunk)
{
    uint8_t *visible = visible_of(p, queries, keys);
    for (int a = 0; a <= LH_TEST_LAYOUTS; a++) {
        for (int b = 0; b <= LH_TEST_LAYOUTS; b++) {
            if (a == LH_TEST_LAYOUTS && b == LH_TEST_LAYOUTS) continue;
            lh_layout *q = NULL;
            lh_layout *k = NULL;
            make_layout(a, queries, ranks, chunk, &q);
            make_layout(b, keys, ranks, chunk, &k);
            world w = {.pattern = p,
                       .queries = q,
                       .keys = k,
                       .exact = needs == EXACT && a != LH_TEST_CYCLIC,
                       .visible = visible};
            check_world(&w, NULL, false, 0);
            lh_layout_destroy(&q);
            lh_layout_destroy(&k);
        }
    }
    lh_free(&visible);
}

static void check_lengths(const lh_pattern *p, exactness needs)
{
    for (int r = 0; r < RANK_COUNTS; r++) {
        check_pairs(p, needs, 101, 101, rank_counts[r], 16);
        check_pairs(p, needs, 40, 61, rank_counts[r], 7);
        check_pairs(p, needs, 5, 2, rank_counts[r], 1);
        check_pairs(p, needs, 30, 0, rank_counts[r], 4);
    }
}

static void any_pattern_and_layout(void **state)
{
    (void)state;
    lh_pattern band = lh_pattern_band(-9, 2);
    lh_pattern same = lh_test_same(3);
    lh_pattern columns = lh_test_columns(4);
    const lh_pattern exact[] = {lh_pattern_band(-LH_FAR, 0),
                                lh_pattern_band(-LH_FAR, LH_FAR),
                                lh_pattern_band(3, 20),
                                band,
                                columns,
                                lh_test_blocks(8),
                                lh_pattern_or(&band, &columns)};
    for (size_t i = 0; i < sizeof exact / sizeof exact[0]; i++) check_lengths(&exact[i], EXACT);
    lh_pattern both = lh_pattern_and(&band, &same);
    check_lengths(&same, ROUGH);
    check_lengths(&both, ROUGH);
}

static void combs_on_any_layout(void **state)
{
    (void)state;
    static const int64_t combs[][3] = {{-3, 0, 2}, {-2, 4, 3}, {-LH_FAR, LH_FAR, 4}, {-1, 1, 30}};
    for (size_t i = 0; i < sizeof combs / sizeof combs[0]; i++) {
        lh_pattern p = lh_pattern_dilated(combs[i][0], combs[i][1], combs[i][2]);
        check_lengths(&p, EXACT);
    }
}

static void lists_on_any_layout(void **state)
{
    (void)state;
    static const int64_t position[] = {0, 1, 17, 39, 40, 60, 100};
    static const int64_t begin[] = {0, 1, 5, 33, 34, 90};
    lh_pattern causal = lh_pattern_band(-LH_FAR, 0);
    lh_pattern comb = lh_pattern_dilated(-3, 3, 4);
    lh_pattern columns = lh_pattern_columns(position, 7);
    lh_pattern rows = lh_pattern_rows(position, 7);
    lh_pattern documents = lh_pattern_documents(begin, 6);
    lh_pattern global = lh_pattern_or(&columns, &rows);
    lh_pattern comb_or_columns = lh_pattern_or(&comb, &columns);
    lh_pattern longformer = lh_pattern_or(&comb, &global);
    lh_pattern causal_documents = lh_pattern_and(&causal, &documents);
    lh_pattern causal_longformer = lh_pattern_and(&longformer, &causal_documents);
    check_lengths(&columns, EXACT);
    check_lengths(&rows, EXACT);
    check_lengths(&documents, EXACT);
    check_lengths(&comb_or_columns, EXACT);
    check_lengths(&longformer, EXACT);
    check_lengths(&causal_documents, EXACT);
    check_lengths(&causal_longformer, ROUGH);
}

/* A pattern of many keys per query, which is no band: more than one bit tile along the keys, and
 * FULL ones. */
static void bits_of_long_rows(void **state)
{
    (void)state;
    lh_pattern same = lh_test_same(5);
    lh_pattern blocks = lh_test_blocks(200);
    check_pairs(&same, ROUGH, 400, 700, 3, 512);
    check_pairs(&blocks, EXACT, 700, 400, 2, 64);
}

/* --- how much is computed, and how large the tables of distances are --- */

typedef struct sizes {
    double area;  /* scores of all tiles, visible or not */
    int64_t bits; /* tiles of bits */
    int64_t tiles, rows;
} sizes;

static sizes sizes_of(const lh_pattern *p, const lh_layout *l, int rank)
{
    lh_plan *plan = NULL;
    sizes s = {0};
    lh_assert_ok(lh_plan_create(p, l, l, rank, &plan));
    for (int64_t i = 0; i < plan->n_tiles; i++) {
        s.area += (double)plan->tile[i].nq * plan->tile[i].nk;
        s.bits += plan->tile[i].bits >= 0;
    }
    s.tiles = plan->n_tiles;
    s.rows = plan->max_distance_rows;
    lh_plan_destroy(&plan);
    return s;
}

static void work_follows_the_pattern(void **state)
{
    (void)state;
    enum { N = 8192, RANKS = 4, W = 64 };
    static const int64_t position[] = {0, 5000};
    lh_layout *l = NULL;
    lh_assert_ok(lh_layout_contiguous(N, RANKS, 512, true, &l));
    for (int64_t step = 1; step <= 8; step *= 2) { /* keys of a block: its own, and W before it */
        lh_pattern comb = lh_pattern_dilated(-W, 0, step);
        sizes s = sizes_of(&comb, l, 2);
        assert_int_equal(s.bits, 0);
        assert_true(s.area <= (double)N / RANKS * (LH_TILE_Q + W));
        assert_true(s.rows <= 1 + W + 2 * LH_TILE_Q);
    }
    lh_pattern band = lh_pattern_band(-W, 0);
    lh_pattern columns = lh_pattern_columns(position, 2);
    lh_pattern any = lh_pattern_or(&band, &columns);
    sizes s = sizes_of(&any, l, 3);
    assert_true(s.area <= (double)N / RANKS * (LH_TILE_Q + W + 2));
    lh_pattern causal = lh_pattern_band(-LH_FAR, 0);
    assert_true(sizes_of(&causal, l, 3).rows < 2 * N / RANKS);
    lh_layout_destroy(&l);
    lh_assert_ok(lh_layout_zigzag(N, RANKS, 512, true, &l));
    assert_true(sizes_of(&causal, l, 3).rows < 3 * N / RANKS);
    lh_layout_destroy(&l);
}

/* Causal attention on zigzag: equal work, and three quarters of the full ring's bytes: everybody's
 * early block and the late blocks of the ranks after. */
static void zigzag_is_balanced(void **state)
{
    (void)state;
    enum { N = 4096, CHUNK = 64 };
    lh_pattern causal = lh_pattern_band(-LH_FAR, 0);
    lh_attn_desc d = {.heads = 1, .kv_heads = 1, .head_width = 1, .batch = 1, .length = N};
    lh_band band = {-LH_FAR, 0, 1, 1, 1.0};
    for (int ranks = 2; ranks <= MAX_RANKS; ranks *= 2) {
        lh_layout *l = NULL;
        int64_t sent = 0;
        int64_t bytes = 0;
        double all = (double)N * (N + 1) / 2;
        lh_assert_ok(lh_layout_zigzag(N, ranks, CHUNK, true, &l));
        d.layout = l;
        for (int r = 0; r < ranks; r++) {
            lh_plan *p = NULL;
            lh_cost c = {0};
            lh_assert_ok(lh_plan_create(&causal, l, l, r, &p));
            lh_assert_ok(lh_comb_cost(&d, &band, ranks, r, &c));
            assert_true(p->scores > 0.95 * all / ranks && p->scores < 1.05 * all / ranks);
            assert_true(c.forward_flops == 4.0 * p->scores);
            sent += p->exchange->total_send;
            bytes += c.forward_bytes;
            lh_plan_destroy(&p);
        }
        assert_int_equal(4 * sent, 3 * (ranks - 1) * N);
        assert_int_equal(bytes, 2 * sent * (int64_t)lh_dtype_bytes(LH_REAL));
        lh_layout_destroy(&l);
    }
}

static void formula_refuses_strided_layouts(void **state)
{
    (void)state;
    lh_layout *l = NULL;
    lh_cost c = {0};
    lh_band band = {-1, 0, 1, 1, 1.0};
    lh_assert_ok(lh_test_layout(LH_TEST_CYCLIC, 20, 3, 4, &l));
    lh_attn_desc d = {.heads = 1, .kv_heads = 1, .head_width = 1, .batch = 1, .layout = l};
    lh_assert_code(lh_comb_cost(&d, &band, 3, 0, &c), LH_ERR_UNSUP);
    lh_assert_code(lh_comb_cost(&d, &band, 2, 0, &c), LH_ERR_BUG);
    lh_layout_destroy(&l);
    lh_assert_ok(lh_layout_everywhere(20, 3, 4, &l));
    d.layout = l;
    lh_assert_code(lh_comb_cost(&d, &band, 3, 0, &c), LH_ERR_UNSUP);
    lh_layout_destroy(&l);
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
    lh_attn_desc d = {.heads = 1, .kv_heads = 1, .head_width = 1, .batch = 1, .layout = l};
    lh_band group = {-9, 2, 3, 1, 1.0};
    lh_cost c = {0};
    lh_new_fail_at(1);
    lh_status st = lh_comb_cost(&d, &group, 3, 1, &c);
    lh_new_fail_at(0);
    lh_assert_code(st, LH_ERR_MEMORY);
    assert_true(c.forward_bytes == 0 && c.forward_flops == 0.0);
    lh_layout_destroy(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bands_short),
        cmocka_unit_test(bands_long),
        cmocka_unit_test(combs),
        cmocka_unit_test(any_pattern_and_layout),
        cmocka_unit_test(combs_on_any_layout),
        cmocka_unit_test(lists_on_any_layout),
        cmocka_unit_test(bits_of_long_rows),
        cmocka_unit_test(work_follows_the_pattern),
        cmocka_unit_test(zigzag_is_balanced),
        cmocka_unit_test(formula_refuses_strided_layouts),
        cmocka_unit_test(different_ranks_are_refused),
        cmocka_unit_test(memory_runs_out),
    };
    return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}
