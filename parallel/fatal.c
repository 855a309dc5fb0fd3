#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/pulse.h"
#include "parallel/comm_internal.h"

static bool fatal_mpi_runs(void)
{
    int started = 0;
    int finished = 0;
    return MPI_Initialized(&started) == MPI_SUCCESS && started &&
           MPI_Finalized(&finished) == MPI_SUCCESS && !finished;
}

void lh_fatal(const lh_comm *c, const char *fmt, ...)
{
    char text[LH_ERROR_TEXT_MAX];
    char line[LH_ERROR_TEXT_MAX + 64];
    bool mpi = fatal_mpi_runs();
    int rank = c != NULL ? c->world_rank : -1;
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (rank < 0 && mpi && MPI_Comm_rank(MPI_COMM_WORLD, &rank) != MPI_SUCCESS) rank = -1;
    if (rank >= 0)
        (void)snprintf(line, sizeof line, "longhaul: rank %d: %s\n", rank, text);
    else
        (void)snprintf(line, sizeof line, "longhaul: %s\n", text);
    (void)fputs(line, stderr); /* one write, so that the lines of several ranks do not mix */
    if (mpi)
        (void)MPI_Abort(MPI_COMM_WORLD,
                        1); /* a rank that only exits would leave the others waiting */
    _Exit(1);
}

void lh_fatal_say(const char *text)
{
    struct pollfd to = {.fd = STDERR_FILENO, .events = POLLOUT};
    /* what a pipe is ready to take, up to PIPE_BUF bytes, it takes without blocking; a file may block all
     * the same, and then the alarm ends the process without the text */
    (void)alarm(5);
    ssize_t n = poll(&to, 1, 1000) == 1 ? write(STDERR_FILENO, text, strlen(text)) : 0;
    (void)n; /* there is nobody to tell */
    (void)alarm(0);
}

void lh_fatal_end(void)
{
    _exit(EXIT_FAILURE);
}

void lhi_mpi_begin(const lh_comm *c, const char *call)
{
    if (c != NULL) lh_pulse_call(c->traffic->pulse, call);
}

void lhi_mpi_check(const lh_comm *c, int code, const char *call, const char *file, int line)
{
    if (c != NULL) lh_pulse_call(c->traffic->pulse, NULL);
    if (code == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    if (MPI_Error_string(code, text, &length) != MPI_SUCCESS)
        (void)snprintf(text, sizeof text, "MPI error %d", code);
    lh_fatal(c, "%s failed at %s:%d: %s", call, file, line, text);
}
