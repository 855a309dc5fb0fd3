/* longhaul-sim: training steps on a cluster that is described, not there. What `longhaul scale` runs, on
 * SimGrid's SMPI (parallel/smpi.h) and a device without data (lh_device_create_simulate). */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/pulse.h"
#include "experiments/options.h"
#include "experiments/process.h"
#include "experiments/scale.h"
#include "experiments/simulate_rates.h"
#include "io/digest.h"
#include "parallel/smpi.h"

enum { SIMULATE_FAILED = 1, SIMULATE_USAGE = 2, SIMULATE_WORDS = 600 };

static const char simulate_command[] = "longhaul-sim";

typedef struct simulate_options {
    const char *platform, *rates;
    int64_t layers; /* to extrapolate to; 0: not */
} simulate_options;

#define SIMULATE_AT(member) offsetof(simulate_options, member)
static const lh_option simulate_table[] = {
    {.name = "--platform",
     .kind = LH_OPTION_WORD,
     .offset = SIMULATE_AT(platform),
     .expected = "a description of a cluster, such as experiments/platforms/ethernet-10g.xml"},
    {.name = "--rates",
     .kind = LH_OPTION_WORD,
     .offset = SIMULATE_AT(rates),
     .expected = "a file with what longhaul bench step printed"},
    {.name = "--extrapolate",
     .kind = LH_OPTION_INT,
     .offset = SIMULATE_AT(layers),
     .min = 1,
     .max = 1000000},
    {.name = NULL}};

/* The command line: what the simulator takes, and what is left for the study. */
typedef struct simulate_program {
    simulate_options o;
    lh_rates rates;
    int argc;
    char *argv[SIMULATE_WORDS];
} simulate_program;

static void simulate_help(FILE *out)
{
    (void)fprintf(
        out,
        "longhaul-sim FILE.yaml --ranks 16,64,256 --platform CLUSTER.xml --rates RATES.jsonl\n"
        "             [--extrapolate LAYERS] [what longhaul scale takes]\n\n"
        "What longhaul scale measures, on a cluster that is simulated: one process, no launcher. "
        "All\n"
        "messages of a step are sent, with their sizes and without contents, through SimGrid's "
        "SMPI;\n"
        "what is computed takes the time that longhaul bench step measured. By default one step "
        "is\n"
        "simulated (--repeats 1 --warmup 0): another one would take the same time.\n"
        "  --platform     the cluster, as SimGrid describes it: experiments/platforms. A processor "
        "of\n"
        "                 speed 1Gf computes as the one that the rates were measured on, one of "
        "32Gf\n"
        "                 32 times as fast; each core is a rank\n"
        "  --rates        what 'mpirun -n 1 longhaul bench step' printed, a line for each "
        "mechanism\n"
        "                 and kind of model that is simulated (several: their mean)\n"
        "  --extrapolate  step_s and all that follows from it are of a model with so many layers,\n"
        "                 where one with fewer is simulated: each layer more takes what the "
        "simulated\n"
        "                 ones took, on the rank where they took longest. Sums of gradients that "
        "do "
        "not\n"
        "                 hide behind it are not in that: where they matter simulate all layers\n"
        "Standard output: the objects of longhaul scale, and in them\n"
        "  simulated (true), platform, rates\n"
        "  smpi_bytes      of a step, handed to SMPI, mean over ranks: sent_bytes without the two\n"
        "                  small reductions\n"
        "  extrapolated    with --extrapolate: {layers, simulated_layers, simulated_step_s}; "
        "else\n"
        "                  false. sent_bytes and peak_bytes are of what was simulated\n\n");
    lh_scale_help(out);
}

/* --- one rank --- */

typedef struct simulate_rank {
    const simulate_program *program;
    lh_pulse pulse;
    lh_simulated by;
    const lh_rate_set *rates;
    double flops, bytes; /* of the device, as last seen */
    double smpi_bytes;   /* of a step, mean over ranks */
    char missing[LH_RATES_NAME * 2];
} simulate_rank;

/* What a step does besides the operations of the tape is known by its kernel. */
static const char *simulate_step_name(lh_kernel kernel)
{
    if (kernel == LH_KERNEL_adamw) return "optimizer";
    if (kernel == LH_KERNEL_sum_squares) return "gradient_norm";
    return "zero_gradients";
}

/* Kernels of the exchange, which does not exist on the one rank that was measured. */
static bool simulate_moves(lh_kernel kernel)
{
    return kernel == LH_KERNEL_pack_rows || kernel == LH_KERNEL_unpack_rows ||
           kernel == LH_KERNEL_add_rows;
}

static double simulate_seconds(simulate_rank *r, lh_kernel kernel, double flops, double bytes)
{
    const char *name = atomic_load_explicit(&r->pulse.op, memory_order_relaxed);
    lh_direction direction =
        (lh_direction)atomic_load_explicit(&r->pulse.direction, memory_order_relaxed);
    if (simulate_moves(kernel)) return bytes * r->rates->memory;
    if (name == NULL) {
        name = simulate_step_name(kernel);
        direction = LH_DIRECTION_STEP;
    }
    const lh_rate *rate = lh_rate_find(r->rates, name, direction);
    if (rate == NULL && flops > 0.0 && r->missing[0] == '\0')
        (void)snprintf(r->missing, sizeof r->missing, "%s %s", name, lh_direction_name(direction));
    if (rate == NULL) return bytes * r->rates->memory;
    /* where an operation was measured by its flops, they stand for its other kernels too */
    return rate->per_flop > 0.0 ? flops * rate->per_flop : bytes * rate->per_byte;
}

/* Blocks of queries of a list of tiles, of all heads and sequences. */
static int64_t simulate_blocks(int64_t times, const lh_tile *tiles, int64_t n_tiles)
{
    int64_t groups = 0;
    for (int64_t i = 0; i < n_tiles; i++) groups += i == 0 || tiles[i].q_row != tiles[i - 1].q_row;
    return times * groups;
}

/* Between blocks of queries messages are poked, as in a run. */
static void simulate_tiles(double seconds, int64_t blocks, void (*between)(void *user), void *user)
{
    for (int64_t b = 0; b < blocks; b++) {
        lh_smpi_compute(seconds / (double)blocks);
        if (between != NULL) between(user);
    }
}

static void simulate_kernel(void *user, lh_device *d, lh_kernel kernel, const void *args)
{
    simulate_rank *r = user;
    double flops = d->flops - r->flops, bytes = d->bytes - r->bytes;
    if (flops < 0.0 || bytes < 0.0) flops = bytes = 0.0; /* another device */
    r->flops = d->flops;
    r->bytes = d->bytes;
    double seconds = simulate_seconds(r, kernel, flops, bytes);
    if (kernel == LH_KERNEL_attend) {
        const lh_attend_args *a = args;
        int64_t blocks = simulate_blocks(a->batch * a->n_heads, a->tiles, a->n_tiles);
        simulate_tiles(seconds, blocks, a->between, a->user);
    } else if (kernel == LH_KERNEL_attend_grad) {
        const lh_attend_grad_args *a = args;
        int64_t blocks = simulate_blocks(a->batch * a->n_heads, a->tiles, a->n_tiles);
        simulate_tiles(seconds, blocks, a->between, a->user);
    } else {
        lh_smpi_compute(seconds);
    }
}

static void simulate_copied(void *user, lh_device *d, size_t bytes)
{
    const simulate_rank *r = user;
    (void)d;
    lh_smpi_compute(2.0 * (double)bytes * r->rates->memory);
}

/* --- one point --- */

static lh_status simulate_begin(void *user, lh_comm *comm, lh_config *config)
{
    lh_status st = LH_OK;
    simulate_rank *r = user;
    char mechanism[LH_STEP_NAME];
    lh_step_mechanism(config, mechanism);
    LH_TRY(lh_rates_of(&r->program->rates, mechanism,
                       config->model.kind == LH_MODEL_DECODER ? "decoder" : "encoder", &r->rates));
    LH_CHECK(r->program->o.layers == 0 || r->program->o.layers >= config->model.layers,
             LH_ERR_USAGE, "%s: --extrapolate %" PRId64 ", but the model has %" PRId64 " layers",
             simulate_command, r->program->o.layers, config->model.layers);
    config->device.simulated = &r->by;
    lh_comm_traffic(comm)->pulse = &r->pulse;
    r->flops = r->bytes = 0.0;
    lh_smpi_begin(&r->pulse);
done:
    return st;
}

/* Of a model with more layers, each of which takes as long as those that were simulated. */
static void simulate_extrapolate(lh_step_times *t, int64_t ran, int64_t layers, double layer_s)
{
    double more = (double)(layers - ran);
    double flops = t->layers_flops / (double)ran;
    t->ran_layers = ran;
    t->ran_step_s = t->step_s;
    t->step_s += more * layer_s;
    t->least_s += more * layer_s;
    t->mean_s += more * layer_s;
    t->model_flops += more * flops;
    t->layers_flops += more * flops;
}

static lh_status simulate_end(void *user, lh_comm *comm, const lh_config *config, lh_step_times *t)
{
    simulate_rank *r = user;
    const lh_smpi_ledger ledger = lh_smpi_ledger_of();
    double steps = (double)t->steps;
    double layer_s = ledger.layers_s / (double)config->model.layers / steps;
    lh_max_f64(comm, &layer_s, 1, LH_SEND_OTHER);
    r->smpi_bytes = (double)ledger.bytes / steps / lh_comm_size(comm);
    lh_sum_f64(comm, &r->smpi_bytes, 1, LH_SEND_OTHER);
    if (r->program->o.layers > config->model.layers)
        simulate_extrapolate(t, config->model.layers, r->program->o.layers, layer_s);
    lh_status st = LH_OK;
    if (r->missing[0] != '\0')
        st = LH_RAISE(LH_ERR_USAGE,
                      "the rates have no operation '%s': measure them by longhaul bench step with "
                      "a model like this one",
                      r->missing);
    return lh_agree(comm, st);
}

static void simulate_say(void *user, const lh_step_times *t, lh_json *j)
{
    const simulate_rank *r = user;
    lh_json_bool(j, "simulated", true);
    lh_json_string(j, "platform", r->program->o.platform);
    lh_json_string(j, "rates", r->program->o.rates);
    lh_json_real(j, "smpi_bytes", r->smpi_bytes);
    if (t->ran_layers == 0) {
        lh_json_bool(j, "extrapolated", false);
        return;
    }
    lh_json_object(j, "extrapolated");
    lh_json_int(j, "layers", r->program->o.layers);
    lh_json_int(j, "simulated_layers", t->ran_layers);
    lh_json_real(j, "simulated_step_s", t->ran_step_s);
    lh_json_close(j);
}

/* The file's name without its folder, and a digest of what it holds. */
static lh_status simulate_file(const char *key, const char *path, lh_json *j)
{
    lh_status st = LH_OK;
    char digest[32];
    uint64_t sum = 0;
    int64_t bytes = 0;
    const char *slash = strrchr(path, '/');
    LH_TRY(lhi_digest_file(NULL, path, 0, &bytes, &sum));
    (void)snprintf(digest, sizeof digest, "%016" PRIx64, sum);
    lh_json_object(j, key);
    lh_json_string(j, "name", slash != NULL ? slash + 1 : path);
    lh_json_string(j, "digest", digest);
    lh_json_close(j);
done:
    return st;
}

static lh_status simulate_about(void *user, lh_json *j)
{
    lh_status st = LH_OK;
    const simulate_options *o = &((const simulate_rank *)user)->program->o;
    LH_TRY(simulate_file("platform", o->platform, j));
    LH_TRY(simulate_file("rates", o->rates, j));
    lh_json_int(j, "layers", o->layers); /* 0: what is simulated */
done:
    return st;
}

/* --- the whole --- */

static lh_status simulate_run(void *user)
{
    lh_status st = LH_OK;
    simulate_program *p = user;
    lh_comm *world = NULL;
    simulate_rank r = {.program = p, .by = {simulate_kernel, simulate_copied, NULL}};
    const lh_scale_kind kind = {.command = simulate_command,
                                .example = simulate_command,
                                .repeats = 1,
                                .warmup = 0,
                                .begin = simulate_begin,
                                .end = simulate_end,
                                .say = simulate_say,
                                .about = simulate_about,
                                .user = &r};
    r.by.user = &r;
    LH_TRY(lh_comm_world(&world));
    LH_TRY(lh_scale_run(world, p->argc, p->argv, &kind));
done:
    if (world != NULL) lh_comm_destroy(&world);
    return st;
}

/* Options of the simulator, with their values, go to *mine; the rest to the study. */
static lh_status simulate_split(int argc, char **argv, simulate_program *p, char **mine,
                                int *n_mine)
{
    lh_status st = LH_OK;
    LH_CHECK(argc < SIMULATE_WORDS, LH_ERR_USAGE, "%s: too many words", simulate_command);
    for (int i = 1; i < argc; i++) {
        const lh_option *o = simulate_table;
        size_t n = strcspn(argv[i], "=");
        while (o->name != NULL && (strlen(o->name) != n || strncmp(o->name, argv[i], n) != 0)) o++;
        if (o->name == NULL) {
            p->argv[p->argc++] = argv[i];
            continue;
        }
        mine[(*n_mine)++] = argv[i];
        if (argv[i][n] == '\0' && i + 1 < argc) mine[(*n_mine)++] = argv[++i];
    }
done:
    return st;
}

/* The largest number of --ranks, which ascend; what is wrong with them the study says. */
static int simulate_ranks(const simulate_program *p)
{
    const char *list = "1";
    for (int i = 0; i < p->argc; i++) {
        if (strncmp(p->argv[i], "--ranks=", 8) == 0) list = p->argv[i] + 8;
        if (strcmp(p->argv[i], "--ranks") == 0 && i + 1 < p->argc) list = p->argv[i + 1];
    }
    const char *last = strrchr(list, ',');
    long ranks = strtol(last != NULL ? last + 1 : list, NULL, 10);
    return ranks >= 1 && ranks <= 65536 ? (int)ranks : 1;
}

static lh_status simulate_main(int argc, char **argv, simulate_program *p)
{
    lh_status st = LH_OK;
    char *mine[SIMULATE_WORDS];
    int n_mine = 0;
    LH_TRY(simulate_split(argc, argv, p, mine, &n_mine));
    lh_options options = {.command = simulate_command, .table = simulate_table, .into = &p->o};
    LH_TRY(lh_options_read(&options, n_mine, mine));
    LH_CHECK(p->o.platform != NULL && p->o.rates != NULL, LH_ERR_USAGE,
             "%s wants a cluster and rates: --platform experiments/platforms/ethernet-10g.xml "
             "--rates RATES.jsonl (see %s --help)",
             simulate_command, simulate_command);
    LH_TRY(lh_rates_read(p->o.rates, &p->rates));
    const lh_smpi_job job = {.platform = p->o.platform,
                             .ranks = simulate_ranks(p),
                             .add_s_per_byte = 2.0 * p->rates.set[0].memory,
                             .run = simulate_run,
                             .user = p};
    LH_TRY(lh_smpi_run(&job));
done:
    return st;
}

int main(int argc, char **argv)
{
    simulate_program program = {.o = {0}};
    bool asks = argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
    if (asks) {
        simulate_help(stdout);
        return fflush(stdout) == 0 ? EXIT_SUCCESS : SIMULATE_FAILED;
    }
    lh_status st = lh_process_begin();
    if (st == LH_OK) st = simulate_main(argc, argv, &program);
    lh_rates_free(&program.rates);
    if (st == LH_OK) return EXIT_SUCCESS;
    (void)fprintf(stderr, "%s: error: %s\n", simulate_command, lh_error_text());
    if (st == LH_ERR_BUG)
        (void)fprintf(stderr, "%s: internal error at %s\n", simulate_command, lh_error_where());
    return st == LH_ERR_USAGE || st == LH_ERR_UNSUP ? SIMULATE_USAGE : SIMULATE_FAILED;
}
