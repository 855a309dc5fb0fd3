/* The processor: plain memory, and the choice of the kernel table. */
#define _DEFAULT_SOURCE /* madvise */
#include "core/device_internal.h"
#include "core/kernels_internal.h"

#include <stdio.h>
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
    LH_CHECK(strncmp(isa, "avx", 3) != 0, LH_ERR_UNSUP,
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
/* `auto` takes the first that there is; it never comes to avx512_bf16, which rounds. */
enum { ISA_COUNT = 4 };
static const char *const isa_name[ISA_COUNT] = {"avx512", "avx2", "portable", "avx512_bf16"};

static const lh_kernels *isa_table(int i)
{
    const lh_kernels *const table[ISA_COUNT] = {lh_kernels_f32_avx512(), lh_kernels_f32_avx2(),
                                                lh_kernels_f32(), lh_kernels_f32_avx512_bf16()};
    return table[i];
}

/* What may be asked for here: "auto, avx2, portable". */
static const char *isa_list(char *text, size_t size)
{
    (void)snprintf(text, size, "auto");
    for (int i = 0; i < ISA_COUNT; i++) {
        const size_t at = strlen(text);
        if (isa_table(i) != NULL) (void)snprintf(text + at, size - at, ", %s", isa_name[i]);
    }
    return text;
}

lh_status lhi_kernels_for(const char *isa, const lh_kernels **out)
{
    lh_status st = LH_OK;
    const bool any = strcmp(isa, "auto") == 0;
    char list[80];
    int i = 0;
    *out = NULL;
    while (i < ISA_COUNT && (any ? isa_table(i) == NULL : strcmp(isa, isa_name[i]) != 0)) i++;
    LH_CHECK(i < ISA_COUNT, LH_ERR_UNSUP, "instruction set '%s' is unknown; expected one of %s",
             isa, isa_list(list, sizeof list));
    LH_CHECK(
        isa_table(i) != NULL, LH_ERR_UNSUP,
        "this processor or this build (for another processor, or by a compiler that has not got "
        "it) lacks instruction set '%s'; expected one of %s",
        isa, isa_list(list, sizeof list));
    *out = isa_table(i);
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
