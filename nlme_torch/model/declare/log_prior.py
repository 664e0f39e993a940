"""The log prior density of a model's parameters."""

from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.raw_parameters import raw_name
from nlme_torch.model.declare.values import ParameterValues
from nlme_torch.model.networks.networks import Network
from nlme_torch.model.networks.random_weights import RandomWeights
from nlme_torch.model.parameters.individual_parameters import IndividualParameter
from nlme_torch.model.parameters.parameters import PopulationParameter


def log_prior(model: Model, values: ParameterValues) -> Float[Tensor, "start"]:
    """Return the log prior density of the estimated parameters, zero where none has a prior.

    Args:
        model: The model.
        values: Raw name to ``(start, *shape)``.
    """
    total = next(iter(values.values())).new_zeros(next(iter(values.values())).shape[0])
    for name, component in model.components.items():
        raw = raw_name(name, component)
        if raw is None:
            continue
        component = component.network if isinstance(component, RandomWeights) else component
        assert isinstance(component, PopulationParameter | IndividualParameter | Network)
        if component.prior is not None and model.get_parameter(raw).requires_grad:
            total = total + component.log_prior(values[raw])
    return total
