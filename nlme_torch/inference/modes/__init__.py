r"""Conditional modes (empirical Bayes estimates): the density to climb, Newton, BFGS, global searches.

Two searches by exact second derivatives are here, because they are asked different things:

* ``newton.inner_modes`` follows one mode for each start and subject from close by, as the inner problem of FOCE and
  Laplace needs at every evaluation: one trial per call, each subject shortening its own step. It minimises
  :math:`g = -\log p(y \mid L z) + \tfrac12 z^\top z`.
* ``conditional_modes.conditional_modes`` climbs from anywhere, through places without derivatives and after a
  quasi-Newton phase, and tries a ladder of dampings and lengths in one call; it returns curvature and what is still
  expected. It maximises :math:`\log p`, of :math:`\eta` or, as ``mode_search`` does, of z.

The convention for effects is said in ``nlme_torch/inference/__init__.py``.
"""
