/* Tasks from files. */
#include <inttypes.h>
#include <math.h>

#include "core/random.h"
#include "experiments/task_internal.h"

enum { TASK_BYTES = 256, TASK_MASK = 256, TASK_PIECE = 65536 };

bool lh_task_made(const lh_config *config)
{
    int task = config->data.task;
    return task != LH_TASK_TEXT && task != LH_TASK_MASKED_TEXT;
}

int64_t lh_task_vocab(const lh_config *config)
{
    if (lh_task_made(config)) return lhi_task_made_vocab(&config->data);
    return config->data.task == LH_TASK_MASKED_TEXT ? TASK_BYTES + 1 : TASK_BYTES;
}

int64_t lh_task_classes(const lh_config *config)
{
    bool markers = config->data.task == LH_TASK_MARKERS && config->model.head == LH_HEAD_CLASS;
    return markers ? 2 : 0;
}

int64_t lh_task_globals(const lh_config *config)
{
    return lh_task_made(config) ? lhi_task_made_globals(&config->data) : 0;
}

/* Inputs of a stretch of bytes: text needs the byte after each one. lead: is there a byte before
 * that may be read? */
static lhi_task_split task_stretch(const lh_task *t, lh_bytes *file, int64_t begin, int64_t end,
                                   bool lead)
{
    lhi_task_split s = {file, begin, end - begin};
    if (t->data->task == LH_TASK_MASKED_TEXT) return s;
    if (lead)
        s.first--;
    else
        s.count--;
    return s;
}

/* Sets the splits, once the files are open. All ranks see the same sizes. */
static lh_status task_cut(lh_task *t, const lh_config *config)
{
    lh_status st = LH_OK;
    int64_t size = lh_bytes_size(t->file[LH_SPLIT_TRAIN]);
    int64_t held = 0; /* bytes of the training file that belong to validation */
    if (t->file[LH_SPLIT_VALID] == NULL)
        held = (int64_t)ceil((double)size * config->data.valid_fraction);
    LH_CHECK(size - held >= 2, LH_ERR_USAGE,
             "'%s' has %" PRId64 " bytes, of which %" PRId64
             " are for validation: training needs at "
             "least 2; give a longer text, or data.valid_path",
             config->data.path, size, held);
    t->split[LH_SPLIT_TRAIN] = task_stretch(t, t->file[LH_SPLIT_TRAIN], 0, size - held, false);
    if (held > 0)
        t->split[LH_SPLIT_VALID] =
            task_stretch(t, t->file[LH_SPLIT_TRAIN], size - held, size, true);
    for (int i = LH_SPLIT_VALID; i < LH_SPLITS; i++) {
        if (t->file[i] == NULL) continue;
        size = lh_bytes_size(t->file[i]);
        LH_CHECK(size >= 2, LH_ERR_USAGE, "'%s' has %" PRId64 " bytes: at least 2 are needed",
                 lh_bytes_path(t->file[i]), size);
        t->split[i] = task_stretch(t, t->file[i], 0, size, false);
    }
done:
    return st;
}

lh_status lh_task_open(lh_comm *comm, const lh_config *config, lh_task **out)
{
    lh_status st = LH_OK;
    lh_task *t = NULL;
    const char *path[LH_SPLITS] = {config->data.path, config->data.valid_path,
                                   config->data.test_path};
    static const char *const key[LH_SPLITS] = {"path", "valid_path", "test_path"};
    *out = NULL;
    st = lh_new(sizeof *t, &t);
    LH_TRY(lh_agree(comm, st));
    t->data = &config->data;
    t->made = lh_task_made(config);
    t->classes = lh_task_classes(config);
    t->length = config->data.length;
    t->seed = (uint64_t)config->run.seed;
    t->separator = config->data.documents == LH_AUTO ? -1 : (int)config->data.documents;
    for (int i = 0; i < LH_SPLITS && !t->made; i++) {
        if (path[i][0] != '\0') st = lh_bytes_open(comm, path[i], &t->file[i]);
        /* A file that cannot be read is a mistake in the experiment file, which names it. */
        if (st == LH_ERR_IO) st = lh_error_context(LH_ERR_USAGE, "key 'data.%s'", key[i]);
        LH_TRY(st);
    }
    if (!t->made) LH_TRY(task_cut(t, config));
    *out = t;
    t = NULL;
done:
    lh_task_close(&t);
    return st;
}

void lh_task_close(lh_task **task)
{
    if (*task == NULL) return;
    for (int i = 0; i < LH_SPLITS; i++) lh_bytes_close(&(*task)->file[i]);
    lh_free(task);
}

int64_t lh_task_windows(const lh_task *t, lh_split split)
{
    if (!t->made) return (t->split[split].count + t->length - 1) / t->length;
    if (split == LH_SPLIT_TRAIN) return INT64_MAX;
    return split == LH_SPLIT_VALID ? t->data->valid_windows : 0;
}

int64_t lh_task_bytes(const lh_task *t)
{
    return t->made ? 0 : lh_bytes_size(t->file[LH_SPLIT_TRAIN]);
}

int64_t lh_task_order(const lh_task *t, int64_t sample)
{
    int64_t n = lh_task_windows(t, LH_SPLIT_TRAIN);
    if (t->made) return sample;
    return lh_random_permute(t->seed, lh_stream_id(LH_STREAM_ORDER, (uint32_t)(sample / n)), n,
                             sample % n);
}

/* Rows of consecutive positions, from their bytes, one more than rows. What follows the end of a
 * document is not predicted. Returns how many rows got a label. */
static int64_t task_text_rows(const lh_task *t, const uint8_t *bytes, int64_t n, int32_t *tokens,
                              int32_t *labels)
{
    int64_t counted = 0;
    for (int64_t i = 0; i < n; i++) {
        tokens[i] = bytes[i];
        labels[i] = bytes[i] == t->separator ? -1 : bytes[i + 1];
        counted += labels[i] >= 0;
    }
    return counted;
}

/* number: of the first row among all positions of all draws. Returns how many rows got a label. */
static int64_t task_masked_rows(const lh_task *t, lh_split split, const uint8_t *bytes, int64_t n,
                                uint64_t number, lh_rows *out, int64_t row)
{
    uint64_t choose = lh_stream_id(LH_STREAM_MASK, 2u * (uint32_t)split);
    uint64_t replace = lh_stream_id(LH_STREAM_MASK, 2u * (uint32_t)split + 1u);
    int64_t counted = 0;
    for (int64_t i = 0; i < n; i++) {
        uint64_t k = number + (uint64_t)i;
        out->tokens[row + i] = bytes[i];
        if (lh_random_uniform(t->seed, choose, k) >= t->data->mask) continue;
        double how = lh_random_uniform(t->seed, replace, 2 * k);
        uint32_t other = lh_random_u32(t->seed, replace, 8 * k + 7) % TASK_BYTES;
        out->labels[row + i] = bytes[i];
        out->tokens[row + i] = how < 0.8 ? TASK_MASK : how < 0.9 ? (int32_t)other : bytes[i];
        counted++;
    }
    return counted;
}

/* n rows from local row `row`, at consecutive positions of a window. */
static lh_status task_read_rows(const lh_task *t, lh_split split, int64_t offset, int64_t n,
                                uint64_t number, int64_t row, lh_rows *out)
{
    uint8_t bytes[TASK_PIECE + 1];
    bool text = t->data->task == LH_TASK_TEXT;
    for (int64_t done = 0; done < n;) {
        int64_t part = n - done < TASK_PIECE ? n - done : TASK_PIECE;
        lh_status st =
            lh_bytes_read(t->split[split].file, offset + done, part + (text ? 1 : 0), bytes);
        if (st != LH_OK) return st;
        if (text) {
            out->counted +=
                task_text_rows(t, bytes, part, out->tokens + row + done, out->labels + row + done);
        } else {
            out->counted +=
                task_masked_rows(t, split, bytes, part, number + (uint64_t)done, out, row + done);
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

/* The rows of a piece that exist, from the file or made. */
static lh_status task_read_piece(const lh_task *t, lh_split split, int64_t window, int64_t draw,
                                 lh_piece p, lh_rows *out)
{
    lh_status st = LH_OK;
    const lhi_task_split *s = &t->split[split];
    int64_t start = s->first + window * t->length;
    uint64_t number = (uint64_t)(draw * t->length + p.position);
    if (t->made) {
        for (int64_t i = 0; i < p.count; i++)
            lhi_task_made_row(t, split, window, p.position + i, p.row + i, out);
        return LH_OK;
    }
    LH_TRY(task_read_rows(t, split, start + p.position, p.count, number, p.row, out));
    if (out->documents != NULL)
        LH_TRY(lhi_task_documents(t, s->file, start, out->valid, p.position, p.count, p.row, out));
done:
    return st;
}

lh_status lh_task_read(const lh_task *t, lh_split split, int64_t window, int64_t draw,
                       const lh_layout *layout, int rank, lh_rows *out)
{
    lh_status st = LH_OK;
    int64_t left = t->made ? t->length : t->split[split].count - window * t->length;
    int64_t n_runs = 0;
    int64_t row = 0;
    const lh_run *run = lh_layout_runs(layout, rank, &n_runs);
    task_blank(layout, rank, window < 0 ? 0 : left < t->length ? left : t->length, out);
    if (window < 0) return LH_OK;
    if (t->classes > 0) out->sequence_label = lhi_task_made_label(t, split, window);
    out->counted = rank == 0 && out->sequence_label >= 0;
    if (t->made && out->global != NULL) out->n_global = lhi_task_made_globals(t->data);
    for (int64_t i = 0; out->global != NULL && i < out->n_global; i++) out->global[i] = i;
    for (int64_t r = 0; r < n_runs; r++) {
        /* a run of stride 1 is read at once; others position by position */
        int64_t step = run[r].stride == 1 ? run[r].count : 1;
        for (int64_t i = 0; i < run[r].count; i += step, row += step) {
            int64_t position = run[r].start + i * run[r].stride;
            lh_piece p = {.row = row, .count = step, .position = position, .stride = 1};
            if (out->valid - position < step) p.count = out->valid - position;
            if (p.count > 0) LH_TRY(task_read_piece(t, split, window, draw, p, out));
        }
    }
done:
    if (st != LH_OK) task_blank(layout, rank, 0, out);
    return st;
}
