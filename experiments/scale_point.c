/* Points of a study: measured, or taken from its file. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "experiments/bench_internal.h"
#include "experiments/scale_internal.h"
#include "experiments/session.h"
#include "io/digest.h"
#include "io/files.h"
#include "parallel/host.h"

enum { SCALE_TEXT = 512, SCALE_LENGTH = 64, SCALE_DIGEST = 24 };

/* The mechanism that --attention names; NULL: the file's. */
static const char *scale_attention(const lhi_scale_study *s, int attention)
{
    return s->o->attention.count > 0 ? s->o->attention.word[attention] : NULL;
}

double lhi_scale_of(const lhi_scale_point *p, const char *key)
{
    return lh_json_number(p->object, key);
}

/* What a point is known by, as the first members of its object. */
static void scale_name(const lhi_scale_study *s, const lhi_scale_point *p, lh_json *j)
{
    const char *word = scale_attention(s, p->attention);
    lh_json_begin(j);
    lh_json_int(j, "ranks", p->ranks);
    lh_json_int(j, "n", p->n);
    if (word != NULL)
        lh_json_string(j, "attention", word);
    else
        lh_json_real(j, "attention", (double)NAN); /* null */
}

/* A point's object. Rank 0. */
static lh_status scale_object(lhi_scale_study *s, lhi_scale_point *p, const lh_config *config,
                              const lh_step_times *t, const char *digest)
{
    int repeats = (int)s->o->repeats;
    char mechanism[LH_STEP_NAME];
    lh_json *j = &s->json;
    lh_step_mechanism(config, mechanism);
    scale_name(s, p, j);
    lh_json_string(j, "mode", "");
    lh_json_string(j, "mechanism", mechanism);
    lh_json_real(j, "step_s", t->step_s);
    lh_json_real(j, "step_s_least", t->least_s);
    lh_json_real(j, "step_s_mean", t->mean_s);
    lh_json_real(j, "tokens_per_s", (double)(t->sequences * p->n) / t->step_s);
    lh_json_real(j, "efficiency", 1.0);
    lh_json_real(j, "comm_wait_s", t->wait_s);
    lhi_bench_json_mean(j, "sent_bytes", t->sent / repeats, p->ranks);
    lh_json_real(j, "predicted_sent_bytes", t->predicted_sent);
    lh_json_int(j, "peak_bytes", t->peak);
    lh_json_int(j, "predicted_peak_bytes", t->predicted_peak);
    lh_json_int(j, "parameter_bytes", t->parameter_bytes);
    lh_json_string(j, "pass", t->forward_only ? "forward" : "step");
    lh_json_real(j, "loss", t->loss);
    lh_json_real(j, "model_flops", t->model_flops);
    lh_json_int(j, "parameters", t->parameters);
    lh_json_int(j, "batch", t->sequences);
    lh_json_int(j, "threads", t->threads);
    lh_json_string(j, "isa", t->isa);
    lh_json_string(j, "precision", LH_REAL_NAME);
    lh_json_int(j, "repeats", repeats);
    lh_json_string(j, "configuration", digest);
    lh_json_reals(j, "seconds", t->seconds, repeats);
    if (s->kind->say != NULL) s->kind->say(s->kind->user, t, j);
    lh_status st = lhi_scale_item(&s->json, &p->own);
    p->object = p->own;
    return st;
}

/* A point of the file has what is computed with and printed: files are edited by people. */
static lh_status scale_sound(const lhi_scale_study *s, const lhi_scale_point *p,
                             const lh_json_item *o)
{
    static const char *const words[] = {"mode", "mechanism", "configuration", NULL};
    static const char *const numbers[] = {"step_s",     "step_s_mean", "model_flops",
                                          "efficiency", "threads",     NULL};
    const lh_json_item *seconds = lh_json_find(o, "seconds");
    const char *bad = NULL;
    for (int i = 0; words[i] != NULL; i++)
        if (lh_json_word(o, words[i]) == NULL) bad = words[i];
    for (int i = 0; numbers[i] != NULL; i++)
        if (!(lh_json_number(o, numbers[i]) > 0.0)) bad = numbers[i];
    if (!(lh_json_number(o, "comm_wait_s") >= 0.0)) bad = "comm_wait_s";
    if (lh_json_count(seconds) != s->o->repeats) bad = "seconds";
    for (int64_t i = 0; i < lh_json_count(seconds); i++)
        if (!(lh_json_item_number(lh_json_at(seconds, i)) > 0.0)) bad = "seconds";
    if (bad == NULL) return LH_OK;
    return LH_RAISE(LH_ERR_USAGE,
                    "'%s': the point of n %" PRId64 " on %d ranks has no such '%s' as was written: "
                    "remove its lines, and it is measured again",
                    s->file.path, p->n, p->ranks, bad);
}

/* Takes a point from the file, if it stands there. threads: of a rank, now. Rank 0. */
static lh_status scale_take(lhi_scale_study *s, lhi_scale_point *p, const char *digest, int threads)
{
    lh_status st = LH_OK;
    lh_json_item *wanted = NULL;
    scale_name(s, p, &s->json);
    LH_TRY(lhi_scale_item(&s->json, &wanted));
    const lh_json_item *found = lh_scale_file_find(&s->file, wanted);
    if (found == NULL) goto done;
    LH_TRY(scale_sound(s, p, found));
    LH_CHECK(strcmp(lh_json_word(found, "configuration"), digest) == 0, LH_ERR_USAGE,
             "'%s' holds a study with another configuration (its point of n %" PRId64
             " on %d ranks has digest %s, now it is %s): name another file, or study the same",
             s->file.path, p->n, p->ranks, lh_json_word(found, "configuration"), digest);
    LH_CHECK(lh_json_number(found, "threads") == threads, LH_ERR_USAGE,
             "'%s' holds a study with %.0f threads a rank (n %" PRId64 ", %d ranks), now there are "
             "%d: set device.threads, or start the ranks as they were started",
             s->file.path, lh_json_number(found, "threads"), p->n, p->ranks, threads);
    p->object = found;
    (void)fprintf(stderr, "%s: ranks %d, n %" PRId64 " stands in '%s'\n", s->kind->command,
                  p->ranks, p->n, s->file.path);
done:
    lh_json_release(&wanted);
    return st;
}

/* What the file and the options say of a point; whole: of all points, without length and mechanism. The names and
 * places of runs change nothing. */
static lh_status scale_digest(const lh_config *config, bool whole, char digest[SCALE_DIGEST])
{
    static char nothing[] = "";
    char *text = NULL;
    lh_config c = *config; /* which borrows */
    c.run.name = c.run.output = c.run.init = nothing;
    c.checkpoint = (lh_config_checkpoint){0};
    if (whole) {
        c.data.length = c.model.max_length = 0;
        for (int64_t i = 0; i < c.model.layers; i++)
            c.model.attention[i] = (lh_attn_choice){.ops = lh_attn_find("full")};
    }
    lh_status st = lh_config_emit(&c, &text);
    if (st != LH_OK) return st;
    (void)snprintf(digest, SCALE_DIGEST, "%016" PRIx64,
                   lhi_digest_bytes(text, (int64_t)strlen(text)));
    lh_free(&text);
    return LH_OK;
}

/* Collective on comm, the ranks of the point. */
static lh_status scale_load(const lhi_scale_study *s, lh_comm *comm, const lhi_scale_point *p,
                            lh_config **config)
{
    lh_option_words set = s->o->overrides;
    char length[SCALE_LENGTH], attention[LHI_SCALE_WORD + SCALE_LENGTH];
    const char *word = scale_attention(s, p->attention);
    (void)snprintf(length, sizeof length, "data.length=%" PRId64, p->n);
    set.word[set.count++] = length;
    if (word != NULL) {
        const bool map = word[0] == '{' || word[0] == '[';
        (void)snprintf(attention, sizeof attention,
                       map ? "model.attention=%s" : "model.attention={mechanism: %s}", word);
        set.word[set.count++] = attention;
    }
    const lh_config_source source = {.read = lh_read_small,
                                     .path = s->o->file,
                                     .overrides = set.word,
                                     .n_overrides = set.count,
                                     .flags = LH_CONFIG_PLAN};
    return lh_step_times_config(comm, &source, config);
}

/* Does the point stand in the file? Collective on comm, the ranks of the point. */
static lh_status scale_known(lhi_scale_study *s, lh_comm *comm, lhi_scale_point *p,
                             const lh_config *config, const char *digest, bool *known)
{
    lh_status st = LH_OK;
    const lh_host host = lh_host_of(comm);
    if (lh_comm_rank(comm) == 0) st = scale_take(s, p, digest, lh_session_threads(config, &host));
    int64_t found = p->object != NULL;
    LH_TRY(lh_agree(comm, st));
    lh_sum_i64(comm, &found, 1, LH_SEND_OTHER);
    *known = found > 0;
done:
    return st;
}

/* Collective on comm, the ranks of the point. */
static lh_status scale_measure(lhi_scale_study *s, lh_comm *comm, lhi_scale_point *p)
{
    lh_status st = LH_OK;
    lh_config *config = NULL;
    lh_step_times times = {0};
    char digest[SCALE_DIGEST] = "";
    bool known = false;
    const lh_step_wish wish = {(int)s->o->repeats, (int)s->o->warmup, 0};
    LH_TRY(scale_load(s, comm, p, &config));
    LH_TRY(lh_agree(comm, scale_digest(config, false, digest)));
    if (s->o->out != NULL) LH_TRY(scale_known(s, comm, p, config, digest, &known));
    if (known) goto done;
    if (s->kind->begin != NULL) LH_TRY(lh_agree(comm, s->kind->begin(s->kind->user, comm, config)));
    LH_TRY(lh_step_times_measure(comm, config, &wish, &times));
    if (s->kind->end != NULL) LH_TRY(s->kind->end(s->kind->user, comm, config, &times));
    if (lh_comm_rank(comm) == 0) st = scale_object(s, p, config, &times, digest);
    LH_TRY(lh_agree(comm, st));
done:
    lh_step_times_free(&times);
    lh_config_destroy(&config);
    return st;
}

/* Rank 0. */
static lh_status scale_head(lhi_scale_study *s, const lh_config *config)
{
    lh_status st = LH_OK;
    char processor[SCALE_TEXT], digest[SCALE_DIGEST];
    lh_json *j = &s->json;
    LH_TRY(scale_digest(config, true, digest));
    lh_json_begin(j);
    lh_json_string(j, "study", s->kind->command);
    lh_json_string(j, "version", LH_VERSION);
    lh_json_string(j, "precision", LH_REAL_NAME);
    lh_json_string(j, "processor", lh_host_processor(processor, sizeof processor));
    lh_json_int(j, "repeats", s->o->repeats);
    lh_json_int(j, "warmup", s->o->warmup);
    lh_json_int(j, "fewest_ranks", s->ranks.item[0]);
    lh_json_string(j, "configuration", digest);
    if (s->kind->about != NULL) LH_TRY(s->kind->about(s->kind->user, j));
    LH_TRY(lh_scale_file_open(s->o->out, j, &s->file));
done:
    return st;
}

lh_status lhi_scale_open(lhi_scale_study *s)
{
    lh_status st = LH_OK;
    lh_comm *part = NULL;
    lh_config *config = NULL;
    const lhi_scale_point first = {.ranks = (int)s->ranks.item[0], .n = s->lengths.item[0]};
    LH_TRY(lh_comm_first(s->world, first.ranks, &part));
    if (part != NULL) st = scale_load(s, part, &first, &config);
    if (st == LH_OK && config != NULL && lh_comm_rank(s->world) == 0) st = scale_head(s, config);
    LH_TRY(lh_agree(s->world, st));
done:
    lh_config_destroy(&config);
    if (part != NULL) lh_comm_destroy(&part);
    return st;
}

lh_status lhi_scale_get(lhi_scale_study *s, int attention, int64_t ranks, int64_t n, int64_t *index)
{
    lh_status st = LH_OK;
    lh_comm *part = NULL;
    for (*index = 0; *index < s->points; ++*index) {
        const lhi_scale_point *p = s->point + *index;
        if (p->attention == attention && p->ranks == ranks && p->n == n) return LH_OK;
    }
    st = lh_grow(&s->point, &s->capacity, s->points + 1, sizeof *s->point);
    LH_TRY(lh_agree(s->world, st));
    lhi_scale_point *p = s->point + s->points++;
    *p = (lhi_scale_point){.ranks = (int)ranks, .attention = attention, .n = n};
    LH_TRY(lh_comm_first(s->world, (int)ranks, &part));
    if (part != NULL) st = scale_measure(s, part, p);
    lh_barrier_asleep(s->world);
    LH_TRY(lh_agree(s->world, st));
done:
    if (part != NULL) lh_comm_destroy(&part);
    return st;
}
