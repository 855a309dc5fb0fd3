/* No data: addresses that no memory stands behind, kernels that are not run. `simulate` is the same, but tells whoever lets
 * time pass of each kernel and copy. */
#include "core/device_internal.h"

#include <string.h>

/* Far above what a process gets for real memory; addresses grow and are never used twice. */
#define COUNT_FIRST (UINT64_C(1) << 44)
enum {
    COUNT_LINE = 64,
    COUNT_READ = 4096 /* bytes that simulate zeroes; more at once is a message's */
};

typedef struct count_state {
    uint64_t next;
    const lh_simulated *by; /* simulate; else NULL */
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

static void count_copied(lh_device *d, size_t bytes)
{
    const lh_simulated *by = ((const count_state *)d->state)->by;
    if (by != NULL) by->copied(by->user, d, bytes);
}

static void count_copy_in(lh_device *d, void *device_dst, const void *host_src, size_t bytes)
{
    (void)device_dst;
    (void)host_src;
    count_copied(d, bytes);
}

/* A thousand simulated ranks that zeroed their messages would need their memory. */
static void count_copy_out(lh_device *d, void *host_dst, const void *device_src, size_t bytes)
{
    const lh_simulated *by = ((const count_state *)d->state)->by;
    (void)device_src;
    if (bytes > 0 && (by == NULL || bytes <= COUNT_READ)) memset(host_dst, 0, bytes);
    count_copied(d, bytes);
}

static void simulate_skip(lh_device *d, lh_kernel kernel, const void *args)
{
    const lh_simulated *by = ((const count_state *)d->state)->by;
    by->kernel(by->user, d, kernel, args);
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

static const lh_device_ops simulate_ops = {
    .name = "simulate",
    .alloc = count_alloc,
    .release = count_release,
    .copy_in = count_copy_in,
    .copy_out = count_copy_out,
    .skip = simulate_skip,
    .destroy = count_destroy,
};

static lh_status count_create(const lh_device_ops *ops, const char *isa, int threads,
                              const lh_simulated *by, lh_device **out)
{
    lh_status st = LH_OK;
    lh_device *d = NULL;
    count_state *s = NULL;
    *out = NULL;
    LH_TRY(lhi_device_new(ops, isa, threads, &d));
    LH_TRY(lh_new(sizeof *s, &s));
    *s = (count_state){.next = COUNT_FIRST, .by = by};
    d->state = s;
    d->counting = true;
    *out = d;
    d = NULL;
done:
    lh_device_destroy(&d);
    return st;
}

lh_status lh_device_create_count(const char *isa, int threads, lh_device **out)
{
    return count_create(&count_ops, isa, threads, NULL, out);
}

lh_status lh_device_create_simulate(const char *isa, int threads, const lh_simulated *by,
                                    lh_device **out)
{
    return count_create(&simulate_ops, isa, threads, by, out);
}
