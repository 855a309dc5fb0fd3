#pragma once
/* lh_attend: softmax attention over a pattern, exchange and tiles in one tape operation.
 *
 *   o[i] = sum over visible j of softmax_j(scale q[i].k[j]) v[j],   lse[i] = log sum over visible j of exp(scale q[i].k[j])
 *
 * Keys and values travel to the queries, step by step: while the tiles of one step are computed,
 * the next step's rows fly, so keys of other ranks exist as two blocks (one in flight, one in use),
 * unless the plan keeps them for the backward. The backward computes scores again, sends row
 * gradients home and adds them in step order. */
#include "attention/attention.h"

enum { LH_SEGMENTS = 3 };

/* Where keys come from. Self-attention has one segment; memories and encoders add theirs. */
typedef struct lh_segment {
    lh_var k, v;               /* [B, rows, G, D], sharded by layout */
    const lh_layout *layout;   /* of the keys; borrowed until the tape is reset */
    const lh_pattern *pattern; /* who of the queries sees whom of these keys; read now */
    /* host [B] or NULL: keys at positions >= valid[b] are not seen; borrowed until the tape is
     * reset */
    const int64_t *valid;
} lh_segment;

typedef struct lh_attend_desc {
    lh_comm *sequence;
    lh_plan_cache *plans;
    lh_var q;                /* [B, s, H, D] */
    const lh_layout *layout; /* of the queries */
    double scale;            /* usually 1 / sqrt(D) */
    int n_segments;
    lh_segment segment[LH_SEGMENTS];
} lh_attend_desc;

/* lh_attend - o [B, s, H, D], lse [B, H, s] (both differentiable; lse may be NULL). A query that
 * sees nothing gets o = 0 and lse = -inf. H must be a multiple of G: query head h uses key/value
 * head h / (H / G), and only G heads travel. Collective along the sequence. Sends, in elements per
 * sequence: forward 2 G D (rows others need of mine); backward 2 G D (rows I received), and the
 * forward's again if the plan does not keep rows. Keys and values without a gradient (a memory
 * behind lh_stop_gradient) get none, and nothing goes home for them. Errors: LH_ERR_BUG,
 * LH_ERR_MEMORY, local. */
LH_NODISCARD lh_status lh_attend(lh_tape *t, const lh_attend_desc *d, lh_var *o, lh_var *lse);

/* lh_attend_self - what most mechanisms record: self-attention over one pattern, scale 1 / sqrt(D).
 * pattern: borrowed. */
LH_NODISCARD lh_status lh_attend_self(lh_tape *t, const lh_attn_desc *d, const lh_qkv *in,
                                      const lh_pattern *pattern, lh_var *out);
