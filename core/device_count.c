/* No data: addresses that no memory stands behind, kernels that are not run. */
#include "core/device_internal.h"

#include <string.h>

/* Far above what a process gets for real memory; addresses grow and are never used twice. */
#define COUNT_FIRST (UINT64_C(1) << 44)
enum { COUNT_LINE = 64 };

typedef struct count_state {
    uint64_t next;
} count_state;

static lh_status count_alloc(lh_device *d, size_t bytes, void **out)
{
    count_state *s = d->state;
    *out = (void *)(uintptr_t)s->next;
    s->next += (bytes + COUNT_LINE) / COUNT_LINE * COUNT_LINE;
    return LH_OK;
}

static void count_release(lh_device *d, void *ptr)
{
    (void)d;
    (void)ptr;
}

static void count_copy_in(lh_device *d, void *device_dst, const void *host_src, size_t bytes)
{
    (void)d;
    (void)device_dst;
    (void)host_src;
    (void)bytes;
}

static void count_copy_out(lh_device *d, void *host_dst, const void *device_src, size_t bytes)
{
    (void)d;
    (void)device_src;
    if (bytes > 0) memset(host_dst, 0, bytes);
}

static void count_destroy(lh_device *d)
{
    lh_free(&d->state);
}

static const lh_device_ops count_ops = {
    .name = "count",
    .alloc = count_alloc,
    .release = count_release,
    .copy_in = count_copy_in,
    .copy_out = count_copy_out,
    .destroy = count_destroy,
};

lh_status lh_device_create_count(const char *isa, int threads, lh_device **out)
{
    lh_status st = LH_OK;
    lh_device *d = NULL;
    count_state *s = NULL;
    *out = NULL;
    LH_TRY(lhi_device_new(&count_ops, isa, threads, &d));
    LH_TRY(lh_new(sizeof *s, &s));
    s->next = COUNT_FIRST;
    d->state = s;
    d->counting = true;
    *out = d;
    d = NULL;
done:
    lh_device_destroy(&d);
    return st;
}
