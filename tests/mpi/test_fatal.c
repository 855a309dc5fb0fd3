/* lh_fatal on one rank ends the job on all: the others wait in a barrier that never comes. */
#include "parallel/comm.h"

int main(int argc, char **argv)
{
    lh_comm *comm = NULL;
    lh_status st = lh_init(&argc, &argv);
    if (st == LH_OK) st = lh_comm_world(&comm);
    if (st != LH_OK) return 2;
    if (lh_comm_rank(comm) == lh_comm_size(comm) - 1)
        lh_fatal(comm, "the device of this rank is lost");
    lh_barrier(comm);
    lh_comm_destroy(&comm);
    lh_finalize();
    return 0;
}
