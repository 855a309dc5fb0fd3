/* The table of runs, and curves of training and validation. */
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "experiments/report_internal.h"
#include "experiments/units.h"

enum { CURVES_FEW = 16, CURVES_SMOOTH = 40, CURVES_RAW = 20 };

/* --- the table of runs --- */

static void overview_state(lhi_report *r, const lh_report_run *run)
{
    lh_html_print(&r->h, "<td><span class=\"state %s\">%s</span>", run->state, run->state);
    if (strcmp(run->state, "failed") == 0 || strcmp(run->state, "silent") == 0) {
        lh_html_put(&r->h, "<div class=\"said\">");
        lh_html_text(&r->h, run->said != NULL ? run->said : "");
        lh_html_put(&r->h, "</div>");
    }
    lh_html_put(&r->h, "</td>");
}

static void overview_row(lhi_report *r, int64_t i)
{
    const lh_report_run *run = &r->run[i];
    const lh_train_line *last = lh_report_last(run);
    const lh_eval_line *e = lh_report_last_eval(run);
    char text[LH_UNITS_TEXT];
    double measure = lh_report_measure(run);
    lh_html *h = &r->h;
    lh_html_put(h, "<tr>");
    lhi_report_name(r, i);
    overview_state(r, run);
    lh_html_print(h, "<td class=\"n\">%.0f", last != NULL ? last->step : 0.0);
    if (run->config != NULL) lh_html_print(h, " / %" PRId64, run->config->schedule.steps);
    lh_html_put(h, "</td>");
    lh_html_number(h, 5, last != NULL ? last->loss : (double)NAN);
    lh_html_number(h, 5, e != NULL ? e->loss : (double)NAN);
    if (isfinite(measure))
        lh_html_print(h, "<td class=\"n\">%.4g <span class=\"unit\">%s</span></td>", measure,
                      run->unit == LH_UNIT_BYTE ? "bits/byte" : lh_report_measure_name(run->unit));
    else
        lh_html_put(h, "<td class=\"n\">–</td>");
    lh_html_number(h, 4, e != NULL ? 100.0 * e->accuracy : (double)NAN);
    lhi_report_count(h, lh_report_median(run, offsetof(lh_train_line, tokens_per_s)));
    lh_html_print(h, "<td class=\"n\">%s</td>",
                  lhi_report_seconds(lh_report_median(run, offsetof(lh_train_line, step_s)), text));
    lh_html_print(h, "<td class=\"n\">%s</td>",
                  lhi_report_bytes(last != NULL ? last->peak : (double)NAN, text));
    lh_html_number(h, 6, lh_report_environment(run, "ranks"));
    lh_html_put(h, "</tr>\n");
}

/* What a reader of one run wants first. */
static void overview_tile(lh_html *h, const char *name, const char *value)
{
    lh_html_print(h, "<div class=\"tile\"><dt>%s</dt><dd>%s</dd></div>\n", name, value);
}

static void overview_tiles(lhi_report *r, const lh_report_run *run)
{
    const lh_train_line *last = lh_report_last(run);
    char value[2 * LH_UNITS_TEXT], text[LH_UNITS_TEXT];
    double measure = lh_report_measure(run);
    lh_html_put(&r->h, "<dl class=\"tiles\">\n");
    (void)snprintf(value, sizeof value, "<span class=\"state %s\">%s</span>", run->state,
                   run->state);
    overview_tile(&r->h, "state", value);
    if (isfinite(measure)) {
        (void)snprintf(value, sizeof value, "%.4g", measure);
        (void)snprintf(text, sizeof text, "%s, validation", lh_report_measure_name(run->unit));
        overview_tile(&r->h, text, value);
    }
    if (last != NULL) {
        (void)snprintf(value, sizeof value, "%.4g", last->loss);
        overview_tile(&r->h, "training loss", value);
        (void)snprintf(
            value, sizeof value, "%s",
            lh_units_count(lh_report_median(run, offsetof(lh_train_line, tokens_per_s)), text));
        overview_tile(&r->h, "tokens per second", value);
        overview_tile(
            &r->h, "a step",
            lhi_report_seconds(lh_report_median(run, offsetof(lh_train_line, step_s)), text));
        overview_tile(&r->h, "step memory, largest rank", lhi_report_bytes(last->peak, text));
    }
    double parameters = lh_report_environment(run, "parameters");
    if (isfinite(parameters)) overview_tile(&r->h, "parameters", lh_units_count(parameters, text));
    lh_html_put(&r->h, "</dl>\n");
}

void lhi_report_overview(lhi_report *r)
{
    static const char *const head[] = {
        "run",          "state",     "#step",   "#training loss", "#validation loss", "#validation",
        "#accuracy, %", "#tokens/s", "#a step", "#step memory",   "#ranks",           NULL};
    if (r->runs == 0) return;
    lhi_report_section(r, "runs", "Runs", NULL);
    if (r->runs == 1) overview_tiles(r, &r->run[0]);
    lh_html_put(&r->h, "<div class=\"scroll\"><table>\n");
    lh_html_head(&r->h, head);
    lh_html_put(&r->h, "<tbody>\n");
    for (int64_t i = 0; i < r->runs; i++) overview_row(r, i);
    lh_html_put(
        &r->h,
        "</tbody></table></div>\n<p class=\"foot\">Loss: nats per label, of the last logged step "
        "and of the last evaluation. Tokens/s and a step: medians over logged steps. Step memory: "
        "of the rank that needs most, without parameters and moments.</p>\n");
    for (int64_t i = 0; i < r->runs; i++)
        if (r->run[i].torn > 0)
            lh_html_print(&r->h,
                          "<p class=\"foot\">#%" PRId64 ": %" PRId64
                          " torn lines of metrics.jsonl were passed over.</p>\n",
                          i + 1, r->run[i].torn);
}

/* --- curves --- */

/* A number of a line of training. */
static double curve_value(const lh_train_line *l, size_t offset)
{
    return *(const double *)((const char *)l + offset);
}

/* What of a curve is shown: all lines as they are; their running mean; both, all lines pale. */
typedef enum curve_kind { CURVE_LINES, CURVE_MEAN, CURVE_BOTH } curve_kind;

/* The running mean is over 2 half + 1 lines around each, those that are finite; short runs have none.
 * by_tokens: x is tokens, not steps. */
static void curve_train(lhi_report *r, int64_t i, size_t offset, curve_kind kind, bool by_tokens,
                        lh_plot *p)
{
    const lh_report_run *run = &r->run[i];
    int colour = lhi_report_colour(r, i);
    int64_t half = kind != CURVE_LINES && run->n_train >= CURVES_RAW
                       ? run->n_train / (2 * CURVES_SMOOTH) + 1
                       : 0;
    lh_plot_series *pale = NULL;
    if (kind == CURVE_BOTH && half > 0) pale = lh_plot_series_add(p, "", LH_PLOT_FAINT, colour);
    lh_plot_series_row(pale, "%s: logged steps", run->label);
    lh_plot_series *line = lh_plot_series_add(p, lhi_report_legend(r, i), LH_PLOT_LINE, colour);
    lh_plot_series_row(line, "%s", run->label);
    double sum = 0.0;
    int64_t from = 0, to = 0, count = 0;
    for (int64_t k = 0; k < run->n_train; k++) {
        for (; to < run->n_train && to <= k + half; to++) {
            double x = curve_value(&run->train[to], offset);
            sum += isfinite(x) ? x : 0.0;
            count += isfinite(x);
        }
        for (; from < k - half; from++) {
            double x = curve_value(&run->train[from], offset);
            sum -= isfinite(x) ? x : 0.0;
            count -= isfinite(x);
        }
        const lh_train_line *l = &run->train[k];
        double x = by_tokens ? l->step * l->tokens : l->step;
        double y = curve_value(l, offset);
        lh_plot_point_add(p, pale, (lh_plot_point){x, y, 0.0, 0.0});
        lh_plot_point_add(p, line,
                          (lh_plot_point){x, isfinite(y) ? sum / (double)count : y, 0.0, 0.0});
    }
}

static void curve_eval(lhi_report *r, int64_t i, size_t offset, bool alone, lh_plot *p)
{
    const lh_report_run *run = &r->run[i];
    lh_plot_series *s =
        lh_plot_series_add(p, alone ? lhi_report_legend(r, i) : "",
                           alone ? LH_PLOT_POINTS : LH_PLOT_DOTS, lhi_report_colour(r, i));
    lh_plot_series_row(s, alone ? "%s" : "%s: validation", run->label);
    for (int64_t k = 0; k < run->n_eval; k++) {
        double y = *(const double *)((const char *)&run->eval[k] + offset);
        lh_plot_point_add(p, s, (lh_plot_point){run->eval[k].step, y, 0.0, 0.0});
    }
}

static int64_t curves_of(const lhi_report *r, lh_unit unit)
{
    int64_t n = 0;
    for (int64_t i = 0; i < r->runs; i++) n += r->run[i].unit == unit && r->run[i].n_train > 0;
    return n;
}

/* Training and validation loss of the runs of one unit. */
static void curves_loss(lhi_report *r, lh_unit unit, bool by_tokens)
{
    static const char *const label[] = {[LH_UNIT_ANSWER] = "nats per label",
                                        [LH_UNIT_BYTE] = "nats per byte",
                                        [LH_UNIT_TOKEN] = "nats per token"};
    static const char *const id[] = {[LH_UNIT_ANSWER] = "loss-answer",
                                     [LH_UNIT_BYTE] = "loss-byte",
                                     [LH_UNIT_TOKEN] = "loss-token"};
    lh_plot p = {.id = id[unit], .title = "Loss", .x_label = "step", .y_label = label[unit]};
    bool few = curves_of(r, unit) <= CURVES_FEW;
    if (by_tokens) {
        p.id = "loss-tokens";
        p.title = "Loss against tokens";
        p.x_label = "tokens";
    }
    for (int64_t i = 0; i < r->runs; i++) {
        if (r->run[i].unit != unit || r->run[i].n_train == 0) continue;
        curve_train(r, i, offsetof(lh_train_line, loss), few ? CURVE_BOTH : CURVE_MEAN, by_tokens,
                    &p);
        if (!by_tokens && few) curve_eval(r, i, offsetof(lh_eval_line, loss), false, &p);
    }
    (void)snprintf(p.note, sizeof p.note, "%s",
                   by_tokens ? "running mean of training: batches differ in size"
                   : few ? "line: running mean of training; pale: logged steps; dots: validation"
                         : "running mean of training");
    lh_plot_figure(&p, &r->plotter, &r->h);
}

/* What evaluations say in the unit itself. */
static void curves_measure(lhi_report *r, lh_unit unit)
{
    static const struct {
        const char *id, *title, *label;
        size_t offset;
    } how[] = {
        [LH_UNIT_ANSWER] = {"accuracy", "Accuracy", "share of right answers",
                            offsetof(lh_eval_line, accuracy)},
        [LH_UNIT_BYTE] = {"bits", "Bits per byte", "bits per byte", offsetof(lh_eval_line, bits)},
        [LH_UNIT_TOKEN] = {"perplexity", "Perplexity", "perplexity",
                           offsetof(lh_eval_line, perplexity)}};
    lh_plot p = {.id = how[unit].id,
                 .title = how[unit].title,
                 .x_label = "step",
                 .y_label = how[unit].label,
                 .note = "validation: never trained on",
                 .log_y = unit == LH_UNIT_TOKEN};
    for (int64_t i = 0; i < r->runs; i++)
        if (r->run[i].unit == unit && r->run[i].n_eval > 0)
            curve_eval(r, i, how[unit].offset, true, &p);
    lh_plot_figure(&p, &r->plotter, &r->h);
}

/* The same of all runs, whatever they learn. */
static void curves_common(lhi_report *r, lh_plot *p, size_t offset, curve_kind kind)
{
    for (int64_t i = 0; i < r->runs; i++)
        if (r->run[i].n_train > 0) curve_train(r, i, offset, kind, false, p);
    lh_plot_figure(p, &r->plotter, &r->h);
}

/* Do runs of one unit differ in the tokens of a step? */
static bool curves_batches_differ(const lhi_report *r, lh_unit unit)
{
    double tokens = (double)NAN;
    for (int64_t i = 0; i < r->runs; i++) {
        if (r->run[i].unit != unit || r->run[i].n_train == 0) continue;
        if (isfinite(tokens) && tokens != r->run[i].train[0].tokens) return true;
        tokens = r->run[i].train[0].tokens;
    }
    return false;
}

void lhi_report_curves(lhi_report *r)
{
    lh_plot norm = {.id = "norm",
                    .title = "Gradient norm",
                    .x_label = "step",
                    .y_label = "norm before clipping",
                    .log_y = true};
    lh_plot speed = {.id = "speed",
                     .title = "Speed",
                     .x_label = "step",
                     .y_label = "tokens per second",
                     .from_zero = true};
    lh_plot rate = {.id = "rate",
                    .title = "Learning rate",
                    .x_label = "step",
                    .y_label = "rate",
                    .from_zero = true};
    int64_t lines = 0;
    int units = 0;
    for (int64_t i = 0; i < r->runs; i++) lines += r->run[i].n_train;
    for (int u = LH_UNIT_ANSWER; u <= LH_UNIT_TOKEN; u++) units += curves_of(r, (lh_unit)u) > 0;
    if (lines == 0) return;
    curve_kind both = r->runs <= CURVES_FEW ? CURVE_BOTH : CURVE_MEAN;
    lhi_report_section(
        r, "curves", "Curves",
        units > 1 ? "Runs of differing tasks: those whose loss has the same unit share a plot."
                  : NULL);
    lh_html_put(&r->h, "<div class=\"plots\">\n");
    for (int u = LH_UNIT_ANSWER; u <= LH_UNIT_TOKEN; u++) {
        if (curves_of(r, (lh_unit)u) == 0) continue;
        curves_loss(r, (lh_unit)u, false);
        curves_measure(r, (lh_unit)u);
        if (curves_batches_differ(r, (lh_unit)u)) curves_loss(r, (lh_unit)u, true);
    }
    curves_common(r, &speed, offsetof(lh_train_line, tokens_per_s), both);
    curves_common(r, &norm, offsetof(lh_train_line, grad_norm), both);
    curves_common(r, &rate, offsetof(lh_train_line, lr), CURVE_LINES);
    lh_html_put(&r->h, "</div>\n");
}
