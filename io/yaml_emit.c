#include "io/yaml_internal.h"

#include <string.h>

#include <yaml.h>

typedef struct emit_state {
    yaml_emitter_t emitter;
    bool have_emitter;
    char *text; /* always closed by a zero: lh_grow zeroes, one byte more is asked for */
    int64_t used, capacity;
    lh_status status;
} emit_state;

static int emit_write(void *user, unsigned char *bytes, size_t count)
{
    emit_state *s = user;
    s->status = lh_grow(&s->text, &s->capacity, s->used + (int64_t)count + 1, 1);
    if (s->status != LH_OK) return 0;
    memcpy(s->text + s->used, bytes, count);
    s->used += (int64_t)count;
    return 1;
}

/* made: did libyaml make the event? The emitter takes it over, whatever comes of it. */
static lh_status emit_event(emit_state *s, yaml_event_t *event, int made)
{
    if (!made) return LH_RAISE(LH_ERR_MEMORY, "no memory to write YAML");
    if (yaml_emitter_emit(&s->emitter, event)) return LH_OK;
    if (s->status != LH_OK) return s->status;
    if (s->emitter.error == YAML_MEMORY_ERROR)
        return LH_RAISE(LH_ERR_MEMORY, "no memory to write YAML");
    return LH_RAISE(LH_ERR_BUG, "YAML could not be written: %s",
                    s->emitter.problem != NULL ? s->emitter.problem : "unknown problem");
}

static lh_status emit_scalar(emit_state *s, const lh_node *node)
{
    yaml_event_t e;
    yaml_scalar_style_t style =
        node->quoted ? YAML_DOUBLE_QUOTED_SCALAR_STYLE : YAML_PLAIN_SCALAR_STYLE;
    int made = yaml_scalar_event_initialize(&e, NULL, NULL, (const yaml_char_t *)node->text,
                                            (int)strlen(node->text), 1, 1, style);
    return emit_event(s, &e, made);
}

static lh_status emit_node(emit_state *s, const lh_node *node, int depth)
{
    lh_status st = LH_OK;
    yaml_event_t e;
    bool map = node->kind == LH_NODE_MAP;
    bool of_maps = node->count > 0 && node->item[0]->kind == LH_NODE_MAP;
    bool block = (map && depth < 2) || of_maps;
    if (node->kind == LH_NODE_SCALAR) return emit_scalar(s, node);
    int made =
        map ? yaml_mapping_start_event_initialize(
                  &e, NULL, NULL, 1, block ? YAML_BLOCK_MAPPING_STYLE : YAML_FLOW_MAPPING_STYLE)
            : yaml_sequence_start_event_initialize(
                  &e, NULL, NULL, 1, block ? YAML_BLOCK_SEQUENCE_STYLE : YAML_FLOW_SEQUENCE_STYLE);
    LH_TRY(emit_event(s, &e, made));
    for (int64_t i = 0; i < node->count; i++) {
        if (map) LH_TRY(emit_scalar(s, node->key[i]));
        LH_TRY(emit_node(s, node->item[i], depth + 1));
    }
    made = map ? yaml_mapping_end_event_initialize(&e) : yaml_sequence_end_event_initialize(&e);
    LH_TRY(emit_event(s, &e, made));
done:
    return st;
}

lh_status lh_yaml_emit(const lh_node *map, char **text)
{
    lh_status st = LH_OK;
    emit_state s = {.text = NULL};
    yaml_event_t e;
    *text = NULL;
    s.have_emitter = yaml_emitter_initialize(&s.emitter) != 0;
    LH_CHECK(s.have_emitter, LH_ERR_MEMORY, "no memory to write YAML");
    yaml_emitter_set_output(&s.emitter, emit_write, &s);
    yaml_emitter_set_unicode(&s.emitter, 1);
    yaml_emitter_set_width(&s.emitter, -1);
    LH_TRY(emit_event(&s, &e, yaml_stream_start_event_initialize(&e, YAML_UTF8_ENCODING)));
    LH_TRY(emit_event(&s, &e, yaml_document_start_event_initialize(&e, NULL, NULL, NULL, 1)));
    LH_TRY(emit_node(&s, map, 0));
    LH_TRY(emit_event(&s, &e, yaml_document_end_event_initialize(&e, 1)));
    LH_TRY(emit_event(&s, &e, yaml_stream_end_event_initialize(&e)));
    *text = s.text;
    s.text = NULL;
done:
    if (s.have_emitter) yaml_emitter_delete(&s.emitter);
    lh_free(&s.text);
    return st;
}
