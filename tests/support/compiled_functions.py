"""Functions of the C++ headers by themselves: random numbers, elementary functions and matrix exponentials."""

import ctypes
import functools

import numpy as np

from nlme_torch.solve.kernel.build import build

SOURCE = """
#include "philox.h"
#include "matrix_exponential.h"
extern "C" int lanes() { return W; }
extern "C" void words(const unsigned *counter, const unsigned *key, unsigned *out) {
  Words c{};
  LANES c.a[l] = counter[0], c.b[l] = counter[1], c.c[l] = counter[2], c.d[l] = counter[3];
  Words w = philox(c, key[0], key[1]);
  LANES out[4 * l] = w.a[l], out[4 * l + 1] = w.b[l], out[4 * l + 2] = w.c[l], out[4 * l + 3] = w.d[l];
}
// out: (4, count), two uniform and two normal numbers of every subject, chain and step at number k.
extern "C" void numbers(unsigned long long key, long count, const unsigned *who, unsigned k, double *out) {
  for (long n = 0; n < count; n += W) {
    for (int l = 0; l < W && n + l < count; ++l) {
      U subject{}, chain{};
      LANES {
        long at = n + (l < count - n ? l : count - n - 1);
        subject[l] = who[at], chain[l] = who[count + at];
      }
      Draws draws{(unsigned)key, (unsigned)(key >> 32), subject, chain, who[2 * count]};
      V u, v, x, y;
      draws.uniforms(k, &u, &v);
      draws.normals(k, &x, &y);
      const double found[] = {u[l], v[l], x[l], y[l]};
      for (int i = 0; i < 4; ++i) out[i * count + n + l] = found[i];
    }
  }
}
extern "C" void scaled_erfc(long count, const double *x, double *out) {
  for (long n = 0; n < count; ++n) out[n] = verfcx(all(x[n]))[0];
}
template <int N> static void transitions(const double *matrix, const double *time, double *e, double *g) {
  V a[N * N], x[N * N], y[N * N], t;
  LANES t[l] = time[l];
  for (int i = 0; i < N * N; ++i) { LANES a[i][l] = matrix[i * W + l]; x[i] = y[i] = all(-7.0); }
  general_transition<N>(a, t, t >= 0.0, x, g ? y : nullptr);
  for (int i = 0; i < N * N; ++i) LANES {
    e[i * W + l] = x[i][l];
    if (g) g[i * W + l] = y[i][l];
  }
}
// One matrix of 2 x 2 or 4 x 4 per lane; a negative time stands for a lane that is not asked for.
extern "C" void transition(int size, const double *matrix, const double *time, double *e, double *g) {
  if (size == 2) transitions<2>(matrix, time, e, g);
  else transitions<4>(matrix, time, e, g);
}
"""


@functools.cache
def library():
    return build(SOURCE)


def address(array):
    return ctypes.c_void_p(array.ctypes.data)


def philox_words(counter, key):
    """The four words of every lane, ``(lane, word)``."""
    out = np.zeros((library().lanes(), 4), dtype=np.uint32)
    counter, key = (np.array(words, dtype=np.uint32) for words in (counter, key))
    library().words(address(counter), address(key), address(out))
    return out


def random_numbers(key, subjects, chains, step, number):
    """Two uniform and two normal numbers of each subject and chain, ``(4, count)``."""
    count = len(subjects)
    who, out = np.array([*subjects, *chains, step], dtype=np.uint32), np.empty((4, count))
    library().numbers(ctypes.c_ulonglong(key), ctypes.c_long(count), address(who), ctypes.c_uint(number), address(out))
    return out


def erfcx(x):
    x, out = np.ascontiguousarray(x, dtype=float), np.empty(len(x))
    library().scaled_erfc(ctypes.c_long(len(x)), address(x), address(out))
    return out


def transitions(matrices, times, integrated):
    """exp(A t) and its integral, ``(lane, row, column)``, of one matrix per lane; None without the integral."""
    lanes, size = library().lanes(), len(matrices[0])
    padded = [*matrices, *[np.zeros((size, size))] * (lanes - len(matrices))]
    times = np.array([*times, *[0.0] * (lanes - len(times))])
    flat = np.ascontiguousarray(np.stack(padded, -1), dtype=float)
    e, g = np.empty_like(flat), np.empty_like(flat)
    library().transition(size, address(flat), address(times), address(e), address(g) if integrated else None)
    return np.moveaxis(e, -1, 0)[: len(matrices)], np.moveaxis(g, -1, 0)[: len(matrices)] if integrated else None
