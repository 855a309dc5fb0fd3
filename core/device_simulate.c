/* No data, as on `count`, but each kernel and copy is told to whoever lets its time pass. */
#include "core/device_internal.h"

#include <string.h>

/* As on `count`: far above what a process gets for real memory. */
#define SIMULATE_FIRST (UINT64_C(1) << 44)
enum {
    SIMULATE_LINE = 64,
    SIMULATE_READ = 4096 /* bytes; more at once is a message's */
};

typedef struct simulate_state {
    const lh_simulated *by;
    uint64_t next;
} simulate_state;

static lh_status simulate_alloc(lh_device *d, size_t bytes, void **out)
{
    simulate_state *s = d->state;
    *out = (void *)(uintptr_t)s->next;
    s->next += (bytes + SIMULATE_LINE) / SIMULATE_LINE * SIMULATE_LINE;
    return LH_OK;
}

static void simulate_release(lh_device *d, void *ptr)
{
    (void)d;
    (void)ptr;
}

static void simulate_copied(lh_device *d, size_t bytes)
{
    const lh_simulated *by = ((const simulate_state *)d->state)->by;
    by->copied(by->user, d, bytes);
}

static void simulate_copy_in(lh_device *d, void *device_dst, const void *host_src, size_t bytes)
{
    (void)device_dst;
    (void)host_src;
    simulate_copied(d, bytes);
}

/* A thousand ranks that zero their messages would need their memory. */
static void simulate_copy_out(lh_device *d, void *host_dst, const void *device_src, size_t bytes)
{
    (void)device_src;
    if (bytes > 0 && bytes <= SIMULATE_READ) memset(host_dst, 0, bytes);
    simulate_copied(d, bytes);
}

static void simulate_skip(lh_device *d, lh_kernel kernel, const void *args)
{
    const lh_simulated *by = ((const simulate_state *)d->state)->by;
    by->kernel(by->user, d, kernel, args);
}

static void simulate_destroy(lh_device *d)
{
    lh_free(&d->state);
}

static const lh_device_ops simulate_ops = {
    .name = "simulate",
    .alloc = simulate_alloc,
    .release = simulate_release,
    .copy_in = simulate_copy_in,
    .copy_out = simulate_copy_out,
    .skip = simulate_skip,
    .destroy = simulate_destroy,
};

lh_status lh_device_create_simulate(const char *isa, int threads, const lh_simulated *by,
                                    lh_device **out)
{
    lh_status st = LH_OK;
    lh_device *d = NULL;
    simulate_state *s = NULL;
    *out = NULL;
    LH_TRY(lhi_device_new(&simulate_ops, isa, threads, &d));
    LH_TRY(lh_new(sizeof *s, &s));
    s->by = by;
    s->next = SIMULATE_FIRST;
    d->state = s;
    d->counting = true;
    *out = d;
    d = NULL;
done:
    lh_device_destroy(&d);
    return st;
}
