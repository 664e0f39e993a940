"""A model whose individual parameters are shifted by a network of covariates."""

import copy
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nlme_torch.errors import ModelError
from nlme_torch.model.declare.model import Model
from nlme_torch.model.individual.individual import Covariates, Individual
from nlme_torch.model.networks.networks import MLP
from nlme_torch.model.parameters.individual_parameters import IndividualParameter

NETWORK = "covariate_network"


def augmented(model: Model, network: MLP, covariates: Sequence[str], parameters: Sequence[str]) -> Model:
    r"""Return a copy of a model with a network that shifts individual parameters on their transformed scale.

    .. math:: h(\phi_i) = \mu_i + NN(c_i) + \eta_i

    Args:
        model: The model; it is not changed.
        network: Maps the covariates to one shift per parameter; a copy of it becomes ``covariate_network``.
        covariates: Names of the covariates in the order of the network's inputs; constant within subjects.
        parameters: Attribute names of the individual parameters in the order of the network's outputs.

    Raises:
        ModelError: Inputs or outputs do not suit the network, a parameter is no individual one, or the model is
            augmented already.
    """
    components = model.components
    transforms = {}
    for name in parameters:
        parameter = components.get(name)
        if not isinstance(parameter, IndividualParameter):
            raise ModelError(f"augment: {name!r} is no individual parameter of {type(model).__name__}.")
        transforms[name] = parameter.transform
    if (network.n_inputs, network.n_outputs) != (len(covariates), len(parameters)):
        raise ModelError(
            f"augment: {network} must have {len(covariates)} inputs ({', '.join(covariates)}) and {len(parameters)} "
            f"outputs ({', '.join(parameters)})."
        )
    if NETWORK in components:
        raise ModelError(f"{type(model).__name__} has a {NETWORK} already.")
    base = type(model)
    inputs, shifted = tuple(covariates), tuple(parameters)

    def individual(self: Model, p: Individual, cov: Covariates) -> dict[str, Any]:
        """Shift the parameters, then derive what the model derives from them."""
        found = getattr(p, NETWORK)(*(getattr(cov, name) for name in inputs))
        moved = {
            name: transforms[name].forward(transforms[name].inverse(getattr(p, name)) + shift)
            for name, shift in zip(shifted, found if isinstance(found, tuple) else (found,), strict=True)
        }
        return {**moved, **base.individual(self, Individual({**vars(p), **moved}), cov)}

    result = copy.deepcopy(model)
    result.__class__ = types.new_class(
        f"Augmented{base.__name__}", (base,), exec_body=lambda body: body.update(individual=individual)
    )
    nn.Module.__setattr__(result, NETWORK, copy.deepcopy(network).to(next(model.parameters()).device, torch.float64))
    return result
