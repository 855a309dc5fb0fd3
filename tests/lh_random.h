#pragma once
/* Random configurations: a function of (seed, number, ranks), so that one number repeats one of them.
 *
 *   valid    by construction: it must run
 *   broken   a valid one with one mistake of a known kind: it must be refused, and the message must name
 *            `expected`
 *   wild     a valid one in which some keys have any value of their type: refused with a reason, or it runs
 *
 * Keys are taken from the tables of settings, those of mechanisms too: a new key is drawn without being
 * listed here, unless what it may be depends on other keys. Then, and where few of its values make sense,
 * lh_random_valid.c says what is drawn. */
#include "experiments/config.h"

typedef enum lh_random_kind {
    LH_RANDOM_VALID,
    LH_RANDOM_BROKEN,
    LH_RANDOM_WILD,
    LH_RANDOM_KINDS
} lh_random_kind;

enum {
    LH_RANDOM_ITEMS = 160,
    LH_RANDOM_VALUE = 160,
    LH_RANDOM_LAYERS = 4,
    LH_RANDOM_BYTES = 16384
};

/* A key with its value, as the file says it. */
typedef struct lh_random_item {
    int layer;           /* of a mechanism's setting; -1: of a section */
    const char *section; /* "attention" for a mechanism's setting */
    char key[48];
    char value[LH_RANDOM_VALUE];
} lh_random_item;

typedef struct lh_random {
    uint64_t seed, drawn; /* drawn: random numbers so far */
    int64_t number;
    int ranks;
    const char *stem; /* data files are STEM.txt, STEM.fasta, STEM.h5; borrowed */
    lh_random_kind kind;
    int layers, maps; /* maps: of model.attention; 0: one for all layers */
    int count;
    lh_random_item item[LH_RANDOM_ITEMS];
    const char *flat;  /* a section that is no map; NULL: all are */
    const char *rule;  /* broken: what was done */
    char expected[64]; /* broken: what the message must name */
} lh_random;

/* lh_random_draw - configuration `number` of a seed for so many ranks. Local, pure. */
void lh_random_draw(uint64_t seed, int64_t number, int ranks, const char *stem, lh_random *out);

/* lh_random_text - as an experiment file. Local, pure. */
void lh_random_text(const lh_random *r, char text[LH_RANDOM_BYTES]);

/* lh_random_name - "valid", "broken", "wild". Local. Static. */
const char *lh_random_name(lh_random_kind kind);

/* lh_random_files - write the data files that configurations name. One process. Errors: LH_ERR_IO,
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_random_files(const char *stem);

/* lh_random_affordable - small enough to be run here in a moment? Sizes of a wild configuration may be
 * anything. Local, pure. */
bool lh_random_affordable(const lh_config *c);
