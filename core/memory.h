#pragma once
/* Step memory: the counting pass and its arena.
 *
 * A step asks for memory slot by slot, always in the same order for the same shapes. While
 * counting, every slot's birth and last use (in ticks: one per operation) are recorded; then
 * offsets are assigned by lifetime, one arena per memory space is allocated, and the step replays
 * the same sequence inside it: no allocation in a step whose shapes were seen. A replay that
 * differs from the count (another size, a use after the recorded end) is LH_ERR_BUG. */
#include "core/device.h"

typedef enum lh_space { LH_SPACE_DEVICE, LH_SPACE_HOST, LH_SPACES } lh_space;

typedef struct lh_memory lh_memory;

/* lh_memory_create - an empty record. Local. The caller destroys *out. */
LH_NODISCARD lh_status lh_memory_create(lh_memory **out);
/* lh_memory_destroy - release the record (not the arenas) and null the handle. Local. */
void lh_memory_destroy(lh_memory **m);

/* lh_memory_count_begin, lh_memory_count_end - record a step; then assign offsets. Local. Errors:
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_memory_count_begin(lh_memory *m);
LH_NODISCARD lh_status lh_memory_count_end(lh_memory *m);

/* lh_memory_bytes - arena bytes of a space after the count; lh_memory_peak: both spaces together:
 * the step's peak. lh_memory_live - the largest number of bytes alive at one tick, of each space,
 * together: the least that any assignment of offsets can reach. Local. */
size_t lh_memory_bytes(const lh_memory *m, lh_space space);
int64_t lh_memory_peak(const lh_memory *m);
int64_t lh_memory_live(const lh_memory *m);

/* lh_memory_part - slots from now on belong to part `part` (0, 1, ...; 0 at first) of the step, such as
 * a layer. lh_memory_part_peak - after the count: the largest number of bytes of that part alive at
 * one tick, *bytes. Local. Errors: LH_ERR_MEMORY. */
void lh_memory_part(lh_memory *m, int part);
LH_NODISCARD lh_status lh_memory_part_peak(const lh_memory *m, int part, int64_t *bytes);

/* lh_memory_replay - start the counted step again inside the given arenas (borrowed until the step
 * ends). Local. device: where the LH_SPACE_DEVICE arena lies. Bytes given must be at least
 * lh_memory_bytes. */
void lh_memory_replay(lh_memory *m, lh_device *device, void *device_base, void *host_base);

/* lh_memory_counting - is this the counting pass? Local. */
bool lh_memory_counting(const lh_memory *m);

/* lh_memory_tick - the next operation begins: scratch of the last one is dead. Local. */
LH_NODISCARD lh_status lh_memory_tick(lh_memory *m);

/* lh_memory_new - the next slot, alive from now until its last use. Local. *slot: its number.
 * Errors: LH_ERR_BUG (replay differs), LH_ERR_MEMORY (counting). */
LH_NODISCARD lh_status lh_memory_new(lh_memory *m, lh_space space, size_t bytes, int64_t *slot);

/* lh_memory_use - the slot's address; counts as a use now. Local. While counting the address must
 * not be read. Errors: LH_ERR_BUG when the slot's life is over. */
LH_NODISCARD lh_status lh_memory_use(lh_memory *m, int64_t slot, void **ptr);

/* lh_memory_scratch - memory that dies with this operation. Local. */
LH_NODISCARD lh_status lh_memory_scratch(lh_memory *m, lh_space space, size_t bytes, void **ptr);
