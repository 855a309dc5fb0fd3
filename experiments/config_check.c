/* What no field can tell alone: sizes that follow from others, and contradictions. */
#include "experiments/config_internal.h"
#include "experiments/listops.h"
#include "experiments/task.h"
#include "experiments/units.h"

#include <string.h>

enum { CHECK_NAME = 200, CHECK_ANY = -1 };

/* The place of a key that was given, or of the nearest map around it. */
static const char *check_place(const lh_node *root, const char *key, char *buf)
{
    return lh_node_place(lh_node_at(root, key), buf);
}

static lh_status check_model_sizes(const lh_node *root, lh_model_desc *m)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX];
    if (m->kv_heads == LH_AUTO) m->kv_heads = m->heads;
    if (m->mlp_width == LH_AUTO) m->mlp_width = 4 * m->width;
    LH_CHECK(m->heads % m->kv_heads == 0, LH_ERR_USAGE,
             "%s: key 'model.kv_heads': %lld does not divide model.heads = %lld",
             check_place(root, "model.kv_heads", p), (long long)m->kv_heads, (long long)m->heads);
    if (m->head_width == LH_AUTO) {
        LH_CHECK(
            m->width % m->heads == 0, LH_ERR_USAGE,
            "%s: key 'model.heads': %lld does not divide model.width = %lld; give model.head_width",
            check_place(root, "model.heads", p), (long long)m->heads, (long long)m->width);
        m->head_width = m->width / m->heads;
        LH_CHECK(m->head_width <= 65536, LH_ERR_USAGE,
                 "%s: key 'model.heads': a head of width %lld is too wide (at most 65536)",
                 check_place(root, "model.heads", p), (long long)m->head_width);
    }
done:
    return st;
}

static lh_status check_model_position(const lh_node *root, const lh_model_desc *m)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX];
    bool sines = m->position == LH_POSITION_SINUSOIDAL || m->position == LH_POSITION_RELATIVE;
    LH_CHECK(m->position != LH_POSITION_ROTARY || m->head_width % 2 == 0, LH_ERR_USAGE,
             "%s: key 'model.position': rotary positions need an even head width, and "
             "model.head_width is %lld",
             check_place(root, "model.position", p), (long long)m->head_width);
    LH_CHECK(!sines || m->width % 2 == 0, LH_ERR_USAGE,
             "%s: key 'model.position': %s positions need an even width, and model.width is %lld",
             check_place(root, "model.position", p),
             m->position == LH_POSITION_RELATIVE ? "relative" : "sinusoidal", (long long)m->width);
done:
    return st;
}

/* Tables by position. Mechanisms that have some refuse longer sequences themselves. */
static lh_status check_length(const lh_node *root, lh_config *c)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX];
    lh_model_desc *m = &c->model;
    bool learned = m->position == LH_POSITION_LEARNED;
    if (m->max_length == LH_AUTO) m->max_length = c->data.length;
    LH_CHECK(!learned || c->data.length <= m->max_length, LH_ERR_USAGE,
             "%s: key 'data.length': %lld is more than model.max_length = %lld, and learned "
             "positions are a table with one row for each of these: shorten data.length, raise "
             "model.max_length before training, or use rotary positions",
             check_place(root, "data.length", p), (long long)c->data.length,
             (long long)m->max_length);
    LH_CHECK(!learned || c->data.documents == LH_AUTO, LH_ERR_USAGE,
             "%s: key 'data.documents': positions begin anew in each document, but learned "
             "positions are a table that lies over the ranks as the sequence does: use rotary, "
             "sinusoidal or relative positions",
             check_place(root, "data.documents", p));
done:
    return st;
}

/* "full, sliding_window or performer": the mechanisms that accept it. */
static const char *check_others(uint32_t cap, char *text, size_t bytes)
{
    int left = 0;
    size_t used = 0;
    for (int i = 0; i < lh_attn_count(); i++) left += (lh_attn_at(i)->caps & cap) != 0;
    text[0] = '\0';
    for (int i = 0; i < lh_attn_count() && used < bytes; i++) {
        if ((lh_attn_at(i)->caps & cap) == 0) continue;
        left--;
        used += (size_t)snprintf(text + used, bytes - used, "%s%s", lh_attn_at(i)->name,
                                 left > 1    ? ", "
                                 : left == 1 ? " or "
                                             : "");
    }
    return text;
}

/* What a mechanism refuses by its table; what depends on settings, lengths and ranks it refuses
 * itself, later. */
static lh_status check_mechanism(const lh_node *root, const lh_config *c, int layer)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX], key[64], others[300];
    const lh_model_desc *m = &c->model;
    const lh_attn_ops *ops = m->attention[layer].ops;
    bool causal = m->kind == LH_MODEL_DECODER;
    const struct {
        bool wanted;
        uint32_t cap;
        const char *lacks, *instead;
    } wish[] = {
        {causal, LH_ATTN_CAUSAL, "has no causal form, which model.kind decoder needs", ""},
        {!causal, LH_ATTN_BIDIRECTIONAL,
         "has no bidirectional form, which model.kind encoder needs", ""},
        {m->kv_heads != m->heads, LH_ATTN_GQA, "needs as many key/value heads as query heads",
         "leave out model.kv_heads, or "},
        {m->position == LH_POSITION_RELATIVE, LH_ATTN_RELATIVE, "has no relative positions",
         "use another model.position, or "},
        {c->data.documents != LH_AUTO, LH_ATTN_DOCUMENTS, "cannot stop at the ends of documents",
         c->data.task == LH_TASK_FASTA
             ? "convert the file with longhaul prepare and use data.task tokens, where records are "
               "no documents unless asked for, or "
             : "leave out data.documents, or "},
        {c->mesh.layout != LH_LAYOUT_CONTIGUOUS, LH_ATTN_LAYOUTS, "needs mesh.layout contiguous",
         "leave out mesh.layout, or "},
    };
    if (lh_node_at(root, "model.attention")->kind == LH_NODE_LIST)
        (void)snprintf(key, sizeof key, "model.attention.%d.mechanism", layer);
    else
        (void)snprintf(key, sizeof key, "model.attention.mechanism");
    for (size_t i = 0; i < sizeof wish / sizeof wish[0]; i++)
        LH_CHECK(!wish[i].wanted || (ops->caps & wish[i].cap) != 0, LH_ERR_USAGE,
                 "%s: key '%s': '%s' %s%s%s; %suse %s", check_place(root, key, p), key, ops->name,
                 wish[i].lacks, ops->refuses != NULL ? ": " : "",
                 ops->refuses != NULL ? ops->refuses : "", wish[i].instead,
                 check_others(wish[i].cap, others, sizeof others));
done:
    return st;
}

/* Ends of lines, escapes for terminals and the like. */
static bool check_control(const char *text)
{
    for (const char *c = text; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) return true;
    return false;
}

/* Nothing in a configuration may lead out of the run's folder, nor into its log. */
static lh_status check_run(const lh_node *root, const lh_config_run *run)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX], shown[LH_SHOWN_MAX];
    (void)lh_text_shown(run->name, shown, sizeof shown);
    LH_CHECK(run->name[0] != '\0' && run->name[0] != '.' && strchr(run->name, '/') == NULL &&
                 !check_control(run->name) && strlen(run->name) <= CHECK_NAME,
             LH_ERR_USAGE,
             "%s: key 'run.name': expected a plain file name (no '/', no '.' in front, at most %d "
             "characters), got '%s'",
             check_place(root, "run.name", p), CHECK_NAME, shown);
    LH_CHECK(run->output[0] != '\0' && !check_control(run->output), LH_ERR_USAGE,
             "%s: key 'run.output': expected the path of a folder, got %s",
             check_place(root, "run.output", p),
             run->output[0] != '\0' ? "one with control characters" : "nothing");
done:
    return st;
}

static lh_status check_mesh(const lh_node *root, const lh_config_mesh *m)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX];
    LH_CHECK(
        m->ulysses == LH_AUTO || m->exchange == LH_EXCHANGE_ULYSSES, LH_ERR_USAGE,
        "%s: key 'mesh.ulysses': groups of %lld ranks are for mesh.exchange: ulysses, and it is "
        "ring: set that, or mesh.ulysses: auto",
        check_place(root, "mesh.ulysses", p), (long long)m->ulysses);
done:
    return st;
}

/* Numbers in one value of a pass: sizes in bytes stay far below 2^63. */
#define CHECK_ELEMENTS 1152921504606846976.0 /* 2^60 */

static lh_status check_training(const lh_node *root, const lh_config *c)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX];
    int64_t parts = c->mesh.data * c->train.accumulate;
    int64_t sequences = c->data.batch / parts;
    double pass = (double)sequences * (double)c->data.length;
    double wide = (double)c->model.width * 4.0;
    if ((double)c->model.mlp_width > wide) wide = (double)c->model.mlp_width;
    if ((double)c->model.heads * (double)c->model.head_width > wide)
        wide = (double)c->model.heads * (double)c->model.head_width;
    LH_CHECK(c->data.length < INT32_MAX, LH_ERR_USAGE,
             "%s: key 'data.length': expected at most 2147483646, got %lld",
             check_place(root, "data.length", p), (long long)c->data.length);
    LH_CHECK(
        pass * wide < CHECK_ELEMENTS, LH_ERR_USAGE,
        "%s: key 'data.batch': one pass would hold %.3g numbers in one value: lower data.batch "
        "or data.length, or raise train.accumulate",
        check_place(root, "data.batch", p), pass * wide);
    LH_CHECK(c->data.batch % parts == 0, LH_ERR_USAGE,
             "%s: key 'data.batch': %lld is not a multiple of mesh.data x train.accumulate = %lld",
             check_place(root, "data.batch", p), (long long)c->data.batch, (long long)parts);
    LH_CHECK(c->optimizer.betas.count == 2, LH_ERR_USAGE,
             "%s: key 'optimizer.betas': expected two numbers, got %d",
             check_place(root, "optimizer.betas", p), c->optimizer.betas.count);
done:
    return st;
}

static lh_status check_time_limit(const lh_node *root, lh_config_train *t)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX], shown[LH_SHOWN_MAX];
    t->time_limit_s = 0.0;
    LH_CHECK(
        strcmp(t->time_limit, "none") == 0 || lh_units_duration(t->time_limit, &t->time_limit_s),
        LH_ERR_USAGE,
        "%s: key 'train.time_limit': expected a duration such as 45m, 11:30:00 or 2-00:00:00, or "
        "none, got '%s'",
        check_place(root, "train.time_limit", p),
        lh_text_shown(t->time_limit, shown, sizeof shown));
done:
    return st;
}

/* The tasks, in the order of lh_task_kind. */
static const struct {
    const char *name;
    int kind; /* the model's; CHECK_ANY: either */
} check_tasks[] = {{"text", LH_MODEL_DECODER},    {"masked_text", LH_MODEL_ENCODER},
                   {"tokens", LH_MODEL_DECODER},  {"masked_tokens", LH_MODEL_ENCODER},
                   {"fasta", LH_MODEL_DECODER},   {"lag", LH_MODEL_DECODER},
                   {"markers", LH_MODEL_ENCODER}, {"recall", LH_MODEL_ENCODER},
                   {"listops", LH_MODEL_ENCODER}, {"mqar", CHECK_ANY},
                   {"selective_copy", CHECK_ANY}, {"induction", CHECK_ANY},
                   {"needle", CHECK_ANY}};

static lh_status check_files(const lh_node *root, const lh_config *c)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX];
    LH_CHECK(c->data.path[0] != '\0', LH_ERR_USAGE,
             "%s: key 'data.path' is required but missing; expected the path of the training file "
             "(task %s)",
             check_place(root, "data.path", p), check_tasks[c->data.task].name);
    LH_CHECK(c->data.valid_path[0] != '\0' || c->data.valid_fraction > 0 ||
                 c->train.eval_every == 0,
             LH_ERR_USAGE,
             "%s: key 'data.valid_fraction': expected a number greater than 0 and less than 1, or "
             "data.valid_path, or train.eval_every 0",
             check_place(root, "data.valid_fraction", p));
done:
    return st;
}

/* A record of a FASTA file is a document, which token 0 ends. */
static lh_status check_records(const lh_node *root, lh_config *c)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX];
    if (c->data.task != LH_TASK_FASTA) goto done;
    LH_CHECK(c->data.documents == LH_AUTO || c->data.documents == 0, LH_ERR_USAGE,
             "%s: key 'data.documents': records of task fasta end with token 0: leave it out",
             check_place(root, "data.documents", p));
    c->data.documents = 0;
done:
    return st;
}

static lh_status check_pairs(const lh_node *root, const lh_config_data *d)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX];
    LH_CHECK(4 * d->pairs <= d->length, LH_ERR_USAGE,
             "%s: key 'data.pairs': %lld pairs, each asked for once, need data.length >= %lld, and "
             "it is %lld",
             check_place(root, "data.pairs", p), (long long)d->pairs, (long long)(4 * d->pairs),
             (long long)d->length);
    LH_CHECK(
        d->pairs <= d->vocab / 2 - 1, LH_ERR_USAGE,
        "%s: key 'data.pairs': %lld different keys need data.vocab >= %lld (keys are 1 .. V/2 - "
        "1), and it is %lld",
        check_place(root, "data.pairs", p), (long long)d->pairs, (long long)(2 * d->pairs + 2),
        (long long)d->vocab);
done:
    return st;
}

static lh_status check_trees(const lh_node *root, const lh_config_data *d)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX];
    lh_listops_desc trees = {d->tree_depth, d->tree_args, d->longer_than, d->shorter_than};
    int64_t longest = lh_listops_longest(&trees);
    LH_CHECK(
        d->shorter_than <= d->length, LH_ERR_USAGE,
        "%s: key 'data.shorter_than': trees of up to %lld tokens, and one token in front, need "
        "data.length >= %lld, and it is %lld",
        check_place(root, "data.shorter_than", p), (long long)(d->shorter_than - 1),
        (long long)d->shorter_than, (long long)d->length);
    LH_CHECK(d->longer_than + 2 <= d->shorter_than, LH_ERR_USAGE,
             "%s: key 'data.longer_than': no number of tokens is more than %lld and less than "
             "data.shorter_than = %lld",
             check_place(root, "data.longer_than", p), (long long)d->longer_than,
             (long long)d->shorter_than);
    LH_CHECK(longest > d->longer_than, LH_ERR_USAGE,
             "%s: key 'data.longer_than': trees of data.tree_depth %lld with up to data.tree_args "
             "%lld arguments have at most %lld tokens: expected less than that, got %lld",
             check_place(root, "data.longer_than", p), (long long)d->tree_depth,
             (long long)d->tree_args, (long long)longest, (long long)d->longer_than);
done:
    return st;
}

/* Sizes of the published tasks that the program makes. */
static lh_status check_published(const lh_node *root, const lh_config_data *d)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX];
    bool marked = d->task == LH_TASK_INDUCTION || d->task == LH_TASK_NEEDLE;
    if (d->task == LH_TASK_MQAR) LH_TRY(check_pairs(root, d));
    if (d->task == LH_TASK_LISTOPS) LH_TRY(check_trees(root, d));
    LH_CHECK(d->task != LH_TASK_SELECTIVE_COPY || d->items <= d->length / 2, LH_ERR_USAGE,
             "%s: key 'data.items': %lld symbols and as many places that ask for them need "
             "data.length >= %lld, and it is %lld",
             check_place(root, "data.items", p), (long long)d->items, (long long)(2 * d->items),
             (long long)d->length);
    LH_CHECK(
        !marked || d->length >= 3, LH_ERR_USAGE,
        "%s: key 'data.length': a marker, what follows it and the question need at least 3, got "
        "%lld",
        check_place(root, "data.length", p), (long long)d->length);
done:
    return st;
}

/* Sizes of the tasks that the program makes. */
static lh_status check_made(const lh_node *root, const lh_config *c)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX];
    const lh_config_data *d = &c->data;
    LH_CHECK(d->task != LH_TASK_LAG || d->lag < d->length, LH_ERR_USAGE,
             "%s: key 'data.lag': no position has an answer: expected less than data.length = "
             "%lld, got %lld",
             check_place(root, "data.lag", p), (long long)d->length, (long long)d->lag);
    LH_CHECK(d->task != LH_TASK_MARKERS || d->gap <= d->length - 2, LH_ERR_USAGE,
             "%s: key 'data.gap': two markers with a distance of %lld need data.length >= %lld "
             "(position 0 asks the question), and it is %lld",
             check_place(root, "data.gap", p), (long long)d->gap, (long long)(d->gap + 2),
             (long long)d->length);
    LH_CHECK(d->task != LH_TASK_RECALL || d->offsets <= (d->length - 1) / 2, LH_ERR_USAGE,
             "%s: key 'data.offsets': %lld distances need data.length >= %lld, and it is %lld",
             check_place(root, "data.offsets", p), (long long)d->offsets,
             (long long)(2 * d->offsets + 1), (long long)d->length);
    LH_TRY(check_published(root, d));
    LH_CHECK(d->valid_windows > 0 || c->train.eval_every == 0, LH_ERR_USAGE,
             "%s: key 'data.valid_windows': expected at least 1, or train.eval_every 0",
             check_place(root, "data.valid_windows", p));
    LH_CHECK(d->documents == LH_AUTO, LH_ERR_USAGE,
             "%s: key 'data.documents': task %s has no documents: leave it out",
             check_place(root, "data.documents", p), check_tasks[d->task].name);
done:
    return st;
}

static const char *const check_heads[] = {"lm", "class", "pooler", "none"};

/* Parts of one head are no parts of another. A head without a loss, whose forward pass alone is planned,
 * may have them left over. */
static lh_status check_head_parts(const lh_node *root, const lh_model_desc *m)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX];
    const struct {
        bool given;
        int head;
        const char *key, *otherwise;
    } part[] = {{m->classes != LH_AUTO, LH_HEAD_CLASS, "model.classes", "auto"},
                {m->pooler, LH_HEAD_CLASS, "model.pooler", "false"},
                {m->head_transform, LH_HEAD_LM, "model.head_transform", "false"}};
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++)
        LH_CHECK(!part[i].given || part[i].head == (int)m->head, LH_ERR_USAGE,
                 "%s: key '%s': this is for model.head %s, and the head is %s: set that, or %s: %s",
                 check_place(root, part[i].key, p), part[i].key, check_heads[part[i].head],
                 check_heads[m->head], part[i].key, part[i].otherwise);
done:
    return st;
}

static lh_status check_head(const lh_node *root, unsigned flags, const lh_config *c)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX];
    const char *head = check_heads[c->model.head];
    bool pools = c->model.head == LH_HEAD_CLASS || c->model.head == LH_HEAD_POOLER;
    LH_CHECK(!pools || c->model.kind == LH_MODEL_ENCODER, LH_ERR_USAGE,
             "%s: key 'model.head': %s needs model.kind encoder",
             check_place(root, "model.head", p), head);
    if (lh_model_has_loss(&c->model)) LH_TRY(check_head_parts(root, &c->model));
    LH_CHECK(
        flags != 0 || lh_model_has_loss(&c->model), LH_ERR_USAGE,
        "%s: key 'model.head': %s has no loss, so there is nothing to train or to evaluate: set "
        "model.head to lm or class (longhaul plan says what its forward pass costs)",
        check_place(root, "model.head", p), check_heads[c->model.head]);
done:
    return st;
}

/* What the head learns from must be what the task gives. */
static lh_status check_labels(const lh_node *root, const lh_config *c)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX];
    const char *needs = lh_task_classes(c) > 0 ? "class" : "lm";
    LH_CHECK(strcmp(check_heads[c->model.head], needs) == 0, LH_ERR_USAGE,
             "%s: key 'model.head': data.task %s needs the head %s, and it is %s",
             check_place(root, "model.head", p), check_tasks[c->data.task].name, needs,
             check_heads[c->model.head]);
done:
    return st;
}

static lh_status check_task(const lh_node *root, unsigned flags, const lh_config *c)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX];
    static const char *const kinds[] = {"decoder", "encoder"};
    const char *task = check_tasks[c->data.task].name;
    bool plan = (flags & LH_CONFIG_PLAN) != 0;
    if (lh_task_made(c))
        LH_TRY(check_made(root, c));
    else if (!plan)
        LH_TRY(check_files(root, c));
    if (plan && c->model.head != LH_HEAD_LM) goto done;
    LH_CHECK(check_tasks[c->data.task].kind == CHECK_ANY ||
                 c->model.kind == check_tasks[c->data.task].kind,
             LH_ERR_USAGE, "%s: key 'data.task': %s needs model.kind %s, and it is %s",
             check_place(root, "data.task", p), task, kinds[check_tasks[c->data.task].kind],
             kinds[c->model.kind]);
    LH_TRY(check_labels(root, c));
done:
    return st;
}

lh_status lhi_config_check(const lh_node *root, unsigned flags, lh_config *config)
{
    lh_status st = LH_OK;
    LH_TRY(check_run(root, &config->run));
    LH_TRY(check_mesh(root, &config->mesh));
    LH_TRY(check_records(root, config));
    if (config->data.vocab == LH_AUTO)
        config->data.vocab = config->data.task == LH_TASK_MQAR ? 8192 : 16;
    LH_TRY(check_model_sizes(root, &config->model));
    LH_TRY(check_model_position(root, &config->model));
    LH_TRY(check_length(root, config));
    LH_TRY(check_head(root, flags, config));
    for (int layer = 0; layer < (int)config->model.layers; layer++)
        LH_TRY(check_mechanism(root, config, layer));
    LH_TRY(check_training(root, config));
    LH_TRY(check_time_limit(root, &config->train));
    if ((flags & LH_CONFIG_PARTIAL) == 0) LH_TRY(check_task(root, flags, config));
done:
    return st;
}
