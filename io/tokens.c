#include "io/tokens_internal.h"

#include "core/random.h"
#include "io/bytes.h"
#include "io/digest.h"
#include "io/fasta.h"
#include "io/files.h"

#include <stdio.h>
#include <string.h>

enum { TOKENS_BYTE_VOCAB = 256, TOKENS_NARROW = 1 << 8, TOKENS_MIDDLE = 1 << 16 };

struct lh_tokens {
    lh_tokens_info info;
    lh_bytes *file;
    int64_t tokens_at, starts_at, labels_at; /* offsets in the file */
    lhi_fasta fasta;                         /* of FASTA text */
    uint64_t seed;                           /* of random tokens, which have no file */
};

const lhi_seal_kind lhi_tokens_seal = {
    "longhaul tokens ", LHI_TOKENS_VERSION,
    "is not a token file, or its beginning is lost; longhaul prepare makes token files"};

static const char *const tokens_kinds[LH_TOKENS_KINDS] = {"bytes", "words", "fasta", "listops"};

const char *lh_tokens_kind_name(int kind)
{
    return kind >= 0 && kind < LH_TOKENS_KINDS ? tokens_kinds[kind] : "unknown";
}

uint64_t lh_tokens_digest(const char *names)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; names[i] != '\0'; i++)
        sum += lhi_digest_word((uint64_t)(unsigned char)names[i], i);
    return sum;
}

int lhi_tokens_width(int64_t vocab)
{
    return vocab <= TOKENS_NARROW ? 1 : vocab <= TOKENS_MIDDLE ? 2 : 4;
}

lh_h5_kind lhi_tokens_h5_kind(int64_t vocab)
{
    return vocab <= TOKENS_NARROW   ? LH_H5_UINT8
           : vocab <= TOKENS_MIDDLE ? LH_H5_UINT16
                                    : LH_H5_INT32;
}

bool lh_tokens_is(const char *path)
{
    return lhi_seal_is(path, &lhi_tokens_seal);
}

/* --- what a token file says about itself: read by one process, which alone asks HDF5 --- */

static lh_status tokens_info_get(lh_h5 *file, lh_tokens_info *info)
{
    lh_status st = LH_OK;
    char kind[32];
    int64_t digest = 0, complete = 0;
    LH_TRY(lh_h5_get_int(file, "/", "complete", &complete));
    LH_TRY(lh_h5_copy_text(file, "kind", kind, sizeof kind));
    for (info->kind = 0; info->kind < LH_TOKENS_KINDS; info->kind++)
        if (strcmp(kind, tokens_kinds[info->kind]) == 0) break;
    LH_CHECK(info->kind < LH_TOKENS_KINDS, LH_ERR_FORMAT,
             "tokens of an unknown kind '%s': a newer program has made this file", kind);
    LH_TRY(lh_h5_get_int(file, "/", "vocab", &info->vocab));
    LH_TRY(lh_h5_get_int(file, "/", "count", &info->count));
    LH_TRY(lh_h5_get_int(file, "/", "examples", &info->examples));
    LH_TRY(lh_h5_get_int(file, "/", "longest", &info->longest));
    LH_TRY(lh_h5_get_int(file, "/", "source_bytes", &info->source_bytes));
    LH_TRY(lh_h5_get_int(file, "/", "vocabulary_digest", &digest));
    LH_TRY(lh_h5_copy_text(file, "source", info->source, sizeof info->source));
    LH_TRY(lh_h5_copy_text(file, "program", info->program, sizeof info->program));
    info->vocabulary = (uint64_t)digest;
    info->width = lhi_tokens_width(info->vocab);
    LH_CHECK(complete == 1 && info->vocab >= 1 && info->vocab <= INT32_MAX && info->count >= 1 &&
                 info->count <= INT64_MAX / 16 && info->examples >= 0 &&
                 info->examples <= info->count,
             LH_ERR_FORMAT, "%lld tokens of a vocabulary of %lld, %lld examples",
             (long long)info->count, (long long)info->vocab, (long long)info->examples);
done:
    return st;
}

/* Where a dataset of `count` elements lies in the file. */
static lh_status tokens_find(lh_h5 *file, const char *name, lh_h5_kind kind, int64_t count,
                             int64_t file_bytes, int64_t *at)
{
    lh_status st = LH_OK;
    lh_h5_data data;
    LH_TRY(lh_h5_find(file, name, &data));
    *at = lh_h5_offset(&data);
    LH_CHECK(data.kind == kind && data.ndim == 1 && data.dim[0] == count && *at >= 0 &&
                 *at <= file_bytes - count * (int64_t)lh_h5_kind_bytes(kind),
             LH_ERR_FORMAT, "dataset '%s' is not of the type and size that were announced", name);
done:
    lh_h5_release(&data);
    return st;
}

static lh_status tokens_look(const char *path, lh_tokens *t)
{
    lh_status st = LH_OK;
    lh_h5 *file = NULL;
    lh_tokens_info *info = &t->info;
    LH_TRY(lh_h5_open(NULL, path, &file));
    LH_TRY(tokens_info_get(file, info));
    LH_TRY(tokens_find(file, "tokens", lhi_tokens_h5_kind(info->vocab), info->count,
                       info->file_bytes, &t->tokens_at));
    if (info->examples == 0) goto done;
    LH_TRY(tokens_find(file, "starts", LH_H5_INT64, info->examples + 1, info->file_bytes,
                       &t->starts_at));
    LH_TRY(
        tokens_find(file, "labels", LH_H5_INT32, info->examples, info->file_bytes, &t->labels_at));
done:
    if (file != NULL) st = lhi_seal_end(&file, st);
    return lh_error_context(st, "'%s'", path);
}

lh_status lh_tokens_names(const char *path, char **names, lh_tokens_info *info)
{
    lh_status st = LH_OK;
    lh_h5 *file = NULL;
    lh_h5_data data = {.id = -1};
    *names = NULL;
    *info = (lh_tokens_info){0};
    LH_TRY(lhi_seal_check(NULL, path, &lhi_tokens_seal));
    LH_TRY(lh_h5_open(NULL, path, &file));
    LH_TRY(tokens_info_get(file, info));
    LH_CHECK(info->kind != LH_TOKENS_BYTES, LH_ERR_FORMAT,
             "'%s' holds bytes, which have no vocabulary", path);
    LH_TRY(lh_h5_find(file, "vocabulary", &data));
    LH_TRY(lh_new(data.text_bytes + 1, names));
    LH_TRY(lh_h5_read(&data, LH_H5_TEXT, NULL, *names));
done:
    lh_h5_release(&data);
    if (file != NULL) st = lhi_seal_end(&file, st);
    if (st != LH_OK) lh_free(names);
    return st;
}

/* --- opening --- */

static lh_status tokens_new(lh_comm *comm, const char *path, lh_tokens **out)
{
    lh_status st = lh_files_agree(comm, lh_new(sizeof **out, out));
    if (st == LH_OK) st = lh_bytes_open(comm, path, &(*out)->file);
    if (st == LH_OK) st = lhi_digest_same(comm, (*out)->file);
    if (st != LH_OK) {
        lh_tokens_close(out);
        return st;
    }
    (*out)->info.file_bytes = (*out)->info.source_bytes = lh_bytes_size((*out)->file);
    (void)snprintf((*out)->info.source, sizeof(*out)->info.source, "%s", path);
    return LH_OK;
}

/* As rank 0 sees it. Collective on comm. */
static bool tokens_sealed(lh_comm *comm, const char *path)
{
    uint8_t is = lhi_lead(comm) && lh_tokens_is(path);
    if (comm != NULL) lh_broadcast(comm, &is, 1, LH_SEND_OTHER);
    return is != 0;
}

lh_status lh_tokens_open_bytes(lh_comm *comm, const char *path, lh_tokens **out)
{
    lh_status st = LH_OK;
    lh_tokens *t = NULL;
    *out = NULL;
    LH_TRY(tokens_new(comm, path, &t));
    LH_CHECK(!tokens_sealed(comm, path), LH_ERR_FORMAT,
             "'%s' is a token file, not a text: use data.task tokens (masked_tokens, fasta, "
             "listops), or name the text",
             path);
    t->info.kind = LH_TOKENS_BYTES;
    t->info.vocab = TOKENS_BYTE_VOCAB;
    t->info.count = t->info.file_bytes;
    t->info.width = 1;
    *out = t;
    t = NULL;
done:
    lh_tokens_close(&t);
    return st;
}

lh_status lh_tokens_open(lh_comm *comm, const char *path, lh_tokens **out)
{
    lh_status st = LH_OK;
    lh_tokens *t = NULL;
    *out = NULL;
    LH_TRY(tokens_new(comm, path, &t));
    LH_TRY(lhi_seal_check(comm, path, &lhi_tokens_seal));
    if (lhi_lead(comm)) st = tokens_look(path, t);
    LH_TRY(lh_files_agree(comm, st));
    if (comm != NULL) {
        int64_t at[3] = {t->tokens_at, t->starts_at, t->labels_at};
        lh_broadcast(comm, &t->info, (int64_t)sizeof t->info, LH_SEND_OTHER);
        lh_broadcast(comm, at, (int64_t)sizeof at, LH_SEND_OTHER);
        t->tokens_at = at[0];
        t->starts_at = at[1];
        t->labels_at = at[2];
    }
    *out = t;
    t = NULL;
done:
    lh_tokens_close(&t);
    return st;
}

lh_status lh_tokens_open_fasta(lh_comm *comm, const char *path, lh_tokens **out)
{
    lh_status st = LH_OK;
    lh_tokens *t = NULL;
    *out = NULL;
    if (tokens_sealed(comm, path)) {
        LH_TRY(lh_tokens_open(comm, path, &t));
        LH_CHECK(
            t->info.kind == LH_TOKENS_FASTA, LH_ERR_FORMAT,
            "'%s' holds %s, not FASTA records; make it with longhaul prepare FILE --task fasta",
            path, lh_tokens_kind_name(t->info.kind));
    } else {
        LH_TRY(tokens_new(comm, path, &t));
        LH_TRY(lhi_fasta_index(comm, path, &t->fasta));
        t->info.kind = LH_TOKENS_FASTA;
        t->info.vocab = LH_FASTA_VOCAB;
        t->info.vocabulary = lh_tokens_digest(LH_FASTA_NAMES);
        t->info.count = t->fasta.record[t->fasta.count].start;
    }
    *out = t;
    t = NULL;
done:
    lh_tokens_close(&t);
    return st;
}

lh_status lh_tokens_open_random(lh_tokens_kind kind, int64_t vocab, int64_t count, uint64_t seed,
                                lh_tokens **out)
{
    lh_status st = lh_new(sizeof **out, out);
    if (st != LH_OK) return st;
    (*out)->info = (lh_tokens_info){.kind = (int)kind, .vocab = vocab, .count = count};
    (*out)->seed = seed;
    return LH_OK;
}

void lh_tokens_close(lh_tokens **tokens)
{
    if (*tokens == NULL) return;
    lh_bytes_close(&(*tokens)->file);
    lh_free(&(*tokens)->fasta.record);
    lh_free(tokens);
}

const lh_tokens_info *lh_tokens_about(const lh_tokens *tokens)
{
    return &tokens->info;
}

const char *lh_tokens_path(const lh_tokens *tokens)
{
    return tokens->file != NULL ? lh_bytes_path(tokens->file) : "random tokens";
}

/* --- reading --- */

static uint64_t tokens_little(const uint8_t *raw, int width)
{
    uint64_t value = 0;
    for (int i = 0; i < width; i++) value |= (uint64_t)raw[i] << (8 * i);
    return value;
}

static void tokens_random(const lh_tokens *t, int64_t first, int64_t count, int32_t *out)
{
    uint64_t stream = lh_stream_id(LH_STREAM_TEST, 0);
    for (int64_t i = 0; i < count; i++) {
        uint32_t word = lh_random_u32(t->seed, stream, (uint64_t)(first + i));
        out[i] = (int32_t)(((uint64_t)word * (uint64_t)t->info.vocab) >> 32);
    }
}

/* The file's elements are read into the end of `out` and widened from its beginning: an element is
 * written behind no place that is still to be read. */
static lh_status tokens_widen(const lh_tokens *t, int64_t first, int64_t count, int32_t *out)
{
    int width = t->info.width;
    uint8_t *raw = (uint8_t *)(out + count) - count * width;
    lh_status st = lh_bytes_read(t->file, t->tokens_at + first * width, count * width, raw);
    for (int64_t i = 0; i < count && st == LH_OK; i++, raw += width) {
        uint64_t value = tokens_little(raw, width);
        out[i] = (int32_t)value;
        if (value >= (uint64_t)t->info.vocab)
            st = LH_RAISE(LH_ERR_FORMAT, "token %lld of '%s' is %llu, of a vocabulary of %lld",
                          (long long)(first + i), lh_tokens_path(t), (unsigned long long)value,
                          (long long)t->info.vocab);
    }
    return st;
}

lh_status lh_tokens_read(const lh_tokens *tokens, int64_t first, int64_t count, int32_t *out)
{
    if (first < 0 || count < 0 || first > tokens->info.count || count > tokens->info.count - first)
        return LH_RAISE(LH_ERR_RANGE, "%lld tokens from number %lld of '%s'; it has %lld",
                        (long long)count, (long long)first, lh_tokens_path(tokens),
                        (long long)tokens->info.count);
    if (tokens->file == NULL) {
        tokens_random(tokens, first, count, out);
        return LH_OK;
    }
    if (tokens->info.width > 0) return tokens_widen(tokens, first, count, out);
    return lhi_fasta_read(&tokens->fasta, tokens->file, first, count, out);
}

lh_status lh_tokens_example(const lh_tokens *tokens, int64_t i, int64_t span[2], int32_t *label)
{
    lh_status st = LH_OK;
    uint8_t raw[16];
    LH_CHECK(i >= 0 && i < tokens->info.examples, LH_ERR_RANGE, "example %lld of '%s'; it has %lld",
             (long long)i, lh_tokens_path(tokens), (long long)tokens->info.examples);
    LH_TRY(lh_bytes_read(tokens->file, tokens->starts_at + 8 * i, 16, raw));
    span[0] = (int64_t)tokens_little(raw, 8);
    span[1] = (int64_t)tokens_little(raw + 8, 8);
    LH_TRY(lh_bytes_read(tokens->file, tokens->labels_at + 4 * i, 4, raw));
    *label = (int32_t)tokens_little(raw, 4);
    LH_CHECK(span[0] >= 0 && span[0] < span[1] && span[1] <= tokens->info.count, LH_ERR_FORMAT,
             "example %lld of '%s' is tokens %lld to %lld of %lld", (long long)i,
             lh_tokens_path(tokens), (long long)span[0], (long long)span[1],
             (long long)tokens->info.count);
done:
    return st;
}
