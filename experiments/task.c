/* Tasks from files. */
#include <inttypes.h>
#include <math.h>

#include "core/random.h"
#include "experiments/listops.h"
#include "experiments/task_internal.h"
#include "io/fasta.h"

enum { TASK_BYTES = 256, TASK_PIECE = 16384 };
#define TASK_RANDOM ((int64_t)1 << 40) /* random tokens: steps never end */

/* The tasks from files: vocabulary (0: the file says it), how the file is opened. */
static const struct {
    lh_task_kind task;
    int64_t vocab;
    bool masked; /* one more token, the mask */
    lh_status (*open)(lh_comm *comm, const char *path, lh_tokens **out);
} task_files[] = {{LH_TASK_TEXT, TASK_BYTES, false, lh_tokens_open_bytes},
                  {LH_TASK_MASKED_TEXT, TASK_BYTES, true, lh_tokens_open_bytes},
                  {LH_TASK_TOKENS, 0, false, lh_tokens_open},
                  {LH_TASK_MASKED_TOKENS, 0, true, lh_tokens_open},
                  {LH_TASK_FASTA, LH_FASTA_VOCAB, false, lh_tokens_open_fasta},
                  {LH_TASK_LISTOPS, LH_LISTOPS_TOKENS, false, lh_tokens_open}};

/* The row of task_files, -1: the program makes the task; it makes ListOps where no file is named. */
static int task_file(const lh_config *config)
{
    if (config->data.task == LH_TASK_LISTOPS && config->data.path[0] == '\0') return -1;
    for (int i = 0; i < (int)(sizeof task_files / sizeof task_files[0]); i++)
        if ((int)task_files[i].task == config->data.task) return i;
    return -1;
}

bool lh_task_made(const lh_config *config)
{
    return task_file(config) < 0;
}

int64_t lh_task_vocab(const lh_config *config)
{
    int i = task_file(config);
    if (i < 0) return lhi_task_made_vocab(&config->data);
    return task_files[i].vocab > 0 && task_files[i].masked ? task_files[i].vocab + 1
                                                           : task_files[i].vocab;
}

int64_t lh_task_vocab_read(const lh_task *t, const lh_config *config)
{
    return t->made ? lh_task_vocab(config) : t->vocab + (t->shifted || t->examples ? 0 : 1);
}

lh_unit lh_task_unit(const lh_task *t)
{
    if (t->made || t->examples) return LH_UNIT_ANSWER;
    return lh_tokens_about(t->file[LH_SPLIT_TRAIN])->kind == LH_TOKENS_BYTES ? LH_UNIT_BYTE
                                                                             : LH_UNIT_TOKEN;
}

const char *lh_unit_name(lh_unit unit)
{
    return unit == LH_UNIT_BYTE ? "byte" : unit == LH_UNIT_TOKEN ? "token" : "answer";
}

int64_t lh_task_classes(const lh_config *config)
{
    bool markers = config->data.task == LH_TASK_MARKERS && config->model.head == LH_HEAD_CLASS;
    if (config->data.task == LH_TASK_LISTOPS) return LH_LISTOPS_CLASSES;
    return markers ? 2 : 0;
}

int64_t lh_task_globals(const lh_config *config)
{
    return lhi_task_made_globals(&config->data);
}

/* Inputs of a stretch of tokens: where the next one is predicted, each needs the one after it. lead:
 * is there one before that may be read? */
static lhi_task_split task_stretch(const lh_task *t, lh_tokens *file, int64_t begin, int64_t end,
                                   bool lead)
{
    lhi_task_split s = {file, begin, end - begin};
    if (!t->shifted) return s;
    if (lead)
        s.first--;
    else
        s.count--;
    return s;
}

/* What windows are cut of: tokens, or examples. */
static int64_t task_size(const lh_task *t, lh_split split)
{
    const lh_tokens_info *info = lh_tokens_about(t->file[split]);
    return t->examples ? info->examples : info->count;
}

/* Sets the splits, once the files are open. All ranks see the same sizes. */
static lh_status task_cut(lh_task *t, const lh_config *config)
{
    lh_status st = LH_OK;
    const lh_tokens_info *info = lh_tokens_about(t->file[LH_SPLIT_TRAIN]);
    const char *unit = info->kind == LH_TOKENS_BYTES ? "bytes"
                       : t->examples                 ? "examples"
                                                     : "tokens";
    int64_t size = task_size(t, LH_SPLIT_TRAIN);
    int64_t held = 0; /* tokens of the training file that belong to validation */
    if (t->file[LH_SPLIT_VALID] == NULL)
        held = (int64_t)ceil((double)size * config->data.valid_fraction);
    LH_CHECK(size - held >= 2, LH_ERR_USAGE,
             "key 'data.path': '%s' has %" PRId64 " %s, of which %" PRId64
             " are for validation: training needs at "
             "least 2; give a longer file, or data.valid_path",
             config->data.path, size, unit, held);
    t->split[LH_SPLIT_TRAIN] = task_stretch(t, t->file[LH_SPLIT_TRAIN], 0, size - held, false);
    if (held > 0)
        t->split[LH_SPLIT_VALID] =
            task_stretch(t, t->file[LH_SPLIT_TRAIN], size - held, size, true);
    for (int i = LH_SPLIT_VALID; i < LH_SPLITS; i++) {
        if (t->file[i] == NULL) continue;
        size = task_size(t, (lh_split)i);
        LH_CHECK(size >= 2, LH_ERR_USAGE,
                 "key 'data.%s': '%s' has %" PRId64 " %s: at least 2 are needed",
                 i == LH_SPLIT_VALID ? "valid_path" : "test_path", lh_tokens_path(t->file[i]), size,
                 unit);
        t->split[i] = task_stretch(t, t->file[i], 0, size, false);
    }
done:
    return st;
}

/* Examples where they are expected, and only there; a window holds the longest. */
static lh_status task_check_examples(const lh_task *t)
{
    lh_status st = LH_OK;
    for (int i = 0; i < LH_SPLITS; i++) {
        if (t->file[i] == NULL) continue;
        const lh_tokens_info *info = lh_tokens_about(t->file[i]);
        LH_CHECK((info->kind == LH_TOKENS_LISTOPS) == t->examples, LH_ERR_USAGE,
                 t->examples ? "'%s' holds %s, not ListOps examples; make it with longhaul prepare "
                               "FILE.tsv --task listops"
                             : "'%s' holds %s examples: use data.task listops",
                 lh_tokens_path(t->file[i]), lh_tokens_kind_name(info->kind));
        LH_CHECK(
            !t->examples || info->longest <= t->length, LH_ERR_USAGE,
            "key 'data.length': the longest example of '%s' has %" PRId64
            " tokens (with the one in front): set data.length to at least that, it is %" PRId64,
            lh_tokens_path(t->file[i]), info->longest, t->length);
    }
done:
    return st;
}

/* All files must number the same words alike. */
static lh_status task_same_words(lh_task *t)
{
    lh_status st = LH_OK;
    const lh_tokens_info *train = lh_tokens_about(t->file[LH_SPLIT_TRAIN]);
    t->vocab = train->vocab;
    LH_TRY(task_check_examples(t));
    LH_CHECK(t->separator < t->vocab, LH_ERR_USAGE,
             "key 'data.documents': there is no token %d in a vocabulary of %" PRId64,
             (int)t->separator, t->vocab);
    for (int i = LH_SPLIT_VALID; i < LH_SPLITS; i++) {
        if (t->file[i] == NULL) continue;
        const lh_tokens_info *info = lh_tokens_about(t->file[i]);
        LH_CHECK(info->kind == train->kind && info->vocab == train->vocab &&
                     info->vocabulary == train->vocabulary,
                 LH_ERR_USAGE,
                 "'%s' (%s, %" PRId64 " tokens in its vocabulary) and '%s' (%s, %" PRId64
                 ") number their tokens differently: make the second one with longhaul prepare "
                 "... --vocab of the first",
                 lh_tokens_path(t->file[LH_SPLIT_TRAIN]), lh_tokens_kind_name(train->kind),
                 train->vocab, lh_tokens_path(t->file[i]), lh_tokens_kind_name(info->kind),
                 info->vocab);
    }
done:
    return st;
}

/* Random tokens in the place of a file. Where only the file knows the vocabulary, the model must. */
static lh_status task_open_random(const lh_config *config, int task, lh_task *t)
{
    lh_status st = LH_OK;
    int64_t vocab = task_files[task].vocab;
    LH_CHECK(
        vocab > 0 || config->model.vocab != LH_AUTO, LH_ERR_USAGE,
        "key 'model.vocab' is missing: the token file says it, but no data file is opened here: "
        "give the number that longhaul inspect prints (masked_tokens: one more)");
    if (vocab == 0) vocab = config->model.vocab - task_files[task].masked;
    LH_CHECK(vocab >= 1, LH_ERR_USAGE, "key 'model.vocab': the mask alone is no vocabulary");
    LH_TRY(lh_tokens_open_random(vocab == TASK_BYTES ? LH_TOKENS_BYTES : LH_TOKENS_WORDS, vocab,
                                 TASK_RANDOM, t->seed, &t->file[LH_SPLIT_TRAIN]));
done:
    return st;
}

lh_status lh_task_open(lh_comm *comm, const lh_config *config, lh_task **out)
{
    lh_status st = LH_OK;
    lh_task *t = NULL;
    int task = task_file(config);
    const char *path[LH_SPLITS] = {config->data.path, config->data.valid_path,
                                   config->data.test_path};
    static const char *const key[LH_SPLITS] = {"path", "valid_path", "test_path"};
    *out = NULL;
    st = lh_new(sizeof *t, &t);
    LH_TRY(lh_agree(comm, st));
    t->data = &config->data;
    t->pulse = lh_comm_traffic(comm)->pulse;
    t->made = lh_task_made(config);
    t->classes = lh_task_classes(config);
    t->length = config->data.length;
    t->seed = (uint64_t)config->run.seed;
    t->separator = config->data.documents == LH_AUTO ? -1 : (int32_t)config->data.documents;
    t->examples = !t->made && config->data.task == LH_TASK_LISTOPS;
    t->shifted = !t->made && !t->examples && !task_files[task].masked;
    for (int i = 0; i < LH_SPLITS && !t->made; i++) {
        if (path[i][0] != '\0') st = task_files[task].open(comm, path[i], &t->file[i]);
        /* A file that cannot be read is a mistake in the experiment file, which names it. */
        if (st == LH_ERR_IO || st == LH_ERR_FORMAT)
            st = lh_error_context(LH_ERR_USAGE, "key 'data.%s'", key[i]);
        LH_TRY(st);
    }
    if (!t->made && t->file[LH_SPLIT_TRAIN] == NULL)
        LH_TRY(lh_agree(comm, task_open_random(config, task, t)));
    if (!t->made) LH_TRY(task_same_words(t));
    if (!t->made) LH_TRY(task_cut(t, config));
    if (t->made && lhi_task_sampled(t->data)) {
        st = lhi_task_sample_open(t);
        LH_TRY(lh_agree(comm, st));
    }
    *out = t;
    t = NULL;
done:
    lh_task_close(&t);
    return st;
}

void lh_task_close(lh_task **task)
{
    if (*task == NULL) return;
    for (int i = 0; i < LH_SPLITS; i++) lh_tokens_close(&(*task)->file[i]);
    lhi_task_sample_close(*task);
    lh_free(task);
}

int64_t lh_task_windows(const lh_task *t, lh_split split)
{
    if (t->examples) return t->split[split].count;
    if (!t->made) return (t->split[split].count + t->length - 1) / t->length;
    if (split == LH_SPLIT_TRAIN) return INT64_MAX;
    return split == LH_SPLIT_VALID ? t->data->valid_windows : 0;
}

int64_t lh_task_bytes(const lh_task *t)
{
    return t->made ? 0 : lh_tokens_about(t->file[LH_SPLIT_TRAIN])->file_bytes;
}

int64_t lh_task_order(const lh_task *t, int64_t sample)
{
    int64_t n = lh_task_windows(t, LH_SPLIT_TRAIN);
    if (t->made) return sample;
    return lh_random_permute(t->seed, lh_stream_id(LH_STREAM_ORDER, (uint32_t)(sample / n)), n,
                             sample % n);
}

/* Rows of consecutive positions, from their tokens, one more than rows. What follows the end of a
 * document is not predicted. Returns how many rows got a label. */
static int64_t task_next_rows(const lh_task *t, const int32_t *file, int64_t n, int32_t *tokens,
                              int32_t *labels)
{
    int64_t counted = 0;
    for (int64_t i = 0; i < n; i++) {
        tokens[i] = file[i];
        labels[i] = file[i] == t->separator ? -1 : file[i + 1];
        counted += labels[i] >= 0;
    }
    return counted;
}

/* number: of the first row among all positions of all draws. Returns how many rows got a label. */
static int64_t task_masked_rows(const lh_task *t, lh_split split, const int32_t *file, int64_t n,
                                uint64_t number, lh_rows *out, int64_t row)
{
    uint64_t choose = lh_stream_id(LH_STREAM_MASK, 2u * (uint32_t)split);
    uint64_t replace = lh_stream_id(LH_STREAM_MASK, 2u * (uint32_t)split + 1u);
    int32_t mask = (int32_t)t->vocab;
    int64_t counted = 0;
    for (int64_t i = 0; i < n; i++) {
        uint64_t k = number + (uint64_t)i;
        out->tokens[row + i] = file[i];
        if (lh_random_uniform(t->seed, choose, k) >= t->data->mask) continue;
        double how = lh_random_uniform(t->seed, replace, 2 * k);
        uint32_t other = lh_random_u32(t->seed, replace, 8 * k + 7) % (uint32_t)mask;
        out->labels[row + i] = file[i];
        out->tokens[row + i] = how < 0.8 ? mask : how < 0.9 ? (int32_t)other : file[i];
        counted++;
    }
    return counted;
}

/* n rows from local row `row`, at consecutive positions of a window. */
static lh_status task_read_rows(const lh_task *t, lh_split split, int64_t first, int64_t n,
                                uint64_t number, int64_t row, lh_rows *out)
{
    int32_t file[TASK_PIECE + 1];
    for (int64_t done = 0; done < n;) {
        int64_t part = n - done < TASK_PIECE ? n - done : TASK_PIECE;
        lh_status st =
            lh_tokens_read(t->split[split].file, first + done, part + (t->shifted ? 1 : 0), file);
        if (st != LH_OK) return st;
        if (t->shifted) {
            out->counted +=
                task_next_rows(t, file, part, out->tokens + row + done, out->labels + row + done);
        } else {
            out->counted +=
                task_masked_rows(t, split, file, part, number + (uint64_t)done, out, row + done);
        }
        done += part;
    }
    return LH_OK;
}

/* Rows without data; positions from `valid` on are one document. */
static void task_blank(const lh_layout *layout, int rank, int64_t valid, lh_rows *out)
{
    for (int64_t i = 0; i < layout->rows[rank]; i++) {
        out->tokens[i] = 0;
        out->labels[i] = -1;
        if (out->documents == NULL) continue;
        out->documents[2 * i] = (int32_t)valid;
        out->documents[2 * i + 1] = (int32_t)layout->n;
    }
    out->valid = valid;
    out->counted = 0;
    out->n_global = 0;
    out->sequence_label = -1;
}

/* The rows of a piece that exist, from the file, where the window begins at token `start`, or made. */
static lh_status task_read_piece(const lh_task *t, lh_split split, int64_t window, int64_t draw,
                                 int64_t start, lh_piece p, lh_rows *out)
{
    lh_status st = LH_OK;
    const lhi_task_split *s = &t->split[split];
    uint64_t number = (uint64_t)(draw * t->length + p.position);
    if (t->made) {
        for (int64_t i = 0; i < p.count; i++)
            lhi_task_made_row(t, split, window, p.position + i, p.row + i, out);
        return LH_OK;
    }
    if (t->examples)
        return lh_tokens_read(s->file, start + p.position, p.count, out->tokens + p.row);
    LH_TRY(task_read_rows(t, split, start + p.position, p.count, number, p.row, out));
    if (out->documents != NULL)
        LH_TRY(lhi_task_documents(t, s->file, start, out->valid, p.position, p.count, p.row, out));
done:
    return st;
}

/* Where a window begins in the file, how many tokens are left from there on, and its class. */
static lh_status task_locate(const lh_task *t, lh_split split, int64_t window, int64_t *start,
                             int64_t *left, int32_t *label)
{
    lh_status st = LH_OK;
    const lhi_task_split *s = &t->split[split];
    int64_t span[2] = {0, 0};
    if (!t->examples) {
        *start = s->first + window * t->length;
        *left = s->count - window * t->length;
        goto done;
    }
    LH_TRY(lh_tokens_example(s->file, s->first + window, span, label));
    LH_CHECK(*label >= 0 && *label < t->classes, LH_ERR_FORMAT,
             "example %" PRId64 " of '%s' has the label %d", s->first + window,
             lh_tokens_path(s->file), (int)*label);
    *start = span[0];
    *left = span[1] - span[0];
done:
    return st;
}

lh_status lh_task_read(const lh_task *t, lh_split split, int64_t window, int64_t draw,
                       const lh_layout *layout, int rank, lh_rows *out)
{
    lh_status st = LH_OK;
    int64_t left = t->length; /* positions that exist from the window's begin on */
    int64_t n_runs = 0;
    int64_t row = 0;
    int64_t start = 0; /* of the window in the file */
    int32_t label = -1;
    const lh_run *run = lh_layout_runs(layout, rank, &n_runs);
    lh_pulse_beat(t->pulse);
    task_blank(layout, rank, 0, out);
    if (window < 0) return LH_OK;
    if (!t->made) LH_TRY(task_locate(t, split, window, &start, &left, &label));
    if (t->sample != NULL) LH_TRY(lhi_task_sample_draw(t, split, window, &left));
    task_blank(layout, rank, left < t->length ? left : t->length, out);
    if (t->classes > 0)
        out->sequence_label = t->made ? lhi_task_made_label(t, split, window) : label;
    out->counted = rank == 0 && out->sequence_label >= 0;
    if (out->global != NULL) out->n_global = lhi_task_made_globals(t->data);
    for (int64_t i = 0; out->global != NULL && i < out->n_global; i++) out->global[i] = i;
    for (int64_t r = 0; r < n_runs; r++) {
        /* a run of stride 1 is read at once; others position by position */
        int64_t step = run[r].stride == 1 ? run[r].count : 1;
        for (int64_t i = 0; i < run[r].count; i += step, row += step) {
            int64_t position = run[r].start + i * run[r].stride;
            lh_piece p = {.row = row, .count = step, .position = position, .stride = 1};
            if (out->valid - position < step) p.count = out->valid - position;
            if (p.count > 0) LH_TRY(task_read_piece(t, split, window, draw, start, p, out));
        }
    }
done:
    if (st != LH_OK) task_blank(layout, rank, 0, out);
    return st;
}
