#pragma once
/* Plots for a page: described here, drawn by gnuplot as SVG, put into the page beside a legend and a table
 * of some of the same figures. Where gnuplot is missing or fails, the tables are all there is, and the page says so.
 *
 * Names of series are the user's: they stand in the legend, which is HTML, and never reach gnuplot. Titles
 * and labels of axes are the program's own constants. Colours are CSS variables --s1 .. --s8, so that a
 * page has them light and dark. */
#include "experiments/html.h"

enum { LH_PLOT_SERIES = 96, LH_PLOT_COLOURS = 8, LH_PLOT_TICKS = 12, LH_PLOT_TEXT = 160 };

typedef enum lh_plot_style {
    LH_PLOT_LINE,
    LH_PLOT_FAINT,  /* thin and pale: what a line is the mean of */
    LH_PLOT_DASHED, /* a line that nobody measured, in the colour of axes */
    LH_PLOT_POINTS, /* with a line between */
    LH_PLOT_DOTS,   /* without one */
    LH_PLOT_ERRORS, /* points with bars from low to high, and a line between */
    LH_PLOT_SPREAD, /* the same without a line: x is no quantity */
    LH_PLOT_BOXES   /* boxes from low to high along x, at y */
} lh_plot_style;

typedef struct lh_plot_point {
    double x, y, low, high;
} lh_plot_point;

typedef struct lh_plot_series {
    char name[LH_PLOT_TEXT]; /* "": not in the legend */
    char row
        [LH_PLOT_TEXT]; /* the same of a series without a name, for the table alone; "": not there either */
    lh_plot_style style;
    int colour;           /* 0, 1, ...: beyond LH_PLOT_COLOURS they come again, dashed */
    lh_plot_point *point; /* owned */
    int64_t n, capacity;
} lh_plot_series;

typedef struct lh_plot {
    const char *id, *title, *x_label, *y_label; /* constants of the program */
    char note[256];                             /* below the title; may be the user's */
    bool log_x, log_y, from_zero;
    int rows;        /* BOXES: y = 1 .. rows from the top, with these numbers as ticks */
    bool ticks_at_x; /* ticks at the points' x alone, where they are few */
    lh_plot_series series[LH_PLOT_SERIES];
    int count, left; /* left: series that found no room */
    lh_status st;    /* as in lh_html */
} lh_plot;

/* Who draws, and how that went. */
typedef struct lh_plotter {
    double seconds;             /* that gnuplot may take for one plot */
    bool missing, failed, slow; /* slow: a plot took too long, so no more are tried */
    char says[4096];            /* why there are no plots */
    int drawn, wanted;
} lh_plotter;

/* lh_plot_series_add - one more series; NULL when there is no room for it (it is left out, and the figure
 * says so). name: copied, may be cut. Local. */
lh_plot_series *lh_plot_series_add(lh_plot *p, const char *name, lh_plot_style style, int colour);

/* lh_plot_series_row - what the table calls a series that the legend leaves out. Copied, may be cut; s NULL:
 * nothing. Local. */
void lh_plot_series_row(lh_plot_series *s, const char *fmt, ...) LH_PRINTF(2, 3);

/* lh_plot_point_add - a point; one whose x or y is not finite is a gap. series NULL: nothing. Local. */
void lh_plot_point_add(lh_plot *p, lh_plot_series *series, lh_plot_point point);

/* lh_plot_figure - the plot as <figure>, into h; nothing where it has no point. p is emptied. Local, but
 * that it starts gnuplot. Errors are kept in h; gnuplot's in `by`. */
void lh_plot_figure(lh_plot *p, lh_plotter *by, lh_html *h);

/* lh_plot_marks - hidden SVG that all plots of a page share; once in the page. Local. */
void lh_plot_marks(lh_html *h);

/* lhi_plot_commands - what gnuplot is told. lhi_plot_inline - its SVG, as it may stand within HTML. Local. */
void lhi_plot_commands(const lh_plot *p, lh_html *commands);
void lhi_plot_inline(const char *svg, lh_html *h);
