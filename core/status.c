#define _POSIX_C_SOURCE 200809L /* strnlen */
#include "core/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct error_record {
    lh_status code;
    char where[256];
    char text[LH_ERROR_TEXT_MAX];
    int64_t allocations;
    int64_t fail_at; /* 0: none; counts down */
} error_record;

static _Thread_local error_record record;

lh_status lh_error_raise(lh_status code, const char *file, int line, const char *func,
                         const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(record.text, sizeof record.text, fmt, args);
    va_end(args);
    (void)snprintf(record.where, sizeof record.where, "%s:%d %s", file, line, func);
    record.code = code;
    return code;
}

lh_status lh_error_context(lh_status code, const char *fmt, ...)
{
    char old[LH_ERROR_TEXT_MAX];
    va_list args;
    if (code == LH_OK) return code;
    memcpy(old, record.text, sizeof old);
    va_start(args, fmt);
    int n = vsnprintf(record.text, sizeof record.text, fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n + 3 >= sizeof record.text) return code;
    char *at = record.text + n;
    size_t left = sizeof record.text - (size_t)n - 3;
    size_t take = strnlen(old, left);
    memcpy(at, ": ", 2);
    memcpy(at + 2, old, take);
    at[2 + take] = '\0';
    return code;
}

const char *lh_error_text(void)
{
    return record.text;
}

const char *lh_error_where(void)
{
    return record.where;
}

lh_status lh_error_set(lh_status code, const char *where, const char *text)
{
    /* where and text may be the record's own: lh_error_where(), lh_error_text() */
    size_t w = strnlen(where, sizeof record.where - 1);
    size_t t = strnlen(text, sizeof record.text - 1);
    memmove(record.where, where, w);
    memmove(record.text, text, t);
    record.where[w] = record.text[t] = '\0';
    record.code = code;
    return code;
}

void lh_error_clear(void)
{
    record.code = LH_OK;
    record.where[0] = record.text[0] = '\0';
}

const char *lh_status_text(lh_status code)
{
    static const char *const texts[] = {
#define LH_STATUS_TEXT(name, text) text,
        LH_STATUS_LIST(LH_STATUS_TEXT)
#undef LH_STATUS_TEXT
    };
    return (unsigned)code < LH_STATUS_COUNT ? texts[code] : "unknown status";
}

lh_status lh_new_note(size_t bytes)
{
    record.allocations++;
    if (record.fail_at > 0 && --record.fail_at == 0)
        return LH_RAISE(LH_ERR_MEMORY, "no memory for %zu bytes (made to fail by a test)", bytes);
    return LH_OK;
}

lh_status lh_new(size_t bytes, void *out)
{
    void *p = NULL;
    memcpy(out, &p, sizeof p);
    lh_status st = lh_new_note(bytes);
    if (st != LH_OK) return st;
    p = calloc(1, bytes > 0 ? bytes : 1);
    if (p == NULL) return LH_RAISE(LH_ERR_MEMORY, "no memory for %zu bytes on this host", bytes);
    memcpy(out, &p, sizeof p);
    return LH_OK;
}

lh_status lh_new_text(const char *text, char **out)
{
    size_t bytes = strlen(text) + 1;
    lh_status st = lh_new(bytes, out);
    if (st == LH_OK) memcpy(*out, text, bytes);
    return st;
}

lh_status lh_new_probe(size_t bytes)
{
    void *room = NULL;
    lh_status st = lh_new(bytes, &room);
    lh_free(&room);
    return st;
}

void lh_free(void *ptr)
{
    void *p = NULL;
    memcpy(&p, ptr, sizeof p);
    free(p);
    p = NULL;
    memcpy(ptr, &p, sizeof p);
}

lh_status lh_grow(void *array, int64_t *capacity, int64_t need, size_t item)
{
    if (need <= *capacity) return LH_OK;
    int64_t cap = *capacity > 0 ? *capacity : 8;
    while (cap < need) cap *= 2;
    void *p = NULL;
    lh_status st = lh_new((size_t)cap * item, &p);
    if (st != LH_OK) return st;
    void *old = NULL;
    memcpy(&old, array, sizeof old);
    if (old != NULL) memcpy(p, old, (size_t)*capacity * item);
    free(old);
    memcpy(array, &p, sizeof p);
    *capacity = cap;
    return LH_OK;
}

int64_t lh_new_count(void)
{
    return record.allocations;
}

void lh_new_fail_at(int64_t n)
{
    record.fail_at = n;
}
