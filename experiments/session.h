#pragma once
/* A session: everything that one configuration needs to run steps: mesh, device, data, parameters,
 * model, step memory. */
#include "core/optimizer.h"
#include "experiments/config.h"
#include "experiments/stop.h"
#include "experiments/task.h"
#include "parallel/host.h"
#include "parallel/reduce.h"

typedef struct lh_session {
    const lh_config *config; /* borrowed */
    lh_comm *world;          /* borrowed */
    lh_mesh *mesh, *counting_mesh;
    lh_device *device, *counting_device;
    lh_host host;
    lh_layout *layout;
    lh_layout *table;  /* of model.max_length positions; NULL: that is data.length */
    lh_spread *spread; /* exchange: ulysses; NULL: ring */
    lh_task *task;
    lh_params *params;
    lh_model *model;
    lh_tape *tape;
    lh_memory *memory[2]; /* without gradients, with */
    void *arena[LH_SPACES];
    int64_t batch, rows;                 /* of one pass on this rank: sequences, positions */
    int64_t passes;                      /* passes per step: train.accumulate */
    int32_t *tokens, *labels;            /* host [passes, batch, rows] */
    void *device_tokens, *device_labels; /* [batch, rows] */
    int32_t *sequence_labels;            /* host [passes, batch]: head class; else NULL */
    void *device_sequence_labels;        /* [batch] */
    int64_t *valid;                      /* host [batch]: of the running pass */
    int64_t *valid_all;                  /* host [passes, batch] */
    int32_t *documents;                  /* host [passes, batch, rows, 2]; NULL: no documents */
    /* exchange: ulysses with documents: those of the group's rows, host [passes, batch, rows of the
     * group, 2], and room for a sequence of its tokens and labels, which nobody looks at */
    int32_t *spread_documents, *spread_room;
    int64_t spread_rows;
    /* global tokens that the task names: host [passes, batch] and [passes, batch, max]; NULL: none */
    int64_t *global_count, *global_position;
    int64_t max_global;
    lh_row_list global;      /* of the running pass */
    lh_real *reduce;         /* host buckets of the gradient reduction */
    int64_t reduce_elements; /* of one */
    int reduce_buckets;
    lh_reducer reducer;
    double *norm_scratch; /* device */
    double flops[2];      /* of one pass: forward alone; forward and backward */
    /* of splits that were evaluated, on rank 0: they do not change, and cost a pass over the split */
    struct {
        lh_task_baseline item[LH_TASK_BASELINES];
        int count;
        bool known;
    } baseline[LH_SPLITS];
    lh_status trouble;      /* this rank's error inside the running step */
    int64_t pass;           /* of the running step */
    int64_t skips;          /* steps in a row whose update was left out (train.on_nonfinite) */
    bool again;             /* the passes run once more, to find a mistake: nothing is reduced */
    struct lh_pulse *pulse; /* NULL: nobody watches; borrowed */
    lh_profile *profile;    /* NULL: nobody asks; borrowed */
} lh_session;

/* lh_session_threads - of each rank: what the file says, else OMP_NUM_THREADS, else a rank's share of the
 * processors that it may use. Local. */
int lh_session_threads(const lh_config *config, const lh_host *host);

/* lh_session_check_ranks - may this configuration run on so many ranks? Local, pure. Errors: LH_ERR_USAGE. */
LH_NODISCARD lh_status lh_session_check_ranks(const lh_config *config, int ranks);

/* lh_session_open - build it. config->model.vocab is set from the task. trainable: gradients and
 * moments exist. Collective on world: all processes of the job, or one of them alone (lh_mesh_create_self).
 * Borrows world and config. The caller closes *out. Errors:
 * agreed. */
LH_NODISCARD lh_status lh_session_open(lh_comm *world, lh_config *config, bool trainable,
                                       lh_session **out);

/* lh_session_open_counting - the session of world rank `rank` of `ranks` without MPI, files or data:
 * its device, mesh and parameters only count. After it s->mesh->traffic holds what a training step
 * of that rank sends, s->flops[1] the flops of one pass, and lh_session_peak the step's memory, as a
 * run has them. A model whose head has no loss is not trainable: then that is of one forward pass
 * alone, and its flops are s->flops[0]. device.threads auto: OMP_NUM_THREADS, else as if all ranks ran
 * here. Local. Borrows config and sets config->model.vocab. The caller closes *out; nothing else may be done with it.
 * Errors: LH_ERR_USAGE (ranks is no multiple of mesh.data, ...), LH_ERR_UNSUP, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_session_open_counting(lh_config *config, int ranks, int rank,
                                                lh_session **out);

/* lh_session_close - collective on world (frees communicators); local when it only counts. */
void lh_session_close(lh_session **session);

/* lh_session_peak - bytes of step memory of this rank: arenas, batch and reduction buffers. Local. */
int64_t lh_session_peak(const lh_session *s);

/* lh_session_profile - from now on a step's operations, and what it does besides, are added to p
 * (borrowed; its clock and waiting are set); NULL: no more. Local. */
void lh_session_profile(lh_session *s, lh_profile *p);

/* lh_session_profile_step - the same of what a step does besides operations alone: some looks at a clock
 * a step. Local. */
void lh_session_profile_step(lh_session *s, lh_profile *p);

/* What a step did. Sums over all ranks. */
typedef struct lh_step_result {
    double loss;      /* mean nats per counted label */
    double grad_norm; /* before clipping */
    int64_t labels;   /* counted */
    bool stop;        /* some rank was asked to stop */
    bool skipped;     /* loss or norm is not finite, and the update was left out */
} lh_step_result;

/* lh_session_step - samples first_sample .. of training: forward, backward, reductions, update
 * number t at rate lr. stop: this rank was asked to stop (the update is done all the same).
 * Collective on world. Nobody leaves inside: a rank in trouble goes on with zeros, and all ranks
 * return the lowest one's error. Loss or gradient not finite: nothing is updated, and with
 * train.on_nonfinite: skip that is all, but for the last of LH_NONFINITE_SKIPS steps in a row. Errors: agreed;
 * LH_ERR_NONFINITE, which says where it arose (experiments/nonfinite.h). */
LH_NODISCARD lh_status lh_session_step(lh_session *s, int64_t first_sample, int64_t t, double lr,
                                       bool stop, lh_step_result *out);

/* lh_session_forward - one forward pass over samples first_sample .. of training, without gradients and
 * dropout, of a session that is not trainable and whose model has no loss: what its plan counts. For
 * measurements: nobody reads what comes out. Collective on world. Errors: agreed. */
LH_NODISCARD lh_status lh_session_forward(lh_session *s, int64_t first_sample);

/* lh_session_again - the passes of the step that has just been run, on the same batch, with gradients that stay
 * this rank's own; the inspector sees every value and gradient. labels: the step's. Collective on world. */
void lh_session_again(lh_session *s, int64_t first_sample, int64_t labels, lh_inspector *inspector);

typedef struct lh_eval_result {
    double loss, accuracy;
    lh_unit unit;                                 /* which of the next two has a meaning */
    double bits_per_byte;                         /* per predicted byte */
    double perplexity;                            /* per predicted token: word, residue */
    int64_t tokens;                               /* labels counted */
    bool stopped;                                 /* on request, before the end */
    lh_task_baseline baseline[LH_TASK_BASELINES]; /* of the whole split; on rank 0 */
    int baselines;                                /* how many the task has */
} lh_eval_result;

/* lh_session_evaluate - loss over the first windows of a split that hold at least max_tokens
 * positions (0: all of it). stop (NULL: none): asked on any rank; then the evaluation ends within a few
 * passes, out->stopped is true and the figures are of what was
 * seen. Collective on world. Errors: agreed. */
LH_NODISCARD lh_status lh_session_evaluate(lh_session *s, lh_split split, int64_t max_tokens,
                                           lh_stop *stop, lh_eval_result *out);
