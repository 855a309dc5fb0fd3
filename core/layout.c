#include "core/layout.h"

#include "core/integer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Position of the last element; runs are never empty. */
static int64_t run_last(const lh_run *r)
{
    return r->start + (r->count - 1) * r->stride;
}

/* --- lists of runs --- */

lh_status lh_runs_add(lh_runs *runs, int64_t start, int64_t count, int64_t stride)
{
    lh_status st = LH_OK;
    if (count == 0) return LH_OK;
    LH_CHECK(count > 0 && stride >= 1, LH_ERR_BUG, "run of %lld positions with stride %lld",
             (long long)count, (long long)stride);
    if (runs->count > 0) {
        lh_run *last = &runs->run[runs->count - 1];
        if (last->stride == stride && last->start + last->count * stride == start) {
            last->count += count;
            return LH_OK;
        }
    }
    LH_TRY(lh_grow(&runs->run, &runs->capacity, runs->count + 1, sizeof *runs->run));
    runs->run[runs->count++] = (lh_run){start, count, stride};
done:
    return st;
}

static int run_compare(const void *a, const void *b)
{
    const lh_run *x = a;
    const lh_run *y = b;
    return (x->start > y->start) - (x->start < y->start);
}

lh_status lh_runs_normalise(lh_runs *runs)
{
    lh_status st = LH_OK;
    int64_t kept = 0;
    for (int64_t i = 0; i < runs->count; i++) {
        LH_CHECK(runs->run[i].stride == 1 || runs->run[i].count == 1, LH_ERR_BUG,
                 "run %lld has stride %lld; only runs of stride 1 can be merged", (long long)i,
                 (long long)runs->run[i].stride);
        runs->run[i].stride = 1;
    }
    if (runs->count > 1) qsort(runs->run, (size_t)runs->count, sizeof *runs->run, run_compare);
    for (int64_t i = 0; i < runs->count; i++) {
        lh_run next = runs->run[i];
        lh_run *last = kept > 0 ? &runs->run[kept - 1] : NULL;
        if (last != NULL && next.start <= last->start + last->count) {
            int64_t end = next.start + next.count;
            if (end > last->start + last->count) last->count = end - last->start;
        } else {
            runs->run[kept++] = next;
        }
    }
    runs->count = kept;
done:
    return st;
}

int64_t lh_runs_total(const lh_runs *runs)
{
    int64_t total = 0;
    for (int64_t i = 0; i < runs->count; i++) total += runs->run[i].count;
    return total;
}

void lh_runs_clear(lh_runs *runs)
{
    runs->count = 0;
}

void lh_runs_free(lh_runs *runs)
{
    lh_free(&runs->run);
    runs->count = runs->capacity = 0;
}

/* --- layouts --- */

static lh_status layout_check_size(int64_t n, int ranks, int64_t chunk)
{
    if (n >= 0 && ranks >= 1 && chunk >= 1) return LH_OK;
    return LH_RAISE(LH_ERR_BUG, "layout of %lld positions over %d ranks in chunks of %lld",
                    (long long)n, ranks, (long long)chunk);
}

static lh_status layout_new(int64_t n, int ranks, int64_t chunk, const char *name, int64_t n_runs,
                            lh_layout **out)
{
    lh_status st = LH_OK;
    lh_layout *l = NULL;
    *out = NULL;
    LH_TRY(lh_new(sizeof *l, &l));
    l->n = n;
    l->chunk = chunk;
    l->ranks = ranks;
    (void)snprintf(l->name, sizeof l->name, "%s", name);
    LH_TRY(lh_new(((size_t)ranks + 1) * sizeof *l->first, &l->first));
    LH_TRY(lh_new((size_t)n_runs * sizeof *l->run, &l->run));
    LH_TRY(lh_new((size_t)ranks * sizeof *l->rows, &l->rows));
    *out = l;
    l = NULL;
done:
    lh_layout_destroy(&l);
    return st;
}

static uint64_t layout_fnv(uint64_t h, const void *data, size_t bytes)
{
    const unsigned char *p = data;
    /* NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult): lh_new gives zeros */
    for (size_t i = 0; i < bytes; i++) h = (h ^ p[i]) * UINT64_C(1099511628211);
    return h;
}

/* What follows from the runs: the largest shard and the hash (FNV-1a). */
static void layout_finish(lh_layout *l)
{
    /* on one rank `everywhere` has the runs of other layouts, but it is no placement */
    const int64_t head[4] = {l->n, l->chunk, l->ranks, l->everywhere};
    uint64_t h = layout_fnv(UINT64_C(14695981039346656037), head, sizeof head);
    h = layout_fnv(h, l->first, ((size_t)l->ranks + 1) * sizeof *l->first);
    l->hash = layout_fnv(h, l->run, (size_t)l->first[l->ranks] * sizeof *l->run);
    for (int r = 0; r < l->ranks; r++)
        if (l->rows[r] > l->max_rows) l->max_rows = l->rows[r];
}

lh_status lh_layout_from_sizes(const int64_t *sizes, int ranks, int64_t chunk, lh_layout **out)
{
    lh_status st = LH_OK;
    lh_layout *l = NULL;
    int64_t n = 0;
    int64_t used = 0;
    *out = NULL;
    for (int r = 0; r < ranks; r++) {
        LH_CHECK(sizes[r] >= 0 && sizes[r] <= INT64_MAX - n, LH_ERR_BUG,
                 "rank %d has a shard of %lld positions", r, (long long)sizes[r]);
        n += sizes[r];
    }
    LH_TRY(layout_check_size(n, ranks, chunk));
    LH_TRY(layout_new(n, ranks, chunk, "contiguous", ranks, &l));
    n = 0;
    for (int r = 0; r < ranks; r++) {
        l->rows[r] = sizes[r];
        if (sizes[r] > 0) l->run[used++] = (lh_run){n, sizes[r], 1};
        l->first[r + 1] = used;
        n += sizes[r];
    }
    layout_finish(l);
    *out = l;
done:
    return st;
}

/* n positions in whole units over blocks as evenly as possible: sizes [blocks]. Of the blocks that get
 * one unit more, at most `lead` are the first ones and the others the last ones; only the last unit of
 * all can be short. */
static void layout_spread(int64_t n, int64_t unit, int64_t blocks, int64_t lead, int64_t *sizes)
{
    int64_t placed = 0;
    int64_t units = n / unit + (n % unit != 0);
    int64_t first = lhi_min(units % blocks, lead);
    int64_t last = units % blocks - first;
    for (int64_t b = 0; b < blocks; b++) {
        int64_t mine = units / blocks + (b < first || b >= blocks - last);
        sizes[b] = mine > (n - placed) / unit ? n - placed : mine * unit;
        placed += sizes[b];
    }
}

lh_status lh_layout_contiguous(int64_t n, int ranks, int64_t chunk, bool align_chunk,
                               lh_layout **out)
{
    lh_status st = LH_OK;
    int64_t *sizes = NULL;
    *out = NULL;
    LH_TRY(layout_check_size(n, ranks, chunk));
    LH_TRY(lh_new((size_t)ranks * sizeof *sizes, &sizes));
    layout_spread(n, align_chunk ? chunk : 1, ranks, ranks, sizes);
    LH_TRY(lh_layout_from_sizes(sizes, ranks, chunk, out));
done:
    lh_free(&sizes);
    return st;
}

lh_status lh_layout_zigzag(int64_t n, int ranks, int64_t chunk, bool align_chunk, lh_layout **out)
{
    lh_status st = LH_OK;
    lh_layout *l = NULL;
    int64_t *sizes = NULL;
    int64_t early = 0; /* where rank r's first block begins, and where its second one ends */
    int64_t late = n;
    int64_t blocks = 2 * (int64_t)ranks;
    *out = NULL;
    LH_TRY(layout_check_size(n, ranks, chunk));
    LH_TRY(lh_new((size_t)blocks * sizeof *sizes, &sizes));
    layout_spread(n, align_chunk ? chunk : 1, blocks, ranks, sizes);
    LH_TRY(layout_new(n, ranks, chunk, "zigzag", blocks, &l));
    for (int r = 0; r < ranks; r++) {
        int64_t used = l->first[r];
        int64_t first = sizes[r];
        int64_t second = sizes[blocks - 1 - r];
        late -= second;
        if (first > 0) l->run[used++] = (lh_run){early, first, 1};
        if (second > 0) l->run[used++] = (lh_run){late, second, 1};
        early += first;
        l->first[r + 1] = used;
        l->rows[r] = first + second;
    }
    layout_finish(l);
    *out = l;
done:
    lh_free(&sizes);
    return st;
}

lh_status lh_layout_everywhere(int64_t n, int ranks, int64_t chunk, lh_layout **out)
{
    lh_status st = LH_OK;
    lh_layout *l = NULL;
    *out = NULL;
    LH_TRY(layout_check_size(n, ranks, chunk));
    LH_TRY(layout_new(n, ranks, chunk, "everywhere", ranks, &l));
    l->everywhere = true;
    for (int r = 0; r < ranks; r++) {
        int64_t used = l->first[r];
        if (n > 0) l->run[used++] = (lh_run){0, n, 1};
        l->first[r + 1] = used;
        l->rows[r] = n;
    }
    layout_finish(l);
    *out = l;
done:
    return st;
}

/* Every position of 0 .. n - 1 once: exact for runs of stride 1 without looking at single
 * positions. */
static lh_status layout_check_dense(const lh_layout *l, bool *ok)
{
    lh_status st = LH_OK;
    lh_runs all = {0};
    int64_t n_runs = l->first[l->ranks];
    *ok = false;
    LH_TRY(lh_grow(&all.run, &all.capacity, n_runs, sizeof *all.run));
    for (int64_t i = 0; i < n_runs; i++)
        LH_TRY(lh_runs_add(&all, l->run[i].start, l->run[i].count, 1));
    LH_TRY(lh_runs_normalise(&all));
    *ok = l->n == 0 || (all.count == 1 && all.run[0].start == 0 && all.run[0].count == l->n);
done:
    lh_runs_free(&all);
    return st;
}

static lh_status layout_check_bits(const lh_layout *l, bool *ok)
{
    lh_status st = LH_OK;
    uint64_t *seen = NULL;
    *ok = true;
    LH_TRY(lh_new((size_t)(l->n / 64 + 1) * sizeof *seen, &seen));
    for (int64_t i = 0; i < l->first[l->ranks] && *ok; i++) {
        for (int64_t k = 0; k < l->run[i].count; k++) {
            int64_t p = l->run[i].start + k * l->run[i].stride;
            if (seen[p / 64] >> (p % 64) & 1) *ok = false;
            seen[p / 64] |= (uint64_t)1 << (p % 64);
        }
    }
done:
    lh_free(&seen);
    return st;
}

static lh_status layout_check(const lh_layout *l)
{
    lh_status st = LH_OK;
    int64_t total = 0;
    bool dense = true;
    bool ok = true;
    for (int64_t i = 0; i < l->first[l->ranks]; i++) {
        const lh_run *r = &l->run[i];
        LH_CHECK(r->count >= 1 && r->stride >= 1 && r->start >= 0 && r->start < l->n &&
                     r->count - 1 <= (l->n - 1 - r->start) / r->stride,
                 LH_ERR_BUG,
                 "run %lld (start %lld, count %lld, stride %lld) does not fit %lld positions",
                 (long long)i, (long long)r->start, (long long)r->count, (long long)r->stride,
                 (long long)l->n);
        dense = dense && (r->stride == 1 || r->count == 1);
        LH_CHECK(r->count <= l->n - total, LH_ERR_BUG,
                 "a layout holds more rows than its %lld positions", (long long)l->n);
        total += r->count;
    }
    LH_CHECK(total == l->n, LH_ERR_BUG, "a layout of %lld positions holds %lld rows",
             (long long)l->n, (long long)total);
    LH_TRY(dense ? layout_check_dense(l, &ok) : layout_check_bits(l, &ok));
    LH_CHECK(ok, LH_ERR_BUG, "a layout of %lld positions holds one twice", (long long)l->n);
done:
    return st;
}

lh_status lh_layout_from_runs(int64_t n, int ranks, int64_t chunk, const int64_t *first,
                              const lh_run *run, lh_layout **out)
{
    lh_status st = LH_OK;
    lh_layout *l = NULL;
    *out = NULL;
    LH_TRY(layout_check_size(n, ranks, chunk));
    LH_CHECK(first[0] == 0, LH_ERR_BUG, "the first run has number %lld", (long long)first[0]);
    for (int r = 0; r < ranks; r++)
        LH_CHECK(first[r] <= first[r + 1], LH_ERR_BUG, "rank %d has %lld runs", r,
                 (long long)(first[r + 1] - first[r]));
    LH_TRY(layout_new(n, ranks, chunk, "runs", first[ranks], &l));
    memcpy(l->first, first, ((size_t)ranks + 1) * sizeof *first);
    if (first[ranks] > 0) memcpy(l->run, run, (size_t)first[ranks] * sizeof *run);
    LH_TRY(layout_check(l));
    for (int r = 0; r < ranks; r++)
        for (int64_t i = first[r]; i < first[r + 1]; i++) l->rows[r] += run[i].count;
    layout_finish(l);
    *out = l;
    l = NULL;
done:
    lh_layout_destroy(&l);
    return st;
}

void lh_layout_destroy(lh_layout **layout)
{
    lh_layout *l = *layout;
    if (l == NULL) return;
    lh_free(&l->first);
    lh_free(&l->run);
    lh_free(&l->rows);
    lh_free(layout);
}

const lh_run *lh_layout_runs(const lh_layout *l, int rank, int64_t *count)
{
    *count = l->first[rank + 1] - l->first[rank];
    return l->run + l->first[rank];
}

int64_t lh_layout_position(const lh_layout *l, int rank, int64_t row)
{
    int64_t i = l->first[rank];
    while (row >= l->run[i].count) row -= l->run[i++].count;
    return l->run[i].start + row * l->run[i].stride;
}

int64_t lh_layout_row(const lh_layout *l, int rank, int64_t position)
{
    int64_t row = 0;
    for (int64_t i = l->first[rank]; i < l->first[rank + 1]; i++) {
        const lh_run *r = &l->run[i];
        int64_t into = position - r->start;
        if (into >= 0 && position <= run_last(r) && into % r->stride == 0)
            return row + into / r->stride;
        row += r->count;
    }
    return -1;
}

/* --- pieces --- */

lh_pieces lh_pieces_of(const lh_layout *l, int rank)
{
    return (lh_pieces){l, rank, l->first[rank], 0, 0};
}

bool lh_piece_next(lh_pieces *it, lh_piece *out)
{
    const lh_layout *l = it->layout;
    if (it->run >= l->first[it->rank + 1]) return false;
    const lh_run *r = &l->run[it->run];
    int64_t position = r->start + it->done * r->stride;
    int64_t room = l->chunk - position % l->chunk; /* positions to the next chunk edge */
    int64_t count = lhi_min(r->count - it->done, (room - 1) / r->stride + 1);
    *out = (lh_piece){it->row, count, position, r->stride};
    it->row += count;
    it->done += count;
    if (it->done == r->count) {
        it->run++;
        it->done = 0;
    }
    return true;
}

/* --- intersection --- */

/* Greatest common divisor g of a, b >= 1, and x with a x = g (mod b). */
static int64_t layout_gcd(int64_t a, int64_t b, int64_t *x)
{
    int64_t x0 = 1;
    int64_t x1 = 0;
    while (b != 0) {
        int64_t q = a / b;
        int64_t t = a % b;
        a = b;
        b = t;
        t = x0 - q * x1;
        x0 = x1;
        x1 = t;
    }
    *x = x0;
    return a;
}

/* Positions that two runs share, again a run (count 0: none), by the Chinese remainder theorem: the
 * first index i of a at or after both starts with a.start + i a.stride = b.start (mod b.stride),
 * then every b.stride / g indices. */
static lh_run run_intersect(const lh_run *a, const lh_run *b)
{
    lh_run none = {0, 0, 1};
    int64_t low = a->start > b->start ? a->start : b->start;
    int64_t high = lhi_min(run_last(a), run_last(b));
    if (low > high) return none;
    int64_t inverse = 0;
    int64_t g = layout_gcd(a->stride, b->stride, &inverse);
    int64_t difference = b->start - a->start;
    if (difference % g != 0) return none;
    int64_t step = b->stride / g; /* in indices of a */
    /* NOLINTNEXTLINE(clang-analyzer-core.DivideZero): g divides the stride, which is at least 1 */
    int64_t index = (difference / g % step + step) % step * ((inverse % step + step) % step) % step;
    int64_t reached = (low - a->start + a->stride - 1) / a->stride; /* the first at or after low */
    if (reached > index) index += (reached - index + step - 1) / step * step;
    int64_t start = a->start + index * a->stride;
    if (start > high) return none;
    int64_t stride = step * a->stride;
    lh_run shared = {start, (high - start) / stride + 1, stride};
    if (shared.count == 1) shared.stride = 1;
    return shared;
}

static lh_status spans_add(lh_span **spans, int64_t *n, int64_t *capacity, int64_t mine, lh_span s)
{
    if (*n >
        mine) { /* merge with the last of this call only: the caller may have ended a message there */
        lh_span *last = &(*spans)[*n - 1];
        if (last->stride == s.stride && last->row + last->count * last->stride == s.row) {
            last->count += s.count;
            return LH_OK;
        }
    }
    lh_status st = lh_grow(spans, capacity, *n + 1, sizeof s);
    if (st == LH_OK) (*spans)[(*n)++] = s;
    return st;
}

/* Runs of needs ascend in their starts and share nothing. *apart: each starts after the end of all
 * before it. Only within a stretch of runs that interleave is every pair looked at. */
static lh_status needs_check(const lh_runs *needs, bool *apart)
{
    lh_status st = LH_OK;
    int64_t reach = -1; /* the last position so far */
    int64_t stretch = 0;
    *apart = true;
    for (int64_t i = 0; i < needs->count; i++) {
        const lh_run *r = &needs->run[i];
        LH_CHECK(i == 0 || r->start > needs->run[i - 1].start, LH_ERR_BUG,
                 "needed runs %lld and %lld do not ascend", (long long)(i - 1), (long long)i);
        if (r->start > reach)
            stretch = i;
        else
            *apart = false;
        for (int64_t k = stretch; k < i; k++)
            LH_CHECK(run_intersect(&needs->run[k], r).count == 0, LH_ERR_BUG,
                     "needed runs %lld and %lld share positions", (long long)k, (long long)i);
        reach = lhi_max(reach, run_last(r));
    }
done:
    return st;
}

/* First run of needs that ends at or after position; the runs lie apart, so their ends ascend. */
static int64_t needs_from(const lh_runs *needs, int64_t position)
{
    int64_t low = 0;
    int64_t high = needs->count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (run_last(&needs->run[middle]) < position)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

lh_status lh_layout_intersect(const lh_layout *l, int rank, const lh_runs *needs, lh_span **spans,
                              int64_t *n_spans, int64_t *capacity, int64_t *rows,
                              lh_runs *positions)
{
    lh_status st = LH_OK;
    int64_t mine = *n_spans;
    int64_t row = 0;
    bool apart = true;
    *rows = 0;
    LH_TRY(needs_check(needs, &apart));
    for (int64_t i = l->first[rank]; i < l->first[rank + 1]; i++) {
        const lh_run *a = &l->run[i];
        for (int64_t k = apart ? needs_from(needs, a->start) : 0; k < needs->count; k++) {
            if (needs->run[k].start > run_last(a)) break;
            lh_run shared = run_intersect(a, &needs->run[k]);
            if (shared.count == 0) continue;
            lh_span span = {row + (shared.start - a->start) / a->stride, shared.count, 1};
            if (shared.count > 1) span.stride = shared.stride / a->stride;
            LH_TRY(spans_add(spans, n_spans, capacity, mine, span));
            if (positions != NULL)
                LH_TRY(lh_runs_add(positions, shared.start, shared.count, shared.stride));
            *rows += shared.count;
        }
        row += a->count;
    }
done:
    return st;
}

void lh_layout_moved(const lh_layout *from, const lh_layout *to, int rank, int64_t *leaving,
                     int64_t *arriving)
{
    int64_t runs = 0;
    const lh_run *run = lh_layout_runs(from, rank, &runs);
    int64_t stay = 0;
    *leaving = 0;
    for (int64_t i = 0; i < runs; i++)
        for (int64_t j = 0; j < run[i].count; j++) {
            int64_t position = run[i].start + j * run[i].stride;
            if (position >= to->n) continue;
            bool here = lh_layout_row(to, rank, position) >= 0;
            stay += here;
            *leaving += !here;
        }
    *arriving = to->rows[rank] - stay;
}
