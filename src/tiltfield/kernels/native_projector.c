/* The slice projector p = A ρ and its adjoint Aᵀ p, without a matrix: entries as projector.py has them.
 *
 * Both gather: a vector of neighbours, detector columns or pixels of a row, take from every line, or tilt, a few members
 * each, which lie in two vectors. With sixteen in a vector they are picked out of those within registers, plane by
 * plane. With eight that is slower than a sparse matrix: there all planes of a place lie side by side, and each
 * neighbour in turn takes vectors of planes. For a tilt, w >= n are the larger and the smaller of |cos θ|, |sin θ|,
 * a = n / w.
 *
 * Map: a strip is followed along lines, rows of the slice or columns of it, whichever it crosses more steeply. On a
 * line it is 1/w long, and each of its edges slants over a length a. An edge that begins at pixel k + f, 0 <= f < 1, has
 *     v = max(0, f + a - 1)² / 2a  of pixel k + 1  and  f + a/2 - v  of pixel k  to its left,
 * and a strip has what is to the left of its right edge but not of its left one. It meets four pixels at most, three if
 * 1/w + a <= 2.
 *
 * Adjoint: the footprint of a pixel begins at column c + f and is w + n wide. Of it, in units of w,
 *     C(b) = b - a/2 + max(0, a - b)² / 2a - max(0, b - 1)² / 2a,    b = (1 - f) / w,
 * lies in column c, max(0, 1 + a - (2 - f) / w)² / 2a in column c + 2, the rest between.
 *
 * A slice turned by 180° has its projections reversed. So with every plane goes its mirror image, of which only half of
 * the lines is needed: weights are made for half of the lines alone.
 *
 * Positions are whole numbers of 2⁻³² pixels; within a vector of neighbours of 2⁻²⁷, 32 pixels at most. */
#include "native.h"

#define BESIDE (LANES < 16) /* planes lie side by side */

#define POINT 32    /* binary digits behind the point of a position */
#define FRACTION 27 /* of one among neighbours */
#define MARGIN 32   /* zeros before and behind each line: two vectors, or more */
#define PAIR 2      /* lines, or tilts, at a time */
#define TAPS 4      /* members of a line that are taken at most */

typedef uint32_t places __attribute__((vector_size(4 * LANES), aligned(4)));

/* A tilt's a, 1/sqrt(2a), 1/w and 1 + a - 2/w. */
typedef struct {
    float slant, steep, length, behind;
} shape;

/* What neighbours take of a line: weights, and places counted from `base`. */
typedef struct {
    lanes weight[TAPS];
    marks place;
    int64_t base;
} windows;

static inline lanes positive(lanes values) { return where(values > 0, values, all(0)); }

static inline int64_t planes_of(int64_t batch) { return BESIDE ? up(2 * batch, LANES) : 2 * batch; }

/* Where a number of a plane is among rows of `row` of them. */
static inline int64_t at(int64_t plane, int64_t place, int64_t row, int64_t planes) {
    return BESIDE ? place * planes + plane : plane * row + place;
}

/* Where neighbours are, counted from the first of them, or the last if they run backwards. */
static places steps(int64_t step) {
    places result;
    for (int i = 0; i < LANES; i++)
        result[i] = (uint32_t)((step < 0 ? step * (i + 1 - LANES) : step * i) >> (POINT - FRACTION));
    return result;
}

static inline places placed(int64_t start, places step) {
    return step + (uint32_t)((start & 0xffffffff) >> (POINT - FRACTION));
}
static inline lanes part(places place) {
    return __builtin_convertvector((marks)(place & ((1u << FRACTION) - 1)), lanes) * (1.0f / (1 << FRACTION));
}

static inline void strips(int64_t start, places step, shape s, windows *w) {
    const places left = placed(start, step), right = left + (uint32_t)(s.length * (1 << FRACTION));
    const lanes f = part(left), g = part(right);
    const lanes r = positive(f + (s.slant - 1)) * s.steep, q = positive(g + (s.slant - 1)) * s.steep;
    const lanes lost = r * r, won = q * q, most = g + s.slant / 2 - won;
    const marks far = (marks)((right >> FRACTION) - (left >> FRACTION)) > 1;
    w->weight[0] = (1 - s.slant / 2) - f + lost;
    w->weight[1] = where(far, all(1), most) - lost;
    w->weight[2] = where(far, most, won);
    w->weight[3] = where(far, won, all(0));
    w->place = (marks)(left >> FRACTION);
    w->base = start >> POINT;
}

static inline void pixels(int64_t start, places step, shape s, windows *w) {
    const places left = placed(start, step);
    const lanes f = part(left) * s.length, b = s.length - f;
    const lanes r = positive(s.slant - b) * s.steep, q = positive(b - 1) * s.steep;
    const lanes last = positive(f + s.behind) * s.steep;
    w->weight[0] = b - s.slant / 2 + r * r - q * q;
    w->weight[2] = last * last;
    w->weight[1] = 1 - w->weight[0] - w->weight[2];
    w->place = (marks)(left >> FRACTION);
    w->base = start >> POINT;
}

/* Add to the sums of neighbours, for all planes, what they take of one or two lines. */
#if BESIDE
static inline __attribute__((always_inline)) void take_beside(const windows *w, int together, int taps,
                                                              const float *const *source, float *sum, int vectors) {
    float weight[PAIR][TAPS][LANES];
    for (int j = 0; j < together; j++)
        for (int tap = 0; tap < taps; tap++) store(weight[j][tap], w[j].weight[tap]);
    for (int i = 0; i < LANES; i++, sum += vectors * LANES) {
        lanes total[2];
        for (int v = 0; v < vectors; v++) total[v] = load(sum + v * LANES);
        for (int j = 0; j < together; j++)
            for (int tap = 0; tap < taps; tap++) {
                const float *from = source[j] + (w[j].place[i] + tap) * vectors * LANES;
                for (int v = 0; v < vectors; v++) total[v] += weight[j][tap][i] * load(from + v * LANES);
            }
        for (int v = 0; v < vectors; v++) store(sum + v * LANES, total[v]);
    }
}

static inline __attribute__((always_inline)) void take(const windows *w, int together, int taps,
                                                       const float *const *source, int64_t line, float *sum,
                                                       int64_t row, int64_t planes) {
    (void)line, (void)row;
    if (planes == LANES) take_beside(w, together, taps, source, sum, 1);
    else if (planes) take_beside(w, together, taps, source, sum, 2);
}
#else
#include <immintrin.h>

static inline lanes pick(lanes low, lanes high, marks place) {
    return (lanes)_mm512_permutex2var_ps((__m512)low, (__m512i)place, (__m512)high);
}

static inline __attribute__((always_inline)) void take(const windows *w, int together, int taps,
                                                       const float *const *source, int64_t line, float *sum,
                                                       int64_t row, int64_t planes) {
    for (int64_t p = 0; p < planes; p++) {
        lanes total[PAIR] = {load(sum + p * row)};
        for (int j = 0; j < together; j++) {
            const float *from = source[j] + p * line;
            const lanes low = load(from), high = load(from + LANES);
            for (int tap = 0; tap < taps; tap++) total[j] += w[j].weight[tap] * pick(low, high, w[j].place + tap);
        }
        store(sum + p * row, total[0] + total[1]);
    }
}
#endif

/* The same of lines (planes, MARGIN + along) each. */
static void add(const windows *w, int together, int taps, const float *source, int64_t along, float *sum, int64_t row,
                int64_t planes) {
    const int64_t line = along + MARGIN;
    const float *from[PAIR];
    for (int j = 0; j < together; j++) {
        const int64_t first = w[j].base < -MARGIN ? 0 : MARGIN + least(w[j].base, along);
        from[j] = source + j * planes * line + at(0, first, line, planes);
    }
    if (together < PAIR) take(w, 1, taps, from, line, sum, row, planes);
    else if (taps < TAPS) take(w, PAIR, TAPS - 1, from, line, sum, row, planes);
    else take(w, PAIR, TAPS, from, line, sum, row, planes);
}

/* source: batch members with lines, whose first numbers are `by_line` apart, along which numbers are `step` apart.
 * target: MARGIN zeros, then (lines, planes, along + MARGIN): planes are the members and their mirror images; side by
 * side, (MARGIN + lines · (along + MARGIN), planes). Turned by 180°, half of the lines are kept, the middle one once;
 * else lines alone are reversed. */
void projector_planes(const float *source, float *target, int64_t batch, int64_t lines, int64_t along, int64_t by_line,
                      int64_t step, int64_t turned) {
    const int64_t kept = turned ? (lines + 1) / 2 : lines, width = along + MARGIN, planes = planes_of(batch);
    const int64_t apart = at(0, 1, width, planes);
    memset(target, 0, MARGIN * apart * sizeof(float));
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < kept; first += LANES) {
        const int64_t last = least(first + LANES, kept);
        float *group = target + MARGIN * apart + first * planes * width;
        memset(group, 0, (last - first) * planes * width * sizeof(float));
        for (int64_t s = 0; s < batch; s++)
            for (int64_t l = first; l < last; l++) {
                const float *member = source + s * lines * along;
                const int64_t other = turned ? lines - 1 - l : l;
                float *to = group + (l - first) * planes * width;
                float *here = to + at(s, 0, width, planes), *mirrored = to + at(batch + s, 0, width, planes);
                for (int64_t k = 0; k < along; k++) here[k * apart] = member[l * by_line + k * step];
                if (turned && other == l) continue;
                for (int64_t k = 0; k < along; k++)
                    mirrored[k * apart] = member[other * by_line + (along - 1 - k) * step];
            }
    }
}

static void project_tilt(const float *image, const int64_t *tilt, shape s, float *sum, int64_t planes, int64_t lines,
                         int64_t along, int64_t n_u) {
    const int64_t row = up(n_u, LANES), lowest = least(0, (LANES - 1) * tilt[2]);
    const int taps = s.length + s.slant <= 2 ? TAPS - 1 : TAPS;
    const places step = steps(tilt[2]);
    memset(sum, 0, row * planes * sizeof(float));
    for (int64_t l = 0; l < (lines + 1) / 2; l += PAIR)
        for (int64_t u = 0; u < n_u; u += LANES) {
            const int together = (int)least(PAIR, (lines + 1) / 2 - l);
            windows w[PAIR];
            for (int j = 0; j < together; j++)
                strips(tilt[1] + u * tilt[2] + (l + j) * tilt[3] + lowest, step, s, w + j);
            add(w, together, taps, image + l * planes * (along + MARGIN), along, sum + at(0, u, row, planes), row,
                planes);
        }
}

/* upright, turned: planes of the slices, lines are rows, or columns; tilts (n_tilts, 4): whether lines are columns, where
 * column 0's strip begins on line 0, steps by column and by line; sinograms (batch, n_tilts, n_u). */
void projector_forward(const float *upright, const float *turned, const int64_t *tilts, const shape *shapes,
                       float *sinograms, int64_t batch, int64_t n_z, int64_t n_x, int64_t n_tilts, int64_t n_u) {
    const int64_t row = up(n_u, LANES), planes = planes_of(batch);
#pragma omp parallel
    {
        float *sum = room(row * planes * sizeof(float));
#pragma omp for schedule(static)
        for (int64_t t = 0; t < n_tilts; t++) {
            const int64_t *tilt = tilts + 4 * t;
            if (tilt[0]) project_tilt(turned, tilt, shapes[t], sum, planes, n_x, n_z, n_u);
            else project_tilt(upright, tilt, shapes[t], sum, planes, n_z, n_x, n_u);
            for (int64_t s = 0; s < batch; s++) {
                float *out = sinograms + (s * n_tilts + t) * n_u;
                for (int64_t u = 0; u < n_u; u++)
                    out[u] = sum[at(s, u, row, planes)] + sum[at(batch + s, n_u - 1 - u, row, planes)];
            }
        }
        free(sum);
    }
}

static void back_project_row(const float *source, const int64_t *tilts, const shape *shapes, const places *step,
                             float *sum, int64_t planes, int64_t z, int64_t n_x, int64_t n_tilts, int64_t n_u) {
    const int64_t row = up(n_x, LANES);
    memset(sum, 0, row * planes * sizeof(float));
    for (int64_t t = 0; t < n_tilts; t += PAIR)
        for (int64_t x = 0; x < n_x; x += LANES) {
            const int together = (int)least(PAIR, n_tilts - t);
            windows w[PAIR];
            for (int j = 0; j < together; j++) {
                const int64_t *tilt = tilts + 3 * (t + j);
                pixels(tilt[0] + x * tilt[1] + z * tilt[2], step[t + j], shapes[t + j], w + j);
            }
            add(w, together, TAPS - 1, source + t * planes * (n_u + MARGIN), n_u, sum + at(0, x, row, planes), row,
                planes);
        }
}

/* source: planes of the sinograms, lines are tilts; tilts (n_tilts, 3): where the footprint of pixel (0, 0) begins, steps
 * along x and z; slices (batch, n_z, n_x). */
void projector_backward(const float *source, const int64_t *tilts, const shape *shapes, float *slices, int64_t batch,
                        int64_t n_z, int64_t n_x, int64_t n_tilts, int64_t n_u) {
    const int64_t row = up(n_x, LANES), planes = planes_of(batch);
    places *step = room(n_tilts * sizeof(places));
    for (int64_t t = 0; t < n_tilts; t++) step[t] = steps(tilts[3 * t + 1]);
#pragma omp parallel
    {
        float *sum = room(row * planes * sizeof(float));
#pragma omp for schedule(static)
        for (int64_t z = 0; z < (n_z + 1) / 2; z++) {
            back_project_row(source, tilts, shapes, step, sum, planes, z, n_x, n_tilts, n_u);
            for (int64_t s = 0; s < batch; s++) {
                float *to = slices + s * n_z * n_x;
                for (int64_t x = 0; x < n_x; x++)
                    to[(n_z - 1 - z) * n_x + x] = sum[at(batch + s, n_x - 1 - x, row, planes)];
                for (int64_t x = 0; x < n_x; x++) to[z * n_x + x] = sum[at(s, x, row, planes)];
            }
        }
        free(sum);
    }
    free(step);
}
