/* Dense attention in double, written out: every pair of positions, one row at a time. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/conformance/probe.h"
#include "tests/lh_test_mpi.h"
#include "tests/tol.h"

enum { G_QUERY, G_KEY, G_VALUE, G_PARTS };

typedef struct dense {
    const probe *p;
    double *x[INPUTS + 1], *d[INPUTS]; /* whole inputs, their gradients; INPUTS: seed */
    double *out;                       /* whole */
    double *score, *slope;             /* [N] */
    /* projections of global tokens: weight [rows, E] and bias; projected [B, N, rows], and gradients */
    lh_param *param[2 * G_PARTS];
    double *w[2 * G_PARTS], *d_w[2 * G_PARTS], *g[G_PARTS], *d_g[G_PARTS];
    int64_t n, e, width;
} dense;

static double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static void add_scaled(double *to, double scale, const double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) to[i] += scale * x[i];
}

static lh_status dense_param(dense *e, int i, const char *name)
{
    lh_status st = LH_OK;
    lh_real *host = NULL;
    e->param[i] = lh_params_find(e->p->params, name);
    LH_CHECK(e->param[i] != NULL, LH_ERR_BUG, "there is no parameter %s", name);
    size_t n = (size_t)lh_shape_count(&e->param[i]->whole);
    LH_TRY(lh_new(n * sizeof *host, &host));
    LH_TRY(lh_new(n * sizeof(double), &e->w[i]));
    LH_TRY(lh_new(n * sizeof(double), &e->d_w[i]));
    lh_copy_out(e->p->device, host, e->param[i]->value, n * sizeof *host);
    for (size_t k = 0; k < n; k++) e->w[i][k] = (double)host[k];
done:
    lh_free(&host);
    return st;
}

static lh_status dense_open(dense *e, const probe *p)
{
    static const char *const name[] = {"query", "key", "value"};
    lh_status st = LH_OK;
    char text[96];
    *e = (dense){.p = p, .n = p->desc.length, .e = p->desc.width, .width = p->desc.head_width};
    for (int k = 0; k <= INPUTS; k++) {
        int64_t n = lh_shape_count(&p->whole[k == INPUTS ? QUERY : k]);
        LH_TRY(lh_new((size_t)n * sizeof(double), &e->x[k]));
        for (int64_t i = 0; i < n; i++) e->x[k][i] = (double)(lh_real)element(k, i, 0.0);
        if (k < INPUTS) LH_TRY(lh_new((size_t)n * sizeof(double), &e->d[k]));
    }
    LH_TRY(lh_new((size_t)lh_shape_count(&p->whole[QUERY]) * sizeof(double), &e->out));
    LH_TRY(lh_new((size_t)e->n * sizeof(double), &e->score));
    LH_TRY(lh_new((size_t)e->n * sizeof(double), &e->slope));
    for (int i = 0; (p->variant->first || p->variant->task) && i < G_PARTS; i++) {
        (void)snprintf(text, sizeof text, "layer.0.attention.%s_global.weight", name[i]);
        LH_TRY(dense_param(e, 2 * i, text));
        (void)snprintf(text, sizeof text, "layer.0.attention.%s_global.bias", name[i]);
        LH_TRY(dense_param(e, 2 * i + 1, text));
        size_t n = (size_t)(BATCH * e->n * e->param[2 * i]->whole.dim[0]);
        LH_TRY(lh_new(n * sizeof(double), &e->g[i]));
        LH_TRY(lh_new(n * sizeof(double), &e->d_g[i]));
    }
done:
    return st;
}

static void dense_close(dense *e)
{
    for (int k = 0; k <= INPUTS; k++) lh_free(&e->x[k]);
    for (int k = 0; k < INPUTS; k++) lh_free(&e->d[k]);
    for (int i = 0; i < 2 * G_PARTS; i++) {
        lh_free(&e->w[i]);
        lh_free(&e->d_w[i]);
    }
    for (int i = 0; i < G_PARTS; i++) {
        lh_free(&e->g[i]);
        lh_free(&e->d_g[i]);
    }
    lh_free(&e->out);
    lh_free(&e->score);
    lh_free(&e->slope);
}

static bool dense_sees(const dense *e, int64_t b, int64_t head, int64_t i, int64_t j)
{
    const probe *p = e->p;
    const variant *v = p->variant;
    int64_t end = 0;
    if (v->valid && j >= p->valid[b]) return false;
    if (v->documents && document_begin(p, b, i, &end) != document_begin(p, b, j, &end))
        return false;
    bool ordered = !p->desc.causal || j <= i;
    if ((v->first || v->task) && ordered && (is_global(p, b, i) || is_global(p, b, j))) return true;
    return v->sees(p->desc.causal, head, i, j);
}

/* Sinusoids of a distance: [sin | cos] of width E. */
static double sinusoid(int64_t distance, int64_t a, int64_t e)
{
    int64_t half = e / 2;
    double angle = (double)distance * pow(10000.0, -2.0 * (double)(a % half) / (double)e);
    return a < half ? sin(angle) : cos(angle);
}

/* r = W_head R(distance), [D]. */
static void relative_row(const dense *e, int64_t head, int64_t distance, double *r)
{
    for (int64_t c = 0; c < e->width; c++) {
        const double *w = e->x[REL_W] + (head * e->width + c) * e->e;
        r[c] = 0.0;
        for (int64_t a = 0; a < e->e; a++) r[c] += w[a] * sinusoid(distance, a, e->e);
    }
}

/* What a row's scores and outputs are made of: vectors of queries, keys and values in memory. */
typedef struct dense_row {
    const double *q, *k, *v; /* q [D]; k, v of position 0, step apart */
    double *dq, *dk, *dv;
    int64_t step;
    bool term; /* the relative term applies */
} dense_row;

static double dense_score(dense *e, const dense_row *r, int64_t head, int64_t i, int64_t j)
{
    const double *u = e->x[REL_U] + head * e->width;
    const double *v = e->x[REL_V] + head * e->width;
    const double *k = r->k + j * r->step;
    double row[64];
    double sum = dot(r->q, k, e->width);
    if (!r->term) return sum;
    relative_row(e, head, i - j, row);
    for (int64_t c = 0; c < e->width; c++) sum += u[c] * k[c] + (r->q[c] + v[c]) * row[c];
    return sum;
}

/* Gradient of one score. */
static void dense_score_grad(dense *e, const dense_row *r, int64_t head, int64_t i, int64_t j,
                             double ds)
{
    int64_t at = head * e->width;
    const double *k = r->k + j * r->step;
    double row[64];
    add_scaled(r->dq, ds, k, e->width);
    add_scaled(r->dk + j * r->step, ds, r->q, e->width);
    if (!r->term) return;
    relative_row(e, head, i - j, row);
    add_scaled(r->dk + j * r->step, ds, e->x[REL_U] + at, e->width);
    add_scaled(r->dq, ds, row, e->width);
    add_scaled(e->d[REL_U] + at, ds, k, e->width);
    add_scaled(e->d[REL_V] + at, ds, row, e->width);
    for (int64_t c = 0; c < e->width; c++)
        for (int64_t a = 0; a < e->e; a++)
            e->d[REL_W][(at + c) * e->e + a] +=
                ds * (r->q[c] + e->x[REL_V][at + c]) * sinusoid(i - j, a, e->e);
}

/* One query row of one head: its output, and what it adds to the gradients. */
static void dense_attend(dense *e, int64_t b, int64_t i, int64_t head)
{
    const lh_attn_desc *d = &e->p->desc;
    int64_t w = e->width;
    int64_t kv = head / (d->heads / d->kv_heads);
    int64_t at = ((b * e->n + i) * d->heads + head) * w;
    int64_t first = (b * e->n * d->kv_heads + kv) * w;
    bool global = (e->p->variant->first || e->p->variant->task) && is_global(e->p, b, i);
    dense_row r = {.q = e->x[QUERY] + at,
                   .k = e->x[KEY] + first,
                   .v = e->x[VALUE] + first,
                   .dq = e->d[QUERY] + at,
                   .dk = e->d[KEY] + first,
                   .dv = e->d[VALUE] + first,
                   .step = d->kv_heads * w,
                   .term = e->p->variant->relative};
    if (global)
        r = (dense_row){e->g[G_QUERY] + at,    e->g[G_KEY] + first,
                        e->g[G_VALUE] + first, e->d_g[G_QUERY] + at,
                        e->d_g[G_KEY] + first, e->d_g[G_VALUE] + first,
                        d->kv_heads * w,       false};
    double scale = 1.0 / sqrt((double)w);
    double max = -HUGE_VAL;
    double sum = 0.0;
    for (int64_t j = 0; j < e->n; j++) {
        e->score[j] = -HUGE_VAL;
        if (dense_sees(e, b, head, i, j)) e->score[j] = scale * dense_score(e, &r, head, i, j);
        max = fmax(max, e->score[j]);
    }
    if (max == -HUGE_VAL) return; /* sees nothing: 0 */
    for (int64_t j = 0; j < e->n; j++) sum += e->score[j] = exp(e->score[j] - max);
    for (int64_t j = 0; j < e->n; j++) {
        e->score[j] /= sum;
        add_scaled(e->out + at, e->score[j], r.v + j * r.step, w);
    }
    const double *seed = e->x[INPUTS] + at;
    double mean = dot(e->out + at, seed, w);
    for (int64_t j = 0; j < e->n; j++) {
        if (e->score[j] == 0.0) continue;
        double ds = e->score[j] * (dot(seed, r.v + j * r.step, w) - mean) * scale;
        dense_score_grad(e, &r, head, i, j, ds);
        add_scaled(r.dv + j * r.step, e->score[j], seed, w);
    }
}

/* Global projections of all rows of x; backward: their gradients into x, weights and biases. */
static void dense_project(dense *e, bool backward)
{
    for (int part = 0; e->param[0] != NULL && part < G_PARTS; part++) {
        int64_t rows = e->param[2 * part]->whole.dim[0];
        for (int64_t t = 0; t < BATCH * e->n; t++)
            for (int64_t c = 0; c < rows; c++) {
                const double *x = e->x[BLOCK] + t * e->e;
                const double *w = e->w[2 * part] + c * e->e;
                double dy = e->d_g[part][t * rows + c];
                if (!backward) {
                    e->g[part][t * rows + c] = dot(x, w, e->e) + e->w[2 * part + 1][c];
                    continue;
                }
                add_scaled(e->d[BLOCK] + t * e->e, dy, w, e->e);
                add_scaled(e->d_w[2 * part] + c * e->e, dy, x, e->e);
                e->d_w[2 * part + 1][c] += dy;
            }
    }
}

/* Against the largest of want [all], at least `floor`: what is zero by cancellation (a row that sees
 * one key has no gradient of scores) is zero to rounding. */
static bool dense_close_to(const probe *p, double worst, const double *want, int64_t all,
                           double floor, const char *what)
{
    double largest = floor;
    for (int64_t i = 0; i < all; i++) largest = fmax(largest, fabs(want[i]));
    double allowed = lh_tol_sum((double)(p->desc.length + p->desc.width)) * largest;
    char name[160];
    probe_name(p, name);
    lh_test_report("parity %s/%lld %s %.3g %.3g", name, (long long)p->desc.length, what,
                   largest > 0.0 ? worst / largest : worst,
                   lh_tol_sum((double)(p->desc.length + p->desc.width)));
    if (!(worst <= allowed)) print_error("%s: off by %.3g, allowed %.3g\n", what, worst, allowed);
    return worst <= allowed;
}

static bool dense_rows(const dense *e, int k, const double *got, const double *want,
                       const char *what)
{
    double worst = 0.0;
    for (int64_t i = 0; i < lh_shape_count(&e->p->shape[k]); i++) {
        double error = fabs(got[i] - want[probe_index(e->p, k, i)]);
        if (!(error <= worst)) worst = error;
    }
    return dense_close_to(e->p, worst, want, lh_shape_count(&e->p->whole[k]), 0.0, what);
}

/* Parts of a gradient on all ranks, summed, against want [n]. */
static bool dense_sum(const dense *e, double *part, int64_t n, const double *want, const char *what)
{
    double worst = 0.0;
    lh_sum_f64(e->p->mesh->axis[LH_AXIS_SEQ], part, n, LH_SEND_OTHER);
    for (int64_t i = 0; i < n; i++) {
        double error = fabs(part[i] - want[i]);
        if (!(error <= worst)) worst = error;
    }
    return dense_close_to(e->p, worst, want, n, 1.0, what);
}

static lh_status dense_weights(const dense *e, bool *same)
{
    lh_status st = LH_OK;
    lh_real *host = NULL;
    double *part = NULL;
    for (int i = 0; e->param[0] != NULL && i < 2 * G_PARTS; i++) {
        int64_t n = lh_shape_count(&e->param[i]->whole);
        LH_TRY(lh_new((size_t)n * sizeof *host, &host));
        LH_TRY(lh_new((size_t)n * sizeof *part, &part));
        lh_copy_out(e->p->device, host, e->param[i]->grad, (size_t)n * sizeof *host);
        for (int64_t k = 0; k < n; k++) part[k] = (double)host[k];
        *same = dense_sum(e, part, n, e->d_w[i], e->param[i]->name) && *same;
        lh_free(&host);
        lh_free(&part);
    }
done:
    lh_free(&host);
    lh_free(&part);
    return st;
}

lh_status dense_agrees(const probe *p, bool *same)
{
    static const char *const names[] = {"dq", "dk", "dv", "dx", "du", "dv_positions", "dW"};
    lh_status st = LH_OK;
    const lh_attn_desc *d = &p->desc;
    dense e;
    LH_TRY(dense_open(&e, p));
    dense_project(&e, false);
    for (int64_t t = 0; t < BATCH * d->length * d->heads; t++)
        dense_attend(&e, t / d->heads / d->length, t / d->heads % d->length, t % d->heads);
    dense_project(&e, true);
    *same = dense_rows(&e, QUERY, p->out, e.out, "output");
    for (int k = 0; k <= BLOCK; k++)
        *same = dense_rows(&e, k, p->d_in[k], e.d[k], names[k]) && *same;
    for (int k = REL_U; p->variant->relative && k <= REL_W; k++)
        *same = dense_sum(&e, p->d_in[k], lh_shape_count(&p->whole[k]), e.d[k], names[k]) && *same;
    LH_TRY(dense_weights(&e, same));
done:
    dense_close(&e);
    return st;
}
