/* Every kernel but attention: the double table against plain loops written here, every float table
 * against the double one, derivatives against finite differences, and the same bits for any number
 * of threads. */
#include "tests/lh_test.h"

#include "core/kernels.h"
#include "core/random.h"
#include "tests/tol.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef float real;
#define KB_FLOAT 1
#include "core/kernels_math.h"

/* ROWS * WIDTH and GROUP_ROWS * VOCAB are large enough that two threads get to work. */
enum { ROWS = 130, WIDTH = 258, VOCAB = 601, HEADS = 3, HEAD = 86, MANY = 60001, OPERANDS = 9 };

/* One operand in both element types; what is double for every table (sums, scales) lives in d. */
typedef struct operand {
    int64_t n;
    double *d;
    float *f;
} operand;

static operand operand_new(int64_t n, uint32_t instance)
{
    operand o = {n, malloc((size_t)(n + 1) * sizeof(double)),
                 malloc((size_t)(n + 1) * sizeof(float))};
    assert_non_null(o.d);
    assert_non_null(o.f);
    for (int64_t i = 0; i < n; i += 4) { /* in -3 .. 3 */
        uint32_t word[4];
        lh_random_block(3, lh_stream_id(LH_STREAM_TEST, instance), (uint64_t)i, word);
        for (int64_t j = i; j < n && j < i + 4; j++) {
            o.f[j] = ((float)(word[j - i] >> 8) + 0.5f) * (6.0f * 0x1p-24f) - 3.0f;
            o.d[j] = (double)o.f[j];
        }
    }
    return o;
}

static void operand_free(operand *o)
{
    free(o->d);
    free(o->f);
    *o = (operand){0, NULL, NULL};
}

/* A run: a table, which element type it has, its operands. */
typedef struct run {
    const lh_kernels *k;
    bool single;
    int threads;
    operand v[OPERANDS];
} run;

static void *at(const run *r, int i)
{
    return r->single ? (void *)r->v[i].f : (void *)r->v[i].d;
}

static int32_t token(int64_t r)
{
    return (int32_t)(r * 37 % 11 * 50);
}

static void tokens(int32_t *ids, bool labels)
{
    for (int64_t r = 0; r < ROWS; r++) ids[r] = labels && r % 9 == 4 ? -1 : token(r);
}

/* --- the operations: kernel call and plain loop
 * ------------------------------------------------------------------ */

static void do_gemm(run *r)
{
    r->k->gemm(
        &(lh_gemm_args){57, 45, 83, 0.5, at(r, 0), 83, 1, at(r, 1), 1, 83, at(r, 2), 45, 1, true},
        r->threads);
}
static void plain_gemm(operand *v)
{
    for (int i = 0; i < 57; i++)
        for (int j = 0; j < 45; j++)
            for (int k = 0; k < 83; k++)
                v[2].d[i * 45 + j] += 0.5 * v[0].d[i * 83 + k] * v[1].d[j * 83 + k];
}

static void do_fill(run *r)
{
    r->k->fill(&(lh_fill_args){MANY, 1.25, at(r, 0)}, r->threads);
}
static void plain_fill(operand *v)
{
    for (int i = 0; i < MANY; i++) v[0].d[i] = 1.25;
}

static void do_axpy(run *r)
{
    r->k->axpy(&(lh_axpy_args){MANY, 1.75, at(r, 0), at(r, 1), true}, r->threads);
    r->k->axpy(&(lh_axpy_args){MANY, 0.75, at(r, 0), at(r, 2), false}, r->threads);
    r->k->axpy(&(lh_axpy_args){MANY, 1.0, at(r, 0), at(r, 3), false}, r->threads);
    r->k->axpy(&(lh_axpy_args){MANY, 1.0, at(r, 0), at(r, 0), false}, r->threads);
    r->k->axpy(&(lh_axpy_args){MANY, -2.0, at(r, 0), at(r, 0), false}, r->threads);
}
static void plain_axpy(operand *v)
{
    for (int i = 0; i < MANY; i++) {
        v[1].d[i] += 1.75 * v[0].d[i];
        v[2].d[i] = 0.75 * v[0].d[i];
        v[3].d[i] = v[0].d[i];
        v[0].d[i] *= -2.0;
    }
}

static void do_add(run *r)
{
    r->k->add(&(lh_add_args){MANY, at(r, 0), at(r, 1), at(r, 2)}, r->threads);
}
static void plain_add(operand *v)
{
    for (int i = 0; i < MANY; i++) v[2].d[i] = v[0].d[i] + v[1].d[i];
}

static void do_bias(run *r)
{
    r->k->bias(&(lh_bias_args){ROWS, WIDTH, at(r, 0), at(r, 1)}, r->threads);
    r->k->bias_grad(&(lh_bias_grad_args){ROWS, WIDTH, at(r, 1), at(r, 2)}, r->threads);
}
static void plain_bias(operand *v)
{
    for (int r = 0; r < ROWS; r++) {
        for (int i = 0; i < WIDTH; i++) {
            v[1].d[r * WIDTH + i] += v[0].d[i];
            v[2].d[i] += v[1].d[r * WIDTH + i];
        }
    }
}

static void call_norm(run *r, bool rms)
{
    r->k->norm(&(lh_norm_args){ROWS, WIDTH, 1e-5, rms, at(r, 0), at(r, 1), rms ? NULL : at(r, 2),
                               at(r, 3), at(r, 4), NULL, NULL},
               r->threads);
}
static void do_layer_norm(run *r)
{
    call_norm(r, false);
}
static void do_rms_norm(run *r)
{
    call_norm(r, true);
}
static void plain_norm(operand *v, bool rms)
{
    for (int r = 0; r < ROWS; r++) {
        const double *x = v[0].d + r * WIDTH;
        double mean = 0, var = 0;
        for (int i = 0; i < WIDTH && !rms; i++) mean += x[i] / WIDTH;
        for (int i = 0; i < WIDTH; i++) var += (x[i] - mean) * (x[i] - mean) / WIDTH;
        v[4].d[2 * r] = mean;
        v[4].d[2 * r + 1] = 1.0 / sqrt(var + 1e-5);
        for (int i = 0; i < WIDTH; i++)
            v[3].d[r * WIDTH + i] =
                (x[i] - mean) / sqrt(var + 1e-5) * v[1].d[i] + (rms ? 0.0 : v[2].d[i]);
    }
}
static void plain_layer_norm(operand *v)
{
    plain_norm(v, false);
}
static void plain_rms_norm(operand *v)
{
    plain_norm(v, true);
}

/* x, w, b, y, stats, h, sum */
static void call_add_norm(run *r, bool rms)
{
    r->k->norm(&(lh_norm_args){ROWS, WIDTH, 1e-5, rms, at(r, 0), at(r, 1), rms ? NULL : at(r, 2),
                               at(r, 3), at(r, 4), at(r, 5), at(r, 6)},
               r->threads);
}
static void do_add_layer_norm(run *r)
{
    call_add_norm(r, false);
}
static void do_add_rms_norm(run *r)
{
    call_add_norm(r, true);
}
static void plain_add_norm(operand *v, bool rms)
{
    operand summed[] = {v[6], v[1], v[2], v[3], v[4]};
    for (int i = 0; i < ROWS * WIDTH; i++) v[6].d[i] = v[0].d[i] + v[5].d[i];
    plain_norm(summed, rms);
}
static void plain_add_layer_norm(operand *v)
{
    plain_add_norm(v, false);
}
static void plain_add_rms_norm(operand *v)
{
    plain_add_norm(v, true);
}

/* x, w, b, y, stats, dy, dx, dw, db: forward, then its adjoint; the plain version differentiates
 * mean and rstd as functions of x by the quotient rule, entry by entry. */
static void call_norm_grad(run *r, bool rms)
{
    call_norm(r, rms);
    r->k->norm_grad(&(lh_norm_grad_args){ROWS, WIDTH, rms, at(r, 0), at(r, 1), at(r, 4), at(r, 5),
                                         at(r, 6), at(r, 7), rms ? NULL : at(r, 8), rms},
                    r->threads);
}
static void do_layer_norm_grad(run *r)
{
    call_norm_grad(r, false);
}
static void do_rms_norm_grad(run *r)
{
    call_norm_grad(r, true);
}
static void plain_norm_grad(operand *v, bool rms)
{
    plain_norm(v, rms);
    for (int r = 0; r < ROWS; r++) {
        const double *x = v[0].d + r * WIDTH, *dy = v[5].d + r * WIDTH, *w = v[1].d;
        const double m = v[4].d[2 * r], s = v[4].d[2 * r + 1];
        double along = 0, total = 0;
        for (int j = 0; j < WIDTH; j++) {
            along += dy[j] * w[j] * (x[j] - m);
            total += dy[j] * w[j];
            v[7].d[j] += dy[j] * (x[j] - m) * s;
            if (!rms) v[8].d[j] += dy[j];
        }
        for (int i = 0; i < WIDTH; i++) {
            const double dx = dy[i] * w[i] * s - (rms ? 0.0 : total * s / WIDTH) -
                              s * s * s * (x[i] - m) / WIDTH * along;
            v[6].d[r * WIDTH + i] = dx + (rms ? v[6].d[r * WIDTH + i] : 0.0);
        }
    }
}
static void plain_layer_norm_grad(operand *v)
{
    plain_norm_grad(v, false);
}
static void plain_rms_norm_grad(operand *v)
{
    plain_norm_grad(v, true);
}

/* x, gate, y of four kinds */
static void do_act(run *r)
{
    r->k->act(&(lh_act_args){LH_ACT_GELU, MANY, at(r, 0), NULL, at(r, 2)}, r->threads);
    r->k->act(&(lh_act_args){LH_ACT_RELU, MANY, at(r, 0), NULL, at(r, 3)}, r->threads);
    r->k->act(&(lh_act_args){LH_ACT_SWIGLU, MANY, at(r, 0), at(r, 1), at(r, 4)}, r->threads);
    r->k->act(&(lh_act_args){LH_ACT_TANH, MANY, at(r, 0), NULL, at(r, 5)}, r->threads);
}
static void plain_act(operand *v)
{
    for (int i = 0; i < MANY; i++) {
        const double x = v[0].d[i];
        v[2].d[i] = 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
        v[3].d[i] = x > 0 ? x : 0;
        v[4].d[i] = x / (1.0 + exp(-x)) * v[1].d[i];
        v[5].d[i] = tanh(x);
    }
}

/* x, gate, dy (in place for GELU), dx of relu, dx and dgate of swiglu, dy of those two and of tanh, its
 * dx */
static void do_act_grad(run *r)
{
    r->k->act_grad(&(lh_act_grad_args){LH_ACT_GELU, MANY, at(r, 0), NULL, at(r, 2), at(r, 2), NULL},
                   r->threads);
    r->k->act_grad(&(lh_act_grad_args){LH_ACT_RELU, MANY, at(r, 0), NULL, at(r, 6), at(r, 3), NULL},
                   r->threads);
    r->k->act_grad(
        &(lh_act_grad_args){LH_ACT_SWIGLU, MANY, at(r, 0), at(r, 1), at(r, 6), at(r, 4), at(r, 5)},
        r->threads);
    r->k->act_grad(&(lh_act_grad_args){LH_ACT_TANH, MANY, at(r, 0), NULL, at(r, 6), at(r, 7), NULL},
                   r->threads);
}
static void plain_act_grad(operand *v)
{
    for (int i = 0; i < MANY; i++) {
        const double x = v[0].d[i], s = 1.0 / (1.0 + exp(-x)), dy = v[6].d[i];
        v[2].d[i] *=
            0.5 * (1.0 + erf(x / sqrt(2.0))) + x * exp(-x * x / 2) / sqrt(2.0 * acos(-1.0));
        v[3].d[i] = x > 0 ? dy : 0;
        v[4].d[i] = dy * v[1].d[i] * s * (1.0 + x * (1.0 - s));
        v[5].d[i] = dy * x * s;
        v[7].d[i] = dy / (cosh(x) * cosh(x));
    }
}

static void do_embed(run *r)
{
    int32_t ids[ROWS];
    tokens(ids, false);
    r->k->embed(&(lh_embed_args){ROWS, WIDTH, VOCAB, ids, at(r, 0), at(r, 1)}, r->threads);
    r->k->embed_grad(&(lh_embed_grad_args){ROWS, WIDTH, VOCAB, ids, at(r, 2), at(r, 3)},
                     r->threads);
}
static void plain_embed(operand *v)
{
    for (int r = 0; r < ROWS; r++) {
        for (int i = 0; i < WIDTH; i++) {
            v[1].d[r * WIDTH + i] = v[0].d[token(r) * WIDTH + i];
            v[3].d[token(r) * WIDTH + i] += v[2].d[r * WIDTH + i];
        }
    }
}

/* table, x, y forward, y inverse accumulated, x rotated in place; positions 1000000, 1000003, ... */
static void do_rotary(run *r)
{
    lh_rotary_args a = {ROWS, HEADS, HEAD, at(r, 1), at(r, 0), at(r, 2), false, false};
    r->k->rotary_table(&(lh_rotary_table_args){ROWS, HEAD, 1000000, 3, 10000.0, at(r, 0)},
                       r->threads);
    r->k->rotary(&a, r->threads);
    a.y = at(r, 3);
    a.inverse = a.accumulate = true;
    r->k->rotary(&a, r->threads);
    a.y = at(r, 1);
    a.accumulate = false;
    r->k->rotary(&a, r->threads);
}
static void plain_rotary(operand *v)
{
    for (int r = 0; r < ROWS; r++) {
        for (int i = 0; i < HEAD / 2; i++) {
            const double angle = (1000000.0 + 3 * r) * pow(10000.0, -2.0 * i / HEAD);
            const double c = cos(angle), s = sin(angle);
            v[0].d[(r * HEAD / 2 + i) * 2] = c;
            v[0].d[(r * HEAD / 2 + i) * 2 + 1] = s;
            for (int h = 0; h < HEADS; h++) {
                const int p = (r * HEADS + h) * HEAD + i, q = p + HEAD / 2;
                const double x = v[1].d[p], y = v[1].d[q];
                v[2].d[p] = x * c - y * s;
                v[2].d[q] = x * s + y * c;
                v[3].d[p] += x * c + y * s;
                v[3].d[q] += y * c - x * s;
                v[1].d[p] = x * c + y * s;
                v[1].d[q] = y * c - x * s;
            }
        }
    }
}

static void do_sinusoid(run *r)
{
    r->k->sinusoid(&(lh_sinusoid_args){ROWS, WIDTH, 500, 2, at(r, 0)}, r->threads);
    r->k->sinusoid(&(lh_sinusoid_args){ROWS, 7, 0, 1, at(r, 1)}, r->threads);
}
static void plain_sinusoid(operand *v)
{
    for (int r = 0; r < ROWS; r++) {
        for (int i = 0; i < WIDTH; i++) {
            const double angle = (500.0 + 2 * r) / pow(10000.0, (double)(i - i % 2) / WIDTH);
            v[0].d[r * WIDTH + i] += i % 2 == 0 ? sin(angle) : cos(angle);
        }
        for (int i = 0; i < 7; i++) {
            const double angle = r / pow(10000.0, (double)(i - i % 2) / 7);
            v[1].d[r * 7 + i] += i % 2 == 0 ? sin(angle) : cos(angle);
        }
    }
}

static void do_distance_table(run *r)
{
    r->k->distance_table(&(lh_distance_table_args){ROWS, WIDTH - WIDTH % 2, -40, 3, at(r, 0)},
                         r->threads);
}
static void plain_distance_table(operand *v)
{
    const int half = WIDTH / 2;
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < half; i++) {
            const double angle = (-40.0 + 3 * r) * pow(10000.0, -2.0 * i / (2 * half));
            v[0].d[r * 2 * half + i] = sin(angle);
            v[0].d[r * 2 * half + half + i] = cos(angle);
        }
}

static void do_dropout(run *r)
{
    r->k->dropout(&(lh_dropout_args){MANY, 0.3, 11, 12, 1003, at(r, 0), at(r, 1), false},
                  r->threads);
    r->k->dropout(&(lh_dropout_args){MANY, 0.75, 11, 12, 0, at(r, 0), at(r, 2), true}, r->threads);
    r->k->dropout(&(lh_dropout_args){MANY, 0.0, 11, 12, 5, at(r, 0), at(r, 0), false}, r->threads);
}
static void plain_dropout(operand *v)
{
    for (uint64_t i = 0; i < MANY; i++) {
        const double word = (double)lh_random_u32(11, 12, 1003 + i);
        v[1].d[i] = word >= 0.3 * 0x1p32 ? v[0].d[i] / 0.7 : 0.0;
        if ((double)lh_random_u32(11, 12, i) >= 0.75 * 0x1p32) v[2].d[i] += v[0].d[i] / 0.25;
    }
}

/* logits, lse, sums (f64), gradient of the loss (f64); row 3 is shifted far up and row 7 has ties. */
static void entropy_edit(operand *o)
{
    for (int i = 0; i < VOCAB; i++) {
        o->f[3 * VOCAB + i] += 5000.0f;
        o->f[7 * VOCAB + i] = i == token(7) || i == token(7) + 1 ? 4.0f : 1.0f;
        o->f[8 * VOCAB + i] = i == token(8) || i == 0 ? 4.0f : -(float)INFINITY;
    }
    for (int64_t i = 0; i < o->n; i++) o->d[i] = (double)o->f[i];
}
static void do_cross_entropy(run *r)
{
    int32_t labels[ROWS];
    tokens(labels, true);
    entropy_edit(&r->v[0]);
    r->k->cross_entropy(
        &(lh_cross_entropy_args){ROWS, VOCAB, at(r, 0), labels, at(r, 1), r->v[2].d}, r->threads);
    r->k->cross_entropy_grad(
        &(lh_cross_entropy_grad_args){ROWS, VOCAB, at(r, 0), labels, at(r, 1), 0.5, r->v[3].d},
        r->threads);
}
static void plain_cross_entropy(operand *v)
{
    int32_t labels[ROWS];
    tokens(labels, true);
    entropy_edit(&v[0]);
    for (int r = 0; r < ROWS; r++) {
        double *x = v[0].d + r * VOCAB, max = x[0], sum = 0;
        int best = 0;
        for (int i = 0; i < VOCAB; i++) max = x[i] > max ? x[best = i] : max;
        for (int i = 0; i < VOCAB; i++) sum += exp(x[i] - max);
        v[1].d[r] = max + log(sum);
        if (labels[r] >= 0) v[2].d[0] += v[1].d[r] - x[labels[r]];
        if (labels[r] >= 0) v[2].d[1] += best == labels[r];
        for (int i = 0; i < VOCAB; i++)
            x[i] =
                labels[r] < 0 ? 0.0 : 0.5 * v[3].d[0] * (exp(x[i] - max) / sum - (i == labels[r]));
    }
}

/* x, m, v, grad; two steps of torch.optim.AdamW as its documentation writes them. */
static void adamw_edit(operand *o)
{
    for (int64_t i = 0; i < o->n; i++) {
        o->f[i] = o->f[i] * o->f[i];
        o->d[i] = (double)o->f[i];
    }
}
static void do_adamw(run *r)
{
    adamw_edit(&r->v[2]);
    for (int t = 1; t <= 2; t++)
        r->k->adamw(&(lh_adamw_args){MANY, 1e-2, 0.9, 0.95, 1e-8, 0.1, 1.0 - pow(0.9, t),
                                     1.0 - pow(0.95, t), 0.25, at(r, 0), at(r, 1), at(r, 2),
                                     at(r, 3)},
                    r->threads);
}
static void plain_adamw(operand *v)
{
    adamw_edit(&v[2]);
    for (int i = 0; i < 2 * MANY; i++) {
        const int t = i / MANY + 1, j = i % MANY;
        const double g = v[3].d[j] * 0.25;
        v[0].d[j] -= 1e-2 * 0.1 * v[0].d[j];
        v[1].d[j] = 0.9 * v[1].d[j] + 0.1 * g;
        v[2].d[j] = 0.95 * v[2].d[j] + 0.05 * g * g;
        const double mhat = v[1].d[j] / (1.0 - pow(0.9, t)),
                     vhat = v[2].d[j] / (1.0 - pow(0.95, t));
        v[0].d[j] -= 1e-2 * mhat / (sqrt(vhat) + 1e-8);
    }
}

static void do_sum_squares(run *r)
{
    r->k->sum_squares(&(lh_sum_squares_args){5 * MANY, at(r, 0), r->v[1].d}, r->threads);
}
static void plain_sum_squares(operand *v)
{
    double sum = v[1].d[0], low = 0.0; /* what products and sums round away is added up too */
    for (int i = 0; i < 5 * MANY; i++) {
        double x = v[0].d[i], square = x * x, next = sum + square;
        low += fabs(sum) >= square ? sum - next + square : square - next + sum;
        low += fma(x, x, -square);
        sum = next;
    }
    v[1].d[0] = sum + low;
}

/* tensor [2, ROWS, 5], packed [2, 21, 5] out and in, tensor that is added to */
static const lh_span spans[] = {{10, 12, 1}, {3, 4, 7}, {120, 1, 5}, {9, 0, 1}, {50, 4, 1}};
enum { SPANS = sizeof spans / sizeof spans[0], PACKED = 21 };
/* All of a row of 5 travels, or 2 of it from the third on. */
static void move_rows(run *r, int64_t width, int64_t column)
{
    lh_rows_args a = {.batch = 2,
                      .tensor_rows = ROWS,
                      .width = width,
                      .n_spans = SPANS,
                      .spans = spans,
                      .element_bytes = r->single ? sizeof(float) : sizeof(double),
                      .row_width = width < 5 ? 5 : 0,
                      .column = column,
                      .tensor = at(r, 0),
                      .host = at(r, 1)};
    r->k->pack_rows(&a, r->threads);
    a.tensor = at(r, 2);
    r->k->add_rows(&a, r->threads);
    a.host = at(r, 3);
    a.tensor = at(r, 4);
    r->k->unpack_rows(&a, r->threads);
}
static void plain_move_rows(operand *v, int64_t width, int64_t column)
{
    int packed = 0;
    for (int b = 0; b < 2; b++) {
        for (int s = 0; s < SPANS; s++) {
            for (int64_t i = 0; i < spans[s].count * width; i++, packed++) {
                const int64_t row = b * ROWS + spans[s].row + i / width * spans[s].stride;
                const int64_t e = row * 5 + column + i % width;
                v[1].d[packed] = v[0].d[e];
                v[2].d[e] += v[1].d[packed];
                v[4].d[e] = v[3].d[packed];
            }
        }
    }
}
static void do_rows(run *r)
{
    move_rows(r, 5, 0);
}
static void plain_rows(operand *v)
{
    plain_move_rows(v, 5, 0);
}
static void do_columns(run *r)
{
    move_rows(r, 2, 2);
}
static void plain_columns(operand *v)
{
    plain_move_rows(v, 2, 2);
}

/* --- features: FR rows of FH heads, the last three without features; x, u, c, then results
 * ------------------------------------------------------------------------------------------ */

enum { FR = 115, FH = 3, FW = 6, FM = 100, FX = FR * FH * FW, FU = FR * FH * FM };

static lh_feature_args feature_args(run *r, lh_feature_kind kind, const void *c, void *phi)
{
    return (lh_feature_args){.kind = kind,
                             .rows = FR,
                             .live = FR - 3,
                             .heads = FH,
                             .width = FW,
                             .features = FM,
                             .scale = 0.5,
                             .epsilon = 0.125,
                             .x = at(r, 0),
                             .u = at(r, 1),
                             .c = c,
                             .phi = phi};
}

/* positive and hyperbolic with given stabilisers, trig and positive with their own, elu, maxima */
static void do_feature(run *r)
{
    lh_feature_args f[] = {feature_args(r, LH_FEATURE_POSITIVE, at(r, 2), at(r, 3)),
                           feature_args(r, LH_FEATURE_HYPERBOLIC, at(r, 2), at(r, 4)),
                           feature_args(r, LH_FEATURE_TRIG, NULL, at(r, 5)),
                           feature_args(r, LH_FEATURE_POSITIVE, NULL, at(r, 6)),
                           feature_args(r, LH_FEATURE_ELU, NULL, at(r, 7))};
    for (int i = 0; i < 5; i++) r->k->feature(&f[i], r->threads);
    r->k->feature_max(&(lh_feature_max_args){LH_FEATURE_POSITIVE, FR, FR - 3, FH, FW, FM, 0.5,
                                             at(r, 0), at(r, 1), at(r, 8)},
                      r->threads);
}

static double feature_half(const operand *v, int r)
{
    double sum = 0;
    for (int i = 0; i < FW; i++) sum += v[0].d[r * FW + i] * v[0].d[r * FW + i];
    return 0.125 * sum;
}

static void plain_feature(operand *v)
{
    for (int r = 0; r < FR * FH; r++) {
        const double half = feature_half(v, r), c = v[2].d[r % FH], *u = v[1].d + r * FM;
        const int live = r / FH < FR - 3;
        double most = u[0];
        for (int i = 0; i < FM; i++) most = fmax(most, u[i]);
        if (live) v[8].d[r % FH] = fmax(v[8].d[r % FH], most);
        for (int i = 0; i < FM; i++) {
            v[3].d[r * FM + i] = live * 0.1 * (exp(u[i] - half - c) + 0.125);
            v[6].d[r * FM + i] = live * 0.1 * (exp(u[i] - half - most) + 0.125);
            v[7].d[r * FM + i] = live * ((u[i] > 0 ? u[i] + 1 : exp(u[i])) + 0.125);
            for (int n = 0; n < 2; n++) {
                const double e = exp((n == 0 ? u[i] : -u[i]) - half - c);
                v[4].d[(2 * r + n) * FM + i] = live * (e + 0.125) / sqrt(2.0 * FM);
                v[5].d[(2 * r + n) * FM + i] = live * 0.1 * ((n == 0 ? cos : sin)(u[i]) + 0.125);
            }
        }
    }
}

/* x, u, c, dphi; du and dx of positive, hyperbolic, and trig, which adds to the first dx */
static void do_feature_grad(run *r)
{
    lh_feature_grad_args g[] = {
        {feature_args(r, LH_FEATURE_POSITIVE, at(r, 2), NULL), at(r, 3), at(r, 4), at(r, 5), false},
        {feature_args(r, LH_FEATURE_HYPERBOLIC, at(r, 2), NULL), at(r, 3), at(r, 6), at(r, 7),
         false},
        {feature_args(r, LH_FEATURE_TRIG, NULL, NULL), at(r, 3), at(r, 8), at(r, 5), true}};
    for (int i = 0; i < 3; i++) r->k->feature_grad(&g[i], r->threads);
}

static void plain_feature_grad(operand *v)
{
    for (int r = 0; r < FR * FH; r++) {
        const double half = feature_half(v, r), c = v[2].d[r % FH], *u = v[1].d + r * FM;
        const double one = r / FH < FR - 3 ? 1.0 : 0.0, *dphi = v[3].d;
        double along[2] = {0, 0};
        for (int i = 0; i < FM; i++) {
            const double e = one * exp(u[i] - half - c) * dphi[r * FM + i] / sqrt(FM);
            const double up = one * exp(u[i] - half - c) / sqrt(2.0 * FM) * dphi[2 * r * FM + i];
            const double down =
                one * exp(-u[i] - half - c) / sqrt(2.0 * FM) * dphi[(2 * r + 1) * FM + i];
            const double wave[2] = {one * dphi[2 * r * FM + i] / sqrt(FM),
                                    one * dphi[(2 * r + 1) * FM + i] / sqrt(FM)};
            v[4].d[r * FM + i] = e;
            v[6].d[r * FM + i] = up - down;
            v[8].d[r * FM + i] = wave[1] * cos(u[i]) - wave[0] * sin(u[i]);
            along[0] += wave[0] * cos(u[i]) + wave[1] * sin(u[i]) - e;
            along[1] -= up + down;
        }
        for (int i = 0; i < FW; i++) {
            v[5].d[r * FW + i] = 0.25 * along[0] * v[0].d[r * FW + i];
            v[7].d[r * FW + i] = 0.25 * along[1] * v[0].d[r * FW + i];
        }
    }
}

/* {x, 1}; n by its last column; the adjoint; a triangle */
static void do_divide(run *r)
{
    const int64_t rows = ROWS, width = WIDTH - 1;
    r->k->extend(&(lh_extend_args){rows, width, at(r, 0), at(r, 1)}, r->threads);
    r->k->divide(&(lh_divide_args){rows, width, at(r, 2), at(r, 3), at(r, 4)}, r->threads);
    r->k->divide_grad(&(lh_divide_grad_args){rows, width, at(r, 5), at(r, 4), at(r, 0), at(r, 6)},
                      r->threads);
    r->k->tril(&(lh_tril_args){VOCAB, at(r, 7)}, r->threads);
}

static void plain_divide(operand *v)
{
    const int w = WIDTH - 1;
    for (int r = 0; r < ROWS; r++) {
        const double den = v[2].d[r * WIDTH + w];
        double along = 0;
        for (int i = 0; i < w; i++) {
            v[1].d[r * WIDTH + i] = v[0].d[r * w + i];
            v[3].d[r * w + i] = v[2].d[r * WIDTH + i] / den;
            v[6].d[r * WIDTH + i] = v[0].d[r * w + i] / den;
            along += v[0].d[r * w + i] * v[5].d[r * w + i];
        }
        v[1].d[r * WIDTH + w] = 1;
        v[4].d[r] = den;
        v[6].d[r * WIDTH + w] = -along / den;
    }
    for (int i = 0; i < VOCAB; i++)
        for (int j = i + 1; j < VOCAB; j++) v[7].d[i * VOCAB + j] = 0;
}

/* o, sum, max, top of 2 sequences of ROWS queries and HEADS heads; some saw nothing */
enum { QUERIES = 2 * ROWS * HEADS };
static void rescale_edit(operand *max)
{
    for (int64_t i = 0; i < max->n; i += 7) max->f[i] = -(float)INFINITY;
    for (int64_t i = 0; i < max->n; i += 7) max->d[i] = -INFINITY;
}
static void do_rescale(run *r)
{
    rescale_edit(&r->v[2]);
    r->k->attend_rescale(
        &(lh_attend_rescale_args){2, HEADS, HEAD, ROWS, at(r, 0), at(r, 1), at(r, 2), at(r, 3)},
        r->threads);
}
static void plain_rescale(operand *v)
{
    rescale_edit(&v[2]);
    for (int i = 0; i < QUERIES; i++) {
        const int b = i / (HEADS * ROWS), h = i / ROWS % HEADS, row = i % ROWS;
        const double factor = exp(v[2].d[i] - v[3].d[i]);
        v[1].d[i] *= factor;
        for (int d = 0; d < HEAD; d++) v[0].d[((b * ROWS + row) * HEADS + h) * HEAD + d] *= factor;
    }
}

/* --- the comparison
 * ------------------------------------------------------------------------------------------------ */

typedef struct op {
    const char *name;
    void (*call)(run *r);
    void (*plain)(operand *v);
    int64_t size[OPERANDS];
    unsigned doubles; /* bit i: operand i is double for every table */
    double
        terms; /* of the longest sum: tolerance 8 sqrt(terms) eps of the largest entry; more where said */
} op;

enum { RW = ROWS * WIDTH, RV = ROWS * VOCAB, VW = VOCAB * WIDTH };

static const op ops[] = {
    {"gemm", do_gemm, plain_gemm, {57 * 83, 45 * 83, 57 * 45}, 0, 83},
    {"fill", do_fill, plain_fill, {MANY}, 0, 1},
    {"axpy", do_axpy, plain_axpy, {MANY, MANY, MANY, MANY}, 0, 1},
    {"add", do_add, plain_add, {MANY, MANY, MANY}, 0, 1},
    {"bias", do_bias, plain_bias, {WIDTH, RW, WIDTH}, 0, ROWS},
    {"layer norm", do_layer_norm, plain_layer_norm, {RW, WIDTH, WIDTH, RW, 2 * ROWS}, 0, 1},
    {"rms norm", do_rms_norm, plain_rms_norm, {RW, WIDTH, WIDTH, RW, 2 * ROWS}, 0, 1},
    /* the plain loop sums a row's squares, larger than those of the norms above, in one order */
    {"layer norm of a sum",
     do_add_layer_norm,
     plain_add_layer_norm,
     {RW, WIDTH, WIDTH, RW, 2 * ROWS, RW, RW},
     0,
     4},
    {"rms norm of a sum",
     do_add_rms_norm,
     plain_add_rms_norm,
     {RW, WIDTH, WIDTH, RW, 2 * ROWS, RW, RW},
     0,
     4},
    {"layer norm gradient",
     do_layer_norm_grad,
     plain_layer_norm_grad,
     {RW, WIDTH, WIDTH, RW, 2 * ROWS, RW, RW, WIDTH, WIDTH},
     0,
     ROWS},
    {"rms norm gradient",
     do_rms_norm_grad,
     plain_rms_norm_grad,
     {RW, WIDTH, WIDTH, RW, 2 * ROWS, RW, RW, WIDTH, WIDTH},
     0,
     ROWS},
    {"activation", do_act, plain_act, {MANY, MANY, MANY, MANY, MANY, MANY}, 0, 1},
    {"activation gradient",
     do_act_grad,
     plain_act_grad,
     {MANY, MANY, MANY, MANY, MANY, MANY, MANY, MANY},
     0,
     1},
    {"embedding", do_embed, plain_embed, {VW, RW, RW, VW}, 0, 12},
    {"rotary", do_rotary, plain_rotary, {ROWS * HEAD, RW, RW, RW}, 0, 1},
    /* angles reach 760, and sine keeps their absolute error */
    {"sinusoid", do_sinusoid, plain_sinusoid, {RW, 7 * ROWS}, 0, 760},
    {"distance_table", do_distance_table, plain_distance_table, {RW}, 0, 400}, /* as above */
    {"dropout", do_dropout, plain_dropout, {MANY, MANY, MANY}, 0, 1},
    /* in the row near 5000, lse is rounded to 2e-4 */
    {"cross-entropy",
     do_cross_entropy,
     plain_cross_entropy,
     {RV, ROWS, 2, 1},
     1u << 2 | 1u << 3,
     100},
    {"adamw", do_adamw, plain_adamw, {MANY, MANY, MANY, MANY}, 0, 1},
    {"sum of squares", do_sum_squares, plain_sum_squares, {5 * MANY, 1}, 1u << 1, 4096},
    {"features", do_feature, plain_feature, {FX, FU, FH, FU, 2 * FU, 2 * FU, FU, FU, FH}, 0, 16},
    {"feature gradient",
     do_feature_grad,
     plain_feature_grad,
     {FX, FU, FH, 2 * FU, FU, FX, FU, FX, FU},
     0,
     FM},
    {"division",
     do_divide,
     plain_divide,
     {RW - ROWS, RW, RW, RW - ROWS, ROWS, RW - ROWS, RW, VOCAB *VOCAB},
     0,
     WIDTH},
    {"rescaling", do_rescale, plain_rescale, {QUERIES * HEAD, QUERIES, QUERIES, QUERIES}, 0, 1},
    {"columns of rows",
     do_columns,
     plain_columns,
     {2 * ROWS * 5, 2 * PACKED * 2, 2 * ROWS * 5, 2 * PACKED * 2, 2 * ROWS * 5},
     0,
     1},
    {"rows",
     do_rows,
     plain_rows,
     {2 * ROWS * 5, 2 * PACKED * 5, 2 * ROWS * 5, 2 * PACKED * 5, 2 * ROWS * 5},
     0,
     1},
};
enum { OPS = sizeof ops / sizeof ops[0] };

/* More threads than some calls have parts to give; none divides every size. */
static const int thread_count[] = {2, 3, 7};
enum { THREAD_COUNTS = sizeof thread_count / sizeof thread_count[0] };

static run run_new(const op *o, const lh_kernels *k, bool single, int threads)
{
    run r = {.k = k, .single = single, .threads = threads};
    for (int i = 0; i < OPERANDS; i++) r.v[i] = operand_new(o->size[i], (uint32_t)i);
    if (k != NULL)
        o->call(&r);
    else
        o->plain(r.v);
    return r;
}

static void run_free(run *r)
{
    for (int i = 0; i < OPERANDS; i++) operand_free(&r->v[i]);
}

/* Largest difference relative to the largest entry of the reference; infinite entries must agree. */
static double difference(const run *r, int i, unsigned doubles, const double *want)
{
    double worst = 0, scale = 1e-30;
    for (int64_t j = 0; j < r->v[i].n; j++) {
        const bool single = r->single && (doubles >> i & 1) == 0;
        const double x = single ? (double)r->v[i].f[j] : r->v[i].d[j];
        if (isinf(want[j]) && x == want[j]) continue;
        if (!isfinite(x) || !isfinite(want[j])) return HUGE_VAL;
        worst = fmax(worst, fabs(x - want[j]));
        scale = fmax(scale, fabs(want[j]));
    }
    return worst / scale;
}

static void compare(const op *o, const lh_kernels *k, bool single, const run *want)
{
    const double eps = single ? (double)FLT_EPSILON : DBL_EPSILON;
    const double tolerance = 8.0 * sqrt(o->terms) * eps;
    run one = run_new(o, k, single, 1);
    for (int i = 0; i < OPERANDS; i++) {
        const double d = difference(&one, i, o->doubles, want->v[i].d);
        if (d > tolerance)
            fail_msg("%s, %s %s, operand %d: difference %.3g, allowed %.3g", o->name,
                     single ? "float" : "double", k->isa, i, d, tolerance);
    }
    for (int t = 0; t < THREAD_COUNTS; t++) {
        run more = run_new(o, k, single, thread_count[t]);
        for (int i = 0; i < OPERANDS; i++) {
            const size_t n = (size_t)one.v[i].n;
            if (memcmp(one.v[i].d, more.v[i].d, n * sizeof(double)) != 0 ||
                memcmp(one.v[i].f, more.v[i].f, n * sizeof(float)) != 0)
                fail_msg("%s, %s %s, operand %d: %d threads give other bits", o->name,
                         single ? "float" : "double", k->isa, i, thread_count[t]);
        }
        run_free(&more);
    }
    run_free(&one);
}

/* --- every slot of the table is called above: a copy of it that notes its calls
 * ------------------------------------------------------------------------------------------ */

static lh_kernels noted;

#define NOTE_CALL(name)                                                                            \
    static int64_t calls_##name;                                                                   \
    static void note_##name(const lh_##name##_args *a, int threads)                                \
    {                                                                                              \
        calls_##name++;                                                                            \
        lh_kernels_f64()->name(a, threads);                                                        \
    }
LH_KERNEL_LIST(NOTE_CALL)
#undef NOTE_CALL

/* Those of the tiles are compared in test_tiles, those of bfloat16 in test_store. */
static bool elsewhere(const char *name)
{
    return (strncmp(name, "attend", 6) == 0 && strcmp(name, "attend_rescale") != 0) ||
           strstr(name, "bf16") != NULL;
}

static void test_no_kernel_is_left_out(void **state)
{
    (void)state;
    noted = *lh_kernels_f64();
#define NOTE_SLOT(name) noted.name = note_##name;
    LH_KERNEL_LIST(NOTE_SLOT)
#undef NOTE_SLOT
    for (int i = 0; i < OPS; i++) {
        run r = run_new(&ops[i], &noted, false, 1);
        run_free(&r);
    }
#define NOTE_SEEN(name)                                                                            \
    if (calls_##name == 0 && !elsewhere(#name)) fail_msg("no operation calls %s", #name);
    LH_KERNEL_LIST(NOTE_SEEN)
#undef NOTE_SEEN
}

static void test_double_against_plain_loops(void **state)
{
    (void)state;
    for (int i = 0; i < OPS; i++) {
        run want = run_new(&ops[i], NULL, false, 1);
        compare(&ops[i], lh_kernels_f64(), false, &want);
        run_free(&want);
    }
}

static void test_float_against_double(void **state)
{
    const lh_kernels *tables[] = {lh_kernels_f32(), lh_kernels_f32_avx2(), lh_kernels_f32_avx512()};
    (void)state;
    for (int t = 0; t < 3; t++) {
        if (tables[t] == NULL) {
            print_message("[  NOTE    ] this processor has no %s: not compared\n",
                          t == 1 ? "AVX2" : "AVX-512");
            continue;
        }
        for (int i = 0; i < OPS; i++) {
            run want = run_new(&ops[i], lh_kernels_f64(), false, 1);
            compare(&ops[i], tables[t], true, &want);
            run_free(&want);
        }
    }
}

/* The norm of a sum has the bits of the sum, then its norm. */
static void test_norm_of_a_sum(void **state)
{
    const lh_kernels *tables[] = {lh_kernels_f64(), lh_kernels_f32(), lh_kernels_f32_avx2(),
                                  lh_kernels_f32_avx512()};
    const op none = {.size = {RW, WIDTH, WIDTH, RW, 2 * ROWS, RW, RW}};
    (void)state;
    for (int t = 0; t < 4; t++)
        for (int rms = 0; rms < 2 && tables[t] != NULL; rms++) {
            run r[2];
            for (int i = 0; i < 2; i++) {
                r[i] = (run){.k = tables[t], .single = t > 0, .threads = 1 + 2 * i};
                for (int o = 0; o < OPERANDS; o++)
                    r[i].v[o] = operand_new(none.size[o], (uint32_t)o);
            }
            call_add_norm(&r[0], rms == 1);
            r[1].k->add(&(lh_add_args){RW, at(&r[1], 0), at(&r[1], 5), at(&r[1], 6)}, 3);
            r[1].k->norm(&(lh_norm_args){ROWS, WIDTH, 1e-5, rms == 1, at(&r[1], 6), at(&r[1], 1),
                                         rms ? NULL : at(&r[1], 2), at(&r[1], 3), at(&r[1], 4),
                                         NULL, NULL},
                         3);
            for (int o = 0; o < OPERANDS; o++)
                assert_memory_equal(at(&r[0], o), at(&r[1], o),
                                    (size_t)none.size[o] *
                                        (t > 0 ? sizeof(float) : sizeof(double)));
            for (int i = 0; i < 2; i++) run_free(&r[i]);
        }
}

/* --- shapes at the edge
 * ------------------------------------------------------------------------------------------- */

static void test_empty(void **state)
{
    const lh_kernels *k = lh_kernels_f64();
    double sum = 2.0, sums[2] = {3.0, 4.0};
    (void)state;
    k->fill(&(lh_fill_args){.n = 0}, 2);
    k->axpy(&(lh_axpy_args){.n = 0, .alpha = 1.0}, 2);
    k->act(&(lh_act_args){.kind = LH_ACT_GELU}, 2);
    k->adamw(&(lh_adamw_args){.c1 = 1, .c2 = 1}, 2);
    k->dropout(&(lh_dropout_args){.rate = 0.5}, 2);
    k->norm(&(lh_norm_args){.width = 4}, 2);
    k->norm_grad(&(lh_norm_grad_args){.width = 4, .dx = &sum, .dw = &sum}, 2);
    k->embed(&(lh_embed_args){.width = 4}, 2);
    k->rotary(&(lh_rotary_args){.heads = 2, .width = 4}, 2);
    k->sum_squares(&(lh_sum_squares_args){0, NULL, &sum}, 2);
    k->cross_entropy(&(lh_cross_entropy_args){.vocab = 9, .sums = sums}, 2);
    k->pack_rows(&(lh_rows_args){.batch = 1, .width = 3, .element_bytes = 8}, 2);
    assert_true(sum == 2.0 && sums[0] == 3.0 && sums[1] == 4.0);
}

static double gemm_plain(const lh_gemm_args *g, int64_t i, int64_t j, double old)
{
    const double *a = g->a, *b = g->b;
    double s = 0;
    for (int64_t p = 0; p < g->k; p++)
        s += a[i * g->a_rs + p * g->a_cs] * b[p * g->b_rs + j * g->b_cs];
    return g->alpha * s + (g->accumulate ? old : 0.0);
}

/* One product with random strides: each operand row-major, column-major or with gaps. NaN in C must
 * not leak. */
static void gemm_case(uint64_t seed, const lh_kernels *single)
{
    enum { SIDE = 70, GAP = 3, ROOM = SIDE * SIDE * GAP * GAP };
    uint64_t at_word = 0;
#define DRAW(n) ((int64_t)(lh_random_u32(seed, 9, at_word++) % (uint32_t)(n)))
    const int64_t m = DRAW(6) == 0 ? 1 : DRAW(SIDE), n = DRAW(6) == 0 ? 1 : DRAW(SIDE);
    const int64_t k = DRAW(6) == 0 ? 1 : DRAW(SIDE);
    const int64_t rows[3] = {m, k, m}, cols[3] = {k, n, n};
    int64_t rs[3], cs[3];
    for (int i = 0; i < 3; i++) {
        const int64_t gap = DRAW(3) == 0 ? GAP : 1, pad = DRAW(2) * GAP;
        const bool by_rows = DRAW(2) == 0;
        rs[i] = by_rows ? cols[i] * gap + pad : gap;
        cs[i] = by_rows ? gap : rows[i] * gap + pad;
    }
    operand a = operand_new(ROOM, 1), b = operand_new(ROOM, 2), c = operand_new(ROOM, 3);
    operand old = operand_new(ROOM, 3);
    lh_gemm_args g = {m,     n,           k,     DRAW(2) == 0 ? 1.0 : -0.5,
                      a.d,   rs[0],       cs[0], b.d,
                      rs[1], cs[1],       c.d,   rs[2],
                      cs[2], DRAW(2) == 0};
    lh_gemm_args h = g;
    h.a = a.f;
    h.b = b.f;
    h.c = c.f;
    if (!g.accumulate) memset(c.d, 0xFF, sizeof(double) * ROOM);
    if (!g.accumulate) memset(c.f, 0xFF, sizeof(float) * ROOM);
    lh_kernels_f64()->gemm(&g, (int)DRAW(2) + 1);
    single->gemm(&h, (int)DRAW(2) + 1);
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            const int64_t p = i * rs[2] + j * cs[2];
            const double want = gemm_plain(&g, i, j, old.d[p]);
            lh_assert_close(c.d[p], want, 1e-13, 1e-13);
            lh_assert_close((double)c.f[p], want, 1e-5, 4e-5); /* of sums of up to 630 */
            old.d[p] = c.d[p]; /* visited; everything else must be as before */
        }
    }
    for (int64_t p = 0; g.accumulate && p < ROOM; p++) assert_true(c.d[p] == old.d[p]);
#undef DRAW
    operand_free(&a);
    operand_free(&b);
    operand_free(&c);
    operand_free(&old);
}

static void test_products_with_any_strides(void **state)
{
    (void)state;
    const lh_kernels *tables[] = {lh_kernels_f32(), lh_kernels_f32_avx2(), lh_kernels_f32_avx512()};
    for (int t = 0; t < 3; t++)
        for (uint64_t seed = 0; seed < 200 && tables[t] != NULL; seed++)
            gemm_case(seed + 1000 * (uint64_t)t, tables[t]);
}

/* A product with operands of one element type, row-major or (turned) column-major. */
static void gemm_plain_call(const lh_kernels *k, bool single, const int64_t mnk[3], unsigned turned,
                            operand x[3], int threads)
{
    const int64_t rows[3] = {mnk[0], mnk[2], mnk[0]}, cols[3] = {mnk[2], mnk[1], mnk[1]};
    int64_t rs[3], cs[3];
    for (unsigned i = 0; i < 3; i++) {
        rs[i] = turned >> i & 1 ? 1 : cols[i];
        cs[i] = turned >> i & 1 ? rows[i] : 1;
    }
    void *p[3];
    for (int i = 0; i < 3; i++) p[i] = single ? (void *)x[i].f : (void *)x[i].d;
    k->gemm(&(lh_gemm_args){mnk[0], mnk[1], mnk[2], 0.75, p[0], rs[0], cs[0], p[1], rs[1], cs[1],
                            p[2], rs[2], cs[2], true},
            threads);
}

/* The number of threads changes no bit of a product, nor do the other rows of it. */
static void threads_case(const lh_kernels *k, bool single, const int64_t mnk[3], unsigned turned)
{
    const int64_t m = mnk[0], n = mnk[1];
    const size_t bytes = single ? sizeof(float) : sizeof(double);
    operand x[3] = {operand_new(m * mnk[2], 1), operand_new(n * mnk[2], 2), operand_new(m * n, 3)};
    gemm_plain_call(k, single, mnk, turned, x, 1);
    for (int threads = 2; threads <= 7; threads++) {
        operand more[3] = {x[0], x[1], operand_new(m * n, 3)};
        gemm_plain_call(k, single, mnk, turned, more, threads);
        if (memcmp(single ? (void *)x[2].f : (void *)x[2].d,
                   single ? (void *)more[2].f : (void *)more[2].d, (size_t)(m * n) * bytes) != 0)
            fail_msg("%s, %lld x %lld x %lld, orientation %u: %d threads give other bits", k->isa,
                     (long long)m, (long long)n, (long long)mnk[2], turned, threads);
        operand_free(&more[2]);
    }
    if (turned == 0) { /* all but the first five rows */
        operand less[3] = {x[0], x[1], operand_new(m * n, 3)};
        const int64_t rest[3] = {m - 5, n, mnk[2]};
        for (int i = 0; i < 3; i += 2) less[i].d += 5 * (i == 0 ? mnk[2] : n);
        for (int i = 0; i < 3; i += 2) less[i].f += 5 * (i == 0 ? mnk[2] : n);
        gemm_plain_call(k, single, rest, turned, less, 1);
        assert_memory_equal(single ? (void *)(x[2].f + 5 * n) : (void *)(x[2].d + 5 * n),
                            single ? (void *)less[2].f : (void *)less[2].d,
                            (size_t)((m - 5) * n) * bytes);
        less[2].d -= 5 * n;
        less[2].f -= 5 * n;
        operand_free(&less[2]);
    }
    for (int i = 0; i < 3; i++) operand_free(&x[i]);
}

static void test_products_on_threads(void **state)
{
    static const int64_t sizes[][3] = {{57, 45, 83},   {130, 64, 64},   {64, 258, 31},
                                       {300, 96, 200}, {101, 333, 530}, {411, 65, 129}};
    const lh_kernels *tables[] = {lh_kernels_f64(), lh_kernels_f32(), lh_kernels_f32_avx2(),
                                  lh_kernels_f32_avx512()};
    (void)state;
    for (int t = 0; t < 4; t++)
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0] && tables[t] != NULL; i++)
            for (unsigned turned = 0; turned < 8; turned++)
                threads_case(tables[t], t > 0, sizes[i], turned);
}

/* --- elementary functions
 * ------------------------------------------------------------------------------------------ */

static void test_float_exp(void **state)
{
    double worst = 0;
    (void)state;
    for (int i = -1740000; i <= 1774000; i++) { /* -87 .. 88.7: normal results */
        const float x = (float)i * 5e-5f, y = k_exp(x);
        const double want = exp((double)x);
        const float nearest = (float)want;
        const double ulp = (double)(nextafterf(nearest, INFINITY) - nearest);
        worst = fmax(worst, fabs((double)y - want) / ulp);
    }
    print_message("[  NOTE    ] float exp: %.2f ulp\n", worst);
    assert_true(worst <= 2.0);
    lh_assert_close((double)k_exp(-95.0f), exp(-95.0), 0.0, 2.0 * 1.4e-45);
    assert_true(k_exp(0.0f) == 1.0f);
    assert_true(k_exp(-1e4f) == 0.0f && k_exp(-INFINITY) == 0.0f);
    assert_true(isinf(k_exp(89.5f)) && isinf(k_exp(INFINITY)) && isnan(k_exp(NAN)));
}

/* The same in the vector code of each table, as its feature map EXP, over all of its range. */
static void test_exp_of_tables(void **state)
{
    const lh_kernels *tables[] = {lh_kernels_f32(), lh_kernels_f32_avx2(), lh_kernels_f32_avx512()};
    enum { N = 1 << 18 };
    operand u = operand_new(N, 1), e = operand_new(N, 2);
    (void)state;
    for (int i = 0; i < N; i++) u.f[i] = -87.0f + (float)i * (175.7f / (float)N);
    u.f[0] = -INFINITY;
    for (int t = 0; t < 3; t++) {
        double worst = 0;
        if (tables[t] == NULL) continue;
        tables[t]->feature(&(lh_feature_args){.kind = LH_FEATURE_EXP,
                                              .rows = 1,
                                              .live = 1,
                                              .heads = 1,
                                              .width = 1,
                                              .features = N,
                                              .scale = 1,
                                              .x = e.f,
                                              .u = u.f,
                                              .phi = e.f},
                           1);
        assert_true(e.f[0] == 0.0f);
        for (int i = 1; i < N; i++) {
            const double want = exp((double)u.f[i]);
            const float nearest = (float)want;
            const double ulp = (double)(nextafterf(nearest, INFINITY) - nearest);
            worst = fmax(worst, fabs((double)e.f[i] - want) / ulp);
        }
        print_message("[  NOTE    ] exp of %s: %.2f ulp\n", tables[t]->isa, worst);
        assert_true(worst <= 2.0);
    }
    operand_free(&u);
    operand_free(&e);
}

static void test_float_normal(void **state)
{
    double tail = 0, body = 0, density = 0;
    (void)state;
    for (int i = -12000; i <= 12000; i++) {
        const float x = (float)i * 1e-3f;
        float pdf = 0;
        const double phi = (double)k_normal(x, &pdf), want = 0.5 * erfc(-(double)x / sqrt(2.0));
        const double gauss = exp(-0.5 * (double)x * (double)x) / sqrt(2.0 * acos(-1.0));
        body = fmax(body, fabs(phi - want));
        if (x < 0 && x > -5.0f) tail = fmax(tail, fabs(phi / want - 1.0));
        density = fmax(density, fabs((double)pdf - gauss));
    }
    print_message("[  NOTE    ] float Phi: absolute %.2g, relative to -5 %.2g; density %.2g\n",
                  body, tail, density);
    assert_true(body <= 3e-7 && tail <= 2e-6 && density <= 1e-7);
    float pdf = 0;
    assert_true(k_normal(-INFINITY, &pdf) == 0.0f && k_normal(INFINITY, &pdf) == 1.0f);
    assert_true(isnan(k_normal(NAN, &pdf)));
    assert_true(k_sigmoid(0.0f) == 0.5f && k_sigmoid(-200.0f) == 0.0f && k_sigmoid(200.0f) == 1.0f);
}

/* --- derivatives, in double
 * ---------------------------------------------------------------------------------------- */

enum { R = 4, W = 6, V = 7 }; /* rows, width, vocabulary of the small cases */

/* A loss sum(c * f(x...)) with operands that the checks move. */
typedef struct small {
    double x[R * W], w[W], b[W], y[R * W], stats[2 * R], c[R * W]; /* c: dy */
    double logits[R * V], table[V * W];
    int32_t ids[R];
    bool rms;
    lh_act_kind kind;
    double rate;
} small;

typedef double (*loss_fn)(small *s);

static void small_random(double *x, int n, uint32_t instance)
{
    for (uint64_t i = 0; i < (uint64_t)n; i++)
        x[i] = lh_random_normal(4, lh_stream_id(LH_STREAM_TEST, instance), i);
}

static small small_new(void)
{
    small s = {.rms = false};
    small_random(s.x, R * W, 1);
    small_random(s.w, W, 2);
    small_random(s.b, W, 3);
    small_random(s.c, R * W, 4);
    small_random(s.logits, R * V, 5);
    small_random(s.table, V * W, 6);
    for (int r = 0; r < R; r++) s.ids[r] = r == 1 ? -1 : r * 5 % V;
    return s;
}

static double weighted(const small *s)
{
    double sum = 0;
    for (int i = 0; i < R * W; i++) sum += s->c[i] * s->y[i];
    return sum;
}

static double norm_loss(small *s)
{
    lh_kernels_f64()->norm(
        &(lh_norm_args){R, W, 1e-5, s->rms, s->x, s->w, s->b, s->y, s->stats, NULL, NULL}, 1);
    return weighted(s);
}

/* The gate is the table, as a second input of R * W numbers. */
static double act_loss(small *s)
{
    lh_kernels_f64()->act(&(lh_act_args){s->kind, R * W, s->x, s->table, s->y}, 1);
    return weighted(s);
}

static double bias_loss(small *s)
{
    memcpy(s->y, s->x, sizeof s->y);
    lh_kernels_f64()->bias(&(lh_bias_args){R, W, s->b, s->y}, 1);
    return weighted(s);
}

static double embed_loss(small *s)
{
    const int32_t ids[R] = {2, 0, 2, 6};
    lh_kernels_f64()->embed(&(lh_embed_args){R, W, V, ids, s->table, s->y}, 1);
    return weighted(s);
}

static double entropy_loss(small *s)
{
    double sums[2] = {0, 0}, lse[R];
    lh_kernels_f64()->cross_entropy(&(lh_cross_entropy_args){R, V, s->logits, s->ids, lse, sums},
                                    1);
    return sums[0];
}

/* Every entry by central differences, against the largest entry of the gradient. */
static void check_gradient(loss_fn loss, small *s, double *x, const double *gradient, int n)
{
    double largest = 1e-3;
    for (int i = 0; i < n; i++) largest = fmax(largest, fabs(gradient[i]));
    for (int i = 0; i < n; i++) {
        const double old = x[i], h = cbrt(DBL_EPSILON) * fmax(1.0, fabs(old));
        x[i] = old + h;
        const double up = loss(s);
        x[i] = old - h;
        const double down = loss(s);
        x[i] = old;
        lh_assert_close(gradient[i], (up - down) / (2.0 * h), 0.0, LH_TOL_DIFFERENCE * largest);
    }
}

static void test_norm_derivatives(void **state)
{
    (void)state;
    for (int rms = 0; rms < 2; rms++) {
        small s = small_new();
        double dx[R * W], dw[W] = {0}, db[W] = {0};
        s.rms = rms == 1;
        (void)norm_loss(&s);
        lh_kernels_f64()->norm_grad(
            &(lh_norm_grad_args){R, W, s.rms, s.x, s.w, s.stats, s.c, dx, dw, db, false}, 1);
        check_gradient(norm_loss, &s, s.x, dx, R * W);
        check_gradient(norm_loss, &s, s.w, dw, W);
        check_gradient(norm_loss, &s, s.b, db, W);
    }
}

static void test_activation_derivatives(void **state)
{
    static const lh_act_kind kinds[] = {LH_ACT_GELU, LH_ACT_RELU, LH_ACT_SWIGLU, LH_ACT_TANH};
    (void)state;
    for (int i = 0; i < 4; i++) {
        small s = small_new();
        double dx[R * W], dgate[R * W] = {0};
        s.kind = kinds[i];
        lh_kernels_f64()->act_grad(&(lh_act_grad_args){s.kind, R * W, s.x, s.table, s.c, dx, dgate},
                                   1);
        check_gradient(act_loss, &s, s.x, dx, R * W);
        check_gradient(act_loss, &s, s.table, dgate, R * W);
    }
}

static void test_sum_derivatives(void **state)
{
    const int32_t ids[R] = {2, 0, 2, 6};
    small s = small_new();
    double db[W] = {0}, dtable[V * W] = {0}, logits[R * V], lse[R], sums[2] = {0, 0};
    const double two = 2.0;
    (void)state;
    lh_kernels_f64()->bias_grad(&(lh_bias_grad_args){R, W, s.c, db}, 1);
    check_gradient(bias_loss, &s, s.b, db, W);
    lh_kernels_f64()->embed_grad(&(lh_embed_grad_args){R, W, V, ids, s.c, dtable}, 1);
    check_gradient(embed_loss, &s, s.table, dtable, V * W);
    memcpy(logits, s.logits, sizeof logits);
    lh_kernels_f64()->cross_entropy(&(lh_cross_entropy_args){R, V, logits, s.ids, lse, sums}, 1);
    lh_kernels_f64()->cross_entropy_grad(
        &(lh_cross_entropy_grad_args){R, V, logits, s.ids, lse, 0.5, &two}, 1);
    check_gradient(entropy_loss, &s, s.logits, logits, R * V);
}

/* <A x, y> = <x, A' y>: the rotation with its inverse, dropout with itself. */
static void test_adjoints(void **state)
{
    enum { N = 5 * 2 * 8 };
    const lh_kernels *k = lh_kernels_f64();
    double x[N], y[N], ax[N], ay[N], pairs[5 * 8], left = 0, right = 0, dleft = 0, dright = 0;
    (void)state;
    small_random(x, N, 7);
    small_random(y, N, 8);
    k->rotary_table(&(lh_rotary_table_args){5, 8, 3, 4, 100.0, pairs}, 1);
    k->rotary(&(lh_rotary_args){5, 2, 8, x, pairs, ax, false, false}, 1);
    k->rotary(&(lh_rotary_args){5, 2, 8, y, pairs, ay, true, false}, 1);
    for (int i = 0; i < N; i++) left += ax[i] * y[i];
    for (int i = 0; i < N; i++) right += x[i] * ay[i];
    k->dropout(&(lh_dropout_args){N, 0.4, 1, 2, 17, x, ax, false}, 1);
    k->dropout(&(lh_dropout_args){N, 0.4, 1, 2, 17, y, ay, false}, 1);
    for (int i = 0; i < N; i++) dleft += ax[i] * y[i];
    for (int i = 0; i < N; i++) dright += x[i] * ay[i];
    lh_assert_close(left, right, 1e-13, 1e-13);
    lh_assert_close(dleft, dright, 1e-13, 1e-13);
    assert_true(left != dleft);
}

/* A mask by pieces is the mask of the whole, at any cut: what makes it independent of the ranks. */
static void test_dropout_by_pieces(void **state)
{
    enum { N = 1000 };
    const lh_kernels *k = lh_kernels_f64();
    double x[N], whole[N], pieces[N];
    int64_t kept = 0;
    (void)state;
    for (int i = 0; i < N; i++) x[i] = 1.0;
    k->dropout(&(lh_dropout_args){N, 0.4, 1, 2, 17, x, whole, false}, 1);
    for (int64_t i = 0, n; i < N; i += n) {
        n = i % 7 * 19 + 1 < N - i ? i % 7 * 19 + 1 : N - i;
        k->dropout(&(lh_dropout_args){n, 0.4, 1, 2, 17 + i, x + i, pieces + i, false}, 1);
    }
    assert_memory_equal(whole, pieces, sizeof whole);
    for (int i = 0; i < N; i++) kept += whole[i] != 0.0;
    lh_assert_close((double)kept, 0.6 * N, 0.0, 5.0 * sqrt(0.24 * N));
}

/* The squares of floats are exact in double, and so is their sum but for the rounding of double. */
static void test_sum_of_squares_is_double(void **state)
{
    const lh_kernels *tables[] = {lh_kernels_f32(), lh_kernels_f32_avx2(), lh_kernels_f32_avx512()};
    operand x = operand_new(3 * MANY, 1);
    double want = 0;
    (void)state;
    lh_kernels_f64()->sum_squares(&(lh_sum_squares_args){3 * MANY, x.d, &want}, 1);
    for (int t = 0; t < 3; t++) {
        double sum = 1.0;
        if (tables[t] == NULL) continue;
        tables[t]->sum_squares(&(lh_sum_squares_args){3 * MANY, x.f, &sum}, 1);
        lh_assert_close(sum - 1.0, want, 1e-12, 0.0);
    }
    operand_free(&x);
}

/* Rows of elements that are not real. */
static void test_rows_of_bytes(void **state)
{
    const lh_span span[] = {{1, 2, 1}, {0, 2, 3}};
    const char tensor[] = "aabbccdd";
    char packed[9] = {0}, back[9] = "........";
    (void)state;
    lh_rows_args a = {.batch = 1,
                      .tensor_rows = 4,
                      .width = 2,
                      .n_spans = 2,
                      .spans = span,
                      .element_bytes = 1,
                      .tensor = (void *)(uintptr_t)tensor,
                      .host = packed};
    lh_kernels_f64()->pack_rows(&a, 1);
    assert_string_equal(packed, "bbccaadd");
    a.tensor = back;
    lh_kernels_f64()->unpack_rows(&a, 1);
    assert_string_equal(back, tensor);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_double_against_plain_loops),
        cmocka_unit_test(test_float_against_double),
        cmocka_unit_test(test_norm_of_a_sum),
        cmocka_unit_test(test_no_kernel_is_left_out),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_products_with_any_strides),
        cmocka_unit_test(test_products_on_threads),
        cmocka_unit_test(test_float_exp),
        cmocka_unit_test(test_exp_of_tables),
        cmocka_unit_test(test_float_normal),
        cmocka_unit_test(test_norm_derivatives),
        cmocka_unit_test(test_activation_derivatives),
        cmocka_unit_test(test_sum_derivatives),
        cmocka_unit_test(test_adjoints),
        cmocka_unit_test(test_dropout_by_pieces),
        cmocka_unit_test(test_sum_of_squares_is_double),
        cmocka_unit_test(test_rows_of_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
