/* What a checkpoint holds, without a model that it should fit. */
#include "io/checkpoint_internal.h"
#include "io/seal.h"

#include <stdio.h>
#include <string.h>

lh_status lhi_checkpoint_copy(const lh_h5_data *from, const lh_h5_data *to, uint64_t *sum)
{
    lh_status st = LH_OK;
    void *stage = NULL;
    int64_t rows = from->ndim > 0 ? from->dim[0] : 1;
    int64_t inner = 1;
    lh_h5_slab slab;
    *sum = 0;
    for (int i = 0; i < LH_MAX_DIMS; i++) {
        slab.start[i] = 0;
        slab.stride[i] = 1;
        slab.count[i] = i < from->ndim ? from->dim[i] : 1;
        if (i > 0) inner *= slab.count[i];
    }
    if (rows * inner == 0) goto done;
    int64_t most = inner < LHI_CHECKPOINT_STAGE ? LHI_CHECKPOINT_STAGE / inner : 1;
    LH_TRY(lh_host_alloc((size_t)(most * inner) * lh_h5_kind_bytes(from->kind), &stage));
    for (int64_t row = 0; row < rows; row += most) {
        slab.start[0] = row;
        slab.count[0] = rows - row < most ? rows - row : most;
        LH_TRY(lh_h5_read(from, from->kind, &slab, stage));
        *sum += lhi_checkpoint_hash(from->kind, stage, slab.count[0] * inner, row * inner);
        if (to != NULL) LH_TRY(lh_h5_write(to, to->kind, &slab, stage));
    }
done:
    lh_host_release(&stage);
    return st;
}

static lh_status list_item(lh_h5 *file, const char *name, lh_checkpoint_item *item)
{
    lh_status st = LH_OK;
    lh_h5_data data;
    uint64_t sum = 0;
    char have[24];
    char *want = NULL;
    LH_TRY(lh_h5_find(file, name, &data));
    LH_CHECK(data.kind == LH_H5_F32 || data.kind == LH_H5_F64, LH_ERR_FORMAT,
             "%s is neither float nor double", name);
    (void)snprintf(item->name, sizeof item->name, "%s", name);
    item->type = data.kind == LH_H5_F32 ? "float" : "double";
    item->ndim = data.ndim;
    item->elements = 1;
    memcpy(item->dim, data.dim, sizeof item->dim);
    for (int i = 0; i < data.ndim; i++) item->elements *= data.dim[i];
    LH_TRY(lhi_checkpoint_copy(&data, NULL, &sum));
    LH_TRY(lh_h5_get_text(file, name, "checksum", &want));
    (void)snprintf(have, sizeof have, "%016llx", (unsigned long long)sum);
    item->sound = strcmp(have, want) == 0;
done:
    lh_free(&want);
    lh_h5_release(&data);
    return st;
}

static lh_status list_set(lh_h5 *file, int set,
                          lh_status (*visit)(void *user, const lh_checkpoint_item *item),
                          void *user)
{
    lh_status st = LH_OK;
    char *names = NULL;
    int64_t count = 0;
    LH_TRY(lh_h5_list(file, lhi_checkpoint_group(set), &names, &count));
    const char *name = names;
    for (int64_t i = 0; i < count; i++, name += strlen(name) + 1) {
        lh_checkpoint_item item = {.name = ""};
        char full[256];
        (void)snprintf(full, sizeof full, "%s/%.200s", lhi_checkpoint_group(set), name);
        LH_TRY(list_item(file, full, &item));
        LH_TRY(visit(user, &item));
    }
done:
    lh_free(&names);
    return st;
}

lh_status lh_checkpoint_list(const char *path, lh_checkpoint_info *info,
                             lh_status (*visit)(void *user, const lh_checkpoint_item *item),
                             void *user)
{
    lh_status st = LH_OK;
    lh_h5 *file = NULL;
    LH_TRY(lh_checkpoint_info_read(NULL, path, info));
    LH_TRY(lh_h5_open(NULL, path, &file));
    for (int set = 0; set < (info->optimizer ? LHI_CHECKPOINT_SETS : 1); set++)
        LH_TRY(list_set(file, set, visit, user));
done:
    if (file != NULL) st = lhi_seal_end(&file, st);
    return lh_error_context(st, "'%s'", path);
}
