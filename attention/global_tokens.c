#include "attention/global_tokens.h"
#include "attention/by_heads.h"
#include "core/integer.h"
#include "core/random.h"
#include "parallel/collectives.h"

#include <math.h>
#include <stdio.h>

enum { GLOBAL_QUERY, GLOBAL_KEY, GLOBAL_VALUE, GLOBAL_PROJECTIONS, GLOBAL_NAME = 96 };
static const char *const global_part[] = {"query", "key", "value"};

struct lhi_global {
    lh_attn_desc desc;
    lhi_global_spec spec;
    int64_t max;
    lh_layout *layout, *keys; /* everywhere: of global queries; of global keys, on as many ranks as
                               * the rows that see them */
    lh_pattern all;
    lh_param *weight[GLOBAL_PROJECTIONS], *bias[GLOBAL_PROJECTIONS];
    /* of the running step: the list; entries per sequence again, as a valid length; what is hidden
     * elsewhere; limits of the columns [B, s, 2] (causal only) and of the rows [B, g, 2] */
    lh_row_list list;
    int64_t *count, *position;
    lh_hidden *hidden;
    int32_t *columns, *rows;
    lh_var x; /* the block's input at the global tokens [B, g, E] */
};

int64_t lhi_global_max(const lhi_global_spec *spec, const lh_attn_desc *d)
{
    const int64_t max[] = {0, 1, d->max_global, spec->n};
    return max[spec->kind];
}

lh_status lhi_global_check(const lhi_global_spec *spec, const lh_attn_desc *d)
{
    lh_status st = LH_OK;
    if (spec->kind == LHI_GLOBAL_NONE) return LH_OK;
    LH_CHECK(
        spec->kind != LHI_GLOBAL_TASK || d->max_global > 0, LH_ERR_USAGE,
        "attention.global: the task names no global tokens: give a list of positions, or first");
    LH_CHECK(!d->relative, LH_ERR_UNSUP,
             "global tokens with relative positions: distances to all positions would need a table "
             "of the whole sequence; use rotary, learned, sinusoidal or no positions");
    LH_CHECK(!d->documents, LH_ERR_UNSUP,
             "global tokens see all positions, and packed documents forbid it: leave out "
             "data.documents or global");
    for (int64_t i = 0; i < spec->n; i++) {
        LH_CHECK(
            spec->position[i] < d->length, LH_ERR_USAGE,
            "attention.global: position %lld is behind the end of a sequence of %lld positions: "
            "take it out of the list, or raise data.length",
            (long long)spec->position[i], (long long)d->length);
        LH_CHECK(i == 0 || spec->position[i - 1] < spec->position[i], LH_ERR_USAGE,
                 "attention.global: positions must ascend, and %lld is followed by %lld",
                 (long long)spec->position[i - 1], (long long)spec->position[i]);
    }
done:
    return st;
}

/* "layer.L.attention.PART[_global].KIND" */
static const char *global_name(char *buf, const lh_attn_desc *d, int part, const char *suffix)
{
    (void)snprintf(buf, GLOBAL_NAME, "layer.%d.attention.%s%s", d->layer, global_part[part],
                   suffix);
    return buf;
}

lh_status lhi_global_declare(const lh_attn_desc *d, lh_params *p)
{
    lh_status st = LH_OK;
    char name[GLOBAL_NAME];
    lh_param *w = NULL;
    for (int i = 0; i < GLOBAL_PROJECTIONS; i++) {
        int64_t out = (i == GLOBAL_QUERY ? d->heads : d->kv_heads) * d->head_width;
        LH_TRY(lh_params_add(p, global_name(name, d, i, "_global.weight"),
                             lh_shape_2(LH_REAL, out, d->width), lh_place_replicated(),
                             LH_INIT_NORMAL, 1.0 / sqrt((double)d->width), &w));
        (void)global_name(w->like, d, i, ".weight");
        if (!d->bias) continue;
        LH_TRY(lh_params_add(p, global_name(name, d, i, "_global.bias"), lh_shape_1(LH_REAL, out),
                             lh_place_replicated(), LH_INIT_ZERO, 0.0, &w));
        (void)global_name(w->like, d, i, ".bias");
    }
done:
    return st;
}

lh_status lhi_global_create(const lhi_global_spec *spec, const lh_attn_desc *d, lhi_global **out)
{
    lh_status st = LH_OK;
    char name[GLOBAL_NAME];
    lhi_global *g = NULL;
    int first = 0;
    *out = NULL;
    LH_TRY(lh_new(sizeof *g, &g));
    g->desc = *d;
    g->spec = *spec;
    g->max = lhi_global_max(spec, d);
    g->all = lh_pattern_band(-LH_FAR, LH_FAR);
    size_t entries = (size_t)(d->batch * g->max);
    const lh_layout *rows = lh_attend_rows(d, 0, &first);
    LH_TRY(lh_layout_everywhere(g->max, rows->ranks, d->layout->chunk, &g->keys));
    LH_TRY(lh_layout_everywhere(g->max, d->layout->ranks, d->layout->chunk, &g->layout));
    LH_TRY(lh_new((size_t)d->batch * sizeof *g->count, &g->count));
    LH_TRY(lh_new(entries * sizeof *g->position, &g->position));
    LH_TRY(lh_new((size_t)d->batch * sizeof *g->hidden, &g->hidden));
    LH_TRY(lh_new(2 * entries * sizeof *g->rows, &g->rows));
    if (d->causal)
        LH_TRY(lh_new(2 * (size_t)(d->batch * rows->max_rows) * sizeof *g->columns, &g->columns));
    for (int i = 0; i < GLOBAL_PROJECTIONS; i++) {
        g->weight[i] = lh_params_find(d->params, global_name(name, d, i, "_global.weight"));
        g->bias[i] = lh_params_find(d->params, global_name(name, d, i, "_global.bias"));
        LH_CHECK(g->weight[i] != NULL, LH_ERR_BUG, "global projections of layer %d are missing",
                 d->layer);
    }
    g->list = (lh_row_list){g->max, g->count, g->position};
    *out = g;
    g = NULL;
done:
    lhi_global_destroy(&g);
    return st;
}

void lhi_global_destroy(lhi_global **g)
{
    if (*g == NULL) return;
    lh_layout_destroy(&(*g)->layout);
    lh_layout_destroy(&(*g)->keys);
    lh_free(&(*g)->count);
    lh_free(&(*g)->position);
    lh_free(&(*g)->hidden);
    lh_free(&(*g)->columns);
    lh_free(&(*g)->rows);
    lh_free(g);
}

/* The global tokens of sequence b; those in the padding are none. */
static void global_list(lhi_global *g, const lh_qkv *in, int64_t b)
{
    int64_t valid = in->valid != NULL ? in->valid[b] : g->desc.length;
    const int64_t zero = 0;
    const int64_t *from = g->spec.kind == LHI_GLOBAL_LIST ? g->spec.position : &zero;
    int64_t n = g->max;
    if (g->spec.kind == LHI_GLOBAL_TASK) {
        from = in->global != NULL ? in->global->position + b * g->max : &zero;
        n = in->global != NULL ? in->global->count[b] : 0;
    }
    g->count[b] = 0;
    for (int64_t i = 0; i < n && from[i] < valid; i++)
        g->position[b * g->max + g->count[b]++] = from[i];
    g->hidden[b] = (lh_hidden){g->count[b], g->position + b * g->max};
}

/* What the rows of sequence b see, and, causal, which global keys its queries see. */
static void global_limits(lhi_global *g, int rank, int64_t b)
{
    const lh_layout *l = lh_attend_rows(&g->desc, rank, &rank);
    const int64_t *position = g->position + b * g->max;
    int64_t rows = l->rows[rank];
    for (int64_t i = 0; i < g->max; i++) {
        int32_t *limit = g->rows + 2 * (b * g->max + i);
        limit[0] = 0;
        limit[1] = i >= g->count[b] ? 0
                   : g->desc.causal ? (int32_t)position[i] + 1
                                    : (int32_t)g->desc.length;
    }
    if (!g->desc.causal) return;
    lh_piece p;
    for (lh_pieces it = lh_pieces_of(l, rank); lh_piece_next(&it, &p);) {
        int64_t seen = 0;
        for (int64_t r = 0; r < p.count; r++) {
            while (seen < g->count[b] && position[seen] <= p.position + r * p.stride) seen++;
            g->columns[2 * (b * rows + p.row + r)] = 0;
            g->columns[2 * (b * rows + p.row + r) + 1] = (int32_t)seen;
        }
    }
}

lh_status lhi_global_begin(lhi_global *g, lh_tape *t, const lh_qkv *in, lh_attend_desc *a)
{
    lh_status st = LH_OK;
    lh_var v[3] = {in->k, in->v, in->x};
    bool counting = lh_tape_device(t)->counting;
    for (int64_t b = 0; !counting && b < g->desc.batch; b++) {
        global_list(g, in, b);
        global_limits(g, lh_tape_coord(t, LH_AXIS_SEQ), b);
    }
    for (int i = 0; i < 3; i++) LH_TRY(lh_take_rows(t, v[i], &g->list, &v[i]));
    LH_TRY(lh_all_reduce_all(t, in->mesh, LH_AXIS_SEQ, 3, v, v));
    g->x = v[2];
    LH_CHECK(a->n_segments < LH_SEGMENTS, LH_ERR_BUG, "no segment is left for global keys");
    for (int i = 0; i < a->n_segments; i++) a->segment[i].sight.hidden = g->hidden;
    a->segment[a->n_segments++] = (lh_segment){.k = v[0],
                                               .v = v[1],
                                               .layout = g->keys,
                                               .pattern = &g->all,
                                               .sight = {g->count, g->columns, NULL}};
done:
    return st;
}

/* x projected by one of the global projections: [B, rows, heads, D]. */
static lh_status global_project(const lhi_global *g, lh_tape *t, int part, lh_var x, lh_var *y)
{
    lh_status st = LH_OK;
    lh_var w = {0};
    lh_var b = {0};
    int64_t heads = part == GLOBAL_QUERY ? g->desc.heads : g->desc.kv_heads;
    LH_TRY(lh_tape_param(t, g->weight[part], &w));
    if (g->bias[part] != NULL) LH_TRY(lh_tape_param(t, g->bias[part], &b));
    LH_TRY(lh_linear(t, x, w, b, y));
    const lh_shape *s = lh_var_shape(t, *y);
    LH_TRY(
        lh_reshape(t, *y, lh_shape_4(LH_REAL, s->dim[0], s->dim[1], heads, g->desc.head_width), y));
done:
    return st;
}

lh_status lhi_global_rows(lhi_global *g, lh_tape *t, const lh_qkv *in, lh_var *out)
{
    lh_status st = LH_OK;
    lh_var rows = {0};
    lh_attend_few_desc f = {.sequence = in->mesh->axis[LH_AXIS_SEQ],
                            .plans = in->plans,
                            .queries = g->layout,
                            .layout = g->desc.layout,
                            .scale = 1.0 / sqrt((double)g->desc.head_width),
                            .sight = {in->valid, g->rows, NULL}};
    LH_TRY(global_project(g, t, GLOBAL_QUERY, g->x, &f.q));
    LH_TRY(global_project(g, t, GLOBAL_KEY, in->x, &f.k));
    LH_TRY(global_project(g, t, GLOBAL_VALUE, in->x, &f.v));
    LH_TRY(lh_attend_few(t, &f, &rows));
    LH_TRY(lh_put_rows(t, *out, rows, &g->list, out));
done:
    return st;
}

void lhi_global_cost(const lh_attn_desc *d, int64_t g, int ranks, int rank, lh_cost *c)
{
    const int64_t real = (int64_t)lh_dtype_bytes(LH_REAL);
    const int64_t taken = 2 * d->kv_heads * d->head_width + d->width;
    const int64_t row = d->heads * d->head_width;
    int at = 0;
    const lh_layout *rows = lh_attend_rows(d, rank, &at);
    int64_t heads = d->heads; /* that see the global keys here */
    if (d->spread != NULL)
        heads =
            lh_spread_heads(heads, d->kv_heads, d->spread->ways, rank % d->spread->ways).n_heads;
    double scores = (double)(d->batch * g) *
                    (double)(heads * rows->rows[at] + d->heads * d->layout->rows[rank]);
    if (ranks > 1) {
        c->summary_bytes += d->batch * g * real * (2 * taken + 2 * row + 2 * d->heads);
        c->again_bytes += d->batch * g * real * (taken + row + 2 * d->heads);
    }
    c->forward_flops += 4.0 * scores * (double)d->head_width;
    c->backward_flops += 10.0 * scores * (double)d->head_width;
}
