/* Step memory: lifetimes and offsets against brute force, broken promises of the replay, failures
 * of allocation. */
#include "core/memory.h"
#include "core/random.h"
#include "tests/lh_test.h"

#include <math.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

enum { ALIGN = 64, MAX_SLOTS = 400, TICKS = 60 };

/* A counted record with its arenas. */
typedef struct fixture {
    lh_device *device;
    lh_memory *m;
    void *arena[LH_SPACES];
} fixture;

static void fixture_open(fixture *f, bool poison)
{
    *f = (fixture){0};
    lh_assert_ok(poison ? lh_device_create_poison("portable", 1, &f->device)
                        : lh_device_create_cpu("portable", 1, &f->device));
    lh_assert_ok(lh_memory_create(&f->m));
    lh_assert_ok(lh_memory_count_begin(f->m));
    assert_true(lh_memory_counting(f->m));
}

static void fixture_replay(fixture *f)
{
    if (lh_memory_counting(f->m)) {
        lh_assert_ok(lh_memory_count_end(f->m));
        lh_assert_ok(lh_device_alloc(f->device, lh_memory_bytes(f->m, LH_SPACE_DEVICE),
                                     &f->arena[LH_SPACE_DEVICE]));
        lh_assert_ok(lh_host_alloc(lh_memory_bytes(f->m, LH_SPACE_HOST), &f->arena[LH_SPACE_HOST]));
    }
    assert_false(lh_memory_counting(f->m));
    lh_memory_replay(f->m, f->device, f->arena[LH_SPACE_DEVICE], f->arena[LH_SPACE_HOST]);
}

static void fixture_close(fixture *f)
{
    lh_device_release(f->device, &f->arena[LH_SPACE_DEVICE]);
    lh_host_release(&f->arena[LH_SPACE_HOST]);
    lh_memory_destroy(&f->m);
    lh_device_destroy(&f->device);
}

static int64_t new_slot(fixture *f, lh_space space, size_t bytes)
{
    int64_t slot = -1;
    lh_assert_ok(lh_memory_new(f->m, space, bytes, &slot));
    return slot;
}

static char *use(fixture *f, int64_t slot)
{
    void *p = NULL;
    lh_assert_ok(lh_memory_use(f->m, slot, &p));
    return p;
}

static void tick(fixture *f)
{
    lh_assert_ok(lh_memory_tick(f->m));
}

/* --- lifetimes by hand --- */

static void a_place_is_used_again(void **state)
{
    (void)state;
    fixture f;
    char *first = NULL;
    char *second = NULL;
    fixture_open(&f, false);
    for (int pass = 0; pass < 3; pass++) {
        if (pass > 0) fixture_replay(&f);
        tick(&f);
        int64_t a = new_slot(&f, LH_SPACE_DEVICE, 1000);
        first = use(&f, a);
        tick(&f);
        (void)use(&f, a); /* its last use */
        tick(&f);
        int64_t b = new_slot(&f, LH_SPACE_DEVICE, 990);
        second = use(&f, b);
    }
    assert_ptr_equal(first, second);
    assert_int_equal(lh_memory_bytes(f.m, LH_SPACE_DEVICE), 1024);
    assert_int_equal(lh_memory_bytes(f.m, LH_SPACE_HOST), 0);
    assert_int_equal(lh_memory_peak(f.m), 1024);
    assert_int_equal(lh_memory_live(f.m), 1024);
    fixture_close(&f);
}

static void lives_that_touch_do_not_share(void **state)
{
    (void)state;
    fixture f;
    char *first = NULL;
    char *second = NULL;
    fixture_open(&f, false);
    for (int pass = 0; pass < 2; pass++) {
        if (pass > 0) fixture_replay(&f);
        tick(&f);
        int64_t a = new_slot(&f, LH_SPACE_DEVICE, 100);
        tick(&f);
        int64_t b = new_slot(&f, LH_SPACE_DEVICE, 100); /* an operation reads a and writes b */
        first = use(&f, a);
        second = use(&f, b);
    }
    assert_true(second >= first + 100 || first >= second + 100);
    assert_int_equal(lh_memory_bytes(f.m, LH_SPACE_DEVICE), 256);
    fixture_close(&f);
}

static void scratch_dies_with_its_operation(void **state)
{
    (void)state;
    fixture f;
    void *p = NULL;
    fixture_open(&f, false);
    for (int pass = 0; pass < 2; pass++) {
        if (pass > 0) fixture_replay(&f);
        for (int i = 0; i < 10; i++) {
            tick(&f);
            lh_assert_ok(lh_memory_scratch(f.m, LH_SPACE_DEVICE, 640, &p));
            lh_assert_ok(lh_memory_scratch(f.m, LH_SPACE_HOST, 64, &p));
        }
    }
    assert_int_equal(lh_memory_bytes(f.m, LH_SPACE_DEVICE), 640);
    assert_int_equal(lh_memory_bytes(f.m, LH_SPACE_HOST), 64);
    assert_int_equal(lh_memory_peak(f.m), 704);
    fixture_close(&f);
}

/* --- random steps against brute force --- */

typedef struct slot_record {
    int64_t id, birth, death;
    lh_space space;
    size_t bytes;
    char *at;
} slot_record;

typedef struct script {
    uint64_t seed;
    slot_record slot[MAX_SLOTS];
    int64_t count;
} script;

static uint32_t draw(const script *s, int64_t t, int64_t i)
{
    return lh_random_u32(s->seed, 1, (uint64_t)(t * 64 + i));
}

static char mark(const script *s, int64_t slot)
{
    return (char)(s->seed * 31 + (uint64_t)slot * 7 + 1);
}

static bool marked(const script *s, const slot_record *x, int64_t slot)
{
    for (size_t i = 0; i < x->bytes; i++)
        if (x->at[i] != mark(s, slot)) return false;
    return true;
}

static void script_new(script *s, fixture *f, int64_t t, int64_t i, bool replay)
{
    slot_record *x = &s->slot[s->count];
    uint32_t r = draw(s, t, 10 + i);
    size_t bytes = r % 7 == 0 ? 0 : r % 3 == 0 ? r / 16 % 3000 : r / 16 % 200;
    lh_space space = r % 5 == 0 ? LH_SPACE_HOST : LH_SPACE_DEVICE;
    int64_t death = x->death; /* known from the count */
    *x = (slot_record){new_slot(f, space, bytes), t, replay ? death : t, space, bytes, NULL};
    s->count++;
}

static void script_use(script *s, fixture *f, int64_t t, int64_t slot, bool replay)
{
    slot_record *x = &s->slot[slot];
    x->at = use(f, x->id);
    if (!replay) {
        x->death = t;
        return;
    }
    assert_true(t <= x->death);
    if (t > x->birth) assert_true(marked(s, x, slot)); /* nobody wrote over it */
    if (t == x->birth && x->bytes > 0) memset(x->at, mark(s, slot), x->bytes);
}

/* Per tick some new slots, used at once, and some of the last twenty used again. */
static void script_run(script *s, fixture *f, bool replay)
{
    s->count = 0;
    for (int64_t t = 0; t < TICKS; t++) {
        int64_t fresh = draw(s, t, 0) % 6;
        int64_t before = s->count;
        for (int64_t i = 0; i < fresh && s->count < MAX_SLOTS; i++) script_new(s, f, t, i, replay);
        for (int64_t i = before; i < s->count; i++) script_use(s, f, t, i, replay);
        for (int64_t i = 0; i < 5 && before > 0; i++) {
            int64_t back = (int64_t)(draw(s, t, 30 + i) % 20);
            if (back < before) script_use(s, f, t, before - 1 - back, replay);
        }
        tick(f);
    }
}

static int64_t most_alive(const script *s, lh_space space)
{
    int64_t live = 0;
    for (int64_t t = 0; t < TICKS; t++) {
        int64_t now = 0;
        for (int64_t i = 0; i < s->count; i++)
            if (s->slot[i].space == space && s->slot[i].birth <= t && t <= s->slot[i].death)
                now += (int64_t)((s->slot[i].bytes + ALIGN - 1) / ALIGN * ALIGN);
        if (now > live) live = now;
    }
    return live;
}

static void check_apart(const script *s, const fixture *f)
{
    int64_t live = 0;
    for (int64_t a = 0; a < s->count; a++) {
        const slot_record *x = &s->slot[a];
        char *base = f->arena[x->space];
        if (x->bytes == 0) continue;
        assert_true(x->at >= base && x->at + x->bytes <= base + lh_memory_bytes(f->m, x->space));
        assert_int_equal((uintptr_t)x->at % ALIGN, 0);
        for (int64_t b = 0; b < a; b++) {
            const slot_record *y = &s->slot[b];
            if (y->space != x->space || y->bytes == 0) continue;
            if (x->death < y->birth || y->death < x->birth) continue;
            assert_true(x->at + x->bytes <= y->at || y->at + y->bytes <= x->at);
        }
    }
    for (int space = 0; space < LH_SPACES; space++) live += most_alive(s, (lh_space)space);
    assert_int_equal(lh_memory_live(f->m), live);
    assert_true(lh_memory_peak(f->m) >= live);
    assert_true((double)lh_memory_peak(f->m) <= 1.25 * (double)live); /* and not much more */
}

static void random_steps(void **state)
{
    (void)state;
    static script s;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        fixture f;
        s = (script){.seed = seed};
        fixture_open(&f, false);
        script_run(&s, &f, false);
        for (int step = 0; step < 3; step++) {
            fixture_replay(&f);
            int64_t before = lh_new_count();
            script_run(&s, &f, true);
            assert_int_equal(lh_new_count(), before);
            check_apart(&s, &f);
        }
        /* another shape: the same record is counted anew */
        lh_assert_ok(lh_memory_count_begin(f.m));
        s.seed += 1000;
        script_run(&s, &f, false);
        lh_device_release(f.device, &f.arena[LH_SPACE_DEVICE]);
        lh_host_release(&f.arena[LH_SPACE_HOST]);
        fixture_replay(&f);
        script_run(&s, &f, true);
        check_apart(&s, &f);
        fixture_close(&f);
    }
}

/* --- dead memory --- */

static void new_memory_is_nan_on_poison(void **state)
{
    (void)state;
    fixture f;
    fixture_open(&f, true);
    for (int pass = 0; pass < 3; pass++) {
        if (pass > 0) fixture_replay(&f);
        for (int i = 0; i < 3; i++) {
            tick(&f);
            int64_t slot = new_slot(&f, LH_SPACE_DEVICE, 40 * sizeof(lh_real));
            char *p = use(&f, slot);
            if (pass == 0) continue;
            for (size_t k = 0; k < 40; k++)
                assert_true(isnan(lh_read_scalar(f.device, (lh_real *)(void *)p + k, LH_REAL)));
            lh_run_fill(f.device, &(lh_fill_args){40, 1.5, p});
        }
    }
    fixture_close(&f);
}

static void dead_memory_is_poisoned(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__)
    fixture f;
    fixture_open(&f, false);
    for (int pass = 0; pass < 3; pass++) {
        if (pass > 0) fixture_replay(&f);
        if (pass > 0) assert_true(__asan_address_is_poisoned(f.arena[LH_SPACE_DEVICE]));
        tick(&f);
        int64_t a = new_slot(&f, LH_SPACE_DEVICE, 100);
        int64_t h = new_slot(&f, LH_SPACE_HOST, 100);
        char *at = use(&f, a);
        char *host = use(&f, h);
        if (pass > 0) assert_false(__asan_address_is_poisoned(at + 99));
        tick(&f);
        (void)use(&f, h);
        if (pass > 0) assert_true(__asan_address_is_poisoned(at));
        if (pass > 0) assert_true(__asan_address_is_poisoned(at + 99));
        if (pass > 0) assert_false(__asan_address_is_poisoned(host + 99));
        tick(&f);
        if (pass > 0) assert_true(__asan_address_is_poisoned(host));
        (void)use(&f, new_slot(&f, LH_SPACE_DEVICE, 50)); /* where a was */
        if (pass > 0) assert_false(__asan_address_is_poisoned(at + 49));
        if (pass > 0) assert_true(__asan_address_is_poisoned(at + 99));
    }
    fixture_close(&f);
#else
    skip(); /* needs the address sanitizer */
#endif
}

/* --- broken promises --- */

static void count_one_step(fixture *f)
{
    fixture_open(f, false);
    tick(f);
    (void)use(f, new_slot(f, LH_SPACE_DEVICE, 100));
    tick(f);
    (void)use(f, new_slot(f, LH_SPACE_HOST, 100));
    fixture_replay(f);
}

static void replay_must_not_differ(void **state)
{
    (void)state;
    fixture f;
    int64_t slot = 0;
    void *p = NULL;
    count_one_step(&f);
    tick(&f);
    lh_assert_error(lh_memory_new(f.m, LH_SPACE_DEVICE, 300, &slot), LH_ERR_BUG, "counted");
    lh_assert_code(lh_memory_new(f.m, LH_SPACE_HOST, 100, &slot), LH_ERR_BUG); /* another space */
    lh_assert_code(lh_memory_use(f.m, 0, &p), LH_ERR_BUG); /* does not exist yet */
    assert_null(p);
    lh_assert_code(lh_memory_use(f.m, -1, &p), LH_ERR_BUG);
    lh_assert_ok(lh_memory_new(f.m, LH_SPACE_DEVICE, 100, &slot));
    lh_assert_code(lh_memory_new(f.m, LH_SPACE_HOST, 100, &slot),
                   LH_ERR_BUG); /* a tick too early */
    tick(&f);
    lh_assert_error(lh_memory_use(f.m, 0, &p), LH_ERR_BUG, "last use");
    assert_null(p);
    lh_assert_ok(lh_memory_scratch(f.m, LH_SPACE_HOST, 100, &p));
    lh_assert_error(lh_memory_new(f.m, LH_SPACE_HOST, 100, &slot), LH_ERR_BUG, "more memory slots");
    lh_assert_code(lh_memory_scratch(f.m, LH_SPACE_HOST, 100, &p), LH_ERR_BUG);
    assert_null(p);
    fixture_close(&f);
}

static void a_count_has_a_beginning(void **state)
{
    (void)state;
    lh_memory *m = NULL;
    lh_assert_ok(lh_memory_create(&m));
    lh_assert_code(lh_memory_count_end(m), LH_ERR_BUG);
    lh_assert_ok(lh_memory_count_begin(m));
    lh_assert_ok(lh_memory_count_end(m)); /* an empty step */
    assert_int_equal(lh_memory_peak(m), 0);
    lh_assert_code(lh_memory_count_end(m), LH_ERR_BUG);
    lh_memory_destroy(&m);
    assert_null(m);
    lh_memory_destroy(&m);
}

static lh_status count_some(lh_memory **m)
{
    lh_status st = LH_OK;
    LH_TRY(lh_memory_create(m));
    LH_TRY(lh_memory_count_begin(*m));
    for (int i = 0; i < 100; i++) {
        void *p = NULL;
        LH_TRY(lh_memory_tick(*m));
        LH_TRY(lh_memory_scratch(*m, LH_SPACE_DEVICE, 100, &p));
    }
    LH_TRY(lh_memory_count_end(*m));
done:
    lh_memory_destroy(m);
    return st;
}

static void memory_runs_out(void **state)
{
    (void)state;
    lh_memory *m = NULL;
    int64_t n = 1;
    for (;; n++) {
        lh_new_fail_at(n);
        lh_status st = count_some(&m);
        lh_new_fail_at(0);
        if (st == LH_OK) break;
        lh_assert_code(st, LH_ERR_MEMORY);
        assert_null(m);
    }
    assert_true(n > 5);
}

/* Part 1 holds 64 + 128 bytes at once, part 2 never more than 256, part 0 its scratch. */
static void parts_have_their_own_peak(void **state)
{
    (void)state;
    fixture f;
    int64_t bytes = -1;
    const int64_t want[4] = {192, 192, 256, 0};
    fixture_open(&f, false);
    void *scratch = NULL;
    lh_assert_ok(lh_memory_scratch(f.m, LH_SPACE_HOST, 150, &scratch));
    lh_assert_ok(lh_memory_tick(f.m));
    lh_memory_part(f.m, 1);
    int64_t a = new_slot(&f, LH_SPACE_DEVICE, 64);
    lh_memory_part(f.m, 2);
    (void)new_slot(&f, LH_SPACE_DEVICE, 200);
    lh_assert_ok(lh_memory_tick(f.m));
    (void)new_slot(&f, LH_SPACE_DEVICE, 10);
    lh_memory_part(f.m, 1);
    (void)new_slot(&f, LH_SPACE_DEVICE, 100);
    (void)use(&f, a);
    lh_assert_ok(lh_memory_count_end(f.m));
    for (int part = 0; part < 4; part++) {
        lh_assert_ok(lh_memory_part_peak(f.m, part, &bytes));
        assert_int_equal(bytes, want[part]);
    }
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_place_is_used_again),
        cmocka_unit_test(lives_that_touch_do_not_share),
        cmocka_unit_test(scratch_dies_with_its_operation),
        cmocka_unit_test(random_steps),
        cmocka_unit_test(parts_have_their_own_peak),
        cmocka_unit_test(new_memory_is_nan_on_poison),
        cmocka_unit_test(dead_memory_is_poisoned),
        cmocka_unit_test(replay_must_not_differ),
        cmocka_unit_test(a_count_has_a_beginning),
        cmocka_unit_test(memory_runs_out),
    };
    return cmocka_run_group_tests_name("memory", tests, NULL, NULL);
}
