#define _GNU_SOURCE /* fallocate */

#include "io/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static const int64_t small_limit = 64 << 20;
enum { pipe_seconds = 10 };

bool lhi_lead(const lh_comm *comm)
{
    return comm == NULL || lh_comm_rank(comm) == 0;
}

lh_status lh_files_agree(lh_comm *comm, lh_status st)
{
    return comm == NULL ? st : lh_agree(comm, st);
}

/* What to do about an error number, for the messages below. */
static const char *files_advice(int error)
{
    switch (error) {
    case ENOENT:
        return "; check the path, relative paths start at the working directory";
    case EACCES:
    case EPERM:
        return "; check the owner and the permissions";
    case EROFS:
        return "; the file system is read-only, choose another place";
    case ENOSPC:
    case EDQUOT:
        return "; free space there or choose another place";
    case EFBIG:
        return "; the file size limit (ulimit -f) or the file system forbids it";
    case ENOTDIR:
        return "; a part of the path is a file, not a folder";
    case EMFILE:
        return "; too many open files (ulimit -n)";
    case ELOOP:
        return "; a symbolic link lies there, and what it points to is not written: remove it";
    default:
        return "";
    }
}

lh_status lhi_file_error(const char *what, const char *path)
{
    int error = errno;
    return LH_RAISE(LH_ERR_IO, "cannot %s '%s': %s%s", what, path, strerror(error),
                    files_advice(error));
}

lh_status lhi_path(char path[LH_PATH_MAX], const char *folder, const char *name)
{
    int n = snprintf(path, LH_PATH_MAX, "%s/%s", folder, name);
    if (n < 0 || n >= LH_PATH_MAX)
        return LH_RAISE(LH_ERR_USAGE, "the path '%.60s.../%s' is longer than %d bytes", folder,
                        name, LH_PATH_MAX - 1);
    return LH_OK;
}

lh_status lhi_write_all(int fd, const char *path, const void *bytes, size_t count)
{
    const char *at = bytes;
    while (count > 0) {
        ssize_t n = write(fd, at, count);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return lhi_file_error("write", path);
        at += n;
        count -= (size_t)n;
    }
    return LH_OK;
}

/* Open for writing, or make, what is no link. A pipe would keep us waiting for a reader, or give everything to
 * it; a device, such as /dev/null for a log, was put there on purpose. */
static lh_status files_open(const char *what, const char *path, int how, int *fd)
{
    struct stat info;
    *fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | how, 0666);
    if (*fd < 0 && errno != ENXIO) return lhi_file_error(what, path);
    if (*fd >= 0 && fstat(*fd, &info) == 0 && !S_ISFIFO(info.st_mode)) return LH_OK;
    if (*fd >= 0) (void)close(*fd);
    *fd = -1;
    return LH_RAISE(LH_ERR_IO, "cannot %s '%s': it is a pipe or a socket, not a file: remove it",
                    what, path);
}

lh_status lhi_file_append(const char *path, int *fd)
{
    return files_open("append to", path, O_APPEND, fd);
}

lh_status lhi_file_read(const char *path, FILE **file)
{
    lh_status st = LH_OK;
    struct stat info;
    *file = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return lhi_file_error("read", path);
    LH_CHECK(fstat(fd, &info) == 0 && S_ISREG(info.st_mode), LH_ERR_IO,
             "cannot read '%s': it is no plain file", path);
    *file = fdopen(fd, "r");
    if (*file == NULL) LH_TRY(lhi_file_error("read", path));
done:
    if (*file == NULL) (void)close(fd);
    return st;
}

lh_status lhi_file_new(const char *path, FILE **file)
{
    *file = NULL;
    if (unlink(path) != 0 && errno != ENOENT) return lhi_file_error("remove", path);
    *file = fopen(path, "wxe");
    return *file != NULL ? LH_OK : lhi_file_error("create", path);
}

lh_status lhi_file_sync(const char *path)
{
    lh_status st = LH_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return lhi_file_error("open", path);
    /* Some file systems cannot sync a folder and say EINVAL: there is nothing more to be done then. */
    if (fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP) st = lhi_file_error("sync", path);
    (void)close(fd);
    return st;
}

static lh_status files_no_room(const char *path, int64_t bytes, int error)
{
    return LH_RAISE(LH_ERR_IO, "no room for about %lld bytes of '%s': %s%s", (long long)bytes, path,
                    strerror(error), files_advice(error));
}

/* Where the file system cannot hold room: does it say that it has some? */
static lh_status files_free_room(int fd, const char *path, int64_t bytes)
{
    struct statvfs disk;
    struct stat info;
    if (fstatvfs(fd, &disk) != 0 || fstat(fd, &info) != 0) return LH_OK; /* the writes will tell */
    double room = (double)disk.f_bavail * (double)disk.f_frsize + 512.0 * (double)info.st_blocks;
    return room < (double)bytes ? files_no_room(path, bytes, ENOSPC) : LH_OK;
}

/* *held: the file system keeps the room for this file. */
static lh_status files_reserve(const char *path, int64_t bytes, bool try_disk, bool *held)
{
    lh_status st = LH_OK;
    struct rlimit limit;
    *held = false;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        limit.rlim_cur < (rlim_t)bytes)
        return LH_RAISE(LH_ERR_IO,
                        "'%s' needs about %lld bytes; the file size limit (ulimit -f) is %lld",
                        path, (long long)bytes, (long long)limit.rlim_cur);
    if (!try_disk) return LH_OK;
    int fd = -1;
    st = files_open("create", path, 0, &fd);
    if (st != LH_OK) return st;
#ifdef __linux__
    *held = fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)bytes) == 0;
    if (!*held && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG))
        st = files_no_room(path, bytes, errno);
#endif
    if (!*held && st == LH_OK) st = files_free_room(fd, path, bytes);
    (void)close(fd);
    return st;
}

lh_status lhi_file_reserve(const char *path, int64_t bytes, bool try_disk)
{
    bool held = false;
    return files_reserve(path, bytes, try_disk, &held);
}

/* Zeros behind the end of the file, on the disk. */
static lh_status files_fill(const char *path, int64_t first, int64_t count)
{
    static const char zeros[1 << 16];
    lh_status st = LH_OK;
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return lhi_file_error("open", path);
    while (count > 0) {
        size_t some = count < (int64_t)sizeof zeros ? (size_t)count : sizeof zeros;
        ssize_t n = pwrite(fd, zeros, some, (off_t)first);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) LH_TRY(files_no_room(path, first + count, errno));
        first += n;
        count -= n;
    }
    /* Network file systems notice a full disk as late as here. */
    if (fsync(fd) != 0) st = files_no_room(path, first, errno);
done:
    (void)close(fd);
    return st;
}

lh_status lhi_file_hold(lh_comm *comm, const char *path, int64_t bytes)
{
    lh_status st = LH_OK;
    struct stat info;
    bool held = false;
    int64_t from = 0;
    int64_t ranks = comm != NULL ? lh_comm_size(comm) : 1;
    int64_t rank = comm != NULL ? lh_comm_rank(comm) : 0;
    if (lhi_lead(comm)) {
        st = files_reserve(path, bytes, true, &held);
        if (st == LH_OK && stat(path, &info) != 0) st = lhi_file_error("look at", path);
        if (st == LH_OK) from = held ? bytes : info.st_size;
    }
    LH_TRY(lh_files_agree(comm, st));
    if (comm != NULL) lh_broadcast(comm, &from, (int64_t)sizeof from, LH_SEND_OTHER);
    if (from >= bytes) return LH_OK;
    int64_t share = (bytes - from + ranks - 1) / ranks;
    int64_t first = from + rank * share;
    st = files_fill(path, first, first + share > bytes ? bytes - first : share);
    st = lh_files_agree(comm, st);
done:
    return st;
}

/* The folder that holds path. */
static void files_parent(const char *path, char parent[LH_PATH_MAX])
{
    (void)snprintf(parent, LH_PATH_MAX, "%s", path);
    char *slash = strrchr(parent, '/');
    if (slash == NULL)
        (void)snprintf(parent, LH_PATH_MAX, ".");
    else
        slash[slash == parent ? 1 : 0] = '\0';
}

lh_status lhi_file_move(const char *from, const char *to)
{
    char parent[LH_PATH_MAX];
    if (rename(from, to) != 0) {
        int error = errno;
        return LH_RAISE(LH_ERR_IO, "cannot rename '%s' to '%s': %s%s", from, to, strerror(error),
                        files_advice(error));
    }
    files_parent(to, parent);
    return lhi_file_sync(parent);
}

/* Until a pipe has something to read, or has ended: what another program writes comes when it comes. */
static lh_status files_wait(const char *path, int fd)
{
    struct pollfd pipe = {.fd = fd, .events = POLLIN};
    int ready = 0;
    do {
        ready = poll(&pipe, 1, pipe_seconds * 1000);
    } while (ready < 0 && errno == EINTR);
    if (ready < 0) return lhi_file_error("read", path);
    if (ready > 0) return LH_OK;
    return LH_RAISE(LH_ERR_IO,
                    "'%s' is a pipe to which nobody has written for %d seconds; write its content "
                    "into a file and name that",
                    path, pipe_seconds);
}

/* The bytes of a small file on this process alone. */
static lh_status files_slurp(const char *path, char **bytes, int64_t *count)
{
    lh_status st = LH_OK;
    struct stat info;
    char *text = NULL;
    int64_t done = 0, capacity = 0;
    /* Not blocking: opening a pipe that nobody writes to would wait for ever. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return lhi_file_error("read", path);
    if (fstat(fd, &info) != 0) LH_TRY(lhi_file_error("read", path));
    LH_CHECK(!S_ISDIR(info.st_mode), LH_ERR_IO, "'%s' is a folder; a file was expected", path);
    LH_CHECK(info.st_size <= small_limit, LH_ERR_IO,
             "'%s' has %lld bytes; at most %lld were expected here", path, (long long)info.st_size,
             (long long)small_limit);
    /* Read to the end, not to st_size: files under /proc say 0. */
    for (;;) {
        LH_TRY(lh_grow(&text, &capacity, done + 4096 + 1, 1));
        if (S_ISFIFO(info.st_mode)) LH_TRY(files_wait(path, fd));
        ssize_t n = read(fd, text + done, (size_t)(capacity - done - 1));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) LH_TRY(lhi_file_error("read", path));
        if (n == 0) break;
        done += n;
        LH_CHECK(done <= small_limit, LH_ERR_IO, "'%s' has more than the %lld bytes expected here",
                 path, (long long)small_limit);
    }
    text[done] = '\0';
done:
    (void)close(fd);
    if (st != LH_OK) {
        lh_free(&text);
        done = 0;
    }
    *bytes = text;
    *count = done;
    return st;
}

/* Rank 0's outcome and bytes to all ranks. *bytes of rank 0 is taken; all get a copy with a closing
 * NUL. */
static lh_status files_share(lh_comm *comm, lh_status st, char **bytes, int64_t *count)
{
    st = lh_files_agree(comm, st);
    if (st == LH_OK && comm != NULL) {
        char *copy = NULL;
        lh_broadcast(comm, count, (int64_t)sizeof *count, LH_SEND_OTHER);
        if (!lhi_lead(comm)) st = lh_new((size_t)*count + 1, &copy);
        st = lh_agree(comm, st);
        if (!lhi_lead(comm)) *bytes = copy;
        if (st == LH_OK) lh_broadcast(comm, *bytes, *count, LH_SEND_OTHER);
    }
    if (st != LH_OK) {
        lh_free(bytes);
        *count = 0;
    }
    return st;
}

lh_status lh_read_small(void *user, const char *path, char **bytes, size_t *count)
{
    lh_comm *comm = user;
    lh_status st = LH_OK;
    int64_t n = 0;
    *bytes = NULL;
    if (lhi_lead(comm)) st = files_slurp(path, bytes, &n);
    st = files_share(comm, st, bytes, &n);
    *count = (size_t)n;
    return st;
}

static lh_status files_replace(const char *path, const char *bytes, size_t count)
{
    lh_status st = LH_OK;
    char beside[LH_PATH_MAX];
    struct stat info;
    int n = snprintf(beside, sizeof beside, "%s.tmp", path);
    if (n < 0 || n >= (int)sizeof beside)
        return LH_RAISE(LH_ERR_USAGE, "the path '%.60s...' is too long", path);
    if (lstat(path, &info) == 0 && !S_ISREG(info.st_mode))
        return LH_RAISE(LH_ERR_IO,
                        "'%s' is no ordinary file (a link, a device, a pipe, a folder), and is not "
                        "replaced: remove it or choose another name",
                        path);
    int fd = -1;
    st = files_open("create", beside, O_TRUNC, &fd);
    if (st != LH_OK) return st;
    LH_TRY(lhi_write_all(fd, beside, bytes, count));
    if (fsync(fd) != 0) LH_TRY(lhi_file_error("sync", beside));
done:
    /* Network file systems report a full disk as late as here. */
    if (close(fd) != 0 && st == LH_OK) st = lhi_file_error("close", beside);
    if (st == LH_OK) st = lhi_file_move(beside, path);
    if (st != LH_OK) (void)unlink(beside);
    return st;
}

lh_status lh_write_small(lh_comm *comm, const char *path, const char *bytes, size_t count)
{
    lh_status st = LH_OK;
    if (lhi_lead(comm)) st = files_replace(path, bytes, count);
    return lh_files_agree(comm, st);
}

/* A new folder's name reaches the disk, without which nothing in it is found after a crash of the
 * machine; where the folder above cannot be read, that is left to the system. */
static void files_sync_name(const char *path)
{
    char parent[LH_PATH_MAX];
    files_parent(path, parent);
    int fd = open(parent, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    (void)fsync(fd);
    (void)close(fd);
}

static lh_status files_mkdir(const char *path)
{
    char part[LH_PATH_MAX];
    struct stat info;
    int n = snprintf(part, sizeof part, "%s", path);
    if (n <= 0 || n >= (int)sizeof part)
        return LH_RAISE(LH_ERR_USAGE, "the folder name '%.60s' is empty or too long", path);
    for (char *end = part + 1;; end++) {
        char kept = *end;
        if (kept != '/' && kept != '\0') continue;
        *end = '\0';
        /* Another program may make the same folder just now, so EEXIST is no error. */
        int why = mkdir(part, 0777) == 0 ? 0 : errno;
        if (why != 0 && why != EEXIST && stat(part, &info) != 0) {
            errno = why; /* not that the folder is missing, but why it could not be made */
            return lhi_file_error("make the folder", part);
        }
        if (why == 0) files_sync_name(part);
        if (kept == '\0') break;
        *end = kept;
    }
    if (stat(path, &info) != 0) return lhi_file_error("make the folder", path);
    if (!S_ISDIR(info.st_mode)) {
        errno = ENOTDIR;
        return lhi_file_error("make the folder", path);
    }
    return LH_OK;
}

lh_status lh_folder_make(lh_comm *comm, const char *path)
{
    lh_status st = LH_OK;
    if (lhi_lead(comm)) st = files_mkdir(path);
    return lh_files_agree(comm, st);
}

bool lh_file_exists(lh_comm *comm, const char *path)
{
    struct stat info;
    uint8_t there = lhi_lead(comm) && stat(path, &info) == 0;
    if (comm != NULL) lh_broadcast(comm, &there, 1, LH_SEND_OTHER);
    return there != 0;
}

lh_status lh_file_rename(lh_comm *comm, const char *from, const char *to)
{
    lh_status st = LH_OK;
    if (lhi_lead(comm)) st = lhi_file_move(from, to);
    return lh_files_agree(comm, st);
}

lh_status lh_file_remove(lh_comm *comm, const char *path)
{
    lh_status st = LH_OK;
    if (lhi_lead(comm) && unlink(path) != 0 && errno != ENOENT) st = lhi_file_error("remove", path);
    return lh_files_agree(comm, st);
}

lh_status lhi_file_aside_path(const char *folder, const char *stem, const char *ext,
                              char path[LH_PATH_MAX])
{
    struct stat info;
    for (int k = 1; k < 1000000; k++) {
        int n = snprintf(path, LH_PATH_MAX, "%s/%s-%d.%s", folder, stem, k, ext);
        if (n < 0 || n >= LH_PATH_MAX)
            return LH_RAISE(LH_ERR_USAGE, "the path '%.60s...' is too long", folder);
        if (lstat(path, &info) != 0 && errno == ENOENT) return LH_OK;
    }
    return LH_RAISE(LH_ERR_IO, "no free name %s/%s-K.%s; clear the folder", folder, stem, ext);
}

static lh_status files_aside(const char *folder, const char *stem, const char *ext)
{
    char from[LH_PATH_MAX], to[LH_PATH_MAX];
    struct stat info;
    int n = snprintf(from, sizeof from, "%s/%s.%s", folder, stem, ext);
    if (n < 0 || n >= (int)sizeof from)
        return LH_RAISE(LH_ERR_USAGE, "the path '%.60s...' is too long", folder);
    if (stat(from, &info) != 0) return errno == ENOENT ? LH_OK : lhi_file_error("look at", from);
    lh_status st = lhi_file_aside_path(folder, stem, ext, to);
    return st == LH_OK ? lhi_file_move(from, to) : st;
}

lh_status lh_file_aside(lh_comm *comm, const char *folder, const char *stem, const char *ext)
{
    lh_status st = LH_OK;
    if (lhi_lead(comm)) st = files_aside(folder, stem, ext);
    return lh_files_agree(comm, st);
}

static int files_compare(const void *a, const void *b)
{
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

/* names (strings one after the other) in the order of their bytes. */
static lh_status files_sort(char **names, int64_t bytes, int64_t count)
{
    lh_status st = LH_OK;
    char *sorted = NULL, **item = NULL;
    LH_TRY(lh_new((size_t)bytes + 1, &sorted));
    LH_TRY(lh_new((size_t)count * sizeof *item, &item));
    char *at = *names;
    for (int64_t i = 0; i < count; i++) {
        item[i] = at;
        at += strlen(at) + 1;
    }
    qsort(item, (size_t)count, sizeof *item, files_compare);
    at = sorted;
    for (int64_t i = 0; i < count; i++) {
        size_t n = strlen(item[i]) + 1;
        memcpy(at, item[i], n);
        at += n;
    }
    lh_free(names);
    *names = sorted;
    sorted = NULL;
done:
    lh_free(&item);
    lh_free(&sorted);
    return st;
}

static lh_status files_list(const char *path, char **names, int64_t *bytes, int64_t *count)
{
    lh_status st = LH_OK;
    int64_t capacity = 0;
    const struct dirent *entry = NULL;
    *bytes = *count = 0;
    DIR *dir = opendir(path);
    if (dir == NULL) return errno == ENOENT ? LH_OK : lhi_file_error("list the folder", path);
    while (errno = 0, (entry = readdir(dir)) != NULL) {
        size_t n = strlen(entry->d_name) + 1;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        LH_TRY(lh_grow(names, &capacity, *bytes + (int64_t)n, 1));
        memcpy(*names + *bytes, entry->d_name, n);
        *bytes += (int64_t)n;
        ++*count;
    }
    if (errno != 0) LH_TRY(lhi_file_error("list the folder", path));
    LH_TRY(files_sort(names, *bytes, *count));
done:
    (void)closedir(dir);
    return st;
}

lh_status lh_folder_list(lh_comm *comm, const char *path, char **names, int64_t *count)
{
    lh_status st = LH_OK;
    int64_t bytes = 0;
    *names = NULL;
    *count = 0;
    if (lhi_lead(comm)) st = files_list(path, names, &bytes, count);
    st = files_share(comm, st, names, &bytes);
    if (st != LH_OK) *count = 0;
    /* Behind the agreed bytes: no rank can fail any more. */
    if (st == LH_OK && comm != NULL)
        lh_broadcast(comm, count, (int64_t)sizeof *count, LH_SEND_OTHER);
    return st;
}
