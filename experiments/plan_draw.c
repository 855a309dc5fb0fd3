#include "experiments/plan_draw.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "experiments/picture_svg.h"
#include "experiments/units.h"
#include "io/settings_fill.h"

enum { DRAW_LINES = 6, DRAW_PANELS = 32 };

/* Cells a side, by number of panels: so that the file stays small. */
static const struct {
    int64_t panels;
    int side;
} draw_sides[] = {{4, 96}, {9, 64}, {DRAW_PANELS, 40}};
enum { DRAW_SIDES = sizeof draw_sides / sizeof draw_sides[0] };

/* "sliding_window, causal; window: 256, dilation: 1, global: none" */
static lh_status draw_label(const lh_config *c, int layer, char *label, size_t bytes)
{
    lh_status st = LH_OK;
    const lh_attn_choice *a = &c->model.attention[layer];
    lh_yaml *y = NULL;
    lh_node *map = NULL;
    char *text = NULL;
    LH_TRY(lh_yaml_create(&y));
    LH_TRY(lh_yaml_map(y, &map));
    LH_TRY(lh_settings_emit(y, a->ops->settings, a->settings, true, map));
    if (map->count > 0) LH_TRY(lh_yaml_emit(map, &text));
    int used = snprintf(label, bytes, "%s, %s", a->ops->name,
                        c->model.kind == LH_MODEL_DECODER ? "causal" : "bidirectional");
    const char *rest = text != NULL ? text : "";
    for (const char *join = "; "; *rest != '\0' && (size_t)used < bytes; join = ", ") {
        size_t n = strcspn(rest, "\n");
        used += snprintf(label + used, bytes - (size_t)used, "%s%.*s", join, (int)n, rest);
        rest += n + (rest[n] == '\n');
    }
done:
    lh_free(&text);
    lh_yaml_destroy(&y);
    return st;
}

/* What the plan says of the tiles of a panel's heads. */
static void draw_tiles(const lh_step_plan *p, lh_panel *panel)
{
    const lh_head_tiles *g = &p->head[panel->layer[0] * p->config->model.heads + panel->head];
    char t[3][LH_UNITS_TEXT];
    if (g->ranks == 0) {
        (void)snprintf(panel->tiles, sizeof panel->tiles, "tiles: none, no scores are computed");
        return;
    }
    int used = snprintf(panel->tiles, sizeof panel->tiles,
                        "tiles (at most %d x %d) of a head and sequence: FULL %" PRId64
                        ", MIXED %" PRId64 ", EMPTY %" PRId64,
                        LH_TILE_Q, LH_TILE_K, g->sum.full, g->sum.mixed, g->sum.empty);
    if (p->sequence == 1) return;
    (void)snprintf(panel->tiles + used, sizeof panel->tiles - (size_t)used,
                   "; of one rank: FULL %s, MIXED %s, EMPTY %s",
                   lh_units_range(g->least.full, g->most.full, t[0]),
                   lh_units_range(g->least.mixed, g->most.mixed, t[1]),
                   lh_units_range(g->least.empty, g->most.empty, t[2]));
}

/* All layers, with as many cells as the number of panels allows. */
static lh_status draw_panels(const lh_session *s, const lh_step_plan *p, lh_picture **out)
{
    lh_status st = LH_OK;
    lh_picture *picture = NULL;
    char label[LH_PICTURE_TEXT];
    *out = NULL;
    for (int i = 0; i < DRAW_SIDES; i++) {
        lh_picture_destroy(&picture);
        LH_TRY(lh_picture_create(draw_sides[i].side, &picture));
        for (int l = 0; l < p->layers; l++) {
            if (picture->n_panels > draw_sides[i].panels) break;
            LH_TRY(draw_label(p->config, l, label, sizeof label));
            LH_TRY(lh_model_draw(s->model, s->tape, l, p->ways, label, picture));
        }
        if (picture->n_panels <= draw_sides[i].panels) break;
    }
    for (int64_t i = 0; i < picture->n_panels; i++) draw_tiles(p, &picture->panel[i]);
    *out = picture;
    picture = NULL;
done:
    lh_picture_destroy(&picture);
    return st;
}

/* What the data may hide, or where the picture stops. */
static const char *draw_caveat(const lh_step_plan *p, const lh_picture *picture)
{
    const lh_config *c = p->config;
    int last = 0;
    for (int64_t i = 0; i < picture->n_panels; i++)
        for (int64_t k = 0; k < picture->panel[i].n_layers; k++)
            if (picture->panel[i].layer[k] > last) last = picture->panel[i].layer[k];
    if (last + 1 < p->layers)
        return "layers behind the last one that is named here are not drawn: they differ too often";
    if (c->data.documents != LH_AUTO)
        return "attention also stops at the borders of documents, which only the data know";
    return "";
}

/* The lines above the picture. */
static int draw_head(const lh_step_plan *p, const lh_picture *picture,
                     char line[DRAW_LINES][LH_PICTURE_TEXT])
{
    const lh_config *c = p->config;
    char t[4][LH_UNITS_TEXT];
    int n = 0;
    (void)snprintf(line[n++], LH_PICTURE_TEXT,
                   "%s: %s, %d layers of %" PRId64 " heads (%" PRId64 " key/value heads)",
                   c->run.name, c->model.kind == LH_MODEL_DECODER ? "decoder" : "encoder",
                   p->layers, c->model.heads, c->model.kv_heads);
    (void)snprintf(line[n++], LH_PICTURE_TEXT,
                   "%" PRId64 " positions on %d rank%s (%d data x %d sequence), layout %s, chunk "
                   "%" PRId64,
                   c->data.length, p->ranks, p->ranks == 1 ? "" : "s", p->data, p->sequence,
                   c->mesh.layout == LH_LAYOUT_ZIGZAG ? "zigzag" : "contiguous", c->mesh.chunk);
    (void)snprintf(line[n++], LH_PICTURE_TEXT,
                   "a %s: %s, %s sent by a rank in the mean, %s memory at most, %s parameters",
                   p->forward_only ? "forward pass" : "step", lh_units_flops(p->flops, t[0]),
                   lh_units_bytes(p->sent_bytes, t[1]), lh_units_bytes((double)p->peak_bytes, t[2]),
                   lh_units_count((double)p->parameters, t[3]));
    (void)snprintf(line[n++], LH_PICTURE_TEXT,
                   "tiles: blocks of queries by keys in the forward, as the kernel takes them: "
                   "FULL computed, MIXED computed and masked, EMPTY left out");
    (void)snprintf(line[n], LH_PICTURE_TEXT, "%s", draw_caveat(p, picture));
    return line[n][0] == '\0' ? n : n + 1;
}

lh_status lh_plan_draw(lh_config *config, const lh_step_plan *plan, char **svg)
{
    lh_status st = LH_OK;
    lh_session *s = NULL;
    lh_picture *picture = NULL;
    char text[DRAW_LINES][LH_PICTURE_TEXT];
    const char *line[DRAW_LINES];
    int exchange = config->mesh.exchange;
    *svg = NULL;
    /* with all heads on every rank: who sees whom is the same, and nothing is missing on rank 0 */
    config->mesh.exchange = LH_EXCHANGE_RING;
    LH_TRY(lh_session_open_counting(config, plan->ranks, 0, &s));
    LH_TRY(draw_panels(s, plan, &picture));
    int n = draw_head(plan, picture, text);
    for (int i = 0; i < n; i++) line[i] = text[i];
    LH_TRY(lh_picture_svg(picture, line, n, svg));
done:
    lh_picture_destroy(&picture);
    lh_session_close(&s);
    config->mesh.exchange = exchange;
    return st;
}
