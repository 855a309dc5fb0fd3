/* A checkpoint whose content is not what it should be, under a right digest; or one byte of it is
 * changed under a digest that is no longer right. The first byte chooses: it is listed, its weights
 * or its moments too are read into a model, or its heads are merged. */
#include "io/checkpoint.h"
#include "io/checkpoint_internal.h"
#include "io/seal.h"
#include "tests/fuzz/shape.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { CHECK_SUM = 24 };

static const float check_weight[6] = {1, -2, 3, 0.5f, 1e-30f, -0.0f};
static const double check_bias[4] = {0.25, -1e10, 3, 4};
static char check_sum[2][CHECK_SUM]; /* of the two; set by check_begin */

#define CHECK_DATA(path, type, dims, first, second, elements, sum)                                 \
    {.what = SHAPE_DATA,                                                                           \
     .name = (path),                                                                               \
     .kind = (type),                                                                               \
     .ndim = (dims),                                                                               \
     .dim = {first, second},                                                                       \
     .value = (elements)},                                                                         \
        SHAPE_TEXT(path, "checksum", sum)
#define CHECK_SET(group)                                                                           \
    CHECK_DATA(group "/a.weight", LH_H5_F32, 2, 2, 3, check_weight, check_sum[0]),                 \
        CHECK_DATA(group "/b", LH_H5_F64, 1, 4, 1, check_bias, check_sum[1])

static const shape_item check_items[] = {
    SHAPE_INT("format_version", 1),
    SHAPE_TEXT("/", "program", "1.0"),
    SHAPE_INT("step", 7),
    SHAPE_INT("tokens", 700),
    SHAPE_INT("samples", 14),
    SHAPE_INT("data_bytes", 1000),
    SHAPE_INT("seed", 1),
    SHAPE_INT("ranks", 2),
    SHAPE_INT("data", 1),
    SHAPE_INT("sequence", 2),
    SHAPE_TEXT("/", "layout", "contiguous"),
    SHAPE_TEXT("/", "precision", "float"),
    SHAPE_INT("optimizer", 1),
    {.what = SHAPE_DATA, .name = "configuration", .kind = LH_H5_TEXT, .value = "run: {}\n"},
    {.what = SHAPE_GROUP, .name = "parameters"},
    {.what = SHAPE_GROUP, .name = "optimizer"},
    {.what = SHAPE_GROUP, .name = "optimizer/m"},
    {.what = SHAPE_GROUP, .name = "optimizer/v"},
    CHECK_SET("parameters"),
    CHECK_SET("optimizer/m"),
    CHECK_SET("optimizer/v"),
    SHAPE_INT("complete", 1)};
enum { CHECK_ITEMS = sizeof check_items / sizeof check_items[0] };

static lh_device *check_device;
static lh_params *check_params;
static const char check_out[] = "fuzz-merged.h5";

static lh_status check_begin(void)
{
    lh_status st = LH_OK;
    const int coord[LH_AXES] = {0, 0};
    const uint64_t sum[2] = {lhi_checkpoint_hash(LH_H5_F32, check_weight, 6, 0),
                             lhi_checkpoint_hash(LH_H5_F64, check_bias, 4, 0)};
    for (int i = 0; i < 2; i++)
        (void)snprintf(check_sum[i], CHECK_SUM, "%016llx", (unsigned long long)sum[i]);
    LH_TRY(lh_device_create_cpu("portable", 1, &check_device));
    LH_TRY(lh_params_create(check_device, coord, &check_params));
    LH_TRY(lh_params_add(check_params, "a.weight", lh_shape_2(LH_REAL, 2, 3), lh_place_replicated(),
                         LH_INIT_ZERO, 0.0, NULL));
    LH_TRY(lh_params_add(check_params, "b", lh_shape_1(LH_REAL, 4), lh_place_replicated(),
                         LH_INIT_ZERO, 0.0, NULL));
    LH_TRY(lh_params_allocate(check_params, true));
done:
    return st;
}

/* Items may not claim what they cannot hold; returns whether all are sound by *user. */
static lh_status check_item(void *user, const lh_checkpoint_item *item)
{
    bool *sound = user;
    fuzz_expect(memchr(item->name, '\0', sizeof item->name) != NULL && item->ndim >= 0 &&
                    item->ndim <= LH_MAX_DIMS && item->elements >= 0,
                "an item has a name and a shape");
    *sound = *sound && item->sound;
    return LH_OK;
}

static bool check_list(const char *path)
{
    lh_checkpoint_info info = {0};
    bool sound = true;
    lh_status st = fuzz_status(lh_checkpoint_list(path, &info, check_item, &sound));
    fuzz_expect(st != LH_OK || info.config != NULL, "a checkpoint has a configuration");
    lh_checkpoint_info_free(&info);
    return st == LH_OK && sound;
}

static bool check_read(const char *path, lh_checkpoint_what what)
{
    lh_mesh mesh = {.size = {1, 1}, .ways = 1};
    lh_checkpoint_info info = {0};
    lh_status st = fuzz_status(lh_checkpoint_read(&mesh, path, what, check_params, &info));
    lh_checkpoint_info_free(&info);
    return st == LH_OK;
}

static bool check_merge(const char *path)
{
    const lh_checkpoint_merge merge = {.name = "b", .dim = 0, .from = 4, .to = 2};
    lh_status st = fuzz_status(lh_checkpoint_convert(path, check_out, "run: {}\n", &merge, 1));
    if (st == LH_OK) fuzz_expect(check_list(check_out), "a merged file is whole");
    fuzz_expect(access(check_out, F_OK) == (st == LH_OK ? 0 : -1), "a file after success alone");
    (void)unlink(check_out);
    return st == LH_OK;
}

static bool check_by(uint8_t how, const char *path)
{
    if (how % 4 == 0) return check_list(path);
    if (how % 4 == 1) return check_merge(path);
    return check_read(path, how % 4 == 2 ? LH_CHECKPOINT_WEIGHTS : LH_CHECKPOINT_ALL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char path[] = "fuzz-checkpoint.h5";
    fuzz_bytes b = {data, size};
    uint8_t how = fuzz_byte(&b);
    if (check_params == NULL) fuzz_expect(check_begin() == LH_OK, "there are parameters");
    bool changed = shape_write(&b, check_items, CHECK_ITEMS, LHI_SEAL_BYTES, path);
    fuzz_expect(lhi_checkpoint_seal(NULL, path) == LH_OK, "the file can be sealed");
    bool spoiled = how >= SHAPE_SPOILED && shape_spoil(&b, path);
    bool good = check_by(how, path);
    fuzz_expect(good || changed || spoiled, "a sound file is read");
    fuzz_expect(!good || !spoiled, "a changed byte is found");
    fuzz_expect(shape_closed(), "no handle of HDF5 is left open");
    return 0;
}
