#include "io/settings_internal.h"

#include <stdlib.h>
#include <string.h>

enum { FILL_KEY = 192, FILL_HINT = 700 };

static const char *fill_key(const lh_fill *how, const char *name, char *buf)
{
    char shown[LH_SHOWN_MAX];
    (void)lh_text_shown(name, shown, sizeof shown);
    (void)snprintf(buf, FILL_KEY, "%s%s%s", how->prefix, how->prefix[0] != '\0' ? "." : "", shown);
    return buf;
}

const lh_field *lh_field_find(const lh_field *fields, const char *name)
{
    for (const lh_field *f = fields; f->name != NULL; f++)
        if (strcmp(f->name, name) == 0) return f;
    return NULL;
}

static bool fill_is_other(const lh_fill *how, const char *name)
{
    for (const char *const *o = how->others; o != NULL && *o != NULL; o++)
        if (strcmp(*o, name) == 0) return true;
    return false;
}

static lh_status fill_unknown(const lh_fill *how, const lh_field *fields, const lh_node *key)
{
    char place[LH_PLACE_MAX], name[FILL_KEY], hint[FILL_HINT], other[FILL_HINT] = "";
    lh_words words = {.wrong = key->text};
    for (const lh_field *f = fields; f->name != NULL; f++) lh_words_add(&words, f->name);
    for (const char *const *o = how->others; o != NULL && *o != NULL; o++) lh_words_add(&words, *o);
    (void)lh_words_hint(&words, "known keys", hint, sizeof hint);
    if (how->elsewhere != NULL) (void)how->elsewhere(key->text, other, sizeof other);
    return LH_RAISE(LH_ERR_USAGE, "%s: key '%s': unknown key%s%s; %s", lh_node_place(key, place),
                    fill_key(how, key->text, name), how->owner != NULL ? " for " : "",
                    how->owner != NULL ? how->owner : "",
                    other[0] != '\0'  ? other
                    : hint[0] != '\0' ? hint
                                      : "no keys are known here");
}

static lh_status fill_known(const lh_fill *how, const lh_field *fields)
{
    lh_status st = LH_OK;
    char place[LH_PLACE_MAX], shown[LH_SHOWN_MAX];
    const lh_node *map = how->map;
    if (map == NULL) return LH_OK;
    LH_CHECK(map->kind == LH_NODE_MAP, LH_ERR_USAGE,
             "%s: key '%s': expected a map of settings, got %s", lh_node_place(map, place),
             how->prefix, lh_node_is_null(map) ? "no value" : lh_node_shown(map, shown));
    for (int64_t i = 0; i < map->count; i++) {
        const char *name = map->key[i]->text;
        if (lh_field_find(fields, name) == NULL && !fill_is_other(how, name))
            return fill_unknown(how, fields, map->key[i]);
    }
done:
    return st;
}

/* Of a per-layer list, this layer's element. */
static lh_status fill_layer(const lh_fill *how, lhi_value *v)
{
    lh_status st = LH_OK;
    char place[LH_PLACE_MAX];
    if (!v->field->per_layer || how->layers == 0 || v->node->kind != LH_NODE_LIST) return LH_OK;
    LH_CHECK(v->node->count == how->layers, LH_ERR_USAGE,
             "%s: key '%s': a list with %lld values; expected one value, or one for each of the %d "
             "layers%s",
             lh_node_place(v->node, place), v->key, (long long)v->node->count, how->layers,
             v->field->type == LH_FIELD_INTS || v->field->type == LH_FIELD_REALS
                 ? " (each may be a list: one per head)"
                 : "");
    v->node = v->node->item[how->layer];
done:
    return st;
}

static lh_status fill_given(const lh_fill *how, const lh_field *f, const lh_node *node, void *into)
{
    lh_status st = LH_OK;
    char name[FILL_KEY];
    lhi_value v = {f, node, fill_key(how, f->name, name), how->directory};
    LH_TRY(fill_layer(how, &v));
    LH_TRY(lhi_settings_value(&v, into));
done:
    return st;
}

static lh_status fill_default(const lh_fill *how, const lh_field *f, void *into)
{
    lh_status st = LH_OK;
    lh_yaml *y = NULL;
    char name[FILL_KEY];
    lh_node plain = {.kind = LH_NODE_SCALAR, .source = "default", .text = f->fallback};
    lh_node *node = &plain;
    lhi_value v = {f, node, fill_key(how, f->name, name), how->directory};
    if (f->type == LH_FIELD_INTS || f->type == LH_FIELD_REALS) {
        LH_TRY(lh_yaml_create(&y));
        LH_TRY(lh_yaml_parse(y, f->fallback, strlen(f->fallback), "default", &node));
        v.node = node;
    }
    LH_TRY(lhi_settings_value(&v, into));
done:
    lh_yaml_destroy(&y);
    if (st == LH_ERR_USAGE) st = LH_ERR_BUG; /* the text stays */
    return st;
}

static lh_status fill_missing(const lh_fill *how, const lh_field *f)
{
    char place[LH_PLACE_MAX], name[FILL_KEY], expected[320];
    const lh_node *at = how->map != NULL ? how->map : how->place;
    return LH_RAISE(LH_ERR_USAGE, "%s%skey '%s' is required but missing; expected %s (%s)",
                    at != NULL ? lh_node_place(at, place) : "", at != NULL ? ": " : "",
                    fill_key(how, f->name, name),
                    lhi_settings_expected(f, expected, sizeof expected),
                    f->help != NULL ? f->help : "no description");
}

lh_status lh_settings_fill(const lh_fill *how, const lh_field *fields, void *into)
{
    lh_status st = LH_OK;
    LH_TRY(fill_known(how, fields));
    for (const lh_field *f = fields; f->name != NULL; f++) {
        const lh_node *node = lh_node_find(how->map, f->name);
        if (node != NULL)
            LH_TRY(fill_given(how, f, node, into));
        else if (f->fallback != NULL)
            LH_TRY(fill_default(how, f, into));
        else
            LH_TRY(fill_missing(how, f));
    }
done:
    return st;
}

void lh_settings_free(const lh_field *fields, void *settings)
{
    if (fields == NULL || settings == NULL) return;
    for (const lh_field *f = fields; f->name != NULL; f++)
        if (f->type == LH_FIELD_STRING || f->type == LH_FIELD_PATH)
            lh_free((char *)settings + f->offset);
}
