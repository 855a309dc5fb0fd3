#pragma once
/* What ranks of one node share: its processors and its memory. */
#include "parallel/comm.h"

typedef struct lh_host {
    int ranks; /* ranks of this job on this node */
    /* of them, those that may run on a processor of this rank's mask, itself included */
    int sharing;
    int mask;   /* processors that this rank may run on */
    int online; /* processors of the node */
    /* bytes that this job may use on this node: its memory, or less where a control group says so */
    int64_t memory;
} lh_host;

/* lh_host_of - look around. Collective on c. Errors: none (an MPI failure is fatal). */
lh_host lh_host_of(lh_comm *c);

/* lh_host_short - do the threads of a rank lack processors? Then text says how many there are and what to
 * give the launcher. Local. */
bool lh_host_short(const lh_host *h, int threads, char *text, size_t bytes);

/* lh_host_sum - the sum over the ranks of this node. Collective on c. */
int64_t lh_host_sum(lh_comm *c, int64_t mine);

/* lh_mpi_version - name and version of the MPI library, its first line, cut where it is longer; into text,
 * which it returns. Local, after lh_init. */
const char *lh_mpi_version(char *text, size_t bytes);

/* lh_host_processors - processors that this process may run on. Local, needs no MPI. */
int lh_host_processors(void);

/* lh_host_processor - what the system calls this node's processor; "": it does not say. Into text, which it
 * returns. Local, needs no MPI. */
const char *lh_host_processor(char *text, size_t bytes);
