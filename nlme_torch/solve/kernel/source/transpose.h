// The accepted steps again, forwards and then backwards: the transposed derivative of all arrivals.
#pragma once
#include <algorithm>
#include <numeric>
#include "records.h"
#include "steps.h"

struct Gradients {
  const double *arrivals;                        // (stop, state, subject) what is transposed
  double *initial, *own, *shared;                // (state, subject), (parameter, subject), (group, parameter)
  double *amounts, *rates, *times;               // like the problem's, or null
};

struct Reverser {
  static constexpr long KE = EXPLICIT ? (ES - 1) * D : 0, ROW = D + KE + IS * D;   // state, slopes, increments
  const Problem &q;
  const Tape &tape;
  const long *status;
  const Gradients *g;                            // null: forwards only
  double *arrivals;                              // null: backwards only
  std::vector<V> memory;
  long subject[W], count[W];
  const Step *steps[W];
  V p[OWN + SHARED + 1], p_bar[OWN + SHARED + 1], rate[D];
  V t, h;                                        // of the current step; h is 0 in lanes that rest
  M implicit;
  Field f{p, rate};

  double at(const double *values, long stop, int state, long n) { return values[(stop * D + state) * q.subjects + n]; }
  double given(const double *values, long stop, int state, long n) {
    return values[(stop * D + state) * q.rows + q.row(n)];
  }

  void look(long m) {
    LANES {
      bool moves = m < count[l], any_step = count[l] > 0;
      long n = subject[l], stop = any_step ? steps[l][moves ? m : count[l] - 1].stop : 1;
      t[l] = any_step ? steps[l][moves ? m : count[l] - 1].time : q.times[q.row(n)];
      h[l] = moves ? steps[l][m].size : 0.0;
      implicit[l] = moves && steps[l][m].implicit ? -1 : 0;
      for (int i = 0; i < D; ++i) rate[i][l] = q.rates && any_step ? given(q.rates, stop - 1, i, n) : 0.0;
    }
  }
  void advance(V *y, V *next) {
    for (int i = 0; i < D; ++i) next[i] = y[i];
#if EXPLICIT
    V last[D];
    f(t, y, y + D);
    explicit_step(f, t, implicit ? V{} : h, y, y + D, next, last);
#endif
#if IMPLICIT
    if (any(implicit)) {
      V slope[D], fresh[D], safe = implicit ? h : all(1.0);
      Linearised w;
      f(t, y, slope);
      linearise(f, t, safe, y, &w);
      implicit_step(f, t, safe, y, slope, w, y + D + KE, fresh);
      for (int i = 0; i < D; ++i) next[i] = implicit ? fresh[i] : next[i];
    }
#endif
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
    memory.resize((longest + 1) * ROW);
    V *y = memory.data();
    for (int i = 0; i < D; ++i) LANES {
      long n = subject[l];
      y[i][l] = q.initial[i * q.subjects + n];
      if (arrivals && l < size) arrivals[i * q.subjects + n] = y[i][l];
      if (q.amounts) y[i][l] += given(q.amounts, 0, i, n);
    }
    for (long m = 0; m < longest; ++m, y += ROW) {
      V *next = y + ROW;
      look(m);
      advance(y, next);
      LANES if (m < count[l] && steps[l][m].arrived) {
        long n = subject[l], stop = steps[l][m].stop;
        if (arrivals) for (int i = 0; i < D; ++i) arrivals[(stop * D + i) * q.subjects + n] = next[i][l];
        bool reset = q.resets && q.resets[stop * q.rows + q.row(n)];
        for (int i = 0; i < D; ++i) {
          if (reset) next[i][l] = q.initial[i * q.subjects + n];
          if (q.amounts) next[i][l] += given(q.amounts, stop, i, n);
        }
      }
    }
#if TRANSPOSED
    if (g) backwards(index, size, longest);
#endif
  }
#if TRANSPOSED
  void retreat(const V *y, V *bar, V *rate_bar, V *t_bar, V *h_bar) {
#if IMPLICIT
    if (any(implicit)) {
      V moved[D], extra_h{}, safe = implicit ? h : all(1.0);
      Linearised w;
      linearise(f, t, safe, y, &w);
      for (int i = 0; i < D; ++i) moved[i] = implicit ? bar[i] : V{};
      implicit_step_vjp(f, t, safe, y, y + D + KE, w, moved, p_bar, rate_bar, t_bar, &extra_h);
      *h_bar += extra_h;
      for (int i = 0; i < D; ++i) bar[i] = implicit ? moved[i] : bar[i];
    }
#endif
#if EXPLICIT
    V moved[D];
    for (int i = 0; i < D; ++i) moved[i] = implicit ? V{} : bar[i];
    explicit_step_vjp(f, t, implicit ? V{} : h, y, y + D, moved, p_bar, rate_bar, t_bar, h_bar);
    for (int i = 0; i < D; ++i) bar[i] = implicit ? bar[i] : moved[i];
#endif
  }
  void backwards(long index, int size, long longest) {
    V bar[D], start[D];
    for (auto &entry : p_bar) entry = V{};
    for (int i = 0; i < D; ++i) bar[i] = start[i] = V{};
    for (long m = longest - 1; m >= 0; --m) {
      look(m);
      LANES if (m < count[l] && steps[l][m].arrived) {
        long n = subject[l], stop = steps[l][m].stop;
        bool reset = q.resets && q.resets[stop * q.rows + q.row(n)];
        for (int i = 0; i < D; ++i) {
          if (g->amounts) g->amounts[(stop * D + i) * q.subjects + n] = bar[i][l];
          if (reset) { start[i][l] += bar[i][l]; bar[i][l] = 0; }
          bar[i][l] += at(g->arrivals, stop, i, n);
        }
      }
      V t_bar{}, h_bar{}, rate_bar[D];
      for (int i = 0; i < D; ++i) rate_bar[i] = V{};
      retreat(memory.data() + m * ROW, bar, rate_bar, &t_bar, &h_bar);
      if (g->rates || g->times) LANES if (m < count[l]) {
        const Step &s = steps[l][m];
        long n = subject[l];
        if (g->rates) for (int i = 0; i < D; ++i) g->rates[((s.stop - 1) * D + i) * q.subjects + n] += rate_bar[i][l];
        if (g->times) {
          double *left = g->times + (s.stop - 1) * q.subjects + n, *right = left + q.subjects;
          double origin = q.times[(s.stop - 1) * q.rows + q.row(n)];
          double length = q.times[s.stop * q.rows + q.row(n)] - origin;
          double part = s.time - origin;
          double stretch = (part == 0 ? 0.0 : t_bar[l] * part / length) + h_bar[l] * s.size / length;
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
#endif
};

// Of the subjects `chosen`, or of all if null.
extern "C" void replay(const Problem *q, const void *tape, const long *status, const Gradients *g, double *arrivals,
                       const long *chosen, long how_many) {
  const Tape &steps = *(const Tape *)tape;
  std::vector<long> order(chosen ? how_many : q->subjects);
  if (chosen) std::copy(chosen, chosen + how_many, order.begin());
  else std::iota(order.begin(), order.end(), 0L);
  std::stable_sort(order.begin(), order.end(), [&](long a, long b) { return steps.count[a] > steps.count[b]; });
  in_parallel((long)order.size(), q->threads, [&](int, long first, long last) {
    auto *reverser = new Reverser{*q, steps, status, g, arrivals};
    for (long at = first; at < last; at += W)
      reverser->group(at / W, order.data() + at, (int)std::min<long>(W, last - at));
    delete reverser;
  });
}
