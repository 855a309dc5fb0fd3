/* Files, bytes, JSON, metrics and the log. Folders are made in the working directory, one for each
 * number of ranks. */
#include "io/bytes.h"
#include "io/digest.h"
#include "io/files.h"
#include "io/metrics.h"
#include "tests/lh_test_mpi.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64];

/* folder/name in a buffer of the caller. */
static const char *in(char path[LH_PATH_MAX], const char *name)
{
    (void)snprintf(path, LH_PATH_MAX, "%s/%s", folder, name);
    return path;
}

/* An empty folder at the beginning of a test. */
static void begin(lh_comm *c)
{
    char path[LH_PATH_MAX], *names = NULL;
    int64_t count = 0;
    (void)snprintf(folder, sizeof folder, "scratch_io.np%d", lh_comm_size(c));
    lh_assert_all_ok(c, lh_folder_list(c, folder, &names, &count));
    const char *name = names;
    for (int64_t i = 0; i < count; i++, name += strlen(name) + 1) {
        if (lh_comm_rank(c) == 0 && remove(in(path, name)) != 0)
            (void)fprintf(stderr, "%s stays\n", path);
    }
    lh_free(&names);
    lh_barrier(c);
    lh_assert_all_ok(c, lh_folder_make(c, folder));
}

static void put(lh_comm *c, const char *name, const char *text)
{
    char path[LH_PATH_MAX];
    lh_assert_all_ok(c, lh_write_small(c, in(path, name), text, strlen(text)));
}

static bool holds(lh_comm *c, const char *name, const char *text)
{
    char path[LH_PATH_MAX], *bytes = NULL;
    size_t count = 0;
    lh_status st = lh_read_small(c, in(path, name), &bytes, &count);
    bool same = st == LH_OK && count == strlen(text) && memcmp(bytes, text, count) == 0;
    if (!same && lh_comm_rank(c) == 0)
        (void)fprintf(stderr, "%s holds\n%s\nexpected\n%s\n", path,
                      st == LH_OK ? bytes : "(nothing)", text);
    lh_free(&bytes);
    return same;
}

static bool says(const char *text)
{
    bool found = strstr(lh_error_text(), text) != NULL;
    if (!found) (void)fprintf(stderr, "the error is '%s', expected '%s'\n", lh_error_text(), text);
    return found;
}

static void test_small_files(void **state)
{
    lh_comm *c = *state;
    char path[LH_PATH_MAX], *bytes = NULL;
    size_t count = 0;
    begin(c);
    put(c, "a.txt", "one\ntwo\n");
    lh_assert_all(c, holds(c, "a.txt", "one\ntwo\n"));
    put(c, "a.txt", "");
    lh_assert_all(c, holds(c, "a.txt", ""));
    lh_assert_all(c, !lh_file_exists(c, in(path, "a.txt.tmp")));
    lh_assert_all_code(c, lh_read_small(c, in(path, "none"), &bytes, &count), LH_ERR_IO);
    lh_assert_all(c, bytes == NULL && count == 0 && says("No such file"));
    lh_assert_all_code(c, lh_read_small(c, folder, &bytes, &count), LH_ERR_IO);
    lh_assert_all(c, says("is a folder"));
    lh_assert_all_code(c, lh_write_small(c, in(path, "a.txt/b"), "x", 1), LH_ERR_IO);
    lh_assert_all(c, says("not a folder"));
    lh_assert_all_code(c, lh_write_small(c, in(path, "no/b"), "x", 1), LH_ERR_IO);
    /* One process without a communicator. */
    lh_assert_all_ok(c, lh_read_small(NULL, in(path, "a.txt"), &bytes, &count));
    lh_assert_all(c, count == 0 && bytes != NULL && bytes[0] == '\0');
    lh_free(&bytes);
}

/* Memory that fails on one rank is everybody's error, and nobody waits. */
static void test_small_file_without_memory(void **state)
{
    lh_comm *c = *state;
    char path[LH_PATH_MAX], *bytes = NULL;
    size_t count = 0;
    begin(c);
    put(c, "a.txt", "text");
    (void)in(path, "a.txt");
    for (int rank = 0; rank < lh_comm_size(c); rank++) {
        if (lh_comm_rank(c) == rank) lh_new_fail_at(1);
        lh_status st = lh_read_small(c, path, &bytes, &count);
        lh_new_fail_at(0);
        lh_assert_all_code(c, st, LH_ERR_MEMORY);
        lh_assert_all(c, bytes == NULL);
    }
}

static void test_folders(void **state)
{
    lh_comm *c = *state;
    char path[LH_PATH_MAX], *names = NULL;
    int64_t count = 0;
    begin(c);
    lh_assert_all_ok(c, lh_folder_make(c, in(path, "x//y/z/")));
    lh_assert_all(c, lh_file_exists(c, in(path, "x/y/z")));
    lh_assert_all_ok(c, lh_folder_make(c, in(path, "x/y/z")));
    put(c, "file", "");
    lh_assert_all_code(c, lh_folder_make(c, in(path, "file")), LH_ERR_IO);
    lh_assert_all(c, says("file"));
    lh_assert_all_code(c, lh_folder_make(c, in(path, "file/deep/er")), LH_ERR_IO);
    lh_assert_all_code(c, lh_folder_make(c, ""), LH_ERR_USAGE);
    put(c, "b", "1");
    put(c, "a", "2");
    lh_assert_all_ok(c, lh_folder_list(c, folder, &names, &count));
    lh_assert_all(c, count == 4 && memcmp(names, "a\0b\0file\0x\0", 11) == 0);
    lh_free(&names);
    lh_assert_all_ok(c, lh_folder_list(c, in(path, "nothing"), &names, &count));
    lh_assert_all(c, count == 0);
    lh_free(&names);
    lh_assert_all_code(c, lh_folder_list(c, in(path, "file"), &names, &count), LH_ERR_IO);
    lh_assert_all_ok(c, lh_file_aside(c, folder, "none", "txt"));
    for (int i = 1; i <= 3; i++) {
        put(c, "m.txt", i == 2 ? "two" : "other");
        lh_assert_all_ok(c, lh_file_aside(c, folder, "m", "txt"));
    }
    lh_assert_all(c, holds(c, "m-2.txt", "two") && !lh_file_exists(c, in(path, "m.txt")));
    lh_assert_all(c, lh_file_exists(c, in(path, "m-3.txt")));
    lh_assert_all_ok(c, lh_file_remove(c, in(path, "m-3.txt")));
    lh_assert_all_ok(c, lh_file_remove(c, in(path, "m-3.txt")));
    lh_assert_all(c, !lh_file_exists(c, in(path, "m-3.txt")));
    if (lh_comm_rank(c) == 0) (void)(rmdir(in(path, "x/y/z")) | rmdir(in(path, "x/y")));
    lh_barrier(c);
}

/* folder/name becomes a link to folder/to. */
static void link_to(lh_comm *c, const char *name, const char *to)
{
    char path[LH_PATH_MAX];
    lh_assert_all(c, lh_comm_rank(c) > 0 || symlink(to, in(path, name)) == 0);
    lh_barrier(c);
}

/* Where a file is written, a link is no way to another one. */
static void test_links(void **state)
{
    char path[LH_PATH_MAX];
    lh_comm *c = *state;
    lh_metrics *m = NULL;
    lh_log *log = NULL;
    begin(c);
    put(c, "precious", "kept");
    link_to(c, "config.yaml.tmp", "precious");
    lh_assert_all_code(c, lh_write_small(c, in(path, "config.yaml"), "x", 1), LH_ERR_IO);
    lh_assert_all(c, says("a symbolic link lies there"));
    link_to(c, "picture.svg", "precious");
    lh_assert_all_code(c, lh_write_small(c, in(path, "picture.svg"), "x", 1), LH_ERR_IO);
    lh_assert_all(c, says("is no ordinary file"));
    link_to(c, "log.txt", "precious");
    lh_assert_all_code(c, lh_log_open(c, folder, &log), LH_ERR_IO);
    link_to(c, "metrics.jsonl", "nowhere");
    lh_assert_all_code(c, lh_metrics_open(c, folder, -1, &m), LH_ERR_IO);
    lh_assert_all_ok(c, lh_file_remove(c, in(path, "metrics.jsonl")));
    put(c, "metrics.jsonl", "{\"step\":1}\n{\"step\":2}\n");
    link_to(c, "metrics.jsonl.tmp", "precious");
    link_to(c, "metrics-cut.jsonl.tmp", "nowhere");
    lh_assert_all_ok(c, lh_metrics_open(c, folder, 1, &m));
    lh_metrics_close(&m);
    lh_assert_all(c, holds(c, "metrics.jsonl", "{\"step\":1}\n"));
    link_to(c, "step.tmp", "precious");
    lh_status st = lh_comm_rank(c) == 0 ? lhi_file_reserve(in(path, "step.tmp"), 9, true) : LH_OK;
    lh_assert_all_code(c, lh_agree(c, st), LH_ERR_IO);
    lh_assert_all(c, holds(c, "precious", "kept"));
    lh_assert_all(c, !lh_file_exists(c, in(path, "nowhere")));
}

static void pipe_at(lh_comm *c, const char *name)
{
    char path[LH_PATH_MAX];
    lh_assert_all_ok(c, lh_file_remove(c, in(path, name)));
    if (lh_comm_rank(c) == 0 && mkfifo(path, 0600) != 0) (void)fprintf(stderr, "no pipe\n");
    lh_barrier(c);
}

/* A pipe in the place of a run's file is an error at once: nobody waits for a reader or a writer, and what is
 * written does not go to whoever reads. */
static void test_pipes(void **state)
{
    lh_comm *c = *state;
    bool lead = lh_comm_rank(c) == 0;
    char path[LH_PATH_MAX];
    lh_metrics *m = NULL;
    lh_log *log = NULL;
    lh_json j = {0};
    int reader = -1;
    begin(c);
    put(c, "config.yaml", "kept");
    pipe_at(c, "config.yaml.tmp");
    lh_assert_all_code(c, lh_write_small(c, in(path, "config.yaml"), "x", 1), LH_ERR_IO);
    lh_assert_all(c, says("it is a pipe or a socket, not a file: remove it"));
    lh_assert_all(c, holds(c, "config.yaml", "kept"));
    pipe_at(c, "log.txt");
    lh_assert_all_code(c, lh_log_open(c, folder, &log), LH_ERR_IO);
    lh_assert_all(c, says("a pipe or a socket"));
    pipe_at(c, "metrics.jsonl");
    lh_assert_all_code(c, lh_metrics_open(c, folder, 1, &m), LH_ERR_IO);
    lh_assert_all(c, says("no plain file"));
    pipe_at(c, "step.tmp");
    lh_status st = lead ? lhi_file_reserve(in(path, "step.tmp"), 9, true) : LH_OK;
    lh_assert_all_code(c, lh_agree(c, st), LH_ERR_IO);
    /* during a run, without a reader and with one */
    lh_json_begin(&j);
    lh_json_int(&j, "step", 1);
    for (int i = 0; i < 2; i++) {
        lh_assert_all_ok(c, lh_file_remove(c, in(path, "metrics.jsonl")));
        lh_assert_all_ok(c, lh_metrics_open(c, folder, -1, &m));
        pipe_at(c, "metrics.jsonl");
        if (lead && i == 1) reader = open(in(path, "metrics.jsonl"), O_RDONLY | O_NONBLOCK);
        lh_assert_all_code(c, lh_agree(c, lh_metrics_write(m, &j)), LH_ERR_IO);
        lh_assert_all(c, says("a pipe or a socket"));
        lh_metrics_close(&m);
    }
    if (reader >= 0) (void)close(reader);
    lh_json_free(&j);
}

static void test_bytes(void **state)
{
    lh_comm *c = *state;
    char path[LH_PATH_MAX];
    uint8_t out[8] = {0};
    lh_bytes *f = NULL;
    begin(c);
    put(c, "data", "0123456789");
    lh_assert_all_ok(c, lh_bytes_open(c, in(path, "data"), &f));
    lh_assert_all(c, lh_bytes_size(f) == 10 && strcmp(lh_bytes_path(f), path) == 0);
    int rank = lh_comm_rank(c);
    lh_assert_all_ok(c, lh_bytes_read(f, rank, 3, out));
    lh_assert_all(c, out[0] == '0' + rank && out[2] == '2' + rank && out[3] == 0);
    lh_assert_all_ok(c, lh_bytes_read(f, 10, 0, out));
    lh_assert_all_ok(c, lh_bytes_read(f, 9, 1, out));
    lh_assert_all(c, out[0] == '9');
    lh_assert_all_code(c, lh_bytes_read(f, 9, 2, out), LH_ERR_RANGE);
    lh_assert_all_code(c, lh_bytes_read(f, 11, 0, out), LH_ERR_RANGE);
    lh_assert_all_code(c, lh_bytes_read(f, -1, 2, out), LH_ERR_RANGE);
    lh_assert_all_code(c, lh_bytes_read(f, 5, INT64_MAX, out), LH_ERR_RANGE);
    lh_assert_all_code(c, lh_bytes_read(f, 5, -1, out), LH_ERR_RANGE);
    if (rank == 0 && truncate(path, 4) != 0) (void)fprintf(stderr, "cannot truncate\n");
    lh_barrier(c);
    lh_assert_all_ok(c, lh_bytes_read(f, 0, 4, out));
    lh_assert_all_code(c, lh_bytes_read(f, 2, 4, out), LH_ERR_IO);
    lh_assert_all(c, says("shrunk"));
    lh_bytes_close(&f);
    lh_assert_all(c, f == NULL);
    lh_bytes_close(&f);
    put(c, "empty", "");
    lh_assert_all_ok(c, lh_bytes_open(c, in(path, "empty"), &f));
    lh_assert_all(c, lh_bytes_size(f) == 0);
    lh_assert_all_code(c, lh_bytes_read(f, 0, 1, out), LH_ERR_RANGE);
    lh_bytes_close(&f);
}

static void test_bytes_refuses(void **state)
{
    lh_comm *c = *state;
    char path[LH_PATH_MAX], other[LH_PATH_MAX];
    lh_bytes *f = NULL;
    begin(c);
    lh_assert_all_code(c, lh_bytes_open(c, in(path, "none"), &f), LH_ERR_IO);
    lh_assert_all(c, f == NULL && says("No such file"));
    lh_assert_all_code(c, lh_bytes_open(c, folder, &f), LH_ERR_IO);
    lh_assert_all(c, says("is a folder"));
    lh_assert_all_code(c, lh_bytes_open(c, "", &f), LH_ERR_USAGE);
    lh_assert_all_code(c, lh_bytes_open(c, "/dev/zero", &f), LH_ERR_IO);
    lh_assert_all(c, says("device"));
    (void)in(path, "pipe");
    if (lh_comm_rank(c) == 0 && mkfifo(path, 0600) != 0) (void)fprintf(stderr, "no pipe\n");
    lh_barrier(c);
    lh_assert_all_code(c, lh_bytes_open(c, path, &f), LH_ERR_IO);
    if (lh_comm_size(c) == 1) return;
    /* The last rank sees another file, or none. */
    put(c, "data", "0123456789");
    put(c, "less", "01234");
    bool last = lh_comm_rank(c) == lh_comm_size(c) - 1;
    lh_assert_all_code(c, lh_bytes_open(c, in(other, last ? "less" : "data"), &f), LH_ERR_IO);
    lh_assert_all(c, says("5 bytes here and 10 on rank 0"));
    lh_assert_all_code(c, lh_bytes_open(c, in(other, last ? "gone" : "data"), &f), LH_ERR_IO);
    lh_assert_all(c, f == NULL);
}

/* A large file with one byte that differs. */
static void put_large(lh_comm *c, const char *name, char *text, int64_t count, int64_t place)
{
    memset(text, 'a', (size_t)count);
    if (place >= 0) text[place] = 'b';
    put(c, name, text);
}

/* The last rank has a copy that differs in one byte; where it lies decides whether it is seen. */
static void test_same_content(void **state)
{
    lh_comm *c = *state;
    enum { SMALL = 200001, LARGE = 3000000 };
    static const struct {
        int64_t count, place;
        bool seen;
    } cases[] = {{SMALL, 0, true},      {SMALL, 100000, true},       {SMALL, SMALL - 1, true},
                 {LARGE, 0, true},      {LARGE, LARGE - 1, true},    {LARGE, 4095, true},
                 {LARGE, 47000, false}, {LARGE, LARGE - 4096, true}, {LARGE, -1, false},
                 {1, 0, true},          {SMALL, -1, false}};
    char other[LH_PATH_MAX], *text = NULL;
    bool last = lh_comm_rank(c) == lh_comm_size(c) - 1;
    begin(c);
    lh_assert_all_ok(c, lh_new(LARGE + 1, &text));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lh_bytes *f = NULL;
        memset(text, 0, LARGE + 1);
        put_large(c, "data", text, cases[i].count, -1);
        put_large(c, "copy", text, cases[i].count, cases[i].place);
        lh_assert_all_ok(c, lh_bytes_open(c, in(other, last ? "copy" : "data"), &f));
        lh_status st = lhi_digest_same(c, f);
        bool refused = cases[i].seen && lh_comm_size(c) > 1;
        lh_assert_all(c, st == (refused ? LH_ERR_IO : LH_OK));
        if (refused) lh_assert_all(c, says("other content"));
        lh_bytes_close(&f);
    }
    lh_free(&text);
}

static void test_json(void **state)
{
    lh_comm *c = *state;
    lh_json j = {0};
    const char *text = NULL;
    const int64_t ints[3] = {1, -2, INT64_MAX};
    lh_json_begin(&j);
    lh_json_string(&j, "event", "a\"b\\c\n\t\x01\xc3\xa9\xff\xed\xa0\x80.");
    lh_json_int(&j, "min", INT64_MIN);
    lh_json_real(&j, "lr", 1e-5);
    lh_json_real(&j, "third", 0.5);
    lh_json_real(&j, "nan", (double)NAN);
    lh_json_real(&j, "inf", -(double)INFINITY);
    lh_json_bool(&j, "yes", true);
    lh_json_ints(&j, "samples", ints, 3);
    lh_json_ints(&j, "none", NULL, 0);
    lh_json_array(&j, "layers");
    lh_json_object(&j, NULL);
    lh_json_int(&j, "bytes", 3);
    lh_json_close(&j);
    lh_json_real(&j, NULL, 2.0);
    lh_json_close(&j);
    lh_assert_all_ok(c, lh_json_text(&j, &text));
#ifdef LH_PRECISION_DOUBLE
    const char *lr = "1.0000000000000001e-05";
#else
    const char *lr = "1e-05";
#endif
    char want[512];
    (void)snprintf(
        want, sizeof want,
        "{\"event\":\"a\\\"b\\\\c\\n\\u0009\\u0001\xc3\xa9\\ufffd\\ufffd\\ufffd\\ufffd.\","
        "\"min\":-9223372036854775808,\"lr\":%s,\"third\":0.5,\"nan\":null,\"inf\":null,"
        "\"yes\":true,\"samples\":[1,-2,9223372036854775807],\"none\":[],"
        "\"layers\":[{\"bytes\":3},2]}",
        lr);
    lh_assert_all(c, strcmp(text, want) == 0);
    lh_json_begin(&j);
    lh_assert_all_ok(c, lh_json_text(&j, &text));
    lh_assert_all(c, strcmp(text, "{}") == 0);
    lh_json_begin(&j);
    lh_json_array(&j, "open");
    lh_assert_all_code(c, lh_json_text(&j, &text), LH_ERR_BUG);
    lh_json_begin(&j);
    lh_json_close(&j);
    lh_assert_all_code(c, lh_json_text(&j, &text), LH_ERR_BUG);
    lh_json_begin(&j);
    lh_json_int(&j, NULL, 1);
    lh_assert_all_code(c, lh_json_text(&j, &text), LH_ERR_BUG);
    lh_json_free(&j);
}

static void line(lh_comm *c, lh_metrics *m, const char *event, int64_t step)
{
    lh_json j = {0};
    lh_json_begin(&j);
    lh_json_string(&j, "event", event);
    lh_json_int(&j, "step", step);
    lh_assert_all_ok(c, lh_metrics_write(m, &j));
    lh_json_free(&j);
}

static void test_metrics(void **state)
{
    lh_comm *c = *state;
    char path[LH_PATH_MAX];
    lh_metrics *m = NULL;
    begin(c);
    lh_assert_all_ok(c, lh_metrics_open(c, folder, -1, &m));
    line(c, m, "train", 1);
    line(c, m, "step", 2);
    lh_metrics_close(&m);
    lh_barrier(c);
    lh_assert_all(c, holds(c, "metrics.jsonl",
                           "{\"event\":\"train\",\"step\":1}\n{\"event\":\"step\",\"step\":2}\n"));
    /* Nothing to cut: the same file goes on. */
    lh_assert_all_ok(c, lh_metrics_open(c, folder, 2, &m));
    line(c, m, "train", 3);
    lh_metrics_close(&m);
    lh_barrier(c);
    lh_assert_all(c, !lh_file_exists(c, in(path, "metrics-1.jsonl")));
    lh_assert_all_ok(c, lh_metrics_open(c, folder, 1, &m));
    lh_metrics_close(&m);
    lh_assert_all(c, holds(c, "metrics.jsonl", "{\"event\":\"train\",\"step\":1}\n"));
    lh_assert_all(c, holds(c, "metrics-1.jsonl",
                           "{\"event\":\"step\",\"step\":2}\n{\"event\":\"train\",\"step\":3}\n"));
    /* A new run moves everything aside. */
    lh_assert_all_ok(c, lh_metrics_open(c, folder, -1, &m));
    lh_metrics_close(&m);
    lh_assert_all(c, holds(c, "metrics.jsonl", "") &&
                         holds(c, "metrics-2.jsonl", "{\"event\":\"train\",\"step\":1}\n"));
    lh_assert_all_code(c, lh_metrics_open(c, in(path, "none"), -1, &m), LH_ERR_IO);
    lh_assert_all(c, m == NULL);
    lh_assert_all_code(c, lh_metrics_open(c, in(path, "none"), 3, &m), LH_ERR_IO);
}

/* What a crash may have left. */
static void test_metrics_torn(void **state)
{
    lh_comm *c = *state;
    char path[LH_PATH_MAX];
    lh_metrics *m = NULL;
    begin(c);
    put(c, "metrics.jsonl",
        "{\"event\":\"train\",\"step\":1}\n"
        "{\"text\":\"\\\"step\\\":9\",\"in\":{\"step\":9},\"step\" : 2}\n"
        "{\"event\":\"note\"}\n"
        "{\"event\":\"tra\n"
        "{\"event\":\"train\",\"step\":5}\n"
        "{\"event\":\"note of 5\"}\n"
        "{\"event\":\"eval\",\"step\":2}\n"
        "{\"event\":\"train\",\"step\":2,\"loss\":1.");
    lh_assert_all_ok(c, lh_metrics_open(c, folder, 2, &m));
    line(c, m, "train", 3);
    lh_metrics_close(&m);
    lh_barrier(c);
    lh_assert_all(c, holds(c, "metrics.jsonl",
                           "{\"event\":\"train\",\"step\":1}\n"
                           "{\"text\":\"\\\"step\\\":9\",\"in\":{\"step\":9},\"step\" : 2}\n"
                           "{\"event\":\"note\"}\n"
                           "{\"event\":\"eval\",\"step\":2}\n"
                           "{\"event\":\"train\",\"step\":3}\n"));
    lh_assert_all(c, holds(c, "metrics-1.jsonl",
                           "{\"event\":\"tra\n"
                           "{\"event\":\"train\",\"step\":5}\n"
                           "{\"event\":\"note of 5\"}\n"
                           "{\"event\":\"train\",\"step\":2,\"loss\":1.\n"));
    /* A whole last line that only misses its end stays. */
    put(c, "metrics.jsonl", "{\"step\":1}");
    lh_assert_all_ok(c, lh_metrics_open(c, folder, 1, &m));
    lh_metrics_close(&m);
    lh_assert_all(c, holds(c, "metrics.jsonl", "{\"step\":1}\n"));
    lh_assert_all(c, !lh_file_exists(c, in(path, "metrics-2.jsonl")));
    lh_assert_all(c, !lh_file_exists(c, in(path, "metrics.jsonl.tmp")));
    /* Resuming without metrics begins some. */
    lh_assert_all_ok(c, lh_file_remove(c, in(path, "metrics.jsonl")));
    lh_assert_all_ok(c, lh_metrics_open(c, folder, 7, &m));
    lh_metrics_close(&m);
    lh_assert_all(c, holds(c, "metrics.jsonl", ""));
}

/* The file is taken away during the run, or another program writes it again. */
static void test_metrics_moved(void **state)
{
    lh_comm *c = *state;
    char path[LH_PATH_MAX];
    lh_metrics *m = NULL;
    lh_json j = {0};
    begin(c);
    lh_assert_all_ok(c, lh_metrics_open(c, folder, -1, &m));
    line(c, m, "train", 1);
    put(c, "metrics.jsonl", "edited\n"); /* another file of this name */
    line(c, m, "train", 2);
    lh_assert_all(c, holds(c, "metrics.jsonl", "edited\n{\"event\":\"train\",\"step\":2}\n"));
    lh_assert_all_ok(c, lh_file_rename(c, in(path, "metrics.jsonl"), "scratch_moved.jsonl"));
    lh_json_begin(&j);
    lh_assert_all_code(c, lh_agree(c, lh_metrics_write(m, &j)), LH_ERR_IO);
    lh_assert_all(c, strstr(lh_error_text(), "metrics.jsonl' is gone") != NULL);
    lh_json_free(&j);
    lh_metrics_close(&m);
    lh_assert_all_ok(c, lh_file_remove(c, "scratch_moved.jsonl"));
}

static void test_log(void **state)
{
    lh_comm *c = *state;
    char path[LH_PATH_MAX], *bytes = NULL;
    size_t count = 0;
    lh_log *log = NULL;
    begin(c);
    lh_log_line(NULL, "nothing");
    for (int i = 0; i < 2; i++) {
        lh_assert_all_ok(c, lh_log_open(c, folder, &log));
        lh_log_line(log, "line %d", i);
        lh_log_close(&log);
    }
    lh_barrier(c);
    lh_assert_all_ok(c, lh_read_small(c, in(path, "log.txt"), &bytes, &count));
    lh_assert_all(c, count == 56 && strstr(bytes, "Z line 0\n") == bytes + 19);
    lh_assert_all(c, strcmp(bytes + 28 + 19, "Z line 1\n") == 0);
    lh_free(&bytes);
    lh_assert_all_code(c, lh_log_open(c, in(path, "none"), &log), LH_ERR_IO);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_files),   cmocka_unit_test(test_small_file_without_memory),
        cmocka_unit_test(test_folders),       cmocka_unit_test(test_links),
        cmocka_unit_test(test_pipes),         cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_bytes_refuses), cmocka_unit_test(test_same_content),
        cmocka_unit_test(test_json),          cmocka_unit_test(test_metrics),
        cmocka_unit_test(test_metrics_torn),  cmocka_unit_test(test_metrics_moved),
        cmocka_unit_test(test_log),
    };
    return lh_test_mpi_main(argc, argv, "io", tests, sizeof tests / sizeof tests[0]);
}
