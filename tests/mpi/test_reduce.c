/* Reduction and norm of gradients: every rank gives gradients whose sums all ranks can compute by
 * themselves. */
#include "parallel/reduce.h"
#include "tests/lh_test_mpi.h"

#include <string.h>

enum { POSITIONS = 41, WIDTH = 3, ELEMENTS = 1024, PARAMS = 5 };

typedef struct fixture {
    lh_comm *comm;
    lh_mesh *mesh;
    lh_device *device;
    lh_layout *layout;
    lh_params *params;
} fixture;

/* Replicated and sharded parameters take turns, so that neither kind lies in one stretch. */
static lh_status fixture_params(fixture *f)
{
    lh_status st = LH_OK;
    lh_place all = lh_place_replicated();
    lh_place rows = lh_place_rows(f->layout);
    LH_TRY(lh_params_create(f->device, f->mesh->coord, &f->params));
    LH_TRY(lh_params_add(f->params, "a", lh_shape_2(LH_REAL, 5, 7), all, LH_INIT_ZERO, 0.0, NULL));
    LH_TRY(lh_params_add(f->params, "t", lh_shape_2(LH_REAL, POSITIONS, WIDTH), rows, LH_INIT_ZERO,
                         0.0, NULL));
    LH_TRY(lh_params_add(f->params, "b", lh_shape_1(LH_REAL, 3), all, LH_INIT_ZERO, 0.0, NULL));
    LH_TRY(lh_params_add(f->params, "c", lh_shape_1(LH_REAL, 17), all, LH_INIT_ZERO, 0.0, NULL));
    LH_TRY(lh_params_add(f->params, "u", lh_shape_1(LH_REAL, POSITIONS), rows, LH_INIT_ZERO, 0.0,
                         NULL));
    LH_TRY(lh_params_allocate(f->params, true));
done:
    return st;
}

static void fixture_open(lh_comm *c, int data, fixture *f)
{
    *f = (fixture){.comm = c};
    int seq = lh_comm_size(c) / data;
    lh_assert_all_ok(c, lh_mesh_create(data, &f->mesh));
    lh_assert_all_ok(c, lh_device_create_poison("portable", 1, &f->device));
    lh_assert_all_ok(
        c, lh_layout_contiguous(POSITIONS, seq, 16, true, &f->layout)); /* 3 chunks: empty shards */
    lh_assert_all_ok(c, fixture_params(f));
}

static void fixture_close(fixture *f)
{
    lh_params_destroy(&f->params);
    lh_layout_destroy(&f->layout);
    lh_device_destroy(&f->device);
    lh_mesh_destroy(&f->mesh);
}

static bool is_shard(const lh_param *q)
{
    return q->place.axis[LH_AXIS_SEQ].kind == LH_SHARD;
}

/* Element i of parameter number k (index in the whole) on a rank: small integers, so that sums are
 * exact. */
static double grad_of(int rank, int64_t k, int64_t i)
{
    return (double)((rank + 1) * (1 + (7 * k + i) % 13));
}

static int64_t whole_index(const fixture *f, const lh_param *q, int64_t i)
{
    if (!is_shard(q)) return i;
    int64_t width = q->whole.ndim == 2 ? WIDTH : 1;
    return lh_layout_position(f->layout, f->mesh->coord[LH_AXIS_SEQ], i / width) * width +
           i % width;
}

static void set_grads(fixture *f)
{
    lh_params_zero_grad(f->params);
    for (int64_t k = 0; k < f->params->count; k++) {
        lh_param *q = f->params->item[k];
        lh_real host[ELEMENTS];
        int64_t n = lh_shape_count(&q->shape);
        for (int64_t i = 0; i < n; i++)
            host[i] = (lh_real)grad_of(lh_comm_rank(f->mesh->world), k, whole_index(f, q, i));
        lh_copy_in(f->device, q->grad, host, (size_t)n * sizeof *host);
    }
}

/* Sum over the ranks that hold the same part of the parameter. */
static double want_of(const fixture *f, const lh_param *q, int64_t k, int64_t i)
{
    double sum = 0;
    int seq = f->mesh->size[LH_AXIS_SEQ];
    for (int rank = 0; rank < f->mesh->size[LH_AXIS_DATA] * seq; rank++)
        if (!is_shard(q) || rank % seq == f->mesh->coord[LH_AXIS_SEQ])
            sum += grad_of(rank, k, whole_index(f, q, i));
    return sum;
}

static bool grads_right(const fixture *f)
{
    bool ok = true;
    for (int64_t k = 0; k < f->params->count; k++) {
        const lh_param *q = f->params->item[k];
        lh_real host[ELEMENTS];
        int64_t n = lh_shape_count(&q->shape);
        lh_copy_out(f->device, host, q->grad, (size_t)n * sizeof *host);
        for (int64_t i = 0; i < n; i++) ok = ok && (double)host[i] == want_of(f, q, k, i);
        ok = ok && lh_place_equal(&q->grad_place, &q->place);
    }
    return ok;
}

/* The bytes by hand: replicated parameters over the world, shards over the data axis, nothing on
 * one rank. */
static int64_t want_bytes(const fixture *f)
{
    int64_t replicated = 35 + 3 + 17;
    int64_t sharded = f->layout->rows[f->mesh->coord[LH_AXIS_SEQ]] * (WIDTH + 1);
    int64_t elements = f->mesh->size[0] * f->mesh->size[1] > 1 ? replicated : 0;
    if (f->mesh->size[LH_AXIS_DATA] > 1) elements += sharded;
    return elements * (int64_t)lh_dtype_bytes(LH_REAL);
}

static void check_reduce(lh_comm *c, int data, int64_t elements)
{
    fixture f;
    lh_mesh *counting = NULL;
    lh_real host[ELEMENTS];
    fixture_open(c, data, &f);
    set_grads(&f);
    *f.mesh->traffic = (lh_traffic){0};
    lh_assert_all_ok(c, lh_grads_reduce(f.mesh, f.params, host, elements));
    lh_assert_all(c, grads_right(&f));
    lh_assert_all(c, f.mesh->traffic->bytes[LH_SEND_PARAMETER] == want_bytes(&f));
    lh_assert_all(c, lh_traffic_step(f.mesh->traffic) == want_bytes(&f));
    lh_assert_all(c, lh_grads_bytes(f.params, f.mesh->size) == want_bytes(&f));
    lh_assert_all_ok(c,
                     lh_grads_reduce(f.mesh, f.params, host, elements)); /* nothing is left to do */
    lh_assert_all(c, grads_right(&f));
    lh_assert_all(c, f.mesh->traffic->bytes[LH_SEND_PARAMETER] == want_bytes(&f));
    lh_params_zero_grad(f.params);
    lh_assert_all_ok(
        c, lh_mesh_create_counting(data, lh_comm_size(c) / data, lh_comm_rank(c), &counting));
    lh_assert_all_ok(c, lh_grads_reduce(counting, f.params, NULL, elements));
    lh_assert_all(c, memcmp(counting->traffic->bytes, f.mesh->traffic->bytes,
                            sizeof f.mesh->traffic->bytes) == 0);
    lh_assert_all(c, memcmp(counting->traffic->messages, f.mesh->traffic->messages,
                            sizeof f.mesh->traffic->messages) == 0);
    lh_mesh_destroy(&counting);
    fixture_close(&f);
}

static void test_reduce_on_every_mesh(void **state)
{
    lh_comm *c = *state;
    const int64_t sizes[] = {1, 2, 16, 36, 1000};
    for (int data = 1; data <= lh_comm_size(c); data++)
        for (int i = 0; i < 5; i++)
            if (lh_comm_size(c) % data == 0) check_reduce(c, data, sizes[i]);
}

static void scale_grad(const fixture *f, int64_t k, double factor)
{
    const lh_param *q = f->params->item[k];
    lh_run_axpy(f->device,
                &(lh_axpy_args){lh_shape_count(&q->shape), factor, q->grad, q->grad, false});
}

/* Behind a backward pass in which gradients become final in the order of `order`: the same sums and
 * the same bytes. Until it is final a gradient is half of what it will be, so one that is sent too
 * early is missed; and none stays behind, whatever the order and however few the buckets. */
static void check_behind(lh_comm *c, int data, int64_t elements, int buckets, const int *order)
{
    fixture f;
    lh_reducer r;
    lh_real host[LH_REDUCE_BUCKETS * ELEMENTS];
    fixture_open(c, data, &f);
    set_grads(&f);
    for (int k = 0; k < PARAMS; k++) {
        scale_grad(&f, k, 0.5);
        f.params->item[k]->grad_final = false;
    }
    *f.mesh->traffic = (lh_traffic){0};
    lh_assert_all_ok(c, lh_reducer_begin(&r, f.mesh, f.params, host, elements, buckets));
    lh_reducer_advance(&r);
    lh_assert_all(c, f.mesh->traffic->messages[LH_SEND_PARAMETER] == 0);
    for (int i = 0; i < PARAMS; i++) {
        scale_grad(&f, order[i], 2.0);
        f.params->item[order[i]]->grad_final = i < PARAMS - 1; /* the last is never called final */
        lh_reducer_advance(&r);
        if (i == 0 && order[0] == 3 && elements == 1) /* "c" does not wait for the shard "u" */
            lh_assert_all(c, f.mesh->traffic->messages[LH_SEND_PARAMETER] ==
                                 (lh_comm_size(c) > 1 ? 17 : 0));
    }
    lh_reducer_finish(&r);
    lh_assert_all(c, grads_right(&f) && f.mesh->traffic->open == 0);
    lh_assert_all(c, f.mesh->traffic->bytes[LH_SEND_PARAMETER] == want_bytes(&f));
    fixture_close(&f);
}

static void test_reduce_behind_the_backward(void **state)
{
    lh_comm *c = *state;
    const int order[][PARAMS] = {{4, 3, 2, 1, 0}, {0, 1, 2, 3, 4}, {3, 0, 4, 2, 1}};
    const int64_t sizes[] = {1, 16, 1000};
    for (int data = 1; data <= lh_comm_size(c); data++)
        for (int i = 0; i < 3 && lh_comm_size(c) % data == 0; i++)
            for (int o = 0; o < 3; o++)
                for (int buckets = 1; buckets <= LH_REDUCE_BUCKETS; buckets = 2 * buckets)
                    check_behind(c, data, sizes[i], buckets, order[o]);
}

/* The norm of the whole gradient, computed by hand, on every mesh. */
static void check_norm(lh_comm *c, int data)
{
    fixture f;
    void *scratch = NULL;
    lh_real host[ELEMENTS];
    double parts[2] = {0};
    double want = 0;
    fixture_open(c, data, &f);
    lh_assert_all_ok(c, lh_device_alloc(f.device, 2 * sizeof(double), &scratch));
    set_grads(&f);
    bool many = lh_comm_size(c) > 1;
    lh_status st = lh_grads_norm(f.params, scratch, &parts[0], &parts[1]);
    lh_assert_all(c, st == LH_ERR_BUG && strstr(lh_error_text(), "not reduced") != NULL);
    lh_assert_all_ok(c, lh_grads_reduce(f.mesh, f.params, many ? host : NULL, many ? ELEMENTS : 0));
    lh_assert_all_ok(c, lh_grads_norm(f.params, scratch, &parts[0], &parts[1]));
    lh_sum_f64(f.mesh->world, &parts[1], 1, LH_SEND_CONTROL);
    for (int64_t k = 0; k < f.params->count; k++) {
        const lh_param *q = f.params->item[k];
        int seq = f.mesh->size[LH_AXIS_SEQ];
        for (int64_t i = 0; i < lh_shape_count(&q->whole); i++) {
            double sum = 0;
            int holder = 0; /* the sequence rank that holds element i */
            int64_t position = i / (q->whole.ndim == 2 ? WIDTH : 1);
            for (int64_t end = f.layout->rows[0]; is_shard(q) && position >= end;
                 end += f.layout->rows[holder])
                holder++;
            for (int rank = 0; rank < data * seq; rank++)
                if (!is_shard(q) || rank % seq == holder) sum += grad_of(rank, k, i);
            want += sum * sum;
        }
    }
    lh_assert_all_close(c, parts[0] + parts[1], want, 1e-12, 0.0);
    lh_device_release(f.device, &scratch);
    fixture_close(&f);
}

static void test_norm_counts_each_shard_once(void **state)
{
    lh_comm *c = *state;
    for (int data = 1; data <= lh_comm_size(c); data++)
        if (lh_comm_size(c) % data == 0) check_norm(c, data);
}

static void test_reduce_refuses(void **state)
{
    lh_comm *c = *state;
    fixture f;
    lh_real host[ELEMENTS];
    fixture_open(c, 1, &f);
    set_grads(&f);
    f.params->item[1]->grad_place = lh_place_partial(); /* the shard of a table is no partial sum */
    lh_status st = lh_grads_reduce(f.mesh, f.params, host, ELEMENTS);
    lh_assert_all(c, st == LH_ERR_BUG && strstr(lh_error_text(), "gradient of t") != NULL);
    f.params->item[1]->grad_place = lh_place_dual(&f.params->item[1]->place);
    st = lh_grads_reduce(f.mesh, f.params, NULL, ELEMENTS);
    lh_assert_all(c, st == (lh_comm_size(c) > 1 ? LH_ERR_BUG : LH_OK));
    fixture_close(&f);
    lh_error_clear();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reduce_on_every_mesh),
        cmocka_unit_test(test_reduce_behind_the_backward),
        cmocka_unit_test(test_norm_counts_each_shard_once),
        cmocka_unit_test(test_reduce_refuses),
    };
    return lh_test_mpi_main(argc, argv, "reduce", tests, sizeof tests / sizeof tests[0]);
}
