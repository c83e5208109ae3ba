/* The passes over rows, for cosnorm/backends/c/rows.py and the other files here: rows.h for each type. */
#ifdef __linux__
#define _GNU_SOURCE /* RUSAGE_THREAD */
#include <sys/resource.h>
#include <time.h>
#endif

#include "common.h"

#include <stdint.h>

/* Which sources this is compiled from: library.py takes no other than those that it finds. */
const uint32_t cosnorm_sources = COSNORM_SOURCES;

/* Whether other processes want this thread's processor: for a quarter of a second it lost it more than 25
 * times a second (8 on a quiet machine, 60 to 130 beside one to six busy processes). */
static int crowded(void) {
#ifdef RUSAGE_THREAD
    static _Thread_local double since;
    static _Thread_local long lost;
    static _Thread_local int found;
    struct timespec now;
    struct rusage usage;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    double seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec - since;
    if (seconds > 0.25 && getrusage(RUSAGE_THREAD, &usage) == 0) {
        found = (double)(usage.ru_nivcsw - lost) > 25 * seconds;
        lost = usage.ru_nivcsw;
        since += seconds;
    }
    return found;
#else
    return 0;
#endif
}

/* How many threads a call takes. On a crowded machine one: the second would be waited for longer than it
 * could help. */
static int team(int threads, count values) { return crowded() ? 1 : worth(threads, values); }

/* The same of few rows: several, whose product torch would wait for in the same way, take all. */
static int few_team(int threads, count rows, count values) {
    return rows > 1 ? worth(threads, values) : team(threads, values);
}

#define READ(value) (value)
#define WRITE(value) (value)
#define VALUE_MANY NUMBER_MANY

#define VALUE float
#define NUMBER float
#define NAME(stem) stem##_float32
#include "rows.h"
#undef VALUE
#undef NUMBER
#undef NAME

#define VALUE double
#define NUMBER double
#define NAME(stem) stem##_float64
#include "rows.h"
#undef VALUE
#undef NUMBER
#undef NAME
#undef READ
#undef WRITE
#undef VALUE_MANY

/* bfloat16 is the upper half of a float. */
typedef uint16_t halves __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint32_t words __attribute__((vector_size(64)));

static inline float from_bfloat16(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}

/* Rounds half to even; no NaN comes here. */
static inline uint16_t to_bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#define VALUE uint16_t
#define NUMBER float
#define NAME(stem) stem##_bfloat16
#define READ(value) from_bfloat16(value)
#define WRITE(value) to_bfloat16(value)
#define VALUE_MANY(x, k) \
    ((lanes_bfloat16)(__builtin_convertvector(*(const halves *)((x) + (k)), words) << 16))
#include "rows.h"

/* What the passes over fields and sparse rows use, with regions of their own. */

void add_scaled(const float *x, float factor, float *out, count size) {
    add_scaled_float32(x, factor, out, size);
}

void move_sums(float *part, double *total, count size) { move_sums_float32(part, total, size); }

double sum_of_squares(const float *x, count size) { return sum_of_squares_float32(x, size); }

int row_factors(const float *x, count rows, count size, double augment_squared, double limit, float *factor,
                int threads) {
    int fine = 1;
#pragma omp parallel num_threads(worth(threads, rows *size)) reduction(min : fine)
    row_factors_float32(x, rows, size, augment_squared, limit, factor, &fine);
    return fine;
}

int center_rows(const float *x, float *out, count rows, count size, double augment_squared, double limit,
                double constant, float *factor, int threads) {
    int fine = 1;
#pragma omp parallel num_threads(worth(threads, rows *size)) reduction(min : fine)
    center_rows_float32(x, out, rows, size, augment_squared, limit, constant, factor, &fine);
    return fine;
}

int weigh_rows(const float *g, const float *p, float augment_squared, const float *fx, const float *fw,
               count samples, count each, count columns, double limit, float *h, float *along_x,
               float *along_w, double *sums, int threads) {
    int fine = 1;
#pragma omp parallel num_threads(worth(threads, samples * each * columns)) reduction(min : fine)
    {
#pragma omp for schedule(static)
        for (int t = 0; t < threads; t++)
            weigh_part_float32(g, p, augment_squared, fx, fw, 0, samples * t / threads,
                               samples * (t + 1) / threads, each, columns, limit, h, along_x, 0,
                               sums_of_float32(sums, columns, t), &fine);
#pragma omp for schedule(static)
        for (count j = 0; j < columns; j++)
            along_w[j] = along_column_float32(sums, columns, threads, j, fw[j], limit, &fine);
    }
    return fine;
}

/* The rows less their means, also in place. */
void cosnorm_center_rows(const float *x, float *out, count rows, count size, int threads) {
#pragma omp parallel for schedule(static) num_threads(worth(threads, rows *size))
    for (count i = 0; i < rows; i++) {
        double squared;
        center_float32(x + i * size, out + i * size, size, &squared);
    }
}

/* out = (p + augment_squared) fx fw in [-1, 1]; out may be p. */
void cosnorm_finish_rows(const float *p, float augment_squared, const float *fx, const float *fw, float *out,
                         count rows, count columns, int threads) {
#pragma omp parallel num_threads(worth(threads, rows *columns))
    finish_rows_float32(p, augment_squared, fx, fw, out, rows, columns);
}
