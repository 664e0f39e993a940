// Sums over the records of many columns, such as log p(y_i | eta_i). The generated text before this file defines
//   EFFECTS, INPUTS, HELD, READINGS, PATTERNS, STATES, and EQUATION (0 none, 1 linear, 2 to be walked),
//   TERMS, OUTPUTS, PATTERN_OF and OUTPUT_OF: each term is evaluated where a pattern of outcomes was observed, and added
//   to an output; MISSING is an output's value where it is not finite,
//   inputs(d, at, effects, p)      what the first part of the program reads,
//   before(p, h)                   what is the same at all records,
//   readings(d, at, record, y)     what is read at a record,
//   term(k, y, h)                  one of the terms there,
//   INFUSIONS, whether anything is infused, MOVED, whether doses are moved or changed by parameters, with modifiers(h, v) as doses.h takes them,
//   and for equations: initial(h, x), with transition(elapsed, h, e, g, matrix),
//   which says where it is inexact, or OWN, SHARED, parameters(h, own, shared).
#pragma once
#include "columns.h"
#if MOVED
#include "doses.h"
#endif

static inline V at_stop(const ColumnData &d, const Lanes &at, const double *values, long stop, int state) {
  return at.of_subject(values + (stop * STATES + state) * d.subjects);
}

// The states at one record, from those on arriving at every stop.
template <class Arrived>
static inline void states_at(const ColumnData &d, const Lanes &at, long r, const V *start, Arrived arrived, V *x) {
  for (int i = 0; i < STATES; ++i) {
    LANES x[i][l] = arrived(d.stop_of[r * d.subjects + at.subject[l]], i, l);
    if (d.restarted) x[i] = at.flags(d.restarted + r * d.subjects) ? start[i] : x[i];
    if (d.added) x[i] += at_stop(d, at, d.added, r, i);
  }
}

template <class States>
static inline void at_records(const ColumnData &d, const Lanes &at, const V *h, V *total, States states) {
  V y[READINGS + 1 + STATES];
  for (int k = 0; k < OUTPUTS; ++k) total[k] = V{};
  for (long r = 0; r < d.records; ++r) {
    M seen[PATTERNS], some{};
    for (int g = 0; g < PATTERNS; ++g) {
      seen[g] = at.flags(d.observed + (g * d.records + r) * d.subjects);
      some |= seen[g];
    }
    if (!any(some)) continue;
    readings(d, at, r, y);
    states(r, y + READINGS + 1);
    for (int k = 0; k < TERMS; ++k) {
      const M here = seen[PATTERN_OF[k]];
      if (any(here)) total[OUTPUT_OF[k]] += here ? term(k, y, h) : V{};
    }
  }
}

static inline void keep(const ColumnData &d, const Lanes &at, const V *total, M solved, double *out) {
  for (int k = 0; k < OUTPUTS; ++k)
    at.keep(out + k * d.columns, solved & (vabs(total[k]) < INF) ? total[k] : all(MISSING));
}

#if EQUATION == 0
extern "C" void evaluate(const ColumnData *data, const double *effects, double *out, long first, long last) {
  FlushSubnormals flush;
  const ColumnData &d = *data;
  for (long n = first; n < last; n += W) {
    Lanes at(d.starts, d.subjects, n, last);
    V p[INPUTS + 1], h[HELD + 1];
    inputs(d, at, effects, p);
    before(p, h);
    V total[OUTPUTS];
    at_records(d, at, h, total, [](long, V *) {});
    keep(d, at, total, ~M{}, out);
  }
}
#elif EQUATION == 1 && MOVED
#include "matrix_exponential.h"
extern "C" void evaluate(const ColumnData *data, const double *effects, double *out, long first, long last) {
  FlushSubnormals flush;
  const ColumnData &d = *data;
  std::vector<V> seen(d.records * STATES);
  Stops stops[W];
  for (long n = first; n < last; n += W) {
    Lanes at(d.starts, d.subjects, n, last);
    V p[INPUTS + 1], h[HELD + 1], start[STATES], x[STATES], e[STATES * STATES], g[STATES * STATES];
    V matrix[STATES * STATES], rate[STATES], v[STATES * MODIFIERS], time;
    inputs(d, at, effects, p);
    before(p, h);
    initial(h, start);
    modifiers(h, v);
    M good = ~M{};
    long count = 0;
    for (int i = 0; i < STATES; ++i) { x[i] = start[i]; rate[i] = V{}; }
    LANES {
      if (!stops[l].build(d, at.subject[l], v, l)) good[l] = 0, stops[l].line = stops[l].records;
      count = std::max(count, (long)stops[l].line.size());
      time[l] = stops[l].line[0].time;
    }
    for (long s = 0; s < count; ++s) {
      V next = time;
      LANES if (s < (long)stops[l].line.size()) next[l] = stops[l].line[s].time;
      const M moves = next != time;
      if (any(moves)) {
        M inexact = transition(next - time, h, e, g, matrix) & moves;
        if (any(inexact)) general_transition<STATES>(matrix, next - time, inexact, e, INFUSIONS ? g : nullptr);
        V fresh[STATES];
        for (int i = 0; i < STATES; ++i) {
          fresh[i] = e[i * STATES] * x[0];
          for (int j = 1; j < STATES; ++j) fresh[i] += e[i * STATES + j] * x[j];
          if (INFUSIONS) for (int j = 0; j < STATES; ++j) fresh[i] += g[i * STATES + j] * rate[j];
        }
        for (int i = 0; i < STATES; ++i) x[i] = moves ? fresh[i] : x[i];
      }
      LANES if (s < (long)stops[l].line.size()) {
        const Stop &now = stops[l].line[s];
        if (stops[l].resets(d, at.subject[l], s)) for (int i = 0; i < STATES; ++i) x[i][l] = start[i][l];
        x[now.state][l] += now.amount;
        rate[now.state][l] += now.change;
        if (now.record >= 0) for (int i = 0; i < STATES; ++i) seen[now.record * STATES + i][l] = x[i][l];
      }
      for (int i = 0; i < STATES; ++i) good &= vabs(x[i]) < INF;
      time = next;
    }
    V total[OUTPUTS];
    at_records(d, at, h, total, [&](long r, V *y) { for (int i = 0; i < STATES; ++i) y[i] = seen[r * STATES + i]; });
    keep(d, at, total, good, out);
  }
}
#elif EQUATION == 1
#include "matrix_exponential.h"
extern "C" void evaluate(const ColumnData *data, const double *effects, double *out, long first, long last) {
  FlushSubnormals flush;
  const ColumnData &d = *data;
  std::vector<V> arrivals(d.stops * STATES);
  for (long n = first; n < last; n += W) {
    Lanes at(d.starts, d.subjects, n, last);
    V p[INPUTS + 1], h[HELD + 1], start[STATES], x[STATES], e[STATES * STATES], g[STATES * STATES];
    V matrix[STATES * STATES];
    inputs(d, at, effects, p);
    before(p, h);
    initial(h, start);
    V time = at.of_subject(d.times);
    M good = ~M{};
    for (int i = 0; i < STATES; ++i) {
      arrivals[i] = start[i];
      x[i] = d.amounts ? start[i] + at_stop(d, at, d.amounts, 0, i) : start[i];
      good &= vabs(x[i]) < INF;
    }
    for (long s = 1; s < d.stops; ++s) {
      V next = at.of_subject(d.times + s * d.subjects), fresh[STATES];
      if (any(next != time)) {
        M inexact = transition(next - time, h, e, g, matrix);
        if (any(inexact)) general_transition<STATES>(matrix, next - time, inexact, e, d.rates ? g : nullptr);
        for (int i = 0; i < STATES; ++i) {
          fresh[i] = e[i * STATES] * x[0];
          for (int j = 1; j < STATES; ++j) fresh[i] += e[i * STATES + j] * x[j];
          if (d.rates)
            for (int j = 0; j < STATES; ++j) fresh[i] += g[i * STATES + j] * at_stop(d, at, d.rates, s - 1, j);
        }
        for (int i = 0; i < STATES; ++i) x[i] = next != time ? fresh[i] : x[i];
      }
      for (int i = 0; i < STATES; ++i) {
        arrivals[s * STATES + i] = x[i];
        if (d.resets) x[i] = at.flags(d.resets + s * d.subjects) ? start[i] : x[i];
        if (d.amounts) x[i] += at_stop(d, at, d.amounts, s, i);
        good &= vabs(x[i]) < INF;
      }
      time = next;
    }
    V total[OUTPUTS];
    at_records(d, at, h, total, [&](long r, V *y) {
      states_at(d, at, r, start, [&](long s, int i, int l) { return arrivals[s * STATES + i][l]; }, y);
    });
    keep(d, at, total, good, out);
  }
}
#else
#include "walked.h"
constexpr long TOGETHER = 4096;  // columns walked at a time, whose states at all stops stay in memory
extern "C" void evaluate(const ColumnData *data, const double *effects, double *out, long first, long last) {
  FlushSubnormals flush;
  const ColumnData &d = *data;
  const long most = std::min(last - first, TOGETHER);
#if MOVED
  WalkedColumns walked(most, d.records + 2 * d.doses);
#else
  WalkedColumns walked(most, d.stops);
#endif
  for (long from = first; from < last; from += most) {
    const long end = std::min(from + most, last), count = end - from;
#if MOVED
    MovedStops moved(d, count);
    std::vector<char> given(count);
    Stops dose;
    walked.prepare(d, effects, from, end, [&](const Lanes &at, const V *h) {
      V v[STATES * MODIFIERS];
      modifiers(h, v);
      for (int l = 0; l < at.width; ++l) {
        const long column = walked.column(at, l);
        given[column] = dose.build(d, at.subject[l], v, l);
        if (!given[column]) dose.line = dose.records;
        moved.fill(d, dose, at.subject[l], column);
      }
    });
    Problem q = moved.problem(walked.problem(d));
#else
    walked.prepare(d, effects, from, end, [](const Lanes &, const V *) {});
    Problem q = walked.problem(d);
#endif
    d.walk(&q, walked.arrivals.data(), &walked.outcome, 0);
    for (long n = from; n < end; n += W) {
      Lanes at(d.starts, d.subjects, n, end);
      V h[HELD + 1], x0[STATES], total[OUTPUTS];
      walked.load(at, h, x0);
      M solved = walked.solved(at);
      auto arrived = [&](long s, int i, int l) {
        return walked.arrivals[(s * STATES + i) * count + walked.column(at, l)];
      };
#if MOVED
      for (int l = 0; l < at.width; ++l) if (!given[walked.column(at, l)]) solved[l] = 0;
      at_records(d, at, h, total, [&](long r, V *y) {
        for (int i = 0; i < STATES; ++i) LANES {
          const long place = r * count + walked.column(at, l);
          y[i][l] = moved.restarted[place] ? x0[i][l] : arrived(moved.stop_of[place], i, l);
          y[i][l] += moved.added[(r * STATES + i) * count + walked.column(at, l)];
        }
      });
#else
      at_records(d, at, h, total, [&](long r, V *y) { states_at(d, at, r, x0, arrived, y); });
#endif
      keep(d, at, total, solved, out);
    }
  }
}
#endif
