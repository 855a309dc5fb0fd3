#pragma once
/* The MPI handle of a communicator, for parallel HDF5 in io/ alone. */
#include <mpi.h>

#include "parallel/comm.h"

/* lh_comm_mpi - the handle; borrowed. Local. Never for a counting communicator. */
MPI_Comm lh_comm_mpi(const lh_comm *c);
