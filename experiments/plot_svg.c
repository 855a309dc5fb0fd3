/* gnuplot's SVG as it may stand within a page: no header, no marks of its own (ids would come twice), no
 * fonts, and variables in the place of colours. */
#include <stdio.h>
#include <string.h>

#include "experiments/plot.h"

/* Colours that lhi_plot_commands gives, as numbers: series are rgb(1, 0, k), pale ones rgb(2, 0, k). */
enum { SVG_SERIES = 1, SVG_PALE = 2, SVG_AXIS = 3, SVG_GRID = 4 };

static bool svg_begins(const char *at, const char *word)
{
    return strncmp(at, word, strlen(word)) == 0;
}

/* At "rgb(": the variable for it. Returns what follows the bracket; NULL: no colour of ours. */
static const char *svg_colour(const char *at, char quote, lh_html *h)
{
    int kind = 0, zero = 0, k = 0, used = 0;
    if (sscanf(at, "rgb(%d,%d,%d)%n", &kind, &zero, &k, &used) != 3 || used == 0) return NULL;
    if (kind == SVG_SERIES) lh_html_print(h, "var(--s%d)", k);
    if (kind == SVG_PALE) lh_html_print(h, "var(--s%d)%c stroke-opacity=%c0.3", k, quote, quote);
    if (kind == SVG_AXIS) lh_html_put(h, "var(--axis)");
    if (kind == SVG_GRID) lh_html_put(h, "var(--grid)");
    return kind >= SVG_SERIES && kind <= SVG_GRID ? at + used : NULL;
}

/* An attribute that the page decides on, such as the font: what follows it; NULL: none is here. */
static const char *svg_left_out(const char *at)
{
    static const char *const left_out[] = {" font-family=\"", " color=\"black\"",
                                           " color=\"white\"", " id=\"gnuplot_canvas\""};
    for (size_t i = 0; i < sizeof left_out / sizeof left_out[0]; i++) {
        const char *word = left_out[i];
        if (!svg_begins(at, word)) continue;
        const char *after = at + strlen(word);
        const char *end = word[strlen(word) - 2] == '=' ? strchr(after, '"') : after - 1;
        return end != NULL ? end + 1 : NULL;
    }
    return NULL;
}

/* A group without content: what follows it; NULL: none is here. gnuplot leaves one at every change of pens. */
static const char *svg_empty_group(const char *at)
{
    if (!svg_begins(at, "<g ")) return NULL;
    const char *end = strchr(at, '>');
    if (end == NULL) return NULL;
    end += 1 + strspn(end + 1, " \t\n");
    return svg_begins(end, "</g>") ? end + 4 + strspn(end + 4, "\n") : NULL;
}

void lhi_plot_inline(const char *svg, lh_html *h)
{
    const char *at = strstr(svg, "<svg");
    char quote = '"';
    while (at != NULL && *at != '\0') {
        const char *after = NULL;
        if (svg_begins(at, "<title>") || svg_begins(at, "<desc>") || svg_begins(at, "<defs>")) {
            const char *end = strstr(at, at[1] == 't'                   ? "</title>"
                                         : at[2] == 'e' && at[3] == 's' ? "</desc>"
                                                                        : "</defs>");
            after = end != NULL ? strchr(end, '>') + 1 : NULL;
        } else if (*at == '<') {
            after = svg_empty_group(at);
        } else if (*at == ' ') {
            after = svg_left_out(at);
        } else if (*at == 'r' && svg_begins(at, "rgb(")) {
            after = svg_colour(at, quote, h);
        }
        if (after == NULL && svg_begins(at, " id=\"gnuplot_plot_")) { /* one that is no id */
            const char *end = strchr(at + 5, '"');
            lh_html_put(h, " class=\"series\"");
            after = end != NULL ? end + 1 : NULL;
        }
        if (after == NULL) {
            if (*at == '"' || *at == '\'') quote = *at;
            lh_html_add(h, at, 1);
            after = at + 1;
        }
        at = after;
    }
}

/* The shapes that gnuplot's points use: pt 7 alone is asked for. */
void lh_plot_marks(lh_html *h)
{
    lh_html_put(
        h, "<svg class=\"marks\" width=\"0\" height=\"0\" aria-hidden=\"true\"><defs>"
           "<circle id=\"gpPt6\" stroke=\"none\" fill=\"currentColor\" r=\"1\"/>"
           "<circle id=\"gpDot\" r=\"0.5\" stroke=\"none\" fill=\"currentColor\"/></defs></svg>\n");
}
