/* Sliding-window attention, dilated, with global tokens (Longformer, Beltagy et al. 2020, section
 * 3.1; causal windows: Jiang et al. 2023, section 2): a query sees the h positions before it,
 * itself, and, if not causal, the h after it; with dilation r every r-th position, h of them on a
 * side. On several ranks this is a halo exchange, with as many hops as the window needs; heads with
 * different dilations are groups that exchange what they need; or, by heads, an all-to-all first.
 * Ours h = Mistral's W - 1 = half of Hugging Face's attention_window; r = the paper's gaps + 1. */
#include <math.h>
#include <stddef.h>

#include "attention/attend.h"
#include "attention/by_heads.h"
#include "attention/global_tokens.h"
#include "attention/window_settings.h"

enum { WINDOW_GROUPS = LH_SEGMENTS - 1 }; /* one segment is for global keys */

/* Neighbouring heads of one dilation. */
typedef struct window_group {
    int64_t head, n_heads, step;
    lh_pattern pattern;
} window_group;

typedef struct window_state {
    lh_attn_desc desc;
    int n_groups;
    window_group group[WINDOW_GROUPS];
    lhi_global *global; /* NULL: no global tokens */
} window_state;

static const lh_field window_fields[] = {
    {.name = "window",
     .type = LH_FIELD_INT,
     .offset = offsetof(lh_window_settings, window),
     .min = 0,
     .max = 1099511627776.0,
     .per_layer = true,
     .help = "positions seen before the query and, if not causal, after it; may exceed the length"},
    {.name = "dilation",
     .type = LH_FIELD_INTS,
     .offset = offsetof(lh_window_settings, dilation),
     .fallback = "1",
     .min = 1,
     .max = 1048576,
     .per_layer = true,
     .help =
         "distance between the positions that a window sees; 1: all of them; a layer's value may "
         "be a list with one per head"},
    {.name = "global",
     .type = LH_FIELD_INTS,
     .offset = offsetof(lh_window_settings, global),
     .fallback = "none",
     .min = 0,
     .max = 2147483646.0,
     .choices = "none|first|task",
     .help =
         "global tokens: none, first (position 0), task (those that the task names), or a list of "
         "positions"},
    {.name = NULL},
};

static lhi_global_spec window_global(const lh_window_settings *s)
{
    static const lhi_global_kind word[] = {LHI_GLOBAL_NONE, LHI_GLOBAL_FIRST, LHI_GLOBAL_TASK};
    return (lhi_global_spec){.kind = s->global.word < 0 ? LHI_GLOBAL_LIST : word[s->global.word],
                             .n = s->global.word < 0 ? s->global.count : 0,
                             .position = s->global.item};
}

/* What a group of heads sees. */
static lh_band window_band(const lh_attn_desc *d, const window_group *g)
{
    int64_t h = ((const lh_window_settings *)d->settings)->window;
    return (lh_band){.lo = -h, .hi = d->causal ? 0 : h, .step = g->step};
}

/* Groups of neighbouring heads with the same dilation. *n: how many. */
static lh_status window_groups(const lh_attn_desc *d, window_group *group, int *n)
{
    lh_status st = LH_OK;
    const lh_int_list *list = &((const lh_window_settings *)d->settings)->dilation;
    int64_t per_kv = d->heads / d->kv_heads;
    *n = 0;
    LH_CHECK(
        list->count == 1 || list->count == d->heads, LH_ERR_USAGE,
        "attention.dilation has %d values for one layer: give one number, or one for each of the "
        "%lld query heads",
        list->count, (long long)d->heads);
    for (int64_t h = 0; h < d->heads; h++) {
        int64_t step = list->item[list->count == 1 ? 0 : h];
        if (*n > 0 && group[*n - 1].step == step) {
            group[*n - 1].n_heads++;
            continue;
        }
        LH_CHECK(h % per_kv == 0, LH_ERR_USAGE,
                 "attention.dilation changes at head %lld, inside the %lld query heads that share "
                 "a key/value "
                 "head: give these the same dilation",
                 (long long)h, (long long)per_kv);
        LH_CHECK(*n < WINDOW_GROUPS, LH_ERR_USAGE,
                 "attention.dilation changes more than %d times from head to head: put heads with "
                 "the same "
                 "dilation side by side",
                 WINDOW_GROUPS - 1);
        group[(*n)++] = (window_group){.head = h, .n_heads = 1, .step = step};
    }
done:
    return st;
}

static void window_destroy(void **state)
{
    window_state *s = *state;
    if (s == NULL) return;
    lhi_global_destroy(&s->global);
    lh_free(state);
}

static lh_status window_create(const lh_attn_desc *d, void **state)
{
    lh_status st = LH_OK;
    window_state *s = NULL;
    const lhi_global_spec spec = window_global(d->settings);
    LH_TRY(lh_new(sizeof *s, &s));
    s->desc = *d;
    LH_TRY(window_groups(d, s->group, &s->n_groups));
    for (int i = 0; i < s->n_groups; i++) {
        lh_band band = window_band(d, &s->group[i]);
        s->group[i].pattern = lh_pattern_dilated(band.lo, band.hi, band.step);
    }
    if (lhi_global_max(&spec, d) > 0) LH_TRY(lhi_global_create(&spec, d, &s->global));
    *state = s;
    s = NULL;
done:
    if (s != NULL) window_destroy((void **)&s);
    return st;
}

static lh_status window_parameters(const lh_attn_desc *d, lh_params *p)
{
    lh_status st = LH_OK;
    const lhi_global_spec spec = window_global(d->settings);
    window_group group[WINDOW_GROUPS];
    int n = 0;
    LH_TRY(window_groups(d, group, &n));
    LH_TRY(lhi_global_check(&spec, d));
    if (lhi_global_max(&spec, d) > 0) LH_TRY(lhi_global_declare(d, p));
done:
    return st;
}

static lh_status window_forward(void *state, lh_tape *t, const lh_qkv *in, lh_var *out)
{
    lh_status st = LH_OK;
    window_state *s = state;
    lh_attend_desc a = {.sequence = in->mesh->axis[LH_AXIS_SEQ],
                        .plans = in->plans,
                        .q = in->q,
                        .layout = s->desc.layout,
                        .kv_heads = s->desc.kv_heads,
                        .scale = 1.0 / sqrt((double)s->desc.head_width),
                        .n_segments = s->n_groups};
    for (int i = 0; i < s->n_groups; i++)
        a.segment[i] = (lh_segment){.k = in->k,
                                    .v = in->v,
                                    .layout = s->desc.layout,
                                    .pattern = &s->group[i].pattern,
                                    .head = s->group[i].head,
                                    .n_heads = s->group[i].n_heads,
                                    .sight = {in->valid, lh_attend_documents(&s->desc, in), NULL}};
    LH_TRY(lh_attend_relative(t, in, &a));
    if (s->global != NULL) LH_TRY(lhi_global_begin(s->global, t, in, &a));
    LH_TRY(lh_attend_over(t, &s->desc, in, &a, out));
    if (s->global != NULL) LH_TRY(lhi_global_rows(s->global, t, in, out));
done:
    return st;
}

static lh_status window_predict(const lh_attn_desc *d, int ranks, int rank, lh_cost *c)
{
    lh_status st = LH_OK;
    const lhi_global_spec spec = window_global(d->settings);
    window_group group[WINDOW_GROUPS];
    int n = 0;
    *c = (lh_cost){0};
    LH_TRY(window_groups(d, group, &n));
    for (int i = 0; i < n; i++) {
        lh_band band = window_band(d, &group[i]);
        LH_TRY(lh_heads_cost(d, band, group[i].head, group[i].n_heads, ranks, rank, c));
    }
    lh_spread_cost(d, rank, c);
    lhi_global_cost(d, lhi_global_max(&spec, d), ranks, rank, c);
done:
    return st;
}

/* What forward records does not know where the global tokens are. */
static lh_status window_draw(const lh_attn_desc *d, int ranks, lh_picture *p)
{
    lh_status st = LH_OK;
    const lhi_global_spec spec = window_global(d->settings);
    const int64_t first = 0;
    window_group group[WINDOW_GROUPS];
    int n = 0;
    (void)ranks;
    LH_TRY(window_groups(d, group, &n));
    for (int i = 0; i < n; i++) {
        lh_band band = window_band(d, &group[i]);
        lh_pattern pattern = lh_pattern_dilated(band.lo, band.hi, band.step);
        lh_picture_part part = {.head = group[i].head,
                                .n_heads = group[i].n_heads,
                                .pattern = &pattern,
                                .queries = d->layout,
                                .keys = d->layout,
                                .far = LH_KIND_HALO,
                                .global = spec.kind == LHI_GLOBAL_LIST ? spec.position : &first,
                                .causal = d->causal};
        if (spec.kind == LHI_GLOBAL_TASK)
            part.note = "the global tokens, which the task names in the data, are not drawn";
        else
            part.n_global = lhi_global_max(&spec, d);
        LH_TRY(lh_picture_add(p, &part));
    }
done:
    return st;
}

const lh_attn_ops lh_attn_sliding_window = {
    .name = "sliding_window",
    .help = "a band of `window` positions around the query, dilated per head, with global tokens: "
            "Longformer (halo exchange over ranks)",
    .settings = window_fields,
    .settings_bytes = sizeof(lh_window_settings),
    .caps = LH_ATTN_CAUSAL | LH_ATTN_BIDIRECTIONAL | LH_ATTN_GQA | LH_ATTN_RELATIVE |
            LH_ATTN_DOCUMENTS | LH_ATTN_LAYOUTS | LH_ATTN_SPREAD,
    .create = window_create,
    .parameters = window_parameters,
    .forward = window_forward,
    .predict = window_predict,
    .destroy = window_destroy,
    .draw = window_draw,
};
