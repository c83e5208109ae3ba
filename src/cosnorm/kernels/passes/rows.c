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

CLONES void add_scaled(const float *x, float factor, float *out, count size) {
#pragma omp simd
    for (count k = 0; k < size; k++) out[k] += factor * x[k];
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
int center_rows(const float *x, float *out, count rows, count size, double extra, double limit, double constant,
                float *factor, int threads) {
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

/* |w|^2, and the products of w with four vectors, from one reading. */
CLONES static double products_of_four(const float *w, const float *const x[4], count size, double out[4]) {
    double total = 0;
    for (int n = 0; n < 4; n++) out[n] = 0;
    for (count start = 0; start < size; start += 512) {
        count end = smaller(size, start + 512);
        const float *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
        float square = 0, first = 0, second = 0, third = 0, fourth = 0;
#pragma omp simd reduction(+ : square, first, second, third, fourth)
        for (count k = start; k < end; k++) {
            square += w[k] * w[k];
            first += w[k] * x0[k];
            second += w[k] * x1[k];
            third += w[k] * x2[k];
            fourth += w[k] * x3[k];
        }
        total += square;
        out[0] += first;
        out[1] += second;
        out[2] += third;
        out[3] += fourth;
    }
    return total;
}

/* As cosnorm_cosine_rows, for few rows of x: it takes the products, too, into p, and reads the weight once. */
int cosnorm_cosine_few(const float *x, const float *weight, count rows, count columns, count size, double extra,
                       double limit, int folded, float *p, float *factors, float *out, int threads) {
    float *of_x = factors + columns;
    int fine = row_factors(x, rows, size, extra, limit, of_x, threads);
    if (!fine) return 0;
#pragma omp parallel for schedule(static) reduction(min : fine) num_threads(worth(threads, columns * size))
    for (count j = 0; j < columns; j++) {
        const float *own = weight + j * size;
        double squared = 0, products[4];
        for (count first = 0; first < rows; first += 4) {
            const float *vectors[4];
            for (count n = 0; n < 4; n++) vectors[n] = x + smaller(first + n, rows - 1) * size;
            squared = products_of_four(own, vectors, size, products);
            for (count n = 0; n < 4 && first + n < rows; n++) p[(first + n) * columns + j] = (float)products[n];
        }
        if (folded)
            factors[j] = 1;
        else if (!factor_of(squared, squared == 0 && all_zero(own, size, 1), extra, limit, factors + j))
            fine = 0;
    }
    if (fine) cosnorm_finish_rows(p, (float)extra, of_x, factors, out, rows, columns, threads);
    return fine;
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

/* into_x += h·w and, where it is wanted, into_w = along w + offset + h·x, from one reading of the weight. */
static int few_gradients(const float *h, const float *x, const float *weight, const float *along, const float *mean,
                         count rows, count columns, count size, float *into_x, float *into_w, int threads) {
    threads = worth(threads, columns * size);
    float *parts = into_x ? calloc(threads * rows * size, sizeof(float)) : 0;
    if (into_x && !parts) return 0;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int t = 0; t < threads; t++) {
        float *part = parts ? parts + t * rows * size : 0;
        for (count j = columns * t / threads; j < columns * (t + 1) / threads; j++) {
            const float *own = weight + j * size;
            float *place = into_w ? into_w + j * size : 0;
            if (place) scale(own, along[j], mean ? -mean[j] * along[j] : 0, place, size);
            for (count n = 0; n < rows; n++) {
                if (part) add_scaled(own, h[n * columns + j], part + n * size, size);
                if (place) add_scaled(x + n * size, h[n * columns + j], place, size);
            }
        }
    }
    for (count k = 0; parts && k < threads * rows; k++)
        add_scaled(parts + k * size, 1, into_x + k % rows * size, size);
    free(parts);
    return 1;
}

/* h, and what the gradients in x and in the weight (null: not needed) are before the products with h are added:
 * the parts along the vectors, less the mean in what centering leaves of them. x: the values of `prepare_rows`.
 * With `few` rows of x the products are added, too. */
int cosnorm_weigh_rows(const float *g, const float *p, const float *factors, const float *x, const float *weight,
                       count rows, count columns, count size, double extra, double limit, int centered, int few,
                       float *h, float *into_x, float *into_w, int threads) {
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
    if (fine && few) {
        fine = few_gradients(h, x, weight, along_w, mean, rows, columns, size, into_x, into_w, threads);
    } else if (fine && into_w) {
#pragma omp parallel for schedule(static) num_threads(worth(threads, columns * size))
        for (count j = 0; j < columns; j++)
            scale(weight + j * size, along_w[j], mean ? -mean[j] * along_w[j] : 0, into_w + j * size, size);
    }
    free(sums);
    return fine;
}
