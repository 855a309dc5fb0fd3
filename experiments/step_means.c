#include "experiments/step_means.h"

#include <string.h>

enum { MEANS_FIXED = 4, MEANS_COUNT = MEANS_FIXED + LH_SEND_OTHER };

/* Without waiting, of the parts that are named. */
static double means_seconds(const lh_profile *p, const char *names)
{
    double seconds = 0.0;
    for (int i = 0; i < p->count; i++)
        if (strstr(names, p->item[i].name) != NULL)
            seconds += p->item[i].seconds - p->item[i].waited;
    return seconds;
}

void lh_step_means_of(lh_comm *world, const lh_profile *p, const lh_traffic *before,
                      const lh_traffic *after, lh_step_means *out)
{
    double mean[MEANS_COUNT] = {after->wait_s - before->wait_s, means_seconds(p, "data"),
                                means_seconds(p, "zero_gradients gradient_norm optimizer"),
                                (double)(lh_traffic_step(after) - lh_traffic_step(before))};
    for (int k = 0; k < LH_SEND_OTHER; k++)
        mean[MEANS_FIXED + k] = (double)(after->bytes[k] - before->bytes[k]);
    lh_sum_f64(world, mean, MEANS_COUNT, LH_SEND_OTHER);
    for (int i = 0; i < MEANS_COUNT; i++) mean[i] /= (double)lh_comm_size(world);
    *out = (lh_step_means){mean[0], mean[1], mean[2], mean[3], {0.0}};
    memcpy(out->purpose, mean + MEANS_FIXED, sizeof out->purpose);
}
