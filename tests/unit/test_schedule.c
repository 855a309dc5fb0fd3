/* The learning rate: warm-up, the four shapes, their ends. */
#include <math.h>
#include <string.h>

#include "experiments/train.h"
#include "tests/lh_test.h"

static lh_config config_of(int kind, int64_t warmup, int64_t steps)
{
    lh_config c;
    memset(&c, 0, sizeof c);
    c.optimizer.lr = 2e-3;
    c.schedule.kind = kind;
    c.schedule.warmup = warmup;
    c.schedule.steps = steps;
    c.schedule.final_lr = 1e-4;
    return c;
}

static void rate_is(const lh_config *c, int64_t t, double want)
{
    double got = lh_learning_rate(c, t);
    if (fabs(got - want) > 1e-15)
        print_error("step %d: %.17g, expected %.17g\n", (int)t, got, want);
    assert_true(fabs(got - want) <= 1e-15);
}

static void warm_up_is_linear(void **state)
{
    (void)state;
    for (int kind = LH_SCHEDULE_CONSTANT; kind <= LH_SCHEDULE_INVERSE_SQRT; kind++) {
        lh_config c = config_of(kind, 100, 600);
        rate_is(&c, 1, 2e-5);
        rate_is(&c, 50, 1e-3);
        rate_is(&c, 100, 2e-3);
    }
}

static void shapes_after_it(void **state)
{
    (void)state;
    lh_config c = config_of(LH_SCHEDULE_CONSTANT, 100, 600);
    rate_is(&c, 350, 2e-3);
    rate_is(&c, 600, 2e-3);
    c.schedule.kind = LH_SCHEDULE_LINEAR;
    rate_is(&c, 350, 0.5 * (2e-3 + 1e-4));
    rate_is(&c, 600, 1e-4);
    c.schedule.kind = LH_SCHEDULE_COSINE;
    rate_is(&c, 350, 0.5 * (2e-3 + 1e-4));
    rate_is(&c, 225, 1e-4 + 0.5 * (2e-3 - 1e-4) * (1.0 + sqrt(0.5)));
    rate_is(&c, 600, 1e-4);
    c.schedule.kind = LH_SCHEDULE_INVERSE_SQRT;
    rate_is(&c, 400, 1e-3);
}

static void corners(void **state)
{
    (void)state;
    lh_config c = config_of(LH_SCHEDULE_COSINE, 0, 1);
    rate_is(&c, 1, 1e-4); /* the only step is the last one */
    c = config_of(LH_SCHEDULE_INVERSE_SQRT, 0, 10);
    rate_is(&c, 1, 2e-3);
    rate_is(&c, 4, 1e-3);
    c = config_of(LH_SCHEDULE_LINEAR, 10, 5); /* a run shorter than its warm-up */
    rate_is(&c, 5, 1e-3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warm_up_is_linear),
        cmocka_unit_test(shapes_after_it),
        cmocka_unit_test(corners),
    };
    return cmocka_run_group_tests_name("schedule", tests, NULL, NULL);
}
