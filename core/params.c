#include "core/params.h"
#include "core/random.h"

#include <string.h>

/* PARAMS_ALIGN: bytes between the starts of parameters are a multiple of it. PARAMS_PIECE: elements
 * initialised at a time, so that a large parameter needs no host copy of itself. */
enum { PARAMS_KINDS = 4, PARAMS_ALIGN = 64, PARAMS_PIECE = 1 << 16 };

lh_status lh_params_create(lh_device *device, const int coord[LH_AXES], lh_params **out)
{
    lh_status st = LH_OK;
    lh_params *p = NULL;
    *out = NULL;
    LH_TRY(lh_new(sizeof *p, &p));
    p->device = device;
    for (int a = 0; a < LH_AXES; a++) p->coord[a] = coord[a];
    *out = p;
done:
    return st;
}

void lh_params_destroy(lh_params **params)
{
    lh_params *p = *params;
    if (p == NULL) return;
    for (int k = 0; k < PARAMS_KINDS; k++) lh_device_release(p->device, &p->block[k]);
    for (int64_t i = 0; i < p->count; i++) lh_free(&p->item[i]);
    lh_free(&p->item);
    lh_free(&p->room);
    lh_free(params);
}

lh_param *lh_params_find(const lh_params *p, const char *name)
{
    for (int64_t i = 0; i < p->count; i++)
        if (strcmp(p->item[i]->name, name) == 0) return p->item[i];
    return NULL;
}

/* The local shape. A parameter is replicated over the data axis; over the sequence it may be
 * sharded by a layout. */
static lh_status param_localise(lh_param *q, const int coord[LH_AXES])
{
    lh_status st = LH_OK;
    const lh_place_word *seq = &q->place.axis[LH_AXIS_SEQ];
    char text[128];
    q->shape = q->whole;
    LH_CHECK(q->place.axis[LH_AXIS_DATA].kind == LH_REPLICATE && seq->kind != LH_PARTIAL,
             LH_ERR_BUG,
             "parameter %s is placed %s; expected replicate or a shard over the sequence", q->name,
             lh_place_text(&q->place, text, sizeof text));
    if (seq->kind == LH_REPLICATE) return LH_OK;
    LH_CHECK(seq->layout != NULL && coord[LH_AXIS_SEQ] < seq->layout->ranks, LH_ERR_BUG,
             "parameter %s is sharded without a layout of rank %d", q->name, coord[LH_AXIS_SEQ]);
    LH_CHECK(seq->dim >= 0 && seq->dim < q->whole.ndim && q->whole.dim[seq->dim] == seq->layout->n,
             LH_ERR_BUG,
             "parameter %s of shape %s is sharded in dimension %d by a layout of %lld positions",
             q->name, lh_shape_text(&q->whole, text, sizeof text), seq->dim,
             (long long)seq->layout->n);
    q->shape.dim[seq->dim] = seq->layout->rows[coord[LH_AXIS_SEQ]];
done:
    return st;
}

lh_status lh_params_add(lh_params *p, const char *name, lh_shape whole, lh_place place,
                        lh_init_kind init, double std, lh_param **out)
{
    lh_status st = LH_OK;
    lh_param *q = NULL;
    if (out != NULL) *out = NULL;
    LH_CHECK(p->block[0] == NULL, LH_ERR_BUG, "parameter %s is declared after the allocation",
             name);
    LH_CHECK(name[0] != '\0' && strlen(name) < sizeof q->name, LH_ERR_BUG,
             "parameter name '%s' has %zu characters, expected 1 to %zu", name, strlen(name),
             sizeof q->name - 1);
    LH_CHECK(lh_params_find(p, name) == NULL, LH_ERR_BUG, "parameter %s is declared twice", name);
    LH_CHECK(whole.dtype == LH_REAL, LH_ERR_BUG,
             "parameter %s has elements of type %s, expected real", name,
             lh_dtype_name(whole.dtype));
    LH_TRY(lh_new(sizeof *q, &q));
    memcpy(q->name, name, strlen(name) + 1);
    q->whole = whole;
    q->place = place;
    q->grad_place = lh_place_dual(&place);
    q->grad_final = true;
    q->init = init;
    q->std = std;
    q->decay = whole.ndim >= 2;
    LH_TRY(param_localise(q, p->coord));
    LH_TRY(lh_grow(&p->item, &p->capacity, p->count + 1, sizeof(lh_param *)));
    p->item[p->count++] = q;
    if (out != NULL) *out = q;
    q = NULL;
done:
    lh_free(&q);
    return st;
}

lh_status lh_params_add_drawn(lh_params *p, const char *name, lh_shape whole, lh_init_fn draw,
                              const void *user, size_t user_bytes, lh_param **out)
{
    lh_status st = LH_OK;
    lh_param *q = NULL;
    LH_CHECK(user_bytes <= sizeof q->draw_user, LH_ERR_BUG, "parameter %s: %zu bytes of user data",
             name, user_bytes);
    LH_TRY(lh_params_add(p, name, whole, lh_place_replicated(), LH_INIT_FUNCTION, 0.0, &q));
    LH_CHECK(q != NULL, LH_ERR_BUG, "parameter %s was not made", name);
    q->frozen = true;
    q->grad_place = q->place;
    q->decay = false;
    q->draw = draw;
    if (user_bytes > 0) memcpy(q->draw_user, user, user_bytes);
done:
    if (out != NULL) *out = q;
    return st;
}

lh_status lh_params_draw(lh_params *p, lh_param *q, uint64_t seed, uint64_t number)
{
    lh_status st = LH_OK;
    int64_t n = lh_shape_count(&q->whole);
    LH_CHECK(q->frozen, LH_ERR_BUG, "parameter %s is learned, not drawn", q->name);
    if (p->device->counting) return LH_OK;
    LH_TRY(lh_grow(&p->room, &p->room_capacity, 2 * n + q->draw_work, sizeof *p->room));
    double *value = p->room;
    lh_real *host = (lh_real *)(p->room + n);
    LH_TRY(q->draw(q->draw_user, seed, number, p->room + 2 * n, value));
    for (int64_t i = 0; i < n; i++) host[i] = (lh_real)value[i];
    lh_copy_in(p->device, q->value, host, (size_t)n * sizeof *host);
done:
    return st;
}

static size_t param_bytes(const lh_param *q)
{
    return (lh_shape_bytes(&q->shape) + PARAMS_ALIGN - 1) / PARAMS_ALIGN * PARAMS_ALIGN;
}

size_t lh_params_need(const lh_params *p, bool trainable)
{
    size_t bytes = 0;
    for (int64_t i = 0; i < p->count; i++) bytes += param_bytes(p->item[i]);
    if (bytes == 0) bytes = PARAMS_ALIGN; /* a block exists, so that `allocated` can be seen */
    return (trainable ? PARAMS_KINDS : 1) * bytes;
}

lh_status lh_params_allocate(lh_params *p, bool trainable)
{
    lh_status st = LH_OK;
    size_t bytes = lh_params_need(p, false);
    if (p->block[0] != NULL) return LH_RAISE(LH_ERR_BUG, "parameters are allocated twice");
    p->block_elements = (int64_t)(bytes / lh_dtype_bytes(LH_REAL));
    p->trainable = trainable;
    for (int k = 0; k < (trainable ? PARAMS_KINDS : 1); k++) {
        LH_TRY(lh_device_alloc(p->device, bytes, &p->block[k]));
        /* the gaps between parameters too: whole-block operations read them */
        lh_run_fill(p->device,
                    &(lh_fill_args){.n = p->block_elements, .value = 0.0, .x = p->block[k]});
    }
    bytes = 0;
    for (int64_t i = 0; i < p->count; i++) {
        lh_param *q = p->item[i];
        q->value = (char *)p->block[0] + bytes;
        q->grad = trainable ? (char *)p->block[1] + bytes : NULL;
        q->m = trainable ? (char *)p->block[2] + bytes : NULL;
        q->v = trainable ? (char *)p->block[3] + bytes : NULL;
        bytes += param_bytes(q);
    }
done:
    for (int k = 0; k < PARAMS_KINDS && st != LH_OK; k++)
        lh_device_release(p->device, &p->block[k]);
    return st;
}

/* Index in the whole parameter of element i of this rank's part. */
static int64_t param_global_index(const lh_param *q, int rank, int64_t i)
{
    const lh_place_word *seq = &q->place.axis[LH_AXIS_SEQ];
    if (seq->kind != LH_SHARD) return i;
    int64_t inner = 1;
    for (int k = seq->dim + 1; k < q->shape.ndim; k++) inner *= q->shape.dim[k];
    int64_t row = i / inner % q->shape.dim[seq->dim];
    int64_t outer = i / inner / q->shape.dim[seq->dim];
    return (outer * q->whole.dim[seq->dim] + lh_layout_position(seq->layout, rank, row)) * inner +
           i % inner;
}

static void param_normal(const lh_params *p, int64_t number, uint64_t seed, lh_real *host)
{
    const lh_param *q = p->item[number];
    const char *source = q->like[0] != '\0' ? q->like : q->name;
    const uint64_t stream = lh_stream_id(LH_STREAM_PARAMETER, lh_name_number(source));
    int64_t n = lh_shape_count(&q->shape);
    for (int64_t done = 0; done < n; done += PARAMS_PIECE) {
        int64_t piece = n - done < PARAMS_PIECE ? n - done : PARAMS_PIECE;
        for (int64_t i = 0; i < piece; i++) {
            int64_t index = param_global_index(q, p->coord[LH_AXIS_SEQ], done + i);
            host[i] = (lh_real)(q->std * lh_random_normal(seed, stream, (uint64_t)index));
        }
        lh_copy_in(p->device, (char *)q->value + (size_t)done * sizeof *host, host,
                   (size_t)piece * sizeof *host);
    }
}

lh_status lh_params_initialise(lh_params *p, uint64_t seed)
{
    lh_status st = LH_OK;
    void *host = NULL;
    LH_CHECK(p->block[0] != NULL, LH_ERR_BUG, "parameters are initialised before their allocation");
    if (p->device->counting) return LH_OK; /* no data: nothing to draw */
    LH_TRY(lh_host_alloc(PARAMS_PIECE * lh_dtype_bytes(LH_REAL), &host));
    for (int64_t i = 0; i < p->count; i++) {
        lh_param *q = p->item[i];
        if (q->init == LH_INIT_FUNCTION) {
            LH_TRY(lh_params_draw(p, q, seed, lh_name_number(q->name)));
            continue;
        }
        if (q->init == LH_INIT_NORMAL) {
            param_normal(p, i, seed, host);
            continue;
        }
        lh_run_fill(p->device, &(lh_fill_args){.n = lh_shape_count(&q->shape),
                                               .value = q->init == LH_INIT_ONE ? 1.0 : 0.0,
                                               .x = q->value});
    }
done:
    lh_host_release(&host);
    return st;
}

void lh_params_zero_grad(lh_params *p)
{
    if (!p->trainable) return;
    lh_run_fill(p->device, &(lh_fill_args){.n = p->block_elements, .value = 0.0, .x = p->block[1]});
    for (int64_t i = 0; i < p->count; i++) {
        lh_param *q = p->item[i];
        q->grad_place = q->frozen ? q->place : lh_place_dual(&q->place);
        q->grad_final = true;
    }
}

int64_t lh_params_total(const lh_params *p)
{
    int64_t total = 0;
    for (int64_t i = 0; i < p->count; i++)
        if (!p->item[i]->frozen) total += lh_shape_count(&p->item[i]->whole);
    return total;
}

int64_t lh_params_held(const lh_params *p)
{
    int64_t total = 0;
    for (int64_t i = 0; i < p->count; i++) total += lh_shape_count(&p->item[i]->whole);
    return total;
}

size_t lh_params_bytes(const lh_params *p)
{
    size_t kinds = p->block[0] == NULL ? 0 : p->trainable ? PARAMS_KINDS : 1;
    return kinds * (size_t)p->block_elements * lh_dtype_bytes(LH_REAL);
}
