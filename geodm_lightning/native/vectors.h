/* Vectors of the processor's own width, and products of small matrices.
 *
 * Everything is float32. Channels lie together in memory and are multiples of 32, so that they fill
 * vectors and panels of every processor.
 */
#ifndef VECTORS_H
#define VECTORS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef LANES /* floats of a vector: 8 or 16 */
#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#endif
#define PANEL (2 * LANES) /* columns of a product that are worked on at once */
#define ROWS 6            /* rows of it: with two vectors of columns, the registers of AVX2 */
#define GAP 16            /* floats between matrices, lest they share a place in the cache */

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t mask __attribute__((vector_size(4 * LANES), aligned(4)));

static inline vector load(const float *place) { return *(const vector *)place; }
static inline void store(float *place, vector value) { *(vector *)place = value; }
static inline vector spread(float value) { return (vector){0} + value; }
/* A number that is none stays none. */
static inline vector rectified(vector x) { return (vector)((mask)x & ~(x < spread(0))); }
static inline vector where_positive(vector x, vector value) {
    return (vector)((mask)value & (x > spread(0)));
}

static inline int64_t rounded_up(int64_t number, int64_t to) { return (number + to - 1) / to * to; }

static inline float *allocate(int64_t floats) {
    return aligned_alloc(64, (size_t)rounded_up(4 * floats, 64));
}

static inline float *allocate_zeros(int64_t floats) {
    float *place = allocate(floats);
    if (place) memset(place, 0, (size_t)floats * sizeof(float));
    return place;
}

/* sums (rows, PANEL) += left (rows, depth) · right (depth, PANEL); rows are known when compiled. */
static inline __attribute__((always_inline)) void add_products(
    int rows, int64_t depth, const float *left, int64_t row_stride, int64_t depth_stride,
    const float *right, int64_t right_stride, vector sums[ROWS][2]) {
    for (int64_t k = 0; k < depth; k++) {
        vector low = load(right + k * right_stride), high = load(right + k * right_stride + LANES);
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            float factor = left[row * row_stride + k * depth_stride];
            sums[row][0] += factor * low;
            sums[row][1] += factor * high;
        }
    }
}

static inline __attribute__((always_inline)) void store_sums(int rows, vector sums[ROWS][2],
                                                             float *result, int64_t stride) {
    for (int row = 0; row < rows; row++) {
        store(result + row * stride, sums[row][0]);
        store(result + row * stride + LANES, sums[row][1]);
    }
}

/* result (ROWS, PANEL) = left (ROWS, depth) · panel (depth, PANEL) */
static inline void multiply(int64_t depth, const float *left, int64_t stride, const float *panel,
                            float *result, int64_t result_stride) {
    vector sums[ROWS][2];
    for (int row = 0; row < ROWS; row++) sums[row][0] = sums[row][1] = spread(0);
    add_products(ROWS, depth, left, stride, 1, panel, PANEL, sums);
    store_sums(ROWS, sums, result, result_stride);
}

/* result (rows, PANEL) += left (depth, rows)^T · right (depth, PANEL) */
static inline __attribute__((always_inline)) void add_rows(
    int rows, int64_t depth, const float *left, int64_t stride, const float *right,
    int64_t right_stride, float *result, int64_t result_stride) {
    vector sums[ROWS][2];
    for (int row = 0; row < rows; row++) {
        sums[row][0] = load(result + row * result_stride);
        sums[row][1] = load(result + row * result_stride + LANES);
    }
    add_products(rows, depth, left, 1, stride, right, right_stride, sums);
    store_sums(rows, sums, result, result_stride);
}

/* result (rows, PANEL) += left (depth, rows)^T · right (depth, PANEL); rows are even. */
static inline void add_outer(int64_t rows, int64_t depth, const float *left, int64_t stride,
                             const float *right, int64_t right_stride, float *result,
                             int64_t result_stride) {
    int64_t row = 0;
    for (; row + ROWS <= rows; row += ROWS)
        add_rows(ROWS, depth, left + row, stride, right, right_stride, result + row * result_stride,
                 result_stride);
    for (; row + 4 <= rows; row += 4)
        add_rows(4, depth, left + row, stride, right, right_stride, result + row * result_stride,
                 result_stride);
    for (; row < rows; row += 2)
        add_rows(2, depth, left + row, stride, right, right_stride, result + row * result_stride,
                 result_stride);
}

#endif
