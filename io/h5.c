#include "io/h5_internal.h"

#include "parallel/mpi_handle.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { h5_headroom = 32 << 20 }; /* bytes: more than they take */

/* --- errors
 * -------------------------------------------------------------------------------------------------------- */

typedef struct h5_words {
    int taken;
    char text[512];
} h5_words;

/* The two innermost entries say what went wrong and with which number; the outer ones repeat the
 * call stack. */
static herr_t h5_collect(unsigned n, const H5E_error2_t *entry, void *user)
{
    h5_words *words = user;
    (void)n;
    if (entry->desc == NULL || entry->desc[0] == '\0' || words->taken == 2) return 0;
    size_t used = strlen(words->text);
    (void)snprintf(words->text + used, sizeof words->text - used, "%s%s", used > 0 ? ", " : "",
                   entry->desc);
    words->taken++;
    return 0;
}

lh_status lhi_h5_error(lh_status code, const char *what, const char *name, const char *path)
{
    h5_words words = {0};
    (void)H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, h5_collect, &words);
    (void)H5Eclear2(H5E_DEFAULT);
    const char *quote = name[0] != '\0' ? "'" : "";
    return LH_RAISE(code, "cannot %s %s%s%sof '%s' (HDF5: %s)", what, quote, name,
                    name[0] != '\0' ? "' " : "", path,
                    words.text[0] != '\0' ? words.text : "no reason given");
}

/* --- kinds
 * --------------------------------------------------------------------------------------------------------- */

size_t lh_h5_kind_bytes(lh_h5_kind kind)
{
    static const size_t bytes[LH_H5_KINDS] = {
        [LH_H5_F32] = 4,   [LH_H5_F64] = 8,   [LH_H5_INT32] = 4,
        [LH_H5_INT64] = 8, [LH_H5_UINT8] = 1, [LH_H5_UINT16] = 2};
    return (unsigned)kind < LH_H5_KINDS ? bytes[kind] : 0;
}

static hid_t h5_memory_type(lh_h5_kind kind)
{
    switch (kind) {
    case LH_H5_F32:
        return H5T_NATIVE_FLOAT;
    case LH_H5_F64:
        return H5T_NATIVE_DOUBLE;
    case LH_H5_INT32:
        return H5T_NATIVE_INT32;
    case LH_H5_INT64:
        return H5T_NATIVE_INT64;
    case LH_H5_UINT8:
        return H5T_NATIVE_UINT8;
    case LH_H5_UINT16:
        return H5T_NATIVE_UINT16;
    default:
        return H5I_INVALID_HID;
    }
}

/* Files are little-endian wherever they are written. */
static hid_t h5_file_type(lh_h5_kind kind)
{
    switch (kind) {
    case LH_H5_F32:
        return H5T_IEEE_F32LE;
    case LH_H5_F64:
        return H5T_IEEE_F64LE;
    case LH_H5_INT32:
        return H5T_STD_I32LE;
    case LH_H5_INT64:
        return H5T_STD_I64LE;
    case LH_H5_UINT8:
        return H5T_STD_U8LE;
    case LH_H5_UINT16:
        return H5T_STD_U16LE;
    default:
        return H5I_INVALID_HID;
    }
}

hid_t lhi_h5_text_type(size_t bytes)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    if (type < 0) return type;
    if (H5Tset_size(type, bytes) >= 0 && H5Tset_strpad(type, H5T_STR_NULLTERM) >= 0) return type;
    (void)H5Tclose(type);
    return H5I_INVALID_HID;
}

lh_h5_kind lhi_h5_kind_of(hid_t type, size_t *text_bytes)
{
    size_t bytes = H5Tget_size(type);
    H5T_class_t class = H5Tget_class(type);
    bool is_signed = class == H5T_INTEGER && H5Tget_sign(type) == H5T_SGN_2;
    *text_bytes = 0;
    if (class == H5T_FLOAT && bytes == 4) return LH_H5_F32;
    if (class == H5T_FLOAT && bytes == 8) return LH_H5_F64;
    if (is_signed && bytes == 4) return LH_H5_INT32;
    if (is_signed && bytes == 8) return LH_H5_INT64;
    if (class == H5T_INTEGER && !is_signed && bytes == 1) return LH_H5_UINT8;
    if (class == H5T_INTEGER && !is_signed && bytes == 2) return LH_H5_UINT16;
    if (class != H5T_STRING || H5Tis_variable_str(type) != 0) return LH_H5_OTHER;
    *text_bytes = bytes;
    return LH_H5_TEXT;
}

/* --- files
 * --------------------------------------------------------------------------------------------------------- */

static lh_status h5_new(lh_comm *comm, const char *path, lh_h5 **out)
{
    lh_status st = LH_OK;
    lh_h5 *file = NULL;
    LH_TRY(lh_new(sizeof *file, &file));
    LH_TRY(lh_new_probe(h5_headroom)); /* the library and MPI-IO crash where they get no memory */
    file->id = H5I_INVALID_HID;
    file->comm = comm;
    int n = snprintf(file->path, sizeof file->path, "%s", path);
    LH_CHECK(n > 0 && n < (int)sizeof file->path, LH_ERR_USAGE,
             "the file name '%.60s' is empty or too long", path);
    LH_CHECK(comm == NULL || !lh_comm_counting(comm), LH_ERR_BUG, "%s: a counting mesh", path);
    /* The library starts here at the latest; its own printing of errors ends here. */
    LH_CHECK(H5open() >= 0 && H5Eset_auto2(H5E_DEFAULT, NULL, NULL) >= 0, LH_ERR_IO,
             "the HDF5 library does not start");
done:
    *out = file;
    return lh_files_agree(comm, st);
}

void lhi_h5_give_up(lh_comm *comm, const char *path)
{
    if (lhi_lead(comm)) (void)unlink(path);
    if (!lhi_lead(comm)) lh_barrier(comm); /* which rank 0 does not come to: one rank says it */
    lh_fatal(comm, "%s", lh_error_text());
}

/* How the file is reached: MPI-IO on comm, or this process alone. */
static hid_t h5_access(lh_comm *comm)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (access < 0 || comm == NULL) return access;
    if (H5Pset_fapl_mpio(access, lh_comm_mpi(comm), MPI_INFO_NULL) >= 0) return access;
    (void)H5Pclose(access);
    return H5I_INVALID_HID;
}

void lhi_h5_drop(hid_t *id, herr_t (*drop)(hid_t))
{
    if (*id >= 0) (void)drop(*id);
    *id = H5I_INVALID_HID;
}

lh_status lh_h5_create(lh_comm *comm, const char *path, int64_t user_bytes, lh_h5 **out)
{
    hid_t access = H5I_INVALID_HID, shape = H5I_INVALID_HID;
    lh_h5 *file = NULL;
    *out = NULL;
    lh_status st = h5_new(comm, path, &file);
    if (st == LH_OK) {
        access = h5_access(comm);
        shape = H5Pcreate(H5P_FILE_CREATE);
        if (access < 0 || shape < 0 || H5Pset_userblock(shape, (hsize_t)user_bytes) < 0)
            st = lhi_h5_error(LH_ERR_IO, "create", "", path);
        /* Opening is collective: either all ranks come to it or none. */
        st = lh_files_agree(comm, st);
    }
    if (st == LH_OK) {
        file->written = true;
        file->id = H5Fcreate(path, H5F_ACC_TRUNC, shape, access);
        int64_t made = file->id >= 0;
        if (!made) st = lhi_h5_error(LH_ERR_IO, "create", "", path);
        st = lh_files_agree(comm, st);
        if (st != LH_OK && comm != NULL) lh_max_i64(comm, &made, 1, LH_SEND_OTHER);
        if (st != LH_OK && made) lhi_h5_give_up(comm, path);
    }
    lhi_h5_drop(&access, H5Pclose);
    lhi_h5_drop(&shape, H5Pclose);
    if (st != LH_OK) lh_free(&file);
    *out = file;
    return st;
}

/* Is it there, readable, and does it begin as HDF5 files do (at 0, 512, 1024, ...)? Asked by rank 0
 * before the library opens it, for a message that says which. */
static lh_status h5_look(const char *path)
{
    static const unsigned char sign[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    unsigned char head[8];
    char *unused = NULL;
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        size_t count = 0;
        return lh_read_small(NULL, path, &unused, &count); /* fails, with its message */
    }
    bool found = false;
    for (long at = 0; !found; at = at == 0 ? 512 : at * 2) {
        if (fseek(f, at, SEEK_SET) != 0 || fread(head, 1, sizeof head, f) != sizeof head) break;
        found = memcmp(head, sign, sizeof head) == 0;
    }
    (void)fclose(f);
    if (found) return LH_OK;
    return LH_RAISE(LH_ERR_FORMAT, "'%s' is not an HDF5 file, or its beginning is lost", path);
}

lh_status lh_h5_open(lh_comm *comm, const char *path, lh_h5 **out)
{
    hid_t access = H5I_INVALID_HID;
    lh_h5 *file = NULL;
    *out = NULL;
    lh_status st = h5_new(comm, path, &file);
    if (st == LH_OK) {
        if (lhi_lead(comm)) st = h5_look(path);
        access = h5_access(comm);
        if (access < 0 && st == LH_OK) st = lhi_h5_error(LH_ERR_IO, "open", "", path);
        st = lh_files_agree(comm, st);
    }
    if (st == LH_OK) {
        file->id = H5Fopen(path, H5F_ACC_RDONLY, access);
        if (file->id < 0) st = lhi_h5_error(LH_ERR_FORMAT, "open", "", path);
        st = lh_files_agree(comm, st);
    }
    lhi_h5_drop(&access, H5Pclose);
    if (st != LH_OK) {
        if (file != NULL && comm == NULL) lhi_h5_drop(&file->id, H5Fclose);
        lh_free(&file);
    }
    *out = file;
    return st;
}

lh_status lh_h5_flush(lh_h5 *file)
{
    lh_status st = LH_OK;
    if (H5Fflush(file->id, H5F_SCOPE_GLOBAL) < 0)
        st = lhi_h5_error(LH_ERR_IO, "write to the end", "", file->path);
    return lh_files_agree(file->comm, st);
}

lh_status lh_h5_close(lh_h5 **file)
{
    lh_h5 *f = *file;
    lh_status st = LH_OK;
    if (f == NULL) return LH_OK;
    if (H5Fclose(f->id) < 0) st = lhi_h5_error(LH_ERR_IO, "close", "", f->path);
    st = lh_files_agree(f->comm, st);
    lh_free(file);
    return st;
}

/* --- structure
 * ----------------------------------------------------------------------------------------------------- */

lh_status lh_h5_group(lh_h5 *file, const char *name)
{
    hid_t group = H5Gcreate2(file->id, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (group < 0) return lhi_h5_error(LH_ERR_IO, "make the group", name, file->path);
    lhi_h5_drop(&group, H5Gclose);
    return LH_OK;
}

static void h5_name(lh_h5_data *data, const lh_h5 *file, const char *name)
{
    *data = (lh_h5_data){.id = -1, .path = file->path};
    (void)snprintf(data->name, sizeof data->name, "%s", name);
}

lh_status lh_h5_define(lh_h5 *file, const char *name, lh_h5_kind kind, int ndim, const int64_t *dim,
                       size_t text_bytes, lh_h5_data *data)
{
    lh_status st = LH_OK;
    hid_t type = H5I_INVALID_HID, space = H5I_INVALID_HID, how = H5I_INVALID_HID;
    hsize_t extent[LH_MAX_DIMS];
    h5_name(data, file, name);
    LH_CHECK(ndim >= 0 && ndim <= LH_MAX_DIMS && (unsigned)kind < LH_H5_OTHER, LH_ERR_BUG,
             "dataset '%s': %d dimensions, kind %d", name, ndim, (int)kind);
    for (int i = 0; i < ndim; i++) extent[i] = (hsize_t)(data->dim[i] = dim[i]);
    type = kind == LH_H5_TEXT ? lhi_h5_text_type(text_bytes) : H5Tcopy(h5_file_type(kind));
    space = ndim > 0 ? H5Screate_simple(ndim, extent, NULL) : H5Screate(H5S_SCALAR);
    how = H5Pcreate(H5P_DATASET_CREATE);
    /* Every element is written by some rank: filling first would write everything twice. No time of
     * day inside: the same run gives the same bytes. */
    bool good = type >= 0 && space >= 0 && how >= 0 && H5Pset_obj_track_times(how, false) >= 0 &&
                H5Pset_fill_time(how, H5D_FILL_TIME_NEVER) >= 0 &&
                H5Pset_alloc_time(how, H5D_ALLOC_TIME_EARLY) >= 0;
    if (good) data->id = H5Dcreate2(file->id, name, type, space, H5P_DEFAULT, how, H5P_DEFAULT);
    if (!good || data->id < 0) {
        data->id = -1;
        LH_TRY(lhi_h5_error(LH_ERR_IO, "make the dataset", name, file->path));
    }
    data->kind = kind;
    data->ndim = ndim;
    data->text_bytes = text_bytes;
done:
    lhi_h5_drop(&type, H5Tclose);
    lhi_h5_drop(&space, H5Sclose);
    lhi_h5_drop(&how, H5Pclose);
    return st;
}

/* Bytes that one byte of a file can stand for: deflated chunks, at most (zlib's limit). */
enum { H5_INFLATES = 1032 };

/* Has the file room for so many elements? So every count and product of counts stays far below an
 * overflow, and nobody reads for hours what was never written. */
bool lhi_h5_holds(const lh_h5 *file, hid_t type, int ndim, const hsize_t *extent)
{
    hsize_t left = 0;
    size_t bytes = H5Tget_size(type);
    if (file->written) return true;
    if (bytes == 0 || H5Fget_filesize(file->id, &left) < 0) return false;
    left = left * H5_INFLATES / bytes;
    for (int i = 0; i < ndim; i++) {
        hsize_t n = extent[i] > 0 ? extent[i] : 1;
        if (n > left) return false;
        left /= n;
    }
    return left > 0;
}

lh_status lh_h5_find(lh_h5 *file, const char *name, lh_h5_data *data)
{
    lh_status st = LH_OK;
    hid_t type = H5I_INVALID_HID, space = H5I_INVALID_HID;
    hsize_t extent[H5S_MAX_RANK];
    h5_name(data, file, name);
    LH_CHECK(lh_h5_has(file, name), LH_ERR_FORMAT, "'%s' has no dataset '%s'", file->path, name);
    data->id = H5Dopen2(file->id, name, H5P_DEFAULT);
    if (data->id >= 0) {
        type = H5Dget_type(data->id);
        space = H5Dget_space(data->id);
    }
    if (type < 0 || space < 0)
        LH_TRY(lhi_h5_error(LH_ERR_FORMAT, "open the dataset", name, file->path));
    H5S_class_t class = H5Sget_simple_extent_type(space);
    data->ndim = H5Sget_simple_extent_dims(space, NULL, NULL);
    LH_CHECK((class == H5S_SCALAR || class == H5S_SIMPLE) && data->ndim >= 0 &&
                 data->ndim <= LH_MAX_DIMS,
             LH_ERR_FORMAT, "dataset '%s' of '%s' has %d dimensions; at most %d were expected",
             name, file->path, data->ndim, LH_MAX_DIMS);
    (void)H5Sget_simple_extent_dims(space, extent, NULL);
    LH_CHECK(lhi_h5_holds(file, type, data->ndim, extent), LH_ERR_FORMAT,
             "dataset '%s' of '%s' has more elements than the file has room for", name, file->path);
    for (int i = 0; i < data->ndim; i++) data->dim[i] = (int64_t)extent[i];
    data->kind = lhi_h5_kind_of(type, &data->text_bytes);
done:
    lhi_h5_drop(&type, H5Tclose);
    lhi_h5_drop(&space, H5Sclose);
    if (st != LH_OK) lh_h5_release(data);
    return st;
}

bool lh_h5_has(lh_h5 *file, const char *name)
{
    char part[256];
    bool there = name[0] == '@' ? H5Aexists(file->id, name + 1) > 0 : true;
    if (name[0] == '@' || strcmp(name, "/") == 0) return there;
    int n = snprintf(part, sizeof part, "%s", name);
    if (n <= 0 || n >= (int)sizeof part) return false;
    /* HDF5 wants every link on the way asked for by itself. */
    for (char *end = part + 1; there; end++) {
        char kept = *end;
        if (kept != '/' && kept != '\0') continue;
        *end = '\0';
        there = H5Lexists(file->id, part, H5P_DEFAULT) > 0;
        *end = kept;
        if (kept == '\0') break;
    }
    there = there && H5Oexists_by_name(file->id, name, H5P_DEFAULT) > 0;
    (void)H5Eclear2(H5E_DEFAULT);
    return there;
}

void lh_h5_release(lh_h5_data *data)
{
    hid_t id = (hid_t)data->id;
    lhi_h5_drop(&id, H5Dclose);
    data->id = -1;
}

int64_t lh_h5_offset(const lh_h5_data *data)
{
    haddr_t at = HADDR_UNDEF;
    hid_t how = H5Dget_create_plist((hid_t)data->id);
    hid_t type = H5Dget_type((hid_t)data->id);
    /* read without the library they must be little-endian, whatever wrote them */
    bool plain = how >= 0 && H5Pget_layout(how) == H5D_CONTIGUOUS && type >= 0 &&
                 H5Tget_order(type) != H5T_ORDER_BE;
    if (plain) at = H5Dget_offset((hid_t)data->id);
    lhi_h5_drop(&how, H5Pclose);
    lhi_h5_drop(&type, H5Tclose);
    (void)H5Eclear2(H5E_DEFAULT);
    return at == HADDR_UNDEF ? -1 : (int64_t)at;
}

typedef struct h5_names {
    char *text;
    int64_t bytes, capacity, count;
    lh_status st;
} h5_names;

static herr_t h5_add_name(hid_t group, const char *name, const H5L_info_t *info, void *user)
{
    h5_names *names = user;
    size_t n = strlen(name) + 1;
    (void)group, (void)info;
    names->st = lh_grow(&names->text, &names->capacity, names->bytes + (int64_t)n, 1);
    if (names->st != LH_OK) return -1;
    memcpy(names->text + names->bytes, name, n);
    names->bytes += (int64_t)n;
    names->count++;
    return 0;
}

lh_status lh_h5_list(lh_h5 *file, const char *group, char **names, int64_t *count)
{
    lh_status st = LH_OK;
    h5_names list = {0};
    hid_t id = H5I_INVALID_HID;
    LH_CHECK(lh_h5_has(file, group), LH_ERR_FORMAT, "'%s' has no group '%s'", file->path, group);
    id = H5Gopen2(file->id, group, H5P_DEFAULT);
    if (id < 0 || H5Literate(id, H5_INDEX_NAME, H5_ITER_INC, NULL, h5_add_name, &list) < 0) {
        LH_TRY(list.st); /* no memory; else the library failed */
        LH_TRY(lhi_h5_error(LH_ERR_FORMAT, "list the group", group, file->path));
    }
done:
    lhi_h5_drop(&id, H5Gclose);
    if (st != LH_OK) {
        lh_free(&list.text);
        list.count = 0;
    }
    *names = list.text;
    *count = list.count;
    return st;
}

/* --- elements
 * ------------------------------------------------------------------------------------------------------ */

/* The selected part of the dataset, and memory of as many elements in one row. */
static lh_status h5_select(const lh_h5_data *data, const lh_h5_slab *slab, hid_t *memory,
                           hid_t *disk)
{
    hsize_t start[LH_MAX_DIMS], stride[LH_MAX_DIMS], count[LH_MAX_DIMS], total = 1;
    *memory = *disk = H5S_ALL;
    if (slab == NULL || data->ndim == 0) return LH_OK;
    for (int i = 0; i < data->ndim; i++) {
        int64_t n = slab->count[i], last = slab->start[i] + (n - 1) * slab->stride[i];
        if (n < 1 || slab->start[i] < 0 || slab->stride[i] < 1 || last >= data->dim[i])
            return LH_RAISE(LH_ERR_BUG, "dataset '%s', dimension %d: %lld + %lld x %lld of %lld",
                            data->name, i, (long long)slab->start[i], (long long)n,
                            (long long)slab->stride[i], (long long)data->dim[i]);
        start[i] = (hsize_t)slab->start[i];
        stride[i] = (hsize_t)slab->stride[i];
        total *= count[i] = (hsize_t)n;
    }
    *memory = H5Screate_simple(1, &total, NULL);
    *disk = H5Dget_space((hid_t)data->id);
    if (*memory >= 0 && *disk >= 0 &&
        H5Sselect_hyperslab(*disk, H5S_SELECT_SET, start, stride, count, NULL) >= 0)
        return LH_OK;
    return lhi_h5_error(LH_ERR_IO, "select a part of", data->name, data->path);
}

static lh_status h5_transfer(const lh_h5_data *data, lh_h5_kind kind, const lh_h5_slab *slab,
                             const void *from, void *to)
{
    lh_status st = LH_OK;
    hid_t memory = H5S_ALL, disk = H5S_ALL, type = H5I_INVALID_HID;
    bool text = data->kind == LH_H5_TEXT;
    LH_CHECK(data->kind != LH_H5_OTHER && text == (kind == LH_H5_TEXT), LH_ERR_FORMAT,
             "dataset '%s' of '%s' does not hold %s", data->name, data->path,
             kind == LH_H5_TEXT ? "text" : "numbers as expected");
    LH_CHECK(!text || data->ndim == 0, LH_ERR_FORMAT, "dataset '%s' of '%s' holds several texts",
             data->name, data->path);
    type = text ? lhi_h5_text_type(data->text_bytes) : H5Tcopy(h5_memory_type(kind));
    if (type < 0) LH_TRY(lhi_h5_error(LH_ERR_IO, "convert", data->name, data->path));
    LH_TRY(h5_select(data, slab, &memory, &disk));
    hid_t id = (hid_t)data->id;
    herr_t err = from != NULL ? H5Dwrite(id, type, memory, disk, H5P_DEFAULT, from)
                              : H5Dread(id, type, memory, disk, H5P_DEFAULT, to);
    if (err < 0) st = lhi_h5_error(LH_ERR_IO, from ? "write" : "read", data->name, data->path);
    /* MPI-IO keeps the reason to itself. */
    if (err < 0 && from != NULL) st = lh_error_context(st, "is the disk full?");
done:
    lhi_h5_drop(&type, H5Tclose);
    if (memory != H5S_ALL) lhi_h5_drop(&memory, H5Sclose);
    if (disk != H5S_ALL) lhi_h5_drop(&disk, H5Sclose);
    return st;
}

lh_status lh_h5_write(const lh_h5_data *data, lh_h5_kind kind, const lh_h5_slab *slab,
                      const void *memory)
{
    return h5_transfer(data, kind, slab, memory, NULL);
}

lh_status lh_h5_read(const lh_h5_data *data, lh_h5_kind kind, const lh_h5_slab *slab, void *memory)
{
    return h5_transfer(data, kind, slab, NULL, memory);
}

lh_status lh_h5_read_all(lh_h5 *file, const char *name, lh_h5_kind kind, int64_t count,
                         void *memory)
{
    lh_status st = LH_OK;
    lh_h5_data data;
    int64_t have = 1;
    LH_TRY(lh_h5_find(file, name, &data));
    for (int i = 0; i < data.ndim; i++) have *= data.dim[i];
    LH_CHECK(have == count, LH_ERR_FORMAT, "dataset '%s' of '%s' has %lld elements; expected %lld",
             name, file->path, (long long)have, (long long)count);
    if (count > 0) LH_TRY(lh_h5_read(&data, kind, NULL, memory));
done:
    lh_h5_release(&data);
    return st;
}
