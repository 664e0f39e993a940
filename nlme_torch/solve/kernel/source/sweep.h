// One iteration of the Markov kernels of all columns: independent draws from the prior, from Student's t at the modes,
// component-wise and joint random walks, Hamiltonian trajectories, each accepted or refused column by column, with scales adapted to their
// acceptance row by row (a row is a subject of a start, whose columns are its chains).
#pragma once
#include <chrono>
#include "columns.h"
#include "philox.h"

enum Kernels { PRIOR, LAPLACE, COMPONENT, BLOCK, HAMILTONIAN, KERNELS };
struct Adaptation { double target, gain, floor; long count; };
struct Sweep {
  long effects, columns, starts, subjects, threads;
  unsigned long long key;
  const long *names;                    // (subject) what a subject's random numbers are keyed by
  void (*log_likelihood)(const void *, const double *, double *, long, long);
  void (*gradient)(const void *, const double *, double *, double *, long, long);  // or null
  const void *data;
  const long *reach;                    // (effect) the first entry of a row of L that may not be 0
  const double *factor, *inverse;       // (effect, effect, start) L and its inverse, Omega = L L'
  const double *constant;               // (start) log density of eta at 0
  long repeats[KERNELS];
  const double *centre, *spread;        // (effect, row) and (effect, effect, row) of Student's t at the modes
  double degrees;
  const double *deviations;             // (effect, row) of the component-wise walk
  long group;                           // components that it moves together
  const double *shape;                  // (effect, effect, row) lower triangular, of the joint walk and trajectories
  long leapfrogs;                       // steps of a trajectory
  double jitter;                        // its steps are multiplied by 1 - jitter to 1 + jitter
  double *component, *block, *hamiltonian;  // (effect, row), (row) and (row) logarithms of the adapted scales
  Adaptation of_component, of_block, of_hamiltonian;
  double *position, *value;             // (effect, column) and (column), moved in place
  double acceptance[KERNELS];           // mean probability over all columns at the last step of each kernel
};

struct Sweeper {
  Sweep &s;
  const long rows;
  std::vector<double> proposal, proposed, probability, momentum, slope, slope_there;
  unsigned step = 0;
  long threads;

  Sweeper(Sweep &sweep)
      : s(sweep), rows(sweep.starts * sweep.subjects), proposal(sweep.effects * sweep.columns),
        proposed(sweep.columns), probability(sweep.effects * sweep.columns), threads(1) {}

  Lanes lanes(long n, long last) const { return Lanes(s.starts, s.subjects, n, last); }
  Draws draws(const Lanes &at) const {
    U subject, chain;
    LANES {
      subject[l] = (unsigned)s.names[at.subject[l]];
      long column = l < at.width ? at.first + l : at.first;
      chain[l] = (unsigned)(column / s.subjects);
    }
    return {(unsigned)s.key, (unsigned)(s.key >> 32), subject, chain, step};
  }
  void load(const Lanes &at, const double *from, V *x) const {
    for (long j = 0; j < s.effects; ++j) x[j] = at.of_column(from + j * s.columns);
  }
  void store(const Lanes &at, const V *x) {
    for (long j = 0; j < s.effects; ++j) at.keep(proposal.data() + j * s.columns, x[j]);
  }
  V log_prior(const Lanes &at, const V *x) const {
    V total = at.of_start(s.constant);
    for (long i = 0; i < s.effects; ++i) {
      V z{};
      for (long j = s.reach[i]; j <= i; ++j) z += at.of_start(s.inverse + (i * s.effects + j) * s.starts) * x[j];
      total -= 0.5 * z * z;
    }
    return total;
  }
  // log p(y, eta) of columns whose effects stand in `from`.
  void evaluate(const double *from, double *to, long first, long last) {
    s.log_likelihood(s.data, from, to, first, last);
    std::vector<V> x(s.effects);
    for (long n = first; n < last; n += W) {
      Lanes at = lanes(n, last);
      load(at, from, x.data());
      V total = at.of_column(to) + log_prior(at, x.data());
      at.keep(to, vabs(total) < INF ? total : all(-INF));
    }
  }
  // Judges the proposals; `correction` is what the ratio of densities lacks.
  template <class Correction> void judge(long first, long last, unsigned k, Correction correction) {
    evaluate(proposal.data(), proposed.data(), first, last);
    std::vector<V> x(s.effects), fresh(s.effects);
    for (long n = first; n < last; n += W) {
      Lanes at = lanes(n, last);
      load(at, s.position, x.data());
      load(at, proposal.data(), fresh.data());
      V before = at.of_column(s.value), after = at.of_column(proposed.data());
      V ratio = after - before + correction(at, x.data(), fresh.data());
      ratio = ratio != ratio ? all(-INF) : ratio;
      V chance = vexp(vmin(ratio, V{})), u, v;
      draws(at).uniforms(k, &u, &v);
      M taken = u < chance;
      for (long j = 0; j < s.effects; ++j) at.keep(s.position + j * s.columns, taken ? fresh[j] : x[j]);
      at.keep(s.value, taken ? after : before);
      record(at, chance);
    }
  }
  void record(const Lanes &at, V chance) { at.keep(probability.data(), chance); }
  template <class Body> void everywhere(Body body) {
    in_parallel(s.columns, threads, [&](int, long first, long last) { body(first, last); });
    ++step;
  }
  void prior() {
    everywhere([&](long first, long last) {
      std::vector<V> z(s.effects + 1), x(s.effects);
      for (long n = first; n < last; n += W) {
        Lanes at = lanes(n, last);
        draws(at).fill(1, s.effects, z.data());
        for (long i = 0; i < s.effects; ++i) {
          x[i] = V{};
          for (long j = s.reach[i]; j <= i; ++j) x[i] += at.of_start(s.factor + (i * s.effects + j) * s.starts) * z[j];
        }
        store(at, x.data());
      }
      judge(first, last, 0, [&](const Lanes &at, const V *old, const V *fresh) {
        return log_prior(at, old) - log_prior(at, fresh);
      });
    });
  }
  V log_student(const Lanes &at, const V *x, std::vector<V> &z) const {
    V square{};
    for (long i = 0; i < s.effects; ++i) {
      z[i] = x[i] - at.of_row(s.centre + i * rows);
      for (long j = 0; j < i; ++j) z[i] -= at.of_row(s.spread + (i * s.effects + j) * rows) * z[j];
      z[i] /= at.of_row(s.spread + (i * s.effects + i) * rows);
      square += z[i] * z[i];
    }
    return -0.5 * (s.degrees + s.effects) * vlog1p(square / s.degrees);
  }
  void laplace() {
    const int pairs = (int)(s.degrees / 4);
    everywhere([&](long first, long last) {
      std::vector<V> z(s.effects + 1), x(s.effects);
      for (long n = first; n < last; n += W) {
        Lanes at = lanes(n, last);
        Draws random = draws(at);
        // a chi-square with an even number of degrees of freedom is a sum of exponentials
        V chi{}, u, v;
        for (int k = 0; k < pairs; ++k) {
          random.uniforms(1 + k, &u, &v);
          chi -= 2.0 * (vlog(u) + vlog(v));
        }
        random.fill(1 + pairs, s.effects, z.data());
        V scale = vsqrt(s.degrees / chi);
        for (long i = 0; i < s.effects; ++i) {
          V total{};
          for (long j = 0; j <= i; ++j) total += at.of_row(s.spread + (i * s.effects + j) * rows) * z[j];
          x[i] = at.of_row(s.centre + i * rows) + scale * total;
        }
        store(at, x.data());
      }
      judge(first, last, 0, [&](const Lanes &at, const V *old, const V *fresh) {
        return log_student(at, old, z) - log_student(at, fresh, z);
      });
    });
  }
  // Moves the components in an order of each column's own, `group` at a time.
  void component() {
    const long count = s.effects, groups = (count + s.group - 1) / s.group;
    std::vector<double> chances(count * s.columns), noise(count * s.columns);
    std::vector<int> turn(count * s.columns);
    everywhere([&](long first, long last) {
      std::vector<V> z(count + 1), x(count), order(count + 1);
      for (long n = first; n < last; n += W) {
        Lanes at = lanes(n, last);
        Draws random = draws(at);
        random.fill(1, count, z.data());
        V spare;
        for (long j = 0; j < count; j += 2)
          random.uniforms(1000 + j / 2, &order[j], j + 1 < count ? &order[j + 1] : &spare);
        for (long j = 0; j < count; ++j) {
          V scale = vexp(at.of_row(s.component + j * rows)) * at.of_row(s.deviations + j * rows);
          at.keep(noise.data() + j * s.columns, scale * z[j]);
          for (int l = 0; l < at.width; ++l) {
            int rank = 0;
            for (long i = 0; i < count; ++i) rank += order[i][l] < order[j][l] || (order[i][l] == order[j][l] && i < j);
            turn[j * s.columns + n + l] = (int)(rank / s.group);
          }
        }
      }
      for (long g = 0; g < groups; ++g) {
        for (long n = first; n < last; n += W) {
          Lanes at = lanes(n, last);
          load(at, s.position, x.data());
          for (long j = 0; j < count; ++j)
            for (int l = 0; l < at.width; ++l)
              if (turn[j * s.columns + n + l] == g) x[j][l] += noise[j * s.columns + n + l];
          store(at, x.data());
        }
        judge(first, last, 2000 + (unsigned)g, [](const Lanes &, const V *, const V *) { return V{}; });
        for (long n = first; n < last; ++n)
          for (long j = 0; j < count; ++j)
            if (turn[j * s.columns + n] == g) chances[j * s.columns + n] = probability[n];
      }
    });
    s.acceptance[COMPONENT] = 0;
    for (long j = 0; j < count; ++j)
      s.acceptance[COMPONENT] += adapt(chances.data() + j * s.columns, s.component + j * rows, s.of_component) / count;
    ++s.of_component.count;
  }
  void block() {
    everywhere([&](long first, long last) {
      std::vector<V> z(s.effects + 1), x(s.effects);
      for (long n = first; n < last; n += W) {
        Lanes at = lanes(n, last);
        draws(at).fill(1, s.effects, z.data());
        load(at, s.position, x.data());
        V scale = vexp(at.of_row(s.block));
        for (long i = 0; i < s.effects; ++i) {
          V total{};
          for (long j = 0; j <= i; ++j) total += at.of_row(s.shape + (i * s.effects + j) * rows) * z[j];
          x[i] += scale * total;
        }
        store(at, x.data());
      }
      judge(first, last, 0, [](const Lanes &, const V *, const V *) { return V{}; });
    });
    s.acceptance[BLOCK] = adapt(probability.data(), s.block, s.of_block);
    ++s.of_block.count;
  }
  // log p(y, eta) and its gradient; a gradient that is not finite counts as 0, which keeps trajectories reversible.
  void differentiate(const double *from, double *to, std::vector<double> &turned, long first, long last) {
    s.gradient(s.data, from, to, turned.data(), first, last);
    std::vector<V> x(s.effects), z(s.effects), g(s.effects);
    for (long n = first; n < last; n += W) {
      Lanes at = lanes(n, last);
      load(at, from, x.data());
      load(at, turned.data(), g.data());
      V total = at.of_column(to) + at.of_start(s.constant);
      for (long i = 0; i < s.effects; ++i) {
        z[i] = V{};
        for (long j = s.reach[i]; j <= i; ++j)
          z[i] += at.of_start(s.inverse + (i * s.effects + j) * s.starts) * x[j];
        total -= 0.5 * z[i] * z[i];
      }
      for (long i = 0; i < s.effects; ++i)
        for (long j = s.reach[i]; j <= i; ++j)
          g[j] -= at.of_start(s.inverse + (i * s.effects + j) * s.starts) * z[i];
      M usable = vabs(total) < INF;
      at.keep(to, usable ? total : all(-INF));
      for (long j = 0; j < s.effects; ++j) usable &= vabs(g[j]) < INF;
      for (long j = 0; j < s.effects; ++j) at.keep(turned.data() + j * s.columns, usable ? g[j] : V{});
    }
  }
  void push_momentum(const Lanes &at, V length, const V *g, V *m) const {
    for (long i = 0; i < s.effects; ++i)
      for (long j = 0; j <= i; ++j) m[j] += length * at.of_row(s.shape + (i * s.effects + j) * rows) * g[i];
  }
  V kinetic(const V *m) const {
    V total{};
    for (long j = 0; j < s.effects; ++j) total += 0.5 * m[j] * m[j];
    return total;
  }
  void trajectories() {
    const long count = s.effects;
    std::vector<double> length(s.columns), energy(s.columns);
    everywhere([&](long first, long last) {
      std::vector<V> m(count + 1), x(count), q(count), g(count);
      for (long n = first; n < last; n += W) {
        Lanes at = lanes(n, last);
        Draws random = draws(at);
        V u, v;
        random.uniforms(1, &u, &v);
        random.fill(2, count, m.data());
        at.keep(length.data(), vexp(at.of_row(s.hamiltonian)) * (1.0 + s.jitter * (2.0 * u - 1.0)));
        at.keep(energy.data(), at.of_column(s.value) - kinetic(m.data()));
        at.keep(proposed.data(), at.of_column(s.value));
        for (long j = 0; j < count; ++j) {
          at.keep(momentum.data() + j * s.columns, m[j]);
          at.keep(proposal.data() + j * s.columns, at.of_column(s.position + j * s.columns));
          at.keep(slope_there.data() + j * s.columns, at.of_column(slope.data() + j * s.columns));
        }
      }
      // a column that has left where the density can be evaluated waits at its start, its value being -inf for good
      std::vector<double> reached(s.columns);
      for (long step = 0; step < s.leapfrogs; ++step) {
        for (long n = first; n < last; n += W) {
          Lanes at = lanes(n, last);
          load(at, momentum.data(), m.data());
          load(at, slope_there.data(), g.data());
          load(at, proposal.data(), q.data());
          load(at, s.position, x.data());
          V half = 0.5 * at.of_column(length.data());
          push_momentum(at, half, g.data(), m.data());
          M alive = at.of_column(proposed.data()) > -INF;
          for (long i = 0; i < count; ++i) {
            V moved = q[i];
            for (long j = 0; j <= i; ++j)
              moved += 2.0 * half * at.of_row(s.shape + (i * count + j) * rows) * m[j];
            at.keep(proposal.data() + i * s.columns, alive ? moved : x[i]);
            at.keep(momentum.data() + i * s.columns, m[i]);
          }
        }
        differentiate(proposal.data(), reached.data(), slope_there, first, last);
        for (long n = first; n < last; n += W) {
          Lanes at = lanes(n, last);
          load(at, momentum.data(), m.data());
          load(at, slope_there.data(), g.data());
          push_momentum(at, 0.5 * at.of_column(length.data()), g.data(), m.data());
          for (long j = 0; j < count; ++j) at.keep(momentum.data() + j * s.columns, m[j]);
          M alive = at.of_column(proposed.data()) > -INF;
          at.keep(proposed.data(), alive ? at.of_column(reached.data()) : all(-INF));
        }
      }
      for (long n = first; n < last; n += W) {
        Lanes at = lanes(n, last);
        load(at, momentum.data(), m.data());
        V after = at.of_column(proposed.data()), u, v;
        V ratio = after - kinetic(m.data()) - at.of_column(energy.data());
        ratio = ratio != ratio ? all(-INF) : ratio;
        V chance = vexp(vmin(ratio, V{}));
        draws(at).uniforms(0, &u, &v);
        M taken = u < chance;
        for (long j = 0; j < count; ++j) {
          const long place = j * s.columns;
          V old = at.of_column(s.position + place), turned = at.of_column(slope.data() + place);
          at.keep(s.position + place, taken ? at.of_column(proposal.data() + place) : old);
          at.keep(slope.data() + place, taken ? at.of_column(slope_there.data() + place) : turned);
        }
        at.keep(s.value, taken ? after : at.of_column(s.value));
        record(at, chance);
      }
    });
    s.acceptance[HAMILTONIAN] = adapt(probability.data(), s.hamiltonian, s.of_hamiltonian);
    ++s.of_hamiltonian.count;
  }
  void hamiltonian() {
    for (auto *array : {&momentum, &slope, &slope_there}) array->resize(s.effects * s.columns);
    in_parallel(s.columns, threads, [&](int, long first, long last) {
      differentiate(s.position, s.value, slope, first, last);
    });
    for (long k = 0; k < s.repeats[HAMILTONIAN]; ++k) trajectories();
  }
  // Robbins-Monro steps of the logarithms of scales; the mean probability over all columns.
  double adapt(const double *chances, double *scales, const Adaptation &a) {
    const long chains = s.columns / rows;
    const double gain = std::fmax(a.floor, a.gain * std::pow(double(a.count + 1), -0.6));
    double overall = 0;
    for (long row = 0; row < rows; ++row) {
      double total = 0;
      for (long chain = 0; chain < chains; ++chain) total += chances[chain * rows + row];
      total /= chains;
      overall += total;
      double moved = scales[row] + gain * (total - a.target) / (a.target * (1 - a.target));
      scales[row] = std::fmin(std::fmax(moved, -25.0), 10.0);
    }
    return overall / rows;
  }
  double mean_probability() const {
    double total = 0;
    for (long n = 0; n < s.columns; ++n) total += probability[n];
    return total / s.columns;
  }
  void run() {
    auto begun = std::chrono::steady_clock::now();
    evaluate(s.position, s.value, 0, s.columns);
    std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
    // threads cost about 50 microseconds to start; which number is taken changes no result
    if (took.count() > 5e-4) threads = s.threads;
    for (long k = 0; k < s.repeats[PRIOR]; ++k) prior(), s.acceptance[PRIOR] = mean_probability();
    for (long k = 0; k < s.repeats[LAPLACE]; ++k) laplace(), s.acceptance[LAPLACE] = mean_probability();
    for (long k = 0; k < s.repeats[COMPONENT]; ++k) component();
    for (long k = 0; k < s.repeats[BLOCK]; ++k) block();
    if (s.repeats[HAMILTONIAN]) hamiltonian();
  }
};

extern "C" void sweep(Sweep *s) {
  FlushSubnormals flush;
  Sweeper(*s).run();
}
