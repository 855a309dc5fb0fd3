#include "io/checkpoint.h"

#include "io/checkpoint_internal.h"
#include "io/claim.h"
#include "io/digest.h"
#include "io/seal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { checkpoint_version = 1 };

static const lhi_seal_kind checkpoint_seal = {
    "longhaul checkpoint ", checkpoint_version,
    "is not a Longhaul checkpoint, or its beginning is lost"};

bool lh_checkpoint_is(const char *path)
{
    return lhi_seal_is(path, &checkpoint_seal);
}

lh_status lhi_checkpoint_seal(lh_comm *comm, const char *path)
{
    return lhi_seal_close(comm, path, &checkpoint_seal);
}

/* --- the description
 * ------------------------------------------------------------------------------------------------ */

void lh_checkpoint_info_free(lh_checkpoint_info *info)
{
    lh_free(&info->config);
    *info = (lh_checkpoint_info){0};
}

static const char *info_words(const lh_checkpoint_info *info)
{
    return info->config != NULL ? info->config : "";
}

/* Attributes with different values on different ranks would leave the file in pieces. Collective on
 * the mesh. */
static lh_status info_same(lh_mesh *mesh, const lh_checkpoint_info *info, bool optimizer)
{
    const char *texts[3] = {info->program, info->layout, info_words(info)};
    uint64_t words[8] = {(uint64_t)info->step,
                         (uint64_t)info->tokens,
                         (uint64_t)info->samples,
                         (uint64_t)info->data_bytes,
                         (uint64_t)info->skips,
                         info->seed,
                         optimizer,
                         (uint64_t)checkpoint_version};
    uint64_t hash = 0, index = 0;
    for (int i = 0; i < 8; i++) hash += lhi_digest_word(words[i], index++);
    for (int i = 0; i < 3; i++) {
        for (const char *s = texts[i]; *s != '\0'; s++)
            hash += lhi_digest_word((uint64_t)(unsigned char)*s, index++);
        index++;
    }
    int64_t span[2] = {(int64_t)(hash >> 1), -(int64_t)(hash >> 1)};
    lh_max_i64(mesh->world, span, 2, LH_SEND_OTHER);
    if (span[0] == -span[1]) return LH_OK;
    return LH_RAISE(LH_ERR_BUG, "the description of a checkpoint differs between ranks");
}

static lh_status info_put(lh_h5 *file, const lh_checkpoint_info *info)
{
    lh_status st = LH_OK;
    LH_TRY(lh_h5_put_int(file, "/", "format_version", checkpoint_version));
    LH_TRY(lh_h5_put_text(file, "/", "program", info->program));
    LH_TRY(lh_h5_put_int(file, "/", "step", info->step));
    LH_TRY(lh_h5_put_int(file, "/", "tokens", info->tokens));
    LH_TRY(lh_h5_put_int(file, "/", "samples", info->samples));
    LH_TRY(lh_h5_put_int(file, "/", "data_bytes", info->data_bytes));
    LH_TRY(lh_h5_put_int(file, "/", "skips", info->skips));
    LH_TRY(lh_h5_put_int(file, "/", "seed", (int64_t)info->seed));
    LH_TRY(lh_h5_put_int(file, "/", "ranks", info->ranks));
    LH_TRY(lh_h5_put_int(file, "/", "data", info->data));
    LH_TRY(lh_h5_put_int(file, "/", "sequence", info->sequence));
    LH_TRY(lh_h5_put_text(file, "/", "layout", info->layout));
    LH_TRY(lh_h5_put_text(file, "/", "precision", info->precision));
    LH_TRY(lh_h5_put_int(file, "/", "optimizer", info->optimizer));
done:
    return st;
}

lh_status lhi_checkpoint_describe(lh_h5 *file, const lh_checkpoint_info *info, bool writes)
{
    lh_status st = info_put(file, info);
    return st == LH_OK ? lh_h5_put_string(file, "configuration", info_words(info), writes) : st;
}

static lh_status info_config(lh_h5 *file, char **config)
{
    lh_status st = LH_OK;
    lh_h5_data data;
    LH_TRY(lh_h5_find(file, "configuration", &data));
    LH_CHECK(data.kind == LH_H5_TEXT && data.ndim == 0, LH_ERR_FORMAT,
             "'configuration' is no text");
    LH_TRY(lh_new(data.text_bytes + 1, config));
    LH_TRY(lh_h5_read(&data, LH_H5_TEXT, NULL, *config));
done:
    lh_h5_release(&data);
    return st;
}

/* Local. *info is to be freed also after an error. */
static lh_status info_get(lh_h5 *file, lh_checkpoint_info *info)
{
    lh_status st = LH_OK;
    int64_t version = 0, seed = 0, optimizer = 0, complete = 0;
    *info = (lh_checkpoint_info){0};
    LH_TRY(lh_h5_get_int(file, "/", "format_version", &version));
    LH_CHECK(version == checkpoint_version, LH_ERR_FORMAT,
             "format version %lld; this program reads %d", (long long)version,
             (int)checkpoint_version);
    LH_TRY(lh_h5_get_int(file, "/", "complete", &complete));
    LH_CHECK(complete == 1, LH_ERR_FORMAT, "the checkpoint is not complete");
    LH_TRY(lh_h5_copy_text(file, "program", info->program, sizeof info->program));
    LH_TRY(lh_h5_get_int(file, "/", "step", &info->step));
    LH_TRY(lh_h5_get_int(file, "/", "tokens", &info->tokens));
    LH_TRY(lh_h5_get_int(file, "/", "samples", &info->samples));
    LH_TRY(lh_h5_get_int(file, "/", "data_bytes", &info->data_bytes));
    if (lh_h5_has_attribute(file, "/", "skips")) /* older files have none */
        LH_TRY(lh_h5_get_int(file, "/", "skips", &info->skips));
    LH_TRY(lh_h5_get_int(file, "/", "seed", &seed));
    LH_TRY(lh_h5_get_int(file, "/", "ranks", &info->ranks));
    LH_TRY(lh_h5_get_int(file, "/", "data", &info->data));
    LH_TRY(lh_h5_get_int(file, "/", "sequence", &info->sequence));
    LH_TRY(lh_h5_copy_text(file, "layout", info->layout, sizeof info->layout));
    LH_TRY(lh_h5_copy_text(file, "precision", info->precision, sizeof info->precision));
    LH_TRY(lh_h5_get_int(file, "/", "optimizer", &optimizer));
    LH_TRY(info_config(file, &info->config));
    info->seed = (uint64_t)seed;
    info->optimizer = optimizer != 0;
done:
    return st;
}

/* --- reading
 * -------------------------------------------------------------------------------------------------------- */

lh_status lhi_checkpoint_open(lh_comm *comm, const char *path, lh_h5 **file,
                              lh_checkpoint_info *info)
{
    lh_status st = LH_OK;
    *file = NULL;
    *info = (lh_checkpoint_info){0};
    LH_TRY(lhi_seal_check(comm, path, &checkpoint_seal));
    LH_TRY(lh_h5_open(comm, path, file));
    LH_TRY(lh_files_agree(comm, lh_error_context(info_get(*file, info), "'%s'", path)));
done:
    if (st != LH_OK) lh_checkpoint_info_free(info);
    return st;
}

lh_status lh_checkpoint_info_read(lh_comm *comm, const char *path, lh_checkpoint_info *info)
{
    lh_h5 *file = NULL;
    lh_status st = lhi_checkpoint_open(comm, path, &file, info);
    st = lhi_seal_end(&file, st);
    if (st != LH_OK) lh_checkpoint_info_free(info);
    return st;
}

/* Who may refuse a file for its description. */
typedef struct checkpoint_gate {
    lh_status (*accept)(void *user, const lh_checkpoint_info *info); /* NULL: nobody */
    void *user;
} checkpoint_gate;

/* One pass over a file that lies there: verify or load. Collective on the mesh; agreed errors. */
static lh_status checkpoint_pass(lhi_checkpoint_pass pass, lh_mesh *mesh, const char *path,
                                 int sets, lh_params *params, checkpoint_gate gate,
                                 lh_checkpoint_info *info)
{
    lh_status st = LH_OK;
    lh_h5 *file = NULL;
    uint64_t *sums = NULL;
    LH_TRY(lhi_checkpoint_open(mesh->world, path, &file, info));
    if (sets > 1 && !info->optimizer)
        st = LH_RAISE(LH_ERR_USAGE,
                      "'%s' holds weights alone, no optimiser state: a run cannot go on from it; "
                      "start a new one with run.init",
                      path);
    if (st == LH_OK && gate.accept != NULL) st = gate.accept(gate.user, info);
    if (st == LH_OK) st = lhi_checkpoint_match(file, path, params, sets);
    if (st == LH_OK) st = lh_new((size_t)(params->count * sets) * sizeof *sums, &sums);
    LH_TRY(lh_agree(mesh->world, st));
    st = lhi_checkpoint_run(pass, mesh, file, params, sets, sums);
    LH_TRY(lh_error_context(st, "'%s'", path));
done:
    lh_free(&sums);
    return lhi_seal_end(&file, st);
}

lh_status lh_checkpoint_read_if(lh_mesh *mesh, const char *path, lh_checkpoint_what what,
                                lh_params *params,
                                lh_status (*accept)(void *user, const lh_checkpoint_info *info),
                                void *user, lh_checkpoint_info *info)
{
    lh_checkpoint_info own = {0};
    checkpoint_gate gate = {accept, user};
    int sets = what == LH_CHECKPOINT_ALL ? LHI_CHECKPOINT_SETS : 1;
    lh_status st = lhi_checkpoint_placed(mesh, params);
    if (st == LH_OK && sets > 1 && !params->trainable)
        st = LH_RAISE(LH_ERR_BUG, "moments asked for without memory for them");
    st = lh_agree(mesh->world, st);
    if (st == LH_OK)
        st = checkpoint_pass(LHI_CHECKPOINT_LOAD, mesh, path, sets, params, gate, &own);
    if (st != LH_OK || info == NULL) lh_checkpoint_info_free(&own);
    if (info != NULL) *info = own;
    return st;
}

lh_status lh_checkpoint_read(lh_mesh *mesh, const char *path, lh_checkpoint_what what,
                             lh_params *params, lh_checkpoint_info *info)
{
    return lh_checkpoint_read_if(mesh, path, what, params, NULL, NULL, info);
}

/* --- writing
 * -------------------------------------------------------------------------------------------------------- */

/* What the writing run itself knows. */
static lh_checkpoint_info info_of_run(const lh_mesh *mesh, const lh_checkpoint_info *info,
                                      bool optimizer)
{
    lh_checkpoint_info full = *info;
    full.ranks = lh_comm_size(mesh->world);
    full.data = mesh->size[LH_AXIS_DATA];
    full.sequence = mesh->size[LH_AXIS_SEQ];
    (void)snprintf(full.precision, sizeof full.precision, "%s", LH_REAL_NAME);
    full.optimizer = optimizer;
    return full;
}

/* The phases of writing, with an agreement after each: HDF5's calls are collective. */
static lh_status checkpoint_fill(lh_mesh *mesh, lh_h5 *file, const lh_checkpoint_info *info,
                                 lh_params *params, int sets)
{
    lh_status st = LH_OK;
    uint64_t *sums = NULL;
    lh_checkpoint_info full = info_of_run(mesh, info, sets > 1);
    LH_TRY(lh_agree(mesh->world, lh_new((size_t)(params->count * sets) * sizeof *sums, &sums)));
    st = lhi_checkpoint_describe(file, &full, lh_comm_rank(mesh->world) == 0);
    if (st == LH_OK) st = lhi_checkpoint_define(file, params, sets);
    LH_TRY(lh_agree(mesh->world, st));
    LH_TRY(lhi_checkpoint_run(LHI_CHECKPOINT_STORE, mesh, file, params, sets, sums));
    st = lhi_checkpoint_sign(file, params, sets, sums);
    if (st == LH_OK) st = lh_h5_put_int(file, "/", "complete", 1);
    LH_TRY(lh_agree(mesh->world, st));
done:
    lh_free(&sums);
    return st;
}

/* About the size of the file, rather more: what HDF5 needs for one dataset is less than 2 KiB. */
static int64_t checkpoint_bytes(const lh_params *params, int sets, const lh_checkpoint_info *info)
{
    int64_t bytes = (64 << 10) + (int64_t)strlen(info_words(info));
    bytes += sets * params->count * 2048;
    return bytes + sets * lh_params_held(params) * (int64_t)lh_dtype_bytes(LH_REAL);
}

/* Room is asked for before HDF5 begins, and held once it has made the file: where the library
 * itself meets a full disk it may leave ranks waiting, and after a failed close it crashes at the
 * end of the program. */
static lh_status checkpoint_reserve(lh_mesh *mesh, const char *path, int64_t bytes)
{
    lh_status st = lhi_file_reserve(path, bytes, lh_comm_rank(mesh->world) == 0);
    st = lh_agree(mesh->world, st);
    /* Of ranks that cannot open it, the library would wait for the others. */
    return st == LH_OK ? lhi_claim_seen(mesh->world, path, NULL) : st;
}

static lh_status checkpoint_make(lh_mesh *mesh, const char *path, const lh_checkpoint_info *info,
                                 lh_params *params, int sets)
{
    lh_status st = LH_OK;
    lh_h5 *file = NULL;
    lh_checkpoint_info seen = {0};
    checkpoint_gate nobody = {NULL, NULL};
    int64_t bytes = checkpoint_bytes(params, sets, info);
    LH_TRY(checkpoint_reserve(mesh, path, bytes));
    LH_TRY(lh_h5_create(mesh->world, path, LHI_SEAL_BYTES, &file));
    st = lhi_file_hold(mesh->world, path, bytes);
    if (st == LH_OK) {
        st = checkpoint_fill(mesh, file, info, params, sets);
        if (st == LH_OK) st = lh_h5_flush(file);
        if (st == LH_ERR_IO) lhi_h5_give_up(mesh->world, path); /* the library itself has failed */
    }
    /* So that HDF5 has room to close the file that will be removed. */
    if (st != LH_OK && lh_comm_rank(mesh->world) == 0 && truncate(path, 0) != 0)
        st = lh_error_context(st, "(and '%s' cannot be cut)", path);
    LH_TRY(lhi_seal_end(&file, st));
    LH_TRY(lhi_checkpoint_seal(mesh->world, path));
    LH_TRY(checkpoint_pass(LHI_CHECKPOINT_VERIFY, mesh, path, sets, params, nobody, &seen));
done:
    lh_checkpoint_info_free(&seen);
    return st;
}

lh_status lh_checkpoint_write(lh_mesh *mesh, const char *folder, const lh_checkpoint_info *info,
                              lh_params *params, int64_t keep)
{
    char path[LH_PATH_MAX], beside[LH_PATH_MAX] = "";
    bool lead = lh_comm_rank(mesh->world) == 0;
    int sets = params->trainable ? LHI_CHECKPOINT_SETS : 1;
    lh_status st = lhi_checkpoint_placed(mesh, params);
    if (st == LH_OK && info->step < 0)
        st = LH_RAISE(LH_ERR_BUG, "a checkpoint of step %lld", (long long)info->step);
    if (st == LH_OK) st = lhi_checkpoint_path(path, folder, info->step, ".h5");
    if (st == LH_OK) st = lhi_checkpoint_path(beside, folder, info->step, ".h5.tmp");
    LH_TRY(lh_agree(mesh->world, st));
    LH_TRY(info_same(mesh, info, params->trainable));
    LH_TRY(lh_folder_make(mesh->world, folder));
    if (lead) st = lhi_checkpoint_sweep(folder);
    LH_TRY(lh_agree(mesh->world, st));
    st = checkpoint_make(mesh, beside, info, params, sets);
    if (st == LH_OK) st = lh_file_rename(mesh->world, beside, path);
    /* Behind the last agreement nobody uses the file any more. */
    if (st != LH_OK && lead) (void)unlink(beside);
    LH_TRY(st);
    if (lead) st = lhi_checkpoint_written(folder, info->step);
    LH_TRY(lh_agree(mesh->world, st));
    if (keep > 0) LH_TRY(lhi_checkpoint_prune(mesh->world, folder, info->step, keep));
done:
    return lh_error_context(st, "the checkpoint of step %lld", (long long)info->step);
}
