#include "experiments/environment.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#include "io/files.h"
#include "io/metrics.h"

enum { ENVIRONMENT_TEXT = 256, ENVIRONMENT_LISTS = 3 };

/* Of rank 0. */
static void environment_machine(lh_json *j, const lh_session *s)
{
    struct utsname u;
    char text[ENVIRONMENT_TEXT];
    struct tm when;
    time_t now = time(NULL);
    if (gmtime_r(&now, &when) != NULL &&
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &when) > 0)
        lh_json_string(j, "started", text);
    lh_json_string(j, "mpi", lh_mpi_version(text, sizeof text));
    if (uname(&u) == 0) {
        lh_json_string(j, "host", u.nodename);
        (void)snprintf(text, sizeof text, "%.80s %.80s %.80s", u.sysname, u.release, u.machine);
        lh_json_string(j, "system", text);
    }
    if (lh_host_processor(text, sizeof text)[0] != '\0') lh_json_string(j, "processor", text);
    lh_json_int(j, "processors", s->host.online);
    lh_json_int(j, "memory_bytes", s->host.memory);
}

/* list [ENVIRONMENT_LISTS, ranks]. nodes: what the ranks' shares of their nodes add up to. */
static lh_status environment_text(const lh_session *s, const int64_t *list, double nodes,
                                  int64_t from_step, lh_json *j)
{
    static const char *const name[ENVIRONMENT_LISTS] = {"rank_rows", "rank_peak_bytes",
                                                        "rank_parameter_bytes"};
    const char *text = NULL;
    int ranks = lh_comm_size(s->world);
    lh_json_begin(j);
    lh_json_string(j, "version", LH_VERSION);
    lh_json_string(j, "precision", LH_REAL_NAME);
    lh_json_int(j, "from_step", from_step);
    lh_json_string(j, "unit", lh_unit_name(lh_task_unit(s->task)));
    lh_json_int(j, "parameters", lh_params_total(s->params));
    lh_json_int(j, "ranks", ranks);
    lh_json_int(j, "data", s->mesh->size[LH_AXIS_DATA]);
    lh_json_int(j, "sequence", s->mesh->size[LH_AXIS_SEQ]);
    lh_json_int(j, "nodes", (int64_t)(nodes + 0.5));
    lh_json_int(j, "threads", s->device->threads);
    lh_json_string(j, "isa", s->device->kernels->isa);
    environment_machine(j, s);
    for (int i = 0; i < ENVIRONMENT_LISTS; i++)
        lh_json_ints(j, name[i], list + (int64_t)i * ranks, ranks);
    return lh_json_text(j, &text);
}

lh_status lh_environment_write(lh_comm *world, const lh_session *s, const char *folder,
                               int64_t from_step)
{
    lh_status st = LH_OK;
    lh_json json = {0};
    int64_t *list = NULL;
    char path[LH_PATH_MAX];
    int ranks = lh_comm_size(world);
    int rank = lh_comm_rank(world);
    double nodes = 1.0 / s->host.ranks;
    LH_TRY(lhi_path(path, folder, "environment.json"));
    st = lh_new((size_t)(ENVIRONMENT_LISTS * ranks) * sizeof *list, &list);
    LH_TRY(lh_agree(world, st));
    list[rank] = s->rows;
    list[ranks + rank] = lh_session_peak(s);
    list[2 * ranks + rank] = (int64_t)lh_params_bytes(s->params);
    lh_sum_i64(world, list, (int64_t)ENVIRONMENT_LISTS * ranks, LH_SEND_OTHER);
    lh_sum_f64(world, &nodes, 1, LH_SEND_OTHER);
    LH_TRY(lh_agree(world, environment_text(s, list, nodes, from_step, &json)));
    json.text[json.length] = '\n'; /* lh_json_text has made room for its closing NUL */
    LH_TRY(lh_write_small(world, path, json.text, (size_t)json.length + 1));
done:
    lh_json_free(&json);
    lh_free(&list);
    return st;
}
