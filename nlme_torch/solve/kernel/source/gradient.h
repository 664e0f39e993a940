// log p(y_i | eta_i) of many columns and its gradient with respect to their effects. The generated text before this file
// defines what likelihood.h wants, with EQUATION 0 or 2 and one output, and
//   ACTIVE, ACTIVE_OF               how many of what is held depend on effects, and their positions,
//   term(k, y, h, x, g)             a term, its derivatives in the states and in what is held and active,
//   before_transposed(p, h, e)      cotangents of effects from those of what is held,
//   held_bars(x, own, h)            adds cotangents of initial states and parameters to those of what is held.
#pragma once
#include "columns.h"

struct Cotangents {
  const double *arrivals;
  double *initial, *own, *shared, *amounts, *rates, *times;
};

// Sums over records; `states` gives the states there, `keep` takes their cotangents.
template <class States, class Keep>
static inline V at_records(const ColumnData &d, const Lanes &at, const V *h, V *h_bar, States states, Keep keep) {
  V total{}, y[READINGS + 1 + STATES], x_bar[STATES + 1], g[ACTIVE + 1];
  for (long r = 0; r < d.records; ++r) {
    bool ready = false;
    for (int k = 0; k < TERMS; ++k) {
      const M here = at.flags(d.observed + (PATTERN_OF[k] * d.records + r) * d.subjects);
      if (!any(here)) continue;
      if (!ready) {
        readings(d, at, r, y);
        states(r, y + READINGS + 1);
        ready = true;
      }
      V value = term(k, y, h, x_bar, g);
      total += here ? value : V{};
      for (int i = 0; i < STATES; ++i) x_bar[i] = here ? x_bar[i] : V{};
      for (int i = 0; i < ACTIVE; ++i) h_bar[ACTIVE_OF[i]] += here ? g[i] : V{};
      keep(r, x_bar);
    }
  }
  return total;
}
static inline void finish(const ColumnData &d, const Lanes &at, const V *p, const V *h_bar, V total, M solved,
                          double *value, double *slope) {
  V e_bar[EFFECTS + 1];
  before_transposed(p, h_bar, e_bar);
  at.keep(value, solved & (vabs(total) < INF) ? total : all(-INF));
  for (int j = 0; j < EFFECTS; ++j) at.keep(slope + j * d.columns, e_bar[j]);
}

#if EQUATION == 0
extern "C" void gradient(const ColumnData *data, const double *effects, double *value, double *slope, long first,
                         long last) {
  FlushSubnormals flush;
  const ColumnData &d = *data;
  for (long n = first; n < last; n += W) {
    Lanes at(d.starts, d.subjects, n, last);
    V p[INPUTS + 1], h[HELD + 1], h_bar[HELD + 1];
    inputs(d, at, effects, p);
    before(p, h);
    for (int i = 0; i < HELD; ++i) h_bar[i] = V{};
    V total = at_records(d, at, h, h_bar, [](long, V *) {}, [](long, const V *) {});
    finish(d, at, p, h_bar, total, ~M{}, value, slope);
  }
}
#else
#include "walked.h"
constexpr long TOGETHER = 1024;  // columns whose steps stay in memory
extern "C" void gradient(const ColumnData *data, const double *effects, double *value, double *slope, long first,
                         long last) {
  FlushSubnormals flush;
  const ColumnData &d = *data;
  const long most = std::min(last - first, TOGETHER);
  WalkedColumns walked(most, d.stops);
  std::vector<double> bars(d.stops * STATES * most), held_bar((HELD + 1) * most), start_bar(STATES * most);
  std::vector<double> initial_bar(STATES * most), own_bar((OWN + 1) * most), sums(most);
  std::vector<double> shared_bar((SHARED + 1) * ((most + W - 1) / W + 1));
  for (long from = first; from < last; from += most) {
    const long end = std::min(from + most, last), count = end - from;
    auto row = [&](std::vector<double> &of, long index) { return walked.row(of, index); };
    walked.prepare(d, effects, from, end, [](const Lanes &, const V *) {});
    Problem q = walked.problem(d);
    void *tape = d.walk(&q, walked.arrivals.data(), &walked.outcome, 1);
    for (auto *zeroed : {&bars, &start_bar, &initial_bar, &own_bar, &shared_bar})
      std::fill(zeroed->begin(), zeroed->end(), 0.0);
    for (long n = from; n < end; n += W) {
      Lanes at(d.starts, d.subjects, n, end);
      V h[HELD + 1], h_bar[HELD + 1], x0[STATES], x0_bar[STATES];
      walked.load(at, h, x0);
      for (int i = 0; i < HELD; ++i) h_bar[i] = V{};
      for (int i = 0; i < STATES; ++i) x0_bar[i] = V{};
      auto place = [&](long r, int i, int l) {
        return (d.stop_of[r * d.subjects + at.subject[l]] * STATES + i) * count + walked.column(at, l);
      };
      V total = at_records(d, at, h, h_bar, [&](long r, V *y) {
        for (int i = 0; i < STATES; ++i) {
          LANES y[i][l] = walked.arrivals[place(r, i, l)];
          if (d.restarted) y[i] = at.flags(d.restarted + r * d.subjects) ? x0[i] : y[i];
          if (d.added) y[i] += at.of_subject(d.added + (r * STATES + i) * d.subjects);
        }
      }, [&](long r, const V *x_bar) {
        M anew = d.restarted ? at.flags(d.restarted + r * d.subjects) : M{};
        for (int i = 0; i < STATES; ++i) {
          x0_bar[i] += anew ? x_bar[i] : V{};
          for (int l = 0; l < at.width; ++l) if (!anew[l]) bars[place(r, i, l)] += x_bar[i][l];
        }
      });
      at.keep(sums.data() - from, total);
      for (int i = 0; i < HELD; ++i) at.keep(row(held_bar, i), h_bar[i]);
      for (int i = 0; i < STATES; ++i) at.keep(row(start_bar, i), x0_bar[i]);
    }
    Cotangents g{bars.data(), initial_bar.data(), own_bar.data(), shared_bar.data(), nullptr, nullptr, nullptr};
    d.replay(&q, tape, walked.outcome.status, &g, nullptr, nullptr, 0);
    d.release(tape);
    for (long n = from; n < end; n += W) {
      Lanes at(d.starts, d.subjects, n, end);
      V p[INPUTS + 1], h_bar[HELD + 1], x_bar[STATES], mine[OWN + 1];
      inputs(d, at, effects, p);
      for (int i = 0; i < HELD; ++i) h_bar[i] = at.of_column(row(held_bar, i));
      for (int i = 0; i < STATES; ++i) x_bar[i] = at.of_column(row(start_bar, i)) + at.of_column(row(initial_bar, i));
      for (int i = 0; i < OWN; ++i) mine[i] = at.of_column(row(own_bar, i));
      held_bars(x_bar, mine, h_bar);
      finish(d, at, p, h_bar, at.of_column(sums.data() - from), walked.solved(at), value, slope);
    }
  }
}
#endif
