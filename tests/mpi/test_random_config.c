/* Random configurations (tests/lh_random.h), read as the program reads them and run: a valid one trains and
 * evaluates, with the bytes and the memory that are planned, and as on one rank; a broken one is refused
 * and its mistake named; a wild one is refused with a reason, or runs. None ends in a crash, an internal
 * error or a hang.
 *
 * LH_RANDOM_SEED, LH_RANDOM_FIRST, LH_RANDOM_COUNT choose which; LH_ALL=1 takes many; LH_RANDOM_PATIENCE: seconds
 * for each. What is running lies in
 * random.npP.yaml: after a crash or a hang that file is the guilty one, which `longhaul train` reads. */
#define _POSIX_C_SOURCE 200809L /* alarm */
#include "core/random.h"
#include "experiments/step_plan.h"
#include "io/files.h"
#include "tests/lh_random.h"
#include "tests/lh_test_mpi.h"
#include "tests/tol.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    RANDOM_SEED = 6,
    RANDOM_FEW = 16,
    RANDOM_MANY = 200,
    RANDOM_PATIENCE = 120 /* seconds */,
    RANDOM_STEM = 32,
    NUDGES = 8,
    NUDGE_ROOM = 8, /* a step rounds far more often than once for each parameter */
    ILL_IN = 100    /* at most one configuration of so many may be ill-conditioned */
};

/* How many ended how. */
typedef struct random_tally {
    int64_t ran[LH_RANDOM_KINDS], refused[LH_RANDOM_KINDS], large, nonfinite, ill, findings;
} random_tally;

/* What is checked: a configuration, and its file. Findings are printed by the ranks that have them. */
typedef struct random_case {
    lh_comm *comm;
    lh_random about;
    char text[LH_RANDOM_BYTES];
    random_tally *tally;
    bool bad; /* on this rank */
} random_case;

static void report(random_case *k, const char *what, const char *detail)
{
    k->bad = true;
    /* longer than cmocka's messages may be */
    (void)fprintf(stderr, "FINDING on rank %d: %s: %s\n%s\n", lh_comm_rank(k->comm), what, detail,
                  k->text);
}

static lh_status text_read(void *user, const char *path, char **bytes, size_t *count)
{
    lh_status st = LH_OK;
    const char *text = user;
    (void)path;
    *count = strlen(text);
    LH_TRY(lh_new(*count + 1, bytes));
    memcpy(*bytes, text, *count);
done:
    return st;
}

/* --- what a step was planned to do --- */

typedef struct planned {
    lh_traffic traffic;
    int64_t peak;
    double flops;
} planned;

/* Of this rank, counted alone; rank 0 makes the whole plan, which formulas confirm. */
static lh_status case_plan(const random_case *k, lh_config *config, planned *out)
{
    lh_status st = LH_OK;
    lh_session *s = NULL;
    lh_step_plan *plan = NULL;
    int rank = lh_comm_rank(k->comm);
    int ranks = lh_comm_size(k->comm);
    LH_TRY(lh_session_open_counting(config, ranks, rank, &s));
    *out = (planned){*s->mesh->traffic, lh_session_peak(s), (double)s->passes * s->flops[1]};
    if (rank > 0) goto done;
    LH_TRY(lh_step_plan_create(config, ranks, &plan));
    LH_CHECK(plan->rank[0].peak_bytes == out->peak && plan->rank[0].flops == out->flops, LH_ERR_BUG,
             "the plan's rank 0 is not the session that counts");
done:
    lh_session_close(&s);
    lh_step_plan_destroy(&plan);
    return st;
}

static void case_as_planned(random_case *k, const planned *p, const lh_session *s)
{
    char text[200];
    const lh_traffic *t = s->mesh->traffic;
    for (int i = 0; i < LH_PURPOSES; i++) {
        if (i == LH_SEND_OTHER ||
            (p->traffic.bytes[i] == t->bytes[i] && p->traffic.messages[i] == t->messages[i]))
            continue;
        (void)snprintf(text, sizeof text, "%s: %lld bytes in %lld messages, planned %lld in %lld",
                       lh_purpose_name((lh_purpose)i), (long long)t->bytes[i],
                       (long long)t->messages[i], (long long)p->traffic.bytes[i],
                       (long long)p->traffic.messages[i]);
        report(k, "sent is not what was planned", text);
    }
    (void)snprintf(text, sizeof text, "peak %lld (planned %lld), flops %.17g (%.17g)",
                   (long long)lh_session_peak(s), (long long)p->peak, s->device->flops, p->flops);
    /* sequences that end early, as encoders may have, take less work than was planned */
    bool early = s->config->model.kind == LH_MODEL_ENCODER;
    if (lh_session_peak(s) != p->peak || s->device->flops > p->flops ||
        (!early && s->device->flops < p->flops))
        report(k, "memory or work is not what was planned", text);
}

/* --- what it does --- */

enum { STEPS = 2 };

typedef struct outcome {
    lh_step_result step[STEPS];
    lh_eval_result eval;
} outcome;

/* Two steps and an evaluation. p NULL: nothing was planned. */
static lh_status case_steps(random_case *k, lh_session *s, const planned *p, outcome *o)
{
    lh_status st = LH_OK;
    int64_t batch = s->config->data.batch;
    *s->mesh->traffic = (lh_traffic){0};
    s->device->flops = 0.0;
    LH_TRY(lh_session_step(s, 0, 1, 1e-3, false, &o->step[0]));
    if (p != NULL) case_as_planned(k, p, s);
    int64_t before = lh_new_count();
    LH_TRY(lh_session_step(s, batch, 2, 1e-3, false, &o->step[1]));
    if (lh_new_count() != before) report(k, "the second step allocates", "");
    if (lh_task_windows(s->task, LH_SPLIT_VALID) > 0)
        LH_TRY(
            lh_session_evaluate(s, LH_SPLIT_VALID, s->config->train.eval_tokens, NULL, &o->eval));
done:
    return st;
}

/* Every parameter to the number beside it, up or down. nudge: another one, other directions. Local. */
static lh_status nudge_parameters(lh_session *s, uint64_t nudge)
{
    lh_status st = LH_OK;
    lh_real *x = NULL;
    uint64_t stream = lh_stream_id(LH_STREAM_TEST, (uint32_t)nudge);
    uint64_t drawn = 0;
    for (int64_t i = 0; i < s->params->count; i++) {
        lh_param *p = s->params->item[i];
        int64_t n = lh_shape_count(&p->shape);
        LH_TRY(lh_new((size_t)n * sizeof *x, &x));
        lh_copy_out(s->device, x, p->value, (size_t)n * sizeof *x);
        for (int64_t j = 0; j < n; j++) {
            /* between 0.75 and 1.5 units in its last place, so rounded to one */
            double way = lh_random_u32(RANDOM_SEED, stream, drawn++) % 2 == 0 ? 0.75 : -0.75;
            x[j] += (lh_real)(way * LH_TOL_EPS * (double)x[j]);
        }
        lh_copy_in(s->device, p->value, x, (size_t)n * sizeof *x);
        lh_free(&x);
    }
done:
    lh_free(&x);
    return st;
}

/* The same on one rank; nudge > 0: its parameters are nudged before. Local. */
static lh_status case_alone(random_case *k, uint64_t nudge, outcome *o)
{
    lh_status st = LH_OK;
    static const char *const overrides[] = {"mesh.data=1", "mesh.exchange=ring",
                                            "mesh.ulysses=auto"};
    lh_config_source source = {.read = text_read,
                               .user = k->text,
                               .path = "random.yaml",
                               .overrides = overrides,
                               .n_overrides = 3};
    lh_config *config = NULL;
    lh_session *s = NULL;
    lh_mesh *self = NULL;
    LH_TRY(lh_config_load(&source, &config));
    LH_TRY(lh_mesh_create_self(&self));
    LH_TRY(lh_session_open(self->world, config, true, &s));
    if (nudge > 0) LH_TRY(nudge_parameters(s, nudge));
    LH_TRY(case_steps(k, s, NULL, o));
done:
    lh_session_close(&s);
    lh_mesh_destroy(&self);
    lh_config_destroy(&config);
    return st;
}

/* What is compared, and how near it must be. */
enum { AT_LOSS, AT_NORM, AT_SECOND, AT_EVAL, RESULTS };

static void outcome_results(const outcome *o, double result[RESULTS])
{
    result[AT_LOSS] = o->step[0].loss;
    result[AT_NORM] = o->step[0].grad_norm;
    result[AT_SECOND] = o->step[1].loss;
    result[AT_EVAL] = o->eval.loss;
}

static void case_tolerances(const lh_config *c, double tol[RESULTS])
{
    bool rounds = c->device.store == LH_STORE_BFLOAT16 || c->device.isa == LH_ISA_AVX512_BF16;
    /* one unit that is 0 but for rounding is on here and off there */
    bool kinks = c->model.mlp == LH_ACT_RELU;
    tol[AT_LOSS] = rounds ? 1e-2 : LH_TOL_LOSS;
    tol[AT_NORM] = rounds ? 5e-2 : kinks ? 10 * LH_TOL_GRAD : LH_TOL_GRAD;
    tol[AT_SECOND] = tol[AT_LOSS] + 1e-4;
    tol[AT_EVAL] = rounds ? 2e-2 : 1e-3;
}

/* How far a result is from that on one rank, in tolerances; NaN is far. */
static double farness(double a, double one, double tol)
{
    double far = fabs(a - one) / (tol * (fabs(one) + 1e-3));
    return isnan(far) ? HUGE_VAL : far;
}

/* Is a result that is out of its tolerance no further off than NUDGE_ROOM times what one unit in the last place of the
 * parameters does to it on one rank? Then the model, and not the number of ranks, makes it differ. Local. */
static lh_status case_ill(random_case *k, const double many[RESULTS], const double one[RESULTS],
                          const double tol[RESULTS], bool *ill)
{
    lh_status st = LH_OK;
    double most[RESULTS] = {0}, result[RESULTS];
    *ill = true;
    for (uint64_t n = 1; n <= NUDGES; n++) {
        outcome nudged = {0};
        LH_TRY(case_alone(k, n, &nudged));
        outcome_results(&nudged, result);
        for (int i = 0; i < RESULTS; i++)
            most[i] = fmax(most[i], farness(result[i], one[i], tol[i]));
    }
    for (int i = 0; i < RESULTS; i++) {
        double far = farness(many[i], one[i], tol[i]);
        *ill = *ill && (far <= 1.0 || far <= NUDGE_ROOM * most[i]);
        if (far > 1.0)
            print_message("result %d is %.3g tolerances off; rounding the parameters: %.3g\n", i,
                          far, most[i]);
    }
done:
    return st;
}

static bool same_counts(const outcome *many, const outcome *one)
{
    bool same = many->eval.tokens == one->eval.tokens;
    for (int i = 0; i < STEPS; i++) same = same && many->step[i].labels == one->step[i].labels;
    return same;
}

/* On one rank the same: losses, gradients, and what was counted (invariant 1). Local. */
static lh_status case_compare(random_case *k, const lh_config *c, const outcome *many,
                              const outcome *one)
{
    lh_status st = LH_OK;
    char text[400];
    double a[RESULTS], b[RESULTS], tol[RESULTS];
    bool same = same_counts(many, one);
    bool near = true;
    outcome_results(many, a);
    outcome_results(one, b);
    case_tolerances(c, tol);
    for (int i = 0; i < RESULTS; i++) near = near && farness(a[i], b[i], tol[i]) <= 1.0;
    if (same && !near) {
        LH_TRY(case_ill(k, a, b, tol, &near));
        k->tally->ill += near;
    }
    if (same && near) goto done;
    (void)snprintf(text, sizeof text,
                   "loss %.12g (%.12g), norm %.9g (%.9g), labels %lld (%lld); second loss %.12g "
                   "(%.12g); evaluation %.12g (%.12g) of %lld (%lld)",
                   a[AT_LOSS], b[AT_LOSS], a[AT_NORM], b[AT_NORM], (long long)many->step[0].labels,
                   (long long)one->step[0].labels, a[AT_SECOND], b[AT_SECOND], a[AT_EVAL],
                   b[AT_EVAL], (long long)many->eval.tokens, (long long)one->eval.tokens);
    report(k, "another result than on one rank (in brackets)", text);
done:
    return st;
}

/* Collective. Errors: agreed. */
static lh_status case_run(random_case *k, lh_config *config)
{
    lh_status st = LH_OK;
    planned plan = {0};
    outcome many = {0}, one = {0};
    lh_session *s = NULL;
    LH_TRY(lh_session_open(k->comm, config, true, &s));
    LH_TRY(lh_agree(k->comm, case_plan(k, config, &plan)));
    LH_TRY(case_steps(k, s, &plan, &many));
    if (lh_comm_rank(k->comm) == 0) {
        st = case_alone(k, 0, &one);
        if (st == LH_OK && k->about.kind == LH_RANDOM_VALID)
            st = case_compare(k, config, &many, &one);
    }
    LH_TRY(lh_agree(k->comm, st));
done:
    lh_session_close(&s);
    return st;
}

/* --- one configuration --- */

/* Does the message name a key of the tables? */
static bool names_key(const char *text)
{
    if (strstr(text, "key '") != NULL) return true;
    for (int i = 0; i < lh_attn_count(); i++)
        for (const lh_field *f = lh_attn_at(i)->settings; f->name != NULL; f++)
            if (strstr(text, f->name) != NULL) return true;
    return strstr(text, "mesh.") != NULL || strstr(text, "model.") != NULL ||
           strstr(text, "data.") != NULL;
}

static void case_judge_error(random_case *k, lh_status st)
{
    const char *text = lh_error_text();
    bool refused = st == LH_ERR_USAGE || st == LH_ERR_UNSUP;
    if (refused) k->tally->refused[k->about.kind]++;
    if (k->about.kind == LH_RANDOM_VALID) report(k, "a valid configuration fails", text);
    if (k->about.kind == LH_RANDOM_BROKEN && !refused) report(k, "fails, but is not refused", text);
    if (k->about.kind == LH_RANDOM_BROKEN && refused && strstr(text, k->about.expected) == NULL) {
        print_error("expected: %s\n", k->about.expected);
        report(k, "the mistake is not named", text);
    }
    if (k->about.kind != LH_RANDOM_WILD) return;
    if (st == LH_ERR_NONFINITE) k->tally->nonfinite++;
    if (refused && !names_key(text)) report(k, "refused, but no key is named", text);
    if (!refused && st != LH_ERR_NONFINITE) report(k, "fails in another way", text);
}

/* The resolved configuration, read again, is itself. */
static lh_status case_round_trip(random_case *k, const lh_config *config)
{
    lh_status st = LH_OK;
    lh_config *again = NULL;
    char *first = NULL, *second = NULL;
    LH_TRY(lh_config_emit(config, &first));
    LH_TRY(lh_config_parse(first, strlen(first), "resolved", 0, &again));
    LH_TRY(lh_config_emit(again, &second));
    if (strcmp(first, second) != 0)
        report(k, "resolved, it is another one when read again", second);
done:
    lh_free(&first);
    lh_free(&second);
    lh_config_destroy(&again);
    return st;
}

static void case_check(random_case *k)
{
    lh_config *config = NULL;
    lh_config_source source = {.read = text_read, .user = k->text, .path = "random.yaml"};
    bool large = false;
    lh_status st = lh_config_load_all(k->comm, &source, &config);
    if (st == LH_OK) st = lh_agree(k->comm, case_round_trip(k, config));
    if (st == LH_OK && k->about.kind == LH_RANDOM_WILD) large = !lh_random_affordable(config);
    if (st == LH_OK && !large) st = case_run(k, config);
    if (large) k->tally->large++;
    if (st != LH_OK)
        case_judge_error(k, st);
    else if (!large)
        k->tally->ran[k->about.kind]++;
    if (st == LH_OK && k->about.kind == LH_RANDOM_BROKEN)
        report(k, "a mistake is not noticed", k->about.expected);
    lh_error_clear();
    lh_config_destroy(&config);
}

static int64_t wanted(const char *name, int64_t otherwise)
{
    const char *text = getenv(name);
    return text != NULL && text[0] != '\0' ? strtoll(text, NULL, 10) : otherwise;
}

/* In double nothing is so ill-conditioned that its tolerances notice: there all are compared. */
static int64_t ill_allowed(int64_t count)
{
    return sizeof(lh_real) == sizeof(double) ? 0 : (count + ILL_IN - 1) / ILL_IN;
}

static void test_random_configurations(void **state)
{
    lh_comm *c = *state;
    random_tally tally = {0};
    random_case k = {.comm = c, .tally = &tally};
    char stem[RANDOM_STEM], path[RANDOM_STEM + 8];
    bool lead = lh_comm_rank(c) == 0;
    uint64_t seed = (uint64_t)wanted("LH_RANDOM_SEED", RANDOM_SEED);
    int64_t first = wanted("LH_RANDOM_FIRST", 0);
    int64_t count = wanted("LH_RANDOM_COUNT", getenv("LH_ALL") != NULL ? RANDOM_MANY : RANDOM_FEW);
    int64_t patience = wanted("LH_RANDOM_PATIENCE", RANDOM_PATIENCE);
    (void)snprintf(stem, sizeof stem, "random.np%d", lh_comm_size(c));
    (void)snprintf(path, sizeof path, "%s.yaml", stem);
    lh_assert_all_ok(c, lead ? lh_random_files(stem) : LH_OK);
    for (int64_t n = first; n < first + count; n++) {
        lh_random_draw(seed, n, lh_comm_size(c), stem, &k.about);
        lh_random_text(&k.about, k.text);
        k.bad = false;
        lh_assert_all_ok(c, lead ? lh_write_small(NULL, path, k.text, strlen(k.text)) : LH_OK);
        (void)alarm((unsigned)patience);
        case_check(&k);
        (void)alarm(0);
        tally.findings += k.bad;
    }
    lh_test_report(
        "random ranks %d seed %llu first %lld count %lld: valid ran %lld; broken refused "
        "%lld; wild ran %lld, refused %lld, not finite %lld, only read %lld; ill-conditioned %lld",
        lh_comm_size(c), (unsigned long long)seed, (long long)first, (long long)count,
        (long long)tally.ran[LH_RANDOM_VALID], (long long)tally.refused[LH_RANDOM_BROKEN],
        (long long)tally.ran[LH_RANDOM_WILD], (long long)tally.refused[LH_RANDOM_WILD],
        (long long)tally.nonfinite, (long long)tally.large, (long long)tally.ill);
    lh_assert_all(c, tally.findings == 0);
    lh_assert_all(c, tally.ill <= ill_allowed(count));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_configurations)};
    return lh_test_mpi_main(argc, argv, "random_config", tests, sizeof tests / sizeof tests[0]);
}
