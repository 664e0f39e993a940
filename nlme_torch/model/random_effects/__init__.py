"""Blocks of random effects and the structures of their covariance matrix Omega."""
