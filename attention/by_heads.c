#include "attention/by_heads.h"
#include "core/integer.h"

/* --- what runs --- */

/* A rank's share of an attention over all heads. */
typedef struct heads_make {
    const lh_attn_desc *desc;
    lh_spread_desc spread;
    lh_head_range mine;
    lh_attend_desc all, own;
} heads_make;

const lh_layout *lh_attend_rows(const lh_attn_desc *d, int sequence_rank, int *rank)
{
    *rank = d->spread != NULL ? sequence_rank / d->spread->ways : sequence_rank;
    return d->spread != NULL ? d->spread->to : d->layout;
}

const int32_t *lh_attend_documents(const lh_attn_desc *d, const lh_qkv *in)
{
    return d->spread != NULL ? in->spread_documents : in->documents;
}

/* q, k, v and the second query to their heads. */
static lh_status heads_move(heads_make *m, lh_tape *t)
{
    lh_status st = LH_OK;
    const lh_segment *s = &m->all.segment[0];
    const bool kv[LH_SPREAD_VALUES] = {false, true, true, false};
    const lh_var x[LH_SPREAD_VALUES] = {m->all.q, s->k, s->v, m->all.relative_q};
    lh_var y[LH_SPREAD_VALUES] = {{0}};
    int n = m->all.relative_q.id > 0 ? 4 : 3;
    LH_TRY(lh_to_heads(t, &m->spread, n, x, kv, y));
    m->own.q = y[0];
    m->own.segment[0].k = y[1];
    m->own.segment[0].v = y[2];
    m->own.relative_q = y[3];
done:
    return st;
}

/* Rows of the relative weight [H D, E]. */
static lh_status heads_weight(heads_make *m, lh_tape *t)
{
    int64_t width = m->desc->head_width;
    lh_part_desc part = {0, m->mine.head * width, m->mine.n_heads * width, NULL};
    if (m->all.relative_weight.id == 0) return LH_OK;
    return lh_own_part(t, &part, m->all.relative_weight, &m->own.relative_weight);
}

/* Segment i, if some of its heads are here. k, v: moved already. */
static lh_status heads_segment(heads_make *m, lh_tape *t, int i, lh_var k, lh_var v)
{
    lh_status st = LH_OK;
    lh_segment s = m->all.segment[i];
    int64_t count = s.n_heads > 0 ? s.n_heads : m->desc->heads;
    int64_t begin = lhi_max(s.head, m->mine.head);
    int64_t end = lhi_min(s.head + count, m->mine.head + m->mine.n_heads);
    bool none = m->mine.n_heads == 0; /* of any segment: then all take part, with nothing in them */
    if (begin >= end && !none) return LH_OK;
    s.head = none ? 0 : begin - m->mine.head;
    s.n_heads = none ? 0 : end - begin;
    if (s.layout->everywhere) {
        lh_part_desc part = {2, m->mine.kv_first, m->mine.kv_heads, s.layout};
        LH_TRY(lh_own_part(t, &part, s.k, &s.k));
        LH_TRY(lh_own_part(t, &part, s.v, &s.v));
    } else {
        LH_CHECK(s.layout == m->desc->layout && s.k.id == m->all.segment[0].k.id &&
                     s.v.id == m->all.segment[0].v.id,
                 LH_ERR_BUG, "segment %d has keys of its own, which are not moved to their heads",
                 i);
        s.layout = m->desc->spread->to;
        s.k = k;
        s.v = v;
    }
    m->own.segment[m->own.n_segments++] = s;
done:
    return st;
}

/* m->own for the heads of this rank. */
static lh_status heads_own(heads_make *m, lh_tape *t)
{
    lh_status st = LH_OK;
    int64_t group = m->desc->heads / m->desc->kv_heads;
    const lh_var k = m->own.segment[0].k;
    const lh_var v = m->own.segment[0].v;
    m->own.layout = m->desc->spread->to;
    m->own.first_head = m->mine.head;
    m->own.kv_heads = m->mine.kv_heads;
    m->own.group = group;
    m->own.skew = m->mine.n_heads > 0 ? m->mine.head - m->mine.kv_first * group : 0;
    m->own.n_segments = 0;
    LH_TRY(heads_weight(m, t));
    for (int i = 0; i < m->all.n_segments; i++) LH_TRY(heads_segment(m, t, i, k, v));
done:
    return st;
}

lh_status lh_attend_over(lh_tape *t, const lh_attn_desc *d, const lh_qkv *in,
                         const lh_attend_desc *a, lh_var *out)
{
    lh_status st = LH_OK;
    heads_make m = {.desc = d, .all = *a, .own = *a};
    if (d->spread == NULL) return lh_attend(t, a, out, NULL);
    m.spread = (lh_spread_desc){in->mesh, d->spread, d->heads, d->kv_heads};
    m.mine = lh_spread_heads(d->heads, d->kv_heads, d->spread->ways,
                             lh_tape_coord(t, LH_AXIS_SEQ) % d->spread->ways);
    m.own.sequence = in->mesh->ring;
    LH_TRY(heads_move(&m, t));
    /* a rank without heads records the same, so that all take part in the gradients' messages */
    LH_TRY(heads_own(&m, t));
    LH_TRY(lh_attend(t, &m.own, out, NULL));
    LH_TRY(lh_to_positions(t, &m.spread, *out, out));
done:
    return st;
}

/* --- what it costs, by formula --- */

lh_status lh_heads_cost(const lh_attn_desc *d, lh_band band, int64_t head, int64_t n_heads,
                        int ranks, int rank, lh_cost *c)
{
    int64_t group = d->heads / d->kv_heads;
    int64_t end = head + n_heads;
    lh_attn_desc own = *d;
    if (d->spread != NULL) {
        int ways = d->spread->ways;
        const lh_head_range mine = lh_spread_heads(d->heads, d->kv_heads, ways, rank % ways);
        own.layout = d->spread->to;
        head = lhi_max(head, mine.head);
        end = lhi_min(end, mine.head + mine.n_heads);
        ranks /= ways;
        rank /= ways;
    }
    if (head >= end) return LH_OK;
    band.heads = (double)(end - head);
    band.kv_heads = (end - 1) / group + 1 - head / group;
    return lh_comb_cost(&own, &band, ranks, rank, c);
}

void lh_spread_cost(const lh_attn_desc *d, int rank, lh_cost *c)
{
    if (d->spread == NULL) return;
    int ways = d->spread->ways;
    const lh_head_range mine = lh_spread_heads(d->heads, d->kv_heads, ways, rank % ways);
    int64_t own = d->layout->rows[rank];
    int64_t others = -own;
    int64_t copies = 0; /* of key/value heads in the group */
    int64_t queries = d->relative ? 2 : 1;
    for (int u = 0; u < ways; u++) {
        copies += lh_spread_heads(d->heads, d->kv_heads, ways, u).kv_heads;
        others += d->layout->rows[rank - rank % ways + u];
    }
    int64_t leave = d->heads - mine.n_heads; /* query heads of own rows that others have */
    int64_t in = queries * leave + 2 * (copies - mine.kv_heads);
    int64_t out = queries * mine.n_heads + 2 * mine.kv_heads;
    int64_t element = d->batch * d->head_width * (int64_t)lh_dtype_bytes(d->wire);
    c->heads_bytes += element * own * in;
    c->forward_bytes += element * (own * in + others * mine.n_heads);
    c->backward_bytes += element * (own * leave + others * out);
}
