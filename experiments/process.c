#include "experiments/process.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

enum {
    PROCESS_LARGE = 128 << 10,     /* bytes of a block that returns to the system at once */
    PROCESS_STACK = 1 << 20,       /* bytes; the largest frames of kernels have about 200 KiB */
    PROCESS_LEAST = 2 * (1 << 20), /* bytes of stack that there must be */
    PROCESS_ROOMY = 4 * (1 << 20)  /* with so many what is touched is certainly there */
};

/* The one mutable global: set by a signal, read between steps. */
static volatile sig_atomic_t process_stop;

static void process_on_signal(int signal)
{
    (void)signal;
    process_stop = 1;
}

const volatile sig_atomic_t *lh_process_stop(void)
{
    return &process_stop;
}

void lh_process_catch(void)
{
    const int signals[] = {SIGUSR1, SIGTERM, SIGINT, SIGXCPU, SIGHUP};
    struct sigaction action = {.sa_handler = process_on_signal}, before;
    (void)sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        if (signals[i] == SIGHUP && sigaction(SIGHUP, NULL, &before) == 0 &&
            before.sa_handler == SIG_IGN)
            continue; /* nohup */
        /* asked a second time to terminate, the process does so at once */
        action.sa_flags = signals[i] == SIGUSR1 ? SA_RESTART : SA_RESTART | (int)SA_RESETHAND;
        (void)sigaction(signals[i], &action, NULL);
    }
    (void)signal(SIGPIPE, SIG_IGN);
}

/* A closed descriptor would become that of the next file or socket, into which messages then go. Standard output
 * is opened for reading, so that results that reach nobody are an error. */
static void process_descriptors(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            (void)open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY); /* the lowest: fd */
}

/* The stack grows when a page is first touched, and where memory is limited (ulimit -v) a step that
 * cannot have its page dies without a word. So what kernels need is touched now: later only
 * allocations can fail, and they say so. Never inlined: the room must not be in another's frame. */
__attribute__((noinline)) static void process_touch_stack(void)
{
    volatile char room[PROCESS_STACK];
    for (size_t i = 0; i < sizeof room; i += 4096) room[sizeof room - 1 - i] = 0;
}

/* Large blocks go back to the system as soon as they are released. Left alone, glibc keeps more of them the
 * larger they were; what a checkpoint takes for a moment then breaks up a heap that only grows. */
static void process_return_memory(void)
{
#ifdef __GLIBC__
    (void)mallopt(M_MMAP_THRESHOLD, PROCESS_LARGE);
#endif
}

lh_status lh_process_begin(void)
{
    lh_status st = LH_OK;
    struct rlimit stack;
    process_descriptors();
    /* a file-size limit becomes a write error with a message instead of a dead process */
    (void)signal(SIGXFSZ, SIG_IGN);
    process_return_memory();
    if (getrlimit(RLIMIT_STACK, &stack) != 0) goto done;
    LH_CHECK(stack.rlim_cur >= PROCESS_LEAST, LH_ERR_USAGE,
             "the stack is limited to %llu KiB, and %d are needed: ulimit -s %d",
             (unsigned long long)(stack.rlim_cur / 1024), PROCESS_LEAST / 1024,
             PROCESS_ROOMY / 1024);
    if (stack.rlim_cur >= PROCESS_ROOMY) process_touch_stack();
done:
    return st;
}

static void *process_wait(void *gate)
{
    (void)pthread_mutex_lock(gate);
    (void)pthread_mutex_unlock(gate);
    return NULL;
}

lh_status lh_process_threads(int threads)
{
    lh_status st = LH_OK;
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER; /* closed until all have started */
    pthread_t *thread = NULL;
    int started = 1, code = 0; /* this one runs */
    if (threads <= 1) return LH_OK;
    LH_TRY(lh_new((size_t)threads * sizeof *thread, &thread));
    (void)pthread_mutex_lock(&gate);
    while (started < threads && code == 0) {
        code = pthread_create(&thread[started], NULL, process_wait, &gate);
        if (code == 0) started++;
    }
    (void)pthread_mutex_unlock(&gate);
    for (int i = 1; i < started; i++) (void)pthread_join(thread[i], NULL);
    LH_CHECK(code == 0, LH_ERR_MEMORY,
             "this rank can run %d threads and not %d (%s): lower device.threads or "
             "OMP_NUM_THREADS, or raise the limit on memory (ulimit -v) or processes (ulimit -u, "
             "the job's control group)",
             started, threads, strerror(code));
done:
    lh_free(&thread);
    return st;
}
