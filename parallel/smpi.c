/* Between parallel/ and SMPI: see smpi.h. The functions MPI_... below take the place of SMPI's, which are
 * called by their profiling names, as MPI means it. */
#define _GNU_SOURCE /* mkstemp with the POSIX names */
#include "parallel/comm_internal.h"
#include "parallel/smpi_internal.h"

#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <simgrid/actor.h>
#include <simgrid/engine.h>
#include <simgrid/host.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xbt/config.h>

#include "parallel/host.h"

enum { SMPI_TEXT = 512 };
static const double smpi_speed = 1e9; /* flops per second of a processor of 1 Gf */

/* The job that runs: one per process, as SimGrid has one engine. */
static struct smpi_run {
    const lh_smpi_job *job;
    lh_status status; /* of the lowest rank that failed */
    int status_rank, cores;
    char error[SMPI_TEXT], where[SMPI_TEXT];
    void *buffer;
    int64_t buffer_bytes;
} smpi_run;

/* --- time --- */

smpi_rank *lhi_smpi_self(void)
{
    return smpi_process_get_user_data();
}

/* Does an operation of a layer run? Part 1 + l of the tape is layer l. */
static bool smpi_in_layer(const smpi_rank *r)
{
    const lh_pulse *p = r->pulse;
    return p != NULL && atomic_load_explicit(&p->op, memory_order_relaxed) != NULL &&
           atomic_load_explicit(&p->part, memory_order_relaxed) > 0;
}

/* The time since `start` is over. */
static int smpi_leave(smpi_rank *r, double start, int code)
{
    if (r != NULL && smpi_in_layer(r)) r->ledger.layers_s += simgrid_get_clock() - start;
    return code;
}

void lhi_smpi_pass(double seconds)
{
    /* asleep: SimGrid 3.32 goes through all messages an actor ever sent whenever a computation ends */
    if (seconds > 0.0)
        sg_actor_sleep_for(seconds * smpi_speed /
                           sg_host_get_speed(sg_actor_get_host(sg_actor_self())));
}

void lhi_smpi_flush(smpi_rank *r)
{
    double start = simgrid_get_clock();
    double debt = r->debt;
    r->debt = 0.0;
    lhi_smpi_pass(debt);
    (void)smpi_leave(r, start, MPI_SUCCESS);
}

double lhi_smpi_add_cost(int64_t bytes)
{
    return smpi_run.job->add_s_per_byte * (double)bytes;
}

void lh_smpi_compute(double seconds)
{
    smpi_rank *r = lhi_smpi_self();
    if (r == NULL || !(seconds > 0.0)) return;
    r->debt += seconds;
}

double lh_wall(void)
{
    smpi_rank *r = lhi_smpi_self();
    if (r != NULL) lhi_smpi_flush(r);
    return simgrid_get_clock();
}

/* From here to smpi_leave the time of this rank belongs to a message. */
static smpi_rank *smpi_enter(double *start)
{
    smpi_rank *r = lhi_smpi_self();
    if (r != NULL) lhi_smpi_flush(r);
    *start = simgrid_get_clock();
    return r;
}

void lh_smpi_begin(const lh_pulse *pulse)
{
    smpi_rank *r = lhi_smpi_self();
    if (r == NULL) return;
    lhi_smpi_flush(r);
    r->ledger = (lh_smpi_ledger){0};
    r->sums_all = 0;
    r->pulse = pulse;
}

lh_smpi_ledger lh_smpi_ledger_of(void)
{
    smpi_rank *r = lhi_smpi_self();
    if (r == NULL) return (lh_smpi_ledger){0};
    lhi_smpi_flush(r);
    return r->ledger;
}

/* --- messages --- */

/* Memory that all ranks share, one block of it over and over again: nothing is copied into it. */
void *lhi_smpi_buffer(int64_t bytes)
{
    if (bytes > smpi_run.buffer_bytes) {
        smpi_run.buffer_bytes = 2 * bytes; /* the smaller ones stay in use by messages under way */
        smpi_run.buffer = SMPI_SHARED_MALLOC((size_t)smpi_run.buffer_bytes);
    }
    return smpi_run.buffer;
}

int MPI_Isend(const void *x, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm,
              MPI_Request *request)
{
    double start = 0.0;
    smpi_rank *r = smpi_enter(&start);
    (void)x;
    if (r != NULL) r->ledger.bytes += count;
    return smpi_leave(r, start,
                      PMPI_Isend(lhi_smpi_buffer(count), count, type, to, tag, comm, request));
}

int MPI_Irecv(void *x, int count, MPI_Datatype type, int from, int tag, MPI_Comm comm,
              MPI_Request *request)
{
    double start = 0.0;
    smpi_rank *r = smpi_enter(&start);
    (void)x;
    return smpi_leave(r, start,
                      PMPI_Irecv(lhi_smpi_buffer(count), count, type, from, tag, comm, request));
}

int MPI_Waitall(int count, MPI_Request *requests, MPI_Status *statuses)
{
    double start = 0.0;
    smpi_rank *r = smpi_enter(&start);
    if (r == NULL) return PMPI_Waitall(count, requests, statuses);
    int code = MPI_SUCCESS;
    smpi_sum *s = count > 0 ? lhi_smpi_sum_find(r, requests[0]) : NULL;
    if (s == NULL) return smpi_leave(r, start, lhi_smpi_sum_wait(r, NULL, count, requests));
    for (int i = 0; i < count && code == MPI_SUCCESS; i++) {
        s = lhi_smpi_sum_find(r, requests[i]);
        if (s == NULL) continue;
        code = lhi_smpi_sum_wait(r, s, 0, NULL);
        lhi_smpi_sum_free(r, s);
        requests[i] = MPI_REQUEST_NULL;
    }
    return smpi_leave(r, start, code);
}

int MPI_Testall(int count, MPI_Request *requests, int *done, MPI_Status *statuses)
{
    double start = 0.0;
    smpi_rank *r = smpi_enter(&start);
    if (r == NULL) return PMPI_Testall(count, requests, done, statuses);
    int code = lhi_smpi_sum_advance(r);
    smpi_sum *s = count > 0 ? lhi_smpi_sum_find(r, requests[0]) : NULL;
    if (s == NULL) return smpi_leave(r, start, PMPI_Testall(count, requests, done, statuses));
    *done = 1;
    for (int i = 0; i < count; i++) {
        s = lhi_smpi_sum_find(r, requests[i]);
        if (s != NULL && !lhi_smpi_sum_done(s)) *done = 0;
    }
    for (int i = 0; i < count && *done; i++) {
        s = lhi_smpi_sum_find(r, requests[i]);
        if (s != NULL) lhi_smpi_sum_free(r, s);
        requests[i] = MPI_REQUEST_NULL;
    }
    return smpi_leave(r, start, code);
}

/* A poke of lh_progress: nobody sends with its tag. */
int MPI_Iprobe(int from, int tag, MPI_Comm comm, int *found, MPI_Status *status)
{
    double start = 0.0;
    smpi_rank *r = lhi_smpi_self();
    (void)from, (void)tag, (void)comm, (void)status;
    *found = 0;
    if (r == NULL || r->sums == NULL) return MPI_SUCCESS; /* messages move on without a poke */
    r = smpi_enter(&start);
    return smpi_leave(r, start, lhi_smpi_sum_advance(r));
}

/* Sums of `real` have no contents. */
int MPI_Iallreduce(const void *x, void *sum, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
                   MPI_Request *request)
{
    double start = 0.0;
    smpi_rank *r = smpi_enter(&start);
    if (r == NULL || type != lhi_mpi_real())
        return PMPI_Iallreduce(x, sum, count, type, op, comm, request);
    int64_t bytes = (int64_t)count * (int64_t)lh_dtype_bytes(LH_REAL);
    r->ledger.bytes += bytes;
    return smpi_leave(r, start, lhi_smpi_sum_start(r, bytes, comm, request));
}

int MPI_Allreduce(const void *x, void *sum, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm)
{
    double start = 0.0;
    MPI_Request request = MPI_REQUEST_NULL;
    smpi_rank *r = smpi_enter(&start);
    if (r == NULL || type != lhi_mpi_real()) {
        return smpi_leave(r, start, PMPI_Allreduce(x, sum, count, type, op, comm));
    }
    int code = MPI_Iallreduce(x, sum, count, type, op, comm, &request);
    if (code == MPI_SUCCESS) code = MPI_Waitall(1, &request, MPI_STATUSES_IGNORE);
    /* NOLINTNEXTLINE(clang-analyzer-optin.mpi.MPI-Checker): what could not begin leaves no request */
    return code;
}

int MPI_Barrier(MPI_Comm comm)
{
    double start = 0.0;
    smpi_rank *r = smpi_enter(&start);
    return smpi_leave(r, start, PMPI_Barrier(comm));
}

/* lh_barrier_asleep looks every few milliseconds of this machine's time; here nobody has to. */
int MPI_Ibarrier(MPI_Comm comm, MPI_Request *request)
{
    *request = MPI_REQUEST_NULL;
    return MPI_Barrier(comm);
}

int MPI_Test(MPI_Request *request, int *done, MPI_Status *status)
{
    *done = *request == MPI_REQUEST_NULL;
    return *done ? MPI_SUCCESS : PMPI_Test(request, done, status);
}

/* A simulated rank has one thread, which alone calls MPI. */
int MPI_Init_thread(int *argc, char ***argv, int required, int *provided)
{
    *provided = required;
    return PMPI_Init(argc, argv);
}

/* lh_fatal ends the process, and with it all ranks. */
int MPI_Abort(MPI_Comm comm, int code)
{
    (void)comm, (void)code;
    lh_fatal_end();
}

/* --- the host --- */

int lh_host_processors(void)
{
    return 1;
}

/* One rank to a processor of its own; its memory is what people give it. */
lh_host lh_host_of(lh_comm *c)
{
    (void)c;
    return (lh_host){.ranks = 1, .sharing = 1, .mask = 1, .online = 1, .memory = INT64_MAX};
}

int64_t lh_host_sum(lh_comm *c, int64_t mine)
{
    (void)c;
    return mine;
}

bool lh_host_short(const lh_host *h, int threads, char *text, size_t bytes)
{
    (void)h, (void)threads, (void)text, (void)bytes;
    return false;
}

const char *lh_host_processor(char *text, size_t bytes)
{
    (void)snprintf(text, bytes, "simulated");
    return text;
}

/* --- the job --- */

/* One rank, from its beginning to its end. */
static void smpi_rank_main(int argc, char **argv)
{
    smpi_rank self = {0};
    lh_status st = lh_init(&argc, &argv);
    int rank = 0;
    (void)PMPI_Comm_rank(MPI_COMM_WORLD, &rank);
    smpi_process_set_user_data(&self);
    if (st == LH_OK) st = smpi_run.job->run(smpi_run.job->user);
    if (st != LH_OK && (smpi_run.status == LH_OK || rank < smpi_run.status_rank)) {
        smpi_run.status = st;
        smpi_run.status_rank = rank;
        (void)snprintf(smpi_run.error, sizeof smpi_run.error, "%s", lh_error_text());
        (void)snprintf(smpi_run.where, sizeof smpi_run.where, "%s", lh_error_where());
    }
    lh_finalize();
    smpi_process_set_user_data(NULL);
}

/* node-2 comes before node-10. */
static int smpi_compare(const void *a, const void *b)
{
    const char *x = sg_host_get_name(*(const sg_host_t *)a);
    const char *y = sg_host_get_name(*(const sg_host_t *)b);
    size_t n = strlen(x), m = strlen(y);
    return n != m ? (n > m) - (n < m) : strcmp(x, y);
}

/* Who runs where, as SimGrid wants to read it. */
static lh_status smpi_deploy(const lh_smpi_job *job, FILE *f)
{
    lh_status st = LH_OK;
    int hosts = (int)sg_host_count();
    sg_host_t *host = sg_host_list();
    int rank = 0;
    qsort(host, (size_t)hosts, sizeof *host, smpi_compare);
    for (int h = 0; h < hosts; h++) smpi_run.cores += sg_host_core_count(host[h]);
    LH_CHECK(job->ranks <= smpi_run.cores, LH_ERR_USAGE,
             "%d ranks, but platform '%s' has %d cores: describe a larger cluster", job->ranks,
             job->platform, smpi_run.cores);
    (void)fprintf(f, "<?xml version='1.0'?>\n"
                     "<!DOCTYPE platform SYSTEM \"https://simgrid.org/simgrid.dtd\">\n"
                     "<platform version=\"4.1\">\n");
    for (int h = 0; h < hosts; h++)
        for (int c = 0; c < sg_host_core_count(host[h]) && rank < job->ranks; c++, rank++)
            (void)fprintf(f,
                          "<actor host=\"%s\" function=\"longhaul\"><prop id=\"instance_id\" "
                          "value=\"longhaul\"/><prop id=\"rank\" value=\"%d\"/></actor>\n",
                          sg_host_get_name(host[h]), rank);
    (void)fprintf(f, "</platform>\n");
    LH_CHECK(fflush(f) == 0 && !ferror(f), LH_ERR_IO, "the list of ranks cannot be written");
done:
    free(host);
    return st;
}

/* As on SimGrid's command line; the platform may say more, in its <config>. */
static const char *const smpi_options[] = {
    "longhaul-sim",
    "--log=root.thres:warning",
    "--cfg=contexts/stack-size:512", /* KiB; there may be a thousand ranks */
    "--cfg=network/model:SMPI",
    "--cfg=surf/precision:1e-9",
    "--cfg=smpi/host-speed:1Gf",
    "--cfg=smpi/simulate-computation:no", /* nothing is measured here */
    "--cfg=smpi/shared-malloc:global",
    "--cfg=smpi/wtime:0",
    "--cfg=smpi/iprobe:0",
    "--cfg=smpi/test:0",
};
enum { SMPI_OPTIONS = sizeof smpi_options / sizeof smpi_options[0] };

static sigjmp_buf smpi_aborted;

static void smpi_on_abort(int signal)
{
    (void)signal;
    siglongjmp(smpi_aborted, 1);
}

/* SimGrid aborts where a file is no platform, after it has said what is wrong: that is a user's mistake as others are. */
static lh_status smpi_load_platform(const char *path)
{
    lh_status st = LH_OK;
    const struct sigaction mine = {.sa_handler = smpi_on_abort};
    static struct sigaction old; /* static: kept over the jump */
    (void)sigaction(SIGABRT, &mine, &old);
    bool fits = sigsetjmp(smpi_aborted, 1) == 0;
    if (fits) simgrid_load_platform(path);
    (void)sigaction(SIGABRT, &old, NULL);
    LH_CHECK(fits, LH_ERR_USAGE,
             "'%s' is no platform file of SimGrid (see what it said): name one such as "
             "experiments/platforms/ethernet-10g.xml",
             path);
done:
    return st;
}

lh_status lh_smpi_run(const lh_smpi_job *job)
{
    lh_status st = LH_OK;
    char *argv[SMPI_OPTIONS + 1] = {NULL};
    int argc = SMPI_OPTIONS;
    char path[SMPI_TEXT];
    const char *folder = getenv("TMPDIR");
    FILE *f = NULL;
    struct stat info;
    LH_CHECK(access(job->platform, R_OK) == 0 && stat(job->platform, &info) == 0 &&
                 !S_ISDIR(info.st_mode),
             LH_ERR_USAGE,
             "platform '%s' cannot be read: name a file such as "
             "experiments/platforms/ethernet-10g.xml",
             job->platform);
    (void)snprintf(path, sizeof path, "%s/longhaul-sim-XXXXXX", folder != NULL ? folder : "/tmp");
    int fd = mkstemp(path);
    LH_CHECK(fd >= 0, LH_ERR_IO, "no temporary file can be made at '%s'", path);
    f = fdopen(fd, "w");
    LH_CHECK(f != NULL, LH_ERR_IO, "'%s' cannot be written", path);
    for (int i = 0; i < SMPI_OPTIONS; i++) argv[i] = (char *)(uintptr_t)smpi_options[i];
    simgrid_init(&argc, argv);
    SMPI_init();
    /* what it has declared just now; ranks share what is global: nothing is but this file's */
    sg_cfg_set_string("smpi/privatization", "no");
    sg_cfg_set_string("smpi/coll-selector", "ompi");
    LH_TRY(smpi_load_platform(job->platform));
    smpi_run = (struct smpi_run){.job = job};
    LH_TRY(smpi_deploy(job, f));
    SMPI_app_instance_register("longhaul", smpi_rank_main, job->ranks);
    simgrid_load_deployment(path);
    (void)unlink(path); /* it is read; killed from here on, nothing is left behind */
    simgrid_run();
    SMPI_finalize();
    if (smpi_run.status != LH_OK)
        st = lh_error_set(smpi_run.status, smpi_run.where, smpi_run.error);
done:
    if (f != NULL) {
        (void)fclose(f);
        (void)unlink(path);
    }
    return st;
}
