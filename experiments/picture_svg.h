#pragma once
/* A picture of attention as SVG.
 *
 * Each panel is a group <g class="panel"> with data-layers, data-head, data-heads, data-zoom, and the
 * edges of its cells in data-q-edges and data-k-edges. Cells that are not EMPTY are rectangles with
 * data-q0, data-q1, data-k0, data-k1 (positions q0 .. q1 - 1), data-cover (MIXED, FULL) and data-kind
 * (local, halo, global, summary, all-to-all; joined by + where a cell has several); neighbours that are alike
 * share one. */
#include "attention/picture.h"

/* lh_picture_svg - text: zero-terminated, the caller releases it with lh_free. head [n_head]: lines
 * above the picture, the first one its title. Local, pure. Errors: LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_picture_svg(const lh_picture *p, const char *const *head, int n_head,
                                      char **text);

/* lh_picture_layers - "0-5, 7" of ascending layers into buf; returns buf. Local. */
const char *lh_picture_layers(const int *layer, int64_t n, char *buf, size_t bytes);

/* What every picture begins with. */
#define LH_PICTURE_BEGIN "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!-- longhaul plan -->\n"
