// Small dense linear systems, one per lane, with a row order chosen by every lane for itself.
#pragma once
#include "lanes.h"

template <int N> struct Factors {
  V a[N][N];
  M swapped[N][N];

  static void exchange(M where, V &x, V &y) { V z = where ? y : x; y = where ? x : y; x = z; }

  // a = P' L U, in place; the largest entry of each column is brought up by exchanges of neighbouring candidates.
  void factor() {
    for (int k = 0; k < N; ++k) {
      for (int r = k + 1; r < N; ++r) {
        M larger = vabs(a[r][k]) > vabs(a[k][k]);
        swapped[k][r] = larger;
        for (int c = 0; c < N; ++c) exchange(larger, a[k][c], a[r][c]);
      }
      V pivot = 1.0 / a[k][k];
      for (int r = k + 1; r < N; ++r) {
        a[r][k] *= pivot;
        for (int c = k + 1; c < N; ++c) a[r][c] -= times(a[r][k], a[k][c]);
      }
      a[k][k] = pivot;
    }
  }
  void solve(V *x) const {
    for (int k = 0; k < N; ++k)
      for (int r = k + 1; r < N; ++r) exchange(swapped[k][r], x[k], x[r]);
    for (int r = 1; r < N; ++r)
      for (int c = 0; c < r; ++c) x[r] -= times(a[r][c], x[c]);
    for (int r = N - 1; r >= 0; --r) {
      for (int c = r + 1; c < N; ++c) x[r] -= times(a[r][c], x[c]);
      x[r] = times(a[r][r], x[r]);
    }
  }
  void solve_transposed(V *x) const {
    for (int r = 0; r < N; ++r) {
      for (int c = 0; c < r; ++c) x[r] -= times(a[c][r], x[c]);
      x[r] = times(a[r][r], x[r]);
    }
    for (int r = N - 2; r >= 0; --r)
      for (int c = r + 1; c < N; ++c) x[r] -= times(a[c][r], x[c]);
    for (int k = N - 1; k >= 0; --k)
      for (int r = N - 1; r > k; --r) exchange(swapped[k][r], x[k], x[r]);
  }
};
