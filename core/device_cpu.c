/* The processor: plain memory, and the choice of the kernel table. */
#define _DEFAULT_SOURCE /* madvise */
#include "core/device_internal.h"
#include "core/kernels_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { CPU_LINE = 64, CPU_HUGE = 2 << 20 };

lh_status lhi_memory_raise(const char *what, size_t bytes)
{
    return LH_RAISE(
        LH_ERR_MEMORY,
        "no %s memory for %zu bytes (%.1f MiB): use a shorter sequence, a smaller batch or "
        "model, recomputation, or more ranks",
        what, bytes, (double)bytes / 1048576.0);
}

lh_status lhi_memory_new(const char *what, size_t bytes, void **out)
{
    const bool huge = bytes >= 2 * (size_t)CPU_HUGE;
    *out = NULL;
    if (bytes > PTRDIFF_MAX) return lhi_memory_raise(what, bytes);
    if (posix_memalign(out, huge ? CPU_HUGE : CPU_LINE, bytes > 0 ? bytes : CPU_LINE) != 0) {
        *out = NULL;
        return lhi_memory_raise(what, bytes);
    }
#ifdef MADV_HUGEPAGE
    if (huge) (void)madvise(*out, bytes, MADV_HUGEPAGE); /* a hint: failure is harmless */
#endif
    return LH_OK;
}

#ifdef LH_PRECISION_DOUBLE
lh_status lhi_kernels_for(const char *isa, const lh_kernels **out)
{
    lh_status st = LH_OK;
    *out = NULL;
    LH_CHECK(strcmp(isa, "avx512") != 0 && strcmp(isa, "avx2") != 0, LH_ERR_UNSUP,
             "instruction set '%s': the double build has portable kernels only; use 'auto' or "
             "'portable'",
             isa);
    LH_CHECK(strcmp(isa, "auto") == 0 || strcmp(isa, "portable") == 0, LH_ERR_UNSUP,
             "instruction set '%s' is unknown; expected auto or portable", isa);
    *out = lh_kernels_f64();
done:
    return st;
}
#else
lh_status lhi_kernels_for(const char *isa, const lh_kernels **out)
{
    lh_status st = LH_OK;
    const bool any = strcmp(isa, "auto") == 0;
    const bool avx512 = strcmp(isa, "avx512") == 0, avx2 = strcmp(isa, "avx2") == 0;
    *out = NULL;
    LH_CHECK(any || avx512 || avx2 || strcmp(isa, "portable") == 0, LH_ERR_UNSUP,
             "instruction set '%s' is unknown; expected auto, avx512, avx2 or portable", isa);
    if (any || avx512) *out = lh_kernels_f32_avx512();
    if (*out == NULL && (any || avx2)) *out = lh_kernels_f32_avx2();
    LH_CHECK(*out != NULL || !(avx512 || avx2), LH_ERR_UNSUP,
             "this processor (or this build, if not for x86-64) lacks instruction set '%s'; use "
             "'auto' or 'portable'",
             isa);
    if (*out == NULL) *out = lh_kernels_f32();
done:
    return st;
}
#endif

static lh_status cpu_alloc(lh_device *d, size_t bytes, void **out)
{
    (void)d;
    return lhi_memory_new("device", bytes, out);
}

static void cpu_release(lh_device *d, void *ptr)
{
    (void)d;
    free(ptr);
}

static void cpu_copy(lh_device *d, void *dst, const void *src, size_t bytes)
{
    (void)d;
    if (bytes > 0) memcpy(dst, src, bytes);
}

static const lh_device_ops cpu_ops = {
    .name = "cpu",
    .alloc = cpu_alloc,
    .release = cpu_release,
    .copy_in = cpu_copy,
    .copy_out = cpu_copy,
};

lh_status lh_device_create_cpu(const char *isa, int threads, lh_device **out)
{
    return lhi_device_new(&cpu_ops, isa, threads, out);
}
