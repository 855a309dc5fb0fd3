#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

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

void lhi_mpi_check(const lh_comm *c, int code, const char *call, const char *file, int line)
{
    if (code == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    if (MPI_Error_string(code, text, &length) != MPI_SUCCESS)
        (void)snprintf(text, sizeof text, "MPI error %d", code);
    lh_fatal(c, "%s failed at %s:%d: %s", call, file, line, text);
}
