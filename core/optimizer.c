#include "core/optimizer.h"

#include <math.h>

double lh_optimizer_grad_scale(const lh_optimizer *o, double grad_norm)
{
    if (o->clip <= 0.0 || !isfinite(grad_norm) || grad_norm <= o->clip) return 1.0;
    return o->clip / grad_norm;
}

static lh_status optimizer_check(const lh_params *p, int64_t t)
{
    lh_status st = LH_OK;
    LH_CHECK(p->trainable, LH_ERR_BUG, "the optimiser got parameters without gradients");
    LH_CHECK(t >= 1, LH_ERR_BUG, "optimiser step %lld, expected at least 1", (long long)t);
    for (int64_t i = 0; i < p->count; i++) {
        const lh_param *q = p->item[i];
        char is[128];
        char want[128];
        LH_CHECK(lh_place_equal(&q->grad_place, &q->place), LH_ERR_BUG,
                 "the gradient of %s is placed %s, expected %s: it was not reduced", q->name,
                 lh_place_text(&q->grad_place, is, sizeof is),
                 lh_place_text(&q->place, want, sizeof want));
    }
done:
    return st;
}

lh_status lh_optimizer_step(const lh_optimizer *o, lh_params *p, int64_t t, double grad_scale)
{
    lh_status st = LH_OK;
    LH_TRY(optimizer_check(p, t));
    for (int64_t i = 0; i < p->count; i++) {
        const lh_param *q = p->item[i];
        if (q->frozen) continue;
        lh_run_adamw(p->device, &(lh_adamw_args){.n = lh_shape_count(&q->shape),
                                                 .lr = o->lr,
                                                 .beta1 = o->beta1,
                                                 .beta2 = o->beta2,
                                                 .eps = o->eps,
                                                 .decay = q->decay ? o->weight_decay : 0.0,
                                                 .c1 = 1.0 - pow(o->beta1, (double)t),
                                                 .c2 = 1.0 - pow(o->beta2, (double)t),
                                                 .grad_scale = grad_scale,
                                                 .x = q->value,
                                                 .m = q->m,
                                                 .v = q->v,
                                                 .grad = q->grad});
    }
done:
    return st;
}
