#pragma once
/* Symbols from which the kernel tables of core/kernels.h are assembled. Not public.
 *
 * The vector variants exist on x86-64 only and may be called only after the processor was asked for
 * the instruction set: their files are compiled with flags of their own and hold nothing that runs
 * earlier. */
#include "core/kernels.h"

/* Attention tiles of one (element type, instruction set): the slots attend, attend_finish,
 * attend_delta, attend_grad and attend_scratch. One source, core/tile_body.h. */
#define LHI_TILE_SYMBOLS(variant)                                                                  \
    void lhi_attend_##variant(const lh_attend_args *args, int threads);                            \
    void lhi_attend_finish_##variant(const lh_attend_finish_args *args, int threads);              \
    void lhi_attend_delta_##variant(const lh_attend_delta_args *args, int threads);                \
    void lhi_attend_grad_##variant(const lh_attend_grad_args *args, int threads);                  \
    size_t lhi_attend_scratch_##variant(const lh_attend_room *room, int threads);

LHI_TILE_SYMBOLS(f64)
LHI_TILE_SYMBOLS(f32)
#if defined(__x86_64__)
LHI_TILE_SYMBOLS(f32_avx2)
LHI_TILE_SYMBOLS(f32_avx512)
#endif
#ifdef LH_AVX512_BF16
LHI_TILE_SYMBOLS(f32_avx512_bf16)
#endif

/* Multiply-adds of a product that are worth a thread: waking one costs more than fewer. */
enum { LHI_GEMM_SHARE = 1 << 18 };

/* Matrix products by BLIS (core/gemm_blis.c): the slot gemm of the portable tables. */
void lhi_gemm_f64(const lh_gemm_args *args, int threads);
void lhi_gemm_f32(const lh_gemm_args *args, int threads);

#if defined(__x86_64__)
/* The same in the project's own vector code (core/gemm_body.h), which leaves what does not fit it to
 * lhi_gemm_f32. */
void lhi_gemm_f32_avx2(const lh_gemm_args *args, int threads);
void lhi_gemm_f32_avx512(const lh_gemm_args *args, int threads);
#endif

/* lhi_gemm_prepare - choose BLIS's kernels where it does not know the processor. Local. Before the
 * first product. */
void lhi_gemm_prepare(void);

/* The vector tables, without a look at the processor (lh_kernels_f32_avx2 and its like look); NULL
 * where the file was compiled without the instruction set. */
const lh_kernels *lhi_kernels_f32_avx2_table(void);
const lh_kernels *lhi_kernels_f32_avx512_table(void);
const lh_kernels *lhi_kernels_f32_avx512_bf16_table(void);
