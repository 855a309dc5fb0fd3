/* Linformer (Wang et al. 2020): keys and values of the whole sequence are projected to k landmarks,
 *
 *   Kbar = E^T K,  Vbar = F^T V  (k x D),   o = softmax(Q Kbar^T / sqrt(D)) Vbar      (eq. 7)
 *
 * E and F are sharded by position with the sequence, so each rank sums over its own positions; one
 * all-reduce of k rows makes the landmarks whole, whatever the length, and their gradients need no
 * reduction along the sequence. Projected are the heads' own keys and values, as in the equation
 * (the authors' code projects the block's input instead; without biases that is the same).
 *
 * Positions beyond a sequence's valid length count as zero rows. Landmarks that then hold nothing
 * are zero keys: they still take their share of the softmax, as in the published code; after the
 * projection no key can be masked. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>

#include "attention/attend.h"
#include "attention/landmarks.h"
#include "parallel/collectives.h"

typedef enum linformer_sharing {
    LINFORMER_NONE,     /* every head, E and F */
    LINFORMER_HEADWISE, /* every layer, E and F */
    LINFORMER_KV,       /* every layer, E = F */
    LINFORMER_LAYERWISE /* one for everything */
} linformer_sharing;

typedef struct linformer_settings {
    lh_int_list k;
    int sharing, projection; /* linformer_sharing, lh_landmark_kind */
} linformer_settings;

/* LINFORMER_MESSAGE: groups whose landmarks travel in one message. */
enum { LINFORMER_WEIGHTS = 2, LINFORMER_MESSAGE = 4 };

/* Neighbouring key/value heads with the same k: one segment. */
typedef struct linformer_group {
    int64_t head, heads;
    int64_t k;      /* landmarks of a full-length sequence */
    int64_t used;   /* of this length: mean, conv: those whose block begins within it */
    int64_t column; /* where the weights of the first head begin */
} linformer_group;

/* What settings and description come to. */
typedef struct linformer_form {
    linformer_sharing sharing;
    lh_landmark_kind kind;
    int64_t length;         /* for which the projections are made */
    const lh_layout *table; /* of these positions */
    int n_groups;
    linformer_group group[LH_SEGMENTS];
    int64_t columns; /* of E; conv: rows of the kernel */
    int64_t most;    /* largest k */
    int64_t rows;    /* landmarks of all heads */
} linformer_form;

typedef struct linformer_state {
    lh_attn_desc desc;
    linformer_form form;
    lh_param *weight[LINFORMER_WEIGHTS], *bias[LINFORMER_WEIGHTS]; /* of K, V; NULL: none */
    lh_layout *keys[LH_SEGMENTS];                                  /* of each group's landmarks */
    lh_moves *moves; /* of E and F to a shorter sequence; NULL: they lie right */
    lh_pattern all;
} linformer_state;

static const lh_field linformer_fields[] = {
    {.name = "k",
     .type = LH_FIELD_INTS,
     .offset = offsetof(linformer_settings, k),
     .fallback = "[256]",
     .min = 1,
     .max = 1048576.0,
     .per_layer = true,
     .help = "landmarks that the sequence is projected to; an element may be a list, one per "
             "key/value head"},
    {.name = "sharing",
     .type = LH_FIELD_CHOICE,
     .offset = offsetof(linformer_settings, sharing),
     .fallback = "headwise",
     .choices = "none|headwise|kv|layerwise",
     .help = "who shares a projection: none (every head its own), headwise (the heads of a layer), "
             "kv (its keys and values, too), layerwise (all layers)"},
    {.name = "projection",
     .type = LH_FIELD_CHOICE,
     .offset = offsetof(linformer_settings, projection),
     .fallback = "learned",
     .choices = "learned|mean|conv",
     .help = "learned matrix, mean of a block of positions, or convolution with kernel = stride = "
             "length / k"},
    {.name = NULL},
};

/* --- what the settings come to --- */

/* k of key/value head g. */
static int64_t linformer_k(const linformer_settings *s, int64_t g)
{
    return s->k.item[s->k.count == 1 ? 0 : g];
}

static lh_status linformer_groups(const lh_attn_desc *d, linformer_form *f)
{
    lh_status st = LH_OK;
    const linformer_settings *s = d->settings;
    LH_CHECK(s->k.count == 1 || s->k.count == d->kv_heads, LH_ERR_USAGE,
             "attention.k has %d elements for one layer: give one number, or one for each of the "
             "%lld key/value heads",
             s->k.count, (long long)d->kv_heads);
    for (int64_t g = 0; g < d->kv_heads; g++) {
        int64_t k = linformer_k(s, g);
        linformer_group *last = &f->group[f->n_groups - (f->n_groups > 0)];
        LH_CHECK(k >= 1, LH_ERR_USAGE, "attention.k is %lld: at least 1", (long long)k);
        if (k > f->most) f->most = k;
        if (f->n_groups > 0 && last->k == k) {
            last->heads++;
            continue;
        }
        LH_CHECK(
            f->n_groups < LH_SEGMENTS, LH_ERR_UNSUP,
            "attention.k changes more than %d times from head to head: put heads of the same k "
            "side by side, or use fewer different ones",
            LH_SEGMENTS - 1);
        f->group[f->n_groups++] = (linformer_group){.head = g, .heads = 1, .k = k};
    }
done:
    return st;
}

/* What the projection asks of k and of the length. */
static lh_status linformer_check(const lh_attn_desc *d, const linformer_form *f)
{
    lh_status st = LH_OK;
    bool shared = f->kind == LH_LANDMARK_LEARNED && f->sharing != LINFORMER_NONE;
    LH_CHECK(f->n_groups == 1 || !shared, LH_ERR_USAGE,
             "heads that share a projection have the same k: give one attention.k per layer, or "
             "sharing: none");
    LH_CHECK(f->n_groups == 1 || f->kind != LH_LANDMARK_CONV, LH_ERR_USAGE,
             "a convolution has one kernel, length / k, for all heads of a layer: give one "
             "attention.k per layer");
    LH_CHECK(f->kind != LH_LANDMARK_CONV || f->length % f->most == 0, LH_ERR_USAGE,
             "a convolution has kernel = stride = length / k: attention.k %lld must divide the "
             "length %lld",
             (long long)f->most, (long long)f->length);
    LH_CHECK(f->kind != LH_LANDMARK_MEAN || f->most <= f->length, LH_ERR_USAGE,
             "attention.k %lld blocks of %lld positions: some would have nothing to take the mean "
             "of; make k smaller",
             (long long)f->most, (long long)f->length);
    LH_CHECK(
        d->length <= f->length, LH_ERR_USAGE,
        "a sequence of %lld positions, but Linformer's projections were made for %lld: no "
        "columns for later positions exist; shorten data.length, or raise model.max_length (auto: "
        "data.length) before training",
        (long long)d->length, (long long)f->length);
done:
    return st;
}

static lh_status linformer_form_of(const lh_attn_desc *d, linformer_form *f)
{
    lh_status st = LH_OK;
    const linformer_settings *s = d->settings;
    /* a description without a table: the projections are made for this very length */
    *f = (linformer_form){.sharing = (linformer_sharing)s->sharing,
                          .kind = (lh_landmark_kind)s->projection,
                          .length = d->table != NULL ? d->max_length : d->length,
                          .table = d->table != NULL ? d->table : d->layout};
    LH_TRY(linformer_groups(d, f));
    LH_TRY(linformer_check(d, f));
    bool own = f->sharing == LINFORMER_NONE;
    for (int i = 0; i < f->n_groups; i++) {
        linformer_group *g = &f->group[i];
        bool blocks = f->kind != LH_LANDMARK_LEARNED;
        g->used = blocks ? lh_landmarks_reached(g->k, f->length, d->length) : g->k;
        f->rows += g->heads * g->used;
        if (f->kind != LH_LANDMARK_LEARNED) continue;
        g->column = own ? f->columns : 0;
        f->columns += own ? g->heads * g->k : g->k;
    }
    if (f->kind == LH_LANDMARK_CONV) f->columns = (own ? d->kv_heads : 1) * d->head_width;
done:
    return st;
}

/* --- parameters --- */

/* Names of the projection of K (0) or V (1): which of these are the same is the sharing. */
static void linformer_name(const lh_attn_desc *d, const linformer_form *f, int which,
                           const char *kind, char *buf, size_t bytes)
{
    const char *part = which == 0 ? "key." : "value.";
    if (f->sharing == LINFORMER_LAYERWISE)
        (void)snprintf(buf, bytes, "attention.landmarks.%s", kind);
    else
        (void)snprintf(buf, bytes, "layer.%d.attention.landmarks.%s%s", d->layer,
                       f->sharing == LINFORMER_KV ? "" : part, kind);
}

static lh_shape linformer_weight_shape(const lh_attn_desc *d, const linformer_form *f)
{
    if (f->kind == LH_LANDMARK_LEARNED) return lh_shape_2(LH_REAL, f->length, f->columns);
    return lh_shape_3(LH_REAL, f->columns, d->head_width, f->length / f->most);
}

/* Landmarks begin as large as keys: learned, standard deviation 1 / sqrt(length + k) (that of the
 * authors' code, Xavier with gain 1 / sqrt(2); the paper's theory has 1 / sqrt(k), which at a
 * length far above k makes them so large that the softmax sees one key); a convolution 1 / sqrt(D
 * kernel). */
static double linformer_std(const lh_attn_desc *d, const linformer_form *f)
{
    if (f->kind == LH_LANDMARK_LEARNED) return 1.0 / sqrt((double)(f->length + f->most));
    int64_t inputs = d->head_width * (f->length / f->most); /* of one number of a landmark */
    return 1.0 / sqrt((double)inputs);
}

/* Declares a parameter, or finds it where another layer, or the keys, declared it. */
static lh_status linformer_declare(lh_params *p, const char *name, const lh_param *like)
{
    lh_status st = LH_OK;
    char there[96];
    char here[96];
    const lh_param *found = lh_params_find(p, name);
    if (found == NULL)
        return lh_params_add(p, name, like->whole, like->place, like->init, like->std, NULL);
    LH_CHECK(lh_shape_equal(&found->whole, &like->whole) &&
                 lh_place_equal(&found->place, &like->place),
             LH_ERR_USAGE,
             "%s is shared but was made with shape %s, and this layer wants %s: layers that share "
             "a projection have the same k and projection; or use sharing: headwise",
             name, lh_shape_text(&found->whole, there, sizeof there),
             lh_shape_text(&like->whole, here, sizeof here));
done:
    return st;
}

static lh_status linformer_parameters(const lh_attn_desc *d, lh_params *p)
{
    lh_status st = LH_OK;
    linformer_form f;
    char name[96];
    LH_TRY(linformer_form_of(d, &f));
    if (f.kind == LH_LANDMARK_MEAN) goto done;
    bool conv = f.kind == LH_LANDMARK_CONV;
    lh_param weight = {.whole = linformer_weight_shape(d, &f),
                       .place = conv ? lh_place_replicated() : lh_place_rows(f.table),
                       .init = LH_INIT_NORMAL,
                       .std = linformer_std(d, &f)};
    lh_param bias = {.whole = lh_shape_1(LH_REAL, f.columns),
                     .place = lh_place_replicated(),
                     .init = LH_INIT_ZERO};
    for (int i = 0; i < LINFORMER_WEIGHTS; i++) {
        linformer_name(d, &f, i, "weight", name, sizeof name);
        LH_TRY(linformer_declare(p, name, &weight));
        linformer_name(d, &f, i, "bias", name, sizeof name);
        if (conv) LH_TRY(linformer_declare(p, name, &bias));
    }
done:
    return st;
}

static lh_status linformer_find(linformer_state *s)
{
    lh_status st = LH_OK;
    char name[96];
    const linformer_form *f = &s->form;
    if (f->kind == LH_LANDMARK_MEAN) goto done;
    LH_CHECK(s->desc.params != NULL, LH_ERR_BUG, "linformer was not given the declared parameters");
    lh_shape want = linformer_weight_shape(&s->desc, f);
    for (int i = 0; i < LINFORMER_WEIGHTS; i++) {
        linformer_name(&s->desc, f, i, "weight", name, sizeof name);
        s->weight[i] = lh_params_find(s->desc.params, name);
        LH_CHECK(s->weight[i] != NULL && lh_shape_equal(&s->weight[i]->whole, &want), LH_ERR_BUG,
                 "parameter %s was not declared for this length and k", name);
        if (f->kind != LH_LANDMARK_CONV) continue;
        linformer_name(&s->desc, f, i, "bias", name, sizeof name);
        s->bias[i] = lh_params_find(s->desc.params, name);
        LH_CHECK(s->bias[i] != NULL, LH_ERR_BUG, "parameter %s was not declared", name);
    }
done:
    return st;
}

/* --- one layer --- */

static void linformer_destroy(void **state)
{
    linformer_state *s = *state;
    if (s == NULL) return;
    for (int i = 0; i < LH_SEGMENTS; i++) lh_layout_destroy(&s->keys[i]);
    lh_moves_destroy(&s->moves);
    lh_free(state);
}

/* The layout of E and F; NULL: there are none that are sharded. */
static const lh_layout *linformer_lies(const linformer_state *s)
{
    if (s->form.kind != LH_LANDMARK_LEARNED) return NULL;
    return s->weight[0]->place.axis[LH_AXIS_SEQ].layout;
}

static lh_status linformer_create(const lh_attn_desc *d, void **state)
{
    lh_status st = LH_OK;
    linformer_state *s = NULL;
    void *made = NULL;
    *state = NULL;
    LH_TRY(lh_new(sizeof *s, &s));
    made = s;
    s->desc = *d;
    s->all = lh_pattern_band(-LH_FAR, LH_FAR);
    LH_TRY(linformer_form_of(d, &s->form));
    LH_TRY(linformer_find(s));
    for (int i = 0; i < s->form.n_groups; i++)
        LH_TRY(lh_layout_everywhere(s->form.group[i].used, d->layout->ranks, d->layout->chunk,
                                    &s->keys[i]));
    const lh_layout *lies = linformer_lies(s);
    if (lies != NULL && lies != d->layout)
        LH_TRY(lh_moves_create(lies, d->layout, d->params->coord[LH_AXIS_SEQ], &s->moves));
    *state = made;
    made = NULL;
done:
    linformer_destroy(&made);
    return st;
}

/* E and F as variables, where the positions are; F = E is moved once. */
static lh_status linformer_weights(const linformer_state *s, lh_tape *t, lh_comm *sequence,
                                   lh_var *w)
{
    lh_status st = LH_OK;
    for (int i = 0; i < LINFORMER_WEIGHTS; i++) {
        w[i] = (lh_var){0};
        if (s->weight[i] == NULL) continue;
        if (i > 0 && s->weight[i] == s->weight[0]) {
            w[i] = w[0];
            continue;
        }
        LH_TRY(lh_tape_param(t, s->weight[i], &w[i]));
        if (s->moves != NULL) LH_TRY(lh_move_rows(t, sequence, s->moves, w[i], &w[i]));
    }
done:
    return st;
}

/* This rank's part of a group's landmarks: y[0] of the keys, y[1] of the values. */
static lh_status linformer_project(const linformer_state *s, lh_tape *t, const lh_qkv *in,
                                   const linformer_group *g, const lh_var *w, lh_var *y)
{
    lh_status st = LH_OK;
    const linformer_form *f = &s->form;
    bool own = f->sharing == LINFORMER_NONE;
    bool conv = f->kind == LH_LANDMARK_CONV;
    lh_landmarks_desc d = {.kind = f->kind,
                           .head = g->head,
                           .heads = g->heads,
                           .k = g->used,
                           .blocks = g->k,
                           .length = f->length,
                           .start = g->column,
                           .step = own ? (conv ? s->desc.head_width : g->k) : 0,
                           .valid = in->valid};
    LH_TRY(lh_landmarks(t, &d, in->k, w[0], &y[0]));
    LH_TRY(lh_landmarks(t, &d, in->v, w[1], &y[1]));
done:
    return st;
}

/* A convolution's bias, once: after the sum over ranks. */
static lh_status linformer_biases(const linformer_state *s, lh_tape *t, lh_var *y)
{
    lh_status st = LH_OK;
    for (int i = 0; i < LINFORMER_WEIGHTS; i++) {
        lh_var b = {0};
        if (s->bias[i] == NULL) continue;
        LH_TRY(lh_tape_param(t, s->bias[i], &b));
        LH_TRY(lh_add_bias(t, y[i], b, &y[i]));
    }
done:
    return st;
}

/* Whole landmarks of all groups: y[2 i] of the keys, y[2 i + 1] of the values of group i. */
static lh_status linformer_landmarks(const linformer_state *s, lh_tape *t, const lh_qkv *in,
                                     lh_var *y)
{
    lh_status st = LH_OK;
    lh_var w[LINFORMER_WEIGHTS];
    lh_var part[2 * LH_SEGMENTS];
    int n = s->form.n_groups;
    LH_TRY(linformer_weights(s, t, in->mesh->axis[LH_AXIS_SEQ], w));
    for (int i = 0; i < n; i++)
        LH_TRY(linformer_project(s, t, in, &s->form.group[i], w, &part[2 * i]));
    for (int i = 0; i < n; i += LINFORMER_MESSAGE) {
        int more = n - i < LINFORMER_MESSAGE ? n - i : LINFORMER_MESSAGE;
        LH_TRY(lh_all_reduce_all(t, in->mesh, LH_AXIS_SEQ, 2 * more, &part[2 * i], &y[2 * i]));
    }
    for (int i = 0; i < n; i++) LH_TRY(linformer_biases(s, t, &y[2 * i]));
done:
    return st;
}

static lh_status linformer_forward(void *state, lh_tape *t, const lh_qkv *in, lh_var *out)
{
    lh_status st = LH_OK;
    const linformer_state *s = state;
    const linformer_form *f = &s->form;
    int64_t share = s->desc.heads / s->desc.kv_heads;
    lh_var y[2 * LH_SEGMENTS] = {{0}};
    lh_attend_desc a = {.sequence = in->mesh->axis[LH_AXIS_SEQ],
                        .plans = in->plans,
                        .q = in->q,
                        .layout = s->desc.layout,
                        .scale = 1.0 / sqrt((double)s->desc.head_width),
                        .kv_heads = s->desc.kv_heads,
                        .n_segments = f->n_groups};
    *out = (lh_var){0};
    LH_TRY(linformer_landmarks(s, t, in, y));
    for (int i = 0; i < f->n_groups; i++)
        a.segment[i] = (lh_segment){.k = y[2 * i],
                                    .v = y[2 * i + 1],
                                    .layout = s->keys[i],
                                    .pattern = &s->all,
                                    .head = f->group[i].head * share,
                                    .n_heads = f->n_groups == 1 ? 0 : f->group[i].heads * share};
    LH_TRY(lh_attend(t, &a, out, NULL));
done:
    return st;
}

/* --- cost --- */

static bool linformer_moves(const lh_attn_desc *d, const linformer_form *f)
{
    return f->kind == LH_LANDMARK_LEARNED && f->table != d->layout;
}

/* Multiply-adds of the projections for one position and sequence: forward; the backward has as many
 * for the rows and, with weights, as many for these. */
static double linformer_work(const lh_attn_desc *d, const linformer_form *f)
{
    double width = (double)d->head_width;
    if (f->kind == LH_LANDMARK_LEARNED) return 2.0 * width * (double)f->rows;
    return 2.0 * width * (double)d->kv_heads * (f->kind == LH_LANDMARK_CONV ? width : 1.0);
}

/* With R = sum over key/value heads of their landmarks:
 *   summary   2 B R D elements forward and as many backward, whatever the length
 *   rows      of E and F, for a sequence shorter than they were made for
 *   flops     attention 4 B (H / G) R D per query, backward 2.5 times; and the projections */
static lh_status linformer_predict(const lh_attn_desc *d, int ranks, int rank, lh_cost *c)
{
    lh_status st = LH_OK;
    linformer_form f;
    int64_t sent = 0;
    int64_t received = 0;
    *c = (lh_cost){0};
    LH_TRY(linformer_form_of(d, &f));
    LH_CHECK(d->layout->ranks == ranks, LH_ERR_BUG, "a layout of %d ranks, not %d",
             d->layout->ranks, ranks);
    int64_t real = (int64_t)lh_dtype_bytes(LH_REAL);
    int64_t landmarks = 2 * d->batch * f.rows * d->head_width * real;
    bool one = f.sharing == LINFORMER_KV || f.sharing == LINFORMER_LAYERWISE;
    int64_t row = (one ? 1 : 2) * f.columns * real; /* of E and F */
    if (linformer_moves(d, &f)) lh_layout_moved(f.table, d->layout, rank, &sent, &received);
    c->forward_bytes = sent * row;
    c->backward_bytes = received * row;
    c->summary_bytes = ranks > 1 ? 2 * landmarks : 0;
    c->again_bytes = ranks > 1 ? landmarks : 0;
    c->kept_bytes = landmarks + (linformer_moves(d, &f) ? d->layout->rows[rank] * row : 0);
    double positions = (double)d->batch * (double)d->layout->rows[rank];
    int64_t seen = f.rows * (d->heads / d->kv_heads); /* by the query heads of one position */
    double attention = 4.0 * positions * (double)d->head_width * (double)seen;
    double work = 2.0 * positions * linformer_work(d, &f);
    c->forward_flops = attention + work;
    c->backward_flops = 2.5 * attention + (f.kind == LH_LANDMARK_MEAN ? 1.0 : 2.0) * work;
done:
    return st;
}

const lh_attn_ops lh_attn_linformer = {
    .name = "linformer",
    .help = "k projected keys and values for all positions (all-reduce of k rows over ranks)",
    .settings = linformer_fields,
    .settings_bytes = sizeof(linformer_settings),
    .caps = LH_ATTN_BIDIRECTIONAL | LH_ATTN_GQA | LH_ATTN_LAYOUTS,
    .refuses = "every landmark mixes all positions, so a causal form would see the future, packed "
               "documents would see each other, and no distance to a landmark exists",
    .create = linformer_create,
    .parameters = linformer_parameters,
    .forward = linformer_forward,
    .predict = linformer_predict,
    .destroy = linformer_destroy,
};
