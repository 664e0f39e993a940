// What Python hands over, and the record of accepted steps. All arrays are contiguous, subject last.
#pragma once
#include <thread>
#include <vector>
#include "lanes.h"

struct Problem {
  long subjects, stops;
  const double *times;             // (stop, row)
  const double *initial;           // (state, subject)
  const double *amounts, *rates;   // (stop, state, row) or null
  const unsigned char *resets;     // (stop, row) or null
  const long *last;                // (row) index of the last stop
  const double *own, *shared;      // (parameter, subject) and (parameter)
  double rtol, atol;
  long to_scale;                   // whether atol is that of states that reach 1, to be adapted to smaller ones
  long max_steps, threads;
  long rows, offset;               // subject n reads times, amounts, rates, resets and last of row (n + offset) % rows
  long row(long n) const { return rows == subjects && !offset ? n : (n + offset) % rows; }
};
enum Status { OK = 0, INVALID_START = 1, NONFINITE = 2, STEP_UNDERFLOW = 3, MAX_STEPS = 4 };

// An accepted step towards `stop`; whether it arrived there, and by which of the methods.
struct Step { double time, size; int stop; short arrived, implicit; };
struct Tape {
  std::vector<long> begin, count;          // per subject, in the pool of its worker
  std::vector<int> worker;
  std::vector<std::vector<Step>> pools;
  const Step *of(long subject) const { return pools[worker[subject]].data() + begin[subject]; }
};

// Calls body(worker, first, last) for a partition of the subjects that does not depend on the machine's load.
template <class Body> void in_parallel(long subjects, long threads, Body body) {
  if (threads > subjects / (4 * W)) threads = subjects / (4 * W);
  if (threads < 2) { FlushSubnormals flush; body(0, 0L, subjects); return; }
  std::vector<std::thread> team;
  for (long w = 0; w < threads; ++w) {
    long groups = (subjects + W - 1) / W;
    long first = w * groups / threads * W, last = w + 1 == threads ? subjects : (w + 1) * groups / threads * W;
    team.emplace_back([=] { FlushSubnormals flush; body((int)w, first, last); });
  }
  for (auto &member : team) member.join();
}
