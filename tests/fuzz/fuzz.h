#pragma once
/* What the fuzz targets share: the fuzzer's bytes as a source of choices, and the one way to report a finding that no sanitizer would see. */
#include "core/status.h"

/* Bytes that are taken from the front; behind their end come zeros, so that every input means
 * something and a short one means "as usual". */
typedef struct fuzz_bytes {
    const uint8_t *at;
    size_t left;
} fuzz_bytes;

/* fuzz_byte, fuzz_number - the next byte; a number by the next byte: small, at a power of two, near
 * an end of int64_t, or by eight more bytes. Local. */
uint8_t fuzz_byte(fuzz_bytes *b);
int64_t fuzz_number(fuzz_bytes *b);

/* fuzz_text - a text of at most room - 1 characters without zero bytes: its length, then its
 * characters. Returns out. Local. */
const char *fuzz_text(fuzz_bytes *b, char *out, size_t room);

/* fuzz_raw - the next count bytes. Local. */
void fuzz_raw(fuzz_bytes *b, void *out, size_t count);

/* fuzz_expect - stop here if it does not hold; the fuzzer then keeps the input. Local. */
void fuzz_expect(bool holds, const char *what);

/* fuzz_status - whatever the input: no internal error, and every error says something. Returns st.
 * Local. */
lh_status fuzz_status(lh_status st);

/* fuzz_file_put - these bytes become a file in the working directory, which no other process uses.
 * Local. Returns its path. */
const char *fuzz_file_put(const void *bytes, size_t count);
