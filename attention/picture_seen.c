/* Pictures of what a mechanism recorded. */
#include "attention/attend.h"

lh_status lh_picture_recorded(lh_picture *p, const lh_tape *t, int tape_part)
{
    lh_status st = LH_OK;
    const lh_pattern all = lh_pattern_band(-LH_FAR, LH_FAR);
    lh_attend_seen s;
    bool some = false;
    for (int64_t at = 0; lh_attend_next(t, &at, &s);) {
        if (s.part != tape_part) continue;
        LH_TRY(lh_picture_add(p, &(lh_picture_part){.head = s.head,
                                                    .n_heads = s.n_heads,
                                                    .pattern = s.pattern != NULL ? s.pattern : &all,
                                                    .queries = s.queries,
                                                    .keys = s.keys,
                                                    .far = LH_KIND_HALO}));
        some = true;
    }
    if (!some)
        LH_TRY(lh_picture_add(
            p, &(lh_picture_part){.note = "not drawn: this mechanism records no lh_attend, and its "
                                          "table has no draw"}));
done:
    return st;
}
