#pragma once
/* The file in which a study of longhaul scale grows (--out): one JSON object a line, first what all its points
 * have in common, then points and fits as they come. A study that was interrupted finds there what it has.
 * While it is open it is locked. All functions are local: rank 0 has the file. */
#include "io/json_read.h"
#include "io/metrics.h"

typedef struct lh_scale_file {
    const char *path;    /* borrowed */
    lh_json_item **line; /* [lines], owned; the first is the head */
    int64_t lines, capacity;
    char *head;          /* its line, until it stands there; owned */
    int64_t whole, size; /* bytes that count, and that there are */
    bool open_end;       /* the last line that counts lacks its end */
    int fd;
} lh_scale_file;

/* lhi_scale_item - what j holds, as it is read; ends j. The caller releases *item. Errors: LH_ERR_FORMAT (deeper than
 * LH_JSON_DEPTH), LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_scale_item(lh_json *j, lh_json_item **item);

/* lh_scale_file_open - the file at `path`, whose first line must have every member of `head`, with the same
 * value; one that is missing is made, empty. What stands behind the last whole line does not count. Ends
 * head. The caller closes *f, also after an error. Errors: LH_ERR_USAGE (no ordinary file, no study, one
 * with another head, another process writes it), LH_ERR_IO (a link, no permission), LH_ERR_MEMORY; then the
 * file is as it was. */
LH_NODISCARD lh_status lh_scale_file_open(const char *path, lh_json *head, lh_scale_file *f);

/* lh_scale_file_find - the first line that has all members of `wanted`, with these values; NULL: there is
 * none. Borrowed until the file is closed. */
const lh_json_item *lh_scale_file_find(const lh_scale_file *f, const lh_json_item *wanted);

/* lh_scale_file_add - one more line, on disk when it returns; nothing where the same line stands there. What
 * does not count is cut off first, and said on standard error. Ends j. *added: it did not stand there.
 * Errors: LH_ERR_IO, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_scale_file_add(lh_scale_file *f, lh_json *j, bool *added);

/* lh_scale_file_close - accepts {0}. */
void lh_scale_file_close(lh_scale_file *f);
