/* Communicators, agreement, traffic and the mesh, each compared with what the ranks can compute by
 * themselves. */
#include "tests/lh_test_mpi.h"

#include <stdio.h>
#include <string.h>

static int64_t other_bytes(lh_comm *c)
{
    return lh_comm_traffic(c)->bytes[LH_SEND_OTHER];
}

static void test_sums_and_maxima(void **state)
{
    lh_comm *c = *state;
    int rank = lh_comm_rank(c);
    int size = lh_comm_size(c);
    double f[3] = {1.0, rank, 0.5 * rank};
    int64_t i[2] = {rank + 1, -rank};
    lh_real r[5];
    for (int k = 0; k < 5; k++) r[k] = (lh_real)(rank * 5 + k);
    lh_sum_f64(c, f, 3, LH_SEND_CONTROL);
    lh_sum_i64(c, i, 2, LH_SEND_CONTROL);
    lh_sum_real(c, r, 5, LH_SEND_PARAMETER);
    double ranks = size * (size - 1) / 2.0;
    lh_assert_all(c, f[0] == size && f[1] == ranks && f[2] == 0.5 * ranks);
    lh_assert_all(c, i[0] == (int64_t)ranks + size && i[1] == -(int64_t)ranks);
    bool ok = true;
    for (int k = 0; k < 5; k++) ok = ok && r[k] == (lh_real)(5 * ranks + k * size);
    lh_assert_all(c, ok);
    double m[2] = {-1.0 - rank, rank};
    int64_t n[2] = {-rank, (int64_t)1 << (40 + rank)};
    lh_max_f64(c, m, 2, LH_SEND_SUMMARY);
    lh_max_i64(c, n, 2, LH_SEND_SUMMARY);
    lh_assert_all(c, m[0] == -1.0 && m[1] == size - 1);
    lh_assert_all(c, n[0] == 0 && n[1] == (int64_t)1 << (40 + size - 1));
}

static void test_broadcast(void **state)
{
    lh_comm *c = *state;
    unsigned char x[1001];
    memset(x, lh_comm_rank(c) == 0 ? 7 : 0, sizeof x);
    x[1000] = (unsigned char)lh_comm_rank(c);
    lh_broadcast(c, x, 1000, LH_SEND_OTHER);
    bool ok = x[1000] == lh_comm_rank(c);
    for (int k = 0; k < 1000; k++) ok = ok && x[k] == 7;
    lh_assert_all(c, ok);
}

static unsigned char message_byte(int from, int step, int64_t k)
{
    return (unsigned char)(31 * from + 17 * step + k % 251);
}

/* Every rank sends to the rank at distance step and receives from the rank at distance -step; both
 * directions are under way for all steps before the first wait. */
static void ring_exchange(lh_comm *c, int64_t bytes, unsigned char *out, unsigned char *in,
                          lh_request *req)
{
    int rank = lh_comm_rank(c);
    int size = lh_comm_size(c);
    for (int s = 1; s < size; s++) {
        int64_t mine = bytes * (rank + 1); /* sizes differ by rank */
        int from = (rank + size - s) % size;
        unsigned char *to = out + (s - 1) * bytes * size;
        for (int64_t k = 0; k < mine; k++) to[k] = message_byte(rank, s, k);
        lh_recv_start(c, in + (s - 1) * bytes * size, bytes * (from + 1), from, s, &req[2 * s]);
        lh_send_start(c, to, mine, (rank + s) % size, s, LH_SEND_FORWARD, &req[2 * s + 1]);
    }
    for (int s = 1; s < size; s++) {
        if (s % 2 == 0)
            while (!lh_test(c, &req[2 * s])) {
            }
        lh_wait(c, &req[2 * s]);
        lh_wait(c, &req[2 * s + 1]);
    }
}

static void test_messages_in_ring_order(void **state)
{
    lh_comm *c = *state;
    const int64_t sizes[] = {0, 1, 13, 4096, 300001};
    int rank = lh_comm_rank(c);
    int size = lh_comm_size(c);
    lh_traffic *t = lh_comm_traffic(c);
    for (int i = 0; i < 5; i++) {
        int64_t room = sizes[i] * size * size + 1;
        unsigned char *out = NULL;
        unsigned char *in = NULL;
        lh_request *req = NULL;
        lh_assert_all_ok(c, lh_new((size_t)room, &out));
        lh_assert_all_ok(c, lh_new((size_t)room, &in));
        lh_assert_all_ok(c, lh_new(2 * (size_t)size * sizeof *req, &req));
        int64_t bytes = t->bytes[LH_SEND_FORWARD];
        int64_t messages = t->messages[LH_SEND_FORWARD];
        ring_exchange(c, sizes[i], out, in, req);
        bool ok = true;
        for (int s = 1; s < size; s++) {
            int from = (rank + size - s) % size;
            for (int64_t k = 0; k < sizes[i] * (from + 1); k++)
                ok = ok && in[(s - 1) * sizes[i] * size + k] == message_byte(from, s, k);
            ok = ok && !req[2 * s].open && !req[2 * s + 1].open;
        }
        lh_assert_all(c, ok);
        lh_assert_all(c, t->bytes[LH_SEND_FORWARD] - bytes == (size - 1) * sizes[i] * (rank + 1));
        lh_assert_all(c, t->messages[LH_SEND_FORWARD] - messages == (sizes[i] > 0 ? size - 1 : 0));
        lh_free(&out);
        lh_free(&in);
        lh_free(&req);
    }
    lh_assert_all(c, t->wait_s >= 0.0 && t->open == 0);
}

/* Sums in flight, several at once, give what the blocking ones give and are counted as they are. */
static void test_sums_in_flight(void **state)
{
    lh_comm *c = *state;
    enum { SUMS = 3, MOST = 20000 };
    const int64_t n[SUMS] = {1, 500, MOST};
    int rank = lh_comm_rank(c);
    int size = lh_comm_size(c);
    lh_traffic *t = lh_comm_traffic(c);
    const lh_traffic before = *t;
    lh_real *x = NULL;
    lh_request req[SUMS];
    bool ok = true;
    lh_assert_all_ok(c, lh_new(SUMS * MOST * sizeof *x, &x));
    for (int s = 0; s < SUMS; s++) {
        for (int64_t i = 0; i < n[s]; i++) x[s * MOST + i] = (lh_real)((rank + 1) * (s + i % 7));
        lh_sum_real_start(c, x + s * MOST, n[s], LH_SEND_PARAMETER, &req[s]);
    }
    lh_assert_all(c, t->open == (size > 1 ? SUMS : 0));
    for (int i = 0; i < 3; i++) lh_progress(c);
    while (!lh_test(c, &req[1])) lh_progress(c);
    for (int s = 0; s < SUMS; s++) lh_wait(c, &req[s]);
    const int64_t ranks = (int64_t)size * (size + 1) / 2; /* the sum of their numbers */
    for (int s = 0; s < SUMS; s++)
        for (int64_t i = 0; i < n[s]; i++)
            ok = ok && (double)x[s * MOST + i] == (double)(ranks * (s + i % 7));
    lh_assert_all(c, ok && t->open == 0);
    int64_t sent = t->bytes[LH_SEND_PARAMETER] - before.bytes[LH_SEND_PARAMETER];
    lh_assert_all(c, sent == (size > 1 ? (1 + 500 + MOST) * (int64_t)sizeof *x : 0));
    lh_sum_real_start(c, x, 0, LH_SEND_PARAMETER, &req[0]); /* nothing */
    lh_assert_all(c, !req[0].open && lh_test(c, &req[0]));
    lh_free(&x);
}

/* For every subset of failing ranks: the lowest one's code and text everywhere. */
static void test_agree_on_every_subset(void **state)
{
    lh_comm *c = *state;
    const lh_status codes[] = {LH_ERR_IO, LH_ERR_MEMORY, LH_ERR_USAGE, LH_ERR_FORMAT, LH_ERR_BUG};
    int rank = lh_comm_rank(c);
    int size = lh_comm_size(c);
    for (int set = 0; set < 1 << size; set++) {
        int lowest = 0;
        char want[80];
        while (lowest < size && !(set >> lowest & 1)) lowest++;
        lh_error_clear();
        lh_status st = LH_OK;
        if (set >> rank & 1)
            st = LH_RAISE(codes[rank % 5], "set %d: rank %d cannot go on", set, rank);
        st = lh_agree(c, st);
        lh_assert_all(c, st == (set == 0 ? LH_OK : codes[lowest % 5]));
        if (set == 0) continue; /* the same on all ranks */
        /* usage errors carry their own place, others name the rank */
        int prefix = size > 1 && codes[lowest % 5] != LH_ERR_USAGE ? 0 : 8;
        (void)snprintf(want, sizeof want, "rank %d: set %d: rank %d cannot go on", lowest, set,
                       lowest);
        lh_assert_all(c, strcmp(lh_error_text(), want + prefix) == 0);
        lh_assert_all(c, strstr(lh_error_where(), "test_comm.c") != NULL);
        st = lh_agree(c,
                      st); /* once more, as a caller further up does: the rank is not named twice */
        lh_assert_all(c, st == codes[lowest % 5]);
        lh_assert_all(c, strcmp(lh_error_text(), want + prefix) == 0);
        st = lh_agree(c, lh_error_context(st, "the file of step 3")); /* nor behind a context */
        lh_assert_all(c, st == codes[lowest % 5]);
        lh_assert_all(c, strstr(lh_error_text(), "the file of step 3: ") == lh_error_text());
        lh_assert_all(c, size == 1 || strcmp(lh_error_text() + 20, want + prefix) == 0 ||
                             codes[lowest % 5] == LH_ERR_USAGE);
    }
    lh_error_clear();
}

/* For every subset of ranks that differ in a word, lack one or have one more: the lowest one's words
 * everywhere, beside rank 0's. */
static void test_words_on_every_subset(void **state)
{
    lh_comm *c = *state;
    static const char *const same[] = {"train", "a.yaml", "--resume"};
    static const char *const other[] = {"train", "b.yaml", "--resume", "more"};
    const struct {
        const char *const *word;
        int count;
        const char *mine, *first;
    } ways[] = {{other, 3, "b.yaml --resume", "a.yaml --resume"},
                {same, 2, "", "--resume"},
                {same, 0, "", "train a.yaml --resume"}};
    for (int way = 0; way < 3; way++) {
        for (int set = 0; set < 1 << lh_comm_size(c); set += 2) {
            char want[160];
            int lowest = 0;
            bool differs = set >> lh_comm_rank(c) & 1;
            while (lowest < lh_comm_size(c) && !(set >> lowest & 1)) lowest++;
            (void)snprintf(want, sizeof want, "rank %d has '%s' where rank 0 has '%s'", lowest,
                           ways[way].mine, ways[way].first);
            lh_status st = lh_agree_words(c, "the command line", differs ? ways[way].count : 3,
                                          differs ? ways[way].word : same);
            lh_assert_all(c, st == (set == 0 ? LH_OK : LH_ERR_USAGE));
            if (set == 0) continue;
            lh_assert_all(c, strstr(lh_error_text(), "the command line differs") != NULL);
            lh_assert_all(c, strstr(lh_error_text(), want) != NULL);
        }
    }
    /* rank 0 alone has less than all others */
    bool first = lh_comm_rank(c) == 0;
    lh_status st = lh_agree_words(c, "the command line", first ? 3 : 4, other);
    lh_assert_all(c, st == (lh_comm_size(c) > 1 ? LH_ERR_USAGE : LH_OK));
    lh_assert_all(c, st == LH_OK || strstr(lh_error_text(), "rank 1 has 'more' where") != NULL);
    lh_error_clear();
}

static void test_collectives_are_counted_once(void **state)
{
    lh_comm *c = *state;
    double x[7] = {0};
    lh_real y[7] = {0};
    lh_traffic *t = lh_comm_traffic(c);
    int many = lh_comm_size(c) > 1;
    lh_traffic before = *t;
    lh_sum_f64(c, x, 7, LH_SEND_CONTROL);
    lh_max_f64(c, x, 0, LH_SEND_CONTROL); /* nothing: nothing */
    lh_sum_real(c, y, 7, LH_SEND_PARAMETER);
    lh_broadcast(c, x, 50, LH_SEND_SUMMARY);
    lh_barrier(c);
    lh_traffic after = *t;
    lh_assert_all(c, after.bytes[LH_SEND_CONTROL] - before.bytes[LH_SEND_CONTROL] == 56 * many);
    lh_assert_all(c, after.messages[LH_SEND_CONTROL] - before.messages[LH_SEND_CONTROL] == many);
    lh_assert_all(c, after.bytes[LH_SEND_PARAMETER] - before.bytes[LH_SEND_PARAMETER] ==
                         (int64_t)sizeof y * many);
    lh_assert_all(c, after.bytes[LH_SEND_SUMMARY] - before.bytes[LH_SEND_SUMMARY] == 50 * many);
    lh_assert_all(c, lh_traffic_step(&after) - lh_traffic_step(&before) ==
                         (106 + (int64_t)sizeof y) * many);
    int64_t other = other_bytes(c);
    lh_status st = lh_agree(c, LH_OK);
    bool counted = st == LH_OK && other_bytes(c) - other == 8 * many;
    lh_assert_all(c, counted);
}

/* All calls of one "step" through a mesh, so that a counting mesh can do the same. to and from are
 * on the axis. */
static void mesh_step(lh_mesh *m, double *x, lh_real *y)
{
    lh_request send;
    lh_request receive;
    lh_sum_f64(m->world, x, 3, LH_SEND_CONTROL);
    for (int a = 0; a < LH_AXES; a++) {
        lh_comm *c = m->axis[a];
        int size = lh_comm_size(c);
        int rank = lh_comm_rank(c);
        lh_sum_real(c, y, 11, LH_SEND_PARAMETER);
        lh_max_i64(c, (int64_t[]){rank}, 1, LH_SEND_SUMMARY);
        lh_broadcast(c, x, 8, LH_SEND_OTHER);
        if (size == 1) continue;
        lh_recv_start(c, &y[20], 24, (rank + size - 1) % size, 5, &receive);
        lh_send_start(c, y, 24, (rank + 1) % size, 5, LH_SEND_BACKWARD, &send);
        lh_wait(c, &receive);
        lh_wait(c, &send);
    }
}

static void mesh_check(lh_comm *c, int data)
{
    lh_mesh *m = NULL;
    lh_mesh *n = NULL;
    int rank = lh_comm_rank(c);
    int seq = lh_comm_size(c) / data;
    lh_assert_all_ok(c, lh_mesh_create(data, &m));
    lh_assert_all(c, m->size[LH_AXIS_DATA] == data && m->size[LH_AXIS_SEQ] == seq);
    lh_assert_all(c, rank == m->coord[LH_AXIS_DATA] * seq + m->coord[LH_AXIS_SEQ]);
    lh_assert_all(c, lh_comm_rank(m->world) == rank);
    for (int a = 0; a < LH_AXES; a++) {
        lh_assert_all(c, lh_comm_rank(m->axis[a]) == m->coord[a] &&
                             lh_comm_size(m->axis[a]) == m->size[a]);
        int64_t sums[2] = {rank, 1};
        int64_t want = 0;
        lh_sum_i64(m->axis[a], sums, 2, LH_SEND_OTHER);
        for (int k = 0; k < m->size[a]; k++)
            want += a == LH_AXIS_SEQ ? m->coord[0] * seq + k : k * seq + m->coord[1];
        lh_assert_all(c, sums[0] == want && sums[1] == m->size[a]);
    }
    *m->traffic = (lh_traffic){0};
    mesh_step(m, (double[3]){0}, (lh_real[64]){0});
    lh_assert_all_ok(c, lh_mesh_create_counting(data, seq, rank, &n));
    mesh_step(n, NULL, (lh_real[64]){0});
    lh_assert_all(c, memcmp(n->traffic->bytes, m->traffic->bytes, sizeof n->traffic->bytes) == 0);
    lh_assert_all(
        c, memcmp(n->traffic->messages, m->traffic->messages, sizeof n->traffic->messages) == 0);
    lh_assert_all(c, (lh_traffic_step(m->traffic) > 0) == (data * seq > 1));
    lh_assert_all(c, n->coord[0] == m->coord[0] && n->coord[1] == m->coord[1] && n->counting &&
                         !m->counting);
    lh_mesh_destroy(&m);
    lh_mesh_destroy(&n);
    lh_assert_all(c, m == NULL && n == NULL);
}

static void test_mesh_of_every_shape(void **state)
{
    lh_comm *c = *state;
    for (int data = 1; data <= lh_comm_size(c); data++)
        if (lh_comm_size(c) % data == 0) mesh_check(c, data);
}

static void test_mesh_refuses(void **state)
{
    lh_comm *c = *state;
    lh_mesh *m = NULL;
    lh_assert_all_code(c, lh_mesh_create(lh_comm_size(c) + 1, &m), LH_ERR_USAGE);
    lh_assert_all(c, m == NULL);
    lh_assert_all_code(c, lh_mesh_create(0, &m), LH_ERR_USAGE);
    if (lh_comm_size(c) > 1) {
        lh_assert_all_code(c, lh_mesh_create(lh_comm_rank(c) == 1 ? lh_comm_size(c) : 1, &m),
                           LH_ERR_USAGE);
        lh_assert_all(c, strstr(lh_error_text(), "disagree") != NULL);
    }
    for (int n = 1; n <= 7; n++) { /* each allocation in turn fails, on the last rank only */
        if (lh_comm_rank(c) == lh_comm_size(c) - 1) lh_new_fail_at(n);
        lh_status st = lh_mesh_create(1, &m);
        lh_new_fail_at(0);
        lh_assert_all(c, st == LH_OK || (st == LH_ERR_MEMORY && m == NULL));
        lh_assert_all(c, (st == LH_OK) == (n > 5));
        lh_mesh_destroy(&m);
    }
    lh_error_clear();
}

/* A thousand ranks seen from one process, and more bytes than one MPI call can count. */
static void test_counting_alone(void **state)
{
    lh_comm *c = *state;
    lh_mesh *m = NULL;
    lh_request req;
    char nothing = 0;
    lh_assert_all_ok(c, lh_mesh_create_counting(2, 512, 700, &m));
    lh_assert_all(c, m->coord[LH_AXIS_DATA] == 1 && m->coord[LH_AXIS_SEQ] == 188);
    lh_send_start(m->axis[LH_AXIS_SEQ], &nothing, ((int64_t)5 << 30) + 1, 0, 0, LH_SEND_FORWARD,
                  &req);
    lh_wait(m->axis[LH_AXIS_SEQ], &req);
    lh_assert_all(c, m->traffic->bytes[LH_SEND_FORWARD] == ((int64_t)5 << 30) + 1);
    lh_assert_all(c, m->traffic->messages[LH_SEND_FORWARD] == 6);
    lh_sum_real(m->world, NULL, ((int64_t)1 << 28) + 1, LH_SEND_PARAMETER);
    lh_assert_all(c, m->traffic->bytes[LH_SEND_PARAMETER] ==
                         (((int64_t)1 << 28) + 1) * (int64_t)sizeof(lh_real));
    lh_assert_all(c, lh_agree(m->world, LH_ERR_IO) == LH_ERR_IO);
    lh_assert_all(c, lh_comm_counting(m->world) && !lh_comm_counting(c));
    lh_mesh_destroy(&m);
    lh_assert_all_code(c, lh_mesh_create_counting(2, 4, 8, &m), LH_ERR_BUG);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums_and_maxima),
        cmocka_unit_test(test_broadcast),
        cmocka_unit_test(test_messages_in_ring_order),
        cmocka_unit_test(test_sums_in_flight),
        cmocka_unit_test(test_agree_on_every_subset),
        cmocka_unit_test(test_words_on_every_subset),
        cmocka_unit_test(test_collectives_are_counted_once),
        cmocka_unit_test(test_mesh_of_every_shape),
        cmocka_unit_test(test_mesh_refuses),
        cmocka_unit_test(test_counting_alone),
    };
    return lh_test_mpi_main(argc, argv, "comm", tests, sizeof tests / sizeof tests[0]);
}
