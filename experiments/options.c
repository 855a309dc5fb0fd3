#include "experiments/options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "io/settings_fill.h"

enum { OPTIONS_SHOWN = 80 };

/* What stands at argument i: the option's name, alone or with "=VALUE". */
static bool options_match(const char *name, const char *argument, const char **attached)
{
    size_t length = strlen(name);
    if (strncmp(argument, name, length) != 0) return false;
    *attached = argument[length] == '=' ? argument + length + 1 : NULL;
    return argument[length] == '=' || argument[length] == '\0';
}

static lh_status options_unknown(const lh_options *o, const char *argument)
{
    char hint[LH_WORDS_TEXT];
    char wrong[64];
    lh_words words = {.wrong = wrong};
    (void)snprintf(wrong, sizeof wrong, "%.*s", (int)strcspn(argument, "="), argument);
    for (const lh_option *p = o->table; p->name != NULL; p++) lh_words_add(&words, p->name);
    lh_words_add(&words, "--help");
    return LH_RAISE(LH_ERR_USAGE, "%s: unknown option '%s': %s; see %s --help", o->command, wrong,
                    lh_words_hint(&words, "its options are", hint, sizeof hint), o->command);
}

static const char *options_shown(const char *text, char *buf)
{
    (void)snprintf(buf, OPTIONS_SHOWN, "'%.64s'", text);
    return text[0] != '\0' ? buf : "nothing";
}

static lh_status options_int(const lh_options *o, const lh_option *p, const char *text,
                             int64_t *out)
{
    lh_status st = LH_OK;
    char shown[OPTIONS_SHOWN];
    char *end = NULL;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    LH_CHECK(end != text && *end == '\0' && errno == 0 && value >= p->min && value <= p->max,
             LH_ERR_USAGE, "%s: %s: expected an integer from %" PRId64 " to %" PRId64 ", got %s",
             o->command, p->name, p->min, p->max, options_shown(text, shown));
    *out = value;
done:
    return st;
}

static lh_status options_real(const lh_options *o, const lh_option *p, const char *text,
                              double *out)
{
    lh_status st = LH_OK;
    char shown[OPTIONS_SHOWN];
    char *end = NULL;
    double value = strtod(text, &end);
    LH_CHECK(end != text && *end == '\0' && value >= (double)p->min && value <= (double)p->max,
             LH_ERR_USAGE, "%s: %s: expected a number from %" PRId64 " to %" PRId64 ", got %s",
             o->command, p->name, p->min, p->max, options_shown(text, shown));
    *out = value;
done:
    return st;
}

static lh_status options_words(const lh_options *o, const lh_option *p, const char *text,
                               lh_option_words *out)
{
    lh_status st = LH_OK;
    LH_CHECK(out->count < LH_OPTION_MANY, LH_ERR_USAGE, "%s: more than %d %s", o->command,
             LH_OPTION_MANY, p->name);
    out->word[out->count++] = text;
done:
    return st;
}

static lh_status options_value(const lh_options *o, const lh_option *p, const char *text)
{
    void *member = (char *)o->into + p->offset;
    switch (p->kind) {
    case LH_OPTION_INT:
        return options_int(o, p, text, member);
    case LH_OPTION_REAL:
        return options_real(o, p, text, member);
    case LH_OPTION_WORDS:
        return options_words(o, p, text, member);
    default:
        *(const char **)member = text;
        return LH_OK;
    }
}

/* Options that need no value. *used: arguments that were read. */
static lh_status options_bare(const lh_options *o, const lh_option *p, const char *attached,
                              const char *next, int *used)
{
    lh_status st = LH_OK;
    const char *value = attached != NULL ? attached : next;
    bool digit = value != NULL && (strcmp(value, "0") == 0 || strcmp(value, "1") == 0);
    *used = 1;
    if (p->kind == LH_OPTION_FLAG) {
        LH_CHECK(attached == NULL, LH_ERR_USAGE, "%s: %s takes no value, got '%s'", o->command,
                 p->name, attached);
        *(bool *)((char *)o->into + p->offset) = true;
        goto done;
    }
    LH_CHECK(attached == NULL || digit, LH_ERR_USAGE, "%s: %s: expected 0 or 1, got '%s'",
             o->command, p->name, attached);
    *(int64_t *)((char *)o->into + p->offset) = digit ? value[0] - '0' : 1;
    if (digit && attached == NULL) *used = 2; /* else what follows is the next argument */
done:
    return st;
}

static lh_status options_one(lh_options *o, int argc, char **argv, int i, int *used)
{
    lh_status st = LH_OK;
    const char *attached = NULL;
    const char *next = i + 1 < argc ? argv[i + 1] : NULL;
    const lh_option *p = o->table;
    while (p->name != NULL && !options_match(p->name, argv[i], &attached)) p++;
    if (p->name == NULL) return options_unknown(o, argv[i]);
    if (p->kind == LH_OPTION_FLAG || p->kind == LH_OPTION_SWITCH)
        return options_bare(o, p, attached, next, used);
    const char *value = attached != NULL ? attached : next;
    if (value == NULL) value = "";
    LH_CHECK(value[0] != '\0' || p->expected == NULL, LH_ERR_USAGE, "%s: %s wants %s", o->command,
             p->name, p->expected);
    *used = attached != NULL ? 1 : 2;
    LH_TRY(options_value(o, p, value));
done:
    return st;
}

lh_status lh_options_read(lh_options *o, int argc, char **argv)
{
    lh_status st = LH_OK;
    o->n_names = 0;
    for (int i = 0, used = 1; i < argc; i += used) {
        used = 1;
        if (argv[i][0] == '-') {
            LH_TRY(options_one(o, argc, argv, i, &used));
            continue;
        }
        LH_CHECK(o->max_names > 0, LH_ERR_USAGE, "%s: '%s' is no option: see %s --help", o->command,
                 argv[i], o->command);
        LH_CHECK(o->n_names < o->max_names, LH_ERR_USAGE, "'%s' takes %s, but got '%s' and '%s'",
                 o->command, o->max_names == 1 ? "one name" : "no more names",
                 o->name[o->n_names - 1], argv[i]);
        o->name[o->n_names++] = argv[i];
    }
done:
    return st;
}
