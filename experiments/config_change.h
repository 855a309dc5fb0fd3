#pragma once
/* What may change between the configuration that a checkpoint was written with and the one it goes on
 * with. Every key of the experiment file is in exactly one class (config_change.c has the table, with a
 * reason for each group; a test reads all keys); all settings of mechanisms are fixed, layer by layer. */
#include "experiments/config.h"

typedef enum lh_key_rule {
    LH_KEY_UNKNOWN, /* no key, or one that the table has forgotten */
    LH_KEY_FIXED,   /* another value would be another training */
    LH_KEY_GIVEN,   /* a path that may be another one, but neither appear nor go */
    LH_KEY_NOTED,   /* may change; the steps to come are then others than they would have been */
    LH_KEY_FREE     /* may change; the steps stay the same, to rounding */
} lh_key_rule;

/* lh_key_rule_of - of a key as it is written, "section.key". Local, pure. */
lh_key_rule lh_key_rule_of(const char *key);
/* lh_key_rule_count - keys that the classes name. Local. */
int lh_key_rule_count(void);

/* Keys that differ: "\n  run.seed was 3, is 4" for each. */
enum { LH_CHANGE_TEXT = 3072 };
typedef struct lh_change_list {
    int64_t count;
    char text[LH_CHANGE_TEXT];
    bool cut; /* there was no room for all: then the text ends with "\n  ..." */
} lh_change_list;

/* lh_change_add - one more. Local. */
void lh_change_add(lh_change_list *list, const char *key, const char *was, const char *is);

/* lh_config_changes - compare all of two resolved configurations: keys that must not differ, but do,
 * are added to `broken`; those that may and are worth a word, to `noted`. Layers that differ alike are
 * one entry: model.attention.window, model.attention.2-5.window. Local, pure. */
void lh_config_changes(const lh_config *was, const lh_config *is, lh_change_list *broken,
                       lh_change_list *noted);

/* lh_config_other_model - what an evaluation depends on: keys of model and data that differ, paths too,
 * but not those that say how a training goes on (data.batch), and run.seed (of tasks that are made, of
 * masks), are added to `list`. Local, pure. */
void lh_config_other_model(const lh_config *was, const lh_config *is, lh_change_list *list);
