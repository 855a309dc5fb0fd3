/* In place of h5.c, for a program without HDF5: no file can be opened, so nothing else ever happens. Only
 * what readers of data name is here. */
#include "io/h5.h"

static lh_status h5_none(void)
{
    return LH_RAISE(LH_ERR_UNSUP, "this program is built without HDF5: it opens no such file");
}

size_t lh_h5_kind_bytes(lh_h5_kind kind)
{
    (void)kind;
    return 0;
}

lh_status lh_h5_open(lh_comm *comm, const char *path, lh_h5 **out)
{
    (void)comm, (void)path;
    *out = NULL;
    return h5_none();
}

lh_status lh_h5_close(lh_h5 **file)
{
    *file = NULL;
    return LH_OK;
}

lh_status lh_h5_define(lh_h5 *file, const char *name, lh_h5_kind kind, int ndim, const int64_t *dim,
                       size_t text_bytes, lh_h5_data *data)
{
    (void)file, (void)name, (void)kind, (void)ndim, (void)dim, (void)text_bytes;
    data->id = -1;
    return h5_none();
}

lh_status lh_h5_find(lh_h5 *file, const char *name, lh_h5_data *data)
{
    (void)file, (void)name;
    data->id = -1;
    return h5_none();
}

void lh_h5_release(lh_h5_data *data)
{
    data->id = -1;
}

lh_status lh_h5_write(const lh_h5_data *data, lh_h5_kind kind, const lh_h5_slab *slab,
                      const void *memory)
{
    (void)data, (void)kind, (void)slab, (void)memory;
    return h5_none();
}

lh_status lh_h5_read(const lh_h5_data *data, lh_h5_kind kind, const lh_h5_slab *slab, void *memory)
{
    (void)data, (void)kind, (void)slab, (void)memory;
    return h5_none();
}

int64_t lh_h5_offset(const lh_h5_data *data)
{
    (void)data;
    return -1;
}

lh_status lh_h5_get_int(lh_h5 *file, const char *object, const char *name, int64_t *value)
{
    (void)file, (void)object, (void)name;
    *value = 0;
    return h5_none();
}

lh_status lh_h5_get_text(lh_h5 *file, const char *object, const char *name, char **value)
{
    (void)file, (void)object, (void)name;
    *value = NULL;
    return h5_none();
}
