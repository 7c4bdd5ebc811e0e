/* Convolution by 3×3 kernels with a quarter of the multiplications: Winograd's F(4×4, 3×3).
 *
 * A tile of 6×6 pixels, transformed, times the transformed kernel gives a tile of 4×4 pixels in 36
 * multiplications instead of 144; summed over channels these are 36 matrix products. Few tiles are
 * transformed, multiplied and transformed back at a time, so that they stay in the core's cache.
 *
 * Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016.
 */
#include <omp.h>

#include "kernels.h"

#define TILE 4
#define FIELD 6 /* pixels that a tile of the result depends on, along one side */
#define SPOTS (FIELD * FIELD)
#define OF_A_CORE 6144   /* channels of all tiles that a core has at once: 0.9 MB transformed */
#define OF_ALL 49152     /* and of those that all cores have together */

static int64_t clamp(int64_t value, int64_t least, int64_t most) {
    return value < least ? least : value > most ? most : value;
}

/* Tiles that a core works on at once, and floats that it needs for them. */
static int64_t tiles_at_once(int64_t inputs, int64_t outputs) {
    return clamp(OF_A_CORE / (inputs + outputs) / ROWS * ROWS, 4 * ROWS, 16 * ROWS);
}

int64_t winograd_room(int64_t inputs, int64_t outputs) {
    int64_t floats = SPOTS * (tiles_at_once(inputs, outputs) * (inputs + outputs) + 2 * GAP);
    return rounded_up(floats, GAP);
}

/* Height and width of the result, in pixels and in tiles. */
typedef struct {
    int64_t high, wide, tiles_high, tiles_wide;
} Grid;

/* Where a tile of the result begins. */
typedef struct {
    int64_t image, row, column;
} Place;

static inline Place place_of(int64_t tile, Grid grid) {
    int64_t inside = tile % (grid.tiles_high * grid.tiles_wide);
    return (Place){tile / (grid.tiles_high * grid.tiles_wide), TILE * (inside / grid.tiles_wide),
                   TILE * (inside % grid.tiles_wide)};
}

/* Where transformed numbers lie: those of a spot, of a tile and of a panel of channels so many floats
 * apart. */
typedef struct {
    int64_t spot, tile, panel;
} Layout;

/* Channels of a tile lie together, for products over channels. */
static Layout by_tile(int64_t tiles, int64_t channels) {
    return (Layout){tiles * channels + GAP, channels, PANEL};
}

/* Tiles of a panel lie together, for products over tiles. */
static Layout by_panel(int64_t tiles, int64_t channels) {
    return (Layout){tiles * channels + GAP, PANEL, tiles * PANEL};
}

static inline int64_t offset(Layout layout, int64_t tile, int64_t channel) {
    return tile * layout.tile + channel / PANEL * layout.panel + channel % PANEL;
}

/* Six pixels in a line, `step` apart, to six numbers, and in the other functions alike. */
static inline void transform_pixels(const vector *line, int step, vector *out, int out_step) {
    vector even = line[4 * step] - line[2 * step], odd = line[3 * step] - line[step];
    vector evens = line[4 * step] - 4.0f * line[2 * step];
    vector odds = line[3 * step] - 4.0f * line[step];
    out[0] = even + 4.0f * (line[0] - line[2 * step]);
    out[out_step] = evens + odds;
    out[2 * out_step] = evens - odds;
    out[3 * out_step] = even + 2.0f * odd;
    out[4 * out_step] = even - 2.0f * odd;
    out[5 * out_step] = line[5 * step] - line[3 * step] - 4.0f * odd;
}

static inline void transform_taps(const vector *line, int step, vector *out, int out_step) {
    vector even = (line[0] + line[2 * step]) * (-1.0f / 6), odd = line[step] * (1.0f / 6);
    vector evens = line[0] * (1.0f / 24) + line[2 * step] * (1.0f / 6);
    vector odds = line[step] * (1.0f / 12);
    out[0] = line[0] * 0.25f;
    out[out_step] = even - odd;
    out[2 * out_step] = even + odd;
    out[3 * out_step] = evens + odds;
    out[4 * out_step] = evens - odds;
    out[5 * out_step] = line[2 * step];
}

static inline void transform_back(const vector *line, int step, vector *out, int out_step) {
    vector sum = line[step] + line[2 * step], difference = line[step] - line[2 * step];
    vector sums = line[3 * step] + line[4 * step], differences = line[3 * step] - line[4 * step];
    out[0] = line[0] + sum + sums;
    out[out_step] = difference + 2.0f * differences;
    out[2 * out_step] = sum + 4.0f * sums;
    out[3 * out_step] = difference + 8.0f * differences + line[5 * step];
}

/* The transpose of transform_back. */
static inline void transform_gradient(const vector *line, int step, vector *out, int out_step) {
    vector even = line[0] + line[2 * step], odd = line[step] + line[3 * step];
    vector evens = line[0] + 4.0f * line[2 * step];
    vector odds = 2.0f * line[step] + 8.0f * line[3 * step];
    out[0] = line[0];
    out[out_step] = even + odd;
    out[2 * out_step] = even - odd;
    out[3 * out_step] = evens + odds;
    out[4 * out_step] = evens - odds;
    out[5 * out_step] = line[3 * step];
}

/* Tiles of maps (n, high, wide, C), transformed. */
static void transform_tiles(const float *maps, int64_t high, int64_t wide, int64_t channels,
                            int64_t padding, Grid grid, int64_t first, int64_t count, float *tiles,
                            Layout layout) {
    for (int64_t tile = 0; tile < count; tile++) {
        Place place = place_of(first + tile, grid);
        const float *pixels[SPOTS]; /* NULL where there are zeros */
        for (int spot = 0; spot < SPOTS; spot++) {
            int64_t row = place.row + spot / FIELD - padding;
            int64_t column = place.column + spot % FIELD - padding;
            int is_inside = row >= 0 && row < high && column >= 0 && column < wide;
            int64_t pixel = (place.image * high + row) * wide + column;
            pixels[spot] = is_inside ? maps + pixel * channels : NULL;
        }
        for (int64_t c = 0; c < channels; c += LANES) {
            vector field[SPOTS], columns[SPOTS];
            for (int spot = 0; spot < SPOTS; spot++)
                field[spot] = pixels[spot] ? load(pixels[spot] + c) : spread(0);
            for (int i = 0; i < FIELD; i++)
                transform_pixels(field + i, FIELD, columns + i, FIELD);
            for (int i = 0; i < FIELD; i++)
                transform_pixels(columns + i * FIELD, 1, field + i * FIELD, 1);
            for (int spot = 0; spot < SPOTS; spot++)
                store(tiles + spot * layout.spot + offset(layout, tile, c), field[spot]);
        }
    }
}

/* The result's tiles from the products, written as maps (n, high, wide, K). */
static void write_tiles(const float *sums, int64_t stride, Grid grid, int64_t first, int64_t count,
                        const float *bias, float *result, int64_t channels) {
    for (int64_t tile = 0; tile < count; tile++) {
        Place place = place_of(first + tile, grid);
        int64_t rows = clamp(grid.high - place.row, 0, TILE);
        int64_t columns = clamp(grid.wide - place.column, 0, TILE);
        int64_t first_pixel = (place.image * grid.high + place.row) * grid.wide + place.column;
        float *corner = result + first_pixel * channels;
        for (int64_t k = 0; k < channels; k += LANES) {
            vector spots[SPOTS], halves[TILE * FIELD], pixels[TILE * TILE];
            vector constant = bias ? load(bias + k) : spread(0);
            for (int spot = 0; spot < SPOTS; spot++)
                spots[spot] = load(sums + spot * stride + tile * channels + k);
            for (int i = 0; i < FIELD; i++) transform_back(spots + i, FIELD, halves + i, FIELD);
            for (int i = 0; i < TILE; i++)
                transform_back(halves + i * FIELD, 1, pixels + i * TILE, 1);
            for (int64_t row = 0; row < rows; row++)
                for (int64_t column = 0; column < columns; column++)
                    store(corner + (row * grid.wide + column) * channels + k,
                          pixels[row * TILE + column] + constant);
        }
    }
}

/* A tile of the gradient, transformed. */
static void transform_gradients(const float *gradient, Grid grid, int64_t channels, Place place,
                                float *tile, Layout layout) {
    int64_t first_pixel = (place.image * grid.high + place.row) * grid.wide + place.column;
    const float *corner = gradient + first_pixel * channels;
    for (int64_t k = 0; k < channels; k += LANES) {
        vector pixels[TILE * TILE], columns[FIELD * TILE], spots[SPOTS];
        for (int row = 0; row < TILE; row++)
            for (int column = 0; column < TILE; column++) {
                int is_inside = place.row + row < grid.high && place.column + column < grid.wide;
                const float *pixel = corner + (row * grid.wide + column) * channels + k;
                pixels[row * TILE + column] = is_inside ? load(pixel) : spread(0);
            }
        for (int i = 0; i < TILE; i++) transform_gradient(pixels + i, TILE, columns + i, TILE);
        for (int i = 0; i < FIELD; i++)
            transform_gradient(columns + i * TILE, 1, spots + i * FIELD, 1);
        for (int spot = 0; spot < SPOTS; spot++)
            store(tile + spot * layout.spot + offset(layout, 0, k), spots[spot]);
    }
}

static Grid grid_of(int64_t high, int64_t wide, int64_t padding) {
    Grid grid = {.high = high + 2 * padding - 2, .wide = wide + 2 * padding - 2};
    grid.tiles_high = (grid.high + TILE - 1) / TILE;
    grid.tiles_wide = (grid.wide + TILE - 1) / TILE;
    return grid;
}

/* Some tiles of the result, at most tiles_at_once(). */
static void convolve_tiles(const float *maps, int64_t high, int64_t wide, int64_t inputs,
                           int64_t padding, const float *kernels, const float *bias, float *result,
                           int64_t outputs, Grid grid, int64_t first, int64_t count, float *room) {
    int64_t most = tiles_at_once(inputs, outputs), filled = rounded_up(count, ROWS);
    Layout layout = by_tile(most, inputs);
    int64_t stride = layout.spot, sums_stride = most * outputs + GAP;
    float *tiles = room, *sums = room + SPOTS * stride;
    transform_tiles(maps, high, wide, inputs, padding, grid, first, count, tiles, layout);
    for (int64_t spot = 0; spot < SPOTS && filled > count; spot++)
        memset(tiles + spot * stride + count * inputs, 0,
               (size_t)((filled - count) * inputs) * sizeof(float));
    for (int64_t spot = 0; spot < SPOTS; spot++)
        for (int64_t k = 0; k < outputs; k += PANEL)
            for (int64_t tile = 0; tile < filled; tile += ROWS)
                multiply(inputs, tiles + spot * stride + tile * inputs, inputs,
                         kernels + (spot * outputs + k) * inputs,
                         sums + spot * sums_stride + tile * outputs + k, outputs);
    write_tiles(sums, sums_stride, grid, first, count, bias, result, outputs);
}

void winograd(const float *maps, int64_t n, int64_t high, int64_t wide, int64_t inputs,
              int64_t padding, const float *kernels, const float *bias, float *result,
              int64_t outputs, float *room) {
    Grid grid = grid_of(high, wide, padding);
    int64_t total = n * grid.tiles_high * grid.tiles_wide, most = tiles_at_once(inputs, outputs);
    for (int64_t first = 0; first < total; first += most)
        convolve_tiles(maps, high, wide, inputs, padding, kernels, bias, result, outputs, grid,
                       first, total - first < most ? total - first : most, room);
}

/* Kernels (K, C, 3, 3) at the given distances, or turned by 180°, to (36, K/PANEL, C, PANEL). */
void winograd_kernels(const float *weight, int64_t outputs, int64_t inputs, int64_t output_stride,
                      int64_t input_stride, int64_t is_turned, float *kernels, int64_t threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t k = 0; k < outputs; k += PANEL)
        for (int64_t c = 0; c < inputs; c++)
            for (int64_t half = 0; half < PANEL; half += LANES) {
                vector taps[9], columns[18], spots[SPOTS];
                for (int tap = 0; tap < 9; tap++)
                    for (int lane = 0; lane < LANES; lane++)
                        taps[tap][lane] = weight[(k + half + lane) * output_stride +
                                                 c * input_stride + (is_turned ? 8 - tap : tap)];
                for (int i = 0; i < 3; i++) transform_taps(taps + i, 3, columns + i, 3);
                for (int i = 0; i < FIELD; i++)
                    transform_taps(columns + i * 3, 1, spots + i * FIELD, 1);
                for (int spot = 0; spot < SPOTS; spot++)
                    store(kernels + ((spot * outputs + k) * inputs + c * PANEL + half),
                          spots[spot]);
            }
}

/* Maps (n, high, wide, C) to maps (n, high, wide, K). */
int winograd_convolve(const float *maps, int64_t n, int64_t high, int64_t wide, int64_t inputs,
                      int64_t padding, const float *kernels, const float *bias, float *result,
                      int64_t outputs, int64_t threads) {
    Grid grid = grid_of(high, wide, padding);
    int64_t total = n * grid.tiles_high * grid.tiles_wide, most = tiles_at_once(inputs, outputs);
    int64_t share = rounded_up((total + threads - 1) / threads, ROWS);
    int64_t size = clamp(share, ROWS, most), room = winograd_room(inputs, outputs);
    float *rooms = allocate(threads * room);
    if (!rooms) return 1;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t first = 0; first < total; first += size)
        convolve_tiles(maps, high, wide, inputs, padding, kernels, bias, result, outputs, grid,
                       first, total - first < size ? total - first : size,
                       rooms + omp_get_thread_num() * room);
    free(rooms);
    return 0;
}

/* Add to the derivative by transformed kernels, (36, C, K), from maps and the result's gradient.
 *
 * All cores transform tiles, then each has spots of its own, so that every sum is made in one order
 * however many cores there are. */
int winograd_correlate(const float *maps, int64_t n, int64_t high, int64_t wide, int64_t inputs,
                       int64_t padding, const float *gradient, int64_t outputs, float *sums,
                       int64_t threads) {
    Grid grid = grid_of(high, wide, padding);
    int64_t total = n * grid.tiles_high * grid.tiles_wide;
    int64_t most = clamp(OF_ALL / (inputs + outputs), 4 * ROWS, total > 0 ? total : 1);
    Layout layout = by_panel(most, inputs), push_layout = by_panel(most, outputs);
    float *tiles = allocate(SPOTS * (layout.spot + push_layout.spot));
    if (!tiles) return 1;
    float *pushes = tiles + SPOTS * layout.spot;
#pragma omp parallel num_threads(threads)
    for (int64_t first = 0; first < total; first += most) {
        int64_t count = total - first < most ? total - first : most;
#pragma omp for schedule(dynamic, 8)
        for (int64_t tile = 0; tile < count; tile++) {
            transform_tiles(maps, high, wide, inputs, padding, grid, first + tile, 1,
                            tiles + tile * PANEL, layout);
            transform_gradients(gradient, grid, outputs, place_of(first + tile, grid),
                                pushes + tile * PANEL, push_layout);
        }
#pragma omp for schedule(dynamic)
        for (int64_t spot = 0; spot < SPOTS; spot++)
            for (int64_t c = 0; c < inputs; c += PANEL)
                for (int64_t k = 0; k < outputs; k += PANEL)
                    add_outer(PANEL, count, tiles + spot * layout.spot + offset(layout, 0, c),
                              PANEL, pushes + spot * push_layout.spot + offset(push_layout, 0, k),
                              PANEL, sums + (spot * inputs + c) * outputs + k, outputs);
    }
    free(tiles);
    return 0;
}
