"""Elementary functions of eight subjects at once, in portable C++ with vector extensions (GCC and Clang).

Accurate to about one unit in the last place, without branches, the same for a subject in whatever lane it stands.

References:
    Cody and Waite (1980), Software Manual for the Elementary Functions (argument reduction);
    Tang (1992), Table-lookup algorithms for elementary functions, doi:10.1145/146847.146928 (logarithm near one).
"""

SOURCE = r"""
#include <cmath>
#include <cstdint>
#include <cstring>

typedef double V __attribute__((vector_size(64)));
typedef int64_t M __attribute__((vector_size(64)));
static constexpr int LANES = 8;
#define INLINE static inline __attribute__((always_inline))
#define PLAIN static __attribute__((noinline))

INLINE V vec(double x) { return V{x, x, x, x, x, x, x, x}; }
INLINE M integers(int64_t x) { return M{x, x, x, x, x, x, x, x}; }
INLINE M bits(V x) { M r; std::memcpy(&r, &x, sizeof(r)); return r; }
INLINE V from_bits(M x) { V r; std::memcpy(&r, &x, sizeof(r)); return r; }
INLINE V choose(M m, V a, V b) { return m ? a : b; }
INLINE V v_abs(V x) { return from_bits(bits(x) & 0x7fffffffffffffffLL); }
INLINE V v_max(V a, V b) { return choose(a > b, a, choose(b >= a, b, a + b)); }
INLINE V v_min(V a, V b) { return choose(a < b, a, choose(b <= a, b, a + b)); }
INLINE V v_sign(V x) { return choose(x > 0, vec(1), choose(x < 0, vec(-1), x)); }
INLINE M finite(V x) { return v_abs(x) < vec(INFINITY); }
INLINE bool any(M m) { int64_t r = 0; for (int l = 0; l < LANES; l++) r |= m[l]; return r != 0; }
#define LANEWISE(name, function) \
    INLINE V name(V x) { V r; for (int l = 0; l < LANES; l++) r[l] = function(x[l]); return r; }
LANEWISE(v_sqrt, __builtin_sqrt)
LANEWISE(v_floor, __builtin_floor)
LANEWISE(v_ceil, __builtin_ceil)
LANEWISE(v_sin, std::sin)
LANEWISE(v_cos, std::cos)
LANEWISE(v_tan, std::tan)
LANEWISE(v_atan, std::atan)
LANEWISE(v_erf, std::erf)

// x = n ln 2 + r: the integer n as a number, its bits, and r
struct Reduced { V n; M k; V r; };
INLINE Reduced reduce(V x) {
    const V magic = vec(6755399441055744.0);
    V shifted = x * 1.4426950408889634 + magic;
    V n = shifted - magic;
    V r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
    return {n, bits(shifted) - bits(magic), r};
}
// (exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2
INLINE V tail(V r) {
    V p = vec(1.0 / 6227020800.0);
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    return p * r + 0.5;
}
INLINE V power_of_two(M k) { return from_bits((k + 1023) << 52); }
KIND V v_exp(V x) {
    V bounded = choose(x > 710, vec(710), choose(x < -746, vec(-746), x));
    Reduced a = reduce(bounded);
    V p = 1.0 + (a.r + a.r * a.r * tail(a.r));
    M half = a.k >> 1;
    return p * power_of_two(half) * power_of_two(a.k - half);
}
KIND V v_expm1(V x) {
    V bounded = choose(x > 710, vec(710), choose(x < -746, vec(-746), x));
    Reduced a = reduce(bounded);
    V p = a.r + a.r * a.r * tail(a.r);
    M half = a.k >> 1;
    V first = power_of_two(half), second = power_of_two(a.k - half);
    V r = (p * first + (first - power_of_two(half - a.k))) * second;
    return choose(a.k == 0, p, choose(a.k < -60, vec(-1), r));
}
// log(x), and log(1 + y) where x = 1 + y rounded and lost = y - (x - 1)
INLINE V log_with(V x, V lost) {
    M tiny = x < 2.2250738585072014e-308;
    V scaled = choose(tiny, x * 18014398509481984.0, x);
    M raw = bits(scaled);
    M k = ((raw - 0x3fe6a09e667f3bcdLL) >> 52);
    V m = from_bits(raw - (k << 52));
    V n = __builtin_convertvector(k - (tiny & 54), V);
    V f = m - 1.0;
    V s = f / (2.0 + f);
    V z = s * s;
    V p = vec(1.479819860511658591e-01);
    p = p * z + 1.531383769920937332e-01;
    p = p * z + 1.818357216161805012e-01;
    p = p * z + 2.222219843214978396e-01;
    p = p * z + 2.857142874366239149e-01;
    p = p * z + 3.999999999940941908e-01;
    p = p * z + 6.666666666666735130e-01;
    V square = 0.5 * f * f;
    V low = s * (square + z * p) + (n * 1.90821492927058770002e-10 + lost / x);
    V r = n * 6.93147180369123816490e-01 - ((square - low) - f);
    r = choose(x == 0, vec(-INFINITY), r);
    r = choose(x < 0, vec(NAN), r);
    return choose(x < INFINITY, r, x);
}
KIND V v_log(V x) { return log_with(x, vec(0)); }
KIND V v_log1p(V y) {
    V x = 1.0 + y;
    V lost = choose(v_abs(y) < 1e300, y - (x - 1.0), vec(0));
    return log_with(x, choose(x == 0, vec(0), lost));
}
KIND V v_tanh(V x) {
    V size = v_abs(x);
    V e = v_expm1(2.0 * choose(size > 20, vec(20), size));
    V r = e / (e + 2.0);
    return choose(x < 0, -r, choose(size < 1e-9, x, r));
}
KIND V v_sigmoid(V x) {
    V e = v_exp(-v_abs(x));
    return choose(x < 0, e, vec(1)) / (1.0 + e);
}
KIND V v_softplus(V x) {
    V e = v_exp(-v_abs(x));
    V u = 1.0 + e;
    return choose(x < 0, vec(0), x) + log_with(u, e - (u - 1.0));
}
PLAIN V v_pow(V x, V y) { V r; for (int l = 0; l < LANES; l++) r[l] = std::pow(x[l], y[l]); return r; }
"""
