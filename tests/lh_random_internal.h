#pragma once
/* Shared by the lh_random*.c files. */
#include "experiments/config_internal.h"
#include "tests/lh_random.h"

/* lhi_random_below - uniform in 0 .. n - 1. lhi_random_between - in low .. high. lhi_random_often - true
 * once in n times. Local. */
int64_t lhi_random_below(lh_random *r, int64_t n);
int64_t lhi_random_between(lh_random *r, int64_t low, int64_t high);
bool lhi_random_often(lh_random *r, int64_t n);

/* A key of the file: layer -1 and its section, or a layer's setting. */
typedef struct lhi_random_key {
    int layer;
    const char *section, *name;
} lhi_random_key;

#define LHI_KEY(section, name) ((lhi_random_key){-1, (section), (name)})
#define LHI_SETTING(layer, name) ((lhi_random_key){(layer), "attention", (name)})

/* lhi_random_add - append, whether the key is there or not. lhi_random_set - give the key this value.
 * lhi_random_drop - take the key out. lhi_random_get - its value; NULL: it is not there. lhi_random_number -
 * the same as a number; otherwise: what it is when it is not there. Local. */
void lhi_random_add(lh_random *r, lhi_random_key key, const char *value);
void lhi_random_set(lh_random *r, lhi_random_key key, const char *format, ...) LH_PRINTF(3, 4);
void lhi_random_drop(lh_random *r, lhi_random_key key);
const char *lhi_random_get(const lh_random *r, lhi_random_key key);
int64_t lhi_random_number(const lh_random *r, lhi_random_key key, int64_t otherwise);

/* lhi_random_mechanism - this mechanism, without settings, in map `layer`; the map's former items go. Local. */
void lhi_random_mechanism(lh_random *r, int layer, const char *name);

/* lhi_random_maps - maps of model.attention. lhi_random_ops - the mechanism of one. Local. */
int lhi_random_maps(const lh_random *r);
const lh_attn_ops *lhi_random_ops(const lh_random *r, int map);

/* A key of the tables. */
typedef struct lhi_random_field {
    lhi_random_key key;
    const lh_field *field;
} lhi_random_field;

enum { LHI_RANDOM_FIELDS = 256 };

/* lhi_random_fields - all keys that there are, of sections and of the mechanisms that this configuration has;
 * returns how many. lhi_random_any - one of them. Local. */
int lhi_random_fields(const lh_random *r, lhi_random_field list[LHI_RANDOM_FIELDS]);
lhi_random_field lhi_random_any(lh_random *r);

/* lhi_random_valid - a valid configuration. lhi_random_break - one mistake more. lhi_random_loosen - some
 * keys become anything. Local. */
void lhi_random_valid(lh_random *r);
void lhi_random_break(lh_random *r);
void lhi_random_loosen(lh_random *r);
