#pragma once
/* What the files of parallel/ share about communicators. Not public. */
#include <mpi.h>

#include "parallel/comm.h"

struct lh_comm {
    MPI_Comm mpi; /* MPI_COMM_NULL when counting */
    int rank, size;
    int world_rank; /* the rank that people see in messages */
    bool counting;
    lh_traffic *traffic; /* of the mesh, or &own */
    lh_traffic own;
};

/* The largest piece of a collective, in elements. */
enum { LHI_COMM_PIECE = 1 << 28 };

/* LH_MPI - every MPI call goes through here: what fails cannot be agreed on, so it is fatal. */
#define LH_MPI(comm, call)                                                                         \
    (lhi_mpi_begin((comm), #call), lhi_mpi_check((comm), (call), #call, __FILE__, __LINE__))

/* lhi_mpi_begin - whoever watches sees that this rank is in an MPI call from now on. Local.
 * lhi_mpi_check - the call has returned: go on when code is MPI_SUCCESS, else lh_fatal. Local. */
void lhi_mpi_begin(const lh_comm *c, const char *call);
void lhi_mpi_check(const lh_comm *c, int code, const char *call, const char *file, int line);

/* lhi_comm_count - note a payload handed to MPI; nothing on one rank. Local. */
void lhi_comm_count(lh_comm *c, int64_t bytes, lh_purpose purpose);

/* lhi_comm_start - all processes of the job as they are at program start, for agreeing before
 * anything exists. Local. *c holds no resources and must not be destroyed. */
void lhi_comm_start(lh_comm *c);

/* lhi_comm_own - take a new handle: errors return, rank and size filled. Collective on the handle. */
void lhi_comm_own(lh_comm *c, MPI_Comm handle, lh_traffic *traffic);

/* lhi_mpi_real - the type of lh_real. Local. */
MPI_Datatype lhi_mpi_real(void);

/* lhi_int - a count for MPI; fatal when it does not fit. Local. */
int lhi_int(const lh_comm *c, int64_t n);
