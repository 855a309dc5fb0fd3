/* Where documents begin and end: found around a rank's own rows. */
#include "experiments/task_internal.h"

enum { DOCUMENTS_PIECE = 16384 };

/* The last separator before `position` ends another document; so does the window's begin. */
static lh_status documents_begin(const lh_task *t, const lh_tokens *file, int64_t start,
                                 int64_t position, int64_t *begin)
{
    int32_t tokens[DOCUMENTS_PIECE];
    for (int64_t right = position; right > 0;) {
        int64_t left = right > DOCUMENTS_PIECE ? right - DOCUMENTS_PIECE : 0;
        lh_status st = lh_tokens_read(file, start + left, right - left, tokens);
        if (st != LH_OK) return st;
        for (*begin = right; *begin > left; (*begin)--)
            if (tokens[*begin - 1 - left] == t->separator) return LH_OK;
        right = left;
    }
    *begin = 0;
    return LH_OK;
}

/* One after the first separator at or after `position`, or after the window's last input. */
static lh_status documents_end(const lh_task *t, const lh_tokens *file, int64_t start,
                               int64_t position, int64_t valid, int64_t *end)
{
    int32_t tokens[DOCUMENTS_PIECE];
    for (int64_t left = position; left < valid;) {
        int64_t n = valid - left < DOCUMENTS_PIECE ? valid - left : DOCUMENTS_PIECE;
        lh_status st = lh_tokens_read(file, start + left, n, tokens);
        if (st != LH_OK) return st;
        for (int64_t i = 0; i < n; i++) {
            *end = left + i + 1;
            if (tokens[i] == t->separator) return LH_OK;
        }
        left += n;
    }
    *end = valid;
    return LH_OK;
}

lh_status lhi_task_documents(const lh_task *t, const lh_tokens *file, int64_t start, int64_t valid,
                             int64_t position, int64_t n, int64_t row, lh_rows *out)
{
    lh_status st = LH_OK;
    int32_t tokens[DOCUMENTS_PIECE];
    int32_t *document = out->documents + 2 * row;
    int64_t begin = 0;
    int64_t end = position + n;
    LH_TRY(documents_begin(t, file, start, position, &begin));
    for (int64_t i = 0; i < n; i++) {
        int64_t k = i % DOCUMENTS_PIECE;
        int64_t left = n - i < DOCUMENTS_PIECE ? n - i : DOCUMENTS_PIECE;
        if (k == 0) LH_TRY(lh_tokens_read(file, start + position + i, left, tokens));
        document[2 * i] = (int32_t)begin;
        if (tokens[k] == t->separator) begin = position + i + 1;
    }
    /* the last row's document ends with it, or beyond; a document ends where the next begins */
    if (begin < end) LH_TRY(documents_end(t, file, start, end, valid, &end));
    for (int64_t i = n - 1; i >= 0; i--) {
        document[2 * i + 1] = (int32_t)end;
        if (i > 0 && document[2 * i] == position + i) end = position + i;
    }
done:
    return st;
}
