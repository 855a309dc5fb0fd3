/* bench exchange: what messages cost, without computing: those of mechanisms and layouts, then
 * messages and sums of given sizes. */
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "experiments/bench_internal.h"
#include "io/settings_fill.h"
#include "parallel/exchange.h"

typedef struct exchange_options {
    const char *isa;
    int64_t n, window, head_width, heads, kv_heads, batch, threads, repeats, bytes;
} exchange_options;

#define EXCHANGE_INT(text, member, least, most)                                                    \
    {                                                                                              \
        .name = text, .kind = LH_OPTION_INT, .offset = offsetof(exchange_options, member),         \
        .min = least, .max = most                                                                  \
    }
static const lh_option exchange_table[] = {
    {.name = "--isa",
     .kind = LH_OPTION_WORD,
     .offset = offsetof(exchange_options, isa),
     .expected = "auto, avx512, avx512_bf16, avx2 or portable"},
    EXCHANGE_INT("--n", n, 1, 1 << 28),
    EXCHANGE_INT("--window", window, 0, 1 << 28),
    EXCHANGE_INT("--head-dim", head_width, 1, 1024),
    EXCHANGE_INT("--heads", heads, 1, 1024),
    EXCHANGE_INT("--kv-heads", kv_heads, 1, 1024),
    EXCHANGE_INT("--batch", batch, 1, 1024),
    EXCHANGE_INT("--threads", threads, 1, LH_MAX_THREADS),
    EXCHANGE_INT("--repeats", repeats, 1, 10000),
    EXCHANGE_INT("--bytes", bytes, 8, 1 << 30),
    {.name = NULL}};

/* Exchanges of mechanisms. ways 0: all ranks share heads. */
static const struct exchange_case {
    const char *name, *mechanism;
    bool window, causal, zigzag;
    int ways;
    const char *setting;
} exchange_cases[] = {
    {"halo", "sliding_window", true, false, false, 1, NULL},
    {"halo", "sliding_window", true, true, false, 1, NULL},
    {"halo", "sliding_window", true, true, true, 1, NULL},
    {"halo_dilated", "sliding_window", true, false, false, 1, "dilation=4"},
    {"global", "sliding_window", true, false, false, 1, "global=first"},
    {"ring", "full", false, false, false, 1, NULL},
    {"ring", "full", false, true, false, 1, NULL},
    {"ring", "full", false, true, true, 1, NULL},
    {"all_to_all", "full", false, false, false, 0, NULL},
    {"all_to_all", "sliding_window", true, true, false, 0, NULL},
    {"summary", "performer", false, false, false, 1, NULL},
    {"scan", "performer", false, true, false, 1, NULL},
    {"scan", "performer", false, true, true, 1, NULL},
    {"landmarks", "linformer", false, false, false, 1, NULL},
};
enum { EXCHANGE_CASES = sizeof exchange_cases / sizeof exchange_cases[0] };

enum {
    EXCHANGE_STEP = 16,      /* each size of a message is so many times the last */
    EXCHANGE_BURST = 1 << 22 /* bytes of the messages that one measurement takes, at least */
};

void lhi_bench_exchange_help(FILE *out)
{
    (void)fprintf(
        out,
        "\nlonghaul bench exchange [options]\n\n"
        "Measures messages without computing. First what one layer's attention sends, as its\n"
        "mechanism records it, all kernels but those that pack, unpack, fill and add rows left "
        "out:\n"
        "halo (sliding_window), halo_dilated (dilation 4), global (its first position is seen by\n"
        "all), ring (full), all_to_all (heads spread over all ranks), summary and scan "
        "(performer,\n"
        "256 features), landmarks (linformer, k 256); causal and not, contiguous and zigzag. Then, "
        "on\n"
        "2 ranks or more, sizes: message, from each rank to the next one at once; all_reduce, a "
        "sum\n"
        "over all ranks. Options:\n"
        "  --n N --window H  positions and window (16384, 256)\n"
        "  --heads H --kv-heads G --head-dim D --batch B     (8, as --heads, 64, 1)\n"
        "  --bytes M         the largest size (33554432); from 8 on each is %d times the last\n"
        "  --repeats R       measured repeats after one warm-up (20)\n"
        "  --threads T --isa NAME                            (1, auto)\n"
        "Fields:\n"
        "  case, mechanism, n, ranks, threads, batch, heads, kv_heads, head_dim, causal, layout,\n"
        "  ulysses, window, isa, precision\n"
        "                          what was measured\n"
        "  forward_s, backward_s   the slowest rank of each repeat, then the median\n"
        "  comm_wait_s             of both, in messages; the rest is packing; largest over ranks\n"
        "  sent_bytes, predicted_sent_bytes, messages\n"
        "                          of both, mean over ranks; predicted by formula\n"
        "  mb_per_s                sent_bytes in forward_s + backward_s, 10^6 a second; null: "
        "none\n"
        "of sizes:\n"
        "  case, ranks, bytes      of one message\n"
        "  seconds                 of one message, as above\n"
        "  mb_per_s, sent_bytes, predicted_sent_bytes, messages\n"
        "                          of all that were measured, mean over ranks\n",
        EXCHANGE_STEP);
}

static lh_status exchange_parse(exchange_options *o, int argc, char **argv)
{
    lh_status st = LH_OK;
    lh_options options = {.command = "longhaul bench", .table = exchange_table, .into = o};
    *o = (exchange_options){.isa = "auto",
                            .n = 16384,
                            .window = 256,
                            .head_width = 64,
                            .heads = 8,
                            .kv_heads = LH_AUTO,
                            .batch = 1,
                            .threads = 1,
                            .repeats = 20,
                            .bytes = 1 << 25};
    LH_TRY(lh_options_read(&options, argc, argv));
    if (o->kv_heads == LH_AUTO) o->kv_heads = o->heads;
    LH_CHECK(o->heads % o->kv_heads == 0, LH_ERR_USAGE,
             "bench: --kv-heads %" PRId64 " does not divide --heads %" PRId64, o->kv_heads,
             o->heads);
done:
    return st;
}

/* --- mechanisms --- */

static lh_status exchange_report(const struct exchange_case *e, const lhi_bench_case *c,
                                 const lhi_bench_result *r, int ranks)
{
    lh_status st = LH_OK;
    lh_json json = {0};
    lh_json *j = &json;
    double seconds = r->seconds[LHI_BENCH_FORWARD] + r->seconds[LHI_BENCH_BACKWARD];
    double sent = (double)r->sent / ranks;
    lh_json_begin(j);
    lh_json_string(j, "case", e->name);
    lhi_bench_json_case(j, c, ranks);
    lh_json_string(j, "isa", r->isa);
    lh_json_string(j, "precision", LH_REAL_NAME);
    lh_json_real(j, "forward_s", r->seconds[LHI_BENCH_FORWARD]);
    lh_json_real(j, "backward_s", r->seconds[LHI_BENCH_BACKWARD]);
    lh_json_real(j, "comm_wait_s", r->wait_s);
    lhi_bench_json_mean(j, "sent_bytes", r->sent, ranks);
    lhi_bench_json_mean(j, "predicted_sent_bytes", r->predicted, ranks);
    lhi_bench_json_mean(j, "messages", r->messages, ranks);
    lh_json_real(j, "mb_per_s", r->sent > 0 ? sent / seconds * 1e-6 : (double)NAN);
    LH_TRY(lh_json_print(j, stdout));
done:
    lh_json_free(&json);
    return st;
}

static lh_status exchange_mechanism(lh_comm *world, const exchange_options *o,
                                    const struct exchange_case *e)
{
    lh_status st = LH_OK;
    int ranks = lh_comm_size(world);
    void *settings = NULL;
    lhi_bench_result r;
    lh_option_words words = {.count = e->setting != NULL};
    lhi_bench_case c = {.ops = lh_attn_find(e->mechanism),
                        .n = o->n,
                        .batch = o->batch,
                        .heads = o->heads,
                        .kv_heads = o->kv_heads,
                        .head_width = o->head_width,
                        .causal = e->causal,
                        .zigzag = e->zigzag,
                        .quiet = true,
                        .ways = e->ways == 0 ? ranks : e->ways,
                        .threads = (int)o->threads,
                        .repeats = (int)o->repeats,
                        .isa = o->isa,
                        .seed = 1};
    words.word[0] = e->setting;
    st = c.ops == NULL
             ? LH_RAISE(LH_ERR_BUG, "there is no mechanism '%s'", e->mechanism)
             : lhi_bench_settings(c.ops, e->window ? o->window : LH_AUTO, &words, &settings);
    LH_TRY(lh_agree(world, st));
    c.settings = settings;
    LH_TRY(lhi_bench_run(world, &c, &r));
    LH_TRY(lh_agree(world, lh_comm_rank(world) == 0 ? exchange_report(e, &c, &r, ranks) : LH_OK));
done:
    if (settings != NULL) lh_settings_free(c.ops->settings, settings);
    lh_free(&settings);
    return st;
}

/* --- sizes --- */

typedef struct exchange_size {
    lh_comm *world;
    int64_t bytes;
    int repeats, burst; /* burst: messages of one repeat */
    void *send, *recv;  /* host [bytes] */
    double *seconds;    /* [repeats]: of a burst */
} exchange_size;

/* Each rank to the next one, all at once. */
static void exchange_message(const exchange_size *x)
{
    int rank = lh_comm_rank(x->world);
    int ranks = lh_comm_size(x->world);
    lh_request sending = {0};
    lh_request receiving = {0};
    lh_recv_start(x->world, x->recv, x->bytes, (rank + ranks - 1) % ranks, LH_TAG_FETCH,
                  &receiving);
    lh_send_start(x->world, x->send, x->bytes, (rank + 1) % ranks, LH_TAG_FETCH, LH_SEND_FORWARD,
                  &sending);
    lh_wait(x->world, &receiving);
    lh_wait(x->world, &sending);
}

static void exchange_sum(const exchange_size *x)
{
    int64_t n = x->bytes / (int64_t)lh_dtype_bytes(LH_REAL);
    lh_sum_real(x->world, x->send, n, LH_SEND_SUMMARY);
}

static lh_status exchange_size_report(const exchange_size *x, const char *name, int64_t sent,
                                      int64_t messages)
{
    lh_status st = LH_OK;
    lh_json json = {0};
    lh_json *j = &json;
    int ranks = lh_comm_size(x->world);
    double seconds = lhi_bench_median(x->seconds, x->repeats) / x->burst;
    lh_json_begin(j);
    lh_json_string(j, "case", name);
    lh_json_int(j, "ranks", ranks);
    lh_json_int(j, "bytes", x->bytes);
    lh_json_real(j, "seconds", seconds);
    lh_json_real(j, "mb_per_s", (double)x->bytes / seconds * 1e-6);
    lhi_bench_json_mean(j, "sent_bytes", sent, ranks);
    lh_json_int(j, "predicted_sent_bytes", x->bytes * x->burst * x->repeats);
    lhi_bench_json_mean(j, "messages", messages, ranks);
    LH_TRY(lh_json_print(j, stdout));
done:
    lh_json_free(&json);
    return st;
}

static lh_status exchange_size_run(exchange_size *x, const char *name,
                                   void (*once)(const exchange_size *x))
{
    lh_status st = LH_OK;
    lh_traffic before = *lh_comm_traffic(x->world);
    int64_t sums[2] = {0, 0};
    for (int i = -1; i < x->repeats; i++) {
        if (i == 0) before = *lh_comm_traffic(x->world);
        lh_barrier(x->world);
        double start = lh_wall();
        for (int k = 0; k < x->burst; k++) once(x);
        if (i >= 0) x->seconds[i] = lh_wall() - start;
    }
    const lh_traffic *after = lh_comm_traffic(x->world);
    sums[0] = lh_traffic_step(after) - lh_traffic_step(&before);
    for (int p = 0; p < LH_SEND_OTHER; p++) sums[1] += after->messages[p] - before.messages[p];
    lh_sum_i64(x->world, sums, 2, LH_SEND_OTHER);
    lh_max_f64(x->world, x->seconds, x->repeats, LH_SEND_OTHER);
    if (lh_comm_rank(x->world) == 0) st = exchange_size_report(x, name, sums[0], sums[1]);
    return lh_agree(x->world, st);
}

static lh_status exchange_sizes(lh_comm *world, const exchange_options *o)
{
    lh_status st = LH_OK;
    exchange_size x = {.world = world, .repeats = (int)o->repeats};
    st = lh_host_alloc((size_t)o->bytes, &x.send);
    if (st == LH_OK) st = lh_host_alloc((size_t)o->bytes, &x.recv);
    if (st == LH_OK) st = lh_new((size_t)o->repeats * sizeof(double), &x.seconds);
    LH_TRY(lh_agree(world, st));
    memset(x.send, 0, (size_t)o->bytes); /* sums of zeros stay finite */
    memset(x.recv, 0, (size_t)o->bytes);
    for (int sum = 0; sum < 2; sum++) {
        for (int64_t bytes = 8; bytes <= o->bytes; bytes *= EXCHANGE_STEP) {
            x.bytes = bytes;
            x.burst = bytes > EXCHANGE_BURST / 64 ? 1 : 64;
            LH_TRY(exchange_size_run(&x, sum ? "all_reduce" : "message",
                                     sum ? exchange_sum : exchange_message));
        }
    }
done:
    lh_host_release(&x.send);
    lh_host_release(&x.recv);
    lh_free(&x.seconds);
    return st;
}

lh_status lhi_bench_exchange(lh_comm *world, int argc, char **argv)
{
    lh_status st = LH_OK;
    exchange_options o;
    LH_TRY(lh_agree(world, exchange_parse(&o, argc, argv)));
    lhi_bench_warn(world, o.threads);
    for (int i = 0; i < EXCHANGE_CASES; i++)
        LH_TRY(exchange_mechanism(world, &o, &exchange_cases[i]));
    if (lh_comm_size(world) > 1) LH_TRY(exchange_sizes(world, &o));
done:
    return st;
}
