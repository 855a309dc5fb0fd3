#include "experiments/config_change.h"

#include "experiments/config_internal.h"

#include <string.h>

enum { CHANGE_KEY = 128, CHANGE_VALUE = 160, CHANGE_TAIL = 8 };

static const struct change_group {
    lh_key_rule rule;
    const char *keys; /* "a|b|c" */
} change_groups[] = {
    /* Which samples there are and in which order: some would come twice, and others never. */
    {LH_KEY_FIXED,
     "run.seed|data.task|data.length|data.valid_fraction|data.mask|data.documents|data.vocab|data."
     "lag|"
     "data.gap|data.offsets|data.pairs|data.filler|data.items|data.place|data.tree_depth|"
     "data.tree_args|data.longer_than|data.shorter_than"},
    /* With a validation file all of data.path is trained on, without one a part of it. */
    {LH_KEY_GIVEN, "data.valid_path"},
    /* What is computed from the weights. */
    {LH_KEY_FIXED,
     "model.kind|model.head|model.vocab|model.layers|model.width|model.heads|model.kv_heads|"
     "model.head_width|model.mlp|model.mlp_width|model.norm|model.norm_kind|model.position|"
     "model.max_length|model.tie_embeddings|model.bias|model.dropout|model.norm_eps|"
     "model.position_offset|model.rotary_base|model.token_types|model.head_transform|model.pool|"
     "model.pooler|model.classes"},
    /* What the moments are, and what is minimised. */
    {LH_KEY_FIXED, "optimizer.kind|optimizer.betas|optimizer.eps|optimizer.weight_decay"},
    /* How the training goes on from here: whoever prolongs it, or saves it from diverging, changes
     * these. Samples stay in their order: a larger batch takes more of them at a time. */
    {LH_KEY_NOTED, "optimizer.lr|optimizer.clip|schedule.kind|schedule.warmup|schedule.steps|"
                   "schedule.final_lr|data.batch"},
    /* How numbers are rounded: more than the order of a sum. */
    {LH_KEY_NOTED, "device.isa|device.store"},
    /* How the work is done: the same sums, in another order at most. */
    {LH_KEY_FREE, "mesh.data|mesh.layout|mesh.align|mesh.chunk|mesh.exchange|mesh.ulysses|"
                  "train.recompute|train.accumulate|device.kind|device.threads"},
    /* Where files lie (of data.path the size is compared), what is reported and what is kept. */
    {LH_KEY_FREE, "run.name|run.output|run.init|data.path|data.test_path|data.valid_windows|"
                  "train.log_every|train.eval_every|train.eval_tokens|train.stall_seconds|"
                  "train.time_limit|train.on_nonfinite|checkpoint.every|checkpoint.keep"},
};

static bool change_listed(const char *keys, const char *key)
{
    size_t n = strlen(key);
    for (const char *at = keys;; at += strcspn(at, "|") + 1) {
        size_t length = strcspn(at, "|");
        if (length == n && memcmp(at, key, n) == 0) return true;
        if (at[length] == '\0') return false;
    }
}

lh_key_rule lh_key_rule_of(const char *key)
{
    for (size_t i = 0; i < sizeof change_groups / sizeof change_groups[0]; i++)
        if (change_listed(change_groups[i].keys, key)) return change_groups[i].rule;
    return strncmp(key, "model.attention.", 16) == 0 ? LH_KEY_FIXED : LH_KEY_UNKNOWN;
}

int lh_key_rule_count(void)
{
    int count = 0;
    for (size_t i = 0; i < sizeof change_groups / sizeof change_groups[0]; i++) {
        count++;
        for (const char *at = change_groups[i].keys; *at != '\0'; at++) count += *at == '|';
    }
    return count;
}

void lh_change_add(lh_change_list *list, const char *key, const char *was, const char *is)
{
    size_t used = strlen(list->text);
    size_t room = sizeof list->text - CHANGE_TAIL - used;
    list->count++;
    if (list->cut) return;
    int n = snprintf(list->text + used, room, "\n  %s was %s, is %s", key, was, is);
    list->cut = n < 0 || (size_t)n >= room;
    if (list->cut) (void)snprintf(list->text + used, CHANGE_TAIL, "\n  ...");
}

/* One key of a section. A key in no class is as good as fixed: the safe side. */
static void change_field(const char *section, const lh_field *f, const void *was, const void *is,
                         lh_change_list *broken, lh_change_list *noted)
{
    char key[CHANGE_KEY], before[CHANGE_VALUE], now[CHANGE_VALUE];
    if (lh_field_equal(f, was, is)) return;
    (void)snprintf(key, sizeof key, "%s.%s", section, f->name);
    (void)lh_field_text(f, was, before, sizeof before);
    (void)lh_field_text(f, is, now, sizeof now);
    lh_key_rule rule = lh_key_rule_of(key);
    bool appears = (strcmp(before, "none") == 0) != (strcmp(now, "none") == 0);
    if (rule == LH_KEY_FREE || (rule == LH_KEY_GIVEN && !appears)) return;
    lh_change_add(rule == LH_KEY_NOTED ? noted : broken, key, before, now);
}

/* --- model.attention, layer by layer --- */

typedef struct change_pair {
    const lh_attn_choice *was, *is; /* [layers] */
    int layers;
} change_pair;

/* Differs the setting f of mechanism ops in this layer? f NULL: differs the mechanism? */
static bool change_differs(const change_pair *p, const lh_attn_ops *ops, const lh_field *f,
                           int layer)
{
    const lh_attn_choice *a = &p->was[layer], *b = &p->is[layer];
    if (f == NULL) return a->ops != b->ops;
    return a->ops == ops && b->ops == ops && !lh_field_equal(f, a->settings, b->settings);
}

/* Two layers that differ: do they in the same way? */
static bool change_alike(const change_pair *p, const lh_field *f, int one, int other)
{
    const lh_attn_choice *a = &p->was[one], *b = &p->is[one];
    const lh_attn_choice *c = &p->was[other], *d = &p->is[other];
    if (f == NULL) return a->ops == c->ops && b->ops == d->ops;
    return lh_field_equal(f, a->settings, c->settings) &&
           lh_field_equal(f, b->settings, d->settings);
}

static void change_say(const change_pair *p, const lh_field *f, int first, int last,
                       lh_change_list *broken)
{
    char key[CHANGE_KEY], before[CHANGE_VALUE], now[CHANGE_VALUE], layers[32] = "";
    const lh_attn_choice *a = &p->was[first], *b = &p->is[first];
    if (first > 0 || last < p->layers - 1)
        (void)snprintf(layers, sizeof layers, first == last ? "%d." : "%d-%d.", first, last);
    (void)snprintf(key, sizeof key, "model.attention.%s%s", layers,
                   f != NULL ? f->name : "mechanism");
    lh_change_add(broken, key,
                  f != NULL ? lh_field_text(f, a->settings, before, sizeof before) : a->ops->name,
                  f != NULL ? lh_field_text(f, b->settings, now, sizeof now) : b->ops->name);
}

static void change_layers(const change_pair *p, const lh_attn_ops *ops, const lh_field *f,
                          lh_change_list *broken)
{
    for (int first = 0; first < p->layers; first++) {
        int last = first;
        if (!change_differs(p, ops, f, first)) continue;
        while (last + 1 < p->layers && change_differs(p, ops, f, last + 1) &&
               change_alike(p, f, first, last + 1))
            last++;
        change_say(p, f, first, last, broken);
        first = last;
    }
}

/* All settings of all mechanisms. */
static void change_attention(const lh_config *was, const lh_config *is, lh_change_list *list)
{
    int64_t layers = was->model.layers < is->model.layers ? was->model.layers : is->model.layers;
    change_pair pair = {was->model.attention, is->model.attention, (int)layers};
    change_layers(&pair, NULL, NULL, list);
    for (int i = 0; i < lh_attn_count(); i++)
        for (const lh_field *f = lh_attn_at(i)->settings; f->name != NULL; f++)
            change_layers(&pair, lh_attn_at(i), f, list);
}

void lh_config_changes(const lh_config *was, const lh_config *is, lh_change_list *broken,
                       lh_change_list *noted)
{
    for (const lhi_config_section *s = lhi_config_sections(); s->name != NULL; s++)
        for (const lh_field *f = s->fields; f->name != NULL; f++)
            change_field(s->name, f, (const char *)was + s->offset, (const char *)is + s->offset,
                         broken, noted);
    change_attention(was, is, broken);
}

void lh_config_other_model(const lh_config *was, const lh_config *is, lh_change_list *list)
{
    char key[CHANGE_KEY], before[CHANGE_VALUE], now[CHANGE_VALUE];
    for (const lhi_config_section *s = lhi_config_sections(); s->name != NULL; s++) {
        bool whole = strcmp(s->name, "model") == 0 || strcmp(s->name, "data") == 0;
        for (const lh_field *f = s->fields; f->name != NULL; f++) {
            const void *a = (const char *)was + s->offset, *b = (const char *)is + s->offset;
            (void)snprintf(key, sizeof key, "%s.%s", s->name, f->name);
            if (!whole && strcmp(key, "run.seed") != 0) continue;
            if (lh_field_equal(f, a, b) || lh_key_rule_of(key) == LH_KEY_NOTED) continue;
            lh_change_add(list, key, lh_field_text(f, a, before, sizeof before),
                          lh_field_text(f, b, now, sizeof now));
        }
    }
    change_attention(was, is, list);
}
