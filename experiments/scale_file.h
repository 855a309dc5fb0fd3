#pragma once
/* The file in which a study of longhaul scale grows (--out): one JSON object a line, first what all its points
 * have in common, then points and fits as they come. A study that was interrupted finds there what it has.
 * All functions are local: rank 0 has the file. */
#include "io/json_read.h"
#include "io/metrics.h"

typedef struct lh_scale_file {
    const char *path;    /* borrowed */
    lh_json_item **line; /* [lines], owned; the first is the head */
    int64_t lines, capacity;
    int fd; /* 0: not open */
} lh_scale_file;

/* lh_scale_file_open - the file at `path`, which begins with `head`, a line of which every member must be the
 * same as now, or is made. What stands behind the last whole line is cut off, and said on standard error.
 * The caller closes *f, also after an error. Errors: LH_ERR_USAGE (no study, one with another head, a
 * link), LH_ERR_IO, LH_ERR_MEMORY; then the file is as it was. */
LH_NODISCARD lh_status lh_scale_file_open(const char *path, lh_json *head, lh_scale_file *f);

/* lh_scale_file_find - the first line that has all members of `wanted`, with these values; NULL: there is
 * none. Borrowed until the file is closed. */
const lh_json_item *lh_scale_file_find(const lh_scale_file *f, const lh_json_item *wanted);

/* lh_scale_file_add - one more line, handed to the system whole; nothing where the same line stands there.
 * Ends j. *added: it did not stand there. Errors: LH_ERR_IO, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_scale_file_add(lh_scale_file *f, lh_json *j, bool *added);

void lh_scale_file_close(lh_scale_file *f);
