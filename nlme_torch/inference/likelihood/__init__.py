"""The marginal likelihood of a fitted model: importance sampling, annealed, Laplace, quadrature."""
