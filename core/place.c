#include "core/place.h"

#include <stdio.h>

lh_place lh_place_dual(const lh_place *p)
{
    lh_place d = *p;
    for (int a = 0; a < LH_AXES; a++) {
        if (p->axis[a].kind == LH_REPLICATE) d.axis[a].kind = LH_PARTIAL;
        if (p->axis[a].kind == LH_PARTIAL) d.axis[a].kind = LH_REPLICATE;
    }
    return d;
}

bool lh_place_equal(const lh_place *a, const lh_place *b)
{
    for (int i = 0; i < LH_AXES; i++) {
        const lh_place_word *x = &a->axis[i];
        const lh_place_word *y = &b->axis[i];
        if (x->kind != y->kind) return false;
        bool split = x->kind == LH_SHARD || x->kind == LH_HEADS;
        if (split && (x->dim != y->dim || x->layout != y->layout)) return false;
    }
    return true;
}

lh_place lh_place_replicated(void)
{
    return (lh_place){{{LH_REPLICATE, 0, NULL}, {LH_REPLICATE, 0, NULL}}};
}

lh_place lh_place_tokens(const lh_layout *layout)
{
    return (lh_place){{{LH_SHARD, 0, NULL}, {LH_SHARD, 1, layout}}};
}

lh_place lh_place_rows(const lh_layout *layout)
{
    return (lh_place){{{LH_REPLICATE, 0, NULL}, {LH_SHARD, 0, layout}}};
}

lh_place lh_place_partial(void)
{
    return (lh_place){{{LH_PARTIAL, 0, NULL}, {LH_PARTIAL, 0, NULL}}};
}

static void place_word_text(const lh_place_word *w, char *buf, size_t bytes)
{
    if (w->kind == LH_SHARD && w->layout != NULL)
        (void)snprintf(buf, bytes, "shard %d %s", w->dim, w->layout->name);
    else if (w->kind == LH_SHARD)
        (void)snprintf(buf, bytes, "shard %d", w->dim);
    else if (w->kind == LH_HEADS)
        (void)snprintf(buf, bytes, "by heads");
    else
        (void)snprintf(buf, bytes, "%s", w->kind == LH_PARTIAL ? "partial" : "replicate");
}

const char *lh_place_text(const lh_place *p, char *buf, size_t bytes)
{
    char data[64];
    char seq[64];
    place_word_text(&p->axis[LH_AXIS_DATA], data, sizeof data);
    place_word_text(&p->axis[LH_AXIS_SEQ], seq, sizeof seq);
    (void)snprintf(buf, bytes, "[data: %s, sequence: %s]", data, seq);
    return buf;
}
