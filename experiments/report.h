#pragma once
/* longhaul report: runs, sweeps and scaling studies as one HTML page. */
#include "parallel/comm.h"

#include <stdio.h>

/* lh_report_main - argv: folders, files and options (lh_report_help). Local, without MPI; starts gnuplot
 * (io/gnuplot.h). Errors: LH_ERR_USAGE (no run folder, ...), LH_ERR_IO (also when gnuplot fails: the page
 * is written all the same), LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_report_main(lh_comm *none, int argc, char **argv);

/* lh_report_help - options, and what the page shows. Local. */
void lh_report_help(FILE *out);
