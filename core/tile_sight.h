/* Part of core/tile_body.h: what the data of a batch row says about who sees whom (lh_sight), as
 * rows of a tile and of a key block.
 *
 * Positions become keys of a tile once per tile and query: then a key block that limits leave empty
 * is skipped, one that they leave whole costs nothing, and for the others a query's first and last
 * row lie ready in the layout in which scores are masked. */

/* Smaller than any position, with room for differences. */
#define POSITION_LOWEST (INT64_MIN / 4)

/* Least j >= 0 with j * step >= distance; step > 0. */
static ALWAYS_INLINE int64_t steps_to(int64_t distance, int64_t step)
{
    if (distance <= 0) return 0;
    return step == 1 ? distance : (distance - 1) / step + 1;
}

/* Narrows keys [range[0], range[1]) of the tile to those at begin <= position < end. */
static ALWAYS_INLINE void keys_between(const lh_tile *t, int64_t begin, int64_t end,
                                       int64_t range[2])
{
    int64_t at = t->k_position, step = t->k_step;
    if (step > 0) {
        range[0] = max_of(range[0], steps_to(begin - at, step));
        range[1] = min_of(range[1], steps_to(end - at, step));
    } else if (step < 0) {
        range[0] = max_of(range[0], steps_to(at - end + 1, -step));
        range[1] = min_of(range[1], steps_to(at - begin + 1, -step));
    } else if (at < begin || at >= end) {
        range[1] = 0;
    }
}

/* Keys [range[0], range[1]) of the tile that queries [i0, i1) may see, by band and valid length.
 * Empty: range[1] <= range[0]. */
static void key_range(const job *s, const lh_tile *t, int64_t b, int64_t i0, int64_t i1,
                      int64_t range[2])
{
    range[0] = max_of(0, i0 + t->lo);
    range[1] = min_of(t->nk, i1 + t->hi);
    if (s->sight.valid != NULL) keys_between(t, POSITION_LOWEST, s->sight.valid[b], range);
}

/* ---- Limits ---- */

/* The limits of the block's queries as keys of tile t; narrows range to keys that any query sees. */
static void limit_tile(const query_block *q, const lh_tile *t, int64_t range[2])
{
    tile_limits *l = q->limits;
    const int32_t *limit = q->s->sight.limits + (q->b * q->s->q_rows + q->row) * 2;
    int64_t first = t->nk, end = 0;
    l->some = false;
    for (int64_t i = 0; i < q->n; i++, limit += 2 * q->step) {
        int64_t keys[2] = {0, t->nk};
        keys_between(t, limit[0], limit[1], keys);
        if (keys[0] >= keys[1]) keys[0] = keys[1] = 0;
        l->some |= keys[1] - keys[0] < t->nk;
        l->from[i] = (int32_t)keys[0];
        l->to[i] = (int32_t)keys[1];
        if (keys[0] >= keys[1]) continue;
        first = min_of(first, keys[0]);
        end = max_of(end, keys[1]);
    }
    range[0] = max_of(range[0], first);
    range[1] = min_of(range[1], end);
}

/* The limits as rows of the key block, kept only if they hide something. false: they hide all. */
static bool limit_block(const query_block *q, key_block *kb)
{
    const tile_limits *l = q->limits;
    real *from = q->w->piece[PIECE_FROM], *to = q->w->piece[PIECE_TO];
    bool any = false, whole = true;
    if (!l->some) return true;
    for (int64_t i = 0; i < q->n; i++) {
        int64_t first = max_of(0, l->from[i] - kb->first);
        int64_t end = max_of(first, min_of(kb->n, l->to[i] - kb->first));
        any |= first < end;
        whole &= end - first == kb->n;
        from[i] = (real)first;
        to[i] = (real)end;
    }
    for (int64_t i = q->n; i < LH_TILE_Q; i++) from[i] = to[i] = 0;
    if (whole) return true;
    kb->from = from;
    kb->to = to;
    return any;
}

/* Narrows rows range[] of a limited key block to those that any of queries [i0, i1) sees. */
static void limited_rows(const key_block *kb, int64_t i0, int64_t i1, int64_t range[2])
{
    int64_t first = kb->n, end = 0;
    for (int64_t i = i0; i < min_of(i1, LH_TILE_Q); i++) {
        if (!(kb->from[i] < kb->to[i])) continue;
        first = min_of(first, (int64_t)kb->from[i]);
        end = max_of(end, (int64_t)kb->to[i]);
    }
    range[0] = max_of(range[0], first);
    range[1] = max_of(range[0], min_of(range[1], end));
}

/* Rows of a limited key block that all of queries [i0, i1) see. */
static void unlimited_rows(const key_block *kb, int64_t i0, int64_t i1, int64_t range[2])
{
    for (int64_t i = i0; i < i1; i++) {
        range[0] = max_of(range[0], (int64_t)kb->from[i]);
        range[1] = min_of(range[1], (int64_t)kb->to[i]);
    }
}

/* Score rows [r, r + rows) of group i0, at p, become -inf where the limits hide them. */
static void mask_limits(const key_block *kb, real *p, int64_t i0, int64_t r, int64_t rows)
{
    vec nothing = vec_splat(MINUS_INF);
    for (int64_t v = 0; v < SCORE_VECS; v++) {
        vec from = load(kb->from + i0 + v * LANES), to = load(kb->to + i0 + v * LANES);
        for (int64_t x = 0; x < rows; x++) {
            real *at = p + x * LH_TILE_Q + v * LANES;
            vec row = vec_splat((real)(r + x));
            store(at, choose((ivec)((from <= row) & (row < to)), load(at), nothing));
        }
    }
}

/* ---- Hidden keys ---- */

/* Lists the rows of the key block whose positions are hidden. */
static void hide_keys(const query_block *q, key_block *kb)
{
    const lh_hidden *h = q->s->sight.hidden + q->b;
    const int64_t step = kb->tile->k_step;
    const int64_t at = kb->tile->k_position + kb->first * step, last = at + (kb->n - 1) * step;
    int64_t x = 0;
    for (int64_t end = h->count; x < end;) {
        int64_t middle = x + (end - x) / 2;
        if (h->position[middle] < min_of(at, last))
            x = middle + 1;
        else
            end = middle;
    }
    for (; x < h->count && h->position[x] <= max_of(at, last) && kb->n_hidden < kb->n; x++) {
        int64_t distance = h->position[x] - at;
        if (step == 0) { /* all keys are at this position */
            for (int r = 0; r < kb->n; r++) kb->hidden[r] = (uint8_t)r;
            kb->n_hidden = (int)kb->n;
        } else if (distance % step == 0) {
            kb->hidden[kb->n_hidden++] = (uint8_t)(distance / step);
        }
    }
}

/* Scores of hidden keys among rows range[] become -inf for the queries of group i0. */
static void hide_rows(const query_block *q, const key_block *kb, int64_t i0, const int64_t range[2])
{
    for (int x = 0; x < kb->n_hidden; x++) {
        int64_t r = kb->hidden[x];
        if (r < range[0] || r >= range[1]) continue;
        for (int64_t v = 0; v < SCORE_VECS; v++)
            store(q->w->piece[PIECE_P] + r * LH_TILE_Q + i0 + v * LANES, vec_splat(MINUS_INF));
    }
}
