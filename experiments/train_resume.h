#pragma once
/* Where a run goes on: the newest checkpoint that is whole, if it is of the same training. */
#include "experiments/config_change.h"
#include "experiments/session.h"
#include "io/checkpoint.h"

/* lhi_resume_newest - the newest whole checkpoint of a folder into the session's parameters. Newer ones
 * that are damaged or cannot be read are named on standard error and passed over. LH_CHECKPOINT_ALL: the
 * session's configuration must be one that the checkpoint's training can go on with, and where steps are
 * left to do, those passed over are left for good (lh_checkpoint_leave); what else differs is added to
 * `noted` (LH_CHECKPOINT_WEIGHTS: not compared, NULL). *found false: there is no checkpoint
 * at all. Collective on the session's world. The caller frees *info. Errors: agreed; LH_ERR_USAGE
 * lists every key that contradicts the checkpoint; LH_ERR_FORMAT: none is whole. */
LH_NODISCARD lh_status lhi_resume_newest(lh_session *s, const char *folder, lh_checkpoint_what what,
                                         lh_change_list *noted, lh_checkpoint_info *info,
                                         bool *found);
