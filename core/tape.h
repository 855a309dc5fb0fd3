#pragma once
/* The tape: define-by-run reverse-mode differentiation over placed values.
 *
 * A model is written once, forward, by recording operations. Each operation is a const record
 * {name, reads, place, forward, vjp}: `place` checks the inputs' placements and gives the outputs';
 * `forward` computes; `vjp` adds into the inputs' gradients, in a fixed order (the reverse of
 * recording). Gradients have the dual placement, so the adjoint of an all-reduce is an all-reduce
 * and a forgotten reduction is an error with a message.
 *
 * Memory comes from lh_memory, so a value lives exactly until its last use. `reads` declares which
 * values the vjp uses; asking for another is LH_ERR_BUG. Recomputation: operations of a segment
 * drop their outputs after the forward pass and run `forward` again before their vjp; what is as good
 * as free to compute (`drops`) is dropped everywhere, and made again when a vjp reads it. A gradient
 * that is the same for an operation's output and its inputs is one buffer until someone adds to it
 * (lh_pass_grad).
 *
 * Storage (lh_tape_store): what lies from the forward pass until a vjp reads it may be kept in
 * bfloat16; arithmetic never is. Then an operation's forward sees the numbers that were computed, its
 * vjp, and a recomputation, sees them rounded. */
#include "core/memory.h"
#include "core/params.h"
#include "core/profile.h"

typedef struct lh_tape lh_tape;
typedef struct lh_call lh_call; /* one running operation */

typedef struct lh_var {
    int32_t id; /* 1-based; 0: none */
} lh_var;

enum { LH_OP_INPUTS = 28, LH_OP_OUTPUTS = 10 };
#define LH_READS_IN(i) (UINT64_C(1) << (i))
#define LH_READS_OUT(i) (UINT64_C(1) << (32 + (i)))

typedef struct lh_op {
    const char *name;
    uint64_t reads; /* what vjp reads, besides gradients: LH_READS_IN | LH_READS_OUT */
    uint64_t exact; /* outputs (LH_READS_OUT) never kept in bfloat16: statistics, denominators */
    bool by_heads;  /* takes values that lie as HEADS: for others that is a forgotten collective */
    lh_status (*place)(const lh_call *c, const lh_place *in, lh_place *out); /* required */
    lh_status (*forward)(lh_call *c);                                        /* required */
    lh_status (*vjp)(
        lh_call *c); /* NULL: recording it for an input that needs a gradient fails at once */
    /* optional: outputs (LH_READS_OUT) that are not kept for the backward pass: `remake` makes them
     * again, from what `reads` declares, when a vjp is about to read one. The same bits. */
    uint64_t drops;
    lh_status (*remake)(lh_call *c);
    bool costly; /* takes long or sends messages: light segments keep its outputs */
} lh_op;

/* lh_tape_create - an empty tape for the rank at coord of a mesh of the given size. Local. The
 * caller destroys *out. */
LH_NODISCARD lh_status lh_tape_create(const int size[LH_AXES], const int coord[LH_AXES],
                                      lh_tape **out);
/* lh_tape_destroy - release it and null the handle. Local. */
void lh_tape_destroy(lh_tape **t);

/* lh_tape_reset - forget all values; the next step uses this device and memory (borrowed).
 * gradients: a backward pass will follow; without, segments and gradient bookkeeping cost nothing.
 * Local. */
void lh_tape_reset(lh_tape *t, lh_device *device, lh_memory *memory, bool gradients);

/* lh_tape_profile - from now on, also after resets, every operation's time and flops are added to p
 * (borrowed), in its direction; NULL, as at first: nothing is measured. Local. */
void lh_tape_profile(lh_tape *t, lh_profile *p);
/* lh_tape_inspect - from now on, also after resets, i->see(i, &seen) gets each output of every operation that
 * has run forward, and each gradient that a vjp has added to; NULL, as at first: nobody looks. For finding where
 * something went wrong: it does not change what is computed, but what is kept nowhere must be read at once. Local. */
typedef struct lh_tape_seen {
    const char *op; /* its name */
    lh_direction direction;
    int part;
    int64_t order; /* grows from one operation to the next, in the same way on all ranks */
    lh_shape shape;
    bool exact;       /* statistics (lh_op): of rows that see nothing they may be -infinity */
    const void *data; /* device memory, until see returns */
} lh_tape_seen;
typedef struct lh_inspector lh_inspector;
struct lh_inspector {
    void (*see)(lh_inspector *i, const lh_tape_seen *seen);
};
void lh_tape_inspect(lh_tape *t, lh_inspector *i);

/* lh_tape_store - how values are kept from the forward to the backward pass, from the next reset on:
 * LH_REAL (as they are; at first) or LH_BF16. Kept in bfloat16 are values of type real that lie by
 * position (or HEADS) and need a gradient, when a vjp reads them, or the recomputation of a segment that
 * does not make them itself; not what comes from outside, summaries (replicated or partial), and what
 * its operation declares exact. lh_tape_stored - which of the two. Local. */
void lh_tape_store(lh_tape *t, lh_dtype store);
lh_dtype lh_tape_stored(const lh_tape *t);

/* lh_store_round - x rounded to the numbers of bfloat16, where the tape keeps values of its kind as
 * such; else x itself. For what must be the same in the forward and the backward pass, or here and on
 * another rank: scores are computed anew from q and k. Gradients pass as they are. Local.
 * lh_store_rounded - a promise that v, just recorded, holds nothing but such numbers. */
LH_NODISCARD lh_status lh_store_round(lh_tape *t, lh_var x, lh_var *y);
void lh_store_rounded(lh_tape *t, lh_var v);

/* lh_tape_input - a value from outside: device data borrowed until the next reset; no gradient.
 * Local. */
LH_NODISCARD lh_status lh_tape_input(lh_tape *t, const void *data, lh_shape shape, lh_place place,
                                     lh_var *out);

/* lh_tape_leaf - a value from outside with a gradient buffer of the same shape, which backward adds
 * to. Local. Borrowed. */
LH_NODISCARD lh_status lh_tape_leaf(lh_tape *t, const void *data, void *grad, lh_shape shape,
                                    lh_place place, lh_var *out);

/* lh_tape_param - a parameter as a leaf; the same variable each time in one step. Local. */
LH_NODISCARD lh_status lh_tape_param(lh_tape *t, lh_param *p, lh_var *out);

/* lh_record - run an operation and put it on the tape. Local, or as collective as the operation is.
 * attrs: copied. out_shapes, outs [n_out]. Errors: the operation's; LH_ERR_BUG for placements that
 * do not fit. */
LH_NODISCARD lh_status lh_record(lh_tape *t, const lh_op *op, const void *attrs, size_t attrs_bytes,
                                 int n_in, const lh_var *in, int n_out, const lh_shape *out_shapes,
                                 lh_var *outs);

/* lh_stop_gradient - the same value, through which no gradient passes. Local. */
LH_NODISCARD lh_status lh_stop_gradient(lh_tape *t, lh_var x, lh_var *out);

/* lh_reshape - the same data with other dimensions; sharded dimensions, and those before them,
 * stay. Local. */
LH_NODISCARD lh_status lh_reshape(lh_tape *t, lh_var x, lh_shape shape, lh_var *out);

/* lh_tape_segment_begin, lh_tape_segment_end - operations recorded between are recomputed in the
 * backward. Local. Not nested. lh_tape_segment_begin_light - the same, but what costly operations
 * made is kept. lh_tape_recomputing: is this forward call a recomputation? lh_tape_keeps: is what is
 * recorded now kept until its vjp (gradients will follow, and this is no segment that drops all)? */
LH_NODISCARD lh_status lh_tape_segment_begin(lh_tape *t);
LH_NODISCARD lh_status lh_tape_segment_begin_light(lh_tape *t);
LH_NODISCARD lh_status lh_tape_segment_end(lh_tape *t);
bool lh_tape_keeps(const lh_tape *t);

/* lh_tape_backward - gradients of `loss` (one element, PARTIAL on every axis of more than one rank;
 * started with 1 on every rank) into leaves and parameters. Local, or as collective as the recorded
 * operations are. */
LH_NODISCARD lh_status lh_tape_backward(lh_tape *t, lh_var loss);

/* lh_tape_between - in the backward pass that follows, call fn(user) after every operation, when the
 * gradients of more parameters may have become final (lh_param.grad_final): what may be sent while the
 * pass goes on. fn NULL: nothing is called. Forgotten by lh_tape_reset. Local. */
void lh_tape_between(lh_tape *t, void (*fn)(void *user), void *user);

/* lh_tape_backward_from - as above, from given gradients: seeds [n] device data of the shapes of
 * vars, which are read, not copied, and not changed. For tests and benchmarks. */
LH_NODISCARD lh_status lh_tape_backward_from(lh_tape *t, int n, const lh_var *vars,
                                             const void *const *seeds);

/* lh_tape_part - operations recorded from now on belong to part `part` (0, 1, ... LH_TAPE_PARTS - 1;
 * 0 after a reset), such as a layer; so do their gradients, and what they keep in memory
 * (lh_memory_part_peak). lh_tape_part_flops - flops of a part since the reset: forward, recomputed,
 * backward. Local. */
enum { LH_TAPE_PARTS = 1024 };
void lh_tape_part(lh_tape *t, int part);
double lh_tape_part_flops(const lh_tape *t, int part);

/* lh_tape_recorded - operation number k (0, 1, ...) that was recorded since the reset; false: there are
 * no more. Local. Borrowed until the next operation is recorded. */
typedef struct lh_tape_item {
    const lh_op *op;
    const void *attrs;
    int part;
} lh_tape_item;
bool lh_tape_recorded(const lh_tape *t, int64_t k, lh_tape_item *out);

/* Queries. Local. */
const lh_shape *lh_var_shape(const lh_tape *t, lh_var v);
const lh_place *lh_var_place(const lh_tape *t, lh_var v);
LH_NODISCARD lh_status lh_var_data(lh_tape *t, lh_var v, const void **data); /* counts as a use */
lh_device *lh_tape_device(const lh_tape *t);
int lh_tape_coord(const lh_tape *t, int axis);
int lh_tape_size(const lh_tape *t, int axis);
bool lh_tape_recomputing(const lh_tape *t);

/* --- inside an operation --- */

/* lh_call_* - the running operation's tape, attributes, shapes and layout. Local. */
lh_tape *lh_call_tape(const lh_call *c);
lh_device *lh_call_device(const lh_call *c);
const void *lh_call_attrs(const lh_call *c);
const lh_shape *lh_call_in_shape(const lh_call *c, int i);
const lh_shape *lh_call_out_shape(const lh_call *c, int i);
const lh_place *lh_call_in_place(const lh_call *c, int i);
int lh_call_inputs(const lh_call *c);

/* lh_in, lh_out - device data of input or output i. In a vjp only what `reads` declares, in a remake
 * also the outputs in `drops`. Errors: LH_ERR_BUG. */
LH_NODISCARD lh_status lh_in(lh_call *c, int i, const void **data);
LH_NODISCARD lh_status lh_out(lh_call *c, int i, void **data);

/* lh_out_grad - gradient of output i; *data NULL when none reached it. In a vjp. */
LH_NODISCARD lh_status lh_out_grad(lh_call *c, int i, const void **data);

/* lh_out_grad_add - where to add to the gradient of output i, of which nobody else sees it; *accumulate:
 * add, else none reached it: overwrite all of it. For lh_pass_grad after it. In a vjp. */
LH_NODISCARD lh_status lh_out_grad_add(lh_call *c, int i, void **data, bool *accumulate);

/* lh_in_grad - where to put the gradient of input i: *data NULL when not wanted; *accumulate: add
 * instead of overwrite. Ask once per vjp and input, and write all of it. In a vjp. */
LH_NODISCARD lh_status lh_in_grad(lh_call *c, int i, void **data, bool *accumulate);

/* lh_in_grad_zeroed - as lh_in_grad, filled with zeros when it is new: then always add. */
LH_NODISCARD lh_status lh_in_grad_zeroed(lh_call *c, int i, void **data);

/* lh_pass_grad - the gradient of output j is also, number by number, that of input i, which has as
 * many: added if input i has a gradient already, else the two share one buffer. In a vjp. */
LH_NODISCARD lh_status lh_pass_grad(lh_call *c, int i, int j);

/* lh_scratch, lh_host_scratch - memory that dies with this call. */
LH_NODISCARD lh_status lh_scratch(lh_call *c, size_t bytes, void **data);
LH_NODISCARD lh_status lh_host_scratch(lh_call *c, size_t bytes, void **data);

/* lh_call_has_in - was optional input i given? lh_wants_grad: must its gradient be computed? Local. */
bool lh_call_has_in(const lh_call *c, int i);
bool lh_wants_grad(const lh_call *c, int i);

/* lh_call_layout - the layout by which input i is sharded along the sequence; NULL when it is not.
 * Local. Borrowed. */
const lh_layout *lh_call_layout(const lh_call *c, int i);
