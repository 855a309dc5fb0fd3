/* What a step costs: time by part, bytes by purpose and memory by rank, beside the plan. */
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "experiments/report_internal.h"
#include "experiments/units.h"

enum { COST_ROWS = 24, COST_PARTS = 4, COST_RANKS = 24, COST_MIB = 1 << 20 };

static const char *const cost_parts[COST_PARTS] = {"compute", "waiting", "optimizer", "data"};

/* Plots of all runs have so many rows. */
static void cost_left(const lhi_report *r, lh_plot *p)
{
    if (r->runs > COST_ROWS)
        (void)snprintf(p->note, sizeof p->note, "the first %d of %" PRId64 " runs", COST_ROWS,
                       r->runs);
}

/* --- time --- */

/* Means over the logged steps but the first. step: NaN where there is none; part: NaN where it is not said. */
typedef struct cost_time {
    double step, part[COST_PARTS], checkpoints, evaluations;
    int64_t lines;
} cost_time;

static cost_time cost_time_of(const lh_report_run *run)
{
    cost_time t = {.step = 0.0};
    for (int64_t i = 0; i < run->n_train; i++) {
        const lh_train_line *l = &run->train[i];
        if (isfinite(l->checkpoint_s)) t.checkpoints += l->checkpoint_s;
        if ((i == 0 && run->n_train > 1) || !isfinite(l->step_s) || !isfinite(l->wait_s)) continue;
        t.lines++;
        t.step += l->step_s;
        t.part[1] += l->wait_s;
        t.part[2] += l->optimizer_s;
        t.part[3] += l->data_s;
    }
    for (int64_t i = 0; i < run->n_eval; i++)
        if (isfinite(run->eval[i].seconds)) t.evaluations += run->eval[i].seconds;
    double n = (double)t.lines; /* none: everything becomes NaN */
    t.step /= n;
    t.part[0] = t.step;
    for (int k = 1; k < COST_PARTS; k++) {
        t.part[k] /= n;
        if (isfinite(t.part[k])) t.part[0] -= t.part[k];
    }
    return t;
}

static void time_row(lhi_report *r, int64_t i, const cost_time *t)
{
    char text[LH_UNITS_TEXT];
    lh_html *h = &r->h;
    lh_html_put(h, "<tr>");
    lhi_report_name(r, i);
    lh_html_print(h, "<td class=\"n\">%s</td>", lhi_report_seconds(t->step, text));
    for (int k = 0; k < COST_PARTS; k++) {
        lh_html_print(h, "<td class=\"n\">%s", lhi_report_seconds(t->part[k], text));
        if (isfinite(t->part[k]))
            lh_html_print(h, " <span class=\"unit\">%.1f %%</span>", 100.0 * t->part[k] / t->step);
        lh_html_put(h, "</td>");
    }
    lh_html_print(h, "<td class=\"n\">%s</td>", lhi_report_seconds(t->checkpoints, text));
    lh_html_print(h, "<td class=\"n\">%s</td></tr>\n", lhi_report_seconds(t->evaluations, text));
}

void lhi_report_time(lhi_report *r)
{
    static const char *const head[] = {"run",
                                       "#a step",
                                       "#compute",
                                       "#waiting for messages",
                                       "#optimizer",
                                       "#data",
                                       "#checkpoints, in all",
                                       "#evaluations, in all",
                                       NULL};
    lh_plot p = {
        .id = "time", .title = "A step's time", .x_label = "% of a step", .from_zero = true};
    lh_plot_series *part[COST_PARTS];
    for (int k = 0; k < COST_PARTS; k++)
        part[k] = lh_plot_series_add(&p, cost_parts[k], LH_PLOT_BOXES, k);
    int64_t some = 0;
    for (int64_t i = 0; i < r->runs; i++) some += r->run[i].n_train > 0;
    if (some == 0) return;
    lhi_report_section(
        r, "time", "Where the time goes",
        "Means over logged steps and ranks, without the first step. Compute: all that is "
        "not waiting, the update or reading data.");
    for (int64_t i = 0; i < r->runs && i < COST_ROWS; i++) {
        cost_time t = cost_time_of(&r->run[i]);
        double from = 0.0;
        p.rows = (int)i + 1;
        for (int k = 0; k < COST_PARTS; k++) {
            double share = 100.0 * t.part[k] / t.step;
            if (!isfinite(share)) continue;
            lh_plot_point_add(
                &p, part[k],
                (lh_plot_point){from + share / 2.0, (double)(i + 1), from, from + share});
            from += share;
        }
    }
    cost_left(r, &p);
    lh_html_put(&r->h, "<div class=\"plots one\">");
    lh_plot_figure(&p, &r->plotter, &r->h);
    lh_html_put(&r->h, "</div><div class=\"scroll\"><table>\n");
    lh_html_head(&r->h, head);
    lh_html_put(&r->h, "<tbody>\n");
    for (int64_t i = 0; i < r->runs; i++) {
        cost_time t = cost_time_of(&r->run[i]);
        if (t.lines > 0) time_row(r, i, &t);
    }
    lh_html_put(
        &r->h,
        "</tbody></table></div>\n<p class=\"foot\">Checkpoints: those before the last logged step; "
        "evaluations: of rank 0. Both lie between steps.</p>\n");
}

/* --- bytes --- */

/* Lines since the run was started last, on these ranks; *equal: those that send exactly what is planned;
 * *last: the last of them, of NaN where there is none. */
static int64_t traffic_lines(const lh_report_run *run, int64_t *equal, lh_train_line *last)
{
    double from = lh_report_environment(run, "from_step");
    int64_t lines = 0;
    *equal = 0;
    last->sent = (double)NAN;
    for (int k = 0; k < LH_SEND_OTHER; k++) last->purpose[k] = (double)NAN;
    for (int64_t i = 0; i < run->n_train; i++) {
        const lh_train_line *l = &run->train[i];
        if (!(l->step > from) || !isfinite(l->sent)) continue;
        lines++;
        *last = *l;
        bool same = lhi_report_equal(l->sent, run->plan->sent_bytes);
        for (int k = 0; k < LH_SEND_OTHER; k++)
            same = same && (!isfinite(l->purpose[k]) ||
                            lhi_report_equal(l->purpose[k], run->plan->purpose[k]));
        *equal += same;
    }
    return lines;
}

static void traffic_row(lh_html *h, const char *name, double counted, double planned)
{
    char a[LH_UNITS_TEXT];
    lh_html_print(h, "<td>%s</td><td class=\"n\">", name);
    if (isfinite(counted))
        lh_html_print(h, "%.0f</td><td class=\"n\">%s</td>", counted, lhi_report_bytes(counted, a));
    else
        lh_html_put(h, "–</td><td class=\"n\">–</td>");
    lh_html_print(h, "<td class=\"n\">%.0f</td>", planned);
    if (!isfinite(counted))
        lh_html_put(h, "<td>–</td>");
    else if (lhi_report_equal(counted, planned))
        lh_html_put(h, "<td class=\"good\">equal</td>");
    else
        lh_html_print(h, "<td class=\"bad\">%+.0f</td>", counted - planned);
    lh_html_put(h, "</tr>\n");
}

static void traffic_run(lhi_report *r, int64_t i)
{
    const lh_report_run *run = &r->run[i];
    lh_train_line last;
    int64_t equal = 0;
    int64_t lines = traffic_lines(run, &equal, &last);
    int shown = 1;
    for (int k = 0; k < LH_SEND_OTHER; k++)
        shown += run->plan->purpose[k] > 0.0 || last.purpose[k] > 0.0;
    lh_html_put(&r->h, "<tr class=\"first\">");
    lh_html_print(&r->h, "<th scope=\"rowgroup\" rowspan=\"%d\">", shown);
    lh_html_print(&r->h, "<b>#%" PRId64 "</b> ", i + 1);
    lh_html_text(&r->h, run->label);
    if (lines > 0)
        lh_html_print(&r->h,
                      "<div class=\"said\">%" PRId64 " of %" PRId64
                      " logged steps send exactly what is planned</div></th>",
                      equal, lines);
    else
        lh_html_put(&r->h, "<div class=\"said\">no step logged since the last start</div></th>");
    for (int k = 0; k < LH_SEND_OTHER; k++)
        if (run->plan->purpose[k] > 0.0 || last.purpose[k] > 0.0) {
            traffic_row(&r->h, lh_purpose_name((lh_purpose)k), last.purpose[k],
                        run->plan->purpose[k]);
            lh_html_put(&r->h, "<tr>");
        }
    traffic_row(&r->h, "all", last.sent, run->plan->sent_bytes);
}

static bool cost_planned(const lh_report_run *run)
{
    return run->plan != NULL && run->n_train > 0;
}

/* Runs that could not be planned, and why. */
static void cost_unplanned(lhi_report *r)
{
    for (int64_t i = 0; i < r->runs; i++) {
        if (r->run[i].unplanned == NULL) continue;
        lh_html_print(&r->h, "<p class=\"foot\">#%" PRId64 " is not planned: ", i + 1);
        lh_html_text(&r->h, r->run[i].unplanned);
        lh_html_put(&r->h, "</p>\n");
    }
}

static void traffic_plot(lhi_report *r)
{
    lh_plot p = {.id = "bytes",
                 .title = "Bytes sent",
                 .x_label = "bytes of a step, mean over ranks",
                 .from_zero = true};
    for (int k = 0; k < LH_SEND_OTHER; k++) {
        lh_plot_series *s =
            lh_plot_series_add(&p, lh_purpose_name((lh_purpose)k), LH_PLOT_BOXES, k);
        for (int64_t i = 0; i < r->runs && i < COST_ROWS; i++) {
            const lh_train_line *last = lh_report_last(&r->run[i]);
            double from = 0.0;
            if (last == NULL || !(last->sent > 0.0)) continue;
            p.rows = (int)i + 1;
            for (int before = 0; before < k; before++) from += last->purpose[before];
            if (last->purpose[k] > 0.0)
                lh_plot_point_add(&p, s,
                                  (lh_plot_point){from + last->purpose[k] / 2.0, (double)(i + 1),
                                                  from, from + last->purpose[k]});
        }
    }
    cost_left(r, &p);
    lh_html_put(&r->h, "<div class=\"plots one\">");
    lh_plot_figure(&p, &r->plotter, &r->h);
    lh_html_put(&r->h, "</div>");
}

void lhi_report_traffic(lhi_report *r)
{
    static const char *const head[] = {"run", "purpose", "#bytes", "#", "#formula", "", NULL};
    int64_t some = 0, left = 0, without = 0;
    for (int64_t i = 0; i < r->runs; i++) {
        const lh_report_run *run = &r->run[i];
        some += cost_planned(run);
        without += run->n_train > 0 && run->plan == NULL && run->unplanned != NULL;
        left += run->n_train > 0 && run->plan == NULL && run->unplanned == NULL;
    }
    if (some + without == 0) return;
    lhi_report_section(
        r, "bytes", "Bytes sent, and the formula",
        "Payload handed to MPI in one step, mean over ranks: as the run counted it in its last "
        "logged step, and as longhaul plan predicts it from the configuration alone.");
    traffic_plot(r);
    if (some > 0) {
        lh_html_put(&r->h, "<div class=\"scroll\"><table>\n");
        lh_html_head(&r->h, head);
        lh_html_put(&r->h, "<tbody>\n");
        for (int64_t i = 0; i < r->runs; i++)
            if (cost_planned(&r->run[i])) traffic_run(r, i);
        lh_html_put(&r->h, "</tbody></table></div>\n");
    }
    cost_unplanned(r);
    if (left > 0)
        lh_html_print(&r->h,
                      "<p class=\"foot\">%" PRId64 " more run%s not compared with the plan.</p>\n",
                      left, left == 1 ? " is" : "s are");
}

/* --- memory --- */

/* A list of environment.json, by rank; NULL: there is none. */
static const lh_json_item *memory_list(const lh_report_run *run, const char *list)
{
    if (run->sweep >= 0 && run->plan == NULL && run->unplanned == NULL)
        return NULL; /* its first point stands for it */
    return lh_json_find(run->environment, list);
}

static double memory_of(const lh_report_run *run, const char *list, int64_t rank)
{
    return lh_json_item_number(lh_json_at(memory_list(run, list), rank));
}

static bool memory_same(const lh_report_run *run, int64_t a, int64_t b)
{
    return memory_of(run, "rank_rows", a) == memory_of(run, "rank_rows", b) &&
           memory_of(run, "rank_peak_bytes", a) == memory_of(run, "rank_peak_bytes", b) &&
           memory_of(run, "rank_parameter_bytes", a) == memory_of(run, "rank_parameter_bytes", b);
}

static void memory_pair(lh_html *h, double counted, double planned)
{
    char text[LH_UNITS_TEXT];
    lh_html_print(h, "<td class=\"n\">%s</td>", lhi_report_bytes(counted, text));
    lhi_report_planned(h, counted, planned);
}

/* Neighbours that are alike share a row. Returns how many ranks are left out. */
static int64_t memory_run(lhi_report *r, int64_t i)
{
    const lh_report_run *run = &r->run[i];
    const int64_t ranks = lh_json_count(memory_list(run, "rank_peak_bytes"));
    char text[LH_UNITS_TEXT];
    int64_t rows = 0, rank = 0;
    for (int64_t end = 0; rank < ranks && rows < COST_RANKS; rank = end, rows++) {
        for (end = rank + 1; end < ranks && memory_same(run, rank, end);) end++;
        const lh_rank_plan *plan =
            run->plan != NULL ? &run->plan->rank[rank % run->plan->sequence] : NULL;
        lh_html_put(&r->h, "<tr>");
        lhi_report_name(r, i);
        lh_html_print(&r->h, "<td class=\"n\">%s</td>", lh_units_range(rank, end - 1, text));
        lh_html_number(&r->h, 12, memory_of(run, "rank_rows", rank));
        memory_pair(&r->h, memory_of(run, "rank_peak_bytes", rank),
                    plan != NULL ? (double)plan->peak_bytes : (double)NAN);
        memory_pair(&r->h, memory_of(run, "rank_parameter_bytes", rank),
                    plan != NULL ? (double)plan->parameter_bytes : (double)NAN);
        const lh_train_line *last = lh_report_last(run);
        lh_html_print(&r->h, "<td class=\"n\">%s</td></tr>\n",
                      rank == 0 && last != NULL ? lhi_report_bytes(last->rss, text) : "");
    }
    return ranks - rank;
}

/* Runs whose memory is shown: those that have it, up to COST_ROWS of them. *left: the others that have it. */
static bool memory_shown(const lhi_report *r, int64_t i, int64_t *left)
{
    bool has = memory_list(&r->run[i], "rank_peak_bytes") != NULL;
    int64_t before = 0;
    for (int64_t k = 0; has && k < i; k++)
        before += memory_list(&r->run[k], "rank_peak_bytes") != NULL;
    *left += has && before >= COST_ROWS;
    return has && before < COST_ROWS;
}

/* *left: runs that are not in it. */
static void memory_plot(lhi_report *r, int64_t *left)
{
    lh_plot p = {.id = "memory",
                 .title = "Step memory by rank",
                 .x_label = "rank",
                 .y_label = "MiB",
                 .from_zero = true,
                 .ticks_at_x = true,
                 .note = "dots: as the run allocated it; dashed: planned"};
    int64_t again = 0;
    bool planned = false;
    /* what is planned comes first, so that dots lie on its line */
    for (int64_t i = 0; i < r->runs; i++) {
        const lh_report_run *run = &r->run[i];
        const lh_json_item *list = memory_list(run, "rank_peak_bytes");
        if (!memory_shown(r, i, left) || run->plan == NULL) continue;
        lh_plot_series *s = lh_plot_series_add(&p, planned ? "" : "planned", LH_PLOT_DASHED, 0);
        lh_plot_series_row(s, "planned: %s", run->label);
        planned = true;
        for (int64_t rank = 0; rank < lh_json_count(list); rank++)
            lh_plot_point_add(
                &p, s,
                (lh_plot_point){(double)rank,
                                (double)run->plan->rank[rank % run->plan->sequence].peak_bytes /
                                    COST_MIB,
                                0.0, 0.0});
    }
    for (int64_t i = 0; i < r->runs; i++) {
        const lh_report_run *run = &r->run[i];
        if (!memory_shown(r, i, &again)) continue;
        lh_plot_series *s =
            lh_plot_series_add(&p, run->label, LH_PLOT_DOTS, lhi_report_colour(r, i));
        for (int64_t rank = 0; rank < lh_json_count(memory_list(run, "rank_peak_bytes")); rank++)
            lh_plot_point_add(&p, s,
                              (lh_plot_point){(double)rank,
                                              memory_of(run, "rank_peak_bytes", rank) / COST_MIB,
                                              0.0, 0.0});
    }
    lh_html_put(&r->h, "<div class=\"plots one\">");
    lh_plot_figure(&p, &r->plotter, &r->h);
    lh_html_put(&r->h, "</div>");
}

void lhi_report_memory(lhi_report *r)
{
    static const char *const head[] = {"run",          "#ranks",          "#rows",
                                       "#step memory", "#planned",        "#parameters",
                                       "#planned",     "#resident, most", NULL};
    int64_t some = 0, left = 0, again = 0, ranks = 0;
    for (int64_t i = 0; i < r->runs; i++)
        some += memory_list(&r->run[i], "rank_peak_bytes") != NULL;
    if (some == 0) return;
    lhi_report_section(
        r, "memory", "Memory by rank",
        "Step memory holds activations, exchange and scratch, as the run's allocations were "
        "counted, and, by the same formula in run and plan, the batch and the buffer of the "
        "reduction; parameters stand with gradients and moments; resident memory is the process's "
        "largest so far, of the rank that needs most.");
    memory_plot(r, &left);
    lh_html_put(&r->h, "<div class=\"scroll\"><table>\n");
    lh_html_head(&r->h, head);
    lh_html_put(&r->h, "<tbody>\n");
    for (int64_t i = 0; i < r->runs; i++)
        if (memory_shown(r, i, &again)) ranks += memory_run(r, i);
    lh_html_put(&r->h, "</tbody></table></div>\n");
    if (left > 0 || ranks > 0)
        lh_html_print(&r->h,
                      "<p class=\"foot\">Left out: %" PRId64 " more runs, %" PRId64
                      " more ranks of those shown.</p>\n",
                      left, ranks);
    cost_unplanned(r);
}
