#include "io/yaml_internal.h"

#include <string.h>

#include <yaml.h>

typedef struct parse_state {
    yaml_parser_t parser;
    yaml_event_t event;
    bool have_parser, have_event;
    lh_yaml *yaml;
    const char *source; /* owned by yaml */
    const char *bytes;  /* [count]: the text */
    size_t count;
    int64_t nodes;
} parse_state;

/* Length of the UTF-8 character at p [left]; 0: none (overlong forms, surrogates and zero bytes
 * included). */
static size_t parse_utf8(const unsigned char *p, size_t left)
{
    size_t n = p[0] < 0x80   ? 1
               : p[0] < 0xc2 ? 0
               : p[0] < 0xe0 ? 2
               : p[0] < 0xf0 ? 3
               : p[0] < 0xf5 ? 4
                             : 0;
    if (n == 0 || n > left || p[0] == 0) return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    if (n == 3 && ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] >= 0xa0))) return 0;
    if (n == 4 && ((p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] >= 0x90))) return 0;
    return n;
}

/* Text at all? Told here and not by libyaml, which takes other encodings and does not count
 * lines in what it refuses. */
static lh_status parse_text(const char *bytes, size_t count, const char *source)
{
    lh_status st = LH_OK;
    int line = 1, column = 1;
    for (size_t i = 0, n = 0; i < count; i += n) {
        const unsigned char *p = (const unsigned char *)bytes + i;
        n = parse_utf8(p, count - i);
        LH_CHECK(n > 0, LH_ERR_USAGE,
                 "%s:%d:%d: byte 0x%02x is not UTF-8 text; expected a YAML file", source, line,
                 column, p[0]);
        column = p[0] == '\n' ? 1 : column + 1;
        line += p[0] == '\n';
    }
done:
    return st;
}

static int parse_int(size_t from_zero)
{
    return (int)from_zero + 1; /* texts have at most LH_YAML_MAX_BYTES */
}

static lh_status parse_fail(parse_state *s, const yaml_mark_t *mark, const char *what)
{
    return LH_RAISE(LH_ERR_USAGE, "%s:%d:%d: %s", s->source, parse_int(mark->line),
                    parse_int(mark->column), what);
}

/* Is there a tab at the mark, whose index counts characters of UTF-8? */
static bool parse_at_tab(const parse_state *s, const yaml_mark_t *mark)
{
    size_t character = 0;
    for (size_t i = 0; i < s->count && character <= mark->index; i++) {
        if (character == mark->index && s->bytes[i] == '\t') return true;
        /* the last byte of a character is followed by one that does not continue it */
        character += i + 1 == s->count || ((unsigned char)s->bytes[i + 1] & 0xC0) != 0x80;
    }
    return false;
}

static lh_status parse_broken(parse_state *s)
{
    const yaml_parser_t *p = &s->parser;
    const char *problem = p->problem != NULL ? p->problem : "unknown problem";
    if (parse_at_tab(s, &p->problem_mark))
        problem = "a tab where YAML wants blanks: indent with blanks";
    if (p->error == YAML_MEMORY_ERROR)
        return LH_RAISE(LH_ERR_MEMORY, "%s: no memory to parse it", s->source);
    if (p->error == YAML_READER_ERROR) /* a control character; no mark is given */
        return LH_RAISE(LH_ERR_USAGE, "%s:%d:%d: not valid YAML: %s (code 0x%x)", s->source,
                        parse_int(p->mark.line), parse_int(p->mark.column), problem,
                        (unsigned)p->problem_value);
    if (p->context == NULL)
        return LH_RAISE(LH_ERR_USAGE, "%s:%d:%d: not valid YAML: %s", s->source,
                        parse_int(p->problem_mark.line), parse_int(p->problem_mark.column),
                        problem);
    return LH_RAISE(LH_ERR_USAGE, "%s:%d:%d: not valid YAML: %s (%s that starts in line %d)",
                    s->source, parse_int(p->problem_mark.line), parse_int(p->problem_mark.column),
                    problem, p->context, parse_int(p->context_mark.line));
}

static lh_status parse_next(parse_state *s)
{
    if (s->have_event) yaml_event_delete(&s->event);
    s->have_event = yaml_parser_parse(&s->parser, &s->event) != 0;
    return s->have_event ? LH_OK : parse_broken(s);
}

/* Refuse what is more than plain data. */
static lh_status parse_plain(parse_state *s)
{
    const yaml_event_t *e = &s->event;
    const yaml_char_t *anchor = NULL, *tag = NULL;
    if (e->type == YAML_ALIAS_EVENT)
        return parse_fail(s, &e->start_mark,
                          "aliases (*name) are not supported; write the value, or use base:");
    if (e->type == YAML_SCALAR_EVENT) anchor = e->data.scalar.anchor, tag = e->data.scalar.tag;
    if (e->type == YAML_SEQUENCE_START_EVENT)
        anchor = e->data.sequence_start.anchor, tag = e->data.sequence_start.tag;
    if (e->type == YAML_MAPPING_START_EVENT)
        anchor = e->data.mapping_start.anchor, tag = e->data.mapping_start.tag;
    if (anchor != NULL)
        return parse_fail(s, &e->start_mark,
                          "anchors (&name) are not supported; write the value, or use base:");
    if (tag != NULL) return parse_fail(s, &e->start_mark, "tags (!name) are not supported");
    if (++s->nodes > LH_YAML_MAX_NODES)
        return parse_fail(s, &e->start_mark,
                          "too many values for an experiment file (more than 100000)");
    return LH_OK;
}

static lh_status parse_scalar(parse_state *s, lh_node *node)
{
    const yaml_event_t *e = &s->event;
    size_t n = e->data.scalar.length;
    const char *text = (const char *)e->data.scalar.value;
    if (memchr(text, 0, n) != NULL)
        return parse_fail(s, &e->start_mark, "a text with a zero character is not supported");
    node->quoted = e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    return lhi_yaml_text(s->yaml, text, n, &node->text);
}

static lh_status parse_node(parse_state *s, int depth, lh_node **out);

static lh_status parse_list(parse_state *s, int depth, lh_node *list)
{
    lh_status st = LH_OK;
    for (;;) {
        lh_node *item = NULL;
        LH_TRY(parse_next(s));
        if (s->event.type == YAML_SEQUENCE_END_EVENT) break;
        LH_TRY(parse_node(s, depth + 1, &item));
        LH_TRY(lhi_yaml_add(s->yaml, list, NULL, item));
    }
done:
    return st;
}

static lh_status parse_key(parse_state *s, lh_node *map, lh_node **key)
{
    lh_status st = LH_OK;
    char shown[LH_SHOWN_MAX];
    const yaml_mark_t mark = s->event.start_mark;
    if (s->event.type == YAML_MAPPING_START_EVENT || s->event.type == YAML_SEQUENCE_START_EVENT)
        return parse_fail(s, &mark, "a key must be a word, not a list or a map");
    LH_TRY(parse_node(s, 0, key));
    if ((*key)->text[0] == '\0') return parse_fail(s, &mark, "a key is missing before ':'");
    if (map->count >= LH_YAML_MAX_KEYS)
        return parse_fail(s, &mark, "too many keys in one map (more than 1000)");
    int64_t i = lhi_yaml_index(map, (*key)->text);
    LH_CHECK(i < 0, LH_ERR_USAGE, "%s:%d:%d: key %s occurs twice in this map (first in line %d)",
             s->source, (*key)->line, (*key)->column, lh_node_shown(*key, shown),
             map->key[i]->line);
done:
    return st;
}

static lh_status parse_map(parse_state *s, int depth, lh_node *map)
{
    lh_status st = LH_OK;
    for (;;) {
        lh_node *key = NULL, *item = NULL;
        LH_TRY(parse_next(s));
        if (s->event.type == YAML_MAPPING_END_EVENT) break;
        LH_TRY(parse_key(s, map, &key));
        LH_TRY(parse_next(s));
        LH_TRY(parse_node(s, depth + 1, &item));
        LH_TRY(lhi_yaml_add(s->yaml, map, key, item));
    }
done:
    return st;
}

/* The node that starts with the present event; at most LH_YAML_MAX_DEPTH deep. */
static lh_status parse_node(parse_state *s, int depth, lh_node **out)
{
    lh_status st = LH_OK;
    const yaml_event_t *e = &s->event;
    yaml_event_type_t type = e->type;
    lh_node_kind kind = type == YAML_SCALAR_EVENT           ? LH_NODE_SCALAR
                        : type == YAML_SEQUENCE_START_EVENT ? LH_NODE_LIST
                                                            : LH_NODE_MAP;
    if (depth > LH_YAML_MAX_DEPTH)
        return parse_fail(s, &e->start_mark, "lists and maps are nested too deep (more than 32)");
    LH_TRY(parse_plain(s));
    LH_TRY(lhi_yaml_node(s->yaml, kind, s->source, parse_int(e->start_mark.line),
                         parse_int(e->start_mark.column), out));
    if (kind == LH_NODE_SCALAR) LH_TRY(parse_scalar(s, *out));
    if (kind == LH_NODE_LIST) LH_TRY(parse_list(s, depth, *out));
    if (kind == LH_NODE_MAP) LH_TRY(parse_map(s, depth, *out));
done:
    return st;
}

static lh_status parse_stream(parse_state *s, lh_node **out)
{
    lh_status st = LH_OK;
    LH_TRY(parse_next(s)); /* start of the stream */
    LH_TRY(parse_next(s));
    if (s->event.type == YAML_DOCUMENT_START_EVENT) {
        LH_TRY(parse_next(s));
        LH_TRY(parse_node(s, 0, out));
        LH_TRY(parse_next(s)); /* end of the document */
        LH_TRY(parse_next(s));
        if (s->event.type != YAML_STREAM_END_EVENT) {
            st = parse_fail(s, &s->event.start_mark,
                            "a second document starts here; expected only one");
            goto done;
        }
    }
    LH_CHECK(
        *out != NULL && !((*out)->text[0] == '\0' && lh_node_is_null(*out)), LH_ERR_USAGE,
        "%s:1:1: nothing is written here; expected keys with values, such as model: {layers: 4}",
        s->source);
done:
    return st;
}

lh_status lh_yaml_parse(lh_yaml *y, const char *bytes, size_t count, const char *name,
                        lh_node **out)
{
    lh_status st = LH_OK;
    parse_state s = {.yaml = y, .bytes = bytes, .count = count};
    char shown[LH_PLACE_MAX];
    *out = NULL;
    (void)lh_text_shown(name, shown, sizeof shown);
    LH_TRY(lhi_yaml_text(y, shown, strlen(shown), &s.source));
    LH_CHECK(count <= LH_YAML_MAX_BYTES, LH_ERR_USAGE,
             "%s: %zu bytes are too many for an experiment file (at most %d)", s.source, count,
             LH_YAML_MAX_BYTES);
    LH_TRY(parse_text(bytes, count, s.source));
    if (count >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0)
        bytes += 3, count -= 3; /* byte order mark */
    s.have_parser = yaml_parser_initialize(&s.parser) != 0;
    LH_CHECK(s.have_parser, LH_ERR_MEMORY, "%s: no memory to parse it", s.source);
    yaml_parser_set_encoding(&s.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&s.parser, (const unsigned char *)bytes, count);
    LH_TRY(parse_stream(&s, out));
done:
    if (s.have_event) yaml_event_delete(&s.event);
    if (s.have_parser) yaml_parser_delete(&s.parser);
    if (st != LH_OK) *out = NULL;
    return st;
}
