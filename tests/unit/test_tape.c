/* The tape: order and values of gradients, what it refuses, and recomputation. */
#include "core/ops.h"
#include "tests/lh_gradcheck.h"
#include "tests/lh_test.h"

#include <math.h>
#include <string.h>

enum { N = 6, LINKS = 8 };

/* --- operations of the test, on the processor alone --- */

typedef struct tally {
    int forward, again, remade, vjp;
    const void *dy; /* where the gradient of its output was */
} tally;

typedef struct attrs {
    double factor;
    tally *tally;
} attrs;

static lh_status any_place(const lh_call *c, const lh_place *in, lh_place *out)
{
    (void)c;
    for (int i = 0; i < LH_OP_OUTPUTS; i++) out[i] = in[0];
    return LH_OK;
}

static void tally_forward(const lh_call *c)
{
    const attrs *a = lh_call_attrs(c);
    if (a->tally == NULL || lh_call_device(c)->counting) return;
    a->tally->forward++;
    a->tally->again += lh_tape_recomputing(lh_call_tape(c));
}

/* y = factor x, reading nothing backwards; or y = x^2, reading x. */
static lh_status unary_forward(lh_call *c, bool square)
{
    lh_status st = LH_OK;
    const void *x = NULL;
    void *y = NULL;
    const attrs *a = lh_call_attrs(c);
    tally_forward(c);
    LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_out(c, 0, &y));
    if (lh_call_device(c)->counting) goto done;
    for (int64_t i = 0; i < lh_shape_count(lh_call_in_shape(c, 0)); i++) {
        lh_real v = ((const lh_real *)x)[i];
        ((lh_real *)y)[i] = square ? v * v : (lh_real)a->factor * v;
    }
done:
    return st;
}

static lh_status unary_vjp(lh_call *c, bool square)
{
    lh_status st = LH_OK;
    const void *x = NULL;
    const void *dy = NULL;
    void *dx = NULL;
    bool accumulate = false;
    const attrs *a = lh_call_attrs(c);
    if (a->tally != NULL && !lh_call_device(c)->counting) a->tally->vjp++;
    if (square) LH_TRY(lh_in(c, 0, &x));
    LH_TRY(lh_out_grad(c, 0, &dy));
    LH_TRY(lh_in_grad(c, 0, &dx, &accumulate));
    if (a->tally != NULL) a->tally->dy = dy;
    if (lh_call_device(c)->counting || dx == NULL) goto done;
    for (int64_t i = 0; i < lh_shape_count(lh_call_in_shape(c, 0)); i++) {
        lh_real slope = square ? 2 * ((const lh_real *)x)[i] : (lh_real)a->factor;
        lh_real add = slope * ((const lh_real *)dy)[i];
        ((lh_real *)dx)[i] = accumulate ? ((lh_real *)dx)[i] + add : add;
    }
done:
    return st;
}

static lh_status scale_forward(lh_call *c)
{
    return unary_forward(c, false);
}

static lh_status scale_vjp(lh_call *c)
{
    return unary_vjp(c, false);
}

static lh_status square_forward(lh_call *c)
{
    return unary_forward(c, true);
}

static lh_status square_vjp(lh_call *c)
{
    return unary_vjp(c, true);
}

static lh_status square_remake(lh_call *c)
{
    const attrs *a = lh_call_attrs(c);
    if (a->tally != NULL && !lh_call_device(c)->counting) a->tally->remade++;
    return unary_forward(c, true);
}

static const lh_op scale_op = {
    .name = "scale", .place = any_place, .forward = scale_forward, .vjp = scale_vjp};
static const lh_op square_op = {.name = "square",
                                .reads = LH_READS_IN(0),
                                .place = any_place,
                                .forward = square_forward,
                                .vjp = square_vjp};
static const lh_op dropped_op = {.name = "dropped",
                                 .reads = LH_READS_IN(0),
                                 .place = any_place,
                                 .forward = square_forward,
                                 .vjp = square_vjp,
                                 .drops = LH_READS_OUT(0),
                                 .remake = square_remake};
static const lh_op costly_op = {.name = "costly",
                                .reads = LH_READS_IN(0),
                                .place = any_place,
                                .forward = square_forward,
                                .vjp = square_vjp,
                                .costly = true};
static const lh_op forward_only_op = {
    .name = "forward_only", .place = any_place, .forward = scale_forward};

static lh_status unary(lh_tape *t, const lh_op *op, double factor, tally *count, lh_var x,
                       lh_var *y)
{
    attrs a = {factor, count};
    const lh_shape shape = *lh_var_shape(t, x);
    return lh_record(t, op, &a, sizeof a, 1, &x, 1, &shape, y);
}

static lh_status scale(lh_tape *t, double factor, lh_var x, lh_var *y)
{
    return unary(t, &scale_op, factor, NULL, x, y);
}

static lh_status square(lh_tape *t, lh_var x, lh_var *y)
{
    return unary(t, &square_op, 0.0, NULL, x, y);
}

/* --- running a graph --- */

typedef lh_status (*graph)(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out);

typedef struct stage {
    lh_device *device, *count;
    lh_real x[N], seed[N];
    lh_gradcheck g;
    lh_gradcheck_run run;
} stage;

static void stage_devices(stage *a)
{
    *a = (stage){0};
    lh_assert_ok(lh_device_create_cpu("portable", 1, &a->device));
    lh_assert_ok(lh_device_create_count("portable", 1, &a->count));
    for (int i = 0; i < N; i++) {
        a->x[i] = (lh_real)(0.5 + 0.125 * i);
        a->seed[i] = (lh_real)(1 + i);
    }
}

static void stage_open(stage *a, graph record, void *user)
{
    a->g =
        (lh_gradcheck){.device = a->device,
                       .count = a->count,
                       .size = {1, 1},
                       .n_in = 1,
                       .in = {{lh_shape_2(LH_REAL, 2, N / 2), lh_place_replicated(), a->x, true}},
                       .record = record,
                       .user = user,
                       .seed = {a->seed, a->seed, a->seed, a->seed}};
    lh_assert_ok(lh_gradcheck_open(&a->g, &a->run));
    lh_assert_ok(lh_gradcheck_step(&a->run));
}

static void stage_close(stage *a)
{
    if (a->run.g != NULL) lh_gradcheck_close(&a->run);
    lh_device_destroy(&a->count);
    lh_device_destroy(&a->device);
}

/* gradient of entry i = slope(x) * seed, exactly: the numbers are small binary fractions. */
static void check_slope(graph record, double (*slope)(double x))
{
    stage a;
    stage_devices(&a);
    stage_open(&a, record, NULL);
    for (int step = 0; step < 2; step++) {
        for (int i = 0; i < N; i++)
            assert_true((double)a.run.grad[0][i] == slope((double)a.x[i]) * (double)a.seed[i]);
        lh_assert_ok(
            lh_gradcheck_step(&a.run)); /* step 2 and on: the same, without an allocation */
        assert_int_equal(a.run.allocations, 0);
    }
    stage_close(&a);
}

/* --- values --- */

static lh_status diamond(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    lh_var y;
    lh_var a;
    lh_var b;
    (void)user;
    *n_out = 1;
    LH_TRY(square(t, in[0], &y));
    LH_TRY(scale(t, 2.0, y, &a));
    LH_TRY(scale(t, 3.0, y, &b));
    LH_TRY(lh_add(t, a, b, out));
done:
    return st;
}

static double diamond_slope(double x)
{
    return 10.0 * x;
}

static lh_status twice(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    lh_var y;
    (void)user;
    *n_out = 1;
    LH_TRY(lh_add(t, in[0], in[0], &y)); /* a leaf twice in one operation */
    LH_TRY(lh_add(t, y, y, &out[0]));    /* and an inner value */
done:
    return st;
}

static double twice_slope(double x)
{
    (void)x;
    return 4.0;
}

static lh_status reshaped(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    lh_var y;
    lh_var z;
    (void)user;
    *n_out = 1;
    LH_TRY(lh_reshape(t, in[0], lh_shape_1(LH_REAL, N), &y));
    LH_TRY(square(t, y, &z));
    LH_TRY(lh_reshape(t, z, lh_shape_3(LH_REAL, 3, 1, 2), &z));
    LH_TRY(scale(t, 3.0, z, &z));
    LH_TRY(lh_reshape(t, z, lh_shape_2(LH_REAL, 2, N / 2), &z));
    LH_TRY(scale(t, 2.0, in[0], &y)); /* the same leaf under its first shape */
    LH_TRY(lh_add(t, y, z, &out[0]));
done:
    return st;
}

static double reshaped_slope(double x)
{
    return 6.0 * x + 2.0;
}

static lh_status stopped(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    lh_var y;
    lh_var z;
    (void)user;
    *n_out = 1;
    LH_TRY(square(t, in[0], &y));
    LH_TRY(lh_stop_gradient(t, y, &z));
    LH_TRY(unary(t, &forward_only_op, 5.0, NULL, z, &z)); /* needs no vjp behind the stop */
    LH_TRY(lh_add(t, y, z, &out[0]));
done:
    return st;
}

static double stopped_slope(double x)
{
    return 2.0 * x;
}

/* Two outputs get a gradient, and one of them is used further. */
static lh_status branches(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    lh_var unused;
    (void)user;
    *n_out = 3;
    LH_TRY(square(t, in[0], &out[0]));
    LH_TRY(scale(t, 4.0, out[0], &out[1]));
    LH_TRY(scale(t, 100.0, out[0], &unused)); /* no gradient reaches it */
    out[2] = in[0];                           /* a leaf may be an output */
done:
    return st;
}

static double branches_slope(double x)
{
    return 10.0 * x + 1.0;
}

static void values(void **state)
{
    (void)state;
    check_slope(diamond, diamond_slope);
    check_slope(twice, twice_slope);
    check_slope(reshaped, reshaped_slope);
    check_slope(stopped, stopped_slope);
    check_slope(branches, branches_slope);
}

/* Three uses of one value: its gradient is the sum in the reverse order of recording, seen by its
 * rounding. */
static lh_status three_uses(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    const double *factor = user;
    lh_var y;
    *n_out = 3;
    LH_TRY(scale(t, 1.0, in[0], &y));
    for (int i = 0; i < 3; i++) LH_TRY(scale(t, factor[i], y, &out[i]));
done:
    return st;
}

static void order_of_gradients(void **state)
{
    (void)state;
    double big = sizeof(lh_real) == sizeof(double) ? 1e20 : 1e10;
    const double late[3] = {1.0, -big, big};  /* (big - big) + 1 = 1 */
    const double early[3] = {big, -big, 1.0}; /* (1 - big) + big = 0 */
    for (int k = 0; k < 2; k++) {
        stage a;
        stage_devices(&a);
        for (int i = 0; i < N; i++) a.seed[i] = 1;
        stage_open(&a, three_uses, (void *)(uintptr_t)(k == 0 ? late : early));
        for (int i = 0; i < N; i++) assert_true(a.run.grad[0][i] == (k == 0 ? 1 : 0));
        stage_close(&a);
    }
}

/* --- parameters --- */

/* --- when a gradient is final --- */

enum { FINALS = 4 };

/* Parameters that are not final, as bits, after each operation of the backward pass. */
typedef struct finals {
    lh_param *p[FINALS];
    unsigned open[LINKS];
    int n;
} finals;

static void note_finals(void *user)
{
    finals *f = user;
    unsigned open = 0;
    for (int i = 0; i < FINALS; i++) open |= f->p[i]->grad_final ? 0u : 1u << i;
    if (f->n < LINKS) f->open[f->n] = open;
    f->n++;
}

static void call_final(void *user)
{
    ((lh_param *)user)->grad_final = true;
}

/* y = ((p0 + p1) + reshape(p1)) * 2, and beside it p3^2, of which nothing depends; p2 is on no tape.
 * Operations: 0 p0 + p1, 1 p3^2, 2 ... + p1 again, 3 scale. */
static lh_status record_finals(lh_tape *t, const finals *f, lh_var *y)
{
    lh_status st = LH_OK;
    lh_var p[FINALS];
    lh_var x;
    lh_var again;
    for (int i = 0; i < FINALS; i++)
        if (i != 2) LH_TRY(lh_tape_param(t, f->p[i], &p[i]));
    LH_TRY(lh_add(t, p[0], p[1], &x));
    LH_TRY(square(t, p[3], y));
    LH_TRY(lh_reshape(t, p[1], lh_shape_1(LH_REAL, N), &again));
    LH_TRY(lh_add(t, x, again, &x));
    LH_TRY(scale(t, 2.0, x, y));
done:
    return st;
}

/* A gradient is final after the last operation that adds to it, which is the first that took the
 * parameter, by whatever name; at once where none does. */
static void finals_in_order(void **state)
{
    (void)state;
    stage a;
    lh_params *params = NULL;
    lh_tape *t = NULL;
    lh_memory *m = NULL;
    finals f = {.n = 0};
    const int one[LH_AXES] = {1, 1};
    const int zero[LH_AXES] = {0, 0};
    const void *seed = NULL;
    lh_var y;
    stage_devices(&a);
    seed = a.seed;
    lh_assert_ok(lh_params_create(a.device, zero, &params));
    for (int i = 0; i < FINALS; i++) {
        const char name[] = {'p', (char)('0' + i), 0};
        lh_assert_ok(lh_params_add(params, name, lh_shape_1(LH_REAL, N), lh_place_replicated(),
                                   LH_INIT_ONE, 0.0, &f.p[i]));
    }
    lh_assert_ok(lh_params_allocate(params, true));
    lh_params_zero_grad(params);
    lh_assert_ok(lh_tape_create(one, zero, &t));
    lh_assert_ok(lh_memory_create(&m));
    for (int pass = 0; pass < 2; pass++) { /* a second one begins anew */
        f.n = 0;
        lh_assert_ok(lh_memory_count_begin(m));
        lh_tape_reset(t, a.count, m, true);
        lh_assert_ok(record_finals(t, &f, &y));
        lh_tape_between(t, note_finals, &f);
        lh_assert_ok(lh_tape_backward_from(t, 1, &y, &seed));
        lh_assert_ok(lh_memory_count_end(m));
        const unsigned want[] = {1 | 2 | 8, 1 | 2 | 8, 1 | 2, 0};
        assert_int_equal(f.n, 4);
        for (int i = 0; i < 4; i++) assert_int_equal(f.open[i], want[i]);
    }
    lh_assert_ok(lh_memory_count_begin(m));
    lh_tape_reset(t, a.count, m, true); /* nobody is told any more */
    lh_assert_ok(record_finals(t, &f, &y));
    lh_assert_ok(lh_tape_backward_from(t, 1, &y, &seed));
    assert_int_equal(f.n, 4);
    lh_assert_ok(lh_memory_count_begin(m));
    lh_tape_reset(t, a.count, m, true);
    lh_assert_ok(record_finals(t, &f, &y));
    lh_tape_between(t, call_final, f.p[0]); /* what is on its way may not be added to */
    lh_assert_error(lh_tape_backward_from(t, 1, &y, &seed), LH_ERR_BUG, "p0 was called final");
    lh_memory_destroy(&m);
    lh_tape_destroy(&t);
    lh_params_destroy(&params);
    stage_close(&a);
}

static void parameters(void **state)
{
    (void)state;
    stage a;
    lh_params *params = NULL;
    lh_param *p = NULL;
    lh_tape *t = NULL;
    lh_memory *m = NULL;
    const int size[LH_AXES] = {1, 1};
    const int coord[LH_AXES] = {0, 0};
    void *arena = NULL;
    lh_var x;
    lh_var again;
    lh_var y = {0};
    stage_devices(&a);
    lh_assert_ok(lh_params_create(a.device, coord, &params));
    lh_assert_ok(lh_params_add(params, "w", lh_shape_1(LH_REAL, N), lh_place_replicated(),
                               LH_INIT_ONE, 0.0, &p));
    lh_assert_ok(lh_params_allocate(params, true));
    lh_assert_ok(lh_params_initialise(params, 1));
    lh_params_zero_grad(params);
    lh_assert_ok(lh_tape_create(size, coord, &t));
    lh_assert_ok(lh_memory_create(&m));
    lh_assert_ok(lh_memory_count_begin(m));
    for (int step = 0; step < 3; step++) {
        const void *seed = a.seed;
        if (step == 1)
            lh_assert_ok(lh_device_alloc(a.device, lh_memory_bytes(m, LH_SPACE_DEVICE), &arena));
        if (step > 0) lh_memory_replay(m, a.device, arena, NULL);
        lh_tape_reset(t, step == 0 ? a.count : a.device, m, true);
        lh_assert_ok(lh_tape_param(t, p, &x));
        lh_assert_ok(square(t, x, &y));
        lh_assert_ok(lh_tape_param(t, p, &again));
        assert_int_equal(x.id, again.id);
        lh_assert_ok(lh_tape_backward_from(t, 1, &y, &seed));
        if (step == 0) lh_assert_ok(lh_memory_count_end(m));
    }
    /* two real steps: gradients of parameters add up until they are zeroed */
    for (int i = 0; i < N; i++) assert_true(((lh_real *)p->grad)[i] == 4 * a.seed[i]);
    lh_device_release(a.device, &arena);
    lh_memory_destroy(&m);
    lh_tape_destroy(&t);
    lh_params_destroy(&params);
    stage_close(&a);
}

/* --- what is refused: a tape that counts --- */

typedef struct counted {
    lh_device *count;
    lh_memory *m;
    lh_tape *t;
    lh_layout *layout[2];
    lh_shape tokens;
} counted;

static char nowhere[1]; /* stands for addresses that the device count never reads */

static void counted_open(counted *k, int ranks, bool gradients)
{
    const int size[LH_AXES] = {1, ranks};
    const int coord[LH_AXES] = {0, 0};
    *k = (counted){0};
    lh_assert_ok(lh_device_create_count("portable", 1, &k->count));
    lh_assert_ok(lh_memory_create(&k->m));
    lh_assert_ok(lh_memory_count_begin(k->m));
    lh_assert_ok(lh_tape_create(size, coord, &k->t));
    for (int i = 0; i < 2; i++)
        lh_assert_ok(lh_layout_contiguous(8, ranks, 2, true, &k->layout[i]));
    k->tokens = lh_shape_3(LH_REAL, 2, k->layout[0]->rows[0], 4);
    lh_tape_reset(k->t, k->count, k->m, gradients);
}

static void counted_close(counted *k)
{
    lh_tape_destroy(&k->t);
    lh_memory_destroy(&k->m);
    lh_layout_destroy(&k->layout[0]);
    lh_layout_destroy(&k->layout[1]);
    lh_device_destroy(&k->count);
}

static lh_var leaf(counted *k, lh_shape shape, lh_place place)
{
    lh_var v;
    lh_assert_ok(lh_tape_leaf(k->t, nowhere, nowhere, shape, place, &v));
    return v;
}

static void no_vjp_fails_at_once(void **state)
{
    (void)state;
    counted k;
    lh_var y;
    for (int gradients = 0; gradients < 2; gradients++) {
        counted_open(&k, 1, gradients > 0);
        lh_var x = leaf(&k, k.tokens, lh_place_replicated());
        lh_status st = unary(k.t, &forward_only_op, 1.0, NULL, x, &y);
        if (gradients == 0) {
            lh_assert_ok(st);
        } else {
            lh_assert_error(st, LH_ERR_BUG, "forward_only: no gradient is defined");
            assert_int_equal(y.id, 0);
            lh_assert_ok(lh_tape_input(k.t, nowhere, k.tokens, lh_place_replicated(), &x));
            lh_assert_ok(unary(k.t, &forward_only_op, 1.0, NULL, x, &y));
        }
        counted_close(&k);
    }
}

/* Operations that break the promises of a call; attrs: which one. */
static lh_status careless_forward(lh_call *c)
{
    const void *in = NULL;
    void *out = NULL;
    bool accumulate = false;
    switch (*(const int *)lh_call_attrs(c)) {
    case 2:
        return lh_in(c, 1, &in);
    case 3:
        return lh_out(c, 1, &out);
    case 4:
        return lh_out_grad(c, 0, &in);
    case 5:
        return lh_in_grad(c, 0, &out, &accumulate);
    default:
        return LH_OK;
    }
}

static lh_status careless_vjp(lh_call *c)
{
    const void *in = NULL;
    void *out = NULL;
    return *(const int *)lh_call_attrs(c) == 0 ? lh_in(c, 0, &in) : lh_out(c, 0, &out);
}

static const lh_op careless_op = {
    .name = "careless", .place = any_place, .forward = careless_forward, .vjp = careless_vjp};

static void undeclared_reads(void **state)
{
    (void)state;
    for (int what = 0; what < 6; what++) {
        counted k;
        lh_var y;
        const void *seed = nowhere;
        counted_open(&k, 1, true);
        lh_var x = leaf(&k, k.tokens, lh_place_replicated());
        lh_status st = lh_record(k.t, &careless_op, &what, sizeof what, 1, &x, 1, &k.tokens, &y);
        if (what > 1) {
            lh_assert_error(st, LH_ERR_BUG, "careless");
        } else {
            lh_assert_ok(st);
            lh_assert_error(lh_tape_backward_from(k.t, 1, &y, &seed), LH_ERR_BUG,
                            "`reads` does not declare");
        }
        counted_close(&k);
    }
}

static void variables_that_do_not_exist(void **state)
{
    (void)state;
    counted k;
    lh_var y;
    const void *data = nowhere;
    counted_open(&k, 1, true);
    lh_var x = leaf(&k, k.tokens, lh_place_replicated());
    const lh_var wrong[3] = {{0}, {x.id + 1}, {-1}};
    for (int i = 0; i < 3; i++) {
        lh_assert_code(lh_var_data(k.t, wrong[i], &data), LH_ERR_BUG);
        lh_assert_code(lh_stop_gradient(k.t, wrong[i], &y), LH_ERR_BUG);
        lh_assert_code(lh_reshape(k.t, wrong[i], k.tokens, &y), LH_ERR_BUG);
        lh_assert_code(lh_tape_backward(k.t, wrong[i]), LH_ERR_BUG);
    }
    lh_var many[LH_OP_INPUTS + 1];
    for (int i = 0; i <= LH_OP_INPUTS; i++) many[i] = x;
    attrs a = {1.0, NULL};
    lh_assert_code(
        lh_record(k.t, &scale_op, &a, sizeof a, LH_OP_INPUTS + 1, many, 1, &k.tokens, &y),
        LH_ERR_BUG);
    lh_assert_code(lh_record(k.t, &scale_op, &a, sizeof a, 1, &wrong[1], 1, &k.tokens, &y),
                   LH_ERR_BUG);
    counted_close(&k);
}

static void reshapes(void **state)
{
    (void)state;
    counted k;
    lh_var y;
    counted_open(&k, 2, true);
    int64_t s = k.tokens.dim[1];
    lh_var x = leaf(&k, k.tokens, lh_place_tokens(k.layout[0]));
    lh_assert_ok(lh_reshape(k.t, x, lh_shape_4(LH_REAL, 2, s, 2, 2), &y));
    assert_true(lh_place_equal(lh_var_place(k.t, y), lh_var_place(k.t, x)));
    /* the sharded dimension, one before it, another size, another type */
    lh_assert_error(lh_reshape(k.t, x, lh_shape_3(LH_REAL, 2, 2, 2 * s), &y), LH_ERR_BUG,
                    "sharded");
    lh_assert_code(lh_reshape(k.t, x, lh_shape_3(LH_REAL, 1, 2 * s, 4), &y), LH_ERR_BUG);
    lh_assert_code(lh_reshape(k.t, x, lh_shape_1(LH_REAL, 2 * s * 4), &y), LH_ERR_BUG);
    lh_assert_code(lh_reshape(k.t, x, lh_shape_3(LH_REAL, 2, s, 5), &y), LH_ERR_BUG);
    lh_assert_code(lh_reshape(k.t, x, lh_shape_3(LH_INT32, 2, s, 4), &y), LH_ERR_BUG);
    counted_close(&k);
}

static void placements(void **state)
{
    (void)state;
    counted k;
    lh_var sum;
    lh_var y;
    counted_open(&k, 2, true);
    lh_var sharded = leaf(&k, k.tokens, lh_place_tokens(k.layout[0]));
    lh_var elsewhere = leaf(&k, k.tokens, lh_place_tokens(k.layout[1]));
    lh_var partial = leaf(&k, k.tokens, lh_place_partial());
    lh_var weights = leaf(&k, lh_shape_1(LH_REAL, 4), lh_place_replicated());
    lh_var partial_weights = leaf(&k, lh_shape_1(LH_REAL, 4), lh_place_partial());
    lh_assert_ok(lh_rms_norm(k.t, sharded, weights, 1e-6, &y));
    lh_assert_error(lh_rms_norm(k.t, partial, weights, 1e-6, &y), LH_ERR_BUG, "reduce it");
    assert_int_equal(y.id, 0);
    lh_assert_code(lh_rms_norm(k.t, sharded, partial_weights, 1e-6, &y), LH_ERR_BUG);
    lh_add_norm_in both = {sharded, sharded, weights, {0}, 1e-6, true};
    lh_assert_ok(lh_add_norm(k.t, &both, &sum, &y));
    both.w = partial_weights;
    lh_assert_code(lh_add_norm(k.t, &both, &sum, &y), LH_ERR_BUG);
    both = (lh_add_norm_in){partial, partial, weights, {0}, 1e-6, true};
    lh_assert_error(lh_add_norm(k.t, &both, &sum, &y), LH_ERR_BUG, "reduce it");
    assert_true(sum.id == 0 && y.id == 0);
    /* equal layouts, but not the same object: operands sharded together must share it */
    lh_assert_error(lh_add(k.t, sharded, elsewhere, &y), LH_ERR_BUG, "lie differently");
    lh_assert_code(lh_add(k.t, sharded, partial, &y), LH_ERR_BUG);
    lh_assert_ok(lh_add(k.t, partial, partial, &y)); /* a sum of partial values is partial */
    assert_int_equal(lh_var_place(k.t, y)->axis[LH_AXIS_SEQ].kind, LH_PARTIAL);
    counted_close(&k);
}

static void losses(void **state)
{
    (void)state;
    const lh_shape one = lh_shape_1(LH_F64, 1);
    for (int ranks = 1; ranks <= 2; ranks++) {
        counted k;
        lh_var fixed;
        counted_open(&k, ranks, true);
        lh_assert_ok(lh_tape_backward(k.t, leaf(&k, one, lh_place_partial())));
        lh_status st = lh_tape_backward(k.t, leaf(&k, one, lh_place_replicated()));
        if (ranks > 1)
            lh_assert_error(st, LH_ERR_BUG, "reduced already");
        else
            lh_assert_ok(st);
        lh_assert_code(lh_tape_backward(k.t, leaf(&k, lh_shape_1(LH_REAL, 1), lh_place_partial())),
                       LH_ERR_BUG);
        lh_assert_code(lh_tape_backward(k.t, leaf(&k, lh_shape_1(LH_F64, 2), lh_place_partial())),
                       LH_ERR_BUG);
        lh_assert_ok(lh_tape_input(k.t, nowhere, one, lh_place_partial(), &fixed));
        lh_assert_error(lh_tape_backward(k.t, fixed), LH_ERR_BUG, "does not depend");
        counted_close(&k);
    }
}

/* --- recomputation --- */

typedef struct chain {
    int segments;         /* 0: none */
    bool seeded;          /* its output takes the seed, not the output of another operation */
    tally link[LINKS];    /* squares */
    tally tail, dead_end; /* scales at the end of every segment; one that needs no gradient */
} chain;

/* LINKS squares in segments; each segment ends in a scale, whose output no vjp of the segment
 * reads, and contains an operation without a gradient that nothing reads. */
static lh_status chain_record(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    chain *c = user;
    lh_var x = in[0];
    lh_var aside;
    int per = LINKS / (c->segments > 0 ? c->segments : 1);
    *n_out = 1;
    for (int i = 0; i < LINKS; i++) {
        if (c->segments > 0 && i % per == 0) LH_TRY(lh_tape_segment_begin(t));
        LH_TRY(unary(t, &square_op, 0.0, &c->link[i], x, &x));
        LH_TRY(lh_stop_gradient(t, x, &aside));
        LH_TRY(unary(t, &forward_only_op, 2.0, &c->dead_end, aside, &aside));
        if (i % per < per - 1 && c->segments > 0) continue;
        LH_TRY(unary(t, &scale_op, 0.75, &c->tail, x, &x));
        if (c->segments > 0) LH_TRY(lh_tape_segment_end(t));
    }
    if (c->segments == 0) LH_TRY(scale(t, 1.0, x, &x));
    *out = x;
done:
    return st;
}

/* The same operations with and without segments: per chooses where the scales stand. */
static lh_status plain_record(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    chain *c = user;
    lh_var x = in[0];
    int per = LINKS / c->segments;
    *n_out = 1;
    for (int i = 0; i < LINKS; i++) {
        LH_TRY(square(t, x, &x));
        if (i % per == per - 1) LH_TRY(scale(t, 0.75, x, &x));
    }
    *out = x;
done:
    return st;
}

static void segments_give_the_same_bits(void **state)
{
    (void)state;
    static const int counts[] = {1, 2, 4};
    for (int k = 0; k < 3; k++) {
        chain c = {.segments = counts[k]};
        stage a;
        stage b;
        stage_devices(&a);
        stage_devices(&b);
        for (int i = 0; i < N; i++) a.x[i] = b.x[i] = (lh_real)(0.9 + 0.03 * i);
        stage_open(&a, chain_record, &c);
        stage_open(&b, plain_record, &c);
        assert_memory_equal(a.run.out[0], b.run.out[0], N * sizeof(lh_real));
        assert_memory_equal(a.run.grad[0], b.run.grad[0], N * sizeof(lh_real));
        lh_assert_ok(lh_gradcheck_step(&a.run));
        assert_int_equal(a.run.allocations, 0);
        assert_memory_equal(a.run.grad[0], b.run.grad[0], N * sizeof(lh_real));
        stage_close(&a);
        stage_close(&b);
    }
}

/* Of a segment only what its gradients read is run again: not its last square (the scale reads
 * nothing), not the scale, not what needs no gradient. */
static void segments_rerun_what_is_needed(void **state)
{
    (void)state;
    chain c = {.segments = 2};
    stage a;
    stage_devices(&a);
    stage_open(&a, chain_record, &c);
    for (int i = 0; i < LINKS; i++) {
        bool last = i % (LINKS / 2) == LINKS / 2 - 1;
        assert_int_equal(c.link[i].again, last ? 0 : 1);
        assert_int_equal(c.link[i].forward, last ? 1 : 2);
        assert_int_equal(c.link[i].vjp, 1);
    }
    assert_int_equal(c.tail.forward, 2);
    assert_int_equal(c.tail.again, 0);
    assert_int_equal(c.dead_end.forward, LINKS);
    assert_int_equal(c.dead_end.again, 0);
    assert_int_equal(c.dead_end.vjp, 0);
    stage_close(&a);
}

/* A clock that ticks each time it is looked at; a quarter of each tick is waiting. An operation begins
 * and ends with a look. */
static double clock_now, clock_waited;
static double tick(void)
{
    clock_waited += 0.25;
    return clock_now += 1.0;
}

static const lh_profile_item *profile_find(const lh_profile *p, const char *name, lh_direction d)
{
    for (int i = 0; i < p->count; i++)
        if (strcmp(p->item[i].name, name) == 0 && p->item[i].direction == d) return &p->item[i];
    fail_msg("no item %s, %s", name, lh_direction_name(d));
    return NULL;
}

/* A profile knows every operation in every direction; without one nobody looks at the clock. */
static void profiles(void **state)
{
    (void)state;
    chain c = {.segments = 2};
    stage a;
    lh_profile p = {.clock = tick, .waited = &clock_waited};
    static const int squares[] = {LINKS, LINKS - 2, LINKS}; /* the last of a segment is not rerun */
    stage_devices(&a);
    stage_open(&a, chain_record, &c);
    lh_tape_profile(a.run.tape, &p);
    clock_now = clock_waited = 0.0;
    lh_assert_ok(lh_gradcheck_step(&a.run));
    for (int d = LH_DIRECTION_FORWARD; d <= LH_DIRECTION_BACKWARD; d++) {
        const lh_profile_item *item = profile_find(&p, square_op.name, (lh_direction)d);
        assert_int_equal(item->calls, squares[d]);
        assert_true(item->seconds == (double)squares[d]);
        assert_true(item->waited == 0.5 * squares[d]);
    }
    assert_int_equal(profile_find(&p, forward_only_op.name, LH_DIRECTION_FORWARD)->calls, LINKS);
    assert_int_equal(p.count,
                     6); /* squares in three directions, scales in two, one without gradient */
    lh_profile_clear(&p);
    lh_tape_profile(a.run.tape, NULL);
    double then = clock_now;
    lh_assert_ok(lh_gradcheck_step(&a.run));
    assert_true(p.count == 0 && clock_now == then);
    stage_close(&a);
}

/* What a gradient reads was made by operations whose own gradients read nothing: they run again
 * too. */
static lh_status indirect_record(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    chain *c = user;
    lh_var x = in[0];
    *n_out = 1;
    LH_TRY(lh_tape_segment_begin(t));
    for (int i = 0; i < LINKS; i++) LH_TRY(unary(t, &scale_op, 0.5, &c->link[i], x, &x));
    LH_TRY(square(t, x, out));
    LH_TRY(lh_tape_segment_end(t));
done:
    return st;
}

static void segments_rerun_what_leads_there(void **state)
{
    (void)state;
    chain c = {0};
    stage a;
    stage_devices(&a);
    stage_open(&a, indirect_record, &c);
    for (int i = 0; i < LINKS; i++) assert_int_equal(c.link[i].again, 1);
    for (int i = 0; i < N; i++)
        assert_true(a.run.grad[0][i] == 2 * a.x[i] * a.seed[i] / (1 << (2 * LINKS)));
    stage_close(&a);
}

static int64_t live_bytes(int segments, graph record)
{
    chain c = {.segments = segments};
    stage a;
    stage_devices(&a);
    stage_open(&a, record, &c);
    int64_t live = lh_memory_live(a.run.memory);
    stage_close(&a);
    return live;
}

static void segments_save_memory(void **state)
{
    (void)state;
    /* every value is one line of 64 bytes: without segments all squares' inputs live to the end */
    int64_t plain = live_bytes(2, plain_record);
    assert_true(plain >= LINKS * 64);
    assert_true(live_bytes(2, chain_record) < plain);
    assert_true(live_bytes(4, chain_record) < plain);
}

/* A value of a segment that is read outside it, through another shape too, and an empty segment. */
static lh_status crossing(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    bool segments = *(bool *)user;
    lh_var y;
    lh_var flat;
    lh_var z;
    *n_out = 2;
    if (segments) LH_TRY(lh_tape_segment_begin(t));
    LH_TRY(square(t, in[0], &y));
    LH_TRY(lh_reshape(t, y, lh_shape_1(LH_REAL, N), &flat));
    LH_TRY(square(t, flat, &z));
    if (segments) LH_TRY(lh_tape_segment_end(t));
    if (segments) LH_TRY(lh_tape_segment_begin(t));
    if (segments) LH_TRY(lh_tape_segment_end(t));
    if (segments) LH_TRY(lh_tape_segment_begin(t));
    LH_TRY(square(t, y, &out[0])); /* y again, in another segment */
    LH_TRY(square(t, z, &out[1]));
    LH_TRY(square(t, out[1], &out[1]));
    if (segments) LH_TRY(lh_tape_segment_end(t));
    LH_TRY(square(t, out[0], &out[0])); /* and its square outside of all */
done:
    return st;
}

static void segments_that_share_values(void **state)
{
    (void)state;
    bool without = false;
    bool with = true;
    stage a;
    stage b;
    stage_devices(&a);
    stage_devices(&b);
    stage_open(&a, crossing, &with);
    stage_open(&b, crossing, &without);
    assert_memory_equal(a.run.grad[0], b.run.grad[0], N * sizeof(lh_real));
    stage_close(&a);
    stage_close(&b);
}

static void segments_are_paired(void **state)
{
    (void)state;
    counted k;
    counted_open(&k, 1, true);
    lh_assert_code(lh_tape_segment_end(k.t), LH_ERR_BUG);
    lh_assert_ok(lh_tape_segment_begin(k.t));
    lh_assert_code(lh_tape_segment_begin(k.t), LH_ERR_BUG);
    lh_assert_ok(lh_tape_segment_end(k.t));
    lh_assert_code(lh_tape_segment_end(k.t), LH_ERR_BUG);
    counted_close(&k);
}

/* --- what is dropped everywhere, and what light segments keep --- */

typedef struct dropper {
    bool drops;
    int links;   /* of before_record, besides one */
    int segment; /* 0: none, 1: that drops all, 2: light */
    tally first, second, costly;
} dropper;

/* A dropped value of a dropped value, read by two; one of them is costly, and its output is read. */
static lh_status dropper_record(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    dropper *d = user;
    const lh_op *op = d->drops ? &dropped_op : &square_op;
    lh_var x;
    lh_var y;
    *n_out = 1;
    if (d->segment == 1) LH_TRY(lh_tape_segment_begin(t));
    if (d->segment == 2) LH_TRY(lh_tape_segment_begin_light(t));
    LH_TRY(scale(t, 0.7, in[0], &x));
    LH_TRY(unary(t, op, 0.0, &d->first, x, &x));
    LH_TRY(unary(t, op, 0.0, &d->second, x, &x));
    LH_TRY(unary(t, &costly_op, 0.0, &d->costly, x, &y));
    LH_TRY(square(t, y, &y));
    LH_TRY(square(t, x, &x));
    if (d->segment > 0) LH_TRY(lh_tape_segment_end(t));
    LH_TRY(lh_add(t, x, y, &out[0]));
done:
    return st;
}

static void drops_are_made_again_once(void **state)
{
    (void)state;
    dropper plain = {0};
    stage a;
    stage_devices(&a);
    for (int i = 0; i < N; i++) a.x[i] = (lh_real)(0.9 + 0.03 * i);
    stage_open(&a, dropper_record, &plain);
    for (int segment = 0; segment <= 2; segment++) {
        dropper d = {.drops = true, .segment = segment};
        stage b;
        stage_devices(&b);
        memcpy(b.x, a.x, sizeof b.x);
        stage_open(&b, dropper_record, &d);
        assert_memory_equal(a.run.grad[0], b.run.grad[0], N * sizeof(lh_real));
        assert_int_equal(d.first.remade, 1);
        assert_int_equal(d.second.remade, 1);
        assert_int_equal(d.costly.again, segment == 1 ? 1 : 0);
        /* the costly one alone needs it in the forward direction */
        assert_int_equal(d.second.again, segment == 1 ? 1 : 0);
        lh_assert_ok(lh_gradcheck_step(&b.run));
        assert_int_equal(b.run.allocations, 0);
        assert_memory_equal(a.run.grad[0], b.run.grad[0], N * sizeof(lh_real));
        stage_close(&b);
    }
    stage_close(&a);
}

/* Light segments begin behind a dropped value: it is made again for the recomputation, and not once
 * more for the gradients. */
static lh_status before_record(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    dropper *d = user;
    lh_var x = in[0];
    *n_out = 1;
    for (int i = 0; i <= d->links; i++) {
        LH_TRY(unary(t, d->drops ? &dropped_op : &square_op, 0.0, &d->first, x, &x));
        if (d->segment > 0) LH_TRY(lh_tape_segment_begin_light(t));
        LH_TRY(unary(t, &square_op, 0.0, &d->second, x, &x));
        LH_TRY(unary(t, &costly_op, 0.0, &d->costly, x, &x));
        if (d->segment > 0) LH_TRY(lh_tape_segment_end(t));
    }
    LH_TRY(square(t, x, &out[0]));
done:
    return st;
}

static void drops_before_a_segment(void **state)
{
    (void)state;
    int64_t live[2] = {0};
    for (int links = 0; links <= LINKS; links += LINKS) {
        dropper way[2] = {{.links = links}, {.drops = true, .segment = 2, .links = links}};
        stage a[2];
        for (int k = 0; k < 2; k++) {
            stage_devices(&a[k]);
            stage_open(&a[k], before_record, &way[k]);
            live[k] = lh_memory_live(a[k].run.memory);
        }
        if (links == 0) /* further on, squares of squares are no numbers any more */
            assert_memory_equal(a[0].run.grad[0], a[1].run.grad[0], N * sizeof(lh_real));
        assert_int_equal(way[1].first.remade, 1 + links);
        assert_int_equal(way[1].second.again, 1 + links);
        assert_int_equal(way[1].costly.again, 0);
        for (int k = 0; k < 2; k++) stage_close(&a[k]);
    }
    /* of three values that plain squares keep for each link, one is left */
    assert_true(live[1] <= live[0] - (2 * LINKS - 3) * (int64_t)64);
}

static lh_status alternating_record(void *user, lh_tape *t, const lh_var *in, lh_var *out,
                                    int *n_out)
{
    lh_status st = LH_OK;
    chain *c = user;
    lh_var x = in[0];
    *n_out = 1;
    for (int i = 0; i < LINKS; i++)
        LH_TRY(
            unary(t, i % 2 == 1 && c->segments > 0 ? &dropped_op : &square_op, 0.0, NULL, x, &x));
    LH_TRY(square(t, x, out));
done:
    return st;
}

static void drops_save_memory(void **state)
{
    (void)state;
    int64_t kept = live_bytes(0, alternating_record);
    assert_true(live_bytes(1, alternating_record) <= kept - (LINKS / 2 - 2) * 64);
}

/* --- gradients that are the same --- */

/* y = a + b, whose vjp makes two gradients where lh_add says that they are one. */
static lh_status sum_forward(lh_call *c)
{
    lh_status st = LH_OK;
    const void *x[2] = {NULL};
    void *y = NULL;
    for (int i = 0; i < 2; i++) LH_TRY(lh_in(c, i, &x[i]));
    LH_TRY(lh_out(c, 0, &y));
    lh_run_add(lh_call_device(c), &(lh_add_args){N, x[0], x[1], y});
done:
    return st;
}

static lh_status sum_vjp(lh_call *c)
{
    lh_status st = LH_OK;
    const void *dy = NULL;
    LH_TRY(lh_out_grad(c, 0, &dy));
    for (int i = 0; i < 2; i++) {
        void *dx = NULL;
        bool accumulate = false;
        LH_TRY(lh_in_grad(c, i, &dx, &accumulate));
        lh_run_axpy(lh_call_device(c), &(lh_axpy_args){N, 1.0, dy, dx, accumulate});
    }
done:
    return st;
}

static const lh_op sum_op = {
    .name = "sum", .place = any_place, .forward = sum_forward, .vjp = sum_vjp};

static lh_status sum(lh_tape *t, bool shares, lh_var a, lh_var b, lh_var *y)
{
    const lh_shape shape = *lh_var_shape(t, a);
    if (shares) return lh_add(t, a, b, y);
    return lh_record(t, &sum_op, NULL, 0, 2, (lh_var[]){a, b}, 1, &shape, y);
}

/* Residual sums as models have them. In some the branch's first operation is its last, so that it adds
 * to a gradient that it still reads; in some both inputs are one value; in some x is used once more,
 * so that its gradient is added to before the branch has read what was the same. */
static lh_status residual_record(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    bool shares = ((const chain *)user)->segments > 0;
    lh_var x;
    lh_var aside;
    *n_out = 1;
    LH_TRY(square(t, in[0], &x));
    for (int i = 0; i < LINKS; i++) {
        lh_var branch = x;
        for (int k = 0; k < i % 3; k++) LH_TRY(scale(t, 0.9, branch, &branch));
        LH_TRY(square(t, branch, &branch));
        LH_TRY(scale(t, 0.3, x, &aside));
        LH_TRY(sum(t, shares, i % 4 == 1 ? branch : x, branch, &x));
        if (i % 2 == 0) LH_TRY(sum(t, shares, x, aside, &x));
    }
    *out = x;
done:
    return st;
}

static void shared_gradients(void **state)
{
    (void)state;
    chain copies = {.segments = 0};
    chain shares = {.segments = 1};
    stage a;
    stage b;
    stage_devices(&a);
    stage_devices(&b);
    for (int i = 0; i < N; i++) a.x[i] = b.x[i] = (lh_real)(0.3 + 0.03 * i);
    stage_open(&a, residual_record, &copies);
    stage_open(&b, residual_record, &shares);
    assert_memory_equal(a.run.grad[0], b.run.grad[0], N * sizeof(lh_real));
    for (int i = 0; i < N; i++) assert_true(isfinite(a.run.grad[0][i]) && a.run.grad[0][i] > 0);
    lh_assert_ok(lh_gradcheck_step(&b.run));
    assert_int_equal(b.run.allocations, 0);
    assert_memory_equal(a.run.grad[0], b.run.grad[0], N * sizeof(lh_real));
    stage_close(&a);
    stage_close(&b);
}

/* x and its branch: of lh_add one buffer is the gradient of both, and after the branch has read it,
 * what comes through the branch is added in place. Not so in the caller's seed. */
static lh_status branch_record(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    chain *c = user;
    lh_var x;
    lh_var y;
    *n_out = 1;
    LH_TRY(unary(t, &square_op, 0.0, &c->link[0], in[0], &x));
    LH_TRY(square(t, x, &y));
    LH_TRY(unary(t, &scale_op, 0.5, &c->link[1], y, &y));
    LH_TRY(sum(t, c->segments > 0, x, y, out));
    if (!c->seeded) LH_TRY(scale(t, 0.5, *out, out));
done:
    return st;
}

static void one_buffer_for_both(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        chain c = {.segments = i & 1, .seeded = i >= 2};
        stage a;
        lh_real seed[N];
        stage_devices(&a);
        memcpy(seed, a.seed, sizeof seed);
        stage_open(&a, branch_record, &c);
        assert_true((c.link[0].dy == c.link[1].dy) == (i == 1));
        assert_true((c.link[1].dy == a.run.seed_device[0]) == (i == 3)); /* read where it is */
        assert_memory_equal(a.run.seed_device[0], seed, sizeof seed);
        stage_close(&a);
    }
}

/* --- failures of allocation --- */

/* Counting pass and backward from nothing; every allocation of the tape and the memory is in it. */
static lh_status count_chain(lh_device *count, chain *c)
{
    lh_status st = LH_OK;
    lh_tape *t = NULL;
    lh_memory *m = NULL;
    const int size[LH_AXES] = {1, 1};
    const int coord[LH_AXES] = {0, 0};
    const void *seed = nowhere;
    lh_var x;
    lh_var y;
    int n = 0;
    LH_TRY(lh_tape_create(size, coord, &t));
    LH_TRY(lh_memory_create(&m));
    LH_TRY(lh_memory_count_begin(m));
    lh_tape_reset(t, count, m, true);
    LH_TRY(lh_tape_leaf(t, nowhere, nowhere, lh_shape_1(LH_REAL, N), lh_place_replicated(), &x));
    for (int i = 0; i < 5; i++) {
        LH_TRY(chain_record(c, t, &x, &y, &n));
        LH_TRY(lh_add(t, x, y, &x));
    }
    y = x;
    LH_TRY(lh_tape_backward_from(t, 1, &y, &seed));
    LH_TRY(lh_memory_count_end(m));
done:
    lh_memory_destroy(&m);
    lh_tape_destroy(&t);
    return st;
}

static void memory_runs_out(void **state)
{
    (void)state;
    lh_device *count = NULL;
    chain c = {.segments = 2};
    int64_t n = 1;
    lh_assert_ok(lh_device_create_count("portable", 1, &count));
    for (;; n++) {
        lh_new_fail_at(n);
        lh_status st = count_chain(count, &c);
        lh_new_fail_at(0);
        if (st == LH_OK) break;
        lh_assert_code(st, LH_ERR_MEMORY);
    }
    assert_true(n > 10);
    lh_device_destroy(&count);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values),
        cmocka_unit_test(order_of_gradients),
        cmocka_unit_test(parameters),
        cmocka_unit_test(finals_in_order),
        cmocka_unit_test(no_vjp_fails_at_once),
        cmocka_unit_test(undeclared_reads),
        cmocka_unit_test(variables_that_do_not_exist),
        cmocka_unit_test(reshapes),
        cmocka_unit_test(placements),
        cmocka_unit_test(losses),
        cmocka_unit_test(segments_give_the_same_bits),
        cmocka_unit_test(segments_rerun_what_is_needed),
        cmocka_unit_test(segments_rerun_what_leads_there),
        cmocka_unit_test(profiles),
        cmocka_unit_test(segments_save_memory),
        cmocka_unit_test(segments_that_share_values),
        cmocka_unit_test(segments_are_paired),
        cmocka_unit_test(drops_are_made_again_once),
        cmocka_unit_test(drops_before_a_segment),
        cmocka_unit_test(drops_save_memory),
        cmocka_unit_test(one_buffer_for_both),
        cmocka_unit_test(shared_gradients),
        cmocka_unit_test(memory_runs_out),
    };
    return cmocka_run_group_tests_name("tape", tests, NULL, NULL);
}
