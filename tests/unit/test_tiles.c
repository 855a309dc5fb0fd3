/* The attention tile kernels against a softmax written down plainly, in double, over the same
 * tiles. */
#include "core/kernels_internal.h"

#include "tests/lh_test.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <threads.h>

typedef struct variant {
    const char *name;
    size_t bytes; /* of an element */
    void (*attend)(const lh_attend_args *, int);
    void (*finish)(const lh_attend_finish_args *, int);
    void (*delta)(const lh_attend_delta_args *, int);
    void (*grad)(const lh_attend_grad_args *, int);
    size_t (*scratch)(const lh_attend_room *, int);
} variant;

#define VARIANT(name, bytes)                                                                       \
    {                                                                                              \
#name, bytes, lhi_attend_##name, lhi_attend_finish_##name, lhi_attend_delta_##name,        \
            lhi_attend_grad_##name, lhi_attend_scratch_##name                                      \
    }

static const variant variants[] = {
    VARIANT(f64, 8),
    VARIANT(f32, 4),
#if defined(__x86_64__)
    VARIANT(f32_avx2, 4),
    VARIANT(f32_avx512, 4),
#endif
#ifdef LH_AVX512_BF16
    VARIANT(f32_avx512_bf16, 4),
#endif
};
enum { N_VARIANTS = sizeof variants / sizeof variants[0] };

/* Does it round the operands of its products? */
static bool rounds(const variant *x)
{
    return strcmp(x->name, "f32_avx512_bf16") == 0;
}

static bool can_run(const variant *x)
{
    bool yes = true;
#if defined(__x86_64__)
    if (strcmp(x->name, "f32_avx2") == 0)
        yes = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (strcmp(x->name, "f32_avx512") == 0)
        yes = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
    if (rounds(x)) yes = lh_kernels_f32_avx512_bf16() != NULL;
    if (!yes) printf("[  SKIPPED ] %s: not on this processor\n", x->name);
    return yes;
}

/* ---- Cases ---- */

enum { MAX_TILES = 64, MAX_BLOCKS = 3, MAX_BATCH = 3 };

/* blocks key blocks of k_rows rows each; tile i belongs to block[i]; a call per block, in that
 * order. */
typedef struct scene {
    const char *name;
    int64_t batch, heads, kv_heads, width, q_rows, k_rows, head, n_heads;
    double scale, size; /* size: of the random entries of Q and K */
    int n_blocks, n_tiles;
    lh_tile tile[MAX_TILES];
    int block[MAX_TILES];
    uint64_t *bits;
    bool has_valid, has_hidden;
    int64_t valid[MAX_BATCH];
    int32_t *limits; /* [batch, q_rows, 2] or NULL */
    lh_hidden hidden[MAX_BATCH];
    int64_t kv_first, kv_held; /* kv_held 0: all */
    int64_t most_keys;         /* as of lh_attend_args */
    int64_t r_rows;            /* 0: no relative term */
    /* Inputs are small whole numbers, and so are scores as powers of 2: nothing but the P and dS of
     * the backward is changed by rounding to bfloat16, which the reference then does, too. */
    bool whole;
} scene;

/* The gradient of array i is DQ + i, for i up to R. */
enum { Q, K, V, QR, R, DO, DLSE, O, LSE, DQ, DK, DV, DQR, DR, N_ARRAYS };

typedef struct arrays {
    double *x[N_ARRAYS];
    int64_t n[N_ARRAYS];
    double *slack[N_ARRAYS]; /* of gradients: what two ways to round a number that lies between */
} arrays;

static double uniform(uint64_t *state)
{
    *state = *state * 6364136223846793005U + 1442695040888963407U;
    return (double)(*state >> 11) / 9007199254740992.0 * 2 - 1;
}

static void *new_zeroed(size_t n)
{
    void *p = aligned_alloc(64, (n + 127) / 64 * 64);
    assert_non_null(p);
    memset(p, 0, n + 64);
    return p;
}

/* Heads in a row of K and V. */
static int64_t heads_held(const scene *c)
{
    return c->kv_held > 0 ? c->kv_held : c->kv_heads;
}

static int64_t array_size(const scene *c, int i)
{
    int64_t queries = c->batch * c->q_rows * c->heads;
    switch (i) {
    case K:
    case V:
    case DK:
    case DV:
        return c->n_blocks * c->batch * c->k_rows * heads_held(c) * c->width;
    case LSE:
    case DLSE:
        return queries;
    case QR:
    case DQR:
        return c->r_rows > 0 ? queries * c->width : 0;
    case R:
    case DR:
        return c->r_rows * c->heads * c->width;
    default:
        return queries * c->width;
    }
}

static arrays make_arrays(const scene *c)
{
    arrays a;
    uint64_t state = 7;
    for (int i = 0; i < N_ARRAYS; i++) {
        a.n[i] = array_size(c, i);
        a.x[i] = new_zeroed((size_t)a.n[i] * sizeof(double));
        a.slack[i] = new_zeroed((size_t)a.n[i] * sizeof(double));
        for (int64_t j = 0; i < O && j < a.n[i]; j++)
            a.x[i][j] = (double)(float)(uniform(&state) * (i == Q || i == K ? c->size : 1));
        for (int64_t j = 0; c->whole && i < DLSE && j < a.n[i]; j++)
            a.x[i][j] = nearbyint(a.x[i][j]);
    }
    return a;
}

/* To a bfloat16 number: nearest, ties to even. */
static double to_bf16(double x)
{
    int exponent = 0;
    if (x == 0 || !isfinite(x)) return x;
    (void)frexp(x, &exponent);
    return ldexp(nearbyint(ldexp(x, 8 - exponent)), exponent - 8);
}

static void free_arrays(arrays *a)
{
    for (int i = 0; i < N_ARRAYS; i++) {
        free(a->x[i]);
        free(a->slack[i]);
    }
}

static bool sees(const scene *c, const lh_tile *t, int64_t b, int64_t i, int64_t j)
{
    const int64_t position = t->k_position + j * t->k_step;
    if (j - i < t->lo || j - i > t->hi) return false;
    if (c->has_valid && position >= c->valid[b]) return false;
    if (c->limits != NULL) {
        const int32_t *limit = c->limits + 2 * (b * c->q_rows + t->q_row + i * t->q_stride);
        if (position < limit[0] || position >= limit[1]) return false;
    }
    for (int64_t x = 0; c->has_hidden && x < c->hidden[b].count; x++)
        if (c->hidden[b].position[x] == position) return false;
    int64_t bit = t->bits + i * t->nk + j;
    return t->bits < 0 || (c->bits[bit / 64] >> (bit % 64) & 1);
}

/* ---- The reference: one query at a time, all its scores at once ---- */

typedef struct seen {
    int64_t n, *at, *r_at; /* offsets of key rows in K and V, and of table rows in R */
    double *score;
} seen;

static int64_t key_at(const scene *c, int block, int64_t b, int64_t row, int64_t h)
{
    return (((block * c->batch + b) * c->k_rows + row) * heads_held(c) +
            h / (c->heads / c->kv_heads) - c->kv_first) *
           c->width;
}

static double dot(const double *x, const double *y, int64_t n)
{
    double s = 0;
    for (int64_t i = 0; i < n; i++) s += x[i] * y[i];
    return s;
}

static void collect(const scene *c, const arrays *a, int64_t b, int64_t row, int64_t h, seen *s)
{
    const int64_t q = ((b * c->q_rows + row) * c->heads + h) * c->width;
    s->n = 0;
    for (int x = 0; x < c->n_tiles; x++) {
        const lh_tile *t = c->tile + x;
        int64_t i = (row - t->q_row) / t->q_stride;
        if (row < t->q_row || i >= t->nq || t->q_row + i * t->q_stride != row) continue;
        for (int64_t j = 0; j < t->nk; j++) {
            if (!sees(c, t, b, i, j)) continue;
            s->at[s->n] = key_at(c, c->block[x], b, t->k_row + j * t->k_stride, h);
            double score = dot(a->x[Q] + q, a->x[K] + s->at[s->n], c->width);
            s->r_at[s->n] = ((t->r_row + (i - j) * t->r_step) * c->heads + h) * c->width;
            if (c->r_rows > 0) score += dot(a->x[QR] + q, a->x[R] + s->r_at[s->n], c->width);
            s->score[s->n++] = c->scale * score;
        }
    }
}

/* What one probability p and the gradient ds of its score add to the gradients; to the slack, if they
 * are distances. */
static void add_gradients(const scene *c, arrays *a, int64_t at, const seen *s, int64_t i, double p,
                          double ds, bool slack)
{
    double **to = slack ? a->slack : a->x;
    const int64_t k = s->at[i];
    for (int64_t d = 0; d < c->width; d++) {
        const double dv = p * a->x[DO][at + d], dq = ds * a->x[K][k + d], dk = ds * a->x[Q][at + d];
        to[DV][k + d] += slack ? fabs(dv) : dv;
        to[DQ][at + d] += slack ? fabs(dq) : dq;
        to[DK][k + d] += slack ? fabs(dk) : dk;
        if (c->r_rows == 0) continue;
        const double dqr = ds * a->x[R][s->r_at[i] + d], dr = ds * a->x[QR][at + d];
        to[DQR][at + d] += slack ? fabs(dqr) : dqr;
        to[DR][s->r_at[i] + d] += slack ? fabs(dr) : dr;
    }
}

/* *x to bfloat16. Returns how far apart x - error and x + error are then. */
static double round_within(double *x, double error)
{
    const double apart = to_bf16(*x + error) - to_bf16(*x - error);
    *x = to_bf16(*x);
    return apart;
}

static void reference_row(const scene *c, arrays *a, int64_t b, int64_t row, int64_t h, seen *s)
{
    int64_t stat = (b * c->heads + h) * c->q_rows + row;
    int64_t at = ((b * c->q_rows + row) * c->heads + h) * c->width;
    double *o = a->x[O] + at, *d_o = a->x[DO] + at, top = -INFINITY, sum = 0;
    collect(c, a, b, row, h, s);
    for (int64_t i = 0; i < s->n; i++) top = fmax(top, s->score[i]);
    for (int64_t i = 0; i < s->n; i++) sum += exp(s->score[i] - top);
    a->x[LSE][stat] = s->n > 0 ? top + log(sum) : -INFINITY;
    for (int64_t i = 0; i < s->n; i++) {
        s->score[i] = exp(s->score[i] - a->x[LSE][stat]);
        for (int64_t d = 0; d < c->width; d++) o[d] += s->score[i] * a->x[V][s->at[i] + d];
    }
    double delta = dot(o, d_o, c->width) - a->x[DLSE][stat];
    for (int64_t i = 0; i < s->n; i++) {
        const double dp = dot(d_o, a->x[V] + s->at[i], c->width);
        double p = s->score[i], ds = p * (dp - delta);
        if (c->whole) { /* the kernel's float differs by a little before it rounds */
            const double off_ds = round_within(&ds, 1e-5 * p * (1 + fabs(dp) + fabs(delta)));
            const double off_p = round_within(&p, 4e-6 * p);
            if (off_p > 0 || off_ds > 0)
                add_gradients(c, a, at, s, i, off_p, c->scale * off_ds, true);
        }
        add_gradients(c, a, at, s, i, p, c->scale * ds, false);
    }
}

static void reference(const scene *c, arrays *a)
{
    int64_t most = 0;
    for (int i = 0; i < c->n_tiles; i++) most += c->tile[i].nk;
    seen s = {.at = new_zeroed((size_t)most * 8),
              .r_at = new_zeroed((size_t)most * 8),
              .score = new_zeroed((size_t)most * 8)};
    for (int i = O; i < N_ARRAYS; i++) memset(a->x[i], 0, (size_t)a->n[i] * sizeof(double));
    for (int64_t i = 0; i < a->n[LSE]; i++) a->x[LSE][i] = -INFINITY;
    for (int64_t b = 0; b < c->batch; b++)
        for (int64_t h = c->head; h < c->head + c->n_heads; h++)
            for (int64_t row = 0; row < c->q_rows; row++) reference_row(c, a, b, row, h, &s);
    free(s.at);
    free(s.r_at);
    free(s.score);
}

/* ---- The kernels ---- */

static void *to_element(const double *x, int64_t n, size_t bytes)
{
    void *y = new_zeroed((size_t)n * bytes);
    for (int64_t i = 0; i < n; i++) {
        if (bytes == 8)
            ((double *)y)[i] = x[i];
        else
            ((float *)y)[i] = (float)x[i];
    }
    return y;
}

static void from_element(double *x, const void *y, int64_t n, size_t bytes)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = bytes == 8 ? ((const double *)y)[i] : (double)((const float *)y)[i];
}

typedef struct machine {
    const variant *kernel;
    void *x[N_ARRAYS], *max, *sum, *delta, *scratch;
    thrd_t caller;
    int64_t between; /* calls between blocks of queries */
    bool elsewhere;  /* one of them by another thread */
} machine;

static void between_blocks(void *user)
{
    machine *m = user;
    m->elsewhere = m->elsewhere || !thrd_equal(thrd_current(), m->caller);
    m->between++;
}

/* Blocks of queries, of all heads and sequences: neighbours among the tiles of a call that have the
 * same ones. */
static int64_t blocks_of(const scene *c)
{
    int64_t n = 0;
    for (int i = 0; i < c->n_tiles; i++) {
        const lh_tile *t = &c->tile[i];
        int last = i - 1;
        while (last >= 0 && c->block[last] != c->block[i]) last--;
        n += last < 0 || t->q_row != c->tile[last].q_row || t->nq != c->tile[last].nq ||
             t->q_stride != c->tile[last].q_stride;
    }
    return n * c->batch * c->n_heads;
}

static int tiles_of(const scene *c, int block, lh_tile *out)
{
    int n = 0;
    for (int i = 0; i < c->n_tiles; i++)
        if (c->block[i] == block) out[n++] = c->tile[i];
    return n;
}

static lh_sight sight_of(const scene *c)
{
    return (lh_sight){.valid = c->has_valid ? c->valid : NULL,
                      .limits = c->limits,
                      .hidden = c->has_hidden ? c->hidden : NULL};
}

static void run_forward(const scene *c, machine *m, int threads)
{
    lh_tile tiles[MAX_TILES];
    size_t block = (size_t)(c->batch * c->k_rows * heads_held(c) * c->width) * m->kernel->bytes;
    lh_attend_args a = {.batch = c->batch,
                        .heads = c->heads,
                        .kv_heads = c->kv_heads,
                        .width = c->width,
                        .q_rows = c->q_rows,
                        .k_rows = c->k_rows,
                        .most_keys = c->most_keys,
                        .head = c->head,
                        .n_heads = c->n_heads,
                        .scale = c->scale,
                        .q = m->x[Q],
                        .o = m->x[O],
                        .max = m->max,
                        .sum = m->sum,
                        .tiles = tiles,
                        .bits = c->bits,
                        .sight = sight_of(c),
                        .kv_first = c->kv_first,
                        .kv_held = c->kv_held,
                        .qr = c->r_rows > 0 ? m->x[QR] : NULL,
                        .r = c->r_rows > 0 ? m->x[R] : NULL,
                        .r_rows = c->r_rows,
                        .scratch = m->scratch,
                        .between = between_blocks,
                        .user = m};
    for (int i = 0; i < c->n_blocks; i++) {
        a.n_tiles = tiles_of(c, i, tiles);
        a.k = (const char *)m->x[K] + (size_t)i * block;
        a.v = (const char *)m->x[V] + (size_t)i * block;
        m->kernel->attend(&a, threads);
    }
    lh_attend_finish_args f = {.batch = c->batch,
                               .heads = c->heads,
                               .width = c->width,
                               .q_rows = c->q_rows,
                               .o = m->x[O],
                               .max = m->max,
                               .sum = m->sum,
                               .lse = m->x[LSE]};
    m->kernel->finish(&f, threads);
}

static void run_backward(const scene *c, machine *m, int threads)
{
    lh_tile tiles[MAX_TILES];
    size_t block = (size_t)(c->batch * c->k_rows * heads_held(c) * c->width) * m->kernel->bytes;
    lh_attend_delta_args d = {.batch = c->batch,
                              .heads = c->heads,
                              .width = c->width,
                              .q_rows = c->q_rows,
                              .o = m->x[O],
                              .d_o = m->x[DO],
                              .dlse = m->x[DLSE],
                              .delta = m->delta};
    m->kernel->delta(&d, threads);
    lh_attend_grad_args a = {.batch = c->batch,
                             .heads = c->heads,
                             .kv_heads = c->kv_heads,
                             .width = c->width,
                             .q_rows = c->q_rows,
                             .k_rows = c->k_rows,
                             .most_keys = c->most_keys,
                             .head = c->head,
                             .n_heads = c->n_heads,
                             .scale = c->scale,
                             .q = m->x[Q],
                             .d_o = m->x[DO],
                             .lse = m->x[LSE],
                             .delta = m->delta,
                             .dq = m->x[DQ],
                             .tiles = tiles,
                             .bits = c->bits,
                             .sight = sight_of(c),
                             .kv_first = c->kv_first,
                             .kv_held = c->kv_held,
                             .qr = c->r_rows > 0 ? m->x[QR] : NULL,
                             .r = c->r_rows > 0 ? m->x[R] : NULL,
                             .dqr = c->r_rows > 0 ? m->x[DQR] : NULL,
                             .dr = c->r_rows > 0 ? m->x[DR] : NULL,
                             .r_rows = c->r_rows,
                             .scratch = m->scratch,
                             .between = between_blocks,
                             .user = m};
    for (int i = 0; i < c->n_blocks; i++) {
        a.n_tiles = tiles_of(c, i, tiles);
        a.k = (const char *)m->x[K] + (size_t)i * block;
        a.v = (const char *)m->x[V] + (size_t)i * block;
        a.dk = (char *)m->x[DK] + (size_t)i * block;
        a.dv = (char *)m->x[DV] + (size_t)i * block;
        m->kernel->grad(&a, threads);
    }
}

/* Forward and backward of a variant with the inputs of `in`; results into out->x[O ...]. */
static void run_kernels(const scene *c, const variant *kernel, const arrays *in, arrays *out,
                        int threads)
{
    size_t bytes = kernel->bytes;
    int64_t stats = in->n[LSE];
    machine m = {.kernel = kernel, .caller = thrd_current()};
    for (int i = 0; i < N_ARRAYS; i++) {
        m.x[i] = to_element(in->x[i], in->n[i], bytes);
        if (i >= O) memset(m.x[i], 0, (size_t)in->n[i] * bytes);
    }
    m.sum = new_zeroed((size_t)stats * bytes);
    m.delta = new_zeroed((size_t)stats * bytes);
    m.max = new_zeroed((size_t)stats * bytes);
    for (int64_t i = 0; i < stats; i++) {
        if (bytes == 8)
            ((double *)m.max)[i] = -INFINITY;
        else
            ((float *)m.max)[i] = -INFINITY;
    }
    const lh_attend_room room = {.width = c->width,
                                 .k_rows = c->k_rows,
                                 .most_keys = c->most_keys,
                                 .relative = c->r_rows > 0,
                                 .backward = true};
    size_t scratch = kernel->scratch(&room, threads);
    m.scratch = new_zeroed(scratch);
    memset(m.scratch, 0xff, scratch + 64); /* NaN: nothing may rely on what was there */
    run_forward(c, &m, threads);
    run_backward(c, &m, threads);
    /* only the caller's thread may see to messages; keys taken in spans make more calls, keys that
     * nobody sees fewer */
    assert_false(m.elsewhere);
    bool all_seen = c->n_blocks == 1 || c->k_rows >= c->q_rows;
    if (threads == 1 && c->k_rows > 0 && all_seen && !c->has_valid && c->limits == NULL)
        assert_true(m.between >= 2 * blocks_of(c));
    const unsigned char *guard = (const unsigned char *)m.scratch + scratch;
    for (int i = 0; i < 64; i++) assert_int_equal(guard[i], 0xff);
    for (int i = O; i < N_ARRAYS; i++) from_element(out->x[i], m.x[i], in->n[i], bytes);
    for (int i = 0; i < N_ARRAYS; i++) free(m.x[i]);
    free(m.max);
    free(m.sum);
    free(m.delta);
    free(m.scratch);
}

/* ---- Comparison ---- */

static void compare(const char *what, const char *kernel, const arrays *want, const arrays *got,
                    int i, double tolerance)
{
    static const char *const label[] = {"q", "k",   "v",  "qr", "r",  "do",  "dlse",
                                        "o", "lse", "dq", "dk", "dv", "dqr", "dr"};
    double largest = 0, error = 0;
    for (int64_t j = 0; j < want->n[i]; j++) {
        double x = want->x[i][j], y = got->x[i][j];
        if (isinf(x) && x == y) continue;
        largest = fmax(largest, fabs(x));
        const double off = fabs(x - y) - want->slack[i][j];
        if (!(off <= error)) error = isnan(off) ? INFINITY : off;
    }
    if (!(error <= tolerance * fmax(largest, 1e-3)))
        fail_msg("%s, %s: %s differs by %g of %g", what, kernel, label[i], error, largest);
}

/* A scale for which the kernel's factor scale * log2(e) is exactly 1, so that its exp2 can be seen
 * alone. */
static double unit_scale(void)
{
    const float log2_e = 1.4426950408889634F;
    float s = 0.69314718F;
    for (int i = 0; i < 8 && s * log2_e > 1; i++) s = nextafterf(s, 0);
    for (int i = 0; i < 8 && s * log2_e < 1; i++) s = nextafterf(s, 1);
    assert_true(s * log2_e == 1);
    return s;
}

/* Relative to the array's largest entry. Rounded to bfloat16 a number is off by 2^-9 of itself at
 * most, and a score by sums of such errors. */
static double tolerance(const scene *c, const variant *x, int array)
{
    const bool gradient = array > LSE;
    if (x->bytes == 8) return 1e-12;
    if (!rounds(x)) return gradient ? 2e-5 : 5e-6;
    if (c->whole) return 2e-5;
    return (gradient ? 2e-2 : 1e-2) * c->size * c->size / 4;
}

/* The kernel that rounds, where what it should give is known. */
static void check_rounding(const scene *general)
{
    scene c = *general;
    c.whole = true;
    c.size = 1;
    c.scale = unit_scale();
    arrays want = make_arrays(&c), got = make_arrays(&c);
    reference(&c, &want);
    for (int k = 0; k < N_VARIANTS; k++) {
        const variant *x = variants + k;
        if (!rounds(x) || !can_run(x)) continue;
        run_kernels(&c, x, &want, &got, 1);
        for (int i = O; i < N_ARRAYS; i++)
            compare(c.name, x->name, &want, &got, i, tolerance(&c, x, i));
    }
    free_arrays(&want);
    free_arrays(&got);
}

static void check_scene(const scene *c)
{
    arrays want = make_arrays(c), got = make_arrays(c), again = make_arrays(c);
    reference(c, &want);
    for (int k = 0; k < N_VARIANTS; k++) {
        const variant *x = variants + k;
        if (!can_run(x)) continue;
        run_kernels(c, x, &want, &got, 1);
        for (int i = O; i < N_ARRAYS; i++)
            compare(c->name, x->name, &want, &got, i, tolerance(c, x, i));
        static const int thread_count[] = {2, 3, 7};
        for (int t = 0; t < 3; t++) {
            const int threads = thread_count[t];
            run_kernels(c, x, &want, &again, threads);
            for (int i = O; i < N_ARRAYS; i++)
                if (memcmp(got.x[i], again.x[i], (size_t)got.n[i] * sizeof(double)) != 0)
                    fail_msg("%s, %s: %d threads give other bits", c->name, x->name, threads);
        }
    }
    free_arrays(&want);
    free_arrays(&got);
    free_arrays(&again);
    check_rounding(c);
}

static scene new_scene(const char *name, int64_t heads, int64_t kv_heads, int64_t width,
                       int64_t q_rows, int64_t k_rows)
{
    scene c = {.name = name,
               .batch = 2,
               .heads = heads,
               .kv_heads = kv_heads,
               .width = width,
               .q_rows = q_rows,
               .k_rows = k_rows,
               .n_heads = heads,
               .scale = 1 / sqrt((double)width),
               .size = 2,
               .n_blocks = 1};
    return c;
}

static lh_tile *add_tile(scene *c, int block, int64_t q_row, int64_t nq, int64_t k_row, int64_t nk)
{
    assert_true(c->n_tiles < MAX_TILES && nq <= LH_TILE_Q);
    c->block[c->n_tiles] = block;
    lh_tile *t = c->tile + c->n_tiles++;
    *t = (lh_tile){.q_row = (int32_t)q_row,
                   .nq = (int32_t)nq,
                   .q_stride = 1,
                   .k_row = (int32_t)k_row,
                   .nk = (int32_t)nk,
                   .k_stride = 1,
                   .lo = -LH_TILE_FAR,
                   .hi = LH_TILE_FAR,
                   .bits = -1,
                   .k_position = k_row,
                   .k_step = 1};
    return t;
}

/* All queries in blocks of nq against all keys of every block; before, after: how far a query sees,
 * in rows. */
static void add_band(scene *c, int64_t nq, int64_t before, int64_t after)
{
    for (int64_t row = 0; row < c->q_rows; row += nq)
        for (int block = 0; block < c->n_blocks; block++) {
            lh_tile *t =
                add_tile(c, block, row, row + nq > c->q_rows ? c->q_rows - row : nq, 0, c->k_rows);
            int64_t shift = row - block * c->k_rows;
            if (before >= 0) t->lo = (int32_t)(shift - before);
            if (after >= 0) t->hi = (int32_t)(shift + after);
            t->k_position = block * c->k_rows;
        }
}

static void fill_bits(scene *c, double share)
{
    int64_t n = 5; /* an odd start */
    for (int i = 0; i < c->n_tiles; i++) {
        c->tile[i].bits = n;
        n += (int64_t)c->tile[i].nq * c->tile[i].nk;
    }
    c->bits = new_zeroed((size_t)(n / 64 + 1) * 8);
    uint64_t state = 3;
    for (int64_t i = 0; i < n; i++)
        if (uniform(&state) < 2 * share - 1) c->bits[i / 64] |= (uint64_t)1 << (i % 64);
}

/* Every tile's distances in one table, whose rows the tiles share: row = sign * (position of the
 * query - position of the key) + constant, positions being rows. A strided tile steps by its
 * stride. */
static void add_term(scene *c, int64_t sign)
{
    int64_t least = INT64_MAX, most = INT64_MIN;
    for (int x = 0; x < c->n_tiles; x++) {
        lh_tile *t = c->tile + x;
        t->r_row = sign * (t->q_row - t->k_row - c->block[x] * c->k_rows);
        t->r_step = sign * t->q_stride;
        int64_t one = t->r_row + t->r_step * (t->nq - 1),
                other = t->r_row - t->r_step * (t->nk - 1);
        least = one < least ? one : least;
        least = other < least ? other : least;
        most = one > most ? one : most;
        most = other > most ? other : most;
    }
    for (int x = 0; x < c->n_tiles; x++) c->tile[x].r_row -= least;
    c->r_rows = most - least + 1;
}

/* Documents of random length up to `longest`, others in each batch row; a query sees its own. */
static void add_documents(scene *c, int64_t longest)
{
    uint64_t state = 11;
    c->limits = new_zeroed((size_t)(c->batch * c->q_rows) * 2 * sizeof(int32_t));
    for (int64_t b = 0; b < c->batch; b++)
        for (int64_t begin = 0, end; begin < c->q_rows; begin = end) {
            end = begin + 1 + (int64_t)((uniform(&state) + 1) / 2 * (double)longest);
            for (int64_t i = begin; i < end && i < c->q_rows; i++) {
                c->limits[2 * (b * c->q_rows + i)] = (int32_t)begin;
                c->limits[2 * (b * c->q_rows + i) + 1] = (int32_t)end;
            }
        }
}

/* ---- Tests ---- */

static void test_full(void **unused)
{
    (void)unused;
    static const int64_t widths[] = {1, 7, 8, 20, 32, 64, 80, 128};
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        scene c = new_scene("full", 2, 2, widths[i], 50, 131);
        add_band(&c, 37, -1, -1);
        check_scene(&c);
    }
}

static void test_band(void **unused)
{
    (void)unused;
    static const int64_t reach[][2] = {{-1, 0}, {0, -1}, {40, 0}, {100, 13}, {0, 0}, {3, 200}};
    for (size_t i = 0; i < sizeof reach / sizeof reach[0]; i++) {
        scene c = new_scene("band", 2, 1, 20, 211, 211);
        add_band(&c, 96, reach[i][0], reach[i][1]);
        check_scene(&c);
        c = new_scene("band, small blocks", 1, 1, 64, 211, 211);
        add_band(&c, 29, reach[i][0], reach[i][1]);
        check_scene(&c);
    }
}

static void test_bits(void **unused)
{
    (void)unused;
    static const double share[] = {0.5, 0.02, 0, 1};
    for (size_t i = 0; i < sizeof share / sizeof share[0]; i++) {
        scene c = new_scene("bits", 2, 1, 16, 130, 210);
        add_band(&c, 70, i == 0 ? 60 : -1, -1);
        fill_bits(&c, share[i]);
        check_scene(&c);
        free(c.bits);
    }
}

static void test_valid(void **unused)
{
    (void)unused;
    for (int64_t step = -1; step <= 2; step++) {
        scene c = new_scene("valid", 1, 1, 24, 100, 200);
        c.batch = 3;
        add_band(&c, 96, -1, 30);
        for (int i = 0; i < c.n_tiles; i++) {
            c.tile[i].k_position = step < 0 ? 300 : 70;
            c.tile[i].k_step = step;
        }
        c.has_valid = true;
        c.valid[0] = 0;
        c.valid[1] = 171;
        c.valid[2] = 1000;
        check_scene(&c);
    }
}

static void test_groups(void **unused)
{
    (void)unused;
    scene c = new_scene("head groups", 6, 2, 9, 110, 60);
    add_band(&c, 55, -1, -1);
    check_scene(&c);
    c.name = "some heads";
    c.head = 2;
    c.n_heads = 3;
    check_scene(&c);
    c.batch = 1;
    c.head = 5;
    c.n_heads = 1;
    check_scene(&c);
}

/* Every third query in blocks of 50, in the order of their first rows, as a plan lists them. */
static void add_dilated(scene *c)
{
    for (int q = 0; q < 2; q++)
        for (int phase = 0; phase < 3; phase++) {
            lh_tile *t = add_tile(c, 0, phase + q * 150, 50, phase, 100);
            t->q_stride = t->k_stride = 3;
            t->k_step = 3;
            t->lo = q * 50 - 20;
            t->hi = q * 50 + 4;
        }
}

static void test_strides(void **unused)
{
    (void)unused;
    scene c = new_scene("dilated", 2, 1, 33, 300, 302);
    add_dilated(&c);
    check_scene(&c);
    c.name = "dilated, blocks that share queries"; /* threads must not work on them at once */
    c.batch = 1;
    for (int i = 0; i < 3; i++) c.tile[i].nq = 80;
    check_scene(&c);
    c.name = "dilated, single queries of others' blocks between";
    for (int i = 0; i < 3; i++) c.tile[i].nq = 50;
    for (int i = 3; i < 6; i++) {
        c.tile[i].q_row = 90 + i;
        c.tile[i].nq = c.tile[i].q_stride = 1;
    }
    check_scene(&c);
    c = new_scene("strided keys", 1, 1, 16, 100, 300);
    add_tile(&c, 0, 0, 96, 3, 149)->k_stride = 2;
    add_tile(&c, 0, 0, 96, 0, 100);
    add_tile(&c, 0, 96, 4, 299, 300)->k_stride = -1;
    check_scene(&c);
}

static void test_blocks(void **unused)
{
    (void)unused;
    scene c = new_scene("three key blocks", 2, 2, 16, 200, 90);
    c.n_blocks = 3;
    c.size = 5; /* maxima move */
    add_band(&c, 96, -1, -1);
    check_scene(&c);
    c.n_tiles = 0;
    c.name = "three key blocks, band";
    add_band(&c, 96, 40, 0);
    check_scene(&c);
}

static void test_nothing_seen(void **unused)
{
    (void)unused;
    scene c = new_scene("nothing seen", 2, 1, 12, 150, 100);
    add_tile(&c, 0, 10, 40, 0, 100)->hi =
        -20; /* the first 20 of them see nothing, rows 50 .. 149 have no tile */
    check_scene(&c);
    arrays a = make_arrays(&c), out = make_arrays(&c);
    for (int k = 0; k < N_VARIANTS; k++) {
        if (!can_run(variants + k)) continue;
        run_kernels(&c, variants + k, &a, &out, 1);
        for (int64_t i = 0; i < 30 * c.heads * c.width; i++)
            assert_true(out.x[O][i] == 0 && out.x[DQ][i] == 0);
        assert_true(out.x[LSE][0] == -INFINITY && out.x[LSE][29] == -INFINITY &&
                    out.x[LSE][31] > -INFINITY);
    }
    free_arrays(&a);
    free_arrays(&out);
}

static void test_no_tiles(void **unused)
{
    (void)unused;
    scene c = new_scene("no tiles", 2, 1, 12, 15, 10);
    check_scene(&c);
    c = new_scene("no keys", 2, 1, 12, 15, 0);
    add_band(&c, 96, -1, -1);
    check_scene(&c);
}

/* Key blocks long enough to be worked through in several spans, as one tile and as many. */
static void test_spans(void **unused)
{
    (void)unused;
    scene c = new_scene("spans, long tiles", 1, 1, 128, 100, 1000);
    c.batch = 1;
    add_band(&c, 96, -1, -1);
    check_scene(&c);
    c.name = "spans, long tiles, band";
    c.tile[1].lo = 60;
    c.tile[1].hi = 900;
    check_scene(&c);
    c = new_scene("spans, short tiles", 1, 1, 128, 100, 1000);
    c.batch = 1;
    for (int64_t row = 0; row < c.q_rows; row += 96)
        for (int64_t k = 0; k < 1000; k += 80)
            add_tile(&c, 0, row, row ? 4 : 96, k, k < 960 ? 80 : 40);
    check_scene(&c);
    c = new_scene("spans, strided keys", 2, 1, 128, 33, 1500);
    c.batch = 1;
    for (int64_t k = 0; k < 3; k++) add_tile(&c, 0, 0, 33, k, 500)->k_stride = 3;
    check_scene(&c);
}

/* One head whose backward several threads share: by spans of keys, where every query block sees many,
 * or by runs of query blocks. */
static void test_shared_backward(void **unused)
{
    (void)unused;
    scene c = new_scene("shared by keys, causal", 2, 1, 128, 700, 700);
    c.batch = 1;
    add_band(&c, 96, -1, 0);
    check_scene(&c);
    c = new_scene("shared by keys, other lengths", 1, 1, 128, 130, 900);
    add_band(&c, 40, -1, -1);
    c.has_valid = true;
    c.valid[0] = 900;
    c.valid[1] = 250;
    check_scene(&c);
    c = new_scene("shared by queries", 1, 1, 20, 3300, 3300);
    c.batch = 1;
    add_band(&c, 60, 50, 10);
    check_scene(&c);
    c = new_scene("shared by queries of two heads, in two blocks", 2, 1, 8, 2600, 1300);
    c.batch = 1;
    c.n_blocks = 2;
    add_band(&c, 96, 70, 0);
    check_scene(&c);
}

/* Few queries against more keys than are packed at one time, in one tile, by all masks. */
static void test_packed_in_parts(void **unused)
{
    (void)unused;
    scene c = new_scene("many keys, term", 2, 1, 4, 50, 2500);
    c.batch = 1;
    add_band(&c, 48, -1, -1);
    add_term(&c, 1);
    check_scene(&c);
    c = new_scene("many keys, causal, lengths", 1, 1, 20, 50, 4300);
    add_band(&c, 48, -1, 4200);
    c.has_valid = true;
    c.valid[0] = 2113;
    c.valid[1] = 4240;
    check_scene(&c);
    c.most_keys = c.k_rows; /* no more packed than a span, also where data hides most keys */
    c.valid[0] = 700;
    check_scene(&c);
    c = new_scene("many keys, limits", 1, 1, 4, 50, 2500);
    add_band(&c, 48, -1, -1);
    add_documents(&c, 120);
    for (int64_t i = 0; i < c.batch * c.q_rows; i++) c.limits[2 * i + 1] += (int32_t)(31 * i);
    check_scene(&c);
    free(c.limits);
    c = new_scene("many keys, bits", 1, 1, 4, 50, 2500);
    c.batch = 1;
    add_band(&c, 48, -1, -1);
    fill_bits(&c, 0.5);
    check_scene(&c);
    free(c.bits);
}

/* Windows and strided keys that reach over more keys than are packed at one time. */
static void test_windows_in_parts(void **unused)
{
    (void)unused;
    scene c = new_scene("long window", 2, 1, 4, 4500, 4500);
    c.batch = 1;
    add_band(&c, 96, 70, 20);
    check_scene(&c);
    c.name = "long window, documents";
    add_documents(&c, 150);
    check_scene(&c);
    c.most_keys = INT32_MAX; /* said to be more than there are: then in smaller parts */
    check_scene(&c);
    free(c.limits);
    c = new_scene("long window and first keys", 1, 1, 20, 2900, 2900);
    c.batch = 1;
    for (int64_t row = 0; row < c.q_rows; row += 96) {
        int64_t nq = row + 96 > c.q_rows ? c.q_rows - row : 96;
        add_tile(&c, 0, row, nq, 0, 10);
        lh_tile *t = add_tile(&c, 0, row, nq, 10, c.k_rows - 10);
        t->lo = (int32_t)(row - 60);
        t->hi = (int32_t)row;
    }
    check_scene(&c);
    c = new_scene("many dilated keys", 2, 1, 4, 150, 4500);
    for (int phase = 0; phase < 3; phase++) {
        lh_tile *t = add_tile(&c, 0, phase, 50, phase, 1500);
        t->q_stride = t->k_stride = 3;
        t->k_step = 3;
        t->lo = phase * 300;
        t->hi = 700 + phase * 300;
    }
    check_scene(&c);
    c.name = "many dilated keys, term";
    add_term(&c, 1);
    check_scene(&c);
    c = new_scene("many keys, reversed and one alone", 1, 1, 4, 100, 4200);
    lh_tile *t = add_tile(&c, 0, 0, 96, 4199, 2100);
    t->k_stride = -2;
    t->k_step = -2;
    add_tile(&c, 0, 0, 96, 40, 1900);
    t = add_tile(&c, 0, 96, 4, 2700, 1);
    t->k_stride = 0;
    t->k_step = 0;
    add_tile(&c, 0, 96, 4, 100, 4000);
    check_scene(&c);
}

/* Scratch grows with the rows of keys only as far as they are packed at one time. */
static void test_scratch_bound(void **unused)
{
    (void)unused;
    for (int k = 0; k < N_VARIANTS; k++) {
        const variant *x = variants + k;
        if (!can_run(x)) continue;
        const lh_attend_room far = {.width = 64, .k_rows = 1 << 16, .backward = true};
        lh_attend_room other = far;
        const size_t most = x->scratch(&far, 1);
        assert_true(most <= (size_t)(4 * 2200 + 1600) * 64 * x->bytes);
        assert_true(x->scratch(&far, 3) == 3 * most);
        other.k_rows = INT32_MAX;
        assert_true(x->scratch(&other, 1) == most);
        other.most_keys = 1 << 16; /* spans */
        assert_true(x->scratch(&other, 1) <= (size_t)(4 * 560 + 1600) * 64 * x->bytes);
        other = far;
        other.k_rows = 500;
        assert_true(x->scratch(&other, 1) < most);
        other = far;
        other.relative = true;
        assert_true(x->scratch(&other, 1) > most);
        other = far;
        other.backward = false;
        assert_true(x->scratch(&other, 1) < most);
    }
}

static void test_documents(void **unused)
{
    (void)unused;
    static const int64_t longest[] = {3, 60, 200, 1000};
    for (size_t i = 0; i < sizeof longest / sizeof longest[0]; i++) {
        scene c = new_scene("causal documents", 2, 1, 20, 301, 301);
        c.batch = 3;
        add_band(&c, 96, -1, 0);
        add_documents(&c, longest[i]);
        check_scene(&c);
        c.name = "documents, short query blocks, valid length";
        c.n_tiles = 0;
        c.has_valid = true;
        c.valid[0] = 300;
        c.valid[1] = 130;
        add_band(&c, 31, -1, -1);
        check_scene(&c);
        free(c.limits);
        c = new_scene("documents over three key blocks, window", 2, 2, 16, 300, 100);
        c.n_blocks = 3;
        add_band(&c, 96, 90, 20);
        add_documents(&c, longest[i]);
        check_scene(&c);
        free(c.limits);
    }
}

/* Limits of every kind next to each other: none, all, far away, reversed, one key, the extremes. */
static void fill_limits(scene *c)
{
    static const int32_t kind[][2] = {{INT32_MIN, INT32_MAX},
                                      {0, 0},
                                      {1000, 1100},
                                      {150, 60},
                                      {17, 18},
                                      {199, 400},
                                      {-50, 5},
                                      {90, 110}};
    uint64_t state = 5;
    c->limits = new_zeroed((size_t)(c->batch * c->q_rows) * 2 * sizeof(int32_t));
    for (int64_t i = 0; i < c->batch * c->q_rows; i++) {
        int which = (int)((uniform(&state) + 1) * 4);
        /* whole vectors and blocks of queries of one kind, too */
        if (i % c->q_rows >= 100) which = i % c->q_rows < 200 ? 2 : 1;
        memcpy(c->limits + 2 * i, kind[which % 8], sizeof kind[0]);
    }
}

static void test_limits(void **unused)
{
    (void)unused;
    for (int64_t step = -1; step <= 2; step++) {
        scene c = new_scene("limits", 2, 1, 24, 220, 200);
        add_band(&c, 96, -1, 150);
        for (int i = 0; i < c.n_tiles; i++) {
            c.tile[i].k_position = step < 0 ? 199 : 7;
            c.tile[i].k_step = step;
        }
        fill_limits(&c);
        check_scene(&c);
        c.name = "limits, bits";
        fill_bits(&c, 0.7);
        check_scene(&c);
        free(c.bits);
        free(c.limits);
    }
}

static void test_limits_strided(void **unused)
{
    (void)unused;
    scene c = new_scene("limits, dilated", 2, 1, 33, 300, 302);
    c.batch = 3;
    add_dilated(&c);
    add_documents(&c, 130);
    check_scene(&c);
    free(c.limits);
    c = new_scene("limits, strided and reversed keys", 1, 1, 16, 100, 300);
    lh_tile *t = add_tile(&c, 0, 0, 96, 3, 149);
    t->k_stride = 2;
    t->k_step = 2;
    add_tile(&c, 0, 0, 96, 0, 100);
    t = add_tile(&c, 0, 96, 4, 299, 300);
    t->k_stride = -1;
    t->k_step = -1;
    add_documents(&c, 90);
    check_scene(&c);
    free(c.limits);
    c = new_scene("limits, spans", 1, 1, 128, 100, 1000);
    add_band(&c, 96, -1, -1);
    add_documents(&c, 190);
    for (int64_t i = 0; i < c.batch * c.q_rows; i++) c.limits[2 * i + 1] += (int32_t)(5 * (i % 97));
    check_scene(&c);
    free(c.limits);
}

static void test_hidden(void **unused)
{
    (void)unused;
    static const int64_t some[] = {0, 5, 7, 8, 96, 97, 150, 199, 1000}, one[] = {-3, 64};
    int64_t all[210];
    for (int i = 0; i < 210; i++) all[i] = i;
    for (int64_t step = -1; step <= 3; step++) {
        scene c = new_scene("hidden", 2, 1, 24, 150, 200);
        c.batch = 3;
        add_band(&c, 96, 80, 30);
        for (int i = 0; i < c.n_tiles; i++) {
            c.tile[i].k_position = step < 0 ? 200 : 5;
            c.tile[i].k_step = step;
        }
        c.has_hidden = true;
        c.hidden[0] = (lh_hidden){sizeof some / sizeof some[0], some};
        c.hidden[2] = (lh_hidden){sizeof one / sizeof one[0], one};
        check_scene(&c);
        c.name = "hidden, limits, valid";
        c.hidden[1] = (lh_hidden){210, all};
        c.has_valid = true;
        c.valid[0] = 120;
        c.valid[1] = c.valid[2] = 190;
        add_documents(&c, 70);
        check_scene(&c);
        free(c.limits);
    }
    scene c = new_scene("hidden, dilated", 2, 1, 33, 300, 302);
    add_dilated(&c);
    c.has_hidden = true;
    c.hidden[1] = (lh_hidden){sizeof some / sizeof some[0], some};
    check_scene(&c);
}

/* Rows of K and V that hold a part of the key heads. */
static void test_heads_held(void **unused)
{
    (void)unused;
    scene c = new_scene("key heads 1 and 2 of 4", 8, 4, 9, 110, 160);
    add_band(&c, 55, 70, -1);
    c.head = 2;
    c.n_heads = 4;
    c.kv_first = 1;
    c.kv_held = 2;
    check_scene(&c);
    c.name = "the last key head";
    c.head = 7;
    c.n_heads = 1;
    c.kv_first = 3;
    c.kv_held = 1;
    check_scene(&c);
    c.name = "one more than needed, in three blocks";
    c.n_tiles = 0;
    c.n_blocks = 3;
    c.head = 4;
    c.n_heads = 2;
    c.kv_first = 1;
    c.kv_held = 3;
    add_band(&c, 96, -1, -1);
    add_term(&c, 1);
    check_scene(&c);
}

static void test_term(void **unused)
{
    (void)unused;
    static const int64_t reach[][2] = {{-1, -1}, {-1, 0}, {0, -1}, {40, 0}, {100, 13}, {0, 0}};
    static const int64_t widths[] = {1, 20, 64};
    for (size_t i = 0; i < sizeof reach / sizeof reach[0]; i++) {
        scene c = new_scene("term", 2, 1, 20, 211, 211);
        c.batch = 3;
        add_band(&c, 96, reach[i][0], reach[i][1]);
        add_term(&c, 1);
        check_scene(&c);
        c = new_scene("term, small query blocks, descending table", 1, 1, widths[i % 3], 150, 130);
        add_band(&c, 29, reach[i][0], reach[i][1]);
        add_term(&c, -1);
        check_scene(&c);
        c = new_scene("term, r_step 3", 2, 2, 17, 101, 97);
        add_band(&c, 50, reach[i][0], reach[i][1]);
        add_term(&c, 3);
        check_scene(&c);
    }
}

static void test_term_shapes(void **unused)
{
    (void)unused;
    scene c = new_scene("term, one key", 2, 1, 12, 100, 1);
    add_band(&c, 96, -1, -1);
    add_term(&c, 1);
    check_scene(&c);
    c = new_scene("term, one query and tiles of one key", 1, 1, 12, 1, 300);
    add_tile(&c, 0, 0, 1, 0, 297);
    for (int k = 297; k < 300; k++) add_tile(&c, 0, 0, 1, k, 1);
    add_term(&c, 1);
    check_scene(&c);
    c = new_scene("term, dilated", 2, 1, 33, 300, 302);
    c.batch = 3;
    add_dilated(&c);
    add_term(&c, 1);
    check_scene(&c);
    c.name = "term, dilated, own rows for every third distance";
    for (int i = 0; i < c.n_tiles; i++) {
        c.tile[i].r_step = 1;
        c.tile[i].r_row = 99 + 7 * i;
    }
    c.r_rows = 99 + 50 + 7 * (c.n_tiles - 1);
    check_scene(&c);
    c = new_scene("term, one row for all", 4, 2, 8, 60, 130);
    add_band(&c, 60, 30, 20);
    c.r_rows = 2;
    for (int i = 0; i < c.n_tiles; i++) c.tile[i].r_row = 1;
    check_scene(&c);
}

static void test_term_masked(void **unused)
{
    (void)unused;
    scene c = new_scene("term, bits", 2, 1, 16, 130, 210);
    c.batch = 3;
    add_band(&c, 70, 60, -1);
    add_term(&c, 1);
    fill_bits(&c, 0.4);
    check_scene(&c);
    free(c.bits);
    c = new_scene("term, documents, hidden, valid", 4, 2, 16, 320, 160);
    static const int64_t hidden[] = {3, 100, 101, 230};
    c.n_blocks = 2;
    add_band(&c, 96, -1, 0);
    add_term(&c, 1);
    add_documents(&c, 150);
    c.has_hidden = c.has_valid = true;
    c.hidden[0] = (lh_hidden){4, hidden};
    c.valid[0] = 1000;
    c.valid[1] = 200;
    check_scene(&c);
    free(c.limits);
    c = new_scene("term, some heads", 6, 3, 10, 100, 100);
    add_band(&c, 33, 40, 40);
    add_term(&c, 1);
    c.head = 1;
    c.n_heads = 4;
    check_scene(&c);
}

/* A query that is not a number must give an output that is none, and touch no other row. */
static void test_not_a_number(void **unused)
{
    (void)unused;
    scene c = new_scene("not a number", 1, 1, 16, 50, 40);
    add_band(&c, 50, -1, 5);
    arrays a = make_arrays(&c), out = make_arrays(&c);
    a.x[Q][20 * 16 + 3] = NAN;
    for (int k = 0; k < N_VARIANTS; k++) {
        if (!can_run(variants + k)) continue;
        run_kernels(&c, variants + k, &a, &out, 1);
        for (int64_t row = 0; row < c.batch * c.q_rows; row++)
            assert_int_equal(isnan(out.x[O][row * 16 + 2]) != 0, row == 20);
        assert_true(isnan(out.x[LSE][20]) && isnan(out.x[DQ][20 * 16]));
    }
    free_arrays(&a);
    free_arrays(&out);
}

/* A key that is not a number must not touch queries that do not see it, not even as the neighbour of
 * the last one that they see. */
static void test_not_a_number_unseen(void **unused)
{
    (void)unused;
    enum { SEEN = 131, WIDTH = 16 };
    scene c = new_scene("a neighbour is not a number", 1, 1, WIDTH, 100, 140);
    c.batch = 1;
    add_tile(&c, 0, 0, 50, 0, SEEN);
    add_tile(&c, 0, 50, 50, 0, 140);
    arrays a = make_arrays(&c), out = make_arrays(&c);
    for (int64_t d = 0; d < WIDTH; d++) a.x[K][SEEN * WIDTH + d] = a.x[V][SEEN * WIDTH + d] = NAN;
    for (int k = 0; k < N_VARIANTS; k++) {
        if (!can_run(variants + k)) continue;
        run_kernels(&c, variants + k, &a, &out, 1);
        for (int64_t i = 0; i < 100 * WIDTH; i++)
            assert_true(isfinite(out.x[O][i]) == (i < 50 * WIDTH) &&
                        isfinite(out.x[DQ][i]) == (i < 50 * WIDTH));
    }
    free_arrays(&a);
    free_arrays(&out);
}

/* The backward takes lse = -inf for a query that saw nothing, whatever its tile says now. */
static void test_nothing_seen_backward(void **unused)
{
    (void)unused;
    double q[2] = {1, 1}, k[3] = {1, 2, 3}, v[3] = {3, 2, 1}, d_o[2] = {1, 1};
    double lse[2] = {-INFINITY, 5}, delta[2] = {1, 1}, dq[2] = {0}, dk[3] = {0}, dv[3] = {0};
    scene c = new_scene("lse", 1, 1, 1, 2, 3);
    lh_tile *t = add_tile(&c, 0, 0, 2, 0, 3);
    lh_attend_grad_args a = {.batch = 1, .heads = 1, .kv_heads = 1, .width = 1, .q_rows = 2};
    a.k_rows = 3;
    a.n_heads = 1;
    a.scale = 1;
    a.q = q;
    a.k = k;
    a.v = v;
    a.d_o = d_o;
    a.lse = lse;
    a.delta = delta;
    a.dq = dq;
    a.dk = dk;
    a.dv = dv;
    a.tiles = t;
    a.n_tiles = 1;
    a.scratch = new_zeroed(
        lhi_attend_scratch_f64(&(lh_attend_room){.width = 1, .k_rows = 3, .backward = true}, 1));
    lhi_attend_grad_f64(&a, 1);
    free(a.scratch);
    assert_true(dq[0] == 0 && dq[1] != 0);
    for (int j = 0; j < 3; j++) assert_true(fabs(dv[j] - exp(k[j] - 5)) < 1e-14);
}

/* sum of dO.O + dLSE.LSE of the f64 kernel */
static double objective(const scene *c, const arrays *a, arrays *out)
{
    run_kernels(c, variants, a, out, 1);
    return dot(a->x[DO], out->x[O], a->n[O]) + dot(a->x[DLSE], out->x[LSE], a->n[LSE]);
}

static void check_differences(const scene *c)
{
    arrays a = make_arrays(c), out = make_arrays(c), grad = make_arrays(c);
    run_kernels(c, variants, &a, &grad, 1);
    const double h = cbrt(DBL_EPSILON);
    for (int i = Q; i <= R; i++) {
        double largest = 0;
        for (int64_t j = 0; j < a.n[i]; j++) largest = fmax(largest, fabs(grad.x[DQ + i][j]));
        for (int64_t j = 3; j < a.n[i]; j += a.n[i] / 12) {
            double x = a.x[i][j];
            a.x[i][j] = x + h;
            double up = objective(c, &a, &out);
            a.x[i][j] = x - h;
            double down = objective(c, &a, &out);
            a.x[i][j] = x;
            double slope = (up - down) / (2 * h);
            if (!(fabs(slope - grad.x[DQ + i][j]) <= 1e-7 * largest))
                fail_msg("array %d entry %lld: difference %g, gradient %g", i, (long long)j, slope,
                         grad.x[DQ + i][j]);
        }
    }
    free_arrays(&a);
    free_arrays(&out);
    free_arrays(&grad);
}

static void test_differences(void **unused)
{
    (void)unused;
    scene c = new_scene("differences", 2, 1, 7, 120, 110);
    add_band(&c, 96, 60, 5);
    check_differences(&c);
    add_term(&c, 1);
    check_differences(&c);
}

/* Key 0 has score 0, key j has score x_j <= 0 and the unit vector j as value: O[j] is exp2(x_j). */
static void test_exp(void **unused)
{
    (void)unused;
    scene c = new_scene("exp", 1, 1, 96, 1, 96);
    c.batch = 1;
    c.scale = unit_scale();
    add_band(&c, 96, -1, -1);
    arrays a = make_arrays(&c);
    for (int k = 1; k < N_VARIANTS; k++) {
        const variant *kernel = variants + k;
        if (!can_run(kernel) || rounds(kernel)) continue;
        double worst = 0;
        for (int round = 0; round < 300; round++) {
            float x[96 * 96] = {0}, v[96 * 96] = {0}, q[96] = {1}, o[96] = {0}, max = -INFINITY,
                         sum = 0;
            for (int j = 1; j < 96; j++) {
                v[j * 96 + j] = 1;
                x[j * 96] = round == 0 ? -(float)j
                                       : (float)(-((round - 1) * 95 + j) * (125.9 / (299 * 95)));
            }
            x[95 * 96] = round == 0 ? -INFINITY : x[95 * 96];
            lh_attend_args args = {.batch = 1,
                                   .heads = 1,
                                   .kv_heads = 1,
                                   .width = 96,
                                   .q_rows = 1,
                                   .k_rows = 96,
                                   .n_heads = 1,
                                   .scale = c.scale,
                                   .q = q,
                                   .k = x,
                                   .v = v,
                                   .o = o,
                                   .max = &max,
                                   .sum = &sum,
                                   .tiles = c.tile,
                                   .n_tiles = 1};
            args.scratch =
                new_zeroed(kernel->scratch(&(lh_attend_room){.width = 96, .k_rows = 96}, 1));
            kernel->attend(&args, 1);
            free(args.scratch);
            assert_true(max == 0);
            for (int j = 1; j < 96; j++) {
                double want = exp2((double)x[j * 96]);
                if (isinf(x[j * 96]))
                    assert_true(o[j] == 0);
                else
                    worst =
                        fmax(worst, fabs(o[j] - want) / (exp2(floor(log2(want))) * FLT_EPSILON));
            }
        }
        print_message("%s: exp within %.2f ulp\n", kernel->name, worst);
        assert_true(worst <= 2);
    }
    free_arrays(&a);
}

/* One key with score 0: the output is its value, rounded. */
static void test_round_to_even(void **unused)
{
    (void)unused;
    static const double value[] = {0,          1,           -1,          1.00390625,
                                   1.01171875, -1.00390625, 1.003906369, 3.1415927,
                                   -1e30,      1e-30,       3.4e38,      INFINITY};
    enum { N = sizeof value / sizeof value[0] };
    scene c = new_scene("rounding", 1, 1, N, 1, 1);
    c.batch = 1;
    add_band(&c, 1, -1, -1);
    arrays a = make_arrays(&c), out = make_arrays(&c);
    memcpy(a.x[V], value, sizeof value);
    for (int k = 0; k < N_VARIANTS; k++) {
        if (!rounds(variants + k) || !can_run(variants + k)) continue;
        run_kernels(&c, variants + k, &a, &out, 1);
        for (int i = 0; i < N; i++) {
            double want = fabs(value[i]) > 3.39e38 ? INFINITY : to_bf16(value[i]);
            assert_true(out.x[O][i] == want);
        }
    }
    free_arrays(&a);
    free_arrays(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_band),
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_valid),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_strides),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_nothing_seen),
        cmocka_unit_test(test_no_tiles),
        cmocka_unit_test(test_spans),
        cmocka_unit_test(test_shared_backward),
        cmocka_unit_test(test_packed_in_parts),
        cmocka_unit_test(test_windows_in_parts),
        cmocka_unit_test(test_scratch_bound),
        cmocka_unit_test(test_documents),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_limits_strided),
        cmocka_unit_test(test_hidden),
        cmocka_unit_test(test_heads_held),
        cmocka_unit_test(test_term),
        cmocka_unit_test(test_term_shapes),
        cmocka_unit_test(test_term_masked),
        cmocka_unit_test(test_not_a_number),
        cmocka_unit_test(test_not_a_number_unseen),
        cmocka_unit_test(test_nothing_seen_backward),
        cmocka_unit_test(test_differences),
        cmocka_unit_test(test_exp),
        cmocka_unit_test(test_round_to_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
