#include "experiments/inspect.h"

#include "experiments/options.h"
#include "io/bytes.h"
#include "io/checkpoint.h"
#include "io/metrics.h"
#include "io/tokens.h"

#include <inttypes.h>
#include <string.h>

enum { INSPECT_BLOCK = 1 << 16, INSPECT_WORDS = 8 };

void lh_inspect_help(FILE *out)
{
    (void)fprintf(
        out,
        "longhaul inspect FILE.h5 [--json]\n\n"
        "Lists what a checkpoint or a token file holds, and reads all of it: its digest, a\n"
        "checkpoint's checksums, a token file's numbers and examples. Exit code 0: the file\n"
        "is whole; 1: it is damaged, another kind of file, or a checkpoint under the name of\n"
        "another step; 2: bad usage, or there is no such file. Runs alone.\n\n"
        "--json: the same as one object on one line. Of a checkpoint: file, kind, tensors (each\n"
        "with name, type, shape, sound), step, tokens, samples, parameters, optimizer, precision,\n"
        "seed, program, ranks, data, sequence, layout, data_bytes, configuration (the resolved\n"
        "experiment file), whole. Of a token file: file, kind, holds, tokens, width, vocab,\n"
        "examples, longest, source, source_bytes, program, whole. A file whose digest is wrong is\n"
        "refused before: no object, exit code 1.\n");
}

/* --- checkpoints --- */

typedef struct inspect_sums {
    lh_json *json; /* NULL: for people */
    int64_t parameters, tensors, damaged;
} inspect_sums;

static void inspect_item_json(lh_json *j, const lh_checkpoint_item *item)
{
    lh_json_object(j, NULL);
    lh_json_string(j, "name", item->name);
    lh_json_string(j, "type", item->type);
    lh_json_ints(j, "shape", item->dim, item->ndim);
    lh_json_bool(j, "sound", item->sound);
    lh_json_close(j);
}

static lh_status inspect_item(void *user, const lh_checkpoint_item *item)
{
    inspect_sums *sums = user;
    char shape[120] = "";
    size_t used = 0;
    for (int i = 0; i < item->ndim && used < sizeof shape; i++)
        used += (size_t)snprintf(shape + used, sizeof shape - used, "%s%" PRId64,
                                 i > 0 ? " x " : "", item->dim[i]);
    sums->tensors++;
    sums->damaged += !item->sound;
    if (strncmp(item->name, "parameters/", 11) == 0) sums->parameters += item->elements;
    if (sums->json != NULL)
        inspect_item_json(sums->json, item);
    else
        (void)printf("  %-56s %-7s %-16s %s\n", item->name, item->type, shape,
                     item->sound ? "" : "DAMAGED");
    return LH_OK;
}

static void inspect_about(const lh_checkpoint_info *info, const inspect_sums *sums)
{
    (void)printf("  step           %" PRId64 "\n  tokens         %" PRId64
                 "\n  samples        %" PRId64 "\n  parameters     %" PRId64
                 "\n  tensors        %" PRId64 "\n",
                 info->step, info->tokens, info->samples, sums->parameters, sums->tensors);
    (void)printf("  optimizer      %s\n  precision      %s\n  seed           %" PRIu64 "\n",
                 info->optimizer ? "moments" : "none, weights alone", info->precision, info->seed);
    (void)printf("  written by     longhaul %s on %" PRId64 " ranks (%" PRId64 " x %" PRId64
                 ", layout %s)\n",
                 info->program, info->ranks, info->data, info->sequence, info->layout);
    (void)printf("  data           %" PRId64
                 " bytes\n  configuration  %zu bytes, digest %016" PRIx64 "\n",
                 info->data_bytes, strlen(info->config), lh_tokens_digest(info->config));
}

static void inspect_about_json(const lh_checkpoint_info *info, const inspect_sums *sums)
{
    lh_json *j = sums->json;
    lh_json_int(j, "step", info->step);
    lh_json_int(j, "tokens", info->tokens);
    lh_json_int(j, "samples", info->samples);
    lh_json_int(j, "parameters", sums->parameters);
    lh_json_bool(j, "optimizer", info->optimizer);
    lh_json_string(j, "precision", info->precision);
    lh_json_int(j, "seed", (int64_t)info->seed);
    lh_json_string(j, "program", info->program);
    lh_json_int(j, "ranks", info->ranks);
    lh_json_int(j, "data", info->data);
    lh_json_int(j, "sequence", info->sequence);
    lh_json_string(j, "layout", info->layout);
    lh_json_int(j, "data_bytes", info->data_bytes);
    lh_json_string(j, "configuration", info->config);
    lh_json_bool(j, "whole", sums->damaged == 0);
}

static lh_status inspect_checkpoint(const char *path, lh_json *json)
{
    lh_status st = LH_OK;
    lh_checkpoint_info info = {0};
    inspect_sums sums = {.json = json};
    if (json == NULL) {
        (void)printf("%s: a checkpoint\n", path);
    } else {
        lh_json_string(json, "kind", "checkpoint");
        lh_json_array(json, "tensors");
    }
    LH_TRY(lh_checkpoint_list(path, &info, inspect_item, &sums));
    if (json == NULL) {
        inspect_about(&info, &sums);
    } else {
        lh_json_close(json);
        inspect_about_json(&info, &sums);
        LH_TRY(lh_json_print(json, stdout));
    }
    LH_CHECK(sums.damaged == 0, LH_ERR_FORMAT,
             "'%s': %" PRId64 " of %" PRId64 " tensors are damaged", path, sums.damaged,
             sums.tensors);
    LH_TRY(lh_checkpoint_named(path, &info));
    if (json == NULL)
        (void)printf("whole: the digest and all %" PRId64 " checksums are right\n", sums.tensors);
done:
    lh_checkpoint_info_free(&info);
    return st;
}

/* --- token files --- */

/* All tokens are read: each is checked against the vocabulary. */
static lh_status inspect_tokens(const lh_tokens *t)
{
    lh_status st = LH_OK;
    int32_t block[INSPECT_BLOCK];
    const lh_tokens_info *info = lh_tokens_about(t);
    for (int64_t i = 0; i < info->count; i += INSPECT_BLOCK) {
        int64_t n = info->count - i < INSPECT_BLOCK ? info->count - i : INSPECT_BLOCK;
        LH_TRY(lh_tokens_read(t, i, n, block));
    }
done:
    return st;
}

static lh_status inspect_examples(const lh_tokens *t)
{
    lh_status st = LH_OK;
    const lh_tokens_info *info = lh_tokens_about(t);
    int64_t end = 0;
    for (int64_t i = 0; i < info->examples; i++) {
        int64_t span[2];
        int32_t label = 0;
        LH_TRY(lh_tokens_example(t, i, span, &label));
        LH_CHECK(span[0] == end && span[1] - span[0] <= info->longest && label >= 0, LH_ERR_FORMAT,
                 "example %" PRId64 " of '%s' (tokens %" PRId64 " to %" PRId64
                 ", label %d) does not follow the one before, or is too long",
                 i, lh_tokens_path(t), span[0], span[1], (int)label);
        end = span[1];
    }
    LH_CHECK(info->examples == 0 || end == info->count, LH_ERR_FORMAT,
             "the examples of '%s' end at token %" PRId64 " of %" PRId64, lh_tokens_path(t), end,
             info->count);
done:
    return st;
}

/* The first words, and whether there are as many as was said. */
static lh_status inspect_names(const char *path, bool print)
{
    lh_status st = LH_OK;
    char *names = NULL;
    lh_tokens_info info;
    int64_t count = 1;
    LH_TRY(lh_tokens_names(path, &names, &info));
    if (print) (void)printf("  vocabulary   %" PRId64 ":", info.vocab);
    const char *name = names;
    for (int i = 0; print && i < INSPECT_WORDS && i < info.vocab && *name != '\0'; i++) {
        int n = (int)strcspn(name, "\n");
        (void)printf(" %.*s", n < 32 ? n : 32, name);
        name += n + (name[n] == '\n');
    }
    if (print) (void)printf("%s\n", info.vocab > INSPECT_WORDS ? " ..." : "");
    for (const char *c = names; *c != '\0'; c++) count += *c == '\n';
    LH_CHECK(count == info.vocab && lh_tokens_digest(names) == info.vocabulary, LH_ERR_FORMAT,
             "the vocabulary of '%s' has %" PRId64 " words, announced were %" PRId64
             ", or others than it was written with",
             path, count, info.vocab);
done:
    lh_free(&names);
    return st;
}

static void inspect_tokens_json(lh_json *j, const lh_tokens_info *info)
{
    lh_json_string(j, "kind", "token file");
    lh_json_string(j, "holds", lh_tokens_kind_name(info->kind));
    lh_json_int(j, "tokens", info->count);
    lh_json_int(j, "width", info->width);
    lh_json_int(j, "vocab", info->vocab);
    lh_json_int(j, "examples", info->examples);
    lh_json_int(j, "longest", info->longest);
    lh_json_string(j, "source", info->source);
    lh_json_int(j, "source_bytes", info->source_bytes);
    lh_json_string(j, "program", info->program);
    lh_json_bool(j, "whole", true);
}

static lh_status inspect_token_file(const char *path, lh_json *json)
{
    lh_status st = LH_OK;
    lh_tokens *t = NULL;
    LH_TRY(lh_tokens_open(NULL, path, &t));
    const lh_tokens_info *info = lh_tokens_about(t);
    if (json == NULL)
        (void)printf(
            "%s: a token file\n  kind         %s\n  tokens       %" PRId64 " of %d byte%s\n", path,
            lh_tokens_kind_name(info->kind), info->count, info->width, info->width == 1 ? "" : "s");
    if (info->kind != LH_TOKENS_BYTES)
        LH_TRY(inspect_names(path, json == NULL));
    else if (json == NULL)
        (void)printf("  vocabulary   %" PRId64 "\n", info->vocab);
    if (info->examples > 0 && json == NULL)
        (void)printf("  examples     %" PRId64 ", the longest of %" PRId64 " tokens\n",
                     info->examples, info->longest);
    if (json == NULL)
        (void)printf("  source       %s, %" PRId64 " bytes\n  written by   longhaul %s\n",
                     info->source, info->source_bytes, info->program);
    LH_TRY(inspect_tokens(t));
    LH_TRY(inspect_examples(t));
    if (json == NULL) {
        (void)printf("whole: the digest is right, all tokens are of the vocabulary\n");
    } else {
        inspect_tokens_json(json, info);
        LH_TRY(lh_json_print(json, stdout));
    }
done:
    lh_tokens_close(&t);
    return st;
}

lh_status lh_inspect_main(lh_comm *none, int argc, char **argv)
{
    lh_status st = LH_OK;
    bool wants_json = false;
    const lh_option table[] = {{.name = "--json", .kind = LH_OPTION_FLAG}, {.name = NULL}};
    const char *path = NULL;
    lh_bytes *file = NULL;
    lh_json object = {0};
    lh_options options = {.command = "longhaul inspect",
                          .table = table,
                          .into = &wants_json,
                          .name = &path,
                          .max_names = 1};
    (void)none;
    LH_TRY(lh_options_read(&options, argc, argv));
    LH_CHECK(path != NULL, LH_ERR_USAGE,
             "'longhaul inspect' wants a checkpoint or a token file: longhaul inspect FILE.h5");
    st = lh_bytes_open(NULL, path, &file);
    if (st == LH_ERR_IO) st = LH_ERR_USAGE; /* its name is the mistake */
    LH_TRY(st);
    LH_CHECK(lh_checkpoint_is(path) || lh_tokens_is(path), LH_ERR_FORMAT,
             "'%s' is neither a checkpoint nor a token file of Longhaul, or its beginning is lost",
             path);
    lh_json *json = wants_json ? &object : NULL;
    if (wants_json) {
        lh_json_begin(json);
        lh_json_string(json, "file", path);
    }
    st = lh_checkpoint_is(path) ? inspect_checkpoint(path, json) : inspect_token_file(path, json);
done:
    lh_json_free(&object);
    lh_bytes_close(&file);
    return st;
}
