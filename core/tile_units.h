/* Part of core/tile_body.h: the work of a call, cut into units, and their threads. */

/* ---- The order of additions ---- */

/* How far the units of an item have come. What two of them add to is added in their order, whoever
 * works on them: a unit's turn is over for query block i when its entry is above i. Units are taken
 * in ascending order, so whoever waits waits for a unit that somebody works on. */
typedef struct turn {
#ifdef _OPENMP
    atomic_llong *before, *own; /* NULL: nobody comes before, or after */
#else
    char none;
#endif
} turn;

/* Waits until the unit before is through with block `number`. */
static void turn_wait(const turn *t, int64_t number)
{
#ifdef _OPENMP
    if (t == NULL || t->before == NULL) return;
    while (atomic_load_explicit(t->before, memory_order_acquire) <= number) (void)sched_yield();
#else
    (void)t, (void)number;
#endif
}

static void turn_pass(const turn *t, int64_t number)
{
#ifdef _OPENMP
    if (t != NULL && t->own != NULL)
        atomic_store_explicit(t->own, number + 1, memory_order_release);
#else
    (void)t, (void)number;
#endif
}

/* ---- Work items ---- */

static bool same_queries(const lh_tile *a, const lh_tile *b)
{
    return a->q_row == b->q_row && a->nq == b->nq && a->q_stride == b->q_stride;
}

/* First tile after `begin` that has other queries. */
static int64_t group_end(const job *s, int64_t begin)
{
    int64_t end = begin + 1;
    while (end < s->n_tiles && same_queries(s->tiles + begin, s->tiles + end)) end++;
    return end;
}

/* Long rows of keys are worked through in spans that fit a core's own cache, all query blocks for
 * one span before the next. Returns the rows of a span: whole tiles where they are short, whole key
 * blocks where they are long, and everything where no query block sees much more than a span. */
static int64_t span_rows(const job *s, int64_t b)
{
    const int64_t target = cached_rows(&s->room);
    int64_t longest = 1, most = 0;
    for (int64_t begin = 0, end; begin < s->n_tiles; begin = end) {
        int64_t seen = 0;
        end = group_end(s, begin);
        for (int64_t i = begin; i < end; i++) {
            const lh_tile *t = s->tiles + i;
            int64_t range[2];
            if (t->k_stride < 1) return INT32_MAX;
            key_range(s, t, b, 0, t->nq, range);
            seen += max_of(0, range[1] - range[0]);
            longest = max_of(longest, t->nk);
        }
        most = max_of(most, seen);
    }
    if (most <= 2 * target) return INT32_MAX;
    return longest > target ? target : target / longest * longest;
}

/* Keys of the tile that the query block may see in its rows of the key block. */
static void span_range(const query_block *q, const lh_tile *t, int64_t range[2])
{
    const int64_t step = t->k_stride < 0 ? -t->k_stride : t->k_stride;
    /* rows [from, to) of the tile, in the direction of its keys */
    const int64_t from = t->k_stride < 0 ? t->k_row - q->to + 1 : q->from - t->k_row;
    const int64_t to = t->k_stride < 0 ? t->k_row - q->from + 1 : q->to - t->k_row;
    key_range(q->s, t, q->b, 0, t->nq, range);
    if (step == 0) { /* all keys are one row */
        if (from > 0 || to <= 0) range[1] = range[0];
        return;
    }
    if (from > 0) range[0] = max_of(range[0], (from - 1) / step + 1);
    range[1] = min_of(range[1], to > 0 ? (to - 1) / step + 1 : 0);
}

/* Tiles [begin, end) share their queries: one query block stays in scratch for all of them. */
static void run_queries(query_block *q, int64_t begin, int64_t end)
{
    const lh_tile *t = q->s->tiles + begin;
    bool begun = false;
    q->row = t->q_row;
    q->n = t->nq;
    q->step = t->q_stride;
    q->padded = round_up(q->n, GROUP);
    for (int64_t i = begin; i < end; i++) {
        t = q->s->tiles + i;
        int64_t range[2];
        span_range(q, t, range);
        if (q->limits != NULL && range[0] < range[1]) limit_tile(q, t, range);
        for (int64_t j = range[0]; j < range[1] && q->n > 0; j += TILE_KEYS) {
            key_block kb = {.tile = t, .first = j, .n = min_of(TILE_KEYS, range[1] - j)};
            if (q->limits != NULL && !limit_block(q, &kb)) continue;
            if (q->s->sight.hidden != NULL) hide_keys(q, &kb);
            if (!begun) begin_queries(q);
            begun = true;
            run_block(q, &kb);
        }
    }
    if (begun) {
        turn_wait(q->turn, q->number);
        q->waited = true;
        end_queries(q);
    }
    if (q->w->calls) q->s->between(q->s->user);
}

/* Query heads [first, last) of key head kv. */
static void query_heads(const job *s, int64_t kv, int64_t *first, int64_t *last)
{
    *first = max_of(s->head, kv * s->group - s->skew);
    *last = min_of(s->head + s->n_heads, (kv + 1) * s->group - s->skew);
}

/* ---- Units ----
 * An item is cut into units that depend on its shape alone, so that several threads can share an
 * item and the bits are those of one thread. Where keys are worked through in spans a unit is a span:
 * backward, it has its rows of dK and dV to itself, and adds to a block's dQ after the span before
 * it. Where one span has all keys that a query block sees, a unit is a run of query blocks: it has
 * its rows of dQ to itself, and adds its part of dK and dV after the unit before it.
 * Backward, threads share units; forward, the query blocks of each. */

/* The query blocks behind tile `begin` that make a unit of at least `queries` rows. */
static int64_t queries_end(const job *s, int64_t begin, int64_t queries)
{
    int64_t end = begin, rows = 0;
    while (end < s->n_tiles && rows < queries) {
        rows += s->tiles[end].nq;
        end = group_end(s, end);
    }
    return end;
}

/* Rows of queries of a unit: UNIT_QUERIES, more where UNITS of them would not do. */
static int64_t unit_queries(const job *s)
{
    int64_t rows = 0;
    for (int64_t i = 0; i < s->n_tiles; i = group_end(s, i)) rows += s->tiles[i].nq;
    return max_of(UNIT_QUERIES, rows / UNITS + 1);
}

/* The units of batch row b, into list [UNITS]; their number. */
static int64_t list_units(const job *s, int64_t b, unit list[UNITS])
{
    const unit all = whole_item(s);
    int64_t rows[2], n = 0;
    const int64_t span = span_rows(s, b), queries = unit_queries(s);
    rows_touched(s, b, &all, true, rows);
    if (rows[1] - rows[0] > UNITS * span) {
        list[0] = all; /* then one thread takes the spans in their order, as several would */
        return 1;
    }
    for (int64_t from = rows[0]; span < INT32_MAX && from < rows[1]; from += span)
        list[n++] = (unit){0, s->n_tiles, from, min_of(from + span, rows[1])};
    for (int64_t i = 0, end; span == INT32_MAX && i < s->n_tiles; i = end) {
        end = queries_end(s, i, queries);
        list[n++] = (unit){i, end, 0, INT32_MAX};
    }
    return n;
}

/* The thread's query blocks of a unit against its rows [u->from, u->to), with those packed that must
 * be. t: as run_unit. of_keys: no other unit has these rows. */
static void run_rows(const job *s, work *w, int64_t b, int64_t kv, const unit *u, turn *t,
                     bool of_keys)
{
    query_block q = {.s = s, .w = w, .b = b, .from = u->from, .to = u->to};
    unit own = *u;
    tile_limits limits;
    int64_t rows[2], first, last;
    if (of_keys) q.turn = t;
    if (s->sight.limits != NULL) q.limits = &limits;
    query_heads(s, kv, &first, &last);
    own.begin = max_of(u->begin, w->begin);
    own.end = min_of(u->end, w->end);
    rows_touched(s, b, &own, false, rows);
    pack_keys(s, b, kv, w, rows);
    for (int64_t begin = own.begin, end; begin < own.end; begin = end, q.number++) {
        end = group_end(s, begin);
        if (q.number % w->parts != w->part) continue;
        q.waited = false;
        for (q.h = first; q.h < last; q.h++) run_queries(&q, begin, end);
        if (q.waited) turn_pass(q.turn, q.number);
    }
    if (!s->backward || rows[1] <= rows[0]) return;
    if (!of_keys) turn_wait(t, rows[1] - 1); /* the unit before is through with these rows */
    add_key_gradients(s, b, kv, w, rows);
    if (!of_keys) turn_pass(t, rows[1] - 1);
}

/* Rows of the parts in which rows range[] of a unit are packed: its spans, or equal ones. */
static int64_t rows_packed(const job *s, int64_t b, const int64_t range[2])
{
    const int64_t span = span_rows(s, b), n = max_of(range[1] - range[0], 1);
    const int64_t pack = pack_limit(&s->room), parts = (n + pack - 1) / pack;
    return min_of(span, round_up((n + parts - 1) / parts, TILE_KEYS));
}

/* Unit u of an item. t: its turn; NULL: nobody else works on the item, or nothing depends on the
 * order. */
static void run_unit(const job *s, work *w, int64_t b, int64_t kv, const unit *u, turn *t)
{
    const bool of_keys = u->to < INT32_MAX;
    int64_t rows[2];
    unit cut = *u;
    rows_touched(s, b, u, false, rows);
    const int64_t most = rows_packed(s, b, rows);
    /* a unit of keys has no more rows than these; the first and the last part have all others, too */
    for (; !of_keys && rows[0] + most < rows[1]; rows[0] += most) {
        cut.to = rows[0] + most;
        run_rows(s, w, b, kv, &cut, t, of_keys);
        cut.from = cut.to;
    }
    cut.to = u->to;
    run_rows(s, w, b, kv, &cut, t, of_keys);
    turn_wait(t, INT32_MAX - 1);
    turn_pass(t, INT32_MAX - 1);
}

static void run_units(const job *s, work *w, int64_t b, int64_t kv)
{
    unit list[UNITS];
    const int64_t n = list_units(s, b, list);
    for (int64_t u = 0; u < n; u++) run_unit(s, w, b, kv, list + u, NULL);
}

static void run_one(const job *s, int thread, int64_t b, int64_t kv)
{
    work w;
    work_place(s, thread, &w);
    run_units(s, &w, b, kv);
}

/* The batch rows of a head add into the same dr: then one item is all of them, in their order. */
static bool items_are_heads(const job *s)
{
    return s->backward && s->qr != NULL;
}

/* Item `item` of heads first .. first + n_kv - 1. */
static void run_item(const job *s, int thread, int64_t item, int64_t first, int64_t n_kv)
{
    if (!items_are_heads(s)) {
        run_one(s, thread, item / n_kv, first + item % n_kv);
        return;
    }
    for (int64_t b = 0; b < s->batch; b++) run_one(s, thread, b, first + item);
}

#ifdef _OPENMP
/* May two blocks of queries hold the same row? a does not begin behind b. Blocks of one dilation do
 * not, where their residue classes differ. */
static bool blocks_meet(const lh_tile *a, const lh_tile *b)
{
    int64_t stride = a->nq > 1 ? a->q_stride : b->q_stride;
    if (stride < 1 || (a->nq > 1 && b->nq > 1 && b->q_stride != stride)) return true;
    int64_t apart = b->q_row - a->q_row;
    return apart <= (a->nq - 1) * stride && apart % stride == 0;
}

/* May threads share one item's query blocks? Not if two blocks might hold the same row. */
static bool blocks_disjoint(const job *s)
{
    int64_t reach = 0; /* from a block's first row to its last, at most */
    for (int64_t i = 0; i < s->n_tiles; i++) {
        const lh_tile *t = s->tiles + i;
        if (i > 0 && same_queries(t, t - 1)) continue;
        if (i > 0 && t->q_row < (t - 1)->q_row) return false;
        for (int64_t j = i - 1; j >= 0 && t->q_row - s->tiles[j].q_row <= reach; j--)
            if (blocks_meet(s->tiles + j, t)) return false;
        reach = max_of(reach, (int64_t)(t->nq - 1) * t->q_stride);
    }
    return true;
}

/* Keys that any query of the block of tiles [begin, end) sees. */
static int64_t keys_seen(const job *s, int64_t b, int64_t begin, int64_t end)
{
    int64_t n = 0;
    for (int64_t i = begin; i < end; i++) {
        int64_t range[2];
        key_range(s, s->tiles + i, b, 0, s->tiles[i].nq, range);
        n += max_of(0, range[1] - range[0]);
    }
    return n;
}

/* The thread's share of an item of units made of queries: neighbouring blocks, so that few rows are
 * packed by two threads, as many as see its part of all keys seen. */
static void take_neighbours(const job *s, work *w, int64_t b, int64_t part, int64_t parts)
{
    int64_t total = 0, before = 0;
    for (int64_t i = 0, end; i < s->n_tiles; i = end) {
        end = group_end(s, i);
        total += keys_seen(s, b, i, end);
    }
    w->begin = w->end = 0;
    for (int64_t i = 0, end; i < s->n_tiles && total > 0; i = end) {
        end = group_end(s, i);
        const int64_t seen = keys_seen(s, b, i, end);
        const int64_t owner = (before + seen / 2) * parts / total;
        before += seen;
        if (owner < part) w->begin = end;
        if (owner <= part) w->end = end;
    }
}

/* Forward of one item by all threads of the team, each with its share of the query blocks, and keys
 * of its own: blocks in turn where every share needs most keys anyway. */
static void run_item_shared(const job *s, int thread, int threads, int64_t b, int64_t kv)
{
    work w;
    const unit all = whole_item(s);
    int64_t rows[2];
    work_place(s, thread, &w);
    rows_touched(s, b, &all, true, rows);
    if (span_rows(s, b) < INT32_MAX || rows[1] - rows[0] <= pack_limit(&s->room)) {
        w.part = thread;
        w.parts = threads;
    } else {
        take_neighbours(s, &w, b, thread, threads);
    }
    run_units(s, &w, b, kv);
}

/* Backward of items that several threads share: units are taken in the order of items and units. */
typedef struct pool {
    const job *s;
    int64_t first, n_kv, item, items; /* item: the first of this round */
    int64_t most;                     /* units of an item */
    atomic_llong next, done[UNITS];
} pool;

static void pool_run(pool *p, int thread)
{
    work w;
    unit list[UNITS];
    work_place(p->s, thread, &w);
    for (;;) {
        const int64_t i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        const int64_t item = p->item + i / p->most, u = i % p->most;
        if (i >= p->items * p->most) break;
        const int64_t b = item / p->n_kv, kv = p->first + item % p->n_kv;
        turn t = {u > 0 ? &p->done[i - 1] : NULL, &p->done[i]};
        if (u < list_units(p->s, b, list)) run_unit(p->s, &w, b, kv, list + u, &t);
    }
}

static void run_pool(const job *s, int threads, int64_t first, int64_t n_kv, int64_t most)
{
    const int64_t items = s->batch * n_kv, together = UNITS / most;
    for (int64_t item = 0; item < items; item += together) {
        pool p = {.s = s, .first = first, .n_kv = n_kv, .item = item, .most = most};
        p.items = min_of(together, items - item);
#pragma omp parallel num_threads(threads)
        pool_run(&p, omp_get_thread_num());
    }
}

/* Units of an item, at most. */
static int64_t most_units(const job *s)
{
    unit list[UNITS];
    int64_t most = 1;
    for (int64_t b = 0; b < s->batch; b++) most = max_of(most, list_units(s, b, list));
    return most;
}

static void run_team(const job *s, int threads, int64_t first, int64_t n_kv)
{
    int64_t items = items_are_heads(s) ? n_kv : s->batch * n_kv;
    bool even = items % threads == 0; /* then each thread has as many as the others */
    bool shared = !s->backward && !even && blocks_disjoint(s);
    if (s->backward && !even && !items_are_heads(s) && blocks_disjoint(s)) {
        run_pool(s, threads, first, n_kv, most_units(s));
        return;
    }
    if (shared) {
#pragma omp parallel num_threads(threads)
        for (int64_t i = 0; i < items; i++)
            run_item_shared(s, omp_get_thread_num(), omp_get_num_threads(), i / n_kv,
                            first + i % n_kv);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t i = 0; i < items; i++) run_item(s, omp_get_thread_num(), i, first, n_kv);
}
#endif

static void run(const job *s, int threads)
{
    if (s->n_tiles <= 0 || s->n_heads <= 0 || s->batch <= 0) return;
    int64_t first = (s->head + s->skew) / s->group,
            n_kv = (s->head + s->n_heads - 1 + s->skew) / s->group - first + 1;
#ifdef _OPENMP
    if (threads > 1) {
        run_team(s, threads, first, n_kv);
        return;
    }
#endif
    (void)threads;
    int64_t items = items_are_heads(s) ? n_kv : s->batch * n_kv;
    for (int64_t i = 0; i < items; i++) run_item(s, 0, i, first, n_kv);
}
