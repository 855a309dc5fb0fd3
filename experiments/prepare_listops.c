/* Published ListOps files: a label and an expression in each line. */
#include "experiments/listops.h"
#include "experiments/prepare_internal.h"
#include "io/reader.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct listops_file {
    const char *path;
    lhi_reader reader;
    char *line; /* without its end; a NUL follows */
    int64_t capacity, number;
    int label_column; /* -1: not known yet */
    uint8_t *token;   /* of the line's expression, LH_LISTOPS_CLS in front */
    int64_t room, count;
    int label;
} listops_file;

static void listops_close(listops_file *f)
{
    lhi_reader_close(&f->reader);
    lh_free(&f->line);
    lh_free(&f->token);
}

/* The next line that is not empty; *found false at the end. */
static lh_status listops_line(listops_file *f, bool *found)
{
    lh_status st = LH_OK;
    int64_t n = 0;
    f->number = f->reader.line;
    for (int c = lhi_reader_next(&f->reader); c >= 0; c = lhi_reader_next(&f->reader)) {
        LH_CHECK(c != '\0', LH_ERR_FORMAT, "%s:%" PRId64 ": a zero byte: is this a text?", f->path,
                 f->number);
        if (c == '\n' && n > 0) break;
        if (c == '\n') f->number = f->reader.line;
        if (c == '\n' || c == '\r') continue;
        LH_TRY(lh_grow(&f->line, &f->capacity, n + 2, 1));
        f->line[n++] = (char)c;
    }
    LH_TRY(f->reader.st);
    if (n > 0) f->line[n] = '\0';
    *found = n > 0;
done:
    return st;
}

/* A column that is a class: one digit. */
static bool listops_is_label(const char *text, size_t length)
{
    while (length > 0 && text[length - 1] == ' ') length--;
    while (length > 0 && *text == ' ') text++, length--;
    return length == 1 && isdigit((unsigned char)*text) != 0;
}

/* Is a column this word, in upper or lower case? */
static bool listops_is_word(const char *text, size_t length, const char *word)
{
    if (length != strlen(word)) return false;
    for (size_t i = 0; i < length; i++)
        if (tolower((unsigned char)text[i]) != word[i]) return false;
    return true;
}

static bool listops_names_label(const char *text, size_t length)
{
    return listops_is_word(text, length, "target") || listops_is_word(text, length, "label");
}

/* A header names both columns, as the published files do: "Source", an expression, and "Target". */
static int listops_header(const char *line, size_t cut)
{
    const char *second = line + cut + 1;
    if (listops_names_label(line, cut)) return 0;
    return listops_names_label(second, strlen(second)) ? 1 : -1;
}

/* Which column is the label: the first one, unless a header or the lines say otherwise. */
static lh_status listops_columns(listops_file *f, size_t cut)
{
    lh_status st = LH_OK;
    bool first = listops_is_label(f->line, cut);
    bool second = listops_is_label(f->line + cut + 1, strlen(f->line + cut + 1));
    if (f->label_column < 0 && first != second) f->label_column = first ? 0 : 1;
    int column = f->label_column < 0 ? 0 : f->label_column;
    LH_CHECK(column == 0 ? first : second, LH_ERR_FORMAT,
             "%s:%" PRId64 ": expected a label from 0 to 9 in column %d (LABEL<tab>EXPRESSION, or "
             "EXPRESSION<tab>LABEL in all lines)",
             f->path, f->number, column + 1);
    f->label = atoi(f->line + (column == 0 ? 0 : cut + 1));
done:
    return st;
}

/* A word becomes a token. */
static lh_status listops_word(listops_file *f, const char *word, size_t length)
{
    lh_status st = LH_OK;
    int token = lh_listops_find(word, length);
    LH_CHECK(token != LH_LISTOPS_UNKNOWN, LH_ERR_FORMAT,
             "%s:%" PRId64 ": '%.*s' is no token of ListOps: expected digits, [MIN, [MAX, [MED, "
             "[SM and ], with spaces between them",
             f->path, f->number, length < 40 ? (int)length : 40, word);
    f->token[f->count++] = (uint8_t)token;
done:
    return st;
}

/* The tokens of an expression; parentheses, which only say that a tree is binary, must match. */
static lh_status listops_tokens(listops_file *f, const char *text, size_t length)
{
    lh_status st = LH_OK;
    int64_t open = 0;
    f->count = 0;
    LH_TRY(lh_grow(&f->token, &f->room, (int64_t)length + 1, 1));
    f->token[f->count++] = LH_LISTOPS_CLS;
    for (size_t i = 0; i < length;) {
        size_t n = 0;
        open += (text[i] == '(') - (text[i] == ')');
        LH_CHECK(open >= 0, LH_ERR_FORMAT, "%s:%" PRId64 ": a ')' without its '('", f->path,
                 f->number);
        while (i + n < length && strchr(" ()", text[i + n]) == NULL) n++;
        if (n > 0) LH_TRY(listops_word(f, text + i, n));
        i += n > 0 ? n : 1;
    }
    LH_CHECK(open == 0, LH_ERR_FORMAT, "%s:%" PRId64 ": a '(' without its ')'", f->path, f->number);
done:
    return st;
}

/* The next example; *found false at the end. *value: of its expression. */
static lh_status listops_next(listops_file *f, bool *found, int *value)
{
    lh_status st = LH_OK;
    LH_TRY(listops_line(f, found));
    if (!*found) goto done;
    size_t cut = strcspn(f->line, "\t");
    LH_CHECK(f->line[cut] == '\t' && strchr(f->line + cut + 1, '\t') == NULL, LH_ERR_FORMAT,
             "%s:%" PRId64 ": expected LABEL<tab>EXPRESSION: one tab in the line", f->path,
             f->number);
    if (f->number == 1 && f->label_column < 0) {
        f->label_column = listops_header(f->line, cut);
        if (f->label_column >= 0) {
            st = listops_next(f, found, value);
            goto done;
        }
    }
    LH_TRY(listops_columns(f, cut));
    bool label_first = f->label_column != 1;
    const char *text = label_first ? f->line + cut + 1 : f->line;
    LH_TRY(listops_tokens(f, text, label_first ? strlen(text) : cut));
    st = lh_listops_evaluate(f->token + 1, f->count - 1, value);
    LH_TRY(lh_error_context(st, "%s:%" PRId64, f->path, f->number));
done:
    return st;
}

/* The first pass: where examples begin, their labels, and whether these are right. */
typedef struct listops_examples {
    int64_t *start;
    int32_t *label;
    int64_t starts, labels, count, wrong, longest;
} listops_examples;

static lh_status listops_count(const char *path, listops_examples *e)
{
    lh_status st = LH_OK;
    listops_file f = {.path = path, .label_column = -1};
    bool found = false;
    int value = 0;
    LH_TRY(lhi_reader_open(path, &f.reader));
    LH_TRY(lh_grow(&e->start, &e->starts, 1, sizeof *e->start));
    for (;;) {
        LH_TRY(listops_next(&f, &found, &value));
        if (!found) break;
        LH_TRY(lh_grow(&e->start, &e->starts, e->count + 2, sizeof *e->start));
        LH_TRY(lh_grow(&e->label, &e->labels, e->count + 1, sizeof *e->label));
        if (value != f.label && e->wrong++ == 0)
            (void)fprintf(stderr,
                          "%s:%" PRId64 ": the label is %d, the expression's value %d; "
                          "labels are kept as they are\n",
                          path, f.number, f.label, value);
        e->label[e->count++] = f.label;
        e->start[e->count] = e->start[e->count - 1] + f.count;
        if (f.count > e->longest) e->longest = f.count;
    }
    LH_CHECK(e->count > 0, LH_ERR_FORMAT,
             "'%s' has no example: expected lines LABEL<tab>EXPRESSION", path);
done:
    listops_close(&f);
    return st;
}

static lh_status listops_write(const char *path, lh_tokens_writer *w)
{
    lh_status st = LH_OK;
    listops_file f = {.path = path, .label_column = -1};
    bool found = true;
    int value = 0;
    LH_TRY(lhi_reader_open(path, &f.reader));
    while (found) {
        LH_TRY(listops_next(&f, &found, &value));
        for (int64_t i = 0; found && i < f.count; i++) LH_TRY(lh_tokens_put(w, f.token[i]));
    }
done:
    listops_close(&f);
    return st;
}

lh_status lhi_prepare_listops(const lhi_prepare *p)
{
    lh_status st = LH_OK;
    listops_examples e = {0};
    lh_tokens_info info;
    lh_tokens_writer *w = NULL;
    char names[256] = "";
    size_t used = 0;
    for (int i = 0; i < LH_LISTOPS_TOKENS && used < sizeof names; i++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i > 0 ? "\n" : "",
                                 lh_listops_name(i));
    LH_TRY(lhi_prepare_info(p, &info));
    LH_TRY(listops_count(p->source, &e));
    info.kind = LH_TOKENS_LISTOPS;
    info.vocab = LH_LISTOPS_TOKENS;
    info.count = e.start[e.count];
    info.examples = e.count;
    info.longest = e.longest;
    LH_TRY(lh_tokens_create(p->out, &info, names, &w));
    LH_TRY(listops_write(p->source, w));
done:
    st = lh_tokens_finish(&w, e.start, e.label, st);
    if (st == LH_OK)
        (void)printf("%" PRId64 " examples, %" PRId64 " labels disagree\n", e.count, e.wrong);
    lh_free(&e.start);
    lh_free(&e.label);
    return st;
}
