/* Every operation of core/ops.h: values against the formula written down plainly in double,
 * gradients by differences (double), and what must not depend on chunks, on ranks, on the device or
 * on which gradients are wanted. */
#include "core/ops.h"
#include "core/random.h"
#include "tests/lh_gradcheck.h"
#include "tests/lh_test.h"
#include "tests/lh_test_scenes.h"
#include "tests/tol.h"

#include <math.h>
#include <string.h>

enum {
    BATCH = 2,
    LENGTH = 11,
    EMBED = 6,
    HIDDEN = 10,
    VOCAB = 9,
    HEADS = 2,
    HEAD_WIDTH = 4,
    OUT = 5
};
enum { IN = 7, SEED = 3, SEEDS = 30, WIDEST = 16 };

typedef enum op_kind {
    EMBEDDING,
    POSITION,
    SINUSOID,
    ROTARY,
    ADD,
    LAYER_NORM,
    RMS_NORM,
    ADD_LAYER_NORM, /* of x + input 3: the norm alone */
    ADD_RMS_NORM,   /* the sum plus its norm */
    DROPOUT,
    LINEAR,
    MLP,
    ACTIVATION,
    TYPE_ROW,
    LOSS
} op_kind;

typedef enum role { NONE, TOKENS, WEIGHT, ROWS, IDS, LABELS } role;

typedef struct op_in {
    role role;
    int64_t rows, width; /* WEIGHT: [rows, width], or [width] if rows is 0; TOKENS, ROWS: width */
} op_in;

typedef struct op_case {
    const char *name;
    op_kind kind;
    int64_t width; /* of an output row */
    op_in in[IN];
    lh_act_kind act;
} op_case;

#define X                                                                                          \
    {                                                                                              \
        TOKENS, 0, EMBED                                                                           \
    }
#define W(r, c)                                                                                    \
    {                                                                                              \
        WEIGHT, (r), (c)                                                                           \
    }
#define B(c)                                                                                       \
    {                                                                                              \
        WEIGHT, 0, (c)                                                                             \
    }
#define UP W(HIDDEN, EMBED)
#define DOWN W(EMBED, HIDDEN)
#define NO                                                                                         \
    {                                                                                              \
        NONE, 0, 0                                                                                 \
    }

static const op_case cases[] = {
    {"embedding", EMBEDDING, EMBED, {{IDS, 0, 0}, W(VOCAB, EMBED)}, 0},
    {"position_add", POSITION, EMBED, {X, {ROWS, 0, EMBED}}, 0},
    {"sinusoid_add", SINUSOID, EMBED, {X}, 0},
    {"rotary", ROTARY, HEADS *HEAD_WIDTH, {{TOKENS, 0, HEADS *HEAD_WIDTH}}, 0},
    {"add", ADD, EMBED, {X, X}, 0},
    {"layer_norm", LAYER_NORM, EMBED, {X, B(EMBED), B(EMBED)}, 0},
    {"layer_norm without bias", LAYER_NORM, EMBED, {X, B(EMBED), NO}, 0},
    {"rms_norm", RMS_NORM, EMBED, {X, B(EMBED)}, 0},
    {"dropout", DROPOUT, EMBED, {X}, 0},
    {"add_norm", ADD_LAYER_NORM, EMBED, {X, B(EMBED), B(EMBED), X}, 0},
    {"add_norm rms", ADD_RMS_NORM, EMBED, {X, B(EMBED), NO, X}, 0},
    {"linear", LINEAR, OUT, {X, W(OUT, EMBED), B(OUT)}, 0},
    {"linear without bias", LINEAR, OUT, {X, W(OUT, EMBED), NO}, 0},
    {"mlp gelu", MLP, EMBED, {X, UP, B(HIDDEN), NO, NO, DOWN, B(EMBED)}, LH_ACT_GELU},
    {"mlp gelu without biases", MLP, EMBED, {X, UP, NO, NO, NO, DOWN, NO}, LH_ACT_GELU},
    {"mlp relu", MLP, EMBED, {X, UP, B(HIDDEN), NO, NO, DOWN, NO}, LH_ACT_RELU},
    {"mlp swiglu", MLP, EMBED, {X, UP, B(HIDDEN), UP, B(HIDDEN), DOWN, B(EMBED)}, LH_ACT_SWIGLU},
    {"mlp swiglu without biases", MLP, EMBED, {X, UP, NO, UP, NO, DOWN, NO}, LH_ACT_SWIGLU},
    {"gelu", ACTIVATION, EMBED, {X}, LH_ACT_GELU},
    {"relu", ACTIVATION, EMBED, {X}, LH_ACT_RELU},
    {"tanh", ACTIVATION, EMBED, {X}, LH_ACT_TANH},
    {"add_row", TYPE_ROW, EMBED, {X, W(3, EMBED)}, 0},
    {"lm_loss", LOSS, 0, {X, W(VOCAB, EMBED), {LABELS, 0, 0}}, 0},
    {"lm_loss with bias", LOSS, 0, {X, W(VOCAB, EMBED), {LABELS, 0, 0}, B(VOCAB)}, 0},
};
enum { CASES = sizeof cases / sizeof cases[0] };

static const double eps = 1e-5;
static const double rotary_base = 100.0;
static const double loss_scale = 1.0 / 17.0;
static const lh_dropout_desc drop = {0.3, 99, 7, 5};

/* --- numbers by global index --- */

static lh_real number(int input, uint64_t index)
{
    double scale = input > 0 ? 0.7 : 1.0;
    return (lh_real)(scale *
                     lh_random_normal(SEED, lh_stream_id(LH_STREAM_TEST, (uint32_t)input), index));
}

static lh_real token(int input, int64_t b, int64_t position, int64_t i)
{
    return number(input, (uint64_t)((b * LENGTH + position) * WIDEST + i));
}

static lh_real weight(int input, int64_t i)
{
    return number(input, (uint64_t)i);
}

/* Labels: a third is missing, and all of the middle positions. */
static int32_t label(int64_t b, int64_t position)
{
    uint32_t r = lh_random_u32(SEED, 1, (uint64_t)(b * LENGTH + position));
    return r % 3 == 0 || (position >= 4 && position < 8) ? -1 : (int32_t)(r / 4 % VOCAB);
}

static int32_t id_at(int64_t b, int64_t position)
{
    return (int32_t)(lh_random_u32(SEED, 2, (uint64_t)(b * LENGTH + position)) % VOCAB);
}

/* --- one operation on one rank --- */

typedef struct stage {
    const op_case *op;
    lh_layout *layout;
    int rank, rows;
    lh_device *device, *count;
    void *data[IN];
    lh_real *seed;
    int at[IN]; /* where input i of the operation lies in g.in; -1: not given */
    int copies; /* how often it is recorded on the same inputs */
    lh_gradcheck g;
    lh_gradcheck_run run;
} stage;

static lh_status fill_input(stage *a, int i)
{
    lh_status st = LH_OK;
    const op_in *in = &a->op->in[i];
    int64_t width = in->role == IDS || in->role == LABELS ? 1 : in->width;
    int64_t rows = in->role == WEIGHT ? (in->rows > 0 ? in->rows : 1)
                   : in->role == ROWS ? a->rows
                                      : (int64_t)BATCH * a->rows;
    LH_TRY(lh_new((size_t)(rows * width) * sizeof(double), &a->data[i]));
    for (int64_t r = 0; r < rows; r++) {
        int64_t b = a->rows > 0 && in->role != ROWS ? r / a->rows : 0;
        int64_t p = a->rows > 0 && in->role != WEIGHT
                        ? lh_layout_position(a->layout, a->rank, r % a->rows)
                        : 0;
        for (int64_t k = 0; k < width; k++) {
            if (in->role == IDS)
                ((int32_t *)a->data[i])[r] = id_at(b, p);
            else if (in->role == LABELS)
                ((int32_t *)a->data[i])[r] = label(b, p);
            else if (in->role == WEIGHT)
                ((lh_real *)a->data[i])[r * width + k] = weight(i, r * width + k);
            else
                ((lh_real *)a->data[i])[r * width + k] = token(i, b, p, k);
        }
    }
done:
    return st;
}

static lh_gradcheck_input describe_input(const stage *a, int i)
{
    const op_in *in = &a->op->in[i];
    lh_place tokens = lh_place_tokens(a->layout);
    switch (in->role) {
    case WEIGHT:
        return (lh_gradcheck_input){in->rows > 0 ? lh_shape_2(LH_REAL, in->rows, in->width)
                                                 : lh_shape_1(LH_REAL, in->width),
                                    lh_place_replicated(), a->data[i], true};
    case ROWS:
        return (lh_gradcheck_input){lh_shape_2(LH_REAL, a->rows, in->width),
                                    lh_place_rows(a->layout), a->data[i], true};
    case IDS:
    case LABELS:
        return (lh_gradcheck_input){lh_shape_2(LH_INT32, BATCH, a->rows), tokens, a->data[i],
                                    false};
    default:
        return (lh_gradcheck_input){lh_shape_3(LH_REAL, BATCH, a->rows, in->width), tokens,
                                    a->data[i], true};
    }
}

static lh_status record_rotary(const stage *a, lh_tape *t, lh_var x, lh_var *y)
{
    lh_status st = LH_OK;
    lh_var table;
    const lh_shape flat = *lh_var_shape(t, x);
    LH_TRY(lh_rotary_angles(t, x, HEAD_WIDTH, rotary_base, &table));
    LH_TRY(lh_reshape(t, x, lh_shape_4(LH_REAL, BATCH, a->rows, HEADS, HEAD_WIDTH), &x));
    LH_TRY(lh_rotary(t, x, table, y));
    LH_TRY(lh_reshape(t, *y, flat, y));
done:
    return st;
}

static lh_status record_add_norm(const stage *a, lh_tape *t, const lh_var *v, lh_var *y)
{
    lh_status st = LH_OK;
    lh_var sum;
    const bool rms = a->op->kind == ADD_RMS_NORM;
    LH_TRY(lh_add_norm(t, &(lh_add_norm_in){v[0], v[3], v[1], v[2], eps, rms}, &sum, y));
    if (rms) LH_TRY(lh_add(t, sum, *y, y));
done:
    return st;
}

static lh_status record_one(const stage *a, lh_tape *t, const lh_var *in, lh_var *y)
{
    lh_var v[IN];
    lh_var correct;
    for (int i = 0; i < IN; i++) v[i] = a->at[i] >= 0 ? in[a->at[i]] : (lh_var){0};
    lh_mlp_weights w = {v[1], v[2], v[3], v[4], v[5], v[6]};
    switch (a->op->kind) {
    case EMBEDDING:
        return lh_embedding(t, v[0], v[1], y);
    case POSITION:
        return lh_position_add(t, v[0], v[1], y);
    case SINUSOID:
        return lh_sinusoid_add(t, v[0], NULL, y);
    case ROTARY:
        return record_rotary(a, t, v[0], y);
    case ADD:
        return lh_add(t, v[0], v[1], y);
    case LAYER_NORM:
        return lh_layer_norm(t, v[0], v[1], v[2], eps, y);
    case RMS_NORM:
        return lh_rms_norm(t, v[0], v[1], eps, y);
    case ADD_LAYER_NORM:
    case ADD_RMS_NORM:
        return record_add_norm(a, t, v, y);
    case DROPOUT:
        return lh_dropout(t, v[0], &drop, y);
    case LINEAR:
        return lh_linear(t, v[0], v[1], v[2], y);
    case MLP:
        return lh_mlp(t, v[0], &w, a->op->act, y);
    case ACTIVATION:
        return lh_activation(t, v[0], a->op->act, y);
    case TYPE_ROW:
        return lh_add_row(t, v[0], v[1], 1, y);
    default:
        return lh_lm_loss(t, v[0], v[1], v[3], v[2], loss_scale, y, &correct);
    }
}

static lh_status stage_record(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    stage *a = user;
    *n_out = a->copies;
    if (a->op->kind == LOSS) {
        *n_out = 2; /* with the number of right ones */
        return lh_lm_loss(t, in[0], in[1], a->at[3] >= 0 ? in[a->at[3]] : (lh_var){0}, in[2],
                          loss_scale, &out[0], &out[1]);
    }
    for (int i = 0; i < a->copies; i++) {
        lh_status st = record_one(a, t, in, &out[i]);
        if (st != LH_OK) return st;
    }
    return LH_OK;
}

/* Seeds by global index too. */
static void fill_seed(stage *a)
{
    int64_t width = a->op->width;
    if (width == 0) return;
    lh_assert_ok(lh_new((size_t)(BATCH * a->rows * width) * sizeof *a->seed, &a->seed));
    for (int64_t r = 0; r < BATCH * a->rows; r++)
        for (int64_t k = 0; k < width; k++)
            a->seed[r * width + k] =
                token(SEEDS, r / a->rows, lh_layout_position(a->layout, a->rank, r % a->rows), k);
    a->g.seed[0] = a->g.seed[1] = a->seed;
}

static void stage_open(stage *a, const op_case *op, lh_layout *layout, int rank)
{
    *a = (stage){
        .op = op, .layout = layout, .rank = rank, .rows = (int)layout->rows[rank], .copies = 1};
    lh_assert_ok(lh_device_create_cpu(lh_test_isa(), 1, &a->device));
    lh_assert_ok(lh_device_create_count(lh_test_isa(), 1, &a->count));
    a->g = (lh_gradcheck){.device = a->device,
                          .count = a->count,
                          .size = {1, layout->ranks},
                          .coord = {0, rank},
                          .record = stage_record,
                          .user = a};
    for (int i = 0; i < IN; i++) {
        a->at[i] = -1;
        if (op->in[i].role == NONE) continue;
        lh_assert_ok(fill_input(a, i));
        a->at[i] = a->g.n_in;
        a->g.in[a->g.n_in++] = describe_input(a, i);
    }
    fill_seed(a);
}

static void stage_run(stage *a)
{
    lh_assert_ok(lh_gradcheck_open(&a->g, &a->run));
    lh_assert_ok(lh_gradcheck_step(&a->run));
}

static void stage_close(stage *a)
{
    if (a->run.g != NULL) lh_gradcheck_close(&a->run);
    for (int i = 0; i < IN; i++) lh_free(&a->data[i]);
    lh_free(&a->seed);
    lh_device_destroy(&a->count);
    lh_device_destroy(&a->device);
}

/* --- the formulas --- */

static double dot_row(const double *x, int input, int64_t row, int64_t width)
{
    double sum = 0.0;
    for (int64_t i = 0; i < width; i++) sum += x[i] * (double)weight(input, row * width + i);
    return sum;
}

static double bias(const op_case *op, int input, int64_t i)
{
    return op->in[input].role == NONE ? 0.0 : (double)weight(input, i);
}

static double plain_act(lh_act_kind act, double x, double gate)
{
    if (act == LH_ACT_TANH) return tanh(x);
    if (act == LH_ACT_RELU) return x > 0.0 ? x : 0.0;
    if (act == LH_ACT_GELU) return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    return gate / (1.0 + exp(-gate)) * x; /* down(silu(gate(x)) * up(x)) */
}

static void plain_mlp(const op_case *op, const double *x, double *y)
{
    double h[HIDDEN];
    for (int64_t f = 0; f < HIDDEN; f++) {
        double up = dot_row(x, 1, f, EMBED) + bias(op, 2, f);
        double gate = op->act == LH_ACT_SWIGLU ? dot_row(x, 3, f, EMBED) + bias(op, 4, f) : 0.0;
        h[f] = plain_act(op->act, up, gate);
    }
    for (int64_t i = 0; i < EMBED; i++) y[i] = dot_row(h, 5, i, HIDDEN) + bias(op, 6, i);
}

static void plain_norm(const op_case *op, const double *x, double *y)
{
    double mean = 0.0;
    double var = 0.0;
    const bool layer = op->kind == LAYER_NORM || op->kind == ADD_LAYER_NORM;
    for (int i = 0; i < EMBED && layer; i++) mean += x[i] / EMBED;
    for (int i = 0; i < EMBED; i++) var += (x[i] - mean) * (x[i] - mean) / EMBED;
    for (int i = 0; i < EMBED; i++)
        y[i] = (x[i] - mean) / sqrt(var + eps) * (double)weight(1, i) + bias(op, 2, i);
}

static void plain_rotary(const double *x, int64_t p, double *y)
{
    for (int h = 0; h < HEADS; h++)
        for (int i = 0; i < HEAD_WIDTH / 2; i++) {
            double angle = (double)p * pow(rotary_base, -2.0 * i / HEAD_WIDTH);
            const double *a = x + h * HEAD_WIDTH + i;
            double *to = y + h * HEAD_WIDTH + i;
            to[0] = a[0] * cos(angle) - a[HEAD_WIDTH / 2] * sin(angle);
            to[HEAD_WIDTH / 2] = a[0] * sin(angle) + a[HEAD_WIDTH / 2] * cos(angle);
        }
}

static double plain_dropout(double x, int64_t b, int64_t p, int64_t i)
{
    uint64_t index = (uint64_t)(((drop.first_sequence + b) * LENGTH + p) * EMBED + i);
    double word = (double)lh_random_u32(drop.seed, drop.stream, index);
    return word < drop.rate * 0x1p32 ? 0.0 : x / (1.0 - drop.rate);
}

/* Output row of sequence b, position p. */
static void plain_row(const op_case *op, int64_t b, int64_t p, double *y)
{
    double x[WIDEST];
    for (int64_t i = 0; i < WIDEST; i++) x[i] = (double)token(0, b, p, i);
    const bool summed = op->kind == ADD_LAYER_NORM || op->kind == ADD_RMS_NORM;
    for (int64_t i = 0; i < EMBED && summed; i++) x[i] += (double)token(3, b, p, i);
    if (op->kind == LAYER_NORM || op->kind == RMS_NORM || summed) plain_norm(op, x, y);
    if (op->kind == ROTARY) plain_rotary(x, p, y);
    if (op->kind == MLP) plain_mlp(op, x, y);
    for (int64_t i = 0; i < op->width; i++) {
        double angle = (double)p * pow(10000.0, -(double)(i - i % 2) / EMBED);
        if (op->kind == EMBEDDING) y[i] = (double)weight(1, id_at(b, p) * EMBED + i);
        if (op->kind == POSITION) y[i] = x[i] + (double)token(1, 0, p, i);
        if (op->kind == SINUSOID) y[i] = x[i] + (i % 2 == 0 ? sin(angle) : cos(angle));
        if (op->kind == ADD_RMS_NORM) y[i] += x[i];
        if (op->kind == ADD) y[i] = x[i] + (double)token(1, b, p, i);
        if (op->kind == DROPOUT) y[i] = plain_dropout(x[i], b, p, i);
        if (op->kind == ACTIVATION) y[i] = plain_act(op->act, x[i], 0.0);
        if (op->kind == TYPE_ROW) y[i] = x[i] + (double)weight(1, EMBED + i);
        if (op->kind == LINEAR) y[i] = dot_row(x, 1, i, EMBED) + bias(op, 2, i);
    }
}

static void plain_loss(const stage *a, double *loss, double *correct)
{
    *loss = *correct = 0.0;
    for (int64_t r = 0; r < (int64_t)BATCH * a->rows; r++) {
        double logit[VOCAB];
        double x[EMBED];
        double sum = 0.0;
        int64_t b = r / a->rows;
        int64_t p = lh_layout_position(a->layout, a->rank, r % a->rows);
        int best = 0;
        if (label(b, p) < 0) continue;
        for (int64_t i = 0; i < EMBED; i++) x[i] = (double)token(0, b, p, i);
        for (int v = 0; v < VOCAB; v++) {
            logit[v] = dot_row(x, 1, v, EMBED) + bias(a->op, 3, v);
            sum += exp(logit[v]);
            if (logit[v] > logit[best]) best = v;
        }
        *loss += loss_scale * (log(sum) - logit[label(b, p)]);
        *correct += best == label(b, p);
    }
}

/* --- layouts: one rank with small and large chunks; a rank of several --- */

typedef struct situation {
    lh_test_layout_kind kind;
    int ranks, rank;
    int64_t chunk;
} situation;

static const situation situations[] = {
    {LH_TEST_EVEN, 1, 0, 4},
    {LH_TEST_EVEN, 1, 0, 512},
    {LH_TEST_EVEN, 1, 0, 1},
    {LH_TEST_EVEN, 3, 1, 4},
    {LH_TEST_ZIGZAG, 2, 0, 4},
    {LH_TEST_CYCLIC, 3, 2, 512},
    {LH_TEST_UNEVEN, 3, 1, 4} /* no rows */,
};
enum { SITUATIONS = sizeof situations / sizeof situations[0] };

static lh_layout *situation_layout(const situation *s)
{
    lh_layout *l = NULL;
    lh_assert_ok(lh_test_layout(s->kind, LENGTH, s->ranks, s->chunk, &l));
    return l;
}

static void check_values(const stage *a)
{
    double want[WIDEST];
    const lh_real *got = a->run.out[0];
    if (a->op->kind == LOSS) {
        double correct = 0.0;
        plain_loss(a, &want[0], &correct);
        lh_assert_close(*(const double *)a->run.out[0], want[0], lh_tol_sum(EMBED), 0.0);
        assert_true(*(const double *)a->run.out[1] == correct);
        return;
    }
    for (int64_t r = 0; r < (int64_t)BATCH * a->rows; r++) {
        plain_row(a->op, r / a->rows, lh_layout_position(a->layout, a->rank, r % a->rows), want);
        for (int64_t i = 0; i < a->op->width; i++)
            lh_assert_close((double)got[r * a->op->width + i], want[i], lh_tol_sum(HIDDEN),
                            lh_tol_sum(HIDDEN));
    }
}

static void values(void **state)
{
    (void)state;
    for (int k = 0; k < CASES; k++)
        for (int s = 0; s < SITUATIONS; s++) {
            stage a;
            lh_layout *l = situation_layout(&situations[s]);
            stage_open(&a, &cases[k], l, situations[s].rank);
            stage_run(&a);
            check_values(&a);
            stage_close(&a);
            lh_layout_destroy(&l);
        }
}

/* Twice on the same inputs, so that the second gradient is added to the first. */
static void gradients(void **state)
{
    (void)state;
    for (int k = 0; k < CASES; k++)
        for (int s = 0; s < SITUATIONS; s++) {
            if (s == 2 || s == 5 || s == 6) continue; /* single rows; nothing to move */
            if (s == 3 && cases[k].kind == LOSS)
                continue; /* a rank without labels: its gradient is 0 */
            stage a;
            lh_layout *l = situation_layout(&situations[s]);
            stage_open(&a, &cases[k], l, situations[s].rank);
            a.copies = s == 0 && cases[k].kind != LOSS ? 2 : 1;
            lh_gradcheck_all(&a.g, cases[k].name);
            stage_close(&a);
            lh_layout_destroy(&l);
        }
}

/* --- ranks: shards' gradients are the whole's rows; weights' gradients add up --- */

static void add_gradients(const stage *part, const stage *whole, lh_real *sum[IN])
{
    for (int i = 0; i < IN; i++) {
        int k = part->at[i];
        if (k < 0 || part->run.grad[k] == NULL) continue;
        int64_t width = part->op->in[i].width;
        if (part->op->in[i].role == WEIGHT) {
            for (int64_t e = 0; e < lh_shape_count(&part->g.in[k].shape); e++)
                sum[i][e] += part->run.grad[k][e];
            continue;
        }
        int64_t batch = part->op->in[i].role == ROWS ? 1 : BATCH;
        for (int64_t b = 0; b < batch; b++)
            for (int64_t r = 0; r < part->rows; r++) {
                int64_t p = lh_layout_position(part->layout, part->rank, r);
                for (int64_t e = 0; e < width; e++)
                    sum[i][(b * whole->rows + p) * width + e] +=
                        part->run.grad[k][(b * part->rows + r) * width + e];
            }
    }
}

static void compare_gradients(const stage *whole, lh_real *sum[IN])
{
    for (int i = 0; i < IN; i++) {
        int k = whole->at[i];
        double largest = 0.0;
        if (k < 0 || whole->run.grad[k] == NULL) continue;
        int64_t n = lh_shape_count(&whole->g.in[k].shape);
        for (int64_t e = 0; e < n; e++)
            largest = fmax(largest, fabs((double)whole->run.grad[k][e]));
        assert_true(largest > 0.0);
        for (int64_t e = 0; e < n; e++)
            lh_assert_close((double)sum[i][e], (double)whole->run.grad[k][e], 0.0,
                            lh_tol_sum(BATCH * LENGTH) * largest);
    }
}

static void check_ranks(const op_case *op, lh_test_layout_kind kind, int ranks, int64_t chunk)
{
    stage whole;
    lh_layout *one = NULL;
    lh_layout *many = NULL;
    lh_real *sum[IN] = {NULL};
    lh_assert_ok(lh_layout_contiguous(LENGTH, 1, 512, true, &one));
    lh_assert_ok(lh_test_layout(kind, LENGTH, ranks, chunk, &many));
    stage_open(&whole, op, one, 0);
    stage_run(&whole);
    for (int i = 0; i < IN; i++) lh_assert_ok(lh_new(BATCH * 200 * sizeof(lh_real), &sum[i]));
    for (int r = 0; r < ranks; r++) {
        stage part;
        stage_open(&part, op, many, r);
        stage_run(&part);
        add_gradients(&part, &whole, sum);
        stage_close(&part);
    }
    compare_gradients(&whole, sum);
    for (int i = 0; i < IN; i++) lh_free(&sum[i]);
    stage_close(&whole);
    lh_layout_destroy(&many);
    lh_layout_destroy(&one);
}

static void ranks_and_chunks(void **state)
{
    (void)state;
    for (int k = 0; k < CASES; k++) {
        check_ranks(&cases[k], LH_TEST_EVEN, 1, 3);
        check_ranks(&cases[k], LH_TEST_EVEN, 3, 4);
        check_ranks(&cases[k], LH_TEST_UNEVEN, 4, 2); /* one has no rows, so no labels */
        check_ranks(&cases[k], LH_TEST_ZIGZAG, 2, 4);
        check_ranks(&cases[k], LH_TEST_CYCLIC, 3, 4);
    }
}

/* --- which gradients are wanted changes no other --- */

static void wanted_or_not(void **state)
{
    (void)state;
    for (int k = 0; k < CASES; k++) {
        stage all;
        lh_layout *l = situation_layout(&situations[0]);
        stage_open(&all, &cases[k], l, 0);
        stage_run(&all);
        for (int off = 0; off < all.g.n_in; off++) {
            stage some;
            stage_open(&some, &cases[k], l, 0);
            if (some.g.n_in > 1 && some.g.in[off].gradient) {
                int left = 0;
                some.g.in[off].gradient = false;
                for (int i = 0; i < some.g.n_in; i++) left += some.g.in[i].gradient;
                if (left > 0) stage_run(&some);
                for (int i = 0; i < some.g.n_in && left > 0; i++)
                    if (some.g.in[i].gradient)
                        assert_memory_equal(some.run.grad[i], all.run.grad[i],
                                            lh_shape_bytes(&all.g.in[i].shape));
            }
            stage_close(&some);
        }
        stage_close(&all);
        lh_layout_destroy(&l);
    }
}

/* --- a small model: on poison the bits of the cpu, in float and double --- */

enum {
    M_IDS,
    M_LABELS,
    M_TABLE,
    M_POSITION,
    M_NORM_W,
    M_NORM_B,
    M_UP,
    M_GATE,
    M_DOWN,
    M_LINEAR,
    M_INPUTS
};

typedef struct model {
    lh_layout *layout;
    bool segment;
} model;

static lh_status model_record(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    const model *m = user;
    lh_var x;
    lh_var h;
    const lh_mlp_weights w = {.up = in[M_UP], .gate = in[M_GATE], .down = in[M_DOWN]};
    *n_out = 2;
    LH_TRY(lh_embedding(t, in[M_IDS], in[M_TABLE], &x));
    LH_TRY(lh_position_add(t, x, in[M_POSITION], &x));
    LH_TRY(lh_sinusoid_add(t, x, NULL, &x));
    if (m->segment) LH_TRY(lh_tape_segment_begin(t));
    LH_TRY(lh_layer_norm(t, x, in[M_NORM_W], in[M_NORM_B], eps, &h));
    LH_TRY(lh_mlp(t, h, &w, LH_ACT_SWIGLU, &h));
    LH_TRY(lh_dropout(t, h, &drop, &h));
    LH_TRY(lh_add(t, x, h, &x));
    LH_TRY(lh_linear(t, x, in[M_LINEAR], in[M_NORM_B], &h));
    LH_TRY(lh_rms_norm(t, h, in[M_NORM_W], eps, &h));
    LH_TRY(lh_add(t, x, h, &x));
    if (m->segment) LH_TRY(lh_tape_segment_end(t));
    LH_TRY(lh_lm_loss(t, x, in[M_TABLE], (lh_var){0}, in[M_LABELS], loss_scale, &out[0],
                      &out[1])); /* tied */
done:
    return st;
}

typedef struct model_data {
    int32_t ids[BATCH * LENGTH], labels[BATCH * LENGTH];
    lh_real weight[M_INPUTS][LENGTH * HIDDEN];
} model_data;

static void model_open(const model *m, lh_device *device, lh_device *count, model_data *d,
                       lh_gradcheck *g, lh_gradcheck_run *run)
{
    static const int64_t dims[M_INPUTS][2] = {
        {0, 0},     {0, 0},          {VOCAB, EMBED},  {LENGTH, EMBED}, {0, EMBED},
        {0, EMBED}, {HIDDEN, EMBED}, {HIDDEN, EMBED}, {EMBED, HIDDEN}, {EMBED, EMBED}};
    *g = (lh_gradcheck){.device = device,
                        .count = count,
                        .size = {1, 1},
                        .n_in = M_INPUTS,
                        .record = model_record,
                        .user = (void *)(uintptr_t)m};
    for (int64_t r = 0; r < BATCH * LENGTH; r++) {
        d->ids[r] = id_at(r / LENGTH, r % LENGTH);
        d->labels[r] = label(r / LENGTH, r % LENGTH);
    }
    for (int i = 0; i < M_INPUTS; i++) {
        for (int64_t k = 0; k < LENGTH * HIDDEN; k++) d->weight[i][k] = weight(i, k);
        g->in[i] = (lh_gradcheck_input){
            dims[i][0] > 0 ? lh_shape_2(LH_REAL, dims[i][0], dims[i][1])
                           : lh_shape_1(LH_REAL, dims[i][1]),
            i == M_POSITION ? lh_place_rows(m->layout) : lh_place_replicated(), d->weight[i], true};
    }
    g->in[M_IDS] = (lh_gradcheck_input){lh_shape_2(LH_INT32, BATCH, LENGTH),
                                        lh_place_tokens(m->layout), d->ids, false};
    g->in[M_LABELS] = g->in[M_IDS];
    g->in[M_LABELS].data = d->labels;
    lh_assert_ok(lh_gradcheck_open(g, run));
    lh_assert_ok(lh_gradcheck_step(run));
}

static void same_bits(const lh_gradcheck_run *a, const lh_gradcheck_run *b)
{
    assert_memory_equal(a->out[0], b->out[0], sizeof(double));
    assert_memory_equal(a->out[1], b->out[1], sizeof(double));
    for (int i = M_TABLE; i < M_INPUTS; i++)
        assert_memory_equal(a->grad[i], b->grad[i], lh_shape_bytes(&a->g->in[i].shape));
}

static void poison_and_segments_give_the_same_bits(void **state)
{
    (void)state;
    static model_data data[3];
    lh_device *device[3] = {NULL};
    lh_device *count = NULL;
    lh_gradcheck g[3];
    lh_gradcheck_run run[3];
    model m[3] = {{NULL, false}, {NULL, false}, {NULL, true}};
    lh_layout *l = NULL;
    lh_assert_ok(lh_layout_contiguous(LENGTH, 1, 4, true, &l));
    lh_assert_ok(lh_device_create_cpu(lh_test_isa(), 1, &device[0]));
    lh_assert_ok(lh_device_create_poison(lh_test_isa(), 1, &device[1]));
    lh_assert_ok(lh_device_create_cpu(lh_test_isa(), 1, &device[2]));
    lh_assert_ok(lh_device_create_count(lh_test_isa(), 1, &count));
    for (int i = 0; i < 3; i++) {
        m[i].layout = l;
        model_open(&m[i], device[i], count, &data[i], &g[i], &run[i]);
    }
    assert_true(isfinite(*(double *)run[0].out[0]) && *(double *)run[0].out[0] > 0.0);
    same_bits(&run[0], &run[1]);
    same_bits(&run[0], &run[2]);
    for (int i = 0; i < 3; i++) lh_gradcheck_close(&run[i]);
    lh_gradcheck_all(&g[0], "a small model");
    lh_gradcheck_all(&g[2], "a small model, recomputed");
    for (int i = 0; i < 3; i++) lh_device_destroy(&device[i]);
    lh_device_destroy(&count);
    lh_layout_destroy(&l);
}

/* --- a residual sum and its norm, as one operation and as two: the same bits --- */

enum { R_X, R_LINEAR, R_W, R_B, R_INPUTS };

typedef struct residual {
    bool fused, rms, post;
    int segment; /* 0: none, 1: one around all, 2: one from the second sum on */
    lh_layout *layout;
} residual;

static lh_status residual_norm(const residual *r, lh_tape *t, const lh_var *in, lh_var x, lh_var h,
                               lh_var *sum, lh_var *y)
{
    lh_status st = LH_OK;
    const lh_var b = r->rms ? (lh_var){0} : in[R_B];
    if (r->fused) return lh_add_norm(t, &(lh_add_norm_in){x, h, in[R_W], b, eps, r->rms}, sum, y);
    LH_TRY(lh_add(t, x, h, sum));
    if (r->rms)
        LH_TRY(lh_rms_norm(t, *sum, in[R_W], eps, y));
    else
        LH_TRY(lh_layer_norm(t, *sum, in[R_W], b, eps, y));
done:
    return st;
}

/* pre: what is added to is the sum; post: its norm. linear reads what the norm drops. */
static lh_status residual_record(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    const residual *r = user;
    lh_var x = in[R_X];
    lh_var h;
    lh_var y;
    *n_out = 1;
    if (r->segment == 1) LH_TRY(lh_tape_segment_begin(t));
    LH_TRY(lh_linear(t, x, in[R_LINEAR], (lh_var){0}, &h));
    LH_TRY(residual_norm(r, t, in, x, h, &x, &y));
    LH_TRY(lh_linear(t, y, in[R_LINEAR], in[R_B], &h));
    if (r->segment == 2) LH_TRY(lh_tape_segment_begin(t));
    LH_TRY(residual_norm(r, t, in, r->post ? y : x, h, &x, &y));
    LH_TRY(lh_linear(t, y, in[R_LINEAR], (lh_var){0}, &h));
    if (r->segment > 0) LH_TRY(lh_tape_segment_end(t));
    LH_TRY(lh_add(t, r->post ? y : x, h, &out[0]));
done:
    return st;
}

static void residual_run(residual *r, lh_device *device, lh_device *count, lh_dtype store,
                         lh_gradcheck *g, lh_gradcheck_run *run)
{
    static lh_real value[R_INPUTS][BATCH * LENGTH * EMBED];
    const lh_shape shape[R_INPUTS] = {lh_shape_3(LH_REAL, BATCH, LENGTH, EMBED),
                                      lh_shape_2(LH_REAL, EMBED, EMBED), lh_shape_1(LH_REAL, EMBED),
                                      lh_shape_1(LH_REAL, EMBED)};
    *g = (lh_gradcheck){.device = device,
                        .count = count,
                        .size = {1, 1},
                        .store = store,
                        .n_in = R_INPUTS,
                        .record = residual_record,
                        .user = r};
    for (int i = 0; i < R_INPUTS; i++) {
        for (int64_t k = 0; k < BATCH * LENGTH * EMBED; k++) value[i][k] = weight(i, k);
        g->in[i] = (lh_gradcheck_input){
            shape[i], i == R_X ? lh_place_tokens(r->layout) : lh_place_replicated(), value[i],
            i != R_B || !r->rms};
    }
    lh_assert_ok(lh_gradcheck_open(g, run));
    lh_assert_ok(lh_gradcheck_step(run));
}

/* One way of recording it, on one device. */
static void residual_compare(residual way, lh_device *device, lh_device *count, lh_dtype store)
{
    lh_gradcheck g[2];
    lh_gradcheck_run run[2];
    residual r[2] = {way, way};
    for (int i = 0; i < 2; i++) {
        r[i].fused = i == 1;
        residual_run(&r[i], device, count, store, &g[i], &run[i]);
    }
    assert_memory_equal(run[0].out[0], run[1].out[0], lh_shape_bytes(&run[0].out_shape[0]));
    for (int i = 0; i < R_INPUTS; i++)
        if (g[0].in[i].gradient)
            assert_memory_equal(run[0].grad[i], run[1].grad[i], lh_shape_bytes(&g[0].in[i].shape));
    for (int i = 0; i < 2; i++) lh_gradcheck_close(&run[i]);
}

static void fused_norms_have_the_bits_of_two(void **state)
{
    static const char *const isas[] = {"auto", "portable", "avx2", "avx512"};
    (void)state;
    lh_layout *l = NULL;
    lh_assert_ok(lh_layout_contiguous(LENGTH, 1, 4, true, &l));
    for (int k = 0; k < 5; k++) { /* the last: poison, so that nothing unwritten is read */
        lh_device *device = NULL;
        lh_device *count = NULL;
        lh_status st = k < 4 ? lh_device_create_cpu(isas[k], 1, &device)
                             : lh_device_create_poison(lh_test_isa(), 1, &device);
        if (st == LH_ERR_UNSUP && k > 1) continue; /* not on this processor, not in this build */
        lh_assert_ok(st);
        lh_assert_ok(lh_device_create_count(k < 4 ? isas[k] : lh_test_isa(), 1, &count));
        for (int way = 0; way < 24; way++)
            residual_compare((residual){.rms = way % 2 == 1,
                                        .post = way / 2 % 2 == 1,
                                        .segment = way / 4 % 3,
                                        .layout = l},
                             device, count, way / 12 == 0 ? LH_REAL : LH_BF16);
        lh_device_destroy(&device);
        lh_device_destroy(&count);
    }
    lh_layout_destroy(&l);
}

/* --- dropout --- */

static void dropout_rates(void **state)
{
    (void)state;
    enum { MANY = 20000 };
    stage a;
    lh_tape *t = NULL;
    lh_var x;
    lh_var y;
    lh_layout *l = situation_layout(&situations[0]);
    const int size[LH_AXES] = {1, 1};
    const int coord[LH_AXES] = {0, 0};
    lh_dropout_desc none = {0.0, 1, 2, 0};
    int64_t kept = 0;
    stage_open(&a, &cases[8], l, 0);
    lh_assert_ok(lh_tape_create(size, coord, &t));
    lh_tape_reset(t, a.count, NULL, true);
    lh_assert_ok(lh_tape_input(t, a.data[0], a.g.in[0].shape, a.g.in[0].place, &x));
    lh_assert_ok(lh_dropout(t, x, &none, &y)); /* records nothing */
    assert_int_equal(x.id, y.id);
    for (int64_t i = 0; i < MANY; i++)
        kept += (double)lh_random_u32(drop.seed, drop.stream, (uint64_t)i) >= drop.rate * 0x1p32;
    lh_assert_close((double)kept / MANY, 1.0 - drop.rate, 0.0, 0.02);
    lh_tape_destroy(&t);
    stage_close(&a);
    lh_layout_destroy(&l);
}

/* --- what does not fit --- */

static lh_var input(lh_tape *t, lh_shape shape, lh_place place)
{
    static const char nowhere = 0;
    lh_var v;
    lh_assert_ok(lh_tape_input(t, &nowhere, shape, place, &v));
    return v;
}

typedef struct misfits {
    lh_tape *t;
    lh_device *count;
    lh_memory *m;
    lh_layout *l, *other;
    lh_var x, x4, ids; /* tokens [B, s, E], [B, s, H, D], [B, s] */
} misfits;

static void misfits_open(misfits *f)
{
    const int size[LH_AXES] = {1, 1};
    const int coord[LH_AXES] = {0, 0};
    *f =
        (misfits){.l = situation_layout(&situations[0]), .other = situation_layout(&situations[0])};
    lh_place tokens = lh_place_tokens(f->l);
    lh_assert_ok(lh_device_create_count(lh_test_isa(), 1, &f->count));
    lh_assert_ok(lh_memory_create(&f->m));
    lh_assert_ok(lh_memory_count_begin(f->m));
    lh_assert_ok(lh_tape_create(size, coord, &f->t));
    lh_tape_reset(f->t, f->count, f->m, false);
    f->x = input(f->t, lh_shape_3(LH_REAL, BATCH, LENGTH, EMBED), tokens);
    f->x4 = input(f->t, lh_shape_4(LH_REAL, BATCH, LENGTH, HEADS, HEAD_WIDTH), tokens);
    f->ids = input(f->t, lh_shape_2(LH_INT32, BATCH, LENGTH), tokens);
}

static void misfits_close(misfits *f)
{
    lh_tape_destroy(&f->t);
    lh_memory_destroy(&f->m);
    lh_device_destroy(&f->count);
    lh_layout_destroy(&f->other);
    lh_layout_destroy(&f->l);
}

static lh_var matrix(misfits *f, int64_t rows, int64_t columns)
{
    return input(f->t, lh_shape_2(LH_REAL, rows, columns), lh_place_replicated());
}

static lh_var vector(misfits *f, int64_t n)
{
    return input(f->t, lh_shape_1(LH_REAL, n), lh_place_replicated());
}

static void refuses_positions_and_norms(void **state)
{
    (void)state;
    misfits f;
    lh_var y;
    lh_var table;
    misfits_open(&f);
    lh_var w = matrix(&f, OUT, EMBED);
    lh_var wide = vector(&f, EMBED);
    lh_var narrow = vector(&f, EMBED - 1);
    lh_var odd = input(f.t, lh_shape_4(LH_REAL, BATCH, LENGTH, HEADS, 3), lh_place_tokens(f.l));
    lh_var rows = input(f.t, lh_shape_2(LH_REAL, LENGTH, EMBED), lh_place_rows(f.other));
    lh_var far = input(f.t, lh_shape_3(LH_REAL, BATCH, LENGTH, EMBED), lh_place_tokens(f.other));
    lh_assert_code(lh_embedding(f.t, f.x, w, &y), LH_ERR_BUG); /* ids are no integers */
    lh_assert_code(lh_embedding(f.t, f.ids, narrow, &y), LH_ERR_BUG);
    lh_assert_code(lh_position_add(f.t, f.x, w, &y), LH_ERR_BUG);    /* another number of rows */
    lh_assert_code(lh_position_add(f.t, f.x, rows, &y), LH_ERR_BUG); /* another layout object */
    lh_assert_code(lh_rotary_angles(f.t, f.x, 3, rotary_base, &table), LH_ERR_BUG);
    lh_assert_ok(lh_rotary_angles(f.t, f.x, HEAD_WIDTH, rotary_base, &table));
    lh_assert_code(lh_rotary(f.t, f.x, table, &y), LH_ERR_BUG);
    lh_assert_code(lh_rotary(f.t, odd, table, &y), LH_ERR_BUG);
    lh_assert_ok(lh_rotary(f.t, f.x4, table, &y));
    lh_assert_code(lh_add(f.t, f.x, f.x4, &y), LH_ERR_BUG);
    lh_assert_code(lh_layer_norm(f.t, f.x, narrow, (lh_var){0}, eps, &y), LH_ERR_BUG);
    lh_assert_code(lh_layer_norm(f.t, f.x, wide, narrow, eps, &y), LH_ERR_BUG);
    lh_assert_code(lh_rms_norm(f.t, f.x4, narrow, eps, &y), LH_ERR_BUG);
    lh_assert_code(lh_add_norm(f.t, &(lh_add_norm_in){f.x, f.x4, wide, {0}, eps, true}, &rows, &y),
                   LH_ERR_BUG);
    lh_assert_error(lh_add_norm(f.t, &(lh_add_norm_in){f.x, far, wide, {0}, eps, true}, &rows, &y),
                    LH_ERR_BUG, "lie differently");
    lh_assert_code(lh_dropout(f.t, f.x4, &drop, &y), LH_ERR_BUG);
    lh_assert_code(lh_sinusoid_add(f.t, f.x4, NULL, &y), LH_ERR_BUG);
    misfits_close(&f);
}

static void refuses_products(void **state)
{
    (void)state;
    misfits f;
    lh_var y;
    lh_var correct;
    misfits_open(&f);
    lh_var w = matrix(&f, OUT, EMBED);
    lh_var turned = matrix(&f, EMBED, OUT);
    lh_var up = matrix(&f, HIDDEN, EMBED);
    lh_var down = matrix(&f, EMBED, HIDDEN);
    lh_var narrow = vector(&f, EMBED);
    lh_var whole_ids = input(f.t, lh_shape_2(LH_INT32, BATCH, LENGTH), lh_place_replicated());
    const struct {
        lh_mlp_weights w;
        lh_act_kind act;
    } mlp[] = {
        {{.up = up, .down = up}, LH_ACT_GELU},
        {{.up = up, .down = down}, LH_ACT_SWIGLU}, /* no gate */
        {{.up = up, .gate = up, .down = down}, LH_ACT_GELU},
        {{.up = up, .gate = w, .down = down}, LH_ACT_SWIGLU},
        {{.up = up, .up_bias = narrow, .down = down}, LH_ACT_GELU},
        {{.up = up, .gate = up, .gate_bias = narrow, .down = down}, LH_ACT_SWIGLU},
        {{.up = up, .down = down, .down_bias = up}, LH_ACT_RELU},
    };
    lh_assert_code(lh_linear(f.t, f.x, turned, (lh_var){0}, &y), LH_ERR_BUG);
    lh_assert_code(lh_linear(f.t, f.x4, w, (lh_var){0}, &y), LH_ERR_BUG);
    lh_assert_code(lh_linear(f.t, f.x, w, narrow, &y), LH_ERR_BUG);
    lh_assert_ok(lh_linear(f.t, f.x, w, vector(&f, OUT), &y));
    for (size_t i = 0; i < sizeof mlp / sizeof mlp[0]; i++)
        lh_assert_code(lh_mlp(f.t, f.x, &mlp[i].w, mlp[i].act, &y), LH_ERR_BUG);
    lh_assert_code(lh_lm_loss(f.t, f.x, w, (lh_var){0}, f.x, 1.0, &y, &correct), LH_ERR_BUG);
    lh_assert_code(lh_lm_loss(f.t, f.x, w, (lh_var){0}, whole_ids, 1.0, &y, &correct), LH_ERR_BUG);
    lh_assert_code(lh_lm_loss(f.t, f.x, matrix(&f, VOCAB, EMBED), narrow, f.ids, 1.0, &y, &correct),
                   LH_ERR_BUG);
    lh_assert_code(lh_activation(f.t, f.x, LH_ACT_SWIGLU, &y), LH_ERR_BUG);
    lh_assert_code(lh_add_row(f.t, f.x, down, EMBED, &y), LH_ERR_BUG);
    lh_assert_code(lh_lm_loss(f.t, f.x, turned, (lh_var){0}, f.ids, 1.0, &y, &correct), LH_ERR_BUG);
    misfits_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values),
        cmocka_unit_test(gradients),
        cmocka_unit_test(ranks_and_chunks),
        cmocka_unit_test(wanted_or_not),
        cmocka_unit_test(poison_and_segments_give_the_same_bits),
        cmocka_unit_test(fused_norms_have_the_bits_of_two),
        cmocka_unit_test(dropout_rates),
        cmocka_unit_test(refuses_positions_and_norms),
        cmocka_unit_test(refuses_products),
    };
    return cmocka_run_group_tests_name("ops", tests, NULL, NULL);
}
