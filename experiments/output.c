#include "experiments/output.h"

#include <string.h>
#include <sys/stat.h>

#include "io/files.h"

lh_status lh_output_check(const lh_output *o, const char *path)
{
    lh_status st = LH_OK;
    struct stat info;
    char *text = NULL;
    size_t count = 0, n = strlen(path);
    const size_t begin = strlen(o->begins), ends = strlen(o->ends);
    LH_CHECK(n > ends && strcmp(path + n - ends, o->ends) == 0, LH_ERR_USAGE,
             "%s: %s makes %s: give a name that ends with %s, not '%s'", o->command, o->option,
             o->what, o->ends, path);
    if (lstat(path, &info) != 0) goto done; /* a new one; what stands against it shows in writing */
    LH_CHECK(S_ISREG(info.st_mode), LH_ERR_USAGE,
             "%s: %s: '%s' is no ordinary file: remove it or choose another name", o->command,
             o->option, path);
    st = lh_read_small(NULL, path, &text, &count);
    LH_TRY(st == LH_ERR_IO ? lh_error_context(LH_ERR_USAGE, "%s: %s", o->command, o->option) : st);
    LH_CHECK(count == 0 || (count >= begin && memcmp(text, o->begins, begin) == 0), LH_ERR_USAGE,
             "%s: %s: '%s' was not made by %s, and is not replaced: remove it or choose another "
             "name",
             o->command, o->option, path, o->command);
done:
    lh_free(&text);
    return st;
}
