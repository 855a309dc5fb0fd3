/* One configuration for all ranks. */
#include "experiments/config_internal.h"

#include <string.h>

lh_status lhi_config_share(lh_comm *comm, lh_status st, const char *text, const char *name,
                           unsigned flags, lh_config **out)
{
    char *copy = NULL;
    int64_t bytes = st == LH_OK && text != NULL ? (int64_t)strlen(text) : 0;
    *out = NULL;
    LH_TRY(lh_agree(comm, st));
    lh_broadcast(comm, &bytes, (int64_t)sizeof bytes, LH_SEND_OTHER);
    LH_TRY(lh_agree(comm, lh_new((size_t)bytes + 1, &copy)));
    if (bytes > 0 && text != NULL) memcpy(copy, text, (size_t)bytes);
    lh_broadcast(comm, copy, bytes, LH_SEND_OTHER);
    LH_TRY(lh_agree(comm, lh_config_parse(copy, (size_t)bytes, name, flags, out)));
done:
    lh_free(&copy);
    return st;
}

lh_status lh_config_load_all(lh_comm *comm, const lh_config_source *source, lh_config **out)
{
    lh_status st = LH_OK;
    lh_config *loaded = NULL;
    char *text = NULL;
    if (lh_comm_rank(comm) == 0) {
        st = lh_config_load(source, &loaded);
        if (st == LH_OK) st = lh_config_emit(loaded, &text);
    }
    st = lhi_config_share(comm, st, text, source->path, source->flags, out);
    lh_config_destroy(&loaded);
    lh_free(&text);
    return st;
}
