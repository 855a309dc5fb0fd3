#pragma once
/* A cluster that is simulated, in one process: each rank is a thread of control of SimGrid, and MPI is
 * its SMPI. The other files of parallel/ are compiled against SMPI's mpi.h as they are; smpi.c and
 * smpi_sum.c stand in for wall.c and host.c, and between those files and SMPI.
 *
 * Messages are sent with their sizes but without their contents: all buffers become one, which has no
 * memory of its own. Sums of `real` numbers, which have no contents either, are made of messages here
 * (smpi_sum.c). What is agreed on, small and of other types, is really exchanged. Computing takes the
 * time that lh_smpi_compute says, and no clock of this machine is ever looked at, so that the same job
 * takes the same simulated time always. */
#include "core/pulse.h"
#include "parallel/comm.h"

typedef struct lh_smpi_job {
    const char *platform; /* SimGrid's description of the cluster */
    int ranks;
    double
        add_s_per_byte; /* what a sum of numbers costs the processor, for each byte that arrives */
    /* what each rank runs; the lowest one's status is the job's */
    lh_status (*run)(void *user);
    void *user;
} lh_smpi_job;

/* lh_smpi_run - run a job to its end, once in a process. Ranks fill the hosts of the platform in the
 * order of their names, one for each core. Local (there are no ranks before it). Errors: LH_ERR_USAGE
 * (the platform cannot be read or has too few cores), LH_ERR_IO, LH_ERR_MEMORY, or those of run. */
LH_NODISCARD lh_status lh_smpi_run(const lh_smpi_job *job);

/* lh_smpi_compute - this rank computes for so long on a processor whose speed the platform says is 1 Gf.
 * It takes effect with the next message, or look at the clock. Local to the rank, as all that follow. */
void lh_smpi_compute(double seconds);

/* What a rank has done. */
typedef struct lh_smpi_ledger {
    double layers_s; /* simulated time in operations of the model's layers: computing and waiting */
    int64_t bytes;   /* payload handed to SMPI; of a sum once */
} lh_smpi_ledger;

/* lh_smpi_begin - measure from now on. pulse: says which part of the model runs; borrowed; NULL: none.
 * Ranks that begin sums together have begun here together before. lh_smpi_ledger_of - since then. */
void lh_smpi_begin(const lh_pulse *pulse);
lh_smpi_ledger lh_smpi_ledger_of(void);
