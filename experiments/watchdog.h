#pragma once
/* The watchdog: a thread of each rank that looks whether the rank moves on (core/pulse.h).
 *
 * A rank that has been silent for train.stall_seconds says in one line where it is, and ends its own
 * process; the launcher then ends the others. Which rank is the cause shows in who says what: one that
 * computes, or does something with a file of its own, hangs; one that is inside a call of MPI waits for
 * others. Who waits ends a little later, so that the one that hangs gets to speak, and where one rank may work
 * alone for long (opening data, writing a checkpoint) three times as late.
 *
 * The thread makes no MPI call, takes no lock that the main thread holds, and does not allocate, so it
 * speaks whatever the main thread hangs in. Time in which the whole process was stopped does not count. */
#include "parallel/comm.h"

typedef struct lh_watchdog lh_watchdog;

/* lh_watchdog_start - watch the pulse of comm from now on; stall_seconds 0, or no pulse: *out is NULL and
 * nobody watches. Local. The caller stops it. Errors: LH_ERR_MEMORY (no thread can be had). */
LH_NODISCARD lh_status lh_watchdog_start(lh_comm *comm, int64_t stall_seconds, lh_watchdog **out);

/* lh_watchdog_stop - accepts NULL content and nulls it; the thread is gone. Local. */
void lh_watchdog_stop(lh_watchdog **watchdog);

/* Who waits for others, and how that shows in the text. */
typedef enum lh_stall_kind {
    LH_STALL_ALONE,   /* hangs by itself */
    LH_STALL_WAITS,   /* is inside a message */
    LH_STALL_UNCLEAR, /* in a library that reads or writes a file of all ranks */
} lh_stall_kind;

/* lh_stall_of - what a silent rank is in. lh_stall_text - the line that it prints; into text [bytes], which
 * it returns. Local, pure. */
struct lh_pulse;
lh_stall_kind lh_stall_of(const struct lh_pulse *pulse);
const char *lh_stall_text(const struct lh_pulse *pulse, int rank, const char *host, int64_t seconds,
                          char *text, size_t bytes);
