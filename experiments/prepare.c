#include "experiments/prepare_internal.h"

#include "experiments/options.h"
#include "io/fasta.h"
#include "io/files.h"
#include "io/settings_fill.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

void lh_prepare_help(FILE *out)
{
    (void)fprintf(
        out,
        "longhaul prepare FILE --out DATA.h5 [options]\n\n"
        "Makes a token file, which data.path of an experiment names. Runs alone.\n\n"
        "  --out DATA.h5     the file to make\n"
        "  --words           words instead of bytes: what stands between white space, and one\n"
        "                    <eos> (token 0) at the end of each line\n"
        "  --vocab TRAIN.h5  with --words: the vocabulary of that token file, so that validation\n"
        "                    and test number their words as training does. A word that is not in\n"
        "                    it is <unk> if the vocabulary has that, else an error\n"
        "  --min-count N     with --words: rarer words become <unk>\n"
        "  --task text       a text (the default)\n"
        "  --task fasta      records of residues: letters, '*', '-'; token 0 ends a record\n"
        "  --task listops    lines LABEL<tab>EXPRESSION (or the other way round), with or without\n"
        "                    the parentheses of a binary tree and a header line; every expression\n"
        "                    is evaluated: prints \"N examples, M labels disagree\"\n"
        "  --force           replace DATA.h5 if it exists\n\n"
        "Train from it with data.task tokens (next token), masked_tokens, fasta or listops;\n"
        "data.valid_path and data.test_path are token files too, or leave the last\n"
        "data.valid_fraction of data.path for validation. longhaul inspect lists a token file.\n");
}

static const lh_option prepare_options[] = {
    {.name = "--out",
     .kind = LH_OPTION_WORD,
     .offset = offsetof(lhi_prepare, out),
     .expected = "the token file to make, such as --out data.h5"},
    {.name = "--task",
     .kind = LH_OPTION_WORD,
     .offset = offsetof(lhi_prepare, task),
     .expected = "text, fasta or listops"},
    {.name = "--vocab",
     .kind = LH_OPTION_WORD,
     .offset = offsetof(lhi_prepare, vocab),
     .expected = "a token file made with --words"},
    {.name = "--words", .kind = LH_OPTION_FLAG, .offset = offsetof(lhi_prepare, words)},
    {.name = "--min-count",
     .kind = LH_OPTION_INT,
     .offset = offsetof(lhi_prepare, min_count),
     .min = 1,
     .max = INT32_MAX},
    {.name = "--force", .kind = LH_OPTION_FLAG, .offset = offsetof(lhi_prepare, force)},
    {.name = NULL}};

lh_status lhi_prepare_info(const lhi_prepare *p, lh_tokens_info *info)
{
    lh_bytes *file = NULL;
    *info = (lh_tokens_info){.program = LH_VERSION};
    lh_status st = lh_bytes_open(NULL, p->source, &file);
    if (st == LH_ERR_IO) st = LH_ERR_USAGE; /* its name is the mistake */
    LH_TRY(st);
    info->source_bytes = lh_bytes_size(file);
    const char *name = strrchr(p->source, '/');
    (void)snprintf(info->source, sizeof info->source, "%s", name != NULL ? name + 1 : p->source);
    LH_CHECK(info->source_bytes > 0, LH_ERR_USAGE, "'%s' is empty: there is nothing to prepare",
             p->source);
done:
    lh_bytes_close(&file);
    return st;
}

/* --- what the words of the command mean --- */

static lh_status prepare_check_out(const lhi_prepare *p)
{
    lh_status st = LH_OK;
    struct stat out, source;
    char folder[LH_PATH_MAX];
    (void)snprintf(folder, sizeof folder, "%s", p->out);
    char *slash = strrchr(folder, '/');
    if (slash != NULL) slash[slash == folder] = '\0';
    LH_CHECK(slash == NULL || lh_file_exists(NULL, folder), LH_ERR_USAGE,
             "--out '%s': there is no folder '%s'; make it first", p->out, folder);
    if (stat(p->out, &out) != 0) goto done;
    LH_CHECK(!S_ISDIR(out.st_mode), LH_ERR_USAGE, "--out '%s' is a folder; name a file in it",
             p->out);
    LH_CHECK(S_ISREG(out.st_mode), LH_ERR_USAGE,
             "--out '%s' is a pipe, socket or device; name a file", p->out);
    LH_CHECK(stat(p->source, &source) != 0 || out.st_dev != source.st_dev ||
                 out.st_ino != source.st_ino,
             LH_ERR_USAGE, "--out '%s' is the file to be read: name another", p->out);
    LH_CHECK(p->force, LH_ERR_USAGE,
             "--out '%s' exists: give --force to replace it, or another name", p->out);
done:
    return st;
}

static lh_status prepare_check(const lhi_prepare *p)
{
    lh_status st = LH_OK;
    lh_words words = {.wrong = p->task};
    char hint[LH_WORDS_TEXT];
    lh_words_add(&words, "text|fasta|listops");
    bool text = strcmp(p->task, "text") == 0;
    LH_CHECK(p->source != NULL, LH_ERR_USAGE,
             "'longhaul prepare' wants a file to read: longhaul prepare FILE --out DATA.h5");
    LH_CHECK(text || strcmp(p->task, "fasta") == 0 || strcmp(p->task, "listops") == 0, LH_ERR_USAGE,
             "--task '%s' is unknown: %s; see longhaul prepare --help", p->task,
             lh_words_hint(&words, "tasks", hint, sizeof hint));
    LH_CHECK(p->out != NULL, LH_ERR_USAGE,
             "'longhaul prepare' wants --out DATA.h5, the token file to make");
    LH_CHECK(text || !p->words, LH_ERR_USAGE,
             "--words is of texts, and --task is %s: leave one of them out", p->task);
    LH_CHECK(p->words || (p->vocab == NULL && p->min_count == 1), LH_ERR_USAGE,
             "%s has a meaning with --words only", p->vocab != NULL ? "--vocab" : "--min-count");
    LH_CHECK(p->vocab == NULL || p->min_count == 1, LH_ERR_USAGE,
             "--vocab names the words, so --min-count has none to leave out: give one of them");
    LH_TRY(prepare_check_out(p));
done:
    return st;
}

/* --- bytes and residues --- */

static lh_status prepare_bytes(const lhi_prepare *p)
{
    enum { BLOCK = 1 << 16 };
    lh_status st = LH_OK;
    lh_tokens_info info;
    lh_tokens_writer *w = NULL;
    lh_tokens *text = NULL;
    int32_t block[BLOCK];
    LH_TRY(lhi_prepare_info(p, &info));
    LH_TRY(lh_tokens_open_bytes(NULL, p->source, &text));
    info.kind = LH_TOKENS_BYTES;
    info.vocab = lh_tokens_about(text)->vocab;
    info.count = lh_tokens_about(text)->count;
    LH_TRY(lh_tokens_create(p->out, &info, NULL, &w));
    for (int64_t i = 0; i < info.count; i += BLOCK) {
        int64_t n = info.count - i < BLOCK ? info.count - i : BLOCK;
        LH_TRY(lh_tokens_read(text, i, n, block));
        for (int64_t k = 0; k < n; k++) LH_TRY(lh_tokens_put(w, block[k]));
    }
done:
    st = lh_tokens_finish(&w, NULL, NULL, st);
    lh_tokens_close(&text);
    if (st == LH_OK) (void)printf("%" PRId64 " tokens: bytes\n", info.count);
    return st;
}

typedef struct prepare_records {
    int64_t tokens, records;
    lh_tokens_writer *w; /* NULL: they are only counted */
} prepare_records;

static lh_status prepare_residue(void *user, int32_t token, int64_t offset, int64_t line)
{
    prepare_records *r = user;
    (void)offset, (void)line;
    r->tokens++;
    r->records += token == LH_FASTA_END;
    return r->w != NULL ? lh_tokens_put(r->w, token) : LH_OK;
}

static lh_status prepare_fasta(const lhi_prepare *p)
{
    lh_status st = LH_OK;
    lh_tokens_info info;
    prepare_records counted = {0}, written = {0};
    LH_TRY(lhi_prepare_info(p, &info));
    LH_TRY(lhi_fasta_walk(p->source, prepare_residue, &counted));
    info.kind = LH_TOKENS_FASTA;
    info.vocab = LH_FASTA_VOCAB;
    info.count = counted.tokens;
    LH_TRY(lh_tokens_create(p->out, &info, LH_FASTA_NAMES, &written.w));
    LH_TRY(lhi_fasta_walk(p->source, prepare_residue, &written));
done:
    st = lh_tokens_finish(&written.w, NULL, NULL, st);
    if (st == LH_OK)
        (void)printf("%" PRId64 " tokens: %" PRId64 " records, %" PRId64 " residues\n",
                     counted.tokens, counted.records, counted.tokens - counted.records);
    return st;
}

lh_status lh_prepare_main(lh_comm *none, int argc, char **argv)
{
    lh_status st = LH_OK;
    lhi_prepare p = {.task = "text", .min_count = 1};
    lh_options options = {.command = "longhaul prepare",
                          .table = prepare_options,
                          .into = &p,
                          .name = &p.source,
                          .max_names = 1};
    (void)none;
    LH_TRY(lh_options_read(&options, argc, argv));
    LH_TRY(prepare_check(&p));
    if (strcmp(p.task, "fasta") == 0)
        st = prepare_fasta(&p);
    else if (strcmp(p.task, "listops") == 0)
        st = lhi_prepare_listops(&p);
    else
        st = p.words ? lhi_prepare_words(&p) : prepare_bytes(&p);
    if (st == LH_ERR_FORMAT) st = LH_ERR_USAGE; /* the source is what the user gave */
    LH_TRY(st);
    (void)fprintf(stderr, "wrote %s\n", p.out);
done:
    return st;
}
