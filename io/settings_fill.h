#pragma once
/* Settings structs filled from YAML by their field tables (core/settings.h), written back as YAML,
 * and explained.
 *
 * Every message names the place, the dotted key and what was expected: "a.yaml:3:8: key
 * 'model.width': expected an
 * integer >= 1, got 'wide'". A struct's STRING and PATH members belong to it: lh_settings_free. */
#include "core/settings.h"
#include "io/yaml.h"

#include <float.h>
#include <stdio.h>

/* Limits for field tables: no upper limit; greater than 0; less than 1. Messages say it in these
 * words. Real numbers are 0, or from 1e-37 to 1e37 without their sign, what every float holds; others are
 * refused whatever the table says. */
#define LH_NO_LIMIT DBL_MAX
#define LH_ABOVE_ZERO 1e-37
#define LH_BELOW_ONE (1.0 - DBL_EPSILON / 2)

/* What lh_settings_fill reads. */
typedef struct lh_fill {
    const lh_node *map;   /* what the file says; NULL: nothing, defaults are taken */
    const lh_node *place; /* named when a required key is missing and map is NULL */
    const char *prefix;   /* of the keys in messages: "optimizer"; "" for none */
    const char *owner; /* whose settings they are: "mechanism 'full'"; NULL: nothing more to say */
    const char *const
        *others; /* keys of map that the caller reads itself, closed by NULL; may be NULL */
    const char *directory; /* absolute: where relative paths start */
    /* where a key that is unknown here does belong, as a clause for people, into buf; "": nowhere. NULL:
     * nothing is known of other places */
    const char *(*elsewhere)(const char *key, char *buf, size_t bytes);
    int layers; /* a per-layer key may be a list of so many values; 0: map is for one layer */
    int layer;  /* the one wanted, < layers */
} lh_fill;

/* lh_settings_fill - give every field of the table its value from the file, or its default.
 * Local, pure. into: zeroed; also after an error the caller releases it with lh_settings_free.
 * Per-layer fields: one value, or a list with one value per layer; of an INTS or REALS field a
 * value is a number or a
 * list of numbers; of an INTS field with choices, also one of these words. A STRING or PATH field without a value, or null, is "".
 * Errors: LH_ERR_USAGE for an unknown key, a wrong type, a value out of range, a missing key;
 * LH_ERR_MEMORY; LH_ERR_BUG
 * for a table whose default cannot be read. */
LH_NODISCARD lh_status lh_settings_fill(const lh_fill *how, const lh_field *fields, void *into);

/* lh_settings_free - release the struct's strings and null them. Local. fields NULL: nothing. */
void lh_settings_free(const lh_field *fields, void *settings);

/* lh_settings_equal - the same values in every field? Local. */
bool lh_settings_equal(const lh_field *fields, const void *a, const void *b);

/* lh_field_equal - has the field the same value in both structs? Local. */
bool lh_field_equal(const lh_field *field, const void *a, const void *b);

/* lh_field_text - the field's value for people into buf, cut where it is longer ("none": an empty text);
 * returns buf. Local. bytes >= 4. */
const char *lh_field_text(const lh_field *field, const void *settings, char *buf, size_t bytes);

/* lh_settings_emit - append all fields to a map of y. Local. Read again, the map gives the same
 * values; numbers have
 * as many digits as that takes. as_layer: the map is for one layer (then per-layer lists are lists
 * per head).
 * Errors: LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_settings_emit(lh_yaml *y, const lh_field *fields, const void *settings,
                                        bool as_layer, lh_node *map);

/* lh_settings_help - one line per field: key, what it takes, default, help. Local. indent:
 * spaces before. */
void lh_settings_help(FILE *out, const lh_field *fields, int indent);

/* lh_field_choice - the word of a CHOICE field's value into buf; returns buf. Local. */
const char *lh_field_choice(const lh_field *field, int value, char *buf, size_t bytes);

/* lh_field_find - the field of that name; NULL: none. Local. */
const lh_field *lh_field_find(const lh_field *fields, const char *name);

/* What may be written in a place, collected for "did you mean". A word stands for itself up to a
 * '|' or its end. */
enum { LH_WORDS_TEXT = 512 };
typedef struct lh_words {
    const char *wrong; /* what was written */
    int distance;      /* of the nearest so far */
    char near[64];
    char all[LH_WORDS_TEXT]; /* "a, b, c" */
} lh_words;

/* lh_words_add - one more word, or several "a|b|c", that would have been right. Local. */
void lh_words_add(lh_words *words, const char *choices);

/* lh_words_hint - "did you mean 'width'?", or "WHAT: a, b, c" when nothing is near, or "" into
 * buf; returns buf. Local. */
const char *lh_words_hint(const lh_words *words, const char *what, char *buf, size_t bytes);
