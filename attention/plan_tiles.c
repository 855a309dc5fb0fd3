#include "attention/plan.h"

/* Tiles of a query block share its first row, and no other block begins there. A key is in at most one
 * tile of a query block. */
lh_status lh_plan_tiles(const lh_plan *plan, lh_tile_count *out)
{
    lh_status st = LH_OK;
    int64_t *met = NULL; /* [rows]: keys in the tiles of the block that begins there */
    int64_t rows = 0;
    int64_t some = 0; /* blocks that have a tile */
    *out = (lh_tile_count){0};
    lh_tiles_count(plan->tile, plan->n_tiles, out);
    for (int64_t i = 0; i < plan->n_tiles; i++)
        if (plan->tile[i].q_row >= rows) rows = plan->tile[i].q_row + 1;
    LH_TRY(lh_new((size_t)rows * sizeof *met, &met));
    for (int64_t i = 0; i < plan->n_tiles; i++) met[plan->tile[i].q_row] += plan->tile[i].nk;
    for (int64_t i = 0; i < rows; i++) {
        if (met[i] == 0) continue;
        some++;
        out->empty += (plan->faced_keys - met[i] + LH_TILE_K - 1) / LH_TILE_K;
    }
    out->empty += (plan->query_blocks - some) * ((plan->faced_keys + LH_TILE_K - 1) / LH_TILE_K);
done:
    lh_free(&met);
    return st;
}
