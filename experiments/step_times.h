#pragma once
/* Training steps of an experiment on random tokens, timed, and where their time goes: what bench step
 * and scale share. Of a model whose head has no loss a step is one forward pass. */
#include "core/profile.h"
#include "experiments/config.h"
#include "parallel/comm.h"

enum { LH_STEP_ITEMS = LH_PROFILE_ITEMS + 2, LH_STEP_REPEATS = 10000 };

/* How to measure. */
typedef struct lh_step_wish {
    int repeats;  /* steps that are timed, at most LH_STEP_REPEATS */
    int warmup;   /* steps before them */
    int products; /* of two 2048 x 2048 matrices before each step; 0: none */
} lh_step_wish;

/* Means of a step over repeats and ranks, but what is said otherwise. */
typedef struct lh_step_times {
    double *seconds; /* [repeats], ascending: of the slowest rank of each step; owned */
    double step_s, least_s, mean_s; /* of these: median, least, mean */
    double loss; /* of the last step: the same in every run of the same steps; NaN: forward pass */
    double gemm_rate; /* flops per second of all ranks; NaN without products */
    double model_flops,
        step_flops;               /* of all ranks: without and with recomputation; model: rank 0 */
    double wait_s, wait_max_s;    /* max: of the rank that waits longest */
    int64_t peak, rss, rss_start; /* largest over ranks */
    int64_t sent;                 /* of all ranks and repeats */
    /* as planned, on rank 0: of the rank that needs most; sent: mean over ranks; flops: of all ranks */
    int64_t predicted_peak, parameter_bytes;
    double predicted_sent, predicted_flops;
    double layers_flops; /* of model_flops, those of the layers */
    /* where step_s is not of what ran: layers that did, and their step; 0: it is */
    int64_t ran_layers;
    double ran_step_s;
    /* by time, the longest first; flops of all ranks; waiting is an item of its own */
    lh_profile_item item[LH_STEP_ITEMS];
    int count;
    int64_t parameters; /* numbers */
    int64_t sequences;  /* of a step, over all ranks */
    bool forward_only;  /* a step was one forward pass */
    int steps;          /* that ran: warm-up and repeats */
    int threads;        /* of each rank */
    const char *isa;    /* static */
} lh_step_times;

/* lh_step_times_config - the experiment of a source (its reader included; no file is opened for data),
 * checked. Collective on comm. The caller destroys *out. Errors: agreed, as lh_config_load_all. */
LH_NODISCARD lh_status lh_step_times_config(lh_comm *comm, const lh_config_source *source,
                                            lh_config **out);

/* lh_step_times_measure - open a session on comm, run the steps, close it. Says on standard error what
 * runs, and where counted and planned differ, which is a bug. Collective on comm. The caller frees *out
 * (lh_step_times_free), also after an error. Errors: agreed, as lh_session_open and lh_session_step. */
LH_NODISCARD lh_status lh_step_times_measure(lh_comm *comm, lh_config *config,
                                             const lh_step_wish *wish, lh_step_times *out);
void lh_step_times_free(lh_step_times *r);

/* lh_step_mechanism - the mechanisms of the layers, each once: "full", "full+performer". Local. */
enum { LH_STEP_NAME = 128 };
void lh_step_mechanism(const lh_config *config, char name[LH_STEP_NAME]);
