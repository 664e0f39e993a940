"""The solvers by name."""
