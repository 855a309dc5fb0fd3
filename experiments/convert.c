#include "experiments/convert.h"

#include "experiments/newest.h"
#include "experiments/options.h"
#include "experiments/task.h"
#include "io/checkpoint.h"
#include "io/files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { CONVERT_TRIES = 100 };

typedef struct convert_options {
    const char *source, *out;
    int64_t kv_heads; /* 0: not given */
} convert_options;

void lh_convert_help(FILE *out)
{
    (void)fprintf(
        out,
        "longhaul convert CHECKPOINT --kv-heads G --out NEW.h5\n\n"
        "Gives a trained model fewer key/value heads: each group of neighbouring heads becomes "
        "one,\n"
        "the mean of their weights and biases (Ainslie et al. 2023). CHECKPOINT is a file, or a "
        "run\n"
        "folder, whose newest good checkpoint is taken. G divides its number of key/value "
        "heads.\n\n"
        "  --kv-heads G   key/value heads of the new model; 1: multi-query attention\n"
        "  --out NEW.h5   the new file, which must not exist yet\n\n"
        "Merged are the projections of keys and values, those of global tokens too, and "
        "Linformer's\n"
        "projections where each head has its own; everything else is copied bit by bit, in the\n"
        "precision of the file. The new file holds weights alone, no optimiser state; its\n"
        "configuration has the new model.kv_heads; step, seed and the rest are those of "
        "CHECKPOINT.\n"
        "Training goes on from it as a new run:\n\n"
        "  longhaul train FILE.yaml --set run.init=NEW.h5 --set model.kv_heads=G --set "
        "run.name=...\n\n"
        "One process, without a launcher and without MPI.\n");
}

/* --- arguments --- */

static const lh_option convert_table[] = {{.name = "--kv-heads",
                                           .kind = LH_OPTION_INT,
                                           .offset = offsetof(convert_options, kv_heads),
                                           .min = 1,
                                           .max = 65536},
                                          {.name = "--out",
                                           .kind = LH_OPTION_WORD,
                                           .offset = offsetof(convert_options, out),
                                           .expected = "the file to make, such as --out new.h5"},
                                          {.name = NULL}};

static lh_status convert_parse(int argc, char **argv, convert_options *o)
{
    lh_status st = LH_OK;
    lh_options options = {.command = "longhaul convert",
                          .table = convert_table,
                          .into = o,
                          .name = &o->source,
                          .max_names = 1};
    LH_TRY(lh_options_read(&options, argc, argv));
    LH_CHECK(o->source != NULL && o->kv_heads > 0 && o->out != NULL, LH_ERR_USAGE,
             "'longhaul convert' wants %s: longhaul convert CHECKPOINT --kv-heads G --out NEW.h5",
             o->source == NULL  ? "a checkpoint or run folder"
             : o->kv_heads == 0 ? "the new number of key/value heads"
                                : "the name of the new file");
done:
    return st;
}

/* --- the checkpoint --- */

/* The checkpoint that is meant: its path and its description. */
typedef struct convert_from {
    char path[LH_PATH_MAX];
    lh_checkpoint_info info;
} convert_from;

static lh_status convert_read(void *user, const char *path)
{
    convert_from *from = user;
    (void)snprintf(from->path, sizeof from->path, "%s", path);
    lh_checkpoint_info_free(&from->info);
    lh_status st = lh_checkpoint_info_read(NULL, path, &from->info);
    return st == LH_OK ? lh_checkpoint_named(path, &from->info) : st;
}

/* The newest whole checkpoint of a folder of checkpoints. */
static lh_status convert_newest(const char *folder, convert_from *from)
{
    lh_status st = LH_OK;
    bool found = false;
    st = lh_newest_take(NULL, folder, convert_read, from, &found);
    if (st == LH_ERR_FORMAT) st = LH_ERR_USAGE; /* the name of the folder is the mistake */
    LH_TRY(st);
    LH_CHECK(found, LH_ERR_USAGE,
             "no checkpoint in '%s': there is none (checkpoint.every and a run's end make some)",
             folder);
done:
    return st;
}

/* Which file is meant, and its description. A file that is no checkpoint is a mistake of the command
 * line. */
static lh_status convert_source(const char *source, convert_from *from)
{
    lh_status st = LH_OK;
    char folder[LH_PATH_MAX];
    struct stat about;
    LH_CHECK(lh_file_exists(NULL, source), LH_ERR_USAGE,
             "there is no checkpoint or run folder '%s'", source);
    LH_TRY(lhi_path(folder, source, "checkpoints"));
    if (lh_file_exists(NULL, folder)) {
        LH_TRY(convert_newest(folder, from));
    } else {
        LH_CHECK(strlen(source) < LH_PATH_MAX, LH_ERR_USAGE, "the name '%s' is too long", source);
        LH_CHECK(stat(source, &about) != 0 || !S_ISDIR(about.st_mode), LH_ERR_USAGE,
                 "'%s' is a folder without checkpoints: name the folder of a run "
                 "(run.output/run.name), or a checkpoint",
                 source);
        (void)snprintf(from->path, sizeof from->path, "%s", source);
        st = lh_checkpoint_info_read(NULL, source, &from->info);
        if (st == LH_ERR_IO || st == LH_ERR_FORMAT) st = LH_ERR_USAGE;
    }
done:
    return st;
}

/* --- the parameters --- */

/* The names and shapes of the model's parameters. */
static lh_status convert_declare(lh_device *device, lh_config *c, lh_params **out)
{
    lh_status st = LH_OK;
    const int alone[LH_AXES] = {0};
    lh_layout *layout = NULL;
    lh_layout *table = NULL;
    LH_TRY(lh_model_resolve(&c->model, lh_task_vocab(c), lh_task_classes(c)));
    LH_TRY(lh_layout_contiguous(c->data.length, 1, c->mesh.chunk, true, &layout));
    LH_TRY(lh_layout_contiguous(c->model.max_length, 1, c->mesh.chunk, true, &table));
    lh_model_shape shape = {.batch = 1,
                            .length = c->data.length,
                            .layout = layout,
                            .table = table,
                            .documents = c->data.documents != LH_AUTO,
                            .max_global = lh_task_globals(c)};
    LH_TRY(lh_params_create(device, alone, out));
    LH_TRY(lh_model_declare(&c->model, &shape, *out));
done:
    /* the placements point to layouts, and nobody looks at them any more */
    lh_layout_destroy(&table);
    lh_layout_destroy(&layout);
    return st;
}

/* Where a parameter has another shape with fewer heads: in one dimension, by whole heads. */
static lh_status convert_compare(const lh_param *was, const lh_param *is, int64_t from, int64_t to,
                                 lh_checkpoint_merge *merge)
{
    lh_status st = LH_OK;
    bool good = is != NULL && is->whole.ndim == was->whole.ndim;
    merge->dim = -1;
    for (int d = 0; good && d < was->whole.ndim; d++) {
        int64_t a = was->whole.dim[d];
        int64_t b = is->whole.dim[d];
        if (a == b) continue;
        good = merge->dim < 0 && a % from == 0 && b % to == 0 && a / from == b / to;
        merge->dim = d;
    }
    LH_CHECK(good, LH_ERR_UNSUP, "parameter %s cannot be merged from %lld heads to %lld", was->name,
             (long long)from, (long long)to);
    (void)snprintf(merge->name, sizeof merge->name, "%s", was->name);
    merge->from = from;
    merge->to = to;
done:
    return st;
}

/* All parameters that change, as a list. */
static lh_status convert_list(const lh_params *was, const lh_params *is, int64_t from, int64_t to,
                              lh_checkpoint_merge **out, int64_t *count)
{
    lh_status st = LH_OK;
    *count = 0;
    LH_TRY(lh_new((size_t)was->count * sizeof **out, out));
    for (int64_t i = 0; i < was->count; i++) {
        lh_checkpoint_merge *merge = &(*out)[*count];
        const char *name = was->item[i]->name;
        LH_TRY(convert_compare(was->item[i], lh_params_find(is, name), from, to, merge));
        if (merge->dim >= 0) (*count)++;
    }
done:
    return st;
}

static lh_status convert_check(const char *path, int64_t from, int64_t to)
{
    lh_status st = LH_OK;
    LH_CHECK(
        to <= from && from % to == 0, LH_ERR_USAGE,
        "--kv-heads %lld: '%s' has %lld key/value heads, and heads can only be merged in equal "
        "groups: give a number that divides %lld",
        (long long)to, path, (long long)from, (long long)from);
done:
    return st;
}

/* The configuration with `heads` key/value heads as text, read once more: whatever forbids so few
 * (a list by head, a mechanism) is said here. */
static lh_status convert_config(lh_config *c, int64_t heads, char **text, lh_config **out)
{
    lh_status st = LH_OK;
    c->model.kv_heads = heads;
    LH_TRY(lh_config_emit(c, text));
    LH_TRY(lh_config_parse(*text, strlen(*text), "the new configuration", LH_CONFIG_PARTIAL, out));
done:
    return st;
}

static lh_status convert_run(const char *path, const lh_checkpoint_info *info,
                             const convert_options *o)
{
    lh_status st = LH_OK;
    lh_config *config = NULL;
    lh_config *changed = NULL;
    lh_device *device = NULL;
    lh_params *was = NULL;
    lh_params *is = NULL;
    lh_checkpoint_merge *merge = NULL;
    int64_t merges = 0;
    char *text = NULL;
    LH_CHECK(info->config != NULL, LH_ERR_FORMAT, "'%s' holds no configuration", path);
    LH_TRY(lh_config_parse(info->config, strlen(info->config), path, LH_CONFIG_PARTIAL, &config));
    int64_t from = config->model.kv_heads;
    LH_TRY(convert_check(path, from, o->kv_heads));
    LH_TRY(lh_device_create_count("portable", 1, &device));
    LH_TRY(convert_declare(device, config, &was));
    st = convert_config(config, o->kv_heads, &text, &changed);
    if (st == LH_OK) st = convert_declare(device, changed, &is);
    LH_TRY(lh_error_context(st, "--kv-heads %lld", (long long)o->kv_heads));
    LH_TRY(convert_list(was, is, from, o->kv_heads, &merge, &merges));
    LH_TRY(lh_checkpoint_convert(path, o->out, text, merge, merges));
    (void)printf("%s: %lld key/value heads merged into %lld, in %lld of %lld parameters\n", o->out,
                 (long long)from, (long long)o->kv_heads, (long long)merges, (long long)was->count);
done:
    lh_free(&text);
    lh_free(&merge);
    lh_params_destroy(&is);
    lh_params_destroy(&was);
    lh_device_destroy(&device);
    lh_config_destroy(&changed);
    lh_config_destroy(&config);
    return st;
}

lh_status lh_convert_main(lh_comm *none, int argc, char **argv)
{
    lh_status st = LH_OK;
    convert_options o = {0};
    convert_from from = {.path = ""};
    bool again = true;
    (void)none;
    LH_TRY(convert_parse(argc, argv, &o));
    for (int i = 0; again && i < CONVERT_TRIES; i++) {
        LH_TRY(convert_source(o.source, &from));
        st = convert_run(from.path, &from.info, &o);
        /* a run that goes on may have removed it meanwhile */
        again = st != LH_OK && !lh_file_exists(NULL, from.path);
        lh_checkpoint_info_free(&from.info);
    }
done:
    lh_checkpoint_info_free(&from.info);
    return st;
}

/* --- the hint of run.init --- */

static lh_status convert_say(lh_status st, const char *path, int64_t file, int64_t model)
{
    if (file > model && file % model == 0)
        return lh_error_context(st,
                                "the file has %lld key/value heads, the model %lld (longhaul "
                                "convert %s --kv-heads %lld --out NEW.h5 merges them)",
                                (long long)file, (long long)model, path, (long long)model);
    return lh_error_context(st,
                            "the file has %lld key/value heads, the model %lld (give the model "
                            "those of the file: model.kv_heads)",
                            (long long)file, (long long)model);
}

lh_status lh_convert_hint(lh_comm *comm, const char *path, const lh_config *config, lh_status st)
{
    char where[256];
    char text[LH_ERROR_TEXT_MAX];
    lh_checkpoint_info info = {0};
    lh_config *old = NULL;
    int64_t heads = 0;
    if (st != LH_ERR_USAGE) return st;
    (void)snprintf(where, sizeof where, "%s", lh_error_where());
    (void)snprintf(text, sizeof text, "%s", lh_error_text());
    /* All ranks read the same file and agree; one without a configuration gives no hint. */
    if (lh_checkpoint_info_read(comm, path, &info) == LH_OK &&
        lh_config_parse(info.config, strlen(info.config), path, LH_CONFIG_PARTIAL, &old) == LH_OK)
        heads = old->model.kv_heads;
    lh_config_destroy(&old);
    lh_checkpoint_info_free(&info);
    st = lh_error_set(st, where, text);
    if (heads > 0 && heads != config->model.kv_heads)
        st = convert_say(st, path, heads, config->model.kv_heads);
    return st;
}
