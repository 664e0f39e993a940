"""Random effects whose variance has fallen to nothing in a fit by an approximate likelihood."""

import torch

from nlme_torch.model.declare.values import ParameterValues
from nlme_torch.model.density.density import Density


def collapsed(density: Density, values: ParameterValues) -> list[str]:
    """Name the random effects whose variance has fallen to nothing."""
    messages = []
    with torch.no_grad():
        conditional = density.at(values)
        for block in density.model.blocks:
            if block.covariance is None or not block.covariance.free():
                continue
            deviations = conditional.cholesky(block.name)[0].square().sum(-1).sqrt()
            messages += [
                f"the standard deviation of {label} is {deviation:.2g}: its variance has fallen to nothing; drop the "
                "random effect"
                for label, deviation in zip(block.labels, deviations.tolist(), strict=True)
                if deviation < 0.01
            ]
    return messages[:5]
