/* Convolution of images of few channels by 3×3 kernels: the pixels under the kernel are gathered in
 * rows, and the rows multiplied.
 *
 * Kernels are given as (K/PANEL, 9·C, PANEL). Letters of shapes: n images, C channels in, K out.
 */
#include <omp.h>

#include "kernels.h"

typedef struct {
    int64_t inputs, high, wide, padding;               /* of an image */
    int64_t padded_high, padded_wide, padded_size;     /* with zeros around, in floats */
    int64_t result_high, result_wide, pixels;          /* of the result */
    int64_t taps, row_size, filled, columns_size;      /* rows of taps, whole blocks of them */
} Shape;

static Shape shape_of(int64_t inputs, int64_t high, int64_t wide, int64_t padding) {
    Shape s = {.inputs = inputs, .high = high, .wide = wide, .padding = padding};
    s.padded_high = high + 2 * padding;
    s.padded_wide = wide + 2 * padding;
    s.padded_size = rounded_up(inputs * s.padded_high * s.padded_wide, GAP);
    s.result_high = s.padded_high - 2;
    s.result_wide = s.padded_wide - 2;
    s.pixels = s.result_high * s.result_wide;
    s.taps = 9 * inputs;
    s.row_size = rounded_up(s.taps, 2);
    s.filled = rounded_up(s.pixels, ROWS);
    s.columns_size = rounded_up(s.filled * s.row_size, GAP);
    return s;
}

/* Place in a padded image of a tap of the kernel at the result's first pixel. */
static inline int64_t place_of(const Shape *s, int64_t line) {
    return (line / 3 * s->padded_high + line % 3) * s->padded_wide;
}

/* An image (C, high, wide) to what lies under the kernel: (pixels, 9·C) in rows of row_size. */
static void gather(const Shape *s, const float *image, float *padded, float *columns) {
    for (int64_t row = 0; row < s->inputs * s->high; row++)
        memcpy(padded + s->padding +
                   (row / s->high * s->padded_high + row % s->high + s->padding) * s->padded_wide,
               image + row * s->wide, (size_t)s->wide * sizeof(float));
    for (int64_t row = 0; row < s->result_high; row++)
        for (int64_t column = 0; column < s->result_wide; column++, columns += s->row_size)
            for (int64_t line = 0; line < 3 * s->inputs; line++) {
                const float *from =
                    padded + place_of(s, line) + row * s->padded_wide + column;
                for (int tap = 0; tap < 3; tap++) columns[3 * line + tap] = from[tap];
            }
}

/* The transpose of gather; `stride` between rows. */
static void scatter(const Shape *s, const float *columns, int64_t stride, float *padded,
                    float *image) {
    memset(padded, 0, (size_t)s->padded_size * sizeof(float));
    for (int64_t row = 0; row < s->result_high; row++)
        for (int64_t column = 0; column < s->result_wide; column++, columns += stride)
            for (int64_t line = 0; line < 3 * s->inputs; line++) {
                float *to = padded + place_of(s, line) + row * s->padded_wide + column;
                for (int tap = 0; tap < 3; tap++) to[tap] += columns[3 * line + tap];
            }
    for (int64_t row = 0; row < s->inputs * s->high; row++)
        memcpy(image + row * s->wide,
               padded + s->padding +
                   (row / s->high * s->padded_high + row % s->high + s->padding) * s->padded_wide,
               (size_t)s->wide * sizeof(float));
}

int panel_width(void) { return PANEL; }

/* Images (n, C, high, wide) to maps (n, high, wide, K). */
int columns_convolve(const float *images, int64_t n, int64_t inputs, int64_t high, int64_t wide,
                     int64_t padding, const float *kernels, const float *bias, float *result,
                     int64_t outputs, int64_t threads) {
    Shape s = shape_of(inputs, high, wide, padding);
    int64_t room = s.padded_size + s.columns_size + ROWS * PANEL;
    float *rooms = allocate_zeros(threads * room);
    if (!rooms) return 1;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < n; i++) {
        float *padded = rooms + omp_get_thread_num() * room, *maps = result + i * s.pixels * outputs;
        float *columns = padded + s.padded_size, *last = columns + s.columns_size;
        gather(&s, images + i * inputs * high * wide, padded, columns);
        for (int64_t k = 0; k < outputs; k += PANEL) {
            vector low = bias ? load(bias + k) : spread(0);
            vector high_ones = bias ? load(bias + k + LANES) : spread(0);
            for (int64_t pixel = 0; pixel < s.pixels; pixel += ROWS) {
                int64_t count = s.pixels - pixel < ROWS ? s.pixels - pixel : ROWS;
                multiply(s.taps, columns + pixel * s.row_size, s.row_size, kernels + k * s.taps,
                         last, PANEL);
                for (int64_t row = 0; row < count; row++) {
                    float *place = maps + (pixel + row) * outputs + k;
                    store(place, load(last + row * PANEL) + low);
                    store(place + LANES, load(last + row * PANEL + LANES) + high_ones);
                }
            }
        }
    }
    free(rooms);
    return 0;
}

/* Images to pooled maps of a block, a panel of channels at a time. A constant of the convolution is
 * left out: the norm takes it away. */
int columns_block(const float *images, int64_t n, int64_t inputs, int64_t high, int64_t wide,
                  int64_t padding, const float *kernels, const float *weight, const float *bias,
                  float eps, float *pooled, int64_t outputs, int64_t threads) {
    Shape s = shape_of(inputs, high, wide, padding);
    int64_t pooled_size = (s.result_high / 2) * (s.result_wide / 2) * outputs;
    int64_t room = s.padded_size + s.columns_size + (s.filled + 2) * PANEL;
    float *rooms = allocate_zeros(threads * room);
    if (!rooms) return 1;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < n; i++) {
        float *padded = rooms + omp_get_thread_num() * room;
        float *columns = padded + s.padded_size, *convolved = columns + s.columns_size;
        float *means = convolved + s.filled * PANEL;
        gather(&s, images + i * inputs * high * wide, padded, columns);
        for (int64_t k = 0; k < outputs; k += PANEL) {
            for (int64_t pixel = 0; pixel < s.pixels; pixel += ROWS)
                multiply(s.taps, columns + pixel * s.row_size, s.row_size, kernels + k * s.taps,
                         convolved + pixel * PANEL, PANEL);
            pool_image(convolved, s.result_high, s.result_wide, PANEL, weight + k, bias + k, eps,
                       pooled + i * pooled_size + k, outputs, means, means + PANEL);
        }
    }
    free(rooms);
    return 0;
}

/* The derivative by kernels, as parts (parts, row_size, K) that add up to it and are zero, from
 * images and the result's gradient. Parts follow from the images alone, not from the cores. */
int columns_correlate(const float *images, int64_t n, int64_t inputs, int64_t high, int64_t wide,
                      int64_t padding, const float *gradient, int64_t outputs, float *sums,
                      int64_t parts, int64_t threads) {
    Shape s = shape_of(inputs, high, wide, padding);
    int64_t room = s.padded_size + s.columns_size;
    float *rooms = allocate_zeros(threads * room);
    if (!rooms) return 1;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t part = 0; part < parts; part++) {
        float *padded = rooms + omp_get_thread_num() * room, *columns = padded + s.padded_size;
        for (int64_t i = n * part / parts; i < n * (part + 1) / parts; i++) {
            gather(&s, images + i * inputs * high * wide, padded, columns);
            for (int64_t k = 0; k < outputs; k += PANEL)
                add_outer(s.row_size, s.pixels, columns, s.row_size,
                          gradient + i * s.pixels * outputs + k, outputs,
                          sums + part * s.row_size * outputs + k, outputs);
        }
    }
    free(rooms);
    return 0;
}

/* The derivative by images, (n, C, high, wide), from the result's gradient and turned kernels,
 * (9·C / PANEL, K, PANEL), filled with zeros. */
int columns_back(const float *gradient, int64_t n, int64_t inputs, int64_t high, int64_t wide,
                 int64_t padding, const float *kernels, float *of_images, int64_t outputs,
                 int64_t threads) {
    Shape s = shape_of(inputs, high, wide, padding);
    int64_t stride = rounded_up(s.taps, PANEL);
    int64_t room = rounded_up(s.padded_size + s.filled * stride + ROWS * outputs, GAP);
    float *rooms = allocate_zeros(threads * room);
    if (!rooms) return 1;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < n; i++) {
        float *padded = rooms + omp_get_thread_num() * room;
        float *columns = padded + s.padded_size, *last = columns + s.filled * stride;
        const float *pushes = gradient + i * s.pixels * outputs;
        for (int64_t pixel = 0; pixel < s.pixels; pixel += ROWS) {
            const float *rows = pushes + pixel * outputs;
            if (s.pixels - pixel < ROWS) { /* nothing may be read behind the last */
                memcpy(last, rows, (size_t)((s.pixels - pixel) * outputs) * sizeof(float));
                rows = last;
            }
            for (int64_t tap = 0; tap < stride; tap += PANEL)
                multiply(outputs, rows, outputs, kernels + tap * outputs,
                         columns + pixel * stride + tap, stride);
        }
        scatter(&s, columns, stride, padded, of_images + i * inputs * high * wide);
    }
    free(rooms);
    return 0;
}
