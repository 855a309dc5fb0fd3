/* longhaul convert: key/value heads become the means of groups, computed here once more from
 * integers; everything else stays bit by bit, in either precision; a model whose heads of a group are
 * equal computes the same with one of them; what is wrong leaves no file. And which checkpoint of a
 * folder is taken while a run writes there. */
#include "experiments/convert.h"
#include "experiments/newest.h"
#include "experiments/session.h"
#include "io/checkpoint_internal.h"
#include "io/seal.h"
#include "tests/lh_test_mpi.h"
#include "tests/tol.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 6, NUMBERS = 1100000 };

static char folder[64];

static const char *in(char path[LH_PATH_MAX], const char *name)
{
    (void)snprintf(path, LH_PATH_MAX, "%s/%s", folder, name);
    return path;
}

static void empty(lh_comm *c, const char *where)
{
    char path[LH_PATH_MAX], *names = NULL;
    int64_t count = 0;
    lh_assert_all_ok(c, lh_folder_make(c, where));
    lh_assert_all_ok(c, lh_folder_list(c, where, &names, &count));
    const char *name = names;
    for (int64_t i = 0; i < count; i++, name += strlen(name) + 1) {
        (void)snprintf(path, sizeof path, "%s/%s", where, name);
        lh_assert_all_ok(c, lh_file_remove(c, path));
    }
    lh_free(&names);
}

static void begin(lh_comm *c)
{
    (void)snprintf(folder, sizeof folder, "scratch_convert.np%d", lh_comm_size(c));
    empty(c, folder);
}

/* --- the file --- */

typedef struct tensor {
    const char *name;
    int ndim;
    int64_t dim[3];
    int merged; /* dimension of the heads, or -1 */
} tensor;

/* Heads in every dimension; one element; and, the last two, more rows than are staged at once, and a row
 * that is more. */
static const tensor tensors[] = {
    {"bias", 1, {HEADS}, 0},           {"columns", 2, {3, 2 * HEADS}, 1},
    {"middle", 3, {2, HEADS, 5}, 1},   {"one", 1, {1}, -1},
    {"other", 2, {HEADS, 7}, -1},      {"rows", 2, {2 * HEADS, 3}, 0},
    {"long", 2, {NUMBERS / 2, 1}, -1}, {"wide", 2, {2, NUMBERS / 2}, -1}};
enum { TENSORS = sizeof tensors / sizeof tensors[0], SMALL = TENSORS - 2 };

/* Numbers with 25 bits: a float holds each one, but not the sum of a few. */
static int64_t number(int t, int64_t i)
{
    uint64_t x = (uint64_t)(t + 1) * 0x9E3779B97F4A7C15u + (uint64_t)i * 0xD6E8FEB86659FD93u;
    x ^= x >> 29;
    x *= 0xBF58476D1CE4E5B9u;
    return (int64_t)(x >> 39) - (1 << 24);
}

static void put(lh_h5_kind kind, void *values, int64_t i, double x)
{
    if (kind == LH_H5_F32)
        ((float *)values)[i] = (float)x;
    else
        ((double *)values)[i] = x;
}

static double get(lh_h5_kind kind, const void *values, int64_t i)
{
    return kind == LH_H5_F32 ? (double)((const float *)values)[i] : ((const double *)values)[i];
}

static double storage[NUMBERS];

static lh_status write_tensor(lh_h5 *file, int t, lh_h5_kind kind)
{
    lh_status st = LH_OK;
    const tensor *x = &tensors[t];
    lh_h5_data data = {.id = -1};
    char name[64];
    char text[24];
    int64_t n = 1;
    for (int i = 0; i < x->ndim; i++) n *= x->dim[i];
    (void)snprintf(name, sizeof name, "parameters/%s", x->name);
    for (int64_t i = 0; i < n; i++) put(kind, storage, i, (double)number(t, i) / 1024.0);
    LH_TRY(lh_h5_define(file, name, kind, x->ndim, x->dim, 0, &data));
    LH_TRY(lh_h5_write(&data, kind, NULL, storage));
    (void)snprintf(text, sizeof text, "%016llx",
                   (unsigned long long)lhi_checkpoint_hash(kind, storage, n, 0));
    LH_TRY(lh_h5_put_text(file, name, "checksum", text));
done:
    lh_h5_release(&data);
    return st;
}

static lh_checkpoint_info info_of(lh_h5_kind kind)
{
    static char config[] = "old: yes\n";
    lh_checkpoint_info info = {.step = 12,
                               .tokens = 1LL << 40,
                               .samples = 77,
                               .data_bytes = 5,
                               .seed = UINT64_MAX - 1,
                               .program = "0.1.0-test",
                               .layout = "zigzag",
                               .config = config,
                               .ranks = 6,
                               .data = 2,
                               .sequence = 3,
                               .optimizer = true};
    (void)snprintf(info.precision, sizeof info.precision, "%s",
                   kind == LH_H5_F32 ? "float" : "double");
    return info;
}

/* A checkpoint of that precision with moments, whatever this build's is. One process. */
static lh_status write_file(const char *path, lh_h5_kind kind, int count)
{
    lh_status st = LH_OK;
    lh_h5 *file = NULL;
    lh_checkpoint_info info = info_of(kind);
    LH_TRY(lh_h5_create(NULL, path, LHI_SEAL_BYTES, &file));
    LH_TRY(lhi_checkpoint_describe(file, &info, true));
    LH_TRY(lh_h5_group(file, "parameters"));
    LH_TRY(lh_h5_group(file, "optimizer"));
    for (int t = 0; t < count; t++) LH_TRY(write_tensor(file, t, kind));
    LH_TRY(lh_h5_put_int(file, "/", "complete", 1));
done:
    st = lhi_seal_end(&file, st);
    return st == LH_OK ? lhi_checkpoint_seal(NULL, path) : st;
}

static lh_status convert(const char *from, const char *to, int64_t heads)
{
    lh_checkpoint_merge merge[TENSORS];
    int64_t n = 0;
    for (int t = 0; t < TENSORS; t++) {
        if (tensors[t].merged < 0) continue;
        merge[n] = (lh_checkpoint_merge){.dim = tensors[t].merged, .from = HEADS, .to = heads};
        (void)snprintf(merge[n++].name, sizeof merge[0].name, "%s", tensors[t].name);
    }
    return lh_checkpoint_convert(from, to, "new: yes\n", merge, n);
}

/* The element of the new tensor at `at`: the mean over the heads of its group. */
static double mean_at(int t, const int64_t dim[3], const int64_t at[3], int64_t heads)
{
    const tensor *x = &tensors[t];
    int64_t group = HEADS / heads;
    int64_t sum = 0;
    int64_t unit = x->merged >= 0 ? dim[x->merged] / heads : 1;
    if (x->merged < 0) group = 1;
    for (int64_t h = 0; h < group; h++) {
        int64_t index = 0;
        for (int d = 0; d < x->ndim; d++) {
            int64_t place = at[d];
            if (d == x->merged) place = (at[d] / unit * group + h) * unit + at[d] % unit;
            index = index * x->dim[d] + place;
        }
        sum += number(t, index);
    }
    return (double)sum / (double)group / 1024.0;
}

static lh_status check_tensor(lh_h5 *file, int t, lh_h5_kind kind, int64_t heads)
{
    lh_status st = LH_OK;
    const tensor *x = &tensors[t];
    char name[64];
    int64_t n = 1;
    int64_t dim[3] = {1, 1, 1};
    double one = 0.0;
    lh_h5_data data = {.id = -1};
    (void)snprintf(name, sizeof name, "parameters/%s", x->name);
    LH_TRY(lh_h5_find(file, name, &data));
    LH_CHECK(data.kind == kind && data.ndim == x->ndim, LH_ERR_BUG, "%s is of another kind", name);
    for (int d = 0; d < x->ndim; d++) {
        dim[d] = d == x->merged ? x->dim[d] / HEADS * heads : x->dim[d];
        LH_CHECK(data.dim[d] == dim[d], LH_ERR_BUG, "%s has another shape", name);
        n *= dim[d];
    }
    LH_TRY(lh_h5_read(&data, kind, NULL, storage));
    for (int64_t i = 0; i < n; i++) {
        int64_t at[3] = {0};
        int64_t rest = i;
        for (int d = x->ndim - 1; d >= 0; d--, rest /= dim[d + 1]) at[d] = rest % dim[d];
        put(kind, &one, 0, mean_at(t, dim, at, heads));
        LH_CHECK(get(kind, storage, i) == get(kind, &one, 0), LH_ERR_BUG,
                 "%s [%lld] is %.17g, not %.17g", name, (long long)i, get(kind, storage, i),
                 get(kind, &one, 0));
    }
done:
    lh_h5_release(&data);
    return st;
}

static lh_status check_info(const lh_checkpoint_info *have, const lh_checkpoint_info *want)
{
    bool same =
        have->step == want->step && have->tokens == want->tokens &&
        have->samples == want->samples && have->data_bytes == want->data_bytes &&
        have->seed == want->seed && have->ranks == want->ranks && have->data == want->data &&
        have->sequence == want->sequence && strcmp(have->layout, want->layout) == 0 &&
        strcmp(have->program, want->program) == 0 && strcmp(have->precision, want->precision) == 0;
    if (!same) return LH_RAISE(LH_ERR_BUG, "the description changed");
    if (have->optimizer || strcmp(have->config, "new: yes\n") != 0)
        return LH_RAISE(LH_ERR_BUG, "moments, or the old configuration");
    return LH_OK;
}

static lh_status check_file(const char *path, lh_h5_kind kind, int64_t heads, int64_t tensors_there)
{
    lh_status st = LH_OK;
    lh_h5 *file = NULL;
    lh_checkpoint_info info = {0};
    lh_checkpoint_info want = info_of(kind);
    char *names = NULL;
    int64_t count = 0;
    LH_TRY(lhi_checkpoint_open(NULL, path, &file, &info));
    LH_TRY(check_info(&info, &want));
    LH_TRY(lh_h5_list(file, "parameters", &names, &count));
    LH_CHECK(count == tensors_there && !lh_h5_has(file, "optimizer"), LH_ERR_BUG, "other datasets");
    for (int t = 0; t < count; t++) LH_TRY(check_tensor(file, t, kind, heads));
done:
    lh_free(&names);
    lh_checkpoint_info_free(&info);
    return lhi_seal_end(&file, st);
}

static lh_status means(lh_h5_kind kind, int count, int heads)
{
    lh_status st = LH_OK;
    char from[LH_PATH_MAX];
    char to[LH_PATH_MAX];
    LH_TRY(write_file(in(from, "old.h5"), kind, count));
    LH_TRY(convert(from, in(to, "new.h5"), heads));
    LH_TRY(check_file(to, kind, heads, count));
    LH_TRY(lh_file_remove(NULL, to));
done:
    return st;
}

/* Groups of 1, 2, 3 and 6 heads in both precisions; a group of one is the same bits. */
static void test_means(void **state)
{
    static const lh_h5_kind kinds[] = {LH_H5_F32, LH_H5_F64};
    lh_comm *c = *state;
    begin(c);
    for (int k = 0; k < 2; k++) {
        for (int heads = 1; heads <= HEADS; heads++) {
            if (HEADS % heads != 0) continue;
            int count = heads == 3 ? TENSORS : SMALL;
            lh_status st = lh_comm_rank(c) == 0 ? means(kinds[k], count, heads) : LH_OK;
            lh_assert_all_ok(c, lh_agree(c, st));
        }
    }
}

/* --- what is wrong leaves no file --- */

static lh_status nothing_made(const char *what)
{
    char path[LH_PATH_MAX];
    if (lh_file_exists(NULL, in(path, "new.h5")) || lh_file_exists(NULL, in(path, "new.h5.tmp")))
        return LH_RAISE(LH_ERR_BUG, "%s: %s was made", what, path);
    return LH_OK;
}

/* The source with one byte changed, at many places. */
static lh_status damaged(const char *from, const char *to)
{
    lh_status st = LH_OK;
    char bad[LH_PATH_MAX];
    char *bytes = NULL;
    size_t count = 0;
    LH_TRY(lh_read_small(NULL, from, &bytes, &count));
    for (size_t i = 0; i < 8; i++) {
        size_t at = i == 7 ? count - 1 : count * i / 7;
        bytes[at] = (char)(bytes[at] ^ 16);
        LH_TRY(lh_write_small(NULL, in(bad, "damaged.h5"), bytes, count));
        LH_CHECK(convert(bad, to, 2) == LH_ERR_FORMAT, LH_ERR_BUG, "byte %zu: accepted", at);
        LH_TRY(nothing_made("a damaged file"));
        bytes[at] = (char)(bytes[at] ^ 16);
    }
done:
    lh_free(&bytes);
    return st;
}

static lh_status failures(void)
{
    lh_status st = LH_OK;
    char from[LH_PATH_MAX];
    char to[LH_PATH_MAX];
    lh_checkpoint_merge merge = {.name = "one", .dim = 0, .from = 6, .to = 2};
    int64_t n = 1;
    LH_TRY(write_file(in(from, "old.h5"), LH_H5_REAL, SMALL));
    LH_TRY(damaged(from, in(to, "new.h5")));
    LH_CHECK(lh_checkpoint_convert(from, to, "", &merge, 1) == LH_ERR_FORMAT, LH_ERR_BUG,
             "one element as six heads");
    LH_TRY(nothing_made("another shape"));
    LH_CHECK(convert(from, from, 2) == LH_ERR_USAGE, LH_ERR_BUG, "an existing file is overwritten");
    for (;; n++) {
        lh_new_fail_at(n);
        st = convert(from, to, 2);
        lh_new_fail_at(0);
        if (st == LH_OK) break;
        LH_CHECK(st == LH_ERR_MEMORY && n < 500, LH_ERR_BUG, "allocation %lld: %s", (long long)n,
                 lh_error_text());
        LH_TRY(nothing_made("no memory"));
    }
    LH_CHECK(n > 20, LH_ERR_BUG, "only %lld allocations failed", (long long)n);
    LH_TRY(check_file(to, LH_H5_REAL, 2, SMALL));
done:
    return st;
}

static void test_failures(void **state)
{
    lh_comm *c = *state;
    begin(c);
    lh_assert_all_ok(c, lh_agree(c, lh_comm_rank(c) == 0 ? failures() : LH_OK));
}

/* --- models --- */

static const char *const models[] = {
    "data: {task: lag, length: 40, batch: 4, lag: 3, valid_windows: 8}\n"
    "model:\n  attention: [{mechanism: sliding_window, window: 5, global: first}, {mechanism: "
    "performer, features: 8}]\n",
    "data: {task: lag, length: 40, batch: 4, lag: 3, valid_windows: 8}\n"
    "model:\n  position: relative\n  bias: false\n  attention: {mechanism: full}\n",
    "data: {task: recall, length: 40, batch: 4, valid_windows: 8}\n"
    "model:\n  kind: encoder\n  attention: [{mechanism: linformer, k: 4, sharing: none}, "
    "{mechanism: linformer, k: 4, sharing: none, projection: conv}]\n"};
enum { MODELS = sizeof models / sizeof models[0], QUERY_HEADS = 4 };

static lh_config *config_of(lh_comm *c, int model, int heads)
{
    char text[1000];
    lh_config *config = NULL;
    (void)snprintf(text, sizeof text,
                   "mesh: {chunk: 8}\n%s  layers: 2\n  width: 32\n  heads: %d\n  kv_heads: %d\n",
                   models[model], (int)QUERY_HEADS, heads);
    lh_assert_all_ok(c, lh_config_parse(text, strlen(text), "test", 0, &config));
    return config;
}

/* Make the heads of each group equal: copies of its first. Which parameters have key/value heads, and
 * in which dimension, is told by name and shape. */
static void equal_heads(lh_session *s, int group)
{
    for (int64_t i = 0; i < s->params->count; i++) {
        const lh_param *p = s->params->item[i];
        bool projection = strstr(p->name, "landmarks") != NULL;
        if (!projection && strstr(p->name, "attention.key") == NULL &&
            strstr(p->name, "attention.value") == NULL)
            continue;
        int dim = projection && p->shape.ndim == 2 ? 1 : 0;
        int64_t outer = dim == 1 ? p->shape.dim[0] : 1;
        size_t head = lh_shape_bytes(&p->shape) / (size_t)(outer > 0 ? outer : 1) / QUERY_HEADS;
        char *bytes = NULL;
        if (lh_new(lh_shape_bytes(&p->shape), &bytes) != LH_OK) lh_fatal(s->world, "no memory");
        lh_copy_out(s->device, bytes, p->value, lh_shape_bytes(&p->shape));
        for (int64_t h = 0; h < outer * QUERY_HEADS; h++)
            memmove(bytes + (size_t)h * head, bytes + (size_t)(h - h % group) * head, head);
        lh_copy_in(s->device, p->value, bytes, lh_shape_bytes(&p->shape));
        lh_free(&bytes);
    }
}

static double loss_of(lh_comm *c, lh_session *s)
{
    lh_eval_result result = {0};
    lh_assert_all_ok(c, lh_session_evaluate(s, LH_SPLIT_VALID, 0, NULL, &result));
    return result.loss;
}

/* The session's weights as a checkpoint, converted by the command. */
static void save_and_convert(lh_comm *c, lh_session *s, int heads)
{
    char path[LH_PATH_MAX];
    char from[LH_PATH_MAX];
    char count[16];
    lh_checkpoint_info info = {.program = "test", .layout = "contiguous"};
    lh_assert_all_ok(c, lh_config_emit(s->config, &info.config));
    lh_assert_all_ok(c, lh_checkpoint_write(s->mesh, folder, &info, s->params, 1));
    lh_free(&info.config);
    (void)snprintf(count, sizeof count, "--kv-heads=%d", heads);
    char *argv[] = {(char *)in(from, "step-00000000.h5"), count, "--out",
                    (char *)in(path, "new.h5")};
    lh_assert_all_ok(c, lh_file_remove(c, path));
    lh_assert_all_ok(c, lh_agree(c, lh_comm_rank(c) == 0 ? lh_convert_main(NULL, 4, argv) : LH_OK));
}

/* The loss of the new file in a model of its heads; the old file is refused there with a hint. */
static double converted_loss(lh_comm *c, int model, int heads)
{
    char path[LH_PATH_MAX];
    lh_config *config = config_of(c, model, heads);
    lh_config *inside = NULL;
    lh_session *s = NULL;
    lh_checkpoint_info info = {0};
    lh_assert_all_ok(c, lh_session_open(c, config, false, &s));
    lh_status st = lh_checkpoint_read(s->mesh, in(path, "step-00000000.h5"), LH_CHECKPOINT_WEIGHTS,
                                      s->params, NULL);
    lh_assert_all_code(c, lh_convert_hint(c, path, config, st), LH_ERR_USAGE);
    lh_assert_all(c, strstr(lh_error_text(), "longhaul convert") != NULL &&
                         strstr(lh_error_text(), "parameters differ") != NULL);
    lh_assert_all_ok(c, lh_checkpoint_read(s->mesh, in(path, "new.h5"), LH_CHECKPOINT_WEIGHTS,
                                           s->params, &info));
    lh_assert_all_ok(c, lh_config_parse(info.config, strlen(info.config), "inside", 0, &inside));
    lh_assert_all(c, inside->model.kv_heads == heads && inside->model.heads == QUERY_HEADS);
    double loss = loss_of(c, s);
    lh_session_close(&s);
    lh_checkpoint_info_free(&info);
    lh_config_destroy(&inside);
    lh_config_destroy(&config);
    return loss;
}

/* Equal heads of a group: one of them does the same. Heads that differ (two groups): it does not, so
 * that the comparison can fail. */
static void check_model(lh_comm *c, int model, int heads)
{
    lh_config *config = config_of(c, model, QUERY_HEADS);
    lh_session *s = NULL;
    lh_assert_all_ok(c, lh_session_open(c, config, false, &s));
    if (heads == 2) {
        save_and_convert(c, s, heads);
        lh_assert_all(c, !lh_test_within(converted_loss(c, model, heads), loss_of(c, s),
                                         10 * LH_TOL_LOSS, 0.0));
    }
    equal_heads(s, QUERY_HEADS / heads);
    save_and_convert(c, s, heads);
    lh_assert_all_close(c, converted_loss(c, model, heads), loss_of(c, s), LH_TOL_LOSS, 0.0);
    lh_session_close(&s);
    lh_config_destroy(&config);
}

static void test_models(void **state)
{
    lh_comm *c = *state;
    begin(c);
    check_model(c, 0, 1);
    for (int model = 0; model < MODELS; model++) check_model(c, model, 2);
}

/* --- a folder in which a run goes on meanwhile --- */

typedef struct live_folder {
    lh_comm *comm;
    int moves; /* so often the newest one is removed under the reader, and a newer one is there */
    int64_t whole;    /* the only step whose file can be read */
    lh_status error;  /* of the others */
    int64_t seen[12]; /* the steps that were tried */
    int64_t tried;
} live_folder;

static lh_status live_read(void *user, const char *path)
{
    live_folder *l = user;
    char newer[LH_PATH_MAX], name[32];
    lh_status st = LH_OK;
    int64_t step = strtoll(strrchr(path, '-') + 1, NULL, 10);
    if (l->tried < 12) l->seen[l->tried] = step;
    l->tried++;
    if (l->tried > 1 && l->moves > 0) {
        l->moves--;
        (void)snprintf(name, sizeof name, "step-%08lld.h5", (long long)step + 10);
        LH_TRY(lh_write_small(l->comm, in(newer, name), "x", 1));
        LH_TRY(lh_file_remove(l->comm, path));
    }
    if (step != l->whole) st = LH_RAISE(l->error, "'%s' for the test", path);
done:
    return st;
}

/* Steps 1 and 2 are there, and no other. Returns whether one was taken. */
static bool live_take(live_folder *l, lh_status want)
{
    char path[LH_PATH_MAX];
    bool found = false;
    begin(l->comm);
    l->tried = 0;
    lh_assert_all_ok(l->comm, lh_write_small(l->comm, in(path, "step-00000001.h5"), "x", 1));
    lh_assert_all_ok(l->comm, lh_write_small(l->comm, in(path, "step-00000002.h5"), "x", 1));
    lh_assert_all_code(l->comm, lh_newest_take(l->comm, folder, live_read, l, &found), want);
    return found;
}

static void test_newest(void **state)
{
    lh_comm *c = *state;
    live_folder l = {.comm = c, .whole = 1, .error = LH_ERR_IO};
    bool found = true;
    begin(c);
    lh_assert_all_ok(c, lh_newest_take(c, folder, live_read, &l, &found));
    lh_assert_all(c, !found && l.tried == 0);
    lh_assert_all(c, live_take(&l, LH_OK) && l.tried == 2 && l.seen[0] == 2 && l.seen[1] == 1);
    /* The older one goes when its turn comes, since a newer one is there. */
    l = (live_folder){.comm = c, .whole = 11, .error = LH_ERR_IO, .moves = 1};
    lh_assert_all(c, live_take(&l, LH_OK) && l.tried == 3 && l.seen[2] == 11);
    /* The same again and again. */
    l = (live_folder){.comm = c, .whole = 51, .error = LH_ERR_FORMAT, .moves = 5};
    lh_assert_all(c, live_take(&l, LH_OK) && l.tried == 7 && l.seen[6] == 51);
    l = (live_folder){.comm = c, .error = LH_ERR_FORMAT, .moves = 1000000};
    lh_assert_all(c, !live_take(&l, LH_ERR_IO) && l.tried < 1000);
    /* Nothing goes, and nothing can be read; another error ends the search. */
    l = (live_folder){.comm = c, .error = LH_ERR_IO};
    lh_assert_all(c, !live_take(&l, LH_ERR_FORMAT) && l.tried == 2);
    l = (live_folder){.comm = c, .error = LH_ERR_USAGE};
    lh_assert_all(c, !live_take(&l, LH_ERR_USAGE) && l.tried == 1);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_means), cmocka_unit_test(test_failures),
        cmocka_unit_test(test_models), cmocka_unit_test(test_newest)};
    return lh_test_mpi_main(argc, argv, "convert", tests, sizeof tests / sizeof tests[0]);
}
