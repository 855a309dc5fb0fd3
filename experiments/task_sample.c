/* Tasks that the program makes and whose samples are drawn whole, once for all rows of a rank: lists
 * (listops) and draws without repetition (mqar, selective_copy). */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "core/random.h"
#include "experiments/listops.h"
#include "experiments/task_internal.h"

enum {
    SAMPLE_TRIES = 1 << 18, /* trees of one sample, at most: opening asks for far better odds */
    SAMPLE_TRIAL = 1 << 13
};

#define SAMPLE_POWER 0.01 /* a of the law of gaps of mqar: p(g) proportional to g^(a - 1) */

/* An order in which numbers are taken out of a pool without repetition. */
typedef struct sample_ticket {
    double time;
    int64_t number;
} sample_ticket;

/* Of a query: its place, the number of its pair. Sorted by place. */
typedef struct sample_place {
    int64_t position, number;
} sample_place;

struct lhi_task_sample {
    int split; /* of the sample that is held; -1: none */
    int64_t window;
    /* listops */
    uint8_t *token;
    lh_listops_room room;
    int64_t tokens;
    int value;
    /* mqar: keys and values of the pairs, in order; both others: where they are asked for, or lie */
    int64_t count;
    int32_t *key, *answer;
    sample_place *place; /* [count] */
    int32_t *pool;
    sample_ticket *ticket;
};

bool lhi_task_sampled(const lh_config_data *data)
{
    return data->task == LH_TASK_LISTOPS || data->task == LH_TASK_MQAR ||
           data->task == LH_TASK_SELECTIVE_COPY;
}

/* --- listops --- */

static lh_listops_desc sample_trees(const lh_config_data *d)
{
    return (lh_listops_desc){d->tree_depth, d->tree_args, d->longer_than, d->shorter_than};
}

static lh_status sample_tree(const lh_task *t, lh_split split, int64_t window, int64_t tries)
{
    lh_status st = LH_OK;
    lhi_task_sample *s = t->sample;
    lh_listops_desc d = sample_trees(t->data);
    LH_TRY(lh_listops_generate(&d, t->seed, (int)split, window, tries, s->token, &s->tokens, NULL));
    LH_TRY(lh_listops_evaluate_in(&s->room, s->token, s->tokens, &s->value));
done:
    return st;
}

/* --- draws without repetition --- */

/* `count` different numbers of 0 .. n - 1, all sets and orders equally likely (Fisher and Yates). */
static void sample_distinct(const lh_task *t, lh_split split, int64_t first, int64_t n,
                            int64_t count, int32_t *out)
{
    int32_t *pool = t->sample->pool;
    for (int64_t i = 0; i < n; i++) pool[i] = (int32_t)i;
    for (int64_t i = 0; i < count; i++) {
        int64_t k = i + lhi_task_draw(t, split, LHI_DRAW_SAMPLE, first + i, n - i);
        out[i] = pool[k];
        pool[k] = pool[i];
    }
}

static int sample_sooner(const void *a, const void *b)
{
    const sample_ticket *x = a;
    const sample_ticket *y = b;
    if (x->time != y->time) return x->time < y->time ? -1 : 1;
    return x->number < y->number ? -1 : 1;
}

static int sample_before(const void *a, const void *b)
{
    int64_t x = ((const sample_place *)a)->position;
    int64_t y = ((const sample_place *)b)->position;
    return (x > y) - (x < y);
}

/* Slots are drawn one after another without repetition, slot g = 1, 2, ... in proportion to g^(a - 1).
 * That is a race: each slot comes at an exponential time of that rate (Efraimidis and Spirakis
 * 2006). */
static void sample_slots(const lh_task *t, lh_split split, int64_t first, int64_t slots)
{
    lhi_task_sample *s = t->sample;
    uint32_t instance = LHI_DRAWS * (uint32_t)split + LHI_DRAW_SAMPLE;
    for (int64_t g = 0; g < slots; g++) {
        double u = lh_random_uniform(t->seed, lh_stream_id(LH_STREAM_TASK, instance),
                                     (uint64_t)(first + g));
        s->ticket[g].time = -log(u) * pow((double)(g + 1), 1.0 - SAMPLE_POWER);
        s->ticket[g].number = g;
    }
    qsort(s->ticket, (size_t)slots, sizeof *s->ticket, sample_sooner);
}

static void sample_pairs(const lh_task *t, lh_split split, int64_t window)
{
    lhi_task_sample *s = t->sample;
    int64_t half = t->data->vocab / 2;
    int64_t first = window * t->length; /* this sample's draws are fewer than its positions */
    sample_distinct(t, split, first, half - 1, s->count, s->key);
    sample_distinct(t, split, first + s->count, t->data->vocab - half, s->count, s->answer);
    sample_slots(t, split, first + 2 * s->count, (t->length - 2 * s->count) / 2);
    for (int64_t i = 0; i < s->count; i++) {
        s->key[i] += 1;
        s->answer[i] += (int32_t)half;
        s->place[i] = (sample_place){2 * s->count + 2 * s->ticket[i].number, i};
    }
    qsort(s->place, (size_t)s->count, sizeof *s->place, sample_before);
}

static void sample_items(const lh_task *t, lh_split split, int64_t window)
{
    lhi_task_sample *s = t->sample;
    sample_distinct(t, split, window * s->count, t->length - s->count, s->count, s->key);
    for (int64_t i = 0; i < s->count; i++) {
        s->answer[i] = (int32_t)lhi_task_draw(t, split, LHI_DRAW_SYMBOLS, window * s->count + i,
                                              t->data->vocab);
        s->place[i] = (sample_place){s->key[i], i};
    }
    qsort(s->place, (size_t)s->count, sizeof *s->place, sample_before);
    /* symbols belong to places: number them in their order */
    for (int64_t i = 0; i < s->count; i++) s->place[i].number = i;
}

/* --- all of them --- */

static lh_status sample_buffers(lh_task *t)
{
    lh_status st = LH_OK;
    lhi_task_sample *s = t->sample;
    const lh_config_data *d = t->data;
    if (d->task == LH_TASK_LISTOPS) {
        LH_TRY(lh_new((size_t)d->shorter_than, &s->token));
        LH_TRY(lh_new((size_t)d->shorter_than * sizeof *s->room.open, &s->room.open));
        LH_TRY(lh_new((size_t)d->shorter_than, &s->room.value));
        goto done;
    }
    s->count = d->task == LH_TASK_MQAR ? d->pairs : d->items;
    int64_t pool = d->task == LH_TASK_MQAR ? d->vocab : t->length;
    LH_TRY(lh_new((size_t)s->count * sizeof *s->key, &s->key));
    LH_TRY(lh_new((size_t)s->count * sizeof *s->answer, &s->answer));
    LH_TRY(lh_new((size_t)s->count * sizeof *s->place, &s->place));
    LH_TRY(lh_new((size_t)pool * sizeof *s->pool, &s->pool));
    if (d->task == LH_TASK_MQAR) LH_TRY(lh_new((size_t)t->length * sizeof *s->ticket, &s->ticket));
done:
    return st;
}

lh_status lhi_task_sample_open(lh_task *t)
{
    lh_status st = LH_OK;
    LH_TRY(lh_new(sizeof *t->sample, &t->sample));
    t->sample->split = -1;
    LH_TRY(sample_buffers(t));
    if (t->data->task != LH_TASK_LISTOPS) goto done;
    /* four samples, so that training does not meet what cannot be drawn */
    for (int64_t i = 0; i < 4 && st == LH_OK; i++)
        st = sample_tree(t, LH_SPLIT_TRAIN, i, SAMPLE_TRIAL);
    if (st == LH_ERR_RANGE)
        st = lh_error_context(LH_ERR_USAGE,
                              "keys 'data.longer_than', 'data.shorter_than': move them "
                              "apart, or change data.tree_depth, data.tree_args");
done:
    return st;
}

void lhi_task_sample_close(lh_task *t)
{
    lhi_task_sample *s = t->sample;
    if (s == NULL) return;
    lh_free(&s->token);
    lh_free(&s->room.open);
    lh_free(&s->room.value);
    lh_free(&s->key);
    lh_free(&s->answer);
    lh_free(&s->place);
    lh_free(&s->pool);
    lh_free(&s->ticket);
    lh_free(&t->sample);
}

/* The expression of an example of a file, CLS dropped, into tree [longest]; wide: as many, scratch. */
static lh_status ladder_read(const lh_task *t, lh_split split, int64_t window, int32_t *wide,
                             uint8_t *tree, int64_t *n)
{
    lh_status st = LH_OK;
    const lhi_task_split *s = &t->split[split];
    int64_t span[2];
    int32_t label = 0;
    LH_TRY(lh_tokens_example(s->file, s->first + window, span, &label));
    *n = span[1] - span[0] - 1;
    LH_CHECK(*n < t->length, LH_ERR_FORMAT, "example %lld of '%s' has %lld tokens",
             (long long)(s->first + window), lh_tokens_path(s->file), (long long)*n);
    LH_TRY(lh_tokens_read(s->file, span[0] + 1, *n, wide));
    for (int64_t i = 0; i < *n; i++) tree[i] = (uint8_t)wide[i];
done:
    return st;
}

/* Frequencies first, then what they would have answered. */
static lh_status sample_ladder(const lh_task *t, lh_split split, lh_listops_ladder *ladder)
{
    lh_status st = LH_OK;
    lhi_task_sample *s = t->sample;
    int32_t *wide = NULL;
    uint8_t *tree = NULL;
    int64_t n = 0;
    int64_t windows = lh_task_windows(t, split);
    if (s == NULL) LH_TRY(lh_new((size_t)t->length * sizeof *wide, &wide));
    if (s == NULL) LH_TRY(lh_new((size_t)t->length, &tree));
    if (s != NULL) s->split = -1;
    for (int64_t i = 0; i < 2 * windows; i++) {
        int64_t w = i % windows;
        lh_pulse_beat(t->pulse);
        if (s != NULL)
            LH_TRY(sample_tree(t, split, w, SAMPLE_TRIES));
        else
            LH_TRY(ladder_read(t, split, w, wide, tree, &n));
        if (s != NULL) n = s->tokens;
        LH_TRY((i < windows ? lh_listops_count : lh_listops_climb)(ladder,
                                                                   s != NULL ? s->token : tree, n));
    }
done:
    lh_free(&wide);
    lh_free(&tree);
    return st;
}

lh_status lh_task_baselines(const lh_task *t, lh_split split,
                            lh_task_baseline out[LH_TASK_BASELINES], int *n)
{
    static const char *const name[LH_LISTOPS_RUNGS] = {"baseline_majority", "baseline_first_token",
                                                       "baseline_one_level", "baseline_two_levels"};
    lh_status st = LH_OK;
    lh_listops_ladder ladder = {0};
    *n = 0;
    if (t->data->task != LH_TASK_LISTOPS) goto done;
    LH_TRY(sample_ladder(t, split, &ladder));
    for (int i = 0; i < LH_LISTOPS_RUNGS && ladder.samples > 0; i++)
        out[(*n)++] = (lh_task_baseline){name[i], (double)ladder.right[i] / (double)ladder.samples};
done:
    return st;
}

lh_status lhi_task_sample_draw(const lh_task *t, lh_split split, int64_t window, int64_t *valid)
{
    lh_status st = LH_OK;
    lhi_task_sample *s = t->sample;
    bool there = s->split == (int)split && s->window == window;
    s->split = -1;
    if (!there && t->data->task == LH_TASK_LISTOPS)
        LH_TRY(sample_tree(t, split, window, SAMPLE_TRIES));
    if (!there && t->data->task == LH_TASK_MQAR) sample_pairs(t, split, window);
    if (!there && t->data->task == LH_TASK_SELECTIVE_COPY) sample_items(t, split, window);
    s->split = (int)split;
    s->window = window;
    *valid = t->data->task == LH_TASK_LISTOPS ? s->tokens + 1 : t->length;
done:
    return st;
}

static const sample_place *sample_find(const lhi_task_sample *s, int64_t position)
{
    sample_place key = {.position = position};
    return bsearch(&key, s->place, (size_t)s->count, sizeof key, sample_before);
}

static void sample_row_mqar(const lh_task *t, lh_split split, int64_t window, int64_t p,
                            int32_t *token, int32_t *label)
{
    const lhi_task_sample *s = t->sample;
    const sample_place *query = sample_find(s, p);
    if (p < 2 * s->count) {
        *token = p % 2 == 0 ? s->key[p / 2] : s->answer[p / 2];
    } else if (query != NULL) {
        *token = s->key[query->number];
        *label = s->answer[query->number];
    } else if (t->data->filler == LH_FILLER_RANDOM) {
        *token = (int32_t)lhi_task_draw(t, split, LHI_DRAW_SYMBOLS, window * t->length + p,
                                        t->data->vocab);
    } else {
        *token = 0;
    }
}

static void sample_row_copy(const lh_task *t, int64_t p, int32_t *token, int32_t *label)
{
    const lhi_task_sample *s = t->sample;
    const sample_place *item = sample_find(s, p);
    int64_t asked = p - (t->length - s->count);
    *token = (int32_t)t->data->vocab + (asked >= 0 ? 1 : 0);
    if (item != NULL) *token = s->answer[item->number];
    if (asked >= 0) *label = s->answer[asked];
}

void lhi_task_sample_row(const lh_task *t, lh_split split, int64_t window, int64_t position,
                         int32_t *token, int32_t *label)
{
    const lhi_task_sample *s = t->sample;
    if (t->data->task == LH_TASK_MQAR) {
        sample_row_mqar(t, split, window, position, token, label);
    } else if (t->data->task == LH_TASK_SELECTIVE_COPY) {
        sample_row_copy(t, position, token, label);
    } else {
        *token = position == 0 ? LH_LISTOPS_CLS : s->token[position - 1];
    }
}

int32_t lhi_task_sample_label(const lh_task *t)
{
    return (int32_t)t->sample->value;
}
