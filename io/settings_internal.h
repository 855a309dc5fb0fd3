#pragma once
/* Shared by settings_fill.c, settings_value.c and settings_emit.c. */
#include "io/settings_fill.h"

/* Where a value comes from and what it is called, for messages. */
typedef struct lhi_value {
    const lh_field *field;
    const lh_node *node;
    const char *key; /* dotted */
    const char *directory;
} lhi_value;

/* lhi_settings_value - read node into the field's member of `into`. Local.
 * Errors: LH_ERR_USAGE with place, key and expectation; LH_ERR_MEMORY. */
LH_NODISCARD lh_status lhi_settings_value(const lhi_value *v, void *into);

/* lhi_settings_expected - "an integer >= 1", "one of: a, b" into buf; returns buf. Local. */
const char *lhi_settings_expected(const lh_field *field, char *buf, size_t bytes);
