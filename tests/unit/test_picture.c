/* Pictures of plans: the SVG is read again, and each of its cells is compared with who sees whom, pair
 * by pair, and with where the ranks' positions lie. */
#include "attention/picture.h"
#include "experiments/plan_draw.h"
#include "tests/lh_test.h"
#include "tests/lh_test_scenes.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT = 2000, NAME = 64, DEPTH = 32, SIDE = 256, CHUNK = 16, LAYERS = 3, GLOBALS = 3 };

typedef enum scene_kind { FULL, WINDOW, PERFORMER, LINFORMER, WHEEL } scene_kind;

/* Layers 0 and 2 are this; layer 1 is exact attention where `other` is set. */
typedef struct scene {
    scene_kind kind;
    int ranks;
    int ways; /* ranks that exchange heads; 0: none do */
    int64_t n;
    bool causal, zigzag, other;
    int64_t window, dilation[2], landmarks;
    int64_t global[GLOBALS];
    int n_global;
} scene;

/* --- XML --- */

/* Reads on after a name. */
static const char *xml_name(const char *s, char *name)
{
    size_t n = 0;
    while (isalnum((unsigned char)*s) || *s == '-' || *s == '_' || *s == ':') {
        assert_true(n + 1 < NAME);
        name[n++] = *s++;
    }
    assert_true(n > 0);
    name[n] = '\0';
    return s;
}

/* Text up to one of the characters `stop`: no control characters, no bare ampersand. */
static const char *xml_text(const char *s, const char *stop)
{
    static const char *const entity[] = {"&amp;", "&lt;", "&gt;", "&quot;"};
    for (; *s != '\0' && strchr(stop, *s) == NULL; s++) {
        bool known = *s != '&';
        for (size_t i = 0; i < sizeof entity / sizeof entity[0]; i++)
            known = known || strncmp(s, entity[i], strlen(entity[i])) == 0;
        assert_true(known && *s != '<' && ((unsigned char)*s >= 0x20 || *s == '\n'));
    }
    assert_true(*s != '\0');
    return s;
}

/* A tag from behind its '<' to behind its '>'. Returns whether it stays open. */
static const char *xml_tag(const char *s, char *name, bool *open)
{
    s = xml_name(s, name);
    while (isspace((unsigned char)*s)) {
        char attribute[NAME];
        while (isspace((unsigned char)*s)) s++;
        if (*s == '/' || *s == '>') break;
        s = xml_name(s, attribute);
        assert_true(s[0] == '=' && s[1] == '"');
        s = xml_text(s + 2, "\"") + 1;
    }
    *open = *s != '/';
    s += !*open;
    assert_int_equal(*s, '>');
    return s + 1;
}

/* One element, whose children are closed in order, after the declaration and a comment. */
static void check_well_formed(const char *svg)
{
    char stack[DEPTH][NAME];
    int depth = 0;
    int roots = 0;
    const char *s = strstr(svg, "-->"); /* who made it */
    assert_true(strncmp(svg, "<?xml ", 6) == 0 && s != NULL);
    s = s != NULL ? s + 3 : "";
    while (*s != '\0') {
        char name[NAME];
        bool open = false;
        if (*s != '<') {
            assert_true(depth > 0 || isspace((unsigned char)*s));
            s = depth > 0 ? xml_text(s, "<") : s + 1;
        } else if (s[1] == '/') {
            s = xml_name(s + 2, name);
            assert_true(depth > 0 && *s++ == '>');
            assert_string_equal(name, stack[--depth]);
        } else {
            assert_true(depth < DEPTH);
            roots += depth == 0;
            s = xml_tag(s + 1, stack[depth], &open);
            depth += open;
        }
    }
    assert_true(depth == 0 && roots == 1);
}

/* The value of an attribute of the tag at s. */
static const char *attribute(const char *s, const char *name)
{
    const char *end = strchr(s, '>');
    char want[NAME];
    (void)snprintf(want, sizeof want, " %s=\"", name);
    const char *found = strstr(s, want);
    assert_true(found != NULL && found < end);
    return found + strlen(want);
}

static int64_t number(const char *s, const char *name)
{
    return strtoll(attribute(s, name), NULL, 10);
}

/* --- the picture as it was read --- */

typedef struct cell {
    char cover[8], kind[NAME];
} cell;

typedef struct panel {
    int64_t edge[2][SIDE + 1]; /* of queries and keys */
    int cells[2];
    cell *cell; /* [cells[0], cells[1]]; all "" where nothing is drawn */
    int64_t head, heads;
    bool zoom;
    char layers[NAME];
} panel;

static void read_edges(const char *tag, const char *name, int64_t *edge, int *cells)
{
    const char *s = attribute(tag, name);
    char *end = NULL;
    int n = 0;
    for (; *s != '"'; s = *end == ' ' ? end + 1 : end) {
        assert_true(n <= SIDE);
        edge[n++] = strtoll(s, &end, 10);
        assert_true(end != s && (n < 2 || edge[n - 2] < edge[n - 1]));
    }
    *cells = n - 1;
    assert_true(*cells >= 1);
}

static void read_word(const char *tag, const char *name, char *word, size_t bytes)
{
    const char *s = attribute(tag, name);
    (void)snprintf(word, bytes, "%.*s", (int)strcspn(s, "\""), s);
}

static int edge_at(const panel *p, int axis, int64_t position)
{
    int i = 0;
    while (i < p->cells[axis] && p->edge[axis][i] != position) i++;
    assert_true(p->edge[axis][i] == position);
    return i;
}

/* Fills the cells that a rectangle covers; none is covered twice. */
static void read_rectangle(panel *p, const char *tag)
{
    const int from[2] = {edge_at(p, 0, number(tag, "data-q0")),
                         edge_at(p, 1, number(tag, "data-k0"))};
    const int to[2] = {edge_at(p, 0, number(tag, "data-q1")),
                       edge_at(p, 1, number(tag, "data-k1"))};
    assert_true(from[0] < to[0] && from[1] < to[1]);
    for (int i = from[0]; i < to[0]; i++)
        for (int j = from[1]; j < to[1]; j++) {
            cell *c = &p->cell[i * p->cells[1] + j];
            assert_string_equal(c->cover, "");
            read_word(tag, "data-cover", c->cover, sizeof c->cover);
            read_word(tag, "data-kind", c->kind, sizeof c->kind);
        }
}

/* The next panel; NULL behind the last one. Its cells are released by the caller. */
static const char *read_panel(const char *s, panel *p)
{
    const char *tag = strstr(s, "<g class=\"panel\"");
    if (tag == NULL) return NULL;
    const char *end = strstr(tag, "</g>");
    assert_non_null(end);
    *p = (panel){.head = number(tag, "data-head"), .heads = number(tag, "data-heads")};
    p->zoom = number(tag, "data-zoom") == 1;
    read_word(tag, "data-layers", p->layers, sizeof p->layers);
    read_edges(tag, "data-q-edges", p->edge[0], &p->cells[0]);
    read_edges(tag, "data-k-edges", p->edge[1], &p->cells[1]);
    lh_assert_ok(lh_new((size_t)(p->cells[0] * p->cells[1]) * sizeof *p->cell, &p->cell));
    for (const char *r = strstr(tag, "<rect "); r != NULL && r < end; r = strstr(r + 1, "<rect ")) {
        const char *cover = strstr(r, "data-cover");
        if (cover != NULL && cover < strchr(r, '>')) read_rectangle(p, r);
    }
    return end;
}

/* --- the truth --- */

static bool is_global(const scene *s, int64_t i)
{
    for (int g = 0; g < s->n_global; g++)
        if (s->global[g] == i) return true;
    return false;
}

/* Does query i see key j? exact: of the layer between. */
static bool sees(const scene *s, bool exact, int64_t head, int64_t i, int64_t j)
{
    int64_t step = s->dilation[head];
    int64_t away = j > i ? j - i : i - j;
    if (s->kind == LINFORMER && !exact) return true;
    if (s->causal && j > i) return false;
    if (exact || s->kind == FULL || s->kind == PERFORMER) return true;
    if (s->kind == WHEEL) return j == 0 || i / s->window == j / s->window;
    if (is_global(s, i) || is_global(s, j)) return true;
    return away % step == 0 && away <= s->window * step;
}

/* 0 local, 1 halo, 2 global, 3 summary, 4 all-to-all: the order in which the picture names them. */
static int kind_of(const scene *s, bool exact, const int *owner, int64_t i, int64_t j)
{
    if (s->kind == LINFORMER && !exact) return 3;
    if (!exact && (is_global(s, i) || is_global(s, j))) return 2;
    if (owner[i] == owner[j]) return 0;
    bool own = !exact && (s->kind == WHEEL || s->kind == PERFORMER); /* they keep their exchange */
    if (s->ways > 1 && !own && owner[i] / s->ways == owner[j] / s->ways) return 4;
    return s->kind == PERFORMER && !exact ? 3 : 1;
}

static void check_cell(const scene *s, const panel *p, bool exact, const int *owner, int row,
                       int column)
{
    static const char *const names[] = {"local", "halo", "global", "summary", "all-to-all"};
    const cell *c = &p->cell[row * p->cells[1] + column];
    char kinds[NAME] = "";
    int64_t seen = 0;
    int64_t all = 0;
    unsigned found = 0;
    for (int64_t i = p->edge[0][row]; i < p->edge[0][row + 1]; i++)
        for (int64_t j = p->edge[1][column]; j < p->edge[1][column + 1]; j++, all++) {
            if (!sees(s, exact, p->head, i, j)) continue;
            seen++;
            found |= 1u << kind_of(s, exact, owner, i, j);
        }
    for (unsigned k = 0; k < 5; k++)
        if (found >> k & 1u)
            (void)snprintf(kinds + strlen(kinds), sizeof kinds - strlen(kinds), "%s%s",
                           kinds[0] != '\0' ? "+" : "", names[k]);
    assert_string_equal(c->cover, seen == 0 ? "" : seen == all ? "FULL" : "MIXED");
    assert_string_equal(c->kind, kinds);
}

/* --- scenes --- */

static int attention_text(const scene *s, char *text, size_t bytes)
{
    char global[NAME] = "none";
    for (int i = 0; i < s->n_global; i++)
        (void)snprintf(i == 0 ? global : global + strlen(global), NAME / 4, "%s%d",
                       i == 0 ? "[" : ", ", (int)s->global[i]);
    if (s->n_global > 0) (void)snprintf(global + strlen(global), 2, "]");
    switch (s->kind) {
    case WINDOW:
        return snprintf(text, bytes,
                        "{mechanism: sliding_window, window: %d, dilation: [%d, %d], global: %s}",
                        (int)s->window, (int)s->dilation[0], (int)s->dilation[1], global);
    case PERFORMER:
        return snprintf(text, bytes, "{mechanism: performer, features: 9}");
    case LINFORMER:
        return snprintf(text, bytes, "{mechanism: linformer, k: %d}", (int)s->landmarks);
    case WHEEL:
        return snprintf(text, bytes, "{mechanism: wheel, rim: %d}", (int)s->window);
    default:
        return snprintf(text, bytes, "{mechanism: full}");
    }
}

static lh_status scene_config(const scene *s, lh_config **out)
{
    char one[TEXT / 4];
    char all[TEXT];
    char text[2 * TEXT];
    (void)attention_text(s, one, sizeof one);
    (void)snprintf(all, sizeof all, "[%s, %s, %s]", one, s->other ? "{mechanism: full}" : one, one);
    (void)snprintf(text, sizeof text,
                   "run: {name: 'a < b & c'}\n"
                   "mesh: {chunk: %d, layout: %s%s%d}\n"
                   "data: {length: %d, task: %s}\n"
                   "model: {kind: %s, layers: %d, width: 16, heads: 2, attention: %s}\n",
                   CHUNK, s->zigzag ? "zigzag" : "contiguous",
                   s->ways > 1 ? ", exchange: ulysses, ulysses: " : ", data: ",
                   s->ways > 1 ? s->ways : 1, (int)s->n, s->causal ? "text" : "masked_text",
                   s->causal ? "decoder" : "encoder", LAYERS, all);
    return lh_config_parse(text, strlen(text), "scene", LH_CONFIG_PARTIAL, out);
}

/* The rank of each position. */
static int *owners(const scene *s)
{
    int *owner = NULL;
    lh_layout *l = NULL;
    lh_assert_ok(lh_new((size_t)s->n * sizeof *owner, &owner));
    lh_assert_ok(s->zigzag ? lh_layout_zigzag(s->n, s->ranks, CHUNK, true, &l)
                           : lh_layout_contiguous(s->n, s->ranks, CHUNK, true, &l));
    for (int r = 0; r < s->ranks; r++)
        for (int64_t i = 0; i < l->rows[r]; i++) owner[lh_layout_position(l, r, i)] = r;
    lh_layout_destroy(&l);
    return owner;
}

/* A panel shows all positions, or, enlarged, some; its layers are alike. */
static void check_panel(const scene *s, const panel *p, const int *owner)
{
    bool exact = strcmp(p->layers, "1") == 0;
    int64_t keys = s->kind == LINFORMER && !exact ? s->landmarks : s->n;
    assert_string_equal(p->layers, exact ? "1" : s->other ? "0, 2" : "0-2");
    if (!p->zoom) {
        assert_true(p->edge[0][0] == 0 && p->edge[0][p->cells[0]] == s->n);
        assert_true(p->edge[1][0] == 0 && p->edge[1][p->cells[1]] == keys);
    }
    for (int i = 0; i < p->cells[0]; i++)
        for (int j = 0; j < p->cells[1]; j++) check_cell(s, p, exact, owner, i, j);
}

/* The numbers under the pictures are the plan's. */
static void check_numbers(const char *svg, const lh_step_plan *plan)
{
    char text[200];
    bool some = false;
    lh_group_plan g;
    for (int l = 0; l < plan->layers; l++)
        for (int64_t head = 0; lh_step_plan_group(plan, l, &head, &g); some = true) {
            int used = snprintf(text, sizeof text, "FULL %" PRId64 ", MIXED %" PRId64,
                                g.tiles.sum.full, g.tiles.sum.mixed);
            assert_true(used > 0 && strstr(svg, text) != NULL);
        }
    assert_true(some || strstr(svg, "no scores are computed") != NULL);
}

static void check_scene(const scene *s, int zooms)
{
    lh_config *config = NULL;
    lh_step_plan *plan = NULL;
    char *svg = NULL;
    int *owner = owners(s);
    panel p;
    int64_t heads[2] = {0, 0}; /* shown, of layer 1 and of the others */
    lh_assert_ok(scene_config(s, &config));
    lh_assert_ok(lh_step_plan_create(config, s->ranks, &plan));
    lh_assert_ok(lh_plan_draw(config, plan, &svg));
    check_well_formed(svg);
    check_numbers(svg, plan);
    assert_non_null(strstr(svg, "a &lt; b &amp; c"));
    for (const char *at = read_panel(svg, &p); at != NULL; at = read_panel(at, &p)) {
        check_panel(s, &p, owner);
        if (p.zoom)
            zooms--;
        else
            heads[strcmp(p.layers, "1") != 0] += p.heads;
        lh_free(&p.cell);
    }
    assert_true(heads[1] == 2 && heads[0] == (s->other ? 2 : 0));
    assert_int_equal(zooms, 0);
    lh_free(&svg);
    lh_free(&owner);
    lh_step_plan_destroy(&plan);
    lh_config_destroy(&config);
}

static void test_full(void **state)
{
    (void)state;
    check_scene(&(scene){.kind = FULL, .ranks = 1, .n = 50, .causal = true}, 0);
    check_scene(&(scene){.kind = FULL, .ranks = 2, .n = 333}, 0);
    check_scene(&(scene){.kind = FULL, .ranks = 3, .n = 333, .causal = true, .zigzag = true}, 0);
    /* more ranks than cells */
    check_scene(&(scene){.kind = FULL, .ranks = 98, .n = 1568, .causal = true}, 1);
    check_scene(&(scene){.kind = FULL, .ranks = 50, .n = 1600, .causal = true, .zigzag = true}, 1);
    /* more ranks than there are positions for */
    check_scene(&(scene){.kind = FULL, .ranks = 5, .n = 40}, 0);
}

static void test_windows(void **state)
{
    (void)state;
    scene s = {
        .kind = WINDOW, .ranks = 4, .n = 500, .causal = true, .window = 40, .dilation = {1, 1}};
    check_scene(&s, 0);
    s.zigzag = s.other = true;
    check_scene(&s, 0);
    s = (scene){.kind = WINDOW, .ranks = 8, .n = 1000, .window = 9, .dilation = {1, 3}};
    check_scene(&s, 2); /* thin: the first head's band; the second one's teeth */
    s.window = 0;
    check_scene(&s, 2);
    s = (scene){
        .kind = WINDOW, .ranks = 3, .n = 300, .window = 20, .dilation = {2, 2}, .causal = true};
    check_scene(&s, 1);
}

/* Heads over groups of ranks: what they exchange has a colour of its own. */
static void test_by_heads(void **state)
{
    (void)state;
    scene s = {.kind = FULL, .ranks = 4, .ways = 2, .n = 333, .causal = true};
    check_scene(&s, 0);
    s.ways = 4;
    check_scene(&s, 0);
    s = (scene){.kind = WINDOW, .ranks = 6, .ways = 3, .n = 600, .window = 130};
    s.dilation[0] = s.dilation[1] = 1;
    s.zigzag = s.causal = s.other = true;
    check_scene(&s, 0);
    s.n_global = 1;
    s.global[0] = 99;
    check_scene(&s, 0);
    s = (scene){.kind = WHEEL, .ranks = 4, .ways = 2, .n = 300, .causal = true, .window = 50};
    s.other = true;
    check_scene(&s, 0);
    s = (scene){.kind = PERFORMER, .ranks = 4, .ways = 4, .n = 200, .causal = true, .other = true};
    check_scene(&s, 0);
}

static void test_global_tokens(void **state)
{
    (void)state;
    scene s = {.kind = WINDOW, .ranks = 4, .n = 400, .window = 30, .dilation = {1, 1}};
    s.n_global = 3;
    s.global[1] = 1;
    s.global[2] = 250;
    check_scene(&s, 0);
    s.causal = s.zigzag = s.other = true;
    check_scene(&s, 0);
    s.n = 90; /* a cell is a position */
    s.global[2] = 77;
    check_scene(&s, 0);
    s = (scene){
        .kind = WINDOW, .ranks = 100, .n = 1700, .window = 5, .dilation = {1, 1}, .n_global = 1};
    s.global[0] = 850;
    check_scene(&s, 1);
}

static void test_summaries(void **state)
{
    (void)state;
    scene s = {.kind = PERFORMER, .ranks = 3, .n = 200, .causal = true, .other = true};
    check_scene(&s, 0);
    s.zigzag = true;
    check_scene(&s, 0);
    s = (scene){.kind = PERFORMER, .ranks = 98, .n = 1568};
    check_scene(&s, 1);
    s = (scene){.kind = LINFORMER, .ranks = 3, .n = 200, .landmarks = 13, .other = true};
    check_scene(&s, 0);
    s.landmarks = 150;
    check_scene(&s, 0);
}

/* A mechanism that says nothing of pictures, and whose pattern is no band. */
static void test_new_mechanism(void **state)
{
    (void)state;
    scene s = {.kind = WHEEL, .ranks = 3, .n = 300, .causal = true, .window = 50};
    check_scene(&s, 0);
    s.window = 7;
    check_scene(&s, 0);
    s.ranks = 98;
    s.n = 1568;
    check_scene(&s, 1);
}

/* Patterns whose own cover is no more than a hint. */
static void check_pattern(const lh_pattern *pattern)
{
    enum { N = 120, CELLS = 20 };
    lh_picture *p = NULL;
    lh_layout *l = NULL;
    lh_assert_ok(lh_layout_contiguous(N, 3, CHUNK, true, &l));
    lh_assert_ok(lh_picture_create(CELLS, &p));
    lh_picture_layer(p, 0, 1, "composed");
    lh_assert_ok(lh_picture_add(
        p, &(lh_picture_part){
               .n_heads = 1, .pattern = pattern, .queries = l, .keys = l, .far = LH_KIND_HALO}));
    const lh_panel *shown = &p->panel[0];
    for (int c = 0; c < shown->query.cells * shown->key.cells; c++) {
        const int64_t *q = shown->query.edge + c / shown->key.cells;
        const int64_t *k = shown->key.edge + c % shown->key.cells;
        int64_t seen = 0;
        for (int64_t i = q[0]; i < q[1]; i++)
            for (int64_t j = k[0]; j < k[1]; j++) seen += lh_pattern_sees(pattern, i, j);
        int64_t all = (q[1] - q[0]) * (k[1] - k[0]);
        assert_int_equal(shown->cell[c].cover, seen == 0     ? LH_EMPTY
                                               : seen == all ? LH_FULL
                                                             : LH_MIXED);
        assert_int_equal(shown->cell[c].kinds == 0, seen == 0);
    }
    lh_picture_destroy(&p);
    lh_layout_destroy(&l);
}

static void test_composed_patterns(void **state)
{
    (void)state;
    const int64_t column[] = {3, 50, 51, 52, 53, 54, 55, 119};
    const lh_pattern past = lh_pattern_band(-LH_FAR, -20);
    const lh_pattern coming = lh_pattern_band(-19, LH_FAR);
    const lh_pattern same = lh_test_same(5);
    const lh_pattern blocks = lh_test_blocks(40);
    const lh_pattern columns = lh_pattern_columns(column, sizeof column / sizeof column[0]);
    const lh_pattern both[] = {same, lh_pattern_or(&past, &coming), lh_pattern_and(&past, &columns),
                               lh_pattern_and(&same, &blocks), lh_pattern_or(&columns, &blocks)};
    for (size_t i = 0; i < sizeof both / sizeof both[0]; i++) check_pattern(&both[i]);
}

/* Many different layers: fewer cells, and no more pictures than a file should hold. */
static void test_size(void **state)
{
    (void)state;
    char text[8 * TEXT];
    int used = snprintf(text, sizeof text,
                        "mesh: {chunk: 16}\ndata: {length: 4096}\n"
                        "model: {layers: 40, width: 16, heads: 2, attention: [");
    for (int i = 0; i < 40; i++)
        used += snprintf(text + used, sizeof text - (size_t)used,
                         "{mechanism: sliding_window, window: %d, dilation: [1, 2]}, ", 900 + i);
    (void)snprintf(text + used, sizeof text - (size_t)used, "]}\n");
    lh_config *config = NULL;
    lh_step_plan *plan = NULL;
    char *svg = NULL;
    lh_assert_ok(lh_config_parse(text, strlen(text), "scene", LH_CONFIG_PARTIAL, &config));
    lh_assert_ok(lh_step_plan_create(config, 8, &plan));
    lh_assert_ok(lh_plan_draw(config, plan, &svg));
    check_well_formed(svg);
    assert_true(strlen(svg) < 2000000);
    assert_non_null(strstr(svg, "are not drawn: they differ too often"));
    lh_free(&svg);
    lh_step_plan_destroy(&plan);
    lh_config_destroy(&config);
}

static void test_memory_runs_out(void **state)
{
    (void)state;
    const scene s = {
        .kind = WINDOW, .ranks = 3, .n = 90, .window = 9, .dilation = {1, 2}, .n_global = 1};
    lh_config *config = NULL;
    lh_step_plan *plan = NULL;
    char *svg = NULL;
    lh_assert_ok(scene_config(&s, &config));
    lh_assert_ok(lh_step_plan_create(config, s.ranks, &plan));
    int64_t before = lh_new_count();
    lh_assert_ok(lh_plan_draw(config, plan, &svg));
    int64_t all = lh_new_count() - before;
    lh_free(&svg);
    for (int64_t n = 1; n <= all; n += 1 + n / 20) {
        lh_new_fail_at(n);
        lh_status st = lh_plan_draw(config, plan, &svg);
        lh_new_fail_at(0);
        assert_true(st == LH_ERR_MEMORY && svg == NULL);
        lh_error_clear();
    }
    lh_step_plan_destroy(&plan);
    lh_config_destroy(&config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_by_heads),
        cmocka_unit_test(test_global_tokens),
        cmocka_unit_test(test_summaries),
        cmocka_unit_test(test_new_mechanism),
        cmocka_unit_test(test_composed_patterns),
        cmocka_unit_test(test_size),
        cmocka_unit_test(test_memory_runs_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
