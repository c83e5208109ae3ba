#ifndef COSNORM_FIELDS_H
#define COSNORM_FIELDS_H

/* Where receptive fields lie, and sums over them. */
#include "common.h"

typedef struct {
    count height, width, out_height, out_width;
    count kernel[2], stride[2], padding[2], dilation[2];
} geometry;

/* The positions p for which 0 <= p stride + shift < size, as [first, last). */
static inline void range(count shift, count stride, count size, count positions, count *first, count *last) {
    *first = shift >= 0 ? 0 : (-shift + stride - 1) / stride;
    *last = size - 1 - shift < 0 ? 0 : smaller(positions, (size - 1 - shift) / stride + 1);
}

/* Floats for one thread: a map, and the scratch of a box or a spread. */
static inline count scratch_size(const geometry *at) { return at->height * (at->width + at->out_width); }

/* BOX: sums over the windows of a map, rows first. scratch: height * out_width. */
#define WINDOW_SUMS(TYPE, ADD, BOX)                                                                          \
    CLONES static void ADD(const TYPE *x, TYPE *out, count size, count stride) {                            \
        if (stride == 1) {                                                                                   \
            _Pragma("omp simd")                                                                              \
            for (count k = 0; k < size; k++) out[k] += x[k];                                                 \
        } else                                                                                               \
            for (count k = 0; k < size; k++) out[k] += x[k * stride];                                        \
    }                                                                                                        \
    static void BOX(const TYPE *map, const geometry *at, TYPE *scratch, TYPE *out) {                         \
        memset(scratch, 0, at->height * at->out_width * sizeof(TYPE));                                       \
        memset(out, 0, at->out_height * at->out_width * sizeof(TYPE));                                       \
        count first, last;                                                                                   \
        for (count k = 0; k < at->kernel[1]; k++) {                                                          \
            count shift = k * at->dilation[1] - at->padding[1];                                              \
            range(shift, at->stride[1], at->width, at->out_width, &first, &last);                            \
            for (count i = 0; i < at->height && first < last; i++)                                           \
                ADD(map + i * at->width + first * at->stride[1] + shift, scratch + i * at->out_width + first, \
                    last - first, at->stride[1]);                                                            \
        }                                                                                                    \
        for (count k = 0; k < at->kernel[0]; k++) {                                                          \
            count shift = k * at->dilation[0] - at->padding[0];                                              \
            range(shift, at->stride[0], at->height, at->out_height, &first, &last);                          \
            for (count i = first; i < last; i++)                                                             \
                ADD(scratch + (i * at->stride[0] + shift) * at->out_width, out + i * at->out_width,          \
                    at->out_width, 1);                                                                       \
        }                                                                                                    \
    }

/* The adjoint of a box: a number for each window is added to all its positions. */
void spread(const float *windows, const geometry *at, float *scratch, float *map);

#endif
