/* How runs were set up: who attends to whom, configurations and their differences, machines. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "experiments/config_internal.h"
#include "experiments/plan_draw.h"
#include "experiments/report_internal.h"

enum { SETUP_TEXT = 512, SETUP_PICTURES = 6, SETUP_COLUMNS = 24 };

/* --- attention --- */

/* An image that the page holds itself. */
static void setup_image(lh_html *h, const char *svg)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";
    size_t n = strlen(svg);
    lh_html_put(h, "<img alt=\"Queries by keys, one panel for each kind of layer\" "
                   "src=\"data:image/svg+xml;base64,");
    for (size_t i = 0; i < n; i += 3) {
        size_t left = n - i < 3 ? n - i : 3;
        unsigned bits = 0;
        for (size_t k = 0; k < 3; k++)
            bits = bits << 8 | (k < left ? (unsigned char)svg[i + k] : 0u);
        const char four[4] = {digit[bits >> 18 & 63], digit[bits >> 12 & 63],
                              digit[left > 1 ? bits >> 6 & 63 : 64],
                              digit[left > 2 ? bits & 63 : 64]};
        lh_html_add(h, four, sizeof four);
    }
    lh_html_put(h, "\"/>\n");
}

/* The picture behind its first line, which names the run. */
static const char *setup_body(const char *svg)
{
    const char *end = strstr(svg, "</text>");
    return end != NULL ? end : svg;
}

void lhi_report_attention(lhi_report *r)
{
    char *svg[SETUP_PICTURES] = {NULL};
    int n = 0;
    for (int64_t i = 0; i < r->runs && n < SETUP_PICTURES && r->h.st == LH_OK; i++) {
        lh_report_run *run = &r->run[i];
        bool known = false;
        if (run->plan == NULL) continue;
        if (lh_plan_draw(run->plan_config, run->plan, &svg[n]) != LH_OK) {
            lh_error_clear();
            continue;
        }
        for (int k = 0; k < n && !known; k++)
            known = strcmp(setup_body(svg[k]), setup_body(svg[n])) == 0;
        if (known) {
            lh_free(&svg[n]);
            continue;
        }
        if (n == 0)
            lhi_report_section(r, "attention", "Who attends to whom",
                               "Queries (down) by keys, as the run's configuration and ranks have "
                               "it; runs that look alike share a picture.");
        lh_html_print(&r->h, "<details class=\"picture\"%s><summary><b>#%" PRId64 "</b> ",
                      n == 0 ? " open=\"open\"" : "", i + 1);
        lh_html_text(&r->h, run->label);
        lh_html_put(&r->h, "</summary>");
        setup_image(&r->h, svg[n]);
        lh_html_put(&r->h, "</details>\n");
        n++;
    }
    for (int k = 0; k < SETUP_PICTURES; k++) lh_free(&svg[k]);
}

/* --- configurations --- */

/* A setting of a run for people. layer < 0: the field f of a section at `offset`; else of the mechanism of that
 * layer, "" where the layer has another. */
typedef struct setup_key {
    const lh_field *field; /* NULL: the mechanism's name */
    const lh_attn_ops *ops;
    size_t offset;
    int64_t layer;
    char name[LHI_REPORT_NAME];
} setup_key;

static const char *setup_value(const lh_report_run *run, const setup_key *k, char *text)
{
    text[0] = '\0';
    if (run->config == NULL) return text;
    if (k->layer < 0)
        return lh_field_text(k->field, (const char *)run->config + k->offset, text, SETUP_TEXT);
    if (k->layer >= run->config->model.layers) return text;
    const lh_attn_choice *a = &run->config->model.attention[k->layer];
    if (k->field == NULL)
        (void)snprintf(text, SETUP_TEXT, "%s", a->ops->name);
    else if (a->ops == k->ops)
        (void)lh_field_text(k->field, a->settings, text, SETUP_TEXT);
    return text;
}

/* Has a run another value than the first? */
static bool setup_differs(const lhi_report *r, const setup_key *k)
{
    char first[SETUP_TEXT], other[SETUP_TEXT];
    (void)setup_value(&r->run[0], k, first);
    for (int64_t i = 1; i < r->runs; i++)
        if (strcmp(first, setup_value(&r->run[i], k, other)) != 0) return true;
    return false;
}

/* A row of the table of differences; nothing where there is none. Returns rows written. */
static int setup_row(lhi_report *r, const setup_key *k)
{
    char first[SETUP_TEXT], text[SETUP_TEXT];
    if (!setup_differs(r, k)) return 0;
    lh_html_put(&r->h, "<tr><th scope=\"row\"><code>");
    lh_html_text(&r->h, k->name);
    lh_html_put(&r->h, "</code></th>");
    (void)setup_value(&r->run[0], k, first);
    for (int64_t i = 0; i < r->runs && i < SETUP_COLUMNS; i++) {
        const char *value = setup_value(&r->run[i], k, text);
        lh_html_put(&r->h, strcmp(first, value) != 0 ? "<td class=\"differs\">" : "<td>");
        lh_html_text(&r->h, value[0] != '\0' ? value : "–");
        lh_html_put(&r->h, "</td>");
    }
    lh_html_put(&r->h, "</tr>\n");
    return 1;
}

/* Rows of the layers' mechanisms: one for the name, one for each setting; layers as long as they differ. */
static int setup_layers(lhi_report *r)
{
    int rows = 0;
    int64_t layers = 0;
    for (int64_t i = 0; i < r->runs; i++)
        if (r->run[i].config != NULL && r->run[i].config->model.layers > layers)
            layers = r->run[i].config->model.layers;
    for (int64_t l = 0; l < layers; l++) {
        setup_key k = {.layer = l};
        (void)snprintf(k.name, sizeof k.name, "model.attention.%" PRId64 ".mechanism", l);
        rows += setup_row(r, &k);
        for (int m = 0; m < lh_attn_count(); m++) {
            k.ops = lh_attn_at(m);
            for (k.field = k.ops->settings; k.field->name != NULL; k.field++) {
                (void)snprintf(k.name, sizeof k.name, "model.attention.%" PRId64 ".%s (%s)", l,
                               k.field->name, k.ops->name);
                rows += setup_row(r, &k);
            }
            k.field = NULL;
        }
    }
    return rows;
}

static void setup_differences(lhi_report *r)
{
    int rows = 0;
    lh_html_put(&r->h, "<h3>Keys that differ</h3>\n<div class=\"scroll\"><table "
                       "class=\"keys\">\n<thead><tr><th scope=\"col\">key</th>");
    for (int64_t i = 0; i < r->runs && i < SETUP_COLUMNS; i++)
        lh_html_print(&r->h, "<th scope=\"col\">#%" PRId64 "</th>", i + 1);
    lh_html_put(&r->h, "</tr></thead>\n<tbody>\n");
    for (const lhi_config_section *s = lhi_config_sections(); s->name != NULL; s++)
        for (const lh_field *f = s->fields; f->name != NULL; f++) {
            setup_key k = {.field = f, .offset = s->offset, .layer = -1};
            (void)snprintf(k.name, sizeof k.name, "%s.%s", s->name, f->name);
            if (strcmp(k.name, "run.name") == 0 || strcmp(k.name, "run.output") == 0) continue;
            rows += setup_row(r, &k);
        }
    rows += setup_layers(r);
    if (rows == 0) lh_html_put(&r->h, "<tr><td>none</td></tr>\n");
    lh_html_put(&r->h, "</tbody></table></div>\n");
    if (r->runs > SETUP_COLUMNS)
        lh_html_print(&r->h, "<p class=\"foot\">The first %d runs of %" PRId64 ".</p>\n",
                      (int)SETUP_COLUMNS, r->runs);
}

void lhi_report_configuration(lhi_report *r)
{
    if (r->runs == 0) return;
    lhi_report_section(r, "configuration", "Configuration", NULL);
    if (r->runs > 1) setup_differences(r);
    for (int64_t i = 0; i < r->runs && i < SETUP_COLUMNS; i++) {
        if (r->run[i].yaml == NULL) continue;
        lh_html_print(&r->h, "<details%s><summary><b>#%" PRId64 "</b> ",
                      r->runs == 1 ? " open=\"open\"" : "", i + 1);
        lh_html_text(&r->h, r->run[i].label);
        lh_html_put(&r->h, ": config.yaml</summary><pre class=\"yaml\">");
        lh_html_text(&r->h, r->run[i].yaml);
        lh_html_put(&r->h, "</pre></details>\n");
    }
}

/* --- machines --- */

/* What environment.json has, in this order. */
static const struct setup_fact {
    const char *key, *name;
} setup_facts[] = {{"version", "longhaul"},
                   {"precision", "real"},
                   {"started", "started"},
                   {"from_step", "after step"},
                   {"ranks", "ranks"},
                   {"data", "data x"},
                   {"sequence", "sequence"},
                   {"nodes", "nodes"},
                   {"threads", "threads a rank"},
                   {"isa", "kernels"},
                   {"mpi", "MPI"},
                   {"host", "host of rank 0"},
                   {"processor", "processor"},
                   {"processors", "processors a node"},
                   {"memory_bytes", "memory a node"},
                   {"system", "system"}};

void lhi_report_machines(lhi_report *r)
{
    char text[SETUP_TEXT];
    int64_t some = 0;
    for (int64_t i = 0; i < r->runs; i++) some += r->run[i].environment != NULL;
    if (some == 0) return;
    lhi_report_section(r, "environment", "Environment", "Of each run's last start.");
    lh_html_put(&r->h,
                "<div class=\"scroll\"><table class=\"keys\">\n<thead><tr><th scope=\"col\"></th>");
    for (int64_t i = 0; i < r->runs && i < SETUP_COLUMNS; i++)
        lh_html_print(&r->h, "<th scope=\"col\">#%" PRId64 "</th>", i + 1);
    lh_html_put(&r->h, "</tr></thead>\n<tbody>\n");
    for (size_t f = 0; f < sizeof setup_facts / sizeof setup_facts[0]; f++) {
        lh_html_print(&r->h, "<tr><th scope=\"row\">%s</th>", setup_facts[f].name);
        for (int64_t i = 0; i < r->runs && i < SETUP_COLUMNS; i++) {
            const lh_json_item *item = lh_json_find(r->run[i].environment, setup_facts[f].key);
            if (item == NULL)
                (void)snprintf(text, sizeof text, "–");
            else if (strcmp(setup_facts[f].key, "memory_bytes") == 0)
                (void)lhi_report_bytes(lh_json_item_number(item), text);
            else
                (void)lh_json_show(item, text, sizeof text);
            lh_html_cell(&r->h, text);
        }
        lh_html_put(&r->h, "</tr>\n");
    }
    lh_html_put(&r->h, "</tbody></table></div>\n");
}
