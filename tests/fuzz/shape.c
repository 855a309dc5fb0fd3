#include "tests/fuzz/shape.h"

#include <hdf5.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { SHAPE_CHANGES = 5, SHAPE_ROOM = 1 << 16, SHAPE_TYPES = 26, SHAPE_RANK = 8, SHAPE_WORD = 96 };

typedef struct shape_change {
    bool omit, typed, shaped, stored, valued, renamed, instead, twice;
    int type, ndim, storage, object;
    int64_t bytes; /* of a string or another type without a size of its own */
    hsize_t dim[SHAPE_RANK];
    char name[SHAPE_WORD], target[SHAPE_WORD];
    uint8_t raw[64];
} shape_change;

/* --- the fuzzer's choices --- */

static void change_space(fuzz_bytes *b, shape_change *c)
{
    c->shaped = true;
    c->ndim = fuzz_byte(b) % (SHAPE_RANK + 2) - 1; /* -1: a space without elements */
    for (int i = 0; i < c->ndim; i++) {
        int64_t n = fuzz_number(b);
        c->dim[i] = n < 0 ? 0 : (hsize_t)n;
    }
}

static void change_read(fuzz_bytes *b, shape_change *c)
{
    switch (fuzz_byte(b) % 8) {
    case 0:
        c->omit = true;
        break;
    case 1:
        c->typed = true;
        c->type = fuzz_byte(b) % SHAPE_TYPES;
        c->bytes = fuzz_number(b);
        break;
    case 2:
        change_space(b, c);
        break;
    case 3:
        c->stored = true;
        c->storage = fuzz_byte(b);
        break;
    case 4:
        c->renamed = true;
        (void)fuzz_text(b, c->name, sizeof c->name);
        break;
    case 5:
        c->instead = true;
        c->object = fuzz_byte(b) % 5;
        (void)fuzz_text(b, c->target, sizeof c->target);
        break;
    case 6:
        c->twice = true;
        (void)fuzz_text(b, c->name, sizeof c->name);
        break;
    default:
        c->valued = true;
        for (size_t i = 0, n = fuzz_byte(b) % sizeof c->raw; i <= n; i += 8) {
            int64_t word = fuzz_number(b);
            memcpy(c->raw + i, &word, sizeof word);
        }
    }
}

/* --- types --- */

static hid_t type_string(int64_t bytes, H5T_str_t pad)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    (void)H5Tset_size(type, bytes == -1 ? H5T_VARIABLE : bytes < 1 ? 1 : (size_t)bytes);
    (void)H5Tset_strpad(type, pad);
    return type;
}

static hid_t type_made(int type, int64_t bytes)
{
    hid_t made = H5I_INVALID_HID;
    const hsize_t three = 3;
    switch (type) {
    case 15:
        return type_string(bytes, H5T_STR_NULLTERM);
    case 16:
        return type_string(bytes, H5T_STR_NULLPAD);
    case 17:
        return type_string(-1, H5T_STR_NULLTERM);
    case 18:
        made = H5Tcreate(H5T_COMPOUND, 16);
        (void)H5Tinsert(made, "a", 0, H5T_STD_I64LE);
        (void)H5Tinsert(made, "b", 8, H5T_IEEE_F64LE);
        return made;
    case 19:
        return H5Tarray_create2(H5T_IEEE_F32LE, 1, &three);
    case 20:
        return H5Tenum_create(H5T_STD_I32LE);
    case 21:
        return H5Tcreate(H5T_OPAQUE, bytes < 1 || bytes > 4096 ? 4 : (size_t)bytes);
    case 22:
        return H5Tvlen_create(H5T_STD_I32LE);
    case 23: /* integers of three bytes */
        made = H5Tcopy(H5T_STD_I32LE);
        (void)H5Tset_size(made, 3);
        return made;
    case 24: /* floats of eight bytes with other fields */
        made = H5Tcopy(H5T_IEEE_F64LE);
        (void)H5Tset_fields(made, 63, 48, 15, 0, 48);
        return made;
    default:
        return H5Tcopy(H5T_STD_REF_OBJ);
    }
}

static hid_t type_other(int type, int64_t bytes)
{
    const hid_t plain[15] = {H5T_IEEE_F32LE, H5T_IEEE_F64LE, H5T_IEEE_F32BE, H5T_IEEE_F64BE,
                             H5T_STD_I8LE,   H5T_STD_U8LE,   H5T_STD_I16LE,  H5T_STD_U16LE,
                             H5T_STD_U16BE,  H5T_STD_I32LE,  H5T_STD_U32LE,  H5T_STD_I32BE,
                             H5T_STD_I64LE,  H5T_STD_U64LE,  H5T_STD_I64BE};
    return type < 15 ? H5Tcopy(plain[type]) : type_made(type, bytes);
}

static hid_t type_of(const shape_item *item, const shape_change *c)
{
    if (c->typed) return type_other(c->type, c->bytes);
    switch (item->kind) {
    case LH_H5_F32:
        return H5Tcopy(H5T_IEEE_F32LE);
    case LH_H5_F64:
        return H5Tcopy(H5T_IEEE_F64LE);
    case LH_H5_INT32:
        return H5Tcopy(H5T_STD_I32LE);
    case LH_H5_INT64:
        return H5Tcopy(H5T_STD_I64LE);
    case LH_H5_UINT8:
        return H5Tcopy(H5T_STD_U8LE);
    default:
        return type_string((int64_t)strlen(item->value) + 1, H5T_STR_NULLTERM);
    }
}

static hid_t space_of(const shape_item *item, const shape_change *c)
{
    hsize_t dim[2] = {(hsize_t)item->dim[0], (hsize_t)item->dim[1]};
    int ndim = c->shaped ? c->ndim : item->ndim;
    if (ndim < 0) return H5Screate(H5S_NULL);
    if (ndim == 0) return H5Screate(H5S_SCALAR);
    return H5Screate_simple(ndim, c->shaped ? c->dim : dim, NULL);
}

/* Do they fit into the room for values? Others are announced, never written. */
static bool is_small(hid_t type, hid_t space)
{
    size_t bytes = H5Tget_size(type);
    hssize_t count = H5Sget_simple_extent_npoints(space);
    return bytes >= 1 && count >= 1 && count <= SHAPE_ROOM && bytes <= SHAPE_ROOM / (size_t)count;
}

/* How the elements lie in the file: as ours do, late, in the header, in chunks, compressed. */
static hid_t storage_of(const shape_change *c, hid_t type, hid_t space)
{
    hid_t how = H5Pcreate(H5P_DATASET_CREATE);
    hsize_t chunk[H5S_MAX_RANK];
    int kind = c->stored ? c->storage % 5 : 0;
    int ndim = H5Sget_simple_extent_ndims(space);
    (void)H5Pset_obj_track_times(how, false);
    if (kind == 0 && is_small(type, space)) (void)H5Pset_alloc_time(how, H5D_ALLOC_TIME_EARLY);
    if (kind == 2) (void)H5Pset_layout(how, H5D_COMPACT);
    for (int i = 0; i < ndim; i++) chunk[i] = (hsize_t)(1 + c->storage / 5 % 4);
    if (kind >= 3 && ndim > 0) (void)H5Pset_chunk(how, ndim, chunk);
    if (kind == 4) (void)H5Pset_deflate(how, 1);
    return how;
}

/* --- writing --- */

/* The elements as they are to be, as far as they are few. Strings and numbers of other sizes get the
 * same bytes. NULL: they stay unwritten. */
static const void *value_of(const shape_item *item, const shape_change *c, hid_t type, hid_t space)
{
    static uint8_t room[SHAPE_ROOM];
    size_t have = 0;
    bool plain = H5Tdetect_class(type, H5T_VLEN) <= 0 && H5Tis_variable_str(type) <= 0 &&
                 H5Tget_class(type) != H5T_REFERENCE;
    if (!plain || !is_small(type, space)) return NULL;
    if (item->kind == LH_H5_TEXT)
        have = strlen(item->value) + 1;
    else
        have = lh_h5_kind_bytes(item->kind) * (size_t)(item->ndim > 0 ? item->dim[0] : 1) *
               (size_t)(item->ndim > 1 ? item->dim[1] : 1);
    memset(room, 0, sizeof room);
    memcpy(room, item->value, have < sizeof room ? have : sizeof room);
    if (c->valued) memcpy(room, c->raw, sizeof c->raw);
    return room;
}

static void write_data(hid_t file, const char *name, const shape_item *item, const shape_change *c)
{
    hid_t type = type_of(item, c), space = space_of(item, c), how = storage_of(c, type, space);
    hid_t id = H5Dcreate2(file, name, type, space, H5P_DEFAULT, how, H5P_DEFAULT);
    const void *value = value_of(item, c, type, space);
    if (id >= 0 && value != NULL) (void)H5Dwrite(id, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, value);
    if (id >= 0) (void)H5Dclose(id);
    (void)H5Pclose(how);
    (void)H5Sclose(space);
    (void)H5Tclose(type);
}

static void write_attribute(hid_t file, const char *name, const shape_item *item,
                            const shape_change *c)
{
    hid_t type = type_of(item, c), space = space_of(item, c), id = H5I_INVALID_HID;
    const void *value = value_of(item, c, type, space);
    /* HDF5 1.10.8 writes beyond its memory when asked for an attribute of 2^63 - 1 elements */
    if (H5Sget_simple_extent_npoints(space) == 0 || is_small(type, space))
        id = H5Acreate_by_name(file, item->object, name, type, space, H5P_DEFAULT, H5P_DEFAULT,
                               H5P_DEFAULT);
    if (id >= 0 && value != NULL) (void)H5Awrite(id, type, value);
    if (id >= 0) (void)H5Aclose(id);
    (void)H5Sclose(space);
    (void)H5Tclose(type);
}

static void write_group(hid_t file, const char *name)
{
    hid_t id = H5Gcreate2(file, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (id >= 0) (void)H5Gclose(id);
}

/* Another object in the place of a group or dataset. */
static void write_instead(hid_t file, const shape_item *item, const shape_change *c)
{
    static const int32_t seven = 7;
    static const shape_item number = {.what = SHAPE_DATA, .kind = LH_H5_INT32, .value = &seven};
    static const shape_change none = {.ndim = 0};
    hid_t type = H5I_INVALID_HID;
    switch (c->object) {
    case 0:
        if (item->what == SHAPE_GROUP)
            write_data(file, item->name, &number, &none);
        else
            write_group(file, item->name);
        break;
    case 1:
        (void)H5Lcreate_soft(c->target, file, item->name, H5P_DEFAULT, H5P_DEFAULT);
        break;
    case 2: /* a group that holds itself, or another dataset */
        (void)H5Lcreate_hard(file, c->target[0] != '\0' ? c->target : "/", file, item->name,
                             H5P_DEFAULT, H5P_DEFAULT);
        break;
    case 3:
        (void)H5Lcreate_external("no-such-file.h5", "/", file, item->name, H5P_DEFAULT,
                                 H5P_DEFAULT);
        break;
    default:
        type = H5Tcopy(H5T_IEEE_F32LE);
        (void)H5Tcommit2(file, item->name, type, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        (void)H5Tclose(type);
    }
}

static void write_named(hid_t file, const char *name, const shape_item *item, const shape_change *c)
{
    if (item->what == SHAPE_GROUP)
        write_group(file, name);
    else if (item->what == SHAPE_DATA)
        write_data(file, name, item, c);
    else
        write_attribute(file, name, item, c);
}

static void write_item(hid_t file, const shape_item *item, const shape_change *c)
{
    if (c->omit) return;
    if (c->instead && item->what != SHAPE_ATTRIBUTE)
        write_instead(file, item, c);
    else
        write_named(file, c->renamed ? c->name : item->name, item, c);
    if (c->twice) write_named(file, c->name, item, c);
}

bool shape_write(fuzz_bytes *b, const shape_item *items, int count, int64_t user_bytes,
                 const char *path)
{
    static shape_change change[64];
    int changes = fuzz_byte(b) % SHAPE_CHANGES;
    fuzz_expect(count <= 64, "as many items as there is room for");
    memset(change, 0, sizeof change);
    for (int i = 0; i < changes; i++) change_read(b, &change[fuzz_byte(b) % count]);
    (void)H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    hid_t shape = H5Pcreate(H5P_FILE_CREATE);
    (void)H5Pset_userblock(shape, (hsize_t)user_bytes);
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, shape, H5P_DEFAULT);
    fuzz_expect(file >= 0, "an HDF5 file can be made in memory");
    for (int i = 0; i < count; i++) write_item(file, &items[i], &change[i]);
    (void)H5Fclose(file);
    (void)H5Pclose(shape);
    (void)H5Eclear2(H5E_DEFAULT);
    return changes > 0;
}

bool shape_spoil(fuzz_bytes *b, const char *path)
{
    struct stat info;
    uint8_t mask = fuzz_byte(b), byte = 0;
    uint32_t where = 0;
    if (mask == 0) return false;
    fuzz_raw(b, &where, sizeof where);
    FILE *f = fopen(path, "r+e");
    bool good = f != NULL && fstat(fileno(f), &info) == 0;
    long at = good ? (long)(where % (uint64_t)info.st_size) : 0;
    good = good && fseek(f, at, SEEK_SET) == 0 && fread(&byte, 1, 1, f) == 1;
    byte ^= mask;
    good = good && fseek(f, at, SEEK_SET) == 0 && fwrite(&byte, 1, 1, f) == 1;
    if (f != NULL) good = fclose(f) == 0 && good;
    fuzz_expect(good, "a byte of the file can be changed");
    return true;
}

bool shape_closed(void)
{
    return H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) == 0;
}
