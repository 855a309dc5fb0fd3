#include "experiments/config_internal.h"

#include <string.h>

enum { FILES_CHAIN = 16, FILES_PATH = 4096 };

/* The files of one `base:` chain, the one that was asked for first. */
typedef struct files_chain {
    lh_yaml *yaml;
    const lh_config_source *source;
    int count;
    lh_node *root[FILES_CHAIN];
    const char *path[FILES_CHAIN];  /* as it is opened; owned by yaml */
    const char *clean[FILES_CHAIN]; /* absolute, without "." and "..": to tell files apart */
} files_chain;

/* A path in its shortest form, by its letters alone: every rank must come to the same result. */
static lh_status files_clean(const lh_config_source *s, const char *path, char *out)
{
    lh_status st = LH_OK;
    char joined[FILES_PATH];
    size_t used = 0;
    int n = path[0] == '/' ? snprintf(joined, sizeof joined, "%s", path)
                           : snprintf(joined, sizeof joined, "%s/%s", s->directory, path);
    LH_CHECK(n >= 0 && (size_t)n < sizeof joined - 1, LH_ERR_USAGE,
             "a path is longer than %d characters", FILES_PATH - 2);
    for (const char *p = joined; *p != '\0';) {
        size_t part = strcspn(p, "/");
        if (part == 2 && memcmp(p, "..", 2) == 0) {
            while (used > 0 && out[--used] != '/') {
            }
        } else if (part > 0 && !(part == 1 && p[0] == '.')) {
            out[used++] = '/';
            memcpy(out + used, p, part);
            used += part;
        }
        p += part + (p[part] == '/');
    }
    out[used] = '\0';
done:
    return st;
}

static lh_status files_keep(files_chain *c, const char *text, const char **out)
{
    lh_node *holder = NULL;
    lh_status st = lh_yaml_scalar(c->yaml, text, true, &holder);
    *out = holder != NULL ? holder->text : NULL;
    return st;
}

static lh_status files_parse(files_chain *c, const char *bytes, size_t count, const char *name)
{
    lh_status st = LH_OK;
    lh_node *root = NULL;
    char place[LH_PLACE_MAX], shown[LH_SHOWN_MAX];
    LH_TRY(lh_yaml_parse(c->yaml, bytes, count, name, &root));
    LH_CHECK(root->kind == LH_NODE_MAP, LH_ERR_USAGE,
             "%s: expected a map with sections such as data: and model:, got %s",
             lh_node_place(root, place), lh_node_shown(root, shown));
    c->root[c->count++] = root;
done:
    return st;
}

/* What others inherit describes one run. */
static lh_status files_no_sweep(const lh_node *root)
{
    lh_status st = LH_OK;
    char place[LH_PLACE_MAX];
    const lh_node *sweep = lh_node_find(root, "sweep");
    LH_CHECK(
        sweep == NULL, LH_ERR_USAGE,
        "%s: key 'sweep': a file that is inherited from (base:) cannot have a sweep: move it to "
        "the file that is run",
        lh_node_place(sweep, place));
done:
    return st;
}

/* base: the node that names the file; NULL: the caller of lh_config_load does. */
static lh_status files_read(files_chain *c, const lh_node *base, const char *path)
{
    lh_status st = LH_OK;
    const lh_config_source *s = c->source;
    char *bytes = NULL;
    size_t count = 0;
    char clean[FILES_PATH], place[LH_PLACE_MAX];
    LH_TRY(files_clean(s, path, clean));
    LH_TRY(files_keep(c, path, &c->path[c->count]));
    LH_TRY(files_keep(c, clean, &c->clean[c->count]));
    st = s->read(s->user, path, &bytes, &count);
    /* A configuration that cannot be read is bad usage, whatever the file system says. */
    if (st == LH_ERR_IO) st = LH_ERR_USAGE;
    if (base != NULL) st = lh_error_context(st, "%s: key 'base'", lh_node_place(base, place));
    if (st == LH_OK) st = files_parse(c, bytes, count, path);
    if (st == LH_OK && base != NULL) st = files_no_sweep(c->root[c->count - 1]);
done:
    lh_free(&bytes);
    return st;
}

/* `base` of the last file, seen from where that file lies. */
static lh_status files_base_path(const files_chain *c, const lh_node *base, char *path)
{
    lh_status st = LH_OK;
    char place[LH_PLACE_MAX], shown[LH_SHOWN_MAX];
    const char *from = c->path[c->count - 1];
    const char *slash = from != NULL ? strrchr(from, '/') : NULL;
    LH_CHECK(base->kind == LH_NODE_SCALAR && !lh_node_is_null(base) && base->text[0] != '\0',
             LH_ERR_USAGE, "%s: key 'base': expected the path of a file, got %s",
             lh_node_place(base, place),
             lh_node_is_null(base) ? "no value" : lh_node_shown(base, shown));
    int folder = slash != NULL && base->text[0] != '/' ? (int)(slash - from) + 1 : 0;
    int n = snprintf(path, FILES_PATH, "%.*s%s", folder, from, base->text);
    LH_CHECK(n >= 0 && n < FILES_PATH, LH_ERR_USAGE,
             "%s: key 'base': the path is longer than %d characters", lh_node_place(base, place),
             FILES_PATH - 1);
done:
    return st;
}

/* Refuse a file that inherits from itself; the message shows the way round. */
static lh_status files_cycle(const files_chain *c, const lh_node *base, const char *path)
{
    lh_status st = LH_OK;
    char place[LH_PLACE_MAX], clean[FILES_PATH], way[1024] = "", shown[256];
    int first = 0;
    LH_TRY(files_clean(c->source, path, clean));
    for (; first < c->count; first++)
        if (c->clean[first] != NULL && strcmp(c->clean[first], clean) == 0) break;
    if (first == c->count) return LH_OK;
    for (int i = first; i < c->count; i++) {
        size_t used = strlen(way);
        (void)snprintf(way + used, sizeof way - used, "%s -> ",
                       lh_text_shown(c->path[i], shown, sizeof shown));
    }
    st = LH_RAISE(LH_ERR_USAGE, "%s: key 'base': files inherit in a circle: %s%s",
                  lh_node_place(base, place), way, lh_text_shown(path, shown, sizeof shown));
done:
    return st;
}

static lh_status files_follow(files_chain *c)
{
    lh_status st = LH_OK;
    char place[LH_PLACE_MAX], path[FILES_PATH] = "";
    const lh_node *base = NULL;
    while ((base = lh_node_find(c->root[c->count - 1], "base")) != NULL) {
        LH_CHECK(c->source->read != NULL, LH_ERR_USAGE,
                 "%s: key 'base': not supported in this text", lh_node_place(base, place));
        LH_TRY(files_base_path(c, base, path));
        LH_TRY(files_cycle(c, base, path));
        LH_CHECK(c->count < FILES_CHAIN, LH_ERR_USAGE,
                 "%s: key 'base': more than %d files inherit from each other",
                 lh_node_place(base, place), FILES_CHAIN);
        LH_TRY(files_read(c, base, path));
    }
done:
    return st;
}

lh_status lhi_config_tree(lh_yaml *y, const lh_config_source *source, const char *bytes,
                          size_t count, lh_node **root)
{
    lh_status st = LH_OK;
    files_chain c = {.yaml = y, .source = source};
    LH_CHECK(source->path != NULL, LH_ERR_BUG, "a configuration without a name");
    if (bytes != NULL) {
        c.path[0] = c.clean[0] = source->path;
        LH_TRY(files_parse(&c, bytes, count, source->path));
    } else {
        LH_TRY(files_read(&c, NULL, source->path));
    }
    LH_TRY(files_follow(&c));
    for (int i = c.count - 1; i > 0; i--) {
        LH_TRY(lh_yaml_merge(y, c.root[i], c.root[i - 1]));
        c.root[i - 1] = c.root[i];
    }
    *root = c.root[0];
    for (int i = 0; i < source->n_overrides; i++) {
        const char *o = source->overrides[i];
        char shown[256];
        LH_CHECK(strncmp(o, "base=", 5) != 0 && strncmp(o, "base.", 5) != 0, LH_ERR_USAGE,
                 "--set %s: 'base' can only be set in a file",
                 lh_text_shown(o, shown, sizeof shown));
        LH_TRY(lh_yaml_override(y, *root, o));
    }
done:
    return st;
}
