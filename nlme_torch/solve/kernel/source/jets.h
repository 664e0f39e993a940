// Value, gradient and Hessian of log p(y_i | eta_i) of many columns along K of its inputs. The generated text before
// this file defines what likelihood.h wants, with EQUATION 0 or 1, and
//   K, JET = 1 + K + K (K + 1) / 2,
//   term(k, y, h, jet), where y holds the jets of the states after READINGS and the elapsed time,
//   for linear equations initial(h, x) and transition(elapsed, h, e, g), whose results are jets, entry by entry.
#pragma once
#include "columns.h"

static inline V at_stop(const ColumnData &d, const Lanes &at, const double *values, long stop, int state) {
  return at.of_subject(values + (stop * STATES + state) * d.subjects);
}

#if EQUATION == 1
// y += m x for a matrix and a vector of states.
static inline void add_product(const V *m, const V *x, V *y) {
  for (int i = 0; i < STATES; ++i)
    for (int j = 0; j < STATES; ++j) y[i] += m[i * STATES + j] * x[j];
}
static inline void move_states(const V *e, const V *g, const V *rate, const V *x, V *fresh) {
  constexpr int D = STATES, DD = STATES * STATES;
  for (int i = 0; i < JET * D; ++i) fresh[i] = V{};
  add_product(e, x, fresh);
  for (int i = 0; i < K; ++i) {
    add_product(e + (1 + i) * DD, x, fresh + (1 + i) * D);
    add_product(e, x + (1 + i) * D, fresh + (1 + i) * D);
    for (int j = 0; j <= i; ++j) {
      const int both = 1 + K + i * (i + 1) / 2 + j;
      add_product(e + both * DD, x, fresh + both * D);
      add_product(e + (1 + i) * DD, x + (1 + j) * D, fresh + both * D);
      add_product(e + (1 + j) * DD, x + (1 + i) * D, fresh + both * D);
      add_product(e, x + both * D, fresh + both * D);
    }
  }
  if (rate) for (int k = 0; k < JET; ++k) add_product(g + k * DD, rate, fresh + k * D);
}
#endif

extern "C" void jets(const ColumnData *data, const double *effects, double *out, long first, long last) {
  FlushSubnormals flush;
  const ColumnData &d = *data;
#if EQUATION == 1
  std::vector<V> arrivals(d.stops * JET * STATES);
#endif
  for (long n = first; n < last; n += W) {
    Lanes at(d.starts, d.subjects, n, last);
    V p[INPUTS + 1], h[HELD + 1], y[READINGS + 1 + JET * STATES], jet[JET], total[JET] = {};
    M good = ~M{};  // where a closed form is inexact, all is NaN
    inputs(d, at, effects, p);
    before(p, h);
#if EQUATION == 1
    V start[JET * STATES], x[JET * STATES], fresh[JET * STATES], rate[STATES], now = at.of_subject(d.times);
    V e[JET * STATES * STATES], g[JET * STATES * STATES], matrix[STATES * STATES];
    initial(h, start);
    for (int i = 0; i < JET * STATES; ++i) arrivals[i] = x[i] = start[i];
    for (int i = 0; i < STATES; ++i) if (d.amounts) x[i] += at_stop(d, at, d.amounts, 0, i);
    for (long s = 1; s < d.stops; ++s) {
      V next = at.of_subject(d.times + s * d.subjects);
      if (any(next != now)) {
        good &= ~(transition(next - now, h, e, g, matrix) & (next != now));
        for (int i = 0; i < STATES; ++i) rate[i] = d.rates ? at_stop(d, at, d.rates, s - 1, i) : V{};
        move_states(e, g, d.rates ? rate : nullptr, x, fresh);
        for (int i = 0; i < JET * STATES; ++i) x[i] = next != now ? fresh[i] : x[i];
      }
      for (int i = 0; i < JET * STATES; ++i) {
        arrivals[s * JET * STATES + i] = x[i];
        if (d.resets) x[i] = at.flags(d.resets + s * d.subjects) ? start[i] : x[i];
      }
      for (int i = 0; i < STATES; ++i) if (d.amounts) x[i] += at_stop(d, at, d.amounts, s, i);
      now = next;
    }
#endif
    for (long r = 0; r < d.records; ++r) {
      bool ready = false;
      for (int k = 0; k < TERMS; ++k) {
        M seen = at.flags(d.observed + (PATTERN_OF[k] * d.records + r) * d.subjects);
        if (!any(seen)) continue;
        if (!ready) {
          readings(d, at, r, y);
#if EQUATION == 1
          V *states = y + READINGS + 1;
          for (int i = 0; i < JET * STATES; ++i)
            LANES states[i][l] = arrivals[d.stop_of[r * d.subjects + at.subject[l]] * JET * STATES + i][l];
          for (int i = 0; i < JET * STATES; ++i)
            if (d.restarted) states[i] = at.flags(d.restarted + r * d.subjects) ? start[i] : states[i];
          for (int i = 0; i < STATES; ++i) if (d.added) states[i] += at_stop(d, at, d.added, r, i);
#endif
          ready = true;
        }
        term(k, y, h, jet);
        for (int i = 0; i < JET; ++i) total[i] += seen ? jet[i] : V{};
      }
    }
    total[0] = vabs(total[0]) < INF ? total[0] : all(-INF);
    for (int k = 0; k < JET; ++k) total[k] = good ? total[k] : all(NAN);
    for (int k = 0; k < JET; ++k) at.keep(out + k * d.columns, total[k]);
  }
}
