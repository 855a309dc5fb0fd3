#pragma once
/* The newest checkpoint of a folder that can be read, also while a run writes there: it removes what is
 * older than it keeps, maybe between the listing and the reading. */
#include "io/files.h"

/* lh_newest_take - hand the checkpoints of a folder, newest first, to `read` until it takes one, with LH_OK.
 * One that it finds damaged (LH_ERR_FORMAT) or cannot read (LH_ERR_IO), or that the run has left
 * (lh_checkpoint_left), is named on standard error and passed over; once the folder has changed meanwhile,
 * all begins again with the newest. *found false: there is no checkpoint at all. `read` gets the path, is
 * called on every rank alike and agrees on its error. Collective on comm (NULL: one process). Errors:
 * agreed; read's others; LH_ERR_FORMAT: none is whole; LH_ERR_IO: the folder never stays the same for long
 * enough. */
LH_NODISCARD lh_status lh_newest_take(lh_comm *comm, const char *folder,
                                      lh_status (*read)(void *user, const char *path), void *user,
                                      bool *found);
