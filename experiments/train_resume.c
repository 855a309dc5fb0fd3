#include "experiments/train_resume.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "io/files.h"

/* What a checkpoint is compared with before it is read. */
typedef struct resume_check {
    const lh_session *session;
    const char *path;
    lh_change_list *noted; /* NULL: weights alone are read, by another experiment too */
} resume_check;

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
    resume_check *check = user;
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

/* A checkpoint that is not whole, or that nobody may read, is passed over after saying so; other errors
 * stay. */
static lh_status resume_pass_over(const lh_comm *world, lh_status st)
{
    if (st != LH_ERR_FORMAT && st != LH_ERR_IO) return st;
    if (lh_comm_rank(world) == 0)
        (void)fprintf(stderr, "longhaul: passing over a%s checkpoint: %s\n",
                      st == LH_ERR_FORMAT ? " damaged" : "n unreadable", lh_error_text());
    return LH_OK;
}

lh_status lhi_resume_newest(lh_session *s, const char *folder, lh_checkpoint_what what,
                            lh_change_list *noted, lh_checkpoint_info *info, bool *found)
{
    lh_status st = LH_OK;
    char path[LH_PATH_MAX];
    bool exists = true;
    resume_check check = {s, path, noted};
    *found = false;
    for (int64_t i = 0; !*found && exists; i++) {
        LH_TRY(lh_checkpoint_newest(s->world, folder, i, path, sizeof path, &exists));
        LH_CHECK(exists || i == 0, LH_ERR_FORMAT, "no checkpoint in '%s' is whole", folder);
        if (!exists) continue;
        st = lh_checkpoint_read_if(s->mesh, path, what, s->params, resume_accept, &check, info);
        *found = st == LH_OK;
        LH_TRY(resume_pass_over(s->world, st));
    }
done:
    return st;
}
