#include "io/gnuplot.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "parallel/comm.h"

extern char **environ; /* POSIX declares it in no header */

enum { GNUPLOT_IN, GNUPLOT_OUT, GNUPLOT_ERR, GNUPLOT_FILES, GNUPLOT_MOST = 64 << 20 };
enum { GNUPLOT_LOOK_NS = 2000000 }; /* between two looks whether it has ended */

typedef struct gnuplot {
    FILE *file[GNUPLOT_FILES]; /* standard input, output, error */
} gnuplot;

static lh_status gnuplot_open(gnuplot *g, const char *commands, size_t count)
{
    lh_status st = LH_OK;
    for (int i = 0; i < GNUPLOT_FILES; i++) {
        g->file[i] = tmpfile();
        LH_CHECK(g->file[i] != NULL && fcntl(fileno(g->file[i]), F_SETFD, FD_CLOEXEC) == 0,
                 LH_ERR_IO, "no temporary file for gnuplot: %s", strerror(errno));
    }
    LH_CHECK(fwrite(commands, 1, count, g->file[GNUPLOT_IN]) == count &&
                 fflush(g->file[GNUPLOT_IN]) == 0 && fseek(g->file[GNUPLOT_IN], 0, SEEK_SET) == 0,
             LH_ERR_IO, "cannot write a temporary file for gnuplot: %s", strerror(errno));
done:
    return st;
}

/* -d: without the user's own settings, so that a page looks the same for everyone. */
static lh_status gnuplot_start(const gnuplot *g, pid_t *pid)
{
    lh_status st = LH_OK;
    char name[] = "gnuplot", plain[] = "-d";
    char *arguments[] = {name, plain, NULL};
    posix_spawn_file_actions_t actions;
    int code = posix_spawn_file_actions_init(&actions);
    LH_CHECK(code == 0, LH_ERR_MEMORY, "gnuplot cannot be started: %s", strerror(code));
    for (int i = 0; i < GNUPLOT_FILES && code == 0; i++)
        code = posix_spawn_file_actions_adddup2(&actions, fileno(g->file[i]), i);
    if (code == 0) code = posix_spawnp(pid, name, &actions, NULL, arguments, environ);
    (void)posix_spawn_file_actions_destroy(&actions);
    LH_CHECK(code != ENOENT && code != EACCES, LH_ERR_UNSUP,
             "there is no gnuplot in $PATH (Debian: gnuplot-nox)");
    LH_CHECK(code == 0, LH_ERR_IO, "gnuplot cannot be started: %s", strerror(code));
done:
    return st;
}

/* false: it took too long, and is gone. */
static bool gnuplot_wait(pid_t pid, double seconds, int *code)
{
    const struct timespec nap = {.tv_nsec = GNUPLOT_LOOK_NS};
    double begin = lh_wall();
    pid_t ended = 0;
    while ((ended = waitpid(pid, code, WNOHANG)) == 0 || (ended < 0 && errno == EINTR)) {
        if (lh_wall() - begin > seconds) {
            (void)kill(pid, SIGKILL);
            while (waitpid(pid, code, 0) < 0 && errno == EINTR) continue;
            return false;
        }
        (void)nanosleep(&nap, NULL);
    }
    return true;
}

/* What it wrote to its standard output. */
static lh_status gnuplot_read(FILE *file, char **text, size_t *length)
{
    lh_status st = LH_OK;
    *text = NULL;
    LH_CHECK(fseek(file, 0, SEEK_END) == 0, LH_ERR_IO, "cannot read gnuplot's output");
    long bytes = ftell(file);
    LH_CHECK(bytes >= 0 && bytes <= GNUPLOT_MOST && fseek(file, 0, SEEK_SET) == 0, LH_ERR_IO,
             "cannot read gnuplot's output: %ld bytes", bytes);
    *length = (size_t)bytes;
    LH_TRY(lh_new(*length + 1, text));
    LH_CHECK(fread(*text, 1, *length, file) == *length, LH_ERR_IO, "cannot read gnuplot's output");
done:
    if (st != LH_OK) lh_free(text);
    return st;
}

/* How it ended, with what it said. */
static lh_status gnuplot_judge(const gnuplot *g, bool ended, double seconds, int code)
{
    lh_status st = LH_OK;
    char said[LH_GNUPLOT_SAYS + 1];
    size_t length = 0;
    if (fseek(g->file[GNUPLOT_ERR], 0, SEEK_SET) == 0)
        length = fread(said, 1, LH_GNUPLOT_SAYS, g->file[GNUPLOT_ERR]);
    said[length] = '\0';
    while (length > 0 && strchr(" \n\t", said[length - 1]) != NULL) said[--length] = '\0';
    const char *text = said + strspn(said, " \n\t");
    const char *colon = length > 0 ? ": " : "";
    LH_CHECK(ended, LH_ERR_IO, "gnuplot took more than %g s and was stopped%s%s", seconds, colon,
             text);
    LH_CHECK(!WIFSIGNALED(code), LH_ERR_IO, "gnuplot was ended by signal %d%s%s", WTERMSIG(code),
             colon, text);
    LH_CHECK(WIFEXITED(code) && WEXITSTATUS(code) == 0, LH_ERR_IO,
             "gnuplot failed (exit code %d)%s%s", WEXITSTATUS(code), colon, text);
done:
    return st;
}

lh_status lh_gnuplot_run(const char *commands, size_t count, double seconds, char **out,
                         size_t *length)
{
    lh_status st = LH_OK;
    gnuplot g = {{NULL}};
    pid_t pid = 0;
    int code = 0;
    *out = NULL;
    *length = 0;
    LH_TRY(gnuplot_open(&g, commands, count));
    LH_TRY(gnuplot_start(&g, &pid));
    bool ended = gnuplot_wait(pid, seconds, &code);
    LH_TRY(gnuplot_judge(&g, ended, seconds, code));
    LH_TRY(gnuplot_read(g.file[GNUPLOT_OUT], out, length));
done:
    for (int i = 0; i < GNUPLOT_FILES; i++)
        if (g.file[i] != NULL) (void)fclose(g.file[i]);
    return st;
}
