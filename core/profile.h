#pragma once
/* A profile: where the time of a step goes, by operation and direction. Whoever asks keeps one and
 * gives it to the tape (lh_tape_profile) and to what else it measures; without one nothing looks at
 * a clock. core has no clock of its own: the owner's is used. */
#include "core/device.h"

typedef enum lh_direction {
    LH_DIRECTION_FORWARD,
    LH_DIRECTION_RECOMPUTE, /* forward, again, before the backward */
    LH_DIRECTION_BACKWARD,
    LH_DIRECTION_STEP, /* what a step does besides: data, reductions, the update */
    LH_DIRECTIONS
} lh_direction;

/* One operation in one direction. Sums since the profile was cleared. */
typedef struct lh_profile_item {
    const char *name; /* borrowed, static */
    lh_direction direction;
    int64_t calls;
    double seconds, waited; /* waited: of these, for messages */
    double flops, bytes;    /* of the device */
} lh_profile_item;

enum { LH_PROFILE_ITEMS = 192 };
typedef struct lh_profile {
    double (*clock)(void); /* seconds */
    const double *waited;  /* seconds spent waiting for messages so far; NULL: there are none */
    lh_profile_item item[LH_PROFILE_ITEMS];
    int count;
} lh_profile;

/* Where something begins. */
typedef struct lh_profile_mark {
    double seconds, waited, flops, bytes;
} lh_profile_mark;

/* lh_direction_name - "forward", ... Local. */
const char *lh_direction_name(lh_direction d);

/* lh_profile_begin, lh_profile_end - what runs between on d is operation `name`; p NULL: only the
 * flops are looked at. An item that no place is left for is not kept. Local. */
lh_profile_mark lh_profile_begin(const lh_profile *p, const lh_device *d);
void lh_profile_end(lh_profile *p, const lh_device *d, lh_profile_mark begin, const char *name,
                    lh_direction direction);

/* lh_profile_clear - forget the sums. Local. */
void lh_profile_clear(lh_profile *p);
