#include "io/metrics.h"
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
    char text[LHI_JSON_NUMBER];
    lhi_json_shortest(x, text);
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

/* The word of a value that is no text and no list. */
static void emit_word(const lh_field *f, const void *at, char word[EMIT_WORD])
{
    word[0] = '\0';
    if (f->type == LH_FIELD_INT) emit_int_text(f, *(const int64_t *)at, word);
    if (f->type == LH_FIELD_REAL) emit_real_text(*(const double *)at, word);
    if (f->type == LH_FIELD_BOOL)
        (void)snprintf(word, EMIT_WORD, "%s", *(const bool *)at ? "true" : "false");
    if (f->type == LH_FIELD_CHOICE) (void)lh_field_choice(f, *(const int *)at, word, EMIT_WORD);
}

static const char *emit_string(const void *at)
{
    char *text = NULL;
    memcpy(&text, at, sizeof text);
    return text != NULL ? text : "";
}

static bool emit_is_text(const lh_field *f)
{
    return f->type == LH_FIELD_STRING || f->type == LH_FIELD_PATH;
}

static bool emit_is_list(const lh_field *f)
{
    return f->type == LH_FIELD_INTS || f->type == LH_FIELD_REALS;
}

static lh_status emit_field(lh_yaml *y, const lh_field *f, const void *settings, lh_node **out)
{
    char word[EMIT_WORD];
    const void *at = (const char *)settings + f->offset;
    if (emit_is_text(f))
        return lh_yaml_scalar(y, emit_string(at), emit_needs_quotes(emit_string(at)), out);
    if (emit_is_list(f)) return emit_list(y, f, at, out);
    emit_word(f, at, word);
    return lh_yaml_scalar(y, word, false, out);
}

/* "[1, 2]" into buf, cut where it ends. */
static void emit_list_text(const lh_field *f, const void *at, char *buf, size_t bytes)
{
    bool ints = f->type == LH_FIELD_INTS;
    const lh_int_list *i = at;
    const lh_real_list *r = at;
    int count = ints ? i->count : r->count;
    size_t used = (size_t)snprintf(buf, bytes, "[");
    for (int k = 0; k < count && used < bytes; k++) {
        char word[EMIT_WORD];
        if (ints)
            emit_int_text(f, i->item[k], word);
        else
            emit_real_text(r->item[k], word);
        used += (size_t)snprintf(buf + used, bytes - used, "%s%s", k > 0 ? ", " : "", word);
    }
    if (used < bytes) used += (size_t)snprintf(buf + used, bytes - used, "]");
    if (used >= bytes) (void)snprintf(buf + bytes - 4, 4, "...");
}

const char *lh_field_text(const lh_field *field, const void *settings, char *buf, size_t bytes)
{
    char word[EMIT_WORD];
    const void *at = (const char *)settings + field->offset;
    if (field->type == LH_FIELD_INTS && field->choices != NULL &&
        ((const lh_int_list *)at)->word >= 0)
        return lh_field_choice(field, ((const lh_int_list *)at)->word, buf, bytes);
    if (emit_is_list(field)) {
        emit_list_text(field, at, buf, bytes);
    } else if (emit_is_text(field)) {
        const char *text = emit_string(at);
        (void)snprintf(buf, bytes, "%s", text[0] != '\0' ? text : "none");
    } else {
        emit_word(field, at, word);
        (void)snprintf(buf, bytes, "%s", word);
    }
    return buf;
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

bool lh_field_equal(const lh_field *field, const void *a, const void *b)
{
    const void *p = (const char *)a + field->offset, *q = (const char *)b + field->offset;
    switch (field->type) {
    case LH_FIELD_INT:
        return *(const int64_t *)p == *(const int64_t *)q;
    case LH_FIELD_REAL:
        return *(const double *)p == *(const double *)q;
    case LH_FIELD_BOOL:
        return *(const bool *)p == *(const bool *)q;
    case LH_FIELD_CHOICE:
        return *(const int *)p == *(const int *)q;
    case LH_FIELD_STRING:
    case LH_FIELD_PATH:
        return strcmp(emit_string(p), emit_string(q)) == 0;
    case LH_FIELD_INTS:
    case LH_FIELD_REALS:
        return emit_same_list(field, p, q);
    }
    return false;
}

bool lh_settings_equal(const lh_field *fields, const void *a, const void *b)
{
    for (const lh_field *f = fields; f->name != NULL; f++)
        if (!lh_field_equal(f, a, b)) return false;
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
