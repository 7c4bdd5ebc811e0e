/* What the files share. Letters of shapes: n images, C channels in, K channels out. */
#ifndef KERNELS_H
#define KERNELS_H

#include "vectors.h"

/* Floats that winograd() works in. */
int64_t winograd_room(int64_t inputs, int64_t outputs);

/* Convolve maps (n, high, wide, C) with transformed kernels of stride 1. */
void winograd(const float *maps, int64_t n, int64_t high, int64_t wide, int64_t inputs,
              int64_t padding, const float *kernels, const float *bias, float *result,
              int64_t outputs, float *room);

/* Instance norm, ReLU and 2×2 average pooling of one image's maps (high, wide, K), or of the first
 * channels of pooled maps of more. */
void pool_image(const float *maps, int64_t high, int64_t wide, int64_t channels,
                const float *weight, const float *bias, float eps, float *pooled,
                int64_t pooled_channels, float *means, float *scales);

#endif
