"""Outer searches for the maximum: BFGS, L-BFGS, Adam, a trust region, null-space SQP, and what tells a maximum."""
