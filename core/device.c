/* The front of every device: hooks around calls, counted flops, host memory. */
#include "core/device_internal.h"
#include "core/kernels_internal.h"
#include "core/pulse.h"

#include <stdlib.h>
#include <string.h>

lh_status lhi_device_new(const lh_device_ops *ops, const char *isa, int threads, lh_device **out)
{
    lh_status st = LH_OK;
    lh_device *d = NULL;
    const lh_kernels *kernels = NULL;
    *out = NULL;
    LH_CHECK(threads >= 1, LH_ERR_BUG, "device %s: %d threads, expected at least 1", ops->name,
             threads);
    LH_TRY(lhi_kernels_for(isa, &kernels));
    LH_TRY(lh_new(sizeof *d, &d));
    lhi_gemm_prepare();
    d->ops = ops;
    d->kernels = kernels;
    d->threads = threads;
    *out = d;
done:
    return st;
}

void lh_device_destroy(lh_device **device)
{
    lh_device *d = *device;
    if (d != NULL && d->ops->destroy != NULL) d->ops->destroy(d);
    lh_free(device);
}

static void device_open(lh_device *d)
{
    if (d->ops->open != NULL) d->ops->open(d);
}

static void device_close(lh_device *d)
{
    if (d->ops->close != NULL) d->ops->close(d);
}

lh_status lh_device_alloc(lh_device *d, size_t bytes, void **out)
{
    lh_status st = LH_OK;
    *out = NULL;
    LH_TRY(lh_new_note(bytes));
    LH_TRY(d->ops->alloc(d, bytes, out));
done:
    return st;
}

void lh_device_release(lh_device *d, void **ptr)
{
    if (*ptr != NULL) d->ops->release(d, *ptr);
    *ptr = NULL;
}

void lh_copy_in(lh_device *d, void *device_dst, const void *host_src, size_t bytes)
{
    lh_pulse_beat(d->pulse);
    device_open(d);
    d->ops->copy_in(d, device_dst, host_src, bytes);
    device_close(d);
}

void lh_copy_out(lh_device *d, void *host_dst, const void *device_src, size_t bytes)
{
    lh_pulse_beat(d->pulse);
    device_open(d);
    d->ops->copy_out(d, host_dst, device_src, bytes);
    device_close(d);
}

void lh_device_fresh(lh_device *d, void *ptr, size_t bytes)
{
    if (d->ops->fresh == NULL) return;
    device_open(d);
    d->ops->fresh(d, ptr, bytes);
    device_close(d);
}

/* A bf16 is the upper half of a float. */
static double device_bf16(const void *bytes)
{
    uint16_t half = 0;
    float value = 0;
    memcpy(&half, bytes, sizeof half);
    uint32_t bits = (uint32_t)half << 16;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

double lh_read_scalar(lh_device *d, const void *device_src, lh_dtype dtype)
{
    union {
        lh_real real;
        int32_t int32;
        int64_t int64;
        uint8_t uint8;
        double f64;
    } v = {.f64 = 0.0};
    lh_copy_out(d, &v, device_src, lh_dtype_bytes(dtype));
    switch (dtype) {
    case LH_REAL:
        return (double)v.real;
    case LH_BF16:
        return device_bf16(&v);
    case LH_INT32:
        return (double)v.int32;
    case LH_INT64:
        return (double)v.int64;
    case LH_UINT8:
        return (double)v.uint8;
    case LH_F64:
        return v.f64;
    }
    return 0.0;
}

lh_status lh_host_alloc(size_t bytes, void **out)
{
    lh_status st = LH_OK;
    *out = NULL;
    LH_TRY(lh_new_note(bytes));
    LH_TRY(lhi_memory_new("host", bytes, out));
done:
    return st;
}

void lh_host_release(void **ptr)
{
    free(*ptr);
    *ptr = NULL;
}

size_t lh_attend_scratch(const lh_device *d, const lh_attend_room *room)
{
    return d->kernels->attend_scratch(room, d->threads);
}

double lh_gemm_flops(const lh_gemm_args *a)
{
    return 2.0 * (double)a->m * (double)a->n * (double)a->k;
}

/* Ones among bits first .. last - 1 of the array. */
static int64_t bits_between(const uint64_t *bits, int64_t first, int64_t last)
{
    int64_t n = 0;
    while (first < last) {
        int64_t offset = first % 64;
        int64_t count = last - first < 64 - offset ? last - first : 64 - offset;
        uint64_t word = bits[first / 64] >> offset;
        if (count < 64) word &= (UINT64_C(1) << count) - 1;
        n += __builtin_popcountll(word);
        first += count;
    }
    return n;
}

/* Are keys first .. last of a tile all visible to all of its queries? */
static bool tile_full(const lh_tile *t, int64_t first, int64_t last)
{
    return t->bits < 0 && t->lo <= first - (t->nq - 1) && last <= t->hi;
}

/* Visible scores of a tile, row by row: keys from i + lo to i + hi that exist, and of these the
 * ones whose bit is 1. */
static int64_t tile_visible(const lh_tile *t, const uint64_t *bits)
{
    int64_t n = 0;
    if (tile_full(t, 0, t->nk - 1)) return (int64_t)t->nq * t->nk;
    for (int64_t i = 0; i < t->nq; i++) {
        int64_t first = i + t->lo > 0 ? i + t->lo : 0;
        int64_t last = i + t->hi + 1 < t->nk ? i + t->hi + 1 : t->nk;
        if (first >= last) continue;
        if (t->bits < 0)
            n += last - first;
        else
            n += bits_between(bits, t->bits + i * t->nk + first, t->bits + i * t->nk + last);
    }
    return n;
}

/* The sight does not count: the number must not depend on data. */
static double tiles_visible(const lh_tile *tiles, int64_t n_tiles, const uint64_t *bits)
{
    double n = 0;
    for (int64_t i = 0; i < n_tiles; i++) n += (double)tile_visible(&tiles[i], bits);
    return n;
}

double lh_attend_flops(const lh_attend_args *a)
{
    return (a->qr != NULL ? 6.0 : 4.0) * (double)a->width * (double)a->batch * (double)a->n_heads *
           tiles_visible(a->tiles, a->n_tiles, a->bits);
}

double lh_attend_grad_flops(const lh_attend_grad_args *a)
{
    return (a->qr != NULL ? 16.0 : 10.0) * (double)a->width * (double)a->batch *
           (double)a->n_heads * tiles_visible(a->tiles, a->n_tiles, a->bits);
}

static double no_flops(const void *args)
{
    (void)args;
    return 0.0;
}

void lh_tiles_count(const lh_tile *tiles, int64_t n_tiles, lh_tile_count *n)
{
    for (int64_t i = 0; i < n_tiles; i++) {
        const lh_tile *t = &tiles[i];
        if (tile_full(t, 0, t->nk - 1)) {
            n->full += (t->nk + LH_TILE_K - 1) / LH_TILE_K;
            continue;
        }
        for (int64_t first = 0; first < t->nk; first += LH_TILE_K) {
            int64_t last = first + LH_TILE_K < t->nk ? first + LH_TILE_K - 1 : t->nk - 1;
            bool full = tile_full(t, first, last);
            n->full += full;
            n->mixed += !full;
        }
    }
}

static void attend_tiles(lh_device *d, const lh_attend_args *a)
{
    lh_tile_count one = {0};
    lh_tiles_count(a->tiles, a->n_tiles, &one);
    d->tiles.mixed += a->batch * a->n_heads * one.mixed;
    d->tiles.full += a->batch * a->n_heads * one.full;
}

static void no_tiles(lh_device *d, const void *args)
{
    (void)d, (void)args;
}

/* Counts the tiles of a call, by the type of its arguments. */
#define DEVICE_TILES(d, args)                                                                      \
    _Generic((args), const lh_attend_args * : attend_tiles, default : no_tiles)(d, args)

/* The flops of a call, by the type of its arguments. */
#define DEVICE_FLOPS(args)                                                                         \
    _Generic((args), const lh_gemm_args *: lh_gemm_flops, const lh_attend_args *: lh_attend_flops, \
             const lh_attend_grad_args *: lh_attend_grad_flops, default: no_flops)(args)

static void device_skip(lh_device *d, lh_kernel kernel, const void *args)
{
    if (d->ops->skip != NULL) d->ops->skip(d, kernel, args);
}

#define DEVICE_CALL(name)                                                                          \
    void lh_run_##name(lh_device *d, const lh_##name##_args *args)                                 \
    {                                                                                              \
        d->flops += DEVICE_FLOPS(args);                                                            \
        d->bytes += lh_kernel_bytes(LH_KERNEL_##name, args);                                       \
        DEVICE_TILES(d, args);                                                                     \
        lh_pulse_beat(d->pulse);                                                                   \
        if (d->counting) {                                                                         \
            device_skip(d, LH_KERNEL_##name, args);                                                \
            return;                                                                                \
        }                                                                                          \
        device_open(d);                                                                            \
        d->kernels->name(args, d->threads);                                                        \
        device_close(d);                                                                           \
    }
LH_KERNEL_LIST(DEVICE_CALL)
#undef DEVICE_CALL
