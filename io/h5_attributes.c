/* Attributes of HDF5 files. */
#include "io/h5_internal.h"

#include <string.h>

static lh_status h5_put(lh_h5 *file, const char *object, const char *name, hid_t type, hid_t memory,
                        const void *value)
{
    lh_status st = LH_OK;
    hid_t space = H5Screate(H5S_SCALAR), id = H5I_INVALID_HID;
    if (space >= 0)
        id = H5Acreate_by_name(file->id, object, name, type, space, H5P_DEFAULT, H5P_DEFAULT,
                               H5P_DEFAULT);
    if (id < 0 || H5Awrite(id, memory, value) < 0)
        st = lhi_h5_error(LH_ERR_IO, "write the attribute", name, file->path);
    lhi_h5_drop(&id, H5Aclose);
    lhi_h5_drop(&space, H5Sclose);
    return st;
}

lh_status lh_h5_put_int(lh_h5 *file, const char *object, const char *name, int64_t value)
{
    return h5_put(file, object, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

lh_status lh_h5_put_text(lh_h5 *file, const char *object, const char *name, const char *value)
{
    hid_t type = lhi_h5_text_type(strlen(value) + 1);
    lh_status st = h5_put(file, object, name, type, type, value);
    lhi_h5_drop(&type, H5Tclose);
    return st;
}

bool lh_h5_has_attribute(lh_h5 *file, const char *object, const char *name)
{
    return H5Aexists_by_name(file->id, object, name, H5P_DEFAULT) > 0;
}

/* An attribute of one element, open, with its kind. */
static lh_status h5_get(lh_h5 *file, const char *object, const char *name, hid_t *id,
                        lh_h5_kind *kind, size_t *text_bytes)
{
    lh_status st = LH_OK;
    hid_t type = H5I_INVALID_HID, space = H5I_INVALID_HID;
    *id = H5I_INVALID_HID;
    LH_CHECK(lh_h5_has_attribute(file, object, name), LH_ERR_FORMAT,
             "'%s' has no attribute '%s' at '%s'", file->path, name, object);
    *id = H5Aopen_by_name(file->id, object, name, H5P_DEFAULT, H5P_DEFAULT);
    if (*id >= 0) {
        type = H5Aget_type(*id);
        space = H5Aget_space(*id);
    }
    if (type < 0 || space < 0)
        LH_TRY(lhi_h5_error(LH_ERR_FORMAT, "open the attribute", name, file->path));
    LH_CHECK(H5Sget_simple_extent_npoints(space) == 1 && lhi_h5_holds(file, type, 0, NULL),
             LH_ERR_FORMAT, "attribute '%s' of '%s' is no single value", name, file->path);
    *kind = lhi_h5_kind_of(type, text_bytes);
done:
    lhi_h5_drop(&type, H5Tclose);
    lhi_h5_drop(&space, H5Sclose);
    (void)H5Eclear2(H5E_DEFAULT);
    return st;
}

lh_status lh_h5_get_int(lh_h5 *file, const char *object, const char *name, int64_t *value)
{
    lh_status st = LH_OK;
    hid_t id = H5I_INVALID_HID;
    lh_h5_kind kind = LH_H5_OTHER;
    size_t bytes = 0;
    *value = 0;
    LH_TRY(h5_get(file, object, name, &id, &kind, &bytes));
    LH_CHECK(kind == LH_H5_INT64 || kind == LH_H5_INT32, LH_ERR_FORMAT,
             "attribute '%s' of '%s' is no integer", name, file->path);
    if (H5Aread(id, H5T_NATIVE_INT64, value) < 0)
        LH_TRY(lhi_h5_error(LH_ERR_FORMAT, "read the attribute", name, file->path));
done:
    lhi_h5_drop(&id, H5Aclose);
    return st;
}

lh_status lh_h5_get_text(lh_h5 *file, const char *object, const char *name, char **value)
{
    lh_status st = LH_OK;
    hid_t id = H5I_INVALID_HID, type = H5I_INVALID_HID;
    lh_h5_kind kind = LH_H5_OTHER;
    size_t bytes = 0;
    *value = NULL;
    LH_TRY(h5_get(file, object, name, &id, &kind, &bytes));
    LH_CHECK(kind == LH_H5_TEXT, LH_ERR_FORMAT, "attribute '%s' of '%s' is no text of fixed length",
             name, file->path);
    LH_TRY(lh_new(bytes + 2, value));
    /* One more than stored: a padded string of the file may have no closing NUL of its own. */
    type = lhi_h5_text_type(bytes + 1);
    if (type < 0 || H5Aread(id, type, *value) < 0)
        LH_TRY(lhi_h5_error(LH_ERR_FORMAT, "read the attribute", name, file->path));
done:
    lhi_h5_drop(&type, H5Tclose);
    lhi_h5_drop(&id, H5Aclose);
    if (st != LH_OK) lh_free(value);
    return st;
}
