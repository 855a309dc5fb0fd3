#include "core/pulse.h"
#include "io/checkpoint_internal.h"
#include "io/digest.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Elements are staged twice: as in the file, and as in memory. */
enum { data_limit = LHI_CHECKPOINT_STAGE, data_name_max = 128 };

const char *lhi_checkpoint_group(int set)
{
    return set == 0 ? "parameters" : set == 1 ? "optimizer/m" : "optimizer/v";
}

static void data_name(char name[data_name_max], int set, const lh_param *p)
{
    (void)snprintf(name, data_name_max, "%s/%s", lhi_checkpoint_group(set), p->name);
}

/* Is the tensor part of a checkpoint? What is not learned has no moments. */
static bool data_belongs(const lh_param *p, int set)
{
    return set == 0 || !p->frozen;
}

/* What is not learned may be missing in a file: it stays as it was drawn. */
static bool data_absent(lh_h5 *file, const lh_param *p, const char *name)
{
    return p->frozen && !lh_h5_has(file, name);
}

/* Where a checkpoint that is read holds the tensor: a parameter that the file lacks takes the one it
 * starts as a copy of. */
static void data_source(lh_h5 *file, char name[data_name_max], int set, const lh_param *p)
{
    data_name(name, set, p);
    if (set > 0 || p->like[0] == '\0' || lh_h5_has(file, name)) return;
    (void)snprintf(name, data_name_max, "%s/%s", lhi_checkpoint_group(set), p->like);
    if (!lh_h5_has(file, name)) data_name(name, set, p);
}

/* Moments are whole tensors of the parameter's shape; a scalar becomes one element in one
 * dimension. */
static int data_dims(const lh_shape *shape, int64_t dim[LH_MAX_DIMS])
{
    for (int i = 0; i < LH_MAX_DIMS; i++) dim[i] = i < shape->ndim ? shape->dim[i] : 1;
    return shape->ndim > 0 ? shape->ndim : 1;
}

static void *data_device(const lh_param *p, int set)
{
    return set == 0 ? p->value : set == 1 ? p->m : p->v;
}

/* --- the walk: a rank's part of a tensor in pieces
 * ------------------------------------------------------------------ */

/* A piece: `rows` slices along the dimension `cut`, each of `inner` elements, next to each other in
 * this rank's memory. */
typedef struct data_piece {
    int64_t local, count; /* first element in this rank's tensor; elements */
    int64_t rows, inner;
    int64_t first, step; /* index of the first element in the whole tensor; from row to row */
    lh_h5_slab slab;
} data_piece;

typedef struct data_walk {
    int ndim, shard, cut; /* shard: the dimension that is spread over the sequence axis, or -1 */
    int64_t dim[LH_MAX_DIMS], mine[LH_MAX_DIMS];
    const lh_layout *layout;
    int rank;
    int64_t inner, outers, outer; /* outer: index over the dimensions before the cut */
    lh_run all;                   /* the runs of a dimension that is not spread */
    const lh_run *run; /* the runs of the one that is spread, if the cut is there; else NULL */
    int64_t runs, at, taken; /* run and rows of it that are done */
    int64_t local;
} data_walk;

static data_walk data_walk_of(const lh_mesh *mesh, const lh_param *p)
{
    const lh_place_word *word = &p->place.axis[LH_AXIS_SEQ];
    data_walk w = {.shard = -1, .rank = mesh->coord[LH_AXIS_SEQ]};
    w.ndim = data_dims(&p->whole, w.dim);
    (void)data_dims(&p->shape, w.mine);
    if (word->kind == LH_SHARD) {
        w.shard = word->dim;
        w.layout = word->layout;
    }
    /* Cut where a slice fits into the stage, but not before the dimension that is spread: its rows
     * lie apart. */
    w.cut = w.shard > 0 ? w.shard : 0;
    for (;; w.cut++) {
        w.inner = 1;
        for (int i = w.cut + 1; i < w.ndim; i++) w.inner *= w.mine[i];
        if (w.inner <= data_limit || w.cut == w.ndim - 1) break;
    }
    w.outers = lh_shape_count(&p->shape) > 0 ? 1 : 0;
    for (int i = 0; i < w.cut; i++) w.outers *= w.mine[i];
    w.all = (lh_run){0, w.dim[w.cut], 1};
    w.runs = 1;
    if (w.cut == w.shard) w.run = lh_layout_runs(w.layout, w.rank, &w.runs);
    return w;
}

static void data_fill(const data_walk *w, const lh_run *run, int64_t rows, data_piece *piece)
{
    int64_t rest = w->outer, first = 0;
    *piece =
        (data_piece){.local = w->local, .count = rows * w->inner, .rows = rows, .inner = w->inner};
    for (int i = w->cut - 1; i >= 0; i--) {
        int64_t here = rest % w->mine[i];
        rest /= w->mine[i];
        piece->slab.start[i] = i == w->shard ? lh_layout_position(w->layout, w->rank, here) : here;
    }
    piece->slab.start[w->cut] = run->start + w->taken * run->stride;
    for (int i = 0; i < w->ndim; i++) {
        piece->slab.stride[i] = i == w->cut && rows > 1 ? run->stride : 1;
        piece->slab.count[i] = i < w->cut ? 1 : i == w->cut ? rows : w->dim[i];
        first = first * w->dim[i] + piece->slab.start[i];
    }
    piece->first = first;
    piece->step = run->stride * w->inner;
}

static bool data_next(data_walk *w, data_piece *piece)
{
    const lh_run *run = w->run != NULL ? w->run : &w->all;
    for (; w->outer < w->outers; w->outer++, w->at = 0) {
        for (; w->at < w->runs; w->at++, w->taken = 0) {
            const lh_run *r = &run[w->at];
            int64_t rows = r->count - w->taken, most = data_limit / w->inner;
            if (rows <= 0) continue;
            if (rows > most) rows = most > 0 ? most : 1;
            if (r->stride < 1) rows = 1; /* descending: HDF5 selects upwards only */
            data_fill(w, r, rows, piece);
            w->taken += rows;
            w->local += piece->count;
            return true;
        }
    }
    return false;
}

/* --- elements: hashes and precision
 * --------------------------------------------------------------------------------- */

uint64_t lhi_checkpoint_hash(lh_h5_kind kind, const void *elements, int64_t count, int64_t first)
{
    uint64_t sum = 0;
    const uint32_t *narrow = elements;
    const uint64_t *wide = elements;
    for (int64_t i = 0; i < count; i++)
        sum += lhi_digest_word(kind == LH_H5_F32 ? narrow[i] : wide[i], (uint64_t)(first + i));
    return sum;
}

static uint64_t data_hash(const data_piece *piece, lh_h5_kind kind, const void *elements)
{
    uint64_t sum = 0;
    size_t row = (size_t)piece->inner * lh_h5_kind_bytes(kind);
    for (int64_t r = 0; r < piece->rows; r++)
        sum += lhi_checkpoint_hash(kind, (const char *)elements + (size_t)r * row, piece->inner,
                                   piece->first + r * piece->step);
    return sum;
}

/* The file's elements as lh_real. */
static lh_status data_convert(lh_h5_kind kind, const void *from, lh_real *to, int64_t count,
                              const lh_h5_data *data)
{
    const float *narrow = from;
    const double *wide = from;
    /* the very bits: through another type and back a NaN becomes another one */
    if (kind == LH_H5_REAL) {
        memcpy(to, from, (size_t)count * sizeof *to);
        return LH_OK;
    }
    for (int64_t i = 0; i < count; i++) {
        to[i] = (lh_real)(kind == LH_H5_F32 ? (double)narrow[i] : wide[i]);
        if (kind == LH_H5_F64 && isfinite(wide[i]) && !isfinite((double)to[i]))
            return LH_RAISE(LH_ERR_RANGE, "%s of '%s' holds %g, which is too large for %s",
                            data->name, data->path, wide[i], LH_REAL_NAME);
    }
    return LH_OK;
}

/* --- one tensor
 * ----------------------------------------------------------------------------------------------------- */

typedef struct data_stage {
    lhi_checkpoint_pass pass;
    lh_mesh *mesh;
    lh_device *device;
    void *raw;     /* as in the file */
    lh_real *real; /* as in memory */
    bool bad;      /* this rank has failed: it only takes part in what others wait for */
} data_stage;

/* Does this rank's part count: is it written, and hashed, here? Replicas are written once. */
static bool data_owner(const lh_mesh *mesh, const lh_param *p)
{
    if (p->place.axis[LH_AXIS_SEQ].kind == LH_SHARD) return mesh->coord[LH_AXIS_DATA] == 0;
    return lh_comm_rank(mesh->world) == 0;
}

static lh_status data_store(const data_stage *s, const lh_param *p, const void *device,
                            const lh_h5_data *data, uint64_t *sum)
{
    lh_status st = LH_OK;
    size_t bytes = lh_dtype_bytes(LH_REAL);
    data_piece piece;
    if (!data_owner(s->mesh, p)) return LH_OK;
    data_walk walk = data_walk_of(s->mesh, p);
    while (data_next(&walk, &piece)) {
        lh_copy_out(s->device, s->real, (const char *)device + (size_t)piece.local * bytes,
                    (size_t)piece.count * bytes);
        *sum += data_hash(&piece, LH_H5_REAL, s->real);
        LH_TRY(lh_h5_write(data, LH_H5_REAL, &piece.slab, s->real));
    }
done:
    return st;
}

/* Verify or load. A replicated tensor is read by rank 0 and broadcast; no rank leaves before the
 * last broadcast, so an error is only remembered. */
static lh_status data_fetch(const data_stage *s, const lh_param *p, void *device,
                            const lh_h5_data *data, uint64_t *sum)
{
    lh_status st = LH_OK;
    size_t bytes = lh_dtype_bytes(LH_REAL);
    bool load = s->pass == LHI_CHECKPOINT_LOAD, owner = data_owner(s->mesh, p);
    bool share = load && p->place.axis[LH_AXIS_SEQ].kind != LH_SHARD;
    bool reads = owner || (load && !share);
    data_piece piece;
    data_walk walk = data_walk_of(s->mesh, p);
    if (s->bad || data->id < 0) reads = false;
    while ((reads || share) && data_next(&walk, &piece)) {
        lh_pulse_beat(s->device->pulse);
        if (reads && st == LH_OK) st = lh_h5_read(data, data->kind, &piece.slab, s->raw);
        if (reads && owner && st == LH_OK) *sum += data_hash(&piece, data->kind, s->raw);
        if (reads && load && st == LH_OK)
            st = data_convert(data->kind, s->raw, s->real, piece.count, data);
        if (share)
            lh_broadcast(s->mesh->world, s->real, piece.count * (int64_t)bytes, LH_SEND_OTHER);
        if (load && st == LH_OK)
            lh_copy_in(s->device, (char *)device + (size_t)piece.local * bytes, s->real,
                       (size_t)piece.count * bytes);
    }
    return st;
}

/* One tensor of a pass; collective when it is loaded. After an error this rank only broadcasts
 * along. */
static lh_status data_tensor(data_stage *s, lh_h5 *file, const lh_param *p, int set, uint64_t *sum)
{
    lh_status st = LH_OK;
    char name[data_name_max];
    lh_h5_data data = {.id = -1};
    if (!data_belongs(p, set)) return LH_OK;
    if (s->pass == LHI_CHECKPOINT_STORE)
        data_name(name, set, p);
    else
        data_source(file, name, set, p);
    if (s->pass != LHI_CHECKPOINT_STORE && data_absent(file, p, name)) return LH_OK;
    if (!s->bad) st = lh_h5_find(file, name, &data);
    if (st != LH_OK) s->bad = true;
    if (s->pass != LHI_CHECKPOINT_STORE) {
        lh_status fetched = data_fetch(s, p, data_device(p, set), &data, sum);
        if (st == LH_OK) st = fetched;
    } else if (!s->bad) {
        st = data_store(s, p, data_device(p, set), &data, sum);
    }
    if (st != LH_OK) s->bad = true;
    lh_h5_release(&data);
    return st;
}

static lh_status data_compare_one(lh_h5 *file, const lh_param *p, int set, uint64_t sum)
{
    lh_status st = LH_OK;
    char name[data_name_max], want[24];
    char *have = NULL;
    data_source(file, name, set, p);
    if (!data_belongs(p, set) || data_absent(file, p, name)) return LH_OK;
    (void)snprintf(want, sizeof want, "%016llx", (unsigned long long)sum);
    LH_TRY(lh_h5_get_text(file, name, "checksum", &have));
    LH_CHECK(strcmp(have, want) == 0, LH_ERR_FORMAT,
             "%s has the checksum %s, its content %s: the file is damaged", name, have, want);
done:
    lh_free(&have);
    return st;
}

static lh_status data_compare(lh_h5 *file, const lh_params *params, int sets, const uint64_t *sums)
{
    lh_status st = LH_OK;
    int64_t n = params->count;
    for (int64_t i = 0; i < sets * n && st == LH_OK; i++)
        st = data_compare_one(file, params->item[i % n], (int)(i / n), sums[i]);
    return st;
}

lh_status lhi_checkpoint_run(lhi_checkpoint_pass pass, lh_mesh *mesh, lh_h5 *file,
                             const lh_params *params, int sets, uint64_t *sums)
{
    lh_status st = LH_OK;
    data_stage s = {.pass = pass, .mesh = mesh, .device = params->device};
    void *real = NULL;
    int64_t tensors = params->count * sets;
    LH_TRY(lh_host_alloc((size_t)data_limit * lh_h5_kind_bytes(LH_H5_F64), &s.raw));
    LH_TRY(lh_host_alloc((size_t)data_limit * lh_dtype_bytes(LH_REAL), &real));
    s.real = real;
done:
    st = lh_agree(mesh->world, st);
    memset(sums, 0, (size_t)tensors * sizeof *sums);
    if (st == LH_OK) {
        for (int64_t i = 0; i < tensors; i++) {
            lh_status one = data_tensor(&s, file, params->item[i % params->count],
                                        (int)(i / params->count), &sums[i]);
            if (st == LH_OK) st = one;
        }
        st = lh_agree(mesh->world, st);
    }
    if (st == LH_OK) {
        lhi_digest_sum(mesh->world, sums, tensors);
        if (pass != LHI_CHECKPOINT_STORE)
            st = lh_agree(mesh->world, data_compare(file, params, sets, sums));
    }
    lh_host_release(&real);
    lh_host_release(&s.raw);
    return st;
}

/* --- structure
 * ------------------------------------------------------------------------------------------------------ */

lh_status lhi_checkpoint_placed(const lh_mesh *mesh, const lh_params *params)
{
    char text[128];
    if (mesh->counting || params->device->counting)
        return LH_RAISE(LH_ERR_BUG, "a checkpoint of a counting mesh or device");
    for (int64_t i = 0; i < params->count; i++) {
        const lh_param *p = params->item[i];
        const lh_place_word *word = &p->place.axis[LH_AXIS_SEQ];
        bool spread = word->kind == LH_SHARD;
        bool good = p->value != NULL && p->whole.dtype == LH_REAL && strchr(p->name, '/') == NULL &&
                    p->place.axis[LH_AXIS_DATA].kind == LH_REPLICATE && word->kind != LH_PARTIAL;
        if (good && spread)
            good = word->layout != NULL && word->dim >= 0 && word->dim < p->whole.ndim &&
                   word->layout->ranks == mesh->size[LH_AXIS_SEQ] &&
                   word->layout->n == p->whole.dim[word->dim];
        if (!good)
            return LH_RAISE(LH_ERR_BUG, "parameter %s, placed %s, cannot be put into a checkpoint",
                            p->name, lh_place_text(&p->place, text, sizeof text));
    }
    return LH_OK;
}

lh_status lhi_checkpoint_define(lh_h5 *file, const lh_params *params, int sets)
{
    lh_status st = LH_OK;
    char name[data_name_max];
    int64_t dim[LH_MAX_DIMS];
    for (int set = 0; set < sets; set++) {
        if (set == 1) LH_TRY(lh_h5_group(file, "optimizer"));
        LH_TRY(lh_h5_group(file, lhi_checkpoint_group(set)));
        for (int64_t i = 0; i < params->count; i++) {
            lh_h5_data data;
            if (!data_belongs(params->item[i], set)) continue;
            int ndim = data_dims(&params->item[i]->whole, dim);
            data_name(name, set, params->item[i]);
            st = lh_h5_define(file, name, LH_H5_REAL, ndim, dim, 0, &data);
            lh_h5_release(&data);
            if (st != LH_OK) goto done;
        }
    }
done:
    return st;
}

lh_status lhi_checkpoint_sign(lh_h5 *file, const lh_params *params, int sets, const uint64_t *sums)
{
    lh_status st = LH_OK;
    char name[data_name_max], text[24];
    for (int set = 0; set < sets; set++) {
        for (int64_t i = 0; i < params->count; i++) {
            if (!data_belongs(params->item[i], set)) continue;
            data_name(name, set, params->item[i]);
            (void)snprintf(text, sizeof text, "%016llx",
                           (unsigned long long)sums[set * params->count + i]);
            LH_TRY(lh_h5_put_text(file, name, "checksum", text));
        }
    }
done:
    return st;
}

/* --- matching a file with parameters
 * -------------------------------------------------------------------------------- */

typedef struct data_diff {
    int64_t count;
    char text[LH_ERROR_TEXT_MAX - 512];
} data_diff;

static void data_differs(data_diff *d, const char *what, const char *name, const char *more)
{
    size_t used = strlen(d->text), room = sizeof d->text - used;
    int n = snprintf(d->text + used, room, "%s%s %s%s", d->count > 0 ? "; " : "", what, name, more);
    if (n >= (int)room) (void)snprintf(d->text + sizeof d->text - 4, 4, "...");
    d->count++;
}

static lh_status data_match_one(lh_h5 *file, const lh_param *p, int set, data_diff *diff)
{
    lh_status st = LH_OK;
    char name[data_name_max], have[96], want[96], more[256];
    int64_t dim[LH_MAX_DIMS];
    lh_h5_data data = {.id = -1};
    data_source(file, name, set, p);
    if (!data_belongs(p, set) || data_absent(file, p, name)) return LH_OK;
    if (!lh_h5_has(file, name)) {
        data_differs(diff, "missing in the file:", name, "");
        return LH_OK;
    }
    LH_TRY(lh_h5_find(file, name, &data));
    LH_CHECK(data.kind == LH_H5_F32 || data.kind == LH_H5_F64, LH_ERR_FORMAT,
             "%s is neither float nor double", name);
    int ndim = data_dims(&p->whole, dim);
    if (data.ndim == ndim && memcmp(data.dim, dim, (size_t)ndim * sizeof *dim) == 0) goto done;
    lh_shape stored = {LH_REAL, data.ndim, {0}}, wanted = {LH_REAL, ndim, {0}};
    memcpy(stored.dim, data.dim, sizeof stored.dim);
    memcpy(wanted.dim, dim, sizeof wanted.dim);
    (void)snprintf(more, sizeof more, " (file %s, model %s)",
                   lh_shape_text(&stored, have, sizeof have),
                   lh_shape_text(&wanted, want, sizeof want));
    data_differs(diff, "other shape:", name, more);
done:
    lh_h5_release(&data);
    return st;
}

static lh_status data_match_set(lh_h5 *file, const lh_params *params, int set, data_diff *diff)
{
    lh_status st = LH_OK;
    char *names = NULL, full[data_name_max * 2];
    int64_t count = 0;
    LH_TRY(lh_h5_list(file, lhi_checkpoint_group(set), &names, &count));
    for (int64_t i = 0; i < params->count; i++)
        LH_TRY(data_match_one(file, params->item[i], set, diff));
    const char *name = names;
    for (int64_t i = 0; i < count; i++, name += strlen(name) + 1) {
        if (lh_params_find(params, name) != NULL) continue;
        (void)snprintf(full, sizeof full, "%s/%.120s", lhi_checkpoint_group(set), name);
        data_differs(diff, "only in the file:", full, "");
    }
done:
    lh_free(&names);
    return st;
}

lh_status lhi_checkpoint_match(lh_h5 *file, const char *path, const lh_params *params, int sets)
{
    lh_status st = LH_OK;
    data_diff diff = {0};
    /* Moments must match as well, but a mismatch of the parameters says it all. */
    for (int set = 0; set < sets && diff.count == 0; set++)
        LH_TRY(data_match_set(file, params, set, &diff));
    LH_CHECK(diff.count == 0, LH_ERR_USAGE,
             "'%s' is of another model, %lld parameters differ: %s; give the model it was "
             "written with, or another file",
             path, (long long)diff.count, diff.text);
done:
    return st;
}
