/* The clock. A simulated rank has another one: parallel/smpi.c. */
#include <time.h>

#include "parallel/comm.h"

double lh_wall(void)
{
    struct timespec now = {0, 0};
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
