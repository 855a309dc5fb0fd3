#pragma once
/* Command lines: options by table, and names. One reader for every command of the program, so that all
 * of them take "--n 8" and "--n=8", and say the same about what is wrong. */
#include "core/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum lh_option_kind {
    LH_OPTION_FLAG,   /* bool: given or not */
    LH_OPTION_SWITCH, /* int64_t: 1, or what a 0 or 1 behind it says */
    LH_OPTION_WORD,   /* const char *, borrowed from argv */
    LH_OPTION_INT,    /* int64_t */
    LH_OPTION_REAL,   /* double */
    LH_OPTION_WORDS   /* lh_option_words: each time it is given, one more */
} lh_option_kind;

enum { LH_OPTION_MANY = 256 };
typedef struct lh_option_words {
    const char *word[LH_OPTION_MANY];
    int count;
} lh_option_words;

/* One option; a table ends with name NULL. */
typedef struct lh_option {
    const char *name; /* "--ranks" */
    lh_option_kind kind;
    size_t offset;    /* of its member in the struct that is filled */
    int64_t min, max; /* of INT and REAL */
    /* what messages say of the value of a WORD or of WORDS, required there: "KEY=VALUE, such as ..." */
    const char *expected;
} lh_option;

/* A command line that is read into a struct of the command's own, which holds its defaults before. */
typedef struct lh_options {
    const char *command; /* "longhaul plan": how messages call it; its --help explains all */
    const lh_option *table;
    void *into;
    /* [max_names]: words that are no options, such as a file; borrowed from argv */
    const char **name;
    int max_names;
    int n_names; /* out */
} lh_options;

/* lh_options_read - read all arguments. Local, pure. argv: borrowed as long as the words are used.
 * Errors: LH_ERR_USAGE for an unknown option (the nearest known one), a value that is missing, no
 * number or out of range, more names than max_names. How many names must be there the caller checks. */
LH_NODISCARD lh_status lh_options_read(lh_options *o, int argc, char **argv);
