/* The passes over receptive fields less their means, for cosnorm/kernels/cpu_fields.py; images as in fields.c.
 *
 * The sums are of doubles: a variance is the small difference of two large numbers. A filter less its mean does not
 * see that of a field, so that the images themselves enter the convolution. */
#include "fields.h"

#include <float.h>

WINDOW_SUMS(double, add_doubles, box_doubles)

/* Sum and sum of squares over the channels at each position of a plane, its least value and its largest. */
CLONES static void add_moments(const float *x, count size, double *sums, double *squares, float *low, float *high) {
    float least = *low, most = *high;
#pragma omp simd reduction(min : least) reduction(max : most)
    for (count k = 0; k < size; k++) {
        double value = x[k];
        sums[k] += value;
        squares[k] += value * value;
        least = x[k] < least ? x[k] : least;
        most = x[k] > most ? x[k] : most;
    }
    *low = least;
    *high = most;
}

CLONES static void row_moments(const float *x, count size, double *sums, double *squares, float *low, float *high) {
    float least = *low, most = *high;
    double sum = 0, square = 0;
#pragma omp simd reduction(min : least) reduction(max : most) reduction(+ : sum, square)
    for (count k = 0; k < size; k++) {
        double value = x[k];
        sum += value;
        square += value * value;
        least = x[k] < least ? x[k] : least;
        most = x[k] > most ? x[k] : most;
    }
    *sums = sum;
    *squares = square;
    *low = least;
    *high = most;
}

static void moments(const float *x, count channels, count size, int last, double *sums, double *squares, float *low,
                    float *high) {
    *low = *high = x[0];
    memset(sums, 0, size * sizeof(double));
    memset(squares, 0, size * sizeof(double));
    if (last)
        for (count k = 0; k < size; k++) row_moments(x + k * channels, channels, sums + k, squares + k, low, high);
    else
        for (count c = 0; c < channels; c++) add_moments(x + c * size, size, sums, squares, low, high);
}

/* Data whose values lie so close together that their mean should be subtracted first, which is exact then. */
static int is_offset(double low, double high, double mean) {
    double first = low / mean, second = high / mean;
    return first >= 0.5 && first <= 2 && second >= 0.5 && second <= 2;
}

/* So small a sum of (x - mean)^2 could be that of a constant field (max|x - mean| <= 4 eps |mean|), or be rounded. */
static inline int is_doubtful(double squared, double squares, double mean, double size) {
    double constant = 4 * FLT_EPSILON * mean;
    return !(squared > 1e-8 * squares) || !(squared > size * constant * constant);
}

/* All factors and means at once; 0 where a field needs a closer look. */
CLONES static int factors_of(const double *sums, const double *squares, count fields, double size, double extra,
                             double limit, float *factor, float *mean) {
    double low = 1 / limit / limit, high = limit * limit;
    int outside = 0;
#pragma omp simd reduction(| : outside)
    for (count k = 0; k < fields; k++) {
        double average = sums[k] / size, squared = squares[k] - sums[k] * average;
        outside |= is_doubtful(squared, squares[k], average, size) | !(squared >= low) | !(squared + extra <= high);
        factor[k] = (float)(1 / sqrt(squared + extra));
        mean[k] = (float)average;
    }
    return !outside;
}

/* The sum of (x - mean)^2 over one field, and the largest |x - mean|. */
static double deviations(const float *x, count channels, const geometry *at, int last, count field, double mean,
                         double *largest) {
    double total = 0;
    *largest = 0;
    for (count a = 0; a < at->kernel[0]; a++)
        for (count b = 0; b < at->kernel[1]; b++) {
            count i = field / at->out_width * at->stride[0] + a * at->dilation[0] - at->padding[0];
            count j = field % at->out_width * at->stride[1] + b * at->dilation[1] - at->padding[1];
            int within = i >= 0 && i < at->height && j >= 0 && j < at->width;
            count place = i * at->width + j, size = at->height * at->width;
            for (count c = 0; c < channels; c++) {
                double value = !within ? 0 : last ? x[place * channels + c] : x[c * size + place];
                double deviation = fabs(value - mean);
                total += deviation * deviation;
                if (deviation > *largest) *largest = deviation;
            }
        }
    return total;
}

/* filters: the weight less its means (input where it is folded: unit vectors of mean 0). factors: of the filters, then
 * of the fields of each plane; mean and constant: of the fields. 2 where a field is constant and not zero; `constant`
 * says which. 0, too, for data that should be shifted first. */
int cosnorm_prepare_centered(const float *x, const float *weight, count planes, count channels, const geometry *at,
                             int last, count filters, double extra, double limit, double constant_row, float *centered,
                             float *factors, float *mean, unsigned char *constant, int threads) {
    count size = at->height * at->width, fields = at->out_height * at->out_width;
    count area = channels * at->kernel[0] * at->kernel[1], each = 2 * size + at->height * at->out_width + 2 * fields;
    int fine = 1, found = 0;
    if (weight)
        fine = center_rows(weight, centered, filters, area, extra, limit, constant_row, factors, threads);
    else
        for (count j = 0; j < filters; j++) factors[j] = 1;
    double *scratch = fine ? malloc(threads * each * sizeof(double)) : 0;
    if (!scratch) return 0;
    memset(constant, 0, planes * fields);
#pragma omp parallel for schedule(static) reduction(min : fine) reduction(| : found) \
    num_threads(worth(threads, planes * channels * size))
    for (int t = 0; t < threads; t++) {
        double *sums = scratch + t * each, *squares = sums + size, *rows = squares + size;
        double *of_sums = rows + at->height * at->out_width, *of_squares = of_sums + fields;
        for (count plane = planes * t / threads; fine && plane < planes * (t + 1) / threads; plane++) {
            const float *own = x + plane * channels * size;
            float *factor = factors + filters + plane * fields, low, high;
            moments(own, channels, size, last, sums, squares, &low, &high);
            double total = 0;
            for (count k = 0; k < size; k++) total += sums[k];
            if (!(-low < limit && high < limit) || is_offset(low, high, total / (channels * size))) fine = 0;
            box_doubles(sums, at, rows, of_sums);
            box_doubles(squares, at, rows, of_squares);
            if (factors_of(of_sums, of_squares, fields, area, extra, limit, factor, mean + plane * fields)) continue;
            for (count k = 0; fine && k < fields; k++) {
                double average = of_sums[k] / area, squared = of_squares[k] - of_sums[k] * average, largest;
                int zero = of_squares[k] == 0;
                if (!zero && is_doubtful(squared, of_squares[k], average, area)) {
                    squared = deviations(own, channels, at, last, k, average, &largest);
                    zero = largest <= 4 * FLT_EPSILON * fabs(average);
                    constant[plane * fields + k] = zero;
                    found |= zero;
                }
                if (!factor_of(zero ? 0 : squared, zero, extra, limit, factor + k)) fine = 0;
            }
        }
    }
    free(scratch);
    return fine ? 1 + found : 0;
}

/* Sets the values (planes, filters, fields) of constant fields to 0; with the channels last (planes, fields, filters). */
void cosnorm_clear_fields(float *values, const unsigned char *constant, count planes, count filters, count fields,
                          int last, int threads) {
#pragma omp parallel for schedule(static) num_threads(worth(threads, planes * fields))
    for (count k = 0; k < planes * fields; k++)
        if (constant[k]) {
            float *own = last ? values + k * filters : values + k / fields * filters * fields + k % fields;
            for (count filter = 0; filter < filters; filter++) own[filter * (last ? 1 : fields)] = 0;
        }
}

CLONES static void add_deviations(const float *x, const float *map, const float *offset, float *gradient, count size) {
#pragma omp simd
    for (count k = 0; k < size; k++) gradient[k] += x[k] * map[k] - offset[k];
}

CLONES static void add_row(const float *x, float factor, float offset, float *gradient, count size) {
#pragma omp simd
    for (count k = 0; k < size; k++) gradient[k] += x[k] * factor - offset;
}

/* gradient += the sum of `along` (x - mean) over the windows that each position is in. */
int cosnorm_correct_centered(float *gradient, const float *x, const float *along, const float *mean, count planes,
                             count channels, const geometry *at, int last, int threads) {
    count size = at->height * at->width, fields = at->out_height * at->out_width;
    count each = scratch_size(at) + size + fields;
    float *scratch = malloc(threads * each * sizeof(float));
    if (!scratch) return 0;
#pragma omp parallel for schedule(static) num_threads(worth(threads, planes * channels * size))
    for (int t = 0; t < threads; t++) {
        float *map = scratch + t * each, *offset = map + size, *products = offset + size, *rows = products + fields;
        for (count plane = planes * t / threads; plane < planes * (t + 1) / threads; plane++) {
            const float *own = along + plane * fields, *average = mean + plane * fields;
            for (count k = 0; k < fields; k++) products[k] = own[k] * average[k];
            spread(own, at, rows, map);
            spread(products, at, rows, offset);
            count start = plane * channels * size;
            if (last)
                for (count k = 0; k < size; k++)
                    add_row(x + start + k * channels, map[k], offset[k], gradient + start + k * channels, channels);
            else
                for (count c = 0; c < channels; c++)
                    add_deviations(x + start + c * size, map, offset, gradient + start + c * size, size);
        }
    }
    free(scratch);
    return 1;
}
