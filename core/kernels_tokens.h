/* Part of kernels_body.h: embedding, positions and dropout: kernels that know tokens, positions or
 * random numbers. */

/* --- embedding
 * ---------------------------------------------------------------------------------------------------- */

static void embed_range(const void *args, int64_t begin, int64_t end)
{
    const lh_embed_args *a = args;
    for (int64_t r = begin; r < end; r++)
        memcpy((real *)a->y + r * a->width, (const real *)a->table + a->ids[r] * a->width,
               (size_t)a->width * sizeof(real));
}

static void k_embed(const lh_embed_args *a, int threads)
{
    split_rows(embed_range, a, a->rows, a->width, threads);
}

/* Columns begin .. end - 1, row after row: two rows may name the same token. */
static void embed_grad_range(const void *args, int64_t begin, int64_t end)
{
    const lh_embed_grad_args *a = args;
    for (int64_t r = 0; r < a->rows; r++) {
        const real *restrict dy = (const real *)a->dy + r * a->width;
        real *restrict row = (real *)a->dtable + a->ids[r] * a->width;
#pragma omp simd
        for (int64_t i = begin; i < end; i++) row[i] += dy[i];
    }
}

static void k_embed_grad(const lh_embed_grad_args *a, int threads)
{
    split_columns(embed_grad_range, a, a->rows, a->width, threads);
}

/* --- positions
 * ---------------------------------------------------------------------------------------------------- */

/* Frequencies outside, so that each costs one power per range. */
static void rotary_table_range(const void *args, int64_t begin, int64_t end)
{
    const lh_rotary_table_args *a = args;
    const int64_t half = a->width / 2;
    for (int64_t i = 0; i < half; i++) {
        const double frequency = pow(a->base, -2.0 * (double)i / (double)a->width);
        for (int64_t r = begin; r < end; r++) {
            const double angle = (double)(a->position + r * a->stride) * frequency;
            real *pair = (real *)a->table + (r * half + i) * 2;
            pair[0] = (real)cos(angle);
            pair[1] = (real)sin(angle);
        }
    }
}

/* The factor 32 in the work: sines are dear. */
static void k_rotary_table(const lh_rotary_table_args *a, int threads)
{
    split_rows(rotary_table_range, a, a->rows, 32 * a->width, threads);
}

/* One head; sign -1 turns back. x may be y: both members of a pair are read before either is
 * written. */
static void rotate(const real *x, real *y, const real *pairs, int64_t half, real sign,
                   bool accumulate)
{
    /* NOLINTNEXTLINE(bugprone-branch-clone): it does not look into loops under a pragma */
    if (accumulate) {
#pragma omp simd
        for (int64_t i = 0; i < half; i++) {
            const real c = pairs[2 * i], s = sign * pairs[2 * i + 1], p = x[i], q = x[half + i];
            y[i] += p * c - q * s;
            y[half + i] += q * c + p * s;
        }
    } else {
#pragma omp simd
        for (int64_t i = 0; i < half; i++) {
            const real c = pairs[2 * i], s = sign * pairs[2 * i + 1], p = x[i], q = x[half + i];
            y[i] = p * c - q * s;
            y[half + i] = q * c + p * s;
        }
    }
}

static void rotary_range(const void *args, int64_t begin, int64_t end)
{
    const lh_rotary_args *a = args;
    const int64_t half = a->width / 2;
    const real sign = a->inverse ? (real)-1 : (real)1;
    for (int64_t r = begin; r < end; r++) {
        const real *pairs = (const real *)a->table + r * 2 * half;
        for (int64_t h = 0; h < a->heads; h++) {
            const int64_t at = (r * a->heads + h) * a->width;
            rotate((const real *)a->x + at, (real *)a->y + at, pairs, half, sign, a->accumulate);
        }
    }
}

static void k_rotary(const lh_rotary_args *a, int threads)
{
    split_rows(rotary_range, a, a->rows, a->heads * a->width, threads);
}

static void sinusoid_range(const void *args, int64_t begin, int64_t end)
{
    const lh_sinusoid_args *a = args;
    for (int64_t i = 0; i < a->width; i += 2) {
        const double frequency = pow(10000.0, -(double)i / (double)a->width);
        for (int64_t r = begin; r < end; r++) {
            const double angle = (double)(a->position + r * a->stride) * frequency;
            real *y = (real *)a->y + r * a->width + i;
            y[0] += (real)sin(angle);
            if (i + 1 < a->width) y[1] += (real)cos(angle);
        }
    }
}

static void k_sinusoid(const lh_sinusoid_args *a, int threads)
{
    split_rows(sinusoid_range, a, a->rows, 32 * a->width, threads);
}

/* Each row turns the one before by the angle of a step; every DISTANCE_TURNS rows, where ranges may
 * begin, the angle is computed anew, so that errors of rounding stay those of a double. */
enum { DISTANCE_TURNS = 32 };

static void distance_table_range(const void *args, int64_t begin, int64_t end)
{
    const lh_distance_table_args *a = args;
    const int64_t half = a->width / 2;
    for (int64_t i = 0; i < half; i++) {
        const double frequency = pow(10000.0, -2.0 * (double)i / (double)a->width);
        const double turn_s = sin((double)a->step * frequency);
        const double turn_c = cos((double)a->step * frequency);
        double s = 0.0, c = 1.0;
        for (int64_t r = begin; r < end; r++) {
            if (r % DISTANCE_TURNS == 0) {
                s = sin((double)(a->first + r * a->step) * frequency);
                c = cos((double)(a->first + r * a->step) * frequency);
            }
            real *row = (real *)a->table + r * a->width;
            row[i] = (real)s;
            row[half + i] = (real)c;
            const double next = s * turn_c + c * turn_s;
            c = c * turn_c - s * turn_s;
            s = next;
        }
    }
}

static void k_distance_table(const lh_distance_table_args *a, int threads)
{
    split(distance_table_range, a, a->rows, DISTANCE_TURNS, 8 * a->rows * a->width, threads);
}

/* --- dropout
 * ------------------------------------------------------------------------------------------------------ */

/* Words of LANES consecutive Philox blocks, in order: the numbers of core/random.c, with lanes
 * inside the rounds. */
enum { LANES = 32, WORDS = 4 * LANES, ROUNDS = 10 };

static void philox_words(uint64_t seed, uint64_t stream, uint64_t block, uint32_t *restrict words)
{
    uint32_t c0[LANES], c1[LANES], c2[LANES], c3[LANES];
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int l = 0; l < LANES; l++) {
        c0[l] = (uint32_t)(block + (uint64_t)l);
        c1[l] = (uint32_t)((block + (uint64_t)l) >> 32);
        c2[l] = (uint32_t)stream;
        c3[l] = (uint32_t)(stream >> 32);
    }
    for (int round = 0; round < ROUNDS; round++) {
#pragma omp simd
        for (int l = 0; l < LANES; l++) {
            const uint64_t p0 = UINT64_C(0xD2511F53) * c0[l], p1 = UINT64_C(0xCD9E8D57) * c2[l];
            c0[l] = (uint32_t)(p1 >> 32) ^ c1[l] ^ k0;
            c2[l] = (uint32_t)(p0 >> 32) ^ c3[l] ^ k1;
            c1[l] = (uint32_t)p1;
            c3[l] = (uint32_t)p0;
        }
        k0 += UINT32_C(0x9E3779B9);
        k1 += UINT32_C(0xBB67AE85);
    }
    for (int l = 0; l < LANES; l++) {
        words[4 * l] = c0[l];
        words[4 * l + 1] = c1[l];
        words[4 * l + 2] = c2[l];
        words[4 * l + 3] = c3[l];
    }
}

/* Element i takes word index + i, whatever the range: blocks are cut at multiples of WORDS of the
 * global index. */
static void dropout_range(const void *args, int64_t begin, int64_t end)
{
    const lh_dropout_args *a = args;
    const real scale = (real)(1.0 / (1.0 - a->rate));
    const real *x = a->x;
    real *y = a->y;
    uint32_t words[WORDS];
    const uint32_t bound = (uint32_t)fmin(ceil(a->rate * 0x1p32), 0x1p32 - 1.0);
    for (int64_t i = begin; i < end;) {
        const int64_t index = a->index + i, offset = index % WORDS;
        const int64_t count = end - i < WORDS - offset ? end - i : WORDS - offset;
        philox_words(a->seed, a->stream, (uint64_t)(index / WORDS * LANES), words);
        /* NOLINTNEXTLINE(bugprone-branch-clone): it does not look into loops under a pragma */
        if (a->accumulate) {
#pragma omp simd
            for (int64_t j = 0; j < count; j++)
                y[i + j] += words[offset + j] >= bound ? scale * x[i + j] : (real)0;
        } else {
#pragma omp simd
            for (int64_t j = 0; j < count; j++)
                y[i + j] = words[offset + j] >= bound ? scale * x[i + j] : (real)0;
        }
        i += count;
    }
}

static void k_dropout(const lh_dropout_args *a, int threads)
{
    split_elements(dropout_range, a, a->n, threads);
}
