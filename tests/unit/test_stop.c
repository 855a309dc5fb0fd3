/* When a run stops, and what a rank says that does not move: durations, the time limit, the text of a stall. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/pulse.h"
#include "experiments/stop.h"
#include "experiments/units.h"
#include "experiments/watchdog.h"
#include "parallel/comm.h"
#include "tests/lh_test.h"

static void durations(void **state)
{
    (void)state;
    const struct {
        const char *text;
        double seconds; /* 0: refused */
    } cases[] = {
        {"90", 90},
        {"90s", 90},
        {"45m", 2700},
        {"1.5h", 5400},
        {"2d", 172800},
        {"0.5", 0.5},
        {"01:30", 90},
        {"11:30:00", 41400},
        {"1-00:00:01", 86401},
        {"90:00", 5400},
        {"100:00:00", 360000},
        {"", 0},
        {"none", 0},
        {"0", 0},
        {"-5", 0},
        {"+5", 0},
        {"5 m", 0},
        {"m", 0},
        {"1:60", 0},
        {"1:2:3:4", 0},
        {"1:", 0},
        {":30", 0},
        {"1.5:00", 0},
        {"1..5", 0},
        {"0x10", 0},
        {"1e3", 0},
        {"inf", 0},
        {"1-5", 0},
        {"1.5-01:00", 0},
        {"5mm", 0},
        {"1-00:00:00h", 0},
        {"00:00:00", 0},
        {".", 0},
        {"99999999999999999999", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double seconds = -1.0;
        bool right = lh_units_duration(cases[i].text, &seconds);
        if (right != (cases[i].seconds > 0.0) || (right && seconds != cases[i].seconds))
            print_error("'%s': %d, %g s\n", cases[i].text, right, seconds);
        assert_true(right == (cases[i].seconds > 0.0));
        assert_true(!right || seconds == cases[i].seconds);
    }
}

static void time_limit(void **state)
{
    (void)state;
    volatile sig_atomic_t asked = 0;
    double now = lh_wall();
    lh_stop s = {
        .asked = &asked, .timed = true, .lead = true, .step_s = 10.0, .checkpoint_s = 20.0};
    /* two steps and a checkpoint, with a quarter more and a second: 51 s */
    s.deadline = now + 60.0;
    assert_true(!lh_stop_now(&s, 2.0) && !s.late);
    s.deadline = now + 45.0;
    assert_true(!lh_stop_now(&s, 1.0)); /* of one step: 38.5 s */
    assert_true(lh_stop_now(&s, 2.0) && s.late);
    s.late = s.lead = false; /* rank 0's clock alone counts */
    assert_true(!lh_stop_now(&s, 2.0));
    s.lead = true;
    s.timed = false;
    assert_true(!lh_stop_now(&s, 2.0));
    asked = 1;
    assert_true(lh_stop_now(&s, 0.0) && !s.late);
    lh_stop_longest(&s.step_s, now - 5.0);
    assert_true(s.step_s == 10.0);
    lh_stop_longest(&s.step_s, now - 15.0);
    assert_true(s.step_s >= 15.0);
}

static void stalled(const lh_pulse *p, lh_stall_kind kind, const char *text)
{
    char line[1024];
    assert_int_equal(lh_stall_of(p), kind);
    (void)lh_stall_text(p, 3, "node7", 600, line, sizeof line);
    if (strncmp(line, text, strlen(text)) != 0) print_error("%s", line);
    assert_true(strncmp(line, text, strlen(text)) == 0 && line[strlen(line) - 1] == '\n');
}

static void places(void **state)
{
    (void)state;
    lh_pulse p = {.began = 0.0};
    stalled(
        &p, LH_STALL_ALONE,
        "longhaul: rank 3 on node7 hangs: nothing has moved for 600 s (train.stall_seconds) in: "
        "start. ");
    lh_pulse_step(&p, 12);
    lh_pulse_phase(&p, "forward and backward pass", 0);
    lh_pulse_op(&p, "attend", LH_DIRECTION_RECOMPUTE, 4);
    stalled(
        &p, LH_STALL_ALONE,
        "longhaul: rank 3 on node7 hangs: nothing has moved for 600 s (train.stall_seconds) in: "
        "step 12, forward and backward pass, layer 3, recompute of attend. ");
    lh_pulse_call(&p, "MPI_Waitall(req->count, handles, MPI_STATUSES_IGNORE)");
    stalled(&p, LH_STALL_WAITS,
            "longhaul: rank 3 on node7 waits for other ranks: nothing has moved for 600 s "
            "(train.stall_seconds) in: step 12, forward and backward pass, layer 3, recompute of "
            "attend, "
            "in MPI_Waitall. ");
    lh_pulse_call(&p, NULL);
    lh_pulse_op(&p, "sum", LH_DIRECTION_FORWARD, 0);
    stalled(
        &p, LH_STALL_ALONE,
        "longhaul: rank 3 on node7 hangs: nothing has moved for 600 s (train.stall_seconds) in: "
        "step 12, forward and backward pass, forward of sum. ");
    lh_pulse_op(&p, NULL, LH_DIRECTION_FORWARD, 0);
    lh_pulse_phase(&p, "writing a checkpoint", LH_PULSE_TOGETHER);
    stalled(
        &p, LH_STALL_UNCLEAR,
        "longhaul: rank 3 on node7 hangs in a file, or waits there for other ranks: nothing has "
        "moved for 600 s (train.stall_seconds) in: step 12, writing a checkpoint. ");
    assert_true(atomic_load(&p.beat) == 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(durations),
        cmocka_unit_test(time_limit),
        cmocka_unit_test(places),
    };
    return cmocka_run_group_tests_name("stop", tests, NULL, NULL);
}
