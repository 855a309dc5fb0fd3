#include "experiments/html.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "io/utf8.h"

enum { HTML_PIECE = 4096 };

void lh_html_add(lh_html *h, const char *markup, size_t n)
{
    if (h->st == LH_OK) h->st = lh_grow(&h->text, &h->capacity, h->length + (int64_t)n + 1, 1);
    if (h->st != LH_OK) return;
    memcpy(h->text + h->length, markup, n);
    h->length += (int64_t)n;
    h->text[h->length] = '\0';
}

void lh_html_put(lh_html *h, const char *markup)
{
    lh_html_add(h, markup, strlen(markup));
}

void lh_html_print(lh_html *h, const char *fmt, ...)
{
    char piece[HTML_PIECE];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(piece, sizeof piece, fmt, args);
    va_end(args);
    if (h->st == LH_OK && (n < 0 || n >= HTML_PIECE))
        h->st = LH_RAISE(LH_ERR_BUG, "a piece of %d bytes is too long for the page", n);
    if (h->st == LH_OK) lh_html_add(h, piece, (size_t)n);
}

void lh_html_text(lh_html *h, const char *text)
{
    const char *s = text;
    while (*s != '\0' && h->st == LH_OK) {
        size_t n = lhi_utf8((const unsigned char *)s);
        unsigned char c = (unsigned char)*s;
        /* control characters, also those of two bytes, are none that HTML allows */
        bool control = (c < 0x20 && c != '\n' && c != '\t') || c == 0x7F ||
                       (n == 2 && c == 0xC2 && (unsigned char)s[1] < 0xA0);
        if (n == 0 || control)
            lh_html_put(h, "&#xFFFD;");
        else if (c == '&')
            lh_html_put(h, "&amp;");
        else if (c == '<')
            lh_html_put(h, "&lt;");
        else if (c == '>')
            lh_html_put(h, "&gt;");
        else if (c == '"')
            lh_html_put(h, "&quot;");
        else if (c == '\'')
            lh_html_put(h, "&#39;");
        else
            lh_html_add(h, s, n);
        s += n > 0 ? n : 1;
    }
}

void lh_html_cell(lh_html *h, const char *text)
{
    lh_html_put(h, "<td>");
    lh_html_text(h, text);
    lh_html_put(h, "</td>");
}

void lh_html_number(lh_html *h, int digits, double x)
{
    if (isfinite(x))
        lh_html_print(h, "<td class=\"n\">%.*g</td>", digits, x);
    else
        lh_html_put(h, "<td class=\"n\">–</td>");
}

void lh_html_head(lh_html *h, const char *const *name)
{
    lh_html_put(h, "<thead><tr>");
    for (; *name != NULL; name++) {
        bool number = **name == '#';
        lh_html_print(h, "<th scope=\"col\"%s>", number ? " class=\"n\"" : "");
        lh_html_text(h, *name + number);
        lh_html_put(h, "</th>");
    }
    lh_html_put(h, "</tr></thead>\n");
}

void lh_html_free(lh_html *h)
{
    lh_free(&h->text);
    *h = (lh_html){0};
}
