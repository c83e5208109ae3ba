/* The passes over sparse rows (CSR, int64) and a weight that lies a feature at a time, (features, columns): for
 * cosnorm/kernels/cpu_sparse.py. The weight is larger than the caches, so that each function reads it once. */
#include "common.h"
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#define BLOCK 256              /* features whose sums are floats, before they enter a double */
#define TOGETHER (1LL << 20)   /* products of all threads that are summed while the weight is read */
#define CACHED (1LL << 22)     /* values of a gradient that may be found in the cache again */

typedef struct {
    const count *starts, *columns;
    const float *values;
    count rows;
} matrix;

/* Indices are the user's: none may point outside of the weight. */
static int valid(matrix x, count features) {
    if (x.starts[0] != 0) return 0;
    for (count n = 0; n < x.rows; n++)
        if (x.starts[n + 1] < x.starts[n]) return 0;
    for (count i = 0; i < x.starts[x.rows]; i++)
        if (x.columns[i] < 0 || x.columns[i] >= features) return 0;
    return 1;
}

/* The samples that have a feature, and their values: starts[d] to starts[d + 1] of both. */
typedef struct {
    count *starts, *samples;
    float *values;
} transposed;

static int transpose(matrix x, count features, transposed *out) {
    count size = x.starts[x.rows];
    count *starts = malloc((features + 2 + size) * sizeof(count) + size * sizeof(float));
    if (!starts) return 0;
    memset(starts, 0, (features + 2) * sizeof(count));
    out->starts = starts;
    out->samples = starts + features + 2;
    out->values = (float *)(out->samples + size);
    for (count i = 0; i < size; i++) starts[x.columns[i] + 2]++;
    for (count d = 0; d < features; d++) starts[d + 2] += starts[d + 1];
    for (count n = 0; n < x.rows; n++)
        for (count i = x.starts[n]; i < x.starts[n + 1]; i++) {
            count place = starts[x.columns[i] + 1]++;
            out->samples[place] = n;
            out->values[place] = x.values[i];
        }
    return 1;
}

CLONES static void add_square(const float *x, float *squares, float *sums, count size) {
#pragma omp simd
    for (count k = 0; k < size; k++) squares[k] += x[k] * x[k];
    if (!sums) return;
#pragma omp simd
    for (count k = 0; k < size; k++) sums[k] += x[k];
}

/* The same for four features; the next four are fetched meanwhile. */
CLONES static void add_squares(const float *x, float *squares, float *sums, count size) {
    const float *second = x + size, *third = second + size, *fourth = third + size;
    for (count k = 0; k < 4 * size; k += 16) __builtin_prefetch(x + 4 * size + k);
#pragma omp simd
    for (count k = 0; k < size; k++)
        squares[k] += (x[k] * x[k] + second[k] * second[k]) + (third[k] * third[k] + fourth[k] * fourth[k]);
    if (!sums) return;
#pragma omp simd
    for (count k = 0; k < size; k++) sums[k] += (x[k] + second[k]) + (third[k] + fourth[k]);
}

static void add_feature(transposed lists, count d, const float *feature, float *products, count columns) {
    for (count i = lists.starts[d]; i < lists.starts[d + 1]; i++)
        add_scaled(feature, lists.values[i], products + lists.samples[i] * columns, columns);
}

/* Sums over the features from first to last: totals, those of the squares and (with `sums`) of the values, as
 * doubles; and the products with the samples, if there are lists of them. part: scratch like the totals. */
static void read_weight(const float *weight, count first, count last, count columns, int sums, double *totals,
                        float *part, const transposed *lists, float *products) {
    count width = sums ? 2 * columns : columns, since = 0, d = first;
    float *second = sums ? part + columns : 0;
    memset(totals, 0, width * sizeof(double));
    memset(part, 0, width * sizeof(float));
    for (; d + 4 <= last; d += 4) {
        add_squares(weight + d * columns, part, second, columns);
        if (lists)
            for (count own = d; own < d + 4; own++)
                add_feature(*lists, own, weight + own * columns, products, columns);
        if ((since += 4) == BLOCK) {
            move_sums(part, totals, width);
            since = 0;
        }
    }
    for (; d < last; d++) {
        add_square(weight + d * columns, part, second, columns);
        if (lists) add_feature(*lists, d, weight + d * columns, products, columns);
    }
    move_sums(part, totals, width);
}

static void gather(matrix x, const float *weight, count columns, float *out, int threads) {
    threads = worth(threads, x.starts[x.rows] * columns);
#pragma omp parallel for schedule(dynamic, 8) num_threads(threads)
    for (count n = 0; n < x.rows; n++) {
        float *own = out + n * columns;
        memset(own, 0, columns * sizeof(float));
        for (count i = x.starts[n]; i < x.starts[n + 1]; i++) {
            if (i + 1 < x.starts[n + 1])
                for (count k = 0; k < columns; k += 16) __builtin_prefetch(weight + x.columns[i + 1] * columns + k);
            add_scaled(weight + x.columns[i] * columns, x.values[i], own, columns);
        }
    }
}

/* out = x·w, (rows, columns). */
int cosnorm_sparse_products(const count *starts, const count *indices, const float *values, count rows,
                            const float *weight, count features, count columns, float *out, int threads) {
    matrix x = {starts, indices, values, rows};
    if (!valid(x, features)) return 0;
    gather(x, weight, columns, out, threads);
    return 1;
}

/* factors: 1/|w| of each column; centered: 1/|w - mean| from |w|^2 - D mean^2, then the means. Then 0, too, where
 * a mean above half of |w|^2, or above `share` of |w|, would eat its digits. */
static int column_factors(const float *weight, const double *totals, count features, count columns, double extra,
                          double limit, int centered, double share, float *factors) {
    for (count k = 0; k < columns; k++) {
        double squared = totals[k], offset = 0;
        if (centered) {
            double mean = totals[columns + k] / features, norm = sqrt(squared);
            offset = mean * mean * features;
            factors[columns + k] = (float)mean;
            if (!inside(norm, limit) || !(offset <= squared / 2) || !(fabs(mean) <= share * norm)) return 0;
        }
        int zero = squared == 0 && all_zero(weight + k, features, columns);
        if (!factor_of(squared - offset, zero, extra, limit, factors + k)) return 0;
    }
    return 1;
}

/* out = x·w, and the factors of w as above. While few samples are asked for, the weight is read once for both. */
int cosnorm_sparse_cosine(const count *starts, const count *indices, const float *values, count rows,
                          const float *weight, count features, count columns, double extra, double limit,
                          int centered, double share, float *factors, float *out, int threads) {
    matrix x = {starts, indices, values, rows};
    count width = centered ? 2 * columns : columns, size = rows * columns;
    threads = worth(threads, features * columns);
    int together = size * threads <= TOGETHER, fine = valid(x, features);
    transposed lists = {0};
    /* The products of the first thread are `out` itself. */
    double *totals = malloc(threads * width * (sizeof(double) + sizeof(float)));
    float *parts = (float *)(totals + threads * width);
    float *others = together && threads > 1 ? malloc((threads - 1) * size * sizeof(float)) : 0;
    fine = fine && totals && (!together || ((others || threads == 1) && transpose(x, features, &lists)));
    if (fine) {
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int t = 0; t < threads; t++) {
            float *products = t ? others + (t - 1) * size : out;
            if (together) memset(products, 0, size * sizeof(float));
            read_weight(weight, features * t / threads, features * (t + 1) / threads, columns, centered,
                        totals + t * width, parts + t * width, together ? &lists : 0, products);
        }
        for (int t = 1; t < threads; t++) {
            for (count k = 0; k < width; k++) totals[k] += totals[t * width + k];
            if (together) add_scaled(others + (t - 1) * size, 1, out, size);
        }
        fine = column_factors(weight, totals, features, columns, extra, limit, centered, share, factors);
        if (fine && !together) gather(x, weight, columns, out, threads);
    }
    free(totals);
    free(others);
    free(lists.starts);
    return fine;
}

CLONES static void project(const float *x, const float *along, const float *offset, float *out, count size) {
#pragma omp simd
    for (count k = 0; k < size; k++) out[k] = x[k] * along[k] + offset[k];
}

/* The same, and `copy`, past the cache: what is written once and is larger than the cache need not be read first. */
#if defined(__x86_64__)
static count unaligned(const float *out, count size) {
    count first = ((16 - ((size_t)out & 15)) & 15) / sizeof(float);
    return smaller(first, size);
}

static void project_past(const float *x, const float *along, const float *offset, float *out, count size) {
    count k = unaligned(out, size);
    project(x, along, offset, out, k);
    for (; k + 4 <= size; k += 4) {
        __m128 scaled = _mm_mul_ps(_mm_loadu_ps(x + k), _mm_loadu_ps(along + k));
        _mm_stream_ps(out + k, _mm_add_ps(scaled, _mm_loadu_ps(offset + k)));
    }
    project(x + k, along + k, offset + k, out + k, size - k);
}

static void copy_past(const float *x, float *out, count size) {
    count k = unaligned(out, size);
    memcpy(out, x, k * sizeof(float));
    for (; k + 4 <= size; k += 4) _mm_stream_ps(out + k, _mm_loadu_ps(x + k));
    memcpy(out + k, x + k, (size - k) * sizeof(float));
}

#define END_PAST() _mm_sfence()
#else
#define project_past project
#define copy_past(x, out, size) memcpy(out, x, (size) * sizeof(float))
#define END_PAST()
#endif

/* A gradient that the system hands out page by page costs more than what is written to it. */
static void huge_pages(float *out, count size) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    size_t page = 1 << 21, first = ((size_t)out + page - 1) / page * page, last = (size_t)(out + size) / page * page;
    if (last > first) madvise((void *)first, last - first, MADV_HUGEPAGE); /* a wish: it may fail */
#else
    (void)out, (void)size;
#endif
}

/* out (features, columns) = w * along + offset + transposed x times h, h (rows, columns). weight null: without the
 * first; `along` is not read then. */
int cosnorm_sparse_gradient(const count *starts, const count *indices, const float *values, count rows,
                            const float *h, const float *weight, const float *along, const float *offset,
                            count features, count columns, float *out, int threads) {
    matrix x = {starts, indices, values, rows};
    transposed lists;
    if (!valid(x, features) || !transpose(x, features, &lists)) return 0;
    threads = worth(threads, features * columns);
    int past = features * columns > CACHED;
    if (past) huge_pages(out, features * columns);
    float *scratch = malloc(threads * columns * sizeof(float));
    if (!scratch) {
        free(lists.starts);
        return 0;
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int t = 0; t < threads; t++) {
        for (count d = features * t / threads; d < features * (t + 1) / threads; d++) {
            const float *feature = weight ? weight + d * columns : 0;
            float *place = out + d * columns, *own = past ? scratch + t * columns : place;
            if (past && lists.starts[d] == lists.starts[d + 1]) {
                if (feature)
                    project_past(feature, along, offset, place, columns);
                else
                    copy_past(offset, place, columns);
                continue;
            }
            if (feature)
                project(feature, along, offset, own, columns);
            else
                memcpy(own, offset, columns * sizeof(float));
            for (count i = lists.starts[d]; i < lists.starts[d + 1]; i++)
                add_scaled(h + lists.samples[i] * columns, lists.values[i], own, columns);
            if (past) copy_past(own, place, columns);
        }
        END_PAST();
    }
    free(scratch);
    free(lists.starts);
    return 1;
}
