#pragma once
/* Tests of test_step_plan.c that live in a file of their own: what a step does when its loss or a gradient is not
 * finite. */
void test_finite_steps(void **state);
void test_broken_parameter(void **state);
void test_overflow(void **state);
void test_broken_gradient(void **state);
void test_skip(void **state);
