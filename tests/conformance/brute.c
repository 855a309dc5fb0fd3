/* Bytes counted one by one: whose query sees which row, head by head and rank by rank. Nothing of the
 * planner, the formulas or the code that sends is used, but layouts. */
#include <string.h>

#include "tests/conformance/probe.h"

/* The member of a group of `ways` that has query head h of H: the first one whose share ends behind it. */
static int holder(const lh_attn_desc *d, int ways, int64_t h)
{
    int u = 0;
    while ((u + 1) * d->heads / ways <= h) u++;
    return u;
}

/* Rows of rank `from` that some query of rank `to` sees. */
static int64_t rows_seen(const probe *p, const lh_layout *l, int64_t head, int from, int to)
{
    int64_t rows = 0;
    for (int64_t j = 0; j < l->rows[from]; j++) {
        int64_t key = lh_layout_position(l, from, j);
        bool seen = false;
        for (int64_t i = 0; i < l->rows[to] && !seen; i++)
            seen = p->variant->sees(p->desc.causal, head, lh_layout_position(l, to, i), key);
        rows += seen;
    }
    return rows;
}

/* Rows of one key/value head that a rank sends (out) or gets. */
static int64_t rows_travel(const probe *p, const lh_layout *l, int64_t head, int rank, bool out)
{
    int64_t rows = 0;
    for (int r = 0; r < l->ranks; r++)
        if (r != rank) rows += rows_seen(p, l, head, out ? rank : r, out ? r : rank);
    return rows;
}

/* Keys and values of one key/value head, between ranks that lie by l. */
static void brute_rows(const probe *p, const lh_layout *l, int64_t head, int rank, brute_bytes *b)
{
    int64_t row = 2 * p->desc.batch * p->desc.head_width * (int64_t)lh_dtype_bytes(p->store);
    int64_t sent = rows_travel(p, l, head, rank, true) * row;
    bool keep = strcmp(p->ops->name, "full") != 0;
    for (int r = 0; keep && r < l->ranks; r++)
        keep = rows_travel(p, l, head, r, false) <= l->max_rows;
    b->forward += sent;
    b->backward += rows_travel(p, l, head, rank, false) * row;
    b->most += sent;
    b->least += keep ? 0 : sent;
}

/* Does query head h of this rank's group use key/value head g, and who has it? */
static bool uses(const lh_attn_desc *d, int ways, int64_t g, int member)
{
    for (int64_t h = 0; h < d->heads; h++)
        if (h / (d->heads / d->kv_heads) == g && holder(d, ways, h) == member) return true;
    return false;
}

/* Values of one head that a rank sends when own rows go to `there` and the peers' rows come back. */
static void brute_swap(const probe *p, brute_bytes *b)
{
    const lh_attn_desc *d = &p->desc;
    int ways = p->spread->ways;
    int rank = p->mesh->coord[LH_AXIS_SEQ];
    int me = rank % ways;
    int64_t value = d->batch * d->head_width * (int64_t)lh_dtype_bytes(p->store);
    for (int u = 0; u < ways; u++) {
        int64_t own = p->layout->rows[rank];
        int64_t theirs = p->layout->rows[rank - me + u];
        if (u == me) continue;
        for (int64_t h = 0; h < d->heads; h++) { /* q, perhaps twice, there; o here */
            int64_t queries = p->variant->relative ? 2 : 1;
            b->forward += value * (own * (holder(d, ways, h) == u) * queries +
                                   theirs * (holder(d, ways, h) == me));
            b->backward += value * (own * (holder(d, ways, h) == u) +
                                    theirs * (holder(d, ways, h) == me) * queries);
        }
        for (int64_t g = 0; g < d->kv_heads; g++) { /* k and v, and their gradients */
            b->forward += 2 * value * own * uses(d, ways, g, u);
            b->backward += 2 * value * theirs * uses(d, ways, g, me);
        }
    }
}

brute_bytes brute_force(const probe *p)
{
    const lh_attn_desc *d = &p->desc;
    brute_bytes b = {0};
    int rank = p->mesh->coord[LH_AXIS_SEQ];
    int ways = p->spread != NULL ? p->spread->ways : 1;
    for (int64_t g = 0; g < d->kv_heads; g++)
        if (p->spread == NULL)
            brute_rows(p, p->layout, g * (d->heads / d->kv_heads), rank, &b);
        else if (uses(d, ways, g, rank % ways))
            brute_rows(p, p->spread->to, g * (d->heads / d->kv_heads), rank / ways, &b);
    if (p->spread != NULL) brute_swap(p, &b);
    return b;
}
