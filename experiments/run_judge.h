#pragma once
/* The state of a run, from what it has written: one rule for status, sweeps and reports. */

/* lh_run_judge - "finished", "stopped" (on request, with a checkpoint), "failed", "running", "silent" (nothing was
 * written for long, so it may be dead), or "new" (no step was logged yet). log: the end of log.txt;
 * interval_s: the usual time between two lines of metrics, NaN before the first; age_s: since the last one.
 * Static. Local, pure. */
const char *lh_run_judge(const char *log, double interval_s, double age_s);
