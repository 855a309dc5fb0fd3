#define _GNU_SOURCE /* sched_getaffinity and cpu_set_t; this file needs nothing else of it */
#include "parallel/host.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "parallel/comm_internal.h"

enum { HOST_PATH = 4096 };

int lh_host_processors(void)
{
    cpu_set_t mine;
    CPU_ZERO(&mine);
    return sched_getaffinity(0, sizeof mine, &mine) == 0 ? CPU_COUNT(&mine) : 1;
}

/* The limit that a control group sets, or INT64_MAX. */
static int64_t host_group_limit(const char *folder, const char *file)
{
    char path[HOST_PATH + 128];
    int64_t bytes = 0;
    (void)snprintf(path, sizeof path, "%s/%s", folder, file);
    FILE *f = fopen(path, "re");
    bool read = f != NULL && fscanf(f, "%" SCNd64, &bytes) == 1 && bytes > 0; /* else: max */
    if (f != NULL) (void)fclose(f);
    return read ? bytes : INT64_MAX;
}

/* The least limit of this process's control group and of those around it: batch systems set one, and the
 * kernel kills who exceeds it. group: "" where the name is not seen from inside a container. */
static int64_t host_groups_limit(const char *root, const char *group, const char *file)
{
    char folder[HOST_PATH + 64];
    int64_t least = INT64_MAX;
    int n = snprintf(folder, sizeof folder, "%s%s", root, group);
    for (size_t floor = strlen(root); n >= (int)floor && n < (int)sizeof folder; n--) {
        if (n > (int)floor && folder[n] != '/' && folder[n] != '\0') continue;
        folder[n] = '\0';
        int64_t limit = host_group_limit(folder, file);
        if (limit < least) least = limit;
    }
    return least;
}

static int64_t host_memory(void)
{
    static const char *const v1 = "/sys/fs/cgroup/memory", *const v2 = "/sys/fs/cgroup";
    char line[HOST_PATH];
    long pages = sysconf(_SC_PHYS_PAGES);
    long page = sysconf(_SC_PAGESIZE);
    int64_t least = pages > 0 && page > 0 ? (int64_t)pages * page : INT64_MAX;
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        /* NUMBER:CONTROLLERS:GROUP; no controllers: version 2 */
        char *kind = strchr(line, ':');
        char *group = kind != NULL ? strchr(kind + 1, ':') : NULL;
        if (group == NULL) continue;
        *group++ = '\0';
        group[strcspn(group, "\n")] = '\0';
        int64_t limit = INT64_MAX;
        if (kind[1] == '\0') limit = host_groups_limit(v2, group, "memory.max");
        if (strstr(kind, "memory") != NULL)
            limit = host_groups_limit(v1, group, "memory.limit_in_bytes");
        if (limit < least) least = limit;
    }
    if (f != NULL) (void)fclose(f);
    return least;
}

/* The ranks of this node; the caller frees it. */
static MPI_Comm host_ranks(lh_comm *c)
{
    MPI_Comm local = MPI_COMM_NULL;
    LH_MPI(c, MPI_Comm_split_type(c->mpi, MPI_COMM_TYPE_SHARED, c->rank, MPI_INFO_NULL, &local));
    LH_MPI(c, MPI_Comm_set_errhandler(local, MPI_ERRORS_RETURN));
    return local;
}

int64_t lh_host_sum(lh_comm *c, int64_t mine)
{
    MPI_Comm local = host_ranks(c);
    LH_MPI(c, MPI_Allreduce(MPI_IN_PLACE, &mine, 1, MPI_INT64_T, MPI_SUM, local));
    LH_MPI(c, MPI_Comm_free(&local));
    return mine;
}

lh_host lh_host_of(lh_comm *c)
{
    lh_host host = {0};
    cpu_set_t mine;
    cpu_set_t theirs;
    MPI_Comm local = host_ranks(c);
    int rank = 0;
    CPU_ZERO(&mine);
    if (sched_getaffinity(0, sizeof mine, &mine) != 0) CPU_SET(0, &mine);
    LH_MPI(c, MPI_Comm_size(local, &host.ranks));
    LH_MPI(c, MPI_Comm_rank(local, &rank));
    for (int r = 0; r < host.ranks; r++) {
        memcpy(&theirs, &mine, sizeof theirs);
        LH_MPI(c, MPI_Bcast(&theirs, (int)sizeof theirs, MPI_BYTE, r, local));
        CPU_AND(&theirs, &theirs, &mine);
        if (CPU_COUNT(&theirs) > 0) host.sharing++;
    }
    LH_MPI(c, MPI_Comm_free(&local));
    host.mask = CPU_COUNT(&mine);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    host.online = online > 0 ? (int)online : 1;
    host.memory = host_memory();
    return host;
}

bool lh_host_short(const lh_host *h, int threads, char *text, size_t bytes)
{
    const int64_t wanted = (int64_t)threads * h->sharing;
    char remedy[160] = "start fewer ranks or threads";
    if (wanted <= h->mask) return false;
    if (wanted <= h->online)
        (void)snprintf(remedy, sizeof remedy,
                       "launchers bind ranks to cores: give mpirun --bind-to none or --map-by "
                       "slot:PE=%d, srun --cpus-per-task=%d",
                       threads, threads);
    (void)snprintf(text, bytes, "warning: %lld threads share %d of this node's %d processor%s; %s",
                   (long long)wanted, h->mask, h->online, h->online == 1 ? "" : "s", remedy);
    return true;
}

const char *lh_mpi_version(char *text, size_t bytes)
{
    char all[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0;
    if (MPI_Get_library_version(all, &length) != MPI_SUCCESS) all[0] = '\0';
    (void)snprintf(text, bytes, "%.*s", (int)strcspn(all, ",\r\n"), all);
    return text;
}

/* "model name" of /proc/cpuinfo. */
const char *lh_host_processor(char *text, size_t bytes)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "re");
    text[0] = '\0';
    while (f != NULL && text[0] == '\0' && fgets(line, sizeof line, f) != NULL) {
        const char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || value == NULL) continue;
        value += 1 + strspn(value + 1, " \t");
        (void)snprintf(text, bytes, "%.*s", (int)strcspn(value, "\n"), value);
    }
    if (f != NULL) (void)fclose(f);
    return text;
}
