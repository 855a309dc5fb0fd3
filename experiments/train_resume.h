#pragma once
/* Where a run goes on: the newest checkpoint that is whole, if it is of the same training. */
#include "experiments/config_change.h"
#include "experiments/session.h"
#include "io/checkpoint.h"

/* lhi_resume_newest - the newest whole checkpoint of a folder, with moments, into the session's
 * parameters. Newer ones that are damaged or cannot be read are named on standard error and passed over,
 * and where steps are left to do, left for good (lh_checkpoint_leave). The session's configuration must
 * be one that the checkpoint's training can go on with; what else differs is added to `noted`. *found
 * false: there is no checkpoint at all. Collective on the session's world. The caller frees *info.
 * Errors: agreed; LH_ERR_USAGE lists every key that contradicts the checkpoint; LH_ERR_FORMAT: none is
 * whole. */
LH_NODISCARD lh_status lhi_resume_newest(lh_session *s, const char *folder, lh_change_list *noted,
                                         lh_checkpoint_info *info, bool *found);

/* lhi_resume_weights - the same for an evaluation: weights alone, and nothing is left or refused. Where
 * the session's configuration, which comes from `source`, has other keys of model or data than the
 * checkpoint's, and not by an override, a note on standard error names them. */
LH_NODISCARD lh_status lhi_resume_weights(lh_session *s, const char *folder,
                                          const lh_config_source *source, lh_checkpoint_info *info,
                                          bool *found);
