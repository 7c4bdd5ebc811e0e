/* Blocks of convolution, instance norm, ReLU and average pooling, image after image.
 *
 * What lies between the operations stays in the core's cache. A constant of the convolution is left
 * out: the norm takes it away.
 */
#include <omp.h>

#include "kernels.h"

#define MAPS 65536 /* numbers of maps that wait for their norm: 256 kB */

/* Maps (n, high, wide, C) to pooled maps of a convolution by transformed kernels. */
int winograd_block(const float *maps, int64_t n, int64_t high, int64_t wide, int64_t inputs,
                   int64_t padding, const float *kernels, const float *weight, const float *bias,
                   float eps, float *pooled, int64_t outputs, int64_t threads) {
    int64_t result_high = high + 2 * padding - 2, result_wide = wide + 2 * padding - 2;
    int64_t size = result_high * result_wide * outputs;
    int64_t share = (n + threads - 1) / threads, most = size < MAPS ? MAPS / size : 1;
    if (share < most && share > 0) most = share;
    int64_t room = winograd_room(inputs, outputs);
    int64_t whole = rounded_up(room + most * size + 2 * outputs, GAP);
    int64_t pooled_size = (result_high / 2) * (result_wide / 2) * outputs;
    float *spaces = allocate(threads * whole);
    if (!spaces) return 1;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t first = 0; first < n; first += most) {
        float *space = spaces + omp_get_thread_num() * whole;
        float *convolved = space + room, *means = convolved + most * size;
        int64_t count = n - first < most ? n - first : most;
        winograd(maps + first * high * wide * inputs, count, high, wide, inputs, padding, kernels,
                 NULL, convolved, outputs, space);
        for (int64_t i = 0; i < count; i++)
            pool_image(convolved + i * size, result_high, result_wide, outputs, weight, bias, eps,
                       pooled + (first + i) * pooled_size, outputs, means, means + outputs);
    }
    free(spaces);
    return 0;
}
