#pragma once
/* Communicators, the mesh, traffic, agreement and fatal errors. mpi.h stays inside parallel/.
 *
 * A communicator is real (MPI) or only counts: then it sends nothing, and only the counters move;
 * so the planner runs the same code for any rank of any number of ranks in one process. */
#include "core/place.h"

/* Payload bytes handed to MPI by purpose. A library collective counts its payload once. One rank
 * sends 0. */
typedef enum lh_purpose {
    LH_SEND_FORWARD,   /* rows, forward */
    LH_SEND_BACKWARD,  /* rows, backward: fetched again and gradients going home */
    LH_SEND_SUMMARY,   /* summaries: all-reduce, gather, scan */
    LH_SEND_PARAMETER, /* parameter gradients */
    LH_SEND_CONTROL,   /* the two small reductions of a step */
    LH_SEND_RECOMPUTE, /* forward rows sent again while recomputing */
    /* logging, evaluation, checkpoints, agreement: not part of a step's sent_bytes */
    LH_SEND_OTHER,
    LH_PURPOSES
} lh_purpose;

typedef struct lh_traffic {
    int64_t bytes[LH_PURPOSES];
    int64_t messages[LH_PURPOSES];
    double wait_s;          /* time spent in MPI waiting: for messages, and in collectives */
    int64_t open;           /* messages and sums that were begun and are not known to be done */
    struct lh_pulse *pulse; /* says when we are in a call; NULL: nobody watches; borrowed */
} lh_traffic;

/* lh_purpose_name - "forward_rows", ... Local. */
const char *lh_purpose_name(lh_purpose p);

/* lh_traffic_step - bytes of all purposes that belong to a step. Local. */
int64_t lh_traffic_step(const lh_traffic *t);

typedef struct lh_comm lh_comm; /* one communicator */

typedef struct lh_mesh {
    int size[LH_AXES], coord[LH_AXES]; /* data, sequence */
    lh_comm *world, *axis[LH_AXES];    /* owned */
    /* of lh_mesh_split: `ways` neighbours along the sequence, and the ranks with the same number in
     * their groups; 1 and NULL: not split. Owned. */
    int ways;
    lh_comm *group, *ring;
    lh_traffic *traffic; /* one for the mesh; owned */
    bool counting;
} lh_mesh;

/* lh_init, lh_finalize - start and end MPI with MPI_THREAD_FUNNELED. Collective on all processes of
 * the job. Errors of lh_init: agreed LH_ERR_UNSUP when the library gives less. */
LH_NODISCARD lh_status lh_init(int *argc, char ***argv);
void lh_finalize(void);

/* lh_mesh_create - world = data x sequence; ranks of one sequence are neighbours in the world.
 * Collective on all processes. data must divide the number of ranks. The caller destroys *out
 * (collective). Errors: agreed LH_ERR_USAGE, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_mesh_create(int data, lh_mesh **out);

/* lh_mesh_create_of - the same of the ranks of comm. Collective on comm. */
LH_NODISCARD lh_status lh_mesh_create_of(lh_comm *comm, int data, lh_mesh **out);

/* lh_mesh_create_counting - a mesh of data x seq ranks seen from world rank `rank`, without MPI.
 * Local. */
LH_NODISCARD lh_status lh_mesh_create_counting(int data, int seq, int rank, lh_mesh **out);

/* lh_mesh_create_self - a mesh of 1 x 1: this process alone, whatever the job has. Local (so is its
 * destruction). After lh_init. The caller destroys *out. Errors: LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_mesh_create_self(lh_mesh **out);

/* lh_mesh_split - cut the sequence axis into groups of `ways` neighbours, for attention by heads
 * (parallel/spread.h). ways 1: nothing happens. Once per mesh. Collective on all processes, of a
 * counting mesh local. Errors: agreed LH_ERR_USAGE when ways does not divide the ranks along the
 * sequence, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_mesh_split(lh_mesh *m, int ways);

/* lh_mesh_destroy - collective (real) or local (counting); nulls the handle. */
void lh_mesh_destroy(lh_mesh **mesh);

/* lh_comm_world - a communicator of all processes without a mesh, for program start. Collective.
 * Caller destroys. */
LH_NODISCARD lh_status lh_comm_world(lh_comm **out);
void lh_comm_destroy(lh_comm **comm);

/* lh_comm_first - a communicator of ranks 0 .. n - 1 of c (1 <= n <= its size); NULL on the others.
 * Collective on c. Caller destroys (collective on the new one). Errors: agreed LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_comm_first(lh_comm *c, int n, lh_comm **out);

/* lh_comm_rank, lh_comm_size, lh_comm_counting, lh_comm_traffic - Local. */
int lh_comm_rank(const lh_comm *c);
int lh_comm_size(const lh_comm *c);
bool lh_comm_counting(const lh_comm *c);
lh_traffic *lh_comm_traffic(const lh_comm *c);

/* lh_agree - the lowest failing rank's error on all ranks, its text naming the rank; LH_OK when no
 * rank failed. Collective on c; call it once, at the single exit, never under a rank-dependent
 * branch. */
LH_NODISCARD lh_status lh_agree(lh_comm *c, lh_status st);

/* lh_agree_words - do all ranks have the same words, such as the program's arguments? Collective on c.
 * what: what they are, in the message. Errors: agreed LH_ERR_USAGE, which shows the first difference
 * between rank 0 and the lowest rank that differs; LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_agree_words(lh_comm *c, const char *what, int count,
                                      const char *const *word);

/* lh_fatal - one line to standard error, then the whole job ends with exit code 1: for a failing
 * MPI call, a lost device, or a local error where the others cannot be told. The one place that
 * aborts. Does not return. */
_Noreturn void lh_fatal(const lh_comm *c, const char *fmt, ...) LH_PRINTF(2, 3);

/* lh_fatal_say, lh_fatal_end - for a thread that watches while the main thread hangs, wherever that is:
 * a text to standard error, which is left out if nobody takes it within a second; and the end of this process
 * alone with exit code 1, after which the launcher ends the others. Neither takes a lock, allocates or calls MPI. */
void lh_fatal_say(const char *text);
_Noreturn void lh_fatal_end(void);

/* lh_wall - seconds since some fixed time, monotonic. Local. */
double lh_wall(void);

/* --- host collectives; every one is collective on c, counts its payload once under `purpose`, and
 * is a no-op on one rank --- */

/* lh_sum_f64, lh_sum_i64, lh_max_f64, lh_max_i64 - in place over ranks. */
void lh_sum_f64(lh_comm *c, double *x, int64_t n, lh_purpose purpose);
void lh_sum_i64(lh_comm *c, int64_t *x, int64_t n, lh_purpose purpose);
void lh_max_f64(lh_comm *c, double *x, int64_t n, lh_purpose purpose);
void lh_max_i64(lh_comm *c, int64_t *x, int64_t n, lh_purpose purpose);

/* lh_sum_real, lh_max_real - as lh_sum_f64 for lh_real host memory of any length. */
void lh_sum_real(lh_comm *c, lh_real *x, int64_t n, lh_purpose purpose);
void lh_max_real(lh_comm *c, lh_real *x, int64_t n, lh_purpose purpose);

/* lh_broadcast - bytes of rank 0 to all. */
void lh_broadcast(lh_comm *c, void *x, int64_t bytes, lh_purpose purpose);

/* lh_barrier - wait for all ranks. lh_barrier_asleep - the same for waits of seconds and more: between
 * two looks, some milliseconds apart, the process sleeps, and leaves its processor to others. */
void lh_barrier(lh_comm *c);
void lh_barrier_asleep(lh_comm *c);

/* --- messages between two ranks: host memory, any size (cut into pieces that MPI can count) --- */
enum { LH_MESSAGE_PIECES = 64 };
typedef struct lh_request {
    int count;
    bool open;
    void *handle[LH_MESSAGE_PIECES]; /* MPI_Request storage */
} lh_request;

/* lh_send_start, lh_recv_start - begin a message of `bytes` (0: nothing happens); the buffer
 * belongs to the message until lh_wait. Local in effect; both sides must agree on size and order. A
 * failing MPI call is fatal. */
void lh_send_start(lh_comm *c, const void *x, int64_t bytes, int to, int tag, lh_purpose purpose,
                   lh_request *req);
void lh_recv_start(lh_comm *c, void *x, int64_t bytes, int from, int tag, lh_request *req);

/* lh_sum_real_start - begin lh_sum_real; x belongs to it until lh_wait. All ranks begin the collectives
 * of c in the same order. Collective on c; does not block. */
void lh_sum_real_start(lh_comm *c, lh_real *x, int64_t n, lh_purpose purpose, lh_request *req);

/* lh_wait - until the message or sum is done; its time goes into traffic->wait_s. lh_test - poke
 * progress; true when done. */
void lh_wait(lh_comm *c, lh_request *req);
bool lh_test(lh_comm *c, lh_request *req);

/* lh_progress - let all that is open on the mesh of c move on: MPI may do so only inside its calls.
 * Costs nothing when nothing is open. Local; from the main thread only. */
void lh_progress(lh_comm *c);
