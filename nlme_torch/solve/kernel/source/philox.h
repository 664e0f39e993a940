// Random numbers that are functions of a key and a counter: what a column draws depends on nothing else.
// Philox4x32-10, Salmon, Moraes, Dror and Shaw (2011), Parallel random numbers: as easy as 1, 2, 3,
// doi:10.1145/2063384.2063405.
#pragma once
#include "lanes.h"

typedef unsigned long long U __attribute__((vector_size(W * 8)));  // 32 bits each

static inline U product(U a, unsigned m) {
#if defined(__AVX2__) && !defined(__AVX512F__) && !defined(__clang__)
  typedef int I __attribute__((vector_size(32)));
  return (U)__builtin_ia32_pmuludq256((I)a, (I)(U{} + (unsigned long long)m));
#else
  return a * (unsigned long long)m;
#endif
}
struct Words { U a, b, c, d; };
static inline Words philox(Words counter, unsigned key, unsigned other) {
  const U low = U{} + 0xffffffffULL;
  for (int round = 0; round < 10; ++round) {
    U p = product(counter.a, 0xD2511F53u), q = product(counter.c, 0xCD9E8D57u);
    counter = {(q >> 32) ^ counter.b ^ (unsigned long long)key, q & low,
               (p >> 32) ^ counter.d ^ (unsigned long long)other, p & low};
    key += 0x9E3779B9u;
    other += 0xBB67AE85u;
  }
  return counter;
}
// Between 0 and 1, neither included.
static inline V unit(U high, U low) {
  U m = (((high << 32) | low) >> 12) | 0x3ff0000000000000ULL;
  V x; std::memcpy(&x, &m, sizeof x);
  return x - (1.0 - 1.1102230246251565e-16);
}

// The random numbers of W columns at one step: number k is a function of the key, of who the column is, the step and k.
struct Draws {
  unsigned key, other;
  U subject, chain;
  unsigned step;
  void uniforms(unsigned k, V *u, V *v) const {
    Words w = philox({U{} + (unsigned long long)k, U{} + (unsigned long long)step, chain, subject}, key, other);
    *u = unit(w.a, w.b);
    *v = unit(w.c, w.d);
  }
  void normals(unsigned k, V *x, V *y) const {
    V u, v, s, c;
    uniforms(k, &u, &v);
    V r = vsqrt(-2.0 * vlog(u));
    sincos_of(6.283185307179586 * v, &s, &c);
    *x = r * c;
    *y = r * s;
  }
  void fill(unsigned k, int count, V *z) const {
    V spare;
    for (int j = 0; j < count; j += 2) normals(k + j / 2, z + j, j + 1 < count ? z + j + 1 : &spare);
  }
};
