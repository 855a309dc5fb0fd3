/* Collectives on the tape: values, adjoints, bytes, placements. Small integers where sums must be
 * exact. */
#include "core/ops.h"
#include "parallel/collectives.h"
#include "tests/lh_gradcheck.h"
#include "tests/lh_test_mpi.h"
#include "tests/lh_test_scenes.h"
#include "tests/tol.h"

#include <string.h>

enum { BATCH = 2, WIDTH = 3, COUNT = 14 };

typedef enum op_kind { REDUCE, REDUCE_TWICE, GATHER, GATHER_TWICE, SCATTER, SCATTER_TWICE } op_kind;

typedef struct stage {
    op_kind kind;
    int axis;
    lh_mesh *mesh, *counting;
    lh_device *device, *count;
    lh_layout *layout;
} stage;

static lh_status stage_open(lh_comm *c, int data, lh_test_layout_kind kind, int64_t n, stage *a)
{
    lh_status st = LH_OK;
    int seq = lh_comm_size(c) / data;
    *a = (stage){.axis = LH_AXIS_SEQ};
    LH_TRY(lh_mesh_create(data, &a->mesh));
    LH_TRY(lh_mesh_create_counting(data, seq, lh_comm_rank(c), &a->counting));
    LH_TRY(lh_device_create_poison(lh_test_isa(), 1, &a->device));
    LH_TRY(lh_device_create_count(lh_test_isa(), 1, &a->count));
    LH_TRY(lh_test_layout(kind, n, seq, 4, &a->layout));
done:
    return st;
}

static void stage_close(stage *a)
{
    lh_layout_destroy(&a->layout);
    lh_device_destroy(&a->count);
    lh_device_destroy(&a->device);
    lh_mesh_destroy(&a->counting);
    lh_mesh_destroy(&a->mesh);
}

static lh_gradcheck stage_check(stage *a)
{
    return (lh_gradcheck){.device = a->device,
                          .count = a->count,
                          .size = {a->mesh->size[0], a->mesh->size[1]},
                          .coord = {a->mesh->coord[0], a->mesh->coord[1]},
                          .n_in = 1,
                          .user = a};
}

static lh_status collective_record(void *user, lh_tape *t, const lh_var *in, lh_var *out,
                                   int *n_out)
{
    lh_status st = LH_OK;
    stage *a = user;
    lh_mesh *mesh = lh_tape_device(t)->counting ? a->counting : a->mesh;
    *n_out = a->kind == REDUCE || a->kind == GATHER || a->kind == SCATTER ? 1 : 2;
    for (int i = 0; i < *n_out; i++) {
        if (a->kind == REDUCE || a->kind == REDUCE_TWICE)
            LH_TRY(lh_all_reduce(t, mesh, a->axis, in[0], &out[i]));
        else if (a->kind == GATHER || a->kind == GATHER_TWICE)
            LH_TRY(lh_gather(t, mesh, in[0], &out[i]));
        else
            LH_TRY(lh_reduce_scatter(t, mesh, a->layout, in[0], &out[i]));
    }
done:
    return st;
}

static double collective_total(void *user, double mine)
{
    lh_sum_f64(((stage *)user)->mesh->world, &mine, 1, LH_SEND_OTHER);
    return mine;
}

static bool bytes_exact(const lh_traffic *t, int64_t want)
{
    bool ok = t->bytes[LH_SEND_SUMMARY] == want && lh_traffic_step(t) == want;
    if (!ok)
        print_error("%lld bytes, expected %lld\n", (long long)t->bytes[LH_SEND_SUMMARY],
                    (long long)want);
    return ok;
}

/* --- all-reduce --- */

static lh_real x_of(int rank, int64_t i)
{
    return (lh_real)((rank + 1) * 8 + i % 5);
}

static lh_real seed_of(int rank, int output, int64_t i)
{
    return (lh_real)((rank + 2) * 4 + output * 64 + i % 3);
}

/* Ranks that share this rank's sum: those with the same other coordinate. */
static bool joined(const stage *a, int world_rank)
{
    const int coord[LH_AXES] = {world_rank / a->mesh->size[1], world_rank % a->mesh->size[1]};
    return coord[1 - a->axis] == a->mesh->coord[1 - a->axis];
}

static bool reduce_right(const stage *a, const lh_gradcheck_run *run)
{
    bool ok = true;
    for (int64_t i = 0; i < COUNT; i++) {
        lh_real y = 0;
        lh_real dx = 0;
        for (int r = 0; r < a->mesh->size[0] * a->mesh->size[1]; r++) {
            if (!joined(a, r)) continue;
            y += x_of(r, i);
            for (int k = 0; k < run->n_out; k++) dx += seed_of(r, k, i);
        }
        for (int k = 0; k < run->n_out; k++) ok = ok && ((const lh_real *)run->out[k])[i] == y;
        ok = ok && run->grad[0][i] == dx;
    }
    return ok;
}

static void check_reduce(lh_comm *c, int data, int axis, op_kind kind)
{
    stage a;
    lh_gradcheck_run run;
    lh_real x[COUNT];
    lh_real seed[2][COUNT];
    lh_assert_all_ok(c, stage_open(c, data, LH_TEST_EVEN, 9, &a));
    a.axis = axis;
    a.kind = kind;
    for (int64_t i = 0; i < COUNT; i++) {
        x[i] = x_of(lh_comm_rank(c), i);
        for (int k = 0; k < 2; k++) seed[k][i] = seed_of(lh_comm_rank(c), k, i);
    }
    lh_gradcheck g = stage_check(&a);
    g.record = collective_record;
    g.total = collective_total;
    g.in[0] = (lh_gradcheck_input){lh_shape_2(LH_REAL, 2, COUNT / 2), lh_place_partial(), x, true};
    g.seed[0] = seed[0];
    g.seed[1] = seed[1];
    lh_assert_all_ok(c, lh_gradcheck_open(&g, &run));
    lh_assert_all_ok(c, lh_gradcheck_step(&run));
    lh_assert_all_ok(c, lh_gradcheck_step(&run));
    lh_assert_all(c, reduce_right(&a, &run));
    lh_assert_all(c, run.allocations == 0);
    int64_t bytes =
        a.mesh->size[axis] > 1 ? 2 * run.n_out * COUNT * (int64_t)lh_dtype_bytes(LH_REAL) : 0;
    lh_assert_all(c, bytes_exact(a.counting->traffic, bytes));
    lh_assert_all(c, bytes_exact(a.mesh->traffic, 2 * bytes));
    lh_gradcheck_close(&run);
    stage_close(&a);
}

static void all_reduce(void **state)
{
    lh_comm *c = *state;
    int ranks = lh_comm_size(c);
    for (int kind = REDUCE; kind <= REDUCE_TWICE; kind++) {
        check_reduce(c, 1, LH_AXIS_SEQ, (op_kind)kind);
        check_reduce(c, ranks, LH_AXIS_DATA, (op_kind)kind);
        if (ranks % 2 != 0) continue;
        check_reduce(c, 2, LH_AXIS_SEQ, (op_kind)kind);
        check_reduce(c, 2, LH_AXIS_DATA, (op_kind)kind);
    }
}

/* --- several values in one message --- */

enum { VALUES = 4, UNSEEN = 2 /* no gradient reaches this one */ };
static const int64_t value_count[VALUES] = {5, 0, 7, 12};

static lh_status values_record(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    stage *a = user;
    lh_mesh *mesh = lh_tape_device(t)->counting ? a->counting : a->mesh;
    *n_out = VALUES;
    return lh_all_reduce_all(t, mesh, a->axis, VALUES, in, out);
}

static bool values_right(const stage *a, const lh_gradcheck_run *run, int k)
{
    bool ok = true;
    for (int64_t i = 0; i < value_count[k]; i++) {
        lh_real y = 0;
        lh_real dx = 0;
        for (int r = 0; r < a->mesh->size[0] * a->mesh->size[1]; r++) {
            if (!joined(a, r)) continue;
            y += x_of(r, i + k);
            if (k != UNSEEN) dx += seed_of(r, k, i);
        }
        ok = ok && ((const lh_real *)run->out[k])[i] == y && run->grad[k][i] == dx;
    }
    return ok;
}

static void check_values(lh_comm *c, int data, int axis)
{
    stage a;
    lh_gradcheck_run run;
    lh_real x[VALUES][12];
    lh_real seed[VALUES][12];
    lh_assert_all_ok(c, stage_open(c, data, LH_TEST_EVEN, 9, &a));
    a.axis = axis;
    lh_gradcheck g = stage_check(&a);
    g.record = values_record;
    g.total = collective_total;
    g.n_in = VALUES;
    g.no_seed = 1u << UNSEEN;
    for (int k = 0; k < VALUES; k++) {
        for (int64_t i = 0; i < value_count[k]; i++) {
            x[k][i] = x_of(lh_comm_rank(c), i + k);
            seed[k][i] = seed_of(lh_comm_rank(c), k, i);
        }
        g.in[k] = (lh_gradcheck_input){lh_shape_1(LH_REAL, value_count[k]), lh_place_partial(),
                                       x[k], true};
        g.seed[k] = seed[k];
    }
    lh_assert_all_ok(c, lh_gradcheck_open(&g, &run));
    lh_assert_all_ok(c, lh_gradcheck_step(&run));
    for (int k = 0; k < VALUES; k++) lh_assert_all(c, values_right(&a, &run, k));
    int64_t elements = a.mesh->size[axis] > 1 ? 24 + 24 - value_count[UNSEEN] : 0;
    lh_assert_all(c, bytes_exact(a.counting->traffic, elements * (int64_t)lh_dtype_bytes(LH_REAL)));
    lh_assert_all(c, bytes_exact(a.mesh->traffic, elements * (int64_t)lh_dtype_bytes(LH_REAL)));
    lh_assert_all(c, a.mesh->traffic->messages[LH_SEND_SUMMARY] ==
                         (a.mesh->size[axis] > 1 ? 2 : 0)); /* one each way */
    lh_gradcheck_close(&run);
    stage_close(&a);
}

static void all_reduce_all(void **state)
{
    lh_comm *c = *state;
    check_values(c, 1, LH_AXIS_SEQ);
    check_values(c, lh_comm_size(c), LH_AXIS_DATA);
    if (lh_comm_size(c) % 2 == 0) check_values(c, 2, LH_AXIS_SEQ);
}

/* --- maximum --- */

static lh_status max_record(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    stage *a = user;
    *n_out = 2;
    LH_TRY(lh_max_reduce(t, lh_tape_device(t)->counting ? a->counting : a->mesh, in[0], &out[0]));
    LH_TRY(lh_add(t, in[0], in[0], &out[1])); /* so that a gradient has a way */
done:
    return st;
}

static lh_real peak_of(int rank, int ranks, int64_t i)
{
    return i % ranks == rank ? (lh_real)(100 + i) : (lh_real)(-50 - rank);
}

static void check_max(lh_comm *c, int data, lh_place_word word)
{
    stage a;
    lh_gradcheck_run run;
    lh_real x[COUNT];
    bool ok = true;
    lh_assert_all_ok(c, stage_open(c, data, LH_TEST_EVEN, 9, &a));
    int ranks = a.mesh->size[LH_AXIS_SEQ];
    for (int64_t i = 0; i < COUNT; i++) x[i] = peak_of(a.mesh->coord[LH_AXIS_SEQ], ranks, i);
    if (a.mesh->coord[LH_AXIS_SEQ] == ranks - 1 && ranks > 1) x[0] = (lh_real)-HUGE_VAL;
    lh_gradcheck g = stage_check(&a);
    g.record = max_record;
    g.total = collective_total;
    g.no_seed = 1; /* no gradient passes */
    g.in[0] = (lh_gradcheck_input){lh_shape_1(LH_REAL, COUNT), lh_place_replicated(), x, true};
    g.in[0].place.axis[LH_AXIS_SEQ] = word;
    lh_assert_all_ok(c, lh_gradcheck_open(&g, &run));
    lh_assert_all_ok(c, lh_gradcheck_step(&run));
    for (int64_t i = 0; i < COUNT; i++)
        ok = ok && ((const lh_real *)run.out[0])[i] == (lh_real)(100 + i) &&
             run.grad[0][i] == 2 * run.seed[1][i];
    lh_assert_all(c, ok);
    int64_t bytes = ranks > 1 ? COUNT * (int64_t)lh_dtype_bytes(LH_REAL) : 0;
    lh_assert_all(c, bytes_exact(a.counting->traffic, bytes));
    lh_assert_all(c, bytes_exact(a.mesh->traffic, bytes));
    lh_gradcheck_close(&run);
    stage_close(&a);
}

static void max_reduce(void **state)
{
    lh_comm *c = *state;
    const lh_place_word words[] = {
        {LH_REPLICATE, 0, NULL}, {LH_PARTIAL, 0, NULL}, {LH_SHARD, 0, NULL}};
    for (int i = 0; i < 3; i++) {
        check_max(c, 1, words[i]);
        if (lh_comm_size(c) % 2 == 0) check_max(c, 2, words[i]);
    }
}

/* --- gather --- */

static lh_real row_of(int64_t b, int64_t position, int64_t i)
{
    return (lh_real)(b * 1000 + position * 7 + i) / 3;
}

static bool gather_right(const stage *a, const lh_gradcheck_run *run)
{
    bool ok = true;
    int rank = a->mesh->coord[LH_AXIS_SEQ];
    int64_t rows = a->layout->rows[rank];
    for (int k = 0; k < run->n_out; k++)
        for (int64_t e = 0; e < BATCH * a->layout->n * WIDTH; e++)
            ok = ok && ((const lh_real *)run->out[k])[e] ==
                           row_of(e / (a->layout->n * WIDTH), e / WIDTH % a->layout->n, e % WIDTH);
    for (int64_t e = 0; e < BATCH * rows * WIDTH; e++) {
        int64_t p = lh_layout_position(a->layout, rank, e / WIDTH % rows);
        int64_t whole = (e / (rows * WIDTH) * a->layout->n + p) * WIDTH + e % WIDTH;
        lh_real dx = 0;
        for (int r = 0; r < a->layout->ranks; r++)
            for (int k = 0; k < run->n_out; k++) dx += seed_of(r, k, whole);
        ok = ok && run->grad[0][e] == dx;
    }
    return ok;
}

static void check_gather(lh_comm *c, lh_test_layout_kind layout, int64_t n, op_kind kind)
{
    stage a;
    lh_gradcheck_run run;
    lh_real *x = NULL;
    lh_real *seed[2] = {NULL, NULL};
    int rank = lh_comm_rank(c);
    lh_assert_all_ok(c, stage_open(c, 1, layout, n, &a));
    a.kind = kind;
    int64_t rows = a.layout->rows[rank];
    lh_assert_all_ok(c, lh_new((size_t)(BATCH * rows * WIDTH) * sizeof *x, &x));
    for (int64_t e = 0; e < BATCH * rows * WIDTH; e++)
        x[e] = row_of(e / (rows * WIDTH), lh_layout_position(a.layout, rank, e / WIDTH % rows),
                      e % WIDTH);
    for (int k = 0; k < 2; k++) {
        lh_assert_all_ok(c, lh_new((size_t)(BATCH * n * WIDTH) * sizeof *x, &seed[k]));
        for (int64_t e = 0; e < BATCH * n * WIDTH; e++) seed[k][e] = seed_of(rank, k, e);
    }
    lh_gradcheck g = stage_check(&a);
    g.record = collective_record;
    g.total = collective_total;
    g.in[0] = (lh_gradcheck_input){lh_shape_3(LH_REAL, BATCH, rows, WIDTH),
                                   lh_place_tokens(a.layout), x, true};
    g.seed[0] = seed[0];
    g.seed[1] = seed[1];
    lh_assert_all_ok(c, lh_gradcheck_open(&g, &run));
    lh_assert_all_ok(c, lh_gradcheck_step(&run));
    lh_assert_all_ok(c, lh_gradcheck_step(&run));
    lh_assert_all(c, gather_right(&a, &run));
    lh_assert_all(c, run.allocations == 0);
    lh_assert_all(c, lh_gradcheck_adjoint(&run) <= lh_tol_sum((double)(BATCH * n * WIDTH)));
    int64_t bytes = lh_comm_size(c) > 1
                        ? run.n_out * BATCH * (rows + n) * WIDTH * (int64_t)lh_dtype_bytes(LH_REAL)
                        : 0;
    lh_assert_all(c, bytes_exact(a.counting->traffic, bytes));
    lh_assert_all(c, bytes_exact(a.mesh->traffic, 2 * bytes));
    lh_gradcheck_close(&run);
    lh_free(&x);
    lh_free(&seed[0]);
    lh_free(&seed[1]);
    stage_close(&a);
}

static void gather(void **state)
{
    lh_comm *c = *state;
    for (int layout = 0; layout < LH_TEST_LAYOUTS; layout++)
        for (int kind = GATHER; kind <= GATHER_TWICE; kind++) {
            check_gather(c, (lh_test_layout_kind)layout, 23, (op_kind)kind);
            check_gather(c, (lh_test_layout_kind)layout, 2, (op_kind)kind);
        }
}

/* --- reduce-scatter --- */

/* Element e of [B, s, W] on a rank, as an element of [B, N, W]. */
static int64_t whole_of(const lh_layout *l, int rank, int64_t e)
{
    int64_t rows = l->rows[rank];
    int64_t position = lh_layout_position(l, rank, e / WIDTH % rows);
    return (e / (rows * WIDTH) * l->n + position) * WIDTH + e % WIDTH;
}

static bool scatter_right(const stage *a, const lh_gradcheck_run *run)
{
    bool ok = true;
    const lh_layout *l = a->layout;
    int rank = a->mesh->coord[LH_AXIS_SEQ];
    for (int64_t e = 0; e < BATCH * l->rows[rank] * WIDTH; e++) {
        lh_real sum = 0;
        for (int r = 0; r < l->ranks; r++) sum += x_of(r, whole_of(l, rank, e));
        for (int k = 0; k < run->n_out; k++) ok = ok && ((const lh_real *)run->out[k])[e] == sum;
    }
    for (int r = 0; r < l->ranks; r++)
        for (int64_t e = 0; e < BATCH * l->rows[r] * WIDTH; e++) {
            lh_real dx = 0;
            for (int k = 0; k < run->n_out; k++) dx += seed_of(r, k, e);
            ok = ok && run->grad[0][whole_of(l, r, e)] == dx;
        }
    return ok;
}

static void check_scatter(lh_comm *c, lh_test_layout_kind layout, int64_t n, op_kind kind)
{
    stage a;
    lh_gradcheck_run run;
    lh_real *x = NULL;
    lh_real *seed[2] = {NULL, NULL};
    int rank = lh_comm_rank(c);
    lh_assert_all_ok(c, stage_open(c, 1, layout, n, &a));
    a.kind = kind;
    int64_t rows = a.layout->rows[rank];
    lh_place place = lh_place_tokens(a.layout);
    place.axis[LH_AXIS_SEQ] = (lh_place_word){LH_PARTIAL, 0, NULL};
    lh_assert_all_ok(c, lh_new((size_t)(BATCH * n * WIDTH) * sizeof *x, &x));
    for (int64_t e = 0; e < BATCH * n * WIDTH; e++) x[e] = x_of(rank, e);
    for (int k = 0; k < 2; k++) {
        lh_assert_all_ok(c, lh_new((size_t)(BATCH * rows * WIDTH) * sizeof *x, &seed[k]));
        for (int64_t e = 0; e < BATCH * rows * WIDTH; e++) seed[k][e] = seed_of(rank, k, e);
    }
    lh_gradcheck g = stage_check(&a);
    g.record = collective_record;
    g.total = collective_total;
    g.in[0] = (lh_gradcheck_input){lh_shape_3(LH_REAL, BATCH, n, WIDTH), place, x, true};
    g.seed[0] = seed[0];
    g.seed[1] = seed[1];
    lh_assert_all_ok(c, lh_gradcheck_open(&g, &run));
    lh_assert_all_ok(c, lh_gradcheck_step(&run));
    lh_assert_all_ok(c, lh_gradcheck_step(&run));
    lh_assert_all(c, scatter_right(&a, &run));
    lh_assert_all(c, run.allocations == 0);
    lh_assert_all(c, lh_gradcheck_adjoint(&run) <= lh_tol_sum((double)(BATCH * n * WIDTH)));
    int64_t bytes = lh_comm_size(c) > 1
                        ? run.n_out * BATCH * (rows + n) * WIDTH * (int64_t)lh_dtype_bytes(LH_REAL)
                        : 0;
    lh_assert_all(c, bytes_exact(a.counting->traffic, bytes));
    lh_assert_all(c, bytes_exact(a.mesh->traffic, 2 * bytes));
    lh_gradcheck_close(&run);
    lh_free(&x);
    lh_free(&seed[0]);
    lh_free(&seed[1]);
    stage_close(&a);
}

static void reduce_scatter(void **state)
{
    lh_comm *c = *state;
    for (int layout = 0; layout < LH_TEST_LAYOUTS; layout++)
        for (int kind = SCATTER; kind <= SCATTER_TWICE; kind++) {
            check_scatter(c, (lh_test_layout_kind)layout, 23, (op_kind)kind);
            check_scatter(c, (lh_test_layout_kind)layout, 2, (op_kind)kind);
        }
}

/* --- scan --- */

enum { SUMMARY = BATCH * WIDTH, COPIES = 2 };

static lh_real position_value(int64_t p, int64_t e)
{
    return (lh_real)(1 + (p * 5 + e * 3) % 16);
}

static lh_real slot_seed(int rank, int64_t slot, int copy, int64_t e)
{
    return (lh_real)(1 + (rank * 11 + slot * 5 + copy * 7 + e) % 32);
}

static lh_status scan_record(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    stage *a = user;
    lh_mesh *mesh = lh_tape_device(t)->counting ? a->counting : a->mesh;
    *n_out = COPIES; /* the second one's gradient adds */
    for (int k = 0; k < COPIES; k++) LH_TRY(lh_scan(t, mesh, a->layout, in[0], &out[k]));
done:
    return st;
}

/* Run `slot` of a rank, NULL: it has none. */
static const lh_run *run_of(const lh_layout *l, int rank, int64_t slot)
{
    int64_t count = 0;
    const lh_run *run = lh_layout_runs(l, rank, &count);
    return slot < count ? run + slot : NULL;
}

/* The sum over positions before the run; the sum over runs behind it of their gradients. */
static bool scan_right(const stage *a, const lh_gradcheck_run *run, int64_t slot, int64_t e)
{
    const lh_layout *l = a->layout;
    const lh_run *mine = run_of(l, a->mesh->coord[LH_AXIS_SEQ], slot);
    int64_t at = slot * SUMMARY + e;
    lh_real y = 0;
    lh_real dx = 0;
    if (mine == NULL) return true; /* nobody reads it */
    for (int64_t p = 0; p < mine->start; p++) y += position_value(p, e);
    for (int r = 0; r < l->ranks; r++)
        for (int64_t i = 0; i < 2; i++) {
            const lh_run *other = run_of(l, r, i);
            for (int k = 0; k < COPIES && other != NULL && other->start > mine->start; k++)
                dx += slot_seed(r, i, k, e);
        }
    for (int k = 0; k < COPIES; k++)
        if (((const lh_real *)run->out[k])[at] != y) return false;
    return run->grad[0][at] == dx;
}

static void scan_fill(const stage *a, lh_real *x, lh_real seed[COPIES][2 * SUMMARY])
{
    int rank = a->mesh->coord[LH_AXIS_SEQ];
    for (int64_t i = 0; i < 2 * SUMMARY; i++) {
        const lh_run *run = run_of(a->layout, rank, i / SUMMARY);
        x[i] = 0;
        for (int64_t p = 0; run != NULL && p < run->count; p++)
            x[i] += position_value(run->start + p, i % SUMMARY);
        for (int k = 0; k < COPIES; k++)
            seed[k][i] = run == NULL ? 0 : slot_seed(rank, i / SUMMARY, k, i % SUMMARY);
    }
}

static lh_gradcheck scan_check(stage *a, const lh_real *x, int64_t runs)
{
    lh_gradcheck g = stage_check(a);
    g.record = scan_record;
    g.total = collective_total;
    g.in[0] = (lh_gradcheck_input){lh_shape_3(LH_REAL, runs, BATCH, WIDTH),
                                   {{{LH_SHARD, 1, NULL}, {LH_SHARD, 0, NULL}}},
                                   x,
                                   true};
    return g;
}

static int log2_up(int n)
{
    int log2 = 0;
    while (1 << log2 < n) log2++;
    return log2;
}

static bool scan_counted(const stage *a, const lh_traffic *t, int64_t runs, int steps)
{
    int rank = a->mesh->coord[LH_AXIS_SEQ];
    int ranks = a->layout->ranks;
    int64_t sends =
        lh_scan_sends(runs, ranks, rank, false) + lh_scan_sends(runs, ranks, rank, true);
    return bytes_exact(t, steps * COPIES * sends * SUMMARY * (int64_t)lh_dtype_bytes(LH_REAL)) &&
           t->messages[LH_SEND_SUMMARY] <= (int64_t)steps * COPIES * 2 * log2_up(ranks);
}

static void check_scan(lh_comm *c, int data, lh_test_layout_kind layout, int64_t n)
{
    stage a;
    lh_gradcheck_run run;
    lh_real x[2 * SUMMARY];
    lh_real seed[COPIES][2 * SUMMARY];
    bool ok = true;
    bool zigzag = layout == LH_TEST_ZIGZAG || layout == LH_TEST_ZIGZAG_ALIGNED;
    lh_assert_all_ok(c, stage_open(c, data, layout, n, &a));
    int64_t runs = lh_scan_runs(a.layout);
    lh_assert_all(c, runs == (zigzag ? 2 : 1));
    scan_fill(&a, x, seed);
    lh_gradcheck g = scan_check(&a, x, runs);
    for (int k = 0; k < COPIES; k++) g.seed[k] = seed[k];
    lh_assert_all_ok(c, lh_gradcheck_open(&g, &run));
    lh_assert_all_ok(c, lh_gradcheck_step(&run));
    lh_assert_all_ok(c, lh_gradcheck_step(&run));
    for (int64_t i = 0; i < runs * SUMMARY; i++)
        ok = ok && scan_right(&a, &run, i / SUMMARY, i % SUMMARY);
    lh_assert_all(c, ok);
    lh_assert_all(c, run.allocations == 0);
    lh_assert_all(c, scan_counted(&a, a.counting->traffic, runs, 1));
    lh_assert_all(c, scan_counted(&a, a.mesh->traffic, runs, 2));
    lh_gradcheck_close(&run);
    stage_close(&a);
}

static void scan(void **state)
{
    lh_comm *c = *state;
    for (int layout = 0; layout < LH_TEST_LAYOUTS; layout++) {
        if (layout == LH_TEST_CYCLIC) continue;
        for (int64_t n = 0; n < 4; n++) check_scan(c, 1, (lh_test_layout_kind)layout, n);
        check_scan(c, 1, (lh_test_layout_kind)layout, 23);
        check_scan(c, 1, (lh_test_layout_kind)layout, 64);
        if (lh_comm_size(c) % 2 == 0) check_scan(c, 2, (lh_test_layout_kind)layout, 23);
    }
}

/* Numbers that round: the adjoint, and the same bits twice. */
static void scan_adjoint(void **state)
{
    lh_comm *c = *state;
    for (int layout = 0; layout < LH_TEST_LAYOUTS; layout++) {
        stage a;
        lh_gradcheck_run run;
        lh_real x[2 * SUMMARY];
        lh_real first[2][2 * SUMMARY];
        if (layout == LH_TEST_CYCLIC) continue;
        lh_assert_all_ok(c, stage_open(c, 1, (lh_test_layout_kind)layout, 23, &a));
        int64_t runs = lh_scan_runs(a.layout);
        for (int64_t i = 0; i < runs * SUMMARY; i++)
            x[i] = (lh_real)((double)((i * 37 + lh_comm_rank(c) * 11) % 101) / 50.0 - 1.0);
        lh_gradcheck g = scan_check(&a, x, runs);
        size_t bytes = (size_t)(runs * SUMMARY) * sizeof x[0];
        lh_assert_all_ok(c, lh_gradcheck_open(&g, &run));
        lh_assert_all_ok(c, lh_gradcheck_step(&run));
        lh_assert_all(c, lh_gradcheck_adjoint(&run) <= lh_tol_sum(2.0 * SUMMARY));
        memcpy(first[0], run.out[0], bytes);
        memcpy(first[1], run.grad[0], bytes);
        lh_assert_all_ok(c, lh_gradcheck_step(&run));
        lh_assert_all(c, memcmp(first[0], run.out[0], bytes) == 0);
        lh_assert_all(c, memcmp(first[1], run.grad[0], bytes) == 0);
        lh_gradcheck_close(&run);
        stage_close(&a);
    }
}

/* The formula against what every rank of 1 .. 9 would send, without messages. */
static void scan_formula(void **state)
{
    lh_comm *c = *state;
    const lh_real x[2 * SUMMARY] = {0};
    for (int ranks = 1; ranks <= 9; ranks++)
        for (int zigzag = 0; zigzag < 2; zigzag++) {
            bool ok = true;
            for (int rank = 0; rank < ranks; rank++) {
                stage a = {.axis = LH_AXIS_SEQ};
                lh_gradcheck_run run;
                lh_assert_all_ok(c, lh_mesh_create_counting(1, ranks, rank, &a.counting));
                lh_assert_all_ok(c, lh_device_create_poison(lh_test_isa(), 1, &a.device));
                lh_assert_all_ok(c, lh_device_create_count(lh_test_isa(), 1, &a.count));
                lh_assert_all_ok(c, lh_test_layout(zigzag ? LH_TEST_ZIGZAG : LH_TEST_UNEVEN, 23,
                                                   ranks, 4, &a.layout));
                a.mesh = a.counting;
                lh_gradcheck g = scan_check(&a, x, zigzag + 1);
                lh_assert_all_ok(c, lh_gradcheck_open(&g, &run));
                ok = ok && scan_counted(&a, a.counting->traffic, zigzag + 1, 1);
                lh_gradcheck_close(&run);
                a.mesh = NULL;
                stage_close(&a);
            }
            lh_assert_all(c, ok);
        }
    lh_assert_all(c, lh_scan_sends(1, 9, 0, false) == 4 && lh_scan_sends(1, 9, 8, false) == 0);
    lh_assert_all(c, lh_scan_sends(1, 9, 0, true) == 0 && lh_scan_sends(1, 9, 8, true) == 4);
    lh_assert_all(c, lh_scan_sends(2, 8, 3, false) == 6 && lh_scan_sends(2, 7, 0, true) == 6);
    lh_assert_all(c, lh_scan_sends(2, 7, 1, false) == 2 && lh_scan_sends(2, 7, 6, false) == 4);
}

static int64_t runs_of(lh_comm *c, int64_t n, int ranks, const int64_t *first, const lh_run *run)
{
    lh_layout *l = NULL;
    lh_assert_all_ok(c, lh_layout_from_runs(n, ranks, 4, first, run, &l));
    int64_t runs = lh_scan_runs(l);
    lh_layout_destroy(&l);
    return runs;
}

/* What a layout is, not what it is called. */
static void scan_layouts(void **state)
{
    lh_comm *c = *state;
    lh_layout *l = NULL;
    const int64_t one[] = {0, 1, 2, 3};
    const int64_t two[] = {0, 2, 4};
    const int64_t three[] = {0, 3, 4};
    const lh_run ascends[] = {{0, 2, 1}, {2, 3, 1}, {5, 1, 1}};
    const lh_run descends[] = {{4, 2, 1}, {2, 2, 1}, {0, 2, 1}};
    const lh_run zigzag[] = {{0, 1, 1}, {4, 2, 1}, {1, 2, 1}, {3, 1, 1}};
    const lh_run parallel[] = {{0, 1, 1}, {3, 1, 1}, {1, 2, 1}, {4, 2, 1}};
    const lh_run swapped[] = {{4, 2, 1}, {0, 1, 1}, {1, 2, 1}, {3, 1, 1}};
    const lh_run many[] = {{0, 1, 1}, {2, 1, 1}, {4, 1, 1}, {1, 3, 2}};
    lh_assert_all(c, runs_of(c, 6, 3, one, ascends) == 1);
    lh_assert_all(c, runs_of(c, 6, 3, one, descends) == 0);
    lh_assert_all(c, runs_of(c, 6, 2, two, zigzag) == 2);
    lh_assert_all(c, runs_of(c, 6, 2, two, parallel) == 0);
    lh_assert_all(c, runs_of(c, 6, 2, two, swapped) == 0);
    lh_assert_all(c, runs_of(c, 6, 2, three, many) == 0);
    lh_assert_all_ok(c, lh_layout_everywhere(6, 1, 4, &l));
    lh_assert_all(c, lh_scan_runs(l) == 0);
    lh_layout_destroy(&l);
    lh_assert_all_ok(c, lh_layout_zigzag(2, 5, 4, false, &l)); /* no rank has two runs */
    lh_assert_all(c, lh_scan_runs(l) == 2);
    lh_layout_destroy(&l);
}

static void scan_refuses(void **state)
{
    lh_comm *c = *state;
    stage a;
    lh_tape *t = NULL;
    lh_layout *cyclic = NULL;
    lh_layout *more = NULL;
    lh_var x[3];
    lh_var y;
    static const lh_real data[2] = {0};
    const lh_place shard = {{{LH_REPLICATE, 0, NULL}, {LH_SHARD, 0, NULL}}};
    int ranks = lh_comm_size(c);
    lh_assert_all_ok(c, stage_open(c, 1, LH_TEST_EVEN, 12, &a));
    lh_assert_all_ok(c, lh_test_layout(LH_TEST_CYCLIC, 12, ranks + 1, 4, &cyclic));
    lh_assert_all_ok(c, lh_test_layout(LH_TEST_EVEN, 12, ranks + 1, 4, &more));
    lh_assert_all_ok(c, lh_tape_create(a.mesh->size, a.mesh->coord, &t));
    lh_tape_reset(t, a.count, NULL, false);
    const lh_shape shapes[3] = {lh_shape_2(LH_REAL, 1, 2), lh_shape_2(LH_REAL, 2, 1),
                                lh_shape_2(LH_REAL, 1, 2)};
    for (int i = 0; i < 3; i++)
        lh_assert_all_ok(
            c, lh_tape_input(t, data, shapes[i], i < 2 ? shard : lh_place_partial(), &x[i]));
    lh_assert_all_code(c, lh_scan(t, a.counting, cyclic, x[0], &y), LH_ERR_UNSUP);
    lh_assert_all(c, strstr(lh_error_text(), "runs") != NULL);
    lh_assert_all_code(c, lh_scan(t, a.counting, more, x[0], &y), LH_ERR_BUG);
    lh_assert_all_code(c, lh_scan(t, a.counting, a.layout, x[1], &y), LH_ERR_BUG);
    lh_assert_all_code(c, lh_scan(t, a.counting, a.layout, x[2], &y), LH_ERR_BUG);
    lh_layout_destroy(&cyclic);
    lh_layout_destroy(&more);
    lh_tape_destroy(&t);
    stage_close(&a);
}

/* --- adjoints with random numbers, per rank --- */

static void adjoints(void **state)
{
    lh_comm *c = *state;
    for (int kind = REDUCE; kind <= GATHER_TWICE; kind++) {
        stage a;
        lh_gradcheck_run run;
        lh_real x[BATCH * 23 * WIDTH];
        lh_assert_all_ok(c, stage_open(c, 1, LH_TEST_ZIGZAG, 23, &a));
        a.kind = (op_kind)kind;
        bool reduces = kind == REDUCE || kind == REDUCE_TWICE;
        for (int64_t i = 0; i < BATCH * 23 * WIDTH; i++)
            x[i] = (lh_real)((double)((i * 37 + lh_comm_rank(c) * 11) % 101) / 50.0 - 1.0);
        lh_gradcheck g = stage_check(&a);
        g.record = collective_record;
        g.total = collective_total;
        g.in[0] = (lh_gradcheck_input){
            lh_shape_3(LH_REAL, BATCH, a.layout->rows[a.mesh->coord[LH_AXIS_SEQ]], WIDTH),
            reduces ? lh_place_partial() : lh_place_tokens(a.layout), x, true};
        if (reduces) g.in[0].shape.dim[1] = 23;
        lh_assert_all_ok(c, lh_gradcheck_open(&g, &run));
        lh_assert_all_ok(c, lh_gradcheck_step(&run));
        lh_assert_all(c, lh_gradcheck_adjoint(&run) <= lh_tol_sum(BATCH * 23 * WIDTH));
        lh_gradcheck_close(&run);
        stage_close(&a);
    }
}

/* --- placements --- */

static void placements(void **state)
{
    lh_comm *c = *state;
    stage a;
    lh_tape *t = NULL;
    lh_memory *memory = NULL;
    lh_var y;
    lh_var two[2];
    lh_var x[6];
    static const char data = 0;
    lh_assert_all_ok(c, stage_open(c, 1, LH_TEST_EVEN, 12, &a));
    lh_assert_all_ok(c, lh_tape_create(a.mesh->size, a.mesh->coord, &t));
    lh_assert_all_ok(c, lh_memory_create(&memory));
    lh_assert_all_ok(c, lh_memory_count_begin(memory));
    lh_tape_reset(t, a.count, memory, false);
    int64_t rows = a.layout->rows[a.mesh->coord[LH_AXIS_SEQ]];
    const lh_shape tokens = lh_shape_3(LH_REAL, BATCH, rows, WIDTH);
    const struct {
        lh_shape shape;
        lh_place place;
    } value[6] = {{tokens, lh_place_partial()},
                  {tokens, lh_place_replicated()},
                  {tokens, lh_place_tokens(a.layout)},
                  {lh_shape_3(LH_INT32, BATCH, rows, WIDTH), lh_place_partial()},
                  {lh_shape_2(LH_REAL, rows, WIDTH), lh_place_rows(a.layout)},
                  {lh_shape_4(LH_REAL, BATCH, rows, WIDTH, 1), lh_place_tokens(a.layout)}};
    for (int i = 0; i < 6; i++)
        lh_assert_all_ok(c, lh_tape_input(t, &data, value[i].shape, value[i].place, &x[i]));
    lh_assert_all_ok(c, lh_all_reduce(t, a.counting, LH_AXIS_SEQ, x[0], &y));
    const lh_place *place = lh_var_place(t, y);
    lh_assert_all(c, place->axis[LH_AXIS_SEQ].kind == LH_REPLICATE);
    lh_assert_all(c, place->axis[LH_AXIS_DATA].kind == LH_PARTIAL);
    for (int i = 1; i < 4; i++) /* replicated, sharded, integers */
        lh_assert_all_code(c, lh_all_reduce(t, a.counting, LH_AXIS_SEQ, x[i], &y), LH_ERR_BUG);
    lh_assert_all_ok(c, lh_all_reduce(t, a.counting, LH_AXIS_SEQ, x[0], &y));
    lh_assert_all_code(c, lh_all_reduce(t, a.counting, LH_AXIS_SEQ, y, &y), LH_ERR_BUG); /* twice */
    lh_assert_all_code(c, lh_all_reduce_all(t, a.counting, LH_AXIS_SEQ, 2, x, two), LH_ERR_BUG);
    lh_assert_all_code(c, lh_all_reduce_all(t, a.counting, LH_AXIS_SEQ, 9, x, two), LH_ERR_BUG);
    lh_assert_all_ok(c, lh_max_reduce(t, a.counting, x[0], &y));
    lh_assert_all(c, lh_var_place(t, y)->axis[LH_AXIS_SEQ].kind == LH_REPLICATE);
    lh_assert_all(c, lh_var_place(t, y)->axis[LH_AXIS_DATA].kind == LH_PARTIAL);
    lh_assert_all_code(c, lh_max_reduce(t, a.counting, x[2], &y), LH_ERR_BUG); /* by position */
    lh_assert_all_code(c, lh_max_reduce(t, a.counting, x[3], &y), LH_ERR_BUG); /* integers */
    lh_assert_all_ok(c, lh_gather(t, a.counting, x[2], &y));
    lh_assert_all(c, lh_var_place(t, y)->axis[LH_AXIS_SEQ].kind == LH_REPLICATE);
    lh_assert_all(c, lh_var_shape(t, y)->dim[1] == 12);
    for (int i = 0; i < 6; i++) /* only tokens [B, s, W] are gathered */
        if (i != 2) lh_assert_all_code(c, lh_gather(t, a.counting, x[i], &y), LH_ERR_BUG);
    lh_memory_destroy(&memory);
    lh_tape_destroy(&t);
    stage_close(&a);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_reduce),     cmocka_unit_test(all_reduce_all),
        cmocka_unit_test(max_reduce),     cmocka_unit_test(gather),
        cmocka_unit_test(reduce_scatter), cmocka_unit_test(scan),
        cmocka_unit_test(scan_adjoint),   cmocka_unit_test(scan_formula),
        cmocka_unit_test(scan_layouts),   cmocka_unit_test(scan_refuses),
        cmocka_unit_test(adjoints),       cmocka_unit_test(placements),
    };
    return lh_test_mpi_main(argc, argv, "collectives", tests, sizeof tests / sizeof tests[0]);
}
