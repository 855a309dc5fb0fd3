#pragma once
/* Shared by the prepare_*.c files: one function for each kind of source. */
#include "experiments/prepare.h"
#include "io/tokens.h"

typedef struct lhi_prepare {
    const char *source, *out, *task;
    const char *vocab; /* a token file whose words are taken, or NULL */
    bool words, force;
    int64_t min_count;
} lhi_prepare;

/* lhi_prepare_info - the description that does not depend on the kind: source, its size, program.
 * Local. Errors: LH_ERR_USAGE (cannot be read, empty), LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_prepare_info(const lhi_prepare *p, lh_tokens_info *info);

/* lhi_prepare_words, lhi_prepare_listops - read p->source, write p->out, say what it was on standard
 * output. Local. Errors: LH_ERR_FORMAT "file:line: ..." (the source), LH_ERR_USAGE, LH_ERR_IO,
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_prepare_words(const lhi_prepare *p);
LH_NODISCARD lh_status lhi_prepare_listops(const lhi_prepare *p);
