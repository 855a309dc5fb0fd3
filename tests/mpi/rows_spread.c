/* Heads over ranks: whose heads they are; values and gradients against the definition, element by
 * element, and the adjoint identity, on layouts of stretches, for heads that nothing divides. */
#include "tests/mpi/rows_spread.h"

#include <string.h>

#include "core/ops.h"
#include "parallel/spread.h"
#include "tests/lh_gradcheck.h"
#include "tests/lh_test_mpi.h"
#include "tests/lh_test_scenes.h"
#include "tests/tol.h"

enum { BATCH = 2, WIDTH = 3, CHUNK = 4, HELD = 2 };
enum { IN_Q, IN_K, IN_HELD, INPUTS };            /* HELD: replicated, [B, HELD, H, D] */
enum { OUT_Q, OUT_K, OUT_BACK, OUT_PART, OUTS }; /* by heads; back by position; own heads of HELD */

/* --- whose heads --- */

/* Ranges follow one another, are as even as possible, and have the key/value heads that they use. */
static bool ranges_right(int64_t heads, int64_t kv, int ways)
{
    int64_t group = heads / kv;
    int64_t next = 0;
    bool ok = true;
    for (int u = 0; u < ways; u++) {
        lh_head_range r = lh_spread_heads(heads, kv, ways, u);
        ok = ok && r.head == next && r.n_heads >= heads / ways &&
             r.n_heads <= (heads + ways - 1) / ways;
        next += r.n_heads;
        ok = ok && (r.kv_heads == 0) == (r.n_heads == 0);
        if (r.n_heads == 0) continue;
        ok =
            ok && r.kv_first == r.head / group && r.kv_first + r.kv_heads - 1 == (next - 1) / group;
        /* where one divides the other, no more key/value heads than there must be */
        if (kv % ways == 0) ok = ok && r.kv_heads == kv / ways;
        if (ways % kv == 0) ok = ok && r.kv_heads == 1;
    }
    return ok && next == heads;
}

void heads_of_ranks(void **state)
{
    bool ok = true;
    for (int64_t heads = 1; heads <= 24; heads++)
        for (int64_t kv = 1; kv <= heads; kv++)
            for (int ways = 1; ways <= 9 && heads % kv == 0; ways++)
                ok = ok && ranges_right(heads, kv, ways);
    lh_assert_all(*state, ok);
}

/* --- values --- */

typedef struct spread_stage {
    lh_mesh *mesh, *counting;
    lh_device *device, *count;
    lh_layout *layout;
    lh_spread *spread;
    int rank, ring, ways;
    int64_t rows, group_rows, heads, kv;
    lh_head_range mine;
    lh_real *in[INPUTS], *ones;
} spread_stage;

static lh_real value_of(int tensor, int64_t b, int64_t p, int64_t head, int64_t e)
{
    return (lh_real)(1 + (tensor * 5 + b * 31 + p * 7 + head * 11 + e * 3) % 64);
}

static int64_t heads_in(const spread_stage *a, int tensor)
{
    return tensor == IN_K ? a->kv : a->heads;
}

static lh_status spread_open(lh_comm *c, lh_test_layout_kind kind, int64_t n, spread_stage *a)
{
    lh_status st = LH_OK;
    int ranks = lh_comm_size(c);
    int64_t most = BATCH * (n + HELD) * a->heads * WIDTH;
    a->rank = lh_comm_rank(c);
    a->ring = a->rank / a->ways;
    LH_TRY(lh_mesh_create(1, &a->mesh));
    LH_TRY(lh_mesh_split(a->mesh, a->ways));
    LH_TRY(lh_mesh_create_counting(1, ranks, a->rank, &a->counting));
    LH_TRY(lh_mesh_split(a->counting, a->ways));
    LH_TRY(lh_device_create_poison(lh_test_isa(), 1, &a->device));
    LH_TRY(lh_device_create_count(lh_test_isa(), 1, &a->count));
    LH_TRY(lh_test_layout(kind, n, ranks, CHUNK, &a->layout));
    LH_TRY(lh_spread_create(a->layout, a->ways, &a->spread));
    a->rows = a->layout->rows[a->rank];
    a->group_rows = a->spread->to->rows[a->ring];
    a->mine = lh_spread_heads(a->heads, a->kv, a->ways, a->rank % a->ways);
    LH_TRY(lh_new((size_t)most * sizeof *a->ones, &a->ones));
    for (int64_t i = 0; i < most; i++) a->ones[i] = 1;
    for (int k = 0; k < INPUTS; k++) {
        int64_t rows = k == IN_HELD ? HELD : a->rows;
        int64_t row = heads_in(a, k) * WIDTH;
        LH_TRY(lh_new((size_t)(BATCH * rows * row) * sizeof *a->in[k], &a->in[k]));
        for (int64_t i = 0; i < BATCH * rows * row; i++) {
            int64_t r = i / row % rows;
            int64_t p = k == IN_HELD ? r : lh_layout_position(a->layout, a->rank, r);
            a->in[k][i] = value_of(k, i / row / rows, p, i / WIDTH % heads_in(a, k), i % WIDTH);
        }
    }
done:
    return st;
}

static void spread_close(spread_stage *a)
{
    for (int k = 0; k < INPUTS; k++) lh_free(&a->in[k]);
    lh_free(&a->ones);
    lh_spread_destroy(&a->spread);
    lh_layout_destroy(&a->layout);
    lh_device_destroy(&a->count);
    lh_device_destroy(&a->device);
    lh_mesh_destroy(&a->counting);
    lh_mesh_destroy(&a->mesh);
}

/* A third value goes along that no gradient reaches. */
static lh_status spread_record(void *user, lh_tape *t, const lh_var *in, lh_var *out, int *n_out)
{
    lh_status st = LH_OK;
    const spread_stage *a = user;
    lh_spread_desc d = {lh_tape_device(t)->counting ? a->counting : a->mesh, a->spread, a->heads,
                        a->kv};
    const lh_part_desc part = {2, a->mine.head, a->mine.n_heads, NULL};
    const bool kv[] = {false, true, false};
    const lh_var x[] = {in[IN_Q], in[IN_K], in[IN_Q]};
    lh_var y[3];
    *n_out = OUTS;
    LH_TRY(lh_to_heads(t, &d, 3, x, kv, y));
    out[OUT_Q] = y[0];
    out[OUT_K] = y[1];
    LH_TRY(lh_to_positions(t, &d, y[0], &out[OUT_BACK]));
    LH_TRY(lh_own_part(t, &part, in[IN_HELD], &out[OUT_PART]));
done:
    return st;
}

static double spread_total(void *user, double mine)
{
    lh_sum_f64(((spread_stage *)user)->mesh->world, &mine, 1, LH_SEND_OTHER);
    return mine;
}

static lh_gradcheck spread_check_of(spread_stage *a, bool ones)
{
    lh_place held = lh_place_tokens(a->layout);
    lh_gradcheck g = {.device = a->device,
                      .count = a->count,
                      .size = {1, a->layout->ranks},
                      .coord = {0, a->rank},
                      .n_in = INPUTS,
                      .record = spread_record,
                      .total = spread_total,
                      .user = a};
    held.axis[LH_AXIS_SEQ] = (lh_place_word){LH_REPLICATE, 0, NULL};
    for (int k = 0; k < INPUTS; k++)
        g.in[k] = (lh_gradcheck_input){
            lh_shape_4(LH_REAL, BATCH, k == IN_HELD ? HELD : a->rows, heads_in(a, k), WIDTH),
            k == IN_HELD ? held : lh_place_tokens(a->layout), a->in[k], true};
    for (int k = 0; k < OUTS && ones; k++) g.seed[k] = a->ones;
    return g;
}

/* Output k [B, rows, heads, D] of this rank, whose first head is number `first` of tensor `from`. */
static bool out_right(const spread_stage *a, const lh_gradcheck_run *run, int k, int from,
                      int64_t first)
{
    bool ok = true;
    const lh_shape *s = &run->out_shape[k];
    for (int64_t i = 0; i < lh_shape_count(s); i++) {
        int64_t head = i / WIDTH % s->dim[2];
        int64_t row = i / WIDTH / s->dim[2] % s->dim[1];
        int64_t b = i / WIDTH / s->dim[2] / s->dim[1];
        int64_t p = row;
        if (k == OUT_BACK) p = lh_layout_position(a->layout, a->rank, row);
        if (k == OUT_Q || k == OUT_K) p = lh_layout_position(a->spread->to, a->ring, row);
        ok = ok &&
             ((const lh_real *)run->out[k])[i] == value_of(from, b, p, first + head, i % WIDTH);
    }
    return ok;
}

static bool values_right(const spread_stage *a, const lh_gradcheck_run *run)
{
    const int64_t *q = run->out_shape[OUT_Q].dim;
    const int64_t *k = run->out_shape[OUT_K].dim;
    return q[1] == a->group_rows && q[2] == a->mine.n_heads && k[1] == a->group_rows &&
           k[2] == a->mine.kv_heads && run->out_shape[OUT_BACK].dim[1] == a->rows &&
           out_right(a, run, OUT_Q, IN_Q, a->mine.head) &&
           out_right(a, run, OUT_K, IN_K, a->mine.kv_first) &&
           out_right(a, run, OUT_BACK, IN_Q, 0) &&
           out_right(a, run, OUT_PART, IN_HELD, a->mine.head);
}

/* With ones for the gradients of all outputs: a query head has two, a key/value head one for every
 * rank of the group that has it. */
static bool grads_right(const spread_stage *a, const lh_gradcheck_run *run)
{
    bool ok = true;
    for (int64_t i = 0; i < BATCH * a->rows * a->heads * WIDTH; i++)
        ok = ok && run->grad[IN_Q][i] == 2;
    for (int64_t i = 0; i < BATCH * a->rows * a->kv * WIDTH; i++) {
        int64_t g = i / WIDTH % a->kv;
        lh_real holders = 0;
        for (int u = 0; u < a->ways; u++) {
            lh_head_range r = lh_spread_heads(a->heads, a->kv, a->ways, u);
            if (g >= r.kv_first && g < r.kv_first + r.kv_heads) holders += 1;
        }
        ok = ok && run->grad[IN_K][i] == holders;
    }
    for (int64_t i = 0; i < BATCH * HELD * a->heads * WIDTH; i++) {
        int64_t h = i / WIDTH % a->heads;
        bool own = h >= a->mine.head && h < a->mine.head + a->mine.n_heads;
        lh_real want = own ? 1 : 0;
        ok = ok && run->grad[IN_HELD][i] == want;
    }
    return ok;
}

static void check_spread(lh_comm *c, lh_test_layout_kind kind, int64_t n, int64_t heads, int64_t kv,
                         int ways)
{
    spread_stage a = {.heads = heads, .kv = kv, .ways = ways};
    lh_assert_all_ok(c, spread_open(c, kind, n, &a));
    for (int ones = 0; ones < 2; ones++) {
        lh_gradcheck_run run;
        lh_gradcheck g = spread_check_of(&a, ones == 1);
        lh_assert_all_ok(c, lh_gradcheck_open(&g, &run));
        lh_traffic counted = *a.counting->traffic;
        lh_assert_all_ok(c, lh_gradcheck_step(&run));
        *a.mesh->traffic = (lh_traffic){0};
        lh_assert_all_ok(c, lh_gradcheck_step(&run));
        lh_assert_all(c, values_right(&a, &run));
        lh_assert_all(c, ones == 0 || grads_right(&a, &run));
        lh_assert_all(c, run.allocations == 0);
        lh_assert_all(c, memcmp(counted.bytes, a.mesh->traffic->bytes, sizeof counted.bytes) == 0);
        lh_assert_all(c, lh_gradcheck_adjoint(&run) <=
                             lh_tol_sum((double)(BATCH * n * heads * WIDTH)));
        *a.counting->traffic = (lh_traffic){0};
        lh_gradcheck_close(&run);
    }
    spread_close(&a);
}

void spread_values(void **state)
{
    static const lh_test_layout_kind kinds[] = {LH_TEST_UNEVEN, LH_TEST_ZIGZAG};
    static const int64_t heads[][2] = {{8, 2}, {3, 3}, {6, 1}};
    lh_comm *c = *state;
    int ranks = lh_comm_size(c);
    for (int ways = 2; ways <= ranks; ways++)
        for (int k = 0; k < 2 && ranks % ways == 0; k++)
            for (int h = 0; h < 3; h++)
                check_spread(c, kinds[k], h == 2 ? 3 : 23, heads[h][0], heads[h][1], ways);
}

/* --- refusals --- */

/* What lies by heads is no operand of anything else; layouts with gaps and meshes that do not fit. */
void spread_refuses(void **state)
{
    lh_comm *c = *state;
    int ranks = lh_comm_size(c);
    lh_mesh *mesh = NULL;
    lh_layout *cyclic = NULL;
    lh_spread *spread = NULL;
    lh_tape *t = NULL;
    lh_var x;
    lh_var y;
    static const lh_real data[24] = {0};
    const lh_part_desc part = {1, 1, 2, NULL};
    lh_assert_all_ok(c, lh_mesh_create(1, &mesh));
    lh_assert_all_code(c, lh_mesh_split(mesh, ranks + 1), LH_ERR_USAGE);
    lh_assert_all(c, strstr(lh_error_text(), "must divide") != NULL && mesh->ways == 1);
    lh_assert_all_ok(c, lh_test_layout(LH_TEST_CYCLIC, 23, 4, CHUNK, &cyclic));
    lh_assert_all_code(c, lh_spread_create(cyclic, 2, &spread), LH_ERR_UNSUP);
    lh_assert_all_code(c, lh_spread_create(cyclic, 3, &spread), LH_ERR_BUG);
    lh_assert_all_ok(c, lh_tape_create(mesh->size, mesh->coord, &t));
    lh_device *device = NULL;
    lh_memory *memory = NULL;
    lh_assert_all_ok(c, lh_device_create_count(lh_test_isa(), 1, &device));
    lh_assert_all_ok(c, lh_memory_create(&memory));
    lh_assert_all_ok(c, lh_memory_count_begin(memory));
    lh_tape_reset(t, device, memory, false);
    lh_assert_all_ok(
        c, lh_tape_input(t, data, lh_shape_3(LH_REAL, 2, 4, 3), lh_place_replicated(), &x));
    lh_assert_all_ok(c, lh_own_part(t, &part, x, &y));
    lh_assert_all_code(c, lh_add(t, y, y, &x), LH_ERR_BUG);
    lh_assert_all(c, strstr(lh_error_text(), "lies by heads: bring it back") != NULL);
    lh_assert_all_code(c, lh_reshape(t, y, lh_shape_2(LH_REAL, 4, 3), &x), LH_ERR_BUG);
    lh_assert_all_code(c, lh_own_part(t, &part, y, &x), LH_ERR_BUG);
    lh_error_clear();
    lh_memory_destroy(&memory);
    lh_device_destroy(&device);
    lh_tape_destroy(&t);
    lh_layout_destroy(&cyclic);
    lh_mesh_destroy(&mesh);
}
