#include "io/yaml_internal.h"

#include <stdio.h>
#include <string.h>

enum { MERGE_ARGUMENT_SHOWN = 200, MERGE_KEY_MAX = 128 };

lh_status lh_yaml_merge(lh_yaml *y, lh_node *base, const lh_node *over)
{
    lh_status st = LH_OK;
    LH_CHECK(base->kind == LH_NODE_MAP && over->kind == LH_NODE_MAP, LH_ERR_BUG,
             "merge of something other than maps");
    for (int64_t k = 0; k < over->count; k++) {
        lh_node *key = over->key[k], *item = over->item[k];
        int64_t i = lhi_yaml_index(base, key->text);
        if (i < 0) {
            LH_TRY(lhi_yaml_add(y, base, key, item));
        } else if (lhi_yaml_is_removal(item)) {
            lhi_yaml_remove(base, i);
        } else if (item->kind == LH_NODE_MAP && base->item[i]->kind == LH_NODE_MAP) {
            LH_TRY(lh_yaml_merge(y, base->item[i], item));
            base->key[i] = key;
        } else {
            base->key[i] = key;
            base->item[i] = item;
        }
    }
    base->source = over->source;
    base->line = over->line;
    base->column = over->column;
done:
    return st;
}

/* One value on its way to its key: from a --set, or from a place in a file. */
typedef struct merge_set {
    lh_yaml *yaml;
    const char *source; /* of new nodes: "--set a.b=c", or the file */
    int line, column;
    const char *place;       /* what messages say of it */
    const char *expected;    /* what a key looks like */
    char key[MERGE_KEY_MAX]; /* the part of the path that is being looked at */
    lh_node *value;
    const lh_node *old; /* what the value replaces; NULL: nothing */
} merge_set;

/* Everything from a --set has the argument as its place. */
static void merge_stamp(lh_node *node, const char *source)
{
    node->source = source;
    node->line = node->column = 0;
    for (int64_t i = 0; i < node->count; i++) {
        if (node->key[i] != NULL) merge_stamp(node->key[i], source);
        merge_stamp(node->item[i], source);
    }
}

static lh_status merge_value(merge_set *s, const char *text)
{
    lh_status st = LH_OK;
    if (strspn(text, " \t") == strlen(text))
        return lhi_yaml_node(s->yaml, LH_NODE_SCALAR, s->source, 0, 0, &s->value);
    LH_TRY(lh_yaml_parse(s->yaml, text, strlen(text), s->source, &s->value));
    merge_stamp(s->value, s->source);
done:
    return st;
}

/* Take the first part off *path into s->key; *path becomes NULL at the end. */
static lh_status merge_part(merge_set *s, const char **path)
{
    lh_status st = LH_OK;
    size_t n = strcspn(*path, ".=");
    LH_CHECK(n > 0, LH_ERR_USAGE, "%s: a key is empty; expected %s", s->place, s->expected);
    LH_CHECK(n < sizeof s->key, LH_ERR_USAGE, "%s: a key is longer than %d characters", s->place,
             MERGE_KEY_MAX - 1);
    memcpy(s->key, *path, n);
    s->key[n] = '\0';
    *path = (*path)[n] == '.' ? *path + n + 1 : NULL;
done:
    return st;
}

/* The entry of `in` that s->key names; index -1: a map without it. */
static lh_status merge_entry(merge_set *s, const lh_node *in, int64_t *index)
{
    lh_status st = LH_OK;
    char shown[LH_SHOWN_MAX], place[LH_PLACE_MAX];
    *index = lhi_yaml_index(in, s->key);
    if (in->kind == LH_NODE_MAP) return LH_OK;
    LH_CHECK(in->kind == LH_NODE_LIST, LH_ERR_USAGE,
             "%s: '%s' would lie below the value %s (%s), which is no map", s->place, s->key,
             lh_node_shown(in, shown), lh_node_place(in, place));
    size_t n = strlen(s->key);
    bool number = n <= 6 && strspn(s->key, "0123456789") == n;
    *index = 0;
    for (size_t i = 0; number && i < n; i++) *index = 10 * *index + (s->key[i] - '0');
    LH_CHECK(number && *index < in->count, LH_ERR_USAGE,
             "%s: '%s' should name an element of the list at %s; expected an index from 0 to %lld",
             s->place, s->key, lh_node_place(in, place), (long long)in->count - 1);
done:
    return st;
}

/* Put item at the entry, or take the entry out. */
static lh_status merge_put(merge_set *s, lh_node *in, int64_t index, lh_node *item)
{
    lh_status st = LH_OK;
    lh_node *key = NULL;
    if (item == s->value && index >= 0) s->old = in->item[index];
    if (lhi_yaml_is_removal(item)) {
        if (index >= 0) lhi_yaml_remove(in, index);
        return LH_OK;
    }
    if (in->kind == LH_NODE_MAP) {
        LH_TRY(lhi_yaml_node(s->yaml, LH_NODE_SCALAR, s->source, s->line, s->column, &key));
        LH_TRY(lhi_yaml_text(s->yaml, s->key, strlen(s->key), &key->text));
    }
    if (index < 0) LH_TRY(lhi_yaml_add(s->yaml, in, key, item));
    if (index >= 0) {
        in->key[index] = key;
        in->item[index] = item;
    }
done:
    return st;
}

/* Walk down the path, and put the value there. */
static lh_status merge_walk(merge_set *s, lh_node *root, const char *path)
{
    lh_status st = LH_OK;
    for (lh_node *in = root;;) {
        int64_t index = -1;
        LH_TRY(merge_part(s, &path));
        LH_TRY(merge_entry(s, in, &index));
        if (path == NULL) {
            LH_TRY(merge_put(s, in, index, s->value));
            break;
        }
        lh_node *next = index >= 0 ? in->item[index] : NULL;
        if (next == NULL || lh_node_is_null(next)) {
            LH_TRY(lhi_yaml_node(s->yaml, LH_NODE_MAP, s->source, s->line, s->column, &next));
            LH_TRY(merge_put(s, in, index, next));
        }
        in = next;
    }
done:
    return st;
}

lh_status lh_yaml_override(lh_yaml *y, lh_node *root, const char *assignment)
{
    lh_status st = LH_OK;
    merge_set s = {.yaml = y, .expected = "--set section.key=value"};
    char shown[MERGE_ARGUMENT_SHOWN], place[MERGE_ARGUMENT_SHOWN + 8];
    const char *equals = strchr(assignment, '=');
    (void)snprintf(place, sizeof place, "--set %s", lh_text_shown(assignment, shown, sizeof shown));
    LH_TRY(lhi_yaml_text(y, place, strlen(place), &s.source));
    s.place = s.source;
    LH_CHECK(equals != NULL, LH_ERR_USAGE, "%s: expected %s", s.place, s.expected);
    LH_TRY(merge_value(&s, equals + 1));
    LH_TRY(merge_walk(&s, root, assignment));
done:
    return st;
}

lh_status lh_yaml_put(lh_yaml *y, lh_node *root, const lh_node *key, lh_node *value,
                      const lh_node **old)
{
    char place[LH_PLACE_MAX];
    merge_set s = {.yaml = y,
                   .source = key->source,
                   .line = key->line,
                   .column = key->column,
                   .place = lh_node_place(key, place),
                   .expected = "section.key",
                   .value = value};
    lh_status st = merge_walk(&s, root, key->text);
    *old = s.old;
    return st;
}
