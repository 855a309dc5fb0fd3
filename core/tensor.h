#pragma once
/* Element types and shapes. Tensors are dense and row-major; the last dimension is contiguous.
 *
 * `real` is float, or double in the build LH_PRECISION=double. Element bytes always come from the
 * dtype. */
#include "core/status.h"

#ifdef LH_PRECISION_DOUBLE
typedef double lh_real;
#define LH_REAL_NAME "double"
#else
typedef float lh_real;
#define LH_REAL_NAME "float"
#endif

typedef enum lh_dtype { LH_REAL, LH_BF16, LH_INT32, LH_INT64, LH_UINT8, LH_F64 } lh_dtype;
/* LH_F64 is for the loss alone: it is summed in double in every build. */

enum { LH_MAX_DIMS = 6 };

typedef struct lh_shape {
    lh_dtype dtype;
    int ndim;
    int64_t dim[LH_MAX_DIMS];
} lh_shape;

/* lh_dtype_bytes - bytes of one element. Local. */
size_t lh_dtype_bytes(lh_dtype dtype);

/* lh_dtype_name - "real", "int32", ... Local. */
const char *lh_dtype_name(lh_dtype dtype);

/* lh_shape_count - number of elements (1 for no dimensions). Local. */
int64_t lh_shape_count(const lh_shape *s);

/* lh_shape_bytes - bytes of the whole tensor. Local. */
size_t lh_shape_bytes(const lh_shape *s);

/* lh_shape_equal - same dtype and dimensions. Local. */
bool lh_shape_equal(const lh_shape *a, const lh_shape *b);

/* lh_shape_text - "real[2, 16, 64]" into buf; returns buf. Local. */
const char *lh_shape_text(const lh_shape *s, char *buf, size_t bytes);

/* Shape literals: lh_shape_1(LH_REAL, n) ... */
static inline lh_shape lh_shape_1(lh_dtype t, int64_t a)
{
    return (lh_shape){t, 1, {a}};
}
static inline lh_shape lh_shape_2(lh_dtype t, int64_t a, int64_t b)
{
    return (lh_shape){t, 2, {a, b}};
}
static inline lh_shape lh_shape_3(lh_dtype t, int64_t a, int64_t b, int64_t c)
{
    return (lh_shape){t, 3, {a, b, c}};
}
static inline lh_shape lh_shape_4(lh_dtype t, int64_t a, int64_t b, int64_t c, int64_t d)
{
    return (lh_shape){t, 4, {a, b, c, d}};
}
