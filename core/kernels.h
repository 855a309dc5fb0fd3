#pragma once
/* The kernels of a device: one typed argument record and one slot each.
 *
 * Pointers are device pointers of element type `real` (lh_real of the table: float or double)
 * unless the comment says otherwise; host pointers are named so. Matrices are row-major.
 * `accumulate`: add into the result instead of overwriting it (the tape's gradients add). Kernels
 * never allocate; what they need beyond registers comes as scratch. Sums over rows run in the order
 * of the rows, whatever the number of threads: the same call gives the same bits. */
#include "core/tensor.h"

/* C[m,n] = alpha * A[m,k] B[k,n] + (accumulate ? C : 0); every operand has row and column strides
 * in elements, so transposed operands need no copy. k = 0 gives zeros (or leaves C). flops: 2 m n
 * k. */
typedef struct lh_gemm_args {
    int64_t m, n, k;
    double alpha;
    const void *a;
    int64_t a_rs, a_cs;
    const void *b;
    int64_t b_rs, b_cs;
    void *c;
    int64_t c_rs, c_cs;
    bool accumulate;
} lh_gemm_args;

/* x[i] = value, i < n. */
typedef struct lh_fill_args {
    int64_t n;
    double value;
    void *x;
} lh_fill_args;

/* y[i] = alpha x[i] + (accumulate ? y[i] : 0). x == y is allowed. Also the copy and the residual
 * addition. */
typedef struct lh_axpy_args {
    int64_t n;
    double alpha;
    const void *x;
    void *y;
    bool accumulate;
} lh_axpy_args;

/* y[i] = a[i] + b[i]. */
typedef struct lh_add_args {
    int64_t n;
    const void *a, *b;
    void *y;
} lh_add_args;

/* y[r, :] += bias[:]. y [rows, width]. */
typedef struct lh_bias_args {
    int64_t rows, width;
    const void *bias;
    void *y;
} lh_bias_args;

/* dbias[:] += sum over r of dy[r, :]. */
typedef struct lh_bias_grad_args {
    int64_t rows, width;
    const void *dy;
    void *dbias;
} lh_bias_grad_args;

/* Layer norm (Ba, Kiros, Hinton 2016): y = (x - mean) rstd w + b, rstd = 1 / sqrt(var + eps), var
 * over width, biased. rms (Zhang and Sennrich 2019): mean is taken as 0 and var as mean(x^2). b may
 * be NULL. x, y [rows, width]; w, b [width]; stats [rows, 2] = {mean, rstd} out. Sums in double or
 * in wide lanes. h [rows, width]: sum = x + h first, and sum in place of x, in one pass over memory;
 * NULL: x alone. */
typedef struct lh_norm_args {
    int64_t rows, width;
    double eps;
    bool rms;
    const void *x, *w, *b;
    void *y, *stats;
    const void *h;
    void *sum;
} lh_norm_args;

/* Its adjoint. dx [rows, width] (accumulate or overwrite; NULL: not wanted); dw, db [width] always
 * add (NULL: not wanted). */
typedef struct lh_norm_grad_args {
    int64_t rows, width;
    bool rms;
    const void *x, *w, *stats, *dy;
    void *dx, *dw, *db;
    bool accumulate;
} lh_norm_grad_args;

typedef enum lh_act_kind { LH_ACT_GELU, LH_ACT_RELU, LH_ACT_SWIGLU, LH_ACT_TANH } lh_act_kind;

/* y = act(x); LH_ACT_SWIGLU: y = silu(x) * gate (Shazeer 2020: SwiGLU; x = W_gate h, gate = W_up
 * h). GELU is the exact one, x Phi(x), by erf (Hendrycks and Gimpel 2016). n elements. */
typedef struct lh_act_args {
    lh_act_kind kind;
    int64_t n;
    const void *x, *gate; /* gate: SwiGLU only, else NULL */
    void *y;
} lh_act_args;

/* dx = dy act'(x) (SwiGLU: and dgate); overwrites. dx may be dy. */
typedef struct lh_act_grad_args {
    lh_act_kind kind;
    int64_t n;
    const void *x, *gate, *dy;
    void *dx, *dgate;
} lh_act_grad_args;

/* y[r, :] = table[ids[r], :]. ids: int32 on the device, each in [0, vocab). */
typedef struct lh_embed_args {
    int64_t rows, width, vocab;
    const int32_t *ids;
    const void *table;
    void *y;
} lh_embed_args;

/* dtable[ids[r], :] += dy[r, :], in the order of r. */
typedef struct lh_embed_grad_args {
    int64_t rows, width, vocab;
    const int32_t *ids;
    const void *dy;
    void *dtable;
} lh_embed_grad_args;

/* Angles of rotary position embedding (Su et al. 2021, eq. 15): table[r, i] = {cos, sin}(p_r
 * base^(-2 i / width)), i < width / 2, p_r = position + r * stride; computed in double. table
 * [rows, width / 2, 2]. */
typedef struct lh_rotary_table_args {
    int64_t rows, width, position, stride;
    double base;
    void *table;
} lh_rotary_table_args;

/* Rotates the pairs (i, i + width/2) of every head: y = R(p) x; inverse: y = R(p)^T x, which is the
 * adjoint. x, y [rows, heads, width]; table [rows, width / 2, 2]. y may be x (then accumulate is
 * false). */
typedef struct lh_rotary_args {
    int64_t rows, heads, width;
    const void *x, *table;
    void *y;
    bool inverse, accumulate;
} lh_rotary_args;

/* Sinusoidal positions (Vaswani et al. 2017, section 3.5): y[r, 2i] += sin(p 10000^(-2i/width)),
 * y[r, 2i+1] += cos(..). */
typedef struct lh_sinusoid_args {
    int64_t rows, width, position, stride;
    void *y;
} lh_sinusoid_args;

/* Sinusoids of distances (Dai et al. 2019, section 3.3; halves concatenated): table[r, a] = sin(d
 * w_a), table[r, width/2 + a] = cos(d w_a), d = first + r * step, w_a = 10000^(-2a/width), computed in
 * double. width even. table [rows, width]. */
typedef struct lh_distance_table_args {
    int64_t rows, width, first, step;
    void *table;
} lh_distance_table_args;

/* y[i] = keep(index + i) ? x[i] / (1 - rate) : 0 (accumulate adds). keep(j) is word j of (seed,
 * stream) compared with rate * 2^32: the same mask for the same global index. Its own adjoint. */
typedef struct lh_dropout_args {
    int64_t n;
    double rate;
    uint64_t seed, stream;
    int64_t index;
    const void *x;
    void *y;
    bool accumulate;
} lh_dropout_args;

/* Softmax cross-entropy over rows of logits [rows, vocab]; labels int32, -1: not counted. lse
 * [rows] out = log sum exp; sums: f64[2], sums[0] += sum of (lse - logit[label]), sums[1] += number
 * of rows whose largest logit (the first of equals) is the label. */
typedef struct lh_cross_entropy_args {
    int64_t rows, vocab;
    const void *logits;
    const int32_t *labels;
    void *lse;
    double *sums;
} lh_cross_entropy_args;

/* logits := scale * (softmax - onehot(label)), 0 in rows without label, in place. lse as written by
 * the forward. scale: scale_host * (*scale_device), the incoming gradient of the loss (f64 on the
 * device). */
typedef struct lh_cross_entropy_grad_args {
    int64_t rows, vocab;
    void *logits;
    const int32_t *labels;
    const void *lse;
    double scale_host;
    const double *scale_device;
} lh_cross_entropy_grad_args;

/* AdamW (Loshchilov and Hutter 2019, algorithm 2): with g = grad * grad_scale,
 * m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; x = x - lr decay x - lr (m/c1) / (sqrt(v/c2) + eps).
 * The decay uses x before the update, as torch.optim.AdamW does. c1 = 1 - b1^t, c2 = 1 - b2^t. */
typedef struct lh_adamw_args {
    int64_t n;
    double lr, beta1, beta2, eps, decay, c1, c2, grad_scale;
    void *x, *m, *v;
    const void *grad;
} lh_adamw_args;

/* *sum (f64) += sum of x[i]^2, summed in double in blocks of fixed size. */
typedef struct lh_sum_squares_args {
    int64_t n;
    const void *x;
    double *sum;
} lh_sum_squares_args;

/* Between real and bfloat16, n elements. to_bf16: y (bf16) = x rounded to nearest, ties to even; NaN
 * stays NaN, what is too large becomes infinite (double: rounded to float first). from_bf16: y = x (bf16),
 * exactly. round_bf16: y = x rounded to what bfloat16 can say, both real; y may be x. */
typedef struct lh_bf16_args {
    int64_t n;
    const void *x;
    void *y;
} lh_bf16_args;

/* A span of rows of a tensor: rows row, row + stride, ... (count of them). */
typedef struct lh_span {
    int64_t row, count, stride;
} lh_span;

/* Rows between a tensor [batch, tensor_rows, width] and a packed host buffer [batch, sum of counts,
 * width], in the order of the spans (host array). pack_rows: host = tensor; unpack_rows: tensor =
 * host; add_rows: tensor += host. element_bytes: of the dtype (add_rows: real only). wire LH_BF16:
 * the tensor is real, and the host buffer holds bfloat16, rounded as by to_bf16. */
typedef struct lh_rows_args {
    int64_t batch, tensor_rows, width, n_spans;
    const lh_span *spans;
    size_t element_bytes;
    /* elements of a tensor row, of which `width` from `column` on travel; 0: width (all of it) */
    int64_t row_width, column;
    lh_dtype wire; /* LH_REAL (or left out): as the tensor; LH_BF16 */
    void *tensor;
    void *host;
} lh_rows_args;

/* A tile: queries q_row + i * q_stride (i < nq <= LH_TILE_Q) against keys k_row + j * k_stride (j <
 * nk, any number) of the current key block, all of one head group. Score (i, j) is visible when lo
 * <= j - i <= hi and, if bits >= 0, bit (bits + i * nk + j) of the bit array is 1. A FULL tile has
 * lo = -LH_TILE_FAR, hi = LH_TILE_FAR, bits = -1. k_position, k_step: global position of key j =
 * k_position + j * k_step, for the valid length of a batch row, limits and hidden keys. r_row,
 * r_step: with a relative term, score (i, j) uses row r_row + (i - j) * r_step of the table, which
 * must exist for every score of the tile, visible or not. The kernel itself skips what a band leaves
 * empty and masks only what the band cuts. It takes a tile's keys in blocks of LH_TILE_K. */
enum { LH_TILE_Q = 96, LH_TILE_K = 96, LH_TILE_FAR = 1 << 30 };
typedef struct lh_tile {
    int32_t q_row, nq, q_stride;
    int32_t k_row, nk, k_stride;
    int32_t lo, hi;
    int64_t bits;
    int64_t k_position, k_step;
    int64_t r_row, r_step;
} lh_tile;

/* Key positions, ascending, that no query of a batch row sees (they are seen elsewhere). Host
 * memory. */
typedef struct lh_hidden {
    int64_t count;
    const int64_t *position;
} lh_hidden;

/* What a batch row's data says about who sees whom, beyond the tiles; host arrays, each may be
 * NULL.
 *   valid [batch]              keys at positions >= valid[b] are not seen in batch row b
 *   limits [batch, q_rows, 2]  query row i of batch row b sees keys at positions limits[b, i, 0] <=
 *                              position < limits[b, i, 1] only (documents, causal global rows)
 *   hidden [batch]             keys at hidden[b].position[..] are not seen in batch row b
 * On the device `count` they may be missing; flops are those of the tiles. */
typedef struct lh_sight {
    const int64_t *valid;
    const int32_t *limits;
    const lh_hidden *hidden;
} lh_sight;

/* What scratch depends on: see lh_attend_args. */
typedef struct lh_attend_room {
    int64_t width, k_rows, most_keys;
    bool relative, backward;
} lh_attend_room;

/* Fused attention forward over a list of tiles (Dao et al. 2022; online softmax of Milakov and
 * Gimelshein 2018). Heads head .. head + n_heads - 1 of `heads` are computed; query head h uses
 * key/value head (h + skew) / group; group 0: heads / kv_heads. q, o [batch, q_rows, heads, width];
 * k, v [batch, k_rows, kv_heads, width]; max, sum [batch, heads, q_rows]: running maximum and sum. On the first call of
 * an operation the caller has filled o and sum with 0 and max with -inf; o holds the unnormalised
 * output between calls (attend_finish divides). tiles: host array, ordered by q_row; bits: host
 * array or NULL. scale multiplies the scores. kv_held: heads per row of k and v, the first of which
 * is key/value head kv_first; 0: all kv_heads (kv_first is 0).
 * Relative term (Dai et al. 2019, terms b and d): qr [batch, q_rows, heads, width] and r [r_rows,
 * heads, width], both NULL without: the score is scale (q[i].k[j] + qr[i].r[row of (i, j)]).
 * most_keys: that the tiles of one block of queries have, about; 0: not known. scratch: device memory of
 * lh_attend_scratch bytes for the same width, k_rows or more, and most_keys. between: called with `user` by the calling thread
 * alone after each block of queries of a head that it computes; a device may call it less often; NULL:
 * nothing is. flops counted: 4 * width per visible score and head, with the term 6. */
typedef struct lh_attend_args {
    int64_t batch, heads, kv_heads, width, q_rows, k_rows, most_keys;
    int64_t head, n_heads, group, skew;
    double scale;
    const void *q, *k, *v;
    void *o, *max, *sum;
    const lh_tile *tiles;
    int64_t n_tiles;
    const uint64_t *bits;
    lh_sight sight;
    int64_t kv_first, kv_held;
    const void *qr, *r;
    int64_t r_rows;
    void *scratch;
    void (*between)(void *user);
    void *user;
} lh_attend_args;

/* o /= sum; lse = max + log(sum); a query that saw nothing gets o = 0 and lse = -inf. lse may be
 * max. o [batch, q_rows, heads, width]; max, sum, lse [batch, heads, q_rows]. */
typedef struct lh_attend_finish_args {
    int64_t batch, heads, width, q_rows;
    void *o;
    const void *max, *sum;
    void *lse;
} lh_attend_finish_args;

/* Running results brought to a common maximum, so that those of several ranks can be added: o *=
 * exp(max - top), sum *= exp(max - top); both 0 where max is -inf. o [batch, q_rows, heads, width]
 * unnormalised; max, sum, top [batch, heads, q_rows]. */
typedef struct lh_attend_rescale_args {
    int64_t batch, heads, width, q_rows;
    void *o, *sum;
    const void *max, *top;
} lh_attend_rescale_args;

/* delta[b, h, i] = sum over width of do * o - dlse (dlse may be NULL), for the backward. o
 * normalised. */
typedef struct lh_attend_delta_args {
    int64_t batch, heads, width, q_rows;
    const void *o, *d_o, *dlse;
    void *delta;
} lh_attend_delta_args;

/* Backward over the same kind of tile list; scores are recomputed: P = exp(scale q.k - lse), dS = P
 * (dO.v - delta), dq += scale dS k; dk += scale dS^T q; dv += P^T dO. dq [as q], dk, dv [as k, v]
 * always add; so do dqr [as qr] += scale dS r and dr [as r] += scale dS^T qr, summed over batch rows
 * in their order. scratch: device memory of lh_attend_scratch bytes. between: as forward. flops
 * counted: 10 * width per visible score and head, with the term 16. */
typedef struct lh_attend_grad_args {
    int64_t batch, heads, kv_heads, width, q_rows, k_rows, most_keys;
    int64_t head, n_heads, group, skew;
    double scale;
    const void *q, *k, *v, *d_o, *lse, *delta;
    void *dq, *dk, *dv;
    const lh_tile *tiles;
    int64_t n_tiles;
    const uint64_t *bits;
    lh_sight sight;
    int64_t kv_first, kv_held;
    const void *qr, *r;
    void *dqr, *dr;
    int64_t r_rows;
    void *scratch;
    void (*between)(void *user);
    void *user;
} lh_attend_grad_args;

/* Feature maps of linear attention (Choromanski et al. 2021; "generalised": their section 2.2 and
 * appendix A.4). x~ = scale x, u = W x~, h = |x~|^2 / 2, M rows of W, c a stabiliser:
 *   POSITIVE    M^-1/2 (exp(u - h - c) + eps)
 *   TRIG        M^-1/2 (exp(h - c) {cos u, sin u} + eps), all cosines first
 *   HYPERBOLIC  (2 M)^-1/2 (exp(+-u - h - c) + eps), all +u first
 * estimate exp(x~.y~); the others are f(u) + eps, element by element: RELU, EXP, ELU (elu + 1),
 * SQUARE (max(u, 0)^2), TANH, SIGMOID, COS, IDENTITY. */
typedef enum lh_feature_kind {
    LH_FEATURE_POSITIVE,
    LH_FEATURE_TRIG,
    LH_FEATURE_HYPERBOLIC,
    LH_FEATURE_RELU,
    LH_FEATURE_EXP,
    LH_FEATURE_ELU,
    LH_FEATURE_SQUARE,
    LH_FEATURE_TANH,
    LH_FEATURE_SIGMOID,
    LH_FEATURE_COS,
    LH_FEATURE_IDENTITY,
    LH_FEATURE_KINDS
} lh_feature_kind;

/* lh_feature_stabilised - does the kind use c (and h)? lh_feature_width - numbers per row: M or 2 M.
 * Local. */
static inline bool lh_feature_stabilised(lh_feature_kind kind)
{
    return kind <= LH_FEATURE_HYPERBOLIC;
}
static inline int64_t lh_feature_width(lh_feature_kind kind, int64_t features)
{
    return kind == LH_FEATURE_TRIG || kind == LH_FEATURE_HYPERBOLIC ? 2 * features : features;
}

/* phi of x. x [rows, heads, width]; u [rows, heads, features], ready; phi [rows, heads,
 * lh_feature_width]. Rows from `live` on get zeros. c [heads]: the stabiliser of each head (keys);
 * NULL: each row has its own, the largest of its exponents without h (queries). */
typedef struct lh_feature_args {
    lh_feature_kind kind;
    int64_t rows, live, heads, width, features;
    double scale, epsilon;
    const void *x, *u, *c;
    void *phi;
} lh_feature_args;

/* c[h] = max(c[h], what is exponentiated without h in head h of the live rows): u, |u| (HYPERBOLIC)
 * or h (TRIG). Stabilised kinds only. */
typedef struct lh_feature_max_args {
    lh_feature_kind kind;
    int64_t rows, live, heads, width, features;
    double scale;
    const void *x, *u;
    void *c;
} lh_feature_max_args;

/* The adjoint of phi, c held fixed. du [rows, heads, features] out (may be u): the gradient of u;
 * dx [rows, heads, width] (+)= the part through h alone (zeros for kinds without), to which the
 * caller adds scale du W. dphi [rows, heads, lh_feature_width]. */
typedef struct lh_feature_grad_args {
    lh_feature_args phi; /* as for the forward; phi.phi is not used */
    const void *dphi;
    void *du, *dx;
    bool accumulate;
} lh_feature_grad_args;

/* y[r] = {x[r], 1}: values with a column of ones, so that sums of keys travel with sums of values.
 * x [rows, width], y [rows, width + 1]. */
typedef struct lh_extend_args {
    int64_t rows, width;
    const void *x;
    void *y;
} lh_extend_args;

/* o = n[.., 0 .. width - 1] / n[.., width], den = n[.., width]. n [rows, width + 1]; o [rows,
 * width]; den [rows]. */
typedef struct lh_divide_args {
    int64_t rows, width;
    const void *n;
    void *o, *den;
} lh_divide_args;

/* Its adjoint: dn = {d_o / den, -(d_o.o) / den}. */
typedef struct lh_divide_grad_args {
    int64_t rows, width;
    const void *o, *den, *d_o;
    void *dn;
} lh_divide_grad_args;

/* x[i, j] = 0 for j > i. x [n, n]. */
typedef struct lh_tril_args {
    int64_t n;
    void *x;
} lh_tril_args;

/* Every kernel of the table, by name: lh_NAME_args above, slot NAME below, call lh_run_NAME(device,
 * &args) in device.h. */
#define LH_KERNEL_LIST(X)                                                                          \
    X(gemm)                                                                                        \
    X(fill)                                                                                        \
    X(axpy)                                                                                        \
    X(add)                                                                                         \
    X(bias)                                                                                        \
    X(bias_grad)                                                                                   \
    X(norm)                                                                                        \
    X(norm_grad)                                                                                   \
    X(act)                                                                                         \
    X(act_grad)                                                                                    \
    X(embed)                                                                                       \
    X(embed_grad)                                                                                  \
    X(rotary_table)                                                                                \
    X(rotary)                                                                                      \
    X(sinusoid)                                                                                    \
    X(distance_table)                                                                              \
    X(dropout)                                                                                     \
    X(cross_entropy)                                                                               \
    X(cross_entropy_grad)                                                                          \
    X(adamw)                                                                                       \
    X(sum_squares)                                                                                 \
    X(to_bf16)                                                                                     \
    X(from_bf16)                                                                                   \
    X(round_bf16)                                                                                  \
    X(pack_rows)                                                                                   \
    X(unpack_rows)                                                                                 \
    X(add_rows)                                                                                    \
    X(attend)                                                                                      \
    X(attend_rescale)                                                                              \
    X(attend_finish)                                                                               \
    X(attend_delta)                                                                                \
    X(attend_grad)                                                                                 \
    X(feature)                                                                                     \
    X(feature_max)                                                                                 \
    X(feature_grad)                                                                                \
    X(extend)                                                                                      \
    X(divide)                                                                                      \
    X(divide_grad)                                                                                 \
    X(tril)

/* Every kernel by number: LH_KERNEL_gemm, ... */
typedef enum lh_kernel {
#define LH_KERNEL_NUMBER(name) LH_KERNEL_##name,
    LH_KERNEL_LIST(LH_KERNEL_NUMBER)
#undef LH_KERNEL_NUMBER
        LH_KERNELS
} lh_kernel;

typedef lh_bf16_args lh_to_bf16_args;
typedef lh_bf16_args lh_from_bf16_args;
typedef lh_bf16_args lh_round_bf16_args;
typedef lh_rows_args lh_pack_rows_args;
typedef lh_rows_args lh_unpack_rows_args;
typedef lh_rows_args lh_add_rows_args;

/* One table per (element type, instruction set). threads: at most this many are used by the call. */
typedef struct lh_kernels {
    const char *isa; /* "portable", "avx2", "avx512", "avx512_bf16" */
#define LH_KERNEL_SLOT(name) void (*name)(const lh_##name##_args *args, int threads);
    LH_KERNEL_LIST(LH_KERNEL_SLOT)
#undef LH_KERNEL_SLOT
    /* scratch bytes for attend and attend_grad (the larger of both), for key blocks of up to k_rows
     * rows */
    size_t (*attend_scratch)(const lh_attend_room *room, int threads);
} lh_kernels;

/* The tables that this build has. lh_kernels_f64 and lh_kernels_f32 (portable) are in every build;
 * the vector tables exist for float on x86-64 and are NULL elsewhere or when this processor cannot
 * run them. */
const lh_kernels *lh_kernels_f64(void);
const lh_kernels *lh_kernels_f32(void);
const lh_kernels *lh_kernels_f32_avx2(void);
const lh_kernels *lh_kernels_f32_avx512(void);

/* lh_kernels_f32_avx512_bf16 - the table of AVX-512, but attend and attend_grad round the operands
 * of their products to bfloat16 (core/tile_bf16.h); arguments and results stay float. NULL also where
 * the compiler had no such instructions. */
const lh_kernels *lh_kernels_f32_avx512_bf16(void);
