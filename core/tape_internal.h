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
    void *grad;       /* from outside; NULL: grad_slot */
    int64_t slot, grad_slot;
    int64_t half; /* slot of the same in bfloat16; -1: none */
    void *wide;   /* and that again as real, in call number wide_call */
    int64_t wide_call;
    bool exact, rounded; /* see lh_op; lh_store_rounded */
    const lh_param *param;
} tape_value;

typedef struct tape_node {
    const lh_op *op;
    int64_t attrs; /* offset */
    int n_in, n_out;
    int32_t in[LH_OP_INPUTS];
    int32_t out; /* first output; the others follow */
    int part;
    bool needs_grad;
    bool again; /* recomputed before its vjp */
} tape_node;

typedef struct tape_segment {
    int64_t begin, end; /* nodes begin .. end - 1 */
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
    char *attrs;
    int64_t attrs_bytes, attrs_capacity;
    int32_t again_from; /* while recomputing: the segment's first value */
    bool *wanted;       /* per value: recomputation needs it */
    int64_t wanted_capacity;
    int part; /* of the operations that follow */
    double part_flops[LH_TAPE_PARTS];
};

struct lh_call {
    lh_tape *tape;
    const tape_node *node;
    bool vjp;
};

/* lhi_tape_check - does the variable exist? Errors: LH_ERR_BUG. */
lh_status lhi_tape_check(const lh_tape *t, lh_var v);

/* lhi_tape_data - address of a value's data; counts as a use. */
lh_status lhi_tape_data(lh_tape *t, int32_t id, void **data);

/* lhi_tape_keep - operation number k has run: what the backward pass will want of its inputs and outputs
 * is kept in bfloat16, where the tape stores so. */
lh_status lhi_tape_keep(lh_tape *t, int64_t k);

/* lhi_call_data - as lhi_tape_data, for the call at hand: what was kept in bfloat16, it sees as such when
 * it is a vjp, or a recomputation and the value comes from outside of its segment. */
lh_status lhi_call_data(const lh_call *c, int32_t id, void **data);

/* lhi_tape_forward - run operation number k, its outputs in new memory. */
lh_status lhi_tape_forward(lh_tape *t, int64_t k);

/* lhi_tape_enter, lhi_tape_leave - an operation of node n runs between: its memory and flops are its
 * part's. */
double lhi_tape_enter(lh_tape *t, const tape_node *n);
void lhi_tape_leave(lh_tape *t, const tape_node *n, double flops);

/* lhi_tape_grad_target - where gradients of a value are added; *accumulate false: nothing is there yet. */
lh_status lhi_tape_grad_target(lh_tape *t, int32_t id, void **data, bool *accumulate);
