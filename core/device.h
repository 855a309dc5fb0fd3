#pragma once
/* Devices: where tensor data lives and which kernels touch it.
 *
 *   cpu     the processor; the kernel table is chosen by instruction set at run time
 *   poison  a cpu device that behaves like a GPU: its memory is unreadable outside device calls and fresh memory is NaN,
 *           so that a missing copy is found without a GPU
 *   count   no data at all: kernels only add their flops; pointers it hands out must never be read
 *   simulate  as count, and somebody is told of every kernel and copy, so that its time can pass
 *
 * Tensor data is touched only through the calls below. Messages use host buffers (lh_host_alloc);
 * pack_rows, unpack_rows and add_rows move rows between them and tensors. */
#include "core/kernels.h"

typedef struct lh_device lh_device;

typedef struct lh_device_ops {
    const char *name;
    /* required */
    lh_status (*alloc)(lh_device *d, size_t bytes,
                       void **out); /* at least 64-byte aligned; bytes 0 is allowed */
    void (*release)(lh_device *d, void *ptr);
    void (*copy_in)(lh_device *d, void *device_dst, const void *host_src, size_t bytes);
    void (*copy_out)(lh_device *d, void *host_dst, const void *device_src, size_t bytes);
    /* optional (NULL: nothing): around every kernel and copy */
    void (*open)(lh_device *d);
    void (*close)(lh_device *d);
    void (*fresh)(lh_device *d, void *ptr,
                  size_t bytes); /* memory that starts a new life: poison fills it with NaN */
    /* in place of a kernel, on devices that count */
    void (*skip)(lh_device *d, lh_kernel kernel, const void *args);
    void (*destroy)(lh_device *d); /* releases state */
} lh_device_ops;

/* Blocks of at most LH_TILE_Q queries by LH_TILE_K keys of one head and sequence. */
typedef struct lh_tile_count {
    int64_t empty; /* not looked at */
    int64_t mixed; /* computed and masked */
    int64_t full;  /* computed, all of it visible */
} lh_tile_count;

struct lh_device {
    const lh_device_ops *ops;
    const lh_kernels *kernels;
    int threads;
    bool counting; /* no data: host decisions must not depend on values */
    /* counted by the calls below on every device; reset by the owner. bytes: lh_kernel_bytes */
    double flops, bytes;
    /* blocks that lh_run_attend was given, of all its heads and sequences (empty: 0); likewise */
    lh_tile_count tiles;
    struct lh_pulse *pulse; /* beats with every call below; NULL: nobody watches; borrowed */
    void *state;
};

/* Threads of one rank, at most: far above any node; OpenMP's stack ends somewhat later. */
enum { LH_MAX_THREADS = 4096 };

/* lh_device_create_cpu - the processor. isa: "avx512", "avx2", "portable", "auto" (the first of them
 * that there is), or "avx512_bf16" (lh_kernels_f32_avx512_bf16). Local. threads >= 1. The caller
 * destroys *out. Errors: LH_ERR_UNSUP when this processor or build lacks the isa; LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_device_create_cpu(const char *isa, int threads, lh_device **out);

/* lh_device_create_poison - as cpu, with memory that is protected outside device calls. Local. */
LH_NODISCARD lh_status lh_device_create_poison(const char *isa, int threads, lh_device **out);

/* lh_device_create_count - no data; needs the kernel table (of the same isa) only for scratch
 * sizes. Local. */
LH_NODISCARD lh_status lh_device_create_count(const char *isa, int threads, lh_device **out);

/* Who lets the time of work pass that is not done. kernel: its arguments as the device got them;
 * copied: bytes between host and device. Both are called in place of the work. */
typedef struct lh_simulated {
    void (*kernel)(void *user, lh_device *d, lh_kernel kernel, const void *args);
    void (*copied)(void *user, lh_device *d, size_t bytes);
    void *user;
} lh_simulated;

/* lh_device_create_simulate - as count, for steps whose messages are sent. Borrows by. What comes out of
 * it is zero in a few numbers, and not written in more: messages, which nobody reads. Local. */
LH_NODISCARD lh_status lh_device_create_simulate(const char *isa, int threads,
                                                 const lh_simulated *by, lh_device **out);

/* lh_device_destroy - nulls the handle. Local. Memory handed out must have been released. */
void lh_device_destroy(lh_device **device);

/* lh_device_alloc - device memory (uninitialised; NaN on poison). Local. Release with
 * lh_device_release. */
LH_NODISCARD lh_status lh_device_alloc(lh_device *d, size_t bytes, void **out);
void lh_device_release(lh_device *d, void **ptr);

/* lh_copy_in, lh_copy_out - bytes between host and device memory. Local. On count: nothing
 * (copy_out zeroes host_dst). */
void lh_copy_in(lh_device *d, void *device_dst, const void *host_src, size_t bytes);
void lh_copy_out(lh_device *d, void *host_dst, const void *device_src, size_t bytes);

/* lh_device_fresh - tell the device that this memory starts a new life. Local. */
void lh_device_fresh(lh_device *d, void *ptr, size_t bytes);

/* lh_read_scalar - one element as double: the only way in which the host decides on data. Local. On
 * count: 0. */
double lh_read_scalar(lh_device *d, const void *device_src, lh_dtype dtype);

/* lh_host_alloc - host memory for messages, 64-byte aligned. Local. Release with lh_host_release. */
LH_NODISCARD lh_status lh_host_alloc(size_t bytes, void **out);
void lh_host_release(void **ptr);

/* lh_attend_scratch - device scratch bytes that attend, or attend_grad (backward), needs. Local. */
size_t lh_attend_scratch(const lh_device *d, const lh_attend_room *room);

/* lh_kernel_flops - floating-point operations that a call stands for (products and attention only;
 * 2 per multiply-add). Local. */
double lh_gemm_flops(const lh_gemm_args *a);
double lh_attend_flops(const lh_attend_args *a);
double lh_attend_grad_flops(const lh_attend_grad_args *a);

/* lh_kernel_bytes - bytes that a call reads and writes if each operand goes through memory once; of
 * attend and attend_grad, which live in cache, 0. Local, pure. */
double lh_kernel_bytes(lh_kernel kernel, const void *args);

/* lh_tiles_count - adds the blocks of a list of tiles to *n, as the kernel takes them: each tile's
 * keys from its first one on, LH_TILE_K at a time. What data hides (lh_sight) does not count. Local,
 * pure. */
void lh_tiles_count(const lh_tile *tiles, int64_t n_tiles, lh_tile_count *n);

/* lh_run_NAME(device, &args) - run kernel NAME. Local. */
#define LH_KERNEL_CALL(name) void lh_run_##name(lh_device *d, const lh_##name##_args *args);
LH_KERNEL_LIST(LH_KERNEL_CALL)
#undef LH_KERNEL_CALL
