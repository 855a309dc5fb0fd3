#include "experiments/run_judge.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    JUDGE_QUIET = 10,    /* times the usual interval between lines, after which a run seems dead */
    JUDGE_PATIENCE = 120 /* seconds without a line that prove nothing */
};

/* Does the last line contain the words? */
static bool judge_ends(const char *log, const char *words)
{
    const char *end = strrchr(log, '\n');
    if (end == NULL) return false;
    const char *begin = end;
    while (begin > log && begin[-1] != '\n') begin--;
    const char *found = strstr(begin, words);
    return found != NULL && found < end;
}

const char *lh_run_judge(const char *log, double interval_s, double age_s)
{
    if (judge_ends(log, "finished at step")) return "finished";
    if (judge_ends(log, "stopped on request") || judge_ends(log, "train.time_limit: stopped"))
        return "stopped";
    if (judge_ends(log, "failed: ")) return "failed";
    if (!isfinite(interval_s)) return "new";
    double patience = fmax(JUDGE_QUIET * interval_s, (double)JUDGE_PATIENCE);
    return age_s > patience ? "silent" : "running";
}
