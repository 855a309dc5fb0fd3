#pragma once
/* Shared by h5.c and h5_attributes.c. */
#include <hdf5.h>

#include "io/files.h"
#include "io/h5.h"

struct lh_h5 {
    hid_t id;
    lh_comm *comm; /* borrowed; NULL: this process alone */
    bool written;  /* by us: its size is not known yet */
    char path[LH_PATH_MAX];
};

/* lhi_h5_error - raise code: "cannot WHAT 'NAME' of 'PATH'", with HDF5's own words, which are taken from its
 * stack. name may be "". Local. */
lh_status lhi_h5_error(lh_status code, const char *what, const char *name, const char *path);

/* lhi_h5_drop - release what is there and forget it. Local. */
void lhi_h5_drop(hid_t *id, herr_t (*drop)(hid_t));

/* lhi_h5_text_type - texts of so many bytes; the caller closes it; negative: none could be made. Local. */
hid_t lhi_h5_text_type(size_t bytes);

/* lhi_h5_kind_of - which of our kinds a stored type is; of texts with their bytes. Local. */
lh_h5_kind lhi_h5_kind_of(hid_t type, size_t *text_bytes);

/* lhi_h5_holds - can the file hold so many elements of the type? What claims more is damaged. Local. */
bool lhi_h5_holds(const lh_h5 *file, hid_t type, int ndim, const hsize_t *extent);
