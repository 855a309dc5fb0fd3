#include "io/fasta.h"

#include "core/pulse.h"
#include "io/files.h"
#include "io/reader.h"

#include <stdio.h>

enum { FASTA_STOP = 27, FASTA_GAP = 28 };

/* -1: no residue. */
static int32_t fasta_token(int c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A' + 1;
    if (c >= 'a' && c <= 'z') return c - 'a' + 1;
    return c == '*' ? FASTA_STOP : c == '-' ? FASTA_GAP : -1;
}

static lh_status fasta_wrong(const char *path, int64_t line, int c, bool inside)
{
    char shown[16];
    (void)snprintf(shown, sizeof shown, c >= 0x20 && c < 0x7f ? "'%c'" : "byte 0x%02x", c);
    if (!inside)
        return LH_RAISE(LH_ERR_FORMAT,
                        "%s:%lld: expected a header line that begins with '>', found %s: is this a "
                        "FASTA file?",
                        path, (long long)line, shown);
    return LH_RAISE(LH_ERR_FORMAT,
                    "%s:%lld: %s is no residue: expected letters, '*' or '-' (a header begins with "
                    "'>' at the start of its line, a comment with ';')",
                    path, (long long)line, shown);
}

/* To the end of the line, which is a header or a comment. */
static void fasta_skip(lhi_reader *r)
{
    int c = 0;
    while (c >= 0 && c != '\n') c = lhi_reader_next(r);
}

lh_status lhi_fasta_walk(const char *path, lhi_fasta_visit visit, void *user)
{
    lh_status st = LH_OK;
    lhi_reader r = {0};
    bool inside = false, start = true; /* of a record; of a line */
    LH_TRY(lhi_reader_open(path, &r));
    for (int c = lhi_reader_next(&r); c >= 0; c = lhi_reader_next(&r)) {
        int32_t token = fasta_token(c);
        if (start && (c == '>' || c == ';')) {
            if (c == '>' && inside) LH_TRY(visit(user, LH_FASTA_END, -1, r.line));
            inside = inside || c == '>';
            fasta_skip(&r);
        } else if (token >= 0 && inside) {
            LH_TRY(visit(user, token, r.offset + r.at - 1, r.line));
            start = false;
        } else if (c == '\n' || c == '\r') {
            start = c == '\n';
        } else {
            LH_TRY(fasta_wrong(path, r.line, c, inside));
        }
    }
    LH_TRY(r.st);
    LH_CHECK(inside, LH_ERR_FORMAT, "'%s' is empty: expected FASTA records", path);
    LH_TRY(visit(user, LH_FASTA_END, -1, r.line));
done:
    lhi_reader_close(&r);
    return st;
}

/* --- the index --- */

typedef struct fasta_builder {
    const char *path;
    lhi_fasta_record *record;
    int64_t count, capacity;
    int64_t tokens;
    lhi_fasta_record now; /* the record that is being read */
    int64_t residues;     /* of it */
    lh_pulse *pulse;      /* beats with every record; NULL: nobody watches */
} fasta_builder;

static int64_t fasta_place(const lhi_fasta_record *r, int64_t residue)
{
    return r->offset + residue / r->bases * r->width + residue % r->bases;
}

static lh_status fasta_close(fasta_builder *b)
{
    lh_status st = LH_OK;
    lh_pulse_beat(b->pulse);
    LH_TRY(lh_grow(&b->record, &b->capacity, b->count + 2, sizeof *b->record));
    if (b->now.bases == 0) b->now.bases = b->now.width = INT64_MAX; /* one line, or none */
    b->record[b->count++] = b->now;
    b->now = (lhi_fasta_record){.start = b->tokens};
    b->record[b->count] = b->now;
    b->residues = 0;
done:
    return st;
}

/* The first line tells how long lines are; residues elsewhere than that says are irregular. Between
 * two lines lies the end of one, nothing else. */
static lh_status fasta_add(void *user, int32_t token, int64_t offset, int64_t line)
{
    fasta_builder *b = user;
    lhi_fasta_record *now = &b->now;
    b->tokens++;
    if (token == LH_FASTA_END) return fasta_close(b);
    int64_t k = b->residues++;
    if (k == 0) now->offset = offset;
    if (now->bases == 0 && offset != now->offset + k) {
        now->bases = k;
        now->width = offset - now->offset;
    }
    bool regular = now->bases == 0 ? offset == now->offset + k
                                   : now->width <= now->bases + 2 && offset == fasta_place(now, k);
    if (regular) return LH_OK;
    return LH_RAISE(LH_ERR_FORMAT,
                    "%s:%lld: the lines of this record differ in length (or something stands "
                    "between them), so that residues cannot be found without reading all: convert "
                    "the file with longhaul prepare '%s' --task fasta --out FILE.h5, and name that",
                    b->path, (long long)line, b->path);
}

lh_status lhi_fasta_index(lh_comm *comm, const char *path, lhi_fasta *index)
{
    lh_status st = LH_OK;
    fasta_builder b = {.path = path};
    const int64_t item = (int64_t)sizeof *index->record;
    *index = (lhi_fasta){0};
    if (comm != NULL) b.pulse = lh_comm_traffic(comm)->pulse;
    if (lhi_lead(comm)) st = lhi_fasta_walk(path, fasta_add, &b);
    LH_TRY(lh_files_agree(comm, st));
    if (comm != NULL) {
        lh_broadcast(comm, &b.count, (int64_t)sizeof b.count, LH_SEND_OTHER);
        if (!lhi_lead(comm)) st = lh_new((size_t)((b.count + 1) * item), &b.record);
        LH_TRY(lh_agree(comm, st));
        lh_broadcast(comm, b.record, (b.count + 1) * item, LH_SEND_OTHER);
    }
    *index = (lhi_fasta){b.record, b.count};
    b.record = NULL;
done:
    lh_free(&b.record);
    return st;
}

/* --- reading --- */

/* The record that holds token number `token`. */
static int64_t fasta_find(const lhi_fasta *index, int64_t token)
{
    int64_t low = 0, high = index->count; /* record[low].start <= token < record[high].start */
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (index->record[middle].start <= token)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* n residues of a record, from residue k on. Their lines are read into the end of `out`, and the
 * tokens are written from its beginning: the writing never reaches what is still to be read, since a
 * token has four bytes and a residue with its share of ends of lines at most three. */
static lh_status fasta_residues(const lhi_fasta_record *r, const lh_bytes *file, int64_t k,
                                int64_t n, int32_t *out)
{
    int64_t begin = fasta_place(r, k);
    int64_t span = fasta_place(r, k + n - 1) + 1 - begin;
    const uint8_t *end = (const uint8_t *)(out + n), *raw = end - span;
    lh_status st = lh_bytes_read(file, begin, span, (uint8_t *)(out + n) - span);
    for (int64_t i = 0; i < n && st == LH_OK; i++) {
        while (raw < end && (*raw == '\n' || *raw == '\r')) raw++;
        out[i] = raw < end ? fasta_token(*raw++) : -1;
        if (out[i] < 0)
            st = LH_RAISE(LH_ERR_FORMAT, "'%s' was changed after it was opened",
                          lh_bytes_path(file));
    }
    return st;
}

lh_status lhi_fasta_read(const lhi_fasta *index, const lh_bytes *file, int64_t first, int64_t count,
                         int32_t *out)
{
    lh_status st = LH_OK;
    int64_t record = fasta_find(index, first);
    for (int64_t done = 0; done < count; record++) {
        const lhi_fasta_record *r = &index->record[record];
        int64_t k = first + done - r->start;
        int64_t n = r[1].start - 1 - r->start - k; /* residues that are left */
        if (n > count - done) n = count - done;
        if (n > 0) LH_TRY(fasta_residues(r, file, k, n, out + done));
        done += n;
        if (done < count) out[done++] = LH_FASTA_END;
    }
done:
    return st;
}
