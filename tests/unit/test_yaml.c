/* The YAML tree, and settings structs filled from it. */
#include "io/settings_fill.h"
#include "io/yaml.h"
#include "tests/lh_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static lh_node *parse(lh_yaml *y, const char *text)
{
    lh_node *root = NULL;
    lh_assert_ok(lh_yaml_parse(y, text, strlen(text), "a.yaml", &root));
    assert_non_null(root);
    return root;
}

static lh_yaml *create(void)
{
    lh_yaml *y = NULL;
    lh_assert_ok(lh_yaml_create(&y));
    return y;
}

static void test_tree(void **state)
{
    (void)state;
    lh_yaml *y = create();
    lh_node *root = parse(y, "\xef\xbb\xbf# c\na: 1\nb:\n  - x\n  - 'y z'\n  - {k: v}\nc: {}\n");
    char place[LH_PLACE_MAX];
    assert_int_equal(root->kind, LH_NODE_MAP);
    assert_int_equal(root->count, 3);
    assert_string_equal(lh_node_find(root, "a")->text, "1");
    assert_false(lh_node_find(root, "a")->quoted);
    assert_true(lh_node_at(root, "b.1")->quoted);
    assert_string_equal(lh_node_at(root, "b.1")->text, "y z");
    assert_string_equal(lh_node_at(root, "b.2.k")->text, "v");
    assert_string_equal(lh_node_place(lh_node_at(root, "b.2.k"), place), "a.yaml:6:9");
    assert_string_equal(lh_node_place(root->key[1], place), "a.yaml:3:1");
    assert_ptr_equal(lh_node_at(root, "b.7.k"), lh_node_at(root, "b"));
    assert_ptr_equal(lh_node_at(root, "nothing"), root);
    assert_null(lh_node_find(root, "nothing"));
    assert_null(lh_node_find(NULL, "a"));
    assert_null(lh_node_find(lh_node_find(root, "a"), "a"));
    lh_yaml_destroy(&y);
    assert_null(y);
}

typedef struct bad_text {
    const char *text, *message;
    size_t count; /* 0: strlen */
} bad_text;

static void test_refused(void **state)
{
    (void)state;
    static const bad_text bad[] = {
        {"", "a.yaml:1:1: nothing is written here; expected keys with values", 0},
        {"# only a comment\n\n", "nothing is written here", 0},
        {"---\n...\n", "nothing is written here", 0},
        {"a: 1\nb: 2\na: 3\n", "a.yaml:3:1: key 'a' occurs twice in this map (first in line 1)", 0},
        {"a: {k: 1, k: 2}\n", "a.yaml:1:11: key 'k' occurs twice", 0},
        {"a: 1\n---\nb: 2\n", "a.yaml:2:1: a second document starts here", 0},
        {"a: &x 1\n", "a.yaml:1:4: anchors (&name) are not supported", 0},
        {"a: *x\n", "a.yaml:1:4: aliases (*name) are not supported", 0},
        {"a: !!int 1\n", "a.yaml:1:4: tags (!name) are not supported", 0},
        {"? [1, 2]\n: 3\n", "a.yaml:1:3: a key must be a word, not a list or a map", 0},
        {"'': 3\n", "a.yaml:1:1: a key is missing before ':'", 0},
        {"a: [1, 2\n", "not valid YAML", 0},
        {"a:\n\t- 1\n", "a.yaml:2:1: not valid YAML: a tab where YAML wants blanks", 0},
        {"# \xc3\xa9\xc3\xa9\na:\n\t- 1\n", "a.yaml:3:1: not valid YAML: a tab where YAML wants",
         0},
        {"a: 1\n  b: 2\n", "a.yaml:2:4: not valid YAML", 0},
        {"a: \"x\\0y\"\n", "a.yaml:1:4: a text with a zero character", 0},
        {"a: \x01\n", "not valid YAML: control characters are not allowed", 0},
        {"a: 1\nb: \xff\xfe\n", "a.yaml:2:4: byte 0xff is not UTF-8 text; expected a YAML file", 0},
        {"a: \xc0\xaf\n", "a.yaml:1:4: byte 0xc0 is not UTF-8 text", 0},
        {"a: \xed\xa0\x80\n", "a.yaml:1:4: byte 0xed is not UTF-8 text", 0},
        {"a: \xe2\x82", "a.yaml:1:4: byte 0xe2 is not UTF-8 text", 0},
        {"\x89HDF\r\n\x1a\n", "a.yaml:1:1: byte 0x89 is not UTF-8 text", 0},
        {"a\0b", "a.yaml:1:2: byte 0x00 is not UTF-8 text", 3},
        {"a: @x\n", "not valid YAML", 0},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        lh_yaml *y = create();
        lh_node *root = NULL;
        size_t n = bad[i].count > 0 ? bad[i].count : strlen(bad[i].text);
        lh_assert_error(lh_yaml_parse(y, bad[i].text, n, "a.yaml", &root), LH_ERR_USAGE,
                        bad[i].message);
        assert_null(root);
        lh_yaml_destroy(&y);
    }
}

/* Fill text with n times the unit and expect the message. */
static void expect_too_much(const char *head, const char *unit, int n, const char *message)
{
    lh_yaml *y = create();
    lh_node *root = NULL;
    char *text = NULL;
    size_t used = strlen(head), step = strlen(unit);
    lh_assert_ok(lh_new(used + (size_t)n * step + 1, &text));
    for (size_t i = 0; i < used; i++) text[i] = head[i];
    for (int i = 0; i < n; i++, used += step)
        for (size_t k = 0; k < step; k++) text[used + k] = unit[k];
    lh_assert_error(lh_yaml_parse(y, text, used, "a.yaml", &root), LH_ERR_USAGE, message);
    lh_free(&text);
    lh_yaml_destroy(&y);
}

static void test_limits(void **state)
{
    (void)state;
    expect_too_much("a: ", "[", 40, "nested too deep (more than 32)");
    expect_too_much("a: ", "[", 100000, "nested too deep (more than 32)");
    expect_too_much("", "- x\n", LH_YAML_MAX_NODES + 10, "too many values");
    expect_too_much("# ", "x", LH_YAML_MAX_BYTES, "are too many for an experiment file");
    char *text = NULL;
    lh_yaml *y = create();
    lh_node *root = NULL;
    size_t used = 0, bytes = 20 * (LH_YAML_MAX_KEYS + 1);
    lh_assert_ok(lh_new(bytes, &text));
    for (int i = 0; i <= LH_YAML_MAX_KEYS; i++)
        used += (size_t)snprintf(text + used, bytes - used, "k%d: 1\n", i);
    lh_assert_error(lh_yaml_parse(y, text, used, "a.yaml", &root), LH_ERR_USAGE,
                    "a.yaml:1001:1: too many keys");
    lh_free(&text);
    lh_yaml_destroy(&y);
}

static void test_merge(void **state)
{
    (void)state;
    lh_yaml *y = create();
    char *text = NULL;
    lh_node *base = parse(y, "a: {x: 1, y: 2, z: 3}\nb: [1, 2]\nc: 5\nd: {k: 1}\n");
    lh_node *over = parse(y, "a: {y: 20, z: ~, w: 4}\nb: [9]\nd: 7\ne: {n: 1}\n");
    lh_assert_ok(lh_yaml_merge(y, base, over));
    lh_assert_ok(lh_yaml_emit(base, &text));
    assert_string_equal(text, "a:\n  x: 1\n  y: 20\n  w: 4\nb: [9]\nc: 5\nd: 7\ne:\n  n: 1\n");
    lh_free(&text);
    lh_assert_code(lh_yaml_merge(y, base, lh_node_find(base, "c")), LH_ERR_BUG);
    lh_yaml_destroy(&y);
}

static void test_override(void **state)
{
    (void)state;
    static const char *const good[] = {"a.x=10",    "a.new.deep=[1, {k: v}]", "b.1.k=5",  "c=~",
                                       "d.k=a = b", "e.f.g='null'",           "l=[a, b]", "l.0=z",
                                       "h.i=3"};
    lh_yaml *y = create();
    lh_node *root = parse(y, "a: {x: 1}\nb: [{k: 1}, {k: 2}]\nc: 5\nd: {k: 1}\nh:\n");
    char place[LH_PLACE_MAX];
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        lh_assert_ok(lh_yaml_override(y, root, good[i]));
    assert_string_equal(lh_node_at(root, "d.k")->text, "a = b");
    assert_string_equal(lh_node_at(root, "a.x")->text, "10");
    assert_string_equal(lh_node_at(root, "a.new.deep.1.k")->text, "v");
    assert_string_equal(lh_node_place(lh_node_at(root, "a.new.deep.1.k"), place),
                        "--set a.new.deep=[1, {k: v}]");
    assert_string_equal(lh_node_at(root, "b.1.k")->text, "5");
    assert_string_equal(lh_node_at(root, "b.0.k")->text, "1");
    assert_null(lh_node_find(root, "c"));
    assert_true(lh_node_at(root, "e.f.g")->quoted);
    assert_string_equal(lh_node_at(root, "l.0")->text, "z");
    assert_string_equal(lh_node_at(root, "h.i")->text, "3");
    static const char *const bad[][2] = {
        {"a.x", "--set a.x: expected --set section.key=value"},
        {"=3", "--set =3: a key is empty"},
        {"a..x=3", "--set a..x=3: a key is empty"},
        {"a.=3", "--set a.=3: a key is empty"},
        {"a.x.y=3", "--set a.x.y=3: 'y' would lie below the value '10'"},
        {"b.2.k=3", "expected an index from 0 to 1"},
        {"b.k=3", "--set b.k=3: 'k' should name an element of the list at a.yaml:2:4"},
        {"b.-1=3", "expected an index from 0 to 1"},
        {"b.99999999999999999999=3", "expected an index from 0 to 1"},
        {"a.x=[1", "--set a.x=[1:2:1: not valid YAML"},
        {"a.x=\x01", "--set a.x=?:1:1: not valid YAML"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        lh_assert_error(lh_yaml_override(y, root, bad[i][0]), LH_ERR_USAGE, bad[i][1]);
    lh_yaml_destroy(&y);
}

typedef struct sample {
    int64_t count, many;
    double rate;
    bool flag;
    int mode;
    char *name, *file;
    lh_int_list spots, heads;
    lh_real_list pair;
} sample;

/* clang-format off */
static const lh_field sample_fields[] = {
    {.name = "count", .type = LH_FIELD_INT, .offset = offsetof(sample, count), .min = 1, .max = 9,
     .per_layer = true, .help = "how many"},
    {.name = "many", .type = LH_FIELD_INT, .offset = offsetof(sample, many), .fallback = "auto",
     .min = 1, .max = LH_NO_LIMIT, .automatic = "auto"},
    {.name = "rate", .type = LH_FIELD_REAL, .offset = offsetof(sample, rate), .fallback = "0.5",
     .min = LH_ABOVE_ZERO, .max = LH_BELOW_ONE},
    {.name = "flag", .type = LH_FIELD_BOOL, .offset = offsetof(sample, flag), .fallback = "false"},
    {.name = "mode", .type = LH_FIELD_CHOICE, .offset = offsetof(sample, mode), .fallback = "slow",
     .choices = "fast|slow|steady"},
    {.name = "name", .type = LH_FIELD_STRING, .offset = offsetof(sample, name), .fallback = "n"},
    {.name = "file", .type = LH_FIELD_PATH, .offset = offsetof(sample, file), .fallback = ""},
    {.name = "spots", .type = LH_FIELD_INTS, .offset = offsetof(sample, spots), .fallback = "[]",
     .min = 0, .max = LH_NO_LIMIT},
    {.name = "heads", .type = LH_FIELD_INTS, .offset = offsetof(sample, heads), .fallback = "1",
     .min = 1, .max = 99, .per_layer = true},
    {.name = "pair", .type = LH_FIELD_REALS, .offset = offsetof(sample, pair),
     .fallback = "[0.25, 1]", .min = 0, .max = 0},
    {.name = NULL}};
/* clang-format on */

static lh_status fill(lh_yaml *y, const char *text, int layers, int layer, sample *s)
{
    lh_fill how = {.map = parse(y, text),
                   .prefix = "s.t",
                   .directory = "/work dir",
                   .layers = layers,
                   .layer = layer};
    memset(s, 0, sizeof *s);
    return lh_settings_fill(&how, sample_fields, s);
}

static void test_fill(void **state)
{
    (void)state;
    lh_yaml *y = create();
    sample s;
    lh_assert_ok(fill(y, "{count: 3}", 0, 0, &s));
    assert_true(s.count == 3 && s.many == LH_AUTO && s.rate == 0.5 && !s.flag && s.mode == 1);
    assert_string_equal(s.name, "n");
    assert_string_equal(s.file, "");
    assert_true(s.spots.count == 0 && s.heads.count == 1 && s.heads.item[0] == 1);
    assert_true(s.pair.count == 2 && s.pair.item[0] == 0.25 && s.pair.item[1] == 1.0);
    lh_settings_free(sample_fields, &s);
    assert_null(s.name);
    lh_assert_ok(
        fill(y,
             "{count: [1, 2, +3], many: 9223372036854775807, rate: 1e-8, flag: true, "
             "mode: steady, name: 12, "
             "file: ./a/b, spots: [5, 0], heads: [4, [1, 2], 6], pair: [-1.5, -1e37, 1e-37, -0e9]}",
             3, 1, &s));
    assert_true(s.count == 2 && s.many == INT64_MAX && s.rate == 1e-8 && s.flag && s.mode == 2);
    assert_string_equal(s.name, "12");
    assert_string_equal(s.file, "/work dir/a/b");
    assert_true(s.spots.count == 2 && s.spots.item[0] == 5);
    assert_true(s.heads.count == 2 && s.heads.item[1] == 2);
    assert_true(s.pair.count == 4 && s.pair.item[0] == -1.5 && s.pair.item[1] == -1e37);
    assert_true(s.pair.item[2] == 1e-37 && s.pair.item[3] == 0.0);
    lh_settings_free(sample_fields, &s);
    lh_assert_ok(fill(y, "{count: 1, heads: [1, 2], name: ~, file: \"/abs\"}", 0, 0, &s));
    assert_true(s.heads.count == 2);
    assert_string_equal(s.name, "");
    assert_string_equal(s.file, "/abs");
    lh_settings_free(sample_fields, &s);
    lh_yaml_destroy(&y);
}

static void test_fill_refused(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"{}", "a.yaml:1:1: key 's.t.count' is required but missing; expected an integer from 1 to "
               "9 (how many)"},
        {"{coutn: 1}", "a.yaml:1:2: key 's.t.coutn': unknown key; did you mean 'count'?"},
        {"{count: 1, elephant: 1}",
         "key 's.t.elephant': unknown key; known keys: count, many, rate, flag"},
        {"{count: x}", "a.yaml:1:9: key 's.t.count': expected an integer from 1 to 9, got 'x'"},
        {"{count: 0}", "expected an integer from 1 to 9, got '0'"},
        {"{count: 1.0}", "expected an integer from 1 to 9, got '1.0'"},
        {"{count: '1'}", "expected an integer from 1 to 9, got the text '1'"},
        {"{count: }", "expected an integer from 1 to 9, got no value"},
        {"{count: -}", "expected an integer from 1 to 9, got '-'"},
        {"{count: [1, 2]}", "a.yaml:1:9: key 's.t.count': a list with 2 values; expected one "
                            "value, or one for each of the 3 layers"},
        {"{count: [1, 2, [3]]}",
         "a.yaml:1:16: key 's.t.count': expected an integer from 1 to 9, got a list"},
        {"{count: 1, many: 9223372036854775808}",
         "key 's.t.many': expected an integer >= 1 or auto, got '9223372036854775808'"},
        {"{count: 1, many: -9223372036854775808}", "expected an integer >= 1 or auto"},
        {"{count: 1, rate: 0}", "expected a number greater than 0 and less than 1, got '0'"},
        {"{count: 1, rate: 1}", "expected a number greater than 0 and less than 1, got '1'"},
        {"{count: 1, rate: .nan}", "expected a number"},
        {"{count: 1, rate: 0x1}", "expected a number"},
        {"{count: 1, rate: 1e999}",
         "less than 1, got '1e999', which single precision does not hold"},
        {"{count: 1, rate: 1e-308}",
         "less than 1, got '1e-308', which single precision does not hold (0, and 1e-37 to 1e37)"},
        {"{count: 1, rate: 9.9e-38}", "which single precision does not hold"},
        {"{count: 1, pair: [0, 2e-46]}", "got '2e-46', which single precision does not hold"},
        {"{count: 1, pair: [0.0e5, 1e-400]}", "got '1e-400', which single precision does not hold"},
        {"{count: 1, pair: [-1e38]}", "got '-1e38', which single precision does not hold"},
        {"{count: 1, rate: 1e}", "expected a number"},
        {"{count: 1, rate: [0.5]}", "got a list"},
        {"{count: 1, flag: yes}", "key 's.t.flag': expected true or false, got 'yes'"},
        {"{count: 1, mode: stow}", "key 's.t.mode': unknown value 'stow'; expected one of: fast, "
                                   "slow, steady; did you mean 'slow'?"},
        {"{count: 1, mode: [slow]}", "expected one of: fast, slow, steady, got a list"},
        {"{count: 1, name: {a: b}}", "key 's.t.name': expected a text, got a map"},
        {"{count: 1, file: [a]}", "key 's.t.file': expected a path, got a list"},
        {"{count: 1, spots: 5}", "key 's.t.spots': expected a list of integers >= 0, got '5'"},
        {"{count: 1, spots: [1, -2]}",
         "a.yaml:1:23: key 's.t.spots': expected a list of integers >= 0, got '-2'"},
        {"{count: 1, pair: [a]}", "expected a list of numbers, got 'a'"},
        {"[count]", "a.yaml:1:1: key 's.t': expected a map of settings, got a list"},
        {"count", "a.yaml:1:1: key 's.t': expected a map of settings, got 'count'"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        lh_yaml *y = create();
        sample s;
        lh_assert_error(fill(y, bad[i][0], 3, 2, &s), LH_ERR_USAGE, bad[i][1]);
        lh_settings_free(sample_fields, &s);
        lh_yaml_destroy(&y);
    }
}

static void test_list_limit(void **state)
{
    (void)state;
    char text[8 * LH_LIST_MAX + 64] = "{count: 1, spots: [0";
    for (int i = 0; i < LH_LIST_MAX; i++) {
        size_t n = strlen(text);
        (void)snprintf(text + n, sizeof text - n, ", 1%s", i == LH_LIST_MAX - 1 ? "]}" : "");
    }
    lh_yaml *y = create();
    sample s;
    lh_assert_error(fill(y, text, 0, 0, &s), LH_ERR_USAGE,
                    "key 's.t.spots': 257 values, expected at most 256");
    lh_settings_free(sample_fields, &s);
    lh_yaml_destroy(&y);
}

/* Awkward values survive writing and reading. */
static void test_settings_round_trip(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",      "null",         "~",     "true",  "12",       "1.5",          "a: b", "# x",
        " pad ", "two\nlines",   "tab\t", "'\"\\", "\xc3\xa9", "{a}",          "- x",  "@",
        "No",    "\xe2\x80\xa8", "\x01",  "\x7f",  "a\r\nb",   "\xef\xbb\xbf", "*a",   "x "};
    static const double numbers[] = {0.1, 1.0 / 3.0, 1e-8, 1e-37, 1e37, -1e22, 3, 0, 1e5};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        lh_yaml *y = create();
        sample s, t;
        char *text = NULL;
        lh_node *map = NULL;
        lh_assert_ok(
            fill(y, "{count: 7, heads: [3, 4], flag: true, mode: fast, spots: [9, 8]}", 0, 0, &s));
        lh_free(&s.name);
        lh_assert_ok(lh_new(strlen(texts[i]) + 1, &s.name));
        memcpy(s.name, texts[i], strlen(texts[i]) + 1);
        s.pair.count = 1;
        s.pair.item[0] = numbers[i % (sizeof numbers / sizeof numbers[0])];
        lh_assert_ok(lh_yaml_map(y, &map));
        lh_assert_ok(lh_settings_emit(y, sample_fields, &s, true, map));
        lh_assert_ok(lh_yaml_emit(map, &text));
        lh_assert_ok(fill(y, text, 0, 0, &t));
        assert_string_equal(t.name, texts[i]);
        assert_true(lh_settings_equal(sample_fields, &s, &t));
        assert_memory_equal(&s.pair.item[0], &t.pair.item[0], sizeof s.pair.item[0]);
        t.pair.item[0] = 17;
        assert_false(lh_settings_equal(sample_fields, &s, &t));
        lh_free(&text);
        lh_settings_free(sample_fields, &s);
        lh_settings_free(sample_fields, &t);
        lh_yaml_destroy(&y);
    }
}

static void test_words(void **state)
{
    (void)state;
    char hint[200];
    lh_words w = {.wrong = "widht"};
    lh_words_add(&w, "layers|width|heads");
    assert_string_equal(lh_words_hint(&w, "known", hint, sizeof hint), "did you mean 'width'?");
    lh_words v = {.wrong = "zzzzzz"};
    lh_words_add(&v, "layers");
    lh_words_add(&v, "width");
    assert_string_equal(lh_words_hint(&v, "known", hint, sizeof hint), "known: layers, width");
    lh_words none = {.wrong = ""};
    assert_string_equal(lh_words_hint(&none, "known", hint, sizeof hint), "");
    char shown[12];
    assert_string_equal(lh_text_shown("a\tb\x1b[1m", shown, sizeof shown), "a?b?[1m");
    assert_string_equal(lh_text_shown("0123456\xc3\xa9zzzzzz", shown, sizeof shown), "0123456...");
}

/* Every allocation that fails is an error, and nothing leaks (the sanitizer build sees that). */
static void test_no_memory(void **state)
{
    (void)state;
    static const char text[] = "{count: 3, name: x, file: y, spots: [1], pair: [1, 2]}";
    for (int n = 1;; n++) {
        lh_yaml *y = NULL;
        lh_node *root = NULL;
        char *out = NULL;
        sample s = {.count = 0};
        lh_fill how = {.prefix = "s", .directory = "/d"};
        lh_new_fail_at(n);
        lh_status st = lh_yaml_create(&y);
        if (st == LH_OK) st = lh_yaml_parse(y, text, sizeof text - 1, "a.yaml", &root);
        how.map = root;
        if (st == LH_OK) st = lh_settings_fill(&how, sample_fields, &s);
        if (st == LH_OK) st = lh_yaml_override(y, root, "a.b=3");
        if (st == LH_OK) st = lh_yaml_emit(root, &out);
        lh_new_fail_at(0);
        lh_free(&out);
        lh_settings_free(sample_fields, &s);
        lh_yaml_destroy(&y);
        if (st == LH_OK) break;
        assert_int_equal(st, LH_ERR_MEMORY);
        assert_true(n < 100);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tree),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_merge),
        cmocka_unit_test(test_override),
        cmocka_unit_test(test_fill),
        cmocka_unit_test(test_fill_refused),
        cmocka_unit_test(test_list_limit),
        cmocka_unit_test(test_settings_round_trip),
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
