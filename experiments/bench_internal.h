#pragma once
/* Shared by the bench*.c files. */
#include "attention/attention.h"
#include "experiments/bench.h"

/* One case to measure. Everything is borrowed. */
typedef struct lhi_bench_case {
    const lh_attn_ops *ops;
    const void *settings; /* of the mechanism, filled */
    int64_t n, batch, heads, kv_heads, head_width;
    bool causal, zigzag;
    int ways; /* ranks of a group that shares heads (Ulysses); 1: ring */
    int threads, repeats;
    const char *isa;
    uint64_t seed;
} lhi_bench_case;

/* lhi_bench_window - the mechanism's setting `window`. Local. false: it has none. */
bool lhi_bench_window(const lhi_bench_case *c, int64_t *window);

/* lhi_bench_attention - measure a case and print its line.
 * Collective on world. Errors: agreed, as lh_bench_main. */
LH_NODISCARD lh_status lhi_bench_attention(lh_comm *world, const lhi_bench_case *c);

/* lhi_bench_features - bench features: argv after that word. Collective on world; rank 0 works.
 * Errors: agreed, as lh_bench_main. */
LH_NODISCARD lh_status lhi_bench_features(lh_comm *world, int argc, char **argv);
