/* What the kernels share. They take float32 arrays without gaps, and use OpenMP's threads, which are torch's. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* As many numbers as a register holds, at any address: sixteen with AVX-512, else eight (NEON has them in two). */
#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t marks __attribute__((vector_size(4 * LANES), aligned(4))); /* of a comparison: 0 or -1; or whole numbers */

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t up(int64_t value, int64_t of) { return (value + of - 1) / of * of; } /* to a multiple */

/* Memory that begins with a cache line. */
static inline void *room(int64_t bytes) { return aligned_alloc(64, (size_t)up(bytes + 1, 64)); }

static inline lanes all(float value) { return value - (lanes){0}; }
static inline lanes load(const float *from) { return *(const lanes *)from; }
static inline void store(float *to, lanes values) { *(lanes *)to = values; }

/* Numbers, a vector of them at most, zero beyond; and so many of a vector. */
static inline lanes some(const float *from, int64_t count) {
    if (count == LANES) return load(from);
    lanes values = {0};
    memcpy(&values, from, count * sizeof(float));
    return values;
}

static inline void store_some(float *to, lanes values, int64_t count) {
    if (count == LANES) store(to, values);
    else memcpy(to, &values, count * sizeof(float));
}

static inline lanes where(marks condition, lanes yes, lanes no) {
    return (lanes)(((marks)yes & condition) | ((marks)no & ~condition));
}

/* e to the x within 2e-7 of it, for |x| <= 87; beyond, that of the bound. */
static inline lanes exp_of(lanes x) {
    x = where(x > 87, all(87), where(x < -87, all(-87), x));
    lanes shifted = x * 1.44269504f + where(x > 0, all(0.5f), all(-0.5f));
    marks n = __builtin_convertvector(shifted, marks);
    lanes whole = __builtin_convertvector(n, lanes);
    lanes r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    lanes p = all(1.9875691500e-4f); /* Cephes' expf */
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1;
    return p * (lanes)((n + 127) << 23);
}

/* The natural logarithm of x within 2e-7, or 2e-7 of it, for finite x >= 1e-37. */
static inline lanes log_of(lanes x) {
    marks bits = (marks)x, exponent = ((bits - 0x3f3504f3) >> 23);
    lanes r = (lanes)(bits - (exponent << 23)) - 1; /* of a mantissa between sqrt(1/2) and sqrt(2) */
    lanes e = __builtin_convertvector(exponent, lanes), z = r * r;
    lanes p = all(7.0376836292e-2f); /* Cephes' logf */
    p = p * r - 1.1514610310e-1f;
    p = p * r + 1.1676998740e-1f;
    p = p * r - 1.2420140846e-1f;
    p = p * r + 1.4249322787e-1f;
    p = p * r - 1.6668057665e-1f;
    p = p * r + 2.0000714765e-1f;
    p = p * r - 2.4999993993e-1f;
    p = p * r + 3.3333331174e-1f;
    p = p * r * z - e * 2.12194440e-4f - 0.5f * z;
    return r + p + e * 0.693359375f;
}

/* The tiles of AMX: eight registers of 16 rows of 64 bytes, where compiler, processor and system have them. */
#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512VBMI__) && defined(__BMI2__) && defined(__linux__)
#define TILES
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

static inline int tiles_are_allowed(void) {
    const int ask = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    return syscall(SYS_arch_prctl, ask, tile_data) == 0;
}

/* Before a thread's first tile; _tile_release() after its last. */
static inline void begin_tiles(void) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int t = 0; t < 8; t++) shape.bytes[t] = 64, shape.rows[t] = 16;
    _tile_loadconfig(&shape);
}
#endif
