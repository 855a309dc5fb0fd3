#pragma once
/* HDF5 files that are sound as HDF5, with contents that the fuzzer chooses: a file is described item
 * by item, and written by the library's own calls with some items changed in name, type, shape,
 * storage or value, left out, or replaced by a link or another object. Damage of HDF5's structures
 * themselves is the library's affair (README, Tests): the digest keeps it away from the library. */
#include "io/h5.h"
#include "tests/fuzz/fuzz.h"

typedef enum shape_what { SHAPE_GROUP, SHAPE_DATA, SHAPE_ATTRIBUTE } shape_what;

typedef struct shape_item {
    shape_what what;
    const char *object; /* ATTRIBUTE: whose */
    const char *name;
    lh_h5_kind kind; /* LH_H5_TEXT: value is zero-terminated */
    int ndim;
    int64_t dim[2];
    const void *value;
} shape_item;

/* shape_int, shape_text - an attribute of the file. Local. */
#define SHAPE_INT(key, number)                                                                     \
    {                                                                                              \
        .what = SHAPE_ATTRIBUTE, .object = "/", .name = (key), .kind = LH_H5_INT64,                \
        .value = &(const int64_t)                                                                  \
        {                                                                                          \
            number                                                                                 \
        }                                                                                          \
    }
#define SHAPE_TEXT(owner, key, text)                                                               \
    {                                                                                              \
        .what = SHAPE_ATTRIBUTE, .object = (owner), .name = (key), .kind = LH_H5_TEXT,             \
        .value = (text)                                                                            \
    }

/* shape_write - the items [count], with as many changes as the first byte says, into a new file
 * behind a user block of user_bytes. Returns whether there were any changes. Local. */
bool shape_write(fuzz_bytes *b, const shape_item *items, int count, int64_t user_bytes,
                 const char *path);

/* shape_spoil - change one byte of the file, which the next bytes choose; false: none. Local. Targets do
 * so where the first byte of an input is at least SHAPE_SPOILED. */
enum { SHAPE_SPOILED = 240 };
bool shape_spoil(fuzz_bytes *b, const char *path);

/* shape_closed - no handle of HDF5 is left open. Local. */
bool shape_closed(void);
