#include "io/json_read.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { READ_DEPTH = 32 };

/* The text in `at`, between begin and end. */
typedef struct json_reader {
    lh_json_tree *tree;
    const char *begin, *at, *end;
    int depth;
} json_reader;

static lh_status read_wrong(const json_reader *r, const char *expected)
{
    return LH_RAISE(LH_ERR_FORMAT, "byte %lld: expected %s", (long long)(r->at - r->begin + 1),
                    expected);
}

static void read_space(json_reader *r)
{
    while (r->at < r->end && strchr(" \t\r\n", *r->at) != NULL && *r->at != '\0') r->at++;
}

static bool read_is(const json_reader *r, char c)
{
    return r->at < r->end && *r->at == c;
}

/* Four hexadecimal digits; -1: there are none. */
static int read_hex(const char *at, const char *end)
{
    int code = 0;
    if (end - at < 4) return -1;
    for (int i = 0; i < 4; i++) {
        char c = at[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        code = 16 * code + digit;
    }
    return code;
}

/* Never longer than the escape it stands for. */
static char *read_encode(char *to, unsigned code)
{
    if (code == 0 || (code >= 0xD800 && code <= 0xDFFF)) code = 0xFFFD;
    if (code < 0x80) {
        *to++ = (char)code;
    } else if (code < 0x800) {
        *to++ = (char)(0xC0 | code >> 6);
        *to++ = (char)(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        *to++ = (char)(0xE0 | code >> 12);
        *to++ = (char)(0x80 | (code >> 6 & 0x3F));
        *to++ = (char)(0x80 | (code & 0x3F));
    } else {
        *to++ = (char)(0xF0 | code >> 18);
        *to++ = (char)(0x80 | (code >> 12 & 0x3F));
        *to++ = (char)(0x80 | (code >> 6 & 0x3F));
        *to++ = (char)(0x80 | (code & 0x3F));
    }
    return to;
}

/* Behind the backslash. */
static lh_status read_escape(json_reader *r, char **to)
{
    static const char from[] = "\"\\/bfnrt";
    static const char into[] = "\"\\/\b\f\n\r\t";
    lh_status st = LH_OK;
    const char *found = r->at < r->end && *r->at != '\0' ? strchr(from, *r->at) : NULL;
    if (found != NULL) {
        *(*to)++ = into[found - from];
        r->at++;
        goto done;
    }
    int code = read_is(r, 'u') ? read_hex(r->at + 1, r->end) : -1;
    if (code < 0) return read_wrong(r, "an escape such as \\n or \\u00e9");
    r->at += 5;
    unsigned whole = (unsigned)code;
    if (code >= 0xD800 && code < 0xDC00 && r->end - r->at >= 6 && r->at[0] == '\\' &&
        r->at[1] == 'u') {
        int low = read_hex(r->at + 2, r->end);
        if (low >= 0xDC00 && low <= 0xDFFF) {
            whole = 0x10000u + (((unsigned)code - 0xD800u) << 10) + ((unsigned)low - 0xDC00u);
            r->at += 6;
        }
    }
    *to = read_encode(*to, whole);
done:
    return st;
}

/* At a quote. *text lies in the tree. */
static lh_status read_string(json_reader *r, const char **text)
{
    lh_status st = LH_OK;
    char *to = r->tree->text + r->tree->used;
    *text = to;
    r->at++;
    while (r->at < r->end && *r->at != '"') {
        if ((unsigned char)*r->at < 0x20) return read_wrong(r, "no control character in a string");
        if (*r->at != '\\') {
            *to++ = *r->at++;
            continue;
        }
        r->at++;
        LH_TRY(read_escape(r, &to));
    }
    if (r->at >= r->end) return read_wrong(r, "a closing quote");
    r->at++;
    *to++ = '\0';
    r->tree->used = to - r->tree->text;
done:
    return st;
}

/* -?digits[.digits][e[+-]digits], as JSON has it: no hexadecimal numbers, no inf. */
static const char *read_digits(const char *at, const char *end)
{
    while (at < end && *at >= '0' && *at <= '9') at++;
    return at;
}

static const char *read_number_end(const char *at, const char *end)
{
    const char *first = at + (at < end && *at == '-');
    const char *next = read_digits(first, end);
    if (next == first || (*first == '0' && next > first + 1)) return NULL;
    if (next < end && *next == '.') {
        first = next + 1;
        next = read_digits(first, end);
        if (next == first) return NULL;
    }
    if (next < end && (*next == 'e' || *next == 'E')) {
        first = next + 1;
        if (first < end && (*first == '+' || *first == '-')) first++;
        next = read_digits(first, end);
        if (next == first) return NULL;
    }
    return next;
}

/* The text from begin on as it was written. Its place: a copy, zero-terminated. */
static const char *read_raw(const json_reader *r, const char *begin)
{
    lh_json_tree *t = r->tree;
    char *to = t->raw + t->raw_used;
    size_t n = (size_t)(r->at - begin);
    memcpy(to, begin, n);
    to[n] = '\0';
    t->raw_used += (int64_t)n + 1;
    return to;
}

/* null, true, false or a number. */
static lh_status read_plain(json_reader *r, lh_json_item *item)
{
    static const struct {
        const char *word;
        lh_json_kind kind;
        double number;
    } words[] = {{"null", LH_JSON_NULL, (double)NAN},
                 {"true", LH_JSON_BOOL, 1.0},
                 {"false", LH_JSON_BOOL, 0.0}};
    const char *begin = r->at;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        size_t n = strlen(words[i].word);
        if ((size_t)(r->end - r->at) < n || memcmp(r->at, words[i].word, n) != 0) continue;
        item->kind = words[i].kind;
        item->number = words[i].number;
        r->at += n;
        item->text = read_raw(r, begin);
        return LH_OK;
    }
    const char *end = read_number_end(r->at, r->end);
    if (end == NULL) return read_wrong(r, "a value: a number, a string, true, false, null, [ or {");
    item->kind = LH_JSON_NUMBER;
    r->at = end;
    item->text = read_raw(r, begin);
    item->number = strtod(item->text, NULL);
    return LH_OK;
}

static lh_status read_value(json_reader *r, const char *key);

/* Behind the bracket. place: of the list or object in the tree, whose items may move. */
static lh_status read_members(json_reader *r, int64_t place, bool object)
{
    lh_status st = LH_OK;
    char closing = object ? '}' : ']';
    for (bool first = true;; first = false) {
        const char *key = NULL;
        read_space(r);
        if (first && read_is(r, closing)) break;
        if (object) {
            if (!read_is(r, '"')) return read_wrong(r, "a key in quotes");
            LH_TRY(read_string(r, &key));
            read_space(r);
            if (!read_is(r, ':')) return read_wrong(r, "a colon");
            r->at++;
        }
        LH_TRY(read_value(r, key));
        r->tree->item[place].count++;
        read_space(r);
        if (read_is(r, closing)) break;
        if (!read_is(r, ',')) return read_wrong(r, object ? "a comma or }" : "a comma or ]");
        r->at++;
    }
    r->at++;
done:
    return st;
}

static lh_status read_value(json_reader *r, const char *key)
{
    lh_status st = LH_OK;
    lh_json_tree *t = r->tree;
    int64_t place = t->count;
    LH_TRY(lh_grow(&t->item, &t->capacity, t->count + 1, sizeof *t->item));
    t->item[t->count++] = (lh_json_item){.key = key, .text = "", .number = (double)NAN};
    read_space(r);
    lh_json_item *item = &t->item[place];
    if (read_is(r, '"')) {
        item->kind = LH_JSON_STRING;
        LH_TRY(read_string(r, &item->text));
    } else if (read_is(r, '{') || read_is(r, '[')) {
        bool object = *r->at == '{';
        item->kind = object ? LH_JSON_OBJECT : LH_JSON_LIST;
        LH_CHECK(r->depth < READ_DEPTH, LH_ERR_FORMAT, "deeper than %d", (int)READ_DEPTH);
        r->depth++;
        r->at++;
        LH_TRY(read_members(r, place, object));
        r->depth--;
    } else {
        LH_TRY(read_plain(r, item));
    }
    t->item[place].items = t->count - place;
done:
    return st;
}

lh_status lh_json_read(lh_json_tree *t, const char *text, size_t count)
{
    lh_status st = LH_OK;
    json_reader r = {.tree = t, .begin = text, .at = text, .end = text + count};
    t->count = t->used = t->raw_used = 0;
    /* decoded, and as it was written, no text is longer than the whole; each one ends with a zero that takes the
     * place of a quote, comma or bracket */
    LH_TRY(lh_grow(&t->text, &t->room, (int64_t)count + 2, 1));
    LH_TRY(lh_grow(&t->raw, &t->raw_room, (int64_t)count + 2, 1));
    LH_TRY(read_value(&r, NULL));
    read_space(&r);
    if (r.at < r.end) st = read_wrong(&r, "nothing more");
done:
    if (st != LH_OK) t->count = 0;
    return st;
}

void lh_json_tree_free(lh_json_tree *t)
{
    lh_free(&t->item);
    lh_free(&t->text);
    lh_free(&t->raw);
    *t = (lh_json_tree){0};
}

const lh_json_item *lh_json_at(const lh_json_item *list, int64_t i)
{
    if (list == NULL || i < 0 || i >= list->count) return NULL;
    const lh_json_item *item = list + 1;
    while (i-- > 0) item += item->items;
    return item;
}

const lh_json_item *lh_json_find(const lh_json_item *object, const char *key)
{
    if (object == NULL || object->kind != LH_JSON_OBJECT) return NULL;
    const lh_json_item *item = object + 1;
    for (int64_t i = 0; i < object->count; i++, item += item->items)
        if (strcmp(item->key, key) == 0) return item;
    return NULL;
}

double lh_json_number(const lh_json_item *object, const char *key)
{
    const lh_json_item *item = lh_json_find(object, key);
    return item != NULL ? item->number : (double)NAN;
}

const char *lh_json_word(const lh_json_item *object, const char *key)
{
    const lh_json_item *item = lh_json_find(object, key);
    return item != NULL && item->kind == LH_JSON_STRING ? item->text : NULL;
}
