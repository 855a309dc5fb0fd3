#include "io/checkpoint_internal.h"
#include "io/seal.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { CONVERT_NAME = 128 };

/* A conversion on its way: one process, both files open. */
typedef struct convert_job {
    lh_h5 *from, *to;
    const lh_checkpoint_merge *merge;
    int64_t merges;
    char *names; /* of all parameters */
    int64_t count;
} convert_job;

static const lh_checkpoint_merge *convert_find(const convert_job *job, const char *name)
{
    for (int64_t i = 0; i < job->merges; i++)
        if (strcmp(job->merge[i].name, name) == 0) return &job->merge[i];
    return NULL;
}

/* Elements of the dimensions first .. last - 1. */
static int64_t convert_elements(const lh_h5_data *d, int first, int last)
{
    int64_t n = 1;
    for (int i = first; i < last; i++) n *= d->dim[i];
    return n;
}

/* The mean of each group of `group` neighbours (Ainslie et al. 2023, section 2.1): from [outer, heads,
 * inner] to [outer, heads / group, inner]. */
#define CONVERT_MEAN(type)                                                                         \
    static void convert_mean_##type(const type *from, type *to, int64_t blocks, int64_t group,     \
                                    int64_t inner)                                                 \
    {                                                                                              \
        for (int64_t b = 0; b < blocks; b++) {                                                     \
            for (int64_t i = 0; i < inner; i++) {                                                  \
                double sum = 0.0;                                                                  \
                for (int64_t h = 0; h < group; h++)                                                \
                    sum += (double)from[(b * group + h) * inner + i];                              \
                to[b * inner + i] = (type)(sum / (double)group);                                   \
            }                                                                                      \
        }                                                                                          \
    }
CONVERT_MEAN(float)
CONVERT_MEAN(double)

static lh_status convert_merge(const lh_h5_data *from, const lh_h5_data *to,
                               const lh_checkpoint_merge *merge, uint64_t *sum)
{
    lh_status st = LH_OK;
    void *all = NULL;
    void *means = NULL;
    int64_t group = merge->from / merge->to;
    int64_t blocks = convert_elements(from, 0, merge->dim) * merge->to;
    int64_t inner =
        convert_elements(from, merge->dim + 1, from->ndim) * (from->dim[merge->dim] / merge->from);
    size_t bytes = lh_h5_kind_bytes(from->kind);
    LH_TRY(lh_host_alloc((size_t)(blocks * group * inner) * bytes, &all));
    LH_TRY(lh_host_alloc((size_t)(blocks * inner) * bytes, &means));
    LH_TRY(lh_h5_read(from, from->kind, NULL, all));
    if (from->kind == LH_H5_F32)
        convert_mean_float(all, means, blocks, group, inner);
    else
        convert_mean_double(all, means, blocks, group, inner);
    *sum = lhi_checkpoint_hash(from->kind, means, blocks * inner, 0);
    LH_TRY(lh_h5_write(to, to->kind, NULL, means));
done:
    lh_host_release(&means);
    lh_host_release(&all);
    return st;
}

/* The parameter's shape in the new file. */
static lh_status convert_shape(const lh_h5_data *from, const lh_checkpoint_merge *merge,
                               int64_t dim[LH_MAX_DIMS])
{
    lh_status st = LH_OK;
    LH_CHECK(from->kind == LH_H5_F32 || from->kind == LH_H5_F64, LH_ERR_FORMAT,
             "%s is neither float nor double", from->name);
    LH_CHECK(from->ndim >= 1, LH_ERR_FORMAT, "%s has no dimensions", from->name);
    memcpy(dim, from->dim, sizeof from->dim);
    if (merge == NULL) goto done;
    LH_CHECK(merge->to >= 1 && merge->from % merge->to == 0, LH_ERR_BUG, "%lld heads from %lld",
             (long long)merge->to, (long long)merge->from);
    LH_CHECK(merge->dim < from->ndim && dim[merge->dim] % merge->from == 0, LH_ERR_FORMAT,
             "%s has not the shape of %lld heads, which the configuration says", from->name,
             (long long)merge->from);
    dim[merge->dim] = dim[merge->dim] / merge->from * merge->to;
done:
    return st;
}

/* One parameter with its checksum. */
static lh_status convert_tensor(const convert_job *job, const char *name)
{
    lh_status st = LH_OK;
    char path[CONVERT_NAME];
    char text[24];
    uint64_t sum = 0;
    int64_t dim[LH_MAX_DIMS];
    const lh_checkpoint_merge *merge = convert_find(job, name);
    lh_h5_data from = {.id = -1};
    lh_h5_data to = {.id = -1};
    (void)snprintf(path, sizeof path, "%s/%.96s", lhi_checkpoint_group(0), name);
    LH_TRY(lh_h5_find(job->from, path, &from));
    LH_TRY(convert_shape(&from, merge, dim));
    LH_TRY(lh_h5_define(job->to, path, from.kind, from.ndim, dim, 0, &to));
    if (merge != NULL && merge->from != merge->to)
        LH_TRY(convert_merge(&from, &to, merge, &sum));
    else
        LH_TRY(lhi_checkpoint_copy(&from, &to, &sum));
    (void)snprintf(text, sizeof text, "%016llx", (unsigned long long)sum);
    LH_TRY(lh_h5_put_text(job->to, path, "checksum", text));
done:
    lh_h5_release(&to);
    lh_h5_release(&from);
    return st;
}

static lh_status convert_fill(convert_job *job, const lh_checkpoint_info *info)
{
    lh_status st = LH_OK;
    LH_TRY(lhi_checkpoint_describe(job->to, info, true));
    LH_TRY(lh_h5_group(job->to, lhi_checkpoint_group(0)));
    const char *name = job->names;
    for (int64_t i = 0; i < job->count; i++, name += strlen(name) + 1)
        LH_TRY(convert_tensor(job, name));
    LH_TRY(lh_h5_put_int(job->to, "/", "complete", 1));
    LH_TRY(lh_h5_flush(job->to));
done:
    return st;
}

/* About the size of the new file, rather more: what HDF5 needs for one dataset is below 2 KiB. */
static lh_status convert_bytes(const convert_job *job, const char *config, int64_t *bytes)
{
    lh_status st = LH_OK;
    char path[CONVERT_NAME];
    const char *name = job->names;
    *bytes = (64 << 10) + (int64_t)strlen(config) + 2048 * job->count;
    for (int64_t i = 0; i < job->count; i++, name += strlen(name) + 1) {
        lh_h5_data data;
        (void)snprintf(path, sizeof path, "%s/%.96s", lhi_checkpoint_group(0), name);
        LH_TRY(lh_h5_find(job->from, path, &data));
        *bytes += convert_elements(&data, 0, data.ndim) * (int64_t)lh_h5_kind_bytes(data.kind);
        lh_h5_release(&data);
    }
done:
    return st;
}

static lh_status convert_sound(void *user, const lh_checkpoint_item *item)
{
    (void)user;
    if (item->sound) return LH_OK;
    return LH_RAISE(LH_ERR_FORMAT, "%s was not written as it is: the disk is not reliable",
                    item->name);
}

/* Does the new file hold what was written? Against its digest and every checksum. */
static lh_status convert_verify(const char *path)
{
    lh_checkpoint_info info = {0};
    lh_status st = lh_checkpoint_list(path, &info, convert_sound, NULL);
    lh_checkpoint_info_free(&info);
    return st;
}

/* The new file under its temporary name. */
static lh_status convert_make(convert_job *job, const char *path, const lh_checkpoint_info *info)
{
    lh_status st = LH_OK;
    int64_t bytes = 0;
    LH_TRY(convert_bytes(job, info->config, &bytes));
    /* Room is asked for before HDF5 begins, and held once it has made the file: where the library
     * meets a full disk itself it may crash at the end of the program. */
    LH_TRY(lhi_file_reserve(path, bytes, true));
    LH_TRY(lh_h5_create(NULL, path, LHI_SEAL_BYTES, &job->to));
    st = lhi_file_hold(NULL, path, bytes);
    if (st == LH_OK) st = convert_fill(job, info);
    if (st != LH_OK && truncate(path, 0) != 0)
        st = lh_error_context(st, "(and '%s' cannot be cut)", path);
    LH_TRY(lhi_seal_end(&job->to, st));
    LH_TRY(lhi_checkpoint_seal(NULL, path));
    LH_TRY(convert_verify(path));
done:
    return st;
}

lh_status lh_checkpoint_convert(const char *from, const char *to, const char *config,
                                const lh_checkpoint_merge *merge, int64_t merges)
{
    lh_status st = LH_OK;
    convert_job job = {.merge = merge, .merges = merges};
    lh_checkpoint_info info = {0};
    lh_checkpoint_info changed = {0};
    char beside[LH_PATH_MAX] = "";
    LH_CHECK(!lh_file_exists(NULL, to), LH_ERR_USAGE,
             "'%s' exists already: remove it, or give another name", to);
    LH_CHECK(snprintf(beside, sizeof beside, "%s.tmp", to) < (int)sizeof beside, LH_ERR_USAGE,
             "the name '%s' is too long", to);
    LH_TRY(lhi_checkpoint_open(NULL, from, &job.from, &info));
    changed = info;
    changed.optimizer = false;
    LH_TRY(lh_new_text(config, &changed.config));
    LH_TRY(lh_h5_list(job.from, lhi_checkpoint_group(0), &job.names, &job.count));
    st = convert_make(&job, beside, &changed);
    if (st == LH_OK) st = lhi_file_move(beside, to);
    if (st != LH_OK) (void)unlink(beside);
done:
    lh_free(&job.names);
    lh_free(&changed.config);
    lh_checkpoint_info_free(&info);
    return lhi_seal_end(&job.from, st);
}
