/* Attention tiles, double, portable: vectors of 16 bytes, which every processor of interest has. */
#include <stdint.h>

#define TILE_SLOT(slot) lhi_##slot##_f64
#define LANES 2
#define SCORE_ROWS 4
#define SCORE_VECS 2
#define OUT_ROWS 4
#define OUT_VECS 2
#define EXP2_SHIFT 52
#define EXP2_LOWEST (-1022.0)
#define EXP2_COEFFICIENTS                                                                          \
    1.0, 6.9314718055994533046e-1, 2.4022650695910156204e-1, 5.5504108664819921605e-2,             \
        9.6181291075883352443e-3, 1.3333558146789891722e-3, 1.5403530462514432062e-4,              \
        1.5252733489988525649e-5, 1.3215433089676399180e-6, 1.0178198021671930844e-7,              \
        7.0741056135081427963e-9, 4.4352827069572771511e-10

typedef double real;
typedef double vec __attribute__((vector_size(16), may_alias));
typedef int64_t ivec __attribute__((vector_size(16), may_alias));

#include "core/tile_body.h"
