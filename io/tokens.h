#pragma once
/* Sequences of tokens on disk, read where they are needed: any file as bytes, FASTA files
 * (io/fasta.h), and token files, which longhaul prepare makes. For measurements also random ones.
 *
 * Layout of a token file (h5dump and h5py read it):
 *
 *     512 bytes before HDF5's own   text: "longhaul tokens 1", size and digest of the rest (io/seal.h)
 *     attributes of /               format_version, program, kind (bytes, words, fasta, listops), vocab (number of tokens), count,
 *                                   examples, longest (of the examples, in tokens), source (name), source_bytes,
 *                                   vocabulary_digest, complete (always 1)
 *     tokens [count]                uint8, uint16 or int32 as the vocabulary needs, in one piece: ranks read their rows by offset
 *     vocabulary                    one string: the tokens' names in the order of their numbers, one a line (not of bytes)
 *     starts [examples + 1]         int64: where each example begins, and where the last one ends (listops)
 *     labels [examples]             int32: the class of each (listops)
 *
 * Written to FILE.tmp, synced, sealed, then renamed. */
#include "parallel/comm.h"

typedef enum lh_tokens_kind {
    LH_TOKENS_BYTES,
    LH_TOKENS_WORDS,   /* 0 is <eos>, the end of a line */
    LH_TOKENS_FASTA,   /* 0 is the end of a record */
    LH_TOKENS_LISTOPS, /* examples */
    LH_TOKENS_KINDS
} lh_tokens_kind;

typedef struct lh_tokens_info {
    int kind; /* lh_tokens_kind */
    int64_t vocab, count;
    int64_t examples, longest; /* 0: it is one sequence */
    int64_t source_bytes;
    uint64_t vocabulary; /* digest of the names */
    char source[256], program[32];
    /* filled by reading */
    int64_t file_bytes;
    int width; /* bytes of a token in the file; 0: FASTA text */
} lh_tokens_info;

typedef struct lh_tokens lh_tokens;

/* lh_tokens_kind_name - "bytes", ... Local. Static. */
const char *lh_tokens_kind_name(int kind);

/* lh_tokens_digest - of a vocabulary's names, as lh_tokens_info holds it. Local. */
uint64_t lh_tokens_digest(const char *names);

/* lh_tokens_open_bytes, lh_tokens_open_fasta, lh_tokens_open - a file whose bytes are the tokens; a FASTA
 * file, as text or as a token file; a token file, whose digest is checked, every rank reading its share.
 * Collective on comm (NULL: one process). The caller closes *out. Errors: agreed LH_ERR_IO (missing, a
 * folder, not readable; not the file that rank 0 sees), LH_ERR_FORMAT (another kind of file, torn, damaged;
 * what to do), LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_tokens_open_bytes(lh_comm *comm, const char *path, lh_tokens **out);
LH_NODISCARD lh_status lh_tokens_open_fasta(lh_comm *comm, const char *path, lh_tokens **out);
LH_NODISCARD lh_status lh_tokens_open(lh_comm *comm, const char *path, lh_tokens **out);

/* lh_tokens_open_random - no file at all: `count` tokens of a vocabulary of `vocab`, uniform and
 * independent, a function of (seed, number). Local. kind: LH_TOKENS_BYTES, ... The caller closes
 * *out. Errors: LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_tokens_open_random(lh_tokens_kind kind, int64_t vocab, int64_t count,
                                             uint64_t seed, lh_tokens **out);

/* lh_tokens_close - accepts NULL content and nulls it. Local. */
void lh_tokens_close(lh_tokens **tokens);

/* lh_tokens_about, lh_tokens_path - borrowed. Local. */
const lh_tokens_info *lh_tokens_about(const lh_tokens *tokens);
const char *lh_tokens_path(const lh_tokens *tokens);

/* lh_tokens_read - out [count] = tokens first .. first + count - 1. Local. Errors, local:
 * LH_ERR_RANGE (beyond the end), LH_ERR_IO, LH_ERR_FORMAT (the file was changed). */
LH_NODISCARD lh_status lh_tokens_read(const lh_tokens *tokens, int64_t first, int64_t count,
                                      int32_t *out);

/* lh_tokens_example - tokens span[0] .. span[1] - 1 are example i, of class *label. Local. Errors,
 * local: as lh_tokens_read. */
LH_NODISCARD lh_status lh_tokens_example(const lh_tokens *tokens, int64_t i, int64_t span[2],
                                         int32_t *label);

/* lh_tokens_is - does the file begin as token files do? Local. */
bool lh_tokens_is(const char *path);

/* lh_tokens_names - the vocabulary of a token file, one name a line. One process. The caller
 * releases *names with lh_free. Errors: LH_ERR_FORMAT (no such file; it has none: bytes), LH_ERR_IO,
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_tokens_names(const char *path, char **names, lh_tokens_info *info);

typedef struct lh_tokens_writer lh_tokens_writer;

/* lh_tokens_create - begin a token file of info->count tokens beside `path`. names: the vocabulary,
 * one a line (NULL: bytes). One process. Ends with lh_tokens_finish. Errors: LH_ERR_IO,
 * LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_tokens_create(const char *path, const lh_tokens_info *info,
                                        const char *names, lh_tokens_writer **out);

/* lh_tokens_put - the next token. Local. Errors: LH_ERR_IO (also: more than were announced,
 * so the source was changed), LH_ERR_BUG (outside the vocabulary). */
LH_NODISCARD lh_status lh_tokens_put(lh_tokens_writer *w, int32_t token);

/* lh_tokens_finish - with st LH_OK: add the examples (starts [examples + 1], labels [examples]; NULL:
 * none), seal the file and give it its name; else, and after an error in here, nothing stays.
 * Accepts NULL content and nulls it. Returns the first error. */
LH_NODISCARD lh_status lh_tokens_finish(lh_tokens_writer **w, const int64_t *starts,
                                        const int32_t *labels, lh_status st);
