/* Texts in HDF5 files, by the functions of h5.h alone. */
#include "io/h5.h"

#include <stdio.h>
#include <string.h>

lh_status lh_h5_copy_text(lh_h5 *file, const char *name, char *out, size_t room)
{
    char *text = NULL;
    lh_status st = lh_h5_get_text(file, "/", name, &text);
    (void)snprintf(out, room, "%s", text != NULL ? text : "");
    lh_free(&text);
    return st;
}

lh_status lh_h5_put_string(lh_h5 *file, const char *name, const char *text, bool writes)
{
    lh_h5_data data;
    lh_status st = lh_h5_define(file, name, LH_H5_TEXT, 0, NULL, strlen(text) + 1, &data);
    if (st == LH_OK && writes) st = lh_h5_write(&data, LH_H5_TEXT, NULL, text);
    lh_h5_release(&data);
    return st;
}
