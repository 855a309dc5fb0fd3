/* Exchanges of rows: what arrives is bitwise what was there, the adjoint brings gradients home,
 * bytes are exact. */
#include "core/ops.h"
#include "core/random.h"
#include "parallel/exchange.h"
#include "tests/lh_gradcheck.h"
#include "tests/lh_test_mpi.h"
#include "tests/lh_test_scenes.h"
#include "tests/tol.h"

#include <string.h>

enum { BATCH = 2, ELEMENTS = 3, SEED = 21 };

typedef enum need_kind {
    NEED_NOTHING,
    NEED_ALL,
    NEED_WINDOW,
    NEED_FIRST,
    NEED_RANDOM,
    NEED_KINDS
} need_kind;

typedef struct need {
    const lh_layout *layout;
    need_kind kind;
    int64_t reach;
} need;

/* Does the rank need the position? */
static bool needs_position(const need *n, int rank, int64_t p)
{
    if (n->kind == NEED_ALL) return true;
    if (n->kind == NEED_FIRST) return p < 4;
    if (n->kind == NEED_RANDOM) return lh_random_u32(SEED, (uint64_t)rank, (uint64_t)p) % 3 == 0;
    for (int64_t r = 0; n->kind == NEED_WINDOW && r < n->layout->rows[rank]; r++) {
        int64_t own = lh_layout_position(n->layout, rank, r);
        if (own - n->reach <= p && p <= own + n->reach) return true;
    }
    return false;
}

static lh_status need_runs(const void *user, int rank, lh_runs *out)
{
    const need *n = user;
    for (int64_t p = 0; p < n->layout->n; p++) {
        if (!needs_position(n, rank, p)) continue;
        lh_status st = lh_runs_add(out, p, 1, 1);
        if (st != LH_OK) return st;
    }
    return LH_OK;
}

typedef struct stage {
    lh_mesh *mesh, *counting;
    lh_device *device, *count;
    lh_layout *layout;
    lh_exchange *x;
    need n;
    lh_dtype store; /* of the tape */
    bool recompute;
} stage;

static lh_status stage_open(lh_comm *c, lh_test_layout_kind kind, int64_t n, need_kind needs,
                            int64_t reach, stage *a)
{
    lh_status st = LH_OK;
    int ranks = lh_comm_size(c);
    *a = (stage){.n = {.kind = needs, .reach = reach}};
    LH_TRY(lh_mesh_create(1, &a->mesh));
    LH_TRY(lh_mesh_create_counting(1, ranks, lh_comm_rank(c), &a->counting));
    LH_TRY(lh_device_create_poison(lh_test_isa(), 1, &a->device));
    LH_TRY(lh_device_create_count(lh_test_isa(), 1, &a->count));
    LH_TRY(lh_test_layout(kind, n, ranks, 4, &a->layout));
    a->n.layout = a->layout;
    LH_TRY(lh_exchange_create(a->layout, lh_comm_rank(c), &(lh_needs){need_runs, &a->n, false},
                              &a->x));
done:
    return st;
}

static void stage_close(stage *a)
{
    lh_exchange_destroy(&a->x);
    lh_layout_destroy(&a->layout);
    lh_device_destroy(&a->count);
    lh_device_destroy(&a->device);
    lh_mesh_destroy(&a->counting);
    lh_mesh_destroy(&a->mesh);
}

static lh_real element(int tensor, int64_t b, int64_t position, int64_t i)
{
    uint64_t index = ((uint64_t)b << 40) + ((uint64_t)position << 8) + (uint64_t)i;
    return (lh_real)lh_random_normal(SEED, lh_stream_id(LH_STREAM_TEST, (uint32_t)tensor), index);
}

/* Position of row `row` of all that the exchange brings. */
static int64_t received_position(const lh_exchange *x, int64_t row)
{
    for (int s = 0; s < x->n_steps; s++) {
        const lh_runs *runs = &x->step[s].positions;
        int64_t left = row - x->step[s].offset;
        if (left < 0 || left >= x->step[s].recv_rows) continue;
        for (int64_t r = 0; r < runs->count; left -= runs->run[r].count, r++)
            if (left < runs->run[r].count) return runs->run[r].start + left * runs->run[r].stride;
    }
    return -1;
}

/* Every position that the rank needs and does not have arrives, once. */
static bool arrives_once(const stage *a, int rank)
{
    int64_t want = 0;
    int64_t last_total = a->x->total_recv;
    bool ok = true;
    for (int64_t p = 0; p < a->layout->n; p++) {
        bool own = false;
        int64_t seen = 0;
        for (int64_t r = 0; r < a->layout->rows[rank]; r++)
            own = own || lh_layout_position(a->layout, rank, r) == p;
        for (int64_t r = 0; r < last_total; r++) seen += received_position(a->x, r) == p;
        bool needed = needs_position(&a->n, rank, p) && !own;
        ok = ok && seen == (needed ? 1 : 0);
        want += needed;
    }
    return ok && want == last_total;
}

/* --- the tape operation --- */

static lh_status fetch_record(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    stage *a = user;
    lh_mesh *mesh = lh_tape_device(t)->counting ? a->counting : a->mesh;
    *n_out = 1;
    if (!a->recompute) return lh_fetch_rows(t, mesh->axis[LH_AXIS_SEQ], a->x, in[0], &out[0]);
    lh_var rows;
    LH_TRY(lh_tape_segment_begin(t));
    LH_TRY(lh_fetch_rows(t, mesh->axis[LH_AXIS_SEQ], a->x, in[0], &rows));
    LH_TRY(lh_rms_norm(t, rows, in[1], 1e-6, &out[0])); /* its gradient reads the rows */
    LH_TRY(lh_tape_segment_end(t));
done:
    return st;
}

static double fetch_total(void *user, double mine)
{
    lh_sum_f64(((stage *)user)->mesh->world, &mine, 1, LH_SEND_OTHER);
    return mine;
}

/* What arrives of a number. */
static lh_real arrives(const stage *a, lh_real x)
{
    if (a->store == LH_BF16) a->device->kernels->round_bf16(&(lh_bf16_args){1, &x, &x}, 1);
    return x;
}

static bool rows_bitwise(const stage *a, const lh_real *y)
{
    bool ok = true;
    for (int64_t b = 0; b < BATCH; b++)
        for (int64_t r = 0; r < a->x->total_recv; r++)
            for (int64_t i = 0; i < ELEMENTS; i++) {
                /* no zeros or NaN here: equal numbers are equal bits */
                ok = ok && y[(b * a->x->total_recv + r) * ELEMENTS + i] ==
                               arrives(a, element(0, b, received_position(a->x, r), i));
            }
    return ok;
}

static bool bytes_exact(const stage *a, const lh_traffic *t, int64_t steps)
{
    int64_t row = BATCH * ELEMENTS * (int64_t)lh_dtype_bytes(a->store);
    int64_t again = a->recompute ? row * a->x->total_send : 0;
    int64_t messages = 0;
    int64_t back = 0;
    for (int s = 0; s < a->x->n_steps; s++) {
        messages += a->x->step[s].send_rows > 0;
        back += a->x->step[s].recv_rows > 0;
    }
    return t->bytes[LH_SEND_FORWARD] == steps * row * a->x->total_send &&
           t->bytes[LH_SEND_BACKWARD] == steps * row * a->x->total_recv &&
           t->bytes[LH_SEND_RECOMPUTE] == steps * again &&
           t->messages[LH_SEND_FORWARD] == steps * messages &&
           t->messages[LH_SEND_BACKWARD] == steps * back &&
           lh_traffic_step(t) == steps * (row * (a->x->total_send + a->x->total_recv) + again);
}

static void run_operation(lh_comm *c, stage *a)
{
    lh_real ones[ELEMENTS] = {1, 2, 3};
    lh_real *x = NULL;
    lh_gradcheck_run run;
    int rank = lh_comm_rank(c);
    int64_t rows = a->layout->rows[rank];
    lh_assert_all_ok(c, lh_new((size_t)(BATCH * rows * ELEMENTS) * sizeof *x, &x));
    for (int64_t b = 0; b < BATCH; b++)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < ELEMENTS; i++)
                x[(b * rows + r) * ELEMENTS + i] =
                    element(0, b, lh_layout_position(a->layout, rank, r), i);
    lh_gradcheck g = {
        .device = a->device,
        .count = a->count,
        .size = {1, lh_comm_size(c)},
        .coord = {0, rank},
        .store = a->store,
        .n_in = a->recompute ? 2 : 1,
        .in = {{lh_shape_3(LH_REAL, BATCH, rows, ELEMENTS), lh_place_tokens(a->layout), x, true},
               {lh_shape_1(LH_REAL, ELEMENTS), lh_place_replicated(), ones, false}},
        .record = fetch_record,
        .total = fetch_total,
        .user = a};
    lh_assert_all_ok(c, lh_gradcheck_open(&g, &run));
    lh_assert_all_ok(c, lh_gradcheck_step(&run));
    lh_assert_all_ok(c, lh_gradcheck_step(&run));
    lh_assert_all(c, run.allocations == 0);
    lh_assert_all(c, bytes_exact(a, a->counting->traffic, 1));
    lh_assert_all(c, bytes_exact(a, a->mesh->traffic, 2));
    if (!a->recompute) {
        lh_assert_all(c, rows_bitwise(a, run.out[0]));
        double n = (double)(BATCH * ELEMENTS * a->layout->n * lh_comm_size(c));
        double rounding = a->store == LH_BF16 ? 1.0 / 256.0 : 0.0;
        lh_assert_all(c, lh_gradcheck_adjoint(&run) <= lh_tol_sum(n) + rounding);
    }
    lh_gradcheck_close(&run);
    lh_free(&x);
}

static void operation(void **state)
{
    lh_comm *c = *state;
    static const int64_t lengths[] = {1, 3, 37};
    for (int kind = 0; kind < LH_TEST_LAYOUTS; kind++)
        for (int needs = 0; needs < NEED_KINDS; needs++)
            for (int n = 0; n < 3; n++) {
                stage a;
                lh_assert_all_ok(c, stage_open(c, (lh_test_layout_kind)kind, lengths[n],
                                               (need_kind)needs, 5, &a));
                lh_assert_all(c, arrives_once(&a, lh_comm_rank(c)));
                run_operation(c, &a);
                stage_close(&a);
            }
}

/* A window of several hops, and one that only the neighbours see. */
static void hops(void **state)
{
    lh_comm *c = *state;
    int ranks = lh_comm_size(c);
    for (int64_t reach = 1; reach <= 40; reach += 13) {
        stage a;
        lh_assert_all_ok(c,
                         stage_open(c, LH_TEST_EVEN, (int64_t)ranks * 8, NEED_WINDOW, reach, &a));
        int far = (int)((reach + 7) / 8); /* ranks on each side, eight positions each */
        int around = 0;
        for (int r = 0; r < ranks; r++) {
            int distance = r > lh_comm_rank(c) ? r - lh_comm_rank(c) : lh_comm_rank(c) - r;
            around += distance > 0 && distance <= far;
        }
        int sends = 0;
        int receives = 0;
        for (int s = 0; s < a.x->n_steps; s++) {
            sends += a.x->step[s].send_rows > 0;
            receives += a.x->step[s].recv_rows > 0;
        }
        lh_assert_all(c, sends == around && receives == around);
        run_operation(c, &a);
        stage_close(&a);
    }
}

/* Half of the bytes, for rows and gradients that are rounded. */
static void as_bfloat16(void **state)
{
    lh_comm *c = *state;
    for (int needs = 0; needs < NEED_KINDS; needs++) {
        stage a;
        lh_assert_all_ok(c, stage_open(c, LH_TEST_EVEN, 37, (need_kind)needs, 5, &a));
        a.store = LH_BF16;
        run_operation(c, &a);
        stage_close(&a);
    }
}

static void recomputed(void **state)
{
    lh_comm *c = *state;
    stage a;
    lh_assert_all_ok(c, stage_open(c, LH_TEST_EVEN, 37, NEED_WINDOW, 9, &a));
    a.recompute = true;
    run_operation(c, &a);
    stage_close(&a);
}

/* --- several tensors in one message --- */

enum { TENSORS = LH_EXCHANGE_TENSORS, ROOM = 64 * BATCH * ELEMENTS };

typedef struct flight {
    lh_transfer x;
    void *home[TENSORS], *block[TENSORS];
    lh_real host[ROOM];
} flight;

static lh_status flight_open(lh_comm *c, const stage *a, int n, flight *f)
{
    lh_status st = LH_OK;
    int rank = lh_comm_rank(c);
    int64_t rows = a->layout->rows[rank];
    int64_t most = a->x->max_send > a->x->max_recv ? a->x->max_send : a->x->max_recv;
    *f = (flight){.x = {.comm = a->mesh->axis[LH_AXIS_SEQ],
                        .device = a->device,
                        .exchange = a->x,
                        .n = n,
                        .batch = BATCH,
                        .width = ELEMENTS,
                        .rows = rows,
                        .block_rows = a->x->total_recv,
                        .purpose = LH_SEND_FORWARD}};
    LH_TRY(lh_host_alloc(lh_transfer_bytes(&f->x, most), &f->x.send));
    LH_TRY(lh_host_alloc(lh_transfer_bytes(&f->x, most), &f->x.recv));
    for (int k = 0; k < n; k++) {
        LH_TRY(lh_device_alloc(a->device, ROOM * sizeof(lh_real), &f->home[k]));
        LH_TRY(lh_device_alloc(a->device, ROOM * sizeof(lh_real), &f->block[k]));
        for (int64_t e = 0; e < BATCH * rows * ELEMENTS; e++)
            f->host[e] =
                element(k, e / (rows * ELEMENTS),
                        lh_layout_position(a->layout, rank, e / ELEMENTS % rows), e % ELEMENTS);
        lh_copy_in(a->device, f->home[k], f->host,
                   (size_t)(BATCH * rows * ELEMENTS) * sizeof(lh_real));
    }
done:
    return st;
}

static void flight_close(const stage *a, flight *f)
{
    for (int k = 0; k < TENSORS; k++) {
        lh_device_release(a->device, &f->home[k]);
        lh_device_release(a->device, &f->block[k]);
    }
    lh_host_release(&f->x.send);
    lh_host_release(&f->x.recv);
}

static bool flight_arrived(const stage *a, flight *f, int k)
{
    bool ok = true;
    int64_t n = a->x->total_recv;
    lh_copy_out(a->device, f->host, f->block[k], (size_t)(BATCH * n * ELEMENTS) * sizeof(lh_real));
    for (int64_t e = 0; e < BATCH * n * ELEMENTS; e++)
        ok = ok && f->host[e] == element(k, e / (n * ELEMENTS),
                                         received_position(a->x, e / ELEMENTS % n), e % ELEMENTS);
    return ok;
}

/* What a rank sends back for a position: small integers, so that sums are exact in any order. */
static lh_real gradient(int rank, int k, int64_t position, int64_t i)
{
    return (lh_real)((rank + 1) * 100 + k * 10 + (position * 3 + i) % 7);
}

static bool flight_returned(const stage *a, flight *f, int rank, int k)
{
    bool ok = true;
    int64_t rows = a->layout->rows[rank];
    lh_copy_out(a->device, f->host, f->home[k],
                (size_t)(BATCH * rows * ELEMENTS) * sizeof(lh_real));
    for (int64_t e = 0; e < BATCH * rows * ELEMENTS; e++) {
        int64_t p = lh_layout_position(a->layout, rank, e / ELEMENTS % rows);
        lh_real want = 0;
        for (int q = 0; q < a->layout->ranks; q++)
            if (q != rank && needs_position(&a->n, q, p)) want += gradient(q, k, p, e % ELEMENTS);
        ok = ok && f->host[e] == want;
    }
    return ok;
}

static void run_flight(lh_comm *c, const stage *a, int n)
{
    flight f;
    int rank = lh_comm_rank(c);
    int64_t rows = a->x->total_recv;
    lh_assert_all_ok(c, flight_open(c, a, n, &f));
    for (int i = 0; i < a->x->n_steps; i++) {
        lh_fetch_start(&f.x, i, (const void *const *)f.home);
        lh_fetch_finish(&f.x, i, f.block, a->x->step[i].offset);
    }
    for (int k = 0; k < n; k++) {
        lh_assert_all(c, flight_arrived(a, &f, k));
        for (int64_t e = 0; e < BATCH * rows * ELEMENTS; e++)
            f.host[e] =
                gradient(rank, k, received_position(a->x, e / ELEMENTS % rows), e % ELEMENTS);
        lh_copy_in(a->device, f.block[k], f.host,
                   (size_t)(BATCH * rows * ELEMENTS) * sizeof(lh_real));
        lh_run_fill(a->device, &(lh_fill_args){ROOM, 0.0, f.home[k]});
    }
    f.x.purpose = LH_SEND_BACKWARD;
    for (int i = 0; i < a->x->n_steps; i++) {
        lh_return_start(&f.x, i, (const void *const *)f.block, a->x->step[i].offset);
        lh_return_finish(&f.x, i, f.home);
    }
    for (int k = 0; k < n; k++) lh_assert_all(c, flight_returned(a, &f, rank, k));
    flight_close(a, &f);
}

static void several_tensors(void **state)
{
    lh_comm *c = *state;
    for (int kind = 0; kind < LH_TEST_LAYOUTS; kind++)
        for (int needs = NEED_ALL; needs < NEED_KINDS; needs++) {
            stage a;
            lh_assert_all_ok(c,
                             stage_open(c, (lh_test_layout_kind)kind, 23, (need_kind)needs, 6, &a));
            run_flight(c, &a, 1 + (kind + needs) % TENSORS);
            stage_close(&a);
        }
}

/* --- rows from one layout to another --- */

enum { MOVE_SHUFFLED = LH_TEST_LAYOUTS, MOVE_LAYOUTS, MOVE_COPIES = 2 };

typedef struct move {
    lh_mesh *mesh, *counting;
    lh_device *device, *count;
    lh_layout *from, *to;
    lh_moves *moves;
    int rank;
} move;

/* Two residue classes of positions on every rank, side by side, the higher one first. */
static lh_status shuffled(int64_t n, int ranks, lh_layout **out)
{
    int64_t first[65] = {0};
    lh_run run[128];
    int64_t used = 0;
    int64_t classes = 2 * (int64_t)ranks;
    if (ranks > 64) return LH_RAISE(LH_ERR_BUG, "%d ranks", ranks);
    for (int r = 0; r < ranks; r++) {
        const int64_t residue[2] = {classes - 1 - r, r};
        for (int i = 0; i < 2; i++)
            if (residue[i] < n)
                run[used++] = (lh_run){residue[i], (n - 1 - residue[i]) / classes + 1, classes};
        first[r + 1] = used;
    }
    return lh_layout_from_runs(n, ranks, 4, first, run, out);
}

static lh_status move_layout(int kind, int64_t n, int ranks, lh_layout **out)
{
    if (kind == MOVE_SHUFFLED) return shuffled(n, ranks, out);
    return lh_test_layout((lh_test_layout_kind)kind, n, ranks, 4, out);
}

static lh_status move_open(lh_comm *c, int from, int64_t n, int to, int64_t m, move *a)
{
    lh_status st = LH_OK;
    int ranks = lh_comm_size(c);
    *a = (move){.rank = lh_comm_rank(c)};
    LH_TRY(lh_mesh_create(1, &a->mesh));
    LH_TRY(lh_mesh_create_counting(1, ranks, a->rank, &a->counting));
    LH_TRY(lh_device_create_poison(lh_test_isa(), 1, &a->device));
    LH_TRY(lh_device_create_count(lh_test_isa(), 1, &a->count));
    LH_TRY(move_layout(from, n, ranks, &a->from));
    LH_TRY(move_layout(to, m, ranks, &a->to));
    LH_TRY(lh_moves_create(a->from, a->to, a->rank, &a->moves));
done:
    return st;
}

static void move_close(move *a)
{
    lh_moves_destroy(&a->moves);
    lh_layout_destroy(&a->to);
    lh_layout_destroy(&a->from);
    lh_device_destroy(&a->count);
    lh_device_destroy(&a->device);
    lh_mesh_destroy(&a->counting);
    lh_mesh_destroy(&a->mesh);
}

static lh_status move_record(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    move *a = user;
    lh_mesh *mesh = lh_tape_device(t)->counting ? a->counting : a->mesh;
    *n_out = MOVE_COPIES; /* the second one's gradient adds */
    for (int k = 0; k < MOVE_COPIES; k++)
        LH_TRY(lh_move_rows(t, mesh->axis[LH_AXIS_SEQ], a->moves, in[0], &out[k]));
done:
    return st;
}

static double move_total(void *user, double mine)
{
    lh_sum_f64(((move *)user)->mesh->world, &mine, 1, LH_SEND_OTHER);
    return mine;
}

/* Position by position: who has it, who wants it. */
static void move_count(const move *a, int64_t *sent, int64_t *received)
{
    *sent = *received = 0;
    for (int64_t p = 0; p < a->to->n; p++) {
        bool had = lh_layout_row(a->from, a->rank, p) >= 0;
        bool wanted = lh_layout_row(a->to, a->rank, p) >= 0;
        *sent += had && !wanted;
        *received += wanted && !had;
    }
}

static lh_real move_seed(int copy, int64_t p, int64_t i)
{
    return (lh_real)(1 + (p * 3 + i + copy * 8) % 64);
}

static bool move_right(const move *a, const lh_gradcheck_run *run)
{
    bool ok = true;
    for (int64_t e = 0; e < a->to->rows[a->rank] * ELEMENTS; e++) {
        int64_t p = lh_layout_position(a->to, a->rank, e / ELEMENTS);
        for (int k = 0; k < MOVE_COPIES; k++)
            ok = ok && ((const lh_real *)run->out[k])[e] == element(0, 0, p, e % ELEMENTS);
    }
    for (int64_t e = 0; e < a->from->rows[a->rank] * ELEMENTS; e++) {
        int64_t p = lh_layout_position(a->from, a->rank, e / ELEMENTS);
        lh_real dx = 0;
        for (int k = 0; k < MOVE_COPIES && p < a->to->n; k++) dx += move_seed(k, p, e % ELEMENTS);
        ok = ok && run->grad[0][e] == dx;
    }
    return ok;
}

static bool move_bytes(const move *a, const lh_traffic *t, int64_t steps)
{
    int64_t row = ELEMENTS * (int64_t)lh_dtype_bytes(LH_REAL) * steps * MOVE_COPIES;
    int64_t sent = 0;
    int64_t received = 0;
    int64_t said[2] = {-1, -1};
    move_count(a, &sent, &received);
    lh_moves_rows(a->moves, &said[0], &said[1]);
    return said[0] == sent && said[1] == received && t->bytes[LH_SEND_FORWARD] == row * sent &&
           t->bytes[LH_SEND_BACKWARD] == row * received &&
           lh_traffic_step(t) == row * (sent + received);
}

static void run_move(lh_comm *c, move *a)
{
    lh_gradcheck_run run;
    lh_real *x = NULL;
    lh_real *seed[MOVE_COPIES] = {NULL};
    int64_t had = a->from->rows[a->rank] * ELEMENTS;
    int64_t wanted = a->to->rows[a->rank] * ELEMENTS;
    lh_assert_all_ok(c, lh_new((size_t)had * sizeof *x, &x));
    for (int64_t e = 0; e < had; e++)
        x[e] = element(0, 0, lh_layout_position(a->from, a->rank, e / ELEMENTS), e % ELEMENTS);
    for (int k = 0; k < MOVE_COPIES; k++) {
        lh_assert_all_ok(c, lh_new((size_t)wanted * sizeof *x, &seed[k]));
        for (int64_t e = 0; e < wanted; e++)
            seed[k][e] =
                move_seed(k, lh_layout_position(a->to, a->rank, e / ELEMENTS), e % ELEMENTS);
    }
    lh_gradcheck g = {.device = a->device,
                      .count = a->count,
                      .size = {1, lh_comm_size(c)},
                      .coord = {0, a->rank},
                      .n_in = 1,
                      .in = {{lh_shape_2(LH_REAL, a->from->rows[a->rank], ELEMENTS),
                              lh_place_rows(a->from), x, true}},
                      .record = move_record,
                      .total = move_total,
                      .seed = {seed[0], seed[1]},
                      .user = a};
    lh_assert_all_ok(c, lh_gradcheck_open(&g, &run));
    lh_assert_all_ok(c, lh_gradcheck_step(&run));
    lh_assert_all_ok(c, lh_gradcheck_step(&run));
    lh_assert_all(c, move_right(a, &run));
    lh_assert_all(c, run.allocations == 0);
    lh_assert_all(c, lh_gradcheck_adjoint(&run) <= lh_tol_sum((double)(ELEMENTS * a->from->n)));
    lh_assert_all(c, move_bytes(a, a->counting->traffic, 1));
    lh_assert_all(c, move_bytes(a, a->mesh->traffic, 2));
    lh_gradcheck_close(&run);
    lh_free(&x);
    for (int k = 0; k < MOVE_COPIES; k++) lh_free(&seed[k]);
}

static void move_rows(void **state)
{
    lh_comm *c = *state;
    static const int64_t lengths[][2] = {{37, 37}, {37, 20}, {5, 2}, {3, 0}};
    for (int from = 0; from < MOVE_LAYOUTS; from++)
        for (int to = 0; to < MOVE_LAYOUTS; to++) {
            const int64_t *n = lengths[(from + 2 * to) % 4];
            move a;
            lh_assert_all_ok(c, move_open(c, from, n[0], to, n[1], &a));
            run_move(c, &a);
            move_close(&a);
        }
}

static void move_refuses(void **state)
{
    lh_comm *c = *state;
    move a;
    lh_moves *m = NULL;
    lh_layout *other = NULL;
    lh_tape *t = NULL;
    lh_var x;
    lh_var y;
    static const char data = 0;
    int ranks = lh_comm_size(c);
    lh_assert_all_ok(c, move_open(c, LH_TEST_EVEN, 12, MOVE_SHUFFLED, 10, &a));
    lh_assert_all_code(c, lh_moves_create(a.to, a.from, a.rank, &m), LH_ERR_BUG); /* too short */
    lh_assert_all_ok(c, lh_layout_everywhere(5, ranks, 4, &other));
    lh_assert_all_code(c, lh_moves_create(a.from, other, a.rank, &m), LH_ERR_BUG);
    lh_layout_destroy(&other);
    lh_assert_all_ok(c, lh_layout_contiguous(5, ranks + 1, 4, true, &other));
    lh_assert_all_code(c, lh_moves_create(a.from, other, a.rank, &m), LH_ERR_BUG);
    lh_assert_all_ok(c, lh_tape_create(a.mesh->size, a.mesh->coord, &t));
    lh_tape_reset(t, a.count, NULL, false);
    lh_shape shape = lh_shape_2(LH_REAL, a.from->rows[a.rank], 3);
    lh_assert_all_ok(c, lh_tape_input(t, &data, shape, lh_place_replicated(), &x));
    lh_assert_all_code(c, lh_move_rows(t, a.counting->axis[LH_AXIS_SEQ], a.moves, x, &y),
                       LH_ERR_BUG);
    shape.dim[0]++;
    lh_assert_all_ok(c, lh_tape_input(t, &data, shape, lh_place_rows(a.from), &x));
    lh_assert_all_code(c, lh_move_rows(t, a.counting->axis[LH_AXIS_SEQ], a.moves, x, &y),
                       LH_ERR_BUG);
    lh_tape_destroy(&t);
    int64_t failures = 0; /* a rank's own: plans differ, so do their allocations */
    bool ok = true;
    for (; m == NULL && failures < 1000; failures++) {
        lh_new_fail_at(failures + 1);
        lh_status st = lh_moves_create(a.from, a.to, a.rank, &m);
        lh_new_fail_at(0);
        ok = ok && st == (m == NULL ? LH_ERR_MEMORY : LH_OK);
    }
    lh_assert_all(c, ok && failures > 4 && m != NULL);
    lh_moves_destroy(&m);
    lh_layout_destroy(&other);
    move_close(&a);
}

/* --- errors --- */

static lh_status beyond_runs(const void *user, int rank, lh_runs *out)
{
    (void)rank;
    return lh_runs_add(out, *(const int64_t *)user, 1, 1);
}

static void refuses(void **state)
{
    lh_comm *c = *state;
    lh_layout *l = NULL;
    lh_exchange *x = NULL;
    const int64_t beyond = 10;
    lh_assert_all_ok(c, lh_layout_contiguous(10, 3, 4, true, &l));
    lh_assert_all_code(c, lh_exchange_create(l, 1, &(lh_needs){beyond_runs, &beyond, false}, &x),
                       LH_ERR_BUG);
    lh_assert_all(c, x == NULL);
    need n = {l, NEED_RANDOM, 0};
    int64_t failures = 0;
    for (; x == NULL && failures < 1000; failures++) {
        lh_new_fail_at(failures + 1);
        lh_status st = lh_exchange_create(l, 1, &(lh_needs){need_runs, &n, false}, &x);
        lh_new_fail_at(0);
        lh_assert_all(c, st == (x == NULL ? LH_ERR_MEMORY : LH_OK));
    }
    lh_assert_all(c, failures > 4 && x != NULL);
    lh_exchange_destroy(&x);
    lh_layout_destroy(&l);
}

static void refuses_what_is_not_sharded(void **state)
{
    lh_comm *c = *state;
    stage a;
    lh_tape *t = NULL;
    lh_var x;
    lh_var y;
    static const char data = 0;
    lh_assert_all_ok(c, stage_open(c, LH_TEST_EVEN, 10, NEED_ALL, 0, &a));
    lh_assert_all_ok(c, lh_tape_create(a.mesh->size, a.mesh->coord, &t));
    lh_tape_reset(t, a.count, NULL, false);
    lh_assert_all_ok(
        c, lh_tape_input(t, &data, lh_shape_3(LH_REAL, 1, 10, 2), lh_place_replicated(), &x));
    lh_assert_all_code(c, lh_fetch_rows(t, a.counting->axis[LH_AXIS_SEQ], a.x, x, &y), LH_ERR_BUG);
    lh_assert_all_ok(
        c, lh_tape_input(t, &data, lh_shape_2(LH_REAL, 1, 10), lh_place_tokens(a.layout), &x));
    lh_assert_all_code(c, lh_fetch_rows(t, a.counting->axis[LH_AXIS_SEQ], a.x, x, &y), LH_ERR_BUG);
    lh_tape_destroy(&t);
    stage_close(&a);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operation),
        cmocka_unit_test(hops),
        cmocka_unit_test(as_bfloat16),
        cmocka_unit_test(recomputed),
        cmocka_unit_test(several_tensors),
        cmocka_unit_test(move_rows),
        cmocka_unit_test(move_refuses),
        cmocka_unit_test(refuses),
        cmocka_unit_test(refuses_what_is_not_sharded),
    };
    return lh_test_mpi_main(argc, argv, "exchange", tests, sizeof tests / sizeof tests[0]);
}
