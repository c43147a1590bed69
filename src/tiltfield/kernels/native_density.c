/* The density s (p + G p²), p = log(1 + e^y), of what a network puts out, and the way back. */
#include "native.h"

/* p, and its derivative in y. */
static lanes softplus(lanes y, lanes *slope) {
    lanes e = exp_of(where(y > 0, -y, y));
    *slope = where(y > 0, all(1), e) / (1 + e);
    return log_of(1 + e) + where(y < 0, all(0), y); /* a number that is none stays so */
}

/* y, density (n). */
void density_forward(const float *y, float *density, float scale, float growth, int64_t n) {
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < n; first += LANES) {
        int64_t count = least(LANES, n - first);
        lanes slope, p = softplus(some(y + first, count), &slope), made = scale * (p + growth * p * p);
        store_some(density + first, made, count);
    }
}

/* From the gradient in the density to that in y. */
void density_backward(const float *y, const float *given, float *gradient, float scale, float growth, int64_t n) {
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < n; first += LANES) {
        int64_t count = least(LANES, n - first);
        lanes slope, p = softplus(some(y + first, count), &slope);
        lanes made = some(given + first, count) * scale * (1 + 2 * growth * p) * slope;
        store_some(gradient + first, made, count);
    }
}
