#pragma once
/* A pulse: where a process is, and that it moves on, for whoever watches it from another thread.
 *
 * The main thread alone writes: plain stores of a counter and of pointers to text that lives for ever
 * (names in const tables), without a lock. A NULL pulse is written by nobody. Owned by main; devices and
 * the traffic of communicators borrow it. */
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/profile.h"

typedef struct lh_pulse {
    double began;          /* when the program began, by the owner's clock */
    _Atomic(int64_t) beat; /* one more whenever something has moved on */
    _Atomic(int64_t) step; /* of training, that is being done; 0: none */
    _Atomic(const char *) phase;
    /* who waits in this phase may wait for another rank, and nobody can tell: libraries send messages in it */
    atomic_bool together;
    atomic_bool patient;        /* in this phase one rank may work alone for long */
    _Atomic(const char *) op;   /* operation of the tape that runs; NULL: none */
    atomic_int direction, part; /* of it: lh_direction, lh_tape_part */
    _Atomic(const char *) call; /* call of the message library that has not returned; NULL: none */
} lh_pulse;

/* lh_pulse_beat - something has moved on. Local; as all that follow. */
static inline void lh_pulse_beat(lh_pulse *p)
{
    if (p == NULL) return;
    int64_t beat = atomic_load_explicit(&p->beat, memory_order_relaxed);
    atomic_store_explicit(&p->beat, beat + 1, memory_order_relaxed);
}

/* lh_pulse_phase - a phase begins; name: lives for ever. LH_PULSE_TOGETHER, LH_PULSE_PATIENT: see
 * lh_pulse. lh_pulse_step - it belongs to this step of training, and so do the next ones. */
enum { LH_PULSE_TOGETHER = 1u, LH_PULSE_PATIENT = 2u };
static inline void lh_pulse_phase(lh_pulse *p, const char *name, unsigned flags)
{
    if (p == NULL) return;
    atomic_store_explicit(&p->phase, name, memory_order_relaxed);
    atomic_store_explicit(&p->together, (flags & LH_PULSE_TOGETHER) != 0, memory_order_relaxed);
    atomic_store_explicit(&p->patient, (flags & LH_PULSE_PATIENT) != 0, memory_order_relaxed);
    lh_pulse_beat(p);
}

static inline void lh_pulse_step(lh_pulse *p, int64_t step)
{
    if (p != NULL) atomic_store_explicit(&p->step, step, memory_order_relaxed);
}

/* lh_pulse_op - operation `name` of the tape begins; NULL: it has ended. */
static inline void lh_pulse_op(lh_pulse *p, const char *name, lh_direction direction, int part)
{
    if (p == NULL) return;
    atomic_store_explicit(&p->direction, (int)direction, memory_order_relaxed);
    atomic_store_explicit(&p->part, part, memory_order_relaxed);
    atomic_store_explicit(&p->op, name, memory_order_relaxed);
    lh_pulse_beat(p);
}

/* lh_pulse_call - a call of the message library begins; NULL: it has returned. */
static inline void lh_pulse_call(lh_pulse *p, const char *call)
{
    if (p == NULL) return;
    atomic_store_explicit(&p->call, call, memory_order_relaxed);
    lh_pulse_beat(p);
}
