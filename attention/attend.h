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

enum { LH_SEGMENTS = 12 };

/* Where keys come from. Self-attention has one segment; memories and encoders add theirs. */
typedef struct lh_segment {
    /* [B, rows, G', D], sharded by layout, or replicated along the sequence if layout->everywhere.
     * Segments may share k and v. */
    lh_var k, v;
    const lh_layout *layout; /* of the keys; borrowed until the tape is reset */
    /* who of the queries sees whom of these keys; read now, and by lh_attend_next's caller */
    const lh_pattern *pattern;
    /* query heads head .. head + n_heads - 1 attend to this segment, whose k and v then hold all G
     * heads (only those of the range travel) or just the range's own; n_heads 0: all heads. Whole
     * groups of query heads, but at the ends of the H. */
    int64_t head, n_heads;
    lh_sight sight; /* borrowed until the tape is reset */
} lh_segment;

typedef struct lh_attend_desc {
    lh_comm *sequence; /* its rank is the one in layouts */
    lh_plan_cache *plans;
    lh_var q;                /* [B, s, H, D] */
    const lh_layout *layout; /* of the queries */
    double scale;            /* usually 1 / sqrt(D) */
    int64_t kv_heads;        /* G; 0: as many as the keys of segment 0 have */
    int64_t first_head; /* of the model, which q's first one is; only lh_attend_next tells it */
    /* query head h uses key/value head (h + skew) / group; group 0: H / G. Where the heads are some of
     * a model's, their first and last group may be cut, and there may be none. */
    int64_t group, skew;
    int n_segments;
    lh_segment segment[LH_SEGMENTS];
    /* Relative term (Dai et al. 2019, section 3.3), null variables: none. relative_q [B, s, H, D] is
     * q + position bias (then q is q + content bias); relative_weight [H D, E] projects the
     * sinusoids of distances: score(i, j) = scale (q[i].k[j] + relative_q[i].(W R[i - j])). */
    lh_var relative_q, relative_weight;
} lh_attend_desc;

/* lh_attend - o [B, s, H, D], lse [B, H, s] (both differentiable; lse may be NULL). A query that
 * sees nothing gets o = 0 and lse = -inf. H must be a multiple of G (unless group says more), and only
 * G heads travel. q, k and v lie by position, or all HEADS (core/place.h). Collective along the
 * sequence. Sends, in elements per sequence: forward 2 G D (rows others need of mine); backward 2 G D (rows I received), and the
 * forward's again if the plan does not keep rows. Keys and values without a gradient (a memory
 * behind lh_stop_gradient) get none, and nothing goes home for them. Errors: LH_ERR_BUG,
 * LH_ERR_MEMORY, local. */
LH_NODISCARD lh_status lh_attend(lh_tape *t, const lh_attend_desc *d, lh_var *o, lh_var *lse);

/* lh_attend_few - few queries q [B, g, H, D] that all ranks hold, against keys sharded by position:
 * the queries' part travels instead of the keys; partial results are merged by log-sum-exp (Beltagy
 * et al. 2020: global rows). o [B, g, H, D] replicated along the sequence. sight: limits are [B, g,
 * 2]; a query that sees nothing (limits 0, 0) gets 0. Collective along the sequence. Sends, in
 * elements: forward B H g (maxima) and B H g (D + 1) (sums); backward B H g D; all as summary. */
typedef struct lh_attend_few_desc {
    lh_comm *sequence;
    lh_plan_cache *plans;
    lh_var q, k, v;
    const lh_layout *queries; /* lh_layout_everywhere of g rows */
    const lh_layout *layout;  /* of the keys */
    double scale;
    lh_sight sight;
} lh_attend_few_desc;
LH_NODISCARD lh_status lh_attend_few(lh_tape *t, const lh_attend_few_desc *d, lh_var *o);

/* One segment of an lh_attend, or an lh_attend_few, as it was recorded: what pictures and tile counts
 * are made from. */
typedef struct lh_attend_seen {
    int part; /* of the tape: layer l is part 1 + l */
    int64_t batch;
    int64_t head, n_heads;     /* of the model */
    const lh_pattern *pattern; /* as it was given: must still live; NULL: all see all */
    const lh_layout *queries, *keys;
    const lh_plan *plan;
} lh_attend_seen;

/* lh_attend_next - the next recorded segment; *at is 0 at first, and moves on. false: there are no
 * more. Local. */
bool lh_attend_next(const lh_tape *t, int64_t *at, lh_attend_seen *out);

/* lh_picture_recorded - draw the layer at hand from what part `tape_part` of a tape holds: its
 * segments. Local. Errors: LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_picture_recorded(lh_picture *p, const lh_tape *t, int tape_part);

/* What lh_attend_next asks: segment i of an operation recorded by lh_attend; an operation recorded by
 * lh_attend_few. false: it is none. Local. */
bool lhi_attend_seen(const lh_tape_item *item, int i, lh_attend_seen *out);
bool lhi_attend_few_seen(const lh_tape_item *item, lh_attend_seen *out);

/* lh_attend_relative - if positions are relative (in->relative_weight), the relative term for the
 * queries in d->q: adds the two biases to them. Records two operations. Local. */
LH_NODISCARD lh_status lh_attend_relative(lh_tape *t, const lh_qkv *in, lh_attend_desc *d);

/* lh_attend_self - what most mechanisms record: self-attention over one pattern, scale 1 / sqrt(D).
 * pattern: borrowed. */
LH_NODISCARD lh_status lh_attend_self(lh_tape *t, const lh_attn_desc *d, const lh_qkv *in,
                                      const lh_pattern *pattern, lh_var *out);
