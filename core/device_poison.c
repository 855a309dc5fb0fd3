/* A processor that behaves like a GPU. Every allocation is a mapping of its own:
 *
 *   [ header page | data pages, data at their end | guard page ]
 *
 * Data pages are accessible only between open and close, the guard page never; so reading device
 * memory on the host, or past the end of an allocation, is a segmentation fault at the line that
 * does it. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "core/device_internal.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Step memory marks what is dead for the address sanitizer; those marks must not outlive the
 * mapping. */
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

enum { POISON_LINE = 64, POISON_BYTE = 0xFF /* all ones is a NaN in every floating type */ };

typedef struct poison_block {
    struct poison_block *next;
    char *data_pages;
    size_t data_bytes, map_bytes;
    void *ptr;
} poison_block;

typedef struct poison_state {
    poison_block *blocks;
    size_t page;
    int depth; /* open minus close */
} poison_state;

/* mprotect can only fail here for want of kernel memory; the next access then faults, which is what
 * we are for. */
static void poison_protect(const poison_block *b, bool accessible)
{
    (void)mprotect(b->data_pages, b->data_bytes, accessible ? PROT_READ | PROT_WRITE : PROT_NONE);
}

static void poison_open(lh_device *d)
{
    poison_state *s = d->state;
    if (s->depth++ > 0) return;
    for (poison_block *b = s->blocks; b != NULL; b = b->next) poison_protect(b, true);
}

static void poison_close(lh_device *d)
{
    poison_state *s = d->state;
    if (--s->depth > 0) return;
    for (poison_block *b = s->blocks; b != NULL; b = b->next) poison_protect(b, false);
}

static lh_status poison_alloc(lh_device *d, size_t bytes, void **out)
{
    poison_state *s = d->state;
    size_t used = (bytes + POISON_LINE - 1) / POISON_LINE * POISON_LINE;
    size_t data = (used / s->page + (used % s->page > 0 || used == 0)) * s->page;
    size_t whole = data + 2 * s->page;
    *out = NULL;
    if (bytes > PTRDIFF_MAX / 2) return lhi_memory_raise("device", bytes);
    char *map = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return lhi_memory_raise("device", bytes);
    poison_block *b = (poison_block *)(void *)map;
    *b = (poison_block){s->blocks, map + s->page, data, whole, map + s->page + data - used};
    memset(b->data_pages, POISON_BYTE, data);
    (void)mprotect(map + s->page + data, s->page, PROT_NONE);
    poison_protect(b, s->depth > 0);
    s->blocks = b;
    *out = b->ptr;
    return LH_OK;
}

static void poison_release(lh_device *d, void *ptr)
{
    poison_state *s = d->state;
    for (poison_block **link = &s->blocks; *link != NULL; link = &(*link)->next) {
        poison_block *b = *link;
        if (b->ptr != ptr) continue;
        *link = b->next;
        ASAN_UNPOISON_MEMORY_REGION(b->data_pages, b->data_bytes);
        (void)munmap(b, b->map_bytes);
        return;
    }
}

static void poison_copy(lh_device *d, void *dst, const void *src, size_t bytes)
{
    (void)d;
    if (bytes > 0) memcpy(dst, src, bytes);
}

static void poison_fresh(lh_device *d, void *ptr, size_t bytes)
{
    (void)d;
    if (bytes > 0) memset(ptr, POISON_BYTE, bytes);
}

static void poison_destroy(lh_device *d)
{
    lh_free(&d->state);
}

static const lh_device_ops poison_ops = {
    .name = "poison",
    .alloc = poison_alloc,
    .release = poison_release,
    .copy_in = poison_copy,
    .copy_out = poison_copy,
    .open = poison_open,
    .close = poison_close,
    .fresh = poison_fresh,
    .destroy = poison_destroy,
};

lh_status lh_device_create_poison(const char *isa, int threads, lh_device **out)
{
    lh_status st = LH_OK;
    lh_device *d = NULL;
    poison_state *s = NULL;
    *out = NULL;
    LH_TRY(lhi_device_new(&poison_ops, isa, threads, &d));
    LH_TRY(lh_new(sizeof *s, &s));
    s->page = (size_t)sysconf(_SC_PAGESIZE);
    d->state = s;
    *out = d;
    d = NULL;
done:
    lh_device_destroy(&d);
    return st;
}
