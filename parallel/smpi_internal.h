#pragma once
/* What smpi.c and smpi_sum.c share. Not public. */
#include <mpi.h>

#include "parallel/smpi.h"

/* A sum under way: smpi_sum.c. */
typedef struct smpi_sum smpi_sum;

/* What one simulated rank has beside SMPI's own. */
typedef struct smpi_rank {
    double debt; /* seconds computed that the simulated clock does not know yet */
    lh_smpi_ledger ledger;
    const lh_pulse *pulse;
    smpi_sum *sums;   /* under way, or done and not asked for yet */
    int64_t sums_all; /* ever begun: the same on all ranks of a communicator, for tags */
} smpi_rank;

/* lhi_smpi_self - of this rank; NULL outside of a job. lhi_smpi_flush - let what was computed pass.
 * lhi_smpi_pass - compute for so long, at once, as part of a call that is timed already. */
smpi_rank *lhi_smpi_self(void);
void lhi_smpi_pass(double seconds);
void lhi_smpi_flush(smpi_rank *r);

/* lhi_smpi_add_cost - seconds of adding so many bytes. lhi_smpi_buffer - where messages of so many bytes
 * come from and go to. */
double lhi_smpi_add_cost(int64_t bytes);
void *lhi_smpi_buffer(int64_t bytes);

/* lhi_smpi_sum_start - begin a sum of so many bytes; *request names it. lhi_smpi_sum_find - the sum of a
 * request; NULL: it is SMPI's own. lhi_smpi_sum_advance - let all sums move on as far as they can without
 * waiting. lhi_smpi_sum_wait - until it is done, or (NULL) SMPI's requests are. lhi_smpi_sum_done, _free. */
int lhi_smpi_sum_start(smpi_rank *r, int64_t bytes, MPI_Comm comm, MPI_Request *request);
smpi_sum *lhi_smpi_sum_find(const smpi_rank *r, MPI_Request request);
int lhi_smpi_sum_advance(const smpi_rank *r);
int lhi_smpi_sum_wait(const smpi_rank *r, const smpi_sum *sum, int count, MPI_Request *requests);
bool lhi_smpi_sum_done(const smpi_sum *sum);
void lhi_smpi_sum_free(smpi_rank *r, smpi_sum *sum);
