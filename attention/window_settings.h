#pragma once
/* Settings of the mechanism sliding_window, for those who describe a model in C. */
#include "core/settings.h"

typedef struct lh_window_settings {
    int64_t window;       /* positions seen on a side */
    lh_int_list dilation; /* one value, or one per head */
    lh_int_list global;   /* words none | first | task, or positions */
} lh_window_settings;

/* lh_window_plain - a window without dilation and global tokens. Local. */
static inline lh_window_settings lh_window_plain(int64_t window)
{
    return (lh_window_settings){.window = window,
                                .dilation = {.word = -1, .count = 1, .item = {1}},
                                .global = {.word = 0}};
}
