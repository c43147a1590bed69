/* Adam (Kingma and Ba, 2015) on the planes of a table, in one pass; every plane counts its own steps t from 1:
 *     m += (1 - β₁)(g - m)    v += (1 - β₂)(g² - v)    x -= η / (1 - β₁ᵗ) · m / (sqrt(v / (1 - β₂ᵗ)) + ε)
 */
#include "native.h"

#define PIECE 4096 /* numbers of a plane at a time */

/* x, g, m, v (planes, size), t (planes), the rest as above, β as 1 - β. */
void adam_descend(float *x, const float *g, float *m, float *v, float *t, int64_t planes, int64_t size, float rate,
                  float fresh, float fresh2, float eps) {
    const int64_t pieces = (size + PIECE - 1) / PIECE;
    for (int64_t p = 0; p < planes; p++) t[p] += 1;
#pragma omp parallel for schedule(static) if (planes * size > PIECE)
    for (int64_t k = 0; k < planes * pieces; k++) {
        const int64_t plane = k / pieces, first = k % pieces * PIECE, stop = first + PIECE < size ? first + PIECE : size;
        const float step = (float)(rate / (1 - pow(1 - (double)fresh, t[plane])));
        const float scale = (float)(1 / (1 - pow(1 - (double)fresh2, t[plane])));
#pragma omp simd
        for (int64_t i = plane * size + first; i < plane * size + stop; i++) {
            m[i] += fresh * (g[i] - m[i]);
            v[i] += fresh2 * (g[i] * g[i] - v[i]);
            x[i] -= step * m[i] / (sqrtf(v[i] * scale) + eps);
        }
    }
}
