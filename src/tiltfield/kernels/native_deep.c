/* A deep network with one output, in bfloat16 products summed in float32, and the way back, in the tiles of AMX:
 *     x₁ = relu(W₀ e + b₀)    xₗ₊₁ = relu(Wₗ xₗ + bₗ), for one l of (xₗ, e) instead of xₗ    y = v · x_depth + c
 *     d_depth = g v    dₗ = Wₗᵀ (dₗ₊₁ m)    ∂Wₗ = Σ dₗ₊₁ m xₗᵀ    with m = xₗ₊₁ > 0, g the gradient in y, sums over points
 *
 * A tile is 1 kB: 16 rows of 32 numbers in bfloat16, or of 16 pairs, or of 16 numbers in float32. A product takes from
 * the left tiles of rows, [row][k], and from the right tiles of pairs, [k / 2][column][k % 2]. Points go by groups of 32.
 * Forwards, a few groups pass all layers while they are in the cache. What a layer gives is kept as pairs of points: the
 * right factor of ∂W, and m. On the way back, a chunk of groups passes layer by layer; the left factor of ∂W is dᵀ. */
#include "native.h"

#ifdef TILES
#define SIDE 16   /* rows of a tile */
#define GROUP 32  /* points, and units, whose products are made together, in two by two tiles */
#define BLOCK 4   /* groups that pass all layers together forwards */
#define CHUNK 16  /* groups on the way back */

typedef struct {
    uint16_t number[SIDE][GROUP];
} tile;

/* Numbers of groups: of points, of hidden units, of inputs; of them not padded; of hidden layers; the one that e joins. */
typedef struct {
    int64_t groups, wide, given, n_given, depth, skip;
} network;

static inline network made(int64_t n, int64_t n_given, int64_t width, int64_t depth, int64_t skip) {
    return (network){up(n, GROUP) / GROUP, width / GROUP, up(n_given, GROUP) / GROUP, n_given, depth, skip};
}
static inline int64_t inner(network w, int64_t layer) { return layer ? w.wide : 0; } /* groups of hidden inputs */
static inline int64_t outer(network w, int64_t layer) { return !layer || layer == w.skip ? w.given : 0; }
static inline int64_t inputs(network w, int64_t layer) { return inner(w, layer) + outer(w, layer); }

/* ---- Sums of two by two tiles: 0 to 3 hold them, row by row. ---- */

static inline void begin(const float *from, int64_t stride) { /* bytes between rows; 0: all rows the same */
    __asm__ volatile("" ::: "memory");
    _tile_loadd(0, from, stride);
    _tile_loadd(1, from + SIDE, stride);
    _tile_loadd(2, from + SIDE * stride / 4, stride);
    _tile_loadd(3, from + SIDE * stride / 4 + SIDE, stride);
}
static inline void begin_with_zero(void) {
    __asm__ volatile("" ::: "memory");
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}
static inline void end(float *to, int64_t stride) {
    _tile_stored(0, to, stride);
    _tile_stored(1, to + SIDE, stride);
    _tile_stored(2, to + SIDE * stride / 4, stride);
    _tile_stored(3, to + SIDE * stride / 4 + SIDE, stride);
    __asm__ volatile("" ::: "memory");
}

/* Add the products of two rows of tiles and two columns of them, which lie so far apart. */
static inline void accumulate(const tile *left, int64_t row, const tile *right, int64_t column, int64_t step,
                              int64_t count) {
    for (int64_t k = 0; k < count; k++, left++, right += step) {
        _tile_loadd(4, left, 64);
        _tile_loadd(6, right, 64);
        _tile_loadd(7, right + column, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, left + row, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

/* ---- Numbers between float32 and tiles ---- */

static inline __m512i rounded(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

/* Sixteen numbers, then sixteen others, as sixteen pairs. */
static inline __m512i paired(__m512i numbers) {
    static const _Alignas(64) uint8_t order[64] = {
        0,  1,  32, 33, 2,  3,  34, 35, 4,  5,  36, 37, 6,  7,  38, 39, 8,  9,  40, 41, 10, 11,
        42, 43, 12, 13, 44, 45, 14, 15, 46, 47, 16, 17, 48, 49, 18, 19, 50, 51, 20, 21, 52, 53,
        22, 23, 54, 55, 24, 25, 56, 57, 26, 27, 58, 59, 28, 29, 60, 61, 30, 31, 62, 63};
    return _mm512_permutexvar_epi8(*(const __m512i *)order, numbers);
}
static inline __m512 former(__m512i pairs) { return (__m512)_mm512_slli_epi32(pairs, 16); }
static inline __m512 latter(__m512i pairs) { return (__m512)_mm512_and_si512(pairs, _mm512_set1_epi32(0xffff0000)); }

static inline void turn(__m512i w[SIDE]) { /* rows become columns */
    __m512i v[SIDE];
    for (int i = 0; i < SIDE; i += 2) {
        v[i] = _mm512_unpacklo_epi32(w[i], w[i + 1]);
        v[i + 1] = _mm512_unpackhi_epi32(w[i], w[i + 1]);
    }
    for (int i = 0; i < SIDE; i += 4)
        for (int j = 0; j < 2; j++) {
            w[i + 2 * j] = _mm512_unpacklo_epi64(v[i + j], v[i + 2 + j]);
            w[i + 2 * j + 1] = _mm512_unpackhi_epi64(v[i + j], v[i + 2 + j]);
        }
    for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_i32x4(w[i], w[4 + i], 0x88);
        v[4 + i] = _mm512_shuffle_i32x4(w[i], w[4 + i], 0xdd);
        v[8 + i] = _mm512_shuffle_i32x4(w[8 + i], w[12 + i], 0x88);
        v[12 + i] = _mm512_shuffle_i32x4(w[8 + i], w[12 + i], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        w[i] = _mm512_shuffle_i32x4(v[i], v[8 + i], 0x88);
        w[8 + i] = _mm512_shuffle_i32x4(v[i], v[8 + i], 0xdd);
    }
}

static inline __mmask16 first_of(int64_t count) { return count <= 0 ? 0 : count >= 16 ? 0xffff : (1 << count) - 1; }

/* Sixteen numbers of a row of n, zero beyond. */
static inline __m512 numbers(const float *row, int64_t from, int64_t n) {
    return _mm512_maskz_loadu_ps(first_of(n - from), row + from);
}

/* weight (rows, columns): right factors of forward products, tiles [row][column]. */
void deep_pack(const float *weight, tile *tiles, int64_t rows, int64_t columns) {
    const int64_t across = up(columns, GROUP) / GROUP;
    for (int64_t r = 0; r < rows / SIDE; r++)
        for (int64_t k = 0; k < across; k++, tiles++) {
            __m512i *words = (__m512i *)tiles;
            for (int i = 0; i < SIDE; i++) {
                const float *row = weight + (r * SIDE + i) * columns;
                words[i] = rounded(numbers(row, k * GROUP, columns), numbers(row, k * GROUP + SIDE, columns));
            }
            turn(words);
        }
}

/* The same of Wᵀ and its first so many columns: right factors of the way back, tiles [column][row]. */
void deep_pack_back(const float *weight, tile *tiles, int64_t rows, int64_t columns, int64_t hidden) {
    for (int64_t c = 0; c < hidden / SIDE; c++)
        for (int64_t r = 0; r < rows / GROUP; r++, tiles++)
            for (int i = 0; i < SIDE; i++) {
                const float *from = weight + (r * GROUP + 2 * i) * columns + c * SIDE;
                ((__m512i *)tiles)[i] = paired(rounded(_mm512_loadu_ps(from), _mm512_loadu_ps(from + columns)));
            }
}

/* ---- Forwards ---- */

/* Points from one on, zero beyond n: as rows, and as pairs of points. */
static void take(network w, const float *given, int64_t n, int64_t first, int64_t groups, tile *rows, tile *kept) {
    for (int64_t p = 0; p < groups * GROUP; p += 2)
        for (int64_t k = 0; k < w.given; k++) {
            const float *here = given + (first + p) * w.n_given;
            const int64_t even = first + p < n ? w.n_given : 0, odd = first + p + 1 < n ? w.n_given : 0;
            const __m512 a = numbers(here, k * GROUP, even), b = numbers(here, k * GROUP + SIDE, even);
            const __m512 c = numbers(here + w.n_given, k * GROUP, odd), d = numbers(here + w.n_given, k * GROUP + SIDE, odd);
            tile *to = rows + p / SIDE * w.given + k;
            ((__m512i *)to)[p % SIDE] = rounded(a, b);
            ((__m512i *)to)[p % SIDE + 1] = rounded(c, d);
            if (!kept) continue;
            __m512i *pairs = (__m512i *)(kept + p / GROUP * 2 * w.given + 2 * k);
            pairs[p % GROUP / 2] = paired(rounded(a, c));
            pairs[SIDE + p % GROUP / 2] = paired(rounded(b, d));
        }
}

/* The positive ones of 32 points' sums: as rows, whose next sixteen are `below` tiles on, and as pairs. */
static inline void rectify(const float *sums, tile *rows, int64_t below, tile *kept) {
    const __m512 zero = _mm512_setzero_ps();
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < SIDE; i++) {
            const float *from = sums + 2 * i * GROUP + half * SIDE;
            const __m512 even = _mm512_max_ps(zero, _mm512_load_ps(from)); /* not a number stays so */
            const __m512i both = rounded(even, _mm512_max_ps(zero, _mm512_load_ps(from + GROUP)));
            uint16_t *to = rows[i / 8 * below].number[2 * i % SIDE] + half * SIDE;
            _mm256_store_si256((__m256i *)to, _mm512_castsi512_si256(both));
            _mm256_store_si256((__m256i *)(to + GROUP), _mm512_extracti64x4_epi64(both, 1));
            if (kept) _mm512_stream_si512((__m512i *)kept + half * SIDE + i, paired(both));
        }
}

static void layer(network w, const tile *hidden, const tile *given, const tile *weights, const float *bias,
                  int64_t n_hidden, int64_t n_given, tile *out, tile *kept, int64_t groups) {
    _Alignas(64) float sums[GROUP * GROUP];
    const int64_t across = n_hidden + n_given;
    for (int64_t j = 0; j < w.wide; j++)
        for (int64_t g = 0; g < groups; g++) {
            begin(bias + j * GROUP, 0);
            accumulate(hidden + 2 * g * n_hidden, n_hidden, weights + 2 * j * across, across, 1, n_hidden);
            accumulate(given + 2 * g * n_given, n_given, weights + 2 * j * across + n_hidden, across, 1, n_given);
            end(sums, sizeof(float) * GROUP);
            rectify(sums, out + 2 * g * w.wide + j, w.wide, kept ? kept + 2 * (g * w.wide + j) : NULL);
        }
}

/* y of points, of rows of their last hidden layer. */
static void answer(network w, const tile *rows, const float *last, float bias, float *y, int64_t count) {
    for (int64_t p = 0; p < count; p++) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t k = 0; k < w.wide; k++) {
            const uint16_t *x = rows[p / SIDE * w.wide + k].number[p % SIDE];
            for (int half = 0; half < 2; half++) {
                const __m256i few = _mm256_load_si256((const __m256i *)(x + half * SIDE));
                const __m512 v = _mm512_loadu_ps(last + k * GROUP + half * SIDE);
                sum = _mm512_fmadd_ps(former(_mm512_cvtepu16_epi32(few)), v, sum);
            }
        }
        y[p] = bias + _mm512_reduce_add_ps(sum);
    }
}

/* given (n, n_given); weights: packed, layer by layer; biases (depth · width + 1); last (width); y (n). kept, if there is
 * to be a way back: pairs of the given ones, then those of each layer, [group][unit]. */
void deep_forward(const float *given, const tile *weights, const float *biases, const float *last, float *y, tile *kept,
                  int64_t keep, int64_t n, int64_t n_given, int64_t width, int64_t depth, int64_t skip) {
    const network w = made(n, n_given, width, depth, skip);
#pragma omp parallel
    {
        tile *first = room(2 * BLOCK * (w.given + 2 * w.wide) * sizeof(tile));
        tile *hidden = first + 2 * BLOCK * w.given, *next = hidden + 2 * BLOCK * w.wide;
        begin_tiles();
#pragma omp for schedule(static)
        for (int64_t g = 0; g < w.groups; g += BLOCK) {
            const int64_t groups = least(BLOCK, w.groups - g);
            const tile *packed = weights;
            tile *to = kept + 2 * w.groups * w.given + 2 * g * w.wide;
            take(w, given, n, g * GROUP, groups, first, keep ? kept + 2 * g * w.given : NULL);
            for (int64_t l = 0; l < depth; l++, to += 2 * w.groups * w.wide) {
                layer(w, hidden, first, packed, biases + l * width, inner(w, l), outer(w, l), next, keep ? to : NULL,
                      groups);
                packed += 2 * w.wide * inputs(w, l);
                tile *old = hidden;
                hidden = next;
                next = old;
            }
            answer(w, hidden, last, biases[depth * width], y + g * GROUP, least(groups * GROUP, n - g * GROUP));
        }
        _mm_sfence();
        _tile_release();
        free(first);
    }
}

/* ---- The way back ---- */

/* d m of 32 points and units: as rows, whose next sixteen are `below` tiles on, and as columns, the next sixteen of which
 * are `beside` tiles on; summed over the points. x: what the layer gave, as pairs. */
static inline void mask(const float *d, const tile *x, tile *rows, int64_t below, tile *columns, int64_t beside,
                        float *total) {
    __m512i words[2][SIDE];
    __m512 sum[2] = {_mm512_loadu_ps(total), _mm512_loadu_ps(total + SIDE)};
    for (int i = 0; i < SIDE; i++) {
        __m512i both[2];
        for (int half = 0; half < 2; half++) {
            const __m512i on = ((const __m512i *)(x + half))[i];
            const float *from = d + 2 * i * GROUP + half * SIDE;
            const __m512 even = _mm512_maskz_load_ps(_mm512_test_epi32_mask(on, _mm512_set1_epi32(0x7fff)), from);
            const __m512 odd =
                _mm512_maskz_load_ps(_mm512_test_epi32_mask(on, _mm512_set1_epi32(0x7fff0000)), from + GROUP);
            both[half] = rounded(even, odd);
            words[half][i] = paired(both[half]);
            sum[half] += even + odd;
        }
        __m512i *to = (__m512i *)(rows + i / 8 * below) + 2 * i % SIDE;
        to[0] = _mm512_shuffle_i64x2(both[0], both[1], 0x44);
        to[1] = _mm512_shuffle_i64x2(both[0], both[1], 0xee);
    }
    for (int half = 0; half < 2; half++) {
        turn(words[half]);
        for (int i = 0; i < SIDE; i++) ((__m512i *)(columns + half * beside))[i] = words[half][i];
        _mm512_storeu_ps(total + half * SIDE, sum[half]);
    }
}

/* d of 32 points and units at the output, g v; and g x added to the gradient in v. */
static void start(const float *g, const float *last, const tile *x, float *d, float *d_last) {
    for (int half = 0; half < 2; half++) {
        const __m512 v = _mm512_loadu_ps(last + half * SIDE);
        __m512 sum = _mm512_loadu_ps(d_last + half * SIDE);
        for (int i = 0; i < SIDE; i++) {
            const __m512 even = _mm512_set1_ps(g[2 * i]), odd = _mm512_set1_ps(g[2 * i + 1]);
            const __m512i pairs = ((const __m512i *)(x + half))[i];
            _mm512_store_ps(d + 2 * i * GROUP + half * SIDE, even * v);
            _mm512_store_ps(d + (2 * i + 1) * GROUP + half * SIDE, odd * v);
            sum += even * former(pairs) + odd * latter(pairs);
        }
        _mm512_storeu_ps(d_last + half * SIDE, sum);
    }
}

/* A chunk on its way back. rows: d m of a layer, [point][unit]; spare: those of the layer below; columns: [unit][point]. */
typedef struct {
    tile *rows, *spare, *columns;
    int64_t first, groups, begun; /* begun: another one has been through */
} chunk;

static void enter(network w, const chunk *c, const float *gradient, int64_t n, const float *last, const tile *x,
                  float *total, float *d_last) {
    _Alignas(64) float d[GROUP * GROUP], g[GROUP];
    for (int64_t p = 0; p < c->groups; p++) {
        const int64_t from = (c->first + p) * GROUP, count = least(GROUP, n - from);
        memset(g, 0, sizeof g);
        memcpy(g, gradient + from, count * sizeof(float));
        for (int64_t j = 0; j < w.wide; j++) {
            const tile *given = x + 2 * (p * w.wide + j);
            start(g, last + j * GROUP, given, d, d_last + j * GROUP);
            mask(d, given, c->rows + 2 * p * w.wide + j, w.wide, c->columns + 2 * j * CHUNK + p, CHUNK,
                 total + j * GROUP);
        }
    }
}

/* Add to the gradient in some columns of W, in rows of so many numbers. x: pairs, so many groups of units. */
static void gather(network w, const chunk *c, const tile *x, int64_t units, float *d_weight, int64_t columns) {
    for (int64_t i = 0; i < w.wide; i++)
        for (int64_t j = 0; j < units; j++) {
            float *sums = d_weight + i * GROUP * columns + j * GROUP;
            if (c->begun) begin(sums, columns * sizeof(float));
            else begin_with_zero();
            accumulate(c->columns + 2 * i * CHUNK, CHUNK, x + 2 * j, 1, 2 * units, c->groups);
            end(sums, columns * sizeof(float));
        }
}

/* To the layer below: x is what it gave. */
static void descend(network w, chunk *c, const tile *weights, const tile *x, float *total) {
    _Alignas(64) float d[GROUP * GROUP];
    for (int64_t j = 0; j < w.wide; j++)
        for (int64_t p = 0; p < c->groups; p++) {
            begin_with_zero();
            accumulate(c->rows + 2 * p * w.wide, w.wide, weights + 2 * j * w.wide, w.wide, 1, w.wide);
            end(d, sizeof(float) * GROUP);
            mask(d, x + 2 * (p * w.wide + j), c->spare + 2 * p * w.wide + j, w.wide, c->columns + 2 * j * CHUNK + p,
                 CHUNK, total + j * GROUP);
        }
    tile *old = c->rows;
    c->rows = c->spare;
    c->spare = old;
}

/* sums: gradients in the weights, layer by layer, with padded columns, then the hidden layers' biases, then v. */
static void back(network w, chunk *c, const float *gradient, int64_t n, const tile *weights, const float *last,
                 const tile *kept, float *sums) {
    const int64_t width = w.wide * GROUP;
    const tile *given = kept + 2 * c->first * w.given, *hidden = kept + 2 * (w.groups * w.given + c->first * w.wide);
    const tile *x = hidden + (w.depth - 1) * 2 * w.groups * w.wide;
    float *d_weight = sums;
    for (int64_t l = 0; l < w.depth; l++) d_weight += width * inputs(w, l) * GROUP;
    float *d_bias = d_weight, *d_last = d_weight + w.depth * width;
    enter(w, c, gradient, n, last, x, d_bias + (w.depth - 1) * width, d_last);
    for (int64_t l = w.depth - 1; l >= 0; l--) {
        const int64_t columns = inputs(w, l) * GROUP;
        d_weight -= width * columns;
        if (outer(w, l)) gather(w, c, given, w.given, d_weight + inner(w, l) * GROUP, columns);
        if (!l) break;
        x = hidden + (l - 1) * 2 * w.groups * w.wide;
        gather(w, c, x, w.wide, d_weight, columns);
        descend(w, c, weights + (l - 1) * 2 * w.wide * w.wide, x, d_bias + (l - 1) * width);
    }
}

/* gradient (n); weights: packed for the way back, but for the first layer; sums (threads, size), see back; no more threads
 * than groups. */
void deep_backward(const float *gradient, const tile *weights, const float *last, const tile *kept, float *sums,
                   int64_t threads, int64_t size, int64_t n, int64_t n_given, int64_t width, int64_t depth,
                   int64_t skip) {
    const network w = made(n, n_given, width, depth, skip);
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (int64_t t = 0; t < threads; t++) {
        const int64_t from = w.groups * t / threads, stop = w.groups * (t + 1) / threads;
        const int64_t tiles = 2 * CHUNK * w.wide, few = (depth + 1) * width;
        tile *rows = room(3 * tiles * sizeof(tile));
        memset(sums + (t + 1) * size - few, 0, few * sizeof(float));
        begin_tiles();
        for (int64_t g = from; g < stop; g += CHUNK) {
            chunk c = {rows, rows + tiles, rows + 2 * tiles, g, least(CHUNK, stop - g), g > from};
            back(w, &c, gradient, n, weights, last, kept, sums + t * size);
        }
        _tile_release();
        free(rows);
    }
}
#endif
