/* status of a sweep. */
#include "experiments/sweep_status.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

lh_status lh_sweep_point_state(const char *output, const lh_sweep_point *point, lh_run_state *out)
{
    lh_status st = LH_OK;
    char folder[LH_PATH_MAX], path[LH_PATH_MAX];
    *out = (lh_run_state){.state = "waiting", .age_s = -1.0};
    LH_TRY(lhi_path(folder, output, point->dir));
    LH_TRY(lhi_path(path, folder, "config.yaml"));
    if (lh_file_exists(NULL, path)) LH_TRY(lh_run_state_read(folder, out));
done:
    return st;
}

void lh_sweep_point_json(const lh_sweep_point *point, lh_json *j)
{
    lh_json_int(j, "point", point->number);
    lh_json_string(j, "dir", point->dir);
    lh_json_copy(j, "values", point->values);
    lh_json_int(j, "seed", point->seed);
}

/* A number in its column; a line where it is not known. */
static const char *status_cell(const lh_json_item *line, const char *key, int digits, char cell[32])
{
    double x = lh_json_number(line, key);
    if (isfinite(x))
        (void)snprintf(cell, 32, "%.*f", digits, x);
    else
        (void)snprintf(cell, 32, "-");
    return cell;
}

static lh_status status_row(FILE *out, const char *output, const lh_sweep_point *point)
{
    lh_status st = LH_OK;
    lh_run_state run;
    char text[LH_SWEEP_TEXT], step[32], loss[32], valid[32];
    LH_TRY(lh_sweep_point_state(output, point, &run));
    (void)fprintf(out, "%-6s %-9s %8s %10s %10s  %s\n", point->dir, run.state,
                  status_cell(run.train, "step", 0, step), status_cell(run.train, "loss", 5, loss),
                  status_cell(run.eval, "loss", 5, valid), lh_sweep_text(point, text));
done:
    lh_run_state_free(&run);
    return st;
}

lh_status lh_sweep_table(FILE *out, const char *output, const lh_sweep *sweep)
{
    lh_status st = LH_OK;
    (void)fprintf(out, "%-6s %-9s %8s %10s %10s  %s\n", "point", "state", "step", "loss",
                  "validation", "values");
    for (int64_t i = 0; i < sweep->count; i++) LH_TRY(status_row(out, output, &sweep->point[i]));
done:
    return st;
}

lh_status lh_sweep_read(const char *output, lh_sweep **out)
{
    lh_status st = LH_OK;
    char path[LH_PATH_MAX], *bytes = NULL;
    size_t count = 0;
    *out = NULL;
    LH_TRY(lhi_path(path, output, "sweep.json"));
    LH_TRY(lh_read_small(NULL, path, &bytes, &count));
    LH_TRY(lh_sweep_parse(bytes, count, path, out));
done:
    lh_free(&bytes);
    return st;
}

static lh_status status_json(const char *output, const lh_sweep *sweep)
{
    lh_status st = LH_OK;
    lh_json j = {0};
    int64_t finished = 0;
    lh_run_state run = {0};
    lh_json_begin(&j);
    lh_json_string(&j, "sweep", output);
    lh_json_int(&j, "count", sweep->count);
    lh_json_array(&j, "points");
    for (int64_t i = 0; i < sweep->count; i++) {
        lh_run_state_free(&run);
        LH_TRY(lh_sweep_point_state(output, &sweep->point[i], &run));
        finished += strcmp(run.state, "finished") == 0;
        lh_json_object(&j, NULL);
        lh_sweep_point_json(&sweep->point[i], &j);
        if (run.config != NULL)
            lh_run_state_json(&run, &j);
        else
            lh_json_string(&j, "state", run.state);
        lh_json_close(&j);
    }
    lh_json_close(&j);
    lh_json_int(&j, "finished", finished);
    LH_TRY(lh_json_print(&j, stdout));
done:
    lh_run_state_free(&run);
    lh_json_free(&j);
    return st;
}

lh_status lh_sweep_status(const char *output, bool json)
{
    lh_status st = LH_OK;
    lh_sweep *sweep = NULL;
    LH_TRY(lh_sweep_read(output, &sweep));
    if (json)
        LH_TRY(status_json(output, sweep));
    else
        LH_TRY(lh_sweep_table(stdout, output, sweep));
done:
    lh_sweep_destroy(&sweep);
    return st;
}
