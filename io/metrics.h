#pragma once
/* JSON text, the metrics of a run (metrics.jsonl, one JSON object per line) and its log (log.txt).
 *
 * The JSON builder is local: keys in the order given, numbers with 9 significant digits (17 in the
 * double build), numbers that are not finite as null, strings escaped, bytes that are no UTF-8 as
 * U+FFFD. An error (no memory, wrong nesting) is kept and returned by lh_json_text, so that calls
 * need no check one by one:
 *
 *     lh_json_begin(&line);
 *     lh_json_string(&line, "event", "train");
 *     lh_json_int(&line, "step", 1);
 *     LH_TRY(lh_json_text(&line, &text));                            {"event":"train","step":1} */
#include "parallel/comm.h"

#include <stdio.h>

enum { LH_JSON_DEPTH = 16 };

typedef struct lh_json {
    char *text; /* owned; lh_json_free */
    int64_t length, capacity;
    int depth;
    char closing[LH_JSON_DEPTH];
    bool first[LH_JSON_DEPTH];
    lh_status st;
} lh_json;

/* lh_json_begin - an empty object; what an earlier one allocated is used again. Local. Start with
 * {0}. */
void lh_json_begin(lh_json *j);

/* lh_json_real, ... - one member. key: NULL inside an array. Local. */
void lh_json_real(lh_json *j, const char *key, double value);
void lh_json_int(lh_json *j, const char *key, int64_t value);
void lh_json_bool(lh_json *j, const char *key, bool value);
void lh_json_string(lh_json *j, const char *key, const char *value);
void lh_json_ints(lh_json *j, const char *key, const int64_t *values, int64_t count);
void lh_json_reals(lh_json *j, const char *key, const double *values, int64_t count);

/* lh_json_node - a member that says what a node of YAML says: numbers, true, false and null where they are
 * written plain, else texts. Numbers have the fewest digits that read back as the same. At most
 * LH_JSON_DEPTH deep. Local. */
struct lh_node;
void lh_json_node(lh_json *j, const char *key, const struct lh_node *node);

/* lh_json_copy - a member that says what was read (json_read.h) says. Local. LH_ERR_FORMAT is kept: it is
 * deeper than LH_JSON_DEPTH. */
struct json_t;
void lh_json_copy(lh_json *j, const char *key, const struct json_t *item);

/* lhi_json_shortest - the shortest decimal number that reads back as x. Local. */
enum { LHI_JSON_NUMBER = 40 };
void lhi_json_shortest(double x, char text[LHI_JSON_NUMBER]);

/* lh_json_object, lh_json_array - open a member that holds members; lh_json_close ends the
 * innermost. Local. */
void lh_json_object(lh_json *j, const char *key);
void lh_json_array(lh_json *j, const char *key);
void lh_json_close(lh_json *j);

/* lh_json_text - end the outermost object; *text (no newline) is borrowed until the next call on j.
 * Local. Errors: LH_ERR_MEMORY, LH_ERR_BUG (something is still open, or was closed too often);
 * local. */
LH_NODISCARD lh_status lh_json_text(lh_json *j, const char **text);

/* lh_json_print - the same, and the line to `out` at once. Local. Errors: as lh_json_text; LH_ERR_IO (out
 * takes no more). */
LH_NODISCARD lh_status lh_json_print(lh_json *j, FILE *out);

void lh_json_free(lh_json *j);

typedef struct lh_metrics lh_metrics;

/* lh_metrics_open - folder/metrics.jsonl for appending. resume_step < 0: a new run; metrics that
 * lie there are moved aside to metrics-1.jsonl (-2, ...: the next free number). resume_step = S:
 * lines with "step" > S are moved to such a file, the others stay; a line that is torn or no JSON
 * object goes with them, a line without step with the line before. Collective on comm. The caller
 * closes *out. Errors: agreed LH_ERR_IO, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_metrics_open(lh_comm *comm, const char *folder, int64_t resume_step,
                                       lh_metrics **out);

/* lh_metrics_write - one line, handed to the system at once, whole. Rank 0 writes; on other ranks
 * nothing happens. Local. Ends j as lh_json_text does. Errors, on rank 0 alone: LH_ERR_IO (a full disk;
 * the file is no longer where it was opened), LH_ERR_MEMORY, LH_ERR_BUG: the caller raises the trouble
 * lane or agrees. */
LH_NODISCARD lh_status lh_metrics_write(lh_metrics *m, lh_json *j);

/* lh_metrics_sync - what was written reaches the disk: lines up to a checkpoint are as safe as it is.
 * Rank 0 acts. Local. Errors, on rank 0 alone: LH_ERR_IO. */
LH_NODISCARD lh_status lh_metrics_sync(const lh_metrics *m);

/* lh_metrics_look - is the file still where it was opened? One that another program has put there is
 * taken. On other ranks than rank 0 nothing happens. Local. Errors, on rank 0 alone: LH_ERR_IO. */
LH_NODISCARD lh_status lh_metrics_look(lh_metrics *m);

/* lh_metrics_close - accepts NULL content and nulls it. Local. */
void lh_metrics_close(lh_metrics **m);

/* lh_run_tail - the last whole lines of a run's file `name` (metrics.jsonl, log.txt), of at most `most`
 * bytes, while the run may be writing on. *text: closed by a NUL, "" where there is no such file or no line,
 * with blanks for zeros that a crash has left; the caller releases it with lh_free. *age_s: seconds since
 * something was written, -1 without a file. Local. Errors: LH_ERR_IO, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_run_tail(const char *folder, const char *name, int64_t most, char **text,
                                   double *age_s);

typedef struct lh_log lh_log;

/* lh_log_open - folder/log.txt for appending; a torn last line is ended. Collective on comm. The caller closes *out.
 * Errors: agreed LH_ERR_IO, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_log_open(lh_comm *comm, const char *folder, lh_log **out);

/* lh_log_line - the time (UTC) and one line of text. Rank 0 writes; log NULL: nothing. Local.
 * A log that cannot be written is no reason to end a run: errors are dropped. */
void lh_log_line(lh_log *log, const char *fmt, ...) LH_PRINTF(2, 3);

/* lh_log_close - accepts NULL content and nulls it. Local. */
void lh_log_close(lh_log **log);
