#pragma once
/* gnuplot: the only other program that is ever started, and only by longhaul report. It is started without
 * a shell, by its name, with fixed arguments; what it is given are commands of our own with numbers in
 * them. Nothing that a user wrote may come into them: gnuplot's commands can run others. */
#include "core/status.h"

enum { LH_GNUPLOT_SAYS = 2048 };

/* lh_gnuplot_run - give gnuplot the commands [count], and take what it writes to its standard output:
 * *out, zero-terminated, *length bytes without the zero; the caller releases it with lh_free. It may take
 * `seconds`, then it is killed. Commands and output go through unnamed temporary files, so that neither
 * side can wait for the other.
 * Local; starts a process and waits for it. Errors, then *out NULL: LH_ERR_UNSUP (there is no gnuplot in
 * $PATH), LH_ERR_IO (it failed: with what it said on standard error; it took too long; no temporary
 * file), LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_gnuplot_run(const char *commands, size_t count, double seconds,
                                      char **out, size_t *length);
