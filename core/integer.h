#pragma once
/* The smaller and the larger of two integers. */
#include <stdint.h>

static inline int64_t lhi_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t lhi_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
