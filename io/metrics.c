#include "io/metrics.h"

#include "io/files.h"
#include "io/json_read.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Both writers append whole lines to a file that only rank 0 has open. */
struct lh_metrics {
    int fd;    /* -1 on other ranks */
    bool torn; /* a line was written in part: the next one starts with a newline */
    char path[LH_PATH_MAX];
};

struct lh_log {
    int fd;
};

/* --- resuming: which lines stay
 * ------------------------------------------------------------------------------------ */

/* The two ends of one cut: what stays goes to `keep`, what is moved aside to `cut`. */
typedef struct metrics_cut {
    FILE *from, *keep, *cut;
    char keep_path[LH_PATH_MAX], cut_path[LH_PATH_MAX], cut_tmp[LH_PATH_MAX];
    int64_t moved;
} metrics_cut;

/* Does this line (without newline) stay? One without a step goes where the line before went: *keep. One that
 * is no whole JSON object is cut; lost blocks of a crashed machine show up as such. */
static lh_status metrics_stays(const char *line, size_t length, int64_t resume_step, bool *keep,
                               bool *stays)
{
    lh_json_item *item = NULL;
    lh_status st = lh_json_read(line, length, &item);
    double step = lh_json_number(item, "step");
    if (isfinite(step)) *keep = step <= (double)resume_step;
    *stays = *keep && lh_json_item_kind(item) == LH_JSON_OBJECT;
    lh_json_release(&item);
    if (st != LH_ERR_FORMAT) return st;
    lh_error_clear();
    return LH_OK;
}

static lh_status metrics_split(metrics_cut *c, int64_t resume_step, const char *path)
{
    lh_status st = LH_OK;
    char *line = NULL;
    size_t room = 0;
    bool keep = true;
    ssize_t n = 0;
    while (errno = 0, (n = getline(&line, &room, c->from)) >= 0) {
        bool stays = false;
        size_t length = (size_t)n;
        if (length > 0 && line[length - 1] == '\n') line[--length] = '\0';
        LH_TRY(metrics_stays(line, length, resume_step, &keep, &stays));
        FILE *to = stays ? c->keep : c->cut;
        if (to == c->cut) c->moved++;
        LH_CHECK(fwrite(line, 1, length, to) == length && fputc('\n', to) != EOF, LH_ERR_IO,
                 "cannot write beside '%s': %s", path, strerror(errno));
    }
    LH_CHECK(feof(c->from), LH_ERR_IO, "cannot read '%s': %s", path, strerror(errno));
done:
    free(line);
    return st;
}

static lh_status metrics_finish(FILE **file, const char *path)
{
    lh_status st = LH_OK;
    if (*file == NULL) return LH_OK;
    bool good = fflush(*file) == 0 && fsync(fileno(*file)) == 0;
    if (fclose(*file) != 0) good = false;
    *file = NULL;
    if (!good) st = LH_RAISE(LH_ERR_IO, "cannot write '%s': %s", path, strerror(errno));
    return st;
}

/* Move the lines past the checkpoint aside. The cut file is named first and the kept one then takes
 * the old one's place, so that a crash in between loses no line (it leaves some twice). */
static lh_status metrics_trim(const char *folder, const char *path, int64_t resume_step)
{
    lh_status st = LH_OK;
    metrics_cut c = {0};
    if (access(path, F_OK) != 0 && errno == ENOENT) return LH_OK;
    LH_TRY(lhi_file_read(path, &c.from));
    LH_TRY(lhi_path(c.keep_path, folder, "metrics.jsonl.tmp"));
    LH_TRY(lhi_path(c.cut_tmp, folder, "metrics-cut.jsonl.tmp"));
    LH_TRY(lhi_file_aside_path(folder, "metrics", "jsonl", c.cut_path));
    LH_TRY(lhi_file_new(c.keep_path, &c.keep));
    LH_TRY(lhi_file_new(c.cut_tmp, &c.cut));
    LH_TRY(metrics_split(&c, resume_step, path));
    LH_TRY(metrics_finish(&c.keep, c.keep_path));
    LH_TRY(metrics_finish(&c.cut, c.cut_tmp));
    if (c.moved > 0) LH_TRY(lhi_file_move(c.cut_tmp, c.cut_path));
    /* Also when nothing moved: a last line without its newline has got it here. */
    LH_TRY(lhi_file_move(c.keep_path, path));
done:
    if (c.from != NULL) (void)fclose(c.from);
    if (c.keep != NULL) (void)fclose(c.keep);
    if (c.cut != NULL) (void)fclose(c.cut);
    if (c.keep_path[0] != '\0') (void)unlink(c.keep_path);
    if (c.cut_tmp[0] != '\0') (void)unlink(c.cut_tmp);
    return st;
}

/* --- metrics
 * ------------------------------------------------------------------------------------------------------- */

lh_status lh_metrics_open(lh_comm *comm, const char *folder, int64_t resume_step, lh_metrics **out)
{
    lh_status st = LH_OK;
    lh_metrics *m = NULL;
    LH_TRY(lh_new(sizeof *m, &m));
    m->fd = -1;
    LH_TRY(lhi_path(m->path, folder, "metrics.jsonl"));
    if (lhi_lead(comm)) {
        if (resume_step < 0)
            LH_TRY(lh_file_aside(NULL, folder, "metrics", "jsonl"));
        else
            LH_TRY(metrics_trim(folder, m->path, resume_step));
        LH_TRY(lhi_file_append(m->path, &m->fd));
    }
done:
    st = lh_files_agree(comm, st);
    if (st != LH_OK) lh_metrics_close(&m);
    *out = m;
    return st;
}

/* Does the name still lead to the file that is open? Where the run's folder was removed or moved, or
 * its file system is away, every line would go nowhere. A file that another program has put in its
 * place is taken. */
lh_status lh_metrics_look(lh_metrics *m)
{
    struct stat named, held;
    if (m->fd < 0) return LH_OK;
    if (stat(m->path, &named) != 0)
        return LH_RAISE(LH_ERR_IO,
                        "'%s' is gone (%s): the run's folder was removed or moved during the run, "
                        "or its file system is away; bring it back and go on with --resume",
                        m->path, strerror(errno));
    if (fstat(m->fd, &held) == 0 && held.st_dev == named.st_dev && held.st_ino == named.st_ino)
        return LH_OK;
    (void)close(m->fd);
    m->torn = false;
    return lhi_file_append(m->path, &m->fd);
}

lh_status lh_metrics_write(lh_metrics *m, lh_json *j)
{
    lh_status st = LH_OK;
    const char *text = NULL;
    if (m->fd < 0) return LH_OK;
    LH_TRY(lh_json_text(j, &text));
    LH_TRY(lh_metrics_look(m));
    /* One call for the line and its end, so that whoever reads along never sees half a line. A full
     * disk may still tear it; then the next line starts anew. */
    j->text[j->length] = '\n';
    if (m->torn) LH_TRY(lhi_write_all(m->fd, m->path, "\n", 1));
    m->torn = true;
    st = lhi_write_all(m->fd, m->path, j->text, (size_t)j->length + 1);
    m->torn = st != LH_OK;
    j->text[j->length] = '\0';
done:
    return st;
}

lh_status lh_metrics_sync(const lh_metrics *m)
{
    if (m->fd < 0 || fsync(m->fd) == 0 || errno == EINVAL || errno == ENOTSUP) return LH_OK;
    return LH_RAISE(LH_ERR_IO, "cannot sync '%s': %s", m->path, strerror(errno));
}

void lh_metrics_close(lh_metrics **m)
{
    if (*m != NULL && (*m)->fd >= 0) (void)close((*m)->fd);
    lh_free(m);
}

/* --- reading along --- */

/* The bytes of an open file from `start` on, at most `count`, into text. */
static lh_status tail_read(int fd, const char *path, off_t start, size_t count, char *text)
{
    size_t done = 0;
    while (done < count) {
        ssize_t n = pread(fd, text + done, count - done, start + (off_t)done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return LH_RAISE(LH_ERR_IO, "cannot read '%s': %s", path, strerror(errno));
        if (n == 0) break; /* it was cut since */
        done += (size_t)n;
    }
    for (size_t i = 0; i < done; i++)
        if (text[i] == '\0') text[i] = ' '; /* blocks that a crash of the machine has lost */
    text[done] = '\0';
    return LH_OK;
}

/* Only whole lines: not the end of one that begins before, nor one that is being written. */
static void tail_whole(char *text, bool cut)
{
    char *first = cut ? strchr(text, '\n') : NULL;
    char *last = strrchr(text, '\n');
    if (last == NULL || (cut && first == last)) {
        text[0] = '\0';
        return;
    }
    last[1] = '\0';
    if (cut) memmove(text, first + 1, strlen(first + 1) + 1);
}

lh_status lh_run_tail(const char *folder, const char *name, int64_t most, char **text,
                      double *age_s)
{
    lh_status st = LH_OK;
    char path[LH_PATH_MAX];
    struct stat info;
    struct timespec now = {0};
    int fd = -1;
    *text = NULL;
    *age_s = -1.0;
    LH_TRY(lhi_path(path, folder, name));
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT) return lh_new(1, text);
    LH_CHECK(fd >= 0 && fstat(fd, &info) == 0 && S_ISREG(info.st_mode), LH_ERR_IO,
             "cannot read '%s': %s", path, fd < 0 ? strerror(errno) : "it is no plain file");
    const int64_t start = info.st_size > most ? info.st_size - most : 0;
    const size_t count = (size_t)(info.st_size - start);
    LH_TRY(lh_new(count + 1, text));
    LH_TRY(tail_read(fd, path, (off_t)start, count, *text));
    tail_whole(*text, start > 0);
    if (clock_gettime(CLOCK_REALTIME, &now) == 0)
        *age_s = (double)(now.tv_sec - info.st_mtim.tv_sec) +
                 1e-9 * (double)(now.tv_nsec - info.st_mtim.tv_nsec);
    if (*age_s < 0.0) *age_s = 0.0; /* clocks of other machines */
done:
    if (fd >= 0) (void)close(fd);
    if (st != LH_OK) lh_free(text);
    return st;
}

/* --- log
 * ----------------------------------------------------------------------------------------------------------- */

/* Where a crash has torn the last line, what follows must not go on in it. */
static void log_end_line(const char *path, int log)
{
    struct stat info;
    char last = '\n';
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return;
    bool torn = fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0 &&
                pread(fd, &last, 1, info.st_size - 1) == 1 && last != '\n';
    (void)close(fd);
    if (torn && write(log, "\n", 1) < 0) return; /* as a line that cannot be written */
}

lh_status lh_log_open(lh_comm *comm, const char *folder, lh_log **out)
{
    lh_status st = LH_OK;
    lh_log *log = NULL;
    char path[LH_PATH_MAX];
    LH_TRY(lh_new(sizeof *log, &log));
    log->fd = -1;
    LH_TRY(lhi_path(path, folder, "log.txt"));
    if (lhi_lead(comm)) {
        LH_TRY(lhi_file_append(path, &log->fd));
        log_end_line(path, log->fd);
    }
done:
    st = lh_files_agree(comm, st);
    if (st != LH_OK) lh_log_close(&log);
    *out = log;
    return st;
}

void lh_log_line(lh_log *log, const char *fmt, ...)
{
    char line[LH_ERROR_TEXT_MAX + 64];
    struct tm when;
    time_t now = time(NULL);
    va_list args;
    if (log == NULL || log->fd < 0 || gmtime_r(&now, &when) == NULL) return;
    size_t n = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%SZ ", &when);
    va_start(args, fmt);
    int more = vsnprintf(line + n, sizeof line - n - 1, fmt, args);
    va_end(args);
    if (more < 0) return;
    n = strlen(line);
    line[n] = '\n';
    if (write(log->fd, line, n + 1) < 0) return;
}

void lh_log_close(lh_log **log)
{
    if (*log != NULL && (*log)->fd >= 0) (void)close((*log)->fd);
    lh_free(log);
}
