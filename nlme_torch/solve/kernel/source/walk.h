// The adaptive walk: W subjects at a time, each lane with its own time, step size and stop; a lane whose subject
// has finished takes the next one. Needs: D, OWN, SHARED, field(t, y, p, dy), and a tableau S, NODE, A, E, ORDER.
#pragma once
#include "problem.h"

static inline V rms(const V *x) {
  V total = x[0] * x[0];
  for (int i = 1; i < D; ++i) total += x[i] * x[i];
  return vsqrt(total / double(D));
}
static inline V power(V x, double exponent) { return vexp(exponent * vlog(x)); }

struct Walker {
  const Problem &q;
  double *arrivals;
  long *status, *stop_of, *accepted_of, *rejected_of;
  Tape *tape;
  int worker;
  long subject[W], stop[W], last[W], tries[W], accepted[W], rejected[W];
  M active{};
  V t{}, h{}, target{}, previous{}, y[D], k[S][D], rate[D], p[OWN + SHARED + 1];
  std::vector<Step> steps[W];
  bool events;

  Walker(const Problem &problem) : q(problem) {
    events = q.amounts || q.rates || q.resets;
    for (int i = 0; i < D; ++i) y[i] = rate[i] = V{};
    for (auto &row : k) for (auto &entry : row) entry = V{};
    for (int i = 0; i < OWN; ++i) p[i] = V{};
    for (int i = 0; i < SHARED; ++i) p[OWN + i] = all(q.shared[i]);
  }
  void slope(V time, const V *state, V *out) {
    field(time, state, p, out);
    if (q.rates) for (int i = 0; i < D; ++i) out[i] += rate[i];
  }
  double at_stop(const double *values, long stop, int state, long subject) {
    return values[(stop * D + state) * q.subjects + subject];
  }
  void aim(int l) {
    long s = stop[l] < q.stops ? stop[l] : q.stops - 1;
    target[l] = q.times[s * q.subjects + subject[l]];
    if (q.rates) for (int i = 0; i < D; ++i) rate[i][l] = at_stop(q.rates, stop[l] - 1, i, subject[l]);
  }
  void leave(int l, long s) {
    if (s && q.resets && q.resets[s * q.subjects + subject[l]])
      for (int i = 0; i < D; ++i) y[i][l] = q.initial[i * q.subjects + subject[l]];
    if (q.amounts) for (int i = 0; i < D; ++i) y[i][l] += at_stop(q.amounts, s, i, subject[l]);
  }
  void keep(int l, long s) {
    for (int i = 0; i < D; ++i) arrivals[(s * D + i) * q.subjects + subject[l]] = y[i][l];
  }
  void finish(int l, int outcome) {
    long n = subject[l];
    status[n] = outcome; stop_of[n] = stop[l]; accepted_of[n] = accepted[l]; rejected_of[n] = rejected[l];
    if (tape) {
      auto &pool = tape->pools[worker];
      tape->begin[n] = (long)pool.size(); tape->count[n] = (long)steps[l].size(); tape->worker[n] = worker;
      pool.insert(pool.end(), steps[l].begin(), steps[l].end());
    }
    active[l] = 0; h[l] = 0;
  }
  // A first step size from the sizes of state, slope and curvature (Hairer, Norsett, Wanner, II.4).
  void begin(M fresh) {
    V slopes[D], ahead[D], trial_state[D], scaled[D];
    slope(t, y, slopes);
    V length = target - t;
    M still = length <= 0.0;
    length = still ? all(1.0) : length;
    M finite = ~M{};
    for (int i = 0; i < D; ++i) finite &= vabs(slopes[i]) < INF, finite &= vabs(y[i]) < INF;
    V scale[D];
    for (int i = 0; i < D; ++i) scale[i] = q.atol + q.rtol * vabs(y[i]), scaled[i] = y[i] / scale[i];
    V size = rms(scaled);
    for (int i = 0; i < D; ++i) scaled[i] = slopes[i] / scale[i];
    V speed = rms(scaled);
    V trial = (size < 1e-5) | (speed < 1e-5) ? 1e-6 * length : 0.01 * size / speed;
    trial = vmin(trial, length);
    for (int i = 0; i < D; ++i) trial_state[i] = y[i] + trial * slopes[i];
    slope(t + trial, trial_state, ahead);
    for (int i = 0; i < D; ++i) scaled[i] = (ahead[i] - slopes[i]) / scale[i];
    V steepest = vmax(speed, rms(scaled) / trial);
    V step = steepest <= 1e-15 ? vmax(1e-6 * length, 1e-3 * trial) : power(0.01 / steepest, 1.0 / ORDER);
    step = vmin(vmin(100.0 * trial, step), length);
    step = (step > 0.0) & (step < INF) ? step : 1e-3 * trial;
    h = fresh ? step : h;
    previous = fresh ? all(1.0) : previous;
    for (int i = 0; i < D; ++i) k[0][i] = fresh ? slopes[i] : k[0][i];
    LANES if (fresh[l]) {
      if (!finite[l] || !std::isfinite(target[l])) finish(l, INVALID_START);
      else if (last[l] == 0) finish(l, OK);
    }
  }
  // One attempted step of all active lanes; returns the lanes that arrived at their stop.
  void attempt() {
    V remaining = target - t;
    V pieces = vmax(vceil(remaining / h - 0.01), all(1.0));
    V step = active ? remaining / pieces : V{};
    V end = pieces == 1.0 ? target : t + step;
    V inner[D], fresh[D], scaled[D];
    for (int s = 1; s < S; ++s) {
      V *out = s == S - 1 ? fresh : inner;
      for (int i = 0; i < D; ++i) {
        V total = A[s - 1][0] * k[0][i];
        for (int j = 1; j < s; ++j) total += A[s - 1][j] * k[j][i];
        out[i] = y[i] + step * total;
      }
      slope(s == S - 1 ? end : t + NODE[s - 1] * step, out, k[s]);
    }
    for (int i = 0; i < D; ++i) {
      V total = E[0] * k[0][i];
      for (int j = 1; j < S; ++j) total += E[j] * k[j][i];
      scaled[i] = step * total / (vmax(vabs(y[i]), vabs(fresh[i])) * q.rtol + q.atol);
    }
    V error = rms(scaled);
    M finite = error < INF;
    M accept = active & (error <= 1.0), refuse = active & ~accept, arrived = accept & (pieces == 1.0);
    V bounded = vmax(finite ? error : all(1e10), all(1e-10));
    V logarithm = vlog(bounded);
    V grow = 0.9 * vexp((-0.7 / ORDER) * logarithm) * power(previous, 0.4 / ORDER);
    V shrink = vmin(0.9 * vexp((-1.0 / ORDER) * logarithm), all(1.0));
    V factor = vmin(vmax(accept ? grow : shrink, all(0.2)), all(10.0));
    V proposal = step * (finite ? factor : all(0.1));
    proposal = arrived ? vmax(proposal, h) : proposal;
    M stuck = refuse & ((t + proposal <= t) | (proposal < 1e-30 * remaining));
    bool recorded = tape != nullptr;
    LANES if (active[l]) {
      ++(accept[l] ? accepted[l] : rejected[l]);
      tries[l] = arrived[l] ? 0 : tries[l] + 1;
      if (recorded && accept[l]) steps[l].push_back({t[l], step[l], (int)stop[l], (int)(arrived[l] != 0)});
    }
    t = accept ? end : t;
    h = active ? proposal : h;
    previous = accept ? vmax(bounded, all(1e-4)) : previous;
    for (int i = 0; i < D; ++i) {
      y[i] = accept ? fresh[i] : y[i];
      k[0][i] = accept ? k[S - 1][i] : k[0][i];
    }
    bool renewed = false;
    M changed{};
    if (any(arrived)) LANES if (arrived[l]) {
      keep(l, stop[l]);
      if (events) { leave(l, stop[l]); changed[l] = -1; renewed = true; }
      ++stop[l];
      if (stop[l] > last[l]) { finish(l, OK); continue; }
      aim(l);
    }
    LANES if (active[l]) {
      if (stuck[l]) finish(l, finite[l] ? STEP_UNDERFLOW : NONFINITE);
      else if (tries[l] >= q.max_steps) finish(l, MAX_STEPS);
    }
    if (renewed) {
      V slopes[D];
      slope(t, y, slopes);
      for (int i = 0; i < D; ++i) k[0][i] = changed ? slopes[i] : k[0][i];
    }
  }
  void run(long first, long end) {
    long next = first;
    while (true) {
      int idle = 0;
      LANES idle += !active[l];
      if (next < end && idle >= (W + 3) / 4) {
        M fresh{};
        LANES if (!active[l] && next < end) { load(l, next++); fresh[l] = -1; }
        active |= fresh;
        begin(fresh);
        continue;
      }
      if (idle == W) return;
      attempt();
    }
  }
  void load(int l, long n) {
    subject[l] = n; stop[l] = 1; last[l] = q.last[n]; tries[l] = accepted[l] = rejected[l] = 0;
    steps[l].clear();
    t[l] = q.times[n];
    for (int i = 0; i < D; ++i) y[i][l] = q.initial[i * q.subjects + n];
    for (int i = 0; i < OWN; ++i) p[i][l] = q.own[i * q.subjects + n];
    keep(l, 0);
    leave(l, 0);
    aim(l);
  }
};

extern "C" void *walk(const Problem *q, double *arrivals, long *status, long *stop, long *accepted, long *rejected,
                      int record) {
  Tape *tape = nullptr;
  if (record) {
    tape = new Tape;
    tape->begin.resize(q->subjects); tape->count.resize(q->subjects); tape->worker.resize(q->subjects);
    tape->pools.resize(q->threads > 1 ? q->threads : 1);
  }
  in_parallel(q->subjects, q->threads, [=](int worker, long first, long last) {
    auto *walker = new Walker(*q);
    walker->arrivals = arrivals; walker->status = status; walker->stop_of = stop;
    walker->accepted_of = accepted; walker->rejected_of = rejected; walker->tape = tape; walker->worker = worker;
    walker->run(first, last);
    delete walker;
  });
  return tape;
}
extern "C" void release(void *tape) { delete (Tape *)tape; }
extern "C" void slopes(const Problem *q, double *out) {
  for (long first = 0; first < q->subjects; first += W) {
    V t, y[D], p[OWN + SHARED + 1], dy[D];
    LANES {
      long n = first + l < q->subjects ? first + l : q->subjects - 1;
      t[l] = q->times[n];
      for (int i = 0; i < D; ++i) y[i][l] = q->initial[i * q->subjects + n];
      for (int i = 0; i < OWN; ++i) p[i][l] = q->own[i * q->subjects + n];
      for (int i = 0; i < SHARED; ++i) p[OWN + i][l] = q->shared[i];
    }
    field(t, y, p, dy);
    for (int l = 0; l < W && first + l < q->subjects; ++l)
      for (int i = 0; i < D; ++i) out[i * q->subjects + first + l] = dy[i][l];
  }
}
