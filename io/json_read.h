#pragma once
/* JSON text as a tree: what the program's own JSON lines are read back with.
 *
 * An item is followed by its members, each with its own; `items` says how many there are, itself
 * included, so the next sibling is item + item->items. Text is decoded and zero-terminated (an escaped
 * zero byte becomes U+FFFD, as does half a surrogate pair).
 *
 *     LH_TRY(lh_json_read(&tree, line, length));
 *     double loss = lh_json_number(tree.item, "loss");                 NaN where it is not there */
#include "core/status.h"

typedef enum lh_json_kind {
    LH_JSON_NULL,
    LH_JSON_BOOL,
    LH_JSON_NUMBER,
    LH_JSON_STRING,
    LH_JSON_LIST,
    LH_JSON_OBJECT
} lh_json_kind;

typedef struct lh_json_item {
    lh_json_kind kind;
    const char *key;  /* of a member of an object; else NULL */
    const char *text; /* STRING; NUMBER, BOOL, NULL: as written; else "" */
    double number;    /* NUMBER; BOOL: 0 or 1; else NaN */
    int64_t count;    /* members of LIST and OBJECT */
    int64_t items;
} lh_json_item;

typedef struct lh_json_tree {
    lh_json_item *item; /* the outermost value is item[0] */
    int64_t count, capacity;
    char *text, *raw; /* owned: decoded text, and pieces as they were written */
    int64_t room, raw_room, used, raw_used;
} lh_json_tree;

/* lh_json_read - one value, with white space around it, from text [count]. What the tree held before is
 * replaced, its memory used again; start with {0}. Local, pure. Errors: LH_ERR_FORMAT "byte N: ...";
 * LH_ERR_MEMORY; then the tree is empty. */
LH_NODISCARD lh_status lh_json_read(lh_json_tree *t, const char *text, size_t count);
void lh_json_tree_free(lh_json_tree *t);

/* lh_json_find - the member of an object; NULL when `object` is NULL, no object, or has none of this
 * name. lh_json_number - its number, NaN where there is none. lh_json_word - its string, NULL where there
 * is none. lh_json_at - member i of a list or object; NULL: there are fewer. Local. */
const lh_json_item *lh_json_find(const lh_json_item *object, const char *key);
double lh_json_number(const lh_json_item *object, const char *key);
const char *lh_json_word(const lh_json_item *object, const char *key);
const lh_json_item *lh_json_at(const lh_json_item *list, int64_t i);
