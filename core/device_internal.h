#pragma once
/* What the devices of the processor (cpu, poison, count) share. Not public. */
#include "core/device.h"

/* lhi_kernels_for - the table of an isa ("auto", "avx512", "avx512_bf16", "avx2", "portable") for
 * this build's real. Local. *out is static. Errors: LH_ERR_UNSUP. */
LH_NODISCARD lh_status lhi_kernels_for(const char *isa, const lh_kernels **out);

/* lhi_memory_new - 64-byte aligned memory of the processor (large blocks: on huge pages where the
 * system has them). Local. what: for the message. *out is released with free. Errors:
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_memory_new(const char *what, size_t bytes, void **out);

/* lhi_memory_raise - the message of every failed allocation. Local. Returns LH_ERR_MEMORY. */
lh_status lhi_memory_raise(const char *what, size_t bytes);

/* lhi_device_new - a device with its table, kernels and threads filled in. Local. The caller
 * destroys *out. Errors: LH_ERR_UNSUP, LH_ERR_MEMORY, LH_ERR_BUG (threads < 1). */
LH_NODISCARD lh_status lhi_device_new(const lh_device_ops *ops, const char *isa, int threads,
                                      lh_device **out);
