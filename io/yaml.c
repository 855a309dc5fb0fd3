#include "io/yaml_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { YAML_BLOCK = 16384, YAML_ALIGN = 16, YAML_SOURCE_SHOWN = 280 };

typedef struct yaml_block {
    struct yaml_block *next;
    size_t used, size;
    char data[];
} yaml_block;

struct lh_yaml {
    yaml_block *blocks; /* newest first */
};

lh_status lh_yaml_create(lh_yaml **out)
{
    return lh_new(sizeof **out, out);
}

void lh_yaml_destroy(lh_yaml **yaml)
{
    if (*yaml == NULL) return;
    for (yaml_block *b = (*yaml)->blocks; b != NULL;) {
        yaml_block *next = b->next;
        lh_free(&b);
        b = next;
    }
    lh_free(yaml);
}

lh_status lhi_yaml_alloc(lh_yaml *y, size_t bytes, void *out)
{
    lh_status st = LH_OK;
    yaml_block *b = y->blocks;
    void *p = NULL;
    bytes = (bytes + YAML_ALIGN - 1) / YAML_ALIGN * YAML_ALIGN;
    if (b == NULL || b->size - b->used < bytes) {
        size_t size = bytes > YAML_BLOCK ? bytes : YAML_BLOCK;
        LH_TRY(lh_new(sizeof *b + size + YAML_ALIGN, &b));
        b->next = y->blocks;
        b->size = size + YAML_ALIGN;
        /* The header's size is no multiple of the alignment: the first bytes are skipped. */
        b->used = (YAML_ALIGN - (uintptr_t)b->data % YAML_ALIGN) % YAML_ALIGN;
        y->blocks = b;
    }
    p = b->data + b->used;
    b->used += bytes;
done:
    memcpy(out, &p, sizeof p);
    return st;
}

lh_status lhi_yaml_text(lh_yaml *y, const char *text, size_t count, const char **out)
{
    char *copy = NULL;
    lh_status st = lhi_yaml_alloc(y, count + 1, &copy);
    if (st == LH_OK && count > 0) memcpy(copy, text, count);
    *out = copy;
    return st;
}

lh_status lhi_yaml_node(lh_yaml *y, lh_node_kind kind, const char *source, int line, int column,
                        lh_node **out)
{
    lh_status st = lhi_yaml_alloc(y, sizeof **out, out);
    if (st != LH_OK) return st;
    (*out)->kind = kind;
    (*out)->source = source;
    (*out)->text = "";
    (*out)->line = line;
    (*out)->column = column;
    return LH_OK;
}

/* Old arrays stay behind in the block until the tree goes: at most as much again. */
static lh_status yaml_widen(lh_yaml *y, lh_node *node)
{
    lh_status st = LH_OK;
    lh_node **key = NULL, **item = NULL;
    int64_t capacity = node->capacity > 0 ? 2 * node->capacity : 8;
    size_t bytes = (size_t)capacity * sizeof *item;
    LH_TRY(lhi_yaml_alloc(y, bytes, &item));
    LH_TRY(lhi_yaml_alloc(y, bytes, &key));
    for (int64_t i = 0; i < node->count; i++) {
        item[i] = node->item[i];
        key[i] = node->key[i];
    }
    node->item = item;
    node->key = key;
    node->capacity = capacity;
done:
    return st;
}

lh_status lhi_yaml_add(lh_yaml *y, lh_node *into, lh_node *key, lh_node *item)
{
    lh_status st = LH_OK;
    if (into->count == into->capacity) LH_TRY(yaml_widen(y, into));
    into->key[into->count] = key;
    into->item[into->count++] = item;
done:
    return st;
}

int64_t lhi_yaml_index(const lh_node *map, const char *key)
{
    if (map == NULL || map->kind != LH_NODE_MAP) return -1;
    for (int64_t i = 0; i < map->count; i++)
        if (strcmp(map->key[i]->text, key) == 0) return i;
    return -1;
}

void lhi_yaml_remove(lh_node *from, int64_t i)
{
    from->count--;
    for (; i < from->count; i++) {
        from->key[i] = from->key[i + 1];
        from->item[i] = from->item[i + 1];
    }
}

lh_status lh_yaml_scalar(lh_yaml *y, const char *text, bool quoted, lh_node **out)
{
    lh_status st = LH_OK;
    LH_TRY(lhi_yaml_node(y, LH_NODE_SCALAR, "", 0, 0, out));
    LH_TRY(lhi_yaml_text(y, text, strlen(text), &(*out)->text));
    (*out)->quoted = quoted;
done:
    return st;
}

lh_status lh_yaml_list(lh_yaml *y, lh_node **out)
{
    return lhi_yaml_node(y, LH_NODE_LIST, "", 0, 0, out);
}

lh_status lh_yaml_map(lh_yaml *y, lh_node **out)
{
    return lhi_yaml_node(y, LH_NODE_MAP, "", 0, 0, out);
}

lh_status lh_yaml_append(lh_yaml *y, lh_node *list, lh_node *item)
{
    return lhi_yaml_add(y, list, NULL, item);
}

lh_status lh_yaml_set(lh_yaml *y, lh_node *map, const char *key, lh_node *item)
{
    lh_status st = LH_OK;
    lh_node *name = NULL;
    int64_t i = lhi_yaml_index(map, key);
    if (i >= 0) {
        map->item[i] = item;
        return LH_OK;
    }
    LH_TRY(lh_yaml_scalar(y, key, false, &name));
    LH_TRY(lhi_yaml_add(y, map, name, item));
done:
    return st;
}

lh_status lh_yaml_copy(lh_yaml *y, const lh_node *node, lh_node **out)
{
    lh_status st = LH_OK;
    LH_TRY(lhi_yaml_node(y, node->kind, node->source, node->line, node->column, out));
    (*out)->quoted = node->quoted;
    (*out)->text = node->text;
    for (int64_t i = 0; i < node->count; i++) {
        lh_node *key = NULL, *item = NULL;
        if (node->key[i] != NULL) LH_TRY(lh_yaml_copy(y, node->key[i], &key));
        LH_TRY(lh_yaml_copy(y, node->item[i], &item));
        LH_TRY(lhi_yaml_add(y, *out, key, item));
    }
done:
    return st;
}

lh_node *lh_node_find(const lh_node *map, const char *key)
{
    int64_t i = lhi_yaml_index(map, key);
    return i >= 0 ? map->item[i] : NULL;
}

/* The child that the first part of a dotted path names; *rest: what follows the dot, NULL at the
 * end. */
static const lh_node *yaml_step(const lh_node *node, const char *path, const char **rest)
{
    const char *dot = strchr(path, '.');
    size_t n = dot != NULL ? (size_t)(dot - path) : strlen(path);
    *rest = dot != NULL ? dot + 1 : NULL;
    for (int64_t i = 0; node->kind == LH_NODE_MAP && i < node->count; i++) {
        const char *key = node->key[i]->text;
        if (strlen(key) == n && memcmp(key, path, n) == 0) return node->item[i];
    }
    if (node->kind != LH_NODE_LIST || n == 0 || n > 6) return NULL;
    long i = 0;
    for (size_t c = 0; c < n; c++) {
        if (path[c] < '0' || path[c] > '9') return NULL;
        i = 10 * i + (path[c] - '0');
    }
    return i < node->count ? node->item[i] : NULL;
}

const lh_node *lh_node_at(const lh_node *root, const char *path)
{
    while (root != NULL && path != NULL) {
        const lh_node *next = yaml_step(root, path, &path);
        if (next == NULL) break;
        root = next;
    }
    return root;
}

bool lhi_yaml_is_removal(const lh_node *node)
{
    return node->kind == LH_NODE_SCALAR && !node->quoted &&
           (strcmp(node->text, "null") == 0 || strcmp(node->text, "~") == 0);
}

bool lh_node_is_null(const lh_node *node)
{
    return lhi_yaml_is_removal(node) ||
           (node->kind == LH_NODE_SCALAR && !node->quoted && node->text[0] == '\0');
}

/* Decimal digits only: strtod alone would take "inf", "nan" and hexadecimal. */
bool lh_node_number(const lh_node *node, double *out)
{
    char *end = NULL;
    if (node->kind != LH_NODE_SCALAR || node->quoted) return false;
    if (strspn(node->text, "0123456789+-.eE") != strlen(node->text)) return false;
    if (strpbrk(node->text, "0123456789") == NULL) return false;
    *out = strtod(node->text, &end);
    return *end == '\0' && isfinite(*out);
}

const char *lh_text_shown(const char *text, char *buf, size_t bytes)
{
    size_t n = 0;
    for (; text[n] != '\0' && n + 1 < bytes; n++) {
        unsigned char c = (unsigned char)text[n];
        buf[n] = text[n];
        if (c < 0x20 || c == 0x7f) buf[n] = '?';
    }
    buf[n] = '\0';
    if (text[n] == '\0' || bytes < 8) return buf;
    /* Do not cut a UTF-8 character in two. */
    for (n -= 3; n > 0 && ((unsigned char)buf[n] & 0xc0) == 0x80; n--) {
    }
    memcpy(buf + n, "...", 4);
    return buf;
}

const char *lh_node_place(const lh_node *node, char *buf)
{
    (void)lh_text_shown(node->source, buf, YAML_SOURCE_SHOWN);
    if (node->line > 0) {
        size_t n = strlen(buf);
        (void)snprintf(buf + n, LH_PLACE_MAX - n, ":%d:%d", node->line, node->column);
    }
    return buf;
}

const char *lh_node_shown(const lh_node *node, char *buf)
{
    char text[LH_SHOWN_MAX - 2];
    if (node->kind == LH_NODE_SCALAR)
        (void)snprintf(buf, LH_SHOWN_MAX, "'%s'", lh_text_shown(node->text, text, sizeof text));
    else
        (void)snprintf(buf, LH_SHOWN_MAX, "%s", node->kind == LH_NODE_LIST ? "a list" : "a map");
    return buf;
}
