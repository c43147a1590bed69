/* Radial layers on noise, z = f(n), log dz/dn, and the way back to their parameters.
 *
 * With σ and the parameters of every second layer linear between nodes of clean intensity ("conditioned"),
 *     v = n exp(-log σ) + mean,    v <- v + β w / (α + |w|),  w = v - centre,  dv'/dv = 1 + α β / (α + |w|)²,
 * α = exp(a), β = softplus(b) - α; free layers first. A row of `table` has a quantity at all nodes: the change of
 * log σ, centres, a and b of the conditioned layers, mean.
 */
#include "native.h"

#define MOST 16 /* layers of a kind */

typedef struct {
    lanes centre, alpha, beta, slope; /* slope: of softplus(b) in b */
    lanes value, h, change;           /* before the layer; 1 / (α + |w|); dv'/dv */
} layer;

static void shape(layer *of, lanes centre, lanes a, lanes b) {
    lanes alpha = exp_of(a), e = exp_of(where(b > 0, -b, b)), softplus = log_of(1 + e) + where(b > 0, b, all(0));
    *of = (layer){.centre = centre, .alpha = alpha, .beta = softplus - alpha};
    of->slope = where(b > 0, all(1), e) / (1 + e);
}

static lanes pass(layer *of, lanes value) {
    lanes w = value - of->centre;
    of->value = value;
    of->h = 1 / (of->alpha + where(w < 0, -w, w));
    of->change = 1 + of->alpha * of->beta * of->h * of->h;
    return value + of->beta * w * of->h;
}

/* From the gradient in a layer's output to that in its input; d is that in its centre, a and b. */
static lanes back(const layer *of, lanes gradient, lanes of_log, lanes d[3]) {
    lanes w = of->value - of->centre, h = of->h, ab = of->alpha * of->beta;
    lanes per = of_log / of->change, steep = -2 * ab * h * h * h * per; /* through |w| */
    lanes turned = where(w < 0, -steep, steep);
    lanes by_alpha = -of->beta * w * h * h * gradient + of->beta * h * h * per + steep;
    lanes by_beta = w * h * gradient + of->alpha * h * h * per;
    d[0] = gradient * (1 - of->change) - turned;
    d[1] = (by_alpha - by_beta) * of->alpha;
    d[2] = by_beta * of->slope;
    return gradient * of->change + turned;
}

typedef struct {
    marks node;
    lanes share; /* of the next node */
} place;

static place at(lanes position, int32_t nodes) {
    marks node = __builtin_convertvector(position, marks);
    node &= ~(node < 0);
    node = (node & (node < nodes - 2)) | ((nodes - 2) & (node >= nodes - 2));
    return (place){node, position - __builtin_convertvector(node, lanes)};
}

static lanes between(const float *row, place where_) {
    lanes low, next;
    for (int i = 0; i < LANES; i++) low[i] = row[where_.node[i]], next[i] = row[where_.node[i] + 1];
    return low + where_.share * (next - low);
}

/* All layers of a vector of pixels; returns z, and log dz/dn in `log_det`. */
static lanes through(layer *layers, const layer *free_layers, lanes noise, lanes base, place there, const float *table,
                     int64_t pairs, int64_t nodes, lanes *log_det, lanes *scaled) {
    lanes log_sigma = base + between(table, there), value = *scaled = noise * exp_of(-log_sigma);
    lanes product = all(1);
    value += between(table + (3 * pairs + 1) * nodes, there);
    *log_det = -log_sigma;
    for (int64_t k = 0; k < 2 * pairs; k++) {
        const float *row = table + (1 + k - pairs) * nodes;
        if (k < pairs)
            layers[k] = free_layers[k];
        else
            shape(&layers[k], between(row, there), between(row + pairs * nodes, there),
                  between(row + 2 * pairs * nodes, there));
        value = pass(&layers[k], value);
        product *= layers[k].change;
        if (k % 2 == 1) *log_det += log_of(product), product = all(1);
    }
    return value;
}

static void shape_free(layer *layers, const float *parameters, int64_t pairs) {
    for (int64_t k = 0; k < pairs; k++)
        shape(&layers[k], all(parameters[k]), all(parameters[pairs + k]), all(parameters[2 * pairs + k]));
}

/* noise, base (log σ before the change), position among the nodes, z, log_det: (n); table (3 pairs + 2, nodes),
 * parameters of the free layers (3, pairs). */
void radial_forward(const float *noise, const float *base, const float *position, const float *table,
                  const float *parameters, float *z, float *log_det, int64_t n, int64_t pairs, int64_t nodes) {
    layer free_layers[MOST];
    shape_free(free_layers, parameters, pairs);
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < n; first += LANES) {
        layer layers[2 * MOST];
        int64_t count = least(LANES, n - first);
        lanes log, scaled;
        lanes value = through(layers, free_layers, some(noise + first, count), some(base + first, count),
                              at(some(position + first, count), (int32_t)nodes), table, pairs, nodes, &log, &scaled);
        store_some(z + first, value, count);
        store_some(log_det + first, log, count);
    }
}

static void spread(lanes gradient, place there, float *row, int64_t count) {
    lanes next = gradient * there.share, low = gradient - next;
    for (int64_t i = 0; i < count; i++) row[there.node[i]] += low[i], row[there.node[i] + 1] += next[i];
}

/* Gradients of given ones in z and log_det: d_base (n), and by parts of the pixels d_table (parts, as table) and
 * d_parameters (parts, 3, pairs), zero before. */
void radial_backward(const float *noise, const float *base, const float *position, const float *table,
                   const float *parameters, const float *d_z, const float *d_log, float *d_base, float *d_table,
                   float *d_parameters, int64_t n, int64_t pairs, int64_t nodes, int64_t parts) {
    layer free_layers[MOST];
    const int64_t groups = (n + LANES - 1) / LANES;
    shape_free(free_layers, parameters, pairs);
#pragma omp parallel for schedule(static)
    for (int64_t part = 0; part < parts; part++) {
        float *rows = d_table + part * (3 * pairs + 2) * nodes, *own = d_parameters + part * 3 * pairs;
        lanes sums[3][MOST] = {0};
        for (int64_t first = groups * part / parts * LANES; first < least(n, groups * (part + 1) / parts * LANES);
             first += LANES) {
            layer layers[2 * MOST];
            int64_t count = least(LANES, n - first);
            place there = at(some(position + first, count), (int32_t)nodes);
            lanes d[3], log, scaled, of_log = some(d_log + first, count), gradient = some(d_z + first, count);
            through(layers, free_layers, some(noise + first, count), some(base + first, count), there, table, pairs,
                    nodes, &log, &scaled);
            for (int64_t k = 2 * pairs - 1; k >= 0; k--) {
                gradient = back(&layers[k], gradient, of_log, d);
                for (int64_t i = 0; i < 3; i++)
                    if (k < pairs)
                        sums[i][k] += d[i];
                    else
                        spread(d[i], there, rows + (1 + i * pairs + k - pairs) * nodes, count);
            }
            spread(gradient, there, rows + (3 * pairs + 1) * nodes, count);
            lanes of_sigma = -scaled * gradient - of_log;
            spread(of_sigma, there, rows, count);
            store_some(d_base + first, of_sigma, count);
        }
        for (int64_t i = 0; i < 3; i++)
            for (int64_t k = 0; k < pairs; k++)
                for (int lane = 0; lane < LANES; lane++) own[i * pairs + k] += sums[i][k][lane];
    }
}

/* The input of a layer whose output is `value`: |w| solves s² + (α + β - r) s - α r = 0, r = |value - centre|. */
static lanes unpass(layer *of, lanes value) {
    lanes away = value - of->centre, r = where(away < 0, -away, away), p = of->alpha + of->beta - r;
    lanes square = p * p + 4 * of->alpha * r, root;
    for (int i = 0; i < LANES; i++) root[i] = sqrtf(square[i]);
    lanes below = root + p; /* of two forms of the root, that which does not cancel */
    lanes s = where(p > 0, 2 * of->alpha * r / where(below < 1e-30f, all(1e-30f), below), (root - p) * 0.5f);
    of->value = of->centre + where(away < 0, -s, s);
    of->h = 1 / (of->alpha + s);
    of->change = 1 + of->alpha * of->beta * of->h * of->h;
    return of->value;
}

/* All layers at a node of `table` (3 pairs, nodes). */
static void shape_at(layer *layers, const layer *free_layers, const float *table, int64_t node, int64_t pairs,
                     int64_t nodes) {
    const float *here = table + node;
    memcpy(layers, free_layers, pairs * sizeof(layer));
    for (int64_t k = 0; k < pairs; k++)
        shape(&layers[pairs + k], all(here[k * nodes]), all(here[(pairs + k) * nodes]),
              all(here[(2 * pairs + k) * nodes]));
}

/* Mean and mean square of g(z), the inverse of all layers, at every node: z and weight (n) are of a quadrature, n a
 * multiple of 16; table (3 pairs, nodes), parameters (3, pairs), mean, square (nodes). */
void radial_moments(const float *table, const float *parameters, const float *z, const float *weight, float *mean,
                  float *square, int64_t n, int64_t pairs, int64_t nodes) {
    layer free_layers[MOST];
    shape_free(free_layers, parameters, pairs);
#pragma omp parallel for schedule(static)
    for (int64_t node = 0; node < nodes; node++) {
        layer layers[2 * MOST];
        lanes first = {0}, second = {0};
        shape_at(layers, free_layers, table, node, pairs, nodes);
        for (int64_t i = 0; i < n; i += LANES) {
            lanes value = load(z + i);
            for (int64_t k = 2 * pairs - 1; k >= 0; k--) value = unpass(&layers[k], value);
            first += load(weight + i) * value;
            second += load(weight + i) * value * value;
        }
        mean[node] = square[node] = 0;
        for (int i = 0; i < LANES; i++) mean[node] += first[i], square[node] += second[i];
    }
}

/* From the gradient in the mean at every node to d_table (3 pairs, nodes) and, by parts of the nodes, d_parameters
 * (parts, 3, pairs), zero before. */
void radial_moments_backward(const float *table, const float *parameters, const float *z, const float *weight,
                           const float *d_mean, float *d_table, float *d_parameters, int64_t n, int64_t pairs,
                           int64_t nodes, int64_t parts) {
    layer free_layers[MOST];
    shape_free(free_layers, parameters, pairs);
#pragma omp parallel for schedule(static)
    for (int64_t part = 0; part < parts; part++)
        for (int64_t node = nodes * part / parts; node < nodes * (part + 1) / parts; node++) {
            layer layers[2 * MOST];
            lanes sums[2 * MOST][3] = {0};
            shape_at(layers, free_layers, table, node, pairs, nodes);
            for (int64_t i = 0; i < n; i += LANES) {
                lanes value = load(z + i), gradient = d_mean[node] * load(weight + i), d[3];
                for (int64_t k = 2 * pairs - 1; k >= 0; k--) value = unpass(&layers[k], value);
                for (int64_t k = 0; k < 2 * pairs; k++) {
                    gradient /= layers[k].change; /* of the inverse */
                    back(&layers[k], gradient, all(0), d);
                    for (int j = 0; j < 3; j++) sums[k][j] -= d[j];
                }
            }
            for (int64_t k = 0; k < 2 * pairs; k++)
                for (int64_t j = 0; j < 3; j++) {
                    float sum = 0;
                    for (int i = 0; i < LANES; i++) sum += sums[k][j][i];
                    if (k < pairs)
                        d_parameters[(part * 3 + j) * pairs + k] += sum;
                    else
                        d_table[(j * pairs + k - pairs) * nodes + node] = sum;
                }
        }
}

/* log p of the Gaussian whose log σ lies in `table` (nodes), of which an intensity of `low` has the first and `unit`
 * nodes lie in one of 1; and the slope of log p in the clean intensity, σ taken as given. The others: (n). */
void gaussian_law(const float *observed, const float *clean, const float *table, float *log_p, float *slope, float low,
                  float unit, int64_t n, int64_t nodes) {
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < n; first += LANES) {
        int64_t count = least(LANES, n - first);
        lanes seen = some(clean + first, count), last = all((float)(nodes - 1));
        lanes position = (seen - low) * unit;
        position = where(position < 0, all(0), where(position > last, last, position));
        lanes log_sigma = between(table, at(position, (int32_t)nodes)), inverse = exp_of(-log_sigma);
        lanes z = (some(observed + first, count) - seen) * inverse, law = -0.5f * z * z - log_sigma - 0.918938533f;
        z *= inverse;
        store_some(log_p + first, law, count);
        store_some(slope + first, z, count);
    }
}
