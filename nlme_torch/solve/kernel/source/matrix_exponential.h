// exp(A) of small matrices by Taylor's series with scaling and squaring; one matrix per lane, each scaled by its own
// norm, so that no column's result depends on its neighbours.
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
constexpr int LAST = 10;  // squarings of the exponential itself
template <int N> static void matrix_exponential(V *a) {
  V norm{};
  for (int i = 0; i < N; ++i) {
    V row{};
    for (int j = 0; j < N; ++j) row += vabs(a[i * N + j]);
    norm = vmax(norm, row);
  }
  const M good = norm < 1e300;
  M squarings{};
  V scale = all(1.0);
  int most = 0;
  LANES if (good[l] && norm[l] > 0.5) {
    squarings[l] = (int)std::ceil(std::log2(norm[l] / 0.5));
    scale[l] = std::ldexp(1.0, (int)-squarings[l]);
    most = squarings[l] > most ? (int)squarings[l] : most;
  }
  V power[N * N], other[N * N];
  for (int i = 0; i < N * N; ++i) { a[i] = good ? a[i] * scale : V{}; power[i] = V{}; }
  for (int i = 0; i < N; ++i) power[i * N + i] = all(1.0);
  // 1 + a / 2 (1 + a / 3 (...)); 0.5^15 / 15! is below the rounding of 1
  for (int m = 14; m > 1; --m) {
    multiply<N>(a, power, other);
    for (int i = 0; i < N * N; ++i) power[i] = other[i] * (1.0 / m);
    for (int i = 0; i < N; ++i) power[i * N + i] += 1.0;
  }
  // exp(a) - 1 is squared while a is small: beside the 1, slow rates would lose their digits where fast ones ask for
  // many squarings. The last squarings are those of the exponential, in which what has decayed keeps its digits.
  multiply<N>(a, power, other);
  for (int i = 0; i < N * N; ++i) power[i] = other[i];
  for (int left = most; left > LAST; --left) {
    const M here = squarings >= left;
    multiply<N>(power, power, other);
    for (int i = 0; i < N * N; ++i) power[i] = here ? 2.0 * power[i] + other[i] : power[i];
  }
  for (int i = 0; i < N; ++i) power[i * N + i] += 1.0;
  for (int left = most < LAST ? most : LAST; left > 0; --left) {
    const M here = squarings >= left;
    multiply<N>(power, power, other);
    for (int i = 0; i < N * N; ++i) power[i] = here ? other[i] : power[i];
  }
  for (int i = 0; i < N * N; ++i) a[i] = good ? power[i] : all(NAN);
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
