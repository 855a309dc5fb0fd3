#include "experiments/config_internal.h"

#include <string.h>

static lh_status attention_unknown(const lh_node *node, const char *key)
{
    char place[LH_PLACE_MAX], shown[LH_SHOWN_MAX], hint[600], all[600];
    lh_words words = {.wrong = node->text};
    for (int i = 0; i < lh_attn_count(); i++) lh_words_add(&words, lh_attn_at(i)->name);
    (void)lh_words_hint(&words, "", hint, sizeof hint);
    (void)snprintf(all, sizeof all, "this build has: %s", words.all);
    return LH_RAISE(LH_ERR_USAGE, "%s: key '%s.mechanism': unknown mechanism %s; %s%s%s",
                    lh_node_place(node, place), key, lh_node_shown(node, shown),
                    words.near[0] != '\0' ? hint : "", words.near[0] != '\0' ? " " : "", all);
}

static lh_status attention_mechanism(const lh_node *map, const char *key, const lh_attn_ops **ops)
{
    lh_status st = LH_OK;
    char place[LH_PLACE_MAX], shown[LH_SHOWN_MAX];
    bool named = map->kind == LH_NODE_SCALAR && lh_attn_find(map->text) != NULL;
    LH_CHECK(map->kind == LH_NODE_MAP, LH_ERR_USAGE,
             "%s: key '%s': expected {mechanism: %s, settings...}, or a list of them with one "
             "per layer, got %s",
             lh_node_place(map, place), key, named ? map->text : "NAME",
             lh_node_is_null(map) ? "no value" : lh_node_shown(map, shown));
    const lh_node *name = lh_node_find(map, "mechanism");
    LH_CHECK(name != NULL, LH_ERR_USAGE,
             "%s: key '%s.mechanism' is required but missing; expected a mechanism's name",
             lh_node_place(map, place), key);
    LH_CHECK(name->kind == LH_NODE_SCALAR && !lh_node_is_null(name), LH_ERR_USAGE,
             "%s: key '%s.mechanism': expected a mechanism's name, got %s",
             lh_node_place(name, place), key,
             lh_node_is_null(name) ? "no value" : lh_node_shown(name, shown));
    *ops = lh_attn_find(name->text);
    if (*ops == NULL) return attention_unknown(name, key);
    LH_CHECK((*ops)->settings != NULL, LH_ERR_BUG, "mechanism '%s' has no table of settings",
             (*ops)->name);
done:
    return st;
}

static lh_status attention_layer(const lh_fill *how, lh_attn_choice *choice)
{
    static const char *const others[] = {"mechanism", NULL};
    lh_status st = LH_OK;
    char owner[LH_SHOWN_MAX];
    lh_fill fill = *how;
    LH_TRY(attention_mechanism(fill.map, fill.prefix, &choice->ops));
    (void)snprintf(owner, sizeof owner, "mechanism '%s'", choice->ops->name);
    fill.owner = owner;
    fill.others = others;
    LH_TRY(lh_new(choice->ops->settings_bytes, &choice->settings));
    LH_TRY(lh_settings_fill(&fill, choice->ops->settings, choice->settings));
done:
    return st;
}

lh_status lhi_config_attention(const lh_node *root, const char *directory, lh_model_desc *model)
{
    lh_status st = LH_OK;
    char place[LH_PLACE_MAX], prefix[64] = "model.attention";
    const lh_node *section = lh_node_find(root, "model"),
                  *node = lh_node_find(section, "attention");
    int layers = (int)model->layers;
    LH_CHECK(node != NULL, LH_ERR_USAGE,
             "%s: key 'model.attention' is required but missing; expected {mechanism: NAME, "
             "settings...}, or a list "
             "of them with one per layer",
             lh_node_place(section != NULL ? section : root, place));
    bool list = node->kind == LH_NODE_LIST;
    LH_CHECK(
        !list || node->count == layers, LH_ERR_USAGE,
        "%s: key 'model.attention': a list with %lld maps; expected one for each of the %d layers",
        lh_node_place(node, place), (long long)node->count, layers);
    for (int layer = 0; layer < layers; layer++) {
        lh_fill how = {.map = list ? node->item[layer] : node,
                       .prefix = prefix,
                       .directory = directory,
                       .elsewhere = lhi_config_elsewhere,
                       .layers = list ? 0 : layers,
                       .layer = layer};
        if (list) (void)snprintf(prefix, sizeof prefix, "model.attention.%d", layer);
        LH_TRY(attention_layer(&how, &model->attention[layer]));
    }
done:
    return st;
}

/* Can one map speak for all layers? A list of values in it would be read as one per layer. */
static bool attention_is_uniform(const lh_model_desc *m)
{
    const lh_attn_choice *first = &m->attention[0];
    for (int64_t i = 1; i < m->layers; i++) {
        const lh_attn_choice *other = &m->attention[i];
        if (other->ops != first->ops ||
            !lh_settings_equal(first->ops->settings, first->settings, other->settings))
            return false;
    }
    for (const lh_field *f = first->ops->settings; f->name != NULL; f++) {
        const void *at = (const char *)first->settings + f->offset;
        if (f->per_layer && f->type == LH_FIELD_INTS && ((const lh_int_list *)at)->word < 0 &&
            ((const lh_int_list *)at)->count != 1)
            return false;
        if (f->per_layer && f->type == LH_FIELD_REALS && ((const lh_real_list *)at)->count != 1)
            return false;
    }
    return true;
}

static lh_status attention_emit_layer(lh_yaml *y, const lh_attn_choice *choice, bool as_layer,
                                      lh_node **out)
{
    lh_status st = LH_OK;
    lh_node *name = NULL;
    LH_TRY(lh_yaml_map(y, out));
    LH_TRY(lh_yaml_scalar(y, choice->ops->name, false, &name));
    LH_TRY(lh_yaml_set(y, *out, "mechanism", name));
    LH_TRY(lh_settings_emit(y, choice->ops->settings, choice->settings, as_layer, *out));
done:
    return st;
}

lh_status lhi_config_emit_attention(lh_yaml *y, const lh_model_desc *model, lh_node **out)
{
    lh_status st = LH_OK;
    if (attention_is_uniform(model))
        return attention_emit_layer(y, &model->attention[0], false, out);
    LH_TRY(lh_yaml_list(y, out));
    for (int64_t i = 0; i < model->layers; i++) {
        lh_node *map = NULL;
        LH_TRY(attention_emit_layer(y, &model->attention[i], true, &map));
        LH_TRY(lh_yaml_append(y, *out, map));
    }
done:
    return st;
}
