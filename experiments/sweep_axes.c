/* The `sweep` of an experiment file: what varies. */
#include "experiments/sweep_internal.h"

#include <stdio.h>
#include <string.h>

#include "io/settings_fill.h"

static const char axes_seed[] = "run.seed";

/* Keys that name a sweep's folders, or are no settings of a run. */
static const char *const axes_refused[][2] = {
    {"run.output", "all points of a sweep lie in one folder"},
    {"run.name", "a sweep names its runs by their numbers"},
    {"base", "a file is inherited by all points"},
    {"sweep", "a sweep has no sweeps"}};

/* Are the keys the same, or does one lie below the other? */
static bool axes_meet(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b), least = n < m ? n : m;
    if (strncmp(a, b, least) != 0) return false;
    return n == m || (n > m ? a[m] : b[n]) == '.';
}

static lh_status axes_twice(const lh_node *key, const lh_node *before)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX], q[LH_PLACE_MAX], shown[LH_SHOWN_MAX], other[LH_SHOWN_MAX];
    if (key == before || !axes_meet(key->text, before->text)) return LH_OK;
    LH_CHECK(strcmp(key->text, before->text) != 0, LH_ERR_USAGE,
             "%s: key %s is swept twice (first at %s): every key may vary in one place only",
             lh_node_place(key, p), lh_node_shown(key, shown), lh_node_place(before, q));
    st = LH_RAISE(LH_ERR_USAGE,
                  "%s: key %s: %s is swept too (%s), and one lies in the other: sweep only the "
                  "outer one",
                  lh_node_place(key, p), lh_node_shown(key, shown), lh_node_shown(before, other),
                  lh_node_place(before, q));
done:
    return st;
}

/* May this key vary here? entry: of the list, the keys beside it; NULL: a key of the grid, or seeds. */
static lh_status axes_key(const lhi_sweep_axes *axes, const lh_node *key, const lh_node *entry)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX], shown[LH_SHOWN_MAX];
    size_t n = strlen(key->text);
    LH_CHECK(strspn(key->text, "abcdefghijklmnopqrstuvwxyz0123456789_.") == n &&
                 strchr(key->text, '.') != NULL,
             LH_ERR_USAGE, "%s: key 'sweep': expected a dotted name such as optimizer.lr, got %s",
             lh_node_place(key, p), lh_node_shown(key, shown));
    for (size_t i = 0; i < sizeof axes_refused / sizeof axes_refused[0]; i++)
        LH_CHECK(!axes_meet(key->text, axes_refused[i][0]), LH_ERR_USAGE,
                 "%s: key '%s' cannot be swept: %s", lh_node_place(key, p), axes_refused[i][0],
                 axes_refused[i][1]);
    for (int a = 0; a < axes->count; a++) {
        const lhi_sweep_axis *axis = &axes->axis[a];
        if (axis->key != NULL) {
            LH_TRY(axes_twice(key, axis->key));
            continue;
        }
        for (int64_t i = 0; i < axis->count && entry == NULL; i++)
            for (int64_t k = 0; k < axis->values->item[i]->count; k++)
                LH_TRY(axes_twice(key, axis->values->item[i]->key[k]));
    }
    for (int64_t k = 0; entry != NULL && k < entry->count; k++)
        LH_TRY(axes_twice(key, entry->key[k]));
done:
    return st;
}

static lh_status axes_add(lhi_sweep_axes *axes, const lh_node *key, const lh_node *values,
                          int64_t count)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX];
    LH_CHECK(axes->count < LHI_SWEEP_AXES, LH_ERR_USAGE,
             "%s: key 'sweep': more than %d keys vary on their own: vary some together, in a list",
             lh_node_place(key != NULL ? key : values, p), LHI_SWEEP_AXES);
    axes->axis[axes->count++] = (lhi_sweep_axis){key, values, count};
    LH_CHECK(count <= LH_SWEEP_MAX && axes->points * count <= LH_SWEEP_MAX, LH_ERR_USAGE,
             "%s: key 'sweep': %lld x %lld points are too many (at most %d): leave out values, or "
             "make several sweeps of it",
             lh_node_place(key != NULL ? key : values, p), (long long)axes->points,
             (long long)count, LH_SWEEP_MAX);
    axes->points *= count;
done:
    return st;
}

/* What stands where a node of some kind, with something in it, was expected. */
static const char *axes_got(const lh_node *node, lh_node_kind expected, char shown[LH_SHOWN_MAX])
{
    if (lh_node_is_null(node)) return "no value";
    return node->kind == expected ? "an empty one" : lh_node_shown(node, shown);
}

/* The values of one key: a list with something in it. name: how the key is called in `sweep`. */
static lh_status axes_list(const char *name, const lh_node *values)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX], shown[LH_SHOWN_MAX];
    LH_CHECK(values->kind == LH_NODE_LIST, LH_ERR_USAGE,
             "%s: key '%s': expected a list of values, got %s", lh_node_place(values, p), name,
             axes_got(values, LH_NODE_LIST, shown));
    LH_CHECK(values->count > 0, LH_ERR_USAGE,
             "%s: key '%s': an empty list; expected at least one value", lh_node_place(values, p),
             name);
done:
    return st;
}

static lh_status axes_seeds(lhi_sweep_axes *axes, const lh_node *sweep, const lh_node *seeds)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX], shown[LH_SHOWN_MAX];
    double count = 0.0;
    if (seeds == NULL) return LH_OK;
    axes->seed = *sweep->key[0]; /* a scalar */
    for (int64_t i = 0; i < sweep->count; i++)
        if (sweep->item[i] == seeds) axes->seed = *sweep->key[i];
    axes->seed.text = axes_seed;
    if (seeds->kind != LH_NODE_SCALAR) {
        LH_TRY(axes_list("sweep.seeds", seeds));
        LH_TRY(axes_add(axes, &axes->seed, seeds, seeds->count));
        goto done;
    }
    LH_CHECK(lh_node_number(seeds, &count) &&
                 strspn(seeds->text, "0123456789") == strlen(seeds->text) && count >= 1.0 &&
                 count <= LH_SWEEP_MAX,
             LH_ERR_USAGE,
             "%s: key 'sweep.seeds': expected a number of seeds from 1 to %d, or a list of seeds, "
             "got %s",
             lh_node_place(seeds, p), LH_SWEEP_MAX, axes_got(seeds, LH_NODE_LIST, shown));
    LH_TRY(axes_add(axes, &axes->seed, NULL, (int64_t)count));
done:
    return st;
}

static lh_status axes_entries(lhi_sweep_axes *axes, const lh_node *list)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX], shown[LH_SHOWN_MAX];
    if (list == NULL) return LH_OK;
    LH_TRY(axes_list("sweep.list", list));
    for (int64_t i = 0; i < list->count; i++) {
        const lh_node *entry = list->item[i];
        LH_CHECK(entry->kind == LH_NODE_MAP && entry->count > 0, LH_ERR_USAGE,
                 "%s: key 'sweep.list': expected a map of keys and values, such as {optimizer.lr: "
                 "0.001}, got %s",
                 lh_node_place(entry, p), axes_got(entry, LH_NODE_MAP, shown));
        for (int64_t k = 0; k < entry->count; k++) LH_TRY(axes_key(axes, entry->key[k], entry));
    }
    LH_TRY(axes_add(axes, NULL, list, list->count));
done:
    return st;
}

static lh_status axes_grid(lhi_sweep_axes *axes, const lh_node *grid)
{
    lh_status st = LH_OK;
    char p[LH_PLACE_MAX], shown[LH_SHOWN_MAX], name[LH_SHOWN_MAX + 16];
    if (grid == NULL) return LH_OK;
    LH_CHECK(grid->kind == LH_NODE_MAP && grid->count > 0, LH_ERR_USAGE,
             "%s: key 'sweep.grid': expected a map from keys to lists of values, such as "
             "{optimizer.lr: [0.001, 0.002]}, got %s",
             lh_node_place(grid, p), axes_got(grid, LH_NODE_MAP, shown));
    for (int64_t k = 0; k < grid->count; k++) {
        const lh_node *key = grid->key[k], *values = grid->item[k];
        LH_TRY(axes_key(axes, key, NULL));
        (void)snprintf(name, sizeof name, "sweep.grid.%s",
                       lh_text_shown(key->text, shown, sizeof shown));
        LH_TRY(axes_list(name, values));
        LH_TRY(axes_add(axes, key, values, values->count));
    }
done:
    return st;
}

lh_status lhi_sweep_axes_read(const lh_node *root, lhi_sweep_axes *axes)
{
    static const char *const known[] = {"grid", "list", "seeds", NULL};
    static const lh_field none[] = {{.name = NULL}};
    lh_status st = LH_OK;
    char unused = 0, p[LH_PLACE_MAX];
    const lh_node *sweep = lh_node_find(root, "sweep");
    lh_fill how = {.map = sweep, .prefix = "sweep", .others = known};
    *axes = (lhi_sweep_axes){.points = 1};
    LH_TRY(lh_settings_fill(&how, none, &unused));
    LH_TRY(axes_seeds(axes, sweep, lh_node_find(sweep, "seeds")));
    LH_TRY(axes_entries(axes, lh_node_find(sweep, "list")));
    LH_TRY(axes_grid(axes, lh_node_find(sweep, "grid")));
    LH_CHECK(axes->count > 0, LH_ERR_USAGE,
             "%s: key 'sweep': nothing varies; expected grid, list or seeds",
             lh_node_place(sweep, p));
done:
    return st;
}

/* One more pair; the map takes the key's node, which has its place. */
static lh_status axes_set(lh_yaml *y, lh_node *map, const lh_node *key, lh_node *value)
{
    lh_status st = LH_OK;
    LH_TRY(lh_yaml_set(y, map, key->text, value));
    *map->key[map->count - 1] = *key;
done:
    return st;
}

lh_status lhi_sweep_values(const lhi_sweep_axes *axes, int64_t index, lh_yaml *y, lh_node **out,
                           int64_t *shift)
{
    lh_status st = LH_OK;
    int64_t stride = axes->points;
    *shift = 0;
    LH_TRY(lh_yaml_map(y, out));
    for (int a = 0; a < axes->count; a++) {
        const lhi_sweep_axis *axis = &axes->axis[a];
        stride /= axis->count;
        int64_t i = index / stride % axis->count;
        if (axis->values == NULL) {
            *shift = i;
            continue;
        }
        lh_node *item = axis->values->item[i];
        if (axis->key != NULL) LH_TRY(axes_set(y, *out, axis->key, item));
        for (int64_t k = 0; axis->key == NULL && k < item->count; k++)
            LH_TRY(axes_set(y, *out, item->key[k], item->item[k]));
    }
done:
    return st;
}
