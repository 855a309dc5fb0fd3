#include "io/settings_internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VALUE_EXPECTED = 320 };
#define VALUE_LARGEST 1e37

static void *value_at(const lhi_value *v, void *into)
{
    return (char *)into + v->field->offset;
}

/* " >= 1", " from 0 to 1", " greater than 0 and less than 1", or nothing. */
static void value_range(const lh_field *f, char *buf, size_t bytes)
{
    bool above = f->min == LH_ABOVE_ZERO, below = f->max == LH_BELOW_ONE;
    buf[0] = '\0';
    if (f->min == f->max) return;
    if (!above && !below && f->max < LH_NO_LIMIT && f->min > -LH_NO_LIMIT) {
        (void)snprintf(buf, bytes, " from %.15g to %.15g", f->min, f->max);
        return;
    }
    if (above)
        (void)snprintf(buf, bytes, " greater than 0");
    else if (f->min > -LH_NO_LIMIT)
        (void)snprintf(buf, bytes, " >= %.15g", f->min);
    size_t n = strlen(buf);
    if (below)
        (void)snprintf(buf + n, bytes - n, "%s less than 1", n > 0 ? " and" : "");
    else if (f->max < LH_NO_LIMIT)
        (void)snprintf(buf + n, bytes - n, "%s <= %.15g", n > 0 ? " and" : "", f->max);
}

static void value_choices(const lh_field *f, char *buf, size_t bytes)
{
    lh_words words = {.wrong = ""};
    lh_words_add(&words, f->choices);
    (void)snprintf(buf, bytes, strchr(f->choices, '|') != NULL ? "one of: %s" : "%s", words.all);
}

const char *lhi_settings_expected(const lh_field *field, char *buf, size_t bytes)
{
    static const char *const nouns[] = {
        [LH_FIELD_INT] = "an integer",          [LH_FIELD_REAL] = "a number",
        [LH_FIELD_BOOL] = "true or false",      [LH_FIELD_CHOICE] = "",
        [LH_FIELD_STRING] = "a text",           [LH_FIELD_PATH] = "a path",
        [LH_FIELD_INTS] = "a list of integers", [LH_FIELD_REALS] = "a list of numbers"};
    char range[128] = "", words[VALUE_EXPECTED] = "";
    bool ints = field->type == LH_FIELD_INTS, reals = field->type == LH_FIELD_REALS;
    const char *one = ""; /* what else a per-layer key takes for one layer */
    if (field->choices != NULL) value_choices(field, words, sizeof words);
    if (field->type == LH_FIELD_CHOICE) {
        (void)snprintf(buf, bytes, "%s", words);
        return buf;
    }
    if (field->per_layer && ints) one = "an integer or ";
    if (field->per_layer && reals) one = "a number or ";
    if (field->type == LH_FIELD_INT || field->type == LH_FIELD_REAL || ints || reals)
        value_range(field, range, sizeof range);
    (void)snprintf(buf, bytes, "%s%s%s%s%s%s%s", words, words[0] != '\0' ? ", or " : "", one,
                   nouns[field->type], range, field->automatic != NULL ? " or " : "",
                   field->automatic != NULL ? field->automatic : "");
    return buf;
}

/* Does single precision hold the number, in every build, so that a run may change to the other? What C promises
 * of a float is the range. The text tells 0 from what has become 0 by being read. */
static bool value_fits(const char *text, double x)
{
    if (x == 0.0) return strcspn(text, "123456789") >= strcspn(text, "eE");
    return fabs(x) >= LH_ABOVE_ZERO && fabs(x) <= VALUE_LARGEST;
}

static lh_status value_wrong(const lhi_value *v, const lh_node *node)
{
    char place[LH_PLACE_MAX], expected[VALUE_EXPECTED], shown[LH_SHOWN_MAX];
    double x = 1.0; /* also of a number that is infinite as a double; of no number it stays */
    bool real = v->field->type == LH_FIELD_REAL || v->field->type == LH_FIELD_REALS;
    bool fits = !real || (!lh_node_number(node, &x) && isfinite(x)) || value_fits(node->text, x);
    bool nothing = lh_node_is_null(node);
    bool text = node->kind == LH_NODE_SCALAR && node->quoted && v->field->type != LH_FIELD_STRING &&
                v->field->type != LH_FIELD_PATH;
    return LH_RAISE(LH_ERR_USAGE, "%s: key '%s': expected %s, got %s%s%s",
                    lh_node_place(node, place), v->key,
                    lhi_settings_expected(v->field, expected, sizeof expected),
                    text ? "the text " : "", nothing ? "no value" : lh_node_shown(node, shown),
                    fits ? "" : ", which single precision does not hold (0, and 1e-37 to 1e37)");
}

static bool value_in_range(const lh_field *f, double x)
{
    return f->min == f->max || (x >= f->min && x <= f->max);
}

static bool value_is_plain(const lh_node *node)
{
    return node->kind == LH_NODE_SCALAR && !node->quoted && node->text[0] != '\0';
}

static bool value_int(const lh_field *f, const lh_node *node, int64_t *out)
{
    if (!value_is_plain(node)) return false;
    if (f->automatic != NULL && strcmp(node->text, f->automatic) == 0) {
        *out = LH_AUTO;
        return true;
    }
    const char *digits = node->text + (node->text[0] == '-' || node->text[0] == '+');
    if (digits[0] == '\0' || strspn(digits, "0123456789") != strlen(digits)) return false;
    errno = 0;
    *out = (int64_t)strtoll(node->text, NULL, 10);
    return errno == 0 && *out != LH_AUTO && value_in_range(f, (double)*out);
}

static bool value_real(const lh_field *f, const lh_node *node, double *out)
{
    return lh_node_number(node, out) && value_fits(node->text, *out) && value_in_range(f, *out);
}

static bool value_bool(const lh_node *node, bool *out)
{
    *out = value_is_plain(node) && strcmp(node->text, "true") == 0;
    return *out || (value_is_plain(node) && strcmp(node->text, "false") == 0);
}

/* Index of the word among the choices. */
static bool value_choice(const lh_field *f, const lh_node *node, int *out)
{
    size_t n = strlen(node->text);
    const char *c = f->choices;
    for (*out = 0; node->kind == LH_NODE_SCALAR; (*out)++) {
        size_t word = strcspn(c, "|");
        if (word == n && memcmp(c, node->text, n) == 0) return true;
        if (c[word] == '\0') return false;
        c += word + 1;
    }
    return false;
}

/* A scalar that is none of the field's words. */
static lh_status value_unknown(const lhi_value *v)
{
    char place[LH_PLACE_MAX], expected[VALUE_EXPECTED], shown[LH_SHOWN_MAX], hint[128] = "";
    if (v->node->kind != LH_NODE_SCALAR || lh_node_is_null(v->node)) return value_wrong(v, v->node);
    lh_words words = {.wrong = v->node->text};
    lh_words_add(&words, v->field->choices);
    if (words.near[0] != '\0') (void)lh_words_hint(&words, "", hint, sizeof hint);
    return LH_RAISE(LH_ERR_USAGE, "%s: key '%s': unknown value %s; expected %s%s%s",
                    lh_node_place(v->node, place), v->key, lh_node_shown(v->node, shown),
                    lhi_settings_expected(v->field, expected, sizeof expected),
                    hint[0] != '\0' ? "; " : "", hint);
}

static lh_status value_set_choice(const lhi_value *v, int *out)
{
    if (value_choice(v->field, v->node, out)) return LH_OK;
    *out = 0;
    return value_unknown(v);
}

static lh_status value_set_text(const lhi_value *v, char **out)
{
    lh_status st = LH_OK;
    const char *folder = "", *text = v->node->text;
    if (v->node->kind != LH_NODE_SCALAR) return value_wrong(v, v->node);
    if (lh_node_is_null(v->node)) text = "";
    if (v->field->type == LH_FIELD_PATH && text[0] != '\0' && text[0] != '/') {
        while (strncmp(text, "./", 2) == 0) text += 2;
        folder = v->directory != NULL ? v->directory : "";
    }
    size_t n = strlen(folder), bytes = n + strlen(text) + 2;
    bool slash = n > 0 && folder[n - 1] != '/';
    LH_TRY(lh_new(bytes, out));
    (void)snprintf(*out, bytes, "%s%s%s", folder, slash ? "/" : "", text);
done:
    return st;
}

/* The numbers of a list. One number is a list of one where a per-layer key would otherwise need
 * brackets for every layer. */
static lh_status value_set_list(const lhi_value *v, void *into)
{
    lh_status st = LH_OK;
    char place[LH_PLACE_MAX];
    const lh_node *node = v->node;
    bool ints = v->field->type == LH_FIELD_INTS;
    lh_int_list *i = into;
    lh_real_list *r = into;
    bool one = v->field->per_layer && node->kind == LH_NODE_SCALAR;
    int64_t count = one ? 1 : node->count;
    if (!one && node->kind != LH_NODE_LIST) return value_wrong(v, node);
    LH_CHECK(count <= LH_LIST_MAX, LH_ERR_USAGE, "%s: key '%s': %lld values, expected at most %d",
             lh_node_place(node, place), v->key, (long long)count, LH_LIST_MAX);
    for (int64_t k = 0; k < count; k++) {
        const lh_node *item = one ? node : node->item[k];
        bool good =
            ints ? value_int(v->field, item, &i->item[k]) : value_real(v->field, item, &r->item[k]);
        if (!good) return value_wrong(v, item);
    }
    if (ints)
        i->count = (int)count;
    else
        r->count = (int)count;
done:
    return st;
}

/* Integers, or a word instead of them. */
static lh_status value_set_ints(const lhi_value *v, lh_int_list *out)
{
    bool words = v->field->choices != NULL && v->node->kind == LH_NODE_SCALAR;
    out->count = 0;
    if (words && value_choice(v->field, v->node, &out->word)) return LH_OK;
    out->word = -1;
    if (words && !value_is_plain(v->node)) return value_unknown(v);
    if (words && strspn(v->node->text, "+-0123456789") == 0) return value_unknown(v);
    return value_set_list(v, out);
}

lh_status lhi_settings_value(const lhi_value *v, void *into)
{
    void *at = value_at(v, into);
    bool good = false;
    switch (v->field->type) {
    case LH_FIELD_INT:
        good = value_int(v->field, v->node, at);
        break;
    case LH_FIELD_REAL:
        good = value_real(v->field, v->node, at);
        break;
    case LH_FIELD_BOOL:
        good = value_bool(v->node, at);
        break;
    case LH_FIELD_CHOICE:
        return value_set_choice(v, at);
    case LH_FIELD_STRING:
    case LH_FIELD_PATH:
        return value_set_text(v, at);
    case LH_FIELD_INTS:
        return value_set_ints(v, at);
    case LH_FIELD_REALS:
        return value_set_list(v, at);
    }
    return good ? LH_OK : value_wrong(v, v->node);
}
