/* Sums over ranks without contents, made of messages: SMPI's own nonblocking ones send everything to
 * everybody. Reduce-scatter by halving, all-gather by doubling (Rabenseifner 2004), as MPI libraries sum
 * large messages: 2 (P - 1) / P of the bytes in 2 log2 P messages. Ranks beyond a power of two fold
 * into their neighbours. Small ones: all to each of log2 P ranks.
 *
 * As in MPI libraries, a sum moves on only inside of calls: the next message of a sum is begun by
 * whichever call finds that the last one has come. */
#include <stdlib.h>

#include "parallel/smpi_internal.h"

enum {
    SUM_STEPS = 72,    /* of one sum: 2 log2 of 2^32 ranks and the two folds */
    SUM_SMALL = 32768, /* bytes up to which all travel at once */
    SUM_TAG = 20000,   /* above the tags of parallel/, below its highest */
    SUM_TAGS = 8192
};

/* One exchange with one rank; 0 bytes: no message. */
typedef struct sum_step {
    int peer;
    int64_t send, recv;
    bool add; /* what arrives is added */
} sum_step;

struct smpi_sum {
    smpi_sum *next;
    MPI_Comm comm;
    int tag;
    int n_steps, at; /* at: the step under way; n_steps: done */
    bool started;
    sum_step step[SUM_STEPS];
    MPI_Request request[2];
};

static void sum_put(smpi_sum *s, int peer, int64_t send, int64_t recv, bool add)
{
    if (s->n_steps < SUM_STEPS) s->step[s->n_steps++] = (sum_step){peer, send, recv, add};
}

/* The rank that stands at place v among the power of two that work. */
static int sum_peer(int v, int pairs)
{
    return v < pairs ? 2 * v : v + pairs;
}

static void sum_plan(smpi_sum *s, int rank, int ranks, int64_t bytes)
{
    int power = 1;
    while (2 * power <= ranks) power *= 2;
    int pairs = ranks - power;
    bool paired = rank < 2 * pairs;
    if (paired && rank % 2 == 1) { /* the neighbour works for both */
        sum_put(s, rank - 1, bytes, 0, false);
        sum_put(s, rank - 1, 0, bytes, false);
        return;
    }
    if (paired) sum_put(s, rank + 1, 0, bytes, true);
    int v = paired ? rank / 2 : rank - pairs;
    int64_t part = bytes;
    for (int far = power / 2; far >= 1; far /= 2) {
        int peer = sum_peer(v ^ far, pairs);
        if (bytes > SUM_SMALL) part = (part + 1) / 2;
        sum_put(s, peer, part, part, true);
    }
    for (int far = 1; far < power && bytes > SUM_SMALL; far *= 2, part *= 2)
        sum_put(s, sum_peer(v ^ far, pairs), part, part, false);
    if (paired) sum_put(s, rank + 1, bytes, 0, false);
}

/* Begin the step that is due. */
static int sum_begin_step(smpi_sum *s)
{
    const sum_step *t = &s->step[s->at];
    int code = MPI_SUCCESS;
    s->request[0] = s->request[1] = MPI_REQUEST_NULL;
    if (t->recv > 0)
        code = PMPI_Irecv(lhi_smpi_buffer(t->recv), (int)t->recv, MPI_BYTE, t->peer, s->tag,
                          s->comm, &s->request[0]);
    if (t->send > 0 && code == MPI_SUCCESS)
        code = PMPI_Isend(lhi_smpi_buffer(t->send), (int)t->send, MPI_BYTE, t->peer, s->tag,
                          s->comm, &s->request[1]);
    s->started = true;
    return code;
}

/* As far as it goes without waiting. */
static int sum_move(smpi_sum *s)
{
    int code = MPI_SUCCESS;
    while (s->at < s->n_steps && code == MPI_SUCCESS) {
        int done = 0;
        if (!s->started) code = sum_begin_step(s);
        if (code == MPI_SUCCESS) code = PMPI_Testall(2, s->request, &done, MPI_STATUSES_IGNORE);
        if (!done || code != MPI_SUCCESS) break;
        if (s->step[s->at].add) lhi_smpi_pass(lhi_smpi_add_cost(s->step[s->at].recv));
        s->at++;
        s->started = false;
    }
    return code;
}

int lhi_smpi_sum_start(smpi_rank *r, int64_t bytes, MPI_Comm comm, MPI_Request *request)
{
    int rank = 0, ranks = 1;
    smpi_sum *s = calloc(1, sizeof *s);
    if (s == NULL) return MPI_ERR_NO_MEM;
    (void)PMPI_Comm_rank(comm, &rank);
    (void)PMPI_Comm_size(comm, &ranks);
    s->comm = comm;
    s->tag = SUM_TAG + (int)(r->sums_all++ % SUM_TAGS);
    sum_plan(s, rank, ranks, bytes);
    smpi_sum **end = &r->sums;
    while (*end != NULL) end = &(*end)->next;
    *end = s;
    *request = (MPI_Request)(void *)s;
    return sum_move(s);
}

smpi_sum *lhi_smpi_sum_find(const smpi_rank *r, MPI_Request request)
{
    for (smpi_sum *s = r->sums; s != NULL; s = s->next)
        if ((void *)s == (void *)request) return s;
    return NULL;
}

int lhi_smpi_sum_advance(const smpi_rank *r)
{
    int code = MPI_SUCCESS;
    for (smpi_sum *s = r->sums; s != NULL && code == MPI_SUCCESS; s = s->next) code = sum_move(s);
    return code;
}

bool lhi_smpi_sum_done(const smpi_sum *sum)
{
    return sum->at == sum->n_steps;
}

/* Who waits lets everything move on, as the progress of a library does. */
int lhi_smpi_sum_wait(const smpi_rank *r, const smpi_sum *sum, int count, MPI_Request *requests)
{
    enum { WAIT_MANY = 256 };
    MPI_Request all[WAIT_MANY];
    MPI_Request *from[WAIT_MANY];
    int code = MPI_SUCCESS;
    while (code == MPI_SUCCESS) {
        int n = 0, done = 0;
        code = lhi_smpi_sum_advance(r);
        if (sum != NULL && lhi_smpi_sum_done(sum)) return code;
        if (sum == NULL && r->sums == NULL)
            return PMPI_Waitall(count, requests, MPI_STATUSES_IGNORE);
        if (sum == NULL) code = PMPI_Testall(count, requests, &done, MPI_STATUSES_IGNORE);
        if (done || code != MPI_SUCCESS) return code;
        for (int i = 0; i < count && n < WAIT_MANY; i++) from[n++] = &requests[i];
        for (smpi_sum *s = r->sums; s != NULL; s = s->next)
            for (int i = 0; i < 2 && s->started && n < WAIT_MANY; i++) from[n++] = &s->request[i];
        for (int i = 0; i < n; i++) all[i] = *from[i];
        code = PMPI_Waitany(n, all, &done, MPI_STATUS_IGNORE);
        for (int i = 0; i < n; i++) *from[i] = all[i];
    }
    return code;
}

void lhi_smpi_sum_free(smpi_rank *r, smpi_sum *sum)
{
    smpi_sum **at = &r->sums;
    while (*at != NULL && *at != sum) at = &(*at)->next;
    if (*at != NULL) *at = sum->next;
    free(sum);
}
