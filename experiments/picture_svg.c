#include "experiments/picture_svg.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/integer.h"

/* Pixels. A panel lies in a frame, below its title and above what is said of it. */
enum {
    SVG_MARGIN = 24,
    SVG_SIDE = 400,
    SVG_LEFT = 60,
    SVG_TOP = 76,
    SVG_WIDE = 540,
    SVG_HIGH = 610,
    SVG_COLUMNS = 2,
    SVG_LINE = 15,
    SVG_WRAP = 82, /* characters of a line under a panel */
    SVG_TEXTS = 7, /* lines there */
    SVG_BORDERS = 64,
    SVG_CHUNK = 1024
};

typedef struct svg {
    char *text;
    int64_t length, capacity;
    lh_status st;
} svg;

/* How a set of kinds is drawn: the first entry that has all of its bits. */
typedef struct svg_style {
    int kinds;
    const char *letter, *full, *mixed, *meaning;
} svg_style;

/* Colours that colour-blind readers tell apart (Okabe and Ito), dark and light. Two in one cell are
 * stripes. */
static const svg_style svg_styles[] = {
    {LH_KIND_GLOBAL, "g", "#AA3377", "#E0AFC8", "global: a token that all see, and that sees all"},
    {LH_KIND_LOCAL | LH_KIND_HEADS | LH_KIND_HALO, "x", "#4D4D4D", "#B3B3B3",
     "local, all-to-all and halo in one cell"},
    {LH_KIND_HEADS | LH_KIND_HALO, "w", "url(#wf)", "url(#wm)", "all-to-all and halo in one cell"},
    {LH_KIND_LOCAL | LH_KIND_HEADS, "v", "url(#vf)", "url(#vm)",
     "local and all-to-all in one cell"},
    {LH_KIND_HEADS, "a", "#F0E442", "#F8F2A8",
     "all-to-all: heads are exchanged in the query's group of ranks"},
    {LH_KIND_LOCAL | LH_KIND_HALO, "b", "url(#bf)", "url(#bm)", "local and halo in one cell"},
    {LH_KIND_LOCAL | LH_KIND_SUMMARY, "t", "url(#tf)", "url(#tm)", "local and summary in one cell"},
    {LH_KIND_HALO, "h", "#E69F00", "#F6D58C", "halo: its row travels from another rank"},
    {LH_KIND_SUMMARY, "s", "#009E73", "#8AD2BB", "summary: a sum over positions"},
    {LH_KIND_LOCAL, "l", "#0072B2", "#86BEDD", "local: the key lies on the query's rank"},
};
enum { SVG_STYLES = sizeof svg_styles / sizeof svg_styles[0] };

static void svg_add(svg *s, const char *fmt, ...) LH_PRINTF(2, 3);

static void svg_add(svg *s, const char *fmt, ...)
{
    char piece[SVG_CHUNK];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(piece, sizeof piece, fmt, args);
    va_end(args);
    if (s->st == LH_OK && (n < 0 || n >= SVG_CHUNK))
        s->st = LH_RAISE(LH_ERR_BUG, "a piece of %d bytes is too long for the picture", n);
    if (s->st == LH_OK) s->st = lh_grow(&s->text, &s->capacity, s->length + n + 1, 1);
    if (s->st != LH_OK) return;
    memcpy(s->text + s->length, piece, (size_t)n + 1);
    s->length += n;
}

/* The first n bytes of a text, with what XML forbids or understands replaced. */
static void svg_escape(svg *s, const char *text, size_t n)
{
    for (size_t i = 0; i < n && text[i] != '\0'; i++) {
        char c = text[i];
        if (c == '&')
            svg_add(s, "&amp;");
        else if (c == '<')
            svg_add(s, "&lt;");
        else if (c == '>')
            svg_add(s, "&gt;");
        else if (c == '"')
            svg_add(s, "&quot;");
        else
            svg_add(s, "%c", (unsigned char)c < 0x20 || c == 0x7F ? '?' : c);
    }
}

static void svg_line(svg *s, int x, int y, const char *class, const char *text, size_t n)
{
    svg_add(s, "<text class=\"%s\" x=\"%d\" y=\"%d\">", class, x, y);
    svg_escape(s, text, n);
    svg_add(s, "</text>\n");
}

/* A text in lines of at most SVG_WRAP characters, cut at spaces. Returns the lines left. */
static int svg_wrap(svg *s, int x, int *y, const char *text, int lines)
{
    while (*text != '\0' && lines > 0) {
        size_t n = strlen(text);
        if (n > SVG_WRAP) {
            n = SVG_WRAP;
            while (n > SVG_WRAP / 2 && text[n] != ' ') n--;
        }
        svg_line(s, x, *y, "t", text, n);
        *y += SVG_LINE;
        lines--;
        text += n;
        while (*text == ' ') text++;
    }
    return lines;
}

const char *lh_picture_layers(const int *layer, int64_t n, char *buf, size_t bytes)
{
    size_t used = 0;
    buf[0] = '\0';
    for (int64_t i = 0, end = 0; i < n && used < bytes; i = end) {
        for (end = i + 1; end < n && layer[end] == layer[end - 1] + 1;) end++;
        int more = snprintf(buf + used, bytes - used, i == 0 ? "%d" : ", %d", layer[i]);
        used += (size_t)more;
        if (end > i + 1 && used < bytes)
            used += (size_t)snprintf(buf + used, bytes - used, "-%d", layer[end - 1]);
    }
    return buf;
}

/* --- one panel --- */

/* Where a position lies within the panel's side. */
static double svg_at(const lh_picture_axis *x, int64_t position)
{
    int64_t first = x->edge[0];
    int64_t last = x->edge[x->cells];
    return SVG_SIDE * (double)(position - first) / (double)lhi_max(1, last - first);
}

static const svg_style *svg_style_of(int kinds)
{
    for (int i = 0; i < SVG_STYLES; i++)
        if ((kinds & svg_styles[i].kinds) == svg_styles[i].kinds) return &svg_styles[i];
    return &svg_styles[SVG_STYLES - 1];
}

static void svg_kinds(svg *s, int kinds)
{
    static const char *const name[LH_KINDS] = {"local", "halo", "global", "summary", "all-to-all"};
    const char *plus = "";
    for (int i = 0; i < LH_KINDS; i++) {
        if (!(kinds >> i & 1)) continue;
        svg_add(s, "%s%s", plus, name[i]);
        plus = "+";
    }
}

/* Rows [from, to) are alike: one rectangle for each stretch of equal cells. */
static void svg_rows(svg *s, const lh_panel *p, int from, int to)
{
    const lh_picture_cell *row = p->cell + (int64_t)from * p->key.cells;
    const int64_t q[2] = {p->query.edge[from], p->query.edge[to]};
    double y = svg_at(&p->query, q[0]);
    double high = svg_at(&p->query, q[1]) - y;
    for (int j = 0, end = 0; j < p->key.cells; j = end) {
        for (end = j + 1; end < p->key.cells && memcmp(&row[j], &row[end], sizeof *row) == 0;)
            end++;
        if (row[j].cover == LH_EMPTY) continue;
        const int64_t k[2] = {p->key.edge[j], p->key.edge[end]};
        double x = svg_at(&p->key, k[0]);
        double wide = svg_at(&p->key, k[1]) - x;
        bool full = row[j].cover == LH_FULL;
        svg_add(s,
                "<rect class=\"%c%s\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" "
                "data-q0=\"%" PRId64 "\" data-q1=\"%" PRId64 "\" data-k0=\"%" PRId64
                "\" data-k1=\"%" PRId64 "\" data-cover=\"%s\" data-kind=\"",
                full ? 'f' : 'm', svg_style_of(row[j].kinds)->letter, x, y, wide < 0.8 ? 0.8 : wide,
                high < 0.8 ? 0.8 : high, q[0], q[1], k[0], k[1], full ? "FULL" : "MIXED");
        svg_kinds(s, row[j].kinds);
        svg_add(s, "\"/>\n");
    }
}

static void svg_cells(svg *s, const lh_panel *p)
{
    size_t row = (size_t)p->key.cells * sizeof *p->cell;
    for (int i = 0, end = 0; i < p->query.cells; i = end) {
        const lh_picture_cell *cell = p->cell + (int64_t)i * p->key.cells;
        for (end = i + 1;
             end < p->query.cells && memcmp(cell, p->cell + (int64_t)end * p->key.cells, row) == 0;)
            end++;
        svg_rows(s, p, i, end);
    }
}

/* The stretch that begins with strip i: its end, and the strip behind it. */
static int64_t svg_stretch(const lh_picture_axis *x, int64_t i, lh_range *view)
{
    int64_t end = i + 1;
    while (end < x->n_strips && x->strip[end].rank == x->strip[i].rank) end++;
    *view = (lh_range){lhi_max(x->edge[0], x->strip[i].begin),
                       lhi_min(x->edge[x->cells], x->strip[end - 1].end)};
    return end;
}

/* Stretches of ranks that the axis shows. */
static int64_t svg_stretches(const lh_picture_axis *x)
{
    int64_t n = 0;
    lh_range r;
    for (int64_t i = 0; i < x->n_strips;) {
        i = svg_stretch(x, i, &r);
        n += r.begin < r.end;
    }
    return n;
}

/* Every how manyth stretch is shown, so that at most `most` are: a power of two. */
static int64_t svg_every(int64_t stretches, int64_t most)
{
    int64_t every = 1;
    while (stretches > most * every) every *= 2;
    return every;
}

/* Pixels that the longest name of a rank takes beside others. */
static int svg_name_width(const lh_picture_axis *x)
{
    int most = 0;
    int wide = 16;
    for (int64_t i = 0; i < x->n_strips; i++)
        if (x->strip[i].rank > most) most = x->strip[i].rank;
    for (; most >= 10; most /= 10) wide += 6;
    return wide;
}

/* Borders of the shards, thinned where they are many, and the ranks between them. down: the axis of
 * queries. */
static void svg_borders(svg *s, const lh_picture_axis *x, bool down)
{
    lh_range r;
    int64_t n = svg_stretches(x);
    int64_t lines = svg_every(n, SVG_BORDERS);
    int64_t names = svg_every(n, SVG_SIDE / (down ? SVG_LINE : svg_name_width(x)));
    int64_t shown = 0;
    svg_add(s, "<path class=\"border\" stroke-opacity=\"%s\" d=\"",
            n > SVG_BORDERS / 3 ? "0.22" : "0.45");
    for (int64_t i = 0; i < x->n_strips;) {
        i = svg_stretch(x, i, &r);
        if (r.begin >= r.end || shown++ % lines != 0 || r.begin == x->edge[0]) continue;
        double at = svg_at(x, r.begin);
        if (down)
            svg_add(s, "M-6 %.2fH%d", at, SVG_SIDE);
        else
            svg_add(s, "M%.2f-6V%d", at, SVG_SIDE);
    }
    svg_add(s, "\"/>\n");
    shown = 0;
    for (int64_t i = 0; i < x->n_strips;) {
        int rank = x->strip[i].rank;
        i = svg_stretch(x, i, &r);
        if (r.begin >= r.end || shown++ % names != 0 || rank < 0) continue;
        double at = svg_at(x, names > 1 ? r.begin : r.begin + (r.end - r.begin) / 2);
        if (down)
            svg_add(s, "<text class=\"q\" x=\"-9\" y=\"%.2f\">%d</text>\n", at + 3.5, rank);
        else
            svg_add(s, "<text class=\"k\" x=\"%.2f\" y=\"-9\">%d</text>\n", at, rank);
    }
}

/* Positions at the far sides: the ends and quarters of what is shown. */
static void svg_positions(svg *s, const lh_picture_axis *x, bool down)
{
    int64_t first = x->edge[0];
    int64_t length = x->edge[x->cells] - first;
    int64_t parts = lhi_min(4, length);
    for (int64_t i = 0; i <= parts; i++) {
        int64_t position = first + length * i / parts;
        double at = svg_at(x, position);
        if (down)
            svg_add(s, "<text class=\"r\" x=\"%d\" y=\"%.2f\">%" PRId64 "</text>\n", SVG_SIDE + 5,
                    at + 3.5, position);
        else
            svg_add(s, "<text class=\"k\" x=\"%.2f\" y=\"%d\">%" PRId64 "</text>\n", at,
                    SVG_SIDE + 14, position);
    }
}

static void svg_edges(svg *s, char axis, const lh_picture_axis *x)
{
    svg_add(s, " data-%c-edges=\"", axis);
    for (int i = 0; i <= x->cells; i++) svg_add(s, i == 0 ? "%" PRId64 : " %" PRId64, x->edge[i]);
    svg_add(s, "\"");
}

/* What is above a panel: layers and heads; then the size of a cell and what is thinned. */
static void svg_titles(svg *s, const lh_panel *p, int x, int y)
{
    char layers[LH_PICTURE_TEXT];
    char text[2 * LH_PICTURE_TEXT];
    (void)lh_picture_layers(p->layer, p->n_layers, layers, sizeof layers);
    int used = snprintf(text, sizeof text, "%s %s", p->n_layers == 1 ? "layer" : "layers", layers);
    if (p->n_heads > 1)
        used += snprintf(text + used, sizeof text - (size_t)used, ", heads %" PRId64 "-%" PRId64,
                         p->head, p->head + p->n_heads - 1);
    if (p->n_heads == 1)
        used += snprintf(text + used, sizeof text - (size_t)used, ", head %" PRId64, p->head);
    if (p->zoom)
        (void)snprintf(text + used, sizeof text - (size_t)used, ": enlarged, around a border");
    svg_line(s, x, y + 14, "h", text, strlen(text));
    if (p->query.cells == 0) return;
    int64_t rows = p->query.edge[p->query.cells] - p->query.edge[0];
    int64_t columns = p->key.edge[p->key.cells] - p->key.edge[0];
    used = snprintf(text, sizeof text, "a cell: about %" PRId64 " x %" PRId64 ", queries by %s",
                    lhi_ceil_div(rows, p->query.cells), lhi_ceil_div(columns, p->key.cells),
                    p->landmarks ? "landmarks" : "keys");
    int64_t every = svg_every(svg_stretches(&p->query), SVG_BORDERS);
    if (every > 1)
        (void)snprintf(text + used, sizeof text - (size_t)used,
                       "; one of %" PRId64 " borders is drawn", every);
    svg_line(s, x, y + 14 + SVG_LINE, "t", text, strlen(text));
}

static void svg_grid(svg *s, const lh_panel *p)
{
    svg_add(s, "<rect class=\"paper\" width=\"%d\" height=\"%d\"/>\n", SVG_SIDE, SVG_SIDE);
    svg_cells(s, p);
    svg_borders(s, &p->query, true);
    svg_borders(s, &p->key, false);
    svg_positions(s, &p->query, true);
    svg_positions(s, &p->key, false);
    svg_add(s, "<rect class=\"frame\" width=\"%d\" height=\"%d\"/>\n", SVG_SIDE, SVG_SIDE);
    svg_add(s,
            "<text class=\"q\" x=\"-9\" y=\"-24\">rank</text>\n"
            "<text class=\"t\" transform=\"translate(-44 %d) rotate(-90)\">queries</text>\n"
            "<text class=\"r\" x=\"%d\" y=\"-24\">%s</text>\n",
            SVG_SIDE / 2 + 20, SVG_SIDE + 5, p->landmarks ? "landmarks" : "keys");
}

static void svg_panel(svg *s, const lh_panel *p, int x, int y)
{
    char layers[LH_PICTURE_TEXT];
    int below = y + SVG_TOP + (p->query.cells > 0 ? SVG_SIDE + 32 : 0);
    svg_titles(s, p, x, y);
    svg_add(s,
            "<g class=\"panel\" transform=\"translate(%d %d)\" data-layers=\"%s\" "
            "data-head=\"%" PRId64 "\" data-heads=\"%" PRId64 "\" data-zoom=\"%d\"",
            x + SVG_LEFT, y + SVG_TOP,
            lh_picture_layers(p->layer, p->n_layers, layers, sizeof layers), p->head, p->n_heads,
            p->zoom);
    if (p->query.cells > 0) {
        svg_edges(s, 'q', &p->query);
        svg_edges(s, 'k', &p->key);
    }
    svg_add(s, ">\n");
    if (p->query.cells > 0) svg_grid(s, p);
    svg_add(s, "</g>\n");
    if (p->zoom) return;
    int lines = svg_wrap(s, x, &below, p->label, SVG_TEXTS);
    lines = svg_wrap(s, x, &below, p->tiles, lines);
    (void)svg_wrap(s, x, &below, p->note, lines);
}

/* --- the page --- */

static void svg_stripes(svg *s, const char *id, const char *a, const char *b)
{
    svg_add(s,
            "<pattern id=\"%s\" width=\"4\" height=\"4\" patternUnits=\"userSpaceOnUse\" "
            "patternTransform=\"rotate(45)\"><rect width=\"4\" height=\"4\" fill=\"%s\"/>"
            "<rect width=\"2\" height=\"4\" fill=\"%s\"/></pattern>\n",
            id, a, b);
}

static void svg_begin(svg *s, int wide, int high)
{
    const svg_style *local = svg_style_of(LH_KIND_LOCAL);
    const svg_style *halo = svg_style_of(LH_KIND_HALO);
    const svg_style *summary = svg_style_of(LH_KIND_SUMMARY);
    const svg_style *heads = svg_style_of(LH_KIND_HEADS);
    svg_add(s,
            LH_PICTURE_BEGIN "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
                             "viewBox=\"0 0 %d %d\">\n<defs>\n",
            wide, high, wide, high);
    svg_stripes(s, "bf", local->full, halo->full);
    svg_stripes(s, "bm", local->mixed, halo->mixed);
    svg_stripes(s, "tf", local->full, summary->full);
    svg_stripes(s, "tm", local->mixed, summary->mixed);
    svg_stripes(s, "vf", local->full, heads->full);
    svg_stripes(s, "vm", local->mixed, heads->mixed);
    svg_stripes(s, "wf", heads->full, halo->full);
    svg_stripes(s, "wm", heads->mixed, halo->mixed);
    svg_add(s, "</defs>\n<style>\ntext { font-family: sans-serif; fill: #222 }\n"
               ".h { font-size: 13px; font-weight: bold } .t { font-size: 12px }\n"
               ".q { font-size: 10px; text-anchor: end } .r { font-size: 10px }\n"
               ".k { font-size: 10px; text-anchor: middle }\n"
               "rect { shape-rendering: crispEdges } .paper { fill: #fff }\n"
               ".frame { fill: none; stroke: #222 }\n"
               ".border { fill: none; stroke: #222; stroke-width: 0.7 }\n");
    for (int i = 0; i < SVG_STYLES; i++)
        svg_add(s, ".f%s { fill: %s } .m%s { fill: %s }\n", svg_styles[i].letter,
                svg_styles[i].full, svg_styles[i].letter, svg_styles[i].mixed);
    svg_add(s, "</style>\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n", wide, high);
}

static bool svg_occurs(const lh_picture *p, const svg_style *style)
{
    for (int64_t i = 0; i < p->n_panels; i++) {
        const lh_panel *panel = &p->panel[i];
        int64_t cells = (int64_t)panel->query.cells * panel->key.cells;
        for (int64_t c = 0; c < cells; c++)
            if (panel->cell[c].kinds != 0 && svg_style_of(panel->cell[c].kinds) == style)
                return true;
    }
    return false;
}

static int svg_occurring(const lh_picture *p)
{
    int n = 0;
    for (int i = 0; i < SVG_STYLES; i++) n += svg_occurs(p, &svg_styles[i]);
    return n;
}

/* What the colours mean, of those that occur. Returns the y behind it. */
static int svg_legend(svg *s, const lh_picture *p, int y)
{
    static const char shades[] =
        "dark: every pair of the cell is seen (FULL); light: some (MIXED); white: none (EMPTY); "
        "lines: borders of shards";
    for (int i = SVG_STYLES - 1; i >= 0; i--) {
        if (!svg_occurs(p, &svg_styles[i])) continue;
        svg_add(s,
                "<rect class=\"f%s\" x=\"%d\" y=\"%d\" width=\"14\" height=\"11\"/>"
                "<rect class=\"m%s\" x=\"%d\" y=\"%d\" width=\"14\" height=\"11\"/>\n",
                svg_styles[i].letter, SVG_MARGIN, y - 10, svg_styles[i].letter, SVG_MARGIN + 14,
                y - 10);
        svg_line(s, SVG_MARGIN + 36, y, "t", svg_styles[i].meaning, SVG_CHUNK);
        y += SVG_LINE + 1;
    }
    svg_line(s, SVG_MARGIN, y, "t", shades, SVG_CHUNK);
    return y + SVG_LINE;
}

/* The place of panel i: an enlarged one is always beside the one before it. *slot: the next free. */
static void svg_place(const lh_picture *p, int64_t i, int64_t *slot)
{
    bool pair = i + 1 < p->n_panels && p->panel[i + 1].zoom;
    if (pair && *slot % SVG_COLUMNS == SVG_COLUMNS - 1) ++*slot;
}

static int64_t svg_slots(const lh_picture *p)
{
    int64_t slot = 0;
    for (int64_t i = 0; i < p->n_panels; i++, slot++) svg_place(p, i, &slot);
    return slot;
}

lh_status lh_picture_svg(const lh_picture *p, const char *const *head, int n_head, char **text)
{
    svg s = {0};
    int y = SVG_MARGIN + SVG_LINE;
    int top = SVG_MARGIN + (n_head + svg_occurring(p) + 4) * (SVG_LINE + 1);
    int rows = (int)((svg_slots(p) + SVG_COLUMNS - 1) / SVG_COLUMNS);
    int64_t slot = 0;
    *text = NULL;
    svg_begin(&s, 2 * SVG_MARGIN + SVG_COLUMNS * SVG_WIDE, top + rows * SVG_HIGH + SVG_MARGIN);
    for (int i = 0; i < n_head; i++, y += SVG_LINE + 1)
        svg_line(&s, SVG_MARGIN, y, i == 0 ? "h" : "t", head[i], SVG_CHUNK);
    (void)svg_legend(&s, p, y + 6);
    for (int64_t i = 0; i < p->n_panels; i++, slot++) {
        svg_place(p, i, &slot);
        svg_panel(&s, &p->panel[i], SVG_MARGIN + (int)(slot % SVG_COLUMNS) * SVG_WIDE,
                  top + (int)(slot / SVG_COLUMNS) * SVG_HIGH);
    }
    svg_add(&s, "</svg>\n");
    if (s.st == LH_OK) {
        *text = s.text;
        s.text = NULL;
    }
    lh_free(&s.text);
    return s.st;
}
