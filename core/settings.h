#pragma once
/* Typed settings: tables of fields that mechanisms, models and the program declare, and that io
 * fills from YAML.
 *
 * A field says where its value lives in a plain struct; so code reads `s->window`, and the file's
 * syntax stays in io. */
#include "core/status.h"

typedef enum lh_field_type {
    LH_FIELD_INT,    /* int64_t */
    LH_FIELD_REAL,   /* double */
    LH_FIELD_BOOL,   /* bool */
    LH_FIELD_CHOICE, /* int: index into choices */
    LH_FIELD_STRING, /* char * (owned by the settings; "" when empty) */
    /* char *: as STRING; relative paths start at the working directory, saved absolute; "" = none */
    LH_FIELD_PATH,
    LH_FIELD_INTS, /* lh_int_list */
    LH_FIELD_REALS /* lh_real_list */
} lh_field_type;

enum { LH_LIST_MAX = 256 };
typedef struct lh_int_list {
    int word; /* index into the field's choices when a word was given (count 0); -1: a list */
    int count;
    int64_t item[LH_LIST_MAX];
} lh_int_list;
typedef struct lh_real_list {
    int count;
    double item[LH_LIST_MAX];
} lh_real_list;

/* The value of an integer field that was given as its auto word. */
#define LH_AUTO INT64_MIN

typedef struct lh_field {
    const char *name; /* key in the file; the table ends with name NULL */
    lh_field_type type;
    size_t offset;        /* offsetof the value in the settings struct */
    const char *fallback; /* default as written in a file; NULL: required */
    /* INT, REAL and list items: allowed range, both ends included; min == max: any */
    double min, max;
    /* CHOICE: "a|b|c". INTS: words accepted instead of the list ("none|first"), or NULL */
    const char *choices;
    /* INT: a word accepted instead of a number ("auto"), giving LH_AUTO; else NULL */
    const char *automatic;
    /* the file may give a list with one value per layer; a value of INTS or REALS is then a number
     * or a list (one per head) */
    bool per_layer;
    const char *help; /* one line for --help and the README */
} lh_field;
