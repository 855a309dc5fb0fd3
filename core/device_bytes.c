/* Bytes that kernels move: see lh_kernel_bytes. In elements of `real` until the end. */
#include "core/device.h"

static double bytes_gemm(const lh_gemm_args *a)
{
    return (double)(a->m * a->k) + (double)(a->k * a->n) +
           (a->accumulate ? 2.0 : 1.0) * (double)(a->m * a->n);
}

static double bytes_norm(const lh_norm_args *a)
{
    return (a->h != NULL ? 4.0 : 2.0) * (double)(a->rows * a->width);
}

static double bytes_norm_grad(const lh_norm_grad_args *a)
{
    return (a->accumulate ? 4.0 : 3.0) * (double)(a->rows * a->width);
}

static double bytes_act(const lh_act_args *a)
{
    return (a->gate != NULL ? 3.0 : 2.0) * (double)a->n;
}

static double bytes_act_grad(const lh_act_grad_args *a)
{
    return (a->gate != NULL ? 5.0 : 3.0) * (double)a->n;
}

static double bytes_rotary(const lh_rotary_args *a)
{
    return (a->accumulate ? 3.0 : 2.0) * (double)(a->rows * a->heads * a->width);
}

static double bytes_feature(const lh_feature_args *a)
{
    return (double)(a->rows * a->heads) *
           (double)(a->width + a->features + lh_feature_width(a->kind, a->features));
}

static double bytes_feature_max(const lh_feature_max_args *a)
{
    return (double)(a->rows * a->heads) * (double)(a->width + a->features);
}

static double bytes_feature_grad(const lh_feature_grad_args *a)
{
    const lh_feature_args *p = &a->phi;
    return (double)(p->rows * p->heads) *
           (double)(2 * p->width + 2 * p->features + lh_feature_width(p->kind, p->features));
}

/* Rows between a tensor and a host buffer, whose elements may be smaller; in bytes. */
static double bytes_rows(const lh_rows_args *a, bool add)
{
    double rows = 0.0;
    for (int64_t i = 0; i < a->n_spans; i++) rows += (double)a->spans[i].count;
    double element = (add ? 2.0 : 1.0) * (double)a->element_bytes +
                     (a->wire == LH_BF16 ? 2.0 : (double)a->element_bytes);
    return (double)(a->batch * a->width) * rows * element;
}

/* Kernels whose arguments are a number of elements, or of rows, and how often each is touched. */
#define BYTES_N(kernel, times)                                                                     \
    case LH_KERNEL_##kernel:                                                                       \
        return (times) * (double)((const lh_##kernel##_args *)args)->n * real
#define BYTES_ROWS(kernel, times)                                                                  \
    case LH_KERNEL_##kernel:                                                                       \
        return (times) * (double)((const lh_##kernel##_args *)args)->rows *                        \
               (double)((const lh_##kernel##_args *)args)->width * real
#define BYTES_VOCAB(kernel, times)                                                                 \
    case LH_KERNEL_##kernel:                                                                       \
        return (times) * (double)((const lh_##kernel##_args *)args)->rows *                        \
               (double)((const lh_##kernel##_args *)args)->vocab * real
#define BYTES_QUERIES(kernel, times)                                                               \
    case LH_KERNEL_##kernel: {                                                                     \
        const lh_##kernel##_args *a = args;                                                        \
        return (times) * (double)(a->batch * a->heads * a->q_rows) * (double)a->width * real;      \
    }
#define BYTES_OWN(kernel)                                                                          \
    case LH_KERNEL_##kernel:                                                                       \
        return bytes_##kernel(args) * real

double lh_kernel_bytes(lh_kernel kernel, const void *args)
{
    const double real = (double)lh_dtype_bytes(LH_REAL);
    switch (kernel) {
        BYTES_OWN(gemm);
        BYTES_OWN(norm);
        BYTES_OWN(norm_grad);
        BYTES_OWN(act);
        BYTES_OWN(act_grad);
        BYTES_OWN(rotary);
        BYTES_OWN(feature);
        BYTES_OWN(feature_max);
        BYTES_OWN(feature_grad);
        BYTES_N(fill, 1.0);
        BYTES_N(axpy, 2.0);
        BYTES_N(add, 3.0);
        BYTES_N(dropout, 2.0);
        BYTES_N(adamw, 7.0);
        BYTES_N(sum_squares, 1.0);
        BYTES_N(to_bf16, 1.5);
        BYTES_N(from_bf16, 1.5);
        BYTES_N(round_bf16, 2.0);
        BYTES_ROWS(bias, 2.0);
        BYTES_ROWS(bias_grad, 1.0);
        BYTES_ROWS(embed, 2.0);
        BYTES_ROWS(embed_grad, 3.0);
        BYTES_ROWS(rotary_table, 1.0);
        BYTES_ROWS(sinusoid, 2.0);
        BYTES_ROWS(distance_table, 1.0);
        BYTES_ROWS(extend, 2.0);
        BYTES_ROWS(divide, 2.0);
        BYTES_ROWS(divide_grad, 3.0);
        BYTES_VOCAB(cross_entropy, 1.0);
        BYTES_VOCAB(cross_entropy_grad, 2.0);
        BYTES_QUERIES(attend_rescale, 2.0)
        BYTES_QUERIES(attend_finish, 2.0)
        BYTES_QUERIES(attend_delta, 2.0)
    case LH_KERNEL_tril:
        return (double)((const lh_tril_args *)args)->n * (double)((const lh_tril_args *)args)->n *
               0.5 * real;
    case LH_KERNEL_pack_rows:
    case LH_KERNEL_unpack_rows:
        return bytes_rows(args, false);
    case LH_KERNEL_add_rows:
        return bytes_rows(args, true);
    case LH_KERNEL_attend:
    case LH_KERNEL_attend_grad:
    case LH_KERNELS:
        return 0.0;
    }
    return 0.0;
}
