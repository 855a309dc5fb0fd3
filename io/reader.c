#include "io/reader.h"

lh_status lhi_reader_open(const char *path, lhi_reader *r)
{
    lh_status st = LH_OK;
    r->line = 1;
    LH_TRY(lh_bytes_open(NULL, path, &r->file));
    LH_TRY(lh_new(LHI_READER_BLOCK, &r->block));
done:
    return st;
}

void lhi_reader_close(lhi_reader *r)
{
    lh_bytes_close(&r->file);
    lh_free(&r->block);
}

bool lhi_reader_fill(lhi_reader *r)
{
    int64_t left = lh_bytes_size(r->file) - r->offset - r->have;
    int64_t n = left < LHI_READER_BLOCK ? left : LHI_READER_BLOCK;
    if (n <= 0 || r->st != LH_OK) return false;
    r->st = lh_bytes_read(r->file, r->offset + r->have, n, r->block);
    if (r->st != LH_OK) return false;
    r->offset += r->have;
    r->have = n;
    r->at = 0;
    return true;
}
