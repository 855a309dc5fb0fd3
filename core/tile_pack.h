/* Part of core/tile_body.h: what one call knows, the pieces of a thread's scratch, and packing. */

/* ---- One call: what forward and backward share ---- */

typedef struct job {
    bool backward;
    int64_t batch, heads, kv_heads, width, q_rows, k_rows, head, n_heads;
    lh_attend_room room; /* of this call */
    int64_t group, skew; /* query head h uses key/value head (h + skew) / group */
    int64_t stride;      /* width rounded up to whole vectors */
    int64_t words;       /* of a flat row, in whole vectors */
    real scale;
    const real *q, *k, *v;
    real *o, *max, *sum;           /* forward */
    const real *d_o, *lse, *delta; /* backward */
    real *dq, *dk, *dv;
    const lh_tile *tiles;
    int64_t n_tiles;
    const uint64_t *bits;
    lh_sight sight;
    int64_t kv_first, kv_held; /* heads in a row of k, v, dk, dv */
    const real *qr, *r;        /* NULL: no relative term */
    real *dqr, *dr;
    real *scratch;
    void (*between)(void *user);
    void *user;
} job;

/* The pieces of one thread's scratch. Where PAIR is 1 the last ones, operands made of other pieces,
 * are those pieces themselves. */
enum piece {
    PIECE_K, /* packed rows [min(k_rows, pack_limit), words], flat */
    PIECE_V,
    PIECE_DK, /* as many rows of stride */
    PIECE_DV,
    PIECE_K_BLOCK, /* [TILE_KEYS, ..]: rows of a tile with k_stride != 1 */
    PIECE_V_BLOCK,
    PIECE_DK_BLOCK,
    PIECE_DV_BLOCK,
    PIECE_Q,   /* [LH_TILE_Q / PAIR, stride], stacked, times scale log2(e) */
    PIECE_DO,  /* [LH_TILE_Q / PAIR, stride], stacked */
    PIECE_OUT, /* [LH_TILE_Q, stride]: O or dQ */
    PIECE_QT,  /* [words, LH_TILE_Q]: flat rows, transposed */
    PIECE_DOT,
    PIECE_P, /* [TILE_KEYS, LH_TILE_Q] */
    PIECE_DS,
    PIECE_MAX,        /* [LH_TILE_Q]; backward: lse log2(e) */
    PIECE_SUM,        /* [LH_TILE_Q]; backward: delta */
    PIECE_SHRINK,     /* [LH_TILE_Q]: factor by which a new maximum shrinks O and sum */
    PIECE_FROM,       /* [LH_TILE_Q]: first row of the key block that a query sees by its limits */
    PIECE_TO,         /* [LH_TILE_Q]: and the row behind the last */
    PIECE_QR,         /* [LH_TILE_Q / PAIR, stride]: of the relative term, as PIECE_Q */
    PIECE_OUTR,       /* [LH_TILE_Q, stride]: dQr */
    PIECE_QRT,        /* [words, LH_TILE_Q] */
    PIECE_R,          /* [OFFSETS, words]: table rows of a key block, by offset, flat */
    PIECE_DR,         /* [OFFSETS, stride] */
    PIECE_X,          /* [OFFSETS, LH_TILE_Q]: R Qr^T, or its gradient */
    PIECE_FLAT,       /* [LH_TILE_Q, words]: of queries, on their way */
    PIECE_STACKED,    /* [TILE_KEYS / PAIR, stride]: of a key block's V; backward: of its K */
    PIECE_P_WORDS,    /* P: stacked; backward: flat */
    PIECE_DS_FLAT,    /* [TILE_KEYS, LH_TILE_Q / PAIR] */
    PIECE_DS_STACKED, /* [TILE_KEYS / PAIR, LH_TILE_Q] */
    PIECE_R_STACKED,  /* [OFFSETS / PAIR, stride] */
    PIECE_X_FLAT,     /* [OFFSETS, LH_TILE_Q / PAIR] */
    PIECE_X_STACKED,  /* [OFFSETS / PAIR, LH_TILE_Q] */
    PIECE_COUNT
};

typedef struct work {
    real *piece[PIECE_COUNT];
    int64_t base; /* row of the key block that is packed first */
    /* The thread's share of an item's query blocks: of those of tiles [begin, end) every parts-th, from
     * number `part` of a unit on. */
    int64_t begin, end, part, parts;
    bool calls; /* the calling thread's: it calls job.between */
} work;

static int64_t round_up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Words that hold n numbers. */
static ALWAYS_INLINE int64_t depth_words(int64_t n)
{
    return (n + PAIR - 1) / PAIR;
}

/* Words of a flat row: whole vectors. */
static int64_t flat_words(int64_t width)
{
    return round_up(width, LANES * PAIR) / PAIR;
}

/* Does only the relative term use the piece? */
static bool piece_relative(enum piece i)
{
    return (i >= PIECE_QR && i <= PIECE_X) || i >= PIECE_R_STACKED;
}

/* Does only the backward use it? */
static bool piece_backward(enum piece i)
{
    return i == PIECE_DK || i == PIECE_DV || i == PIECE_DK_BLOCK || i == PIECE_DV_BLOCK;
}

/* Rows of packed keys that stay in a core's own cache: whole blocks. */
static int64_t cached_rows(const lh_attend_room *room)
{
    const int64_t elements =
        2 * (flat_words(room->width) + (room->backward ? round_up(room->width, LANES) : 0));
    const int64_t rows = SPAN_BYTES / (elements * (int64_t)sizeof(real));
    return min_of(max_of(rows / TILE_KEYS, 2) * TILE_KEYS, PACK_ROWS);
}

/* Rows of keys that are packed at one time, at most. Where query blocks see many they are worked through
 * in spans (tile_units.h), and more are never packed. */
static int64_t pack_limit(const lh_attend_room *room)
{
    return room->most_keys > PACK_ROWS ? cached_rows(room) : PACK_ROWS;
}

/* Elements of a piece. */
static int64_t piece_elements(enum piece i, const lh_attend_room *room)
{
    const int64_t words = flat_words(room->width), stride = round_up(room->width, LANES);
    if ((piece_relative(i) && !room->relative) || (piece_backward(i) && !room->backward)) return 0;
    if (i <= PIECE_DV)
        return (min_of(room->k_rows, pack_limit(room)) + ROW_PAD) * (i <= PIECE_V ? words : stride);
    if (i <= PIECE_DV_BLOCK) return (TILE_KEYS + ROW_PAD) * (i <= PIECE_V_BLOCK ? words : stride);
    if (i <= PIECE_DO || i == PIECE_QR) return LH_TILE_Q / PAIR * stride;
    if (i == PIECE_OUT || i == PIECE_OUTR) return LH_TILE_Q * stride;
    if (i <= PIECE_DOT || i == PIECE_QRT) return LH_TILE_Q * words;
    if (i == PIECE_P || (i == PIECE_DS && PAIR == 1)) return (TILE_KEYS + ROW_PAD) * LH_TILE_Q;
    if (i == PIECE_DS) return 0;
    if (i <= PIECE_TO) return LH_TILE_Q;
    if (i == PIECE_X) return (OFFSETS + ROW_PAD) * LH_TILE_Q;
    if (i <= PIECE_DR) return (OFFSETS + ROW_PAD) * (i == PIECE_R ? words : stride);
    if (PAIR == 1) return 0;
    if (i == PIECE_FLAT) return LH_TILE_Q * words;
    if (i == PIECE_STACKED) return TILE_KEYS / PAIR * stride;
    if (i <= PIECE_DS_STACKED) return (TILE_KEYS + ROW_PAD) / PAIR * LH_TILE_Q;
    return (OFFSETS + ROW_PAD) / PAIR * (i == PIECE_R_STACKED ? stride : LH_TILE_Q);
}

/* Elements of one thread's scratch; offset[] of each piece. Every piece starts on a cache line. */
static int64_t work_layout(const lh_attend_room *room, int64_t offset[PIECE_COUNT])
{
    int64_t at = 0;
    for (int i = 0; i < PIECE_COUNT; i++) {
        offset[i] = at;
        at += round_up(piece_elements((enum piece)i, room), 16);
    }
    return at;
}

static void work_place(const job *s, int thread, work *w)
{
    int64_t offset[PIECE_COUNT];
    int64_t size = work_layout(&s->room, offset);
    for (int i = 0; i < PIECE_COUNT; i++) w->piece[i] = s->scratch + thread * size + offset[i];
    w->calls = thread == 0 && s->between != NULL;
    w->begin = w->part = 0;
    w->end = s->n_tiles;
    w->parts = 1;
    /* lanes behind the last query, and scores that are masked next, take from rows of X that nobody wrote */
    memset(w->piece[PIECE_X], 0, (size_t)piece_elements(PIECE_X, &s->room) * sizeof(real));
    if (PAIR > 1) return;
    w->piece[PIECE_P_WORDS] = w->piece[PIECE_P];
    w->piece[PIECE_DS_FLAT] = w->piece[PIECE_DS_STACKED] = w->piece[PIECE_DS];
}

size_t TILE_SLOT(attend_scratch)(const lh_attend_room *room, int threads)
{
    int64_t offset[PIECE_COUNT];
    int64_t size = work_layout(room, offset);
    return (size_t)size * sizeof(real) * (size_t)max_of(threads, 1);
}

/* What the limits of a query block's rows leave of one tile. */
typedef struct tile_limits {
    bool some;                              /* false: they leave the whole tile to every query */
    int32_t from[LH_TILE_Q], to[LH_TILE_Q]; /* keys [from, to) of the tile; equal: none */
} tile_limits;

typedef struct query_block {
    const job *s;
    const work *w;
    int64_t b, h;
    int64_t from, to;     /* rows of the key block that are looked at */
    int64_t row, n, step; /* rows row, row + step, ... of the queries */
    int64_t padded;       /* n rounded up to whole groups of columns */
    tile_limits *limits;  /* of the tile at hand; NULL: none */
    int64_t number;       /* of the block among those of all tiles */
    struct turn *turn;    /* for which dq waits; NULL: none */
    bool waited;          /* for the turn of this block */
} query_block;

typedef struct key_block {
    const lh_tile *tile;
    int64_t first, n; /* keys first .. first + n - 1 of the tile */
    const real *k, *v;
    const real *stacked; /* v; backward: k */
    real *dk, *dv;
    const real *from, *to; /* [LH_TILE_Q]: rows that a query sees by its limits; NULL: all */
    int n_hidden;
    uint8_t hidden[TILE_KEYS];  /* rows that nobody sees */
    const struct offsets *term; /* NULL: no relative term */
} key_block;

#include "core/tile_sight.h"

/* ---- Packing ---- */

/* dst[i, :] = scale * src[i, :], padded with 0 to whole vectors. */
static void pack_rows(real *dst, int64_t stride, const real *src, int64_t src_stride, int64_t rows,
                      int64_t width, real scale)
{
    vec factor = vec_splat(scale);
    for (int64_t i = 0; i < rows; i++) {
        const real *x = src + i * src_stride;
        real *y = dst + i * stride;
        int64_t p = 0;
        for (; p + LANES <= width; p += LANES) store(y + p, *(const vec_any *)(x + p) * factor);
        for (; p < width; p++) y[p] = x[p] * scale;
        for (; p < stride; p++) y[p] = 0;
    }
}

#ifndef TILE_BF16
/* dst[i, :] = scale * src[i, :] as flat operands, padded with 0 to `words`. */
static void pack_flat(real *dst, int64_t words, const real *src, int64_t src_stride, int64_t rows,
                      int64_t width, real scale)
{
    pack_rows(dst, words, src, src_stride, rows, width, scale);
}

/* The stacked form of flat rows: in `to`, or where they are. */
static const real *stack_rows(real *to, int64_t stride, const real *flat, int64_t words,
                              int64_t rows)
{
    (void)to;
    (void)stride;
    (void)words;
    (void)rows;
    return flat;
}
#endif

/* dst[i, :] += scale * src[i, :], for the width without padding. */
static void unpack_add(real *dst, int64_t dst_stride, const real *src, int64_t stride, int64_t rows,
                       int64_t width, real scale)
{
    vec factor = vec_splat(scale);
    for (int64_t i = 0; i < rows; i++) {
        const real *x = src + i * stride;
        real *y = dst + i * dst_stride;
        int64_t p = 0;
        for (; p + LANES <= width; p += LANES) *(vec_any *)(y + p) += load(x + p) * factor;
        for (; p < width; p++) y[p] += x[p] * scale;
    }
}

/* Address of row `row` of head h in a tensor [batch, rows, heads, width]. */
static ALWAYS_INLINE int64_t row_at(int64_t b, int64_t rows, int64_t row, int64_t heads, int64_t h,
                                    int64_t width)
{
    return ((b * rows + row) * heads + h) * width;
}

/* A part of an item that is worked through in one go: tiles [begin, end), and of the rows of the key
 * block [from, to). */
typedef struct unit {
    int64_t begin, end, from, to;
} unit;

static unit whole_item(const job *s)
{
    return (unit){0, s->n_tiles, 0, INT32_MAX};
}

/* Must the tile's rows be packed? A forward pass takes those of a strided tile from where they are. */
static bool takes_packed(const job *s, const lh_tile *t)
{
    return s->backward || t->k_stride == 1;
}

/* Rows [range[0], range[1]) of the key block that tiles of the unit touch for batch row b: all tiles,
 * or those alone that must be packed. */
static void rows_touched(const job *s, int64_t b, const unit *u, bool all, int64_t range[2])
{
    range[0] = s->k_rows;
    range[1] = 0;
    for (int64_t i = u->begin; i < u->end; i++) {
        const lh_tile *t = s->tiles + i;
        int64_t keys[2];
        key_range(s, t, b, 0, t->nq, keys);
        if (keys[1] <= keys[0] || !(all || takes_packed(s, t))) continue;
        int64_t first = t->k_row + keys[0] * t->k_stride;
        int64_t last = t->k_row + (keys[1] - 1) * t->k_stride;
        int64_t from = max_of(u->from, min_of(first, last));
        int64_t to = min_of(u->to, max_of(first, last) + 1);
        if (to <= from) continue;
        range[0] = min_of(range[0], from);
        range[1] = max_of(range[1], to);
    }
}

/* Rows range[], at most pack_limit: keys and values in, their gradients to 0. */
static void pack_keys(const job *s, int64_t b, int64_t kv, work *w, const int64_t range[2])
{
    const int64_t n = range[1] - range[0];
    if (n <= 0) return;
    int64_t from = row_at(b, s->k_rows, range[0], s->kv_held, kv - s->kv_first, s->width);
    int64_t row = s->kv_held * s->width;
    w->base = range[0];
    pack_flat(w->piece[PIECE_K], s->words, s->k + from, row, n, s->width, 1);
    pack_flat(w->piece[PIECE_V], s->words, s->v + from, row, n, s->width, 1);
    if (s->backward) {
        size_t bytes = (size_t)(n * s->stride) * sizeof(real);
        memset(w->piece[PIECE_DK], 0, bytes);
        memset(w->piece[PIECE_DV], 0, bytes);
    }
    /* register blocks read past the last row; what they make of it is dropped */
    size_t pad = (size_t)(ROW_PAD * s->words) * sizeof(real);
    memset(w->piece[PIECE_K] + n * s->words, 0, pad);
    memset(w->piece[PIECE_V] + n * s->words, 0, pad);
}

/* Adds what was summed for rows range[], the packed ones. */
static void add_key_gradients(const job *s, int64_t b, int64_t kv, const work *w,
                              const int64_t range[2])
{
    const int64_t n = range[1] - range[0];
    int64_t to = row_at(b, s->k_rows, range[0], s->kv_held, kv - s->kv_first, s->width);
    int64_t row = s->kv_held * s->width;
    /* the packed queries carried scale log2(e) */
    unpack_add(s->dk + to, row, w->piece[PIECE_DK], s->stride, n, s->width, LN_2);
    unpack_add(s->dv + to, row, w->piece[PIECE_DV], s->stride, n, s->width, 1);
}

/* dst [words, LH_TILE_Q] = transposed src [rows, words]; the rows are zero up to whole vectors. */
static void transpose_block(real *dst, const real *src, int64_t words, int64_t rows)
{
    for (int64_t i = 0; i < rows; i += LANES)
        for (int64_t p = 0; p < words; p += LANES)
            vec_transpose(src + i * words + p, words, dst + p * LH_TILE_Q + i, LH_TILE_Q);
}
