/* The network of native_perceptron.c by products of tiles, where the processor has them (AMX).
 *
 * A tile is 16 rows of 32 numbers in bfloat16, by twos. A float32 number is the sum of two of them within 2^-17 of it:
 *     a b = (ah + al) (bh + bl) = ah bh + ah bl + al bh        within 2^-16 of |a b|,
 * summed in float32. Which units are on is 0 or 1, and gets by with one. Points are taken by 32, as the marks lie.
 */
#include "native.h"

#ifdef TILES
#define ROWS 16   /* of a tile */
#define POINTS 32 /* of a tile of marks */
#define NEAR 2    /* tiles of marks at a time forwards, */
#define FAR 8     /* and on the way back */
#define BITS 32

typedef uint32_t twos __attribute__((vector_size(64), aligned(4))); /* of bfloat16, at sixteen places */
typedef struct {
    twos row[ROWS];
} __attribute__((aligned(64))) tile;
typedef struct {
    tile high, low;
} halves;
typedef struct {
    lanes row[ROWS];
} __attribute__((aligned(64))) sums;

/* gcc 12 does not know that a tile is read: what was written before must be there. */
#define LOAD(number, from)             \
    __asm__ volatile("" ::: "memory"); \
    _tile_loadd(number, (from).row, sizeof(twos))
#define STORE(number, to) _tile_stored(number, (to).row, sizeof(twos))
/* Registers c and d += a times those at b and e. */
#define ADD(c, d, a, b, e)    \
    _tile_dpbf16ps(c, a, b);  \
    _tile_dpbf16ps(d, a, e)

static void *many(int64_t count, size_t size) {
    size_t bytes = up(count * size, 64);
    return memset(room(bytes), 0, bytes);
}

/* Rounded to bfloat16, and what that leaves; of two numbers at each place. */
static inline void split(lanes a, lanes b, twos *high, twos *low) {
    const uint32_t half = 0x8000, upper = 0xffff0000;
    twos first = ((twos)a + half) & upper, second = ((twos)b + half) & upper;
    *high = first >> 16 | second;
    *low = ((twos)(a - (lanes)first) + half) >> 16 | (((twos)(b - (lanes)second) + half) & upper);
}

/* rows x columns numbers, zero beyond, as tiles of 16 rows and 32 columns; transposed where `across`. */
static halves *packed(const float *from, int64_t rows, int64_t columns, int across) {
    int64_t high = up(rows, 2 * ROWS) / ROWS, wide = up(columns, 2 * ROWS) / (2 * ROWS);
    halves *made = many(high * wide, sizeof(halves));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t w = 0; w < wide; w++) {
            float pair[2][LANES] = {{0}};
            for (int64_t c = 2 * ROWS * w; c < columns && c < 2 * ROWS * (w + 1); c++)
                pair[c % 2][c % (2 * ROWS) / 2] = across ? from[c * rows + r] : from[r * columns + c];
            halves *to = made + r / ROWS * wide + w;
            split(load(pair[0]), load(pair[1]), to->high.row + r % ROWS, to->low.row + r % ROWS);
        }
    return made;
}

/* Which of sixteen points are there, from some point on, of n. */
static inline __mmask16 there(int64_t n, int64_t first) {
    int64_t left = n - first;
    return left >= LANES ? 0xffff : left <= 0 ? 0 : (1u << left) - 1;
}

/* Channel k of sixteen points; below the channels the constant 1, and then nothing. */
static inline lanes channel(const float *x, int64_t k, int64_t channels, int64_t n, int64_t first, __mmask16 which) {
    if (k < channels) return (lanes)_mm512_maskz_loadu_ps(which, x + k * n + first);
    return all(k == channels);
}

static void forward_tiles(const halves *weights, const halves *seen, sums *units, int64_t deep, int64_t high) {
    for (int64_t h = 0; h < high; h++) {
        _tile_zero(0);
        _tile_zero(1);
        for (int64_t k = 0; k < deep; k++) {
            LOAD(2, weights[h * deep + k].high);
            LOAD(3, weights[h * deep + k].low);
            LOAD(4, seen[k].high);
            LOAD(5, seen[k].low);
            LOAD(6, seen[deep + k].high);
            LOAD(7, seen[deep + k].low);
            ADD(0, 1, 2, 4, 6);
            ADD(0, 1, 2, 5, 7);
            ADD(0, 1, 3, 4, 6);
        }
        STORE(0, units[2 * h]);
        STORE(1, units[2 * h + 1]);
    }
}

/* Which units are on at sixteen points, a bit each, and what they add to y. */
static lanes gather(const sums *units, const float *outer, lanes y, int32_t *on, int64_t hidden) {
    __m512 out = (__m512)y;
    for (int64_t w = 0; w * BITS < hidden; w++) {
        __m512i word = _mm512_setzero_si512();
        for (int64_t h = w * BITS; h < least((w + 1) * BITS, hidden); h++) {
            __m512 sum = (__m512)units[h / ROWS * 2].row[h % ROWS];
            __mmask16 is_on = _mm512_cmp_ps_mask(sum, _mm512_setzero_ps(), _CMP_NLE_UQ); /* not a number stays so */
            word = _mm512_mask_or_epi32(word, is_on, word, _mm512_set1_epi32(1u << h % BITS));
            out = _mm512_mask3_fmadd_ps(sum, _mm512_set1_ps(outer[h]), out, is_on);
        }
        _mm512_storeu_si512(on + w * POINTS, word);
    }
    return (lanes)out;
}

/* x (channels, n), affine (hidden, channels + 1), outer (hidden), y (n); on (tiles, hidden / 32, 32 points). */
void tiles_forward(const float *x, const float *affine, const float *outer, float last, float *y, int32_t *on,
                   int64_t n, int64_t channels, int64_t hidden) {
    const int64_t tiles = up(n, POINTS) / POINTS, words = up(hidden, BITS) / BITS;
    const int64_t deep = up(channels + 1, 2 * ROWS) / (2 * ROWS), high = 2 * words;
    halves *weights = packed(affine, hidden, channels + 1, 0);
#pragma omp parallel
    {
        halves *seen = many(NEAR * 2 * deep, sizeof(halves));
        sums *units = many(NEAR * 2 * high, sizeof(sums));
        begin_tiles();
#pragma omp for schedule(static)
        for (int64_t first = 0; first < tiles; first += NEAR) {
            int64_t count = least(NEAR, tiles - first);
            for (int64_t q = 0; q < 2 * count; q++) {
                int64_t point = first * POINTS + q * LANES;
                __mmask16 which = there(n, point);
                for (int64_t k = 0; k <= channels; k += 2) {
                    halves *to = seen + q * deep + k / (2 * ROWS);
                    lanes a = channel(x, k, channels, n, point, which);
                    lanes b = channel(x, k + 1, channels, n, point, which);
                    split(a, b, to->high.row + k / 2 % ROWS, to->low.row + k / 2 % ROWS);
                }
            }
            for (int64_t c = 0; c < count; c++)
                forward_tiles(weights, seen + 2 * c * deep, units + 2 * c * high, deep, high);
            for (int64_t q = 0; q < 2 * count; q++) {
                int64_t t = first + q / 2, point = first * POINTS + q * LANES;
                int32_t *marks_of = on + t * words * POINTS + q % 2 * LANES;
                lanes out = gather(units + q / 2 * 2 * high + q % 2, outer, all(last), marks_of, hidden);
                _mm512_mask_storeu_ps(y + point, there(n, point), (__m512)out);
            }
        }
        _tile_release();
        free(seen), free(units);
    }
    free(weights);
}

static const twos MARKED = {0, 0x3f80, 0x3f800000, 0x3f803f80, 0, 0x3f80, 0x3f800000, 0x3f803f80,
                            0, 0x3f80, 0x3f800000, 0x3f803f80, 0, 0x3f80, 0x3f800000, 0x3f803f80};

/* Units by twos, of sixteen points, as 0 and 1. */
static inline void by_units(tile *to, const int32_t *on) {
    __m512i word = _mm512_loadu_si512(on);
    for (int j = 0; j < ROWS; j++)
        to->row[j] = (twos)_mm512_permutexvar_epi32(_mm512_srli_epi32(word, 2 * j), (__m512i)MARKED);
}

/* Points i and 16 + i by twos, of sixteen units, as 0 and 1: those of the lower half of the words, and of the upper. */
static inline void by_points(tile *lower, tile *upper, const int32_t *on) {
    const __m512i one = _mm512_set1_epi16(0x3f80);
    for (int i = 0; i < ROWS; i++) {
        uint32_t a = on[i], b = on[ROWS + i];
        __mmask32 low = _pdep_u32(a, 0x55555555) | _pdep_u32(b, 0xaaaaaaaa);
        __mmask32 high = _pdep_u32(a >> 16, 0x55555555) | _pdep_u32(b >> 16, 0xaaaaaaaa);
        lower->row[i] = (twos)_mm512_maskz_mov_epi16(low, one);
        upper->row[i] = (twos)_mm512_maskz_mov_epi16(high, one);
    }
}

/* Four sums of products, of two tiles in halves (`step` apart) with two, along `count` of them. */
static inline void four(const halves *a, int64_t step, int64_t along, const tile *b, int64_t after, int64_t count,
                        sums *s) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t c = 0; c < count; c++, a += along, b += after) {
        LOAD(4, b[0]);
        LOAD(5, b[1]);
        LOAD(6, a->high);
        LOAD(7, a->low);
        ADD(0, 1, 6, 4, 5);
        ADD(0, 1, 7, 4, 5);
        LOAD(6, a[step].high);
        LOAD(7, a[step].low);
        ADD(2, 3, 6, 4, 5);
        ADD(2, 3, 7, 4, 5);
    }
    STORE(0, s[0]);
    STORE(1, s[1]);
    STORE(2, s[2]);
    STORE(3, s[3]);
}

/* What is seen of a tile of marks on the way back: x g, and which units are on. */
static void look_back(const float *x, const float *g, const int32_t *on, halves *weighed, tile *marked, tile *units,
                      int64_t n, int64_t channels, int64_t words, int64_t point) {
    __mmask16 early = there(n, point), late = there(n, point + LANES);
    lanes first = channel(g, 0, 1, n, point, early), second = channel(g, 0, 1, n, point + LANES, late);
    for (int64_t k = 0; k <= channels; k++) {
        halves *to = weighed + k / ROWS;
        lanes a = channel(x, k, channels, n, point, early), b = channel(x, k, channels, n, point + LANES, late);
        split(a * first, b * second, to->high.row + k % ROWS, to->low.row + k % ROWS);
    }
    for (int64_t w = 0; w < words; w++, on += POINTS, marked += 2, units += 2) {
        by_points(marked, marked + 1, on);
        by_units(units, on);
        by_units(units + 1, on + LANES);
    }
}

/* dx = g s of up to 32 channels of a tile of marks, s as `four` gives it. */
static void give(float *dx, const float *g, const sums *s, int64_t n, int64_t channels, int64_t point) {
    for (int q = 0; q < 2; q++, point += LANES) {
        __mmask16 which = there(n, point);
        lanes gradient = channel(g, 0, 1, n, point, which);
        for (int64_t k = 0; k < channels; k++)
            _mm512_mask_storeu_ps(dx + k * n + point, which, (__m512)(gradient * s[k / ROWS * 2 + q].row[k % ROWS]));
    }
}

/* x, dx (channels, n), g (n), on as above, back (hidden, channels) the products v W; total (parts, hidden,
 * channels + 1) is S by parts of the points, as there. */
void tiles_backward(const float *x, const float *g, const int32_t *on, const float *back, float *dx, float *total,
                    int64_t n, int64_t channels, int64_t hidden, int64_t parts) {
    const int64_t tiles = up(n, POINTS) / POINTS, words = up(hidden, BITS) / BITS;
    const int64_t high = up(channels + 1, 2 * ROWS) / ROWS, wide = 2 * words;
    halves *pulled = packed(back, channels, hidden, 1);
#pragma omp parallel for schedule(static)
    for (int64_t part = 0; part < parts; part++) {
        halves *weighed = many(FAR * high, sizeof(halves));
        tile *marked = many(FAR * wide, sizeof(tile)), *units = many(FAR * wide, sizeof(tile));
        lanes *sum = many(high * ROWS * wide, sizeof(lanes));
        sums *s = many(4 * FAR, sizeof(sums));
        const int64_t stop = tiles * (part + 1) / parts;
        begin_tiles();
        for (int64_t t = tiles * part / parts; t < stop; t += FAR) {
            int64_t count = least(FAR, stop - t);
            for (int64_t c = 0; c < count; c++)
                look_back(x, g, on + (t + c) * words * POINTS, weighed + c * high, marked + c * wide,
                          units + c * wide, n, channels, words, (t + c) * POINTS);
            for (int64_t m = 0; m < channels; m += 2 * ROWS) {
                for (int64_t c = 0; c < count; c++)
                    four(pulled + m / ROWS * words, words, 1, units + c * wide, 2, words, s + 4 * c);
                for (int64_t c = 0; c < count; c++)
                    give(dx + m * n, g, s + 4 * c, n, least(2 * ROWS, channels - m), (t + c) * POINTS);
            }
            for (int64_t m = 0; m < high; m += 2)
                for (int64_t w = 0; w < wide; w += 2) {
                    four(weighed + m, 1, high, marked + w, wide, count, s);
                    for (int i = 0; i < 4; i++)
                        for (int r = 0; r < ROWS; r++)
                            sum[((m + i / 2) * ROWS + r) * wide + w + i % 2] += s[i].row[r];
                }
        }
        _tile_release();
        const float *flat = (const float *)sum;
        for (int64_t h = 0; h < hidden; h++)
            for (int64_t k = 0; k <= channels; k++)
                total[(part * hidden + h) * (channels + 1) + k] = flat[k * wide * LANES + h];
        free(weighed), free(marked), free(units), free(sum), free(s);
    }
    free(pulled);
}

void tiles_there(int32_t *answer) { *answer = tiles_are_allowed(); }
#else
void tiles_there(int32_t *answer) { *answer = 0; }
#endif
