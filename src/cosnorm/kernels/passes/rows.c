/* The passes over rows of float32 matrices, contiguous, for cosnorm/kernels/cpu_rows.py. */
#include "common.h"

CLONES static float dot(const float *x, const float *y, count size) {
    double total = 0;
    for (count start = 0; start < size; start += 512) {
        count end = smaller(size, start + 512);
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (count k = start; k < end; k++) part += x[k] * y[k];
        total += part;
    }
    return (float)total;
}

/* Four sums at once: one alone would wait for each addition to end. */
#define SUM(TERM)                                                   \
    double total = 0;                                               \
    count start = 0;                                                \
    for (; start + 512 <= size; start += 512) {                     \
        const float *own = x + start;                               \
        float first = 0, second = 0, third = 0, fourth = 0;         \
        _Pragma("omp simd reduction(+ : first, second, third, fourth)") \
        for (count k = 0; k < 128; k++) {                           \
            first += TERM(own[k]);                                  \
            second += TERM(own[k + 128]);                           \
            third += TERM(own[k + 256]);                            \
            fourth += TERM(own[k + 384]);                           \
        }                                                           \
        total += (first + second) + (third + fourth);               \
    }                                                               \
    float rest = 0;                                                 \
    _Pragma("omp simd reduction(+ : rest)")                         \
    for (count k = start; k < size; k++) rest += TERM(x[k]);        \
    return total + rest;

#define ITSELF(value) (value)
#define SQUARE(value) ((value) * (value))

CLONES static double sum(const float *x, count size) { SUM(ITSELF) }

CLONES double sum_of_squares(const float *x, count size) { SUM(SQUARE) }

CLONES static void subtract(const float *x, float value, float *out, count size) {
#pragma omp simd
    for (count k = 0; k < size; k++) out[k] = x[k] - value;
}

/* factor (rows): 1/|row|. */
int row_factors(const float *x, count rows, count size, double extra, double limit, float *factor,
                int threads) {
    int fine = 1;
#pragma omp parallel for schedule(static) reduction(min : fine) num_threads(worth(threads, rows * size))
    for (count i = 0; i < rows; i++) {
        double squared = sum_of_squares(x + i * size, size);
        int zero = squared == 0 && all_zero(x + i * size, size, 1);
        if (!factor_of(squared, zero, extra, limit, factor + i)) fine = 0;
    }
    return fine;
}

/* Writes the row less its mean, which it returns. Twice, because the first mean is rounded. */
static float center(const float *x, float *out, count size) {
    float mean = (float)(sum(x, size) / size);
    subtract(x, mean, out, size);
    subtract(out, (float)(sum(out, size) / size), out, size);
    return mean;
}

/* out: the rows less their means. 0, too, where a row could count as constant: |x - mean| at most constant * |mean|. */
static int center_rows(const float *x, float *out, count rows, count size, double extra, double limit,
                        double constant, float *factor, int threads) {
    int fine = 1;
#pragma omp parallel for schedule(static) reduction(min : fine) num_threads(worth(threads, rows * size))
    for (count i = 0; i < rows; i++) {
        float *own = out + i * size, mean = center(x + i * size, own, size);
        double squared = sum_of_squares(own, size);
        if (!(sqrt(squared) > constant * fabs(mean))) fine = 0;
        if (!factor_of(squared, 0, extra, limit, factor + i)) fine = 0;
    }
    return fine;
}

/* factor: 1/|row - mean| without writing the deviations, from |w|^2 - D mean^2; 0 where a mean above half of
 * the row would eat its digits. */
static int centered_factors(const float *x, count rows, count size, double extra, double limit, float *factor,
                             float *mean, int threads) {
    int fine = 1;
#pragma omp parallel for schedule(static) reduction(min : fine) num_threads(worth(threads, rows * size))
    for (count i = 0; i < rows; i++) {
        double average = sum(x + i * size, size) / size, offset = average * average * size;
        double squared = sum_of_squares(x + i * size, size);
        mean[i] = (float)average;
        if (!(offset <= squared / 2)) fine = 0;
        if (!factor_of(squared - offset, 0, extra, limit, factor + i)) fine = 0;
    }
    return fine;
}

static void ones(float *out, count size) {
    for (count k = 0; k < size; k++) out[k] = 1;
}

CLONES static void finish(const float *p, float extra, float fx, const float *fw, float *out, count size) {
#pragma omp simd
    for (count j = 0; j < size; j++) {
        float value = (p[j] + extra) * fx * fw[j];
        value = value > 1 ? 1 : value;
        out[j] = value < -1 ? -1 : value;
    }
}

/* out = (p + extra) fx fw, clamped to [-1, 1]; out may be p. */
void cosnorm_finish_rows(const float *p, float extra, const float *fx, const float *fw, float *out, count rows,
                         count columns, int threads) {
#pragma omp parallel for schedule(static) num_threads(worth(threads, rows * columns))
    for (count i = 0; i < rows; i++) finish(p + i * columns, extra, fx[i], fw, out + i * columns, columns);
}

CLONES static void weigh(const float *g, const float *p, float extra, float fx, const float *fw, float *h,
                         float *along, float *total, count size, double *along_row, double *total_row) {
    for (count start = 0; start < size; start += 512) {
        count end = smaller(size, start + 512);
        float part = 0, magnitude = 0;
#pragma omp simd reduction(+ : part, magnitude)
        for (count j = start; j < end; j++) {
            float weighed = g[j] * fx * fw[j], own = weighed * (p[j] + extra), absolute = fabsf(g[j]);
            h[j] = weighed;
            part += own;
            magnitude += absolute;
            along[j] += own;
            total[j] += absolute;
        }
        *along_row += part;
        *total_row += magnitude;
    }
}

/* Moves sums of floats into those of doubles. */
CLONES void move_sums(float *part, double *total, count size) {
#pragma omp simd
    for (count j = 0; j < size; j++) {
        total[j] += part[j];
        part[j] = 0;
    }
}

/* h = g fx fw; for each row and column -f^2 sum of h (p + extra), what the gradient takes along the vector;
 * where there are means, shift: for each row the sum of h mean. The rows belong to samples, `each` to one: no
 * column and no sample of the cotangent may be out of its window. sums: 3 * columns * threads of scratch. */
int weigh_rows(const float *g, const float *p, float extra, const float *fx, const float *fw, const float *mean,
               count samples, count each, count columns, double limit, float *h, float *along_x, float *along_w,
               float *shift, double *sums, int threads) {
    int fine = 1;
#pragma omp parallel for schedule(static) reduction(min : fine) num_threads(worth(threads, samples * each * columns))
    for (int t = 0; t < threads; t++) {
        double *totals = sums + 3 * columns * t;
        float *along = (float *)(totals + 2 * columns), *total = along + columns;
        memset(totals, 0, 3 * columns * sizeof(double));
        count since = 0;
        for (count sample = samples * t / threads; sample < samples * (t + 1) / threads; sample++) {
            double total_sample = 0;
            for (count i = sample * each; i < (sample + 1) * each; i++) {
                double along_row = 0;
                float *own = h + i * columns;
                weigh(g + i * columns, p + i * columns, extra, fx[i], fw, own, along, total, columns, &along_row,
                      &total_sample);
                along_x[i] = (float)-along_row * fx[i] * fx[i];
                if (mean) shift[i] = dot(own, mean, columns);
                if (++since == 64) {
                    move_sums(along, totals, 2 * columns);
                    since = 0;
                }
            }
            if (!fits(total_sample, limit)) fine = 0;
        }
        move_sums(along, totals, 2 * columns);
    }
    for (count j = 0; j < columns; j++) {
        double along = 0, total = 0;
        for (int t = 0; t < threads; t++) {
            along += sums[3 * columns * t + j];
            total += sums[3 * columns * t + columns + j];
        }
        along_w[j] = (float)-along * fw[j] * fw[j];
        if (!fits(total, limit)) fine = 0;
    }
    return fine;
}

CLONES static void scale(const float *x, float factor, float offset, float *out, count size) {
#pragma omp simd
    for (count k = 0; k < size; k++) out[k] = x[k] * factor + offset;
}

/* out = the cosines of x and the weight (null: its rows are unit vectors already) from their products p, and the
 * factors: of the weight (M), of x (N). After the product both matrices may still be in the cache. */
int cosnorm_cosine_rows(const float *p, const float *x, const float *weight, count rows, count columns, count size,
                        double extra, double limit, float *factors, float *out, int threads) {
    float *of_x = factors + columns;
    if (!row_factors(x, rows, size, extra, limit, of_x, threads)) return 0;
    if (!weight)
        ones(factors, columns);
    else if (!row_factors(weight, columns, size, extra, limit, factors, threads))
        return 0;
    cosnorm_finish_rows(p, (float)extra, of_x, factors, out, rows, columns, threads);
    return 1;
}

/* values: the rows of x less their means; factors: of the weight less its means (null: its rows are unit vectors
 * already), of x, and the means of the weight (M). */
int cosnorm_prepare_rows(const float *x, const float *weight, count rows, count columns, count size, double extra,
                         double limit, double constant, float *values, float *factors, int threads) {
    float *of_x = factors + columns;
    if (!center_rows(x, values, rows, size, extra, limit, constant, of_x, threads)) return 0;
    if (weight) return centered_factors(weight, columns, size, extra, limit, factors, of_x + rows, threads);
    ones(factors, columns);
    return 1;
}

/* What `prepare_rows` put into `values`, again: the backward pass would rather compute than keep it. */
void cosnorm_center_rows(const float *x, float *values, count rows, count size, int threads) {
#pragma omp parallel for schedule(static) num_threads(worth(threads, rows * size))
    for (count i = 0; i < rows; i++) center(x + i * size, values + i * size, size);
}

/* h, and what the gradients in x and in the weight (null: not needed) are before the products with h are added:
 * the parts along the vectors, less the mean in what centering leaves of them. x: the values of `prepare_rows`. */
int cosnorm_weigh_rows(const float *g, const float *p, const float *factors, const float *x, const float *weight,
                       count rows, count columns, count size, double extra, double limit, int centered, float *h,
                       float *into_x, float *into_w, int threads) {
    double *sums = malloc(3 * columns * threads * sizeof(double) + (2 * rows + columns) * sizeof(float));
    if (!sums) return 0;
    float *along_x = (float *)(sums + 3 * columns * threads), *shift = along_x + rows, *along_w = shift + rows;
    const float *mean = centered ? factors + columns + rows : 0;
    int fine = weigh_rows(g, p, (float)extra, factors + columns, factors, mean, rows, 1, columns, limit, h, along_x,
                          along_w, shift, sums, threads);
    if (fine && into_x) {
#pragma omp parallel for schedule(static) num_threads(worth(threads, rows * size))
        for (count i = 0; i < rows; i++) scale(x + i * size, along_x[i], mean ? -shift[i] : 0, into_x + i * size, size);
    }
    if (fine && into_w) {
#pragma omp parallel for schedule(static) num_threads(worth(threads, columns * size))
        for (count j = 0; j < columns; j++)
            scale(weight + j * size, along_w[j], mean ? -mean[j] * along_w[j] : 0, into_w + j * size, size);
    }
    free(sums);
    return fine;
}
