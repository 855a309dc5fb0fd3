/* One mistake in a valid configuration. */
#include "tests/lh_random_internal.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How a message calls it: "'section.key'", of a setting ".key'". */
static void broken_expect(lh_random *r, lhi_random_key key)
{
    if (key.layer < 0)
        (void)snprintf(r->expected, sizeof r->expected, "'%s.%s'", key.section, key.name);
    else
        (void)snprintf(r->expected, sizeof r->expected, ".%s'", key.name);
}

/* --- mistakes in one key --- */

/* Values of another type. Lists are nested, since a list may hold one value for each layer. */
static const char *broken_type(lh_random *r, lh_field_type type)
{
    static const char *const ints[] = {"wide", "1.5", "[[1]]", "{a: 1}", "'3'", "0x10", "null"};
    static const char *const reals[] = {"wide", "1..5", ".inf", "[[1]]", "{a: 1}", "1e999", "null"};
    static const char *const bools[] = {"yes", "1", "wide", "[[true]]", "'true'", "null"};
    static const char *const words[] = {"wide", "[[a]]", "{a: 1}", "7", "null"};
    static const char *const texts[] = {"[1]", "{a: 1}"};
    static const char *const lists[] = {"[wide]", "[1.5x, 2]", "{a: 1}", "[null]", "[[[1]]]"};
    switch (type) {
    case LH_FIELD_INT:
        return ints[lhi_random_below(r, 7)];
    case LH_FIELD_REAL:
        return reals[lhi_random_below(r, 7)];
    case LH_FIELD_BOOL:
        return bools[lhi_random_below(r, 6)];
    case LH_FIELD_CHOICE:
        return words[lhi_random_below(r, 5)];
    case LH_FIELD_STRING:
    case LH_FIELD_PATH:
        return texts[lhi_random_below(r, 2)];
    default:
        return lists[lhi_random_below(r, 5)];
    }
}

static bool break_type(lh_random *r)
{
    lhi_random_field f = lhi_random_any(r);
    lhi_random_set(r, f.key, "%s", broken_type(r, f.field->type));
    broken_expect(r, f.key);
    return true;
}

/* Just below or above what the table allows. */
static bool break_range(lh_random *r)
{
    lhi_random_field f = lhi_random_any(r);
    bool numbers = f.field->type != LH_FIELD_BOOL && f.field->type != LH_FIELD_CHOICE &&
                   f.field->type != LH_FIELD_STRING && f.field->type != LH_FIELD_PATH;
    bool whole = f.field->type == LH_FIELD_INT || f.field->type == LH_FIELD_INTS;
    bool list = f.field->type == LH_FIELD_INTS || f.field->type == LH_FIELD_REALS;
    if (!numbers || f.field->min == f.field->max) return false;
    bool above = f.field->max < LH_NO_LIMIT && lhi_random_often(r, 2);
    double end = above ? f.field->max : f.field->min;
    double step = whole || fabs(end) >= 1.0 ? 1.0 : 0.25;
    if (f.field->min == LH_ABOVE_ZERO && !above) step = end; /* zero */
    if (fabs(end) > 1e15) return false;
    lhi_random_set(r, f.key, list ? "[%.17g, %.17g]" : "%.17g", end + (above ? step : -step),
                   end + (above ? step : -step));
    if (list && f.field->per_layer) /* one value for each layer, or one for each head */
        lhi_random_set(r, f.key, "%.17g", end + (above ? step : -step));
    broken_expect(r, f.key);
    return true;
}

static bool break_unknown_key(lh_random *r)
{
    lhi_random_field f = lhi_random_any(r);
    char name[48];
    (void)snprintf(name, sizeof name, "%sx", f.field->name);
    lhi_random_add(r, (lhi_random_key){f.key.layer, f.key.section, name}, "1");
    broken_expect(r, (lhi_random_key){f.key.layer, f.key.section, name});
    return true;
}

static bool break_twice(lh_random *r)
{
    const lh_random_item *item = &r->item[lhi_random_below(r, r->count)];
    lhi_random_key key = {item->layer, item->section, item->key};
    (void)snprintf(r->expected, sizeof r->expected, "key '%s' occurs twice", item->key);
    lhi_random_add(r, key, item->value);
    return true;
}

/* Without a key that has no default. */
static bool break_missing(lh_random *r)
{
    lhi_random_field list[LHI_RANDOM_FIELDS];
    int n = lhi_random_fields(r, list), kept = 0;
    for (int i = 0; i < n; i++)
        if (list[i].field->fallback == NULL) list[kept++] = list[i];
    lhi_random_field f = list[lhi_random_below(r, kept)];
    lhi_random_drop(r, f.key);
    broken_expect(r, f.key);
    return true;
}

static bool break_section(lh_random *r)
{
    static const char *const names[] = {"modle", "training", "data.length", "attention"};
    const char *name = names[lhi_random_below(r, 4)];
    lhi_random_add(r, LHI_KEY("unknown", name), "{}");
    (void)snprintf(r->expected, sizeof r->expected, "'%s'", name);
    return true;
}

static bool break_flat(lh_random *r)
{
    const lhi_config_section *s = lhi_config_sections();
    for (int64_t skip = lhi_random_below(r, 9); skip > 0 && s[1].name != NULL; skip--) s++;
    r->flat = s->name;
    (void)snprintf(r->expected, sizeof r->expected, "'%s'", s->name);
    return true;
}

/* --- contradictions --- */

#define NUMBER(section, name, otherwise) lhi_random_number(r, LHI_KEY(section, name), (otherwise))
#define SET(section, name, ...) lhi_random_set(r, LHI_KEY(section, name), __VA_ARGS__)

static bool word_is(const lh_random *r, const char *section, const char *name, const char *word)
{
    const char *value = lhi_random_get(r, LHI_KEY(section, name));
    return value != NULL && strcmp(value, word) == 0;
}

/* Full attention in all layers, positions not told, no documents: nothing that could be refused before. */
static void broken_plain(lh_random *r)
{
    for (int map = 0; map < lhi_random_maps(r); map++) lhi_random_mechanism(r, map, "full");
    SET("model", "position", "none");
    lhi_random_drop(r, LHI_KEY("data", "documents"));
}

/* A single layer of this mechanism. */
static void broken_single(lh_random *r, const char *mechanism)
{
    broken_plain(r);
    for (int map = 1; map < r->maps; map++)
        for (int i = r->count - 1; i >= 0; i--)
            if (r->item[i].layer == map) lhi_random_drop(r, LHI_SETTING(map, r->item[i].key));
    r->maps = 0;
    r->layers = 1;
    SET("model", "layers", "1");
    SET("mesh", "layout", "contiguous");
    lhi_random_mechanism(r, 0, mechanism);
}

static bool rule_kv_heads(lh_random *r)
{
    SET("model", "kv_heads", "%lld", (long long)NUMBER("model", "heads", 1) + 1);
    return true;
}

static bool rule_rotary(lh_random *r)
{
    SET("model", "position", "rotary");
    SET("model", "head_width", "3");
    return true;
}

static bool rule_odd_width(lh_random *r)
{
    SET("model", "position", "%s", lhi_random_often(r, 2) ? "relative" : "sinusoidal");
    SET("model", "width", "7");
    SET("model", "head_width", "2");
    return true;
}

static bool rule_width(lh_random *r)
{
    SET("model", "heads", "3");
    SET("model", "kv_heads", "3");
    SET("model", "width", "10");
    lhi_random_drop(r, LHI_KEY("model", "head_width"));
    return true;
}

static bool rule_batch(lh_random *r)
{
    SET("train", "accumulate", "2");
    SET("data", "batch", "%lld", 2 * (long long)NUMBER("mesh", "data", 1) + 1);
    return true;
}

static bool rule_group_of_ring(lh_random *r)
{
    SET("mesh", "exchange", "ring");
    SET("mesh", "ulysses", "1");
    return true;
}

static bool rule_betas(lh_random *r)
{
    SET("optimizer", "betas", "[0.9, 0.99, 0.999]");
    return true;
}

static bool rule_kind(lh_random *r)
{
    static const char *const any[] = {"mqar", "selective_copy", "induction", "needle"};
    for (int i = 0; i < 4; i++)
        if (word_is(r, "data", "task", any[i])) return false;
    broken_plain(r);
    SET("model", "kind", "%s", word_is(r, "model", "kind", "decoder") ? "encoder" : "decoder");
    SET("model", "head", "lm");
    lhi_random_drop(r, LHI_KEY("model", "classes"));
    lhi_random_drop(r, LHI_KEY("model", "pooler"));
    return true;
}

static bool rule_head(lh_random *r)
{
    if (!word_is(r, "model", "kind", "encoder")) return false;
    SET("model", "head", "%s", lhi_random_often(r, 2) ? "none" : "pooler");
    return true;
}

static bool rule_causal_class(lh_random *r)
{
    if (!word_is(r, "model", "kind", "decoder")) return false;
    SET("model", "head", "class");
    return true;
}

static bool rule_classes(lh_random *r)
{
    if (!word_is(r, "model", "head", "lm")) return false;
    SET("model", "classes", "3");
    return true;
}

/* A size of the task that its length has no room for. */
static bool rule_room(lh_random *r)
{
    static const struct {
        const char *task, *key;
        int64_t beyond;
    } room[] = {{"lag", "lag", 0},        {"markers", "gap", 0},
                {"recall", "offsets", 0}, {"listops", "shorter_than", 1},
                {"mqar", "pairs", 0},     {"selective_copy", "items", 0}};
    for (size_t i = 0; i < sizeof room / sizeof room[0]; i++) {
        if (!word_is(r, "data", "task", room[i].task)) continue;
        SET("data", room[i].key, "%lld", (long long)(NUMBER("data", "length", 0) + room[i].beyond));
        broken_expect(r, LHI_KEY("data", room[i].key));
        return true;
    }
    return false;
}

static bool rule_learned(lh_random *r)
{
    broken_plain(r);
    SET("data", "task", "text");
    SET("data", "path", "%s.txt", r->stem);
    SET("data", "documents", "10");
    SET("model", "kind", "decoder");
    SET("model", "position", "learned");
    return true;
}

static bool rule_documents(lh_random *r)
{
    if (lhi_random_get(r, LHI_KEY("data", "path")) != NULL) return false;
    broken_plain(r);
    SET("data", "documents", "1");
    return true;
}

static bool rule_data_ranks(lh_random *r)
{
    int64_t data = r->ranks + 1;
    SET("mesh", "data", "%lld", (long long)data);
    SET("train", "accumulate", "1");
    SET("data", "batch", "%lld", (long long)data);
    lhi_random_drop(r, LHI_KEY("mesh", "ulysses"));
    (void)snprintf(r->expected, sizeof r->expected, "mesh.data");
    return true;
}

static bool rule_group(lh_random *r)
{
    SET("mesh", "exchange", "ulysses");
    SET("mesh", "ulysses", "%lld", (long long)(r->ranks / NUMBER("mesh", "data", 1) + 1));
    (void)snprintf(r->expected, sizeof r->expected, "mesh.ulysses");
    return true;
}

static bool rule_maps(lh_random *r)
{
    if (r->maps == 0 || r->maps == LH_RANDOM_LAYERS) return false;
    lhi_random_mechanism(r, r->maps, "full");
    r->maps++;
    return true;
}

static bool rule_per_layer(lh_random *r)
{
    broken_single(r, "sliding_window");
    lhi_random_set(r, LHI_SETTING(0, "window"), "[3, 4]");
    return true;
}

static bool rule_mechanism(lh_random *r)
{
    int map = (int)lhi_random_below(r, lhi_random_maps(r));
    lhi_random_mechanism(r, map, lhi_random_often(r, 2) ? "fulll" : "[full]");
    return true;
}

static bool rule_no_mechanism(lh_random *r)
{
    lhi_random_drop(r, LHI_SETTING(0, "mechanism"));
    return true;
}

/* What its table says that it cannot do. */
static bool rule_caps(lh_random *r)
{
    if (!word_is(r, "model", "kind", "decoder")) return false;
    for (int i = 0; i < lh_attn_count(); i++) {
        if ((lh_attn_at(i)->caps & LH_ATTN_CAUSAL) != 0) continue;
        broken_plain(r);
        lhi_random_mechanism(r, (int)lhi_random_below(r, lhi_random_maps(r)), lh_attn_at(i)->name);
        return true;
    }
    return false;
}

static bool rule_global(lh_random *r)
{
    if (word_is(r, "data", "task", "fasta")) return false;
    broken_single(r, "sliding_window");
    lhi_random_set(r, LHI_SETTING(0, "window"), "3");
    lhi_random_set(r, LHI_SETTING(0, "global"), "[%lld]", (long long)NUMBER("data", "length", 0));
    return true;
}

static bool rule_dilation(lh_random *r)
{
    broken_single(r, "sliding_window");
    lhi_random_set(r, LHI_SETTING(0, "window"), "3");
    lhi_random_set(r, LHI_SETTING(0, "dilation"), "[[1, 2, 1, 2, 1, 2, 1]]"); /* no 7 heads */
    return true;
}

static bool rule_features(lh_random *r)
{
    if (word_is(r, "data", "task", "fasta")) return false;
    broken_single(r, "performer");
    lhi_random_set(r, LHI_SETTING(0, "features"), "0");
    return true;
}

static bool rule_landmarks(lh_random *r)
{
    if (!word_is(r, "model", "kind", "encoder")) return false;
    broken_single(r, "linformer");
    lhi_random_drop(r, LHI_KEY("model", "max_length"));
    lhi_random_set(r, LHI_SETTING(0, "projection"), "%s", lhi_random_often(r, 2) ? "mean" : "conv");
    lhi_random_set(r, LHI_SETTING(0, "k"), "%lld", (long long)NUMBER("data", "length", 0) + 1);
    return true;
}

static bool rule_path(lh_random *r)
{
    static const char *const paths[] = {"", "nothing.there", ".", "/dev/null"};
    if (lhi_random_get(r, LHI_KEY("data", "path")) == NULL) return false;
    SET("data", "path", "%s", paths[lhi_random_below(r, 4)]);
    (void)snprintf(r->expected, sizeof r->expected, "data.path");
    return true;
}

static bool rule_max_length(lh_random *r)
{
    broken_plain(r);
    if (NUMBER("data", "length", 0) < 2 || word_is(r, "data", "task", "fasta")) return false;
    SET("model", "position", "learned");
    SET("model", "max_length", "%lld", (long long)NUMBER("data", "length", 0) - 1);
    return true;
}

static bool rule_vocab(lh_random *r)
{
    if (lhi_random_get(r, LHI_KEY("model", "vocab")) == NULL && word_is(r, "data", "vocab", "2"))
        return false;
    SET("model", "vocab", "1");
    (void)snprintf(r->expected, sizeof r->expected, "model.vocab");
    return true;
}

static bool rule_run_name(lh_random *r)
{
    static const char *const names[] = {"a/b", "..", "../x", ".hidden", "''", "\"a\\nb\"", "/etc"};
    SET("run", "name", "%s", names[lhi_random_below(r, 7)]);
    return true;
}

static bool rule_output(lh_random *r)
{
    SET("run", "output", "''");
    return true;
}

static bool rule_nothing_held(lh_random *r)
{
    if (lhi_random_get(r, LHI_KEY("data", "path")) == NULL) return false;
    lhi_random_drop(r, LHI_KEY("data", "valid_path"));
    SET("data", "valid_fraction", "0");
    SET("train", "eval_every", "1");
    return true;
}

static bool rule_no_windows(lh_random *r)
{
    if (lhi_random_get(r, LHI_KEY("data", "path")) != NULL) return false;
    SET("data", "valid_windows", "0");
    SET("train", "eval_every", "1");
    return true;
}

/* section, key: what the message must name, where the rule does not say it itself. */
static const struct {
    const char *name;
    bool (*apply)(lh_random *r);
    const char *section, *key;
} broken_rules[] = {{"another type", break_type, NULL, NULL},
                    {"out of range", break_range, NULL, NULL},
                    {"unknown key", break_unknown_key, NULL, NULL},
                    {"a key twice", break_twice, NULL, NULL},
                    {"a required key is missing", break_missing, NULL, NULL},
                    {"unknown section", break_section, NULL, NULL},
                    {"a section is no map", break_flat, NULL, NULL},
                    {"kv_heads do not divide heads", rule_kv_heads, "model", "kv_heads"},
                    {"rotary with odd heads", rule_rotary, "model", "position"},
                    {"sines with an odd width", rule_odd_width, "model", "position"},
                    {"heads do not divide width", rule_width, "model", "heads"},
                    {"batch does not fit", rule_batch, "data", "batch"},
                    {"groups of a ring", rule_group_of_ring, "mesh", "ulysses"},
                    {"three betas", rule_betas, "optimizer", "betas"},
                    {"the other kind of model", rule_kind, "data", "task"},
                    {"a head without a loss", rule_head, "model", "head"},
                    {"a causal classifier", rule_causal_class, "model", "head"},
                    {"classes of a language model", rule_classes, "model", "classes"},
                    {"no room in the sequence", rule_room, NULL, NULL},
                    {"documents with learned positions", rule_learned, "data", "documents"},
                    {"documents of a task without", rule_documents, "data", "documents"},
                    {"mesh.data does not divide the ranks", rule_data_ranks, NULL, NULL},
                    {"mesh.ulysses does not divide the ranks", rule_group, NULL, NULL},
                    {"a map too many", rule_maps, "model", "attention"},
                    {"a value too many", rule_per_layer, "attention", "window"},
                    {"no such mechanism", rule_mechanism, "attention", "mechanism"},
                    {"no mechanism at all", rule_no_mechanism, NULL, NULL},
                    {"what a mechanism cannot do", rule_caps, "attention", "mechanism"},
                    {"a global token behind the end", rule_global, NULL, "attention.global"},
                    {"dilations of other heads", rule_dilation, NULL, "attention.dilation"},
                    {"softmax without features", rule_features, NULL, "features"},
                    {"landmarks that do not fit", rule_landmarks, NULL, "attention.k"},
                    {"no such file", rule_path, NULL, NULL},
                    {"positions without a table", rule_max_length, "data", "length"},
                    {"too small a vocabulary", rule_vocab, NULL, NULL},
                    {"no plain name", rule_run_name, "run", "name"},
                    {"no output", rule_output, "run", "output"},
                    {"nothing to evaluate", rule_nothing_held, "data", "valid_fraction"},
                    {"no window to evaluate", rule_no_windows, "data", "valid_windows"}};
enum { BROKEN_RULES = sizeof broken_rules / sizeof broken_rules[0], BROKEN_COMMON = 7 };

void lhi_random_break(lh_random *r)
{
    const lh_random whole = *r;
    while (r->expected[0] == '\0') {
        /* mistakes in one key are as many as contradictions */
        int i = (int)(lhi_random_often(r, 2) ? lhi_random_below(r, BROKEN_COMMON)
                                             : lhi_random_below(r, BROKEN_RULES));
        uint64_t drawn = r->drawn;
        *r = whole;
        r->drawn = drawn;
        r->rule = broken_rules[i].name;
        if (!broken_rules[i].apply(r) || r->expected[0] != '\0') continue;
        if (broken_rules[i].section == NULL)
            (void)snprintf(r->expected, sizeof r->expected, "%s",
                           broken_rules[i].key != NULL ? broken_rules[i].key : "model.attention");
        else
            broken_expect(
                r, (lhi_random_key){strcmp(broken_rules[i].section, "attention") == 0 ? 0 : -1,
                                    broken_rules[i].section, broken_rules[i].key});
    }
}
