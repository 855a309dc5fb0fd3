/* Numbers kept as bfloat16: the kernels between the two types, and what the tape keeps so. */
#include "core/kernels.h"
#include "core/ops.h"
#include "tests/lh_gradcheck.h"
#include "tests/lh_test.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* --- kernels --- */

static const lh_kernels *table(int i)
{
    const lh_kernels *tables[] = {lh_kernels_f64(), lh_kernels_f32(), lh_kernels_f32_avx2(),
                                  lh_kernels_f32_avx512()};
    return tables[i];
}
enum { TABLES = 4, HALVES = 1 << 16, PLACES = 5 /* between one bfloat16 and the next */ };

/* Numbers in the type of a table (0: double). */
static void put(int t, void *x, int64_t i, float value)
{
    if (t == 0)
        ((double *)x)[i] = (double)value;
    else
        ((float *)x)[i] = value;
}

static double get(int t, const void *x, int64_t i)
{
    return t == 0 ? ((const double *)x)[i] : (double)((const float *)x)[i];
}

static float float_of(uint32_t bits)
{
    float x = 0.0f;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The float whose lower half is one of: 0, 1, just below the middle, the middle, all ones. */
static float between(int half, int place)
{
    static const uint32_t low[PLACES] = {0, 1, 0x7FFF, 0x8000, 0xFFFF};
    return float_of((uint32_t)half << 16 | low[place]);
}

/* By the distances to both neighbours, in double; of two equal ones the even. Behind the largest number
 * lies infinity, as if it were the next. */
static uint16_t nearest(int half, float x)
{
    const double low = (double)float_of((uint32_t)half << 16);
    const bool last = (half & 0x7FFF) == 0x7F7F;
    const double high = last ? (half < 0x8000 ? 1.0 : -1.0) * ldexp(1.0, 128)
                             : (double)float_of(((uint32_t)half + 1) << 16);
    const double down = fabs((double)x - low);
    const double up = fabs(high - (double)x);
    return (uint16_t)(half + (up < down || (up == down && half % 2 == 1)));
}

/* Every bfloat16, and what lies between it and the next. */
static void every_number(void **state)
{
    static double x[HALVES * PLACES];
    static double rounded[HALVES * PLACES];
    static double again[HALVES * PLACES];
    static uint16_t y[2][HALVES * PLACES];
    const int64_t n = HALVES * PLACES;
    (void)state;
    for (int t = 0; t < TABLES; t++) {
        const lh_kernels *k = table(t);
        if (k == NULL) continue;
        for (int64_t i = 0; i < n; i++) put(t, x, i, between((int)i / PLACES, (int)i % PLACES));
        for (int threads = 1; threads <= 2; threads++)
            k->to_bf16(&(lh_bf16_args){n, x, y[threads - 1]}, threads);
        assert_memory_equal(y[0], y[1], sizeof y[0]);
        k->round_bf16(&(lh_bf16_args){n, x, rounded}, 2);
        k->round_bf16(&(lh_bf16_args){n, x, x}, 1); /* in place */
        k->from_bf16(&(lh_bf16_args){n, y[0], again}, 2);
        for (int64_t i = 0; i < n; i++) {
            int half = (int)i / PLACES;
            float value = between(half, (int)i % PLACES);
            double back = get(t, rounded, i);
            if (isnan(value)) {
                assert_true(isnan(back) && isnan(get(t, x, i)) && isnan(get(t, again, i)));
                continue;
            }
            assert_int_equal(y[0][i], isinf(value) ? half : nearest(half, value));
            assert_true(back == (double)float_of((uint32_t)y[0][i] << 16));
            assert_true(back == get(t, x, i) && back == get(t, again, i));
            assert_true(!signbit(back) == !signbit(value));
        }
    }
}

/* Columns of rows, with gaps between them, to a host buffer of bfloat16 and back. */
static void rows(void **state)
{
    enum {
        ROWS = 9,
        PITCH = 7,
        WIDTH = 5,
        COLUMN = 1,
        PACKED = 2 * 6 * WIDTH,
        ALL = 2 * ROWS * PITCH
    };
    const lh_span span[] = {{2, 4, 1}, {0, 2, 7}};
    (void)state;
    for (int t = 0; t < TABLES; t++) {
        const lh_kernels *k = table(t);
        double tensor[ALL];
        double wide[PACKED];
        uint16_t want[PACKED];
        uint16_t got[PACKED];
        if (k == NULL) continue;
        for (int i = 0; i < ALL; i++) put(t, tensor, i, 1.0f + (float)i / 321.0f);
        lh_rows_args a = {.batch = 2,
                          .tensor_rows = ROWS,
                          .width = WIDTH,
                          .n_spans = 2,
                          .spans = span,
                          .element_bytes = t == 0 ? sizeof(double) : sizeof(float),
                          .row_width = PITCH,
                          .column = COLUMN,
                          .tensor = tensor,
                          .host = wide};
        k->pack_rows(&a, 1);
        k->to_bf16(&(lh_bf16_args){PACKED, wide, want}, 1);
        a.wire = LH_BF16;
        a.host = got;
        k->pack_rows(&a, 1);
        assert_memory_equal(got, want, sizeof want);
        k->add_rows(&a, 1); /* about twice what is there */
        k->unpack_rows(&a, 1);
        a.wire = LH_REAL;
        a.host = wide;
        k->pack_rows(&a, 1);
        for (int i = 0; i < PACKED; i++)
            assert_true(get(t, wide, i) == (double)float_of((uint32_t)want[i] << 16));
        for (int i = 0; i < ALL; i++) { /* what is between the columns stays */
            bool column = i % PITCH >= COLUMN && i % PITCH < COLUMN + WIDTH;
            if (!column) assert_true(get(t, tensor, i) == (double)(1.0f + (float)i / 321.0f));
        }
        for (int i = 0; i < ALL; i++) put(t, tensor, i, 1.0f);
        a.wire = LH_BF16;
        a.host = got;
        k->add_rows(&a, 1);
        int row = COLUMN + 2 * PITCH; /* the first one packed */
        for (int i = 0; i < WIDTH; i++) {
            double sum = 1.0 + (double)float_of((uint32_t)want[i] << 16);
            assert_true(get(t, tensor, row + i) == (t == 0 ? sum : (double)(float)sum));
        }
    }
}

/* --- the tape: y = x^2, whose gradient reads x (or, root, y = sqrt(x), whose gradient reads y) --- */

static bool same_twice; /* what a vjp saw when it asked twice */

static lh_status any_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    (void)c;
    for (int i = 0; i < LH_OP_OUTPUTS; i++) out[i] = in[0];
    return LH_OK;
}

static lh_status unary_forward(lh_call *c, bool root)
{
    lh_status st = LH_OK;
    const void *x = NULL;
    void *y = NULL;
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_out(c, 0, &y));
    if (lh_call_device(c)->counting) goto done;
    for (int64_t i = 0; i < lh_shape_count(lh_call_in_shape(c, 0)); i++) {
        lh_real v = ((const lh_real *)x)[i];
        ((lh_real *)y)[i] = root ? (lh_real)sqrt((double)v) : v * v;
    }
done:
    return st;
}

static lh_status unary_vjp(lh_call *c, bool root)
{
    lh_status st = LH_OK;
    const void *x = NULL;
    const void *again = NULL;
    void *y = NULL;
    const void *dy = NULL;
    void *dx = NULL;
    bool accumulate = false;
    if (root) LH_TRY(lh_out(c, 0, &y));
    if (!root) LH_TRY(lh_in(c, 0, &x));
    if (!root) LH_TRY(lh_in(c, 0, &again));
    same_twice = same_twice && x == again;
    LH_TRY(lh_out_grad(c, 0, &dy));
    LH_TRY(lh_in_grad(c, 0, &dx, &accumulate));
    if (lh_call_device(c)->counting || dx == NULL) goto done;
    for (int64_t i = 0; i < lh_shape_count(lh_call_in_shape(c, 0)); i++) {
        lh_real slope = root ? 1 / (2 * ((const lh_real *)y)[i]) : 2 * ((const lh_real *)x)[i];
        lh_real add = slope * ((const lh_real *)dy)[i];
        ((lh_real *)dx)[i] = accumulate ? ((lh_real *)dx)[i] + add : add;
    }
done:
    return st;
}

static lh_status square_forward(lh_call *c)
{
    return unary_forward(c, false);
}

static lh_status square_vjp(lh_call *c)
{
    return unary_vjp(c, false);
}

static lh_status root_forward(lh_call *c)
{
    return unary_forward(c, true);
}

static lh_status root_vjp(lh_call *c)
{
    return unary_vjp(c, true);
}

#define SQUARE                                                                                     \
    .name = "square", .reads = LH_READS_IN(0), .place = any_place, .forward = square_forward,      \
    .vjp = square_vjp
static const lh_op square_op = {SQUARE};
static const lh_op exact_square_op = {SQUARE, .exact = LH_READS_OUT(0)};
static const lh_op root_op = {.name = "root",
                              .reads = LH_READS_OUT(0),
                              .place = any_place,
                              .forward = root_forward,
                              .vjp = root_vjp};

static lh_status unary(lh_tape *t, const lh_op *op, lh_var x, lh_var *y)
{
    const lh_shape shape = *lh_var_shape(t, x);
    return lh_record(t, op, NULL, 0, 1, &x, 1, &shape, y);
}

enum { N = 64, LINKS = 12 };

typedef struct stage {
    lh_device *device, *count;
    lh_layout *layout;
    lh_real x[N], seed[N];
    lh_gradcheck g;
    lh_gradcheck_run run;
} stage;

typedef lh_status (*graph)(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out);

static void stage_open(stage *a, graph record, lh_dtype store, bool by_position)
{
    *a = (stage){0};
    lh_assert_ok(lh_device_create_cpu("portable", 1, &a->device));
    lh_assert_ok(lh_device_create_count("portable", 1, &a->count));
    lh_assert_ok(lh_layout_contiguous(N, 1, 16, true, &a->layout));
    for (int i = 0; i < N; i++) {
        a->x[i] = (lh_real)1 + (lh_real)i / 301;
        a->seed[i] = (lh_real)(1 << i % 3);
    }
    lh_place place = by_position ? lh_place_tokens(a->layout) : lh_place_replicated();
    a->g = (lh_gradcheck){.device = a->device,
                          .count = a->count,
                          .size = {1, 1},
                          .store = store,
                          .n_in = 1,
                          .in = {{lh_shape_3(LH_REAL, 1, N, 1), place, a->x, true}},
                          .record = record,
                          .seed = {a->seed}};
    same_twice = true;
    lh_assert_ok(lh_gradcheck_open(&a->g, &a->run));
    for (int step = 0; step < 2; step++) lh_assert_ok(lh_gradcheck_step(&a->run));
    assert_int_equal(a->run.allocations, 0);
    assert_true(same_twice);
}

static void stage_close(stage *a)
{
    lh_gradcheck_close(&a->run);
    lh_layout_destroy(&a->layout);
    lh_device_destroy(&a->count);
    lh_device_destroy(&a->device);
}

static lh_real halved(lh_real x)
{
    uint16_t half = 0;
    const lh_kernels *k = sizeof(lh_real) == sizeof(double) ? lh_kernels_f64() : lh_kernels_f32();
    k->to_bf16(&(lh_bf16_args){1, &x, &half}, 1);
    return (lh_real)float_of((uint32_t)half << 16);
}

/* Gradients and outputs, exactly. */
typedef lh_real (*function)(lh_real x);
static void check(graph record, lh_dtype store, bool by_position, function value, function slope)
{
    stage a;
    stage_open(&a, record, store, by_position);
    for (int i = 0; i < N; i++) {
        assert_true(((const lh_real *)a.run.out[0])[i] == value(a.x[i]));
        assert_true(a.run.grad[0][i] == slope(a.x[i]) * a.seed[i]);
    }
    stage_close(&a);
}

/* x^4: the leaf is as it came, x^2 is kept. */
static lh_status fourth(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    lh_var y;
    (void)user;
    *n_out = 1;
    LH_TRY(unary(t, &square_op, in[0], &y));
    LH_TRY(unary(t, &square_op, y, out));
done:
    return st;
}

static lh_status exact_fourth(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    lh_var y;
    (void)user;
    *n_out = 1;
    LH_TRY(unary(t, &exact_square_op, in[0], &y));
    LH_TRY(unary(t, &square_op, y, out));
done:
    return st;
}

static lh_real fourth_value(lh_real x)
{
    lh_real y = x * x;
    return y * y;
}

/* d/dx = 2 x (2 y); the seed is a power of 2 and may come last. */
static lh_real fourth_slope(lh_real x)
{
    return 2 * x * (2 * (x * x));
}

static lh_real fourth_kept(lh_real x)
{
    return 2 * x * (2 * halved(x * x));
}

static lh_status rooted(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    (void)user;
    *n_out = 1;
    return unary(t, &root_op, in[0], out);
}

static lh_real rooted_value(lh_real x)
{
    return (lh_real)sqrt((double)x);
}

static lh_real rooted_kept(lh_real x)
{
    return 1 / (2 * halved((lh_real)sqrt((double)x)));
}

static void what_is_kept(void **state)
{
    (void)state;
    check(fourth, LH_REAL, true, fourth_value, fourth_slope);
    check(fourth, LH_BF16, true, fourth_value,
          fourth_kept); /* the forward pass sees real numbers */
    check(fourth, LH_BF16, false, fourth_value, fourth_slope); /* a summary */
    check(exact_fourth, LH_BF16, true, fourth_value, fourth_slope);
    check(rooted, LH_BF16, true, rooted_value, rooted_kept);
}

/* A segment begins again with what was kept, and keeps what it makes then. */
static lh_status segment(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    lh_var y;
    (void)user;
    *n_out = 1;
    LH_TRY(lh_add(t, in[0], in[0], &y));
    LH_TRY(lh_tape_segment_begin(t));
    LH_TRY(unary(t, &square_op, y, &y));
    LH_TRY(unary(t, &square_op, y, out));
    LH_TRY(lh_tape_segment_end(t));
done:
    return st;
}

static lh_real segment_value(lh_real x)
{
    return fourth_value(x + x);
}

static lh_real segment_kept(lh_real x)
{
    lh_real y = halved(x + x);
    return 2 * (2 * y * (2 * halved(y * y)));
}

static void segments(void **state)
{
    (void)state;
    check(segment, LH_BF16, true, segment_value, segment_kept);
}

/* --- rounding --- */

static lh_status rounds(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    lh_var y;
    lh_var z;
    (void)user;
    *n_out = 1;
    LH_TRY(lh_store_round(t, in[0], &y));
    LH_TRY(lh_reshape(t, y, *lh_var_shape(t, y), &z));
    LH_TRY(lh_store_round(t, z, &z)); /* nothing more to do */
    bool changes =
        lh_tape_stored(t) == LH_BF16 && lh_var_place(t, in[0])->axis[LH_AXIS_SEQ].kind == LH_SHARD;
    LH_CHECK((y.id != in[0].id) == changes && z.id == y.id + 1, LH_ERR_BUG, "rounded %d times",
             (int)(z.id - in[0].id));
    LH_TRY(unary(t, &square_op, z, out));
done:
    return st;
}

static lh_real square_value(lh_real x)
{
    return x * x;
}

static lh_real square_slope(lh_real x)
{
    return 2 * x;
}

static lh_real round_value(lh_real x)
{
    return halved(x) * halved(x);
}

static lh_real round_slope(lh_real x)
{
    return 2 * halved(x);
}

static void rounding(void **state)
{
    (void)state;
    check(rounds, LH_REAL, true, square_value, square_slope);
    check(rounds, LH_BF16, false, square_value, square_slope);
    check(rounds, LH_BF16, true, round_value, round_slope);
}

/* --- memory --- */

static lh_status chain(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    lh_var x = in[0];
    (void)user;
    *n_out = 1;
    for (int i = 0; i <= LINKS; i++) LH_TRY(unary(t, &root_op, x, &x));
    *out = x;
done:
    return st;
}

/* Half of every link but the last, whose gradient is the caller's, and of real numbers what one vjp works
 * with: its output again, two gradients. */
static void memory(void **state)
{
    int64_t live[2];
    const int64_t real = N * (int64_t)lh_dtype_bytes(LH_REAL);
    const int64_t half = N * (int64_t)lh_dtype_bytes(LH_BF16);
    (void)state;
    for (int i = 0; i < 2; i++) {
        stage a;
        stage_open(&a, chain, i == 0 ? LH_REAL : LH_BF16, true);
        live[i] = lh_memory_live(a.run.memory);
        stage_close(&a);
    }
    assert_int_equal(live[0], LINKS * real + 2 * real);
    assert_int_equal(live[1], LINKS * half + 3 * real);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number), cmocka_unit_test(rows),     cmocka_unit_test(what_is_kept),
        cmocka_unit_test(segments),     cmocka_unit_test(rounding), cmocka_unit_test(memory),
    };
    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
