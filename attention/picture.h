#pragma once
/* Pictures of attention: queries by keys, as cells of a grid. Pure data; experiments/picture_svg.h
 * makes a file of it.
 *
 * A panel shows one head group of one or more layers. A cell covers a range of query positions by a
 * range of key positions; positions count in global order, so a rank's stretches (one if contiguous,
 * two if zigzag) lie where they belong. cover says how much of the cell is visible, exactly where the
 * pattern is a band or a comb; kinds says how the visible keys come to their queries. Up to as many
 * stretches as cells a side, cells end at the borders of the shards. Where a band is thinner than two
 * cells, or shards are smaller than a cell, a second panel shows the surroundings of one border.
 *
 * A mechanism whose forward records lh_attend is drawn from what it recorded; one that has more to
 * say, or no scores at all, fills lh_attn_ops.draw with calls of lh_picture_add. */
#include "attention/pattern.h"

/* How a key comes to a query; bits of lh_picture_cell.kinds. */
enum {
    LH_KIND_LOCAL = 1,   /* it lies on the query's rank */
    LH_KIND_HALO = 2,    /* its row travels from another rank */
    LH_KIND_GLOBAL = 4,  /* query or key is a global token: its row is sent to all */
    LH_KIND_SUMMARY = 8, /* what travels is a sum over positions */
    LH_KIND_HEADS = 16,  /* it lies in the query's group, whose ranks exchange heads */
    LH_KINDS = 5
};

typedef struct lh_picture_cell {
    uint8_t cover; /* lh_cover */
    uint8_t kinds;
} lh_picture_cell;

/* A stretch of positions on one rank. */
typedef struct lh_picture_strip {
    int64_t begin, end;
    int rank;    /* -1: all ranks hold it */
    bool global; /* a global token */
} lh_picture_strip;

/* One side of a panel: cells between edge[i] and edge[i + 1]. */
typedef struct lh_picture_axis {
    int64_t whole; /* positions, or landmarks, in all; the panel shows edge[0] .. edge[cells] - 1 */
    int cells;
    int64_t *edge; /* [cells + 1] */
    lh_picture_strip *strip;
    int64_t n_strips, strips_capacity;
} lh_picture_axis;

enum { LH_PICTURE_TEXT = 320 };

typedef struct lh_panel {
    char label[LH_PICTURE_TEXT]; /* mechanism and settings */
    char note[LH_PICTURE_TEXT];
    uint64_t digest[2]; /* of pattern and global tokens */
    int *layer;
    int64_t n_layers, layers_capacity;
    int64_t head, n_heads;
    int ways;                    /* of the picture when it was drawn */
    bool zoom;                   /* shows a part of the panel before it */
    bool landmarks;              /* keys are no positions, but rows that all ranks hold */
    lh_picture_axis query, key;  /* cells 0: nothing is drawn, the note says why */
    lh_picture_cell *cell;       /* [query.cells, key.cells] */
    char tiles[LH_PICTURE_TEXT]; /* what the caller wants to say of its tiles */
} lh_panel;

typedef struct lh_picture {
    int side;  /* cells a side, about */
    int layer; /* that lh_picture_add draws, */
    int ways;  /* ranks of its groups that exchange heads (lh_spread); 1: none do */
    char label[LH_PICTURE_TEXT]; /* and its mechanism and settings */
    lh_panel *panel;
    int64_t n_panels, capacity;
} lh_picture;

/* One head group of the layer at hand. */
typedef struct lh_picture_part {
    int64_t head, n_heads;
    const lh_pattern *pattern; /* NULL: nothing can be drawn */
    /* where queries and keys lie; keys that lie everywhere are landmarks */
    const lh_layout *queries, *keys;
    /* how keys of other ranks come: LH_KIND_HALO or LH_KIND_SUMMARY. An exchange that brings them in
     * another way gets a kind of its own */
    int far;
    /* positions that everybody sees and that see everybody; causal: up to the query */
    const int64_t *global;
    int64_t n_global;
    bool causal;
    const char *note; /* one sentence; NULL: none */
} lh_picture_part;

/* lh_picture_create, lh_picture_destroy - an empty picture; the caller destroys it. side: cells a
 * side. Local. Errors: LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_picture_create(int side, lh_picture **out);
void lh_picture_destroy(lh_picture **picture);

/* lh_picture_layer - what is added from now on belongs to this layer. ways: neighbouring ranks that
 * exchange heads in it; parts tell patterns and layouts as if none did, and keys that come from within
 * a group are drawn as such. label: mechanism and settings; layers with equal labels and parts share
 * their panels. Local. */
void lh_picture_layer(lh_picture *p, int layer, int ways, const char *label);

/* lh_picture_add - draw a head group of the layer at hand. Local. Everything is copied. Errors:
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_picture_add(lh_picture *p, const lh_picture_part *part);
