#pragma once
/* Shared by the report_*.c files: the page, and what it is made of. */
#include "experiments/plot.h"
#include "experiments/report_run.h"
#include "experiments/sweep.h"

enum { LHI_SWEEP_KEYS = 64, LHI_REPORT_NAME = 128, LHI_REPORT_VALUES = 160 };

/* A line of longhaul scale: a point, or a fit. NaN: it does not say. */
typedef struct lhi_scale_line {
    int file;
    char mode[16], mechanism[LHI_REPORT_NAME], attention[LHI_REPORT_NAME],
        platform[LHI_REPORT_NAME], pass[16], precision[16];
    bool simulated, extrapolated;
    int again; /* how many lines of its file and name before it have the same ranks and length */
    double ranks, n, step_s, mean_s, least_s, most_s, tokens_per_s, efficiency, wait_s;
    double batch, threads, parameters;
    double sent, predicted_sent, peak, predicted_peak;
    double exponent, low, high; /* of a fit; else NaN */
} lhi_scale_line;

/* A sweep: its points, in the order of sweep.json, and which of them differ in their seed alone. */
typedef struct lhi_sweep_point {
    int64_t run; /* in lhi_report.run; -1: not begun */
    int group;
} lhi_sweep_point;

typedef struct lhi_sweep {
    char *folder;
    lh_sweep *told;         /* by sweep.json */
    lhi_sweep_point *point; /* [told->count] */
    int groups, keys;
    const char
        *key[LHI_SWEEP_KEYS]; /* swept keys, of told; points of a list may have different ones */
    char (*name)[LHI_REPORT_VALUES]; /* [groups]: their values; owned */
} lhi_sweep;

typedef struct lhi_report {
    lh_html h;
    lh_plotter plotter;
    lh_report_run *run;
    int64_t runs, run_room;
    lhi_scale_line *scale;
    int64_t scales, scale_room;
    const char **scale_file; /* borrowed from the command line */
    int scale_files;
    int64_t scale_torn; /* lines of these files that are none of longhaul scale */
    lhi_sweep *sweep;
    int64_t sweeps, sweep_room;
} lhi_report;

/* lhi_report_section - begin a section with an anchor; it ends with the next one. title: a constant.
 * Local. lhi_report_style - the page's style sheet. Static. */
void lhi_report_section(lhi_report *r, const char *id, const char *title, const char *lead);
const char *lhi_report_style(void);

/* lhi_report_colour - of a run, for plots. lhi_report_row - the number of a run, as in "#1". lhi_report_name -
 * a cell <th> with the run's colour, number and name. Local. */
int lhi_report_colour(const lhi_report *r, int64_t run);
void lhi_report_name(lhi_report *r, int64_t run);

/* lhi_report_legend - the name of a run's series: points of a sweep that differ in their seed alone have one,
 * which the first of them bears; "" for the others. lhi_report_count - a cell with a whole number, or in
 * thousands, millions, ... Local. */
const char *lhi_report_legend(const lhi_report *r, int64_t run);
void lhi_report_count(lh_html *h, double x);

/* lhi_report_seconds - "12.3 ms" into text of LH_UNITS_TEXT bytes, which it returns; a dash where x is not
 * finite. Local, pure. lhi_report_bytes - the same of lh_units_bytes. */
const char *lhi_report_seconds(double x, char *text);
const char *lhi_report_bytes(double x, char *text);

/* lhi_report_equal - is a counted number what was planned, as far as its digits go? lhi_report_planned - a cell:
 * "equal", or the bytes that were planned, in red; a dash where one of the two is not known. Local. */
bool lhi_report_equal(double counted, double planned);
void lhi_report_planned(lh_html *h, double counted, double planned);

/* The parts of the page. Each writes nothing where there is nothing to say. Local, but for plots. */
void lhi_report_overview(lhi_report *r);
void lhi_report_curves(lhi_report *r);
void lhi_report_time(lhi_report *r);
void lhi_report_traffic(lhi_report *r);
void lhi_report_memory(lhi_report *r);
void lhi_report_scaling(lhi_report *r);
void lhi_report_sweeps(lhi_report *r);
void lhi_report_attention(lhi_report *r);
void lhi_report_configuration(lhi_report *r);
void lhi_report_machines(lhi_report *r);

/* lhi_report_take_run - read one more run. lhi_report_take_sweep - the folder of a sweep, with all its
 * points. lhi_report_take_scale - a file of lines of longhaul scale. Local. Errors: LH_ERR_USAGE when it
 * is none, LH_ERR_IO, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_report_take_run(lhi_report *r, const char *folder, bool planned);
LH_NODISCARD lh_status lhi_report_take_sweep(lhi_report *r, const char *folder);
LH_NODISCARD lh_status lhi_report_take_scale(lhi_report *r, const char *path);
