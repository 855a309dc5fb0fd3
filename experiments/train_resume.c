#include "experiments/train_resume.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "experiments/newest.h"

/* What is read, and what a checkpoint is compared with before. */
typedef struct resume_search {
    const lh_session *session;
    lh_checkpoint_what what;
    const char *path;
    lh_change_list *noted; /* NULL: weights alone are read, by another experiment too */
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
    if (check->noted == NULL) goto done;
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

static lh_status resume_read(void *user, const char *path)
{
    resume_search *r = user;
    r->path = path;
    return lh_checkpoint_read_if(r->session->mesh, path, r->what, r->session->params, resume_accept,
                                 r, r->info);
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

lh_status lhi_resume_newest(lh_session *s, const char *folder, lh_checkpoint_what what,
                            lh_change_list *noted, lh_checkpoint_info *info, bool *found)
{
    lh_status st = LH_OK;
    resume_search r = {.session = s, .what = what, .noted = noted, .info = info};
    LH_TRY(lh_newest_take(s->world, folder, resume_read, &r, found));
    if (*found && what == LH_CHECKPOINT_ALL && info->step < s->config->schedule.steps)
        LH_TRY(resume_leave(s, folder, info->step));
done:
    return st;
}
