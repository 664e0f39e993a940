// The walk: W subjects at a time, each lane with its own time, step size, stop and method; a lane whose subject has
// finished takes the next one. With FIXED, `max_steps` equal steps lead from stop to stop and every finite one counts.
#pragma once
#include "records.h"
#include "steps.h"

static inline V rms(const V *x) {
  V total = x[0] * x[0];
  for (int i = 1; i < JUDGED; ++i) total += x[i] * x[i];
  return vsqrt(total / double(JUDGED));
}
static inline V power(V x, double exponent) { return vexp(exponent * vlog(x)); }

struct Counts { long *status, *stop, *accepted, *rejected, *evaluations, *switches; };

struct Walker {
  const Problem &q;
  Counts out;
  double *arrivals;
  Tape *tape;
  int worker;
  long subject[W], stop[W], last[W], tries[W], accepted[W], rejected[W], evaluations[W], switches[W], streak[W];
  M active{}, stiff{}, again{};
  V t{}, h{}, target{}, previous{}, y[D], slope[D], rate[D], p[OWN + SHARED + 1];
  std::vector<Step> steps[W];
  Field f{p, rate};
  bool events;
  // Absolute tolerances of the present walk and the one before it, and the largest value of each state at stops.
  V tolerance[D], before[D], peak[D];
  long limit[W], walks[W];
  bool final[W];

  Walker(const Problem &problem) : q(problem) {
    events = q.amounts || q.rates || q.resets;
    for (int i = 0; i < D; ++i) y[i] = rate[i] = slope[i] = peak[i] = tolerance[i] = before[i] = V{};
    for (int i = 0; i < OWN; ++i) p[i] = V{};
    for (int i = 0; i < SHARED; ++i) p[OWN + i] = all(q.shared[i]);
  }
  double at_stop(const double *values, long stop, int state, long subject) {
    return values[(stop * D + state) * q.rows + q.row(subject)];
  }
  void aim(int l) {
    long s = stop[l] < q.stops ? stop[l] : q.stops - 1;
    target[l] = q.times[s * q.rows + q.row(subject[l])];
    if (q.rates) for (int i = 0; i < D; ++i) rate[i][l] = at_stop(q.rates, stop[l] - 1, i, subject[l]);
  }
  void leave(int l, long s) {
    if (s && q.resets && q.resets[s * q.rows + q.row(subject[l])])
      for (int i = 0; i < D; ++i) y[i][l] = q.initial[i * q.subjects + subject[l]];
    if (q.amounts) for (int i = 0; i < D; ++i) y[i][l] += at_stop(q.amounts, s, i, subject[l]);
  }
  void keep(int l, long s) {
    for (int i = 0; i < D; ++i) arrivals[(s * D + i) * q.subjects + subject[l]] = y[i][l];
  }
  void load(int l, long n) {
    subject[l] = n; last[l] = q.last[q.row(n)];
    limit[l] = q.max_steps; walks[l] = 0; final[l] = !q.to_scale;
    double coarsest = q.to_scale ? first_tolerance(n, last[l]) : q.atol;
    for (int i = 0; i < D; ++i) tolerance[i][l] = coarsest;
    for (int i = 0; i < OWN; ++i) p[i][l] = q.own[i * q.subjects + n];
    start(l);
  }
  // See scale.py, which says the same for tensor operations.
  double first_tolerance(long n, long last) {
    double most = 0;
    for (long s = 0; s <= last && s < q.stops; ++s)
      for (int i = 0; i < JUDGED; ++i) {
        if (q.amounts) most = std::fmax(most, std::fabs(at_stop(q.amounts, s, i, n)));
        if (q.rates && s < last) {
          double length = q.times[(s + 1) * q.rows + q.row(n)] - q.times[s * q.rows + q.row(n)];
          most = std::fmax(most, std::fabs(at_stop(q.rates, s, i, n)) * length);
        }
      }
    for (int i = 0; i < JUDGED; ++i) most = std::fmax(most, std::fabs(q.initial[i * q.subjects + n]));
    if (!(most > 0 && most < INF)) return q.atol;
    return std::fmax(q.atol * std::fmin(most, 1.0), 1e-290);
  }
  void note(int l) { for (int i = 0; i < D; ++i) peak[i][l] = std::fmax(peak[i][l], std::fabs(y[i][l])); }
  // Whether the walk is done again, with tolerances for states that turned out small or, where it failed, with coarser.
  bool reconsider_tolerance(int l, int outcome) {
    if (final[l]) return false;
    if (outcome != OK) {
      if (!walks[l]) return false;
      for (int i = 0; i < D; ++i) tolerance[i][l] = before[i][l];
      final[l] = true;
      limit[l] = q.max_steps;
    } else {
      double most = 0;
      bool finer = false;
      for (int i = 0; i < JUDGED; ++i) most = std::fmax(most, peak[i][l]);
      for (int i = 0; i < D; ++i) {
        double reached = peak[i][l];
        before[i][l] = tolerance[i][l];
        if (i >= JUDGED || !(reached > 1e-15 * most && tolerance[i][l] > 10.0 * q.rtol * reached)) continue;
        tolerance[i][l] = std::fmax(q.atol * reached, 1e-290);
        finer = true;
      }
      if (!finer || walks[l] == 5) return false;
      ++walks[l];
      long most_steps = 100 + 20 * (accepted[l] + rejected[l]);
      limit[l] = most_steps < q.max_steps - 1 ? most_steps : q.max_steps - 1;
    }
    start(l);
    again[l] = -1;
    return true;
  }
  void start(int l) {
    long n = subject[l];
    stop[l] = 1;
    tries[l] = accepted[l] = rejected[l] = switches[l] = streak[l] = 0;
    evaluations[l] = FIXED ? 1 : 2;
    stiff[l] = EXPLICIT ? 0 : -1;
    steps[l].clear();
    t[l] = q.times[q.row(n)];
    for (int i = 0; i < D; ++i) { y[i][l] = q.initial[i * q.subjects + n]; peak[i][l] = 0; }
    keep(l, 0);
    if (!final[l]) note(l);
    leave(l, 0);
    if (!final[l]) note(l);
    aim(l);
  }
  void finish(int l, int outcome) {
    if (reconsider_tolerance(l, outcome)) return;
    long n = subject[l];
    out.status[n] = outcome; out.stop[n] = stop[l]; out.accepted[n] = accepted[l]; out.rejected[n] = rejected[l];
    out.evaluations[n] = evaluations[l]; out.switches[n] = switches[l];
    if (tape) {
      auto &pool = tape->pools[worker];
      tape->begin[n] = (long)pool.size(); tape->count[n] = (long)steps[l].size(); tape->worker[n] = worker;
      pool.insert(pool.end(), steps[l].begin(), steps[l].end());
    }
    active[l] = 0; h[l] = 0;
  }
  // A first step size from the sizes of state, slope and curvature (Hairer, Norsett, Wanner, II.4).
  void begin(M fresh) {
    V slopes[D];
    f(t, y, slopes);
    M finite = ~M{};
    for (int i = 0; i < D; ++i) {
      finite &= vabs(slopes[i]) < INF;
      finite &= vabs(y[i]) < INF;
    }
#if !FIXED
    V ahead[D], trial_state[D], scaled[D], scale[D];
    V length = target - t;
    length = length <= 0.0 ? all(1.0) : length;
    for (int i = 0; i < D; ++i) {
      scale[i] = tolerance[i] + q.rtol * vabs(y[i]);
      scaled[i] = y[i] / scale[i];
    }
    V size = rms(scaled);
    for (int i = 0; i < D; ++i) scaled[i] = slopes[i] / scale[i];
    V speed = rms(scaled);
    V trial = (size < 1e-5) | (speed < 1e-5) ? 1e-6 * length : 0.01 * size / speed;
    trial = vmin(trial, length);
    for (int i = 0; i < D; ++i) trial_state[i] = y[i] + trial * slopes[i];
    f(t + trial, trial_state, ahead);
    for (int i = 0; i < D; ++i) scaled[i] = (ahead[i] - slopes[i]) / scale[i];
    V steepest = vmax(speed, rms(scaled) / trial);
    V step = steepest <= 1e-15 ? vmax(1e-6 * length, 1e-3 * trial) : power(0.01 / steepest, 1.0 / ORDER);
    step = vmin(vmin(100.0 * trial, step), length);
    step = (step > 0.0) & (step < INF) ? step : 1e-3 * trial;
    h = fresh ? step : h;
    previous = fresh ? all(1.0) : previous;
#endif
    for (int i = 0; i < D; ++i) slope[i] = fresh ? slopes[i] : slope[i];
    LANES if (fresh[l]) {
      if (!finite[l] || !std::isfinite(target[l])) finish(l, INVALID_START);
      else if (last[l] == 0) finish(l, OK);
    }
  }
  // New states, their slopes, unscaled errors, and a measure of stiffness: step size times fastest rate.
  void step_all(V step, V end, V *fresh, V *ahead, V *error, V *stiffness) {
#if EXPLICIT
    if (any(active & ~stiff)) {
      V k[ES * D], inner[D];
      [[maybe_unused]] V fastest{};
      for (int i = 0; i < D; ++i) k[i] = slope[i];
      explicit_step(f, t, step, y, k, fresh, inner);
      f(end, fresh, ahead);
#if !FIXED
      for (int i = 0; i < D; ++i) {
        k[(ES - 1) * D + i] = ahead[i];
        V total = E_ERROR[0] * k[i];
        for (int j = 1; j < ES; ++j) total += E_ERROR[j] * k[j * D + i];
        error[i] = step * total;
        V gap = vabs(fresh[i] - inner[i]);
        V ratio = vabs(ahead[i] - k[(ES - 2) * D + i]) / gap;
        fastest = (gap > 1e-13 * vabs(fresh[i])) & (ratio > fastest) ? ratio : fastest;
      }
      *stiffness = step * fastest;
#endif
      LANES if (active[l] && !stiff[l]) evaluations[l] += ES - 1;
    }
#endif
#if IMPLICIT
    if (any(active & stiff)) {
      V k[IS * D], fresh_i[D], ahead_i[D], safe = step > 0.0 ? step : all(1.0), largest = V{};
      Linearised w;
      linearise(f, t, safe, y, &w);
      implicit_step(f, t, safe, y, slope, w, k, fresh_i);
      f(end, fresh_i, ahead_i);
      for (int r = 0; r < D; ++r) {
        V total = V{};
        for (int c = 0; c < D; ++c) total += vabs(w.jacobian[r * D + c]);
        largest = vmax(largest, total);
        fresh[r] = stiff ? fresh_i[r] : fresh[r];
        ahead[r] = stiff ? ahead_i[r] : ahead[r];
        error[r] = stiff ? k[(IS - 1) * D + r] : error[r];
      }
      *stiffness = stiff ? safe * largest : *stiffness;
      LANES if (active[l] && stiff[l]) evaluations[l] += IS + D + 1;
    }
#endif
  }
  // A subject turns stiff when stability, not accuracy, bounds its explicit steps for long; and back when its
  // fastest rate is harmless for long, the longer the more often it has turned.
  void reconsider(int l, double stiffness) {
    bool contrary = stiff[l] ? stiffness < 0.3 * LIMIT : stiffness > 0.7 * LIMIT;
    if (contrary) ++streak[l]; else if (streak[l]) --streak[l];
    if (streak[l] < (stiff[l] ? 5 * switches[l] : 10)) return;
    stiff[l] = stiff[l] ? 0 : -1;
    streak[l] = 0;
    ++switches[l];
  }
  void attempt() {
    V remaining = target - t;
#if FIXED
    V pieces;
    LANES pieces[l] = double(q.max_steps - tries[l]);
#else
    V pieces = vmax(vceil(remaining / h - 0.01), all(1.0));
#endif
    V step = active ? remaining / pieces : V{};
    V end = pieces == 1.0 ? target : t + step;
    V fresh[D], ahead[D], error_of[D], stiffness{};
    [[maybe_unused]] V scaled[D];
    for (int i = 0; i < D; ++i) fresh[i] = ahead[i] = error_of[i] = V{};
    step_all(step, end, fresh, ahead, error_of, &stiffness);
#if FIXED
    V error{};
#else
    for (int i = 0; i < D; ++i)
      scaled[i] = error_of[i] / (vmax(vabs(y[i]), vabs(fresh[i])) * q.rtol + tolerance[i]);
    V error = rms(scaled);
#endif
    M finite = error < INF;
    for (int i = 0; i < D; ++i) finite &= vabs(ahead[i]) < INF;
    M accept = active & finite & (error <= 1.0), refuse = active & ~accept, arrived = accept & (pieces == 1.0);
#if FIXED
    V proposal = h, bounded = previous;
    M stuck = refuse;
#else
    V bounded = vmax(finite ? error : all(1e10), all(1e-10));
    V logarithm = vlog(bounded);
    V grow = 0.9 * vexp((-0.85 / ORDER) * logarithm) * power(previous, 0.2 / ORDER);
    V shrink = vmin(0.9 * vexp((-1.0 / ORDER) * logarithm), all(1.0));
    V factor = vmin(vmax(accept ? grow : shrink, all(0.2)), all(10.0));
    V proposal = step * (finite ? factor : all(0.1));
    proposal = arrived ? vmax(proposal, h) : proposal;
    M stuck = refuse & ((t + proposal <= t) | (proposal < 1e-30 * remaining));
#endif
    LANES if (active[l]) {
      ++(accept[l] ? accepted[l] : rejected[l]);
      tries[l] = arrived[l] ? 0 : tries[l] + 1;
      if (tape && accept[l])
        steps[l].push_back({t[l], step[l], (int)stop[l], (short)(arrived[l] != 0), (short)(stiff[l] != 0)});
      if (EXPLICIT && IMPLICIT && finite[l]) reconsider(l, stiffness[l]);
    }
    t = accept ? end : t;
    h = active ? proposal : h;
    previous = accept ? vmax(bounded, all(1e-4)) : previous;
    for (int i = 0; i < D; ++i) {
      y[i] = accept ? fresh[i] : y[i];
      slope[i] = accept ? ahead[i] : slope[i];
    }
    bool renewed = false;
    M changed{};
    if (any(arrived)) LANES if (arrived[l]) {
      keep(l, stop[l]);
      if (!final[l]) note(l);
      if (events) { leave(l, stop[l]); if (!final[l]) note(l); }
      ++stop[l];
      if (stop[l] > last[l]) { finish(l, OK); continue; }
      aim(l);
      if (events) { changed[l] = -1; renewed = true; ++evaluations[l]; }
    }
    LANES if (active[l]) {
      if (stuck[l]) finish(l, finite[l] ? STEP_UNDERFLOW : NONFINITE);
      else if (tries[l] >= limit[l]) finish(l, MAX_STEPS);
    }
    if (renewed) {
      f(t, y, ahead);
      for (int i = 0; i < D; ++i) slope[i] = changed ? ahead[i] : slope[i];
    }
  }
  void run(long first, long end) {
    long next = first;
    while (true) {
      if (any(again)) {
        M fresh = again;
        again = M{};
        begin(fresh);
        continue;
      }
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
};

extern "C" void *walk(const Problem *q, double *arrivals, const Counts *counts, int record) {
  Tape *tape = nullptr;
  if (record) {
    tape = new Tape;
    tape->begin.resize(q->subjects); tape->count.resize(q->subjects); tape->worker.resize(q->subjects);
    tape->pools.resize(q->threads > 1 ? q->threads : 1);
  }
  in_parallel(q->subjects, q->threads, [=](int worker, long first, long last) {
    auto *walker = new Walker(*q);
    walker->arrivals = arrivals; walker->out = *counts; walker->tape = tape; walker->worker = worker;
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
