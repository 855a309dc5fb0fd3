/* One configuration for all ranks. */
#include "experiments/config.h"

#include <string.h>

lh_status lh_config_load_all(lh_comm *comm, const lh_config_source *source, lh_config **out)
{
    lh_status st = LH_OK;
    lh_config *loaded = NULL;
    char *text = NULL;
    int64_t bytes = 0;
    *out = NULL;
    if (lh_comm_rank(comm) == 0) {
        st = lh_config_load(source, &loaded);
        if (st == LH_OK) st = lh_config_emit(loaded, &text);
        if (st == LH_OK) bytes = (int64_t)strlen(text);
    }
    LH_TRY(lh_agree(comm, st));
    lh_broadcast(comm, &bytes, (int64_t)sizeof bytes, LH_SEND_OTHER);
    if (text == NULL) st = lh_new((size_t)bytes + 1, &text);
    LH_TRY(lh_agree(comm, st));
    lh_broadcast(comm, text, bytes, LH_SEND_OTHER);
    LH_TRY(lh_agree(comm, lh_config_parse(text, (size_t)bytes, source->path, source->flags, out)));
done:
    lh_config_destroy(&loaded);
    lh_free(&text);
    return st;
}
