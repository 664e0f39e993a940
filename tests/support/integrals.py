"""Integrals of given densities by the library's own quadrature, without a model."""

import math

import torch

from nlme_torch.inference.marginal.quadrature import at_nodes, hermite, log_scale


def by_quadrature(log_joint, centre, factor, nodes, pieces=10**9):
    """Log of the integral of a density over ``(effect, subject)``, ``factor`` as from ``factor_of_precision``."""
    rule = hermite(len(centre), nodes, centre)
    factor, centre = factor.permute(2, 0, 1)[None], centre[:, None]
    parts = [
        at_nodes(lambda z: -log_joint(z.flatten(-2)).unflatten(-1, z.shape[-2:]), centre, factor, piece)
        for piece in rule.split(pieces)
    ]
    # the library's integrand leaves out the constant of the effects' standard normal density
    constant = 0.5 * len(centre) * math.log(2 * math.pi)
    return torch.logsumexp(torch.cat(parts), 0)[0] + log_scale(factor)[0] + constant
