#pragma once
/* Shared by the bench*.c files. */
#include "attention/attention.h"
#include "experiments/bench.h"
#include "experiments/options.h"
#include "io/metrics.h"

/* One case to measure. Everything is borrowed. */
typedef struct lhi_bench_case {
    const lh_attn_ops *ops;
    const void *settings; /* of the mechanism, filled */
    int64_t n, batch, heads, kv_heads, head_width;
    bool causal, zigzag;
    bool relative; /* with Transformer-XL's relative positions */
    bool quiet;    /* nothing is computed: only rows are packed, sent and put in place */
    int ways;      /* ranks of a group that shares heads (Ulysses); 1: ring */
    int threads, repeats;
    const char *isa;
    uint64_t seed;
} lhi_bench_case;

/* What was measured: of the slowest rank, the median of the repeats. */
enum { LHI_BENCH_FORWARD, LHI_BENCH_BACKWARD, LHI_BENCH_PRODUCT, LHI_BENCH_TIMES };
typedef struct lhi_bench_result {
    double seconds[LHI_BENCH_TIMES];
    double rate[LHI_BENCH_TIMES]; /* flops per second of all ranks */
    double rate_both;             /* of forward and backward together */
    double wait_s;                /* of a forward and backward; largest over ranks */
    int64_t sent, predicted;      /* bytes of a forward and backward, all ranks */
    int64_t messages;             /* the same of messages */
    int64_t peak;                 /* largest over ranks */
    const char *isa;              /* static */
} lhi_bench_result;

/* lhi_bench_window - the mechanism's setting `window`. Local. false: it has none. */
bool lhi_bench_window(const lhi_bench_case *c, int64_t *window);

/* lhi_bench_settings - the mechanism's settings from its own field table, as an experiment file would
 * fill them. window LH_AUTO: not given; words: "KEY=VALUE". Local. *settings is allocated: the caller
 * frees it (lh_settings_free, lh_free). Errors: LH_ERR_USAGE, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_bench_settings(const lh_attn_ops *ops, int64_t window,
                                          const lh_option_words *words, void **settings);

/* lhi_bench_run - measure a case. Collective on world. Errors: agreed, as lh_bench_main. */
LH_NODISCARD lh_status lhi_bench_run(lh_comm *world, const lhi_bench_case *c, lhi_bench_result *r);

/* lhi_bench_attention, lhi_bench_step, lhi_bench_exchange, lhi_bench_features - a command: argv
 * after its word. Collective on world; of features rank 0 works. Errors: agreed, as lh_bench_main. */
LH_NODISCARD lh_status lhi_bench_attention(lh_comm *world, int argc, char **argv);
LH_NODISCARD lh_status lhi_bench_step(lh_comm *world, int argc, char **argv);
LH_NODISCARD lh_status lhi_bench_exchange(lh_comm *world, int argc, char **argv);
LH_NODISCARD lh_status lhi_bench_features(lh_comm *world, int argc, char **argv);

/* lhi_bench_json_case - the members that say what was measured. Local. */
void lhi_bench_json_case(lh_json *j, const lhi_bench_case *c, int ranks);

/* lhi_bench_..._help - options, defaults and fields. Local. */
void lhi_bench_attention_help(FILE *out);
void lhi_bench_step_help(FILE *out);
void lhi_bench_exchange_help(FILE *out);
void lhi_bench_features_help(FILE *out);

/* lhi_bench_warn - say that threads wait for one another's processors, whose figures mean nothing.
 * Collective on world. */
void lhi_bench_warn(lh_comm *world, int64_t threads);

/* lhi_bench_median - of x [n], which is sorted. Local. */
double lhi_bench_median(double *x, int n);

/* Operands of one square product by BLIS. lhi_bench_gemm_run - the product on all ranks at once: what this
 * machine gives to as many threads at this moment; seconds. Collective on world. */
#define LHI_BENCH_GEMM_FLOPS (2.0 * 2048.0 * 2048.0 * 2048.0)
typedef struct lhi_bench_gemm {
    void *operand[3];
} lhi_bench_gemm;
LH_NODISCARD lh_status lhi_bench_gemm_create(lh_device *d, lhi_bench_gemm *g);
void lhi_bench_gemm_destroy(lh_device *d, lhi_bench_gemm *g);
double lhi_bench_gemm_run(lh_comm *world, lh_device *d, const lhi_bench_gemm *g);

/* lhi_bench_flush_create - host memory of twice the last cache, at least 64 MiB; the caller releases it
 * with lh_host_release. lhi_bench_flush - write all of it, so that what is measured next finds its inputs
 * in memory and not in a cache. Local. */
LH_NODISCARD lh_status lhi_bench_flush_create(void **memory, size_t *bytes);
void lhi_bench_flush(void *memory, size_t bytes);

/* lhi_bench_json_mean - a mean over ranks: an integer where it is one, so that no digit of a large number
 * is lost. Local. */
void lhi_bench_json_mean(lh_json *j, const char *key, int64_t sum, int ranks);
