#include <string.h>

#include "parallel/comm_internal.h"

/* The largest message handed to MPI: its counts are ints. Pieces of one message keep their order,
 * because MPI does (same communicator, sender, tag). */
#define MESSAGE_PIECE ((int64_t)1 << 30)

/* An MPI_Request is a pointer (Open MPI) or an int (MPICH): either lies in the first bytes of a
 * handle. */
_Static_assert(sizeof(MPI_Request) <= sizeof(void *), "lh_request cannot hold an MPI_Request");

static void message_put(lh_request *req, int i, MPI_Request handle)
{
    memcpy(&req->handle[i], &handle, sizeof handle);
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
        message_put(req, req->count++, handle);
    }
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
        message_put(req, req->count++, handle);
    }
}

void lh_wait(lh_comm *c, lh_request *req)
{
    if (!req->open) return;
    req->open = false;
    if (req->count == 0) return;
    MPI_Request handles[LH_MESSAGE_PIECES];
    double start = lh_wall();
    message_get(req, handles);
    LH_MPI(c, MPI_Waitall(req->count, handles, MPI_STATUSES_IGNORE));
    c->traffic->wait_s += lh_wall() - start;
    req->count = 0;
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
    req->open = false;
    req->count = 0;
    return true;
}
