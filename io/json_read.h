#pragma once
/* JSON that is read: metrics.jsonl, environment.json, sweep.json, lines of longhaul scale. Jansson reads it;
 * this is the one place that knows. Text is UTF-8 and zero-terminated: a string with an escaped zero byte or
 * half a surrogate pair is refused. Of members with the same key the last one counts.
 *
 *     LH_TRY(lh_json_read(line, length, &o));
 *     double loss = lh_json_number(o, "loss");                         NaN where it is not there
 *     lh_json_release(&o);
 *
 * All functions here are local and take NULL for "there is none". */
#include "core/status.h"

typedef enum lh_json_kind {
    LH_JSON_NULL, /* also what is not there */
    LH_JSON_BOOL,
    LH_JSON_NUMBER,
    LH_JSON_STRING,
    LH_JSON_LIST,
    LH_JSON_OBJECT
} lh_json_kind;

typedef struct json_t lh_json_item; /* one value, with its members */

/* lh_json_read - an object or a list, with white space around it, from text [count]. The caller releases
 * *out. Errors: LH_ERR_FORMAT "byte N: ..."; LH_ERR_MEMORY; then *out is NULL. */
LH_NODISCARD lh_status lh_json_read(const char *text, size_t count, lh_json_item **out);
void lh_json_release(lh_json_item **item);

/* lh_json_find - the member of an object; NULL when it has none of this name. lh_json_number - its number
 * (of true 1, of false 0), NaN where there is none. lh_json_integer - false: it is no integer of 64 bits.
 * lh_json_word - its string, NULL where there is none. */
const lh_json_item *lh_json_find(const lh_json_item *object, const char *key);
double lh_json_number(const lh_json_item *object, const char *key);
bool lh_json_integer(const lh_json_item *object, const char *key, int64_t *out);
const char *lh_json_word(const lh_json_item *object, const char *key);

/* lh_json_count - members of a list or object, else 0. lh_json_at - member i of a list; NULL: there are
 * fewer. lh_json_item_kind, ... - of an item itself: what it is, its number, its string. */
int64_t lh_json_count(const lh_json_item *item);
const lh_json_item *lh_json_at(const lh_json_item *list, int64_t i);
lh_json_kind lh_json_item_kind(const lh_json_item *item);
double lh_json_item_number(const lh_json_item *item);
const char *lh_json_item_word(const lh_json_item *item);

/* lh_json_next - the members of an object, as they were written: for (lh_json_member m = {0};
 * lh_json_next(object, &m);) */
typedef struct lh_json_member {
    const char *key;
    const lh_json_item *item;
    void *place;
} lh_json_member;
bool lh_json_next(const lh_json_item *object, lh_json_member *member);

/* lh_json_same - equal values? The order of an object's members does not matter. */
bool lh_json_same(const lh_json_item *a, const lh_json_item *b);

/* lh_json_show - a value as people write it: 0.001, full, {mechanism: full, window: [1, 2]}; numbers have the
 * fewest digits that read back as the same. lh_json_show_members - of an object without its braces, and
 * without the member `except` (or NULL). Into text [bytes], at least 8; what has no room ends with "...".
 * Returns text. */
const char *lh_json_show(const lh_json_item *item, char *text, size_t bytes);
const char *lh_json_show_members(const lh_json_item *object, const char *except, char *text,
                                 size_t bytes);
