"""Doses: what a model says of them, which act where, repeated doses at steady state."""
