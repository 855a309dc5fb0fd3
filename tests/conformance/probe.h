#pragma once
/* One attention operation on a mesh, and plain dense attention to compare it with. */
#include "attention/attend.h"
#include "experiments/config.h"
#include "tests/lh_model_test.h"

enum { BATCH = 2, GLOBALS = 3 };
/* BLOCK: x, the block's input; then the relative term's biases and weight */
enum { QUERY, KEY, VALUE, BLOCK, REL_U, REL_V, REL_W, INPUTS };

/* A mechanism as it is asked: its settings in the experiment file, and what comes with the data. */
typedef struct variant {
    const char *mechanism;
    const char *settings; /* behind its name */
    /* softmax over this pattern; NULL: no softmax over a pattern, not compared with dense attention */
    bool (*sees)(bool causal, int64_t head, int64_t i, int64_t j);
    bool relative, zigzag, documents, valid;
    int ways;            /* by heads over so many ranks: LH_RIG_ALL, 2 or, not at all, 0 */
    int heads, kv_heads; /* 0: 4; of the grouped form, 0: 2 */
    /* no gradient passes through a maximum on which the output depends (Performer's stabiliser, by
     * way of its epsilons, as published): no Taylor test here; `favor` has one with a fixed maximum */
    bool detached;
    /* global tokens with projections of their own: the first position, or the task's */
    bool first, task;
} variant;

typedef struct probe {
    const lh_attn_ops *ops;
    const variant *variant;
    lh_config *config; /* owns the settings */
    lh_attn_desc desc;
    void *state;
    lh_mesh *mesh;  /* borrowed */
    lh_dtype store; /* of the tape, and so of rows on their way */
    lh_mesh *counting;
    lh_device *device, *count;
    lh_layout *layout;
    lh_spread *spread; /* NULL: not by heads */
    lh_params *params;
    lh_plan_cache *plans;
    lh_tape *tape;
    lh_memory *memory;
    void *arena, *host_arena, *in[INPUTS], *grad[INPUTS], *seed;
    lh_shape shape[INPUTS], whole[INPUTS]; /* of this rank; of all */
    double *out, *d_in[INPUTS];            /* host: what a run gave, [local elements] */
    int64_t valid[BATCH];
    int32_t *documents, *spread_documents; /* [BATCH, rows, 2]: of own rows, of the group's */
    int64_t global_count[BATCH], global[BATCH * GLOBALS];
    lh_row_list list;
} probe;

/* element - number `index` of whole input k, moved by h along a direction; k = INPUTS: the seed of
 * the output's gradient. */
double element(int k, int64_t index, double h);

/* probe_index - index in the whole input k (or, INPUTS, output) of local element i. */
int64_t probe_index(const probe *p, int k, int64_t i);

/* document_begin - where the document of position i of sequence b begins; *end: and ends. */
int64_t document_begin(const probe *p, int64_t b, int64_t i, int64_t *end);

/* is_global - is position i of sequence b a global token? */
bool is_global(const probe *p, int64_t b, int64_t i);

/* probe_name - VARIANT/FORM of a report, without spaces. */
void probe_name(const probe *p, char text[160]);

/* What the pattern alone makes a rank send, counted one by one; what data hides travels all the same.
 * Without global tokens, which are sums. again: rows that are fetched a second time, by head: all of
 * them (most), and those that no head keeps (least), kept being what the largest shard would hold. */
typedef struct brute_bytes {
    int64_t forward, backward, most, least;
} brute_bytes;
brute_bytes brute_force(const probe *p);

/* dense_agrees - outputs and gradients of p's last run against dense attention in double, on every
 * rank; says what differs. Collective (gradients of weights are summed). Errors: LH_ERR_MEMORY. */
LH_NODISCARD lh_status dense_agrees(const probe *p, bool *same);
