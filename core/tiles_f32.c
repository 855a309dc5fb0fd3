/* Attention tiles, float, portable: vectors of 16 bytes, which every processor of interest has. */
#include <stdint.h>

#define TILE_SLOT(slot) lhi_##slot##_f32
#define LANES 4
#define SCORE_ROWS 4
#define SCORE_VECS 2
#define OUT_ROWS 4
#define OUT_VECS 2
#define EXP2_SHIFT 23
#define EXP2_LOWEST (-126.0F)
#define EXP2_COEFFICIENTS                                                                          \
    1.0F, 6.9314720573719576e-1F, 2.4022646890645521e-1F, 5.5503287771053248e-2F,                  \
        9.6184889563311816e-3F, 1.3399931177239738e-3F, 1.5345812161311616e-4F

typedef float real;
typedef float vec __attribute__((vector_size(16), may_alias));
typedef int32_t ivec __attribute__((vector_size(16), may_alias));

#include "core/tile_body.h"
