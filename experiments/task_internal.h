#pragma once
/* Shared by task.c (files) and task_made.c (tasks that the program makes). */
#include "experiments/task.h"
#include "io/bytes.h"

/* A split of a file: labels of window w are bytes first + w length + 1 .., inputs the ones before
 * (text); masked text predicts the bytes at first + w length themselves. */
typedef struct lhi_task_split {
    lh_bytes *file; /* borrowed from files[] */
    int64_t first;  /* offset of the first input */
    int64_t count;  /* inputs */
} lhi_task_split;

struct lh_task {
    const lh_config_data *data; /* borrowed */
    bool made;
    int64_t classes; /* lh_task_classes */
    int64_t length;
    uint64_t seed;
    int separator; /* the byte that ends a document; -1: none does */
    lh_bytes *file[LH_SPLITS];
    lhi_task_split split[LH_SPLITS];
};

/* lhi_task_made_vocab, lhi_task_made_globals - of a task that the program makes. Local, pure. */
int64_t lhi_task_made_vocab(const lh_config_data *data);
int64_t lhi_task_made_globals(const lh_config_data *data);

/* lhi_task_made_label - class of a window of a made task with classes. Local, pure. */
int32_t lhi_task_made_label(const lh_task *t, lh_split split, int64_t window);

/* lhi_task_made_row - local row `row` at `position` of a window of a made task. Local, pure. */
void lhi_task_made_row(const lh_task *t, lh_split split, int64_t window, int64_t position,
                       int64_t row, lh_rows *out);

/* lhi_task_documents - documents of rows row .. row + n - 1, which lie at positions position,
 * position + 1, ... of the window that starts at byte `start` and has `valid` inputs. n >= 1,
 * position + n <= valid. Reads backwards to the document's begin and forwards to its end, in
 * pieces. Local. Errors: LH_ERR_IO. */
LH_NODISCARD lh_status lhi_task_documents(const lh_task *t, const lh_bytes *file, int64_t start,
                                          int64_t valid, int64_t position, int64_t n, int64_t row,
                                          lh_rows *out);
