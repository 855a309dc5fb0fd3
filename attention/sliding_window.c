/* Sliding-window attention (Beltagy et al. 2020, section 3.1; causal: Jiang et al. 2023, section
 * 2): a query sees the h positions before it, itself, and, if not causal, the h after it. On
 * several ranks this is a halo exchange, with as many hops as the window needs. Ours h = Mistral's
 * W - 1 = half of Hugging Face's attention_window. */
#include <stddef.h>

#include "attention/attend.h"
#include "attention/band_cost.h"

typedef struct window_settings {
    int64_t window;
} window_settings;

typedef struct window_state {
    lh_attn_desc desc;
    lh_pattern pattern;
} window_state;

static const lh_field window_fields[] = {
    {.name = "window",
     .type = LH_FIELD_INT,
     .offset = offsetof(window_settings, window),
     .min = 0,
     .max = 1099511627776.0,
     .per_layer = true,
     .help = "positions seen before the query and, if not causal, after it; may exceed the length"},
    {.name = NULL},
};

static int64_t window_hi(const lh_attn_desc *d)
{
    return d->causal ? 0 : ((const window_settings *)d->settings)->window;
}

static lh_status window_create(const lh_attn_desc *d, void **state)
{
    window_state *s = NULL;
    lh_status st = lh_new(sizeof *s, &s);
    if (st != LH_OK) return st;
    s->desc = *d;
    s->pattern = lh_pattern_band(-((const window_settings *)d->settings)->window, window_hi(d));
    *state = s;
    return LH_OK;
}

static lh_status window_parameters(const lh_attn_desc *d, lh_params *p)
{
    (void)d, (void)p; /* projections belong to the block */
    return LH_OK;
}

static lh_status window_forward(void *state, lh_tape *t, const lh_qkv *in, lh_var *out)
{
    window_state *s = state;
    return lh_attend_self(t, &s->desc, in, &s->pattern, out);
}

static lh_status window_predict(const lh_attn_desc *d, int ranks, int rank, lh_cost *c)
{
    lh_band band = {-((const window_settings *)d->settings)->window, window_hi(d), 1, d->kv_heads,
                    (double)d->heads};
    *c = (lh_cost){0};
    return lh_comb_cost(d, &band, ranks, rank, c);
}

static void window_destroy(void **state)
{
    lh_free(state);
}

const lh_attn_ops lh_attn_sliding_window = {
    .name = "sliding_window",
    .help = "a band of `window` positions around the query (halo exchange over ranks)",
    .settings = window_fields,
    .settings_bytes = sizeof(window_settings),
    .caps = LH_ATTN_CAUSAL | LH_ATTN_BIDIRECTIONAL | LH_ATTN_GQA | LH_ATTN_RELATIVE |
            LH_ATTN_DOCUMENTS | LH_ATTN_LAYOUTS,
    .create = window_create,
    .parameters = window_parameters,
    .forward = window_forward,
    .predict = window_predict,
    .destroy = window_destroy,
};
