/* Part of core/tile_body.h: the relative term (Dai et al. 2019, section 3.3, terms b and d).
 *
 * Score (i, j) of a tile adds Qr[i] . R[i - j]. For a key block of n rows and its queries the
 * distances i - j are at most n + nq - 1 different ones: their table rows are packed, in ascending
 * order of i - j, and X^T = R Qr^T is made by the score products. Row u of it belongs to query i and
 * key row r = n - 1 - u + i. So
 *   - to the products, the packed rows are a key block whose row u query i sees if 0 <= u - i <= n -
 *     1: a band, and what it leaves empty is skipped as always;
 *   - the tile's own band is a range of rows u;
 *   - P^T[r][i] += X^T[n - 1 - r + i][i] becomes an addition of whole vectors once lane l of every
 *     vector has moved up by l rows: a shear, done in log2(LANES) passes. The gradient goes the other
 *     way. */

typedef struct offsets {
    lh_tile band;
    key_block rows; /* row x of it is row u = first + x */
} offsets;

/* Table rows of the key block's distances, those that the tile's band leaves. Rows that only queries
 * of the padding would need are 0, and so are those behind the last that fill a register block. */
static void pack_offsets(const query_block *q, const key_block *kb, offsets *x)
{
    const job *s = q->s;
    const lh_tile *t = kb->tile;
    const int64_t last = kb->first + kb->n - 1; /* row u is distance u - last */
    const int64_t first = max_of(0, last - t->hi);
    const int64_t end = max_of(first, min_of(kb->n + q->padded - 1, last - t->lo + 1));
    const int64_t rows = max_of(0, min_of(end, kb->n + q->n - 1) - first);
    real *dst = q->w->piece[PIECE_R] + first * s->words;
    const int64_t row = t->r_row + (first - last) * t->r_step;
    pack_flat(dst, s->words, s->r + row_at(0, 0, row, s->heads, q->h, s->width),
              t->r_step * s->heads * s->width, rows, s->width, 1);
    memset(dst + rows * s->words, 0,
           (size_t)((end - first - rows + SCORE_ROWS - 1) * s->words) * sizeof(real));
    *x = (offsets){.band = {.lo = 0, .hi = (int32_t)kb->n - 1, .bits = -1}};
    x->rows = (key_block){.tile = &x->band, .first = first, .n = end - first, .k = dst};
    x->rows.dk = q->w->piece[PIECE_DR] + first * s->stride;
    if (s->backward)
        x->rows.stacked =
            stack_rows(q->w->piece[PIECE_R_STACKED], s->stride, dst, s->words, end - first);
}

/* Lanes l with l & bit. */
static ALWAYS_INLINE ivec bit_lanes(int bit)
{
    ivec lanes;
    UNROLL for (int l = 0; l < LANES; l++) lanes[l] = l & bit ? -1 : 0;
    return lanes;
}

/* x[u][l] = old x[u + l][l] for rows u of [from, to); x: rows of LH_TILE_Q. Rows up to to + LANES - 2
 * are read and changed. */
static void shear_up(real *x, int64_t from, int64_t to)
{
    UNROLL for (int bit = LANES / 2; bit > 0; bit /= 2)
    {
        const ivec far = bit_lanes(bit);
        for (int64_t u = from; u < to + bit - 1; u++) {
            real *at = x + u * LH_TILE_Q;
            store(at, choose(far, load(at + bit * LH_TILE_Q), load(at)));
        }
    }
}

/* x[u][l] = old x[u - l][l] for rows u of [from, to + LANES - 1), where old x is 0 outside [from,
 * to). */
static void shear_down(real *x, int64_t from, int64_t to)
{
    UNROLL for (int bit = 1; bit < LANES; bit *= 2)
    {
        const ivec far = bit_lanes(bit);
        for (int64_t u = to + 2 * bit - 2; u >= from; u--) {
            real *at = x + u * LH_TILE_Q;
            vec above = u - bit >= from ? load(at - bit * LH_TILE_Q) : vec_splat(0);
            store(at, choose(far, above, load(at)));
        }
    }
}

/* X^T for the queries of group i0 and rows range[] of the key block, sheared: vector i of row r's
 * scores adds vector i of row n - 1 - r + i. */
static void relative_group(const query_block *q, const key_block *kb, int64_t i0,
                           const int64_t range[2])
{
    const job *s = q->s;
    const key_block *rows = &kb->term->rows;
    real *x = q->w->piece[PIECE_X];
    score_block block = {.depth = depth_words(s->width), .stride = s->words};
    int64_t span[2];
    if (range[0] >= range[1]) return;
    visible_keys(rows, i0, i0 + GROUP, span);
    span[0] = max_of(span[0], i0 + kb->n - range[1] - rows->first);
    span[1] = min_of(span[1], i0 + GROUP - 1 + kb->n - range[0] - rows->first);
    for (int64_t r = span[0]; r < span[1]; r += SCORE_ROWS) {
        int64_t vecs[2];
        (void)visible_vecs(q, rows, i0, r, min_of(SCORE_ROWS, span[1] - r), vecs);
        int64_t column = i0 + vecs[0] * LANES;
        block.keys = rows->k + r * s->words;
        block.queries = q->w->piece[PIECE_QRT] + column;
        block.c = x + (rows->first + r) * LH_TILE_Q + column;
        score_block_run(&block, vecs[1] - vecs[0], false);
    }
    for (int64_t i = i0; i < min_of(i0 + GROUP, q->n); i += LANES)
        shear_up(x + i, i + kb->n - range[1], i + kb->n - range[0]);
}

/* Adds the term to score rows [r, r + rows), columns [from, to). What the band or the limits hide is
 * made of rows of X that nobody wrote; it is masked next. */
static void add_relative(const query_block *q, const key_block *kb, int64_t r, int64_t rows,
                         int64_t from, int64_t to)
{
    for (int64_t i = from; i < to; i += LANES) {
        const real *x = q->w->piece[PIECE_X] + (kb->n - 1 + i) * LH_TILE_Q + i;
        real *p = q->w->piece[PIECE_P] + i;
        for (int64_t row = r; row < r + rows; row++)
            store(p + row * LH_TILE_Q, load(p + row * LH_TILE_Q) + load(x - row * LH_TILE_Q));
    }
}

/* dX^T of the key block from dS^T: zeros where no score is. */
static void relative_slope(const query_block *q, const key_block *kb)
{
    const real *ds = q->w->piece[PIECE_DS_FLAT];
    real *x = q->w->piece[PIECE_X];
    memset(x, 0, (size_t)((kb->n + q->padded + ROW_PAD) * LH_TILE_Q) * sizeof(real));
    for (int64_t i = 0; i < q->padded; i += LANES) {
        real *top = x + (i + kb->n - 1) * LH_TILE_Q + i;
        for (int64_t r = 0; r < kb->n; r++)
            store(top - r * LH_TILE_Q, load_flat(ds + (r * LH_TILE_Q + i) / PAIR));
        shear_down(x + i, i, i + kb->n);
    }
}
