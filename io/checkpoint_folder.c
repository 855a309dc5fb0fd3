/* The folder of checkpoints: what names mean, which one is the newest, and what is too old. */
#include "io/checkpoint_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { name_digits = 8 };

static const char left_tail[] = ".h5.bad";

/* The step that "step-NNNNNNNN" + tail names, or -1: also for names that we would not give, which
 * would stand for other files. */
static int64_t name_step(const char *name, const char *tail)
{
    if (strncmp(name, "step-", 5) != 0) return -1;
    size_t digits = strspn(name + 5, "0123456789");
    if (digits < name_digits || digits > 18 || strcmp(name + 5 + digits, tail) != 0) return -1;
    if (digits > name_digits && name[5] == '0') return -1;
    return strtoll(name + 5, NULL, 10);
}

lh_status lhi_checkpoint_path(char path[LH_PATH_MAX], const char *folder, int64_t step,
                              const char *tail)
{
    char name[64];
    (void)snprintf(name, sizeof name, "step-%0*lld%s", (int)name_digits, (long long)step, tail);
    return lhi_path(path, folder, name);
}

static int name_compare(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;
    return *x < *y ? 1 : *x > *y ? -1 : 0;
}

/* The steps of a folder, newest first. Local; the caller frees *steps. */
static lh_status name_list(const char *folder, const char *tail, int64_t **steps, int64_t *count)
{
    lh_status st = LH_OK;
    char *names = NULL;
    int64_t all = 0;
    *steps = NULL;
    *count = 0;
    LH_TRY(lh_folder_list(NULL, folder, &names, &all));
    LH_TRY(lh_new((size_t)all * sizeof **steps, steps));
    const char *name = names;
    for (int64_t i = 0; i < all; i++, name += strlen(name) + 1) {
        int64_t step = name_step(name, tail);
        if (step >= 0) (*steps)[(*count)++] = step;
    }
    qsort(*steps, (size_t)*count, sizeof **steps, name_compare);
done:
    lh_free(&names);
    return st;
}

/* Removes the file that this step names; a folder of that name is somebody else's. Local. */
static lh_status name_remove(const char *folder, int64_t step, const char *tail)
{
    lh_status st = LH_OK;
    char path[LH_PATH_MAX];
    struct stat info;
    LH_TRY(lhi_checkpoint_path(path, folder, step, tail));
    if (lstat(path, &info) == 0 && !S_ISDIR(info.st_mode)) LH_TRY(lh_file_remove(NULL, path));
done:
    return st;
}

/* Removes all files up to `step` that have this tail. Local. */
static lh_status folder_clear(const char *folder, int64_t step, const char *tail)
{
    lh_status st = LH_OK;
    int64_t *steps = NULL, count = 0;
    LH_TRY(name_list(folder, tail, &steps, &count));
    for (int64_t i = 0; i < count; i++)
        if (steps[i] <= step) LH_TRY(name_remove(folder, steps[i], tail));
done:
    lh_free(&steps);
    return st;
}

lh_status lhi_checkpoint_sweep(const char *folder)
{
    return folder_clear(folder, INT64_MAX, ".h5.tmp");
}

lh_status lh_checkpoint_named(const char *path, const lh_checkpoint_info *info)
{
    lh_status st = LH_OK;
    const char *slash = strrchr(path, '/');
    int64_t step = name_step(slash != NULL ? slash + 1 : path, ".h5");
    LH_CHECK(step < 0 || step == info->step, LH_ERR_FORMAT,
             "'%s' is of step %lld, not of the one in its name: a copy or a link; give it another "
             "name",
             path, (long long)info->step);
done:
    return st;
}

lh_status lh_checkpoint_left(lh_comm *comm, const char *path)
{
    lh_status st = LH_OK;
    char bad[LH_PATH_MAX + 8];
    (void)snprintf(bad, sizeof bad, "%s.bad", path);
    LH_CHECK(!lh_file_exists(comm, bad), LH_ERR_FORMAT,
             "'%s' is of a history that the run has left, as '%s' shows: remove that to take it "
             "all the same",
             path, bad);
done:
    return st;
}

lh_status lh_checkpoint_leave(lh_comm *comm, const char *folder, int64_t step, int64_t *left)
{
    lh_status st = LH_OK;
    char from[LH_PATH_MAX], to[LH_PATH_MAX];
    int64_t *steps = NULL, count = 0;
    struct stat info;
    *left = 0;
    if (!lhi_lead(comm)) goto done;
    LH_TRY(name_list(folder, ".h5", &steps, &count));
    for (int64_t i = 0; i < count && steps[i] > step; i++) {
        LH_TRY(lhi_checkpoint_path(from, folder, steps[i], ".h5"));
        LH_TRY(lhi_checkpoint_path(to, folder, steps[i], left_tail));
        if (lstat(from, &info) != 0 || S_ISDIR(info.st_mode)) continue; /* somebody else's */
        LH_TRY(lhi_file_move(from, to));
        ++*left;
    }
done:
    lh_free(&steps);
    st = lh_files_agree(comm, st);
    if (st == LH_OK && comm != NULL) lh_broadcast(comm, left, (int64_t)sizeof *left, LH_SEND_OTHER);
    return st;
}

lh_status lhi_checkpoint_written(const char *folder, int64_t step)
{
    return name_remove(folder, step, left_tail);
}

lh_status lh_checkpoint_newest(lh_comm *comm, const char *folder, int64_t index, char *path,
                               size_t bytes, bool *found)
{
    lh_status st = LH_OK;
    char full[LH_PATH_MAX] = "";
    int64_t *steps = NULL, count = 0;
    path[0] = '\0';
    *found = false;
    if (lhi_lead(comm)) {
        LH_TRY(name_list(folder, ".h5", &steps, &count));
        if (index >= 0 && index < count)
            LH_TRY(lhi_checkpoint_path(full, folder, steps[index], ".h5"));
    }
    LH_CHECK(bytes > strlen(full), LH_ERR_BUG, "'%s' does not fit into %zu bytes", full, bytes);
done:
    lh_free(&steps);
    st = lh_files_agree(comm, st);
    if (st != LH_OK) return st;
    if (comm != NULL) lh_broadcast(comm, full, (int64_t)sizeof full, LH_SEND_OTHER);
    (void)snprintf(path, bytes, "%s", full);
    *found = full[0] != '\0';
    return LH_OK;
}

/* The steps of the folder up to `step`, newest first, on all ranks. Later ones are of a history that
 * the run has left; they do not count. Collective; agreed errors. The caller frees *steps. */
static lh_status folder_steps(lh_comm *world, const char *folder, int64_t step, int64_t **steps,
                              int64_t *count)
{
    lh_status st = LH_OK;
    int64_t all = 0, n = 0;
    bool lead = lh_comm_rank(world) == 0;
    *count = 0;
    if (lead) st = name_list(folder, ".h5", steps, &all);
    LH_TRY(lh_agree(world, st));
    for (int64_t i = 0; i < all; i++)
        if ((*steps)[i] <= step) (*steps)[n++] = (*steps)[i];
    lh_broadcast(world, &n, (int64_t)sizeof n, LH_SEND_OTHER);
    if (!lead) st = lh_new((size_t)n * sizeof **steps, steps);
    LH_TRY(lh_agree(world, st));
    lh_broadcast(world, *steps, n * (int64_t)sizeof **steps, LH_SEND_OTHER);
    *count = n;
done:
    return st;
}

/* Is this file one that its name promises, and whole? Collective; agreed errors. */
static lh_status folder_sound(lh_comm *world, const char *path)
{
    lh_checkpoint_info info = {0};
    lh_status st = lh_checkpoint_left(world, path);
    if (st == LH_OK) st = lh_checkpoint_info_read(world, path, &info);
    if (st == LH_OK) st = lh_checkpoint_named(path, &info);
    lh_checkpoint_info_free(&info);
    return st;
}

lh_status lhi_checkpoint_prune(lh_comm *world, const char *folder, int64_t step, int64_t keep)
{
    lh_status st = LH_OK;
    char path[LH_PATH_MAX];
    int64_t *steps = NULL, count = 0, whole = 0, i = 0;
    LH_TRY(folder_steps(world, folder, step, &steps, &count));
    if (steps == NULL || count <= keep) goto done;
    for (; i < count && whole < keep; i++) {
        LH_TRY(lh_agree(world, lhi_checkpoint_path(path, folder, steps[i], ".h5")));
        if (steps[i] != step) st = folder_sound(world, path);
        whole += st == LH_OK;
        if (st == LH_ERR_FORMAT || st == LH_ERR_IO) st = LH_OK; /* it does not count */
        LH_TRY(st);
    }
    if (i < count && lh_comm_rank(world) == 0) {
        st = folder_clear(folder, steps[i], ".h5");
        if (st == LH_OK) st = folder_clear(folder, steps[i], left_tail);
    }
    st = lh_agree(world, st);
done:
    lh_free(&steps);
    return st;
}
