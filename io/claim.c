#define _POSIX_C_SOURCE 200809L /* gethostname, nanosleep, clock_gettime */
#include "io/claim.h"

#include "io/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    CLAIM_TEXT = 160, /* bytes: which process */
    CLAIM_WAITS = 10, /* tenths of a second for a launch that ends just now */
    CLAIM_LOOKS = 10  /* and for a network file system to show what another node has made */
};

struct lh_claim {
    int fd; /* -1: on other ranks, and where nothing may be written */
    char path[LH_PATH_MAX];
};

static void claim_wait(void)
{
    const struct timespec tenth = {.tv_nsec = 100000000};
    (void)nanosleep(&tenth, NULL);
}

/* Which process, on which node, when: no other says the same. */
static void claim_text(char text[CLAIM_TEXT])
{
    char host[64] = "";
    struct timespec now = {0};
    if (gethostname(host, sizeof host - 1) != 0) host[0] = '\0';
    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)snprintf(text, CLAIM_TEXT, "process %ld on %s, since %lld.%09ld\n", (long)getpid(), host,
                   (long long)now.tv_sec, now.tv_nsec);
}

/* --- the lock --- */

bool lhi_claim_lock(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_SETLK, &lock) == 0 || (errno != EACCES && errno != EAGAIN);
}

/* Does the name lead to the file that is open? Who ends removes it, perhaps between our opening and locking. */
static bool claim_named(int fd, const char *path)
{
    struct stat named, held;
    return stat(path, &named) == 0 && fstat(fd, &held) == 0 && named.st_dev == held.st_dev &&
           named.st_ino == held.st_ino;
}

static lh_status claim_refuse(int fd, const char *folder)
{
    char text[CLAIM_TEXT] = "";
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    if (n > 0) text[strcspn(text, ",\n")] = '\0';
    return LH_RAISE(
        LH_ERR_USAGE,
        "'%s' is being trained by another launch%s%s%s: wait until it ends, stop it, or "
        "choose another run.name or run.output",
        folder, n > 0 ? " (" : "", n > 0 ? text : "", n > 0 ? ")" : "");
}

/* Opens and locks; *done false: try again. */
static lh_status claim_try(lh_claim *c, const char *folder, bool last, bool *done)
{
    lh_status st = LH_OK;
    struct stat info;
    *done = true;
    c->fd = open(c->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    if (c->fd < 0 && (errno == EROFS || errno == EACCES)) return LH_OK;
    if (c->fd < 0) return lhi_file_error("write", c->path);
    LH_CHECK(fstat(c->fd, &info) == 0 && S_ISREG(info.st_mode), LH_ERR_IO,
             "'%s' is no ordinary file: remove it", c->path);
    const bool mine = lhi_claim_lock(c->fd);
    if (mine && (last || claim_named(c->fd, c->path))) return LH_OK;
    if (last) LH_TRY(claim_refuse(c->fd, folder));
    *done = false;
done:
    (void)close(c->fd);
    c->fd = -1;
    return st;
}

static lh_status claim_alone(lh_claim *c, const char *folder)
{
    lh_status st = LH_OK;
    char text[CLAIM_TEXT];
    bool done = false;
    LH_TRY(lhi_path(c->path, folder, ".lock"));
    for (int i = 0; !done; i++) {
        if (i > 0) claim_wait();
        LH_TRY(claim_try(c, folder, i == CLAIM_WAITS, &done));
    }
    claim_text(text);
    /* for the message above alone: a full disk does no harm */
    if (c->fd >= 0 && ftruncate(c->fd, 0) == 0 &&
        lhi_write_all(c->fd, c->path, text, strlen(text)) != LH_OK)
        lh_error_clear();
done:
    return st;
}

lh_status lh_claim_take(lh_comm *comm, const char *folder, lh_claim **out)
{
    lh_claim *c = NULL;
    lh_status st = lh_new(sizeof *c, &c);
    if (st == LH_OK) c->fd = -1;
    if (st == LH_OK && lhi_lead(comm)) st = claim_alone(c, folder);
    st = lh_files_agree(comm, st);
    if (st != LH_OK) lh_claim_drop(&c);
    *out = c;
    return st;
}

void lh_claim_drop(lh_claim **claim)
{
    lh_claim *c = *claim;
    if (c == NULL) return;
    /* while it is locked: what lies there afterwards is another launch's */
    if (c->fd >= 0 && claim_named(c->fd, c->path)) (void)unlink(c->path);
    if (c->fd >= 0) (void)close(c->fd);
    lh_free(claim);
}

/* --- what all ranks see --- */

/* 0, or why this rank cannot write to the file; EXDEV: another file lies there. */
static int claim_look(const char *path, const char *text)
{
    char have[CLAIM_TEXT] = "";
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) return errno;
    ssize_t n = text != NULL ? pread(fd, have, sizeof have - 1, 0) : 0;
    int error = n < 0 ? errno : 0;
    (void)close(fd);
    if (error == 0 && text != NULL && strcmp(have, text) != 0) error = EXDEV;
    return error;
}

lh_status lhi_claim_seen(lh_comm *comm, const char *path, const char *text)
{
    lh_status st = LH_OK;
    int error = 0;
    for (int i = 0; i < CLAIM_LOOKS && !lhi_lead(comm); i++) {
        if (i > 0) claim_wait();
        error = claim_look(path, text);
        if (error != ENOENT && error != EXDEV && error != ESTALE) break;
    }
    if (error != 0)
        st = LH_RAISE(LH_ERR_IO,
                      "cannot write to '%s', which rank 0 has made: %s; all ranks write there, so "
                      "it must lie on a "
                      "file system that their nodes share",
                      path, error == EXDEV ? "another file lies there" : strerror(error));
    return lh_files_agree(comm, st);
}

static lh_status claim_probe(const char *path, const char *text)
{
    lh_status st = LH_OK;
    FILE *file = NULL;
    LH_TRY(lhi_file_new(path, &file));
    bool good = fputs(text, file) >= 0;
    if (fclose(file) != 0 || !good) LH_TRY(lhi_file_error("write", path));
    LH_TRY(lhi_file_sync(path));
done:
    return st;
}

lh_status lh_claim_shared(lh_comm *comm, const char *folder)
{
    lh_status st = LH_OK;
    char path[LH_PATH_MAX], text[CLAIM_TEXT] = "";
    if (comm == NULL || lh_comm_size(comm) == 1) return LH_OK;
    st = lhi_path(path, folder, ".probe");
    claim_text(text);
    if (st == LH_OK && lhi_lead(comm)) st = claim_probe(path, text);
    LH_TRY(lh_agree(comm, st));
    lh_broadcast(comm, text, (int64_t)sizeof text, LH_SEND_OTHER);
    st = lhi_claim_seen(comm, path, text);
    if (lhi_lead(comm)) (void)unlink(path);
done:
    return st;
}
