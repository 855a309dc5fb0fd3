/* Part of core/tile_body.h: one block of queries, and one block of keys against it, forward and backward. */

/* ---- One query block of one head ---- */

static void pack_queries(const query_block *q, enum piece rows, enum piece columns, const real *src,
                         real scale)
{
    const job *s = q->s;
    real *flat = q->w->piece[PAIR == 1 ? rows : PIECE_FLAT];
    const real *from = src + row_at(q->b, s->q_rows, q->row, s->heads, q->h, s->width);
    pack_flat(flat, s->words, from, q->step * s->heads * s->width, q->n, s->width, scale);
    int64_t rest = q->padded - q->n;
    memset(flat + q->n * s->words, 0, (size_t)(rest * s->words) * sizeof(real));
    transpose_block(q->w->piece[columns], flat, s->words, q->padded);
    if (s->backward) (void)stack_rows(q->w->piece[rows], s->stride, flat, s->words, q->padded);
}

/* x[i] = row statistics of the block's queries, `rest` in the padding. src [batch, heads, q_rows]. */
static void load_stats(const query_block *q, enum piece to, const real *src, real rest)
{
    const real *from = src + (q->b * q->s->heads + q->h) * q->s->q_rows + q->row;
    real *x = q->w->piece[to];
    for (int64_t i = 0; i < q->n; i++) x[i] = from[i * q->step];
    for (int64_t i = q->n; i < LH_TILE_Q; i++) x[i] = rest;
}

static void store_stats(const query_block *q, enum piece from, real *dst)
{
    real *to = dst + (q->b * q->s->heads + q->h) * q->s->q_rows + q->row;
    const real *x = q->w->piece[from];
    for (int64_t i = 0; i < q->n; i++) to[i * q->step] = x[i];
}

static void begin_queries(const query_block *q)
{
    const job *s = q->s;
    const work *w = q->w;
    pack_queries(q, PIECE_Q, PIECE_QT, s->q, s->scale * LOG2_E);
    if (s->qr != NULL) pack_queries(q, PIECE_QR, PIECE_QRT, s->qr, s->scale * LOG2_E);
    real *out = w->piece[PIECE_OUT];
    if (!s->backward) {
        const real *from = s->o + row_at(q->b, s->q_rows, q->row, s->heads, q->h, s->width);
        pack_rows(out, s->stride, from, q->step * s->heads * s->width, q->n, s->width, 1);
        memset(out + q->n * s->stride, 0, (size_t)((LH_TILE_Q - q->n) * s->stride) * sizeof(real));
        load_stats(q, PIECE_MAX, s->max, MINUS_INF);
        load_stats(q, PIECE_SUM, s->sum, 0);
        return;
    }
    pack_queries(q, PIECE_DO, PIECE_DOT, s->d_o, 1);
    memset(out, 0, (size_t)(LH_TILE_Q * s->stride) * sizeof(real));
    if (s->qr != NULL)
        memset(w->piece[PIECE_OUTR], 0, (size_t)(LH_TILE_Q * s->stride) * sizeof(real));
    load_stats(q, PIECE_MAX, s->lse, MINUS_INF);
    load_stats(q, PIECE_SUM, s->delta, 0);
    real *lse = w->piece[PIECE_MAX];
    /* a query that saw nothing has P = 0 */
    for (int i = 0; i < LH_TILE_Q; i++) lse[i] = lse[i] == MINUS_INF ? -MINUS_INF : lse[i] * LOG2_E;
}

static void end_queries(const query_block *q)
{
    const job *s = q->s;
    const real *out = q->w->piece[PIECE_OUT];
    int64_t at = row_at(q->b, s->q_rows, q->row, s->heads, q->h, s->width);
    int64_t row = q->step * s->heads * s->width;
    if (s->backward) {
        unpack_add(s->dq + at, row, out, s->stride, q->n, s->width, s->scale);
        if (s->qr != NULL)
            unpack_add(s->dqr + at, row, q->w->piece[PIECE_OUTR], s->stride, q->n, s->width,
                       s->scale);
        return;
    }
    for (int64_t i = 0; i < q->n; i++)
        memcpy(s->o + at + i * row, out + i * s->stride, (size_t)s->width * sizeof(real));
    store_stats(q, PIECE_MAX, s->max);
    store_stats(q, PIECE_SUM, s->sum);
}

/* ---- One block of keys against a query block ---- */

/* Rows of P^T [from, to) that queries [i0, i1) may see, as rows of the key block. */
static void visible_keys(const key_block *kb, int64_t i0, int64_t i1, int64_t range[2])
{
    range[0] = min_of(kb->n, max_of(0, i0 + kb->tile->lo - kb->first));
    range[1] = max_of(range[0], min_of(kb->n, i1 + kb->tile->hi - kb->first));
    if (kb->from != NULL) limited_rows(kb, i0, i1, range);
}

/* Vectors [vecs[0], vecs[1]) of group i0 in which a key of rows [r, r + rows) is visible; true:
 * everything is. */
static bool visible_vecs(const query_block *q, const key_block *kb, int64_t i0, int64_t r,
                         int64_t rows, int64_t vecs[2])
{
    const lh_tile *t = kb->tile;
    int64_t j = kb->first + r, last = j + rows - 1;
    vecs[0] = SCORE_VECS;
    vecs[1] = 0;
    for (int64_t v = 0; v < SCORE_VECS; v++) {
        int64_t i = i0 + v * LANES;
        bool some = i < q->n && j - (i + LANES - 1) <= t->hi && last - i >= t->lo;
        if (some) vecs[0] = min_of(vecs[0], v);
        if (some) vecs[1] = v + 1;
    }
    vecs[0] = min_of(vecs[0], vecs[1]);
    return vecs[0] == 0 && vecs[1] == SCORE_VECS && t->bits < 0 && last - i0 <= t->hi &&
           j - (i0 + GROUP - 1) >= t->lo;
}

/* Lanes of the vector at query i that see key j by the band. */
static ALWAYS_INLINE ivec band_lanes(const lh_tile *t, int64_t i, int64_t j)
{
    vec lane;
    UNROLL for (int l = 0; l < LANES; l++) lane[l] = (real)l;
    int64_t from = max_of(-1, min_of(LANES, j - t->hi - i)),
            to = max_of(-1, min_of(LANES, j - t->lo - i));
    return (ivec)((lane >= vec_splat((real)from)) & (lane <= vec_splat((real)to)));
}

/* What is not visible in score rows [r, r + SCORE_ROWS) of group i0 becomes -inf. */
static void mask_scores(const query_block *q, const key_block *kb, int64_t i0, int64_t r,
                        int64_t rows)
{
    const lh_tile *t = kb->tile;
    real *p = q->w->piece[PIECE_P] + r * LH_TILE_Q + i0;
    vec nothing = vec_splat(MINUS_INF);
    for (int64_t x = 0; x < rows; x++)
        for (int64_t v = 0; v < SCORE_VECS; v++) {
            real *at = p + x * LH_TILE_Q + v * LANES;
            int64_t i = i0 + v * LANES;
            store(at, i < q->n ? choose(band_lanes(t, i, kb->first + r + x), load(at), nothing)
                               : nothing);
        }
    if (kb->from != NULL) mask_limits(kb, p, i0, r, rows);
    if (t->bits < 0) return;
    for (int64_t i = i0; i < min_of(i0 + GROUP, q->n); i++) {
        int64_t bit = t->bits + i * t->nk + kb->first + r;
        for (int64_t x = 0; x < rows; x++, bit++)
            if (!(q->s->bits[bit / 64] >> (bit % 64) & 1)) p[x * LH_TILE_Q + i - i0] = MINUS_INF;
    }
}

#include "core/tile_relative.h"

/* Scores (times log2 e, masked) of the block's rows range[] against the queries of group i0, into
 * P^T. */
static void score_group(const query_block *q, const key_block *kb, int64_t i0,
                        const int64_t range[2])
{
    const job *s = q->s;
    score_block block = {.depth = depth_words(s->width), .stride = s->words};
    int64_t whole[2] = {0, kb->n};
    if (kb->from != NULL) unlimited_rows(kb, i0, min_of(i0 + GROUP, q->n), whole);
    if (kb->term != NULL) relative_group(q, kb, i0, range);
    for (int64_t r = range[0]; r < range[1]; r += SCORE_ROWS) {
        int64_t rows = min_of(SCORE_ROWS, range[1] - r), vecs[2];
        bool full = visible_vecs(q, kb, i0, r, rows, vecs);
        int64_t column = i0 + vecs[0] * LANES;
        block.keys = kb->k + r * s->words;
        block.queries = q->w->piece[PIECE_QT] + column;
        block.c = q->w->piece[PIECE_P] + r * LH_TILE_Q + column;
        score_block_run(&block, vecs[1] - vecs[0], false);
        if (kb->term != NULL) add_relative(q, kb, r, rows, column, i0 + vecs[1] * LANES);
        if (!full || r < whole[0] || r + rows > whole[1]) mask_scores(q, kb, i0, r, rows);
    }
    hide_rows(q, kb, i0, range);
}

/* dS = P (dO.v - delta) for the same rows and queries. P is 0 wherever it was masked. */
static void slope_group(const query_block *q, const key_block *kb, int64_t i0,
                        const int64_t range[2])
{
    const job *s = q->s;
    const work *w = q->w;
    score_block block = {.depth = depth_words(s->width), .stride = s->words};
    const vec none[PAIR] = {{0}};
    for (int64_t r = range[0] / PAIR * PAIR; r < range[1]; r += SCORE_ROWS) {
        int64_t rows = min_of(SCORE_ROWS, range[1] - r), vecs[2];
        (void)visible_vecs(q, kb, i0, r, rows, vecs);
        int64_t column = i0 + vecs[0] * LANES, at = r * LH_TILE_Q + column;
        block.keys = kb->v + r * s->words;
        block.queries = w->piece[PIECE_DOT] + column;
        block.p = w->piece[PIECE_P] + at;
        block.delta = w->piece[PIECE_SUM] + column;
        block.flat = w->piece[PIECE_DS_FLAT] + at / PAIR;
        block.stacked = w->piece[PIECE_DS_STACKED] + r / PAIR * LH_TILE_Q + column;
        score_block_run(&block, vecs[1] - vecs[0], true);
        for (int64_t v = 0; v < SCORE_VECS; v++)
            for (int64_t x = 0; (v < vecs[0] || v >= vecs[1]) && x < SCORE_ROWS; x += PAIR)
                put_slopes(&block, x, (v - vecs[0]) * LANES, none);
    }
}

/* Zeros in the rows of P^T (or dS^T) that the group's queries cannot see: neighbours' register
 * blocks read them. */
static void clear_stacked(real *p, const key_block *kb, int64_t i0, const int64_t range[2])
{
    const int64_t n = depth_words(kb->n);
    for (int64_t r = 0; r < n; r++) {
        if (r == range[0] / PAIR) r = depth_words(range[1]);
        for (int64_t v = 0; r < n && v < SCORE_VECS; v++)
            store(p + r * LH_TILE_Q + i0 + v * LANES, vec_splat(0));
    }
}

static void clear_flat(real *p, const key_block *kb, int64_t i0, const int64_t range[2])
{
    for (int64_t r = 0; r < kb->n; r++) {
        if (r == range[0]) r = range[1];
        for (int64_t v = 0; r < kb->n && v < SCORE_VECS; v++)
            store_flat(p + (r * LH_TILE_Q + i0 + v * LANES) / PAIR, vec_splat(0));
    }
}

/* Where rows range[] of P^T (at the group's first query) begin or end within a pair, the other row
 * becomes -inf: its probability is 0. Returns the first row of the first pair. */
static int64_t complete_pairs(real *p, const int64_t range[2])
{
    for (int x = 0; PAIR > 1 && x < 2; x++)
        for (int64_t v = 0; range[x] % PAIR != 0 && v < SCORE_VECS; v++)
            store(p + (range[x] - 1 + x) * LH_TILE_Q + v * LANES, vec_splat(MINUS_INF));
    return range[0] / PAIR * PAIR;
}

/* Online softmax of one group: P^T = exp2(S - max) as an operand; running max and sum, and the
 * factor for O. */
static void softmax_group(const work *w, int64_t i0, const int64_t range[2])
{
    real *p = w->piece[PIECE_P] + i0, *max = w->piece[PIECE_MAX] + i0,
         *sum = w->piece[PIECE_SUM] + i0, *operand = w->piece[PIECE_P_WORDS] + i0;
    vec top[SCORE_VECS], total[SCORE_VECS], reference[SCORE_VECS];
    UNROLL for (int v = 0; v < SCORE_VECS; v++) top[v] = vec_splat(MINUS_INF);
    for (int64_t r = range[0]; r < range[1]; r++)
        UNROLL for (int v = 0; v < SCORE_VECS; v++) top[v] =
            vec_max(load(p + r * LH_TILE_Q + v * LANES), top[v]);
    UNROLL for (int v = 0; v < SCORE_VECS; v++)
    {
        vec old = load(max + v * LANES), now = vec_max(top[v] * LN_2, old);
        /* while nothing was seen the reference is 0, so that exp2(-inf - reference) is 0 and not
         * NaN */
        reference[v] = choose((ivec)(now == vec_splat(MINUS_INF)), vec_splat(0), now * LOG2_E);
        vec shrink = vec_exp2(old * LOG2_E - reference[v]);
        shrink = choose((ivec)(now == old), vec_splat(1), shrink);
        store(max + v * LANES, now);
        store(w->piece[PIECE_SHRINK] + i0 + v * LANES, shrink);
        total[v] = load(sum + v * LANES) * shrink;
    }
    for (int64_t r = complete_pairs(p, range); r < range[1]; r += PAIR)
        UNROLL for (int v = 0; v < SCORE_VECS; v++)
        {
            vec e[PAIR];
            UNROLL for (int x = 0; x < PAIR; x++)
            {
                e[x] = vec_exp2(load(p + (r + x) * LH_TILE_Q + v * LANES) - reference[v]);
                total[v] += e[x];
            }
            store(operand + r / PAIR * LH_TILE_Q + v * LANES, stacked_words(e));
        }
    UNROLL for (int v = 0; v < SCORE_VECS; v++) store(sum + v * LANES, total[v]);
}

/* P^T = exp2(S - lse) in place and as an operand, for the backward. */
static void probability_group(const work *w, int64_t i0, const int64_t range[2])
{
    real *p = w->piece[PIECE_P] + i0;
    const real *lse = w->piece[PIECE_MAX] + i0;
    const int64_t end = depth_words(range[1]) * PAIR;
    for (int64_t r = complete_pairs(p, range); r < end; r++)
        UNROLL for (int v = 0; v < SCORE_VECS; v++)
        {
            real *at = p + r * LH_TILE_Q + v * LANES;
            vec e = vec_exp2(load(at) - load(lse + v * LANES));
            store(at, e);
            if (PAIR == 1) continue;
            store_flat(w->piece[PIECE_P_WORDS] + (r * LH_TILE_Q + i0 + v * LANES) / PAIR, e);
        }
}

/* Did any query's maximum move? */
static bool any_shrink(const real *shrink)
{
    bool any = false;
    for (int i = 0; i < LH_TILE_Q; i++) any |= shrink[i] != 1;
    return any;
}

/* out[i, :] = out[i, :] * shrink[i] + sum over keys of p[key][i] rows[key, :]: O += P V, or dQ +=
 * dS K. p, rows: stacked. out: the piece PIECE_OUT or PIECE_OUTR. */
static void add_to_queries(const query_block *q, const key_block *kb, const real *p,
                           const real *rows, const real *shrink, enum piece out)
{
    const int64_t stride = q->s->stride;
    for (int64_t d = 0; d < stride; d += OUT_VECS * LANES)
        for (int64_t i = 0; i < q->n; i += OUT_ROWS) {
            int64_t range[2];
            visible_keys(kb, i, i + OUT_ROWS, range);
            if (shrink == NULL && range[0] >= range[1]) continue;
            const int64_t first = range[0] / PAIR, depth = depth_words(range[1]) - first;
            out_block block = {.rows = OUT_ROWS, .depth = depth, .stride = stride};
            block.a = p + first * LH_TILE_Q + i;
            block.b = rows + first * stride + d;
            block.c = q->w->piece[out] + i * stride + d;
            block.row_scale = shrink == NULL ? NULL : shrink + i;
            d + LANES < stride ? add_bycol_2(&block) : add_bycol_1(&block);
        }
}

/* out[key, :] += sum over queries of p[key][i] rows[i, :]: dV += P^T dO, or dK += dS^T Q. p: flat,
 * rows: stacked. */
static void add_to_keys(const query_block *q, const key_block *kb, const real *p, const real *rows,
                        real *out)
{
    const int64_t stride = q->s->stride;
    const lh_tile *t = kb->tile;
    for (int64_t d = 0; d < stride; d += OUT_VECS * LANES)
        for (int64_t r = 0; r < kb->n; r += OUT_ROWS) {
            int64_t n = min_of(OUT_ROWS, kb->n - r), j = kb->first + r;
            int64_t from = max_of(0, j - t->hi), to = min_of(q->n, j + n - t->lo);
            if (to <= from) continue;
            const int64_t first = from / PAIR, depth = depth_words(to) - first;
            out_block block = {.rows = n, .depth = depth, .stride = stride};
            block.a = p + r * (LH_TILE_Q / PAIR) + first;
            block.b = rows + first * stride + d;
            block.c = out + r * stride + d;
            d + LANES < stride ? add_byrow_2(&block) : add_byrow_1(&block);
        }
}

static void forward_block(const query_block *q, const key_block *kb)
{
    real *p = q->w->piece[PIECE_P_WORDS], *shrink = q->w->piece[PIECE_SHRINK];
    for (int64_t i0 = 0; i0 < LH_TILE_Q; i0 += GROUP) {
        int64_t range[2] = {0, 0};
        if (i0 < q->n) visible_keys(kb, i0, min_of(i0 + GROUP, q->n), range);
        if (i0 < q->n) score_group(q, kb, i0, range);
        softmax_group(q->w, i0, range);
        if (i0 < q->padded) clear_stacked(p, kb, i0, range);
    }
    add_to_queries(q, kb, p, kb->stacked, any_shrink(shrink) ? shrink : NULL, PIECE_OUT);
}

/* dQr += dX^T R and dR += dX Qr, where X are the products of the relative term. */
static void add_term_gradients(const query_block *q, const key_block *kb)
{
    const job *s = q->s;
    const work *w = q->w;
    const lh_tile *t = kb->tile;
    const key_block *rows = &kb->term->rows;
    const int64_t n = min_of(rows->n, kb->n + q->n - 1 - rows->first); /* rows of the table */
    const real *x = w->piece[PIECE_X] + rows->first * LH_TILE_Q;
    const real *flat = PAIR == 1 ? x : w->piece[PIECE_X_FLAT];
    const int64_t row = t->r_row + (rows->first - (kb->first + kb->n - 1)) * t->r_step;
    relative_slope(q, kb);
    if (PAIR > 1) {
        const int64_t words = LH_TILE_Q / PAIR;
        pack_flat(w->piece[PIECE_X_FLAT], words, x, LH_TILE_Q, rows->n, LH_TILE_Q, 1);
        x = stack_rows(w->piece[PIECE_X_STACKED], LH_TILE_Q, flat, words, rows->n);
    }
    add_to_queries(q, rows, x, rows->stacked, NULL, PIECE_OUTR);
    memset(rows->dk, 0, (size_t)(rows->n * s->stride) * sizeof(real));
    add_to_keys(q, rows, flat, w->piece[PIECE_QR], rows->dk);
    unpack_add(s->dr + row_at(0, 0, row, s->heads, q->h, s->width), t->r_step * s->heads * s->width,
               rows->dk, s->stride, n, s->width, LN_2); /* the packed queries carried log2(e) */
}

static void backward_block(const query_block *q, const key_block *kb)
{
    const work *w = q->w;
    real *p = w->piece[PIECE_P_WORDS], *ds = w->piece[PIECE_DS_FLAT],
         *stacked = w->piece[PIECE_DS_STACKED];
    for (int64_t i0 = 0; i0 < q->padded; i0 += GROUP) {
        int64_t range[2];
        visible_keys(kb, i0, min_of(i0 + GROUP, q->n), range);
        score_group(q, kb, i0, range);
        probability_group(w, i0, range);
        clear_flat(p, kb, i0, range);
        slope_group(q, kb, i0, range);
        clear_stacked(stacked, kb, i0, range);
        if (PAIR > 1) clear_flat(ds, kb, i0, range);
    }
    add_to_keys(q, kb, p, w->piece[PIECE_DO], kb->dv);
    add_to_keys(q, kb, ds, w->piece[PIECE_Q], kb->dk);
    add_to_queries(q, kb, stacked, kb->stacked, NULL, PIECE_OUT);
    if (kb->term != NULL) add_term_gradients(q, kb);
}

/* Rows of a strided tile between their packed places and a block of their own. */
static void move_rows(const query_block *q, const key_block *kb, enum piece whole, enum piece block,
                      bool in)
{
    const int64_t stride = whole <= PIECE_V ? q->s->words : q->s->stride;
    const int64_t first = kb->tile->k_row + kb->first * kb->tile->k_stride - q->w->base;
    for (int64_t r = 0; r < kb->n; r++) {
        real *there = q->w->piece[whole] + (first + r * kb->tile->k_stride) * stride;
        real *here = q->w->piece[block] + r * stride;
        memcpy(in ? here : there, in ? there : here, (size_t)stride * sizeof(real));
    }
}

/* Rows of a strided tile from the key block into a block of their own. */
static void gather_rows(const query_block *q, const key_block *kb)
{
    const job *s = q->s;
    const int64_t row = kb->tile->k_row + kb->first * kb->tile->k_stride;
    const int64_t kv = (q->h + s->skew) / s->group - s->kv_first;
    const int64_t from = row_at(q->b, s->k_rows, row, s->kv_held, kv, s->width);
    const int64_t stride = kb->tile->k_stride * s->kv_held * s->width;
    pack_flat(q->w->piece[PIECE_K_BLOCK], s->words, s->k + from, stride, kb->n, s->width, 1);
    pack_flat(q->w->piece[PIECE_V_BLOCK], s->words, s->v + from, stride, kb->n, s->width, 1);
}

static void run_block(const query_block *q, key_block *kb)
{
    const job *s = q->s;
    const work *w = q->w;
    bool strided = kb->tile->k_stride != 1;
    offsets term;
    if (s->qr != NULL) pack_offsets(q, kb, &term);
    if (s->qr != NULL) kb->term = &term;
    if (!strided) {
        int64_t row = kb->tile->k_row + kb->first - w->base;
        kb->k = w->piece[PIECE_K] + row * s->words;
        kb->v = w->piece[PIECE_V] + row * s->words;
        kb->dk = w->piece[PIECE_DK] + row * s->stride;
        kb->dv = w->piece[PIECE_DV] + row * s->stride;
    } else {
        kb->k = w->piece[PIECE_K_BLOCK];
        kb->v = w->piece[PIECE_V_BLOCK];
        kb->dk = w->piece[PIECE_DK_BLOCK];
        kb->dv = w->piece[PIECE_DV_BLOCK];
        if (!s->backward) gather_rows(q, kb);
        for (int i = 0; s->backward && i < 4; i++)
            move_rows(q, kb, (enum piece)(PIECE_K + i), (enum piece)(PIECE_K_BLOCK + i), true);
    }
    kb->stacked = stack_rows(w->piece[PIECE_STACKED], s->stride, s->backward ? kb->k : kb->v,
                             s->words, kb->n);
    s->backward ? backward_block(q, kb) : forward_block(q, kb);
    for (int i = 2; strided && s->backward && i < 4; i++)
        move_rows(q, kb, (enum piece)(PIECE_K + i), (enum piece)(PIECE_K_BLOCK + i), false);
}
