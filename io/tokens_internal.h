#pragma once
/* Shared by tokens.c (reading) and tokens_write.c. */
#include "io/seal.h"
#include "io/tokens.h"

enum { LHI_TOKENS_VERSION = 1 };

/* lhi_tokens_seal - what token files begin with. */
extern const lhi_seal_kind lhi_tokens_seal;

/* lhi_tokens_width - bytes of a token in a file; lhi_tokens_h5_kind - the same as HDF5's type. Local. */
int lhi_tokens_width(int64_t vocab);
lh_h5_kind lhi_tokens_h5_kind(int64_t vocab);
