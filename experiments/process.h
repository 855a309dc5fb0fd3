#pragma once
/* What the process asks of the system before it does anything: descriptors, stack, heap, signals. Everything here
 * is local and needs no MPI. */
#include <signal.h>

#include "core/status.h"

/* lh_process_begin - at the start of main. Standard descriptors that are closed are opened on /dev/null, and
 * standard output then takes nothing: no file of the program is written to in their place. Errors:
 * LH_ERR_USAGE: the stack (ulimit -s) is smaller than what kernels need. */
LH_NODISCARD lh_status lh_process_begin(void);

/* lh_process_catch - from now on SIGUSR1, SIGTERM, SIGINT, SIGHUP (unless it is ignored: nohup) and SIGXCPU ask to
 * stop; a second one but SIGUSR1 ends the process. A reader that has gone (SIGPIPE) is no reason to stop. */
void lh_process_catch(void);

/* lh_process_stop - set by such a signal. Borrowed for good. */
const volatile sig_atomic_t *lh_process_stop(void);

/* lh_process_threads - can this process run so many threads at once? OpenMP ends it without a word of ours where one
 * cannot be started. Starts and ends them. Errors: LH_ERR_MEMORY, with the number that there can be;
 * LH_ERR_BUG. */
LH_NODISCARD lh_status lh_process_threads(int threads);
