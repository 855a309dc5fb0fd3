#include <stdio.h>
#include <string.h>

#include "parallel/comm_internal.h"

/* What the lowest failing rank tells the others; the same bytes on every rank. */
typedef struct agree_record {
    int64_t code;
    char where[256];
    char text[LH_ERROR_TEXT_MAX];
} agree_record;

/* Does the text name a rank already, at its beginning or behind what was put before it on the way up? */
static bool agree_named(const char *text)
{
    for (const char *at = strstr(text, "rank "); at != NULL; at = strstr(at + 1, "rank ")) {
        int rank = 0;
        int used = 0;
        if (at > text && at[-1] != ' ') continue;
        if (sscanf(at, "rank %d:%n", &rank, &used) == 1 && used > 0) return true;
    }
    return false;
}

/* The text names the rank once: an error that was agreed on further down already does. A usage
 * error is the user's, whichever rank saw it first: its text begins with its own place. */
static void agree_fill(const lh_comm *c, lh_status st, agree_record *r)
{
    const char *text = lh_error_text();
    r->code = (int64_t)st;
    (void)snprintf(r->where, sizeof r->where, "%s", lh_error_where());
    if (st == LH_ERR_USAGE || agree_named(text))
        (void)snprintf(r->text, sizeof r->text, "%s", text);
    else
        (void)snprintf(r->text, sizeof r->text, "rank %d: %s", c->world_rank, text);
}

lh_status lh_agree(lh_comm *c, lh_status st)
{
    if (c->counting || c->size == 1) return st;
    int64_t lowest = st == LH_OK ? c->size : c->rank;
    lhi_comm_count(c, (int64_t)sizeof lowest, LH_SEND_OTHER);
    LH_MPI(c, MPI_Allreduce(MPI_IN_PLACE, &lowest, 1, MPI_INT64_T, MPI_MIN, c->mpi));
    if (lowest == c->size) return LH_OK;
    agree_record r;
    memset(&r, 0, sizeof r);
    if (lowest == c->rank) agree_fill(c, st, &r);
    lhi_comm_count(c, (int64_t)sizeof r, LH_SEND_OTHER);
    LH_MPI(c, MPI_Bcast(&r, (int)sizeof r, MPI_BYTE, (int)lowest, c->mpi));
    return lh_error_set((lh_status)r.code, r.where, r.text);
}

enum { AGREE_SHOWN = 400 };

/* `count` words, each behind the NUL of the one before, as one line. */
static void agree_line(const char *first, int64_t count, char line[AGREE_SHOWN])
{
    size_t used = 0;
    line[0] = '\0';
    for (int64_t i = 0; i < count && used < AGREE_SHOWN; i++, first += strlen(first) + 1)
        used += (size_t)snprintf(line + used, AGREE_SHOWN - used, "%s%s", i > 0 ? " " : "", first);
}

/* This rank's words beside those of rank 0; both lie one after the other, each closed by a NUL. */
static lh_status agree_compare(const lh_comm *c, const char *what, const char *mine, int64_t count,
                               const char *first, int64_t first_count)
{
    char have[AGREE_SHOWN], wanted[AGREE_SHOWN];
    while (count > 0 && first_count > 0 && strcmp(mine, first) == 0) {
        mine += strlen(mine) + 1;
        first += strlen(first) + 1;
        count--;
        first_count--;
    }
    if (count == 0 && first_count == 0) return LH_OK;
    agree_line(mine, count, have);
    agree_line(first, first_count, wanted);
    return LH_RAISE(LH_ERR_USAGE,
                    "%s differs between ranks: rank %d has '%s' where rank 0 has '%s'; start all "
                    "ranks in the same way",
                    what, c->world_rank, have, wanted);
}

/* The words one after the other, each closed by a NUL. The caller frees *packed. */
static lh_status agree_pack(int count, const char *const *word, char **packed, int64_t *bytes)
{
    *bytes = 0;
    for (int i = 0; i < count; i++) *bytes += (int64_t)strlen(word[i]) + 1;
    lh_status st = lh_new((size_t)*bytes + 1, packed);
    char *at = *packed;
    for (int i = 0; i < count && st == LH_OK; i++, at += strlen(at) + 1)
        memcpy(at, word[i], strlen(word[i]) + 1);
    return st;
}

lh_status lh_agree_words(lh_comm *c, const char *what, int count, const char *const *word)
{
    lh_status st = LH_OK;
    char *mine = NULL, *first = NULL;
    int64_t size[2] = {count, 0}; /* of rank 0: words, bytes */
    LH_TRY(lh_agree(c, agree_pack(count, word, &mine, &size[1])));
    lh_broadcast(c, size, (int64_t)sizeof size, LH_SEND_OTHER);
    LH_TRY(lh_agree(c, lh_new((size_t)size[1] + 1, &first)));
    if (c->rank == 0) memcpy(first, mine, (size_t)size[1]);
    lh_broadcast(c, first, size[1], LH_SEND_OTHER);
    LH_TRY(lh_agree(c, agree_compare(c, what, mine, count, first, size[0])));
done:
    lh_free(&mine);
    lh_free(&first);
    return st;
}
