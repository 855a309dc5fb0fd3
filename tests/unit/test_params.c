/* Parameters, their initial values and the optimiser, on the devices cpu, poison and count. */
#include "tests/lh_test.h"

#include "core/optimizer.h"
#include "core/random.h"
#include "tests/tol.h"

#include <math.h>
#include <string.h>

enum { POSITIONS = 37, WIDTH = 6 };

static const int origin[LH_AXES] = {0, 0};

static void make_device(const char *kind, lh_device **d)
{
    if (strcmp(kind, "count") == 0)
        lh_assert_ok(lh_device_create_count("portable", 1, d));
    else if (strcmp(kind, "poison") == 0)
        lh_assert_ok(lh_device_create_poison("portable", 1, d));
    else
        lh_assert_ok(lh_device_create_cpu("portable", 1, d));
}

/* A matrix, a vector of ones, a vector of zeros of odd length, a table with one row per position. */
static void declare(lh_params *p, lh_place rows)
{
    lh_place all = lh_place_replicated();
    lh_shape table = lh_shape_2(LH_REAL, POSITIONS, WIDTH);
    lh_assert_ok(
        lh_params_add(p, "a.weight", lh_shape_2(LH_REAL, 5, 7), all, LH_INIT_NORMAL, 0.5, NULL));
    lh_assert_ok(lh_params_add(p, "a.scale", lh_shape_1(LH_REAL, 7), all, LH_INIT_ONE, 0.0, NULL));
    lh_assert_ok(lh_params_add(p, "a.bias", lh_shape_1(LH_REAL, 3), all, LH_INIT_ZERO, 0.0, NULL));
    lh_assert_ok(lh_params_add(p, "table", table, rows, LH_INIT_NORMAL, 2.0, NULL));
}

static void make_params(lh_device *d, lh_place rows, int rank, bool trainable, lh_params **out)
{
    const int coord[LH_AXES] = {0, rank};
    lh_assert_ok(lh_params_create(d, coord, out));
    declare(*out, rows);
    lh_assert_ok(lh_params_allocate(*out, trainable));
    lh_assert_ok(lh_params_initialise(*out, 11));
}

/* The whole block is read, so the gaps are checked too. */
static void read_block(const lh_params *p, int kind, lh_real *host)
{
    assert_true(p->block_elements <= 4096);
    lh_copy_out(p->device, host, p->block[kind], (size_t)p->block_elements * sizeof *host);
}

static int64_t offset_of(const lh_params *p, const lh_param *q)
{
    return ((const char *)q->value - (const char *)p->block[0]) / (int64_t)sizeof(lh_real);
}

static void test_declare(void **state)
{
    (void)state;
    lh_device *d = NULL;
    lh_params *p = NULL;
    lh_param *q = NULL;
    char name[97];
    lh_layout *l = NULL;
    lh_place all = lh_place_replicated();
    lh_shape s = lh_shape_1(LH_REAL, 4);
    make_device("cpu", &d);
    lh_assert_ok(lh_layout_contiguous(POSITIONS, 3, 4, true, &l));
    lh_assert_ok(lh_params_create(d, origin, &p));
    lh_assert_ok(lh_params_add(p, "x", s, all, LH_INIT_ZERO, 0.0, &q));
    assert_ptr_equal(lh_params_find(p, "x"), q);
    assert_false(q->decay);
    assert_null(lh_params_find(p, "y"));
    lh_assert_error(lh_params_add(p, "x", s, all, LH_INIT_ZERO, 0.0, &q), LH_ERR_BUG, "twice");
    assert_null(q);
    memset(name, 'n', sizeof name - 1);
    name[96] = '\0';
    lh_assert_error(lh_params_add(p, name, s, all, LH_INIT_ZERO, 0.0, NULL), LH_ERR_BUG,
                    "96 characters");
    name[95] = '\0';
    lh_assert_ok(lh_params_add(p, name, s, all, LH_INIT_ZERO, 0.0, NULL));
    lh_assert_code(lh_params_add(p, "", s, all, LH_INIT_ZERO, 0.0, NULL), LH_ERR_BUG);
    s.dtype = LH_INT32;
    lh_assert_error(lh_params_add(p, "y", s, all, LH_INIT_ZERO, 0.0, NULL), LH_ERR_BUG, "int32");
    s.dtype = LH_REAL;
    lh_assert_error(lh_params_add(p, "y", s, lh_place_rows(l), LH_INIT_ZERO, 0.0, NULL), LH_ERR_BUG,
                    "37 positions");
    lh_assert_error(lh_params_add(p, "y", s, lh_place_partial(), LH_INIT_ZERO, 0.0, NULL),
                    LH_ERR_BUG, "partial");
    lh_assert_error(lh_params_add(p, "y", s, lh_place_rows(NULL), LH_INIT_ZERO, 0.0, NULL),
                    LH_ERR_BUG, "layout");
    assert_int_equal(p->count, 2);
    assert_int_equal(lh_params_bytes(p), 0);
    lh_assert_code(lh_params_initialise(p, 1), LH_ERR_BUG);
    lh_assert_ok(lh_params_allocate(p, false));
    lh_assert_error(lh_params_allocate(p, false), LH_ERR_BUG, "twice");
    assert_non_null(p->block[0]);
    lh_assert_error(lh_params_add(p, "y", s, all, LH_INIT_ZERO, 0.0, NULL), LH_ERR_BUG, "after");
    lh_params_destroy(&p);
    assert_null(p);
    lh_layout_destroy(&l);
    lh_device_destroy(&d);
    lh_error_clear();
}

static void check_block(const char *kind)
{
    lh_device *d = NULL;
    lh_params *p = NULL;
    lh_real host[4096];
    int64_t end = 0;
    make_device(kind, &d);
    make_params(d, lh_place_replicated(), 0, true, &p);
    assert_int_equal(lh_params_total(p), 35 + 7 + 3 + POSITIONS * WIDTH);
    assert_int_equal(lh_params_bytes(p), 4 * (size_t)p->block_elements * sizeof(lh_real));
    for (int k = 1; k < 4; k++) { /* gradients and moments start at 0 */
        read_block(p, k, host);
        for (int64_t i = 0; i < p->block_elements; i++) assert_true(host[i] == 0);
    }
    read_block(p, 0, host);
    for (int64_t i = 0; i < p->count; i++) {
        const lh_param *q = p->item[i];
        int64_t at = offset_of(p, q);
        assert_true(at >= end && at * (int64_t)sizeof(lh_real) % 64 == 0 &&
                    (uintptr_t)q->value % 64 == 0);
        for (; end < at; end++) assert_true(host[end] == 0);
        end = at + lh_shape_count(&q->shape);
        assert_int_equal((const char *)q->grad - (const char *)p->block[1],
                         at * (int64_t)sizeof(lh_real));
        for (int64_t k = 0; k < lh_shape_count(&q->shape); k++) {
            double normal = lh_random_normal(
                11, lh_stream_id(LH_STREAM_PARAMETER, lh_name_number(q->name)), (uint64_t)k);
            double want = q->init == LH_INIT_ONE    ? 1.0
                          : q->init == LH_INIT_ZERO ? 0.0
                                                    : q->std * normal;
            assert_true(host[at + k] == (lh_real)want);
        }
    }
    for (; end < p->block_elements; end++) assert_true(host[end] == 0);
    lh_params_destroy(&p);
    lh_device_destroy(&d);
}

static void test_blocks(void **state)
{
    (void)state;
    check_block("cpu");
    check_block("poison");
}

/* The rows of a shard are those of the whole table, and other parameters do not notice. */
static void check_shards(lh_layout *l)
{
    lh_device *d = NULL;
    lh_params *whole = NULL;
    lh_real all[4096];
    lh_real mine[4096];
    int64_t rows = 0;
    make_device("cpu", &d);
    make_params(d, lh_place_replicated(), 0, false, &whole);
    read_block(whole, 0, all);
    const lh_real *table = all + offset_of(whole, whole->item[3]);
    for (int r = 0; r < l->ranks; r++) {
        lh_params *p = NULL;
        make_params(d, lh_place_rows(l), r, false, &p);
        const lh_param *q = lh_params_find(p, "table");
        assert_true(q->shape.dim[0] == l->rows[r] && q->shape.dim[1] == WIDTH &&
                    q->whole.dim[0] == POSITIONS);
        assert_int_equal(lh_params_total(p), lh_params_total(whole));
        read_block(p, 0, mine);
        assert_memory_equal(mine, all, (size_t)offset_of(p, q) * sizeof(lh_real));
        for (int64_t i = 0; i < l->rows[r]; i++)
            for (int64_t k = 0; k < WIDTH; k++)
                assert_true(mine[offset_of(p, q) + i * WIDTH + k] ==
                            table[lh_layout_position(l, r, i) * WIDTH + k]);
        rows += l->rows[r];
        lh_params_destroy(&p);
    }
    assert_int_equal(rows, POSITIONS);
    lh_params_destroy(&whole);
    lh_device_destroy(&d);
    lh_layout_destroy(&l);
}

static void test_shards_hold_their_rows(void **state)
{
    (void)state;
    lh_layout *l = NULL;
    for (int ranks = 1; ranks <= 5; ranks++) {
        lh_assert_ok(lh_layout_contiguous(POSITIONS, ranks, 4, true, &l));
        check_shards(l);
    }
    lh_assert_ok(lh_layout_contiguous(POSITIONS, 4, 512, true, &l)); /* three empty shards */
    check_shards(l);
    const int64_t first[] = {0, 2, 3};
    const lh_run run[] = {{0, 10, 1}, {30, 7, 1}, {10, 20, 1}};
    lh_assert_ok(lh_layout_from_runs(POSITIONS, 2, 4, first, run, &l));
    check_shards(l);
}

/* A shard of the second dimension (Linformer's projections lie so). */
static void test_shard_of_the_second_dimension(void **state)
{
    (void)state;
    enum { LONG = 50000, TALL = 3 }; /* more than one piece of the initialisation */
    lh_device *d = NULL;
    lh_layout *l = NULL;
    make_device("cpu", &d);
    lh_assert_ok(lh_layout_contiguous(LONG, 2, 512, true, &l));
    for (int r = 0; r < 2; r++) {
        lh_params *p = NULL;
        lh_param *q = NULL;
        lh_real *host = NULL;
        lh_place place = lh_place_replicated();
        place.axis[LH_AXIS_SEQ] = (lh_place_word){LH_SHARD, 1, l};
        lh_assert_ok(lh_params_create(d, (const int[]){0, r}, &p));
        lh_assert_ok(
            lh_params_add(p, "e", lh_shape_2(LH_REAL, TALL, LONG), place, LH_INIT_NORMAL, 1.0, &q));
        lh_assert_ok(lh_params_allocate(p, false));
        lh_assert_ok(lh_params_initialise(p, 4));
        lh_assert_ok(lh_new(lh_shape_bytes(&q->shape), &host));
        lh_copy_out(d, host, q->value, lh_shape_bytes(&q->shape));
        for (int64_t i = 0; i < TALL * l->rows[r]; i += 97) {
            int64_t index = i / l->rows[r] * LONG + lh_layout_position(l, r, i % l->rows[r]);
            double want = lh_random_normal(
                4, lh_stream_id(LH_STREAM_PARAMETER, lh_name_number("e")), (uint64_t)index);
            assert_true(host[i] == (lh_real)want);
        }
        lh_free(&host);
        lh_params_destroy(&p);
    }
    lh_layout_destroy(&l);
    lh_device_destroy(&d);
}

static void test_zero_grad_places_the_dual(void **state)
{
    (void)state;
    lh_device *d = NULL;
    lh_params *p = NULL;
    lh_layout *l = NULL;
    lh_real host[4096];
    make_device("cpu", &d);
    lh_assert_ok(lh_layout_contiguous(POSITIONS, 1, 4, true, &l));
    make_params(d, lh_place_rows(l), 0, true, &p);
    for (int64_t i = 0; i < p->count; i++) p->item[i]->grad_place = p->item[i]->place;
    lh_run_fill(d, &(lh_fill_args){.n = p->block_elements, .value = 3.0, .x = p->block[1]});
    lh_params_zero_grad(p);
    read_block(p, 1, host);
    for (int64_t i = 0; i < p->block_elements; i++) assert_true(host[i] == 0);
    for (int64_t i = 0; i < p->count; i++) {
        lh_place dual = lh_place_dual(&p->item[i]->place);
        assert_true(lh_place_equal(&p->item[i]->grad_place, &dual));
    }
    lh_params_destroy(&p);
    lh_layout_destroy(&l);
    lh_device_destroy(&d);
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    lh_device *d = NULL;
    int failed = 0;
    make_device("cpu", &d);
    for (int n = 1; n <= 20; n++) {
        lh_params *p = NULL;
        lh_shape s = lh_shape_1(LH_REAL, 9);
        lh_new_fail_at(n);
        lh_status st = lh_params_create(d, origin, &p);
        if (st == LH_OK)
            st = lh_params_add(p, "x", s, lh_place_replicated(), LH_INIT_NORMAL, 1.0, NULL);
        if (st == LH_OK)
            st = lh_params_add(p, "y", s, lh_place_replicated(), LH_INIT_ONE, 0.0, NULL);
        if (st == LH_OK) st = lh_params_allocate(p, true);
        if (st == LH_OK) st = lh_params_initialise(p, 1);
        lh_new_fail_at(0);
        assert_true(st == LH_OK || st == LH_ERR_MEMORY);
        failed += st != LH_OK;
        lh_params_destroy(&p);
    }
    assert_int_equal(failed, 9);
    lh_device_destroy(&d);
    lh_error_clear();
}

static void test_counting(void **state)
{
    (void)state;
    lh_device *d = NULL;
    lh_params *p = NULL;
    make_device("count", &d);
    make_params(d, lh_place_replicated(), 0, true, &p);
    assert_true(lh_params_bytes(p) > 0);
    lh_params_zero_grad(p);
    lh_params_destroy(&p);
    lh_device_destroy(&d);
}

/* --- the optimiser --- */

static const lh_optimizer settings = {
    .lr = 0.01, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1.0};

static double grad_at(int step, int64_t i)
{
    return sin(0.3 * (double)i + step) * (i % 3 == 0 ? 2.0 : 0.1);
}

static void set_grad(lh_params *p, int step)
{
    lh_real host[4096] = {0};
    lh_params_zero_grad(p);
    for (int64_t i = 0; i < p->count; i++) {
        lh_param *q = p->item[i];
        int64_t n = lh_shape_count(&q->shape);
        for (int64_t k = 0; k < n; k++) host[k] = (lh_real)grad_at(step, k + 100 * i);
        lh_copy_in(p->device, q->grad, host, (size_t)n * sizeof *host);
        q->grad_place = q->place;
    }
}

/* The published update in double, element by element. */
static void reference_step(const lh_params *p, int step, double scale, double *x, double *m,
                           double *v)
{
    const lh_optimizer *o = &settings;
    for (int64_t i = 0; i < p->count; i++) {
        const lh_param *q = p->item[i];
        double decay = q->whole.ndim >= 2 ? o->weight_decay : 0.0;
        for (int64_t k = 0; k < lh_shape_count(&q->shape); k++) {
            int64_t at = offset_of(p, q) + k;
            double g = (double)(lh_real)grad_at(step, k + 100 * i) * scale;
            m[at] = o->beta1 * m[at] + (1 - o->beta1) * g;
            v[at] = o->beta2 * v[at] + (1 - o->beta2) * g * g;
            double c1 = 1 - pow(o->beta1, step);
            double c2 = 1 - pow(o->beta2, step);
            x[at] =
                x[at] * (1 - o->lr * decay) - o->lr * (m[at] / c1) / (sqrt(v[at] / c2) + o->eps);
        }
    }
}

static void test_adamw(void **state)
{
    (void)state;
    lh_device *d = NULL;
    lh_params *p = NULL;
    lh_real host[4096];
    double x[4096] = {0};
    double m[4096] = {0};
    double v[4096] = {0};
    make_device("cpu", &d);
    make_params(d, lh_place_replicated(), 0, true, &p);
    read_block(p, 0, host);
    for (int64_t i = 0; i < p->block_elements; i++) x[i] = (double)host[i];
    for (int step = 1; step <= 5; step++) {
        double scale = lh_optimizer_grad_scale(&settings, step == 3 ? 4.0 : 0.5);
        set_grad(p, step);
        lh_assert_ok(lh_optimizer_step(&settings, p, step, scale));
        reference_step(p, step, step == 3 ? 0.25 : 1.0, x, m, v);
    }
    read_block(p, 0, host); /* the gaps stay 0 */
    for (int64_t i = 0; i < p->block_elements; i++)
        lh_assert_close((double)host[i], x[i], 1e3 * LH_TOL_EPS, 10 * LH_TOL_EPS);
    read_block(p, 2, host);
    for (int64_t i = 0; i < p->block_elements; i++)
        lh_assert_close((double)host[i], m[i], 1e3 * LH_TOL_EPS, 10 * LH_TOL_EPS);
    lh_params_destroy(&p);
    lh_device_destroy(&d);
}

/* Multiples of the number, so that a test sees which draw it was. */
static lh_status draw_multiples(const void *user, uint64_t seed, uint64_t number, double *work,
                                double *value)
{
    (void)work;
    for (int i = 0; i < *(const int *)user; i++) value[i] = (double)(seed + number) + i;
    return LH_OK;
}

/* A frozen parameter holds what was drawn, takes no part in sums, norms and updates, and can be
 * drawn again. */
static void test_frozen(void **state)
{
    (void)state;
    const int count = 6;
    lh_device *d = NULL;
    lh_params *p = NULL;
    lh_param *q = NULL;
    lh_real host[6];
    make_device("poison", &d);
    lh_assert_ok(lh_params_create(d, origin, &p));
    declare(p, lh_place_replicated());
    int64_t learned = lh_params_total(p);
    lh_assert_ok(lh_params_add_drawn(p, "projection", lh_shape_2(LH_REAL, 2, 3), draw_multiples,
                                     &count, sizeof count, &q));
    lh_assert_ok(lh_params_allocate(p, true));
    lh_assert_ok(lh_params_initialise(p, 11));
    assert_int_equal(lh_params_total(p), learned);
    assert_int_equal(lh_params_held(p), learned + count);
    lh_copy_out(d, host, q->value, sizeof host);
    for (int i = 0; i < count; i++)
        assert_true(host[i] == (lh_real)(11.0 + lh_name_number("projection") + i));
    lh_assert_ok(lh_params_draw(p, q, 7, 35));
    lh_params_zero_grad(p);
    for (int64_t i = 0; i < p->count; i++) p->item[i]->grad_place = p->item[i]->place;
    lh_run_fill(d, &(lh_fill_args){.n = count, .value = 3.0, .x = q->grad});
    lh_assert_ok(
        lh_optimizer_step(&(lh_optimizer){.lr = 1.0, .eps = 1e-8, .weight_decay = 0.5}, p, 1, 1.0));
    lh_copy_out(d, host, q->value, sizeof host);
    for (int i = 0; i < count; i++) assert_true(host[i] == (lh_real)(42 + i));
    lh_assert_error(lh_params_draw(p, lh_params_find(p, "a.weight"), 7, 35), LH_ERR_BUG, "learned");
    lh_params_destroy(&p);
    lh_device_destroy(&d);
}

static void test_adamw_refuses(void **state)
{
    (void)state;
    lh_device *d = NULL;
    lh_params *p = NULL;
    lh_real before[4096];
    lh_real after[4096];
    make_device("cpu", &d);
    make_params(d, lh_place_replicated(), 0, true, &p);
    set_grad(p, 1);
    p->item[2]->grad_place = lh_place_dual(&p->item[2]->place);
    read_block(p, 0, before);
    lh_assert_error(lh_optimizer_step(&settings, p, 1, 1.0), LH_ERR_BUG, "a.bias");
    read_block(p, 0, after);
    assert_memory_equal(before, after, (size_t)p->block_elements * sizeof *after);
    p->item[2]->grad_place = p->item[2]->place;
    lh_assert_code(lh_optimizer_step(&settings, p, 0, 1.0), LH_ERR_BUG);
    lh_params_destroy(&p);
    make_params(d, lh_place_replicated(), 0, false, &p);
    lh_assert_code(lh_optimizer_step(&settings, p, 1, 1.0), LH_ERR_BUG);
    lh_params_destroy(&p);
    lh_device_destroy(&d);
    lh_error_clear();
}

static void test_clip(void **state)
{
    (void)state;
    lh_optimizer o = {.clip = 2.0};
    assert_true(lh_optimizer_grad_scale(&o, 2.0) == 1.0);
    assert_true(lh_optimizer_grad_scale(&o, 0.0) == 1.0);
    assert_true(lh_optimizer_grad_scale(&o, 8.0) == 0.25);
    assert_true(lh_optimizer_grad_scale(&o, (double)NAN) == 1.0);
    assert_true(lh_optimizer_grad_scale(&o, (double)INFINITY) == 1.0);
    o.clip = 0.0;
    assert_true(lh_optimizer_grad_scale(&o, 8.0) == 1.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_declare),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_shards_hold_their_rows),
        cmocka_unit_test(test_shard_of_the_second_dimension),
        cmocka_unit_test(test_zero_grad_places_the_dual),
        cmocka_unit_test(test_every_allocation_may_fail),
        cmocka_unit_test(test_counting),
        cmocka_unit_test(test_adamw),
        cmocka_unit_test(test_frozen),
        cmocka_unit_test(test_adamw_refuses),
        cmocka_unit_test(test_clip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
