#include "core/memory.h"

#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define MEMORY_POISON(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define MEMORY_UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
#define MEMORY_POISON(p, n) ((void)(p), (void)(n))
#define MEMORY_UNPOISON(p, n) ((void)(p), (void)(n))
#endif

enum { MEMORY_ALIGN = 64 };

typedef struct memory_slot {
    lh_space space;
    int part;
    size_t bytes, offset; /* bytes rounded up to MEMORY_ALIGN */
    size_t trial;         /* offset of the assignment that is tried */
    int64_t birth, death; /* ticks; both ends included */
} memory_slot;

struct lh_memory {
    memory_slot *slot;
    int64_t count, capacity;
    int64_t *by_death; /* slot numbers in order of death: who dies when the tick advances */
    int64_t by_death_capacity, dead;
    int64_t cursor, tick;
    int part; /* of the slots that follow */
    size_t arena[LH_SPACES];
    int64_t live; /* of each space the most at one tick, together */
    bool counting;
    lh_device *device; /* of the replay */
    char *base[LH_SPACES];
};

lh_status lh_memory_create(lh_memory **out)
{
    return lh_new(sizeof **out, out);
}

void lh_memory_destroy(lh_memory **m)
{
    if (*m == NULL) return;
    lh_free(&(*m)->slot);
    lh_free(&(*m)->by_death);
    lh_free(m);
}

lh_status lh_memory_count_begin(lh_memory *m)
{
    m->count = m->cursor = m->tick = m->dead = m->live = 0;
    m->part = 0;
    m->arena[LH_SPACE_DEVICE] = m->arena[LH_SPACE_HOST] = 0;
    m->counting = true;
    return LH_OK;
}

static int memory_earlier_first(const void *a, const void *b)
{
    const memory_slot *x = *(memory_slot *const *)a;
    const memory_slot *y = *(memory_slot *const *)b;
    if (x->birth != y->birth) return x->birth < y->birth ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
    return x < y ? -1 : x > y;
}

static int memory_larger_first(const void *a, const void *b)
{
    const memory_slot *x = *(memory_slot *const *)a;
    const memory_slot *y = *(memory_slot *const *)b;
    if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
    return memory_earlier_first(a, b);
}

static int memory_longer_first(const void *a, const void *b)
{
    const memory_slot *x = *(memory_slot *const *)a;
    const memory_slot *y = *(memory_slot *const *)b;
    int64_t x_life = x->death - x->birth;
    int64_t y_life = y->death - y->birth;
    if (x_life != y_life) return x_life > y_life ? -1 : 1;
    return memory_larger_first(a, b);
}

/* Greedy: each slot goes to the lowest gap left by the placed slots whose lives overlap with its own.
 * placed is kept in order of offset. */
static size_t memory_place(memory_slot *s, memory_slot **placed, int64_t *n_placed)
{
    size_t at = 0;
    for (int64_t i = 0; i < *n_placed; i++) {
        const memory_slot *p = placed[i];
        if (p->space != s->space || p->death < s->birth || s->death < p->birth) continue;
        if (p->trial >= at + s->bytes) break;
        if (p->trial + p->bytes > at) at = p->trial + p->bytes;
    }
    s->trial = at;
    int64_t i = *n_placed;
    for (; i > 0 && placed[i - 1]->trial > at; i--) placed[i] = placed[i - 1];
    placed[i] = s;
    (*n_placed)++;
    return at + s->bytes;
}

/* Offsets by one order of the slots, kept if they need less than what is known; 0: nothing is. */
static void memory_try(lh_memory *m, memory_slot **order, memory_slot **placed)
{
    size_t arena[LH_SPACES] = {0};
    size_t known = m->arena[LH_SPACE_DEVICE] + m->arena[LH_SPACE_HOST];
    int64_t n_placed = 0;
    for (int64_t i = 0; i < m->count; i++) {
        if (order[i]->bytes == 0) continue;
        size_t end = memory_place(order[i], placed, &n_placed);
        if (end > arena[order[i]->space]) arena[order[i]->space] = end;
    }
    if (known > 0 && arena[LH_SPACE_DEVICE] + arena[LH_SPACE_HOST] >= known) return;
    for (int s = 0; s < LH_SPACES; s++) m->arena[s] = arena[s];
    for (int64_t i = 0; i < m->count; i++) m->slot[i].offset = m->slot[i].trial;
}

/* By size is nearly always as good as can be, m->live; else other orders may be better. */
static lh_status memory_assign(lh_memory *m)
{
    static int (*const by[])(const void *, const void *) = {
        memory_larger_first, memory_longer_first, memory_earlier_first};
    lh_status st = LH_OK;
    memory_slot **order = NULL;
    memory_slot **placed = NULL;
    LH_TRY(lh_new((size_t)m->count * sizeof *order, &order));
    LH_TRY(lh_new((size_t)m->count * sizeof *placed, &placed));
    for (int64_t i = 0; i < m->count; i++) order[i] = &m->slot[i];
    for (size_t k = 0; k < sizeof by / sizeof by[0]; k++) {
        if (k > 0 && lh_memory_peak(m) <= m->live) break;
        if (m->count > 1) qsort(order, (size_t)m->count, sizeof *order, by[k]);
        memory_try(m, order, placed);
    }
done:
    lh_free(&order);
    lh_free(&placed);
    return st;
}

/* Counting sort of slot numbers by death. */
static lh_status memory_deaths(lh_memory *m)
{
    lh_status st = LH_OK;
    int64_t *start = NULL;
    int64_t ticks = m->tick + 2;
    LH_TRY(lh_new((size_t)ticks * sizeof *start, &start));
    LH_TRY(lh_grow(&m->by_death, &m->by_death_capacity, m->count, sizeof *m->by_death));
    for (int64_t i = 0; i < m->count; i++) start[m->slot[i].death + 1]++;
    for (int64_t t = 1; t < ticks; t++) start[t] += start[t - 1];
    for (int64_t i = 0; i < m->count; i++) m->by_death[start[m->slot[i].death]++] = i;
done:
    lh_free(&start);
    return st;
}

/* The most bytes alive at one tick, of the slots that match: of a space, and of a part (-1: all). */
static lh_status memory_most(const lh_memory *m, lh_space space, int part, int64_t *bytes)
{
    lh_status st = LH_OK;
    int64_t *change = NULL;
    int64_t now = 0;
    *bytes = 0;
    LH_TRY(lh_new((size_t)(m->tick + 2) * sizeof *change, &change));
    for (int64_t i = 0; i < m->count; i++) {
        const memory_slot *s = &m->slot[i];
        if ((part >= 0 && s->part != part) || (space < LH_SPACES && s->space != space)) continue;
        change[s->birth] += (int64_t)s->bytes;
        change[s->death + 1] -= (int64_t)s->bytes;
    }
    for (int64_t t = 0; t < m->tick + 2; t++) {
        now += change[t];
        if (now > *bytes) *bytes = now;
    }
done:
    lh_free(&change);
    return st;
}

lh_status lh_memory_count_end(lh_memory *m)
{
    lh_status st = LH_OK;
    LH_CHECK(m->counting, LH_ERR_BUG, "memory count ended without a beginning");
    LH_TRY(memory_deaths(m));
    for (int i = 0; i < LH_SPACES; i++) {
        int64_t most = 0;
        LH_TRY(memory_most(m, (lh_space)i, -1, &most));
        m->live += most;
    }
    LH_TRY(memory_assign(m));
    m->counting = false;
done:
    return st;
}

size_t lh_memory_bytes(const lh_memory *m, lh_space space)
{
    return m->arena[space];
}

int64_t lh_memory_peak(const lh_memory *m)
{
    return (int64_t)(m->arena[LH_SPACE_DEVICE] + m->arena[LH_SPACE_HOST]);
}

int64_t lh_memory_live(const lh_memory *m)
{
    return m->live;
}

void lh_memory_part(lh_memory *m, int part)
{
    m->part = part;
}

lh_status lh_memory_part_peak(const lh_memory *m, int part, int64_t *bytes)
{
    return memory_most(m, LH_SPACES, part, bytes);
}

void lh_memory_replay(lh_memory *m, lh_device *device, void *device_base, void *host_base)
{
    m->device = device;
    m->base[LH_SPACE_DEVICE] = device_base;
    m->base[LH_SPACE_HOST] = host_base;
    m->cursor = m->tick = m->dead = 0;
    for (int i = 0; i < LH_SPACES; i++)
        if (m->base[i] != NULL) MEMORY_POISON(m->base[i], m->arena[i]);
}

bool lh_memory_counting(const lh_memory *m)
{
    return m->counting;
}

lh_status lh_memory_tick(lh_memory *m)
{
    if (!m->counting) {
        for (; m->dead < m->cursor; m->dead++) {
            const memory_slot *s = &m->slot[m->by_death[m->dead]];
            if (s->death > m->tick) break;
            char *p = m->base[s->space] + s->offset;
            if (s->bytes > 0 && s->space == LH_SPACE_DEVICE)
                lh_device_fresh(m->device, p, s->bytes);
            MEMORY_POISON(p, s->bytes);
        }
    }
    m->tick++;
    return LH_OK;
}

lh_status lh_memory_new(lh_memory *m, lh_space space, size_t bytes, int64_t *slot)
{
    lh_status st = LH_OK;
    size_t whole = (bytes + MEMORY_ALIGN - 1) / MEMORY_ALIGN * MEMORY_ALIGN;
    *slot = m->cursor;
    if (m->counting) {
        LH_TRY(lh_grow(&m->slot, &m->capacity, m->count + 1, sizeof *m->slot));
        m->slot[m->count++] = (memory_slot){
            .space = space, .part = m->part, .bytes = whole, .birth = m->tick, .death = m->tick};
    } else {
        LH_CHECK(m->cursor < m->count, LH_ERR_BUG,
                 "the step asks for more memory slots than the %lld that were counted",
                 (long long)m->count);
        const memory_slot *s = &m->slot[m->cursor];
        LH_CHECK(s->space == space && s->bytes == whole && s->birth == m->tick, LH_ERR_BUG,
                 "memory slot %lld at tick %lld asks for %zu bytes; counted: %zu at tick %lld",
                 (long long)m->cursor, (long long)m->tick, whole, s->bytes, (long long)s->birth);
        char *p = m->base[space] + s->offset;
        MEMORY_UNPOISON(p, s->bytes);
        if (s->bytes > 0 && space == LH_SPACE_DEVICE) lh_device_fresh(m->device, p, s->bytes);
    }
    m->cursor++;
done:
    return st;
}

lh_status lh_memory_use(lh_memory *m, int64_t slot, void **ptr)
{
    lh_status st = LH_OK;
    *ptr = NULL;
    LH_CHECK(slot >= 0 && slot < m->cursor, LH_ERR_BUG, "memory slot %lld does not exist",
             (long long)slot);
    memory_slot *s = &m->slot[slot];
    if (m->counting) {
        s->death = m->tick;
        /* a distinct, aligned address that nobody reads: see the device `count` */
        *ptr = (void *)(uintptr_t)(((uint64_t)1 << 44) + ((uint64_t)slot << 20));
    } else {
        LH_CHECK(m->tick <= s->death, LH_ERR_BUG,
                 "memory slot %lld is used at tick %lld; the count saw its last use at tick %lld",
                 (long long)slot, (long long)m->tick, (long long)s->death);
        *ptr = m->base[s->space] + s->offset;
    }
done:
    return st;
}

lh_status lh_memory_scratch(lh_memory *m, lh_space space, size_t bytes, void **ptr)
{
    int64_t slot = 0;
    lh_status st = lh_memory_new(m, space, bytes, &slot);
    *ptr = NULL;
    if (st == LH_OK) st = lh_memory_use(m, slot, ptr);
    return st;
}
