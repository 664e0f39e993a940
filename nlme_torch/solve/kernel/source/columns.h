// Columns: one subject with one draw of its effects each. Column n is subject n % subjects of start
// (n / subjects) % starts of some chain, so that W neighbours mostly read neighbouring numbers of the data.
#pragma once
#include <vector>
#include "records.h"

struct ColumnData {
  long columns, starts, subjects, records;
  const double *means;             // (effect, start * subject)
  const double *population;        // (reading, start)
  const double *of_subjects;       // (reading, subject)
  const double *of_records;        // (record, reading, subject)
  const unsigned char *observed;   // (pattern, record, subject)
  // Equations: what happens at stops, which is the same for all columns of a subject.
  long stops;
  const double *times;             // (stop, subject)
  const double *amounts, *rates;   // (stop, state, subject) or null
  const unsigned char *resets;     // (stop, subject) or null
  const long *last;                // (subject) index of the last stop
  // The states at a record: those of arriving at a stop, or the initial ones after a reset, and what was added there.
  const long *stop_of;             // (record, subject)
  const double *added;             // (record, state, subject) or null
  const unsigned char *restarted;  // (record, subject) or null
  // Instead of stops, where doses are moved or changed by parameters: the rows themselves, and every dose.
  const double *record_times;          // (record, subject)
  const unsigned char *record_resets;  // (record, subject) or null
  long doses;
  const long *dose_record, *dose_kind, *dose_state, *dose_lagged;                          // (dose, subject)
  const double *dose_time, *dose_amount, *dose_rate, *dose_duration, *dose_limit;          // (dose, subject)
  void *(*walk)(const Problem *, double *, const void *, int);
  double rtol, atol;
  long to_scale, max_steps;
  // Of gradients: the transposed walk, and the end of what a walk has written down.
  void (*replay)(const Problem *, const void *, const long *, const void *, double *, const long *, long);
  void (*release)(void *);
};

// W columns and where their numbers stand.
struct Lanes {
  long first;
  int width;
  long subject[W], start[W], row[W];
  bool neighbours;  // whether rows, and with them subjects, follow one another; they are of one start then
  Lanes(long starts, long subjects, long n, long end) : first(n), width(end - n < W ? (int)(end - n) : W) {
    // one short division: a long one takes as many cycles as a whole draw
    const long rows = starts * subjects;
    long here = n < (1L << 31) ? (long)((unsigned)n % (unsigned)rows) : n % rows, place = here, of = 0;
    if (starts > 1) of = place / subjects, place -= of * subjects;
    LANES {
      row[l] = here; subject[l] = place; start[l] = of;
      if (l + 1 >= width) continue;
      if (++here == rows) here = 0;
      if (++place == subjects) place = 0, of = of + 1 == starts ? 0 : of + 1;
    }
    neighbours = width == W && subject[W - 1] == subject[0] + W - 1;
  }
  V contiguous(const double *from) const {
    V v;
    if (width == W) { std::memcpy(&v, from, sizeof v); return v; }
    LANES v[l] = from[l < width ? l : width - 1];
    return v;
  }
  V of_column(const double *from) const { return contiguous(from + first); }
  V of_row(const double *from) const {
    if (neighbours) return contiguous(from + row[0]);
    V v; LANES v[l] = from[row[l]];
    return v;
  }
  V of_subject(const double *from) const {
    if (neighbours) return contiguous(from + subject[0]);
    V v; LANES v[l] = from[subject[l]];
    return v;
  }
  V of_start(const double *from) const {
    if (neighbours) return all(from[start[0]]);
    V v; LANES v[l] = from[start[l]];
    return v;
  }
  M flags(const unsigned char *from) const {
    M m; LANES m[l] = l < width && from[subject[l]] ? -1 : 0;
    return m;
  }
  void keep(double *to, V v) const {
    if (width == W) std::memcpy(to + first, &v, sizeof v);
    else for (int l = 0; l < width; ++l) to[first + l] = v[l];
  }
};
