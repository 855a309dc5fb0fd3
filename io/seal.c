#include "io/seal.h"

#include "io/bytes.h"
#include "io/digest.h"
#include "io/files.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void seal_text(char head[LHI_SEAL_BYTES], const lhi_seal_kind *kind, int64_t bytes,
                      uint64_t digest)
{
    memset(head, 0, LHI_SEAL_BYTES);
    (void)snprintf(head, LHI_SEAL_BYTES, "%s%d\nbytes %020" PRId64 "\ndigest %016" PRIx64 "\n",
                   kind->magic, kind->version, bytes, digest);
}

static lh_status seal_parse(const char *path, const lhi_seal_kind *kind,
                            const char head[LHI_SEAL_BYTES], int64_t *bytes, uint64_t *digest)
{
    lh_status st = LH_OK;
    int version = 0;
    char again[LHI_SEAL_BYTES];
    size_t magic = strlen(kind->magic);
    LH_CHECK(memcmp(head, kind->magic, magic) == 0, LH_ERR_FORMAT, "'%s' %s", path, kind->foreign);
    LH_CHECK(memchr(head, '\0', LHI_SEAL_BYTES) != NULL &&
                 sscanf(head + magic, "%d bytes %" SCNd64 " digest %" SCNx64, &version, bytes,
                        digest) >= 1,
             LH_ERR_FORMAT, "the beginning of '%s' is damaged", path);
    LH_CHECK(version == kind->version, LH_ERR_FORMAT,
             "'%s' has format version %d; this program reads %d", path, version, kind->version);
    seal_text(again, kind, *bytes, *digest);
    LH_CHECK(memcmp(head, again, LHI_SEAL_BYTES) == 0, LH_ERR_FORMAT,
             "the beginning of '%s' is damaged", path);
done:
    return st;
}

static lh_status seal_read(const char *path, const lhi_seal_kind *kind, int64_t *bytes,
                           uint64_t *digest)
{
    lh_status st = LH_OK;
    uint8_t head[LHI_SEAL_BYTES];
    lh_bytes *file = NULL;
    LH_TRY(lh_bytes_open(NULL, path, &file));
    LH_CHECK(lh_bytes_size(file) >= LHI_SEAL_BYTES, LH_ERR_FORMAT, "'%s' has %lld bytes and %s",
             path, (long long)lh_bytes_size(file), kind->foreign);
    LH_TRY(lh_bytes_read(file, 0, LHI_SEAL_BYTES, head));
    LH_TRY(seal_parse(path, kind, (const char *)head, bytes, digest));
done:
    lh_bytes_close(&file);
    return st;
}

lh_status lhi_seal_check(lh_comm *comm, const char *path, const lhi_seal_kind *kind)
{
    lh_status st = LH_OK;
    int64_t said = 0, bytes = 0;
    uint64_t want = 0, have = 0;
    if (lhi_lead(comm)) st = seal_read(path, kind, &said, &want);
    LH_TRY(lh_files_agree(comm, st));
    if (comm != NULL) {
        lh_broadcast(comm, &said, (int64_t)sizeof said, LH_SEND_OTHER);
        lh_broadcast(comm, &want, (int64_t)sizeof want, LH_SEND_OTHER);
    }
    LH_TRY(lhi_digest_file(comm, path, LHI_SEAL_BYTES, &bytes, &have));
    /* All ranks compare the same numbers, so that all agree without asking. */
    LH_CHECK(bytes == said, LH_ERR_FORMAT,
             "'%s' has %lld bytes; %lld were written: it is torn or was changed", path,
             (long long)bytes, (long long)said);
    LH_CHECK(have == want, LH_ERR_FORMAT,
             "'%s' is damaged: its digest is %016llx, written was %016llx", path,
             (unsigned long long)have, (unsigned long long)want);
done:
    return st;
}

static lh_status seal_write(const char *path, const lhi_seal_kind *kind, int64_t bytes,
                            uint64_t digest)
{
    char head[LHI_SEAL_BYTES];
    lh_status st = LH_OK;
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return LH_RAISE(LH_ERR_IO, "cannot open '%s': %s", path, strerror(errno));
    seal_text(head, kind, bytes, digest);
    st = lhi_write_all(fd, path, head, LHI_SEAL_BYTES);
    if (close(fd) != 0 && st == LH_OK)
        st = LH_RAISE(LH_ERR_IO, "cannot close '%s': %s", path, strerror(errno));
    return st;
}

lh_status lhi_seal_close(lh_comm *comm, const char *path, const lhi_seal_kind *kind)
{
    int64_t bytes = 0;
    uint64_t digest = 0;
    /* Every rank syncs: on a network file system its own pages are its own affair. */
    lh_status st = lh_files_agree(comm, lhi_file_sync(path));
    if (st == LH_OK) st = lhi_digest_file(comm, path, LHI_SEAL_BYTES, &bytes, &digest);
    if (st != LH_OK) return st;
    if (lhi_lead(comm)) st = seal_write(path, kind, bytes, digest);
    if (lhi_lead(comm) && st == LH_OK) st = lhi_file_sync(path);
    return lh_files_agree(comm, st);
}

bool lhi_seal_is(const char *path, const lhi_seal_kind *kind)
{
    char head[64] = "";
    size_t n = strlen(kind->magic);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return false;
    ssize_t got = read(fd, head, sizeof head);
    (void)close(fd);
    return got >= (ssize_t)n && memcmp(head, kind->magic, n) == 0;
}

lh_status lhi_seal_end(lh_h5 **file, lh_status st)
{
    char where[256], text[LH_ERROR_TEXT_MAX];
    (void)snprintf(where, sizeof where, "%s", lh_error_where());
    (void)snprintf(text, sizeof text, "%s", lh_error_text());
    lh_status closed = lh_h5_close(file);
    return st != LH_OK ? lh_error_set(st, where, text) : closed;
}
