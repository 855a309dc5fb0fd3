#include "experiments/plan_command.h"

#include <inttypes.h>
#include <string.h>

#include "experiments/plan_exchange.h"
#include "io/metrics.h"

enum {
    COMMAND_TEXT = 32,
    COMMAND_ROWS = 32,   /* rows of the table of ranks, at most */
    COMMAND_SAMPLES = 16 /* rows of it when ranks differ too much */
};

/* --- JSON --- */

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
        lh_json_close(j);
    }
    lh_json_close(j);
    lh_json_object(j, "rest");
    command_json_layer(j, &p->rest);
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
        lh_json_close(j);
    }
    lh_json_close(j);
}

lh_status lh_plan_json(const lh_step_plan *p, FILE *out)
{
    lh_status st = LH_OK;
    lh_json j = {0};
    const char *text = NULL;
    lh_json_begin(&j);
    lh_json_int(&j, "parameters", p->parameters);
    lh_json_real(&j, "flops_step", p->flops);
    lh_json_real(&j, "sent_bytes_step", p->sent_bytes);
    lh_json_int(&j, "peak_bytes", p->peak_bytes);
    lh_json_int(&j, "parameter_bytes", p->parameter_bytes);
    lh_json_int(&j, "ranks", p->ranks);
    lh_json_int(&j, "data", p->data);
    lh_json_int(&j, "sequence", p->sequence);
    lh_json_int(&j, "length", p->config->data.length);
    lh_json_int(&j, "batch", p->config->data.batch);
    lh_json_int(&j, "accumulate", p->config->train.accumulate);
    lh_json_string(&j, "real", LH_REAL_NAME);
    lh_json_string(&j, "isa", p->isa);
    lh_json_int(&j, "threads", p->threads);
    lh_json_object(&j, "sent_bytes_by_purpose");
    for (int k = 0; k < LH_PURPOSES; k++)
        if (k != LH_SEND_OTHER) lh_json_real(&j, lh_purpose_name((lh_purpose)k), p->purpose[k]);
    lh_json_close(&j);
    command_json_layers(&j, p);
    lh_plan_exchange_json(&j, p);
    command_json_ranks(&j, p);
    LH_TRY(lh_json_text(&j, &text));
    (void)fprintf(out, "%s\n", text);
done:
    lh_json_free(&j);
    return st;
}

/* --- a table --- */

/* "12.3 MiB", "4.56 TFLOP": three digits. */
static const char *command_scaled(double x, double step, const char *const unit[], char *text)
{
    int i = 0;
    while (x >= 999.5 && unit[i + 1] != NULL) {
        x /= step;
        i++;
    }
    int digits = i == 0 || x >= 99.95 ? 0 : x >= 9.995 ? 1 : 2;
    (void)snprintf(text, COMMAND_TEXT, "%.*f %s", digits, x, unit[i]);
    return text;
}

static const char *command_bytes(double x, char *text)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", NULL};
    return command_scaled(x, 1024.0, unit, text);
}

static const char *command_flops(double x, char *text)
{
    static const char *const unit[] = {"FLOP",  "KFLOP", "MFLOP", "GFLOP",
                                       "TFLOP", "PFLOP", "EFLOP", NULL};
    return command_scaled(x, 1000.0, unit, text);
}

static const char *command_span(int first, int last, char *text)
{
    if (first == last)
        (void)snprintf(text, COMMAND_TEXT, "%d", first);
    else
        (void)snprintf(text, COMMAND_TEXT, "%d-%d", first, last);
    return text;
}

static void command_head(const lh_step_plan *p, FILE *out)
{
    const lh_config *c = p->config;
    char a[COMMAND_TEXT];
    char b[COMMAND_TEXT];
    (void)fprintf(out,
                  "%d rank%s (%d data x %d sequence), %d thread%s each, %s kernels, %s\n"
                  "a step: %" PRId64 " sequence%s of %" PRId64 " tokens in %" PRId64
                  " pass%s%s\n\n",
                  p->ranks, p->ranks == 1 ? "" : "s", p->data, p->sequence, p->threads,
                  p->threads == 1 ? "" : "s", p->isa, LH_REAL_NAME, c->data.batch,
                  c->data.batch == 1 ? "" : "s", c->data.length, c->train.accumulate,
                  c->train.accumulate == 1 ? "" : "es",
                  c->train.recompute == LH_RECOMPUTE_BLOCK ? ", blocks recomputed" : "");
    (void)fprintf(out, "parameters   %" PRId64 "; with gradients and moments %s a rank\n",
                  p->parameters, command_bytes((double)p->parameter_bytes, a));
    (void)fprintf(out, "work         %s a step; %s a rank in the mean\n",
                  command_flops(p->flops, a), command_flops(p->flops / (double)p->ranks, b));
    (void)fprintf(out, "sent         %s a step and rank in the mean:\n",
                  command_bytes(p->sent_bytes, a));
    for (int k = 0; k < LH_PURPOSES; k++)
        if (p->purpose[k] > 0.0)
            (void)fprintf(out, "             %-20s %s\n", lh_purpose_name((lh_purpose)k),
                          command_bytes(p->purpose[k], a));
    (void)fprintf(out, "step memory  %s on the rank that needs most\n\n",
                  command_bytes((double)p->peak_bytes, a));
}

static bool command_same_layer(const lh_layer_plan *a, const lh_layer_plan *b)
{
    return strcmp(a->mechanism, b->mechanism) == 0 && a->parameters == b->parameters &&
           a->flops == b->flops && a->forward_bytes == b->forward_bytes &&
           a->backward_bytes == b->backward_bytes && a->summary_bytes == b->summary_bytes &&
           a->recompute_bytes == b->recompute_bytes && a->peak_bytes == b->peak_bytes;
}

static void command_layer(const char *name, const lh_layer_plan *l, FILE *out)
{
    char t[3][COMMAND_TEXT];
    (void)fprintf(out, "%-11s  %-16s %12" PRId64 " %12s %12s %12s\n", name,
                  l->mechanism != NULL ? l->mechanism : "", l->parameters,
                  command_flops(l->flops, t[0]), command_bytes(l->sent_bytes, t[1]),
                  command_bytes((double)l->peak_bytes, t[2]));
}

static void command_layers(const lh_step_plan *p, FILE *out)
{
    char name[COMMAND_TEXT];
    (void)fprintf(out, "%-11s  %-16s %12s %12s %12s %12s\n", "layer", "mechanism", "parameters",
                  "work", "sent", "memory");
    for (int i = 0; i < p->layers;) {
        int end = i + 1;
        while (end < p->layers && command_same_layer(&p->layer[i], &p->layer[end])) end++;
        command_layer(command_span(i, end - 1, name), &p->layer[i], out);
        i = end;
    }
    command_layer("rest", &p->rest, out);
    (void)fprintf(out,
                  "work of all ranks; sent: mean over ranks; memory: most that a layer's values "
                  "take at one moment\n\n");
}

static bool command_same_rank(const lh_rank_plan *a, const lh_rank_plan *b)
{
    return a->rows == b->rows && a->flops == b->flops && a->sent_bytes == b->sent_bytes &&
           a->peak_bytes == b->peak_bytes;
}

static void command_rank(const char *name, const lh_rank_plan *r, FILE *out)
{
    char t[3][COMMAND_TEXT];
    (void)fprintf(out, "%-11s %12" PRId64 " %12s %12s %12s\n", name, r->rows,
                  command_flops(r->flops, t[0]), command_bytes((double)r->sent_bytes, t[1]),
                  command_bytes((double)r->peak_bytes, t[2]));
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
    char name[COMMAND_TEXT];
    int groups = 0;
    (void)fprintf(out, "%-11s %12s %12s %12s %12s\n", p->data == 1 ? "rank" : "in sequence", "rows",
                  "work", "sent", "memory");
    for (int i = 0; i < p->sequence; i = command_rank_end(p, i)) groups++;
    if (groups <= COMMAND_ROWS) {
        for (int i = 0, end = 0; i < p->sequence; i = end) {
            end = command_rank_end(p, i);
            command_rank(command_span(i, end - 1, name), &p->rank[i], out);
        }
        return;
    }
    for (int k = 0; k < COMMAND_SAMPLES; k++) {
        int i = (int)((int64_t)k * (p->sequence - 1) / (COMMAND_SAMPLES - 1));
        command_rank(command_span(i, i, name), &p->rank[i], out);
    }
    (void)fprintf(out, "%d of %d ranks; all of them: --json\n", COMMAND_SAMPLES, p->sequence);
}

void lh_plan_table(const lh_step_plan *p, FILE *out)
{
    command_head(p, out);
    command_layers(p, out);
    lh_plan_exchange_table(p, out);
    command_ranks(p, out);
}

void lh_plan_help(FILE *out)
{
    (void)fprintf(
        out,
        "longhaul plan FILE.yaml [--set KEY=VALUE]... [--ranks P] [--json]\n\n"
        "Says what a training step costs, without running it: parameters, flops, bytes sent and\n"
        "memory, by layer and by rank. One process, without a launcher, for any number of ranks;\n"
        "no data file is opened. What is counted and what the formulas give must agree.\n\n"
        "  --ranks P          ranks in all (default: mesh.data, one rank a sequence)\n"
        "  --json             one JSON object on one line:\n\n"
        "  parameters         learned numbers of the model\n"
        "  flops_step         of all ranks: forward, recomputed, backward; products and attention\n"
        "  sent_bytes_step    mean over ranks, as sent_bytes in metrics.jsonl\n"
        "  peak_bytes         step memory, largest over ranks, as peak_bytes in metrics.jsonl; of\n"
        "                     a layer: the most that its values take at one moment\n"
        "  parameter_bytes    values, gradients and moments, largest over ranks\n"
        "  ranks, data, sequence, length, batch, accumulate, real, isa, threads\n"
        "  sent_bytes_by_purpose\n"
        "  layers             each with layer, mechanism, the first four, and sent_bytes_step as\n"
        "                     forward_bytes, backward_bytes, summary_bytes, recompute_bytes\n"
        "  rest               the first four of what belongs to no layer; sent: the gradients of\n"
        "                     all parameters, the two small reductions of a step, and learned\n"
        "                     positions where max_length is not the length\n"
        "  exchanges          what a layer's attention would send by ring, and by ulysses for "
        "every\n"
        "                     size of group: layer, exchange, ulysses, sent_bytes_step, busiest\n"
        "                     (scores of the rank that has most, of the mean), fewest_bytes, used\n"
        "  ranks_list         each with rank, rows, parameter_bytes, flops_step, sent_bytes_step,\n"
        "                     peak_bytes\n\n"
        "Memory depends on threads and isa: device.threads, else OMP_NUM_THREADS, else the\n"
        "processors here divided by the ranks; device.isa, else the best of this machine.\n");
}
