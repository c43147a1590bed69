/* Features of all grid levels at the pixels of a block of slices, axis by axis:
 *
 *     out(f, a, b, c) = Σ_ijk y_ai z_bj x_ck table(i, f, j, k).
 *
 * Along each axis pixel a lies between the nodes low_a and low_a + 1, which give it 1 - after_a and after_a. A row of
 * nodes is mixed of two planes, brought to the pixels along x, and kept for all rows of pixels beside it. The way back
 * is the adjoint: rows of pixels are summed for a row of nodes, which goes along x to the nodes of two planes.
 *
 * Along x, where pixels are in step with nodes, each takes of two neighbours in memory; elsewhere a vector of results
 * is made of the few values that give to it, with a vector of weights for each. */
#include "native.h"

int omp_get_max_threads(void); /* of OpenMP, whose header Apple's compiler lacks */

typedef struct { /* pixels of a level along an axis */
    int64_t pixels, nodes;
    const int32_t *low;
    const float *after;
} axis;

typedef struct { /* a matrix by blocks of LANES results: what values first, …, last - 1 give to a block */
    int64_t blocks, *first, *last;
    lanes **weights;
    void *memory;
} band;

typedef struct {
    axis y, z, x;
    int in_step; /* whether every pixel along x lies one node further than the one before */
    band along_x;
} level;

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* What nodes give to pixels along an axis, or, back, pixels to nodes. */
static band make_band(axis x, int back) {
    const int64_t results = back ? x.nodes : x.pixels, values = back ? x.pixels : x.nodes, blocks = up(results, LANES) / LANES;
    band made = {.blocks = blocks, .first = malloc(sizeof(int64_t) * (size_t)(2 * blocks + 1)),
                 .weights = malloc(sizeof(lanes *) * (size_t)(blocks + 1))};
    made.last = made.first + blocks;
    for (int64_t i = 0; i < blocks; i++) made.first[i] = values, made.last[i] = 0;
    for (int64_t c = 0; c < x.pixels; c++)
        for (int64_t k = x.low[c]; k < x.low[c] + 2; k++) {
            const int64_t to = (back ? k : c) / LANES, from = back ? c : k;
            made.first[to] = least(made.first[to], from);
            made.last[to] = most(made.last[to], from + 1);
        }
    int64_t vectors = 0;
    for (int64_t i = 0; i < blocks; i++) vectors += most(0, made.last[i] - made.first[i]);
    lanes *next = made.memory = room(vectors * sizeof(lanes));
    memset(next, 0, sizeof(lanes) * (size_t)vectors);
    for (int64_t i = 0; i < blocks; i++) {
        made.weights[i] = next;
        next += most(0, made.last[i] - made.first[i]);
    }
    for (int64_t c = 0; c < x.pixels; c++)
        for (int64_t k = x.low[c]; k < x.low[c] + 2; k++) {
            const int64_t to = back ? k : c, from = back ? c : k, i = to / LANES;
            made.weights[i][from - made.first[i]][to % LANES] = k == x.low[c] ? 1 - x.after[c] : x.after[c];
        }
    return made;
}

static void apply(float *restrict results, const float *restrict values, const band *matrix) {
    for (int64_t i = 0; i < matrix->blocks; i++) {
        const lanes *weights = matrix->weights[i] - matrix->first[i];
        const int64_t last = matrix->last[i];
        int64_t k = matrix->first[i];
        lanes sums[4] = {{0}, {0}, {0}, {0}}; /* for one need not wait for another */
        for (; k + 4 <= last; k += 4)
            for (int j = 0; j < 4; j++) sums[j] += weights[k + j] * values[k + j];
        for (; k < last; k++) sums[0] += weights[k] * values[k];
        store(results + i * LANES, (sums[0] + sums[1]) + (sums[2] + sums[3]));
    }
}

static void mix(float *restrict out, const float *restrict a, const float *restrict b, float share, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = a[i] + share * (b[i] - a[i]);
}

static void add(float *restrict out, const float *restrict values, float weight, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] += weight * values[i];
}

static void scale(float *restrict out, const float *restrict values, float weight, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = weight * values[i];
}

/* Mix a row of nodes of two planes, and bring it to the pixels. */
static void row_forward(float *restrict pixels, const float *restrict lower, const float *restrict upper, float share,
                        const level *l, float *nodes) {
    if (!l->in_step) {
        mix(nodes, lower, upper, share, l->x.nodes);
        apply(pixels, nodes, &l->along_x);
        return;
    }
    lower += l->x.low[0], upper += l->x.low[0];
    for (int64_t c = 0; c < l->x.pixels; c++) {
        const float before = lower[c] + share * (upper[c] - lower[c]);
        const float behind = lower[c + 1] + share * (upper[c + 1] - lower[c + 1]);
        pixels[c] = before + l->x.after[c] * (behind - before);
    }
}

static void give(float *lower, float *upper, float share, float value) {
    *lower += (1 - share) * value;
    *upper += share * value;
}

/* Add what a row of pixels gives to a row of nodes of two planes. */
static void row_backward(float *restrict lower, float *restrict upper, const float *restrict pixels, float share,
                         const level *l, float *restrict nodes) {
    if (!l->in_step) {
        apply(nodes, pixels, &l->along_x);
        for (int64_t k = 0; k < l->x.nodes; k++) give(lower + k, upper + k, share, nodes[k]);
        return;
    }
    const float *after = l->x.after;
    const int64_t n = l->x.pixels;
    lower += l->x.low[0], upper += l->x.low[0];
    give(lower, upper, share, (1 - after[0]) * pixels[0]);
    for (int64_t c = 1; c < n; c++)
        give(lower + c, upper + c, share, (1 - after[c]) * pixels[c] + after[c - 1] * pixels[c - 1]);
    give(lower + n, upper + n, share, after[n - 1] * pixels[n - 1]);
}

/* Two rows of pixels, those of the nodes around the current one, and a row of nodes. */
typedef struct {
    float *rows[2], *nodes;
    int64_t held[2];
} workspace;

static workspace make_workspace(const level *levels, int64_t n_levels) {
    const int64_t pixels = up(levels[0].x.pixels, LANES);
    int64_t nodes = 0;
    for (int64_t l = 0; l < n_levels; l++) nodes = most(nodes, up(levels[l].x.nodes, LANES));
    float *memory = room((2 * pixels + nodes) * sizeof(float));
    return (workspace){{memory, memory + pixels}, memory + 2 * pixels, {-1, -1}};
}

/* One feature of one slice, from the two planes around it. */
static void slice_forward(float *out, const float *lower, const float *upper, float share, const level *l,
                          workspace w) {
    for (int64_t b = 0; b < l->z.pixels; b++) {
        const int64_t low = l->z.low[b], n = l->x.nodes;
        for (int64_t j = low; j < low + 2; j++) {
            if (w.held[j & 1] == j) continue;
            row_forward(w.rows[j & 1], lower + j * n, upper + j * n, share, l, w.nodes);
            w.held[j & 1] = j;
        }
        mix(out + b * l->x.pixels, w.rows[low & 1], w.rows[(low + 1) & 1], l->z.after[b], l->x.pixels);
    }
}

/* Add one feature of one slice to the node rows `first` to `last` - 1 of the two planes around it. */
static void slice_backward(const float *gradient, float *lower, float *upper, float share, const level *l,
                           int64_t first, int64_t last, workspace w) {
    const int64_t n = l->x.nodes;
    for (int64_t b = 0; b < l->z.pixels; b++) {
        const float *pixels = gradient + b * l->x.pixels;
        for (int64_t j = most(first, l->z.low[b]); j < least(last, l->z.low[b] + 2); j++) {
            const float weight = j == l->z.low[b] ? 1 - l->z.after[b] : l->z.after[b];
            const int64_t held = w.held[j & 1];
            float *row = w.rows[j & 1];
            if (held == j) {
                add(row, pixels, weight, l->x.pixels);
                continue;
            }
            if (held >= 0) row_backward(lower + held * n, upper + held * n, row, share, l, w.nodes);
            scale(row, pixels, weight, l->x.pixels);
            w.held[j & 1] = j;
        }
    }
    for (int side = 0; side < 2; side++) {
        const int64_t held = w.held[side];
        if (held >= 0) row_backward(lower + held * n, upper + held * n, w.rows[side], share, l, w.nodes);
    }
}

/* Pixels of all levels along an axis: low and after have shape (levels, n), nodes (levels,). */
typedef struct {
    const int32_t *low;
    const float *after;
    const int32_t *nodes;
    int64_t n;
} axes;

static axis of_level(axes of, int64_t l) { return (axis){of.n, of.nodes[l], of.low + l * of.n, of.after + l * of.n}; }

static level *make_levels(axes y, axes z, axes x, int64_t n_levels, int back) {
    level *levels = malloc(sizeof(level) * (size_t)n_levels);
    for (int64_t l = 0; l < n_levels; l++) {
        level made = {of_level(y, l), of_level(z, l), of_level(x, l), x.n > 0, {0}};
        for (int64_t c = 1; c < x.n; c++) made.in_step &= made.x.low[c] == made.x.low[c - 1] + 1;
        if (!made.in_step) made.along_x = make_band(made.x, back);
        levels[l] = made;
    }
    return levels;
}

static void free_levels(level *levels, int64_t n_levels) {
    for (int64_t l = 0; l < n_levels; l++) {
        free(levels[l].along_x.first);
        free(levels[l].along_x.weights);
        free(levels[l].along_x.memory);
    }
    free(levels);
}

/* tables, each (planes, features, nodes_z, nodes_x), to out (levels, features, n_y, n_z, n_x). */
void interpolation_forward(const float *const *tables, const int32_t *low_y, const float *after_y,
                           const int32_t *nodes_y, const int32_t *low_z, const float *after_z, const int32_t *nodes_z,
                           const int32_t *low_x, const float *after_x, const int32_t *nodes_x, float *out,
                           int64_t n_levels, int64_t features, int64_t n_y, int64_t n_z, int64_t n_x) {
    level *levels = make_levels((axes){low_y, after_y, nodes_y, n_y}, (axes){low_z, after_z, nodes_z, n_z},
                                (axes){low_x, after_x, nodes_x, n_x}, n_levels, 0);
#pragma omp parallel
    {
        workspace w = make_workspace(levels, n_levels);
#pragma omp for collapse(3) schedule(static)
        for (int64_t f = 0; f < features; f++)
            for (int64_t a = 0; a < n_y; a++)
                for (int64_t i = 0; i < n_levels; i++) { /* innermost: each thread has coarse and fine ones */
                    const level *l = levels + i;
                    const int64_t map = l->z.nodes * l->x.nodes, plane = features * map;
                    const float *lower = tables[i] + l->y.low[a] * plane + f * map;
                    float *slice = out + ((i * features + f) * n_y + a) * n_z * n_x;
                    slice_forward(slice, lower, lower + plane, l->y.after[a], l, w);
                }
        free(w.rows[0]);
    }
    free_levels(levels, n_levels);
}

/* gradient, shaped like out, to d_tables, shaped like tables. Threads have features and rows of nodes of their own. */
void interpolation_backward(float *const *d_tables, const int32_t *low_y, const float *after_y, const int32_t *nodes_y,
                            const int32_t *low_z, const float *after_z, const int32_t *nodes_z, const int32_t *low_x,
                            const float *after_x, const int32_t *nodes_x, const float *gradient, int64_t n_levels,
                            int64_t features, int64_t n_y, int64_t n_z, int64_t n_x) {
    level *levels = make_levels((axes){low_y, after_y, nodes_y, n_y}, (axes){low_z, after_z, nodes_z, n_z},
                                (axes){low_x, after_x, nodes_x, n_x}, n_levels, 1);
    const int64_t parts = (omp_get_max_threads() + features - 1) / features; /* of the rows of nodes */
#pragma omp parallel
    {
        workspace w = make_workspace(levels, n_levels);
#pragma omp for collapse(3) schedule(static)
        for (int64_t f = 0; f < features; f++)
            for (int64_t part = 0; part < parts; part++)
                for (int64_t i = 0; i < n_levels; i++) {
                    const level *l = levels + i;
                    const int64_t map = l->z.nodes * l->x.nodes, plane = features * map;
                    const int64_t first = part * l->z.nodes / parts, last = (part + 1) * l->z.nodes / parts;
                    const size_t size = sizeof(float) * (size_t)((last - first) * l->x.nodes);
                    float *d_table = d_tables[i] + f * map;
                    for (int64_t p = 0; p < l->y.nodes; p++) memset(d_table + p * plane + first * l->x.nodes, 0, size);
                    for (int64_t a = 0; a < n_y; a++) {
                        float *lower = d_table + l->y.low[a] * plane;
                        const float *slice = gradient + ((i * features + f) * n_y + a) * n_z * n_x;
                        slice_backward(slice, lower, lower + plane, l->y.after[a], l, first, last, w);
                    }
                }
        free(w.rows[0]);
    }
    free_levels(levels, n_levels);
}
