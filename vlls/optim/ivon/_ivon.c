/* IVON's fused kernels for the CPU: Alg. 1 in one pass over memory, with the Gaussian noise made in registers.
 *
 * _cpu.py compiles this file on first use and calls it through ctypes; _triton.py holds the same kernel for a GPU.
 * Nothing here depends on torch or on Python's headers. The compiler can vectorize every loop over elements: there are
 * no calls into libm except sqrtf, and no branches on data.
 *
 * Noise: a tile of 4096 elements draws from 64 interleaved generators xoshiro128+, each seeded by Philox at a counter
 * made of the tile's and the tensor's number. The noise depends on the key and the element alone, not on threads or
 * instruction sets, and costs a third of drawing every number by Philox.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { LANES = 64, TILE = 4096 };

#if defined(__clang__)
#define EVERY_ELEMENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define EVERY_ELEMENT _Pragma("GCC ivdep")
#else
#define EVERY_ELEMENT
#endif

typedef struct {
    float *param;           /* what the network holds */
    float *other;           /* the mean while param holds a sample; else the last sample */
    const float *grad;
    const float *statistic; /* averaged over samples: noise * grad (price) or grad^2 (gradsq); NULL: of this sample */
    float *momentum, *hess;
    int64_t numel, stream;
    float lr, ess, weight_decay, beta1, rate1, rate2, inverse_bias, clip, estimate_clip; /* rate = 1 - beta, rounded once */
    int64_t gradsq;
} Slot;

/* ------------------------------------------------------------------ noise */
static inline float as_float(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline uint32_t as_bits(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }

/* (0, 1] from the upper 31 bits; never 0, so its logarithm is finite */
static inline float uniform(uint32_t x) { return ((float)(int32_t)(x >> 1) + 0.5f) * 0x1p-31f; }

/* log of x > 0: x = 2^e m with m in [sqrt(1/2), sqrt(2)), then log m = 2 atanh((m - 1) / (m + 1)) as a series */
static inline float log_positive(float x) {
    int32_t e = (int32_t)(as_bits(x) - 0x3f3504f3u) >> 23;
    float m = as_float(as_bits(x) - ((uint32_t)e << 23));
    float s = (m - 1.0f) / (m + 1.0f), z = s * s;
    float series = 2.0f + z * (0.666666667f + z * (0.4f + z * (0.285714286f + z * 0.222222222f)));
    return s * series + (float)e * 0.693147181f;
}

/* seeds[w][i]: word w of Philox4x32-10 (Salmon et al., 2011) at counter (tile * LANES + i, stream) */
static void seed_lanes(uint32_t seeds[4][LANES], uint64_t tile, uint32_t stream, uint64_t key) {
    EVERY_ELEMENT
    for (int32_t i = 0; i < LANES; i++) {
        const uint64_t counter = tile * LANES + (uint64_t)i;
        uint32_t x0 = (uint32_t)counter, x1 = (uint32_t)(counter >> 32), x2 = stream, x3 = 0;
        uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
        for (int round = 0; round < 10; round++) {
            uint64_t a = (uint64_t)x0 * 0xD2511F53u, b = (uint64_t)x2 * 0xCD9E8D57u;
            x0 = (uint32_t)(b >> 32) ^ x1 ^ k0;
            x2 = (uint32_t)(a >> 32) ^ x3 ^ k1;
            x1 = (uint32_t)b;
            x3 = (uint32_t)a;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        seeds[0][i] = x0, seeds[1][i] = x1, seeds[2][i] = x2, seeds[3][i] = x3;
    }
}

/* the first `n` normal numbers of a tile: row r holds one of each lane, a pair of rows one Box-Muller transform */
static void tile_noise(float *e, int64_t n, uint64_t tile, uint32_t stream, uint64_t key) {
    uint32_t s[4][LANES];
    seed_lanes(s, tile, stream, key);
    for (; n > 0; n -= 2 * LANES, e += 2 * LANES) {
        EVERY_ELEMENT
        for (int32_t i = 0; i < LANES; i++) {
            uint32_t a = s[0][i], b = s[1][i], c = s[2][i], d = s[3][i], words[2];
            for (int w = 0; w < 2; w++) { /* xoshiro128+ (Blackman and Vigna, 2021) */
                uint32_t shifted = b << 9;
                words[w] = a + d;
                c ^= a, d ^= b, b ^= c, a ^= d, c ^= shifted;
                d = (d << 11) | (d >> 21);
            }
            s[0][i] = a, s[1][i] = b, s[2][i] = c, s[3][i] = d;
            float radius = sqrtf(-2.0f * log_positive(uniform(words[0])));
            float turn = 4.0f * uniform(words[1]); /* quarter turns, in (0, 4] */
            int32_t quarter = (int32_t)(turn + 0.5f);
            float x = (turn - (float)quarter) * 1.57079633f, z = x * x; /* |x| <= pi / 4 */
            float sine = x * (1.0f + z * (-0.166666667f + z * (8.33333333e-3f + z * (-1.98412698e-4f + z * 2.75573192e-6f))));
            float cosine = 1.0f + z * (-0.5f + z * (4.16666667e-2f + z * (-1.38888889e-3f + z * 2.48015873e-5f)));
            uint32_t swap = -(uint32_t)(quarter & 1); /* all ones where sine and cosine change places */
            uint32_t sine_bits = (as_bits(cosine) & swap) | (as_bits(sine) & ~swap);
            uint32_t cosine_bits = (as_bits(sine) & swap) | (as_bits(cosine) & ~swap);
            e[i] = radius * as_float(cosine_bits ^ ((uint32_t)((quarter + 1) & 2) << 30));
            e[LANES + i] = radius * as_float(sine_bits ^ ((uint32_t)(quarter & 2) << 30));
        }
    }
}

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* ------------------------------------------------------------------ Alg. 1 on `n` elements from `start` */
static void sample_run(const Slot *slot, int64_t start, int64_t n, const float *e) {
    float *param = slot->param + start, *mean = slot->other + start;
    const float *hess = slot->hess + start;
    const float ess = slot->ess, weight_decay = slot->weight_decay;
    EVERY_ELEMENT
    for (int64_t i = 0; i < n; i++) {
        float m = param[i];
        mean[i] = m;
        param[i] = m + e[i] / sqrtf(ess * (hess[i] + weight_decay));
    }
}

static inline __attribute__((always_inline)) void update_run(const Slot *slot, int64_t start, int64_t n, const float *e,
                                                             int sampled, int resample, int averaged, int gradsq) {
    float *param = slot->param + start, *other = slot->other + start;
    float *momentum = slot->momentum + start, *hess = slot->hess + start;
    const float *grad = slot->grad + start, *statistic = averaged ? slot->statistic + start : 0;
    const float ess = slot->ess, delta = slot->weight_decay, clip = slot->clip, estimate_clip = slot->estimate_clip;
    const float beta1 = slot->beta1, rate1 = slot->rate1, rate2 = slot->rate2;
    const float lr = slot->lr, inverse_bias = slot->inverse_bias;
    EVERY_ELEMENT
    for (int64_t i = 0; i < n; i++) {
        float g = grad[i], h = hess[i], precision = h + delta;
        float mean = sampled ? other[i] : param[i], theta = sampled ? param[i] : other[i];
        float seen = averaged ? statistic[i] : gradsq ? g * g : (theta - mean) * g;
        float most = gradsq ? estimate_clip * precision : estimate_clip;
        seen = seen < -most ? -most : seen > most ? most : seen;
        float gap = seen * ess * (gradsq ? 1.0f : precision) - h;
        h += rate2 * gap + 0.5f * rate2 * rate2 * gap * gap / precision;
        float average = beta1 * momentum[i] + rate1 * g;
        float direction = (average * inverse_bias + delta * mean) / (h + delta);
        direction = direction < -clip ? -clip : direction > clip ? clip : direction;
        mean -= lr * direction;
        momentum[i] = average;
        hess[i] = h;
        param[i] = resample ? mean + e[i] / sqrtf(ess * (h + delta)) : mean;
        if (resample) other[i] = mean;
    }
}

static void update_any(const Slot *slot, int64_t start, int64_t n, const float *e, int sampled, int resample) {
    const int averaged = slot->statistic != 0, gradsq = slot->gradsq != 0;
    switch (8 * !!sampled + 4 * !!resample + 2 * averaged + gradsq) {
#define CASE(S, R, A, Q) case 8 * S + 4 * R + 2 * A + Q: update_run(slot, start, n, e, S, R, A, Q); break;
        CASE(0, 0, 0, 0) CASE(0, 0, 0, 1) CASE(0, 0, 1, 0) CASE(0, 0, 1, 1)
        CASE(1, 0, 0, 0) CASE(1, 0, 0, 1) CASE(1, 0, 1, 0) CASE(1, 0, 1, 1)
        CASE(1, 1, 0, 0) CASE(1, 1, 0, 1) CASE(1, 1, 1, 0) CASE(1, 1, 1, 1)
#undef CASE
    }
}

/* ------------------------------------------------------------------ entry points: tiles [begin, end) of all slots
 * mode 0: param is the mean; save it in other, draw a sample into param.
 * mode 1: exchange param and other.
 * mode 2: update; `sampled` says that param holds the sample; `resample` leaves param at a new sample. */
void ivon_run(int mode, const Slot *slots, int64_t count, int64_t begin, int64_t end, int64_t key, int sampled,
              int resample) {
    float e[TILE];
    int64_t before = 0; /* tiles of the slots passed */
    for (int64_t index = 0; index < count && before < end; index++) {
        const Slot *slot = slots + index;
        const int64_t tiles = (slot->numel + TILE - 1) / TILE;
        for (int64_t tile = begin > before ? begin - before : 0; tile < smaller(tiles, end - before); tile++) {
            const int64_t start = tile * TILE, n = smaller(TILE, slot->numel - start);
            if (mode == 1) {
                float *param = slot->param + start, *other = slot->other + start;
                EVERY_ELEMENT
                for (int64_t i = 0; i < n; i++) { float held = param[i]; param[i] = other[i]; other[i] = held; }
                continue;
            }
            if (mode == 0 || resample) tile_noise(e, n, (uint64_t)tile, (uint32_t)slot->stream, (uint64_t)key);
            if (mode == 0) sample_run(slot, start, n, e);
            else update_any(slot, start, n, e, sampled, resample);
        }
        before += tiles;
    }
}
