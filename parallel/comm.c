#include "parallel/mpi_handle.h"

#include <limits.h>
#include <time.h>

#include "parallel/comm_internal.h"

const char *lh_purpose_name(lh_purpose p)
{
    static const char *const names[LH_PURPOSES] = {
        [LH_SEND_FORWARD] = "forward_rows", [LH_SEND_BACKWARD] = "backward_rows",
        [LH_SEND_SUMMARY] = "summary",      [LH_SEND_PARAMETER] = "parameter_gradients",
        [LH_SEND_CONTROL] = "control",      [LH_SEND_RECOMPUTE] = "recompute_rows",
        [LH_SEND_OTHER] = "other",
    };
    return (unsigned)p < LH_PURPOSES ? names[p] : "unknown";
}

int64_t lh_traffic_step(const lh_traffic *t)
{
    int64_t sum = 0;
    for (int p = 0; p < LH_PURPOSES; p++)
        if (p != LH_SEND_OTHER) sum += t->bytes[p];
    return sum;
}

/* --- life --- */

lh_status lh_init(int *argc, char ***argv)
{
    lh_comm start;
    int level = MPI_THREAD_SINGLE;
    LH_MPI(NULL, MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &level));
    lhi_comm_start(&start);
    lh_status st = LH_OK;
    if (level < MPI_THREAD_FUNNELED)
        st = LH_RAISE(LH_ERR_UNSUP,
                      "this MPI library gives thread level %d, MPI_THREAD_FUNNELED (%d) is needed",
                      level, MPI_THREAD_FUNNELED);
    return lh_agree(&start, st);
}

void lh_finalize(void)
{
    int started = 0;
    int finished = 0;
    LH_MPI(NULL, MPI_Initialized(&started));
    LH_MPI(NULL, MPI_Finalized(&finished));
    if (started && !finished) LH_MPI(NULL, MPI_Finalize());
}

void lhi_comm_start(lh_comm *c)
{
    *c = (lh_comm){.mpi = MPI_COMM_WORLD};
    c->traffic = &c->own;
    LH_MPI(NULL, MPI_Comm_rank(MPI_COMM_WORLD, &c->rank));
    LH_MPI(NULL, MPI_Comm_size(MPI_COMM_WORLD, &c->size));
    c->world_rank = c->rank;
}

void lhi_comm_own(lh_comm *c, MPI_Comm handle, lh_traffic *traffic)
{
    c->mpi = handle;
    c->counting = false;
    c->traffic = traffic != NULL ? traffic : &c->own;
    LH_MPI(c, MPI_Comm_set_errhandler(handle, MPI_ERRORS_RETURN));
    LH_MPI(c, MPI_Comm_rank(handle, &c->rank));
    LH_MPI(c, MPI_Comm_size(handle, &c->size));
    LH_MPI(c, MPI_Comm_rank(MPI_COMM_WORLD, &c->world_rank));
}

lh_status lh_comm_world(lh_comm **out)
{
    lh_comm start;
    lhi_comm_start(&start);
    return lh_comm_first(&start, start.size, out);
}

lh_status lh_comm_first(lh_comm *c, int n, lh_comm **out)
{
    lh_comm *part = NULL;
    MPI_Comm handle = MPI_COMM_NULL;
    *out = NULL;
    lh_status st = lh_agree(c, lh_new(sizeof *part, &part));
    if (st != LH_OK) {
        lh_free(&part);
        return st;
    }
    LH_MPI(c, MPI_Comm_split(c->mpi, c->rank < n ? 0 : MPI_UNDEFINED, c->rank, &handle));
    if (handle == MPI_COMM_NULL) {
        lh_free(&part);
        return LH_OK;
    }
    lhi_comm_own(part, handle, NULL);
    *out = part;
    return LH_OK;
}

void lh_comm_destroy(lh_comm **comm)
{
    lh_comm *c = *comm;
    if (c != NULL && !c->counting && c->mpi != MPI_COMM_NULL) LH_MPI(NULL, MPI_Comm_free(&c->mpi));
    lh_free(comm);
}

int lh_comm_rank(const lh_comm *c)
{
    return c->rank;
}

int lh_comm_size(const lh_comm *c)
{
    return c->size;
}

bool lh_comm_counting(const lh_comm *c)
{
    return c->counting;
}

lh_traffic *lh_comm_traffic(const lh_comm *c)
{
    return c->traffic;
}

MPI_Comm lh_comm_mpi(const lh_comm *c)
{
    if (c->counting) lh_fatal(c, "internal error: a counting communicator has no MPI handle");
    return c->mpi;
}

/* --- collectives --- */

void lhi_comm_count(lh_comm *c, int64_t bytes, lh_purpose purpose)
{
    if (c->size == 1) return;
    c->traffic->bytes[purpose] += bytes;
    c->traffic->messages[purpose]++;
}

int lhi_int(const lh_comm *c, int64_t n)
{
    if (n < 0 || n > INT_MAX)
        lh_fatal(c, "internal error: count %lld does not fit MPI", (long long)n);
    return (int)n;
}

MPI_Datatype lhi_mpi_real(void)
{
    return lh_dtype_bytes(LH_REAL) == sizeof(double) ? MPI_DOUBLE : MPI_FLOAT;
}

static void comm_reduce(lh_comm *c, void *x, int64_t n, int64_t element, MPI_Datatype type,
                        MPI_Op op, lh_purpose purpose)
{
    if (c->size == 1) return;
    for (int64_t done = 0; done < n; done += LHI_COMM_PIECE) {
        int64_t piece = n - done < LHI_COMM_PIECE ? n - done : LHI_COMM_PIECE;
        lhi_comm_count(c, piece * element, purpose);
        if (c->counting) continue;
        void *at = (char *)x + done * element;
        double start = lh_wall();
        LH_MPI(c, MPI_Allreduce(MPI_IN_PLACE, at, lhi_int(c, piece), type, op, c->mpi));
        c->traffic->wait_s += lh_wall() - start;
    }
}

void lh_sum_f64(lh_comm *c, double *x, int64_t n, lh_purpose purpose)
{
    comm_reduce(c, x, n, (int64_t)sizeof *x, MPI_DOUBLE, MPI_SUM, purpose);
}

void lh_sum_i64(lh_comm *c, int64_t *x, int64_t n, lh_purpose purpose)
{
    comm_reduce(c, x, n, (int64_t)sizeof *x, MPI_INT64_T, MPI_SUM, purpose);
}

void lh_max_f64(lh_comm *c, double *x, int64_t n, lh_purpose purpose)
{
    comm_reduce(c, x, n, (int64_t)sizeof *x, MPI_DOUBLE, MPI_MAX, purpose);
}

void lh_max_i64(lh_comm *c, int64_t *x, int64_t n, lh_purpose purpose)
{
    comm_reduce(c, x, n, (int64_t)sizeof *x, MPI_INT64_T, MPI_MAX, purpose);
}

void lh_sum_real(lh_comm *c, lh_real *x, int64_t n, lh_purpose purpose)
{
    comm_reduce(c, x, n, (int64_t)sizeof *x, lhi_mpi_real(), MPI_SUM, purpose);
}

void lh_max_real(lh_comm *c, lh_real *x, int64_t n, lh_purpose purpose)
{
    comm_reduce(c, x, n, (int64_t)sizeof *x, lhi_mpi_real(), MPI_MAX, purpose);
}

void lh_broadcast(lh_comm *c, void *x, int64_t bytes, lh_purpose purpose)
{
    if (c->size == 1) return;
    for (int64_t done = 0; done < bytes; done += LHI_COMM_PIECE) {
        int64_t piece = bytes - done < LHI_COMM_PIECE ? bytes - done : LHI_COMM_PIECE;
        lhi_comm_count(c, piece, purpose);
        if (c->counting) continue;
        LH_MPI(c, MPI_Bcast((char *)x + done, lhi_int(c, piece), MPI_BYTE, 0, c->mpi));
    }
}

void lh_barrier(lh_comm *c)
{
    if (c->counting || c->size == 1) return;
    LH_MPI(c, MPI_Barrier(c->mpi));
}

void lh_barrier_asleep(lh_comm *c)
{
    const struct timespec nap = {.tv_nsec = 5000000};
    MPI_Request request = MPI_REQUEST_NULL;
    int there = 0;
    if (c->counting || c->size == 1) return;
    LH_MPI(c, MPI_Ibarrier(c->mpi, &request));
    for (;;) {
        LH_MPI(c, MPI_Test(&request, &there, MPI_STATUS_IGNORE));
        if (there) return;
        (void)nanosleep(&nap, NULL);
    }
}
