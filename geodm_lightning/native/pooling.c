/* Instance norm with weight and bias, ReLU and 2×2 average pooling, image by image. */
#include <math.h>

#include "kernels.h"

/* Sum over pixels, row by row so that rounding grows slowly, of x or of (x - mean)². */
static inline vector summed(const float *maps, int64_t high, int64_t wide, int64_t channels,
                            vector mean, int is_squared) {
    vector whole = spread(0);
    for (int64_t row = 0; row < high; row++) {
        vector part = spread(0);
        for (int64_t column = 0; column < wide; column++) {
            vector x = load(maps + (row * wide + column) * channels) - mean;
            part += is_squared ? x * x : x;
        }
        whole += part;
    }
    return whole;
}

void pool_image(const float *maps, int64_t high, int64_t wide, int64_t channels,
                const float *weight, const float *bias, float eps, float *pooled,
                int64_t pooled_channels, float *means, float *scales) {
    float share = 1.0f / (float)(high * wide);
    for (int64_t k = 0; k < channels; k += LANES) {
        vector mean = summed(maps + k, high, wide, channels, spread(0), 0) * share;
        vector variance = summed(maps + k, high, wide, channels, mean, 1) * share;
        vector scale = spread(0);
        for (int lane = 0; lane < LANES; lane++) scale[lane] = 1.0f / sqrtf(variance[lane] + eps);
        store(means + k, mean);
        store(scales + k, scale);
        vector factor = load(weight + k) * scale, constant = load(bias + k);
        for (int64_t row = 0; row < high / 2; row++)
            for (int64_t column = 0; column < wide / 2; column++) {
                const float *corner = maps + (2 * row * wide + 2 * column) * channels + k;
                const float *below = corner + wide * channels;
                vector sum = rectified((load(corner) - mean) * factor + constant) +
                             rectified((load(corner + channels) - mean) * factor + constant) +
                             rectified((load(below) - mean) * factor + constant) +
                             rectified((load(below + channels) - mean) * factor + constant);
                store(pooled + (row * (wide / 2) + column) * pooled_channels + k, 0.25f * sum);
            }
    }
}

/* Maps (n, high, wide, K) to (n, high/2, wide/2, K); means and 1 / deviations to (n, K). */
void norm_relu_pool(const float *maps, int64_t n, int64_t high, int64_t wide, int64_t channels,
                    const float *weight, const float *bias, float eps, float *pooled, float *means,
                    float *scales, int64_t threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < n; i++)
        pool_image(maps + i * high * wide * channels, high, wide, channels, weight, bias, eps,
                   pooled + i * (high / 2) * (wide / 2) * channels, channels,
                   means + i * channels, scales + i * channels);
}

/* A quarter of a window's gradient for each of its pixels that the ReLU let through. */
static inline vector let_through(const float *push, vector shown) {
    return where_positive(shown, load(push) * 0.25f);
}

/* Gradients from those of the pooled maps: by maps, and each image's by weight and bias, (n, K). */
void norm_relu_pool_gradients(const float *pushes, const float *maps, int64_t n, int64_t high,
                              int64_t wide, int64_t channels, const float *weight,
                              const float *bias, const float *means, const float *scales,
                              float *of_maps, float *of_weight, float *of_bias, int64_t threads) {
    int64_t half_high = high / 2, half_wide = wide / 2;
    float share = 1.0f / (float)(high * wide);
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < channels; k += LANES) {
            const float *image = maps + i * high * wide * channels + k;
            const float *push = pushes + i * half_high * half_wide * channels + k;
            float *out = of_maps + i * high * wide * channels + k;
            vector mean = load(means + i * channels + k), scale = load(scales + i * channels + k);
            vector own = load(weight + k), constant = load(bias + k);
            vector sum = spread(0), along = spread(0);
            for (int64_t row = 0; row < 2 * half_high; row++)
                for (int64_t column = 0; column < 2 * half_wide; column++) {
                    vector x = (load(image + (row * wide + column) * channels) - mean) * scale;
                    int64_t window = (row / 2 * half_wide + column / 2) * channels;
                    vector wanted = let_through(push + window, x * own + constant);
                    sum += wanted;
                    along += wanted * x;
                }
            store(of_weight + i * channels + k, along);
            store(of_bias + i * channels + k, sum);
            sum *= share;
            along *= share;
            for (int64_t row = 0; row < high; row++)
                for (int64_t column = 0; column < wide; column++) {
                    int64_t pixel = (row * wide + column) * channels;
                    vector x = (load(image + pixel) - mean) * scale, wanted = spread(0);
                    if (row < 2 * half_high && column < 2 * half_wide) {
                        int64_t window = (row / 2 * half_wide + column / 2) * channels;
                        wanted = let_through(push + window, x * own + constant);
                    }
                    store(out + pixel, own * scale * (wanted - sum - x * along));
                }
        }
}
