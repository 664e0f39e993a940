// exp(A) of small matrices by Taylor's series with scaling and squaring; one matrix per lane.
#pragma once
#include "lanes.h"

template <int N> static inline void multiply(const V *a, const V *b, V *out) {
  for (int i = 0; i < N; ++i)
    for (int j = 0; j < N; ++j) {
      V total = a[i * N] * b[j];
      for (int k = 1; k < N; ++k) total += a[i * N + k] * b[k * N + j];
      out[i * N + j] = total;
    }
}
template <int N> static void matrix_exponential(V *a) {
  double largest = 0;
  for (int i = 0; i < N * N; ++i) LANES largest = std::fmax(largest, std::fabs(a[i][l]));
  const double norm = largest * N;
  if (!(norm < 1e300)) { for (int i = 0; i < N * N; ++i) a[i] = all(NAN); return; }
  int squarings = norm > 0.5 ? (int)std::ceil(std::log2(norm / 0.5)) : 0;
  const double scale = std::ldexp(1.0, -squarings);
  V power[N * N], other[N * N];
  for (int i = 0; i < N * N; ++i) { a[i] *= scale; power[i] = V{}; }
  for (int i = 0; i < N; ++i) power[i * N + i] = all(1.0);
  // 1 + a (1 + a / 2 (1 + a / 3 (...))); 0.5^15 / 15! is below the rounding of 1
  for (int m = 14; m > 0; --m) {
    multiply<N>(a, power, other);
    for (int i = 0; i < N * N; ++i) power[i] = other[i] * (1.0 / m);
    for (int i = 0; i < N; ++i) power[i * N + i] += 1.0;
  }
  for (; squarings > 0; --squarings) {
    multiply<N>(power, power, other);
    for (int i = 0; i < N * N; ++i) power[i] = other[i];
  }
  for (int i = 0; i < N * N; ++i) a[i] = power[i];
}
// exp(A t), and with `g` its integral from 0 to t, for the lanes `where`.
template <int N> static void general_transition(const V *matrix, V elapsed, M where, V *e, V *g) {
  V time = where ? elapsed : V{};
  if (!g) {
    V a[N * N];
    for (int i = 0; i < N * N; ++i) a[i] = matrix[i] * time;
    matrix_exponential<N>(a);
    for (int i = 0; i < N * N; ++i) e[i] = where ? a[i] : e[i];
    return;
  }
  // Van Loan (1978), Computing integrals involving the matrix exponential, doi:10.1109/TAC.1978.1101743.
  constexpr int B = 2 * N;
  V a[B * B];
  for (int i = 0; i < B * B; ++i) a[i] = V{};
  for (int i = 0; i < N; ++i) {
    for (int j = 0; j < N; ++j) a[i * B + j] = matrix[i * N + j] * time;
    a[i * B + N + i] = time;
  }
  matrix_exponential<B>(a);
  for (int i = 0; i < N; ++i)
    for (int j = 0; j < N; ++j) {
      e[i * N + j] = where ? a[i * B + j] : e[i * N + j];
      g[i * N + j] = where ? a[i * B + N + j] : g[i * N + j];
    }
}
