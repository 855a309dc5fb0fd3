/* ListOps: evaluator and generator. */
#include "experiments/listops.h"

#include <inttypes.h>
#include <string.h>

#include "core/random.h"

enum { LISTOPS_DRAWS = 24 }; /* bits of the number of a draw within one tree */

static const char *const listops_names[LH_LISTOPS_TOKENS] = {
    "PAD", "0", "1",    "2",    "3",    "4",   "5", "6",   "7",
    "8",   "9", "[MIN", "[MAX", "[MED", "[SM", "]", "UNK", "CLS"};

const char *lh_listops_name(int token)
{
    return listops_names[token >= 0 && token < LH_LISTOPS_TOKENS ? token : LH_LISTOPS_UNKNOWN];
}

int lh_listops_find(const char *word, size_t length)
{
    if (length == 1 && word[0] == 'X') return LH_LISTOPS_CLOSE;
    for (int t = LH_LISTOPS_DIGIT; t <= LH_LISTOPS_CLOSE; t++)
        if (strlen(listops_names[t]) == length && memcmp(listops_names[t], word, length) == 0)
            return t;
    return LH_LISTOPS_UNKNOWN;
}

/* --- the evaluator: two stacks, so that depth is bounded by memory alone --- */

typedef struct listops_stacks {
    int64_t *open;  /* of each open list: the number of its operator's token */
    uint8_t *value; /* of the arguments seen so far, all open lists' one after another; an operator
                       takes a place, too */
    int64_t depth, values;
    /* what is asked beside the value: lists below `levels` count as guess[operator] (guess NULL: none
     * does); how often lists of an operator have a value (NULL: not asked) */
    const int *guess;
    int64_t levels;
    int64_t (*count)[LH_LISTOPS_CLASSES];
} listops_stacks;

static bool listops_is_digit(int token)
{
    return token >= LH_LISTOPS_DIGIT && token < LH_LISTOPS_MIN;
}

static bool listops_is_operator(int token)
{
    return token >= LH_LISTOPS_MIN && token <= LH_LISTOPS_SM;
}

/* The k-th least of values that are counted. */
static int listops_nth(const int64_t count[10], int64_t k)
{
    int value = 0;
    for (int64_t below = count[0]; below <= k && value < 9; below += count[value]) value++;
    return value;
}

/* Value of an operator over n >= 1 values. */
static int listops_apply(int op, const uint8_t *value, int64_t n)
{
    int64_t count[10] = {0};
    int64_t sum = 0;
    for (int64_t i = 0; i < n; i++) {
        count[value[i]]++;
        sum += value[i];
    }
    if (op == LH_LISTOPS_MIN) return listops_nth(count, 0);
    if (op == LH_LISTOPS_MAX) return listops_nth(count, n - 1);
    if (op == LH_LISTOPS_SM) return (int)(sum % 10);
    return (listops_nth(count, (n - 1) / 2) + listops_nth(count, n / 2)) / 2;
}

/* Closes the innermost list: its operator and values become one value. */
static lh_status listops_close(listops_stacks *s, const uint8_t *token, int64_t at)
{
    lh_status st = LH_OK;
    LH_CHECK(s->depth > 0, LH_ERR_FORMAT, "token %" PRId64 ": ']' closes no list", at);
    int64_t open = s->open[s->depth - 1];
    int64_t first = s->values;
    while (!listops_is_operator(s->value[first - 1])) first--;
    LH_CHECK(first < s->values, LH_ERR_FORMAT, "token %" PRId64 ": %s has no arguments", open,
             lh_listops_name(token[open]));
    int op = token[open] - LH_LISTOPS_MIN;
    int value = listops_apply(token[open], s->value + first, s->values - first);
    if (s->count != NULL) s->count[op][value]++;
    if (s->guess != NULL && s->depth > s->levels) value = s->guess[op];
    s->value[first - 1] = (uint8_t)value;
    s->values = first;
    s->depth--;
done:
    return st;
}

static lh_status listops_take(listops_stacks *s, const uint8_t *token, int64_t at)
{
    lh_status st = LH_OK;
    LH_CHECK(at == 0 || s->depth > 0 || token[at] == LH_LISTOPS_CLOSE, LH_ERR_FORMAT,
             "token %" PRId64 ": %s after the end of the expression", at,
             lh_listops_name(token[at]));
    LH_CHECK(token[at] >= LH_LISTOPS_DIGIT && token[at] <= LH_LISTOPS_CLOSE, LH_ERR_FORMAT,
             "token %" PRId64 ": expected a digit, an operator or ']', got %s", at,
             lh_listops_name(token[at]));
    if (token[at] == LH_LISTOPS_CLOSE) {
        LH_TRY(listops_close(s, token, at));
    } else if (listops_is_digit(token[at])) {
        s->value[s->values++] = (uint8_t)(token[at] - LH_LISTOPS_DIGIT);
    } else {
        s->value[s->values++] = token[at];
        s->open[s->depth++] = at;
    }
done:
    return st;
}

/* The whole expression, with what `s` asks; its stacks have room for n. */
static lh_status listops_walk(listops_stacks *s, const uint8_t *token, int64_t n, int *value)
{
    lh_status st = LH_OK;
    *value = 0;
    LH_CHECK(n > 0, LH_ERR_FORMAT, "the expression is empty");
    for (int64_t i = 0; i < n; i++) LH_TRY(listops_take(s, token, i));
    LH_CHECK(s->depth == 0, LH_ERR_FORMAT, "token %" PRId64 ": the list of %s has no ']'",
             s->open[s->depth - 1], lh_listops_name(token[s->open[s->depth - 1]]));
    *value = s->value[0];
done:
    return st;
}

/* The same with stacks made for it. */
static lh_status listops_run(listops_stacks s, const uint8_t *token, int64_t n, int *value)
{
    lh_status st = LH_OK;
    *value = 0;
    LH_TRY(lh_new((size_t)n * sizeof *s.open, &s.open));
    LH_TRY(lh_new((size_t)n, &s.value));
    LH_TRY(listops_walk(&s, token, n, value));
done:
    lh_free(&s.open);
    lh_free(&s.value);
    return st;
}

lh_status lh_listops_evaluate(const uint8_t *token, int64_t n, int *value)
{
    return listops_run((listops_stacks){0}, token, n, value);
}

lh_status lh_listops_evaluate_in(const lh_listops_room *room, const uint8_t *token, int64_t n,
                                 int *value)
{
    listops_stacks s = {.open = room->open, .value = room->value};
    return listops_walk(&s, token, n, value);
}

/* --- what can be guessed without evaluating --- */

static int listops_mode(const int64_t count[LH_LISTOPS_CLASSES])
{
    int mode = 0;
    for (int v = 1; v < LH_LISTOPS_CLASSES; v++)
        if (count[v] > count[mode]) mode = v;
    return mode;
}

lh_status lh_listops_count(lh_listops_ladder *ladder, const uint8_t *token, int64_t n)
{
    int value = 0;
    lh_status st = listops_run((listops_stacks){.count = ladder->list}, token, n, &value);
    if (st != LH_OK) return st;
    ladder->label[value]++;
    if (listops_is_operator(token[0])) ladder->root[token[0] - LH_LISTOPS_MIN][value]++;
    return LH_OK;
}

lh_status lh_listops_climb(lh_listops_ladder *ladder, const uint8_t *token, int64_t n)
{
    lh_status st = LH_OK;
    int value = 0;
    int answer = listops_mode(ladder->label);
    int guess[LH_LISTOPS_OPERATORS];
    LH_TRY(lh_listops_evaluate(token, n, &value));
    ladder->samples++;
    ladder->right[LH_LISTOPS_MAJORITY] += answer == value;
    for (int rung = LH_LISTOPS_FIRST_TOKEN; rung < LH_LISTOPS_RUNGS; rung++) {
        int64_t levels = rung - LH_LISTOPS_FIRST_TOKEN;
        for (int op = 0; op < LH_LISTOPS_OPERATORS; op++)
            guess[op] = listops_mode(levels == 0 ? ladder->root[op] : ladder->list[op]);
        LH_TRY(listops_run((listops_stacks){.guess = guess, .levels = levels}, token, n, &answer));
        ladder->right[rung] += answer == value;
    }
done:
    return st;
}

/* --- the generator --- */

int64_t lh_listops_longest(const lh_listops_desc *d)
{
    const int64_t most = INT64_C(1) << 40;
    int64_t length = 1; /* of a node at max_depth */
    for (int64_t depth = d->max_depth - 1; depth > 0 && length < most; depth--)
        length = 2 + d->max_args * length;
    return length < most ? length : most;
}

/* Draws of one tree, in order. */
typedef struct listops_draws {
    uint64_t seed, stream, next;
} listops_draws;

/* The next one, uniform in 0 .. n - 1. */
static int64_t listops_draw(listops_draws *r, int64_t n)
{
    int64_t k = (int64_t)(lh_random_uniform(r->seed, r->stream, r->next++) * (double)n);
    return k < n ? k : n - 1;
}

/* One tree in the order of its tokens: nodes are drawn as they are written. Returns its tokens; 0:
 * it is too long, and was left as soon as that was sure. */
static int64_t listops_tree(const lh_listops_desc *d, listops_draws *r, uint8_t *token)
{
    int64_t missing[LH_LISTOPS_DEPTH + 1] = {
        1};            /* nodes still to come in each open list; 0: the root */
    int64_t depth = 1; /* of the node to come; open lists: depth - 1 */
    int64_t n = 0;
    while (depth > 1 || missing[0] > 0) {
        if (n == d->shorter_than - 1) return 0;
        if (missing[depth - 1] == 0) {
            token[n++] = LH_LISTOPS_CLOSE;
            depth--;
            continue;
        }
        missing[depth - 1]--;
        bool list =
            depth < d->max_depth && lh_random_uniform(r->seed, r->stream, r->next++) <= 0.25;
        if (!list) {
            token[n++] = (uint8_t)(LH_LISTOPS_DIGIT + listops_draw(r, 10));
            continue;
        }
        missing[depth] = 2 + listops_draw(r, d->max_args - 1);
        token[n++] = (uint8_t)(LH_LISTOPS_MIN + listops_draw(r, LH_LISTOPS_OPERATORS));
        depth++;
    }
    return n;
}

lh_status lh_listops_generate(const lh_listops_desc *d, uint64_t seed, int split, int64_t sample,
                              int64_t max_tries, uint8_t *token, int64_t *n, int64_t *tries)
{
    lh_status st = LH_OK;
    int64_t t = 0;
    *n = 0;
    /* a node takes at most three draws, and no draw is used twice */
    LH_CHECK(d->longer_than >= 0 && d->max_depth >= 2 && d->max_depth <= LH_LISTOPS_DEPTH &&
                 d->max_args >= 2 && d->shorter_than > 1 &&
                 d->shorter_than <= (1 << LISTOPS_DRAWS) / 4 && max_tries <= INT32_MAX / 4,
             LH_ERR_BUG, "ListOps of depth %" PRId64 ", %" PRId64 " arguments, below %" PRId64,
             d->max_depth, d->max_args, d->shorter_than);
    while (*n <= d->longer_than && t < max_tries) {
        /* every tree has a stream of its own, in which samples follow one another */
        listops_draws r = {seed, lh_stream_id(LH_STREAM_TREE, (uint32_t)split + 4u * (uint32_t)t),
                           (uint64_t)sample << LISTOPS_DRAWS};
        *n = listops_tree(d, &r, token);
        t++;
    }
    LH_CHECK(*n > d->longer_than, LH_ERR_RANGE,
             "ListOps: none of %" PRId64 " trees of depth %" PRId64 " with up to %" PRId64
             " arguments has more than %" PRId64 " and less than %" PRId64 " tokens",
             max_tries, d->max_depth, d->max_args, d->longer_than, d->shorter_than);
done:
    if (tries != NULL) *tries = t;
    return st;
}
