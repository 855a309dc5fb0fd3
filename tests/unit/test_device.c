#include "tests/lh_test.h"

#include "core/device.h"

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

typedef lh_status (*create_fn)(const char *isa, int threads, lh_device **out);

/* A signal handler can only reach what is global. */
static sigjmp_buf fault_return;

static void on_fault(int signal_number)
{
    siglongjmp(fault_return, signal_number);
}

/* Does reading (or writing) this byte fault? */
static bool faults(volatile char *byte, bool write)
{
    struct sigaction mine, old_segv, old_bus;
    volatile bool fault = true;
    memset(&mine, 0, sizeof mine);
    mine.sa_handler = on_fault;
    (void)sigemptyset(&mine.sa_mask);
    assert_int_equal(sigaction(SIGSEGV, &mine, &old_segv), 0);
    assert_int_equal(sigaction(SIGBUS, &mine, &old_bus), 0);
    if (sigsetjmp(fault_return, 1) == 0) {
        char c = *byte;
        if (write) *byte = c;
        fault = false;
    }
    assert_int_equal(sigaction(SIGSEGV, &old_segv, NULL), 0);
    assert_int_equal(sigaction(SIGBUS, &old_bus, NULL), 0);
    return fault;
}

static void test_copies_and_scalars(void **state)
{
    static const create_fn kinds[] = {lh_device_create_cpu, lh_device_create_poison};
    (void)state;
    for (int i = 0; i < 2; i++) {
        lh_device *d = NULL;
        void *p = NULL;
        const lh_real real = (lh_real)2.5;
        const double f64 = -3.25;
        const int64_t i64 = -7;
        const int32_t i32 = 9;
        const uint16_t bf16 = 0xC040; /* -3 */
        const uint8_t u8 = 200;
        char back[64] = {0};
        lh_assert_ok(kinds[i]("auto", 1, &d));
        lh_assert_ok(lh_device_alloc(d, 64, &p));
        assert_int_equal((uintptr_t)p % 64, 0);
        lh_copy_in(d, p, "hello", 6);
        lh_copy_out(d, back, p, 6);
        assert_string_equal(back, "hello");
        lh_copy_in(d, p, &real, sizeof real);
        assert_true(lh_read_scalar(d, p, LH_REAL) == 2.5);
        lh_copy_in(d, p, &f64, sizeof f64);
        assert_true(lh_read_scalar(d, p, LH_F64) == f64);
        lh_copy_in(d, p, &i64, sizeof i64);
        assert_true(lh_read_scalar(d, p, LH_INT64) == -7.0);
        lh_copy_in(d, p, &i32, sizeof i32);
        assert_true(lh_read_scalar(d, p, LH_INT32) == 9.0);
        lh_copy_in(d, p, &bf16, sizeof bf16);
        assert_true(lh_read_scalar(d, p, LH_BF16) == -3.0);
        lh_copy_in(d, p, &u8, sizeof u8);
        assert_true(lh_read_scalar(d, p, LH_UINT8) == 200.0);
        lh_device_release(d, &p);
        assert_null(p);
        lh_device_release(d, &p);
        lh_assert_ok(lh_device_alloc(d, 0, &p));
        assert_non_null(p);
        lh_device_release(d, &p);
        lh_device_destroy(&d);
        assert_null(d);
        lh_device_destroy(&d);
    }
}

static void test_isa(void **state)
{
    lh_device *d = NULL;
    (void)state;
    lh_assert_error(lh_device_create_cpu("sse9", 1, &d), LH_ERR_UNSUP, "'sse9' is unknown");
    assert_null(d);
    lh_assert_error(lh_device_create_cpu("auto", 0, &d), LH_ERR_BUG, "0 threads");
    lh_assert_ok(lh_device_create_cpu("portable", 1, &d));
    assert_string_equal(d->kernels->isa, "portable");
    lh_device_destroy(&d);
#ifdef LH_PRECISION_DOUBLE
    lh_assert_error(lh_device_create_cpu("avx2", 1, &d), LH_ERR_UNSUP, "portable kernels only");
    lh_assert_error(lh_device_create_count("avx512", 1, &d), LH_ERR_UNSUP, "portable kernels only");
    lh_assert_error(lh_device_create_cpu("avx512_bf16", 1, &d), LH_ERR_UNSUP, "portable kernels");
    lh_assert_ok(lh_device_create_cpu("auto", 1, &d));
    assert_ptr_equal(d->kernels, lh_kernels_f64());
#else
    const lh_kernels *wide = lh_kernels_f32_avx512(), *narrow = lh_kernels_f32_avx2();
    const lh_kernels *best = wide != NULL ? wide : narrow != NULL ? narrow : lh_kernels_f32();
    const lh_kernels *rounding = lh_kernels_f32_avx512_bf16();
    if (wide == NULL) lh_assert_error(lh_device_create_cpu("avx512", 1, &d), LH_ERR_UNSUP, "lacks");
    if (rounding == NULL) {
        lh_assert_error(lh_device_create_cpu("avx512_bf16", 1, &d), LH_ERR_UNSUP,
                        "expected one of auto");
    } else {
        lh_assert_ok(lh_device_create_cpu("avx512_bf16", 1, &d));
        assert_ptr_equal(d->kernels, rounding);
        assert_true(wide != NULL && rounding->attend != wide->attend &&
                    rounding->gemm == wide->gemm && rounding->norm == wide->norm);
        lh_device_destroy(&d);
    }
    if (narrow != NULL) {
        lh_assert_ok(lh_device_create_cpu("avx2", 1, &d));
        assert_ptr_equal(d->kernels, narrow);
        lh_device_destroy(&d);
    }
    lh_assert_ok(lh_device_create_cpu("auto", 1, &d));
    assert_ptr_equal(d->kernels, best);
#endif
    lh_device_destroy(&d);
    lh_error_clear();
}

static void test_poison_is_closed_outside_calls(void **state)
{
    enum { N = 5000 };
    lh_device *d = NULL;
    void *p = NULL, *q = NULL;
    const lh_real one = 1;
    (void)state;
    lh_assert_ok(lh_device_create_poison("auto", 1, &d));
    lh_assert_ok(lh_device_alloc(d, N * sizeof(lh_real), &p));
    lh_assert_ok(lh_device_alloc(d, 64, &q));
    assert_true(isnan(lh_read_scalar(d, p, LH_REAL)));
    assert_true(isnan(lh_read_scalar(d, (lh_real *)p + N - 1, LH_REAL)));
    assert_true(faults(p, false));
    assert_true(faults((char *)q + 63, false));
    lh_run_fill(d, &(lh_fill_args){N, 1.5, p});
    lh_copy_in(d, q, &one, sizeof one);
    assert_true(faults(p, true));
    assert_true(faults(q, true));
    assert_true(lh_read_scalar(d, (lh_real *)p + N - 1, LH_REAL) == 1.5);
    assert_true(lh_read_scalar(d, q, LH_REAL) == 1.0);
    lh_device_fresh(d, p, N * sizeof(lh_real));
    assert_true(isnan(lh_read_scalar(d, (lh_real *)p + N - 1, LH_REAL)));
    assert_true(faults(p, false));
    lh_device_release(d, &q);
    lh_device_release(d, &p);
    lh_device_destroy(&d);
}

/* While a call has the memory open, its end is still guarded. */
static void test_poison_guards_the_end(void **state)
{
    lh_device *d = NULL;
    void *p = NULL;
    (void)state;
    lh_assert_ok(lh_device_create_poison("auto", 1, &d));
    lh_assert_ok(lh_device_alloc(d, 128, &p));
    d->ops->open(d);
    d->ops->open(d);
    d->ops->close(d);
    assert_false(faults(p, true));
    assert_false(faults((char *)p + 127, true));
    assert_true(faults((char *)p + 128, false));
    d->ops->close(d);
    assert_true(faults(p, false));
    lh_device_release(d, &p);
    lh_device_destroy(&d);
}

/* BLIS must not read past its operands either: exact sizes against the guard page. */
static void test_poison_products(void **state)
{
    lh_device *d = NULL;
    (void)state;
    lh_assert_ok(lh_device_create_poison("auto", 1, &d));
    for (int64_t n = 1; n <= 40; n += 3) {
        const int64_t m = 41 - n, k = (n * 7) % 23 + 1;
        void *a = NULL, *b = NULL, *c = NULL;
        lh_assert_ok(lh_device_alloc(d, (size_t)(m * k) * sizeof(lh_real), &a));
        lh_assert_ok(lh_device_alloc(d, (size_t)(k * n) * sizeof(lh_real), &b));
        lh_assert_ok(lh_device_alloc(d, (size_t)(m * n) * sizeof(lh_real), &c));
        lh_run_fill(d, &(lh_fill_args){m * k, 0.5, a});
        lh_run_fill(d, &(lh_fill_args){k * n, 2.0, b});
        lh_run_gemm(d, &(lh_gemm_args){m, n, k, 1.0, a, k, 1, b, n, 1, c, n, 1, false});
        assert_true(lh_read_scalar(d, (lh_real *)c + m * n - 1, LH_REAL) == (double)k);
        lh_run_gemm(d, &(lh_gemm_args){m, n, k, 1.0, a, 1, m, b, 1, k, c, n, 1, true});
        assert_true(lh_read_scalar(d, c, LH_REAL) == 2.0 * (double)k);
        lh_device_release(d, &a);
        lh_device_release(d, &b);
        lh_device_release(d, &c);
    }
    lh_device_destroy(&d);
}

static void test_count_adds_flops_and_touches_nothing(void **state)
{
    lh_device *d = NULL;
    void *p = NULL, *q = NULL;
    char host[16] = "0123456789abcde";
    (void)state;
    lh_assert_ok(lh_device_create_count("auto", 1, &d));
    assert_true(d->counting);
    lh_assert_ok(lh_device_alloc(d, (size_t)1 << 50, &p));
    lh_assert_ok(lh_device_alloc(d, 0, &q));
    assert_non_null(p);
    assert_true((uintptr_t)q >= (uintptr_t)p + ((uintptr_t)1 << 50));
    assert_int_equal((uintptr_t)q % 64, 0);
    const lh_gemm_args g = {300, 50, 7, 1.0, p, 7, 1, p, 50, 1, q, 50, 1, false};
    lh_run_gemm(d, &g);
    assert_true(d->flops == 2.0 * 300 * 50 * 7);
    assert_true(d->flops == lh_gemm_flops(&g));
    lh_run_fill(d, &(lh_fill_args){1000, 1.0, p});
    lh_copy_in(d, p, host, sizeof host);
    lh_device_fresh(d, p, 1000);
    assert_true(d->flops == lh_gemm_flops(&g));
    lh_copy_out(d, host, p, 4);
    assert_memory_equal(host,
                        "\0\0\0\0"
                        "4567",
                        8);
    assert_true(lh_read_scalar(d, p, LH_REAL) == 0.0);
    assert_true(lh_attend_scratch(d, &(lh_attend_room){.width = 64, .k_rows = 512}) > 0);
    lh_device_release(d, &p);
    lh_device_release(d, &q);
    lh_device_destroy(&d);
}

/* Visible scores of a tile one by one. */
static int64_t visible(const lh_tile *t, const uint64_t *bits)
{
    int64_t n = 0;
    for (int64_t i = 0; i < t->nq; i++) {
        for (int64_t j = 0; j < t->nk; j++) {
            const int64_t at = t->bits + i * t->nk + j;
            if (j - i < t->lo || j - i > t->hi) continue;
            n += t->bits < 0 || (bits[at / 64] >> (at % 64) & 1) != 0;
        }
    }
    return n;
}

static void test_attention_flops(void **state)
{
    enum { FAR = LH_TILE_FAR, WORDS = 200 };
    static const lh_tile tiles[] = {
        {.nq = 96, .nk = 130, .lo = -FAR, .hi = FAR, .bits = -1},
        {.nq = 96, .nk = 130, .lo = -FAR, .hi = 0, .bits = -1},
        {.nq = 40, .nk = 33, .lo = -5, .hi = 3, .bits = -1},
        {.nq = 40, .nk = 33, .lo = 100, .hi = 200, .bits = -1},
        {.nq = 1, .nk = 1, .lo = 0, .hi = 0, .bits = -1},
        {.nq = 7, .nk = 131, .lo = -FAR, .hi = FAR, .bits = 3},
        {.nq = 64, .nk = 64, .lo = -9, .hi = 30, .bits = 1024},
    };
    enum { TILES = sizeof tiles / sizeof tiles[0] };
    uint64_t bits[WORDS];
    int64_t total = 0;
    lh_device *d = NULL;
    (void)state;
    for (uint64_t i = 0; i < WORDS; i++) bits[i] = (i + 1) * UINT64_C(0x9E3779B97F4A7C15);
    lh_attend_args a = {.batch = 3, .heads = 8, .n_heads = 5, .width = 16};
    lh_attend_grad_args g = {.batch = 3, .heads = 8, .n_heads = 5, .width = 16};
    a.bits = g.bits = bits;
    a.n_tiles = g.n_tiles = 1;
    for (int i = 0; i < TILES; i++) {
        a.tiles = g.tiles = &tiles[i];
        const double n = (double)visible(&tiles[i], bits);
        assert_true(lh_attend_flops(&a) == 4.0 * 16 * 3 * 5 * n);
        assert_true(lh_attend_grad_flops(&g) == 10.0 * 16 * 3 * 5 * n);
        a.qr = g.qr = bits; /* any address: with a relative term */
        assert_true(lh_attend_flops(&a) == 6.0 * 16 * 3 * 5 * n);
        assert_true(lh_attend_grad_flops(&g) == 16.0 * 16 * 3 * 5 * n);
        a.qr = g.qr = NULL;
        total += (int64_t)n;
    }
    a.tiles = g.tiles = tiles;
    a.n_tiles = g.n_tiles = TILES;
    lh_assert_ok(lh_device_create_count("auto", 1, &d));
    lh_run_attend(d, &a);
    assert_true(d->flops == 4.0 * 16 * 3 * 5 * (double)total);
    lh_run_attend_grad(d, &g);
    assert_true(d->flops == 14.0 * 16 * 3 * 5 * (double)total);
    lh_device_destroy(&d);
}

static void test_allocations_can_fail(void **state)
{
    static const create_fn kinds[] = {lh_device_create_cpu, lh_device_create_poison,
                                      lh_device_create_count};
    void *p = NULL;
    (void)state;
    for (int i = 0; i < 3; i++) {
        lh_device *d = NULL;
        const int64_t before = lh_new_count();
        lh_assert_ok(kinds[i]("auto", 1, &d));
        const int64_t made = lh_new_count() - before;
        assert_true(made >= 1);
        lh_new_fail_at(1);
        lh_assert_error(lh_device_alloc(d, 640, &p), LH_ERR_MEMORY, "640 bytes");
        assert_null(p);
        lh_assert_ok(lh_device_alloc(d, 640, &p));
        lh_device_release(d, &p);
        lh_device_destroy(&d);
        for (int64_t n = 1; n <= made; n++) {
            lh_new_fail_at(n);
            lh_assert_code(kinds[i]("auto", 1, &d), LH_ERR_MEMORY);
            assert_null(d);
        }
        lh_new_fail_at(0);
    }
    lh_new_fail_at(1);
    lh_assert_error(lh_host_alloc(77, &p), LH_ERR_MEMORY, "77 bytes");
    assert_null(p);
    lh_error_clear();
}

static void test_real_exhaustion_says_what_to_do(void **state)
{
    static const create_fn kinds[] = {lh_device_create_cpu, lh_device_create_poison};
    void *p = NULL;
    (void)state;
    for (int i = 0; i < 2; i++) {
        lh_device *d = NULL;
        lh_assert_ok(kinds[i]("auto", 1, &d));
        lh_assert_error(lh_device_alloc(d, SIZE_MAX, &p), LH_ERR_MEMORY, "more ranks");
        assert_null(p);
#ifndef __SANITIZE_ADDRESS__ /* which stops the program instead */
        lh_assert_error(lh_device_alloc(d, (size_t)1 << 58, &p), LH_ERR_MEMORY, "more ranks");
        assert_null(p);
#endif
        lh_device_destroy(&d);
    }
    lh_error_clear();
}

static void test_host_memory(void **state)
{
    static const size_t sizes[] = {0, 1, 100, (size_t)5 << 20};
    (void)state;
    for (int i = 0; i < 4; i++) {
        void *p = NULL;
        const int64_t before = lh_new_count();
        lh_assert_ok(lh_host_alloc(sizes[i], &p));
        assert_int_equal(lh_new_count() - before, 1);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        memset(p, 1, sizes[i]);
        lh_host_release(&p);
        assert_null(p);
        lh_host_release(&p);
    }
}

static void test_shapes(void **state)
{
    const lh_shape a = lh_shape_3(LH_REAL, 2, 16, 64), none = {LH_F64, 0, {0}};
    lh_shape b = a;
    char text[64], tiny[8];
    (void)state;
    assert_int_equal(lh_shape_count(&a), 2048);
    assert_int_equal(lh_shape_bytes(&a), 2048 * sizeof(lh_real));
    assert_string_equal(lh_shape_text(&a, text, sizeof text), "real[2, 16, 64]");
    assert_string_equal(lh_shape_text(&a, tiny, sizeof tiny), "real[2,");
    assert_int_equal(lh_shape_count(&none), 1);
    assert_string_equal(lh_shape_text(&none, text, sizeof text), "f64[]");
    assert_true(lh_shape_equal(&a, &b));
    b.dim[1] = 15;
    assert_false(lh_shape_equal(&a, &b));
    b = a;
    b.dtype = LH_BF16;
    assert_false(lh_shape_equal(&a, &b));
    assert_int_equal(lh_shape_bytes(&b), 4096);
    static const size_t bytes[] = {sizeof(lh_real), 2, 4, 8, 1, 8};
    for (int t = LH_REAL; t <= LH_F64; t++) assert_int_equal(lh_dtype_bytes((lh_dtype)t), bytes[t]);
    assert_string_equal(lh_dtype_name(LH_INT32), "int32");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copies_and_scalars),
        cmocka_unit_test(test_isa),
        cmocka_unit_test(test_poison_is_closed_outside_calls),
        cmocka_unit_test(test_poison_guards_the_end),
        cmocka_unit_test(test_poison_products),
        cmocka_unit_test(test_count_adds_flops_and_touches_nothing),
        cmocka_unit_test(test_attention_flops),
        cmocka_unit_test(test_allocations_can_fail),
        cmocka_unit_test(test_real_exhaustion_says_what_to_do),
        cmocka_unit_test(test_host_memory),
        cmocka_unit_test(test_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
