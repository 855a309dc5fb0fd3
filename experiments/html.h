#pragma once
/* HTML text that grows. An error (no memory) is kept, so that calls need no check one by one.
 *
 * What a user wrote (names, keys, values, messages, paths) comes in by lh_html_text alone: it is escaped
 * there, and bytes that are no UTF-8 or no character become U+FFFD. lh_html_put and lh_html_print take the
 * program's own markup, and numbers. */
#include "core/status.h"

typedef struct lh_html {
    char *text; /* owned; lh_html_free. Zero-terminated */
    int64_t length, capacity;
    lh_status st;
} lh_html;

/* lh_html_put - markup as it is. lh_html_add - its first n bytes. lh_html_print - formatted; at most 4,096
 * bytes at a time. lh_html_text - escaped text. Local. */
void lh_html_put(lh_html *h, const char *markup);
void lh_html_add(lh_html *h, const char *markup, size_t n);
void lh_html_print(lh_html *h, const char *fmt, ...) LH_PRINTF(2, 3);
void lh_html_text(lh_html *h, const char *text);

/* lh_html_cell - <td>, escaped. lh_html_number - <td class="n"> with %.*g, a dash where x is not finite.
 * lh_html_head - a row of column heads, closed by NULL; one that begins with '#' is of numbers. Local. */
void lh_html_cell(lh_html *h, const char *text);
void lh_html_number(lh_html *h, int digits, double x);
void lh_html_head(lh_html *h, const char *const *name);

void lh_html_free(lh_html *h);
