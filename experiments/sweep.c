/* A sweep's points: resolved from the experiment file, and as sweep.json tells them. */
#include "experiments/sweep_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/config_internal.h"
#include "io/metrics.h"

enum { SWEEP_DIGITS = 4 };

/* --- for people --- */

/* "text" behind what is in buf [LH_SWEEP_TEXT]; what has no room is cut. */
static void sweep_put(char *buf, const char *text)
{
    size_t used = strlen(buf);
    int n = snprintf(buf + used, LH_SWEEP_TEXT - used, "%s", text);
    if (n >= 0 && (size_t)n >= LH_SWEEP_TEXT - used) memcpy(buf + LH_SWEEP_TEXT - 4, "...", 4);
}

/* A value as the experiment file writes it, in flow style; a map within a value gets its braces. */
static void sweep_put_node(char *buf, const lh_node *node, bool outermost)
{
    static const char *const brackets[][2] = {
        [LH_NODE_LIST] = {"[", "]"}, [LH_NODE_MAP] = {"{", "}"}};
    char shown[LH_SHOWN_MAX];
    if (node->kind == LH_NODE_SCALAR) {
        sweep_put(buf, lh_text_shown(node->text, shown, sizeof shown));
        return;
    }
    if (!outermost) sweep_put(buf, brackets[node->kind][0]);
    for (int64_t i = 0; i < node->count && strlen(buf) < LH_SWEEP_TEXT - 1; i++) {
        if (i > 0) sweep_put(buf, ", ");
        if (node->kind == LH_NODE_MAP) {
            sweep_put(buf, lh_text_shown(node->key[i]->text, shown, sizeof shown));
            sweep_put(buf, ": ");
        }
        sweep_put_node(buf, node->item[i], false);
    }
    if (!outermost) sweep_put(buf, brackets[node->kind][1]);
}

const char *lh_sweep_text(const lh_sweep_point *point, char *buf)
{
    char seed[32];
    (void)lh_json_show_members(point->values, NULL, buf, LH_SWEEP_TEXT);
    (void)snprintf(seed, sizeof seed, "%sseed %" PRId64, buf[0] != '\0' ? ", " : "", point->seed);
    sweep_put(buf, seed);
    return buf;
}

/* --- one point of a file --- */

/* What a --set gives may not vary, nor what lies around it: one of both would be lost. */
static lh_status sweep_not_set(const lh_node *old, const lh_node *key)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX];
    if (old == NULL) return LH_OK;
    LH_CHECK(strncmp(old->source, "--set ", 6) != 0, LH_ERR_USAGE,
             "%s: key '%s' varies in the sweep (%s): leave one of them out", old->source, key->text,
             lh_node_place(key, p));
    for (int64_t i = 0; i < old->count; i++) LH_TRY(sweep_not_set(old->item[i], key));
done:
    return st;
}

static lh_status sweep_put_values(lh_yaml *y, lh_node *root, const lh_node *values)
{
    lh_status st = LH_OK;
    for (int64_t i = 0; i < values->count; i++) {
        lh_node *value = NULL;
        const lh_node *old = NULL;
        LH_TRY(lh_yaml_copy(y, values->item[i], &value));
        LH_TRY(lh_yaml_put(y, root, values->key[i], value, &old));
        LH_TRY(sweep_not_set(old, values->key[i]));
    }
done:
    return st;
}

/* Seeds that are counted begin with the file's. */
static lh_status sweep_shift(const lhi_sweep_axes *axes, int64_t shift, lh_config *config)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX];
    LH_CHECK(config->run.seed <= INT64_MAX - shift, LH_ERR_USAGE,
             "%s: key 'sweep.seeds': run.seed %" PRId64 " + %" PRId64 " is too large",
             lh_node_place(&axes->seed, p), config->run.seed, shift);
    config->run.seed += shift;
done:
    return st;
}

/* The configuration of point `index` (from 0). *values: what it sets, of y. */
static lh_status sweep_resolve(const lh_node *root, const lh_config_source *source,
                               const lhi_sweep_axes *axes, int64_t index, lh_yaml *y,
                               lh_node **values, lh_config **out)
{
    lh_status st = LH_OK;
    lh_yaml *mine = NULL;
    lh_node *tree = NULL;
    int64_t shift = 0;
    char text[LH_SWEEP_TEXT] = "";
    LH_TRY(lhi_sweep_values(axes, index, y, values, &shift));
    LH_TRY(lh_yaml_create(&mine));
    LH_TRY(lh_yaml_copy(mine, root, &tree));
    st = sweep_put_values(mine, tree, *values);
    if (st == LH_OK) st = lhi_config_fill(tree, source, out);
    if (st == LH_OK) st = sweep_shift(axes, shift, *out);
    if (st == LH_OK) goto done;
    sweep_put_node(text, *values, true);
    (void)lh_error_context(st, "point %" PRId64 " of the sweep's %" PRId64 " (%s)", index + 1,
                           axes->points, text[0] != '\0' ? text : "seeds");
done:
    if (st != LH_OK) lh_config_destroy(out);
    lh_yaml_destroy(&mine);
    return st;
}

/* A name on the command line would be lost: the runs are named by numbers. */
static lh_status sweep_no_name(const lh_node *root)
{
    lh_status st = LH_OK;
    const lh_node *name = lh_node_find(lh_node_find(root, "run"), "name");
    LH_CHECK(
        name == NULL || strncmp(name->source, "--set ", 6) != 0, LH_ERR_USAGE,
        "%s: key 'run.name': a sweep names its runs 0001, 0002, ...: set run.output, the folder "
        "that holds them",
        name->source);
done:
    return st;
}

static lh_status sweep_name(const char *dir, lh_config *config)
{
    lh_status st = LH_OK;
    LH_CHECK(config != NULL, LH_ERR_BUG, "a point without a configuration");
    lh_free(&config->run.name);
    LH_TRY(lh_new(LH_SWEEP_DIR, &config->run.name));
    (void)snprintf(config->run.name, LH_SWEEP_DIR, "%s", dir);
done:
    return st;
}

static void sweep_dir(int64_t number, char dir[LH_SWEEP_DIR])
{
    (void)snprintf(dir, LH_SWEEP_DIR, "%0*d", SWEEP_DIGITS, (int)number);
}

static lh_status sweep_reaches(const lh_node *sweep, const lhi_sweep_axes *axes, int64_t point)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX];
    LH_CHECK(point <= axes->points, LH_ERR_USAGE,
             "%s: key 'sweep': there is no point %" PRId64 ", they go from 1 to %" PRId64,
             lh_node_place(sweep, p), point, axes->points);
done:
    return st;
}

lh_status lhi_config_pick(const lh_node *root, const lh_config_source *source, lh_config **out)
{
    lh_status st = LH_OK;
    lhi_sweep_axes axes;
    lh_yaml *y = NULL;
    lh_node *values = NULL;
    char p[LH_PLACE_MAX], dir[LH_SWEEP_DIR];
    const lh_node *sweep = lh_node_find(root, "sweep");
    LH_CHECK(sweep != NULL, LH_ERR_USAGE, "%s has no sweep, so it has no points: leave out --point",
             source->path);
    LH_CHECK(source->read != NULL, LH_ERR_USAGE, "%s: key 'sweep': not supported in this text",
             lh_node_place(sweep, p));
    LH_TRY(lhi_sweep_axes_read(root, &axes));
    LH_CHECK(source->point > 0, LH_ERR_USAGE,
             "%s: key 'sweep': these are %" PRId64
             " runs, and one is wanted here: leave the sweep out with --set sweep=null (train and "
             "plan take one of them with --point K; longhaul plan %s --points lists them)",
             lh_node_place(sweep, p), axes.points, source->path);
    LH_TRY(sweep_reaches(sweep, &axes, source->point));
    LH_TRY(sweep_no_name(root));
    LH_TRY(lh_yaml_create(&y));
    LH_TRY(sweep_resolve(root, source, &axes, source->point - 1, y, &values, out));
    sweep_dir(source->point, dir);
    LH_TRY(sweep_name(dir, *out));
done:
    lh_yaml_destroy(&y);
    return st;
}

/* --- all points --- */

static lh_status sweep_new(int64_t count, const char *path, lh_sweep **out)
{
    lh_status st = LH_OK;
    lh_sweep *s = NULL;
    LH_TRY(lh_new(sizeof *s, &s));
    s->count = count;
    LH_TRY(lh_new_text(path, &s->path));
    *out = s;
    s = NULL;
done:
    lh_sweep_destroy(&s);
    return st;
}

/* Two runs that would be the same are a slip: values that are given twice, perhaps in other words. */
static lh_status sweep_differ(const lh_sweep *s, int64_t index)
{
    lh_status st = LH_OK;
    char text[LH_SWEEP_TEXT];
    for (int64_t i = 0; i < index; i++)
        LH_CHECK(strcmp(s->point[i].yaml, s->point[index].yaml) != 0, LH_ERR_USAGE,
                 "%s: key 'sweep': points %" PRId64 " and %" PRId64
                 " are the same run (%s): leave out one of the values",
                 s->path, i + 1, index + 1, lh_sweep_text(&s->point[index], text));
done:
    return st;
}

/* s->point [index] of the file, and its line in j. */
static lh_status sweep_point(lh_sweep *s, const lh_node *root, const lh_config_source *source,
                             const lhi_sweep_axes *axes, int64_t index, lh_json *j)
{
    lh_status st = LH_OK;
    lh_sweep_point *p = &s->point[index];
    lh_yaml *y = NULL;
    lh_node *values = NULL;
    lh_config *config = NULL;
    LH_TRY(lh_yaml_create(&y));
    LH_TRY(sweep_resolve(root, source, axes, index, y, &values, &config));
    LH_TRY(sweep_name("sweep", config));
    LH_TRY(lh_config_emit(config, &p->yaml));
    if (s->output == NULL) LH_TRY(lh_new_text(config->run.output, &s->output));
    p->number = index + 1;
    p->seed = config->run.seed;
    lh_json_object(j, NULL);
    lh_json_int(j, "point", p->number);
    sweep_dir(index + 1, p->dir);
    lh_json_string(j, "dir", p->dir);
    lh_json_object(j, "values");
    for (int64_t i = 0; i < values->count; i++)
        if (strcmp(values->key[i]->text, "run.seed") != 0)
            lh_json_node(j, values->key[i]->text, values->item[i]);
    lh_json_close(j);
    lh_json_int(j, "seed", p->seed);
    lh_json_close(j);
done:
    lh_config_destroy(&config);
    lh_yaml_destroy(&y);
    return st;
}

/* The values as sweep.json tells them, so that both are compared and shown alike. */
static lh_status sweep_take_values(lh_sweep *s)
{
    lh_status st = LH_OK;
    const size_t count = strlen(s->json);
    LH_CHECK(count < LH_SWEEP_JSON, LH_ERR_USAGE,
             "%s: key 'sweep': sweep.json would be too large (%zu bytes, at most %d): sweep fewer "
             "or shorter values",
             s->path, count, (int)LH_SWEEP_JSON);
    LH_TRY(lh_json_read(s->json, count, &s->told));
    const lh_json_item *points = lh_json_find(s->told, "points");
    for (int64_t i = 0; i < s->count; i++)
        s->point[i].values = lh_json_find(lh_json_at(points, i), "values");
done:
    return st;
}

static lh_status sweep_points(lh_sweep *s, const lh_node *root, const lh_config_source *source,
                              const lhi_sweep_axes *axes)
{
    lh_status st = LH_OK;
    lh_json j = {0};
    const char *text = NULL;
    LH_TRY(sweep_no_name(root));
    s->swept = true;
    lh_json_begin(&j);
    lh_json_int(&j, "sweep", 1);
    lh_json_array(&j, "points");
    for (int64_t i = 0; i < s->count; i++) LH_TRY(sweep_point(s, root, source, axes, i, &j));
    lh_json_close(&j);
    LH_TRY(lh_json_text(&j, &text));
    LH_TRY(lh_new_text(text, &s->json));
    LH_TRY(sweep_take_values(s));
    for (int64_t i = 0; i < s->count; i++) LH_TRY(sweep_differ(s, i));
done:
    lh_json_free(&j);
    return st;
}

/* A file without a sweep is one point. */
static lh_status sweep_alone(lh_sweep *s, const lh_node *root, const lh_config_source *source)
{
    lh_status st = LH_OK;
    lh_config *config = NULL;
    if (source->point > 0)
        return lhi_config_pick(root, source, &config); /* says that there is none */
    LH_TRY(lhi_config_fill(root, source, &config));
    LH_TRY(lh_config_emit(config, &s->point[0].yaml));
    s->point[0].number = 1;
    s->point[0].seed = config->run.seed;
done:
    lh_config_destroy(&config);
    return st;
}

lh_status lh_sweep_load(const lh_config_source *source, lh_sweep **out)
{
    lh_status st = LH_OK;
    lh_sweep *s = NULL;
    lh_yaml *y = NULL;
    lh_node *root = NULL;
    lhi_sweep_axes axes = {.points = 1};
    lh_config_source from = *source;
    char folder[LHI_CONFIG_FOLDER];
    *out = NULL;
    LH_TRY(lhi_config_here(&from, folder));
    LH_TRY(lh_yaml_create(&y));
    LH_TRY(lhi_config_tree(y, &from, NULL, 0, &root));
    const lh_node *sweep = lh_node_find(root, "sweep");
    if (sweep != NULL) LH_TRY(lhi_sweep_axes_read(root, &axes));
    if (sweep != NULL) LH_TRY(sweep_reaches(sweep, &axes, from.point));
    LH_TRY(sweep_new(axes.points, source->path, &s));
    s->flags = source->flags;
    LH_TRY(lh_new((size_t)s->count * sizeof *s->point, &s->point));
    if (sweep != NULL)
        LH_TRY(sweep_points(s, root, &from, &axes));
    else
        LH_TRY(sweep_alone(s, root, &from));
    *out = s;
    s = NULL;
done:
    lh_sweep_destroy(&s);
    lh_yaml_destroy(&y);
    return st;
}

lh_status lh_sweep_load_all(lh_comm *comm, const lh_config_source *source, lh_sweep **out)
{
    lh_status st = LH_OK;
    int64_t about[2] = {0}; /* points, is it a sweep? */
    *out = NULL;
    if (lh_comm_rank(comm) == 0) st = lh_sweep_load(source, out);
    LH_TRY(lh_agree(comm, st));
    if (*out != NULL) about[0] = (*out)->count, about[1] = (*out)->swept;
    lh_broadcast(comm, about, (int64_t)sizeof about, LH_SEND_OTHER);
    if (lh_comm_rank(comm) > 0) {
        st = sweep_new(about[0], source->path, out);
        if (st == LH_OK) (*out)->swept = about[1] != 0, (*out)->flags = source->flags;
    }
    LH_TRY(lh_agree(comm, st));
done:
    if (st != LH_OK) lh_sweep_destroy(out);
    return st;
}

/* --- configurations --- */

lh_status lh_sweep_config(const lh_sweep *sweep, int64_t index, lh_config **out)
{
    lh_status st = LH_OK;
    const lh_sweep_point *p = &sweep->point[index];
    LH_TRY(lh_config_parse(p->yaml, strlen(p->yaml), sweep->path, sweep->flags, out));
    if (sweep->swept) LH_TRY(sweep_name(p->dir, *out));
done:
    if (st != LH_OK) lh_config_destroy(out);
    return st;
}

lh_status lh_sweep_config_all(lh_comm *comm, const lh_sweep *sweep, int64_t index, lh_config **out)
{
    lh_status st = LH_OK;
    char dir[LH_SWEEP_DIR];
    const char *text = lh_comm_rank(comm) == 0 ? sweep->point[index].yaml : NULL;
    LH_TRY(lhi_config_share(comm, LH_OK, text, sweep->path, sweep->flags, out));
    sweep_dir(index + 1, dir);
    if (sweep->swept) LH_TRY(lh_agree(comm, sweep_name(dir, *out)));
done:
    if (st != LH_OK) lh_config_destroy(out);
    return st;
}

/* --- sweep.json --- */

static lh_status sweep_told(const lh_json_item *item, const char *name, lh_sweep_point *p)
{
    lh_status st = LH_OK;
    const char *dir = lh_json_word(item, "dir");
    p->values = lh_json_find(item, "values");
    LH_CHECK(dir != NULL && strlen(dir) < sizeof p->dir && dir[0] != '.' &&
                 strchr(dir, '/') == NULL && lh_json_item_kind(p->values) == LH_JSON_OBJECT &&
                 lh_json_integer(item, "seed", &p->seed),
             LH_ERR_USAGE, "'%s': point %" PRId64 " has no dir, no values or no seed", name,
             p->number);
    memcpy(p->dir, dir, strlen(dir) + 1);
done:
    return st;
}

lh_status lh_sweep_parse(const char *bytes, size_t count, const char *name, lh_sweep **out)
{
    lh_status st = LH_OK;
    lh_sweep *s = NULL;
    *out = NULL;
    LH_TRY(sweep_new(0, name, &s));
    st = lh_json_read(bytes, count, &s->told);
    LH_TRY(st == LH_ERR_FORMAT ? lh_error_context(LH_ERR_USAGE, "'%s'", name) : st);
    const lh_json_item *points = lh_json_find(s->told, "points");
    const int64_t n = lh_json_count(points);
    LH_CHECK(lh_json_item_kind(points) == LH_JSON_LIST && n > 0 && n <= LH_SWEEP_MAX, LH_ERR_USAGE,
             "'%s' is no sweep: it has no list 'points' of 1 to %d", name, (int)LH_SWEEP_MAX);
    LH_TRY(lh_new((size_t)n * sizeof *s->point, &s->point));
    s->swept = true;
    s->count = n;
    for (int64_t i = 0; i < n; i++) {
        s->point[i].number = i + 1;
        LH_TRY(sweep_told(lh_json_at(points, i), name, &s->point[i]));
    }
    *out = s;
    s = NULL;
done:
    lh_sweep_destroy(&s);
    return st;
}

bool lh_sweep_same(const lh_sweep_point *a, const lh_sweep_point *b)
{
    return strcmp(a->dir, b->dir) == 0 && a->seed == b->seed && lh_json_same(a->values, b->values);
}

void lh_sweep_destroy(lh_sweep **sweep)
{
    lh_sweep *s = *sweep;
    if (s == NULL) return;
    for (int64_t i = 0; s->point != NULL && i < s->count; i++) lh_free(&s->point[i].yaml);
    lh_free(&s->point);
    lh_free(&s->json);
    lh_free(&s->output);
    lh_free(&s->path);
    lh_json_release(&s->told);
    lh_free(sweep);
}
