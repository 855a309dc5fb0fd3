#pragma once
/* Shared by the config_*.c files. */
#include "experiments/config.h"
#include "io/settings_fill.h"

/* One section of the file: its fields lie in the lh_config at offset. */
typedef struct lhi_config_section {
    const char *name;
    const lh_field *fields;
    size_t offset;
    const char *help;
} lhi_config_section;

/* lhi_config_sections - the table, closed by name NULL. Local. */
const lhi_config_section *lhi_config_sections(void);

/* lhi_config_elsewhere - the section, or the mechanism, that has a key of this name, as lh_fill wants
 * it. Local. */
const char *lhi_config_elsewhere(const char *key, char *buf, size_t bytes);

/* lhi_config_here - where relative paths start, if the source does not say it: the working directory,
 * whose name goes into folder. Local. Errors: LH_ERR_IO. */
enum { LHI_CONFIG_FOLDER = 4096 };
LH_NODISCARD lh_status lhi_config_here(lh_config_source *source, char folder[LHI_CONFIG_FOLDER]);

/* lhi_config_fill - the configuration that a tree without sweep describes, checked. Local, pure; source has
 * a directory. The caller destroys *out. Errors: as lh_config_load. */
LH_NODISCARD lh_status lhi_config_fill(const lh_node *root, const lh_config_source *source,
                                       lh_config **out);

/* lhi_config_pick - the configuration of source->point of the sweep in root. Local, pure. Errors:
 * LH_ERR_USAGE, also where no point is named or there is no sweep; LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_config_pick(const lh_node *root, const lh_config_source *source,
                                       lh_config **out);

/* lhi_config_share - text, which rank 0 has unless st says why not, as the configuration of all ranks.
 * Collective on comm. name: how messages call the text. Errors: agreed, as lh_config_load. */
LH_NODISCARD lh_status lhi_config_share(lh_comm *comm, lh_status st, const char *text,
                                        const char *name, unsigned flags, lh_config **out);

/* lhi_config_tree - the merged tree of all files and overrides, in y. Local but for source->read.
 * bytes NULL: read source->path; else the text itself [count]. Errors: LH_ERR_USAGE,
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_config_tree(lh_yaml *y, const lh_config_source *source,
                                       const char *bytes, size_t count, lh_node **root);

/* lhi_config_attention - model.attention of every layer; then the sizes that follow from others.
 * Local. layers is set.
 * Errors: LH_ERR_USAGE, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_config_attention(const lh_node *root, const char *directory,
                                            lh_model_desc *model);

/* lhi_config_emit_attention - the inverse: model.attention as a node. Local. Errors:
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_config_emit_attention(lh_yaml *y, const lh_model_desc *model,
                                                 lh_node **out);

/* lhi_config_check - resolve sizes that follow from others and refuse contradictions. Local.
 * Errors: LH_ERR_USAGE naming the place in root. */
LH_NODISCARD lh_status lhi_config_check(const lh_node *root, unsigned flags, lh_config *config);
