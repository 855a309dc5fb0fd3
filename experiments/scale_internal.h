#pragma once
/* Shared by scale.c and scale_point.c: a study and its points. */
#include "experiments/options.h"
#include "experiments/scale.h"
#include "experiments/scale_file.h"

enum { LHI_SCALE_LIST = 64, LHI_SCALE_WORD = 512 }; /* numbers of a list; bytes of a mechanism */

typedef struct lhi_scale_options {
    const char *file, *ranks, *lengths, *mode, *out;
    lh_option_words attention, overrides;
    int64_t repeats, warmup;
} lhi_scale_options;

typedef struct lhi_scale_list {
    int64_t item[LHI_SCALE_LIST];
    int count;
} lhi_scale_list;

/* What is measured once, though it may be a point of both modes. Its object is what is printed, where mode and
 * efficiency are filled in; rank 0 has it, of its own or from the file. */
typedef struct lhi_scale_point {
    int ranks, attention;
    int64_t n;
    const lh_json_item *object;
    lh_json_item *own;
} lhi_scale_point;

typedef struct lhi_scale_study {
    lh_comm *world;
    const lh_scale_kind *kind;
    const lhi_scale_options *o;
    lhi_scale_list ranks, lengths;
    bool strong, weak;
    lhi_scale_point *point; /* [points] */
    int64_t points, capacity;
    lh_scale_file file; /* of rank 0, with --out */
    lh_json json;
} lhi_scale_study;

/* lhi_scale_open - the file of --out, with what all points of the study have in common. Collective on the world;
 * rank 0 has it. Errors: agreed, as lh_scale_file_open. */
LH_NODISCARD lh_status lhi_scale_open(lhi_scale_study *s);

/* lhi_scale_get - the point, measured if it is not yet there, nor in the file; *index: its place. Collective on
 * the world. Errors: agreed, as lh_scale_main. */
LH_NODISCARD lh_status lhi_scale_get(lhi_scale_study *s, int attention, int64_t ranks, int64_t n,
                                     int64_t *index);

/* lhi_scale_of - a number of a point's object. Local, on rank 0. */
double lhi_scale_of(const lhi_scale_point *p, const char *key);
