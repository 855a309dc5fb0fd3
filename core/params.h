#pragma once
/* Parameters: named, shaped, placed; their values, gradients and optimiser moments.
 *
 * Models and mechanisms declare parameters; lh_params_allocate then makes one block of device
 * memory for each of the four kinds. Names are stable and dotted (layer.3.attention.query.weight):
 * checkpoints and importers rely on them. */
#include <stddef.h>

#include "core/device.h"
#include "core/place.h"

typedef enum lh_init_kind {
    LH_INIT_ZERO,
    LH_INIT_ONE,
    LH_INIT_NORMAL,
    LH_INIT_FUNCTION
} lh_init_kind;

/* Initial values of a whole replicated parameter: value [count of the whole]; number: of the name
 * (lh_name_number); user: the copy of what lh_params_add_drawn got; work: scratch of draw_work numbers.
 * Local, pure. */
enum { LH_DRAW_USER = 64 };
typedef lh_status (*lh_init_fn)(const void *user, uint64_t seed, uint64_t number, double *work,
                                double *value);

typedef struct lh_param {
    char name[96];
    lh_shape shape; /* of this rank: a dimension sharded over the sequence has the local rows */
    lh_shape whole; /* of the whole parameter */
    lh_place place;
    lh_init_kind init;
    double std; /* LH_INIT_NORMAL */
    /* name of the parameter of the same shape that this one starts as a copy of: in initial values, and
     * in a checkpoint that lacks this one; "": none */
    char like[96];
    bool decay; /* weight decay applies: two or more dimensions */
    /* a value that is not learned (a random projection): its gradient and moments stay zero, and
     * lh_params_total leaves it out; checkpoints hold it, one without it leaves it as drawn */
    bool frozen;
    lh_init_fn draw;   /* LH_INIT_FUNCTION */
    int64_t draw_work; /* 0, or set by who added it */
    max_align_t draw_user[LH_DRAW_USER / sizeof(max_align_t)];
    /* how grad lies now: dual of place after backward, place after the reduction */
    lh_place grad_place;
    /* no operation of the running backward pass adds to grad any more; true outside of one */
    bool grad_final;
    void *value, *grad, *m, *v; /* device memory; borrowed from the blocks */
} lh_param;

typedef struct lh_params {
    lh_device *device;
    int64_t count, capacity;
    lh_param **item;    /* each one allocated by itself, so that a pointer stays valid */
    int coord[LH_AXES]; /* this rank on the mesh: decides the local shape */
    void *block[4]; /* value, grad, m, v; parameters lie in order of declaration, 64-byte aligned */
    int64_t block_elements;
    bool trainable; /* grad, m, v exist */
    double *room;   /* where values are drawn; kept, so that drawing again allocates nothing */
    int64_t room_capacity;
} lh_params;

/* lh_params_create - an empty set for the rank at coord of the mesh. Local. The caller destroys
 * *out. */
LH_NODISCARD lh_status lh_params_create(lh_device *device, const int coord[LH_AXES],
                                        lh_params **out);
/* lh_params_destroy - release them and null the handle. Local. */
void lh_params_destroy(lh_params **params);

/* lh_params_add - declare a parameter before lh_params_allocate. Local. whole: dimensions of the
 * whole parameter. Errors: LH_ERR_BUG (name twice, too long, placement does not fit),
 * LH_ERR_MEMORY. *out (may be NULL) is borrowed. */
LH_NODISCARD lh_status lh_params_add(lh_params *p, const char *name, lh_shape whole, lh_place place,
                                     lh_init_kind init, double std, lh_param **out);

/* lh_params_add_drawn - a frozen, replicated parameter whose initial values `draw` gives. user:
 * user_bytes (at most LH_DRAW_USER) are copied. Local. Errors: as lh_params_add. */
LH_NODISCARD lh_status lh_params_add_drawn(lh_params *p, const char *name, lh_shape whole,
                                           lh_init_fn draw, const void *user, size_t user_bytes,
                                           lh_param **out);

/* lh_params_draw - draw a frozen parameter again, with another number. Local. Errors:
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_params_draw(lh_params *p, lh_param *param, uint64_t seed,
                                      uint64_t number);

/* lh_params_find - by name; NULL when there is none. Local. Borrowed. */
lh_param *lh_params_find(const lh_params *p, const char *name);

/* lh_params_allocate - device memory for values and, if trainable, gradients and moments (zeroed).
 * Local. Errors: LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_params_allocate(lh_params *p, bool trainable);

/* lh_params_initialise - values as a function of (seed, name, global index). Local.
 * Errors: LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_params_initialise(lh_params *p, uint64_t seed);

/* lh_params_zero_grad - gradients to 0, placed as the dual, nothing on its way to them. Local. */
void lh_params_zero_grad(lh_params *p);

/* lh_params_total - elements of all whole parameters that are learned; lh_params_held - and of the
 * frozen ones. Local. */
int64_t lh_params_total(const lh_params *p);
int64_t lh_params_held(const lh_params *p);

/* lh_params_need - bytes of device memory that lh_params_allocate will take. Local. */
size_t lh_params_need(const lh_params *p, bool trainable);

/* lh_params_bytes - bytes of device memory held (all four kinds). Local. */
size_t lh_params_bytes(const lh_params *p);
