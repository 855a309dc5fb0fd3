#include "experiments/report.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "experiments/options.h"
#include "experiments/output.h"
#include "experiments/report_internal.h"
#include "experiments/run_status.h"
#include "experiments/units.h"
#include "io/files.h"

enum { REPORT_NAMES = 512, REPORT_PLANNED = 8, REPORT_PATIENCE = 30, REPORT_TEXT = 64 };

typedef struct report_options {
    const char *name[REPORT_NAMES];
    const char *out;
    int64_t patience;
} report_options;

static const lh_option report_table[] = {
    {.name = "--out",
     .kind = LH_OPTION_WORD,
     .offset = offsetof(report_options, out),
     .expected = "the name of the page, such as --out page.html"},
    {.name = "--patience",
     .kind = LH_OPTION_INT,
     .offset = offsetof(report_options, patience),
     .min = 1,
     .max = 3600},
    {.name = NULL}};

void lh_report_help(FILE *out)
{
    (void)fprintf(
        out,
        "longhaul report RUN_DIR|SWEEP_DIR|STUDY.jsonl... [--out page.html]\n\n"
        "One HTML page about runs, sweeps and scaling studies: it needs no network and no "
        "scripts,\n"
        "and is readable light and dark, wide, narrow and printed. One process, without a "
        "launcher;\n"
        "nothing in the folders is changed. Runs may be going on.\n\n"
        "  RUN_DIR        folder of a run (run.output/run.name). Several are compared: in one "
        "plot\n"
        "                 where the loss has the same unit\n"
        "  SWEEP_DIR      folder of a sweep (it has sweep.json): mean and spread over seeds\n"
        "  STUDY.jsonl    standard output of longhaul scale: scaling curves, exponents of growth\n"
        "  --out FILE     the page, FILE.html; else report.html. It replaces an earlier page, and "
        "nothing\n"
        "                 else\n"
        "  --patience S   seconds that gnuplot may take for one plot (default %d)\n\n"
        "The page shows: runs (state, loss, bits per byte or perplexity, speed, memory); curves "
        "of\n"
        "training and validation; where a step's time goes; bytes sent by purpose, and memory by\n"
        "rank, beside what longhaul plan says of the same step; scaling beside the ideal line; "
        "who\n"
        "attends to whom; keys in which runs differ; where they ran.\n\n"
        "Plots are drawn by gnuplot (Debian: gnuplot-nox). Without it the page has tables in "
        "their\n"
        "place, a note says so, and the exit code is 0; where gnuplot fails or takes too long, "
        "the\n"
        "same page is written, with what it said, and the exit code is 1.\n",
        (int)REPORT_PATIENCE);
}

/* --- what is named on the command line --- */

/* The error of a folder that is no run: it may hold some. */
static lh_status report_no_run(const char *folder)
{
    lh_status st = LH_OK;
    char run[LH_PATH_MAX];
    LH_TRY(lh_run_inside(NULL, folder, run));
    LH_CHECK(run[0] == '\0', LH_ERR_USAGE,
             "'%s' is no run folder, but holds some: name them, such as %s/%s", folder, folder,
             run);
    st = LH_RAISE(
        LH_ERR_USAGE,
        "'%s' is no run folder: it has neither config.yaml nor sweep.json; give folders that "
        "longhaul train made (run.output/run.name), or files of lines of longhaul scale",
        folder);
done:
    return st;
}

static lh_status report_take(lhi_report *r, const char *name)
{
    lh_status st = LH_OK;
    struct stat info;
    char path[LH_PATH_MAX];
    LH_CHECK(stat(name, &info) == 0, LH_ERR_USAGE,
             "longhaul report: there is no '%s': give run folders (run.output/run.name) and files "
             "of lines of longhaul scale",
             name);
    if (!S_ISDIR(info.st_mode)) return lhi_report_take_scale(r, name);
    LH_TRY(lhi_path(path, name, "sweep.json"));
    if (lh_file_exists(NULL, path)) return lhi_report_take_sweep(r, name);
    LH_TRY(lhi_path(path, name, "config.yaml"));
    if (!lh_file_exists(NULL, path)) return report_no_run(name);
    return lhi_report_take_run(r, name, r->runs < REPORT_PLANNED);
done:
    return st;
}

lh_status lhi_report_take_run(lhi_report *r, const char *folder, bool planned)
{
    lh_status st = LH_OK;
    LH_TRY(lh_grow(&r->run, &r->run_room, r->runs + 1, sizeof *r->run));
    LH_TRY(lh_report_run_read(folder, planned, &r->run[r->runs++]));
done:
    return st;
}

static lh_status report_relabel(lh_report_run *run, const char *text, size_t n)
{
    lh_status st = LH_OK;
    lh_free(&run->label);
    LH_TRY(lh_new(n + 1, &run->label));
    memcpy(run->label, text, n);
done:
    return st;
}

/* Two runs of one name are told apart by their folders, points of a sweep by their values. */
static lh_status report_labels(lhi_report *r)
{
    lh_status st = LH_OK;
    char text[LHI_REPORT_VALUES + REPORT_TEXT];
    bool *twice = NULL;
    LH_TRY(lh_new((size_t)r->runs + 1, &twice));
    /* all are compared before any is changed */
    for (int64_t i = 0; i < r->runs; i++)
        for (int64_t k = 0; k < r->runs && !twice[i]; k++)
            twice[i] = k != i && strcmp(r->run[i].label, r->run[k].label) == 0;
    for (int64_t i = 0; i < r->runs; i++) {
        lh_report_run *run = &r->run[i];
        size_t n = strlen(run->folder);
        while (n > 1 && run->folder[n - 1] == '/') n--;
        if (run->sweep >= 0) {
            (void)snprintf(text, sizeof text, "%s, seed %" PRId64,
                           r->sweep[run->sweep].name[run->group],
                           run->config != NULL ? run->config->run.seed : 0);
            LH_TRY(report_relabel(run, text, strlen(text)));
        } else if (twice[i]) {
            LH_TRY(report_relabel(run, run->folder, n));
        }
    }
done:
    lh_free(&twice);
    return st;
}

/* --- the page --- */

/* What every page begins with. */
static const char report_begin[] = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta "
                                   "charset=\"utf-8\"/>\n<meta name=\"generator\" "
                                   "content=\"longhaul report\"/>\n";

static const lh_output report_output = {.command = "longhaul report",
                                        .option = "--out",
                                        .what = "an HTML page",
                                        .ends = ".html",
                                        .begins = report_begin};

static void report_head(lh_html *h)
{
    lh_html_put(h, report_begin);
    lh_html_put(h, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
                   "<meta name=\"color-scheme\" content=\"light dark\"/>\n"
                   "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
                   "style-src 'unsafe-inline'; img-src data:\"/>\n"
                   "<title>Longhaul report</title>\n<style>\n");
    lh_html_put(h, lhi_report_style());
    lh_html_put(h, "</style>\n</head>\n<body>\n");
    lh_plot_marks(h);
}

void lhi_report_section(lhi_report *r, const char *id, const char *title, const char *lead)
{
    if (r->h.length > 0) lh_html_put(&r->h, "</section>\n");
    lh_html_print(&r->h, "<section id=\"%s\">\n<h2><a href=\"#%s\">%s</a></h2>\n", id, id, title);
    if (lead != NULL) lh_html_print(&r->h, "<p class=\"lead\">%s</p>\n", lead);
}

/* Why there are no plots, and what is wrong with folders. */
static void report_notes(lhi_report *r, lh_html *h)
{
    const lh_plotter *by = &r->plotter;
    if (by->missing || by->failed) {
        lh_html_print(h, "<div class=\"note warn\"><p><b>%s.</b> Tables stand in their place. ",
                      by->missing ? "No plots: gnuplot is missing" : "Plots are missing");
        lh_html_print(h, "%d of %d plots were drawn.</p><pre>", by->drawn, by->wanted);
        lh_html_text(h, by->says);
        lh_html_put(h, "</pre></div>\n");
    }
    for (int64_t i = 0; i < r->runs; i++) {
        if (r->run[i].trouble == NULL) continue;
        lh_html_put(h, "<div class=\"note warn\"><p><b>");
        lh_html_text(h, r->run[i].label);
        lh_html_put(h, "</b>: ");
        lh_html_text(h, r->run[i].trouble);
        lh_html_put(h, "</p></div>\n");
    }
    if (r->scale_torn > 0)
        lh_html_print(
            h,
            "<div class=\"note warn\"><p>%" PRId64
            " lines of the studies are no points or fits of longhaul scale: left out</p></div>\n",
            r->scale_torn);
}

/* Links to the sections that the body has. */
static void report_links(const lh_html *body, lh_html *h)
{
    const char *at = body->text;
    lh_html_put(h, "<nav aria-label=\"Sections\">");
    while (at != NULL && (at = strstr(at, "<section id=\"")) != NULL) {
        const char *id = at + strlen("<section id=\"");
        const char *name = strstr(at, "<h2><a href=\"#");
        if (name == NULL) break;
        name = strchr(name + 8, '>') + 1;
        lh_html_put(h, "<a href=\"#");
        lh_html_add(h, id, strcspn(id, "\""));
        lh_html_put(h, "\">");
        lh_html_add(h, name, strcspn(name, "<"));
        lh_html_put(h, "</a>");
        at = name;
    }
    lh_html_put(h, "</nav>\n");
}

static void report_part(lh_html *h, int64_t n, const char *one, const char *many, const char **join)
{
    if (n == 0) return;
    lh_html_print(h, "%s%" PRId64 " %s", *join, n, n == 1 ? one : many);
    *join = ", ";
}

/* Title, what it is about, when it was made. */
static void report_title(const lhi_report *r, lh_html *h)
{
    char when[REPORT_TEXT] = "";
    const char *join = "";
    struct tm at;
    time_t now = time(NULL);
    int64_t running = 0, alone = 0;
    if (gmtime_r(&now, &at) != NULL) (void)strftime(when, sizeof when, "%Y-%m-%d %H:%M UTC", &at);
    for (int64_t i = 0; i < r->runs; i++) {
        running += strcmp(r->run[i].state, "running") == 0;
        alone += r->run[i].sweep < 0;
    }
    lh_html_put(h, "<header>\n<p class=\"brand\">Longhaul report</p>\n<h1>");
    if (r->runs == 1)
        lh_html_text(h, r->run[0].label);
    else if (r->sweeps == 1 && alone == 0)
        lh_html_text(h, r->sweep[0].folder);
    else if (r->runs > 1)
        lh_html_print(h, "%" PRId64 " runs compared", r->runs);
    else
        lh_html_put(h, "Scaling");
    lh_html_put(h, "</h1>\n<p class=\"about\">");
    report_part(h, r->runs, "run", "runs", &join);
    report_part(h, r->sweeps, "sweep", "sweeps", &join);
    report_part(h, r->scale_files, "scaling study", "scaling studies", &join);
    lh_html_print(h, "; as of %s", when);
    if (running > 0) lh_html_print(h, "; <b>%" PRId64 " still running</b>", running);
    lh_html_print(h, "; longhaul %s</p>\n</header>\n", LH_VERSION);
}

static void report_body(lhi_report *r)
{
    lhi_report_sweeps(r);
    lhi_report_overview(r);
    lhi_report_curves(r);
    lhi_report_time(r);
    lhi_report_traffic(r);
    lhi_report_memory(r);
    lhi_report_scaling(r);
    lhi_report_attention(r);
    lhi_report_configuration(r);
    lhi_report_machines(r);
    lh_html_put(&r->h, "</section>\n");
}

/* The body comes first: only then is it known how gnuplot did. */
static lh_status report_write(lhi_report *r, const char *path)
{
    lh_status st = LH_OK;
    lh_html page = {0};
    report_body(r);
    LH_TRY(r->h.st);
    report_head(&page);
    report_title(r, &page);
    report_links(&r->h, &page);
    lh_html_put(&page, "<main>\n");
    report_notes(r, &page);
    lh_html_put(&page, r->h.text);
    lh_html_put(&page, "</main>\n</body>\n</html>\n");
    LH_TRY(page.st);
    LH_TRY(lh_write_small(NULL, path, page.text, (size_t)page.length));
done:
    lh_html_free(&page);
    return st;
}

/* --- helpers of all parts --- */

int lhi_report_colour(const lhi_report *r, int64_t run)
{
    int before = 0; /* runs that are no points come first, then each sweep's groups */
    for (int64_t i = 0; i < r->runs; i++)
        before += r->run[i].sweep < 0 && (i < run || r->run[run].sweep >= 0);
    for (int64_t s = 0; s < r->run[run].sweep; s++) before += r->sweep[s].groups;
    return r->run[run].sweep < 0 ? before : before + r->run[run].group;
}

void lhi_report_name(lhi_report *r, int64_t run)
{
    int colour = lhi_report_colour(r, run);
    lh_html_print(
        &r->h,
        "<th scope=\"row\"><i class=\"key box%s\" style=\"--c:var(--s%d)\"></i><b>#%" PRId64
        "</b> ",
        colour >= LH_PLOT_COLOURS ? " again" : "", 1 + colour % LH_PLOT_COLOURS, run + 1);
    lh_html_text(&r->h, r->run[run].label);
    lh_html_put(&r->h, "</th>");
}

const char *lhi_report_legend(const lhi_report *r, int64_t run)
{
    const lh_report_run *me = &r->run[run];
    if (me->sweep < 0) return me->label;
    for (int64_t i = 0; i < run; i++)
        if (r->run[i].sweep == me->sweep && r->run[i].group == me->group) return "";
    return r->sweep[me->sweep].name[me->group];
}

void lhi_report_count(lh_html *h, double x)
{
    char text[LH_UNITS_TEXT];
    lh_html_print(h, "<td class=\"n\">%s</td>", isfinite(x) ? lh_units_count(x, text) : "–");
}

const char *lhi_report_seconds(double x, char *text)
{
    if (x == 0.0)
        (void)snprintf(text, LH_UNITS_TEXT, "0");
    else if (!isfinite(x))
        (void)snprintf(text, LH_UNITS_TEXT, "–");
    else if (x >= 100.0)
        (void)snprintf(text, LH_UNITS_TEXT, "%.0f s", x);
    else if (x >= 1.0)
        (void)snprintf(text, LH_UNITS_TEXT, "%.3g s", x);
    else if (x >= 1e-3)
        (void)snprintf(text, LH_UNITS_TEXT, "%.3g ms", 1e3 * x);
    else
        (void)snprintf(text, LH_UNITS_TEXT, "%.3g µs", 1e6 * x);
    return text;
}

const char *lhi_report_bytes(double x, char *text)
{
    if (!isfinite(x))
        (void)snprintf(text, LH_UNITS_TEXT, "–");
    else
        (void)lh_units_bytes(x, text);
    return text;
}

bool lhi_report_equal(double counted, double planned)
{
    return fabs(counted - planned) <= 1e-8 * fabs(planned); /* lines have 9 digits */
}

void lhi_report_planned(lh_html *h, double counted, double planned)
{
    char text[LH_UNITS_TEXT];
    if (!isfinite(counted) || !isfinite(planned))
        lh_html_put(h, "<td class=\"n\">–</td>");
    else if (lhi_report_equal(counted, planned))
        lh_html_put(h, "<td class=\"n good\">equal</td>");
    else
        lh_html_print(h, "<td class=\"n bad\">%s</td>", lhi_report_bytes(planned, text));
}

static void report_free(lhi_report *r)
{
    for (int64_t i = 0; i < r->runs; i++) lh_report_run_free(&r->run[i]);
    for (int64_t i = 0; i < r->sweeps; i++) {
        lh_sweep_destroy(&r->sweep[i].told);
        lh_free(&r->sweep[i].point);
        lh_free(&r->sweep[i].name);
        lh_free(&r->sweep[i].folder);
    }
    lh_free(&r->run);
    lh_free(&r->sweep);
    lh_free(&r->scale);
    lh_free(&r->scale_file);
    lh_html_free(&r->h);
}

lh_status lh_report_main(lh_comm *none, int argc, char **argv)
{
    lh_status st = LH_OK;
    report_options o = {.out = "report.html", .patience = REPORT_PATIENCE};
    lhi_report r = {.h = {0}};
    lh_options options = {.command = "longhaul report",
                          .table = report_table,
                          .into = &o,
                          .name = o.name,
                          .max_names = REPORT_NAMES};
    (void)none;
    LH_TRY(lh_options_read(&options, argc, argv));
    LH_CHECK(options.n_names > 0, LH_ERR_USAGE,
             "'longhaul report' wants run folders: longhaul report RUN_DIR... [--out page.html]");
    LH_TRY(lh_output_check(&report_output, o.out));
    r.plotter.seconds = (double)o.patience;
    LH_TRY(lh_new((size_t)options.n_names * sizeof *r.scale_file, &r.scale_file));
    for (int i = 0; i < options.n_names; i++) LH_TRY(report_take(&r, o.name[i]));
    LH_TRY(report_labels(&r));
    LH_TRY(report_write(&r, o.out));
    (void)printf("%s\n", o.out);
    if (r.plotter.missing)
        (void)fprintf(stderr, "longhaul report: tables in the place of plots: %s\n",
                      r.plotter.says);
    LH_CHECK(!r.plotter.failed, LH_ERR_IO, "'%s' is written, with tables in the place of plots: %s",
             o.out, r.plotter.says);
done:
    report_free(&r);
    return st;
}
