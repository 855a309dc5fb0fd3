#include "attention/picture.h"
#include "core/integer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PICTURE_BOXES = 4096, /* looked at in a composed pattern before a box counts as MIXED */
    /* in the panel of a part, on a side of the border: */
    PICTURE_SHARDS = 4, /* where shards are small */
    PICTURE_TEETH = 12, /* steps of a comb, where these show its teeth */
    PICTURE_LEAST = 8   /* positions, at least */
};

lh_status lh_picture_create(int side, lh_picture **out)
{
    lh_status st = lh_new(sizeof **out, out);
    if (st != LH_OK) return st;
    (*out)->side = side;
    (*out)->ways = 1;
    return st;
}

static void panel_free(lh_panel *p)
{
    lh_free(&p->layer);
    lh_free(&p->query.edge);
    lh_free(&p->query.strip);
    lh_free(&p->key.edge);
    lh_free(&p->key.strip);
    lh_free(&p->cell);
}

void lh_picture_destroy(lh_picture **picture)
{
    if (*picture == NULL) return;
    for (int64_t i = 0; i < (*picture)->n_panels; i++) panel_free(&(*picture)->panel[i]);
    lh_free(&(*picture)->panel);
    lh_free(picture);
}

void lh_picture_layer(lh_picture *p, int layer, int ways, const char *label)
{
    p->layer = layer;
    p->ways = ways;
    (void)snprintf(p->label, sizeof p->label, "%s", label);
}

/* --- strips: positions that are alike --- */

static int strip_compare(const void *a, const void *b)
{
    const lh_picture_strip *x = a;
    const lh_picture_strip *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

static lh_status strip_put(lh_picture_axis *x, lh_picture_strip s)
{
    lh_status st = LH_OK;
    if (s.begin >= s.end) goto done;
    LH_TRY(lh_grow(&x->strip, &x->strips_capacity, x->n_strips + 1, sizeof s));
    x->strip[x->n_strips++] = s;
done:
    return st;
}

/* Positions of a run that are spaced are strips of their own. */
static lh_status strip_run(lh_picture_axis *x, const lh_run *run, int rank)
{
    lh_status st = LH_OK;
    int64_t step = run->stride == 1 ? run->count : 1;
    for (int64_t k = 0; k < run->count; k += step) {
        int64_t begin = run->start + k * run->stride;
        LH_TRY(strip_put(x, (lh_picture_strip){begin, begin + step, rank, false}));
    }
done:
    return st;
}

/* Who holds what, in order of position. */
static lh_status strip_owners(const lh_layout *l, lh_picture_axis *x)
{
    lh_status st = LH_OK;
    if (l->everywhere) return strip_put(x, (lh_picture_strip){0, l->n, -1, false});
    for (int rank = 0; rank < l->ranks; rank++) {
        int64_t count = 0;
        const lh_run *run = lh_layout_runs(l, rank, &count);
        for (int64_t i = 0; i < count; i++) LH_TRY(strip_run(x, &run[i], rank));
    }
    if (x->n_strips > 1) qsort(x->strip, (size_t)x->n_strips, sizeof *x->strip, strip_compare);
done:
    return st;
}

/* Strips of the axis, cut where a position is global. */
static lh_status strip_globals(const lh_picture_part *part, lh_picture_axis *x)
{
    lh_status st = LH_OK;
    lh_picture_axis cut = {0};
    int64_t g = 0;
    for (int64_t i = 0; i < x->n_strips; i++) {
        lh_picture_strip s = x->strip[i];
        for (; g < part->n_global && part->global[g] < s.end; g++) {
            int64_t at = part->global[g];
            LH_TRY(strip_put(&cut, (lh_picture_strip){s.begin, at, s.rank, false}));
            LH_TRY(strip_put(&cut, (lh_picture_strip){at, at + 1, s.rank, true}));
            s.begin = at + 1;
        }
        LH_TRY(strip_put(&cut, s));
    }
    lh_free(&x->strip);
    x->strip = cut.strip;
    x->n_strips = cut.n_strips;
    x->strips_capacity = cut.strips_capacity;
    cut.strip = NULL;
done:
    lh_free(&cut.strip);
    return st;
}

/* --- edges --- */

/* Cells of view: where stretches are few, each is cut evenly; else the view is. *n: how many. */
static void edge_cut(const lh_picture_axis *x, lh_range view, int side, int64_t *edge, int *n)
{
    int64_t stretches = 0;
    int64_t length = view.end - view.begin;
    *n = 0;
    for (int64_t i = 0; i < x->n_strips; i++) {
        const lh_picture_strip *s = &x->strip[i];
        stretches += s->begin < view.end && s->end > view.begin &&
                     (i == 0 || s->rank != s[-1].rank || s->begin <= view.begin);
    }
    if (stretches > side || stretches == 0) {
        int64_t cells = lhi_min(side, length);
        for (int64_t i = 0; i < cells; i++) edge[(*n)++] = view.begin + length * i / cells;
        return;
    }
    for (int64_t i = 0; i < x->n_strips;) {
        int64_t end = i + 1;
        while (end < x->n_strips && x->strip[end].rank == x->strip[i].rank) end++;
        int64_t from = lhi_max(view.begin, x->strip[i].begin);
        int64_t to = lhi_min(view.end, x->strip[end - 1].end);
        i = end;
        if (from >= to) continue;
        int64_t cells = lhi_max(1, lhi_min(to - from, (to - from) * side / length));
        for (int64_t k = 0; k < cells; k++) edge[(*n)++] = from + (to - from) * k / cells;
    }
}

static lh_status picture_axis(const lh_picture_part *part, const lh_layout *l, lh_range view,
                              int side, lh_picture_axis *x)
{
    lh_status st = LH_OK;
    x->whole = l->n;
    LH_TRY(strip_owners(l, x));
    if (!l->everywhere) LH_TRY(strip_globals(part, x));
    /* a stretch has at least one cell, and shares are rounded down */
    LH_TRY(lh_new((size_t)(2 * side + 1) * sizeof *x->edge, &x->edge));
    if (view.begin < view.end) edge_cut(x, view, side, x->edge, &x->cells);
    x->edge[x->cells] = view.end;
done:
    return st;
}

/* --- cells --- */

/* Is something in the box visible ([1]), is something not ([0])? Splits what the pattern calls MIXED,
 * which it may say of anything; of bands and combs it is exact. */
static void box_look(const lh_pattern *p, lh_range q, lh_range k, int *budget, bool found[2])
{
    lh_cover cover = lh_pattern_cover(p, q, k);
    int64_t rows = q.end - q.begin;
    int64_t columns = k.end - k.begin;
    if (cover == LH_MIXED && rows == 1 && columns == 1)
        cover = lh_pattern_sees(p, q.begin, k.begin) ? LH_FULL : LH_EMPTY;
    if (cover != LH_MIXED) {
        found[cover == LH_FULL] = true;
        return;
    }
    if (p->ops->comb != NULL || --*budget <= 0) {
        found[0] = found[1] = true;
        return;
    }
    for (int half = 0; half < 2 && !(found[0] && found[1]); half++) {
        int64_t middle = rows >= columns ? q.begin + rows / 2 : k.begin + columns / 2;
        if (rows >= columns)
            box_look(p, half == 0 ? (lh_range){q.begin, middle} : (lh_range){middle, q.end}, k,
                     budget, found);
        else
            box_look(p, q, half == 0 ? (lh_range){k.begin, middle} : (lh_range){middle, k.end},
                     budget, found);
    }
}

/* How the keys of one strip come to the queries of another, in groups of `ways` ranks. */
static int box_kind(const lh_picture_part *part, int ways, const lh_picture_strip *q,
                    const lh_picture_strip *k)
{
    if (q->global || k->global || part->queries->everywhere) return LH_KIND_GLOBAL;
    if (k->rank < 0) return LH_KIND_SUMMARY;
    if (q->rank == k->rank) return LH_KIND_LOCAL;
    return q->rank / ways == k->rank / ways ? LH_KIND_HEADS : part->far;
}

/* What two strips have in common with a cell. */
static void box_add(const lh_picture_part *part, int ways, const lh_picture_strip *q,
                    const lh_picture_strip *k, const lh_range cell[2], bool found[2],
                    uint8_t *kinds)
{
    const lh_pattern everything = lh_pattern_band(-LH_FAR, part->causal ? 0 : LH_FAR);
    bool here[2] = {false, false};
    int budget = PICTURE_BOXES;
    box_look(q->global || k->global ? &everything : part->pattern,
             (lh_range){lhi_max(q->begin, cell[0].begin), lhi_min(q->end, cell[0].end)},
             (lh_range){lhi_max(k->begin, cell[1].begin), lhi_min(k->end, cell[1].end)}, &budget,
             here);
    found[0] = found[0] || here[0];
    found[1] = found[1] || here[1];
    if (here[1]) *kinds |= (uint8_t)box_kind(part, ways, q, k);
}

/* First strip that ends behind the position. */
static int64_t strip_at(const lh_picture_axis *x, int64_t position)
{
    int64_t low = 0;
    int64_t high = x->n_strips;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (x->strip[middle].end <= position)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static lh_picture_cell picture_cell(const lh_picture_part *part, const lh_panel *p, int row,
                                    int column)
{
    const lh_range cell[2] = {{p->query.edge[row], p->query.edge[row + 1]},
                              {p->key.edge[column], p->key.edge[column + 1]}};
    const lh_picture_axis *q = &p->query;
    const lh_picture_axis *k = &p->key;
    bool found[2] = {false, false};
    uint8_t kinds = 0;
    int64_t first = strip_at(k, cell[1].begin);
    /* most cells of a sparse pattern are EMPTY as a whole */
    if (part->n_global == 0 && lh_pattern_cover(part->pattern, cell[0], cell[1]) == LH_EMPTY)
        return (lh_picture_cell){LH_EMPTY, 0};
    for (int64_t i = strip_at(q, cell[0].begin); i < q->n_strips; i++) {
        if (q->strip[i].begin >= cell[0].end) break;
        for (int64_t j = first; j < k->n_strips && k->strip[j].begin < cell[1].end; j++)
            box_add(part, p->ways, &q->strip[i], &k->strip[j], cell, found, &kinds);
    }
    lh_cover cover = !found[1] ? LH_EMPTY : found[0] ? LH_MIXED : LH_FULL;
    return (lh_picture_cell){(uint8_t)cover, kinds};
}

/* --- panels --- */

/* An equal panel that another layer has already, or -1. */
static int64_t panel_find(const lh_picture *p, const lh_panel *added)
{
    for (int64_t i = 0; i < p->n_panels; i++) {
        const lh_panel *old = &p->panel[i];
        if (old->zoom == added->zoom && old->landmarks == added->landmarks &&
            old->digest[0] == added->digest[0] && old->digest[1] == added->digest[1] &&
            old->ways == added->ways && old->head == added->head &&
            old->n_heads == added->n_heads && old->query.whole == added->query.whole &&
            old->key.whole == added->key.whole && strcmp(old->label, added->label) == 0 &&
            strcmp(old->note, added->note) == 0)
            return i;
    }
    return -1;
}

static lh_status panel_note_layer(lh_picture *p, lh_panel *panel)
{
    lh_status st = LH_OK;
    LH_TRY(
        lh_grow(&panel->layer, &panel->layers_capacity, panel->n_layers + 1, sizeof *panel->layer));
    panel->layer[panel->n_layers++] = p->layer;
done:
    return st;
}

/* What a panel shows: ranges of queries and keys, in about `side` cells a side. */
typedef struct panel_view {
    lh_range query, key;
    int side;
} panel_view;

static lh_status panel_fill(const lh_picture_part *part, const panel_view *view, lh_panel *panel)
{
    lh_status st = LH_OK;
    LH_TRY(picture_axis(part, part->queries, view->query, view->side, &panel->query));
    LH_TRY(picture_axis(part, part->keys, view->key, view->side, &panel->key));
    LH_TRY(lh_new((size_t)(panel->query.cells * panel->key.cells) * sizeof *panel->cell,
                  &panel->cell));
    for (int i = 0; i < panel->query.cells; i++)
        for (int j = 0; j < panel->key.cells; j++)
            panel->cell[(int64_t)i * panel->key.cells + j] = picture_cell(part, panel, i, j);
done:
    return st;
}

static lh_status panel_add(lh_picture *p, const lh_picture_part *part, const panel_view *view,
                           bool zoom)
{
    lh_status st = LH_OK;
    lh_panel panel = {.head = part->head, .n_heads = part->n_heads, .ways = p->ways, .zoom = zoom};
    (void)snprintf(panel.label, sizeof panel.label, "%s", p->label);
    (void)snprintf(panel.note, sizeof panel.note, "%s", part->note != NULL ? part->note : "");
    if (part->pattern != NULL) {
        const lh_pattern listed = lh_pattern_columns(part->global, part->n_global);
        const lh_pattern both = lh_pattern_or(part->pattern, &listed);
        (void)lh_pattern_digest(&both, panel.digest);
        panel.landmarks = part->keys->everywhere;
        panel.query.whole = part->queries->n;
        panel.key.whole = part->keys->n;
    }
    int64_t at = panel_find(p, &panel);
    if (at < 0) {
        if (part->pattern != NULL) LH_TRY(panel_fill(part, view, &panel));
        LH_TRY(lh_grow(&p->panel, &p->capacity, p->n_panels + 1, sizeof panel));
        at = p->n_panels++;
        p->panel[at] = panel;
        panel = (lh_panel){0};
    }
    LH_TRY(panel_note_layer(p, &p->panel[at]));
done:
    panel_free(&panel);
    return st;
}

/* Positions that the pattern reaches on a side; -1: no limit is known. *step: the distance between
 * those that it sees. */
static int64_t picture_reach(const lh_picture_part *part, int64_t *step)
{
    int64_t lo = 0;
    int64_t hi = 0;
    *step = 1;
    if (!lh_pattern_is_comb(part->pattern, &lo, &hi, step)) return -1;
    int64_t most = lhi_max(lhi_max(-lo, hi), 0);
    return most >= LH_FAR / *step ? -1 : most * *step;
}

/* The border between two ranks that is nearest to the middle; the middle where there is none. */
static int64_t picture_border(const lh_layout *l)
{
    int64_t best = l->n / 2;
    int64_t away = l->n;
    for (int64_t i = 0; i < l->first[l->ranks]; i++) {
        int64_t begin = l->run[i].start;
        if (l->run[i].count == 0 || begin == 0 || llabs(begin - l->n / 2) >= away) continue;
        best = begin;
        away = llabs(begin - l->n / 2);
    }
    return best;
}

/* The surroundings of a border, where the whole picture cannot show them: the band and half as much
 * beside it; or as few positions as show the teeth of a comb; or a few shards. */
static bool picture_zoom(const lh_picture *p, const lh_picture_part *part, panel_view *view)
{
    const lh_layout *l = part->queries;
    if (part->keys->everywhere || l->everywhere) return false;
    int64_t step = 1;
    int64_t reach = picture_reach(part, &step);
    int64_t stretches = l->first[l->ranks];
    int64_t half = l->n;
    view->side = p->side;
    if (reach >= 0 && reach < 2 * l->n / p->side)
        half = lhi_max(PICTURE_LEAST, reach + (reach + 1) / 2);
    else if (step > 1) { /* a cell is half a step */
        half = PICTURE_TEETH * step;
        view->side = 4 * PICTURE_TEETH;
    } else if (stretches > p->side)
        half = lhi_max(PICTURE_LEAST, PICTURE_SHARDS * (l->n / stretches));
    int64_t border = picture_border(l);
    view->query = (lh_range){lhi_max(0, border - half), lhi_min(l->n, border + half)};
    view->key = view->query;
    return 2 * (view->key.end - view->key.begin) < l->n;
}

lh_status lh_picture_add(lh_picture *p, const lh_picture_part *part)
{
    lh_status st = LH_OK;
    panel_view zoom = {{0, 0}, {0, 0}, 0};
    if (part->pattern == NULL) return panel_add(p, part, NULL, false);
    const panel_view whole = {{0, part->queries->n}, {0, part->keys->n}, p->side};
    LH_TRY(panel_add(p, part, &whole, false));
    if (picture_zoom(p, part, &zoom)) LH_TRY(panel_add(p, part, &zoom, true));
done:
    return st;
}
