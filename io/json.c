#include "io/metrics.h"

#include "core/tensor.h"
#include "io/json_read.h"
#include "io/utf8.h"
#include "io/yaml.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef LH_PRECISION_DOUBLE
enum { json_digits = 17 };
#else
enum { json_digits = 9 };
#endif

static void json_add(lh_json *j, const char *text, size_t n)
{
    if (j->st != LH_OK) return;
    j->st = lh_grow(&j->text, &j->capacity, j->length + (int64_t)n + 1, 1);
    if (j->st != LH_OK) return;
    memcpy(j->text + j->length, text, n);
    j->length += (int64_t)n;
    j->text[j->length] = '\0';
}

static void json_put(lh_json *j, const char *text)
{
    json_add(j, text, strlen(text));
}

static void json_quote(lh_json *j, const char *value)
{
    char code[8];
    const char *s = value;
    json_put(j, "\"");
    while (*s != '\0' && j->st == LH_OK) {
        size_t n = lhi_utf8((const unsigned char *)s);
        if (*s == '"' || *s == '\\') {
            json_put(j, "\\");
            json_add(j, s, 1);
        } else if (*s == '\n') {
            json_put(j, "\\n");
        } else if (n == 0) {
            json_put(j, "\\ufffd");
        } else if (n == 1 && ((unsigned char)*s < 0x20 || *s == 0x7F)) {
            (void)snprintf(code, sizeof code, "\\u%04x", (unsigned)(unsigned char)*s);
            json_put(j, code);
        } else {
            json_add(j, s, n);
        }
        s += n > 0 ? n : 1;
    }
    json_put(j, "\"");
}

/* Comma and key before a value. */
static void json_key(lh_json *j, const char *key)
{
    if (j->st != LH_OK) return;
    bool array = j->depth > 0 && j->closing[j->depth - 1] == ']';
    if (j->depth == 0 || array != (key == NULL)) {
        j->st =
            LH_RAISE(LH_ERR_BUG, "JSON member '%s' %s", key != NULL ? key : "(none)",
                     j->depth == 0 ? "after the end" : "in an array, or without key in an object");
        return;
    }
    if (!j->first[j->depth - 1]) json_put(j, ",");
    j->first[j->depth - 1] = false;
    if (key == NULL) return;
    json_quote(j, key);
    json_put(j, ":");
}

static void json_open(lh_json *j, char opening, char closing)
{
    if (j->st != LH_OK) return;
    if (j->depth == LH_JSON_DEPTH) {
        j->st = LH_RAISE(LH_ERR_BUG, "JSON deeper than %d", LH_JSON_DEPTH);
        return;
    }
    json_add(j, &opening, 1);
    j->closing[j->depth] = closing;
    j->first[j->depth++] = true;
}

void lh_json_begin(lh_json *j)
{
    j->st = LH_OK;
    j->length = 0;
    j->depth = 0;
    json_open(j, '{', '}');
}

static void json_number(lh_json *j, double value)
{
    char text[40];
    (void)snprintf(text, sizeof text, "%.*g", (int)json_digits, value);
    json_put(j, isfinite(value) ? text : "null");
}

void lh_json_real(lh_json *j, const char *key, double value)
{
    json_key(j, key);
    json_number(j, value);
}

void lhi_json_shortest(double x, char text[LHI_JSON_NUMBER])
{
    for (int digits = 15; digits <= 17; digits++) {
        (void)snprintf(text, LHI_JSON_NUMBER, "%.*g", digits, x);
        if (strtod(text, NULL) == x) break;
    }
}

static void json_integer(lh_json *j, int64_t value)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%lld", (long long)value);
    json_put(j, text);
}

void lh_json_int(lh_json *j, const char *key, int64_t value)
{
    json_key(j, key);
    json_integer(j, value);
}

void lh_json_bool(lh_json *j, const char *key, bool value)
{
    json_key(j, key);
    json_put(j, value ? "true" : "false");
}

void lh_json_string(lh_json *j, const char *key, const char *value)
{
    json_key(j, key);
    json_quote(j, value);
}

void lh_json_ints(lh_json *j, const char *key, const int64_t *values, int64_t count)
{
    lh_json_array(j, key);
    for (int64_t i = 0; i < count; i++) lh_json_int(j, NULL, values[i]);
    lh_json_close(j);
}

void lh_json_reals(lh_json *j, const char *key, const double *values, int64_t count)
{
    lh_json_array(j, key);
    for (int64_t i = 0; i < count; i++) lh_json_real(j, NULL, values[i]);
    lh_json_close(j);
}

/* A plain scalar of YAML: a number, true, false, null, or else a word. */
static void json_plain(lh_json *j, const lh_node *node)
{
    char text[LHI_JSON_NUMBER];
    double x = 0.0;
    bool literal = strcmp(node->text, "true") == 0 || strcmp(node->text, "false") == 0;
    if (lh_node_is_null(node)) {
        json_put(j, "null");
    } else if (literal) {
        json_put(j, node->text);
    } else if (lh_node_number(node, &x)) {
        lhi_json_shortest(x, text);
        json_put(j, text);
    } else {
        json_quote(j, node->text);
    }
}

void lh_json_node(lh_json *j, const char *key, const lh_node *node)
{
    if (node->kind == LH_NODE_SCALAR) {
        json_key(j, key);
        if (node->quoted)
            json_quote(j, node->text);
        else
            json_plain(j, node);
        return;
    }
    if (node->kind == LH_NODE_LIST)
        lh_json_array(j, key);
    else
        lh_json_object(j, key);
    for (int64_t i = 0; i < node->count; i++)
        lh_json_node(j, node->kind == LH_NODE_MAP ? node->key[i]->text : NULL, node->item[i]);
    lh_json_close(j);
}

void lh_json_copy(lh_json *j, const char *key, const lh_json_item *item)
{
    char text[LHI_JSON_NUMBER];
    lh_json_kind kind = lh_json_item_kind(item);
    bool holds = kind == LH_JSON_LIST || kind == LH_JSON_OBJECT;
    if (j->st != LH_OK) return;
    if (holds && j->depth == LH_JSON_DEPTH) { /* the file's fault, not ours */
        j->st = LH_RAISE(LH_ERR_FORMAT, "JSON that is deeper than %d", (int)LH_JSON_DEPTH);
    } else if (kind == LH_JSON_OBJECT) {
        lh_json_object(j, key);
        for (lh_json_member m = {0}; lh_json_next(item, &m);) lh_json_copy(j, m.key, m.item);
        lh_json_close(j);
    } else if (kind == LH_JSON_LIST) {
        lh_json_array(j, key);
        for (int64_t i = 0; i < lh_json_count(item); i++)
            lh_json_copy(j, NULL, lh_json_at(item, i));
        lh_json_close(j);
    } else if (kind == LH_JSON_STRING) {
        lh_json_string(j, key, lh_json_item_word(item));
    } else { /* for people and in JSON alike */
        json_key(j, key);
        json_put(j, lh_json_show(item, text, sizeof text));
    }
}

void lh_json_object(lh_json *j, const char *key)
{
    json_key(j, key);
    json_open(j, '{', '}');
}

void lh_json_array(lh_json *j, const char *key)
{
    json_key(j, key);
    json_open(j, '[', ']');
}

void lh_json_close(lh_json *j)
{
    if (j->st != LH_OK) return;
    if (j->depth <= 1) {
        j->st = LH_RAISE(LH_ERR_BUG, "JSON closed more often than opened");
        return;
    }
    json_add(j, &j->closing[--j->depth], 1);
}

lh_status lh_json_text(lh_json *j, const char **text)
{
    *text = NULL;
    if (j->st == LH_OK && j->depth > 1)
        j->st = LH_RAISE(LH_ERR_BUG, "JSON text asked for with %d members open", j->depth - 1);
    if (j->st == LH_OK && j->depth == 1) {
        json_put(j, "}");
        j->depth = 0;
    }
    if (j->st == LH_OK) *text = j->text;
    return j->st;
}

lh_status lh_json_print(lh_json *j, FILE *out)
{
    lh_status st = LH_OK;
    const char *text = NULL;
    LH_TRY(lh_json_text(j, &text));
    LH_CHECK(fprintf(out, "%s\n", text) > 0 && fflush(out) == 0, LH_ERR_IO,
             "a line of results cannot be written: is the disk full?");
done:
    return st;
}

void lh_json_free(lh_json *j)
{
    lh_free(&j->text);
    *j = (lh_json){0};
}
