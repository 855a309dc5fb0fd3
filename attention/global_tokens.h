#pragma once
/* Global tokens (Beltagy et al. 2020, section 3.1 "Global Attention"): few positions that every
 * query sees, and that see every key, symmetrically.
 *
 *   any query i          one softmax over its own pattern and the global keys: projections of the block
 *   a global token's row softmax over all keys: projections of its own (query_global, key_global,
 *                        value_global); this replaces the row's other result
 *
 * Keys and values of global tokens are summed to all ranks; global queries travel, and their partial
 * results are merged. Under causal attention i sees global keys up to itself, and a global row the
 * keys up to itself. */
#include "attention/attend.h"

typedef enum lhi_global_kind {
    LHI_GLOBAL_NONE,
    LHI_GLOBAL_FIRST,
    LHI_GLOBAL_TASK,
    LHI_GLOBAL_LIST
} lhi_global_kind;

/* Where the global tokens are: `none`, `first`, `task`, or a list of positions. */
typedef struct lhi_global_spec {
    lhi_global_kind kind;
    int64_t n; /* LIST */
    const int64_t *position;
} lhi_global_spec;

typedef struct lhi_global lhi_global;

/* lhi_global_max - entries per sequence: g. Local. */
int64_t lhi_global_max(const lhi_global_spec *spec, const lh_attn_desc *d);

/* lhi_global_check - does it fit the description? Local, pure. Errors: LH_ERR_USAGE, LH_ERR_UNSUP. */
lh_status lhi_global_check(const lhi_global_spec *spec, const lh_attn_desc *d);

/* lhi_global_declare - layer.L.attention.{query,key,value}_global.{weight,bias}; they start as copies
 * of the block's own projections. Local. Collectivity and errors as lh_params_add. */
lh_status lhi_global_declare(const lh_attn_desc *d, lh_params *p);

/* lhi_global_create - host lists for g > 0, reserved for every step. Borrows d->layout. The caller
 * destroys *out. Local. */
lh_status lhi_global_create(const lhi_global_spec *spec, const lh_attn_desc *d, lhi_global **out);
void lhi_global_destroy(lhi_global **g);

/* lhi_global_begin - the lists of this step from spec, task and valid lengths, and the global keys:
 * appends their segment to a, and hides them from the segments that are there. Collective along the
 * sequence. */
lh_status lhi_global_begin(lhi_global *g, lh_tape *t, const lh_qkv *in, lh_attend_desc *a);

/* lhi_global_rows - *out with the rows of global tokens replaced by theirs. Collective along the
 * sequence. */
lh_status lhi_global_rows(lhi_global *g, lh_tape *t, const lh_qkv *in, lh_var *out);

/* lhi_global_cost - adds the cost of all this to *c. Formula, in elements per sequence: forward sums g
 * (2 G D + E) and H g (D + 2); backward g (2 G D + E) and H g D. Local, pure. */
void lhi_global_cost(const lh_attn_desc *d, int64_t g, int ranks, int rank, lh_cost *c);
