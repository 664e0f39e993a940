"""SAEM: stochastic approximation expectation maximisation, its M-steps, its starts and the check of its end."""
