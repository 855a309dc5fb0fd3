#pragma once
/* What a training step costs, before it is run: parameters, flops, bytes sent, memory, by layer and by
 * rank. In one process, for any number of ranks: nothing is sent, no data file is opened, no tensor
 * exists.
 *
 * Every rank's step is counted (lh_session_open_counting): that gives flops, memory and traffic. The
 * traffic is also predicted by formula: attention by its mechanism's predict for layer and rank, the
 * gradient reduction by the parameters' placements, and a step's two small reductions. Both must be
 * equal for each purpose. Ranks that differ only along the data axis do the same: shapes, plans and
 * messages follow from the coordinate along the sequence, so one of them is counted for all. */
#include "experiments/session.h"

/* One layer. Bytes are the mean over ranks, of a whole step. */
typedef struct lh_layer_plan {
    const char *mechanism;
    int64_t parameters; /* 0 where layers share them with another */
    double flops;       /* of all ranks; forward, recomputed and backward */
    double forward_bytes, backward_bytes, summary_bytes, recompute_bytes;
    double sent_bytes;  /* the four together */
    int64_t peak_bytes; /* most bytes its values held at one moment, the largest over ranks */
    /* of the step's forward: all ranks, heads and sequences; blocks that are recomputed count once */
    lh_tile_count tiles;
} lh_layer_plan;

/* The tiles of one head, of one sequence: those of its pattern, and of its global tokens' keys and
 * queries. Over the ranks that compute scores of it. */
typedef struct lh_head_tiles {
    lh_tile_count sum, least, most;
    int64_t ranks; /* 0: there are no scores */
} lh_head_tiles;

/* Neighbouring heads of a layer that have the same numbers. */
typedef struct lh_group_plan {
    int64_t head, n_heads;
    lh_head_tiles tiles;
} lh_group_plan;

/* A layer's attention if `ways` neighbouring ranks shared heads: mesh.ulysses. 1: ring. */
typedef struct lh_exchange_plan {
    int ways;
    double sent_bytes; /* as of lh_layer_plan, by formula */
    double busiest;    /* scores of the rank that has most, of the mean */
} lh_exchange_plan;

/* One rank along the sequence. */
typedef struct lh_rank_plan {
    int64_t rows, peak_bytes, parameter_bytes; /* parameter_bytes: with gradients and moments */
    lh_traffic traffic;                        /* of a step */
    int64_t sent_bytes;                        /* of a step, all purposes */
    double flops;
    lh_tile_count tiles; /* of its step's forward, as a layer's */
} lh_rank_plan;

typedef struct lh_step_plan {
    const lh_config *config;     /* borrowed */
    int ranks, data, sequence;   /* ranks = data x sequence */
    bool forward_only;           /* the head has no loss: what follows is of a forward pass */
    int threads;                 /* per rank: scratch memory depends on it */
    const char *isa;             /* of the kernels; static */
    int64_t parameters;          /* elements that are learned */
    double flops, sent_bytes;    /* of all ranks; mean over ranks */
    double purpose[LH_PURPOSES]; /* bytes, mean over ranks */
    int64_t peak_bytes;          /* largest over ranks */
    int64_t parameter_bytes;     /* largest over ranks */
    int layers;
    lh_layer_plan *layer; /* [layers] */
    lh_layer_plan rest;   /* embeddings, head, loss; its bytes are those of its operations */
    lh_rank_plan *rank;   /* [sequence]; world rank r is rank[r % sequence] */
    lh_tile_count tiles;  /* of all layers */
    lh_head_tiles *head;  /* [layers, heads] */
    /* every way to exchange rows: 1 and the divisors of `sequence`, ascending; [layers, n_ways], all
     * zero where a mechanism has an exchange of its own. ways: the one that the file asks for. */
    int n_ways, ways;
    lh_exchange_plan *exchange;
} lh_step_plan;

/* lh_step_plan_create - plan a training step on `ranks` ranks; one forward pass where the model's head
 * has no loss. Local, no MPI. Borrows config and sets config->model.vocab. The caller destroys *out.
 * Errors: LH_ERR_USAGE (no multiple of mesh.data, ...), LH_ERR_UNSUP (a mechanism refuses), LH_ERR_BUG (formula and count differ: with rank, purpose and both
 * numbers), LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_step_plan_create(lh_config *config, int ranks, lh_step_plan **out);

/* lh_step_plan_group - the next group of heads of a layer; *head is 0 at first, and moves on. false:
 * there are no more that compute scores. Local. */
bool lh_step_plan_group(const lh_step_plan *p, int layer, int64_t *head, lh_group_plan *group);
/* lh_step_plan_sent - bytes of a step of one rank for one layer's attention, by formula. Local, pure. */
int64_t lh_step_plan_sent(const lh_config *c, const lh_cost *cost);
/* lh_step_plan_destroy - release it and null the handle. Local. */
void lh_step_plan_destroy(lh_step_plan **plan);
