#include "experiments/train_resume.h"

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "experiments/newest.h"

/* What is read, and what a checkpoint is compared with before. */
typedef struct resume_search {
    const lh_session *session;
    const char *path;
    const lh_config_source *source; /* of an evaluation; NULL: a training goes on */
    lh_change_list *noted;
    lh_checkpoint_info *info;
} resume_search;

/* Files are told apart by their size. */
static void resume_compare_data(const lh_session *s, const lh_checkpoint_info *info,
                                lh_change_list *broken)
{
    char was[32], is[32];
    int64_t bytes = lh_task_bytes(s->task);
    if (bytes == info->data_bytes) return;
    (void)snprintf(was, sizeof was, "%" PRId64, info->data_bytes);
    (void)snprintf(is, sizeof is, "%" PRId64, bytes);
    lh_change_add(broken, "the size of data.path in bytes", was, is);
}

static lh_status resume_accept(void *user, const lh_checkpoint_info *info)
{
    lh_status st = LH_OK;
    const resume_search *check = user;
    lh_config *was = NULL;
    lh_change_list broken = {0};
    LH_TRY(lh_checkpoint_named(check->path, info));
    st = lh_config_parse(info->config, strlen(info->config), "the checkpoint's configuration", 0,
                         &was);
    LH_TRY(lh_error_context(st, "--resume: '%s' cannot be compared with this experiment",
                            check->path));
    *check->noted = (lh_change_list){0};
    lh_config_changes(was, check->session->config, &broken, check->noted);
    resume_compare_data(check->session, info, &broken);
    if (strcmp(info->precision, LH_REAL_NAME) != 0)
        lh_change_add(check->noted, "the precision of numbers", info->precision, LH_REAL_NAME);
    LH_CHECK(broken.count == 0, LH_ERR_USAGE,
             "--resume: the configuration contradicts '%s' in %" PRId64
             " key%s:%s\nchange %s back, or "
             "start a new run from these weights with run.init",
             check->path, broken.count, broken.count == 1 ? "" : "s", broken.text,
             broken.count == 1 ? "it" : "them");
done:
    lh_config_destroy(&was);
    return st;
}

/* The configuration in a checkpoint as a file of which everything is read. */
static lh_status resume_text(void *user, const char *path, char **bytes, size_t *count)
{
    const lh_checkpoint_info *info = user;
    (void)path;
    *count = strlen(info->config);
    lh_status st = lh_new(*count + 1, bytes);
    if (st == LH_OK) memcpy(*bytes, info->config, *count);
    return st;
}

/* An edited config.yaml gives other numbers than the run's, and nobody would know why. What --set gives
 * is wanted: it is put over the checkpoint's configuration, too, before the two are compared. Rank 0
 * alone compares, and an evaluation that cannot be compared goes on. */
static void resume_note(const resume_search *check, const lh_checkpoint_info *info)
{
    lh_config *was = NULL;
    lh_change_list list = {0};
    lh_config_source source = *check->source;
    source.read = resume_text;
    source.user = (void *)(uintptr_t)info;
    source.path = "the checkpoint's configuration";
    if (lh_config_load(&source, &was) != LH_OK) {
        (void)fprintf(stderr, "longhaul: note: %s cannot be compared with '%s': %s\n",
                      check->source->path, check->path, lh_error_text());
        return;
    }
    lh_config_other_model(was, check->session->config, &list);
    if (list.count > 0)
        (void)fprintf(stderr,
                      "longhaul: note: %s is followed, but '%s' was trained with something else in "
                      "%" PRId64 " key%s that --set does not give:%s\n",
                      check->source->path, check->path, list.count, list.count == 1 ? "" : "s",
                      list.text);
    lh_config_destroy(&was);
}

static lh_status resume_accept_weights(void *user, const lh_checkpoint_info *info)
{
    const resume_search *check = user;
    lh_status st = lh_checkpoint_named(check->path, info);
    if (st == LH_OK && lh_comm_rank(check->session->world) == 0) resume_note(check, info);
    return st;
}

static lh_status resume_read(void *user, const char *path)
{
    resume_search *r = user;
    r->path = path;
    bool evaluates = r->source != NULL;
    return lh_checkpoint_read_if(
        r->session->mesh, path, evaluates ? LH_CHECKPOINT_WEIGHTS : LH_CHECKPOINT_ALL,
        r->session->params, evaluates ? resume_accept_weights : resume_accept, r, r->info);
}

/* What was passed over may be readable again some day. By then this run has done those steps in another
 * way, and metrics and checkpoints of two histories would mix. */
static lh_status resume_leave(const lh_session *s, const char *folder, int64_t step)
{
    lh_status st = LH_OK;
    int64_t left = 0;
    LH_TRY(lh_checkpoint_leave(s->world, folder, step, &left));
    if (left > 0 && lh_comm_rank(s->world) == 0)
        (void)fprintf(stderr,
                      "longhaul: the run goes on after step %" PRId64 ": %" PRId64
                      " later checkpoint%s passed over %s called .h5.bad from now on\n",
                      step, left, left == 1 ? "" : "s", left == 1 ? "is" : "are");
done:
    return st;
}

lh_status lhi_resume_newest(lh_session *s, const char *folder, lh_change_list *noted,
                            lh_checkpoint_info *info, bool *found)
{
    lh_status st = LH_OK;
    resume_search r = {.session = s, .noted = noted, .info = info};
    LH_TRY(lh_newest_take(s->world, folder, resume_read, &r, found));
    if (*found && info->step < s->config->schedule.steps)
        LH_TRY(resume_leave(s, folder, info->step));
done:
    return st;
}

lh_status lhi_resume_weights(lh_session *s, const char *folder, const lh_config_source *source,
                             lh_checkpoint_info *info, bool *found)
{
    resume_search r = {.session = s, .source = source, .info = info};
    return lh_newest_take(s->world, folder, resume_read, &r, found);
}
