#include "experiments/stop.h"

/* Steps and checkpoints vary: a quarter more than the longest, and a second for the end of the program. A
 * file system is not slower than this, as long as nothing was written to it: bytes per second. */
#define STOP_MARGIN 1.25
#define STOP_END_S 1.0
#define STOP_GUESS 1e8

void lh_stop_begin(lh_stop *s, const lh_comm *comm, double limit_s, double began,
                   double checkpoint_bytes)
{
    s->timed = limit_s > 0.0;
    s->lead = lh_comm_rank(comm) == 0;
    s->deadline = began + limit_s;
    s->checkpoint_s = checkpoint_bytes / STOP_GUESS;
}

bool lh_stop_now(lh_stop *s, double steps)
{
    if (s->asked != NULL && *s->asked != 0) return true;
    if (!s->timed || !s->lead) return false;
    double need = STOP_MARGIN * (steps * s->step_s + s->checkpoint_s) + STOP_END_S;
    s->late = s->late || lh_wall() + need > s->deadline;
    return s->late;
}

void lh_stop_longest(double *longest, double began)
{
    double seconds = lh_wall() - began;
    if (seconds > *longest) *longest = seconds;
}
