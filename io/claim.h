#pragma once
/* Who writes into a folder: one launch at a time, and all of its ranks. Rank 0 holds a lock on FOLDER/.lock, which
 * ends with its process however that ends, so a file that a killed run has left means nothing. */
#include "parallel/comm.h"

typedef struct lh_claim lh_claim;

/* lh_claim_take - this launch alone writes into the folder, which exists, until lh_claim_drop. One that another
 * launch holds is asked for again for a second, in which a job that was killed goes. Where the file system has
 * no locks, or nothing may be written, the claim is as good as one. Collective on comm (NULL: this process
 * alone). The caller drops *out. Errors: agreed LH_ERR_USAGE (another launch has it), LH_ERR_IO,
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_claim_take(lh_comm *comm, const char *folder, lh_claim **out);

/* lh_claim_drop - accepts NULL content and nulls it; its file goes. Local. */
void lh_claim_drop(lh_claim **claim);

/* lh_claim_shared - do all ranks see the same folder, and may all write there? Collective on comm. Errors: agreed
 * LH_ERR_IO, which names a rank that does not. */
LH_NODISCARD lh_status lh_claim_shared(lh_comm *comm, const char *folder);

/* lhi_claim_seen - may all ranks write to a file that rank 0 has just made? text: what is in it; NULL: no matter.
 * Collective on comm. Errors: as lh_claim_shared. */
LH_NODISCARD lh_status lhi_claim_seen(lh_comm *comm, const char *path, const char *text);

/* lhi_claim_lock - lock an open file for writing, until the process closes any descriptor of it. Local. false:
 * another process has it. True also where the file system has no locks. */
bool lhi_claim_lock(int fd);
