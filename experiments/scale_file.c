#include "experiments/scale_file.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/files.h"

enum { FILE_SHOWN = 80 };

/* Takes the line from *item. */
static lh_status file_keep(lh_scale_file *f, lh_json_item **item)
{
    lh_status st = lh_grow(&f->line, &f->capacity, f->lines + 1, sizeof *f->line);
    if (st != LH_OK) return st;
    f->line[f->lines++] = *item;
    *item = NULL;
    return LH_OK;
}

/* The object that j holds, which ends it: as it is read, and as a line of j->text [j->length + 1]. */
static lh_status file_item(lh_json *j, lh_json_item **item)
{
    lh_status st = LH_OK;
    const char *text = NULL;
    LH_TRY(lh_json_text(j, &text));
    LH_TRY(lh_json_read(text, (size_t)j->length, item));
    j->text[j->length] = '\n'; /* lh_json_text has made room for its closing NUL */
done:
    return st;
}

/* All whole lines of text [count]; *whole: bytes up to the end of the last one. */
static lh_status file_parse(lh_scale_file *f, const char *text, size_t count, size_t *whole)
{
    lh_status st = LH_OK;
    lh_json_item *item = NULL;
    const char *end = NULL;
    for (*whole = 0; (end = memchr(text + *whole, '\n', count - *whole)) != NULL;
         *whole = (size_t)(end - text) + 1) {
        st = lh_json_read(text + *whole, (size_t)(end - text) - *whole, &item);
        if (st == LH_ERR_FORMAT) st = LH_ERR_USAGE; /* the file was named by the user */
        LH_TRY(lh_error_context(st, "%s:%" PRId64, f->path, f->lines + 1));
        LH_TRY(file_keep(f, &item));
    }
done:
    lh_json_release(&item);
    return st;
}

/* Is it this study's? */
static lh_status file_check(const lh_scale_file *f, const lh_json_item *head)
{
    lh_status st = LH_OK;
    LH_CHECK(lh_json_word(f->line[0], "study") != NULL, LH_ERR_USAGE,
             "'%s' is no file that a study has written: name another one, or one that does not "
             "exist",
             f->path);
    for (lh_json_member m = {0}; lh_json_next(head, &m);) {
        char was[FILE_SHOWN], is[FILE_SHOWN];
        const lh_json_item *old = lh_json_find(f->line[0], m.key);
        LH_CHECK(lh_json_same(old, m.item), LH_ERR_USAGE,
                 "'%s' holds a study with %s %s, and this is one with %s: name another file, or "
                 "study the same",
                 f->path, m.key, lh_json_show(old, was, sizeof was),
                 lh_json_show(m.item, is, sizeof is));
    }
done:
    return st;
}

static lh_status file_cut(const lh_scale_file *f, size_t whole)
{
    (void)fprintf(stderr, "%s: the last line is torn and is cut off\n", f->path);
    if (ftruncate(f->fd, (off_t)whole) == 0) return LH_OK;
    return LH_RAISE(LH_ERR_IO, "cannot cut the torn last line of '%s'", f->path);
}

lh_status lh_scale_file_open(const char *path, lh_json *head, lh_scale_file *f)
{
    lh_status st = LH_OK;
    lh_json_item *item = NULL;
    char *text = NULL;
    size_t count = 0, whole = 0;
    *f = (lh_scale_file){.path = path};
    LH_TRY(file_item(head, &item));
    if (lh_file_exists(NULL, path)) LH_TRY(lh_read_small(NULL, path, &text, &count));
    if (count > 0) LH_TRY(file_parse(f, text, count, &whole));
    LH_CHECK(f->lines > 0 || count == 0, LH_ERR_USAGE,
             "'%s' is no file that a study has written: name another one, or one that does not "
             "exist",
             path);
    if (f->lines > 0) LH_TRY(file_check(f, item));
    if (f->lines == 0) {
        LH_TRY(lh_write_small(NULL, path, head->text, (size_t)head->length + 1));
        LH_TRY(file_keep(f, &item));
    }
    LH_TRY(lhi_file_append(path, &f->fd));
    if (whole < count) LH_TRY(file_cut(f, whole));
done:
    lh_free(&text);
    lh_json_release(&item);
    return st;
}

const lh_json_item *lh_scale_file_find(const lh_scale_file *f, const lh_json_item *wanted)
{
    for (int64_t i = 0; i < f->lines; i++) {
        bool same = true;
        for (lh_json_member m = {0}; same && lh_json_next(wanted, &m);) {
            const lh_json_item *has = lh_json_find(f->line[i], m.key);
            same = has != NULL && lh_json_same(has, m.item);
        }
        if (same) return f->line[i];
    }
    return NULL;
}

lh_status lh_scale_file_add(lh_scale_file *f, lh_json *j, bool *added)
{
    lh_status st = LH_OK;
    lh_json_item *item = NULL;
    LH_TRY(file_item(j, &item));
    *added = lh_scale_file_find(f, item) == NULL;
    if (!*added) goto done;
    LH_TRY(lhi_write_all(f->fd, f->path, j->text, (size_t)j->length + 1));
    LH_TRY(lhi_file_sync(f->path));
    LH_TRY(file_keep(f, &item));
done:
    lh_json_release(&item);
    return st;
}

void lh_scale_file_close(lh_scale_file *f)
{
    for (int64_t i = 0; i < f->lines; i++) lh_json_release(&f->line[i]);
    lh_free(&f->line);
    if (f->fd > 0) (void)close(f->fd);
    *f = (lh_scale_file){0};
}
