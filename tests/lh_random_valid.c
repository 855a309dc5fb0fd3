/* Valid configurations. What depends on other keys is drawn first, in an order in which each knows what
 * it depends on; then every other key of the tables gets a value or is left out. */
#include "tests/lh_random_internal.h"

#include "core/device.h"
#include "tests/lh_test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What later draws must know. */
typedef struct valid_shape {
    int64_t data, length, max_length, heads, kv_heads, globals;
    bool causal, documents, zigzag, relative, learned;
    int64_t landmarks; /* of layers that share Linformer's projections */
    int landmark_kind;
} valid_shape;

/* Keys that no generic draw may touch: drawn below, or left as they are. */
static const char *const valid_own[] = {
    "run.name", "run.output", "run.init", "mesh.data", "mesh.layout", "mesh.chunk", "mesh.exchange",
    "mesh.ulysses", "data.task", "data.path", "data.valid_path", "data.test_path", "data.length",
    "data.batch", "data.documents", "data.vocab", "data.lag", "data.gap", "data.offsets",
    "data.pairs", "data.items", "data.tree_depth", "data.tree_args", "data.longer_than",
    "data.shorter_than", "data.valid_windows", "model.kind", "model.head", "model.vocab",
    "model.layers", "model.width", "model.heads", "model.kv_heads", "model.head_width",
    "model.position", "model.max_length", "model.head_transform", "model.pooler", "model.classes",
    "optimizer.betas", "schedule.steps", "train.accumulate", "train.eval_every",
    "train.eval_tokens", "checkpoint.every", "device.threads", "device.isa", "attention.dilation",
    "attention.global", "attention.k", "attention.sharing", "attention.projection",
    "attention.estimator",
    /* these end a run, or judge how fast it is */
    "train.stall_seconds", "train.time_limit"};

/* Keys whose values are drawn from less than their range, so that training stays sane and small. */
static const struct {
    const char *key;
    double low, high;
} valid_range[] = {{"run.seed", 0, 1000},           {"data.valid_fraction", 0.02, 0.4},
                   {"data.mask", 0.2, 0.9},         {"model.mlp_width", 1, 40},
                   {"model.dropout", 0, 0.5},       {"model.norm_eps", 1e-6, 1e-3},
                   {"model.rotary_base", 1, 20000}, {"optimizer.lr", 0, 0.01},
                   {"optimizer.eps", 1e-9, 1e-5},   {"optimizer.weight_decay", 0, 0.5},
                   {"optimizer.clip", 0, 2},        {"schedule.final_lr", 0, 0.01},
                   {"schedule.warmup", 0, 5},       {"train.log_every", 1, 3},
                   {"data.place", 0, 100},          {"attention.window", 0, 80},
                   {"attention.features", 1, 12},   {"attention.epsilon", 1e-4, 1e-2}};

/* A word of "a|b|c". */
static void valid_word(lh_random *r, const char *choices, char *value)
{
    int64_t n = 1;
    for (const char *c = choices; *c != '\0'; c++) n += *c == '|';
    const char *at = choices;
    for (int64_t skip = lhi_random_below(r, n); skip > 0; skip--) at = strchr(at, '|') + 1;
    (void)snprintf(value, LH_RANDOM_VALUE, "%.*s", (int)strcspn(at, "|"), at);
}

static double valid_unit(lh_random *r)
{
    return (double)lhi_random_below(r, 1025) / 1024.0;
}

static void valid_limits(const lh_field *f, const char *key, double *low, double *high)
{
    *low = f->min;
    *high = f->max;
    if (f->min == f->max) *low = 0, *high = 4;
    if (f->type == LH_FIELD_INT && *high > *low + 4) *high = *low + 4;
    if (f->type == LH_FIELD_REAL && *high - *low > 1e4) {
        double usual = f->fallback != NULL ? strtod(f->fallback, NULL) : 1.0;
        *low = 0.5 * usual > f->min ? 0.5 * usual : f->min;
        *high = 2.0 * usual > *low ? 2.0 * usual : *low;
    }
    for (size_t i = 0; i < sizeof valid_range / sizeof valid_range[0]; i++)
        if (strcmp(valid_range[i].key, key) == 0)
            *low = valid_range[i].low, *high = valid_range[i].high;
}

/* A value that the table allows, for one layer; false: the key is left out. */
static bool valid_value(lh_random *r, const lh_field *f, const char *key, char *value)
{
    double low = 0, high = 0;
    valid_limits(f, key, &low, &high);
    switch (f->type) {
    case LH_FIELD_INT:
        if (lhi_random_often(r, 2))
            high = low + floor((high - low) / 8); /* windows within a shard */
        if (f->automatic != NULL && lhi_random_often(r, 3))
            (void)snprintf(value, LH_RANDOM_VALUE, "%s", f->automatic);
        else
            (void)snprintf(value, LH_RANDOM_VALUE, "%lld",
                           (long long)lhi_random_between(r, (int64_t)low, (int64_t)high));
        return true;
    case LH_FIELD_REAL:
        (void)snprintf(value, LH_RANDOM_VALUE, "%.9g", low + (high - low) * valid_unit(r));
        return true;
    case LH_FIELD_BOOL:
        (void)snprintf(value, LH_RANDOM_VALUE, "%s", lhi_random_often(r, 2) ? "true" : "false");
        return true;
    case LH_FIELD_CHOICE:
        valid_word(r, f->choices, value);
        return true;
    default:
        return false;
    }
}

static bool valid_is_own(const char *key)
{
    for (size_t i = 0; i < sizeof valid_own / sizeof valid_own[0]; i++)
        if (strcmp(valid_own[i], key) == 0) return true;
    return false;
}

/* Every key of the tables that nothing else has drawn. */
static void valid_rest(lh_random *r)
{
    char key[96], value[LH_RANDOM_VALUE];
    for (const lhi_config_section *s = lhi_config_sections(); s->name != NULL; s++) {
        for (const lh_field *f = s->fields; f->name != NULL; f++) {
            (void)snprintf(key, sizeof key, "%s.%s", s->name, f->name);
            if (valid_is_own(key) || lhi_random_get(r, LHI_KEY(s->name, f->name)) != NULL) continue;
            if (lhi_random_often(r, 2) && valid_value(r, f, key, value))
                lhi_random_set(r, LHI_KEY(s->name, f->name), "%s", value);
        }
    }
}

/* --- mesh --- */

static int64_t valid_divisor(lh_random *r, int64_t n)
{
    int64_t d = 0;
    do d = lhi_random_between(r, 1, n);
    while (n % d != 0);
    return d;
}

static void valid_mesh(lh_random *r, valid_shape *s)
{
    static const int64_t chunks[] = {1, 2, 3, 4, 5, 7, 8, 512};
    s->data = lhi_random_often(r, 2) ? 1 : valid_divisor(r, r->ranks);
    s->zigzag = lhi_random_often(r, 3);
    lhi_random_set(r, LHI_KEY("mesh", "data"), "%lld", (long long)s->data);
    lhi_random_set(r, LHI_KEY("mesh", "layout"), "%s", s->zigzag ? "zigzag" : "contiguous");
    lhi_random_set(r, LHI_KEY("mesh", "chunk"), "%lld",
                   (long long)chunks[lhi_random_below(r, sizeof chunks / sizeof chunks[0])]);
    if (!lhi_random_often(r, 3)) return;
    lhi_random_set(r, LHI_KEY("mesh", "exchange"), "ulysses");
    if (lhi_random_often(r, 2))
        lhi_random_set(r, LHI_KEY("mesh", "ulysses"), "%lld",
                       (long long)valid_divisor(r, r->ranks / s->data));
}

/* --- data --- */

enum { VALID_EITHER = -1 };

/* In the order of lh_task_kind. least: the shortest sequence. */
static const struct {
    const char *name, *file;
    int kind;
    int64_t least;
} valid_tasks[] = {
    {"text", "txt", LH_MODEL_DECODER, 1},      {"masked_text", "txt", LH_MODEL_ENCODER, 1},
    {"tokens", "h5", LH_MODEL_DECODER, 1},     {"masked_tokens", "h5", LH_MODEL_ENCODER, 1},
    {"fasta", "fasta", LH_MODEL_DECODER, 1},   {"lag", NULL, LH_MODEL_DECODER, 1},
    {"markers", NULL, LH_MODEL_ENCODER, 3},    {"recall", NULL, LH_MODEL_ENCODER, 3},
    {"listops", NULL, LH_MODEL_ENCODER, 34},   {"mqar", NULL, VALID_EITHER, 4},
    {"selective_copy", NULL, VALID_EITHER, 2}, {"induction", NULL, VALID_EITHER, 3},
    {"needle", NULL, VALID_EITHER, 3}};

#define DATA(name) LHI_KEY("data", name)

static void valid_file(lh_random *r, int task, valid_shape *s)
{
    const char *kind = valid_tasks[task].file;
    bool masked = task == LH_TASK_MASKED_TOKENS;
    lhi_random_set(r, DATA("path"), "%s.%s", r->stem, kind);
    if (lhi_random_often(r, 4)) lhi_random_set(r, DATA("valid_path"), "%s.%s", r->stem, kind);
    if (lhi_random_often(r, 6)) lhi_random_set(r, DATA("test_path"), "%s.%s", r->stem, kind);
    s->documents = task == LH_TASK_FASTA || lhi_random_often(r, 4);
    if (s->documents && task != LH_TASK_FASTA)
        lhi_random_set(r, DATA("documents"), "%lld",
                       (long long)(kind[0] == 't' ? 10 : lhi_random_below(r, 7)));
    /* of a token file, which a plan does not open */
    if (task == LH_TASK_TOKENS || masked) {
        int64_t vocab = 7 + masked + lhi_random_below(r, 2);
        lhi_random_set(r, LHI_KEY("model", "vocab"), "%lld", (long long)vocab);
    }
}

static void valid_sizes(lh_random *r, int task, const valid_shape *s)
{
    int64_t n = s->length, vocab = lhi_random_between(r, 2, 20), pairs = 0;
    switch (task) {
    case LH_TASK_LAG:
        lhi_random_set(r, DATA("lag"), "%lld", (long long)lhi_random_below(r, n));
        break;
    case LH_TASK_MARKERS:
        lhi_random_set(r, DATA("gap"), "%lld", (long long)lhi_random_between(r, 1, n - 2));
        break;
    case LH_TASK_RECALL:
        lhi_random_set(r, DATA("offsets"), "%lld",
                       (long long)lhi_random_between(r, 1, (n - 1) / 2));
        break;
    case LH_TASK_LISTOPS:
        lhi_random_set(r, DATA("tree_depth"), "%lld", (long long)lhi_random_between(r, 3, 5));
        lhi_random_set(r, DATA("tree_args"), "%lld", (long long)lhi_random_between(r, 2, 4));
        lhi_random_set(r, DATA("longer_than"), "%lld", (long long)lhi_random_below(r, 3));
        lhi_random_set(r, DATA("shorter_than"), "%lld", (long long)lhi_random_between(r, 30, n));
        break;
    case LH_TASK_MQAR:
        pairs = lhi_random_between(r, 1, n / 4);
        vocab = 2 * pairs + 2 + lhi_random_below(r, 9);
        lhi_random_set(r, DATA("pairs"), "%lld", (long long)pairs);
        break;
    case LH_TASK_SELECTIVE_COPY:
        lhi_random_set(r, DATA("items"), "%lld", (long long)lhi_random_between(r, 1, n / 2));
        break;
    default:
        break;
    }
    lhi_random_set(r, DATA("vocab"), "%lld", (long long)vocab);
}

static void valid_data(lh_random *r, valid_shape *s)
{
    int task = (int)lhi_random_below(r, sizeof valid_tasks / sizeof valid_tasks[0]);
    int kind = valid_tasks[task].kind;
    int64_t longest = lhi_random_often(r, 4) ? 9 : 70;
    s->causal = (kind == VALID_EITHER ? lhi_random_below(r, 2) : kind) == LH_MODEL_DECODER;
    if (longest < valid_tasks[task].least) longest = 70;
    s->length = lhi_random_between(r, valid_tasks[task].least, longest);
    lhi_random_set(r, DATA("task"), "%s", valid_tasks[task].name);
    lhi_random_set(r, DATA("length"), "%lld", (long long)s->length);
    lhi_random_set(r, LHI_KEY("model", "kind"), "%s", s->causal ? "decoder" : "encoder");
    s->globals = task == LH_TASK_MARKERS || task == LH_TASK_LISTOPS;
    bool class = task == LH_TASK_LISTOPS || (task == LH_TASK_MARKERS && lhi_random_often(r, 2));
    lhi_random_set(r, LHI_KEY("model", "head"), "%s", class ? "class" : "lm");
    if (class && lhi_random_often(r, 2)) lhi_random_set(r, LHI_KEY("model", "classes"), "12");
    if (class && lhi_random_often(r, 2)) lhi_random_set(r, LHI_KEY("model", "pooler"), "true");
    if (!class && lhi_random_often(r, 4))
        lhi_random_set(r, LHI_KEY("model", "head_transform"), "true");
    if (valid_tasks[task].file != NULL)
        valid_file(r, task, s);
    else
        valid_sizes(r, task, s);
    lhi_random_set(r, DATA("valid_windows"), "%lld", (long long)lhi_random_between(r, 1, 5));
}

/* --- model --- */

#define MODEL(name) LHI_KEY("model", name)

static void valid_position(lh_random *r, int64_t head_width, bool even, valid_shape *s)
{
    static const char *const names[] = {"none", "learned", "sinusoidal", "rotary", "relative"};
    bool good = false;
    int p = 0;
    while (!good) {
        p = (int)lhi_random_below(r, sizeof names / sizeof names[0]);
        good = (p != LH_POSITION_LEARNED || !s->documents) &&
               (p != LH_POSITION_ROTARY || head_width % 2 == 0) &&
               (even || (p != LH_POSITION_SINUSOIDAL && p != LH_POSITION_RELATIVE));
    }
    s->relative = p == LH_POSITION_RELATIVE;
    s->learned = p == LH_POSITION_LEARNED;
    lhi_random_set(r, MODEL("position"), "%s", names[p]);
}

static void valid_model(lh_random *r, valid_shape *s)
{
    static const int64_t heads[] = {1, 2, 3, 4, 6};
    s->heads = heads[lhi_random_below(r, sizeof heads / sizeof heads[0])];
    s->kv_heads = lhi_random_often(r, 2) ? s->heads : valid_divisor(r, s->heads);
    int64_t head_width = lhi_random_between(r, 1, 8), width = s->heads * head_width;
    r->layers = (int)lhi_random_between(r, 1, LH_RANDOM_LAYERS - 1);
    if (lhi_random_often(r, 3)) {
        width = lhi_random_between(r, 1, 30);
        lhi_random_set(r, MODEL("head_width"), "%lld", (long long)head_width);
    }
    lhi_random_set(r, MODEL("layers"), "%d", r->layers);
    lhi_random_set(r, MODEL("width"), "%lld", (long long)width);
    lhi_random_set(r, MODEL("heads"), "%lld", (long long)s->heads);
    if (s->kv_heads != s->heads || lhi_random_often(r, 2))
        lhi_random_set(r, MODEL("kv_heads"), "%lld", (long long)s->kv_heads);
    valid_position(r, head_width, width % 2 == 0, s);
    s->max_length = s->length;
    if (lhi_random_often(r, 3)) {
        s->max_length += lhi_random_below(r, 20);
        lhi_random_set(r, MODEL("max_length"), "%lld", (long long)s->max_length);
    }
}

/* --- attention --- */

static void valid_dilation(lh_random *r, int layer, const valid_shape *s)
{
    char value[LH_RANDOM_VALUE] = "";
    size_t used = 0;
    int64_t step = lhi_random_between(r, 1, 4), per_kv = s->heads / s->kv_heads;
    if (lhi_random_often(r, 2)) return;
    if (lhi_random_often(r, 2)) {
        lhi_random_set(r, LHI_SETTING(layer, "dilation"), "%lld", (long long)step);
        return;
    }
    for (int64_t h = 0; h < s->heads && used < sizeof value; h++) {
        if (h % per_kv == 0) step = lhi_random_between(r, 1, 4);
        used += (size_t)snprintf(value + used, sizeof value - used, "%s%lld", h > 0 ? ", " : "",
                                 (long long)step);
    }
    /* a layer's list, one per head: within the one map of all layers, for each of these */
    if (r->maps > 0)
        lhi_random_set(r, LHI_SETTING(layer, "dilation"), "[%s]", value);
    else if (r->layers == 1)
        lhi_random_set(r, LHI_SETTING(layer, "dilation"), "[[%s]]", value);
}

static void valid_global(lh_random *r, int layer, const valid_shape *s)
{
    if (s->relative || s->documents) return;
    switch (lhi_random_below(r, s->globals > 0 ? 4 : 3)) {
    case 0:
        return;
    case 1:
        lhi_random_set(r, LHI_SETTING(layer, "global"), "first");
        return;
    case 2:
        lhi_random_set(r, LHI_SETTING(layer, "global"), "[%s%lld]", s->length > 2 ? "0, " : "",
                       (long long)(s->length - 1));
        return;
    default:
        lhi_random_set(r, LHI_SETTING(layer, "global"), "task");
    }
}

static void valid_landmarks(lh_random *r, int layer, const valid_shape *s)
{
    static const char *const sharing[] = {"none", "headwise", "kv", "layerwise"};
    static const char *const kinds[] = {"learned", "mean", "conv"};
    int share = (int)lhi_random_below(r, 4);
    bool all = share == 3;
    int kind = all ? s->landmark_kind : (int)lhi_random_below(r, 3);
    int64_t k = lhi_random_between(r, 1, kind == 1 ? s->max_length : 12);
    if (kind == 2) k = valid_divisor(r, s->max_length);
    if (all) k = s->landmarks;
    lhi_random_set(r, LHI_SETTING(layer, "sharing"), "%s", sharing[share]);
    lhi_random_set(r, LHI_SETTING(layer, "projection"), "%s", kinds[kind]);
    lhi_random_set(r, LHI_SETTING(layer, "k"), "%lld", (long long)k);
    if (kind == 2 || all || share != 0 || r->maps == 0 || s->kv_heads > 4 || s->max_length < 3)
        return;
    char value[LH_RANDOM_VALUE] = "";
    size_t used = 0;
    for (int64_t g = 0; g < s->kv_heads; g++)
        used += (size_t)snprintf(value + used, sizeof value - used, "%s%lld", g > 0 ? ", " : "",
                                 (long long)lhi_random_between(r, 1, 3));
    lhi_random_set(r, LHI_SETTING(layer, "k"), "[%s]", value);
}

/* The other settings of a map. In one map for all layers a key may be a list with one value for each. */
static void valid_settings(lh_random *r, int layer, const lh_attn_ops *ops)
{
    char key[96], value[LH_RANDOM_VALUE];
    for (const lh_field *f = ops->settings; f->name != NULL; f++) {
        (void)snprintf(key, sizeof key, "attention.%s", f->name);
        if (valid_is_own(key) || (f->fallback != NULL && lhi_random_often(r, 2))) continue;
        if (!valid_value(r, f, key, value)) continue;
        lhi_random_set(r, LHI_SETTING(layer, f->name), "%s", value);
        if (!f->per_layer || r->maps > 0 || !lhi_random_often(r, 2)) continue;
        char list[2 * LH_RANDOM_VALUE] = "[";
        size_t used = 1;
        for (int l = 0; l < r->layers && used < LH_RANDOM_VALUE && valid_value(r, f, key, value);
             l++)
            used +=
                (size_t)snprintf(list + used, sizeof list - used, "%s%s", l > 0 ? ", " : "", value);
        lhi_random_set(r, LHI_SETTING(layer, f->name), "%s]", list);
    }
}

/* Settings that belong to the kernel softmax, or need a projection. */
static void valid_features(lh_random *r, int layer)
{
    static const char *const kinds[] = {"positive", "hyperbolic"};
    const char *kernel = lhi_random_get(r, LHI_SETTING(layer, "kernel"));
    bool soft = kernel == NULL || strcmp(kernel, "softmax") == 0;
    if (soft && lhi_random_often(r, 2))
        lhi_random_set(r, LHI_SETTING(layer, "estimator"), "%s", kinds[lhi_random_below(r, 2)]);
    if (soft || kernel[0] == '[' || !lhi_random_often(r, 2)) return;
    lhi_random_set(r, LHI_SETTING(layer, "features"), "0");
    lhi_random_drop(r, LHI_SETTING(layer, "redraw"));
}

static bool valid_mechanism(const lh_attn_ops *ops, const valid_shape *s)
{
    uint32_t needs = s->causal ? LH_ATTN_CAUSAL : LH_ATTN_BIDIRECTIONAL;
    if (s->kv_heads != s->heads) needs |= LH_ATTN_GQA;
    if (s->relative) needs |= LH_ATTN_RELATIVE;
    if (s->documents) needs |= LH_ATTN_DOCUMENTS;
    if (s->zigzag) needs |= LH_ATTN_LAYOUTS;
    return (ops->caps & needs) == needs;
}

static void valid_attention(lh_random *r, valid_shape *s)
{
    r->maps = lhi_random_often(r, 2) ? r->layers : 0;
    s->landmark_kind = (int)lhi_random_below(r, 3);
    s->landmarks = valid_divisor(r, s->max_length);
    for (int layer = 0; layer < lhi_random_maps(r); layer++) {
        const lh_attn_ops *ops = NULL;
        while (ops == NULL || !valid_mechanism(ops, s))
            ops = lh_attn_at((int)lhi_random_below(r, lh_attn_count()));
        lhi_random_mechanism(r, layer, ops->name);
        valid_settings(r, layer, ops);
        if (lh_field_find(ops->settings, "dilation") != NULL) valid_dilation(r, layer, s);
        if (lh_field_find(ops->settings, "global") != NULL) valid_global(r, layer, s);
        if (lh_field_find(ops->settings, "sharing") != NULL) valid_landmarks(r, layer, s);
        if (lh_field_find(ops->settings, "estimator") != NULL) valid_features(r, layer);
    }
}

/* --- the run --- */

/* An instruction set that this processor has; where the tests run with one, that one. */
static void valid_isa(lh_random *r)
{
    static const char *const names[] = {"auto", "portable", "avx2", "avx512", "avx512_bf16"};
    const char *isa = lh_test_isa();
    lh_device *device = NULL;
    if (strcmp(isa, "auto") == 0) isa = names[lhi_random_below(r, 5)];
    if (lh_device_create_cpu(isa, 1, &device) == LH_OK)
        lhi_random_set(r, LHI_KEY("device", "isa"), "%s", isa);
    lh_error_clear();
    lh_device_destroy(&device);
}

static void valid_run(lh_random *r, const valid_shape *s)
{
    int64_t accumulate = lhi_random_often(r, 2) ? 1 : lhi_random_between(r, 2, 3);
    lhi_random_set(r, LHI_KEY("run", "name"), "random-%lld", (long long)r->number);
    lhi_random_set(r, LHI_KEY("train", "accumulate"), "%lld", (long long)accumulate);
    int64_t batch = s->data * accumulate * lhi_random_between(r, 1, 2);
    lhi_random_set(r, DATA("batch"), "%lld", (long long)batch);
    lhi_random_set(r, LHI_KEY("optimizer", "betas"), "[%.3g, %.3g]", 0.5 + 0.4 * valid_unit(r),
                   0.9 + 0.09 * valid_unit(r));
    lhi_random_set(r, LHI_KEY("schedule", "steps"), "%lld", (long long)lhi_random_between(r, 2, 3));
    lhi_random_set(r, LHI_KEY("train", "eval_every"), "%lld", (long long)lhi_random_below(r, 3));
    lhi_random_set(r, LHI_KEY("train", "eval_tokens"), "%lld", (long long)lhi_random_below(r, 90));
    lhi_random_set(r, LHI_KEY("checkpoint", "every"), "%lld", (long long)lhi_random_below(r, 3));
    if (lhi_random_often(r, 3)) lhi_random_set(r, LHI_KEY("device", "threads"), "2");
    valid_isa(r);
}

void lhi_random_valid(lh_random *r)
{
    valid_shape s = {0};
    valid_mesh(r, &s);
    valid_data(r, &s);
    valid_model(r, &s);
    valid_attention(r, &s);
    valid_run(r, &s);
    valid_rest(r);
}
