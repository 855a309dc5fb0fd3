/* ListOps: the evaluator against an independent recursive one, the generator against what has been
 * measured of the published one. */
#include "experiments/listops.h"
#include "tests/lh_test.h"

#include <stdio.h>
#include <string.h>

enum { WORDS = 4096 };

static const lh_listops_desc published = {10, 10, 500, 2000};
static const lh_listops_desc small = {6, 5, 16, 64};

/* Tokens of a text with blanks between words. */
static int64_t tokens_of(const char *text, uint8_t *token)
{
    int64_t n = 0;
    while (*text != '\0') {
        size_t length = strcspn(text, " ");
        if (length > 0) token[n++] = (uint8_t)lh_listops_find(text, length);
        text += length + (text[length] == ' ');
    }
    return n;
}

static void test_values(void **state)
{
    static const struct {
        const char *text;
        int value;
    } known[] = {
        {"[MED 1 2 ]", 1},
        {"[MED 9 0 4 5 ]", 4},
        {"[SM 9 9 ]", 8},
        {"[MAX 2 [MIN 8 5 ] ]", 5},
        {"[MED [SM 7 8 ] 3 9 ]", 5},
        {"[MIN 4 X", 4},
        {"[SM [SM 1 ] [MED 9 8 8 0 ] [MAX 0 9 ] X", 8},
        {"[MED 3 9 1 ]", 3},
        {"7", 7},
    };
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        uint8_t token[64];
        int value = -1;
        int64_t n = tokens_of(known[i].text, token);
        lh_assert_ok(lh_listops_evaluate(token, n, &value));
        if (value != known[i].value) fail_msg("%s gives %d", known[i].text, value);
    }
}

static void test_refused(void **state)
{
    static const char *const bad[][2] = {
        {"", "the expression is empty"},
        {"[MAX 1 2", "token 0: the list of [MAX has no ']'"},
        {"[MAX 1 [SM 2 3 ]", "token 0: the list of [MAX has no ']'"},
        {"[MAX [SM 1 2", "token 1: the list of [SM has no ']'"},
        {"]", "token 0: ']' closes no list"},
        {"[MAX 1 ] ]", "token 3: ']' closes no list"},
        {"[MAX 1 ] 2", "token 3: 2 after the end of the expression"},
        {"1 2", "token 1: 2 after the end of the expression"},
        {"[MAX 1 [SM ] ]", "token 2: [SM has no arguments"},
        {"[MAX 1 [SUM 2 ] ]", "token 2: expected a digit, an operator or ']', got UNK"},
        {"10", "token 0: expected a digit, an operator or ']', got UNK"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint8_t token[64];
        int value = -1;
        int64_t n = tokens_of(bad[i][0], token);
        lh_assert_error(lh_listops_evaluate(token, n, &value), LH_ERR_FORMAT, bad[i][1]);
    }
    uint8_t cls[] = {LH_LISTOPS_CLS}, pad[] = {LH_LISTOPS_DIGIT, LH_LISTOPS_PAD}, none[] = {200};
    int value = -1;
    lh_assert_error(lh_listops_evaluate(cls, 1, &value), LH_ERR_FORMAT, "got CLS");
    lh_assert_error(lh_listops_evaluate(pad, 2, &value), LH_ERR_FORMAT, "token 1: PAD after");
    lh_assert_error(lh_listops_evaluate(none, 1, &value), LH_ERR_FORMAT, "got UNK");
}

/* A list that is nested as deeply as it is long. */
static void test_deep(void **state)
{
    enum { DEPTH = 1000000 };
    uint8_t *token = NULL;
    int value = -1;
    (void)state;
    lh_assert_ok(lh_new(2 * DEPTH + 1, &token));
    memset(token, LH_LISTOPS_SM, DEPTH);
    token[DEPTH] = LH_LISTOPS_DIGIT + 6;
    memset(token + DEPTH + 1, LH_LISTOPS_CLOSE, DEPTH);
    lh_assert_ok(lh_listops_evaluate(token, 2 * DEPTH + 1, &value));
    assert_int_equal(value, 6);
    lh_assert_error(lh_listops_evaluate(token, 2 * DEPTH, &value), LH_ERR_FORMAT, "token 0: ");
    lh_free(&token);
}

/* The independent one: text, recursion and sorting instead of tokens, stacks and counting. Returns
 * -1 where the text is no expression or breaks the generator's rules. */
typedef struct parser {
    const char *at;
    int depth, deepest, most; /* arguments */
} parser;

static int parse(parser *p);

static int parse_list(parser *p, const char *op)
{
    int value[64], n = 0, sum = 0;
    while (*p->at != ']') {
        if (n == 64 || (value[n] = parse(p)) < 0) return -1;
        sum += value[n];
        for (int i = n; i > 0 && value[i - 1] > value[i]; i--) {
            int swap = value[i];
            value[i] = value[i - 1];
            value[i - 1] = swap;
        }
        n++;
    }
    p->at += 2;
    if (n > p->most) p->most = n;
    if (n < 2) return -1;
    if (strcmp(op, "[MIN") == 0) return value[0];
    if (strcmp(op, "[MAX") == 0) return value[n - 1];
    if (strcmp(op, "[SM") == 0) return sum % 10;
    if (strcmp(op, "[MED") != 0) return -1;
    return n % 2 == 1 ? value[n / 2] : (value[n / 2 - 1] + value[n / 2]) / 2;
}

static int parse(parser *p)
{
    char word[8] = "";
    if (sscanf(p->at, "%7s", word) != 1) return -1;
    p->at += strlen(word) + 1;
    if (word[0] >= '0' && word[0] <= '9' && word[1] == '\0') return word[0] - '0';
    p->depth++;
    if (p->depth > p->deepest) p->deepest = p->depth;
    int value = parse_list(p, word);
    p->depth--;
    return value;
}

/* Is the tree within the generator's rules, and has it this value? */
static bool tree_is(const lh_listops_desc *d, const uint8_t *token, int64_t n, int want)
{
    static char text[5 * WORDS];
    size_t used = 0;
    if (n <= d->longer_than || n >= d->shorter_than) return false;
    for (int64_t i = 0; i < n; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s ", lh_listops_name(token[i]));
    parser p = {.at = text};
    int value = parse(&p);
    return value == want && *p.at == '\0' && p.deepest < d->max_depth && p.most <= d->max_args;
}

static void test_trees(void **state)
{
    const lh_listops_desc *const kinds[] = {&published, &small};
    uint8_t token[WORDS], again[WORDS];
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        for (int64_t k = 0; k < 300; k++) {
            const lh_listops_desc *d = kinds[kind];
            int64_t n = 0, m = 0;
            int value = -1, split = (int)(k % 3);
            lh_assert_ok(lh_listops_generate(d, 5, split, k, 1000, token, &n, NULL));
            lh_assert_ok(lh_listops_evaluate(token, n, &value));
            assert_true(tree_is(d, token, n, value));
            /* a function of its number: the same again, another one beside it */
            lh_assert_ok(lh_listops_generate(d, 5, split, k, 1000, again, &m, NULL));
            assert_true(n == m && memcmp(token, again, (size_t)n) == 0);
            lh_assert_ok(lh_listops_generate(d, 5, (split + 1) % 3, k, 1000, again, &m, NULL));
            assert_true(n != m || memcmp(token, again, (size_t)n) != 0);
        }
    }
    const lh_listops_desc never = {3, 2, 20, 30};
    int64_t n = 0, tries = 0;
    assert_int_equal(lh_listops_longest(&never), 10);
    assert_int_equal(lh_listops_longest(&small), 4687);
    lh_assert_error(lh_listops_generate(&never, 5, 0, 0, 99, token, &n, &tries), LH_ERR_RANGE,
                    "none of 99 trees of depth 3 with up to 2 arguments has more than 20 and less");
    assert_int_equal(tries, 99);
}

/* What was measured with an independent program: acceptance, median length, frequencies, answers
 * without evaluation. Bounds: some four standard errors of this many samples and of theirs. */
typedef struct figures {
    double accepted, median, rung[LH_LISTOPS_RUNGS], zero, nine;
} figures;

static void check_figures(const lh_listops_desc *d, int64_t samples, const figures *want)
{
    static uint8_t token[WORDS];
    static int64_t length[WORDS];
    lh_listops_ladder ladder = {0};
    int64_t n = 0, tries = 0, all = 0, below = 0;
    memset(length, 0, sizeof length);
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t k = 0; k < samples; k++) {
            lh_assert_ok(lh_listops_generate(d, 1, 1, k, 1000, token, &n, &tries));
            if (pass == 1) {
                lh_assert_ok(lh_listops_climb(&ladder, token, n));
                continue;
            }
            lh_assert_ok(lh_listops_count(&ladder, token, n));
            all += tries;
            length[n]++;
        }
    }
    double count = (double)samples, median = 0;
    while (below < samples / 2) below += length[(int64_t)median++];
    print_message("accepted %.4f median %.0f zero %.3f nine %.3f rungs", count / (double)all,
                  median, (double)ladder.label[0] / count, (double)ladder.label[9] / count);
    for (int r = 0; r < LH_LISTOPS_RUNGS; r++)
        print_message(" %.3f", (double)ladder.right[r] / count);
    print_message("\n");
    lh_assert_close(count / (double)all, want->accepted, 0, 0.008);
    if (want->median > 0) lh_assert_close(median, want->median, 0.05, 0);
    if (want->zero > 0) lh_assert_close((double)ladder.label[0] / count, want->zero, 0, 0.03);
    if (want->nine > 0) lh_assert_close((double)ladder.label[9] / count, want->nine, 0, 0.03);
    assert_int_equal(ladder.samples, samples);
    for (int r = 0; r < LH_LISTOPS_RUNGS; r++)
        lh_assert_close((double)ladder.right[r] / count, want->rung[r], 0, 0.035);
}

static void test_figures(void **state)
{
    (void)state;
    const figures full = {0.082, 958, {0.170, 0.365, 0.60, 0.74}, 0.167, 0.171};
    const figures little = {0.085, 0, {0.116, 0.240, 0.488, 0.696}, 0, 0};
    check_figures(&published, 3000, &full);
    check_figures(&small, 3000, &little);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values), cmocka_unit_test(test_refused), cmocka_unit_test(test_deep),
        cmocka_unit_test(test_trees),  cmocka_unit_test(test_figures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
