#include "experiments/watchdog.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/pulse.h"

enum {
    WATCHDOG_HOST = 64,
    WATCHDOG_TEXT = 1024, /* less than what a pipe takes at once */
    WATCHDOG_PATIENCE = 3
};

/* Seconds between a rank's line and its end: those who wait leave the word to who hangs, and who hangs
 * gives them time to say where they are. */
static const double watchdog_grace[] = {
    [LH_STALL_ALONE] = 1.0, [LH_STALL_WAITS] = 3.0, [LH_STALL_UNCLEAR] = 3.0};

struct lh_watchdog {
    const lh_pulse *pulse;
    int rank;
    char host[WATCHDOG_HOST];
    int64_t stall;
    double tick; /* seconds between two looks */
    pthread_t thread;
    pthread_mutex_t
        lock; /* of what follows; the main thread takes it to stop us, and for nothing else */
    pthread_cond_t wake;
    bool stopping;
};

/* --- what is said --- */

static const char *stall_phase(const lh_pulse *p)
{
    const char *phase = atomic_load_explicit(&p->phase, memory_order_relaxed);
    return phase != NULL ? phase : "start";
}

lh_stall_kind lh_stall_of(const lh_pulse *p)
{
    if (atomic_load_explicit(&p->call, memory_order_relaxed) != NULL) return LH_STALL_WAITS;
    return atomic_load_explicit(&p->together, memory_order_relaxed) ? LH_STALL_UNCLEAR
                                                                    : LH_STALL_ALONE;
}

/* "step 12, forward and backward, layer 3, backward of attend, in MPI_Waitall" */
static void stall_place(const lh_pulse *p, char *text, size_t bytes)
{
    int64_t step = atomic_load_explicit(&p->step, memory_order_relaxed);
    const char *op = atomic_load_explicit(&p->op, memory_order_relaxed);
    const char *call = atomic_load_explicit(&p->call, memory_order_relaxed);
    int part = atomic_load_explicit(&p->part, memory_order_relaxed);
    lh_direction direction =
        (lh_direction)atomic_load_explicit(&p->direction, memory_order_relaxed);
    size_t n = 0;
    text[0] = '\0';
    if (step > 0) (void)snprintf(text, bytes, "step %lld, ", (long long)step);
    n = strlen(text);
    (void)snprintf(text + n, bytes - n, "%s", stall_phase(p));
    n = strlen(text);
    if (op != NULL && part > 0) (void)snprintf(text + n, bytes - n, ", layer %d", part - 1);
    n = strlen(text);
    if (op != NULL)
        (void)snprintf(text + n, bytes - n, ", %s of %s", lh_direction_name(direction), op);
    n = strlen(text);
    if (call != NULL)
        (void)snprintf(text + n, bytes - n, ", in %.*s", (int)strcspn(call, "("), call);
}

const char *lh_stall_text(const lh_pulse *p, int rank, const char *host, int64_t seconds,
                          char *text, size_t bytes)
{
    static const char *const says[] = {
        [LH_STALL_ALONE] = "hangs",
        [LH_STALL_WAITS] = "waits for other ranks",
        [LH_STALL_UNCLEAR] = "hangs in a file, or waits there for other ranks",
    };
    static const char *const then[] = {
        [LH_STALL_ALONE] = "Look at this node: its processes, memory, file systems. If the rank is "
                           "only slow, raise train.stall_seconds",
        [LH_STALL_WAITS] = "The cause is a rank that says that it hangs, or one that says nothing "
                           "(stopped, or lost with its node)",
        [LH_STALL_UNCLEAR] = "Look at the file system of run.output",
    };
    char place[WATCHDOG_TEXT / 2];
    lh_stall_kind kind = lh_stall_of(p);
    stall_place(p, place, sizeof place);
    (void)snprintf(text, bytes,
                   "longhaul: rank %d on %s %s: nothing has moved for %lld s "
                   "(train.stall_seconds) in: %s. %s. Unless it moves now the job ends; then go on "
                   "with --resume\n",
                   rank, host, says[kind], (long long)seconds, place, then[kind]);
    return text;
}

/* --- the thread --- */

/* true: it is time to stop. */
static bool watchdog_sleep(lh_watchdog *w)
{
    struct timespec until = {0, 0};
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(w->tick * 1e9);
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    (void)pthread_mutex_lock(&w->lock);
    int code = 0;
    while (!w->stopping && code == 0) code = pthread_cond_timedwait(&w->wake, &w->lock, &until);
    bool stopping = w->stopping;
    (void)pthread_mutex_unlock(&w->lock);
    return stopping;
}

/* Of a rank in this state: the silence, in seconds, after which it speaks. */
static double watchdog_limit(const lh_watchdog *w, lh_stall_kind kind)
{
    bool patient = atomic_load_explicit(&w->pulse->patient, memory_order_relaxed);
    return (double)w->stall * (kind == LH_STALL_WAITS && patient ? WATCHDOG_PATIENCE : 1);
}

static void *watchdog_run(void *user)
{
    lh_watchdog *w = user;
    char text[WATCHDOG_TEXT];
    int64_t last = -1;
    double silent = 0.0; /* counted in looks, so that a stopped process has not been silent */
    bool said = false;
    while (!watchdog_sleep(w)) {
        int64_t beat = atomic_load_explicit(&w->pulse->beat, memory_order_relaxed);
        if (beat != last) {
            last = beat;
            silent = 0.0;
            said = false;
            continue;
        }
        silent += w->tick;
        lh_stall_kind kind = lh_stall_of(w->pulse);
        double limit = watchdog_limit(w, kind);
        if (!said && silent >= limit) {
            said = true;
            lh_fatal_say(
                lh_stall_text(w->pulse, w->rank, w->host, (int64_t)silent, text, sizeof text));
        }
        if (said && silent >= limit + watchdog_grace[kind]) lh_fatal_end();
    }
    return NULL;
}

/* Signals are the main thread's: the new thread starts with all of them blocked. */
static int watchdog_thread(lh_watchdog *w)
{
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all);
    int code = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (code != 0) return code;
    code = pthread_create(&w->thread, NULL, watchdog_run, w);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

static int watchdog_clock(pthread_cond_t *wake)
{
    pthread_condattr_t how;
    int code = pthread_condattr_init(&how);
    if (code != 0) return code;
    code = pthread_condattr_setclock(&how, CLOCK_MONOTONIC);
    if (code == 0) code = pthread_cond_init(wake, &how);
    (void)pthread_condattr_destroy(&how);
    return code;
}

lh_status lh_watchdog_start(lh_comm *comm, int64_t stall_seconds, lh_watchdog **out)
{
    lh_status st = LH_OK;
    lh_watchdog *w = NULL;
    const lh_pulse *pulse = lh_comm_traffic(comm)->pulse;
    *out = NULL;
    if (stall_seconds <= 0 || pulse == NULL) return LH_OK;
    LH_TRY(lh_new(sizeof *w, &w));
    w->pulse = pulse;
    w->rank = lh_comm_rank(comm);
    w->stall = stall_seconds;
    w->tick = stall_seconds < 20 ? 0.1 : 1.0;
    if (gethostname(w->host, sizeof w->host - 1) != 0) (void)snprintf(w->host, 2, "?");
    LH_CHECK(pthread_mutex_init(&w->lock, NULL) == 0 && watchdog_clock(&w->wake) == 0 &&
                 watchdog_thread(w) == 0,
             LH_ERR_MEMORY, "no thread can be had for train.stall_seconds; set it to 0");
    *out = w;
    w = NULL;
done:
    lh_free(&w);
    return st;
}

void lh_watchdog_stop(lh_watchdog **watchdog)
{
    lh_watchdog *w = *watchdog;
    if (w == NULL) return;
    (void)pthread_mutex_lock(&w->lock);
    w->stopping = true;
    (void)pthread_cond_signal(&w->wake);
    (void)pthread_mutex_unlock(&w->lock);
    (void)pthread_join(w->thread, NULL);
    (void)pthread_cond_destroy(&w->wake);
    (void)pthread_mutex_destroy(&w->lock);
    lh_free(watchdog);
}
