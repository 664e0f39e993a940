// Columns whose equations are walked together: what the walk takes of them, and what it gives.
#pragma once
#include <algorithm>
#include "columns.h"

struct WalkedColumns {
  std::vector<double> start, own, shared, held, arrivals;  // (state), (parameter), all alike, (held), (stop, state)
  std::vector<long> counts;
  struct { long *status, *stop, *accepted, *rejected, *evaluations, *switches; } outcome;
  long from = 0, count = 0;                                // the first column, and how many

  WalkedColumns(long most, long stops)
      : start(STATES * most), own((OWN + 1) * most), shared(SHARED + 1), held((HELD + 1) * most),
        arrivals(stops * STATES * most), counts(6 * most),
        outcome{counts.data(), counts.data() + most, counts.data() + 2 * most, counts.data() + 3 * most,
                counts.data() + 4 * most, counts.data() + 5 * most} {}
  // A row of an array of these columns, to be indexed by the column's own number.
  double *row(std::vector<double> &of, long index) { return of.data() + index * count - from; }
  long column(const Lanes &at, int l) const { return at.first + std::min(l, at.width - 1) - from; }
  M solved(const Lanes &at) const {
    M m{};
    for (int l = 0; l < at.width; ++l) m[l] = outcome.status[column(at, l)] == OK ? -1 : 0;
    return m;
  }
  // Parameters and initial states of the columns from `first` on; `more` takes what is held of each W of them.
  template <class More>
  void prepare(const ColumnData &d, const double *effects, long first, long end, More more) {
    from = first;
    count = end - first;
    for (long n = first; n < end; n += W) {
      Lanes at(d.starts, d.subjects, n, end);
      V p[INPUTS + 1], h[HELD + 1], x[STATES], mine[OWN + 1], common[SHARED + 1];
      inputs(d, at, effects, p);
      before(p, h);
      initial(h, x);
      parameters(h, mine, common);
      for (int i = 0; i < STATES; ++i) at.keep(row(start, i), x[i]);
      for (int i = 0; i < OWN; ++i) at.keep(row(own, i), mine[i]);
      for (int i = 0; i < HELD; ++i) at.keep(row(held, i), h[i]);
      if (n == first) for (int i = 0; i < SHARED; ++i) shared[i] = common[i][0];
      more(at, h);
    }
  }
  void load(const Lanes &at, V *h, V *x) {
    for (int i = 0; i < HELD; ++i) h[i] = at.of_column(row(held, i));
    for (int i = 0; i < STATES; ++i) x[i] = at.of_column(row(start, i));
  }
  Problem problem(const ColumnData &d) const {
    return {count, d.stops, d.times, start.data(), d.amounts, d.rates, d.resets, d.last, own.data(), shared.data(),
            d.rtol, d.atol, d.to_scale, d.max_steps, 1, d.subjects, from};
  }
};
