/* Mean concave total variation of slices, κ log(1 + g/κ) + ψ h, and its gradient in the same pass, see regularise.py.
 *
 * With differences d to the next voxel along y, z and x, g = sqrt(Σ d² + ε²) - ε, and h the same of what exceeds the
 * density δ. A voxel a sends along each axis to its neighbour b what the cost changes with b, and loses it itself:
 *     flux = κ d / ((κ + g)(g + ε)) + ψ d' / (h + ε),   the second part to b only if b > δ, from a only if a > δ.
 * With an infinite κ a voxel costs g, and its flux is d / (g + ε).
 * Rows along x are taken by z, then y, so that fluxes along y wait for one row and those along z for a row a slice.
 */
#include "native.h"

/* ε, κ, δ in the units of the density, ψ, and the factor that makes the sum a mean in units of the typical density. */
typedef struct {
    float sharpness, edge, dense, top, unit;
} law;

/* Fluxes on their way: to the right (one longer than a row, from 0 on), beside along y, below along z. */
typedef struct {
    float *right, *beside, *below;
} fluxes;

/* log(1 + t), t ≥ 0: e log 2 + log m, m within √½ and √2, the latter by the series of artanh((m - 1)/(m + 1)). */
static inline float log_1_plus(float t) {
    const int32_t root_half = 0x3f3504f3;
    float f = 1 + t, m;
    int32_t bits, e;
    memcpy(&bits, &f, sizeof f);
    e = (bits - root_half) >> 23;
    bits -= e * (1 << 23);
    memcpy(&m, &bits, sizeof m);
    float u = e ? m - 1 : t, s = u / (2 + u), q = s * s;
    return 0.69314718f * e + 2 * s * (1 + q * (1.f / 3 + q * (1.f / 5 + q * (1.f / 7)))) + (f - f); /* NaN stays NaN */
}

static inline float above(float value, float dense) { return value > dense ? value - dense : 0; }

/* The cost of voxel a, whose neighbours are b (x), c (y), d (z); what they are sent, and all that a loses. Where it does
 * not bend, κ is infinite. */
static inline float voxel(float a, float b, float c, float d, law of, int bends, float *right, float *beside,
                          float *below, float *lost) {
    float x = b - a, y = c - a, z = d - a, own = above(a, of.dense);
    float tx = above(b, of.dense) - own, ty = above(c, of.dense) - own, tz = above(d, of.dense) - own;
    float root = sqrtf(x * x + y * y + z * z + of.sharpness * of.sharpness);
    float peak = sqrtf(tx * tx + ty * ty + tz * tz + of.sharpness * of.sharpness);
    float g = root - of.sharpness, more = of.top * of.unit / peak;
    float weight = bends ? of.edge * of.unit / ((of.edge + g) * root) : of.unit / root;
    *right = weight * x + (bends && b > of.dense ? more * tx : 0);
    *beside = weight * y + (bends && c > of.dense ? more * ty : 0);
    *below = weight * z + (bends && d > of.dense ? more * tz : 0);
    *lost = weight * (x + y + z) + (bends && a > of.dense ? more * (tx + ty + tz) : 0);
    return bends ? of.edge * log_1_plus(g / of.edge) + of.top * (peak - of.sharpness) : g;
}

/* The cost of a row, which goes on beside its last voxel as that, its gradient, and the fluxes that go on; those that
 * arrive are there. */
static inline double row(const float *here, const float *next, const float *under, int64_t n, law of, int bends, fluxes on,
                         float *gradient) {
    float cost = 0, lost;
#pragma omp simd reduction(+ : cost) private(lost)
    for (int64_t x = 0; x < n; x++) {
        float arrives = on.beside[x] + on.below[x];
        cost += voxel(here[x], here[x + 1], next[x], under[x], of, bends, on.right + x + 1, on.beside + x, on.below + x,
                      &lost);
        gradient[x] = arrives - lost;
    }
#pragma omp simd
    for (int64_t x = 0; x < n; x++) gradient[x] += on.right[x];
    return cost;
}

/* slices, gradient (n_y, n_z, n_x), of which the first `counted` slices have a cost: all, if the last is its own
 * neighbour, else all but one; value (1); parts of the layers, that below the vacuum among them, are for threads. */
void variation_and_gradient(const float *slices, float *gradient, float *value, int64_t n_y, int64_t n_z, int64_t n_x,
               int64_t counted, float sharpness, float edge, float dense, float top, float unit, int64_t parts) {
    const law of = {sharpness, edge, dense, top, unit};
    const int64_t layers = n_z + 1, plane = n_z * n_x;
    float *vacuum = calloc(n_x, sizeof(float));
    double *costs = malloc(layers * counted * sizeof(double)), sum = 0;
#pragma omp parallel for schedule(static)
    for (int64_t part = 0; part < parts; part++) {
        const int64_t first = layers * part / parts, stop = layers * (part + 1) / parts;
        float *right = calloc((n_y + 4) * n_x + 2, sizeof(float));
        float *wide = right + n_x + 1, *beside = wide + n_x + 1, *unused = beside + n_x, *below = unused + n_x;
        for (int64_t k = first > 0 ? first - 1 : 0; k < stop; k++) { /* one before, for what it sends */
            const float *above_it = slices + (k - 1) * n_x, *layer = slices + k * n_x;
            memset(beside, 0, n_x * sizeof(float));
            for (int64_t y = 0; y < n_y; y++) {
                const float *here = k > 0 ? above_it + y * plane : vacuum, *under = k < n_z ? layer + y * plane : vacuum;
                const float *next = k > 0 && y < n_y - 1 ? here + plane : here;
                float *to = k > 0 && k >= first ? gradient + y * plane + (k - 1) * n_x : unused;
                const fluxes on = {right, beside, below + y * n_x};
                if (y == counted)
                    memcpy(to, beside, n_x * sizeof(float));
                else {
                    memcpy(wide, here, n_x * sizeof(float));
                    wide[n_x] = wide[n_x - 1];
                    double cost = of.edge < INFINITY ? row(wide, next, under, n_x, of, 1, on, to)
                                                     : row(wide, next, under, n_x, of, 0, on, to);
                    if (k >= first) costs[k * counted + y] = cost;
                }
            }
        }
        free(right);
    }
    for (int64_t i = 0; i < layers * counted; i++) sum += costs[i];
    *value = (float)(sum * unit);
    free(vacuum), free(costs);
}
