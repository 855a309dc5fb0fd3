/* The schema of the experiment file. Defaults are the ones README.md and --help show. */
#include "experiments/config_internal.h"
#include "experiments/listops.h"

#define CONFIG_MANY                                                                                \
    1e9 /* counts of things: far above any use, far below overflow in a product of two */
#define CONFIG_LONG 1e12 /* positions and steps */

/* Places in a section's struct; the macros only shorten the tables. */
#define AT_RUN(member) offsetof(lh_config_run, member)
#define AT_MESH(member) offsetof(lh_config_mesh, member)
#define AT_DATA(member) offsetof(lh_config_data, member)
#define AT_MODEL(member) offsetof(lh_model_desc, member)
#define AT_OPT(member) offsetof(lh_config_optimizer, member)
#define AT_SCHEDULE(member) offsetof(lh_config_schedule, member)
#define AT_TRAIN(member) offsetof(lh_config_train, member)
#define AT_CHECKPOINT(member) offsetof(lh_config_checkpoint, member)
#define AT_DEVICE(member) offsetof(lh_config_device, member)

/* clang-format off */
static const lh_field fields_run[] = {
    {.name = "name", .type = LH_FIELD_STRING, .offset = AT_RUN(name), .fallback = "quickstart",
     .help = "the run's folder below output"},
    {.name = "seed", .type = LH_FIELD_INT, .offset = AT_RUN(seed), .fallback = "1", .min = 0,
     .max = LH_NO_LIMIT, .help = "of initial weights, data order and dropout"},
    {.name = "output", .type = LH_FIELD_PATH, .offset = AT_RUN(output), .fallback = "runs",
     .help = "the folder that holds runs"},
    {.name = "init", .type = LH_FIELD_PATH, .offset = AT_RUN(init), .fallback = "",
     .help = "a checkpoint to take initial weights from"},
    {.name = NULL}};

static const lh_field fields_mesh[] = {
    {.name = "data", .type = LH_FIELD_INT, .offset = AT_MESH(data), .fallback = "1", .min = 1,
     .max = CONFIG_MANY, .help = "ranks along the data axis; ranks / data lie along the sequence"},
    {.name = "layout", .type = LH_FIELD_CHOICE, .offset = AT_MESH(layout), .fallback = "contiguous",
     .choices = "contiguous|zigzag",
     .help = "how positions lie over ranks; zigzag: one early and one late part each, so that "
             "causal attention is the same work on all (to a chunk; with align none exactly)"},
    {.name = "align", .type = LH_FIELD_CHOICE, .offset = AT_MESH(align), .fallback = "chunk",
     .choices = "chunk|none", .help = "where shards are cut: at chunk edges, or anywhere"},
    {.name = "chunk", .type = LH_FIELD_INT, .offset = AT_MESH(chunk), .fallback = "512", .min = 1,
     .max = CONFIG_LONG, .help = "positions of one piece of work"},
    {.name = "exchange", .type = LH_FIELD_CHOICE, .offset = AT_MESH(exchange), .fallback = "ring",
     .choices = "ring|ulysses",
     .help = "ring: full and sliding_window fetch the keys and values they need; ulysses: an "
             "all-to-all first, after which a rank has all positions for some heads (others keep "
             "their exchange)"},
    {.name = "ulysses", .type = LH_FIELD_INT, .offset = AT_MESH(ulysses), .fallback = "auto",
     .min = 1, .max = CONFIG_MANY, .automatic = "auto",
     .help = "exchange ulysses: neighbouring ranks that share heads; divides the ranks along the "
             "sequence, and the groups make a ring; auto: all, no ring"},
    {.name = NULL}};

static const lh_field fields_data[] = {
    {.name = "task", .type = LH_FIELD_CHOICE, .offset = AT_DATA(task), .fallback = "text",
     .choices = "text|masked_text|tokens|masked_tokens|fasta|lag|markers|recall|listops|mqar|"
                "selective_copy|induction|needle",
     .help = "what is learned: the next byte (decoder), masked bytes (encoder), the same of a token "
             "file (longhaul prepare --help), the next residue of a FASTA file (decoder), or made by the "
             "program: the token `lag` positions back (decoder), whether two markers are of a kind "
             "(encoder), tokens at a distance that the first token names (encoder), the value of "
             "nested lists (encoder with head class); both kinds: values of keys, symbols among "
             "blanks in order, what followed a marker, a symbol hidden among others"},
    {.name = "path", .type = LH_FIELD_PATH, .offset = AT_DATA(path), .fallback = "",
     .help = "the training file; required for tasks that read one"},
    {.name = "valid_path", .type = LH_FIELD_PATH, .offset = AT_DATA(valid_path), .fallback = "",
     .help = "the validation file, instead of a part of path"},
    {.name = "test_path", .type = LH_FIELD_PATH, .offset = AT_DATA(test_path), .fallback = "",
     .help = "the test file"},
    {.name = "length", .type = LH_FIELD_INT, .offset = AT_DATA(length), .fallback = "8192",
     .min = 1, .max = CONFIG_LONG, .help = "positions of a sequence"},
    {.name = "batch", .type = LH_FIELD_INT, .offset = AT_DATA(batch), .fallback = "1", .min = 1,
     .max = CONFIG_MANY,
     .help = "sequences per step over all ranks; a multiple of mesh.data x train.accumulate"},
    {.name = "valid_fraction", .type = LH_FIELD_REAL, .offset = AT_DATA(valid_fraction),
     .fallback = "0.05", .min = 0, .max = LH_BELOW_ONE,
     .help = "the last part of path, never trained on; without meaning if valid_path is given"},
    {.name = "mask", .type = LH_FIELD_REAL, .offset = AT_DATA(mask), .fallback = "0.15",
     .min = LH_ABOVE_ZERO, .max = 1, .help = "masked_text, masked_tokens: share of positions to predict"},
    {.name = "documents", .type = LH_FIELD_INT, .offset = AT_DATA(documents), .fallback = "none",
     .min = 0, .max = 255, .automatic = "none",
     .help = "the byte that ends a document (10: a line; of a token file the token: 0 is <eos>); "
             "attention stops there, and what follows is not predicted from it; fasta: always 0"},
    {.name = "vocab", .type = LH_FIELD_INT, .offset = AT_DATA(vocab), .fallback = "auto", .min = 2,
     .max = 65536, .automatic = "auto",
     .help = "tasks made by the program, but markers and listops: number of symbols; auto: 16, mqar "
             "8192"},
    {.name = "lag", .type = LH_FIELD_INT, .offset = AT_DATA(lag), .fallback = "8", .min = 0,
     .max = CONFIG_LONG, .help = "lag: how far back the answer is"},
    {.name = "gap", .type = LH_FIELD_INT, .offset = AT_DATA(gap), .fallback = "1", .min = 1,
     .max = CONFIG_LONG, .help = "markers: the least distance between them"},
    {.name = "offsets", .type = LH_FIELD_INT, .offset = AT_DATA(offsets), .fallback = "2", .min = 1,
     .max = 65536, .help = "recall: number of distances that the first token may name"},
    {.name = "pairs", .type = LH_FIELD_INT, .offset = AT_DATA(pairs), .fallback = "4", .min = 1,
     .max = 32767, .help = "mqar: keys with a value (published: 4 at length 64, 8 at 128, 16 at 256, "
                           "64 at 512)"},
    {.name = "filler", .type = LH_FIELD_CHOICE, .offset = AT_DATA(filler), .fallback = "random",
     .choices = "random|zero", .help = "mqar: what positions that ask nothing hold"},
    {.name = "items", .type = LH_FIELD_INT, .offset = AT_DATA(items), .fallback = "16", .min = 1,
     .max = CONFIG_MANY, .help = "selective_copy: symbols among the blanks"},
    {.name = "place", .type = LH_FIELD_INT, .offset = AT_DATA(place), .fallback = "any", .min = 0,
     .max = 100, .automatic = "any",
     .help = "needle: where it lies, in per cent of the way from the first position to the last"},
    {.name = "tree_depth", .type = LH_FIELD_INT, .offset = AT_DATA(tree_depth), .fallback = "10",
     .min = 2, .max = LH_LISTOPS_DEPTH, .help = "listops: depth of a tree, digits counted"},
    {.name = "tree_args", .type = LH_FIELD_INT, .offset = AT_DATA(tree_args), .fallback = "10",
     .min = 2, .max = 1024, .help = "listops: arguments of a list, at most"},
    {.name = "longer_than", .type = LH_FIELD_INT, .offset = AT_DATA(longer_than),
     .fallback = "500", .min = 0, .max = 1 << 20, .help = "listops: a tree has more tokens"},
    {.name = "shorter_than", .type = LH_FIELD_INT, .offset = AT_DATA(shorter_than),
     .fallback = "2000", .min = 2, .max = 1 << 20, .help = "listops: a tree has fewer tokens"},
    {.name = "valid_windows", .type = LH_FIELD_INT, .offset = AT_DATA(valid_windows),
     .fallback = "64", .min = 0, .max = CONFIG_MANY,
     .help = "tasks made by the program: sequences of one evaluation (train.eval_tokens has no "
             "meaning)"},
    {.name = NULL}};

static const lh_field fields_model[] = {
    {.name = "kind", .type = LH_FIELD_CHOICE, .offset = AT_MODEL(kind), .fallback = "decoder",
     .choices = "decoder|encoder", .help = "causal or bidirectional"},
    {.name = "head", .type = LH_FIELD_CHOICE, .offset = AT_MODEL(head), .fallback = "lm",
     .choices = "lm|class|pooler|none",
     .help = "what follows the last norm: a token for each position, a class for each sequence; pooler, "
             "none: no loss"},
    {.name = "vocab", .type = LH_FIELD_INT, .offset = AT_MODEL(vocab), .fallback = "auto", .min = 1,
     .max = 2147483647, .automatic = "auto", .help = "number of tokens; auto: the task's"},
    {.name = "layers", .type = LH_FIELD_INT, .offset = AT_MODEL(layers), .min = 1,
     .max = LH_MAX_LAYERS, .help = "number of blocks"},
    {.name = "width", .type = LH_FIELD_INT, .offset = AT_MODEL(width), .min = 1, .max = CONFIG_MANY,
     .help = "of the residual stream"},
    {.name = "heads", .type = LH_FIELD_INT, .offset = AT_MODEL(heads), .min = 1, .max = 65536,
     .help = "query heads"},
    {.name = "kv_heads", .type = LH_FIELD_INT, .offset = AT_MODEL(kv_heads), .fallback = "auto",
     .min = 1, .max = 65536, .automatic = "auto", .help = "key and value heads; auto: as heads"},
    {.name = "head_width", .type = LH_FIELD_INT, .offset = AT_MODEL(head_width), .fallback = "auto",
     .min = 1, .max = 65536, .automatic = "auto", .help = "auto: width / heads"},
    {.name = "mlp", .type = LH_FIELD_CHOICE, .offset = AT_MODEL(mlp), .fallback = "gelu",
     .choices = "gelu|relu|swiglu", .help = "activation"},
    {.name = "mlp_width", .type = LH_FIELD_INT, .offset = AT_MODEL(mlp_width), .fallback = "auto",
     .min = 1, .max = 4 * CONFIG_MANY, .automatic = "auto", .help = "auto: 4 x width"},
    {.name = "norm", .type = LH_FIELD_CHOICE, .offset = AT_MODEL(norm), .fallback = "pre",
     .choices = "pre|post", .help = "before or after attention and mlp"},
    {.name = "norm_kind", .type = LH_FIELD_CHOICE, .offset = AT_MODEL(norm_kind),
     .fallback = "layer", .choices = "layer|rms", .help = "layer norm or RMS norm"},
    {.name = "position", .type = LH_FIELD_CHOICE, .offset = AT_MODEL(position),
     .fallback = "rotary", .choices = "none|learned|sinusoidal|rotary|relative",
     .help = "how positions are told; relative: a term of the scores (Dai et al. 2019)"},
    {.name = "max_length", .type = LH_FIELD_INT, .offset = AT_MODEL(max_length),
     .fallback = "auto", .min = 1, .max = 2147483646, .automatic = "auto",
     .help = "positions for which tables by position are made (learned positions, Linformer's "
             "projections); auto: data.length"},
    {.name = "tie_embeddings", .type = LH_FIELD_BOOL, .offset = AT_MODEL(tie_embeddings),
     .fallback = "true", .help = "the head shares the token embedding's weights"},
    {.name = "bias", .type = LH_FIELD_BOOL, .offset = AT_MODEL(bias), .fallback = "true",
     .help = "linear maps and layer norms have biases"},
    {.name = "dropout", .type = LH_FIELD_REAL, .offset = AT_MODEL(dropout), .fallback = "0",
     .min = 0, .max = LH_BELOW_ONE, .help = "probability"},
    {.name = "norm_eps", .type = LH_FIELD_REAL, .offset = AT_MODEL(norm_eps), .fallback = "1.0e-5",
     .min = LH_ABOVE_ZERO, .max = LH_NO_LIMIT, .help = "added to the variance"},
    {.name = "position_offset", .type = LH_FIELD_INT, .offset = AT_MODEL(position_offset),
     .fallback = "0", .min = 0, .max = 65536,
     .help = "learned positions: unused rows in front of the table (RoBERTa: 2)"},
    {.name = "rotary_base", .type = LH_FIELD_REAL, .offset = AT_MODEL(rotary_base),
     .fallback = "10000", .min = 1, .max = LH_NO_LIMIT, .help = "rotary: base of the angles"},
    {.name = "token_types", .type = LH_FIELD_INT, .offset = AT_MODEL(token_types), .fallback = "0",
     .min = 0, .max = 65536,
     .help = "rows of a table of token types; all tokens are of type 0 (BERT, RoBERTa)"},
    {.name = "head_transform", .type = LH_FIELD_BOOL, .offset = AT_MODEL(head_transform),
     .fallback = "false", .help = "lm: a dense layer, gelu and norm before the logits, and their bias"},
    {.name = "pool", .type = LH_FIELD_CHOICE, .offset = AT_MODEL(pool), .fallback = "first",
     .choices = "first|mean", .help = "class, pooler: what stands for the sequence"},
    {.name = "pooler", .type = LH_FIELD_BOOL, .offset = AT_MODEL(pooler), .fallback = "false",
     .help = "class: a dense layer and tanh before the classifier"},
    {.name = "classes", .type = LH_FIELD_INT, .offset = AT_MODEL(classes), .fallback = "auto",
     .min = 2, .max = 65536, .automatic = "auto", .help = "class: how many; auto: the task's"},
    {.name = NULL}};

static const lh_field fields_optimizer[] = {
    {.name = "kind", .type = LH_FIELD_CHOICE, .offset = AT_OPT(kind), .fallback = "adamw",
     .choices = "adamw", .help = "AdamW (Loshchilov and Hutter 2019)"},
    {.name = "lr", .type = LH_FIELD_REAL, .offset = AT_OPT(lr), .fallback = "1.0e-3", .min = 0,
     .max = LH_NO_LIMIT, .help = "learning rate after warmup"},
    {.name = "betas", .type = LH_FIELD_REALS, .offset = AT_OPT(betas), .fallback = "[0.9, 0.95]",
     .min = 0, .max = LH_BELOW_ONE, .help = "decay of the first and second moment"},
    {.name = "eps", .type = LH_FIELD_REAL, .offset = AT_OPT(eps), .fallback = "1.0e-8",
     .min = LH_ABOVE_ZERO, .max = LH_NO_LIMIT, .help = "added to the root of the second moment"},
    {.name = "weight_decay", .type = LH_FIELD_REAL, .offset = AT_OPT(weight_decay),
     .fallback = "0.1", .min = 0, .max = LH_NO_LIMIT,
     .help = "of weights with two or more dimensions"},
    {.name = "clip", .type = LH_FIELD_REAL, .offset = AT_OPT(clip), .fallback = "1.0", .min = 0,
     .max = LH_NO_LIMIT, .help = "largest norm of all gradients; 0: no clipping"},
    {.name = NULL}};

static const lh_field fields_schedule[] = {
    {.name = "kind", .type = LH_FIELD_CHOICE, .offset = AT_SCHEDULE(kind), .fallback = "cosine",
     .choices = "constant|linear|cosine|inverse_sqrt", .help = "of the learning rate after warmup"},
    {.name = "warmup", .type = LH_FIELD_INT, .offset = AT_SCHEDULE(warmup), .fallback = "0",
     .min = 0, .max = CONFIG_LONG, .help = "steps in which the learning rate rises"},
    {.name = "steps", .type = LH_FIELD_INT, .offset = AT_SCHEDULE(steps), .fallback = "600",
     .min = 1, .max = CONFIG_LONG, .help = "optimiser steps of the run"},
    {.name = "final_lr", .type = LH_FIELD_REAL, .offset = AT_SCHEDULE(final_lr),
     .fallback = "1.0e-4", .min = 0, .max = LH_NO_LIMIT, .help = "where linear and cosine end"},
    {.name = NULL}};

static const lh_field fields_train[] = {
    {.name = "log_every", .type = LH_FIELD_INT, .offset = AT_TRAIN(log_every), .fallback = "10",
     .min = 1, .max = CONFIG_LONG, .help = "steps between progress lines"},
    {.name = "eval_every", .type = LH_FIELD_INT, .offset = AT_TRAIN(eval_every), .fallback = "200",
     .min = 0, .max = CONFIG_LONG, .help = "steps between evaluations; 0: never"},
    {.name = "eval_tokens", .type = LH_FIELD_INT, .offset = AT_TRAIN(eval_tokens),
     .fallback = "131072", .min = 0, .max = CONFIG_LONG,
     .help = "of one evaluation; 0: the whole validation part"},
    {.name = "recompute", .type = LH_FIELD_CHOICE, .offset = AT_TRAIN(recompute),
     .fallback = "none", .choices = "none|attention|block",
     .help = "what the backward computes again instead of keeping it: attention: projections of q, k, v; "
             "block: whole layers"},
    {.name = "accumulate", .type = LH_FIELD_INT, .offset = AT_TRAIN(accumulate), .fallback = "1",
     .min = 1, .max = CONFIG_MANY, .help = "passes whose gradients are summed for one step"},
    {.name = "stall_seconds", .type = LH_FIELD_INT, .offset = AT_TRAIN(stall_seconds),
     .fallback = "600", .min = 0, .max = CONFIG_MANY,
     .help = "a rank that has not moved on for so long says where it is and ends the job; longer than any "
             "one file operation, or wait for the slowest rank, takes; 0: never (debuggers)"},
    {.name = "time_limit", .type = LH_FIELD_STRING, .offset = AT_TRAIN(time_limit),
     .fallback = "none",
     .help = "from the start of the program: stops as on request (exit code 75) while there is time for a "
             "checkpoint; seconds, 45m, 1.5h, 2d, HH:MM:SS or D-HH:MM:SS"},
    {.name = "on_nonfinite", .type = LH_FIELD_CHOICE, .offset = AT_TRAIN(on_nonfinite),
     .fallback = "stop", .choices = "stop|skip",
     .help = "a loss or gradient that is not finite: stop, naming where it arose; skip: leave the update "
             "out (20 in a row stop too)"},
    {.name = NULL}};

static const lh_field fields_checkpoint[] = {
    {.name = "every", .type = LH_FIELD_INT, .offset = AT_CHECKPOINT(every), .fallback = "200",
     .min = 0, .max = CONFIG_LONG, .help = "steps between checkpoints; 0: on request, and at the end of what goes on from one"},
    {.name = "keep", .type = LH_FIELD_INT, .offset = AT_CHECKPOINT(keep), .fallback = "2", .min = 1,
     .max = CONFIG_MANY, .help = "how many of the newest are kept"},
    {.name = NULL}};

static const lh_field fields_device[] = {
    {.name = "kind", .type = LH_FIELD_CHOICE, .offset = AT_DEVICE(kind), .fallback = "cpu",
     .choices = "cpu|poison", .help = "poison: a cpu that finds missing copies"},
    {.name = "threads", .type = LH_FIELD_INT, .offset = AT_DEVICE(threads), .fallback = "auto",
     .min = 1, .max = LH_MAX_THREADS, .automatic = "auto",
     .help = "auto: OMP_NUM_THREADS, else the rank's share of the processors"},
    {.name = "isa", .type = LH_FIELD_CHOICE, .offset = AT_DEVICE(isa), .fallback = "auto",
     .choices = "auto|avx512|avx512_bf16|avx2|portable",
     .help = "instruction set of the kernels; avx512_bf16: attention rounds the operands of its "
             "products to bfloat16, auto never takes it"},
    {.name = "store", .type = LH_FIELD_CHOICE, .offset = AT_DEVICE(store), .fallback = "real",
     .choices = "real|bfloat16",
     .help = "how activations wait for the backward, and rows travel; arithmetic is real"},
    {.name = NULL}};

static const lhi_config_section config_sections[] = {
    {"run", fields_run, offsetof(lh_config, run), "what is made, and where"},
    {"mesh", fields_mesh, offsetof(lh_config, mesh), "how the work lies over ranks"},
    {"data", fields_data, offsetof(lh_config, data), "what is learned from"},
    {"model", fields_model, offsetof(lh_config, model), "what learns"},
    {"optimizer", fields_optimizer, offsetof(lh_config, optimizer), "how weights change"},
    {"schedule", fields_schedule, offsetof(lh_config, schedule), "for how long"},
    {"train", fields_train, offsetof(lh_config, train), "what happens on the way"},
    {"checkpoint", fields_checkpoint, offsetof(lh_config, checkpoint), "what is kept"},
    {"device", fields_device, offsetof(lh_config, device), "what it runs on"},
    {NULL, NULL, 0, NULL}};
/* clang-format on */

const lhi_config_section *lhi_config_sections(void)
{
    return config_sections;
}
