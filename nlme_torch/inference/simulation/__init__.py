"""Simulation from fits: whole populations under any design, with the uncertainty of the estimates."""
