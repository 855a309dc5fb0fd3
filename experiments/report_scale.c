/* Scaling studies: the lines of longhaul scale. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "experiments/report_internal.h"
#include "experiments/units.h"
#include "io/files.h"

enum { SCALE_NAME = 400, SCALE_ROWS = 24 };

/* --- reading --- */

static void scale_word(const lh_json_item *o, const char *key, char *to, size_t bytes)
{
    const char *word = lh_json_word(o, key);
    (void)snprintf(to, bytes, "%s", word != NULL ? word : "");
}

/* false: it is no line of longhaul scale. */
static bool scale_read(const lh_json_item *o, lhi_scale_line *l)
{
    const lh_json_item *seconds = lh_json_find(o, "seconds");
    const lh_json_item *more = lh_json_find(o, "extrapolated"); /* false, or from what */
    *l = (lhi_scale_line){.ranks = lh_json_number(o, "ranks"),
                          .n = lh_json_number(o, "n"),
                          .step_s = lh_json_number(o, "step_s"),
                          .mean_s = lh_json_number(o, "step_s_mean"),
                          .least_s = lh_json_number(o, "step_s_least"),
                          .tokens_per_s = lh_json_number(o, "tokens_per_s"),
                          .efficiency = lh_json_number(o, "efficiency"),
                          .wait_s = lh_json_number(o, "comm_wait_s"),
                          .sent = lh_json_number(o, "sent_bytes"),
                          .predicted_sent = lh_json_number(o, "predicted_sent_bytes"),
                          .peak = lh_json_number(o, "peak_bytes"),
                          .predicted_peak = lh_json_number(o, "predicted_peak_bytes"),
                          .batch = lh_json_number(o, "batch"),
                          .threads = lh_json_number(o, "threads"),
                          .parameters = lh_json_number(o, "parameters"),
                          .exponent = lh_json_number(o, "exponent"),
                          .low = lh_json_number(o, "low"),
                          .high = lh_json_number(o, "high"),
                          .simulated = lh_json_number(o, "simulated") == 1.0,
                          .extrapolated = (lh_json_item_kind(more) == LH_JSON_OBJECT ||
                                           lh_json_item_number(more) == 1.0)};
    l->most_s = l->step_s;
    if (lh_json_count(seconds) > 0) /* the last is the longest */
        l->most_s = lh_json_item_number(lh_json_at(seconds, lh_json_count(seconds) - 1));
    scale_word(o, "mode", l->mode, sizeof l->mode);
    scale_word(o, "mechanism", l->mechanism, sizeof l->mechanism);
    scale_word(o, "attention", l->attention, sizeof l->attention);
    scale_word(o, "platform", l->platform, sizeof l->platform);
    scale_word(o, "pass", l->pass, sizeof l->pass);
    scale_word(o, "precision", l->precision, sizeof l->precision);
    bool fit = lh_json_word(o, "fit") != NULL && isfinite(l->exponent);
    return isfinite(l->ranks) &&
           (fit || (l->mode[0] != '\0' && isfinite(l->step_s) && isfinite(l->n)));
}

static bool scale_point(const lhi_scale_line *l)
{
    return !isfinite(l->exponent);
}

/* Have two lines the same name before what tells namesakes apart? */
static bool scale_named(const lhi_scale_line *a, const lhi_scale_line *b)
{
    return a->simulated == b->simulated && strcmp(a->mechanism, b->mechanism) == 0 &&
           strcmp(a->attention, b->attention) == 0 && strcmp(a->platform, b->platform) == 0;
}

/* A second point of the same ranks and length is of another study, whatever else the two say; a fit is of the
 * points before it. */
static int scale_again(const lhi_report *r, const lhi_scale_line *l)
{
    int n = 0;
    for (int64_t k = 0; k < r->scales; k++) {
        const lhi_scale_line *o = &r->scale[k];
        if (o->file != l->file || !scale_point(o) || !scale_named(o, l) || o->ranks != l->ranks)
            continue;
        if (!scale_point(l))
            n = o->again;
        else
            n += o->n == l->n && strcmp(o->mode, l->mode) == 0;
    }
    return n;
}

/* The place of a line: behind the others, or a fit's of the same series, to which lengths were added since. */
static lhi_scale_line *scale_place(lhi_report *r, const lhi_scale_line *l)
{
    for (int64_t k = 0; k < r->scales && !scale_point(l); k++) {
        lhi_scale_line *o = &r->scale[k];
        if (o->file == l->file && o->again == l->again && o->ranks == l->ranks && !scale_point(o) &&
            scale_named(o, l))
            return o;
    }
    return &r->scale[r->scales++];
}

static lh_status scale_take_line(lhi_report *r, const char *text, size_t n)
{
    lh_status st = LH_OK;
    lh_json_item *o = NULL;
    lhi_scale_line line = {0};
    LH_TRY(lh_grow(&r->scale, &r->scale_room, r->scales + 1, sizeof *r->scale));
    st = lh_json_read(text, n, &o);
    if (st == LH_ERR_FORMAT) {
        lh_error_clear();
        r->scale_torn++;
        return LH_OK;
    }
    LH_TRY(st);
    if (scale_read(o, &line)) {
        line.file = r->scale_files;
        line.again = scale_again(r, &line);
        *scale_place(r, &line) = line;
    } else if (lh_json_word(o, "study") == NULL) { /* the head of a study's file */
        r->scale_torn++;
    }
done:
    lh_json_release(&o);
    return st;
}

lh_status lhi_report_take_scale(lhi_report *r, const char *path)
{
    lh_status st = LH_OK;
    char *text = NULL;
    size_t count = 0;
    int64_t before = r->scales;
    st = lh_read_small(NULL, path, &text, &count);
    LH_TRY(st == LH_ERR_IO ? lh_error_context(LH_ERR_USAGE, "longhaul report") : st);
    for (size_t at = 0, end = 0; at < count; at = end + 1) {
        const char *newline = memchr(text + at, '\n', count - at);
        end = newline != NULL ? (size_t)(newline - text) : count;
        /* a last line without its end is being written */
        if (end > at && newline != NULL) LH_TRY(scale_take_line(r, text + at, end - at));
    }
    LH_CHECK(r->scales > before, LH_ERR_USAGE,
             "'%s' is no run folder, and has no line of longhaul scale: give run folders "
             "(run.output/run.name) and files of what longhaul scale prints on standard output",
             path);
    r->scale_file[r->scale_files++] = path;
done:
    lh_free(&text);
    return st;
}

/* --- series: points that differ in ranks alone, or in lengths alone --- */

/* Equal, or both unknown. */
static bool scale_equal(double a, double b)
{
    return a == b || (isnan(a) && isnan(b));
}

/* What tells namesakes apart. */
typedef enum scale_tell {
    SCALE_FILE,
    SCALE_PASS,
    SCALE_PRECISION,
    SCALE_BATCH,
    SCALE_THREADS,
    SCALE_PARAMETERS,
    SCALE_AGAIN,
    SCALE_TELLS
} scale_tell;

static bool scale_tells(const lhi_scale_line *a, const lhi_scale_line *b, scale_tell what)
{
    switch (what) {
    case SCALE_FILE:
        return a->file != b->file;
    case SCALE_PASS:
        return strcmp(a->pass, b->pass) != 0;
    case SCALE_PRECISION:
        return strcmp(a->precision, b->precision) != 0;
    case SCALE_BATCH:
        return !scale_equal(a->batch, b->batch);
    case SCALE_THREADS:
        return !scale_equal(a->threads, b->threads);
    case SCALE_PARAMETERS:
        /* they may grow with the length */
        return a->n == b->n && !scale_equal(a->parameters, b->parameters);
    default:
        return a->again != b->again;
    }
}

/* Does nothing before `upto` tell two lines of one name apart? */
static bool scale_untold(const lhi_scale_line *a, const lhi_scale_line *b, scale_tell upto)
{
    for (int t = 0; t < (int)upto; t++)
        if (scale_tells(a, b, (scale_tell)t)) return false;
    return true;
}

static bool scale_alike(const lhi_scale_line *a, const lhi_scale_line *b)
{
    return scale_named(a, b) && strcmp(a->mode, b->mode) == 0 && scale_untold(a, b, SCALE_TELLS);
}

/* The same study at other numbers of ranks: strong keeps n, weak keeps n / ranks. */
static bool scale_same(const lhi_scale_line *a, const lhi_scale_line *b)
{
    if (!scale_point(a) || !scale_point(b) || !scale_alike(a, b)) return false;
    return strcmp(a->mode, "weak") == 0
               ? fabs(a->n * b->ranks - b->n * a->ranks) <= a->ranks * b->ranks
               : a->n == b->n;
}

/* Is it the first of its series? */
static bool scale_first(const lhi_report *r, int64_t i,
                        bool (*same)(const lhi_scale_line *, const lhi_scale_line *))
{
    for (int64_t k = 0; k < i; k++)
        if (same(&r->scale[k], &r->scale[i])) return false;
    return true;
}

static int64_t scale_members(const lhi_report *r, int64_t i,
                             bool (*same)(const lhi_scale_line *, const lhi_scale_line *))
{
    int64_t n = 0;
    for (int64_t k = 0; k < r->scales; k++) n += same(&r->scale[k], &r->scale[i]);
    return n;
}

static void scale_tell_text(const lhi_report *r, const lhi_scale_line *l, scale_tell what,
                            char *text, size_t bytes)
{
    const char *name = r->scale_file[l->file], *slash = strrchr(name, '/');
    char count[LH_UNITS_TEXT];
    if (what == SCALE_FILE)
        (void)snprintf(text, bytes, ", %.80s", slash != NULL ? slash + 1 : name);
    else if (what == SCALE_PASS)
        (void)snprintf(text, bytes, ", %s", strcmp(l->pass, "forward") == 0 ? "forward" : "step");
    else if (what == SCALE_PRECISION)
        (void)snprintf(text, bytes, ", %s", l->precision);
    else if (what == SCALE_BATCH)
        (void)snprintf(text, bytes, ", batch %.0f", l->batch);
    else if (what == SCALE_THREADS)
        (void)snprintf(text, bytes, ", %.0f threads", l->threads);
    else if (what == SCALE_PARAMETERS)
        (void)snprintf(text, bytes, ", %s parameters", lh_units_count(l->parameters, count));
    else
        (void)snprintf(text, bytes, ", study %d", l->again + 1);
}

/* "sliding_window, window: 128", and what else tells series apart. */
static const char *scale_label(const lhi_report *r, const lhi_scale_line *l, char *text)
{
    static const char begin[] = "{mechanism: ";
    size_t length = strlen(l->attention), n = 0;
    if (strncmp(l->attention, begin, strlen(begin)) == 0 && l->attention[length - 1] == '}')
        (void)snprintf(text, SCALE_NAME, "%.*s", (int)(length - strlen(begin) - 1),
                       l->attention + strlen(begin));
    else
        (void)snprintf(text, SCALE_NAME, "%s",
                       l->attention[0] == '{' || l->attention[0] == '[' ? l->attention
                                                                        : l->mechanism);
    const char *platform =
        strrchr(l->platform, '/') != NULL ? strrchr(l->platform, '/') + 1 : l->platform;
    n = strlen(text);
    if (l->simulated)
        (void)snprintf(text + n, SCALE_NAME - n, ", simulated%s%s",
                       platform[0] != '\0' ? " on " : "", platform);
    for (int t = 0; t < SCALE_TELLS; t++) {
        bool told = false;
        for (int64_t k = 0; k < r->scales && !told; k++)
            told = scale_point(&r->scale[k]) && scale_named(&r->scale[k], l) &&
                   scale_tells(&r->scale[k], l, (scale_tell)t) &&
                   (t < SCALE_AGAIN || scale_untold(&r->scale[k], l, SCALE_AGAIN));
        n = strlen(text);
        if (told) scale_tell_text(r, l, (scale_tell)t, text + n, SCALE_NAME - n);
    }
    return text;
}

/* --- plots over ranks --- */

typedef enum scale_what { SCALE_TIME, SCALE_EFFICIENCY } scale_what;

/* Least and largest number of ranks of the series of line i. */
static void scale_range(const lhi_report *r, int64_t i, double *least, double *most)
{
    *least = *most = r->scale[i].ranks;
    for (int64_t k = 0; k < r->scales; k++) {
        if (!scale_same(&r->scale[k], &r->scale[i])) continue;
        *least = fmin(*least, r->scale[k].ranks);
        *most = fmax(*most, r->scale[k].ranks);
    }
}

/* The ideal of a series of time: from its fewest ranks on, time x ranks stays (strong), time stays (weak: at
 * the same work a rank; where work grows faster than n, efficiency tells more). */
static void scale_ideal(const lhi_report *r, int64_t i, bool weak, bool named, lh_plot *p)
{
    double least = 0.0, most = 0.0, time = (double)NAN;
    scale_range(r, i, &least, &most);
    for (int64_t k = 0; k < r->scales; k++)
        if (scale_same(&r->scale[k], &r->scale[i]) && r->scale[k].ranks == least)
            time = r->scale[k].step_s;
    lh_plot_series *s = lh_plot_series_add(p, named ? "ideal" : "", LH_PLOT_DASHED, 0);
    lh_plot_series_row(s, "ideal");
    lh_plot_point_add(p, s, (lh_plot_point){least, time, 0.0, 0.0});
    lh_plot_point_add(p, s, (lh_plot_point){most, weak ? time : time * least / most, 0.0, 0.0});
}

static void scale_plot(lhi_report *r, const char *mode, scale_what what, lh_plot *p)
{
    char label[SCALE_NAME], length[LH_UNITS_TEXT];
    bool weak = strcmp(mode, "weak") == 0, ideal = false;
    int colour = 0;
    double least = 0.0, most = 0.0, all_least = INFINITY, all_most = 0.0;
    for (int64_t i = 0; i < r->scales; i++) {
        const lhi_scale_line *first = &r->scale[i];
        if (strcmp(first->mode, mode) != 0 || !scale_point(first) ||
            !scale_first(r, i, scale_same) || scale_members(r, i, scale_same) < 2)
            continue;
        (void)scale_label(r, first, label);
        size_t n = strlen(label);
        (void)snprintf(label + n, sizeof label - n, ", n %s%s", lh_units_length(first->n, length),
                       weak ? " at first" : "");
        lh_plot_series *s = lh_plot_series_add(
            p, label, what == SCALE_TIME ? LH_PLOT_ERRORS : LH_PLOT_POINTS, colour++);
        for (int64_t k = 0; k < r->scales; k++) {
            const lhi_scale_line *l = &r->scale[k];
            if (!scale_same(l, first)) continue;
            double y = what == SCALE_TIME ? l->step_s : l->efficiency;
            lh_plot_point_add(
                p, s, (lh_plot_point){l->ranks, y, fmin(l->least_s, y), fmax(l->most_s, y)});
        }
        scale_range(r, i, &least, &most);
        all_least = fmin(all_least, least);
        all_most = fmax(all_most, most);
        if (what == SCALE_TIME) {
            scale_ideal(r, i, weak, !ideal, p);
            ideal = true;
        }
    }
    if (what == SCALE_EFFICIENCY && all_most > 0.0) {
        lh_plot_series *s = lh_plot_series_add(p, "ideal", LH_PLOT_DASHED, 0);
        lh_plot_point_add(p, s, (lh_plot_point){all_least, 1.0, 0.0, 0.0});
        lh_plot_point_add(p, s, (lh_plot_point){all_most, 1.0, 0.0, 0.0});
    }
    lh_plot_figure(p, &r->plotter, &r->h);
}

/* --- growth with the length --- */

static bool scale_grows(const lhi_scale_line *a, const lhi_scale_line *b)
{
    return scale_point(a) && scale_point(b) && scale_alike(a, b) && a->ranks == b->ranks &&
           strcmp(a->mode, "strong") == 0;
}

/* The fit of a point; the first point of a fit, which does not say all that names its points. NULL: none. */
static const lhi_scale_line *scale_fit(const lhi_report *r, const lhi_scale_line *of)
{
    for (int64_t k = 0; k < r->scales; k++) {
        const lhi_scale_line *l = &r->scale[k];
        if (scale_point(l) != scale_point(of) && l->file == of->file && l->ranks == of->ranks &&
            l->again == of->again && scale_named(l, of))
            return l;
    }
    return NULL;
}

static void scale_lengths(lhi_report *r)
{
    lh_plot p = {.id = "lengths",
                 .title = "Step time against length",
                 .x_label = "length",
                 .y_label = "seconds a step",
                 .log_x = true,
                 .log_y = true,
                 .ticks_at_x = true,
                 .note = "bars: the fastest and the slowest repeat"};
    char label[SCALE_NAME];
    int colour = 0;
    for (int64_t i = 0; i < r->scales; i++) {
        if (!scale_point(&r->scale[i]) || !scale_first(r, i, scale_grows) ||
            strcmp(r->scale[i].mode, "strong") != 0 || scale_members(r, i, scale_grows) < 2)
            continue;
        const lhi_scale_line *fit = scale_fit(r, &r->scale[i]);
        (void)scale_label(r, &r->scale[i], label);
        size_t n = strlen(label);
        (void)snprintf(label + n, sizeof label - n, ", %.0f rank%s", r->scale[i].ranks,
                       r->scale[i].ranks == 1.0 ? "" : "s");
        n = strlen(label);
        if (fit != NULL) (void)snprintf(label + n, sizeof label - n, ": n^%.2f", fit->exponent);
        lh_plot_series *s = lh_plot_series_add(&p, label, LH_PLOT_ERRORS, colour++);
        for (int64_t k = 0; k < r->scales; k++)
            if (scale_grows(&r->scale[k], &r->scale[i]))
                lh_plot_point_add(&p, s,
                                  (lh_plot_point){r->scale[k].n, r->scale[k].step_s,
                                                  fmin(r->scale[k].least_s, r->scale[k].step_s),
                                                  r->scale[k].most_s});
    }
    lh_plot_figure(&p, &r->plotter, &r->h);
}

static void scale_fits(lhi_report *r)
{
    static const char *const head[] = {"mechanism", "#ranks", "#exponent", "#95 % confidence",
                                       NULL};
    char label[SCALE_NAME];
    bool some = false;
    for (int64_t i = 0; i < r->scales; i++) some = some || !scale_point(&r->scale[i]);
    if (!some) return;
    lh_html_put(&r->h,
                "<h3>Growth of a step's time with the length</h3><div class=\"scroll\"><table>\n");
    lh_html_head(&r->h, head);
    lh_html_put(&r->h, "<tbody>\n");
    for (int64_t i = 0; i < r->scales; i++) {
        const lhi_scale_line *l = &r->scale[i];
        if (scale_point(l)) continue;
        lh_html_put(&r->h, "<tr>");
        const lhi_scale_line *point = scale_fit(r, l);
        lh_html_cell(&r->h, scale_label(r, point != NULL ? point : l, label));
        lh_html_number(&r->h, 6, l->ranks);
        lh_html_print(
            &r->h, "<td class=\"n\">n<sup>%.3f</sup></td><td class=\"n\">%.3f to %.3f</td></tr>\n",
            l->exponent, l->low, l->high);
    }
    lh_html_put(&r->h, "</tbody></table></div>\n");
}

/* --- the table of points --- */

static void scale_row(lhi_report *r, const lhi_scale_line *l)
{
    char label[SCALE_NAME], text[LH_UNITS_TEXT];
    lh_html *h = &r->h;
    lh_html_put(h, "<tr>");
    lh_html_cell(h, scale_label(r, l, label));
    lh_html_print(h, "<td>%s%s</td>", strcmp(l->mode, "weak") == 0 ? "weak" : "strong",
                  l->extrapolated ? ", extrapolated" : "");
    lh_html_number(h, 8, l->ranks);
    lh_html_print(h, "<td class=\"n\">%s</td>", lh_units_length(l->n, text));
    lh_html_print(h, "<td class=\"n\">%s</td>", lhi_report_seconds(l->step_s, text));
    lhi_report_count(h, l->tokens_per_s);
    lh_html_number(h, 3, l->efficiency);
    if (isfinite(l->wait_s / l->mean_s))
        lh_html_print(h, "<td class=\"n\">%.1f</td>", 100.0 * l->wait_s / l->mean_s);
    else
        lh_html_put(h, "<td class=\"n\">–</td>");
    lh_html_print(h, "<td class=\"n\">%s</td>", lhi_report_bytes(l->sent, text));
    lhi_report_planned(h, l->sent, l->predicted_sent);
    lh_html_print(h, "<td class=\"n\">%s</td></tr>\n", lhi_report_bytes(l->peak, text));
}

static lh_plot scale_axes(const char *id, const char *title, scale_what what, bool log_y)
{
    lh_plot p = {.id = id,
                 .title = title,
                 .x_label = "ranks",
                 .y_label = what == SCALE_TIME ? "seconds a step" : "efficiency",
                 .log_x = true,
                 .log_y = log_y,
                 .from_zero = !log_y,
                 .ticks_at_x = true};
    if (what == SCALE_EFFICIENCY)
        (void)snprintf(p.note, sizeof p.note,
                       "work of the model per second and rank, to that on the fewest ranks");
    return p;
}

void lhi_report_scaling(lhi_report *r)
{
    static const char *const head[] = {"attention", "mode",      "#ranks",       "#n",
                                       "#a step",   "#tokens/s", "#efficiency",  "#waiting, %",
                                       "#sent",     "#formula",  "#step memory", NULL};
    static const char *const note = "bars: the fastest and the slowest repeat";
    lh_plot strong = scale_axes("strong", "Strong scaling", SCALE_TIME, true);
    lh_plot strong_e =
        scale_axes("strong-efficiency", "Efficiency, strong", SCALE_EFFICIENCY, false);
    lh_plot weak = scale_axes("weak", "Weak scaling", SCALE_TIME, false);
    lh_plot weak_e = scale_axes("weak-efficiency", "Efficiency, weak", SCALE_EFFICIENCY, false);
    if (r->scales == 0) return;
    lhi_report_section(r, "scaling", "Scaling",
                       "Steps on random tokens (longhaul scale): the median of the repeats.");
    (void)snprintf(strong.note, sizeof strong.note, "the same sequence on all numbers of ranks; %s",
                   note);
    (void)snprintf(weak.note, sizeof weak.note, "the sequence grows with the ranks; %s", note);
    lh_html_put(&r->h, "<div class=\"plots\">\n");
    scale_plot(r, "strong", SCALE_TIME, &strong);
    scale_plot(r, "strong", SCALE_EFFICIENCY, &strong_e);
    scale_plot(r, "weak", SCALE_TIME, &weak);
    scale_plot(r, "weak", SCALE_EFFICIENCY, &weak_e);
    scale_lengths(r);
    lh_html_put(&r->h, "</div>\n");
    scale_fits(r);
    int64_t points = 0;
    for (int64_t i = 0; i < r->scales; i++) points += scale_point(&r->scale[i]);
    lh_html_print(&r->h, "<details%s><summary>All %" PRId64 " points</summary>",
                  points <= SCALE_ROWS ? " open=\"open\"" : "", points);
    lh_html_put(&r->h, "<div class=\"scroll\"><table>\n");
    lh_html_head(&r->h, head);
    lh_html_put(&r->h, "<tbody>\n");
    for (int64_t i = 0; i < r->scales; i++)
        if (scale_point(&r->scale[i])) scale_row(r, &r->scale[i]);
    lh_html_put(&r->h, "</tbody></table></div></details>\n");
}
