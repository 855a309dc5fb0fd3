/* Part of core/tile_body.h: matrix products of rows and columns that lie close together, for a
 * vector instruction set (GEMM_SLOT: the exported name). Everything else goes to BLIS.
 *
 * Why not BLIS throughout: a step's products are a chunk of tokens by a few hundred features. There
 * BLIS packs both operands with plain loops, and its threads meet at barriers in which they spin,
 * which costs a multiple of the product where processors are shared.
 *
 * How it works. C is cut into a grid of parts, one for each thread, that never wait for each other.
 * Within a part GEMM_DEPTH rows of B are packed at a time, for GEMM_WIDE columns, in panels of
 * OUT_VECS vectors; A is read where it lies, row by row, or, if it is transposed, packed in panels of
 * OUT_ROWS rows. An element of C is a sum in the order of k, cut at multiples of GEMM_DEPTH, wherever
 * in the grid it lies: neither the number of threads nor the other rows change a bit. */

enum {
    GEMM_COLS = OUT_VECS * LANES, /* columns of a panel */
    GEMM_DEPTH = 256,
    GEMM_PANELS = 8,
    GEMM_WIDE = GEMM_PANELS * GEMM_COLS,
    GEMM_TALL = 8 * OUT_ROWS /* rows of A that are packed at a time */
};

typedef struct gemm_part {
    const lh_gemm_args *g;
    int64_t row, rows, col, cols; /* of C */
} gemm_part;

/* ---- Register blocks ---- */

/* On its own a block has the registers to itself. */
#define NOINLINE __attribute__((noinline))

/* c += or = alpha * acc for `cols` columns; what a vector does, so that edges give the same bits. */
static ALWAYS_INLINE void gemm_put(real *c, vec acc[OUT_VECS], vec alpha, bool add, int64_t cols)
{
    UNROLL for (int v = 0; v < OUT_VECS; v++)
    {
        const int64_t left = cols - v * LANES;
        real *at = c + v * LANES;
        if (left >= LANES) {
            vec sum = alpha * acc[v];
            if (add) sum = *(vec_any *)at + alpha * acc[v];
            *(vec_any *)at = sum;
        } else if (left > 0) {
            real edge[LANES] __attribute__((aligned(sizeof(vec)))) = {0};
            if (add) memcpy(edge, at, (size_t)left * sizeof(real));
            vec sum = alpha * acc[v];
            if (add) sum = load(edge) + alpha * acc[v];
            store(edge, sum);
            memcpy(at, edge, (size_t)left * sizeof(real));
        }
    }
}

/* What one call of a register block needs: a panel of B [depth, GEMM_COLS], rows of A. */
typedef struct gemm_block {
    int64_t depth;
    const real *a;
    int64_t a_rs; /* of A where it lies */
    const real *b;
    real *c;
    int64_t c_rs, cols;
    real alpha;
    bool add;
} gemm_block;

/* gemm_packed_N: A as [depth, OUT_ROWS]. gemm_rows_N: A where it lies, in groups of three rows, whose
 * addresses one pointer and the stride give: twelve pointers would not fit into registers. */
#define GEMM_BLOCK(n)                                                                              \
    PRODUCT(gemm_product_##n, n, OUT_VECS)                                                         \
    static NOINLINE void gemm_packed_##n(const gemm_block *s)                                      \
    {                                                                                              \
        vec acc[n][OUT_VECS] = {{{0}}};                                                            \
        gemm_product_##n(s->depth, s->a, 1, OUT_ROWS, s->b, GEMM_COLS, acc);                       \
        UNROLL for (int r = 0; r < (n); r++)                                                       \
            gemm_put(s->c + r * s->c_rs, acc[r], vec_splat(s->alpha), s->add, s->cols);            \
    }                                                                                              \
    static NOINLINE void gemm_rows_##n(const gemm_block *s)                                        \
    {                                                                                              \
        enum { GROUPS = ((n) + 2) / 3 };                                                           \
        vec acc[n][OUT_VECS] = {{{0}}};                                                            \
        const int64_t rs = s->a_rs;                                                                \
        const real *a[GROUPS], *b = s->b;                                                          \
        UNROLL for (int i = 0; i < GROUPS; i++) a[i] = s->a + 3 * i * rs;                          \
        for (int64_t p = 0; p < s->depth; p++, b += GEMM_COLS) {                                   \
            vec right[OUT_VECS];                                                                   \
            UNROLL for (int v = 0; v < OUT_VECS; v++) right[v] = load(b + v * LANES);              \
            UNROLL for (int r = 0; r < (n); r++)                                                   \
            {                                                                                      \
                vec left = vec_splat(a[r / 3][r % 3 * rs]);                                        \
                UNROLL for (int v = 0; v < OUT_VECS; v++) acc[r][v] += left * right[v];            \
            }                                                                                      \
            UNROLL for (int i = 0; i < GROUPS; i++) a[i]++;                                        \
        }                                                                                          \
        UNROLL for (int r = 0; r < (n); r++)                                                       \
            gemm_put(s->c + r * s->c_rs, acc[r], vec_splat(s->alpha), s->add, s->cols);            \
    }

GEMM_BLOCK(1)
GEMM_BLOCK(4)
GEMM_BLOCK(OUT_ROWS)

/* Up to OUT_ROWS rows of C, one panel of B. */
static void gemm_block_run(gemm_block s, int64_t rows, bool packed)
{
    for (int64_t r = 0; r < rows;) {
        const int64_t n = rows - r >= OUT_ROWS ? OUT_ROWS : rows - r >= 4 ? 4 : 1;
        if (n == OUT_ROWS)
            packed ? gemm_packed_OUT_ROWS(&s) : gemm_rows_OUT_ROWS(&s);
        else if (n == 4)
            packed ? gemm_packed_4(&s) : gemm_rows_4(&s);
        else
            packed ? gemm_packed_1(&s) : gemm_rows_1(&s);
        r += n;
        s.a += packed ? n : n * s.a_rs;
        s.c += n * s.c_rs;
    }
}

/* ---- Packing ---- */

/* A panel of B: dst [depth, GEMM_COLS] = b [depth, cols], zeros beyond. */
static void gemm_pack_plain(real *dst, const real *b, int64_t rs, int64_t depth, int64_t cols)
{
    if (cols == GEMM_COLS) {
        for (int64_t p = 0; p < depth; p++)
            UNROLL for (int v = 0; v < OUT_VECS; v++)
                store(dst + p * GEMM_COLS + v * LANES, *(const vec_any *)(b + p * rs + v * LANES));
        return;
    }
    for (int64_t p = 0; p < depth; p++) {
        real *to = dst + p * GEMM_COLS;
        memcpy(to, b + p * rs, (size_t)cols * sizeof(real));
        memset(to + cols, 0, (size_t)(GEMM_COLS - cols) * sizeof(real));
    }
}

/* The same where B lies transposed: column j of it is a row, cs apart. */
static void gemm_pack_turned(real *dst, const real *b, int64_t cs, int64_t depth, int64_t cols)
{
    int64_t j = 0;
    const int64_t whole = depth / LANES * LANES;
    for (; j + LANES <= cols; j += LANES) {
        for (int64_t p = 0; p < whole; p += LANES)
            vec_transpose(b + j * cs + p, cs, dst + p * GEMM_COLS + j, GEMM_COLS);
        for (int64_t p = whole; p < depth; p++)
            for (int l = 0; l < LANES; l++) dst[p * GEMM_COLS + j + l] = b[(j + l) * cs + p];
    }
    for (; j < GEMM_COLS; j++)
        for (int64_t p = 0; p < depth; p++)
            dst[p * GEMM_COLS + j] = j < cols ? b[j * cs + p] : (real)0;
}

/* Rows of A that lies transposed, cs apart: panels [GEMM_DEPTH, OUT_ROWS], of which `depth` are
 * filled. */
static void gemm_pack_rows(real *dst, const real *a, int64_t cs, int64_t depth, int64_t rows)
{
    const int64_t whole = rows / OUT_ROWS * OUT_ROWS;
    for (int64_t p = 0; p < depth; p++, a += cs, dst += OUT_ROWS) {
        for (int64_t r = 0; r < whole; r += OUT_ROWS)
            memcpy(dst + r * GEMM_DEPTH, a + r, OUT_ROWS * sizeof(real));
        if (whole < rows)
            memcpy(dst + whole * GEMM_DEPTH, a + whole, (size_t)(rows - whole) * sizeof(real));
    }
}

/* ---- One part of C ---- */

/* Columns [j, j + wide) of the part at depth [p, p + depth), B being packed. */
static void gemm_rows_of(const gemm_part *w, const real *packed, int64_t j, int64_t wide, int64_t p,
                         int64_t depth)
{
    const lh_gemm_args *g = w->g;
    const bool turned = g->a_cs != 1;
    real rows_packed[GEMM_TALL * GEMM_DEPTH] __attribute__((aligned(sizeof(vec))));
    gemm_block s = {.depth = depth, .a_rs = g->a_rs, .c_rs = g->c_rs, .alpha = (real)g->alpha};
    s.add = g->accumulate || p > 0;
    for (int64_t i = 0; i < w->rows; i += OUT_ROWS) {
        const int64_t row = w->row + i, in_tall = i % GEMM_TALL;
        const real *a = (const real *)g->a + row * g->a_rs + p * g->a_cs;
        if (turned && in_tall == 0)
            gemm_pack_rows(rows_packed, a, g->a_cs, depth, min_of(GEMM_TALL, w->rows - i));
        s.a = turned ? rows_packed + in_tall * GEMM_DEPTH : a;
        for (int64_t c = 0; c < wide; c += GEMM_COLS) {
            s.b = packed + c * GEMM_DEPTH;
            s.cols = min_of(GEMM_COLS, wide - c);
            s.c = (real *)g->c + row * g->c_rs + w->col + j + c;
            gemm_block_run(s, min_of(OUT_ROWS, w->rows - i), turned);
        }
    }
}

static void gemm_part_run(const gemm_part *w)
{
    const lh_gemm_args *g = w->g;
    real packed[GEMM_WIDE * GEMM_DEPTH] __attribute__((aligned(sizeof(vec))));
    for (int64_t j = 0; j < w->cols; j += GEMM_WIDE)
        for (int64_t p = 0; p < g->k; p += GEMM_DEPTH) {
            const int64_t wide = min_of(GEMM_WIDE, w->cols - j),
                          depth = min_of(GEMM_DEPTH, g->k - p);
            for (int64_t c = 0; c < wide; c += GEMM_COLS) {
                const real *b = (const real *)g->b + p * g->b_rs + (w->col + j + c) * g->b_cs;
                const int64_t cols = min_of(GEMM_COLS, wide - c);
                if (g->b_cs == 1)
                    gemm_pack_plain(packed + c * GEMM_DEPTH, b, g->b_rs, depth, cols);
                else
                    gemm_pack_turned(packed + c * GEMM_DEPTH, b, g->b_cs, depth, cols);
            }
            gemm_rows_of(w, packed, j, wide, p, depth);
        }
}

/* ---- The grid ---- */

enum { GEMM_PACKED = 12 }; /* multiply-adds that packing costs */

typedef struct gemm_grid {
    int64_t rows, cols; /* of parts: in register blocks and in panels */
    int down, across;
} gemm_grid;

/* Of the ways to give every thread one part, that whose largest costs least. */
static gemm_grid gemm_cut(const lh_gemm_args *g, int threads)
{
    const int64_t high = (g->m + OUT_ROWS - 1) / OUT_ROWS,
                  wide = (g->n + GEMM_COLS - 1) / GEMM_COLS;
    const double most = (double)g->m * (double)g->n * (double)g->k / LHI_GEMM_SHARE;
    double best = INFINITY;
    gemm_grid grid = {high, wide, 1, 1};
    if (most < (double)threads) threads = most < 1 ? 1 : (int)most;
    for (int down = 1; down <= threads; down++) {
        const int across = threads / down;
        const int64_t rows = (high + down - 1) / down, cols = (wide + across - 1) / across;
        const double cost = (double)(cols * GEMM_COLS) * ((double)(rows * OUT_ROWS) + GEMM_PACKED);
        if (cost >= best) continue;
        best = cost;
        grid = (gemm_grid){rows, cols, down, across};
    }
    return grid;
}

static void gemm_grid_run(const lh_gemm_args *g, const gemm_grid *grid, int64_t i)
{
    const int64_t row = i / grid->across * grid->rows * OUT_ROWS;
    const int64_t col = i % grid->across * grid->cols * GEMM_COLS;
    const gemm_part w = {g, row, min_of(grid->rows * OUT_ROWS, g->m - row), col,
                         min_of(grid->cols * GEMM_COLS, g->n - col)};
    if (w.rows > 0 && w.cols > 0) gemm_part_run(&w);
}

/* Where the rows of C lie side by side, its transpose is made. */
static lh_gemm_args gemm_turned(const lh_gemm_args *g)
{
    lh_gemm_args t = *g;
    if (g->c_cs == 1 || g->c_rs != 1) return t;
    t.m = g->n, t.n = g->m;
    t.a = g->b, t.a_rs = g->b_cs, t.a_cs = g->b_rs;
    t.b = g->a, t.b_rs = g->a_cs, t.b_cs = g->a_rs;
    t.c_rs = g->c_cs, t.c_cs = 1;
    return t;
}

/* BLIS is some per cent faster where all of m, n and k are large. */
enum { GEMM_LARGE = 1024 };

static bool gemm_fits(const lh_gemm_args *g)
{
    if (min_of(min_of(g->m, g->n), g->k) >= GEMM_LARGE) return false;
    return g->m > 0 && g->n > 0 && g->k > 0 && g->c_cs == 1 && (g->a_cs == 1 || g->a_rs == 1) &&
           (g->b_cs == 1 || g->b_rs == 1);
}

void TILE_SLOT(gemm)(const lh_gemm_args *args, int threads)
{
    const lh_gemm_args g = gemm_turned(args);
    if (!gemm_fits(&g)) {
        GEMM_ELSE(args, threads);
        return;
    }
    const gemm_grid grid = gemm_cut(&g, threads > 1 ? threads : 1);
    const int64_t parts = (int64_t)grid.down * grid.across;
#ifdef _OPENMP
    if (parts > 1) {
#pragma omp parallel for num_threads((int)parts) schedule(static, 1)
        for (int64_t i = 0; i < parts; i++) gemm_grid_run(&g, &grid, i);
        return;
    }
#endif
    for (int64_t i = 0; i < parts; i++) gemm_grid_run(&g, &grid, i);
}
