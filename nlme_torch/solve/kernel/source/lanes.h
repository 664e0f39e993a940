// Vectors of W doubles, one subject per lane, and elementary functions on them.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX512F__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif
typedef double V __attribute__((vector_size(W * 8)));
typedef long long M __attribute__((vector_size(W * 8)));

// Subnormal numbers cost a hundred times more than others and mean nothing here: flush them for the time of a call.
struct FlushSubnormals {
#if defined(__SSE2__)
  unsigned before = __builtin_ia32_stmxcsr();
  FlushSubnormals() { __builtin_ia32_ldmxcsr(before | 0x8040); }
  ~FlushSubnormals() { __builtin_ia32_ldmxcsr(before); }
#endif
};

#define LANES for (int l = 0; l < W; ++l)
static inline V all(double x) { return x - V{}; }
static inline V num(V x) { return x; }
static inline V num(double x) { return all(x); }
static inline M bits(V x) { M r; std::memcpy(&r, &x, sizeof r); return r; }
static inline V real(M x) { V r; std::memcpy(&r, &x, sizeof r); return r; }
static inline V pick(M c, V a, V b) { return c ? a : b; }
static inline M pick(M c, M a, M b) { return c ? a : b; }
static inline V pick(bool c, V a, V b) { return c ? a : b; }
static inline bool any(M m) { long long r = 0; LANES r |= m[l]; return r != 0; }
static inline V vabs(V x) { return real(bits(x) & 0x7fffffffffffffffLL); }
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
static inline V vfma(V a, V b, V c) { V r; LANES r[l] = __builtin_fma(a[l], b[l], c[l]); return r; }
#else
static inline V vfma(V a, V b, V c) { return a * b + c; }
#endif
static inline V vsqrt(V x) { V r; LANES r[l] = std::sqrt(x[l]); return r; }
static inline V vfloor(V x) { V r; LANES r[l] = std::floor(x[l]); return r; }
static inline V vceil(V x) { V r; LANES r[l] = std::ceil(x[l]); return r; }
static inline V vtrunc(V x) { V r; LANES r[l] = std::trunc(x[l]); return r; }
static inline V vround(V x) { V r; LANES r[l] = std::nearbyint(x[l]); return r; }
// NaN wins, as in PyTorch.
static inline V vmax(V a, V b) { return (a > b) | (a != a) ? a : b; }
static inline V vmin(V a, V b) { return (a < b) | (a != a) ? a : b; }

constexpr double LN2_HI = 6.93147180369123816490e-01, LN2_LO = 1.90821492927058770002e-10;
constexpr double INF = std::numeric_limits<double>::infinity();

// Exactly 0 where a factor or the numerator is, whatever the other.
static inline V vzmul(V a, V b) { return (a == 0.0) | (b == 0.0) ? V{} : a * b; }
static inline V vzdiv(V a, V b) { return a == 0.0 ? V{} : a / b; }
// Products with cotangents.
#if defined(CAREFUL) && CAREFUL
static inline V times(V a, V b) { return vzmul(a, b); }
static inline V times(double a, V b) { return vzmul(all(a), b); }
#else
static inline V times(V a, V b) { return a * b; }
static inline V times(double a, V b) { return a * b; }
#endif

// x = k ln 2 + r with |r| <= ln 2 / 2; k as a double and, biased by the magic number, in the low bits.
struct Reduced { V r, k; M low; };
static inline Reduced reduce(V x) {
  const V magic = all(6755399441055744.0);
  V shifted = x * 1.44269504088896340736 + magic;
  V k = shifted - magic;
  V r = vfma(k, all(-LN2_HI), x);
  return {vfma(k, all(-LN2_LO), r), k, bits(shifted) - bits(magic)};
}
static inline V power_of_two(M k) { return real((k + 1023) << 52); }
// exp(r) - 1 by its Taylor series to r^13, accurate relative to r.
static inline V taylor_expm1(V r) {
  V r2 = r * r, r4 = r2 * r2, r8 = r4 * r4;
  V a = vfma(r, all(1.0 / 6), all(0.5));
  V b = vfma(r, all(1.0 / 120), all(1.0 / 24));
  V c = vfma(r, all(1.0 / 5040), all(1.0 / 720));
  V d = vfma(r, all(1.0 / 362880), all(1.0 / 40320));
  V e = vfma(r, all(1.0 / 39916800), all(1.0 / 3628800));
  V f = vfma(r, all(1.0 / 6227020800.0), all(1.0 / 479001600));
  V low = vfma(r2, b, a), middle = vfma(r2, d, c), high = vfma(r2, f, e);
  return vfma(r2, vfma(r8, high, vfma(r4, middle, low)), r);
}
static inline V vexp(V x) {
  // NaN passes the comparisons, and the arithmetic.
  x = x < -746.0 ? all(-746.0) : x;
  x = x > 710.0 ? all(710.0) : x;
  Reduced d = reduce(x);
  M half = d.low >> 1;
  return vfma(taylor_expm1(d.r), power_of_two(half), power_of_two(half)) * power_of_two(d.low - half);
}
static inline V expm1_below_700(V x) {
  Reduced d = reduce(x);
  V scale = power_of_two(d.low);
  return vfma(taylor_expm1(d.r), scale, scale - 1.0);
}
static inline V vexpm1(V x) {
  V inside = x < -60.0 ? all(-60.0) : x;
  return x > 700.0 ? vexp(x) : expm1_below_700(inside > 700.0 ? all(700.0) : inside);
}
// log(m) = 2 atanh(s), s = (m - 1) / (m + 1): the tail after 2 s, divided by s.
static inline V atanh_tail(V z) {
  V z2 = z * z, z4 = z2 * z2;
  V a = vfma(z, all(2.0 / 5), all(2.0 / 3)), b = vfma(z, all(2.0 / 9), all(2.0 / 7));
  V c = vfma(z, all(2.0 / 13), all(2.0 / 11)), d = vfma(z, all(2.0 / 17), all(2.0 / 15));
  V e = vfma(z, all(2.0 / 21), all(2.0 / 19));
  return z * vfma(z4, vfma(z4, e, vfma(z2, d, c)), vfma(z2, b, a));
}
struct Split { V m, k; };
// x = m 2^k with m in [sqrt(1/2), sqrt(2)), for positive finite x.
static inline Split split(V x) {
  M tiny = x < 2.2250738585072014e-308;
  V scaled = tiny ? x * 18014398509481984.0 : x;
  M b = bits(scaled);
  M shifted = b - 0x3fe6a09e667f3bcdLL;
  M k = shifted >> 52;
  V m = real((shifted & 0xfffffffffffffLL) + 0x3fe6a09e667f3bcdLL);
  V kd; LANES kd[l] = (double)k[l];
  return {m, tiny ? kd - 54.0 : kd};
}
static inline V edge_of_log(V x, V result) {
  result = x == 0.0 ? all(-INF) : result;
  result = x < 0.0 ? all(NAN) : result;
  return (x == INF) | (x != x) ? x : result;
}
static inline V vlog(V x) {
  Split p = split(x);
  V f = p.m - 1.0, s = f / (p.m + 1.0), z = s * s, hf = 0.5 * f * f;
  V result = f - (hf - vfma(s, hf + atanh_tail(z), p.k * LN2_LO));
  return edge_of_log(x, vfma(p.k, all(LN2_HI), result));
}
static inline V vlog1p(V x) {
  V u = 1.0 + x;
  V lost = x - (u - 1.0);
  V result = vlog(u) + ((u == INF) | (u <= 0.0) ? all(0.0) : lost / u);
  return x == 0.0 ? x : result;
}
static inline V vtanh(V x) {
  const M sign = bits(all(-0.0));
  V a = -2.0 * vabs(x);
  V e = expm1_below_700(a < -60.0 ? all(-60.0) : a);
  V r = -e / (2.0 + e);
  return real(bits(r) | (bits(x) & sign));
}
// log(1 + exp(x)) = max(x, 0) + 2 atanh(e / (2 + e)), e = exp(-|x|), by the series of atanh up to 1/3.
static inline V vsoftplus(V x) {
  V a = -vabs(x);
  a = a < -746.0 ? all(-746.0) : a;
  Reduced d = reduce(a);
  M half = d.low >> 1;
  V e = vfma(taylor_expm1(d.r), power_of_two(half), power_of_two(half)) * power_of_two(d.low - half);
  V s = e / (2.0 + e), floor = s > 1e-9 ? s : all(1e-9), z = floor * floor, z2 = z * z, z4 = z2 * z2, z8 = z4 * z4;
  V c0 = vfma(z, all(2.0 / 3), all(2.0)), c1 = vfma(z, all(2.0 / 7), all(2.0 / 5));
  V c2 = vfma(z, all(2.0 / 11), all(2.0 / 9)), c3 = vfma(z, all(2.0 / 15), all(2.0 / 13));
  V c4 = vfma(z, all(2.0 / 19), all(2.0 / 17)), c5 = vfma(z, all(2.0 / 23), all(2.0 / 21));
  V c6 = vfma(z, all(2.0 / 27), all(2.0 / 25)), c7 = vfma(z, all(2.0 / 31), all(2.0 / 29));
  V low = vfma(z4, vfma(z2, c3, c2), vfma(z2, c1, c0)), high = vfma(z4, vfma(z2, c7, c6), vfma(z2, c5, c4));
  V tail = s * vfma(z8, high, low);
  return x > 0.0 ? x + tail : tail;
}
static inline V vsigmoid(V x) { return 1.0 / (1.0 + vexp(-x)); }
static inline V vpow(V x, V y) {
  M special = (x <= 0.0) | (x == INF) | (x != x) | (y != y) | (vabs(y) == INF);
  V safe = special ? all(1.0) : x;
  Split p = split(safe);
  V d = p.m + 1.0, f = p.m - 1.0, s = f / d;
  V rest = vfma(-s, d, f) - s * ((p.m - d) + 1.0);
  V high = p.k * LN2_HI, twice = 2.0 * s;
  V sum = high + twice;
  V big = vabs(high) > vabs(twice) ? (high - sum) + twice : (twice - sum) + high;
  V tail = big + 2.0 * rest / d + s * atanh_tail(s * s) + p.k * LN2_LO;
  V log_high = sum + tail, log_low = (sum - log_high) + tail;
  V product = y * log_high;
  V error = vfma(y, log_high, -product) + y * log_low;
  V result = vexp(product);
  result = (result == 0.0) | (result == INF) ? result : vfma(result, error, result);
  if (any(special)) LANES if (special[l]) result[l] = std::pow(x[l], y[l]);
  return result;
}
// sin and cos of |x| < 1e5 by reduction to a quarter turn; larger arguments one by one.
static inline void sincos_of(V x, V* sine, V* cosine) {
  const V magic = all(6755399441055744.0);
  V shifted = x * 0.636619772367581343076 + magic;
  V k = shifted - magic;
  M quarter = bits(shifted) - bits(magic);
  V r = vfma(k, all(-1.57079632673412561417e+00), x);
  r = vfma(k, all(-6.07710050630396597660e-11), r);
  r = vfma(k, all(-2.02226624879595063154e-21), r);
  V z = r * r;
  V s = vfma(z, vfma(z, vfma(z, vfma(z, vfma(z, vfma(z, vfma(z, all(-7.647163731819816e-13),
        all(1.605904383682161e-10)), all(-2.505210838544172e-08)), all(2.755731922398589e-06)),
        all(-1.984126984126984e-04)), all(8.333333333333333e-03)), all(-1.0 / 6)), all(0.0));
  V c = vfma(z, vfma(z, vfma(z, vfma(z, vfma(z, vfma(z, vfma(z, all(4.779477332387385e-14),
        all(-1.147074559772973e-11)), all(2.087675698786810e-09)), all(-2.755731922398589e-07)),
        all(2.480158730158730e-05)), all(-1.388888888888889e-03)), all(1.0 / 24)), all(-0.5));
  s = vfma(r, s, r);
  c = vfma(z, c, all(1.0));
  M swap = (quarter & 1) != 0;
  V u = swap ? c : s, v = swap ? s : c;
  *sine = (quarter & 2) != 0 ? -u : u;
  *cosine = ((quarter + 1) & 2) != 0 ? -v : v;
  M far = !(vabs(x) < 1e5);
  if (any(far)) LANES if (far[l]) { (*sine)[l] = std::sin(x[l]); (*cosine)[l] = std::cos(x[l]); }
}
static inline V vsin(V x) { V s, c; sincos_of(x, &s, &c); return s; }
static inline V vcos(V x) { V s, c; sincos_of(x, &s, &c); return c; }
static inline V vtan(V x) { V s, c; sincos_of(x, &s, &c); return s / c; }
static inline V vsinh(V x) { V e = vexpm1(vabs(x)), r = 0.5 * (e + e / (e + 1.0));
  r = e == INF ? e : r; return x < 0.0 ? -r : r; }
static inline V vcosh(V x) { V e = vexp(vabs(x)); return 0.5 * e + 0.5 / e; }
#define ONE_BY_ONE(name) static inline V v##name(V x) { V r; LANES r[l] = std::name(x[l]); return r; }
ONE_BY_ONE(atan) ONE_BY_ONE(asin) ONE_BY_ONE(acos) ONE_BY_ONE(erf) ONE_BY_ONE(erfc) ONE_BY_ONE(lgamma)
// exp(x^2) erfc(x); its continued fraction from 2 on, Abramowitz and Stegun (1964), 7.1.14.
static inline double erfcx_of(double x) {
  if (x < -26.7) return INF;
  if (x < 2) return std::exp(x * x) * std::erfc(x);
  if (x > 1e8) return 0.5641895835477563 / x;
  double tail = x;
  for (int k = 60; k > 0; --k) tail = x + 0.5 * k / tail;
  return 0.5641895835477563 / tail;
}
static inline V verfcx(V x) { V r; LANES r[l] = erfcx_of(x[l]); return r; }
static inline double digamma_of(double x) {
  if (x <= 0) return x == std::floor(x) ? NAN : digamma_of(1 - x) - M_PI / std::tan(M_PI * x);
  double total = 0;
  for (; x < 12; ++x) total -= 1 / x;
  double z = 1 / (x * x);
  return total + std::log(x) - 0.5 / x - z * (1.0 / 12 - z * (1.0 / 120 - z * (1.0 / 252 - z * (1.0 / 240 - z / 132))));
}
static inline double trigamma_of(double x) {
  if (x <= 0) { double s = std::sin(M_PI * x); return M_PI * M_PI / (s * s) - trigamma_of(1 - x); }
  double total = 0;
  for (; x < 12; ++x) total += 1 / (x * x);
  double z = 1 / (x * x);
  return total + 1 / x + z / 2 + z / x * (1.0 / 6 - z * (1.0 / 30 - z * (1.0 / 42 - z * (1.0 / 30 - z * 5 / 66))));
}
static inline V vtrigamma(V x) { V r; LANES r[l] = trigamma_of(x[l]); return r; }
static inline V vdigamma(V x) { V r; LANES r[l] = digamma_of(x[l]); return r; }
static inline double remainder_of(double x, double y) {
  double r = std::fmod(x, y);
  return r != 0 && (y < 0) != (r < 0) ? r + y : r;
}
static inline V vremainder(V x, V y) { V r; LANES r[l] = remainder_of(x[l], y[l]); return r; }
static inline V vatan2(V y, V x) { V r; LANES r[l] = std::atan2(y[l], x[l]); return r; }
