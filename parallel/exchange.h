#pragma once
/* Exchange of rows: who needs which rows of whom.
 *
 * Made from (needs, layout): step s talks to the ranks at distance s, only rows that somebody needs
 * travel, and steps in which this rank neither sends nor receives do not exist. A dense need is
 * ring attention; a window is a halo exchange with as many hops as the window needs. Making one is
 * local and pure: no message, any rank of any number of ranks. The adjoint carries row gradients
 * home and adds them in step order. */
#include "core/tape.h"
#include "parallel/comm.h"

/* Positions that `rank` needs, ascending, appended to out; its own rows may be among them. Pure. */
typedef struct lh_needs {
    lh_status (*runs)(const void *user, int rank, lh_runs *out);
    const void *user;
    /* never keep received rows: dense needs, whose received rows grow with the whole sequence */
    bool refetch;
} lh_needs;

typedef struct lh_exchange_step {
    int to, from;
    int64_t send_rows, recv_rows;
    lh_span *send; /* own rows that `to` needs */
    int64_t n_send, send_capacity;
    lh_runs positions; /* of the rows received, in order */
    int64_t offset;    /* first row of this step among all rows received */
} lh_exchange_step;

typedef struct lh_exchange {
    int rank, ranks, n_steps;
    lh_exchange_step *step;
    int64_t max_send, max_recv; /* rows in one step, of this rank */
    int64_t total_recv, total_send;
    /* no rank receives more rows than the largest shard holds: worth keeping for the backward */
    bool keep;
} lh_exchange;

/* lh_exchange_create - Local, pure. Ownership: the caller destroys *out; layout is read only now.
 * Errors: LH_ERR_MEMORY, LH_ERR_BUG (a needed position that nobody has). */
LH_NODISCARD lh_status lh_exchange_create(const lh_layout *layout, int rank, const lh_needs *needs,
                                          lh_exchange **out);
/* lh_exchange_destroy - release it and null the handle. Local. */
void lh_exchange_destroy(lh_exchange **x);

enum {
    LH_EXCHANGE_TENSORS = 4,
    LH_TAG_FETCH = 1,
    LH_TAG_RETURN = 2,
    LH_TAG_SCAN = 3,
    LH_TAG_SPREAD = 4
};

/* Rows on the way: several tensors [batch, rows, width] of type real travel in one message per
 * neighbour, as they are or rounded to bfloat16 (`wire`). */
typedef struct lh_transfer {
    lh_comm *comm;
    lh_device *device;
    const lh_exchange *exchange;
    int n; /* tensors */
    int64_t batch, width;
    int64_t rows; /* rows of the home tensors */
    /* elements of a home tensor's row, of which `width` from `column` on travel; 0: width */
    int64_t row_width, column;
    /* rows of the block tensors: max_recv, or total_recv when received rows are kept */
    int64_t block_rows;
    lh_dtype wire; /* LH_REAL, LH_BF16; an operation takes lh_tape_stored */
    /* host buffers: lh_transfer_bytes of max_send / max_recv rows (the other way round to return) */
    void *send, *recv;
    lh_purpose purpose;
    lh_request sending, receiving;
} lh_transfer;

/* lh_transfer_bytes - host bytes of a message of `rows` rows. Local. */
size_t lh_transfer_bytes(const lh_transfer *x, int64_t rows);

/* lh_fetch_start - pack the rows that step i sends from home[n] and start both messages;
 * lh_fetch_finish - wait for them and unpack into block[n] at row `offset`. One fetch of a transfer
 * is in flight at a time. Collective along the sequence in step order. */
void lh_fetch_start(lh_transfer *x, int i, const void *const *home);
void lh_fetch_finish(lh_transfer *x, int i, void *const *block, int64_t offset);

/* lh_return_start, lh_return_finish - the adjoint: rows of block[n] at row `offset` go back to
 * where step i got them, and what comes back is added to home[n]. send holds max_recv rows here,
 * recv max_send. */
void lh_return_start(lh_transfer *x, int i, const void *const *block, int64_t offset);
void lh_return_finish(lh_transfer *x, int i, void *const *home);

/* lh_move_rows - tape operation: y [s', W] = the rows of x [s, W], which is sharded by `from`
 * (dimension 0), at this rank's positions of `to`: to->n <= from->n. y is sharded by `to`. moves: the
 * plan of it, made by lh_moves_create (borrowed until the tape is reset). Adjoint: row gradients go
 * home. Collective along the sequence. Sends W (rows others need of mine) elements forward, W (rows I
 * received) backward.
 *
 * lh_moves_create - Local, pure. from, to: any layouts over the same ranks, but `everywhere`; borrowed
 * until lh_moves_destroy. The caller destroys *out. Errors: LH_ERR_MEMORY, LH_ERR_BUG. */
typedef struct lh_moves lh_moves;
LH_NODISCARD lh_status lh_moves_create(const lh_layout *from, const lh_layout *to, int rank,
                                       lh_moves **out);
/* lh_moves_destroy - release it and null the handle. Local. */
void lh_moves_destroy(lh_moves **moves);
/* lh_moves_rows - rows sent and received by this rank. Local. */
void lh_moves_rows(const lh_moves *moves, int64_t *sent, int64_t *received);
LH_NODISCARD lh_status lh_move_rows(lh_tape *t, lh_comm *sequence, const lh_moves *moves, lh_var x,
                                    lh_var *y);

/* lh_fetch_rows - tape operation: y [B, total_recv, W] = the rows of x [B, s, W] that `exchange`
 * brings (borrowed until the tape is reset), in step order. Adjoint: lh_return_*. Collective along
 * the sequence. Sends B W (rows sent) elements forward, B W (rows received) backward. */
LH_NODISCARD lh_status lh_fetch_rows(lh_tape *t, lh_comm *sequence, const lh_exchange *exchange,
                                     lh_var x, lh_var *y);
