#include "core/tensor.h"

#include <stdio.h>

static const struct {
    size_t bytes;
    const char *name;
} dtypes[] = {
    [LH_REAL] = {sizeof(lh_real), "real"},
    [LH_BF16] = {2, "bf16"},
    [LH_INT32] = {4, "int32"},
    [LH_INT64] = {8, "int64"},
    [LH_UINT8] = {1, "uint8"},
    [LH_F64] = {8, "f64"},
};

size_t lh_dtype_bytes(lh_dtype dtype)
{
    return dtypes[dtype].bytes;
}

const char *lh_dtype_name(lh_dtype dtype)
{
    return dtypes[dtype].name;
}

int64_t lh_shape_count(const lh_shape *s)
{
    int64_t n = 1;
    for (int i = 0; i < s->ndim; i++) n *= s->dim[i];
    return n;
}

size_t lh_shape_bytes(const lh_shape *s)
{
    return (size_t)lh_shape_count(s) * lh_dtype_bytes(s->dtype);
}

bool lh_shape_equal(const lh_shape *a, const lh_shape *b)
{
    if (a->dtype != b->dtype || a->ndim != b->ndim) return false;
    for (int i = 0; i < a->ndim; i++)
        if (a->dim[i] != b->dim[i]) return false;
    return true;
}

const char *lh_shape_text(const lh_shape *s, char *buf, size_t bytes)
{
    size_t n = 0;
    if (bytes == 0) return buf;
    int w = snprintf(buf, bytes, "%s[", lh_dtype_name(s->dtype));
    n += w > 0 ? (size_t)w : 0;
    for (int i = 0; i < s->ndim && n < bytes; i++) {
        w = snprintf(buf + n, bytes - n, "%s%lld", i > 0 ? ", " : "", (long long)s->dim[i]);
        n += w > 0 ? (size_t)w : 0;
    }
    if (n < bytes) (void)snprintf(buf + n, bytes - n, "]");
    return buf;
}
