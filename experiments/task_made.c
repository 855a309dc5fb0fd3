/* Tasks that the program makes: their definitions are in task.h. */
#include "core/random.h"
#include "experiments/listops.h"
#include "experiments/task_internal.h"

/* Tokens of the task markers: a filler, two kinds of markers, the question, two answers. */
enum {
    MARKERS_FILLER = 0,
    MARKERS_KIND = 1,
    MARKERS_QUESTION = 3,
    MARKERS_ANSWER = 4,
    MARKERS_TOKENS = 6
};

int64_t lhi_task_made_vocab(const lh_config_data *data)
{
    switch (data->task) {
    case LH_TASK_MARKERS:
        return MARKERS_TOKENS;
    case LH_TASK_RECALL:
        return data->vocab + data->offsets;
    case LH_TASK_LISTOPS:
        return LH_LISTOPS_TOKENS;
    case LH_TASK_SELECTIVE_COPY:
        return data->vocab + 2;
    case LH_TASK_INDUCTION:
        return data->vocab + 1;
    case LH_TASK_NEEDLE:
        return 2 * data->vocab + 1;
    default:
        return data->vocab;
    }
}

int64_t lhi_task_made_globals(const lh_config_data *data)
{
    return data->task == LH_TASK_MARKERS || data->task == LH_TASK_LISTOPS ? 1 : 0;
}

int64_t lhi_task_draw(const lh_task *t, lh_split split, int what, int64_t index, int64_t n)
{
    uint32_t instance = LHI_DRAWS * (uint32_t)split + (uint32_t)what;
    double u = lh_random_uniform(t->seed, lh_stream_id(LH_STREAM_TASK, instance), (uint64_t)index);
    int64_t k = (int64_t)(u * (double)n);
    return k < n ? k : n - 1; /* u n may round up to n */
}

static int32_t made_symbol(const lh_task *t, lh_split split, int64_t window, int64_t position)
{
    return (int32_t)lhi_task_draw(t, split, LHI_DRAW_SYMBOLS, window * t->length + position,
                                  t->data->vocab);
}

static void made_lag(const lh_task *t, lh_split split, int64_t window, int64_t p, int32_t *token,
                     int32_t *label)
{
    *token = made_symbol(t, split, window, p);
    if (p >= t->data->lag) *label = made_symbol(t, split, window, p - t->data->lag);
}

/* Kind of marker i, 0 or 1. */
static int64_t made_marker(const lh_task *t, lh_split split, int64_t window, int i)
{
    return lhi_task_draw(t, split, LHI_DRAW_SAMPLE, 4 * window + 2 + i, 2);
}

/* Are both markers of one kind? */
static bool made_markers_equal(const lh_task *t, lh_split split, int64_t window)
{
    return made_marker(t, split, window, 0) == made_marker(t, split, window, 1);
}

/* Two different numbers of 0 .. d are a uniform pair; its lower and higher one give the markers'
 * places, so that all pairs of places at least `gap` apart are equally likely. d >= 1. */
static void made_markers(const lh_task *t, lh_split split, int64_t window, int64_t p,
                         int32_t *token, int32_t *label)
{
    int64_t d = t->length - 1 - t->data->gap;
    int64_t u = lhi_task_draw(t, split, LHI_DRAW_SAMPLE, 4 * window, d + 1);
    int64_t v = lhi_task_draw(t, split, LHI_DRAW_SAMPLE, 4 * window + 1, d);
    if (v >= u) v++;
    int64_t place[2] = {1 + (u < v ? u : v), (u < v ? v : u) + t->data->gap};
    *token = MARKERS_FILLER;
    for (int i = 0; i < 2; i++)
        if (p == place[i]) *token = MARKERS_KIND + (int32_t)made_marker(t, split, window, i);
    if (p > 0) return;
    *token = MARKERS_QUESTION;
    if (t->classes == 0) *label = MARKERS_ANSWER + made_markers_equal(t, split, window);
}

int32_t lhi_task_made_label(const lh_task *t, lh_split split, int64_t window)
{
    if (t->data->task == LH_TASK_LISTOPS) return lhi_task_sample_label(t);
    return made_markers_equal(t, split, window);
}

static void made_recall(const lh_task *t, lh_split split, int64_t window, int64_t p, int32_t *token,
                        int32_t *label)
{
    int64_t half = (t->length - 1) / 2;
    int64_t offset = lhi_task_draw(t, split, LHI_DRAW_SAMPLE, window, t->data->offsets);
    int64_t distance = (offset + 1) * (half / t->data->offsets);
    *token = p == 0 ? (int32_t)(t->data->vocab + offset) : made_symbol(t, split, window, p);
    if (p >= t->length - half) *label = made_symbol(t, split, window, p - distance);
}

/* A marker inside and at the end; what follows the first one is asked for. */
static void made_marked(const lh_task *t, lh_split split, int64_t window, int64_t p, int32_t *token,
                        int32_t *label)
{
    const lh_config_data *d = t->data;
    bool needle = d->task == LH_TASK_NEEDLE;
    int64_t marker = needle ? 2 * d->vocab : d->vocab;
    int64_t places = t->length - 2;
    int64_t place = lhi_task_draw(t, split, LHI_DRAW_SAMPLE, 2 * window, places);
    int64_t value = lhi_task_draw(t, split, LHI_DRAW_SAMPLE, 2 * window + 1, d->vocab);
    if (needle) value += d->vocab;
    if (needle && d->place != LH_AUTO) place = (places - 1) * d->place / 100;
    *token = made_symbol(t, split, window, p);
    if (p == place || p == t->length - 1) *token = (int32_t)marker;
    if (p == place + 1) *token = (int32_t)value;
    if (p == t->length - 1) *label = (int32_t)value;
}

void lhi_task_made_row(const lh_task *t, lh_split split, int64_t window, int64_t position,
                       int64_t row, lh_rows *out)
{
    int32_t *token = &out->tokens[row];
    int32_t *label = &out->labels[row];
    switch (t->data->task) {
    case LH_TASK_LAG:
        made_lag(t, split, window, position, token, label);
        break;
    case LH_TASK_MARKERS:
        made_markers(t, split, window, position, token, label);
        break;
    case LH_TASK_RECALL:
        made_recall(t, split, window, position, token, label);
        break;
    case LH_TASK_INDUCTION:
    case LH_TASK_NEEDLE:
        made_marked(t, split, window, position, token, label);
        break;
    default:
        lhi_task_sample_row(t, split, window, position, token, label);
    }
    if (*label >= 0) out->counted++;
}
