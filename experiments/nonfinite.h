#pragma once
/* Where a loss or gradient that is not finite came from: the step's passes once more, with a look at every
 * value on the way. It takes a few times as long as a step and happens once, at the end of a run; other steps
 * do nothing for it. */
#include "experiments/session.h"

/* Steps in a row that train.on_nonfinite: skip leaves out; the last of them stops the run. */
enum { LH_NONFINITE_SKIPS = 20 };

/* lh_nonfinite_report - the error of step t, which has just been run and has updated nothing: what is not
 * finite, the first parameter and the first operation of any rank that has such numbers. Collective on world.
 * Returns LH_ERR_NONFINITE, agreed. */
lh_status lh_nonfinite_report(lh_session *s, int64_t first_sample, int64_t t,
                              const lh_step_result *result);

/* lh_nonfinite_number - a number for people, which may be none: "1.25", "not a number", "infinite". Into text
 * [LH_NONFINITE_TEXT], which it returns. Local. */
enum { LH_NONFINITE_TEXT = 32 };
const char *lh_nonfinite_number(double x, char *text);
