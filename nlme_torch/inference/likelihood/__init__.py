"""The marginal likelihood of a fitted model by sampling: importance sampling, annealed importance sampling."""
