// The accepted steps again, forwards and then backwards: the transposed derivative of all arrivals.
// Needs what walk.h needs, and field_vjp(t, y, p, bar, &t_bar, y_bar, p_bar) that adds into p_bar.
#pragma once
#include <algorithm>
#include <numeric>
#include "problem.h"

struct Gradients {
  const double *arrivals;                        // (stop, state, subject) what is transposed
  double *initial, *own, *shared;                // (state, subject), (parameter, subject), (group, parameter)
  double *amounts, *rates, *times;               // like the problem's, or null
};

struct Reverser {
  const Problem &q;
  const Tape &tape;
  const long *status;
  const Gradients *g;                            // null: forwards only
  double *arrivals;                              // null: backwards only
  std::vector<V> memory;
  long subject[W], count[W];
  const Step *steps[W];
  V p[OWN + SHARED + 1], p_bar[OWN + SHARED + 1];

  double at(const double *values, long stop, int state, long n) { return values[(stop * D + state) * q.subjects + n]; }

  void slope(V t, const V *y, const V *rate, V *out) {
    field(t, y, p, out);
    for (int i = 0; i < D; ++i) out[i] += rate[i];
  }
  void stage(const V *y, const V *k, V h, int s, V *out) {
    for (int i = 0; i < D; ++i) {
      V total = A[s - 1][0] * k[i];
      for (int j = 1; j < s; ++j) total += A[s - 1][j] * k[j * D + i];
      out[i] = y[i] + h * total;
    }
  }
  void look(long step, V *t, V *h, V *rate) {
    LANES {
      bool moves = step < count[l];
      const Step &s = steps[l][moves ? step : count[l] - 1];
      (*t)[l] = count[l] ? s.time : q.times[subject[l]];
      (*h)[l] = moves ? s.size : 0.0;
      for (int i = 0; i < D; ++i) rate[i][l] = q.rates && count[l] ? at(q.rates, s.stop - 1, i, subject[l]) : 0.0;
    }
  }
  void group(long index, const long *members, int size) {
    long longest = 0;
    LANES {
      subject[l] = members[l < size ? l : 0];
      count[l] = l < size ? tape.count[subject[l]] : 0;
      steps[l] = tape.of(subject[l]);
      longest = std::max(longest, count[l]);
      for (int i = 0; i < OWN; ++i) p[i][l] = q.own[i * q.subjects + subject[l]];
    }
    for (int i = 0; i < SHARED; ++i) p[OWN + i] = all(q.shared[i]);
    const long row = D * S;                      // state, then S - 1 slopes
    memory.resize((longest + 1) * row);
    V *y = memory.data();
    for (int i = 0; i < D; ++i) LANES {
      long n = subject[l];
      y[i][l] = q.initial[i * q.subjects + n];
      if (arrivals && l < size) arrivals[i * q.subjects + n] = y[i][l];
      if (q.amounts) y[i][l] += at(q.amounts, 0, i, n);
    }
    for (long m = 0; m < longest; ++m, y += row) {
      V t, h, rate[D], inner[D], *k = y + D, *next = y + row;
      look(m, &t, &h, rate);
      slope(t, y, rate, k);
      for (int s = 1; s < S - 1; ++s) {
        stage(y, k, h, s, inner);
        slope(t + NODE[s - 1] * h, inner, rate, k + s * D);
      }
      stage(y, k, h, S - 1, next);
      LANES if (m < count[l] && steps[l][m].arrived) {
        long n = subject[l], stop = steps[l][m].stop;
        if (arrivals) for (int i = 0; i < D; ++i) arrivals[(stop * D + i) * q.subjects + n] = next[i][l];
        bool reset = q.resets && q.resets[stop * q.subjects + n];
        for (int i = 0; i < D; ++i) {
          if (reset) next[i][l] = q.initial[i * q.subjects + n];
          if (q.amounts) next[i][l] += at(q.amounts, stop, i, n);
        }
      }
    }
    if (g) backwards(index, size, longest, row);
  }
  void backwards(long index, int size, long longest, long row) {
    V bar[D], start[D];
    for (auto &entry : p_bar) entry = V{};
    for (int i = 0; i < D; ++i) bar[i] = start[i] = V{};
    for (long m = longest - 1; m >= 0; --m) {
      V t, h, rate[D];
      look(m, &t, &h, rate);
      const V *y = memory.data() + m * row, *k = y + D;
      LANES if (m < count[l] && steps[l][m].arrived) {
        long n = subject[l], stop = steps[l][m].stop;
        bool reset = q.resets && q.resets[stop * q.subjects + n];
        for (int i = 0; i < D; ++i) {
          if (g->amounts) g->amounts[(stop * D + i) * q.subjects + n] = bar[i][l];
          if (reset) { start[i][l] += bar[i][l]; bar[i][l] = 0; }
          bar[i][l] += at(g->arrivals, stop, i, n);
        }
      }
      V k_bar[(S - 1) * D], u_bar[D], inner[D], t_bar{}, h_bar{}, rate_bar[D];
      for (int i = 0; i < D; ++i) rate_bar[i] = V{};
      for (int s = 0; s < S - 1; ++s) for (int i = 0; i < D; ++i) {
        k_bar[s * D + i] = A[S - 2][s] * h * bar[i];
        h_bar += A[S - 2][s] * k[s * D + i] * bar[i];
      }
      for (int s = S - 2; s >= 0; --s) {
        V stage_t_bar{};
        if (s) stage(y, k, h, s, inner); else for (int i = 0; i < D; ++i) inner[i] = y[i];
        field_vjp(s ? t + NODE[s - 1] * h : t, inner, p, k_bar + s * D, &stage_t_bar, u_bar, p_bar);
        t_bar += stage_t_bar;
        if (s) h_bar += NODE[s - 1] * stage_t_bar;
        for (int i = 0; i < D; ++i) {
          rate_bar[i] += k_bar[s * D + i];
          bar[i] += u_bar[i];
          for (int j = 0; j < s; ++j) {
            k_bar[j * D + i] += A[s - 1][j] * h * u_bar[i];
            h_bar += A[s - 1][j] * k[j * D + i] * u_bar[i];
          }
        }
      }
      if (g->rates || g->times) LANES if (m < count[l]) {
        const Step &s = steps[l][m];
        long n = subject[l];
        if (g->rates) for (int i = 0; i < D; ++i) g->rates[((s.stop - 1) * D + i) * q.subjects + n] += rate_bar[i][l];
        if (g->times) {
          double *left = g->times + (s.stop - 1) * q.subjects + n, *right = left + q.subjects;
          double origin = q.times[(s.stop - 1) * q.subjects + n], length = q.times[s.stop * q.subjects + n] - origin;
          double stretch = t_bar[l] * (s.time - origin) / length + h_bar[l] * s.size / length;
          *left += t_bar[l] - stretch;
          *right += stretch;
        }
      }
    }
    for (int l = 0; l < size; ++l) {
      long n = subject[l];
      for (int i = 0; i < D; ++i) {
        if (g->amounts) g->amounts[i * q.subjects + n] = bar[i][l];
        g->initial[i * q.subjects + n] = clean(n, start[i][l] + bar[i][l] + at(g->arrivals, 0, i, n));
      }
      for (int i = 0; i < OWN; ++i) g->own[i * q.subjects + n] = clean(n, p_bar[i][l]);
      for (int i = 0; i < SHARED; ++i) g->shared[index * SHARED + i] += clean(n, p_bar[OWN + i][l]);
    }
  }
  // A failed subject must not spoil what it shares with others.
  double clean(long n, double x) { return status[n] && !std::isfinite(x) ? 0.0 : x; }
};

extern "C" void replay(const Problem *q, const void *tape, const long *status, const Gradients *g, double *arrivals) {
  const Tape &steps = *(const Tape *)tape;
  std::vector<long> order(q->subjects);
  std::iota(order.begin(), order.end(), 0L);
  std::stable_sort(order.begin(), order.end(), [&](long a, long b) { return steps.count[a] > steps.count[b]; });
  in_parallel(q->subjects, q->threads, [&](int, long first, long last) {
    auto *reverser = new Reverser{*q, steps, status, g, arrivals};
    for (long at = first; at < last; at += W)
      reverser->group(at / W, order.data() + at, (int)std::min<long>(W, last - at));
    delete reverser;
  });
}
