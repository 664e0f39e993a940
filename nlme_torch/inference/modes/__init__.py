"""Conditional modes (empirical Bayes estimates): the density to climb, Newton, BFGS, global searches."""
