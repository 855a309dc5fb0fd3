#define _GNU_SOURCE /* sched_getaffinity and cpu_set_t; this file needs nothing else of it */
#include "parallel/host.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "parallel/comm_internal.h"

int lh_host_processors(void)
{
    cpu_set_t mine;
    CPU_ZERO(&mine);
    return sched_getaffinity(0, sizeof mine, &mine) == 0 ? CPU_COUNT(&mine) : 1;
}

lh_host lh_host_of(lh_comm *c)
{
    lh_host host = {0};
    cpu_set_t mine;
    cpu_set_t theirs;
    MPI_Comm local = MPI_COMM_NULL;
    int rank = 0;
    CPU_ZERO(&mine);
    if (sched_getaffinity(0, sizeof mine, &mine) != 0) CPU_SET(0, &mine);
    LH_MPI(c, MPI_Comm_split_type(c->mpi, MPI_COMM_TYPE_SHARED, c->rank, MPI_INFO_NULL, &local));
    LH_MPI(c, MPI_Comm_set_errhandler(local, MPI_ERRORS_RETURN));
    LH_MPI(c, MPI_Comm_size(local, &host.ranks));
    LH_MPI(c, MPI_Comm_rank(local, &rank));
    for (int r = 0; r < host.ranks; r++) {
        memcpy(&theirs, &mine, sizeof theirs);
        LH_MPI(c, MPI_Bcast(&theirs, (int)sizeof theirs, MPI_BYTE, r, local));
        CPU_AND(&theirs, &theirs, &mine);
        if (CPU_COUNT(&theirs) > 0) host.sharing++;
    }
    LH_MPI(c, MPI_Comm_free(&local));
    host.mask = CPU_COUNT(&mine);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    host.online = online > 0 ? (int)online : 1;
    return host;
}

bool lh_host_short(const lh_host *h, int threads, char *text, size_t bytes)
{
    const int64_t wanted = (int64_t)threads * h->sharing;
    char remedy[160] = "start fewer ranks or threads";
    if (wanted <= h->mask) return false;
    if (wanted <= h->online)
        (void)snprintf(remedy, sizeof remedy,
                       "launchers bind ranks to cores: give mpirun --bind-to none or --map-by "
                       "slot:PE=%d, srun --cpus-per-task=%d",
                       threads, threads);
    (void)snprintf(text, bytes, "warning: %lld threads share %d of this node's %d processor%s; %s",
                   (long long)wanted, h->mask, h->online, h->online == 1 ? "" : "s", remedy);
    return true;
}
