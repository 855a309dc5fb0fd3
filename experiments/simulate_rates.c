#include "experiments/simulate_rates.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/json_read.h"

/* Rows that are moved take the time of the addition of rows: what is measured of memory in every model. */
static const char rates_memory[] = "add";
enum { RATES_MAX = 16 << 20 };

/* 0, "": it is not there. */
static double rates_number(const lh_json_item *object, const char *key)
{
    double value = lh_json_number(object, key);
    return isfinite(value) ? value : 0.0;
}

static const char *rates_word(const lh_json_item *object, const char *key)
{
    const char *word = lh_json_word(object, key);
    return word != NULL ? word : "";
}

static void rates_item(lh_rate_set *s, const lh_json_item *operation)
{
    double seconds = rates_number(operation, "seconds");
    double flops = rates_number(operation, "flops");
    double bytes = rates_number(operation, "bytes");
    const char *direction = rates_word(operation, "direction");
    lh_rate *r = &s->item[s->count];
    *r = (lh_rate){0};
    (void)snprintf(r->name, sizeof r->name, "%s", rates_word(operation, "name"));
    while (r->direction < LH_DIRECTIONS && strcmp(lh_direction_name(r->direction), direction) != 0)
        r->direction++;
    if (r->direction == LH_DIRECTIONS || flops + bytes <= 0.0 || s->count + 1 == LH_PROFILE_ITEMS)
        return;
    if (flops > 0.0)
        r->per_flop = seconds / flops;
    else
        r->per_byte = seconds / bytes;
    s->count++;
}

static lh_status rates_set(const char *path, int64_t line, const lh_json_item *map, lh_rate_set *s)
{
    lh_status st = LH_OK;
    const lh_json_item *operations = lh_json_find(map, "operations");
    (void)snprintf(s->mechanism, sizeof s->mechanism, "%s", rates_word(map, "mechanism"));
    (void)snprintf(s->kind, sizeof s->kind, "%s", rates_word(map, "kind"));
    LH_CHECK(s->mechanism[0] != '\0' && s->kind[0] != '\0' &&
                 lh_json_item_kind(operations) == LH_JSON_LIST && rates_number(map, "ranks") == 1.0,
             LH_ERR_USAGE,
             "%s:%lld: no rates: expected what 'mpirun -n 1 longhaul bench step' prints", path,
             (long long)line);
    for (int64_t i = 0; i < lh_json_count(operations); i++)
        rates_item(s, lh_json_at(operations, i));
    const lh_rate *memory = lh_rate_find(s, rates_memory, LH_DIRECTION_FORWARD);
    LH_CHECK(memory != NULL && memory->per_byte > 0.0, LH_ERR_USAGE,
             "%s:%lld: the rates have no operation '%s', which says how fast memory is", path,
             (long long)line, rates_memory);
    s->memory = memory->per_byte;
done:
    return st;
}

/* Rates of the same model: a further line of it joins the mean of those before. */
static bool rates_join(lh_rates *r, const lh_rate_set *s)
{
    for (int64_t i = 0; i < r->count; i++) {
        lh_rate_set *to = &r->set[i];
        if (strcmp(to->mechanism, s->mechanism) != 0 || strcmp(to->kind, s->kind) != 0) continue;
        const double n = (double)++to->lines;
        for (int k = 0; k < to->count; k++) {
            lh_rate *a = &to->item[k];
            const lh_rate *b = lh_rate_find(s, a->name, a->direction);
            if (b == NULL) continue;
            a->per_flop += (b->per_flop - a->per_flop) / n;
            a->per_byte += (b->per_byte - a->per_byte) / n;
        }
        to->memory += (s->memory - to->memory) / n;
        return true;
    }
    return false;
}

static lh_status rates_line(lh_rates *r, const char *path, int64_t number, const char *line,
                            size_t length)
{
    lh_status st = LH_OK;
    lh_json_item *map = NULL;
    lh_rate_set *s = NULL;
    st = lh_json_read(line, length, &map);
    if (st == LH_ERR_FORMAT) st = LH_ERR_USAGE; /* the file was named by the user */
    LH_TRY(lh_error_context(st, "%s:%lld", path, (long long)number));
    LH_TRY(lh_new(sizeof *s, &s));
    LH_TRY(rates_set(path, number, map, s));
    s->lines = 1;
    if (rates_join(r, s)) goto done;
    LH_TRY(lh_grow(&r->set, &r->capacity, r->count + 1, sizeof *r->set));
    r->set[r->count++] = *s;
done:
    lh_free(&s);
    lh_json_release(&map);
    return st;
}

lh_status lh_rates_read(const char *path, lh_rates *out)
{
    lh_status st = LH_OK;
    char *line = NULL;
    size_t size = 0;
    int64_t number = 0;
    *out = (lh_rates){0};
    FILE *f = fopen(path, "re");
    LH_CHECK(f != NULL, LH_ERR_USAGE,
             "rates '%s' cannot be read: make them by 'mpirun -n 1 longhaul bench step FILE.yaml', "
             "one line for each mechanism",
             path);
    for (ssize_t length = getline(&line, &size, f); length >= 0;
         length = getline(&line, &size, f)) {
        number++;
        LH_CHECK(length < RATES_MAX, LH_ERR_USAGE, "%s:%lld: too long", path, (long long)number);
        if (strspn(line, " \t\r\n") < (size_t)length)
            LH_TRY(rates_line(out, path, number, line, (size_t)length));
    }
    LH_CHECK(out->count > 0, LH_ERR_USAGE, "rates '%s': the file is empty", path);
done:
    free(line); /* getline's */
    if (f != NULL) (void)fclose(f);
    return st;
}

void lh_rates_free(lh_rates *r)
{
    lh_free(&r->set);
    *r = (lh_rates){0};
}

lh_status lh_rates_of(const lh_rates *r, const char *mechanism, const char *kind,
                      const lh_rate_set **out)
{
    *out = NULL;
    for (int64_t i = 0; i < r->count && *out == NULL; i++)
        if (strcmp(r->set[i].mechanism, mechanism) == 0 && strcmp(r->set[i].kind, kind) == 0)
            *out = &r->set[i];
    if (*out != NULL) return LH_OK;
    return LH_RAISE(LH_ERR_USAGE,
                    "the rates have no %s with mechanism %s: add what 'mpirun -n 1 longhaul bench "
                    "step' prints for one",
                    kind, mechanism);
}

const lh_rate *lh_rate_find(const lh_rate_set *s, const char *name, lh_direction direction)
{
    for (int i = 0; i < s->count; i++)
        if (s->item[i].direction == direction && strcmp(s->item[i].name, name) == 0)
            return &s->item[i];
    return direction == LH_DIRECTION_RECOMPUTE ? lh_rate_find(s, name, LH_DIRECTION_FORWARD) : NULL;
}
