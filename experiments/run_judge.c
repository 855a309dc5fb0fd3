#include "experiments/run_judge.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    JUDGE_QUIET = 10,    /* times the usual interval between lines, after which a run seems dead */
    JUDGE_PATIENCE = 120 /* seconds without a line that prove nothing */
};

/* What the last line says behind its time; "": there is none. A folder's name in it proves nothing, so words
 * count at its beginning alone. Blanks before the time are what a crash of the machine has left. */
static const char *judge_said(const char *log)
{
    const char *end = strrchr(log, '\n');
    if (end == NULL) return "";
    const char *begin = end;
    while (begin > log && begin[-1] != '\n') begin--;
    begin += strspn(begin, " ");
    begin += strcspn(begin, " \n");
    return begin < end ? begin + 1 : "";
}

static bool judge_begins(const char *said, const char *words)
{
    return strncmp(said, words, strlen(words)) == 0;
}

const char *lh_run_judge(const char *log, double interval_s, double age_s)
{
    const char *said = judge_said(log);
    if (judge_begins(said, "finished at step")) return "finished";
    if (judge_begins(said, "stopped on request") || judge_begins(said, "train.time_limit: stopped"))
        return "stopped";
    if (judge_begins(said, "failed: ")) return "failed";
    if (!isfinite(interval_s)) return "new";
    double patience = fmax(JUDGE_QUIET * interval_s, (double)JUDGE_PATIENCE);
    return age_s > patience ? "silent" : "running";
}
