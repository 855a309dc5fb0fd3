#include "experiments/config_internal.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { CONFIG_OTHERS = 16 };

static void *config_member(const lh_config *config, const lhi_config_section *section)
{
    return (char *)(uintptr_t)config + section->offset;
}

const char *lhi_config_elsewhere(const char *key, char *buf, size_t bytes)
{
    buf[0] = '\0';
    for (const lhi_config_section *s = lhi_config_sections(); s->name != NULL; s++) {
        if (lh_field_find(s->fields, key) == NULL) continue;
        (void)snprintf(buf, bytes, "did you mean '%s.%s'?", s->name, key);
        return buf;
    }
    for (int i = 0; i < lh_attn_count(); i++) {
        const lh_attn_ops *ops = lh_attn_at(i);
        if (lh_field_find(ops->settings, key) == NULL) continue;
        (void)snprintf(buf, bytes,
                       "it is a setting of mechanism '%s': model.attention: {mechanism: %s, %s: "
                       "...}",
                       ops->name, ops->name, key);
        break;
    }
    return buf;
}

/* Are there sections that we do not know? */
static lh_status config_known(const lh_node *root)
{
    static const lh_field none[] = {{.name = NULL}};
    const char *others[CONFIG_OTHERS] = {"base", "sweep"};
    int n = 2;
    for (const lhi_config_section *s = lhi_config_sections();
         s->name != NULL && n < CONFIG_OTHERS - 1; s++)
        others[n++] = s->name;
    lh_fill how = {.map = root, .prefix = "", .others = others, .elsewhere = lhi_config_elsewhere};
    char unused = 0;
    return lh_settings_fill(&how, none, &unused);
}

static lh_status config_sections(const lh_node *root, const lh_config_source *source,
                                 lh_config *config)
{
    static const char *const model_others[] = {"attention", NULL};
    lh_status st = LH_OK;
    LH_TRY(config_known(root));
    for (const lhi_config_section *s = lhi_config_sections(); s->name != NULL; s++) {
        lh_fill how = {.map = lh_node_find(root, s->name),
                       .place = root,
                       .prefix = s->name,
                       .directory = source->directory,
                       .elsewhere = lhi_config_elsewhere,
                       .others = s->offset == offsetof(lh_config, model) ? model_others : NULL};
        LH_TRY(lh_settings_fill(&how, s->fields, config_member(config, s)));
    }
    LH_TRY(lhi_config_attention(root, source->directory, &config->model));
    LH_TRY(lhi_config_check(root, source->flags, config));
done:
    return st;
}

lh_status lhi_config_fill(const lh_node *root, const lh_config_source *source, lh_config **out)
{
    lh_status st = LH_OK;
    lh_config *config = NULL;
    LH_TRY(lh_new(sizeof *config, &config));
    LH_TRY(config_sections(root, source, config));
    *out = config;
    config = NULL;
done:
    lh_config_destroy(&config);
    return st;
}

lh_status lhi_config_here(lh_config_source *source, char folder[LHI_CONFIG_FOLDER])
{
    lh_status st = LH_OK;
    if (source->directory != NULL) return LH_OK;
    LH_CHECK(getcwd(folder, LHI_CONFIG_FOLDER) != NULL, LH_ERR_IO,
             "the working directory has no name: %s", strerror(errno));
    source->directory = folder;
done:
    return st;
}

static lh_status config_make(const lh_config_source *source, const char *bytes, size_t count,
                             lh_config **out)
{
    lh_status st = LH_OK;
    lh_yaml *y = NULL;
    lh_node *root = NULL;
    lh_config_source from = *source;
    char folder[LHI_CONFIG_FOLDER];
    *out = NULL;
    LH_TRY(lhi_config_here(&from, folder));
    LH_TRY(lh_yaml_create(&y));
    LH_TRY(lhi_config_tree(y, &from, bytes, count, &root));
    if (from.point != 0 || lh_node_find(root, "sweep") != NULL)
        LH_TRY(lhi_config_pick(root, &from, out));
    else
        LH_TRY(lhi_config_fill(root, &from, out));
done:
    lh_yaml_destroy(&y);
    return st;
}

lh_status lh_config_load(const lh_config_source *source, lh_config **out)
{
    return config_make(source, NULL, 0, out);
}

lh_status lh_config_parse(const char *bytes, size_t count, const char *name, unsigned flags,
                          lh_config **out)
{
    lh_config_source source = {.path = name, .flags = flags};
    return config_make(&source, bytes != NULL ? bytes : "", count, out);
}

void lh_config_destroy(lh_config **config)
{
    lh_config *c = *config;
    if (c == NULL) return;
    for (int i = 0; i < LH_MAX_LAYERS; i++) {
        lh_attn_choice *a = &c->model.attention[i];
        if (a->ops != NULL) lh_settings_free(a->ops->settings, a->settings);
        lh_free(&a->settings);
    }
    for (const lhi_config_section *s = lhi_config_sections(); s->name != NULL; s++)
        lh_settings_free(s->fields, config_member(c, s));
    lh_free(config);
}

lh_status lh_config_emit(const lh_config *config, char **text)
{
    lh_status st = LH_OK;
    lh_yaml *y = NULL;
    lh_node *root = NULL;
    *text = NULL;
    LH_TRY(lh_yaml_create(&y));
    LH_TRY(lh_yaml_map(y, &root));
    for (const lhi_config_section *s = lhi_config_sections(); s->name != NULL; s++) {
        lh_node *map = NULL, *attention = NULL;
        LH_TRY(lh_yaml_map(y, &map));
        LH_TRY(lh_settings_emit(y, s->fields, config_member(config, s), false, map));
        if (s->offset == offsetof(lh_config, model)) {
            LH_TRY(lhi_config_emit_attention(y, &config->model, &attention));
            LH_TRY(lh_yaml_set(y, map, "attention", attention));
        }
        LH_TRY(lh_yaml_set(y, root, s->name, map));
    }
    LH_TRY(lh_yaml_emit(root, text));
done:
    lh_yaml_destroy(&y);
    return st;
}

void lh_config_help(FILE *out)
{
    (void)fprintf(
        out,
        "The experiment file (key, default, meaning); --set section.key=value overrides it.\n\n"
        "  %-18s %-13s %s\n",
        "base:", "none", "a file to inherit from, relative to this one");
    (void)fprintf(
        out,
        "  %-18s %-13s {grid: {KEY: [values]}, list: [{KEY: value, ...}, ...], seeds: 3 or "
        "[7, 8, 9]}:\n"
        "  %-32s one run for each combination; keys are dotted, optimizer.lr\n",
        "sweep:", "none", "");
    for (const lhi_config_section *s = lhi_config_sections(); s->name != NULL; s++) {
        (void)fprintf(out, "  %s:%*s %s\n", s->name, 31 - (int)strlen(s->name), "", s->help);
        lh_settings_help(out, s->fields, 4);
        if (s->offset == offsetof(lh_config, model))
            (void)fprintf(out,
                          "    %-16s %-13s {mechanism: NAME, settings...}, or a list of them with "
                          "one per layer\n",
                          "attention", "required");
    }
    (void)fprintf(out, "\nMechanisms of model.attention and their settings:\n\n");
    for (int i = 0; i < lh_attn_count(); i++) {
        const lh_attn_ops *ops = lh_attn_at(i);
        (void)fprintf(out, "  %-32s %s\n", ops->name, ops->help != NULL ? ops->help : "");
        lh_settings_help(out, ops->settings, 4);
    }
}

const char *lh_config_isa(const lh_config *config)
{
    static const char *const names[] = {[LH_ISA_AUTO] = "auto",
                                        [LH_ISA_AVX512] = "avx512",
                                        [LH_ISA_AVX512_BF16] = "avx512_bf16",
                                        [LH_ISA_AVX2] = "avx2",
                                        [LH_ISA_PORTABLE] = "portable"};
    int n = (int)(sizeof names / sizeof names[0]);
    return config->device.isa >= 0 && config->device.isa < n ? names[config->device.isa] : "auto";
}

lh_dtype lh_config_store(const lh_config *config)
{
    return config->device.store == LH_STORE_BFLOAT16 ? LH_BF16 : LH_REAL;
}

const char *lh_config_store_name(const lh_config *config)
{
    return lh_config_store(config) == LH_BF16 ? "bfloat16" : "real";
}
