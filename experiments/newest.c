#include "experiments/newest.h"

#include "io/checkpoint.h"

#include <stdio.h>
#include <string.h>

/* A run that keeps one checkpoint and writes them faster than they are opened changes its folder at most
 * of the tries, not at this many in a row. */
enum { NEWEST_TRIES = 100 };

typedef struct newest_search {
    lh_comm *comm;
    const char *folder;
    lh_status (*read)(void *user, const char *path);
    void *user;
    bool taken;
} newest_search;

/* Is `path` ("": none) no longer the checkpoint of this index? Collective. */
static lh_status newest_changed(const newest_search *s, int64_t index, const char *path,
                                bool *changed)
{
    char now[LH_PATH_MAX];
    bool found = false;
    lh_status st = lh_checkpoint_newest(s->comm, s->folder, index, now, sizeof now, &found);
    if (st == LH_OK) *changed = strcmp(now, path) != 0;
    return st;
}

/* All checkpoints once, newest first. *count: how many were tried; *changed: others are there now. */
static lh_status newest_round(newest_search *s, int64_t *count, bool *changed)
{
    lh_status st = LH_OK;
    char path[LH_PATH_MAX], first[LH_PATH_MAX] = "";
    bool found = true;
    *changed = false;
    for (*count = 0;; ++*count) {
        LH_TRY(lh_checkpoint_newest(s->comm, s->folder, *count, path, sizeof path, &found));
        if (!found) break;
        if (*count == 0) memcpy(first, path, sizeof first);
        st = lh_checkpoint_left(s->comm, path);
        if (st == LH_OK) st = s->read(s->user, path);
        s->taken = st == LH_OK;
        if (st != LH_ERR_FORMAT && st != LH_ERR_IO) goto done;
        bool damaged = st == LH_ERR_FORMAT;
        char text[LH_ERROR_TEXT_MAX];
        (void)snprintf(text, sizeof text, "%s", lh_error_text());
        LH_TRY(newest_changed(s, *count, path, changed));
        if (*changed) goto done;
        if (lhi_lead(s->comm))
            (void)fprintf(stderr, "longhaul: passing over a%s checkpoint: %s\n",
                          damaged ? " damaged" : "n unreadable", text);
    }
    st = newest_changed(s, 0, first, changed);
done:
    return st;
}

lh_status lh_newest_take(lh_comm *comm, const char *folder,
                         lh_status (*read)(void *user, const char *path), void *user, bool *found)
{
    lh_status st = LH_OK;
    newest_search s = {.comm = comm, .folder = folder, .read = read, .user = user};
    int64_t count = 0;
    bool changed = true;
    for (int i = 0; i < NEWEST_TRIES && changed && !s.taken; i++)
        LH_TRY(newest_round(&s, &count, &changed));
    LH_CHECK(s.taken || !changed, LH_ERR_IO,
             "the checkpoints in '%s' come and go faster than they can be read: try again, or copy "
             "one and name it",
             folder);
    LH_CHECK(s.taken || count == 0, LH_ERR_FORMAT, "no checkpoint in '%s' is whole", folder);
    *found = s.taken;
done:
    return st;
}
