#include "experiments/plan_command.h"

#include <inttypes.h>
#include <string.h>

#include "experiments/plan_exchange.h"
#include "experiments/units.h"
#include "io/metrics.h"

enum {
    COMMAND_ROWS = 32,   /* rows of the table of ranks, at most */
    COMMAND_SAMPLES = 16 /* rows of it when ranks differ too much */
};

/* --- JSON --- */

static void command_json_tiles(lh_json *j, const lh_tile_count *t)
{
    lh_json_int(j, "tiles_empty", t->empty);
    lh_json_int(j, "tiles_mixed", t->mixed);
    lh_json_int(j, "tiles_full", t->full);
}

static void command_json_layer(lh_json *j, const lh_layer_plan *l)
{
    lh_json_int(j, "parameters", l->parameters);
    lh_json_real(j, "flops_step", l->flops);
    lh_json_real(j, "sent_bytes_step", l->sent_bytes);
    lh_json_int(j, "peak_bytes", l->peak_bytes);
}

static void command_json_layers(lh_json *j, const lh_step_plan *p)
{
    lh_json_array(j, "layers");
    for (int i = 0; i < p->layers; i++) {
        const lh_layer_plan *l = &p->layer[i];
        lh_json_object(j, NULL);
        lh_json_int(j, "layer", i);
        lh_json_string(j, "mechanism", l->mechanism);
        command_json_layer(j, l);
        lh_json_real(j, "forward_bytes", l->forward_bytes);
        lh_json_real(j, "backward_bytes", l->backward_bytes);
        lh_json_real(j, "summary_bytes", l->summary_bytes);
        lh_json_real(j, "recompute_bytes", l->recompute_bytes);
        command_json_tiles(j, &l->tiles);
        lh_json_close(j);
    }
    lh_json_close(j);
    lh_json_object(j, "rest");
    command_json_layer(j, &p->rest);
    lh_json_close(j);
}

/* Of one head and sequence: over all ranks, and least and most of a rank. */
static void command_json_group(lh_json *j, int layer, const lh_group_plan *g)
{
    const lh_head_tiles *t = &g->tiles;
    lh_json_object(j, NULL);
    lh_json_int(j, "layer", layer);
    lh_json_int(j, "head", g->head);
    lh_json_int(j, "heads", g->n_heads);
    lh_json_int(j, "empty", t->sum.empty);
    lh_json_int(j, "mixed", t->sum.mixed);
    lh_json_int(j, "full", t->sum.full);
    lh_json_int(j, "least_empty", t->least.empty);
    lh_json_int(j, "least_mixed", t->least.mixed);
    lh_json_int(j, "least_full", t->least.full);
    lh_json_int(j, "most_empty", t->most.empty);
    lh_json_int(j, "most_mixed", t->most.mixed);
    lh_json_int(j, "most_full", t->most.full);
    lh_json_close(j);
}

static void command_json_groups(lh_json *j, const lh_step_plan *p)
{
    lh_group_plan g;
    lh_json_array(j, "tiles");
    for (int l = 0; l < p->layers; l++)
        for (int64_t head = 0; lh_step_plan_group(p, l, &head, &g);) command_json_group(j, l, &g);
    lh_json_close(j);
}

static void command_json_ranks(lh_json *j, const lh_step_plan *p)
{
    lh_json_array(j, "ranks_list");
    for (int i = 0; i < p->ranks; i++) {
        const lh_rank_plan *r = &p->rank[i % p->sequence];
        lh_json_object(j, NULL);
        lh_json_int(j, "rank", i);
        lh_json_int(j, "rows", r->rows);
        lh_json_int(j, "parameter_bytes", r->parameter_bytes);
        lh_json_real(j, "flops_step", r->flops);
        lh_json_int(j, "sent_bytes_step", r->sent_bytes);
        lh_json_int(j, "peak_bytes", r->peak_bytes);
        command_json_tiles(j, &r->tiles);
        lh_json_close(j);
    }
    lh_json_close(j);
}

lh_status lh_plan_json(const lh_step_plan *p, FILE *out)
{
    lh_status st = LH_OK;
    lh_json j = {0};
    lh_json_begin(&j);
    lh_json_int(&j, "parameters", p->parameters);
    lh_json_real(&j, "flops_step", p->flops);
    lh_json_real(&j, "sent_bytes_step", p->sent_bytes);
    lh_json_int(&j, "peak_bytes", p->peak_bytes);
    lh_json_int(&j, "parameter_bytes", p->parameter_bytes);
    lh_json_string(&j, "pass", p->forward_only ? "forward" : "step");
    lh_json_int(&j, "ranks", p->ranks);
    lh_json_int(&j, "data", p->data);
    lh_json_int(&j, "sequence", p->sequence);
    lh_json_int(&j, "length", p->config->data.length);
    lh_json_int(&j, "batch", p->config->data.batch);
    lh_json_int(&j, "accumulate", p->config->train.accumulate);
    lh_json_string(&j, "real", LH_REAL_NAME);
    lh_json_string(&j, "store", lh_config_store_name(p->config));
    lh_json_string(&j, "isa", p->isa);
    lh_json_int(&j, "threads", p->threads);
    lh_json_object(&j, "sent_bytes_by_purpose");
    for (int k = 0; k < LH_PURPOSES; k++)
        if (k != LH_SEND_OTHER) lh_json_real(&j, lh_purpose_name((lh_purpose)k), p->purpose[k]);
    lh_json_close(&j);
    command_json_tiles(&j, &p->tiles);
    command_json_layers(&j, p);
    lh_plan_exchange_json(&j, p);
    command_json_groups(&j, p);
    command_json_ranks(&j, p);
    LH_TRY(lh_json_print(&j, out));
done:
    lh_json_free(&j);
    return st;
}

/* --- a table --- */

static const char *command_plural(int64_t n, const char *many)
{
    return n == 1 ? "" : many;
}

/* What is planned: a training step, or a forward pass. */
static void command_pass(const lh_step_plan *p, FILE *out)
{
    static const char *const again[] = {[LH_RECOMPUTE_NONE] = "",
                                        [LH_RECOMPUTE_ATTENTION] = ", attention recomputed",
                                        [LH_RECOMPUTE_BLOCK] = ", blocks recomputed"};
    const lh_config *c = p->config;
    int64_t sequences = p->forward_only ? c->data.batch / c->train.accumulate : c->data.batch;
    (void)fprintf(out, "%s: %" PRId64 " sequence%s of %" PRId64 " tokens",
                  p->forward_only ? "a forward pass, since the model's head has no loss" : "a step",
                  sequences, command_plural(sequences, "s"), c->data.length);
    if (!p->forward_only)
        (void)fprintf(out, " in %" PRId64 " pass%s%s", c->train.accumulate,
                      command_plural(c->train.accumulate, "es"), again[c->train.recompute]);
    (void)fprintf(out, "\n\n");
}

static void command_head(const lh_step_plan *p, FILE *out)
{
    char a[LH_UNITS_TEXT];
    char b[LH_UNITS_TEXT];
    const char *what = p->forward_only ? "pass" : "step";
    (void)fprintf(out, "%d rank%s (%d data x %d sequence), %d thread%s each, %s kernels, %s%s\n",
                  p->ranks, command_plural(p->ranks, "s"), p->data, p->sequence, p->threads,
                  command_plural(p->threads, "s"), p->isa, LH_REAL_NAME,
                  lh_config_store(p->config) == LH_BF16 ? ", stored as bfloat16" : "");
    command_pass(p, out);
    (void)fprintf(out, "parameters   %" PRId64 "; %s%s a rank\n", p->parameters,
                  p->forward_only ? "" : "with gradients and moments ",
                  lh_units_bytes((double)p->parameter_bytes, a));
    (void)fprintf(out, "work         %s a %s; %s a rank in the mean\n", lh_units_flops(p->flops, a),
                  what, lh_units_flops(p->flops / (double)p->ranks, b));
    (void)fprintf(out, "sent         %s a %s and rank in the mean:\n",
                  lh_units_bytes(p->sent_bytes, a), what);
    for (int k = 0; k < LH_PURPOSES; k++)
        if (p->purpose[k] > 0.0)
            (void)fprintf(out, "             %-20s %s\n", lh_purpose_name((lh_purpose)k),
                          lh_units_bytes(p->purpose[k], a));
    (void)fprintf(out, "%s memory  %s on the rank that needs most\n\n", what,
                  lh_units_bytes((double)p->peak_bytes, a));
}

static bool command_same_layer(const lh_layer_plan *a, const lh_layer_plan *b)
{
    return strcmp(a->mechanism, b->mechanism) == 0 && a->parameters == b->parameters &&
           a->flops == b->flops && a->forward_bytes == b->forward_bytes &&
           a->backward_bytes == b->backward_bytes && a->summary_bytes == b->summary_bytes &&
           a->recompute_bytes == b->recompute_bytes && a->peak_bytes == b->peak_bytes;
}

enum { COMMAND_WAYS = 4 };

/* What of a layer's bytes goes which way. */
static void command_ways(const lh_layer_plan *l, double way[COMMAND_WAYS])
{
    way[0] = l->forward_bytes;
    way[1] = l->backward_bytes;
    way[2] = l->summary_bytes;
    way[3] = l->recompute_bytes;
}

/* shown: which ways have a column. */
static void command_layer(const char *name, const lh_layer_plan *l, const bool *shown, FILE *out)
{
    char t[3][LH_UNITS_TEXT];
    double way[COMMAND_WAYS];
    (void)fprintf(out, "%-11s  %-16s %12" PRId64 " %12s %12s %12s", name,
                  l->mechanism != NULL ? l->mechanism : "", l->parameters,
                  lh_units_flops(l->flops, t[0]), lh_units_bytes((double)l->peak_bytes, t[1]),
                  lh_units_bytes(l->sent_bytes, t[2]));
    command_ways(l, way);
    for (int i = 0; i < COMMAND_WAYS; i++)
        if (shown[i]) (void)fprintf(out, " %10s", lh_units_bytes(way[i], t[0]));
    (void)fprintf(out, "\n");
}

static void command_layers(const lh_step_plan *p, FILE *out)
{
    static const char *const way_name[COMMAND_WAYS] = {"forward", "backward", "summary", "again"};
    char name[LH_UNITS_TEXT];
    bool shown[COMMAND_WAYS] = {false};
    for (int i = 0; i < p->layers; i++) {
        double way[COMMAND_WAYS];
        command_ways(&p->layer[i], way);
        for (int k = 0; k < COMMAND_WAYS; k++) shown[k] = shown[k] || way[k] > 0.0;
    }
    (void)fprintf(out, "%-11s  %-16s %12s %12s %12s %12s", "layer", "mechanism", "parameters",
                  "work", "memory", "sent");
    for (int k = 0; k < COMMAND_WAYS; k++)
        if (shown[k]) (void)fprintf(out, " %10s", way_name[k]);
    (void)fprintf(out, "\n");
    for (int i = 0; i < p->layers;) {
        int end = i + 1;
        while (end < p->layers && command_same_layer(&p->layer[i], &p->layer[end])) end++;
        command_layer(lh_units_range(i, end - 1, name), &p->layer[i], shown, out);
        i = end;
    }
    command_layer("rest", &p->rest, shown, out);
    (void)fprintf(out,
                  "of each layer; work: all ranks; memory: most that its values take at one "
                  "moment; sent: mean over ranks%s\n\n",
                  shown[3] ? "; again: for what is recomputed" : "");
}

/* Do two layers have the same tiles, head by head? */
static bool command_same_tiles(const lh_step_plan *p, int a, int b)
{
    int64_t heads = p->config->model.heads;
    return memcmp(&p->head[a * heads], &p->head[b * heads], (size_t)heads * sizeof *p->head) == 0;
}

static void command_group(const char *layers, const lh_group_plan *g, FILE *out)
{
    char t[4][LH_UNITS_TEXT];
    const lh_tile_count *sum = &g->tiles.sum;
    const lh_tile_count *least = &g->tiles.least;
    const lh_tile_count *most = &g->tiles.most;
    (void)fprintf(out, "%-11s  %-7s %12" PRId64 " %12" PRId64 " %14" PRId64 "  %s / %s / %s\n",
                  layers, lh_units_range(g->head, g->head + g->n_heads - 1, t[0]), sum->full,
                  sum->mixed, sum->empty, lh_units_range(least->full, most->full, t[1]),
                  lh_units_range(least->mixed, most->mixed, t[2]),
                  lh_units_range(least->empty, most->empty, t[3]));
}

/* Tiles by layer and head group; layers without scores have none. */
static void command_tiles(const lh_step_plan *p, FILE *out)
{
    char name[LH_UNITS_TEXT];
    lh_group_plan g;
    bool some = false;
    for (int64_t h = 0; h < p->layers * p->config->model.heads; h++)
        some = some || p->head[h].ranks > 0;
    if (!some) return;
    (void)fprintf(out, "%-11s  %-7s %12s %12s %14s  %s\n", "tiles", "heads", "FULL", "MIXED",
                  "EMPTY", "the same of one rank");
    for (int l = 0, end = 0; l < p->layers; l = end) {
        for (end = l + 1; end < p->layers && command_same_tiles(p, l, end);) end++;
        for (int64_t head = 0; lh_step_plan_group(p, l, &head, &g);)
            command_group(lh_units_range(l, end - 1, name), &g, out);
    }
    (void)fprintf(out,
                  "blocks of up to %d queries by %d keys, of one head and sequence, forward: FULL "
                  "computed,\nMIXED computed and masked, EMPTY left out\n\n",
                  LH_TILE_Q, LH_TILE_K);
}

static bool command_same_rank(const lh_rank_plan *a, const lh_rank_plan *b)
{
    return a->rows == b->rows && a->flops == b->flops && a->sent_bytes == b->sent_bytes &&
           a->peak_bytes == b->peak_bytes && a->parameter_bytes == b->parameter_bytes &&
           memcmp(&a->tiles, &b->tiles, sizeof a->tiles) == 0;
}

static void command_rank(const char *name, const lh_rank_plan *r, FILE *out)
{
    char t[4][LH_UNITS_TEXT];
    (void)fprintf(out, "%-11s %12" PRId64 " %12s %12s %12s %12s %12" PRId64 "\n", name, r->rows,
                  lh_units_flops(r->flops, t[0]), lh_units_bytes((double)r->peak_bytes, t[1]),
                  lh_units_bytes((double)r->parameter_bytes, t[2]),
                  lh_units_bytes((double)r->sent_bytes, t[3]), r->tiles.mixed + r->tiles.full);
}

/* First rank after `first` that does something else. */
static int command_rank_end(const lh_step_plan *p, int first)
{
    int end = first + 1;
    while (end < p->sequence && command_same_rank(&p->rank[first], &p->rank[end])) end++;
    return end;
}

/* Neighbours that do the same share a row; where that leaves too many rows, ranks at even distances
 * stand for all. */
static void command_ranks(const lh_step_plan *p, FILE *out)
{
    char name[LH_UNITS_TEXT];
    int groups = 0;
    (void)fprintf(out, "%-11s %12s %12s %12s %12s %12s %12s\n",
                  p->data == 1 ? "rank" : "in sequence", "rows", "work", "memory", "parameters",
                  "sent", "tiles");
    for (int i = 0; i < p->sequence; i = command_rank_end(p, i)) groups++;
    if (groups <= COMMAND_ROWS) {
        for (int i = 0, end = 0; i < p->sequence; i = end) {
            end = command_rank_end(p, i);
            command_rank(lh_units_range(i, end - 1, name), &p->rank[i], out);
        }
        goto done;
    }
    for (int k = 0; k < COMMAND_SAMPLES; k++) {
        int i = (int)((int64_t)k * (p->sequence - 1) / (COMMAND_SAMPLES - 1));
        command_rank(lh_units_range(i, i, name), &p->rank[i], out);
    }
    (void)fprintf(out, "%d of %d ranks; all of them: --json\n", COMMAND_SAMPLES, p->sequence);
done:
    (void)fprintf(out,
                  "parameters: with gradients and moments; tiles: computed, of all layers, heads "
                  "and sequences\n");
}

void lh_plan_table(const lh_step_plan *p, FILE *out)
{
    command_head(p, out);
    command_layers(p, out);
    lh_plan_exchange_table(p, out);
    command_tiles(p, out);
    command_ranks(p, out);
}

static void command_help_tiles(FILE *out)
{
    (void)fprintf(
        out,
        "Tiles are the blocks in which the kernel computes scores: at most %d queries of a chunk\n"
        "(under dilation, of one residue class) by %d keys of what a rank holds. full: all pairs "
        "are\n"
        "seen; mixed: computed, then masked; empty: as many blocks as the keys would make that a\n"
        "block of queries leaves out. full and mixed are what the kernel is given in a run.\n\n"
        "Memory depends on threads and isa: device.threads, else OMP_NUM_THREADS, else the\n"
        "processors here divided by the ranks; device.isa, else the best of this machine.\n",
        LH_TILE_Q, LH_TILE_K);
}

lh_status lh_plan_points(const lh_config_source *source, bool json, FILE *out)
{
    lh_status st = LH_OK;
    lh_sweep *sweep = NULL;
    char text[LH_SWEEP_TEXT];
    LH_TRY(lh_sweep_load(source, &sweep));
    LH_CHECK(sweep->swept, LH_ERR_USAGE, "%s has no sweep, so it has no points: leave out --points",
             source->path);
    if (json) (void)fprintf(out, "%s\n", sweep->json);
    for (int64_t i = 0; i < sweep->count && !json; i++)
        (void)fprintf(out, "%" PRId64 " %s\n", i + 1, lh_sweep_text(&sweep->point[i], text));
done:
    lh_sweep_destroy(&sweep);
    return st;
}

void lh_plan_help(FILE *out)
{
    (void)fprintf(
        out,
        "longhaul plan FILE.yaml [--set KEY=VALUE]... [--ranks P] [--point K] [--json] [--draw "
        "OUT.svg]\n\n"
        "Says what a training step costs, without running it: parameters, flops, bytes sent and\n"
        "memory, by layer and by rank. One process, without a launcher, for any number of ranks;\n"
        "no data file is opened. What is counted and what the formulas give must agree.\n"
        "A model whose head has no loss (model.head pooler or none) has no step: then all figures\n"
        "are of one forward pass.\n\n"
        "  --ranks P          ranks in all (default: mesh.data, one rank a sequence)\n"
        "  --point K          this point of a sweep; --points lists them, one a line, and plans "
        "none\n"
        "  --draw OUT.svg     also a picture of who sees whom, by layer and head group: queries "
        "(down)\n"
        "                     by keys, both in order of position, so that a rank has one stretch, "
        "or\n"
        "                     two in layout zigzag. Colours say how a key comes to its query: "
        "local,\n"
        "                     halo, global, summary, all-to-all; shades, how much of a cell is "
        "seen. Layers "
        "that\n"
        "                     are alike share a picture; a second one enlarges the surroundings of "
        "a\n"
        "                     border where bands or shards are thinner than cells. What only the "
        "data\n"
        "                     know (documents, padding, global tokens named by the task) is left "
        "out\n"
        "  --json             one JSON object on one line:\n\n"
        "  parameters         learned numbers of the model\n"
        "  flops_step         of all ranks: forward, recomputed, backward; products and attention\n"
        "  sent_bytes_step    mean over ranks, as sent_bytes in metrics.jsonl\n"
        "  peak_bytes         step memory, largest over ranks, as peak_bytes in metrics.jsonl; of\n"
        "                     a layer: the most that its values take at one moment\n"
        "  parameter_bytes    values, gradients and moments, largest over ranks\n"
        "  pass               step, or forward: the model's head has no loss\n"
        "  ranks, data, sequence, length, batch, accumulate, real, store, isa, threads\n"
        "  sent_bytes_by_purpose\n"
        "  tiles_empty, tiles_mixed, tiles_full: see below; of all ranks, heads and sequences of "
        "a\n"
        "                     step's forward (recomputed ones count once)\n"
        "  layers             each with layer, mechanism, the first four, sent_bytes_step as\n"
        "                     forward_bytes, backward_bytes, summary_bytes, recompute_bytes, and\n"
        "                     the three of tiles\n"
        "  rest               the first four of what belongs to no layer; sent: the gradients of\n"
        "                     all parameters, the two small reductions of a step, learned\n"
        "                     positions where max_length is not the length, and the row of each\n"
        "                     sequence in heads class and pooler\n"
        "  exchanges          what a layer's attention would send by ring, and by ulysses for "
        "every\n"
        "                     size of group: layer, exchange, ulysses, sent_bytes_step, busiest\n"
        "                     (scores of the rank that has most, of the mean), fewest_bytes, used\n"
        "  tiles              by layer and head group, of one head and one sequence: layer, head,\n"
        "                     heads, empty, mixed, full over all ranks, and of the rank that has\n"
        "                     least_empty, ..., most_full\n"
        "  ranks_list         each with rank, rows, parameter_bytes, flops_step, sent_bytes_step,\n"
        "                     peak_bytes, and the three of tiles\n\n");
    command_help_tiles(out);
}
