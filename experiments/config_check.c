/* What no field can tell alone: sizes that follow from others, and contradictions. */
#include "experiments/config_internal.h"

#include <string.h>

enum { CHECK_NAME = 200 };

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
    LH_CHECK(m->position != LH_POSITION_ROTARY || m->head_width % 2 == 0, LH_ERR_USAGE,
             "%s: key 'model.position': rotary positions need an even head width, and "
             "model.head_width is %lld",
             check_place(root, "model.position", p), (long long)m->head_width);
    LH_CHECK(m->position != LH_POSITION_SINUSOIDAL || m->width % 2 == 0, LH_ERR_USAGE,
             "%s: key 'model.position': sinusoidal positions need an even width, and model.width "
             "is %lld",
             check_place(root, "model.position", p), (long long)m->width);
done:
    return st;
}

/* What a mechanism refuses by its table; what depends on lengths and ranks it refuses itself,
 * later. */
static lh_status check_mechanism(const lh_node *root, const lh_model_desc *m, int layer)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX], key[64];
    const lh_attn_ops *ops = m->attention[layer].ops;
    bool list = lh_node_at(root, "model.attention")->kind == LH_NODE_LIST;
    bool causal = m->kind == LH_MODEL_DECODER;
    if (list)
        (void)snprintf(key, sizeof key, "model.attention.%d.mechanism", layer);
    else
        (void)snprintf(key, sizeof key, "model.attention.mechanism");
    LH_CHECK((ops->caps & (causal ? LH_ATTN_CAUSAL : LH_ATTN_BIDIRECTIONAL)) != 0, LH_ERR_USAGE,
             "%s: key '%s': '%s' has no %s form, which model.kind needs", check_place(root, key, p),
             key, ops->name, causal ? "causal" : "bidirectional");
    LH_CHECK(m->kv_heads == m->heads || (ops->caps & LH_ATTN_GQA) != 0, LH_ERR_USAGE,
             "%s: key '%s': '%s' needs as many key/value heads as query heads, and model.kv_heads "
             "is %lld of %lld",
             check_place(root, key, p), key, ops->name, (long long)m->kv_heads,
             (long long)m->heads);
done:
    return st;
}

/* Nothing in a configuration may lead out of the output folder. */
static lh_status check_run(const lh_node *root, const lh_config_run *run)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX], shown[LH_SHOWN_MAX];
    bool control = false;
    (void)lh_text_shown(run->name, shown, sizeof shown);
    for (const char *c = run->name; *c != '\0'; c++)
        control = control || (unsigned char)*c < 0x20 || *c == 0x7f;
    LH_CHECK(run->name[0] != '\0' && run->name[0] != '.' && strchr(run->name, '/') == NULL &&
                 !control && strlen(run->name) <= CHECK_NAME,
             LH_ERR_USAGE,
             "%s: key 'run.name': expected a plain file name (no '/', no '.' in front, at most %d "
             "characters), got '%s'",
             check_place(root, "run.name", p), CHECK_NAME, shown);
    LH_CHECK(run->output[0] != '\0', LH_ERR_USAGE,
             "%s: key 'run.output': expected the path of a folder, got nothing",
             check_place(root, "run.output", p));
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

static lh_status check_task(const lh_node *root, const lh_config *c)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX];
    bool text = c->data.task == LH_TASK_TEXT;
    const char *task = text ? "text" : "masked_text";
    LH_CHECK(c->data.path[0] != '\0', LH_ERR_USAGE,
             "%s: key 'data.path' is required but missing; expected the path of the training file "
             "(task %s)",
             check_place(root, "data.path", p), task);
    LH_CHECK(c->data.valid_path[0] != '\0' || c->data.valid_fraction > 0 ||
                 c->train.eval_every == 0,
             LH_ERR_USAGE,
             "%s: key 'data.valid_fraction': expected a number greater than 0 and less than 1, or "
             "data.valid_path, or train.eval_every 0",
             check_place(root, "data.valid_fraction", p));
    LH_CHECK(text == (c->model.kind == LH_MODEL_DECODER), LH_ERR_USAGE,
             "%s: key 'data.task': %s needs model.kind %s, and it is %s",
             check_place(root, "data.task", p), task, text ? "decoder" : "encoder",
             text ? "encoder" : "decoder");
    LH_CHECK(c->model.head == LH_HEAD_LM, LH_ERR_USAGE,
             "%s: key 'model.head': data.task %s needs the head lm",
             check_place(root, "model.head", p), task);
done:
    return st;
}

lh_status lhi_config_check(const lh_node *root, unsigned flags, lh_config *config)
{
    lh_status st = LH_OK;
    LH_TRY(check_run(root, &config->run));
    LH_TRY(check_model_sizes(root, &config->model));
    LH_TRY(check_model_position(root, &config->model));
    for (int layer = 0; layer < (int)config->model.layers; layer++)
        LH_TRY(check_mechanism(root, &config->model, layer));
    LH_TRY(check_training(root, config));
    if ((flags & LH_CONFIG_PARTIAL) == 0) LH_TRY(check_task(root, config));
done:
    return st;
}
