/* y = v · relu(W x) + c for every point, the constant 1 among x and the bias within W, and the way back.
 *
 * Forwards, which units are on is kept, a bit each. On the way back, with m those bits and g the gradient in y,
 *     S = Σ g m xᵀ        dx = g · Wᵀ (v m)
 * and all gradients of the weights follow from S, see perceptron.py. Points are taken by tiles that fit the cache.
 */
#include "native.h"

#define TILE 32                /* points whose marks lie together */
#define NEAR (TILE / LANES)    /* vectors of points that a forward tile has */
#define FAR (4 * TILE / LANES) /* and a tile on the way back */
#define BITS 32
#define PAIR 2 /* vectors of points in registers, with so many */
#if LANES == 16
#define UNITS 8   /* hidden units, */
#define ROWS 4    /* or units and */
#else             /* sixteen registers instead of 32 */
#define UNITS 5
#define ROWS 2
#endif
#define COLUMNS 6 /* channels of S */

/* Copy a tile of rows of n numbers, zero beyond. */
static void take(lanes *to, const float *from, int64_t rows, int64_t n, int64_t first, int64_t width) {
    int64_t count = least(n - first, width);
    float *flat = (float *)to;
    for (int64_t r = 0; r < rows; r++) {
        memcpy(flat + r * width, from + r * n + first, count * sizeof(float));
        memset(flat + r * width + count, 0, (width - count) * sizeof(float));
    }
}

static void give(float *to, const lanes *from, int64_t rows, int64_t n, int64_t first, int64_t width) {
    int64_t count = least(n - first, width);
    for (int64_t r = 0; r < rows; r++) memcpy(to + r * n + first, (const float *)from + r * width, count * sizeof(float));
}

/* affine (hidden, channels + 1) in groups of UNITS, channel by channel: the weights in the order of their use. */
static float *in_groups(const float *affine, int64_t hidden, int64_t columns) {
    float *packed = calloc(up(hidden, UNITS) * columns, sizeof(float));
    for (int64_t h = 0; h < hidden; h++)
        for (int64_t k = 0; k < columns; k++)
            packed[(h / UNITS * columns + k) * UNITS + h % UNITS] = affine[h * columns + k];
    return packed;
}

/* A pair of vectors of a tile. */
static void forward_pair(const lanes *x, const float *packed, const float *outer, float last, lanes *y, marks *on,
                         int64_t channels, int64_t hidden) {
    for (int p = 0; p < PAIR; p++) y[p] = all(last);
    for (int64_t h = 0; h < hidden; h += UNITS, packed += (channels + 1) * UNITS) {
        lanes sum[UNITS][PAIR];
        for (int j = 0; j < UNITS; j++)
            for (int p = 0; p < PAIR; p++) sum[j][p] = all(packed[channels * UNITS + j]);
        for (int64_t k = 0; k < channels; k++)
            for (int j = 0; j < UNITS; j++)
                for (int p = 0; p < PAIR; p++) sum[j][p] += packed[k * UNITS + j] * x[k * NEAR + p];
        for (int j = 0; j < UNITS && h + j < hidden; j++) {
            int32_t bit = (int32_t)(1u << ((h + j) % BITS));
            for (int p = 0; p < PAIR; p++) {
                marks is_on = ~(sum[j][p] <= 0); /* not a number stays so */
                on[(h + j) / BITS * NEAR + p] |= is_on & bit;
                y[p] += outer[h + j] * (lanes)((marks)sum[j][p] & is_on);
            }
        }
    }
}

/* x (channels, n), affine (hidden, channels + 1), outer (hidden), y (n); on (tiles, hidden / 32, 32 points). */
void perceptron_forward(const float *x, const float *affine, const float *outer, float last, float *y, int32_t *on,
                        int64_t n, int64_t channels, int64_t hidden) {
    const int64_t width = NEAR * LANES, tiles = up(n, width) / width, words = up(hidden, BITS) / BITS;
    float *packed = in_groups(affine, hidden, channels + 1);
#pragma omp parallel
    {
        lanes *points = room((channels + 1) * NEAR * sizeof(lanes));
        marks *marked = room(words * NEAR * sizeof(marks));
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tiles; t++) {
            lanes out[NEAR];
            take(points, x, channels, n, t * width, width);
            memset(marked, 0, words * NEAR * sizeof(marks));
            for (int p = 0; p < NEAR; p += PAIR)
                forward_pair(points + p, packed, outer, last, out + p, marked + p, channels, hidden);
            give(y, out, 1, n, t * width, width);
            memcpy(on + t * words * width, marked, words * NEAR * sizeof(marks));
        }
        free(points);
        free(marked);
    }
    free(packed);
}

/* g m of a tile of which `left` points are there, and its sum over points, unit by unit and lane by lane. */
static void mask(const lanes *gradient, const int32_t *on, int64_t words, int64_t hidden, int64_t left, lanes *masked,
                 lanes *sums) {
    for (int64_t p = 0; p < FAR; p++) {
        const int32_t *there = on + (p / NEAR * words * NEAR + p % NEAR) * LANES;
        for (int64_t w = 0; w < words; w++) {
            marks word = left > p / NEAR * NEAR * LANES ? *(const marks *)(there + w * NEAR * LANES) : (marks){0};
            for (int64_t h = w * BITS; h < (w + 1) * BITS && h < hidden; h++) {
                marks is_on = (word & (int32_t)(1u << h % BITS)) != 0;
                masked[h * FAR + p] = (lanes)((marks)gradient[p] & is_on);
                sums[h] += masked[h * FAR + p];
            }
        }
    }
}

/* Add g m xᵀ over a tile, lane by lane. */
static void add_products(const lanes *masked, const lanes *x, lanes *total, int64_t channels, int64_t hidden) {
    for (int64_t h = 0; h < hidden; h += ROWS)
        for (int64_t k = 0; k < channels; k += COLUMNS) {
            lanes sum[ROWS][COLUMNS];
            for (int j = 0; j < ROWS; j++)
                for (int i = 0; i < COLUMNS; i++) sum[j][i] = total[(h + j) * channels + k + i];
            for (int p = 0; p < FAR; p++)
                for (int j = 0; j < ROWS; j++)
                    for (int i = 0; i < COLUMNS; i++)
                        sum[j][i] += masked[(h + j) * FAR + p] * x[(k + i) * FAR + p];
            for (int j = 0; j < ROWS; j++)
                for (int i = 0; i < COLUMNS; i++) total[(h + j) * channels + k + i] = sum[j][i];
        }
}

/* dx of a tile, `back` (hidden, channels) the products v W. */
static void pull_back(const lanes *masked, const float *back, lanes *dx, int64_t channels, int64_t hidden) {
    for (int p = 0; p < FAR; p += PAIR)
        for (int64_t k = 0; k < channels; k += COLUMNS) {
            lanes sum[COLUMNS][PAIR] = {0};
            for (int64_t h = 0; h < hidden; h++)
                for (int i = 0; i < COLUMNS; i++)
                    for (int q = 0; q < PAIR; q++)
                        sum[i][q] += back[h * channels + k + i] * masked[h * FAR + p + q];
            for (int i = 0; i < COLUMNS; i++)
                for (int q = 0; q < PAIR; q++) dx[(k + i) * FAR + p + q] = sum[i][q];
        }
}

/* x, dx (channels, n), g (n), on as above, back (hidden, channels); total (parts, hidden, channels + 1) is S by parts
 * of the points, whose sum is the same whatever the number of threads. */
void perceptron_backward(const float *x, const float *g, const int32_t *on, const float *back, float *dx, float *total,
                         int64_t n, int64_t channels, int64_t hidden, int64_t parts) {
    const int64_t width = FAR * LANES, tiles = up(n, width) / width, words = up(hidden, BITS) / BITS;
    const int64_t wide = up(channels, COLUMNS), high = up(hidden, ROWS);
    float *padded = calloc(high * wide, sizeof(float)); /* v W, zero where there is nothing */
    for (int64_t h = 0; h < hidden; h++) memcpy(padded + h * wide, back + h * channels, channels * sizeof(float));
#pragma omp parallel for schedule(static)
    for (int64_t part = 0; part < parts; part++) {
        lanes *points = room(wide * FAR * sizeof(lanes)), *out = room(wide * FAR * sizeof(lanes));
        lanes *masked = room(high * FAR * sizeof(lanes)), gradient[FAR];
        lanes *sums = room(high * wide * sizeof(lanes)), *biases = room(high * sizeof(lanes));
        memset(points, 0, wide * FAR * sizeof(lanes));
        memset(masked, 0, high * FAR * sizeof(lanes));
        memset(sums, 0, high * wide * sizeof(lanes));
        memset(biases, 0, high * sizeof(lanes));
        for (int64_t t = tiles * part / parts; t < tiles * (part + 1) / parts; t++) {
            take(points, x, channels, n, t * width, width);
            take(gradient, g, 1, n, t * width, width);
            mask(gradient, on + t * words * width, words, hidden, n - t * width, masked, biases);
            add_products(masked, points, sums, wide, high);
            pull_back(masked, padded, out, wide, high);
            give(dx, out, channels, n, t * width, width);
        }
        for (int64_t h = 0; h < hidden; h++)
            for (int64_t k = 0; k <= channels; k++) {
                double sum = 0;
                for (int i = 0; i < LANES; i++) sum += k < channels ? sums[h * wide + k][i] : biases[h][i];
                total[(part * hidden + h) * (channels + 1) + k] = (float)sum;
            }
        free(points), free(out), free(masked), free(sums), free(biases);
    }
    free(padded);
}
