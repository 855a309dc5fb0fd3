#include "tests/lh_random_internal.h"

#include "core/random.h"
#include "io/files.h"
#include "io/tokens.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RANDOM_WORDS = 7, RANDOM_TOKENS = 700, RANDOM_TEXT = 1500, RANDOM_PATH = 256 };

int64_t lhi_random_below(lh_random *r, int64_t n)
{
    uint64_t stream = lh_stream_id(LH_STREAM_TEST, (uint32_t)(r->number * 8 + r->ranks));
    int64_t x = (int64_t)lh_random_u32(r->seed, stream, r->drawn++);
    return n > 1 ? x % n : 0;
}

int64_t lhi_random_between(lh_random *r, int64_t low, int64_t high)
{
    return high > low ? low + lhi_random_below(r, high - low + 1) : low;
}

bool lhi_random_often(lh_random *r, int64_t n)
{
    return lhi_random_below(r, n) == 0;
}

static bool item_is(const lh_random_item *i, lhi_random_key key)
{
    return i->layer == key.layer && strcmp(i->section, key.section) == 0 &&
           strcmp(i->key, key.name) == 0;
}

void lhi_random_add(lh_random *r, lhi_random_key key, const char *value)
{
    if (r->count == LH_RANDOM_ITEMS) return; /* the rest keeps its defaults */
    lh_random_item *i = &r->item[r->count++];
    *i = (lh_random_item){.layer = key.layer, .section = key.section};
    (void)snprintf(i->key, sizeof i->key, "%s", key.name);
    (void)snprintf(i->value, sizeof i->value, "%s", value);
}

void lhi_random_drop(lh_random *r, lhi_random_key key)
{
    int kept = 0;
    for (int i = 0; i < r->count; i++)
        if (!item_is(&r->item[i], key)) r->item[kept++] = r->item[i];
    r->count = kept;
}

void lhi_random_set(lh_random *r, lhi_random_key key, const char *format, ...)
{
    char value[LH_RANDOM_VALUE];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(value, sizeof value, format, args);
    va_end(args);
    lhi_random_drop(r, key);
    lhi_random_add(r, key, value);
}

const char *lhi_random_get(const lh_random *r, lhi_random_key key)
{
    for (int i = 0; i < r->count; i++)
        if (item_is(&r->item[i], key)) return r->item[i].value;
    return NULL;
}

int64_t lhi_random_number(const lh_random *r, lhi_random_key key, int64_t otherwise)
{
    const char *value = lhi_random_get(r, key);
    char *end = NULL;
    if (value == NULL) return otherwise;
    int64_t n = strtoll(value, &end, 10);
    return end != value && *end == '\0' ? n : otherwise;
}

void lhi_random_mechanism(lh_random *r, int layer, const char *name)
{
    int kept = 0;
    for (int i = 0; i < r->count; i++)
        if (r->item[i].layer != layer) r->item[kept++] = r->item[i];
    r->count = kept;
    lhi_random_add(r, LHI_SETTING(layer, "mechanism"), name);
}

int lhi_random_maps(const lh_random *r)
{
    return r->maps > 0 ? r->maps : 1;
}

const lh_attn_ops *lhi_random_ops(const lh_random *r, int map)
{
    const char *name = lhi_random_get(r, LHI_SETTING(map, "mechanism"));
    return name != NULL ? lh_attn_find(name) : NULL;
}

int lhi_random_fields(const lh_random *r, lhi_random_field list[LHI_RANDOM_FIELDS])
{
    int n = 0;
    for (const lhi_config_section *s = lhi_config_sections(); s->name != NULL; s++)
        for (const lh_field *f = s->fields; f->name != NULL && n < LHI_RANDOM_FIELDS; f++)
            list[n++] = (lhi_random_field){LHI_KEY(s->name, f->name), f};
    for (int map = 0; map < lhi_random_maps(r); map++) {
        const lh_attn_ops *ops = lhi_random_ops(r, map);
        for (const lh_field *f = ops->settings; f->name != NULL && n < LHI_RANDOM_FIELDS; f++)
            list[n++] = (lhi_random_field){LHI_SETTING(map, f->name), f};
    }
    return n;
}

lhi_random_field lhi_random_any(lh_random *r)
{
    lhi_random_field list[LHI_RANDOM_FIELDS];
    return list[lhi_random_below(r, lhi_random_fields(r, list))];
}

const char *lh_random_name(lh_random_kind kind)
{
    static const char *const names[] = {"valid", "broken", "wild"};
    return names[kind];
}

void lh_random_draw(uint64_t seed, int64_t number, int ranks, const char *stem, lh_random *out)
{
    *out = (lh_random){.seed = seed, .number = number, .ranks = ranks, .stem = stem};
    out->kind = LH_RANDOM_VALID; /* half of them */
    if (lhi_random_often(out, 2))
        out->kind = (lh_random_kind)lhi_random_between(out, LH_RANDOM_BROKEN, LH_RANDOM_WILD);
    lhi_random_valid(out);
    if (out->kind == LH_RANDOM_BROKEN) lhi_random_break(out);
    if (out->kind == LH_RANDOM_WILD) lhi_random_loosen(out);
}

/* --- the file --- */

typedef struct random_out {
    char *text;
    size_t used;
} random_out;

static void out_put(random_out *o, const char *format, ...) LH_PRINTF(2, 3);
static void out_put(random_out *o, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(o->text + o->used, LH_RANDOM_BYTES - o->used, format, args);
    va_end(args);
    if (n > 0 && o->used + (size_t)n < LH_RANDOM_BYTES) o->used += (size_t)n;
}

/* The items of a section, or of a layer, as the inside of a map. Returns how many. */
static int out_items(random_out *o, const lh_random *r, int layer, const char *section)
{
    int n = 0;
    for (int i = 0; i < r->count; i++) {
        const lh_random_item *item = &r->item[i];
        if (item->layer != layer || strcmp(item->section, section) != 0) continue;
        out_put(o, "%s%s: %s", n > 0 ? ", " : "", item->key, item->value);
        n++;
    }
    return n;
}

static void out_attention(random_out *o, const lh_random *r)
{
    bool any = false;
    for (int i = 0; i < r->count; i++) any = any || strcmp(r->item[i].section, "attention") == 0;
    if (!any) return;
    out_put(o, ",\n  attention: %s", r->maps > 0 ? "[" : "");
    for (int i = 0; i < lhi_random_maps(r); i++) {
        out_put(o, "%s{", i > 0 ? ", " : "");
        (void)out_items(o, r, i, "attention");
        out_put(o, "}");
    }
    out_put(o, "%s", r->maps > 0 ? "]" : "");
}

void lh_random_text(const lh_random *r, char text[LH_RANDOM_BYTES])
{
    random_out o = {.text = text};
    text[0] = '\0';
    out_put(&o, "# seed %llu, number %lld, %d ranks: %s%s%s\n", (unsigned long long)r->seed,
            (long long)r->number, r->ranks, lh_random_name(r->kind), r->rule != NULL ? ": " : "",
            r->rule != NULL ? r->rule : "");
    for (const lhi_config_section *s = lhi_config_sections(); s->name != NULL; s++) {
        if (r->flat != NULL && strcmp(s->name, r->flat) == 0) {
            out_put(&o, "%s: 3\n", s->name);
            continue;
        }
        out_put(&o, "%s: {", s->name);
        (void)out_items(&o, r, -1, s->name);
        if (strcmp(s->name, "model") == 0) out_attention(&o, r);
        out_put(&o, "}\n");
    }
    for (int i = 0; i < r->count; i++) /* sections that nobody knows */
        if (strcmp(r->item[i].section, "unknown") == 0)
            out_put(&o, "%s: %s\n", r->item[i].key, r->item[i].value);
}

/* --- data files --- */

static lh_status files_tokens(const char *path)
{
    lh_status st = LH_OK;
    lh_tokens_writer *w = NULL;
    const lh_tokens_info info = {.kind = LH_TOKENS_WORDS,
                                 .vocab = RANDOM_WORDS,
                                 .count = RANDOM_TOKENS,
                                 .source = "random",
                                 .program = "test"};
    LH_TRY(lh_tokens_create(path, &info, "<eos>\na\nb\nc\nd\ne\nf", &w));
    for (int i = 0; i < RANDOM_TOKENS; i++)
        LH_TRY(lh_tokens_put(w, (i * i + i / 7) % RANDOM_WORDS));
done:
    return lh_tokens_finish(&w, NULL, NULL, st);
}

lh_status lh_random_files(const char *stem)
{
    lh_status st = LH_OK;
    char path[RANDOM_PATH], text[RANDOM_TEXT];
    static const char residues[] =
        ">one\nACDEFGHIKL\nMNPQRST\n>two\nAC\n>three\nGGGGGGGGGG\nAAAAAAAAAA\n"
        "TTTTTTTTTT\nCCCCCCCCCC\nGATTACAGAT\nACA\n>four\nM\n";
    for (int i = 0; i < RANDOM_TEXT; i++)
        text[i] = (char)(i % 37 == 5 || i % 91 == 90 ? '\n' : 'a' + (i * i + i / 11) % 23);
    (void)snprintf(path, sizeof path, "%s.txt", stem);
    LH_TRY(lh_write_small(NULL, path, text, sizeof text));
    (void)snprintf(path, sizeof path, "%s.fasta", stem);
    LH_TRY(lh_write_small(NULL, path, residues, sizeof residues - 1));
    (void)snprintf(path, sizeof path, "%s.h5", stem);
    LH_TRY(files_tokens(path));
done:
    return st;
}

/* --- size --- */

/* Settings of mechanisms that tables and summaries grow with. */
static double affordable_settings(const lh_config *c)
{
    double most = 1.0;
    for (int l = 0; l < (int)c->model.layers; l++) {
        const lh_attn_choice *a = &c->model.attention[l];
        for (const lh_field *f = a->ops->settings; f->name != NULL; f++) {
            const void *at = (const char *)a->settings + f->offset;
            const lh_int_list *list = at;
            if (strcmp(f->name, "features") != 0 && strcmp(f->name, "k") != 0) continue;
            if (f->type == LH_FIELD_INT && (double)*(const int64_t *)at > most)
                most = (double)*(const int64_t *)at;
            for (int i = 0; f->type == LH_FIELD_INTS && i < list->count; i++)
                if ((double)list->item[i] > most) most = (double)list->item[i];
        }
    }
    return most;
}

bool lh_random_affordable(const lh_config *c)
{
    const lh_model_desc *m = &c->model;
    double vocab = m->vocab != LH_AUTO ? (double)m->vocab : 2.0 * (double)c->data.vocab + 300.0;
    double inner = (double)m->heads * (double)m->head_width;
    double tables =
        vocab + (double)m->max_length + (double)m->token_types + (double)m->position_offset;
    double weights = (double)m->layers * (4.0 * inner + 3.0 * (double)m->mlp_width) + tables +
                     (m->classes != LH_AUTO ? (double)m->classes : 0.0);
    double positions = (double)c->data.batch * (double)c->data.length;
    double scores = positions * (double)c->data.length * inner * (double)m->layers;
    double settings = affordable_settings(c);
    double threads = c->device.threads != LH_AUTO ? (double)c->device.threads : 1.0;
    double samples = (double)c->data.valid_windows + (double)c->train.accumulate;
    return weights * (double)m->width < 1e6 && positions * weights * (double)m->width < 3e8 &&
           scores < 1e8 && settings * (inner + (double)m->max_length) < 1e6 &&
           settings * positions * inner < 1e8 && threads <= 4 && samples <= 64 &&
           (double)m->heads * (double)m->layers < 1e3;
}
