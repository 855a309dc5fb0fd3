#include "experiments/plot.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "experiments/units.h"
#include "io/gnuplot.h"
#include "parallel/comm.h"

enum {
    PLOT_WIDE = 540,
    PLOT_HIGH = 330,
    PLOT_ROW = 34,      /* of a plot of boxes */
    PLOT_FRAME = 96,    /* around its rows */
    PLOT_BUCKETS = 240, /* of a curve: each keeps its least and its largest y */
    PLOT_TABLE = 12     /* rows of a series in the table */
};

lh_plot_series *lh_plot_series_add(lh_plot *p, const char *name, lh_plot_style style, int colour)
{
    if (p->count == LH_PLOT_SERIES) {
        p->left++;
        return NULL;
    }
    lh_plot_series *s = &p->series[p->count++];
    *s = (lh_plot_series){.style = style, .colour = colour};
    (void)snprintf(s->name, sizeof s->name, "%s", name);
    return s;
}

void lh_plot_series_row(lh_plot_series *s, const char *fmt, ...)
{
    va_list args;
    if (s == NULL) return;
    va_start(args, fmt);
    (void)vsnprintf(s->row, sizeof s->row, fmt, args);
    va_end(args);
}

void lh_plot_point_add(lh_plot *p, lh_plot_series *s, lh_plot_point point)
{
    if (s == NULL || p->st != LH_OK) return;
    p->st = lh_grow(&s->point, &s->capacity, s->n + 1, sizeof *s->point);
    if (p->st == LH_OK) s->point[s->n++] = point;
}

/* Can this plot show it? */
static bool plot_shown(const lh_plot *p, const lh_plot_point *a)
{
    return isfinite(a->x) && isfinite(a->y) && (!p->log_x || a->x > 0.0) &&
           (!p->log_y || a->y > 0.0);
}

/* --- what gnuplot is told --- */

static void plot_row(const lh_plot *p, const lh_plot_point *a, lh_html *h)
{
    if (plot_shown(p, a))
        lh_html_print(h, "%.7g %.7g %.7g %.7g\n", a->x, a->y, a->low, a->high);
    else
        lh_html_put(h, "\n"); /* a gap */
}

/* The least and the largest of points [from, to), in their order; a gap where there is one. */
static void plot_bucket(const lh_plot *p, const lh_plot_series *s, int64_t from, int64_t to,
                        lh_html *h)
{
    int64_t least = -1, most = -1;
    bool gap = false;
    for (int64_t i = from; i < to; i++) {
        if (!plot_shown(p, &s->point[i])) {
            gap = true;
            continue;
        }
        if (least < 0 || s->point[i].y < s->point[least].y) least = i;
        if (most < 0 || s->point[i].y > s->point[most].y) most = i;
    }
    if (least < 0) {
        lh_html_put(h, "\n");
        return;
    }
    plot_row(p, &s->point[least < most ? least : most], h);
    if (least != most) plot_row(p, &s->point[least < most ? most : least], h);
    if (gap) lh_html_put(h, "\n");
}

static void plot_data(const lh_plot *p, int k, lh_html *h)
{
    const lh_plot_series *s = &p->series[k];
    int64_t buckets = s->n <= 2 * PLOT_BUCKETS ? s->n : PLOT_BUCKETS;
    lh_html_print(h, "$s%d << EOD\n", k);
    /* the ends stay: they are what readers look for */
    if (buckets < s->n) plot_row(p, &s->point[0], h);
    for (int64_t b = 0; b < buckets; b++)
        plot_bucket(p, s, s->n * b / buckets, s->n * (b + 1) / buckets, h);
    if (buckets < s->n) plot_row(p, &s->point[s->n - 1], h);
    lh_html_put(h, "EOD\n");
}

/* Ticks at the x of the points, if there are few; powers of two and their like as 4k, 1M. */
static void plot_ticks(const lh_plot *p, lh_html *h)
{
    double tick[LH_PLOT_TICKS];
    char text[LH_UNITS_TEXT];
    int n = 0;
    if (!p->ticks_at_x) return;
    for (int k = 0; k < p->count; k++)
        for (int64_t i = 0; i < p->series[k].n; i++) {
            double x = p->series[k].point[i].x;
            int at = 0;
            while (at < n && tick[at] != x) at++;
            if (at < n || !plot_shown(p, &p->series[k].point[i])) continue;
            if (n == LH_PLOT_TICKS) return;
            tick[n++] = x;
        }
    lh_html_put(h, "set xtics (");
    for (int i = 0; i < n; i++)
        lh_html_print(h, "%s\"%s\" %.10g", i > 0 ? ", " : "", lh_units_length(tick[i], text),
                      tick[i]);
    lh_html_put(h, ")\n");
}

static bool plot_spreads(const lh_plot_series *s)
{
    return s->style == LH_PLOT_ERRORS || s->style == LH_PLOT_SPREAD;
}

/* Least and largest value of an axis, with the bars of errors; false: there is none. */
static bool plot_range(const lh_plot *p, bool along_x, double *least, double *most)
{
    *least = INFINITY;
    *most = -INFINITY;
    for (int k = 0; k < p->count; k++)
        for (int64_t i = 0; i < p->series[k].n; i++) {
            const lh_plot_point *a = &p->series[k].point[i];
            bool bars = along_x ? p->series[k].style == LH_PLOT_BOXES : plot_spreads(&p->series[k]);
            if (!plot_shown(p, a)) continue;
            *least = fmin(*least, bars && a->low > 0.0 ? a->low : along_x ? a->x : a->y);
            *most = fmax(*most, bars ? a->high : along_x ? a->x : a->y);
        }
    return *least <= *most;
}

/* The unit of an axis: 1, or a power of 1,000 with its name. */
static double plot_unit(double most, const char **name)
{
    static const char *const names[] = {"", ", thousands", ", millions", ", billions",
                                        ", trillions"};
    double unit = 1.0;
    int i = 0;
    for (; i < 4 && most >= 20000.0 * unit; i++) unit *= 1000.0;
    *name = names[i];
    return unit;
}

/* Every `step` within the range: 1, 2 or 5 times a power of ten, so that there are three to nine. */
static int plot_even_ticks(double least, double most, double tick[LH_PLOT_TICKS])
{
    double ten = pow(10.0, floor(log10((most - least) / 3.0)));
    double times = (most - least) / (3.0 * ten); /* from 1 up to 10 */
    double step = ten * (times >= 5.0 ? 5.0 : times >= 2.0 ? 2.0 : 1.0);
    int n = 0;
    for (double k = ceil(least / step); k * step <= most && n < LH_PLOT_TICKS; k += 1.0)
        tick[n++] = k * step;
    return n;
}

/* Ticks at 1, 2 and 5 times powers of ten where an axis has few of these; at even distances where it has
 * nearly none of the former. */
static void plot_log_ticks(char axis, double least, double most, lh_html *h)
{
    static const double step[] = {1.0, 2.0, 5.0};
    double tick[LH_PLOT_TICKS];
    int n = 0;
    if (most > 300.0 * least) return;
    for (int e = (int)floor(log10(least)); e <= (int)ceil(log10(most)); e++)
        for (int k = 0; k < 3; k++) {
            double at = step[k] * pow(10.0, e);
            if (at >= least && at <= most && n < LH_PLOT_TICKS) tick[n++] = at;
        }
    if (n < 3) n = plot_even_ticks(least, most, tick);
    lh_html_print(h, "set %ctics (", axis);
    for (int i = 0; i < n; i++)
        lh_html_print(h, "%s\"%.10g\" %.10g", i > 0 ? ", " : "", tick[i], tick[i]);
    lh_html_put(h, ")\n");
}

/* Range, ticks and label of one axis. */
static void plot_axis(const lh_plot *p, char axis, lh_html *h)
{
    bool along_x = axis == 'x', logarithmic = along_x ? p->log_x : p->log_y;
    bool zero = p->from_zero && along_x == (p->rows > 0);
    const char *label = along_x ? p->x_label : p->y_label, *name = "";
    double least = 0.0, most = 0.0, unit = 1.0;
    if (!plot_range(p, along_x, &least, &most)) return;
    if (!logarithmic && !(along_x && p->ticks_at_x))
        unit = plot_unit(fmax(fabs(least), fabs(most)), &name);
    lh_html_print(h, "set %clabel \"%s%s\" textcolor rgb \"#030000\" offset %s\n", axis, label,
                  name, along_x ? "0,0.4" : "0.8,0");
    lh_html_print(h, "set format %c \"%%g\"\nu%c = %g\n", axis, axis, unit);
    if (logarithmic) {
        double margin = along_x ? 1.12 : 1.25;
        least /= margin;
        most *= margin;
        lh_html_print(h, "set logscale %c\nset %crange [%.7g:%.7g]\n", axis, axis, least, most);
        plot_log_ticks(axis, least, most, h);
    } else if (zero) {
        if (along_x)
            lh_html_print(h, "set xrange [0:%.7g]\n", most > 0.0 ? most / unit : 1.0);
        else
            lh_html_put(h, "set yrange [0:*]\n");
    } else if (along_x) {
        double margin = most > least ? (p->ticks_at_x ? 0.04 * (most - least) : 0.0) : 0.5;
        lh_html_print(h, "set xrange [%.10g:%.10g]\n", (least - margin) / unit,
                      (most + margin) / unit);
    }
    if (along_x) plot_ticks(p, h); /* in the place of those before */
}

static void plot_axes(const lh_plot *p, lh_html *h)
{
    plot_axis(p, 'x', h);
    if (p->rows == 0) {
        plot_axis(p, 'y', h);
        return;
    }
    lh_html_print(h, "uy = 1\nset yrange [%d.5:0.5]\nset ytics (", p->rows);
    for (int i = 1; i <= p->rows; i++) lh_html_print(h, "%s\"#%d\" %d", i > 1 ? ", " : "", i, i);
    lh_html_put(h, ") scale 0\nset style fill solid 1 noborder\n");
}

/* Points of a series that are shown. */
static int64_t plot_count(const lh_plot *p, const lh_plot_series *s)
{
    int64_t n = 0;
    for (int64_t i = 0; i < s->n; i++) n += plot_shown(p, &s->point[i]);
    return n;
}

/* One series in the command `plot`. */
static void plot_series(const lh_plot *p, int k, lh_html *h)
{
    const lh_plot_series *s = &p->series[k];
    int colour = 1 + s->colour % LH_PLOT_COLOURS;
    const char *dash = s->colour >= LH_PLOT_COLOURS ? " dt 2" : "";
    lh_html_print(h, "%s$s%d using ", k > 0 ? ", " : "plot ", k);
    if (s->style <= LH_PLOT_DASHED && plot_count(p, s) == 1) { /* a line of one point is nothing */
        lh_html_print(h, "($1/ux):($2/uy) with points pt 7 ps 0.6 lc rgb \"#0%d00%02x\"",
                      s->style == LH_PLOT_DASHED ? 3 : 1, s->style == LH_PLOT_DASHED ? 0 : colour);
        return;
    }
    switch (s->style) {
    case LH_PLOT_LINE:
        lh_html_print(h, "($1/ux):($2/uy) with lines lw 1.8 lc rgb \"#0100%02x\"%s", colour, dash);
        break;
    case LH_PLOT_FAINT:
        lh_html_print(h, "($1/ux):($2/uy) with lines lw 1 lc rgb \"#0200%02x\"", colour);
        break;
    case LH_PLOT_DASHED:
        lh_html_put(h, "($1/ux):($2/uy) with lines lw 1.2 dt (6,4) lc rgb \"#030000\"");
        break;
    case LH_PLOT_POINTS:
        lh_html_print(h,
                      "($1/ux):($2/uy) with linespoints pt 7 ps 0.6 lw 1.8 lc rgb \"#0100%02x\"%s",
                      colour, dash);
        break;
    case LH_PLOT_DOTS:
        lh_html_print(h, "($1/ux):($2/uy) with points pt 7 ps 0.7 lc rgb \"#0100%02x\"", colour);
        break;
    case LH_PLOT_ERRORS:
    case LH_PLOT_SPREAD:
        lh_html_print(h,
                      "($1/ux):($2/uy):($3/uy):($4/uy) with %s pt 7 ps 0.6 lw 1.5 lc rgb "
                      "\"#0100%02x\"%s",
                      s->style == LH_PLOT_ERRORS ? "yerrorlines" : "yerrorbars", colour, dash);
        break;
    case LH_PLOT_BOXES:
        lh_html_print(
            h, "($1/ux):2:($3/ux):($4/ux):($2-0.32):($2+0.32) with boxxyerror lc rgb \"#0100%02x\"",
            colour);
        break;
    }
}

void lhi_plot_commands(const lh_plot *p, lh_html *h)
{
    int high = p->rows > 0 ? PLOT_FRAME + PLOT_ROW * p->rows : PLOT_HIGH;
    lh_html_print(h,
                  "set terminal svg size %d,%d dynamic font \"sans-serif,12.5\"\n"
                  "set encoding utf8\nset termoption noenhanced\nunset key\n"
                  "set border %d lc rgb \"#030000\" lw 1\n"
                  "set tics nomirror out scale 0.5 textcolor rgb \"#030000\"\n"
                  "set grid %s lt 1 lw 0.8 lc rgb \"#040000\"\nset bars 0.6\n",
                  PLOT_WIDE, high, p->rows > 0 ? 1 : 3, p->rows > 0 ? "xtics" : "ytics");
    for (int k = 0; k < p->count; k++)
        if (p->series[k].n > 0) plot_data(p, k, h);
    plot_axes(p, h);
    for (int k = 0; k < p->count; k++) plot_series(p, k, h);
    lh_html_put(h, "\n");
}

/* --- the figure --- */

static void plot_legend(const lh_plot *p, lh_html *h)
{
    static const char *const kind[] = {
        [LH_PLOT_LINE] = "line",     [LH_PLOT_FAINT] = "faint", [LH_PLOT_DASHED] = "dashed",
        [LH_PLOT_POINTS] = "points", [LH_PLOT_DOTS] = "points", [LH_PLOT_ERRORS] = "points",
        [LH_PLOT_SPREAD] = "points", [LH_PLOT_BOXES] = "box"};
    lh_html_put(h, "<ul class=\"legend\">");
    for (int k = 0; k < p->count; k++) {
        const lh_plot_series *s = &p->series[k];
        if (s->name[0] == '\0') continue;
        lh_html_print(h, "<li><i class=\"key %s%s\" style=\"--c:var(--%s%d)\"></i>", kind[s->style],
                      s->colour >= LH_PLOT_COLOURS ? " again" : "",
                      s->style == LH_PLOT_DASHED ? "axis" : "s", 1 + s->colour % LH_PLOT_COLOURS);
        lh_html_text(h, s->name);
        lh_html_put(h, "</li>");
    }
    lh_html_put(h, "</ul>\n");
}

/* Some points of each series that has a name here, at even distances, the last one among them. */
static void plot_table(const lh_plot *p, bool open, lh_html *h)
{
    lh_html_print(h,
                  "<details%s><summary>Some of the figures</summary><div class=\"scroll\"><table>",
                  open ? " open=\"open\"" : "");
    lh_html_print(h,
                  "<thead><tr><th scope=\"col\">series</th><th scope=\"col\" "
                  "class=\"n\">%s</th><th scope=\"col\" class=\"n\">%s</th></tr></thead>\n<tbody>",
                  p->rows > 0 ? "row" : p->x_label, p->rows > 0 ? p->x_label : p->y_label);
    for (int k = 0; k < p->count; k++) {
        const lh_plot_series *s = &p->series[k];
        const char *name = s->name[0] != '\0' ? s->name : s->row;
        int64_t rows = s->n < PLOT_TABLE ? s->n : PLOT_TABLE;
        if (name[0] == '\0') continue;
        for (int64_t i = 0; i < rows; i++) {
            const lh_plot_point *a = &s->point[rows > 1 ? i * (s->n - 1) / (rows - 1) : 0];
            lh_html_put(h, "<tr>");
            lh_html_cell(h, name);
            lh_html_number(h, 6, p->rows > 0 ? a->y : a->x);
            if (plot_spreads(s) && a->high > a->low)
                lh_html_print(h, "<td class=\"n\">%.5g ± %.2g</td>", a->y,
                              (a->high - a->low) / 2.0);
            else
                lh_html_number(h, 6, p->rows > 0 ? a->high - a->low : a->y);
            lh_html_put(h, "</tr>\n");
        }
    }
    lh_html_put(h, "</tbody></table></div></details>\n");
}

/* gnuplot's picture; "" in *svg where there is none. */
static lh_status plot_draw(const lh_plot *p, lh_plotter *by, lh_html *svg)
{
    lh_status st = LH_OK;
    lh_html commands = {0};
    char *out = NULL;
    size_t length = 0;
    by->wanted++;
    if (by->missing || by->slow) return LH_OK;
    double begin = lh_wall();
    lhi_plot_commands(p, &commands);
    LH_TRY(commands.st);
    st = lh_gnuplot_run(commands.text, (size_t)commands.length, by->seconds, &out, &length);
    by->missing = st == LH_ERR_UNSUP;
    bool failed = st == LH_ERR_IO || (st == LH_OK && strstr(out, "</svg>") == NULL);
    by->failed = by->failed || failed;
    by->slow = failed && lh_wall() - begin >= by->seconds; /* the next one would take as long */
    if (by->missing || st == LH_ERR_IO)
        (void)snprintf(by->says, sizeof by->says, "%s", lh_error_text());
    else if (failed)
        (void)snprintf(by->says, sizeof by->says, "what gnuplot wrote is no SVG picture");
    if (by->missing || failed) {
        lh_error_clear();
        st = LH_OK;
        goto done;
    }
    LH_TRY(st);
    lhi_plot_inline(out, svg);
    by->drawn++;
done:
    lh_free(&out);
    lh_html_free(&commands);
    return st;
}

/* Series without a point that can be shown make gnuplot fail. */
static void plot_drop_empty(lh_plot *p)
{
    int kept = 0;
    for (int k = 0; k < p->count; k++) {
        bool some = plot_count(p, &p->series[k]) > 0;
        if (some) {
            if (kept < k) { /* trade places, so that each array keeps one owner */
                lh_plot_series empty = p->series[kept];
                p->series[kept] = p->series[k];
                p->series[k] = empty;
            }
            kept++;
        }
    }
    for (int k = kept; k < p->count; k++) lh_free(&p->series[k].point);
    p->count = kept;
}

void lh_plot_figure(lh_plot *p, lh_plotter *by, lh_html *h)
{
    lh_html svg = {0};
    if (h->st == LH_OK) h->st = p->st;
    plot_drop_empty(p);
    if (p->count == 0 || h->st != LH_OK) goto done;
    h->st = plot_draw(p, by, &svg);
    if (h->st == LH_OK) h->st = svg.st;
    lh_html_print(h, "<figure class=\"plot\" id=\"plot-%s\"><figcaption><h3>%s</h3>", p->id,
                  p->title);
    if (p->note[0] != '\0') {
        lh_html_put(h, "<p class=\"note\">");
        lh_html_text(h, p->note);
        lh_html_put(h, "</p>");
    }
    if (p->left > 0)
        lh_html_print(h, "<p class=\"note\">%d more series are left out: there is no room</p>",
                      p->left);
    lh_html_put(h, "</figcaption>\n");
    plot_legend(p, h);
    if (svg.text != NULL) {
        lh_html_print(h, "<div class=\"drawing\" role=\"img\" aria-label=\"%s\">", p->title);
        lh_html_put(h, svg.text);
        lh_html_put(h, "</div>\n");
    } else {
        lh_html_put(h, "<p class=\"noplot\">no plot: see the note at the top</p>");
    }
    plot_table(p, svg.text == NULL, h);
    lh_html_put(h, "</figure>\n");
done:
    for (int k = 0; k < p->count; k++) lh_free(&p->series[k].point);
    *p = (lh_plot){0};
    lh_html_free(&svg);
}
