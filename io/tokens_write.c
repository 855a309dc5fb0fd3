/* Token files, written by one process. */
#include "io/files.h"
#include "io/tokens_internal.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { WRITE_BLOCK = 1 << 16 };

struct lh_tokens_writer {
    lh_tokens_info info;
    lh_h5 *file;
    lh_h5_data data;
    int64_t done; /* tokens in the file */
    int held;     /* and in the block */
    int32_t block[WRITE_BLOCK];
    char path[LH_PATH_MAX], beside[LH_PATH_MAX];
};

static lh_status write_info(lh_h5 *file, const lh_tokens_info *info)
{
    lh_status st = LH_OK;
    LH_TRY(lh_h5_put_int(file, "/", "format_version", LHI_TOKENS_VERSION));
    LH_TRY(lh_h5_put_text(file, "/", "program", info->program));
    LH_TRY(lh_h5_put_text(file, "/", "kind", lh_tokens_kind_name(info->kind)));
    LH_TRY(lh_h5_put_int(file, "/", "vocab", info->vocab));
    LH_TRY(lh_h5_put_int(file, "/", "count", info->count));
    LH_TRY(lh_h5_put_int(file, "/", "examples", info->examples));
    LH_TRY(lh_h5_put_int(file, "/", "longest", info->longest));
    LH_TRY(lh_h5_put_text(file, "/", "source", info->source));
    LH_TRY(lh_h5_put_int(file, "/", "source_bytes", info->source_bytes));
    LH_TRY(lh_h5_put_int(file, "/", "vocabulary_digest", (int64_t)info->vocabulary));
done:
    return st;
}

static lh_status write_array(lh_h5 *file, const char *name, lh_h5_kind kind, int64_t count,
                             const void *items)
{
    lh_h5_data data;
    lh_status st = lh_h5_define(file, name, kind, 1, &count, 0, &data);
    if (st == LH_OK) st = lh_h5_write(&data, kind, NULL, items);
    lh_h5_release(&data);
    return st;
}

/* About the size of the file, rather more. */
static int64_t write_bytes(const lh_tokens_writer *w, const char *names)
{
    const lh_tokens_info *info = &w->info;
    int64_t bytes = (64 << 10) + info->count * lhi_tokens_width(info->vocab) + 12 * info->examples;
    return bytes + (names != NULL ? (int64_t)strlen(names) : 0);
}

static lh_status write_begin(lh_tokens_writer *w, const char *names)
{
    lh_status st = LH_OK;
    /* Room is asked for before HDF5 begins, since the library does not survive a full disk well. */
    LH_TRY(lhi_file_reserve(w->beside, write_bytes(w, names), true));
    LH_TRY(lh_h5_create(NULL, w->beside, LHI_SEAL_BYTES, &w->file));
    LH_TRY(lhi_file_hold(NULL, w->beside, write_bytes(w, names)));
    LH_TRY(write_info(w->file, &w->info));
    if (names != NULL) LH_TRY(lh_h5_put_string(w->file, "vocabulary", names, true));
    LH_TRY(lh_h5_define(w->file, "tokens", lhi_tokens_h5_kind(w->info.vocab), 1, &w->info.count, 0,
                        &w->data));
done:
    return st;
}

lh_status lh_tokens_create(const char *path, const lh_tokens_info *info, const char *names,
                           lh_tokens_writer **out)
{
    lh_status st = LH_OK;
    lh_tokens_writer *w = NULL;
    *out = NULL;
    LH_TRY(lh_new(sizeof *w, &w));
    w->info = *info;
    w->data.id = -1;
    w->info.vocabulary = names != NULL ? lh_tokens_digest(names) : 0;
    int n = snprintf(w->path, sizeof w->path, "%s", path);
    LH_CHECK(n > 0 && n < (int)sizeof w->path - 4, LH_ERR_USAGE,
             "the file name '%.60s' is empty or too long", path);
    (void)snprintf(w->beside, sizeof w->beside, "%.*s.tmp", (int)sizeof w->beside - 5, w->path);
    LH_TRY(write_begin(w, names));
    *out = w;
    w = NULL;
done:
    return lh_tokens_finish(&w, NULL, NULL, st);
}

static lh_status write_block(lh_tokens_writer *w)
{
    lh_h5_slab slab = {.start = {w->done}, .stride = {1}, .count = {w->held}};
    if (w->held == 0) return LH_OK;
    w->done += w->held;
    w->held = 0;
    return lh_h5_write(&w->data, LH_H5_INT32, &slab, w->block);
}

static lh_status write_changed(const lh_tokens_writer *w, int64_t have)
{
    return LH_RAISE(
        LH_ERR_IO,
        "'%s' had %lld tokens when it was looked through and has %lld now: do not change "
        "it meanwhile",
        w->info.source, (long long)w->info.count, (long long)have);
}

lh_status lh_tokens_put(lh_tokens_writer *w, int32_t token)
{
    if (token < 0 || token >= w->info.vocab)
        return LH_RAISE(LH_ERR_BUG, "'%s': token %d of a vocabulary of %lld", w->path, token,
                        (long long)w->info.vocab);
    if (w->done + w->held == w->info.count) return write_changed(w, w->info.count + 1);
    w->block[w->held++] = token;
    return w->held == WRITE_BLOCK ? write_block(w) : LH_OK;
}

static lh_status write_end(lh_tokens_writer *w, const int64_t *starts, const int32_t *labels)
{
    lh_status st = LH_OK;
    int64_t n = w->info.examples;
    LH_TRY(write_block(w));
    if (w->done != w->info.count) LH_TRY(write_changed(w, w->done));
    if (n > 0) LH_TRY(write_array(w->file, "starts", LH_H5_INT64, n + 1, starts));
    if (n > 0) LH_TRY(write_array(w->file, "labels", LH_H5_INT32, n, labels));
    LH_TRY(lh_h5_put_int(w->file, "/", "complete", 1));
    LH_TRY(lh_h5_flush(w->file));
done:
    return st;
}

lh_status lh_tokens_finish(lh_tokens_writer **writer, const int64_t *starts, const int32_t *labels,
                           lh_status st)
{
    lh_tokens_writer *w = *writer;
    if (w == NULL) return st;
    if (st == LH_OK) st = write_end(w, starts, labels);
    lh_h5_release(&w->data);
    /* So that HDF5 has room to close the file that will be removed. */
    if (st != LH_OK && w->file != NULL && truncate(w->beside, 0) != 0)
        st = lh_error_context(st, "(and '%s' cannot be cut)", w->beside);
    if (w->file != NULL) st = lhi_seal_end(&w->file, st);
    if (st == LH_OK) st = lhi_seal_close(NULL, w->beside, &lhi_tokens_seal);
    if (st == LH_OK) st = lhi_file_move(w->beside, w->path);
    if (st != LH_OK) (void)unlink(w->beside);
    lh_free(writer);
    return st;
}
