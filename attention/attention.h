#pragma once
/* Attention mechanisms: one file and one line each.
 *
 * A mechanism fills one const table lh_attn_ops and is named in attention/registry.def. It declares
 * settings and parameters, records its forward on the tape (so its backward follows), and predicts
 * its cost by its own formula. What it builds on:
 *
 *   pattern.h    who may see whom
 *   plan.h       which rows travel and which tiles are computed
 *   attend.h     softmax over patterns as an operation of the tape
 *   favor.h      sums of features; landmarks.h: projections of the sequence
 *   band_cost.h  the formula of bands
 *   picture.h    how it is drawn */
#include "attention/picture.h"
#include "attention/plan.h"
#include "core/ops.h"
#include "core/settings.h"
#include "core/tape.h"
#include "parallel/comm.h"
#include "parallel/spread.h"

/* What a mechanism is asked to be: the shape of one layer's attention. */
typedef struct lh_attn_desc {
    int layer;
    int64_t width, heads, kv_heads, head_width;
    bool causal;
    int64_t batch;  /* sequences per data rank */
    int64_t length; /* positions of a sequence */
    const lh_layout *layout;
    /* positions for which tables by position (Linformer's E and F) exist, >= length, and how these
     * lie; the same object as layout when max_length is length */
    int64_t max_length;
    const lh_layout *table;
    /* exchange: ulysses, of this layout; NULL: rows are exchanged as they lie, as they always are without
     * LH_ATTN_SPREAD */
    const lh_spread *spread;
    bool bias;            /* the block's projections have biases */
    bool relative;        /* scores have the relative term */
    bool documents;       /* sequences are packed documents */
    int64_t max_global;   /* global tokens of a sequence that the task may name; 0: it names none */
    lh_dtype wire;        /* of rows on their way: LH_REAL, or LH_BF16 with a tape that stores so */
    const void *settings; /* the mechanism's settings struct for this layer */
    uint64_t seed;
    const lh_params *params; /* declared parameters, for create to find its own; NULL: none exist */
} lh_attn_desc;

/* What forward gets. q [B, s, H, D], k, v [B, s, G, D], already rotated if positions are rotary; x
 * [B, s, E] the block's input. */
typedef struct lh_qkv {
    lh_var x, q, k, v;
    const int64_t *valid; /* host [B]: positions >= valid[b] are not seen; NULL: all are valid */
    /* host [B, s, 2]: first position and end of the document of each own row; NULL: no documents.
     * As limits of lh_sight. */
    const int32_t *documents;
    /* the same for the rows of spread->to, where there is a spread */
    const int32_t *spread_documents;
    const lh_row_list *global; /* global tokens named by the task; NULL: none */
    /* relative positions, null variables without: biases u, v [H D] and weight [H D, E] */
    lh_var relative_u, relative_v, relative_weight;
    lh_mesh *mesh;
    lh_plan_cache *plans; /* borrowed from the model */
} lh_qkv;

/* Cost of one layer's attention for one rank, one step, by formula. */
typedef struct lh_cost {
    int64_t forward_bytes, backward_bytes, summary_bytes; /* sent */
    /* of summary_bytes, what the forward pass sends: a second time when the block is recomputed, as
     * forward rows are */
    int64_t again_bytes;
    /* of forward_bytes, what moves q, k and v to their heads: a second time also when only the attention
     * is recomputed */
    int64_t heads_bytes;
    /* useful work: 4 and 10 flops per head element and score */
    double forward_flops, backward_flops;
    int64_t kept_bytes; /* memory kept from forward to backward besides q, k, v and outputs */
} lh_cost;

enum {
    LH_ATTN_CAUSAL = 1u,
    LH_ATTN_BIDIRECTIONAL = 2u,
    LH_ATTN_GQA = 4u,
    LH_ATTN_RELATIVE = 8u,   /* relative positions */
    LH_ATTN_DOCUMENTS = 16u, /* packed documents */
    LH_ATTN_LAYOUTS = 32u,   /* layouts other than contiguous */
    LH_ATTN_SPREAD = 64u     /* exchange: ulysses; others keep their own exchange */
};

typedef struct lh_attn_ops {
    const char *name;         /* YAML name == file stem == symbol suffix */
    const char *help;         /* one line */
    const lh_field *settings; /* required (may be an empty table): typed fields */
    size_t settings_bytes;    /* size of the settings struct */
    uint32_t caps;            /* what it accepts; else LH_ERR_UNSUP with the reason */
    const char *refuses;      /* why it accepts no more: "its landmarks mix ..."; may be NULL */
    lh_status (*create)(const lh_attn_desc *d, void **state); /* required, local: settings only */
    lh_status (*parameters)(const lh_attn_desc *d,
                            lh_params *p); /* required: names, shapes, placements, initial values */
    lh_status (*forward)(void *state, lh_tape *t, const lh_qkv *in,
                         lh_var *out); /* required: tape operations; out [B, s, H, D] */
    lh_status (*predict)(const lh_attn_desc *d, int ranks, int rank,
                         lh_cost *c); /* required: formula; never calls the planner */
    /* optional, local: optimiser step `step` (0, 1, ...) of training begins; frozen parameters may
     * be drawn again */
    lh_status (*begin_step)(void *state, int64_t step);
    void (*destroy)(void **state); /* required, no MPI */
    /* optional, local: calls of lh_picture_add (NULL: drawn from the segments that forward recorded) */
    lh_status (*draw)(const lh_attn_desc *d, int ranks, lh_picture *p);
} lh_attn_ops;

/* lh_attn_find - the mechanism of that name; NULL when there is none. Local. */
const lh_attn_ops *lh_attn_find(const char *name);

/* lh_attn_count, lh_attn_at - the registry. Local. */
int lh_attn_count(void);
const lh_attn_ops *lh_attn_at(int i);

/* lh_attn_check - is the table complete, and does it accept the description? Local. Errors:
 * LH_ERR_BUG, LH_ERR_UNSUP with the reason. */
LH_NODISCARD lh_status lh_attn_check(const lh_attn_ops *ops, const lh_attn_desc *d);
