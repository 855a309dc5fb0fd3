/* Comes before a program's libraries (LD_PRELOAD): a file system that cannot hold room for a file, as some network file
 * systems cannot. */
#include <errno.h>
#include <sys/types.h>

int fallocate(int fd, int mode, off_t offset, off_t bytes);

int fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    (void)fd, (void)mode, (void)offset, (void)bytes;
    errno = EOPNOTSUPP;
    return -1;
}
