/* The learning rate of a step. */
#include <math.h>

#include "experiments/train.h"

double lh_learning_rate(const lh_config *config, int64_t t)
{
    const lh_config_schedule *s = &config->schedule;
    double peak = config->optimizer.lr;
    double warmup = (double)s->warmup;
    if (t <= s->warmup) return peak * (double)t / warmup;
    if (s->kind == LH_SCHEDULE_CONSTANT) return peak;
    if (s->kind == LH_SCHEDULE_INVERSE_SQRT)
        return peak * sqrt((warmup > 1.0 ? warmup : 1.0) / (double)t);
    double done = s->steps > s->warmup ? ((double)t - warmup) / ((double)s->steps - warmup) : 1.0;
    if (done > 1.0) done = 1.0;
    if (s->kind == LH_SCHEDULE_LINEAR) return peak + (s->final_lr - peak) * done;
    return s->final_lr + 0.5 * (peak - s->final_lr) * (1.0 + cos(acos(-1.0) * done));
}
