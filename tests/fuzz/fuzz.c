#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <string.h>

uint8_t fuzz_byte(fuzz_bytes *b)
{
    if (b->left == 0) return 0;
    b->left--;
    return *b->at++;
}

void fuzz_raw(fuzz_bytes *b, void *out, size_t count)
{
    size_t n = count < b->left ? count : b->left;
    memset(out, 0, count);
    if (n > 0) memcpy(out, b->at, n);
    b->at += n;
    b->left -= n;
}

int64_t fuzz_number(fuzz_bytes *b)
{
    uint8_t how = fuzz_byte(b);
    uint64_t value = 0;
    if (how < 128) return how;
    if (how < 192) return (int64_t)(((uint64_t)1 << (how - 128)) + fuzz_byte(b) - 4u);
    if (how < 224) return (int64_t)((uint64_t)INT64_MAX - (how - 192u));
    if (how < 240) return -(int64_t)(how - 224);
    fuzz_raw(b, &value, sizeof value);
    return (int64_t)value;
}

const char *fuzz_text(fuzz_bytes *b, char *out, size_t room)
{
    size_t n = fuzz_byte(b);
    if (n == 255) n = 4 * (size_t)fuzz_byte(b);
    if (n > room - 1) n = room - 1;
    fuzz_raw(b, out, n);
    for (size_t i = 0; i < n; i++)
        if (out[i] == '\0') out[i] = 'x';
    out[n] = '\0';
    return out;
}

void fuzz_expect(bool holds, const char *what)
{
    if (holds) return;
    (void)fprintf(stderr, "fuzz: not so: %s\nfuzz: the last error: %s (%s)\n", what,
                  lh_error_text(), lh_error_where());
    __builtin_trap();
}

lh_status fuzz_status(lh_status st)
{
    fuzz_expect(st != LH_ERR_BUG, "no input makes an internal error");
    fuzz_expect(st == LH_OK || lh_error_text()[0] != '\0', "an error says what is wrong");
    return st;
}

const char *fuzz_file_put(const void *bytes, size_t count)
{
    static const char path[] = "fuzz-file";
    FILE *f = fopen(path, "we");
    bool good = f != NULL && fwrite(bytes, 1, count, f) == count;
    if (f != NULL) good = fclose(f) == 0 && good;
    fuzz_expect(good, "the file can be written");
    return path;
}
