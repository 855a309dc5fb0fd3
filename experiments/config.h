#pragma once
/* The experiment file: its schema, its defaults, and the configuration it resolves to as plain
 * typed members.
 *
 * On many ranks: rank 0 alone loads the file and emits the resolved text, the ranks agree and
 * broadcast it, and all of
 * them read that text with lh_config_parse. So there is one broadcast, relative paths have one
 * meaning, and whatever is
 * wrong with a file is found before any rank waits for another. */
#include "models/model.h"

#include <stdio.h>

typedef enum lh_task_kind {
    LH_TASK_TEXT,
    LH_TASK_MASKED_TEXT,
    LH_TASK_TOKENS,
    LH_TASK_MASKED_TOKENS,
    LH_TASK_FASTA,
    LH_TASK_LAG,
    LH_TASK_MARKERS,
    LH_TASK_RECALL,
    LH_TASK_LISTOPS,
    LH_TASK_MQAR,
    LH_TASK_SELECTIVE_COPY,
    LH_TASK_INDUCTION,
    LH_TASK_NEEDLE
} lh_task_kind;
typedef enum lh_filler_kind { LH_FILLER_RANDOM, LH_FILLER_ZERO } lh_filler_kind;
typedef enum lh_layout_kind { LH_LAYOUT_CONTIGUOUS, LH_LAYOUT_ZIGZAG } lh_layout_kind;
typedef enum lh_align_kind { LH_ALIGN_CHUNK, LH_ALIGN_NONE } lh_align_kind;
typedef enum lh_exchange_kind { LH_EXCHANGE_RING, LH_EXCHANGE_ULYSSES } lh_exchange_kind;
typedef enum lh_schedule_kind {
    LH_SCHEDULE_CONSTANT,
    LH_SCHEDULE_LINEAR,
    LH_SCHEDULE_COSINE,
    LH_SCHEDULE_INVERSE_SQRT
} lh_schedule_kind;
typedef enum lh_device_kind { LH_DEVICE_CPU, LH_DEVICE_POISON } lh_device_kind;
typedef enum lh_store_kind { LH_STORE_REAL, LH_STORE_BFLOAT16 } lh_store_kind;
typedef enum lh_nonfinite_kind { LH_NONFINITE_STOP, LH_NONFINITE_SKIP } lh_nonfinite_kind;
typedef enum lh_isa_kind {
    LH_ISA_AUTO,
    LH_ISA_AVX512,
    LH_ISA_AVX512_BF16,
    LH_ISA_AVX2,
    LH_ISA_PORTABLE
} lh_isa_kind;

/* Strings belong to the configuration and are never NULL; "" where nothing is named. Paths are
 * absolute. */
typedef struct lh_config_run {
    char *name; /* a plain file name: the run's folder is output/name */
    int64_t seed;
    char *output, *init;
} lh_config_run;

typedef struct lh_config_mesh {
    int64_t data; /* ranks along the data axis */
    int layout;   /* lh_layout_kind */
    int align;    /* lh_align_kind */
    int64_t chunk;
    int exchange;    /* lh_exchange_kind */
    int64_t ulysses; /* ranks of a group; LH_AUTO: all of a sequence */
} lh_config_mesh;

typedef struct lh_config_data {
    int task; /* lh_task_kind */
    char *path, *valid_path, *test_path;
    int64_t length;
    int64_t batch; /* sequences per optimiser step, over all ranks and accumulated passes */
    double valid_fraction, mask;
    int64_t documents; /* the byte or token that ends a document; LH_AUTO: it is all one document */
    /* of tasks that the program makes: experiments/task.h */
    int64_t vocab, lag, gap, offsets, valid_windows;
    int64_t pairs, items;
    int filler;                        /* lh_filler_kind */
    int64_t place;                     /* per cent; LH_AUTO: any */
    int64_t tree_depth, tree_args;     /* listops */
    int64_t longer_than, shorter_than; /* listops: tokens */
} lh_config_data;

typedef struct lh_config_optimizer {
    int kind; /* adamw is the only one */
    double lr;
    lh_real_list betas; /* two */
    double eps, weight_decay;
    double clip; /* 0: gradients are not clipped */
} lh_config_optimizer;

typedef struct lh_config_schedule {
    int kind; /* lh_schedule_kind */
    int64_t warmup, steps;
    double final_lr;
} lh_config_schedule;

typedef struct lh_config_train {
    int64_t log_every;
    int64_t eval_every;  /* 0: never */
    int64_t eval_tokens; /* 0: the whole validation part */
    int recompute;       /* lh_recompute_kind */
    int64_t accumulate;
    int64_t stall_seconds; /* 0: nobody watches */
    char *time_limit;      /* as lh_units_duration reads it; "none" */
    double time_limit_s;   /* the same; 0: none */
    int on_nonfinite;      /* lh_nonfinite_kind */
} lh_config_train;

typedef struct lh_config_checkpoint {
    int64_t every; /* 0: on request, and at the end of what goes on from one */
    int64_t keep;
} lh_config_checkpoint;

typedef struct lh_config_device {
    int kind;        /* lh_device_kind */
    int64_t threads; /* LH_AUTO: by environment and mask */
    int isa;         /* lh_isa_kind; lh_config_isa names it */
    int store;       /* lh_store_kind; lh_config_store is its type */
    /* set by a simulator, never by a file: nothing is computed, time passes; borrowed; NULL: none */
    const lh_simulated *simulated;
} lh_config_device;

typedef struct lh_config {
    lh_config_run run;
    lh_config_mesh mesh;
    lh_config_data data;
    /* its widths, kv_heads and max_length are resolved; vocab: LH_AUTO until the task's */
    lh_model_desc model;
    lh_config_optimizer optimizer;
    lh_config_schedule schedule;
    lh_config_train train;
    lh_config_checkpoint checkpoint;
    lh_config_device device;
} lh_config;

/* LH_CONFIG_PARTIAL: a text that describes a model without an experiment: data.path may be missing,
 * and that task and model fit together is not checked.
 * LH_CONFIG_PLAN: an experiment that is not run: no data file need be named, and the task need not
 * give what heads other than lm learn from. */
enum { LH_CONFIG_PARTIAL = 1u, LH_CONFIG_PLAN = 2u };

/* Where a configuration comes from. read: all bytes of a file, which lh_free releases
 * (lh_read_small with user NULL). */
typedef struct lh_config_source {
    lh_status (*read)(void *user, const char *path, char **bytes, size_t *count);
    void *user;
    const char *path;
    const char *const *overrides; /* [n_overrides] "a.b=c", as given after --set */
    int n_overrides;
    const char *directory; /* absolute: where relative paths start; NULL: the working directory */
    unsigned flags;
    int64_t
        point; /* of the file's sweep, from 1 (experiments/sweep.h); 0: the file must have none */
} lh_config_source;

/* lh_config_load - read an experiment file and the files it inherits from (`base:`), apply
 * overrides, check everything.
 * Local, but for what source->read does (it is called once for each file of the chain).
 * *out NULL on error; the caller destroys it.
 * Errors: LH_ERR_USAGE "file:line:column: key 'a.b': ..." or "--set a.b=c: key ...", also for files
 * that cannot be
 * read; LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_config_load(const lh_config_source *source, lh_config **out);

/* lh_config_parse - the same from one text without `base:`, such as lh_config_emit made or a
 * checkpoint holds.
 * Local, pure but for the working directory, where relative paths start. name: how messages call
 * the text.
 * Errors: as lh_config_load. */
LH_NODISCARD lh_status lh_config_parse(const char *bytes, size_t count, const char *name,
                                       unsigned flags, lh_config **out);

/* lh_config_load_all - as lh_config_load on rank 0; all ranks then read the same resolved text.
 * Collective on comm; source on rank 0, its path and flags on all. The caller destroys *out. Errors:
 * agreed, as lh_config_load. */
LH_NODISCARD lh_status lh_config_load_all(lh_comm *comm, const lh_config_source *source,
                                          lh_config **out);

/* lh_config_destroy - release it and null the handle. Local. */
void lh_config_destroy(lh_config **config);

/* lh_config_emit - the resolved configuration as YAML; read again, it gives the same text.
 * Local, pure. *text: zero-terminated, the caller releases it with lh_free. Errors:
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_config_emit(const lh_config *config, char **text);

/* lh_config_help - all keys with defaults and one line each, and the mechanisms of this build.
 * Local. */
void lh_config_help(FILE *out);

/* lh_config_isa - "auto", "avx512", ... as lh_device_create_cpu takes it. Local. Static. */
const char *lh_config_isa(const lh_config *config);

/* lh_config_store - of device.store: as lh_tape_store takes it. lh_config_store_name - "real", "bfloat16".
 * Local. */
lh_dtype lh_config_store(const lh_config *config);
const char *lh_config_store_name(const lh_config *config);
