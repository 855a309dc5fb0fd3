#include "io/bytes.h"

#include "core/pulse.h"
#include "io/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct lh_bytes {
    int fd;
    int64_t size;
    lh_pulse *pulse; /* NULL: nobody watches; borrowed */
    char path[LH_PATH_MAX];
};

static lh_status bytes_open(const char *path, lh_bytes **out)
{
    lh_status st = LH_OK;
    struct stat info;
    lh_bytes *file = NULL;
    LH_TRY(lh_new(sizeof *file, &file));
    file->fd = -1;
    int n = snprintf(file->path, sizeof file->path, "%s", path);
    LH_CHECK(n > 0 && n < (int)sizeof file->path, LH_ERR_USAGE,
             "the file name '%.60s' is empty or too long", path);
    /* Not blocking: opening a pipe that nobody writes to would wait for ever. */
    file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    LH_CHECK(file->fd >= 0, LH_ERR_IO,
             "cannot read '%s': %s; check the path (relative paths start at the working directory)"
             " and its permissions on every node",
             path, strerror(errno));
    LH_CHECK(fstat(file->fd, &info) == 0, LH_ERR_IO, "cannot read '%s': %s", path, strerror(errno));
    LH_CHECK(!S_ISDIR(info.st_mode), LH_ERR_IO, "'%s' is a folder; name a file in it", path);
    LH_CHECK(S_ISREG(info.st_mode), LH_ERR_IO,
             "'%s' is a pipe, socket or device; copy its content into a file and name that", path);
    file->size = info.st_size;
done:
    if (st != LH_OK) lh_bytes_close(&file);
    *out = file;
    return st;
}

/* Ranks on other nodes must see the same file. */
static lh_status bytes_same(lh_comm *comm, const lh_bytes *file)
{
    lh_status st = LH_OK;
    int64_t size = file->size;
    if (comm == NULL) return LH_OK;
    lh_broadcast(comm, &size, (int64_t)sizeof size, LH_SEND_OTHER);
    if (size != file->size)
        st = LH_RAISE(LH_ERR_IO,
                      "'%s' has %lld bytes here and %lld on rank 0; put it on a file system that "
                      "all nodes share, or make the copies equal",
                      file->path, (long long)file->size, (long long)size);
    return lh_agree(comm, st);
}

lh_status lh_bytes_open(lh_comm *comm, const char *path, lh_bytes **out)
{
    lh_bytes *file = NULL;
    lh_status st = lh_files_agree(comm, bytes_open(path, &file));
    if (st == LH_OK) st = bytes_same(comm, file);
    if (st != LH_OK) lh_bytes_close(&file);
    if (st == LH_OK && comm != NULL) file->pulse = lh_comm_traffic(comm)->pulse;
    *out = file;
    return st;
}

void lh_bytes_close(lh_bytes **file)
{
    if (*file != NULL && (*file)->fd >= 0) (void)close((*file)->fd);
    lh_free(file);
}

int64_t lh_bytes_size(const lh_bytes *file)
{
    return file->size;
}

const char *lh_bytes_path(const lh_bytes *file)
{
    return file->path;
}

lh_status lh_bytes_read(const lh_bytes *file, int64_t offset, int64_t count, uint8_t *out)
{
    if (offset < 0 || count < 0 || offset > file->size || count > file->size - offset)
        return LH_RAISE(LH_ERR_RANGE,
                        "%lld bytes at offset %lld of '%s' were asked for; it has %lld",
                        (long long)count, (long long)offset, file->path, (long long)file->size);
    while (count > 0) {
        ssize_t n = pread(file->fd, out, (size_t)count, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return LH_RAISE(LH_ERR_IO, "cannot read '%s' at byte %lld: %s", file->path,
                            (long long)offset, strerror(errno));
        if (n == 0)
            return LH_RAISE(LH_ERR_IO,
                            "'%s' has shrunk while it was read: it had %lld bytes, now it ends "
                            "at byte %lld; do not change data during a run",
                            file->path, (long long)file->size, (long long)offset);
        lh_pulse_beat(file->pulse);
        out += n;
        offset += n;
        count -= n;
    }
    return LH_OK;
}
