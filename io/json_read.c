#include "io/json_read.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "io/metrics.h"
#include "io/yaml.h"

/* --- reading --- */

/* Jansson passes over some allocations that fail and goes on with what it has: they are remembered here. */
static _Thread_local lh_status read_memory;

static void *read_new(size_t bytes)
{
    void *p = NULL;
    lh_status st = lh_new(bytes, &p);
    if (st != LH_OK) read_memory = st;
    return p;
}

static void read_free(void *p)
{
    lh_free(&p);
}

lh_status lh_json_read(const char *text, size_t count, lh_json_item **out)
{
    lh_status st = LH_OK;
    char shown[JSON_ERROR_TEXT_LENGTH];
    json_error_t error;
    const char *zero = count > 0 ? memchr(text, '\0', count) : NULL; /* Jansson skips some */
    *out = NULL;
    LH_CHECK(zero == NULL, LH_ERR_FORMAT, "byte %td: a zero byte", zero - text + 1);
    read_memory = LH_OK;
    json_set_alloc_funcs(read_new, read_free); /* nobody else calls Jansson */
    *out = json_loadb(text, count, 0, &error);
    LH_TRY(read_memory);
    LH_CHECK(*out != NULL, LH_ERR_FORMAT, "byte %d: %s", error.position,
             lh_text_shown(error.text, shown, sizeof shown));
done:
    if (st != LH_OK) lh_json_release(out);
    return st;
}

void lh_json_release(lh_json_item **item)
{
    json_decref(*item);
    *item = NULL;
}

/* --- members --- */

const lh_json_item *lh_json_find(const lh_json_item *object, const char *key)
{
    return json_object_get(object, key);
}

double lh_json_item_number(const lh_json_item *item)
{
    if (json_is_boolean(item)) return json_is_true(item) ? 1.0 : 0.0;
    return json_is_number(item) ? json_number_value(item) : (double)NAN;
}

double lh_json_number(const lh_json_item *object, const char *key)
{
    return lh_json_item_number(lh_json_find(object, key));
}

bool lh_json_integer(const lh_json_item *object, const char *key, int64_t *out)
{
    const lh_json_item *item = lh_json_find(object, key);
    *out = (int64_t)json_integer_value(item);
    return json_is_integer(item);
}

const char *lh_json_item_word(const lh_json_item *item)
{
    return json_string_value(item);
}

const char *lh_json_word(const lh_json_item *object, const char *key)
{
    return lh_json_item_word(lh_json_find(object, key));
}

int64_t lh_json_count(const lh_json_item *item)
{
    return (int64_t)(json_is_array(item) ? json_array_size(item) : json_object_size(item));
}

const lh_json_item *lh_json_at(const lh_json_item *list, int64_t i)
{
    return i < 0 ? NULL : json_array_get(list, (size_t)i);
}

lh_json_kind lh_json_item_kind(const lh_json_item *item)
{
    static const lh_json_kind kinds[] = {
        [JSON_NULL] = LH_JSON_NULL,   [JSON_TRUE] = LH_JSON_BOOL,
        [JSON_FALSE] = LH_JSON_BOOL,  [JSON_INTEGER] = LH_JSON_NUMBER,
        [JSON_REAL] = LH_JSON_NUMBER, [JSON_STRING] = LH_JSON_STRING,
        [JSON_ARRAY] = LH_JSON_LIST,  [JSON_OBJECT] = LH_JSON_OBJECT};
    return item != NULL ? kinds[json_typeof(item)] : LH_JSON_NULL;
}

bool lh_json_next(const lh_json_item *object, lh_json_member *member)
{
    /* reading changes nothing, but an iterator could */
    json_t *of = (json_t *)(uintptr_t)object;
    member->place =
        member->place != NULL ? json_object_iter_next(of, member->place) : json_object_iter(of);
    member->key = json_object_iter_key(member->place);
    member->item = json_object_iter_value(member->place);
    return member->place != NULL;
}

bool lh_json_same(const lh_json_item *a, const lh_json_item *b)
{
    return json_equal(a, b) != 0;
}

/* --- for people --- */

/* What is shown so far; once cut, nothing more is. */
typedef struct json_shown {
    char *text;
    size_t bytes, used;
    bool cut;
} json_shown;

static void show_put(json_shown *s, const char *more)
{
    const size_t n = strlen(more), room = s->bytes - s->used;
    if (s->cut) return;
    (void)lh_text_shown(more, s->text + s->used, room);
    s->used += n;
    if (n < room) return;
    s->cut = true;
    s->used = s->bytes - 4;
    while (s->used > 0 && ((unsigned char)s->text[s->used] & 0xC0) == 0x80)
        s->used--; /* no half of a character */
    memcpy(s->text + s->used, "...", 4);
}

/* A null, a word, a number or a string. */
static void show_plain(json_shown *s, const lh_json_item *item)
{
    char number[LHI_JSON_NUMBER];
    if (json_is_string(item)) {
        show_put(s, json_string_value(item));
    } else if (json_is_integer(item)) {
        (void)snprintf(number, sizeof number, "%lld", (long long)json_integer_value(item));
        show_put(s, number);
    } else if (json_is_real(item)) {
        lhi_json_shortest(json_real_value(item), number);
        show_put(s, number);
    } else {
        show_put(s, json_is_true(item) ? "true" : json_is_false(item) ? "false" : "null");
    }
}

static void show_members(json_shown *s, const lh_json_item *object, const char *except);

static void show_item(json_shown *s, const lh_json_item *item)
{
    if (json_is_object(item)) {
        show_put(s, "{");
        show_members(s, item, NULL);
        show_put(s, "}");
    } else if (json_is_array(item)) {
        show_put(s, "[");
        for (int64_t i = 0; i < lh_json_count(item) && !s->cut; i++) {
            if (i > 0) show_put(s, ", ");
            show_item(s, lh_json_at(item, i));
        }
        show_put(s, "]");
    } else {
        show_plain(s, item);
    }
}

static void show_members(json_shown *s, const lh_json_item *object, const char *except)
{
    const char *before = "";
    for (lh_json_member m = {0}; !s->cut && lh_json_next(object, &m);) {
        if (except != NULL && strcmp(m.key, except) == 0) continue;
        show_put(s, before);
        show_put(s, m.key);
        show_put(s, ": ");
        show_item(s, m.item);
        before = ", ";
    }
}

const char *lh_json_show(const lh_json_item *item, char *text, size_t bytes)
{
    json_shown s = {.text = text, .bytes = bytes};
    text[0] = '\0';
    show_item(&s, item);
    return text;
}

const char *lh_json_show_members(const lh_json_item *object, const char *except, char *text,
                                 size_t bytes)
{
    json_shown s = {.text = text, .bytes = bytes};
    text[0] = '\0';
    show_members(&s, object, except);
    return text;
}
