#ifndef COSNORM_COMMON_H
#define COSNORM_COMMON_H

/* What the files of passes share.
 *
 * Sums run in blocks of floats whose totals are double. What returns int returns 1, or 0 where the plain form
 * could be wrong: a norm outside of [1/limit, limit] that is not truly 0. NaN and inf end there, too.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

typedef long long count;

static inline count smaller(count a, count b) { return a < b ? a : b; }

/* A second thread costs more than it saves below so many values. */
static inline int worth(int threads, count values) { return values > 32768 ? threads : 1; }

static inline int inside(double norm, double limit) { return norm <= limit && norm >= 1 / limit; }

static inline int all_zero(const float *x, count size, count stride) {
    for (count k = 0; k < size; k++)
        if (x[k * stride] != 0) return 0;
    return 1;
}

/* 1/sqrt(squared + augment_squared), 0 for a zero norm, -1 for one that the plain form does not allow;
 * `zero` says whether the vector of squared norm 0 is a zero vector. */
static inline double reciprocal_norm(double squared, int zero, double augment_squared, double limit) {
    if (squared == 0 ? !zero : !inside(sqrt(squared), limit)) return -1;
    double norm = sqrt(squared + augment_squared);
    if (norm == 0) return 0;
    return augment_squared == 0 || inside(norm, limit) ? 1 / norm : -1;
}

/* The same into `factor`. */
static inline int factor_of(double squared, int zero, double augment_squared, double limit, float *factor) {
    double found = reciprocal_norm(squared, zero, augment_squared, limit);
    *factor = (float)found;
    return found >= 0;
}

static inline int fits(double total, double limit) { return total == 0 || inside(total, limit); }

/* Those of rows.c that the others use, too; each opens a region. sums: 3 * columns * threads of scratch. */
void add_scaled(const float *x, float factor, float *out, count size);
void move_sums(float *part, double *total, count size);
double sum_of_squares(const float *x, count size);
int row_factors(const float *x, count rows, count size, double augment_squared, double limit, float *factor,
                int threads);
int center_rows(const float *x, float *out, count rows, count size, double augment_squared, double limit,
                double constant, float *factor, int threads);
int weigh_rows(const float *g, const float *p, float augment_squared, const float *fx, const float *fw,
               count samples, count each, count columns, double limit, float *h, float *along_x,
               float *along_w, double *sums, int threads);

#endif
