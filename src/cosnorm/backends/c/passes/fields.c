/* The passes over receptive fields of float32 images, for cosnorm/kernels/cpu_fields.py.
 *
 * Images are x (samples, groups * channels, height, width) in the order of their dimensions: planes, one for each
 * group of each sample; or with the channels last and one group: then a position is a row. */
#include "fields.h"

CLONES static void add_squares(const float *x, float *out, count size) {
#pragma omp simd
    for (count k = 0; k < size; k++) out[k] += x[k] * x[k];
}

WINDOW_SUMS(float, add_from, box)

CLONES static void add_to(const float *x, float *out, count size, count stride) {
    if (stride == 1)
        add_from(x, out, size, 1);
    else
        for (count k = 0; k < size; k++) out[k * stride] += x[k];
}

/* The adjoint: a number for each window is added to all its positions. */
void spread(const float *windows, const geometry *at, float *scratch, float *map) {
    memset(scratch, 0, at->height * at->out_width * sizeof(float));
    memset(map, 0, at->height * at->width * sizeof(float));
    count first, last;
    for (count k = 0; k < at->kernel[0]; k++) {
        count shift = k * at->dilation[0] - at->padding[0];
        range(shift, at->stride[0], at->height, at->out_height, &first, &last);
        for (count i = first; i < last; i++)
            add_from(windows + i * at->out_width, scratch + (i * at->stride[0] + shift) * at->out_width,
                     at->out_width, 1);
    }
    for (count k = 0; k < at->kernel[1]; k++) {
        count shift = k * at->dilation[1] - at->padding[1];
        range(shift, at->stride[1], at->width, at->out_width, &first, &last);
        for (count i = 0; i < at->height && first < last; i++)
            add_to(scratch + i * at->out_width + first, map + i * at->width + first * at->stride[1] + shift,
                   last - first, at->stride[1]);
    }
}

/* All squared norms to factors at once; 0, and nothing changed, where one is out of the window or zero. */
CLONES static int factors_of(float *squared, count size, float extra, float limit) {
    float low = 1 / limit / limit, high = limit * limit;
    int outside = 0;
#pragma omp simd reduction(| : outside)
    for (count k = 0; k < size; k++)
        outside |= !(squared[k] >= low && squared[k] <= high && squared[k] + extra <= high);
    if (outside) return 0;
#pragma omp simd
    for (count k = 0; k < size; k++) squared[k] = 1 / sqrtf(squared[k] + extra);
    return 1;
}

/* The sum of squares over the channels at each position of a plane. */
static void squares(const float *x, count channels, count size, int last, float *map) {
    memset(map, 0, size * sizeof(float));
    if (last)
        for (count k = 0; k < size; k++) map[k] = (float)sum_of_squares(x + k * channels, channels);
    else
        for (count c = 0; c < channels; c++) add_squares(x + c * size, map, size);
}

/* Whether what vanished when it was squared is zero. */
static int truly_zero(const float *x, const float *map, count channels, count size, int last) {
    for (count k = 0; k < size; k++)
        if (map[k] == 0 && !(last ? all_zero(x + k * channels, channels, 1) : all_zero(x + k, channels, size)))
            return 0;
    return 1;
}

/* factors: of the filters (null: they are unit vectors already), then of the fields of each plane. */
int cosnorm_prepare_fields(const float *x, const float *weight, count planes, count channels, const geometry *at,
                           int last, count filters, double extra, double limit, float *factors, int threads) {
    count size = at->height * at->width, fields = at->out_height * at->out_width;
    int fine = 1;
    if (weight)
        fine = row_factors(weight, filters, channels * at->kernel[0] * at->kernel[1], extra, limit, factors, threads);
    else
        for (count j = 0; j < filters; j++) factors[j] = 1;
    float *scratch = fine ? malloc(threads * scratch_size(at) * sizeof(float)) : 0;
    if (!scratch) return 0;
#pragma omp parallel for schedule(static) reduction(min : fine) num_threads(worth(threads, planes * channels * size))
    for (int t = 0; t < threads; t++) {
        float *map = scratch + t * scratch_size(at);
        for (count plane = planes * t / threads; plane < planes * (t + 1) / threads; plane++) {
            const float *own = x + plane * channels * size;
            float *out = factors + filters + plane * fields;
            squares(own, channels, size, last, map);
            box(map, at, map + size, out);
            if (factors_of(out, fields, (float)extra, (float)limit)) continue;
            int zero = truly_zero(own, map, channels, size, last);
            for (count k = 0; k < fields; k++)
                if (!factor_of(out[k], zero, extra, limit, out + k)) fine = 0;
        }
    }
    free(scratch);
    return fine;
}

CLONES static void finish_positions(const float *p, float extra, const float *fx, float fw, float *out,
                                    count size) {
#pragma omp simd
    for (count j = 0; j < size; j++) {
        float value = (p[j] + extra) * fw * fx[j];
        value = value > 1 ? 1 : value;
        out[j] = value < -1 ? -1 : value;
    }
}

/* out = (p + extra) fx fw, clamped; p (planes, filters of a group, fields); out may be p.
 * With the channels last that is cosnorm_finish_rows. */
void cosnorm_finish_fields(const float *p, float extra, const float *fx, const float *fw, float *out, count planes,
                           count groups, count filters, count fields, int threads) {
#pragma omp parallel for schedule(static) num_threads(worth(threads, planes * filters * fields))
    for (count row = 0; row < planes * filters; row++) {
        count plane = row / filters, filter = plane % groups * filters + row % filters;
        finish_positions(p + row * fields, extra, fx + plane * fields, fw[filter], out + row * fields, fields);
    }
}

CLONES static void weigh_positions(const float *g, const float *p, float extra, const float *fx, float fw, float *h,
                                   float *along, count size, double *along_filter, double *total) {
    for (count start = 0; start < size; start += 512) {
        count end = smaller(size, start + 512);
        float part = 0, magnitude = 0;
#pragma omp simd reduction(+ : part, magnitude)
        for (count j = start; j < end; j++) {
            float weighed = g[j] * fw * fx[j], own = weighed * (p[j] + extra);
            h[j] = weighed;
            along[j] -= own;
            part += own;
            magnitude += fabsf(g[j]);
        }
        *along_filter += part;
        *total += magnitude;
    }
}

CLONES static void times_squares(float *values, const float *factor, count size) {
#pragma omp simd
    for (count j = 0; j < size; j++) values[j] *= factor[j] * factor[j];
}

/* h = g fx fw; along: -f^2 times the sum of h (p + extra), for each filter over its fields, then for each field over
 * the filters of its group. 0 where a sample or a filter of the cotangent is out of its window. */
int cosnorm_weigh_fields(const float *g, const float *p, float extra, const float *factors, count samples,
                         count groups, count filters, count fields, int last, double limit, float *h, float *along,
                         int threads) {
    count all = groups * filters;
    const float *fw = factors, *fx = factors + all;
    double *sums = malloc(3 * all * threads * sizeof(double));
    if (!sums) return 0;
    int fine = 1;
    if (last) {
        fine = weigh_rows(g, p, extra, fx, fw, samples, fields, all, limit, h, along + all, along, sums, threads);
        free(sums);
        return fine;
    }
#pragma omp parallel for schedule(static) reduction(min : fine) num_threads(worth(threads, samples * all * fields))
    for (int t = 0; t < threads; t++) {
        double *along_w = sums + 2 * all * t, *total = along_w + all;
        memset(along_w, 0, 2 * all * sizeof(double));
        for (count n = samples * t / threads; n < samples * (t + 1) / threads; n++) {
            double total_sample = 0;
            for (count group = 0; group < groups; group++) {
                count plane = n * groups + group;
                float *own = along + all + plane * fields;
                memset(own, 0, fields * sizeof(float));
                for (count o = 0; o < filters; o++) {
                    count filter = group * filters + o, row = (plane * filters + o) * fields;
                    double magnitude = 0;
                    weigh_positions(g + row, p + row, extra, fx + plane * fields, fw[filter], h + row, own, fields,
                                    along_w + filter, &magnitude);
                    total[filter] += magnitude;
                    total_sample += magnitude;
                }
                times_squares(own, fx + plane * fields, fields);
            }
            if (!fits(total_sample, limit)) fine = 0;
        }
    }
    for (count filter = 0; filter < all; filter++) {
        double sum = 0, total = 0;
        for (int t = 0; t < threads; t++) {
            sum += sums[2 * all * t + filter];
            total += sums[2 * all * t + all + filter];
        }
        along[filter] = (float)-sum * fw[filter] * fw[filter];
        if (!fits(total, limit)) fine = 0;
    }
    free(sums);
    return fine;
}

CLONES static void add_products(const float *x, const float *map, float *gradient, count size) {
#pragma omp simd
    for (count k = 0; k < size; k++) gradient[k] += x[k] * map[k];
}

CLONES static void add_multiple(const float *x, float factor, float *gradient, count size) {
#pragma omp simd
    for (count k = 0; k < size; k++) gradient[k] += x[k] * factor;
}

/* gradient += x times the sum of `along` (planes, fields) over the windows that each position is in. */
int cosnorm_correct_fields(float *gradient, const float *x, const float *along, count planes, count channels,
                           const geometry *at, int last, int threads) {
    count size = at->height * at->width, fields = at->out_height * at->out_width;
    float *scratch = malloc(threads * scratch_size(at) * sizeof(float));
    if (!scratch) return 0;
#pragma omp parallel for schedule(static) num_threads(worth(threads, planes * channels * size))
    for (int t = 0; t < threads; t++) {
        float *map = scratch + t * scratch_size(at);
        for (count plane = planes * t / threads; plane < planes * (t + 1) / threads; plane++) {
            spread(along + plane * fields, at, map + size, map);
            count start = plane * channels * size;
            if (last)
                for (count k = 0; k < size; k++)
                    add_multiple(x + start + k * channels, map[k], gradient + start + k * channels, channels);
            else
                for (count c = 0; c < channels; c++)
                    add_products(x + start + c * size, map, gradient + start + c * size, size);
        }
    }
    free(scratch);
    return 1;
}
