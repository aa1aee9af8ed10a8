/* Leading eigenvectors of diag(p) - p p^T, an example after the other; _directions.py derives the method and has the
 * same steps in torch.
 */
#include <math.h>
#include <stdint.h>

static inline double square(double x) { return x * x; }

/* Probabilities in descending order up to the rank-th, all others behind them; places[j] is where p[j] came from. */
static void bring_forward(double *p, int64_t *places, int64_t k, int64_t rank) {
    for (int64_t i = 0; i <= rank; i++) {
        int64_t largest = i;
        for (int64_t j = i + 1; j < k; j++) largest = p[j] > p[largest] ? j : largest;
        const double value = p[largest];
        const int64_t place = places[largest];
        p[largest] = p[i], places[largest] = places[i];
        p[i] = value * (1 + 1e-13 * (double)(rank + 1 - i)) + 1e-100 * (double)(rank + 1 - i);
        places[i] = place;
    }
}

/* Sums of p / (x - t) and of p / (x - t)^2 */
static inline void sums(const double *p, const double *x, int64_t num, double t, double *value, double *slope) {
    double first = 0, second = 0;
#pragma omp simd reduction(+ : first, second)
    for (int64_t j = 0; j < num; j++) {
        const double share = 1 / (x[j] - t), part = share * p[j];
        first += part;
        second += share * part;
    }
    *value = first, *slope = second;
}

/* The eigenvalue between p[i + 1] and p[i], as its distance from p[i + 1] in units of the gap; x[j] is where p[j] is */
static double eigenvalue(const double *p, const double *x, int64_t k, int64_t i, int64_t rank, int64_t steps) {
    double low = p[i + 1] / p[i] / (4 * (double)rank), high = 1, t = p[i + 1] / (p[i] + p[i + 1]);
    for (int64_t step = 0; step < steps; step++) {
        double right, of_right, left, of_left;
        sums(p, x, i + 1, t, &right, &of_right);
        sums(p + i + 1, x + i + 1, k - i - 1, t, &left, &of_left);
        if (left + right > 0) high = t;
        else low = t;
        const double s = square(t) * of_left, c = left + right + t * of_left - (1 - t) * of_right;
        const double b = c + s + square(1 - t) * of_right, root = sqrt(fmax(square(b) - 4 * c * s, 0));
        const double next = b > 0 ? 2 * s / (b + root) : (b - root) / (2 * c), before = t;
        t = next < low ? low : next > high ? high : next;
        if (fabs(t - before) <= 1e-15 * before) break;
    }
    return t;
}

/* p: (num, k); vectors: (num, rank, k); numbers: (2, k) and places: (k) are scratch. rank < k */
void leading_directions(const double *p, int64_t num, int64_t k, int64_t rank, int64_t steps, double *vectors,
                        double *numbers, int64_t *places) {
    double *sorted = numbers, *x = numbers + k;
    for (int64_t example = 0; example < num; example++, p += k) {
        for (int64_t j = 0; j < k; j++) sorted[j] = p[j], places[j] = j;
        bring_forward(sorted, places, k, rank);
        for (int64_t i = 0; i < rank; i++, vectors += k) {
            const double lower = sorted[i + 1], gap = sorted[i] - lower;
            for (int64_t j = 0; j < k; j++) x[j] = (sorted[j] - lower) / gap;
            const double t = eigenvalue(sorted, x, k, i, rank, steps);
            double norm = 0;
            for (int64_t j = 0; j < k; j++) {
                x[j] = sorted[j] / (sorted[j] - lower - t * gap);
                norm += square(x[j]);
            }
            norm = sqrt(norm);
            for (int64_t j = 0; j < k; j++) vectors[places[j]] = x[j] / norm;
        }
    }
}
