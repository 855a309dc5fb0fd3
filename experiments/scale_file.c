#include "experiments/scale_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/claim.h"
#include "io/files.h"

enum { FILE_SHOWN = 80 };

lh_status lhi_scale_item(lh_json *j, lh_json_item **item)
{
    const char *text = NULL;
    lh_status st = lh_json_text(j, &text);
    return st == LH_OK ? lh_json_read(text, strlen(text), item) : st;
}

/* Takes the line from *item. */
static lh_status file_keep(lh_scale_file *f, lh_json_item **item)
{
    lh_status st = lh_grow(&f->line, &f->capacity, f->lines + 1, sizeof *f->line);
    if (st != LH_OK) return st;
    f->line[f->lines++] = *item;
    *item = NULL;
    return LH_OK;
}

/* Reads all of the file by its own descriptor: to close another one would end the lock. */
static lh_status file_read(lh_scale_file *f, char **text)
{
    lh_status st = LH_OK;
    struct stat about;
    *text = NULL;
    if (fstat(f->fd, &about) != 0) return lhi_file_error("read", f->path);
    LH_CHECK(S_ISREG(about.st_mode), LH_ERR_USAGE,
             "'%s' is no ordinary file: results go into one that grows and is read again", f->path);
    LH_TRY(lh_new((size_t)about.st_size + 1, text));
    while (f->size < about.st_size) {
        ssize_t n = pread(f->fd, *text + f->size, (size_t)(about.st_size - f->size), f->size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) LH_TRY(lhi_file_error("read", f->path));
        if (n == 0) break;
        f->size += n;
    }
done:
    return st;
}

/* A last line without its end, as editors leave it, counts when it is whole. */
static lh_status file_last(lh_scale_file *f, const char *text)
{
    lh_json_item *item = NULL;
    if (f->whole == f->size) return LH_OK;
    lh_status st = lh_json_read(text + f->whole, (size_t)(f->size - f->whole), &item);
    if (st == LH_ERR_FORMAT) {
        lh_error_clear();
        return LH_OK;
    }
    if (st == LH_OK) st = file_keep(f, &item);
    lh_json_release(&item);
    if (st != LH_OK) return st;
    f->whole = f->size;
    f->open_end = true;
    return LH_OK;
}

/* All whole lines of text [f->size]. */
static lh_status file_parse(lh_scale_file *f, const char *text)
{
    lh_status st = LH_OK;
    lh_json_item *item = NULL;
    const char *end = NULL;
    for (int64_t number = 1; (end = memchr(text + f->whole, '\n', (size_t)(f->size - f->whole)));
         f->whole = end - text + 1, number++) {
        size_t n = (size_t)(end - text - f->whole);
        if (strspn(text + f->whole, " \t\r") >= n) continue;
        st = lh_json_read(text + f->whole, n, &item);
        if (st == LH_ERR_FORMAT) st = LH_ERR_USAGE; /* the file was named by the user */
        LH_TRY(lh_error_context(st, "%s:%" PRId64, f->path, number));
        LH_TRY(file_keep(f, &item));
    }
    LH_TRY(file_last(f, text));
done:
    lh_json_release(&item);
    return st;
}

/* Is it this study's? */
static lh_status file_check(const lh_scale_file *f, const lh_json_item *head)
{
    lh_status st = LH_OK;
    LH_CHECK(f->lines > 0 && lh_json_word(f->line[0], "study") != NULL, LH_ERR_USAGE,
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

static lh_status file_lock(lh_scale_file *f)
{
    f->fd = open(f->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    if (f->fd < 0) return lhi_file_error("write", f->path);
    if (lhi_claim_lock(f->fd)) return LH_OK;
    return LH_RAISE(LH_ERR_USAGE,
                    "'%s' is being written by another study: wait until it ends, or "
                    "name another file",
                    f->path);
}

lh_status lh_scale_file_open(const char *path, lh_json *head, lh_scale_file *f)
{
    lh_status st = LH_OK;
    lh_json_item *item = NULL;
    char *text = NULL;
    *f = (lh_scale_file){.path = path, .fd = -1};
    LH_TRY(lhi_scale_item(head, &item));
    const char *line = head->text;
    LH_TRY(file_lock(f));
    LH_TRY(file_read(f, &text));
    if (text != NULL) LH_TRY(file_parse(f, text));
    /* one that is empty, or whose head was torn, is as good as none */
    if (f->lines > 0 || (text != NULL && strncmp(text, line, (size_t)f->size) != 0)) {
        LH_TRY(file_check(f, item));
    } else {
        LH_TRY(lh_new_text(line, &f->head));
        LH_TRY(file_keep(f, &item));
    }
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

/* One line, with whatever is missing before it. */
static lh_status file_write(lh_scale_file *f, const char *line)
{
    lh_status st = LH_OK;
    if (f->whole < f->size) {
        (void)fprintf(stderr, "%s: the last line is torn and is cut off\n", f->path);
        if (ftruncate(f->fd, (off_t)f->whole) != 0) LH_TRY(lhi_file_error("cut", f->path));
        f->size = f->whole;
    }
    if (f->open_end) LH_TRY(lhi_write_all(f->fd, f->path, "\n", 1));
    f->open_end = false;
    LH_TRY(lhi_write_all(f->fd, f->path, line, strlen(line)));
    LH_TRY(lhi_write_all(f->fd, f->path, "\n", 1));
done:
    return st;
}

lh_status lh_scale_file_add(lh_scale_file *f, lh_json *j, bool *added)
{
    lh_status st = LH_OK;
    lh_json_item *item = NULL;
    LH_TRY(lhi_scale_item(j, &item));
    *added = lh_scale_file_find(f, item) == NULL;
    if (!*added) goto done;
    if (f->head != NULL) LH_TRY(file_write(f, f->head));
    lh_free(&f->head);
    LH_TRY(file_write(f, j->text));
    if (fsync(f->fd) != 0) LH_TRY(lhi_file_error("sync", f->path));
    LH_TRY(file_keep(f, &item));
done:
    lh_json_release(&item);
    return st;
}

void lh_scale_file_close(lh_scale_file *f)
{
    for (int64_t i = 0; i < f->lines; i++) lh_json_release(&f->line[i]);
    lh_free(&f->line);
    lh_free(&f->head);
    if (f->path != NULL && f->fd >= 0) (void)close(f->fd);
    *f = (lh_scale_file){0};
}
