#pragma once
/* Shared by favor.c, which records, favor_passes.c, what forward and backward do, and favor_blocks.c, what both do
 * with one block of rows. Everything here is local. */
#include "attention/favor.h"
#include "core/ops_internal.h"

enum {
    LHI_FAVOR_K,
    LHI_FAVOR_V,
    LHI_FAVOR_W,
    LHI_FAVOR_C,
    LHI_FAVOR_Q,
    LHI_FAVOR_S,
    LHI_FAVOR_INPUTS
};
enum { LHI_FAVOR_O, LHI_FAVOR_DEN }; /* outputs of lh_favor_out */

typedef struct lhi_favor_attrs {
    lh_feature_kind kind;
    int64_t features;
    double epsilon;
    bool causal;
    const lh_layout *layout;
    const int64_t *valid;
} lhi_favor_attrs;

/* Rows count of sequence b from local row `row` on; the first `live` are valid. */
typedef struct lhi_favor_block {
    int64_t b, row, count, live;
} lhi_favor_block;

/* Queries or keys of the call, and one block of their features. */
typedef struct lhi_favor_side {
    int64_t heads;
    bool key;
    const void *x;        /* [B, s, heads, D] */
    void *u, *phi, *dphi; /* [count, heads, M], then M' */
    void *dx;             /* as x; NULL: not wanted */
    bool add;             /* dx accumulates */
} lhi_favor_side;

/* One running forward or backward. */
typedef struct lhi_favor_run {
    lh_call *call;
    lh_device *device;
    const lhi_favor_attrs *a;
    int rank;
    int64_t batch, rows, width, wide, most; /* D, M'; most: rows of the largest block */
    double scale;
    const void *w, *c, *v;
    void *dv;
    bool dv_add;
    lhi_favor_side q, k;
    void *vx;     /* [count, G, D + 1]: {v, 1} */
    void *n, *dn; /* [count, H, D + 1]: numerators and denominators; their gradient */
    void *square; /* [count, count] */
    void *sum;    /* [G, M', D + 1]: running sum of one sequence */
    void *guard;  /* [D + 1]: what is added to every row of it */
    const void *s_in;
    void *ds;        /* as s_in, adds; NULL: not wanted */
    void *s_out;     /* of favor_sum; of favor_max: c */
    void *o, *den;   /* [B, s, H, D], [B, s, H] */
    const void *d_o; /* as o */
} lhi_favor_run;

/* A matrix: rows of several heads lie side by side, so every operand has its row stride. */
typedef struct lhi_favor_in {
    const void *p;
    int64_t rs, cs;
} lhi_favor_in;
#define LHI_FAVOR_MNK(m, n, k) ((const int64_t[3]){(m), (n), (k)})

/* What is done with every run of every sequence. base: its first local row. */
typedef void (*lhi_favor_run_fn)(lhi_favor_run *r, const lh_run *run, int64_t b, int64_t slot,
                                 int64_t base);

/* --- favor_blocks.c --- */

/* lhi_favor_mul - c [m, n], rows rs apart, (+)= a [m, k] b [k, n]. */
void lhi_favor_mul(const lhi_favor_run *r, const int64_t mnk[3], lhi_favor_in a, lhi_favor_in b,
                   void *c, int64_t rs, bool add);

/* lhi_favor_turned - the transpose. lhi_favor_head - head h of a block [count, heads, width]. lhi_favor_phi_of -
 * of its features. lhi_favor_sum_of - head g of a sum [G, M', D + 1]. */
lhi_favor_in lhi_favor_turned(lhi_favor_in a);
lhi_favor_in lhi_favor_head(const void *p, int64_t h, int64_t heads, int64_t width);
lhi_favor_in lhi_favor_phi_of(const lhi_favor_run *r, const lhi_favor_side *s, int64_t h);
lhi_favor_in lhi_favor_sum_of(const lhi_favor_run *r, const void *sum, int64_t g);

/* lhi_favor_feature - the arguments of the feature map for a block. lhi_favor_project - u = scale x W^T, all heads
 * at once. lhi_favor_features - both. lhi_favor_features_grad - dx of the block from dphi; u is written over. */
lh_feature_args lhi_favor_feature(const lhi_favor_run *r, const lhi_favor_side *s,
                                  const lhi_favor_block *k);
void lhi_favor_project(const lhi_favor_run *r, const lhi_favor_side *s, const lhi_favor_block *k);
void lhi_favor_features(const lhi_favor_run *r, const lhi_favor_side *s, const lhi_favor_block *k);
void lhi_favor_features_grad(const lhi_favor_run *r, const lhi_favor_side *s,
                             const lhi_favor_block *k);

/* lhi_favor_extend - vx = {v, 1} of a block. lhi_favor_add_keys - sum[g] += phi(k)^T {v, 1}. */
void lhi_favor_extend(const lhi_favor_run *r, const lhi_favor_block *k);
void lhi_favor_add_keys(const lhi_favor_run *r, const lhi_favor_block *k, void *sum);

/* lhi_favor_open - a call's inputs and sizes. lhi_favor_scratch - so many elements. lhi_favor_open_side,
 * lhi_favor_open_keys - scratch for a block's features; backward: and their gradient. lhi_favor_size - elements
 * of a summary of one sequence. */
LH_NODISCARD lh_status lhi_favor_open(lh_call *c, lhi_favor_run *r);
LH_NODISCARD lh_status lhi_favor_scratch(const lhi_favor_run *r, int64_t elements, void **out);
LH_NODISCARD lh_status lhi_favor_open_side(const lhi_favor_run *r, lhi_favor_side *s,
                                           bool backward);
LH_NODISCARD lh_status lhi_favor_open_keys(lhi_favor_run *r, bool backward);
int64_t lhi_favor_size(const lhi_favor_run *r);

/* lhi_favor_each_run - fn for every run of every sequence. lhi_favor_next - blocks of a run in ascending order:
 * while (lhi_favor_next(r, run, b, base, &at, &k)), at from 0. lhi_favor_last - in descending order, at from the
 * run's count. */
void lhi_favor_each_run(lhi_favor_run *r, lhi_favor_run_fn fn);
bool lhi_favor_next(const lhi_favor_run *r, const lh_run *run, int64_t b, int64_t base, int64_t *at,
                    lhi_favor_block *k);
bool lhi_favor_last(const lhi_favor_run *r, const lh_run *run, int64_t b, int64_t base, int64_t *at,
                    lhi_favor_block *k);

/* --- favor_passes.c: what the operations do --- */

LH_NODISCARD lh_status lhi_favor_max_forward(lh_call *c);
LH_NODISCARD lh_status lhi_favor_sum_forward(lh_call *c);
LH_NODISCARD lh_status lhi_favor_sum_vjp(lh_call *c);
LH_NODISCARD lh_status lhi_favor_out_forward(lh_call *c);
LH_NODISCARD lh_status lhi_favor_out_vjp(lh_call *c);
