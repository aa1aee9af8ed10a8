/* Moments of softmax(f) for Gaussian f, an example after the other; _softmax.py has the same sums in torch.
 *
 * The compiler can vectorize every loop over points: there are no calls into libm and no branches on data.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { POINTS = 64 }; /* at once; _softmax.py knows it, too */

/* e^x for x <= 0: x = n log 2 + r with |r| <= log(2) / 2, and e^r as its series; 0 below -708 */
static inline double exponential(double x) {
    const double shift = 0x1.8p52, kept = x < -708 ? -708 : x;
    const double t = kept * 0x1.71547652b82fep0 + shift, n = t - shift;
    const double r = kept - n * 0x1.62e42fefa3800p-1 - n * 0x1.ef35793c76730p-45;
    double e = 1.0 / 6227020800;
    e = e * r + 1.0 / 479001600;
    e = e * r + 1.0 / 39916800;
    e = e * r + 1.0 / 3628800;
    e = e * r + 1.0 / 362880;
    e = e * r + 1.0 / 40320;
    e = e * r + 1.0 / 5040;
    e = e * r + 1.0 / 720;
    e = e * r + 1.0 / 120;
    e = e * r + 1.0 / 24;
    e = e * r + 1.0 / 6;
    e = e * r + 0.5;
    e = e * r + 1;
    e = e * r + 1;
    uint64_t bits;
    memcpy(&bits, &t, 8);
    bits = (bits + 1023) << 52; /* 2^n */
    double scale;
    memcpy(&scale, &bits, 8);
    return x < -708 ? 0 : e * scale;
}

static inline double dot(const double *a, const double *b, int64_t num) {
    double total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t s = 0; s < num; s++) total += a[s] * b[s];
    return total;
}

static inline double sum(const double *a, int64_t num) {
    double total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t s = 0; s < num; s++) total += a[s];
    return total;
}

/* change[k][s] = softmax(mean + root e_s)[k] - centre[k] for num points; points[d][s] with rows of ``stride`` numbers */
static void change_at(const double *mean, const double *root, const double *points, int64_t stride, const double *centre,
                      int64_t num_classes, int64_t dim, int64_t num, double *change, double *highest, double *total) {
    for (int64_t s = 0; s < num; s++) highest[s] = -INFINITY, total[s] = 0;
    for (int64_t k = 0; k < num_classes; k++) {
        double *f = change + k * POINTS;
        for (int64_t s = 0; s < num; s++) f[s] = mean[k];
        for (int64_t d = 0; d < dim; d++) {
            const double factor = root[k * dim + d];
            const double *e = points + d * stride;
#pragma omp simd
            for (int64_t s = 0; s < num; s++) f[s] += factor * e[s];
        }
#pragma omp simd
        for (int64_t s = 0; s < num; s++) highest[s] = f[s] > highest[s] ? f[s] : highest[s];
    }
    for (int64_t k = 0; k < num_classes; k++) {
        double *f = change + k * POINTS;
#pragma omp simd
        for (int64_t s = 0; s < num; s++) {
            f[s] = exponential(f[s] - highest[s]);
            total[s] += f[s];
        }
    }
#pragma omp simd
    for (int64_t s = 0; s < num; s++) total[s] = 1 / total[s];
    for (int64_t k = 0; k < num_classes; k++) {
        double *p = change + k * POINTS;
#pragma omp simd
        for (int64_t s = 0; s < num; s++) p[s] = p[s] * total[s] - centre[k];
    }
}

/* For examples first..last of (B, K) means and centres and (B, K, D) roots, and (D, R S) points: means of the change by
 * replicate (B, R, K), its mean squares (B, K), and the mean of its outer product (B, K, K) or, with M >= 0 vectors
 * (B, K, M), that times these. scratch: (K + M + 2) POINTS numbers. */
void softmax_moments(int64_t first, int64_t last, int64_t num_classes, int64_t dim, int64_t replicates, int64_t size,
                     int64_t num_vectors, const double *mean, const double *root, const double *points,
                     const double *centre, const double *vectors, double *by_replicate, double *squares,
                     double *products, double *scratch) {
    const int64_t all = replicates * size, columns = num_vectors < 0 ? num_classes : num_vectors;
    double *change = scratch, *highest = change + num_classes * POINTS, *total = highest + POINTS;
    double *across = total + POINTS;
    for (int64_t b = first; b < last; b++) {
        double *square = squares + b * num_classes, *product = products + b * num_classes * columns;
        memset(square, 0, (size_t)num_classes * sizeof(double));
        memset(product, 0, (size_t)(num_classes * columns) * sizeof(double));
        for (int64_t replicate = 0; replicate < replicates; replicate++) {
            double *average = by_replicate + (b * replicates + replicate) * num_classes;
            memset(average, 0, (size_t)num_classes * sizeof(double));
            for (int64_t start = 0; start < size; start += POINTS) {
                const int64_t num = size - start < POINTS ? size - start : POINTS;
                change_at(mean + b * num_classes, root + b * num_classes * dim, points + replicate * size + start, all,
                          centre + b * num_classes, num_classes, dim, num, change, highest, total);
                for (int64_t k = 0; k < num_classes; k++) {
                    average[k] += sum(change + k * POINTS, num) / (double)size;
                    square[k] += dot(change + k * POINTS, change + k * POINTS, num) / (double)all;
                }
                if (num_vectors < 0) {
                    for (int64_t k = 0; k < num_classes; k++)
                        for (int64_t j = 0; j <= k; j++)
                            product[k * columns + j] +=
                                dot(change + k * POINTS, change + j * POINTS, num) / (double)all;
                    continue;
                }
                for (int64_t m = 0; m < columns; m++) {
                    double *along = across + m * POINTS;
                    for (int64_t s = 0; s < num; s++) along[s] = 0;
                    for (int64_t k = 0; k < num_classes; k++) {
                        const double factor = vectors[(b * num_classes + k) * columns + m];
#pragma omp simd
                        for (int64_t s = 0; s < num; s++) along[s] += factor * change[k * POINTS + s];
                    }
                    for (int64_t k = 0; k < num_classes; k++)
                        product[k * columns + m] += dot(change + k * POINTS, along, num) / (double)all;
                }
            }
        }
        if (num_vectors < 0)
            for (int64_t k = 0; k < num_classes; k++)
                for (int64_t j = 0; j < k; j++) product[j * columns + k] = product[k * columns + j];
    }
}
