/* Exact softmax attention (Vaswani et al. 2017): every query sees all keys, or, causal, those up to
 * itself. On several ranks this is ring attention (Liu et al. 2023): keys and values visit the
 * queries shard by shard; or, by heads, DeepSpeed-Ulysses. */
#include "attention/attend.h"
#include "attention/by_heads.h"

typedef struct full_state {
    lh_attn_desc desc;
    lh_pattern pattern;
} full_state;

typedef struct full_settings {
    char none; /* there are no settings */
} full_settings;

static const lh_field full_fields[] = {{.name = NULL}};

static int64_t full_hi(const lh_attn_desc *d)
{
    return d->causal ? 0 : LH_FAR;
}

static lh_status full_create(const lh_attn_desc *d, void **state)
{
    full_state *s = NULL;
    lh_status st = lh_new(sizeof *s, &s);
    if (st != LH_OK) return st;
    s->desc = *d;
    s->pattern = lh_pattern_band(-LH_FAR, full_hi(d));
    *state = s;
    return LH_OK;
}

static lh_status full_parameters(const lh_attn_desc *d, lh_params *p)
{
    (void)d, (void)p; /* projections belong to the block */
    return LH_OK;
}

static lh_status full_forward(void *state, lh_tape *t, const lh_qkv *in, lh_var *out)
{
    full_state *s = state;
    return lh_attend_self(t, &s->desc, in, &s->pattern, out);
}

static lh_status full_predict(const lh_attn_desc *d, int ranks, int rank, lh_cost *c)
{
    lh_band band = {.lo = -LH_FAR, .hi = full_hi(d), .step = 1};
    *c = (lh_cost){0};
    lh_spread_cost(d, rank, c);
    return lh_heads_cost(d, band, 0, d->heads, ranks, rank, c);
}

static void full_destroy(void **state)
{
    lh_free(state);
}

const lh_attn_ops lh_attn_full = {
    .name = "full",
    .help = "exact attention over the whole sequence (ring over ranks)",
    .settings = full_fields,
    .settings_bytes = sizeof(full_settings),
    .caps = LH_ATTN_CAUSAL | LH_ATTN_BIDIRECTIONAL | LH_ATTN_GQA | LH_ATTN_RELATIVE |
            LH_ATTN_DOCUMENTS | LH_ATTN_LAYOUTS | LH_ATTN_SPREAD,
    .create = full_create,
    .parameters = full_parameters,
    .forward = full_forward,
    .predict = full_predict,
    .destroy = full_destroy,
};
