#include <string.h>

#include "parallel/comm_internal.h"

/* The largest message handed to MPI: its counts are ints. Pieces of one message keep their order,
 * because MPI does (same communicator, sender, tag). */
#define MESSAGE_PIECE ((int64_t)1 << 30)

enum { MESSAGE_NO_TAG = 32767 }; /* the largest tag that every MPI allows; used by no message */

/* An MPI_Request is a pointer (Open MPI) or an int (MPICH): either lies in the first bytes of a
 * handle. */
_Static_assert(sizeof(MPI_Request) <= sizeof(void *), "lh_request cannot hold an MPI_Request");

static void message_put(lh_request *req, int i, MPI_Request handle)
{
    memcpy(&req->handle[i], &handle, sizeof handle);
}

/* All pieces of a message or sum are begun. */
static void message_begun(lh_comm *c, const lh_request *req)
{
    c->traffic->open += req->count > 0;
}

static void message_done(lh_comm *c, lh_request *req)
{
    c->traffic->open -= req->count > 0;
    req->open = false;
    req->count = 0;
}

static void message_get(const lh_request *req, MPI_Request handles[LH_MESSAGE_PIECES])
{
    for (int i = 0; i < req->count; i++) memcpy(&handles[i], &req->handle[i], sizeof handles[i]);
}

static void message_check(const lh_comm *c, int64_t bytes, int peer)
{
    const int64_t most = LH_MESSAGE_PIECES * MESSAGE_PIECE;
    if (bytes < 0 || bytes > most)
        lh_fatal(c, "a message of %lld bytes; at most %lld can be sent at once: use more ranks",
                 (long long)bytes, (long long)most);
    if (peer < 0 || peer >= c->size || peer == c->rank)
        lh_fatal(c, "internal error: message from rank %d of %d to or from rank %d", c->rank,
                 c->size, peer);
}

static int64_t message_piece(int64_t bytes, int64_t done)
{
    return bytes - done < MESSAGE_PIECE ? bytes - done : MESSAGE_PIECE;
}

void lh_send_start(lh_comm *c, const void *x, int64_t bytes, int to, int tag, lh_purpose purpose,
                   lh_request *req)
{
    req->count = 0;
    req->open = bytes > 0;
    if (bytes == 0) return;
    message_check(c, bytes, to);
    for (int64_t done = 0; done < bytes; done += MESSAGE_PIECE) {
        int64_t piece = message_piece(bytes, done);
        lhi_comm_count(c, piece, purpose);
        if (c->counting) continue;
        MPI_Request handle = MPI_REQUEST_NULL;
        LH_MPI(c, MPI_Isend((const char *)x + done, lhi_int(c, piece), MPI_BYTE, to, tag, c->mpi,
                            &handle));
        /* NOLINTNEXTLINE(clang-analyzer-optin.mpi.MPI-Checker) lh_wait and lh_test wait for it */
        message_put(req, req->count++, handle);
    }
    message_begun(c, req);
}

void lh_recv_start(lh_comm *c, void *x, int64_t bytes, int from, int tag, lh_request *req)
{
    req->count = 0;
    req->open = bytes > 0;
    if (bytes == 0) return;
    message_check(c, bytes, from);
    for (int64_t done = 0; done < bytes && !c->counting; done += MESSAGE_PIECE) {
        int64_t piece = message_piece(bytes, done);
        MPI_Request handle = MPI_REQUEST_NULL;
        LH_MPI(c, MPI_Irecv((char *)x + done, lhi_int(c, piece), MPI_BYTE, from, tag, c->mpi,
                            &handle));
        /* NOLINTNEXTLINE(clang-analyzer-optin.mpi.MPI-Checker) lh_wait and lh_test wait for it */
        message_put(req, req->count++, handle);
    }
    message_begun(c, req);
}

void lh_sum_real_start(lh_comm *c, lh_real *x, int64_t n, lh_purpose purpose, lh_request *req)
{
    req->count = 0;
    req->open = n > 0 && c->size > 1;
    if (!req->open) return;
    if (n > LH_MESSAGE_PIECES * (int64_t)LHI_COMM_PIECE)
        lh_fatal(c, "internal error: a sum of %lld elements at once", (long long)n);
    for (int64_t done = 0; done < n; done += LHI_COMM_PIECE) {
        int64_t piece = n - done < LHI_COMM_PIECE ? n - done : LHI_COMM_PIECE;
        lhi_comm_count(c, piece * (int64_t)sizeof *x, purpose);
        if (c->counting) continue;
        MPI_Request handle = MPI_REQUEST_NULL;
        LH_MPI(c, MPI_Iallreduce(MPI_IN_PLACE, x + done, lhi_int(c, piece), lhi_mpi_real(), MPI_SUM,
                                 c->mpi, &handle));
        /* NOLINTNEXTLINE(clang-analyzer-optin.mpi.MPI-Checker) lh_wait and lh_test wait for it */
        message_put(req, req->count++, handle);
    }
    message_begun(c, req);
}

void lh_wait(lh_comm *c, lh_request *req)
{
    if (!req->open) return;
    req->open = false;
    if (req->count == 0) return; /* counting */
    MPI_Request handles[LH_MESSAGE_PIECES];
    double start = lh_wall();
    message_get(req, handles);
    /* NOLINTNEXTLINE(clang-analyzer-optin.mpi.MPI-Checker) handles that were begun above */
    LH_MPI(c, MPI_Waitall(req->count, handles, MPI_STATUSES_IGNORE));
    c->traffic->wait_s += lh_wall() - start;
    message_done(c, req);
}

bool lh_test(lh_comm *c, lh_request *req)
{
    if (!req->open) return true;
    int done = 1;
    if (req->count > 0) {
        MPI_Request handles[LH_MESSAGE_PIECES];
        message_get(req, handles);
        LH_MPI(c, MPI_Testall(req->count, handles, &done, MPI_STATUSES_IGNORE));
    }
    if (!done) return false;
    message_done(c, req);
    return true;
}

void lh_progress(lh_comm *c)
{
    int found = 0;
    if (c->counting || c->traffic->open == 0) return;
    /* nobody sends with this tag: a probe that finds nothing moves whatever is under way */
    LH_MPI(c, MPI_Iprobe(MPI_ANY_SOURCE, MESSAGE_NO_TAG, c->mpi, &found, MPI_STATUS_IGNORE));
}
