#include <stdio.h>
#include <string.h>

#include "parallel/comm_internal.h"

/* What the lowest failing rank tells the others; the same bytes on every rank. */
typedef struct agree_record {
    int64_t code;
    char where[256];
    char text[LH_ERROR_TEXT_MAX];
} agree_record;

/* The text names the rank once: an error that was agreed on further down already does. A usage
 * error is the user's, whichever rank saw it first: its text begins with its own place. */
static void agree_fill(const lh_comm *c, lh_status st, agree_record *r)
{
    int rank = 0;
    int used = 0;
    const char *text = lh_error_text();
    r->code = (int64_t)st;
    (void)snprintf(r->where, sizeof r->where, "%s", lh_error_where());
    if (st == LH_ERR_USAGE || (sscanf(text, "rank %d:%n", &rank, &used) == 1 && used > 0))
        (void)snprintf(r->text, sizeof r->text, "%s", text);
    else
        (void)snprintf(r->text, sizeof r->text, "rank %d: %s", c->world_rank, text);
}

lh_status lh_agree(lh_comm *c, lh_status st)
{
    if (c->counting || c->size == 1) return st;
    int64_t lowest = st == LH_OK ? c->size : c->rank;
    lhi_comm_count(c, (int64_t)sizeof lowest, LH_SEND_OTHER);
    LH_MPI(c, MPI_Allreduce(MPI_IN_PLACE, &lowest, 1, MPI_INT64_T, MPI_MIN, c->mpi));
    if (lowest == c->size) return LH_OK;
    agree_record r;
    memset(&r, 0, sizeof r);
    if (lowest == c->rank) agree_fill(c, st, &r);
    lhi_comm_count(c, (int64_t)sizeof r, LH_SEND_OTHER);
    LH_MPI(c, MPI_Bcast(&r, (int)sizeof r, MPI_BYTE, (int)lowest, c->mpi));
    return lh_error_set((lh_status)r.code, r.where, r.text);
}
