#pragma once
/* ListOps (Nangia and Bowman 2018), as in Long Range Arena (Tay et al. 2021): nested lists of digits
 * with an operator each; the class of a sequence is the value of its outermost list, 0 .. 9.
 *
 *   expression = digit | operator expression ... ]       at least one expression
 *   [MIN, [MAX   the least, the greatest;   [SM   the sum modulo 10
 *   [MED         the median, for an even count the mean of the two in the middle without its fraction
 *
 * The generator is the published one: a node at depth < max_depth is with probability 1/4 a list of
 * 2 .. max_args nodes, with one of the four operators, else a digit; a node at max_depth is a digit
 * (the root has depth 1). Trees are drawn until one has more than longer_than and less than
 * shorter_than tokens, brackets counted (published: 10, 10, 500, 2000). The published files drop
 * duplicates, which a sample that is a function of its number alone cannot: at the published size two
 * equal trees are as good as impossible, in very small versions (below some 10 tokens) they do occur,
 * also between the splits. */
#include "core/status.h"

/* Tokens of sequences. Pad and unknown as in Long Range Arena; CLS is what the program puts in front
 * of a sequence, for a classification head to read: it is no part of an expression. */
typedef enum lh_listops_token {
    LH_LISTOPS_PAD,
    LH_LISTOPS_DIGIT,                       /* of value 0; digit k is LH_LISTOPS_DIGIT + k */
    LH_LISTOPS_MIN = LH_LISTOPS_DIGIT + 10, /* operators open a list */
    LH_LISTOPS_MAX,
    LH_LISTOPS_MED,
    LH_LISTOPS_SM,
    LH_LISTOPS_CLOSE,
    LH_LISTOPS_UNKNOWN,
    LH_LISTOPS_CLS,
    LH_LISTOPS_TOKENS
} lh_listops_token;

enum { LH_LISTOPS_OPERATORS = 4, LH_LISTOPS_CLASSES = 10, LH_LISTOPS_DEPTH = 64 };

/* lh_listops_name - a token's name: "7", "[MAX", "]", ... Local. Static. */
const char *lh_listops_name(int token);

/* lh_listops_find - the token of a word [length]: "7", "[MAX", "]" and, as Long Range Arena writes
 * it, "X"; LH_LISTOPS_UNKNOWN if it is none. Local, pure. */
int lh_listops_find(const char *word, size_t length);

/* lh_listops_evaluate - value of the expression token [n], 0 .. 9.
 * Local. Cost: O(n); scratch of 9 n bytes.
 * Errors: LH_ERR_FORMAT, naming the token by its number from 0 (empty, unknown token, operator
 * without arguments, ']' without a list, list without ']', more after the end); LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_listops_evaluate(const uint8_t *token, int64_t n, int *value);

/* Scratch for expressions of up to so many tokens as both have elements. */
typedef struct lh_listops_room {
    int64_t *open;
    uint8_t *value;
} lh_listops_room;

/* lh_listops_evaluate_in - the same without allocating. Local. Borrows room. Errors: LH_ERR_FORMAT. */
LH_NODISCARD lh_status lh_listops_evaluate_in(const lh_listops_room *room, const uint8_t *token,
                                              int64_t n, int *value);

/* Answers that need no hierarchy, best first last: a result means something beside them. */
typedef enum lh_listops_rung {
    LH_LISTOPS_MAJORITY,    /* always the most frequent class */
    LH_LISTOPS_FIRST_TOKEN, /* the most frequent class of the outermost operator */
    LH_LISTOPS_ONE_LEVEL,   /* the outermost list with each list in it replaced by the most frequent
                               value of its operator */
    LH_LISTOPS_TWO_LEVELS,  /* the same, one level further down */
    LH_LISTOPS_RUNGS
} lh_listops_rung;

/* Frequencies of values over lists, and how often each answer is right. Starts as zeros. */
typedef struct lh_listops_ladder {
    int64_t label[LH_LISTOPS_CLASSES];                      /* of whole expressions */
    int64_t root[LH_LISTOPS_OPERATORS][LH_LISTOPS_CLASSES]; /* by outermost operator */
    int64_t list[LH_LISTOPS_OPERATORS][LH_LISTOPS_CLASSES]; /* of all lists, by operator */
    int64_t samples, right[LH_LISTOPS_RUNGS];
} lh_listops_ladder;

/* lh_listops_count - add an expression's values to the frequencies. lh_listops_climb - score the
 * answers that these frequencies give. Local. Errors: as lh_listops_evaluate. */
LH_NODISCARD lh_status lh_listops_count(lh_listops_ladder *ladder, const uint8_t *token, int64_t n);
LH_NODISCARD lh_status lh_listops_climb(lh_listops_ladder *ladder, const uint8_t *token, int64_t n);

typedef struct lh_listops_desc {
    int64_t max_depth, max_args;       /* 2 .. LH_LISTOPS_DEPTH; >= 2 */
    int64_t longer_than, shorter_than; /* tokens, both strict */
} lh_listops_desc;

/* lh_listops_longest - most tokens that a tree can have, at most 2^40. Local, pure. */
int64_t lh_listops_longest(const lh_listops_desc *d);

/* lh_listops_generate - sample number `sample` of a split: token [shorter_than - 1] out, *n of them.
 * Local; a function of (seed, split, sample). tries: trees drawn, or NULL; out, also on error.
 * Errors: LH_ERR_RANGE: max_tries trees were all too short or too long; LH_ERR_BUG. */
LH_NODISCARD lh_status lh_listops_generate(const lh_listops_desc *d, uint64_t seed, int split,
                                           int64_t sample, int64_t max_tries, uint8_t *token,
                                           int64_t *n, int64_t *tries);
