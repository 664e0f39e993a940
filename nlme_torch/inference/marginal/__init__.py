"""Approximations of the marginal likelihood that are maximised: FO, FOCE, FOCEI, Laplace, adaptive quadrature."""
