/* Sweeps: mean and spread over seeds. */
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/report_internal.h"
#include "experiments/sweep_status.h"
#include "experiments/units.h"
#include "io/files.h"

enum {
    SWEEP_TEXT = LHI_REPORT_VALUES,
    SWEEP_ID = 32,
    SWEEP_CUT = 8,
    SWEEP_LAST = 10,
    SWEEP_LOG = 20
};

/* --- reading --- */

static const lh_json_item *sweep_values(const lhi_sweep *s, int group)
{
    for (int64_t i = 0; i < s->told->count; i++)
        if (s->point[i].group == group) return s->told->point[i].values;
    return NULL;
}

/* Keys of one more point. */
static void sweep_keys(lhi_sweep *s, const lh_json_item *values)
{
    for (lh_json_member m = {0}; lh_json_next(values, &m);) {
        int k = 0;
        while (k < s->keys && strcmp(s->key[k], m.key) != 0) k++;
        if (k == s->keys && k < LHI_SWEEP_KEYS) s->key[s->keys++] = m.key;
    }
}

/* The group of point i: those before it that have the same values, or a new one. */
static void sweep_group(lhi_sweep *s, int64_t i)
{
    const lh_sweep_point *told = s->told->point;
    lhi_sweep_point *p = &s->point[i];
    *p = (lhi_sweep_point){.run = -1, .group = s->groups};
    for (int64_t k = 0; k < i && p->group == s->groups; k++)
        if (lh_json_same(told[k].values, told[i].values)) p->group = s->point[k].group;
    if (p->group == s->groups) sweep_keys(s, told[i].values);
    s->groups += p->group == s->groups;
}

/* A group's values as text, but for `except`; where they have no room, the row of the table tells them apart. */
static void sweep_text(const lhi_sweep *s, int group, const char *except, char text[SWEEP_TEXT])
{
    (void)lh_json_show_members(sweep_values(s, group), except, text, SWEEP_TEXT);
    if (strlen(text) + 1 < SWEEP_TEXT - SWEEP_CUT) return;
    int n = snprintf(text, SWEEP_TEXT, "row %d: ", group + 1);
    (void)lh_json_show_members(sweep_values(s, group), except, text + n, SWEEP_TEXT - (size_t)n);
}

static lh_status sweep_runs(lhi_report *r, int index)
{
    lh_status st = LH_OK;
    char folder[LH_PATH_MAX], path[LH_PATH_MAX];
    bool planned = true;
    for (int64_t i = 0; i < r->sweep[index].told->count; i++) {
        lhi_sweep *s = &r->sweep[index];
        LH_TRY(lhi_path(folder, s->folder, s->told->point[i].dir));
        LH_TRY(lhi_path(path, folder, "config.yaml"));
        if (!lh_file_exists(NULL, path)) continue;
        LH_TRY(lhi_report_take_run(r, folder, planned));
        planned = false; /* one stands for all: a plan takes its time */
        s->point[i].run = r->runs - 1;
        r->run[r->runs - 1].sweep = index;
        r->run[r->runs - 1].group = s->point[i].group;
    }
done:
    return st;
}

lh_status lhi_report_take_sweep(lhi_report *r, const char *folder)
{
    lh_status st = LH_OK;
    LH_TRY(lh_grow(&r->sweep, &r->sweep_room, r->sweeps + 1, sizeof *r->sweep));
    lhi_sweep *s = &r->sweep[r->sweeps++];
    *s = (lhi_sweep){.groups = 0};
    LH_TRY(lh_new_text(folder, &s->folder));
    LH_TRY(lh_sweep_read(folder, &s->told));
    LH_TRY(lh_new((size_t)s->told->count * sizeof *s->point, &s->point));
    for (int64_t i = 0; i < s->told->count; i++) sweep_group(s, i);
    LH_TRY(lh_new((size_t)s->groups * sizeof *s->name, &s->name));
    for (int g = 0; g < s->groups; g++) sweep_text(s, g, NULL, s->name[g]);
    LH_TRY(sweep_runs(r, (int)r->sweeps - 1));
done:
    return st;
}

/* --- figures of a group --- */

typedef enum sweep_metric {
    SWEEP_MEASURE,
    SWEEP_VALID,
    SWEEP_TRAIN,
    SWEEP_SPEED,
    SWEEP_METRICS
} sweep_metric;

typedef struct sweep_stat {
    double mean, spread; /* spread: sample standard deviation; NaN below two */
    int64_t n;
} sweep_stat;

/* Mean loss over the last tenth of the lines. */
static double sweep_train_loss(const lh_report_run *run)
{
    double sum = 0.0;
    int64_t from = run->n_train - run->n_train / SWEEP_LAST - 1, n = 0;
    for (int64_t i = from < 0 ? 0 : from; i < run->n_train; i++, n++) sum += run->train[i].loss;
    return sum / (double)n;
}

static double sweep_metric_of(const lh_report_run *run, sweep_metric m)
{
    const lh_eval_line *e = lh_report_last_eval(run);
    if (m == SWEEP_TRAIN) return sweep_train_loss(run);
    if (m == SWEEP_SPEED) return lh_report_median(run, offsetof(lh_train_line, tokens_per_s));
    if (m == SWEEP_VALID) return e != NULL ? e->loss : (double)NAN;
    return lh_report_measure(run);
}

static const lh_report_run *sweep_finished(const lhi_report *r, const lhi_sweep_point *p)
{
    const lh_report_run *run = p->run >= 0 ? &r->run[p->run] : NULL;
    return run != NULL && strcmp(run->state, "finished") == 0 ? run : NULL;
}

/* Over the finished points of a group. */
static sweep_stat sweep_stat_of(const lhi_report *r, const lhi_sweep *s, int group, sweep_metric m)
{
    sweep_stat stat = {0.0, 0.0, 0};
    for (int pass = 0; pass < 2; pass++) {
        double sum = 0.0;
        stat.n = 0;
        for (int64_t i = 0; i < s->told->count; i++) {
            const lh_report_run *run =
                s->point[i].group == group ? sweep_finished(r, &s->point[i]) : NULL;
            double x = run != NULL ? sweep_metric_of(run, m) : (double)NAN;
            if (!isfinite(x)) continue;
            sum += pass == 0 ? x : (x - stat.mean) * (x - stat.mean);
            stat.n++;
        }
        if (pass == 0) stat.mean = sum / (double)stat.n;
        if (pass == 1) stat.spread = stat.n > 1 ? sqrt(sum / (double)(stat.n - 1)) : (double)NAN;
    }
    return stat;
}

/* What names the measure: the unit of the first run. */
static lh_unit sweep_unit(const lhi_report *r, const lhi_sweep *s)
{
    for (int64_t i = 0; i < s->told->count; i++)
        if (s->point[i].run >= 0) return r->run[s->point[i].run].unit;
    return LH_UNIT_ANSWER;
}

/* --- the plot --- */

/* Has every point a number of this key? *differ: and not all the same. */
static bool sweep_numbers(const lhi_sweep *s, const char *key, bool *differ)
{
    double first = lh_json_number(sweep_values(s, 0), key);
    *differ = false;
    for (int g = 0; g < s->groups; g++) {
        const lh_json_item *v = lh_json_find(sweep_values(s, g), key);
        if (lh_json_item_kind(v) != LH_JSON_NUMBER) return false;
        *differ = *differ || lh_json_item_number(v) != first;
    }
    return true;
}

/* The key along x: the first one with numbers alone, and more than one; NULL: none. */
static const char *sweep_axis(const lhi_sweep *s)
{
    bool differ = false;
    for (int k = 0; k < s->keys; k++)
        if (sweep_numbers(s, s->key[k], &differ) && differ) return s->key[k];
    return NULL;
}

static int sweep_by_x(const void *a, const void *b)
{
    double x = ((const lh_plot_point *)a)->x, y = ((const lh_plot_point *)b)->x;
    return (x > y) - (x < y);
}

/* Do two groups differ in `key` alone, which both have? */
static bool sweep_alike(const lh_json_item *a, const lh_json_item *b, const char *key)
{
    if (lh_json_count(a) != lh_json_count(b)) return false;
    for (lh_json_member m = {0}; lh_json_next(a, &m);)
        if (strcmp(m.key, key) != 0 && !lh_json_same(m.item, lh_json_find(b, m.key))) return false;
    return true;
}

static void sweep_point(const lhi_report *r, const lhi_sweep *s, int group, sweep_metric metric,
                        double x, lh_plot *p, lh_plot_series *series)
{
    sweep_stat stat = sweep_stat_of(r, s, group, metric);
    double spread = isfinite(stat.spread) ? stat.spread : 0.0;
    if (stat.n > 0)
        lh_plot_point_add(p, series,
                          (lh_plot_point){x, stat.mean, stat.mean - spread, stat.mean + spread});
}

/* The series of group g and of all that differ from it in `key` alone; nothing where an earlier one has it. */
static void sweep_series(const lhi_report *r, const lhi_sweep *s, int g, const char *key,
                         sweep_metric metric, lh_plot *p)
{
    char mine[SWEEP_TEXT];
    for (int before = 0; before < g; before++)
        if (sweep_alike(sweep_values(s, before), sweep_values(s, g), key)) return;
    sweep_text(s, g, key, mine);
    lh_plot_series *series = lh_plot_series_add(
        p, mine[0] != '\0' ? mine : "mean and spread over seeds", LH_PLOT_ERRORS, p->count);
    for (int h = g; h < s->groups; h++)
        if (sweep_alike(sweep_values(s, h), sweep_values(s, g), key))
            sweep_point(r, s, h, metric, lh_json_number(sweep_values(s, h), key), p, series);
    if (series != NULL && series->n > 1)
        qsort(series->point, (size_t)series->n, sizeof *series->point, sweep_by_x);
}

/* What is shown: the measure; where nothing was evaluated, the training loss. */
static sweep_metric sweep_shown(const lhi_report *r, const lhi_sweep *s)
{
    for (int g = 0; g < s->groups; g++)
        if (sweep_stat_of(r, s, g, SWEEP_MEASURE).n > 0) return SWEEP_MEASURE;
    return SWEEP_TRAIN;
}

static bool sweep_log_x(const lhi_sweep *s, const char *key)
{
    double least = INFINITY, most = 0.0;
    for (int g = 0; g < s->groups; g++) {
        double x = lh_json_number(sweep_values(s, g), key);
        least = fmin(least, x);
        most = fmax(most, x);
    }
    return least > 0.0 && most >= SWEEP_LOG * least && isfinite(least);
}

static void sweep_plot(lhi_report *r, int index)
{
    const lhi_sweep *s = &r->sweep[index];
    const char *key = sweep_axis(s);
    sweep_metric metric = sweep_shown(r, s);
    bool evaluated = metric == SWEEP_MEASURE;
    char id[SWEEP_ID] = "sweep";
    if (index > 0) (void)snprintf(id, sizeof id, "sweep-%d", index + 1);
    lh_plot p = {.id = id,
                 .title = evaluated ? "Validation over the sweep" : "Training over the sweep",
                 .x_label = key != NULL ? "value" : "row of the table",
                 .y_label = evaluated ? lh_report_measure_name(sweep_unit(r, s)) : "training loss",
                 .log_x = key != NULL && sweep_log_x(s, key),
                 .ticks_at_x = true};
    if (key != NULL)
        (void)snprintf(p.note, sizeof p.note,
                       "along x: %.100s; bars: standard deviation over seeds", key);
    else
        (void)snprintf(p.note, sizeof p.note, "bars: standard deviation over seeds");
    if (key != NULL)
        for (int g = 0; g < s->groups; g++) sweep_series(r, s, g, key, metric, &p);
    else { /* each group its own point, in one series */
        lh_plot_series *series =
            lh_plot_series_add(&p, "mean and spread over seeds", LH_PLOT_SPREAD, 0);
        for (int g = 0; g < s->groups; g++) sweep_point(r, s, g, metric, g + 1, &p, series);
    }
    lh_html_put(&r->h, "<div class=\"plots one\">");
    lh_plot_figure(&p, &r->plotter, &r->h);
    lh_html_put(&r->h, "</div>");
}

/* --- the table --- */

/* Tokens per second: mean and spread in the same unit. */
static void sweep_speed(sweep_stat stat, char mean[LH_UNITS_TEXT], char spread[LH_UNITS_TEXT])
{
    static const char *const name[] = {"", " K", " M", " G"};
    double unit = 1.0;
    int i = 0;
    for (; i < 3 && stat.mean >= 100000.0 * unit; i++) unit *= 1000.0;
    (void)snprintf(mean, LH_UNITS_TEXT, "%.0f%s", stat.mean / unit, name[i]);
    (void)snprintf(spread, LH_UNITS_TEXT, stat.spread >= 10.0 * unit ? "%.0f%s" : "%.2g%s",
                   stat.spread / unit, name[i]);
}

static void sweep_cell(lh_html *h, sweep_stat stat, sweep_metric metric)
{
    char mean[LH_UNITS_TEXT], spread[LH_UNITS_TEXT];
    (void)snprintf(mean, sizeof mean, "%.5g", stat.mean);
    (void)snprintf(spread, sizeof spread, "%.2g", stat.spread);
    if (metric == SWEEP_SPEED) sweep_speed(stat, mean, spread);
    if (stat.n == 0)
        lh_html_put(h, "<td class=\"n\">–</td>");
    else if (stat.n == 1)
        lh_html_print(h, "<td class=\"n\">%s</td>", mean);
    else
        lh_html_print(h, "<td class=\"n\">%s <span class=\"unit\">± %s</span></td>", mean, spread);
}

/* Group of the best mean: the least loss. -1: none. */
static int sweep_best(const lhi_report *r, const lhi_sweep *s)
{
    int best = -1;
    double least = INFINITY;
    for (int g = 0; g < s->groups; g++) {
        sweep_stat valid = sweep_stat_of(r, s, g, SWEEP_VALID);
        sweep_stat stat = valid.n > 0 ? valid : sweep_stat_of(r, s, g, SWEEP_TRAIN);
        if (stat.n == 0 || !(stat.mean < least)) continue;
        best = g;
        least = stat.mean;
    }
    return best;
}

/* How many of a group's points are finished, and what the others are. */
static void sweep_states(lhi_report *r, const lhi_sweep *s, int group)
{
    int64_t all = 0, finished = 0;
    for (int64_t i = 0; i < s->told->count; i++) {
        all += s->point[i].group == group;
        finished += s->point[i].group == group && sweep_finished(r, &s->point[i]) != NULL;
    }
    lh_html_print(&r->h, "<td class=\"n%s\">%" PRId64 " of %" PRId64, finished < all ? " bad" : "",
                  finished, all);
    for (int64_t i = 0; i < s->told->count; i++) {
        const lhi_sweep_point *p = &s->point[i];
        if (p->group != group || sweep_finished(r, p) != NULL) continue;
        lh_html_print(&r->h, "<div class=\"said\">seed %" PRId64 ": %s</div>",
                      s->told->point[i].seed, p->run >= 0 ? r->run[p->run].state : "not begun");
    }
    lh_html_put(&r->h, "</td>");
}

static void sweep_row(lhi_report *r, const lhi_sweep *s, int group, bool best)
{
    const lh_json_item *values = sweep_values(s, group);
    char text[SWEEP_TEXT];
    lh_html_print(&r->h, "<tr%s><th scope=\"row\" class=\"n\">%d</th>",
                  best ? " class=\"best\"" : "", group + 1);
    for (int k = 0; k < s->keys; k++) {
        const lh_json_item *v = lh_json_find(values, s->key[k]);
        (void)snprintf(text, sizeof text, "–"); /* as the file has it */
        if (v != NULL) (void)lh_json_show(v, text, sizeof text);
        lh_html_put(&r->h, lh_json_item_kind(v) == LH_JSON_NUMBER ? "<td class=\"n\">" : "<td>");
        lh_html_text(&r->h, text);
        lh_html_put(&r->h, "</td>");
    }
    for (int m = 0; m < SWEEP_METRICS; m++)
        sweep_cell(&r->h, sweep_stat_of(r, s, group, (sweep_metric)m), (sweep_metric)m);
    sweep_states(r, s, group);
    lh_html_put(&r->h, "</tr>\n");
}

static void sweep_table(lhi_report *r, const lhi_sweep *s)
{
    bool differ = false;
    int best = sweep_best(r, s);
    lh_html_put(&r->h,
                "<div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\" class=\"n\">row</th>");
    for (int k = 0; k < s->keys; k++) {
        lh_html_put(&r->h, sweep_numbers(s, s->key[k], &differ) ? "<th scope=\"col\" class=\"n\">"
                                                                : "<th scope=\"col\">");
        lh_html_text(&r->h, s->key[k]);
        lh_html_put(&r->h, "</th>");
    }
    lh_html_print(
        &r->h,
        "<th scope=\"col\" class=\"n\">%s</th><th scope=\"col\" class=\"n\">validation loss</th>"
        "<th scope=\"col\" class=\"n\">training loss</th><th scope=\"col\" "
        "class=\"n\">tokens/s</th>"
        "<th scope=\"col\" class=\"n\">finished</th></tr></thead>\n<tbody>\n",
        lh_report_measure_name(sweep_unit(r, s)));
    for (int g = 0; g < s->groups; g++) sweep_row(r, s, g, g == best);
    lh_html_put(
        &r->h,
        "</tbody></table></div>\n<p class=\"foot\">Mean ± sample standard deviation over the "
        "finished seeds; "
        "marked: the least loss. Training loss: over the last tenth of the logged steps.</p>\n");
}

void lhi_report_sweeps(lhi_report *r)
{
    int64_t left = 0;
    if (r->sweeps == 0) return;
    lhi_report_section(r, "sweep", r->sweeps == 1 ? "Sweep" : "Sweeps", NULL);
    for (int64_t i = 0; i < r->sweeps; i++) {
        const lhi_sweep *s = &r->sweep[i];
        left = 0;
        for (int64_t k = 0; k < s->told->count; k++)
            left += sweep_finished(r, &s->point[k]) == NULL;
        lh_html_put(&r->h, "<h3>");
        lh_html_text(&r->h, s->folder);
        lh_html_print(&r->h, ": %" PRId64 " points, %d combinations", s->told->count, s->groups);
        if (left > 0) lh_html_print(&r->h, ", <b>%" PRId64 " not finished</b>", left);
        lh_html_put(&r->h, "</h3>\n");
        sweep_plot(r, (int)i);
        sweep_table(r, s);
    }
}
