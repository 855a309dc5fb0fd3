/* The registry: registry.def is included twice, to declare and to tabulate. No constructors: safe
 * in static libraries. A test may add mechanisms of its own by compiling this file with
 * LH_ATTN_EXTRA_DEF naming another list. */
#include <string.h>

#include "attention/attention.h"

#define LH_ATTN(name) extern const lh_attn_ops lh_attn_##name;
#include "attention/registry.def"
#ifdef LH_ATTN_EXTRA_DEF
#include LH_ATTN_EXTRA_DEF
#endif
#undef LH_ATTN

static const lh_attn_ops *const registry[] = {
#define LH_ATTN(name) &lh_attn_##name,
#include "attention/registry.def"
#ifdef LH_ATTN_EXTRA_DEF
#include LH_ATTN_EXTRA_DEF
#endif
#undef LH_ATTN
};

int lh_attn_count(void)
{
    return (int)(sizeof registry / sizeof registry[0]);
}

const lh_attn_ops *lh_attn_at(int i)
{
    return registry[i];
}

const lh_attn_ops *lh_attn_find(const char *name)
{
    for (int i = 0; i < lh_attn_count(); i++)
        if (strcmp(registry[i]->name, name) == 0) return registry[i];
    return NULL;
}

lh_status lh_attn_check(const lh_attn_ops *ops, const lh_attn_desc *d)
{
    lh_status st = LH_OK;
    LH_CHECK(ops->name != NULL && ops->settings != NULL && ops->create != NULL &&
                 ops->parameters != NULL && ops->forward != NULL && ops->predict != NULL &&
                 ops->destroy != NULL,
             LH_ERR_BUG, "attention mechanism '%s' lacks a required entry",
             ops->name != NULL ? ops->name : "?");
    LH_CHECK(d->spread == NULL || (ops->caps & LH_ATTN_SPREAD), LH_ERR_BUG,
             "mechanism '%s' keeps its own exchange and must not be given one by heads", ops->name);
    const char *why = ops->refuses != NULL ? ops->refuses : "";
    const char *colon = why[0] != '\0' ? ": " : "";
    LH_CHECK(!d->causal || (ops->caps & LH_ATTN_CAUSAL), LH_ERR_UNSUP,
             "mechanism '%s' has no causal form%s%s; use it in an encoder", ops->name, colon, why);
    LH_CHECK(d->causal || (ops->caps & LH_ATTN_BIDIRECTIONAL), LH_ERR_UNSUP,
             "mechanism '%s' has no bidirectional form%s%s; use it in a decoder", ops->name, colon,
             why);
    LH_CHECK(d->kv_heads == d->heads || (ops->caps & LH_ATTN_GQA), LH_ERR_UNSUP,
             "mechanism '%s' wants as many key/value heads as query heads: leave out kv_heads",
             ops->name);
    LH_CHECK(!d->relative || (ops->caps & LH_ATTN_RELATIVE), LH_ERR_UNSUP,
             "mechanism '%s' has no scores that relative positions could be added to%s%s",
             ops->name, colon, why);
    LH_CHECK(!d->documents || (ops->caps & LH_ATTN_DOCUMENTS), LH_ERR_UNSUP,
             "mechanism '%s' cannot stop at the borders of packed documents%s%s", ops->name, colon,
             why);
    LH_CHECK(d->layout == NULL || strcmp(d->layout->name, "contiguous") == 0 ||
                 (ops->caps & LH_ATTN_LAYOUTS),
             LH_ERR_UNSUP, "mechanism '%s' wants the layout contiguous, not %s%s%s", ops->name,
             d->layout->name, colon, why);
done:
    return st;
}
