/* Texts as words: what stands between white space, and <eos> at the end of each line. */
#include "experiments/prepare_internal.h"
#include "io/reader.h"

#include <inttypes.h>
#include <string.h>

enum { WORDS_LONGEST = 65535, WORDS_SLOTS = 1 << 12 };

static const char words_end[] = "<eos>", words_unknown[] = "<unk>";

/* --- the vocabulary: a hash table with open addressing over names that lie one after the other --- */

typedef struct words_entry {
    int64_t at; /* in names */
    int64_t length, seen;
} words_entry;

typedef struct words_table {
    char *names; /* one a line, so that it is what the token file holds */
    int64_t bytes, capacity;
    words_entry *entry;
    int64_t count, entries;
    int32_t *slot; /* [slots], a power of two: number + 1, or 0 */
    int64_t slots;
} words_table;

static void words_free(words_table *t)
{
    lh_free(&t->names);
    lh_free(&t->entry);
    lh_free(&t->slot);
}

/* FNV-1a (Fowler, Noll, Vo). */
static uint64_t words_hash(const char *word, int64_t length)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (int64_t i = 0; i < length; i++) h = (h ^ (unsigned char)word[i]) * 0x100000001b3u;
    return h ^ h >> 32;
}

/* The slot that holds the word, or the free one where it belongs. */
static int64_t words_slot(const words_table *t, const char *word, int64_t length)
{
    int64_t i = (int64_t)(words_hash(word, length) & (uint64_t)(t->slots - 1));
    for (; t->slot[i] != 0; i = (i + 1) & (t->slots - 1)) {
        const words_entry *e = &t->entry[t->slot[i] - 1];
        if (e->length == length && memcmp(t->names + e->at, word, (size_t)length) == 0) break;
    }
    return i;
}

/* Its number, or -1. */
static int32_t words_find(const words_table *t, const char *word, int64_t length)
{
    return t->slots == 0 ? -1 : t->slot[words_slot(t, word, length)] - 1;
}

static lh_status words_rehash(words_table *t)
{
    lh_status st = LH_OK;
    int32_t *slot = NULL;
    int64_t slots = t->slots == 0 ? WORDS_SLOTS : 2 * t->slots;
    LH_TRY(lh_new((size_t)slots * sizeof *slot, &slot));
    lh_free(&t->slot);
    t->slot = slot;
    t->slots = slots;
    for (int64_t i = 0; i < t->count; i++)
        t->slot[words_slot(t, t->names + t->entry[i].at, t->entry[i].length)] = (int32_t)(i + 1);
done:
    return st;
}

static lh_status words_add(words_table *t, const char *word, int64_t length, int64_t seen)
{
    lh_status st = LH_OK;
    int32_t known = words_find(t, word, length);
    if (known >= 0) {
        t->entry[known].seen += seen;
        return LH_OK;
    }
    LH_CHECK(t->count < INT32_MAX - 1, LH_ERR_RANGE, "more than %d different words", INT32_MAX - 1);
    if (2 * (t->count + 1) > t->slots) LH_TRY(words_rehash(t));
    LH_TRY(lh_grow(&t->names, &t->capacity, t->bytes + length + 2, 1));
    LH_TRY(lh_grow(&t->entry, &t->entries, t->count + 1, sizeof *t->entry));
    if (t->count > 0) t->names[t->bytes++] = '\n';
    t->entry[t->count] = (words_entry){t->bytes, length, seen};
    memcpy(t->names + t->bytes, word, (size_t)length);
    t->bytes += length;
    t->names[t->bytes] = '\0';
    t->slot[words_slot(t, word, length)] = (int32_t)++t->count;
done:
    return st;
}

/* --- the walk --- */

typedef struct words_walk {
    const char *path;
    words_table *table;
    bool open;           /* words may still be added */
    lh_tokens_writer *w; /* NULL: they are only counted */
    int64_t words, lines;
    int64_t unknown; /* that became <unk> */
} words_walk;

static lh_status words_visit(words_walk *k, const char *word, int64_t length, int64_t line)
{
    lh_status st = LH_OK;
    if (k->open) return words_add(k->table, word, length, 1);
    int32_t number = words_find(k->table, word, length);
    if (number < 0) {
        number = words_find(k->table, words_unknown, sizeof words_unknown - 1);
        k->unknown++;
    }
    LH_CHECK(number >= 0, LH_ERR_FORMAT,
             "%s:%lld: the word '%.*s' is not in the vocabulary, which has no <unk>: make the "
             "training file with --min-count 2, so that rare and unknown words become <unk>",
             k->path, (long long)line, (int)(length < 60 ? length : 60), word);
    if (k->w != NULL) st = lh_tokens_put(k->w, number);
done:
    return st;
}

static bool words_space(int c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static lh_status words_read(words_walk *k)
{
    lh_status st = LH_OK;
    lhi_reader r = {0};
    char word[WORDS_LONGEST];
    int64_t length = 0;
    int c = '\n', last = '\n';
    LH_TRY(lhi_reader_open(k->path, &r));
    while ((c = lhi_reader_next(&r)) >= 0 || last != '\n') {
        int64_t line = r.line - (c == '\n');
        if (c < 0) c = '\n'; /* a last line without an end has one all the same */
        last = c;
        LH_CHECK(c != '\0' && (words_space(c) || length < WORDS_LONGEST), LH_ERR_FORMAT,
                 "%s:%lld: %s: is this a text?", k->path, (long long)line,
                 c == '\0' ? "a zero byte" : "a word of more than 65535 bytes");
        if (!words_space(c)) {
            word[length++] = (char)c;
            continue;
        }
        if (length > 0) LH_TRY(words_visit(k, word, length, line));
        k->words += length > 0;
        length = 0;
        if (c != '\n') continue;
        LH_TRY(words_visit(k, words_end, sizeof words_end - 1, line));
        k->lines++;
    }
    LH_TRY(r.st);
done:
    lhi_reader_close(&r);
    return st;
}

/* Without the words that were seen less often; they become <unk>. */
static lh_status words_prune(words_table *t, int64_t min_count)
{
    lh_status st = LH_OK;
    words_table kept = {0};
    LH_TRY(words_add(&kept, words_end, sizeof words_end - 1, 0));
    LH_TRY(words_add(&kept, words_unknown, sizeof words_unknown - 1, 0));
    for (int64_t i = 0; i < t->count; i++)
        if (t->entry[i].seen >= min_count)
            LH_TRY(
                words_add(&kept, t->names + t->entry[i].at, t->entry[i].length, t->entry[i].seen));
    words_free(t);
    *t = kept;
    kept = (words_table){0};
done:
    words_free(&kept);
    return st;
}

/* The vocabulary of another token file. */
static lh_status words_take(words_table *t, const char *path)
{
    lh_status st = LH_OK;
    char *names = NULL;
    lh_tokens_info info;
    st = lh_tokens_names(path, &names, &info);
    if (st == LH_ERR_IO) st = LH_ERR_USAGE;
    LH_TRY(lh_error_context(st, "--vocab"));
    LH_CHECK(info.kind == LH_TOKENS_WORDS, LH_ERR_USAGE,
             "--vocab '%s' holds %s, not words: give a token file made with --words", path,
             lh_tokens_kind_name(info.kind));
    for (const char *name = names; *name != '\0';) {
        int64_t n = (int64_t)strcspn(name, "\n");
        LH_TRY(words_add(t, name, n, 0));
        name += n + (name[n] == '\n');
    }
done:
    lh_free(&names);
    return st;
}

lh_status lhi_prepare_words(const lhi_prepare *p)
{
    lh_status st = LH_OK;
    words_table table = {0};
    words_walk counted = {.path = p->source, .table = &table, .open = p->vocab == NULL};
    words_walk written = {.path = p->source, .table = &table};
    lh_tokens_info info;
    LH_TRY(lhi_prepare_info(p, &info));
    if (p->vocab != NULL)
        LH_TRY(words_take(&table, p->vocab));
    else
        LH_TRY(words_add(&table, words_end, sizeof words_end - 1, 0));
    LH_TRY(words_read(&counted));
    if (p->min_count > 1) LH_TRY(words_prune(&table, p->min_count));
    info.kind = LH_TOKENS_WORDS;
    info.vocab = table.count;
    info.count = counted.words + counted.lines;
    LH_TRY(lh_tokens_create(p->out, &info, table.names, &written.w));
    LH_TRY(words_read(&written));
done:
    st = lh_tokens_finish(&written.w, NULL, NULL, st);
    if (st == LH_OK) {
        (void)printf("%" PRId64 " tokens: %" PRId64 " words, %" PRId64
                     " lines; vocabulary of %" PRId64,
                     info.count, counted.words, counted.lines, info.vocab);
        if (written.unknown > 0)
            (void)printf("; %" PRId64 " rare or unknown words became <unk>", written.unknown);
        (void)printf("\n");
    }
    words_free(&table);
    return st;
}
