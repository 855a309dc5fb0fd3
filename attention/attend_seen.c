/* What a tape holds of lh_attend and lh_attend_few. */
#include "attention/attend.h"

bool lh_attend_next(const lh_tape *t, int64_t *at, lh_attend_seen *out)
{
    lh_tape_item item;
    for (; lh_tape_recorded(t, *at / LH_SEGMENTS, &item); *at += LH_SEGMENTS - *at % LH_SEGMENTS) {
        int i = (int)(*at % LH_SEGMENTS);
        if (!lhi_attend_seen(&item, i, out) && (i > 0 || !lhi_attend_few_seen(&item, out)))
            continue;
        ++*at;
        return true;
    }
    return false;
}
