#pragma once
/* A whole model on a mesh, for tests: parameters, tape, memory after its counting pass, one batch;
 * steps of it, its gradients and weights as whole host arrays whatever the ranks hold of them.
 *
 * A rig is opened from a description and a mesh (of all ranks, or lh_mesh_create_self: the
 * reference on one rank). */
#include "core/optimizer.h"
#include "models/model.h"
#include "parallel/reduce.h"
#include "tests/lh_test_mpi.h"

typedef struct lh_rig_desc {
    lh_model_desc model; /* resolved; settings are borrowed */
    int64_t batch;       /* sequences over all ranks */
    int64_t length, chunk;
    bool unaligned; /* mesh.align: none */
    int ways; /* attention by heads: lh_rig_ways says for how many ranks a mesh must be split */
    int recompute;  /* lh_recompute_kind */
    lh_dtype store; /* as lh_tape_store */
    bool training;  /* dropout acts */
    bool poison;    /* device */
    bool forward;   /* no gradients */
    /* gradients are reduced behind the backward pass, `bucket` elements at a time (0: some thousands);
     * or after it */
    int64_t bucket;
    bool after;
    uint64_t seed; /* of initial weights and dropout */
    int64_t labels_from,
        labels_to;        /* lh_rig_text labels positions labels_from .. labels_to - 1; to 0: all */
    const int64_t *valid; /* [batch] or NULL, as lh_batch */
    const lh_row_list *global; /* of all sequences, or NULL, as lh_batch */
    /* [batch, N, E], or [batch, 1, E or classes] where the head makes one row of a sequence; or NULL:
     * gradient of the model's output without labels; then lh_rig_step runs the model up to there and
     * its "loss" is the sum of the output times this */
    const double *output_seed;
} lh_rig_desc;

typedef struct lh_rig {
    const lh_rig_desc *desc; /* borrowed */
    lh_mesh *mesh;           /* borrowed */
    lh_mesh *counting;       /* as this rank; its traffic is of the counting pass */
    lh_device *device, *count;
    lh_layout *layout;
    lh_spread *spread; /* NULL: not by heads */
    lh_params *params;
    lh_model_shape shape;
    lh_model *model;
    lh_tape *tape;
    lh_memory *memory;
    void *arena, *host_arena, *send; /* send: the reduction's buckets */
    lh_reducer reducer;
    void *tokens, *labels, *sequence_labels, *scratch; /* device memory */
    int32_t *ids;                                      /* host [B, s] */
    int64_t rows;
    lh_batch in;
    lh_row_list global;          /* of this rank's sequences; without arrays while counting */
    int64_t out_rows, out_width; /* of a sequence's output on this rank */
    void *
        seed_device; /* [B, out_rows, out_width]: this rank's part of desc->output_seed; zeros where another
                         * rank counts it */
    lh_real *seed_host; /* the same */
    lh_real *output;    /* the same shape: output of the last step */
} lh_rig;

enum { LH_RIG_ALL = -1 };
/* lh_rig_ways - ranks of a group when `ways` are asked for (LH_RIG_ALL: all) of a sequence over
 * `ranks`; 1 where that does not divide them: no groups. Local. */
int lh_rig_ways(int ways, int ranks);

/* lh_rig_open - build everything and run the counting pass. Local (mesh: borrowed). The caller
 * closes it, also after an error. Parameters are initialised from desc->seed. */
LH_NODISCARD lh_status lh_rig_open(lh_rig *r, const lh_rig_desc *desc, lh_mesh *mesh);
void lh_rig_close(lh_rig *r);

/* lh_rig_plan - peak bytes of the step of world rank `rank` of data x seq ranks, by the counting
 * pass alone, and what it would send (may be NULL). No data exists. Local. */
LH_NODISCARD lh_status lh_rig_plan(const lh_rig_desc *desc, int data, int seq, int rank,
                                   int64_t *peak, lh_traffic *traffic);

/* lh_rig_text - tokens and labels [batch, N] of a description: a function of seed and position. A
 * decoder predicts the next token, an encoder about one in six; with the head class position 0 has the
 * label of its sequence and no other has one. Local. The caller releases both
 * with lh_free. */
LH_NODISCARD lh_status lh_rig_text(const lh_rig_desc *desc, uint64_t seed, int32_t **tokens,
                                   int32_t **labels);

/* lh_rig_load - this rank's part of tokens and labels [batch, N] becomes the batch. Local. */
void lh_rig_load(lh_rig *r, const int32_t *tokens, const int32_t *labels);

/* lh_rig_step - forward, backward, reduction of gradients; *loss summed over ranks (its traffic:
 * LH_SEND_OTHER). Collective on the mesh. Errors, local: what the model gives. */
LH_NODISCARD lh_status lh_rig_step(lh_rig *r, double *loss);

/* lh_rig_output - with desc->output_seed: output of the last step as the whole array of that shape.
 * Collective on the mesh. */
void lh_rig_output(lh_rig *r, double *whole);

/* lh_rig_update - clip by the global norm and one AdamW step number t; *norm before clipping.
 * Collective on the mesh. */
LH_NODISCARD lh_status lh_rig_update(lh_rig *r, const lh_optimizer *o, int64_t t, double *norm);

typedef enum lh_rig_kind { LH_RIG_VALUE, LH_RIG_GRAD } lh_rig_kind;

/* lh_rig_set, lh_rig_get - one parameter's values or gradient as the whole [elements] array; a
 * shard is cut out, or gathered. Local, or (get) collective on the mesh. */
LH_NODISCARD lh_status lh_rig_set(lh_rig *r, lh_rig_kind kind, const lh_param *p,
                                  const double *whole);
LH_NODISCARD lh_status lh_rig_get(lh_rig *r, lh_rig_kind kind, const lh_param *p, double *whole);

/* lh_rig_get_all - all of them that are learned, one after another in order of declaration: [lh_params_total].
 * Collective. */
LH_NODISCARD lh_status lh_rig_get_all(lh_rig *r, lh_rig_kind kind, double *all);

/* lh_rig_grads_agree - invariant 1 for every parameter: |g - g'| <= LH_TOL_GRAD |g'| +
 * LH_TOL_GRAD_ALL |all gradients|. got, want: as lh_rig_get_all. Prints what differs. Local. */
bool lh_rig_grads_agree(const lh_params *params, const double *got, const double *want);

/* lh_rig_report_grads - where figures are asked for: the largest error of a gradient, in terms of
 * lh_rig_grads_agree. Local. */
void lh_rig_report_grads(const lh_rig *r, const char *name, const double *got, const double *want);
