/* Kernels for double, portable: the reference of every build, and the only kernels of the double
 * build. Flags: -O3 -fopenmp -ffp-contract=fast -fno-math-errno. */
#define KB_REAL double
#define KB_FLOAT 0
#define KB_ISA "portable"
#define KB_SYMBOL(name) lhi_##name##_f64
#define KB_SQRT sqrt
#define KB_GEMM lhi_gemm_f64
#define KB_TABLE lh_kernels_f64
#include "core/kernels_body.h"
