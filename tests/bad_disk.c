/* Comes before a program's libraries (LD_PRELOAD). A file system that cannot hold room for a file, as some network file
 * systems cannot; or, with LH_BAD_WRITES, one that can, and then fails. */
#define _DEFAULT_SOURCE /* syscall */
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

int fallocate(int fd, int mode, off_t offset, off_t bytes);

int fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    if (getenv("LH_BAD_WRITES") != NULL)
        return (int)syscall(SYS_fallocate, fd, mode, offset, bytes);
    errno = EOPNOTSUPP;
    return -1;
}

/* What MPI-IO writes with. */
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    if (getenv("LH_BAD_WRITES") == NULL) return syscall(SYS_pwrite64, fd, bytes, count, offset);
    errno = EIO;
    return -1;
}
