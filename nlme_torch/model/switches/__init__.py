"""Equations that switch in time: where, and what the solver is told."""
