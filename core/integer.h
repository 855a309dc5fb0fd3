#pragma once
/* Arithmetic of integers. */
#include <stdint.h>

/* The smaller and the larger of two. */
static inline int64_t lhi_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t lhi_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* a / b rounded down, and up. b > 0. */
static inline int64_t lhi_floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static inline int64_t lhi_ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b > 0);
}

/* The greatest common divisor of a, b >= 1. */
static inline int64_t lhi_gcd(int64_t a, int64_t b)
{
    while (b != 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}
