#pragma once
/* What the files of the tape share: its records. Not public. */
#include "core/tape.h"

typedef struct tape_value {
    lh_shape shape;
    lh_place place;
    int32_t root; /* the value whose data this one shares; itself if none */
    bool needs_grad;
    bool has_grad;    /* something was added already */
    const void *data; /* from outside; NULL: slot */
    void *grad;       /* from outside; NULL: that of number own_grad */
    int64_t slot;
    int64_t own_grad; /* number of a tape_grad; several values may have the same */
    int64_t maker;    /* the node whose output it is; -1: none */
    int64_t half;     /* slot of the same in bfloat16; -1: none */
    void *wide;       /* and that again as real, in call number wide_call */
    int64_t wide_call;
    bool exact, rounded; /* see lh_op; lh_store_rounded */
    lh_param *param;
    int64_t first_use; /* of a parameter: the node whose vjp is the last to add to its gradient */
} tape_value;

/* The buffer of a gradient, and how many values have it as theirs: those whose vjp has yet to read it, or
 * to add to it. Whoever adds while others have it takes a copy. A caller's seed has the caller as one of
 * its owners. */
typedef struct tape_grad {
    const void *seed; /* a caller's; NULL: slot */
    int64_t slot;
    int owners;
} tape_grad;

typedef struct tape_node {
    const lh_op *op;
    int64_t attrs; /* offset */
    int n_in, n_out;
    int32_t in[LH_OP_INPUTS];
    int32_t out; /* first output; the others follow */
    int part;
    bool needs_grad;
    bool again; /* recomputed before its vjp */
    bool here;  /* what it drops has been made again */
} tape_node;

typedef struct tape_segment {
    int64_t begin, end; /* nodes begin .. end - 1 */
    bool light;         /* keeps what costly operations made */
    int32_t first;      /* values from here on are made in it, or later */
} tape_segment;

struct lh_tape {
    int size[LH_AXES], coord[LH_AXES];
    lh_device *device;
    lh_memory *memory;
    bool gradients, recomputing, in_segment;
    lh_dtype store;
    int64_t calls;     /* running number of the call at hand */
    tape_value *value; /* value[0] is unused: ids are 1-based */
    int64_t n_values, values_capacity;
    tape_node *node;
    int64_t n_nodes, nodes_capacity;
    tape_segment *segment;
    int64_t n_segments, segments_capacity;
    tape_grad *grad;
    int64_t n_grads, grads_capacity;
    char *attrs;
    int64_t attrs_bytes, attrs_capacity;
    int32_t again_from; /* while recomputing: the segment's first value */
    bool *wanted;       /* per value: recomputation needs it */
    int64_t wanted_capacity;
    void (*between)(void *user); /* NULL: nobody */
    void *between_user;
    int part; /* of the operations that follow */
    double part_flops[LH_TAPE_PARTS];
    lh_profile *profile;     /* NULL: nobody asks; borrowed */
    lh_inspector *inspector; /* likewise */
};

struct lh_call {
    lh_tape *tape;
    const tape_node *node;
    bool vjp, remake;
};

/* lhi_tape_check - does the variable exist? Errors: LH_ERR_BUG. */
lh_status lhi_tape_check(const lh_tape *t, lh_var v);

/* lhi_tape_data - address of a value's data; counts as a use. */
lh_status lhi_tape_data(lh_tape *t, int32_t id, void **data);

/* lhi_tape_drops - does an operation make this value (a root), and drop it after the forward pass? */
bool lhi_tape_drops(const lh_tape *t, int32_t id);

/* lhi_tape_keep - operation number k has run: what the backward pass will want of its inputs and outputs
 * is kept in bfloat16, where the tape stores so. */
lh_status lhi_tape_keep(lh_tape *t, int64_t k);

/* lhi_call_data - as lhi_tape_data, for the call at hand: what was kept in bfloat16, it sees as such when
 * it is a vjp, makes a dropped value again, or runs again and the value was not made anew. */
lh_status lhi_call_data(const lh_call *c, int32_t id, void **data);

/* lhi_tape_forward - run operation number k, its outputs in new memory. */
lh_status lhi_tape_forward(lh_tape *t, int64_t k);

/* lhi_tape_new_output - new memory for output i of node n. */
lh_status lhi_tape_new_output(lh_tape *t, const tape_node *n, int i);

/* lhi_tape_enter, lhi_tape_leave - an operation of node n runs between: its memory and flops are its
 * part's, its time the profile's, and the pulse says where we are. */
lh_profile_mark lhi_tape_enter(lh_tape *t, const tape_node *n, lh_direction direction);
void lhi_tape_leave(lh_tape *t, const tape_node *n, lh_profile_mark begin, lh_direction direction);

/* lhi_tape_inspect - show the inspector what operation n has made, or what its vjp has added to. */
void lhi_tape_inspect(lh_tape *t, const tape_node *n, lh_direction direction);

/* lhi_tape_grad_target - where gradients of a value are added; *accumulate false: nothing is there yet.
 * lhi_tape_grad_share - value id, which has no gradient yet, has that of value `of`, if both are of
 * the tape's own memory; false: it cannot. */
lh_status lhi_tape_grad_target(lh_tape *t, int32_t id, void **data, bool *accumulate);
bool lhi_tape_grad_share(lh_tape *t, int32_t id, int32_t of);

/* lhi_tape_grad_read - data of gradient `number` as it is now; counts as a use. */
lh_status lhi_tape_grad_read(lh_tape *t, int64_t number, const void **data);
