"""Covariates: constant within subjects or varying in time."""
