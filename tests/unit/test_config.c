/* The experiment file: defaults, inheritance, overrides, every refusal with its place, and the
 * round trip. */
#include "experiments/config.h"
#include "io/settings_fill.h"
#include "tests/lh_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A file system of a few texts. */
typedef struct shelf {
    const char *const (*files)[2]; /* path, text; closed by NULL */
    int reads;
} shelf;

static lh_status shelf_read(void *user, const char *path, char **bytes, size_t *count)
{
    shelf *s = user;
    *bytes = NULL;
    s->reads++;
    for (int i = 0; s->files[i][0] != NULL; i++) {
        if (strcmp(s->files[i][0], path) != 0) continue;
        *count = strlen(s->files[i][1]);
        lh_status st = lh_new(*count + 1, bytes);
        if (st == LH_OK) memcpy(*bytes, s->files[i][1], *count);
        return st;
    }
    return LH_RAISE(LH_ERR_IO, "%s: no such file", path);
}

static lh_status load_files(const char *const files[][2], const char *path,
                            const char *const *overrides, int n, lh_config **out)
{
    shelf s = {.files = files};
    lh_config_source source = {.read = shelf_read,
                               .user = &s,
                               .path = path,
                               .overrides = overrides,
                               .n_overrides = n,
                               .directory = "/home/me"};
    return lh_config_load(&source, out);
}

static lh_status load(const char *text, lh_config **out)
{
    const char *files[][2] = {{"a.yaml", text}, {NULL, NULL}};
    return load_files((const char *const(*)[2])files, "a.yaml", NULL, 0, out);
}

static lh_status load_set(const char *text, const char *set, lh_config **out)
{
    const char *files[][2] = {{"a.yaml", text}, {NULL, NULL}};
    return load_files((const char *const(*)[2])files, "a.yaml", &set, 1, out);
}

#define SMALL                                                                                      \
    "data: {path: book.txt}\n"                                                                     \
    "model: {layers: 3, width: 48, heads: 4, attention: {mechanism: full}}\n"

/* The documented defaults, but for what is required. */
static void test_defaults(void **state)
{
    (void)state;
    lh_config *c = NULL;
    lh_assert_ok(load(SMALL, &c));
    assert_string_equal(c->run.name, "quickstart");
    assert_string_equal(c->run.output, "/home/me/runs");
    assert_string_equal(c->run.init, "");
    assert_true(c->run.seed == 1);
    assert_true(c->mesh.data == 1 && c->mesh.layout == 0 && c->mesh.align == LH_ALIGN_CHUNK &&
                c->mesh.chunk == 512 && c->mesh.exchange == LH_EXCHANGE_RING &&
                c->mesh.ulysses == LH_AUTO);
    assert_int_equal(c->data.task, LH_TASK_TEXT);
    assert_string_equal(c->data.path, "/home/me/book.txt");
    assert_string_equal(c->data.valid_path, "");
    assert_string_equal(c->data.test_path, "");
    assert_true(c->data.length == 8192 && c->data.batch == 1 && c->data.valid_fraction == 0.05 &&
                c->data.mask == 0.15);
    assert_true(c->data.documents == LH_AUTO && c->data.vocab == 16 && c->data.lag == 8 &&
                c->data.gap == 1 && c->data.offsets == 2 && c->data.valid_windows == 64);
    assert_true(c->optimizer.kind == 0 && c->optimizer.lr == 1e-3 && c->optimizer.eps == 1e-8);
    assert_true(c->optimizer.betas.count == 2 && c->optimizer.betas.item[0] == 0.9 &&
                c->optimizer.betas.item[1] == 0.95);
    assert_true(c->optimizer.weight_decay == 0.1 && c->optimizer.clip == 1.0);
    assert_true(c->schedule.kind == LH_SCHEDULE_COSINE && c->schedule.warmup == 0 &&
                c->schedule.steps == 600 && c->schedule.final_lr == 1e-4);
    assert_true(c->train.log_every == 10 && c->train.eval_every == 200 &&
                c->train.eval_tokens == 131072 && c->train.recompute == LH_RECOMPUTE_NONE &&
                c->train.accumulate == 1);
    assert_true(c->train.stall_seconds == 600 && c->train.time_limit_s == 0.0 &&
                c->train.on_nonfinite == LH_NONFINITE_STOP);
    assert_true(c->checkpoint.every == 200 && c->checkpoint.keep == 2);
    assert_true(c->device.kind == LH_DEVICE_CPU && c->device.threads == LH_AUTO &&
                c->device.isa == LH_ISA_AUTO && lh_config_store(c) == LH_REAL);
    assert_string_equal(lh_config_isa(c), "auto");
    lh_config_destroy(&c);
    assert_null(c);
}

static void test_model_defaults(void **state)
{
    (void)state;
    lh_config *c = NULL;
    lh_assert_ok(load(SMALL, &c));
    const lh_model_desc *m = &c->model;
    assert_true(m->kind == LH_MODEL_DECODER && m->head == LH_HEAD_LM && m->vocab == LH_AUTO);
    assert_true(m->layers == 3 && m->width == 48 && m->heads == 4);
    assert_true(m->kv_heads == 4 && m->head_width == 12 && m->mlp_width == 192);
    assert_true(m->mlp == LH_ACT_GELU && m->norm == LH_NORM_PRE && m->norm_kind == LH_NORM_LAYER);
    assert_true(m->max_length == 8192);
    assert_true(m->norm_eps == 1e-5 && m->rotary_base == 10000.0 && m->token_types == 0 &&
                m->position_offset == 0);
    assert_true(m->pool == LH_POOL_FIRST && m->classes == LH_AUTO && !m->pooler &&
                !m->head_transform);
    assert_true(m->position == LH_POSITION_ROTARY && m->tie_embeddings && m->bias &&
                m->dropout == 0);
    for (int i = 0; i < LH_MAX_LAYERS; i++)
        assert_ptr_equal(m->attention[i].ops, i < 3 ? lh_attn_find("full") : NULL);
    lh_config_destroy(&c);
}

/* Every choice, in the order of its enum. */
static void test_choices(void **state)
{
    (void)state;
    lh_config *c = NULL;
    lh_assert_ok(load(
        "run: {name: n, seed: 9, output: /o, init: w.h5}\n"
        "mesh: {data: 2, layout: contiguous, align: none, chunk: 1, exchange: ring}\n"
        "data: {task: masked_text, path: /d/t, valid_path: v, test_path: ./t, length: 1, batch: "
        "12, "
        "valid_fraction: 0, mask: 1}\n"
        "model: {kind: encoder, head: lm, vocab: 97, layers: 1, width: 50, heads: 4, kv_heads: 2, "
        "head_width: 10, mlp: swiglu, mlp_width: 7, norm: post, norm_kind: rms, position: "
        "sinusoidal, "
        "tie_embeddings: false, bias: false, dropout: 0.5, attention: [{mechanism: sliding_window, "
        "window: 5}]}\n"
        "optimizer: {lr: 0.1, betas: [0, 0.5], eps: 1, weight_decay: 0, clip: 0}\n"
        "schedule: {kind: inverse_sqrt, warmup: 7, steps: 7, final_lr: 0}\n"
        "train: {log_every: 1, eval_every: 0, eval_tokens: 0, recompute: block, accumulate: 3, "
        "stall_seconds: 0, time_limit: 1-11:30:00, on_nonfinite: skip}\n"
        "checkpoint: {every: 0, keep: 1}\n"
        "device: {kind: poison, threads: 3, isa: portable, store: bfloat16}\n",
        &c));
    assert_true(c->mesh.align == LH_ALIGN_NONE && c->data.task == LH_TASK_MASKED_TEXT);
    assert_true(c->model.kind == LH_MODEL_ENCODER && c->model.vocab == 97 &&
                c->model.mlp == LH_ACT_SWIGLU);
    assert_true(c->model.norm == LH_NORM_POST && c->model.norm_kind == LH_NORM_RMS);
    assert_true(c->model.position == LH_POSITION_SINUSOIDAL && !c->model.tie_embeddings &&
                !c->model.bias);
    assert_true(c->model.head_width == 10 && c->model.mlp_width == 7 && c->model.kv_heads == 2);
    assert_true(c->schedule.kind == LH_SCHEDULE_INVERSE_SQRT &&
                c->train.recompute == LH_RECOMPUTE_BLOCK);
    assert_true(c->train.stall_seconds == 0 && c->train.time_limit_s == 127800.0 &&
                c->train.on_nonfinite == LH_NONFINITE_SKIP);
    assert_true(c->device.kind == LH_DEVICE_POISON && c->device.threads == 3);
    assert_string_equal(lh_config_isa(c), "portable");
    assert_true(lh_config_store(c) == LH_BF16);
    assert_string_equal(lh_config_store_name(c), "bfloat16");
    assert_string_equal(c->run.init, "/home/me/w.h5");
    assert_string_equal(c->run.output, "/o");
    assert_string_equal(c->data.test_path, "/home/me/t");
    lh_config_destroy(&c);
}

#define MODEL(rest)                                                                                \
    "data: {path: b}\nmodel: {layers: 2, width: 64, heads: 4, attention: {mechanism: full}, " rest \
    "}\n"
/* A section data: without path, and a model. */
#define TASK(rest)                                                                                 \
    "data: {" rest "}\nmodel: {layers: 2, width: 64, heads: 4, attention: {mechanism: full}}\n"
#define ENCODER(rest)                                                                              \
    "data: {" rest "}\n"                                                                           \
    "model: {kind: encoder, layers: 2, width: 64, heads: 4, attention: {mechanism: full}}\n"
#define ATTN(rest)                                                                                 \
    "data: {path: b}\nmodel:\n  layers: 2\n  width: 64\n  heads: 4\n  attention: " rest "\n"

/* The published sizes are the defaults. */
static void test_task_defaults(void **state)
{
    (void)state;
    lh_config *c = NULL;
    lh_assert_ok(load(TASK("task: mqar"), &c));
    assert_true(c->data.vocab == 8192 && c->data.pairs == 4 && c->data.filler == LH_FILLER_RANDOM);
    assert_true(c->data.items == 16 && c->data.place == LH_AUTO);
    assert_true(c->data.tree_depth == 10 && c->data.tree_args == 10 && c->data.longer_than == 500 &&
                c->data.shorter_than == 2000);
    lh_config_destroy(&c);
}

static void expect_refusals(const char *const bad[][2], size_t n)
{
    for (size_t i = 0; i < n; i++) {
        lh_config *c = NULL;
        lh_assert_error(load(bad[i][0], &c), LH_ERR_USAGE, bad[i][1]);
        assert_null(c);
    }
}

static void test_refused_keys(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {MODEL("widht: 3"), "a.yaml:2:71: key 'model.widht': unknown key; did you mean 'width'?"},
        {MODEL("zzz: 3"),
         "a.yaml:2:71: key 'model.zzz': unknown key; known keys: kind, head, vocab, layers, width"},
        {SMALL "modle: {}\n", "a.yaml:3:1: key 'modle': unknown key; did you mean 'model'?"},
        {SMALL "zzz: {}\n",
         "a.yaml:3:1: key 'zzz': unknown key; known keys: base, sweep, run, mesh, data, model"},
        {SMALL "train:\n  log_evry: 3\n",
         "a.yaml:4:3: key 'train.log_evry': unknown key; did you mean 'log_every'?"},
        {SMALL "train: 3\n", "a.yaml:3:8: key 'train': expected a map of settings, got '3'"},
        {SMALL "train:\n", "key 'train': expected a map of settings, got no value"},
        {"model: {layers: 1, width: 8, heads: 1, attention: {mechanism: full}}\n",
         "a.yaml:1:1: key 'data.path' is required but missing"},
        {"data: {length: 3}\nmodel: {layers: 1, width: 8, heads: 1, attention: {mechanism: "
         "full}}\n",
         "a.yaml:1:7: key 'data.path' is required but missing"},
        {"data: {path: }\nmodel: {layers: 1, width: 8, heads: 1, attention: {mechanism: full}}\n",
         "key 'data.path' is required"},
        {"data: {path: b}\n", "a.yaml:1:1: key 'model.layers' is required but missing; expected an "
                              "integer from 1 to 512"},
        {"data: {path: b}\nmodel: {layers: 1, heads: 1}\n",
         "a.yaml:2:8: key 'model.width' is required but missing"},
        {"data: {path: b}\nmodel: {layers: 1, width: 1}\n",
         "a.yaml:2:8: key 'model.heads' is required but missing"},
        {"data: {path: b}\nmodel: {layers: 1, width: 1, heads: 1}\n",
         "a.yaml:2:8: key 'model.attention' is required but missing; expected {mechanism: NAME, "
         "settings...}"},
        {"- a\n", "a.yaml:1:1: expected a map with sections such as data: and model:, got a list"},
        {"text\n", "a.yaml:1:1: expected a map with sections such as data: and model:, got 'text'"},
        {"", "a.yaml:1:1: nothing is written here"},
    };
    expect_refusals(bad, sizeof bad / sizeof bad[0]);
}

static void test_refused_values(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {MODEL("vocab: 0"), "a.yaml:2:78: key 'model.vocab': expected an integer from 1 to "
                            "2147483647 or auto, got '0'"},
        {MODEL("dropout: 1"),
         "key 'model.dropout': expected a number >= 0 and less than 1, got '1'"},
        {MODEL("dropout: -0.1"), "key 'model.dropout': expected a number >= 0 and less than 1"},
        {MODEL("bias: 1"), "key 'model.bias': expected true or false, got '1'"},
        {MODEL("position: rotray"),
         "key 'model.position': unknown value 'rotray'; expected one of: none, learned, "
         "sinusoidal, rotary, relative; did you mean 'rotary'?"},
        {SMALL "run: {seed: -1}\n",
         "a.yaml:3:13: key 'run.seed': expected an integer >= 0, got '-1'"},
        {SMALL "mesh: {chunk: 0}\n",
         "key 'mesh.chunk': expected an integer from 1 to 1000000000000, got '0'"},
        {SMALL "mesh: {layout: zagzig}\n",
         "key 'mesh.layout': unknown value 'zagzig'; expected one of: contiguous, zigzag"},
        {MODEL("max_length: 0"),
         "key 'model.max_length': expected an integer from 1 to 2147483646"},
        {TASK("documents: 256"), "key 'data.documents': expected an integer from 0 to 255 or none"},
        {SMALL "train: {recompute: layers}\n",
         "key 'train.recompute': unknown value 'layers'; expected one of: none, attention, block"},
        {SMALL "train: {stall_seconds: -1}\n",
         "key 'train.stall_seconds': expected an integer from 0"},
        {SMALL "train: {time_limit: soon}\n",
         "a.yaml:3:21: key 'train.time_limit': expected a duration such as 45m, 11:30:00 or "
         "2-00:00:00, or none, got 'soon'"},
        {SMALL "train: {time_limit: 1:60}\n", "got '1:60'"},
        {SMALL "train: {on_nonfinite: ignore}\n",
         "key 'train.on_nonfinite': unknown value 'ignore'; expected one of: stop, skip"},
        {SMALL "train: {log_every: 1.5}\n", "key 'train.log_every': expected an integer from 1 to"},
        {SMALL "optimizer: {lr: fast}\n",
         "a.yaml:3:17: key 'optimizer.lr': expected a number >= 0, got 'fast'"},
        {SMALL "optimizer: {betas: 0.9}\n",
         "key 'optimizer.betas': expected a list of numbers >= 0 and less than 1, got '0.9'"},
        {SMALL "optimizer: {betas: [0.9, 1.0]}\n",
         "a.yaml:3:26: key 'optimizer.betas': expected a list of numbers >= 0 and less than 1, got "
         "'1.0'"},
        {SMALL "optimizer: {betas: [0.9]}\n",
         "a.yaml:3:20: key 'optimizer.betas': expected two numbers, got 1"},
        {SMALL "device: {threads: 0}\n",
         "key 'device.threads': expected an integer from 1 to 4096 or auto, got '0'"},
        {SMALL "device: {threads: 4097}\n", "expected an integer from 1 to 4096 or auto"},
        {SMALL "device: {kind: count}\n",
         "key 'device.kind': unknown value 'count'; expected one of: cpu, poison"},
        {SMALL "checkpoint: {keep: 0}\n", "key 'checkpoint.keep': expected an integer from 1"},
    };
    expect_refusals(bad, sizeof bad / sizeof bad[0]);
}

static void test_contradictions(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {MODEL("kv_heads: 3"),
         "a.yaml:2:81: key 'model.kv_heads': 3 does not divide model.heads = 4"},
        {"data: {path: b}\nmodel: {layers: 2, width: 65, heads: 4, attention: {mechanism: full}}\n",
         "a.yaml:2:38: key 'model.heads': 4 does not divide model.width = 65; give "
         "model.head_width"},
        {MODEL("head_width: 7"), "key 'model.position': rotary positions need an even head width, "
                                 "and model.head_width is 7"},
        {"data: {path: b}\nmodel: {layers: 1, width: 9, heads: 3, position: sinusoidal, attention: "
         "{mechanism: full}}\n",
         "a.yaml:2:50: key 'model.position': sinusoidal positions need an even width"},
        {"data: {path: b, batch: 6}\nmesh: {data: 2}\ntrain: {accumulate: 2}\n"
         "model: {layers: 1, width: 8, heads: 1, attention: {mechanism: full}}\n",
         "a.yaml:1:24: key 'data.batch': 6 is not a multiple of mesh.data x train.accumulate = 4"},
        {SMALL "mesh: {data: 2}\n", "a.yaml:1:7: key 'data.batch': 1 is not a multiple"},
        {"data: {path: b, task: masked_text}\nmodel: {layers: 1, width: 8, heads: 1, attention: "
         "{mechanism: full}}\n",
         "a.yaml:1:23: key 'data.task': masked_text needs model.kind encoder, and it is decoder"},
        {MODEL("kind: encoder"),
         "key 'data.task': text needs model.kind decoder, and it is encoder"},
        {"data: {path: b, valid_fraction: 0}\nmodel: {layers: 1, width: 8, heads: 1, attention: "
         "{mechanism: full}}\n",
         "a.yaml:1:33: key 'data.valid_fraction': expected a number greater than 0 and less than "
         "1, or data.valid_path"},
        {"data: {path: b, valid_fraction: 1}\nmodel: {layers: 1, width: 8, heads: 1, attention: "
         "{mechanism: full}}\n",
         "key 'data.valid_fraction': expected a number >= 0 and less than 1"},
        {"data: {path: b, length: 65}\nmodel: {layers: 2, width: 64, heads: 4, position: learned, "
         "max_length: 64, attention: {mechanism: full}}\n",
         "a.yaml:1:25: key 'data.length': 65 is more than model.max_length = 64, and learned "
         "positions are a table with one row for each"},
        {"data: {path: b, documents: 10}\nmodel: {layers: 2, width: 64, heads: 4, position: "
         "learned, attention: {mechanism: full}}\n",
         "a.yaml:1:28: key 'data.documents': positions begin anew in each document, but learned "},
        {"data: {path: b}\nmodel: {layers: 1, width: 9, heads: 3, position: relative, attention: "
         "{mechanism: full}}\n",
         "a.yaml:2:50: key 'model.position': relative positions need an even width"},
        {ATTN("{mechanism: linformer, k: 4}"),
         "a.yaml:6:26: key 'model.attention.mechanism': 'linformer' has no causal form, which "
         "model.kind decoder needs: every landmark mixes all positions"},
        {"data: {path: b, task: masked_text, documents: 0}\nmodel: {kind: encoder, layers: 1, "
         "width: 8, heads: 1, attention: [{mechanism: linformer, k: 4}]}\n",
         "key 'model.attention.0.mechanism': 'linformer' cannot stop at the ends of documents: "
         "every landmark"},
        {"data: {path: b, task: masked_text, documents: 0}\nmodel: {kind: encoder, layers: 1, "
         "width: 8, heads: 1, attention: [{mechanism: linformer, k: 4}]}\n",
         "distance to a landmark exists; leave out data.documents, or use full or sliding_window"},
        {"data: {path: b}\nmodel: {layers: 1, width: 8, heads: 1, position: relative, attention: "
         "{mechanism: performer}}\n",
         "'performer' has no relative positions: it never sees"},
        {ATTN("{mechanism: linformer, k: 4}"), "exists; use full, sliding_window or performer"},
    };
    expect_refusals(bad, sizeof bad / sizeof bad[0]);
}

static void test_contradictions_of_heads(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {MODEL("head: none"), "key 'model.head': none has no loss, so there is nothing to train or "
                              "to evaluate: set model.head to lm or class"},
        {MODEL("head: class"), "a.yaml:2:77: key 'model.head': class needs model.kind encoder"},
        {MODEL("head: pooler"), "key 'model.head': pooler needs model.kind encoder"},
        {"data: {path: b, task: masked_text}\nmodel: {kind: encoder, head: class, layers: 1, "
         "width: 8, heads: 1, attention: {mechanism: full}}\n",
         "a.yaml:2:30: key 'model.head': data.task masked_text needs the head lm, and it is class"},
        {"data: {task: markers}\nmodel: {kind: encoder, head: pooler, layers: 1, width: 8, "
         "heads: 1, attention: {mechanism: full}}\n",
         "key 'model.head': pooler has no loss"},
        {MODEL("classes: 1"), "key 'model.classes': expected an integer from 2 to 65536"},
        {MODEL("classes: 4"), "key 'model.classes': this is for model.head class, and the head is "
                              "lm: set that, or model.classes: auto"},
        {MODEL("pooler: true"), "key 'model.pooler': this is for model.head class"},
        {MODEL("kind: encoder, head: class, head_transform: true"),
         "key 'model.head_transform': this is for model.head lm, and the head is class"},
        {MODEL("LAYERS: 4"), "key 'model.LAYERS': unknown key; did you mean 'layers'?"},
        {MODEL("norm_eps: 0"), "key 'model.norm_eps': expected a number greater than 0"},
    };
    expect_refusals(bad, sizeof bad / sizeof bad[0]);
}

/* What is planned but not run: no file, and a head without a loss, or without a task. */
static void test_plans(void **state)
{
    (void)state;
    static const char *const heads[] = {"lm", "class", "pooler", "none"};
    for (int i = 0; i < 4; i++) {
        lh_config *c = NULL;
        char text[256];
        (void)snprintf(text, sizeof text,
                       "data: {task: masked_text}\nmodel: {kind: encoder, head: %s, layers: 1, "
                       "width: 8, heads: 1, attention: {mechanism: full}}\n",
                       heads[i]);
        lh_assert_ok(lh_config_parse(text, strlen(text), "a.yaml", LH_CONFIG_PLAN, &c));
        assert_int_equal(c->model.head, i); /* the order of lh_head_kind */
        lh_config_destroy(&c);
        lh_assert_error(lh_config_parse(text, strlen(text), "a.yaml", 0, &c), LH_ERR_USAGE,
                        i < 2 ? "key 'data.path' is required but missing"
                              : "has no loss, so there is nothing to train or to evaluate");
    }
}

static void test_contradictions_of_tasks(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {TASK("task: lag, lag: 20, length: 20"),
         "a.yaml:1:24: key 'data.lag': no position has an answer: expected less than data.length = "
         "20, got 20"},
        {ENCODER("task: markers, gap: 19, length: 20"),
         "key 'data.gap': two markers with a distance of 19 need data.length >= 21"},
        {ENCODER("task: recall, offsets: 10, length: 20"),
         "key 'data.offsets': 10 distances need data.length >= 21, and it is 20"},
        {TASK("task: mqar, length: 64, pairs: 17"), "a.yaml:1:39: key 'data.pairs': 17 pairs, each "
                                                    "asked for once, need data.length >= 68, and "
                                                    "it is 64"},
        {TASK("task: mqar, vocab: 8"),
         "key 'data.pairs': 4 different keys need data.vocab >= 10 (keys are 1 .. V/2 - 1), and it "
         "is 8"},
        {TASK("task: selective_copy, length: 31"),
         "key 'data.items': 16 symbols and as many places that ask for them need data.length >= "
         "32"},
        {TASK("task: induction, length: 2"), "key 'data.length': a marker, what follows it and"},
        {TASK("task: needle, length: 2"), "at least 3, got 2"},
        {TASK("task: needle, place: 101"), "key 'data.place': expected an integer from 0 to 100"},
        {ENCODER("task: listops, length: 1999"),
         "key 'data.shorter_than': trees of up to 1999 tokens, and one token in front, need "
         "data.length >= 2000, and it is 1999"},
        {ENCODER("task: listops, longer_than: 50, shorter_than: 51"),
         "key 'data.longer_than': no number of tokens is more than 50 and less than "
         "data.shorter_than = 51"},
        {ENCODER("task: listops, tree_depth: 3, tree_args: 5"),
         "key 'data.longer_than': trees of data.tree_depth 3 with up to data.tree_args 5 arguments "
         "have at most 37 tokens: expected less than that, got 500"},
        {TASK("task: listops"), "data.task': listops needs model.kind encoder, and it is decoder"},
        {TASK("task: lag, documents: 10"), "key 'data.documents': task lag has no documents"},
        {ENCODER("task: lag"), "data.task': lag needs model.kind decoder, and it is encoder"},
        {TASK("task: markers"), "data.task': markers needs model.kind encoder, and it is decoder"},
        {TASK("task: recall"), "data.task': recall needs model.kind encoder, and it is decoder"},
        {TASK("task: lag, valid_windows: 0"),
         "a.yaml:1:34: key 'data.valid_windows': expected at least 1, or train.eval_every 0"},
    };
    expect_refusals(bad, sizeof bad / sizeof bad[0]);
}

#define FIFTY "12345678901234567890123456789012345678901234567890"
#define LONG_NAME FIFTY FIFTY FIFTY FIFTY "1"

static void test_run_names(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {SMALL "run: {name: a/b}\n", "a.yaml:3:13: key 'run.name': expected a plain file name"},
        {SMALL "run: {name: ..}\n", "key 'run.name': expected a plain file name"},
        {SMALL "run: {name: .hidden}\n", "key 'run.name': expected a plain file name"},
        {SMALL "run: {name: ''}\n", "key 'run.name': expected a plain file name"},
        {SMALL "run: {name: \"a\\nb\"}\n", "got 'a?b'"},
        {SMALL "run: {name: a/../../b}\n", "key 'run.name': expected a plain file name"},
        {SMALL "run: {name: /tmp/b}\n", "key 'run.name': expected a plain file name"},
        {SMALL "run: {name: \"a\\eb\"}\n", "got 'a?b'"},
        {SMALL "run: {name: " LONG_NAME "}\n", "at most 200 characters"},
        {SMALL "run: {output: ''}\n", "key 'run.output': expected the path of a folder, got noth"},
        {SMALL "run: {output: \"a\\nb\"}\n", "got one with control characters"},
        {SMALL "mesh: {ulysses: 2}\n",
         "a.yaml:3:17: key 'mesh.ulysses': groups of 2 ranks are for mesh.exchange: ulysses"},
        {SMALL "mesh: {exchange: ulisses}\n", "did you mean 'ulysses'?"},
    };
    expect_refusals(bad, sizeof bad / sizeof bad[0]);
}

static void test_refused_attention(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {ATTN("{mechanism: sliding_windw, window: 3}"),
         "a.yaml:6:26: key 'model.attention.mechanism': unknown mechanism 'sliding_windw'; did you "
         "mean 'sliding_window'? this build has: "},
        {ATTN("{mechanism: zebra}"), "unknown mechanism 'zebra'; this build has: full, "},
        {ATTN("{window: 3}"),
         "a.yaml:6:14: key 'model.attention.mechanism' is required but missing"},
        {ATTN("{mechanism: }"),
         "key 'model.attention.mechanism': expected a mechanism's name, got no value"},
        {ATTN("{mechanism: [full]}"),
         "key 'model.attention.mechanism': expected a mechanism's name, got a list"},
        {ATTN("full"), "a.yaml:6:14: key 'model.attention': expected {mechanism: full, "
                       "settings...}, or a list of them with one per layer, got 'full'"},
        {ATTN(""), "key 'model.attention': expected {mechanism: NAME, settings...}, or a list of "
                   "them with one per layer, got no value"},
        {ATTN("{mechanism: full, window: 3}"),
         "a.yaml:6:32: key 'model.attention.window': unknown "
         "key for mechanism 'full'; it is a setting of mechanism 'sliding_window'"},
        {ATTN("{mechanism: sliding_window}"),
         "a.yaml:6:14: key 'model.attention.window' is required but missing"},
        {ATTN("{mechanism: sliding_window, window: -1}"),
         "a.yaml:6:50: key 'model.attention.window': expected an integer from 0 to "},
        {ATTN("{mechanism: sliding_window, window: [1, 2, 3]}"),
         "key 'model.attention.window': a list with 3 values; expected one value, or one for each "
         "of the 2 layers"},
        {ATTN("{mechanism: sliding_window, window: [1, x]}"),
         "a.yaml:6:54: key 'model.attention.window': expected an integer"},
        {ATTN("[{mechanism: full}]"), "a.yaml:6:14: key 'model.attention': a list with 1 maps; "
                                      "expected one for each of the 2 layers"},
        {ATTN("[{mechanism: full}, full]"),
         "a.yaml:6:34: key 'model.attention.1': expected {mechanism: full"},
        {ATTN("[{mechanism: full}, {mechanism: sliding_window, window: [1, 2]}]"),
         "a.yaml:6:70: key 'model.attention.1.window': expected an integer from 0 to "
         "1099511627776, got a list"},
    };
    expect_refusals(bad, sizeof bad / sizeof bad[0]);
}

static int64_t window_of(const lh_config *c, int layer)
{
    const lh_attn_choice *a = &c->model.attention[layer];
    for (const lh_field *f = a->ops->settings; f->name != NULL; f++)
        if (strcmp(f->name, "window") == 0)
            return *(const int64_t *)(const void *)((const char *)a->settings + f->offset);
    return -1;
}

static void test_layers(void **state)
{
    (void)state;
    lh_config *c = NULL;
    lh_assert_ok(load(ATTN("{mechanism: sliding_window, window: 7}"), &c));
    assert_true(window_of(c, 0) == 7 && window_of(c, 1) == 7);
    lh_config_destroy(&c);
    lh_assert_ok(load(ATTN("{mechanism: sliding_window, window: [7, 8]}"), &c));
    assert_true(window_of(c, 0) == 7 && window_of(c, 1) == 8);
    lh_config_destroy(&c);
    lh_assert_ok(load(ATTN("[{mechanism: full}, {mechanism: sliding_window, window: 9}]"), &c));
    assert_ptr_equal(c->model.attention[0].ops, lh_attn_find("full"));
    assert_true(window_of(c, 1) == 9);
    lh_config_destroy(&c);
}

static void test_overrides(void **state)
{
    (void)state;
    lh_config *c = NULL;
    static const char listed[] =
        ATTN("[{mechanism: full}, {mechanism: sliding_window, window: 9}]");
    static const char window[] = ATTN("{mechanism: sliding_window, window: 9}");
    lh_assert_ok(load_set(window, "model.attention.window=64", &c));
    assert_true(window_of(c, 0) == 64 && window_of(c, 1) == 64);
    lh_config_destroy(&c);
    lh_assert_ok(load_set(window, "model.attention.window=[3, 4]", &c));
    assert_true(window_of(c, 0) == 3 && window_of(c, 1) == 4);
    lh_config_destroy(&c);
    lh_assert_ok(load_set(listed, "model.attention.1.window=64", &c));
    assert_true(window_of(c, 1) == 64);
    lh_config_destroy(&c);
    lh_assert_ok(load_set(window, "model.attention={mechanism: full}", &c));
    assert_ptr_equal(c->model.attention[0].ops, lh_attn_find("full"));
    lh_config_destroy(&c);
    lh_assert_ok(load_set(window, "optimizer.betas=[0.5, 0.75]", &c));
    assert_true(c->optimizer.betas.item[1] == 0.75);
    lh_config_destroy(&c);
    lh_assert_ok(load_set(SMALL "run: {init: x}\n", "run.init=", &c));
    assert_string_equal(c->run.init, "");
    lh_config_destroy(&c);
    static const char *const bad[][2] = {
        {"model.widht=3",
         "--set model.widht=3: key 'model.widht': unknown key; did you mean 'width'?"},
        {"modle.width=3", "--set modle.width=3: key 'modle': unknown key; did you mean 'model'?"},
        {"model.width=wide", "--set model.width=wide: key 'model.width': expected an integer from "
                             "1 to 1000000000, got 'wide'"},
        {"optimizer.lr=",
         "--set optimizer.lr=: key 'optimizer.lr': expected a number >= 0, got no value"},
        {"model.attention.window=64", "--set model.attention.window=64: 'window' should name an "
                                      "element of the list at a.yaml:6:14"},
        {"model.attention.2.window=64", "expected an index from 0 to 1"},
        {"train.log_every", "--set train.log_every: expected --set section.key=value"},
        {"base=b.yaml", "--set base=b.yaml: 'base' can only be set in a file"},
        {"model=3", "--set model=3: key 'model': expected a map of settings, got '3'"},
        {"model.attention=~", "a.yaml:3:3: key 'model.attention' is required but missing"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        lh_assert_error(load_set(listed, bad[i][0], &c), LH_ERR_USAGE, bad[i][1]);
        assert_null(c);
    }
}

static void test_base(void **state)
{
    (void)state;
    static const char *const files[][2] = {
        {"exp/deep/a.yaml", "base: ../b.yaml\nrun: {name: a}\nmodel: {width: 32, attention: "
                            "{mechanism: full, window: ~}}\n"},
        {"exp/deep/../b.yaml", "base: common/c.yaml\nrun: {name: b, seed: 5}\ntrain: {log_every: "
                               "3}\noptimizer: {betas: [0.1, 0.2]}\n"},
        {"exp/deep/../common/c.yaml",
         "run: {seed: 6, output: o}\ntrain: {log_every: 4, eval_every: 7}\ndata: {path: p}\n"
         "model: {layers: 2, width: 16, heads: 2, attention: {mechanism: sliding_window, window: "
         "3}}\n"},
        {NULL, NULL}};
    lh_config *c = NULL;
    lh_assert_ok(load_files(files, "exp/deep/a.yaml", NULL, 0, &c));
    assert_string_equal(c->run.name, "a");
    assert_true(c->run.seed == 5 && c->train.log_every == 3 && c->train.eval_every == 7 &&
                c->model.width == 32);
    assert_string_equal(c->run.output, "/home/me/o");
    assert_true(c->optimizer.betas.item[0] == 0.1);
    assert_ptr_equal(c->model.attention[1].ops, lh_attn_find("full"));
    lh_config_destroy(&c);
}

static void test_base_refused(void **state)
{
    (void)state;
    static const char *const files[][2] = {{"loop.yaml", "base: sub/../two.yaml\n"},
                                           {"sub/../two.yaml", "base: three.yaml\n"},
                                           {"sub/../three.yaml", "base: ./../loop.yaml\n"},
                                           {"sub/.././../loop.yaml", "x: 1\n"},
                                           {"/home/me/self.yaml", "base: self.yaml\n"},
                                           {"missing.yaml", "run: {}\nbase: nowhere.yaml\n"},
                                           {"list.yaml", "base: [a]\n"},
                                           {"empty.yaml", "base:\n"},
                                           {"wrong.yaml", "base: inner.yaml\n"},
                                           {"inner.yaml", "run:\n  nmae: 1\n"},
                                           {"broken.yaml", "base: inner2.yaml\n"},
                                           {"inner2.yaml", "a: [\n"},
                                           {"ring.yaml", "base: ./ring2.yaml\n"},
                                           {"./ring2.yaml", "base: ring.yaml\n"},
                                           {NULL, NULL}};
    static const char *const bad[][2] = {
        {"ring.yaml", "./ring2.yaml:1:7: key 'base': files inherit in a circle: ring.yaml -> "
                      "./ring2.yaml -> ./ring.yaml"},
        {"/home/me/self.yaml", "/home/me/self.yaml:1:7: key 'base': files inherit in a circle: "
                               "/home/me/self.yaml -> /home/me/self.yaml"},
        {"missing.yaml", "missing.yaml:2:7: key 'base': nowhere.yaml: no such file"},
        {"nothing.yaml", "nothing.yaml: no such file"},
        {"list.yaml", "list.yaml:1:7: key 'base': expected the path of a file, got a list"},
        {"empty.yaml", "key 'base': expected the path of a file, got no value"},
        {"wrong.yaml", "inner.yaml:2:3: key 'run.nmae': unknown key; did you mean 'name'?"},
        {"broken.yaml", "inner2.yaml:2:1: not valid YAML"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        lh_config *c = NULL;
        lh_assert_error(load_files(files, bad[i][0], NULL, 0, &c), LH_ERR_USAGE, bad[i][1]);
        assert_null(c);
    }
}

/* A chain that never closes must end all the same. */
static lh_status endless_read(void *user, const char *path, char **bytes, size_t *count)
{
    int *n = user;
    (void)path;
    lh_status st = lh_new(64, bytes);
    if (st == LH_OK) *count = (size_t)snprintf(*bytes, 64, "base: f%d.yaml\n", ++*n);
    return st;
}

static void test_base_endless(void **state)
{
    (void)state;
    int n = 0;
    lh_config *c = NULL;
    lh_config_source source = {.read = endless_read, .user = &n, .path = "a.yaml"};
    lh_assert_error(lh_config_load(&source, &c), LH_ERR_USAGE,
                    "more than 16 files inherit from each other");
    lh_assert_error(lh_config_parse("base: x.yaml\n", 13, "t", 0, &c), LH_ERR_USAGE,
                    "t:1:7: key 'base': not supported in this text");
}

static void round_trip(const char *text, const char *contains)
{
    lh_config *c = NULL, *d = NULL;
    char *first = NULL, *second = NULL;
    lh_assert_ok(load(text, &c));
    lh_assert_ok(lh_config_emit(c, &first));
    lh_assert_ok(lh_config_parse(first, strlen(first), "config.yaml", 0, &d));
    lh_assert_ok(lh_config_emit(d, &second));
    assert_string_equal(first, second);
    if (strstr(first, contains) == NULL) fail_msg("'%s' is not in:\n%s", contains, first);
    lh_free(&first);
    lh_free(&second);
    lh_config_destroy(&c);
    lh_config_destroy(&d);
}

static void test_round_trip(void **state)
{
    (void)state;
    round_trip(
        SMALL,
        "model:\n  kind: decoder\n  head: lm\n  vocab: auto\n  layers: 3\n  width: 48\n  heads: 4\n"
        "  kv_heads: 4\n  head_width: 12\n  mlp: gelu\n  mlp_width: 192\n");
    round_trip(SMALL, "  attention: {mechanism: full}\n");
    round_trip(SMALL,
               "run:\n  name: quickstart\n  seed: 1\n  output: /home/me/runs\n  init: \"\"\n");
    round_trip(SMALL "optimizer: {lr: 0.30000000000000004, eps: 1e-8}\n",
               "optimizer:\n  kind: adamw\n  lr: 0.30000000000000004\n  betas: [0.9, 0.95]\n  eps: "
               "1.0e-08\n");
    round_trip(ATTN("{mechanism: sliding_window, window: 7}"),
               "  attention: {mechanism: sliding_window, window: 7");
    round_trip(ATTN("{mechanism: sliding_window, window: [7, 8]}"),
               "{mechanism: sliding_window, window: 8");
    round_trip(ATTN("[{mechanism: full}, {mechanism: sliding_window, window: 8}]"),
               "  - {mechanism: full}\n");
    round_trip("data: {path: b, task: masked_text}\nmodel: {kind: encoder, layers: 2, width: 64, "
               "heads: 2, attention: {mechanism: linformer, k: [[4, 8], 16]}}\n",
               "  - {mechanism: linformer, k: [4, 8]");
    round_trip(ATTN("{mechanism: sliding_window, window: [7, 8], dilation: [[1, 2, 4, 8], 3]}"),
               "{mechanism: sliding_window, window: 7, dilation: [1, 2, 4, 8], global: none}");
    round_trip(ATTN("{mechanism: sliding_window, window: 7, global: [0, 5]}"),
               "  attention: {mechanism: sliding_window, window: 7, dilation: 1, global: [0, 5]}");
    round_trip(TASK("task: lag, lag: 3, length: 24"), "  max_length: 24\n");
    round_trip(ENCODER("task: markers, gap: 3, length: 24"), "  gap: 3\n");
    round_trip(TASK("path: b, documents: 0"), "  documents: 0\n");
    round_trip(SMALL, "  documents: none\n");
    round_trip("data: {path: b, length: 100}\nmodel: {layers: 1, width: 8, heads: 2, max_length: "
               "50, attention: {mechanism: full}}\nmesh: {layout: zigzag}\n",
               "  layout: zigzag\n");
    round_trip("data: {path: \"a: b # c\\n\\\"d\"}\nmodel: {layers: 1, width: 8, heads: 2, vocab: "
               "97, attention: {mechanism: full}}\n"
               "run: {name: '123', output: \"\xc3\xa9 x\"}\n",
               "  name: \"123\"\n");
}

/* Lists as mechanisms take them: per layer and per head, and words instead of a list. */
typedef struct lists {
    lh_int_list dilation, global, mix;
} lists;

static const lh_field lists_fields[] = {{.name = "dilation",
                                         .type = LH_FIELD_INTS,
                                         .offset = offsetof(lists, dilation),
                                         .fallback = "1",
                                         .min = 1,
                                         .max = 99,
                                         .per_layer = true,
                                         .help = "steps"},
                                        {.name = "global",
                                         .type = LH_FIELD_INTS,
                                         .offset = offsetof(lists, global),
                                         .fallback = "none",
                                         .min = 0,
                                         .max = 1e6,
                                         .choices = "none|first|task",
                                         .help = "tokens"},
                                        {.name = "mix",
                                         .type = LH_FIELD_INTS,
                                         .offset = offsetof(lists, mix),
                                         .fallback = "none",
                                         .min = 0,
                                         .max = 1e6,
                                         .choices = "none|all",
                                         .per_layer = true,
                                         .help = "both"},
                                        {.name = NULL}};

/* text: a map in flow style, read for one of `layers` layers (0: a map for one layer). */
static lh_status fill_lists(const char *text, int layers, int layer, lists *out)
{
    lh_status st = LH_OK;
    lh_yaml *y = NULL;
    lh_node *root = NULL;
    memset(out, 0, sizeof *out);
    LH_TRY(lh_yaml_create(&y));
    LH_TRY(lh_yaml_parse(y, text, strlen(text), "l.yaml", &root));
    lh_fill how = {.map = root, .prefix = "", .layers = layers, .layer = layer};
    LH_TRY(lh_settings_fill(&how, lists_fields, out));
done:
    lh_yaml_destroy(&y);
    return st;
}

/* Written as the map of one layer and read again, all lists are the same. */
static void lists_round_trip(const lists *l)
{
    lh_yaml *y = NULL;
    lh_node *map = NULL;
    char *text = NULL;
    lists again;
    lh_assert_ok(lh_yaml_create(&y));
    lh_assert_ok(lh_yaml_map(y, &map));
    lh_assert_ok(lh_settings_emit(y, lists_fields, l, true, map));
    lh_assert_ok(lh_yaml_emit(map, &text));
    lh_assert_ok(fill_lists(text, 0, 0, &again));
    assert_true(lh_settings_equal(lists_fields, l, &again));
    lh_free(&text);
    lh_yaml_destroy(&y);
}

static void expect_list(const lh_int_list *l, int word, int count, int64_t first, int64_t last)
{
    assert_int_equal(l->word, word);
    assert_int_equal(l->count, count);
    if (count == 0) return;
    assert_true(l->item[0] == first && l->item[count - 1] == last);
}

static void test_lists(void **state)
{
    (void)state;
    lists l, other;
    lh_assert_ok(fill_lists("{}", 2, 0, &l));
    expect_list(&l.dilation, -1, 1, 1, 1);
    expect_list(&l.global, 0, 0, 0, 0);
    expect_list(&l.mix, 0, 0, 0, 0);
    lists_round_trip(&l);
    static const char text[] = "{dilation: [3, [1, 2, 4]], global: [5, 0, 9], mix: [all, [7, 8]]}";
    lh_assert_ok(fill_lists(text, 2, 0, &l));
    expect_list(&l.dilation, -1, 1, 3, 3);
    expect_list(&l.global, -1, 3, 5, 9);
    expect_list(&l.mix, 1, 0, 0, 0);
    lists_round_trip(&l);
    lh_assert_ok(fill_lists(text, 2, 1, &other));
    expect_list(&other.dilation, -1, 3, 1, 4);
    expect_list(&other.mix, -1, 2, 7, 8);
    lists_round_trip(&other);
    assert_false(lh_settings_equal(lists_fields, &l, &other));
    lh_assert_ok(fill_lists("{global: task, dilation: 2, mix: 4}", 3, 2, &l));
    expect_list(&l.global, 2, 0, 0, 0);
    expect_list(&l.dilation, -1, 1, 2, 2);
    expect_list(&l.mix, -1, 1, 4, 4);
    lists_round_trip(&l);
    lh_assert_ok(fill_lists("{global: []}", 1, 0, &other));
    expect_list(&other.global, -1, 0, 0, 0);
    lists_round_trip(&other);
    l = other;
    l.global.word = 0; /* the word alone differs */
    assert_false(lh_settings_equal(lists_fields, &l, &other));
}

static void test_lists_refused(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"{global: frist}", "l.yaml:1:10: key 'global': unknown value 'frist'; expected one of: "
                            "none, first, task, or a list of integers from 0 to 1000000; did you "
                            "mean 'first'?"},
        {"{global: 3}", "key 'global': expected one of: none, first, task, or a list of"},
        {"{global: [first]}", "l.yaml:1:11: key 'global': expected one of: none, first, task, or"},
        {"{global: -1}", "key 'global': expected one of"},
        {"{global: }", "key 'global': expected one of"},
        {"{dilation: none}", "expected an integer or a list of integers from 1 to 99, got 'none'"},
        {"{dilation: [1, 2]}",
         "a list with 2 values; expected one value, or one for each of the 3 layers (each may be a "
         "list: one per head)"},
        {"{dilation: [1, [2, 0], 3]}",
         "l.yaml:1:20: key 'dilation': expected an integer or a list"},
        {"{dilation: [1, [2, [3]], 3]}", "l.yaml:1:20: key 'dilation': expected an integer or a"},
    };
    char many[8 * LH_LIST_MAX];
    lists l;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        lh_status st = LH_OK;
        for (int layer = 0; layer < 3 && st == LH_OK; layer++)
            st = fill_lists(bad[i][0], 3, layer, &l);
        lh_assert_error(st, LH_ERR_USAGE, bad[i][1]);
    }
    for (int extra = 0; extra < 2; extra++) {
        size_t used = (size_t)snprintf(many, sizeof many, "{global: [");
        for (int i = 0; i < LH_LIST_MAX + extra; i++)
            used += (size_t)snprintf(many + used, sizeof many - used, "%d,", i);
        (void)snprintf(many + used - 1, sizeof many - used, "]}");
        if (extra == 0)
            lh_assert_ok(fill_lists(many, 1, 0, &l));
        else
            lh_assert_error(fill_lists(many, 1, 0, &l), LH_ERR_USAGE,
                            "257 values, expected at most");
    }
}

static void test_partial(void **state)
{
    (void)state;
    lh_config *c = NULL;
    static const char text[] = "model: {kind: encoder, vocab: 97, layers: 2, width: 32, heads: 4, "
                               "kv_heads: 4, head_width: 8, mlp: gelu, "
                               "mlp_width: 128, norm: pre, norm_kind: layer, position: sinusoidal, "
                               "tie_embeddings: true, bias: true, "
                               "attention: {mechanism: sliding_window, window: 9}}\n"
                               "optimizer: {kind: adamw, lr: 0.01, betas: [0.9, 0.95], eps: "
                               "1.0e-08, weight_decay: 0.1, clip: 1.9}\n"
                               "data: {length: 101, batch: 2}\n";
    lh_assert_error(lh_config_parse(text, sizeof text - 1, "golden", 0, &c), LH_ERR_USAGE,
                    "data.path");
    lh_assert_ok(lh_config_parse(text, sizeof text - 1, "golden", LH_CONFIG_PARTIAL, &c));
    assert_true(c->model.kind == LH_MODEL_ENCODER && c->data.length == 101 && c->data.batch == 2);
    assert_true(c->optimizer.clip == 1.9 && c->model.vocab == 97);
    lh_config_destroy(&c);
    lh_assert_error(lh_config_parse("run: {}\n", 8, "golden", LH_CONFIG_PARTIAL, &c), LH_ERR_USAGE,
                    "model.layers");
}

static void test_help(void **state)
{
    (void)state;
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    assert_non_null(out);
    lh_config_help(out);
    assert_int_equal(fclose(out), 0);
    static const char *const words[] = {"run:",
                                        "mesh:",
                                        "data:",
                                        "model:",
                                        "optimizer:",
                                        "schedule:",
                                        "train:",
                                        "checkpoint:",
                                        "device:",
                                        "eval_tokens      131072",
                                        "layers           required",
                                        "sliding_window",
                                        "window"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strstr(text, words[i]) == NULL) fail_msg("'%s' is not in the help", words[i]);
    free(text);
}

#define WHOLE                                                                                      \
    "# an experiment\nrun:        {name: quick-start, seed: 1, output: runs}\n"                    \
    "mesh:       {data: 1, layout: contiguous, align: chunk, chunk: 512, exchange: ring}\n"        \
    "data:       {task: text, path: \"bo ok.txt\", length: 8192, batch: 1, valid_fraction: "       \
    "0.05}\n"                                                                                      \
    "model:\n  kind: decoder\n  layers: 2\n  width: 128\n  heads: 4\n  kv_heads: 4\n  mlp: gelu\n" \
    "  position: rotary   # comment\n  tie_embeddings: true\n  dropout: 0.0\n"                     \
    "  attention: {mechanism: sliding_window, window: [256, 3]}\n"                                 \
    "optimizer:  {kind: adamw, lr: 1.0e-3, betas: [0.9, 0.95], eps: 1.0e-8}\n"                     \
    "schedule:   {kind: cosine, warmup: 100, steps: 600, final_lr: 1.0e-4}\n"                      \
    "train:\n  log_every: 10\n"

static void expect_no_crash(const char *bytes, size_t count, int *loaded)
{
    lh_config *c = NULL;
    char *text = NULL;
    lh_error_clear();
    lh_status st = lh_config_parse(bytes, count, "mutant.yaml", 0, &c);
    if (st == LH_OK) {
        ++*loaded;
        lh_assert_ok(lh_config_emit(c, &text));
        lh_free(&text);
        lh_config_destroy(&c);
        return;
    }
    assert_null(c);
    assert_int_equal(st, LH_ERR_USAGE);
    assert_true(strlen(lh_error_text()) > 0);
    assert_memory_equal(lh_error_text(), "mutant.yaml:", 12);
}

static void test_mutants(void **state)
{
    (void)state;
    static const char special[] = "[]{}:,-#&*!|>'\"%@`~\n\t ?0";
    char text[] = WHOLE, work[sizeof text];
    size_t n = strlen(text);
    int loaded = 0, tried = 0;
    uint32_t r = 12345;
    expect_no_crash(text, n, &loaded);
    assert_int_equal(loaded, 1);
    for (size_t i = 0; i < n; i++, tried++) expect_no_crash(text, i, &loaded);
    for (int i = 0; i < 2000; i++, tried++) {
        memcpy(work, text, sizeof text);
        for (int k = 0; k <= i % 3; k++) {
            r = r * 1664525u + 1013904223u;
            size_t at = (r >> 8) % n;
            r = r * 1664525u + 1013904223u;
            /* Flipped bits, random bytes, and the letters that mean something to YAML. */
            if (i % 4 == 0) work[at] = (char)(work[at] ^ (char)(1u << (r >> 29)));
            if (i % 4 == 1) work[at] = (char)(r >> 24);
            if (i % 4 >= 2) work[at] = special[(r >> 16) % (sizeof special - 1)];
        }
        expect_no_crash(work, n, &loaded);
    }
    assert_true(tried > 2200);
    print_message("%d of %d mutants load\n", loaded, tried);
    assert_true(loaded > 50 && loaded < tried);
}

/* Every allocation that fails is an error, and nothing leaks (the sanitizer build sees that). */
static void test_no_memory(void **state)
{
    (void)state;
    for (int n = 1;; n++) {
        lh_config *c = NULL;
        char *text = NULL;
        lh_new_fail_at(n);
        lh_status st = load(SMALL, &c);
        if (st == LH_OK) st = lh_config_emit(c, &text);
        lh_new_fail_at(0);
        lh_free(&text);
        lh_config_destroy(&c);
        if (st == LH_OK) break;
        assert_int_equal(st, LH_ERR_MEMORY);
        assert_true(n < 200);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),       cmocka_unit_test(test_model_defaults),
        cmocka_unit_test(test_task_defaults),  cmocka_unit_test(test_choices),
        cmocka_unit_test(test_refused_keys),   cmocka_unit_test(test_refused_values),
        cmocka_unit_test(test_contradictions), cmocka_unit_test(test_contradictions_of_heads),
        cmocka_unit_test(test_plans),          cmocka_unit_test(test_contradictions_of_tasks),
        cmocka_unit_test(test_run_names),      cmocka_unit_test(test_refused_attention),
        cmocka_unit_test(test_layers),         cmocka_unit_test(test_overrides),
        cmocka_unit_test(test_base),           cmocka_unit_test(test_base_refused),
        cmocka_unit_test(test_base_endless),   cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_lists),          cmocka_unit_test(test_lists_refused),
        cmocka_unit_test(test_partial),        cmocka_unit_test(test_help),
        cmocka_unit_test(test_mutants),        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
