/* A library that is loaded before the others (LD_PRELOAD) and makes one rank hang: from the moment at which the
 * file LH_STALL_WHEN is there, the function that LH_STALL_IN names does not return. The other threads of the
 * process go on, as they do when a file system or a bug holds one up. */
#define _GNU_SOURCE /* RTLD_NEXT */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void stall(const char *function)
{
    const char *in = getenv("LH_STALL_IN");
    const char *when = getenv("LH_STALL_WHEN");
    if (in == NULL || when == NULL || strcmp(in, function) != 0 || access(when, F_OK) != 0) return;
    for (;;) (void)pause();
}

/* The next function of that name; dlsym's object pointer, as POSIX has it. */
static void stall_next(const char *function, void *pointer)
{
    void *next = dlsym(RTLD_NEXT, function);
    memcpy(pointer, &next, sizeof next);
}

/* What turns positions into angles: one operation alone, which models with rotary positions have. */
void sincos(double x, double *sine, double *cosine)
{
    void (*next)(double, double *, double *) = NULL;
    stall("sincos");
    stall_next("sincos", &next);
    next(x, sine, cosine);
}

ssize_t pread(int fd, void *bytes, size_t count, off_t offset)
{
    ssize_t (*next)(int, void *, size_t, off_t) = NULL;
    stall("pread");
    stall_next("pread", &next);
    return next(fd, bytes, count, offset);
}

int fsync(int fd)
{
    int (*next)(int) = NULL;
    stall("fsync");
    stall_next("fsync", &next);
    return next(fd);
}
