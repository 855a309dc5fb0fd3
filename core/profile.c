#include "core/profile.h"

#include <string.h>

const char *lh_direction_name(lh_direction d)
{
    static const char *const names[LH_DIRECTIONS] = {"forward", "recompute", "backward", "step"};
    return (unsigned)d < LH_DIRECTIONS ? names[d] : "unknown";
}

static double profile_waited(const lh_profile *p)
{
    return p->waited != NULL ? *p->waited : 0.0;
}

lh_profile_mark lh_profile_begin(const lh_profile *p, const lh_device *d)
{
    lh_profile_mark m = {.flops = d->flops, .bytes = d->bytes};
    if (p == NULL) return m;
    m.waited = profile_waited(p);
    m.seconds = p->clock();
    return m;
}

void lh_profile_end(lh_profile *p, const lh_device *d, lh_profile_mark begin, const char *name,
                    lh_direction direction)
{
    if (p == NULL) return;
    double seconds = p->clock() - begin.seconds;
    int i = 0;
    while (i < p->count &&
           (p->item[i].direction != direction || strcmp(p->item[i].name, name) != 0))
        i++;
    if (i == LH_PROFILE_ITEMS) return;
    lh_profile_item *item = &p->item[i];
    if (i == p->count) {
        *item = (lh_profile_item){.name = name, .direction = direction};
        p->count++;
    }
    item->calls++;
    item->seconds += seconds;
    item->waited += profile_waited(p) - begin.waited;
    item->flops += d->flops - begin.flops;
    item->bytes += d->bytes - begin.bytes;
}

void lh_profile_clear(lh_profile *p)
{
    p->count = 0;
}
