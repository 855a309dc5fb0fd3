/* A mechanism that only this test has: a query sees the hub, position 0, and what came before it on
 * its own piece of the rim, `rim` positions long. No band, one far column, causal only, no shared
 * key heads: what the mechanisms of the library are not. */
#include <stddef.h>

#include "attention/attend.h"

typedef struct wheel_settings {
    int64_t rim;
} wheel_settings;

typedef struct wheel_state {
    lh_attn_desc desc;
    lh_pattern pattern;
} wheel_state;

static const lh_field wheel_fields[] = {
    {.name = "rim",
     .type = LH_FIELD_INT,
     .offset = offsetof(wheel_settings, rim),
     .fallback = "16",
     .min = 1,
     .max = 1e12,
     .help = "positions of a piece of the rim"},
    {.name = NULL},
};

static int64_t wheel_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t wheel_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* --- the pattern: arg[0] = rim --- */

static bool wheel_sees(const lh_pattern *p, int64_t i, int64_t j)
{
    return j <= i && (j == 0 || i / p->arg[0] == j / p->arg[0]);
}

static lh_cover wheel_cover(const lh_pattern *p, lh_range q, lh_range k)
{
    int64_t rim = p->arg[0];
    if (q.begin >= q.end || k.begin >= k.end || k.begin >= q.end) return LH_EMPTY;
    bool apart = (k.end - 1) / rim < q.begin / rim || k.begin / rim > (q.end - 1) / rim;
    if (apart && k.begin > 0) return LH_EMPTY;
    bool together = q.begin / rim == (q.end - 1) / rim && q.begin / rim == k.begin / rim &&
                    k.end - 1 <= q.begin;
    return together ? LH_FULL : LH_MIXED;
}

static lh_status wheel_needs(const lh_pattern *p, lh_range q, int64_t n, lh_runs *out)
{
    lh_status st = LH_OK;
    int64_t begin = q.begin / p->arg[0] * p->arg[0];
    if (q.begin >= q.end) return LH_OK;
    if (begin > 0) LH_TRY(lh_runs_add(out, 0, 1, 1));
    LH_TRY(lh_runs_add(out, begin, wheel_min(n, q.end) - begin, 1));
done:
    return st;
}

static const lh_pattern_ops wheel_pattern = {
    .name = "wheel", .sees = wheel_sees, .cover = wheel_cover, .needs = wheel_needs};

/* --- the mechanism --- */

static lh_status wheel_create(const lh_attn_desc *d, void **state)
{
    wheel_state *s = NULL;
    lh_status st = lh_new(sizeof *s, &s);
    if (st != LH_OK) return st;
    s->desc = *d;
    s->pattern =
        (lh_pattern){.ops = &wheel_pattern, .arg = {((const wheel_settings *)d->settings)->rim}};
    *state = s;
    return LH_OK;
}

static lh_status wheel_parameters(const lh_attn_desc *d, lh_params *p)
{
    (void)d, (void)p;
    return LH_OK;
}

static lh_status wheel_forward(void *state, lh_tape *t, const lh_qkv *in, lh_var *out)
{
    wheel_state *s = state;
    return lh_attend_self(t, &s->desc, in, &s->pattern, out);
}

/* Rows that a shard needs of others: its piece of the rim before it, and the hub if that lies
 * further back. */
static lh_range wheel_before(lh_range shard, int64_t rim)
{
    return (lh_range){shard.begin / rim * rim, shard.begin};
}

static lh_status wheel_predict(const lh_attn_desc *d, int ranks, int rank, lh_cost *c)
{
    const lh_layout *l = d->layout;
    int64_t rim = ((const wheel_settings *)d->settings)->rim;
    int64_t sent = 0;
    int64_t received = 0;
    int64_t most = 0;
    int64_t own_begin = 0;
    double scores = 0.0;
    for (int r = 0; r < rank; r++) own_begin += l->rows[r];
    lh_range own = {own_begin, own_begin + l->rows[rank]};
    lh_range shard = {0, 0};
    for (int r = 0; r < ranks; r++) {
        shard = (lh_range){shard.end, shard.end + l->rows[r]};
        if (l->rows[r] == 0) continue;
        lh_range before = wheel_before(shard, rim);
        int64_t rows = before.end - before.begin + (before.begin > 0);
        most = wheel_max(most, rows);
        if (r == rank)
            received = rows;
        else if (own.begin < shard.begin) {
            sent +=
                wheel_max(0, wheel_min(own.end, before.end) - wheel_max(own.begin, before.begin));
            sent += before.begin > 0 && own.begin == 0 && own.end > 0;
        }
    }
    for (int64_t i = own.begin; i < own.end; i++) scores += (double)(i % rim + 1 + (i >= rim));
    int64_t row = 2 * d->batch * d->kv_heads * d->head_width * (int64_t)lh_dtype_bytes(d->wire);
    bool keep = most <= l->max_rows;
    *c = (lh_cost){.forward_bytes = sent * row,
                   .backward_bytes = (received + (keep ? 0 : sent)) * row,
                   .kept_bytes = keep ? received * row : 0,
                   .forward_flops = 4.0 * scores * (double)(d->batch * d->heads * d->head_width)};
    c->backward_flops = 2.5 * c->forward_flops;
    return LH_OK;
}

static void wheel_destroy(void **state)
{
    lh_free(state);
}

const lh_attn_ops lh_attn_wheel = {
    .name = "wheel",
    .help = "the hub and a piece of the rim (of the conformance test)",
    .settings = wheel_fields,
    .settings_bytes = sizeof(wheel_settings),
    .caps = LH_ATTN_CAUSAL,
    .create = wheel_create,
    .parameters = wheel_parameters,
    .forward = wheel_forward,
    .predict = wheel_predict,
    .destroy = wheel_destroy,
};
