#pragma once
/* Shared by task.c (files), task_made.c and task_sample.c (tasks that the program makes). */
#include "core/pulse.h"
#include "experiments/task.h"
#include "io/tokens.h"

/* A split of a file: labels of window w are tokens first + w length + 1 .., inputs the ones before;
 * masked tasks predict the tokens at first + w length themselves. Of a file of examples: first
 * example and number of them, each a window. */
typedef struct lhi_task_split {
    lh_tokens *file; /* borrowed from files[] */
    int64_t first;   /* number of the first input */
    int64_t count;   /* inputs */
} lhi_task_split;

/* Draws of a split of a made task: instances of its random stream. */
enum { LHI_DRAW_SYMBOLS, LHI_DRAW_SAMPLE, LHI_DRAWS };

/* The sample of a made task that was drawn last: what no position knows by itself. */
typedef struct lhi_task_sample lhi_task_sample;

struct lh_task {
    const lh_config_data *data; /* borrowed */
    bool made;
    int64_t classes; /* lh_task_classes */
    int64_t length;
    uint64_t seed;
    int64_t vocab;     /* tokens of the files, without the mask */
    int32_t separator; /* the token that ends a document; -1: none does */
    bool shifted;      /* labels are the tokens that follow */
    bool examples;     /* the files hold examples, each with a class */
    lh_tokens *file[LH_SPLITS];
    lhi_task_split split[LH_SPLITS];
    lhi_task_sample *sample; /* NULL: the task needs none */
    lh_pulse *pulse;         /* beats with every sample; NULL: nobody watches; borrowed */
};

/* lhi_task_made_vocab, lhi_task_made_globals - of a task that the program makes. Local, pure. */
int64_t lhi_task_made_vocab(const lh_config_data *data);
int64_t lhi_task_made_globals(const lh_config_data *data);

/* lhi_task_draw - number `index` of a split's draws, uniform in 0 .. n - 1. Local, pure. */
int64_t lhi_task_draw(const lh_task *t, lh_split split, int what, int64_t index, int64_t n);

/* lhi_task_sampled - does the task draw each sample whole, before its rows are made?
 * lhi_task_sample_open - make t->sample, and draw one to see that there are any. lhi_task_sample_close
 * - release it. Local. Cost: memory of O(data.length) on every rank.
 * Errors: LH_ERR_USAGE (no tree has such a length), LH_ERR_MEMORY. */
bool lhi_task_sampled(const lh_config_data *data);
LH_NODISCARD lh_status lhi_task_sample_open(lh_task *t);
void lhi_task_sample_close(lh_task *t);

/* lhi_task_sample_draw - the sample of a window into t->sample, unless it is there already. Local.
 * *valid: its positions. Errors: LH_ERR_RANGE (no tree has such a length). */
LH_NODISCARD lh_status lhi_task_sample_draw(const lh_task *t, lh_split split, int64_t window,
                                            int64_t *valid);

/* lhi_task_sample_row - as lhi_task_made_row, of the sample that was drawn. lhi_task_sample_label - as
 * lhi_task_made_label. Local, pure. */
void lhi_task_sample_row(const lh_task *t, lh_split split, int64_t window, int64_t position,
                         int32_t *token, int32_t *label);
int32_t lhi_task_sample_label(const lh_task *t);
/* lhi_task_made_label - class of a window of a made task with classes; a sample is drawn before. Local,
 * pure. */
int32_t lhi_task_made_label(const lh_task *t, lh_split split, int64_t window);

/* lhi_task_made_row - local row `row` at `position` of a window of a made task. Local, pure. */
void lhi_task_made_row(const lh_task *t, lh_split split, int64_t window, int64_t position,
                       int64_t row, lh_rows *out);

/* lhi_task_documents - documents of rows row .. row + n - 1, which lie at positions position,
 * position + 1, ... of the window that starts at token `start` and has `valid` inputs. n >= 1,
 * position + n <= valid. Reads backwards to the document's begin and forwards to its end, in
 * pieces. Local. Errors: LH_ERR_IO. */
LH_NODISCARD lh_status lhi_task_documents(const lh_task *t, const lh_tokens *file, int64_t start,
                                          int64_t valid, int64_t position, int64_t n, int64_t row,
                                          lh_rows *out);
