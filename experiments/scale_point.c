/* Points of a study: measured, or taken from its file. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "experiments/bench_internal.h"
#include "experiments/scale_internal.h"
#include "io/digest.h"
#include "io/files.h"

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

/* The object that is in s->json, which ends it. */
static lh_status scale_item(lhi_scale_study *s, lh_json_item **item)
{
    const char *text = NULL;
    lh_status st = lh_json_text(&s->json, &text);
    return st == LH_OK ? lh_json_read(text, strlen(text), item) : st;
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
    lh_status st = scale_item(s, &p->own);
    p->object = p->own;
    return st;
}

/* Takes a point from the file, if it stands there. Rank 0. */
static lh_status scale_take(lhi_scale_study *s, lhi_scale_point *p, const char *digest)
{
    lh_status st = LH_OK;
    lh_json_item *wanted = NULL;
    scale_name(s, p, &s->json);
    LH_TRY(scale_item(s, &wanted));
    const lh_json_item *found = lh_scale_file_find(&s->file, wanted);
    if (found == NULL) goto done;
    const char *was = lh_json_word(found, "configuration");
    LH_CHECK(was != NULL && strcmp(was, digest) == 0, LH_ERR_USAGE,
             "'%s' holds a study with another configuration (its point of n %" PRId64
             " on %d ranks has digest %s, now it is %s): name another file, or study the same",
             s->file.path, p->n, p->ranks, was != NULL ? was : "none", digest);
    p->object = found;
    (void)fprintf(stderr, "%s: ranks %d, n %" PRId64 " stands in '%s'\n", s->kind->command,
                  p->ranks, p->n, s->file.path);
done:
    lh_json_release(&wanted);
    return st;
}

/* All that the file and the options say. */
static lh_status scale_digest(const lh_config *config, char digest[SCALE_DIGEST])
{
    char *text = NULL;
    lh_status st = lh_config_emit(config, &text);
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
    lh_status st = LH_OK;
    lh_option_words set = s->o->overrides;
    char length[SCALE_LENGTH], attention[SCALE_TEXT];
    const char *word = scale_attention(s, p->attention);
    LH_CHECK(set.count + 2 <= LH_OPTION_MANY, LH_ERR_USAGE, "%s: too many --set", s->kind->command);
    (void)snprintf(length, sizeof length, "data.length=%" PRId64, p->n);
    set.word[set.count++] = length;
    if (word != NULL) {
        int n = snprintf(attention, sizeof attention,
                         word[0] == '{' || word[0] == '[' ? "model.attention=%s"
                                                          : "model.attention={mechanism: %s}",
                         word);
        LH_CHECK(n > 0 && n < (int)sizeof attention, LH_ERR_USAGE,
                 "%s: --attention '%.40s...' is too long", s->kind->command, word);
        set.word[set.count++] = attention;
    }
    const lh_config_source source = {.read = lh_read_small,
                                     .path = s->o->file,
                                     .overrides = set.word,
                                     .n_overrides = set.count,
                                     .flags = LH_CONFIG_PLAN};
    LH_TRY(lh_step_times_config(comm, &source, config));
done:
    return st;
}

/* Does the point stand in the file? Collective on comm, the ranks of the point. */
static lh_status scale_known(lhi_scale_study *s, lh_comm *comm, lhi_scale_point *p,
                             const char *digest, bool *known)
{
    lh_status st = LH_OK;
    if (lh_comm_rank(comm) == 0 && s->o->out != NULL) st = scale_take(s, p, digest);
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
    LH_TRY(lh_agree(comm, scale_digest(config, digest)));
    LH_TRY(scale_known(s, comm, p, digest, &known));
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
