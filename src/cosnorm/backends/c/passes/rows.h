/* The passes over the rows of contiguous matrices of one type: rows.c includes this once for each of them.
 *
 * VALUE is the type of the matrices, NUMBER that of factors and sums; READ and WRITE lead from one to the
 * other, and NAME gives a name its ending. `#pragma omp for` shares a loop among the threads of the region
 * in which the function is called: a call from Python opens one region, and between its passes there is at
 * most a barrier. Each thread has its own `fine`; none leaves early, because the others would wait for it. */

/* Sums run in LANES side by side, which need not wait for one another: the compiler's own way would add up
 * the lanes one after the other at the end of each. */
typedef NUMBER NAME(lanes) __attribute__((vector_size(64), aligned(__alignof__(VALUE)), may_alias));
#define LANES ((count)(64 / sizeof(NUMBER)))
#define BLOCK (128 * LANES) /* values whose sum is a NUMBER in each lane before it enters a double */
#define PIECE 512           /* values that a loop leaves in the cache for the next */

static inline double NAME(sum_lanes)(NUMBER *lane) {
    for (count half = LANES / 2; half; half /= 2)
        for (count k = 0; k < half; k++) lane[k] += lane[k + half];
    return lane[0];
}

/* The sum of TERM(MANY, k), which is LANES values from k on, and of TERM(ONE, k). */
#define ADD_UP(TERM)                                                      \
    double total = 0;                                                     \
    count k = 0;                                                          \
    while (k + LANES <= size) {                                           \
        NAME(lanes) first = {0}, second = {0}, third = {0}, fourth = {0}; \
        count end = smaller(size, k + BLOCK);                             \
        for (; k + 4 * LANES <= end; k += 4 * LANES) {                    \
            first += TERM(MANY, k);                                       \
            second += TERM(MANY, k + LANES);                              \
            third += TERM(MANY, k + 2 * LANES);                           \
            fourth += TERM(MANY, k + 3 * LANES);                          \
        }                                                                 \
        for (; k + LANES <= end; k += LANES) first += TERM(MANY, k);      \
        first = (first + second) + (third + fourth);                      \
        total += NAME(sum_lanes)((NUMBER *)&first);                       \
    }                                                                     \
    NUMBER rest = 0;                                                      \
    for (; k < size; k++) rest += TERM(ONE, k);                           \
    return total + rest;

#define VALUE_ONE(x, k) READ((x)[k])
#define NUMBER_MANY(x, k) (*(const NAME(lanes) *)((x) + (k)))
#define NUMBER_ONE(x, k) ((x)[k])
#define DIFFERENCE(HOW, k) (VALUE_##HOW(x, k) - offset)
#define SQUARE(HOW, k) (VALUE_##HOW(x, k) * VALUE_##HOW(x, k))
#define PRODUCT(HOW, k) (VALUE_##HOW(x, k) * NUMBER_##HOW(y, k))
#define NUMBER_ITSELF(HOW, k) NUMBER_##HOW(x, k)

/* The sum of x - offset. */
CLONES static double NAME(sum)(const VALUE *x, NUMBER offset, count size) { ADD_UP(DIFFERENCE) }

CLONES static double NAME(sum_of_squares)(const VALUE *x, count size) { ADD_UP(SQUARE) }

CLONES static double NAME(dot)(const VALUE *x, const NUMBER *y, count size) { ADD_UP(PRODUCT) }

CLONES static double NAME(sum_of_numbers)(const NUMBER *x, count size) { ADD_UP(NUMBER_ITSELF) }

CLONES static void NAME(add_scaled)(const VALUE *x, NUMBER factor, NUMBER *out, count size) {
#pragma omp simd
    for (count k = 0; k < size; k++) out[k] += factor * READ(x[k]);
}

CLONES static void NAME(add_numbers)(const NUMBER *x, NUMBER *out, count size) {
#pragma omp simd
    for (count k = 0; k < size; k++) out[k] += x[k];
}

CLONES static void NAME(scale)(const VALUE *x, NUMBER factor, NUMBER offset, VALUE *out, count size) {
#pragma omp simd
    for (count k = 0; k < size; k++) out[k] = WRITE(READ(x[k]) * factor + offset);
}

static int NAME(is_zero)(const VALUE *x, count size) {
    for (count k = 0; k < size; k++)
        if (READ(x[k]) != 0) return 0;
    return 1;
}

/* factor: 1/|row|. */
static void NAME(row_factors)(const VALUE *x, count rows, count size, double augment_squared, double limit,
                              NUMBER *factor, int *fine) {
#pragma omp for schedule(static) nowait
    for (count i = 0; i < rows; i++) {
        double squared = NAME(sum_of_squares)(x + i * size, size);
        int zero = squared == 0 && NAME(is_zero)(x + i * size, size);
        double found = reciprocal_norm(squared, zero, augment_squared, limit);
        factor[i] = (NUMBER)found;
        if (found < 0) *fine = 0;
    }
}

CLONES static void NAME(subtract)(const VALUE *x, NUMBER mean, NUMBER rest, VALUE *out, count size) {
#pragma omp simd
    for (count k = 0; k < size; k++) out[k] = WRITE(READ(x[k]) - mean - rest);
}

/* out: the row less its mean, which it returns, and the square of what is left. The mean is taken twice,
 * because the first one is rounded. out may be x. */
static NUMBER NAME(center)(const VALUE *x, VALUE *out, count size, double *squared) {
    NUMBER mean = (NUMBER)(NAME(sum)(x, 0, size) / size);
    NAME(subtract)(x, mean, (NUMBER)(NAME(sum)(x, mean, size) / size), out, size);
    *squared = NAME(sum_of_squares)(out, size);
    return mean;
}

/* out: the rows less their means; factor: of those. Where |x - mean| is at most constant * |mean| the row
 * could count as constant. */
static void NAME(center_rows)(const VALUE *x, VALUE *out, count rows, count size, double augment_squared,
                              double limit, double constant, NUMBER *factor, int *fine) {
#pragma omp for schedule(static) nowait
    for (count i = 0; i < rows; i++) {
        double squared, mean = NAME(center)(x + i * size, out + i * size, size, &squared);
        double found = reciprocal_norm(squared, 0, augment_squared, limit);
        factor[i] = (NUMBER)found;
        if (found < 0 || !(sqrt(squared) > constant * fabs(mean))) *fine = 0;
    }
}

/* 1/|row - mean| without the deviations, from |w|^2 - D mean^2; -1, too, where a mean above half of the row
 * would eat its digits. */
static double NAME(centered_factor)(double squared, double sum, count size, double augment_squared,
                                    double limit, NUMBER *mean) {
    double offset = sum / size * sum;
    *mean = (NUMBER)(sum / size);
    return offset <= squared / 2 ? reciprocal_norm(squared - offset, 0, augment_squared, limit) : -1;
}

static void NAME(centered_factors)(const VALUE *x, count rows, count size, double augment_squared,
                                   double limit, NUMBER *factor, NUMBER *mean, int *fine) {
#pragma omp for schedule(static) nowait
    for (count i = 0; i < rows; i++) {
        double squared = NAME(sum_of_squares)(x + i * size, size), sum = NAME(sum)(x + i * size, 0, size);
        double found = NAME(centered_factor)(squared, sum, size, augment_squared, limit, mean + i);
        factor[i] = (NUMBER)found;
        if (found < 0) *fine = 0;
    }
}

CLONES static void NAME(finish)(const VALUE *p, NUMBER augment_squared, NUMBER fx, const NUMBER *fw,
                                VALUE *out, count size) {
#pragma omp simd
    for (count j = 0; j < size; j++) {
        NUMBER value = (READ(p[j]) + augment_squared) * fx * fw[j];
        value = value > 1 ? 1 : value;
        out[j] = WRITE(value < -1 ? -1 : value);
    }
}

/* out = (p + augment_squared) fx fw in [-1, 1]; out may be p. */
static void NAME(finish_rows)(const VALUE *p, double augment_squared, const NUMBER *fx, const NUMBER *fw,
                              VALUE *out, count rows, count columns) {
#pragma omp for schedule(static) nowait
    for (count i = 0; i < rows; i++)
        NAME(finish)(p + i * columns, (NUMBER)augment_squared, fx[i], fw, out + i * columns, columns);
}

/* Before the product of centered rows. values: the rows of x less their means. statistics: the factors of
 * the weight (null: its rows are unit vectors of mean 0 already) and of x, and the means of the weight. */
int NAME(cosnorm_center)(const VALUE *x, const VALUE *weight, count rows, count columns, count size,
                         double augment_squared, double limit, double constant, VALUE *values,
                         NUMBER *statistics, int threads) {
    NUMBER *of_x = statistics + columns;
    int fine = 1;
#pragma omp parallel num_threads(team(threads, (rows + columns) * size)) reduction(min : fine)
    {
        NAME(center_rows)(x, values, rows, size, augment_squared, limit, constant, of_x, &fine);
        if (weight)
            NAME(centered_factors)(weight, columns, size, augment_squared, limit, statistics, of_x + rows,
                                   &fine);
    }
    for (count j = 0; !weight && j < columns; j++) statistics[j] = 1;
    return fine;
}

/* Behind the product p. out: the cosines, also into p; statistics: as above, or null where nobody wants them.
 * x null: they are there already. */
int NAME(cosnorm_cosines)(const VALUE *p, const VALUE *x, const VALUE *weight, count rows, count columns,
                          count size, double augment_squared, double limit, NUMBER *statistics, VALUE *out,
                          int threads) {
    NUMBER *scratch = statistics ? 0 : malloc((rows + columns) * sizeof(NUMBER));
    if (!statistics && !scratch) return 0;
    NUMBER *of_w = statistics ? statistics : scratch, *of_x = of_w + columns;
    int fine = 1;
    threads = team(threads, rows * columns + (x ? rows + columns : 0) * size);
    for (count j = 0; x && !weight && j < columns; j++) of_w[j] = 1;
#pragma omp parallel num_threads(threads) reduction(min : fine)
    {
        if (x) {
            NAME(row_factors)(x, rows, size, augment_squared, limit, of_x, &fine);
            if (weight) NAME(row_factors)(weight, columns, size, augment_squared, limit, of_w, &fine);
#pragma omp barrier
        }
        NAME(finish_rows)(p, augment_squared, of_x, of_w, out, rows, columns);
    }
    free(scratch);
    return fine;
}

/* |w|^2, and the products of w with four rows, from one reading. */
CLONES static double NAME(products_of_four)(const VALUE *w, const VALUE *const x[4], count size,
                                            double out[4]) {
    const VALUE *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
    double totals[5] = {0};
    count k = 0;
    while (k + LANES <= size) {
        NAME(lanes) sums[5] = {{0}};
        for (count end = smaller(size, k + BLOCK); k + LANES <= end; k += LANES) {
            NAME(lanes) value = VALUE_MANY(w, k);
            sums[0] += value * VALUE_MANY(x0, k);
            sums[1] += value * VALUE_MANY(x1, k);
            sums[2] += value * VALUE_MANY(x2, k);
            sums[3] += value * VALUE_MANY(x3, k);
            sums[4] += value * value;
        }
        for (int n = 0; n < 5; n++) totals[n] += NAME(sum_lanes)((NUMBER *)(sums + n));
    }
    for (; k < size; k++) {
        double value = READ(w[k]);
        totals[4] += value * value;
        for (int n = 0; n < 4; n++) totals[n] += value * READ(x[n][k]);
    }
    for (int n = 0; n < 4; n++) out[n] = totals[n];
    return totals[4];
}

/* The products p of few rows with the weight, and its factors, from one reading of it. */
static void NAME(few_products)(const VALUE *x, const VALUE *weight, count rows, count columns, count size,
                               double augment_squared, double limit, int centered, int folded, VALUE *p,
                               NUMBER *factor, NUMBER *mean, int *fine) {
#pragma omp for schedule(static)
    for (count j = 0; j < columns; j++) {
        const VALUE *own = weight + j * size;
        double squared = 0, products[4], found = 1;
        for (count first = 0; first < rows; first += 4) {
            const VALUE *vectors[4];
            for (count n = 0; n < 4; n++) vectors[n] = x + smaller(first + n, rows - 1) * size;
            squared = NAME(products_of_four)(own, vectors, size, products);
            for (count n = 0; n < 4 && first + n < rows; n++)
                p[(first + n) * columns + j] = WRITE((NUMBER)products[n]);
        }
        if (!folded && centered)
            found = NAME(centered_factor)(squared, NAME(sum)(own, 0, size), size, augment_squared, limit,
                                          mean + j);
        else if (!folded)
            found =
                reciprocal_norm(squared, squared == 0 && NAME(is_zero)(own, size), augment_squared, limit);
        factor[j] = (NUMBER)found;
        if (found < 0) *fine = 0;
    }
}

/* The cosines of few rows, into `out`, and what goes with them: p, the products; statistics, as above.
 * values: place for the rows of x less their means, null where they are not centered. */
int NAME(cosnorm_few_cosines)(const VALUE *x, const VALUE *weight, count rows, count columns, count size,
                              double augment_squared, double limit, double constant, int folded,
                              VALUE *values, VALUE *p, NUMBER *statistics, VALUE *out, int threads) {
    NUMBER *of_x = statistics + columns;
    int fine = 1;
    threads = few_team(threads, rows, columns * size);
#pragma omp parallel num_threads(threads) reduction(min : fine)
    {
        if (values) {
            NAME(center_rows)(x, values, rows, size, augment_squared, limit, constant, of_x, &fine);
#pragma omp barrier
        } else
            NAME(row_factors)(x, rows, size, augment_squared, limit, of_x, &fine);
        NAME(few_products)(values ? values : x, weight, rows, columns, size, augment_squared, limit,
                           values != 0, folded, p, statistics, of_x + rows, &fine);
        NAME(finish_rows)(p, augment_squared, of_x, statistics, out, rows, columns);
    }
    return fine;
}

/* Moves sums into those of doubles. */
CLONES static void NAME(move_sums)(NUMBER *part, double *total, count size) {
#pragma omp simd
    for (count j = 0; j < size; j++) {
        total[j] += part[j];
        part[j] = 0;
    }
}

CLONES static void NAME(weigh)(const VALUE *g, const VALUE *p, NUMBER augment_squared, NUMBER fx,
                               const NUMBER *fw, VALUE *h, NUMBER *along, NUMBER *total, count size,
                               double *along_row, double *total_row) {
    NUMBER products[PIECE], magnitudes[PIECE];
    for (count start = 0; start < size; start += PIECE) {
        count piece = smaller(size - start, PIECE);
#pragma omp simd
        for (count j = 0; j < piece; j++) {
            NUMBER value = READ(g[start + j]), weighed = value * fx * fw[start + j];
            h[start + j] = WRITE(weighed);
            products[j] = weighed * (READ(p[start + j]) + augment_squared);
            magnitudes[j] = value < 0 ? -value : value;
            along[start + j] += products[j];
            total[start + j] += magnitudes[j];
        }
        *along_row += NAME(sum_of_numbers)(products, piece);
        *total_row += NAME(sum_of_numbers)(magnitudes, piece);
    }
}

/* Bytes of the sums of so many parts of the rows: two for each column, as doubles and as NUMBERs on their
 * way there. */
static size_t NAME(sums_size)(count columns, count parts) {
    return parts * columns * 2 * (sizeof(double) + sizeof(NUMBER));
}

static double *NAME(sums_of)(const double *sums, count columns, count part) {
    return (double *)((char *)sums + NAME(sums_size)(columns, part));
}

/* h = g fx fw for the rows of one part of the samples, `each` to a sample; what their gradient takes along
 * them, -f^2 sum of h (p + augment_squared); where there are means, shift: for each row the sum of h mean.
 * No sample of the cotangent may be out of its window. sums: for each column the sums of h (p +
 * augment_squared), then of |g|. */
static void NAME(weigh_part)(const VALUE *g, const VALUE *p, double augment_squared, const NUMBER *fx,
                             const NUMBER *fw, const NUMBER *mean, count first, count last, count each,
                             count columns, double limit, VALUE *h, NUMBER *along_x, NUMBER *shift,
                             double *sums, int *fine) {
    NUMBER *along = (NUMBER *)(sums + 2 * columns), *total = along + columns;
    memset(sums, 0, NAME(sums_size)(columns, 1));
    count since = 0;
    for (count sample = first; sample < last; sample++) {
        double total_sample = 0;
        for (count i = sample * each; i < (sample + 1) * each; i++) {
            double along_row = 0;
            VALUE *own = h + i * columns;
            NAME(weigh)(g + i * columns, p + i * columns, (NUMBER)augment_squared, fx[i], fw, own, along,
                        total, columns, &along_row, &total_sample);
            along_x[i] = (NUMBER)(-along_row * fx[i] * fx[i]);
            if (mean) shift[i] = (NUMBER)NAME(dot)(own, mean, columns);
            if (++since == 32) {
                NAME(move_sums)(along, sums, 2 * columns);
                since = 0;
            }
        }
        if (!fits(total_sample, limit)) *fine = 0;
    }
    NAME(move_sums)(along, sums, 2 * columns);
}

/* -f^2 sum of h (p + augment_squared) of one column, whose cotangent may not be out of its window. */
static NUMBER NAME(along_column)(const double *sums, count columns, int parts, count j, NUMBER factor,
                                 double limit, int *fine) {
    double along = 0, total = 0;
    for (int part = 0; part < parts; part++) {
        along += NAME(sums_of)(sums, columns, part)[j];
        total += NAME(sums_of)(sums, columns, part)[columns + j];
    }
    if (!fits(total, limit)) *fine = 0;
    return (NUMBER)(-along * factor * factor);
}

/* out = along w + offset + the sum of h x over four rows of x; out may be w. */
CLONES static void NAME(add_four)(const VALUE *w, NUMBER along, NUMBER offset, const VALUE *const x[4],
                                  const NUMBER h[4], VALUE *out, count size) {
    const VALUE *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
    NUMBER h0 = h[0], h1 = h[1], h2 = h[2], h3 = h[3];
#pragma omp simd
    for (count k = 0; k < size; k++)
        out[k] = WRITE(READ(w[k]) * along + offset + (h0 * READ(x0[k]) + h1 * READ(x1[k])) +
                       (h2 * READ(x2[k]) + h3 * READ(x3[k])));
}

/* One row of the weight and few rows of x: its gradient along w + offset + h x, and into_x += h w (null:
 * not wanted). h lies `columns` apart. */
static void NAME(few_gradients)(const VALUE *w, const VALUE *x, const VALUE *h, count rows, count columns,
                                count size, NUMBER along, NUMBER offset, VALUE *into_w, NUMBER *into_x) {
    for (count first = 0; into_w && first < rows; first += 4) {
        const VALUE *vectors[4];
        NUMBER weights[4];
        for (count n = 0; n < 4; n++) {
            count i = smaller(first + n, rows - 1);
            vectors[n] = x + i * size;
            weights[n] = first + n < rows ? READ(h[i * columns]) : 0;
        }
        NAME(add_four)(first ? into_w : w, first ? 1 : along, first ? 0 : offset, vectors, weights, into_w,
                       size);
    }
    for (count i = 0; into_x && i < rows; i++)
        NAME(add_scaled)(w, READ(h[i * columns]), into_x + i * size, size);
}

CLONES static void NAME(write)(const NUMBER *x, NUMBER offset, VALUE *out, count size) {
#pragma omp simd
    for (count k = 0; k < size; k++) out[k] = WRITE(x[k] + offset);
}

/* h, and what the gradients in x and in the weight (null: not wanted) are before the products with h are
 * added: the parts along the vectors, less the mean in what centering leaves of them. Of few rows they are
 * whole. values: place for the rows of x less their means; null where they are not centered. */
int NAME(cosnorm_gradients)(const VALUE *g, const VALUE *x, const VALUE *weight, const VALUE *p,
                            const NUMBER *statistics, count rows, count columns, count size,
                            double augment_squared, double limit, int few, VALUE *values, VALUE *h,
                            VALUE *into_x, VALUE *into_w, int threads) {
    if (isinf(statistics[0])) return 0; /* the mark of a forward pass that declined */
    const NUMBER *of_x = statistics + columns, *mean = values ? of_x + rows : 0;
    count work = rows * columns + (rows + columns) * size;
    /* On a crowded machine fewer run, but into as many parts: sums in one order whatever the load. */
    int running = few ? few_team(threads, rows, work) : team(threads, work);
    threads = worth(threads, work);
    count vectors = few && into_x ? threads * rows * size : 0;
    double *sums = malloc(NAME(sums_size)(columns, threads) + (2 * rows + vectors) * sizeof(NUMBER));
    if (!sums) return 0;
    NUMBER *along_x = (NUMBER *)NAME(sums_of)(sums, columns, threads), *shift = along_x + rows,
           *parts = shift + rows;
    int fine = 1;
#pragma omp parallel num_threads(running) reduction(min : fine)
    {
#pragma omp for schedule(static)
        for (int t = 0; t < threads; t++) {
            count first = rows * t / threads, last = rows * (t + 1) / threads;
            NAME(weigh_part)(g, p, augment_squared, of_x, statistics, mean, first, last, 1, columns, limit, h,
                             along_x, shift, NAME(sums_of)(sums, columns, t), &fine);
            for (count i = first; i < last; i++) {
                const VALUE *own = x + i * size;
                double squared;
                if (values) NAME(center)(own, values + i * size, size, &squared), own = values + i * size;
                if (into_x && !few)
                    NAME(scale)(own, along_x[i], mean ? -shift[i] : 0, into_x + i * size, size);
            }
        }
        if (few) {
#pragma omp for schedule(static)
            for (int t = 0; t < threads; t++) {
                NUMBER *part = vectors ? parts + t * rows * size : 0;
                if (part) memset(part, 0, rows * size * sizeof(NUMBER));
                for (count j = columns * t / threads; j < columns * (t + 1) / threads; j++) {
                    NUMBER along = NAME(along_column)(sums, columns, threads, j, statistics[j], limit, &fine);
                    NAME(few_gradients)(weight + j * size, values ? values : x, h + j, rows, columns, size,
                                        along, mean ? -mean[j] * along : 0, into_w ? into_w + j * size : 0,
                                        part);
                }
            }
#pragma omp for schedule(static)
            for (count i = 0; i < (into_x ? rows : 0); i++) {
                NUMBER *own = parts + i * size;
                for (int t = 1; t < threads; t++) NAME(add_numbers)(parts + (t * rows + i) * size, own, size);
                NAME(add_scaled)((values ? values : x) + i * size, along_x[i], own, size);
                NAME(write)(own, mean ? -shift[i] : 0, into_x + i * size, size);
            }
        } else {
#pragma omp for schedule(static)
            for (count j = 0; j < columns; j++) {
                NUMBER along = NAME(along_column)(sums, columns, threads, j, statistics[j], limit, &fine);
                if (into_w)
                    NAME(scale)(weight + j * size, along, mean ? -mean[j] * along : 0, into_w + j * size,
                                size);
            }
        }
    }
    free(sums);
    return fine;
}

#undef ADD_UP
#undef BLOCK
#undef DIFFERENCE
#undef LANES
#undef NUMBER_ITSELF
#undef NUMBER_MANY
#undef NUMBER_ONE
#undef PIECE
#undef PRODUCT
#undef SQUARE
#undef VALUE_ONE
