#pragma once
/* Shared by the files of the YAML tree. */
#include "io/yaml.h"

/* lhi_yaml_alloc - zeroed memory that lives as long as y. Local. Errors: LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_yaml_alloc(lh_yaml *y, size_t bytes, void *out);

/* lhi_yaml_text - a copy of text [count] with a closing zero, owned by y. Local. Errors:
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_yaml_text(lh_yaml *y, const char *text, size_t count, const char **out);

/* lhi_yaml_node - an empty node of that kind. Local. source: owned by y. Errors: LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_yaml_node(lh_yaml *y, lh_node_kind kind, const char *source, int line,
                                     int column, lh_node **out);

/* lhi_yaml_add - append (key, item) to a map, or item to a list (key NULL). Local. Errors:
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_yaml_add(lh_yaml *y, lh_node *into, lh_node *key, lh_node *item);

/* lhi_yaml_index - where a map has that key; -1: nowhere. Local. */
int64_t lhi_yaml_index(const lh_node *map, const char *key);

/* lhi_yaml_remove - take entry i out of a map or list. Local. */
void lhi_yaml_remove(lh_node *from, int64_t i);

/* lhi_yaml_is_removal - does the node say null or ~ (an omitted value does not count)? Local. */
bool lhi_yaml_is_removal(const lh_node *node);
