#include "io/settings_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { EMIT_WORD = 64 };

#define EMIT_ENOUGH 1e9 /* an upper limit that no user needs to read about */

const char *lh_field_choice(const lh_field *field, int value, char *buf, size_t bytes)
{
    const char *c = field->choices;
    for (; value > 0 && strchr(c, '|') != NULL; value--) c = strchr(c, '|') + 1;
    (void)snprintf(buf, bytes, "%.*s", (int)strcspn(c, "|"), c);
    return buf;
}

/* The shortest decimal number that reads back as x, with a point, which YAML 1.1 readers want. */
static void emit_real_text(double x, char *buf)
{
    char text[EMIT_WORD];
    for (int digits = 15; digits <= 17; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, x);
        if (strtod(text, NULL) == x) break;
    }
    size_t n = strcspn(text, "e");
    bool point = memchr(text, '.', n) != NULL;
    (void)snprintf(buf, EMIT_WORD, "%.*s%s%s", (int)n, text, point ? "" : ".0", text + n);
}

static void emit_int_text(const lh_field *f, int64_t x, char *buf)
{
    if (x == LH_AUTO && f->automatic != NULL)
        (void)snprintf(buf, EMIT_WORD, "%s", f->automatic);
    else
        (void)snprintf(buf, EMIT_WORD, "%" PRId64, x);
}

/* Quotes wherever another YAML reader could see something else than a text. */
static bool emit_needs_quotes(const char *text)
{
    static const char *const words[] = {"null", "true", "false", "yes", "no",
                                        "on",   "off",  "y",     "n"};
    bool letter =
        (text[0] >= 'a' && text[0] <= 'z') || (text[0] >= 'A' && text[0] <= 'Z') || text[0] == '/';
    size_t plain =
        strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-");
    if (!letter || plain != strlen(text)) return true;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        const char *a = text, *b = words[i];
        while (*a != '\0' && (*a | 0x20) == *b) a++, b++;
        if (*a == '\0' && *b == '\0') return true;
    }
    return false;
}

static lh_status emit_list(lh_yaml *y, const lh_field *f, const void *at, lh_node **out)
{
    lh_status st = LH_OK;
    char word[EMIT_WORD];
    bool ints = f->type == LH_FIELD_INTS;
    const lh_int_list *i = at;
    const lh_real_list *r = at;
    int count = ints ? i->count : r->count;
    if (ints && f->choices != NULL && i->word >= 0)
        return lh_yaml_scalar(y, lh_field_choice(f, i->word, word, sizeof word), false, out);
    LH_TRY(lh_yaml_list(y, out));
    for (int k = 0; k < count; k++) {
        lh_node *item = NULL;
        if (ints)
            emit_int_text(f, i->item[k], word);
        else
            emit_real_text(r->item[k], word);
        LH_TRY(lh_yaml_scalar(y, word, false, &item));
        LH_TRY(lh_yaml_append(y, *out, item));
    }
done:
    return st;
}

static lh_status emit_field(lh_yaml *y, const lh_field *f, const void *settings, lh_node **out)
{
    char word[EMIT_WORD] = "", *text = NULL;
    const char *at = (const char *)settings + f->offset;
    switch (f->type) {
    case LH_FIELD_INT:
        emit_int_text(f, *(const int64_t *)(const void *)at, word);
        break;
    case LH_FIELD_REAL:
        emit_real_text(*(const double *)(const void *)at, word);
        break;
    case LH_FIELD_BOOL:
        (void)snprintf(word, sizeof word, "%s", *(const bool *)(const void *)at ? "true" : "false");
        break;
    case LH_FIELD_CHOICE:
        (void)lh_field_choice(f, *(const int *)(const void *)at, word, sizeof word);
        break;
    case LH_FIELD_STRING:
    case LH_FIELD_PATH:
        memcpy(&text, at, sizeof text);
        if (text == NULL) text = word;
        return lh_yaml_scalar(y, text, emit_needs_quotes(text), out);
    case LH_FIELD_INTS:
    case LH_FIELD_REALS:
        return emit_list(y, f, at, out);
    }
    return lh_yaml_scalar(y, word, false, out);
}

lh_status lh_settings_emit(lh_yaml *y, const lh_field *fields, const void *settings, bool as_layer,
                           lh_node *map)
{
    lh_status st = LH_OK;
    for (const lh_field *f = fields; f->name != NULL; f++) {
        lh_node *item = NULL;
        LH_TRY(emit_field(y, f, settings, &item));
        /* For all layers at once a list would be read as one value per layer; a list of one is
         * its value. */
        if (!as_layer && f->per_layer && item->kind == LH_NODE_LIST && item->count == 1)
            item = item->item[0];
        LH_TRY(lh_yaml_set(y, map, f->name, item));
    }
done:
    return st;
}

static bool emit_same_list(const lh_field *f, const void *a, const void *b)
{
    if (f->type == LH_FIELD_INTS) {
        const lh_int_list *p = a, *q = b;
        for (int i = 0; i < p->count && p->count == q->count; i++)
            if (p->item[i] != q->item[i]) return false;
        return p->count == q->count && p->word == q->word;
    }
    const lh_real_list *p = a, *q = b;
    for (int i = 0; i < p->count && p->count == q->count; i++)
        if (p->item[i] != q->item[i]) return false;
    return p->count == q->count;
}

static bool emit_same(const lh_field *f, const void *a, const void *b)
{
    char *s = NULL, *t = NULL;
    switch (f->type) {
    case LH_FIELD_INT:
        return *(const int64_t *)a == *(const int64_t *)b;
    case LH_FIELD_REAL:
        return *(const double *)a == *(const double *)b;
    case LH_FIELD_BOOL:
        return *(const bool *)a == *(const bool *)b;
    case LH_FIELD_CHOICE:
        return *(const int *)a == *(const int *)b;
    case LH_FIELD_STRING:
    case LH_FIELD_PATH:
        memcpy(&s, a, sizeof s);
        memcpy(&t, b, sizeof t);
        return s == t || (s != NULL && t != NULL && strcmp(s, t) == 0);
    case LH_FIELD_INTS:
    case LH_FIELD_REALS:
        return emit_same_list(f, a, b);
    }
    return false;
}

bool lh_settings_equal(const lh_field *fields, const void *a, const void *b)
{
    for (const lh_field *f = fields; f->name != NULL; f++)
        if (!emit_same(f, (const char *)a + f->offset, (const char *)b + f->offset)) return false;
    return true;
}

void lh_settings_help(FILE *out, const lh_field *fields, int indent)
{
    for (const lh_field *f = fields; f->name != NULL; f++) {
        char expected[320];
        bool text = f->type == LH_FIELD_STRING || f->type == LH_FIELD_PATH;
        const char *fallback = f->fallback != NULL ? f->fallback : "required";
        lh_field plain = *f;
        if (f->max > f->min && f->max >= EMIT_ENOUGH) plain.max = LH_NO_LIMIT;
        (void)lhi_settings_expected(&plain, expected, sizeof expected);
        (void)fprintf(out, "%*s%-16s %-13s %s%s%s%s%s\n", indent, "", f->name,
                      fallback[0] != '\0' ? fallback : "none", f->help != NULL ? f->help : "",
                      text ? "" : " (", text ? "" : expected, text ? "" : ")",
                      f->per_layer ? "; may be a list, one per layer" : "");
    }
}
