#include "experiments/task.h"

#include <inttypes.h>
#include <math.h>

#include "core/random.h"
#include "io/bytes.h"

enum { TASK_BYTES = 256, TASK_MASK = 256, TASK_PIECE = 65536 };

/* A split: labels of window w are bytes first + w length + 1 .., inputs the ones before (text);
 * masked text predicts the bytes at first + w length themselves. */
typedef struct task_split {
    lh_bytes *file; /* borrowed from files[] */
    int64_t first;  /* offset of the first input */
    int64_t count;  /* inputs */
} task_split;

struct lh_task {
    int kind; /* lh_task_kind */
    int64_t length;
    uint64_t seed;
    double mask;
    lh_bytes *file[LH_SPLITS];
    task_split split[LH_SPLITS];
};

int64_t lh_task_vocab(const lh_config *config)
{
    return config->data.task == LH_TASK_MASKED_TEXT ? TASK_BYTES + 1 : TASK_BYTES;
}

/* Inputs of a stretch of bytes: text needs the byte after each one. lead: is there a byte before
 * that may be read? */
static task_split task_stretch(const lh_task *t, lh_bytes *file, int64_t begin, int64_t end,
                               bool lead)
{
    task_split s = {file, begin, end - begin};
    if (t->kind == LH_TASK_MASKED_TEXT) return s;
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
    t->kind = config->data.task;
    t->length = config->data.length;
    t->seed = (uint64_t)config->run.seed;
    t->mask = config->data.mask;
    for (int i = 0; i < LH_SPLITS; i++) {
        if (path[i][0] != '\0') st = lh_bytes_open(comm, path[i], &t->file[i]);
        /* A file that cannot be read is a mistake in the experiment file, which names it. */
        if (st == LH_ERR_IO) st = lh_error_context(LH_ERR_USAGE, "key 'data.%s'", key[i]);
        LH_TRY(st);
    }
    LH_TRY(task_cut(t, config));
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
    return (t->split[split].count + t->length - 1) / t->length;
}

int64_t lh_task_tokens(const lh_task *t, lh_split split)
{
    return t->split[split].count;
}

int64_t lh_task_bytes(const lh_task *t)
{
    return lh_bytes_size(t->file[LH_SPLIT_TRAIN]);
}

int64_t lh_task_order(const lh_task *t, int64_t sample)
{
    int64_t n = lh_task_windows(t, LH_SPLIT_TRAIN);
    return lh_random_permute(t->seed, lh_stream_id(LH_STREAM_ORDER, (uint32_t)(sample / n)), n,
                             sample % n);
}

/* Rows of consecutive positions, from their bytes; text: one byte more than rows. */
static void task_text_rows(const uint8_t *bytes, int64_t n, int32_t *tokens, int32_t *labels)
{
    for (int64_t i = 0; i < n; i++) {
        tokens[i] = bytes[i];
        labels[i] = bytes[i + 1];
    }
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
        if (lh_random_uniform(t->seed, choose, k) >= t->mask) continue;
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
    bool text = t->kind == LH_TASK_TEXT;
    for (int64_t done = 0; done < n;) {
        int64_t part = n - done < TASK_PIECE ? n - done : TASK_PIECE;
        lh_status st =
            lh_bytes_read(t->split[split].file, offset + done, part + (text ? 1 : 0), bytes);
        if (st != LH_OK) return st;
        if (text) {
            task_text_rows(bytes, part, out->tokens + row + done, out->labels + row + done);
            out->counted += part;
        } else {
            out->counted +=
                task_masked_rows(t, split, bytes, part, number + (uint64_t)done, out, row + done);
        }
        done += part;
    }
    return LH_OK;
}

static void task_blank(lh_rows *out, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++) {
        out->tokens[i] = 0;
        out->labels[i] = -1;
    }
    out->counted = 0;
}

lh_status lh_task_read(const lh_task *t, lh_split split, int64_t window, int64_t draw,
                       const lh_layout *layout, int rank, lh_rows *out)
{
    lh_status st = LH_OK;
    const task_split *s = &t->split[split];
    int64_t start = window * t->length;
    int64_t n_runs = 0;
    int64_t row = 0;
    const lh_run *run = lh_layout_runs(layout, rank, &n_runs);
    task_blank(out, layout->rows[rank]);
    out->valid = 0;
    if (window < 0) return LH_OK;
    out->valid = s->count - start < t->length ? s->count - start : t->length;
    for (int64_t r = 0; r < n_runs; r++) {
        /* a run of stride 1 is read at once; others position by position */
        int64_t step = run[r].stride == 1 ? run[r].count : 1;
        for (int64_t i = 0; i < run[r].count; i += step, row += step) {
            int64_t position = run[r].start + i * run[r].stride;
            int64_t n = out->valid - position < step ? out->valid - position : step;
            if (n <= 0) continue;
            LH_TRY(task_read_rows(t, split, s->first + start + position, n,
                                  (uint64_t)(draw * t->length + position), row, out));
        }
    }
done:
    if (st != LH_OK) task_blank(out, layout->rows[rank]);
    return st;
}
