/* Checkpoints: what is read is what was written, bit by bit, under any layout; nothing damaged is
 * accepted, nothing hangs, and older files survive. Folders are made in the working directory, one
 * for each number of ranks. */
#include "io/checkpoint.h"
#include "io/digest.h"
#include "io/files.h"
#include "io/h5.h"
#include "tests/lh_test_mpi.h"

#include "core/random.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64];

static const char *in(char path[LH_PATH_MAX], const char *name)
{
    (void)snprintf(path, LH_PATH_MAX, "%s/%s", folder, name);
    return path;
}

static void empty(const char *where)
{
    char path[LH_PATH_MAX], *names = NULL;
    int64_t count = 0;
    if (lh_folder_list(NULL, where, &names, &count) != LH_OK) return;
    const char *name = names;
    for (int64_t i = 0; i < count; i++, name += strlen(name) + 1) {
        (void)snprintf(path, sizeof path, "%s/%s", where, name);
        if (remove(path) != 0) (void)fprintf(stderr, "%s stays\n", path);
    }
    lh_free(&names);
}

static void begin(lh_comm *c)
{
    (void)snprintf(folder, sizeof folder, "scratch_checkpoint.np%d", lh_comm_size(c));
    if (lh_comm_rank(c) == 0) empty(folder);
    lh_barrier(c);
}

static bool says(const char *text)
{
    bool found = strstr(lh_error_text(), text) != NULL;
    if (!found) (void)fprintf(stderr, "the error is '%s', expected '%s'\n", lh_error_text(), text);
    return found;
}

/* --- parameters whose every bit is known
 * ---------------------------------------------------------------------------- */

/* Ways to spread 13 positions over the sequence axis. The last has all of them on one rank, as one
 * rank would write. */
enum { N = 13, WAYS = 5 };

static void make_layout(lh_comm *c, int way, int ranks, lh_layout **out)
{
    int64_t first[64], sizes[64] = {0};
    lh_run run[64];
    lh_status st = LH_OK;
    sizes[ranks - 1] = N;
    int64_t k = 0;
    for (int r = 0; r < ranks; r++) {
        first[r] = k;
        if (r < N) run[k++] = (lh_run){r, (N - r + ranks - 1) / ranks, ranks};
    }
    first[ranks] = k;
    k = way == 3 ? 0 : k;
    for (int r = 0; r < ranks && way == 3;
         r++) { /* out of order: two single rows downwards, then every P-th */
        int64_t rest = N - 2 * ranks - r;
        first[r] = k;
        run[k++] = (lh_run){2 * r + 1, 1, 1};
        run[k++] = (lh_run){2 * r, 1, 1};
        if (rest > 0) run[k++] = (lh_run){2 * ranks + r, (rest + ranks - 1) / ranks, ranks};
        first[ranks] = k;
    }
    switch (way) {
    case 0:
        st = lh_layout_contiguous(N, ranks, 4, true, out);
        break;
    case 1:
        st = lh_layout_contiguous(N, ranks, 1, false, out);
        break;
    case 2:
    case 3:
        st = lh_layout_from_runs(N, ranks, 4, first, run, out);
        break;
    default:
        st = lh_layout_from_sizes(sizes, ranks, 4, out);
        break;
    }
    lh_assert_all_ok(c, st);
}

typedef struct fixture {
    lh_mesh *mesh;
    lh_device *device;
    lh_layout *layout;
    lh_params *params;
} fixture;

typedef struct options {
    int data, way;
    bool large, poison, frozen;
    bool drawn; /* one parameter is not learned */
    bool copy;  /* one parameter more, which starts as a copy of the first */
    int odd;    /* 1: one parameter more, 2: one less, 3: another shape */
} options;

static void add(fixture *f, lh_comm *c, const char *name, lh_shape shape, int spread)
{
    lh_place place = lh_place_replicated();
    if (spread >= 0) place.axis[LH_AXIS_SEQ] = (lh_place_word){LH_SHARD, spread, f->layout};
    lh_assert_all_ok(c, lh_params_add(f->params, name, shape, place, LH_INIT_ZERO, 0.0, NULL));
}

static lh_status draw_nothing(const void *user, uint64_t seed, uint64_t number, double *work,
                              double *value)
{
    (void)work;
    (void)user, (void)seed, (void)number, (void)value;
    return LH_OK;
}

static fixture open_fixture(lh_comm *c, options o)
{
    fixture f = {0};
    lh_assert_all_ok(c, lh_mesh_create(o.data > 0 ? o.data : 1, &f.mesh));
    lh_assert_all_ok(c, o.poison ? lh_device_create_poison("portable", 1, &f.device)
                                 : lh_device_create_cpu("portable", 1, &f.device));
    make_layout(c, o.way, f.mesh->size[LH_AXIS_SEQ], &f.layout);
    lh_assert_all_ok(c, lh_params_create(f.device, f.mesh->coord, &f.params));
    add(&f, c, "layer.0.weight", lh_shape_2(LH_REAL, 7, o.odd == 3 ? 6 : 5), -1);
    add(&f, c, "one", lh_shape_1(LH_REAL, 1), -1);
    add(&f, c, "rows", lh_shape_2(LH_REAL, N, 3), 0);
    if (o.odd != 2) add(&f, c, "columns", lh_shape_2(LH_REAL, 4, N), 1);
    if (o.odd == 1) add(&f, c, "more", lh_shape_1(LH_REAL, 2), -1);
    add(&f, c, "middle", lh_shape_3(LH_REAL, 2, N, 3), 1);
    if (o.large) { /* beyond the stage: cut in the first, second and, spread over ranks, third dimension */
        add(&f, c, "long", lh_shape_2(LH_REAL, 600001, 1), -1);
        add(&f, c, "slices", lh_shape_3(LH_REAL, 2, 180000, 3), -1);
        add(&f, c, "spread", lh_shape_3(LH_REAL, N, 2, 270000), 0);
    }
    if (o.copy) {
        lh_param *p = NULL;
        add(&f, c, "copy", lh_shape_2(LH_REAL, 7, 5), -1);
        p = lh_params_find(f.params, "copy");
        (void)snprintf(p->like, sizeof p->like, "layer.0.weight");
    }
    if (o.drawn)
        lh_assert_all_ok(c, lh_params_add_drawn(f.params, "drawn", lh_shape_2(LH_REAL, 3, 4),
                                                draw_nothing, NULL, 0, NULL));
    lh_assert_all_ok(c, lh_params_allocate(f.params, !o.frozen));
    return f;
}

static void close_fixture(fixture *f)
{
    lh_params_destroy(&f->params);
    lh_layout_destroy(&f->layout);
    lh_device_destroy(&f->device);
    lh_mesh_destroy(&f->mesh);
}

/* Element i of this rank's part lies where in the whole tensor? Written without looking at the walk
 * under test. */
static int64_t whole_index(const fixture *f, const lh_param *p, int64_t i)
{
    const lh_place_word *word = &p->place.axis[LH_AXIS_SEQ];
    int64_t at[LH_MAX_DIMS], index = 0;
    for (int k = p->shape.ndim - 1; k >= 0; k--) {
        at[k] = i % p->shape.dim[k];
        i /= p->shape.dim[k];
    }
    for (int k = 0; k < p->shape.ndim; k++) {
        if (word->kind == LH_SHARD && k == word->dim)
            at[k] = lh_layout_position(f->layout, f->mesh->coord[LH_AXIS_SEQ], at[k]);
        index = index * p->whole.dim[k] + at[k];
    }
    return index;
}

/* Any bit pattern: numbers, infinities and NaNs with their payload. */
static void known_bits(const char *name, int set, int64_t index, unsigned char *out)
{
    uint32_t word[4];
    uint64_t stream = (uint64_t)set;
    for (const char *s = name; *s != '\0'; s++) stream = stream * 131 + (unsigned char)*s;
    lh_random_block(17, stream, (uint64_t)index, word);
    memcpy(out, word, lh_dtype_bytes(LH_REAL));
}

static unsigned char *known_part(const fixture *f, const lh_param *p, int set)
{
    unsigned char *bits = NULL;
    size_t size = lh_dtype_bytes(LH_REAL);
    int64_t n = lh_shape_count(&p->shape);
    if (lh_new((size_t)n * size, &bits) != LH_OK) lh_fatal(f->mesh->world, "no memory");
    for (int64_t i = 0; i < n; i++)
        known_bits(p->name, set, whole_index(f, p, i), bits + (size_t)i * size);
    return bits;
}

static void *part(const lh_param *p, int set)
{
    return set == 0 ? p->value : set == 1 ? p->m : p->v;
}

static void fill(fixture *f)
{
    for (int64_t i = 0; i < f->params->count; i++) {
        const lh_param *p = f->params->item[i];
        for (int set = 0; set < (f->params->trainable ? 3 : 1); set++) {
            unsigned char *bits = known_part(f, p, set);
            lh_copy_in(f->device, part(p, set), bits, lh_shape_bytes(&p->shape));
            lh_free(&bits);
        }
    }
}

/* Do the parameters hold the known bits? A replicated moment that was not read is still zero. */
static bool is_known(fixture *f, int sets)
{
    bool same = true;
    for (int64_t i = 0; i < f->params->count; i++) {
        const lh_param *p = f->params->item[i];
        size_t bytes = lh_shape_bytes(&p->shape);
        for (int set = 0; set < (p->frozen ? 1 : sets); set++) {
            unsigned char *want = known_part(f, p, set), *have = NULL;
            if (lh_new(bytes, &have) != LH_OK) lh_fatal(f->mesh->world, "no memory");
            lh_copy_out(f->device, have, part(p, set), bytes);
            if (memcmp(want, have, bytes) != 0) {
                (void)fprintf(stderr, "rank %d: %s, set %d differs\n", lh_comm_rank(f->mesh->world),
                              p->name, set);
                same = false;
            }
            lh_free(&want);
            lh_free(&have);
        }
    }
    return same;
}

static lh_checkpoint_info info_of(int64_t step)
{
    static char config[] = "model:\n  layers: 2 # \xc3\xa9\n";
    lh_checkpoint_info info = {.step = step,
                               .tokens = 1LL << 40,
                               .samples = 77,
                               .seed = UINT64_MAX - 1,
                               .program = "0.1.0-test",
                               .layout = "contiguous",
                               .config = config};
    return info;
}

static lh_status write_step(fixture *f, int64_t step, int64_t keep)
{
    lh_checkpoint_info info = info_of(step);
    return lh_checkpoint_write(f->mesh, folder, &info, f->params, keep);
}

/* --- what is written is read
 * ---------------------------------------------------------------------------------------- */

static void test_round_trip(void **state)
{
    lh_comm *c = *state;
    char path[LH_PATH_MAX];
    begin(c);
    fixture f = open_fixture(c, (options){.large = true, .frozen = true});
    fill(&f);
    lh_assert_all_ok(c, write_step(&f, 12, 2));
    fixture g = open_fixture(c, (options){.large = true, .frozen = true});
    lh_checkpoint_info info;
    lh_assert_all(c, !lh_file_exists(c, in(path, "step-00000012.h5.tmp")));
    lh_assert_all_ok(c, lh_checkpoint_read(g.mesh, in(path, "step-00000012.h5"),
                                           LH_CHECKPOINT_WEIGHTS, g.params, &info));
    lh_assert_all(c, is_known(&g, 1));
    lh_checkpoint_info want = info_of(12);
    lh_assert_all(c, info.step == 12 && info.tokens == want.tokens && info.samples == 77);
    lh_assert_all(c, info.seed == want.seed && strcmp(info.program, want.program) == 0);
    lh_assert_all(c,
                  strcmp(info.layout, "contiguous") == 0 && strcmp(info.config, want.config) == 0);
    lh_assert_all(c,
                  info.ranks == lh_comm_size(c) && info.data == 1 && info.sequence == info.ranks);
    lh_assert_all(c, strcmp(info.precision, LH_REAL_NAME) == 0 && !info.optimizer);
    lh_checkpoint_info_free(&info);
    lh_assert_all(c, info.config == NULL);
    close_fixture(&g);
    close_fixture(&f);
}

/* Every way of spreading reads what every other has written; also a mesh with two replicas, memory
 * that only the device may touch, and weights alone. */
static void test_other_splits(void **state)
{
    lh_comm *c = *state;
    char path[LH_PATH_MAX];
    int most = lh_comm_size(c) % 2 == 0 ? 2 : 1;
    begin(c);
    for (int data = 1; data <= most; data++) {
        for (int way = 0; way < WAYS; way++) {
            fixture f = open_fixture(c, (options){.data = data, .way = way});
            fill(&f);
            lh_assert_all_ok(c, write_step(&f, 10 * data + way, 0));
            close_fixture(&f);
        }
    }
    for (int data = 1; data <= most; data++) {
        for (int way = 0; way < WAYS; way++) {
            for (int from = 10; from < 10 * most + WAYS; from++) {
                if (from % 10 >= WAYS) continue;
                char name[64];
                (void)snprintf(name, sizeof name, "step-%08d.h5", from);
                fixture g = open_fixture(
                    c, (options){
                           .data = data, .way = way, .poison = from % 2 == 0, .frozen = way == 1});
                lh_checkpoint_what what = way <= 1 ? LH_CHECKPOINT_WEIGHTS : LH_CHECKPOINT_ALL;
                lh_assert_all_ok(c,
                                 lh_checkpoint_read(g.mesh, in(path, name), what, g.params, NULL));
                lh_assert_all(c, is_known(&g, what == LH_CHECKPOINT_ALL ? 3 : 1));
                close_fixture(&g);
            }
        }
    }
}

/* Other numbers of ranks: each run leaves its file for the others, and reads theirs. The name holds
 * when this program was compiled, so that files of an older one do not count. */
static void test_other_ranks(void **state)
{
    lh_comm *c = *state;
    char kept[LH_PATH_MAX], path[LH_PATH_MAX], stamp[] = __DATE__ "-" __TIME__ "-" LH_REAL_NAME;
    for (char *s = stamp; *s != '\0'; s++)
        if (*s == ' ' || *s == ':') *s = '_';
    begin(c);
    fixture f = open_fixture(c, (options){.way = 2});
    fixture g = open_fixture(c, (options){.way = 0});
    fill(&f);
    lh_assert_all_ok(c, write_step(&f, 1, 0));
    lh_assert_all_ok(c, lh_folder_make(c, "scratch_checkpoint.kept"));
    (void)snprintf(kept, sizeof kept, "scratch_checkpoint.kept/%s.np%d.h5", stamp, lh_comm_size(c));
    lh_assert_all_ok(c, lh_file_rename(c, in(path, "step-00000001.h5"), kept));
    for (int ranks = 1; ranks <= 5; ranks++) {
        (void)snprintf(kept, sizeof kept, "scratch_checkpoint.kept/%s.np%d.h5", stamp, ranks);
        if (!lh_file_exists(c, kept)) continue;
        lh_checkpoint_info info;
        lh_assert_all_ok(c, lh_checkpoint_read(g.mesh, kept, LH_CHECKPOINT_ALL, g.params, &info));
        lh_assert_all(c, is_known(&g, 3) && info.ranks == ranks && info.optimizer);
        lh_checkpoint_info_free(&info);
    }
    close_fixture(&g);
    close_fixture(&f);
}

static void test_weights_alone(void **state)
{
    lh_comm *c = *state;
    char path[LH_PATH_MAX];
    begin(c);
    fixture f = open_fixture(c, (options){.frozen = true});
    fixture g = open_fixture(c, (options){.way = 1});
    fill(&f);
    lh_assert_all_ok(c, write_step(&f, 1, 0));
    (void)in(path, "step-00000001.h5");
    lh_assert_all_ok(c, lh_checkpoint_read(g.mesh, path, LH_CHECKPOINT_WEIGHTS, g.params, NULL));
    lh_assert_all(c, is_known(&g, 1));
    lh_assert_all_code(c, lh_checkpoint_read(g.mesh, path, LH_CHECKPOINT_ALL, g.params, NULL),
                       LH_ERR_USAGE);
    lh_assert_all(c, says("weights alone"));
    lh_assert_all_code(c, lh_checkpoint_read(f.mesh, path, LH_CHECKPOINT_ALL, f.params, NULL),
                       LH_ERR_BUG);
    close_fixture(&g);
    close_fixture(&f);
}

/* What is not learned has no moments, and stays as it was drawn when a file does not have it. */
static void test_drawn(void **state)
{
    lh_comm *c = *state;
    char path[LH_PATH_MAX];
    lh_h5 *file = NULL;
    begin(c);
    fixture f = open_fixture(c, (options){0});
    fill(&f);
    lh_assert_all_ok(c, write_step(&f, 1, 9));
    fixture g = open_fixture(c, (options){.drawn = true});
    lh_param *drawn = lh_params_find(g.params, "drawn");
    unsigned char *bits = known_part(&g, drawn, 0);
    lh_copy_in(g.device, drawn->value, bits, lh_shape_bytes(&drawn->shape));
    lh_free(&bits);
    lh_assert_all(c, !is_known(&g, 3));
    lh_assert_all_ok(c, lh_checkpoint_read(g.mesh, in(path, "step-00000001.h5"), LH_CHECKPOINT_ALL,
                                           g.params, NULL));
    lh_assert_all(c, is_known(&g, 3));
    lh_assert_all_ok(c, write_step(&g, 2, 9));
    lh_assert_all_ok(c, lh_h5_open(g.mesh->world, in(path, "step-00000002.h5"), &file));
    lh_assert_all(c, lh_h5_has(file, "parameters/drawn") && !lh_h5_has(file, "optimizer/m/drawn") &&
                         !lh_h5_has(file, "optimizer/v/drawn"));
    lh_assert_all_ok(c, lh_h5_close(&file));
    fixture h = open_fixture(c, (options){.drawn = true, .way = 1});
    lh_assert_all_ok(c, lh_checkpoint_read(h.mesh, path, LH_CHECKPOINT_ALL, h.params, NULL));
    lh_assert_all(c, is_known(&h, 3));
    lh_assert_all_code(c, lh_checkpoint_read(f.mesh, path, LH_CHECKPOINT_WEIGHTS, f.params, NULL),
                       LH_ERR_USAGE);
    lh_assert_all(c, says("only in the file: parameters/drawn"));
    close_fixture(&h);
    close_fixture(&g);
    close_fixture(&f);
}

/* A parameter that the file lacks takes the weights that it starts as a copy of; moments have no such
 * source. */
static void test_copy(void **state)
{
    lh_comm *c = *state;
    char path[LH_PATH_MAX];
    begin(c);
    fixture f = open_fixture(c, (options){0});
    fill(&f);
    lh_assert_all_ok(c, write_step(&f, 1, 9));
    fixture g = open_fixture(c, (options){.copy = true});
    lh_assert_all_ok(c, lh_checkpoint_read(g.mesh, in(path, "step-00000001.h5"),
                                           LH_CHECKPOINT_WEIGHTS, g.params, NULL));
    const lh_param *of = lh_params_find(f.params, "layer.0.weight");
    size_t bytes = lh_shape_bytes(&of->shape);
    unsigned char want[7 * 5 * sizeof(double)];
    unsigned char have[7 * 5 * sizeof(double)];
    lh_copy_out(f.device, want, of->value, bytes);
    lh_copy_out(g.device, have, lh_params_find(g.params, "copy")->value, bytes);
    lh_assert_all(c, memcmp(want, have, bytes) == 0);
    lh_assert_all_code(c, lh_checkpoint_read(g.mesh, path, LH_CHECKPOINT_ALL, g.params, NULL),
                       LH_ERR_USAGE);
    lh_assert_all(c, says("missing in the file: optimizer/m/copy"));
    close_fixture(&g);
    close_fixture(&f);
}

static void test_other_model(void **state)
{
    lh_comm *c = *state;
    static const char *const text[4] = {
        "", "missing in the file: parameters/more", "only in the file: parameters/columns",
        "other shape: parameters/layer.0.weight (file real[7, 5], model real[7, 6])"};
    char path[LH_PATH_MAX];
    begin(c);
    fixture f = open_fixture(c, (options){0});
    fill(&f);
    lh_assert_all_ok(c, write_step(&f, 1, 0));
    for (int odd = 1; odd <= 3; odd++) {
        fixture g = open_fixture(c, (options){.odd = odd});
        lh_assert_all_code(c,
                           lh_checkpoint_read(g.mesh, in(path, "step-00000001.h5"),
                                              LH_CHECKPOINT_WEIGHTS, g.params, NULL),
                           LH_ERR_USAGE);
        lh_assert_all(c, says(text[odd]) && says("1 parameters differ"));
        close_fixture(&g);
    }
    close_fixture(&f);
}

/* --- the folder
 * ----------------------------------------------------------------------------------------------------- */

static bool newest_is(lh_comm *c, int64_t index, const char *name)
{
    char path[LH_PATH_MAX], want[LH_PATH_MAX];
    bool found = false;
    lh_status st = lh_checkpoint_newest(c, folder, index, path, sizeof path, &found);
    if (st != LH_OK || found != (name != NULL)) return false;
    return !found || strcmp(path, in(want, name)) == 0;
}

static void test_keep(void **state)
{
    lh_comm *c = *state;
    char path[LH_PATH_MAX];
    bool found = true;
    begin(c);
    lh_assert_all_ok(c, lh_checkpoint_newest(c, in(path, "none"), 0, path, sizeof path, &found));
    lh_assert_all(c, !found);
    fixture f = open_fixture(c, (options){0});
    fill(&f);
    lh_assert_all_ok(c, lh_folder_make(c, folder));
    lh_assert_all_ok(c, lh_write_small(c, in(path, "step-00000003.h5.tmp"), "x", 1));
    lh_assert_all_ok(c, lh_write_small(c, in(path, "step-3.h5"), "x", 1));
    lh_assert_all_ok(c, lh_write_small(c, in(path, "step-000000009.h5"), "x", 1));
    lh_assert_all(c, newest_is(c, 0, NULL));
    for (int step = 1; step <= 4; step++) lh_assert_all_ok(c, write_step(&f, step, 2));
    lh_assert_all_ok(c, write_step(&f, 123456789012, 2)); /* more than eight digits: the newest */
    lh_assert_all(c,
                  newest_is(c, 0, "step-123456789012.h5") && newest_is(c, 1, "step-00000004.h5"));
    lh_assert_all(c, newest_is(c, 2, NULL) && newest_is(c, -1, NULL));
    lh_assert_all(c, !lh_file_exists(c, in(path, "step-00000003.h5.tmp")));
    lh_assert_all(c, lh_file_exists(c, in(path, "step-3.h5")));
    /* Back to step 5, as after a damaged file: what is newer stays and does not count. */
    lh_assert_all_ok(c, write_step(&f, 5, 2));
    lh_assert_all(c, newest_is(c, 1, "step-00000005.h5") && newest_is(c, 2, "step-00000004.h5"));
    /* The same step again takes the place of the old file. */
    lh_assert_all_ok(c, write_step(&f, 5, 1));
    lh_assert_all(c, newest_is(c, 1, "step-00000005.h5") && newest_is(c, 2, NULL));
    lh_checkpoint_info info;
    lh_assert_all_ok(c, lh_checkpoint_info_read(c, in(path, "step-00000005.h5"), &info));
    lh_assert_all(c, info.step == 5 && strcmp(info.config, info_of(5).config) == 0);
    lh_checkpoint_info_free(&info);
    lh_assert_all_ok(c, lh_checkpoint_info_read(NULL, path, &info));
    lh_assert_all(c, info.step == 5 && info.ranks == lh_comm_size(c));
    lh_checkpoint_info_free(&info);
    close_fixture(&f);
}

/* The checkpoint of step 2 is no longer whole, no longer a file, or the one of step 1. */
static void spoil(lh_comm *c, int way)
{
    char path[LH_PATH_MAX], *bytes = NULL;
    size_t count = 0;
    (void)in(path, "step-00000002.h5");
    lh_assert_all_ok(c, lh_read_small(c, path, &bytes, &count));
    bytes[count / 2] ^= 1;
    if (way == 0) lh_assert_all_ok(c, lh_write_small(c, path, bytes, count));
    if (way == 1) lh_assert_all_ok(c, lh_write_small(c, path, "", 0));
    if (way == 2) lh_assert_all_ok(c, lh_write_small(c, path, "a text\n", 7));
    if (way == 3) lh_assert_all_ok(c, lh_file_remove(c, path));
    if (way == 3) lh_assert_all_ok(c, lh_folder_make(c, path));
    lh_free(&bytes);
    if (way != 4) return;
    lh_assert_all_ok(c, lh_read_small(c, in(path, "step-00000001.h5"), &bytes, &count));
    lh_assert_all_ok(c, lh_write_small(c, in(path, "step-00000002.h5"), bytes, count));
    lh_free(&bytes);
}

/* What is not whole does not push out what is. */
static void test_keep_whole(void **state)
{
    lh_comm *c = *state;
    for (int way = 0; way < 5; way++) {
        begin(c);
        fixture f = open_fixture(c, (options){0});
        fill(&f);
        for (int step = 1; step <= 2; step++) lh_assert_all_ok(c, write_step(&f, step, 2));
        spoil(c, way);
        lh_assert_all_ok(c, write_step(&f, 3, 2));
        lh_assert_all(c, newest_is(c, 1, "step-00000002.h5") &&
                             newest_is(c, 2, "step-00000001.h5") && newest_is(c, 3, NULL));
        /* Two whole ones are newer now: what is older goes, but for somebody's folder. */
        lh_assert_all_ok(c, write_step(&f, 4, 2));
        lh_assert_all(c, newest_is(c, 0, "step-00000004.h5") &&
                             newest_is(c, 1, "step-00000003.h5") &&
                             newest_is(c, 2, way == 3 ? "step-00000002.h5" : NULL));
        close_fixture(&f);
    }
}

/* A run goes on from an older checkpoint: what comes back under the names of newer ones is not its own. */
static void test_leave(void **state)
{
    lh_comm *c = *state;
    char path[LH_PATH_MAX], *bytes = NULL;
    size_t count = 0;
    int64_t left = 0;
    begin(c);
    fixture f = open_fixture(c, (options){0});
    fill(&f);
    lh_assert_all_ok(c, lh_checkpoint_leave(c, in(path, "none"), 0, &left));
    lh_assert_all(c, left == 0);
    for (int step = 1; step <= 6; step++) lh_assert_all_ok(c, write_step(&f, step, 0));
    lh_assert_all_ok(c, lh_file_remove(c, in(path, "step-00000005.h5")));
    lh_assert_all_ok(c, lh_folder_make(c, path));
    lh_assert_all_ok(c, lh_read_small(c, in(path, "step-00000004.h5"), &bytes, &count));
    lh_assert_all_ok(c, lh_checkpoint_leave(c, folder, 2, &left)); /* all but the folder */
    lh_assert_all(c, left == 3 && newest_is(c, 0, "step-00000005.h5") &&
                         newest_is(c, 1, "step-00000002.h5"));
    lh_assert_all_ok(c, lh_write_small(c, in(path, "step-00000004.h5"), bytes, count));
    lh_assert_all_code(c, lh_checkpoint_left(c, path), LH_ERR_FORMAT);
    lh_assert_all_ok(c, lh_checkpoint_left(c, in(path, "step-00000002.h5")));
    /* Its own step 3; then it is past 4, of which it has nothing: that does not count among the two. */
    lh_assert_all_ok(c, write_step(&f, 3, 2));
    lh_assert_all_ok(c, lh_checkpoint_left(c, in(path, "step-00000003.h5")));
    lh_assert_all_ok(c, write_step(&f, 6, 2));
    lh_assert_all(c, lh_file_exists(c, in(path, "step-00000003.h5")) &&
                         lh_file_exists(c, in(path, "step-00000004.h5.bad")) &&
                         !lh_file_exists(c, in(path, "step-00000006.h5.bad")));
    for (int step = 7; step <= 8; step++) lh_assert_all_ok(c, write_step(&f, step, 2));
    lh_assert_all(c, !lh_file_exists(c, in(path, "step-00000004.h5.bad")) &&
                         !lh_file_exists(c, in(path, "step-00000004.h5")));
    lh_assert_all_ok(c, lh_checkpoint_left(c, in(path, "step-00000004.h5")));
    lh_free(&bytes);
    close_fixture(&f);
}

/* --- damage
 * --------------------------------------------------------------------------------------------------------- */

/* A file with these bytes is refused by all ranks alike, and no rank crashes or waits. */
static void refused(lh_comm *c, fixture *g, const char *bytes, size_t count, const char *what)
{
    char path[LH_PATH_MAX];
    lh_checkpoint_info info;
    lh_assert_all_ok(c, lh_write_small(c, in(path, "damaged.h5"), bytes, count));
    lh_status st = lh_checkpoint_read(g->mesh, path, LH_CHECKPOINT_ALL, g->params, NULL);
    if (st != LH_ERR_FORMAT) (void)fprintf(stderr, "%s: '%s'\n", what, lh_status_text(st));
    lh_assert_all(c, st == LH_ERR_FORMAT && says("damaged.h5"));
    lh_assert_all_code(c, lh_checkpoint_info_read(c, path, &info), LH_ERR_FORMAT);
}

static void test_damaged(void **state)
{
    lh_comm *c = *state;
    char path[LH_PATH_MAX], *bytes = NULL, what[64];
    size_t count = 0;
    begin(c);
    fixture f = open_fixture(c, (options){0});
    fill(&f);
    lh_assert_all_ok(c, write_step(&f, 1, 0));
    lh_assert_all_ok(c, lh_read_small(c, in(path, "step-00000001.h5"), &bytes, &count));
    size_t steps = 24;
    for (size_t i = 0; i < steps; i++) {
        size_t at = i < 4 ? i * 171 : count * i / steps;
        (void)snprintf(what, sizeof what, "cut after %zu of %zu", at, count);
        refused(c, &f, bytes, at, what);
    }
    refused(c, &f, bytes, count - 1, "the last byte missing");
    for (size_t i = 0; i < 2 * steps; i++) {
        size_t at = i < 8     ? i * 13
                    : i < 12  ? 300 + i
                    : i == 12 ? count - 1
                              : count * i / (2 * steps);
        (void)snprintf(what, sizeof what, "byte %zu of %zu changed", at, count);
        bytes[at] = (char)(bytes[at] ^ (i % 2 == 0 ? 1 : 0x80));
        refused(c, &f, bytes, count, what);
        bytes[at] = (char)(bytes[at] ^ (i % 2 == 0 ? 1 : 0x80));
    }
    refused(c, &f, "", 0, "empty");
    refused(c, &f, "In the beginning God created the heaven and the earth.\n", 55, "text");
    memset(bytes, 0, count);
    refused(c, &f, bytes, count, "zeros");
    lh_free(&bytes);
    lh_assert_all_code(
        c, lh_checkpoint_read(f.mesh, in(path, "none.h5"), LH_CHECKPOINT_ALL, f.params, NULL),
        LH_ERR_IO);
    lh_assert_all_code(c, lh_checkpoint_read(f.mesh, folder, LH_CHECKPOINT_ALL, f.params, NULL),
                       LH_ERR_IO);
    /* All this has not touched the parameters. */
    lh_assert_all(c, is_known(&f, 3));
    close_fixture(&f);
}

/* Make the digest of a file right again: one process. */
static lh_status reseal(const char *path)
{
    lh_status st = LH_OK;
    int64_t bytes = 0;
    uint64_t digest = 0;
    char head[512] = {0};
    FILE *file = NULL;
    LH_TRY(lhi_digest_file(NULL, path, 512, &bytes, &digest));
    (void)snprintf(head, sizeof head,
                   "longhaul checkpoint 1\nbytes %020" PRId64 "\ndigest %016" PRIx64 "\n", bytes,
                   digest);
    file = fopen(path, "r+");
    LH_CHECK(file != NULL && fwrite(head, 1, sizeof head, file) == sizeof head && fclose(file) == 0,
             LH_ERR_IO, "cannot reseal %s", path);
done:
    return st;
}

/* What lh_checkpoint_list meets. */
typedef struct listed {
    int64_t items, elements, unsound;
    char name[256]; /* of the last unsound one */
} listed;

static lh_status list_item(void *user, const lh_checkpoint_item *item)
{
    listed *l = user;
    int64_t elements = 1;
    for (int i = 0; i < item->ndim; i++) elements *= item->dim[i];
    l->items++;
    l->elements += item->elements == elements ? elements : -1;
    if (item->sound) return LH_OK;
    l->unsound++;
    (void)snprintf(l->name, sizeof l->name, "%s", item->name);
    return LH_OK;
}

/* Each rank lists for itself, without the others: how many tensors are unsound, the name of one. */
static bool lists(const char *path, int64_t unsound, const char *name)
{
    listed l = {0};
    lh_checkpoint_info info = {0};
    lh_status st = lh_checkpoint_list(path, &info, list_item, &l);
    bool good = st == LH_OK && info.step == 1 && l.items > 6 && l.elements > l.items &&
                l.unsound == unsound && strstr(l.name, name) != NULL && lh_checkpoint_is(path);
    lh_checkpoint_info_free(&info);
    return good;
}

/* One element changed and the digest made to fit: the tensor's own checksum tells. */
static void test_checksum(void **state)
{
    lh_comm *c = *state;
    char path[LH_PATH_MAX], *bytes = NULL;
    unsigned char bits[8];
    size_t count = 0, at = 0, size = lh_dtype_bytes(LH_REAL);
    static const char *const names[2] = {"rows", "one"};
    begin(c);
    fixture f = open_fixture(c, (options){0});
    fill(&f);
    for (int k = 0; k < 4; k++) {
        lh_assert_all_ok(c, write_step(&f, 1, 0));
        lh_assert_all_ok(c, lh_read_small(c, in(path, "step-00000001.h5"), &bytes, &count));
        lh_assert_all(c, lists(path, 0, ""));
        known_bits(names[k % 2], k / 2, 0, bits);
        for (at = 512; at + size <= count && memcmp(bytes + at, bits, size) != 0;) at++;
        lh_assert_all(c, at + size <= count);
        bytes[at] ^= 4;
        lh_assert_all_ok(c, lh_write_small(c, path, bytes, count));
        lh_status st = lh_comm_rank(c) == 0 ? reseal(path) : LH_OK;
        lh_assert_all_ok(c, lh_agree(c, st));
        lh_assert_all_code(c, lh_checkpoint_read(f.mesh, path, LH_CHECKPOINT_ALL, f.params, NULL),
                           LH_ERR_FORMAT);
        lh_assert_all(c, says(names[k % 2]) && says("checksum"));
        lh_assert_all(c, lists(path, 1, names[k % 2]));
        lh_free(&bytes);
        fill(&f);
    }
    close_fixture(&f);
}

/* --- the other precision
 * -------------------------------------------------------------------------------------------- */

#ifdef LH_PRECISION_DOUBLE
#define OTHER LH_H5_F32
typedef float other_real;
typedef uint32_t other_bits;
#else
#define OTHER LH_H5_F64
typedef double other_real;
typedef uint64_t other_bits;
#endif

/* A checkpoint with the one parameter w [2, 3] as the other build writes it. One process. */
static lh_status write_other(const char *path, const other_real w[6])
{
    static const char *const texts[] = {"program", "layout", "precision"};
    static const char *const numbers[] = {"step",  "tokens", "samples",  "data_bytes", "seed",
                                          "ranks", "data",   "sequence", "optimizer"};
    lh_status st = LH_OK;
    lh_h5 *file = NULL;
    lh_h5_data data = {.id = -1};
    char checksum[20];
    uint64_t sum = 0;
    LH_TRY(lh_h5_create(NULL, path, 512, &file));
    for (int i = 0; i < 3; i++) LH_TRY(lh_h5_put_text(file, "/", texts[i], "other"));
    for (int i = 0; i < 9; i++) LH_TRY(lh_h5_put_int(file, "/", numbers[i], 0));
    LH_TRY(lh_h5_put_int(file, "/", "format_version", 1));
    LH_TRY(lh_h5_put_int(file, "/", "complete", 1));
    LH_TRY(lh_h5_define(file, "configuration", LH_H5_TEXT, 0, NULL, 1, &data));
    LH_TRY(lh_h5_write(&data, LH_H5_TEXT, NULL, ""));
    lh_h5_release(&data);
    LH_TRY(lh_h5_group(file, "parameters"));
    LH_TRY(lh_h5_define(file, "parameters/w", OTHER, 2, (int64_t[]){2, 3}, 0, &data));
    LH_TRY(lh_h5_write(&data, OTHER, NULL, w));
    for (uint64_t i = 0; i < 6; i++) {
        other_bits bits;
        memcpy(&bits, &w[i], sizeof bits);
        sum += lhi_digest_word(bits, i);
    }
    (void)snprintf(checksum, sizeof checksum, "%016" PRIx64, sum);
    LH_TRY(lh_h5_put_text(file, "parameters/w", "checksum", checksum));
done:
    lh_h5_release(&data);
    if (st == LH_OK) st = lh_h5_close(&file);
    return st == LH_OK ? reseal(path) : st;
}

static void test_other_precision(void **state)
{
    lh_comm *c = *state;
    char path[LH_PATH_MAX];
    other_real w[6] = {0, -1.5f, 3, (other_real)1e-30, 1024, (other_real)0.1};
    fixture f = {0};
    lh_real have[6];
    begin(c);
    lh_assert_all_ok(c, lh_mesh_create(1, &f.mesh));
    lh_assert_all_ok(c, lh_device_create_cpu("portable", 1, &f.device));
    lh_assert_all_ok(c, lh_params_create(f.device, f.mesh->coord, &f.params));
    add(&f, c, "w", lh_shape_2(LH_REAL, 2, 3), -1);
    lh_assert_all_ok(c, lh_params_allocate(f.params, false));
    lh_assert_all_ok(c, lh_folder_make(c, folder));
    (void)in(path, "other.h5");
    lh_assert_all_ok(c, lh_agree(c, lh_comm_rank(c) == 0 ? write_other(path, w) : LH_OK));
    lh_assert_all_ok(c, lh_checkpoint_read(f.mesh, path, LH_CHECKPOINT_WEIGHTS, f.params, NULL));
    lh_copy_out(f.device, have, f.params->item[0]->value, sizeof have);
    bool same = true;
    for (int i = 0; i < 6; i++) same = same && have[i] == (lh_real)w[i];
    lh_assert_all(c, same);
#ifndef LH_PRECISION_DOUBLE
    w[4] = 1e300;
    lh_assert_all_ok(c, lh_agree(c, lh_comm_rank(c) == 0 ? write_other(path, w) : LH_OK));
    lh_assert_all_code(c, lh_checkpoint_read(f.mesh, path, LH_CHECKPOINT_WEIGHTS, f.params, NULL),
                       LH_ERR_RANGE);
    lh_assert_all(c, says("1e+300"));
#endif
    close_fixture(&f);
}

/* --- failures while writing
 * ----------------------------------------------------------------------------------------- */

static void survives(lh_comm *c, fixture *f)
{
    char path[LH_PATH_MAX], *names = NULL;
    int64_t count = 0;
    fixture g = open_fixture(c, (options){0});
    lh_assert_all_ok(c, lh_folder_list(c, folder, &names, &count));
    lh_assert_all(c, count == 1 && strcmp(names, "step-00000001.h5") == 0);
    lh_free(&names);
    lh_assert_all_ok(c, lh_checkpoint_read(g.mesh, in(path, "step-00000001.h5"), LH_CHECKPOINT_ALL,
                                           g.params, NULL));
    lh_assert_all(c, is_known(&g, 3) && is_known(f, 3));
    close_fixture(&g);
}

static void test_unwritable(void **state)
{
    lh_comm *c = *state;
    char path[LH_PATH_MAX];
    begin(c);
    fixture f = open_fixture(c, (options){0});
    fill(&f);
    lh_assert_all_ok(c, write_step(&f, 1, 1));
    lh_checkpoint_info info = info_of(2);
    lh_assert_all_code(
        c, lh_checkpoint_write(f.mesh, in(path, "step-00000001.h5"), &info, f.params, 1),
        LH_ERR_IO);
    lh_assert_all_code(
        c, lh_checkpoint_write(f.mesh, in(path, "step-00000001.h5/deep"), &info, f.params, 1),
        LH_ERR_IO);
    lh_assert_all(c, says("the checkpoint of step 2") && says("step-00000001.h5"));
    lh_assert_all_code(c, lh_checkpoint_write(f.mesh, "/proc/none", &info, f.params, 1), LH_ERR_IO);
    /* A folder where the temporary file should be. */
    lh_assert_all_ok(c, lh_folder_make(c, in(path, "step-00000002.h5.tmp/x")));
    lh_assert_all_code(c, lh_checkpoint_write(f.mesh, folder, &info, f.params, 1), LH_ERR_IO);
    if (lh_comm_rank(c) == 0) (void)(rmdir(path) | rmdir(in(path, "step-00000002.h5.tmp")));
    lh_barrier(c);
    survives(c, &f);
    /* Ranks that do not say the same. */
    if (lh_comm_size(c) > 1) {
        info.tokens += lh_comm_rank(c) == lh_comm_size(c) - 1;
        lh_assert_all_code(c, lh_checkpoint_write(f.mesh, folder, &info, f.params, 1), LH_ERR_BUG);
        survives(c, &f);
    }
    close_fixture(&f);
}

/* The disk is full: for all ranks, and for the last rank alone. */
static void test_full_disk(void **state)
{
    lh_comm *c = *state;
    struct rlimit old, small;
    begin(c);
    fixture f = open_fixture(c, (options){0});
    fixture large = open_fixture(c, (options){.large = true, .frozen = true});
    fill(&f);
    fill(&large);
    lh_assert_all_ok(c, write_step(&f, 1, 1));
    (void)signal(SIGXFSZ, SIG_IGN);
    (void)getrlimit(RLIMIT_FSIZE, &old);
    for (int k = 0; k < 4; k++) {
        static const rlim_t room[] = {700, 20000, 3000000};
        bool mine = k < 3 || lh_comm_rank(c) == lh_comm_size(c) - 1;
        small = (struct rlimit){room[k % 3], old.rlim_max};
        if (mine) (void)setrlimit(RLIMIT_FSIZE, &small);
        lh_status st = write_step(&large, 2, 1);
        (void)setrlimit(RLIMIT_FSIZE, &old);
        lh_assert_all_code(c, st, LH_ERR_IO);
        lh_assert_all(c, says("ulimit -f"));
        survives(c, &f);
    }
    lh_assert_all_ok(c, write_step(&large, 2, 1));
    close_fixture(&large);
    close_fixture(&f);
}

/* Every allocation fails once, on the first and on the last rank: the same error everywhere, and
 * nobody waits. */
static void test_without_memory(void **state)
{
    lh_comm *c = *state;
    char path[LH_PATH_MAX];
    begin(c);
    fixture f = open_fixture(c, (options){0});
    fill(&f);
    lh_assert_all_ok(c, write_step(&f, 1, 1));
    for (int last = 0; last < (lh_comm_size(c) > 1 ? 2 : 1); last++) {
        bool mine = lh_comm_rank(c) == (last ? lh_comm_size(c) - 1 : 0);
        for (int read = 0; read < 2; read++) {
            int64_t n = 1;
            for (;; n++) {
                if (mine) lh_new_fail_at(n);
                lh_status st = read ? lh_checkpoint_read(f.mesh, in(path, "step-00000001.h5"),
                                                         LH_CHECKPOINT_ALL, f.params, NULL)
                                    : write_step(&f, 2, 9);
                lh_new_fail_at(0);
                if (st == LH_OK) break;
                lh_assert_all_code(c, st, LH_ERR_MEMORY);
                lh_assert_all(c, n < 500);
                /* The older file is as it was, until the step after naming. */
                lh_assert_all(c, newest_is(c, 0, "step-00000001.h5") ||
                                     newest_is(c, 1, "step-00000001.h5"));
            }
            lh_assert_all(c, n > 20); /* so many allocations did fail */
            fill(&f);
        }
        lh_assert_all(c, newest_is(c, 0, "step-00000002.h5"));
        lh_assert_all_ok(c, lh_checkpoint_read(f.mesh, in(path, "step-00000001.h5"),
                                               LH_CHECKPOINT_ALL, f.params, NULL));
        lh_assert_all(c, is_known(&f, 3));
    }
    close_fixture(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_other_splits),
        cmocka_unit_test(test_other_ranks),
        cmocka_unit_test(test_weights_alone),
        cmocka_unit_test(test_other_model),
        cmocka_unit_test(test_drawn),
        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_keep),
        cmocka_unit_test(test_keep_whole),
        cmocka_unit_test(test_leave),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_checksum),
        cmocka_unit_test(test_other_precision),
        cmocka_unit_test(test_unwritable),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_without_memory),
    };
    return lh_test_mpi_main(argc, argv, "checkpoint", tests, sizeof tests / sizeof tests[0]);
}
