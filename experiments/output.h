#pragma once
/* Files that a command makes and makes anew: a page, a picture. */
#include "core/status.h"

/* What a command makes. */
typedef struct lh_output {
    const char *command, *option; /* for messages: "longhaul report", "--out" */
    const char *what;             /* "an HTML page" */
    const char *ends;             /* of the name: ".html" */
    const char *begins;           /* of every such file */
} lh_output;

/* lh_output_check - may it be written to `path`? It takes the place of its like alone: whoever mistypes a name loses
 * nothing. Local. Errors: LH_ERR_USAGE (another ending; no ordinary file; not made by the command; not
 * readable), LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_output_check(const lh_output *o, const char *path);
