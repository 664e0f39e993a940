"""Markov chain Monte Carlo: kernels, their composition, proposal distributions, autocorrelation.

Effects are ``(effect, *chain, column)``: a column is a subject of one start, and each is a chain of its own.
"""
