/* y = v · relu(W x) + c for every point, the constant 1 among x and the bias within W, and the way back.
 *
 * Forwards, which units are on is kept, a bit each. On the way back, with m those bits and g the gradient in y,
 *     S = Σ g m xᵀ        dx = g · Wᵀ (v m)
 * and all gradients of the weights follow from S, see perceptron.py. Both are sums over the units that are on, and four
 * units are in one of 16 cases. So dx adds up one row for every four units, from a table of what each case gives; and a
 * point adds its g x to one row for every four units, that of its case, from which the units have S in the end.
 * Points are taken by tiles that fit the cache.
 */
#include "native.h"

#define TILE 32             /* points whose marks lie together */
#define NEAR (TILE / LANES) /* vectors of points that a tile has */
#define FAR 16              /* tiles at a time on the way back */
#define BITS 32
#define PAIR 2 /* vectors of points in registers, with so many */
#if LANES == 16
#define UNITS 8 /* hidden units */
#else           /* sixteen registers instead of 32 */
#define UNITS 5
#endif
#define FOUR 4 /* units, and in how many cases they are */
#define CASES 16
#define ROW 16 /* channels at a time on the way back */
#define WIDE (ROW / LANES)

typedef struct {
    lanes part[WIDE];
} row;

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

/* Turning over a square of numbers: rows whose numbers differ in bit s alone exchange the columns that have it. */
#ifdef __clang__
#define MIXED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MIXED(a, b, ...) __builtin_shuffle(a, b, (marks){__VA_ARGS__})
#endif
#define WITHOUT(i, s) ((i) & (s) ? LANES + (i) - (s) : (i))
#define WITH(i, s) ((i) & (s) ? LANES + (i) : (i) + (s))
#define FROM(f, i, s) f(i, s), f(i + 1, s), f(i + 2, s), f(i + 3, s)
#define EIGHT(f, i, s) FROM(f, i, s), FROM(f, i + 4, s)
#if LANES == 16
#define EACH(f, s) EIGHT(f, 0, s), EIGHT(f, 8, s)
#else
#define EACH(f, s) EIGHT(f, 0, s)
#endif
#define EXCHANGE(rows, s)                                 \
    for (int i = 0; i < LANES; i++)                       \
        if (!(i & (s))) {                                 \
            lanes a = (rows)[i], b = (rows)[i + (s)];     \
            (rows)[i] = MIXED(a, b, EACH(WITHOUT, s));    \
            (rows)[i + (s)] = MIXED(a, b, EACH(WITH, s)); \
        }

static inline void turn(lanes *rows) {
    EXCHANGE(rows, 1)
    EXCHANGE(rows, 2)
    EXCHANGE(rows, 4)
#if LANES == 16
    EXCHANGE(rows, 8)
#endif
}

/* g x of `count` points, point by point: the channels from `channel` on, g behind the last of them, and then nothing. */
static void look_back(const float *x, const float *g, row *seen, int64_t count, int64_t n, int64_t channel,
                      int64_t channels) {
    for (int64_t p = 0; p < count; p += LANES, seen += LANES) {
        int64_t there = least(count - p, LANES);
        lanes square[LANES], gradient = some(g + p, there);
        for (int v = 0; v < WIDE; v++) {
            for (int64_t i = 0, k = channel + v * LANES; i < LANES; i++, k++)
                square[i] = k < channels ? gradient * some(x + k * n + p, there) : k == channels ? gradient : all(0);
            turn(square);
            for (int i = 0; i < LANES; i++) seen[i].part[v] = square[i];
        }
    }
}

/* dx of as many points and channels, of which `pulled` has Wᵀ (v m), point by point. */
static void give_back(const row *pulled, const float *g, float *dx, int64_t count, int64_t n, int64_t channel,
                      int64_t channels) {
    for (int64_t p = 0; p < count; p += LANES, pulled += LANES) {
        int64_t there = least(count - p, LANES);
        lanes square[LANES], gradient = some(g + p, there);
        for (int v = 0; v < WIDE; v++) {
            for (int i = 0; i < LANES; i++) square[i] = pulled[i].part[v];
            turn(square);
            for (int64_t i = 0, k = channel + v * LANES; i < LANES && k < channels; i++, k++)
                store_some(dx + k * n + p, gradient * square[i], there);
        }
    }
}

/* The marks of a word of units at a point. */
static inline uint32_t marks_of(const int32_t *on, int64_t words, int64_t word, int64_t point) {
    return on[(point / TILE * words + word) * TILE + point % TILE];
}

/* For every point the sum of the rows of its cases. */
static void sum_cases(const row *table, const int32_t *on, row *sums, int64_t count, int64_t words) {
    for (int64_t p = 0; p < count; p++) {
        const row *rows = table;
        row sum = {0};
        for (int64_t w = 0; w < words; w++) {
            uint32_t marked = marks_of(on, words, w, p);
            for (int s = 0; s < BITS; s += FOUR, rows += CASES)
                for (int v = 0; v < WIDE; v++) sum.part[v] += rows[(marked >> s) % CASES].part[v];
        }
        sums[p] = sum;
    }
}

/* Add every point's numbers to the rows of its cases. */
static void add_to_cases(row *table, const int32_t *on, const row *numbers, int64_t count, int64_t words) {
    for (int64_t p = 0; p < count; p++) {
        row *rows = table, value = numbers[p];
        for (int64_t w = 0; w < words; w++) {
            uint32_t marked = marks_of(on, words, w, p);
            for (int s = 0; s < BITS; s += FOUR, rows += CASES)
                for (int v = 0; v < WIDE; v++) rows[(marked >> s) % CASES].part[v] += value.part[v];
        }
    }
}

/* Whether a unit is on in a case of its four. */
static inline int is_on_in(int64_t unit, int64_t state) { return state >> unit % FOUR & 1; }

/* x, dx (channels, n), g (n), on as above, back (hidden, channels) the products v W; total (parts, hidden,
 * channels + 1) is S by parts of the points, whose sum is the same whatever the number of threads. */
void perceptron_backward(const float *x, const float *g, const int32_t *on, const float *back, float *dx, float *total,
                         int64_t n, int64_t channels, int64_t hidden, int64_t parts) {
    const int64_t tiles = up(n, TILE) / TILE, words = up(hidden, BITS) / BITS, rows = words * BITS / FOUR * CASES;
    const int64_t columns = channels + 1, wide = up(columns, ROW) / ROW;
    const size_t bytes = rows * wide * sizeof(row);
    row *pulls = memset(room(bytes), 0, bytes); /* what each case gives, for one ROW of channels after another */
    for (int64_t h = 0; h < hidden; h++)
        for (int64_t at = h / FOUR * CASES; at < (h / FOUR + 1) * CASES; at++)
            for (int64_t k = 0; k < channels && is_on_in(h, at); k++)
                ((float *)(pulls + k / ROW * rows + at))[k % ROW] += back[h * channels + k];
#pragma omp parallel for schedule(static)
    for (int64_t part = 0; part < parts; part++) {
        row *seen = room(FAR * TILE * sizeof(row)), *pulled = room(FAR * TILE * sizeof(row));
        row *found = memset(room(bytes), 0, bytes); /* Σ g x of those in each case, likewise */
        const int64_t stop = tiles * (part + 1) / parts;
        for (int64_t t = tiles * part / parts; t < stop; t += FAR) {
            const int64_t first = t * TILE, count = least(n, least(stop, t + FAR) * TILE) - first;
            const int32_t *marked = on + t * words * TILE;
            for (int64_t c = 0; c < wide; c++) {
                look_back(x + first, g + first, seen, count, n, c * ROW, channels);
                add_to_cases(found + c * rows, marked, seen, count, words);
                if (c * ROW == channels) break; /* a bias is no channel */
                sum_cases(pulls + c * rows, marked, pulled, count, words);
                give_back(pulled, g + first, dx + first, count, n, c * ROW, channels);
            }
        }
        memset(total + part * hidden * columns, 0, hidden * columns * sizeof(float));
        for (int64_t h = 0; h < hidden; h++)
            for (int64_t at = h / FOUR * CASES; at < (h / FOUR + 1) * CASES; at++)
                for (int64_t k = 0; k < columns && is_on_in(h, at); k++)
                    total[(part * hidden + h) * columns + k] += ((const float *)(found + k / ROW * rows + at))[k % ROW];
        free(seen), free(pulled), free(found);
    }
    free(pulls);
}
