#pragma once
/* YAML text as a tree whose every node knows where it was written, so that a later check can name
 * the place.
 *
 * What is read is plain data: maps with unique keys, lists, scalars. Anchors, aliases, tags and
 * several documents are
 * refused, and so is anything too large or too deep to be an experiment file. Scalars stay text:
 * the reader of a
 * setting knows the type it wants. All nodes live in one lh_yaml and go with it. */
#include "core/status.h"

enum {
    LH_YAML_MAX_BYTES = 1 << 20,
    LH_YAML_MAX_DEPTH = 32,
    LH_YAML_MAX_NODES = 100000,
    LH_YAML_MAX_KEYS = 1000, /* of one map */
    LH_PLACE_MAX = 320,      /* bytes for lh_node_place */
    LH_SHOWN_MAX = 80        /* bytes for lh_text_shown */
};

typedef struct lh_yaml lh_yaml;
typedef enum lh_node_kind { LH_NODE_SCALAR, LH_NODE_LIST, LH_NODE_MAP } lh_node_kind;

typedef struct lh_node lh_node;
struct lh_node {
    lh_node_kind kind;
    bool quoted;        /* SCALAR: written in quotes (or as a block), so it is a string */
    int line, column;   /* from 1; 0: `source` alone is the place */
    const char *source; /* file name, or "--set a.b=c" */
    const char *text;   /* SCALAR: UTF-8 without zero bytes */
    int64_t count, capacity;
    lh_node **key;  /* MAP [count]: scalars */
    lh_node **item; /* LIST, MAP [count] */
};

/* lh_yaml_create - an owner of nodes, empty. Local. The caller destroys *out. Errors:
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_yaml_create(lh_yaml **out);

/* lh_yaml_destroy - release all nodes and null the handle. Local. */
void lh_yaml_destroy(lh_yaml **yaml);

/* lh_yaml_parse - one YAML document. name: how messages call the text.
 * Local, pure. bytes [count] need no closing zero and are not kept. *out: borrowed from y.
 * Errors: LH_ERR_USAGE "name:line:column: ..." for anything that is not one document of plain
 * data; LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_yaml_parse(lh_yaml *y, const char *bytes, size_t count, const char *name,
                                     lh_node **out);

/* lh_yaml_merge - put `over` on top of `base`, in place: maps merge key by key, lists and scalars
 * replace, a plain null
 * (null or ~) removes the key.
 * Local. Both are maps of y; base keeps using nodes of over. Errors: LH_ERR_BUG, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_yaml_merge(lh_yaml *y, lh_node *base, const lh_node *over);

/* lh_yaml_override - carry out "a.b=c" below root, a map: c is YAML and replaces what is there
 * (null or ~ removes it),
 * missing maps on the way are made, elements of a list are named by their index from 0.
 * Local. New nodes name "--set a.b=c" as their place. Errors: LH_ERR_USAGE naming the argument;
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_yaml_override(lh_yaml *y, lh_node *root, const char *assignment);

/* lh_yaml_put - the same with a dotted key and a value that stand in a file: new nodes have key's place.
 * Local. root and value: of y, and value comes to lie in root. *old: what lay there, NULL: nothing.
 * Errors: LH_ERR_USAGE naming the place; LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_yaml_put(lh_yaml *y, lh_node *root, const lh_node *key, lh_node *value,
                                   const lh_node **old);

/* lh_yaml_copy - a tree of its own with the same places; its texts are borrowed from the old one.
 * Local. Errors: LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_yaml_copy(lh_yaml *y, const lh_node *node, lh_node **out);

/* lh_yaml_emit - a map as YAML text: two levels of maps and all lists of maps in block style, the
 * rest in flow style.
 * Local. *text: zero-terminated, the caller releases it with lh_free. Errors: LH_ERR_MEMORY,
 * LH_ERR_BUG. */
LH_NODISCARD lh_status lh_yaml_emit(const lh_node *map, char **text);

/* lh_yaml_scalar, _list, _map - new nodes without a place. Local. text is copied. Errors:
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_yaml_scalar(lh_yaml *y, const char *text, bool quoted, lh_node **out);
LH_NODISCARD lh_status lh_yaml_list(lh_yaml *y, lh_node **out);
LH_NODISCARD lh_status lh_yaml_map(lh_yaml *y, lh_node **out);

/* lh_yaml_append, lh_yaml_set - add an item to a list; set a key of a map. Local. Errors:
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_yaml_append(lh_yaml *y, lh_node *list, lh_node *item);
LH_NODISCARD lh_status lh_yaml_set(lh_yaml *y, lh_node *map, const char *key, lh_node *item);

/* lh_node_find - the value of a key; NULL when `map` is NULL, no map, or has no such key. Local. */
lh_node *lh_node_find(const lh_node *map, const char *key);

/* lh_node_at - the value at "a.b.0.c", or the deepest existing node on the way there. Local.
 * NULL only for NULL. */
const lh_node *lh_node_at(const lh_node *root, const char *path);

/* lh_node_is_null - a plain scalar that says null, ~ or nothing at all? Local. */
bool lh_node_is_null(const lh_node *node);

/* lh_node_number - is it a plain decimal number, and finite? Local. */
bool lh_node_number(const lh_node *node, double *out);

/* lh_node_place - "file:line:column" or "--set a.b=c" into buf (LH_PLACE_MAX bytes); returns
 * buf. Local. */
const char *lh_node_place(const lh_node *node, char *buf);

/* lh_node_shown - what the node says, for a message: the text in quotes and shortened, or "a list",
 * "a map".
 * Local. buf: LH_SHOWN_MAX bytes; returns buf. */
const char *lh_node_shown(const lh_node *node, char *buf);

/* lh_text_shown - text with control characters replaced, shortened to `bytes` - 1. Local.
 * Returns buf. */
const char *lh_text_shown(const char *text, char *buf, size_t bytes);
