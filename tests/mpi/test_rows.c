/* Rows at listed positions taken and put back, means of rows, and the plain bias: values and gradients against the
 * definition, position by position, on every layout. Small integers: all sums are exact. */
#include "core/ops.h"
#include "parallel/comm.h"
#include "tests/lh_gradcheck.h"
#include "tests/lh_test_mpi.h"
#include "tests/lh_test_scenes.h"
#include "tests/mpi/rows_spread.h"
#include "tests/tol.h"

enum { BATCH = 2, HEADS = 2, WIDTH = 3, ROW = HEADS * WIDTH, LISTED = 4, CHUNK = 4, SEEDS = 3 };

typedef enum op_kind { TAKE, MEAN, PUT, BIAS_ROW, BIAS_HEAD, BIAS_TABLE } op_kind;

typedef struct stage {
    op_kind kind;
    int copies; /* how often it is recorded on the same inputs: gradients add */
    lh_mesh *mesh;
    lh_device *device, *count;
    lh_layout *layout;
    int rank;
    int64_t rows;
    int64_t counts[BATCH], position[BATCH * LISTED];
    lh_row_list list;
    int64_t valid[BATCH]; /* MEAN: powers of two, so that quotients are exact; or 0 */
    lh_real *x, *seed[SEEDS];
    lh_real extra[BATCH * LISTED * ROW]; /* rows to put, or the bias */
} stage;

static lh_real token(int tensor, int64_t b, int64_t p, int64_t e)
{
    return (lh_real)(1 + (tensor * 5 + b * 31 + p * 7 + e * 3) % 64);
}

/* Sequence 0 lists its ends and the middle, sequence 1 a stretch of neighbours; less where n is
 * small. */
static void list_fill(stage *a, int64_t n)
{
    const int64_t wish[BATCH][LISTED] = {{0, n / 2, n - 1, n}, {1, 2, 3, n - 2}};
    a->list = (lh_row_list){LISTED, a->counts, a->position};
    for (int b = 0; b < BATCH; b++) {
        int64_t last = -1;
        for (int i = 0; i < LISTED; i++) {
            if (wish[b][i] <= last || wish[b][i] >= n) continue;
            last = wish[b][i];
            a->position[b * LISTED + a->counts[b]++] = last;
        }
    }
}

/* Entry of the list that holds the position, -1: none. */
static int64_t entry_of(const stage *a, int64_t b, int64_t p)
{
    for (int64_t i = 0; i < a->counts[b]; i++)
        if (a->position[b * LISTED + i] == p) return i;
    return -1;
}

static int64_t position_of(const stage *a, int64_t row)
{
    return lh_layout_position(a->layout, a->rank, row);
}

static lh_status stage_open(lh_comm *c, op_kind kind, lh_test_layout_kind layout, int64_t n,
                            stage *a)
{
    lh_status st = LH_OK;
    *a = (stage){.kind = kind, .copies = 1, .rank = lh_comm_rank(c)};
    LH_TRY(lh_mesh_create(1, &a->mesh));
    LH_TRY(lh_device_create_poison(lh_test_isa(), 1, &a->device));
    LH_TRY(lh_device_create_count(lh_test_isa(), 1, &a->count));
    LH_TRY(lh_test_layout(layout, n, lh_comm_size(c), CHUNK, &a->layout));
    list_fill(a, n);
    a->valid[0] = n >= 16 ? 16 : n >= 2 ? 2 : n;
    a->valid[1] = n >= 16 ? 4 : 0;
    a->rows = a->layout->rows[a->rank];
    LH_TRY(lh_new((size_t)(BATCH * a->rows * ROW) * sizeof *a->x, &a->x));
    for (int k = 0; k < SEEDS; k++)
        LH_TRY(lh_new((size_t)(BATCH * (a->rows + LISTED) * ROW) * sizeof *a->x, &a->seed[k]));
    for (int64_t i = 0; i < BATCH * a->rows * ROW; i++) {
        int64_t p = position_of(a, i / ROW % a->rows);
        a->x[i] = token(0, i / (a->rows * ROW), p, i % ROW);
        for (int k = 0; k < SEEDS && kind != TAKE; k++)
            a->seed[k][i] = token(2 + k, i / (a->rows * ROW), p, i % ROW);
    }
    for (int64_t i = 0; i < BATCH * LISTED * ROW; i++) {
        a->extra[i] = token(1, i / (LISTED * ROW), i / ROW % LISTED, i % ROW);
        for (int k = 0; k < SEEDS && kind == TAKE; k++)
            a->seed[k][i] = token(2 + k, i / (LISTED * ROW), i / ROW % LISTED, i % ROW);
    }
done:
    return st;
}

static void stage_close(stage *a)
{
    lh_free(&a->x);
    for (int k = 0; k < SEEDS; k++) lh_free(&a->seed[k]);
    lh_layout_destroy(&a->layout);
    lh_device_destroy(&a->count);
    lh_device_destroy(&a->device);
    lh_mesh_destroy(&a->mesh);
}

static lh_status rows_record(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    const stage *a = user;
    lh_row_list list = a->list;
    if (lh_tape_device(t)->counting) list.count = list.position = NULL; /* nobody knows them yet */
    *n_out = a->copies;
    for (int i = 0; i < a->copies; i++) {
        if (a->kind == TAKE)
            LH_TRY(lh_take_rows(t, in[0], &list, &out[i]));
        else if (a->kind == MEAN)
            LH_TRY(lh_mean_rows(t, in[0], a->valid, &out[i]));
        else if (a->kind == PUT)
            LH_TRY(lh_put_rows(t, in[0], in[1], &list, &out[i]));
        else
            LH_TRY(lh_add_bias(t, in[0], in[1], &out[i]));
    }
    /* its gradient reaches the listed rows, too, before those of the puts */
    if (a->kind == PUT) LH_TRY(lh_add(t, in[0], in[0], &out[(*n_out)++]));
done:
    return st;
}

static double rows_total(void *user, double mine)
{
    lh_sum_f64(((stage *)user)->mesh->world, &mine, 1, LH_SEND_OTHER);
    return mine;
}

static lh_gradcheck stage_check(stage *a)
{
    lh_place tokens = lh_place_tokens(a->layout);
    lh_gradcheck g = {.device = a->device,
                      .count = a->count,
                      .size = {1, a->layout->ranks},
                      .coord = {0, a->rank},
                      .n_in = a->kind == TAKE || a->kind == MEAN ? 1 : 2,
                      .record = rows_record,
                      .total = rows_total,
                      .user = a,
                      .seed = {a->seed[0], a->seed[1], a->seed[2]}};
    g.in[0] =
        (lh_gradcheck_input){lh_shape_4(LH_REAL, BATCH, a->rows, HEADS, WIDTH), tokens, a->x, true};
    g.in[1] = (lh_gradcheck_input){lh_shape_4(LH_REAL, BATCH, LISTED, HEADS, WIDTH), tokens,
                                   a->extra, true};
    g.in[1].place.axis[LH_AXIS_SEQ] = (lh_place_word){LH_REPLICATE, 0, NULL};
    if (a->kind == PUT) return g;
    g.in[1].place = lh_place_replicated();
    g.in[1].shape = lh_shape_1(LH_REAL, a->kind == BIAS_HEAD ? WIDTH : ROW);
    if (a->kind != BIAS_TABLE) return g;
    g.in[0].place = lh_place_rows(a->layout); /* one row per position, as a table has */
    g.in[0].shape = lh_shape_2(LH_REAL, a->rows, ROW);
    return g;
}

/* --- the definitions --- */

static bool take_right(const stage *a, const lh_gradcheck_run *run)
{
    bool ok = true;
    for (int64_t i = 0; i < BATCH * LISTED * ROW; i++) {
        int64_t b = i / (LISTED * ROW);
        int64_t entry = i / ROW % LISTED;
        lh_real want = 0;
        if (entry < a->counts[b]) {
            int64_t p = a->position[b * LISTED + entry];
            if (lh_layout_row(a->layout, a->rank, p) >= 0) want = token(0, b, p, i % ROW);
        }
        for (int k = 0; k < a->copies; k++) ok = ok && ((const lh_real *)run->out[k])[i] == want;
    }
    for (int64_t i = 0; i < BATCH * a->rows * ROW; i++) {
        int64_t b = i / (a->rows * ROW);
        int64_t entry = entry_of(a, b, position_of(a, i / ROW % a->rows));
        lh_real want = 0;
        for (int k = 0; k < a->copies && entry >= 0; k++) want += token(2 + k, b, entry, i % ROW);
        ok = ok && run->grad[0][i] == want;
    }
    return ok;
}

static bool mean_right(const stage *a, const lh_gradcheck_run *run)
{
    bool ok = true;
    lh_real sum[BATCH * ROW] = {0};
    for (int64_t i = 0; i < BATCH * a->rows * ROW; i++) {
        int64_t b = i / (a->rows * ROW);
        lh_real dx = 0;
        if (position_of(a, i / ROW % a->rows) < a->valid[b]) {
            lh_real share = (lh_real)1 / (lh_real)a->valid[b];
            sum[b * ROW + i % ROW] += a->x[i] * share;
            for (int k = 0; k < a->copies; k++) dx += a->seed[k][b * ROW + i % ROW] * share;
        }
        ok = ok && run->grad[0][i] == dx;
    }
    for (int64_t i = 0; i < BATCH * ROW; i++)
        for (int k = 0; k < a->copies; k++) ok = ok && ((const lh_real *)run->out[k])[i] == sum[i];
    return ok;
}

static bool put_right(const stage *a, const lh_gradcheck_run *run)
{
    bool ok = true;
    for (int64_t i = 0; i < BATCH * a->rows * ROW; i++) {
        int64_t b = i / (a->rows * ROW);
        int64_t p = position_of(a, i / ROW % a->rows);
        int64_t entry = entry_of(a, b, p);
        lh_real want = token(0, b, p, i % ROW);
        lh_real dx = 2 * token(2 + a->copies, b, p, i % ROW); /* of the sum */
        if (entry >= 0) want = token(1, b, entry, i % ROW);
        for (int k = 0; k < a->copies; k++) {
            ok = ok && ((const lh_real *)run->out[k])[i] == want;
            if (entry < 0) dx += token(2 + k, b, p, i % ROW);
        }
        ok = ok && run->grad[0][i] == dx;
    }
    for (int64_t i = 0; i < BATCH * LISTED * ROW; i++) {
        int64_t b = i / (LISTED * ROW);
        int64_t entry = i / ROW % LISTED;
        int64_t p = entry < a->counts[b] ? a->position[b * LISTED + entry] : -1;
        lh_real dr = 0;
        for (int k = 0; k < a->copies && lh_layout_row(a->layout, a->rank, p) >= 0; k++)
            dr += token(2 + k, b, p, i % ROW);
        ok = ok && run->grad[1][i] == dr;
    }
    return ok;
}

static bool bias_right(const stage *a, const lh_gradcheck_run *run)
{
    bool ok = true;
    int64_t width = a->kind == BIAS_HEAD ? WIDTH : ROW;
    int64_t batch = a->kind == BIAS_TABLE ? 1 : BATCH;
    lh_real db[ROW] = {0};
    for (int64_t i = 0; i < batch * a->rows * ROW; i++) {
        lh_real dx = 0;
        for (int k = 0; k < a->copies; k++) {
            ok = ok && ((const lh_real *)run->out[k])[i] == a->x[i] + a->extra[i % width];
            dx += a->seed[k][i];
        }
        ok = ok && run->grad[0][i] == dx;
        db[i % width] += dx;
    }
    for (int64_t i = 0; i < width; i++) ok = ok && run->grad[1][i] == db[i];
    return ok;
}

static void check(lh_comm *c, op_kind kind, lh_test_layout_kind layout, int64_t n, int copies)
{
    stage a;
    lh_gradcheck_run run;
    lh_assert_all_ok(c, stage_open(c, kind, layout, n, &a));
    a.copies = copies;
    lh_gradcheck g = stage_check(&a);
    lh_assert_all_ok(c, lh_gradcheck_open(&g, &run));
    lh_assert_all_ok(c, lh_gradcheck_step(&run));
    lh_assert_all_ok(c, lh_gradcheck_step(&run));
    if (kind == TAKE)
        lh_assert_all(c, take_right(&a, &run));
    else if (kind == MEAN)
        lh_assert_all(c, mean_right(&a, &run));
    else if (kind == PUT)
        lh_assert_all(c, put_right(&a, &run));
    else
        lh_assert_all(c, bias_right(&a, &run));
    lh_assert_all(c, run.allocations == 0);
    lh_assert_all(c, lh_gradcheck_adjoint(&run) <= lh_tol_sum((double)(BATCH * n * ROW)));
    lh_assert_all(c, lh_traffic_step(a.mesh->traffic) == 0);
    lh_gradcheck_close(&run);
    stage_close(&a);
}

static void check_layouts(lh_comm *c, op_kind kind)
{
    for (int layout = 0; layout < LH_TEST_LAYOUTS; layout++)
        for (int copies = 1; copies <= 2; copies++) {
            check(c, kind, (lh_test_layout_kind)layout, 23, copies);
            check(c, kind, (lh_test_layout_kind)layout, 3, copies);
            check(c, kind, (lh_test_layout_kind)layout, 1, copies);
        }
}

static void take_rows(void **state)
{
    check_layouts(*state, TAKE);
}

static void mean_rows(void **state)
{
    check_layouts(*state, MEAN);
}

static void put_rows(void **state)
{
    check_layouts(*state, PUT);
}

static void add_bias(void **state)
{
    check_layouts(*state, BIAS_ROW);
    check_layouts(*state, BIAS_HEAD);
    check_layouts(*state, BIAS_TABLE);
}

/* --- refusals --- */

typedef struct scene {
    stage a;
    lh_tape *t;
    lh_var x, rows, bias;
    lh_shape shape;
} scene;

static void scene_open(lh_comm *c, scene *s)
{
    static const lh_real data[4] = {0};
    lh_place rows = lh_place_tokens(NULL);
    rows.axis[LH_AXIS_SEQ] = (lh_place_word){LH_REPLICATE, 0, NULL};
    lh_assert_all_ok(c, stage_open(c, PUT, LH_TEST_EVEN, 10, &s->a));
    lh_assert_all_ok(c, lh_tape_create(s->a.mesh->size, s->a.mesh->coord, &s->t));
    lh_tape_reset(s->t, s->a.device, NULL, false);
    s->shape = lh_shape_3(LH_REAL, BATCH, s->a.rows, ROW);
    lh_assert_all_ok(c, lh_tape_input(s->t, data, s->shape, lh_place_tokens(s->a.layout), &s->x));
    lh_assert_all_ok(
        c, lh_tape_input(s->t, data, lh_shape_3(LH_REAL, BATCH, LISTED, ROW), rows, &s->rows));
    lh_assert_all_ok(
        c, lh_tape_input(s->t, data, lh_shape_1(LH_REAL, 4), lh_place_replicated(), &s->bias));
}

static void refuses(void **state)
{
    lh_comm *c = *state;
    scene s;
    lh_var y;
    lh_var whole;
    static const lh_real data[4] = {0};
    scene_open(c, &s);
    lh_assert_all_ok(c, lh_tape_input(s.t, data, s.shape, lh_place_replicated(), &whole));
    lh_assert_all_code(c, lh_take_rows(s.t, whole, &s.a.list, &y), LH_ERR_BUG); /* not sharded */
    lh_assert_all_code(c, lh_mean_rows(s.t, whole, NULL, &y), LH_ERR_BUG);
    lh_assert_all_code(c, lh_put_rows(s.t, s.x, s.x, &s.a.list, &y), LH_ERR_BUG);
    lh_assert_all_code(c, lh_add_bias(s.t, s.x, s.bias, &y), LH_ERR_BUG); /* 4 of rows of 6 */
    s.a.position[1] = s.a.position[0];                                    /* not ascending */
    lh_assert_all_code(c, lh_take_rows(s.t, s.x, &s.a.list, &y), LH_ERR_BUG);
    s.a.position[1] = 10; /* beyond the end */
    lh_assert_all_code(c, lh_put_rows(s.t, s.x, s.rows, &s.a.list, &y), LH_ERR_BUG);
    s.a.position[1] = 5;
    s.a.counts[1] = LISTED + 1;
    lh_assert_all_code(c, lh_take_rows(s.t, s.x, &s.a.list, &y), LH_ERR_BUG);
    lh_tape_destroy(&s.t);
    stage_close(&s.a);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(take_rows),     cmocka_unit_test(put_rows),
        cmocka_unit_test(mean_rows),     cmocka_unit_test(add_bias),
        cmocka_unit_test(refuses),       cmocka_unit_test(heads_of_ranks),
        cmocka_unit_test(spread_values), cmocka_unit_test(spread_refuses),
    };
    return lh_test_mpi_main(argc, argv, "rows", tests, sizeof tests / sizeof tests[0]);
}
