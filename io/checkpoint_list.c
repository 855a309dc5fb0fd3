/* What a checkpoint holds, without a model that it should fit. */
#include "io/checkpoint_internal.h"
#include "io/seal.h"

#include <stdio.h>
#include <string.h>

/* Reads a dataset in slices of its first dimension; the sum of hashes over (bits, index). */
static lh_status list_sum(const lh_h5_data *data, int64_t rows, int64_t inner, uint64_t *sum)
{
    lh_status st = LH_OK;
    void *block = NULL;
    int64_t most = inner < LHI_CHECKPOINT_STAGE ? LHI_CHECKPOINT_STAGE / inner : 1;
    lh_h5_slab slab;
    LH_TRY(lh_new((size_t)(most * inner) * lh_h5_kind_bytes(data->kind), &block));
    for (int i = 0; i < LH_MAX_DIMS; i++) {
        slab.start[i] = 0;
        slab.stride[i] = 1;
        slab.count[i] = i < data->ndim ? data->dim[i] : 1;
    }
    for (int64_t row = 0; row < rows; row += most) {
        slab.start[0] = row;
        slab.count[0] = rows - row < most ? rows - row : most;
        LH_TRY(lh_h5_read(data, data->kind, &slab, block));
        *sum += lhi_checkpoint_hash(data->kind, block, slab.count[0] * inner, row * inner);
    }
done:
    lh_free(&block);
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
    int64_t rows = data.ndim > 0 ? data.dim[0] : 1;
    if (item->elements > 0) LH_TRY(list_sum(&data, rows, item->elements / rows, &sum));
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
