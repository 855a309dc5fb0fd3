#pragma once
/* longhaul scale: training steps of one experiment on several numbers of ranks, in one launch. */
#include "experiments/step_times.h"
#include "io/metrics.h"

#include <stdio.h>

/* lh_scale_main - measure what the command line asks for (lh_scale_help): one JSON object per point on
 * standard output of rank 0, or in the file of --out, whose points are not measured again. Collective on
 * world (all processes of the job), of which each point takes the first ranks while the others sleep. Same
 * arguments on all ranks. Errors: agreed. LH_ERR_USAGE for arguments, the experiment file and a file of
 * another study, LH_ERR_UNSUP for what a mechanism refuses, LH_ERR_MEMORY, LH_ERR_IO when standard output or
 * the file takes no more. */
LH_NODISCARD lh_status lh_scale_main(lh_comm *world, int argc, char **argv);

/* How a study is made: by running steps, or, in another program, by simulating them. */
typedef struct lh_scale_kind {
    const char *command, *example; /* for messages */
    int repeats, warmup;           /* unless the command line says others */
    /* Optional. A point begins on comm, and has ended there: what it took may be changed, the same on all
     * ranks. Then its object, on rank 0, gets members of its own; so does the head of the file of --out: what
     * all points have in common. begin: errors of this rank; end: agreed; about: of rank 0. */
    lh_status (*begin)(void *user, lh_comm *comm, lh_config *config);
    lh_status (*end)(void *user, lh_comm *comm, const lh_config *config, lh_step_times *times);
    void (*say)(void *user, const lh_step_times *times, lh_json *j);
    lh_status (*about)(void *user, lh_json *j);
    void *user;
} lh_scale_kind;

/* lh_scale_run - as lh_scale_main, in this way. */
LH_NODISCARD lh_status lh_scale_run(lh_comm *world, int argc, char **argv,
                                    const lh_scale_kind *kind);

/* lh_scale_help - options and the fields of the output. Local. */
void lh_scale_help(FILE *out);
