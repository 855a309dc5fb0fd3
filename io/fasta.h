#pragma once
/* FASTA files: records of a header line that begins with '>' and lines of residues.
 *
 * Tokens: 0 ends a record; 1 .. 26 are the letters A .. Z (those of the IUPAC codes for amino acids,
 * among them the ones for nucleotides), in upper or lower case; 27 is '*' (stop), 28 '-' (gap).
 * Headers are no tokens, nor are lines that begin with ';' (comments), empty lines and ends of
 * lines (LF or CR LF). A record of n residues is n + 1 tokens.
 *
 * To find a residue without reading what comes before it, the records are indexed as `samtools
 * faidx` does: where the first residue lies, how many a line holds, how long a line is. So all lines
 * of a record but its last must be equally long; other files are converted (longhaul prepare). */
#include "io/bytes.h"

enum { LH_FASTA_END = 0, LH_FASTA_VOCAB = 29 };

/* The tokens' names in the order of their numbers, one a line. */
#define LH_FASTA_NAMES                                                                             \
    "<end>\nA\nB\nC\nD\nE\nF\nG\nH\nI\nJ\nK\nL\nM\nN\nO\nP\nQ\nR\nS\nT\nU\nV\nW\nX\nY\nZ\n*\n-"

/* What the walk meets: a residue at `offset` of the file, or LH_FASTA_END behind a record, whose
 * offset has no meaning. Another status than LH_OK ends the walk. */
typedef lh_status (*lhi_fasta_visit)(void *user, int32_t token, int64_t offset, int64_t line);

/* lhi_fasta_walk - visit all tokens in order. Local. Errors: LH_ERR_FORMAT "file:line: ..." (no
 * header, no residue, no record at all), LH_ERR_IO, LH_ERR_MEMORY, visit's. */
LH_NODISCARD lh_status lhi_fasta_walk(const char *path, lhi_fasta_visit visit, void *user);

/* A record: its first token among all, where its first residue lies, residues of a line, bytes of a
 * line with its end. */
typedef struct lhi_fasta_record {
    int64_t start, offset, bases, width;
} lhi_fasta_record;

typedef struct lhi_fasta {
    lhi_fasta_record *record; /* [count + 1]: the last one only says where the tokens end */
    int64_t count;
} lhi_fasta;

/* lhi_fasta_index - index a file: rank 0 reads it through, all ranks get 32 bytes for each record.
 * Collective on comm (NULL: one process). The caller releases index->record with lh_free. Errors:
 * agreed, as lhi_fasta_walk; LH_ERR_FORMAT where the lines of a record differ in length. */
LH_NODISCARD lh_status lhi_fasta_index(lh_comm *comm, const char *path, lhi_fasta *index);

/* lhi_fasta_read - tokens [count] from number `first` on. Local. Errors: LH_ERR_IO; LH_ERR_FORMAT
 * (the file was changed). */
LH_NODISCARD lh_status lhi_fasta_read(const lhi_fasta *index, const lh_bytes *file, int64_t first,
                                      int64_t count, int32_t *out);
