#include "tests/lh_test.h"

#include "core/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 200000 };

/* Known answers of Philox4x32-10 from the Random123 distribution (kat_vectors). */
static void test_known_answers(void **state)
{
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        uint32_t out[4];
        lh_philox(known[i].counter, known[i].key, out);
        assert_memory_equal(out, known[i].out, sizeof out);
    }
}

/* The documented places of seed, stream and index, by the third known answer. */
static void test_block_words(void **state)
{
    static const uint32_t want[4] = {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1};
    const uint64_t seed = UINT64_C(0x299f31d0a4093822), stream = UINT64_C(0x0370734413198a2e);
    const uint64_t index = UINT64_C(0x85a308d3243f6a88);
    uint32_t out[4];
    (void)state;
    lh_random_block(seed, stream, index, out);
    assert_memory_equal(out, want, sizeof out);
    for (uint64_t i = 0; i < 12; i++) {
        lh_random_block(seed, stream, i / 4, out);
        assert_int_equal(lh_random_u32(seed, stream, i), out[i % 4]);
    }
    assert_int_equal(lh_stream_id(LH_STREAM_DROPOUT, 7), UINT64_C(0x200000007));
}

static void test_uniform(void **state)
{
    double mean = 0, square = 0;
    int64_t bin[10] = {0};
    (void)state;
    for (uint64_t i = 0; i < SAMPLES; i++) {
        double u = lh_random_uniform(1, lh_stream_id(LH_STREAM_TEST, 0), i);
        assert_true(u > 0.0 && u < 1.0);
        mean += u / SAMPLES;
        square += u * u / SAMPLES;
        bin[(int)(u * 10.0)]++;
    }
    /* five standard deviations */
    lh_assert_close(mean, 0.5, 0.0, 5.0 * sqrt(1.0 / 12.0 / SAMPLES));
    lh_assert_close(square, 1.0 / 3.0, 0.0, 5.0 * sqrt(4.0 / 45.0 / SAMPLES));
    for (int b = 0; b < 10; b++)
        lh_assert_close((double)bin[b], SAMPLES / 10.0, 0.0, 5.0 * sqrt(0.09 * SAMPLES));
}

static void test_normal(void **state)
{
    double m[5] = {0}, neighbours = 0;
    (void)state;
    for (uint64_t i = 0; i < SAMPLES; i++) {
        double x = lh_random_normal(2, lh_stream_id(LH_STREAM_TEST, 1), i), p = 1.0;
        for (int k = 1; k <= 4; k++) m[k] += (p *= x) / SAMPLES;
        if (i % 2 == 1)
            neighbours += x * lh_random_normal(2, lh_stream_id(LH_STREAM_TEST, 1), i - 1);
    }
    /* variances of x, x^2, x^3, x^4: 1, 2, 15, 96 */
    lh_assert_close(m[1], 0.0, 0.0, 5.0 * sqrt(1.0 / SAMPLES));
    lh_assert_close(m[2], 1.0, 0.0, 5.0 * sqrt(2.0 / SAMPLES));
    lh_assert_close(m[3], 0.0, 0.0, 5.0 * sqrt(15.0 / SAMPLES));
    lh_assert_close(m[4], 3.0, 0.0, 5.0 * sqrt(96.0 / SAMPLES));
    lh_assert_close(2.0 * neighbours / SAMPLES, 0.0, 0.0, 5.0 * sqrt(2.0 / SAMPLES));
}

static void test_streams_and_seeds_differ(void **state)
{
    uint32_t a[4], b[4];
    (void)state;
    lh_random_block(1, 2, 3, a);
    lh_random_block(1, 3, 2, b);
    assert_memory_not_equal(a, b, sizeof a);
    lh_random_block(2, 2, 3, b);
    assert_memory_not_equal(a, b, sizeof a);
}

static void test_permute_is_a_bijection(void **state)
{
    static const int64_t sizes[] = {1, 2, 3, 4, 5, 10, 1000, 65537};
    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        const int64_t n = sizes[s];
        int64_t fixed = 0;
        unsigned char *seen = calloc((size_t)n, 1);
        assert_non_null(seen);
        for (int64_t i = 0; i < n; i++) {
            int64_t j = lh_random_permute(5, lh_stream_id(LH_STREAM_ORDER, 0), n, i);
            assert_true(j >= 0 && j < n);
            assert_false(seen[j]);
            seen[j] = 1;
            fixed += i == j;
        }
        free(seen);
        if (n >= 1000) assert_true(fixed < 12); /* 1 expected: it does mix */
    }
}

static void test_permute_large_and_seeded(void **state)
{
    const int64_t n = INT64_MAX;
    int64_t same = 0;
    (void)state;
    for (int64_t i = 0; i < 100; i++) {
        int64_t a = lh_random_permute(1, 3, n, n - 1 - i),
                b = lh_random_permute(2, 3, n, n - 1 - i);
        assert_true(a >= 0 && a < n && b >= 0 && b < n);
        same += a == b;
    }
    assert_int_equal(same, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_block_words),
        cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_normal),
        cmocka_unit_test(test_streams_and_seeds_differ),
        cmocka_unit_test(test_permute_is_a_bijection),
        cmocka_unit_test(test_permute_large_and_seeded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
