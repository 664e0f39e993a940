// One step of the explicit and of the linearly implicit method, and their transposes.
//
// The generated text before this file defines D, OWN, SHARED and field(t, y, p, dy); with EXPLICIT its tableau
// (ES stages, E_NODE, E_A, E_ERROR); with IMPLICIT its tableau (IS stages, I_GAMMA, I_NODE, I_SLANT, I_A, I_C) and
// field_jacobian(t, y, p, J, T); with TRANSPOSED field_vjp and, if IMPLICIT, jacobian_vjp, which add into p_bar.
#pragma once
#include "linear.h"
#if !EXPLICIT
constexpr int ES = 1;
#endif
#if !IMPLICIT
constexpr int IS = 0;
#endif

struct Field {
  const V *p, *rate;
  void operator()(V t, const V *y, V *out) const {
    field(t, y, p, out);
    for (int i = 0; i < D; ++i) out[i] += rate[i];
  }
};

#if EXPLICIT
// The argument of stage s (of the new state for s = ES - 1) from the slopes k of the stages before it.
static inline void explicit_stage(const V *y, const V *k, V h, int s, V *out) {
  for (int i = 0; i < D; ++i) {
    V total = E_A[s - 1][0] * k[i];
    for (int j = 1; j < s; ++j) total += E_A[s - 1][j] * k[j * D + i];
    out[i] = y[i] + h * total;
  }
}
// Fills the slopes of stages 1 .. ES - 2 given that of stage 0; the new state, and the argument of the last of them.
static inline void explicit_step(const Field &f, V t, V h, const V *y, V *k, V *fresh, V *last) {
  for (int s = 1; s < ES - 1; ++s) {
    explicit_stage(y, k, h, s, last);
    f(t + E_NODE[s - 1] * h, last, k + s * D);
  }
  explicit_stage(y, k, h, ES - 1, fresh);
}
#if TRANSPOSED
static inline void explicit_step_vjp(const Field &f, V t, V h, const V *y, const V *k, V *bar, V *p_bar, V *rate_bar,
                                     V *t_bar, V *h_bar) {
  V k_bar[(ES - 1) * D], inner[D], inner_bar[D];
  for (int s = 0; s < ES - 1; ++s) for (int i = 0; i < D; ++i) {
    k_bar[s * D + i] = times(E_A[ES - 2][s] * h, bar[i]);
    *h_bar += times(E_A[ES - 2][s] * k[s * D + i], bar[i]);
  }
  for (int s = ES - 2; s >= 0; --s) {
    V stage_t_bar, node = all(s ? E_NODE[s - 1] : 0.0);
    if (s) explicit_stage(y, k, h, s, inner); else for (int i = 0; i < D; ++i) inner[i] = y[i];
    field_vjp(t + node * h, inner, f.p, k_bar + s * D, &stage_t_bar, inner_bar, p_bar);
    *t_bar += stage_t_bar;
    *h_bar += times(node, stage_t_bar);
    for (int i = 0; i < D; ++i) {
      rate_bar[i] += k_bar[s * D + i];
      bar[i] += inner_bar[i];
      for (int j = 0; j < s; ++j) {
        k_bar[j * D + i] += times(E_A[s - 1][j] * h, inner_bar[i]);
        *h_bar += times(E_A[s - 1][j] * k[j * D + i], inner_bar[i]);
      }
    }
  }
}
#endif
#endif

#if IMPLICIT
struct Linearised { V jacobian[D * D], slant[D]; Factors<D> factors; };
static inline void linearise(const Field &f, V t, V h, const V *y, Linearised *w) {
  field_jacobian(t, y, f.p, w->jacobian, w->slant);
  V diagonal = 1.0 / (I_GAMMA * h);
  for (int r = 0; r < D; ++r) for (int c = 0; c < D; ++c) {
    w->factors.a[r][c] = -w->jacobian[r * D + c];
    if (r == c) w->factors.a[r][c] += diagonal;
  }
  w->factors.factor();
}
static inline void implicit_stage(const V *y, const V *k, int s, V *out) {
  for (int i = 0; i < D; ++i) {
    V total = y[i];
    for (int j = 0; j < s; ++j) total += I_A[s - 1][j] * k[j * D + i];
    out[i] = total;
  }
}
// Fills the increments k of all stages; the last is the error. `slope` is that at the start.
static inline void implicit_step(const Field &f, V t, V h, const V *y, const V *slope, const Linearised &w, V *k,
                                 V *fresh) {
  V inner[D];
  for (int s = 0; s < IS; ++s) {
    V *x = k + s * D;
    if (s) {
      implicit_stage(y, k, s, inner);
      f(t + I_NODE[s] * h, inner, x);
    } else {
      for (int i = 0; i < D; ++i) x[i] = slope[i];
    }
    for (int i = 0; i < D; ++i) {
      V total = V{};
      for (int j = 0; j < s; ++j) total += I_C[s - 1][j] * k[j * D + i];
      x[i] += total / h + h * I_SLANT[s] * w.slant[i];
    }
    w.factors.solve(x);
  }
  for (int i = 0; i < D; ++i) fresh[i] = inner[i] + k[(IS - 1) * D + i];
}
#if TRANSPOSED
// Adds to bar what depends on the state besides the state itself.
static inline void implicit_step_vjp(const Field &f, V t, V h, const V *y, const V *k, const Linearised &w, V *bar,
                                     V *p_bar, V *rate_bar, V *t_bar, V *h_bar) {
  V k_bar[IS * D], inner[D], inner_bar[D], jacobian_bar[D * D], slant_bar[D], start_bar[D];
  for (int i = 0; i < D * D; ++i) jacobian_bar[i] = V{};
  for (int i = 0; i < D; ++i) {
    slant_bar[i] = start_bar[i] = V{};
    for (int s = 0; s < IS - 1; ++s) k_bar[s * D + i] = times(I_A[IS - 2][s], bar[i]);
    k_bar[(IS - 1) * D + i] = bar[i];
  }
  for (int s = IS - 1; s >= 0; --s) {
    V *x = k_bar + s * D;
    w.factors.solve_transposed(x);
    V stage_t_bar;
    if (s) implicit_stage(y, k, s, inner); else for (int i = 0; i < D; ++i) inner[i] = y[i];
    field_vjp(t + I_NODE[s] * h, inner, f.p, x, &stage_t_bar, inner_bar, p_bar);
    *t_bar += stage_t_bar;
    *h_bar += times(I_NODE[s], stage_t_bar);
    for (int i = 0; i < D; ++i) {
      rate_bar[i] += x[i];
      start_bar[i] += inner_bar[i];
      slant_bar[i] += times(h * I_SLANT[s], x[i]);
      V moved = I_SLANT[s] * w.slant[i] + k[s * D + i] / (I_GAMMA * h * h);
      for (int j = 0; j < s; ++j) {
        k_bar[j * D + i] += times(I_A[s - 1][j], inner_bar[i]) + times(I_C[s - 1][j], x[i]) / h;
        moved -= I_C[s - 1][j] * k[j * D + i] / (h * h);
      }
      *h_bar += times(moved, x[i]);
      for (int c = 0; c < D; ++c) jacobian_bar[i * D + c] += times(k[s * D + c], x[i]);
    }
  }
  V stage_t_bar;
  jacobian_vjp(t, y, f.p, jacobian_bar, slant_bar, &stage_t_bar, inner_bar, p_bar);
  *t_bar += stage_t_bar;
  for (int i = 0; i < D; ++i) bar[i] += start_bar[i] + inner_bar[i];
}
#endif
#endif
